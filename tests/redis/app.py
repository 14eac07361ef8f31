"""The app that runs in many processes: numbers are added to states of several kinds, and it says what it finds.

`FASTSTATE_STORE` says where its states are; `rows.db`, in the working directory, is the database of its records.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
from pathlib import Path

from fasthtml import common as fh
from fastlite import database
from starlette.requests import Request
from starlette.responses import JSONResponse

from faststate import (
    AsSignal,
    ReactiveState,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    get_current_user,
    view,
)

ROWS = 4

with open("rows.lock", "w") as turn:  # fastlite's `database` fails where another process is opening the file, too
    fcntl.flock(turn, fcntl.LOCK_EX)
    db = database("rows.db")
    rows = db.t.rows
    if not rows.exists():
        rows.create(id=int, life=str, count=int, first=str, second=str, twice=str, version=int, pk="id")
        for number in range(ROWS):
            rows.insert(id=number, life="", count=0, first="0", second="0", twice="[]", version=1)


def reached(what: str) -> None:
    """Tells the test, which looks into the working directory, that something has come so far."""
    Path(what).write_text(str(os.getpid()))


class Numbers(ReactiveState):
    """The fields of each state below: the numbers that were added, in few bytes, and a count of all additions.

    `life` is drawn with the first number: in one life `count` only grows.
    """

    life: str = ""
    count: int = 0
    first: ServerOnly[str] = "0"
    second: ServerOnly[str] = "0"
    twice: ServerOnly[list[int]] = []

    def take(self, number: int, name: str = "first"):
        bits = int(getattr(self, name), 16)
        if bits >> number & 1:
            self.twice.append(number)
        setattr(self, name, f"{bits | 1 << number:x}")
        self.life = self.life or os.urandom(4).hex()
        self.count += 1
        self.tell()

    def tell(self):
        """Changes what else pages are told."""

    @event
    async def add(self, number: int):
        self.take(number)

    @event
    def add_in_a_thread(self, number: int):
        self.take(number)

    @event
    async def add_in_two_steps(self, number: int):
        self.take(number)
        yield
        self.take(number, "second")

    @event
    async def add_and_wait(self, number: int, seconds: float = 3600):
        self.take(number)
        reached(f"waits-{number}")
        await asyncio.sleep(seconds)

    @event
    async def clear(self, number: int):
        self.first, self.second, self.twice = "0", "0", []

    @view
    def shown(self):
        return fh.P(f"{self.count} of {self.life}")


class Told(Numbers):
    """With a signal whose parts come and go."""

    digits: AsSignal[dict[str, int]] = {}

    def tell(self):
        self.digits = {str(place): int(digit) for place, digit in enumerate(str(self.count)) if digit != "7"}


class Journal(Told):
    """One for each session."""


class Notes(Told):
    """One for each user."""


class Board(Told):
    """One for all."""


class Desk(Told):
    """One for all, some of which goes to the Board, too. Both change by themselves as well."""

    @event
    async def file(self, number: int, board: Board):
        self.take(number)
        board.take(number)


class Item(Told):
    """One for each id, in the store alone."""


class Line(Numbers):
    """One for each row."""


class Credit(Told):
    """The same numbers as `Debit`."""


class Debit(Told):
    @event
    async def move(self, number: int, credit: Credit):
        self.take(number)
        credit.take(number)


def may(user: UserContext | None) -> bool:
    """All may, but for one whose name stands in a file."""
    banned = Path("banned")
    return not (user is not None and banned.exists() and banned.read_text() == user.id)


provider = StateProvider(event_rate=math.inf, load_user_by_id=UserContext)
provider.register_state(Journal, StateConfig(scope=StateScope.SESSION))
provider.register_state(Notes, StateConfig(scope=StateScope.USER))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Desk, StateConfig(scope=StateScope.GLOBAL, authorize=lambda user, desk, action: may(user)))
provider.register_state(Item, StateConfig(scope=StateScope.RECORD))
provider.register_state(Line, StateConfig(scope=StateScope.RECORD, records=rows, record_param="line_id"))
provider.register_state(Debit, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Credit, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider, secret_key="for tests", default_hdrs=False)


@rt("/enter/{name}")
async def enter(request: Request, name: str):
    await provider.login(request, UserContext(name))
    return JSONResponse(name)


@rt("/leave")
async def leave(request: Request):
    await provider.logout(request)
    return JSONResponse("out")


@rt("/who")
async def who(request: Request):
    user = await get_current_user(request)
    return JSONResponse(user.id if user else None)


@rt("/disconnect/{name}")
async def disconnect(name: str):
    await provider.disconnect_user(name)
    return JSONResponse(name)


@rt("/refresh/{name}")
async def refresh(name: str):
    await provider.refresh_user(name)
    return JSONResponse(name)


@rt("/shop/{item_id}/{line_id}")
async def shop(
    journal: Journal, notes: Notes, board: Board, desk: Desk, item: Item, line: Line, debit: Debit, credit: Credit
):
    states = journal, notes, board, desk, item, line, debit, credit
    return fh.Titled("Numbers", *(fh.Div(state.signal.count, state.shown()) for state in states))


@rt("/found/{item_id}/{line_id}")
async def found(
    journal: Journal, notes: Notes, board: Board, desk: Desk, item: Item, line: Line, debit: Debit, credit: Credit
):
    """Report the content of each state, and what a page that shows it has to show."""
    states = journal, notes, board, desk, item, line, debit, credit
    return JSONResponse({type(state).__name__: described(state) for state in states})


def numbers_in(digits: str) -> list[int]:
    bits = f"{int(digits, 16):b}"
    return [place for place, bit in enumerate(reversed(bits)) if bit == "1"]


def described(state: Numbers) -> dict[str, object]:
    committed = state._committed
    return {
        "numbers": [*numbers_in(state.first), *(-number for number in numbers_in(state.second)), *state.twice],
        "epoch": committed.epoch,
        "version": committed.version,
        "path": committed.namespace,
        "signals": committed.encoded,
        "view": state.shown().html,
    }
