"""An event that a page has sent, while it runs: what it is asked, and what the page sees of each step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from starlette.types import Receive

from ..exceptions import AuthorizationError, EventDefinitionError
from ..registry.entries import Entry
from ..registry.run_event import EventCaller, Step
from ..sessions.caller import Identity
from ..sessions.config import StateConfig
from ..sse.connection import SSEConnection
from ..state.events import Event
from ..state.reactive import ReactiveState
from ..state.schema import Schema
from ..state.views import render_ft
from ..wire.frames import elements_frame, go_frame
from ..wire.values import to_wire
from .context import RequestContext
from .initiator import Initiator
from .page_streams import PageStreams
from .page_tokens import StaleTokens, Watched
from .parts import Parts
from .payload import NOTHING, Call

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
    word: bytes = b""
    """A frame for the answer alone: what the bound fields are that the page has sent."""


@dataclass(slots=True, eq=False)
class SentEvent:
    """An event that a page has sent, who sends it, and where its effects go. Lifetime: one attempt to run it.

    `live` is the page's stream; `elsewhere` says that another process has it.
    """

    context: RequestContext
    identity: Identity
    call: Call
    config: StateConfig
    cls: type[ReactiveState]
    schema: Schema
    event: Event[Any, Any]
    live: SSEConnection | None
    elsewhere: bool
    take: Callable[[Effect], None]


class PageEvent(Initiator, EventCaller):
    """An event that a page has sent, while it runs. Lifetime: the event.

    `bound` are the fields to set before it, `watched` is what the page shows, if it has no stream.
    """

    __slots__ = (
        "_alone_since", "_bound", "_entry", "_page_streams", "_parts", "_presence", "_sent", "_watched", "has_begun",
    )  # fmt: skip

    def __init__(
        self,
        parts: Parts,
        page_streams: PageStreams,
        sent: SentEvent,
        entry: Entry,
        bound: Mapping[str, Any],
        watched: Watched | None,
    ) -> None:
        self._parts = parts
        self._page_streams = page_streams
        self._sent = sent
        self._entry = entry
        self._bound = bound
        self._watched = watched
        self._presence: asyncio.Task[float] | None = None  # once somebody has asked whether the client is there
        self._alone_since: float | None = None  # since when nobody is there to see what it does
        self.has_begun = False
        """True if a step of it was committed."""
        live, is_elsewhere = sent.live, sent.elsewhere
        self.connection_id = live.id if live is not None else sent.call.connection_id if is_elsewhere else None
        self.key = entry.identifier.key
        self.echo = NOTHING
        self.session_id = sent.identity.session_id
        self.elsewhere = is_elsewhere
        self.open = True
        self.commits = []

    def close(self) -> None:
        """Note that the event is over."""
        self.open = False
        if self._presence is not None:
            self._presence.cancel()

    # -- what the event asks ---------------------------------------------------------------------------------------

    def acting(self) -> str | None:
        return self._sent.context.session_id()

    def still_current(self) -> None:
        sessions, session_id = self._parts.sessions, self._sent.context.session_id()
        if session_id is not None and sessions.ended.is_ended(session_id):
            raise StaleTokens  # signed out while this waited for its turn
        user = self._sent.identity.user
        if user is not None and sessions.rights.changed(user, self._sent.context.since):
            raise AuthorizationError("your rights have changed just now: please try again")

    def bound(self) -> Mapping[str, Any]:
        bound, number, page = self._bound, self._sent.call.sequence, self.connection_id
        if not bound:
            return NOTHING
        if number is not None:
            entry, newest = self._parts.registry.find(self.key), None
            if entry is not None and page is not None:
                newest = self._parts.cluster.note_typed(entry, page, bound, number)
            if newest is None and self._sent.live is not None:
                newest = self._sent.live.note_typed(self.key, bound, number)
            if newest is not None:  # a later event of the page may have overtaken this one, and set some of them
                bound = {name: bound[name] for name in newest}
        self.echo = {name: to_wire(value) for name, value in bound.items()}
        return bound

    def wants_more(self) -> bool:
        """False if the client has gone for good: its request was given up, and its page has had no stream since."""
        call, loop, presence = self._sent.call, asyncio.get_running_loop(), self._presence
        if presence is None:
            if call.receive is not None:  # listens from here on: most events are over before anybody asks
                self._presence = loop.create_task(_gone_at(call.receive), name="faststate-presence")
                self._presence.add_done_callback(_note_failure)
            return True
        if not presence.done() or presence.cancelled() or presence.exception() is not None:
            return True
        named, now = call.connection_id, loop.time()
        if not named:
            return False  # it never had a stream, so nobody can come back
        if self.elsewhere or self._is_followed(named):
            self._alone_since = now
            return True
        if self._alone_since is None:
            self._alone_since = presence.result()
        return now - self._alone_since < AWAY

    def _is_followed(self, connection_id: str) -> bool:
        """True if the page has its stream, or came back: a later stream of its session follows the state."""
        first = self._sent.live.connected_at if self._sent.live is not None else None
        for connection in self._parts.sse_manager.connections_of(session_id=self._sent.context.session_id()):
            if connection.closed or connection.silent:
                continue
            is_later = first is None or connection.connected_at > first
            if connection.id == connection_id or (is_later and connection.topic(self.key) is not None):
                return True
        return False

    # -- what the page sees ----------------------------------------------------------------------------------------

    def render(self, result: Any) -> bytes:
        return b"" if result is None else result_frames(self._sent.event, result)

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
            identity, shown = await self._sent.context.identity(), await watched.all()
            followed = await self._page_streams.followed(self._sent.context, identity, shown)
            frames = await self._page_streams.snapshots(self._sent.identity.user, followed.states)
        else:
            frames = await self._snapshots(watched, [commit.new for commit in self.commits])
        self._show(frames, step)

    async def _snapshots(self, watched: Watched, states: Sequence[ReactiveState]) -> bytes:
        # The event may have signed its user in, and its states have moved to the session that the request has now.
        context, user = self._sent.context, self._sent.identity.user
        shown = self._page_streams.changed_on_page(context, Identity(user, context.session_id()), watched, states)
        return await self._page_streams.snapshots(user, shown)

    def _show(self, frames: bytes, step: Step) -> None:
        self.commits.clear()
        version = None
        if self._sent.event.expect_version:
            version = str((self._parts.registry.find(self.key) or self._entry).version)
        self._sent.take(Effect(frames + step.result if step.result else frames, step.repeated, version))

    async def show_state(self) -> None:
        """Send the event's state to the page as it is."""
        live = self._sent.live
        if self.elsewhere:
            await self._parts.cluster.show(self.key, self.connection_id, self.session_id)
        elif live is None:
            frames = await self._snapshots(self._watched, [self._entry.state]) if self._watched is not None else b""
            self._sent.take(Effect(frames, repeated=False))
        elif live.topic(self.key) is not None:
            live.notify(self.key, None)


