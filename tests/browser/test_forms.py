"""Forms, bound inputs and refusals, typed as a person types."""

import re
import time

from playwright.sync_api import expect

from tests.support.browser import holds, shows, toast

APP = "forms.py"


def test_enter_sends_a_form_and_success_empties_it(open_page):
    one, two = open_page(), open_page()
    one.locator("#urgent").check()
    one.locator("#text").fill("buy milk")
    one.locator("#text").press("Enter")
    for tab in (one, two):
        shows(tab, "last", "buy milk")
        shows(tab, "was-urgent", "true")
        shows(tab, "taken", "1")
    holds(one, "text", "")
    expect(one.locator("#urgent")).not_to_be_checked()
    one.locator("#text").fill("again")
    one.locator("#write").click()
    shows(two, "last", "again")
    shows(two, "was-urgent", "false")
    assert one.url.endswith("/")


def test_a_refused_form_keeps_what_was_typed_and_says_why(open_page):
    page = open_page()
    expect(toast(page)).to_be_hidden()
    page.locator("#text").fill("far too long a note")
    page.locator("#text").press("Enter")
    expect(toast(page)).to_have_text("A note has at most ten letters.")
    expect(toast(page)).to_be_visible()
    holds(page, "text", "far too long a note")
    shows(page, "taken", "0")
    page.locator("#text").fill("short")
    page.locator("#text").press("Enter")
    holds(page, "text", "")
    expect(toast(page)).to_be_hidden()
    shows(page, "last", "short")


def test_a_form_that_the_browser_finds_invalid_is_not_sent(open_page):
    page = open_page()
    page.locator("#write").click()
    page.locator("#text").fill("now")
    page.locator("#write").click()
    shows(page, "taken", "1")


def test_a_failing_event_says_so_without_telling_the_server_s_secrets(open_page):
    page = open_page()
    page.locator("#fail").dispatch_event("click")
    expect(toast(page)).to_be_visible()
    expect(toast(page)).to_have_text(re.compile("went wrong"))
    assert "secret" not in page.content()
    shows(page, "taken", "0")
    toast(page).click()
    expect(toast(page)).to_be_hidden()


def test_what_is_typed_into_a_bound_input_reaches_the_server_and_the_other_tab(open_page):
    one, two = open_page("/search"), open_page("/search")
    one.locator("#term").press_sequentially("reactive state")
    for tab in (one, two):
        shows(tab, "heard", "reactive state|3|False")
        holds(tab, "term", "reactive state")
    two.locator("#exact").check()
    two.locator("#level").fill("7")
    for tab in (one, two):
        shows(tab, "heard", "reactive state|7|True")
        holds(tab, "level", "7")
        expect(tab.locator("#exact")).to_be_checked()
    one.reload()
    holds(one, "term", "reactive state")
    holds(one, "level", "7")
    expect(one.locator("#exact")).to_be_checked()


def test_no_answer_overwrites_what_was_typed_meanwhile(open_page):
    """Each letter sends an event, and the server's word on an earlier letter comes when later ones are there."""
    page = open_page("/search")
    text = "the quick brown fox jumps over the lazy dog"
    page.evaluate(
        """() => { window.lost = []; let last = '';
            const input = document.getElementById('term');
            const watch = () => { if (input.value.length < last.length) lost.push([last, input.value]);
                last = input.value; requestAnimationFrame(watch) };
            watch() }"""
    )
    page.locator("#term").press_sequentially(text, delay=5)
    shows(page, "heard", f"{text}|3|False")
    holds(page, "term", text)
    shows(page, "sent", str(len(text)))
    assert page.evaluate("lost") == []


def test_the_last_of_many_fast_inputs_is_what_the_server_keeps(open_page):
    """Input events overlap on the wire, and none of them may undo a later one."""
    one, two = open_page("/search"), open_page("/search")
    text = "the quick brown fox jumps over the lazy dog"
    one.locator("#term").evaluate(
        """(input, text) => { for (const letter of text) {
            input.value += letter;
            input.dispatchEvent(new InputEvent("input", {bubbles: true}));
        } }""",
        text,
    )
    shows(one, "sent", str(len(text)))
    for tab in (one, two):
        holds(tab, "term", text)
        shows(tab, "heard", f"{text}|3|False")


def test_an_input_that_is_overtaken_on_the_wire_does_not_undo_the_later_one(open_page):
    one, two = open_page("/search"), open_page("/search")
    held = []
    one.route("**/event/Search/look", lambda route: held.append(route))
    for letter in "ab":
        with one.expect_request("**/event/Search/look"):
            one.locator("#term").press(letter)
    end = time.monotonic() + 10
    while len(held) < 2 and time.monotonic() < end:  # a request is told of before its route is asked
        one.wait_for_timeout(10)
    late, early = held
    early.continue_()
    shows(two, "sent", "1")
    late.continue_()
    shows(two, "sent", "2")
    for tab in (one, two):
        holds(tab, "term", "ab")
        shows(tab, "heard", "ab|3|False")


def test_the_server_may_change_what_was_typed(open_page):
    one, two = open_page("/search"), open_page("/search")
    one.locator("#term").fill("  LOUD ")
    shows(two, "heard", "  LOUD |3|False")
    one.locator("#trim").dispatch_event("click")
    for tab in (one, two):
        holds(tab, "term", "loud")


def test_what_is_typed_and_not_sent_survives_the_changes_of_others(open_page):
    one, two = open_page("/search"), open_page("/search")
    one.locator("#draft").press_sequentially("not yet")
    two.locator("#exact").check()
    shows(one, "heard", "|3|True")
    holds(one, "draft", "not yet")
    holds(two, "draft", "")
    one.locator("#trim").dispatch_event("click")
    holds(two, "draft", "not yet")


def test_a_bound_input_of_a_global_state_is_followed_by_other_sessions(open_page, new_context):
    one, two = open_page("/shared"), open_page("/shared", new_context())
    one.locator("#text").fill("for all")
    one.locator("#text").blur()
    holds(two, "text", "for all")
    one.locator("#text").fill("")
    one.locator("#text").blur()
    holds(two, "text", "")
