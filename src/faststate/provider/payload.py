"""An event as a client sent it: its payload, parsed and bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from starlette.types import Receive

from ..exceptions import EventArgumentError
from ..wire.values import depth_of

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

MOST_IN_BATCH: Final = 50
"""Most events in one request."""

_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")


class Call:
    """One event as a client sent it, parsed and bounded, but not trusted. Lifetime: one request."""

    explicit: Mapping[str, Any] = NOTHING
    form: Sequence[tuple[str, Any]] = ()
    query: Sequence[tuple[str, Any]] = ()
    signals: Mapping[str, Any] = NOTHING
    bound: Mapping[str, Any] = NOTHING
    instance_id: str | None = None
    tokens: Sequence[Any] = ()
    is_form = False
    sequence: int | None = None
    version: str | None = None
    age: int | None = None
    receive: Receive | None = None
    """ASGI's `receive` of the request, whose body has been read: it tells when the client has gone."""

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
        """Make a call from the parsed JSON `body`. Raises `EventArgumentError` for what does not have its form."""
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
                if type(value) is not part.kind:
                    raise EventArgumentError(f"the payload's {part.message}")
                setattr(call, part.attribute, value)
        if call.form:
            if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in call.form):
                raise EventArgumentError(f"the payload's {_PARTS['f'].message}")
            call.form = [(name, value) for name, value in call.form]
        call.is_form = body.get("f") is not None
        if query:
            call.query = [(name, value) for name, value in query if name != "_id"]
            if call.instance_id is None:
                call.instance_id = dict(query).get("_id")
        return call


class _Part(NamedTuple):
    """A part of an event's payload: its attribute of a call, its type, and the message for any other type."""

    attribute: str
    kind: type
    message: str


_PARTS: Final = {
    "a": _Part("explicit", dict, "part 'a' must be an object"),
    "b": _Part("bound", dict, "part 'b' must be an object"),
    "f": _Part("form", list, "form must be a list of names and values"),
    "i": _Part("instance_id", str, "state id must be a string"),
    "q": _Part("sequence", int, "sequence must be a number"),
    "s": _Part("signals", dict, "part 's' must be an object"),
    "t": _Part("age", int, "age must be a number of milliseconds"),
    "v": _Part("version", str, "version must be a string"),
    "w": _Part("tokens", list, "tokens must be a list"),
}
"""The parts of an event's payload, by the names that the page gives them."""


def fingerprints_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fingerprints of classes in a stream's payload. Raises `EventArgumentError` if they are no object."""
    found = body.get("d")
    if found is None:
        return NOTHING
    if not isinstance(found, dict):
        raise EventArgumentError("the payload's fingerprints must be an object")
    return found


class BatchTooLong(EventArgumentError):
    """A request brings more than `MOST_IN_BATCH` events."""

    status = 413


def parse_batch(body: Any, max_depth: int, connection_id: str | None) -> dict[str, Call | EventArgumentError]:
    """Return the events of a batch (the parsed JSON `body`) by their nonces, in their order.

    An event that does not have its form is the error that says so. Raises `EventArgumentError` if the batch itself does
    not have its form: it has no list of events, or one of them cannot be named in the answer.
    """
    if not isinstance(body, dict):
        raise EventArgumentError(f"the payload must be an object, not {type(body).__name__}")
    if unknown := body.keys() - {"e", "w"}:
        raise EventArgumentError(f"the payload has an unknown part {min(unknown)[:40]!r}")
    tokens, events = tokens_of(body), body.get("e")
    if depth_of(tokens) > max_depth:
        raise EventArgumentError(f"the payload's tokens are nested more than {max_depth} levels deep")
    if not isinstance(events, list) or not events:
        raise EventArgumentError("the payload's part 'e' must be a list of events")
    if len(events) > MOST_IN_BATCH:
        raise BatchTooLong(f"the payload has {len(events)} events; the most is {MOST_IN_BATCH}")
    found: dict[str, Call | EventArgumentError] = {}
    for event in events:
        nonce = event.get("k") if isinstance(event, dict) else None
        if not isinstance(nonce, str) or not _NONCE.match(nonce):
            raise EventArgumentError("each event is an object with a nonce 'k' of 8 to 64 letters and digits")
        if nonce in found:
            raise EventArgumentError("two events of the payload have the same nonce")
        try:
            found[nonce] = _parse_batched(event, max_depth, tokens, nonce, connection_id)
        except EventArgumentError as error:
            found[nonce] = error
    return found


def _parse_batched(
    event: dict[str, Any], max_depth: int, tokens: list[Any], nonce: str, connection_id: str | None
) -> Call:
    """Make a call from one event of a batch, in which "s" and "e" name the state and the event, and "g" are signals."""
    if depth_of(event) > max_depth:
        raise EventArgumentError(f"the event is nested more than {max_depth} levels deep")
    if "w" in event:
        raise EventArgumentError("the payload has an unknown part 'w'")
    state, name = event.get("s"), event.get("e")
    if not isinstance(state, str) or not isinstance(name, str):
        raise EventArgumentError("the payload's parts 's' and 'e' must be the names of a state and of an event")
    parts = {part: value for part, value in event.items() if part not in ("s", "e", "k", "g")}
    return Call.parse(state, name, {**parts, "s": event.get("g"), "w": tokens}, (), nonce, connection_id)


def tokens_of(body: Any) -> list[Any]:
    """Return the tokens in a payload. Raises `EventArgumentError` if they are not a list."""
    found = body.get("w") if isinstance(body, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise EventArgumentError("the payload's tokens must be a list")
    return found
