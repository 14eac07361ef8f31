"""Rights that change while pages are open: which users' rights changed, and the streams that are ended for it."""

from __future__ import annotations

import json
import logging
import secrets
from collections import OrderedDict
from typing import Final

from ..auth.users import UserContext
from ..cluster.base import AppCluster
from ..cluster.messages import How, RightsChanged
from ..scopes import Id
from ..sse.connection import SSEConnection
from ..sse.manager import SSEManager
from ..stores.base import Write
from ..wire.frames import reload_frame, reopen_frame
from .ended import NOTE_VERSION

logger = logging.getLogger("faststate")

RIGHTS: Final = "rights"
"""Group, and first part of the key, of the notes of changed rights in a store of many processes. No scope has this
name."""

RIGHTS_KEPT: Final = 3_600.0
"""Seconds for which the store keeps them. A process that was cut off for longer asks for all rights again."""

CHANGES_KEPT: Final = 10_000
"""Users whose last change of rights is remembered; only requests that are under way ask for it."""


class Rights:
    """The users of one app whose rights changed lately. Lifetime: the provider.

    `changes` counts all changes. A request that began before its user's last change must not go on.
    """

    def __init__(self, cluster: AppCluster, manager: SSEManager) -> None:
        self._cluster = cluster
        self._manager = manager
        self.changes = 0
        self._last: OrderedDict[str, int] = OrderedDict()  # per user: the number of the last change
        self._forgotten = 0  # the newest change that is not in there any more

    def changed(self, user: UserContext | None, since: int) -> bool:
        """True if the rights of `user` changed after `since` changes had been counted."""
        return user is not None and self._last.get(str(user.id), self._forgotten) > since

    def change(self, user_id: Id, how: How) -> int:
        """End a user's streams, and have the pages reload or open them again; returns how many (int)."""
        self.changes += 1
        self._last[str(user_id)] = self.changes
        self._last.move_to_end(str(user_id))
        if len(self._last) > CHANGES_KEPT:
            self._forgotten = self._last.popitem(last=False)[1]
        frame = reload_frame() if how == "disconnect" else reopen_frame()
        return self._dismiss(self._manager.connections_of(user_id=user_id), frame)

    async def tell_others(self, user_id: Id, how: How) -> None:
        """Tell the other processes about a change. Raises `PersistenceError`."""
        data = json.dumps([str(user_id), how]).encode()
        note = Write(f"{RIGHTS}:{secrets.token_hex(8)}", None, NOTE_VERSION, data, RIGHTS_KEPT, RIGHTS)
        await self._cluster.tell_rights(note, RightsChanged(str(user_id), how))

    async def learn_since(self, commit: int, away: float) -> None:
        """Learn the changes that others noted after the store's commit of this number, after `away` seconds cut off.

        Raises `PersistenceError`.
        """
        if away > RIGHTS_KEPT:
            self.changes += 1
            self._last.clear()
            self._forgotten = self.changes
            self._dismiss(list(self._manager.connections.values()), reopen_frame())
            return
        for key, stored in (await self._cluster.noted_since(RIGHTS, commit)).items():
            try:
                user_id, how = json.loads(stored.data)
            except (ValueError, TypeError, RecursionError):
                logger.exception("the note of changed rights %s cannot be read; it is passed over", key)
                continue
            self.change(user_id, how)

    def _dismiss(self, connections: list[SSEConnection], frame: bytes) -> int:
        for connection in connections:
            self._manager.dismiss(connection, frame)
        return len(connections)
