"""RECORD states whose rows are in a database: what pages see, what is saved, and what other code does to the rows."""

import asyncio
from typing import Annotated, Any

import pytest
from fasthtml.common import Div
from fastlite import database
from pydantic import BaseModel, Field, SecretStr

from faststate import (
    ConfigurationError,
    PersistenceError,
    ReactiveState,
    Record,
    ServerOnly,
    StateConfig,
    StateNotFoundError,
    StateProvider,
    StateScope,
    VersionConflict,
    event,
    fast_app,
)
from faststate.records.sources import Row
from faststate.records.table import TableRecords
from faststate.sessions.config import Ids
from faststate.stores.memory import MemoryStore
from tests.support.client import Page, browser, message, patched_signals, status
from tests.support.states import provider_of, set_fields


class Part(BaseModel):
    name: str
    cost: ServerOnly[int] = 1


class Product(ReactiveState):
    name: str = ""
    stock: int = 0
    tags: list[str] = []
    parts: list[Part] = []
    supplier: ServerOnly[str] = "nobody"

    @event
    def buy(self):
        self.stock -= 1

    @event
    def label(self, tag: str):
        self.tags.append(tag)
        self.parts.append(Part(name=tag, cost=7))
        self.supplier = "somebody"

    @event(expect_version=True)
    def rename(self, name: str):
        self.name = name

    @event
    def move(self, other: Annotated["Product", Record("to")], to: str, by: int):
        self.stock -= by
        other.stock += by


class Order(ReactiveState):
    items: int = 0

    @event
    def take(self, product: Annotated[Product, Record("sku")], sku: str):
        product.stock -= 1
        self.items += 1


class Cart(ReactiveState):
    items: list[str] = []

    @event
    def take(self, product: Annotated[Product, Record("sku")], sku: str):
        product.stock -= 1
        self.items.append(product.name)


class Shop:
    """An app on a database with two tables, on fastlite's terms; `queries` counts what is loaded."""

    def __init__(self, directory, store=None, config=None, counted=True):
        self.db = db = database(directory / "shop.db")
        columns = {"id": int, "name": str, "stock": int, "tags": str, "parts": str, "supplier": str}
        if counted:
            columns["version"] = int
        if "products" not in db.table_names():
            self.products = db.t.products.create(**columns, pk="id")
            for number, name in enumerate(("tea", "rum"), 1):
                row = {"id": number, "name": name, "stock": 10, "tags": "[]", "parts": "[]", "supplier": "x"}
                self.products.insert({**row, **({"version": 1} if counted else {})})
            self.orders = db.t.orders.create(id=int, items=int, pk="id")
            self.orders.insert(id=1, items=0)
            db.execute("CREATE TABLE log (line TEXT)")
            db.execute(
                "CREATE TRIGGER told AFTER UPDATE OF name, tags, parts, supplier ON products "
                "BEGIN INSERT INTO log VALUES ('more than stock'); END"
            )
        self.products, self.orders = db.t.products, db.t.orders
        self.provider = provider = StateProvider(store=store, event_burst=10_000)
        provider.register_state(Product, config or StateConfig(scope=StateScope.RECORD, records=self.products))
        provider.register_state(Order, StateConfig(scope=StateScope.RECORD, records=self.orders))
        provider.register_state(Cart)
        self.app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)
        self.source = provider.registrations.config_of(Product).records

        @rt("/products/{product_id}")
        def product(product: Product):
            return Div(product.name, product.signal.stock, product.rename.on("click"))

        @rt("/orders/{order_id}")
        def order(order: Order):
            return Div(order.signal.items)

        @rt("/cart")
        def cart(cart: Cart):
            return Div(" ".join(cart.items))

    def row(self, number=1):
        return next(iter(self.db.q("SELECT * FROM products WHERE id = ?", [number])), None)

    def log(self):
        return [row["line"] for row in self.db.q("SELECT line FROM log")]


@pytest.fixture(params=[None, "store"], ids=["no store", "with a store"])
async def shop(request, tmp_path):
    made = Shop(tmp_path, MemoryStore() if request.param else None)
    yield made
    await made.provider.stop()


@pytest.fixture
async def client(shop):
    async with browser(shop.app) as client:
        yield client


