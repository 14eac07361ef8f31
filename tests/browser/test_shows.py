"""Values, views and what events return, as a person sees them."""

import json

import pytest
from playwright.sync_api import expect

from tests.support.browser import hide, shows, wait_ready

APP = "shows.py"


def as_json(page, name, value):
    page.wait_for_function(
        "([name, value]) => document.getElementById(name).textContent === value",
        arg=[name, json.dumps(value, separators=(",", ":"))],
    )


BEFORE = {
    "nothing": "", "day": "2024-02-29", "moment": "2024-02-29T12:30:00Z", "price": "0.10", "big": "9223372036854775808",
    "small": "-5", "ratio": "0.5", "whole": "2", "colour": "red", "id": "00000000-0000-0000-0000-000000000007",
    "double": "-10",
}  # fmt: skip
AFTER = {
    "nothing": "something", "day": "2025-01-01", "moment": "2025-01-01T00:00:00Z", "price": "19.99",
    "big": str(2**70), "small": "5", "ratio": "NaN", "whole": "1e+21", "colour": "blue",
    "id": "00000000-0000-0000-0000-000000000008", "double": "10",
}  # fmt: skip


def test_values_of_every_type_arrive_and_go_to_none_and_back(open_page):
    one, two = open_page("/values"), open_page("/values")
    for event, values in (("change", AFTER), ("back", BEFORE), ("infinite", {"ratio": "-Infinity"}), ("change", AFTER)):
        one.locator(f"#do-{event}").dispatch_event("click")
        for tab in (one, two):
            for name, text in values.items():
                shows(tab, name, text)


def test_the_first_paint_shows_what_the_stream_would(open_page, browser):
    page = open_page("/values")
    without = browser.new_context(java_script_enabled=False)
    static = without.new_page()
    static.goto(page.url)
    for tab in (page, static):
        for name, text in BEFORE.items():
            shows(tab, name, text)
    without.close()


def test_what_is_not_for_the_client_is_nowhere_in_the_page(open_page):
    page = open_page("/values")
    page.locator("#do-change").dispatch_event("click")
    shows(page, "colour", "blue")
    source = page.context.request.get(page.url).text()
    for text in (source, page.content()):
        assert "hidden-value" not in text
        assert "private-value" not in text
        assert "secret" not in text


def test_names_removed_from_a_dict_disappear(open_page):
    one, two = open_page("/choices"), open_page("/choices")
    as_json(one, "chosen", {"a": 1, "b": 2})
    as_json(one, "nested", {"in": {"x": 1, "y": ""}})
    one.locator("#drop").dispatch_event("click")
    for tab in (one, two):
        as_json(tab, "chosen", {"b": 2})
        as_json(tab, "nested", {"in": {"y": ""}})
        as_json(tab, "several", [1, "", 3])
    one.locator("#put").dispatch_event("click")
    for tab in (one, two):
        as_json(tab, "chosen", {"b": 2, "a": 9})
    one.locator("#clear").dispatch_event("click")
    for tab in (one, two):
        as_json(tab, "chosen", {})
        as_json(tab, "nested", {})
        as_json(tab, "several", [])
    one.locator("#put").dispatch_event("click")
    for tab in (one, two):
        as_json(tab, "chosen", {"a": 9})


def test_a_tab_that_was_away_does_not_keep_removed_names(open_page):
    one, two = open_page("/choices"), open_page("/choices")
    hide(two)
    expect(two.locator("html")).to_have_attribute("data-fs-link", "waiting")
    one.locator("#drop").dispatch_event("click")
    as_json(one, "chosen", {"b": 2})
    as_json(two, "chosen", {"a": 1, "b": 2})
    hide(two, False)
    as_json(two, "chosen", {"b": 2})
    as_json(two, "nested", {"in": {"y": ""}})


def test_views_follow_in_every_tab_and_every_place(open_page):
    one, two = open_page(), open_page()
    one.locator("#insert").dispatch_event("click")
    one.locator("#insert").dispatch_event("click")
    for tab in (one, two):
        expect(tab.locator("#listing li")).to_have_count(3)
        shows(tab, "total", "3 things")


def test_a_view_of_text_stands_inside_a_paragraph(open_page):
    page = open_page()
    shows(page, "total-again", "In all: 1 things")
    page.locator("#insert").dispatch_event("click")
    shows(page, "total-again", "In all: 2 things")


def test_a_view_that_changes_keeps_the_focus_the_caret_and_what_is_typed(open_page):
    one, two = open_page(), open_page()
    field = one.locator("#edit-milk")
    field.click()
    field.press("End")
    field.press_sequentially(" and honey")
    field.press("Home")
    two.locator("#insert").dispatch_event("click")
    two.locator("#insert").dispatch_event("click")
    expect(one.locator("#listing li")).to_have_count(3)
    expect(field).to_be_focused()
    expect(field).to_have_value("milk and honey")
    assert field.evaluate("input => input.selectionStart") == 0
    one.keyboard.type("oat ")
    expect(field).to_have_value("oat milk and honey")


def test_states_put_into_a_page_are_views_of_themselves(open_page):
    page, other = open_page("/tiles"), open_page("/tiles")
    page.locator("#one button").dispatch_event("click")
    page.locator("#one button").dispatch_event("click")
    page.locator("#two button").dispatch_event("click")
    for tab in (page, other):
        expect(tab.locator("#one b")).to_have_text("pressed 2 times")
        expect(tab.locator("#two b")).to_have_text("pressed 1 times")


def test_a_generator_event_shows_its_progress_and_others_follow_its_steps(open_page):
    page, other = open_page("/jobs"), open_page("/jobs")
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => {
            const text = document.getElementById('progress').textContent.trim();
            if (seen.at(-1) !== text) seen.push(text);
        }).observe(document.body, {subtree: true, childList: true, characterData: true}) }"""
    )
    page.locator("#work").dispatch_event("click")
    shows(page, "progress", "step 3")
    assert [text for text in page.evaluate("seen") if text != "not begun"] == ["step 1", "step 2", "step 3"]
    shows(other, "done", "3")
    shows(other, "progress", "not begun")


def test_an_event_s_fragment_replaces_what_has_its_id_and_is_escaped(open_page):
    page = open_page("/jobs")
    page.locator("#write").dispatch_event("click")
    shows(page, "note", "<b>bold?</b> & more")
    expect(page.locator("#note b")).to_have_count(0)


def test_an_event_s_fragment_goes_where_the_event_says(open_page):
    page, other = open_page("/jobs"), open_page("/jobs")
    for _ in range(3):
        page.locator("#append").dispatch_event("click")
    expect(page.locator("#log li")).to_have_count(3)
    assert [text.strip() for text in page.locator("#log li").all_text_contents()] == [
        f"entry after {i}" for i in (1, 2, 3)
    ]
    shows(other, "done", "3")
    expect(other.locator("#log li")).to_have_count(0)


@pytest.mark.parametrize("live", [True, False])
def test_an_event_may_lead_to_another_page(open_page, live):
    page = open_page("/jobs", live=live)
    wait_ready(page)
    page.locator("#leave").dispatch_event("click")
    page.wait_for_url("**/values")
    shows(page, "colour", "red")
