"""Dispatch: what a page may ask for, of which state, how often, and what a refusal looks like and leaves behind."""

import asyncio
import json
import threading
from typing import Annotated

import pytest
from fasthtml.common import Li, P, Titled, Ul
from starlette.testclient import TestClient

from faststate import (
    Bound,
    Component,
    ReactiveState,
    Record,
    ServerOnly,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    view,
)
from faststate.auth.tokens import ShownState, TokenSigner
from tests.support.client import BROWSER, Page, browser, message, patched_signals, status

SECRET = "a key of the tests"
USERS = {
    "ann": UserContext("ann", "Ann", roles=["editor", "author"], permissions=["write", "print"]),
    "bob": UserContext("bob", "Bob", roles=["editor"], permissions=["write"]),
    "root": UserContext("root", "Root", roles=["admin"]),
}


class Boom(Exception):
    """An error of the test's own code."""


class Adding(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by

    @event
    async def add_async(self, by: int = 1):
        seen = self.count
        await asyncio.sleep(0)
        self.count = seen + by


class Counter(Adding):
    draft: Bound[str] = ""

    @event
    async def steps(self):
        self.count += 1
        yield P("one", id="out")
        self.count += 1
        yield P("two", id="out")

    @event
    def fail(self):
        self.count = 99
        raise Boom

    @event
    def fail_first(self):
        self.count += 1
        if not trouble.is_set():
            trouble.set()
            raise Boom

    def plain(self):
        self.count = 99


trouble = threading.Event()


class Everywhere(Adding):
    """GLOBAL."""


class Side(Adding):
    """COMPONENT."""


class Note(ReactiveState):
    user_id: str = "ann"
    text: str = ""
    secret: ServerOnly[str] = "hidden"

    @event
    def write(self, text: str):
        self.text = text

    @event(owner_only=True)
    def own(self):
        self.text = "owned"

    @event
    def price(self, product: Annotated["Product", Record("sku")], sku: str):
        product.price += 1
        self.text = sku


class Product(ReactiveState):
    price: int = 0

    @event
    def raise_price(self):
        self.price += 1


class Guarded(ReactiveState):
    done: list[str] = []

    @event(requires_auth=True)
    def signed_in(self):
        self.done.append("signed_in")

    @event(permissions=["write", "print"])
    def writer(self):
        self.done.append("writer")

    @event(roles=["editor", "author"])
    def author(self):
        self.done.append("author")

    @event(owner_only=True)
    def owner(self):
        self.done.append("owner")

    @event
    def anybody(self):
        self.signed_in()  # plain Python, which asks no guards


class Profile(ReactiveState):
    name: str = ""

    @event(owner_only=True)
    def rename(self, name: str):
        self.name = name


class App:
    """An app with one state of each kind, and a page that shows them."""

    def __init__(self, **options):
        self.provider = provider = StateProvider(
            event_burst=10_000,
            max_events_per_session=1_000,
            user_loader=lambda r: USERS.get(r.session.get("who")),
            **options,
        )
        for cls, scope in (
            (Counter, StateScope.SESSION),
            (Everywhere, StateScope.GLOBAL),
            (Side, StateScope.COMPONENT),
            (Note, StateScope.RECORD),
            (Product, StateScope.RECORD),
            (Guarded, StateScope.GLOBAL),
            (Profile, StateScope.USER),
        ):
            provider.register_state(cls, StateConfig(scope=scope))
        self.app, rt = fast_app(state_provider=provider, secret_key=SECRET)

        @rt("/")
        def index(counter: Counter, everywhere: Everywhere, left: Annotated[Side, Component("left")]):
            return Titled("Index", counter.signal.count)

        @rt("/note/{note_id}")
        def note(note: Note):
            return Titled("Note", note.signal.text)

        @rt("/product/{product_id}")
        def product(product: Product):
            return Titled("Product", product.signal.price)

        @rt("/guarded")
        def guarded(guarded: Guarded):
            return Titled("Guarded")

        @rt("/profile")
        def profile(profile: Profile):
            return Titled("Profile", profile.signal.name)

        @rt("/be/{who}")
        def be(who: str, session):
            session["who"] = who
            return "ok"

        @rt("/plain-with/{by}")
        def plain_with(by: int):
            with provider.modify(Everywhere) as everywhere:
                everywhere.count += by
            return "ok"

    def the(self, cls, **ids):
        """The one state of a class, or that of the given ids, as committed; None when there is none."""
        scope = self.provider.state_configs[cls].scope
        if scope in (StateScope.GLOBAL, StateScope.RECORD, StateScope.USER):
            return self.provider.registry.peek(StateIdentifier(scope, cls.__name__, **ids).key)
        (found,) = [e.state for e in self.provider.registry.live.values() if isinstance(e.state, cls)]
        return found


@pytest.fixture
def live():
    return App()


@pytest.fixture
def client(live):
    with TestClient(live.app, raise_server_exceptions=True) as client:
        yield client


@pytest.fixture
def page(client):
    return Page(client)


def another(live):
    """A second browser."""
    return TestClient(live.app)


# -- running -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("add", 1), ("add_async", 1), ("steps", 2)])
def test_a_page_without_a_stream_gets_the_effect_in_the_answer(live, client, name, count):
    response = Page(client).send("Counter", name)
    assert status(response) == 200
    (shown,) = patched_signals(response.text).items()
    assert (shown[0], shown[1]["count"], shown[1]["draft"]) == ("Counter", count, "")
    assert live.the(Counter).count == count


def test_what_an_event_yields_arrives_in_order(client):
    text = Page(client).send("Counter", "steps").text
    assert 0 < text.index("one") < text.index("two")


def test_a_generator_is_one_event_in_the_stats(live, client):
    Page(client).send("Counter", "steps")
    assert live.provider.stats().events == 1


def test_a_form_that_succeeded_is_told_so_and_one_that_failed_is_not(page, live):
    sent = page.send("Counter", "add", form=[("by", "5")], nonce="of-this-form")
    assert (patched_signals(sent.text)["_fs"], live.the(Counter).count) == ({"ok": "of-this-form"}, 5)
    refused = page.send("Counter", "add", form=[("by", "five")], nonce="of-that-form")
    assert (status(refused), "ok" in patched_signals(refused.text)["_fs"]) == (400, False)


def test_arguments_come_from_signals_and_from_the_url(page, live):
    page.send("Counter", "add", signals={"by": 2})
    page.send("Counter", "add", query={"by": "3"})
    assert live.the(Counter).count == 5


def test_a_bound_field_is_set_with_the_event_and_no_other_field_is(page, live):
    assert status(page.send("Counter", "add", bound={"draft": "typed"})) == 200
    assert (live.the(Counter).draft, live.the(Counter).count) == ("typed", 1)
    refused = page.send("Counter", "add", bound={"count": 50})
    assert (status(refused), "'count'" in message(refused)) == (400, True)
    assert live.the(Counter).count == 1


async def test_a_thousand_clicks_at_once_lose_nothing_beside_modify_and_run(live):
    async with browser(live.app) as one, browser(live.app) as two:
        pages = [await Page.open(one), await Page.open(two)]
        provider = live.provider

        async def modify():
            async with provider.modify(Everywhere) as everywhere:
                seen = everywhere.count
                await asyncio.sleep(0)
                everywhere.count = seen + 1

        ways = [
            lambda i: pages[i % 2].send("Everywhere", "add"),
            lambda i: pages[i % 2].send("Everywhere", "add_async"),
            lambda i: modify(),
            lambda i: live.the(Everywhere).add.run(),
        ]
        done = await asyncio.gather(*(ways[i // 2 % 4](i) for i in range(1000)))
    assert {status(response) for response in done if hasattr(response, "headers")} == {200}
    assert live.the(Everywhere).count == 1000


async def test_plain_with_in_sync_handlers_loses_nothing_from_the_first_request_on(live):
    """No state was resolved before, so nothing else has told the provider which loop is the app's."""
    async with asyncio.timeout(30), browser(live.app) as client:
        responses = await asyncio.gather(*(client.get("/plain-with/1") for _ in range(100)))
    assert {response.status_code for response in responses} == {200}
    assert live.the(Everywhere).count == 100


# -- once --------------------------------------------------------------------------------------------------------------


def test_an_event_that_is_delivered_again_runs_once(page, live):
    for _ in range(3):  # the first answer may be lost: each of them says what has changed
        answer = page.send("Counter", "add", nonce="the-same-click")
        assert (status(answer), patched_signals(answer.content)["Counter"]["count"]) == (200, 1)
    assert live.the(Counter).count == 1
    page.send("Counter", "add", nonce="another-click")
    assert live.the(Counter).count == 2
    assert (live.provider.stats().events, live.provider.stats().repeated) == (2, 2)


@pytest.mark.parametrize("name", ["add", "add_async", "steps"])
async def test_deliveries_of_one_event_at_the_same_time_run_once(live, name):
    async with browser(live.app) as client:
        page = await Page.open(client)
        done = await asyncio.gather(*(page.send("Counter", name, nonce="the-same-click") for _ in range(20)))
    assert {status(response) for response in done} == {200}
    assert live.the(Counter).count == (2 if name == "steps" else 1)


def test_the_nonce_of_another_session_does_not_interfere(live, client):
    Page(client).send("Everywhere", "add", nonce="the-same-nonce")
    Page(another(live)).send("Everywhere", "add", nonce="the-same-nonce")
    assert live.the(Everywhere).count == 2


def test_a_failed_event_may_be_tried_again_with_its_nonce(live, client):
    trouble.clear()
    page = Page(client)
    assert status(page.send("Counter", "fail_first", nonce="the-same-click")) == 500
    assert status(page.send("Counter", "fail_first", nonce="the-same-click")) == 200
    assert live.the(Counter).count == 1


@pytest.mark.parametrize("nonce", ["short", "x" * 65, "with space", "semi;colon"])
def test_a_nonce_of_another_form_is_refused(live, client, nonce):
    response = Page(client).send("Counter", "add", nonce=nonce)
    assert (status(response), "nonce" in message(response)) == (400, True)
    assert live.the(Counter).count == 0


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"by": "many"}, "'by'"),
        ({"by": None}, "'by'"),
        ({"by": [1]}, "'by'"),
        ({"count": 99}, "'count'"),
        ({"self": 1}, "'self'"),
    ],
)
def test_arguments_that_do_not_fit_are_400_name_the_argument_and_change_nothing(page, live, client, arguments, named):
    response = client.post(page.url + "event/Counter/add", json={"a": arguments, "w": page.tokens}, headers=BROWSER)
    assert (response.status_code, status(response)) == (200, 400)
    assert named in message(response)
    assert live.the(Counter).count == 0


