"""Fan-out: who follows which state, and one loop over the followers when it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from ..scheduling.loops import running_loop
from ..state.reactive import ReactiveState
from .changes import Audience, Changes, CommitLike
from .connection import SSEConnection
from .hooks import StreamHooks
from .topics import Sending, Topic, is_newer
from .writing import Chunk

logger = logging.getLogger("faststate")

QUICK_FROM: Final = 64
"""Followers of a state from which on those who keep up are written to without a check."""

UNCHECKED: Final = 4_096
"""Bytes that may be written without a check before `find_quick` runs again.

A reader who takes nothing may have so much waiting beyond its transport's limit, for each state that it follows."""


class Fanout:
    """The topics of a process, and the writes to their followers. Lifetime: the manager.

    A commit is noted in its state's topic. At the end of the loop's turn one flush writes to all followers: several
    commits of one state as one change, the same bytes for all who show and may see the same. A follower who has not
    taken what came before gets an outbox, and only the newest is sent when it takes something again. So a change costs
    one write for each follower of its state, and nothing for anybody else.

    All of it happens on the event loop that writes the streams; other threads hand it their commits and values, in
    their order. `connections` are the manager's, by id.
    """

    def __init__(self, hooks: StreamHooks, connections: Mapping[str, SSEConnection]) -> None:
        self.hooks = hooks
        self.topics: dict[str, Topic[SSEConnection]] = {}
        self.subscriptions = 0
        """Number of states that all connections follow together."""
        self.coalesced = 0
        """Number of changes that were sent together with a later one of their state, counted for each connection."""
        self.sent_bytes = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self._connections = connections
        self._latest = hooks.latest  # one bound method for all topics
        self._changed: dict[Topic[SSEConnection], None] = {}
        self._alone: dict[SSEConnection, None] = {}  # connections that have something in an outbox and may be sent it
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._handed: dict[int, None] = {}  # commits (their numbers) that another thread has handed to the loop

    # -- who follows what ------------------------------------------------------------------------------------------

    def follow(self, connection: SSEConnection, key: str, audience: Audience, begun_with: ReactiveState | None) -> None:
        """Make a connection follow the state `key`; `begun_with` is the snapshot it shows, None for the newest."""
        topic = self.topics.get(key)
        if topic is None:
            topic = self.topics[key] = Topic(key, self._latest)
            self.hooks.watched(key)
        self.subscriptions += connection not in topic.connections
        topic.join(connection, audience)
        connection.topics += (topic,)
        if topic.changes is not None or self.hooks.is_undecided(key):
            begun_with = begun_with or self._latest(key)
            if begun_with is not None:
                topic.begin_with(connection, begun_with)

    def leave(self, connection: SSEConnection, topic: Topic[SSEConnection]) -> None:
        """Make a connection follow a state no more."""
        connection.topics = tuple(left for left in connection.topics if left is not topic)
        self.subscriptions -= connection in topic.connections
        topic.leave(connection)
        if not topic.connections and self.topics.get(topic.key) is topic:
            del self.topics[topic.key]
            self._changed.pop(topic, None)
            self.hooks.unwatched(topic.key)

    def forget(self, connection: SSEConnection) -> None:
        """Make a connection follow nothing more, and send it nothing of what waits."""
        for topic in connection.topics:
            self.leave(connection, topic)
        connection.forget()
        self._alone.pop(connection, None)

    # -- the loop that writes the streams --------------------------------------------------------------------------

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop that a stream is written on as the one that writes all of them."""
        if loop is not self.loop:
            self.loop, self._handed = loop, {}  # commits that were handed to a loop that has ended are lost

    def on_loop(self, call: Callable[[], object]) -> None:
        """Run `call` on the loop that writes the streams: at once if this is it, or if there is none."""
        if self.is_home(running_loop()):
            call()
        elif self.loop is not None:
            self.loop.call_soon_threadsafe(call)

    def is_home(self, here: asyncio.AbstractEventLoop | None) -> bool:
        """Tell whether `here`, the running loop, may change what is here: it writes the streams, or no loop does."""
        loop = self.loop
        return loop is None or here is loop or loop.is_closed() or not loop.is_running()

    # -- publish ---------------------------------------------------------------------------------------------------

    def publish(self, commit: CommitLike, origin: str | None = None, echo: Mapping[str, Any] | None = None) -> int:
        """Send a commit to all that follow its state; return their number (int).

        `origin` is the id of the connection that it comes from, and `echo` the fields that this page has set itself.
        """
        topic = self.topics.get(commit.key)
        if topic is None:
            return 0
        here = running_loop()  # asked once: before Python 3.12 that is a call of the operating system
        if not self._handed and self.is_home(here):
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
        """Return the number of the last commit up to which all are with the streams' loop; `number` is the newest."""
        handed = tuple(self._handed) if self._handed else ()
        return min(number, min(handed) - 1) if handed else number

    def _publish(
        self,
        here: asyncio.AbstractEventLoop | None,
        topic: Topic[SSEConnection],
        commit: CommitLike,
        origin: str | None,
        echo: Mapping[str, Any] | None,
    ) -> None:
        typing = self._connections.get(origin) if origin is not None and echo else None
        if typing is not None and typing in topic.connections and not topic.is_held(typing):
            topic.hand_over(typing)
            if is_newer(commit.new, topic.shown_by(typing) or commit.old):
                topic.begin_with(typing, commit.new)
                typing.notify(topic.key, Changes(commit.old, commit.new, commit.delta), echo)
        if topic.add(commit):
            self.coalesced += len(topic.connections)
        self._changed[topic] = None
        self._flush_on(here)

    # -- flush -----------------------------------------------------------------------------------------------------

    def flush_soon(self, connection: SSEConnection) -> None:
        """Flush at the end of the loop's turn: something waits in this connection's outbox."""
        self._alone[connection] = None
        self._flush_on(running_loop())

    def _flush_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not None and self._scheduled is not loop:  # without a loop nothing streams
            self._scheduled = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write to all connections what they have to be sent by now. Called by the loop, outside of any task."""
        topics = list(self._changed)
        for topic in topics:
            if topic.ahead is not None:
                for connection in list(topic.ahead):
                    topic.hand_over(connection)
        # Only then: the above may have put something into an outbox. A connection with an outbox is sent all of it from
        # there: the loop over all followers must not send it a part, and with that the position.
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
            chunks: dict[tuple[bytes, ...], Chunk] = {}
            for connection, frames in joined.items():
                chunk = chunks.get(frames)
                if chunk is None:
                    chunk = chunks[frames] = Chunk(b"".join((*frames, position)))
                if not self.write(connection, chunk):
                    for sending in sendings:
                        if connection in sending.topic.connections and connection not in sending.ahead:
                            connection.notify(sending.topic.key, sending.changes)
        for connection in alone:
            self._write_alone(connection)

    def write(self, connection: SSEConnection, chunk: Chunk) -> bool:
        """Write a chunk to one connection; return False if its reader is behind, or nothing writes its stream."""
        is_written = connection.writer is not None and connection.writer.write(chunk)
        self.sent_bytes += len(chunk.body) * is_written
        return is_written

    def position_line(self) -> bytes:
        """Return the event (bytes) that tells a page how far it has been told."""
        # An event of its own behind all others: the client takes an id when it reads that line, so an id before the
        # data would be believed even if the data was cut off.
        return f"id: {self.hooks.position()}\n\n".encode()

    def _join(
        self, sendings: list[Sending[SSEConnection]], most: Sending[SSEConnection]
    ) -> dict[SSEConnection, tuple[bytes, ...]]:
        """Collect the frames for each follower of these states, and of `most`, the state with the most followers.

        One write for each connection: half of an event over two states is never shown, and no position is told that
        holds for only one of them.
        """
        joined: dict[SSEConnection, tuple[bytes, ...]] = {}
        for sending in sendings:
            frames: dict[Audience, bytes] = {}
            for connection, audience in sending.topic.connections.items():
                if connection in sending.ahead:
                    continue
                if audience not in frames:
                    frames[audience] = sending.frame(audience)
                if frame := frames[audience]:
                    joined[connection] = (*joined.get(connection, ()), frame)
        for connection in joined:
            if connection in most.topic.connections and connection not in most.ahead:
                most.topic.slow_down(connection)
                if frame := most.frame(most.topic.connections[connection]):
                    joined[connection] += (frame,)
        return joined

    def _write_to_all(
        self, sending: Sending[SSEConnection], position: bytes, others: Mapping[SSEConnection, object]
    ) -> None:
        """Write the change of a state to its followers, except those who are ahead and the `others`."""
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
                topic.find_quick()

    def _write_alone(self, connection: SSEConnection) -> None:
        writer = connection.writer
        if writer is None or connection.closed:
            return
        if not writer.ready:
            writer.wake()
        elif waiting := self.drain_for(connection):
            writer.write(Chunk(waiting))

    def drain_for(self, connection: SSEConnection) -> bytes:
        """Return all that waits for one connection, and the stream's position behind it; empty if nothing waits."""
        waiting = connection.drain()
        if not waiting:
            return b""
        waiting += self.position_line()
        self.sent_bytes += len(waiting)
        return waiting


def _write_quickly(framed: bytes, writes: tuple[Callable[[bytes], object], ...]) -> None:
    left = iter(writes)
    while True:
        try:
            for write in left:
                write(framed)
            return
        except Exception:
            # uvloop raises for a transport that has just been closed; its stream learns that in the loop's next turn.
            logger.debug("a reader has just gone", exc_info=True)