@pytest.fixture
async def page(client):
    """The page of the first product."""
    return await Page.open(client, "/products/1")


async def test_a_row_is_shown_and_changed_by_events_and_only_the_changed_columns_are_written(page, shop):
    assert page.signals["Product"]["1"]["stock"] == 10 and "supplier" not in page.html
    answer = await page.send("Product", "buy", instance_id="1")
    assert patched_signals(answer.text)["Product"]["1"]["stock"] == 9
    assert (shop.row()["stock"], shop.row()["version"]) == (9, 2) and shop.log() == []


async def test_lists_models_and_hidden_fields_are_columns_too_and_come_back(page, shop, tmp_path):
    assert status(await page.send("Product", "label", instance_id="1", tag="good")) in (200, 204)
    assert shop.row()["supplier"] == "somebody" and shop.row()["tags"] == '["good"]'
    await shop.provider.stop()
    again = Shop(tmp_path)
    async with again.provider.modify(Product, record_id=1) as product:
        assert product.tags == ["good"] and product.parts == [Part(name="good", cost=7)]
        assert product.supplier == "somebody"
    await again.provider.stop()


@pytest.mark.parametrize("number", ["3", "01", "1.0", " 1", "x", "1 OR 1=1", "'", "-1", "9" * 400])
async def test_what_is_no_row_is_a_404_and_leaves_nothing_behind(client, shop, number):
    assert (await client.get(f"/products/{number}")).status_code == 404
    assert len(shop.provider.registry) == 0 and shop.row()["stock"] == 10


async def test_a_thousand_simultaneous_first_readers_cause_one_query(client, shop):
    loads = []
    real = shop.source.load

    async def load(record_id):
        loads.append(record_id)
        return await real(record_id)

    shop.source.load = load
    pages = await asyncio.gather(*(client.get("/products/1") for _ in range(300)))
    identifier = shop.provider.registrations.config_of(Product).identifier(Ids(record_id=2))
    entry = shop.provider.resolver.entry
    await asyncio.gather(*(entry(identifier, shop.provider.registrations.config_of(Product)) for _ in range(1000)))
    assert {page.status_code for page in pages} == {200} and sorted(loads) == ["1", "2"]


async def test_other_code_s_change_is_pushed_to_those_who_watch_when_it_says_so(client, shop):
    told = []
    shop.provider.registry.followers.committed = lambda commit: told.append(commit.delta)
    await client.get("/products/1")
    shop.products.update(id=1, stock=3, version=2)
    assert await shop.provider.refresh(Product, record_id=1) is True
    assert told[-1]["stock"] == 3 and set(told[-1]) == {"stock", "_version"}
    assert ">3<" in (await client.get("/products/1")).text
    assert await shop.provider.refresh(Product, record_id=1) is False
    assert await shop.provider.refresh(Product, record_id=2) is False
    assert len(told) == 1


async def test_a_refresh_of_a_row_that_is_just_being_loaded_does_not_leave_the_old_one(shop):
    real, begun, go_on = shop.source.load, asyncio.Event(), asyncio.Event()

    async def slow(record_id):
        row = await real(record_id)
        begun.set()
        await go_on.wait()
        return row

    shop.source.load = slow
    config = shop.provider.registrations.config_of(Product)
    loading = asyncio.create_task(shop.provider.resolver.entry(config.identifier(Ids(record_id=1)), config))
    await begun.wait()
    shop.products.update(id=1, stock=3, version=2)
    refreshing = asyncio.create_task(shop.provider.refresh(Product, record_id=1))
    go_on.set()
    await refreshing
    assert (await loading).state.stock == 3


def test_refresh_works_from_sync_code(tmp_path):
    shop = Shop(tmp_path)
    with shop.provider.modify(Product, record_id=1) as product:
        product.stock = 5
    shop.products.update(id=1, stock=3, version=3)
    assert shop.provider.refresh(Product, record_id=1).value is True
    assert shop.provider.registry.peek("record:Product:1").stock == 3


