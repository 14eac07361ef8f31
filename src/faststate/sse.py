"""Connections and fan-out: who follows which state, what each still has to be sent, and the frames themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from .auth import UserContext
from .exceptions import ConnectionClosedError, IdentifierError
from .fields import EVERYTHING_SHOWN, Schema
from .scopes import Id, StateIdentifier
from .state import ReactiveState
from .views import ATTRIBUTE
from .wire import elements_frame, nest, patch_steps, signals_frame, to_wire

__all__ = ["CommitLike", "Done", "SSEConnection", "SSEManager", "StateEventHandler", "snapshot_frame", "vanish_frame"]

logger = logging.getLogger("faststate")

HEARTBEAT: Final = 15.0
"""Seconds between two signs of life on a quiet stream; proxies commonly cut after 30 to 60 quiet seconds."""

STALE_AFTER: Final = 300.0
"""Seconds without a write after which `cleanup_stale_connections` takes a connection for dead (the seed's number)."""

LAST_WRITE: Final = 2.0
"""Seconds that a write may still take when the streams are drained."""

MAX_MESSAGES: Final = 256
"""Frames (events' own fragments) that may wait for one connection; the oldest gives way to the newest."""


class Done:
    """The result of something already done, which may be awaited and need not be."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, int]:
        return self.value
        yield

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, Done) else other)

    __hash__ = None  # type: ignore[assignment]  # equal to ints, hashed by nobody


class CommitLike(Protocol):
    """What the fan-out needs of a commit: the snapshots around it, what changed, and a place for shared frames."""

    old: ReactiveState
    new: ReactiveState
    delta: dict[str, Any]
    number: int
    views: dict[frozenset[str], set[str]]
    frames: dict[Any, bytes]


class SSEConnection:
    """One open stream of one page, and its outbox. Lifetime: the HTTP response, or until the manager removes it.

    The outbox holds per state either one commit to send as it is, or the note that only a snapshot will do; so it is
    bounded by the number of states that the page shows. `response_stream` is anything that is not None while the
    connection is open; the library's own streams pass themselves. `user` is the one who opened it, `rights` what tells
    two users apart (a hashable), `hidden` per state what this user may not see of it, `begins` the snapshot that they
    were asked about when the stream was opened: an older one is not sent, since nobody has asked whether it may be.
    """

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
        self.subscribed_states: set[str] = set()
        self.views: dict[str, frozenset[str]] = {}
        self.hidden: dict[str, frozenset[str]] = {}
        self.begins: dict[str, ReactiveState] = {}
        self.last_frame = b""
        self.silent = False
        self.sequences: dict[str, int] = {}  # per state: the number of the page's last event that set bound fields
        self.write_limit: asyncio.Timeout | None = None
        self.coalesced = 0
        self.dropped = 0
        self.sent_bytes = 0
        self._pending: dict[str, CommitLike | None] = {}
        self._echoes: dict[str, Mapping[str, Any]] = {}
        self._messages: list[bytes] = []
        self._signals: dict[str, Any] = {}
        self._lock = threading.Lock()  # sync code may broadcast from a thread of its own
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def closed(self) -> bool:
        """True once the connection has ended."""
        return self.stream is None

    @property
    def streaming(self) -> bool:
        """True once a response writes what waits here."""
        return self._loop is not None

    def close(self, last_frame: bytes = b"") -> None:
        """Ends the connection; its stream finishes on its own task, and writes `last_frame` before it does."""
        self.last_frame = self.last_frame or last_frame
        self.stream = None
        self.wake()

    def hurry(self) -> None:
        """Gives a write that is under way `LAST_WRITE` seconds: who takes nothing must not hold the end up."""
        if self.write_limit is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is running out just now
                self.write_limit.reschedule(self._loop.time() + LAST_WRITE)

    def forget(self, key: str | None = None) -> None:
        """Drops what waits of the state `key`, or all that waits."""
        with self._lock:
            if key is None:
                self._pending, self._echoes, self._messages, self._signals = {}, {}, [], {}
            else:
                self._pending.pop(key, None)
                self._echoes.pop(key, None)
                _drop(self._signals, StateIdentifier.parse(key).namespace)

    def wake(self) -> None:
        """Tells the stream's task that there is something to do; from any thread."""
        loop = self._loop
        if loop is None or _running_loop() is loop:
            self._wake.set()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._wake.set)

    def send_event(self, event_data: Mapping[str, Any]) -> Done:
        """Queues signals (a nested dict) for this connection; they are merged with what waits there already.

        Raises `ConnectionClosedError` when the connection has ended. Awaiting the result is possible and not needed.
        """
        if self.closed:
            raise ConnectionClosedError(f"the connection {self.id} has ended")
        values = to_wire_deep(event_data)
        with self._lock:
            self._signals = _overlay(self._signals, values)
        self.wake()
        return Done(1)

    def send_frame(self, frame: bytes) -> None:
        """Queues an SSE event (bytes) behind all that waits.

        Beyond `MAX_MESSAGES` all that waits is dropped, counted, and made up for by snapshots. Raises
        `ConnectionClosedError` when the connection has ended.
        """
        if self.closed:
            raise ConnectionClosedError(f"the connection {self.id} has ended")
        # What waits was committed before this fragment was made, and must not overtake it.
        with self._lock:
            self._queue([*self._drain_states(), frame])
        self.wake()

    def _queue(self, frames: Iterable[bytes]) -> None:
        self._messages.extend(frames)
        if len(self._messages) > MAX_MESSAGES:
            self.dropped += len(self._messages)
            self._messages = []
            self._pending = dict.fromkeys(self.subscribed_states)

    def notify(self, key: str, commit: CommitLike | None, echo: Mapping[str, Any] | None = None) -> None:
        """Queues a commit of the state `key`, or (None) a snapshot of it.

        `echo` are the fields (name to wire value) which this page itself has just set, and need not be told.
        """
        with self._lock:
            begins = self.begins.get(key)
            if begins is not None and commit is not None:
                if commit.new._committed.commit <= begins._committed.commit:
                    return
                del self.begins[key]
            if self._signals:
                # Values that were only sent, not kept: the commit comes after them, and has the last word.
                sent, self._signals = self._signals, {}
                self._queue([*self._drain_states(), signals_frame(sent)])
            if key in self._pending:
                self._pending[key] = None
                self._echoes.pop(key, None)
                self.coalesced += 1
            else:
                self._pending[key] = commit
                if echo:
                    self._echoes[key] = echo
        self.wake()

    def drain(self) -> bytes:
        """Everything that waits, as bytes to write (empty when nothing does), states first."""
        with self._lock:
            frames = [*self._messages, *self._drain_states()]
            self._messages = []
            if self._signals:
                frames.append(signals_frame(self._signals))
                self._signals = {}
        return b"".join(frames)

    def _drain_states(self) -> list[bytes]:
        frames = []
        for key, commit in self._pending.items():
            views = self.views.get(key, frozenset())
            hidden = self.hidden.get(key, EVERYTHING_SHOWN)
            if commit is None:
                state, begins = self._latest(key), self.begins.get(key)
                if begins is not None and (state is None or state._committed.commit < begins._committed.commit):
                    state = begins
                if state is not None:
                    frames.append(snapshot_frame(state._seen(hidden), views))
            else:
                frames.append(change_frame(commit, views, self._echoes.get(key), hidden))
        self._pending = {}
        self._echoes = {}
        return frames

    _latest: Callable[[str], ReactiveState | None] = staticmethod(lambda key: None)

    async def wait(self, seconds: float) -> bool:
        """Waits up to `seconds` until there is something to send or the connection ends; False on time-out."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def __repr__(self) -> str:
        return f"<SSEConnection {self.id} on {len(self.subscribed_states)} states>"


def _rights_of(user: UserContext | None) -> Any:
    """What tells two users apart to a rule: the app's own kind of user may know more of them than is known here."""
    if user is None or type(user) is UserContext:
        return user and (str(user.id), frozenset(user.roles), frozenset(user.permissions))
    return id(user)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def to_wire_deep(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as wire values, at every depth."""
    return {str(key): to_wire(value) for key, value in data.items()}


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


def view_frames(state: ReactiveState, views: Iterable[str]) -> bytes:
    """Frames (bytes) that bring the named views of `state` up to date wherever they stand in the page."""
    known = type(state)._fs_schema().views
    path = ".".join(state._committed.namespace)
    frames = []
    for name in sorted(views):
        if name in known:
            try:
                html = state._render(known[name])
            except Exception:
                logger.exception("the view %s.%s failed; pages keep the one they show", type(state).__name__, name)
                if not state._hidden_here:
                    continue
                # What such a page shows may be from when its user could see more.
                html = _placeholder(f"{path}.{name}")
            frames.append(elements_frame(html, f'[{ATTRIBUTE}="{path}.{name}"]'))
    return b"".join(frames)


def snapshot_frame(state: ReactiveState, views: frozenset[str]) -> bytes:
    """The frames (bytes) that bring a page to `state`, whatever it shows; made once per commit and set of views."""
    committed = state._committed
    frame = committed.frames.get(views)
    if frame is None:
        path = committed.namespace
        # Datastar merges dicts: what such a signal holds is cleared first, so that removed keys are gone.
        stale = {name: "" for name, value in committed.encoded.items() if isinstance(value, dict)}
        frame = signals_frame(nest(path, stale)) if stale else b""
        if committed.encoded:
            frame += signals_frame(nest(path, committed.encoded))
        frame = committed.frames[views] = frame + view_frames(state, views)
    return frame


def change_frame(
    commit: CommitLike,
    views: frozenset[str],
    echo: Mapping[str, Any] | None = None,
    hidden: frozenset[str] = EVERYTHING_SHOWN,
) -> bytes:
    """The frames (bytes) of one commit for a page that showed the snapshot before it.

    They are made once, and shared by all pages of viewers from whom the same fields are `hidden`.
    """
    frame = commit.frames.get((views, hidden)) if not echo else None
    if frame is None:
        new = commit.new._committed
        delta = {name: value for name, value in commit.delta.items() if name not in hidden} if hidden else commit.delta
        if echo:
            # The page set these itself: sending them back would overwrite what is being typed by now.
            delta = {name: value for name, value in delta.items() if name not in echo or echo[name] != value}
        steps = patch_steps(commit.old._committed.encoded, delta, new.encoded)
        frame = b"".join(signals_frame(nest(new.namespace, step)) for step in steps)
        frame += view_frames(commit.new._seen(hidden), views & commit.views.get(hidden, set()))
        if not echo:
            commit.frames[views, hidden] = frame
    return frame


def vanish_frame(schema: Schema, namespace: tuple[str, ...], views: Iterable[str]) -> bytes:
    """The frames (bytes) after which a page shows nothing more of a state: empty signals, and nothing in its views."""
    frame = signals_frame(nest(namespace, dict.fromkeys(schema.signals, ""))) if schema.signals else b""
    for name in sorted(views):
        address = f"{'.'.join(namespace)}.{name}"
        frame += elements_frame(_placeholder(address), f'[{ATTRIBUTE}="{address}"]')
    return frame


def _placeholder(address: str) -> str:
    """What keeps the place of a view that may not be shown; it comes to life again with the right."""
    return f'<span {ATTRIBUTE}="{address}" hidden></span>'


class SSEManager:
    """All open connections of a process, and who follows which state. Lifetime: the provider.

    `latest` gives the committed snapshot under a key, or None; `position` the id (str) that a stream is at now.
    """

    def __init__(
        self,
        latest: Callable[[str], ReactiveState | None] = lambda key: None,
        position: Callable[[], str] = lambda: "",
    ) -> None:
        self.connections: dict[str, SSEConnection] = {}
        self.of_user: dict[str, set[str]] = {}
        self.of_session: dict[str, set[str]] = {}
        self.of_address: dict[str, set[str]] = {}
        self.state_subscriptions: dict[str, set[str]] = {}
        self.draining = False
        self.total = 0
        self.cut = 0
        self.coalesced = 0
        self.sent_bytes = 0
        self._latest = latest
        self._emptied: asyncio.Event | None = None
        self.position = position
        self.postpone: Callable[[str, Callable[[], object]], bool] = lambda key, send: False
        """Takes a broadcast of a state (its key) whose followers are being asked for rights: True where it did."""
        self.unwatched: Callable[[str], None] = lambda key: None
        """Told of a state (its key) whose last follower has gone."""

    def announce(self, connection: SSEConnection) -> None:
        """Makes a connection known, which follows nothing yet: what ends its user's or session's streams ends it too.

        While its user is being asked about, that is; `add_connection` says what it follows.
        """
        self.connections[connection.id] = connection
        for index, name in self._indexes(connection):
            index.setdefault(name, set()).add(connection.id)

    def add_connection(
        self,
        connection: SSEConnection,
        state_keys: Iterable[str],
        views: Mapping[str, Iterable[str]] | None = None,
        hidden: Mapping[str, frozenset[str]] | None = None,
        begins: Mapping[str, ReactiveState] | None = None,
    ) -> None:
        """Registers a connection that follows `state_keys`.

        By key, `views` names the views it shows, `hidden` the fields that its user may not see, and `begins` holds the
        snapshots that the user was asked about.
        """
        self.announce(connection)
        connection.hidden = dict(hidden or {})
        connection.begins = dict(begins or {})
        connection._latest = self._latest
        self.total += 1
        for key in state_keys:
            connection.subscribed_states.add(key)
            connection.views[key] = frozenset((views or {}).get(key, ()))
            self.state_subscriptions.setdefault(key, set()).add(connection.id)

    def remove_connection(self, connection_id: str) -> bool:
        """Forgets a connection and ends its stream; False when it is not known. Costs what it follows, no more."""
        connection = self.connections.pop(connection_id, None)
        if connection is None:
            return False
        for key in connection.subscribed_states:
            if _discard(self.state_subscriptions, key, connection_id):
                self.unwatched(key)
        for index, name in self._indexes(connection):
            _discard(index, name, connection_id)
        self.coalesced += connection.coalesced
        self.sent_bytes += connection.sent_bytes
        connection.close()
        if self._emptied is not None and not self.connections:
            self._emptied.set()
        return True

    def _indexes(self, connection: SSEConnection) -> Iterator[tuple[dict[str, set[str]], str]]:
        if connection.user_id is not None:
            yield self.of_user, str(connection.user_id)
        if connection.session_id is not None:
            yield self.of_session, connection.session_id
        if connection.address:
            yield self.of_address, connection.address

    def connections_of(self, *, user_id: Id | None = None, session_id: str | None = None) -> list[SSEConnection]:
        """The open connections of a user, or of a session."""
        ids = self.of_user.get(str(user_id), ()) if user_id is not None else self.of_session.get(session_id or "", ())
        return [self.connections[id] for id in ids]

    def unfollow(self, connection: SSEConnection, key: str) -> None:
        """Has a connection no more be told of a state; what waited of it is dropped."""
        if _discard(self.state_subscriptions, key, connection.id):
            self.unwatched(key)
        connection.subscribed_states.discard(key)
        connection.begins.pop(key, None)
        connection.forget(key)

    def silence(self, connection: SSEConnection) -> None:
        """Has a connection be told nothing more, at once; it stays open to be closed with a last frame."""
        for key in list(connection.subscribed_states):
            self.unfollow(connection, key)
        connection.forget()
        connection.silent = True

    def dismiss(self, connection: SSEConnection, last_frame: bytes = b"") -> None:
        """Ends a connection with `last_frame` and nothing else that waited."""
        self.silence(connection)
        connection.close(last_frame)
        connection.hurry()
        if not connection.streaming:
            self.remove_connection(connection.id)

    def is_watched(self, key: str) -> bool:
        """True when any connection follows the state `key`."""
        return key in self.state_subscriptions

    def watchers(self, key: str) -> list[SSEConnection]:
        """The connections that follow `key`."""
        ids = self.state_subscriptions.get(key, ())
        return [self.connections[id] for id in ids if id in self.connections]

    def publish(self, commit: CommitLike, origin: str | None = None, echo: Mapping[str, Any] | None = None) -> int:
        """Queues a commit for all that follow its state, says for how many. `origin` is the connection it is from."""
        key = commit.new._committed.identifier.key
        watchers = self.watchers(key)
        if not watchers:
            return 0
        shown: dict[frozenset[str], set[str]] = {}
        for connection in watchers:
            if views := connection.views[key]:
                shown.setdefault(connection.hidden.get(key, EVERYTHING_SHOWN), set()).update(views)
        for hidden, names in shown.items():
            self._note_changed_views(commit, hidden, names)
        if not commit.delta and not commit.views:
            return 0
        for connection in watchers:
            connection.notify(key, commit, echo if connection.id == origin else None)
        return len(watchers)

    def _note_changed_views(self, commit: CommitLike, hidden: frozenset[str], names: Iterable[str]) -> None:
        known = type(commit.new)._fs_schema().views
        new = commit.new._seen(hidden)
        before = commit.old._seen(hidden)._committed.views
        for name in names:
            if name not in known:
                continue
            try:
                html = new._render(known[name])
            except Exception:
                logger.exception("the view %s failed; pages keep the one they show", known[name].function.__qualname__)
                continue
            if before.get(name) != html:
                commit.views.setdefault(hidden, set()).add(name)

    def broadcast_to_state(self, state_key: str, data: Mapping[str, Any], exclude_user: Id | None = None) -> Done:
        """Sends signals (a dict of field to value) of the state `state_key` to all that follow it; returns how many.

        The values are sent, not kept: the state does not change. `exclude_user` leaves out that user's connections; a
        field that a viewer may not see is left out for that viewer. Queued when the call returns, behind the commits
        that viewers are just being asked about; the result may be awaited, and need not be. Raises `IdentifierError`
        for a text that is no key.
        """
        path = StateIdentifier.parse(state_key).namespace
        data = dict(data)

        for connection in self.watchers(state_key):
            if connection.closed:
                self.remove_connection(connection.id)
        reached = [
            connection
            for connection in self.watchers(state_key)
            if exclude_user is None or str(connection.user_id) != str(exclude_user)
        ]

        def send() -> None:
            state = self._latest(state_key)
            never = type(state)._fs_schema().hidden if state is not None else frozenset()
            for connection in reached:
                if connection.closed or state_key not in connection.subscribed_states:
                    continue
                hidden = connection.hidden.get(state_key, EVERYTHING_SHOWN)
                values = {name: value for name, value in data.items() if name not in hidden and name not in never}
                connection.send_event(nest(path, values))

        if not self.postpone(state_key, send):
            send()
        return Done(len(reached))

    def cleanup_stale_connections(self, older_than: float = STALE_AFTER) -> Done:
        """Removes connections that have ended, or took nothing for `older_than` seconds; returns how many."""
        cutoff = datetime.now(UTC) - timedelta(seconds=older_than)
        stale = [c.id for c in self.connections.values() if c.closed or c.last_ping < cutoff]
        for connection_id in stale:
            self.remove_connection(connection_id)
        return Done(len(stale))

    def drain(self) -> None:
        """Ends all streams, for good: those that come back are answered 503 until the process is gone."""
        self.draining = True
        for connection in list(self.connections.values()):
            connection.close()
            connection.hurry()

    async def stop(self, within: float = 5.0) -> None:
        """Drains, and waits up to `within` seconds until the streams have ended."""
        self.drain()
        for connection in list(self.connections.values()):
            if not connection.streaming:
                self.remove_connection(connection.id)
        if self.connections:
            self._emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._emptied.wait()


def _discard(index: dict[str, set[str]], name: str, connection_id: str) -> bool:
    """Takes a connection out of an index; True when it was the last one under its name."""
    ids = index.get(name)
    if ids is None:
        return False
    ids.discard(connection_id)
    if ids:
        return False
    del index[name]
    return True


class StateEventHandler:
    """Routes a change to those whom the scope of its key makes see it. Lifetime: the provider.

    A key of any scope names exactly the states of those who share it (all sessions of a user have one key), so routing
    by scope is following the key.
    """

    def __init__(self, sse_manager: SSEManager, state_provider: Any = None) -> None:
        self.sse_manager = sse_manager
        self.state_provider = state_provider

    def handle_state_change(
        self, state_key: str, changed_data: Mapping[str, Any], user_id: Id | None = None
    ) -> Awaitable[int]:
        """Sends changed fields of `state_key` to all that follow it; returns how many connections (int).

        `user_id` names whose change it was; everybody sees it, that user's other tabs too. May be awaited, and need not
        be. Raises `IdentifierError` for a text that is no key.
        """
        if not state_key:
            raise IdentifierError("the state key is empty")
        return self.sse_manager.broadcast_to_state(state_key, changed_data)
