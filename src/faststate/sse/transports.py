"""Transports: how a stream's bytes reach the server. Through ASGI's `send` everywhere, past it where that is known.

The direct one writes to the transport of uvicorn's HTTP/1.1 protocols. It is chosen by what is there, and by what a
first message has really put on the wire, never by a version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from ..scheduling.waits import Begun, begin, go_on
from .connection import SSEConnection
from .manager import LAST_WRITE, SSEManager
from .writing import Chunk

__all__ = [
    "AsgiWriter",
    "DirectWriter",
    "Probe",
    "StreamWriter",
    "Transport",
    "servers_arrival",
    "servers_protocol",
    "servers_transport",
]

logger = logging.getLogger("faststate")


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Transport(Protocol):
    """What is used of asyncio's `Transport`."""

    def write(self, data: bytes) -> None:
        """Writes."""

    def abort(self) -> None:
        """Ends the connection, and drops what its reader has not taken."""

    def is_closing(self) -> bool:
        """Whether it has ended, or is about to."""


class StreamWriter(ABC):
    """Writes one stream until one side ends it. Lifetime: from where the response has begun to its end.

    `timeout` is how many seconds a reader may take nothing. Readers that do not keep up are sent what waits in their
    connection's outbox when they take something again, by a task of their own.
    """

    __slots__ = ("_busy", "_connection", "_limit", "_manager", "_over", "_send", "_timeout", "_transport")

    def __init__(
        self,
        manager: SSEManager,
        connection: SSEConnection,
        send: Send,
        timeout: float,
        transport: Transport | None = None,
    ) -> None:
        self._manager = manager
        self._connection = connection
        self._send = send
        self._timeout = timeout
        self._busy = False
        self._over = False
        self._limit: asyncio.Timeout | None = None
        self._transport = transport

    @property
    def ready(self) -> bool:
        """Whether all that was written before has been taken."""
        return not self._busy

    @property
    def quick(self) -> Callable[[bytes], object] | None:
        """What takes a framed chunk (bytes) of a reader who keeps up, and nothing else; None where there is no such."""
        return None

    @abstractmethod
    def write(self, chunk: Chunk) -> bool:
        """Writes a chunk; False, with nothing written, where the reader has not taken what came before."""

    @abstractmethod
    def wake(self) -> None:
        """Something waits in the connection's outbox, or the connection has been closed: sees to it in time."""

    @property
    def lost(self) -> bool:
        """Whether the connection to the reader has ended, as far as is known: `receive` may not have said so."""
        return self._transport is not None and self._transport.is_closing()

    @abstractmethod
    def leave(self) -> None:
        """Ends the stream without another word to its reader."""

    def hurry(self, seconds: float) -> None:
        """Gives a write that is under way no more than `seconds`: who takes nothing must not hold the end up."""
        if self._limit is not None:
            with contextlib.suppress(RuntimeError):  # it is running out just now
                self._limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def _fall_behind(self) -> None:
        self._busy = True
        self._connection.slow_down()
        self._manager.behind.setdefault(self._connection, asyncio.get_running_loop().time())

    async def _catch_up(self, first: Awaitable[None] | None = None) -> bool:
        """Sends what waits, the newest each time that the reader has taken all; True when that was the end.

        `first` is a message that is being sent already. An empty message writes nothing, and `send` returns when the
        reader has taken what came before.
        """
        manager, connection = self._manager, self._connection
        try:
            await self._within_time(first if first is not None else self._send(_body(b"")))
            while not connection.closed:
                waiting = manager.fanout.drain_for(connection)
                if not waiting:
                    self._busy = False
                    manager.behind.pop(connection, None)
                    return False
                await self._within_time(self._send(_body(waiting)))
                await self._within_time(self._send(_body(b"")))
            if not self._over:
                await self._within_time(self._send(_body(connection.last_frame, more=False)))
        except TimeoutError:
            if not self._over:
                manager.cut += 1
                logger.info("a reader took nothing for %g s and was cut", self._timeout)
                if self._transport is not None:
                    self._transport.abort()
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and not self.lost:
                raise
            # Gone while it was written to; uvloop's transports say it with a RuntimeError.
        return True

    async def _within_time(self, sending: Awaitable[None]) -> None:
        try:
            seconds = 0 if self._over else LAST_WRITE if self._connection.closed else self._timeout
            async with asyncio.timeout(seconds) as self._limit:
                await sending
        finally:
            self._limit = None


