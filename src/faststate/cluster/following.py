"""Following: keep the states that pages show in step with what other processes change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..exceptions import FastStateError, StateNotFoundError
from ..registry.ends import StateEnd
from ..registry.entries import Entry
from ..registry.registry import StateRegistry
from ..scheduling.loops import call_now_or_on
from ..stores.base import SharedStore, Stored
from .base import News
from .committing import CommittingCluster
from .messages import (
    APP,
    AppMessage,
    Broadcast,
    RowChanged,
    ShowState,
    StateChanged,
    StateMessage,
    StateRemoved,
    Typed,
    decode,
    encode_stats,
)

logger = logging.getLogger("faststate")

PORTION: Final = 256
"""States that are looked up at once after the connection to the store was lost."""

RETRY_AFTER: Final = 0.2
"""Seconds before the first retry of what has failed."""

RETRY_AFTER_AT_MOST: Final = 5.0
"""Seconds between two retries at most."""


@dataclass(slots=True, eq=False)
class _Subscription:
    """One state whose changes this process hears of. Lifetime: while anybody follows the state, or is about to.

    It is `current` if nothing can have been missed since the state was loaded last, and `heard` once it is subscribed
    to; `holders` are about to follow it. `changes` counts the changes that have to be looked up, and `typed` is what
    the page has typed whose event made the last of them.
    """

    current: bool = False
    heard: bool = False
    changes: int = 0
    typed: Typed | None = None
    holders: int = 0

    def outdate(self) -> None:
        """Note a change that has to be looked up."""
        self.current = False
        self.changes += 1


class Following:
    """Hears what other processes change, and keeps the states that pages show in step. Lifetime: the cluster.

    This process hears nothing of states that nobody follows here: such a state is looked up when it is needed.
    """

    def __init__(self, store: SharedStore, cluster: CommittingCluster, registry: StateRegistry, news: News) -> None:
        self.store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cluster = cluster
        self._registry = registry
        self._news = news
        self._topics: dict[str, _Subscription] = {}
        self._lost = 0  # how often the connection was lost: what was asked before that may have been missed
        self._away = False  # from when it was lost until it is found
        self._lost_at: float | None = None
        self._parts: list[tuple[str, StateChanged]] = []  # of a commit that still arrives
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._recovering: dict[Entry, asyncio.Task[None]] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self.timeline = ""
        self.sequence = 0
        """The last commit of all processes (its number in `timeline`) that pages here have reached: they have all that
        they follow up to it."""

    async def start(self) -> None:
        """Begin to listen. Raises `BackplaneError`."""
        self._loop = asyncio.get_running_loop()
        self._lost_at, self._away, self._parts, self.sequence = None, False, [], 0
        self._tell_stats()
        await self.store.listen(self)
        await self.store.subscribe([APP])
        self.timeline = self.store.timeline

    async def stop(self) -> None:
        """End the background work."""
        tasks = [*self._looking.values(), *self._recovering.values()]
        tasks += [self._catching_up] if self._catching_up is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._topics.clear()
        self._loop = None

    def _tell_stats(self) -> None:
        self.store.tell(encode_stats(self._news.stats()))

    # -- what is followed ------------------------------------------------------------------------------------------

    def is_current(self, key: str) -> bool:
        """As `AppCluster.is_current`."""
        topic = self._topics.get(key)
        return topic is not None and topic.current

    @contextmanager
    def holding(self) -> Iterator[dict[str, None]]:
        """As `AppCluster.holding`."""
        held: dict[str, None] = {}
        try:
            yield held
        finally:
            for key in held:
                if (topic := self._topics.get(key)) is not None:
                    topic.holders -= 1
                    self.unwatched(key)

    async def follow(self, entries: Sequence[Entry], held: dict[str, None]) -> bool:
        """As `AppCluster.follow`."""
        kept = [entry for entry in entries if entry.persistence is not None]
        for entry in kept:
            if (key := entry.identifier.key) not in held:
                held[key] = None
                self._topics.setdefault(key, _Subscription()).holders += 1
        behind = [entry for entry in kept if not self.is_current(entry.identifier.key)]
        if not behind:
            return True
        before = [entry.state for entry in behind]
        await self.store.subscribe([entry.identifier.key for entry in behind])
        for entry in behind:
            if (topic := self._topics.get(entry.identifier.key)) is not None:
                topic.heard = True
        await self._catch_up_with(behind)
        is_same = all(e.state is state and e.end is None for e, state in zip(behind, before, strict=True))
        return is_same and all(self.is_current(entry.identifier.key) for entry in behind)

    async def _catch_up_with(self, entries: Sequence[Entry]) -> None:
        """Look up states that are subscribed to; they are current then, unless they were changed meanwhile.

        Without a connection none is: what is committed behind the look-up is not heard.
        """
        lost = self._lost
        topics = [(entry, self._topics.get(entry.identifier.key)) for entry in entries]
        changes = [topic.changes if topic is not None else 0 for _, topic in topics]
        failed = await self._cluster.look_up(entries)
        if lost != self._lost:
            return
        for (entry, topic), before in zip(topics, changes, strict=True):
            if topic is not None and topic.changes == before and entry not in failed:
                topic.current = entry.end is None
        for error in failed.values():
            raise error

    def unwatched(self, key: str) -> None:
        """Hear no more of a state, unless somebody follows it, or is about to."""
        topic = self._topics.get(key)
        if topic is not None and not topic.holders and not self._registry.followers.is_watched(key):
            del self._topics[key]
            self.store.unsubscribe([key])
            self._apply_parts()  # of a commit that waited for its part of this state

    # -- what is heard ---------------------------------------------------------------------------------------------

    def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
        """Accept a message of the process `origin`; as `Receiver`."""
        if origin != self.store.origin:
            message = decode(body)
            if topic != APP:
                # A message that this version of the app cannot read may tell of any change.
                self._accept(topic, message if isinstance(message, StateMessage) else RowChanged(None))
            elif isinstance(message, AppMessage):
                self._news.accept(message)
        self._reach(sequence)

    def reached(self, sequence: int) -> None:
        """Note that all was received up to a commit; as `Receiver`."""
        self._apply_parts()
        self._reach(sequence)
        self._tell_stats()

    def _reach(self, sequence: int) -> None:
        sequence = self._cluster.observe(sequence)
        if not self._parts and self._lost_at is None and not self._looking:
            self.timeline, self.sequence = self.store.timeline, sequence

    def _accept(self, key: str, message: StateMessage) -> None:
        if not isinstance(message, StateChanged):
            self._apply_parts()
            self._apply(key, message)
            return
        # The parts of one commit come one after the other, and pages get all of it at once.
        self._parts.append((key, message))
        expected = [other for other in message.together if (t := self._topics.get(other)) is not None and t.heard]
        if not expected or key == expected[-1]:
            self._apply_parts()

    def _apply_parts(self) -> None:
        parts, self._parts = self._parts, []
        for key, message in parts:
            self._apply(key, message)

    def _apply(self, key: str, message: StateMessage) -> None:
        topic, entry = self._topics.get(key), self._registry.find(key)
        if topic is None:
            return
        if entry is None or entry.end is not None:
            topic.outdate()  # it is being loaded just now, perhaps, or created again
            return
        try:
            match message:
                case StateChanged():
                    self._apply_change(entry, message)
                case RowChanged(version, typed):
                    if version is None or version != entry.version:
                        self._look(key, typed)
                case StateRemoved():
                    topic.outdate()
                    self._registry.remove(entry, StateEnd.DELETED)
                case Broadcast(values, but_user):
                    self._news.broadcast(key, values, but_user)
                case ShowState(page, session_id):
                    self._news.show(key, page, session_id)
        except Exception:
            logger.exception("a message of another process about %s could not be applied; the state is looked up", key)
            self._look(key)

    def _apply_change(self, entry: Entry, message: StateChanged) -> None:
        key, version, known = entry.identifier.key, message.version, entry.stored
        if known is not None and known.epoch == version.epoch and known.number >= version.number:
            return  # it came with a lock, or was looked up
        is_next = known == message.before
        if not message.data or (not is_next and (known is None or known.epoch != version.epoch)):
            # Too large to send, or of another life of the state: only the store knows which life is the later one.
            self._look(key, message.typed)
            return
        stored = Stored(version, message.data, None)
        found = entry.persistence.decode(stored) if entry.persistence is not None else None
        if found is not None:
            with self._news.caused_by(key, message.typed):
                self._registry.committer.adopt(entry, found, message.frame if is_next else None)

    def _look(self, key: str, typed: Typed | None = None) -> None:
        """Look up a state that has changed, and tell its followers; `typed` as in `_Subscription`."""
        topic = self._topics[key]
        topic.typed = typed
        topic.outdate()
        if (running := self._looking.get(key)) is None or running.done():  # one that is done looks no more
            task = asyncio.get_running_loop().create_task(self._look_up(key), name="faststate-look-up")
            self._looking[key] = task
            task.add_done_callback(partial(self._looked, key))

    def _looked(self, key: str, task: asyncio.Task[None]) -> None:
        if self._looking.get(key) is task:
            del self._looking[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("changes of other processes could not be looked up", exc_info=error)

    async def _look_up(self, key: str) -> None:
        wait = RETRY_AFTER
        # Without a connection nothing becomes current: all is looked up when it is found.
        while not self._away and (topic := self._topics.get(key)) is not None and not topic.current:
            entry = self._registry.find(key)
            if entry is None:
                return
            try:
                with self._news.caused_by(key, topic.typed):
                    await self._catch_up_with([entry])
            except Exception as error:
                is_ours = isinstance(error, FastStateError)
                logger.warning("changes of other processes could not be looked up yet: %s", error, exc_info=not is_ours)
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_AFTER_AT_MOST)

    # -- a commit that failed --------------------------------------------------------------------------------------

    def recover(self, entry: Entry) -> None:
        """Bring all processes in step with a state whose commit has failed, with an unknown outcome."""
        if self._loop is not None:  # a script has none
            call_now_or_on(self._loop, partial(self._begin_to_recover, entry))

    def _begin_to_recover(self, entry: Entry) -> None:
        if entry not in self._recovering:
            task = asyncio.get_running_loop().create_task(self._recover(entry), name="faststate-recover")
            self._recovering[entry] = task
            task.add_done_callback(lambda _: self._recovering.pop(entry, None))

    async def _recover(self, entry: Entry) -> None:
        wait = RETRY_AFTER
        while entry.doubtful or entry.is_row:
            try:
                async with self._registry.locked([entry], object()):
                    return  # what is stored came with its lock
            except StateNotFoundError:
                return
            except FastStateError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_AFTER_AT_MOST)

    # -- a connection that was lost --------------------------------------------------------------------------------

    def lost(self) -> None:
        """Note that the connection to the store was lost: what is published from here on is missed; as `Receiver`."""
        self._lost += 1
        self._away = True
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        self._parts = []
        for topic in self._topics.values():
            topic.current = False

    def found(self) -> None:
        """Look up all that is followed, now that the connection is there again; as `Receiver`."""
        self._away = False
        if self._catching_up is not None:
            self._catching_up.cancel()
        loop = asyncio.get_running_loop()
        self._catching_up = loop.create_task(self._catch_up(self._lost), name="faststate-catch-up")

    async def _catch_up(self, lost: int) -> None:
        away = time.monotonic() - self._lost_at if self._lost_at is not None else 0.0
        while lost == self._lost:
            try:
                is_known = self.timeline == self.store.timeline
                await self._news.caught_up(self.sequence if is_known else 0, away)
                break
            except FastStateError as error:
                logger.warning("missed messages of other processes could not be looked up yet: %s", error)
                await asyncio.sleep(RETRY_AFTER)
            except Exception:
                logger.exception("missed messages of other processes could not be applied")
                break
        keys = [key for key, topic in self._topics.items() if not topic.current]
        for at in range(0, len(keys), PORTION):
            portion = [entry for key in keys[at : at + PORTION] if (entry := self._registry.find(key)) is not None]
            portion = [entry for entry in portion if entry.identifier.key in self._topics]
            try:
                await self._catch_up_with(portion)
            except FastStateError as error:
                logger.warning("changes of other processes could not be looked up yet: %s", error)
            except Exception:
                logger.exception("changes of other processes could not be applied")
            if lost != self._lost:
                return
        # What has failed, or changed meanwhile, is looked up by itself: it must not keep the others waiting.
        for key in [key for key in keys if (topic := self._topics.get(key)) is not None and not topic.current]:
            self._look(key)
        self._lost_at = None
