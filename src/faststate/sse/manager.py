"""The open streams of a process, from their opening to their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from ..exceptions import IdentifierError
from ..scheduling.loops import running_loop
from ..scheduling.waits import Done
from ..scopes import Id, StateIdentifier
from ..state.reactive import ReactiveState
from ..state.schema import EVERYTHING_SHOWN
from ..wire.frames import reopen_frame
from ..wire.values import nest
from .changes import audience_of
from .connection import SSEConnection
from .fanout import Fanout
from .heartbeat import HEARTBEAT, Heartbeat
from .hooks import StreamHooks
from .writing import Writer

STALE_AFTER: Final = 300.0
"""Seconds without a write after which `cleanup_stale_connections` takes a connection for dead (the seed's number)."""

LAST_WRITE: Final = 2.0
"""Seconds that a write may still take when the streams are drained."""


class Index:
    """Connections by name. Lifetime: the manager.

    Most names have one connection: a set, of 216 bytes, is made only for several.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, SSEConnection | set[SSEConnection]] = {}

    def add(self, name: str, connection: SSEConnection) -> None:
        """Add a connection, which may be there already."""
        found = self._found.setdefault(name, connection)
        if isinstance(found, set):
            found.add(connection)
        elif found is not connection:
            self._found[name] = {found, connection}

    def discard(self, name: str, connection: SSEConnection) -> None:
        """Remove a connection, if it is there."""
        found = self._found.get(name)
        if found is connection:
            del self._found[name]
        elif isinstance(found, set):
            found.discard(connection)
            if not found:
                del self._found[name]

    def names(self) -> list[str]:
        """Return the names that have connections."""
        return list(self._found)

    def count(self, name: str) -> int:
        """Return the number of connections under a name."""
        found = self._found.get(name)
        return len(found) if isinstance(found, set) else int(found is not None)

    def named(self, name: str) -> list[SSEConnection]:
        """Return the connections under a name."""
        found = self._found.get(name)
        return list(found) if isinstance(found, set) else [found] if found is not None else []


class SSEManager:
    """All open connections of a process. Lifetime: the provider.

    `fanout` knows who follows which state, and writes changes to them. `heartbeat` and `max_age` (after which a page
    opens its stream again) are seconds.
    """

    def __init__(
        self, hooks: StreamHooks | None = None, *, heartbeat: float = HEARTBEAT, max_age: float = 3_600.0
    ) -> None:
        self.connections: dict[str, SSEConnection] = {}
        self.hooks = hooks or StreamHooks()
        self.fanout = Fanout(self.hooks, self.connections)
        self.of_user = Index()
        self.of_session = Index()
        self.of_address = Index()
        self.behind: dict[SSEConnection, float] = {}
        """Connections that have not taken what was written, and since when (the loop's time)."""
        self.draining = False
        self.total = 0
        self.cut = 0
        self.heartbeat = Heartbeat(self.fanout, heartbeat, max_age, lambda old: self.dismiss(old, reopen_frame()))
        self._unwritten: dict[SSEConnection, None] = {}  # connections that no response writes to, yet or any more
        self._emptied: asyncio.Event | None = None

    # -- from the opening to the end of a stream -------------------------------------------------------------------

    def announce(self, connection: SSEConnection) -> None:
        """Register a connection that follows nothing yet: what ends the streams of its user or session ends it too.

        So it is while its user is being asked about; `add_connection` then says what it follows.
        """
        self.connections[connection.id] = connection
        if connection.writer is None:
            self._unwritten[connection] = None
        for index, name in self._indexes(connection):
            index.add(name, connection)

    def add_connection(
        self,
        connection: SSEConnection,
        state_keys: Iterable[str],
        views: Mapping[str, Iterable[str]] | None = None,
        hidden: Mapping[str, frozenset[str]] | None = None,
        begins: Mapping[str, ReactiveState] | None = None,
    ) -> None:
        """Register a connection that follows `state_keys`.

        By key, `views` names the views it shows and `hidden` the fields that its user may not see. `begins` holds the
        snapshots that the user was asked about, where these are not the newest. An older one is not sent, since
        nobody has asked whether it may be.
        """
        self.announce(connection)
        connection.sender = self.fanout
        self.total += 1
        for key in state_keys:
            shows, misses = frozenset((views or {}).get(key, ())), (hidden or {}).get(key, EVERYTHING_SHOWN)
            self.fanout.follow(connection, key, audience_of(shows, misses), (begins or {}).get(key))

    def attach(self, connection: SSEConnection, writer: Writer) -> None:
        """Let `writer` write what the connection has to be sent, from here to its end."""
        loop = asyncio.get_running_loop()
        self.fanout.use_loop(loop)
        if connection.id not in self.connections:
            self.announce(connection)  # removed while its response began: it is there until that has ended
        connection.writer = writer
        self._unwritten.pop(connection, None)
        self.heartbeat.add(connection, loop)
        if connection.waits or connection.closed:
            writer.wake()

    def remove_connection(self, connection_id: str) -> bool:
        """Forget a connection and end its stream; return False if it is not known. Costs only what it follows."""
        if not self.fanout.is_home(running_loop()):
            is_known = connection_id in self.connections
            self.fanout.on_loop(partial(self.remove_connection, connection_id))
            return is_known
        connection = self.connections.pop(connection_id, None)
        if connection is None:
            return False
        self.fanout.forget(connection)
        for index, name in self._indexes(connection):
            index.discard(name, connection)
        self.heartbeat.discard(connection)
        self._unwritten.pop(connection, None)
        connection.close()
        self.behind.pop(connection, None)  # its end need not be waited for
        if not self.connections:
            self.heartbeat.stop()
            if self._emptied is not None:
                self._emptied.set()
        return True

    def _indexes(self, connection: SSEConnection) -> Iterator[tuple[Index, str]]:
        if connection.user_id is not None:
            yield self.of_user, str(connection.user_id)
        if connection.session_id is not None:
            yield self.of_session, connection.session_id
        if connection.address:
            yield self.of_address, connection.address

    def connections_of(self, *, user_id: Id | None = None, session_id: str | None = None) -> list[SSEConnection]:
        """Return the open connections of a user, or of a session."""
        return self.of_user.named(str(user_id)) if user_id is not None else self.of_session.named(session_id or "")

    def silence(self, connection: SSEConnection) -> None:
        """Send a connection nothing more, from now on; it stays open, to be closed with a last frame."""
        self.fanout.forget(connection)
        connection.silent = True

    def dismiss(self, connection: SSEConnection, last_frame: bytes = b"") -> None:
        """End a connection with `last_frame` and nothing else that waited."""
        self.fanout.on_loop(partial(self._dismiss, connection, last_frame))

    def _dismiss(self, connection: SSEConnection, last_frame: bytes) -> None:
        self.silence(connection)
        connection.close(last_frame)
        if connection.writer is not None:
            connection.writer.hurry(LAST_WRITE)
        else:
            self.remove_connection(connection.id)

    # -- who follows what ------------------------------------------------------------------------------------------

    def unfollow(self, connection: SSEConnection, key: str) -> None:
        """Make a connection follow a state no more, and drop what waited of it."""
        if (topic := connection.topic(key)) is not None:
            self.fanout.leave(connection, topic)
        connection.forget(key)

    def hold(self, connection: SSEConnection, key: str) -> None:
        """Send a connection nothing more of a state until it is released, and drop what waited of it."""
        if (topic := connection.topic(key)) is not None:
            topic.hold(connection)
            connection.forget(key)

    def is_held(self, connection: SSEConnection, key: str) -> bool:
        """Tell whether a connection follows a state and is sent nothing of it."""
        topic = connection.topic(key)
        return topic is not None and topic.is_held(connection)

    def release(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Send a connection that was held the snapshot `state`, the newest, and then what is committed later."""
        key = state._committed.identifier.key
        topic = connection.topic(key)
        if topic is None or not topic.is_held(connection):
            return
        topic.release(connection)
        if topic.changes is not None or self.hooks.is_undecided(key):
            topic.begin_with(connection, state)  # the others are still to be sent it, or asked about it
        connection.notify(key, None)

    def is_watched(self, key: str) -> bool:
        """True if any connection follows the state `key`."""
        return key in self.fanout.topics

    def watchers(self, key: str) -> list[SSEConnection]:
        """Return the connections that follow `key`."""
        topic = self.fanout.topics.get(key)
        return list(topic.connections) if topic is not None else []

    def active_watchers(self, key: str) -> list[SSEConnection]:
        """Return the connections that follow `key` and are not held."""
        return [connection for connection in self.watchers(key) if not self.is_held(connection, key)]

    @property
    def state_subscriptions(self) -> dict[str, set[str]]:
        """The ids of the connections that follow each state, by its key."""
        return {key: {connection.id for connection in topic.connections} for key, topic in self.fanout.topics.items()}

    @property
    def lag(self) -> float:
        """Seconds since the reader who is furthest behind has taken what was written; 0.0 if nobody is behind."""
        if not self.behind or self.fanout.loop is None:
            return 0.0
        return self.fanout.loop.time() - next(iter(self.behind.values()))  # the first to fall behind comes first

    # -- values that are sent, not committed -----------------------------------------------------------------------

    def broadcast_to_state(self, state_key: str, data: Mapping[str, Any], exclude_user: Id | None = None) -> Done[int]:
        """Send signals (a dict of field to value) of the state `state_key` to all that follow it; return their number.

        The values are sent, not kept: the state does not change. `exclude_user` leaves out that user's connections; a
        field that a viewer may not see is left out for that viewer. The values are queued when the call returns, behind
        the commits whose viewers are just being asked about; the result may be awaited, and need not be. Raises
        `IdentifierError` for a text that is not a key.
        """
        StateIdentifier.parse(state_key)
        self.hooks.spread(state_key, data, exclude_user)
        return self.broadcast_here(state_key, data, exclude_user)

    def broadcast_here(self, state_key: str, data: Mapping[str, Any], exclude_user: Id | None = None) -> Done[int]:
        """As `broadcast_to_state`, but only to the connections of this process."""
        path = StateIdentifier.parse(state_key).namespace
        data = dict(data)
        reached = [
            connection
            for connection in self.watchers(state_key)
            if not connection.closed and (exclude_user is None or str(connection.user_id) != str(exclude_user))
        ]

        def send() -> None:
            state = self.hooks.latest(state_key)
            never = type(state)._fs_schema().hidden if state is not None else frozenset()
            for connection in reached:
                topic = connection.topic(state_key)
                if connection.closed or topic is None or topic.is_held(connection):
                    continue
                hidden = topic.connections[connection].hidden
                values = {name: value for name, value in data.items() if name not in hidden and name not in never}
                connection.send_event(nest(path, values))

        def send_in_turn() -> None:
            for connection in self.watchers(state_key):
                if connection.closed and connection.writer is None:
                    self.remove_connection(connection.id)
            if not self.hooks.postpone(state_key, send):
                send()

        self.fanout.on_loop(send_in_turn)
        return Done(len(reached))

    # -- the stale, and the end of all -----------------------------------------------------------------------------

    def cleanup_stale_connections(self, older_than: float = STALE_AFTER) -> Done[int]:
        """Remove connections that have ended, or took nothing for `older_than` seconds; return their number.

        Only connections without a response are looked at, so it costs as much as there are of these: where a response
        writes the stream, each write has a time limit, and heartbeats follow.
        """
        cutoff = datetime.now(UTC) - timedelta(seconds=older_than)
        stale = [connection.id for connection in self._unwritten if connection.closed or connection.last_ping < cutoff]
        for connection_id in stale:
            self.remove_connection(connection_id)
        return Done(len(stale))

    def drain(self) -> None:
        """End all streams, for good: those that come back are answered 503 until the process is gone."""
        self.draining = True
        for connection in list(self.connections.values()):
            connection.close()
            if connection.writer is not None:
                self.fanout.on_loop(partial(connection.writer.hurry, LAST_WRITE))

    async def stop(self, within: float = 5.0) -> None:
        """Drain, and wait up to `within` seconds until the streams have ended."""
        self.drain()
        for connection in list(self.connections.values()):
            if not connection.streaming:
                self.remove_connection(connection.id)
        if self.connections:
            self._emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._emptied.wait()


class StateEventHandler:
    """Sends a change to all who see it by the scope of its key. Lifetime: the provider.

    A key of any scope names exactly the states of those who share it (all sessions of a user have one key), so to
    follow the key is to be in the scope.
    """

    def __init__(self, sse_manager: SSEManager, state_provider: Any = None) -> None:
        self.sse_manager = sse_manager
        self.state_provider = state_provider

    def handle_state_change(
        self, state_key: str, changed_data: Mapping[str, Any], user_id: Id | None = None
    ) -> Awaitable[int]:
        """Send changed fields of `state_key` to all that follow it; return the number of connections (int).

        `user_id` names the user who made the change; everybody sees it, that user's other tabs too. The result may be
        awaited, and need not be. Raises `IdentifierError` for a text that is not a key.
        """
        if not state_key:
            raise IdentifierError("the state key is empty")
        return self.sse_manager.broadcast_to_state(state_key, changed_data)