async def test_a_change_that_was_made_from_an_older_row_is_refused_and_the_newer_one_shown(page, shop):
    shop.products.update(id=1, stock=3, version=2)  # and nobody said so
    assert status(await page.send("Product", "buy", instance_id="1")) == 503
    assert shop.row()["stock"] == 3
    answer = await page.send("Product", "buy", instance_id="1")
    assert patched_signals(answer.text)["Product"]["1"]["stock"] == 2
    assert (shop.row()["stock"], shop.row()["version"]) == (2, 3)


async def test_a_row_without_a_version_takes_the_last_change(tmp_path):
    shop = Shop(tmp_path, counted=False)
    await set_fields(shop.provider.modify(Product, record_id=1), stock=9)
    shop.products.update(id=1, name="other")
    await shop.provider.start()
    await set_fields(shop.provider.modify(Product, record_id=1), stock=8)
    assert (shop.row()["stock"], shop.row()["name"]) == (8, "other")
    await shop.provider.stop()


async def test_the_version_of_a_row_is_what_a_page_expects_over_a_restart_too(page, tmp_path):
    assert page.signals["Product"]["1"]["_version"] == "row.1"


async def test_a_deleted_row_is_a_404_to_events_and_pages_and_vanishes_where_it_is_shown(client, shop):
    gone = []
    tell = shop.provider.registry.followers.removed
    shop.provider.registry.followers.removed = lambda state, reason: (gone.append(state.name), tell(state, reason))
    page = await Page.open(client, "/products/1")
    shop.products.delete(1)
    answer = await page.send("Product", "buy", instance_id="1")
    assert status(answer) == 404 and "not there any more" in message(answer)
    assert gone == ["tea"]
    assert status(await page.send("Product", "buy", instance_id="1")) == 404
    assert (await client.get("/products/1")).status_code == 404
    shop.products.delete(2)
    assert await shop.provider.refresh(Product, record_id=2) is False  # nobody had it


async def test_a_deleted_row_is_told_of_when_other_code_says_so(client, shop):
    gone = []
    shop.provider.registry.followers.removed = lambda state, reason: gone.append((state.name, reason))
    await client.get("/products/1")
    shop.products.delete(1)
    assert await shop.provider.refresh(Product, record_id=1) is True
    assert gone == [("tea", "it is not there any more")]


async def test_a_row_that_comes_back_is_a_new_state(client, shop):
    await client.get("/products/1")
    shop.products.delete(1)
    await shop.provider.refresh(Product, record_id=1)
    shop.products.insert(id=1, name="new tea", stock=1, tags="[]", parts="[]", supplier="x", version=1)
    assert "new tea" in (await client.get("/products/1")).text


async def test_delete_takes_the_row_away_and_tells(client, shop):
    gone = []
    shop.provider.registry.followers.removed = lambda state, reason: gone.append(state.name)
    await client.get("/products/1")
    await shop.provider.delete(Product, record_id=1)
    assert shop.row() is None and gone == ["tea"]
    assert (await client.get("/products/1")).status_code == 404
    await shop.provider.delete(Product, record_id=1)
    await shop.provider.delete(Product, record_id=2)
    assert shop.row(2) is None


async def test_two_rows_of_one_database_are_changed_both_or_none(page, client, shop):
    assert status(await page.send("Product", "move", instance_id="1", to="2", by=4)) == 200
    assert (shop.row(1)["stock"], shop.row(2)["stock"]) == (6, 14)
    order = await Page.open(client, "/orders/1")
    assert status(await order.send("Order", "take", instance_id="1", sku="2")) in (200, 204)
    assert shop.row(2)["stock"] == 13 and shop.orders[1]["items"] == 1
    shop.products.update(id=2, stock=100, version=50)  # so that one of the two is refused
    assert status(await order.send("Order", "take", instance_id="1", sku="2")) == 503
    assert shop.orders[1]["items"] == 1 and shop.row(2)["stock"] == 100
    assert status(await page.send("Product", "move", instance_id="1", to="2", by=1)) == 200
    assert (shop.row(1)["stock"], shop.row(2)["stock"]) == (5, 101)


