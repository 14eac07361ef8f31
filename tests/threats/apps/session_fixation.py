"""Texts of a session, a user and everybody, and every way to ask who is there."""

from fasthtml.common import *

from faststate import *


class Basket(ReactiveState):
    text: str = ""

    @event
    def write(self, text: str):
        self.text = text


class Cart(Basket):
    pass


class Profile(Basket):
    pass


class Board(Basket):
    pass


provider = StateProvider(heartbeat=0.2)
provider.register_state(Basket)
provider.register_state(Cart, StateConfig(on_login="to_user"))
provider.register_state(Profile, StateConfig(scope=StateScope.USER))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False, exts="ws")


@rt("/")
def index(basket: Basket, cart: Cart, board: Board):
    return Titled("All", basket.signal.text, cart.signal.text, board.signal.text)


@rt("/profile")
def profile(profile: Profile):
    return Titled("Profile", profile.signal.text)


@rt("/in/{name}")
async def sign_in(request, name: str):
    await provider.login(request, UserContext(name))
    return "in"


@rt("/out")
def sign_out(request):
    provider.logout(request)
    return "out"


@rt("/who")
async def who(request):
    user = await get_current_user(request)
    return str(user and user.id)


@rt("/plain")
def plain():
    return "plain"


@rt("/streams")
def streams():
    return str(provider.stats().connections)


@app.ws("/ws")
async def socket(msg: str, ws):
    user = await get_current_user(ws)
    await ws.send_text(str(user and user.id))
