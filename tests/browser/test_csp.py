"""Pages under a strict Content-Security-Policy: all works, the browser reports nothing, and less would not do."""

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.support.browser import shows, toast, wait_live

from .conftest import APPS, offline

APP = "csp.py"

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
LEAST = "default-src 'none'; script-src 'self' 'unsafe-eval'; connect-src 'self'; form-action 'none'"
WITH_NONCES = POLICY.replace("style-src 'self'", "style-src 'self' 'nonce-NONCE'").replace(
    "script-src 'self'", "script-src 'self' 'nonce-NONCE'"
)
PASS_THROUGH = "trustedTypes.createPolicy('default', {createHTML: text => text, createScript: text => text})"


class Violations(list):
    """Violations that the browser reported, as "directive source"; a test that leaves any here fails."""

    def take(self, page):
        """The violations so far; what the page reported before this call is among them."""
        page.evaluate("() => report('')")
        found = sorted(set(self))
        self.clear()
        return found


@pytest.fixture(scope="module")
def reporting(browser):
    """A context whose pages report violations, and where to."""
    context, found = offline(browser.new_context()), Violations()
    context.new_page()  # which stays
    context.expose_binding("report", lambda source, text: found.append(text) if text else None)
    context.add_init_script(
        """document.addEventListener('securitypolicyviolation',
            event => { window.violated = true; report(`${event.effectiveDirective} ${event.blockedURI}`) })"""
    )
    yield context, found
    context.close()


@pytest.fixture
def context(reporting):
    context, _ = reporting
    yield context
    for page in context.pages[1:]:
        page.close()
    context.clear_cookies()


@pytest.fixture(autouse=True)
def violations(reporting, context):
    _, found = reporting
    yield found
    for page in context.pages[1:]:
        page.evaluate("() => report('')")  # behind all that are on their way
    left = found[:]
    found.clear()
    assert left == []


# -- what works --------------------------------------------------------------------------------------------------------


def test_a_page_needs_no_inline_style_script_or_handler(open_page):
    page = open_page()
    answer = page.request.get(page.url)
    assert answer.headers["content-security-policy"] == POLICY
    assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=", answer.text())
    shows(page, "count", "0")
    assert page.locator("#several").evaluate("dl => getComputedStyle(dl).display") == "grid"  # the app's own stylesheet


def test_a_click_reaches_both_tabs(open_page):
    one, two = open_page(), open_page()
    one.locator("#add").click()
    shows(two, "count", "1")
    two.locator("#add").click()
    for tab in (one, two):
        shows(tab, "count", "2")


def test_what_is_typed_reaches_the_server_and_the_other_tab(open_page):
    one, two = open_page(), open_page()
    one.locator("#term").press_sequentially("strict")
    for tab in (one, two):
        shows(tab, "heard", "strict")
        expect(tab.locator("#term")).to_have_value("strict")


def test_a_form_is_sent_and_emptied_and_its_views_follow(open_page):
    one, two = open_page(), open_page()
    one.locator("#text").fill("second")
    one.locator("#text").press("Enter")
    for tab in (one, two):
        expect(tab.locator("#several .entry")).to_have_text(["first", "second"])
        shows(tab, "sentence", "There are 2 in all.")
    expect(one.locator("#text")).to_have_value("")
    assert "?" not in one.url


def test_a_view_of_several_elements_takes_no_part_in_the_layout(open_page):
    page = open_page()
    places = "() => [...document.querySelectorAll('#several dt, #several dd')].map(e => e.offsetTop)"
    before = page.evaluate(places)
    assert before[0] == before[1] < before[2]  # two columns: the grid's children are the view's elements
    page.locator("#text").fill("second")
    page.locator("#write").click()
    expect(page.locator("#several .entry")).to_have_count(2)
    after = page.evaluate(places)
    assert after[:3] == before and after[3] == after[2]
    boxes = page.locator("[data-fs-view]")
    assert boxes.evaluate_all("all => all.map(e => getComputedStyle(e).display)") == ["contents"] * 2
    assert page.locator("#sentence").evaluate("p => p.clientHeight < 30")


def test_a_refusal_is_shown_and_said_and_goes_at_a_click(open_page):
    page = open_page()
    alert = page.get_by_role("alert")
    expect(alert).to_have_count(0)  # neither seen nor in what a screen reader is told
    expect(toast(page)).to_have_css("display", "none")  # although the app's stylesheet gives it a `display`
    page.locator("#refuse").click()
    expect(alert).to_have_text("No, you may not.")
    for name, value in (("position", "fixed"), ("bottom", "16px"), ("background-color", "rgb(122, 20, 32)")):
        expect(toast(page)).to_have_css(name, value)
    width, box = page.viewport_size["width"], toast(page).bounding_box()
    assert abs(box["x"] * 2 + box["width"] - width) < 2
    alert.click()
    expect(alert).to_have_count(0)
    expect(toast(page)).to_have_css("display", "none")


def test_a_message_outlives_new_content_of_the_page(open_page):
    page = open_page()
    page.locator("#refuse").click()
    expect(toast(page)).to_be_visible()
    page.evaluate("document.body.innerHTML = '<p>new</p>'")
    expect(toast(page)).to_have_css("position", "fixed")
    expect(page.get_by_role("alert")).to_have_text("No, you may not.")