async def test_a_row_and_a_state_are_changed_by_one_event(client, shop):
    page = await Page.open(client, "/cart")
    assert status(await page.send("Cart", "take", sku="1")) in (200, 204)
    assert "tea" in (await client.get("/cart")).text and shop.row()["stock"] == 9
    answer = await page.send("Cart", "take", sku="77")
    assert status(answer) == 404 and "tea tea" not in (await client.get("/cart")).text


async def test_a_row_that_cannot_be_saved_leaves_the_state_as_it_was(client, shop):
    page = await Page.open(client, "/cart")
    await page.send("Cart", "take", sku="1")
    shop.db.execute("CREATE TRIGGER no BEFORE UPDATE ON products BEGIN SELECT RAISE(ABORT, 'sealed'); END")
    answer = await page.send("Cart", "take", sku="1")
    assert status(answer) == 503 and "sealed" not in answer.text
    assert (await client.get("/cart")).text.count("tea") == 1 and shop.row()["stock"] == 9
    assert shop.provider.registry.peek("record:Product:1").stock == 9


async def test_a_record_s_event_whose_answer_was_lost_with_the_process_happens_once(tmp_path):
    store = MemoryStore()
    shop = Shop(tmp_path, store)
    async with browser(shop.app) as client:
        page = await Page.open(client, "/products/1")
        await page.send("Product", "buy", instance_id="1", nonce="n" * 12)
        again = Shop(tmp_path, store)  # as if the first had been killed
        client._transport.app = again.app
        assert status(await page.send("Product", "buy", instance_id="1", nonce="n" * 12)) == 200
        assert again.provider.stats().repeated == 1 and again.row()["stock"] == 9
        assert status(await page.send("Product", "buy", instance_id="1", nonce="m" * 12)) == 200
        assert again.row()["stock"] == 8
    await shop.provider.stop()
    await again.provider.stop()


async def test_a_row_that_does_not_fit_is_a_503_and_says_which_in_the_log_without_its_values(client, shop, caplog):
    shop.db.execute("UPDATE products SET stock = 'a secret' WHERE id = 1")
    answer = await client.get("/products/1")
    assert answer.status_code == 503 and "secret" not in answer.text
    assert "record:Product:1" in caplog.text and "stock" in caplog.text and "a secret" not in caplog.text
    assert shop.row()["stock"] == "a secret"


def test_a_table_that_is_not_there_and_a_record_source_that_is_none_are_refused_at_once(tmp_path):
    db = database(tmp_path / "x.db")
    for wrong in (db.t.products, db, "products", 7, (print,), lambda record_id: None):
        with pytest.raises(ConfigurationError):
            StateConfig(scope=StateScope.RECORD, records=wrong)