def test_a_missing_argument_is_400_and_named(live, client):
    page = Page(client, "/note/1")
    response = page.send("Note", "write", instance_id="1")
    assert (status(response), "'text' is missing" in message(response)) == (400, True)


def nested(levels):
    return [] if levels <= 1 else [nested(levels - 1)]


@pytest.mark.parametrize("body", [json.dumps({"a": {"by": nested(40)}}), "[" * 100_000, '{"a":' * 5000])
def test_a_payload_that_is_nested_too_deep_is_400(page, live, client, body):
    response = client.post(page.url + "event/Counter/add", content=body, headers=BROWSER)
    assert (status(response), "deep" in message(response) or "JSON" in message(response)) == (400, True)
    assert live.the(Counter).count == 0


def test_a_payload_that_is_too_large_is_413_with_and_without_its_length_told(live, client):
    page, body = Page(client), json.dumps({"a": {"by": "x" * 300_000}}).encode()
    for content in (body, iter([body[:1000], body[1000:]])):
        response = client.post(page.url + "event/Counter/add", content=content, headers=BROWSER)
        assert (status(response), "262144" in message(response)) == (413, True)
    assert live.the(Counter).count == 0


@pytest.mark.parametrize(
    "body",
    ["", "null", "3", "[]", "{", '{"z": 1}', '{"a": 1}', '{"a": []}', '{"s": "x"}', '{"b": [1]}', '{"i": 4}',
     '{"f": {}}', '{"f": [["a"]]}', '{"f": [[1, 2]]}', '{"w": "x"}', '{"w": {}}', '{"a": {"by": NaN}}',
     b"\xff\xfe"],
)  # fmt: skip
def test_a_payload_of_another_form_is_refused_and_changes_nothing(page, live, client, body):
    response = client.post(page.url + "event/Counter/add", content=body, headers=BROWSER)
    if body == "":  # no payload is an empty one
        assert (status(response), live.the(Counter).count) == (204, 1)
    else:
        assert (response.status_code, status(response)) == (200, 400)
        assert message(response)
        assert live.the(Counter).count == 0