async def _gone_at(receive: Receive) -> float:
    """Return when (the loop's time) the client of an event that still runs was found to have gone.

    The body has been read by then, so all that the server can still say is that the connection, or a later answer, has
    ended.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return asyncio.get_running_loop().time()
        await asyncio.sleep(1)  # for a server that sends more of the body than there is


def _note_failure(task: asyncio.Task[float]) -> None:
    """Log how a task failed, so that asyncio does not report it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a client's presence is not known: %r", error)


def result_frames(event: Event[Any, Any], result: Any) -> bytes:
    """Return the frames (bytes) that show what an event returned or yielded.

    Raises `EventDefinitionError` for what cannot be shown.
    """
    location = getattr(result, "loc", None)
    if hasattr(result, "__response__") and isinstance(location, str):
        return go_frame(safe_location(location))
    parts = result if isinstance(result, tuple | list) else (result,)
    if not all(part is None or hasattr(part, "tag") or hasattr(part, "__ft__") for part in parts):
        raise EventDefinitionError(
            f"the event {event.name} returned {type(result).__name__}: return FT, a Redirect or None"
        )
    if event.selector is None:
        for part in parts:
            if hasattr(part, "tag") and not part.attrs.get("id"):
                raise EventDefinitionError(
                    f"the event {event.name} returned a <{part.tag}> without an id; give it one, or say where it goes: "
                    "@event(selector=…)"
                )
    html = "".join(map(render_ft, parts))
    return elements_frame(html, event.selector, event.mode)


def safe_location(location: str) -> str:
    """Return `location` if a browser may be sent there: a path or an http(s) URL. Raises `EventDefinitionError`."""
    try:
        is_web = urlsplit(location.strip()).scheme in ("", "http", "https")
    except ValueError:
        is_web = False
    if not is_web or any(ord(c) < 32 for c in location):
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL")
    return location.strip()
