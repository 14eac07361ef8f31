"""An app of one process: nobody else changes its states, shows its pages or ends its sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from ..exceptions import VersionConflict
from ..registry.alone import OneProcess
from ..registry.entries import Entry
from ..registry.persistence import Persistence
from ..scopes import Id, StateIdentifier
from ..stores.base import Stored, Write
from .messages import RightsChanged

__all__ = ["LocalCluster"]


class LocalCluster(OneProcess):
    """The `AppCluster` of one process. Lifetime: the provider."""

    async def start(self) -> None:
        self.trusts_memory = True

    async def stop(self) -> None:
        self.trusts_memory = False

    def others(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def is_current(self, key: str) -> bool:
        return True

    async def freshen(self, entries: Iterable[Entry]) -> None:
        pass

    async def last_changes(self, entries: Iterable[Entry]) -> Mapping[str, int]:
        return {}

    async def renew(self, entry: Entry) -> None:
        pass

    async def deleted(self, identifier: StateIdentifier, persistence: Persistence | None) -> None:
        pass

    async def end_soon(self, key: str, ttl: float) -> None:
        pass

    def holding(self) -> AbstractContextManager[dict[str, None]]:
        return nullcontext({})

    async def follow(self, entries: Sequence[Entry], held: dict[str, None]) -> bool:
        return True

    def note_typed(self, entry: Entry, page: str, number: int) -> bool | None:
        return None

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        pass

    async def show(self, key: str, page: str | None, session_id: str | None) -> None:
        pass

    def new_stream_id(self) -> str | None:
        return None

    def is_elsewhere(self, connection_id: str) -> bool:
        return False

    def position(self, *, settled: bool) -> str:
        return ""

    def seen(self, position: str | None) -> int | None:
        return None

    async def end_session(self, note: Write, stored: Mapping[str, Stored], *, is_noted: bool) -> Mapping[str, Stored]:
        if is_noted and self.store is not None:
            with suppress(VersionConflict):  # it was there already
                await self.store.save(note)
        return stored

    def reload_pages(self, session_id: str) -> None:
        pass

    async def tell_rights(self, note: Write, message: RightsChanged) -> None:
        pass

    async def noted_since(self, group: str, commit: int) -> Mapping[str, Stored]:
        return {}
