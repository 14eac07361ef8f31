"""Locks: one transaction at a time per state, and no endless wait; gates before a session's commits."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ..exceptions import LockTimeoutError
from ..scheduling.loops import call_on, running_loop, settle
from ..scheduling.queues import Client, FairQueue
from .entries import Entry, Waiter
from .protocols import ClientFinder, Cluster


class Holder(NamedTuple):
    """The holder of locks, on whose behalf the current code runs. `task` holds them; None for a thread of its own."""

    identity: object
    task: asyncio.Task[Any] | None


current_holder: ContextVar[Holder | None] = ContextVar("faststate_lock_holder", default=None)


def identity_here() -> object | None:
    """Return the identity of the holder whose locks the current code may use, or None.

    A task that was started inside an event inherits its context, but may wait for the event's lock: it is not a holder.
    """
    holder = current_holder.get()
    if holder is None or holder.task is None:
        return holder.identity if holder is not None else None
    try:
        is_holder = asyncio.current_task() is holder.task
    except RuntimeError:  # a thread that the event waits for
        is_holder = True
    return holder.identity if is_holder else None


class _Turn:
    """The turn at a state: it goes to the sessions one after the other. Lifetime: while anybody has it or waits."""

    __slots__ = ("progressed", "waiting")

    def __init__(self) -> None:
        self.waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self.progressed = -math.inf
        """When (the loop's time) an event last ran that had the turn."""

    async def wait(self, given: asyncio.Future[None], client: Client, seconds: float) -> float:
        """Wait until the turn is `given`; return since when (the loop's time) nobody else has had it.

        Raises `TimeoutError` when no event has run for `seconds`.
        """
        loop = given.get_loop()
        came = loop.time()
        self.waiting.push(client, given)
        while not given.done():
            left = max(came, self.progressed) + seconds - loop.time()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait([given], timeout=left)
        return max(came, self.progressed)

    def give_on(self, *, has_run: bool) -> bool:
        """Give the turn to the next; False if there is none. `has_run` says whether the event before has run."""
        if has_run:
            self.progressed = asyncio.get_running_loop().time()
        while (given := self.waiting.pop()) is not None:
            if not given.done():
                given.set_result(None)
                return True
        return False


class Locks:
    """The locks of all states of a process. Lifetime: the registry.

    `timeout` is in seconds. `clients` says who waits: the sessions get a lock in turn. A state's lock in the `cluster`
    is released with it.
    """

    def __init__(self, timeout: float, clients: ClientFinder, cluster: Cluster) -> None:
        self.timeout = timeout
        self.waiting: dict[object, Entry] = {}
        self.client = clients.client
        self._cluster = cluster
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Turn]] = WeakKeyDictionary()

    def take(self, entry: Entry, owner: object) -> bool:
        """Take the state's lock for `owner` if it is free; False if not."""
        if entry.owner is not None:
            return False
        entry.owner = owner
        return True

    async def acquire(self, entry: Entry, owner: object, until: float | None = None) -> None:
        """Take the state's lock for `owner`. Waiting sessions get it in turn, the events of a session in their order.

        Raises `LockTimeoutError` after `timeout` seconds, or at `until` (the loop's time), and at once if the wait
        could never end: `owner` holds the lock already, or its holder waits for one of `owner`'s.
        """
        if self.take(entry, owner):
            return
        self._refuse_deadlock(entry, owner)
        loop, client = asyncio.get_running_loop(), self.client()
        waiter = Waiter(owner, loop.create_future())
        if entry.waiting is None:
            entry.waiting = FairQueue()
        entry.waiting.push(client, waiter)
        self.waiting[owner] = entry
        try:
            async with asyncio.timeout_at(loop.time() + self.timeout if until is None else until):
                await waiter.given
        except BaseException as error:
            self.waiting.pop(owner, None)
            if entry.owner is owner:
                self.release(entry)  # the lock was given in the same moment
            else:
                entry.waiting.remove(client, waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise LockTimeoutError(
                f"{entry.identifier.key} was locked by another event for {self.timeout:g} s"
            ) from error

    def _refuse_deadlock(self, entry: Entry, owner: object) -> None:
        seen = entry
        for _ in range(len(self.waiting) + 1):
            if seen.owner is owner:
                raise LockTimeoutError(
                    f"waiting for {entry.identifier.key} would never end: "
                    + (
                        "this transaction holds it already; use the state that it gave you"
                        if seen is entry
                        else f"its holder waits for {seen.identifier.key}, which this transaction holds; "
                        "take both in one event or in one order"
                    )
                )
            if seen.owner is None or (after := self.waiting.get(seen.owner)) is None:
                return
            seen = after

    def release(self, entry: Entry) -> None:
        """Release the lock, and give it to the next who waits for it."""
        if entry.shared.hold is not None:
            self._cluster.release(entry)
        entry.owner = None
        if entry.waiting:
            self._hand_on(entry)

    def _hand_on(self, entry: Entry) -> None:
        while entry.waiting and (waiter := entry.waiting.pop()) is not None:
            owner, given = waiter
            loop = given.get_loop()
            if given.done() or loop.is_closed():
                continue
            self.waiting.pop(owner, None)
            entry.owner = owner  # from here on, so that nobody overtakes it
            if loop is running_loop():
                given.set_result(None)
            else:
                loop.call_soon_threadsafe(settle, given)
            return
        if entry.shared.hold is not None:
            self._cluster.release(entry)  # it was kept for those who waited, and all of them have gone

    async def take_turn(
        self, entries: Iterable[Entry], until: contextlib.ExitStack, has_run: Callable[[], bool]
    ) -> float:
        """Wait until nobody else has the turn at one of these states, and have it until `until` is closed.

        A turn is not a lock: it keeps those who wait for a lock from occupying what all states share. `has_run` is
        called when the turn is given on. Returns since when (the loop's time) nobody else has had it. Raises
        `LockTimeoutError` when no other event has run for `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        turns = self._turns.setdefault(loop, {})
        since = loop.time()

        def end(key: str, *, ran: Callable[[], bool] = has_run) -> None:
            if not turns[key].give_on(has_run=ran()):
                del turns[key]

        for key in sorted({entry.shared_key for entry in entries}):
            if (turn := turns.get(key)) is None:
                turns[key] = _Turn()
            else:
                given, client = loop.create_future(), self.client()
                try:
                    since = await turn.wait(given, client, self.timeout)
                except BaseException as error:
                    if given.done():  # and cancelled in the same moment
                        end(key, ran=lambda: False)
                    else:
                        turn.waiting.remove(client, given)
                    if isinstance(error, TimeoutError):
                        raise LockTimeoutError(f"{key} was kept by another event for {self.timeout:g} s") from error
                    raise
            until.callback(end, key)
        return since

    @contextlib.asynccontextmanager
    async def answer_in_time(self, what: str) -> AsyncIterator[None]:
        """Limit the app's own code that runs while locks are held. Raises `LockTimeoutError` after `timeout`."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except TimeoutError as error:
            if isinstance(error, LockTimeoutError):
                raise
            raise LockTimeoutError(f"{what} took more than {self.timeout:g} s") from error

    @contextlib.asynccontextmanager
    async def locked(self, entries: Iterable[Entry], owner: object | None = None) -> AsyncIterator[None]:
        """Hold the locks of some states for `owner`, so that nothing is committed. Raises `LockTimeoutError`."""
        owner = owner or identity_here() or object()
        held = []
        try:
            # The current event may hold some of them already.
            unique = {entry.shared_key: entry for entry in entries if entry.owner is not owner}
            for key in sorted(unique):
                await self.acquire(unique[key], owner)
                held.append(unique[key])
            yield
        finally:
            for entry in held:
                self.release(entry)


class SessionGates:
    """Keeps the commits of a session's states apart from the end or the move of the session. Lifetime: the registry.

    Commits of one session do not wait for each other. `timeout` is in seconds. Usable from several event loops.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._inside: dict[str, int] = {}
        self._closed: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def all_open(self) -> bool:
        """True if no session is being ended or moved."""
        return not self._closed

    def is_open(self, sessions: Iterable[str]) -> bool:
        """True if none of these sessions is being ended or moved."""
        return self._closed.isdisjoint(sessions)

    async def opened(self, session_id: str) -> None:
        """Wait until the session is not being ended or moved. Raises `LockTimeoutError`."""
        while session_id in self._closed:
            await self._wait(session_id)

    @contextlib.contextmanager
    def inside(self, sessions: Iterable[str]) -> Iterator[None]:
        """Keep the gates of these sessions open, which are open now."""
        passed = list(sessions)
        for session_id in passed:
            self._inside[session_id] = self._inside.get(session_id, 0) + 1
        try:
            yield
        finally:
            for session_id in passed:
                self._inside[session_id] -= 1
                if not self._inside[session_id]:
                    del self._inside[session_id]
                    self._wake(session_id)

    @contextlib.asynccontextmanager
    async def closed(self, session_id: str) -> AsyncIterator[None]:
        """Wait for the commits of the session's states, and let none begin. Raises `LockTimeoutError`."""
        await self.opened(session_id)
        self._closed.add(session_id)
        try:
            while session_id in self._inside:
                await self._wait(session_id)
            yield
        finally:
            self._closed.discard(session_id)
            self._wake(session_id)

    async def _wait(self, session_id: str) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session_id, []).append(woken)
        try:
            async with asyncio.timeout(self.timeout):
                await woken
        except TimeoutError as error:
            raise LockTimeoutError(f"a session was being signed in or out for {self.timeout:g} s") from error

    def _wake(self, session_id: str) -> None:
        for woken in self._waiting.pop(session_id, ()):
            call_on(woken.get_loop(), settle, woken)
