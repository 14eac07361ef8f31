"""People, their rights and what these show: an app in which tests give and take rights while pages are open."""

import os
from typing import Annotated

from fasthtml.common import *

from faststate import *


class Mine(ReactiveState):
    note: str = "nothing yet"


class Cart(ReactiveState):
    items: int = 0

    @event
    def add(self):
        self.items += 1


class Board(ReactiveState):
    count: int = 0

    @event
    def add(self):
        self.count += 1

    @event(roles=["chief"])
    def reset(self):
        self.count = 0


class Staff(ReactiveState):
    secret: str = "for staff"

    @view
    def room(self):
        return P(f"In the room: {self.secret}")


class Report(ReactiveState):
    profit: Annotated[int, Visible("money")] = 1000

    @view
    def table(self):
        return P("Nothing to see" if self.profit is None else f"Profit {self.profit}")


class Doc(ReactiveState):
    text: str = "everybody's"
    members: ServerOnly[list[str]] = []

    @event
    def remove(self, who: str):
        self.members = [name for name in self.members if name != who]
        self.text = f"without {who}"

    @view
    def body(self):
        return Article(f"Body: {self.text}")


rights: dict[str, set[str]] = {}


def find(name):
    held = rights.get(name, set())
    return UserContext(name, name, roles=held, permissions=held)


provider = StateProvider(
    load_user_by_id=find, login_route="/login", stream_max_age=float(os.environ.get("STREAM_MAX_AGE", 3600))
)
provider.register_state(Mine, StateConfig(scope=StateScope.USER))
provider.register_state(Cart, StateConfig(on_login="to_user"))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Staff, StateConfig(scope=StateScope.GLOBAL, roles=["staff"]))
provider.register_state(Report, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(
    Doc,
    StateConfig(
        scope=StateScope.RECORD,
        create=lambda identifier: {"members": identifier.record_id.split("-")},
        authorize=lambda user, doc, action: user is not None and user.id in doc.members,
    ),
)
app, rt = fast_app(state_provider=provider, secret_key="for tests")


def clicks(board):
    return P(Span(board.signal.count, id="count"), Button("+1", board.add.on("click"), id="add"))


@rt
def index(mine: Mine, board: Board):
    return Titled("Home", P(mine.signal.note, id="note"), clicks(board))


@rt("/login")
def get(request):
    # The page of a form: what is asked for behind it is in the URL's `next`.
    return Titled("Sign in", Form(Input(name="name", id="name"), Button("Sign in", id="login"), method="post"))


@rt("/login")
async def post(request, name: str):
    await provider.login(request, find(name))
    return RedirectResponse(provider.next_url(request), status_code=303)


@rt("/logout", methods=["POST"])
async def logout(request):
    await provider.logout(request)
    return RedirectResponse("/cart", status_code=303)


@rt
async def cart(request, cart: Cart):
    user = await get_current_user(request)
    return Titled(
        "Cart",
        P(user.username if user else "a guest", id="who"),
        P(Span(cart.signal.items, id="items"), Button("+1", cart.add.on("click"), id="put")),
        Form(Button("Sign out", id="logout"), method="post", action="/logout"),
    )


@rt
def two(staff: Staff, board: Board):
    return Titled(
        "Two", P(staff.signal.secret, id="secret"), Div(staff.room(), id="room"), clicks(board), Input(id="typed")
    )


@rt
def denied(board: Board):
    status = P(id="status", **{"data-text": "$_fs.status"})
    return Titled("Denied", clicks(board), Button("Reset", board.reset.on("click"), id="reset"), status)


@rt
def report(report: Report):
    return Titled("Report", P(report.signal.profit, id="profit"), Div(report.table(), id="table"))


@rt("/doc/{doc_id}")
def doc(doc: Doc, board: Board, doc_id: str):
    last = doc_id.split("-")[-1]
    return Titled(
        "Doc",
        P(doc.signal.text, id="text"),
        Div(doc.body(), id="body"),
        Button("Remove", doc.remove.on("click", who=last), id="remove"),
        clicks(board),
    )


@rt("/give/{name}/{held}")
async def give(name: str, held: str):
    """The rights (names joined by commas, "-" for none) that somebody has from now on."""
    rights[name] = set(held.split(",")) - {"-"}
    return str(await provider.refresh_user(name))
