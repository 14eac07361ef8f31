"""The worker threads of sync events: who gets one, in a fair order; and none of them holds up the process's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from anyio import CancelScope

from ..exceptions import FastStateError, LockTimeoutError
from .queues import Client, FairQueue
from .workers import call_in_worker

__all__ = ["ADDRESS_THREADS", "EVENT_THREADS", "Job", "Place", "Places", "left_behind", "places_here", "with_left"]

logger = logging.getLogger("faststate")

EVENT_THREADS: Final = 200
"""Sync events, and so worker threads, at one time."""

ADDRESS_THREADS: Final = 150
"""Those of them that all sessions of one address may have at one time: anybody can have many sessions."""

# -- places ------------------------------------------------------------------------------------------------------------


with_left: set[Places] = set()
"""Those that have had a thread which was left behind: mostly none, so that nobody has to look."""


def left_behind(session: Hashable) -> int:
    """How many threads of a session go on with an event that was stopped."""
    return places_here().left_behind[session]


class Place:
    """The right to one worker thread. Lifetime: until it is released, by the thread's return at the latest."""

    __slots__ = ("_client", "_is_left", "_places")

    def __init__(self, places: Places, client: Client) -> None:
        self._places: Places | None = places
        self._client = client
        self._is_left = False

    def leave(self) -> None:
        """Take note that nobody waits for the thread any more."""
        if self._places is not None:
            self._is_left = True
            self._places.left_behind[self._client.session] += 1
            with_left.add(self._places)

    def release(self) -> None:
        """Give the place to the next who waits for one. Harmless when it was released before."""
        places, self._places = self._places, None
        if places is None:
            return
        if self._is_left:
            _count_down(places.left_behind, self._client.session)
            if not places.left_behind:
                with_left.discard(places)
        places._released(self._client)


class _Waiting(NamedTuple):
    client: Client
    given: asyncio.Future[Place]


class Places:
    """The places of one event loop's worker threads. Lifetime: the event loop."""

    def __init__(self) -> None:
        self.left_behind: Counter[Hashable] = Counter()
        """Threads, by session, that go on with an event which was stopped: they count as events under way."""
        self._free = EVENT_THREADS
        self._of_address: Counter[str | None] = Counter()
        self._waiting: FairQueue[_Waiting] = FairQueue()

    async def take(self, client: Client, seconds: float) -> Place:
        """Wait for a place for up to `seconds`: the sessions that wait get one in turn.

        Raises `LockTimeoutError`.
        """
        if self._free and self._may(client):
            return self._take(client)
        waiting = _Waiting(client, asyncio.get_running_loop().create_future())
        self._waiting.push(client, waiting)
        try:
            async with asyncio.timeout(seconds):
                return await waiting.given
        except BaseException as error:
            self._waiting.remove(client, waiting)
            if waiting.given.done() and not waiting.given.cancelled() and waiting.given.exception() is None:
                waiting.given.result().release()  # it was given in the same moment
            if not isinstance(error, TimeoutError):
                raise
            raise LockTimeoutError(
                "all worker threads are busy with other sync events: there was none within the lock_timeout"
            ) from error

    def refuse(self, error: FastStateError) -> None:
        """Tell all who wait that there will be no place for them."""
        while (waiting := self._waiting.pop()) is not None:
            if not waiting.given.done():
                waiting.given.set_exception(error)

    def _may(self, client: Client) -> bool:
        return client.address is None or self._of_address[client.address] < ADDRESS_THREADS

    def _take(self, client: Client) -> Place:
        self._free -= 1
        self._of_address[client.address] += 1
        return Place(self, client)

    def _released(self, client: Client) -> None:
        self._free += 1
        _count_down(self._of_address, client.address)
        while self._free and (waiting := self._waiting.pop(self._may_have)) is not None:
            if not waiting.given.done():
                waiting.given.set_result(self._take(waiting.client))

    def _may_have(self, waiting: _Waiting) -> bool:
        return waiting.given.done() or self._may(waiting.client)


def _count_down(counter: Counter[Any], name: Hashable) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]


_places_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Places] = WeakKeyDictionary()


def places_here() -> Places:
    """The places of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _places_by_loop.get(loop)
    if found is None:
        found = _places_by_loop[loop] = Places()
    return found


class Job:
    """One call in a worker thread, begun when it is made. Lifetime: until the thread returns.

    The thread keeps its `place` until then, whoever waits for the result.
    """

    __slots__ = ("_done", "_error", "_loop", "_place", "_result", "_waiter", "is_left", "name")

    def __init__(self, name: str, place: Place, call: Callable[[], Any]) -> None:
        self.name = name
        self.is_left = False
        """True once nobody waits for the result any more."""
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        call_in_worker(call, self._returned)

    def _returned(self, result: Any, error: BaseException | None) -> None:
        self._place.release()
        self._done = True
        if self.is_left:
            if error is not None:
                failed = "%s was stopped, and has failed later in its thread: %s"
                logger.info(failed, self.name, type(error).__name__)  # its message may quote a value
            return
        self._result, self._error = result, error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """Let the thread go on by itself: what it returns or raises is dropped."""
        if not self._done:
            self.is_left = True
            self._place.leave()

    async def _returned_after_all(self) -> None:
        """Wait for the thread, however often this is cancelled; until it is left, at most."""
        while not (self._done or self.is_left):
            self._waiter = self._loop.create_future()
            # Shielded, or a cancel scope of anyio's would cancel it anew in each turn of the loop.
            with contextlib.suppress(asyncio.CancelledError), CancelScope(shield=True):
                await self._waiter

    async def result(self) -> Any:
        """Wait for the thread, also when this is cancelled: its event's locks are held meanwhile.

        Returns and raises what the call does. Only a job that was left is waited for no more.
        """
        if not self._done:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                if not self.is_left:
                    await self._returned_after_all()
                raise
        if self._error is not None:
            raise self._error
        return self._result
