"""Signing in with Starlette's AuthenticationMiddleware: examples/signin_starlette.py, and Starlette's SimpleUser."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from faststate import ReactiveState, StateProvider, StateScope, UserContext, fast_app
from tests.support.client import BROWSER, message, status
from tests.support.processes import Server
from tests.support.signin import (
    EXAMPLES,
    PASSWORDS,
    PREFIX,
    CookiePromises,
    Visitor,
    assert_stranger,
    done,
    serve,
)
from tests.support.waiting import Clock

# The backend of Starlette's own documentation: HTTP Basic, SimpleUser and scopes. With KNOWN in the environment
# there is a load_user_by_id as well.
BASIC = """
import base64, os
from fasthtml.common import *
from starlette.authentication import (
    AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
)
from starlette.middleware.authentication import AuthenticationMiddleware
from faststate import (
    ReactiveState, StateProvider, StateScope, UserContext, event, fast_app, get_current_user
)

SCOPES = {"ada": ["authenticated", "board.write"], "bob": ["authenticated"], "eve": ["authenticated"]}
KNOWN = {"ada": UserContext(1, "Ada", roles=["editor"]), "bob": UserContext(2, "Bob", permissions=["board.write"])}

class Basic(AuthenticationBackend):
    async def authenticate(self, conn):
        if "authorization" not in conn.headers:
            return None
        try:
            name, _, password = base64.b64decode(conn.headers["authorization"].split()[1]).decode().partition(":")
        except ValueError as error:
            raise AuthenticationError("no credentials") from error
        return (AuthCredentials(SCOPES[name]), SimpleUser(name)) if password == "tea" else None

provider = StateProvider(login_route="/login", load_user_by_id=KNOWN.get if os.environ.get("KNOWN") else None)

@provider.state(scope=StateScope.USER)
class Note(ReactiveState):
    text: str = ""
    @event
    def write(self, text: str):
        self.text = text

@provider.state(scope=StateScope.GLOBAL, requires_auth=True)
class Board(ReactiveState):
    line: str = ""
    @event(permissions=["board.write"])
    def post(self, text: str):
        self.line = text
    @event(roles=["editor"])
    def clear(self):
        self.line = ""

app, rt = fast_app(state_provider=provider, middleware=[Middleware(AuthenticationMiddleware, backend=Basic())])

@rt
async def index(request, note: Note, board: Board):
    user = await get_current_user(request)
    return Titled(f"{user.id!r} {user.username} {user.permissions} {user.roles}", note.signal.text, board.signal.line)

@rt
async def remember(request):
    await provider.login(request, UserContext("ada", "Ada"))
    return "remembered"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory, EXAMPLES / "signin_starlette.py") as server:
        yield server


class TestStarlette(CookiePromises):
    cookie = "ticket"

    def test_a_made_up_ticket_and_a_wrong_password_sign_nobody_in(self, visit):
        visitor = visit(cookies={"ticket": "made-up"})
        assert_stranger(visitor)
        assert 'role="alert"' in visitor.http.post("/login", data={"name": "ada", "password": "tea"}).text
        assert_stranger(visit())


def test_a_ticket_ends_on_the_server_whatever_the_browser_keeps(tmp_path_factory):
    source = tmp_path_factory.mktemp("app") / "brief.py"
    source.write_text("import signin_starlette\nfrom signin_starlette import app\nsignin_starlette.HOURS = 0\n")
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    with serve(tmp_path_factory, source, env={"PYTHONPATH": path}) as server, Visitor(server.url) as visitor:
        given = visitor.http.post("/login", data={"name": "ada", "password": PASSWORDS["ada"]}).headers["set-cookie"]
        visitor.http.cookies.set("ticket", re.search(r"ticket=([\w-]{40,});", given)[1])
        assert_stranger(visitor)


# -- Starlette's own user and scopes -----------------------------------------------------------------------------------


