"""The examples as their users see them: each in a real server and real tabs."""

from functools import partial

import pytest
from playwright.sync_api import expect

from tests.support import ROOT
from tests.support.browser import wait_live

EXAMPLES = ROOT / "examples"


@pytest.fixture
def open_example(serve_app, open_on):
    """Start an example; return what opens tabs on it, as `open_page` does."""
    return lambda name: partial(open_on, serve_app(EXAMPLES / f"{name}.py"))


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


def test_in_the_shop_the_stock_falls_in_both_tabs_and_the_cart_outlives_a_crash(serve_app, open_on, new_context):
    server, lost = serve_app(EXAMPLES / "shop.py"), "ERR_(CONNECTION|INCOMPLETE)"
    one, two = open_on(server, forgive=lost), open_on(server, "/", new_context(), forgive=lost)
    for left in ("1 in stock", "Sold out"):
        one.get_by_role("button", name="Add to cart: Teapot").click()
        for page in (one, two):
            expect(page.locator(".products article").filter(has_text="Teapot")).to_contain_text(left)
    expect(two.get_by_role("button", name="Add to cart: Teapot")).to_be_disabled()
    expect(two.get_by_text("Your cart is empty.")).to_be_visible()
    before = wait_live(one)
    server.restart(crash=True)
    wait_live(one, after=before)
    one.get_by_role("button", name="Put back").click()
    for page in (one, two):
        expect(page.locator(".products article").filter(has_text="Teapot")).to_contain_text("1 in stock")
    expect(one.get_by_text("Teapot is back on the shelf.")).to_be_visible()
    expect(one.locator(".lines li")).to_contain_text("1 at €48.00")


def test_two_admins_of_the_shop_do_not_overwrite_each_other(open_example, new_context):
    tab = open_example("shop")

    def admin():
        page = tab("/login?next=/products/mug", new_context(), live=False)
        page.get_by_label("password").fill("teapot")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/products/mug")
        wait_live(page)
        return page

    one, two, shopper = admin(), admin(), tab("/products/mug", new_context())
    two.get_by_label("Price").fill("10.00")
    one.get_by_label("Name").fill("Cup")
    one.get_by_role("button", name="Save").click()
    expect(one.get_by_text("Saved.")).to_be_visible()
    expect(two.get_by_label("Name")).to_have_value("Cup")  # what others change arrives in the form
    expect(two.get_by_label("Price")).to_have_value("10.00")  # and what is being typed stays
    two.get_by_role("button", name="Save").click()
    for page in (one, two, shopper):
        expect(page.get_by_role("article")).to_contain_text("Cup")
        expect(page.get_by_role("article")).to_contain_text("€10.00")

    two.route("**/_faststate/stream*", lambda route: route.fulfill(status=204))
    two.reload()  # from now on this tab learns nothing of what the others do
    two.get_by_label("Name").fill("Beaker")
    shopper.get_by_role("button", name="Add to cart").click()
    expect(one.get_by_label("In stock")).to_have_value("4")
    two.get_by_role("button", name="Save").click()
    expect(two.get_by_text("has changed meanwhile")).to_be_visible()
    expect(two.get_by_label("In stock")).to_have_value("4")
    expect(two.get_by_label("Name")).to_have_value("Beaker")
    expect(shopper.get_by_role("article")).to_contain_text("Cup")
    two.get_by_role("button", name="Save").click()
    for page in (one, two, shopper):
        expect(page.get_by_role("article")).to_contain_text("Beaker")
        expect(page.get_by_role("article")).to_contain_text("4 in stock")


@pytest.fixture
def sign_in(open_example, new_context):
    """Open the team example in a browser of one's own and sign in through its form; the first tab, and one for more."""
    tab = open_example("team")

    def sign_in(name, password, path="/documents/handbook"):
        browser = new_context()
        page = tab(path, browser)
        expect(page).to_have_title("Sign in")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"**{path}")
        wait_live(page)
        return page, lambda path: tab(path, browser)

    return sign_in


