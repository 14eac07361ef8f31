"""Where an event or a Beforeware sends a browser: a path or an http(s) URL, never a script, never in two lines.

Whether an absolute URL is one that a stranger chose, only the app can know; `next_url` is for those that come from the
outside (test_next_url.py).
"""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest
from hypothesis import strategies as st

from faststate.exceptions import EventDefinitionError
from faststate.provider.page_event import safe_location
from tests.support.client import BROWSER, Page, patched_signals, status
from tests.threats.injection_server import asked_with, client, event_request, frames_of, get, merged, raw

APP = "injection_redirects.py"
EXPECTED = ["EventDefinitionError: "]  # the mistakes of the app that these tests are about

ALLOWED = [
    "/", "/cart", "/cart?x=1&y=2#z", "cart", "./cart", "../cart", "?page=2", "#top", "", "/a:b", "/javascript:alert(1)",
    "https://example.org/", "http://example.org/x", "HTTPS://EXAMPLE.ORG/", "https://a@b.example/", "/ü/😀", "/a b",
    "//example.org/x", "/\\example.org", "https:example.org", "https:/example.org", "http:///example.org",
]  # fmt: skip
SCHEMES = [
    "javascript:alert(1)", "JavaScript:alert(1)", "jAvAsCrIpT:alert(1)", "javascript://example.org/%0aalert(1)",
    "data:text/html,x", "DATA:text/html;base64,eA==", "vbscript:msgbox(1)", "VBScript:msgbox(1)", "file:///etc/passwd",
    "blob:https://example.org/1", "filesystem:https://example.org/1", "about:blank", "view-source:https://example.org",
    "ms-settings:x", "intent://x#Intent;end", "tel:1", "mailto:a@example.org", "ftp://example.org", "ws://example.org",
    "feed:javascript:alert(1)", "jar:https://example.org!/x", "chrome://settings", "x:y", "javascript:",
]  # fmt: skip
CONTROLS = [chr(c) for c in range(32)]
SPLIT = [
    "\t//evil.example", "/\t/evil.example", "\n//evil.example", "/\r\n/evil.example", "java\tscript:alert(1)",
    "java\nscript:alert(1)", "java\r\nscript:alert(1)", "\x00javascript:alert(1)", "\x01javascript:alert(1)",
    "javascript\t:alert(1)", "\x1fjavascript:alert(1)", "/x\r\nset-cookie: a=b", "/x\n\nevent: evil", "/x\0", "/x\x0b",
]  # fmt: skip
# Python strips these off both ends, browsers do not: what is sent on has to be the stripped text.
PADDED = [f"{space}javascript:alert(1)" for space in (" ", "\xa0", "\u2003", "\u3000", "\x85", "\u2028", "\u2029")]


def a_browser_reads(location):
    """The scheme that a browser finds in `location` (WHATWG URL, 4.4), or '' for one that is relative."""
    text = location.strip("".join(map(chr, range(33))))
    text = text.translate({9: None, 10: None, 13: None})
    scheme, colon, _ = text.partition(":")
    is_scheme = colon and scheme[:1].isascii() and scheme[:1].isalpha()
    is_scheme = is_scheme and all(c.isascii() and (c.isalnum() or c in "+-.") for c in scheme)
    return scheme.lower() if is_scheme else ""


@pytest.fixture(scope="module")
def page(server):
    with client(server) as browser:
        yield Page(browser)


def bounced(page, to):
    """An event that a Beforeware answers with a redirect to `to`."""
    content = json.dumps({"a": {"to": "/"}, "w": page.tokens})
    # Not on a connection that was there: the server closes it behind an error that nobody has caught.
    headers = {**BROWSER, "connection": "close"}
    with httpx.Client(cookies=page.client.cookies, verify=False) as once:
        url = page.client.base_url.join(f"{page.url}event/Door/go")
        return once.post(url, params={"bounce": to}, content=content, headers=headers)


@pytest.mark.parametrize("to", ALLOWED)
def test_what_safe_location_promises_to_let_through(to):
    assert safe_location(to) == to


@pytest.mark.parametrize("to", SCHEMES + SPLIT + PADDED + [f"/a{c}b" for c in CONTROLS])
def test_what_safe_location_promises_to_refuse(to):
    with pytest.raises(EventDefinitionError):
        safe_location(to)


