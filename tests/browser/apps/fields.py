"""Bound fields of every kind, shared by all visitors, and forms and choices that may be refused."""

from datetime import date
from decimal import Decimal
from typing import Annotated

from datastar_py.attributes import attribute_generator as data
from fasthtml.common import *
from pydantic import Field, StringConstraints

from faststate import (
    AsSignal,
    Bound,
    EventError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    expr,
    fast_app,
    view,
)


class Doc(ReactiveState):
    title: Bound[Annotated[str, Field(max_length=20)]] = ""
    note: Bound[str] = ""
    name: Bound[Annotated[str, StringConstraints(strip_whitespace=True)]] = ""
    price: Bound[Decimal] = Decimal(0)
    ratio: Bound[float] = 0.0
    amount: Bound[Annotated[int, Field(le=1000)]] = 3
    most: Bound[int | None] = None
    agreed: Bound[bool] = False
    locked: Bound[bool] = False
    level: Bound[int] = 1
    tags: Bound[AsSignal[list[str]]] = []
    day: Bound[date | None] = None
    likes: int = 0
    heard: str = ""
    made: str = ""

    @event
    def save(self):
        if self.locked:
            raise EventError("Only an admin may lock it.")
        self.made = f"{self.level}|{','.join(self.tags)}|{self.day}"
        self.heard = f"{self.name}|{self.price}|{self.ratio}|{self.amount}|{self.most}|{self.agreed}"

    @event
    def fill(self, name: str, other: str):
        self.heard = f"{self.name}|{name}|{other}"

    @event
    def like(self):
        self.likes += 1


class Shop(ReactiveState):
    sizes: list[str] = ["a", "b", "c"]
    size: Bound[str] = "b"
    colours: Bound[AsSignal[list[str]]] = []
    bought: str = ""
    special: bool = False

    @event
    def save(self):
        self.bought = f"{self.size}|{','.join(self.colours)}"

    @event
    def only(self, size: str):
        self.sizes, self.size = ["none", size], size

    @event
    def offer(self, size: str):
        self.sizes = [size, *self.sizes]

    @event
    def buy(self, size: str):
        self.bought = size

    @event
    def ask(self, on: bool):
        raise EventError("Only an admin may do that.")

    @event
    def order(self, size: str):
        raise EventError("It is sold out.")

    @view
    def options(self):
        return Select(*[Option(size, value=size) for size in self.sizes], self.signal.size.bind(), id="bound")

    @view
    def form(self):
        return Form(
            Select(*[Option(size, value=size) for size in self.sizes], name="size", id="size"),
            Button("Buy", id="buy"),
            self.buy.on("submit"),
        )

    @view
    def asking(self):
        return Div(
            Input(
                type="checkbox",
                checked=self.special,
                id="special",
                **{"data-on:change": self.ask.post(on=expr("el.checked"))},
            ),
            Select(
                *[Option(size, value=size, selected=size == "b") for size in self.sizes],
                self.order.on("change", size=expr("el.value")),
                id="order",
            ),
        )


class Todo(ReactiveState):
    items: list[str] = []
    last: str = ""

    @event
    def add(self, text: str, kind: str = "", urgent: bool = False):
        if text == "no":
            raise EventError("Not that.")
        self.items.append(text)
        self.last = f"{text}|{kind}|{urgent}"


provider = StateProvider()
for shared in (Doc, Shop):
    provider.register_state(shared, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Todo)
app, rt = fast_app(state_provider=provider)


@rt
def index(doc: Doc):
    kinds = {"ratio": "number", "amount": "number", "most": "number"}
    return Titled(
        "Fields",
        *[
            Input(
                getattr(doc.signal, name).bind(),
                doc.save.on("input"),
                id=name,
                type=kinds.get(name, "text"),
                step="any",
            )
            for name in ("title", "name", "price", "ratio", "amount", "most")
        ],
        Textarea(doc.signal.note.bind(), id="note"),
        Input(doc.signal.agreed.bind(), doc.save.on("change"), id="agreed", type="checkbox"),
        Input(doc.signal.locked.bind(), doc.save.on("change"), id="locked", type="checkbox"),
        *[
            Input(doc.signal.level.bind(), doc.save.on("change"), id=f"level-{level}", type="radio", value=level)
            for level in (1, 2, 3)
        ],
        *[
            Input(doc.signal.tags.bind(), doc.save.on("change"), id=f"tag-{tag}", type="checkbox", value=tag)
            for tag in ("red", "blue")
        ],
        Input(doc.signal.day.bind(), doc.save.on("change"), id="day", type="date"),
        Input(data.bind("Doc.note"), id="by-hand"),
        P(doc.signal.made, id="made"),
        Button("Like", doc.like.on("click"), id="like"),
        P(doc.signal.title, id="shown"),
        P(doc.signal.likes, id="likes"),
        P(doc.signal.heard, id="heard"),
    )


@rt
def fragment(doc: Doc):
    return P("a fragment: ", doc.signal.title, id="fragment")


@rt
def filled(doc: Doc):
    return Titled(
        "A form with a bound input",
        Form(
            doc.fill.on("submit"),
            Input(doc.signal.name.bind(), id="name"),
            Input(name="other", id="other"),
            Button("Fill"),
            id="form",
        ),
        P(doc.signal.heard, id="heard"),
    )


@rt
def shop(shop: Shop):
    return Titled(
        "Shop",
        shop.options(),
        Select(
            *[Option(c, value=c) for c in ("red", "green", "blue")],
            shop.signal.colours.bind(),
            shop.save.on("change"),
            multiple=True,
            id="colours",
        ),
        Button("Save", shop.save.on("click"), id="save"),
        Button("Only d", shop.only.on("click", size="d"), id="only"),
        Button("Offer", shop.offer.on("click", size="new"), id="offer"),
        shop.form(),
        shop.asking(),
        P(shop.signal.bought, id="bought"),
    )


@rt
def todo(todo: Todo):
    return Titled(
        "Todo",
        Form(
            todo.add.on("submit"),
            Input(name="text", id="text"),
            *[
                Label(Input(type="radio", name="kind", value=kind, id=kind, checked=kind == "home"), kind)
                for kind in ("home", "work")
            ],
            Input(type="checkbox", name="urgent", id="urgent"),
            Button("Add", id="add"),
            id="form",
        ),
        P(todo.signal.last, id="last"),
    )
