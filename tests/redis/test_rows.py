"""Rows in a database of several processes: the row is the truth, and Redis says who may change it and who has."""

import asyncio
import contextlib

import pytest
from fasthtml import common as fh
from fastlite import database

from faststate import Bound, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
from tests.support.client import status
from tests.support.live import Site, serving

from .office import Office, send


class Product(ReactiveState):
    stock: int = 0
    note: Bound[str] = ""

    @event
    async def sell(self, by: int = 1):
        self.stock -= by

    @event
    async def keep(self):
        pass

    @event(expect_version=True)
    async def correct(self, stock: int):
        self.stock = stock


@pytest.fixture(params=["counted", "uncounted"])
async def shop(request, redis_server, tmp_path):
    path = tmp_path / "shop.db"
    table = database(path).t.product
    columns = {"product_id": int, "stock": int, "note": str, **({"version": int} if request.param == "counted" else {})}
    table.create(columns, pk="product_id")
    for product_id in (1, 2):
        counted = {"version": 1} if "version" in columns else {}
        table.insert({"product_id": product_id, "stock": 1_000, "note": "", **counted})

    def make_app():
        provider = StateProvider(store=redis_server.url, event_rate=1e9, event_burst=10**6)
        config = StateConfig(scope=StateScope.RECORD, records=database(path).t.product)
        provider.register_state(Product, config)
        app, rt = fast_app(state_provider=provider, secret_key="for tests")

        @rt("/{product_id}")
        async def index(product: Product):
            return fh.Titled("Shop", fh.P(product.signal.stock), fh.Input(product.signal.note.bind()))

        return app

    with contextlib.ExitStack() as servers:
        apps = [make_app() for _ in range(2)]
        urls = [servers.enter_context(serving(app)) for app in apps]
        async with contextlib.AsyncExitStack() as stack:
            sites = [Site(url, app.state.faststate, stack) for app, url in zip(apps, urls, strict=True)]
            office = Office(sites, stack)
            office.table = table
            yield office


async def until_stock(tabs, stock):
    for tab in tabs:
        await tab.until(lambda tab=tab: next(iter(tab.signals["Product"].values()))["stock"] == stock)


async def test_rows_follow_in_all_processes(shop):
    a, b, *tabs = await shop.visit_all("/1")
    for place in range(6):
        assert (await send((a, b)[place % 2], tabs[0], "Product/sell", i="1")).status_code == 204
        await until_stock(tabs, 999 - place)
    assert shop.table[1]["stock"] == 994


async def test_none_of_many_sales_at_once_is_lost_or_done_twice(shop):
    a, b, *tabs = await shop.visit_all("/1")
    responses = await asyncio.gather(*(send(c, tabs[0], "Product/sell", i="1") for c in (a, b) for _ in range(50)))
    assert {status(response) for response in responses} == {204}
    assert shop.table[1]["stock"] == 900
    await until_stock(tabs, 900)


async def test_a_page_of_a_process_that_nobody_follows_it_in_shows_the_row_as_it_is(shop):
    a, b, tab = await shop.visit("/1", streaming=False)
    for count in range(1, 4):
        assert status(await send(a, tab, "Product/sell", i="1")) in (200, 204)
        seen = await shop.tab(b, "/1", streaming=False)
        assert next(iter(seen.signals["Product"].values()))["stock"] == 1_000 - count


async def test_the_version_that_a_page_has_seen_is_one_for_all_processes(shop):
    _, b, tab = await shop.visit("/1")
    old = next(iter(tab.signals["Product"].values()))["_version"]
    taken = await send(b, tab, "Product/correct", i="1", a={"stock": 7}, v=old)
    assert status(taken) in (200, 204), taken.text
    await until_stock([tab], 7)
    refused = await send(b, tab, "Product/correct", i="1", a={"stock": 8}, v=old)
    assert status(refused) == 409


async def test_a_row_that_other_code_has_changed_is_shown_by_all_after_refresh(shop):
    _, b, *tabs = await shop.visit_all("/1")
    shop.table.update({"product_id": 1, "stock": 3})
    provider = shop.sites[0].provider
    assert await asyncio.to_thread(lambda: provider.refresh(Product, record_id=1).value)
    await until_stock(tabs, 3)
    assert status(await send(b, tabs[0], "Product/sell", i="1")) == 204
    await until_stock(tabs, 2)


async def test_a_row_that_is_deleted_goes_from_the_pages_of_all(shop):
    a, b, *tabs = await shop.visit_all("/1")
    await asyncio.to_thread(lambda: shop.sites[0].provider.delete(Product, record_id=1))
    for tab in tabs:
        await tab.until(lambda tab=tab: tab.signals["_fs"].get("err"))
    for client in (a, b):
        assert (await client.get("/1")).status_code == 404


async def test_a_row_whose_changer_has_died_with_its_lock_is_loaded_again(shop):
    _, b, *tabs = await shop.visit_all("/1")
    assert (await send(b, tabs[0], "Product/sell", i="1")).status_code == 204
    await until_stock(tabs, 999)
    store = shop.sites[0].provider.store
    key = "row:record:Product:1"

    async def change_and_die():
        locked = await store.lock({key: None}, 5)
        shop.table.update({"product_id": 1, "stock": 500})
        store.unlock(locked.holds.values(), unclean=True)

    loop = shop.sites[0].provider.sse_manager.fanout.loop
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(change_and_die(), loop))
    assert (await send(b, tabs[0], "Product/sell", i="1")).status_code == 204
    await until_stock(tabs, 499)


async def test_what_a_page_types_into_a_row_is_not_sent_back_to_it_by_another_process(shop):
    a, b = await shop.browser()
    tab, other = await shop.tab(a, "/1"), await shop.tab(a, "/1")
    assert (await send(b, tab, "Product/keep", i="1", b={"note": "hello"}, q=1)).status_code == 200
    # The tab's own process has taken it in: with the next change in one, it would be told.
    await other.until(lambda: next(iter(other.signals["Product"].values()))["note"] == "hello")
    assert (await send(b, tab, "Product/sell", i="1")).status_code == 204
    await until_stock([tab], 999)
    patches = [one for patch in tab.patched[1:] for one in patch.get("Product", {}).values()]
    assert patches and not any("note" in patch for patch in patches)
    assert shop.table[1]["note"] == "hello"
