"""The connections of a process to Redis, on the event loop that they belong to, and what is done over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from ...exceptions import LockLostError, PersistenceError, VersionConflict
from ...scopes import Version
from ..backplane import Message
from ..base import EXPIRED_KEPT, Committed, Hold, Locked, Stored, Write
from .client import Address, Argument, Client
from .locking import Locking, token
from .members import Members
from .scripts import COMMIT, DELETE, NEWS, PAGE, SEQUENCES, TOUCH
from .standing import Standing
from .subscriber import Subscriber

__all__ = ["ANY", "Home", "Settings"]

PORTION: Final = 250
"""Keys that one script looks at, at most: about a millisecond, which is what all others may have to wait for it."""

KEPT: Final = round(EXPIRED_KEPT * 1_000)

ANY: Final = "*"
"""What a script is told to be known of a key, so that it tells what is stored there in any case."""


class Settings(NamedTuple):
    """How a store talks to Redis. Lifetime: the store; its docstring says what each is."""

    address: Address
    clock: Callable[[], float] | None
    lines: int
    connect_timeout: float
    answer_timeout: float
    beat: float
    silence: float

    def now(self) -> Argument:
        """The time in ms since the epoch as scripts take it: nothing for the server's."""
        return "" if self.clock is None else round(self.clock() * 1_000)


