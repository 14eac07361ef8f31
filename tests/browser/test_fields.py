"""Bound fields, choices and forms: what a person typed or chose is theirs until the server answers that very input."""

import json

from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import APPS
from tests.support.browser import click, hide, holds, shows, toast, wait_live

APP = "fields.py"


def sent_by(page: Page, event: str, act) -> dict:
    """Return the payload of the event that `act` makes the page send."""
    with page.expect_request(f"**/event/*/{event}") as found:
        act()
    request: Request = found.value
    payload: dict = json.loads(request.post_data or "")
    return payload


def hold_answers(page: Page, event: str) -> list[tuple[Route, object]]:
    """Have the server answer an event, and keep the answers: each with its route, to be fulfilled with it."""
    held: list[tuple[Route, object]] = []
    page.route(f"**/event/*/{event}", lambda route: held.append((route, route.fetch())))
    return held


def wait_for(page: Page, held: list, count: int = 1) -> None:
    for _ in range(1_000):
        if len(held) >= count:
            return
        page.wait_for_timeout(10)  # routes are served meanwhile
    raise AssertionError(f"{len(held)} of {count} requests came")


def let_go(held: list[tuple[Route, object]]) -> None:
    while held:
        route, answer = held.pop(0)
        route.fulfill(response=answer)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_a_click_sends_no_field_that_its_person_has_not_changed(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    one.locator("#title").fill("typed by one")
    shows(two, "shown", "typed by one")
    assert "b" not in sent_by(two, "like", lambda: click(two, "like"))
    two.locator("#note").fill("typed by two")
    assert sent_by(two, "like", lambda: click(two, "like"))["b"] == {"note": "typed by two"}
    holds(one, "note", "typed by two")
    assert "b" not in sent_by(two, "like", lambda: click(two, "like"))


def test_a_click_of_a_page_that_is_behind_takes_no_text_away(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    one.locator("#title").fill("")
    holds(two, "title", "")
    held = hold_answers(one, "save")
    text = "quick brown fox"
    one.locator("#title").press_sequentially(text, delay=5)
    click(two, "like")
    wait_for(one, held)  # the others wait for its answer, or go together
    click(two, "like")
    let_go(held)
    for page in (one, two):
        holds(page, "title", text)
    holds(open_page("/", new_context()), "title", text)


def test_a_box_that_is_ticked_and_unticked_at_once_ends_unticked(open_page):
    page, other = open_page(), open_page()
    waiting: list[Route] = []
    page.route("**/event/Doc/save", lambda route: waiting.append(route))
    page.locator("#agreed").check()
    page.locator("#agreed").uncheck()
    wait_for(page, waiting, 2)
    first, second = waiting
    second.continue_()
    first.continue_()
    click(other, "like")
    for tab in (page, other):
        expect(tab.locator("#agreed")).not_to_be_checked()
    expect(open_page().locator("#agreed")).not_to_be_checked()


# -- what stays --------------------------------------------------------------------------------------------------------


def test_unsent_text_stays_when_the_stream_is_opened_again(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    stream = wait_live(one)
    one.locator("#note").fill("half a page")
    hide(one)
    one.wait_for_function("document.documentElement.dataset.fsLink === 'waiting'")
    before = two.locator("#likes").text_content()
    click(two, "like")
    expect(two.locator("#likes")).not_to_have_text(before or "")
    hide(one, False)
    wait_live(one, after=stream)
    expect(one.locator("#likes")).not_to_have_text(before or "")
    holds(one, "note", "half a page")


def test_unsent_text_stays_when_the_server_is_restarted(serve_app, open_on):
    server = serve_app(APPS / APP)
    page = open_on(server, forgive="ERR_|Failed to load")
    stream = wait_live(page)
    page.locator("#note").fill("half a page")
    server.kill()
    server.start()
    wait_live(page, after=stream)
    holds(page, "note", "half a page")
    click(page, "like")
    holds(open_on(server), "note", "half a page")


def test_two_people_in_one_field_end_with_the_same_text(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    held = hold_answers(one, "save")
    one.locator("#title").fill("mine")
    wait_for(one, held)
    shows(two, "shown", "mine")
    two.locator("#title").fill("theirs")
    shows(one, "shown", "mine")  # it is on its way still
    let_go(held)
    for page in (one, two):
        holds(page, "title", "theirs")
        shows(page, "shown", "theirs")


def test_the_caret_stays_where_it_was_when_somebody_else_changes_the_text(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    one.locator("#title").fill("abcdef")
    holds(two, "title", "abcdef")
    two.locator("#title").evaluate("input => { input.focus(); input.setSelectionRange(1, 3) }")
    one.locator("#title").fill("abcdefgh")
    holds(two, "title", "abcdefgh")
    assert two.locator("#title").evaluate("input => [input.selectionStart, input.selectionEnd]") == [1, 3]


def test_a_text_that_is_being_composed_is_not_touched(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    one.locator("#title").fill("")
    one.locator("#title").dispatch_event("compositionstart")
    two.locator("#title").fill("theirs")
    shows(one, "shown", "theirs")
    holds(one, "title", "")
    one.locator("#title").dispatch_event("compositionend")
    one.locator("#title").blur()
    holds(one, "title", "theirs")


def test_a_fragment_that_shows_the_same_state_takes_no_text_away(open_page, new_context):
    one, two = open_page(), open_page("/", new_context())
    two.locator("#title").fill("shown")
    shows(one, "shown", "shown")
    one.route("**/event/Doc/save", lambda route: None)
    text = "\\\\@x('y')"
    one.locator("#title").fill(text)
    one.locator("#note").fill("and not sent")
    one.evaluate(
        """async () => {
            const answer = await fetch('/fragment', {headers: {'hx-request': 'true'}});
            document.querySelector('main').insertAdjacentHTML('beforeend', await answer.text());
        }"""
    )
    expect(one.locator("#fragment span")).to_have_text(text)
    holds(one, "title", text)
    holds(one, "note", "and not sent")


def test_a_signal_that_is_bound_by_hand_is_sent_too(open_page):
    one, two = open_page(), open_page()
    one.locator("#by-hand").fill("by hand")
    holds(one, "note", "by hand")
    click(one, "like")
    for name in ("note", "by-hand"):
        holds(two, name, "by hand")


# -- numbers, and corrections ------------------------------------------------------------------------------------------


def test_a_correction_does_not_change_a_text_that_is_being_written(open_page):
    page = open_page()
    for name, text, part in (
        ("price", "12.50", "|12.50|"),
        ("ratio", "3.25", "|3.25|"),
        ("name", "two words here", "two words here|"),
        ("amount", "105", "|105|"),
    ):
        field = page.locator(f"#{name}")
        field.fill("")
        for letter in text:  # each with its answer, or none at all where it means nothing yet
            field.press_sequentially(letter)
            page.wait_for_timeout(30)
        expect(page.locator("#heard")).to_contain_text(part)
        holds(page, name, text)
    page.locator("#name").press("End")
    page.locator("#name").press_sequentially("  ")
    holds(page, "name", "two words here  ")
    page.locator("#name").blur()
    holds(page, "name", "two words here")


def test_numbers_are_sent_as_they_are_meant(open_page):
    page = open_page()
    for name, text, value in (
        ("amount", "-5", -5),
        ("ratio", "1e3", 1000),
        ("most", "7", 7),
        ("price", "0.10", "0.10"),
    ):
        field = page.locator(f"#{name}")
        field.fill("")
        field.press_sequentially(text)
        expect(page.locator("#heard")).to_contain_text(f"|{value}" if name != "ratio" else "|1000.0|")
        holds(page, name, text)
    assert sent_by(page, "save", lambda: page.locator("#most").fill(""))["b"] == {"most": ""}
    expect(page.locator("#heard")).to_contain_text("|None|")
    holds(page, "most", "")


def test_a_refused_number_goes_back_when_its_person_leaves_it(open_page):
    page = open_page()
    page.locator("#amount").fill("4")
    expect(page.locator("#heard")).to_contain_text("|4|")
    page.locator("#amount").fill("4000")
    expect(toast(page)).to_be_visible()
    holds(page, "amount", "4000")
    page.locator("#amount").blur()
    holds(page, "amount", "4")
    page.locator("#title").fill("goes on")
    shows(page, "shown", "goes on")
    expect(toast(page)).to_be_hidden()


def test_a_refused_text_stays_to_be_corrected(open_page):
    page, other = open_page(), open_page()
    page.locator("#title").fill("x" * 21)
    expect(toast(page)).to_be_visible()
    page.locator("#title").blur()
    holds(page, "title", "x" * 21)
    page.locator("#title").fill("shorter")
    shows(other, "shown", "shorter")
    expect(toast(page)).to_be_hidden()


# -- choices -----------------------------------------------------------------------------------------------------------


def test_a_refused_box_is_set_back(open_page):
    page = open_page()
    page.locator("#locked").click()
    expect(toast(page)).to_have_text("Only an admin may lock it.")
    expect(page.locator("#locked")).not_to_be_checked()
    page.locator("#name").fill("goes on")
    expect(page.locator("#heard")).to_contain_text("goes on|")
    expect(toast(page)).to_be_hidden()


def test_a_refused_choice_in_a_view_is_set_back(open_page):
    page = open_page("/shop")
    page.locator("#special").click()  # its answer may be there before a check would look
    expect(toast(page)).to_have_text("Only an admin may do that.")
    expect(page.locator("#special")).not_to_be_checked()
    page.locator("#order").select_option("c")
    expect(toast(page)).to_have_text("It is sold out.")
    holds(page, "order", "b")


def test_a_select_finds_the_option_that_comes_with_its_value(open_page):
    page, other = open_page("/shop"), open_page("/shop")
    click(page, "only")
    for tab in (page, other):
        holds(tab, "bound", "d")
    click(page, "offer")
    expect(other.locator("#bound option")).to_have_count(3)
    for tab in (page, other):
        holds(tab, "bound", "d")


def test_a_choice_is_kept_when_options_are_added_before_it(open_page):
    page = open_page("/shop")
    last = page.locator("#size option").last.get_attribute("value") or ""
    page.locator("#size").select_option(last)
    before = page.locator("#size option").count()
    click(page, "offer")
    expect(page.locator("#size option")).to_have_count(before + 1)
    holds(page, "size", last)
    page.locator("#buy").click()
    shows(page, "bought", last)


def test_a_select_of_many_sends_all_that_are_chosen(open_page):
    page, other = open_page("/shop"), open_page("/shop")
    page.locator("#colours").select_option(["red", "blue"])
    expect(page.locator("#bought")).to_contain_text("|red,blue")
    expect(other.locator("#colours")).to_have_values(["red", "blue"])


def test_radio_buttons_boxes_and_dates_are_values_of_their_fields(open_page):
    page, other = open_page(), open_page()
    page.locator("#level-3").check()
    expect(page.locator("#made")).to_contain_text("3||")
    page.locator("#tag-red").check()
    page.locator("#tag-blue").check()
    page.locator("#day").fill("2026-01-31")
    page.locator("#day").blur()
    shows(page, "made", "3|red,blue|2026-01-31")
    page.locator("#tag-red").uncheck()
    for tab in (page, other):
        shows(tab, "made", "3|blue|2026-01-31")
        expect(tab.locator("#level-3")).to_be_checked()
        expect(tab.locator("#level-1")).not_to_be_checked()
        expect(tab.locator("#tag-red")).not_to_be_checked()
        expect(tab.locator("#tag-blue")).to_be_checked()
        holds(tab, "day", "2026-01-31")
    page.locator("#day").fill("")
    page.locator("#day").blur()
    shows(other, "made", "3|blue|None")


# -- forms -------------------------------------------------------------------------------------------------------------


def test_what_is_typed_while_a_form_is_sent_stays(open_page):
    page = open_page("/todo")
    held = hold_answers(page, "add")
    page.locator("#text").fill("milk")
    page.locator("#urgent").check()
    page.locator("#work").check()
    page.locator("#text").press("Enter")
    wait_for(page, held)
    page.locator("#text").fill("bread")
    let_go(held)
    shows(page, "last", "milk|work|True")
    expect(page.locator("#urgent")).not_to_be_checked()
    expect(page.locator("#home")).to_be_checked()
    holds(page, "text", "bread")
    page.locator("#text").press("Enter")
    wait_for(page, held)
    let_go(held)
    shows(page, "last", "bread|home|False")
    holds(page, "text", "")


def test_a_form_is_sent_once_and_shows_that_it_is_busy(open_page):
    page = open_page("/todo")
    held = hold_answers(page, "add")
    page.locator("#text").fill("a car")
    page.locator("#add").focus()
    page.evaluate("for (let i = 0; i < 5; i++) document.getElementById('form').requestSubmit()")
    wait_for(page, held)
    expect(page.locator("#form")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#add")).to_be_disabled()
    page.evaluate("document.getElementById('form').requestSubmit()")
    assert len(held) == 1
    let_go(held)
    expect(page.locator("#add")).to_be_enabled()
    expect(page.locator("#form")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#add")).to_be_focused()
    page.locator("#text").fill("no")
    page.locator("#add").click()
    wait_for(page, held)
    let_go(held)
    expect(toast(page)).to_have_text("Not that.")
    expect(page.locator("#add")).to_be_enabled()
    holds(page, "text", "no")


def test_a_form_with_a_bound_input_shows_the_state_when_it_is_reset(open_page):
    page = open_page("/filled")
    page.locator("#name").fill("  Ann ")
    page.locator("#other").fill("more")
    page.locator("#other").press("Enter")
    expect(page.locator("#heard")).to_have_text("Ann| Ann |more")
    holds(page, "other", "")
    holds(page, "name", "Ann")
