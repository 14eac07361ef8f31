"""Heartbeats: a sign of life for each quiet stream, which also finds the dead ones and ends the old ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from random import uniform
from typing import Final

from .connection import SSEConnection
from .fanout import Fanout
from .writing import Chunk

HEARTBEAT: Final = 15.0
"""Seconds between two signs of life on a stream; proxies commonly cut after 30 to 60 quiet seconds."""

_TICK: Final = 0.25
"""The shortest time, in seconds, between two groups of connections: all at once would be a herd."""

_BEAT: Final = Chunk(b": \n\n")
"""A comment: finds dead connections, and keeps proxies from cutting a quiet stream."""


class Heartbeat:
    """The signs of life of all streams, spread over the `period`. Lifetime: the manager.

    `expire` ends a stream that is older than `max_age`. Both times are in seconds.
    """

    def __init__(
        self, fanout: Fanout, period: float, max_age: float, expire: Callable[[SSEConnection], object]
    ) -> None:
        self.max_age = max_age
        self._fanout = fanout
        self._expire = expire
        self.period = period = min(period, max_age / 4)
        self.slots: list[dict[SSEConnection, None]] = [{} for _ in range(max(1, min(64, int(period / _TICK))))]
        self.tick = period / len(self.slots)
        self.beating = 0
        """The slot that is next."""
        self._next_slot = count()
        self.timer: asyncio.TimerHandle | None = None

    def add(self, connection: SSEConnection, loop: asyncio.AbstractEventLoop) -> None:
        """Send a connection signs of life from here on, and end it at its time."""
        connection.ends_at = loop.time() + self.max_age * uniform(0.9, 1)  # noqa: S311  # spread, not secret
        connection.slot = next(self._next_slot) % len(self.slots)
        self.slots[connection.slot][connection] = None
        if self.timer is None:
            self.timer = loop.call_later(self.tick, self._beat)

    def discard(self, connection: SSEConnection) -> None:
        """Send a connection no more signs of life."""
        if connection.slot >= 0:
            self.slots[connection.slot].pop(connection, None)

    def stop(self) -> None:
        """Stop the timer, until a connection is added."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _beat(self) -> None:
        """Send the next group of connections a sign of life, and end those whose time is over."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.tick, self._beat)
        slot = self.slots[self.beating]
        self.beating = (self.beating + 1) % len(self.slots)
        now, at = datetime.now(UTC), loop.time()
        for connection in list(slot):
            writer = connection.writer
            if writer is not None and writer.lost:
                writer.leave()  # `receive` has not said so: it may report a request that waits behind the stream
                continue
            if connection.closed or writer is None:
                continue
            if connection.ends_at <= at:
                self._expire(connection)  # a sign-in may have run out since it was opened
            elif self._fanout.write(connection, _BEAT):
                connection.last_ping = now
            else:
                writer.wake()  # its reader has stopped taking what is written, and gets its last time to go on
