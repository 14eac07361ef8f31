"""Writing: bytes for many connections, and the interface of a writer, which writes those of one connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.types import Message


class Chunk:
    """Bytes that are written to many connections. Lifetime: one flush.

    `body` are the bytes, `message` is ASGI's message that carries them, and `framed` is one chunk of HTTP/1.1's chunked
    transfer coding (RFC 9112, 7.1).
    """

    __slots__ = ("body", "framed", "message")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.message: Message = {"type": "http.response.body", "body": body, "more_body": True}
        self.framed = b"%x\r\n%b\r\n" % (len(body), body)


class Writer(ABC):
    """Writes one connection's bytes. Lifetime: from the beginning of the response to its end."""

    __slots__ = ()

    @property
    @abstractmethod
    def ready(self) -> bool:
        """True if the reader has taken all that was written before."""

    @property
    def quick(self) -> Callable[[bytes], object] | None:
        """A function that writes a framed chunk (bytes) without a check, for a reader who keeps up; None for none."""
        return None

    @abstractmethod
    def write(self, chunk: Chunk) -> bool:
        """Write a chunk; return False, with nothing written, if the reader has not taken what came before."""

    @abstractmethod
    def wake(self) -> None:
        """Take note that something waits in the connection's outbox, or that the connection has been closed."""

    @abstractmethod
    def hurry(self, seconds: float) -> None:
        """Allow a write that is under way no more than `seconds`: a reader who takes nothing must not delay the end."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """True if the connection to the reader is known to have ended; `receive` may not have said so."""

    @abstractmethod
    def leave(self) -> None:
        """End the stream without another word to its reader."""