@pytest.mark.parametrize(
    ("state", "name"),
    [("Counter", "nothing"), ("Nothing", "add"), ("Counter", "plain"), ("Counter", "model_dump"), ("Counter", "_fs")],
)
def test_what_is_no_event_is_404(live, client, state, name):
    assert status(Page(client).send(state, name)) == 404
    assert live.the(Counter).count == 0


def test_an_event_that_fails_shows_no_detail_and_changes_nothing(live, client):
    response = Page(client).send("Counter", "fail")
    assert status(response) == 500
    assert "Boom" not in response.text and "Nothing was changed" in message(response)
    assert live.the(Counter).count == 0
    assert live.provider.stats().refused == 1


def test_a_get_runs_nothing(page, live, client):
    for method in ("get", "head", "put", "delete"):
        assert getattr(client, method)(page.url + "event/Counter/add", headers=BROWSER).status_code in (404, 405)
    assert live.the(Counter).count == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"datastar-request": "true", "sec-fetch-site": "cross-site"},
        {"datastar-request": "true", "origin": "https://evil.example"},
        {"datastar-request": "true", "origin": "null"},
    ],
)
def test_an_event_from_another_site_is_a_plain_403(page, live, client, headers):
    response = client.post(page.url + "event/Counter/add", json={"w": page.tokens}, headers=headers)
    assert response.status_code == 403
    assert live.the(Counter).count == 0


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_an_id_runs_only_when_a_token_of_the_page_names_it(page, live):
    assert status(page.send("Side", "add", instance_id="left")) == 200
    assert live.the(Side).count == 1
    for other in ("right", "", None, "left "):
        response = page.send("Side", "add", instance_id=other)
        assert (response.status_code, status(response)) == (403, 403)
    assert live.the(Side).count == 1


