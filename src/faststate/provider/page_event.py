"""An event that a page has sent, while it runs: what it is asked, and what the page sees of each step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from starlette.types import Receive

from ..auth.rules import READ, authorize
from ..cluster.base import AppCluster
from ..exceptions import AccessError, AuthorizationError, IdentifierError
from ..redaction import loggable
from ..registry.entries import Entry
from ..registry.registry import StateRegistry
from ..registry.run_event import EventCaller, Step
from ..sessions.caller import Identity
from ..sessions.sessions import Sessions
from ..sse.changes import snapshot_frame
from ..sse.connection import SSEConnection
from ..sse.manager import SSEManager
from ..state.events import Event
from ..state.reactive import ReactiveState
from ..wire.frames import signals_frame, vanish_frame
from ..wire.values import nest, to_wire
from .calls import NOTHING, Call
from .context import RequestContext
from .follow import Follower
from .origin import Origin
from .page_tokens import ForgedTokens, StaleTokens, Watched
from .registrations import Registrations
from .resolve import Resolver
from .results import result_frames
from .stats import Counters

__all__ = ["Effect", "EventParts", "PageEvent"]

logger = logging.getLogger("faststate")

AWAY: Final = 10.0
"""Seconds that a generator event goes on after its client has gone, while its page has no stream: a page that lost its
connection comes back within moments."""


class Effect(NamedTuple):
    """One committed step of an event, as its own page sees it: frames (bytes) for the stream or the answer."""

    frames: bytes
    repeated: bool
    version: str | None = None
    """The version of the event's state, if the event expects one."""


class EventParts(NamedTuple):
    """The parts of a provider that the events of pages need. Lifetime: the provider."""

    registry: StateRegistry
    cluster: AppCluster
    manager: SSEManager
    sessions: Sessions
    registrations: Registrations
    resolver: Resolver
    follower: Follower
    counters: Counters


