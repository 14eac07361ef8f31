"""Encoding: the field values of a state as JSON for a store.

What JSON has is written as it is. Everything else is an object with one key, which begins with `$`:
`{"$date": "2026-01-31"}`, `{"$tuple": [1, 2]}`. So a value comes back with the type that it had, also in `date | str`
and in `Any`. A dict that looks like one of these objects is written as `{"$dict": [[key, value], ...]}`.

Models and dataclasses are written as objects of their fields (by name, including those that dumps exclude, without
private attributes), named tuples as tuples, enum members as their values. The state's own class makes them what they
were when it validates them. The data never names a class, so a store runs no code.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, networks
from pydantic_core import MultiHostUrl, TzInfo, Url, to_json

from ...exceptions import ConfigurationError
from ...state.containers import ReadOnlyDict, ReadOnlyList, ReadOnlySet
from ...state.models import guarded_shapes
from ...validation.scalars import IP_TYPES

__all__ = [
    "IP_CLASSES",
    "LEAVES",
    "ORDINARY",
    "PATH_CLASSES",
    "REMEDY",
    "TAG",
    "UNSURE",
    "URL_CLASSES",
    "Met",
    "UnstorableError",
    "dump",
    "encode",
    "to_node",
    "to_tree",
    "unstorable",
]

MAX_DEPTH: Final = 150
"""Levels of JSON that a field's value may have. Readers give up at about 200 (pydantic_core), 250 (pydantic) or where
Python's stack ends; the rest is for the envelope."""

REMEDY: Final = (
    "let the field's type name what it holds (several classes as a union with a discriminator), or keep the states of "
    "this class in memory with StateConfig(in_memory=True)"
)

TAG: Final = "$"

_TOO_DEEP: Final = f"values nested in each other, in more than {MAX_DEPTH} levels of JSON"

# Python writes and reads no number of more digits than it is set to, and it cannot be set to fewer than 640.
_LONGEST_INT: Final = 2**2048

Met = set[Any]
"""What `to_node` met in a value: the class of everything in it, but for models and dataclasses `(class, *types of its
fields)`; `("key", class)` and `("extra", model, class)`; and `UNSURE`."""

UNSURE: Final = "unsure"
"""Met where a value is written as its text alone, so that its way back must be checked each time."""


class UnstorableError(Exception):
    """A value that cannot be stored. The message is the middle of a sentence. Lifetime: until its field is known."""


def unstorable(where: str, error: Exception) -> ConfigurationError:
    """Return the error for the field that `where` (str) names, whose value raised an `UnstorableError` or nests too
    deeply for Python (`RecursionError`)."""
    if isinstance(error, RecursionError):
        return ConfigurationError(f"{where} is nested too deeply to be kept")
    return ConfigurationError(f"{where} holds {error}: {REMEDY}")


# -- single values -----------------------------------------------------------------------------------------------------


