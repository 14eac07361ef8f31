"""Checks of docs/records.md; tests/docs/README.md says how they are written."""

# == Records: snippet 1
# visit /products/tea
# visit /products/TEA 404
one = tab(app)
with one.client:
    one.get("/products/gold", 404)
    one.get("/products/tea")
    db.q("UPDATE products SET name = 'Sencha'")  # another column, past the version
    one.send(ProductState.buy, own_id="tea")
    assert products["tea"] == {"sku": "tea", "name": "Sencha", "tags": '["hot"]', "stock": 2, "version": 2}
    assert ">2<" in one.get("/products/tea")


# == Records: snippet 1
class Other(ReactiveState):
    name: int
    sku: str = ""

    @event
    def rename(self):
        self.sku = "other"


strange = StateProvider()
strange.register_state(Other, StateConfig(scope=StateScope.RECORD, records=products))
import asyncio
from faststate import ConfigurationError, PersistenceError


async def misfit():
    with pytest.raises(PersistenceError, match="does not fit Other"):
        async with strange.modify(Other, record_id="tea"):
            pass
    db.q("UPDATE products SET name = '7'")
    with pytest.raises(ConfigurationError, match="primary key"):
        async with strange.modify(Other, record_id="tea") as other:
            other.sku = "coffee"
    db.q("UPDATE products SET name = 'Sencha'")
    await strange.stop()


asyncio.run(misfit())

# == The version column
one = tab(app)
with one.client:
    one.get("/products/tea")
    db.q("UPDATE products SET stock = 10, version = version + 1")
    failed = one.send(ProductState.buy, own_id="tea", status=503)
    assert "This could not be saved" in failed.text
    assert ">10<" in one.get("/products/tea")
    one.send(ProductState.buy, own_id="tea", headers={"faststate-nonce": "another1"})
    assert products["tea"]["stock"] == 9


# == Values that a column cannot keep
class Weighed(ReactiveState):
    name: str
    stock: float = 0


scales = StateProvider()
scales.register_state(Weighed, StateConfig(scope=StateScope.RECORD, records=products))
import asyncio
from faststate import RowValueError


async def weigh():
    with pytest.raises(RowValueError, match="Weighed.stock: NaN cannot be kept in the column stock .INTEGER."):
        async with scales.modify(Weighed, record_id="tea") as tea:
            tea.stock = float("nan")
    assert products["tea"]["stock"] == 9
    await scales.stop()


asyncio.run(weigh())

# == Rows that other code changes: snippet 1
# visit /rename?sku=tea&name=Tea
# visit /discontinue?sku=none
one, two = tab(app), tab(app)
with one.client:
    one.get("/products/tea")
    with one.stream() as stream:
        lines = stream.iter_lines()
        next(line for line in lines if '"c":' in line)
        two.client = one.client
        two.get("/rename?sku=tea&name=Oolong")
        assert any('"name":"Oolong"' in next(lines) for _ in range(20))
        db.q("INSERT INTO products (sku, name, tags, stock) VALUES ('cup', 'Cup', '[]', 1)")
        two.get("/products/cup")
        two.get("/discontinue?sku=tea")
        assert any("This is not there any more." in next(lines) for _ in range(30))
        provider.sse_manager.drain()
    one.get("/products/tea", 404)
    assert [row["sku"] for row in products()] == ["cup"]
    one.get("/products/cup")
    products.delete("cup")
    assert "any more" in one.send(ProductState.buy, own_id="cup", status=404).text
products.insert(sku="tea", name="Green tea", tags='["hot"]', stock=3, version=1)

# == Fields that are not columns: snippet 1
# visit /offers/1
# visit /offers/01 404
one = tab(app)
assert "<h1>TEA</h1>" in one.get("/offers/1")
db.q("UPDATE offers SET name = 'Coffee'")
one.send(Offer.add, own_id="1", word="new")
assert offers[1] == {"id": 1, "name": "Coffee", "tags": "hot green new"}

# == Functions of your own: snippet 1
# new
# elsewhere test_docs_records.py

# == Two systems
# new
import apsw
import asyncio
import logging
from fastlite import database
from fasthtml.common import *
from typing import Annotated
from faststate import PersistenceError, ReactiveState, Record, StateConfig, StateProvider, StateScope, event, fast_app


class Stock(ReactiveState):
    left: int

    @event
    def take(self):
        self.left -= 1


class Basket(ReactiveState):
    items: int = 0

    @event
    def take(self, sku: str, stock: Annotated[Stock, Record("sku")]):
        stock.left -= 1
        self.items += 1

    @event
    def move(self, a: str, b: str, one: Annotated[Stock, Record("a")], two: Annotated[Stock, Record("b")]):
        one.left += 1
        two.left -= 1


db = database("two.db")
table = db.t.stock
table.create(sku=str, left=int, pk="sku")
table.insert(sku="tea", left=3)
table.insert(sku="cup", left=0)
db.q("CREATE TRIGGER none BEFORE UPDATE ON stock WHEN new.left < 0 BEGIN SELECT raise(ABORT, 'no'); END")
provider = StateProvider(store="sqlite:///baskets.db")
provider.register_state(Stock, StateConfig(scope=StateScope.RECORD, records=table))
provider.register_state(Basket)
made, rt = fast_app(state_provider=provider)


@rt("/stock/{stock_id}")
def page(stock: Stock, basket: Basket):
    return P(f"{stock.left} left, {basket.items} taken")


one = tab(made)
left = lambda: {row["sku"]: row["left"] for row in table()}
logging.getLogger("faststate").setLevel(logging.CRITICAL + 1)
with one.client:
    assert "3 left, 0 taken" in one.get("/stock/tea")
    one.send(Basket.take, sku="tea")
    assert "2 left, 1 taken" in one.get("/stock/tea") and left()["tea"] == 2
    one.send(Basket.take, sku="cup", status=503)
    assert "0 left, 1 taken" in one.get("/stock/cup")
    one.send(Basket.move, a="tea", b="cup", status=503)
    assert left() == {"tea": 2, "cup": 0}  # both or none
    shell = apsw.Connection("baskets.db")
    shell.execute("CREATE TRIGGER no BEFORE UPDATE ON faststate_states BEGIN SELECT raise(ABORT, 'no'); END")
    assert "could not be saved" in one.send(Basket.take, sku="tea", status=503).text
    assert left()["tea"] == 1 and "1 left, 1 taken" in one.get("/stock/tea")
    shell.execute("DROP TRIGGER no")
    shell.close()
    one.get("/stock/tea")
    one.send(Stock.take, own_id="tea", headers={"faststate-nonce": "abcdefgh"})
    assert left()["tea"] == 0
again = StateProvider(store="sqlite:///baskets.db")
again.register_state(Stock, StateConfig(scope=StateScope.RECORD, records=table))
again.register_state(Basket)
other, rt = fast_app(state_provider=again)


@rt("/stock/{stock_id}")
def page2(stock: Stock, basket: Basket):
    return P(f"{stock.left} left, {basket.items} taken")


two = tab(other, cookies=one.client.cookies)
with two.client:
    assert "0 left, 1 taken" in two.get("/stock/tea")
    two.send(Stock.take, own_id="tea", headers={"faststate-nonce": "abcdefgh"})
    assert left()["tea"] == 0 and again.stats().repeated == 1
logging.getLogger("faststate").setLevel(logging.NOTSET)
