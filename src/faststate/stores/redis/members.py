"""Which processes live: each counts its beats, and watches by its own clock whether the others' counts move."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, NamedTuple

from ...exceptions import PersistenceError
from .client import Client
from .scripts import BEAT, BURY, JOIN, LEAVE
from .standing import Standing
from .subscriber import Subscriber

__all__ = ["Members"]

logger = logging.getLogger("faststate")

UNHEARD: Final = 3
"""Beats that were answered and not heard, after which the connection for messages is taken for dead."""


class _Seen(NamedTuple):
    beat: bytes
    since: float


class Members:
    """This process as one of the members, and its view of the others. Lifetime: the client.

    It beats every `interval` seconds; another whose count does not move for `silence` seconds, as seen over a
    connection that answers all the while, is buried. `on_gone` is called when this process was buried itself and has
    joined anew, as another: its locks are void.
    """

    def __init__(
        self,
        client: Client,
        standing: Standing,
        *,
        interval: float,
        silence: float,
        on_gone: Callable[[], None],
    ) -> None:
        self._client = client
        self._standing = standing
        self._interval = interval
        self._silence = silence
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._joining = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[bytes, _Seen] = {}
        self._answered = float("-inf")
        self._origin = ""
        self.subscriber: Subscriber | None = None

    async def join(self) -> None:
        """Makes this process a member, and has it beat."""
        if self._standing.joined:  # with a connection that may not have been left yet
            self._standing.origin = os.urandom(8).hex()
        await self._join(self._standing.origin)
        self._task = self._loop.create_task(self._beat(), name="faststate redis beat")

    async def rejoin(self, former: str) -> None:
        """Makes this process a member anew, as another than the `former`."""
        async with self._joining:
            if self._standing.origin == former:
                await self._become_another()

    async def stay(self) -> None:
        """Makes this process a member anew where there is another timeline."""
        async with self._joining:  # who is just joining it must not be taken for one who has not
            if self._standing.joined and self._standing.joined != self._standing.greeting.timeline:
                await self._become_another()

    async def _become_another(self) -> None:
        subscriber = self.subscriber
        found = subscriber.miss() if subscriber is not None else None
        try:
            new = os.urandom(8).hex()
            if subscriber is not None:
                await subscriber.move(new)
            await self._join(new)
        finally:
            if found is not None:
                found()
        self._on_gone()

    async def leave(self) -> None:
        """Ends the beat, and is no member any more: its locks are free."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._origin:
            if self._standing.origin == self._origin:
                self._standing.members = MappingProxyType({})
            with contextlib.suppress(PersistenceError):  # it is buried then
                await self._client.run(LEAVE, self._origin, again=True)

    async def _join(self, origin: str) -> None:
        standing, former = self._standing, self._origin
        self._origin = origin
        answer: bytes = await self._client.run(JOIN, origin, standing.about, again=True)
        # Only now: what is asked in the name of one whom Redis does not know yet finds that this one is dead.
        standing.origin, standing.joined = origin, answer.decode()
        others = {name: about for name, about in standing.members.items() if name != former}
        standing.members = MappingProxyType({**others, standing.origin: standing.about})

    async def _beat(self) -> None:
        while True:
            try:
                await self._beat_once()
            except PersistenceError:  # which is known to be away then, and logged
                pass
            except Exception:
                logger.exception("a beat to Redis failed")
            await asyncio.sleep(self._interval)

    async def _beat_once(self) -> None:
        standing = self._standing
        await self.stay()
        origin, asked = standing.origin, self._loop.time()
        timeline, *rest = await self._client.run(BEAT, origin, standing.about, first=True)
        if not rest:
            logger.warning("this process was taken for dead: it was silent, or Redis has lost what it held")
            await self.rejoin(origin)
            return
        sequence, pairs = rest
        standing.greeting.saw(timeline.decode(), int(sequence))
        found = dict(zip(pairs[::2], pairs[1::2], strict=True))
        split = {name: value.partition(b" ") for name, value in found.items()}
        standing.members = MappingProxyType({name.decode(): about for name, (_, _, about) in split.items()})
        self._watch({name: beat for name, (beat, _, _) in split.items()}, asked)
        await self._bury(origin.encode())
        if self.subscriber is not None:
            self.subscriber.unheard += 1
            if self.subscriber.unheard > UNHEARD:
                logger.warning("nothing has come over the connection for messages: it is made anew")
                self.subscriber.cut()

    def _watch(self, beats: dict[bytes, bytes], asked: float) -> None:
        """Notes since when each count has not moved; a pause of this process, or of its connection, counts for none."""
        now = self._loop.time()
        steady = asked - self._answered < 2 * self._interval and now - asked < self._interval
        self._answered = now
        seen = self._seen if steady else {}
        self._seen = {
            name: before if (before := seen.get(name)) is not None and before.beat == beat else _Seen(beat, now)
            for name, beat in beats.items()
        }

    async def _bury(self, own: bytes) -> None:
        now = self._loop.time()
        for name, (beat, since) in self._seen.items():
            if name != own and now - since >= self._silence and await self._client.run(BURY, name, beat):
                logger.warning("the process %s has given no sign of life for %g s", name.decode(), now - since)
