"""An app that a victim has open: an account of the session, one of the user, and a board for all."""

from fasthtml.common import *
from limits import UNLIMITED

from faststate import Bound, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


class Account(ReactiveState):
    sent: int = 0
    to: Bound[str] = ""

    @event
    def pay(self, amount: int = 1):
        self.sent += amount

    @event
    async def pay_later(self, amount: int = 1):
        self.sent += amount


class Savings(Account):
    pass


class Board(Account):
    pass


provider = StateProvider(secret_key="csrf", **UNLIMITED)
provider.register_state(Account)
provider.register_state(Savings, StateConfig(scope=StateScope.USER))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL, public=True))
app, rt = fast_app(state_provider=provider, secret_key="csrf")


@rt
def index(account: Account, savings: Savings, board: Board):
    return Titled("Bank", account.signal.sent, savings.signal.sent, board.signal.sent)


@rt
def sign_in(session):
    session["user_id"] = "victim"
    return Response("signed in")


@rt
def truth(account: Account, savings: Savings, board: Board):
    return JSONResponse({type(s).__name__: [s.sent, s.to] for s in (account, savings, board)})


@rt
def stats():
    return JSONResponse({"events": provider.stats().events, "streams": provider.stats().connections_total})
