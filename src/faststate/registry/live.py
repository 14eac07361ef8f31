"""The states in memory, by key and by session."""

from __future__ import annotations

from collections.abc import ValuesView

from .entries import Entry

__all__ = ["LiveEntries"]


class LiveEntries:
    """The entries of all states in memory. Lifetime: the registry."""

    def __init__(self) -> None:
        self.by_key: dict[str, Entry] = {}
        self.by_session: dict[str, tuple[str, ...]] = {}  # per session: its states' keys, the oldest first
        self.get = self.by_key.get

    def __len__(self) -> int:
        return len(self.by_key)

    def __contains__(self, key: object) -> bool:
        return key in self.by_key

    def __getitem__(self, key: str) -> Entry:
        return self.by_key[key]

    def values(self) -> ValuesView[Entry]:
        """All entries."""
        return self.by_key.values()

    def of_session(self, session_id: str) -> tuple[str, ...]:
        """The keys of a session's states, the oldest first."""
        return self.by_session.get(session_id, ())

    def add(self, entry: Entry) -> None:
        """Add an entry under its key."""
        key, session_id = entry.identifier.key, entry.identifier.session_id
        self.by_key[key] = entry
        if session_id is not None:
            keys = self.by_session.get(session_id, ())  # mostly very few
            if key not in keys:
                self.by_session[session_id] = (*keys, key)

    def remove(self, entry: Entry) -> None:
        """Remove an entry that is there."""
        key, session_id = entry.identifier.key, entry.identifier.session_id
        del self.by_key[key]
        if session_id is not None and (keys := self.by_session.get(session_id)) is not None:
            if left := tuple(other for other in keys if other != key):
                self.by_session[session_id] = left
            else:
                del self.by_session[session_id]
