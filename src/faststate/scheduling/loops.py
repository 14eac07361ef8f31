"""Event loops as seen from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


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


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs this code; None in a thread that runs none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_now_or_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Make a call on an event loop: now if that is the one here, else soon."""
    if running_loop() is loop:
        call()
    else:
        loop.call_soon_threadsafe(call)
