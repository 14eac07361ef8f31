"""Pages with attributes that Datastar cannot use, and pages that load Datastar in every way."""

from fasthtml.common import *

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view


class Counter(ReactiveState):
    n: int = 0
    rows: list[str] = []

    @event
    def add(self):
        self.n += 1

    @event
    def fill(self):
        self.rows = ["Hello world", "$nothing.at.all.length.more", "$Counter.n", "'text'"]

    @view
    def listing(self):
        return Ul(*[Li("as it was", ran(text), **{"data-text": text}) for text in self.rows], id="listing")


class Product(ReactiveState):
    n: int = 0

    @event
    def sell(self):
        self.n += 1


provider = StateProvider()
provider.register_state(Counter, StateConfig(scope=StateScope.SESSION))
provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
app, rt = fast_app(state_provider=provider, pico=False, htmx=False, surreal=False)


def ran(name):
    """An element that notes in `window.ran` each time that Datastar comes to it."""
    return B(**{"data-init": f"(window.ran ??= []).push({name!r})"})


def counting(counter):
    return P(counter.signal.n, id="n"), Button("+1", counter.add.on("click"), id="add")


@rt
def index(counter: Counter):
    return Titled("Plain", ran("a"), *counting(counter))


@rt
def foreign(counter: Counter):
    """A tooltip's attribute, that of a slider, and a misused one."""
    return Titled(
        "Foreign",
        ran("a"),
        P("as it was", id="tip", **{"data-text": "Hello world"}),
        ran("b"),
        P("as it was", id="key", **{"data-text:some": "1"}),
        ran("c"),
        P("as it was", ran("d"), id="late", **{"data-show": "not valid", "data-title": "$Counter.n"}),
        *counting(counter),
    )


@rt
def throwing(counter: Counter):
    """Expressions that fail when they run."""
    return Titled(
        "Throwing",
        ran("a"),
        P("as it was", id="text", **{"data-text": "nowhere.at.all"}),
        ran("b"),
        P(**{"data-init": "nowhere()"}),
        ran("c"),
        P("as it was", id="later", **{"data-text": "$Counter.n > 0 ? nowhere() : 'none'"}),
        P("as it was", id="healed", **{"data-text": "$Counter.n === 0 ? nowhere() : $Counter.n"}),
        Button("broken", id="broken", **{"data-on:click": "nowhere()"}),
        *counting(counter),
    )


@rt
def unnamed(counter: Counter):
    """An error that does not say which attribute it is of: it is the browser's own."""
    return Titled("Unnamed", ran("a"), P(id="null", **{"data-attr": "null"}), ran("b"), *counting(counter))


@rt
def patched(counter: Counter):
    return Titled("Patched", counter.listing(), Button("Fill", counter.fill.on("click"), id="fill"), *counting(counter))


@rt
def quiet(counter: Counter):
    """Without any text that two copies of Datastar would set, each because the other has: the browser would hang."""
    return Titled("Quiet", ran("a"), counter.watch())


@rt
def shop(counter: Counter):
    """Fetches one product after the other into one place, by Datastar's own action."""
    buttons = [
        Button(name, id=f"get-{name}", **{"data-on:click": f"@get('/product/{name}')"}) for name in ("tea", "jam")
    ]
    return Titled("Shop", *buttons, Div(id="product"), *counting(counter))


@rt("/product/{record_id}")
def product(product: Product, record_id: str):
    shown = P(product.signal.n, id=record_id), Button("Sell", product.sell.on("click"), id="sell")
    return HTMLResponse(to_xml(Div(product.watch(), *shown, id="product")))


@rt
def bare():
    """A page without states, and so without Datastar."""
    return Html(Head(Title("Bare")), Body(P("old", id="text")))


@rt
def stats():
    return provider.stats()._asdict()