def test_a_member_of_the_team_sees_each_edit_of_the_owner_and_loses_all_when_removed(sign_in):
    (grace, _), (kim, _) = sign_in("Grace", "compiler"), sign_in("Kim", "kite")
    kim.get_by_label("Your draft").fill("not for Grace")
    kim.get_by_label("New title").fill("half typed")
    grace.get_by_label("New title").fill("Rules")
    grace.get_by_role("button", name="Rename").click()
    grace.get_by_label("Your draft").fill("Bring <b>tea</b>.")
    with grace.expect_response("**/event/Draft/save"):
        grace.get_by_label("Your draft").blur()
    grace.get_by_role("button", name="Publish").click()
    for page in (grace, kim):
        expect(page.get_by_role("heading", name="Rules")).to_be_visible()
        expect(page.locator("article > p")).to_have_text(["GraceBring <b>tea</b>."])
    expect(grace.get_by_label("Your draft")).to_have_value("")
    expect(grace.get_by_text("Changes: 2")).to_be_visible()
    expect(kim.get_by_text("Changes")).to_have_count(0)
    expect(kim.get_by_label("New title")).to_have_value("half typed")
    expect(kim.get_by_role("button", name="Remove")).to_have_count(0)

    grace.get_by_role("button", name="Remove Kim").click()
    expect(kim.get_by_role("alert").filter(has_text="not shared with you any more")).to_be_visible()
    expect(kim.get_by_role("article")).to_have_count(0)
    expect(kim.get_by_role("button", name="Publish")).to_have_count(0)
    expect(kim.get_by_label("New title")).to_have_count(0)
    expect(kim.get_by_label("Your draft")).to_have_value("not for Grace")
    expect(kim.locator("main")).not_to_contain_text("Bring")

    grace.get_by_label("Person").select_option("Kim")
    grace.get_by_role("button", name="Add").click()
    expect(grace.get_by_role("button", name="Remove Kim")).to_be_visible()
    kim.reload()
    expect(kim.get_by_role("heading", name="Rules")).to_be_visible()


def test_a_draft_is_in_all_tabs_of_its_writer(sign_in):
    kim, another_tab = sign_in("Kim", "kite")
    other = another_tab("/documents/roadmap")
    kim.get_by_label("Your draft").fill("not yet")
    kim.get_by_label("Your draft").blur()
    expect(other.get_by_label("Your draft")).to_have_value("not yet")


def test_all_see_the_banner_that_the_admin_alone_can_change(sign_in):
    (ada, _), (kim, kims_tab) = sign_in("Ada", "engine", "/"), sign_in("Kim", "kite")
    home = kims_tab("/")
    expect(home.get_by_role("heading", name="Documents")).to_be_visible()
    expect(home.get_by_label("New banner")).to_have_count(0)
    ada.get_by_label("New banner").fill("Lunch at one")
    ada.get_by_role("button", name="Announce").click()
    for page in (ada, kim, home):
        expect(page.get_by_role("status")).to_have_text("Lunch at one")
    expect(ada.get_by_label("New banner")).to_have_value("")
    forged = """async () => (await fetch("/_faststate/event/Banner/announce", {
        method: "POST",
        headers: {"Datastar-Request": "true", "Content-Type": "application/json"},
        body: JSON.stringify({a: {text: "evil"}}),
    })).headers.get("FastState-Status")"""
    assert home.evaluate(forged) == "403"
    assert ada.evaluate(forged.replace("evil", "Back at two")) is None, "the same event of an admin is none"
    for page in (ada, kim, home):
        expect(page.get_by_role("status")).to_have_text("Back at two")


def test_signing_out_in_one_tab_shows_the_page_to_sign_in_in_another_and_leads_back(sign_in):
    kim, another_tab = sign_in("Kim", "kite")
    other = another_tab("/documents/roadmap")
    kim.get_by_role("button", name="Sign out").click()
    for page in (kim, other):
        expect(page).to_have_title("Sign in")
    other.get_by_label("Name").fill("Kim")
    other.get_by_label("Password").fill("kite")
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("heading", name="Roadmap")).to_be_visible()
