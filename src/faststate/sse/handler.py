"""The seed's name for sending changed values to those who see a state."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from ..exceptions import IdentifierError
from ..scopes import Id
from .manager import SSEManager

__all__ = ["StateEventHandler"]


class StateEventHandler:
    """Sends a change to all who see it by the scope of its key. Lifetime: the provider.

    A key of any scope names exactly the states of those who share it (all sessions of a user have one key), so to
    follow the key is to be in the scope.
    """

    def __init__(self, sse_manager: SSEManager, state_provider: Any = None) -> None:
        self.sse_manager = sse_manager
        self.state_provider = state_provider

    def handle_state_change(
        self, state_key: str, changed_data: Mapping[str, Any], user_id: Id | None = None
    ) -> Awaitable[int]:
        """Send changed fields of `state_key` to all that follow it; return the number of connections (int).

        `user_id` names the user who made the change; everybody sees it, that user's other tabs too. The result may be
        awaited, and need not be. Raises `IdentifierError` for a text that is not a key.
        """
        if not state_key:
            raise IdentifierError("the state key is empty")
        return self.sse_manager.broadcast_to_state(state_key, changed_data)
