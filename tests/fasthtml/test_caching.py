"""Answers that show a visitor's state: no cache may give them to anybody else, whatever the app says of caching."""

from __future__ import annotations

import logging
from typing import Annotated

import pytest
from fasthtml import common as fh
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from faststate import (
    Component,
    Depends,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
)
from faststate.fasthtml.caching import PersonalAnswers
from tests.support.apps import handler_of, sign_in_routes
from tests.support.client import Page


class Cart(ReactiveState):
    owner: str = "mine"

    @event
    def take(self, owner: str) -> None:
        self.owner = owner


class Panel(ReactiveState):
    n: int = 0


class Draft(ReactiveState):
    n: int = 0


class Account(ReactiveState):
    n: int = 0


class News(ReactiveState):
    n: int = 0


@pytest.fixture
def provider():
    provider = StateProvider(secret_key="k", load_user_by_id=lambda id: UserContext(id, "ada"))
    provider.register_state(Cart)
    provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
    provider.register_state(Draft, StateConfig(scope=StateScope.TEMPORARY))
    provider.register_state(Account, StateConfig(scope=StateScope.USER))
    provider.register_state(News, StateConfig(scope=StateScope.GLOBAL))
    return provider


ANSWERS = {
    "/ft": (Cart, lambda cart: fh.P(cart.signal.owner)),
    "/html": (Cart, lambda cart: fh.Html(fh.Head(), fh.Body(cart.signal.owner))),
    "/json": (Cart, lambda cart: {"owner": cart.owner}),
    "/text": (Cart, lambda cart: cart.owner),
    "/plain": (Cart, lambda cart: PlainTextResponse(cart.owner)),
    "/redirect": (Cart, lambda cart: fh.RedirectResponse(f"/of/{cart.owner}", 303)),
    "/nobody": (Account, lambda account: fh.P("never")),
    "/temporary": (Draft, lambda draft: fh.P(draft.signal.n)),
    "/global": (News, lambda news: fh.P(news.signal.n)),
}


@pytest.fixture
def app(provider):
    app, rt = fast_app(state_provider=provider, secret_key="k", debug=False)
    sign_in_routes(rt, provider)
    for path, (cls, answer) in ANSWERS.items():
        rt(path)(handler_of(cls, answer))

    @rt("/async-ft")
    async def async_ft(cart: Cart):
        return fh.P(cart.signal.owner)

    @rt("/json-response")
    async def json_response(cart: Cart):
        return JSONResponse({"owner": cart.owner})

    @rt("/streaming")
    async def streaming(cart: Cart):
        async def parts():
            yield cart.owner

        return StreamingResponse(parts())

    @rt("/missing")
    def missing(cart: Cart):
        raise fh.HTTPException(404, cart.owner)

    @rt("/broken")
    def broken(cart: Cart):
        raise RuntimeError("broken")

    @rt("/optional")
    def optional(account: Account | None):
        return fh.P("signed in" if account else "nobody")

    @rt("/component")
    def component(panel: Annotated[Panel, Component("left")]):
        return fh.P(panel.signal.n)

    @rt("/depends")
    def depends(cart: Cart = Depends(provider.get_state)):
        return fh.P(cart.owner)

    @rt("/by-hand")
    async def by_hand(request):
        return fh.P((await provider.get_state(Cart, request)).owner)

    @rt("/modified")
    async def modified(request):
        async with provider.modify(Cart, request) as cart:
            cart.owner = "changed"
        return "done"

    @rt("/modified-sync")
    def modified_sync(request):
        with provider.modify(Cart, request) as cart:
            cart.owner = "changed"
        return "done"

    more = fh.APIRouter(prefix="/grouped")

    more("/ft")(handler_of(*ANSWERS["/ft"]))
    more.to_app(app)
    rt("/static")(lambda: fh.P("the same for all"))
    return app


