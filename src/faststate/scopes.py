"""Scopes, identifiers and versions. Only this module builds and parses the keys of states."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote
from uuid import UUID

from .exceptions import IdentifierError

__all__ = ["MAX_ID_LENGTH", "Id", "StateIdentifier", "StateScope", "Version", "namespace_of"]

Id = str | int | UUID
"""The types of ids that callers may pass. Identifiers keep ids as `str`."""

MAX_ID_LENGTH: Final = 512
"""Longest id, in characters. Ids are part of keys and tokens, which must not grow without limit."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


class StateScope(Enum):
    """The scope of a state: who shares it."""

    GLOBAL = "global"
    SESSION = "session"
    USER = "user"
    COMPONENT = "component"
    RECORD = "record"
    TEMPORARY = "temporary"

    __hash__ = object.__hash__  # every lookup by scope calls it, and Enum's own takes 0.2 us longer


_SEGMENTS: Final[dict[StateScope, tuple[tuple[str, str | None], ...]]] = {
    StateScope.GLOBAL: (),
    StateScope.SESSION: (("", "session_id"),),
    StateScope.USER: (("user", "user_id"),),
    StateScope.COMPONENT: (("", "session_id"), ("component", None), ("", "component_id")),
    StateScope.RECORD: (("", "record_id"),),
    StateScope.TEMPORARY: (("", "session_id"), ("", "component_id")),
}
"""The segments of a key after scope and class name: each a fixed text and the id behind it, if there is one."""

_NEEDS: Final = {
    scope: frozenset(name for _, name in segments if name is not None) for scope, segments in _SEGMENTS.items()
}


def _clean_id(what: str, value: Id) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise IdentifierError(f"{what} must be a str, an int or a UUID, not {type(value).__name__}")
    text = str(value)
    if not text:
        raise IdentifierError(f"{what} is empty")
    if len(text) > MAX_ID_LENGTH:
        raise IdentifierError(f"{what} has {len(text)} characters; the most is {MAX_ID_LENGTH}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise IdentifierError(f"{what} holds a lone surrogate") from None
    return text


class StateIdentifier:
    """Identifies one state by a scope, a class name and the ids that the scope needs. Immutable and hashable.

    Ids are `str`, `int` or `UUID`, and are kept as `str`, so 1 and "1" identify the same state. Ids that the scope does
    not need are dropped. The own id of a TEMPORARY state is its `component_id`.

    Raises `IdentifierError` (also a `ValueError`) if an id that the scope needs is None, empty, longer than
    `MAX_ID_LENGTH` or of another type, or if `cls_name` does not match `[A-Za-z][A-Za-z0-9_]*`.
    """

    __slots__ = (
        "cls_name", "component_id", "instance_id", "key", "namespace", "record_id", "scope", "session_id", "user_id",
    )  # fmt: skip

    scope: StateScope
    cls_name: str
    user_id: str | None
    session_id: str | None
    component_id: str | None
    record_id: str | None
    key: str
    instance_id: str | None
    """The id (str) that distinguishes states of one class on a page, or None if a page can have only one of them."""
    namespace: tuple[str, ...]
    """The path of this state's signals on a page: one or two segments of `[A-Za-z0-9_]`, like `("Counter", "left")`."""

    def __init__(
        self,
        scope: StateScope,
        cls_name: str,
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> None:
        if not isinstance(scope, StateScope):
            raise IdentifierError(f"scope must be a StateScope, not {scope!r}")
        if not isinstance(cls_name, str) or not _NAME.match(cls_name):
            raise IdentifierError(f"{cls_name!r} cannot name a state: use ASCII letters, digits and underscores")
        given = {"user_id": user_id, "session_id": session_id, "component_id": component_id, "record_id": record_id}
        put = object.__setattr__
        put(self, "scope", scope)
        put(self, "cls_name", cls_name)
        for name, value in given.items():
            if name not in _NEEDS[scope]:
                put(self, name, None)
            elif value is None:
                raise IdentifierError(f"a {scope.value} state of {cls_name} needs a {name}; it got None")
            else:
                put(self, name, _clean_id(name, value))
        parts = [scope.value, cls_name]
        for text, own in _SEGMENTS[scope]:
            parts.append(text if own is None else text + quote(getattr(self, own), safe=""))
        put(self, "key", ":".join(parts))
        put(self, "instance_id", self.record_id if scope is StateScope.RECORD else self.component_id)
        put(self, "namespace", namespace_of(cls_name, self.instance_id))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a StateIdentifier cannot be changed (tried to set {name!r})")

    def generate_key(self) -> str:
        """Return the key (str) of this state, which is also its topic: `session:Cart:8Hq…`. Ids are percent-encoded."""
        return self.key

    @classmethod
    def parse(cls, key: str) -> StateIdentifier:
        """Return the identifier whose `generate_key()` is `key`. Raises `IdentifierError` for any other text."""
        try:
            kind, cls_name, *rest = key.split(":")
            scope = StateScope(kind)
            ids = {
                name: unquote(segment.removeprefix(text), errors="strict")
                for segment, (text, name) in zip(rest, _SEGMENTS[scope], strict=True)
                if name is not None
            }
            found = cls(scope, cls_name, **ids)
        except ValueError as error:
            raise IdentifierError(f"{key!r} is not a state key") from error
        if found.key != key:  # another spelling of an id would be a second key of the same state
            raise IdentifierError(f"{key!r} is not a state key; it would be written {found.key!r}")
        return found

    def __reduce__(self) -> tuple[Any, ...]:  # copy and pickle cannot assign the attributes, so they parse the key
        return StateIdentifier.parse, (self.key,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateIdentifier) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"StateIdentifier({self.key!r})"


@lru_cache(maxsize=1_024)  # 0.1 us in place of up to 6
def namespace_of(cls_name: str, instance_id: str | None) -> tuple[str, ...]:
    """Return the path of a state's signals on a page, from its class name and its own id there."""
    return (cls_name,) if instance_id is None else (cls_name, signal_segment(instance_id))


def signal_segment(text: str) -> str:
    """Encode `text` as one segment of a Datastar signal path, one to one: all but `[A-Za-z0-9]` becomes `_<hex>_`.

    Datastar reads dots as nesting and hyphens as minus (signal paths are `[A-Za-z0-9_]`), and a segment `__proto__`
    would give access to JavaScript's own objects.
    """
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in text)


class Version(NamedTuple):
    """One version of a state.

    `number` (int) counts the commits of the state; `epoch` (str) is random, and is drawn when the state is created. Two
    versions are the same only if both are: a state that was lost and created again has another version 3.
    """

    epoch: str
    number: int

    def __str__(self) -> str:
        """Return the version in the form that pages use: `4f2a….7`."""
        return f"{self.epoch}.{self.number}"
