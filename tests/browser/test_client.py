"""The page's program and Datastar: attributes that Datastar cannot use, and pages that load Datastar themselves or not.

The facts about Datastar that the program relies on are tested at the end: a new version of Datastar fails there first.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from faststate.client.modules import served_modules
from tests.support.browser import click, shows, toast, wait_live

APP = "client.py"

CANNOT_USE = "FastState: Datastar could not use"
BROKEN = f"{CANNOT_USE}|SyntaxError|ReferenceError|TypeError|Cannot convert|data-star.dev/errors"


def ran(page):
    """What Datastar has come to, in order and as often as it came."""
    return page.evaluate("() => window.ran")


def counts(page):
    """See that a click reaches the server and comes back, once."""
    before = int(page.locator("#n").text_content() or "")
    click(page, "add")
    shows(page, "n", before + 1)


@pytest.fixture
def logged(context):
    """Texts of all errors in the console, of all pages."""
    found: list[str] = []
    context.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    return found


def ours(logged):
    return [text for text in logged if text.startswith("FastState:")]


# -- attributes that Datastar cannot use -------------------------------------------------------------------------------


def test_a_foreign_attribute_stops_nothing_behind_it(open_page, logged):
    page = open_page("/foreign", forgive=BROKEN)
    counts(page)
    assert ran(page) == ["a", "b", "c", "d"]
    for name, attribute, value in (
        ("tip", "data-text", "Hello world"),
        ("key", "data-text:some", "1"),
        ("late", "data-show", "not valid"),
    ):
        expect(page.locator(f"#{name}")).to_have_attribute(attribute, value)  # it may mean something to another library
        shows(page, name, "as it was")
        (said,) = [text for text in ours(logged) if f'id="{name}" {attribute}="{value}"' in text]
        assert said.startswith(CANNOT_USE)
    assert len(ours(logged)) == 3


def test_expressions_that_fail_when_they_run_stop_nothing(open_page):
    page = open_page("/throwing", forgive=BROKEN)
    assert ran(page) == ["a", "b", "c"]
    shows(page, "text", "as it was")
    shows(page, "later", "none")
    counts(page)
    shows(page, "healed", 1)  # an expression that failed once is tried again when its signals change
    counts(page)
    shows(page, "healed", 2)


def test_a_click_that_fails_leaves_the_page_alive(open_page):
    page = open_page("/throwing", forgive=BROKEN)
    for _ in range(3):
        click(page, "broken")
    counts(page)
    shows(page, "healed", 1)


def test_an_error_that_does_not_say_what_it_is_of_costs_no_second_stream(open_page, server, logged):
    before = open_page("/bare", live=False).request.get(f"{server.url}/stats").json()["connections_total"]
    page = open_page("/unnamed", forgive=BROKEN)
    counts(page)
    assert set(ran(page)) == {"a", "b"} and ran(page)[-1] == "b"
    assert [text for text in ours(logged) if 'id="null" data-attr="null"' in text]
    page.reload()
    wait_live(page)
    assert page.request.get(f"{server.url}/stats").json()["connections_total"] == before + 2


def test_a_broken_element_in_a_patch_does_not_stop_its_siblings(open_page, logged):
    page = open_page("/patched", forgive=BROKEN)
    click(page, "fill")
    shows(page, "listing", re.compile("as it was.*0text"))
    counts(page)
    expect(page.locator("#listing li")).to_have_text(["as it was", "as it was", "1", "text"])
    page.evaluate(
        """() => document.getElementById("listing").insertAdjacentHTML("afterend",
            '<i data-text="one two">as it was</i><i id=by-script data-text="$Counter.n">?</i>')"""
    )
    shows(page, "by-script", 1)
    assert [text for text in ours(logged) if 'data-text="one two"' in text]


def test_an_error_elsewhere_has_nothing_run_twice(open_page):
    """A click that fails, while what it has put into the page waits for Datastar."""
    page = open_page(forgive=BROKEN)
    page.evaluate(
        """() => document.body.insertAdjacentHTML("beforeend", `<button id=adds data-on:click="
            document.body.insertAdjacentHTML('beforeend', '<b id=added data-init=window.ran.push(1)></b>'), nowhere()
            "></button>`)"""
    )
    click(page, "adds")
    expect(page.locator("#added")).to_have_count(1)
    counts(page)
    assert ran(page) == ["a", 1]


def test_a_page_that_wants_no_datastar_is_left_alone(context, open_page):
    with_markup(context, "<html", "<html data-ignore ")
    page = open_page(live=False)
    page.evaluate(
        """async () => {
            await import(document.querySelector("script[data-datastar]").src);
            for (let task = 0; task < 3; task++) await new Promise(done => setTimeout(done));
        }"""
    )
    assert ran(page) is None
    expect(page.locator("html[data-fs-link]")).to_have_count(0)
    expect(toast(page)).to_be_hidden()


def test_a_fragment_in_the_place_of_an_earlier_one_is_followed(open_page):
    pages = [open_page("/shop"), open_page("/shop")]
    for name in ("tea", "jam", "tea"):
        for page in pages:
            click(page, f"get-{name}")
            expect(page.locator(f"#{name}")).to_be_visible()
        before = int(pages[0].locator(f"#{name}").text_content() or "")
        click(pages[0], "sell")
        for page in pages:
            shows(page, name, before + 1)


# -- how a page loads Datastar -----------------------------------------------------------------------------------------


def with_markup(context, *changes):
    """Have the pages of a context changed on their way: each text (old, new) once."""

    def change(route):
        response = route.fetch()
        text = response.text()
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text
            text = text.replace(old, new, 1)
        route.fulfill(response=response, body=text)

    context.route(re.compile(r"//127\.0\.0\.1:\d+/(quiet)?$"), change)


def serving(context, name, path):
    """Have the Datastar bundle served under a name of the page's own too."""
    url = re.compile(f"/{re.escape(name)}$")
    context.route(url, lambda route: route.fulfill(path=path, content_type="text/javascript"))
    return f'<script type="module" src="/{name}"></script>'


