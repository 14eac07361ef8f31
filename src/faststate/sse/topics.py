"""Topics: who follows one state, what of it is still to be sent, and what followers have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..state.reactive import ReactiveState
from .audience import Audience
from .changes import Changes, CommitLike
from .connection import SSEConnection
from .writing import Chunk

__all__ = ["Index", "Joined", "Sending", "Topic", "is_newer"]

logger = logging.getLogger("faststate")


class _One(Mapping[SSEConnection, Audience]):
    """The one follower that most states have, and its audience. Never changes, and takes 170 bytes less than a dict."""

    __slots__ = ("_audience", "_connection")

    def __init__(self, connection: SSEConnection, audience: Audience) -> None:
        self._connection = connection
        self._audience = audience

    def __getitem__(self, connection: SSEConnection) -> Audience:
        if connection is not self._connection:
            raise KeyError(connection)
        return self._audience

    def get(self, connection: SSEConnection, default: Any = None) -> Any:
        return self._audience if connection is self._connection else default

    def __contains__(self, connection: object) -> bool:
        return connection is self._connection

    def __iter__(self) -> Iterator[SSEConnection]:
        return iter((self._connection,))

    def __len__(self) -> int:
        return 1


_NOBODY: Final[Mapping[SSEConnection, Audience]] = MappingProxyType({})


class Topic:
    """One state's followers, and what has changed since they were sent it last. Lifetime: while there are any.

    `ahead` are those who have been sent more than the others, or began with it: by connection, the snapshot they show.
    Of many followers those who keep up are `quick`: by audience and connection, what takes their bytes. Two objects are
    touched for each of them, and not five: 1.07 times the floor's cost at 1,000 followers, where that is 1.2. The
    others are the `rest`. Those who are `held` are told nothing: it is not known yet whether their user may see it.
    """

    __slots__ = ("_latest", "_since", "ahead", "changes", "connections", "held", "key", "quick", "rest", "unchecked")

    def __init__(self, key: str, latest: Callable[[str], ReactiveState | None]) -> None:
        self.key = key
        self.connections: Mapping[SSEConnection, Audience] = _NOBODY
        self.changes: Changes | None = None
        self.ahead: dict[SSEConnection, ReactiveState] | None = None
        self.quick: dict[Audience, dict[SSEConnection, Callable[[bytes], object]]] | None = None
        self.rest: dict[SSEConnection, None] | None = None
        self.unchecked = 0
        self.held: dict[SSEConnection, None] | None = None
        self._latest = latest
        self._since: dict[int, Changes] | None = None  # since other commits (their numbers) than the last flush

    def join(self, connection: SSEConnection, audience: Audience) -> None:
        """Has a connection follow the state."""
        followers = self.connections
        if isinstance(followers, dict):
            followers[connection] = audience
        else:
            self.connections = {**followers, connection: audience} if followers else _One(connection, audience)
        if self.rest is not None:
            self.rest[connection] = None

    def leave(self, connection: SSEConnection) -> None:
        """Has a connection follow it no more."""
        self.slow_down(connection)
        followers = self.connections
        if isinstance(followers, dict):
            followers.pop(connection, None)
        elif connection in followers:
            self.connections = _NOBODY
        if self.rest is not None:
            self.rest.pop(connection, None)
        if self.ahead is not None:
            self.ahead.pop(connection, None)
        self.release(connection)

    def hold(self, connection: SSEConnection) -> None:
        """Tells a follower nothing more until it is released."""
        self.slow_down(connection)
        if self.held is None:
            self.held = {}
        self.held[connection] = None

    def release(self, connection: SSEConnection) -> None:
        """Tells a follower again what all are told."""
        if self.held is not None:
            self.held.pop(connection, None)
            self.held = self.held or None

    def is_held(self, connection: SSEConnection) -> bool:
        """Tells whether a follower is told nothing."""
        return self.held is not None and connection in self.held

    def slow_down(self, connection: SSEConnection) -> None:
        """Has a follower be none of the quick ones, until it is looked again who keeps up."""
        if self.quick is None or self.rest is None or connection not in self.connections:
            return
        if self.quick.get(self.connections[connection], {}).pop(connection, None) is not None:
            self.rest[connection] = None

    def sort(self) -> None:
        """Looks who keeps up."""
        self.unchecked = 0
        if self.quick is None or self.rest is None:
            self.quick, self.rest = {}, dict.fromkeys(self.connections)
        for writes in self.quick.values():
            for connection in [c for c in writes if c.writer is None or not c.writer.ready]:
                self.slow_down(connection)
        for connection in list(self.rest):
            writer = connection.writer
            if self.is_held(connection):
                continue
            if writer is not None and writer.ready and not connection.waits and (write := writer.quick) is not None:
                self.quick.setdefault(self.connections[connection], {})[connection] = write
                del self.rest[connection]

    def begin_with(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Notes that a follower shows this snapshot by now, or is about to."""
        if self.ahead is None:
            self.ahead = {}
        self.ahead[connection] = state
        self.slow_down(connection)

    def shown_by(self, connection: SSEConnection) -> ReactiveState | None:
        """The snapshot that a follower shows who is ahead of the others; None for all others."""
        return self.ahead.get(connection) if self.ahead is not None else None

    def add(self, commit: CommitLike) -> bool:
        """Notes a commit, to be sent with the next flush; True where it is coalesced with another."""
        before = self.changes
        self._since = None
        if before is None:
            self.changes = Changes(commit.old, commit.new, commit.delta, commit.frame)
            return False
        self.changes = Changes(before.old, commit.new)
        return True

    def hand_over(self, connection: SSEConnection) -> None:
        """Has a connection have in its own outbox what all are about to be sent."""
        changes = self.changes
        if changes is None or self.is_held(connection):
            return
        shown = self.shown_by(connection) or changes.old
        if is_newer(changes.new, shown):
            self.begin_with(connection, changes.new)
            connection.notify(self.key, changes if shown is changes.old else self._changes_since(shown, changes))

    def _changes_since(self, shown: ReactiveState, changes: Changes) -> Changes:
        if self._since is None:
            self._since = {}
        number = shown._committed.commit
        if number not in self._since:
            self._since[number] = Changes(shown, changes.new)
        return self._since[number]

    def snapshot_for(self, connection: SSEConnection) -> ReactiveState | None:
        """The newest snapshot that a connection may be sent: never one older than it began with."""
        state, shown = self._latest(self.key), self.shown_by(connection)
        return shown if shown is not None and (state is None or is_newer(shown, state)) else state

    def take(self) -> Sending:
        """What is to be sent now; what is committed from here on is sent with the next flush."""
        changes, ahead = self.changes, self.ahead
        self.changes = self._since = None
        if changes is not None and ahead is not None:
            # Who began with more than was decided yet still must not be sent what is older.
            self.ahead = {c: shown for c, shown in ahead.items() if is_newer(shown, changes.new)} or None
        return Sending(self, changes, {**(ahead or {}), **self.held} if self.held else ahead)


