"""Everything that sends a browser elsewhere: events, Beforeware, and the way to the login page and back."""

from math import inf

from fasthtml.common import *

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, UserContext, event, fast_app


class Door(ReactiveState):
    opened: int = 0

    @event
    def go(self, to: str):
        self.opened += 1
        return Redirect(to)

    @event
    def respond(self, to: str):
        self.opened += 1
        return RedirectResponse(to)

    @event
    async def step(self, to: str):
        yield None
        self.opened += 1
        yield Redirect(to)


class Private(ReactiveState):
    text: str = "private"


def bounce(req):
    to = req.query_params.get("bounce")
    if to is not None:
        return Redirect(to)


provider = StateProvider(event_rate=inf, login_route="/login")
provider.register_state(Door, StateConfig(scope=StateScope.SESSION))
provider.register_state(Private, StateConfig(scope=StateScope.USER))
app, rt = fast_app(state_provider=provider, before=bounce)


@rt("/")
def index(door: Door):
    return Titled("Door", door.signal.opened)


@app.get("/private/{rest:path}")
def private(private: Private, rest: str):
    return Titled("Private", private.signal.text)


@app.get("/own/{one}")
def own(private: Private, one: str):
    return Titled("Private", private.signal.text)


@app.get("/login")
def login():
    return Titled("Login", Form(method="post"))


@app.post("/login")
async def sign_in(req):
    await provider.login(req, UserContext("ann"))
    return RedirectResponse(provider.next_url(req), 303)


@app.get("/next")
def next_page(req):
    return Response(provider.next_url(req), media_type="text/plain")


@app.get("/next-or-home")
def next_or_home(req):
    return Response(provider.next_url(req, default="/home"), media_type="text/plain")


@app.get("/leave")
def leave(req):
    return Redirect(provider.next_url(req))
