"""A link to the login page leads back to a page of this site and nowhere else, whatever its `next` says."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

import pytest
from hypothesis import strategies as st

from tests.support.client import BROWSER
from tests.threats.injection_server import asked_with, client, frames_of, get, merged

APP = "injection_redirects.py"

ELSEWHERE = [
    "//evil.example", "///evil.example", "////evil.example", "/\\evil.example", "\\\\evil.example", "\\/evil.example",
    "/\\/evil.example", "//\\evil.example", "https://evil.example", "http://evil.example/x", "HTTPS://EVIL.EXAMPLE",
    "https:evil.example", "https:/evil.example", "https:///evil.example", "http:\\\\evil.example", "evil.example",
    "@evil.example", ":@evil.example", ".evil.example", "javascript:alert(1)", "JavaScript:alert(1)",
    "data:text/html,x", "vbscript:x", "\tjavascript:alert(1)", "\t//evil.example", "/\t/evil.example",
    "/\n/evil.example", "/\r/evil.example", "/\r\n/evil.example", "\n//evil.example", " //evil.example",
    " /\\evil.example", "\0//evil.example", "/\0/evil.example", "\x0b//evil.example", "\xa0//evil.example",
    "\u3000//evil.example", "\ufeff//evil.example", "\u2028//evil.example", "/\u2028/evil.example",
    "//evil.example/%2f..", "//evil.example@site.example", "/ /evil.example", "?next=//evil.example", "#x", "x",
    "../x", "/x\r\nset-cookie: a=b", "/x\nlocation: //evil.example", "/x y", "/é", "/\x7f", "/x\\y",
    "/\u2215evil.example", "/\uff0fevil.example",
]  # fmt: skip
HERE = [
    "/", "/private/x", "/private/x?y=1&z=2", "/a%20b", "/%2f/evil.example", "/%5cevil.example", "/%09/evil.example",
    "/x?to=https://evil.example", "/x//y", "/@evil.example", "/:80", "/x#y", "/..//evil.example", "/.//evil.example",
    "/%0d%0aset-cookie:%20a=b", "/javascript:alert(1)", "/;x", "/~me", "/'\"<x>", "/%C3%A9",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(server):
    with client(server) as browser:
        yield browser


def next_of(browser, query, path="/next"):
    """Return what `next_url` makes of a query string."""
    response = browser.get(f"{path}?{query}")
    assert response.status_code == 200
    return response.text


def stays_here(location, site="http://site.example"):
    """True if a browser on `site` that is sent to `location` stays there (WHATWG URL, 4.4)."""
    text = location.strip("".join(map(chr, range(33)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")
    return urljoin(site + "/login", text).startswith(site + "/")


@pytest.mark.parametrize("to", ELSEWHERE)
def test_next_leads_to_no_other_site(browser, to):
    assert next_of(browser, "next=" + quote(to, safe="")) == "/"
    assert next_of(browser, "next=" + quote(to, safe=""), "/next-or-home") == "/home"


@pytest.mark.parametrize("to", HERE)
def test_next_leads_to_a_page_of_this_site(browser, to):
    assert next_of(browser, "next=" + quote(to, safe="")) == to
    assert stays_here(to)


def test_next_leads_to_no_absolute_url_of_the_same_host(server, browser):
    for url in (f"{server.url}/private/x", f"//127.0.0.1:{server.port}/x", f"http:/127.0.0.1:{server.port}"):
        assert next_of(browser, "next=" + quote(url, safe="")) == "/"


@pytest.mark.parametrize("query", ["", "next", "next=", "nex=/x", "NEXT=/x", "next%00=/x", "=/x", "&&", "next=%2"])
def test_without_a_next_the_default_is_taken(browser, query):
    assert next_of(browser, query) == "/"
    assert next_of(browser, query, "/next-or-home") == "/home"


def test_a_next_that_is_there_twice_is_one_of_the_two_or_the_default(browser):
    for pair in (("/one", "//evil.example"), ("//evil.example", "/one"), ("https://evil.example", "//evil.example")):
        found = next_of(browser, "&".join("next=" + quote(to, safe="") for to in pair))
        assert found in ("/", "/one")
    assert next_of(browser, "next=/one&next=/two") in ("/one", "/two")


def test_a_next_that_is_too_long_is_not_taken(browser):
    assert next_of(browser, "next=/" + "a" * 100) == "/" + "a" * 100
    for length in (2_000, 20_000):
        assert next_of(browser, "next=/" + "a" * length) == "/"


signs = st.sampled_from(list("/\\:.@#?%&=ahtps evil\t\r\n\0\x0b\x7f\x85\xa0\ufeff\u2028é;"))
urls = st.builds(str.__add__, st.sampled_from(["", "/", "//", "/\\"]), st.text(signs, max_size=20))


@asked_with(urls, "/\t\\evil.example", runs=200)
def test_whatever_next_is_a_browser_stays_on_this_site(browser, text):
    found = next_of(browser, "next=" + quote(text, safe=""))
    assert found in (text, "/")
    assert stays_here(found) and found.startswith("/") and found.isascii() and found.isprintable()


@pytest.mark.parametrize("to", ELSEWHERE + HERE)
def test_the_location_that_is_sent_is_one_line_and_of_this_site(server, to):
    answer = get(server, f"/leave?next={quote(to, safe='')}", host="site.example")
    location = answer.header("location")
    assert answer.status == 303 and stays_here(location) and location.isprintable()
    assert answer.names() <= {"date", "server", "location", "content-length", "connection"}


def sent_to(location):
    """The path of a login page's address, and its `next`."""
    parts = urlsplit(location)
    assert (parts.scheme, parts.netloc) == ("", "")
    return parts.path, parse_qs(parts.query, keep_blank_values=True).get("next", [None])


