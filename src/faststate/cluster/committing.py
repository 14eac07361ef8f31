"""Locks and commits among processes: states that other processes change as well.

A copy in memory is current while nobody else can have changed it: while this process has the state's lock, or while its
topic is subscribed to (see `following`). Otherwise the store is asked for what is newer.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from ..exceptions import FastStateError, PersistenceError, StateNotFoundError
from ..registry.ends import OutdatedError, StateEnd
from ..registry.entries import Entry, EntryChange, Nonce, with_version
from ..registry.persistence import MARK_TTL, Loaded, nonce_key, persistence_errors
from ..registry.registry import StateRegistry
from ..scopes import Version
from ..stores.backplane import Message
from ..stores.base import Hold, Locked, SharedStore, Stored, Write
from ..wire.frames import patch_frame
from .base import AppCluster, News
from .messages import APP, ENDED, RowChanged, SessionEnded, StateChanged, encode

HANDED_ON: Final = 16
"""Local transactions in a row that share one lock while another process waits for it. Each one more saves a round trip,
and keeps the others waiting for as long as it takes."""

SENT_WHOLE: Final = 65_536
"""Bytes of a state that are sent to other processes with each change. Those who follow a larger one load it, as often
as they can, and not each time."""

LOOK_UP_TRIES: Final = 10
"""How often a state is looked up again that changes while it is looked up."""

_NEVER: Final = Version("", -1)
"""A version that no state has: whatever is stored is newer."""


class CommittingCluster(AppCluster):
    """Takes the locks of states among the processes, and commits to the shared store. Lifetime: the cluster."""

    is_shared = True

    def __init__(self, store: SharedStore, registry: StateRegistry, news: News) -> None:
        super().__init__(store, registry.store_timeout)
        self.store: SharedStore = store
        self.trusts_memory = True  # what is newer comes with a lock
        self._registry = registry
        self._news = news
        self._observed = 0
        self._under_way: dict[object, int] = {}  # own commits, and what had been observed when they began

    # -- how far pages have come -----------------------------------------------------------------------------------

    @contextmanager
    def under_way(self) -> Iterator[None]:
        token = object()
        self._under_way[token] = self._observed
        try:
            yield
        finally:
            del self._under_way[token]

    def observe(self, sequence: int) -> int:
        """Note that all was received up to a commit; return up to which one (int) all own commits are made as well."""
        self._observed = sequence
        return min(sequence, min(self._under_way.values(), default=sequence))

    # -- locks -----------------------------------------------------------------------------------------------------

    async def lock(self, entries: Sequence[Entry], nonce: Nonce | None = None) -> bool | None:
        for entry in entries:
            # Its successor has a local lock of its own, and may have been handed the one that this would wait for.
            if entry.end is not None and entry.end is not StateEnd.SESSION_OVER:
                raise OutdatedError(entry.end_message)
        shared = {entry.shared_key: entry for entry in entries if entry.persistence is not None}
        missing = [key for key, entry in shared.items() if entry.shared.hold is None]
        if not missing:
            return None  # the locks were kept
        # All processes take locks in the order of these keys, or two would wait for each other. So a kept lock that
        # comes behind a missing one is released first.
        wanted = {key: entry for key, entry in shared.items() if key >= min(missing)}
        if kept := _holds(wanted.values()):
            self.store.unlock(kept)
        for entry in wanted.values():
            entry.own_shared().hold = None
        known = {key: _NEVER if entry.doubtful else _known(entry) for key, entry in wanted.items()}
        look_for = [nonce_key(nonce.entry.identifier, nonce.digest)] if nonce is not None else []
        locked = await self.store.lock(known, self._registry.lock_timeout, look_for)
        for key, entry in wanted.items():
            entry.shared.hold, entry.shared.handed = locked.holds[key], 0
        try:
            for key, entry in wanted.items():
                await self._take_in_locked(entry, key, locked)
        except BaseException:
            # What came with the other locks has not been taken in: nobody here may use them.
            for entry in wanted.values():
                self._give_back(entry)
            raise
        return bool(locked.present)

    async def _take_in_locked(self, entry: Entry, key: str, locked: Locked) -> None:
        """Take in what came with the lock of a state."""
        if entry.in_store:
            if key not in locked.news:
                entry.doubtful = False
                return
        else:
            known = entry.shared.mark
            if key in locked.news:
                marked = locked.news[key]
                known = marked.version if marked is not None else None
            if key not in locked.news and key not in locked.unclean and known is not None and not entry.doubtful:
                return
            entry.shared.mark = None  # until it has been loaded
            if key in locked.unclean:
                # Its holder has died, perhaps after it saved the row: the others have not heard what became of it.
                await self._renew(entry, known)
        found = await self._load(entry, locked.news.get(key))
        try:
            self._registry.committer.adopt(entry, found)
        except StateNotFoundError as error:
            raise OutdatedError(str(error)) from None

    async def _load(self, entry: Entry, stored: Stored | None) -> Loaded | None:
        """Load a state as it is kept now, where the store has `stored` under its shared key."""
        persistence = entry.persistence
        return await persistence.find(entry.identifier, stored) if persistence is not None else None

    async def renew(self, entry: Entry) -> None:
        if entry.is_row:
            await self._renew(entry, entry.shared.mark)

    async def _renew(self, entry: Entry, known: Version | None) -> None:
        """As `renew`; `known` is what the store has of the row's version."""
        message = Message(entry.identifier.key, encode(RowChanged(None)))
        holds, renewed = _holds([entry]), Version(secrets.token_hex(6), 1)
        await self.store.commit([_mark(entry, known, renewed)], [message], holds, keep=[hold.key for hold in holds])

    async def assert_held(self, entries: Sequence[Entry]) -> None:
        # For rows that count no versions: nothing else keeps an older row from being saved over a newer one.
        if holds := _holds(entries):
            await self.store.commit((), (), holds, keep=[hold.key for hold in holds])

    def release(self, entry: Entry) -> None:
        """Release a state's lock among the processes, or hand it on to the next local transaction that waits."""
        if self._keeps(entry):
            entry.shared.handed += 1
        else:
            self._give_back(entry)

    def give_up(self, entry: Entry) -> None:
        """Release a lock under which something may have changed without the store knowing."""
        self._give_back(entry, unclean=entry.is_row)

    def _give_back(self, entry: Entry, *, unclean: bool = False) -> None:
        if (hold := entry.shared.hold) is not None:
            entry.shared.hold = None
            self.store.unlock([hold], unclean=unclean)

    def _keeps(self, entry: Entry) -> bool:
        shared = entry.shared
        if shared.hold is None or entry.end is not None:
            return False
        # A sign-in may have given the state another key meanwhile.
        return entry.waiters > 0 and shared.handed < HANDED_ON and shared.hold.key == entry.shared_key

    # -- commits ---------------------------------------------------------------------------------------------------

    async def save(
        self, changes: Sequence[EntryChange], versions: Sequence[Version], writes: list[Write]
    ) -> list[bytes]:
        """As `Cluster.save`; also release the locks for which no local transaction waits."""
        shared = [entry for entry, _ in changes if entry.persistence is not None]
        frames, messages = self._messages(changes, versions, writes)
        sessions = {self._news.acting(), *(entry.identifier.session_id for entry in shared)} - {None}
        closing = {write.key for write in writes}
        for session_id in sessions:
            if (note_of_end := f"{ENDED}:{session_id}") not in closing:
                writes.append(Write(note_of_end, None, Version("", 1), None))  # which must not be there
        messages += [Message(APP, encode(ended_message(write))) for write in writes if write.group == ENDED]
        keep = [hold.key for entry in shared if self._keeps(entry) for hold in _holds([entry])]
        for entry in shared:
            entry.own_shared().committing = True
        try:
            names = ", ".join(entry.identifier.key for entry, _ in changes)
            async with persistence_errors(f"{names} could not be saved", self._store_timeout):
                done = await self.store.commit(writes, messages, _holds(shared), keep)
        finally:
            for entry in shared:
                entry.shared.committing = False
        for (entry, change), version in zip(changes, versions, strict=True):
            if entry.persistence is None:
                continue
            own = entry.shared
            if entry.is_row and change is not None:
                own.mark = version
            if own.hold is None or own.hold.key not in keep:
                own.hold = None
            elif own.hold.key not in done.wanted:
                own.handed = 0  # nobody else has waited for it
        return frames

    def _messages(
        self, changes: Sequence[EntryChange], versions: Sequence[Version], writes: list[Write]
    ) -> tuple[list[bytes], list[Message]]:
        """The frames of a commit's changes, and the messages that tell the others of them.

        The new versions of rows are added to `writes`.
        """
        data = {write.key: write.data for write in writes}
        frames: list[bytes] = []
        messages: list[Message] = []
        keys = [entry.identifier.key for entry, change in changes if change is not None and entry.persistence]
        together = tuple(keys) if len(keys) > 1 else ()
        for (entry, change), version in zip(changes, versions, strict=True):
            key, committed = entry.identifier.key, entry.state._committed
            if change is None or entry.persistence is None:
                frames.append(b"")
                continue
            delta = with_version(change.delta, change.encoded, version)
            frame = patch_frame(committed.namespace, committed.encoded, delta, {**change.encoded, **delta})
            frames.append(frame)
            typed = self._news.typed_here(key)
            if entry.is_row:
                writes.append(_mark(entry, entry.shared.mark, version))
                messages.append(Message(key, encode(RowChanged(version, typed))))
            else:
                whole = data.get(key) or b""
                sent = (frame, whole) if len(whole) <= SENT_WHOLE else (b"", b"")
                messages.append(Message(key, encode(StateChanged(entry.stored, version, together, typed, *sent))))
        return frames, messages

    async def last_changes(self, entries: Iterable[Entry]) -> dict[str, int]:
        keys = {entry.shared_key: entry.identifier.key for entry in entries if entry.persistence is not None}
        return {keys[key]: sequence for key, sequence in (await self.store.sequences(list(keys))).items()}

    # -- what is newer ---------------------------------------------------------------------------------------------

    async def freshen(self, entries: Iterable[Entry]) -> None:
        """As `AppCluster.freshen`; raises `PersistenceError` when all other states are up to date."""
        for error in (await self.look_up(entries)).values():
            raise error

    async def look_up(self, entries: Iterable[Entry]) -> dict[Entry, FastStateError]:
        """As `freshen`; returns the errors of states that could not be looked up.

        Raises `PersistenceError` when the store gives no answer.
        """
        failed: dict[Entry, FastStateError] = {}
        left = [entry for entry in entries if entry.persistence is not None and entry.end is None]
        for _ in range(LOOK_UP_TRIES):
            if not left:
                return failed
            states = [entry.state for entry in left]
            news = await self.store.fresh({entry.shared_key: _known(entry) for entry in left})
            again = []
            for entry, state in zip(left, states, strict=True):
                key, is_row = entry.shared_key, entry.is_row
                if entry.end is not None or not (key in news or (is_row and entry.shared.mark is None)):
                    continue
                try:
                    found = await self._load(entry, news.get(key))
                except FastStateError as error:
                    failed[entry] = error
                    continue
                shared = entry.shared
                if entry.state is not state or (is_row and shared.committing):
                    again.append(entry)  # it has changed meanwhile, and this may be what it was before
                elif shared.hold is None or shared.committing:
                    with suppress(StateNotFoundError):
                        self._registry.committer.adopt(entry, found)
                # Else what is newer came with the lock, and nobody else commits.
            left = again
        for entry in left:
            if entry.is_row:
                failed[entry] = PersistenceError(f"{entry.identifier.key} keeps changing while it is loaded")
        return failed


def ended_message(note: Write) -> SessionEnded:
    """Return the message that tells of a session's end, which is noted in the store by this write."""
    return SessionEnded(note.key.removeprefix(f"{ENDED}:"), (note.data or b"").decode(), note.ttl)


def _known(entry: Entry) -> Version | None:
    """The version that this process has of what the store has under the state's shared key."""
    return entry.stored if entry.in_store else entry.shared.mark


def _holds(entries: Iterable[Entry]) -> list[Hold]:
    return [hold for entry in entries if (hold := entry.shared.hold) is not None]


def _mark(entry: Entry, known: Version | None, version: Version) -> Write:
    """The write that tells a row's new version to the other processes."""
    return Write(entry.shared_key, known, version, b"", MARK_TTL)
