"""The Redis store: states, locks and messages of many processes, on many machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from ...backplane import Message, Receiver
from ...exceptions import BackplaneError, LockLostError, PersistenceError, VersionConflict
from .. import EXPIRED_KEPT, Committed, Hold, Locked, Stored, Version, Write
from .client import Address, Argument, Client
from .locking import Locking, token
from .members import Members
from .scripts import COMMIT, DELETE, NEWS, PAGE, SEQUENCES, TOUCH
from .standing import Standing
from .subscriber import Subscriber

__all__ = ["RedisStore"]

logger = logging.getLogger("faststate")

T = TypeVar("T")

PORTION: Final = 250
"""Keys that one script looks at, at most: about a millisecond, which is what all others may have to wait for it."""

KEPT: Final = round(EXPIRED_KEPT * 1_000)

ANY: Final = "*"
"""What a script is told to be known of a key, so that it tells what is stored there in any case."""


class _Settings(NamedTuple):
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


class RedisStore:
    """States, locks and the backplane in the Redis that `url` names. Lifetime: from `open` to `close`, and it may be
    opened again.

    The URL is redis-py's (`redis://user:password@host:6379/0`, `rediss://`, `unix://`), or that of sentinels
    (`redis+sentinel://host:26379,other:26379/master/0`); its parameter `prefix` begins all keys, so that several apps
    can share a Redis. Needs Redis 6.2 or newer. An acknowledged change survives a crash of Redis as far as Redis is set
    up so: see `durability`.

    All connections belong to the event loop on which the store is first used, as long as it runs; calls from other
    loops and threads are made there. `lock`, `listen` and `subscribe` open the store. A child that is forked off is
    a process of its own, and has to `listen` and `open` anew.

    `clock` gives seconds since the epoch, None for the server's clock. `lines` is how many connections there are at
    most, besides the one that messages come over. Seconds: `connect_timeout` and `answer_timeout` that Redis may take,
    after which it is away; `beat` between two signs of life of this process, and `silence` after which another one that
    gives none is taken for dead. Raises `MissingDependencyError` where redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] | None = None,
        lines: int = 4,
        connect_timeout: float = 2.0,
        answer_timeout: float = 3.0,
        beat: float = 1.0,
        silence: float = 3.0,
    ) -> None:
        self._settings = _Settings(Address(url), clock, lines, connect_timeout, answer_timeout, beat, silence)
        self._be_born()
        self._warned = False

    def _be_born(self) -> None:
        """Starts afresh, in this process."""
        self._pid = os.getpid()
        self._guard = threading.Lock()  # for what follows
        self._standing = Standing()
        self._opened = False
        self._home: _Home | None = None

    # -- states --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects, and becomes a member of the processes. Raises `PersistenceError` where it cannot."""
        self._present()
        self._opened = True
        try:
            await self._ask(_nothing)
        except BaseException:
            self._opened = False
            await self.close()
            raise
        if not self._warned:
            self._warned = True
            findings = await self.durability()
            if findings:
                logger.warning("Redis at %s may lose states: %s", self._settings.address.shown, "; ".join(findings))

    async def load(self, key: str) -> Stored | None:
        """What is stored under `key`, or None."""
        return (await self._ask(lambda home: home.news([(key, ANY)]))).get(key)

    async def group(self, name: str) -> Mapping[str, Stored]:
        """All that was written with the group `name`, by key."""
        return await self._ask(lambda home: home.group(name, "-inf"))

    async def save(self, write: Write) -> None:
        """Makes one change. Raises `VersionConflict` when the store holds another version than it expects."""
        await self._ask(lambda home: home.commit([write], (), (), ()))

    async def save_many(self, writes: Sequence[Write]) -> None:
        """Makes all changes or none of them. Raises as `save`."""
        if writes:
            await self._ask(lambda home: home.commit(writes, (), (), ()))

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        """Gives what is stored under the keys another time to live: seconds from now, None for ever."""
        if ttls:
            await self._ask(lambda home: home.touch(ttls))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes what is stored under `keys`, whatever its version."""
        if keys:
            await self._ask(lambda home: home.delete(keys))

    async def close(self) -> None:
        """Waits for what was asked before, gives back what is to be given back, and ends all connections."""
        self._present()
        with self._guard:
            self._opened = False
            home, self._home = self._home, None
        if home is not None and home.loop.is_running():
            await self._at(home, home.end())

    async def durability(self) -> list[str]:
        """What of the way that Redis is set up may lose states, in words; nothing where it may not be asked."""
        return await self._ask(lambda home: home.durability())

    # -- locks and commits ---------------------------------------------------------------------------------------------

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str] = ()) -> Locked:
        """Locks the keys of `known`, in their order as texts. Raises `LockTimeoutError`."""
        self._present()
        self._opened = True
        return await self._ask(lambda home: home.lock(known, within, look_for), self._forget)

    async def commit(
        self,
        writes: Sequence[Write],
        messages: Sequence[Message] = (),
        holds: Iterable[Hold] = (),
        keep: Container[str] = (),
    ) -> Committed:
        """Makes all changes, publishes the messages and gives locks back, or none of it.

        Raises `VersionConflict` and `LockLostError`.
        """
        return await self._ask(lambda home: home.commit(writes, messages, tuple(holds), keep))

    def unlock(self, holds: Iterable[Hold], *, unclean: bool = False) -> None:
        """Gives locks back, soon."""
        given = tuple(holds)
        if given:
            self._soon(lambda home: home.locking.give_back(given, unclean=unclean))

    async def fresh(self, known: Mapping[str, Version | None]) -> Mapping[str, Stored | None]:
        """Of those keys whose stored version is another than the `known` one: what is stored."""
        if not known:
            return {}
        return await self._ask(lambda home: home.news([(key, token(version)) for key, version in known.items()]))

    async def sequences(self, keys: Sequence[str]) -> Mapping[str, int]:
        """By key, the number of the commit that changed it last; keys that hold nothing are left out."""
        return await self._ask(lambda home: home.sequences(keys)) if keys else {}

    async def group_since(self, name: str, after: int) -> Mapping[str, Stored]:
        """As `group`, without what was written with the commit number `after` or before."""
        return await self._ask(lambda home: home.group(name, f"({after}"))

    # -- messages ------------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """The id of this process; another one once it has been taken for dead."""
        self._present()
        return self._standing.origin

    @property
    def timeline(self) -> str:
        """Another text each time that Redis was started, empty before it was first reached."""
        return self._standing.greeting.timeline

    @property
    def members(self) -> Mapping[str, bytes]:
        """The processes that live, as the last sign of life of this one has shown."""
        return self._standing.members

    async def listen(self, receiver: Receiver) -> None:
        """Has `receiver` be told what is published to the topics that are subscribed to."""
        self._present()
        self._opened = True
        self._standing.listen(receiver)
        await self._tell(_nothing)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Returns when Redis has acknowledged that all `topics` are subscribed to."""
        self._present()
        self._opened = True
        wanted = set(topics)
        await self._tell(lambda home: home.subscribe(wanted))

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Has nothing more be received of the topics, soon."""
        unwanted = set(topics)
        self._soon(lambda home: home.unsubscribe(unwanted))

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publishes the messages, in their order."""
        if messages:
            await self._tell(lambda home: home.commit((), messages, (), ()))

    def tell(self, about: bytes) -> None:
        """What the other processes are told of this one with its next beats."""
        self._standing.about = about

    # -- the home loop -------------------------------------------------------------------------------------------------

    def _present(self) -> None:
        if self._pid != os.getpid():  # a forked child: the connections are its parent's, and so are their files
            if self._home is not None:
                _inherited.append(self._home)
            self._be_born()

    def _enter(self) -> _Home:
        self._present()
        with self._guard:
            home = self._home
            if home is None or not home.loop.is_running():
                if home is not None:
                    with contextlib.suppress(RuntimeError):  # its loop is closed
                        home.loop.call_soon_threadsafe(home.abandon)
                home = self._home = _Home(self._settings, self._standing)
            home.users += 1
            return home

    async def _ask(self, work: Callable[[_Home], Awaitable[T]], undo: Callable[[_Home, T], None] | None = None) -> T:
        """The result of work with the connections; `undo` takes it when nobody waits for it any more."""
        home = self._enter()
        result: T = await self._at(home, self._work(home, work), undo)
        return result

    async def _work(self, home: _Home, work: Callable[[_Home], Awaitable[T]]) -> T:
        try:
            if self._opened and not home.is_up:
                await home.rise()
            return await work(home)
        finally:
            with self._guard:
                home.users -= 1
                alone = not home.users and not self._opened and self._home is home
                if alone:
                    self._home = None
            if home.left is not None and not home.users and not home.left.done():
                home.left.set_result(None)
            if alone:
                await home.end()

    async def _at(self, home: _Home, work: Any, undo: Callable[[_Home, Any], None] | None = None) -> Any:
        """Does work on the home's loop."""
        if home.loop is asyncio.get_running_loop():
            return await work
        try:
            future = asyncio.run_coroutine_threadsafe(work, home.loop)
        except RuntimeError as error:
            work.close()
            raise PersistenceError("the event loop of the Redis store has just ended") from error
        waiting = asyncio.wrap_future(future)
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=1.0)
                if not waiting.done() and not home.loop.is_running():
                    raise PersistenceError("the event loop of the Redis store has ended: the outcome is unknown")
        except BaseException:
            future.cancel()
            if undo is not None and future.done() and not future.cancelled() and future.exception() is None:
                undo(home, future.result())
            raise
        if waiting.cancelled():
            raise PersistenceError("the event loop of the Redis store has ended: the outcome is unknown")
        return waiting.result()

    async def _tell(self, work: Callable[[_Home], Awaitable[object]]) -> None:
        try:
            await self._ask(work)
        except PersistenceError as error:
            raise BackplaneError(str(error)) from error.__cause__

    def _soon(self, work: Callable[[_Home], None]) -> None:
        """Does something on the home's loop; nothing where there is none: the locks have ended with it."""
        self._present()
        home = self._home
        if home is None:
            return
        try:
            here = asyncio.get_running_loop() is home.loop
        except RuntimeError:
            here = False
        if here:
            work(home)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                home.loop.call_soon_threadsafe(work, home)

    def _forget(self, home: _Home, locked: Locked) -> None:
        self._soon(lambda home: home.locking.give_back(locked.holds.values(), used=False))


_inherited: list[_Home] = []
"""Of forked children: what their parents were connected with. It is never touched again, not even to be deleted: its
event loops share their list of files with the parent's."""


async def _nothing(home: _Home) -> None:
    pass


class _Home:
    """The connections of a process, on one event loop. Lifetime: from the store's opening, or from a call, to its end.

    `users` (int) is how many calls are under way.
    """

    def __init__(self, settings: _Settings, standing: Standing) -> None:
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

    async def news(self, known: Sequence[tuple[str, str]]) -> dict[str, Any]:
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

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        """Sets other times to live."""
        pairs = [(key, "" if ttl is None else round(ttl * 1_000)) for key, ttl in ttls.items()]
        for start in range(0, len(pairs), PORTION):
            some = [part for pair in pairs[start : start + PORTION] for part in pair]
            await self._client.run(TOUCH, self._settings.now(), KEPT, *some)

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
        await self._subscriber.subscribe(topics)
        self._standing.topics |= topics

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
