"""A class whose field and event have other names after a deploy: when there is a file `new` beside the app."""

from pathlib import Path

from fasthtml.common import *

from faststate import ReactiveState, StateProvider, event, fast_app

if Path("new").exists():

    class Stock(ReactiveState):
        left: int = 7

        @event
        def take(self):
            self.left -= 1
else:

    class Stock(ReactiveState):
        count: int = 7

        @event
        def buy(self):
            self.count -= 1


provider = StateProvider()
provider.register_state(Stock)
app, rt = fast_app(state_provider=provider, secret_key="deploy", pico=False, htmx=False, surreal=False)


@rt
def index(stock: Stock):
    value, sell = (stock.signal.left, stock.take) if Path("new").exists() else (stock.signal.count, stock.buy)
    return Titled("Stock", P(value, id="n"), Button("one", sell.on("click"), id="add"))