def _is_text(value: str) -> bool:
    """True if JSON in UTF-8 can hold this str: it has no place for half a surrogate pair."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _str(value: str) -> Any:
    if _is_text(value):
        return value
    return {"$str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _int(value: int) -> Any:
    return value if -_LONGEST_INT < value < _LONGEST_INT else {"$int": f"{value:x}"}


def _float(value: float) -> Any:
    return value if value - value == 0.0 else {"$float": repr(value)}


def _bytes(value: bytes) -> Any:
    return {"$bytes": base64.b64encode(value).decode()}


def _complex(value: complex) -> Any:
    return {"$complex": [_float(value.real), _float(value.imag)]}


def _date(value: datetime.date) -> Any:
    return {"$date": datetime.date.isoformat(value)}


def _datetime(value: datetime.datetime) -> Any:
    return {"$datetime": _moment(value)}


def _time(value: datetime.time) -> Any:
    return {"$time": _moment(value)}


def _moment(value: datetime.datetime | datetime.time) -> Any:
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return naive if value.tzinfo is None and not value.fold else [naive, _zone(value), value.fold]


def _zone(value: datetime.datetime | datetime.time) -> Any:
    zone = value.tzinfo
    write: Any = LEAVES.get(type(zone))
    if write is None:
        raise UnstorableError(
            f"a {type(value).__name__} with a {type(zone).__name__}, a time zone which cannot be kept"
        )
    return write(zone)


def _timedelta(value: datetime.timedelta) -> Any:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _timezone(value: datetime.timezone) -> Any:
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]  # a name only where one was given
    return {"$timezone": [*_timedelta(offset)["$timedelta"], *map(_str, name)]}


def _zoneinfo(value: zoneinfo.ZoneInfo) -> Any:
    if value.key is None:
        raise UnstorableError("a ZoneInfo without a key, which cannot be kept")
    return {"$zoneinfo": value.key}


def _tzinfo(value: Any) -> Any:
    return {"$tzinfo": round(value.utcoffset(None).total_seconds())}


def _decimal(value: decimal.Decimal) -> Any:
    return {"$decimal": decimal.Decimal.__str__(value)}


def _uuid(value: uuid.UUID) -> Any:
    return {"$uuid": uuid.UUID.__str__(value)}


def _range(value: range) -> Any:
    return {"$range": [_int(int(part)) for part in (value.start, value.stop, value.step)]}


def _path(value: pathlib.PurePath) -> Any:
    return {"$path": [_PATH_NAMES[type(value)], _str(str(value))]}


def _ip(value: Any) -> Any:
    return {"$ip": [type(value).__name__, str(value)]}


def _fraction(value: fractions.Fraction) -> Any:
    return {"$fraction": [_int(value.numerator), _int(value.denominator)]}


def _pattern(value: re.Pattern[Any]) -> Any:
    text = value.pattern
    return {"$pattern": [_str(text) if isinstance(text, str) else _bytes(text), value.flags]}


def _same(value: Any) -> Any:
    return value


IP_CLASSES: Final[dict[str, Callable[[str], Any]]] = {kind.__name__: kind for kind in IP_TYPES}
PATH_CLASSES: Final[dict[str, Callable[[str], Any]]] = {
    "Path": pathlib.Path,  # by a name that the other operating system knows as well
    "PurePosixPath": pathlib.PurePosixPath,
    "PureWindowsPath": pathlib.PureWindowsPath,
}
URL_CLASSES: Final[dict[str, Callable[[str], Any]]] = {"Url": Url, "MultiHostUrl": MultiHostUrl} | {
    name: found
    for name, found in [(name, getattr(networks, name)) for name in networks.__all__]
    if isinstance(found, type) and hasattr(found, "unicode_string")
}
_PATH_NAMES: Final[dict[type, str]] = {type(make("")): name for name, make in PATH_CLASSES.items()}
_URL_NAMES: Final[dict[Any, str]] = {found: name for name, found in URL_CLASSES.items()}

LEAVES: Final[dict[type, Callable[[Any], Any]]] = {
    type(None): _same,
    bool: _same,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    complex: _complex,
    datetime.datetime: _datetime,
    datetime.date: _date,
    datetime.time: _time,
    datetime.timedelta: _timedelta,
    datetime.timezone: _timezone,
    zoneinfo.ZoneInfo: _zoneinfo,
    TzInfo: _tzinfo,
    decimal.Decimal: _decimal,
    uuid.UUID: _uuid,
    range: _range,
    SecretStr: lambda value: {"$secret": _str(value.get_secret_value())},
    SecretBytes: lambda value: {"$secretbytes": base64.b64encode(value.get_secret_value()).decode()},
    fractions.Fraction: _fraction,
    re.Pattern: _pattern,
    **dict.fromkeys(_PATH_NAMES, _path),
    **dict.fromkeys(IP_TYPES, _ip),
}
"""How values of types without parts are written, by exact type."""

# For subclasses, by the first that fits: a datetime is also a date. Each is written as a value of its base.
_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, lambda value: _str(str.__str__(value))),
    (int, lambda value: _int(int.__int__(value))),
    (float, lambda value: _float(float.__float__(value))),
    (bytes, _bytes),
    (complex, _complex),
    (datetime.datetime, _datetime),
    (datetime.date, _date),
    (datetime.time, _time),
    (datetime.timedelta, _timedelta),
    (decimal.Decimal, _decimal),
    (uuid.UUID, _uuid),
    (pathlib.PurePath, lambda value: _str(str(value))),
)


# -- all values --------------------------------------------------------------------------------------------------------

_ITERABLES: Final[dict[type, str]] = {
    ReadOnlyList: "",
    list: "",
    tuple: "$tuple",
    ReadOnlySet: "$set",
    set: "$set",
    frozenset: "$frozenset",
}  # fmt: skip
ORDINARY: Final = frozenset({*LEAVES, *_ITERABLES, ReadOnlyDict, dict})
"""The types that are written by their type alone."""

_STR: Final = frozenset({str})


def to_node(value: Any, met: Met, depth: int) -> Any:
    """Return a value as JSON has it, at the level `depth` (int), and add its types to `met`.

    Raises `UnstorableError`, and `RecursionError` where the value is nested too deeply for Python.
    """
    kind = type(value)
    shape = guarded_shapes.get(kind)
    if shape is not None:
        held = value.__dict__ if shape.is_model else shape.read(value)
        if len(held) != len(shape.names):  # it also has what functools.cached_property remembers
            held = {name: held[name] for name in shape.names}
        return _object(value, held, shape.is_model, met, depth)
    met.add(kind)
    write = LEAVES.get(kind)
    if write is not None:
        return write(value)
    if depth > MAX_DEPTH:
        raise UnstorableError(_TOO_DEEP)
    if kind is ReadOnlyDict or kind is dict:
        return _dict(value, met, depth)
    tag = _ITERABLES.get(kind)
    if tag is None:
        return _other(value, met, depth)
    return {tag: _nodes(value, met, depth + 2)} if tag else _nodes(value, met, depth + 1)


def _nodes(values: Iterable[Any], met: Met, depth: int) -> list[Any]:
    nodes = list(values)
    met.update(map(type, nodes))
    _fill(nodes, enumerate(nodes), met, depth)
    return nodes


def _fill(nodes: Any, values: Iterable[tuple[Any, Any]], met: Met, depth: int) -> None:
    """Replace those of the `values` in `nodes`, each given with its place, that JSON does not have as they are.

    The types of the values are in `met` already.
    """
    for place, value in values:
        kind = type(value)
        # Nearly all values are of these types: they are looked at here, since a call would double the time.
        if kind is str:
            is_plain = value.isascii()
        elif kind is int:
            is_plain = -_LONGEST_INT < value < _LONGEST_INT
        elif kind is float:
            is_plain = value - value == 0.0
        else:
            is_plain = value is None or kind is bool
        if not is_plain:
            nodes[place] = to_node(value, met, depth)


def _dict(value: dict[Any, Any], met: Met, depth: int) -> Any:
    if _STR.issuperset(map(type, value)) and _is_plain_object(value):
        met.update(map(type, value.values()))
        nodes = value.copy()
        _fill(nodes, value.items(), met, depth + 1)
        return nodes
    met.update(("key", kind) for kind in set(map(type, value)))
    keys, items = _nodes(value, met, depth + 3), _nodes(value.values(), met, depth + 3)
    return {"$dict": [[key, item] for key, item in zip(keys, items, strict=True)]}


def _is_plain_object(value: Iterable[str]) -> bool:
    """True if JSON can hold an object with these keys that does not look like a tag."""
    keys = list(value)
    return not (len(keys) == 1 and keys[0].startswith(TAG)) and _is_text("".join(keys))


def _object(value: Any, held: dict[str, Any], is_model: bool, met: Met, depth: int) -> Any:
    """A model or dataclass with the fields `held`, as an object of them."""
    if depth > MAX_DEPTH:
        raise UnstorableError(_TOO_DEEP)
    kind = type(value)
    met.add((kind, *map(type, held.values())))
    if is_model and kind.__pydantic_root_model__:
        return to_node(held["root"], met, depth)
    node = dict(held)
    if is_model and value.__pydantic_extra__:
        extra = value.__pydantic_extra__
        met.update(("extra", kind, type(item)) for item in extra.values())
        node |= extra
        if not _is_plain_object(node):
            _fill(node, list(node.items()), met, depth + 3)
            return {"$dict": [[_str(key), item] for key, item in node.items()]}
        held = {**held, **extra}
    _fill(node, held.items(), met, depth + 1)
    return node


def _other(value: Any, met: Met, depth: int) -> Any:
    kind = type(value)
    if isinstance(value, type):
        raise UnstorableError(f"the class {value.__name__}, which cannot be kept")
    if isinstance(value, enum.Enum):
        return to_node(value.value, met, depth)
    if isinstance(value, tuple):
        return {"$tuple": _nodes(value, met, depth + 2)}
    # Keys and members of sets are not frozen, since they cannot be changed anyway: models are the user's own there.
    if isinstance(value, BaseModel):
        return _object(value, {name: value.__dict__[name] for name in kind.__pydantic_fields__}, True, met, depth)
    if dataclasses.is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _object(value, held, False, met, depth)
    for base, write in _BASES:
        if isinstance(value, base):
            return write(value)
    if kind in _URL_NAMES:
        text = str(value)
        if URL_CLASSES[_URL_NAMES[kind]](text) == value:
            return {"$url": [_URL_NAMES[kind], text]}
        met.add(UNSURE)  # parsed with settings of its field, such as url_preserve_empty_path
        return text
    if isinstance(value, Secret):
        return to_node(value.get_secret_value(), met, depth)
    if kind.__module__.startswith("pydantic"):
        met.add(UNSURE)
        return _str(str(value))
    raise UnstorableError(f"a {kind.__name__}, which cannot be kept")


def to_tree(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return field values by name as any writer of JSON takes them. No change of the values changes the result.

    Raises `ConfigurationError` for a type that cannot be stored. A value that would come back as something else is
    found by `Codec` alone.
    """
    tree = {}
    for name, value in values.items():
        try:
            tree[name] = to_node(value, set(), 1)
        except (UnstorableError, RecursionError) as error:
            raise unstorable(f"the field {name!r}", error) from None
    return tree


def dump(tree: Any) -> bytes:
    """Return a tree (or an envelope around one) as JSON in UTF-8. Takes a third of the time of json.dumps."""
    return to_json(tree)


def encode(values: Mapping[str, Any]) -> bytes:
    """Return field values by name as bytes, as `to_tree`. Raises `ConfigurationError`."""
    return dump(to_tree(values))
