"""Views, values of many types, and what events return."""

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated
from uuid import UUID

from fasthtml.common import *
from pydantic import computed_field

from faststate import *


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Values(ReactiveState):
    nothing: str | None = None
    day: date = date(2024, 2, 29)
    moment: datetime = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    price: Decimal = Decimal("0.10")
    big: int = 2**63
    small: int = -5
    ratio: float = 0.5
    whole: float = 2.0
    colour: Colour = Colour.RED
    id: UUID = UUID(int=7)
    secret: ServerOnly[str] = "hidden-value"
    _note: str = "private-value"

    @computed_field
    @property
    def double(self) -> int:
        return self.small * 2

    @event
    def change(self):
        self.nothing, self.day, self.moment = "something", date(2025, 1, 1), datetime(2025, 1, 1, tzinfo=UTC)
        self.price, self.big, self.small, self.ratio, self.whole = Decimal("19.99"), 2**70, 5, float("nan"), 1e21
        self.colour, self.id, self.secret = Colour.BLUE, UUID(int=8), "hidden-value too"

    @event
    def back(self):
        for name, field in type(self).model_fields.items():
            setattr(self, name, field.default)

    @event
    def infinite(self):
        self.ratio, self.nothing = float("-inf"), ""


class Options(ReactiveState):
    chosen: AsSignal[dict[str, int]] = {"a": 1, "b": 2}
    nested: AsSignal[dict[str, dict[str, int | None]]] = {"in": {"x": 1, "y": None}}
    several: AsSignal[list[int | None]] = [1, None]

    @event
    def drop(self, name: str):
        del self.chosen[name]
        del self.nested["in"]["x"]
        self.several.append(3)

    @event
    def put(self, name: str):
        self.chosen[name] = 9

    @event
    def clear(self):
        self.chosen = {}
        self.nested = {}
        self.several = []


class Todos(ReactiveState):
    items: list[str] = ["milk"]

    @event
    def add(self, text: str):
        self.items.append(text)

    @event
    def insert(self):
        self.items.insert(0, f"item {len(self.items)}")

    @view
    def listing(self):
        return Ul(*[Li(Input(id=f"edit-{item}", value=item)) for item in self.items], id="listing")

    @view
    def total(self):
        return f"{len(self.items)} things"


class Tile(ReactiveState):
    presses: int = 0

    @event
    def press(self):
        self.presses += 1

    def __ft__(self):
        return Div(B(f"pressed {self.presses} times"), Button("Press", self.press.on("click")))


class Jobs(ReactiveState):
    done: int = 0

    @event
    async def work(self):
        for _ in range(3):
            await asyncio.sleep(0.05)
            self.done += 1
            yield Div(f"step {self.done}", id="progress")

    @event
    def note(self, text: str):
        return Div(text, id="note")

    @event(selector="#log", mode="append")
    async def log(self, text: str):
        self.done += 1
        return Li(text, f" after {self.done}")

    @event
    def leave(self):
        return Redirect("/values")


provider = StateProvider()
for cls in (Values, Options, Todos, Jobs):
    provider.register_state(cls)
provider.register_state(Tile, StateConfig(scope=StateScope.COMPONENT))
app, rt = fast_app(state_provider=provider)


@rt
def index(todos: Todos):
    return Titled(
        "Todos",
        Input(id="new"),
        Button("Insert", todos.insert.on("click"), id="insert"),
        todos.listing(),
        Div(todos.total(), id="total"),
        P("In all: ", todos.total(), id="total-again"),
    )


@rt
def values(values: Values):
    return Titled(
        "Values",
        *[
            P(getattr(values.signal, name), id=name)
            for name in (*[n for n in type(values).model_fields if n != "secret"], "double")
        ],
        *[Button(name, getattr(values, name).on("click"), id=f"do-{name}") for name in ("change", "back", "infinite")],
    )


@rt
def choices(options: Options):
    return Titled(
        "Options",
        *[
            Pre(**{"data-text": f"JSON.stringify({getattr(options.signal, name)})", "id": name})
            for name in type(options).model_fields
        ],
        Button("drop", options.drop.on("click", name="a"), id="drop"),
        Button("put", options.put.on("click", name="a"), id="put"),
        Button("clear", options.clear.on("click"), id="clear"),
    )


@rt
def tiles(one: Annotated[Tile, Component("one")], two: Annotated[Tile, Component("two")]):
    return Titled("Tiles", Div(one, id="one"), Div(two, id="two"))


@rt
def jobs(jobs: Jobs):
    return Titled(
        "Jobs",
        P(jobs.signal.done, id="done"),
        Div("not begun", id="progress"),
        Div("no note", id="note"),
        Ol(id="log"),
        Button("work", jobs.work.on("click"), id="work"),
        Button("note", jobs.note.on("click", text="<b>bold?</b> & more"), id="write"),
        Button("log", jobs.log.on("click", text="entry"), id="append"),
        Button("leave", jobs.leave.on("click"), id="leave"),
    )
