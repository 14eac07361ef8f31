"""Sharing: states that other processes change as well. Their locks, what is loaded with them, what the others are told.

A copy in memory is current while nobody else can have changed it: with the lock in hand, or (see `following`) while its
topic is subscribed to. Else the store is asked for what is newer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from ..exceptions import FastStateError, PersistenceError, StateNotFoundError, VersionConflict
from ..registry.entries import Entry, Prepared, Shared, with_version
from ..registry.persistence import MARK_TTL, Loaded, Persistence
from ..registry.protocols import OutdatedError
from ..registry.registry import StateRegistry
from ..scopes import StateIdentifier, Version
from ..stores.backplane import Message
from ..stores.base import Hold, Locked, SharedStore, Stored, Write
from ..wire.frames import patch_frame
from .base import News

__all__ = ["APP", "ENDED", "HANDED_ON", "Sharing", "Told", "pack", "unpack"]

HANDED_ON: Final = 16
"""Local transactions, one after the other, that share one lock while another process waits for it. Each one more saves
a round trip, and keeps the others waiting for so long."""

APP: Final = "app"
"""The topic of what concerns the whole app: ended sessions, changed rights. No scope has this name."""

ENDED: Final = "ended"
"""Group, and first part of the key, of what a store keeps of ended sessions. No scope has this name."""

DELETED: Final = "it was deleted"
"""Why a state is no more that `delete` was called for."""

TOLD_WHOLE: Final = 65_536
"""Bytes of a state that other processes are sent with each change. A larger one is loaded by those who follow it, as
often as they can, and not each time."""

LOOK_UP_TRIES: Final = 10
"""How often a state is looked up again that changes while it is looked up."""


_NEVER: Final = Version("", -1)
"""A version that no state has: all that is stored is news."""


class Told(NamedTuple):
    """What a process was told by another: the `head` (a dict), and what goes with it (bytes)."""

    head: dict[str, Any]
    parts: Sequence[bytes]


def pack(head: Mapping[str, Any], *parts: bytes) -> bytes:
    """A message's body (bytes); `unpack` gives it back."""
    return b"\n".join((json.dumps({**head, "l": [len(part) for part in parts]}).encode(), b"".join(parts)))


def unpack(body: bytes) -> Told:
    """What `pack` was given. Raises `ValueError` for what it has not made."""
    first, _, rest = body.partition(b"\n")
    head = json.loads(first)
    if not isinstance(head, dict):
        raise ValueError("a message begins with an object")
    parts, at = [], 0
    for length in head.pop("l"):
        parts.append(rest[at : at + length])
        at += length
    return Told(head, parts)


