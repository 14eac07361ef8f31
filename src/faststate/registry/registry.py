"""The registry: from a key to the live state. Finds it in memory, loads it or creates it, and locks it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast

from ..exceptions import ConfigurationError, FastStateError, VersionConflict
from ..scheduling.running import RunningEvents
from ..scopes import StateIdentifier, StateScope, Version
from ..state.reactive import ReactiveState
from ..state.serving import ServingProvider
from ..stores.base import Write
from .commits import Committer
from .creating import Create, create_by_class, create_state, not_found
from .ends import StateEnd
from .entries import Entry, LiveEntries, finite, idle_time, initial_epoch, initial_wire, is_initial
from .lifetimes import Lifetimes, Limits, Sweeper
from .locks import Locks
from .persistence import Loaded, Persistence, persistence_errors
from .protocols import ClientFinder, Cluster, Followers
from .usage import Usage, told_at

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)


class StateRegistry:
    """All live states of a process, by key. Lifetime: the provider.

    `clock` returns seconds, monotonic. `lock_timeout` and `store_timeout` are in seconds; the numbers of states that
    memory holds are in `Limits`. A process numbers its commits: `epoch` is the process's random name (str), `commits`
    the number of the last commit. `persistence` says for classes where their states outlive the process. `lifetimes`
    keeps states in memory while they are used, and `usage` tells the store of their use.
    """

    def __init__(
        self,
        followers: Followers | None = None,
        clients: ClientFinder | None = None,
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
        self.clock = clock
        self.lock_timeout = lock_timeout
        self.store_timeout = store_timeout
        self.epoch = secrets.token_hex(6)
        self.persistence: dict[type[ReactiveState], Persistence] = {}
        self.followers = followers = followers or Followers()
        clients = clients or ClientFinder()
        self.cluster = cluster(self) if cluster is not None else Cluster(None, store_timeout)
        self.locks = Locks(lock_timeout, clients, self.cluster)
        self.running = RunningEvents()
        self.committer = Committer(followers, self.cluster, clock, store_timeout, self.remove, serving)
        self.live = LiveEntries()
        self.usage = Usage(self.live, self.cluster, clock, store_timeout)
        limits = Limits(max_states, max_states_per_session, max_states_per_address)
        self.lifetimes = Lifetimes(self.live, self.usage, limits, followers, clients, self.cluster, clock)
        self.sweeper = Sweeper(self.lifetimes, self.usage, followers)
        self._serving = serving
        self._loading: dict[str, asyncio.Future[Entry]] = {}

    @property
    def commits(self) -> int:
        """The number of this process's last commit."""
        return self.committer.number

    def __len__(self) -> int:
        return len(self.live)

    def __contains__(self, key: object) -> bool:
        return key in self.live

    # -- finding ---------------------------------------------------------------------------------------------------

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
        """The entry of a state, loaded or created when there is none in memory; as `get_state`.

        `ttl` is the idle time in seconds; None for that of the scope, `math.inf` for never. `create` makes the first
        values of a state. What it raises, `StateNotFoundError` when it returns None, and the `PersistenceError` of a
        state that cannot be loaded, go to all who wait for the state.
        """
        key, persistence = identifier.key, self.persistence.get(cls)
        if (found := self.in_memory(identifier, cls)) is not None:
            return found
        if create is None and persistence is None:
            # Nothing is awaited here: creation is single-flight by being atomic on the loop.
            return self._add(identifier, create_by_class(identifier, cls, initial), ttl, by_class=not initial)
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
        found = self.live.get(identifier.key)
        if found is None:
            return None
        if type(found.state) is not cls and not isinstance(found.state, cls):
            raise ConfigurationError(
                f"the state {identifier.key} is a {type(found.state).__name__}, not a {cls.__name__}"
            )
        self.lifetimes.touch(found)
        return found

    def unseen(self, identifier: StateIdentifier, cls: type[ReactiveState], ttl: float | None) -> Entry | None:
        """A new entry, as its class makes it, for a state that is about to be locked; None if it has to be loaded.

        What is stored comes with the lock.
        """
        persistence = self.persistence.get(cls)
        if persistence is None or not persistence.in_store or not cls._fs_schema().reproducible:
            return None
        if identifier.key in self._loading or identifier.key in self.usage:
            return None
        return self._add(identifier, cls(**{}), ttl, persistence=persistence, by_class=True)

    async def known(self, identifier: StateIdentifier) -> Entry | None:
        """The entry of a state that is in memory or on its way there, or None; does not count as use."""
        loading = self._loading.get(identifier.key)
        if loading is not None:
            with suppress(Exception):  # told to those who asked for it
                await asyncio.shield(loading)
        return self.live.get(identifier.key)

    def peek(self, key: str) -> ReactiveState | None:
        """The committed snapshot under `key`, or None; does not count as use."""
        entry = self.live.get(key)
        return entry.state if entry is not None else None

    def find(self, key: str) -> Entry | None:
        """The entry under `key`, or None; does not count as use."""
        return self.live.get(key)

    def keys_of_session(self, session_id: str) -> list[str]:
        """The keys (list of str) of all states in memory that belong to a session."""
        return list(self.live.by_session.get(session_id, ()))

    # -- loading and creating --------------------------------------------------------------------------------------

    def _loaded(self, key: str, loading: asyncio.Future[Entry]) -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # asked for, so that asyncio does not report it where nobody waits any more

    async def _load_or_create(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        ttl: float | None,
        create: Create | None,
        initial: Mapping[str, Any],
        persistence: Persistence | None,
    ) -> Entry:
        if identifier.key in self.usage:
            await self.usage.tell_store([identifier.key])  # that it was used until it left memory
        loaded = await persistence.load(identifier) if persistence is not None else None
        # Meanwhile a sign-in may have brought a guest's state here.
        if (found := self.live.get(identifier.key)) is not None:
            return found
        if loaded is not None:
            return self._add(identifier, loaded.state, ttl, persistence=persistence, loaded=loaded)
        if persistence is not None and not persistence.in_store:
            raise not_found(identifier)
        fresh = await create_state(identifier, cls, create, initial, self.store_timeout)
        by_class = create is None and not initial
        is_reproducible = by_class and cls._fs_schema().reproducible
        if identifier.scope is StateScope.TEMPORARY and self.cluster.is_shared:
            is_reproducible = False  # or another process could not tell a new one from one that has ended
        if persistence is None or is_reproducible:
            # What the class itself makes again is stored with its first change: a robot's visits leave nothing behind.
            found = self.live.get(identifier.key)
            return found or self._add(identifier, fresh, ttl, persistence=persistence, by_class=by_class)
        return await self._add_stored(identifier, fresh, ttl, persistence)

    async def _add_stored(
        self, identifier: StateIdentifier, fresh: ReactiveState, ttl: float | None, persistence: Persistence
    ) -> Entry:
        """Store a new state, whose values nothing would make again, and add it."""
        if identifier.session_id is not None:
            self.lifetimes.make_room_in_session(identifier.session_id, is_new=True)
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
        if (found := self.live.get(identifier.key)) is not None:
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
            self.lifetimes.make_room_in_session(identifier.session_id, is_new=loaded is None)
        schema = type(fresh)._fs_schema()
        if loaded is not None:
            version = loaded.version
        elif by_class and schema.reproducible:
            version = Version(initial_epoch(type(fresh), fresh), 1)
        else:
            version = Version(secrets.token_hex(6), 1)
        is_of_class = is_initial(version) and not schema.computed
        encoded = initial_wire(type(fresh), fresh) if is_of_class else fresh._wire(self._serving)
        state = self.committer.snapshot(fresh._frozen_copy(), identifier, version, encoded, versioned=schema.versioned)
        entry = Entry(identifier, idle_time(identifier, ttl), state, persistence)
        if loaded is not None:
            entry.stored = version
            now = self.clock()
            entry.touched = told_at(now, entry.ttl, loaded.ttl)
            entry.remember_stamped(loaded.nonces, now)
        self.lifetimes.make_room()
        self.lifetimes.enter(entry)
        self.sweeper.start()
        return entry

    # -- use -------------------------------------------------------------------------------------------------------

    def pin(self, entry: Entry) -> Entry:
        """Keep a state in memory for a transaction; returns the entry to use, another one if it was replaced."""
        # What was merged stays out, and does not become what a late request began under its key: its commit is refused.
        known = self.live.get(entry.identifier.key) if entry.end is None else None
        if known is None and entry.end is None:
            self.lifetimes.make_room()
            self.lifetimes.enter(entry)
        entry = known or entry
        entry.users += 1  # which keeps it here; when its lock is released that counts as use
        return entry

    @asynccontextmanager
    async def locked(self, entries: Iterable[Entry], owner: object | None = None) -> AsyncIterator[None]:
        """Hold the locks of some states, so that nobody commits to them, in no process.

        Raises `LockTimeoutError`, `PersistenceError`, and `OutdatedError` for one that is no more.
        """
        taken = [entry for entry in entries if entry.end is None]
        for entry in taken:
            entry.users += 1  # dropped meanwhile, it would be created again with a lock of its own
        try:
            async with self.locks.locked(taken, owner):
                await self.cluster.lock(taken)
                yield
        finally:
            for entry in taken:
                entry.users -= 1

    def release(self, entry: Entry) -> None:
        """Release a state's lock, which was its use."""
        self.locks.release(entry)
        self.lifetimes.touch(entry)

    def in_store_time(self, message: str) -> AbstractAsyncContextManager[None]:
        """Give the store its time, and raise all its failures as `PersistenceError`s that begin with `message`."""
        return persistence_errors(message, self.store_timeout)

    def broadcast_to_state(self, state_key: str, event_data: Mapping[str, Any]) -> Awaitable[int]:
        """Send signals (a dict of field to value) to all that watch `state_key`, without changing the state.

        They are sent when the call returns; awaiting the result, the number of connections (int), is possible and not
        needed.
        """
        return self.followers.broadcast(state_key, event_data)

    # -- ends ------------------------------------------------------------------------------------------------------

    def rename(self, key: str, identifier: StateIdentifier, ttl: float | None) -> None:
        """Give the state under `key` another identifier; an open transaction on it commits under the new one.

        Nothing may watch the old key any more, and nothing be kept under the new one.
        """
        entry = self.live[key]
        self.lifetimes.leave(entry)
        self.usage.forget(key)
        entry.identifier, entry.ttl = identifier, idle_time(identifier, ttl)
        # The version stays: it tells a state that nobody has changed yet.
        encoded, schema = entry.state._committed.encoded, type(entry.state)._fs_schema()
        entry.state = self.committer.snapshot(
            entry.state._frozen_copy(), identifier, entry.version, encoded, versioned=schema.versioned
        )
        self.lifetimes.enter(entry)

    def drop(self, key: str, *, merged: bool = False) -> None:
        """Forget the state under `key`, in use or not: its session is over, or it was `merged` into another.

        An open transaction on it cannot commit any more; one on a merged state is told so.
        """
        if (entry := self.live.get(key)) is not None:
            self._end(entry, StateEnd.MERGED if merged else StateEnd.SESSION_OVER)

    def remove(self, entry: Entry, end: StateEnd) -> None:
        """Forget a state that is no more, and tell its followers."""
        self._end(entry, end)
        self.followers.removed(entry.state, end.message)

    def _end(self, entry: Entry, end: StateEnd) -> None:
        key, entry.end = entry.identifier.key, end
        self.usage.forget(key)
        if self.live.get(key) is entry:
            self.lifetimes.leave(entry)

    def forget_stored(self) -> None:
        """Drop from memory what can be loaded again, and nobody uses: others may have changed it since."""
        for entry in [entry for entry in self.live.values() if entry.persistence is not None]:
            if entry.users:
                entry.doubtful = True
            else:
                self.lifetimes.leave(entry)

    # -- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the sweeper on this event loop, which is the app's: a script's may have been the first to need it."""
        self.sweeper.tells_store = True
        self.sweeper.end()
        self.sweeper.start()

    async def stop(self) -> None:
        """End the sweeper, and wait for commits under way. States stay."""
        self.sweeper.tells_store = False
        await self.committer.commits_under_way()
        for entry in self.live.values():
            self.usage.note_unless_told(entry)
        try:
            await self.usage.tell_store()
        except FastStateError:
            logger.exception("the store could not be told which states were used")
        if (sweeper := self.sweeper.end()) is not None:
            await asyncio.gather(sweeper, return_exceptions=True)
