"""Sync events in worker threads: how many run at one time, and in what order they get their thread."""

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

logger = logging.getLogger("faststate")

EVENT_THREADS: Final = 200
"""Most sync events, and so worker threads, at one time."""

ADDRESS_THREADS: Final = 150
"""Most of them for all sessions of one address: anybody can have many sessions."""

# -- places ------------------------------------------------------------------------------------------------------------


places_with_left: set[Places] = set()
"""Places of loops on which an event was left to run on. Mostly empty: to look here first saves each event 0.9 µs."""


def left_behind(session: Hashable) -> int:
    """Return how many threads of a session still run an event that was stopped."""
    return places_here().left_behind[session]


class Place:
    """The right to use one worker thread. Lifetime: until it is released, at the latest when the thread returns."""

    def __init__(self, places: Places, client: Client) -> None:
        self._places: Places | None = places
        self._client = client
        self._is_left = False

    def leave(self) -> None:
        """Note that nobody waits for the thread any more."""
        if self._places is not None:
            self._is_left = True
            self._places.left_behind[self._client.session] += 1
            places_with_left.add(self._places)

    def release(self) -> None:
        """Pass the place on to the next client that waits. Releasing it twice is harmless."""
        places, self._places = self._places, None
        if places is None:
            return
        if self._is_left:
            _count_down(places.left_behind, self._client.session)
            if not places.left_behind:
                places_with_left.discard(places)
        places._released(self._client)


class PlaceRequest(NamedTuple):
    """A client that waits for a place. Lifetime: until it is given one, or gives up."""

    client: Client
    given: asyncio.Future[Place]


class Places:
    """The places in worker threads for one event loop. Lifetime: the event loop."""

    def __init__(self) -> None:
        self.left_behind: Counter[Hashable] = Counter()
        """The threads, by session, that still run an event which was stopped. They count as running events."""
        self._free = EVENT_THREADS
        self._of_address: Counter[str | None] = Counter()
        self._waiting: FairQueue[PlaceRequest] = FairQueue()

    async def take(self, client: Client, seconds: float) -> Place:
        """Wait for a place. Clients that wait get theirs in turn. Raises `LockTimeoutError` after `seconds`."""
        if self._free and self._may(client):
            return self._take(client)
        waiting = PlaceRequest(client, asyncio.get_running_loop().create_future())
        self._waiting.push(client, waiting)
        try:
            async with asyncio.timeout(seconds):
                return await waiting.given
        except BaseException as error:
            self._waiting.remove(client, waiting)
            if waiting.given.done() and not waiting.given.cancelled() and waiting.given.exception() is None:
                waiting.given.result().release()  # it was given at this very moment
            if not isinstance(error, TimeoutError):
                raise
            raise LockTimeoutError(
                "all worker threads are busy with other sync events: there was none within the lock_timeout"
            ) from error

    def refuse(self, error: FastStateError) -> None:
        """Refuse a place to all who wait, with this error."""
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

    def _may_have(self, waiting: PlaceRequest) -> bool:
        return waiting.given.done() or self._may(waiting.client)


def _count_down(counter: Counter[Any], name: Hashable) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]


_places_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Places] = WeakKeyDictionary()


def places_here() -> Places:
    """Return the places of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _places_by_loop.get(loop)
    if found is None:
        found = _places_by_loop[loop] = Places()
    return found


class Job:
    """One call in a worker thread. It begins when the job is made. Lifetime: until the thread returns.

    The thread keeps its `place` until then, even if nobody waits for the result.
    """

    def __init__(self, name: str, place: Place, call: Callable[[], Any]) -> None:
        self.name = name
        self.is_left = False
        """True if nobody waits for the result any more."""
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
                logger.info(failed, self.name, type(error).__name__)  # without its message, which may quote a value
            return
        self._result, self._error = result, error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """Let the thread run on alone. Its result or error is dropped."""
        if not self._done:
            self.is_left = True
            self._place.leave()

    async def result(self) -> Any:
        """Wait for the thread, and return or raise what the call does.

        If this is cancelled, wait on, since the locks of the event must be held as long as the thread runs. Only a job
        that was left is not waited for.
        """
        if not self._done:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                while not (self._done or self.is_left):
                    self._waiter = self._loop.create_future()
                    # Shielded: a cancel scope of anyio would cancel it again in each turn of the loop.
                    with contextlib.suppress(asyncio.CancelledError), CancelScope(shield=True):
                        await self._waiter
                raise
        if self._error is not None:
            raise self._error
        return self._result
