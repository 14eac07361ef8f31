"""Signing in with GitHub, through FastHTML's OAuth module: its Beforeware runs for events and streams too.

Register an app at https://github.com/settings/developers with the callback URL http://localhost:5001/redirect, and
start this app with the id and secret that GitHub gives you, OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET, and with EDITORS,
the GitHub ids (separated by commas) of those who may write on the board. Everybody else may read it, and has their own
note.

To use another provider that works like GitHub, set OAUTH_AUTHORIZE_URL, OAUTH_TOKEN_URL and OAUTH_USER_URL.
"""

import os
import secrets
from typing import Annotated

from fasthtml.common import *
from fasthtml.oauth import GitHubAppClient, OAuth
from oauthlib.oauth2 import OAuth2Error
from pydantic import Field, StringConstraints

from faststate import (
    ReactiveState,
    StateProvider,
    StateScope,
    UserContext,
    current_user,
    event,
    fast_app,
    get_current_request,
    get_current_user,
)

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

EDITORS = os.environ.get("EDITORS", "").split(",")
USERS: dict[int, UserContext] = {}  # in a real app, a table; by GitHub's ids, since somebody else can take over a name

provider = StateProvider(load_user_by_id=USERS.get)


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


class Client(GitHubAppClient):
    base_url = os.environ.get("OAUTH_AUTHORIZE_URL", GitHubAppClient.base_url)
    token_url = os.environ.get("OAUTH_TOKEN_URL", GitHubAppClient.token_url)
    info_url = os.environ.get("OAUTH_USER_URL", GitHubAppClient.info_url)

    async def retr_info_async(self, code, redirect_uri):
        # GitHub answers a used code with a 200 that says so, which FastHTML does not treat as an HTTP error.
        try:
            return await super().retr_info_async(code, redirect_uri)
        except OAuth2Error:
            return {}


class Auth(OAuth):
    async def get_auth(self, info, ident, session, state):
        # This session did not send this state: somebody else is passing their sign-in to this browser.
        expected = session.pop("oauth_state", None)
        if expected is None or state != expected:
            return None
        user = UserContext(ident, info.login, roles=["editor"] if str(ident) in EDITORS else [])
        USERS[ident] = user
        await provider.login(get_current_request(), user)
        return RedirectResponse("/", status_code=303)

    def check_invalid(self, req, session, auth):
        # A valid session of a user that the app does not know (any more).
        return None if auth in USERS else self.redir_login(session)

    async def logout(self, session):
        await provider.logout(get_current_request())
        return self.redir_login(session)


app, rt = fast_app(state_provider=provider, htmlkw={"lang": "en"}, htmx=False, surreal=False)
client = Client(os.environ.get("OAUTH_CLIENT_ID", "none"), os.environ.get("OAUTH_CLIENT_SECRET", "none"))
oauth = Auth(app, client, skip=["/login", "/redirect", "/error", r"/favicon\.ico"])


@rt
async def index(request, note: Note, board: Board):
    user = await get_current_user(request)
    return Titled(
        f"Hello, {user.username}",
        Section(H2("Your note"), P(note.signal.text), line_form(note.write, "Write")),
        Section(
            H2("Board"), board, line_form(board.post, "Post") if user.has_role("editor") else P("Editors write here.")
        ),
        A("Sign out", href=oauth.logout_path),
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
def login_page(request, session):
    session["oauth_state"] = secrets.token_urlsafe(16)
    return Titled("Sign in", A("Sign in with GitHub", href=oauth.login_link(request, state=session["oauth_state"])))


@app.get("/error")
def error_page():
    return Titled("Not signed in", P("GitHub did not let you in."), A("Try again", href="/login"))


serve()
