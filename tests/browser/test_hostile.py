"""Text is text: no string, however hostile, changes on its way into a page or back, or breaks the page."""

import json

import pytest
from playwright.sync_api import expect

from .apps.hostile_strings import hostile_strings

APP = "hostile.py"
STRINGS = hostile_strings(400)


def differences(got, wanted):
    """The pairs that differ, few enough to read."""
    assert len(got) == len(wanted)
    return [(g, w) for g, w in zip(got, wanted, strict=True) if g != w][:10]


def as_markup(text):
    """Normalise a text's line ends as an HTML parser does."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def texts(page, selector):
    return page.eval_on_selector_all(selector, "found => found.map(element => element.textContent)")


def test_strings_arrive_unchanged_as_signals_at_first_paint_and_as_patches(open_page):
    page, other = open_page(), open_page()
    assert differences(texts(page, ".text span"), STRINGS) == []
    page.locator("#rotate").dispatch_event("click")
    for tab in (page, other):
        expect(tab.locator("#by")).to_have_text("1")
        assert differences(texts(tab, ".text span"), [*STRINGS[1:], STRINGS[0]]) == []


def test_strings_are_in_the_page_before_any_script_runs(server, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    shown = page.locator(".text span").all_text_contents()
    assert differences(shown, [as_markup(text) for text in STRINGS]) == []
    context.close()


def test_strings_arrive_unchanged_in_views_and_as_the_names_in_a_signal(open_page):
    page, other = open_page("/listing"), open_page("/listing")
    page.locator("#fill").dispatch_event("click")
    for tab in (page, other):
        expect(tab.locator("#listing li")).to_have_count(len(STRINGS))
    page.reload()
    wanted = [as_markup(text) for text in STRINGS]
    for tab in (page, other):
        assert differences(texts(tab, "#listing li"), wanted) == []
        titles = tab.eval_on_selector_all("#listing li", "found => found.map(element => element.title)")
        assert differences(titles, wanted) == []
        entries = dict(json.loads(tab.locator("#counts").text_content()))
        # The name `__proto__` stays on the server: in JavaScript it would not be a name like others.
        assert entries == {text: i for i, text in enumerate(STRINGS) if text != "__proto__" and "." not in text}


def test_dots_in_the_names_of_a_signal_are_escaped_and_break_nothing(open_page):
    page = open_page("/dotted")
    page.locator("#put").dispatch_event("click")
    expect(page.locator("#counts")).to_have_text('{"1":1,"1_2e_5":2,"a@b_2e_org":3}')
    page.locator("#put").dispatch_event("click")
    expect(page.locator("#counts")).to_have_text('{"1":2,"1_2e_5":3,"a@b_2e_org":4}')


def test_strings_arrive_unchanged_as_arguments_of_events(open_page, server):
    page = open_page("/arguments")
    with page.expect_response(lambda response: f'"number":{len(STRINGS) - 1},' in (response.request.post_data or "")):
        page.eval_on_selector_all(".take", "buttons => buttons.forEach(button => button.click())")
    page.wait_for_function("async () => !(await (await fetch('/taken')).json()).texts.includes(null)")
    taken = page.context.request.get(f"{server.url}/taken").json()["texts"]
    assert differences(taken, STRINGS) == []


@pytest.mark.parametrize("path", ["components", "records"])
def test_strings_are_ids_like_any_other(open_page, path):
    for start in (0, 100):  # the pieces, and some put together
        page, other = (open_page(f"/{path}?start={start}") for _ in range(2))
        page.eval_on_selector_all(".part button", "buttons => buttons.forEach(button => button.click())")
        for tab in (page, other):
            tab.wait_for_function(
                "wanted => [...document.querySelectorAll('.part')].every(part => part.innerText === wanted)",
                arg="presspressed 1 times1",
            )
            assert len(texts(tab, ".part")) == 100
            tab.close()
