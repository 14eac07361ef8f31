"""FastHTML by hand: a frame encoded once, a queue for each stream, and FastHTML's EventStream."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fasthtml import common as fh

from .app import App
from .streaming import Streaming


class ByHand(Streaming):
    """Lifetime: its process. "/add" adds up and tells nobody; "/bring" also tells the session's own streams."""

    def __init__(self) -> None:
        super().__init__()
        self._own: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)
        self.asgi, rt = fh.fast_app(secret_key="benchmark")

        @rt("/")
        async def index(sess) -> Any:
            sess.setdefault("id", secrets.token_urlsafe(12))
            return fh.Titled("Board", fh.P("Text: ", fh.Span(id="text")))

        @rt("/stream")
        async def stream(sess) -> Any:
            return fh.EventStream(self.frames())

        @rt("/add", methods=["post"])
        async def add(sess, data: dict) -> Any:
            self.add(sess["id"], int(data["by"]))
            return fh.Response(status_code=204)

        @rt("/own")
        async def own(sess) -> Any:
            return fh.EventStream(self._counts(sess["id"]))

        @rt("/bring", methods=["post"])
        async def bring(sess, data: dict) -> Any:
            self.add(sess["id"], int(data["by"]))
            frame = self._count_frame(sess["id"])
            for queue in self._own[sess["id"]]:
                queue.put_nowait(frame)
            return fh.Response(status_code=204)

    def _count_frame(self, session_id: str) -> str:
        signals = f'{{"Counter":{{"count":{self.added.get(session_id, 0)}}}}}'
        return f"event: datastar-patch-signals\ndata: signals {signals}\n\n"

    async def _counts(self, session_id: str) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._own[session_id].add(queue)
        try:
            yield self._count_frame(session_id)
            while True:
                yield await queue.get()
        finally:
            self._own[session_id].discard(queue)


def make() -> App:
    return ByHand()
