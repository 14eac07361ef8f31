"""Streams: the response that begins one, and the layer that keeps it open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from weakref import ref

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._compat.uvicorn import Transport, arrival_of, cycle_of, drop_request, protocol_of, serves, transport_of
from ..provider.provider import StateProvider
from ..sse.connection import SSEConnection
from ..sse.transports import AsgiWriter, DirectWriter
from ..sse.writing import Chunk
from ..wire.frames import signals_frame
from .answers import SSE_HEADERS
from .shutdown import drain_with_server

logger = logging.getLogger("faststate")

_BEGINNING: Final = "faststate_beginning"
"""Where a request's scope holds its `_Beginning`."""


class StreamKeeper:
    """The outermost layer of an app: it keeps streams open after their handler has returned. Lifetime: the app.

    So all that a request needed (its middleware's frames, FastHTML's request, the session) is freed while a stream is
    open: a connection with its state takes 11 KB, a stream of FastHTML's 34 KB (`benchmarks/RESULTS.md`).
    """

    def __init__(self, app: ASGIApp, provider: StateProvider, fasthtml_app: Any = None) -> None:
        self.app = app
        self.provider = provider
        self.fasthtml_app = fasthtml_app
        self._path = provider.options.prefix + "/stream"
        self._events = provider.options.prefix + "/event"
        self._watched: ref[asyncio.AbstractEventLoop] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not scope["path"].endswith(self._path):
            if self._events in scope.get("path", ""):
                loop = asyncio.get_running_loop()
                if self._watched is None or self._watched() is not loop:  # its events have to end with its server
                    self._watched = ref(loop)
                    drain_with_server(self.provider, protocol_of(send, receive), send)
            return self.app(scope, receive, send)
        return self._keep(scope, receive, send)

    async def _keep(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = await self._begin(scope, receive, send)
        if isinstance(writer, DirectWriter):
            # Inlined: another coroutine's frame would take 230 bytes for each stream. So would `receive`'s: it is not
            # called before it has something to tell.
            arrival = arrival_of(send, receive)
            try:
                while True:
                    if arrival is not None:
                        await arrival.wait()
                    if (await receive())["type"] == "http.disconnect":
                        break
            except asyncio.CancelledError:
                if not writer.has_left():
                    raise
            finally:
                writer.end()
        elif writer is not None:
            await writer.hold(receive)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> AsgiWriter | DirectWriter | None:
        protocol = protocol_of(send, receive)
        drain_with_server(self.provider, protocol, send)
        transport = transport_of(send, receive)
        beginning = _Beginning(scope, send, transport)
        try:
            # In a copy and a task of its own: what the app puts into scope and context would stay with the stream.
            copied = {**scope, _BEGINNING: beginning}
            await asyncio.ensure_future(self.app(copied, receive, beginning.send))
        except BaseException:
            if beginning.begun is not None:
                self.provider.sse_manager.remove_connection(beginning.begun.id)
            raise
        connection, cycle = beginning.begun, beginning.cycle
        if connection is None:
            return None
        if cycle is None or self.provider.options.transport != "auto":
            return _asgi_writer(self.provider, connection, send, transport)
        manager = self.provider.sse_manager
        writer = DirectWriter(manager, connection, send, self.provider.options.write_timeout, cycle)
        manager.attach(connection, writer)
        if serves(protocol, self.fasthtml_app):
            drop_request(scope, protocol)
        return writer


class _Beginning:
    """The first two messages of a stream, as the outermost layer sees them. Lifetime: the request.

    `begun` is the connection whose stream the outermost layer is to keep open, and `transport` the server's. `cycle` is
    uvicorn's object for the response, if what `send` has written is the very chunk that a stream would write past it:
    that is never decided by a version.
    """

    __slots__ = ("_left", "_outer", "_written", "begun", "cycle", "transport")

    def __init__(self, scope: Scope, send: Send, transport: Transport | None) -> None:
        self._outer = send
        self.transport = transport
        self._left: list[Message] | None = []
        self._written: list[bytes] = []
        self.begun: SSEConnection | None = None
        self.cycle: Any = cycle_of(scope, send)

    async def send(self, message: Message) -> None:
        """ASGI's `send`, for all layers inside."""
        if self._left is not None and len(self._left) < 2:
            self._left.append(message)
        if self._left is None or self.cycle is None or message["type"] != "http.response.body":
            await self._outer(message)
            return
        cycle, transport = self.cycle, self.cycle.transport
        try:
            cycle.transport = _Watched(transport, self._written)
        except AttributeError:
            self.cycle = None
        try:
            await self._outer(message)
        finally:
            if self.cycle is not None:
                cycle.transport = transport

    def take_over(self, connection: SSEConnection, start: Message, opening: Message, body: bytes) -> bool:
        """Keep the stream open in the outermost layer, and let its handler return; return False if that is impossible.

        It is possible if these very messages have left the app, `opening` with this very `body`: no middleware has
        replaced them or holds them back.
        """
        left, written = self._left, b"".join(self._written)
        self._left, self._written = None, []  # later messages would be kept as long as the stream
        if left is None or len(left) != 2 or left[0] is not start or left[1] is not opening:
            return False
        if opening["body"] is not body:
            return False
        self.begun = connection
        if written != Chunk(body).framed:
            self.cycle = None
        return True


@dataclass(eq=False, slots=True)
class _Watched:
    """A transport that notes what is written to it. Lifetime: one message."""

    _transport: Any
    _written: list[bytes]

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class StreamResponse(Response):
    """The response that is a page's stream. Lifetime: its beginning, if the outermost layer can keep it open.

    `tokens` replace those of the page, by name (None for none any more).
    """

    def __init__(
        self, provider: StateProvider, connection: SSEConnection, tokens: Mapping[str, str | None] | None = None
    ) -> None:
        self.provider = provider
        self.connection = connection
        self.tokens = tokens
        period = provider.sse_manager.heartbeat.period
        super().__init__(None, status_code=200, headers={**SSE_HEADERS, "faststate-heartbeat": f"{period:g}"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager, connection = self.provider.sse_manager, self.connection
        try:
            async with asyncio.timeout(self.provider.options.write_timeout):
                start: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                own = {"c": connection.id, **({"w": self.tokens} if self.tokens else {})}
                body = signals_frame({"_fs": own}) + connection.drain()
                if not (connection.closed or connection.silent):
                    body += manager.fanout.position_line()  # otherwise what the page had to be told was dropped
                opening: Message = {"type": "http.response.body", "body": body, "more_body": True}
                await send(opening)
                manager.fanout.sent_bytes += len(body)
        except (OSError, TimeoutError) as error:
            logger.info("a stream could not be begun: %r", error)
            manager.remove_connection(connection.id)
            return
        except BaseException:
            manager.remove_connection(connection.id)
            raise
        beginning: _Beginning | None = scope.get(_BEGINNING)
        if beginning is None or not beginning.take_over(connection, start, opening, body):
            _say_once(logging.WARNING, "a middleware makes other messages of the app's answers: streams stay inside it")
            transport = beginning.transport if beginning is not None else None
            await _asgi_writer(self.provider, connection, send, transport).hold(receive)


def _asgi_writer(
    provider: StateProvider, connection: SSEConnection, send: Send, transport: Transport | None
) -> AsgiWriter:
    """Return a writer for a stream that has begun, in this task and through ASGI."""
    if provider.options.transport == "auto":
        _say_once(logging.INFO, "streams go through ASGI's send: this server's HTTP/1.1 protocol is not known here")
    writer = AsgiWriter(provider.sse_manager, connection, send, provider.options.write_timeout, transport)
    provider.sse_manager.attach(connection, writer)
    return writer


@cache
def _say_once(level: int, message: str) -> None:
    logger.log(level, message)
