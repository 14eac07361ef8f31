"""redis-py by hand: the process that gets a change publishes it, and all processes write it to their streams."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from redis.asyncio import Redis

from .app import SSE_HEADERS, App, frame_of

CHANNEL = "board"


class Bare(App):
    """Lifetime: its process. `BENCHMARK_REDIS` is the URL of its Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.asgi = self._answer
        self._redis = Redis.from_url(os.environ["BENCHMARK_REDIS"])
        self._transports: set[Any] = set()
        self._listening: asyncio.Task[None] | None = None

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await (self._say if scope["method"] == "POST" else self._stream)(receive, send)

    async def _say(self, receive: Any, send: Any) -> None:
        message = await receive()
        await self._redis.publish(CHANNEL, message.get("body", b""))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, receive: Any, send: Any) -> None:
        if self._listening is None:
            pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            await pubsub.subscribe(CHANNEL)
            self._listening = asyncio.create_task(self._listen(pubsub))
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": frame_of(""), "more_body": True})
        await receive()  # the request itself
        transport = send.__self__.transport  # of uvicorn's request
        self._transports.add(transport)
        try:
            await receive()  # the end
        finally:
            self._transports.discard(transport)

    async def _listen(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            frame = frame_of(message["data"].decode())
            for transport in self._transports:
                transport.write(b"%x\r\n%s\r\n" % (len(frame), frame))

    async def change(self, text: str, target: str = "board") -> None:
        await self._redis.publish(CHANNEL, text)


def make() -> App:
    return Bare()
