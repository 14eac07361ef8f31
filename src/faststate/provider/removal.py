"""States that vanish from pages: their user may not see them any more, or they have ended."""

from __future__ import annotations

from typing import Final

from ..scopes import StateScope
from ..sse.connection import SSEConnection
from ..sse.manager import SSEManager
from ..state.reactive import ReactiveState
from ..wire.frames import message_frame, reload_frame, vanish_frame

__all__ = ["GONE", "Removal"]

GONE: Final = "This is not there any more."
"""Message shown when a record is deleted while a page displays it."""


class Removal:
    """Takes states off the pages that show them. Lifetime: the provider."""

    def __init__(self, manager: SSEManager) -> None:
        self._manager = manager

    def take_from(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Take a state off one page, which is told nothing more of it."""
        if connection.topic(state._committed.identifier.key) is None:
            return  # silenced, or told that the state has ended, while its user was being asked about
        frame = self._unfollow(connection, state)
        if connection.topics:
            connection.send_frame(frame)
        else:
            self._manager.dismiss(connection, frame + reload_frame())

    def take_from_all(self, state: ReactiveState) -> None:
        """Take a state that has ended off all pages. Pages of a record say that it is gone; other pages reload."""
        identifier = state._committed.identifier
        for connection in self._manager.watchers(identifier.key):
            if connection.closed:
                continue
            frame = self._unfollow(connection, state)
            if identifier.scope is StateScope.RECORD:
                connection.send_frame(frame + message_frame(GONE, 404))
            else:
                self._manager.dismiss(connection, frame + reload_frame())

    def _unfollow(self, connection: SSEConnection, state: ReactiveState) -> bytes:
        """Let a page follow a state no longer; return the frames (bytes) that take it off the page."""
        committed = state._committed
        key = committed.identifier.key
        frame = vanish_frame(committed.namespace, type(state)._fs_schema().signals, connection.audience(key).views)
        self._manager.unfollow(connection, key)
        return frame