class Sharing:
    """The states of a process that others change as well. Lifetime: the cluster."""

    def __init__(self, store: SharedStore, registry: StateRegistry, news: News) -> None:
        self.store = store
        self._registry = registry
        self._news = news
        self._observed = 0
        self._under_way: dict[object, int] = {}  # own commits, and what had been observed when they began

    # -- how far pages have been told ------------------------------------------------------------------------------

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A commit is being made, which the other processes may be told of before this one's pages are."""
        token = object()
        self._under_way[token] = self._observed
        try:
            yield
        finally:
            del self._under_way[token]

    def observe(self, sequence: int) -> int:
        """Notes that all was received up to a commit; up to which one (int) this process's own are all made as well."""
        self._observed = sequence
        return min(sequence, min(self._under_way.values(), default=sequence))

    # -- locks -----------------------------------------------------------------------------------------------------

    async def lock(self, entries: Sequence[Entry], look_for: Sequence[str] = ()) -> frozenset[str] | None:
        """Lock states among the processes, and take in what is newer of them; as `Cluster.lock`."""
        for entry in entries:
            # Its successor has locks of its own here, and may have been handed the one that would be waited for.
            if entry.removed is not None and not entry.is_over:
                raise OutdatedError(entry.removed)
        shared = {entry.shared_key: entry for entry in entries if entry.persistence is not None}
        missing = [key for key, entry in shared.items() if _shared(entry).hold is None]
        if not missing:
            return None  # the locks were kept
        # All take locks in the order of these keys, or two would wait for each other: one that was kept and comes
        # behind another that is to be had is given back first.
        wanted = {key: entry for key, entry in shared.items() if key >= min(missing)}
        kept = [hold for entry in wanted.values() if (hold := _shared(entry).hold) is not None]
        for entry in wanted.values():
            _shared(entry).hold = None
        if kept:
            self.store.unlock(kept)
        known = {key: _NEVER if entry.doubtful else _known(entry) for key, entry in wanted.items()}
        locked = await self.store.lock(known, self._registry.lock_timeout, look_for)
        for key, entry in wanted.items():
            own = _shared(entry)
            own.hold, own.handed = locked.holds[key], 0
        try:
            for key, entry in wanted.items():
                await self._take_in_locked(entry, key, locked)
        except BaseException:
            # What came along with the other locks has not been taken in: nobody here may go on with them.
            for entry in wanted.values():
                self._give_back(entry)
            raise
        return locked.present

    async def _take_in_locked(self, entry: Entry, key: str, locked: Locked) -> None:
        """Takes in what came along with the lock of a state."""
        own = _shared(entry)
        if entry.in_store:
            if key not in locked.news:
                entry.doubtful = False
                return
        else:
            known = own.mark
            if key in locked.news:
                marked = locked.news[key]
                known = marked.version if marked is not None else None
            if key not in locked.news and key not in locked.unclean and known is not None and not entry.doubtful:
                return
            own.mark = None  # until it has been loaded
            if key in locked.unclean:
                # Who held it has died, perhaps behind the row's save: what became of it nobody has told the others.
                await self.renew(entry, known)
        found = await self._found(entry, locked.news.get(key))
        try:
            self._registry.committer.take_in(entry, found)
        except StateNotFoundError as error:
            raise OutdatedError(str(error)) from None

    async def _found(self, entry: Entry, stored: Stored | None) -> Loaded | None:
        """Load a state as it is kept now, where the store has `stored` under its shared key."""
        persistence = entry.persistence
        return await persistence.find(entry.identifier, stored) if persistence is not None else None

    async def refresh(self, entry: Entry) -> None:
        """Has all processes load a row again that other code may have changed. The caller has its lock."""
        if not entry.in_store:
            await self.renew(entry, _mark_of(entry))

    async def renew(self, entry: Entry, known: Version | None) -> None:
        """Has all processes load a row again, which may have been changed by what tells nobody.

        The caller has its lock; `known` is what the store has of its version. Raises `PersistenceError`.
        """
        told = Message(entry.identifier.key, pack({"kind": "changed", "to": None, "typed": None}))
        holds, renewed = _holds([entry]), Version(secrets.token_hex(6), 1)
        await self.store.commit([_mark(entry, known, renewed)], [told], holds, keep=[hold.key for hold in holds])

    async def assert_held(self, entries: Iterable[Entry]) -> None:
        """Raises `LockLostError` where another process has taken this one for dead, and the lock of one of the states.

        For rows that count no versions: nothing else keeps what was read before that from being saved over what has
        been saved since.
        """
        if holds := _holds(entries):
            await self.store.commit((), (), holds, keep=[hold.key for hold in holds])

    def release(self, entry: Entry) -> None:
        """Gives a state's lock among the processes back, or to the next local transaction that waits for it."""
        shared = entry.shared
        if shared is None or shared.hold is None:
            return
        if self._keeps(entry):
            shared.handed += 1
        else:
            self._give_back(entry)

    def _give_back(self, entry: Entry) -> None:
        shared = entry.shared
        if shared is not None and shared.hold is not None:
            hold, shared.hold = shared.hold, None
            self.store.unlock([hold])

    def give_up(self, entry: Entry) -> None:
        """Gives a lock back under which something may have been changed that the store was not told of."""
        shared = entry.shared
        if shared is not None and shared.hold is not None:
            hold, shared.hold = shared.hold, None
            self.store.unlock([hold], unclean=not entry.in_store)

    def _keeps(self, entry: Entry) -> bool:
        shared = entry.shared
        if shared is None or shared.hold is None or entry.removed is not None:
            return False
        # A sign-in may have given the state another key meanwhile.
        return entry.waiters > 0 and shared.handed < HANDED_ON and shared.hold.key == entry.shared_key

    # -- commits ---------------------------------------------------------------------------------------------------

    async def save(self, prepared: Sequence[Prepared], versions: Sequence[Version], writes: list[Write]) -> list[bytes]:
        """Makes a commit's `writes`, publishes it, and gives those locks back for which no local transaction waits.

        Gives, for each of the prepared changes, the frames (bytes) that bring a page from the old signals to the new.
        Raises `VersionConflict`, `LockLostError` and `PersistenceError`.
        """
        data = {write.key: write.data for write in writes}
        shared = [entry for entry, _ in prepared if entry.shared is not None and entry.persistence is not None]
        frames, messages = [], []
        changed = [entry.identifier.key for entry, change in prepared if change is not None and entry in shared]
        for (entry, change), version in zip(prepared, versions, strict=True):
            key, committed = entry.identifier.key, entry.state._committed
            if change is None or entry not in shared:
                frames.append(b"")
                continue
            delta = with_version(change.delta, change.encoded, version)
            frames.append(patch_frame(committed.namespace, committed.encoded, delta, {**change.encoded, **delta}))
            head: dict[str, Any] = {
                "kind": "commit", "from": list(entry.stored) if entry.stored is not None else None,
                "to": list(version), "with": changed if len(changed) > 1 else [], "typed": self._news.typed_here(key),
            }  # fmt: skip
            if not entry.in_store:
                head["kind"] = "changed"
                mark = _mark(entry, _shared(entry).mark, version)
                writes.append(mark)
                messages.append(Message(key, pack(head)))
            else:
                whole = data.get(key) or b""
                told = (frames[-1], whole) if len(whole) <= TOLD_WHOLE else (b"", b"")
                messages.append(Message(key, pack(head, *told)))
        sessions = {self._news.acting(), *(entry.identifier.session_id for entry in shared)} - {None}
        closing = {write.key for write in writes}
        for session_id in sessions:
            if (mark_of_end := f"{ENDED}:{session_id}") not in closing:
                writes.append(Write(mark_of_end, None, Version("", 1), None))  # which it must not have
        messages += [_end(write) for write in writes if write.group == ENDED]
        keep = [hold.key for entry in shared if self._keeps(entry) for hold in _holds([entry])]
        for entry in shared:
            _shared(entry).committing = True
        try:
            done = await self.store.commit(writes, messages, _holds(shared), keep)
        finally:
            for entry in shared:
                _shared(entry).committing = False
        for (entry, change), version in zip(prepared, versions, strict=True):
            own = entry.shared
            if own is None or entry.persistence is None:
                continue
            if not entry.in_store and change is not None:
                own.mark = version
            if own.hold is None or own.hold.key not in keep:
                own.hold = None
            elif own.hold.key not in done.wanted:
                own.handed = 0  # nobody else has waited for it
        return frames

    async def publish(self, key: str, head: Mapping[str, Any]) -> None:
        """Tells the followers of a state, in other processes. Raises `BackplaneError`."""
        await self.store.publish([Message(key, pack(head))])

    async def deleted(self, identifier: StateIdentifier, persistence: Persistence | None) -> None:
        """Tells the other processes that a state was deleted. Raises `BackplaneError` and `PersistenceError`."""
        if persistence is not None:
            await persistence.delete_mark(identifier)
            await self.publish(identifier.key, {"kind": "removed", "reason": DELETED})

    async def last_changes(self, entries: Iterable[Entry]) -> dict[str, int]:
        """By key, the number of the commit that changed a state last. Raises `PersistenceError`."""
        keys = {entry.shared_key: entry.identifier.key for entry in entries if entry.persistence is not None}
        return {keys[key]: sequence for key, sequence in (await self.store.sequences(list(keys))).items()}

    # -- what is newer ---------------------------------------------------------------------------------------------

    async def freshen(self, entries: Iterable[Entry]) -> None:
        """Takes in what other processes have changed of these states since they were loaded.

        One that is no more is removed, and raises nothing. Raises `PersistenceError`, when all others are up to date.
        """
        for error in (await self.look_up(entries)).values():
            raise error

    async def look_up(self, entries: Iterable[Entry]) -> dict[Entry, FastStateError]:
        """As `freshen`; gives why some of the states could not be looked up. Raises when the store gives no answer."""
        failed: dict[Entry, FastStateError] = {}
        left = [entry for entry in entries if entry.persistence is not None and entry.removed is None]
        for _ in range(LOOK_UP_TRIES):
            if not left:
                return failed
            states = [entry.state for entry in left]
            news = await self.store.fresh({entry.shared_key: _known(entry) for entry in left})
            again = []
            for entry, state in zip(left, states, strict=True):
                key, is_row = entry.shared_key, not entry.in_store
                if entry.removed is not None or not (key in news or (is_row and _mark_of(entry) is None)):
                    continue
                try:
                    found = await self._found(entry, news.get(key))
                except FastStateError as error:
                    failed[entry] = error
                    continue
                if entry.state is not state or (is_row and _is_committing(entry)):
                    again.append(entry)  # it has changed meanwhile, and this may be what it was before
                elif not _is_held(entry):  # else what is newer came with the lock, and nobody else commits
                    with suppress(StateNotFoundError):
                        self._registry.committer.take_in(entry, found)
            left = again
        for entry in left:
            if not entry.in_store:
                failed[entry] = PersistenceError(f"{entry.identifier.key} keeps changing while it is loaded")
        return failed

    async def end(self, mark: Write, *, stored: bool) -> None:
        """Tells all processes of a session's end, and has its `mark` be stored. Raises `PersistenceError`."""
        if stored:
            try:
                await self.store.commit([mark], [_end(mark)])
            except VersionConflict:  # it has been there
                return
        else:
            await self.store.publish([_end(mark)])


def _known(entry: Entry) -> Version | None:
    """Which version a process has of what the store has under the state's shared key."""
    return entry.stored if entry.in_store else _mark_of(entry)


def _mark_of(entry: Entry) -> Version | None:
    return entry.shared.mark if entry.shared is not None else None


def _is_held(entry: Entry) -> bool:
    return entry.shared is not None and entry.shared.hold is not None and not entry.shared.committing


def _is_committing(entry: Entry) -> bool:
    return entry.shared is not None and entry.shared.committing


def _shared(entry: Entry) -> Shared:
    if entry.shared is None:
        entry.shared = Shared()
    return entry.shared


def _holds(entries: Iterable[Entry]) -> list[Hold]:
    return [entry.shared.hold for entry in entries if entry.shared is not None and entry.shared.hold is not None]


def _mark(entry: Entry, known: Version | None, version: Version) -> Write:
    return Write(entry.shared_key, known, version, b"", MARK_TTL)


def _end(mark: Write) -> Message:
    return Message(
        APP,
        pack(
            {
                "kind": "ended",
                "session": mark.key.removeprefix(f"{ENDED}:"),
                "ttl": mark.ttl,
                "mark": (mark.data or b"").decode(),
            }
        ),
    )
