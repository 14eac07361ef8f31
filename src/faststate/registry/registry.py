"""The registry: from key to live state. Loading, creation, locks, commits, idle time, eviction."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import lru_cache, partial
from typing import Any, Final, TypeVar, cast

from pydantic import ValidationError

from ..exceptions import (
    ConfigurationError,
    FastStateError,
    LimitError,
    PersistenceError,
    StateNotFoundError,
    VersionConflict,
)
from ..redaction import redacted
from ..scheduling.running import RunningEvents
from ..scopes import StateIdentifier, StateScope, Version
from ..state.reactive import ReactiveState
from ..state.serving import ServingProvider
from ..stores.base import Write
from .alone import OneProcess
from .commits import Committer
from .entries import (
    CHANGED,
    DEFAULT_TTL,
    RECOVERABLE,
    UNTOUCHED,
    Commit,
    Entry,
    finite,
    idle_time,
    initial_epoch,
    initial_wire,
    is_initial,
)
from .eviction import CROWD, ChangedStates, is_public
from .locks import Locks
from .persistence import Loaded, Persistence, persistence_errors
from .protocols import Callers, Cluster, Followers, Nobody

__all__ = ["DEFAULT_TTL", "Commit", "Create", "Entry", "StateRegistry"]

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)

Create = Callable[[StateIdentifier], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""Makes the first values of a state; None where there is no such state."""

SWEEP_INTERVAL: Final = 15.0
"""Seconds between two sweeps; each costs what has expired, so the number only says how late a drop may be."""

TOUCH_SHARE: Final = 20
"""A stored state that is only looked at has its expiry moved when a twentieth of its idle time is over: each look would
be a write otherwise. After a crash it may so expire by that much too early."""

TOUCH_AFTER_MOST: Final = 1_800.0
"""Seconds after which it is moved at the latest: before a store may forget what is expired (`EXPIRED_KEPT`)."""

LOOKED_AT: Final = 64
"""States that one eviction looks at before it gives up: those that are in use may be many."""

SHARE_OF_ADDRESS: Final = 10
"""One in so many of all states is what visitors from one public address may have changed, unless an option says so."""

CROWDS: Final = 20
"""One in so many of all states makes an address crowded, where that is less than `CROWD`."""

WATCHED: Final = (-1.0, RECOVERABLE)
"""The order of states that pages watch: among none of those that wait to be idle for long enough."""


