"""Kept states as a person sees them: over restarts, when others change the row, when two edit, when a tab is closed."""

import pytest
from playwright.sync_api import expect

from tests.support.browser import shows, wait_live

from .conftest import APPS

APP = "keeping.py"


@pytest.fixture
def server(serve_app):
    """A server of the test's own, which it may stop, and whose rows it changes."""
    return serve_app(APPS / APP)


@pytest.fixture
def two_pages(open_page, new_context):
    """Open the product 1 in the browsers of two people."""
    return open_page("/products/1", new_context()), open_page("/products/1", new_context())


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "killed"])
def test_open_tabs_go_on_where_they_were_over_a_restart(server, open_page, crash):
    allowed = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET"
    one, two = open_page(forgive=allowed), open_page(forgive=allowed)
    before = wait_live(one), wait_live(two)
    for button in ("#add", "#add", "#add", "#go"):
        # What is shown may come before the event's answer, and the server may not be killed in between.
        with one.expect_request_finished(lambda request: "/event/" in request.url):
            one.locator(button).dispatch_event("click")
    shows(two, "count", 3)
    shows(one, "step", 1)
    server.restart(crash=crash)
    for page, stream in zip((one, two), before, strict=True):
        wait_live(page, after=stream)
        shows(page, "count", 3)
    two.locator("#add").dispatch_event("click")
    one.locator("#go").dispatch_event("click")
    shows(one, "count", 4)
    shows(one, "step", 2)


def test_all_who_look_at_a_row_follow_it_and_what_other_code_does_to_it(server, two_pages):
    one, two = two_pages
    one.locator("#buy").dispatch_event("click")
    shows(two, "stock", 4)
    shows(two, "label", "Tea, 4 left")
    one.request.get(f"{server.url}/restock?by=10")
    for page in (one, two):
        shows(page, "stock", 14)
        shows(page, "label", "Tea, 14 left")


def test_a_row_that_is_deleted_vanishes_from_open_pages_with_a_word(server, open_page, new_context):
    one, two = open_page("/products/2", new_context()), open_page("/products/1", new_context())
    two.request.get(f"{server.url}/drop?number=2")
    expect(one.locator(".faststate-toast")).to_have_text("This is not there any more.")
    shows(one, "stock", "")
    expect(one.locator("#label")).to_have_text("")
    shows(two, "stock", 5)
    one.locator(".faststate-toast").click()
    one.locator("#buy").dispatch_event("click")
    expect(one.locator(".faststate-toast")).to_contain_text("there is no Product 2")
    assert one.request.get(f"{server.url}/products/2").status == 404


def test_of_two_who_edit_the_same_version_the_second_is_told_and_shown_what_it_is_now(two_pages):
    one, two = two_pages
    # What the second one sends is held up until the first one's change has been made.
    two.route("**/event/Product/rename", lambda route: held.append(route))
    held = []
    two.locator("#name").fill("Yours")
    two.locator("#rename").evaluate("form => form.requestSubmit()")
    two.wait_for_function("() => true")
    while not held:
        two.wait_for_timeout(10)  # lets Playwright take the request in
    one.locator("#name").fill("Mine")
    one.locator("#rename").evaluate("form => form.requestSubmit()")
    shows(one, "label", "Mine, 5 left")
    held[0].continue_()
    expect(two.locator(".faststate-toast")).to_contain_text("has changed meanwhile")
    shows(two, "label", "Mine, 5 left")
    assert two.locator("#name").input_value() == "Yours"  # nothing that was typed is lost
    two.unroute("**/event/Product/rename")
    two.locator("#rename").evaluate("form => form.requestSubmit()")
    shows(one, "label", "Yours, 5 left")


def test_what_was_typed_over_an_older_version_is_not_saved_over_a_newer_one_unseen(two_pages):
    one, two = two_pages

    def rename(page, name):
        page.locator("#name").fill(name)
        page.locator("#rename").evaluate("form => form.requestSubmit()")

    two.locator("#name").fill("Yours")  # begun before the first one saves, and sent when that has long been shown
    rename(one, "Mine")
    shows(two, "label", "Mine, 5 left")
    two.locator("#rename").evaluate("form => form.requestSubmit()")
    expect(two.locator(".faststate-toast")).to_contain_text("has changed meanwhile")
    assert two.locator("#name").input_value() == "Yours"
    two.locator("#rename").evaluate("form => form.requestSubmit()")  # all the same
    shows(one, "label", "Yours, 5 left")
    for name in ("a", "b", "c"):  # one who goes on saving is never in conflict with themselves
        rename(two, name)
        shows(two, "label", f"{name}, 5 left")
        expect(two.locator("#name")).to_have_value("")
    assert two.locator(".faststate-toast").is_hidden()
    rename(one, "d")
    expect(one.locator(".faststate-toast")).to_contain_text("has changed meanwhile")


def test_a_tab_that_is_closed_takes_its_temporary_state_along(open_page):
    other, tab = open_page(), open_page()
    assert kept(other).count("temporary") == 2
    tab.close(run_before_unload=True)
    other.wait_for_function(
        "async () => (await (await fetch('/states')).json()).keys.filter(key => key === 'temporary').length === 1",
        polling=50,
    )


def kept(page):
    return page.request.get(f"{page.url}states").json()["keys"]
