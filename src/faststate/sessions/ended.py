"""Sessions that are over: what this process remembers of them, and what the store says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from ..cluster.base import AppCluster
from ..cluster.messages import ENDED
from ..registry.entries import is_initial
from ..registry.registry import StateRegistry
from ..scopes import Version
from ..sse.manager import SSEManager
from ..stores.base import Stored, Write
from ..wire.frames import reload_frame

logger = logging.getLogger("faststate")

SESSION_MAX_AGE: Final = 365 * 86_400.0
"""Seconds for which an ended session is remembered when the app's session middleware does not limit a cookie's age."""

SLACK: Final = 60.0
"""Seconds for which an ended session is remembered beyond that. A cookie's age is counted in whole seconds of another
clock, and an answer that was under way may have been the last to sign it."""

RELOADED_AFTER: Final = 5.0
"""Seconds after which the pages of a session that ended in another process reload. By then the browser has the answer
that brings its new session."""

NOBODYS_END: Final = 600.0
"""Seconds for which the end of a session without a user is remembered: until none of its requests is left."""

RECENT: Final = 20_000
"""Ends kept in memory that a store has too: those looked up, heard of or made here last, about 400 bytes each."""

KEPT: Final = 100_000
"""Ends kept in memory that no store has, about 400 bytes each. Beyond that the oldest is forgotten."""

ALIVE: Final = 50_000
"""Session ids known to be alive are kept in two sets of at most this many, about 130 bytes each."""

ALIVE_FOR: Final = 3_600.0
"""Seconds without a request after which such an id is forgotten; it may take twice as long."""

NOTE_VERSION: Final = Version("", 1)
"""The version of notes in the store, which are written once."""


class SessionEnd(NamedTuple):
    """The end of a session.

    `at` says when, and `until` how long it must be remembered (seconds of the provider's clock). `successor` is the id
    of the session that took over, and `user_id` that of the user who signed in then.
    """

    at: float
    until: float
    successor: str | None
    user_id: str | None


class KnownEnds:
    """The session ends that this process remembers, and the sessions that it knows to be alive. Lifetime: the provider.

    A store keeps the ends for as long as a cookie is accepted, so memory holds only those needed last and does not
    grow over the years. Ends that no store has are remembered only here. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stored: OrderedDict[str, SessionEnd] = OrderedDict()  # the least recently used first
        self._kept: OrderedDict[str, SessionEnd] = OrderedDict()  # the oldest first, like the next one
        self._brief: OrderedDict[str, SessionEnd] = OrderedDict()
        # When the newer set is full, the older one is dropped: ids that were used lately stay.
        self._alive: set[str] = set()
        self._alive_before: set[str] = set()
        self._turned_at = clock()
        self._warned_at: float | None = None

    def __len__(self) -> int:
        return len(self._stored) + len(self._kept) + len(self._brief)

    def get(self, session_id: str) -> SessionEnd | None:
        """Return the end of a session; None if none is known here, or if its cookies are too old by now."""
        if session_id not in self._stored and session_id not in self._kept and session_id not in self._brief:
            return None  # nearly always; called four times per event, 0.07 us each
        found = self._stored.get(session_id) or self._kept.get(session_id) or self._brief.get(session_id)
        if found is None:  # another thread forgot it just now
            return None
        if found.until <= self._clock():
            self.forget(session_id)
            return None
        with contextlib.suppress(KeyError):  # sync code calls from threads, and another may have forgotten it just now
            if session_id in self._stored:
                self._stored.move_to_end(session_id)
        return found

    def is_alive(self, session_id: str) -> bool:
        """True if the session was found alive, and no end of it has been heard of since."""
        if session_id in self._alive:
            return True
        if session_id not in self._alive_before:
            return False
        self.note_alive(session_id)
        return True

    def note_alive(self, session_id: str) -> None:
        """Note that a session has not ended."""
        self._alive.add(session_id)
        if len(self._alive) >= ALIVE:
            self._turn()

    def _turn(self) -> None:
        self._alive, self._alive_before, self._turned_at = set(), self._alive, self._clock()

    def forget_alive(self) -> None:
        """Forget which sessions are alive: ends may have been missed."""
        self._alive, self._alive_before = set(), set()

    def add(self, session_id: str, ended: SessionEnd, *, is_stored: bool) -> None:
        """Note the end of a session; `is_stored` says that a store has it too."""
        self.forget(session_id)
        self._alive.discard(session_id)
        self._alive_before.discard(session_id)
        if is_stored:
            self._stored[session_id] = ended
            if len(self._stored) > RECENT:
                self._stored.popitem(last=False)
            return
        ends = self._brief if ended.until - self._clock() <= NOBODYS_END else self._kept
        ends[session_id] = ended
        if len(ends) > KEPT:
            ends.popitem(last=False)
            self._warn()

    def _warn(self) -> None:
        now = self._clock()
        if self._warned_at is None or now - self._warned_at > 60:
            self._warned_at = now
            logger.warning(
                "more than %d sessions have ended that no store remembers: the oldest are forgotten, and an old copy "
                "of their cookies is accepted again. Give the provider a store",
                KEPT,
            )

    def forget(self, session_id: str) -> None:
        """Forget the end of a session."""
        for ends in (self._stored, self._kept, self._brief):
            ends.pop(session_id, None)

    def forget_old(self) -> None:
        """Forget ends whose cookies are too old by now, and living sessions without a request for long."""
        now = self._clock()
        if now - self._turned_at >= ALIVE_FOR:
            self._turn()
        for ends in (self._stored, self._kept, self._brief):
            while ends and next(iter(ends.values())).until <= now:
                ends.popitem(last=False)


class EndedSessions:
    """The sessions of one app that are over, as far as this process or its store knows. Lifetime: the provider.

    A session is a signed cookie, and an old copy of it stays genuine. So the ids of ended sessions are remembered for
    `max_age` seconds, for as long as a cookie is accepted. A store keeps them all, and is asked once about each session
    that this process has not seen lately. Without a store memory keeps them, up to `KEPT`. `clock` returns seconds.
    """

    def __init__(
        self, registry: StateRegistry, cluster: AppCluster, manager: SSEManager, clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._manager = manager
        self._clock = clock
        self.known = KnownEnds(clock)
        self.max_age: float = SESSION_MAX_AGE

    def is_ended(self, session_id: str) -> bool:
        """True if this process knows that the session has ended; certain only if it also `knows` that one is alive."""
        return self.known.get(session_id) is not None

    def knows(self, session_id: str) -> bool | None:
        """Return whether the session has ended; None if only the store can tell."""
        if self.known.get(session_id) is not None:
            return True
        return False if self._cluster.store is None or self.known.is_alive(session_id) else None

    def begin(self, session_id: str) -> None:
        """Note a session that begins now, so that nobody needs to ask whether it has ended."""
        if self._cluster.store is not None:
            self.known.note_alive(session_id)

    async def settle(self, session_id: str) -> None:
        """Ask the store whether a session has ended, unless that is known here. Raises `PersistenceError`."""
        if self.knows(session_id) is not None:
            return
        ended = await self._read(session_id)
        if self.knows(session_id) is not None:
            return  # heard of meanwhile, which is newer than what was read
        if ended is not None:
            self.learn(session_id, ended)
        else:
            self.known.note_alive(session_id)

    async def settle_pages(self) -> None:
        """Ask the store about every session with an open page, after an unknown number of ends was missed.

        The store may hold the ends of a year, so only the sessions that are here are asked about. Raises
        `PersistenceError`.
        """
        self.known.forget_alive()
        for session_id in self._manager.of_session.names():
            await self.settle(session_id)
            if self.is_ended(session_id):
                self.reload_pages(session_id)

    async def learn_since(self, commit: int) -> None:
        """Learn the ends that other processes noted after the store's commit of this number.

        Raises `PersistenceError`.
        """
        for key, note in (await self._cluster.noted_since(ENDED, commit)).items():
            session_id = key.removeprefix(f"{ENDED}:")
            self.learn_note(session_id, note)
            self.reload_pages(session_id)  # the message that tells them to may have been missed, too

    async def look_up(self, session_id: str) -> SessionEnd | None:
        """Ask the store about a session's end, even where it is known. Raises `PersistenceError`.

        If it has not ended, the session's states in memory may differ from the stored ones: they are marked so.
        """
        ended = await self._read(session_id)
        if ended is None and self._cluster.store is not None:
            for key in self._registry.keys_of_session(session_id):
                if (entry := self._registry.find(key)) is not None and entry.stored is not None:
                    entry.doubtful = True
        return ended

    async def _read(self, session_id: str) -> SessionEnd | None:
        store = self._cluster.store
        if store is None:
            return None
        async with self._registry.in_store_time("the end of a session could not be looked up"):
            note = await store.load(f"{ENDED}:{session_id}")
        return self._parse(session_id, note) if note is not None else None

    def _parse(self, session_id: str, note: Stored) -> SessionEnd:
        successor, user_id = read_note(session_id, note.data)
        until = self._clock() + (math.inf if note.ttl is None else note.ttl)
        # A browser that never got the answer to its sign-in may continue where it led; `until` tells when that was.
        at = until - self.max_age - SLACK if until != math.inf else -math.inf
        return SessionEnd(at, until, successor, user_id)

    # -- ending a session ------------------------------------------------------------------------------------------

    def new_end(self, successor: str | None, user_id: str | None, lifetime: float | None = None) -> SessionEnd:
        """Return an end at this moment, to be remembered for `lifetime` seconds (default: while cookies live)."""
        now = self._clock()
        return SessionEnd(now, now + (self.max_age + SLACK if lifetime is None else lifetime), successor, user_id)

    def record_end(self, session_id: str, ended: SessionEnd, *, is_stored: bool = False) -> None:
        """Record that a session has ended, and send its streams nothing more; `is_stored` says that a store has it."""
        self.known.add(session_id, ended, is_stored=is_stored)
        for connection in self._manager.connections_of(session_id=session_id):
            self._manager.silence(connection)

    def write(self, session_id: str, ended: SessionEnd) -> Write:
        """Return the write that stores the end of a session, for as long as a cookie with its id is accepted."""
        ttl = None if ended.until == math.inf else ended.until - self._clock()
        return Write(f"{ENDED}:{session_id}", None, NOTE_VERSION, write_note(ended), ttl, ENDED)

    def learn(self, session_id: str, ended: SessionEnd) -> None:
        """Accept the end of a session that another process has noted, unless it is known here."""
        if self.is_ended(session_id):
            return
        # A short-lived end is that of a session without a user, which the store rarely has.
        self.record_end(session_id, ended, is_stored=ended.until - self._clock() > NOBODYS_END)
        self.drop_states(session_id)
        # The other process tells these pages to reload; it may die before it does.
        if self._manager.connections_of(session_id=session_id):
            asyncio.get_running_loop().call_later(RELOADED_AFTER, self.reload_pages, session_id)

    def learn_note(self, session_id: str, note: Stored) -> None:
        """Accept the end of a session, as the note of another process tells it."""
        self.learn(session_id, self._parse(session_id, note))

    def reload_pages(self, session_id: str) -> None:
        """End the session's streams, and make their pages reload."""
        for connection in self._manager.connections_of(session_id=session_id):
            self._manager.dismiss(connection, reload_frame())

    def drop_states(self, session_id: str) -> bool:
        """Drop a session's states from memory; True if somebody had changed one of them, or was about to."""
        has_kept = False
        for key in self._registry.keys_of_session(session_id):
            entry = self._registry.find(key)
            has_kept = has_kept or (entry is not None and bool(entry.users or not is_initial(entry.version)))
            self._registry.drop(key)
        return has_kept

    async def end_in_store(self, session_id: str, noted: SessionEnd, *, is_lasting: bool) -> bool:
        """Delete an ended session's states from the store; True if there were any.

        The end is stored if it `is_lasting`, or if there were any. Raises `PersistenceError`.
        """
        store = self._cluster.store
        if store is None:
            return False
        what = "the end of a session could not be stored"
        # After the commits that are being saved now.
        async with self._registry.in_store_time(what), self._registry.committer.gates.closed(session_id):
            self.drop_states(session_id)
            stored, note = await store.group(session_id), self.write(session_id, noted)
            is_noted = bool(stored) or is_lasting
            stored = await self._cluster.end_session(note, stored, is_noted=is_noted)
            if is_noted and self.known.get(session_id) is noted:
                self.known.add(session_id, noted, is_stored=True)
            await store.delete(list(stored))
        return bool(stored)


def write_note(ended: SessionEnd) -> bytes:
    """Return the note (bytes) that a store keeps of an ended session, for `read_note`."""
    return json.dumps([ended.successor, ended.user_id]).encode()


def read_note(session_id: str, note: bytes | str) -> tuple[str | None, str | None]:
    """Return the successor's and the user's id (str or None) from the note that a store keeps of an ended session.

    A damaged note is logged. Its session stays ended, and nobody continues with it.
    """
    try:
        found = json.loads(note)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 2 and all(part is None or isinstance(part, str) for part in found):
        return found[0], found[1]
    # No log shows the whole id: this session has ended as far as we know, but its successor may be alive.
    logger.error(
        "the note of the ended session %s... cannot be read: the session stays ended, and a sign-in that was repeated "
        "from it begins a new session", session_id[:6],
    )  # fmt: skip
    return None, None
