from fasthtml.common import *

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


provider = StateProvider()
provider.register_state(Counter, StateConfig(scope=StateScope.SESSION))
app, rt = fast_app(state_provider=provider)


@rt
def index(counter: Counter):
    return Titled("Counter", P("Count: ", counter.signal.count), Button("+1", counter.add.on("click", by=1)))


serve()
