"""The neighbours of a registry: pages that follow its states, clients whom its code serves, the cluster of processes.

Each class itself is the neighbour of a registry without a provider, as in scripts and tests; a provider overrides it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..scheduling.queues import SERVER, Client
from ..scopes import Version
from ..state.reactive import ReactiveState
from ..stores.base import StateStore, Write
from .entries import Commit, Entry, EntryChange, Nonce
from .persistence import write_all


class Followers:
    """The pages that follow states: none, unless a subclass says otherwise. Lifetime: the provider."""

    def committed(self, commit: Commit) -> None:
        """Send a commit to the followers of its state."""

    def removed(self, state: ReactiveState, reason: str) -> None:
        """Take a state off all pages that show it; `reason` (str) says why it is no more."""

    def is_watched(self, key: str) -> bool:
        """True if any connection follows the state with this key."""
        return False

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        """Send `data` to the followers of the state with this key, and return how many (int) they are."""
        raise NotImplementedError("a registry without a provider has no connections to broadcast to")

    def swept(self) -> None:
        """Drop what is idle: the registry has just swept its states."""


class ClientFinder:
    """Tells on whose behalf the current code runs: the server's own. Lifetime: the provider."""

    def client(self) -> Client:
        """The client that waits for this code; `SERVER` for the server's own code."""
        return SERVER

    def address(self) -> str:
        """The client address (str) of the current request, empty for none."""
        return ""


class Cluster:
    """The processes that serve one app. Lifetime: the registry.

    This class is the cluster of one process, which has nothing to lock or to tell beyond its own `store` (None where
    states live in memory alone). `store_timeout` is in seconds. `is_shared` is True if other processes change the same
    states. `trusts_memory` is True if a locked state in memory is what is stored, unless its entry is `doubtful`: the
    store belongs to this process only between start and stop, since a script has it for the time of each call.
    """

    is_shared = False

    def __init__(self, store: StateStore | None = None, store_timeout: float = 10.0) -> None:
        self.store = store
        self.trusts_memory = False
        self._store_timeout = store_timeout

    # -- locks and commits -----------------------------------------------------------------------------------------

    async def lock(self, entries: Sequence[Entry], nonce: Nonce | None = None) -> bool | None:
        """Lock states among the processes, and take in what others have changed. The caller has the local locks.

        Returns True if the store has the `nonce` beside its state; None where the store need not be asked. Raises
        `LockTimeoutError`, `PersistenceError`, and `OutdatedError` for a state that is gone.
        """
        return None

    def release(self, entry: Entry) -> None:
        """Release a state's lock among the processes, or keep it for the next local transaction that waits."""

    def under_way(self) -> AbstractContextManager[None]:
        """Return a context in which a commit is made: others may hear of it before the pages of this process do."""
        return nullcontext()

    def nonces(self, entry: Entry, now: float, added: Sequence[str]) -> list[str]:
        """The nonces (digests) to save with a state: the recent ones, and those `added` behind them."""
        return [*entry.recent_nonces(now), *added]

    async def assert_held(self, entries: Sequence[Entry]) -> None:
        """Raise `LockLostError` if another process may have taken the lock of one of these states."""

    async def save(
        self, changes: Sequence[EntryChange], versions: Sequence[Version], writes: list[Write]
    ) -> list[bytes] | None:
        """Make a commit's `writes`, and tell the other processes of it.

        Returns for each of the changes the frames (bytes) that bring a page from the old signals to the new,
        where they were encoded for the others; else None. Raises `VersionConflict`, `LockLostError` and
        `PersistenceError`.
        """
        if writes and self.store is not None:
            await write_all(writes, self.store, self._store_timeout)
        return None

    def save_failed(self, entry: Entry) -> None:
        """Release a state's lock as unclean, and bring all processes in step again: its save may have succeeded."""

    async def learn_of_ends(self, session_ids: Iterable[str]) -> None:
        """Ask the store if one of these sessions, or the caller's own, has ended in another process."""

    # -- how long states are kept ----------------------------------------------------------------------------------

    def shortened(self, entry: Entry) -> None:
        """Note that a state has less time to live from now on, for the next `tell_use`."""

    async def tell_use(self, ttls: Mapping[str, float | None], entries: Mapping[str, Entry]) -> None:
        """Tell the store how many more seconds (None for ever) it has to keep these states.

        Both mappings are by key. Raises `PersistenceError`.
        """
        if self.store is not None:
            await self.store.touch(ttls)

    def unwatched(self, key: str) -> None:
        """Note that the last follower of a state has gone."""
