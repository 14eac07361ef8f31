"""Users: each way in which an app may say who is there, which one wins, and what happens when it cannot say."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from uuid import UUID

import pytest
from fasthtml.common import Titled
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, UnauthenticatedUser
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from faststate import (
    AuthenticationError,
    AuthorizationError,
    BackendError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    current_user,
    event,
    fast_app,
)
from faststate.auth.loaders import UserFinder
from tests.support.client import Page, message, patched_signals, status, stream_request
from tests.support.states import provider_of

pytestmark = pytest.mark.usefixtures("in_tmp_path")
ANN, BOB = UserContext("ann", roles=["editor"]), UserContext("bob")
UID = UUID(int=7)


class Ticket(BaseUser):
    """A user of Starlette's with an identity and no name."""

    is_authenticated = True
    identity = "ticket-1"
    username = ""


class Nameless(BaseUser):
    is_authenticated = True
    identity = username = ""


async def later(value):
    await asyncio.sleep(0)
    return value


def load(scope, user_loader=None, load_user_by_id=None):
    connection = HTTPConnection({"type": "http", "headers": [], **scope})
    return asyncio.run(UserFinder(user_loader, load_user_by_id).load(connection))


# -- where a user is found ---------------------------------------------------------------------------------------------

SCOPES = AuthCredentials(["authenticated", "board.write"])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, None),
        ({"session": {}}, None),
        ({"auth": ANN}, "ann"),
        ({"user": ANN}, "ann"),
        ({"auth": "ann"}, "ann"),
        ({"auth": 7}, 7),
        ({"auth": 0}, 0),
        ({"auth": UID}, UID),
        ({"session": {"user_id": "ann"}}, "ann"),
        ({"session": {"user_id": 7}}, 7),
        ({"session": {"user_id": 0}}, 0),
        ({"auth": SCOPES, "user": SimpleUser("ann")}, "ann"),
        ({"auth": SCOPES, "user": Ticket()}, "ticket-1"),
        # Which one wins.
        ({"auth": ANN, "user": BOB, "session": {"user_id": "eve"}}, "ann"),
        ({"auth": "eve", "user": BOB, "session": {"user_id": "eve"}}, "bob"),
        ({"auth": "ann", "session": {"user_id": "eve"}}, "ann"),
        ({"auth": SCOPES, "user": SimpleUser("ann"), "session": {"user_id": "eve"}}, "ann"),
        ({"auth": AuthCredentials(), "user": UnauthenticatedUser(), "session": {"user_id": "eve"}}, None),
        ({"auth": SCOPES, "user": Nameless(), "session": {"user_id": "eve"}}, None),
        # What says nothing.
        ({"auth": None, "session": {"user_id": "ann"}}, "ann"),
        ({"auth": "", "session": {"user_id": "ann"}}, "ann"),
        ({"auth": True, "session": {"user_id": "ann"}}, "ann"),
        ({"auth": False, "session": {"user_id": "ann"}}, "ann"),
        ({"auth": {"id": 5}}, None),
        ({"auth": ["ann"]}, None),
        ({"auth": 5.0}, None),
        ({"user": "ann"}, None),
        ({"session": {"user_id": ""}}, None),
        ({"session": {"user_id": None}}, None),
        ({"session": {"user_id": False}}, None),
        ({"session": {"user_id": True}}, None),
        ({"session": {"user_id": {"id": 5}}}, None),
        ({"session": {"user_id": ["ann"]}}, None),
        ({"session": {"user_id": 5.0}}, None),
        ({"session": None}, None),
    ],
)
def test_a_user_is_found_where_apps_put_it(scope, expected):
    found = load(scope)
    assert (found and found.id) == expected if expected is None else found.id == expected
    asked = []
    load(scope, load_user_by_id=lambda user_id: asked.append(user_id) or ANN)
    is_given = isinstance(scope.get("auth"), UserContext) or isinstance(scope.get("user"), UserContext)
    assert asked == ([] if expected is None or is_given else [expected])


