"""The examples do what they show: painted without JavaScript, changed by events, shared by the scopes they name."""

import asyncio
import html
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.testclient import TestClient

from tests.support.client import BROWSER, Page, browser, message, patched_signals, status, word_of
from tests.support.processes import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("in_tmp_path")

EXAMPLES = ["counter", "todo", "cart", "shop", "team"]


@pytest.fixture
def load(root, monkeypatch):
    """Imports an example anew, as a process that starts does."""
    monkeypatch.delenv("FASTSTATE_STORE", raising=False)

    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def shop(load):
    return load("cart")


@pytest.fixture
def todos(load):
    return Todos(TestClient(load("todo").app))


def visitor(app, path="/"):
    """A page in a browser of its own."""
    return Page(TestClient(app), path)


def text(page):
    """Load the page again; return its text without tags, in single spaces."""
    return words(page.client.get(page.response.url.path).text)


def words(markup):
    body = re.sub(r"(?s)^.*<body>|<style.*?</style>|<[^>]+>", " ", markup)
    return " ".join(html.unescape(body).replace("\N{MINUS SIGN}", "-").split())


def sent(response):
    assert status(response) in (200, 204), message(response) or response.text
    return response


def refused(response, code):
    assert status(response) == code
    return message(response)


def elements(page, tag):
    return [attributes for name, attributes in page.attributes if name == tag]


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_serves_its_own_copy_of_datastar(name, load, in_tmp_path, monkeypatch):
    copy = in_tmp_path / "datastar.js"
    copy.write_text("// a copy of Datastar")
    monkeypatch.setenv("FASTSTATE_DATASTAR_SRC", str(copy))
    page = visitor(load(name).app)
    (source,) = [s["data-datastar"] for s in elements(page, "script") if s.get("type") == "module"]
    assert page.client.get(source).text == "// a copy of Datastar"


