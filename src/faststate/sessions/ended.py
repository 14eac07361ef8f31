"""Ended sessions: what this process knows and has to remember of them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["NOBODYS_END", "Ended", "EndedSessions", "read_note", "write_note"]

logger = logging.getLogger("faststate")

NOBODYS_END: Final = 600.0
"""Seconds that the end of a session is remembered which never was anybody's: until nothing of it is under way."""

RECENT: Final = 20_000
"""Ends that are in a store, and were looked up, heard of or made here last: kept in memory, about 400 bytes each."""

KEPT: Final = 100_000
"""Ends that no store has: kept in memory alone, about 400 bytes each. Beyond that the oldest is forgotten."""

ALIVE: Final = 50_000
"""Session ids that were found alive are kept in two sets of at most this many, about 130 bytes each."""

ALIVE_FOR: Final = 3_600.0
"""Seconds without a request after which such an id is forgotten; it may take twice as long."""


class Ended(NamedTuple):
    """An ended session: when, until when that has to be known, and which session and user it went over to.

    `at` and `until` are seconds of the provider's clock.
    """

    at: float
    until: float
    successor: str | None
    user_id: str | None


class EndedSessions:
    """The ends of sessions that this process knows of, and the sessions known to live. Lifetime: the provider.

    A store has the ends for as long as a cookie is accepted. Here are those that were needed last, so that memory does
    not grow with the years. What no store has is remembered here alone. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stored: OrderedDict[str, Ended] = OrderedDict()  # the least recently used first
        self._kept: OrderedDict[str, Ended] = OrderedDict()  # the oldest first, as is the next one
        self._brief: OrderedDict[str, Ended] = OrderedDict()
        # Two sets, of which the older one is dropped when the other is full: what was asked for lately stays.
        self._alive: set[str] = set()
        self._alive_before: set[str] = set()
        self._turned_at = clock()
        self._warned_at: float | None = None

    def __len__(self) -> int:
        return len(self._stored) + len(self._kept) + len(self._brief)

    def get(self, session_id: str) -> Ended | None:
        """The end of a session, None where none is known here or its cookies are too old by now to be accepted."""
        if session_id not in self._stored and session_id not in self._kept and session_id not in self._brief:
            return None  # nearly always: asked four times for each event, 0.07 us
        found = self._stored.get(session_id) or self._kept.get(session_id) or self._brief.get(session_id)
        if found is None:  # another thread has forgotten it just now
            return None
        if found.until <= self._clock():
            self.forget(session_id)
            return None
        with contextlib.suppress(KeyError):  # sync code asks from threads, and another may have forgotten it just now
            if session_id in self._stored:
                self._stored.move_to_end(session_id)
        return found

    def is_alive(self, session_id: str) -> bool:
        """Tells whether the session was found not to have ended, and nobody has told of its end since."""
        if session_id in self._alive:
            return True
        if session_id not in self._alive_before:
            return False
        self.note_alive(session_id)
        return True

    def note_alive(self, session_id: str) -> None:
        """Notes that a session has not ended."""
        self._alive.add(session_id)
        if len(self._alive) >= ALIVE:
            self._turn()

    def _turn(self) -> None:
        self._alive, self._alive_before, self._turned_at = set(), self._alive, self._clock()

    def forget_alive(self) -> None:
        """Forgets which sessions live: ends may have been missed."""
        self._alive, self._alive_before = set(), set()

    def note(self, session_id: str, ended: Ended, *, is_stored: bool) -> None:
        """Notes the end of a session; `is_stored` says that a store has it as well."""
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
        """Forgets the end of a session."""
        for ends in (self._stored, self._kept, self._brief):
            ends.pop(session_id, None)

    def forget_old(self) -> None:
        """Forgets ends of sessions whose cookies are too old by now to be accepted, and living sessions that were not
        heard of for long."""
        now = self._clock()
        if now - self._turned_at >= ALIVE_FOR:
            self._turn()
        for ends in (self._stored, self._kept, self._brief):
            while ends and next(iter(ends.values())).until <= now:
                ends.popitem(last=False)


def write_note(ended: Ended) -> bytes:
    """Returns what a store keeps of an ended session, beside its id and time to live; `read_note` reads it."""
    return json.dumps([ended.successor, ended.user_id]).encode()


def read_note(session_id: str, note: bytes | str) -> tuple[str | None, str | None]:
    """The successor and the user's id (str or None) in what a store keeps of an ended session.

    A damaged note is logged. Its session has ended all the same, and nobody goes on with it.
    """
    try:
        found = json.loads(note)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 2 and all(part is None or isinstance(part, str) for part in found):
        return found[0], found[1]
    # The id would be worth something to who reads logs: as far as is known it has ended, but its successor has not.
    logger.error(
        "the note of the ended session %s... cannot be read: the session stays ended, and a sign-in that was repeated "
        "from it begins a new session", session_id[:6],
    )  # fmt: skip
    return None, None
