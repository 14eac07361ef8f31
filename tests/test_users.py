"""Recognising users: each way in, which one counts, and what a loader that fails does."""

import json

import pytest
from fasthtml import common as fh
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from faststate import (
    AuthorizationError,
    BackendError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
)
from faststate.users import Users

from .client import BROWSER, Page, message, status

pytestmark = pytest.mark.usefixtures("in_tmp_path")


def connection(**scope):
    return HTTPConnection({"type": "http", "headers": [], **scope})


class Simple:
    """As Starlette's SimpleUser."""

    is_authenticated = True

    def __init__(self, username):
        self.username = username


class Nobody:
    is_authenticated = False


class Scopes:
    scopes = ["write"]


ADA = UserContext(1, "Ada")


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ({}, None),
        ({"auth": ADA}, 1),
        ({"user": ADA}, 1),
        ({"auth": ADA, "user": UserContext(2), "session": {"user_id": 3}}, 1),
        ({"auth": None, "user": ADA, "session": {"user_id": 3}}, 1),
        ({"user": Simple("ada"), "auth": Scopes(), "session": {"user_id": 3}}, "ada"),
        ({"user": Simple("")}, None),
        ({"user": Simple(""), "session": {"user_id": 3}}, None),
        ({"user": Nobody(), "auth": Scopes(), "session": {"user_id": 3}}, None),
        ({"auth": "ada", "session": {"user_id": 3}}, "ada"),
        ({"auth": 7}, 7),
        ({"auth": True}, None),
        ({"auth": ""}, None),
        ({"auth": ["ada"]}, None),
        ({"session": {"user_id": 3}}, 3),
        ({"session": {"user_id": ""}}, None),
        ({"session": {"user_id": None}}, None),
        ({"session": {}}, None),
        ({"session": None}, None),
    ],
)
async def test_without_a_loader_the_first_place_that_names_somebody_counts(scope, found):
    user = await Users(None, None).load(connection(**scope))
    assert (user and user.id) == found


async def test_starlette_s_scopes_are_permissions_and_an_id_alone_has_none():
    user = await Users(None, None).load(connection(user=Simple("ada"), auth=Scopes()))
    assert (user.username, user.permissions, user.roles) == ("ada", ["write"], [])
    user = await Users(None, None).load(connection(session={"user_id": 3}))
    assert (user.username, user.permissions, user.roles) == ("3", [], [])


@pytest.mark.parametrize("scope", [{"user": Simple("x")}, {"auth": "x"}, {"session": {"user_id": "x"}}])
@pytest.mark.parametrize("is_async", [True, False])
async def test_ids_go_through_load_user_by_id_which_may_know_nobody(scope, is_async):
    known = {"x": ADA}

    async def later(user_id):
        return known.get(user_id)

    users = Users(None, later if is_async else known.get)
    assert (await users.load(connection(**scope))) is ADA
    known.clear()
    assert (await users.load(connection(**scope))) is None


async def test_a_loader_alone_is_asked_where_there_is_one():
    users = Users(lambda request: None, {3: ADA}.get)
    assert await users.load(connection(auth=ADA, user=ADA, session={"user_id": 3})) is None


@pytest.mark.parametrize("wrong", ["ada", 1, {"id": 1}, True, UserContext])
async def test_what_is_no_user_lets_nobody_in(wrong):
    with pytest.raises(BackendError, match="not a UserContext"):
        await Users(lambda request: wrong, None).load(connection())


async def test_what_a_loader_answers_itself_goes_through():
    for answer in (AuthorizationError("banned"), HTTPException(418), BackendError("down")):

        def load(request, answer=answer):
            raise answer

        with pytest.raises(type(answer)) as caught:
            await Users(load, None).load(connection())
        assert caught.value is answer


class Board(ReactiveState):
    text: str = "for members"

    @event
    def write(self, text: str):
        self.text = text


@pytest.fixture
def broken():
    """An app whose loader works until `broken.fails` is set."""
    world = type("World", (), {"fails": False})()

    def load(request):
        if world.fails:
            raise ZeroDivisionError("secret: postgres://db.internal")
        return ADA

    provider = StateProvider(user_loader=load)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    world.app, rt = fast_app(state_provider=provider, secret_key="for tests")
    world.provider = provider

    @rt("/")
    def index(board: Board):
        return fh.P(board.signal.text)

    @rt("/plain")
    def plain():
        return fh.P("no state here")

    @world.app.ws("/ws")
    def ws(text: str, board: Board):
        return fh.P(board.text)

    return world


def test_a_loader_that_fails_is_a_503_everywhere_and_its_words_stay_in_the_log(broken, caplog):
    client = TestClient(broken.app, raise_server_exceptions=False)
    page = Page(client, "/")
    broken.fails = True
    for path in ("/", "/plain"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "for members" not in answer.text and "postgres" not in answer.text
    sent = page.send("Board", "write", text="never")
    assert (sent.status_code, status(sent)) == (200, 503)
    assert message(sent) and "postgres" not in sent.text
    stream = client.get("/_faststate/stream", headers=BROWSER, params={"datastar": "{}"})
    assert stream.status_code in (204, 503)
    with_token = client.get("/_faststate/stream", headers=BROWSER, params={"datastar": json.dumps({"w": page.tokens})})
    assert with_token.status_code == 503
    assert broken.provider.registry.peek("global:Board").text == "for members"
    assert "postgres" in caplog.text


def test_a_websocket_whose_user_cannot_be_loaded_is_closed(broken):
    client = TestClient(broken.app, raise_server_exceptions=False)
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"text": "a"})
        assert "for members" in socket.receive_text()
        broken.fails = True
        socket.send_json({"text": "a"})
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1011
