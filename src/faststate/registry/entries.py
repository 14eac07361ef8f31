"""Entries: a state in memory with its lock, its stored version and its idle time."""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from ..exceptions import ConfigurationError
from ..scheduling.queues import FairQueue
from ..scopes import StateIdentifier, StateScope, Version
from ..state.changes import Change, newest_fields
from ..state.copies import INITIAL
from ..state.events import VERSION_SIGNAL
from ..state.reactive import ReactiveState
from ..stores.base import Hold
from .ends import StateEnd
from .persistence import NONCE_AGE, Persistence
from .persistence.encoding import encode

DEFAULT_TTL: Final[dict[StateScope, float | None]] = {
    StateScope.GLOBAL: None,
    StateScope.SESSION: 86_400.0,
    StateScope.USER: None,
    StateScope.COMPONENT: 86_400.0,
    StateScope.RECORD: None,
    StateScope.TEMPORARY: 900.0,  # a hidden tab has no stream, and its user may come back in some minutes
}
"""Seconds of idle time after which a state is dropped, by scope; None for never. A watched state is not idle."""

NONCES_IN_ANY_CASE: Final = 64
"""Nonces that are saved for other processes, whatever the clocks say."""

NONCES_KEPT: Final = 512
"""Nonces of events remembered per state: repeats come within a browser's retry, seconds after the first."""


PAGES_TYPING: Final = 32
"""Pages whose typed fields are remembered with a state: events overtake each other within moments."""


CHANGED: Final = 0
"""Worth of a state that somebody has changed, and that memory alone has."""

RECOVERABLE: Final = 1
"""Worth of a state that comes back as it was after it was dropped from memory."""

UNTOUCHED: Final = 2
"""Worth of a state that nobody has changed, but whose class would make other values another time."""


@dataclass(slots=True, eq=False)
class Commit:
    """One committed change, as the followers get it. Lifetime: until it was sent to every connection."""

    key: str
    old: ReactiveState
    new: ReactiveState
    changed: list[str]
    delta: dict[str, Any]
    number: int
    frame: bytes | None = None
    """Brings pages from the old signals to the new ones; None unless it was encoded for other processes already."""


@dataclass(slots=True, eq=False)
class Shared:
    """The part of an entry that concerns other processes. Lifetime: the entry.

    `hold` is the state's lock among the processes, and `handed` counts the local transactions that have had it since.
    `committing` is True while a commit that may release it is under way. `mark` is the version that the store has of a
    row, which tells whether another process has changed it. `typed` holds, by page (its connection's id) and bound
    field, the number of the last event that set it. `shortened` says that the store has to be told of a shorter time to
    live.
    """

    hold: Hold | None = None
    handed: int = 0
    committing: bool = False
    shortened: bool = False
    mark: Version | None = None
    typed: dict[str, dict[str, int]] = field(default_factory=dict)

    def note_typed(self, page: str, fields: Iterable[str], number: int) -> list[str]:
        """Note an event of a page that sets bound `fields`; return those that no later one of the page has set."""
        known = self.typed[page] = self.typed.pop(page, {})
        if len(self.typed) > PAGES_TYPING:
            del self.typed[next(iter(self.typed))]
        return newest_fields(known, fields, number)


