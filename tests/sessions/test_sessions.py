"""Signing in and out: who a request is of, what becomes of the session's states, what an old cookie is good for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from base64 import b64decode
from typing import Annotated
from uuid import UUID

import pytest
from fasthtml import common as fh
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from faststate import (
    BackendError,
    Component,
    ConfigurationError,
    IdentifierError,
    ReactiveState,
    StateConfig,
    StateIdentifier,
    StateNotFoundError,
    StateProvider,
    StateScope,
    UserContext,
    current_user,
    event,
    fast_app,
    get_current_request,
    get_current_user,
)
from faststate.registry.registry import StateRegistry
from faststate.sessions.caller import USER_ID
from faststate.sessions.config import Ids
from tests.support.asgi import Exchange, http_scope
from tests.support.client import BROWSER, Page, browser, patched_signals, status
from tests.support.requests import request_of
from tests.support.states import provider_of, set_fields
from tests.support.waiting import Clock, eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")

COOKIE = "session_"


class Items(ReactiveState):
    """The field of each kind below."""

    items: list[str] = []

    @event
    def add(self, item: str):
        self.items.append(item)

    @event
    async def add_slowly(self, item: str):
        self.items.append(item)
        for _ in range(3):
            await asyncio.sleep(0)


class Basket(Items):
    """SESSION, keep."""


class Note(Items):
    """COMPONENT, keep."""


class Draft(Items):
    """SESSION, drop."""


class Memo(Items):
    """COMPONENT, drop."""


class Cart(Items):
    """SESSION, to_user."""


class Wish(Items):
    """SESSION, to_user: a second one."""


class Flash(Items):
    """TEMPORARY."""


class Profile(Items):
    """USER."""


class Door(ReactiveState):
    """SESSION, with events that sign in and out; its events are those of the page that shows it."""

    knocks: int = 0

    @event
    async def enter(self, name: str):
        self.knocks += 1
        await provider_of_request().login(get_current_request(), UserContext(name))
        return fh.Redirect("/who")

    @event
    def enter_in_a_thread(self, name: str):
        self.knocks += 1
        provider_of_request().login(get_current_request(), UserContext(name))
        return fh.Redirect("/who")

    @event
    async def leave(self):
        self.knocks += 1
        await provider_of_request().logout(get_current_request())
        return fh.Redirect("/who")

    @event
    def leave_in_a_thread(self):
        self.knocks += 1
        provider_of_request().logout(get_current_request())
        return fh.Redirect("/who")


def provider_of_request() -> StateProvider:
    return get_current_request().app.state.faststate


async def seen(request: HTTPConnection) -> dict:
    """Whom the request is taken for, in both spellings, and what its session holds."""
    user, known = await get_current_user(request), current_user.get()
    return {
        "user": user and user.id,
        "current": known and known.id,
        "session": request.session.get("session_id"),
        "colour": request.session.get("colour"),
    }


def in_a_thread(call):
    """Runs `call` in a thread of its own, which is not one of the server's, and gives what it raised, or None."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


class Site:
    """One app with all kinds of states, and routes that sign in and out in all ways."""

    def __init__(self, *, cart=None, wish=None, app_options=None, **options):
        self.provider = provider = StateProvider(event_burst=100_000, **options)
        provider.register_state(Basket)
        provider.register_state(Note, StateConfig(scope=StateScope.COMPONENT))
        provider.register_state(Draft, StateConfig(on_login="drop"))
        provider.register_state(Memo, StateConfig(scope=StateScope.COMPONENT, on_login="drop"))
        provider.register_state(Cart, StateConfig(on_login="to_user", **(cart or {})))
        provider.register_state(Wish, StateConfig(on_login="to_user", **(wish or {})))
        provider.register_state(Flash, StateConfig(scope=StateScope.TEMPORARY))
        provider.register_state(Profile, StateConfig(scope=StateScope.USER))
        provider.register_state(Door)
        app_options = {"secret_key": "for tests", "pico": False, **(app_options or {})}
        self.app, rt = fast_app(state_provider=provider, **app_options)

        @rt("/")
        def index(basket: Basket, cart: Cart, wish: Wish, draft: Draft, door: Door):
            return fh.Div(" ".join([*basket.items, *cart.items, *wish.items, *draft.items]))

        @rt("/parts")
        def parts(left: Annotated[Note, Component("left")], memo: Annotated[Memo, Component("m")], flash: Flash):
            return fh.Div(" ".join([*left.items, *memo.items, *flash.items]))

        @rt("/notes/{count}")
        async def notes(request: Request, count: int):
            for number in range(count):
                await provider.get_state(Note, request, component_id=f"n{number}")
            return "made"

        @rt("/cart")
        def cart_page(cart: Cart):
            return fh.Div("cart")

        @rt("/profile")
        def profile(profile: Profile):
            return fh.Div(" ".join(profile.items))

        @rt("/who")
        async def who(request: Request):
            return JSONResponse(await seen(request))

        @rt("/paint/{colour}")
        def paint(session, colour: str):
            session["colour"] = colour
            return "painted"

        @rt("/in/{name}")
        async def sign_in(request: Request, name: str):
            await provider.login(request, UserContext(name))
            return JSONResponse(await seen(request))

        @rt("/in-with-cart/{name}")
        async def sign_in_with_cart(request: Request, basket: Basket, cart: Cart, name: str):
            await provider.login(request, UserContext(name))
            return JSONResponse(await seen(request))

        @rt("/in-sync/{name}")
        def sign_in_sync(request: Request, name: str):
            provider.login(request, UserContext(name))
            return JSONResponse(asyncio.run(seen(request)))

        @rt("/in-to-thread/{name}")
        async def sign_in_to_thread(request: Request, name: str):
            await asyncio.to_thread(provider.login, request, UserContext(name))
            return JSONResponse({"user": (await get_current_user(request)).id})

        @rt("/in-own-thread/{name}")
        def sign_in_own_thread(request: Request, name: str):
            if error := in_a_thread(lambda: provider.login(request, UserContext(name))):
                raise error
            return JSONResponse({"user": asyncio.run(seen(request))["user"]})

        @rt("/out")
        async def sign_out(request: Request):
            await provider.logout(request)
            return JSONResponse(await seen(request))

        @rt("/out-sync")
        def sign_out_sync(request: Request):
            provider.logout(request)
            return JSONResponse(asyncio.run(seen(request)))

        @rt("/out-to-thread")
        async def sign_out_to_thread(request: Request):
            await asyncio.to_thread(provider.logout, request)
            return JSONResponse({"user": await get_current_user(request)})

        @rt("/out-own-thread")
        def sign_out_own_thread(request: Request):
            if error := in_a_thread(lambda: provider.logout(request)):
                raise error
            return JSONResponse({"user": asyncio.run(seen(request))["user"]})

    def client(self):
        return TestClient(self.app, follow_redirects=False)

    def peek(self, cls, component_id=None, **ids):
        """The items of a state, or None where there is none in memory."""
        config = self.provider.registrations.config_of(cls)
        found = self.provider.registry.peek(config.identifier(Ids(component_id=component_id, **ids)).key)
        return found and list(found.items)

    def keys(self, session_id):
        return self.provider.registry.keys_of_session(session_id)


