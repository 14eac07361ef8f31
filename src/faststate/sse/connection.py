"""Connections: one open stream of one page, with its outbox."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from ..auth.users import UserContext
from ..exceptions import ConnectionClosedError
from ..scheduling.waits import Done
from ..scopes import Id, StateIdentifier
from ..state.changes import newest_fields
from ..wire.frames import signals_frame
from ..wire.values import to_wire
from .changes import Audience, Changes, snapshot_frame
from .topics import Topic
from .writing import Writer

logger = logging.getLogger("faststate")

MAX_MESSAGES: Final = 256
"""Frames (fragments that events return) that may wait for one connection; beyond it, snapshots replace all of them."""

MAX_WAITING: Final = 1_048_576
"""Bytes that these frames may have together before snapshots replace them."""


class Sender(Protocol):
    """Sends what waits in connections' outboxes, on the event loop that writes their streams. Lifetime: the manager."""

    coalesced: int

    def on_loop(self, call: Callable[[], object]) -> None:
        """Run `call` on that loop: at once if this is it."""

    def flush_soon(self, connection: SSEConnection) -> None:
        """Flush at the end of the loop's turn: something waits in this connection's outbox."""


@dataclass(eq=False, slots=True)
class _Outbox:
    """The changes that wait for one connection which is behind the others. Lifetime: until it is drained."""

    states: dict[str, Changes | None] = field(default_factory=dict)
    echoes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    signals: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.states or self.messages or self.signals)


