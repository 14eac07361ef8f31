"""An app with a state of each scope, two users, and marks by which each answer shows whose data is in it."""

from math import inf
from typing import Annotated, Any

from fasthtml.common import *
from pydantic import BaseModel

from faststate import *

PASSWORD = "only the test knows it"  # so that no random request signs in
USERS = {
    "ann": UserContext("ann", "Ann", roles=["member"]),
    "bob": UserContext("bob", "Bob", roles=["member", "editor"], permissions=["audit"]),
}


class Line(BaseModel):
    text: str = ""
    amount: float = 0
    cost: ServerOnly[str] = "HIDDEN cost"


class Everyone(ReactiveState):
    count: int = 0
    text: str = ""
    remark: Annotated[str, Visible("audit")] = "RESTRICTED"
    secret: ServerOnly[str] = "HIDDEN"

    @event
    def add(self, by: int = 1):
        self.count = max(-(2**40), min(2**40, self.count + by))

    @event(roles=["editor"])
    def rename(self, text: str):
        self.text = text

    @event(requires_auth=True)
    def sign(self):
        return P("signed", id="out")

    @view
    def shown(self):
        return P(self.count, self.text)


class Own(ReactiveState):
    text: str = ""
    typed: Bound[str] = ""
    number: Bound[int | None] = None
    table: AsSignal[dict[str, Any]] = {}
    lines: list[Line] = []
    secret: ServerOnly[str] = "HIDDEN"

    @event
    def put(self, text: str, number: int | None = None):
        self.text = text

    @event
    async def keep(self, table: dict[str, Any]):
        self.table = table

    @event
    async def order(self, line: Line, flag: bool = False):
        self.lines = [*self.lines[-5:], line]
        yield P(line.text, id="out")
        self.text = line.text

    @event
    def go(self):
        return Redirect("/own")

    @event
    def price(self, doc: Annotated["Doc", Record("sku")], sku: str):
        doc.text = "changed"

    def plain(self):
        self.text = "HIDDEN: no event"

    @view
    def listing(self):
        return Ul(*(Li(line.text, line.amount) for line in self.lines))


class Private(ReactiveState):
    note: str = ""
    typed: Bound[str] = ""
    secret: ServerOnly[str] = "HIDDEN"

    @event
    def write(self, note: str):
        self.note = note

    @event(owner_only=True)
    async def wipe(self):
        self.note = ""

    @view
    def shown(self):
        return P(self.note)


class Panel(ReactiveState):
    text: str = ""

    @event
    def put(self, text: str = ""):
        self.text = text


class Doc(ReactiveState):
    user_id: str = ""
    text: str = ""
    secret: ServerOnly[str] = "HIDDEN"

    @event
    def write(self, text: str):
        self.text = text

    @view
    def shown(self):
        return P(self.text)


class Slip(Panel):
    """A record without a rule: who has no token for it has no way to it."""

    @view
    def shown(self):
        return P(self.text)


class Draft(Panel):
    pass


def private_of(identifier):
    return {"note": f"FOREIGN-{identifier.user_id}"}


def doc_of(identifier):
    owner, _, rest = identifier.record_id.partition("-")
    return {"user_id": owner, "text": f"FOREIGN-{owner}"} if owner in USERS and rest == "doc" else None


def doc_text(identifier):
    return {"text": f"FOREIGN-{identifier.record_id.partition('-')[0]}"}


async def may(user, state, action):
    return user is not None and user.id == state.user_id


provider = StateProvider(event_rate=inf, max_payload=20_000, load_user_by_id=USERS.get, login_route="/login")
provider.register_state(Everyone, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Own, StateConfig(scope=StateScope.SESSION))
provider.register_state(Private, StateConfig(scope=StateScope.USER, create=private_of))
provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
provider.register_state(Doc, StateConfig(scope=StateScope.RECORD, create=doc_of, authorize=may))
provider.register_state(Slip, StateConfig(scope=StateScope.RECORD, create=doc_text))
provider.register_state(Draft, StateConfig(scope=StateScope.TEMPORARY))
app, rt = fast_app(state_provider=provider, secret_key="of these tests alone")


@app.get("/")
def index(everyone: Everyone):
    return Titled("All", everyone.signal.count, everyone.shown(), Button(everyone.add.on("click", by=2)))


@app.get("/own")
def own(own: Own, panel: Annotated[Panel, Component("left")]):
    return Titled("Own", own.signal.text, own.listing(), panel.signal.text, Button(panel.put.on("click", text="x")))


@app.get("/private")
def private(private: Private, own: Own):
    return Titled("Private", private.signal.note, private.shown(), own.signal.text)


@app.get("/maybe")
def maybe(private: Private | None = None):
    return Titled("Maybe", private.shown() if private else "nobody")


@app.get("/panel/{name}")
async def panel(req, name: str):
    panel = await provider.get_state(Panel, req, component_id=name)
    return Titled("Panel", panel.signal.text)


@app.get("/doc/{doc_id}")
def doc(doc: Doc):
    return Titled("Doc", doc.signal.text, doc.shown(), Button(doc.write.on("click", text="x")))


@app.get("/slip")
async def slip(req):
    user = await get_current_user(req)
    if user is None:
        return Redirect("/login")
    slip = await provider.get_state(Slip, req, record_id=f"{user.id}-slip")
    return Titled("Slip", slip.signal.text, slip.shown())


@app.get("/draft")
def draft(draft: Draft):
    return Div(draft.signal.text, Button(draft.put.on("click", text="x")))


@app.get("/login")
def login(req):
    return Titled("Login", P(provider.next_url(req)))


@app.post("/enter/{name}")
async def enter(req, name: str):
    if req.headers.get("x-password") != PASSWORD or name not in USERS:
        return Response("no", 403)
    await provider.login(req, USERS[name])
    return Response("yes")
