"""Sending messages to the other processes, at once or in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..exceptions import FastStateError
from ..registry.calling import loop_for_scripts
from ..scheduling.loops import running_loop
from ..stores.backplane import Message
from ..stores.base import SharedStore
from .messages import AppMessage, StateMessage, encode

__all__ = ["Announcer", "call_now_or_on"]

logger = logging.getLogger("faststate")


class Announcer:
    """Sends this process's messages to the others. Lifetime: the cluster."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send on this event loop, the app's, from now on."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Wait until all has been sent."""
        if self._sending:
            await asyncio.wait(self._sending)
        self._loop = None

    async def send(self, topic: str, message: StateMessage | AppMessage) -> None:
        """Send a message to all processes that follow `topic`. Raises `BackplaneError`."""
        await self._store.publish([Message(topic, encode(message))])

    def send_soon(self, topic: str, message: StateMessage | AppMessage) -> None:
        """Send a message in the background, from any thread; a failure is logged."""

        async def send() -> None:
            try:
                await self.send(topic, message)
            except FastStateError:
                logger.exception("other processes could not be told")

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(send(), name="faststate-tell")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

        if self._loop is None:  # a script
            asyncio.run_coroutine_threadsafe(send(), loop_for_scripts())
        else:
            call_now_or_on(self._loop, begin)


def call_now_or_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Make a call on an event loop: now if that is the one here, else soon."""
    if running_loop() is loop:
        call()
    else:
        loop.call_soon_threadsafe(call)
