"""The page whose event runs, and so initiates what is committed meanwhile."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..registry.entries import Commit


@dataclass(slots=True)
class Initiator:
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


initiator_of_commits: contextvars.ContextVar[Initiator | None] = contextvars.ContextVar(
    "faststate_initiator", default=None
)
"""Set while an event of a page runs."""


def current_initiator() -> Initiator | None:
    """Return the page's event in which this code runs; None outside one, and in a task that has outlived it."""
    initiator = initiator_of_commits.get()
    return initiator if initiator is not None and initiator.open else None
