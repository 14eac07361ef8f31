"""Sync events: their turn at their states, and their worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from ..exceptions import FastStateError
from ..scheduling.threads import Job, Place, places_here
from .entries import Entry
from .locks import identity_here
from .registry import StateRegistry
from .transaction import Transaction

__all__ = ["EventThread"]


class EventThread:
    """The worker thread of a sync event: its turn at its states, then its place. Lifetime: the event.

    An event takes its place before its locks: a holder of locks must not wait for places that others keep while they
    wait for the locks. And it takes its turn at its states before its place: of the events that wait for one busy
    state, only one may keep a place from other states' events. An event in another one's body, which has locks already,
    waits for no turn.
    """

    __slots__ = ("_has_run", "_job", "_place", "_turns", "until")

    def __init__(self) -> None:
        self._turns = contextlib.ExitStack()
        self._place: Place | None = None
        self._job: Job | None = None
        self._has_run = False
        self.until = 0.0
        """When (the loop's time) it gives up waiting for its locks; its wait for a thread counts."""

    @classmethod
    async def enter(cls, registry: StateRegistry, entries: Sequence[Entry]) -> EventThread:
        """Wait for the turn, then for a place. Raises `LockTimeoutError`."""
        made, locks, now = cls(), registry.locks, asyncio.get_running_loop().time
        try:
            since = now()
            if identity_here() is None:
                since = await locks.take_turn(entries, made._turns, lambda: made._has_run)
            made.until = since + locks.timeout
            made._place = await places_here().take(locks.client(), made.until - now())
        except BaseException:
            made.close()
            raise
        return made

    async def result_of(self, name: str, call: Callable[[], Any]) -> Any:
        """Make the call in a worker thread, and return its result."""
        self._has_run = True
        self._job = Job(name, cast(Place, self._place), call)
        self._place = None  # the job's from here on, until its thread returns
        result = await self._job.result()
        # An async method under a decorator that hides it returns an awaitable.
        return await result if inspect.isawaitable(result) else result

    def abandon(self, transaction: Transaction, error: FastStateError) -> None:
        """Roll the event back, and let its thread go on alone: it keeps its place until it returns."""
        transaction.abandon(error)
        self._turns.close()
        if self._job is not None:
            self._job.leave()

    def close(self) -> None:
        """Give back the turn and the place, if the event still has them."""
        self._turns.close()
        if self._place is not None:
            self._place.release()
            self._place = None
