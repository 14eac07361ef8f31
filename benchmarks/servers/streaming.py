"""Starlette's StreamingResponse, written from a queue for each stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from .app import App, frame_of


class Streaming(App):
    """Lifetime: its process."""

    def __init__(self) -> None:
        super().__init__()
        self.asgi = Starlette(routes=[Route("/stream", self._stream)])
        self._frame = frame_of("")
        self._queues: set[asyncio.Queue[bytes]] = set()

    async def _stream(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.frames(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what one stream has to send: the present value, and each change."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield self._frame
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    async def change(self, text: str, target: str = "board") -> None:
        self._frame = frame_of(text)
        for queue in self._queues:
            queue.put_nowait(self._frame)


def make() -> App:
    return Streaming()
