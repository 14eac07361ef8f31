"""Threat: another site's page that has a victim's browser send what it may send: with cookies, and without a word."""

import itertools
import json
from urllib.parse import urlencode, urlsplit

import pytest

from tests.support.client import BROWSER, Page, status
from tests.threats.conftest import open_stream

APP = "csrf.py"
EVIL = "https://evil.example"
STATES = ("Account", "Savings", "Board")


class Victim:
    """A signed-in browser. The attacker is lucky in all but the header: the cookie is sent, the tokens are known."""

    def __init__(self, client):
        self.client = client
        client.get("/sign_in")
        self.page = Page(client, "/")
        self.port = urlsplit(str(client.base_url)).port
        self.before = self.truth()

    def truth(self):
        return self.client.get("/truth").json() | self.client.get("/stats").json()

    @property
    def body(self):
        return {"a": {"amount": 1000}, "b": {"to": "mallory"}, "w": self.page.tokens}

    def request(self, method, path, headers=(), **options):
        """A request that a browser would make, with its cookies; nothing of it may have happened."""
        sent = {"cookie": f"session_={self.client.cookies['session_']}", **dict(headers)}
        answer = self.client.request(method, path, headers=sent, **options)
        assert_no_cors(answer)
        return answer

    def assert_untouched(self):
        assert self.truth() == self.before


@pytest.fixture
def victim(visit):
    return Victim(visit())


def assert_no_cors(answer):
    """Nothing lets another site read the answer, or send the header that an event needs."""
    granted = [name for name in answer.headers if name.startswith(("access-control-", "timing-allow-origin"))]
    assert granted == []
    assert answer.headers.get("cross-origin-resource-policy", "same-origin") != "cross-origin"


def event_url(state="Account", event="pay"):
    return f"/_faststate/event/{state}/{event}"


def sends(victim, headers, state="Account", method="POST", event="pay"):
    """The status of an event sent with these headers, all else being right."""
    return victim.request(method, event_url(state, event), headers, content=json.dumps(victim.body))


def test_the_same_requests_from_the_apps_own_page_are_served(victim):
    """What the tests below see refused is refused for where it comes from."""
    json_type = {"content-type": "application/json"}
    own = f"http://127.0.0.1:{victim.port}"
    ran = 0
    for headers in (
        BROWSER,
        {**BROWSER, "origin": own},
        {"datastar-request": "true", "origin": own},
        {"datastar-request": "true"},
        {"datastar-request": "true", "sec-fetch-site": "none"},
    ):
        for state in STATES:
            assert status(sends(victim, {**json_type, **headers}, state)) == 200
            ran += 1
    assert victim.truth()["events"] == victim.before["events"] + ran
    assert victim.truth()["Account"] == [5000, "mallory"]
    stream = open_stream(victim.client, victim.page)
    assert stream.live
    assert_no_cors(stream)


# -- what a page of another site can send without asking ---------------------------------------------------------------

