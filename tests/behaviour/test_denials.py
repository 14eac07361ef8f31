"""Denials as the browser gets them: pages, fragments, events, streams, with and without a page to sign in."""

from __future__ import annotations

import pytest
from fasthtml import common as fh
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from faststate import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
)
from tests.support.apps import handler_of, user_of_header
from tests.support.client import BROWSER, Page, message, patched_signals, status, stream_of

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Note(ReactiveState):
    text: str = ""

    @event
    def write(self, text: str):
        self.text = text

    @event(requires_auth=True)
    def sign(self):
        self.text = "signed"

    @event(roles=["editor"])
    def edit(self):
        self.text = "edited"


class Mine(ReactiveState):
    text: str = ""


class Staff(ReactiveState):
    text: str = ""


def make(load=None, before=None, **options):
    """An app whose users are named by the header `x-user`, and its provider."""
    provider = StateProvider(user_loader=load or user_of_header, **options)
    provider.register_state(Note, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(Mine, StateConfig(scope=StateScope.USER))
    provider.register_state(Staff, StateConfig(scope=StateScope.GLOBAL, roles=["editor"]))
    app, rt = fast_app(state_provider=provider, secret_key="for tests", before=before)

    for path, cls in {"/note": Note, "/mine/{part:path}": Mine, "/staff": Staff}.items():
        rt(path)(handler_of(cls, lambda state: fh.Titled("Page", state.signal.text)))
    return app, provider


def client_of(app, **headers):
    return TestClient(app, headers=headers, follow_redirects=False, raise_server_exceptions=False)


def stream(page, position="", **headers):
    payload = {"w": page.tokens, "n": position}
    return page.client.post("/_faststate/stream", json=payload, headers={**BROWSER, **headers})


# -- streams -----------------------------------------------------------------------------------------------------------


def load_or(failing):
    """A user loader that does what `failing` (a list) holds, when it holds something."""

    def load(request):
        if failing:
            raise failing[0]
        return UserContext("ann")

    return load


def change_session(session):
    session["changed"] = session.get("changed", 0) + 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, 204),  # nothing that it may see
        (RuntimeError("a detail"), 503),
        (AuthenticationError("who"), 204),
        (AuthorizationError("no"), 204),
        (HTTPException(403, "no"), 403),
    ],
)
def test_no_answer_of_the_stream_carries_a_cookie_whatever_a_beforeware_did_to_the_session(error, expected):
    failing = []
    app, _ = make(load_or(failing), before=change_session, login_route="/login")
    page = Page(client_of(app), "/note")
    assert "set-cookie" in page.response.headers
    if error is None:
        page.tokens = []
    else:
        failing.append(error)
    response = stream(page)
    assert response.status_code == expected and "set-cookie" not in response.headers
    assert "a detail" not in response.text
    assert response.headers.get("cache-control") == "no-store" or isinstance(error, HTTPException)


def test_a_stream_of_what_may_be_seen_carries_no_cookie_and_is_not_cached():
    app, _ = make(before=change_session)
    with TestClient(app, headers={"x-user": "ann"}) as client:
        page = Page(client, "/note")
        with stream_of(page) as response:
            assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
            assert "set-cookie" not in response.headers and response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("headers", [{}, {"datastar-request": "true", "sec-fetch-site": "cross-site"}])
def test_a_stream_that_is_not_opened_is_not_cached_either(headers):
    app, _ = make()
    response = client_of(app).post("/_faststate/stream", json={}, headers=headers)
    assert (response.status_code, response.headers["cache-control"]) == (403, "no-store")


@pytest.mark.parametrize("login_route", [None, "/login"])
def test_a_page_whose_states_were_all_lost_gets_no_stream(login_route):
    editor = [UserContext("ann", roles=["editor"])]
    app, _ = make(lambda request: editor[0], login_route=login_route)
    page = Page(client_of(app), "/staff")
    editor[:] = [UserContext("ann")]
    response = stream(page, page.position)
    assert response.status_code == 204 and response.content == b""
    # A page that had a stream is told, and asks for itself anew, which is where it is refused.
    again = stream(page, "", **{"last-event-id": page.position})
    assert patched_signals(again.text) == {"Staff": {"text": ""}, "_fs": {"go": "#reload"}}
    assert page.client.get("/staff").status_code == 403


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "who", "expected"), [("/mine/", None, 401), ("/staff", None, 401), ("/staff", "a", 403)]
)
def test_without_a_page_to_sign_in_the_status_is_the_answer(path, who, expected):
    app, _ = make()
    response = client_of(app, **({"x-user": who} if who else {})).get(path)
    assert response.status_code == expected and response.headers["content-type"].startswith("text/plain")
    assert "location" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/mine/", "/staff", "/mine/a/b", "/mine/x?a=1&b=%26%3D&next=/evil", "/mine/caf%C3%A9/a%20b",
        "/mine/really%3F%23no", "/mine/100%25", "/mine/a:b@c!$&'()*+,;=~",
    ],
)  # fmt: skip
def test_a_page_that_needs_somebody_sends_to_the_login_route_and_the_way_back_is_the_page(path):
    app, provider = make(login_route="/login")

    @app.get("/login")
    def login(request):
        return provider.next_url(request)

    client = client_of(app)
    response = client.get(path)
    assert response.status_code == 303 and response.headers["location"].startswith("/login?next=")
    back = client.get(response.headers["location"]).text
    assert back == str(client.build_request("GET", path).url.raw_path, "ascii")
    assert client_of(app, **{"x-user": "ann"}).get(back).status_code == (403 if path == "/staff" else 200)


