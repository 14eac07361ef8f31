"""The link of a process to Redis: its connections, on the event loop that they belong to, and the work over them."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from typing import Final

from ...exceptions import LockLostError, PersistenceError
from ..backplane import Message
from ..base import Committed, Hold, Stored, Write, version_conflict
from .address import RedisOptions
from .checkup import eviction_risk, persistence_risk, read_settings
from .client import CLOSED, RedisClient
from .locking import RedisLocks
from .members import Members
from .process import ThisProcess
from .rules import Argument, portions, read_news, read_stored, read_version, to_milliseconds, version_text
from .scripts import COMMIT, DELETE, NEWS, PAGE, SEQUENCES, TOUCH
from .subscriber import Subscriber

PORTION: Final = 250
"""Most keys that one script looks at. That takes about a millisecond, for which all other clients may have to wait."""


class RedisLink:
    """The connections of this process, on one event loop. Lifetime: while the store is open there, or calls are made.

    `users` (int) is how many calls use it. It `is_up` while this process is a member and receives messages.
    """

    def __init__(self, options: RedisOptions, process: ThisProcess) -> None:
        self.loop = asyncio.get_running_loop()
        self.users = 0
        self.unused: asyncio.Future[None] | None = None
        self.is_up = False
        self._options = options
        self._process = process
        self._starting = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._members: Members | None = None
        self._subscriber: Subscriber | None = None
        self._client = RedisClient(options, process, on_away=self._redis_is_away)
        self.locks = RedisLocks(self._client, options, process, rejoin=self._rejoin)

    async def start(self) -> None:
        """Become a member, and receive messages."""
        async with self._starting:
            if self.is_up:
                return
            shared = self._client, self._options, self._process
            self._subscriber = subscriber = Subscriber(*shared, prepare=self._stay, on_notice=self._take_notice)
            self._members = members = Members(*shared, subscriber, on_rejoined=self.locks.look_again)
            try:
                await members.join()
                await subscriber.start()
            except BaseException:
                self._subscriber = self._members = None
                await subscriber.close()
                await members.leave()
                raise
            self.is_up = True

    async def end(self) -> None:
        """Finish the work of all calls, leave the members and close the connections."""
        await asyncio.shield(self.begin_end())

    def begin_end(self) -> asyncio.Task[None]:
        """Begin to end, without waiting for it."""
        if self._ending is None:
            self._ending = self.loop.create_task(self._close(), name="faststate redis end")
        return self._ending

    async def _close(self) -> None:
        while self.users:
            self.unused = self.loop.create_future()
            await self.unused
        await self.locks.settled(self._options.answer_timeout)
        if self._members is not None:
            await self._members.leave()
        if self._subscriber is not None:
            await self._subscriber.close()
        await self.locks.close()
        await self._client.close()

    async def _stay(self) -> None:
        if self._members is not None:
            await self._members.stay()

    async def _rejoin(self, former: str) -> None:
        if self._members is None:
            raise PersistenceError(CLOSED)
        await self._members.rejoin(former)

    def _redis_is_away(self) -> None:
        if self._subscriber is not None and self._client.away is not None:
            self._subscriber.fail(self._client.away)

    def _take_notice(self, notice: list[bytes]) -> None:
        if notice[0] == b"lock":
            self.locks.woken(notice[1].decode())
        else:
            self.locks.look_again()

    # -- states --------------------------------------------------------------------------------------------------------

    async def news(self, known: Sequence[tuple[str, str]]) -> dict[str, Stored | None]:
        """Return by key what is stored, for keys whose version is not the known one (as `version_text`)."""
        found: dict[str, Stored | None] = {}
        for portion in portions(known, PORTION):
            pairs = [part for pair in portion for part in pair]
            found |= read_news(await self._client.run(NEWS, self._options.now(), *pairs, again=True))
        return found

    async def group(self, name: str, start: str) -> dict[str, Stored]:
        """Return the states of a group in the order of writing, from a sequence number on (as ZRANGEBYSCORE has it)."""
        found: dict[str, Stored] = {}
        size = PORTION
        while True:
            count, first, last, rows = await self._client.run(PAGE, self._options.now(), name, start, size, again=True)
            for key, version, data, left in rows:
                found[key.decode()] = read_stored(version, data, left)
            if count < size:
                return found
            if first == last:  # one commit wrote more states than fit into a page
                size *= 2
            else:
                start, size = last.decode(), PORTION

    async def commit(
        self,
        writes: Sequence[Write],
        messages: Sequence[Message],
        holds: Sequence[Hold],
        keep: Container[str],
    ) -> Committed:
        """Make a commit. As `SharedStore.commit`."""
        arguments: list[Argument] = [self._options.now(), len(holds), len(writes), len(messages)]
        for key, fence in holds:
            arguments += (key, fence, "1" if key in keep else "")
        for write in writes:
            ttl = to_milliseconds(write.ttl)
            arguments += (write.key, version_text(write.expected), version_text(write.version))
            arguments += ("", "") if write.data is None else ("1", write.data)
            arguments += (ttl, "", "") if write.group is None else (ttl, "1", write.group)
        for message in messages:
            arguments += message
        answer = await self._client.run(COMMIT, *arguments, self._process.origin)
        if answer[0] == b"lost":
            raise LockLostError(
                f"another process holds the lock of {answer[1].decode()}, or has held it: nothing was changed"
            )
        if answer[0] == b"conflict":
            key, found, expected = (part.decode() for part in answer[1:])
            raise version_conflict(key, *(read_version(text) if text else None for text in (found, expected)))
        sequence = int(answer[1])
        # It may be a number of a newer, still unknown timeline, which does no harm.
        self._process.sequence = max(self._process.sequence, sequence)
        return Committed(sequence, frozenset(key.decode() for key in answer[2]))

    async def touch(self, ttls: Mapping[str, float | None], *, extend: bool) -> None:
        """Set other times to live; with `extend`, none gets shorter."""
        for portion in portions([(key, to_milliseconds(ttl)) for key, ttl in ttls.items()], PORTION):
            pairs = [part for pair in portion for part in pair]
            await self._client.run(TOUCH, self._options.now(), "1" if extend else "", *pairs)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete states."""
        for portion in portions(keys, PORTION):
            await self._client.run(DELETE, *portion)

    async def sequences(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the sequence number of the last commit of each key that holds something."""
        found: dict[str, int] = {}
        for portion in portions(keys, PORTION):
            numbers = await self._client.run(SEQUENCES, *portion, again=True)
            found |= {key: int(number) for key, number in zip(portion, numbers, strict=True) if number is not None}
        return found

    async def durability(self) -> list[str]:
        """Return the ways to lose states, as sentences; none if CONFIG is forbidden."""
        try:
            settings = await read_settings(self._client.do)
        except PersistenceError:
            return []
        if not settings:  # another product, which does not know these settings
            return []
        evicted = eviction_risk(settings.get("maxmemory", "0"), settings.get("maxmemory-policy", "noeviction"))
        return [risk.message for risk in (evicted, persistence_risk(settings)) if risk is not None]

    # -- topics --------------------------------------------------------------------------------------------------------

    async def subscribe(self, topics: set[str]) -> None:
        """Subscribe to topics. As `Backplane.subscribe`."""
        if self._subscriber is None:
            raise PersistenceError(CLOSED)
        new = topics - self._process.topics
        self._process.topics |= new
        try:
            await self._subscriber.subscribe(topics)
        except BaseException:
            self._process.topics -= new
            raise

    def unsubscribe(self, topics: set[str]) -> None:
        """Unsubscribe from topics."""
        self._process.topics -= topics
        if self._subscriber is not None:
            self._subscriber.unsubscribe(topics)