def test_the_demo_serves_the_copy_of_datastar_in_the_cache(root, in_tmp_path):
    cache = in_tmp_path / ".cache/faststate"
    cache.mkdir(parents=True)
    (cache / "datastar-1.0.2.js").write_text("// from the cache")
    inherited = {name: value for name, value in os.environ.items() if name != "FASTSTATE_DATASTAR_SRC"}
    env = {**inherited, "HOME": str(in_tmp_path), "PORT": str(free_port())}
    log = in_tmp_path / "log"
    with log.open("wb") as out:
        demo = subprocess.Popen(["make", "demo"], cwd=root, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{env['PORT']}/_faststate/datastar"
        assert wait_until(lambda: answer_of(url)) == "// from the cache", log.read_text()
    finally:
        os.killpg(demo.pid, signal.SIGKILL)
        demo.wait()


def answer_of(url):
    try:
        return httpx.get(url).text
    except httpx.TransportError:
        return None  # it is not up yet


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_control_has_a_name_for_assistive_technology(name, load):
    controls_have_names(visitor(load(name).app))


def controls_have_names(page):
    labelled = {label.get("for") for label in elements(page, "label")}
    for tag, attributes in page.attributes:
        if tag in ("input", "select", "textarea"):
            assert attributes.get("id") in labelled, attributes
        if attributes.get("role") == "group" and tag != "fieldset":
            assert attributes.get("aria-label"), attributes
    assert all(map(str.strip, re.findall(r"(?s)<button[^>]*>(.*?)</button>", page.html)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_query_string_changes_nothing(name, load):
    app = load(name).app
    query = "/?count=99&items=99&left=99&show=completed&stock=99&text=evil&sku=mug"
    assert visitor(app, query).signals == visitor(app).signals


# -- counter -----------------------------------------------------------------------------------------------------------


def test_counter_counts_for_its_session_and_no_other(load):
    app = load("counter").app
    page = visitor(app)
    assert "Count: 0 +1" in words(page.html)
    sent(page.send("Counter", "add", by=1))
    assert patched_signals(sent(page.send("Counter", "add", by=1)).text)["Counter"] == {"count": 2}
    assert "Count: 2 +1" in text(page)
    assert "Count: 0 +1" in words(visitor(app).html)


# -- todo --------------------------------------------------------------------------------------------------------------


class Todos(Page):
    """The todo example in one browser."""

    def add(self, *texts):
        for what in texts:
            sent(self.send("Todos", "add", form=[("text", what)]))
        return self

    def do(self, event, **arguments):
        return sent(self.send("Todos", event, **arguments))

    def rows(self):
        """The todos shown, as (text, done)."""
        self.__init__(self.client)
        found = re.findall(r'<input[^>]*type="checkbox"[^>]*>\s*<span>(.*?)</span>', self.html)
        boxes = [box for box in elements(self, "input") if box.get("type") == "checkbox"]
        return [(html.unescape(row), "checked" in box) for row, box in zip(found, boxes, strict=True)]


def test_todo_paints_an_empty_list_and_a_form_for_the_keyboard(todos):
    assert "Nothing to do yet. 0 left" in words(todos.html)
    (box,) = elements(todos, "input")
    assert {"autofocus", "required"} <= box.keys()


def test_todo_adds_what_the_form_holds_in_order_and_resets_the_form(todos):
    response = todos.send("Todos", "add", form=[("text", "  Tea & <b>cake</b> ")], nonce="0123456789abcdef")
    assert patched_signals(sent(response).text)["_fs"]["ok"] == "0123456789abcdef"
    todos.add("Second")
    assert todos.rows() == [("Tea & <b>cake</b>", False), ("Second", False)]
    assert todos.signals["Todos"]["left"] == 2
    assert "2 left" in words(todos.html)


def test_todo_toggles_there_and_back_and_counts_what_is_left(todos):
    todos.add("One", "Two").do("toggle", id=2)
    assert todos.rows() == [("One", False), ("Two", True)]
    assert todos.signals["Todos"]["left"] == 1
    todos.do("toggle", id=2)
    assert todos.rows() == [("One", False), ("Two", False)]
    assert todos.signals["Todos"]["left"] == 2


def test_todo_filters_and_says_which_filter_is_on(todos):
    todos.add("One", "Two").do("toggle", id=2)
    one, two = ("One", False), ("Two", True)
    for show, rows in {"active": [one], "completed": [two], "all": [one, two]}.items():
        todos.do("filter", show=show)
        assert todos.rows() == rows
        assert [b["id"] for b in elements(todos, "button") if b.get("aria-pressed") == "true"] == [f"show-{show}"]


def test_todo_clears_what_is_completed_and_gives_no_id_twice(todos):
    todos.add("One", "Two").do("toggle", id=2)
    todos.do("clear_completed")
    todos.add("Three").do("toggle", id=2)  # a click of a tab that still showed the one that is gone
    assert todos.rows() == [("One", False), ("Three", False)]


@pytest.mark.parametrize("call", [{"event": "filter", "show": "evil"}, {"event": "toggle", "id": "x"}])
def test_todo_refuses_other_arguments(todos, call):
    assert next(name for name in call if name != "event") in refused(todos.send("Todos", **call), 400)


def test_todo_takes_no_blank_text_and_bounds_what_a_session_can_store(todos):
    for bad in ("", "   ", "x" * 201):
        assert "'text'" in refused(todos.send("Todos", "add", form=[("text", bad)]), 400)
    todos.add(*("x" * 200 for _ in range(100)))
    assert "at most 100" in refused(todos.send("Todos", "add", form=[("text", "one more")]), 400)
    assert len(todos.rows()) == 100


def test_todo_lists_are_apart_by_session_and_one_in_all_its_tabs(todos):
    second_tab, stranger = Todos(todos.client), Todos(TestClient(todos.client.app))
    todos.add("Mine")
    assert second_tab.rows() == [("Mine", False)]
    assert stranger.rows() == []


# -- cart --------------------------------------------------------------------------------------------------------------


def test_cart_paints_products_stock_and_announcement(shop):
    page = visitor(shop.app)
    seen = words(page.html)
    assert "Everything ships today." in seen
    assert "Mug Stoneware, holds a quarter of a litre. €9.50 5 in stock Add to cart" in seen
    assert "Your cart ( 0 ) Your cart is empty." in seen
    assert set(page.signals["ProductState"]) == set(shop.CATALOG)


def test_cart_adds_takes_back_and_sums(shop):
    page = visitor(shop.app)
    for sku in ("mug", "pot", "mug"):
        sent(page.send("Cart", "add", sku=sku))
    assert "Your cart ( 3 ) Mug €19.00 - 2 + Teapot €48.00 - 1 + Total €67.00 Order" in text(page)
    assert "Teapot is back on the shelf." in sent(page.send("Cart", "put_back", sku="pot")).text
    assert "Your cart ( 2 ) Mug €19.00 - 2 + Total €19.00 Order" in text(page)
    assert "Enough for four. €48.00 2 in stock" in text(page)


def test_cart_lets_another_shopper_see_the_stock_fall_as_it_does(shop):
    with TestClient(shop.app) as client:
        watcher = Page(client)
        payload = {"w": watcher.tokens, "n": watcher.position}
        with client.stream("POST", f"{watcher.url}stream", json=payload, headers=BROWSER) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if '"c":' in line)  # the stream is open
            client.cookies.clear()
            sent(Page(client).send("Cart", "add", sku="pot"))
            seen = next(line for line in lines if "in stock" in line)
        assert "Teapot" in words(seen) and "1 in stock" in words(seen)
        assert "Your cart ( 0 )" in words(
            client.get("/", headers={"cookie": watcher.response.headers["set-cookie"]}).text
        )


def test_cart_sells_no_more_than_there_is_and_a_refusal_changes_nothing(shop):
    one, two = visitor(shop.app), visitor(shop.app)
    for page in (one, two):
        sent(page.send("Cart", "add", sku="pot"))
    before = text(one), text(two)
    assert "€48.00 Sold out" in before[0]
    assert refused(one.send("Cart", "add", sku="pot"), 400) == "Teapot is sold out."
    assert (text(one), text(two)) == before
    sent(two.send("Cart", "put_back", sku="pot"))
    sent(one.send("Cart", "add", sku="pot"))
    assert "Teapot €96.00 - 2 +" in text(one)


async def test_cart_sells_the_last_ones_once_when_many_ask_at_the_same_time(shop):
    async with AsyncExitStack() as stack:
        shoppers = [await Page.open(await stack.enter_async_context(browser(shop.app))) for _ in range(8)]
        answers = await asyncio.gather(*(shopper.send("Cart", "add", sku="pot") for shopper in shoppers))
        assert sorted(map(message, answers)) == [""] * 2 + ["Teapot is sold out."] * 6
        carts = [(await Page.open(shopper.client)).signals["Cart"]["items"] for shopper in shoppers]
        assert carts == [0 if message(answer) else 1 for answer in answers]


def test_cart_takes_back_only_what_it_holds(shop):
    one, two = visitor(shop.app), visitor(shop.app)
    sent(one.send("Cart", "add", sku="mug"))
    assert refused(two.send("Cart", "put_back", sku="mug"), 400) == "Mug is not in your cart."
    assert "4 in stock" in text(two)


def test_cart_order_empties_the_cart_and_tells_all_shoppers(shop):
    one, two = visitor(shop.app), visitor(shop.app)
    for sku in ("tea", "tea", "mug"):
        sent(one.send("Cart", "add", sku=sku))
    assert "Thank you for your order!" in sent(one.send("Cart", "order")).text
    assert "Your cart is empty." in text(one)
    assert "Just sold: 2 Green tea, 1 Mug" in text(two)
    assert "18 in stock" in text(two)
    assert refused(one.send("Cart", "order"), 400) == "Your cart is empty."
    assert "Just sold: 2 Green tea, 1 Mug" in text(two)


def test_cart_has_a_page_for_each_product_and_none_for_others(shop):
    page = visitor(shop.app, "/products/mug")
    sent(page.send("Cart", "add", sku="mug"))
    assert "€9.50 4 in stock" in text(page)
    assert "Teapot" not in text(page)
    assert page.client.get("/products/nope").status_code == 404
    refused(page.send("Cart", "add", sku="nope"), 404)
    assert "4 in stock" in text(page)


def test_cart_page_that_outlived_a_restart_finds_its_products(shop, load):
    page = visitor(shop.app)
    page.client = TestClient(load("cart").app, cookies=page.client.cookies)
    sent(page.send("Cart", "add", sku="mug"))
    assert "Mug €9.50 - 1 +" in text(page)


# -- shop --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tea_shop(load):
    return load("shop")


@pytest.fixture
def admin(tea_shop):
    """Opens the page of a product in a browser of the admin's own, signed in through the form."""

    def admin(path="/products/mug"):
        page = visitor(tea_shop.app, f"/login?next={path}")
        answer = page.client.post(str(page.response.url), data={"password": tea_shop.PASSWORD})
        assert answer.url.path == path
        return Page(page.client, path)

    return admin


def save(page, name, price, stock, version=None, sku="mug"):
    """Sends the editor's form, by default with the version that the page shows."""
    fields = [["name", name], ["price", price], ["stock", stock]]
    shown = page.signals["ProductState"][sku]["_version"]
    body = {"f": fields, "i": sku, "v": version or shown, "w": page.tokens}
    headers = {**BROWSER, "content-type": "application/json"}
    return page.client.post(f"{page.url}event/ProductState/edit", content=json.dumps(body), headers=headers)


def test_shop_paints_the_rows_of_its_table(tea_shop):
    seen = words(visitor(tea_shop.app).html)
    assert "Green tea €7.25 20 in stock Add to cart Mug €9.50 5 in stock Add to cart Teapot €48.00 2 in stock" in seen
    assert "Your cart ( 0 ) Your cart is empty." in seen


def test_shop_takes_from_the_row_what_it_puts_into_the_cart_and_back(tea_shop):
    page = visitor(tea_shop.app)
    for sku in ("mug", "pot", "mug"):
        sent(page.send("Cart", "add", sku=sku))
    assert "Your cart ( 3 ) Mug 2 at €9.50 Put back Teapot 1 at €48.00 Put back Total €67.00" in text(page)
    assert tea_shop.products["mug"] == {"sku": "mug", "name": "Mug", "price": "9.50", "stock": 3, "version": 3}
    assert "Teapot is back on the shelf." in sent(page.send("Cart", "put_back", sku="pot")).text
    assert "Your cart ( 2 ) Mug 2 at €9.50 Put back Total €19.00" in text(page)
    assert tea_shop.products["pot"]["stock"] == 2
    assert refused(page.send("Cart", "put_back", sku="pot"), 400) == "Teapot is not in your cart."
    assert "4 in stock" not in text(visitor(tea_shop.app))
    assert "Your cart is empty." in text(visitor(tea_shop.app))


def test_shop_refuses_what_is_sold_out_and_changes_neither_row_nor_cart(tea_shop):
    one, two = visitor(tea_shop.app), visitor(tea_shop.app)
    for page in (one, two):
        sent(page.send("Cart", "add", sku="pot"))
    before = text(one), text(two)
    assert "€48.00 Sold out" in before[0]
    assert refused(one.send("Cart", "add", sku="pot"), 400) == "Teapot is sold out."
    assert (text(one), text(two), tea_shop.products["pot"]["stock"]) == (*before, 0)


async def test_shop_sells_the_last_ones_once_when_many_ask_at_the_same_time(tea_shop):
    async with AsyncExitStack() as stack:
        shoppers = [await Page.open(await stack.enter_async_context(browser(tea_shop.app))) for _ in range(8)]
        answers = await asyncio.gather(*(shopper.send("Cart", "add", sku="pot") for shopper in shoppers))
        assert sorted(map(message, answers)) == [""] * 2 + ["Teapot is sold out."] * 6
        await tea_shop.provider.stop()
    assert tea_shop.products["pot"]["stock"] == 0


def test_shop_finds_carts_and_rows_again_after_a_restart_and_fills_the_table_once(tea_shop, load):
    with TestClient(tea_shop.app) as client:
        sent(Page(client).send("Cart", "add", sku="mug"))
    with TestClient(load("shop").app, cookies=client.cookies) as client:
        page = Page(client)
        assert "Mug €9.50 4 in stock" in words(page.html)
        assert "Your cart ( 1 ) Mug 1 at €9.50" in words(page.html)
        sent(page.send("Cart", "add", sku="mug"))
        assert "Mug 2 at €9.50" in text(page)


def test_shop_has_a_page_for_each_row_and_none_for_others(tea_shop):
    page = visitor(tea_shop.app, "/products/mug")
    assert "Mug €9.50 5 in stock" in text(page)
    assert "Teapot" not in text(page)
    for path in ("/products/nope", "/products/MUG"):
        assert page.client.get(path).status_code == 404
    refused(page.send("Cart", "add", sku="nope"), 404)


def test_shop_lets_the_admin_alone_edit_a_product(tea_shop, admin):
    stranger, page = visitor(tea_shop.app, "/products/mug"), admin()
    assert "Price in euros" not in words(stranger.html)
    refused(save(stranger, "Cup", "1.00", "1"), 401)
    assert "Saved." in sent(save(page, " Cup ", "12.5", "7")).text
    assert "Cup €12.50 7 in stock" in text(stranger)
    assert tea_shop.products["mug"] == {"sku": "mug", "name": "Cup", "price": "12.5", "stock": 7, "version": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", " "), ("name", "x" * 61), ("price", "-1"), ("price", "1.005"), ("price", "NaN"), ("stock", "-1")],
)
def test_shop_refuses_what_no_product_can_be(tea_shop, admin, field, value):
    assert f"'{field}'" in refused(save(admin(), **{"name": "Mug", "price": "9", "stock": "5", field: value}), 400)
    assert tea_shop.products["mug"]["version"] == 1


def test_shop_saves_no_edit_over_a_change_that_its_page_has_not_seen(tea_shop, admin):
    one, two = admin(), admin()
    sent(save(one, "Cup", "9.50", "5"))
    late = save(two, "Beaker", "9.50", "5")
    assert "changed meanwhile" in refused(late, 409)
    assert 'value="Cup"' in late.text
    now = patched_signals(late.text)["ProductState"]["mug"]["_version"]
    sent(save(two, "Beaker", "9.50", "5", version=now))
    sent(visitor(tea_shop.app).send("Cart", "add", sku="mug"))  # a sale is a change, too
    refused(save(one, "Cup", "9.50", "9", version=now), 409)
    assert (tea_shop.products["mug"]["name"], tea_shop.products["mug"]["stock"]) == ("Beaker", 4)


def test_shop_keeps_the_cart_of_whoever_signs_in(tea_shop):
    page = visitor(tea_shop.app)
    sent(page.send("Cart", "add", sku="mug"))
    assert page.client.post("/login", data={"password": tea_shop.PASSWORD}).url.path == "/"
    assert "Ada Sign out" in text(page)
    assert "Your cart ( 1 )" in text(page)
    page.client.post("/logout")
    assert "Sign in" in text(page)
    assert "Your cart ( 0 )" in text(page)


def test_shop_signs_nobody_in_by_a_wrong_password_and_leads_nobody_to_another_site(tea_shop):
    client = TestClient(tea_shop.app)
    answer = client.post("/login?next=/products/mug", data={"password": "kettle"})
    assert "This is not the password." in words(answer.text)
    answer = client.post(str(answer.url), data={"password": tea_shop.PASSWORD})
    assert answer.url.path == "/products/mug"
    client = TestClient(tea_shop.app, follow_redirects=False)
    answer = client.post("/login?next=//evil.example/", data={"password": tea_shop.PASSWORD})
    assert answer.headers["location"] == "/"


def test_shop_controls_have_names_on_all_pages(tea_shop, admin):
    controls_have_names(visitor(tea_shop.app, "/login"))
    controls_have_names(admin())


# -- team --------------------------------------------------------------------------------------------------------------

HANDBOOK, ROADMAP = "/documents/handbook", "/documents/roadmap"


@pytest.fixture
def team(load):
    return load("team")


@pytest.fixture
def sign_in(team):
    """A page of the team example for whom the name says, in a browser of their own, signed in through the form."""

    def sign_in(name, path=HANDBOOK):
        (user_id,) = [user.id for user in team.USERS.values() if user.username == name]
        page = visitor(team.app, path)
        assert page.response.url.path == "/login"
        answer = enter(page, name, team.PASSWORDS[user_id])
        assert answer.url.path == path
        return Page(page.client, path)

    return sign_in


def enter(page, name, password):
    """The answer to the form of a page to sign in, sent to where a browser would send it."""
    (form,) = elements(page, "form")
    assert form["method"] == "post"
    address = form.get("action") or str(page.response.url)
    return page.client.post(address, data={"name": name, "password": password})


def edit(page, event, **arguments):
    return page.send("Document", event, instance_id="handbook", **arguments)


def publish(page, text, slug="handbook"):
    return page.send("Draft", "publish", bound={"text": text}, slug=slug)


def test_team_sends_strangers_to_sign_in_and_back_to_where_they_wanted_to_go(team):
    client = TestClient(team.app, follow_redirects=False)
    location = client.get(f"{HANDBOOK}?from=mail").headers["location"]
    assert location == "/login?next=%2Fdocuments%2Fhandbook%3Ffrom%3Dmail"
    answer = client.post(location, data={"name": "Kim", "password": "kite"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{HANDBOOK}?from=mail")
    assert client.get(HANDBOOK).status_code == 200
    assert client.get(location).headers["location"] == f"{HANDBOOK}?from=mail"  # the sign-in page of another tab


@pytest.mark.parametrize(
    ("name", "password"), [("Kim", "compiler"), ("Kim", ""), ("Nobody", "kite"), ("Kim", "k\u00ef")]
)
def test_team_keeps_the_way_back_when_the_password_is_wrong_and_signs_nobody_in(team, name, password):
    page = visitor(team.app, HANDBOOK)
    answer = enter(page, name, password)
    assert "do not go together" in words(answer.text)
    assert page.client.get(HANDBOOK).url.path == "/login"
    assert enter(Page(page.client, str(answer.url)), "Kim", "kite").url.path == HANDBOOK


def test_team_leads_nobody_to_another_site(team):
    client = TestClient(team.app, follow_redirects=False)
    answer = client.post("/login?next=//evil.example/", data={"name": "Kim", "password": "kite"})
    assert answer.headers["location"] == "/"


def test_team_controls_have_names_on_all_pages(sign_in):
    for name, path in (("Grace", HANDBOOK), ("Kim", HANDBOOK), ("Ada", "/"), ("Ada", HANDBOOK)):
        controls_have_names(sign_in(name, path))


def test_team_shows_each_role_its_own(sign_in):
    publishing, renaming, sharing = "Publish the draft", "Rename", "Remove"
    shown = {
        "Grace": {publishing, renaming, sharing, "Changes: 0"},
        "Kim": {publishing, renaming},
        "Ada": {"Changes: 0"},  # reads what she is no member of
    }
    for name, own in shown.items():
        seen = words(sign_in(name).html)
        assert "Handbook Owner: Grace" in seen
        assert {text for text in {publishing, renaming, sharing, "Changes: 0"} if text in seen} == own


def test_team_hides_the_number_of_changes_from_whoever_lacks_the_permission(sign_in):
    grace, kim = sign_in("Grace"), sign_in("Kim")
    assert patched_signals(sent(edit(grace, "rename", title="Rules")).text)["Document"]["handbook"]["changes"] == 1
    kim_told = patched_signals(sent(edit(kim, "rename", title="Manual")).text)["Document"]["handbook"]
    assert (kim_told["title"], kim_told["changes"]) == ("Manual", "")
    assert "Changes: 2" in text(grace)


def test_team_lists_the_documents_that_one_may_read(sign_in):
    lists = {"Ada": "Handbook Roadmap", "Grace": "Handbook", "Kim": "Handbook Roadmap", "Lee": "No document is shared"}
    for name, documents in lists.items():
        assert f"Documents {documents}" in words(sign_in(name, "/").html)
    assert "Documents Handbook Roadmap" not in words(sign_in("Grace", "/").html)


def test_team_answers_403_for_others_documents_and_404_for_none(sign_in):
    page = sign_in("Lee", "/")
    assert page.client.get(HANDBOOK).status_code == 403
    assert sign_in("Grace", "/").client.get(ROADMAP).status_code == 403
    assert page.client.get("/documents/nope").status_code == 404


def test_team_lets_members_edit_and_the_owner_alone_say_who_they_are(sign_in):
    grace, kim = sign_in("Grace"), sign_in("Kim")
    sent(edit(kim, "rename", title="Manual"))
    sent(publish(kim, "Bring tea."))
    assert "Manual Owner: Grace Kim Bring tea." in text(grace)
    for event, user_id in (("share", 4), ("unshare", 3)):
        refused(edit(kim, event, user_id=user_id), 403)
    sent(edit(grace, "share", user_id=4))
    assert "Bring tea." in words(sign_in("Lee").html)


def test_team_adds_nobody_twice_and_no_unknown_person(sign_in):
    grace = sign_in("Grace")
    for user_id in (2, 3, 99):
        sent(edit(grace, "share", user_id=user_id))
    assert "Team Kim Remove Person Ada Lee Add" in text(grace)


def test_team_lets_an_admin_read_a_document_and_no_more(sign_in):
    ada = sign_in("Ada")
    refused(edit(ada, "rename", title="Mine"), 403)
    refused(edit(ada, "share", user_id=1), 403)
    refused(publish(ada, "Seen by Ada"), 403)
    assert "Handbook Owner: Grace Nothing has been published yet." in text(ada)


def test_team_takes_everything_from_a_removed_member_with_that_commit(sign_in):
    grace, kim = sign_in("Grace"), sign_in("Kim")
    sent(edit(grace, "unshare", user_id=3))
    assert kim.client.get(HANDBOOK).status_code == 403
    refused(edit(kim, "rename", title="Mine"), 403)
    refused(publish(kim, "Mine"), 403)
    assert "Handbook Owner: Grace Nothing has been published yet." in text(grace)
    sent(edit(grace, "share", user_id=3))
    sent(edit(Page(kim.client, HANDBOOK), "rename", title="Manual"))


def test_team_publishes_into_no_document_that_one_may_not_edit(sign_in):
    grace = sign_in("Grace")
    refused(publish(grace, "Hello", slug="roadmap"), 403)
    refused(publish(grace, "Hello", slug="nope"), 404)
    assert refused(publish(grace, "   "), 400) == "Your draft is empty."
    assert "Nothing has been published yet." in words(sign_in("Kim", ROADMAP).html)


def test_team_keeps_a_draft_for_its_writer_alone_in_all_their_browsers(sign_in):
    kim, grace = sign_in("Kim"), sign_in("Grace")
    sent(kim.send("Draft", "save", bound={"text": "not yet"}))
    assert "not yet" in text(kim)
    assert "not yet" in sign_in("Kim", ROADMAP).html
    assert "not yet" not in Page(grace.client, HANDBOOK).html + sign_in("Ada").html
    sent(kim.send("Draft", "publish", bound={"text": "now"}, slug="handbook"))
    assert "Kim now" in text(grace)
    assert Page(kim.client, HANDBOOK).signals["Draft"]["text"] == ""


def test_team_empties_the_box_of_a_draft_that_was_never_saved_before_it_was_published(sign_in):
    told = word_of(sent(publish(sign_in("Kim"), "typed and sent at once")))
    assert (told["path"], told["values"]) == (["Draft"], {"text": ""})


def test_team_lets_the_admin_alone_change_the_banner_that_all_see(team, sign_in):
    ada, kim = sign_in("Ada", "/"), sign_in("Kim", "/")
    assert "New banner" in words(ada.html)
    assert "New banner" not in words(kim.html)
    refused(kim.send("Banner", "announce", text="evil"), 403)
    refused(visitor(team.app).send("Banner", "announce", text="evil"), 401)
    sent(ada.send("Banner", "announce", text="Lunch at one"))
    for page in (kim, visitor(team.app)):
        assert "Lunch at one" in text(page)


def test_team_ends_the_session_at_sign_out_an_old_copy_of_its_cookie_too(team, sign_in):
    kim = sign_in("Kim")
    old = TestClient(team.app, cookies=dict(kim.client.cookies), follow_redirects=False)
    assert old.get(HANDBOOK).status_code == 200
    assert kim.client.post("/logout").url.path == "/login"
    for client in (kim.client, old):
        assert client.get(HANDBOOK, follow_redirects=False).headers["location"].startswith("/login?next=")
    assert status(edit(kim, "rename", title="Mine")) == 403


def test_team_has_no_event_on_a_shared_state_without_a_rule(root):
    paths = os.pathsep.join([str(root / "examples"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "faststate", "audit", "team:app"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, "Nothing found." in done.stdout) == (0, True), done.stdout + done.stderr