def test_who_is_signed_in_and_may_not_is_not_sent_to_sign_in():
    app, _ = make(login_route="/login")
    response = client_of(app, **{"x-user": "ann"}).get("/staff")
    assert response.status_code == 403 and "location" not in response.headers


def test_a_post_is_sent_to_sign_in_without_a_way_back():
    app, _ = make(login_route="/login")

    @app.post("/save")
    def save(mine: Mine):
        return "never"

    response = client_of(app).post("/save", data={"text": "x"})
    assert (response.status_code, response.headers["location"]) == (303, "/login")


def test_htmx_is_told_in_its_own_way():
    app, _ = make(login_route="/login")
    response = client_of(app, **{"hx-request": "true"}).get("/mine/")
    assert (response.status_code, response.headers["hx-redirect"]) == (401, "/login") and not response.content


def test_a_fragment_for_datastar_is_told_in_its_own_way():
    app, _ = make(login_route="/login")
    response = client_of(app, **{"datastar-request": "true"}).get("/mine/")
    assert (response.status_code, status(response)) == (200, 401)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert patched_signals(response.text) == {"_fs": {"go": "/login"}}


def test_a_login_page_that_needs_somebody_itself_is_no_endless_redirect():
    app, _ = make(login_route="/login")

    @app.get("/login")
    def login(mine: Mine):
        return "never"

    response = client_of(app).get("/login?next=/mine/")
    assert response.status_code == 401 and "location" not in response.headers


def test_below_a_root_path_the_login_route_is_below_it_too():
    app, _ = make(login_route="/login")
    client = TestClient(app, root_path="/app", follow_redirects=False)
    assert client.get("/mine/x").headers["location"].startswith("/app/login?next=")


@pytest.mark.parametrize("route", ["login", "//evil.example", "https://evil.example/login", ""])
def test_a_login_route_is_a_path(route):
    with pytest.raises(ConfigurationError, match="login_route must be a URL path"):
        StateProvider(login_route=route)


@pytest.mark.parametrize("headers", [{}, {"hx-request": "true"}, {"datastar-request": "true"}])
def test_an_app_s_own_handler_of_a_denial_wins(headers):
    app, _ = make(login_route="/login")
    app.add_exception_handler(AuthorizationError, lambda request, error: fh.Response("our own 403", 403))
    app.add_exception_handler(AuthenticationError, lambda request, error: fh.Response("our own 401", 401))
    response = client_of(app, **{"x-user": "ann"}, **headers).get("/staff")
    assert (response.status_code, response.text) == (403, "our own 403")
    response = client_of(app, **headers).get("/staff")
    assert (response.status_code, response.text) == (401, "our own 401")


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login_route", [None, "/login"])
@pytest.mark.parametrize(("name", "who", "expected"), [("sign", None, 401), ("edit", None, 401), ("edit", "ann", 403)])
def test_a_refused_event_is_a_200_that_the_page_shows(login_route, name, who, expected):
    app, provider = make(login_route=login_route)
    page = Page(client_of(app, **({"x-user": who} if who else {})), "/note")
    response = page.send("Note", name)
    assert (response.status_code, status(response)) == (200, expected)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    told = patched_signals(response.text)
    assert told == {"_fs": {"err": message(response), "status": expected}} and message(response)
    assert provider.registry.peek("global:Note").text == "" and provider.stats().refused == 1


# -- a Beforeware's word -----------------------------------------------------------------------------------------------


def guard(request, session):
    session["visits"] = session.get("visits", 0) + 1
    if "x-user" not in request.headers:
        return fh.RedirectResponse("/login?why=out", status_code=303)


def test_a_beforeware_s_redirect_is_one_for_datastar_and_ends_a_stream():
    app, provider = make(before=guard)
    page = Page(client_of(app, **{"x-user": "ann"}), "/note")
    del page.client.headers["x-user"]
    response = page.send("Note", "write", text="new")
    assert (response.status_code, status(response)) == (200, 303) and "set-cookie" in response.headers
    assert patched_signals(response.text) == {"_fs": {"go": "/login?why=out"}}
    response = stream(page)
    assert response.status_code == 204 and not response.content and "set-cookie" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    assert page.client.get("/note").headers["location"] == "/login?why=out"
    assert provider.registry.peek("global:Note").text == ""
