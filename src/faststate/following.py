"""Following: what other processes tell this one, of the states that its pages show and of sessions and rights."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from .backplane import Message
from .commits import Committer
from .entries import Entry
from .exceptions import FastStateError
from .persistence import StorePersistence
from .registry import StateRegistry
from .sharing import APP, Sharing, Told, pack, unpack
from .stores import SharedStore, Stored, Version

__all__ = ["Following", "News"]

logger = logging.getLogger("faststate")

PORTION: Final = 256
"""States that are looked up at once when the connection to the store was lost."""

AGAIN_AFTER: Final = 0.2
"""Seconds after which that is tried again where it has failed."""


class News(Protocol):
    """What the provider does with news that are not about a commit."""

    def removed(self, entry: Entry, reason: str) -> None:
        """A state is no more."""

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Any) -> None:
        """Values were broadcast to the followers of a state."""

    def typed(self, key: str, typed: Mapping[str, Any]) -> Any:
        """A context in which a commit is published as that of the page which has `typed` the values."""

    def show(self, key: str, page: str, session_id: str | None) -> None:
        """A page, by its connection's id, is to be sent a state as it is."""

    def told(self, head: Mapping[str, Any]) -> None:
        """Something happened that concerns the whole app."""

    async def caught_up(self, after: int, away: float) -> None:
        """The connection was lost for `away` seconds: what concerns the app since the commit `after` is unknown."""

    def about(self) -> Mapping[str, Any]:
        """What other processes are told of this one."""


