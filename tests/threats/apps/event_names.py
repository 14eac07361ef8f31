"""A class full of names that are no events, some of them as tempting as can be; what runs leaves a note."""

import os  # a name of the module, which a URL must not reach
import warnings
from typing import ClassVar

from fasthtml.common import *
from limits import UNLIMITED
from pydantic import BaseModel, computed_field, field_validator, model_validator

from faststate import Bound, ReactiveState, ServerOnly, StateConfig, StateProvider, StateScope, event, fast_app, view

RAN: list[str] = []
LISTENING = False


def note(name):
    if LISTENING:
        RAN.append(name)


class Item(BaseModel):
    price: int = 1

    def discount(self):
        note("discount")


class Unregistered(ReactiveState):
    count: int = 0
    secret: ServerOnly[str] = "hush"

    @event
    def inherited(self):
        self.count += 1

    @event
    def became_method(self):
        self.count += 100

    @event
    def became_property(self):
        self.count += 100

    @event
    def became_constant(self):
        self.count += 100

    @event
    def became_mixed_in(self):
        self.count += 100


class Mixin:
    def became_mixed_in(self):
        note("became_mixed_in")


class Gadget(Mixin, Unregistered):
    title: Bound[str] = "a gadget"
    item: Item = Item()
    items: list[int] = []
    limit: ClassVar[int] = 5
    became_constant: ClassVar[int] = 5
    _hidden: int = 0

    @event
    def pay(self, amount: int = 1):
        self.count += amount

    @event
    async def pay_async(self):
        self.count += 1

    def became_method(self):
        note("became_method")

    @property
    def became_property(self):
        note("became_property")
        return 1

    def plain(self):
        note("plain")
        self.count += 100

    async def plain_async(self):
        note("plain_async")
        self.count += 100

    def _private(self):
        note("_private")

    def __mangled(self):
        note("__mangled")

    def __call__(self):
        note("__call__")

    def on_add(self):
        note("on_add")

    @classmethod
    def build(cls):
        note("build")

    @staticmethod
    def tool():
        note("tool")

    @property
    def prop(self):
        note("prop")
        return self.secret

    @prop.setter
    def prop(self, value):
        note("prop.setter")

    @computed_field
    @property
    def double(self) -> int:
        return self.count * 2

    @field_validator("count")
    @classmethod
    def check(cls, value):
        return value

    @model_validator(mode="after")
    def check_whole(self):
        return self

    @view
    def table(self):
        return Table(Tr(Td(self.count)))

    class Inner:
        def pay(self):
            note("Inner.pay")


class Renamed(Unregistered):
    """Registered under another name."""


class Other(ReactiveState):
    count: int = 0

    @event
    def others_own(self):
        self.count += 1


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic's, that a field hides an attribute: it is what is tried out

    class Shadowed(Unregistered):
        became_method: int = 0


provider = StateProvider(secret_key="event names", **UNLIMITED)
provider.register_state(Gadget)
provider.register_state(Renamed, StateConfig(name="Shop"))
provider.register_state(Other, StateConfig(scope=StateScope.GLOBAL, public=True))
provider.register_state(Shadowed)
app, rt = fast_app(state_provider=provider, secret_key="event names")


@rt
def index(gadget: Gadget, shop: Renamed, other: Other, shadowed: Shadowed):
    return Titled("Gadget", gadget.signal.count, shop.signal.count, other.signal.count, shadowed.signal.count)


@rt
def truth(gadget: Gadget, shop: Renamed, other: Other, shadowed: Shadowed):
    states = {type(state).__name__: state.model_dump() for state in (gadget, shop, other, shadowed)}
    return JSONResponse({"ran": RAN, "events": provider.stats().events, **states, "secret": gadget.secret})


@rt
def listen():
    """From here on, what runs is noted: a page that is painted runs some of it rightly."""
    global LISTENING
    LISTENING = True
    return Response(os.name)


@rt
def names():
    """Every name that the class, its schema and its fields have."""
    own = {*dir(Gadget), *dir(type(Gadget)), *dir(Gadget.pay), *Gadget.model_fields, *Gadget.__annotations__}
    return JSONResponse(sorted(own))