SIMPLE_TYPES = [
    None, "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x", "text/plain; application/json", "",
]  # fmt: skip
CROSS = [
    {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    {"origin": "null", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    {"origin": EVIL, "referer": f"{EVIL}/page"},
    {"referer": f"{EVIL}/page"},
    {"origin": "null"},
    {},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-site", "origin": "http://other.127.0.0.1"},
    {"sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize("content_type", SIMPLE_TYPES)
def test_a_fetch_or_beacon_of_a_simple_type_runs_nothing(victim, content_type):
    """`fetch(url, {method: "POST", mode: "no-cors", credentials: "include"})`: JSON under a type that asks no leave."""
    typed = {"content-type": content_type} if content_type is not None else {}
    for headers in CROSS:
        for state in STATES:
            answer = sends(victim, {**typed, **headers}, state)
            assert answer.status_code == 403, headers
    victim.assert_untouched()


def forms(victim):
    """Forms that another site can make its visitor send, as content and type."""
    fields = {"a": json.dumps({"amount": 1000}), "amount": "1000", "to": "mallory", "w": json.dumps(victim.page.tokens)}
    whole = json.dumps(victim.body)
    tricks = {"datastar-request": "true", "Datastar-Request": "true", "_method": "POST", "datastar": whole}
    yield urlencode(fields | tricks), "application/x-www-form-urlencoded"
    # A field whose name and value make JSON of the line between them.
    yield whole[:-1] + ',"q":1}=', "text/plain"
    yield whole[:-1] + ',"s":{"x":"=y"}}', "text/plain"
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (fields | tricks).items()
    )
    yield parts + "--x--\r\n", "multipart/form-data; boundary=x"
    yield whole, "application/x-www-form-urlencoded"


def test_a_form_of_another_site_runs_nothing(victim):
    queries = ("", "?datastar-request=true&amount=5", "?" + urlencode({"datastar": json.dumps(victim.body)}))
    for content, content_type in forms(victim):
        for headers, query, state in itertools.product(CROSS, queries, STATES):
            sent = {"content-type": content_type, **headers}
            assert victim.request("POST", event_url(state) + query, sent, content=content).status_code == 403
    victim.assert_untouched()


GETS = [
    {"sec-fetch-dest": "image", "sec-fetch-mode": "no-cors", "accept": "image/*"},
    {"sec-fetch-dest": "script", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-dest": "iframe", "sec-fetch-mode": "navigate", "upgrade-insecure-requests": "1"},
    {"sec-fetch-dest": "document", "sec-fetch-mode": "navigate", "sec-fetch-user": "?1"},
    {"sec-fetch-dest": "empty", "sec-fetch-mode": "cors", "accept": "text/event-stream", "origin": EVIL},
    {"sec-fetch-dest": "empty", "sec-fetch-mode": "cors", "accept": "text/event-stream", "last-event-id": "0.0"},
    {"purpose": "prefetch", "sec-purpose": "prefetch"},
]


SITES_OF_GETS = ["cross-site", "same-site", "same-origin", "none", None]


@pytest.mark.parametrize("site", SITES_OF_GETS)
def test_an_image_a_link_or_an_eventsource_runs_no_event(victim, site):
    """GET needs no leave at all; on the URL of an event it is not even a refusal, but another method."""
    query = urlencode({"amount": 1000, "datastar": json.dumps(victim.body), "datastar-request": "true"})
    headers_of_ours = ({}, {"datastar-request": "true"})
    for headers, state, extra, more in itertools.product(GETS, STATES, headers_of_ours, ("", f"?{query}")):
        sent = {**headers, **({"sec-fetch-site": site} if site else {}), **extra}
        answer = victim.request("GET", event_url(state) + more, sent)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    victim.assert_untouched()


def test_an_eventsource_on_the_stream_gets_nothing(victim):
    """An EventSource can be had by another site with the victim's cookies, and can set no header."""
    query = urlencode({"datastar": json.dumps({"w": victim.page.tokens, "n": ""})})
    headers_in_the_query = ("", "&datastar-request=true", "&Datastar-Request=true")
    for headers, site, more in itertools.product(GETS, SITES_OF_GETS, headers_in_the_query):
        sent = {**headers, **({"sec-fetch-site": site} if site else {})}
        answer = victim.request("GET", f"/_faststate/stream?{query}{more}", sent)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert "sent" not in answer.text
    victim.assert_untouched()


# -- what another site would need leave for ----------------------------------------------------------------------------


def test_leave_to_send_the_header_is_never_granted(victim):
    """The preflight that a browser sends first, for another site, another port and a sandboxed frame."""
    others = (EVIL, "null", f"http://127.0.0.1:{victim.port + 1}", f"http://localhost:{victim.port}", "file://")
    paths = (event_url(), event_url("Board"), "/_faststate/stream", "/_faststate/datastar", "/")
    for origin, method, path in itertools.product(others, ("POST", "GET", "PUT", "PATCH"), paths):
        asked = {
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": "datastar-request,content-type,faststate-nonce",
            "access-control-request-private-network": "true",
        }
        assert victim.request("OPTIONS", path, asked).status_code in (400, 403, 404, 405)
    victim.assert_untouched()


def test_no_answer_may_be_read_by_another_site(victim):
    """Pages, events that are served, refusals, streams: no header grants anything, whatever the origin is."""
    json_type = {"content-type": "application/json"}
    for origin in (EVIL, "null", f"http://127.0.0.1:{victim.port}"):
        library = ("/_faststate/stream", "/_faststate/datastar", event_url(), event_url("X"))
        for path in ("/", "/truth", "/nowhere", *library):
            victim.request("GET", path, {"origin": origin})
            victim.request("POST", path, {"origin": origin, **BROWSER, **json_type}, content="{}")
        stream = open_stream(victim.client, victim.page, headers={"origin": origin})
        assert stream.live
        assert_no_cors(stream)


METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT_", "PROPFIND", "post", "Post", "QUERY")


@pytest.mark.parametrize("method", METHODS)
def test_an_event_answers_to_post_alone(victim, method):
    for state in STATES:
        for extra in ({}, {"x-http-method-override": "POST", "x-http-method": "POST", "x-method-override": "POST"}):
            headers = {**BROWSER, "content-type": "application/json", **extra}
            for at in (event_url(state), f"{event_url(state)}?_method=POST&amount=1000"):
                answer = raw(victim, method, at, headers)
                assert answer.status_code in (400, 405)
    victim.assert_untouched()


def raw(victim, method, path, headers):
    """As `victim.request`, with a method as it is spelled: httpx would write it in capitals."""
    request = victim.client.build_request("POST", path, headers=headers, content=json.dumps(victim.body))
    request.method = method
    answer = victim.client.send(request)
    assert_no_cors(answer)
    return answer


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_a_stream_answers_to_post_alone(victim, method):
    query = urlencode({"datastar": json.dumps({"w": victim.page.tokens, "n": ""})})
    for extra in ({}, {"x-http-method-override": "POST"}):
        answer = victim.request(method, f"/_faststate/stream?{query}", {**BROWSER, **extra})
        assert answer.status_code == 405
        assert "sent" not in answer.text
    victim.assert_untouched()


# -- where a request says that it comes from ---------------------------------------------------------------------------


def origins(port):
    """Origins that are not the app's own, on `127.0.0.1:port`."""
    yield from (EVIL, "null", "", "file://", "about:blank", "data:", "chrome-extension://abcdef")
    yield from (f"http://127.0.0.1:{port + 1}", "http://127.0.0.1", f"http://localhost:{port}", f"http://[::1]:{port}")
    yield from (f"http://127.0.0.1:{port}.evil.example", f"http://127.0.0.1.evil.example:{port}")
    yield from (f"http://evil.example/127.0.0.1:{port}", f"http://127.0.0.1:{port}@evil.example", f"127.0.0.1:{port}")
    yield from (f"http://evil.example:{port}", f"http://sub.127.0.0.1:{port}", f"http://127.0.0.1.:{port}")
    yield from (f"http://127.0.0.1:{port}, {EVIL}", f"{EVIL}, http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/")


def test_an_event_of_another_origin_is_refused_though_it_has_the_header(victim):
    """For browsers that do not send Sec-Fetch-Site, and for what has made its way past a preflight."""
    for origin in origins(victim.port):
        for state in STATES:
            answer = sends(victim, {"datastar-request": "true", "origin": origin}, state)
            assert (answer.status_code, status(answer)) == (403, 403), origin
            assert "datastar" not in answer.text and "event-stream" not in answer.headers["content-type"]
        foreign = {**BROWSER, "sec-fetch-site": "cross-site", "origin": origin}
        posted = {"w": victim.page.tokens, "n": ""}
        answer = victim.client.post("/_faststate/stream", json=posted, headers=foreign)
        assert answer.status_code == 403 and "datastar" not in answer.text
        del foreign["sec-fetch-site"]
        assert victim.client.post("/_faststate/stream", json=posted, headers=foreign).status_code == 403
    victim.assert_untouched()


def test_a_stream_of_another_origin_is_refused_though_it_has_the_header(victim):
    payload = {"w": victim.page.tokens, "n": ""}
    for origin in origins(victim.port):
        sent = {"datastar-request": "true", "origin": origin}
        answer = victim.request("POST", "/_faststate/stream", sent, json=payload)
        assert answer.status_code == 403 and "sent" not in answer.text, origin
    victim.assert_untouched()


def test_a_cross_site_event_is_refused_whatever_else_it_says(victim):
    own = f"http://127.0.0.1:{victim.port}"
    for origin in (own, EVIL, "null", None):
        for more in ({}, {"referer": own}, {"host": f"127.0.0.1:{victim.port}"}, {"x-forwarded-host": "evil.example"}):
            headers = {"datastar-request": "true", "sec-fetch-site": "cross-site", **more}
            headers |= {"origin": origin} if origin is not None else {}
            assert sends(victim, headers).status_code == 403
    victim.assert_untouched()


def test_a_forwarded_host_does_not_make_another_origin_the_apps_own(victim):
    for name in ("x-forwarded-host", "x-host", "forwarded", "x-original-host", "x-forwarded-server"):
        for value in ("evil.example", "host=evil.example"):
            answer = sends(victim, {"datastar-request": "true", "origin": EVIL, name: value})
            assert answer.status_code == 403
    victim.assert_untouched()


SITES = ["same-site", "", "bogus", "Cross-Site", "cross-site, same-origin", "same-origin, cross-site"]


@pytest.mark.parametrize("site", SITES)
def test_a_site_that_is_not_the_same_origin_does_not_excuse_another_origin(victim, site):
    """Another subdomain or port is the same site and another origin: a page there is not the app's own."""
    for origin in (EVIL, f"http://127.0.0.1:{victim.port + 1}", "null"):
        assert sends(victim, {"datastar-request": "true", "sec-fetch-site": site, "origin": origin}).status_code == 403
    victim.assert_untouched()


# -- the header --------------------------------------------------------------------------------------------------------


def test_the_header_that_an_event_needs_is_no_other(victim):
    """Each of these needs no leave (or is no header): none stands in for `Datastar-Request`."""
    for headers in (
        {},
        {"accept": "text/event-stream"},
        {"accept-language": "datastar-request"},
        {"x-datastar-request": "true"},
        {"datastar_request": "true"},
        {"datastar": "true"},
        {"hx-request": "true"},
        {"x-requested-with": "XMLHttpRequest"},
        {"cookie": f"session_={victim.client.cookies['session_']}; datastar-request=true"},
        {"range": "bytes=0-"},
    ):
        for site in ({}, {"sec-fetch-site": "same-origin"}):
            answer = sends(victim, {**headers, **site, "content-type": "application/json"})
            assert answer.status_code == 403, headers
            payload = {"w": victim.page.tokens, "n": ""}
            answer = victim.request("POST", "/_faststate/stream", {**headers, **site}, json=payload)
            assert answer.status_code == 403 and "sent" not in answer.text
    victim.assert_untouched()


def test_a_refusal_says_nothing_about_the_app(victim):
    """The same words for what there is and what there is not: a cross-site request probes nothing."""
    headers = {"origin": EVIL, "sec-fetch-site": "cross-site"}
    answers = {
        (answer.status_code, answer.text, answer.headers.get("faststate-status"))
        for state in (*STATES, "Nothing", "__init__")
        for event in ("pay", "nothing")
        for answer in [sends(victim, headers, state, event=event)]
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 403
    victim.assert_untouched()


def test_a_body_is_not_read_where_the_request_is_refused_anyhow(victim):
    """A refusal costs the server nothing, however much is sent."""
    answer = victim.request("POST", event_url(), {"origin": EVIL}, content=b"x" * 5_000_000)
    assert answer.status_code == 403
    victim.assert_untouched()


def test_the_sessions_cookie_is_not_for_scripts_and_not_for_other_sites(visit):
    cookie = visit().get("/").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
