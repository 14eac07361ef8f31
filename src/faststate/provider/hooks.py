"""The objects that the registry, the streams and the cluster, which stand below, call back into."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from ..cluster.base import AppCluster
from ..cluster.messages import AppMessage, ProcessStats, Typed
from ..registry.entries import Commit
from ..registry.registry import StateRegistry
from ..scopes import Id
from ..sessions.rechecks import Rechecks
from ..sessions.sessions import Sessions
from ..sse.hooks import StreamHooks
from ..sse.manager import SSEManager
from ..state.reactive import ReactiveState
from .follow import Removal
from .origin import Origin, origin_of_commits
from .registrations import Registrations
from .stats import Counters, stats_of

__all__ = ["CalledParts", "ClusterNews", "PageFollowers", "ProviderStreamHooks"]


class CalledParts(Protocol):
    """The parts of a provider that those below call back into. Lifetime: the provider."""

    registry: StateRegistry
    cluster: AppCluster
    sse_manager: SSEManager
    rechecks: Rechecks
    sessions: Sessions
    registrations: Registrations
    removal: Removal
    counters: Counters


class PageFollowers:
    """The pages that follow states, for the registry. Lifetime: the provider."""

    def __init__(self, parts: CalledParts) -> None:
        self._parts = parts

    def committed(self, commit: Commit) -> None:
        origin, parts = origin_of_commits.get(), self._parts
        config = parts.registrations.configs.get(type(commit.new))
        checked = config is not None and config.authorize is not None
        publish = parts.rechecks.committed if checked else parts.sse_manager.fanout.publish
        # A task that the event started inherits the context, and may commit when the event is long over.
        if origin is None or not origin.open:
            publish(commit, None, None)
            return
        origin.commits.append(commit)
        is_own = commit.key == origin.key
        publish(commit, origin.connection_id, origin.echo if is_own else None)
        if is_own:
            origin.echo = {}  # what a later step sets is news to the page

    def removed(self, state: ReactiveState, reason: str) -> None:
        self._parts.removal.take_from_all(state)

    def is_watched(self, key: str) -> bool:
        return self._parts.sse_manager.is_watched(key)

    def swept(self) -> None:
        self._parts.sse_manager.cleanup_stale_connections()
        self._parts.sessions.ended.known.forget_old()

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        return self._parts.sse_manager.broadcast_to_state(key, data)


class ProviderStreamHooks(StreamHooks):
    """Answers the questions of streams, and takes their news. Lifetime: the provider."""

    def __init__(self, parts: CalledParts) -> None:
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

    def __init__(self, parts: CalledParts) -> None:
        self._parts = parts

    def acting(self) -> str | None:
        origin = origin_of_commits.get()
        return origin.acting() if origin is not None and origin.open else None

    def typed_here(self, key: str) -> Typed | None:
        origin = origin_of_commits.get()
        if origin is None or not origin.open or not origin.elsewhere or origin.key != key or not origin.echo:
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