def test_the_id_in_the_query_needs_a_token_too(page, live):
    assert status(page.send("Side", "add", query={"_id": "left"})) == 200
    assert page.send("Side", "add", query={"_id": "right"}).status_code == 403
    assert live.the(Side).count == 1


def test_a_record_that_the_page_does_not_show_is_403(live, client):
    page = Page(client, "/note/1")
    assert status(page.send("Note", "write", instance_id="1", text="mine")) == 200
    assert page.send("Note", "write", instance_id="2", text="forged").status_code == 403
    assert page.send("Product", "raise_price", instance_id="1").status_code == 403
    assert live.the(Note, record_id="1").text == "mine"
    assert live.the(Note, record_id="2") is live.the(Product, record_id="1") is None


def test_the_token_of_another_session_reloads_and_changes_nothing(live, client):
    page, victim = Page(client), Page(another(live))
    page.tokens = victim.tokens
    response = page.send("Side", "add", instance_id="left")
    assert (response.status_code, status(response)) == (200, 403)
    assert patched_signals(response.text) == {"_fs": {"go": "#reload"}}
    assert {e.state.count for e in live.provider.registry.live.values() if isinstance(e.state, Side)} == {0}


def test_a_page_of_before_a_login_is_told_to_reload(page, live, client):
    client.get("/be/ann")
    response = page.send("Counter", "add")
    assert (status(response), patched_signals(response.text)) == (403, {"_fs": {"go": "#reload"}})
    assert live.the(Counter).count == 0
    assert status(Page(client).send("Counter", "add")) == 200


def test_a_page_that_is_too_old_is_told_to_reload(page, live, monkeypatch):
    monkeypatch.setattr(live.provider.tokens.signer, "max_age", -1)
    response = page.send("Counter", "add")
    assert (status(response), patched_signals(response.text)) == (403, {"_fs": {"go": "#reload"}})
    assert live.the(Counter).count == 0


def forgeries(token):
    yield token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    yield token[:-20]
    yield "x" + token
    yield TokenSigner(["another key"]).sign("anyone", [ShownState("Side", "right", ())])
    yield from (".", "", None, 7, [token], {"a": token}, "é")


def test_a_forged_token_is_a_plain_403_without_a_body(page, live):
    (genuine,) = page.tokens
    for forged in forgeries(genuine):
        page.tokens = [genuine, forged]
        response = page.send("Counter", "add")
        assert (response.status_code, response.text) == (403, ""), forged
    assert live.the(Counter).count == 0


def test_a_record_taken_by_an_argument_is_changed_together(live, client):
    page = Page(client, "/note/1")
    assert status(page.send("Note", "price", instance_id="1", sku="tea")) == 200
    assert (live.the(Note, record_id="1").text, live.the(Product, record_id="tea").price) == ("tea", 1)


# -- guards ------------------------------------------------------------------------------------------------------------