class AsgiWriter(StreamWriter):
    """Writes through ASGI's `send`, on any server and through any middleware.

    A message is handed to `send` by the loop over all followers itself, as if the stream's own task did it: while the
    reader keeps up that returns at once, and no task has to be woken (2.2 times the floor's cost, where that is 1.5).
    Where it would wait, the stream's task goes on with it.
    """

    __slots__ = ("_begun", "_context", "_is_servers", "_loop", "_task", "_woken")

    def __init__(
        self,
        manager: SSEManager,
        connection: SSEConnection,
        send: Send,
        timeout: float,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(manager, connection, send, timeout, transport)
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a response is written in a task
        self._task = task
        self._context = copy_context()
        self._is_servers = is_uvicorns(send)
        self._begun: Begun | None = None
        self._woken = self._loop.create_future()  # an event, and a coroutine that waits for it, would take 1 KB

    def write(self, chunk: Chunk) -> bool:
        """As `StreamWriter.write`; called by the loop, where no task is running."""
        if self._busy:
            return False
        try:
            if self._is_servers:  # which changes no message: all followers are sent the same one
                steps = self._send(chunk.message).__await__()
                try:
                    begun = Begun(steps, next(steps))
                except StopIteration:
                    return True
            else:
                # A wrapper of `send` may ask which task it runs in, and what its context variables are.
                asyncio._enter_task(self._loop, self._task)
                try:
                    begun = self._context.run(lambda: begin(self._send(_body(chunk.body))))
                finally:
                    asyncio._leave_task(self._loop, self._task)
        except (Exception, asyncio.CancelledError) as error:
            begun = Begun(_failing(error), None)
        if begun.steps is not None:
            self._fall_behind()
            self._begun = begun
            self._wake_task()
        return True

    def wake(self) -> None:
        """As `StreamWriter.wake`; the stream's own task does it."""
        if not self._over:
            self._fall_behind()
            self._wake_task()

    def _wake_task(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def hold(self, receive: Receive) -> None:
        """Keeps the response open, in the task that made this writer, until one side ends it."""
        leaving = asyncio.create_task(self._leave(receive), name="faststate-leave")
        try:
            while True:
                cancelled = None
                try:
                    await self._woken
                except asyncio.CancelledError as error:
                    if self._begun is None:
                        raise
                    cancelled = error  # by a time limit within a `send` that has begun, and is this task's by now
                self._woken = self._loop.create_future()
                begun, self._begun = self._begun, None
                if begun is not None:
                    ended = await self._catch_up(go_on(begun, run=self._context.run, error=cancelled))
                else:
                    ended = self._over or await self._catch_up()
                if ended:
                    return
        finally:
            self._over = True
            leaving.cancel()
            self._manager.remove_connection(self._connection.id)

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """As `StreamWriter.leave`."""
        self._over = True
        self._manager.remove_connection(self._connection.id)
        self._wake_task()
        if self._busy:  # it may wait, for its whole time, for somebody who has gone
            self.hurry(0)


def _failing(error: BaseException) -> Iterator[None]:
    """What is left to do of a message that could not be sent: to say so in the stream's own task."""
    raise error
    yield


class DirectWriter(StreamWriter):
    """Writes to the transport of uvicorn's HTTP/1.1 protocol, framed once for all followers.

    Measured with `benchmarks.delivery`: see `benchmarks/RESULTS.md`. `cycle` is uvicorn's object for the one response,
    whose `send` this goes past; the response has begun and ends through `send`, and so does what waits in an outbox.
    """

    __slots__ = ("_flow", "_holder", "_worker")
    _transport: Transport

    def __init__(self, manager: SSEManager, connection: SSEConnection, send: Send, timeout: float, cycle: Any) -> None:
        super().__init__(manager, connection, send, timeout, cycle.transport)
        self._flow = cycle.flow
        self._holder: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether all that was written before has been taken, but for what the transport's buffer may hold."""
        return not (self._busy or self._flow.write_paused)

    @property
    def quick(self) -> Callable[[bytes], object]:
        """As `StreamWriter.quick`."""
        return self._transport.write

    def write(self, chunk: Chunk) -> bool:
        """As `StreamWriter.write`."""
        if self._busy or self._flow.write_paused:
            return False
        try:
            self._transport.write(chunk.framed)
        except RuntimeError:  # a transport that is closed, of which `receive` tells in the loop's next turn
            logger.debug("a reader has just gone", exc_info=True)
        return True

    def wake(self) -> None:
        """As `StreamWriter.wake`; a task that lives as long as the reader is behind does it."""
        if self._worker is None and not self._over:
            self._fall_behind()
            self._worker = asyncio.create_task(self._work(), name="faststate-catch-up")

    async def _work(self) -> None:
        try:
            await self._catch_up()
        except Exception:
            logger.exception("a stream could not be written")
            self._transport.abort()
        finally:
            self._worker = None

    def begin(self) -> None:
        """From here on the stream's task waits for the end, which `receive` tells."""
        self._holder = asyncio.current_task()

    def has_left(self) -> bool:
        """Whether it was `leave` alone that has cancelled the stream's task, which goes on then."""
        # Somebody else may have cancelled the task as well.
        return self._over and self._holder is not None and not self._holder.uncancel()

    def end(self) -> None:
        """Ends the stream."""
        self._over = True
        if self._worker is not None:
            self._worker.cancel()
        self._manager.remove_connection(self._connection.id)

    def leave(self) -> None:
        """As `StreamWriter.leave`."""
        if not self._over and self._holder is not None:
            self._over = True
            self._holder.cancel()


# -- what is there -----------------------------------------------------------------------------------------------------


class Probe:
    """Looks at what a server's `send` writes for a message. Lifetime: the beginning of one response.

    Only where that is the very chunk that would be written past it, it may be gone past.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self._cycle: Any = None
        self._written: list[bytes] = []
        cycle = getattr(send, "__self__", None)
        transport, flow = getattr(cycle, "transport", None), getattr(cycle, "flow", None)
        if (
            scope.get("http_version") == "1.1"
            and callable(getattr(transport, "write", None))
            and _is_transport(transport)
            and isinstance(getattr(flow, "write_paused", None), bool)
        ):
            self._cycle = cycle

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In its block it is noted what is written."""
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
        """The server's object for this response, when `body` was written as one chunk; None else."""
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


def is_uvicorns(send: Send) -> bool:
    """Whether this is uvicorn's own `send`, which asks for no task and no context, and changes no message."""
    cycle = getattr(send, "__self__", None)
    is_own = str(getattr(send, "__module__", None)).partition(".")[0] == "uvicorn"  # what is not Python's may have None
    return is_own and hasattr(cycle, "flow") and hasattr(cycle, "on_response")


def _is_transport(found: Any) -> bool:
    return callable(getattr(found, "abort", None)) and callable(getattr(found, "is_closing", None))


def servers_transport(send: Send, receive: Receive) -> Transport | None:
    """The transport of the connection that these are for; None for a server that is not known here."""
    for call in (send, receive):
        transport: Transport | None = getattr(getattr(call, "__self__", None), "transport", None)
        if _is_transport(transport):
            return transport
    return None


def servers_protocol(send: Send, receive: Receive) -> Any:
    """uvicorn's protocol of the connection that these are for, which knows its server; None for any other server.

    A middleware wraps `send` more often than `receive`, so either will do.
    """
    for call in (send, receive):
        protocol = getattr(getattr(getattr(call, "__self__", None), "on_response", None), "__self__", None)
        if protocol is not None:
            return protocol
    return None


def servers_arrival(send: Send, receive: Receive) -> asyncio.Event | None:
    """What uvicorn sets when its `receive` has something to tell; None where another's may have more to tell."""
    cycle = getattr(receive, "__self__", None)
    arrival = getattr(cycle, "message_event", None)
    is_its_own = is_uvicorns(send) and cycle is getattr(send, "__self__", None)
    return arrival if is_its_own and isinstance(arrival, asyncio.Event) else None