def test_whoever_is_known_by_an_id_alone_has_no_roles_and_starlettes_scopes_are_permissions():
    found = load({"session": {"user_id": 7}})
    assert (found.id, found.username, found.roles, found.permissions) == (7, "7", [], [])
    found = load({"auth": SCOPES, "user": SimpleUser("ann")})
    assert (found.id, found.roles, found.permissions) == ("ann", [], ["authenticated", "board.write"])


@pytest.mark.parametrize("make", [lambda user: lambda request: user, lambda user: lambda request: later(user)])
def test_a_user_loader_has_the_only_word(make):
    scope = {"auth": BOB, "user": BOB, "session": {"user_id": "bob"}}
    by_id = {"load_user_by_id": lambda user_id: BOB}
    assert load(scope, make(ANN)) is load(scope, make(ANN), **by_id) is ANN
    assert load(scope, make(None)) is load(scope, make(None), **by_id) is None


@pytest.mark.parametrize("make", [lambda user: lambda user_id: user, lambda user: lambda user_id: later(user)])
def test_an_id_that_its_loader_does_not_know_is_nobody(make):
    assert load({"session": {"user_id": "ann"}}, load_user_by_id=make(ANN)) is ANN
    assert load({"session": {"user_id": "gone"}}, load_user_by_id=make(None)) is None


def test_a_loader_is_given_the_request():
    assert load({"path": "/here"}, lambda request: UserContext(request.scope["path"])).id == "/here"


class Boom(Exception):
    """An error of an app's own code."""


def raiser(error, *about):
    raise error


@pytest.mark.parametrize("where", ["user_loader", "load_user_by_id"])
@pytest.mark.parametrize("found", ["ann", 7, True, {"id": 7}, (ANN,), object(), UserContext, later])
def test_what_is_no_user_is_an_error_and_not_anonymous(where, found):
    with pytest.raises(BackendError, match=f"returned {type(found).__name__}, not a UserContext or None"):
        load({"auth": "ann"}, **{where: lambda about: found})


@pytest.mark.parametrize("where", ["user_loader", "load_user_by_id"])
@pytest.mark.parametrize("error", [Boom(), TimeoutError(), KeyError("ann"), ValueError(), OSError()])
def test_a_loader_that_fails_is_a_503_with_its_error_as_the_cause(where, error):
    with pytest.raises(BackendError) as caught:
        load({"auth": "ann"}, **{where: partial(raiser, error)})
    assert caught.value.status == 503 and caught.value.__cause__ is error


@pytest.mark.parametrize("where", ["user_loader", "load_user_by_id"])
@pytest.mark.parametrize("error", [HTTPException(418), AuthenticationError("a"), AuthorizationError("b")])
def test_a_loaders_own_answer_goes_through(where, error):
    with pytest.raises(type(error)) as caught:
        load({"auth": "ann"}, **{where: partial(raiser, error)})
    assert caught.value is error


# -- a loader that fails, over HTTP ------------------------------------------------------------------------------------


class Note(ReactiveState):
    text: str = "open to all"

    @event
    def write(self, text: str):
        self.text = text


class Site:
    """An app whose loader does as `self.failing` says, and a page of it that was loaded before."""

    def __init__(self):
        self.failing = []
        self.provider = StateProvider(user_loader=self.load)
        self.provider.register_state(Note, StateConfig(scope=StateScope.GLOBAL))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests")
        self.ran = []

        @rt("/")
        def index(note: Note):
            self.ran.append("page")
            return Titled("Note", note.signal.text)

        @rt("/plain")
        def plain():
            self.ran.append(current_user.get())
            return "open to all"

        @self.app.ws("/ws")
        async def ws(note: Note, send):
            self.ran.append("ws")
            await send(note.text)

        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.page = Page(self.client)
        self.ran.clear()

    def load(self, request):
        if self.failing:
            raise self.failing[0]
        return ANN

    def stream(self):
        return self.client.send(stream_request(self.page))

    def socket(self):
        with self.client.websocket_connect("/ws") as socket:
            socket.send_text("{}")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
        return closed.value.code