@pytest.mark.parametrize("space", [" ", "\xa0", "\u3000", "\x85", "\u2028", "\x85 "])
def test_what_safe_location_has_looked_at_is_what_is_sent_on(page, space):
    assert safe_location(f"{space}/cart{space}") == "/cart"
    answer = page.send("Door", "go", to=f"{space}https://example.org/{space}")
    assert patched_signals(answer.content)["_fs"] == {"go": "https://example.org/"}


SIGNS = [*CONTROLS, *"javscriptdt:/\\@#?. %&;", "\x7f", "\x85", "\xa0", "\ufeff", "\u2028"]


@asked_with(st.text(st.sampled_from(SIGNS)), "https://", runs=300)
def test_what_safe_location_lets_through_is_relative_or_http_to_a_browser(to):
    try:
        location = safe_location(to)
    except EventDefinitionError:
        return
    assert a_browser_reads(location) in ("", "http", "https")
    assert not any(c in location for c in CONTROLS)


@pytest.mark.parametrize("to", ["http://[", "//[::1", "https://[x]/", "//\u2100.example"])
def test_safe_location_refuses_what_is_no_url_with_its_own_error(to):
    with pytest.raises(EventDefinitionError):
        safe_location(to)


@pytest.mark.parametrize("event", ["go", "step"])
@pytest.mark.parametrize("to", [to for to in ALLOWED if to])
def test_an_event_sends_a_browser_to_a_path_or_an_http_url(page, event, to):
    answer = page.send("Door", event, to=to)
    assert status(answer) == 200
    assert patched_signals(answer.content)["_fs"] == {"go": to}


@pytest.mark.parametrize("event", ["go", "step", "respond"])
@pytest.mark.parametrize("to", SCHEMES + SPLIT + PADDED)
def test_an_event_sends_a_browser_nowhere_else_and_changes_nothing(page, event, to):
    before = Page(page.client).signals["Door"]["opened"]
    answer = page.send("Door", event, to=to)
    told = merged(frames_of(answer.content))
    assert status(answer) == 500 and answer.status_code == 200
    assert set(told) == {"_fs"} and set(told["_fs"]) == {"err", "status"}
    assert "alert" not in answer.text and "evil" not in answer.text
    assert Page(page.client).signals["Door"]["opened"] == before


@pytest.mark.parametrize("to", [to for to in ALLOWED if to])
def test_a_redirect_of_a_beforeware_is_one_that_an_event_may_follow(page, to):
    answer = bounced(page, to)
    told = merged(frames_of(answer.content))
    assert status(answer) == 303 and set(told) == {"_fs"} and set(told["_fs"]) == {"go"}
    location = told["_fs"]["go"]
    assert location.isascii() and location.isprintable() and a_browser_reads(location) in ("", "http", "https")


@pytest.mark.parametrize("to", SPLIT)
def test_control_characters_in_a_beforewares_redirect_are_quoted(server, page, to):
    answer = raw(server, event_request(page, "Door", f"go?bounce={quote(to, safe='')}", b"{}"))
    assert answer.header("set-cookie") is None and answer.status in (200, 500)
    if answer.status == 200:
        location = merged(frames_of(answer.body))["_fs"]["go"]
        assert location.isprintable() and a_browser_reads(location) == ""
    plain = get(server, f"/?bounce={quote(to, safe='')}")
    assert plain.status == 303 and plain.header("location").isprintable() and plain.header("set-cookie") is None


@pytest.mark.parametrize("to", SCHEMES)
def test_a_beforewares_redirect_to_a_script_is_not_followed_by_an_event(page, to):
    answer = bounced(page, to)
    assert status(answer) == 500 and "go" not in patched_signals(answer.text).get("_fs", {})
    assert "alert" not in answer.text


@pytest.mark.parametrize("to", ["javascript:alert(1)", "http://["])
def test_a_beforewares_redirect_to_a_script_is_refused_as_any_error_of_the_app_is(page, to):
    answer = bounced(page, to)
    assert answer.status_code == 200 and patched_signals(answer.text)["_fs"]["status"] == 500


@pytest.mark.parametrize("to", ["/login", "https://example.org/", "//example.org", "javascript:alert(1)", "/x\r\ny: z"])
def test_a_beforewares_redirect_ends_a_stream_and_sends_it_nowhere(page, to):
    answer = page.client.post(f"{page.url}stream", json={"w": page.tokens}, params={"bounce": to}, headers=BROWSER)
    assert (answer.status_code, answer.content) == (204, b"") and "location" not in answer.headers
