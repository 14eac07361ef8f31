"""The Redis store: states, locks and messages of many processes, on many machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from ...exceptions import BackplaneError, PersistenceError
from ...scopes import Version
from ..backplane import Message, Receiver
from ..base import Committed, Hold, Locked, Stored, Write
from .client import Address
from .home import ANY, Home, Settings
from .locking import token
from .standing import Standing

__all__ = ["RedisStore"]

logger = logging.getLogger("faststate")

T = TypeVar("T")

LOOK_AFTER: Final = 1.0
"""Seconds after which who waits for work on another loop looks whether that still runs."""


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
        self._settings = Settings(Address(url), clock, lines, connect_timeout, answer_timeout, beat, silence)
        self._be_born()
        self._warned = False

    def _be_born(self) -> None:
        """Starts afresh, in this process."""
        self._pid = os.getpid()
        self._guard = threading.Lock()  # for what follows
        self._standing = Standing()
        self._opened = False
        self._home: Home | None = None
        self._leaving: Home | None = None

    @property
    def address(self) -> Address:
        """Where it connects to."""
        return self._settings.address

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
            await self._ask(lambda home: home.touch(ttls, extend=False))

    async def extend(self, ttls: Mapping[str, float | None]) -> None:
        """As `touch`, where the states have less time left: other processes use them as well."""
        if ttls:
            await self._ask(lambda home: home.touch(ttls, extend=True))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes what is stored under `keys`, whatever its version."""
        if keys:
            await self._ask(lambda home: home.delete(keys))

    async def close(self) -> None:
        """Waits for what was asked before, gives back what is to be given back, and ends all connections."""
        self._present()
        with self._guard:
            self._opened = False
            home = self._leaving = self._home or self._leaving
            self._home = None
        if home is not None and home.loop.is_running():
            await _at(home.loop, home.end())

    async def durability(self) -> list[str]:
        """What of the way that Redis is set up may lose states, in words; nothing where it may not be asked."""
        return await self._ask(lambda home: home.durability())

    # -- locks and commits ---------------------------------------------------------------------------------------------

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str] = ()) -> Locked:
        """Locks the keys of `known`, in their order as texts. Raises `LockTimeoutError`."""
        await self._keep_open()
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
        self._standing.listen(receiver)
        await self._tell(_nothing, opens=True)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Returns when Redis has acknowledged that all `topics` are subscribed to."""
        wanted = set(topics)
        await self._tell(lambda home: home.subscribe(wanted), opens=True)

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

    def _enter(self) -> Home:
        self._present()
        with self._guard:
            home = self._home
            if home is None or not home.loop.is_running():
                if home is not None:
                    with contextlib.suppress(RuntimeError):  # its loop is closed
                        home.loop.call_soon_threadsafe(home.abandon)
                home = self._home = Home(self._settings, self._standing)
            home.users += 1
            return home

    async def _ask(self, work: Callable[[Home], Awaitable[T]], undo: Callable[[T], None] | None = None) -> T:
        """The result of work with the connections; `undo` takes it when nobody waits for it any more."""
        home = self._enter()
        return await _at(home.loop, self._work(home, work), undo)

    async def _work(self, home: Home, work: Callable[[Home], Awaitable[T]]) -> T:
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

    async def _keep_open(self) -> None:
        self._present()
        if not self._opened:
            await self.open()

    async def _tell(self, work: Callable[[Home], Awaitable[object]], *, opens: bool = False) -> None:
        try:
            if opens:
                await self._keep_open()
            await self._ask(work)
        except PersistenceError as error:
            raise BackplaneError(str(error)) from error.__cause__

    def _soon(self, work: Callable[[Home], None]) -> None:
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

    def _forget(self, locked: Locked) -> None:
        self._soon(lambda home: home.locking.give_back(locked.holds.values(), used=False))


_inherited: list[Home] = []
"""Of forked children: what their parents were connected with. It is never touched again, not even to be deleted: its
event loops share their list of files with the parent's."""


async def _nothing(home: Home) -> None:
    pass


async def _at(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """What work results in that is done on a loop, this one or another's. Nobody waiting, `undo` takes the result."""
    if loop is asyncio.get_running_loop():
        return await work
    outcome: Future[T] = Future()

    async def do() -> None:
        try:
            result = await work
        except asyncio.CancelledError as error:
            _settle(outcome, PersistenceError("the event loop of the Redis store has ended: the outcome is unknown"))
            raise error
        except BaseException as error:
            _settle(outcome, error)
        else:
            if outcome.set_running_or_notify_cancel():
                outcome.set_result(result)
            elif undo is not None:
                undo(result)

    def begin() -> None:
        task = loop.create_task(do(), name="faststate redis call")
        # It has begun when it is cancelled, however soon: what it has entered, it leaves.
        outcome.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if outcome.cancelled() else None)

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError as error:
        work.close()
        raise PersistenceError("the event loop of the Redis store has just ended") from error
    waiting = asyncio.wrap_future(outcome)
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK_AFTER))[0]:
            if not loop.is_running():
                raise PersistenceError("the event loop of the Redis store has ended: the outcome is unknown")
    except BaseException:
        if not outcome.cancel() and undo is not None and outcome.exception() is None:
            undo(outcome.result())
        raise
    return waiting.result()


def _settle(outcome: Future[Any], error: BaseException) -> None:
    if outcome.set_running_or_notify_cancel():
        outcome.set_exception(error)