class Sending:
    """What one flush sends of a state, and to whom it does not, since they are sent it alone or have it already."""

    __slots__ = ("ahead", "changes", "chunks", "topic")

    def __init__(self, topic: Topic, changes: Changes | None, ahead: Mapping[SSEConnection, object] | None) -> None:
        self.topic = topic
        self.changes = changes
        self.ahead: Mapping[SSEConnection, object] = _NOBODY if ahead is None else ahead
        self.chunks: dict[Audience, Chunk | None] = {}

    def chunk(self, audience: Audience, position: bytes) -> Chunk | None:
        """What is written to an audience, with the stream's `position` (bytes) behind; None where nothing is new."""
        try:
            return self.chunks[audience]
        except KeyError:
            frame = self.frame(audience)
            made = self.chunks[audience] = Chunk(frame + position) if frame else None
            return made

    def frame(self, audience: Audience) -> bytes:
        """The frames (bytes) for an audience; empty where there is nothing new, or it cannot be made."""
        try:
            return self.changes.frame(audience) if self.changes is not None else b""
        except Exception:
            logger.exception("what has changed of %s could not be sent", self.topic.key)
            return b""


def is_newer(state: ReactiveState, other: ReactiveState) -> bool:
    """Whether `state` was committed after `other`."""
    return state._committed.commit > other._committed.commit


class Index:
    """Connections by a name that most have for themselves: there is a set for several alone. Lifetime: the manager."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, SSEConnection | set[SSEConnection]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, name: str, connection: SSEConnection) -> None:
        """Adds a connection, which may be there already."""
        found = self._found.setdefault(name, connection)
        if isinstance(found, set):
            found.add(connection)
        elif found is not connection:
            self._found[name] = {found, connection}

    def discard(self, name: str, connection: SSEConnection) -> None:
        """Takes a connection out, if it is there."""
        found = self._found.get(name)
        if found is connection:
            del self._found[name]
        elif isinstance(found, set):
            found.discard(connection)
            if not found:
                del self._found[name]

    def names(self) -> list[str]:
        """The names that there are connections under."""
        return list(self._found)

    def count(self, name: str) -> int:
        """How many (int) there are under a name."""
        found = self._found.get(name)
        return len(found) if isinstance(found, set) else int(found is not None)

    def named(self, name: str) -> list[SSEConnection]:
        """The connections under a name."""
        found = self._found.get(name)
        return list(found) if isinstance(found, set) else [found] if found is not None else []


class Joined:
    """Frames of several states that some connections get in one chunk. Lifetime: one flush."""

    __slots__ = ("_after", "_chunk", "_frames")

    def __init__(self, frames: tuple[bytes, ...] = ()) -> None:
        self._frames = frames
        self._after: dict[bytes, Joined] = {}
        self._chunk: Chunk | None = None

    def then(self, frame: bytes) -> Joined:
        """These frames and one more; the same object for all connections that get the same."""
        known = self._after.get(frame)
        if known is None:
            known = self._after[frame] = Joined((*self._frames, frame))
        return known

    def chunk(self, position: bytes) -> Chunk:
        """All of them, with the stream's `position` (bytes) behind."""
        if self._chunk is None:
            self._chunk = Chunk(b"".join((*self._frames, position)))
        return self._chunk
