"""The memory store: states end with the process. For development, for tests, and for states that need not survive."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from ..scopes import Version
from .base import EXPIRED_KEPT, StateStore, Stored, Write, check_version, expiry

PURGE_PORTION: Final = 100
"""Most expired entries that one write drops. A write adds few entries, so the store never falls behind, and no write
has to drop all that expired during a quiet night."""


class _Entry(NamedTuple):
    version: Version
    data: bytes
    expires: float | None
    group: str | None


class MemoryStore(StateStore):
    """States as bytes in this process. Lifetime: the object; `close` loses nothing. See `StateStore` for the methods.

    `clock` returns seconds since the epoch. No method can be interrupted. The store can be used from several threads
    and event loops, and by several providers one after the other.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._groups: dict[str, dict[str, None]] = {}  # the keys of each group, in the order of writing
        self._due: list[tuple[float, str]] = []  # a heap; an entry that was touched or written is in it again

    def __len__(self) -> int:
        return len(self._entries)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def load(self, key: str) -> Stored | None:
        """Return what is stored under `key`, or None."""
        with self._lock:
            return self._stored([key], self._clock()).get(key)

    async def group(self, name: str) -> Mapping[str, Stored]:
        with self._lock:
            return self._stored(self._groups.get(name, ()), self._clock())

    async def save(self, write: Write) -> None:
        await self.save_many([write])

    async def save_many(self, writes: Sequence[Write]) -> None:
        with self._lock:
            now = self._clock()
            for write in writes:
                entry = self._entries.get(write.key)
                check_version(write, entry and entry.version, entry is not None and not _is_live(entry, now))
            for write in writes:
                self._drop(write.key)
                if write.data is not None:
                    self._put(write.key, _Entry(write.version, write.data, expiry(write.ttl, now), write.group))
            self._purge(now)

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        with self._lock:
            now = self._clock()
            for key, ttl in ttls.items():
                entry = self._entries.get(key)
                if entry is not None:
                    self._put(key, entry._replace(expires=expiry(ttl, now)))
            self._purge(now)

    async def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._drop(key)

    def _stored(self, keys: Iterable[str], now: float) -> dict[str, Stored]:
        entries = ((key, self._entries.get(key)) for key in keys)
        return {
            key: Stored(entry.version, entry.data, None if entry.expires is None else entry.expires - now)
            for key, entry in entries
            if entry is not None and _is_live(entry, now)
        }

    def _put(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        if entry.group is not None:
            self._groups.setdefault(entry.group, {})[key] = None
        if entry.expires is not None:
            heapq.heappush(self._due, (entry.expires, key))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.group is not None:
            keys = self._groups[entry.group]
            del keys[key]
            if not keys:
                del self._groups[entry.group]

    def _purge(self, now: float) -> None:
        """Drop what expired long ago. The cost is that of what is dropped; the heap stays within twice the entries."""
        for _ in range(PURGE_PORTION):
            if not self._due or self._due[0][0] > now - EXPIRED_KEPT:
                break
            expires, key = heapq.heappop(self._due)
            entry = self._entries.get(key)
            if entry is not None and entry.expires == expires:
                self._drop(key)
        if len(self._due) > 2 * len(self._entries) + PURGE_PORTION:
            self._due = [(e.expires, key) for key, e in self._entries.items() if e.expires is not None]
            heapq.heapify(self._due)


def _is_live(entry: _Entry, now: float) -> bool:
    return entry.expires is None or entry.expires > now
