"""Topics: who follows one state, and what of it is still to be sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar

from ..state.reactive import ReactiveState
from .changes import Audience, Changes, CommitLike
from .writing import Chunk, Writer

logger = logging.getLogger("faststate")


class TopicConnection(Protocol):
    """A connection, as its topics need it."""

    writer: Writer | None

    @property
    def waits(self) -> bool:
        """True if anything waits in its own outbox."""

    def notify(self, key: str, changes: Changes | None, echo: Mapping[str, Any] | None = None) -> None:
        """Queue changes of the state `key` in its own outbox; None stands for a snapshot."""


F = TypeVar("F", bound=TopicConnection)


class _One(Mapping[F, Audience]):
    """The one follower that most states have, with its audience. Never changes; takes 170 bytes less than a dict."""

    __slots__ = ("_audience", "_connection")

    def __init__(self, connection: F, audience: Audience) -> None:
        self._connection = connection
        self._audience = audience

    def __getitem__(self, connection: F) -> Audience:
        if connection is not self._connection:
            raise KeyError(connection)
        return self._audience

    def get(self, connection: F, default: Any = None) -> Any:
        return self._audience if connection is self._connection else default

    def __contains__(self, connection: object) -> bool:
        return connection is self._connection

    def __iter__(self) -> Iterator[F]:
        return iter((self._connection,))

    def __len__(self) -> int:
        return 1


_NOBODY: Final[Mapping[Any, Any]] = MappingProxyType({})


class Topic(Generic[F]):
    """One state's followers, and what has changed since they were last sent it. Lifetime: while there are followers.

    `ahead` are the followers who were sent more than the others, or began with it: by connection, the snapshot they
    show. Where there are many followers, `quick` are those who keep up: by audience and connection, the function that
    writes their bytes. So two objects are touched for each of them, and not five: 1.07 times the floor's cost at 1,000
    followers instead of 1.2. The others are the `rest`. Followers who are `held` are sent nothing: it is not known yet
    whether their user may see the state.
    """

    __slots__ = ("_latest", "_since", "ahead", "changes", "connections", "held", "key", "quick", "rest", "unchecked")

    def __init__(self, key: str, latest: Callable[[str], ReactiveState | None]) -> None:
        self.key = key
        self.connections: Mapping[F, Audience] = _NOBODY
        self.changes: Changes | None = None
        self.ahead: dict[F, ReactiveState] | None = None
        self.quick: dict[Audience, dict[F, Callable[[bytes], object]]] | None = None
        self.rest: dict[F, None] | None = None
        self.unchecked = 0
        self.held: dict[F, None] | None = None
        self._latest = latest
        self._since: dict[int, Changes] | None = None  # changes since commits (by number) other than the last flush's

    def join(self, connection: F, audience: Audience) -> None:
        """Add a follower."""
        followers = self.connections
        if isinstance(followers, dict):
            followers[connection] = audience
        else:
            self.connections = {**followers, connection: audience} if followers else _One(connection, audience)
        if self.rest is not None:
            self.rest[connection] = None

    def leave(self, connection: F) -> None:
        """Remove a follower."""
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

    def hold(self, connection: F) -> None:
        """Send a follower nothing more until it is released."""
        self.slow_down(connection)
        if self.held is None:
            self.held = {}
        self.held[connection] = None

    def release(self, connection: F) -> None:
        """Send a follower again what all are sent."""
        if self.held is not None:
            self.held.pop(connection, None)
            self.held = self.held or None

    def is_held(self, connection: F) -> bool:
        """True if a follower is sent nothing."""
        return self.held is not None and connection in self.held

    def slow_down(self, connection: F) -> None:
        """Take a follower out of the quick ones, until `find_quick` looks again."""
        if self.quick is None or self.rest is None or connection not in self.connections:
            return
        if self.quick.get(self.connections[connection], {}).pop(connection, None) is not None:
            self.rest[connection] = None

    def find_quick(self) -> None:
        """Sort the followers into those who keep up and the rest."""
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

    def begin_with(self, connection: F, state: ReactiveState) -> None:
        """Note that a follower shows this snapshot by now, or is about to."""
        if self.ahead is None:
            self.ahead = {}
        self.ahead[connection] = state
        self.slow_down(connection)

    def shown_by(self, connection: F) -> ReactiveState | None:
        """Return the snapshot that a follower shows who is ahead of the others; None for all others."""
        return self.ahead.get(connection) if self.ahead is not None else None

    def add(self, commit: CommitLike) -> bool:
        """Note a commit, to be sent with the next flush; return True if it is coalesced with an earlier one."""
        before = self.changes
        self._since = None
        if before is None:
            self.changes = Changes(commit.old, commit.new, commit.delta, commit.frame)
            return False
        self.changes = Changes(before.old, commit.new)
        return True

    def hand_over(self, connection: F) -> None:
        """Move the pending change into this connection's own outbox."""
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

    def snapshot_for(self, connection: F) -> ReactiveState | None:
        """Return the newest snapshot that a connection may be sent: never one older than it began with."""
        state, shown = self._latest(self.key), self.shown_by(connection)
        return shown if shown is not None and (state is None or is_newer(shown, state)) else state

    def take(self) -> Sending[F]:
        """Take what is to be sent now; later commits are sent with the next flush."""
        changes, ahead = self.changes, self.ahead
        self.changes = self._since = None
        if changes is not None and ahead is not None:
            # A follower who began with a commit that is still undecided must not be sent an older one.
            self.ahead = {c: shown for c, shown in ahead.items() if is_newer(shown, changes.new)} or None
        return Sending(self, changes, {**(ahead or {}), **self.held} if self.held else ahead)


class Sending(Generic[F]):
    """The changes of a state that one flush sends. Lifetime: the flush.

    `ahead` are the followers whom it skips: they have it already, or get it from their outbox.
    """

    __slots__ = ("ahead", "changes", "chunks", "topic")

    def __init__(self, topic: Topic[F], changes: Changes | None, ahead: Mapping[F, object] | None) -> None:
        self.topic = topic
        self.changes = changes
        self.ahead: Mapping[F, object] = _NOBODY if ahead is None else ahead
        self.chunks: dict[Audience, Chunk | None] = {}

    def chunk(self, audience: Audience, position: bytes) -> Chunk | None:
        """Return the chunk for an audience, ending with the stream's `position` (bytes); None if nothing is new."""
        try:
            return self.chunks[audience]
        except KeyError:
            frame = self.frame(audience)
            made = self.chunks[audience] = Chunk(frame + position) if frame else None
            return made

    def frame(self, audience: Audience) -> bytes:
        """Return the frames (bytes) for an audience; empty if nothing is new, or if they cannot be made."""
        try:
            return self.changes.frame(audience) if self.changes is not None else b""
        except Exception:
            logger.exception("changes of %s could not be sent", self.topic.key)
            return b""


def is_newer(state: ReactiveState, other: ReactiveState) -> bool:
    """Tell whether `state` was committed after `other`."""
    return state._committed.commit > other._committed.commit
