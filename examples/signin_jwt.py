"""Signing in with a signed JWT: the token itself says who it is, in a cookie that no script can read.

It is a cookie, since a browser sends no Authorization header with a page or a stream. Everybody has their own note.
Everybody may read the board, and editors may write on it. Ada (password "engine") is an editor,
Bob (password "castle") is not. Needs PyJWT.
"""

import hashlib
import os
import secrets
import time
from typing import Annotated

import jwt
from fasthtml.common import *
from pydantic import Field, StringConstraints

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

KEY = os.environ.get("JWT_KEY") or secrets.token_urlsafe(32)  # set your own, or each restart signs everybody out
HOURS = 8
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def digest(password: str) -> bytes:
    """Return the digest that is kept instead of a password. A real app has a salt per account, and stores both."""
    return hashlib.scrypt(password.encode(), salt=b"of this example", n=2**14, r=8, p=1)


PASSWORDS = {"ada": digest("engine"), "bob": digest("castle")}
USERS = {"ada": UserContext("ada", "Ada", roles=["editor"]), "bob": UserContext("bob", "Bob")}

SIGNED_OUT: dict[str, int] = {}  # id of a token, and when it expires; a real app shares it among its processes


def token_for(name: str) -> str:
    now = int(time.time())
    claims = {"sub": name, "jti": secrets.token_hex(16), "iat": now, "exp": now + HOURS * 3600}
    return jwt.encode(claims, KEY, algorithm="HS256")


def claims_of(request) -> dict | None:
    """Return the claims of a request's token; None if it is missing, expired, signed out or not ours."""
    try:
        # Name the algorithm here; do not take it from the token, which may say "none".
        claims = jwt.decode(
            request.cookies.get("token", ""), KEY, algorithms=["HS256"], options={"require": ["sub", "jti", "exp"]}
        )
    except jwt.InvalidTokenError:
        return None
    return claims if claims["jti"] not in SIGNED_OUT else None


def load_user(request) -> UserContext | None:
    # None means a stranger. An exception here (a database that is down) is answered with 503, and lets nobody in.
    claims = claims_of(request)
    return USERS.get(claims["sub"]) if claims else None


provider = StateProvider(user_loader=load_user, login_route="/login")


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


app, rt = fast_app(state_provider=provider, htmlkw={"lang": "en"}, htmx=False, surreal=False)


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
    provider.login(request, USERS[name])
    response = RedirectResponse(provider.next_url(request), status_code=303)
    is_secure = request.url.scheme == "https"
    response.set_cookie("token", token_for(name), max_age=HOURS * 3600, httponly=True, samesite="lax", secure=is_secure)
    return response


@app.post("/logout")
def logout(request):
    for jti, end in list(SIGNED_OUT.items()):
        if end < time.time():
            SIGNED_OUT.pop(jti, None)
    # Even without the cookie, the token would still work for anyone who has a copy.
    if claims := claims_of(request):
        SIGNED_OUT[claims["jti"]] = claims["exp"]
    provider.logout(request)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie("token")
    return response


serve()
