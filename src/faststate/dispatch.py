"""Dispatch: one event of one client, from its payload to its committed steps; and what a stream may follow."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from .auth import authorize, current_user
from .events import Event, RawArguments
from .exceptions import (
    AccessError,
    EventArgumentError,
    EventDefinitionError,
    IdentifierError,
    UnknownEventError,
)
from .page import RELOAD
from .provider import Origin, RequestContext, StateProvider, origin_of_commits
from .registry import Commit, Entry
from .scopes import StateIdentifier, StateScope
from .sse import SSEConnection, snapshot_frame
from .state import ReactiveState
from .tokens import Shown
from .transaction import run_event
from .views import render_ft
from .wire import depth_of, elements_frame, signals_frame, to_wire

__all__ = [
    "Call",
    "Effect",
    "ForgedTokens",
    "StaleTokens",
    "dispatch",
    "message_frame",
    "open_connection",
    "owner_of",
    "reload_frame",
    "safe_location",
    "tokens_of",
    "verify_tokens",
]

logger = logging.getLogger("faststate")

_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")
MAX_TOKENS: Final = 200
"""Tokens that one request may carry; each fragment of a page brings at most one."""


class StaleTokens(Exception):
    """The tokens are genuine, but of an earlier session or user, or too old: the page has to be loaded again."""


class ForgedTokens(AccessError):
    """A token that this app has not made, or an id that no token names."""


@dataclass(frozen=True, slots=True)
class Call:
    """One event as a client sent it, parsed and bounded, and not trusted. Lifetime: one request."""

    state: str
    event: str
    explicit: Mapping[str, Any]
    form: Sequence[tuple[str, Any]]
    query: Sequence[tuple[str, Any]]
    signals: Mapping[str, Any]
    bound: Mapping[str, Any]
    instance_id: str | None
    tokens: Sequence[Any]
    is_form: bool
    nonce: str | None
    sequence: int | None
    connection_id: str | None

    @classmethod
    def parse(
        cls,
        state: str,
        event: str,
        body: Any,
        query: Sequence[tuple[str, Any]],
        headers: Mapping[str, str],
        max_depth: int,
    ) -> Call:
        """A call, from the parsed JSON `body`. Raises `EventArgumentError` for anything that is not of its form."""
        if not isinstance(body, dict):
            raise EventArgumentError(f"the payload must be an object, not {type(body).__name__}")
        if depth_of(body) > max_depth:
            raise EventArgumentError(f"the payload is nested more than {max_depth} levels deep")
        unknown = set(body) - {"a", "f", "s", "b", "i", "q", "w"}
        if unknown:
            raise EventArgumentError(f"the payload has an unknown part {min(unknown)[:40]!r}")
        instance_id = body.get("i")
        if instance_id is not None and not isinstance(instance_id, str):
            raise EventArgumentError("the payload's state id must be a string")
        form = body.get("f")
        if form is not None and not (
            isinstance(form, list) and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in form)
        ):
            raise EventArgumentError("the payload's form must be a list of names and values")
        nonce = headers.get("faststate-nonce")
        if nonce is not None and not _NONCE.match(nonce):
            raise EventArgumentError("the nonce must be 8 to 64 letters, digits, hyphens or underscores")
        sequence = body.get("q")
        if sequence is not None and (isinstance(sequence, bool) or not isinstance(sequence, int)):
            raise EventArgumentError("the payload's sequence must be a number")
        return cls(
            state=state,
            event=event,
            explicit=_mapping(body, "a"),
            form=[(name, value) for name, value in form or ()],
            query=[(name, value) for name, value in query if name != "_id"],
            signals=_mapping(body, "s"),
            bound=_mapping(body, "b"),
            instance_id=instance_id if instance_id is not None else dict(query).get("_id"),
            tokens=tokens_of(body),
            is_form=form is not None,
            nonce=nonce,
            sequence=sequence,
            connection_id=headers.get("faststate-connection"),
        )


def _mapping(body: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = body.get(part)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise EventArgumentError(f"the payload's part {part!r} must be an object")
    return found


def tokens_of(body: Any) -> list[Any]:
    """The tokens in a payload. Raises `EventArgumentError` where there can be none, `StaleTokens` for too many."""
    found = body.get("w") if isinstance(body, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise EventArgumentError("the payload's tokens must be a list")
    if len(found) > MAX_TOKENS:
        raise StaleTokens  # a page that has collected so many starts anew
    return found


class Effect(NamedTuple):
    """One committed step of an event, as its own page sees it: frames (bytes) for the stream or the answer."""

    frames: bytes
    repeated: bool


async def verify_tokens(context: RequestContext, tokens: Sequence[Any]) -> list[Shown]:
    """What genuine tokens of this very session and user show.

    Raises `StaleTokens` for one of another session or user, or too old, and `ForgedTokens` for one that is not genuine.
    """
    shown: list[Shown] = []
    signer = context.provider.signer
    expected = await context.binding() if tokens else ""
    stale = False
    for token in tokens:
        verified = signer.verify(token)
        if verified is None:
            raise ForgedTokens("the page's token is not genuine")
        stale = stale or verified.expired or verified.binding != expected
        shown += verified.shown
    if stale:
        raise StaleTokens
    return shown


def _ids(scope: StateScope, instance_id: str | None) -> dict[str, Any]:
    return {"record_id" if scope is StateScope.RECORD else "component_id": instance_id}


async def dispatch(context: RequestContext, call: Call, live: SSEConnection | None) -> AsyncIterator[Effect]:
    """Runs the event and yields what its own page sees of each committed step.

    With a `live` connection the states' changes go down its stream, and the effects hold only what the event itself
    returned or yielded; without one they hold snapshots of the changed states too.

    Raises `UnknownEventError`, `EventArgumentError`, `AccessError`s, `StaleTokens`, `ForgedTokens`, `LockTimeoutError`,
    and what the event raises.
    """
    provider = context.provider
    cls = provider.class_named(call.state)
    if cls is None:
        raise UnknownEventError(f"there is no state {call.state[:100]!r}")
    schema = cls._fs_schema()
    event = schema.events.get(call.event)
    if event is None:
        raise UnknownEventError(f"{call.state} has no event {call.event[:100]!r}")
    shown = await verify_tokens(context, call.tokens)
    config = provider.config_of(cls)
    has_ids = config.scope in (StateScope.COMPONENT, StateScope.RECORD, StateScope.TEMPORARY)
    if has_ids and not any(s.name == call.state and s.instance_id == call.instance_id for s in shown):
        raise ForgedTokens(f"no page of this session shows that {call.state}")
    if not has_ids and call.instance_id is not None:
        raise EventArgumentError(f"{call.state} has no ids")
    request = context.connection
    if config.scope is StateScope.TEMPORARY:
        await _refuse_to_remake(context, call.state, call.instance_id)
    entry = await provider.resolve(cls, request, **_ids(config.scope, call.instance_id), show=False)
    user = await context.user()
    current_user.set(user)
    authorize(user, event.rule, owner_of(entry))
    arguments = event.arguments.validate(
        RawArguments(call.explicit, call.form, call.query, {**call.bound, **call.signals}, call.is_form)
    )
    arguments = {**event.arguments.defaults, **arguments}
    others = await _others(provider, context, event, arguments)
    bound = _bound_values(cls, call.bound)
    followed = {} if live is not None else await _followed(context, shown)
    key = entry.identifier.key
    origin = Origin(live.id if live is not None else None, key, {})

    def take_bound() -> Mapping[str, Any]:
        if live is not None and call.sequence is not None:
            if call.sequence < live.sequences.get(key, call.sequence):
                return {}  # overtaken on the way: what the page has sent since is newer than what it had typed then
            live.sequences[key] = call.sequence
        origin.echo = _echo(bound)
        return bound

    token = origin_of_commits.set(origin)
    try:
        steps = run_event(
            provider.registry,
            entry,
            event,
            arguments,
            others,
            bound=take_bound,
            nonce=f"{context.session_id()}:{call.nonce}" if call.nonce else None,
            render=lambda result: _frames_of(event, result),
        )
        ran = False
        async for step in steps:
            provider.events += not (step.repeated or ran)
            ran = True
            provider.repeated += step.repeated
            if step.repeated:  # the first answer was lost, and with it what had changed
                frames = b"".join(snapshot_frame(e.state, frozenset(views)) for e, views in followed.values())
            else:
                frames = _snapshots(origin.commits, followed)
            origin.commits.clear()
            yield Effect(frames + (step.result or b""), step.repeated)
    finally:
        origin.open = False
        origin_of_commits.reset(token)


async def _others(
    provider: StateProvider, context: RequestContext, event: Event[Any, Any], arguments: Mapping[str, Any]
) -> dict[str, Entry]:
    found = {}
    for parameter in event.arguments.states:
        component = parameter.component.component_id if parameter.component else None
        record = None
        if parameter.record is not None:
            record = arguments.get(parameter.record.argument)
            if record is None:
                raise EventDefinitionError(
                    f"{event.name}: {parameter.name} is the record whose id is the argument "
                    f"{parameter.record.argument!r}, which it has not"
                )
        found[parameter.name] = await provider.resolve(
            parameter.cls, context.connection, component_id=component, record_id=record, show=False
        )
    return found


def owner_of(entry: Entry) -> Any:
    """The id of a state's owner: its field `user_id` or `owner_id`, else the user of its key; None for nobody."""
    state = entry.state
    for name in ("user_id", "owner_id"):
        if name in type(state).model_fields and getattr(state, name) is not None:
            return getattr(state, name)
    return entry.identifier.user_id


