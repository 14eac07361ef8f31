"""Bare ASGI with a queue for each stream, from which its own task sends."""

from __future__ import annotations

import asyncio
from typing import Any

from .app import SSE_HEADERS, App, frame_of


class Queues(App):
    """Lifetime: its process."""

    def __init__(self) -> None:
        super().__init__()
        self.asgi = self._stream
        self._frame = frame_of("")
        self._queues: set[asyncio.Queue[bytes]] = set()

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()  # the request itself
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queue.put_nowait(self._frame)
        self._queues.add(queue)
        sending = asyncio.create_task(self._send(queue, send))
        try:
            await receive()  # the end
        finally:
            sending.cancel()
            self._queues.discard(queue)

    async def _send(self, queue: asyncio.Queue[bytes], send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": await queue.get(), "more_body": True})

    async def change(self, text: str, target: str = "board") -> None:
        self._frame = frame_of(text)
        for queue in self._queues:
            queue.put_nowait(self._frame)


def make() -> App:
    return Queues()
