"""This process, as the other processes know it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ...scheduling.loops import call_on
from ..backplane import Receiver
from .rules import new_id

logger = logging.getLogger("faststate")


class ThisProcess:
    """This process among the others, whatever happens to its connections. Lifetime: the store, in one process.

    `origin` (str) is its id; a process that was taken for dead gets a new one. `timeline` (str) is the last known
    timeline, and `sequence` (int) the highest sequence number seen in it, by which a loss of data is noticed. `joined`
    (str) is the timeline in which it is one of the `members` (see `Backplane`), `about` (bytes) what it tells them.
    `topics` are the topics that it wants to be subscribed to.
    """

    def __init__(self) -> None:
        self.timeline = ""
        self.sequence = 0
        self.origin = new_id()
        self.joined = ""
        self.about = b""
        self.members: Mapping[str, bytes] = MappingProxyType({})
        self.topics: set[str] = set()
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def saw(self, timeline: str, sequence: int) -> None:
        """Note the timeline and the sequence number in an answer."""
        self.sequence = max(self.sequence, sequence) if timeline == self.timeline else sequence
        self.timeline = timeline

    def listen(self, receiver: Receiver) -> None:
        """Call `receiver` from now on, on the running event loop."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()

    def tell(self, method: Callable[[Receiver], Callable[..., None]], *arguments: Any) -> None:
        """Call a method of the receiver on its event loop. An error that it raises is logged."""
        receiver, loop = self._receiver, self._loop
        if receiver is None or loop is None:
            return
        if loop is asyncio.get_running_loop():
            _call(method(receiver), arguments)
        else:
            call_on(loop, _call, method(receiver), arguments)


def _call(method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        method(*arguments)
    except Exception:
        logger.exception("what came from another process could not be received")
