"""The registry: from key to live state. Creation, locks, commits, idle time, eviction."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from .events import Event
from .exceptions import ConfigurationError, LimitError, LockTimeoutError, StateNotFoundError
from .scopes import StateIdentifier, StateScope
from .state import Change, Committed, ReactiveState

__all__ = ["DEFAULT_TTL", "Commit", "Create", "Entry", "RegistryHooks", "StateRegistry"]

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)

Create = Callable[[StateIdentifier], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""Makes the first values of a state; None where there is no such state."""

DEFAULT_TTL: Final[dict[StateScope, float | None]] = {
    StateScope.GLOBAL: None,
    StateScope.SESSION: 86_400.0,
    StateScope.USER: None,
    StateScope.COMPONENT: 86_400.0,
    StateScope.RECORD: None,
    StateScope.TEMPORARY: 900.0,  # a hidden tab has no stream, and its user may be back in some minutes
}
"""Seconds of idle time after which a state is dropped, by scope; None for never. A watched state is not idle."""

SWEEP_INTERVAL: Final = 15.0
"""Seconds between two sweeps; each costs what has expired, so the number only says how late a drop may be."""

NONCES_KEPT: Final = 512
"""Nonces of events remembered per state: repeats come within a browser's retry, seconds after the first."""


class Commit:
    """One committed change, as the hooks are told of it. Lifetime: until every connection has been sent it."""

    __slots__ = ("changed", "delta", "frames", "new", "number", "old", "views")

    def __init__(
        self, old: ReactiveState, new: ReactiveState, changed: list[str], delta: dict[str, Any], number: int
    ) -> None:
        self.old = old
        self.new = new
        self.changed = changed
        self.delta = delta
        self.number = number
        self.views: dict[frozenset[str], set[str]] = {}  # the changed ones, by what is hidden from the viewer
        self.frames: dict[Any, bytes] = {}


class Entry:
    """A state in memory: its committed snapshot, its lock and its idle time. Lifetime: from first use to expiry."""

    __slots__ = ("bucket", "identifier", "lock", "loop", "merged", "nonces", "owner", "state", "used", "users")

    def __init__(self, identifier: StateIdentifier, bucket: float | None, state: ReactiveState) -> None:
        self.identifier = identifier
        self.state = state
        self.bucket = bucket
        self.lock = asyncio.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.owner: object | None = None
        self.users = 0  # open transactions on this state; it is not dropped while there are any
        self.used = 0.0
        self.merged = False  # into another state: what is committed here from now on would be lost
        self.nonces: OrderedDict[str, None] = OrderedDict()

    def remember(self, nonce: str) -> None:
        """Notes that the event with this nonce has been committed."""
        self.nonces[nonce] = None
        while len(self.nonces) > NONCES_KEPT:
            self.nonces.popitem(last=False)


