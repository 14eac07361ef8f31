"""Pages that watch much, or are refused their stream: each is live, or says that it is not."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import click, console_errors, shows, wait_live

from .conftest import APPS

APP = "watching.py"
MANY = 1_000


def streams_of(page):
    """The answers to the page's streams (status each), from now on."""
    seen = []
    page.on("response", lambda answer: seen.append(answer.status) if answer.url.endswith("/stream") else None)
    return seen


def test_a_thousand_records_on_a_page_are_live(open_page):
    one, two = open_page(f"/many/{MANY}"), open_page(f"/many/{MANY}")
    for i in (0, MANY - 1):
        click(one, f"add{i}")
        for page in (one, two):
            shows(page, f"n{i}", 1)


def test_the_tokens_of_a_page_are_in_no_url(open_page):
    page = open_page("/away", live=False)
    urls = []
    page.on("request", lambda request: urls.append((request.method, request.url)))
    page.goto(page.url.replace("/away", "/many/200"))
    wait_live(page)
    click(page, "add7")
    shows(page, "n7", 1)
    assert max(len(url) for _, url in urls) < 200
    assert [method for method, url in urls if url.endswith("/stream")] == ["POST"]


def test_a_page_fetches_many_fragments_and_follows_each_and_sends_few_tokens(open_page):
    page = open_page("/fragments")
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "/event/" in request.url else None)
    first = wait_live(page)
    streams = streams_of(page)
    page.evaluate("more(300, 340)")
    shows(page, "n339", 0)
    wait_live(page, after=first)
    assert set(streams) <= {200} and len(streams) < 40  # it opens one for several that come at once
    page.wait_for_function("Object.keys(document.querySelectorAll('.row')).length === 40")
    other = open_page("/many/340")
    for i in (300, 339):
        click(other, f"add{i}")
        shows(page, f"n{i}", 1)
        click(page, f"add{i}")
        for each in (page, other):
            shows(each, f"n{i}", 2)
    click(page, "add-mine")
    shows(page, "mine", 1)
    assert len(sent) == 3 and len(sent[-1]["w"]) <= 20  # 41 fragments have as many tokens


def test_a_fragment_that_datastar_fetches_adds_its_state_and_events_go_on(open_page):
    page = open_page("/patched")
    other = open_page("/fragments")
    before = wait_live(page)
    click(page, "more")
    shows(page, "n70", 0)
    wait_live(page, after=before)
    click(page, "add70")
    shows(page, "n70", 1)
    click(other, "add-mine")
    shows(page, "mine", other.locator("#mine").inner_text())


def test_a_page_that_is_left_and_come_back_to_is_live(open_page):
    page, other = open_page("/many/50"), open_page("/many/50")
    page.goto(page.url.replace("/many/50", "/away"))
    click(other, "add9")
    shows(other, "n9", 1)
    page.go_back()
    wait_live(page)
    shows(page, "n9", 1)
    click(other, "add9")
    shows(page, "n9", 2)
    page.go_forward()
    page.go_back()
    wait_live(page)
    click(other, "add9")
    shows(page, "n9", 3)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (413, "the server refused that (413)"),
        (400, "the server refused that (400)"),
        (403, "the server refused that (403)"),
        (414, "the server refused that (414)"),
        (429, "Too many pages are open"),
    ],
)
def test_a_stream_that_is_refused_says_so_and_is_not_asked_for_at_once_again(context, server, status, text):
    page = context.new_page()
    errors, seen = console_errors(page), streams_of(page)
    page.clock.install()
    page.route("**/stream", lambda route: route.fulfill(status=status, body="no"))
    page.goto(f"{server.url}/many/3")
    toast = page.get_by_role("alert")
    expect(toast).to_be_visible()
    expect(toast).to_contain_text(text)
    page.clock.run_for(10_000)
    page.evaluate("fetch('/stats')")  # the browser has had time for another request
    assert seen == [status]
    page.unroute("**/stream")
    page.clock.run_for(60_000)
    wait_live(page)
    expect(toast).to_be_hidden()  # it is live, so it no longer says that it is not
    click(page, "add1")
    expect(page.locator("#n1")).not_to_have_text("0")
    assert [error for error in errors if f"status of {status}" not in error] == []


@pytest.mark.parametrize("status", [404, 405, 503])
def test_a_server_that_is_just_being_replaced_is_asked_again_without_a_word(context, server, status):
    page = context.new_page()
    page.route("**/stream", lambda route: route.fulfill(status=status, body="no"), times=1)
    page.goto(f"{server.url}/many/3")
    wait_live(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_event_is_none_of_the_streams_business(open_page):
    page = open_page("/many/3", forgive="413")
    page.route("**/event/**", lambda route: route.fulfill(status=413, body="no"), times=1)
    click(page, "add2")
    expect(page.get_by_role("alert")).to_contain_text("The server refused this (413).")
    click(page, "add2")
    expect(page.locator("#n2")).not_to_have_text("0")


def test_a_page_beyond_the_limit_of_streams_says_so(serve_app, open_on, tmp_path):
    source = (APPS / APP).read_text().replace("max_streams_per_session=1_000", "max_streams_per_session=1")
    (tmp_path / "limited.py").write_text(source)
    server = serve_app(tmp_path / "limited.py")
    one, two = open_on(server, "/many/3"), open_on(server, "/many/3", live=False, forgive="429")
    expect(two.get_by_role("alert")).to_contain_text("Too many pages are open")
    click(two, "add1")
    for page in (one, two):
        shows(page, "n1", 1)  # it works without a stream, by what its own events answer
