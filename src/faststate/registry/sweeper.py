"""The sweeper: one background task that drops idle states from time to time."""

from __future__ import annotations

import asyncio
import logging

from .lifetimes import Lifetimes
from .protocols import Followers
from .usage import SWEEP_INTERVAL, Usage

__all__ = ["Sweeper"]

logger = logging.getLogger("faststate")


class Sweeper:
    """Sweeps on the event loop that has needed it last. Lifetime: the registry.

    `tells_store` says whether the store is told which states are in use: between the provider's start and stop. A
    script has the store for its own changes alone.
    """

    def __init__(self, lifetimes: Lifetimes, usage: Usage, followers: Followers) -> None:
        self.tells_store = False
        self.task: asyncio.Task[None] | None = None
        self._lifetimes = lifetimes
        self._usage = usage
        self._followers = followers

    def start(self) -> None:
        """Run on this event loop, if there is one and the sweeper does not run yet."""
        task = self.task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.task = loop.create_task(self._sweep_for_ever(), name="faststate-sweeper")

    def end(self) -> asyncio.Task[None] | None:
        """End the sweeper, wherever it runs; returns its task if that is on this loop."""
        task, self.task = self.task, None
        if task is None or task.done() or task.get_loop().is_closed():
            return None
        if task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            return task
        task.get_loop().call_soon_threadsafe(task.cancel)
        return None

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                self._lifetimes.sweep()
                self._followers.swept()
                if self.tells_store:
                    await self._usage.tell_store()
            except Exception:
                logger.exception("the sweep of idle states failed; it is tried again")
