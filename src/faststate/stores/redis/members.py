"""The living processes: each counts its beats, and watches by its own clock if the counts of the others move."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, NamedTuple

from ...exceptions import PersistenceError
from .address import RedisOptions
from .client import RedisClient
from .process import ThisProcess
from .rules import new_id
from .scripts import BEAT, BURY, JOIN, LEAVE
from .subscriber import Subscriber

logger = logging.getLogger("faststate")

UNHEARD: Final = 3
"""Beats that Redis answered but did not deliver, after which the connection for messages counts as dead."""


class LastBeat(NamedTuple):
    """A member's number of beats, and since when (loop time) it has been that. Lifetime: until it moves."""

    beat: bytes
    since: float


class Members:
    """This process as a member, and its view of the others. Lifetime: the client.

    Another member whose count has not moved for `RedisOptions.silence` seconds, as seen over a
    connection that answered all the time, is buried. `on_rejoined` is called after this process was buried itself and
    has joined again with a new origin: its former locks are void.
    """

    def __init__(
        self,
        client: RedisClient,
        options: RedisOptions,
        process: ThisProcess,
        subscriber: Subscriber,
        *,
        on_rejoined: Callable[[], None],
    ) -> None:
        self._client = client
        self._process = process
        self._subscriber = subscriber
        self._interval = options.beat
        self._silence = options.silence
        self._on_rejoined = on_rejoined
        self._loop = asyncio.get_running_loop()
        self._joining = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[bytes, LastBeat] = {}
        self._answered = float("-inf")
        self._origin = ""

    async def join(self) -> None:
        """Make this process a member, and let it beat."""
        if self._process.joined:  # over a former connection, which may not have left yet
            self._process.origin = new_id()
        await self._join(self._process.origin)
        self._task = self._loop.create_task(self._beat(), name="faststate redis beat")

    async def rejoin(self, former: str) -> None:
        """Make this process a member again, with another origin than the `former` one."""
        async with self._joining:
            if self._process.origin == former:
                await self._change_origin()

    async def stay(self) -> None:
        """Make this process a member again if a new timeline has begun."""
        async with self._joining:  # a process that is joining the timeline must not be told to join it
            if self._process.joined and self._process.joined != self._process.timeline:
                await self._change_origin()

    async def _change_origin(self) -> None:
        with self._subscriber.missing():
            new = new_id()
            await self._subscriber.move(new)
            await self._join(new)
        self._on_rejoined()

    async def leave(self) -> None:
        """Stop the beat and end the membership. The locks of this process become free."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._origin:
            if self._process.origin == self._origin:
                self._process.members = MappingProxyType({})
            with contextlib.suppress(PersistenceError):  # then the others will bury it
                await self._client.run(LEAVE, self._origin, again=True)

    async def _join(self, origin: str) -> None:
        process, former = self._process, self._origin
        self._origin = origin
        answer: bytes = await self._client.run(JOIN, origin, process.about, again=True)
        # Only now: Redis would take an origin that it does not know yet for a dead one.
        process.origin, process.joined = origin, answer.decode()
        others = {name: about for name, about in process.members.items() if name != former}
        process.members = MappingProxyType({**others, process.origin: process.about})

    async def _beat(self) -> None:
        while True:
            try:
                await self._beat_once()
            except PersistenceError:  # Redis is away, which has been logged
                pass
            except Exception:
                logger.exception("a beat to Redis failed")
            await asyncio.sleep(self._interval)

    async def _beat_once(self) -> None:
        process = self._process
        await self.stay()
        origin, asked = process.origin, self._loop.time()
        timeline, *rest = await self._client.run(BEAT, origin, process.about, first=True)
        if not rest:
            logger.warning("this process was taken for dead: it was silent, or Redis has lost its data")
            await self.rejoin(origin)
            return
        sequence, pairs = rest
        process.saw(timeline.decode(), int(sequence))
        found = dict(zip(pairs[::2], pairs[1::2], strict=True))
        split = {name: value.partition(b" ") for name, value in found.items()}
        process.members = MappingProxyType({name.decode(): about for name, (_, _, about) in split.items()})
        self._watch({name: beat for name, (beat, _, _) in split.items()}, asked)
        await self._bury(origin.encode())
        self._subscriber.unheard += 1
        if self._subscriber.unheard > UNHEARD:
            logger.warning("nothing has come over the connection for messages: it is opened again")
            self._subscriber.cut()

    def _watch(self, beats: dict[bytes, bytes], asked: float) -> None:
        """Note since when each count has not moved. After a pause of this process or its connection, start again."""
        now = self._loop.time()
        steady = asked - self._answered < 2 * self._interval and now - asked < self._interval
        self._answered = now
        seen = self._seen if steady else {}
        self._seen = {
            name: before if (before := seen.get(name)) is not None and before.beat == beat else LastBeat(beat, now)
            for name, beat in beats.items()
        }

    async def _bury(self, own: bytes) -> None:
        now = self._loop.time()
        for name, (beat, since) in self._seen.items():
            if name != own and now - since >= self._silence and await self._client.run(BURY, name, beat):
                logger.warning("the process %s has given no sign of life for %g s", name.decode(), now - since)
