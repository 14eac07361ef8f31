"""The Redis store: states, locks and messages for many processes on many machines."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from ...exceptions import BackplaneError, PersistenceError
from ...scheduling.loops import call_on, running_loop, settle
from ...scopes import Version
from ..backplane import Message, Receiver
from ..base import Committed, Hold, Locked, SharedStore, Stored, Write
from .address import Address, RedisOptions
from .link import RedisLink
from .process import ThisProcess
from .rules import ANY_VERSION, version_text

logger = logging.getLogger("faststate")

T = TypeVar("T")

LOOK_AFTER: Final = 1.0
"""Seconds after which a caller that waits checks whether the other loop still runs."""


class RedisStore(SharedStore):
    """States, locks and messages in the Redis at `url`. Lifetime: from `open` to `close`; it can be opened again.

    The URL is one of redis-py (`redis://user:password@host:6379/0`, `rediss://`, `unix://`), or names sentinels
    (`redis+sentinel://host:26379,other:26379/master/0`). Its parameter `prefix` begins all keys, so that several apps
    can share a Redis. Needs Redis 6.2 or newer. Whether an acknowledged change survives a crash of Redis depends on the
    settings of Redis: see `durability`.

    All connections belong to the event loop on which the store is first used, as long as that loop runs. Calls from
    other loops and threads are carried out there. `lock`, `listen` and `subscribe` open the store. A forked child is a
    process of its own, and must call `listen` and `open` again.

    `clock` returns seconds since the epoch; None uses the server's clock. `connections` is how many connections there
    are at most, besides the one for messages. In seconds: `connect_timeout` and `answer_timeout` are how long Redis may
    take before it counts as away; `beat` is the time between two signs of life of this process, and `silence` the time
    after which another process without a sign of life counts as dead. Raises `MissingDependencyError` if redis-py is
    not installed. `SharedStore` documents the methods.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] | None = None,
        connections: int = 4,
        connect_timeout: float = 2.0,
        answer_timeout: float = 3.0,
        beat: float = 1.0,
        silence: float = 3.0,
    ) -> None:
        self.address = Address(url)
        self._options = RedisOptions(self.address, clock, connections, connect_timeout, answer_timeout, beat, silence)
        self._reset()
        self._warned = False

    def _reset(self) -> None:
        """Begin again, as a process that is not connected."""
        self._pid = os.getpid()
        self._guard = threading.Lock()  # for the attributes below
        self._process = ThisProcess()
        self._opened = False
        self._link: RedisLink | None = None
        self._closing: RedisLink | None = None

    # -- states --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and join the other processes. Raises `PersistenceError` if that fails."""
        self._check_process()
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
                logger.warning("Redis at %s may lose states: %s", self.address.shown, "; ".join(findings))

    async def load(self, key: str) -> Stored | None:
        return (await self._ask(lambda link: link.news([(key, ANY_VERSION)]))).get(key)

    async def group(self, name: str) -> Mapping[str, Stored]:
        return await self._ask(lambda link: link.group(name, "-inf"))

    async def save(self, write: Write) -> None:
        await self._ask(lambda link: link.commit([write], (), (), ()))

    async def save_many(self, writes: Sequence[Write]) -> None:
        if writes:
            await self._ask(lambda link: link.commit(writes, (), (), ()))

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        if ttls:
            await self._ask(lambda link: link.touch(ttls, extend=False))

    async def extend(self, ttls: Mapping[str, float | None]) -> None:
        if ttls:
            await self._ask(lambda link: link.touch(ttls, extend=True))

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            await self._ask(lambda link: link.delete(keys))

    async def close(self) -> None:
        """Finish earlier calls, give locks back, and close all connections."""
        self._check_process()
        with self._guard:
            self._opened = False
            link = self._closing = self._link or self._closing
            self._link = None
        if link is not None and link.loop.is_running():
            await run_on(link.loop, link.end())

    async def durability(self) -> list[str]:
        """Return how the settings of Redis may lose states, as sentences; none if the settings may not be read."""
        return await self._ask(lambda link: link.durability())

    # -- locks and commits ---------------------------------------------------------------------------------------------

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str] = ()) -> Locked:
        await self._keep_open()
        return await self._ask(lambda link: link.locks.lock(known, within, look_for), self._forget)

    async def commit(
        self,
        writes: Sequence[Write],
        messages: Sequence[Message] = (),
        holds: Iterable[Hold] = (),
        keep: Container[str] = (),
    ) -> Committed:
        return await self._ask(lambda link: link.commit(writes, messages, tuple(holds), keep))

    def unlock(self, holds: Iterable[Hold], *, unclean: bool = False) -> None:
        given = tuple(holds)
        if given:
            self._soon(lambda link: link.locks.give_back(given, "unclean" if unclean else "clean"))

    async def fresh(self, known: Mapping[str, Version | None]) -> Mapping[str, Stored | None]:
        if not known:
            return {}
        return await self._ask(lambda link: link.news([(key, version_text(version)) for key, version in known.items()]))

    async def sequences(self, keys: Sequence[str]) -> Mapping[str, int]:
        return await self._ask(lambda link: link.sequences(keys)) if keys else {}

    async def group_since(self, name: str, after: int) -> Mapping[str, Stored]:
        return await self._ask(lambda link: link.group(name, f"({after}"))

    # -- messages ------------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        self._check_process()
        return self._process.origin

    @property
    def timeline(self) -> str:
        return self._process.timeline

    @property
    def members(self) -> Mapping[str, bytes]:
        return self._process.members

    async def listen(self, receiver: Receiver) -> None:
        self._check_process()
        self._process.listen(receiver)
        await self._ask_backplane(_nothing, opens=True)

    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        await self._ask_backplane(lambda link: link.subscribe(wanted), opens=True)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        unwanted = set(topics)
        self._soon(lambda link: link.unsubscribe(unwanted))

    async def publish(self, messages: Sequence[Message]) -> None:
        if messages:
            await self._ask_backplane(lambda link: link.commit((), messages, (), ()))

    def tell(self, about: bytes) -> None:
        self._process.about = about

    # -- the link ------------------------------------------------------------------------------------------------------

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # a forked child: the connections and their files are its parent's
            if self._link is not None:
                _inherited.append(self._link)
            self._reset()

    async def _ask(self, work: Callable[[RedisLink], Awaitable[T]], undo: Callable[[T], None] | None = None) -> T:
        """Do some work over the link and return its result. `undo` takes the result if the caller was cancelled."""
        self._check_process()
        with self._guard:
            link = self._link
            if link is None or not link.loop.is_running():
                if link is not None:
                    call_on(link.loop, link.begin_end)  # the next one takes its place
                link = self._link = RedisLink(self._options, self._process)
            link.users += 1
        return await run_on(link.loop, self._work(link, work), undo)

    async def _work(self, link: RedisLink, work: Callable[[RedisLink], Awaitable[T]]) -> T:
        try:
            if self._opened and not link.is_up:
                await link.start()
            return await work(link)
        finally:
            with self._guard:
                link.users -= 1
                is_last = not link.users and not self._opened and self._link is link
                if is_last:
                    self._link = None
            if link.unused is not None and not link.users:
                settle(link.unused)
            if is_last:
                await link.end()

    async def _keep_open(self) -> None:
        self._check_process()
        if not self._opened:
            await self.open()

    async def _ask_backplane(self, work: Callable[[RedisLink], Awaitable[object]], *, opens: bool = False) -> None:
        """As `_ask`, with `BackplaneError` for `PersistenceError`."""
        try:
            if opens:
                await self._keep_open()
            await self._ask(work)
        except PersistenceError as error:
            raise BackplaneError(str(error)) from error.__cause__

    def _soon(self, work: Callable[[RedisLink], None]) -> None:
        """Do something on the link's loop. Without a link there is nothing to do: the locks ended with it."""
        self._check_process()
        link = self._link
        if link is not None and running_loop() is link.loop:
            work(link)
        elif link is not None:
            call_on(link.loop, work, link)

    def _forget(self, locked: Locked) -> None:
        self._soon(lambda link: link.locks.give_back(locked.holds.values(), "unused"))