def cookie_of(client) -> dict:
    """The session that a client's cookie holds, or {}."""
    found = client.cookies.get(COOKIE)
    return json.loads(b64decode(found.strip('"').partition(".")[0])) if found else {}


def session_of(client) -> str | None:
    return cookie_of(client).get("session_id")


def ok(response) -> bool:
    """True if an event was acknowledged."""
    return response.is_success and "faststate-status" not in response.headers


def put(page, cls, item, **request) -> None:
    """Sends `add` and sees that it was done."""
    response = page.send(cls.__name__, "add", item=item, **request)
    assert ok(response), response.text


async def page_with(client, cls, item, path="/"):
    """Open a page with an async client, and put `item` into a state that it shows."""
    page = await Page.open(client, path)
    assert ok(await page.send(cls.__name__, "add", item=item))
    return page


def who(client):
    """What /who says, without the session's id."""
    return {name: value for name, value in client.get("/who").json().items() if name != "session"}


def ada_has_a_plum(client):
    """Put a plum into the cart of the user ada, and sign out again."""
    client.get("/in/ada")
    put(Page(client), Cart, "plum")
    client.get("/out")


@contextlib.asynccontextmanager
async def visiting(**options):
    """A site with these options, and an async client of it."""
    site = Site(**options)
    async with browser(site.app) as client:
        yield site, client


@contextlib.contextmanager
def visited(*, raises=True, **options):
    """A site with these options, and a client of it; with `raises=False` an error of the app is a 500."""
    site = Site(**options)
    with TestClient(site.app, follow_redirects=False, raise_server_exceptions=raises) as client:
        yield site, client


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def client(site):
    with site.client() as client:
        yield client


# -- signing in and out, wherever it is done ---------------------------------------------------------------------------

WAYS_IN = ["in", "in-sync", "in-to-thread", "in-own-thread"]
WAYS_OUT = ["out", "out-sync", "out-to-thread", "out-own-thread"]


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_sign_in_is_known_in_the_same_request_and_in_the_next(site, client, way):
    client.get("/")
    old = session_of(client)
    assert client.get("/who").json()["user"] is None

    assert client.get(f"/{way}/ada").json()["user"] == "ada"
    assert who(client) == {"user": "ada", "current": "ada", "colour": None}
    assert session_of(client) not in (None, old)
    assert cookie_of(client)[USER_ID] == "ada"
    assert site.provider.sessions.ended.is_ended(old)
    assert not site.provider.sessions.ended.is_ended(session_of(client))


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_sign_out_is_known_in_the_same_request_and_in_the_next(site, client, way):
    client.get("/in/ada")
    client.get("/")
    old = session_of(client)
    assert site.keys(old)

    assert client.get(f"/{way}").json()["user"] is None
    assert session_of(client) is None
    assert client.get("/who").json()["user"] is None
    assert site.provider.sessions.ended.is_ended(old)
    assert site.keys(old) == []


@pytest.mark.parametrize("way", ["in", "in-sync"])
def test_the_context_variable_says_who_has_just_signed_in(client, way):
    assert client.get(f"/{way}/ada").json()["current"] == "ada"


@pytest.mark.parametrize("way", ["out", "out-sync"])
def test_the_context_variable_says_nobody_after_a_sign_out(client, way):
    client.get("/in/ada")
    assert client.get(f"/{way}").json()["current"] is None


@pytest.mark.parametrize("way", ["enter", "enter_in_a_thread"])
def test_an_event_signs_in_and_what_it_changed_is_kept(site, client, way):
    page = Page(client)
    put(page, Basket, "apple")
    old = session_of(client)

    response = page.send("Door", way, name="ada")
    assert ok(response), response.text
    assert patched_signals(response.text)["_fs"]["go"] == "/who"
    new = session_of(client)
    assert new not in (None, old)
    assert client.get("/who").json()["user"] == "ada"
    door = site.provider.registry.peek(StateIdentifier(StateScope.SESSION, "Door", session_id=new).key)
    assert door.knocks == 1
    assert site.peek(Basket, session_id=new) == ["apple"]
    assert site.keys(old) == []


@pytest.mark.parametrize("way", ["leave", "leave_in_a_thread"])
def test_an_event_signs_out_and_its_state_ends(site, client, way):
    client.get("/in/ada")
    page = Page(client)
    old = session_of(client)

    response = page.send("Door", way)
    assert ok(response), response.text
    assert patched_signals(response.text)["_fs"]["go"] == "/who"
    assert session_of(client) is None
    assert client.get("/who").json()["user"] is None
    assert site.keys(old) == []


@pytest.mark.parametrize("way", ["enter", "enter_in_a_thread"])
def test_an_event_repeated_after_its_sign_in_is_answered_with_a_reload(client, way):
    page = Page(client)
    before = dict(client.cookies)
    assert ok(page.send("Door", way, name="ada", nonce="once-and-again"))
    client.cookies.clear()
    client.cookies.update(before)  # the answer was lost, and its cookie with it

    response = page.send("Door", way, name="ada", nonce="once-and-again")
    assert patched_signals(response.text)["_fs"]["go"] == "#reload"
    assert "set-cookie" not in response.headers


def test_someone_without_a_session_can_sign_in(client):
    assert client.get("/in/ada").json()["user"] == "ada"
    assert client.get("/who").json()["user"] == "ada"
    assert session_of(client)


def test_signing_out_without_a_session_does_nothing(site, client):
    response = client.get("/out")
    assert response.json()["user"] is None
    assert "set-cookie" not in response.headers
    assert len(site.provider.sessions.ended.known) == 0


