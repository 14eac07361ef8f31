"""One count that everybody shares, with a heartbeat of a second; OFFLINE in the environment is the badge's text."""

import os

from fasthtml.common import *

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Counter(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1


offline = os.environ.get("OFFLINE")
provider = StateProvider(heartbeat=1, offline=offline if offline else offline is None)
provider.register_state(Counter, StateConfig(scope=StateScope.GLOBAL))
style = Style(".faststate-badge { background: rgb(1, 2, 3) }") if "STYLED" in os.environ else ()
app, rt = fast_app(state_provider=provider, pico=False, htmx=False, surreal=False, hdrs=[style])


@rt
def index(counter: Counter):
    return Titled(
        "Link",
        P(counter.signal.n, id="n"),
        P(id="link", **{"data-text": "$_fs.link"}),
        Button("+1", counter.add.on("click"), id="add"),
    )


@rt
def plain():
    return Titled("No state", P("Nothing here changes."), Button("+1", Counter.add.on("click"), id="add"))


@rt
def beginning(counter: Counter):
    return Titled("At once", Div(**{"data-init": counter.add.post()}), P(counter.signal.n, id="n"))


@rt
def stats():
    return provider.stats()._asdict()