@pytest.mark.parametrize("name", ["own/datastar.js", "datastar-1.0.2.js", "datastar@v1.0.2.min.js?v=3"])
def test_a_page_s_own_datastar_before_ours_is_the_one_that_is_used(context, open_page, datastar_js, name):
    with_markup(context, "<head>", f"<head>{serving(context, name, datastar_js)}")
    page = open_page()
    counts(page)
    assert ran(page) == ["a"]
    assert loaded(page) == [name]


def test_a_page_s_own_datastar_behind_ours_is_the_one_that_is_used(context, open_page, datastar_js):
    with_markup(context, "</body>", f"{serving(context, 'own/datastar.js', datastar_js)}</body>")
    page = open_page()
    counts(page)
    assert ran(page) == ["a"]
    assert loaded(page) == ["own/datastar.js"]


def test_a_page_s_own_datastar_may_run_long_before_ours(context, server, datastar_js):
    held = []
    context.route("**/client-*.js", lambda route: held.append(route))
    tag = serving(context, "own/datastar.js", datastar_js)
    early = '<i id=early data-text="\'ran\'"></i><i id=tip data-text="Hello world">as it was</i>'
    with_markup(context, "<head>", f"<head>{tag}", "<h1", f"{early}<h1")
    page = context.new_page()
    page.goto(server.url, wait_until="commit")
    shows(page, "early", "ran")
    context.unroute("**/client-*.js")
    for route in held:
        route.continue_()
    wait_live(page)
    counts(page)
    assert ran(page) == ["a"]


def test_the_same_datastar_that_comes_once_more_is_no_other(open_page, logged):
    page = open_page()
    add_script(page, "/_faststate/datastar")
    counts(page)
    assert ran(page) == ["a"] and logged == []


def test_another_datastar_that_comes_late_is_reported(context, open_page, datastar_js, logged):
    page = open_page("/quiet", live=False, forgive="loads Datastar twice")
    page.wait_for_function("() => window.ran")
    serving(context, "late/other.js", datastar_js)
    add_script(page, "/late/other.js")
    assert ran(page) == ["a", "a"]
    assert "FastState: this page loads Datastar twice" in "".join(logged)


def test_two_datastars_of_a_page_are_reported_with_their_urls(context, open_page, datastar_js, logged):
    tags = [serving(context, f"{name}/datastar.js", datastar_js) for name in ("one", "two")]
    with_markup(context, "<head>", f"<head>{''.join(tags)}")
    page = open_page("/quiet", live=False, forgive="loads Datastar twice")
    expect(page.locator("html")).to_have_attribute("data-fs-link", "live")
    said = ours(logged)[0]
    assert "/one/datastar.js and " in said and "/two/datastar.js" in said and "datastar_src" in said


def test_a_script_of_the_app_with_a_name_like_datastar_s_is_not_taken_for_it(context, open_page, logged):
    context.route("**/datastar.js", lambda r: r.fulfill(body="window.own = 1", content_type="text/javascript"))
    with_markup(context, "<head>", '<head><script type="module" src="/static/datastar.js"></script>')
    page = open_page()
    counts(page)
    assert page.evaluate("() => window.own") == 1 and ran(page) == ["a"] and logged == []


BUNDLES = {
    "missing": {"status": 404},
    "not JavaScript": {"body": "<html>", "content_type": "text/html"},
    "broken": {"body": "export const", "content_type": "text/javascript"},
    "another library": {"body": "export const load = 1", "content_type": "text/javascript"},
}