@pytest.mark.parametrize("user_id", [7, "7", UUID(int=7)])
async def test_ids_of_all_kinds_come_back_as_the_same_person(user_id):
    site = Site()

    @site.app.get("/enter")
    async def enter(request: Request):
        await site.provider.login(request, UserContext(user_id))
        return "in"

    async with browser(site.app) as client:
        await client.get("/enter")
        await page_with(client, Profile, "mine", "/profile")
        assert site.peek(Profile, user_id=user_id) == ["mine"]
        await client.get("/")
        basket = session_of(client)
        assert (await client.get("/enter")).status_code == 200  # over itself: the same person
        assert site.peek(Basket, session_id=session_of(client)) == []
        assert session_of(client) != basket


def test_a_page_of_before_the_sign_in_is_told_to_reload(client):
    page = Page(client)
    client.get("/in/ada")
    response = page.send("Basket", "add", item="late")
    assert patched_signals(response.text)["_fs"]["go"] == "#reload"
    assert status(response) == 403


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nobody", [None, "ada", 7, {"user_id": 7}, UserContext])
def test_login_takes_a_user_context_alone(site, nobody):
    request = request_of({})
    with pytest.raises(TypeError, match="UserContext"):
        site.provider.login(request, nobody)
    assert request.session == {}


@pytest.mark.parametrize("user_id", [None, "", True, 1.5, "x" * 600])
async def test_a_user_without_a_proper_id_is_not_signed_in(site, user_id):
    request = request_of({})
    with pytest.raises(IdentifierError):
        await site.provider.login(request, UserContext(user_id))
    assert request.session == {}


async def test_an_app_without_sessions_says_so(site):
    for change in (lambda r: site.provider.login(r, UserContext(1)), site.provider.logout):
        request = Request({"type": "http", "headers": []})
        with pytest.raises(ConfigurationError, match="SessionMiddleware"):
            await change(request)


def test_a_websocket_can_sign_nobody_in_and_can_sign_out(site, client):
    answers = []

    @site.app.ws("/ws")
    async def socket(msg: str, ws):
        try:
            if msg == "in":
                await site.provider.login(ws, UserContext("ada"))
            else:
                await site.provider.logout(ws)
        except IdentifierError as error:
            answers.append(str(error))
        user = await get_current_user(ws)
        answers.append(user and user.id)
        await ws.send_text("done")

    client.get("/")
    with client.websocket_connect("/ws") as ws:
        ws.send_json({"msg": "in"})
        assert ws.receive_text() == "done"
        assert "websocket" in answers[0]
        assert answers[1] is None
    assert not site.provider.sessions.ended.is_ended(session_of(client))
    assert client.get("/who").json()["user"] is None

    client.get("/in/ada")
    with client.websocket_connect("/ws") as ws:
        ws.send_json({"msg": "out"})
        assert ws.receive_text() == "done"
    assert answers[2:] == [None]
    assert client.get("/who").json()["user"] is None  # a websocket takes no cookie away, the server does


async def test_where_the_present_user_cannot_be_loaded_nobody_signs_in():
    broken = []

    def load(user_id):
        if broken:
            raise ConnectionError("the database is gone")
        return UserContext(user_id)

    async with visiting(load_user_by_id=load) as (site, client):
        await client.get("/in/ada")
        page = await Page.open(client)
        assert ok(await page.send("Basket", "add", item="ada's"))
        before, cookie = session_of(client), client.cookies.get(COOKIE)

        broken.append(True)
        response = await client.get("/in/bob")
        assert response.status_code == 503
        assert "set-cookie" not in response.headers
        assert client.cookies.get(COOKIE) == cookie
        assert not site.provider.sessions.ended.is_ended(before)
        assert site.peek(Basket, session_id=before) == ["ada's"]

        broken.clear()
        assert (await client.get("/who")).json()["user"] == "ada"


async def test_a_user_who_signed_in_and_cannot_be_loaded_later_is_a_503_and_not_anonymous():
    def load(user_id):
        raise ConnectionError("the database is gone")

    async with visiting(load_user_by_id=load) as (_, client):
        assert (await client.get("/in/ada")).json()["user"] == "ada"  # the one given, not the one loaded
        assert (await client.get("/who")).status_code == 503


async def test_a_failed_sign_in_leaves_no_user_in_the_context_variable():
    def merge(users, guests):
        raise RuntimeError("no")

    site = Site(cart={"merge": merge})
    found = []

    @site.app.get("/try")
    async def attempt(request: Request):
        with contextlib.suppress(RuntimeError):
            await site.provider.login(request, UserContext("ada"))
        found.append(await seen(request))
        return "tried"

    @site.app.get("/try-sync")
    def attempt_sync(request: Request):
        with contextlib.suppress(RuntimeError):
            site.provider.login(request, UserContext("ada"))
        found.append(asyncio.run(seen(request)))
        return "tried"

    async with browser(site.app) as client:
        await set_fields(site.provider.modify(Cart, user_id="ada"), items=["old"])
        await page_with(client, Cart, "new")
        await client.get("/try")
        await client.get("/try-sync")
    assert [(f["user"], f["current"]) for f in found] == [(None, None)] * 2


# -- what the cookie holds ---------------------------------------------------------------------------------------------


def test_the_session_s_content_stays_for_the_same_person(client):
    client.get("/paint/red")
    client.get("/in/ada")  # nobody becomes somebody
    assert client.get("/who").json()["colour"] == "red"
    client.get("/paint/blue")
    client.get("/in/ada")  # again
    assert client.get("/who").json()["colour"] == "blue"


def test_the_session_s_content_ends_where_another_user_signs_in_over_it(client):
    client.get("/in/ada")
    client.get("/paint/red")
    client.get("/in/bob")
    assert who(client) == {"user": "bob", "current": "bob", "colour": None}
    assert set(cookie_of(client)) == {"session_id", USER_ID}


def test_the_session_s_content_ends_with_a_sign_out(client):
    client.get("/in/ada")
    client.get("/paint/red")
    client.get("/out")
    assert client.get("/who").json()["colour"] is None


def test_another_user_gets_nothing_of_the_first_one_s_session(site, client):
    client.get("/in/ada")
    page, parts = Page(client), Page(client, "/parts")
    put(page, Basket, "basket of ada")
    put(page, Cart, "basket of ada")
    put(page, Draft, "basket of ada")
    put(parts, Note, "basket of ada", instance_id="left")
    old = session_of(client)
    client.get("/in/bob")
    assert "basket of ada" not in client.get("/").text
    assert "basket of ada" not in client.get("/parts").text
    assert site.keys(old) == []
    assert site.peek(Cart, user_id="ada") == ["basket of ada"]
    assert site.peek(Cart, user_id="bob") == []


