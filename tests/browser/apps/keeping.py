"""States that are kept: in a store, in rows, and as long as a page is open."""

import os

from fasthtml.common import *
from fastlite import database

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view
from faststate.provider import page_streams

page_streams.LEFT_TTL = 0.1  # seconds; nobody comes back in these tests

db = database("shop.db")
products = db.t.products
if products not in db.t:
    products.create(id=int, name=str, stock=int, version=int, pk="id")
    products.insert(id=1, name="Tea", stock=5, version=1)
    products.insert(id=2, name="Rum", stock=9, version=1)

provider = StateProvider(store=os.environ.get("STORE", "sqlite:///state.db"))


class Count(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1


class Step(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1


class Product(ReactiveState):
    name: str = ""
    stock: int = 0

    @event
    def buy(self):
        self.stock -= 1

    @event(expect_version=True)
    def rename(self, name: str):
        self.name = name

    @view
    def label(self):
        return Strong(f"{self.name}, {self.stock} left")


provider.register_state(Count)
provider.register_state(Step, StateConfig(scope=StateScope.TEMPORARY))
provider.register_state(Product, StateConfig(scope=StateScope.RECORD, records=products))
app, rt = fast_app(state_provider=provider, htmx=False, surreal=False, pico=False, secret_key="for tests")


@rt
def index(count: Count, step: Step):
    return (
        P(count.signal.n, id="count"),
        Button("+1", count.add.on("click"), id="add"),
        P(step.signal.n, id="step"),
        Button("step", step.add.on("click"), id="go"),
    )


@rt("/products/{product_id}")
def product(product: Product):
    return (
        P(product.label(), id="label"),
        P(product.signal.stock, id="stock"),
        Button("Buy", product.buy.on("click"), id="buy"),
        Form(product.rename.on("submit"), Input(name="name", id="name"), Button("Rename"), id="rename"),
    )


@rt
def restock(by: int):
    row = products[1]
    products.update(id=1, stock=(row["stock"] if isinstance(row, dict) else row.stock) + by)
    provider.refresh(Product, record_id=1)
    return "done"


@rt
def drop(number: int):
    products.delete(number)
    provider.refresh(Product, record_id=number)
    return "done"


@rt
def states():
    provider.registry.lifetimes.sweep()
    return {"keys": sorted(key.partition(":")[0] for key in provider.registry.live)}