ALLOWED = {
    "signed_in": {"ann": 200, "bob": 200, "root": 200, "nobody": 401},
    "writer": {"ann": 200, "bob": 403, "root": 200, "nobody": 401},
    "author": {"ann": 200, "bob": 403, "root": 403, "nobody": 401},
    "owner": {"ann": 403, "bob": 403, "root": 403, "nobody": 401},  # a global state is nobody's
    "anybody": {"ann": 200, "bob": 200, "root": 200, "nobody": 200},
}


@pytest.mark.parametrize("who", ["ann", "bob", "root", "nobody"])
@pytest.mark.parametrize("name", ALLOWED)
def test_the_guards_of_an_event(live, client, name, who):
    client.get(f"/be/{who}")
    response = Page(client, "/guarded").send("Guarded", name)
    expected = ALLOWED[name][who]
    shown = (204, 204) if expected == 200 else (200, expected)  # what the event does is not in a signal
    assert (response.status_code, status(response)) == shown
    ran = {"anybody": "signed_in"}.get(name, name)
    assert live.the(Guarded).done == ([ran] if expected == 200 else [])
    assert bool(message(response)) == (expected != 200)


@pytest.mark.parametrize(("who", "expected"), [("ann", 200), ("bob", 403), ("root", 403), ("nobody", 401)])
def test_owner_only_asks_the_state_whose_it_is(live, client, who, expected):
    client.get(f"/be/{who}")
    response = Page(client, "/note/1").send("Note", "own", instance_id="1")
    assert status(response) == expected
    assert live.the(Note, record_id="1").text == ("owned" if expected == 200 else "")
    assert "hidden" not in response.text


def test_a_users_own_state_is_that_users(live, client):
    client.get("/be/bob")
    page = Page(client, "/profile")
    assert status(page.send("Profile", "rename", name="Robert")) == 200
    assert live.the(Profile, user_id="bob").name == "Robert"
    client.get("/be/nobody")
    assert status(page.send("Profile", "rename", name="Nobody")) in (401, 403)
    assert status(Page(client).send("Profile", "rename", name="Nobody")) == 401
    assert live.the(Profile, user_id="bob").name == "Robert"


def test_the_guard_is_asked_before_the_arguments_are_looked_at(client):
    response = Page(client, "/note/1").send("Note", "own", instance_id="1", text=["wrong"])
    assert status(response) == 401


# -- what others do to a page's own answer -----------------------------------------------------------------------------


@pytest.fixture
def mail():
    """An app where an event of one user's inbox writes into another's, and one that writes in a thread."""
    provider = StateProvider(user_loader=lambda request: UserContext(request.headers.get("x-user", "ann")))

    @provider.state(scope=StateScope.USER)
    class Inbox(ReactiveState):
        lines: list[str] = []
        seen: int = 0

        @event
        async def send(self, to: str, line: str):
            async with provider.modify(Inbox, user_id=to) as other:
                other.lines.append(line)

        @event
        def count(self):
            with provider.modify(Total) as total:
                total.count += 1

        @view
        def shown(self):
            return Ul(*map(Li, self.lines))

    @provider.state(scope=StateScope.GLOBAL)
    class Total(ReactiveState):
        count: int = 0

    app, rt = fast_app(state_provider=provider, secret_key="test")

    @rt("/")
    def index(inbox: Inbox, total: Total):
        return inbox.shown(), total.signal.count

    return app


def test_the_answer_to_an_event_never_holds_the_state_of_another_user(mail):
    ann, bob, cat = (TestClient(mail, headers={"x-user": name}) for name in ("ann", "bob", "cat"))
    assert status(Page(cat).send("Inbox", "send", to="bob", line="private")) == 204
    response = Page(ann).send("Inbox", "send", to="bob", line="hello")
    assert status(response) == 204 and not response.content
    assert "private" in bob.get("/").text and "private" not in ann.get("/").text


def test_a_page_without_a_stream_is_told_what_its_event_changed_in_a_thread(mail):
    response = Page(TestClient(mail)).send("Inbox", "count")
    assert patched_signals(response.content)["Total"] == {"count": 1}


@pytest.mark.parametrize("arguments", ["\ud800", ["\udfff"], {"\ud800": 1}])
def test_half_a_character_is_refused_and_breaks_no_page(page, live, client, arguments):
    body = json.dumps({"a": {"by": arguments}, "w": page.tokens}).encode()
    response = client.post(page.url + "event/Counter/add", content=body, headers=BROWSER)
    assert (response.status_code, status(response)) == (200, 400)
    assert "Unicode" in message(response) and client.get("/").status_code == 200