def test_another_user_gets_nothing_of_one_who_is_not_known_any_more(site):
    gone = set()
    with visited(load_user_by_id=lambda user_id: None if user_id in gone else UserContext(user_id)) as (_, client):
        client.get("/in/ada")
        client.get("/paint/red")
        put(Page(client), Basket, "basket of ada")
        gone.add("ada")  # her account was closed, and her cookie is still here
        assert client.get("/who").json()["user"] is None
        client.get("/in/bob")
        assert "basket of ada" not in client.get("/").text  # "ada" alone may stand in a token by chance
        assert client.get("/who").json()["colour"] is None


# -- keep and drop -----------------------------------------------------------------------------------------------------


def test_states_that_are_kept_go_along_and_those_that_are_dropped_end(site, client):
    page, parts = Page(client), Page(client, "/parts")
    put(page, Basket, "basket")
    put(page, Draft, "draft")
    put(parts, Note, "note", instance_id="left")
    put(parts, Memo, "memo", instance_id="m")
    old = session_of(client)

    client.get("/in/ada")
    new = session_of(client)
    assert site.peek(Basket, session_id=new) == ["basket"]
    assert site.peek(Note, session_id=new, component_id="left") == ["note"]
    assert site.peek(Draft, session_id=new) is None
    assert site.peek(Memo, session_id=new, component_id="m") is None
    assert site.keys(old) == []
    assert "basket" in client.get("/").text
    assert "draft" not in client.get("/").text
    assert "note" in client.get("/parts").text

    after = Page(client)
    put(after, Basket, "more")
    assert site.peek(Basket, session_id=new) == ["basket", "more"]


def test_components_of_many_ids_all_go_along(site, client):
    client.get("/notes/300")
    old = session_of(client)
    for number in range(300):
        assert site.peek(Note, session_id=old, component_id=f"n{number}") == []
        with site.provider.modify(Note, session_id=old, component_id=f"n{number}") as note:
            note.items.append(f"text {number}")
    client.get("/in/ada")
    new = session_of(client)
    kept = [site.peek(Note, session_id=new, component_id=f"n{number}") for number in range(300)]
    assert kept == [[f"text {number}"] for number in range(300)]
    assert site.keys(old) == []
    assert len(site.keys(new)) == 300


def test_temporary_states_end(site, client):
    page = Page(client, "/parts")
    shown = [key for key in site.keys(session_of(client)) if key.startswith("temporary:")]
    assert len(shown) == 1
    client.get("/in/ada")
    assert not [key for key in site.keys(session_of(client)) if key.startswith("temporary:")]
    assert shown[0] not in site.provider.registry
    put(Page(client, "/parts"), Note, "still works", instance_id="left")
    assert status(page.send("Note", "add", item="x", instance_id="left")) == 403


def test_a_user_s_own_states_stay_where_they_are_on_sign_out(site, client):
    client.get("/in/ada")
    put(Page(client), Cart, "kept")
    put(Page(client, "/profile"), Profile, "kept")
    client.get("/out")
    assert client.get("/profile").status_code == 401
    assert "kept" not in client.get("/").text
    client.get("/in/ada")
    assert "kept" in client.get("/").text
    assert "kept" in client.get("/profile").text


def test_the_idle_time_of_a_kept_state_begins_anew(site):
    clock = Clock(0.0)
    with visited(clock=clock) as (site, client):
        put(Page(client), Basket, "apple")
        clock.now += 86_000
        client.get("/in/ada")
        clock.now += 86_000
        assert site.provider.registry.lifetimes.sweep() == 0
        assert site.peek(Basket, session_id=session_of(client)) == ["apple"]
        clock.now += 1_000
        site.provider.registry.lifetimes.sweep()
        assert site.peek(Basket, session_id=session_of(client)) is None


# -- a guest's cart becomes the user's ---------------------------------------------------------------------------------


def test_a_guest_s_cart_becomes_that_of_a_user_who_has_none(site, client):
    put(Page(client), Cart, "apple")
    old = session_of(client)
    client.get("/in/ada")
    assert site.peek(Cart, user_id="ada") == ["apple"]
    assert site.keys(old) == []
    assert "apple" in client.get("/").text
    put(Page(client), Cart, "pear")
    assert site.peek(Cart, user_id="ada") == ["apple", "pear"]


def test_a_user_s_cart_that_nobody_changed_takes_the_guest_s_values(site, client):
    with site.client() as first:
        first.get("/in/ada")
        first.get("/")  # makes the user's cart by showing it
        assert site.peek(Cart, user_id="ada") == []
    put(Page(client), Cart, "apple")
    client.get("/in/ada")
    assert site.peek(Cart, user_id="ada") == ["apple"]
    put(Page(client), Cart, "pear")  # and it can be changed like any other
    assert site.peek(Cart, user_id="ada") == ["apple", "pear"]


def test_a_cart_that_was_only_looked_at_before_the_first_sign_in_counts_as_unchanged(site, client):
    client.get("/")  # an empty guest's cart
    client.get("/in/ada")
    assert site.peek(Cart, user_id="ada") == []
    client.get("/out")

    put(Page(client), Cart, "apple")
    client.get("/in/ada")
    assert site.peek(Cart, user_id="ada") == ["apple"]


def test_a_user_s_cart_that_was_changed_stays_as_it_is(site, client):
    with site.client() as first:
        first.get("/in/ada")
        put(Page(first), Cart, "plum")
    put(Page(client), Cart, "apple")
    old = session_of(client)
    client.get("/in/ada")
    assert site.peek(Cart, user_id="ada") == ["plum"]
    assert site.keys(old) == []


def merge_sync(users, guests):
    users.items.extend(guests.items)


async def merge_async(users, guests):
    items = list(guests.items)
    await asyncio.sleep(0)
    users.items.extend(items)


@pytest.mark.parametrize("merge", [merge_sync, merge_async])
@pytest.mark.parametrize("way", WAYS_IN)
def test_a_merge_hook_brings_both_carts_together(merge, way):
    with visited(cart={"merge": merge}) as (site, client):
        ada_has_a_plum(client)
        put(Page(client), Cart, "apple")
        old = session_of(client)
        client.get(f"/{way}/ada")
        assert site.peek(Cart, user_id="ada") == ["plum", "apple"]
        assert site.keys(old) == []
        assert "plum apple" in client.get("/").text


def test_a_merge_hook_is_not_asked_about_a_cart_that_the_guest_left_alone():
    asked = []
    with visited(cart={"merge": lambda users, guests: asked.append(guests)}) as (site, client):
        ada_has_a_plum(client)
        client.get("/")
        client.get("/in/ada")
    assert asked == []
    assert site.peek(Cart, user_id="ada") == ["plum"]


