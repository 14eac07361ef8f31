"""FastHTML as one writes it by hand: a frame encoded once, a queue for each stream, and FastHTML's EventStream."""

from __future__ import annotations

import secrets
from typing import Any

from fasthtml import common as fh

from .app import App
from .streaming import Streaming


class ByHand(Streaming):
    """Lifetime: its process."""

    def __init__(self) -> None:
        super().__init__()
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


def make() -> App:
    return ByHand()
