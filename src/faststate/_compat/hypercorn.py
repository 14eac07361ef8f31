"""hypercorn's objects behind ASGI's `send`. It is not imported: without it, or where it renamed something, None."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, Protocol

from starlette.types import Send

__all__ = ["Terminated", "terminated_of"]


class Terminated(Protocol):
    """The event of a worker that ends."""

    def wait(self) -> Awaitable[Any]:
        """Wait for the end."""


def terminated_of(send: Send) -> Terminated | None:
    """Return the event that a worker sets when it ends.

    The app gets no other sign, and from Python 3.12 on hypercorn waits for open streams for ever. Where this event is
    not found, they end with their clients, or when hypercorn is killed.
    """
    terminated = getattr(getattr(getattr(send, "__self__", None), "context", None), "terminated", None)
    return terminated if inspect.iscoroutinefunction(getattr(terminated, "wait", None)) else None