@pytest.fixture
def site():
    return Site()


def logged(caplog):
    return [r for r in caplog.records if r.name == "faststate" and r.levelno >= logging.ERROR and r.exc_info]


@pytest.mark.parametrize("path", ["/", "/plain"])
def test_a_failing_loader_is_503_on_a_page_and_its_handler_does_not_run(site, path, caplog):
    site.failing.append(Boom("a detail"))
    response = site.client.get(path)
    assert response.status_code == 503 and "open to all" not in response.text and "a detail" not in response.text
    assert site.ran == [] and len(logged(caplog)) == 1 and "a detail" in caplog.text


def test_a_failing_loader_is_shown_for_an_event_which_does_not_run(site, caplog):
    site.failing.append(Boom("a detail"))
    response = site.page.send("Note", "write", text="new")
    assert (response.status_code, status(response)) == (200, 503) and "a detail" not in response.text
    assert message(response) and patched_signals(response.text)["_fs"]["status"] == 503
    assert site.provider.registry.peek("global:Note").text == "open to all" and len(logged(caplog)) == 1


def test_a_failing_loader_is_503_for_a_stream_so_that_it_comes_back(site, caplog):
    site.failing.append(Boom("a detail"))
    response = site.stream()
    assert response.status_code == 503 and response.headers["retry-after"] and "a detail" not in response.text
    assert site.provider.stats().connections == 0 and len(logged(caplog)) == 1


def test_a_failing_loader_closes_a_websocket_as_an_error_of_the_server(site, caplog):
    site.failing.append(Boom("a detail"))
    assert site.socket() == 1011 and site.ran == [] and len(logged(caplog)) == 1


def test_a_loader_that_works_again_serves_the_same_page(site):
    site.failing.append(Boom())
    assert status(site.page.send("Note", "write", text="new")) == 503
    site.failing.clear()
    assert status(site.page.send("Note", "write", text="new")) == 200
    assert site.client.get("/plain").status_code == 200 and site.ran == [ANN]


@pytest.mark.parametrize(
    ("error", "page", "stream", "socket"),
    [
        (HTTPException(418, "tea alone"), 418, 418, None),
        (AuthenticationError("tea alone"), 401, 204, 1008),
        (AuthorizationError("tea alone"), 403, 204, 1008),
    ],
)
def test_a_loaders_own_answer_is_the_answer(site, error, page, stream, socket):
    site.failing.append(error)
    response = site.client.get("/")
    assert (response.status_code, response.text) == (page, "tea alone")
    response = site.page.send("Note", "write", text="new")
    assert (response.status_code, status(response), message(response)) == (200, page, "tea alone")
    assert site.stream().status_code == stream
    if socket is not None:
        assert site.socket() == socket
    assert site.ran == [] and site.provider.registry.peek("global:Note").text == "open to all"


# -- Starlette's AuthenticationMiddleware ------------------------------------------------------------------------------


class Header(AuthenticationBackend):
    async def authenticate(self, conn):
        name = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated", "write"]), SimpleUser(name)) if name else None


def test_starlettes_middleware_says_who_is_there_for_pages_events_and_websockets():
    provider = provider_of(Note, StateConfig(scope=StateScope.USER, permissions=["write"]))
    app, rt = fast_app(
        state_provider=provider,
        secret_key="for tests",
        middleware=[Middleware(AuthenticationMiddleware, backend=Header())],
    )

    @rt("/")
    def index(note: Note):
        return Titled("Note", note.signal.text)

    @app.ws("/ws")
    async def ws(note: Note, send):
        await send(f"{current_user.get().id}: {note.text}")

    stranger = TestClient(app)
    assert stranger.get("/").status_code == 401
    client = TestClient(app, headers={"x-user": "ann"})
    assert status(Page(client).send("Note", "write", text="ann's")) == 200
    assert provider.registry.peek("user:Note:userann").text == "ann's"
    with client.websocket_connect("/ws") as socket:
        socket.send_text("{}")
        assert socket.receive_text() == "ann: ann's"
