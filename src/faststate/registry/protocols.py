"""The neighbours of a registry: pages that follow its states, the callers of its code, and the cluster of processes.

A registry without a provider, as in scripts and tests, has `Nobody` and, in `alone`, a cluster of one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..scheduling.queues import SERVER, Client
from ..scopes import Version
from ..state.reactive import ReactiveState
from ..stores.base import StateStore, Write
from .entries import Commit, Entry, EntryChange, Nonce

__all__ = ["Callers", "Cluster", "Followers", "Nobody"]


class Followers(Protocol):
    """The pages that follow states. Lifetime: the provider."""

    def committed(self, commit: Commit) -> None:
        """Send a commit to the followers of its state."""

    def removed(self, state: ReactiveState, reason: str) -> None:
        """Take a state off all pages that show it; `reason` (str) says why it is no more."""

    def is_watched(self, key: str) -> bool:
        """True if any connection follows the state with this key."""

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        """Send `data` to the followers of the state with this key, and return how many (int) they are."""

    def swept(self) -> None:
        """Drop what is idle: the registry has just swept its states."""


class Callers(Protocol):
    """Tells on whose behalf the current code runs. Lifetime: the provider."""

    def client(self) -> Client:
        """The client that waits for this code; `SERVER` for the server's own code."""

    def address(self) -> str:
        """The client address (str) of the current request, empty for none."""


class Nobody:
    """No followers and no callers: for a registry without a provider. Lifetime: the registry."""

    def committed(self, commit: Commit) -> None:
        pass

    def removed(self, state: ReactiveState, reason: str) -> None:
        pass

    def is_watched(self, key: str) -> bool:
        return False

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        raise NotImplementedError("a registry without a provider has no connections to broadcast to")

    def swept(self) -> None:
        pass

    def client(self) -> Client:
        return SERVER

    def address(self) -> str:
        return ""


class Cluster(Protocol):
    """The processes that serve one app: this one alone, or many with one store. Lifetime: the registry."""

    store: StateStore | None
    """Where states outlive the process, None for nowhere."""

    is_shared: bool
    """True if other processes change the same states."""

    trusts_memory: bool
    """True if a locked state in memory is what is stored, unless its entry is `doubtful`."""

    # -- locks and commits -----------------------------------------------------------------------------------------

    async def lock(self, entries: Sequence[Entry], nonce: Nonce | None = None) -> bool | None:
        """Lock states among the processes, and take in what others have changed. The caller has the local locks.

        Returns True if the store has the `nonce` beside its state; None where the store need not be asked. Raises
        `LockTimeoutError`, `PersistenceError`, and `OutdatedError` for a state that is gone.
        """

    def release(self, entry: Entry) -> None:
        """Release a state's lock among the processes, or keep it for the next local transaction that waits."""

    def under_way(self) -> AbstractContextManager[None]:
        """Return a context in which a commit is made: others may hear of it before the pages of this process do."""

    def nonces(self, entry: Entry, now: float, added: Sequence[str]) -> list[str]:
        """The nonces (digests) to save with a state: the recent ones, and those `added` behind them."""

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

    def unwatched(self, key: str) -> None:
        """Note that the last follower of a state has gone."""
