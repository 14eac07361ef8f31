"""Controls in a view, of a state that changes while its page is away."""

from fasthtml.common import *

from faststate import ReactiveState, StateProvider, event, expr, fast_app, view

SIZES = ("s", "m", "l")


class Choice(ReactiveState):
    done: bool = False
    size: str = "s"
    name: str = "Ann"

    @event
    def set(self, done: bool | None = None, size: str | None = None, name: str | None = None):
        given = {"done": done, "size": size, "name": name}
        for field, value in given.items():
            if value is not None:
                setattr(self, field, value)

    @view
    def controls(self):
        box = Input(
            type="checkbox", id="box", checked=self.done, **{"data-on:change": self.set.post(done=expr("el.checked"))}
        )
        options = [Option(size, value=size, selected=size == self.size) for size in SIZES]
        choice = Select(*options, id="size", **{"data-on:change": self.set.post(size=expr("el.value"))})
        name = Input(id="name", value=self.name, **{"data-on:change": self.set.post(name=expr("el.value"))})
        return Div(box, choice, name, Input(id="note"), P(f"{self.done} {self.size} {self.name}", id="text"))


provider = StateProvider()
provider.register_state(Choice)
app, rt = fast_app(state_provider=provider, pico=False, htmx=False, surreal=False)


@rt
def index(choice: Choice):
    return Titled("Choice", choice.controls())


@rt
def elsewhere():
    return Titled("Elsewhere")


@rt
async def reset(request):
    async with provider.modify(Choice, request) as choice:
        choice.done, choice.size, choice.name = False, "s", "Ann"
    return "done"
