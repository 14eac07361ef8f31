"""States of every scope, some of which a page shows and others not; documents are shown to those who own them alone."""

from typing import Annotated

from fasthtml.common import *
from limits import UNLIMITED

from faststate import Bound, Component, ReactiveState, Record, StateConfig, StateProvider, StateScope, event, fast_app


class Text(ReactiveState):
    text: str = "blank"
    draft: Bound[str] = ""

    @event
    def write(self, text: str):
        self.text = text
        return P(text, id="written")

    @event
    def keep(self):
        """Changes nothing itself; bound fields come along."""


class Own(Text):
    pass


class Diary(Text):
    pass


class Panel(Text):
    pass


class Sheet(Text):
    pass


class Board(Text):
    pass


class Guarded(Text):
    """Belongs to the user whose name its id ends with, by a rule that is asked for everybody."""


class Doc(Text):
    owner_id: str = ""

    @event
    def copy_from(self, other: Annotated[Guarded, Record("source")], source: str):
        self.text = other.text


provider = StateProvider(secret_key="foreign ids", **UNLIMITED)
provider.register_state(Own)
provider.register_state(Diary, StateConfig(scope=StateScope.USER))
provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
provider.register_state(Sheet, StateConfig(scope=StateScope.TEMPORARY))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL, public=True))
provider.register_state(Doc, StateConfig(scope=StateScope.RECORD))
provider.register_state(
    Guarded,
    StateConfig(
        scope=StateScope.RECORD,
        create=lambda identifier: {"text": f"blank {identifier.record_id}"},
        authorize=lambda user, state, action: user is not None and state.text.endswith(user.id),
    ),
)
app, rt = fast_app(state_provider=provider, secret_key="foreign ids")


@rt
def index(own: Own, board: Board):
    return Titled("Own", own.signal.text, board.signal.text)


@rt
def diary(diary: Diary):
    return Titled("Diary", diary.signal.text)


@rt("/panel/{name:path}")
async def panel(request, name: str):
    return Titled("Panel", (await provider.get_state(Panel, request, component_id=name)).signal.text)


@rt
def left(panel: Annotated[Panel, Component("left")]):
    return Titled("Panel", panel.signal.text)


@rt
def sheet(sheet: Sheet):
    return Titled("Sheet", sheet.signal.text)


@rt("/doc/{doc_id:path}")
def doc(doc: Doc, session):
    if doc.owner_id != session.get("name", ""):
        return Response("this document is another's", 403)
    return Titled("Document", doc.signal.text)


@rt
async def make(doc_id: str, owner: str):
    async with provider.modify(Doc, record_id=doc_id) as doc:
        doc.owner_id = owner
    return Response("made")


@rt("/guarded/{guarded_id}")
def guarded(guarded: Guarded):
    return Titled("Guarded", guarded.signal.text)


@rt("/name/{name}")
def name(session, name: str):
    session["name"] = session["user_id"] = name
    return Response("hello")


@rt
def everything():
    """All states that there are, by key, and what they hold: for the tests to look at."""
    return JSONResponse({key: entry.state.model_dump() for key, entry in provider.registry.live.items()})
