"""A cluster of one process: nothing to lock, to tell or to look up beyond its own store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from ..scopes import Version
from ..stores.base import StateStore, Write
from .entries import Entry, EntryChange, Nonce
from .persistence import write_all

__all__ = ["OneProcess"]


class OneProcess:
    """The registry's `Cluster` where no other process changes the states. Lifetime: the registry.

    `store_timeout` is in seconds. The store belongs to this process only between start and stop: a script has it for
    the time of each call, and loads what it changes.
    """

    is_shared = False

    def __init__(self, store: StateStore | None = None, store_timeout: float = 10.0) -> None:
        self.store = store
        self.trusts_memory = False
        self._store_timeout = store_timeout

    async def lock(self, entries: Sequence[Entry], nonce: Nonce | None = None) -> None:
        return None

    def release(self, entry: Entry) -> None:
        pass

    def under_way(self) -> AbstractContextManager[None]:
        return nullcontext()

    def nonces(self, entry: Entry, now: float, added: Sequence[str]) -> list[str]:
        return [*entry.recent_nonces(now), *added]

    async def assert_held(self, entries: Sequence[Entry]) -> None:
        pass

    async def save(self, changes: Sequence[EntryChange], versions: Sequence[Version], writes: list[Write]) -> None:
        if writes and self.store is not None:
            await write_all(writes, self.store, self._store_timeout)

    def save_failed(self, entry: Entry) -> None:
        pass

    async def learn_of_ends(self, session_ids: Iterable[str]) -> None:
        pass

    def shortened(self, entry: Entry) -> None:
        pass

    async def tell_use(self, ttls: Mapping[str, float | None], entries: Mapping[str, Entry]) -> None:
        if self.store is not None:
            await self.store.touch(ttls)

    def unwatched(self, key: str) -> None:
        pass