def test_fields_that_are_no_columns_are_reported_at_once_with_the_remedy(tmp_path):
    class Wide(ReactiveState):
        name: str = ""
        colour: str = "red"

    shop = Shop(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Wide\.colour is no column.* to_state and to_row"):
        StateProvider().register_state(Wide, StateConfig(scope=StateScope.RECORD, records=shop.products))


def test_the_column_that_counts_versions_is_no_field(tmp_path):
    class Counted(ReactiveState):
        name: str = ""
        version: int = 1

    shop = Shop(tmp_path)
    with pytest.raises(ConfigurationError, match="counts the row's versions"):
        StateProvider().register_state(Counted, StateConfig(scope=StateScope.RECORD, records=shop.products))


async def test_a_field_that_callables_do_not_load_is_reported_with_the_remedy():
    class Wide(ReactiveState):
        name: str
        colour: str

    shelf = Shelf()
    provider = provider_of(Wide, StateConfig(scope=StateScope.RECORD, records=(shelf.load, shelf.save)))
    with pytest.raises(ConfigurationError, match=r"Wide\.colour is no column"):
        async with provider.modify(Wide, record_id=1):
            pass


# -- between a state and its row ---------------------------------------------------------------------------------------


class Money(ReactiveState):
    euros: float = 0.0
    label: str = ""


def to_state(row: dict[str, Any]) -> dict[str, Any]:
    return {"euros": row["stock"] / 100, "label": row["name"].upper()}


def to_row(state: Money) -> dict[str, Any]:
    return {"stock": round(state.euros * 100), "name": state.label.lower()}


async def test_a_pair_of_functions_stands_between_a_state_and_its_row(tmp_path):
    shop = Shop(tmp_path)
    config = StateConfig(scope=StateScope.RECORD, records=shop.products, to_state=to_state, to_row=to_row)
    provider = provider_of(Money, config)
    async with provider.modify(Money, record_id=1) as money:
        assert (money.euros, money.label) == (0.1, "TEA")
        money.euros = 2.5
    assert shop.row()["stock"] == 250 and shop.log() == []  # the name was not written
    await set_fields(provider.modify(Money, record_id=1), label="GREEN")
    assert (shop.row()["name"], shop.row()["stock"]) == ("green", 250) and len(shop.log()) == 1
    await provider.stop()


class Shelf:
    """Rows in a dict, behind a plain pair of async callables."""

    def __init__(self, versions=False):
        self.rows = {"1": {"name": "tea", "stock": 10}}
        self.saved = []
        self.versions = {"1": 1} if versions else None

    async def load(self, record_id):
        row = self.rows.get(record_id)
        if row is None or self.versions is None:
            return row and dict(row)
        return Row(dict(row), self.versions[record_id])

    async def save(self, record_id, changed):
        if record_id not in self.rows:
            raise StateNotFoundError("no such row")
        self.saved.append(changed)
        self.rows[record_id] |= changed

    async def save_version(self, record_id, changed, version):
        if self.versions[record_id] != version:
            raise VersionConflict("another version")
        await self.save(record_id, changed)
        self.versions[record_id] += 1
        return self.versions[record_id]

    async def delete(self, record_id):
        self.rows.pop(record_id, None)


class Slim(ReactiveState):
    name: str = ""
    stock: int = 0
    tags: list[str] = []


async def test_a_plain_pair_of_async_callables_is_a_source(tmp_path):
    shelf = Shelf()
    provider = provider_of(Slim, StateConfig(scope=StateScope.RECORD, records=(shelf.load, shelf.save)))
    async with provider.modify(Slim, record_id=1) as slim:
        slim.stock -= 1
        slim.tags.append("x")
    assert shelf.saved == [{"stock": 9, "tags": ["x"]}] and type(shelf.saved[0]["tags"]) is list
    with pytest.raises(StateNotFoundError):
        async with provider.modify(Slim, record_id=2):
            pass
    del shelf.rows["1"]
    with pytest.raises(StateNotFoundError):
        await set_fields(provider.modify(Slim, record_id=1), stock=1)
    with pytest.raises(Exception, match="delete"):
        await provider.delete(Slim, record_id=1)


async def test_callables_may_count_versions(tmp_path):
    shelf = Shelf(versions=True)
    provider = StateProvider()
    source = (shelf.load, shelf.save_version, shelf.delete)
    provider.register_state(Slim, StateConfig(scope=StateScope.RECORD, records=source))
    await provider.start()
    async with provider.modify(Slim, record_id=1) as slim:
        slim.stock -= 1
    shelf.versions["1"] = 9
    shelf.rows["1"]["stock"] = 4
    with pytest.raises(VersionConflict):
        async with provider.modify(Slim, record_id=1) as slim:
            slim.stock -= 1
    async with provider.modify(Slim, record_id=1) as slim:
        assert slim.stock == 4
        slim.stock -= 1
    assert shelf.versions["1"] == 10 and provider.registry.find("record:Slim:1").version.number == 10
    await provider.delete(Slim, record_id=1)
    assert shelf.rows == {}
    await provider.stop()


async def test_a_source_that_fails_is_a_persistence_error_with_its_cause():
    async def load(record_id):
        raise OSError("the network is gone")

    async def save(record_id, changed):
        raise AssertionError("nothing was loaded")

    provider = provider_of(Slim, StateConfig(scope=StateScope.RECORD, records=(load, save)))
    with pytest.raises(PersistenceError) as caught:
        async with provider.modify(Slim, record_id=1):
            pass
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_source_that_never_answers_is_given_up():
    async def load(record_id):
        await asyncio.Event().wait()

    async def save(record_id, changed):
        raise AssertionError("nothing was loaded")

    provider = provider_of(Slim, StateConfig(scope=StateScope.RECORD, records=(load, save)), store_timeout=0.05)
    with pytest.raises(PersistenceError, match="no answer within"):
        async with provider.modify(Slim, record_id=1):
            pass


def test_a_table_can_be_told_which_column_counts(tmp_path):
    shop = Shop(tmp_path)
    assert isinstance(shop.source, TableRecords)
    StateConfig(scope=StateScope.RECORD, records=TableRecords(shop.products, version=False))


async def test_what_to_row_leaves_out_changes_no_row_and_no_version(tmp_path):
    class Seen(ReactiveState):
        stock: int = 0
        open: bool = False

    shop = Shop(tmp_path)
    config = StateConfig(
        scope=StateScope.RECORD,
        records=shop.products,
        to_state=lambda row: Seen(stock=row["stock"]),
        to_row=lambda state: {"stock": state.stock},
    )
    provider = provider_of(Seen, config)
    await provider.start()
    for number in range(3):
        async with provider.modify(Seen, record_id=1) as seen:
            seen.open = not seen.open
        assert shop.row()["version"] == number + 1
        async with provider.modify(Seen, record_id=1) as seen:
            assert seen.open is (number % 2 == 0)
            seen.stock -= 1
    assert shop.row()["stock"] == 7
    await provider.stop()


async def test_secrets_are_written_as_they_are(tmp_path):
    class Login(BaseModel):
        password: SecretStr
        tries: int = 0

    class Account(ReactiveState):
        name: SecretStr = SecretStr("")
        parts: Login = Login(password=SecretStr("open sesame"))

    shop = Shop(tmp_path)
    shop.db.execute("""UPDATE products SET parts = '{"password":"open sesame","tries":0}' WHERE id = 1""")
    provider = provider_of(Account, StateConfig(scope=StateScope.RECORD, records=shop.products))
    async with provider.modify(Account, record_id=1) as account:
        account.parts.tries += 1
        account.name = SecretStr("green tea")
    assert "open sesame" in shop.row()["parts"] and shop.row()["name"] == "green tea"


async def test_frozen_fields_do_not_hinder_a_refresh(tmp_path):
    class Thing(ReactiveState):
        id: int = Field(frozen=True)
        stock: int = 0

    shop = Shop(tmp_path)
    provider = provider_of(Thing, StateConfig(scope=StateScope.RECORD, records=shop.products))
    await provider.start()
    await set_fields(provider.modify(Thing, record_id=1), stock=5)
    shop.products.update(id=1, stock=3, version=3)
    assert await provider.refresh(Thing, record_id=1) is True
    assert provider.registry.peek("record:Thing:1").stock == 3
    await provider.stop()


async def test_of_many_events_on_one_record_each_happens_once_over_a_restart(tmp_path):
    store = MemoryStore()
    shop = Shop(tmp_path, store)
    async with browser(shop.app) as client:
        page = await Page.open(client, "/products/1")
        for number in range(600):  # more than a process remembers
            await page.send("Product", "buy", instance_id="1", nonce=f"{number:012}")
        left = shop.row()["stock"]
        assert status(await page.send("Product", "buy", instance_id="1", nonce=f"{0:012}")) == 200
        client._transport.app = Shop(tmp_path, store).app  # as if the first had been killed
        for number in range(0, 600, 50):
            await page.send("Product", "buy", instance_id="1", nonce=f"{number:012}")
    assert shop.row()["stock"] == left
    await shop.provider.stop()


@pytest.mark.parametrize("wrong", [{"to_state": 7}, {"to_state": asyncio.sleep}])
def test_what_stands_between_a_state_and_its_row_is_a_plain_function(tmp_path, wrong):
    with pytest.raises(ConfigurationError, match="plain functions"):
        StateConfig(scope=StateScope.RECORD, records=Shop(tmp_path).products, **{"to_row": to_row, **wrong})


async def test_a_to_state_that_gives_nothing_usable_is_reported(tmp_path):
    config = {"scope": StateScope.RECORD, "records": Shop(tmp_path).products, "to_row": to_row}
    provider = provider_of(Money, StateConfig(**config, to_state=lambda row: None))
    with pytest.raises(ConfigurationError, match="to_state returns field values"):
        async with provider.modify(Money, record_id=1):
            pass
