"""Commits: changes are saved, then swapped in for all readers at once, then sent to the followers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar, cast

from ..exceptions import FastStateError, StateNotFoundError, VersionConflict
from ..scopes import StateIdentifier, Version
from ..state.changes import Change, change_to, no_change, with_values
from ..state.copies import SnapshotInfo
from ..state.events import VERSION_SIGNAL
from ..state.reactive import ReactiveState
from ..state.serving import ServingProvider
from ..stores.base import Write
from .ends import StateEnd
from .entries import Commit, Entry, EntryChange, Nonce, finite, next_version, with_version
from .locks import SessionGates
from .persistence import (
    Loaded,
    Persistence,
    Save,
    nonce_key,
    persistence_errors,
    save_rows,
    separate_nonce,
    write_all,
)
from .protocols import Cluster, Followers

logger = logging.getLogger("faststate")

T = TypeVar("T")


GATE_PATIENCE: Final = 5.0
"""Seconds that a commit and a sign-in or sign-out wait for each other, beyond the time that the store has."""


class Committer:
    """Commits the changes of a process's states. Lifetime: the registry.

    `number` is that of the last commit, `saves` counts the saves. `remove` is called with a state that is no more,
    and why.
    """

    def __init__(
        self,
        followers: Followers,
        cluster: Cluster,
        clock: Callable[[], float],
        store_timeout: float,
        remove: Callable[[Entry, StateEnd], None],
        serving: ServingProvider | None = None,
    ) -> None:
        self.number = self.saves = 0
        self.store_timeout = store_timeout
        self.gates = SessionGates(store_timeout + GATE_PATIENCE)
        self._followers = followers
        self._cluster = cluster
        self._serving = serving
        self._clock = clock
        self._remove = remove
        self._under_way: set[asyncio.Task[Any]] = set()

    def commit(
        self,
        changes: Sequence[tuple[Entry, Change]],
        *,
        nonce: Nonce | None = None,
        also: Sequence[Write] = (),
        still_current: Callable[[], None] = lambda: None,
    ) -> Awaitable[object] | None:
        """Save all changes, swap the states for their new snapshots, then tell the followers. The caller has the locks.

        Returns what to await for that; None if there is nothing to await, and all is done.

        No reader sees some of the changes without the others: nothing is awaited between the swaps. `nonce` is the
        event's, and remembered with its state; `also` are further changes of the store, made together with these or not
        at all. Once the save has begun, the commit is completed even if the caller is cancelled. A sign-in or sign-out
        of a session comes before or after its commits: if the caller had to wait for one, `still_current` is called
        again.

        Raises what that raises, `VersionConflict` and `PersistenceError`; `StateNotFoundError`, with nothing changed,
        when one of the states is no more. Changes of a state whose session is over, or which the event itself has
        deleted, are dropped without an error.
        """
        if not self.gates.all_open:
            concerned = [*(entry for entry, _ in changes), *([nonce.entry] if nonce is not None else [])]
            if not self.gates.is_open(_sessions(concerned)):
                return self._commit_later(concerned, changes, nonce, also, still_current)
        own = nonce.entry if nonce is not None else None
        prepared: list[EntryChange] = []
        is_kept, is_apart = bool(also), own is not None
        for entry, change in changes:
            if entry.end is not None:
                if entry.end.drops_commits:
                    continue
                raise StateNotFoundError(entry.end_message)
            prepared.append((entry, change))
            is_kept = is_kept or entry.persistence is not None
            is_apart = is_apart and entry is not own
        # An event that changed only other states than its own leaves its nonce with its own.
        if own is not None and is_apart and prepared and not (own.end is not None and own.end.drops_commits):
            prepared.append((own, None))
            is_kept = is_kept or own.persistence is not None
        if own is not None and not prepared and own.persistence is not None and self._cluster.is_shared:
            # The event changed nothing, but it has happened: another process must not run it again.
            also, is_kept = [*also, separate_nonce(own.identifier, cast(Nonce, nonce).digest, grouped=False)], True
        if is_kept:
            # Nothing is awaited from here to where the gates are held: the task holds them when it begins.
            passed = self.gates.inside(_sessions(entry for entry, _ in prepared))
            passed.__enter__()
            return self.finish(self._save_and_swap(prepared, nonce, also, still_current), passed)
        self._swap(prepared)
        if nonce is not None:
            nonce.entry.remember(nonce.digest, self._clock())
        return None

    async def _commit_later(
        self,
        concerned: Sequence[Entry],
        changes: Sequence[tuple[Entry, Change]],
        nonce: Nonce | None,
        also: Sequence[Write],
        still_current: Callable[[], None],
    ) -> None:
        """Commit when no session of these states is being signed in or out any more."""
        while not self.gates.is_open(sessions := _sessions(concerned)):
            for session_id in sessions:
                await self.gates.opened(session_id)
        still_current()
        saving = self.commit(changes, nonce=nonce, also=also, still_current=still_current)
        if saving is not None:
            await saving

    async def finish(self, coroutine: Coroutine[Any, Any, T], inside: AbstractContextManager[None] | None = None) -> T:
        """Run a coroutine to its end, and leave `inside` then, whether the caller is cancelled or not."""
        task = asyncio.get_running_loop().create_task(coroutine, name="faststate-commit")
        self._under_way.add(task)

        def ended(task: asyncio.Task[T]) -> None:
            self._under_way.discard(task)
            if inside is not None:
                inside.__exit__(None, None, None)

        task.add_done_callback(ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():  # the locks are released when this returns
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("the changes of a cancelled request could not be saved", exc_info=error)
            raise

    async def _save_and_swap(
        self,
        prepared: list[EntryChange],
        nonce: Nonce | None,
        also: Sequence[Write],
        still_current: Callable[[], None],
    ) -> None:
        cluster, now = self._cluster, self._clock()
        with cluster.under_way():
            versions = [next_version(entry) if change is not None else entry.version for entry, change in prepared]
            places = [place for place, (entry, _) in enumerate(prepared) if entry.persistence is not None]
            concerned = [prepared[place][0] for place in places]
            saves = [await self._save_of(*prepared[place], versions[place], nonce, now) for place in places]
            is_kept = nonce is not None and any(save.identifier == nonce.entry.identifier for save in saves)
            if nonce is not None and saves and not is_kept and cluster.store is not None:
                # No save takes the nonce along: the event's own state is in memory alone, or no more.
                also = [*also, separate_nonce(nonce.entry.identifier, nonce.digest, grouped=not cluster.is_shared)]
            try:
                await cluster.assert_held([
                    entry for entry, save in zip(concerned, saves, strict=True)
                    if save.changed and save.persistence.is_uncounted(save.stored)
                ])  # fmt: skip
                saved, writes = await save_rows(saves, also, self.store_timeout)
                for place, version, save in zip(places, saved, saves, strict=True):
                    versions[place] = version or versions[place]
                    entry, change = prepared[place]
                    if save.rounded and change is not None:
                        prepared[place] = entry, with_values(entry.state, change, save.rounded)
                self.saves += 1
                frames = await cluster.save(prepared, versions, writes)
            except BaseException as error:
                await self._save_failed(concerned, error, still_current)
                raise
            swaps = list(prepared)
            for place, version in zip(places, saved, strict=True):
                entry, change = prepared[place]
                entry.touched = now
                if not _is_behind(version, entry.stored):
                    entry.stored = version
                elif change is not None:
                    # Others got the lock with this commit, and their commits were heard of before its own answer.
                    swaps[place], versions[place] = (entry, no_change(entry.state)), entry.version
                    if frames is not None:
                        frames[place] = b""
            if nonce is not None:
                nonce.entry.remember(nonce.digest, now)
            self._swap(swaps, versions, frames)

    async def _save_of(
        self, entry: Entry, change: Change | None, version: Version, nonce: Nonce | None, now: float
    ) -> Save:
        """Return one state's part of a save."""
        persistence = cast(Persistence, entry.persistence)
        if entry.stored is None and change is not None:
            # With its first save the state takes over the nonces that were kept beside it.
            for digest in await persistence.separate_nonces(entry.identifier):
                entry.remember(digest, now)
        new = nonce.digest if nonce is not None and nonce.entry is entry else None
        nonces = self._cluster.nonces(entry, now, [new] if new is not None else [])
        values = change.values if change is not None else entry.state._frozen_values()
        changed = change.changed if change is not None else ()
        return Save(
            persistence, entry.identifier, entry.stored, version, entry.state, values, changed, nonces, new,
            finite(entry.ttl), entry.shared.typed,
        )  # fmt: skip

    async def _save_failed(
        self, entries: Sequence[Entry], error: BaseException, still_current: Callable[[], None]
    ) -> None:
        """Load states again whose save has failed: it may have succeeded all the same, or some of it."""
        for entry in entries:
            entry.doubtful = True
            self._cluster.save_failed(entry)
            with contextlib.suppress(FastStateError):
                await self.reload(entry)
        if isinstance(error, VersionConflict):
            await self._cluster.learn_of_ends(_sessions(entries))
            still_current()
        gone = next((entry for entry in entries if entry.end is not None), None)
        if isinstance(error, StateNotFoundError) and gone is not None:
            raise StateNotFoundError(gone.end_message) from error

    async def has_stored(self, nonce: Nonce, others: Iterable[Entry] = (), found: bool | None = None) -> bool:
        """True if the event with this nonce has been committed, though its state in memory has not seen it.

        `others` are the further states that it takes; `found` is what the cluster said with its locks, if anything.
        Raises `PersistenceError`.
        """
        entry = nonce.entry
        if found is not None:
            return found
        # The nonces of a stored state were loaded with it; all others are kept beside their states.
        is_beside = not entry.in_store or entry.stored is None
        is_beside = is_beside or (self._cluster.is_shared and any(True for _ in others))
        store = self._cluster.store
        if store is None or not is_beside or not any(e.persistence is not None for e in (entry, *others)):
            return False
        async with persistence_errors(f"the nonces of {entry.identifier.key} could not be loaded", self.store_timeout):
            return await store.load(nonce_key(entry.identifier, nonce.digest)) is not None

    async def write(self, writes: Sequence[Write]) -> None:
        """Make changes of the store, all or none. Raises `VersionConflict` and `PersistenceError`."""
        self.saves += 1
        if self._cluster.store is not None:
            await write_all(writes, self._cluster.store, self.store_timeout)

    def snapshot(
        self,
        made: ReactiveState,
        identifier: StateIdentifier,
        version: Version,
        encoded: dict[str, Any],
        *,
        versioned: bool,
    ) -> ReactiveState:
        """Make a committed snapshot of `made`, which holds frozen values, under the process's next commit number.

        `versioned` says whether pages are sent its version.
        """
        self.number += 1
        if versioned:
            encoded = {**encoded, VERSION_SIGNAL: str(version)}
        return made._commit(
            SnapshotInfo(identifier, version.number, self.number, encoded, self._serving, epoch=version.epoch)
        )

    def _swap(
        self,
        prepared: Iterable[EntryChange],
        versions: Sequence[Version] | None = None,
        frames: Sequence[bytes] | None = None,
    ) -> None:
        """Swap states for their new snapshots, of these `versions` or the next ones, and tell the followers."""
        done = []
        for place, (entry, change) in enumerate(prepared):
            if change is None:
                continue
            old, version = entry.state, versions[place] if versions is not None else next_version(entry)
            versioned = VERSION_SIGNAL in change.encoded
            new = entry.state = self.snapshot(
                cast(ReactiveState, change.made), entry.identifier, version, change.encoded, versioned=versioned
            )
            delta = with_version(change.delta, change.encoded, version) if versioned else change.delta
            frame = frames[place] if frames is not None else None
            done.append(Commit(entry.identifier.key, old, new, change.changed, delta, self.number, frame or None))
        for commit in done:
            self._followers.committed(commit)

    # -- what others have changed ----------------------------------------------------------------------------------

    async def reload(self, entry: Entry) -> bool:
        """Load a locked state again, and tell its followers if it has changed; True if it has. The caller has the lock.

        Raises `PersistenceError`, and `StateNotFoundError` if it is kept no more: then it is removed here, too.
        """
        persistence = entry.persistence
        if persistence is None or entry.end is not None:
            return False
        return self.adopt(entry, await persistence.load(entry.identifier))

    def adopt(self, entry: Entry, found: Loaded | None, frame: bytes | None = None) -> bool:
        """Replace a state in memory by the one that was found where it is kept; as `reload`.

        `frame` brings pages there from the signals of the state in memory, if it is known.
        """
        if found is None:
            entry.doubtful = False
            if entry.stored is None:
                return False  # its first save has failed, or it is as its class makes it
            self._remove(entry, StateEnd.GONE)
            raise StateNotFoundError(entry.end_message)
        entry.doubtful = False
        if entry.in_store and _is_behind(found.version, entry.stored):
            return False  # a later one has come meanwhile
        entry.remember_stamped(found.nonces, self._clock())
        if found.mark is not None or found.typed:
            shared = entry.own_shared()
            shared.mark = found.mark
            shared.typed = {page: dict(fields) for page, fields in found.typed.items()}
        if entry.in_store and found.version == entry.version:
            entry.stored = found.version
            return False
        change = change_to(entry.state, found.state)
        version = found.version
        if entry.is_row and entry.stored is not None:
            if entry.stored.epoch == version.epoch:  # the row counts its versions
                if change is None and version == entry.stored:
                    return False
            elif found.mark is None:
                if change is None:
                    return False
                version = next_version(entry)
        self._swap([(entry, change or no_change(entry.state))], [version], [frame] if frame is not None else None)
        entry.stored = version
        return change is not None

    async def commits_under_way(self) -> None:
        """Wait until the commits that are being saved now have ended, and for one turn of the loop at least."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await asyncio.sleep(0)


def _is_behind(version: Version | None, stored: Version | None) -> bool:
    """True if `stored` is a later version of the same life."""
    return (
        version is not None and stored is not None
        and version.epoch == stored.epoch and version.number < stored.number
    )  # fmt: skip


def _sessions(entries: Iterable[Entry]) -> list[str]:
    """The ids of these states' sessions, as of now: a sign-in may rename them."""
    return [entry.identifier.session_id for entry in entries if entry.identifier.session_id is not None]