class RegistryHooks:
    """What the provider plugs into a registry: who is told, and who is watching."""

    def committed(self, commit: Commit) -> None:
        """A state changed."""

    def is_watched(self, key: str) -> bool:
        """Whether any connection follows the state with this key."""
        return False

    def swept(self) -> None:
        """Idle states were dropped; others may tidy up too."""

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        """Send `data` to the watchers of `key`."""
        raise NotImplementedError  # a registry without connections has nobody to broadcast to

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Run an event from server code."""
        raise NotImplementedError  # a registry without a provider runs no events


class StateRegistry:
    """All live states of a process, by key. Lifetime: the provider.

    `clock` returns seconds, monotonic. `lock_timeout` is in seconds. One session has at most `max_states_per_session`
    states: beyond that its oldest unwatched TEMPORARY one gives way, or `LimitError` is raised. A process numbers its
    commits: `epoch` is the process's own random name (str), `commits` the number of the last commit.
    """

    def __init__(
        self,
        hooks: RegistryHooks | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        lock_timeout: float = 5.0,
        max_states_per_session: int = 1_000,
    ) -> None:
        self.max_states_per_session = max_states_per_session
        self.hooks = hooks or RegistryHooks()
        self.clock = clock
        self.lock_timeout = lock_timeout
        self.epoch = secrets.token_hex(6)
        self.commits = 0
        self.expired = 0
        self._entries: dict[str, Entry] = {}
        self._loading: dict[str, asyncio.Future[Entry]] = {}
        self._sessions: dict[str, dict[str, None]] = {}  # per session: its states' keys, the oldest first
        self._idle: dict[float, OrderedDict[str, None]] = {}  # per TTL: keys, the longest unused first
        self._waiting: dict[object, Entry] = {}
        self._sweeper: asyncio.Task[None] | None = None

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
        """The entry of a state, made when there is none; as `get_state`.

        `ttl` is the idle time in seconds; None for that of the scope, `math.inf` for never. `create` makes the first
        values of a state; what it raises, or `StateNotFoundError` when it returns None, goes to all who wait for it.
        """
        key = identifier.key
        while (found := self._entries.get(key)) is None:
            loading = self._loading.get(key)
            if loading is None:
                if create is None:
                    # Nothing is awaited here: creation is single-flight by being atomic on the loop.
                    return self._add(identifier, cls(**(initial or {})), ttl)
                loading = asyncio.ensure_future(self._create(identifier, cls, ttl, create, initial or {}))
                self._loading[key] = loading
                loading.add_done_callback(lambda _: self._loading.pop(key, None))
            # Shielded: one reader that goes away must not take the state from the others.
            return await asyncio.shield(loading)
        if not isinstance(found.state, cls):
            raise ConfigurationError(f"the state {key} is a {type(found.state).__name__}, not a {cls.__name__}")
        self.touch(found)
        return found

    async def _create(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        ttl: float | None,
        create: Create,
        initial: Mapping[str, Any],
    ) -> Entry:
        values = create(identifier)
        if inspect.isawaitable(values):
            values = await values
        if values is None:
            raise StateNotFoundError(f"there is no {identifier.cls_name} {identifier.instance_id or ''}".rstrip())
        # Meanwhile a sign-in may have brought a guest's state here.
        if (found := self._entries.get(identifier.key)) is not None:
            return found
        return self._add(identifier, cls(**{**values, **initial}), ttl)

    def _add(self, identifier: StateIdentifier, fresh: ReactiveState, ttl: float | None) -> Entry:
        if identifier.session_id is not None:
            self._make_room(identifier.session_id)
        self.commits += 1
        committed = Committed(identifier, 1, self.commits, fresh._wire(), self.hooks.run)
        entry = Entry(identifier, _bucket(identifier, ttl), fresh._commit(fresh._frozen_values(), committed))
        self._enter(entry)
        self._start_sweeper()
        return entry

    def _enter(self, entry: Entry) -> None:
        key, session_id = entry.identifier.key, entry.identifier.session_id
        self._entries[key] = entry
        if session_id is not None:
            self._sessions.setdefault(session_id, {})[key] = None
        self.touch(entry)

    def _remove(self, entry: Entry) -> None:
        key, session_id = entry.identifier.key, entry.identifier.session_id
        del self._entries[key]
        if entry.bucket is not None:
            self._idle[entry.bucket].pop(key, None)
        if session_id is not None and (keys := self._sessions.get(session_id)) is not None:
            keys.pop(key, None)
            if not keys:
                del self._sessions[session_id]

    def _make_room(self, session_id: str) -> None:
        keys = self._sessions.get(session_id, {})
        if len(keys) < self.max_states_per_session:
            return
        for key in keys:
            if self._entries[key].identifier.scope is StateScope.TEMPORARY and self.evict(key):
                return
        raise LimitError(f"a session has at most {self.max_states_per_session} states")

    def keys_of_session(self, session_id: str) -> list[str]:
        """The keys (list of str) of all states in memory that belong to a session."""
        return list(self._sessions.get(session_id, ()))

    def keep_for(self, entry: Entry, ttl: float | None) -> None:
        """Gives a state another idle time, in seconds; as for `entry`."""
        bucket = _bucket(entry.identifier, ttl)
        if bucket != entry.bucket:
            if entry.bucket is not None:
                self._idle[entry.bucket].pop(entry.identifier.key, None)
            entry.bucket = bucket
            self.touch(entry)

    def rename(self, key: str, identifier: StateIdentifier, ttl: float | None) -> None:
        """Gives the state under `key` another identifier; an open transaction on it commits under the new one.

        Nothing may watch the old key any more, and nothing be kept under the new one.
        """
        entry = self._entries[key]
        self._remove(entry)
        entry.identifier, entry.bucket = identifier, _bucket(identifier, ttl)
        old = entry.state._committed
        self.commits += 1
        # The version stays: it tells a state that nobody has changed yet.
        committed = Committed(identifier, old.version, self.commits, old.encoded, old.run)
        entry.state = entry.state._commit(entry.state._frozen_values(), committed)
        self._enter(entry)

    def drop(self, key: str, *, merged: bool = False) -> None:
        """Forgets the state under `key`, in use or not; with `merged` an open transaction on it can no more commit."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.merged = merged
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
        entry.used = self.clock()
        if entry.bucket is not None and self._entries.get(entry.identifier.key) is entry:
            order = self._idle.setdefault(entry.bucket, OrderedDict())
            order[entry.identifier.key] = None
            order.move_to_end(entry.identifier.key)

    def pin(self, entry: Entry) -> Entry:
        """Keeps a state in memory for a transaction; the entry to use, which is another one if it was replaced."""
        # What was merged stays out, and does not become what a late request began under its key: its commit is refused.
        known = self._entries.get(entry.identifier.key) if not entry.merged else None
        if known is None and not entry.merged:
            self._enter(entry)
        entry = known or entry
        entry.users += 1
        self.touch(entry)
        return entry

    def evict(self, key: str) -> bool:
        """Drops the state under `key` from memory; False when there is none, or somebody uses or watches it."""
        entry = self._entries.get(key)
        if entry is None or entry.users or self.hooks.is_watched(key):
            return False
        self._remove(entry)
        return True

    def sweep(self) -> int:
        """Drops every state that has been idle for its TTL and is not watched; returns how many (int)."""
        now, dropped = self.clock(), 0
        for ttl, order in self._idle.items():
            spared = []
            while order:
                key = next(iter(order))
                entry = self._entries[key]
                if entry.used + ttl > now:
                    break
                if entry.users or self.hooks.is_watched(key):
                    spared.append(entry)
                    order.pop(key)
                    continue
                self.evict(key)
                dropped += 1
            for entry in spared:  # its idle time begins when nobody looks any more
                self.touch(entry)
        self.expired += dropped
        return dropped

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
                self.hooks.swept()
            except Exception:
                logger.exception("the sweep of idle states failed; it is tried again")

    async def stop(self) -> None:
        """Ends the sweeper. States stay."""
        sweeper = self._sweeper
        if sweeper is not None and not sweeper.done() and sweeper.get_loop() is asyncio.get_running_loop():
            self._sweeper = None
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)

    # -- locks -----------------------------------------------------------------------------------------------------

    async def acquire(self, entry: Entry, owner: object) -> None:
        """Takes the state's lock for `owner`.

        Raises `LockTimeoutError` after `lock_timeout` seconds, and at once where waiting could never end: `owner`
        holds the lock already, or whoever holds it waits for one of `owner`'s.
        """
        self._refuse_deadlock(entry, owner)
        loop = asyncio.get_running_loop()
        if entry.loop is not loop and not entry.lock.locked():
            # asyncio's locks belong to the loop that first waited on them; a script's loop may have come before.
            entry.lock, entry.loop = asyncio.Lock(), loop
        self._waiting[owner] = entry
        try:
            async with asyncio.timeout(self.lock_timeout):
                await entry.lock.acquire()
        except TimeoutError as error:
            raise LockTimeoutError(
                f"{entry.identifier.key} was locked by another event for {self.lock_timeout:g} s"
            ) from error
        finally:
            self._waiting.pop(owner, None)
        entry.owner = owner

    def _refuse_deadlock(self, entry: Entry, owner: object) -> None:
        seen = entry
        for _ in range(len(self._waiting) + 1):
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
            if seen.owner is None or (after := self._waiting.get(seen.owner)) is None:
                return
            seen = after

    def release(self, entry: Entry) -> None:
        """Gives the lock back."""
        entry.owner = None
        entry.lock.release()
        self.touch(entry)

    @contextlib.asynccontextmanager
    async def answer_in_time(self, what: str) -> AsyncIterator[None]:
        """Gives the app's own code, run while locks are held, as long as a lock may take; else `LockTimeoutError`."""
        try:
            async with asyncio.timeout(self.lock_timeout):
                yield
        except TimeoutError as error:
            if isinstance(error, LockTimeoutError):
                raise
            raise LockTimeoutError(f"{what} took more than {self.lock_timeout:g} s") from error

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

    # -- commits ---------------------------------------------------------------------------------------------------

    def commit(self, changes: Iterable[tuple[Entry, Change]]) -> list[Commit]:
        """Swaps all changed states for their new snapshots, then tells the hooks. The locks are the caller's.

        No reader sees some of the changes and not the others: between the swaps nothing is awaited. Raises
        `StateNotFoundError`, with nothing changed, when one of the states has been merged into another meanwhile.
        """
        changes = list(changes)
        for entry, _ in changes:
            if entry.merged:
                raise StateNotFoundError("this state has become another one, since its user signed in: try again")
        done = []
        for entry, change in changes:
            old = entry.state
            self.commits += 1
            committed = Committed(
                entry.identifier, old._committed.version + 1, self.commits, change.encoded, self.hooks.run
            )
            entry.state = change.base._commit(change.values, committed)
            done.append(Commit(old, entry.state, change.changed, change.delta, self.commits))
        for commit in done:
            self.hooks.committed(commit)
        return done

    def broadcast_to_state(self, state_key: str, event_data: Mapping[str, Any]) -> Awaitable[int]:
        """Sends signals (a dict of field to value) to all that watch `state_key`, without changing the state.

        Sent when the call returns; awaiting the result, the number of connections (int), is possible and not needed.
        """
        return self.hooks.broadcast(state_key, event_data)


def _bucket(identifier: StateIdentifier, ttl: float | None) -> float | None:
    return DEFAULT_TTL[identifier.scope] if ttl is None else ttl if ttl != math.inf else None