PLAIN = [
    "/private/x", "/private/x?y=1&z=a%20b", "/private/x?next=//evil.example", "/private/x?y=%26next=//evil.example",
    "/private/x?%0d%0ax:y", "/private//evil.example", "/private/x?", "/private/x%23y?a%23b", "/private/a+b?d+e",
    "/private/x%3Fy", "/private/100%25", "/private/x%5Cy", "/own/@evil.example",
    "/private/https://evil.example", "/private/x?q=%C3%A9",
]  # fmt: skip
QUOTED = ["/private/a%20b", "/private/%C3%A9", "/private/a%2520b", "/own/%0d%0aset-cookie:%20a=b"]


@pytest.mark.parametrize("path", PLAIN + QUOTED)
def test_who_is_sent_to_sign_in_comes_back_to_the_very_page(server, path):
    with client(server) as browser:
        answer = browser.get(path)
        assert answer.status_code == 303
        login, _ = sent_to(answer.headers["location"])
        assert login == "/login"
        back = browser.post(answer.headers["location"])
        assert back.status_code == 303 and stays_here(back.headers["location"])
        asked = urlsplit(str(browser.build_request("GET", path).url))
        found = urlsplit(back.headers["location"])
        assert (unquote(found.path), found.query) == (unquote(asked.path), asked.query)
        page = browser.get(back.headers["location"])
        assert page.status_code == 200 and "private" in page.text


@pytest.mark.parametrize("path", QUOTED)
def test_who_is_sent_to_sign_in_from_a_quoted_path_stays_on_this_site(server, path):
    with client(server) as browser:
        answer = browser.get(path)
        assert answer.status_code == 303 and sent_to(answer.headers["location"])[0] == "/login"
        back = browser.post(answer.headers["location"])
        assert back.status_code == 303 and stays_here(back.headers["location"])
        assert back.headers["location"].isprintable() and "set-cookie" not in answer.headers


@pytest.mark.parametrize("to", ELSEWHERE)
def test_a_login_link_of_a_strangers_making_leads_to_the_default(server, to):
    with client(server) as browser:
        back = browser.post("/login?next=" + quote(to, safe=""))
        assert (back.status_code, back.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    "path",
    ["//evil.example/private/x", "/\\evil.example", "//evil.example/%2e%2e/private/x", "http://evil.example/private/x"],
)  # fmt: skip
def test_a_strange_request_line_is_no_way_out(server, path):
    answer = get(server, path, host="site.example")
    assert answer.status in (303, 400, 404)
    if answer.status == 303:
        login, (wanted,) = sent_to(answer.header("location"))
        assert login == "/login"
        back = get(server, answer.header("location"), host="site.example", method="POST")
        assert back.status == 303 and stays_here(back.header("location")), wanted


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80@x", "x/../..", "evil.example\\", ""])
def test_the_host_header_is_no_part_of_where_to_sign_in(server, host):
    answer = get(server, "/private/x", host=host)
    assert answer.status in (303, 400)
    if answer.status == 303:
        assert "evil" not in answer.header("location") and sent_to(answer.header("location"))[0] == "/login"


def test_an_htmx_request_and_a_datastar_request_are_sent_to_sign_in_without_a_next(server, browser):
    answer = browser.get("/private/x?next=//evil.example", headers={"hx-request": "true"})
    assert answer.status_code == 401 and answer.headers["hx-redirect"] == "/login"
    answer = browser.get("/private/x?next=//evil.example", headers=BROWSER)
    assert merged(frames_of(answer.content)) == {"_fs": {"go": "/login"}}
    answer = browser.post("/private/x")
    assert answer.status_code == 405
