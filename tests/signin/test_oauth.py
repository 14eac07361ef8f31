"""Signing in through FastHTML's OAuth module, as examples/signin_oauth.py does, at a provider that runs here."""

from __future__ import annotations

import html
import re
import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.client import patched_signals, status
from tests.support.processes import Server
from tests.support.signin import SignInPromises, Visitor, assert_stranger, serve

# -- the provider: GitHub's three endpoints, for two people -----------------------------------------------------------

CLIENT_ID, CLIENT_SECRET = "board-app", "a secret of the tests"
PEOPLE = {"ada": {"id": 7, "login": "ada"}, "bob": {"id": 8, "login": "bob"}}
codes: dict[str, tuple[str, str]] = {}
tokens: dict[str, str] = {}


async def authorize(request: Request) -> Response:
    """Asks who is there and whether the app may know; the answer leads back to the app, with a code."""
    query = request.query_params
    if query.get("client_id") != CLIENT_ID or query.get("response_type") != "code":
        return PlainTextResponse("unknown client", 400)
    back, state = query["redirect_uri"], query.get("state", "")
    if request.method == "GET":
        return HTMLResponse("".join(f"<form method=post><button name=who value={who}></form>" for who in PEOPLE))
    who = (await request.form())["who"]
    if who == "nobody":
        return RedirectResponse(f"{back}?{urlencode({'error': 'access_denied', 'state': state})}", 303)
    codes[code := secrets.token_hex(8)] = (str(who), back)
    return RedirectResponse(f"{back}?{urlencode({'code': code, 'state': state})}", 303)


async def token(request: Request) -> Response:
    """A token for a code, once; as GitHub, it answers a form, and errors with a 200."""
    form = await request.form()
    who, back = codes.pop(str(form.get("code")), (None, None))
    if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
        return PlainTextResponse("unknown client", 401)
    if who is None or form.get("redirect_uri") != back:
        return PlainTextResponse(urlencode({"error": "bad_verification_code", "error_description": "expired"}))
    tokens[made := secrets.token_hex(8)] = who
    return PlainTextResponse(urlencode({"access_token": made, "scope": "", "token_type": "bearer"}))


async def user(request: Request) -> Response:
    who = tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    return JSONResponse(PEOPLE[who]) if who else JSONResponse({"message": "Bad credentials"}, 401)


github = Starlette(
    routes=[
        Route("/login/oauth/authorize", authorize, methods=["GET", "POST"]),
        Route("/login/oauth/access_token", token, methods=["POST"]),
        Route("/user", user),
    ]
)


# -- the app -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider(tmp_path_factory, root):
    cwd = tmp_path_factory.mktemp("provider")
    server = Server("tests.signin.test_oauth:github", cwd=root, log=cwd / "provider.log")
    server.start()
    yield server
    server.kill()
    assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def app_env(provider):
    return {
        "OAUTH_CLIENT_ID": CLIENT_ID,
        "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
        "OAUTH_AUTHORIZE_URL": f"{provider.url}/login/oauth/authorize",
        "OAUTH_TOKEN_URL": f"{provider.url}/login/oauth/access_token",
        "OAUTH_USER_URL": f"{provider.url}/user",
        "OAUTHLIB_INSECURE_TRANSPORT": "1",  # the provider of the tests has no certificate
        "EDITORS": "7,9",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, root, app_env):
    with serve(tmp_path_factory, root / "examples" / "signin_oauth.py", env=app_env) as server:
        yield server


def ask(visitor: Visitor) -> str:
    """The link to the provider, on the page to sign in at."""
    page = visitor.page("/login")
    (link,) = [html.unescape(a["href"]) for tag, a in page.attributes if tag == "a"]
    return link


def agree(link: str, who: str) -> str:
    """Tell the provider who is there; return the URL that it sends the browser back to."""
    assert "form" in httpx.get(link, verify=False).text
    answer = httpx.post(link, verify=False, data={"who": who})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


