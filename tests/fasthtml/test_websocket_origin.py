"""A websocket with states is opened by the app's own pages alone, as events and streams are."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from fasthtml import common as fh
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from faststate import (
    Component,
    Depends,
    ReactiveState,
    StateConfig,
    StateScope,
    UserContext,
    event,
)
from tests.support.apps import app_showing


class Notes(ReactiveState):
    text: str = "my diary"

    @event
    def write(self, text: str) -> None:
        self.text = text


class Side(ReactiveState):
    text: str = ""


FOREIGN = {
    "another site": {"origin": "https://evil.example"},
    "another site, which the browser says": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "another subdomain": {"origin": "https://blog.testserver"},
    "another subdomain, which the browser says": {"origin": "http://testserver", "sec-fetch-site": "same-site"},
    "another port": {"origin": "http://testserver:8080"},
    "a sandboxed frame": {"origin": "null"},
    "a prefix of our name": {"origin": "http://testserver.evil.example"},
    "our name in the path": {"origin": "http://evil.example/testserver"},
    "no scheme": {"origin": "testserver"},
    "an empty one": {"origin": ""},
}
OWN = {
    "the app's own page": {"origin": "http://testserver"},
    "a proxy ends TLS": {"origin": "https://testserver"},
    "the browser says so": {"origin": "http://testserver", "sec-fetch-site": "same-origin"},
    "no browser": {},
}


@pytest.fixture
def app():
    app, provider = app_showing(Notes)
    provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))

    async def by_parameter(notes: Notes, send):
        await send(notes.text)

    async def by_optional(notes: Notes | None, send):
        await send(notes.text)

    async def by_annotated(side: Annotated[Side, Component("left")], send):
        await send("side")

    async def by_dependency(send, notes: Notes = Depends(provider.get_state)):
        await send(notes.text)

    async def nothing(send): ...

    async def plain(send):
        await send("plain")

    async def by_get_state(ws, send):
        await send((await provider.get_state(Notes, ws)).text)

    async def by_modify(ws, send):
        async with provider.modify(Notes, ws) as notes:
            notes.text = "changed"
        await send("changed")

    async def by_logout(ws, send):
        await provider.logout(ws)
        await send("out")

    async def by_login(ws, send):
        await provider.login(ws, UserContext(1, "ada"))
        await send("in")

    def by_sync(ws):
        with provider.modify(Notes, ws) as notes:
            notes.text = "changed"
        return "changed"

    for handler in (by_parameter, by_optional, by_annotated, by_dependency):
        app.ws(f"/{handler.__name__}")(handler)
        app.ws(f"/conn_{handler.__name__}", conn=handler)(nothing)
        app.ws(f"/disconn_{handler.__name__}", disconn=handler)(nothing)
    for handler in (by_get_state, by_modify, by_logout, by_login, by_sync, plain):
        app.ws(f"/{handler.__name__}")(handler)
    grouped = fh.APIRouter(prefix="/grouped")
    grouped.ws("/by_parameter")(by_parameter)
    grouped.to_app(app)
    return app


DECLARED = ["by_parameter", "by_optional", "by_annotated", "by_dependency"]
ASKED = ["by_get_state", "by_modify", "by_logout", "by_login", "by_sync"]
ROUTES = [*DECLARED, *(f"conn_{name}" for name in DECLARED), *(f"disconn_{name}" for name in DECLARED)]


def visitor(app):
    client = TestClient(app)
    client.get("/")
    return client


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("route", [*ROUTES, "grouped/by_parameter"])
def test_another_sites_page_opens_no_websocket_with_states(app, route, headers):
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        visitor(app).websocket_connect(f"/{route}", headers=headers),
    ):
        raise AssertionError("it was accepted")
    assert refused.value.code == 1008


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("route", ASKED)
def test_another_sites_page_gets_no_state_that_a_websocket_asks_for(app, route, headers):
    client = visitor(app)
    with client.websocket_connect(f"/{route}", headers=headers) as socket:
        socket.send_text("{}")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1008
    assert "my diary" in client.get("/").text  # nothing was changed, and nobody was signed out


@pytest.mark.parametrize("headers", OWN.values(), ids=OWN)
@pytest.mark.parametrize(
    "route", [*DECLARED, "grouped/by_parameter", "by_get_state", "by_modify", "by_logout", "by_sync"]
)
def test_the_apps_own_pages_and_programs_open_websockets_with_states(app, route, headers):
    with visitor(app).websocket_connect(f"/{route}", headers=headers) as socket:
        socket.send_text(json.dumps({}))
        assert socket.receive_text()


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_websocket_without_states_is_the_apps_own_matter(app, headers):
    with visitor(app).websocket_connect("/plain", headers=headers) as socket:
        socket.send_text("{}")
        assert socket.receive_text() == "plain"


def test_a_routes_own_middleware_stays(app):
    seen = []

    class Own:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            seen.append(scope["path"])
            await self.app(scope, receive, send)

    @app.ws("/guarded", middleware=[Middleware(Own)])
    async def guarded(notes: Notes, send):
        await send(notes.text)

    with visitor(app).websocket_connect("/guarded") as socket:
        socket.send_text("{}")
        assert socket.receive_text() == "my diary"
    assert seen == ["/guarded"]
