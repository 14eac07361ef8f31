"""The floor: one ready object of bytes, SSE and HTTP chunk in one, is written to each stream's transport."""

from __future__ import annotations

from typing import Any

from .app import SSE_HEADERS, App, frame_of


class Floor(App):
    """Lifetime: its process."""

    def __init__(self) -> None:
        self.asgi = self._stream
        self._frame = frame_of("")
        self._transports: set[Any] = set()

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": self._frame, "more_body": True})
        await receive()  # the request itself
        transport = send.__self__.transport  # of uvicorn's request
        self._transports.add(transport)
        try:
            await receive()  # the end
        finally:
            self._transports.discard(transport)

    async def change(self, text: str, target: str = "board") -> None:
        self._frame = frame_of(text)
        chunk = b"%x\r\n%s\r\n" % (len(self._frame), self._frame)
        for transport in self._transports:
            transport.write(chunk)


def make() -> App:
    return Floor()
