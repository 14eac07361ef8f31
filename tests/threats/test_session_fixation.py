"""Session fixation and replay: a cookie known before a sign-in, or kept from before a sign-out, is worth nothing."""

from __future__ import annotations

import json
from base64 import b64decode

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.client import BROWSER, Page, patched_signals, status

APP = "session_fixation.py"
COOKIE = "session_"


def client_of(server, cookie=None):
    """A browser with cookies of its own, or with a stolen one."""
    client = httpx.Client(base_url=server.url, verify=False, timeout=20)
    if cookie is not None:
        client.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
    return client


@pytest.fixture
def victim(server):
    with client_of(server) as client:
        yield client


def session_of(cookie):
    return json.loads(b64decode(cookie.strip('"').partition(".")[0]))["session_id"]


def stream(client, page):
    """Asks for the page's stream, and reads all that comes as long as it does not stay open."""
    payload = {"w": page.tokens, "n": page.position}
    with client.stream("POST", f"{page.url}stream", json=payload, headers=BROWSER) as response:
        if response.status_code == 200 and "transfer-encoding" in response.headers:
            body = next(response.iter_text())
            assert '"c":' not in body, f"a stream was opened: {body}"
        return response, b"".join(response.iter_bytes()).decode()


@pytest.fixture
def planted(server, victim):
    """The attacker plants his cookie in the browser of the victim, who then signs in: his page, and that cookie."""
    with client_of(server) as attacker:
        page = Page(attacker)
        assert page.send("Basket", "write", text="the attacker's").status_code in (200, 204)
        cookie = attacker.cookies[COOKIE]
    victim.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
    assert victim.get("/in/ada").text == "in"
    assert victim.get("/who").text == "ada"
    mine = Page(victim)
    assert mine.send("Basket", "write", text="secret basket").is_success
    assert mine.send("Cart", "write", text="secret cart").is_success
    assert Page(victim, "/profile").send("Profile", "write", text="secret profile").is_success
    assert "secret basket" in victim.get("/").text
    return page, cookie


def test_a_planted_cookie_is_worth_nothing_after_the_victim_s_sign_in(server, victim, planted):
    _, cookie = planted
    assert victim.cookies[COOKIE] != cookie
    assert session_of(victim.cookies[COOKIE]) != session_of(cookie)
    with client_of(server, cookie) as replayer:
        assert replayer.get("/who").text == "None"
        assert "secret" not in replayer.get("/").text
    with client_of(server, cookie) as replayer:
        assert replayer.get("/profile").status_code == 401


def test_the_attacker_s_page_of_before_sends_no_event(server, victim, planted):
    page, cookie = planted
    for state in ("Basket", "Cart", "Profile"):
        with client_of(server, cookie) as replayer:
            page.client = replayer
            response = page.send(state, "write", text="overwritten")
            assert status(response) == 403
            assert "set-cookie" not in response.headers
    text = victim.get("/").text + victim.get("/profile").text
    assert "overwritten" not in text
    assert text.count("secret") >= 3


def test_an_event_without_the_page_s_tokens_reaches_nothing_of_the_victim_s(server, victim, planted):
    page, cookie = planted
    page.tokens = []
    for state in ("Basket", "Cart", "Profile"):
        with client_of(server, cookie) as replayer:
            page.client = replayer
            response = page.send(state, "write", text="overwritten")
            assert "secret" not in response.text
            if state == "Profile":
                assert status(response) == 401
    assert "overwritten" not in victim.get("/").text + victim.get("/profile").text


def test_the_attacker_s_stream_does_not_open(server, victim, planted):
    page, cookie = planted
    before = victim.get("/streams").text
    with client_of(server, cookie) as replayer:
        response, body = stream(replayer, page)
        assert response.status_code in (200, 204)
        assert "secret" not in body
        assert patched_signals(body).get("_fs", {}).get("go", "#reload") == "#reload"
        assert "set-cookie" not in response.headers
    assert victim.get("/streams").text == before


def test_an_attacker_cannot_use_the_victim_s_tokens(server, victim, planted):
    _, cookie = planted
    stolen = Page(victim)
    with client_of(server, cookie) as replayer:
        stolen.client = replayer
        response, body = stream(replayer, stolen)
        assert "secret" not in body
        response = stolen.send("Basket", "write", text="overwritten")
        assert status(response) == 403
    assert "overwritten" not in victim.get("/").text


