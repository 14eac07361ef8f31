"""FastState: one state that all share, one per session, and one of many records."""

from __future__ import annotations

import math
from typing import Any

from fasthtml import common as fh

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app

from .app import App

MANY = 1_000_000


class Board(ReactiveState):
    """One for all."""

    text: str = ""


class Own(ReactiveState):
    """One per session."""

    text: str = ""


class Item(ReactiveState):
    """One of many that all may see."""

    text: str = ""


class Counter(ReactiveState):
    """One per session, with an event."""

    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


class Total(ReactiveState):
    """One for all, with an event."""

    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


class Live(App):
    """Lifetime: its process."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = StateProvider(
            event_rate=math.inf, max_streams_per_address=MANY, max_streams_per_session=MANY, max_states=MANY
        )
        self.provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL, public=True))
        self.provider.register_state(Own, StateConfig(scope=StateScope.SESSION))
        self.provider.register_state(Total, StateConfig(scope=StateScope.GLOBAL, public=True))
        self.provider.register_state(Counter, StateConfig(scope=StateScope.SESSION))
        self.provider.register_state(Item, StateConfig(scope=StateScope.RECORD, record_param="item_id", public=True))
        self.asgi, rt = fast_app(state_provider=self.provider, secret_key="benchmark")

        @rt("/")
        async def index(board: Board) -> Any:
            return fh.Titled("Board", fh.P("Text: ", board.signal.text))

        @rt("/own")
        async def own(own: Own) -> Any:
            return fh.Titled("Own", fh.P("Text: ", own.signal.text))

        @rt("/item/{item_id}")
        async def item(item: Item) -> Any:
            return fh.Titled("Item", fh.P("Text: ", item.signal.text))

        @rt("/total")
        async def total(total: Total) -> Any:
            return fh.Titled("Total", fh.P(total.signal.count), fh.Button("+1", total.add.on("click", by=1)))

        @rt("/counter")
        async def counter(counter: Counter) -> Any:
            return fh.Titled("Counter", fh.P(counter.signal.count), fh.Button("+1", counter.add.on("click", by=1)))

    async def change(self, text: str, target: str = "board") -> None:
        if target == "item":
            async with self.provider.modify(Item, record_id="1") as item:
                item.text = text
        else:
            async with self.provider.modify(Board) as board:
                board.text = text


def make() -> App:
    return Live()