class _NotShared(Shared):
    """A `Shared` of which nothing can be changed: it stands in many entries. Lifetime: the process."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise FrozenInstanceError(f"{name} cannot be set for all states at once: set it in `own_shared()`")
        super().__setattr__(name, value)


NOT_SHARED: Final = _NotShared(typed=cast(dict[str, dict[str, int]], MappingProxyType({})))
"""The `shared` of all entries that concern no other process."""


class Waiter(NamedTuple):
    """Somebody who waits for a state's lock: `given` is done when they have it, or have been cancelled."""

    owner: object
    given: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Entry:
    """A state in memory: its committed snapshot, its lock and its idle time. Lifetime: from first use to expiry."""

    identifier: StateIdentifier
    ttl: float
    state: ReactiveState
    persistence: Persistence | None = None
    order: tuple[float, int] | None = None  # the line in which it waits to be idle for long enough
    # The address from which a visitor changed it first, if memory alone has it; empty if that is not known.
    address: str | None = None
    visits: int = 0  # uses since then
    stored: Version | None = None  # the version that was loaded or saved last
    shared: Shared = NOT_SHARED  # the part that concerns other processes; see `own_shared`
    doubtful: bool = False  # the store may have another version: load it before the next change
    touched: float = 0.0  # when the store was told last that the state is in use
    owner: object | None = None  # the holder of its lock
    waiting: FairQueue[Waiter] | None = None  # those who wait for the lock; the sessions get it in turn
    users: int = 0  # open transactions; the state is not dropped while there are any
    used: float = 0.0
    end: StateEnd | None = None  # why it is no more, if so
    nonces: OrderedDict[str, float] | None = None  # nonces (or digests) of events, and their times

    @property
    def waiters(self) -> int:
        """How many (int) wait for the lock and have not been cancelled."""
        return sum(not waiter.given.done() for waiter in self.waiting) if self.waiting else 0

    @property
    def shared_key(self) -> str:
        """The key under which a store of many processes has the state or its row's version, and its lock.

        All locks are taken in the order of these keys, within a process as well: whoever waits there may hold others.
        """
        persistence = self.persistence
        return persistence.shared_key(self.identifier) if persistence is not None else self.identifier.key

    @property
    def in_store(self) -> bool:
        """True if the store holds the state itself, and not only the version of its row."""
        return self.persistence is not None and self.persistence.in_store

    @property
    def is_row(self) -> bool:
        """True if the state is a row of the app's database. One that memory alone has is neither a row nor stored."""
        return self.persistence is not None and not self.persistence.in_store

    def own_shared(self) -> Shared:
        """Return the entry's own `shared`, which may be changed."""
        if self.shared is NOT_SHARED:
            self.shared = Shared()
        return self.shared

    @property
    def version(self) -> Version:
        """The version of the committed snapshot."""
        committed = self.state._committed
        return Version(committed.epoch, committed.version)

    @property
    def end_message(self) -> str:
        """The message for people about the state's end."""
        message = self.end.message if self.end is not None else ""
        name = f"{self.identifier.cls_name} {self.identifier.instance_id or ''}".rstrip()
        return message if self.end is StateEnd.MERGED else f"{name}: {message}"

    @property
    def recoverable(self) -> bool:
        """True if it comes back after it was dropped from memory: it is kept elsewhere, or nobody ever changed it."""
        return self.persistence is not None or self.state._committed.epoch.startswith(INITIAL)

    @property
    def worth(self) -> int:
        """The loss if it were dropped from memory: one of `CHANGED`, `RECOVERABLE` and `UNTOUCHED`."""
        if self.recoverable:
            return RECOVERABLE
        return UNTOUCHED if self.state._committed.version == 1 else CHANGED

    def remember(self, digest: str, now: float) -> None:
        """Note that the event with this nonce (its digest) has been committed."""
        if self.nonces is None:
            self.nonces = OrderedDict()
        self.nonces[digest] = now
        if len(self.nonces) > NONCES_KEPT:
            self.nonces.popitem(last=False)

    def has_seen(self, digest: str) -> bool:
        """True if the event with this nonce (its digest) has been committed."""
        return self.nonces is not None and digest in self.nonces

    def may_have_forgotten(self, age: float, now: float) -> bool:
        """True if the nonce of an event that was sent first `age` seconds ago may have been remembered and dropped."""
        if age >= NONCE_AGE:
            return True
        return self.nonces is not None and len(self.nonces) >= NONCES_KEPT and min(self.nonces.values()) > now - age

    def recent_nonces(self, now: float) -> list[str]:
        """The digests of the nonces to save with the state."""
        return [nonce for nonce, at in (self.nonces or {}).items() if now - at < NONCE_AGE]

    def stamped_nonces(self, now: float, new: Sequence[str]) -> list[str]:
        """As `recent_nonces`, each with its time, for other processes; the `new` ones (digests) come last.

        The clocks of processes may differ, so the latest nonces are always among them, whatever their times say.
        """
        known, wall = list((self.nonces or {}).items()), time.time()
        first = max(0, len(known) - NONCES_IN_ANY_CASE)
        kept = [item for place, item in enumerate(known) if place >= first or now - item[1] < NONCE_AGE]
        return [f"{nonce}@{int(wall - (now - at)):x}" for nonce, at in (*kept, *((nonce, now) for nonce in new))]

    def remember_stamped(self, nonces: Sequence[str], now: float) -> None:
        """Note nonces as they were saved, by this process or another, in the order of their events.

        They come after those that are known here and not among them. If they were noted one by one, each that had been
        forgotten here already would push out the next one, and in the end the newest.
        """
        if not nonces:
            return
        wall, known = time.time(), self.nonces or OrderedDict()
        saved: dict[str, float] = {}
        for each in nonces:
            digest, _, stamp = each.partition("@")
            saved[digest] = known.get(digest, now - max(0.0, wall - int(stamp, 16)) if stamp else now)
        merged = OrderedDict((digest, at) for digest, at in known.items() if digest not in saved)
        merged.update(saved)
        while len(merged) > NONCES_KEPT:
            merged.popitem(last=False)
        self.nonces = merged