@pytest.mark.parametrize("answer", BUNDLES.values(), ids=BUNDLES)
def test_a_datastar_that_does_not_load_is_said_in_the_page_and_in_the_log(context, open_page, logged, answer):
    context.route("**/_faststate/datastar", lambda route: route.fulfill(**answer))
    page = open_page(live=False, forgive=".")
    expect(page.get_by_role("alert")).to_have_text(re.compile("This page is not live"))
    expect(page.locator("html")).to_have_attribute("data-fs-link", "stale")
    shows(page, "n", 0)
    (said,) = ours(logged)
    assert "/_faststate/datastar" in said
    if "body" in answer and "load" in answer["body"]:
        assert "is not Datastar 1.0: it lacks action, attribute" in said
    toast(page).click()
    expect(toast(page)).to_be_hidden()
    expect(page.get_by_role("status").get_by_role("button")).to_be_visible()


def test_a_datastar_that_does_not_come_is_said_after_a_while(context, open_page):
    held = []
    context.route("**/_faststate/datastar", lambda route: held.append(route))
    page = open_page(live=False)
    expect(page.get_by_role("status")).to_have_text("This page is still loading…", timeout=10_000)
    (route,) = held
    route.continue_()
    wait_live(page)
    expect(page.get_by_role("status")).to_have_count(0)


def add_script(page, src):
    page.evaluate(
        """src => new Promise((done, fail) => {
            const script = Object.assign(document.createElement("script"), {type: "module", src});
            script.addEventListener("load", () => setTimeout(done)); // behind Datastar's look at the page
            script.addEventListener("error", fail);
            document.head.append(script);
        })""",
        src,
    )


def loaded(page):
    """Paths of the copies of Datastar that a page has loaded."""
    urls = page.evaluate("() => performance.getEntriesByType('resource').map(entry => entry.name)")
    return [url.split("/", 3)[3] for url in urls if re.search(r"datastar[^/]*$", url) and "client-" not in url]


# -- what the program relies on ----------------------------------------------------------------------------------------


@pytest.fixture
def bare(open_page):
    """A page that loads Datastar alone, as `window.datastar`, and then our module for it, as `window.ours`."""
    page = open_page("/bare", live=False, forgive=BROKEN)
    (name,) = [name for name in served_modules() if name.startswith("client-datastar-")]
    page.evaluate(
        """async name => {
            window.datastar = await import("/_faststate/datastar");
            window.ours = await import(`/_faststate/${name}`);
            window.next = () => new Promise(done => setTimeout(done));
            await next();
        }""",
        name,
    )
    return page


def test_datastar_exports_what_the_program_needs(bare):
    assert bare.evaluate("() => ours.NEEDED.filter(name => !(name in datastar))") == []
    assert bare.evaluate("() => ours.NEEDED.length") >= 9


def test_the_event_datastar_fetch_feeds_datastar_s_watchers(bare):
    patched = """([type, args]) => {
        const detail = {type, el: document.body, argsRaw: args};
        document.dispatchEvent(new CustomEvent("datastar-fetch", {detail}));
        return [datastar.root.a, document.getElementById("text").textContent];
    }"""
    assert bare.evaluate(patched, ["datastar-patch-signals", {"signals": '{"a": 1}'}]) == [1, "old"]
    assert bare.evaluate(patched, ["datastar-patch-signals", {"signals": '{"a": 2}', "onlyIfMissing": "true"}])[0] == 1
    assert bare.evaluate(patched, ["datastar-patch-elements", {"elements": '<p id="text">new</p>'}])[1] == "new"
    append = {"elements": "<b>er</b>", "selector": "#text", "mode": "append"}
    assert bare.evaluate(patched, ["datastar-patch-elements", append])[1] == "newer"


def test_our_patch_is_read_as_one_of_datastar_s_own(bare):
    data = 'signals {"b":\nsignals 3}'
    assert bare.evaluate(
        "data => { ours.patch({event: 'datastar-patch-signals', data}, document.body); return datastar.root.b }", data
    ) == 3  # fmt: skip


def test_an_error_of_datastar_s_says_which_attribute_it_is_of(bare):
    (name,) = [name for name in served_modules() if name.startswith("client-scan-")]
    found = bare.evaluate(
        """async name => {
            const {culpritOf} = await import(`/_faststate/${name}`);
            const found = [];
            addEventListener("error", event => { found.push(culpritOf(event.error)); event.preventDefault(); });
            for (const attribute of ['data-text="Hello world"', 'data-text="a.b"', 'data-text:c="1"']) {
                document.body.insertAdjacentHTML("beforeend", `<p id=x ${attribute}></p>`);
                await next();
            }
            return found;
        }""",
        name,
    )
    assert [{k: v for k, v in culprit.items() if v is not None} for culprit in found] == [
        {"value": "Hello world"},
        {"value": "a.b", "tag": "P", "id": "x"},
        {"value": "1", "tag": "P", "id": "x", "rawKey": "text:c"},
    ]


def test_an_attribute_that_is_written_again_is_tried_again_in_a_microtask(bare):
    assert bare.evaluate(
        """async () => {
            const p = document.getElementById("text");
            window.times = 0;
            p.setAttribute("data-init", "times++");
            await null;
            p.setAttribute("data-init", "times++");
            await null;
            return times;
        }"""
    ) == 2  # fmt: skip