_inherited: list[RedisLink] = []
"""In a forked child, the links of its parent. They are never used again, and not even deleted: their event loops share
their list of open files with the parent's."""


async def _nothing(link: RedisLink) -> None:
    pass


# -- other event loops -------------------------------------------------------------------------------------------------


async def run_on(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Run `work` on `loop`, which may be another one, and return its result.

    If the caller is cancelled, the work is too; if it has finished nevertheless, `undo` is called with its result.
    Raises `PersistenceError` if the loop ends before the work does.
    """
    if loop is asyncio.get_running_loop():
        return await work
    outcome: Future[T] = Future()

    async def do() -> None:
        try:
            result = await work
        except asyncio.CancelledError as error:
            _fail(outcome, PersistenceError("the event loop of the Redis store has ended: the outcome is unknown"))
            raise error
        except BaseException as error:
            _fail(outcome, error)
        else:
            if outcome.set_running_or_notify_cancel():
                outcome.set_result(result)
            elif undo is not None:
                undo(result)

    def begin() -> None:
        task = loop.create_task(do(), name="faststate redis call")
        # Cancel it only once it has begun, however soon: then it leaves what it has entered.
        outcome.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if outcome.cancelled() else None)

    if not call_on(loop, begin):
        work.close()
        raise PersistenceError("the event loop of the Redis store has just ended")
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


def _fail(outcome: Future[Any], error: BaseException) -> None:
    if outcome.set_running_or_notify_cancel():
        outcome.set_exception(error)