def _bound_values(cls: type[ReactiveState], given: Mapping[str, Any]) -> dict[str, Any]:
    schema = cls._fs_schema()
    for name in given:
        if name not in schema.bound:
            raise EventArgumentError(f"{cls.__name__} has no bound field {name[:100]!r}")
    return {name: None if value == "" and name in schema.optional else value for name, value in given.items()}


def _echo(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_wire(value) for name, value in given.items()}


async def _followed(context: RequestContext, shown: Sequence[Shown]) -> dict[str, tuple[Entry, set[str]]]:
    """The states that a page shows and its user may see, by key, each with its views shown there.

    Raises `StaleTokens` for a TEMPORARY state that is gone: nothing but a new page can take its place.
    """
    provider = context.provider
    followed: dict[str, tuple[Entry, set[str]]] = {}
    for name, instance_id, views in shown:
        cls = provider.class_named(name)
        if cls is None:
            continue
        scope = provider.config_of(cls).scope
        if scope is StateScope.TEMPORARY:
            await _refuse_to_remake(context, name, instance_id)
        try:
            entry = await provider.resolve(cls, context.connection, **_ids(scope, instance_id), show=False)
        except (AccessError, IdentifierError):
            continue
        followed.setdefault(entry.identifier.key, (entry, set()))[1].update(views)
    return followed


