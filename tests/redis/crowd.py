"""Many tabs at work on many workers, and whether all of them come to what the store has: each event once, and seen."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple, Self

from tests.chaos.load import Book, Broken, Event, Found, all_of

from .cluster import PATIENCE, Cluster, Worker, until
from .tabs import Browser, Tab
from .web import CutOff

Kind = tuple[str, str]
"""A state's class and one of its events."""

ONE_KEY: list[Kind] = [("Board", "add")]
MANY_KEYS: list[Kind] = [("Journal", "add"), ("Item", "add"), ("Notes", "add")]
ALL_KINDS: list[Kind] = [
    *[("Debit", "move"), ("Desk", "file"), ("Desk", "add")],
    *[(state, "add") for state in ("Journal", "Notes", "Board", "Item")] * 2,
    ("Journal", "add_in_two_steps"),
    ("Board", "add_in_two_steps"),
    ("Notes", "add_in_a_thread"),
    ("Item", "add_in_a_thread"),
]
"""What tabs do, each of them as often as the others."""

ITEMS = 16
USERS = 8
TABS_OF_BROWSER = 2
ROUND = 5_000
"""Events after which everything is to be looked at and emptied: what a state holds is read by workers at each event."""
UNREPEATED = 0.05  # of events, those that are not sent again when their request was cut off: nobody knows of them
REPEATED = 0.05  # of events, those that are sent again when they are acknowledged, as if the answer had been lost


class Seen(NamedTuple):
    """A worker's report of one state: its content, and what a page has to show of it."""

    found: Found
    path: list[str]
    signals: dict[str, Any]
    view: str