PERSONAL = [
    *ANSWERS, "/async-ft", "/json-response", "/streaming", "/missing", "/broken", "/optional", "/component", "/depends",
    "/by-hand", "/modified", "/modified-sync", "/in/ada", "/out", "/grouped/ft",
]  # fmt: skip


def client_of(app):
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


def directives(response):
    assert len(response.headers.get_list("cache-control")) == 1
    return response.headers["cache-control"].split(", ")


def varies(response):
    return [name.lower() for name in response.headers["vary"].split(", ")]


@pytest.mark.parametrize("path", PERSONAL)
@pytest.mark.parametrize("headers", [{}, {"hx-request": "true"}], ids=["page", "fragment"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_an_answer_that_shows_a_state_is_marked_as_personal_from_the_first_request_on(app, path, headers, method):
    client = client_of(app)
    for _ in range(3):
        answer = client.request(method, path, headers=headers)
        assert directives(answer) == ["private"]
        assert varies(answer).count("cookie") == 1


def test_an_answer_without_a_state_is_the_apps_own_matter(app):
    client = client_of(app)
    client.get("/ft")
    assert "cache-control" not in client.get("/static").headers
    assert "cache-control" not in client.get("/nowhere").headers


def test_events_and_streams_are_never_kept_and_the_librarys_script_is(app, provider):
    page = Page(client_of(app), "/ft")
    answer = page.send("Cart", "take", owner="changed")
    assert answer.headers["cache-control"] == "no-store"


def test_a_state_that_a_beforeware_asks_for_marks_the_answer(provider):
    def guard(cart: Cart): ...

    app, rt = fast_app(state_provider=provider, secret_key="k", before=guard)
    rt("/")(lambda: "for one visitor, perhaps")
    answer = client_of(app).get("/")
    assert directives(answer) == ["private"] and "cookie" in varies(answer)


@pytest.mark.parametrize("parents", ["plain", "provider"])
def test_a_mounted_apps_answers_are_marked(app, parents):
    if parents == "plain":
        outer, _ = fh.fast_app(secret_key="k")
    else:
        outer, _ = fast_app(state_provider=StateProvider(secret_key="k"), secret_key="k")
    outer.mount("/shop", app)
    client = client_of(outer)
    for path in ("/shop/ft", "/shop/broken", "/shop/plain"):
        answer = client.get(path)
        assert directives(answer) == ["private"] and "cookie" in varies(answer)
    assert "cache-control" not in client.get("/shop/static").headers


def test_a_page_of_an_app_below_that_shares_the_provider_is_marked(app, provider):
    inner, rt = fh.fast_app(secret_key="k")
    rt("/")(handler_of(Cart, lambda cart: fh.P(cart.owner)))
    app.mount("/inner", inner)
    answer = client_of(app).get("/inner/")
    assert "mine" in answer.text and directives(answer) == ["private"]


# -- beside what the app says ------------------------------------------------------------------------------------------

SAID = {
    "public": ("private", "public"),
    "public, max-age=60": ("private, max-age=60", "public"),
    "max-age=60": ("private, max-age=60", None),
    "Max-Age=60, MUST-REVALIDATE": ("private, Max-Age=60, MUST-REVALIDATE", None),
    "private": ("private", None),
    "private, max-age=60": ("private, max-age=60", None),
    "no-store": ("private, no-store", None),
    "no-cache, no-store, must-revalidate": ("private, no-cache, no-store, must-revalidate", None),
    "PUBLIC, s-maxage=600, max-age=60": ("private, max-age=60", "PUBLIC, s-maxage=600"),
    'private="set-cookie", max-age=60': ("private, max-age=60", None),
    'no-cache="set-cookie, x-own", public': ('private, no-cache="set-cookie, x-own"', "public"),
    "immutable": ("private, immutable", None),
    "": ("private", None),
    ",,": ("private", None),
}


def app_that_says(headers, provider):
    app, rt = fast_app(state_provider=provider, secret_key="k")

    @rt("/")
    def index(cart: Cart):
        return PlainTextResponse(cart.owner, headers=headers)

    @rt("/headers")
    def by_header(cart: Cart):
        return fh.P(cart.owner), *(fh.HttpHeader(name, value) for name, value in headers.items())

    return app


@pytest.mark.parametrize("path", ["/", "/headers"])
@pytest.mark.parametrize(("said", "becomes", "warned"), [(k, *v) for k, v in SAID.items()])
def test_what_the_app_says_of_caching_is_kept_but_for_sharing(provider, caplog, path, said, becomes, warned):
    client = client_of(app_that_says({"Cache-Control": said}, provider))
    with caplog.at_level(logging.WARNING, "faststate"):
        answers = [client.get(path) for _ in range(3)]
    assert {answer.headers["cache-control"] for answer in answers} == {becomes}
    told = [record.getMessage() for record in caplog.records if "said once" in record.getMessage()]
    assert len(told) == (warned is not None)
    assert all(repr(warned) in message and path in message for message in told)


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("Accept", "Accept, Cookie"),
        ("Accept, Cookie", "Accept, Cookie"),
        ("cookie", "cookie"),
        ("*", "*"),
        ("Accept-Encoding,Accept", "Accept-Encoding, Accept, Cookie"),
    ],
)
def test_what_the_app_says_its_answer_varies_by_is_kept(provider, said, becomes):
    client = client_of(app_that_says({"Vary": said}, provider))
    client.get("/")
    assert client.get("/").headers["vary"] == becomes


