"""A page says whether it is live, finds out by itself when it is not, and comes back."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import APPS
from tests.support.browser import click, hide, number, shows, toast, wait_live, wait_ready
from tests.support.proxy import proxy_beside

APP = "link.py"
QUIET = 3_000
"""Milliseconds that a page may be without a stream before its badge says so."""
GONE = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"


@pytest.fixture
def own_server(serve_app):
    """A server of the test's own, which it may stop."""
    return serve_app(APPS / APP)


def link_is(page, state):
    """Wait until the page says that its link is in this state."""
    expect(page.locator("html")).to_have_attribute("data-fs-link", state, timeout=10_000)


def badge(page):
    return page.get_by_role("status")


def test_a_page_says_that_it_is_live_in_a_signal_and_on_its_root_element(open_page):
    page = open_page()
    link_is(page, "live")
    shows(page, "link", "live")
    expect(badge(page)).to_have_count(0)


def test_a_page_whose_server_is_gone_says_so_and_comes_back(own_server, open_on):
    page = open_on(own_server, forgive=GONE)
    own_server.stop()
    expect(page.locator("html")).not_to_have_attribute("data-fs-link", "live")
    expect(badge(page)).to_have_text("Connection lost. Reconnecting…", timeout=10_000)
    own_server.start()
    link_is(page, "live")
    expect(badge(page)).to_have_count(0)  # hidden, also from who hears the page
    click(page, "add")
    shows(page, "n", 1)


def test_a_connection_that_dies_without_a_word_is_found_and_replaced(server, open_on, open_page):
    other = open_page()
    with proxy_beside(server.port) as (proxy, run):
        page = open_on(at(server, proxy.port), forgive="ERR_")
        first = wait_live(page)
        # The browser may have six connections, all dead, and takes 2 s to find out each.
        page.set_default_timeout(30_000)
        run(proxy.silence())
        shown = number(other, "n")
        click(other, "add")
        shows(other, "n", shown + 1)
        wait_live(page, after=first)
        shows(page, "n", shown + 1)
        page.close()


def test_a_page_is_offline_while_the_browser_is_and_tries_at_once_when_it_is_back(own_server, open_on, new_context):
    context = new_context(own=True)
    page = open_on(own_server, context=context, forgive="ERR_")
    own_server.stop()
    link_is(page, "waiting")
    context.set_offline(True)
    link_is(page, "offline")
    expect(badge(page)).to_contain_text("You are offline.")
    own_server.start()
    context.set_offline(False)
    link_is(page, "live")


@pytest.mark.parametrize("status", [204, 401, 403])
def test_a_refused_stream_makes_the_page_stale_and_one_click_loads_it_again(open_page, status):
    page = open_page(live=False, forgive=str(status))
    page.route("**/stream", lambda route: route.fulfill(status=status))
    page.reload()
    link_is(page, "stale")
    expect(badge(page)).to_contain_text("no longer up to date")
    if status > 400:
        expect(toast(page)).to_contain_text(str(status))
    page.unroute("**/stream")
    badge(page).get_by_role("button").click()
    link_is(page, "live")


def test_a_stream_that_is_answered_by_another_page_makes_the_page_stale(open_page):
    page = open_page(live=False)
    page.route("**/stream", lambda route: route.fulfill(content_type="text/html", body="<h1>Sign in</h1>"))
    page.reload()
    link_is(page, "stale")
    expect(badge(page)).to_contain_text("no longer up to date")


def test_an_event_that_is_answered_by_another_page_is_not_taken_for_done(open_page):
    page = open_page()
    page.route("**/event/**", lambda route: route.fulfill(content_type="text/html", body="<h1>Sign in</h1>"))
    click(page, "add")
    expect(toast(page)).to_contain_text("This was not answered.")


def test_a_page_without_states_says_nothing_of_a_link(open_page):
    page = open_page("/plain", live=False)
    expect(page.locator("html")).not_to_have_attribute("data-fs-link", re.compile(""))
    page.wait_for_timeout(QUIET + 500)
    expect(badge(page)).to_have_count(0)
    expect(page.locator("html")).not_to_have_attribute("data-fs-link", re.compile(""))


def test_a_page_without_states_may_send_events(open_page):
    page, other = open_page("/plain", live=False), open_page()
    shown = number(other, "n")
    click(page, "add")
    shows(other, "n", shown + 1)


def test_a_page_may_send_an_event_as_soon_as_it_is_there(open_page):
    page = open_page("/beginning")
    link_is(page, "live")
    shown = number(page, "n")
    page.reload()
    shows(page, "n", shown + 1)


def test_a_page_that_is_hidden_for_a_moment_is_live_after_it_whatever_happened_meanwhile(open_page):
    page, other = open_page(), open_page()
    link_is(page, "live")
    first = wait_live(page)
    hide(page)
    page.evaluate("dispatchEvent(new Event('online'))")
    hide(page, False)
    wait_live(page, after=first)
    shown = number(other, "n")
    click(other, "add")
    shows(page, "n", shown + 1)


def test_a_page_that_nobody_has_seen_opens_no_stream(server, new_context, open_on, open_page):
    watcher = open_page()
    before = watcher.request.get(server.url + "/stats").json()["connections_total"]
    context = new_context(own=True)
    context.add_init_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page = open_on(server, context=context, live=False)
    link_is(page, "connecting")
    wait_ready(page)
    shown = number(watcher, "n")
    click(page, "add")  # an event needs no stream, and its answer is later than a stream's request would have been
    shows(page, "n", shown + 1)
    assert watcher.request.get(server.url + "/stats").json()["connections_total"] == before
    hide(page, False)
    link_is(page, "live")


def test_the_badge_says_the_apps_own_words(serve_app, open_on):
    server = serve_app(APPS / APP, env={"OFFLINE": "Gone fishing", "STYLED": "1"})
    page = open_on(server, forgive=GONE)
    server.stop()
    expect(badge(page)).to_have_text("Gone fishing", timeout=10_000)
    expect(badge(page)).to_have_css("background-color", "rgb(1, 2, 3)")


def test_an_app_may_have_no_badge(serve_app, open_on, new_context):
    server = serve_app(APPS / APP, env={"OFFLINE": ""})
    page = open_on(server, context=new_context(own=True), forgive=GONE)  # the clock is the context's for good
    page.clock.install()
    server.stop()
    link_is(page, "waiting")
    page.clock.run_for(5_000)
    expect(page.locator(".faststate-badge")).to_have_count(0)


def test_a_page_from_before_a_deploy_loads_itself_again_once(serve_app, open_on):
    server = serve_app(APPS / "deploy.py")
    page = open_on(server, forgive=GONE)
    old = page.request.get(server.url).body()
    (server.cwd / "new").touch()
    page.evaluate("window.old = true")
    server.restart()
    page.wait_for_function("() => !window.old")
    wait_live(page)
    click(page, "add")
    shows(page, "n", 6)

    # A cache that gives the old page once more must not have it load itself for ever.
    loads = []
    page.route(server.url + "/", lambda route: (loads.append(1), route.fulfill(body=old, content_type="text/html")))
    page.reload()
    expect(toast(page)).to_contain_text("out of date", timeout=30_000)
    assert len(loads) <= 2


def at(server, port):
    """The same server behind a proxy, for `open_on`."""
    return type("Proxied", (), {"url": f"http://127.0.0.1:{port}"})