class TestOAuth(SignInPromises):
    in_session = True

    def sign_in(self, visitor, name):
        response = visitor.http.get(agree(ask(visitor), name))
        assert (response.status_code, response.headers["location"]) == (303, "/")

    def sign_out(self, visitor):
        assert visitor.http.get("/logout").headers["location"] == "/login"

    def test_the_state_is_random_and_comes_back(self, visit, server):
        link = ask(visit())
        asked = parse_qs(urlsplit(link).query)
        assert asked["redirect_uri"] == [f"{server.url}/redirect"]
        (state,) = asked["state"]
        assert len(state) >= 16 and state not in ask(visit())
        assert parse_qs(urlsplit(agree(link, "ada")).query)["state"] == [state]

    @pytest.mark.parametrize("state", ["another", "", None, "é"])
    def test_a_wrong_state_signs_nobody_in_and_spends_the_right_one(self, visit, state):
        visitor = visit()
        back = agree(ask(visitor), "ada")
        query = parse_qs(urlsplit(back).query)
        changed = {"code": query["code"][0]} | ({"state": state} if state is not None else {})
        assert visitor.http.get(f"/redirect?{urlencode(changed)}").headers["location"] == "/login"
        assert_stranger(visitor)
        # A good code does not help when the state that was asked with is tried later.
        code = parse_qs(urlsplit(agree(ask(visit()), "ada")).query)["code"][0]
        late = {"code": code, "state": query["state"][0]}
        assert visitor.http.get(f"/redirect?{urlencode(late)}").headers["location"] == "/login"
        assert_stranger(visitor)

    def test_somebody_elses_sign_in_cannot_be_slipped_to_a_browser(self, visit):
        back = agree(ask(visit()), "bob")
        victim = visit()
        ask(victim)
        assert victim.http.get(back).headers["location"] == "/login"
        assert_stranger(victim)

    def test_a_code_is_good_for_one_sign_in(self, visit):
        visitor, thief = visit(), visit()
        back = agree(ask(visitor), "ada")
        assert visitor.http.get(back).headers["location"] == "/"
        state = parse_qs(urlsplit(ask(thief)).query)["state"][0]
        code = parse_qs(urlsplit(back).query)["code"][0]
        answer = thief.http.get(f"/redirect?{urlencode({'code': code, 'state': state})}")
        assert answer.headers["location"] == "/login"
        assert_stranger(thief)

    def test_who_says_no_at_the_provider_is_told(self, visit):
        visitor = visit()
        assert visitor.http.get(agree(ask(visitor), "nobody")).headers["location"] == "/error"
        assert "Not signed in" in visitor.page("/error").html
        assert_stranger(visitor)

    def test_an_event_of_a_stranger_takes_the_page_to_the_sign_in(self, visit):
        refused = visit().send("Note", "write", text="evil")
        assert (refused.status_code, status(refused)) == (200, 303)
        assert patched_signals(refused.text) == {"_fs": {"go": "/login"}}


def test_a_genuine_session_of_somebody_whom_the_app_has_forgotten_is_a_strangers(tmp_path_factory, root, app_env):
    example = root / "examples" / "signin_oauth.py"
    with serve(tmp_path_factory, example, env=app_env) as server, Visitor(server.url) as visitor:
        TestOAuth().sign_in(visitor, "ada")
        visitor.page()
        server.restart()  # its table of users is in memory
        assert_stranger(visitor)
        TestOAuth().sign_in(visitor, "ada")
        visitor.page()


def test_without_other_urls_the_example_signs_in_at_github(tmp_path_factory, root):
    example = root / "examples" / "signin_oauth.py"
    with serve(tmp_path_factory, example, env={"OAUTH_CLIENT_ID": "mine"}) as server, Visitor(server.url) as visitor:
        assert re.match(r"https://github\.com/login/oauth/authorize\?.*client_id=mine", ask(visitor))
