"""The app that is killed: numbers are added to states of several kinds, and it says what it finds."""

from __future__ import annotations

import math

from fasthtml import common as fh
from starlette.requests import Request
from starlette.responses import JSONResponse

from faststate import AsSignal, ReactiveState, StateConfig, StateProvider, StateScope, UserContext, event, fast_app


class Numbers(ReactiveState):
    """The field of each state below: each number is in it once, if all goes well."""

    numbers: AsSignal[list[int]] = []

    @event
    async def add(self, number: int):
        self.numbers.append(number)

    @event
    def add_in_a_thread(self, number: int):
        self.numbers.append(number)

    @event
    async def add_in_two_steps(self, number: int):
        self.numbers.append(number)
        yield
        self.numbers.append(-number)

    @event
    async def clear(self):
        self.numbers = []


class Journal(Numbers):
    """One for each session."""


class Notes(Numbers):
    """One for each user."""


class Board(Numbers):
    """One for all."""


class Item(Numbers):
    """One for each id."""


class Credit(Numbers):
    """The same numbers as `Debit`."""


class Debit(Numbers):
    @event
    async def move(self, number: int, credit: Credit):
        self.numbers.append(number)
        credit.numbers.append(number)


provider = StateProvider(store="sqlite:///state.db", event_rate=math.inf)
provider.register_state(Journal, StateConfig(scope=StateScope.SESSION))
provider.register_state(Notes, StateConfig(scope=StateScope.USER))
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Item, StateConfig(scope=StateScope.RECORD))
provider.register_state(Debit, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Credit, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider, secret_key="for tests")


@rt("/enter/{name}")
async def enter(request: Request, name: str):
    await provider.login(request, UserContext(name))
    return JSONResponse(name)


@rt("/shop/{item_id}")
async def shop(journal: Journal, notes: Notes, board: Board, item: Item, debit: Debit, credit: Credit):
    return fh.Titled("Numbers", *(fh.P(each.signal.numbers) for each in (journal, notes, board, item, debit, credit)))


@rt("/found/{item_id}")
async def found(journal: Journal, notes: Notes, board: Board, item: Item, debit: Debit, credit: Credit):
    return JSONResponse(
        {
            type(state).__name__: {
                "numbers": list(state.numbers),
                "epoch": state._committed.epoch,
                "version": state._committed.version,
            }
            for state in (journal, notes, board, item, debit, credit)
        }
    )