@contextmanager
def basic_app(tmp_path_factory: pytest.TempPathFactory, **env: str) -> Iterator[Server]:
    source = tmp_path_factory.mktemp("app") / "basic.py"
    source.write_text(BASIC)
    with serve(tmp_path_factory, source, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    with basic_app(tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    with basic_app(tmp_path_factory, KNOWN="1") as server:
        yield server


@pytest.fixture
def enter():
    """Makes visitors of a server who send a name with each request, or None."""
    with ExitStack() as stack:

        def enter(server: Server, name: str | None, password: str = "tea") -> Visitor:
            visitor = stack.enter_context(Visitor(server.url))
            if name is not None:
                credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
                visitor.http.headers["authorization"] = f"Basic {credentials}"
            return visitor

        yield enter


def test_a_simple_user_is_its_name_and_its_scopes_are_permissions(basic, enter):
    ada, bob = enter(basic, "ada"), enter(basic, "bob")
    assert "'ada' ada ['authenticated', 'board.write'] []" in ada.page().html.replace("&#x27;", "'")
    done(ada.send("Board", "post", ada.page(), text="Tea at five"))
    refused = bob.send("Board", "post", bob.page(), text="no")
    assert (status(refused), "permission" in message(refused)) == (403, True)
    assert status(ada.send("Board", "clear", ada.page())) == 403  # scopes are no roles
    assert "Tea at five" in bob.page().html


def test_simple_users_have_a_note_each_and_their_streams(basic, enter):
    ada, bob = enter(basic, "ada"), enter(basic, "bob")
    with bob.follow(bob.page()) as stream:
        done(ada.send("Note", "write", ada.page(), text="Mine"))
        done(ada.send("Board", "post", ada.page(), text="Everybody's"))
        assert "Mine" not in stream.until("Everybody's")
    assert (ada.note(), bob.note()) == ("Mine", "")


def test_an_unauthenticated_user_of_starlette_is_a_stranger(basic, enter):
    for visitor in (enter(basic, None), enter(basic, "ada", "wrong")):
        response = visitor.http.get("/")
        assert (response.status_code, urlsplit(response.headers["location"]).path) == (303, "/login")
        assert status(visitor.send("Note", "write", text="evil")) == 401
        assert visitor.http.post(f"{PREFIX}stream", json={}, headers=BROWSER).status_code == 204


def test_a_backend_that_raises_lets_nobody_in(basic, enter):
    visitor = enter(basic, None)
    visitor.http.headers["authorization"] = "Basic a"
    assert visitor.http.get("/").status_code == 400
    assert visitor.send("Note", "write", text="evil").status_code == 400


def test_whom_starlette_does_not_know_no_session_signs_in(basic, enter):
    visitor = enter(basic, None)
    assert visitor.http.get("/remember").status_code == 200
    assert visitor.session()["user_id"] == "ada"
    assert visitor.http.get("/").status_code == 303


def test_a_simple_user_goes_through_load_user_by_id_where_there_is_one(known, enter):
    ada, eve = enter(known, "ada"), enter(known, "eve")
    assert "1 Ada" in ada.page().html
    done(ada.send("Board", "clear", ada.page()))
    assert eve.http.get("/").status_code == 303  # whom the loader does not know is nobody


def test_a_signed_out_cookie_stays_so_whatever_max_age_another_middleware_has(in_tmp_path):
    clock = Clock()
    provider = StateProvider(clock=clock)

    @provider.state(scope=StateScope.USER)
    class Note(ReactiveState):
        text: str = ""

    app, rt = fast_app(state_provider=provider, middleware=[Middleware(CORSMiddleware, max_age=600)])

    @rt("/")
    def page(note: Note):
        return note.signal.text

    @rt("/enter")
    async def enter(request):
        await provider.login(request, UserContext("ada"))
        return "in"

    @rt("/leave")
    async def leave(request):
        await provider.logout(request)
        return "out"

    client = TestClient(app)
    client.get("/enter")
    kept = dict(client.cookies)
    client.get("/leave")
    replayed = [TestClient(app, cookies=kept).get("/").status_code]
    clock.now += 601
    provider.registry.followers.swept()  # as it happens from time to time
    replayed.append(TestClient(app, cookies=kept).get("/").status_code)
    assert replayed == [401, 401]