class Home:
    """The connections of a process, on one event loop. Lifetime: from the store's opening, or from a call, to its end.

    `users` (int) is how many calls are under way.
    """

    def __init__(self, settings: Settings, standing: Standing) -> None:
        self.loop = asyncio.get_running_loop()
        self.users = 0
        self.left: asyncio.Future[None] | None = None
        self.is_up = False
        self._settings = settings
        self._standing = standing
        self._rising = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._members: Members | None = None
        self._subscriber: Subscriber | None = None
        self._client = Client(
            settings.address,
            standing.greeting,
            lines=settings.lines,
            answer_timeout=settings.answer_timeout,
            connect_timeout=settings.connect_timeout,
        )
        self.locking = Locking(self._client, standing, rejoin=self._rejoin, now=settings.now)

    async def rise(self) -> None:
        """Becomes a member, and receives messages."""
        async with self._rising:
            if self.is_up:
                return
            settings = self._settings
            members = Members(
                self._client,
                self._standing,
                interval=settings.beat,
                silence=settings.silence,
                on_gone=self.locking.look_again,
            )
            subscriber = Subscriber(
                self._client,
                self._standing,
                settings.address.prefix,
                patience=settings.answer_timeout,
                prepare=members.stay,
                on_word=self._heard,
            )
            self._client.on_away = self._lost
            try:
                await members.join()
                self._subscriber = members.subscriber = subscriber
                await subscriber.start()
            except BaseException:
                self._subscriber = None
                await subscriber.close()
                await members.leave()
                raise
            self._members = members
            self.is_up = True

    def abandon(self) -> None:
        """Ends, as there is another home."""
        self._end()

    async def end(self) -> None:
        """Returns when all that was asked for is done, and the connections have ended."""
        await asyncio.shield(self._end())

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = self.loop.create_task(self._close(), name="faststate redis end")
        return self._ending

    async def _close(self) -> None:
        while self.users:
            self.left = self.loop.create_future()
            await self.left
        await self.locking.settled(self._settings.answer_timeout)
        if self._members is not None:
            await self._members.leave()
        if self._subscriber is not None:
            await self._subscriber.close()
        await self.locking.close()
        await self._client.close()

    async def _rejoin(self, former: str) -> None:
        if self._members is None:
            raise PersistenceError("the Redis store was closed meanwhile")
        await self._members.rejoin(former)

    def _lost(self) -> None:
        if self._subscriber is not None and self._client.away is not None:
            self._subscriber.fail(self._client.away)

    def _heard(self, words: list[bytes]) -> None:
        if words[0] == b"lock":
            self.locking.woken(words[1].decode())
        else:
            self.locking.look_again()

    # -- the work ------------------------------------------------------------------------------------------------------

    async def news(self, known: Sequence[tuple[str, str]]) -> dict[str, Stored | None]:
        """By key, what is stored where that is another version than the known one."""
        found: dict[str, Stored | None] = {}
        for start in range(0, len(known), PORTION):
            pairs = [part for pair in known[start : start + PORTION] for part in pair]
            found |= _read_news(await self._client.run(NEWS, self._settings.now(), *pairs, again=True))
        return found

    async def group(self, name: str, start: str) -> dict[str, Stored]:
        """What a group holds, from a sequence number on, in the order of writing."""
        found: dict[str, Stored] = {}
        size = PORTION
        while True:
            count, first, last, rows = await self._client.run(PAGE, self._settings.now(), name, start, size, again=True)
            for key, version, data, left in rows:
                found[key.decode()] = _stored(version, data, left)
            if count < size:
                return found
            if first == last:  # more states were written by one commit than a page has
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
        """Makes a commit."""
        arguments: list[Argument] = [self._settings.now(), KEPT, len(holds), len(writes), len(messages)]
        for key, fence in holds:
            arguments += (key, fence, "1" if key in keep else "")
        for write in writes:
            ttl = "" if write.ttl is None else round(write.ttl * 1_000)
            arguments += (write.key, token(write.expected), token(write.version))
            arguments += ("", "") if write.data is None else ("1", write.data)
            arguments += (ttl, "", "") if write.group is None else (ttl, "1", write.group)
        for message in messages:
            arguments += message
        answer = await self._client.run(COMMIT, *arguments, self._standing.origin)
        if answer[0] == b"lost":
            raise LockLostError(f"the lock of {answer[1].decode()} is another's by now, or was: nothing was changed")
        if answer[0] == b"conflict":
            key, found, expected = (part.decode() for part in answer[1:])
            raise VersionConflict(f"the store holds {key} at {_version(found)}, not at {_version(expected)}")
        self._standing.greeting.committed(int(answer[1]))
        return Committed(int(answer[1]), frozenset(key.decode() for key in answer[2]))

    async def touch(self, ttls: Mapping[str, float | None], *, extend: bool) -> None:
        """Sets other times to live; to `extend` them is to make none shorter."""
        pairs = [(key, "" if ttl is None else round(ttl * 1_000)) for key, ttl in ttls.items()]
        for start in range(0, len(pairs), PORTION):
            some = [part for pair in pairs[start : start + PORTION] for part in pair]
            await self._client.run(TOUCH, self._settings.now(), KEPT, "1" if extend else "", *some)

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes states."""
        for start in range(0, len(keys), PORTION):
            await self._client.run(DELETE, *keys[start : start + PORTION])

    async def sequences(self, keys: Sequence[str]) -> dict[str, int]:
        """The numbers of the last commits."""
        found: dict[str, int] = {}
        for start in range(0, len(keys), PORTION):
            some = keys[start : start + PORTION]
            numbers = await self._client.run(SEQUENCES, *some, again=True)
            found |= {key: int(number) for key, number in zip(some, numbers, strict=True) if number is not None}
        return found

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str]) -> Locked:
        """Has locks."""
        fence, (news, *others) = await self.locking.lock(known, within, look_for)
        unclean, present, wanted = (frozenset(key.decode() for key in keys) for keys in others)
        holds = {key: Hold(key, fence) for key in sorted(known)}
        return Locked(holds, _read_news(news), unclean, present, wanted)

    async def subscribe(self, topics: set[str]) -> None:
        """Subscribes to topics."""
        if self._subscriber is None:
            raise PersistenceError("the Redis store was closed meanwhile")
        new = topics - self._standing.topics
        self._standing.topics |= new
        try:
            await self._subscriber.subscribe(topics)
        except BaseException:
            self._standing.topics -= new
            raise

    def unsubscribe(self, topics: set[str]) -> None:
        """Unsubscribes from topics."""
        self._standing.topics -= topics
        if self._subscriber is not None:
            self._subscriber.unsubscribe(topics)

    async def durability(self) -> list[str]:
        """What may lose states."""
        found: dict[str, str] = {}
        try:
            for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync"):
                answer = await self._client.do(b"CONFIG", b"GET", name)
                found |= {name: answer[1].decode()} if len(answer) > 1 else {}
        except PersistenceError:
            return []
        findings = []
        if found.get("maxmemory", "0") != "0" and found.get("maxmemory-policy") != "noeviction":
            findings.append(
                f"maxmemory-policy is {found.get('maxmemory-policy')}: Redis may drop states to have room; "
                "set it to noeviction"
            )
        if found.get("appendonly") == "no":
            findings.append("appendonly is no: a restart of Redis loses states; set appendonly yes, appendfsync always")
        elif found.get("appendfsync") in ("everysec", "no"):
            findings.append(
                f"appendfsync is {found['appendfsync']}: a crash may lose the last second, or more, of what was "
                "acknowledged; set it to always"
            )
        return findings


def _version(text: str) -> Version | None:
    if not text:
        return None
    number, _, epoch = text.partition(" ")
    return Version(epoch, int(number))


def _stored(version: bytes, data: bytes, left: bytes) -> Stored:
    number, _, epoch = version.decode().partition(" ")
    return Stored(Version(epoch, int(number)), data, int(left) / 1_000 if left else None)


def _read_news(rows: Iterable[Sequence[bytes]]) -> dict[str, Stored | None]:
    return {row[0].decode(): _stored(row[1], row[2], row[3]) if len(row) > 1 else None for row in rows}
