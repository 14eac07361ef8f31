"""Tabs, sessions and scopes: who sees which change, and what a page survives."""

import re
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.support.browser import console_errors, hide, number, shows, toast, wait_live, wait_ready

from .conftest import APPS, offline

APP = "scopes.py"


def click(page, name, times=1):
    for _ in range(times):
        page.locator(f"#add-{name}").dispatch_event("click")  # the mouse would wait for a tab in the background


def stats(server, context):
    return context.request.get(f"{server.url}/stats").json()


def wait_for_connections(server, page, number):
    """Wait until the server has `number` open streams; `page` is any tab, it does the asking."""
    page.wait_for_function(
        "async number => (await (await fetch('/stats')).json()).connections === number", arg=number, polling=50
    )


@contextmanager
def hidden(page):
    """The page as a tab in the background, as far as a script can tell, when it has given its stream back."""
    hide(page)
    expect(page.locator("html")).to_have_attribute("data-fs-link", "waiting")
    yield
    hide(page, False)


def test_two_tabs_of_one_session_see_one_count(open_page):
    one, two = open_page(), open_page()
    click(one, "mine")
    shows(two, "mine", 1)
    click(two, "mine", 2)
    shows(one, "mine", 3)
    shows(two, "mine", 3)


def test_two_sessions_stay_apart_and_share_what_is_global(open_page, new_context):
    one, two = open_page(), open_page(context=new_context())
    before = number(one, "all")
    click(one, "mine", 2)
    click(one, "all")
    shows(two, "all", before + 1)  # streams keep their order: had the clicks before come here, they would be seen
    shows(two, "mine", 0)
    click(two, "mine")
    click(two, "all")
    shows(one, "all", before + 2)
    shows(one, "mine", 2)
    shows(two, "mine", 1)


def test_a_record_is_shared_by_all_who_show_it_and_by_no_other_record(open_page, new_context):
    one, two = open_page("/product/a-1"), open_page("/product/a-1", new_context())
    other = open_page("/product/a")
    click(one, "product")
    shows(two, "product", 1)
    click(other, "product", 3)
    shows(other, "product", 3)
    click(two, "product")
    shows(one, "product", 2)


def test_two_components_on_one_page_do_not_collide(open_page, new_context):
    one, two, stranger = open_page("/sides"), open_page("/sides"), open_page("/sides", new_context())
    click(one, "left", 2)
    click(two, "right")
    for page in (one, two):
        shows(page, "left", 2)
        shows(page, "right", 1)
    shows(stranger, "left", 0)


def test_reload_keeps_the_state(open_page):
    page = open_page()
    click(page, "mine", 2)
    shows(page, "mine", 2)
    page.reload()
    shows(page, "mine", 2)
    wait_live(page)
    click(page, "mine")
    shows(page, "mine", 3)


def test_the_page_shows_its_state_without_javascript(server, browser):
    context = offline(browser.new_context(java_script_enabled=False))
    page = context.new_page()
    page.goto(server.url + "/product/7")
    shows(page, "product", 0)
    context.close()


def test_five_fast_clicks_all_count(open_page):
    one, two = open_page(), open_page()
    one.evaluate("for (let i = 0; i < 5; i++) document.getElementById('add-mine').click()")
    shows(one, "mine", 5)
    shows(two, "mine", 5)


def test_clicks_before_the_stream_is_open_count(open_page):
    page = open_page(live=False)
    wait_ready(page)
    click(page, "mine", 3)
    shows(page, "mine", 3)
    page.reload()
    shows(page, "mine", 3)


def test_a_hidden_tab_lets_its_stream_go_and_catches_up_on_return(open_page, server):
    one, two = open_page(), open_page()
    first = wait_live(two)
    before = stats(server, one.context)["connections"]
    with hidden(two):
        wait_for_connections(server, one, before - 1)
        click(one, "mine", 3)
        shows(one, "mine", 3)
        shows(two, "mine", 0)
    shows(two, "mine", 3)
    wait_live(two, after=first)
    click(two, "mine")
    shows(one, "mine", 4)
    shows(two, "mine", 4)