def test_what_a_middleware_says_goes_no_further_than_what_the_app_says(provider, caplog):
    class Caching:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def answer(message):
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"Cache-Control", b"public, max-age=60")]
                await send(message)

            await self.app(dict(scope), receive, answer)  # with a scope of its own

    app, rt = fast_app(
        state_provider=provider, secret_key="k",
        middleware=[Middleware(Caching), Middleware(GZipMiddleware, minimum_size=1)],
    )  # fmt: skip

    rt("/")(handler_of(Cart, lambda cart: fh.P(cart.owner)))
    rt("/static")(lambda: fh.P("the same for all"))
    client = client_of(app)
    answer = client.get("/")
    assert answer.headers["cache-control"] == "private, max-age=60"
    assert {"cookie", "accept-encoding"} <= set(varies(answer))
    assert client.get("/static").headers["cache-control"] == "public, max-age=60"


@pytest.mark.parametrize("name", ["CDN-Cache-Control", "Cloudflare-CDN-Cache-Control"])
def test_a_cdn_is_told_the_same(provider, name):
    answer = client_of(app_that_says({name: "public, max-age=600"}, provider)).get("/")
    assert answer.headers[name] == "private, max-age=600"
    answer = client_of(app_that_says({"Surrogate-Control": "max-age=600"}, provider)).get("/")
    assert "surrogate-control" not in answer.headers


@given(
    st.lists(
        st.sampled_from(
            ["public", "private", "no-store", "no-cache", "max-age=5", "s-maxage=9", 'no-cache="a, b"', "x-own"]
        ),
        max_size=6,
    ),
    st.lists(st.sampled_from(["Accept", "cookie", "Cookie", "*", "Origin"]), max_size=4),
)
def test_marking_twice_is_marking_once_and_loses_no_directive(said, names):
    layer = PersonalAnswers(None, StateProvider(secret_key="k"))
    headers = [(b"x-other", b"1"), *((b"cache-control", d.encode()) for d in said)]
    headers += [(b"vary", name.encode()) for name in names]
    once = layer._marked(headers, "/")
    assert dict(layer._marked(once, "/")) == dict(once)
    told = dict(once)[b"cache-control"].decode()
    assert told.split(", ")[0] == "private" and "public" not in told and "s-maxage" not in told
    assert all(d in told for d in said if d not in ("public", "s-maxage=9"))
    assert {name.lower() for name in names} <= {n.lower() for n in dict(once)[b"vary"].decode().split(", ")}
    assert dict(once)[b"x-other"] == b"1"
