"""An event as a client sent it: its payload, parsed and bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from starlette.types import Receive

from ..exceptions import EventArgumentError

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

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


def tokens_of(body: Any) -> list[Any]:
    """Return the tokens in a payload. Raises `EventArgumentError` if they are not a list."""
    found = body.get("w") if isinstance(body, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise EventArgumentError("the payload's tokens must be a list")
    return found
