"""Private names of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["running_loop"]


def _public_running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


running_loop: Callable[[], asyncio.AbstractEventLoop | None] = getattr(
    asyncio, "_get_running_loop", _public_running_loop
)
"""Return the event loop that runs this code; None in a thread that has none. Without the private name: an exception
for each call from a thread, which costs a microsecond more."""