def test_signing_in_with_the_planted_cookie_within_a_minute_gets_the_attacker_nothing(server, victim, planted):
    _, cookie = planted
    with client_of(server, cookie) as replayer:
        assert replayer.get("/in/eve").text == "in"
        assert "secret" not in replayer.get("/").text
        assert "secret" not in replayer.get("/profile").text
    assert victim.get("/who").text == "ada"
    assert "secret basket" in victim.get("/").text


@pytest.fixture
def left(victim):
    """The victim signs in, leaves something behind, and signs out: the page and the cookie of before that."""
    assert victim.get("/in/ada").text == "in"
    page = Page(victim)
    assert page.send("Basket", "write", text="secret basket").is_success
    assert Page(victim, "/profile").send("Profile", "write", text="secret profile").is_success
    cookie = victim.cookies[COOKIE]
    assert victim.get("/out").text == "out"
    assert COOKIE not in victim.cookies
    return page, cookie


def test_a_cookie_of_before_a_sign_out_is_signed_out_on_a_page(server, victim, left):
    _, cookie = left
    with client_of(server, cookie) as replayer:
        assert replayer.get("/who").text == "None"
        assert replayer.get("/profile").status_code == 401
        assert "secret" not in replayer.get("/").text


def test_a_cookie_of_before_a_sign_out_is_signed_out_for_events(server, victim, left):
    page, cookie = left
    for tokens, expected in ((page.tokens, 403), ([], 401)):
        with client_of(server, cookie) as replayer:
            page.client, page.tokens = replayer, tokens
            response = page.send("Profile", "write", text="overwritten")
            assert status(response) == expected
            assert "set-cookie" not in response.headers
    victim.get("/in/ada")
    assert "secret profile" in victim.get("/profile").text


def test_a_cookie_of_before_a_sign_out_opens_no_stream(server, victim, left):
    page, cookie = left
    before = victim.get("/streams").text
    with client_of(server, cookie) as replayer:
        response, body = stream(replayer, page)
        assert "secret" not in body
        assert "set-cookie" not in response.headers
    assert victim.get("/streams").text == before


def socket(server, cookie):
    address = server.url.replace("http", "ws") + "/ws"
    return connect(address, additional_headers={"cookie": f"{COOKIE}={cookie}"}, open_timeout=20)


def who(ws):
    ws.send(json.dumps({"msg": "who"}))
    return ws.recv(20)


def test_a_cookie_of_before_a_sign_out_is_signed_out_on_a_websocket(server, victim):
    victim.get("/in/ada")
    cookie = victim.cookies[COOKIE]
    with socket(server, cookie) as open_before:
        assert who(open_before) == "ada"
        victim.get("/out")
        assert who(open_before) == "None"
    with socket(server, cookie) as replayed:
        assert who(replayed) == "None"


@pytest.mark.parametrize("path", ["/who", "/plain", "/out", "/profile", "/nowhere", "/_faststate/stream"])
def test_an_answer_to_an_ended_cookie_takes_no_newer_one_away(server, victim, left, path):
    _, cookie = left
    with client_of(server, cookie) as replayer:
        response = replayer.get(path)
        assert "set-cookie" not in response.headers
        assert replayer.cookies[COOKIE] == cookie


def test_only_a_new_session_sets_a_cookie_over_an_ended_one(server, victim, left):
    _, cookie = left
    with client_of(server, cookie) as replayer:
        response = replayer.get("/")  # asks for SESSION states
        assert "set-cookie" in response.headers
        assert session_of(response.cookies[COOKIE]) not in (session_of(cookie), None)
        assert "1970" not in response.headers["set-cookie"]
        assert replayer.get("/who").text == "None"


def test_signing_in_again_revives_no_session_of_before(server, victim, left):
    _, cookie = left
    assert victim.get("/in/ada").text == "in"
    assert "secret basket" not in victim.get("/").text  # it was the session's, which has ended
    assert "secret profile" in victim.get("/profile").text
    with client_of(server, cookie) as replayer:
        assert replayer.get("/who").text == "None"


def test_each_of_many_cookies_of_one_browser_ends_in_its_turn(server, victim):
    cookies = []
    for name in ("ada", "bob", "ada", "eve"):
        victim.get(f"/in/{name}")
        cookies.append(victim.cookies[COOKIE])
    *old, newest = cookies
    for cookie in old:
        with client_of(server, cookie) as replayer:
            assert replayer.get("/who").text == "None"
    with client_of(server, newest) as same:
        assert same.get("/who").text == "eve"
