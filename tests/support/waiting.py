"""Waiting until something holds, and a clock that tests set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30  # seconds for an effect that should take milliseconds, on a busy machine


class Clock:
    """Seconds that pass only when a test says so: `clock.now += 60`."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def eventually(condition: Callable[[], Any], *, every: float = 0.005, within: float = PATIENCE) -> Any:
    """Return what `condition()` gives as soon as it is true. With `every=0`, look at each turn of this loop."""
    async with asyncio.timeout(within):
        while not (found := condition()):  # noqa: ASYNC110  # what is waited for sets no event of ours
            await asyncio.sleep(every)
    return found


def wait_until(condition: Callable[[], Any], *, every: float = 0.02, within: float = PATIENCE) -> Any:
    """Return what `condition()` gives as soon as it is true, in a test that is not async."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)
    return found
