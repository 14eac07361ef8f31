"""Locks: one transaction at a time per state, and no wait that could never end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from .entries import Entry
from .exceptions import LockTimeoutError

__all__ = ["Locks"]


class Locks:
    """The locks of all states of a process. Lifetime: the registry. `timeout` is in seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.waiting: dict[object, Entry] = {}

    async def acquire(self, entry: Entry, owner: object) -> None:
        """Takes the state's lock for `owner`.

        Raises `LockTimeoutError` after `timeout` seconds, and at once where waiting could never end: `owner`
        holds the lock already, or whoever holds it waits for one of `owner`'s.
        """
        self._refuse_deadlock(entry, owner)
        loop = asyncio.get_running_loop()
        if entry.loop is not loop and not entry.lock.locked():
            # asyncio's locks belong to the loop that first waited on them; a script's loop may have come before.
            entry.lock, entry.loop = asyncio.Lock(), loop
        self.waiting[owner] = entry
        try:
            async with asyncio.timeout(self.timeout):
                await entry.lock.acquire()
        except TimeoutError as error:
            raise LockTimeoutError(
                f"{entry.identifier.key} was locked by another event for {self.timeout:g} s"
            ) from error
        finally:
            self.waiting.pop(owner, None)
        entry.owner = owner

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
        """Gives the lock back."""
        entry.owner = None
        entry.lock.release()

    @contextlib.asynccontextmanager
    async def answer_in_time(self, what: str) -> AsyncIterator[None]:
        """Gives the app's own code, run while locks are held, as long as a lock may take; else `LockTimeoutError`."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except TimeoutError as error:
            if isinstance(error, LockTimeoutError):
                raise
            raise LockTimeoutError(f"{what} took more than {self.timeout:g} s") from error

    @contextlib.asynccontextmanager
    async def locked(self, entries: Iterable[Entry]) -> AsyncIterator[None]:
        """Holds the locks of some states, so that nothing is committed to them. Raises `LockTimeoutError`."""
        owner = object()
        held = []
        try:
            unique = {entry.identifier.key: entry for entry in entries}
            for key in sorted(unique):
                await self.acquire(unique[key], owner)
                held.append(unique[key])
            yield
        finally:
            for entry in held:
                self.release(entry)
