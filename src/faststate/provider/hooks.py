"""The provider's side of lower packages: the registry, the streams and the cluster call these objects back."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from ..auth.limits import network_of
from ..auth.users import current_request
from ..cluster.base import AppCluster
from ..cluster.messages import AppMessage, ProcessStats, Typed
from ..registry.entries import Commit
from ..registry.protocols import ClientFinder, Followers
from ..registry.registry import StateRegistry
from ..scheduling.queues import SERVER, Client
from ..scopes import Id, StateScope
from ..sessions.caller import SESSION_ID
from ..sessions.rechecks import Rechecks
from ..sessions.sessions import Sessions
from ..sse.connection import SSEConnection
from ..sse.hooks import StreamHooks
from ..sse.manager import SSEManager
from ..state.reactive import ReactiveState
from ..wire.frames import message_frame, reload_frame, vanish_frame
from .initiator import Initiator, current_initiator, initiator_of_commits
from .registrations import Registrations
from .stats import Counters, stats_of

GONE: Final = "This is not there any more."
"""Message shown when a record is deleted while a page displays it."""

NO_ADDRESS: Final = "unknown"
"""Stands for the addresses of all clients of a server that sees none, as on a Unix socket."""


class HookedParts(Protocol):
    """The parts of a provider that its hooks use; all are made before a hook is called. Lifetime: the provider."""

    registry: StateRegistry
    cluster: AppCluster
    registrations: Registrations
    sse_manager: SSEManager
    rechecks: Rechecks
    sessions: Sessions
    counters: Counters


class RequestClientFinder(ClientFinder):
    """Tells a registry on whose behalf the current code runs. Lifetime: the provider."""

    def client(self) -> Client:
        """Return the client whose request this code serves, also in tasks that it began; else the server's own."""
        request = current_request.get()
        if request is None:
            return SERVER
        session, address = request.scope.get("session"), request.client.host if request.client is not None else ""
        session_id = session.get(SESSION_ID) if session else None
        network = network_of(address)
        return Client(session_id or f"address {network}", network or None)  # a Unix socket has none

    def address(self) -> str:
        """Return the client address (str) of the current request, empty for none."""
        request = current_request.get()
        if request is None:
            return ""
        return network_of(request.client.host) if request.client is not None else NO_ADDRESS


class PageFollowers(Followers):
    """The pages that follow states, for the registry. Lifetime: the provider."""

    def __init__(self, parts: HookedParts) -> None:
        self._parts = parts

    def committed(self, commit: Commit) -> None:
        initiator, parts = current_initiator(), self._parts
        config = parts.registrations.configs.get(type(commit.new))
        checked = config is not None and config.authorize is not None
        publish = parts.rechecks.committed if checked else parts.sse_manager.fanout.publish
        if initiator is None:
            publish(commit, None, None)
            return
        initiator.commits.append(commit)
        is_own = commit.key == initiator.key
        publish(commit, initiator.connection_id, initiator.echo if is_own else None)
        if is_own:
            initiator.echo = {}  # what a later step sets is news to the page

    def is_watched(self, key: str) -> bool:
        return self._parts.sse_manager.is_watched(key)

    def swept(self) -> None:
        self._parts.sse_manager.cleanup_stale_connections()
        self._parts.sessions.ended.known.forget_old()

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        return self._parts.sse_manager.broadcast_to_state(key, data)

    # -- taking a state off pages ----------------------------------------------------------------------------------

    def take_from(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Take a state off one page, which is told nothing more of it."""
        if connection.topic(state._committed.identifier.key) is None:
            return  # silenced, or told that the state has ended, while its user was being asked about
        frame = self._unfollow(connection, state)
        if connection.topics:
            connection.send_frame(frame)
        else:
            self._parts.sse_manager.dismiss(connection, frame + reload_frame())

    def removed(self, state: ReactiveState, reason: str) -> None:
        # Pages of a record say that it is gone; other pages reload.
        identifier = state._committed.identifier
        for connection in self._parts.sse_manager.watchers(identifier.key):
            if connection.closed:
                continue
            frame = self._unfollow(connection, state)
            if identifier.scope is StateScope.RECORD:
                connection.send_frame(frame + message_frame(GONE, 404))
            else:
                self._parts.sse_manager.dismiss(connection, frame + reload_frame())

    def _unfollow(self, connection: SSEConnection, state: ReactiveState) -> bytes:
        """Let a page follow a state no longer; return the frames (bytes) that take it off the page."""
        committed = state._committed
        key = committed.identifier.key
        frame = vanish_frame(committed.namespace, type(state)._fs_schema().page_signals, connection.audience(key).views)
        self._parts.sse_manager.unfollow(connection, key)
        return frame


class ProviderStreamHooks(StreamHooks):
    """Answers the questions of streams, and takes their news. Lifetime: the provider."""

    def __init__(self, parts: HookedParts) -> None:
        self._parts = parts

    def latest(self, key: str) -> ReactiveState | None:
        return self._parts.rechecks.cleared(key) or self._parts.registry.peek(key)

    def position(self) -> str:
        parts, commits = self._parts, self._parts.registry.commits
        number = parts.sse_manager.fanout.handed_over(parts.rechecks.decided(commits))
        return f"{parts.registry.epoch}.{number}{parts.cluster.position(settled=number == commits)}"

    def postpone(self, key: str, send: Callable[[], object]) -> bool:
        return self._parts.rechecks.postpone(key, send)

    def is_undecided(self, key: str) -> bool:
        return self._parts.rechecks.is_asking(key)

    def watched(self, key: str) -> None:
        self._parts.registry.lifetimes.watched(key)

    def unwatched(self, key: str) -> None:
        self._parts.registry.lifetimes.unwatched(key)

    def spread(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        self._parts.cluster.broadcast(key, values, but_user)


class ClusterNews:
    """Acts on what other processes tell, and answers what the cluster asks. Lifetime: the provider."""

    def __init__(self, parts: HookedParts) -> None:
        self._parts = parts

    def acting(self) -> str | None:
        initiator = current_initiator()
        return initiator.acting() if initiator is not None else None

    def typed_here(self, key: str) -> Typed | None:
        initiator = current_initiator()
        if initiator is None or not initiator.elsewhere or initiator.key != key or not initiator.echo:
            return None
        return Typed(initiator.connection_id or "", initiator.session_id, initiator.echo)

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        self._parts.sse_manager.broadcast_here(key, values, but_user)

    @contextlib.contextmanager
    def caused_by(self, key: str, typed: Typed | None) -> Iterator[None]:
        page = self._parts.sse_manager.connections.get(typed.page) if typed is not None else None
        if typed is None or page is None or page.session_id != typed.session_id:
            yield
            return
        token = initiator_of_commits.set(Initiator(page.id, key, typed.values))
        try:
            yield
        finally:
            initiator_of_commits.reset(token)

    def show(self, key: str, page: str | None, session_id: str | None) -> None:
        connection = self._parts.sse_manager.connections.get(page or "")
        if connection is not None and connection.session_id == session_id and connection.topic(key) is not None:
            connection.notify(key, None)

    def accept(self, message: AppMessage) -> None:
        self._parts.sessions.accept(message)

    async def caught_up(self, after: int, away: float) -> None:
        await self._parts.sessions.catch_up(after, away)

    async def look_up_session(self, session_id: str) -> None:
        await self._parts.sessions.look_up(session_id)

    def stats(self) -> ProcessStats:
        parts = self._parts
        own = stats_of(parts.registry, parts.sse_manager, parts.counters)
        return ProcessStats(parts.registry.epoch, own._asdict())