def test_a_guest_s_state_is_read_only_for_the_merge_hook():
    raised = []

    def merge(users, guests):
        try:
            guests.items.append("x")
        except Exception as error:
            raised.append(type(error).__name__)

    with visited(cart={"merge": merge}) as (_, client):
        ada_has_a_plum(client)
        put(Page(client), Cart, "apple")
        client.get("/in/ada")
    assert raised == ["ReadOnlyStateError"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("way", WAYS_IN)
def test_where_a_merge_fails_nobody_is_signed_in_and_nothing_has_changed(is_async, way):
    def merge(users, guests):
        users.items.append("half done")
        raise RuntimeError("the hook failed")

    async def merge_later(users, guests):
        await asyncio.sleep(0)
        merge(users, guests)

    with visited(raises=False, cart={"merge": merge_later if is_async else merge}) as (site, client):
        ada_has_a_plum(client)
        page = Page(client)
        put(page, Cart, "apple")
        put(page, Basket, "kept")
        put(page, Draft, "kept")
        client.get("/paint/red")
        old, cookie, commits = session_of(client), client.cookies[COOKIE], site.provider.stats().commits

        response = client.get(f"/{way}/ada")
        assert response.status_code == 500
        assert "set-cookie" not in response.headers
        assert client.cookies[COOKIE] == cookie
        assert site.provider.stats().commits == commits
        assert site.peek(Cart, user_id="ada") == ["plum"]
        assert site.peek(Cart, session_id=old) == ["apple"]
        assert site.peek(Basket, session_id=old) == ["kept"]
        assert site.peek(Draft, session_id=old) == ["kept"]
        assert who(client) == {"user": None, "current": None, "colour": "red"}
        put(page, Cart, "pear")  # no lock is held, and the old page lives on
        assert site.peek(Cart, session_id=old) == ["apple", "pear"]
        with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.append("free")
        assert site.peek(Cart, user_id="ada") == ["plum", "free"]


@pytest.mark.parametrize("failing", ["Cart", "Wish"])
def test_several_merges_happen_all_or_none(failing):
    broken = [True]

    def merge(users, guests):
        users.items.extend(guests.items)
        if broken and type(guests).__name__ == failing:
            raise RuntimeError("the hook failed")

    with visited(raises=False, cart={"merge": merge}, wish={"merge": merge}) as (site, client):
        client.get("/in/ada")
        page = Page(client)
        put(page, Cart, "plum")
        put(page, Wish, "boat")
        client.get("/out")
        page = Page(client)
        put(page, Cart, "apple")
        put(page, Wish, "car")
        assert client.get("/in/ada").status_code == 500
        assert site.peek(Cart, user_id="ada") == ["plum"]
        assert site.peek(Wish, user_id="ada") == ["boat"]

        broken.clear()
        client.get("/in/ada")
        assert site.peek(Cart, user_id="ada") == ["plum", "apple"]
        assert site.peek(Wish, user_id="ada") == ["boat", "car"]


def test_a_merge_whose_result_does_not_validate_changes_nothing():
    def merge(users, guests):
        users.items.append(object())

    with visited(raises=False, cart={"merge": merge}) as (site, client):
        ada_has_a_plum(client)
        page = Page(client)
        put(page, Cart, "apple")
        assert client.get("/in/ada").status_code in (400, 500)
        assert client.get("/who").json()["user"] is None
        assert site.peek(Cart, user_id="ada") == ["plum"]
        assert site.peek(Cart, session_id=session_of(client)) == ["apple"]


async def test_a_user_s_cart_in_the_middle_of_an_event_is_merged_into_after_it():
    async with visiting(cart={"merge": merge_sync}) as (site, client):
        await page_with(client, Cart, "apple")
        async with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.append("plum")
            signing = asyncio.create_task(client.get("/in/ada"))
            await eventually(lambda: site.provider.registry.locks.waiting, every=0)
            assert site.peek(Cart, user_id="ada") == []
        assert (await signing).json()["user"] == "ada"
    assert site.peek(Cart, user_id="ada") == ["plum", "apple"]


async def test_a_sign_in_that_waits_too_long_for_the_user_s_cart_changes_nothing():
    async with visiting(cart={"merge": merge_sync}, lock_timeout=0.05) as (site, client):
        await page_with(client, Cart, "apple")
        async with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.append("plum")
            response = await client.get("/in/ada")
        assert response.status_code >= 400
        assert (await client.get("/who")).json()["user"] is None
        assert site.peek(Cart, user_id="ada") == ["plum"]
        assert site.peek(Cart, session_id=session_of(client)) == ["apple"]


# -- sign-ins and what happens at the same time ------------------------------------------------------------------------


def hopping(request):
    """A user loader that lets others run: requests are under way for a while, each for as long as it says."""

    async def load():
        for _ in range(int(request.headers.get("x-hops", 0))):
            await asyncio.sleep(0)
        found = request.session.get(USER_ID)
        return UserContext(found) if found else None

    return load()


@pytest.mark.parametrize(
    ("has", "merge"),
    [("no cart", merge_sync), ("an empty cart", merge_async), ("a cart", merge_sync), ("a cart", merge_async)],
)
async def test_nothing_that_a_guest_adds_while_signing_in_is_acknowledged_and_lost(has, merge):
    site = Site(cart={"merge": merge}, user_loader=hopping)
    if has != "no cart":
        async with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.extend(["plum"] if has == "a cart" else [])
    async with browser(site.app) as client:
        page = await Page.open(client)
        old = dict(client.cookies)

        async def add(number):
            headers = {"cookie": f"{COOKIE}={old[COOKIE]}", "x-hops": str(number % 90)}
            adding = "add_slowly" if number % 3 else "add"
            response = await page.send("Cart", adding, item=f"item {number}", headers=headers)
            if not ok(response):
                return None
            begun.set()
            return f"item {number}"

        begun = asyncio.Event()

        async def sign_in():
            await begun.wait()  # in the middle of them, however fast the machine is
            response = await client.get("/in/ada")
            assert response.json()["user"] == "ada", response.text

        numbers = range(200)
        added = await asyncio.gather(*(add(n) for n in numbers[:100]), sign_in(), *(add(n) for n in numbers[100:]))
        acknowledged = [item for item in added if item]
        items = site.peek(Cart, user_id="ada")
    assert 0 < len(acknowledged) < len(added)  # or the sign-in was not in the middle of them
    assert set(acknowledged) <= set(items)
    assert len(items) == len(set(items))
    assert set(items) <= {f"item {n}" for n in numbers} | {"plum"}  # what was refused may not be in it twice either
    assert ("plum" in items) == (has == "a cart")


@pytest.mark.parametrize("has", ["no cart", "an empty cart", "a cart"])
async def test_the_first_thing_that_a_guest_adds_while_signing_in_is_not_acknowledged_and_lost(has):
    site = Site(cart={"merge": merge_sync})
    if has != "no cart":
        async with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.extend(["plum"] if has == "a cart" else [])
    begun, go_on = asyncio.Event(), asyncio.Event()
    async with browser(site.app) as client:
        page = await Page.open(client)
        session = session_of(client)

        async def first():
            async with site.provider.modify(Cart, session_id=session) as cart:
                cart.items.append("apple")
                begun.set()
                await go_on.wait()

        adding = asyncio.create_task(first())
        await begun.wait()
        signing = asyncio.create_task(client.get("/in/ada"))
        await eventually(lambda: signing.done() or site.provider.registry.locks.waiting, every=0)
        go_on.set()
        assert (await signing).json()["user"] == "ada"
        try:
            await adding
        except StateNotFoundError:
            assert "apple" not in site.peek(Cart, user_id="ada")
        else:
            assert "apple" in site.peek(Cart, user_id="ada")
        assert page.tokens


async def test_a_merge_that_never_comes_to_an_end_of_changes_still_loses_nothing():
    tries = []

    async def merge(users, guests):
        tries.append(None)
        async with site.provider.modify(Cart, session_id=site.guest) as cart:  # always one more
            cart.items.append(f"late {len(tries)}")
            acknowledged.append(f"late {len(tries)}")
        users.items.extend(guests.items)

    acknowledged = []
    async with visiting(cart={"merge": merge}, lock_timeout=1) as (site, client):
        await set_fields(site.provider.modify(Cart, user_id="ada"), items=["plum"])
        await page_with(client, Cart, "apple")
        site.guest = session_of(client)
        response = await client.get("/in/ada")
        signed_in = response.is_success
        found = site.peek(Cart, user_id="ada") if signed_in else site.peek(Cart, session_id=site.guest)
    assert {"apple", *acknowledged[:-1]} <= set(found)
    assert len(tries) < 50


async def test_a_cart_that_is_being_made_for_the_user_does_not_replace_the_guest_s():
    making, go_on = asyncio.Event(), asyncio.Event()

    async def create(identifier):
        if identifier.user_id is not None:
            making.set()
            await go_on.wait()
        return {}

    site = Site(cart={"create": create})
    async with browser(site.app) as guest, browser(site.app) as other:
        page = await Page.open(guest)
        assert ok(await page.send("Cart", "add", item="apple"))
        await other.get("/in/ada")
        showing = asyncio.create_task(other.get("/cart"))
        await making.wait()
        entering = asyncio.create_task(guest.get("/in/ada"))
        await eventually(lambda: "Cart" in str(site.provider.registry._loading), every=0)
        go_on.set()
        await asyncio.gather(showing, entering)
    assert site.peek(Cart, user_id="ada") == ["apple"]


async def test_a_guest_s_cart_is_merged_with_one_that_the_app_has_stored_for_the_user():
    def create(identifier):
        return {"items": ["stored"]} if identifier.user_id is not None else {}

    async with visiting(cart={"merge": merge_sync, "create": create}) as (site, client):
        await page_with(client, Cart, "apple", "/cart")
        await client.get("/in/ada")
        await client.get("/cart")
    assert site.peek(Cart, user_id="ada") == ["stored", "apple"]


async def test_a_state_that_is_being_made_for_an_ended_session_is_nobody_s():
    making, go_on = asyncio.Event(), asyncio.Event()

    async def create(identifier):
        making.set()
        await go_on.wait()
        return {}

    site = Site()
    site.provider.register_state(type("Slow", (Items,), {"__module__": __name__}), StateConfig(create=create))
    async with browser(site.app) as client:
        page = await Page.open(client)
        old = session_of(client)
        adding = asyncio.create_task(page.send("Slow", "add", item="late"))
        await making.wait()
        await client.get("/in/ada")
        go_on.set()
        assert not ok(await adding)
    assert not [key for key in site.keys(old) if getattr(site.provider.registry.peek(key), "items", None)]


async def double_click(client, count, *, together, path="/in/ada"):
    """Signs in `count` times with the cookie of before, as clicks on one page do; the client keeps the last cookie."""
    headers = {"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
    calls = [client.get(path, headers=headers) for _ in range(count)]
    answers = await asyncio.gather(*calls) if together else [await call for call in calls]
    assert [answer.json()["user"] for answer in answers] == ["ada"] * count


@pytest.mark.parametrize("path", ["/in/ada", "/in-sync/ada", "/in-with-cart/ada"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("merge", [None, merge_sync, merge_async])
async def test_a_click_too_many_on_sign_in_keeps_the_cart(path, together, count, merge):
    async with visiting(cart={"merge": merge}) as (site, client):
        page = await guest_and_user_have_carts(site, client, users=merge is not None)
        assert ok(await page.send("Basket", "add", item="basket"))
        await double_click(client, count, together=together, path=path)
        assert (await client.get("/who")).json()["user"] == "ada"
        assert site.peek(Cart, user_id="ada") == (["plum", "apple"] if merge is not None else ["apple"])
        assert site.peek(Basket, session_id=session_of(client)) == ["basket"]
        assert "basket" in (await client.get("/")).text
        live = [key for key in site.provider.registry.live.by_session if not site.provider.sessions.ended.is_ended(key)]
        assert session_of(client) in live


def site_with_a_slow_merge():
    """A site whose merge of carts waits, the event that it has begun, and the event that lets it go on."""
    merging, go_on = asyncio.Event(), asyncio.Event()

    async def merge(users, guests):
        merging.set()
        await go_on.wait()
        users.items.extend(guests.items)

    return Site(cart={"merge": merge}), merging, go_on


async def guest_and_user_have_carts(site, client, *, users=True):
    """Put a plum into the cart of the user ada, and an apple into that of the client, a guest; return the page."""
    if users:
        await set_fields(site.provider.modify(Cart, user_id="ada"), items=["plum"])
    page = await page_with(client, Cart, "apple")
    return page


async def test_a_second_sign_in_during_a_slow_merge_brings_the_cart_over_once():
    site, merging, go_on = site_with_a_slow_merge()
    async with browser(site.app) as client:
        page = await guest_and_user_have_carts(site, client)
        assert ok(await page.send("Basket", "add", item="basket"))
        clicks = asyncio.create_task(double_click(client, 2, together=True))
        await merging.wait()
        await eventually(lambda: site.provider.registry.locks.waiting, every=0)  # the other one waits for the carts
        go_on.set()
        await clicks
        assert site.peek(Cart, user_id="ada") == ["plum", "apple"]
        assert site.peek(Basket, session_id=session_of(client)) == ["basket"]


async def test_a_sign_out_during_a_slow_merge_ends_the_guest_s_states_for_good():
    site, merging, go_on = site_with_a_slow_merge()
    async with browser(site.app) as client:
        await guest_and_user_have_carts(site, client)
        old, headers = session_of(client), {"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        signing = asyncio.create_task(client.get("/in/ada", headers=headers))
        await merging.wait()
        await client.get("/out", headers=headers)
        go_on.set()
        assert (await signing).json()["user"] == "ada"
        assert site.peek(Cart, user_id="ada") == ["plum"]
        assert site.keys(old) == []


async def test_a_click_long_after_or_for_somebody_else_gets_nothing_of_the_first_one():
    clock = Clock(0.0)
    async with visiting(clock=clock) as (site, client):
        await page_with(client, Basket, "basket")
        headers = {"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        await client.get("/in/ada")
        new = session_of(client)

        async with browser(site.app) as thief:
            await thief.get("/in/eve", headers=headers)
            assert "basket" not in (await thief.get("/")).text
        clock.now += 61
        async with browser(site.app) as late:
            await late.get("/in/ada", headers=headers)
            assert "basket" not in (await late.get("/")).text
        assert site.peek(Basket, session_id=new) == ["basket"]
        assert not site.provider.sessions.ended.is_ended(new)


async def test_a_request_under_way_during_a_sign_in_does_not_bring_the_old_cookie_back():
    site = Site()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @site.app.get("/slow")
    async def slow(session):
        session["visits"] = 1
        begun.set()
        await go_on.wait()
        return "slow"

    async with browser(site.app) as client:
        await client.get("/")
        slow_one = asyncio.create_task(client.get("/slow"))
        await begun.wait()
        await client.get("/in/ada")
        new = session_of(client)
        go_on.set()
        response = await slow_one
        assert response.text == "slow"
        assert "set-cookie" not in response.headers
        assert session_of(client) == new
        assert (await client.get("/who")).json()["user"] == "ada"


# -- ended sessions ----------------------------------------------------------------------------------------------------


def test_an_old_cookie_signs_nobody_in_and_its_answer_deletes_no_newer_one(site, client):
    client.get("/in/ada")
    client.get("/paint/red")
    old = client.cookies[COOKIE]
    client.get("/out")
    with site.client() as replayer:
        for path in ("/who", "/out", "/out-sync"):
            replayer.cookies.set(COOKIE, old)
            response = replayer.get(path)
            assert response.json()["user"] is None
            assert "set-cookie" not in response.headers, path
        assert response.json()["colour"] is None
        replayer.cookies.set(COOKIE, old)
        assert replayer.get("/profile").status_code == 401


def test_ended_sessions_are_remembered_as_long_as_a_cookie_is_accepted_and_not_for_ever():
    clock = Clock()
    site = Site(clock=clock, app_options={"max_age": 60})
    assert site.provider.sessions.ended.max_age == 60
    with site.client() as client:
        ended = []
        for _ in range(50):
            client.get("/in/ada")
            client.get("/")
            ended.append(session_of(client))
            client.get("/out")
            clock.now += 1
        assert all(map(site.provider.sessions.ended.is_ended, ended))
        clock.now = 1_000.0 + 60 + 1  # a cookie signed in the last moment is accepted until here
        site.provider.registry.followers.swept()
        assert all(map(site.provider.sessions.ended.is_ended, ended[1:]))
        clock.now += 1_000
        site.provider.registry.followers.swept()
        assert not any(map(site.provider.sessions.ended.is_ended, ended))
        assert len(site.provider.sessions.ended.known) == 0


@pytest.mark.parametrize(("max_age", "expected"), [(60, 60.0), (None, float("inf")), (365 * 86_400, 365 * 86_400.0)])
def test_how_long_is_taken_from_the_app_s_session_middleware(max_age, expected):
    assert Site(app_options={"max_age": max_age}).provider.sessions.ended.max_age == expected


def test_signing_in_and_out_many_times_leaves_nothing_behind(site, client):
    for _ in range(100):
        put(Page(client), Basket, "x")
        Page(client, "/parts")
        client.get("/in/ada")
        Page(client)
        client.get("/out")
    registry = site.provider.registry
    assert registry.live.by_session == {}
    # The user's own states alone: Cart and Wish.
    assert sorted(registry.live) == ["user:Cart:userada", "user:Wish:userada"]
    assert sum(len(keys) for (ttl, _), keys in registry.lifetimes._idle.items() if ttl != math.inf) == 0
    assert site.provider.stats().states == 2


# -- one state per user, and one per guest -----------------------------------------------------------------------------


def test_signed_in_there_is_one_cart_over_all_sessions_and_each_guest_has_another(site):
    with site.client() as laptop, site.client() as phone, site.client() as guest:
        laptop.get("/in/ada")
        phone.get("/in/ada")
        put(Page(laptop), Cart, "apple")
        put(Page(phone), Cart, "pear")
        put(Page(guest), Cart, "guest's")
        assert site.peek(Cart, user_id="ada") == ["apple", "pear"]
        assert site.peek(Cart, session_id=session_of(guest)) == ["guest's"]
        assert "apple pear" in laptop.get("/").text
        assert "apple pear" in phone.get("/").text
        assert site.peek(Cart, session_id=session_of(laptop)) is None

        laptop.get("/out")
        assert "apple pear" in phone.get("/").text
        assert "apple" not in laptop.get("/").text


def test_modify_reaches_the_user_s_cart_by_user_and_the_guest_s_by_session(site, client):
    with site.client() as guest:
        guest.get("/")
        client.get("/in/ada")
        with site.provider.modify(Cart, user_id="ada") as cart:
            cart.items.append("for ada")
        with site.provider.modify(Cart, session_id=session_of(guest)) as cart:
            cart.items.append("for a guest")
        assert "for ada" in client.get("/").text
        assert "for a guest" in guest.get("/").text
        assert site.peek(Cart, user_id="ada") == ["for ada"]
        with pytest.raises(IdentifierError), site.provider.modify(Cart):
            pass


class Stream(Exchange):
    """A page's open stream."""

    def __init__(self, app, client, page):
        payload = json.dumps({"w": page.tokens, "n": page.position}).encode()
        headers = {**BROWSER, "host": "testserver", "cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        super().__init__(app, http_scope("POST", "/_faststate/stream", headers), payload)

    async def opened(self):
        await self.until(lambda stream: b"id: " in stream.body or stream.ended)
        return self

    @property
    def signals(self):
        return patched_signals(self.body)


async def test_a_page_follows_the_guest_s_cart_before_the_sign_in_and_the_user_s_after_it(site):
    async with browser(site.app) as client:
        before = await Page.open(client, "/cart")
        stream = await Stream(site.app, client, before).opened()
        assert site.provider.sse_manager.is_watched(f"session:Cart:{session_of(client)}")
        await client.get("/in/ada")
        await stream.until(lambda s: s.ended)
        assert stream.signals["_fs"]["go"] == "#reload"

        after = await Page.open(client, "/cart")
        stream = await Stream(site.app, client, after).opened()
        assert site.provider.sse_manager.is_watched("user:Cart:userada")
        async with browser(site.app) as phone:
            await phone.get("/in/ada")
            page = await Page.open(phone)
            assert ok(await page.send("Cart", "add", item="from the phone"))
        stats = site.provider.stats()
        assert (stats.connections, stats.subscriptions) == (1, 1)
        await stream.close()
        assert site.provider.stats().connections == 0


async def test_a_stream_that_opens_during_a_sign_out_is_not_left_open():
    async with visiting(user_loader=hopping) as (site, client):
        await client.get("/in/ada")
        page = await Page.open(client, "/profile")
        stream = Stream(site.app, client, page)
        stream.scope["headers"].append((b"x-hops", b"200"))
        signing_out = asyncio.create_task(client.get("/out"))
        await signing_out
        await stream.until(lambda s: s.ended or s.status)
        await stream.until(lambda s: s.ended or b"id: " in s.body)
        async with site.provider.modify(Profile, user_id="ada") as profile:
            profile.items.append("secret")
        assert site.provider.stats().connections == 0
        assert stream.ended
        await stream.close()


async def test_stats_count_no_connection_or_subscription_of_an_ended_session(site):
    async with browser(site.app) as client:
        await client.get("/in/ada")
        streams = [await Stream(site.app, client, await Page.open(client, path)).opened() for path in ("/", "/parts")]
        stats = site.provider.stats()
        assert (stats.connections, stats.subscriptions) == (2, 8)
        await client.get("/out")
        for stream in streams:
            await stream.until(lambda s: s.ended)
        stats = site.provider.stats()
        assert (stats.connections, stats.subscriptions) == (0, 0)
        assert stats.connections_total == 2
        assert stats.states == 2  # the user's Cart and Wish


@pytest.mark.parametrize("change", ["refresh_user", "disconnect_user"])
async def test_a_stream_that_opens_while_rights_change_does_not_keep_the_old_ones(change):
    roles = ["editor"]

    async def load(user_id):
        user = UserContext(user_id, roles=roles)
        for _ in range(100):
            await asyncio.sleep(0)
        return user

    async with visiting(load_user_by_id=load) as (site, client):
        await client.get("/in/ada")
        page = await Page.open(client, "/profile")
        stream = Stream(site.app, client, page)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not stream.status
        roles.clear()
        await getattr(site.provider, change)("ada")
        await stream.opened()
        left = [connection.user.roles for connection in site.provider.sse_manager.connections.values()]
        await stream.close()
    assert left in ([], [[]])


# -- without an app ----------------------------------------------------------------------------------------------------


async def test_a_renamed_state_is_what_it_was_under_another_key():
    registry = StateRegistry()
    old = StateIdentifier(StateScope.SESSION, "Basket", session_id="old")
    new = StateIdentifier(StateScope.SESSION, "Basket", session_id="new")
    entry = await registry.entry(old, Basket, initial={"items": ["apple"]})
    commits = registry.commits
    registry.rename(old.key, new, None)
    assert old.key not in registry
    assert registry.find(new.key) is entry
    assert registry.peek(new.key).items == ["apple"]
    assert registry.peek(new.key)._committed.identifier == new
    assert registry.commits == commits + 1
    assert registry.keys_of_session("old") == []
    assert registry.keys_of_session("new") == [new.key]


async def test_a_request_outside_an_app_can_sign_in_and_out():
    provider = StateProvider()
    request = request_of({})
    await provider.login(request, UserContext(7))
    assert request.session[USER_ID] == 7
    first = request.session["session_id"]
    assert (await get_current_user(request)).id == 7
    await provider.logout(request)
    assert request.session == {}
    assert provider.sessions.ended.is_ended(first)
    assert await get_current_user(request) is None


async def test_a_loader_that_fails_lets_nobody_sign_in():
    def load(request):
        raise ConnectionError("gone")

    provider = StateProvider(user_loader=load)
    request = request_of({"session_id": "s", "colour": "red"})
    with pytest.raises(BackendError):
        await provider.login(request, UserContext(7))
    assert request.session == {"session_id": "s", "colour": "red"}
    assert not provider.sessions.ended.is_ended("s")


def test_a_script_signs_in_without_an_event_loop():
    provider = StateProvider()
    request = request_of({})
    provider.login(request, UserContext(7))
    assert request.session[USER_ID] == 7


class Greeted(ReactiveState):
    """SESSION, keep; its events sign their user in between two changes."""

    count: int = 0

    @event
    async def enter(self):
        self.count += 1
        await provider_of_request().login(get_current_request(), UserContext("ada"))
        self.count += 1

    @event
    async def enter_step_by_step(self):
        self.count += 1
        yield
        await provider_of_request().login(get_current_request(), UserContext("ada"))
        self.count += 1
        yield


@pytest.mark.parametrize("name", ["enter", "enter_step_by_step"])
def test_an_event_that_signs_its_user_in_shows_a_page_without_a_stream_all_that_it_changed(name):
    provider = provider_of(Greeted, StateConfig(on_login="keep"))
    app, rt = fast_app(state_provider=provider)

    @rt("/")
    def index(greeted: Greeted):
        return fh.P(greeted.signal.count)

    with TestClient(app) as client:
        answer = Page(client).send("Greeted", name)
        assert patched_signals(answer.text)["Greeted"]["count"] == 2
        assert Page(client).signals["Greeted"]["count"] == 2