class StateRegistry:
    """All live states of a process, by key. Lifetime: the provider.

    `clock` returns seconds, monotonic. `lock_timeout` and `store_timeout` are in seconds. One session has at most
    `max_states_per_session` states: beyond that its oldest unwatched TEMPORARY one gives way, or `LimitError` is
    raised. Beyond `max_states` in all some of which nobody has the page open leave memory: first those that can be had
    again, then those that nobody has changed, the longest unused first; then those that visitors have changed, as
    `ChangedStates` says. From one address these have changed at most `max_states_per_address`; None is a tenth of all
    for public addresses, and nothing for private ones. A process numbers its commits: `epoch` is the process's random
    name (str), `commits` the number of the last commit. `persistence` says for classes where their states outlive the
    process.
    """

    def __init__(
        self,
        followers: Followers | None = None,
        callers: Callers | None = None,
        cluster: Callable[[StateRegistry], Cluster] | None = None,
        *,
        serving: ServingProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
        lock_timeout: float = 5.0,
        max_states_per_session: int = 1_000,
        max_states: int = 100_000,
        max_states_per_address: int | None = None,
        store_timeout: float = 10.0,
    ) -> None:
        self.max_states_per_session = max_states_per_session
        self.max_states = max_states
        self.max_states_per_address = max_states_per_address
        self.followers = followers or Nobody()
        self.callers = callers or Nobody()
        self.clock = clock
        self.lock_timeout = lock_timeout
        self.store_timeout = store_timeout
        self.cluster = cluster(self) if cluster is not None else OneProcess(None, store_timeout)
        self.locks = Locks(lock_timeout, self.callers, self.cluster)
        self.running = RunningEvents()
        self.committer = Committer(self.followers, self.cluster, clock, store_timeout, self.remove, serving)
        self._serving = serving
        self.persistence: dict[type[ReactiveState], Persistence] = {}
        self.epoch = secrets.token_hex(6)
        self.expired = 0
        self.evicted = 0
        self._entries: dict[str, Entry] = {}
        self._loading: dict[str, asyncio.Future[Entry]] = {}
        self._sessions: dict[str, tuple[str, ...]] = {}  # per session: its states' keys, the oldest first
        # Per idle time, and what is lost with them: keys, the longest unused first.
        self._idle: dict[tuple[float, int], OrderedDict[str, None]] = {}
        self.changed = ChangedStates(self._entries.get, clock, min(CROWD, max_states // CROWDS))
        # Per period in which the store is to be told of their use: the keys of watched states, and when that is next.
        self._telling: dict[float, OrderedDict[str, float]] = {}
        self._used: dict[str, Entry] = {}  # stored states that were used since the store was told so, by key
        self._held: list[set[str]] = []  # keys of states that are not to be evicted
        self._full_since: float | None = None
        self._lost_at: float | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self.is_started = False

    @property
    def commits(self) -> int:
        """The number of this process's last commit."""
        return self.committer.number

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    # -- states ----------------------------------------------------------------------------------------------------

    async def get_state(self, identifier: StateIdentifier, cls: type[S], /, **kwargs: Any) -> S:
        """The committed snapshot of the state that `identifier` names, made from `kwargs` when there is none.

        A coroutine, so that a state may come from elsewhere. Many first readers make one state. Raises pydantic's
        `ValidationError` when `kwargs` do not fit the class, `ConfigurationError` when the key holds a state of
        another class.
        """
        entry = await self.entry(identifier, cls, initial=kwargs)
        return cast(S, entry.state)

    async def entry(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        *,
        ttl: float | None = None,
        create: Create | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The entry of a state, loaded or made when there is none; as `get_state`.

        `ttl` is the idle time in seconds; None for that of the scope, `math.inf` for never. `create` makes the first
        values of a state; what it raises, or `StateNotFoundError` when it returns None, goes to all who wait for it,
        and so does the `PersistenceError` of one that cannot be loaded.
        """
        key, persistence = identifier.key, self.persistence.get(cls)
        if (found := self.in_memory(identifier, cls)) is not None:
            return found
        if create is None and persistence is None:
            # Nothing is awaited here: creation is single-flight by being atomic on the loop.
            return self._add(identifier, _made_by_class(identifier, cls, initial), ttl, by_class=not initial)
        loading = self._loading.get(key)
        if loading is None or loading.get_loop() is not asyncio.get_running_loop():
            loading = asyncio.ensure_future(
                self._load_or_create(identifier, cls, ttl, create, initial or {}, persistence)
            )
            self._loading[key] = loading
            loading.add_done_callback(partial(self._loaded, key))
        # Shielded: one reader that goes away must not take the state from the others.
        return await asyncio.shield(loading)

    def in_memory(self, identifier: StateIdentifier, cls: type[ReactiveState]) -> Entry | None:
        """The entry of a state that is in memory, or None. Raises `ConfigurationError` as `get_state`."""
        found = self._entries.get(identifier.key)
        if found is None:
            return None
        if type(found.state) is not cls and not isinstance(found.state, cls):
            raise ConfigurationError(
                f"the state {identifier.key} is a {type(found.state).__name__}, not a {cls.__name__}"
            )
        self.touch(found)
        return found

    def unseen(self, identifier: StateIdentifier, cls: type[ReactiveState], ttl: float | None) -> Entry | None:
        """The entry of a state that nobody has looked up yet, as its class makes it; None for one that must be.

        What is stored comes with its lock; who only wants to read it has to look it up.
        """
        persistence = self.persistence.get(cls)
        if persistence is None or not persistence.in_store or not cls._fs_schema().reproducible:
            return None
        if identifier.key in self._loading or identifier.key in self._used:
            return None
        return self._add(identifier, cls(**{}), ttl, persistence=persistence, by_class=True)

    def _loaded(self, key: str, loading: asyncio.Future[Entry]) -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # asked for, so that asyncio does not report it where nobody waits any more

    async def known(self, identifier: StateIdentifier) -> Entry | None:
        """The entry of a state that is in memory or on its way there, or None; does not count as use."""
        loading = self._loading.get(identifier.key)
        if loading is not None:
            with suppress(Exception):  # told to those who asked for it
                await asyncio.shield(loading)
        return self._entries.get(identifier.key)

    async def _load_or_create(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        ttl: float | None,
        create: Create | None,
        initial: Mapping[str, Any],
        persistence: Persistence | None,
    ) -> Entry:
        if identifier.key in self._used:
            await self.tell_store([identifier.key])  # that it was used until it left memory
        loaded = await persistence.load(identifier) if persistence is not None else None
        # Meanwhile a sign-in may have brought a guest's state here.
        if (found := self._entries.get(identifier.key)) is not None:
            return found
        if loaded is not None:
            return self._add(identifier, loaded.state, ttl, persistence=persistence, loaded=loaded)
        if persistence is not None and not persistence.in_store:
            raise _not_found(identifier)
        values: Mapping[str, Any] = {}
        if create is not None:
            made = create(identifier)
            first = await self._first_values(identifier, made) if inspect.isawaitable(made) else made
            if first is None:
                raise _not_found(identifier)
            values = first
        fresh = _made(cls, {**values, **initial}) if create is not None else _made_by_class(identifier, cls, initial)
        by_class = create is None and not initial
        is_reproducible = by_class and cls._fs_schema().reproducible
        if identifier.scope is StateScope.TEMPORARY and self.cluster.is_shared:
            is_reproducible = False  # or another process could not tell a new one from one that has ended
        if persistence is None or is_reproducible:
            # What the class itself makes again is stored with its first change: a robot's visits leave nothing behind.
            found = self._entries.get(identifier.key)
            return found or self._add(identifier, fresh, ttl, persistence=persistence, by_class=by_class)
        return await self._add_stored(identifier, fresh, ttl, persistence)

    async def _add_stored(
        self, identifier: StateIdentifier, fresh: ReactiveState, ttl: float | None, persistence: Persistence
    ) -> Entry:
        """Stores a new state, whose values nothing would make again, and adds it."""
        if identifier.session_id is not None:
            self._make_room(identifier.session_id, is_new=True)
        version = Version(secrets.token_hex(6), 1)
        left = finite(idle_time(identifier, ttl))
        loaded = Loaded(fresh, version, ttl=left)
        data = persistence.encode(fresh._frozen_values(), ())
        write = Write(identifier.key, None, version, data, left, identifier.session_id)
        sessions = [identifier.session_id] if identifier.session_id is not None else []
        for session_id in sessions:
            await self.committer.gates.opened(session_id)
        try:
            with self.committer.gates.inside(sessions):
                await self.committer.write([write])
        except VersionConflict:  # another process was first
            found_there = await persistence.load(identifier)
            if found_there is None:
                raise
            loaded = found_there
        if (found := self._entries.get(identifier.key)) is not None:
            found.doubtful = True  # a sign-in has brought one here meanwhile, over what has just been stored
            return found
        return self._add(identifier, loaded.state, ttl, persistence=persistence, loaded=loaded)

    def _add(
        self,
        identifier: StateIdentifier,
        fresh: ReactiveState,
        ttl: float | None,
        *,
        persistence: Persistence | None = None,
        loaded: Loaded | None = None,
        by_class: bool = False,
    ) -> Entry:
        if identifier.session_id is not None:
            self._make_room(identifier.session_id, is_new=loaded is None)
        if loaded is not None:
            version = loaded.version
        elif by_class and type(fresh)._fs_schema().reproducible:
            version = Version(initial_epoch(type(fresh), fresh), 1)
        else:
            version = Version(secrets.token_hex(6), 1)
        schema = type(fresh)._fs_schema()
        encoded = (
            initial_wire(type(fresh), fresh)
            if is_initial(version) and not schema.computed
            else fresh._wire(self._serving)
        )
        state = self.committer.snapshot(fresh._loose(), identifier, version, encoded, versioned=schema.versioned)
        entry = Entry(identifier, idle_time(identifier, ttl), state, persistence)
        if loaded is not None:
            entry.stored = version
            now = self.clock()
            entry.touched = _told_at(now, entry.ttl, loaded.ttl)
            entry.remember_stamped(loaded.nonces, now)
        self._make_space()
        self._enter(entry)
        self._start_sweeper()
        return entry

    def _enter(self, entry: Entry) -> None:
        key, session_id = entry.identifier.key, entry.identifier.session_id
        self._entries[key] = entry
        if session_id is not None:
            keys = self._sessions.get(session_id, ())  # mostly very few
            if key not in keys:
                self._sessions[session_id] = (*keys, key)
        self.touch(entry)

    def _remove(self, entry: Entry) -> None:
        key, session_id = entry.identifier.key, entry.identifier.session_id
        del self._entries[key]
        self._leave_order(entry)
        if entry.address is not None:
            self.changed.leave(entry)
            entry.address = None
        if session_id is not None and (keys := self._sessions.get(session_id)) is not None:
            if left := tuple(other for other in keys if other != key):
                self._sessions[session_id] = left
            else:
                del self._sessions[session_id]

    def _leave_order(self, entry: Entry) -> None:
        if entry.order is WATCHED:
            self._tell_no_more(entry.identifier.key)
        elif entry.order is not None:
            self._idle[entry.order].pop(entry.identifier.key, None)
        entry.order = None

    def _make_room(self, session_id: str, *, is_new: bool) -> None:
        keys = self._sessions.get(session_id, ())
        if len(keys) < self.max_states_per_session:
            return
        for key in keys:
            entry = self._entries[key]
            if is_new and entry.identifier.scope is StateScope.TEMPORARY and self.evict(key):
                if entry.stored is not None:
                    self._used[key] = entry
                    entry.ttl = 0.0  # which ends it in the store as well
                    self.cluster.shortened(entry)
                return
            if not is_new and entry.recoverable and self.evict(key):
                return  # one of its own that was not just asked for makes room for one that was
        if not is_new:
            return
        raise LimitError(f"a session has at most {self.max_states_per_session} states")

    def keys_of_session(self, session_id: str) -> list[str]:
        """The keys (list of str) of all states in memory that belong to a session."""
        return list(self._sessions.get(session_id, ()))

    def keep_for(self, entry: Entry, ttl: float | None) -> None:
        """Gives a state another idle time, in seconds; as for `entry`."""
        kept = idle_time(entry.identifier, ttl)
        if kept != entry.ttl:
            if kept < entry.ttl:
                self.cluster.shortened(entry)
            entry.ttl, entry.touched = kept, -math.inf
            if entry.order is WATCHED:
                self.watched(entry.identifier.key)
            self.touch(entry)

    def rename(self, key: str, identifier: StateIdentifier, ttl: float | None) -> None:
        """Gives the state under `key` another identifier; an open transaction on it commits under the new one.

        Nothing may watch the old key any more, and nothing be kept under the new one.
        """
        entry = self._entries[key]
        self._remove(entry)
        self._used.pop(key, None)
        entry.identifier, entry.ttl = identifier, idle_time(identifier, ttl)
        # The version stays: it tells a state that nobody has changed yet.
        encoded, schema = entry.state._committed.encoded, type(entry.state)._fs_schema()
        entry.state = self.committer.snapshot(
            entry.state._loose(), identifier, entry.version, encoded, versioned=schema.versioned
        )
        self._enter(entry)

    def drop(self, key: str, *, merged: bool = False) -> None:
        """Forgets the state under `key`, in use or not: its session is over, or it was `merged` into another.

        An open transaction on it can no more commit; one on a merged state is told so.
        """
        entry = self._entries.get(key)
        if entry is not None:
            entry.removed = "this state has become another one, since its user signed in: try again"
            entry.is_over = not merged
            self._used.pop(key, None)
            self._remove(entry)

    def peek(self, key: str) -> ReactiveState | None:
        """The committed snapshot under `key`, or None; does not count as use."""
        entry = self._entries.get(key)
        return entry.state if entry is not None else None

    def find(self, key: str) -> Entry | None:
        """The entry under `key`, or None; does not count as use."""
        return self._entries.get(key)

    def touch(self, entry: Entry) -> None:
        """Notes that a state was used now."""
        now = entry.used = self.clock()
        key, order = entry.identifier.key, entry.order
        if self._entries.get(key) is not entry:
            return
        if order is not WATCHED:
            # What was recoverable may have been changed since; what is changed stays so.
            if order is None or order[0] != entry.ttl or (order[1] != CHANGED and order[1] != entry.worth):
                self._leave_order(entry)
                order = entry.order = _order(entry.ttl, entry.worth)
                self._idle.setdefault(order, OrderedDict())[key] = None
            self._idle[order].move_to_end(key)
        if entry.address is not None:
            self.changed.heard_again(entry)
        elif entry.identifier.scope is not StateScope.GLOBAL:
            worth = order[1] if order is not WATCHED else entry.worth
            if worth == CHANGED:
                self._count(entry)
        if entry.stored is not None and now - entry.touched > touch_after(entry.ttl):
            self._note_use(entry)

    def _count(self, entry: Entry) -> None:
        """Counts what was changed to the address that did it; what its sessions have too much leaves memory.

        What belongs to users or to all is counted, and leaves for the sake of others alone: where memory is full.
        """
        entry.address = self.callers.address()
        states, most, key = self.changed.join(entry), self.max_states_per_address, entry.identifier.key
        if states is None:
            return
        if most is None:
            if not is_public(states.address):
                return
            most = max(1, self.max_states // SHARE_OF_ADDRESS)

        def may_go(other: str) -> bool:
            found = self._entries.get(other)
            return (
                other != key and found is not None and found.identifier.session_id is not None and self._may_go(other)
            )

        while states.sessions > most:
            going = self.changed.first_to_go(states, may_go)
            if going is None or not self.evict(going):
                return
            self.evicted += 1
            self._warn_of_loss(f"{states.address} has more than {most} of them")

    def _may_go(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and not entry.users and not self._is_needed(key)

    def watched(self, key: str) -> None:
        """Notes that a page watches a state from now on: it is not idle, and the store is told so now and then."""
        entry = self._entries.get(key)
        if entry is None:
            return
        self._leave_order(entry)
        entry.order = WATCHED
        if entry.in_store and entry.ttl != math.inf:
            period = touch_after(entry.ttl)
            self._telling.setdefault(period, OrderedDict())[key] = self.clock() + period

    def unwatched(self, key: str) -> None:
        """Notes that nobody watches a state any more: its idle time begins."""
        entry = self._entries.get(key)
        if entry is not None:
            self._leave_order(entry)
            self.touch(entry)
        self.cluster.unwatched(key)

    def _tell_no_more(self, key: str) -> None:
        for keys in self._telling.values():  # one for each idle time, and so few
            keys.pop(key, None)

    def _use_watched(self, now: float) -> None:
        """Notes the use of those watched states of which the store was not told for long."""
        for period, keys in list(self._telling.items()):
            while keys:
                key, due = next(iter(keys.items()))
                if due > now:
                    break
                keys[key] = now + period
                keys.move_to_end(key)
                entry = self._entries[key]
                self.touch(entry)
                if entry.stored is not None and now - entry.touched >= period:
                    self._note_use(entry)
            if not keys:
                del self._telling[period]

    def _note_use(self, entry: Entry) -> None:
        """Has the next sweep tell the store until when a state is kept."""
        if entry.in_store:
            entry.touched = entry.used
            self._used[entry.identifier.key] = entry

    def pin(self, entry: Entry) -> Entry:
        """Keeps a state in memory for a transaction; the entry to use, which is another one if it was replaced."""
        # What was merged stays out, and does not become what a late request began under its key: its commit is refused.
        known = self._entries.get(entry.identifier.key) if entry.removed is None else None
        if known is None and entry.removed is None:
            self._make_space()
            self._enter(entry)
        entry = known or entry
        entry.users += 1  # which keeps it here; when its lock is given back that counts as use
        return entry

    @contextmanager
    def holding(self) -> Iterator[set[str]]:
        """A set of keys, whose states stay in memory until the block ends: somebody is about to watch them."""
        held: set[str] = set()
        self._held.append(held)
        try:
            yield held
        finally:
            self._held = [other for other in self._held if other is not held]

    def _is_needed(self, key: str) -> bool:
        return self.followers.is_watched(key) or any(key in held for held in self._held)

    def evict(self, key: str) -> bool:
        """Drops the state under `key` from memory; False when there is none, or somebody uses or watches it."""
        entry = self._entries.get(key)
        if entry is None or entry.users or self._is_needed(key):
            return False
        if entry.stored is not None:
            # Somebody who has the entry may still begin a transaction with it, when it has been loaded and changed
            # by another request since.
            entry.doubtful = True
            if entry.used > entry.touched:
                self._note_use(entry)
        self._remove(entry)
        return True

    def _make_space(self) -> None:
        """Makes room for one more state, by evicting others: what can be had again first."""
        for choose in (
            partial(self._longest_unused, RECOVERABLE),
            partial(self._longest_unused, UNTOUCHED),
            self._first_of_crowd,
            partial(self._longest_unused, CHANGED),
        ):
            for _ in range(LOOKED_AT):
                if len(self._entries) < self.max_states:
                    return
                key = choose()
                if key is None:
                    break
                is_lost = self._entries[key].worth == CHANGED
                if self.evict(key):
                    self.evicted += 1
                    if is_lost:
                        self._warn_of_loss(f"there are more than max_states={self.max_states}")
                else:
                    self.touch(self._entries[key])  # in use, or watched, which is as good
        now = self.clock()
        if self._full_since is None or now - self._full_since > 60:
            self._full_since = now
            logger.warning(
                "there are %d states in memory, more than max_states=%d, and all that were looked at are in use",
                len(self._entries) + 1, self.max_states,
            )  # fmt: skip

    def _warn_of_loss(self, why: str) -> None:
        now = self.clock()
        if self._lost_at is None or now - self._lost_at > 60:
            self._lost_at = now
            logger.warning(
                "states that were changed leave memory, and are lost, since %s: give the provider a store", why
            )

    def _first_of_crowd(self) -> str | None:
        states = self.changed.crowded()
        return self.changed.first_to_go(states, self._may_go) if states is not None else None

    def _longest_unused(self, worth: int) -> str | None:
        heads = [next(iter(keys)) for (_, kind), keys in self._idle.items() if kind == worth and keys]
        return min(heads, key=lambda key: self._entries[key].used, default=None)

    def sweep(self) -> int:
        """Drops every state that has been idle for its TTL and is not watched; returns how many (int).

        It costs what has expired, and what the store has to be told of: watched states wait in no line for their end.
        """
        now, dropped = self.clock(), 0
        self._use_watched(now)
        for (ttl, _), order in list(self._idle.items()):
            while order:
                key = next(iter(order))
                entry = self._entries[key]
                if entry.used + ttl > now:
                    break
                if entry.users or self._is_needed(key):
                    self.touch(entry)
                else:
                    self.evict(key)
                    dropped += 1
        for empty in [kind for kind, keys in self._idle.items() if not keys]:
            del self._idle[empty]
        self.expired += dropped
        return dropped

    async def tell_store(self, keys: Iterable[str] | None = None) -> None:
        """Tells the store which of its states were used since it was told last; only those with these keys, if given.

        Raises `PersistenceError`.
        """
        if self.cluster.store is None or not self._used:
            return
        used = {key: self._used.pop(key) for key in (list(self._used) if keys is None else keys) if key in self._used}
        now = self.clock()
        ttls = {
            key: finite(max(entry.used + entry.ttl - now, 0.0)) for key, entry in used.items() if entry.removed is None
        }
        try:
            async with self.in_store_time("the store could not be told what is in use"):
                await self.cluster.tell_use(ttls, used)
        except BaseException:
            # Of what was loaded anew meanwhile, the new entry's use counts.
            self._used = {**{key: self._entries.get(key, entry) for key, entry in used.items()}, **self._used}
            raise

    def forget_stored(self) -> None:
        """Drops from memory what can be loaded again, and nobody uses: others may have changed it since."""
        for entry in [entry for entry in self._entries.values() if entry.persistence is not None]:
            if entry.users:
                entry.doubtful = True
            else:
                self._remove(entry)

    def start(self) -> None:
        """Has the sweeper run on this event loop, which is the app's: a script's may have been the first to need it."""
        self.is_started = True
        self._end_sweeper()
        self._start_sweeper()

    def _end_sweeper(self) -> asyncio.Task[None] | None:
        """Ends the sweeper wherever it runs; the task, where that is this loop."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is None or sweeper.done() or sweeper.get_loop().is_closed():
            return None
        if sweeper.get_loop() is asyncio.get_running_loop():
            sweeper.cancel()
            return sweeper
        sweeper.get_loop().call_soon_threadsafe(sweeper.cancel)
        return None

    def _start_sweeper(self) -> None:
        sweeper = self._sweeper
        if sweeper is not None and not sweeper.done() and not sweeper.get_loop().is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._sweeper = loop.create_task(self._sweep_for_ever(), name="faststate-sweeper")

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                self.sweep()
                self.followers.swept()
                if self.is_started:  # a script has the store for its own changes alone
                    await self.tell_store()
            except Exception:
                logger.exception("the sweep of idle states failed; it is tried again")

    async def stop(self) -> None:
        """Ends the sweeper, and waits for commits under way. States stay."""
        self.is_started = False
        await self.committer.commits_under_way()
        for entry in self._entries.values():
            if entry.stored is not None and entry.used > entry.touched:
                self._note_use(entry)
        try:
            await self.tell_store()
        except FastStateError:
            logger.exception("the store could not be told which states were used")
        if (sweeper := self._end_sweeper()) is not None:
            await asyncio.gather(sweeper, return_exceptions=True)

    @asynccontextmanager
    async def locked(self, entries: Iterable[Entry], owner: object | None = None) -> AsyncIterator[None]:
        """Holds the locks of some states, so that nobody commits to them, in no process.

        Raises `LockTimeoutError`, `PersistenceError`, and `StateNotFoundError` for one that is no more.
        """
        taken = [entry for entry in entries if entry.removed is None]
        for entry in taken:
            entry.users += 1  # dropped meanwhile, it would be made anew with a lock of its own
        try:
            async with self.locks.locked(taken, owner):
                await self.cluster.lock(taken)
                yield
        finally:
            for entry in taken:
                entry.users -= 1

    def release(self, entry: Entry) -> None:
        """Gives a state's lock back, which was its use."""
        self.locks.release(entry)
        self.touch(entry)

    # -- what becomes of states ------------------------------------------------------------------------------------

    def remove(self, entry: Entry, reason: str) -> None:
        """Drops a state that is no more, and has its followers told; `reason` (str) goes on "the state …: "."""
        key = entry.identifier.key
        self._used.pop(key, None)
        entry.removed = f"{entry.identifier.cls_name} {entry.identifier.instance_id or ''}".rstrip() + f": {reason}"
        if self._entries.get(key) is entry:
            self._remove(entry)
        self.followers.removed(entry.state, reason)

    async def _first_values(self, identifier: StateIdentifier, made: Awaitable[Any]) -> Any:
        """Awaits an async `create`, for `store_timeout` at most. Raises `PersistenceError` when that is over."""
        seconds = self.committer.store_timeout
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                return await made
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise PersistenceError(f"create gave {identifier.key} no first values within {seconds:g} s") from error

    def in_store_time(self, what: str) -> AbstractAsyncContextManager[None]:
        """Gives the store its time, and makes all its failures `PersistenceError`s; `what` (str) has failed then."""
        return persistence_errors(what, self.committer.store_timeout)

    def ttl_of(self, identifier: StateIdentifier, ttl: float | None) -> float | None:
        """Seconds that a state is kept when it is idle, None for ever; `ttl` as for `entry`."""
        return finite(idle_time(identifier, ttl))

    def broadcast_to_state(self, state_key: str, event_data: Mapping[str, Any]) -> Awaitable[int]:
        """Sends signals (a dict of field to value) to all that watch `state_key`, without changing the state.

        Sent when the call returns; awaiting the result, the number of connections (int), is possible and not needed.
        """
        return self.followers.broadcast(state_key, event_data)


@lru_cache(maxsize=256)
def _order(ttl: float, worth: int) -> tuple[float, int]:
    """Among which others a state waits to be idle for long enough: one object for all of them."""
    return ttl, worth


def touch_after(ttl: float) -> float:
    """Seconds after which the store is told again that a state of this idle time is in use."""
    return max(SWEEP_INTERVAL, min(ttl / TOUCH_SHARE, TOUCH_AFTER_MOST)) if ttl != math.inf else sys.float_info.max


def _told_at(now: float, ttl: float, left: float | None) -> float:
    """When the store was told last of a state's use, which has `left` seconds there until its end; -inf for never."""
    if left is None or ttl == math.inf:
        return now if left is None and ttl == math.inf else -math.inf  # the class has another idle time by now
    return now - (ttl - left)


def _made_by_class(identifier: StateIdentifier, cls: type[S], initial: Mapping[str, Any] | None) -> S:
    """A new state. Raises `StateNotFoundError` where its first values have to be given, and nobody has given any."""
    if not initial and cls._fs_schema().required:
        raise _not_found(identifier)
    return _made(cls, initial or {})


def _made(cls: type[S], values: Mapping[str, Any]) -> S:
    try:
        return cls(**values)
    except ValidationError as error:
        failed = redacted(error, cls, values)
    raise failed  # not in the block above: it would have the error itself as its context


def _not_found(identifier: StateIdentifier) -> StateNotFoundError:
    return StateNotFoundError(f"there is no {identifier.cls_name} {identifier.instance_id or ''}".rstrip())
