"""Routes that are defined before the provider is set up: FastHTML injects their states by itself."""

from fasthtml.common import *

from faststate import ReactiveState, StateProvider, event


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


provider = StateProvider()
provider.register_state(Counter)
app, rt = fast_app()


@rt
def index(counter: Counter):
    return Titled(
        "Counter", P(Span(counter.signal.count, id="mine"), Button("+1", counter.add.on("click"), id="add-mine"))
    )


provider.setup(app)
