"""Following: what other processes tell this one, of the states that its pages show and of sessions and rights."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from .._compat.asyncio import running_loop
from ..exceptions import FastStateError, StateNotFoundError
from ..registry.commits import Committer
from ..registry.entries import Entry
from ..registry.modify import loop_for_scripts
from ..registry.registry import StateRegistry
from ..scopes import Version
from ..stores.backplane import Message
from ..stores.base import SharedStore, Stored
from .base import News
from .sharing import APP, Sharing, Told, pack, unpack

__all__ = ["Following"]

logger = logging.getLogger("faststate")

PORTION: Final = 256
"""States that are looked up at once when the connection to the store was lost."""

AGAIN_AFTER: Final = 0.2
"""Seconds after which that is tried again where it has failed."""

AGAIN_AFTER_MOST: Final = 5.0
"""Seconds between two tries at the most, where it fails again and again."""


class _Topic:
    """A state whose changes in other processes are told to this one. Lifetime: while anybody follows or awaits it.

    It is `current` when nothing can have been missed since the state was loaded last, and `heard` when it is subscribed
    to; `holders` are about to follow it. `told` counts the changes that have to be looked up, and `typed` is what the
    page has typed whose event made the last of them.
    """

    __slots__ = ("current", "heard", "holders", "told", "typed")

    def __init__(self) -> None:
        self.current = self.heard = False
        self.told = 0
        self.typed: Mapping[str, Any] = {}
        self.holders = 0


class Following:
    """Is told what other processes change, and keeps the states that pages show in step. Lifetime: the provider.

    What is told of a state that nobody follows here is not heard: such a state is looked up when it is needed.
    """

    def __init__(
        self,
        store: SharedStore,
        sharing: Sharing,
        registry: StateRegistry,
        news: News,
    ) -> None:
        self.store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._sharing = sharing
        self._registry = registry
        self._news = news
        self._topics: dict[str, _Topic] = {}
        self._lost = 0  # how often the connection was lost: what was asked before that may have been missed
        self._lost_at: float | None = None
        self._parts: list[tuple[str, Told]] = []  # of a commit that is still being told
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._recovering: dict[Entry, asyncio.Task[None]] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self.timeline = ""
        self.sequence = 0
        """The number of the last commit, of any process and in `timeline`, up to which pages here have been told all
        that they follow."""

    @property
    def _committer(self) -> Committer:
        return self._registry.committer

    async def start(self) -> None:
        """Begins to listen. Raises `BackplaneError`."""
        self._loop = asyncio.get_running_loop()
        self._lost_at, self._parts, self.sequence = None, [], 0
        self.store.tell(json.dumps(self._news.about()).encode())
        await self.store.listen(self)
        await self.store.subscribe([APP])
        self.timeline = self.store.timeline

    async def stop(self) -> None:
        """Ends the background work."""
        if self._telling:
            await asyncio.wait(self._telling)
        tasks = [*self._looking.values(), *self._recovering.values()]
        tasks += [self._catching_up] if self._catching_up is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._topics.clear()
        self._loop = None

    # -- what is followed ------------------------------------------------------------------------------------------

    def is_current(self, key: str) -> bool:
        """Whether a state in memory is what is stored, as far as other processes have told."""
        topic = self._topics.get(key)
        return topic is not None and topic.current

    @contextmanager
    def holding(self) -> Iterator[dict[str, None]]:
        """Keys that stay followed until the block ends: somebody is about to watch them. See `follow`."""
        held: dict[str, None] = {}
        try:
            yield held
        finally:
            for key in held:
                if (topic := self._topics.get(key)) is not None:
                    topic.holders -= 1
                    self.unwatched(key)

    async def follow(self, entries: Sequence[Entry], held: dict[str, None]) -> bool:
        """Has this process be told of changes of these states, which are in step with the store when it returns.

        False where one of them has become another meanwhile. Raises `BackplaneError` and `PersistenceError`.
        """
        shared = [entry for entry in entries if entry.persistence is not None]
        for entry in shared:
            if (key := entry.identifier.key) not in held:
                held[key] = None
                self._topics.setdefault(key, _Topic()).holders += 1
        behind = [entry for entry in shared if not self.is_current(entry.identifier.key)]
        if not behind:
            return True
        before = [entry.state for entry in behind]
        await self.store.subscribe([entry.identifier.key for entry in behind])
        for entry in behind:
            if (topic := self._topics.get(entry.identifier.key)) is not None:
                topic.heard = True
        await self._catch_up_with(behind)
        is_same = all(e.state is state and e.removed is None for e, state in zip(behind, before, strict=True))
        return is_same and all(self.is_current(entry.identifier.key) for entry in behind)

    async def _catch_up_with(self, entries: Sequence[Entry]) -> None:
        """Looks states up that are subscribed to; they are current then, unless something was told meanwhile."""
        lost = self._lost
        topics = [(entry, self._topics.get(entry.identifier.key)) for entry in entries]
        told = [topic.told if topic is not None else 0 for _, topic in topics]
        failed = await self._sharing.look_up(entries)
        if lost != self._lost:
            return
        for (entry, topic), before in zip(topics, told, strict=True):
            if topic is not None and topic.told == before and entry not in failed:
                topic.current = entry.removed is None
        for error in failed.values():
            raise error

    def unwatched(self, key: str) -> None:
        """Has nothing more be told of a state, unless somebody is about to follow it, or does."""
        topic = self._topics.get(key)
        if topic is not None and not topic.holders and not self._registry.followers.is_watched(key):
            del self._topics[key]
            self.store.unsubscribe([key])
            self._take_all()  # of a commit whose other parts were waiting for this one's

    def processes(self) -> dict[str, dict[str, Any]]:
        """The processes of the app that live, by their providers' epochs: what each tells of itself."""
        told = {}
        for about in self.store.members.values():
            if about:
                found = json.loads(about)
                told[str(found["process"])] = found
        return told

    # -- what is told ----------------------------------------------------------------------------------------------

    def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
        """Takes in a message of the process `origin`; as `Receiver`."""
        if origin != self.store.origin:
            told = unpack(body)
            if topic == APP:
                self._news.told(told.head)
            else:
                self._take(topic, told)
        self._reach(sequence)

    def reached(self, sequence: int) -> None:
        """All has been told up to a commit."""
        self._take_all()
        self._reach(sequence)
        self.store.tell(json.dumps(self._news.about()).encode())

    def _reach(self, sequence: int) -> None:
        sequence = self._sharing.observe(sequence)
        if not self._parts and self._lost_at is None and not self._looking:
            self.timeline, self.sequence = self.store.timeline, sequence

    def _take(self, key: str, told: Told) -> None:
        head = told.head
        if head["kind"] != "commit":
            self._take_all()
            self._take_one(key, told)
            return
        # The parts of one commit come one after the other, and pages are told all of it at once.
        self._parts.append((key, told))
        expected = [other for other in head["with"] if (topic := self._topics.get(other)) is not None and topic.heard]
        if not expected or key == expected[-1]:
            self._take_all()

    def _take_all(self) -> None:
        parts, self._parts = self._parts, []
        for key, told in parts:
            self._take_one(key, told)

    def _take_one(self, key: str, told: Told) -> None:
        topic, entry = self._topics.get(key), self._registry.find(key)
        if topic is None:
            return
        if entry is None or entry.removed is not None:
            topic.current = False  # it is just being loaded, perhaps, or made anew
            topic.told += 1
            return
        try:
            self._take_in(topic, entry, told)
        except Exception:
            logger.exception("what another process has told of %s could not be taken in", key)
            self._look(key, {})

    def _take_in(self, topic: _Topic, entry: Entry, told: Told) -> None:
        head, key = told.head, entry.identifier.key
        if head["kind"] == "broadcast":
            self._news.broadcast(key, head["values"], head["but"])
        elif head["kind"] == "show":
            self._news.show(key, head["page"], head["session"])
        elif head["kind"] == "removed":
            topic.current = False
            topic.told += 1
            self._registry.remove(entry, str(head["reason"]))
        elif head["kind"] == "changed":
            if head["to"] is None or Version(*head["to"]) != entry.version:
                self._look(key, head["typed"])  # its row has all of it
        else:
            self._take_commit(entry, told)

    def _take_commit(self, entry: Entry, told: Told) -> None:
        head, (frame, data) = told.head, told.parts
        key, version = entry.identifier.key, Version(*head["to"])
        before = None if head["from"] is None else Version(*head["from"])
        known = entry.stored
        if known is not None and known.epoch == version.epoch and known.number >= version.number:
            return  # it came with a lock, or was looked up
        follows = known == before
        if not data or (not follows and (known is None or known.epoch != version.epoch)):
            self._look(
                key, head["typed"]
            )  # too large to be told, or of another life: which is the later one, the store knows
            return
        found = entry.persistence.decode(Stored(version, data, None)) if entry.persistence is not None else None
        if found is None:
            return
        with self._news.typed(key, head["typed"] or {}):
            self._committer.take_in(entry, found, frame if follows else None)

    def _look(self, key: str, typed: Mapping[str, Any] | None) -> None:
        """Looks a state up that has changed, and tells its followers; `typed` as in `_Topic`."""
        topic = self._topics[key]
        topic.current, topic.typed = False, typed or {}
        topic.told += 1
        if key not in self._looking:
            task = asyncio.get_running_loop().create_task(self._look_up(key), name="faststate-look-up")
            self._looking[key] = task
            task.add_done_callback(partial(self._looked, key))

    def _looked(self, key: str, task: asyncio.Task[None]) -> None:
        if self._looking.get(key) is task:
            del self._looking[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what other processes have changed could not be looked up", exc_info=error)

    async def _look_up(self, key: str) -> None:
        wait = AGAIN_AFTER
        while (topic := self._topics.get(key)) is not None and not topic.current:
            entry = self._registry.find(key)
            if entry is None:
                return
            try:
                with self._news.typed(key, topic.typed):
                    await self._catch_up_with([entry])
            except Exception as error:
                is_ours = isinstance(error, FastStateError)
                logger.warning(
                    "what other processes have changed could not be looked up yet: %s", error, exc_info=not is_ours
                )
                await asyncio.sleep(wait)
                wait = min(2 * wait, AGAIN_AFTER_MOST)

    def recover(self, entry: Entry) -> None:
        """Has all processes be in step again with a state whose commit has failed, with an unknown outcome."""
        if self._loop is not None:  # which a script has not
            self._on_loop(partial(self._begin_to_recover, entry), self._loop)

    def _begin_to_recover(self, entry: Entry) -> None:
        if entry not in self._recovering:
            task = asyncio.get_running_loop().create_task(self._recover(entry), name="faststate-recover")
            self._recovering[entry] = task
            task.add_done_callback(lambda _: self._recovering.pop(entry, None))

    async def _recover(self, entry: Entry) -> None:
        wait = AGAIN_AFTER
        while entry.doubtful or not entry.in_store:
            try:
                async with self._registry.locked([entry], object()):
                    return  # with its lock came what is stored
            except StateNotFoundError:
                return
            except FastStateError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, AGAIN_AFTER_MOST)

    # -- a connection that was lost --------------------------------------------------------------------------------

    def lost(self) -> None:
        """The connection to the store was lost: what is published from here on is missed."""
        self._lost += 1
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        self._parts = []
        for topic in self._topics.values():
            topic.current = False

    def found(self) -> None:
        """The connection is there again: all that is followed is looked up."""
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
                logger.warning("what other processes have told could not be looked up yet: %s", error)
                await asyncio.sleep(AGAIN_AFTER)
            except Exception:
                logger.exception("what other processes have told could not be taken in")
                break
        keys = [key for key, topic in self._topics.items() if not topic.current]
        for at in range(0, len(keys), PORTION):
            portion = [entry for key in keys[at : at + PORTION] if (entry := self._registry.find(key)) is not None]
            portion = [entry for entry in portion if entry.identifier.key in self._topics]
            try:
                await self._catch_up_with(portion)
            except FastStateError as error:
                logger.warning("what other processes have changed could not be looked up yet: %s", error)
            except Exception:
                logger.exception("what other processes have changed could not be taken in")
            if lost != self._lost:
                return
        # What has failed, or was told of meanwhile, is looked up by itself: it must not keep the others waiting.
        for key in [key for key in keys if (topic := self._topics.get(key)) is not None and not topic.current]:
            self._look(key, {})
        self._lost_at = None

    # -- telling others --------------------------------------------------------------------------------------------

    async def tell_app(self, head: Mapping[str, Any]) -> None:
        """Tells all processes. Raises `BackplaneError`."""
        await self.store.publish([Message(APP, pack(head))])

    def tell_soon(self, tell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Tells others in the background, from any thread; a failure is logged."""

        async def run() -> None:
            try:
                await tell()
            except FastStateError:
                logger.exception("other processes could not be told")

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(run(), name="faststate-tell")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

        if self._loop is None:  # a script
            asyncio.run_coroutine_threadsafe(run(), loop_for_scripts())
        else:
            self._on_loop(begin, self._loop)

    def _on_loop(self, call: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        if running_loop() is loop:
            call()
        else:
            loop.call_soon_threadsafe(call)
