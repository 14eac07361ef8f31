"""The floor: one ready object of bytes, SSE and HTTP chunk in one, is written to each stream's transport."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from itsdangerous import TimestampSigner

from .app import SSE_HEADERS, App, frame_of

MAX_AGE = 365 * 86_400


class Floor(App):
    """Lifetime: its process."""

    def __init__(self) -> None:
        super().__init__()
        self.asgi = self._answer
        self._signer = TimestampSigner("benchmark")
        self._frame = frame_of("")
        self._transports: set[Any] = set()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await (self._add if scope["path"] == "/add" else self._stream)(scope, receive, send)

    async def _add(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        for name, value in scope["headers"]:
            if name == b"cookie":
                signed = value.partition(b"session_=")[2]
                session = json.loads(b64decode(self._signer.unsign(signed, max_age=MAX_AGE)))
                self.add(session["id"], int(json.loads(body)["by"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
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