class LiveEntries(dict[str, Entry]):
    """The entries of all states in memory, by key. Lifetime: the registry."""

    def __init__(self) -> None:
        super().__init__()
        self.by_session: dict[str, tuple[str, ...]] = {}
        """Per session: its states' keys, the oldest first."""

    def add(self, entry: Entry) -> None:
        """Add an entry under its key."""
        key, session_id = entry.identifier.key, entry.identifier.session_id
        self[key] = entry
        if session_id is not None:
            keys = self.by_session.get(session_id, ())  # mostly very few
            if key not in keys:
                self.by_session[session_id] = (*keys, key)

    def remove(self, entry: Entry) -> None:
        """Remove an entry that is there."""
        key, session_id = entry.identifier.key, entry.identifier.session_id
        del self[key]
        if session_id is not None and (keys := self.by_session.get(session_id)) is not None:
            if left := tuple(other for other in keys if other != key):
                self.by_session[session_id] = left
            else:
                del self.by_session[session_id]


def digest_of(nonce: str) -> str:
    """The part of a nonce that is kept: 72 bits, so that no two are equal by chance."""
    return urlsafe_b64encode(hashlib.sha256(nonce.encode()).digest()[:9]).decode()


class Nonce(NamedTuple):
    """The digest of an event's nonce, and the state that remembers it."""

    entry: Entry
    digest: str

    @classmethod
    def of(cls, entry: Entry, nonce: str, others: Mapping[str, Entry]) -> Nonce:
        """The nonce of an event of `entry` that takes `others` as well; undigested if memory alone keeps it."""
        stored = entry.persistence is not None or (others and any(other.persistence for other in others.values()))
        return cls(entry, digest_of(nonce) if stored else nonce)


EntryChange = tuple[Entry, Change | None]
"""A change of one state to commit. It is None if only the nonce of the state's event is new."""


def idle_time(identifier: StateIdentifier, ttl: float | None) -> float:
    """Idle seconds after which a state is dropped, infinite for never; `ttl` is None for its scope's own."""
    kept = DEFAULT_TTL[identifier.scope] if ttl is None else ttl
    return math.inf if kept is None else kept


def finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


def with_version(delta: dict[str, Any], encoded: Mapping[str, Any], version: Version) -> dict[str, Any]:
    """The signals that a commit changes: with the version if pages have it among all the others (`encoded`)."""
    return {**delta, VERSION_SIGNAL: str(version)} if VERSION_SIGNAL in encoded else delta


def next_version(entry: Entry) -> Version:
    """The version of the next commit. The first commit begins the state's own life: its class makes all with one."""
    committed = entry.state._committed
    is_first = committed.epoch.startswith(INITIAL)
    return Version(secrets.token_hex(6) if is_first else committed.epoch, committed.version + 1)


def initial_epoch(cls: type[ReactiveState], made: ReactiveState) -> str:
    """The epoch of all states that are as their class makes them (`made` is one). It changes with the class."""
    # 0.2 us; 11 us if it were made for each state.
    epoch = _initial_epochs.get(cls)
    if epoch is None:
        values = made._frozen_values()
        try:
            data = encode(values)
        except ConfigurationError:  # the class cannot be stored, so this process alone knows it
            data = b""
        epoch = _initial_epochs[cls] = f"{INITIAL}-{hashlib.sha256(data).hexdigest()[:8]}"
    return epoch


def initial_wire(cls: type[ReactiveState], made: ReactiveState) -> dict[str, Any]:
    """The wire values of all states that are as their class makes them (`made` is one): one dict for all of them.

    It takes 0.6 us; 6 us, and memory for each state, if they were encoded for each.
    """
    encoded = _initial_wires.get(cls)
    if encoded is None:
        encoded = _initial_wires[cls] = made._wire()
    return encoded


_initial_wires: WeakKeyDictionary[type[ReactiveState], dict[str, Any]] = WeakKeyDictionary()
_initial_epochs: WeakKeyDictionary[type[ReactiveState], str] = WeakKeyDictionary()


def is_initial(version: Version) -> bool:
    """True if a state of this version is as its class makes it: nothing of it could be lost."""
    return version.epoch.startswith(INITIAL)
