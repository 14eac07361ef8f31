"""Fan-out: who follows which state, and one loop over them when it has changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import uniform
from typing import Any, Final, cast

from .._compat.asyncio import running_loop
from ..exceptions import IdentifierError
from ..scopes import Id, StateIdentifier
from ..state.reactive import ReactiveState
from ..state.schema import EVERYTHING_SHOWN
from ..wire.values import nest
from .audience import Audience, audience_of
from .changes import Changes, CommitLike
from .connection import Done, SSEConnection
from .topics import Index, Joined, Sending, Topic, is_newer
from .writing import Chunk, Writer

__all__ = ["LAST_WRITE", "SSEManager", "StateEventHandler"]

logger = logging.getLogger("faststate")

HEARTBEAT: Final = 15.0
"""Seconds between two signs of life on a stream; proxies commonly cut after 30 to 60 quiet seconds."""

BEAT_TICK: Final = 0.25
"""Seconds, at least, between two groups of connections that are sent theirs: not all in one herd."""

STALE_AFTER: Final = 300.0
"""Seconds without a write after which `cleanup_stale_connections` takes a connection for dead (the seed's number)."""

LAST_WRITE: Final = 2.0
"""Seconds that a write may still take when the streams are drained."""

QUICK_FROM: Final = 64
"""Followers of a state from which on those who keep up are written to without being asked."""

UNCHECKED: Final = 4_096
"""Bytes that may be written so before it is looked who still keeps up: what a reader who takes nothing may have waiting
beyond the limit of its transport's buffer, for each state that it follows."""

_BEAT: Final = Chunk(b": \n\n")
"""A comment: finds the dead, and keeps proxies from cutting a quiet stream."""


class SSEManager:
    """All open connections of a process, and who follows which state. Lifetime: the provider.

    Commits are noted with their state's topic, and at the end of the loop's turn one flush writes to all followers:
    several commits of one state as one change, the same bytes for all who show and may see the same. Who has not taken
    what came before gets an outbox, and is sent the newest alone when it takes something again. So a change costs one
    write for each of its state's followers, and nothing for anybody else.

    `latest` gives the committed snapshot under a key, or None; `position` the id (str) that a stream is at now.
    `heartbeat` and `max_age` (after which a page opens its stream anew) are seconds. All of it happens on the event
    loop that writes the streams; what other threads send or commit is handed to it, in their order.
    """

    def __init__(
        self,
        latest: Callable[[str], ReactiveState | None] = lambda key: None,
        position: Callable[[], str] = lambda: "",
        *,
        heartbeat: float = HEARTBEAT,
        max_age: float = 3_600.0,
        reopen: bytes = b"",
    ) -> None:
        self.connections: dict[str, SSEConnection] = {}
        self.of_user = Index()
        self.of_session = Index()
        self.of_address = Index()
        self.behind: dict[SSEConnection, float] = {}
        """Connections that have not taken what was written, and since when (the loop's time)."""
        self.draining = False
        self.total = 0
        self.cut = 0
        self.sent_bytes = 0
        self.subscriptions = 0
        """How many states all connections follow together."""
        self.coalesced = 0
        """How many changes were sent together with a later one of their state, counted for each connection."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.position = position
        self.postpone: Callable[[str, Callable[[], object]], bool] = lambda key, send: False
        """Takes a broadcast of a state (its key) whose followers are being asked for rights: True where it did."""
        self.is_undecided: Callable[[str], bool] = lambda key: False
        """Whether commits of a state (its key) are still to be published, which somebody may have begun with."""
        self.unwatched: Callable[[str], None] = lambda key: None
        """Told of a state (its key) whose last follower has gone."""
        self.watched: Callable[[str], None] = lambda key: None
        """Told of a state (its key) that has its first follower."""
        self.spread: Callable[[str, Mapping[str, Any], Id | None], None] = lambda key, values, but_user: None
        """Told of values that were broadcast to a state's followers, but to those of one user."""
        self._latest = latest
        self._reopen = reopen
        self._max_age = max_age
        self._topics: dict[str, Topic] = {}
        self._changed: dict[Topic, None] = {}
        self._alone: dict[SSEConnection, None] = {}  # who has something in an outbox, and may be sent it
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._handed: dict[int, None] = {}  # commits (their numbers) that another thread has handed to the loop
        self._unwritten: dict[SSEConnection, None] = {}  # connections that no response writes to, yet or any more
        self._emptied: asyncio.Event | None = None
        period = min(heartbeat, max_age / 4)
        self._slots: list[dict[SSEConnection, None]] = [{} for _ in range(max(1, min(64, int(period / BEAT_TICK))))]
        self._tick = period / len(self._slots)
        self._next_slot = count()
        self._beats: asyncio.TimerHandle | None = None
        self._beating = 0

    # -- who is there ----------------------------------------------------------------------------------------------

    def announce(self, connection: SSEConnection) -> None:
        """Makes a connection known, which follows nothing yet: what ends its user's or session's streams ends it too.

        While its user is being asked about, that is; `add_connection` says what it follows.
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
        """Registers a connection that follows `state_keys`.

        By key, `views` names the views it shows, `hidden` the fields that its user may not see, and `begins` holds the
        snapshots that the user was asked about, where that is not the state as it is: an older one is not sent, since
        nobody has asked whether it may be.
        """
        self.announce(connection)
        connection.manager = self
        self.total += 1
        for key in state_keys:
            topic = self._topics.get(key)
            if topic is None:
                topic = self._topics[key] = Topic(key, self._latest)
                self.watched(key)
            shows, misses = frozenset((views or {}).get(key, ())), (hidden or {}).get(key, EVERYTHING_SHOWN)
            self.subscriptions += connection not in topic.connections
            topic.join(connection, audience_of(shows, misses))
            connection.topics += (topic,)
            if topic.changes is not None or self.is_undecided(key):
                begun_with = (begins or {}).get(key) or self._latest(key)
                if begun_with is not None:
                    topic.begin_with(connection, begun_with)

    def attach(self, connection: SSEConnection, writer: Writer) -> None:
        """Has `writer` write what the connection has to be sent, from here to its end."""
        loop = asyncio.get_running_loop()
        if loop is not self.loop:
            self.loop, self._handed = loop, {}  # what was handed to one that has ended is nobody's any more
        if connection.id not in self.connections:
            self.announce(connection)  # removed while its response began: it is there until that has ended
        connection.writer = writer
        self._unwritten.pop(connection, None)
        connection.ends_at = loop.time() + self._max_age * uniform(0.9, 1)  # noqa: S311  # spread, not secret
        connection.slot = next(self._next_slot) % len(self._slots)
        self._slots[connection.slot][connection] = None
        if self._beats is None:
            self._beats = loop.call_later(self._tick, self._beat)
        if connection.waits or connection.closed:
            writer.wake()

    def remove_connection(self, connection_id: str) -> bool:
        """Forgets a connection and ends its stream; False when it is not known. Costs what it follows, no more."""
        if not self._is_home(running_loop()):
            is_known = connection_id in self.connections
            self.on_loop(partial(self.remove_connection, connection_id))
            return is_known
        connection = self.connections.pop(connection_id, None)
        if connection is None:
            return False
        for topic in connection.topics:
            self._leave(connection, topic)
        for index, name in self._indexes(connection):
            index.discard(name, connection)
        if connection.slot >= 0:
            self._slots[connection.slot].pop(connection, None)
        self._alone.pop(connection, None)
        self._unwritten.pop(connection, None)
        connection.close()
        self.behind.pop(connection, None)  # its end need not be waited for
        if not self.connections:
            if self._beats is not None:
                self._beats.cancel()
                self._beats = None
            if self._emptied is not None:
                self._emptied.set()
        return True

    def _leave(self, connection: SSEConnection, topic: Topic) -> None:
        connection.topics = tuple(left for left in connection.topics if left is not topic)
        self.subscriptions -= connection in topic.connections
        topic.leave(connection)
        if not topic.connections and self._topics.get(topic.key) is topic:
            del self._topics[topic.key]
            self._changed.pop(topic, None)
            self.unwatched(topic.key)

    def _indexes(self, connection: SSEConnection) -> Iterator[tuple[Index, str]]:
        if connection.user_id is not None:
            yield self.of_user, str(connection.user_id)
        if connection.session_id is not None:
            yield self.of_session, connection.session_id
        if connection.address:
            yield self.of_address, connection.address

    def connections_of(self, *, user_id: Id | None = None, session_id: str | None = None) -> list[SSEConnection]:
        """The open connections of a user, or of a session."""
        return self.of_user.named(str(user_id)) if user_id is not None else self.of_session.named(session_id or "")

    def unfollow(self, connection: SSEConnection, key: str) -> None:
        """Has a connection no more be told of a state; what waited of it is dropped."""
        if (topic := connection.topic(key)) is not None:
            self._leave(connection, topic)
        connection.forget(key)

    def hold(self, connection: SSEConnection, key: str) -> None:
        """Tells a connection nothing more of a state until it is released; what waited of it is dropped."""
        if (topic := connection.topic(key)) is not None:
            topic.hold(connection)
            connection.forget(key)

    def is_held(self, connection: SSEConnection, key: str) -> bool:
        """Tells whether a connection follows a state and is told nothing of it."""
        topic = connection.topic(key)
        return topic is not None and topic.is_held(connection)

    def release(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Sends a connection that was held the snapshot `state`, the newest, and what is committed from here on."""
        key = state._committed.identifier.key
        topic = connection.topic(key)
        if topic is None or not topic.is_held(connection):
            return
        topic.release(connection)
        if topic.changes is not None or self.is_undecided(key):
            topic.begin_with(connection, state)  # the others are still to be told, or asked about it
        connection.notify(key, None)

    def silence(self, connection: SSEConnection) -> None:
        """Has a connection be told nothing more, at once; it stays open to be closed with a last frame."""
        for topic in connection.topics:
            self._leave(connection, topic)
        connection.forget()
        connection.silent = True

    def dismiss(self, connection: SSEConnection, last_frame: bytes = b"") -> None:
        """Ends a connection with `last_frame` and nothing else that waited."""
        self.on_loop(partial(self._dismiss, connection, last_frame))

    def _dismiss(self, connection: SSEConnection, last_frame: bytes) -> None:
        self.silence(connection)
        connection.close(last_frame)
        if connection.writer is not None:
            connection.writer.hurry(LAST_WRITE)
        else:
            self.remove_connection(connection.id)

    def is_watched(self, key: str) -> bool:
        """True when any connection follows the state `key`."""
        return key in self._topics

    def watchers(self, key: str) -> list[SSEConnection]:
        """The connections that follow `key`."""
        topic = self._topics.get(key)
        return list(topic.connections) if topic is not None else []

    def told(self, key: str) -> list[SSEConnection]:
        """The connections that follow `key` and are not held."""
        topic = self._topics.get(key)
        if topic is None or topic.held is None:
            return self.watchers(key)
        return [connection for connection in topic.connections if not topic.is_held(connection)]

    @property
    def state_subscriptions(self) -> dict[str, set[str]]:
        """By key: the ids of the connections that follow the state."""
        return {key: {connection.id for connection in topic.connections} for key, topic in self._topics.items()}

    @property
    def lag(self) -> float:
        """Seconds for which the reader who is furthest behind has not taken what was written; 0.0 for none."""
        if not self.behind or self.loop is None:
            return 0.0
        return self.loop.time() - next(iter(self.behind.values()))  # who fell behind first comes first

    # -- fan-out ---------------------------------------------------------------------------------------------------

    def on_loop(self, call: Callable[[], object]) -> None:
        """Calls `call` on the loop that writes the streams: now where that is this one, or there is none."""
        if self._is_home(running_loop()):
            call()
        elif self.loop is not None:
            self.loop.call_soon_threadsafe(call)

    def _is_home(self, here: asyncio.AbstractEventLoop | None) -> bool:
        loop = self.loop
        return loop is None or here is loop or loop.is_closed() or not loop.is_running()

    def publish(self, commit: CommitLike, origin: str | None = None, echo: Mapping[str, Any] | None = None) -> int:
        """Has a commit be sent to all that follow its state, says how many (int) these are.

        `origin` is the id of the connection that it is from, which has set the fields `echo` itself.
        """
        topic = self._topics.get(commit.key)
        if topic is None:
            return 0
        here = running_loop()  # asked once: before Python 3.12 that is a call of the operating system
        if not self._handed and self._is_home(here):
            self._publish(here, topic, commit, origin, echo)
        else:
            # In the order of the commits: the loop's own come behind those that other threads have handed to it.
            number = commit.new._committed.commit
            self._handed[number] = None
            cast(asyncio.AbstractEventLoop, self.loop).call_soon_threadsafe(
                self._publish_handed, number, topic, commit, origin, echo
            )
        return len(topic.connections)

    def _publish_handed(self, number: int, *handed: Any) -> None:
        self._handed.pop(number, None)
        self._publish(running_loop(), *handed)

    def handed_over(self, number: int) -> int:
        """Up to which commit (its number) all have been handed to the streams' loop, when `number` is the last."""
        handed = tuple(self._handed) if self._handed else ()
        return min(number, min(handed) - 1) if handed else number

    def _publish(
        self,
        here: asyncio.AbstractEventLoop | None,
        topic: Topic,
        commit: CommitLike,
        origin: str | None,
        echo: Mapping[str, Any] | None,
    ) -> None:
        typing = self.connections.get(origin) if origin is not None and echo else None
        if typing is not None and typing in topic.connections and not topic.is_held(typing):
            topic.hand_over(typing)
            if is_newer(commit.new, topic.shown_by(typing) or commit.old):
                topic.begin_with(typing, commit.new)
                typing.notify(topic.key, Changes(commit.old, commit.new, commit.delta), echo)
        if topic.add(commit):
            self.coalesced += len(topic.connections)
        self._changed[topic] = None
        self._flush_on(here)

    def flush_soon(self, connection: SSEConnection | None = None) -> None:
        """Flushes at the end of the loop's turn; `connection` is one in whose outbox something waits."""
        if connection is not None:
            self._alone[connection] = None
        self._flush_on(running_loop())

    def _flush_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not None and self._scheduled is not loop:  # without a loop nothing streams
            self._scheduled = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes to all connections what they have to be sent by now. Called by the loop, outside of any task."""
        topics = list(self._changed)
        for topic in topics:
            if topic.ahead is not None:
                for connection in list(topic.ahead):
                    topic.hand_over(connection)
        # Behind that, since it may have put something into an outbox: nobody is told a part by the loop over all
        # followers, and with it the position, who is to be told the rest alone.
        alone: list[SSEConnection] = []
        if self._alone:
            for connection in list(self._alone):
                connection.take_commits()
            alone = list(self._alone)
            self._alone.clear()
        self._changed.clear()
        self._scheduled = None
        position = self.position_line()
        sendings = [topic.take() for topic in topics]
        if len(sendings) == 1:
            self._write_to_all(sendings[0], position, {})
        elif sendings:
            most = max(sendings, key=lambda sending: len(sending.topic.connections))
            joined = self._join([sending for sending in sendings if sending is not most], most)
            self._write_to_all(most, position, joined)
            for connection, parts in joined.items():
                if not self._write(connection, parts.chunk(position)):
                    for sending in sendings:
                        if connection in sending.topic.connections and connection not in sending.ahead:
                            connection.notify(sending.topic.key, sending.changes)
        for connection in alone:
            self._write_alone(connection)

    def _write(self, connection: SSEConnection, chunk: Chunk) -> bool:
        """Writes a chunk to one connection; False where its reader has not taken what came before, or none writes."""
        writer = connection.writer
        if writer is None or not writer.write(chunk):
            return False
        self.sent_bytes += len(chunk.body)
        return True

    def position_line(self) -> bytes:
        """The event (bytes) that tells a page how far it has been told."""
        # An event of its own behind all others: the client takes an id when it reads the line, so one that stood
        # before the data would be believed even when the data was cut off.
        return f"id: {self.position()}\n\n".encode()

    def _join(self, sendings: list[Sending], most: Sending) -> dict[SSEConnection, Joined]:
        """What is written to each follower of these states, with what it gets of the one that has the most followers.

        One write for each connection: half of an event over two states is never shown, and no position is told that
        goes for one of them alone.
        """
        nothing = Joined()
        joined: dict[SSEConnection, Joined] = {}
        for sending in sendings:
            frames: dict[Audience, bytes] = {}
            for connection, audience in sending.topic.connections.items():
                if connection in sending.ahead:
                    continue
                if audience not in frames:
                    frames[audience] = sending.frame(audience)
                if frame := frames[audience]:
                    joined[connection] = joined.get(connection, nothing).then(frame)
        for connection in joined:
            if connection in most.topic.connections and connection not in most.ahead:
                most.topic.slow_down(connection)
                if frame := most.frame(most.topic.connections[connection]):
                    joined[connection] = joined[connection].then(frame)
        return joined

    def _write_to_all(self, sending: Sending, position: bytes, others: Mapping[SSEConnection, object]) -> None:
        """Writes what has changed of a state to its followers, but for those who are ahead, and the `others`."""
        topic, ahead = sending.topic, sending.ahead
        if topic.quick is not None:
            for audience, writes in topic.quick.items():
                if writes and (chunk := sending.chunk(audience, position)) is not None:
                    _write_quickly(chunk.framed, tuple(writes.values()))
                    self.sent_bytes += len(chunk.body) * len(writes)
        known: Audience | None = None
        chunk = None
        sent = 0
        refused: list[SSEConnection] = []
        for connection in tuple(topic.connections if topic.rest is None else topic.rest):
            shows = topic.connections.get(connection)
            if shows is None or connection in ahead or connection in others:
                continue  # a middleware's `send` may end other streams
            if shows is not known:
                known, chunk = shows, sending.chunk(shows, position)
            if chunk is None:
                continue
            writer = connection.writer
            if writer is not None and writer.write(chunk):
                sent += len(chunk.body)
            else:
                refused.append(connection)
        self.sent_bytes += sent
        for connection in refused:
            if connection in topic.connections:
                connection.notify(topic.key, sending.changes)
        if topic.quick is not None or len(topic.connections) >= QUICK_FROM:
            written = (len(chunk.framed) for chunk in sending.chunks.values() if chunk is not None)
            topic.unchecked += max(written, default=0)
            if topic.quick is None or topic.unchecked > UNCHECKED:
                topic.sort()

    def _write_alone(self, connection: SSEConnection) -> None:
        writer = connection.writer
        if writer is None or connection.closed:
            return
        if not writer.ready:
            writer.wake()
        elif waiting := self.drain_for(connection):
            writer.write(Chunk(waiting))

    def drain_for(self, connection: SSEConnection) -> bytes:
        """All that waits for one connection, with the stream's position behind it; empty where nothing does."""
        waiting = connection.drain()
        if not waiting:
            return b""
        waiting += self.position_line()
        self.sent_bytes += len(waiting)
        return waiting

    def broadcast_to_state(self, state_key: str, data: Mapping[str, Any], exclude_user: Id | None = None) -> Done:
        """Sends signals (a dict of field to value) of the state `state_key` to all that follow it; returns how many.

        The values are sent, not kept: the state does not change. `exclude_user` leaves out that user's connections; a
        field that a viewer may not see is left out for that viewer. Queued when the call returns, behind the commits
        that viewers are just being asked about; the result may be awaited, and need not be. Raises `IdentifierError`
        for a text that is no key.
        """
        StateIdentifier.parse(state_key)
        self.spread(state_key, data, exclude_user)
        return self.broadcast_here(state_key, data, exclude_user)

    def broadcast_here(self, state_key: str, data: Mapping[str, Any], exclude_user: Id | None = None) -> Done:
        """As `broadcast_to_state`, to the connections of this process alone."""
        path = StateIdentifier.parse(state_key).namespace
        data = dict(data)
        reached = [
            connection
            for connection in self.watchers(state_key)
            if not connection.closed and (exclude_user is None or str(connection.user_id) != str(exclude_user))
        ]

        def send() -> None:
            state = self._latest(state_key)
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
            if not self.postpone(state_key, send):
                send()

        self.on_loop(send_in_turn)
        return Done(len(reached))

    # -- heartbeats, the stale, the end ----------------------------------------------------------------------------

    def _beat(self) -> None:
        """Sends the next group of connections a sign of life, and has those whose time is over begin anew."""
        loop = asyncio.get_running_loop()
        self._beats = loop.call_later(self._tick, self._beat)
        slot = self._slots[self._beating]
        self._beating = (self._beating + 1) % len(self._slots)
        now, at = datetime.now(UTC), loop.time()
        for connection in list(slot):
            writer = connection.writer
            if writer is not None and writer.lost:
                writer.leave()  # its server tells another request of it, one that waits behind the stream
                continue
            if connection.closed or writer is None:
                continue
            if connection.ends_at <= at:
                self.dismiss(connection, self._reopen)  # a sign-in may have run out since it was opened
            elif self._write(connection, _BEAT):
                connection.last_ping = now
            else:
                writer.wake()  # whose reader has stopped taking what was written, and gets its last time to go on

    def cleanup_stale_connections(self, older_than: float = STALE_AFTER) -> Done:
        """Removes connections that have ended, or took nothing for `older_than` seconds; returns how many.

        Those that a stream writes to are none of these: a write has its time, and a sign of life follows the next. So
        they are not looked at: this costs as much as there are connections that no response writes to.
        """
        cutoff = datetime.now(UTC) - timedelta(seconds=older_than)
        stale = [connection.id for connection in self._unwritten if connection.closed or connection.last_ping < cutoff]
        for connection_id in stale:
            self.remove_connection(connection_id)
        return Done(len(stale))

    def drain(self) -> None:
        """Ends all streams, for good: those that come back are answered 503 until the process is gone."""
        self.draining = True
        for connection in list(self.connections.values()):
            connection.close()
            if connection.writer is not None:
                self.on_loop(partial(connection.writer.hurry, LAST_WRITE))

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


def _write_quickly(framed: bytes, writes: tuple[Callable[[bytes], object], ...]) -> None:
    left = iter(writes)
    while True:
        try:
            for write in left:
                write(framed)
            return
        except Exception:
            # uvloop raises where a transport has just been closed, of which its stream is told in the loop's next turn.
            logger.debug("a reader has just gone", exc_info=True)


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
