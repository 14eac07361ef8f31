"""hypercorn's objects behind ASGI's `send`. It is not imported: without it, or where it renamed something, None."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.types import Send


def terminated_of(send: Send) -> Any:
    """Return the event that a worker sets when it ends, which can be awaited with `wait()`; None if it is not found.

    The app gets no other sign, and from Python 3.12 on hypercorn waits for open streams for ever. Where this event is
    not found, they end with their clients, or when hypercorn is killed.
    """
    terminated = getattr(getattr(getattr(send, "__self__", None), "context", None), "terminated", None)
    return terminated if inspect.iscoroutinefunction(getattr(terminated, "wait", None)) else None
