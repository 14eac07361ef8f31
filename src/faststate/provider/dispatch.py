"""Dispatch: one event of one client, from its payload to its committed steps; and what a stream may follow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from starlette.types import Receive

from ..auth.limits import network_of
from ..auth.rules import READ, authorize
from ..auth.tokens import Shown, WatchToken, binding
from ..auth.users import UserContext
from ..exceptions import (
    AccessError,
    AuthorizationError,
    EventArgumentError,
    EventConflictError,
    EventDefinitionError,
    IdentifierError,
    LimitError,
    StateNotFoundError,
    UnknownEventError,
)
from ..redaction import loggable
from ..registry.protocols import OutdatedError
from ..registry.registry import Commit, Entry
from ..registry.transaction import Guard, Run, Step, run_event
from ..scopes import StateIdentifier, StateScope, namespace_of
from ..sse.changes import snapshot_frame
from ..sse.connection import SSEConnection
from ..state.events import Event
from ..state.reactive import ReactiveState
from ..state.views import render_ft
from ..wire.frames import (
    elements_frame,
    go_frame,
    message_frame,
    reload_frame,
    reopen_frame,
    signals_frame,
    vanish_frame,
)
from ..wire.values import nest, to_wire
from .context import RequestContext
from .page import merged_tokens
from .provider import GONE, Lookup, Origin, StateProvider, origin_of_commits, taken_ids

__all__ = [
    "Call",
    "Effect",
    "ForgedTokens",
    "StaleTokens",
    "dispatch",
    "leave_page",
    "open_connection",
    "safe_location",
    "tokens_instead",
    "tokens_of",
    "verify_tokens",
]

logger = logging.getLogger("faststate")

_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
LONG: Final = 4_096
"""Characters of a request's tokens from which on they are verified in portions, and charged to the client.

Each fragment that a page has fetched brings a token, and each state that it shows an entry of one. To verify what
`max_payload` lets through takes up to 40 ms, and 1,000 tokens take 11 ms; an event verifies those that it needs.
"""

PORTION: Final = 64
"""Tokens that are verified before other work has its turn: 0.7 ms."""

EVENT_WORK: Final = 200.0
"""Microseconds of work for which a client is charged one event."""

MERGED_FROM: Final = 16
"""Tokens from which on a page is given a single one in their place, when it opens its stream."""

AWAY: Final = 10.0
"""Seconds that a generator event goes on when its client has gone and its page has no stream: a page whose connection
was cut comes back within moments."""

LEFT_TTL: Final = 30.0
"""Idle seconds of TEMPORARY states whose page was left for good. Of a tab that is only hidden nothing is heard."""


class StaleTokens(Exception):
    """The tokens are genuine, but of an earlier session or user, or too old: the page has to be loaded again."""


class ForgedTokens(AccessError):
    """A token that this app has not made, or an id that no token names."""


class Call:
    """One event as a client sent it, parsed and bounded, and not trusted. Lifetime: one request."""

    explicit: Mapping[str, Any] = _NOTHING
    form: Sequence[tuple[str, Any]] = ()
    query: Sequence[tuple[str, Any]] = ()
    signals: Mapping[str, Any] = _NOTHING
    bound: Mapping[str, Any] = _NOTHING
    instance_id: str | None = None
    tokens: Sequence[Any] = ()
    is_form = False
    sequence: int | None = None
    version: str | None = None
    receive: Receive | None = None
    """ASGI's `receive` of the request, whose body has been read: tells when the client has gone."""

    def __init__(self, state: str, event: str, nonce: str | None = None, connection_id: str | None = None) -> None:
        self.state = state
        self.event = event
        self.nonce = nonce
        self.connection_id = connection_id

    @classmethod
    def parse(
        cls,
        state: str,
        event: str,
        body: Any,
        query: Sequence[tuple[str, Any]],
        nonce: str | None,
        connection_id: str | None,
    ) -> Call:
        """A call, from the parsed JSON `body`. Raises `EventArgumentError` for anything that is not of its form."""
        if not isinstance(body, dict):
            raise EventArgumentError(f"the payload must be an object, not {type(body).__name__}")
        if nonce is not None and not _NONCE.match(nonce):
            raise EventArgumentError("the nonce must be 8 to 64 letters, digits, hyphens or underscores")
        call = cls(state, event, nonce, connection_id)
        for name, value in body.items():
            part = _PARTS.get(name)
            if part is None:
                raise EventArgumentError(f"the payload has an unknown part {name[:40]!r}")
            if value is not None:
                attribute, kind, said = part
                if type(value) is not kind:
                    raise EventArgumentError(f"the payload's {said}")
                setattr(call, attribute, value)
        if call.form:
            if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in call.form):
                raise EventArgumentError(f"the payload's {_PARTS['f'].said}")
            call.form = [(name, value) for name, value in call.form]
        call.is_form = body.get("f") is not None
        if query:
            call.query = [(name, value) for name, value in query if name != "_id"]
            if call.instance_id is None:
                call.instance_id = dict(query).get("_id")
        return call


