"""The examples as their users see them: each in a real server and real tabs."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.helpers import console_errors, wait_live

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def open_example(serve_app, context):
    """Start an example and open tabs on it; fails when one of them had an error in its console."""
    errors = []

    def start(name):
        server = serve_app(EXAMPLES / f"{name}.py")

        def tab(path="/", who=context):
            page = who.new_page()
            errors.append(console_errors(page))
            page.goto(server.url + path)
            wait_live(page)
            return page

        return tab

    yield start
    assert errors and not any(errors)


def test_two_tabs_of_the_counter_stay_in_step(open_example):
    tab = open_example("counter")
    one, two = tab(), tab()
    one.get_by_role("button", name="+1").click()
    for page in (one, two):
        expect(page.locator("main p")).to_have_text("Count: 1")


def test_two_tabs_of_the_todos_stay_in_step(open_example):
    tab = open_example("todo")
    one, two = tab(), tab()
    text = one.get_by_label("What needs to be done?")
    text.fill("Buy tea")
    text.press("Enter")
    expect(two.locator(".todos li")).to_have_text(["Buy tea"])
    expect(text).to_have_value("")
    expect(text).to_be_focused()
    two.get_by_label("Buy tea").check()
    for page in (one, two):
        expect(page.get_by_label("Buy tea")).to_be_checked()
        expect(page.get_by_role("status")).to_have_text("0 left")
    one.get_by_role("button", name="Clear completed").click()
    expect(two.locator(".todos li")).to_have_count(0)


def test_another_shopper_sees_the_stock_fall_and_the_announcement_change(open_example, new_context):
    tab = open_example("cart")
    one, two = tab(), tab("/products/pot", new_context())
    for left in ("1 in stock", "Sold out"):
        one.get_by_role("button", name="Add to cart: Teapot").click()
        expect(two.locator(".products article")).to_contain_text(left)
    expect(two.get_by_role("button", name="Add to cart: Teapot")).to_be_disabled()
    expect(two.get_by_text("Your cart is empty.")).to_be_visible()  # the cart itself is not shared
    one.get_by_role("button", name="Order").click()
    expect(two.get_by_text("Just sold: 2 Teapot")).to_be_visible()
