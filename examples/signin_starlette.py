"""Signing in through Starlette's AuthenticationMiddleware: a backend of your own finds the user of each request.

Here it looks up a random ticket, kept in a cookie, in a table of signed-in users. A user who is removed from the table
is signed out. Everybody has their own note. Everybody may read the board, and editors may write on it. Ada (password
"engine") is an editor, Bob (password "castle") is not.
"""

import hashlib
import secrets
import time
from typing import Annotated

from fasthtml.common import *
from pydantic import Field, StringConstraints
from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.middleware.authentication import AuthenticationMiddleware

from faststate import (
    ReactiveState,
    StateProvider,
    StateScope,
    UserContext,
    current_user,
    event,
    fast_app,
    get_current_user,
)

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def digest(password: str) -> bytes:
    """Return the digest that is kept instead of a password. A real app has a salt per account, and stores both."""
    return hashlib.scrypt(password.encode(), salt=b"of this example", n=2**14, r=8, p=1)


PASSWORDS = {"ada": digest("engine"), "bob": digest("castle")}
USERS = {"ada": UserContext("ada", "Ada", roles=["editor"]), "bob": UserContext("bob", "Bob")}

HOURS = 8
TICKETS: dict[str, tuple[str, float]] = {}  # by a ticket's digest: its user and expiry; in a real app, a table

provider = StateProvider(login_route="/login")


@provider.state(scope=StateScope.USER)
class Note(ReactiveState):
    text: str = ""

    @event
    def write(self, text: Line):
        self.text = text


@provider.state(scope=StateScope.GLOBAL, requires_auth=True)
class Board(ReactiveState):
    lines: Annotated[list[str], Field(max_length=20)] = []

    @event(roles=["editor"])
    def post(self, text: Line):
        self.lines = [*self.lines, f"{current_user.get().username}: {text}"][-20:]

    def __ft__(self):
        return Ul(*map(Li, self.lines)) if self.lines else P("Nothing yet.")


def ticket_of(connection) -> str:
    """Return the table's key for the ticket of a request: a digest, so that reading the table signs nobody in."""
    return hashlib.sha256(connection.cookies.get("ticket", "").encode()).hexdigest()


class Tickets(AuthenticationBackend):
    async def authenticate(self, conn):
        name, end = TICKETS.get(ticket_of(conn), ("", 0))
        user = USERS.get(name) if time.time() < end else None
        return (AuthCredentials(["authenticated"]), user) if user else None


app, rt = fast_app(
    state_provider=provider,
    middleware=[Middleware(AuthenticationMiddleware, backend=Tickets())],
    htmlkw={"lang": "en"},
    htmx=False,
    surreal=False,
)


@rt
async def index(request, note: Note, board: Board):
    user = await get_current_user(request)
    return Titled(
        f"Hello, {user.username}",
        Section(H2("Your note"), P(note.signal.text), line_form(note.write, "Write")),
        Section(
            H2("Board"), board, line_form(board.post, "Post") if user.has_role("editor") else P("Editors write here.")
        ),
        Form(Button("Sign out", cls="secondary outline"), method="post", action="/logout"),
    )


def line_form(line_event, label: str):
    id = label.lower()
    return Form(
        Label(label, _for=id),
        Fieldset(
            Input(id=id, name="text", required=True, maxlength=200, autocomplete="off"), Button(label), role="group"
        ),
        line_event.on("submit"),
    )


@app.get("/login")
def login_page(wrong: bool = False):
    return Titled(
        "Sign in",
        P("This name and password do not go together.", role="alert") if wrong else None,
        Form(
            Label("Name", Input(id="name", name="name", required=True, autocomplete="username"), _for="name"),
            Label(
                "Password",
                Input(id="password", name="password", type="password", required=True, autocomplete="current-password"),
                _for="password",
            ),
            Button("Sign in"),
            method="post",
        ),
    )


@app.post("/login")
def login(request, name: str, password: str):
    # A plain function: it runs in a thread, where a slow digest holds up nobody else.
    if not secrets.compare_digest(PASSWORDS.get(name, b""), digest(password)):
        return login_page(wrong=True)
    # Only for the session's new id: the middleware alone decides who the user is, whatever the session says.
    provider.login(request, USERS[name])
    ticket = secrets.token_urlsafe(32)
    TICKETS[hashlib.sha256(ticket.encode()).hexdigest()] = (name, time.time() + HOURS * 3600)
    response = RedirectResponse(provider.next_url(request), status_code=303)
    is_secure = request.url.scheme == "https"
    response.set_cookie("ticket", ticket, max_age=HOURS * 3600, httponly=True, samesite="lax", secure=is_secure)
    return response


@app.post("/logout")
def logout(request):
    TICKETS.pop(ticket_of(request), None)
    provider.logout(request)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie("ticket")
    return response


serve()
