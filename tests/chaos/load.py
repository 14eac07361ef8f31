"""Visitors who send numbered events, the book kept of what they were told, and lives that end in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol, Self, TypeVar, cast

import httpx

from tests.support.client import Page, message, status

from .server import FastServer

ITEM = "7"
VISITORS = {"ann": "ada", "ben": "ada", "cid": "bob", "dot": "bob"}  # and as whom they sign in
AT_ONCE = 3  # events of one visitor
WORKING_TIME = 0.15  # seconds of load in one life, at most
LIVES_WITHOUT_CLEARING = 10

EVENTS = [
    *[("Debit", "move")] * 3,
    *[(state, "add") for state in ("Journal", "Notes", "Board", "Item")],
    ("Journal", "add_in_two_steps"),
    ("Board", "add_in_two_steps"),
    ("Notes", "add_in_a_thread"),
]
"""What visitors do, each of them as often as the others."""

ALSO = {"move": "Credit", "file": "Board"}
"""Events of two states, and the second one."""


T = TypeVar("T")


class Broken(AssertionError):
    """Raised when the server has broken its promise."""


class Found(NamedTuple):
    """The content of a state, as the server reports it."""

    numbers: list[int]
    epoch: str
    version: int


class Visitor:
    """One browser: its cookies and one page, which it keeps over all restarts. Lifetime: the test."""

    def __init__(self, url: str, name: str, user: str) -> None:
        # No certificates, here as in other tests: they take longer to load than most tests to run.
        self.http = httpx.AsyncClient(base_url=url, verify=False, timeout=20)
        self.user = user
        self._journal = f"Journal of {name}"

    async def arrive(self) -> None:
        """Signs in and opens the page."""
        assert (await self.http.get(f"/enter/{self.user}")).status_code == 200
        self.page = await Page.open(self.http, f"/shop/{ITEM}")
        assert self.page.response.status_code == 200

    def name_of(self, state: str) -> str:
        """Which of the states of a class this visitor's is."""
        return {"Journal": self._journal, "Notes": f"Notes of {self.user}"}.get(state, state)

    async def send(self, state: str, event: str, nonce: str | None = None, **arguments: int) -> None:
        """Sends an event, and returns when it is acknowledged."""
        response = await self.page.send(
            state, event, nonce=nonce, instance_id=ITEM if state == "Item" else None, **arguments
        )
        if status(response) not in (200, 204):
            raise Broken(f"{state}.{event} was refused with {status(response)}: {message(response) or response.text}")

    async def look(self) -> dict[str, Found]:
        """Ask the server for the states that this visitor sees."""
        response = await self.http.get(f"/found/{ITEM}")
        if response.status_code != 200:
            raise Broken(f"what is there is not to be seen: {response.status_code} {response.text}")
        return {self.name_of(state): Found(**found) for state, found in response.json().items()}


class Named(Protocol):
    """Whoever sends events."""

    def name_of(self, state: str) -> str:
        """Which of the states of a class is its own."""


@dataclass(eq=False, slots=True)
class Event:
    """A numbered event. `answered` is None as long as nobody knows, and False when it had to be sent again."""

    visitor: Named
    state: str
    name: str
    number: int
    nonce: str = field(default_factory=lambda: secrets.token_hex(12))
    answered: bool | None = None

    @property
    def places(self) -> list[tuple[str, int]]:
        """The numbers that it adds, and the states that it adds them to."""
        places = [(self.visitor.name_of(self.state), self.number)]
        if self.name == "add_in_two_steps":
            places.append((places[0][0], -self.number))
        if self.name in ALSO:
            places.append((ALSO[self.name], self.number))
        return places

    def certain(self) -> list[tuple[str, int]]:
        """The part of it that has to be there. A second step need not be, when the process died between the two."""
        if self.answered is None:
            return []
        if self.name == "add_in_two_steps" and not self.answered:
            return self.places[:1]
        return self.places