def test_without_javascript_the_page_is_its_content_alone(browser, server):
    static = browser.new_context(java_script_enabled=False)
    page = static.new_page()
    page.goto(server.url)
    expect(toast(page)).to_have_count(0)
    shows(page, "sentence", "There are 1 in all.")
    static.close()


def test_an_event_may_lead_to_another_page(open_page):
    page = open_page()
    page.locator("#leave").click()
    page.wait_for_url("**/elsewhere")
    shows(page, "here", "here")


def test_an_event_s_fragment_is_appended(open_page):
    page, other = open_page(), open_page()
    for number in (1, 2):
        page.locator("#log-it").click()
        shows(other, "count", str(number))
    expect(page.locator("#log li")).to_have_text(["entry 1", "entry 2"])
    expect(other.locator("#log li")).to_have_count(0)


def test_the_library_itself_needs_no_more_than_its_script_eval_and_connections(open_page, violations):
    page = open_page(f"/?policy={quote(LEAST)}", forgive="/look")
    page.locator("#text").fill("second")
    page.locator("#write").click()
    expect(page.locator("#several .entry")).to_have_text(["first", "second"])
    page.locator("#log-it").click()
    expect(page.locator("#log li")).to_have_text(["entry 1"])
    page.locator("#refuse").click()
    expect(toast(page)).to_have_css("position", "fixed")
    assert violations.take(page) == [f"style-src-elem {page.url.partition('?')[0]}look"]  # the app's own stylesheet


# -- what does not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "violated"),
    [
        (" 'unsafe-eval'", "script-src eval"),
        ("script-src 'self' 'unsafe-eval';", "script-src-elem .*/_faststate/client-.*"),
        ("connect-src 'self';", r"connect-src .*/_faststate/stream"),
    ],
)
def test_each_part_of_the_policy_that_the_library_needs_is_needed(open_page, violations, part, violated):
    assert part in POLICY
    page = open_page(f"/?policy={quote(POLICY.replace(part, ''))}", live=False, forgive=".")
    shows(page, "count", "0")
    page.wait_for_function("() => window.violated")
    if part == " 'unsafe-eval'":
        expect(page.get_by_role("alert")).to_contain_text("This page is not live")
    assert any(re.fullmatch(violated, text) for text in violations.take(page))


def test_injected_scripts_handlers_and_styles_do_nothing(open_page, violations):
    page = open_page("/injected", forgive="Content Security Policy")
    page.locator("#inline").click()
    assert page.evaluate("() => window.ran") is None
    expect(page.locator("#styled")).to_have_css("position", "static")
    expect(page.locator("#count")).to_have_css("position", "static")
    assert violations.take(page) == [
        "script-src-attr inline",
        "script-src-elem inline",
        "style-src-attr inline",
        "style-src-elem inline",
    ]


def test_without_the_policy_the_injected_would_run(open_page):
    anything = "default-src * 'unsafe-inline' 'unsafe-eval'"
    page = open_page(f"/injected?policy={quote(anything)}")
    page.locator("#inline").click()
    assert page.evaluate("() => window.ran") == ["script", "onclick"]
    expect(page.locator("#styled")).to_have_css("position", "fixed")


def test_the_policy_does_not_stop_an_injected_datastar_attribute(open_page, violations):
    """Why user's text must not become markup all the same: the documentation says so."""
    page = open_page("/injected", forgive="Content Security Policy")
    page.locator("#evaluated").click()
    assert page.evaluate("() => window.ran") == ["datastar"]
    violations.take(page)


def test_trusted_types_need_a_default_policy(open_page, violations, context, server):
    path = f"/?policy={quote(POLICY + '; require-trusted-types-for ' + repr('script'))}"
    page = open_page(path, live=False, forgive="Trusted|GenerateExpression|FastState")
    page.wait_for_function("() => window.violated")
    expect(page.get_by_role("alert")).to_contain_text("This page is not live")
    assert violations.take(page) == ["require-trusted-types-for trusted-types-sink"]
    page = context.new_page()
    page.add_init_script(PASS_THROUGH)
    page.goto(server.url + path)
    wait_live(page)
    page.locator("#text").fill("second")
    page.locator("#write").click()
    expect(page.locator("#several .entry")).to_have_text(["first", "second"])


# -- FastHTML's default headers ----------------------------------------------------------------------------------------


def test_default_headers_are_blocked_by_the_strict_policy(serve_app, open_on, violations):
    page = open_on(serve_app(APPS / APP, env={"DEFAULT_HDRS": "1"}), forgive=".")
    page.locator("#add").click()
    shows(page, "count", "1")  # ours works without theirs
    found = violations.take(page)  # of the head: they came before the click
    assert "style-src-elem inline" in found
    assert any(re.match("script-src-elem https://.*/htmx", text) for text in found)
    assert any(re.match("style-src-elem https://.*pico", text) for text in found)


def test_default_headers_pass_with_a_nonce_for_each(serve_app, open_on):
    server = serve_app(APPS / APP, env={"DEFAULT_HDRS": "1", "NONCE": "1"})
    page = open_on(server, f"/?policy={quote(WITH_NONCES)}")
    page.locator("#add").click()
    shows(page, "count", "1")
    assert len(page.locator("head [nonce]").all()) >= 6
    assert page.evaluate("() => getComputedStyle(document.documentElement).getPropertyValue('--pico-font-size')")
