"""The connections to Redis: commands that wait are sent together, and a Redis that is away fails them at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..._compat.redis import is_broken
from ...exceptions import PersistenceError
from ...redaction import redacted
from ...scheduling.loops import settle
from ..base import same_error
from .address import RedisOptions
from .connection import connect, disconnect, pack
from .process import ThisProcess
from .rules import LOST, Argument
from .scripts import Script

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

logger = logging.getLogger("faststate")

BATCH: Final = 200
"""Most commands sent together. With so many, a command's share of the round trip is small."""

BATCH_BYTES: Final = 1_000_000
"""Bytes after which no further command is added to a batch, so that the batch is answered in time."""

RETURN_INTERVAL: Final = 0.2
"""Seconds between two attempts to reach a Redis that is away."""

CLOSED: Final = "the Redis store was closed meanwhile"


@dataclass(slots=True, eq=False)
class Command:
    """One command that waits to be sent or answered. Lifetime: until it is answered.

    `again` (bool) allows to send it a second time, if a connection breaks before the answer.
    """

    packed: bytes
    again: bool
    future: asyncio.Future[Any]

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class RedisClient:
    """Sends commands over a few connections, on one event loop. Lifetime: until `close`, or until the loop ends.

    At most `connections` tasks each have a connection, which they open when first needed. A task sends all commands
    that wait together, and then reads the answers.

    Redis is `away` (the reason as an error, else None) when no connection works. All commands then fail at once, until
    a task has reached Redis again. `on_away` is called when this begins.
    """

    def __init__(self, options: RedisOptions, process: ThisProcess, *, on_away: Callable[[], None]) -> None:
        self._options = options
        self._address = options.address
        self._process = process
        self._on_away = on_away
        self._base = options.address.base.encode()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Command] = deque()
        self._idle: list[asyncio.Future[None]] = []  # of tasks that wait for commands; the last one is woken first
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: set[AbstractConnection] = set()  # the connections of the tasks
        self._generation = 0  # connections of an earlier generation are given up; each new one sends the greeting first
        self._closed = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._reachable = asyncio.Event()
        self._reachable.set()
        self.away: PersistenceError | None = None

    # -- commands ------------------------------------------------------------------------------------------------------

    async def run(self, script: Script, *arguments: Argument, again: bool = False, first: bool = False) -> Any:
        """Run a script and return its answer.

        With `again` the script is sent a second time if a connection breaks; it may then run twice. With `first` it is
        sent before all other commands that wait.
        """
        from redis.exceptions import NoScriptError, ResponseError

        command: Sequence[Argument] = (b"EVALSHA", script.sha, 1, self._base, *arguments)
        for _ in range(3):
            try:
                return await self._send(command, again, first)
            except NoScriptError:  # the script has not run
                command = (b"EVAL", script.text, *command[2:])
            except ResponseError as error:
                if not str(error).startswith(LOST):  # with LOST it has not run either: new connections send a greeting
                    raise self._failure(error) from redacted(error)
                self._generation += 1
        raise PersistenceError(f"Redis at {self._address.shown} keeps losing its data")

    async def do(self, *command: Argument) -> Any:
        """Send a command that changes nothing, and return its answer."""
        from redis.exceptions import ResponseError

        try:
            return await self._send(command, True, False)
        except ResponseError as error:
            raise self._failure(error) from redacted(error)

    async def _send(self, command: Sequence[Argument], again: bool, first: bool) -> Any:
        if self._closed or self.away is not None:
            await asyncio.sleep(0)  # a caller that tries again and again must not keep the loop from reconnecting
        if self._closed:
            raise PersistenceError(CLOSED)
        if self.away is not None:
            raise same_error(self.away)
        future = self._loop.create_future()
        request = Command(pack(command), again, future)
        if first:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)
        self._wake()
        return await future

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return
        if len(self._tasks) < self._options.connections:
            task = self._loop.create_task(self._send_waiting(), name="faststate redis connection")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- a connection's task -------------------------------------------------------------------------------------------

    async def _send_waiting(self) -> None:
        """Send the commands that wait over one connection, until cancelled."""
        connection: AbstractConnection | None = None
        generation = self._generation
        batch: list[Command] = []
        try:
            while True:
                if not self._waiting:
                    idle = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                if connection is not None and (generation != self._generation or is_broken(connection)):
                    gone, connection = connection, None
                    await self._drop(gone)
                batch = self._next_batch()
                if not batch:
                    continue
                if connection is None:
                    generation = self._generation
                    try:
                        connection = await self.connect()
                    except PersistenceError as error:
                        if self.away is not None or not self._has_another():
                            _fail(batch, error)
                            continue
                        # Redis may have reached its limit of connections. Nothing was sent, so leave it to the others.
                        self._waiting.extendleft(reversed(batch))
                        batch = []
                        self._wake()
                        await asyncio.sleep(RETURN_INTERVAL)
                        continue
                    self._live.add(connection)
                try:
                    await self._exchange(connection, batch)
                except Exception as error:
                    gone, connection = connection, None
                    await self._drop(gone)
                    self._handle_broken(batch, error)
        finally:
            ended = PersistenceError("the Redis store was closed, or its event loop ended: the outcome is unknown")
            _fail(batch, ended)
            if connection is not None:
                await self._drop(connection)

    def _has_another(self) -> bool:
        """True if, as far as is known, there is a connection that works."""
        return any(not is_broken(connection) for connection in self._live)

    async def _drop(self, connection: AbstractConnection) -> None:
        self._live.discard(connection)
        await disconnect(connection)

    def _next_batch(self) -> list[Command]:
        batch: list[Command] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            command = self._waiting.popleft()
            if not command.future.cancelled():
                batch.append(command)
                size += len(command.packed)
        return batch

    async def _exchange(self, connection: AbstractConnection, batch: Sequence[Command]) -> None:
        """Send commands and read their answers. Raises if the connection cannot be used any more."""
        from redis.exceptions import ReadOnlyError, ResponseError

        refused: ResponseError | None = None
        async with asyncio.timeout(self._options.answer_timeout) as limit:
            packed = [command.packed for command in batch]
            await connection.send_packed_command(b"".join(packed), check_health=False)
            for command in batch:
                try:
                    answer = await connection.read_response()
                except ResponseError as error:
                    command.fail(error)
                    if isinstance(error, ReadOnlyError):
                        refused = error
                else:
                    settle(command.future, answer)
                if command is not batch[-1]:
                    limit.reschedule(self._loop.time() + self._options.answer_timeout)
        if refused is not None:
            self._set_away(self._failure(refused))
            raise refused

    def _handle_broken(self, batch: Iterable[Command], error: Exception) -> None:
        """Fail the commands that a broken connection has not answered, or send them again."""
        left = [command for command in batch if not command.future.done()]
        failure = self._failure(error)
        if isinstance(error, TimeoutError) or type(error).__name__ in ("TimeoutError", "BusyLoadingError"):
            self._set_away(failure)
            _fail(left, failure)
            return
        for command in reversed(left):
            if command.again and self.away is None:
                command.again = False
                self._waiting.appendleft(command)
            else:
                command.fail(failure)
        if self._waiting:
            self._wake()

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def connect(self) -> AbstractConnection:
        """Open a connection. Raises `PersistenceError`; if no other connection works, Redis is away from then on."""
        from redis.exceptions import RedisError
        from redis.exceptions import TimeoutError as DriverTimeout

        arguments = self._address, self._process, self._options.connect_timeout
        try:
            try:
                connection = await connect(*arguments)
            except (RedisError, OSError) as error:
                if isinstance(error, (TimeoutError, DriverTimeout)):
                    raise
                connection = await connect(*arguments)  # a single connection may just have bad luck
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            failure = self._failure(error)
            if not self._has_another():
                self._set_away(failure)
            raise failure from error
        if self.away is not None:
            logger.warning("Redis at %s can be reached again", self._address.shown)
            self.away = None
            self._reachable.set()
        return connection

    def _set_away(self, failure: PersistenceError) -> None:
        """Note that Redis is away, fail what waits, and begin to reconnect."""
        self._generation += 1
        self._fail_waiting(failure)
        if self.away is None and not self._closed:
            logger.warning("%s", failure)
            self.away = failure
            self._reachable.clear()
            self._reconnecting = self._loop.create_task(self._reconnect(), name="faststate redis reconnect")
            self._on_away()

    async def _reconnect(self) -> None:
        """Try to connect until it succeeds."""
        while self.away is not None:
            await asyncio.sleep(RETURN_INTERVAL)
            with contextlib.suppress(PersistenceError):
                await disconnect(await self.connect())

    async def reachable(self) -> None:
        """Wait until Redis is not known to be away."""
        await self._reachable.wait()

    async def close(self) -> None:
        """Close all connections. Commands that were not answered fail."""
        self._closed = True
        tasks = [*self._tasks, *([self._reconnecting] if self._reconnecting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_waiting(PersistenceError(CLOSED))

    def _fail_waiting(self, error: PersistenceError) -> None:
        waiting, self._waiting = self._waiting, deque()
        _fail(waiting, error)

    def _failure(self, error: BaseException) -> PersistenceError:
        if isinstance(error, PersistenceError):
            return error
        reason = str(error).partition(", with args")[0] or (
            "it did not answer in time" if isinstance(error, TimeoutError) else repr(error)
        )
        failure = PersistenceError(f"Redis at {self._address.shown} failed: {reason}")
        failure.__cause__ = error
        return failure


def _fail(commands: Iterable[Command], error: PersistenceError) -> None:
    for command in commands:
        command.fail(same_error(error))
