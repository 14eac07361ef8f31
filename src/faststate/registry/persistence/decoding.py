"""Decoding: the bytes of a store as field values again. They become a state when its class validates them."""

from __future__ import annotations

import base64
import datetime
import decimal
import fractions
import re
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import TzInfo, from_json

from ...validation.revalidation import revalidation_of
from .encoding import TAG
from .leaves import IP_CLASSES, PATH_CLASSES, URL_CLASSES


class _Record(dict[str, Any]):
    """The fields of a model or dataclass that is a key or in a set, until validation makes it what it was."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


def _hashable(value: Any) -> Any:
    if type(value) is dict:
        return _Record(value)
    return tuple(map(_hashable, value)) if type(value) is tuple else value


def _text(payload: Any) -> str:
    if type(payload) is not str:
        raise TypeError("no text")
    return payload


def _list(payload: Any, length: int | None = None) -> list[Any]:
    if type(payload) is not list or (length is not None and len(payload) != length):
        raise TypeError("no list of this length")
    return payload


def _ints(payload: Any, length: int) -> list[int]:
    if not all(type(part) is int for part in _list(payload, length)):
        raise TypeError("no whole numbers")
    return payload  # type: ignore[no-any-return]


def _bytes(payload: Any) -> bytes:
    return base64.b64decode(_text(payload), validate=True)


def _moment(payload: Any, parse: Callable[[str], Any]) -> Any:
    if type(payload) is str:
        return parse(payload)
    naive, zone, fold = _list(payload, 3)
    return parse(_text(naive)).replace(tzinfo=zone, fold=fold)


def _timezone(payload: Any) -> datetime.timezone:
    days = _ints(_list(payload)[:3], 3)
    return datetime.timezone(datetime.timedelta(*days), *map(_text, payload[3:]))


def _pattern(payload: Any) -> re.Pattern[Any]:
    text, flags = _list(payload, 2)
    if type(text) not in (str, bytes) or type(flags) is not int:
        raise TypeError("no pattern")
    return re.compile(text, flags)  # the flags of a pattern in text name re.UNICODE, which re.compile() sets itself


def _named(payload: Any, classes: Mapping[str, Callable[[str], Any]]) -> Any:
    name, text = _list(payload, 2)
    return classes[name](_text(text))


READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$str": lambda payload: _bytes(payload).decode("utf-8", "surrogatepass"),
    "$int": lambda payload: int(_text(payload), 16),
    "$float": lambda payload: float(_text(payload)),
    "$bytes": _bytes,
    "$complex": lambda payload: complex(*_list(payload, 2)),
    "$date": datetime.date.fromisoformat,
    "$datetime": lambda payload: _moment(payload, datetime.datetime.fromisoformat),
    "$time": lambda payload: _moment(payload, datetime.time.fromisoformat),
    "$timedelta": lambda payload: datetime.timedelta(*_ints(payload, 3)),
    "$timezone": _timezone,
    "$zoneinfo": lambda payload: zoneinfo.ZoneInfo(_text(payload)),
    "$tzinfo": lambda payload: TzInfo(*_ints([payload], 1)),
    "$decimal": lambda payload: decimal.Decimal(_text(payload)),
    "$uuid": lambda payload: uuid.UUID(_text(payload)),
    "$range": lambda payload: range(*_ints(payload, 3)),
    "$fraction": lambda payload: fractions.Fraction(*_ints(payload, 2)),
    "$pattern": _pattern,
    "$ip": lambda payload: _named(payload, IP_CLASSES),
    "$path": lambda payload: _named(payload, PATH_CLASSES),
    "$url": lambda payload: _named(payload, URL_CLASSES),
    "$secret": lambda payload: SecretStr(_text(payload)),
    "$secretbytes": lambda payload: SecretBytes(_bytes(payload)),
    "$tuple": lambda payload: tuple(_list(payload)),
    "$set": lambda payload: set(map(_hashable, _list(payload))),
    "$frozenset": lambda payload: frozenset(map(_hashable, _list(payload))),
    "$dict": lambda payload: {_hashable(key): item for key, item in map(_list, _list(payload))},
}
"""How the payload of each tag is read."""


def _value(node: Any) -> Any:
    places = enumerate(node) if type(node) is list else node.items() if type(node) is dict else ()
    for place, item in places:
        if type(item) is dict or type(item) is list:
            node[place] = _value(item)
    if type(node) is not dict or len(node) != 1:
        return node
    ((tag, payload),) = node.items()
    if not tag.startswith(TAG):
        return node
    if tag not in READERS:
        raise ValueError("the data has an unknown tag")
    try:
        return READERS[tag](payload)
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"the data has a {tag} that cannot be read") from error


def load(data: bytes) -> Any:
    """Return the tree (or envelope) that `dump` wrote. Raises `ValueError` for other bytes, or too deep nesting."""
    return from_json(data, allow_inf_nan=False)


def from_tree(tree: Any) -> dict[str, Any]:
    """Return the values by name that `to_tree` was given, with dicts in place of models. Uses up the tree.

    Raises `ValueError`, and nothing else, for what `to_tree` did not make.
    """
    if type(tree) is not dict:
        raise ValueError(f"the data has a {type(tree).__name__} in place of an object of fields")
    try:
        return {name: _value(node) for name, node in tree.items()}
    except RecursionError as error:
        raise ValueError("the data is nested too deeply") from error


def decode(data: bytes) -> dict[str, Any]:
    """Return the values that `encode` was given, as `from_tree`. Raises `ValueError`, and nothing else."""
    return from_tree(load(data))


def validate(cls: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """Make a `cls` of decoded values: by name, never by alias. A missing one gets its default.

    The types are validated. The author's validators are not run: they made these values what they are. Raises
    pydantic's `ValidationError` (a `ValueError`) for values that do not fit the class.
    """
    made: BaseModel = revalidation_of(cls).load(values)
    return made