class _Part(NamedTuple):
    """A part of an event's payload: where a call has it, of which type it is, and what is said of another."""

    attribute: str
    kind: type
    said: str


_PARTS: Final = {
    "a": _Part("explicit", dict, "part 'a' must be an object"),
    "b": _Part("bound", dict, "part 'b' must be an object"),
    "f": _Part("form", list, "form must be a list of names and values"),
    "i": _Part("instance_id", str, "state id must be a string"),
    "q": _Part("sequence", int, "sequence must be a number"),
    "s": _Part("signals", dict, "part 's' must be an object"),
    "v": _Part("version", str, "version must be a string"),
    "w": _Part("tokens", list, "tokens must be a list"),
}
"""The parts of an event's payload, as the page names them."""


def tokens_of(body: Any) -> list[Any]:
    """The tokens in a payload. Raises `EventArgumentError` where there can be none."""
    found = body.get("w") if isinstance(body, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise EventArgumentError("the payload's tokens must be a list")
    return found


class Effect(NamedTuple):
    """One committed step of an event, as its own page sees it: frames (bytes) for the stream or the answer."""

    frames: bytes
    repeated: bool
    version: str | None = None
    """What the event's state is at, where the event expects a version."""


async def verify_tokens(context: RequestContext, tokens: Sequence[Any], *, again: bool = False) -> list[WatchToken]:
    """Returns the content of these tokens, all genuine and of this very session and user.

    Raises `StaleTokens` for one of another session or user, or too old, and `ForgedTokens` for one that is not genuine.
    """
    if not tokens:
        return []
    provider, expected = context.provider, await context.binding()
    if not _is_long(tokens):
        return _genuine(provider, tokens, expected, again=again)
    found: list[WatchToken] = []
    work = 0.0
    for at in range(0, len(tokens), PORTION):
        before = provider.signer.work
        found += _genuine(provider, tokens[at : at + PORTION], expected, again=again)
        work += provider.signer.work - before
        await asyncio.sleep(0)
    provider.event_rates.charge(context.session_id(), context.address, work / EVENT_WORK)
    return found


def _is_long(tokens: Sequence[Any]) -> bool:
    return sum(len(token) for token in tokens if isinstance(token, str)) > LONG


def _genuine(provider: StateProvider, tokens: Sequence[Any], expected: str, *, again: bool = True) -> list[WatchToken]:
    """Returns the content of tokens that were made for the session and user `expected`; as `verify_tokens`.

    They are remembered where they will come `again` soon.
    """
    found: list[WatchToken] = []
    verify, stale = provider.signer.verify, False
    for token in tokens:
        verified = verify(token, again=again)
        if verified is None:
            raise ForgedTokens("the page's token is not genuine")
        if verified.expired or verified.binding != expected:
            stale = True
        found.append(verified)
    if stale:
        raise StaleTokens
    return found


class _Watched:
    """The states that a page shows, by its tokens: of many, only those asked about are verified. Lifetime: the event.

    `shown` is what the verified ones show; `claimed` holds the others by what they claim to show.
    """

    __slots__ = ("_context", "_expected", "claimed", "shown")

    def __init__(self, context: RequestContext, expected: str, shown: Sequence[Shown]) -> None:
        self._context = context
        self._expected = expected
        self.shown = shown
        self.claimed: dict[tuple[str, str | None], list[Any]] = {}

    @classmethod
    async def by_many(cls, context: RequestContext, expected: str, tokens: Sequence[Any]) -> _Watched:
        """By many tokens. The first is verified in any case: it tells whether the page is of this session and user."""
        made = cls(context, expected, ())
        unread = [tokens[0]]
        for token in tokens[1:]:
            claims = context.provider.signer.claims(token)
            if claims is None:
                unread.append(token)
            for own in claims or ():
                made.claimed.setdefault(own, []).append(token)
        made.shown = list(_shown_by(await verify_tokens(context, unread, again=True)))
        return made

    def views(self, name: str, instance_id: str | None) -> list[tuple[str, ...]]:
        """The views of a state that the page shows, by each of its tokens; none where it does not show the state.

        Raises as `verify_tokens`.
        """
        if self.claimed and (tokens := self.claimed.pop((name, instance_id), None)):
            self.shown = [*self.shown, *_shown_by(_genuine(self._context.provider, tokens, self._expected))]
        return [shown.views for shown in self.shown if shown.name == name and shown.instance_id == instance_id]

    async def all(self) -> Sequence[Shown]:
        """All that the page shows. Raises as `verify_tokens`."""
        tokens = list(dict.fromkeys(token for claiming in self.claimed.values() for token in claiming))
        self.claimed = {}
        self.shown = [*self.shown, *_shown_by(await verify_tokens(self._context, tokens, again=True))]
        return self.shown


def _shown_by(tokens: Sequence[WatchToken]) -> Sequence[Shown]:
    return tokens[0].shown if len(tokens) == 1 else [shown for token in tokens for shown in token.shown]


def _follows(
    context: RequestContext,
    user: UserContext | None,
    cls: type[ReactiveState],
    instance_id: str | None,
    live: SSEConnection,
) -> bool:
    try:
        return live.topic(context.provider.identify(cls, context, user, instance_id).key) is not None
    except IdentifierError:
        return False


def _ids(scope: StateScope, instance_id: str | None) -> dict[str, Any]:
    return {"record_id" if scope is StateScope.RECORD else "component_id": instance_id}


async def dispatch(
    context: RequestContext,
    call: Call,
    live: SSEConnection | None,
    take: Callable[[Effect], None],
    *,
    elsewhere: bool = False,
    again: bool = True,
) -> None:
    """Runs the event and gives to `take`, behind each committed step, what its own page sees of it.

    With a `live` connection, or one that another process has (`elsewhere`), the states' changes go down its stream, and
    the effects hold only what the event itself returned or yielded; without one they hold snapshots of the changed
    states too. One that began with a state which another process has ended meanwhile is begun `again`.

    Raises `UnknownEventError`, `EventArgumentError`, `AccessError`s, `StaleTokens`, `ForgedTokens`, `LockTimeoutError`,
    and what the event raises; an `EventConflictError` behind an effect with the state as it is.
    """
    provider = context.provider
    cls = provider.class_named(call.state)
    if cls is None:
        raise UnknownEventError(f"there is no state {call.state[:100]!r}")
    schema = cls._fs_schema()
    event = schema.events.get(call.event)
    if event is None:
        raise UnknownEventError(f"{call.state} has no event {call.event[:100]!r}")
    # Loaded once: nobody signs in any more before the event itself runs.
    user = context.known_user if context.knows_user() else await context.user()
    session_id = context.session_id()
    config = provider.config_of(cls)
    watched: _Watched | None = None
    is_followed = False
    if call.tokens:
        expected = binding(session_id, user.id if user else None)
        if not _is_long(call.tokens):
            watched = _Watched(context, expected, _shown_by(_genuine(provider, call.tokens, expected)))
        else:
            # A page with many tokens has shown them all when it opened its stream: what that follows needs no proof.
            is_followed = (
                live is not None
                and expected == binding(live.session_id, live.user_id)
                and (not config.has_ids or _follows(context, user, cls, call.instance_id, live))
            )
            if not is_followed:
                watched = await _Watched.by_many(context, expected, call.tokens)
    ids: dict[str, Any] = {}
    if config.has_ids:
        if not is_followed and not (watched is not None and watched.views(call.state, call.instance_id)):
            raise ForgedTokens(f"no page of this session shows that {call.state}")
        ids = _ids(config.scope, call.instance_id)
    elif call.instance_id is not None:
        raise EventArgumentError(f"{call.state} has no ids")
    if config.scope is StateScope.TEMPORARY:
        await _refuse_to_remake(context, call.state, call.instance_id, lookup="with lock")
    try:
        entry, guard = await provider.resolve_as(user, context, event.name, cls, rule=event.rule, **ids)
    except StateNotFoundError:
        if live is None and not elsewhere:  # else its stream has told the page
            parts = watched.views(call.state, call.instance_id) if watched is not None else ()
            views = {view for part in parts for view in part}
            take(
                Effect(vanish_frame(namespace_of(call.state, call.instance_id), schema.signals, views), repeated=False)
            )
        raise
    if event.expect_version and not call.version:
        raise EventArgumentError(
            f"{call.state}.{event.name} expects the version that the page shows: send it with .on(...) or .post(...)"
        )
    typed_arguments = event.arguments
    signals = {**call.bound, **call.signals} if call.bound else call.signals
    accepted = typed_arguments.accept(
        call.explicit, call.form, call.query, signals, is_form=call.is_form, wait=provider.registry.locks.timeout
    )
    arguments = typed_arguments.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
    others: Mapping[str, Entry] = {}
    guards: list[Guard] = []
    if typed_arguments.states:
        others, guards = await _others(user, context, f"{call.state}.{event.name}", event, entry.identifier, arguments)
    if guard is not None:
        guards.append(guard)
    bound = _bound_values(cls, call.bound, schema.hidden_from(user)) if call.bound else {} if schema.bound else None
    has_stream = live is not None or elsewhere
    run = _PageRun(
        context, call, live, elsewhere, take, user, session_id, event, entry, bound, None if has_stream else watched
    )
    token = origin_of_commits.set(run)
    is_outdated = False
    try:
        await run_event(
            provider.registry,
            entry,
            event,
            arguments,
            others,
            run,
            nonce=f"{session_id or context.session_id()}:{call.nonce}" if call.nonce else None,
            expected=call.version if event.expect_version else None,
            guards=guards,
            limit=provider.event_timeout,
        )
    except EventConflictError:
        await run.show_as_it_is()
        raise
    except OutdatedError as error:
        if run.has_locks or not again:
            raise
        if config.scope is StateScope.TEMPORARY:
            raise StaleTokens from error
        is_outdated = True  # it was looked up with its lock, and was another process's by then, or nobody's
    finally:
        run.open = False
        if run.presence is not None:
            run.presence.end()
        origin_of_commits.reset(token)
    if is_outdated:
        await dispatch(context, call, live, take, elsewhere=elsewhere, again=False)


class _Presence:
    """Watches whether the client of an event still waits for its answer. Lifetime: the event.

    It begins to listen when it is asked first, since most events are over before anybody asks. The body has been read
    by then, so the server has nothing to give any more but word of the end: of the connection, or of a later answer.
    """

    __slots__ = ("_at", "_listening", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._listening: asyncio.Task[None] | None = None
        self._at: float | None = None

    def gone_at(self) -> float | None:
        """When (the loop's time) the client was found to have gone, None while it is there."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="faststate-presence")
            self._listening.add_done_callback(_ignore)
        return self._at

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._at = asyncio.get_running_loop().time()
                return
            await asyncio.sleep(1)  # a server that gives more of the body than there is

    def end(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()


def _ignore(task: asyncio.Task[None]) -> None:
    """Take note of how a task has ended, so that asyncio does not report it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a client's presence is not known: %r", error)


class _PageRun(Origin, Run):
    """An event that a page has sent. Lifetime: the event.

    `bound` are the fields to set before it, `watched` what the page shows and has no stream for, `take` is given the
    effects.
    """

    __slots__ = (
        "_alone_since", "_bound", "_call", "_context", "_entry", "_event", "_live", "_provider",
        "_take", "_typed", "_user", "_watched", "has_begun", "presence",
    )  # fmt: skip

    def __init__(
        self,
        context: RequestContext,
        call: Call,
        live: SSEConnection | None,
        elsewhere: bool,
        take: Callable[[Effect], None],
        user: UserContext | None,
        session_id: str | None,
        event: Event[Any, Any],
        entry: Entry,
        bound: Mapping[str, Any] | None,
        watched: _Watched | None,
    ) -> None:
        self._provider = context.provider
        self._context = context
        self._call = call
        self._live = live
        self._take = take
        self._user = user
        self._event = event
        self._entry = entry
        self._bound = bound
        self._watched = watched
        self._typed: Mapping[str, Any] = _NOTHING  # bound fields as the page showed them when it sent the event
        self.has_begun = False
        """Whether a step of it was committed."""
        self.presence: _Presence | None = None
        """The task that listens for the end of the client, once somebody has asked for that."""
        self._alone_since: float | None = None  # since when nobody is there to see what it does
        self.connection_id = live.id if live is not None else call.connection_id if elsewhere else None
        self.key = entry.identifier.key
        self.echo = _NOTHING
        self.session_id = session_id
        self.elsewhere = elsewhere
        self.open = True
        self.commits = []

    def acting(self) -> str | None:
        return self._context.session_id()

    def still_current(self) -> None:
        sessions, session_id = self._provider.sessions, self._context.session_id()
        if session_id is not None and sessions.ended.is_ended(session_id):
            raise StaleTokens  # signed out while this waited for its turn
        if self._user is not None and sessions.rights.changed(self._user, self._context.since):
            raise AuthorizationError("your rights have changed just now: please try again")

    def bound(self) -> Mapping[str, Any]:
        bound, number, page = self._bound, self._call.sequence, self.connection_id
        if bound is None:
            return _NOTHING  # whose order is of use to nobody, where the class has none
        if number is not None:
            shared = self._provider.shared_part(self.key)
            if shared is not None and page is not None:
                is_newest = shared.note_typed(page, number)
            else:
                is_newest = self._live is None or self._live.note_typed(self.key, number)
            if not is_newest:
                return _NOTHING  # overtaken on the way: what the page has sent since is newer than what it had typed
        if bound:
            self.echo = self._typed = {name: to_wire(value) for name, value in bound.items()}
        return bound

    def wants_more(self) -> bool:
        """False when its client has gone for good: its request was given up, and its page has had no stream since."""
        if self.presence is None:
            if self._call.receive is None:
                return True
            self.presence = _Presence(self._call.receive)
        if (gone_at := self.presence.gone_at()) is None:
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
        """Tells whether the page has its stream, or came back: a later one of its session follows the state."""
        manager = self._provider.sse_manager
        first = self._live.connected_at if self._live is not None else None
        for connection in manager.connections_of(session_id=self._context.session_id()):
            if connection.closed or connection.silent:
                continue
            is_later = first is None or connection.connected_at > first
            if connection.id == connection_id or (is_later and connection.topic(self.key) is not None):
                return True
        return False

    def render(self, result: Any) -> bytes:
        return b"" if result is None else _frames_of(self._event, result)

    def take(self, step: Step) -> Awaitable[None] | None:
        provider = self._provider
        provider.events += not (step.repeated or self.has_begun)
        provider.repeated += step.repeated
        self.has_begun = True
        if self._watched is not None:
            return self._take_with_snapshots(step)
        self._tell(b"", step)
        return None

    async def _take_with_snapshots(self, step: Step) -> None:
        if step.repeated:  # the first answer was lost, and with it what had changed
            shown = await self._watched.all() if self._watched is not None else ()
            frames = await self._snapshots((await _followed(self._context, shown)).states)
        else:
            frames = await self._snapshots(self._changed([commit.new for commit in self.commits]))
        self._tell(frames, step)

    def _changed(self, states: Sequence[ReactiveState]) -> dict[str, tuple[Entry, set[str]]]:
        """Those of the changed `states` that the page shows, by key, with their views there.

        Only these are looked up: a page may show a thousand, and have them all be found again at every click.
        """
        found: dict[str, tuple[Entry, set[str]]] = {}
        for state in states:
            identifier = state._committed.identifier
            views: list[tuple[str, ...]] = []
            if self._watched is not None:
                with contextlib.suppress(StaleTokens, ForgedTokens):  # of another session's state, so it is not shown
                    views = self._watched.views(identifier.cls_name, identifier.instance_id)
            entry = self._provider.registry.find(identifier.key)
            if not views or entry is None:
                continue
            with contextlib.suppress(IdentifierError):  # nobody is signed in any more, whose state it would be
                own = self._provider.identify(type(state), self._context, self._user, identifier.instance_id)
                if own.key == identifier.key:  # and not another session's or user's
                    found[identifier.key] = entry, {view for part in views for view in part}
        return found

    def _tell(self, frames: bytes, step: Step) -> None:
        if self._typed:
            frames += _corrections(self._provider, self.key, self._typed, self.commits)
            self._typed = _NOTHING
        self.commits.clear()
        version = None
        if self._event.expect_version:
            version = str((self._provider.registry.find(self.key) or self._entry).version)
        self._take(Effect(frames + step.result if step.result else frames, step.repeated, version))

    async def _snapshots(self, changed: Mapping[str, tuple[Entry, set[str]]]) -> bytes:
        return await _snapshots(self._provider, self._user, changed)

    async def show_as_it_is(self) -> None:
        """Has the page be sent the event's state as it is."""
        live = self._live
        if self.elsewhere:
            await self._provider.cluster.show(self.key, self.connection_id, self.session_id)
        elif live is None:
            self._take(Effect(await self._snapshots(self._changed([self._entry.state])), repeated=False))
        elif live.topic(self.key) is not None:
            live.notify(self.key, None)


def _refuse_ended(context: RequestContext) -> None:
    """Raises `StaleTokens` when the session has ended since the request came: its states are another one's by now."""
    session_id = context.session_id()
    if session_id is not None and context.provider.sessions.ended.is_ended(session_id):
        raise StaleTokens


async def _others(
    user: UserContext | None,
    context: RequestContext,
    action: str,
    event: Event[Any, Any],
    own: StateIdentifier,
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Entry], list[Guard]]:
    found, guards = {}, []
    for parameter in event.arguments.states:
        ids = taken_ids(parameter, own, arguments)
        found[parameter.name], guard = await context.provider.resolve_as(user, context, action, parameter.cls, **ids)
        if guard is not None:
            guards.append(guard)
    return found, guards


def _bound_values(cls: type[ReactiveState], given: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, Any]:
    schema = cls._fs_schema()
    for name in given:
        if name not in schema.bound:
            raise EventArgumentError(f"{cls.__name__} has no bound field {name[:100]!r}")
    # A page sends all bound fields, those too of which it was given but an empty signal.
    return {
        name: None if value == "" and name in schema.optional else value
        for name, value in given.items()
        if name not in hidden
    }


def _corrections(provider: StateProvider, key: str, typed: Mapping[str, Any], commits: Sequence[Commit]) -> bytes:
    """What the page typed, and the event has set back to what was committed before: no change, and news to the page."""
    state = provider.registry.peek(key)
    if state is None:
        return b""
    committed = state._committed
    told = {name for c in commits if c.new._committed.identifier == committed.identifier for name in c.delta}
    wrong = {
        name: committed.encoded[name]
        for name, value in typed.items()
        if name not in told and str(committed.encoded[name]) != str(value)
    }
    return signals_frame(nest(committed.namespace, wrong)) if wrong else b""


class Followed(NamedTuple):
    """What a page shows, by key, each with its views there; and, as frames, how to take away what it may not see.

    `gone` are frames too: they take away records that are no more, and say so. Of the states that are `unchanged` (by
    key, the snapshots) the page has been told all, by another process.
    """

    states: dict[str, tuple[Entry, set[str]]]
    vanish: bytes
    gone: bytes
    unchanged: Mapping[str, ReactiveState] = {}


async def _followed(context: RequestContext, shown: Sequence[Shown]) -> Followed:
    """What a page shows, as far as its user may see it.

    Raises `StaleTokens` for a TEMPORARY state that is gone: nothing but a new page can take its place.
    """
    provider = context.provider
    followed: dict[str, tuple[Entry, set[str]]] = {}
    vanish = gone = b""
    for name, instance_id, views in shown:
        cls = provider.class_named(name)
        if cls is None:
            continue
        scope = provider.config_of(cls).scope
        if scope is StateScope.TEMPORARY:
            await _refuse_to_remake(context, name, instance_id)
        try:
            entry, _ = await provider.resolve_for(READ, cls, context.connection, **_ids(scope, instance_id))
        except AccessError:
            vanish += vanish_frame(namespace_of(name, instance_id), cls._fs_schema().signals, views)
            continue
        except StateNotFoundError:
            gone += vanish_frame(namespace_of(name, instance_id), cls._fs_schema().signals, views) + message_frame(
                GONE, 404
            )
            continue
        except IdentifierError:
            continue
        followed.setdefault(entry.identifier.key, (entry, set()))[1].update(views)
    return Followed(followed, vanish, gone)


async def _followed_by_now(
    context: RequestContext, shown: Sequence[Shown], topics: dict[str, None], seen: int | None = None
) -> Followed:
    """As `_followed`; when it returns nothing has changed since the user was found to be allowed to see it.

    And other processes tell of each change from then on, as long as the `topics` are held. Up to the commit `seen` one
    of them has told the page of all that it follows.
    """
    provider = context.provider
    with provider.registry.lifetimes.holding() as held:
        while True:
            found = await _followed(context, shown)
            entries = [entry for entry, _ in found.states.values()]
            held.update(entry.identifier.key for entry in entries)
            if any(provider.registry.find(entry.identifier.key) is not entry for entry in entries):
                await asyncio.sleep(0)  # who has loaded it and was told of its end must be heard first
                continue  # deleted, or evicted, while the others were asked about
            if not await provider.cluster.follow(entries, topics):
                continue  # another process has changed it
            unchanged = await _unchanged(provider, entries, seen) if seen is not None else {}
            try:
                await provider.still_readable(context, entries)
            except AccessError:
                continue  # lost while the others were asked about
            if not any(entry.end is not None for entry in entries):
                return found._replace(unchanged=unchanged)


async def _unchanged(provider: StateProvider, entries: Sequence[Entry], seen: int) -> dict[str, ReactiveState]:
    """Those states, by key, that no process has changed behind the commit `seen`."""
    states = {entry.identifier.key: entry.state for entry in entries}
    last = await provider.cluster.last_changes(entries)
    return {key: states[key] for key, sequence in last.items() if sequence <= seen}


async def _refuse_to_remake(
    context: RequestContext, name: str, instance_id: str | None, lookup: Lookup = "now"
) -> None:
    if not await context.provider.is_kept(_temporary(context, name, instance_id), lookup=lookup):
        raise StaleTokens


def _temporary(context: RequestContext, name: str, instance_id: str | None) -> StateIdentifier:
    return StateIdentifier(StateScope.TEMPORARY, name, session_id=context.session_id(), component_id=instance_id)


async def _snapshots(
    provider: StateProvider,
    user: UserContext | None,
    changed: Mapping[str, tuple[Entry, set[str]]],
) -> bytes:
    """For a page without a stream: the states `changed` that it shows (by key), as they are now; a lost one vanishes.

    The event has been committed, so that nothing is raised here any more: a rule that fails has the page told nothing.
    """
    frames = {}
    for key, (entry, views) in changed.items():
        state, config = entry.state, provider.config_of(type(entry.state))
        if config.rule.restricts:
            try:
                async with asyncio.timeout(provider.registry.locks.timeout):
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


def _frames_of(event: Event[Any, Any], result: Any) -> bytes:
    """What an event returned or yielded, as frames. Raises `EventDefinitionError` for what cannot be shown."""
    if result is None:
        return b""
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
    """`location`, when a browser may be sent there: a path or an http(s) URL. Raises `EventDefinitionError` else."""
    try:
        parts = urlsplit(location.strip())
    except ValueError as error:
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL") from error
    if parts.scheme not in ("", "http", "https") or any(ord(c) < 32 for c in location):
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL")
    return location.strip()


async def open_connection(
    context: RequestContext, tokens: Sequence[Any], position: str | None, *, is_first: bool = True
) -> SSEConnection | bytes | None:
    """A registered connection for what the tokens show and the user may see; None when that is nothing.

    `position` is the stream id that the page has seen: states that changed since are waiting in the outbox. A page that
    had a stream before (not `is_first`) and may now see nothing gets frames (bytes) that say so. Raises `StaleTokens`,
    `ForgedTokens` and `LimitError`.
    """
    provider = context.provider
    shown = _shown_by(await verify_tokens(context, tokens, again=len(tokens) > MERGED_FROM))
    _refuse_too_many(provider, context)
    user = await context.user()
    _refuse_ended(context)  # it may have ended while the user was being loaded
    _refuse_too_many(provider, context)  # again, since many may have come this far at once
    connection = SSEConnection(
        provider.cluster.new_stream_id(),
        user=user,
        session_id=context.session_id(),
        address=network_of(context.address),
    )
    manager = provider.sse_manager
    manager.announce(connection)  # rights that change while they are asked about end it, as any other
    with provider.cluster.holding() as topics:
        try:
            # Behind it nothing is awaited: what is committed from now on is told to this connection.
            found = await _followed_by_now(context, shown, topics, provider.cluster.seen(position))
        except BaseException:
            manager.remove_connection(connection.id)
            raise
        return _opened(context, connection, found, position, is_first=is_first)


def _opened(
    context: RequestContext, connection: SSEConnection, found: Followed, position: str | None, *, is_first: bool
) -> SSEConnection | bytes | None:
    """What `open_connection` gives, when it is known what is `found` for the page to follow."""
    provider, manager, user = context.provider, context.provider.sse_manager, connection.user
    followed, vanish, gone, _ = found
    if provider.sessions.rights.changed(user, context.since):
        manager.dismiss(connection, reopen_frame())  # while the user was being loaded
    if connection.closed or connection.silent:
        return connection
    if not followed and not gone:
        manager.remove_connection(connection.id)
        return vanish + reload_frame() if vanish and not is_first else None
    hidden = {key: type(entry.state)._fs_schema().hidden_from(user) for key, (entry, _) in followed.items()}
    begins = {key: context.asked[key] for key in followed if key in context.asked}
    manager.add_connection(connection, followed, {key: views for key, (_, views) in followed.items()}, hidden, begins)
    epoch, number = [*(position or "").split("."), ""][:2]
    seen = int(number) if epoch == provider.registry.epoch and number.isdecimal() and len(number) < 20 else -1
    for key, (entry, _) in followed.items():
        # A page does not say what it could see: with rights that have changed, an old position is not enough. What one
        # has had and lost has vanished from the page, which has a position all the same.
        restricted = type(entry.state)._fs_schema().restricted
        may_have_vanished = not is_first and provider.config_of(type(entry.state)).rule.restricts
        is_news = entry.state._committed.commit > seen and found.unchanged.get(key) is not entry.state
        if is_news or restricted or may_have_vanished:
            connection.notify(key, None)
        asked = context.asked.get(key)
        if asked is not None and asked is not entry.state:
            # Commits come faster than its rule answers: shown is what may be, and the rest when it is known.
            provider.rechecks.ask_again(connection, key)
            audience = connection.audience(key)
            connection.send_frame(snapshot_frame(asked._seen(audience.hidden), audience.views))
    if vanish or gone:
        connection.send_frame(vanish + gone)
    return connection


async def tokens_instead(context: RequestContext, tokens: Sequence[Any]) -> Mapping[str, str | None]:
    """Returns what replaces the many tokens of a page (by name; None for no more), as `merged_tokens`.

    Raises as `verify_tokens`.
    """
    if len(tokens) <= MERGED_FROM:
        return {}
    return merged_tokens(context.provider.signer, await verify_tokens(context, tokens, again=True))


async def leave_page(context: RequestContext, tokens: Sequence[Any]) -> None:
    """Has the TEMPORARY states that the tokens show end soon: their page was left for good. Raises as `verify_tokens`.

    Not at once: a page that comes back from the browser's cache, and opens its stream, finds them as they were.
    """
    registry = context.provider.registry
    for name, instance_id, _ in _shown_by(await verify_tokens(context, tokens)):
        cls = context.provider.class_named(name)
        if cls is None or context.provider.config_of(cls).scope is not StateScope.TEMPORARY:
            continue
        identifier = _temporary(context, name, instance_id)
        if (entry := registry.find(identifier.key)) is not None:
            registry.lifetimes.keep_for(entry, min(LEFT_TTL, entry.ttl))
        else:
            await context.provider.cluster.end_soon(identifier.key, LEFT_TTL)


def _refuse_too_many(provider: StateProvider, context: RequestContext) -> None:
    manager = provider.sse_manager
    if manager.of_session.count(context.session_id() or "") >= provider.max_streams_per_session:
        raise LimitError(f"a session has at most {provider.max_streams_per_session} streams")
    if manager.of_address.count(network_of(context.address)) >= provider.max_streams_per_address:
        logger.warning(
            "%s has %d streams, the most that max_streams_per_address allows; behind a proxy the server must be told "
            "the clients' own addresses",
            context.address, provider.max_streams_per_address,
        )  # fmt: skip
        raise LimitError(f"an address has at most {provider.max_streams_per_address} streams")
