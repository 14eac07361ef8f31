"""A probe of a server: does it write a message as the chunk that we would write past it?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.types import Scope, Send

from .._compat.uvicorn import cycle_of
from .writing import Chunk

__all__ = ["Probe"]


class Probe:
    """Looks at what a server's `send` writes for one message. Lifetime: the beginning of one response.

    Streams are written past `send` only if that is the very chunk that they would write: never by a version.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self._cycle: Any = cycle_of(scope, send)
        self._written: list[bytes] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is written inside the block."""
        if self._cycle is None:
            yield
            return
        transport = self._cycle.transport
        try:
            self._cycle.transport = _Watched(transport, self._written)
        except AttributeError:
            self._cycle = None
            yield
            return
        try:
            yield
        finally:
            self._cycle.transport = transport

    def found(self, body: bytes) -> Any:
        """Return the server's object for this response if `body` was written as one chunk; None otherwise."""
        if self._cycle is None or b"".join(self._written) != Chunk(body).framed:
            return None
        return self._cycle


class _Watched:
    """A transport that notes what is written to it. Lifetime: one message."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
