"""The examples do what they show: painted without JavaScript, changed by events, shared by the scopes they name."""

import asyncio
import html
import importlib.util
import json
import re
from contextlib import AsyncExitStack

import pytest
from starlette.testclient import TestClient

from tests.client import BROWSER, Page, browser, message, patched_signals, status

pytestmark = pytest.mark.usefixtures("in_tmp_path")

EXAMPLES = ["counter", "todo", "cart"]


@pytest.fixture
def load(root):
    """Imports an example anew, as a process that starts does."""

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
    """What a reader of the page, loaded again, reads: its markup without tags, in single spaces."""
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
    (source,) = [s["src"] for s in elements(page, "script") if s.get("type") == "module"]
    assert page.client.get(source).text == "// a copy of Datastar"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_control_has_a_name_for_assistive_technology(name, load):
    page = visitor(load(name).app)
    labelled = {label.get("for") for label in elements(page, "label")}
    for tag, attributes in page.attributes:
        if tag == "input":
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
        query = {"datastar": json.dumps({"w": watcher.tokens, "n": watcher.position})}
        with client.stream("GET", f"{watcher.url}stream", params=query, headers=BROWSER) as stream:
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
