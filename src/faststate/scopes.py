"""Scopes, identifiers and versions. No other module builds state keys or parses them."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote
from uuid import UUID

from .exceptions import IdentifierError

__all__ = ["MAX_ID_LENGTH", "Id", "StateIdentifier", "StateScope", "Version", "namespace_of"]

Id = str | int | UUID
"""What callers may give as an id; identifiers keep ids as `str`."""

MAX_ID_LENGTH: Final = 512
"""Longest id, in characters. Ids reach keys, tokens and stores; none of them should grow without bound."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9]+\Z")


class StateScope(Enum):
    """Who shares one state."""

    GLOBAL = "global"
    SESSION = "session"
    USER = "user"
    COMPONENT = "component"
    RECORD = "record"
    TEMPORARY = "temporary"

    __hash__ = object.__hash__  # Enum's own is written in Python, and each look-up by scope asks for it


_NEEDS: Final[dict[StateScope, tuple[str, ...]]] = {
    StateScope.GLOBAL: (),
    StateScope.SESSION: ("session_id",),
    StateScope.USER: ("user_id",),
    StateScope.COMPONENT: ("session_id", "component_id"),
    StateScope.RECORD: ("record_id",),
    StateScope.TEMPORARY: ("session_id", "component_id"),
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
    """Names one state: a scope, a class name and the ids which that scope needs. Immutable, hashable.

    Ids are `str`, `int` or `UUID` and are kept as `str`, so that 1 and "1" name one state. Ids that the scope does not
    need are dropped. A TEMPORARY state's own id is its `component_id`.

    Raises `IdentifierError` (also a `ValueError`) when an id that the scope needs is None, empty, longer than
    `MAX_ID_LENGTH` or of another type, or when `cls_name` is not of the form `[A-Za-z][A-Za-z0-9_]*`.
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
    """The id (str) which tells the states of one class apart on a page, or None where a page can have but one."""
    namespace: tuple[str, ...]
    """Path of this state's signals on a page, one or two segments of `[A-Za-z0-9_]`: `("Counter", "left")`."""

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
        given = {
            "user_id": user_id,
            "session_id": session_id,
            "component_id": component_id,
            "record_id": record_id,
        }
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
        put(self, "key", self._build())
        put(self, "instance_id", self.record_id if scope is StateScope.RECORD else self.component_id)
        put(self, "namespace", namespace_of(cls_name, self.instance_id))

    def _build(self) -> str:
        parts = [self.scope.value, self.cls_name]
        match self.scope:
            case StateScope.SESSION:
                parts += [_quote(self.session_id)]
            case StateScope.USER:
                parts += ["user" + _quote(self.user_id)]
            case StateScope.COMPONENT:
                parts += [_quote(self.session_id), "component", _quote(self.component_id)]
            case StateScope.RECORD:
                parts += [_quote(self.record_id)]
            case StateScope.TEMPORARY:
                parts += [_quote(self.session_id), _quote(self.component_id)]
        return ":".join(parts)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a StateIdentifier cannot be changed (tried to set {name!r})")

    def generate_key(self) -> str:
        """The key (str) of this state, which is its topic too: `session:Cart:8Hq…`. Ids are percent-encoded."""
        return self.key

    @classmethod
    def parse(cls, key: str) -> StateIdentifier:
        """The identifier that `generate_key()` made `key` of. Raises `IdentifierError` for any other text."""
        parts = key.split(":")
        try:
            scope = StateScope(parts[0])
            name, rest = parts[1], parts[2:]
            match scope, rest:
                case StateScope.GLOBAL, []:
                    found = cls(scope, name)
                case StateScope.SESSION, [sid]:
                    found = cls(scope, name, session_id=unquote(sid, errors="strict"))
                case StateScope.USER, [uid] if uid.startswith("user"):
                    found = cls(scope, name, user_id=unquote(uid[4:], errors="strict"))
                case StateScope.COMPONENT, [sid, "component", cid]:
                    found = cls(
                        scope,
                        name,
                        session_id=unquote(sid, errors="strict"),
                        component_id=unquote(cid, errors="strict"),
                    )
                case StateScope.RECORD, [rid]:
                    found = cls(scope, name, record_id=unquote(rid, errors="strict"))
                case StateScope.TEMPORARY, [sid, tid]:
                    found = cls(
                        scope,
                        name,
                        session_id=unquote(sid, errors="strict"),
                        component_id=unquote(tid, errors="strict"),
                    )
                case _:
                    raise IdentifierError(f"{key!r} is not a state key")
        except (ValueError, IndexError) as error:
            raise IdentifierError(f"{key!r} is not a state key") from error
        if found.key != key:  # another spelling of an id would be a second key for one state
            raise IdentifierError(f"{key!r} is not a state key; it would be written {found.key!r}")
        return found

    def __reduce__(self) -> tuple[Any, ...]:  # how copy and pickle make another one of what cannot be assigned to
        return StateIdentifier.parse, (self.key,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateIdentifier) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"StateIdentifier({self.key!r})"


def _quote(text: str | None) -> str:
    return quote(cast(str, text), safe="")  # __init__ raised for a missing id


@lru_cache(maxsize=1_024)
def namespace_of(cls_name: str, instance_id: str | None) -> tuple[str, ...]:
    """Path of a state's signals on a page, by the name of its class and its own id there."""
    return (cls_name,) if instance_id is None else (cls_name, signal_segment(instance_id))


def signal_segment(text: str) -> str:
    """`text` as one segment of a Datastar signal path, one to one: `[A-Za-z0-9]` stay, all else becomes `_<hex>_`.

    Datastar reads dots as nesting and hyphens as minus (signal paths are `[A-Za-z0-9_]`), and a segment `__proto__`
    would reach into JavaScript's own objects.
    """
    if _PLAIN_SEGMENT.match(text):
        return text
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in text)


class Version(NamedTuple):
    """Which version of which life of a state.

    `epoch` (str) is drawn anew when a state is made, `number` (int) counts its commits. Two versions are one only when
    both agree: version 3 of a state that was lost and made anew is not version 3 of the former one.
    """

    epoch: str
    number: int

    def __str__(self) -> str:
        """As a page has it: `4f2a….7`."""
        return f"{self.epoch}.{self.number}"
