"""The parts of a provider: made here, handed to each other, and called back by the registry, streams and cluster."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from ..auth.limits import network_of
from ..auth.loaders import UserFinder
from ..auth.users import current_request
from ..cluster.base import AppCluster
from ..cluster.messages import AppMessage, ProcessStats, Typed
from ..cluster.shared import SharedCluster
from ..registry.entries import Commit
from ..registry.protocols import Callers, Followers
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
from ..state.serving import ServingProvider
from ..stores.base import SharedStore, StateStore
from ..stores.urls import store_from_url
from ..wire.frames import message_frame, reload_frame, vanish_frame
from .lifecycle import AppLoop, Lifecycle
from .options import Options
from .page_tokens import PageTokens
from .registrations import Registrations
from .stats import Counters, stats_of
from .throttle import Throttle

GONE: Final = "This is not there any more."
"""Message shown when a record is deleted while a page displays it."""

NO_ADDRESS: Final = "unknown"
"""Stands for the addresses of all clients of a server that sees none, as on a Unix socket."""


@dataclass(slots=True)
class Origin:
    """The page whose event is running. Lifetime: the event.

    `echo` holds the bound fields of the event's state that the page has set itself.
    """

    connection_id: str | None
    key: str
    echo: Mapping[str, Any]
    session_id: str | None = None
    elsewhere: bool = False
    """True if another process has the page's stream."""
    open: bool = True
    """False when the event is over: a task that it started inherits its context, and may commit later."""
    commits: list[Commit] = field(default_factory=list)

    def acting(self) -> str | None:
        """Return the id of the session that commits; not the page's if the event has just signed its user in."""
        return self.session_id


origin_of_commits: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("faststate_origin", default=None)
"""Set while an event of a page runs."""


def running_event() -> Origin | None:
    """Return the page's event in which this code runs; None outside one, and in a task that has outlived it."""
    origin = origin_of_commits.get()
    return origin if origin is not None and origin.open else None


class CurrentCallers(Callers):
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

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def committed(self, commit: Commit) -> None:
        origin, parts = running_event(), self._parts
        config = parts.registrations.configs.get(type(commit.new))
        checked = config is not None and config.authorize is not None
        publish = parts.rechecks.committed if checked else parts.sse_manager.fanout.publish
        if origin is None:
            publish(commit, None, None)
            return
        origin.commits.append(commit)
        is_own = commit.key == origin.key
        publish(commit, origin.connection_id, origin.echo if is_own else None)
        if is_own:
            origin.echo = {}  # what a later step sets is news to the page

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
        frame = vanish_frame(committed.namespace, type(state)._fs_schema().signals, connection.audience(key).views)
        self._parts.sse_manager.unfollow(connection, key)
        return frame


class ProviderStreamHooks(StreamHooks):
    """Answers the questions of streams, and takes their news. Lifetime: the provider."""

    def __init__(self, parts: Parts) -> None:
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

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def acting(self) -> str | None:
        origin = running_event()
        return origin.acting() if origin is not None else None

    def typed_here(self, key: str) -> Typed | None:
        origin = running_event()
        if origin is None or not origin.elsewhere or origin.key != key or not origin.echo:
            return None
        return Typed(origin.connection_id or "", origin.session_id, origin.echo)

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        self._parts.sse_manager.broadcast_here(key, values, but_user)

    @contextlib.contextmanager
    def caused_by(self, key: str, typed: Typed | None) -> Iterator[None]:
        page = self._parts.sse_manager.connections.get(typed.page) if typed is not None else None
        if typed is None or page is None or page.session_id != typed.session_id:
            yield
            return
        token = origin_of_commits.set(Origin(page.id, key, typed.values))
        try:
            yield
        finally:
            origin_of_commits.reset(token)

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


class Parts:
    """The parts of one provider, in the order in which they are made. Lifetime: the provider.

    `serving` is the provider, as the states and events of its classes know it.
    """

    cluster: AppCluster

    def __init__(self, options: Options, serving: ServingProvider) -> None:
        self.options = options
        self.loop = AppLoop()
        self.counters = Counters()
        self.users = UserFinder(options.user_loader, options.load_user_by_id, options.user_timeout)
        self.throttle = Throttle(options)
        self.tokens = PageTokens(options, self.throttle)
        followers = PageFollowers(self)
        self.registry = StateRegistry(
            followers,
            CurrentCallers(),
            partial(self._join_cluster, options.store),
            serving=serving,
            clock=options.clock,
            lock_timeout=options.lock_timeout,
            store_timeout=options.store_timeout,
            max_states=options.max_states,
            max_states_per_session=options.max_states_per_session,
            max_states_per_address=options.max_states_per_address,
        )
        self.registrations = Registrations(self.registry, self.cluster, keeps_all=options.store is not None)
        self.sse_manager = SSEManager(
            ProviderStreamHooks(self), heartbeat=options.heartbeat, max_age=options.stream_max_age
        )
        self.rechecks = Rechecks(
            self.sse_manager,
            self.registrations.config_of,
            followers.take_from,
            self.registry.peek,
            options.lock_timeout,
        )
        self.sessions = Sessions(
            self.registry,
            self.cluster,
            self.sse_manager,
            self.registrations.config_named,
            self._has_other_events,
            options.clock,
        )
        self.lifecycle = Lifecycle(self.registry, self.cluster, self.sse_manager)

    def _has_other_events(self, session_id: str) -> bool:
        """True if events of a session are under way, apart from the one that asks."""
        own = running_event()
        return self.throttle.under_way(session_id) > (own is not None and own.session_id == session_id)

    def _join_cluster(self, store: str | StateStore | None, registry: StateRegistry) -> AppCluster:
        """Decide whether the app is one process or many: only here."""
        opened = store_from_url(store) if isinstance(store, str) else store
        if isinstance(opened, SharedStore):
            self.cluster = SharedCluster(opened, registry, ClusterNews(self))
        else:
            self.cluster = AppCluster(opened, registry.store_timeout)
        return self.cluster