class _Topic:
    """A state whose changes in other processes are told to this one. Lifetime: while anybody follows or awaits it.

    It is `current` when nothing can have been missed since the state was loaded last, and `heard` when it is subscribed
    to; `holders` are about to follow it.
    """

    __slots__ = ("current", "heard", "holders")

    def __init__(self) -> None:
        self.current = self.heard = False
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
        on_loop: Callable[[Callable[[], object]], None],
    ) -> None:
        self.store = store
        self._on_loop = on_loop
        self._telling: set[asyncio.Task[None]] = set()
        self._sharing = sharing
        self._registry = registry
        self._news = news
        self._topics: dict[str, _Topic] = {}
        self._lost = 0  # how often the connection was lost: what was asked before that may have been missed
        self._lost_at: float | None = None
        self._parts: list[tuple[str, Told]] = []  # of a commit that is still being told
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._told_again: set[str] = set()  # keys of what is to be looked up again when all was
        self._catching_up: asyncio.Task[None] | None = None
        self._timeline = ""
        self.sequence = 0
        """The number of the last commit, of any process, up to which pages here have been told all that they follow."""

    @property
    def _committer(self) -> Committer:
        return self._registry.committer

    async def start(self) -> None:
        """Begins to listen. Raises `BackplaneError`."""
        self.store.tell(json.dumps(self._news.about()).encode())
        await self.store.listen(self)
        await self.store.subscribe([APP])
        self._timeline = self.store.timeline

    async def stop(self) -> None:
        """Ends the background work."""
        if self._telling:
            await asyncio.wait(self._telling)
        tasks = [task for task in (self._catching_up, *self._looking.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._topics.clear()

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
                self._topics[key].holders -= 1
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
            self._topics[entry.identifier.key].heard = True
        lost = self._lost
        await self._sharing.freshen(behind)
        if lost != self._lost:
            return False
        for entry in behind:
            self._topics[entry.identifier.key].current = entry.removed is None
        return all(entry.state is state and entry.removed is None for entry, state in zip(behind, before, strict=True))

    def unwatched(self, key: str) -> None:
        """Has nothing more be told of a state, unless somebody is about to follow it, or does."""
        topic = self._topics.get(key)
        if topic is not None and not topic.holders and not self._registry.hooks.is_watched(key):
            del self._topics[key]
            self.store.unsubscribe([key])

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
        self._reach(sequence)
        self.store.tell(json.dumps(self._news.about()).encode())

    def _reach(self, sequence: int) -> None:
        sequence = self._sharing.observe(sequence)
        if not self._parts and self._lost_at is None and not self._looking:
            self.sequence = sequence

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
        entry = self._registry.find(key)
        if entry is None or key not in self._topics or entry.removed is not None:
            return
        head = told.head
        if head["kind"] == "broadcast":
            self._news.broadcast(key, head["values"], head["but"])
        elif head["kind"] == "show":
            self._news.show(key, head["page"], head["session"])
        elif head["kind"] == "removed":
            self._news.removed(entry, str(head["reason"]))
        elif head["kind"] == "changed":
            if head["to"] is None or Version(*head["to"]) != entry.version:
                self._look(key)  # its row has all of it
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
            self._look(key)  # too large to be told, or of another life: which is the later one, the store knows
            return
        if not isinstance(entry.persistence, StorePersistence):
            return
        try:
            found = entry.persistence.decode(Stored(version, data, None))
        except Exception:
            logger.exception("another process has changed %s to what does not fit its class here", key)
            self._topics[key].current = False
            entry.doubtful = True
            return
        typed = head["typed"]
        with self._news.typed(key, typed or {}):
            self._committer.take_in(entry, found, frame if follows else None)

    def _look(self, key: str) -> None:
        """Looks a state up that may have changed, and tells its followers."""
        self._topics[key].current = False
        if self._lost_at is not None:
            self._told_again.add(key)
        elif key not in self._looking:
            task = asyncio.get_running_loop().create_task(self._look_up(key), name="faststate-look-up")
            self._looking[key] = task
            task.add_done_callback(partial(self._looked, key))

    def _looked(self, key: str, task: asyncio.Task[None]) -> None:
        if self._looking.get(key) is task:
            del self._looking[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what other processes have changed could not be looked up", exc_info=error)

    async def _look_up(self, key: str) -> None:
        while (topic := self._topics.get(key)) is not None and not topic.current and self._lost_at is None:
            entry, lost = self._registry.find(key), self._lost
            if entry is None:
                return
            topic.current = True  # unless something is told meanwhile
            try:
                await self._sharing.freshen([entry])
            except FastStateError:
                topic.current = False
                await asyncio.sleep(AGAIN_AFTER)
            if lost != self._lost:
                topic.current = False

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
        self._told_again.clear()
        while lost == self._lost:
            try:
                is_known = self._timeline == self.store.timeline
                await self._news.caught_up(self.sequence if is_known else 0, away)
                self._timeline = self.store.timeline
                keys = [key for key, topic in self._topics.items() if not topic.current]
                for at in range(0, len(keys), PORTION):
                    await self._catch_up_with(keys[at : at + PORTION], lost)
                break
            except FastStateError as error:
                logger.warning("what other processes have changed could not be looked up yet: %s", error)
                await asyncio.sleep(AGAIN_AFTER)
        if lost == self._lost:
            self._lost_at = None
            again, self._told_again = self._told_again & self._topics.keys(), set()
            for key in again:  # what was told of it came while the store was being asked, and may be newer
                self._look(key)

    async def _catch_up_with(self, keys: Iterable[str], lost: int) -> None:
        found = ((key, self._registry.find(key)) for key in keys)
        entries = [entry for key, entry in found if entry is not None and key in self._topics]
        await self._sharing.freshen(entries)
        if lost == self._lost:
            for entry in entries:
                if (topic := self._topics.get(entry.identifier.key)) is not None:
                    topic.current = entry.removed is None

    # -- telling others --------------------------------------------------------------------------------------------

    async def tell_app(self, head: Mapping[str, Any]) -> None:
        """Tells all processes. Raises `BackplaneError`."""
        await self.store.publish([Message(APP, pack(head))])

    def tell_soon(self, tell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Tells others in the background; a failure is logged."""

        async def run() -> None:
            try:
                await tell()
            except FastStateError:
                logger.exception("other processes could not be told")

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(run(), name="faststate-tell")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

        self._on_loop(begin)
