"""The parts that all servers share: the bytes they send, and the commands they take."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from abc import ABC, abstractmethod
from typing import Any

from ..load import mark

__all__ = ["SSE_HEADERS", "App", "frame_of"]

SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
"""Headers of a stream, in ASGI's form."""


def frame_of(text: str) -> bytes:
    """Return the SSE event (bytes) that puts `text` into a page, like FastState's own."""
    return f'event: datastar-patch-signals\ndata: signals {{"Board":{{"text":"{text}"}}}}\n\n'.encode()


class App(ABC):
    """One server's app, `asgi`, and the commands that change it. Lifetime: its process.

    `added` are the sums of each session's POSTs to "/add", if there is no state to hold them.
    """

    asgi: Any

    def __init__(self) -> None:
        self.added: dict[str, int] = {}

    def add(self, session_id: str, by: int) -> None:
        self.added[session_id] = self.added.get(session_id, 0) + by

    @abstractmethod
    async def change(self, text: str, target: str = "board") -> None:
        """Change what the page named `target` shows."""

    async def burst(self, first: int, count: int, per_tick: int) -> None:
        """Change the board `count` times, `per_tick` times within a tick of the loop."""
        for done in range(count):
            await self.change(mark(first + done))
            if (done + 1) % per_tick == 0:
                await asyncio.sleep(0)

    async def collect(self) -> None:
        """Give back what memory it can."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
