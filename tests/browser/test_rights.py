"""Rights that change while pages are open: what a person sees of it, in real tabs."""

import re

import pytest
from playwright.sync_api import expect

from tests.support.browser import click, number, shows, toast, wait_live

from .conftest import APPS

APP = "rights.py"


@pytest.fixture
def person(new_context, server):
    """A browser in which somebody has signed in, with some rights."""

    def sign_in(name, rights="-"):
        context = new_context()
        give(context, server, name, rights)
        assert context.request.post(f"{server.url}/login?next=/login", form={"name": name}).ok
        return context

    return sign_in


def give(context, server, name, rights):
    """Set somebody's rights from now on; return how many streams were told."""
    return int(context.request.get(f"{server.url}/give/{name}/{rights}").text())


def sign_in_by_hand(page, name):
    page.locator("#name").fill(name)
    page.locator("#login").click()


def test_who_is_removed_from_a_document_loses_its_text_and_view_in_the_same_moment(open_page, person):
    ann, bob = person("ann"), person("bob")
    hers, his = open_page("/doc/ann-bob", ann), open_page("/doc/ann-bob", bob)
    shows(his, "text", "everybody's")
    shows(his, "body", "Body: everybody's")
    his.evaluate(
        """() => { window.seen = []; new MutationObserver(() =>
            seen.push(document.getElementById('text').textContent + '|' + document.getElementById('body').textContent)
        ).observe(document.body, {subtree: true, childList: true, characterData: true}) }"""
    )
    click(hers, "remove")
    shows(hers, "text", "without bob")
    shows(hers, "body", "Body: without bob")
    shows(his, "text", "")
    shows(his, "body", "")
    assert not any("without" in seen for seen in his.evaluate("seen"))
    before = number(his, "count")
    click(hers, "add")
    shows(his, "count", before + 1)
    click(his, "add")
    shows(hers, "count", before + 2)


def test_a_lost_role_takes_one_state_of_the_page_and_the_rest_lives_on(open_page, person, server):
    context = person("cy", "staff")
    page = open_page("/two", context)
    first = wait_live(page)
    page.locator("#typed").fill("half a sen")
    shows(page, "room", "In the room: for staff")
    page.evaluate("window.kept = true")
    assert give(context, server, "cy", "-") == 1
    shows(page, "secret", "")
    shows(page, "room", "")
    second = wait_live(page, after=first)
    before = number(page, "count")
    click(page, "add")
    shows(page, "count", before + 1)
    expect(page.locator("#typed")).to_have_value("half a sen")
    give(context, server, "cy", "staff")
    shows(page, "secret", "for staff")
    shows(page, "room", "In the room: for staff")
    wait_live(page, after=second)
    click(page, "add")
    shows(page, "count", before + 2)
    expect(page.locator("#typed")).to_have_value("half a sen")
    assert page.evaluate("window.kept"), "the page was not loaded anew"


def test_a_field_for_some_viewers_comes_and_goes_in_an_open_page(open_page, person, server):
    context = person("dan")
    page = open_page("/report", context)
    shows(page, "profit", "")
    shows(page, "table", "Nothing to see")
    give(context, server, "dan", "money")
    shows(page, "profit", 1000)
    shows(page, "table", "Profit 1000")
    give(context, server, "dan", "-")
    shows(page, "profit", "")
    shows(page, "table", "Nothing to see")


def test_signing_in_in_one_tab_shows_the_other_as_the_user_and_the_cart_goes_along(open_page, context):
    one, other = open_page("/cart"), open_page("/cart")
    click(one, "put")
    click(one, "put")
    shows(other, "items", 2)
    shows(other, "who", "a guest")
    first = wait_live(other)
    one.goto(one.url.replace("/cart", "/login?next=/cart"))
    sign_in_by_hand(one, "eve")
    shows(one, "who", "eve")
    shows(other, "who", "eve")
    wait_live(one)
    wait_live(other, after=first)
    for page in (one, other):
        shows(page, "items", 2)
    click(other, "put")
    shows(one, "items", 3)


def test_a_cart_of_a_user_is_there_again_on_another_device(open_page, new_context):
    one = open_page("/cart")
    click(one, "put")
    shows(one, "items", 1)
    one.goto(one.url.replace("/cart", "/login?next=/cart"))
    sign_in_by_hand(one, "fay")
    shows(one, "who", "fay")
    two = open_page("/login?next=/cart", new_context(), live=False)
    sign_in_by_hand(two, "fay")
    shows(two, "who", "fay")
    shows(two, "items", 1)


def test_signing_out_in_one_tab_leaves_the_login_page_in_the_other(open_page, person):
    context = person("gus")
    home, one = open_page("/", context), open_page("/cart", context)
    click(one, "logout")
    shows(one, "who", "a guest")
    expect(home.locator("#login")).to_be_visible()
    assert home.url.endswith("/login?next=%2F") or home.url.endswith("/login?next=/")


def test_a_double_click_on_the_login_button_signs_in_once_and_for_good(open_page, context):
    page = open_page("/cart")
    click(page, "put")
    shows(page, "items", 1)
    page.goto(page.url.replace("/cart", "/login?next=/cart"))
    page.locator("#name").fill("hal")
    page.locator("#login").dblclick()
    shows(page, "who", "hal")
    wait_live(page)
    shows(page, "items", 1)
    click(page, "put")
    shows(page, "items", 2)
    page.reload()
    shows(page, "who", "hal")
    shows(page, "items", 2)


def test_who_must_sign_in_first_gets_to_the_page_behind(open_page):
    page = open_page("/", live=False)
    expect(page.locator("#login")).to_be_visible()
    sign_in_by_hand(page, "ida")
    shows(page, "note", "nothing yet")
    wait_live(page)
    before = number(page, "count")
    click(page, "add")
    shows(page, "count", before + 1)


def test_a_refused_event_shows_why_and_its_status(open_page, person):
    page = open_page("/denied", person("jim"))
    shows(page, "status", 0)
    before = number(page, "count")
    click(page, "reset")
    expect(toast(page)).to_be_visible()
    expect(toast(page)).to_have_text(re.compile("role"))
    shows(page, "status", 403)
    click(page, "add")
    shows(page, "count", before + 1)
    expect(toast(page)).to_be_hidden()
    shows(page, "status", 0)


def test_streams_that_are_opened_anew_every_second_lose_no_click_and_no_focus(serve_app, open_on, context):
    server = serve_app(APPS / APP, env={"STREAM_MAX_AGE": "1"})
    give(context, server, "kim", "staff")
    context.request.post(f"{server.url}/login?next=/login", form={"name": "kim"})
    page = open_on(server, "/two")
    streams = {wait_live(page)}
    page.locator("#typed").focus()
    page.evaluate(
        """() => { window.left = 100; const timer = setInterval(() =>
            left-- > 0 ? document.getElementById('add').click() : clearInterval(timer), 30) }"""
    )
    while page.evaluate("window.left > 0"):
        page.keyboard.type("x")
        streams.add(wait_live(page))
    shows(page, "count", 100)
    typed = page.locator("#typed").input_value()
    assert page.evaluate("document.activeElement.id") == "typed" and re.fullmatch("x+", typed)
    while len(streams) < 4:
        streams.add(wait_live(page, after=wait_live(page)))
    click(page, "add")
    shows(page, "count", 101)
    expect(page.locator("#typed")).to_have_value(typed)
