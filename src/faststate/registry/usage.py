"""Usage: tell the store which of its states are in use, so that none of them expires."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from .entries import Entry, LiveEntries, finite
from .persistence import persistence_errors
from .protocols import Cluster

SWEEP_INTERVAL: Final = 15.0
"""Seconds between two sweeps. Each costs what has expired, so the number only says how late a drop may be."""

TOUCH_SHARE: Final = 20
"""A stored state that is only read has its expiry moved when a twentieth of its idle time is over: otherwise each read
would be a write. After a crash it may expire too early by as much."""

TOUCH_AFTER_AT_MOST: Final = 1_800.0
"""Seconds after which it is moved at the latest: before a store may forget what is expired (`EXPIRED_KEPT`)."""


class Usage:
    """Notes the use of stored states, and tells the store from time to time. Lifetime: the registry.

    `clock` returns seconds; `store_timeout` is in seconds.
    """

    def __init__(self, live: LiveEntries, cluster: Cluster, clock: Callable[[], float], store_timeout: float) -> None:
        self._live = live
        self._cluster = cluster
        self._clock = clock
        self._store_timeout = store_timeout
        self._used: dict[str, Entry] = {}  # stored states that were used since the store was told so, by key
        # Per period in which the store is to be told of their use: the keys of watched states, and when that is next.
        self._watched: dict[float, OrderedDict[str, float]] = {}

    def __contains__(self, key: object) -> bool:
        """True if the store has yet to be told that the state with this key was used."""
        return key in self._used

    def note(self, entry: Entry) -> None:
        """Tell the store with the next sweep until when it has to keep a state."""
        if entry.in_store:
            entry.touched = entry.used
            self._used[entry.identifier.key] = entry

    def note_unless_told(self, entry: Entry) -> None:
        """As `note`, if the state was used since the store was told."""
        if entry.stored is not None and entry.used > entry.touched:
            self.note(entry)

    def end(self, entry: Entry) -> None:
        """Tell the store with the next sweep that it need not keep a state any longer."""
        self._used[entry.identifier.key] = entry
        entry.ttl = 0.0
        self._cluster.shortened(entry)

    def forget(self, key: str) -> None:
        """Tell the store nothing of a state."""
        self._used.pop(key, None)

    def watch(self, entry: Entry) -> None:
        """Tell the store now and then that a state is in use: pages watch it."""
        if entry.in_store and entry.ttl != math.inf:
            period = touch_after(entry.ttl)
            self._watched.setdefault(period, OrderedDict())[entry.identifier.key] = self._clock() + period

    def unwatch(self, key: str) -> None:
        """Undo `watch`."""
        for keys in self._watched.values():  # one for each idle time, and so few
            keys.pop(key, None)

    def use_watched(self, now: float, touch: Callable[[Entry], None]) -> None:
        """`touch` those watched states of which the store was not told for long."""
        for period, keys in list(self._watched.items()):
            while keys:
                key, due = next(iter(keys.items()))
                if due > now:
                    break
                keys[key] = now + period
                keys.move_to_end(key)
                entry = self._live[key]
                touch(entry)
                if entry.stored is not None and now - entry.touched >= period:
                    self.note(entry)
            if not keys:
                del self._watched[period]

    async def tell_store(self, keys: Iterable[str] | None = None) -> None:
        """Tell the store which of its states were used since it was told last; only those with these keys, if given.

        Raises `PersistenceError`.
        """
        if self._cluster.store is None or not self._used:
            return
        used = {key: self._used.pop(key) for key in (list(self._used) if keys is None else keys) if key in self._used}
        now = self._clock()
        ttls = {key: finite(max(entry.used + entry.ttl - now, 0.0)) for key, entry in used.items() if entry.end is None}
        try:
            async with persistence_errors("the store could not be told what is in use", self._store_timeout):
                await self._cluster.tell_use(ttls, used)
        except BaseException:
            # Of a state that was loaded again meanwhile, the new entry's use counts.
            self._used = {**{key: self._live.get(key, entry) for key, entry in used.items()}, **self._used}
            raise


def touch_after(ttl: float) -> float:
    """Seconds after which the store is told again that a state of this idle time is in use."""
    return max(SWEEP_INTERVAL, min(ttl / TOUCH_SHARE, TOUCH_AFTER_AT_MOST)) if ttl != math.inf else sys.float_info.max


def told_at(now: float, ttl: float, left: float | None) -> float:
    """When the store was told last of a state's use, which has `left` seconds there until its end; -inf for never."""
    if left is None or ttl == math.inf:
        return now if left is None and ttl == math.inf else -math.inf  # the class has another idle time by now
    return now - (ttl - left)
