"""Hostile strings on every way into a page and back."""

from fasthtml.common import *
from hostile_strings import hostile_strings

from faststate import AsSignal, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view

STRINGS = hostile_strings(400)
NAMES = [f"t{i}" for i in range(len(STRINGS))]


class Rotating(ReactiveState):
    by: int = 0

    @event
    def rotate(self):
        self.by += 1
        shifted = [*STRINGS[self.by :], *STRINGS[: self.by]]
        for name, text in zip(NAMES, shifted, strict=True):
            setattr(self, name, text)


Text = type(
    "Text",
    (Rotating,),
    {"__annotations__": dict.fromkeys(NAMES, str), **dict(zip(NAMES, STRINGS, strict=True)), "__module__": __name__},
)


class Listing(ReactiveState):
    texts: list[str] = []
    counts: AsSignal[dict[str, int]] = {}

    @event
    def fill(self):
        self.texts = list(STRINGS)
        self.counts = {text: i for i, text in enumerate(STRINGS) if "." not in text}

    @view
    def listing(self):
        return Ul(*[Li(text, title=text) for text in self.texts], id="listing")


class Taken(ReactiveState):
    texts: dict[int, str] = {}

    @event
    def take(self, number: int, text: str):
        self.texts[number] = text


class Dotted(ReactiveState):
    counts: AsSignal[dict[str, int]] = {"1": 0}

    @event
    def put(self):
        base = self.counts["1"]
        self.counts |= {"1": base + 1, "1.5": base + 2, "a@b.org": base + 3}


class Part(ReactiveState):
    presses: int = 0

    @event
    def press(self):
        self.presses += 1

    @view
    def label(self):
        return B(f"pressed {self.presses} times")


class Row(Part):
    pass


provider = StateProvider(max_payload=2**21, event_burst=1_000)
for cls in (Text, Listing, Taken, Dotted):
    provider.register_state(cls)
provider.register_state(Part, StateConfig(scope=StateScope.COMPONENT))
provider.register_state(Row, StateConfig(scope=StateScope.RECORD))
app, rt = fast_app(state_provider=provider, pico=False)


@rt
def index(text: Text):
    return Titled(
        "Texts",
        Button("rotate", text.rotate.on("click"), id="rotate"),
        P(text.signal.by, id="by"),
        *[P(getattr(text.signal, name), cls="text") for name in NAMES],
    )


@rt
def listing(listing: Listing):
    return Titled(
        "List",
        Button("fill", listing.fill.on("click"), id="fill"),
        listing.listing(),
        Pre(**{"data-text": f"JSON.stringify(Object.entries({listing.signal.counts}))", "id": "counts"}),
    )


@rt
def dotted(dotted: Dotted):
    return Titled(
        "Dotted",
        Button("put", dotted.put.on("click"), id="put"),
        Pre(**{"data-text": f"JSON.stringify({dotted.signal.counts})", "id": "counts"}),
    )


@rt
def arguments(taken: Taken):
    return Titled(
        "Arguments",
        *[Button(taken.take.on("click", number=i, text=text), cls="take") for i, text in enumerate(STRINGS)],
    )


@rt
def taken(taken: Taken):
    return {"texts": [taken.texts.get(i) for i in range(len(STRINGS))]}


async def parts(request, cls, kind_of_id):
    start, found = int(request.query_params["start"]), []
    for text in STRINGS[start : start + 100]:
        state = await provider.get_state(cls, request, **{kind_of_id: text})
        found.append(P(Button("press", state.press.on("click")), state.label(), Span(state.signal.presses), cls="part"))
    return Titled("Parts", *found)


@rt
async def components(request):
    return await parts(request, Part, "component_id")


@rt
async def records(request):
    return await parts(request, Row, "record_id")
