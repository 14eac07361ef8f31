"""One of everything under a strict Content-Security-Policy; `?policy=` in the URL of a page sets another one.

With DEFAULT_HDRS in the environment the pages have FastHTML's default headers, and with NONCE each a nonce for them.
"""

import os
import secrets

from fasthtml.common import *
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from faststate import AuthorizationError, Bound, ReactiveState, StateProvider, event, fast_app, view

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class ContentSecurityPolicy:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nonce = scope["nonce"] = secrets.token_urlsafe(16)
        policy = HTTPConnection(scope).query_params.get("policy", POLICY).replace("NONCE", nonce)

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = policy
            await send(message)

        await self.app(scope, receive, send_with_policy)


def add_nonces(req):
    """Beforeware: FastHTML copies the headers for each request, so theirs may differ."""
    for element in flat_xt(req.hdrs):
        if getattr(element, "tag", "") in ("script", "style", "link"):
            element.attrs["nonce"] = req.scope["nonce"]


class Board(ReactiveState):
    count: int = 0
    term: Bound[str] = ""
    heard: str = ""
    entries: list[str] = ["first"]

    @event
    def add(self):
        self.count += 1

    @event
    def look(self):
        self.heard = self.term

    @event
    def write(self, text: str):
        self.entries.append(text)

    @event
    def refuse(self, why: str = "No, you may not."):
        raise AuthorizationError(why)

    @event
    def leave(self):
        return Redirect("/elsewhere")

    @event(selector="#log", mode="append")
    def log(self):
        self.count += 1
        return Li(f"entry {self.count}")

    @view
    def several(self):
        return Dt("entries"), Dd(len(self.entries)), *[Dd(entry, cls="entry") for entry in self.entries]

    @view
    def text(self):
        return f"{len(self.entries)} in all"


provider = StateProvider()
app, rt = fast_app(
    state_provider=provider,
    default_hdrs="DEFAULT_HDRS" in os.environ,
    pico="DEFAULT_HDRS" in os.environ,
    hdrs=[
        Link(rel="stylesheet", href="/look"),
        Meta(name="htmx-config", content='{"includeIndicatorStyles": false}'),  # HTMX would add a <style> without nonce
    ],
    before=add_nonces if "NONCE" in os.environ else None,
    middleware=[Middleware(ContentSecurityPolicy)],
)
provider.register_state(Board)


@rt
def look():
    css = "dl { display: grid; grid-template-columns: 7rem 9rem } .faststate-toast { display: flex }"
    return Response(css, media_type="text/css")


@rt
def index(board: Board):
    return Titled(
        "Board",
        P(board.signal.count, id="count"),
        Button("Add", board.add.on("click"), id="add"),
        Input(board.signal.term.bind(), board.look.on("input"), id="term"),
        P(board.signal.heard, id="heard"),
        Form(board.write.on("submit"), Input(name="text", id="text"), Button("Write", id="write")),
        Dl(board.several(), id="several"),
        P("There are ", board.text(), ".", id="sentence"),
        Button("Refuse", board.refuse.on("click"), id="refuse"),
        Button("Refuse at length", board.refuse.on("click", why="No, and here is why at length. " * 4), id="at-length"),
        Button("Leave", board.leave.on("click"), id="leave"),
        Button("Log", board.log.on("click"), id="log-it"),
        Ul(id="log"),
    )


@rt
def elsewhere():
    return Titled("Elsewhere", P("here", id="here"))


@rt
def injected(board: Board):
    """Markup that a hole in the app's own escaping would let in."""
    hostile = """<script>window.ran = ['script']</script>
        <button id=inline onclick="(window.ran ||= []).push('onclick')">x</button>
        <p id=styled style="position: fixed">x</p><style>#count { position: fixed }</style>
        <button id=evaluated data-on:click="(window.ran ||= []).push('datastar')">x</button>"""
    return Titled("Injected", P(board.signal.count, id="count"), NotStr(hostile))
