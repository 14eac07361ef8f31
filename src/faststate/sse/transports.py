"""Transports: how a stream's bytes reach the server, through ASGI's `send` on any server, past it on uvicorn.

The direct writer writes to the transport of uvicorn's HTTP/1.1 protocols, where the beginning of the response has shown
that this puts the same bytes on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any

from starlette.types import Message, Receive, Send

from .._compat.asyncio import enter_task, leave_task
from .._compat.uvicorn import Transport, is_own_send
from ..scheduling.waits import Begun, begin, resume
from .connection import SSEConnection
from .manager import LAST_WRITE, SSEManager
from .writing import Chunk, Writer

logger = logging.getLogger("faststate")


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class StreamWriter(Writer):
    """Writes one stream until one side ends it. Made in the response's task, and lives until the response ends.

    A reader may take nothing for `timeout` seconds. A reader who does not keep up is sent what waits in the outbox when
    it takes something again, by a task of its own.
    """

    __slots__ = ("_busy", "_connection", "_limit", "_manager", "_over", "_send", "_task", "_timeout", "_transport")

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
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a response is written in a task
        self._task = task

    @property
    def ready(self) -> bool:
        return not self._busy

    @property
    def lost(self) -> bool:
        return self._transport is not None and self._transport.is_closing()

    def hurry(self, seconds: float) -> None:
        if self._limit is not None:
            with contextlib.suppress(RuntimeError):  # it is running out just now
                self._limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def _fall_behind(self) -> None:
        self._busy = True
        self._connection.slow_down()
        self._manager.behind.setdefault(self._connection, asyncio.get_running_loop().time())

    async def _catch_up(self, first: Awaitable[None] | None = None) -> bool:
        """Send what waits, the newest each time the reader has taken all; return True if that was the end.

        `first` is a message that is being sent already. `send` of an empty message writes nothing, and returns when
        the reader has taken what came before.
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
            # Gone while it was written to, which uvloop's transports report with a RuntimeError.
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

    The loop over all followers calls `send` itself, as if the stream's own task did: while the reader keeps up that
    returns at once, and no task has to be woken (1.5 times the floor's cost instead of 2.2). Where it would wait, the
    stream's task goes on with it.
    """

    __slots__ = ("_begun", "_context", "_is_servers", "_loop", "_woken")

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
        self._context = copy_context()
        self._is_servers = is_own_send(send)
        self._begun: Begun | None = None
        self._woken = self._loop.create_future()  # an event, and a coroutine that waits for it, would take 1 KB

    def write(self, chunk: Chunk) -> bool:
        if self._busy:
            return False
        try:
            if self._is_servers:  # it changes no message: all are sent the same one, at a third of the cost below
                steps = self._send(chunk.message).__await__()
                try:
                    begun = Begun(steps, next(steps))
                except StopIteration:
                    return True
            else:
                # A wrapper of `send` may ask which task it runs in, and what its context variables are.
                enter_task(self._loop, self._task)
                try:
                    begun = self._context.run(lambda: begin(self._send(_body(chunk.body))))
                finally:
                    leave_task(self._loop, self._task)
        except (Exception, asyncio.CancelledError) as error:
            begun = Begun(_failing(error), None)
        if begun.steps is not None:
            self._fall_behind()
            self._begun = begun
            self._wake_task()
        return True

    def wake(self) -> None:
        if not self._over:
            self._fall_behind()
            self._wake_task()

    def _wake_task(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def hold(self, receive: Receive) -> None:
        """Keep the response open, in the task that made this writer, until one side ends it."""
        leaving = asyncio.create_task(self._leave(receive), name="faststate-leave")
        try:
            while True:
                cancelled = None
                try:
                    await self._woken
                except asyncio.CancelledError as error:
                    if self._begun is None:
                        raise
                    cancelled = error  # by a time limit in a `send` that has begun, which is this task's now
                self._woken = self._loop.create_future()
                begun, self._begun = self._begun, None
                if begun is not None:
                    ended = await self._catch_up(resume(begun, run=self._context.run, error=cancelled))
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
        self._over = True
        self._manager.remove_connection(self._connection.id)
        self._wake_task()
        if self._busy:  # it may be waiting for a reader who has gone
            self.hurry(0)


def _failing(error: BaseException) -> Iterator[None]:
    """Return steps that raise `error`: a message that could not be sent says so in the stream's own task."""
    raise error
    yield


class DirectWriter(StreamWriter):
    """Writes to the transport of uvicorn's HTTP/1.1 protocol, framed once for all followers.

    Measured with `benchmarks.delivery`: see `benchmarks/RESULTS.md`. `cycle` is uvicorn's object for this response. The
    response begins and ends through `send`, and what waits in the outbox goes through it; changes go past it.
    """

    __slots__ = ("_flow", "_worker")
    _transport: Transport

    def __init__(self, manager: SSEManager, connection: SSEConnection, send: Send, timeout: float, cycle: Any) -> None:
        super().__init__(manager, connection, send, timeout, cycle.transport)
        self._flow = cycle.flow
        self._worker: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """True if the reader has taken all that was written before, but for what the transport's buffer may hold."""
        return not (self._busy or self._flow.write_paused)

    @property
    def quick(self) -> Callable[[bytes], object]:
        return self._transport.write

    def write(self, chunk: Chunk) -> bool:
        if self._busy or self._flow.write_paused:
            return False
        try:
            self._transport.write(chunk.framed)
        except RuntimeError:  # the transport is closed; `receive` says so in the loop's next turn
            logger.debug("a reader has just gone", exc_info=True)
        return True

    def wake(self) -> None:
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

    def has_left(self) -> bool:
        """Tell whether only `leave` has cancelled the stream's task, which then goes on."""
        # Somebody else may have cancelled the task as well.
        return self._over and not self._task.uncancel()

    def end(self) -> None:
        """End the stream."""
        self._over = True
        if self._worker is not None:
            self._worker.cancel()
        self._manager.remove_connection(self._connection.id)

    def leave(self) -> None:
        if not self._over:
            self._over = True
            self._task.cancel()