class Book:
    """Everything sent and answered since the states were cleared, to compare with what is found."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.acknowledged = 0
        self._seen: dict[str, Found] = {}
        self._since: Counter[str] = Counter()  # commits acknowledged since then, by state

    def open_events(self) -> list[Event]:
        """Those of which nobody knows whether they were done."""
        return [event for event in self.events if event.answered is None]

    def acknowledge(self, event: Event, *, again: bool = False) -> None:
        """Notes an answer, to an event that was sent once or `again`."""
        event.answered = not again
        self.acknowledged += 1
        if not again:
            self._since.update(name for name, _ in event.places)

    def restarted(self) -> None:
        """Lets states have new epochs, as they have where their engine cannot know whether it has lost something."""
        self._seen.clear()
        self._since.clear()

    def clear(self) -> None:
        """Forgets the events: their numbers are cleared away."""
        self.events.clear()
        self._since.clear()

    def check(self, found: Mapping[str, Found]) -> None:
        """Raises `Broken` where a number is missing, is there twice or was never sent, or a version went back."""
        possible: dict[str, set[int]] = {name: set() for name in found}
        certain: dict[str, set[int]] = {name: set() for name in found}
        for event in self.events:
            for name, number in event.places:
                possible[name].add(number)
            for name, number in event.certain():
                certain[name].add(number)
        for name, (numbers, epoch, version) in found.items():
            there = set(numbers)
            if missing := certain[name] - there:
                raise Broken(f"{name} has lost what was acknowledged: {sorted(missing)}")
            if len(there) < len(numbers):
                raise Broken(f"{name} has twice: {[n for n, count in Counter(numbers).items() if count > 1]}")
            if strange := there - possible[name]:
                raise Broken(f"{name} has what was cleared away, or never sent: {sorted(strange)}")
            before = self._seen.get(name)
            if before is not None and before.version > 1 and before.epoch != epoch:
                raise Broken(f"{name} began a new life: {before.epoch} has become {epoch}")
            floor = (before.version if before is not None else 1) + self._since[name]
            if version < floor:
                raise Broken(f"{name} is at version {version}, after at least {floor}")
        if found["Debit"].numbers != found["Credit"].numbers:
            raise Broken(f"an event of two states was done by half: {found['Debit']}, {found['Credit']}")
        self._seen = dict(found)
        self._since.clear()


async def all_of(coroutines: Iterable[Awaitable[T]], at_once: int = 32) -> list[T]:
    """The results of all, of which `at_once` run at a time; raises the first exception, when all have ended."""
    turn = asyncio.Semaphore(at_once)

    async def one(coroutine: Awaitable[T]) -> T:
        async with turn:
            return await coroutine

    results = await asyncio.gather(*map(one, coroutines), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class Server(Protocol):
    """The server under load."""

    url: str

    @property
    def is_dead(self) -> bool:
        """True if it has been told to end, in whatever way."""

    def output(self) -> str:
        """Everything it has printed."""


class Load:
    """Visitors at work on a server that may end, and what of their work is there then. Lifetime: the test.

    `cut` events were under way in its ends, of which the next process found `stored`.
    """

    def __init__(self, server: Server, rng: Random) -> None:
        self.book = Book()
        self.cut = self.stored = 0
        self.visitors = [Visitor(server.url, name, user) for name, user in VISITORS.items()]
        self._server = server
        self._rng = rng
        self._numbers = itertools.count(1)
        self._judged: set[Event] = set()  # of the cut events, those that were looked for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for visitor in self.visitors:
            await visitor.http.aclose()

    async def arrive(self) -> None:
        """Let the visitors sign in and open their pages, which they do once."""
        await all_of(visitor.arrive() for visitor in self.visitors)

    async def work(self, *, to_the_last: bool = False) -> None:
        """Let them send events until the server is told to end, or (`to_the_last`) until it is gone.

        Raises `Broken` when it goes by itself.
        """
        await all_of(self._add_until_the_end(visitor, to_the_last) for visitor in self.visitors * AT_ONCE)

    async def settle(self) -> None:
        """Compares what is there with the book, has what was cut be done after all, and compares again.

        Raises `Broken`, and `httpx.TransportError` when the server is killed meanwhile.
        """
        found = await self._look()
        self.book.check(found)
        for event in self.book.open_events():
            if event not in self._judged:
                self._judged.add(event)
                self.cut += 1
                self.stored += event.number in found[event.places[0][0]].numbers
        await all_of(self._deliver(event, again=True) for event in self.book.open_events())
        self.book.check(await self._look())

    async def clear(self) -> None:
        """Empties all states, and the book."""
        ann, *_, dot = self.visitors
        for visitor in self.visitors:
            await visitor.send("Journal", "clear")
        for visitor, state in ((ann, "Notes"), (dot, "Notes"), (ann, "Board"), (ann, "Item"), (ann, "Debit")):
            await visitor.send(state, "clear")
        await ann.send("Credit", "clear")
        self.book.clear()
        self._judged.clear()

    async def _look(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for seen in await all_of(visitor.look() for visitor in self.visitors):
            for name, value in seen.items():
                if found.setdefault(name, value) != value:
                    raise Broken(f"{name} is {found[name]} to one and {value} to another")
        return found

    async def _add_until_the_end(self, visitor: Visitor, to_the_last: bool) -> None:
        while to_the_last or not self._server.is_dead:
            state, name = self._rng.choice(EVENTS)
            event = Event(visitor, state, name, next(self._numbers))
            self.book.events.append(event)
            try:
                await self._deliver(event)
            except httpx.TransportError:
                self.refuse_other_deaths()
                return

    async def _deliver(self, event: Event, *, again: bool = False) -> None:
        visitor = cast(Visitor, event.visitor)
        await visitor.send(event.state, event.name, event.nonce, number=event.number)
        self.book.acknowledge(event, again=again)

    def refuse_other_deaths(self) -> None:
        """Raises `Broken` where the server has ended without having been told to."""
        if not self._server.is_dead:
            raise Broken(f"the server fell silent, and nobody had ended it:\n{self._server.output()}")


class Storm(Load):
    """Load on a server that is killed again and again: `kills` times so far."""

    def __init__(self, server: FastServer, rng: Random) -> None:
        super().__init__(server, rng)
        self.server = server
        self.kills = 0

    async def rage(self, kills: int) -> None:
        """Kills the server so many times, checks after each, and once more at the end. Raises `Broken`."""
        self.server.start()
        await self.server.listening()
        await self.arrive()
        self.server.kill()
        while self.kills < kills:
            await self._live(is_to_clear=self.kills % LIVES_WITHOUT_CLEARING == 0)
            self.kills += 1
        self.server.start()
        await self.server.listening()
        await self.settle()

    async def _live(self, is_to_clear: bool) -> None:
        """One life, to its violent end: at its beginning, while it is asked what it finds, or at work."""
        end = "at work" if is_to_clear else self._rng.choices(["at once", "early", "at work"], [1, 2, 7])[0]
        loop = asyncio.get_running_loop()
        self.server.start()
        fuse = None
        try:
            if end == "at once":
                await asyncio.sleep(self._rng.uniform(0, 0.08))
                return
            await self.server.listening()
            if end == "early":
                fuse = loop.call_later(self._rng.uniform(0, 0.04), self.server.kill)
            try:
                await self.settle()
                if is_to_clear:
                    await self.clear()
                if fuse is None:
                    fuse = loop.call_later(self._rng.uniform(0, WORKING_TIME), self.server.kill)
                await self.work()
            except httpx.TransportError:
                self.refuse_other_deaths()
        finally:
            if fuse is not None:
                fuse.cancel()
            self.server.kill()
