"""Every way in which what a user typed can reach the markup of a page."""

from math import inf

from fasthtml.common import *

from faststate import AsSignal, ReactiveState, ServerOnly, StateConfig, StateProvider, StateScope, event, expr, fast_app
from faststate import view as a_view


class Said(ReactiveState):
    text: str = ""
    table: AsSignal[dict[str, str]] = {}
    listed: AsSignal[list[str]] = []
    lines: list[str] = []
    secret: ServerOnly[str] = ""

    @event
    def put(self, text: str):
        self.text, self.table, self.listed, self.lines = text, {text: text}, [text], [text]
        self.secret = f"only here: {text}"

    @event
    def show(self, text: str):
        return P(text, A("more", href="/?q=" + text, title=text, data_note=text), id="out")

    @event
    def go(self, to: str):
        return Redirect(to)

    @event
    def refuse(self, text: str):
        raise HTTPException(409, text)

    @event
    def choose(self, counts: dict[str, int]):
        self.listed = list(counts)

    @a_view
    def shown(self):
        return Div(P(self.text), Img(alt=self.text, src="/x?" + self.text), Ul(*map(Li, self.lines)), title=self.text)

    @a_view
    def bare(self):
        return self.text


class Panel(ReactiveState):
    text: str = ""

    @event
    def put(self, text: str):
        self.text = text

    @a_view
    def shown(self):
        return P(self.text)


LATE = expr("el.dataset.text + '<b>' + \"'\"")

provider = StateProvider(event_rate=inf)
provider.register_state(Said, StateConfig(scope=StateScope.SESSION))
provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
app, rt = fast_app(state_provider=provider)


@rt("/")
def index(said: Said):
    return Titled(
        "Said",
        P(said.signal.text, id="span"),
        P(said.signal.table, id="table"),
        P(said.signal.listed, id="listed"),
        P(said.shown(), id="view"),
        P(said.bare(), id="bare"),
        Button("again", said.put.on("click", text=said.text), id="again"),
        Button(
            "late", said.put.on("click", text=expr("el.dataset.text + '<b>' + \"'\"")), data_text=said.text, id="late"
        ),
        Form(Input(name="text", value=said.text), said.put.on("submit"), id="form"),
        Form(action=said.put.to(text=said.text), method="post", id="link"),
        Button("bare", data_on_click=said.put.post(text=said.text), id="post"),
        P(id="out"),
    )


@rt("/listing")
def listing(said: Said):
    return Titled("Listing", Div(said, id="listing"))


@rt("/fragment")
def fragment(said: Said):
    return Div(P(said.signal.text, id="span"), said.shown(), id="fragment")


@rt("/document")
def document(said: Said):
    return Html(Head(Title("x")), Body(P(said.signal.text, id="span"), said.shown()))


@rt("/panel")
async def panel(req, name: str):
    panel = await provider.get_state(Panel, req, component_id=name)
    return Titled("Panel", panel.signal.text, panel.shown(), Button("put", panel.put.on("click", text=name), id="put"))
