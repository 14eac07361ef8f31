"""An app of many processes: they share locks, commits and news through one store."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from ..exceptions import FastStateError, VersionConflict
from ..registry.entries import Entry
from ..registry.persistence import Persistence
from ..registry.registry import StateRegistry
from ..registry.sync_calls import loop_for_scripts
from ..scheduling.loops import call_now_or_on
from ..scopes import Id, StateIdentifier
from ..stores.backplane import Message
from ..stores.base import SharedStore, Stored, Write
from ..wire.values import to_wire
from .base import News
from .committing import CommittingCluster, ended_message
from .following import Following
from .messages import (
    APP,
    AppMessage,
    Broadcast,
    ReloadPages,
    RightsChanged,
    ShowState,
    StateMessage,
    StateRemoved,
    decode_stats,
    encode,
)

logger = logging.getLogger("faststate")

_CONNECTION_ID: Final = re.compile(r"[0-9a-f]{12}\.[A-Za-z0-9_-]{16}")
"""The form of `SharedCluster.new_stream_id`."""


class SharedCluster(CommittingCluster):
    """The `AppCluster` of many processes with one store. Lifetime: the provider.

    `following` hears what the other processes have changed, and `announcer` tells them what has changed here.
    """

    def __init__(self, store: SharedStore, registry: StateRegistry, news: News) -> None:
        super().__init__(store, registry, news)
        self.announcer = Announcer(store)
        self.following = Following(store, self, registry, news)
        self._told_up_to = "."

    async def start(self) -> None:
        self.announcer.start()
        await self.following.start()

    async def stop(self) -> None:
        await self.following.stop()
        await self.announcer.stop()  # last: until it hears nothing more, this process may have something to tell

    def others(self) -> Sequence[Mapping[str, Any]]:
        found = [decode_stats(body) for body in self.store.members.values()]
        return [each.stats for each in found if each is not None and each.process != self._registry.epoch]

    # -- locks and commits -----------------------------------------------------------------------------------------

    def nonces(self, entry: Entry, now: float, added: Sequence[str]) -> list[str]:
        return entry.stamped_nonces(now, added)

    def save_failed(self, entry: Entry) -> None:
        self.give_up(entry)
        self.following.recover(entry)

    async def learn_of_ends(self, session_ids: Iterable[str]) -> None:
        acting = self._news.acting()
        for session_id in dict.fromkeys([*session_ids, *([acting] if acting is not None else [])]):
            with suppress(FastStateError):
                await self._news.look_up_session(session_id)

    async def deleted(self, identifier: StateIdentifier, persistence: Persistence | None) -> None:
        if persistence is not None:
            await persistence.delete_mark(identifier)
            await self.announcer.send(identifier.key, StateRemoved())

    # -- what is newer elsewhere -----------------------------------------------------------------------------------

    def is_current(self, key: str) -> bool:
        return self.following.is_current(key)

    # -- how long states are kept ----------------------------------------------------------------------------------

    def shortened(self, entry: Entry) -> None:
        entry.own_shared().shortened = True

    async def tell_use(self, ttls: Mapping[str, float | None], entries: Mapping[str, Entry]) -> None:
        shortened = {key: shared for key in ttls if (shared := entries[key].shared).shortened}
        await self.store.extend({key: ttl for key, ttl in ttls.items() if key not in shortened})
        await self.store.touch({key: ttls[key] for key in shortened})
        for shared in shortened.values():
            shared.shortened = False

    async def end_soon(self, key: str, ttl: float) -> None:
        await self.store.touch({key: ttl})

    # -- pages -----------------------------------------------------------------------------------------------------

    def holding(self) -> AbstractContextManager[dict[str, None]]:
        return self.following.holding()

    async def follow(self, entries: Sequence[Entry], held: dict[str, None]) -> bool:
        return await self.following.follow(entries, held)

    def unwatched(self, key: str) -> None:
        self.following.unwatched(key)

    def note_typed(self, entry: Entry, page: str, fields: Iterable[str], number: int) -> list[str] | None:
        return entry.own_shared().note_typed(page, fields, number) if entry.in_store else None

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        sent = {str(name): to_wire(value) for name, value in values.items()}
        self.announcer.send_soon(key, Broadcast(sent, None if but_user is None else str(but_user)))

    async def show(self, key: str, page: str | None, session_id: str | None) -> None:
        await self.announcer.send(key, ShowState(page, session_id))

    def new_stream_id(self) -> str | None:
        return f"{self._registry.epoch}.{secrets.token_urlsafe(12)}"

    def is_elsewhere(self, connection_id: str) -> bool:
        own = f"{self._registry.epoch}."
        return _CONNECTION_ID.fullmatch(connection_id) is not None and not connection_id.startswith(own)

    def position(self, *, settled: bool) -> str:
        if settled:
            self._told_up_to = f"{self.following.timeline}.{self.following.sequence}"
        return f".{self._told_up_to}"

    def seen(self, position: str | None) -> int | None:
        parts = (position or "").split(".")
        if len(parts) != 4 or parts[0] == self._registry.epoch:
            return None
        is_known = parts[2] == self.store.timeline and parts[3].isdecimal() and len(parts[3]) < 20
        return int(parts[3]) if is_known else None

    # -- sessions --------------------------------------------------------------------------------------------------

    async def end_session(self, note: Write, stored: Mapping[str, Stored], *, is_noted: bool) -> Mapping[str, Stored]:
        message = ended_message(note)
        if is_noted:
            with suppress(VersionConflict):  # it was there already
                await self.store.commit([note], [Message(APP, encode(message))])
        else:
            await self.announcer.send(APP, message)
        # With what others have committed before they heard of it.
        return await self.store.group(message.session_id)

    def reload_pages(self, session_id: str) -> None:
        self.announcer.send_soon(APP, ReloadPages(session_id))

    async def tell_rights(self, note: Write, message: RightsChanged) -> None:
        await self.store.commit([note], [Message(APP, encode(message))])

    async def noted_since(self, group: str, commit: int) -> Mapping[str, Stored]:
        return await self.store.group_since(group, commit)


class Announcer:
    """Sends this process's messages to the others. Lifetime: the cluster."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send on this event loop, the app's, from now on."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Wait until all has been sent, also what is told meanwhile."""
        while self._sending:
            await asyncio.wait(self._sending)
        self._loop = None

    async def send(self, topic: str, message: StateMessage | AppMessage) -> None:
        """Send a message to all processes that follow `topic`. Raises `BackplaneError`."""
        await self._store.publish([Message(topic, encode(message))])

    def send_soon(self, topic: str, message: StateMessage | AppMessage) -> None:
        """Send a message in the background, from any thread; a failure is logged."""

        async def send() -> None:
            try:
                await self.send(topic, message)
            except FastStateError:
                logger.exception("other processes could not be told")

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(send(), name="faststate-tell")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

        if self._loop is None:  # a script
            asyncio.run_coroutine_threadsafe(send(), loop_for_scripts())
        else:
            call_now_or_on(self._loop, begin)