async def _refuse_to_remake(context: RequestContext, name: str, instance_id: str | None) -> None:
    identifier = StateIdentifier(StateScope.TEMPORARY, name, session_id=context.session_id(), component_id=instance_id)
    if identifier.key not in context.provider.registry:
        raise StaleTokens


def _snapshots(commits: Sequence[Commit], followed: Mapping[str, tuple[Entry, set[str]]]) -> bytes:
    """For a page without a stream: the changed states that it shows, as they are now."""
    frames = {}
    for commit in commits:
        key = commit.new._committed.identifier.key
        if key in followed:
            frames[key] = snapshot_frame(commit.new, frozenset(followed[key][1]))
    return b"".join(frames.values())


def _frames_of(event: Event[Any, Any], result: Any) -> bytes:
    """What an event returned or yielded, as frames. Raises `EventDefinitionError` for what cannot be shown."""
    if result is None:
        return b""
    location = getattr(result, "loc", None)
    if hasattr(result, "__response__") and isinstance(location, str):
        return signals_frame({"_fs": {"go": safe_location(location)}})
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
    parts = urlsplit(location.strip())
    if parts.scheme not in ("", "http", "https") or any(ord(c) < 32 for c in location):
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL")
    return location.strip()


def message_frame(message: str) -> bytes:
    """The frame that shows `message` to the user of the page."""
    return signals_frame({"_fs": {"err": message}})


def reload_frame() -> bytes:
    """The frame that has the page load itself again."""
    return signals_frame({"_fs": {"go": RELOAD}})


async def open_connection(context: RequestContext, tokens: Sequence[Any], position: str | None) -> SSEConnection | None:
    """A registered connection for what the tokens show and the user may see; None when that is nothing.

    `position` is the stream id that the page has seen: states that changed since are waiting in the outbox. Raises
    `StaleTokens` and `ForgedTokens`.
    """
    provider = context.provider
    shown = await verify_tokens(context, tokens)
    followed = await _followed(context, shown)
    if not followed:
        return None
    user = await context.user()
    connection = SSEConnection(user_id=user.id if user else None, session_id=context.session_id())
    provider.sse_manager.add_connection(connection, followed, {key: views for key, (_, views) in followed.items()})
    epoch, _, number = (position or "").partition(".")
    seen = int(number) if epoch == provider.registry.epoch and number.isdecimal() and len(number) < 20 else -1
    for key, (entry, _) in followed.items():
        if entry.state._committed.commit > seen:
            connection.notify(key, None)
    return connection