class Crowd:
    """Tabs of some browsers of some users, and the book of what they were told. Lifetime: the test.

    `events` is how many are sent for each that a test asks for.

    `async with` it: it signs all in, has them load their pages and open their streams.
    """

    def __init__(self, cluster: Cluster, rng: Random, tabs: int = 64, *, lines: int = 0, events: float = 1.0) -> None:
        self.cluster = cluster
        self.book = Book()
        self.unknown = 0
        self._rng = rng
        self._events = events
        self._lines = max(1, lines)
        self._outsiders: list[Browser] = []
        self._numbers = itertools.count(1)
        self.browsers = [
            Browser(cluster, f"browser {number}", f"user{number % USERS}")
            for number in range(-(-tabs // TABS_OF_BROWSER))
        ]
        self.tabs = [
            Tab(self.browsers[number // TABS_OF_BROWSER], str(number % ITEMS), str(number % self._lines))
            for number in range(tabs)
        ]

    async def __aenter__(self) -> Self:
        try:
            await all_of(browser.sign_in() for browser in self.browsers)
            await all_of(tab.load() for tab in self.tabs)
            await all_of(tab.open() for tab in self.tabs)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await all_of((tab.close() for tab in self.tabs), len(self.tabs))
        for browser in (*self.browsers, *self._outsiders):
            browser.network.close()

    # -- work ----------------------------------------------------------------------------------------------------------

    def event(self, tab: Tab, state: str, name: str) -> Event:
        """A new event, which stands in the book."""
        event = Event(tab, state, name, next(self._numbers))
        self.book.events.append(event)
        return event

    def scaled(self, events: int) -> int:
        """How many events are to be sent where a test has so many of them."""
        return round(events * self._events)

    async def work(self, events: int, kinds: Sequence[Kind] = ALL_KINDS, *, at_most: int = ROUND) -> None:
        """Let the tabs send so many events (`scaled`), all tabs at once, each one after the other."""
        left = itertools.repeat(None, min(self.scaled(events), at_most, ROUND))
        await all_of((self._work(tab, kinds, lambda: next(left, self) is None) for tab in self.tabs), len(self.tabs))

    async def work_while(
        self, condition: Callable[[], bool], kinds: Sequence[Kind] = ALL_KINDS, tabs: Sequence[Tab] | None = None
    ) -> None:
        """Let the tabs send events as long as `condition()` holds."""
        await all_of((self._work(tab, kinds, condition) for tab in tabs or self.tabs), len(self.tabs))

    async def _work(self, tab: Tab, kinds: Sequence[Kind], goes_on: Callable[[], bool]) -> None:
        while goes_on():
            await self.do(tab, *self._rng.choice(kinds), once=self._rng.random() < UNREPEATED)

    async def do(self, tab: Tab, state: str, name: str, *, once: bool = False) -> None:
        """Let a tab do one thing; with `once` it may stay unknown whether it was done."""
        event = self.event(tab, state, name)
        try:
            again = await tab.send(event, once=once)
        except (CutOff, Broken) as error:
            if not once or (isinstance(error, Broken) and "with 503" not in str(error)):
                raise
            self.unknown += 1
        else:
            self.book.acknowledge(event, again=again)
            if self._rng.random() < REPEATED:
                await tab.send(event)

    # -- what is there -------------------------------------------------------------------------------------------------

    async def look(self, tab: Tab, worker: Worker) -> dict[str, Seen]:
        """Ask a worker for everything that a tab shows, by class."""
        response = await tab.browser.get(tab.found_path, worker=worker)
        if response.status_code != 200:
            raise Broken(f"{worker.name} does not say what there is: {response.status_code} {response.text}")
        return {
            name: Seen(Found(found["numbers"], found["epoch"], found["version"]), *(found[n] for n in _SHOWN))
            for name, found in response.json().items()
        }

    async def settle(self, within: float = PATIENCE, *, book: bool = True) -> float:
        """Waits until each tab shows what each worker says, and (`book`) the book agrees; the seconds that it took.

        Raises `Broken` where that does not come to be `within` so many seconds, or something went back meanwhile.
        Without the book, as where something may be lost, it may.
        """
        begun = time.monotonic()
        while True:
            try:
                await self.check(book=book)
            except Broken as error:
                if time.monotonic() - begun > within or "went back" in str(error):
                    raise
                await asyncio.sleep(0.02)
            else:
                return time.monotonic() - begun

    async def check(self, *, book: bool = True) -> None:
        """Raises `Broken` where tabs, workers and the book do not agree."""
        for tab in self.tabs:
            tab.raise_what_failed()
            if tab.went_back and book:
                raise Broken(f"a tab of {tab.browser.name} went back: {tab.went_back[:3]}")
        found: dict[str, tuple[Worker, Seen]] = {}
        tabs = [tab for tab in self.tabs if not tab.silent]
        asked = [(tab, worker) for tab in tabs for worker in self.cluster.serving]
        for (tab, worker), states in zip(asked, await all_of(itertools.starmap(self.look, asked)), strict=True):
            for name, seen in states.items():
                first, other = found.setdefault(tab.name_of(name), (worker, seen))
                if not _agree(seen, other):
                    raise Broken(f"{tab.name_of(name)} is {other} to {first.name} and {seen} to {worker.name}")
        if book:
            self.book.check({name: seen.found for name, (_, seen) in found.items()})
        for tab in tabs:
            for name in tab.page.signals:
                self._compare(tab, name, found[tab.name_of(name)][1])

    def _compare(self, tab: Tab, name: str, seen: Seen) -> None:
        where = f"a tab of {tab.browser.name} ({tab.worker.name if tab.worker else 'no stream'}, {tab.opened} opened)"
        signals, view = tab.at(seen.path), tab.views.get(".".join((*seen.path, "shown")))
        if signals != seen.signals:
            raise Broken(
                f"{where} shows {tab.name_of(name)} as {signals}, which is {seen.signals}; it was told "
                f"{tab.history(seen.path)}"
            )
        if view != seen.view:
            raise Broken(f"{where} shows {view!r} for {seen.view!r}")

    async def outsider(self, worker: Worker) -> Tab:
        """A tab of a browser of its own, which has no stream and sends all to that worker."""
        browser = Browser(self.cluster, f"browser of {worker.name}", "outsider")
        self._outsiders.append(browser)
        browser.only = worker
        await browser.sign_in()
        tab = Tab(browser)
        await tab.load()
        return tab

    async def shows(self, state: str, count: int, within: float, tabs: Sequence[Tab] | None = None) -> float:
        """Waits until all tabs show that `count` of a state that all share; the seconds that it took."""
        waiting = set(tabs or self.tabs)

        def come() -> bool:
            waiting.difference_update([tab for tab in waiting if tab.signals[state]["count"] == count])
            return not waiting

        try:
            return await until(come, f"{count} in {state}", within)
        except TimeoutError:
            others = [tab.signals[state]["count"] for tab in waiting]
            raise Broken(f"{len(waiting)} tabs do not show {count} in {state}: {others}") from None

    async def clear(self) -> None:
        """Empties all states, and the book."""
        shared = {tab.name_of(name): (tab, name) for tab in self.tabs for name in tab.page.signals}
        await all_of(tab.send(Event(tab, name, "clear", -1)) for tab, name in shared.values())
        self.book.clear()
        self._numbers = itertools.count(1)

    def forget(self) -> None:
        """Begins a new book: something may be lost, and tabs may have been told so."""
        self.book = Book()
        for tab in self.tabs:
            tab.went_back.clear()

    @property
    def patched_at(self) -> float:
        """When (`time.monotonic`) the last of the tabs was last told anything."""
        return max(tab.patched_at for tab in self.tabs)

    @property
    def refusals(self) -> int:
        return sum(tab.refusals for tab in self.tabs)

    @property
    def opened(self) -> int:
        return sum(tab.opened for tab in self.tabs)

    def __str__(self) -> str:
        """Sum up in a line what happened so far."""
        return (
            f"{self.book.acknowledged} acknowledged, {self.unknown} unknown, {self.refusals} refused for the moment, "
            f"{self.opened} streams of {len(self.tabs)} tabs, {sum(tab.patches for tab in self.tabs)} patches, "
            f"{sum(tab.reloads for tab in self.tabs)} reloads, {sum(len(tab.overtaken) for tab in self.tabs)} overtaken"
        )


_SHOWN = ("path", "signals", "view")


def _agree(one: Seen, other: Seen) -> bool:
    """What was never changed is made by each worker by itself, and has an epoch of its own there."""
    if one.found.version == other.found.version == 1:
        return one[1:] == other[1:]
    return one == other
