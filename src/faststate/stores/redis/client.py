"""The connections to Redis: what waits is sent together, and what is away is known to be away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ...exceptions import ConfigurationError, MissingDependencyError, PersistenceError
from ...redaction import redacted
from .scripts import HELLO, LOST, Script

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Address", "Client", "Greeting", "close", "pack"]

logger = logging.getLogger("faststate")

BATCH: Final = 200
"""Commands sent together at most: enough that a command's share of the round trip is small."""

BATCH_BYTES: Final = 1_000_000
"""Bytes after which no further command is sent together with the others: they are answered in time."""

RETURN_INTERVAL: Final = 0.2
"""Seconds between two attempts to get back to a Redis that is away."""

OLDEST: Final = (6, 2)

Argument = bytes | str | int


class Address:
    """Where Redis is, by its URL, without its secrets where it is shown. Lifetime: the store.

    `prefix` (str) begins all keys. Raises `ConfigurationError` for a URL that cannot be read, and
    `MissingDependencyError` where redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from redis.asyncio import Sentinel
            from redis.asyncio.connection import Connection, parse_url
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise MissingDependencyError("a Redis store needs redis-py: pip install 'faststate[redis]'") from error
        self._new_sentinel: Callable[[], Any] | None = None
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            self.prefix = query.pop("prefix", "faststate")
            scheme, _, kind = parts.scheme.partition("+")
            sentinels: list[tuple[str, int]] = []
            path, netloc = parts.path, parts.netloc
            if kind == "sentinel":
                login, _, hosts = netloc.rpartition("@")
                for host in hosts.split(","):
                    name, colon, port = host.rpartition(":")
                    sentinels.append((name, int(port)) if colon else (host, 26379))
                self._service, _, database = path.strip("/").partition("/")
                path, netloc = f"/{database}", f"{login}@{self._service}" if login else self._service
            # redis-py reads the rest; its types name what it knows today, and a URL may say more.
            options: dict[str, Any] = {**parse_url(urlunsplit((scheme, netloc, path, urlencode(query), "")))}
        except ValueError:
            options = {}
        if (not options and url.rstrip("/") not in ("redis:", "rediss:")) or not self.prefix or "}" in self.prefix:
            # Not with the text of it, nor with redis-py's error: there may be a password in either.
            raise ConfigurationError("the URL of Redis must be like 'redis://user:password@host:6379/0?prefix=shop'")
        self._make: Callable[..., AbstractConnection] = options.pop("connection_class", Connection)
        options.pop("max_connections", None)
        # No repetition of its own: what was sent may have been done. And the older protocol, in which what comes to a
        # subscriber is read like any answer.
        options |= {
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "socket_timeout": None,
        }
        if sentinels:
            options.pop("host", None)
            asking = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
            make: Any = Sentinel  # which has no annotations
            self._new_sentinel = partial(make, sentinels, sentinel_kwargs=asking)
            self.shown = f"{self._service} of the sentinels {', '.join(f'{host}:{port}' for host, port in sentinels)}"
        elif "path" in options:
            self.shown = str(options["path"])
        else:
            self.shown = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self._options = options

    async def connection(self, connect_timeout: float) -> AbstractConnection:
        """A connection that is not connected yet."""
        options = {**self._options, "socket_connect_timeout": connect_timeout}
        if self._new_sentinel is not None:
            sentinel = self._new_sentinel()
            try:
                options["host"], options["port"] = await sentinel.discover_master(self._service)
            finally:
                for each in sentinel.sentinels:
                    await each.connection_pool.disconnect()
        return self._make(**options)


class Greeting:
    """What a process knows of the Redis that it is connected to. Lifetime: the store.

    `timeline` (str) is the current one and `sequence` (int) the highest number of a commit seen in it.
    """

    __slots__ = ("sequence", "timeline")

    def __init__(self) -> None:
        self.timeline = ""
        self.sequence = 0

    def saw(self, timeline: str, sequence: int) -> None:
        """Notes what an answer says."""
        self.sequence = max(self.sequence, sequence) if timeline == self.timeline else sequence
        self.timeline = timeline

    def committed(self, sequence: int) -> None:
        """Notes the number of a commit. Of another timeline, unknown as yet, it does no harm."""
        self.sequence = max(self.sequence, sequence)


class _Request:
    """One command. Lifetime: until it is answered."""

    __slots__ = ("again", "future", "packed")

    def __init__(self, packed: bytes, again: bool, future: asyncio.Future[Any]) -> None:
        self.packed = packed
        self.again = again
        self.future = future

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Client:
    """A few connections to Redis, on one event loop. Lifetime: until `close`, or until the loop ends.

    Each connection is made when it is needed, by a task that sends what waits, all of it together, and reads the
    answers. `lines` is how many there are at most, `answer_timeout` and `connect_timeout` are in seconds.

    When nothing could be had from Redis it is `away`: then all fails at once, until a task of its own has got back.
    `on_away` is called then.
    """

    def __init__(
        self, address: Address, greeting: Greeting, *, lines: int, answer_timeout: float, connect_timeout: float
    ) -> None:
        self._address = address
        self._greeting = greeting
        self._lines = lines
        self._answer_timeout = answer_timeout
        self._connect_timeout = connect_timeout
        self._base = f"{{{address.prefix}}}:".encode()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Request] = deque()
        self._idle: list[asyncio.Future[None]] = []  # of the lines that wait for work; who came last goes first
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: set[AbstractConnection] = set()  # those of the lines
        self._generation = 0  # of connections: those of a former one are given up
        self._closed = False
        self._returning: asyncio.Task[None] | None = None
        self._there = asyncio.Event()
        self._there.set()
        self.away: PersistenceError | None = None
        self.on_away: Callable[[], None] = lambda: None

    # -- asking --------------------------------------------------------------------------------------------------------

    async def run(self, script: Script, *arguments: Argument, again: bool = False, first: bool = False) -> Any:
        """What a script answers. `again` has it sent once more where a connection broke: it may be done twice; `first`
        has it sent before all that waits."""
        from redis.exceptions import NoScriptError, ResponseError

        command: Sequence[Argument] = (b"EVALSHA", script.sha, 1, self._base, *arguments)
        for _ in range(3):
            try:
                return await self._ask(command, again, first)
            except NoScriptError:  # which says that nothing was done
                command = (b"EVAL", script.text, *command[2:])
            except ResponseError as error:
                if not str(error).startswith(LOST):  # which says so too; connections are greeted anew
                    raise self._failure(error) from redacted(error)
                self._drop_all()
        raise PersistenceError(f"Redis at {self._address.shown} loses its data again and again")

    async def do(self, *command: Argument) -> Any:
        """What a command answers that only asks."""
        from redis.exceptions import ResponseError

        try:
            return await self._ask(command, True, False)
        except ResponseError as error:
            raise self._failure(error) from redacted(error)

    async def _ask(self, command: Sequence[Argument], again: bool, first: bool) -> Any:
        if self._closed or self.away is not None:
            await asyncio.sleep(0)  # who tries again and again must not keep the loop from getting back
        if self._closed:
            raise PersistenceError("the Redis store was closed meanwhile")
        if self.away is not None:
            raise PersistenceError(str(self.away)) from self.away.__cause__
        future = self._loop.create_future()
        request = _Request(pack(command), again, future)
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
        if len(self._tasks) < self._lines:
            task = self._loop.create_task(self._serve(), name="faststate redis line")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- a line --------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Sends what waits over one connection, until it is cancelled."""
        connection: AbstractConnection | None = None
        generation = self._generation
        batch: list[_Request] = []
        try:
            while True:
                if not self._waiting:
                    idle = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                if connection is not None and (generation != self._generation or _is_broken(connection)):
                    gone, connection = connection, None
                    await self._drop(gone)
                batch = self._take()
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
                        # Redis may have as many connections as it takes. Nothing was sent: the others do it.
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
                    self._broke(batch, error)
        finally:
            ended = PersistenceError("the Redis store was closed, or its event loop ended: the outcome is unknown")
            _fail(batch, ended)
            if connection is not None:
                await self._drop(connection)

    def _has_another(self) -> bool:
        """Whether there is a connection over which Redis can be asked, as far as is known."""
        return any(not _is_broken(connection) for connection in self._live)

    async def _drop(self, connection: AbstractConnection) -> None:
        self._live.discard(connection)
        await close(connection)

    def _take(self) -> list[_Request]:
        batch: list[_Request] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            request = self._waiting.popleft()
            if not request.future.cancelled():
                batch.append(request)
                size += len(request.packed)
        return batch

    async def _exchange(self, connection: AbstractConnection, batch: Sequence[_Request]) -> None:
        """Sends requests and answers them. Raises when the connection is of no more use."""
        from redis.exceptions import ReadOnlyError, ResponseError

        refused: ResponseError | None = None
        async with asyncio.timeout(self._answer_timeout) as limit:
            packed = [request.packed for request in batch]
            await connection.send_packed_command(b"".join(packed), check_health=False)
            for request in batch:
                try:
                    answer = await connection.read_response()
                except ResponseError as error:
                    request.fail(error)
                    if isinstance(error, ReadOnlyError):
                        refused = error
                else:
                    if not request.future.done():
                        request.future.set_result(answer)
                if request is not batch[-1]:
                    limit.reschedule(self._loop.time() + self._answer_timeout)
        if refused is not None:
            self._leave(self._failure(refused), refused)
            raise refused

    def _broke(self, batch: Iterable[_Request], error: Exception) -> None:
        """Answers what a broken connection did not, or has it sent once more."""
        left = [request for request in batch if not request.future.done()]
        failure = self._failure(error)
        failure.__cause__ = error
        if isinstance(error, TimeoutError) or type(error).__name__ in ("TimeoutError", "BusyLoadingError"):
            self._leave(failure, error)
            _fail(left, failure)
            return
        for request in reversed(left):
            if request.again and self.away is None:
                request.again = False
                self._waiting.appendleft(request)
            else:
                request.fail(failure)
        if self._waiting:
            self._wake()

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def connect(self) -> AbstractConnection:
        """A new connection that has been greeted. Raises `PersistenceError`; Redis is away where there is no other."""
        from redis.exceptions import RedisError
        from redis.exceptions import TimeoutError as DriverTimeout

        try:
            try:
                connection = await self._connect()
            except (RedisError, OSError) as error:
                if isinstance(error, (TimeoutError, DriverTimeout)):
                    raise
                connection = await self._connect()  # a single one may break by itself
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            failure = self._failure(error)
            failure.__cause__ = error
            if not self._has_another():
                self._leave(failure, error)
            raise failure from error
        self._come_back()
        return connection

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._address.connection(self._connect_timeout)
                connect: Any = connection.connect  # which has no annotations
                await connect()
                await self._greet(connection)
        except BaseException:
            if connection is not None:
                await close(connection)
            raise
        return connection

    async def _greet(self, connection: AbstractConnection) -> None:
        from redis.exceptions import NoScriptError, ResponseError

        try:
            info = _parse_info(await _exchange_one(connection, (b"INFO", b"server")))
        except ResponseError:  # it may be forbidden
            info = {}
        version = info.get("redis_version", "")
        if version and tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
            raise PersistenceError(f"Redis at {self._address.shown} is version {version}: FastState needs 6.2 or newer")
        greeting = self._greeting
        arguments: tuple[Argument, ...] = (
            1,
            self._base,
            info.get("run_id", ""),
            os.urandom(8).hex(),
            greeting.timeline,
            greeting.sequence,
        )
        try:
            answer = await _exchange_one(connection, (b"EVALSHA", HELLO.sha, *arguments))
        except NoScriptError:
            answer = await _exchange_one(connection, (b"EVAL", HELLO.text, *arguments))
        greeting.saw(answer[0].decode(), int(answer[1]))

    def _drop_all(self) -> None:
        """Gives up the connections: before anything else is sent, new ones are greeted."""
        self._generation += 1

    def _leave(self, failure: PersistenceError, cause: BaseException) -> None:
        """Redis is away."""
        failure.__cause__ = cause
        self._drop_all()
        waiting, self._waiting = list(self._waiting), deque()
        _fail(waiting, failure)
        if self.away is None and not self._closed:
            logger.warning("%s", failure)
            self.away = failure
            self._there.clear()
            self._returning = self._loop.create_task(self._return(), name="faststate redis return")
            self.on_away()

    def _come_back(self) -> None:
        if self.away is not None:
            logger.warning("Redis at %s is there again", self._address.shown)
            self.away = None
            self._there.set()

    async def _return(self) -> None:
        """Tries to connect until it is possible."""
        while self.away is not None:
            await asyncio.sleep(RETURN_INTERVAL)
            with contextlib.suppress(PersistenceError):
                await close(await self.connect())

    async def there(self) -> None:
        """Returns when Redis is not known to be away."""
        await self._there.wait()

    async def close(self) -> None:
        """Lets go of all connections. What was not answered fails."""
        self._closed = True
        tasks = [*self._tasks, *([self._returning] if self._returning is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting, self._waiting = list(self._waiting), deque()
        _fail(waiting, PersistenceError("the Redis store was closed meanwhile"))

    def _failure(self, error: BaseException) -> PersistenceError:
        if isinstance(error, PersistenceError):
            return error
        reason = str(error).partition(", with args")[0] or (
            "it gave no answer in time" if isinstance(error, TimeoutError) else repr(error)
        )
        return PersistenceError(f"Redis at {self._address.shown} failed: {reason}")


def pack(command: Sequence[Argument]) -> bytes:
    """A command as Redis reads it."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _exchange_one(connection: AbstractConnection, command: Sequence[Argument]) -> Any:
    await connection.send_packed_command(pack(command), check_health=False)
    return await connection.read_response()


def _parse_info(answer: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _is_broken(connection: AbstractConnection) -> bool:
    """Whether the other side has closed it: what would be sent over it could never arrive."""
    reader = connection._reader
    return reader is None or reader.at_eof() or reader.exception() is not None


async def close(connection: AbstractConnection) -> None:
    """Lets go of a connection, in whatever state it is."""
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)


def _fail(requests: Iterable[_Request], error: PersistenceError) -> None:
    """Each gets an error of its own, as each gets a traceback of its own."""
    for request in requests:
        own = PersistenceError(str(error))
        own.__cause__ = error.__cause__
        request.fail(own)
