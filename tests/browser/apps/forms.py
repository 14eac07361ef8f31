"""A form, bound inputs, and events that refuse."""

from fasthtml.common import *

from faststate import AuthorizationError, Bound, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Notes(ReactiveState):
    last: str = ""
    urgent: bool = False
    taken: int = 0

    @event
    def write(self, text: str, urgent: bool):
        if len(text) > 10:
            raise AuthorizationError("A note has at most ten letters.")
        self.last, self.urgent, self.taken = text, urgent, self.taken + 1

    @event
    def fail(self):
        self.taken = 99
        raise RuntimeError("a secret of the server")


class Search(ReactiveState):
    term: Bound[str] = ""
    level: Bound[int] = 3
    exact: Bound[bool] = False
    draft: Bound[str] = ""
    sent: int = 0
    heard: str = ""

    @event
    def look(self):
        self.sent += 1
        self.heard = f"{self.term}|{self.level}|{self.exact}"

    @event
    def trim(self):
        self.term = self.term.strip().lower()


class Shared(ReactiveState):
    text: Bound[str] = ""

    @event
    def keep(self):
        pass


provider = StateProvider()
provider.register_state(Notes)
provider.register_state(Search)
provider.register_state(Shared, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider)


@rt
def index(notes: Notes):
    return Titled(
        "Notes",
        Form(
            notes.write.on("submit"),
            Input(name="text", id="text", required=True),
            CheckboxX(name="urgent", id="urgent", label="urgent"),
            Button("Write", id="write"),
        ),
        Button("Fail", notes.fail.on("click"), id="fail"),
        P(Span(notes.signal.last, id="last"), Span(notes.signal.urgent, id="was-urgent")),
        P(notes.signal.taken, id="taken"),
    )


@rt
def search(search: Search):
    return Titled(
        "Search",
        Input(search.signal.term.bind(), search.look.on("input"), id="term"),
        Input(search.signal.level.bind(), search.look.on("input"), id="level", type="range", min=0, max=10),
        Input(search.signal.exact.bind(), search.look.on("change"), id="exact", type="checkbox"),
        Input(search.signal.draft.bind(), id="draft"),
        Button("Trim", search.trim.on("click"), id="trim"),
        P(search.signal.heard, id="heard"),
        P(search.signal.sent, id="sent"),
    )


@rt
def shared(shared: Shared):
    return Titled("Shared", Input(shared.signal.text.bind(), shared.keep.on("change"), id="text"))
