"""The connection that receives messages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..._compat.redis import abort
from ...exceptions import PersistenceError
from ...scheduling.loops import settle
from ..base import same_error
from .address import RedisOptions
from .client import CLOSED, RETURN_INTERVAL, RedisClient
from .connection import disconnect, pack
from .process import ThisProcess
from .rules import EVERYBODY, member_channel, portions, read_message, topic_channel, topic_of

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

logger = logging.getLogger("faststate")

PORTION: Final = 500
"""Most channels that one command names."""


@dataclass(slots=True, eq=False)
class PendingSubscription:
    """A call that waits until the `missing` channels are subscribed to. Lifetime: until they are."""

    missing: set[str]
    future: asyncio.Future[None]


class Subscriber:
    """Receives the messages of this process's topics, and the notices for it and for everybody. Lifetime: the client.

    A notice, split at its spaces, is passed to `on_notice`; beats are handled here. `prepare` is awaited for each new
    connection, before anything is subscribed to.
    """

    def __init__(
        self,
        client: RedisClient,
        options: RedisOptions,
        process: ThisProcess,
        *,
        prepare: Callable[[], Awaitable[None]],
        on_notice: Callable[[list[bytes]], None],
    ) -> None:
        self._client = client
        self._process = process
        self._base = options.address.base
        self._timeout = options.answer_timeout
        self._prepare = prepare
        self._on_notice = on_notice
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._wanted: set[str] = set()  # channels that should be subscribed to
        self._changed: set[str] = set()  # channels whose change has yet to be sent to Redis
        self._sent: set[str] = set()  # channels whose last command to Redis was to subscribe
        self._open: Counter[str] = Counter()  # by channel, how many acknowledgements are still to come
        self._pending: dict[str, list[PendingSubscription]] = {}
        self._change = asyncio.Event()
        self._up = False
        self._was_up = False
        self._closed = False
        self.unheard = 0
        """Beats of this process that Redis has answered since the last one came over this connection."""

    async def start(self) -> None:
        """Connect and subscribe. Raises `PersistenceError` if Redis does not acknowledge it."""
        self._wanted |= {member_channel(self._base, EVERYBODY), self._own(), *map(self._channel, self._process.topics)}
        self._task = self._loop.create_task(self._run(), name="faststate redis subscriber")
        await self._wait_for(self._wanted)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to topics and wait for the acknowledgement. If that fails, undo it and raise `PersistenceError`."""
        channels = set(map(self._channel, topics))
        new = channels - self._wanted
        self._want(new)
        try:
            await self._wait_for(channels)
        except BaseException:
            self._drop(
                channel for channel in new if channel not in self._pending and not self._is_acknowledged(channel)
            )
            raise

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics soon."""
        self._drop(map(self._channel, topics))

    async def move(self, origin: str) -> None:
        """Receive the notices for `origin`, the new id of this process."""
        new = member_channel(self._base, origin)
        self._drop([self._own()])
        self._want([new])
        if self._up:
            with contextlib.suppress(PersistenceError):
                await self._wait_for([new])

    def cut(self) -> None:
        """Give the connection up: nothing comes over it any more."""
        if self._connection is not None:
            abort(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.fail(PersistenceError(CLOSED))

    # -- channels ------------------------------------------------------------------------------------------------------

    def _own(self) -> str:
        return member_channel(self._base, self._process.origin)

    def _channel(self, topic: str) -> str:
        return topic_channel(self._base, topic)

    def _want(self, channels: Iterable[str]) -> None:
        new = set(channels)
        self._wanted |= new
        self._changed |= new
        self._change.set()

    def _drop(self, channels: Iterable[str]) -> None:
        gone = self._wanted.intersection(channels)
        self._wanted -= gone
        self._changed |= gone
        for channel in gone:
            self._acknowledge_pending(channel)  # an earlier call that wants it need not wait any more
        self._change.set()

    def _is_acknowledged(self, channel: str) -> bool:
        return channel in self._sent and channel not in self._open and channel not in self._changed

    async def _wait_for(self, channels: Iterable[str]) -> None:
        missing = {channel for channel in channels if not self._is_acknowledged(channel)}
        if not missing:
            return
        if self._client.away is not None:
            raise same_error(self._client.away)
        pending = PendingSubscription(missing, self._loop.create_future())
        for channel in missing:
            self._pending.setdefault(channel, []).append(pending)
        try:
            async with asyncio.timeout(self._timeout):
                await pending.future
        except TimeoutError as error:
            raise PersistenceError("Redis has not acknowledged a subscription in time") from error
        finally:
            for channel in pending.missing & self._pending.keys():
                self._pending[channel].remove(pending)
                if not self._pending[channel]:
                    del self._pending[channel]

    def fail(self, error: PersistenceError) -> None:
        """Fail the calls that wait, and give the connection up: Redis is away."""
        self.cut()
        for pending in {pending for waiting in self._pending.values() for pending in waiting}:
            if not pending.future.done():
                pending.future.set_exception(same_error(error))

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._client.reachable()
            try:
                self._connection = await self._client.connect()
                await self._prepare()
            except PersistenceError:
                await self._disconnect()
                await asyncio.sleep(RETURN_INTERVAL)
                continue
            except BaseException:
                await self._disconnect()
                raise
            sender = self._loop.create_task(self._send(self._connection), name="faststate redis subscriptions")
            try:
                self._sent.clear()
                self._open.clear()
                self._changed = set(self._wanted)
                self._change.set()
                self.unheard = 0
                await self._receive(self._connection)
            except Exception as error:  # redis-py may raise anything when a connection ends
                if self._client.away is None:
                    logger.warning("the connection for messages has ended: %s", error)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
                await self._disconnect()
                self._sent.clear()
                self._open.clear()
                up, self._up = self._up, False
                if up and not self._closed:
                    self._process.tell(lambda to: to.lost)

    async def _disconnect(self) -> None:
        gone, self._connection = self._connection, None
        if gone is not None:
            await disconnect(gone)

    async def _send(self, connection: AbstractConnection) -> None:
        """Send changes of the wanted channels to Redis, whenever there are any."""
        try:
            while True:
                await self._change.wait()
                self._change.clear()
                changed, self._changed = self._changed, set()
                on = [channel for channel in changed if channel in self._wanted and channel not in self._sent]
                off = [channel for channel in changed if channel not in self._wanted and channel in self._sent]
                commands = [
                    pack((verb, *portion))
                    for verb, channels in ((b"UNSUBSCRIBE", off), (b"SUBSCRIBE", on))
                    for portion in portions(channels, PORTION)
                ]
                self._open.update((*on, *off))
                self._sent.update(on)
                self._sent.difference_update(off)
                if commands:
                    await connection.send_packed_command(b"".join(commands), check_health=False)
                self._settle(changed)
                self._check_up()  # the changes may have cancelled each other out: then no acknowledgement will come
        except Exception:
            self.cut()

    async def _receive(self, connection: AbstractConnection) -> None:
        while True:
            kind, name, rest = await connection.read_response()
            if kind == b"message":
                self._dispatch(name.decode(), rest)
            elif kind in (b"subscribe", b"unsubscribe"):
                self._acknowledge(name.decode())

    def _acknowledge(self, channel: str) -> None:
        self._open[channel] -= 1
        if self._open[channel] > 0:
            return
        del self._open[channel]
        self._settle([channel])
        self._check_up()

    def _check_up(self) -> None:
        if not self._up and self._sent and not self._open and not self._changed:
            if self._was_up:
                self._process.tell(lambda to: to.found)
            self._up = self._was_up = True

    def _settle(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if self._is_acknowledged(channel):
                self._acknowledge_pending(channel)

    def _acknowledge_pending(self, channel: str) -> None:
        for pending in self._pending.pop(channel, ()):
            pending.missing.discard(channel)
            if not pending.missing:
                settle(pending.future)

    def _dispatch(self, channel: str, body: bytes) -> None:
        topic = topic_of(self._base, channel)
        if topic is not None:
            if channel in self._wanted:
                origin, sequence, rest = read_message(body)
                self._process.tell(lambda to: to.received, origin, topic, rest, sequence)
            return
        notice = body.split(b" ", 2)
        if notice[0] == b"beat":
            self.unheard = 0
            if self._up:
                self._process.tell(lambda to: to.reached, int(notice[1]))
        else:
            self._on_notice(notice)

    @contextlib.contextmanager
    def missing(self) -> Iterator[None]:
        """Tell the receiver that messages may be missed, until the block ends."""
        was_up = self._up
        if was_up:
            self._process.tell(lambda to: to.lost)
        try:
            yield
        finally:
            if was_up and self._up:
                self._process.tell(lambda to: to.found)
