"""Every way in which what a user typed can reach a header or a frame."""

from math import inf

from fasthtml.common import *
from pydantic import BaseModel, field_validator

from faststate import AsSignal, Bound, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view


class Part(BaseModel):
    label: str = ""


class Words(ReactiveState):
    text: str = ""
    typed: Bound[str] = ""
    table: AsSignal[dict[str, str]] = {}
    listed: AsSignal[list[str]] = []
    part: AsSignal[Part] = Part()
    number: int = 0

    @event
    def put(self, text: str, number: int = 0):
        self.text, self.number = text, number

    @event
    def put_all(self, text: str, number: int = 0):
        self.text = text
        self.table = {text: text}
        self.listed = [text]
        self.part = Part(label=text)
        self.number = number

    @event
    def show(self, text: str):
        return P(text, id="out", title=text)

    @event(selector="[title='\u2028\u2029\v\f\x85\0: event: evil']", mode="inner")
    def show_there(self, text: str):
        return P(text)

    @event
    async def steps(self, text: str):
        self.text = text
        yield P(text, id="out")
        self.text = text + text
        yield Pre(text, id="out")

    @event
    def go(self, to: str):
        return Redirect("/to?text=" + to)

    @event
    def choose(self, counts: dict[str, int]):
        self.number = sum(counts.values())

    @event
    def refuse(self, text: str):
        raise HTTPException(409, text)

    @event
    def made_of(self, text: str):
        Strict(text=text)

    @view
    def listing(self):
        return Pre(self.text, title=self.text)

    @view
    def plain(self):
        return self.text


class Strict(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def never(cls, value: str) -> str:
        raise ValueError(f"not {value}")


class Panel(ReactiveState):
    text: str = ""

    @event
    def put(self, text: str):
        self.text = text

    @view
    def shown(self):
        return P(self.text)


class Doc(Panel):
    pass


def bounce(req):
    if "x-bounce" in req.query_params:
        return RedirectResponse("/to?text=" + req.query_params["x-bounce"], 303)


provider = StateProvider(event_rate=inf)
provider.register_state(Words, StateConfig(scope=StateScope.SESSION))
provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
provider.register_state(Doc, StateConfig(scope=StateScope.RECORD))
app, rt = fast_app(state_provider=provider, before=bounce)


@rt("/")
def index(words: Words):
    return Titled("Words", words.signal.text, words.listing(), words.plain(), P(id="out"))


@rt("/panel")
async def panel(req, name: str):
    panel = await provider.get_state(Panel, req, component_id=name)
    return Titled("Panel", panel.signal.text, panel.shown(), Button("put", panel.put.on("click", text=name)))


@rt("/doc/{doc_id}")
def doc(doc: Doc):
    return Titled("Doc", doc.signal.text, doc.shown(), Button("put", doc.put.on("click", text="x")))


@rt("/told")
async def told(words: Words, text: str):
    await provider.sse_manager.broadcast_to_state(words._committed.identifier.key, {text: {"a": text}, "text": text})
    return "told"


@rt("/to")
def to(text: str = ""):
    return P("here")
