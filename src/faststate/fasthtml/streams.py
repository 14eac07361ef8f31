"""Streams: the response that writes what a page has to be told, and its end when the process ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from random import uniform
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..page import reopen_frame
from ..provider import StateProvider
from ..sse import LAST_WRITE, SSEConnection
from ..wire import signals_frame

__all__ = ["SSE_HEADERS", "StreamResponse", "drain_on_signal"]

logger = logging.getLogger("faststate")

SSE_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
}


class StreamResponse(Response):
    """A page's stream, until one side ends it. Lifetime: the connection."""

    def __init__(self, provider: StateProvider, connection: SSEConnection) -> None:
        self.provider = provider
        self.connection = connection
        super().__init__(None, status_code=200, headers=SSE_HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager, connection = self.provider.sse_manager, self.connection

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            manager.remove_connection(connection.id)

        leaving = asyncio.create_task(leave(), name="faststate-leave")
        try:
            await self._write(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            waiting = signals_frame({"_fs": {"c": connection.id}}) + connection.drain()
            waiting += self._position()
            ends_at = asyncio.get_running_loop().time() + self.provider.stream_max_age * uniform(0.9, 1)  # noqa: S311
            while not connection.closed:
                if waiting:
                    await self._write(send, {"type": "http.response.body", "body": waiting, "more_body": True})
                    connection.sent_bytes += len(waiting)
                    connection.last_ping = datetime.now(UTC)
                left = ends_at - asyncio.get_running_loop().time()
                if left <= 0:
                    manager.dismiss(connection, reopen_frame())  # a sign-in may have run out since it was opened
                elif await connection.wait(min(left, self.provider.heartbeat)):
                    waiting = connection.drain()
                    waiting += self._position() if waiting else b""
                else:
                    waiting = b": \n\n"  # a comment: finds the dead, and keeps proxies from cutting a quiet stream
            if not leaving.done():
                await self._write(
                    send, {"type": "http.response.body", "body": connection.last_frame, "more_body": False}
                )
        except TimeoutError:
            manager.cut += 1
            logger.info("a reader took nothing for %g s and was cut", self.provider.write_timeout)
        except OSError:
            pass  # gone while it was written to
        finally:
            manager.remove_connection(connection.id)
            leaving.cancel()

    async def _write(self, send: Send, message: Message) -> None:
        connection = self.connection
        try:
            limit = LAST_WRITE if connection.closed else self.provider.write_timeout
            async with asyncio.timeout(limit) as connection.write_limit:
                await send(message)
        finally:
            connection.write_limit = None

    def _position(self) -> bytes:
        # An event of its own behind all others: the client takes an id when it reads the line, so one that stood
        # before the data would be believed even when the data was cut off.
        return f"id: {self.provider.sse_manager.position()}\n\n".encode()


# -- the end of a process ----------------------------------------------------------------------------------------------

_watched_signals: dict[StateProvider, bool] = {}


def drain_on_signal(provider: StateProvider) -> None:
    """Has SIGTERM and SIGINT end the streams before the server waits for them, which it would do for ever.

    uvicorn waits for open connections before it runs shutdown handlers. The server's own handler is called afterwards,
    so everything else goes as it would. Without a handler (a script, a thread) there is nothing to chain to.
    """
    if _watched_signals.get(provider) or threading.current_thread() is not threading.main_thread():
        return
    _watched_signals[provider] = True
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if not callable(previous) or previous is signal.default_int_handler:
            continue

        def handle(number: int, frame: Any, previous: Callable[..., Any] = previous) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_drain, loop, provider, getattr(previous, "__self__", None))
            previous(number, frame)

        signal.signal(number, handle)


def _drain(loop: asyncio.AbstractEventLoop, provider: StateProvider, server: Any) -> None:
    provider.sse_manager.drain()
    loop.call_later(LAST_WRITE + 1, _abort_frozen, server)


def _abort_frozen(server: Any) -> None:
    """Lets go of connections that are closed and wait, for ever, until a frozen reader has taken what was written.

    uvicorn keeps its protocols, with their transports, in `server_state.connections`; where they are not to be found,
    its own `--timeout-graceful-shutdown` is the remedy.
    """
    for protocol in list(getattr(getattr(server, "server_state", None), "connections", ())):
        transport = getattr(protocol, "transport", None)
        if transport is not None and transport.is_closing():
            transport.abort()