class PageEvent(Origin, EventCaller):
    """An event that a page has sent. Lifetime: the event.

    `bound` are the fields to set before it (None if the class has none), `watched` what the page shows, if it has no
    stream. `take` is given the effects.
    """

    __slots__ = (
        "_alone_since", "_bound", "_call", "_context", "_entry", "_event", "_identity", "_live", "_parts", "_presence",
        "_take", "_typed", "_watched", "has_begun",
    )  # fmt: skip

    def __init__(
        self,
        parts: EventParts,
        context: RequestContext,
        identity: Identity,
        call: Call,
        event: Event[Any, Any],
        entry: Entry,
        bound: Mapping[str, Any] | None,
        live: SSEConnection | None,
        elsewhere: bool,
        watched: Watched | None,
        take: Callable[[Effect], None],
    ) -> None:
        self._parts = parts
        self._context = context
        self._identity = identity
        self._call = call
        self._event = event
        self._entry = entry
        self._bound = bound
        self._live = live
        self._watched = watched
        self._take = take
        self._typed: Mapping[str, Any] = NOTHING  # bound fields as the page showed them when it sent the event
        self._presence: _Presence | None = None  # once somebody has asked whether the client is there
        self._alone_since: float | None = None  # since when nobody is there to see what it does
        self.has_begun = False
        """True if a step of it was committed."""
        self.connection_id = live.id if live is not None else call.connection_id if elsewhere else None
        self.key = entry.identifier.key
        self.echo = NOTHING
        self.session_id = identity.session_id
        self.elsewhere = elsewhere
        self.open = True
        self.commits = []

    def close(self) -> None:
        """Note that the event is over."""
        self.open = False
        if self._presence is not None:
            self._presence.end()

    # -- what the event asks ---------------------------------------------------------------------------------------

    def acting(self) -> str | None:
        return self._context.session_id()

    def still_current(self) -> None:
        sessions, session_id = self._parts.sessions, self._context.session_id()
        if session_id is not None and sessions.ended.is_ended(session_id):
            raise StaleTokens  # signed out while this waited for its turn
        user = self._identity.user
        if user is not None and sessions.rights.changed(user, self._context.since):
            raise AuthorizationError("your rights have changed just now: please try again")

    def bound(self) -> Mapping[str, Any]:
        bound, number, page = self._bound, self._call.sequence, self.connection_id
        if bound is None:
            return NOTHING  # the class has none, so nobody needs to know the order of the page's events
        if number is not None:
            entry = self._parts.registry.find(self.key)
            is_newest = None
            if entry is not None and page is not None:
                is_newest = self._parts.cluster.note_typed(entry, page, number)
            if is_newest is None:
                is_newest = self._live is None or self._live.note_typed(self.key, number)
            if not is_newest:
                return NOTHING  # a later event of the page overtook this one, and has newer values
        if bound:
            self.echo = self._typed = {name: to_wire(value) for name, value in bound.items()}
        return bound

    def wants_more(self) -> bool:
        """False if the client has gone for good: its request was given up, and its page has had no stream since."""
        if self._presence is None:
            if self._call.receive is None:
                return True
            self._presence = _Presence(self._call.receive)
        if (gone_at := self._presence.gone_at()) is None:
            return True
        named, now = self._call.connection_id, asyncio.get_running_loop().time()
        if not named:
            return False  # it never had a stream, so nobody can come back
        if self.elsewhere or self._is_followed(named):
            self._alone_since = now
            return True
        if self._alone_since is None:
            self._alone_since = gone_at
        return now - self._alone_since < AWAY

    def _is_followed(self, connection_id: str) -> bool:
        """True if the page has its stream, or came back: a later stream of its session follows the state."""
        first = self._live.connected_at if self._live is not None else None
        for connection in self._parts.manager.connections_of(session_id=self._context.session_id()):
            if connection.closed or connection.silent:
                continue
            is_later = first is None or connection.connected_at > first
            if connection.id == connection_id or (is_later and connection.topic(self.key) is not None):
                return True
        return False

    # -- what the page sees ----------------------------------------------------------------------------------------

    def render(self, result: Any) -> bytes:
        return b"" if result is None else result_frames(self._event, result)

    def take(self, step: Step) -> Awaitable[None] | None:
        counters = self._parts.counters
        counters.events += not (step.repeated or self.has_begun)
        counters.repeated += step.repeated
        self.has_begun = True
        if self._watched is not None:
            return self._take_with_snapshots(self._watched, step)
        self._show(b"", step)
        return None

    async def _take_with_snapshots(self, watched: Watched, step: Step) -> None:
        if step.repeated:  # the first answer was lost, with the changes in it
            identity, shown = await self._context.identity(), await watched.all()
            followed = await self._parts.follower.followed(self._context, identity, shown)
            frames = await self._snapshots(followed.states)
        else:
            frames = await self._snapshots(self._shown([commit.new for commit in self.commits]))
        self._show(frames, step)

    def _show(self, frames: bytes, step: Step) -> None:
        if self._typed:
            frames += self._corrections()
            self._typed = NOTHING
        self.commits.clear()
        version = None
        if self._event.expect_version:
            version = str((self._parts.registry.find(self.key) or self._entry).version)
        self._take(Effect(frames + step.result if step.result else frames, step.repeated, version))

    def _corrections(self) -> bytes:
        """Return frames for what the page typed and the event set back: no change of the state, but of the page."""
        state = self._parts.registry.peek(self.key)
        if state is None:
            return b""
        committed = state._committed
        told = {name for c in self.commits if c.new._committed.identifier == committed.identifier for name in c.delta}
        wrong = {
            name: committed.encoded[name]
            for name, value in self._typed.items()
            if name not in told and str(committed.encoded[name]) != str(value)
        }
        return signals_frame(nest(committed.namespace, wrong)) if wrong else b""

    def _shown(self, states: Sequence[ReactiveState]) -> dict[str, tuple[Entry, set[str]]]:
        """Return those of the changed `states` that the page shows, by key, with their views there.

        Only these are looked up: a page may show a thousand states, too many to find again at every click.
        """
        found: dict[str, tuple[Entry, set[str]]] = {}
        for state in states:
            identifier = state._committed.identifier
            views: list[tuple[str, ...]] = []
            if self._watched is not None:
                with contextlib.suppress(StaleTokens, ForgedTokens):  # of another session's state, so it is not shown
                    views = self._watched.views(identifier.cls_name, identifier.instance_id)
            entry = self._parts.registry.find(identifier.key)
            if not views or entry is None:
                continue
            with contextlib.suppress(IdentifierError):  # the user has signed out, so the state is nobody's here
                own = self._parts.resolver.identify(self._context, self._identity, type(state), identifier.instance_id)
                if own.key == identifier.key:  # and not another session's or user's
                    found[identifier.key] = entry, {view for part in views for view in part}
        return found

    async def _snapshots(self, shown: Mapping[str, tuple[Entry, set[str]]]) -> bytes:
        """Return frames with these states (by key) as they are now; one that was lost vanishes.

        The event has been committed, so nothing is raised here: if a rule fails, the page is told nothing.
        """
        user, frames = self._identity.user, {}
        for key, (entry, views) in shown.items():
            state, config = entry.state, self._parts.registrations.config_of(type(entry.state))
            if config.rule.restricts:
                try:
                    async with asyncio.timeout(self._parts.registry.locks.timeout):
                        await authorize(user, config.rule, state, READ)
                except AccessError:
                    frames[key] = vanish_frame(state._committed.namespace, type(state)._fs_schema().signals, views)
                    continue
                except Exception as error:
                    # The event is committed, so it must not look failed; the page keeps what it shows.
                    failed = "the rule of %s failed; the page is not told what changed"
                    logger.error(failed, config.state_name, exc_info=loggable(error, state))
                    continue
            frames[key] = snapshot_frame(state._seen_by(user), frozenset(views))
        return b"".join(frames.values())

    async def show_state(self) -> None:
        """Send the event's state to the page as it is."""
        live = self._live
        if self.elsewhere:
            await self._parts.cluster.show(self.key, self.connection_id, self.session_id)
        elif live is None:
            self._take(Effect(await self._snapshots(self._shown([self._entry.state])), repeated=False))
        elif live.topic(self.key) is not None:
            live.notify(self.key, None)


class _Presence:
    """Watches whether the client of an event still waits for its answer. Lifetime: the event.

    It starts to listen when it is asked first, since most events are over before anybody asks. The body has been read
    by then, so all that the server can still say is that the connection, or a later answer, has ended.
    """

    __slots__ = ("_at", "_listening", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._listening: asyncio.Task[None] | None = None
        self._at: float | None = None

    def gone_at(self) -> float | None:
        """Return when (the loop's time) the client was found to have gone; None while it is there."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="faststate-presence")
            self._listening.add_done_callback(_note_failure)
        return self._at

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._at = asyncio.get_running_loop().time()
                return
            await asyncio.sleep(1)  # for a server that sends more of the body than there is

    def end(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.cancel()


def _note_failure(task: asyncio.Task[None]) -> None:
    """Log how a task failed, so that asyncio does not report it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a client's presence is not known: %r", error)
