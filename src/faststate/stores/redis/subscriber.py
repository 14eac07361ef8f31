"""The connection that messages come over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from ...exceptions import PersistenceError
from .client import RETURN_INTERVAL, Client, close, pack
from .standing import Standing

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Subscriber"]

logger = logging.getLogger("faststate")

PORTION: Final = 500
"""Channels named in one command at most."""


class _Waiter:
    """Who waits until some channels are subscribed to. Lifetime: until they are."""

    __slots__ = ("future", "missing")

    def __init__(self, missing: set[str], future: asyncio.Future[None]) -> None:
        self.missing = missing
        self.future = future


class Subscriber:
    """Receives what is published to the topics of a process, and what is meant for it alone. Lifetime: the client.

    Its channels are `c:<topic>`, `@<member>` and `@all`; what comes over the latter two is given to `on_word`.
    `prepare` is awaited with each new connection, before anything is subscribed to. `patience` is for how many seconds
    an acknowledgement is waited for.
    """

    def __init__(
        self,
        client: Client,
        standing: Standing,
        prefix: str,
        *,
        patience: float,
        prepare: Callable[[], Awaitable[None]],
        on_word: Callable[[list[bytes]], None],
    ) -> None:
        self._client = client
        self._standing = standing
        self._base = f"{{{prefix}}}:"
        self._patience = patience
        self._prepare = prepare
        self._on_word = on_word
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._wanted: set[str] = set()  # the channels that are to be subscribed to
        self._changed: set[str] = set()  # those of which Redis is to be told something
        self._sent: set[str] = set()  # those of which Redis was told last that they are subscribed to
        self._open: dict[str, int] = {}  # how many acknowledgements of a channel are still to come
        self._waiters: dict[str, list[_Waiter]] = {}
        self._change = asyncio.Event()
        self._up = False
        self._was_up = False
        self._closed = False
        self.unheard = 0
        """How many beats of this process have been answered since one was heard."""

    async def start(self) -> None:
        """Connects. Raises `PersistenceError` when Redis does not acknowledge it."""
        self._wanted = {self._base + "@all", self._own(), *(self._channel(topic) for topic in self._standing.topics)}
        self._task = self._loop.create_task(self._run(), name="faststate redis subscriber")
        await self._acknowledged(self._wanted)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Returns when the topics are subscribed to. Raises `PersistenceError`, and those that were not are not."""
        channels = {self._channel(topic) for topic in topics}
        new = channels - self._wanted
        self._want(new)
        try:
            await self._acknowledged(channels)
        except BaseException:
            self._drop(channel for channel in new if channel not in self._waiters and not self._is_had(channel))
            raise

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Has the topics not be subscribed to, soon."""
        self._drop(self._channel(topic) for topic in topics)

    async def move(self, origin: str) -> None:
        """Listens for what is meant for `origin`, which this process is from now on."""
        new = f"{self._base}@{origin}"
        self._drop([self._own()])
        self._want([new])
        if self._up:
            with contextlib.suppress(PersistenceError):
                await self._acknowledged([new])

    def cut(self) -> None:
        """Gives the connection up: nothing comes over it any more."""
        connection = self._connection
        if connection is not None and connection._writer is not None:
            connection._writer.transport.abort()

    async def close(self) -> None:
        """Lets go of the connection."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(PersistenceError("the Redis store was closed meanwhile"))

    # -- what is wanted ------------------------------------------------------------------------------------------------

    def _own(self) -> str:
        return f"{self._base}@{self._standing.origin}"

    def _channel(self, topic: str) -> str:
        return f"{self._base}c:{topic}"

    def _want(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._wanted.add(channel)
            self._changed.add(channel)
        self._change.set()

    def _drop(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if channel in self._wanted:
                self._wanted.discard(channel)
                self._changed.add(channel)
                self._tell(channel)  # who has asked for it is overtaken, and need not wait
        self._change.set()

    def _is_had(self, channel: str) -> bool:
        return channel in self._sent and channel not in self._open and channel not in self._changed

    async def _acknowledged(self, channels: Iterable[str]) -> None:
        missing = {channel for channel in channels if not self._is_had(channel)}
        if not missing:
            return
        if self._client.away is not None:
            raise PersistenceError(str(self._client.away)) from self._client.away.__cause__
        waiter = _Waiter(missing, self._loop.create_future())
        for channel in missing:
            self._waiters.setdefault(channel, []).append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                await waiter.future
        except TimeoutError as error:
            raise PersistenceError("Redis has not acknowledged a subscription in time") from error
        finally:
            for channel in waiter.missing:
                waiting = self._waiters.get(channel, [])
                if waiter in waiting:
                    waiting.remove(waiter)
                if not waiting:
                    self._waiters.pop(channel, None)

    def fail(self, error: PersistenceError) -> None:
        """Redis is away: who waits is told, and what was received is complete no longer."""
        self._fail(error)
        self.cut()

    def _fail(self, error: PersistenceError) -> None:
        for waiter in {waiter for waiting in self._waiters.values() for waiter in waiting}:
            if not waiter.future.done():
                own = PersistenceError(str(error))
                own.__cause__ = error.__cause__
                waiter.future.set_exception(own)

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._client.there()
            try:
                self._connection = await self._client.connect()
                await self._prepare()
            except PersistenceError:
                await self._let_go()
                await asyncio.sleep(RETURN_INTERVAL)
                continue
            except BaseException:
                await self._let_go()
                raise
            sender = self._loop.create_task(self._send(self._connection), name="faststate redis subscriptions")
            try:
                self._sent.clear()
                self._open.clear()
                self._changed = set(self._wanted)
                self._change.set()
                self.unheard = 0
                await self._receive(self._connection)
            except Exception as error:  # whatever a driver raises of a connection that ends
                if self._client.away is None:
                    logger.warning("the connection that messages come over has ended: %s", error)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
                await self._let_go()
                self._sent.clear()
                self._open.clear()
                self._lose()

    async def _let_go(self) -> None:
        gone, self._connection = self._connection, None
        if gone is not None:
            await close(gone)

    async def _send(self, connection: AbstractConnection) -> None:
        """Tells Redis what is to be subscribed to, whenever that has changed."""
        try:
            while True:
                await self._change.wait()
                self._change.clear()
                changed, self._changed = self._changed, set()
                on = [channel for channel in changed if channel in self._wanted and channel not in self._sent]
                off = [channel for channel in changed if channel not in self._wanted and channel in self._sent]
                commands = []
                for verb, channels in ((b"UNSUBSCRIBE", off), (b"SUBSCRIBE", on)):
                    for start in range(0, len(channels), PORTION):
                        commands.append(pack((verb, *channels[start : start + PORTION])))
                for channel in (*on, *off):
                    self._open[channel] = self._open.get(channel, 0) + 1
                self._sent.update(on)
                self._sent.difference_update(off)
                if commands:
                    await connection.send_packed_command(b"".join(commands), check_health=False)
                self._settle(changed)
                self._find_if_all_is_had()  # what has changed may have come to nothing, and be acknowledged by nobody
        except Exception:
            self.cut()

    async def _receive(self, connection: AbstractConnection) -> None:
        while True:
            kind, name, rest = await connection.read_response()
            if kind == b"message":
                self._take(name.decode(), rest)
            elif kind in (b"subscribe", b"unsubscribe"):
                self._acknowledge(name.decode())

    def _acknowledge(self, channel: str) -> None:
        left = self._open.get(channel, 0) - 1
        if left > 0:
            self._open[channel] = left
            return
        self._open.pop(channel, None)
        self._settle([channel])
        self._find_if_all_is_had()

    def _find_if_all_is_had(self) -> None:
        if not self._up and self._sent and not self._open and not self._changed:
            self._find()

    def _settle(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if self._is_had(channel):
                self._tell(channel)

    def _tell(self, channel: str) -> None:
        for waiter in self._waiters.pop(channel, ()):
            waiter.missing.discard(channel)
            if not waiter.missing and not waiter.future.done():
                waiter.future.set_result(None)

    def _take(self, channel: str, body: bytes) -> None:
        name = channel[len(self._base) :]
        if name.startswith("c:"):
            if channel in self._wanted:
                origin, sequence, rest = body.split(b" ", 2)
                number = int(sequence)
                self._standing.tell(lambda to: to.received, origin.decode(), name[2:], rest, number)
            return
        words = body.split(b" ", 2)
        if words[0] == b"beat":
            self.unheard = 0
            if self._up:
                self._standing.tell(lambda to: to.reached, int(words[1]))
        else:
            self._on_word(words)

    def _find(self) -> None:
        self._up = True
        if self._was_up:
            self._standing.tell(lambda to: to.found)
        self._was_up = True

    def _lose(self) -> None:
        up, self._up = self._up, False
        if up and not self._closed:
            self._standing.tell(lambda to: to.lost)

    def miss(self) -> Callable[[], None]:
        """Says that what is published may be missed, and returns what says that it is received again."""
        if not self._up:
            return lambda: None
        self._standing.tell(lambda to: to.lost)

        def find() -> None:
            if self._up:
                self._standing.tell(lambda to: to.found)

        return find
