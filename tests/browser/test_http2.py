"""TLS, and HTTP/2 over it: as many tabs as one likes, where HTTP/1.1 ends at six connections to a host."""

from urllib.parse import urlsplit

import pytest

from tests.support.browser import console_errors, shows, wait_live
from tests.support.servers import Certificate, hypercorn, uvicorn

from .conftest import APPS, servers
from .test_tabs import click, wait_for_connections

TABS = 10


def start(serve_app, command, directory):
    """The app on a server with TLS, its cookies for TLS alone."""
    certificate = Certificate(directory)
    return serve_app(APPS / "scopes.py", env={"HTTPS_ONLY": "1"}, command=command, certificate=certificate)


@pytest.fixture(scope="module")
def server(datastar_js, tmp_path_factory):
    """A server that speaks HTTP/2."""
    directory = tmp_path_factory.mktemp("server")
    with servers(datastar_js, directory) as serve_app:
        yield start(serve_app, hypercorn(), directory)


class Tab:
    """A tab, live, and the protocols that the server's answers came by. Lifetime: until it is closed."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.errors = console_errors(self.page)
        self.protocols = {}
        network = context.new_cdp_session(self.page)
        network.on("Network.responseReceived", self._received)
        network.send("Network.enable")
        self.page.goto(url)
        wait_live(self.page)

    def _received(self, said):
        path = urlsplit(said["response"]["url"]).path
        self.protocols[path.rpartition("/")[2]] = said["response"]["protocol"]


@pytest.fixture
def open_tab(new_context):
    """Open a page of one session in a new tab; none may have an error in its console."""
    context, tabs = new_context(ignore_https_errors=True), []

    def open_tab(url):
        tabs.append(Tab(context, url))
        return tabs[-1]

    yield open_tab
    assert [error for tab in tabs for error in tab.errors] == []


def navigation_protocol(page):
    return page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")


def test_ten_tabs_follow_one_state(server, open_tab):
    tabs = [open_tab(server.url) for _ in range(TABS)]
    pages = [tab.page for tab in tabs]
    wait_for_connections(server, pages[0], TABS)
    for count, page in enumerate((pages[0], pages[-1]), 1):
        click(page, "mine")
        for each in pages:
            shows(each, "mine", count)
    for tab in tabs:
        assert navigation_protocol(tab.page) == tab.protocols["stream"] == "h2"
    assert tabs[0].protocols["add"] == tabs[-1].protocols["add"] == "h2"


def test_a_tab_that_is_closed_or_goes_elsewhere_ends_its_own_stream_and_no_other(server, open_tab):
    one, two, three = (open_tab(server.url).page for _ in range(3))
    wait_for_connections(server, one, 3)
    three.close()
    wait_for_connections(server, one, 2)
    two.goto(f"{server.url}/plain")
    wait_for_connections(server, one, 1)
    click(one, "mine")
    shows(one, "mine", 1)


def test_cookies_for_tls_alone_keep_a_session(server, open_tab):
    page = open_tab(server.url).page
    click(page, "mine")
    shows(page, "mine", 1)
    page.reload()
    wait_live(page)
    shows(page, "mine", 1)
    cookies = page.context.cookies()
    assert cookies and all(cookie["secure"] for cookie in cookies)


def test_a_click_is_shown_over_tls_with_http_1_1(serve_app, tmp_path, open_tab):
    server = start(serve_app, uvicorn(), tmp_path)
    one, two = open_tab(server.url), open_tab(server.url)
    click(one.page, "mine")
    for tab in (one, two):
        shows(tab.page, "mine", 1)
        assert navigation_protocol(tab.page) == tab.protocols["stream"] == "http/1.1"
    assert one.protocols["add"] == "http/1.1"
