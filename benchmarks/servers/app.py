"""What all servers have in common: the bytes they send, and what they can be told."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from abc import ABC, abstractmethod
from typing import Any

from ..load import mark

__all__ = ["SSE_HEADERS", "App", "frame_of"]

SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
"""Headers of a stream, as ASGI has them."""


def frame_of(text: str) -> bytes:
    """The SSE event (bytes) that brings `text` into a page, as FastState's own brings it."""
    return f'event: datastar-patch-signals\ndata: signals {{"Board":{{"text":"{text}"}}}}\n\n'.encode()


class App(ABC):
    """One server's app, `asgi`, and how it is made to change. Lifetime: its process.

    `added` is what was added up for each session by POSTs to "/add", where there is no state to hold it.
    """

    asgi: Any

    def __init__(self) -> None:
        self.added: dict[str, int] = {}

    def add(self, session_id: str, by: int) -> None:
        self.added[session_id] = self.added.get(session_id, 0) + by

    @abstractmethod
    async def change(self, text: str, target: str = "board") -> None:
        """Changes what the page named `target` shows."""

    async def burst(self, first: int, count: int, per_tick: int) -> None:
        """Changes the board `count` times, `per_tick` times within a tick of the loop."""
        for done in range(count):
            await self.change(mark(first + done))
            if (done + 1) % per_tick == 0:
                await asyncio.sleep(0)

    async def collect(self) -> None:
        """Gives back what memory it can."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
