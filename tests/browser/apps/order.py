"""Clicks whose order matters, and one that takes as long as the test wants."""

import asyncio

from fasthtml.common import *

from faststate import EventError, ReactiveState, StateConfig, StateProvider, StateScope, event, expr, fast_app, view


class Keys(ReactiveState):
    digits: str = ""
    on: bool = False

    @event
    def digit(self, digit: int):
        if digit == 9:
            raise EventError("There is no nine.")
        self.digits += str(digit)

    @event
    def save(self, text: str):
        self.digits += f"[{text}]"

    @event
    def set(self, on: bool):
        self.on = on

    @event
    async def wait(self):
        await released.wait()
        self.digits += "w"

    @event
    async def steps(self):
        yield
        while not released.is_set():
            yield
            await asyncio.sleep(0.01)
        self.digits += "s"

    @view
    def box(self):
        change = self.set.post(on=expr("el.checked"))
        return Div(Input(type="checkbox", checked=self.on, id="box", **{"data-on:change": change}))


class Shared(ReactiveState):
    clicks: str = ""

    @event
    def click(self, name: str):
        self.clicks += name


released = asyncio.Event()
provider = StateProvider()
provider.register_state(Keys)
provider.register_state(Shared, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider)


@rt
def index(keys: Keys, shared: Shared):
    return Titled(
        "Keys",
        P(keys.signal.digits, id="digits"),
        P(shared.signal.clicks, id="clicks"),
        *[Button(str(n), keys.digit.on("click", digit=n), id=f"key-{n}") for n in range(10)],
        Button("Wait", keys.wait.on("click"), id="wait"),
        Button("Steps", keys.steps.on("click"), id="steps"),
        *[Button(name, shared.click.on("click", name=name), id=f"click-{name}") for name in "ab"],
        Form(keys.save.on("submit"), Input(name="text", id="text"), Button("Save", id="save")),
        keys.box(),
    )


@rt
def plain():
    return Titled("Plain", P("nothing"))


@rt
async def release():
    released.set()
    return "released"


@rt
async def hold():
    released.clear()
    return "held"
