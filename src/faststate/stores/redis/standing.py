"""What a process is to the others, whatever happens to its connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..backplane import Receiver
from .client import Greeting

__all__ = ["Standing"]

logger = logging.getLogger("faststate")


class Standing:
    """A process among the others, as it knows itself. Lifetime: the store, in one process.

    `origin` (str) is its id until it is taken for dead, `joined` the timeline in which it is one of the `members`.
    `topics` are those that are to be subscribed to.
    """

    def __init__(self) -> None:
        self.greeting = Greeting()
        self.origin = os.urandom(8).hex()
        self.joined = ""
        self.about = b""
        self.members: Mapping[str, bytes] = MappingProxyType({})
        self.topics: set[str] = set()
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, receiver: Receiver) -> None:
        """Has `receiver` be told, on this event loop."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()

    def tell(self, what: Callable[[Receiver], Callable[..., None]], *arguments: Any) -> None:
        """Calls a method of the receiver on its event loop. What it raises is its own matter, and logged."""
        receiver, loop = self._receiver, self._loop
        if receiver is None or loop is None:
            return
        if loop is asyncio.get_running_loop():
            _call(what(receiver), arguments)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens there any more
                loop.call_soon_threadsafe(_call, what(receiver), arguments)


def _call(method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        method(*arguments)
    except Exception:
        logger.exception("what came from another process could not be received")
