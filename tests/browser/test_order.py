"""What a person clicks runs in that order, and once, whatever becomes of the requests."""

import pytest
from playwright.sync_api import expect

from tests.support.browser import click, shows, toast

from .conftest import APPS

APP = "order.py"

LOST = "ERR_FAILED|ERR_CONNECTION"


@pytest.fixture(autouse=True)
def held(server, context):
    """The slow event waits until the test releases it."""
    context.request.get(f"{server.url}/hold")
    yield
    context.request.get(f"{server.url}/release")


def hold_requests(page, pattern="**/event/**"):
    """Hold the page's next request of this kind up on its way; return what lets it go on."""
    routes = []
    page.route(pattern, lambda route: routes.append(route), times=1)

    def go_on():
        while not routes:
            page.wait_for_timeout(10)
        routes.pop().continue_()

    return go_on


def test_clicks_run_in_their_order_though_the_first_is_held_up_on_its_way(open_page):
    one, two = open_page(), open_page()
    go_on = hold_requests(one)
    sent = []
    one.on("request", lambda request: sent.append(request.url.partition("/_faststate/")[2]))
    for n in range(1, 6):
        click(one, f"key-{n}")
    go_on()
    for tab in (one, two):
        shows(tab, "digits", "12345")
    assert sent == ["event/Keys/digit", "events"]


def test_a_box_that_was_ticked_and_unticked_ends_unticked(open_page):
    one, two = open_page(), open_page()
    go_on = hold_requests(one)
    one.locator("#box").click()
    expect(one.locator("#box")).to_be_checked()
    one.locator("#box").click()
    go_on()
    click(one, "key-1")
    shows(two, "digits", "1")
    for tab in (one, two):
        expect(tab.locator("#box")).not_to_be_checked()


def test_what_a_batch_refuses_is_said_and_what_is_behind_it_runs(open_page):
    page = open_page()
    go_on = hold_requests(page)
    for n in (1, 2, 9, 3):
        click(page, f"key-{n}")
    go_on()
    shows(page, "digits", "123")
    expect(toast(page)).to_have_text("There is no nine.")
    click(page, "key-4")
    shows(page, "digits", "1234")
    expect(toast(page)).to_be_hidden()


def test_a_form_behind_other_clicks_is_sent_in_its_turn_and_emptied(open_page):
    page = open_page()
    go_on = hold_requests(page)
    click(page, "key-1")
    page.locator("#text").fill("note")
    page.locator("#text").press("Enter")
    click(page, "key-2")
    expect(page.locator("#text")).to_have_value("note")
    go_on()
    shows(page, "digits", "1[note]2")
    expect(page.locator("#text")).to_have_value("")


@pytest.mark.parametrize("slow", ["wait", "steps"])
def test_a_slow_event_holds_the_next_clicks_up_for_two_seconds_only(open_page, server, slow):
    page = open_page()
    before = page.locator("#clicks").inner_text()
    click(page, slow)
    click(page, "key-1")
    click(page, "click-a")  # another state waits for nothing
    shows(page, "clicks", before + "a")
    if slow == "steps":  # it is between two steps, and others may change the state
        shows(page, "digits", "1")
        click(page, "key-2")
        shows(page, "digits", "12")
    page.context.request.get(f"{server.url}/release")
    shows(page, "digits", "w1" if slow == "wait" else "12s")


def test_a_click_whose_request_is_lost_is_sent_again(open_page):
    page = open_page(forgive=LOST)
    lost = []

    def lose(route):
        lost.append(route.request.headers["faststate-nonce"])
        route.abort()

    page.route("**/event/**", lose, times=1)
    click(page, "key-1")
    click(page, "key-2")
    shows(page, "digits", "12")
    expect(toast(page)).to_be_hidden()
    assert len(lost) == 1


def test_a_click_that_has_run_and_whose_answer_is_lost_runs_once(open_page):
    page = open_page(forgive=LOST)
    answers = []

    def deliver_and_lose(route):
        answers.append(route.fetch().status)
        route.abort()

    page.route("**/event/**", deliver_and_lose, times=1)
    click(page, "key-1")
    click(page, "key-2")
    shows(page, "digits", "12")
    assert answers == [204]


def test_clicks_while_the_server_is_gone_run_when_it_is_back(serve_app, open_on):
    server = serve_app(APPS / APP)
    page = open_on(server, forgive=LOST + "|ERR_INCOMPLETE|ERR_EMPTY")
    click(page, "click-a")
    shows(page, "clicks", "a")
    server.stop()
    click(page, "click-b")
    click(page, "click-a")
    expect(toast(page)).to_have_text("The server does not answer just now. What you did is sent again until it does.")
    server.start()
    shows(page, "clicks", "ba")  # the state lives in memory, so the new process has none of the first click
    expect(toast(page)).to_be_hidden()


def test_what_waits_when_the_page_is_left_is_sent(open_page, server):
    one, two = open_page(), open_page()
    click(one, "wait")
    for n in (1, 2, 3):
        click(one, f"key-{n}")
    one.goto(f"{server.url}/plain")
    one.context.request.get(f"{server.url}/release")
    shows(two, "digits", "w123")


def test_a_click_that_leaves_the_page_at_once_counts(open_page, server):
    one, two = open_page(), open_page()
    one.evaluate(
        """url => {
            for (const n of [1, 2, 3]) document.getElementById(`key-${n}`).click();
            location.assign(url);
        }""",
        f"{server.url}/plain",
    )
    shows(two, "digits", "123")
