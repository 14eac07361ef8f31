"""Calls on an event loop from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["call_on", "settle"]


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> bool:
    """Call a function on `loop` soon, from any thread. Returns False if the loop is closed: then nobody waits there."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return False
    return True


def settle(future: asyncio.Future[Any], result: Any = None) -> None:
    """Give a future its result, on its own event loop, unless it is done: its caller may have been cancelled."""
    if not future.done():
        future.set_result(result)
