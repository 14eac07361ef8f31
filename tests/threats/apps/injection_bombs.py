"""Events that take all that JSON can hold, for requests that are too large, too deep or too slow."""

import os
from decimal import Decimal
from math import inf
from typing import Any

from fasthtml.common import *

from faststate import AsSignal, Bound, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view


class Pile(ReactiveState):
    count: int = 0
    total: int = 0
    amount: float = 0
    exact: Decimal = Decimal(0)
    typed: Bound[str] = ""
    names: list[str] = []
    table: AsSignal[dict[str, Any]] = {}

    @event
    def add(self):
        self.count += 1

    @event
    def count_to(self, by: int):
        self.total = by

    @event
    def plus(self, by: int):
        self.total += by

    @event
    def measure(self, value: float):
        self.amount = value

    @event
    def weigh(self, value: Decimal):
        self.exact = value

    @event
    def take(self, items: list[int]):
        self.total = len(items)

    @event
    def call(self, names: list[str], name: str = ""):
        self.names = names

    @event
    def keep(self, table: dict[str, Any]):
        self.table = table

    @view
    def listing(self):
        return Ul(*map(Li, self.names[:10]), Li(self.total), Li(self.exact))


class Item(ReactiveState):
    count: int = 0

    @event
    def add(self):
        self.count += 1


provider = StateProvider(event_rate=inf, body_timeout=float(os.environ.get("BODY_TIMEOUT", 20)))
provider.register_state(Pile, StateConfig(scope=StateScope.SESSION))
provider.register_state(Item, StateConfig(scope=StateScope.RECORD))
app, rt = fast_app(state_provider=provider)


@rt("/")
def index(pile: Pile):
    return Titled("Pile", pile.signal.count, pile.listing())


@rt("/item/{item_id}")
def item(item: Item):
    return Titled("Item", item.signal.count)