class SSEConnection:
    """One open stream of one page. Lifetime: the HTTP response, or until the manager removes it.

    While its reader keeps up it has no outbox: it is written the same bytes as all others (see `Fanout`). Otherwise its
    outbox holds, for each state, the changes of one flush, or None if only a snapshot will do. So its size is bounded
    by the number of states that the page shows. `response_stream` is anything but None while the connection is open.
    `user` is the user who opened it; users whose `rights` (a hashable) are equal get the same answer from every rule.
    """

    __slots__ = (
        "_outbox", "_typed", "address", "connected_at", "dropped", "ends_at", "id", "last_frame",
        "last_ping", "rights", "sender", "session_id", "silent", "slot", "stream", "topics", "user", "user_id",
        "writer",
    )  # fmt: skip

    def __init__(
        self,
        connection_id: str | None = None,
        response_stream: Any = True,
        user_id: Id | None = None,
        *,
        session_id: str | None = None,
        user: UserContext | None = None,
        address: str | None = None,
    ) -> None:
        self.id = connection_id or secrets.token_urlsafe(12)
        self.stream = response_stream
        self.user = user
        self.user_id = user_id if user is None else user.id
        self.rights = _rights_of(user)
        self.session_id = session_id
        self.address = address
        self.connected_at = datetime.now(UTC)
        self.last_ping = self.connected_at
        self.sender: Sender | None = None
        self.writer: Writer | None = None
        self.topics: tuple[Topic[SSEConnection], ...] = ()  # a dict would take 176 bytes more
        self.slot = -1
        self.ends_at = 0.0
        self.last_frame = b""
        self.silent = False
        self.dropped = 0
        self._typed: dict[str, dict[str, int]] | None = None
        self._outbox: _Outbox | None = None

    @property
    def closed(self) -> bool:
        """True once the connection has ended."""
        return self.stream is None

    @property
    def streaming(self) -> bool:
        """True once a response writes its stream."""
        return self.writer is not None

    @property
    def subscribed_states(self) -> set[str]:
        """The keys of the states that it follows."""
        return {topic.key for topic in self.topics}

    def note_typed(self, key: str, fields: Iterable[str], number: int) -> list[str]:
        """Note the `number` of an event that sets bound `fields` of the state `key`.

        Returns those that no later event of the page has set.
        """
        if self._typed is None:
            self._typed = {}
        return newest_fields(self._typed.setdefault(key, {}), fields, number)

    @property
    def waits(self) -> bool:
        """True if anything waits in its own outbox."""
        return bool(self._outbox)

    def audience(self, key: str) -> Audience:
        """Return what it shows and may see of the state `key`. Raises `KeyError` if it does not follow that."""
        topic = self.topic(key)
        if topic is None:
            raise KeyError(key)
        return topic.connections[self]

    def topic(self, key: str) -> Topic[SSEConnection] | None:
        """Return the topic of the state `key`; None if it does not follow that."""
        return next((topic for topic in self.topics if topic.key == key), None)

    def close(self, last_frame: bytes = b"") -> None:
        """End the connection. `last_frame` (bytes) is still written, and nothing else that waits."""
        self.last_frame = self.last_frame or last_frame
        self.stream = None
        if self.writer is not None:
            self._on_loop(self.writer.wake)

    def forget(self, key: str | None = None) -> None:
        """Drop what waits of the state `key`, or all that waits."""
        box = self._outbox
        if box is None:
            return
        if key is None:
            self._outbox = None
        else:
            box.states.pop(key, None)
            box.echoes.pop(key, None)
            _drop(box.signals, StateIdentifier.parse(key).namespace)

    # -- only for this page --------------------------------------------------------------------------------------------

    def send_event(self, event_data: Mapping[str, Any]) -> Done[int]:
        """Queue signals (a nested dict) for this connection, merged with those that wait already.

        The result may be awaited, and need not be. Raises `ConnectionClosedError` when the connection has ended.
        """
        self._refuse_closed()
        values = {str(key): to_wire(value) for key, value in event_data.items()}
        self._on_loop(lambda: self._add_signals(values))
        return Done(1)

    def send_frame(self, frame: bytes) -> None:
        """Queue an SSE event (bytes) behind all that waits.

        Beyond `MAX_MESSAGES` or `MAX_WAITING` all that waits is dropped and counted, and snapshots replace it. Raises
        `ConnectionClosedError` when the connection has ended.
        """
        self._refuse_closed()
        self._on_loop(lambda: self._add_frame(frame))

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ConnectionClosedError(f"the connection {self.id} has ended")

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self.sender is None:
            call()
        else:
            self.sender.on_loop(call)

    def _add_signals(self, values: Mapping[str, Any]) -> None:
        if not self.closed:
            self.take_commits()  # what was committed before comes first
            box = self._box()
            box.signals = _overlay(box.signals, values)
            self._send_soon()

    def _add_frame(self, frame: bytes) -> None:
        if not self.closed:
            # What waits was committed before this fragment was made, and must not overtake it.
            self.take_commits()
            self._queue([*self._drain_states(), frame])
            self._send_soon()

    def _box(self) -> _Outbox:
        if self._outbox is None:
            self._outbox = _Outbox()
        return self._outbox

    def _queue(self, frames: Iterable[bytes]) -> None:
        box = self._box()
        box.messages.extend(frames)
        count = len(box.messages)
        if count > MAX_MESSAGES or (count > 1 and sum(map(len, box.messages)) > MAX_WAITING):
            self.dropped += count
            box.messages.clear()
            box.states = dict.fromkeys(topic.key for topic in self.topics)
            box.echoes.clear()

    def _send_soon(self) -> None:
        """Send what waits at the end of the loop's turn, or once the reader takes something again."""
        if self.writer is not None:  # without one it is sent with the first bytes of the response
            if self.writer.ready and self.sender is not None:
                self.sender.flush_soon(self)
            else:
                self.writer.wake()

    def notify(self, key: str, changes: Changes | None, echo: Mapping[str, Any] | None = None) -> None:
        """Queue changes of the state `key`; None stands for a snapshot.

        `echo` holds the fields (name to wire value) that this page has just set itself and need not be told.
        """
        box = self._box()
        if box.signals:
            # These values were sent, not committed: the commit comes after them and overrides them.
            sent, box.signals = box.signals, {}
            self._queue([*self._drain_states(), signals_frame(sent)])
        if key in box.states:
            box.states[key] = None
            box.echoes.pop(key, None)
            if self.sender is not None:
                self.sender.coalesced += 1
        else:
            box.states[key] = changes
            if echo:
                box.echoes[key] = echo
        self._send_soon()

    # -- the outbox ----------------------------------------------------------------------------------------------------

    def slow_down(self) -> None:
        """Check back-pressure before each write to this connection."""
        for topic in self.topics:
            topic.slow_down(self)

    def take_commits(self) -> None:
        """Move the pending changes of all states that it follows into its own outbox."""
        for topic in self.topics:
            if topic.changes is not None:
                topic.hand_over(self)

    def drain(self) -> bytes:
        """Empty the outbox and return what was in it, as bytes to write."""
        self.take_commits()
        box = self._outbox
        if box is None:
            return b""
        frames = [*box.messages, *self._drain_states()]
        if box.signals:
            frames.append(signals_frame(box.signals))
        self._outbox = None
        return b"".join(frames)

    def _drain_states(self) -> list[bytes]:
        box = self._box()
        frames = []
        topics = {topic.key: topic for topic in self.topics} if len(box.states) > 1 else {}
        for key, changes in box.states.items():
            topic = topics.get(key) or self.topic(key)
            if topic is None or topic.is_held(self):
                continue
            audience = topic.connections[self]
            try:
                if changes is not None:
                    frames.append(changes.frame(audience, box.echoes.get(key)))
                elif (state := topic.snapshot_for(self)) is not None:
                    shown, is_shared = state._seen(audience.hidden), len(topic.connections) > 1
                    frames.append(snapshot_frame(shown, audience.views, keep=is_shared))
            except Exception:  # the page still gets its other states, and other pages theirs
                logger.exception("changes of %s could not be sent", key)
        box.states, box.echoes = {}, {}
        return frames

    def __repr__(self) -> str:
        return f"<SSEConnection {self.id} on {len(self.topics)} states>"


def _rights_of(user: UserContext | None) -> Any:
    """Return what tells two users apart to a rule. A user class of the app may hold more than is known here."""
    if user is None or type(user) is UserContext:
        return user and (str(user.id), frozenset(user.roles), frozenset(user.permissions))
    return id(user)


def _overlay(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        known = merged.get(key)
        merged[key] = _overlay(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _drop(signals: dict[str, Any], path: tuple[str, ...]) -> None:
    *above, last = path
    for segment in above:
        signals = signals.get(segment, {})
    signals.pop(last, None)
