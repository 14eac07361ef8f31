"""The processes of one app, as its provider and sessions see them: one, or many with one store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

from ..exceptions import VersionConflict
from ..registry.entries import Entry
from ..registry.persistence import Persistence
from ..registry.protocols import Cluster
from ..scopes import Id, StateIdentifier
from ..stores.base import Stored, Write
from .messages import AppMessage, ProcessStats, RightsChanged, Typed


class AppCluster(Cluster):
    """The processes of one app: the registry's cluster, and what pages and sessions ask of it. Lifetime: the provider.

    This class is the cluster of one process: nobody else changes its states, shows its pages or ends its sessions.
    `cluster.shared` overrides it for many.
    """

    async def start(self) -> None:
        """Begin to hear the other processes, and take the store for this one. Raises `BackplaneError`."""
        self.trusts_memory = True

    async def stop(self) -> None:
        """End the background work, and give the store back."""
        self.trusts_memory = False

    def others(self) -> Sequence[Mapping[str, Any]]:
        """The counters that each other process tells of itself."""
        return ()

    # -- what is newer elsewhere -----------------------------------------------------------------------------------

    def is_current(self, key: str) -> bool:
        """True if a state in memory is what is stored, by all that was heard of other processes."""
        return True

    async def freshen(self, entries: Iterable[Entry]) -> None:
        """Take in what other processes have changed of these states. Raises `PersistenceError`.

        A state that is gone is removed, and raises nothing.
        """

    async def last_changes(self, entries: Iterable[Entry]) -> Mapping[str, int]:
        """Return by key the number of the commit that changed a state last; empty in one process.

        Raises `PersistenceError`.
        """
        return {}

    async def renew(self, entry: Entry) -> None:
        """Have other processes load a locked state again, whose row other code may have changed.

        Raises `PersistenceError`.
        """

    async def deleted(self, identifier: StateIdentifier, persistence: Persistence | None) -> None:
        """Tell the other processes that a state was deleted. Raises `BackplaneError` and `PersistenceError`."""

    async def end_soon(self, key: str, ttl: float) -> None:
        """Have a state end in `ttl` seconds that is not in memory here. Raises `PersistenceError`."""

    # -- pages -----------------------------------------------------------------------------------------------------

    def holding(self) -> AbstractContextManager[dict[str, None]]:
        """Return a context with keys, whose states stay followed until it ends: somebody is about to watch them."""
        return nullcontext({})

    async def follow(self, entries: Sequence[Entry], held: dict[str, None]) -> bool:
        """Hear of all changes of these states; they are in step with the store when this returns.

        False if one of them has changed meanwhile. Raises `BackplaneError` and `PersistenceError`.
        """
        return True

    def note_typed(self, entry: Entry, page: str, fields: Iterable[str], number: int) -> list[str] | None:
        """Note an event of a page that sets bound `fields` of a locked state; return those that no later one has set.

        Returns None if the page's own stream remembers that, since the page has it in this process.
        """
        return None

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        """Send values to the followers of a state in other processes, but for those of one user."""

    async def show(self, key: str, page: str | None, session_id: str | None) -> None:
        """Send a state as it is to a page, by its connection's id, of another process. Raises `BackplaneError`."""

    def new_stream_id(self) -> str | None:
        """Return an id (str) for a new stream that names its process; None where any id will do."""
        return None

    def is_elsewhere(self, connection_id: str) -> bool:
        """True if a stream of this id is another process's. Where that one has died, the page opens a new one."""
        return False

    def position(self, *, settled: bool) -> str:
        """Return the commit of all processes that pages here have reached, to be appended to their own position.

        It advances only while this process's own commits are all `settled`.
        """
        return ""

    def seen(self, position: str | None) -> int | None:
        """Return the commit of all processes that a page has reached which comes with this `position`.

        None if it is not known, or if the position is this process's own.
        """
        return None

    # -- sessions --------------------------------------------------------------------------------------------------

    async def end_session(self, note: Write, stored: Mapping[str, Stored], *, is_noted: bool) -> Mapping[str, Stored]:
        """Tell all processes of a session's end, and store a `note` of it where it `is_noted`.

        Returns the session's states that are `stored` then: behind the note nobody can commit any more. Raises
        `PersistenceError`.
        """
        if is_noted and self.store is not None:
            with suppress(VersionConflict):  # it was there already
                await self.store.save(note)
        return stored

    def reload_pages(self, session_id: str) -> None:
        """Have a session's pages in other processes load themselves again."""

    async def tell_rights(self, note: Write, message: RightsChanged) -> None:
        """Tell the other processes of a user's changed rights, and store a `note` of it for those cut off just now.

        Raises `PersistenceError`.
        """

    async def noted_since(self, group: str, commit: int) -> Mapping[str, Stored]:
        """Return the notes of a group that others stored after the commit of this number, by key.

        Raises `PersistenceError`.
        """
        return {}


class News(Protocol):
    """The provider, as a cluster of many processes sees it. Lifetime: the provider."""

    def acting(self) -> str | None:
        """Return the session (its id) in whose name the current event commits."""

    def typed_here(self, key: str) -> Typed | None:
        """Return what the current event's page has typed into a state, if another process has the page's stream."""

    def caused_by(self, key: str, typed: Typed | None) -> AbstractContextManager[None]:
        """Return a context whose commits are published as made by the page that has `typed` the values."""

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Any) -> None:
        """Send values, which another process has broadcast, to the followers of a state."""

    def show(self, key: str, page: str | None, session_id: str | None) -> None:
        """Send a state as it is to a page, by its connection's id."""

    def accept(self, message: AppMessage) -> None:
        """Accept a message that concerns the whole app: ended sessions, changed rights."""

    async def caught_up(self, after: int, away: float) -> None:
        """Look up what concerns the app since the commit `after`: the connection was lost for `away` seconds."""

    async def look_up_session(self, session_id: str) -> None:
        """Learn if a session has ended in another process. Raises `PersistenceError`."""

    def stats(self) -> ProcessStats:
        """Return the counters of this process for the others."""