def test_a_click_in_a_tab_without_a_stream_shows_there(open_page, server):
    one, two = open_page(), open_page()
    before = stats(server, one.context)["connections"]
    with hidden(two):
        wait_for_connections(server, one, before - 1)
        click(two, "mine")
        shows(two, "mine", 1)
        shows(one, "mine", 1)
    shows(two, "mine", 1)


def test_navigating_away_closes_the_stream_and_back_opens_it(open_page, server):
    one, two = open_page(), open_page()
    before = stats(server, one.context)["connections"]
    two.goto(server.url + "/plain")
    wait_for_connections(server, one, before - 1)
    click(one, "mine")
    two.go_back()
    shows(two, "mine", 1)
    wait_live(two)
    click(one, "mine")
    shows(two, "mine", 2)
    two.close()
    wait_for_connections(server, one, before - 1)


def test_a_page_in_the_back_forward_cache_holds_no_stream_and_catches_up(server, chromium, open_page):
    kind, options = chromium
    watcher = open_page()
    with kind.launch(**options, ignore_default_args=["--disable-back-forward-cache"]) as browser:
        page = offline(browser.new_context()).new_page()
        errors = console_errors(page)
        page.goto(server.url + "/product/cached")
        first = wait_live(page)
        page.evaluate("window.kept = true")
        before = stats(server, watcher.context)["connections"]
        page.goto(server.url + "/plain")
        wait_for_connections(server, watcher, before - 1)
        other = open_page("/product/cached")
        click(other, "product", 2)
        shows(other, "product", 2)
        page.go_back(wait_until="commit")  # "load" does not happen again
        shows(page, "product", 2)
        assert page.evaluate("window.kept"), "the page was loaded anew: this test shows nothing of the cache"
        wait_live(page, after=first)
        click(page, "product")
        shows(other, "product", 3)
        assert errors == []


def test_a_restarted_server_gets_its_pages_back(serve_app, open_on):
    server = serve_app(APPS / APP)
    one, two = (open_on(server, forgive="ERR_CONNECTION_REFUSED") for _ in range(2))
    first = wait_live(one), wait_live(two)
    click(one, "mine", 4)
    click(one, "all", 2)
    shows(two, "all", 2)
    shows(two, "mine", 4)
    server.restart()
    for page, before in zip((one, two), first, strict=True):
        wait_live(page, after=before)
        shows(page, "mine", 0)  # states live in memory: the new process has none of the old
        shows(page, "all", 0)
    click(two, "mine")
    shows(one, "mine", 1)


def test_a_killed_server_gets_its_pages_back(serve_app, open_on):
    server = serve_app(APPS / APP)
    page = open_on(server, forgive=".")
    before = wait_live(page)
    click(page, "mine", 2)
    shows(page, "mine", 2)
    server.restart(crash=True)
    wait_live(page, after=before)
    shows(page, "mine", 0)
    click(page, "mine")
    shows(page, "mine", 1)


def test_two_first_tabs_at_once_end_up_in_step(open_page):
    """Both are asked for before either has a cookie, so each gets a session; the last cookie wins."""
    one, two = open_page("/plain", live=False), open_page("/plain", live=False)
    one.evaluate("setTimeout(() => location.assign('/together?tab=1'))")
    two.goto(two.url.replace("/plain", "/together?tab=2"))
    one.wait_for_url("**/together*")
    wait_live(one)
    wait_live(two)
    click(one, "mine")
    shows(two, "mine", 1)
    click(two, "mine")
    shows(one, "mine", 2)


@pytest.fixture
def live_and_late(open_page, context, server, request):
    """Two first tabs, of which the second is answered when the first is live, and takes its session away."""
    race = request.node.name
    late = open_page("/plain", live=False)
    late.evaluate("race => void setTimeout(() => location.assign('/late?race=' + race))", race)
    context.request.get(f"{server.url}/wait_for_late?race={race}")
    live = open_page()
    context.request.get(f"{server.url}/release?race={race}")
    late.wait_for_url("**/late*")
    wait_live(late)
    return live, late


