"""Pages that watch much: a thousand records, and fragments that are fetched one by one, each with a state."""

from fasthtml.common import *

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Row(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1


class Mine(ReactiveState):
    count: int = 0

    @event
    def add(self):
        self.count += 1


provider = StateProvider(max_streams_per_session=1_000)
provider.register_state(Row, StateConfig(scope=StateScope.RECORD))
provider.register_state(Mine)
app, rt = fast_app(state_provider=provider, htmx=False, default_hdrs=False, secret_key="k")


def row(state: Row, i: int):
    return Li(
        Span(state.signal.n, id=f"n{i}"), Button("+1", state.add.on("click"), id=f"add{i}"), cls="row", id=f"row{i}"
    )


@rt("/many/{number}")
async def many(request, number: int):
    rows = [await provider.get_state(Row, request, record_id=f"r{i}") for i in range(number)]
    return Titled("Many", Ul(*[row(state, i) for i, state in enumerate(rows)]))


@rt("/fragments")
def fragments(mine: Mine):
    return Titled(
        "Fragments",
        P(Span(mine.signal.count, id="mine"), Button("+1", mine.add.on("click"), id="add-mine")),
        Ul(id="list"),
        # What a page's own script may do; Datastar finds what is put into the document by itself.
        Script(
            "async function more(from, to) { for (let i = from; i < to; i++) {"
            " const answer = await fetch('/row/' + i, {headers: {'HX-Request': 'true'}});"
            " document.getElementById('list').insertAdjacentHTML('beforeend', await answer.text()); } }"
        ),
    )


@rt("/patched")
def patched(mine: Mine):
    return Titled(
        "Patched",
        P(Span(mine.signal.count, id="mine")),
        Ul(id="list"),
        Button("more", **{"data-on:click": "@get('/row/70?patch=1')"}, id="more"),
    )


@rt("/row/{i}")
async def fragment(request, i: int, patch: int = 0):
    made = row(await provider.get_state(Row, request, record_id=f"r{i}"), i)
    return (made, HttpHeader("datastar-selector", "#list"), HttpHeader("datastar-mode", "append")) if patch else made


@rt("/away")
def away():
    return Titled("Away", P("elsewhere"))


@rt("/stats")
def stats():
    return dict(provider.stats()._asdict())
