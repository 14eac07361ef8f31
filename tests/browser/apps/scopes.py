"""Counters of every scope, and what tests ask of the server: one app for many tests."""

import asyncio
import os
from collections import defaultdict
from typing import Annotated

from fasthtml.common import *

from faststate import Component, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


class Board(Counter):
    pass


class Side(Counter):
    pass


class Product(Counter):
    pass


provider = StateProvider(heartbeat=1)
provider.register_state(Counter)
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
app, rt = fast_app(
    state_provider=provider, secret_key="the same after a restart", sess_https_only="HTTPS_ONLY" in os.environ
)
arrived: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
released: dict[str, asyncio.Event] = defaultdict(asyncio.Event)


def show(name, state):
    return P(Span(state.signal.count, id=name), Button("+1", state.add.on("click", by=1), id=f"add-{name}"))


@rt
def index(counter: Counter, board: Board):
    return Titled("Counters", show("mine", counter), show("all", board), Div(id="more"))


@rt
def sides(left: Annotated[Side, Component("left")], right: Annotated[Side, Component("right")]):
    return Titled("Sides", show("left", left), show("right", right))


@rt("/product/{product_id}")
def product(product: Product):
    return Titled("Product", show("product", product))


@rt
async def together(tab: int, counter: Counter):
    """Answers when tab 1 and tab 2 have both asked, so that both did it without a cookie."""
    arrived[f"tab {tab}"].set()
    await arrived[f"tab {3 - tab}"].wait()
    return Titled("Counter", show("mine", counter))


@rt
async def late(race: str, counter: Counter):
    """Answers when `/release` has been asked for."""
    arrived[race].set()
    await released[race].wait()
    return Titled("Counter", show("mine", counter))


@rt
async def wait_for_late(race: str):
    await arrived[race].wait()
    return "arrived"


@rt
def release(race: str):
    released[race].set()
    return "released"


@rt
def fragment(board: Board, left: Annotated[Side, Component("left")]):
    return Div(show("brought", left), show("again", board), id="brought-in")


@rt
def document(counter: Counter):
    return Html(Head(Title("All of a document")), Body(show("mine", counter)))


@rt
def plain():
    return Titled("Elsewhere", P("No state is shown here."))


@rt
def stats():
    return provider.stats()._asdict()