def test_a_click_in_a_tab_that_lost_its_session_brings_it_into_step(live_and_late):
    live, late = live_and_late
    with live.expect_navigation():
        click(live, "mine")
    wait_live(live)
    count = number(live, "mine")
    click(live, "mine")
    shows(late, "mine", count + 1)
    click(late, "mine")
    shows(live, "mine", count + 2)


def test_a_tab_that_lost_its_session_is_in_step_when_it_is_looked_at_again(live_and_late):
    live, late = live_and_late
    click(late, "mine", 2)
    shows(late, "mine", 2)
    with live.expect_navigation(), hidden(live):
        pass
    shows(live, "mine", 2)
    wait_live(live)
    click(late, "mine")
    shows(live, "mine", 3)


def test_a_click_runs_once_when_its_answer_is_lost(open_page):
    one, two = open_page(forgive="ERR_FAILED|FetchFailed"), open_page()

    def deliver_and_lose(route):
        route.fetch()
        route.abort()

    one.route("**/event/**", deliver_and_lose)
    click(one, "mine")
    shows(two, "mine", 1)
    shows(one, "mine", 1)
    expect(toast(one)).to_be_visible()
    one.unroute("**/event/**")
    click(one, "mine")
    shows(one, "mine", 2)
    shows(two, "mine", 2)
    expect(toast(one)).to_be_hidden()


def bring(page, target="more"):
    """Fetch a fragment and put it into the page, as HTMX does."""
    page.evaluate(
        """async target => { document.getElementById(target).innerHTML =
            await (await fetch("/fragment", {headers: {"HX-Request": "true"}})).text() }""",
        target,
    )
    shows(page, "brought", re.compile("[0-9]+"))


def test_a_fragment_with_another_state_is_live_too_and_so_is_the_page(open_page, server):
    page, other, sides = open_page(), open_page(), open_page("/sides")
    before, first = stats(server, page.context)["connections"], wait_live(page)
    bring(page)
    wait_live(page, after=first)
    wait_for_connections(server, other, before)  # one stream took the other's place
    click(sides, "left", 2)
    shows(page, "brought", 2)
    click(page, "brought")
    shows(sides, "left", 3)
    click(other, "mine")
    shows(page, "mine", 1)
    count = number(other, "all")
    click(page, "again")
    for name in ("all", "again"):
        shows(page, name, count + 1)
    shows(other, "all", count + 1)


def test_a_fragment_brought_twice_or_taken_away_leaves_the_page_live(open_page, server):
    page, other = open_page(), open_page()
    before = stats(server, page.context)["connections"]
    for _ in range(2):
        first = wait_live(page)
        bring(page)
        wait_live(page, after=first)
    page.evaluate("document.getElementById('more').replaceChildren()")
    click(other, "mine")
    shows(page, "mine", 1)
    click(page, "mine")
    shows(other, "mine", 2)
    wait_for_connections(server, other, before)


def test_a_document_of_one_s_own_is_live(open_page):
    one, two = open_page("/document"), open_page()
    click(one, "mine")
    shows(one, "mine", 1)
    shows(two, "mine", 1)


def test_a_page_whose_route_was_there_before_the_provider_is_live(serve_app, open_on):
    page = open_on(serve_app(APPS / "early.py"))
    click(page, "mine")
    shows(page, "mine", 1)


def test_without_cookies_a_page_is_static_and_does_not_reload(server, chromium, tmp_path):
    kind, options = chromium
    settings = tmp_path / "Default" / "Preferences"
    settings.parent.mkdir()
    settings.write_text('{"profile": {"default_content_setting_values": {"cookies": 2}}}')
    with kind.launch_persistent_context(tmp_path, **options) as context:
        page = offline(context).new_page()
        errors, loads = console_errors(page), []
        page.on("framenavigated", lambda frame: loads.append(frame.url))
        with page.expect_response("**/stream*") as stream:
            page.goto(server.url)
        assert stream.value.status == 204
        shows(page, "mine", 0)
        with page.expect_response("**/event/**"):
            click(page, "mine")
        expect(toast(page)).to_have_text(re.compile("cookies"))
        shows(page, "mine", 0)
        assert len(loads) == 1
        assert errors == []
