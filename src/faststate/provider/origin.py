"""Where a commit comes from: the page whose event is running, and the client that waits for it."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..auth.limits import network_of
from ..auth.users import current_request
from ..registry.entries import Commit
from ..scheduling.queues import SERVER, Client
from ..sessions.caller import SESSION_ID

__all__ = ["CurrentCallers", "Origin", "origin_of_commits"]

NO_ADDRESS: Final = "unknown"
"""Stands for the addresses of all clients of a server that sees none, as on a Unix socket."""


@dataclass(slots=True)
class Origin:
    """The page whose event is running. Lifetime: the event.

    `echo` holds the bound fields of the event's state that the page has set itself.
    """

    connection_id: str | None
    key: str
    echo: Mapping[str, Any]
    session_id: str | None = None
    elsewhere: bool = False
    """True if another process has the page's stream."""
    open: bool = True
    """False when the event is over: a task that it started inherits its context, and may commit later."""
    commits: list[Commit] = field(default_factory=list)

    def acting(self) -> str | None:
        """Return the id of the session that commits; not the page's if the event has just signed its user in."""
        return self.session_id


origin_of_commits: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("faststate_origin", default=None)
"""Set while an event of a page runs."""


class CurrentCallers:
    """Tells a registry on whose behalf the current code runs. Lifetime: the provider."""

    def client(self) -> Client:
        """Return the client whose request this code serves, also in tasks that it began; else the server's own."""
        request = current_request.get()
        if request is None:
            return SERVER
        session, address = request.scope.get("session"), request.client.host if request.client is not None else ""
        session_id = session.get(SESSION_ID) if session else None
        network = network_of(address)
        return Client(session_id or f"address {network}", network or None)  # a Unix socket has none

    def address(self) -> str:
        """Return the client address (str) of the current request, empty for none."""
        request = current_request.get()
        if request is None:
            return ""
        return network_of(request.client.host) if request.client is not None else NO_ADDRESS
