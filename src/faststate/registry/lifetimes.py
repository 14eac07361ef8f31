"""Lifetimes: how long a state stays in memory. Idle time, watched states, eviction where memory is full, the sweep."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Final, NamedTuple

from ..exceptions import LimitError
from ..scopes import StateScope
from .entries import CHANGED, RECOVERABLE, UNTOUCHED, Entry, LiveEntries, idle_time
from .eviction import CROWD, ChangedStates, is_public
from .protocols import ClientFinder, Cluster, Followers
from .usage import SWEEP_INTERVAL, Usage, touch_after

logger = logging.getLogger("faststate")

LOOKED_AT: Final = 64
"""States that one eviction looks at before it gives up: those that are in use may be many."""

SHARE_OF_ADDRESS: Final = 10
"""Visitors from one public address may have changed one in so many of all states, unless an option says otherwise."""

CROWDS: Final = 20
"""One in so many of all states makes an address crowded, where that is less than `CROWD`."""

WARN_AFTER: Final = 60.0
"""Seconds between two warnings of the same kind."""

WATCHED: Final = (-1.0, RECOVERABLE)
"""The order of states that pages watch: they are in no line of those that wait to be idle for long enough."""


class Limits(NamedTuple):
    """How many states memory holds. Lifetime: the registry.

    One session has at most `per_session` states: beyond that its oldest unwatched TEMPORARY one gives way, or
    `LimitError` is raised. Beyond `in_all` some states leave memory that no page shows: first those that can be loaded
    or made again, then those that nobody has changed, the longest unused first; then those that visitors have changed,
    as `ChangedStates` says. Visitors from one address have changed at most `per_address`; None is a tenth of all for
    public addresses, and no limit for private ones.
    """

    in_all: int
    per_session: int
    per_address: int | None

    def of_address(self, address: str) -> int | None:
        """How many changed states visitors from this address may have; None for no limit."""
        if self.per_address is None and is_public(address):
            return max(1, self.in_all // SHARE_OF_ADDRESS)
        return self.per_address


class Lifetimes:
    """Keeps states in memory while they are used, and drops them afterwards. Lifetime: the registry.

    `expired` counts the states that were dropped when their idle time was over, `evicted` those that gave way to
    others. `clock` returns seconds.
    """

    def __init__(
        self,
        live: LiveEntries,
        usage: Usage,
        limits: Limits,
        followers: Followers,
        clients: ClientFinder,
        cluster: Cluster,
        clock: Callable[[], float],
    ) -> None:
        self.expired = 0
        self.evicted = 0
        self.limits = limits
        self.changed = ChangedStates(live.get, clock, min(CROWD, limits.in_all // CROWDS))
        self._live = live
        self._usage = usage
        self._followers = followers
        self._clients = clients
        self._cluster = cluster
        self._clock = clock
        # Per idle time, and what is lost with them: keys, the longest unused first.
        self._idle: dict[tuple[float, int], OrderedDict[str, None]] = {}
        self._held: list[set[str]] = []  # keys of states that are not to be evicted
        self._full_since: float | None = None
        self._lost_at: float | None = None

    def enter(self, entry: Entry) -> None:
        """Add a state to memory."""
        self._live.add(entry)
        self.touch(entry)

    def leave(self, entry: Entry) -> None:
        """Remove a state from memory, in use or not."""
        self._live.remove(entry)
        self._leave_order(entry)
        if entry.address is not None:
            self.changed.leave(entry)
            entry.address = None

    def _leave_order(self, entry: Entry) -> None:
        if entry.order is WATCHED:
            self._usage.unwatch(entry.identifier.key)
        elif entry.order is not None:
            self._idle[entry.order].pop(entry.identifier.key, None)
        entry.order = None

    # -- use -------------------------------------------------------------------------------------------------------

    def touch(self, entry: Entry) -> None:
        """Note that a state was used now."""
        now = entry.used = self._clock()
        key, order = entry.identifier.key, entry.order
        if self._live.get(key) is not entry:
            return
        if order is not WATCHED:
            # What was recoverable may have been changed since; what is changed stays so.
            if order is None or order[0] != entry.ttl or (order[1] != CHANGED and order[1] != entry.worth):
                self._leave_order(entry)
                order = entry.order = _order(entry.ttl, entry.worth)
                self._idle.setdefault(order, OrderedDict())[key] = None
            self._idle[order].move_to_end(key)
        if entry.address is not None:
            self.changed.seen_again(entry)
        elif entry.identifier.scope is not StateScope.GLOBAL:
            worth = order[1] if order is not WATCHED else entry.worth
            if worth == CHANGED:
                self._count(entry)
        if entry.stored is not None and now - entry.touched > touch_after(entry.ttl):
            self._usage.note(entry)

    def keep_for(self, entry: Entry, ttl: float | None) -> None:
        """Give a state another idle time, in seconds; None for that of its scope."""
        kept = idle_time(entry.identifier, ttl)
        if kept != entry.ttl:
            if kept < entry.ttl:
                self._cluster.shortened(entry)
            entry.ttl, entry.touched = kept, -math.inf
            if entry.order is WATCHED:
                self.watched(entry.identifier.key)
            self.touch(entry)

    def watched(self, key: str) -> None:
        """Note that a page watches a state from now on: it is not idle, and the store is told so now and then."""
        entry = self._live.get(key)
        if entry is not None:
            self._leave_order(entry)
            entry.order = WATCHED
            self._usage.watch(entry)

    def unwatched(self, key: str) -> None:
        """Note that nobody watches a state any more: its idle time begins."""
        entry = self._live.get(key)
        if entry is not None:
            self._leave_order(entry)
            self.touch(entry)
        self._cluster.unwatched(key)

    @contextmanager
    def holding(self) -> Iterator[set[str]]:
        """Keep the states of a set of keys in memory in this context: somebody is about to watch them."""
        held: set[str] = set()
        self._held.append(held)
        try:
            yield held
        finally:
            self._held = [other for other in self._held if other is not held]

    def _may_go(self, key: str) -> bool:
        entry = self._live.get(key)
        if entry is None or entry.users or self._followers.is_watched(key):
            return False
        return not any(key in held for held in self._held)

    # -- leaving memory --------------------------------------------------------------------------------------------

    def evict(self, key: str) -> bool:
        """Drop the state under `key` from memory; False if there is none, or somebody uses or watches it."""
        entry = self._live.get(key)
        if entry is None or not self._may_go(key):
            return False
        if entry.stored is not None:
            # Somebody who has the entry may still begin a transaction with it, after another request has loaded and
            # changed the state.
            entry.doubtful = True
            self._usage.note_unless_told(entry)
        self.leave(entry)
        return True

    def sweep(self) -> int:
        """Drop every state that has been idle for its TTL and is not watched; returns how many (int).

        It costs what has expired, and what the store has to be told: watched states are not looked at.
        """
        now, dropped = self._clock(), 0
        self._usage.use_watched(now, self.touch)
        for (ttl, _), order in list(self._idle.items()):
            while order:
                key = next(iter(order))
                entry = self._live[key]
                if entry.used + ttl > now:
                    break
                if self.evict(key):
                    dropped += 1
                else:
                    self.touch(entry)
        for empty in [kind for kind, keys in self._idle.items() if not keys]:
            del self._idle[empty]
        self.expired += dropped
        return dropped

    def make_room_in_session(self, session_id: str, *, is_new: bool) -> None:
        """Make room for one more state of a session. Raises `LimitError` for a new one that has no room."""
        keys = self._live.by_session.get(session_id, ())
        if len(keys) < self.limits.per_session:
            return
        for key in keys:
            entry = self._live[key]
            if is_new and entry.identifier.scope is StateScope.TEMPORARY and self.evict(key):
                if entry.stored is not None:
                    self._usage.end(entry)
                return
            if not is_new and entry.recoverable and self.evict(key):
                return  # a stored state that nobody asked for makes room for one that was asked for
        if is_new:
            raise LimitError(f"a session has at most {self.limits.per_session} states")

    def make_room(self) -> None:
        """Make room for one more state by evicting others: first those that can be loaded or made again."""
        for choose in (
            partial(self._longest_unused, RECOVERABLE),
            partial(self._longest_unused, UNTOUCHED),
            self._first_of_crowd,
            partial(self._longest_unused, CHANGED),
        ):
            for _ in range(LOOKED_AT):
                if len(self._live) < self.limits.in_all:
                    return
                key = choose()
                if key is None:
                    break
                is_lost = self._live[key].worth == CHANGED
                if self.evict(key):
                    self.evicted += 1
                    if is_lost:
                        self._warn_of_loss(f"there are more than max_states={self.limits.in_all}")
                else:
                    self.touch(self._live[key])  # it is in use, or watched, which counts as use
        now = self._clock()
        if self._full_since is None or now - self._full_since > WARN_AFTER:
            self._full_since = now
            logger.warning(
                "there are %d states in memory, more than max_states=%d, and all that were looked at are in use",
                len(self._live) + 1, self.limits.in_all,
            )  # fmt: skip

    def _longest_unused(self, worth: int) -> str | None:
        heads = [next(iter(keys)) for (_, kind), keys in self._idle.items() if kind == worth and keys]
        return min(heads, key=lambda key: self._live[key].used, default=None)

    def _first_of_crowd(self) -> str | None:
        states = self.changed.crowded()
        return self.changed.first_to_go(states, self._may_go) if states is not None else None

    def _count(self, entry: Entry) -> None:
        """Count a changed state to the address that changed it; what its sessions have too many of leaves memory.

        States of users or of all are counted too, but leave only when memory is full.
        """
        entry.address = self._clients.address()
        states, own = self.changed.join(entry), entry.identifier.key
        if states is None or (most := self.limits.of_address(states.address)) is None:
            return

        def may_go(key: str) -> bool:
            found = self._live.get(key)
            return key != own and found is not None and found.identifier.session_id is not None and self._may_go(key)

        while states.sessions > most:
            going = self.changed.first_to_go(states, may_go)
            if going is None or not self.evict(going):
                return
            self.evicted += 1
            self._warn_of_loss(f"{states.address} has more than {most} of them")

    def _warn_of_loss(self, why: str) -> None:
        now = self._clock()
        if self._lost_at is None or now - self._lost_at > WARN_AFTER:
            self._lost_at = now
            logger.warning(
                "states that were changed leave memory, and are lost, since %s: give the provider a store", why
            )


@lru_cache(maxsize=256)
def _order(ttl: float, worth: int) -> tuple[float, int]:
    """The line in which a state waits to be idle for long enough: one object of 56 bytes for all that wait there."""
    return ttl, worth


class Sweeper:
    """Sweeps on the event loop that has needed it last. Lifetime: the registry.

    `tells_store` says whether the store is told which states are in use: between the provider's start and stop. A
    script has the store for its own changes alone.
    """

    def __init__(self, lifetimes: Lifetimes, usage: Usage, followers: Followers) -> None:
        self.tells_store = False
        self.task: asyncio.Task[None] | None = None
        self._lifetimes = lifetimes
        self._usage = usage
        self._followers = followers

    def start(self) -> None:
        """Run on this event loop, if there is one and the sweeper does not run yet."""
        task = self.task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.task = loop.create_task(self._sweep_for_ever(), name="faststate-sweeper")

    def end(self) -> asyncio.Task[None] | None:
        """End the sweeper, wherever it runs; returns its task if that is on this loop."""
        task, self.task = self.task, None
        if task is None or task.done() or task.get_loop().is_closed():
            return None
        if task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            return task
        task.get_loop().call_soon_threadsafe(task.cancel)
        return None

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                self._lifetimes.sweep()
                self._followers.swept()
                if self.tells_store:
                    await self._usage.tell_store()
            except Exception:
                logger.exception("the sweep of idle states failed; it is tried again")
