"""Encoding: the field values of a state as JSON for a store.

What JSON has is written as it is. Everything else is an object with one key, which begins with `$`:
`{"$date": "2026-01-31"}`, `{"$tuple": [1, 2]}`. So a value comes back with the type that it had, also in `date | str`
and in `Any`. A dict that looks like one of these objects is written as `{"$dict": [[key, value], ...]}`.

Models and dataclasses are written as objects of their fields (by name, including those that dumps exclude, without
private attributes), named tuples as tuples, enum members as their values. The state's own class makes them what they
were when it validates them. The data never names a class, so a store runs no code.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, Secret
from pydantic_core import to_json

from ...exceptions import ConfigurationError
from ...state.containers import ReadOnlyDict, ReadOnlyList, ReadOnlySet
from ...state.models import guarded_shapes
from .leaves import BASES, LEAVES, LONGEST_INT, URL_NAMES, UnstorableError, is_text, write_str

MAX_DEPTH: Final = 150
"""Levels of JSON that a field's value may have. Readers give up at about 200 (pydantic_core), 250 (pydantic) or where
Python's stack ends; the rest is for the envelope."""

REMEDY: Final = (
    "let the field's type name what it holds (several classes as a union with a discriminator), or keep the states of "
    "this class in memory with StateConfig(in_memory=True)"
)

TAG: Final = "$"

_TOO_DEEP: Final = f"values nested in each other, in more than {MAX_DEPTH} levels of JSON"

Met = set[Any]
"""The kinds of things that `to_node` met in a value: their classes, but for models and dataclasses `(class, *types of
its fields)`; `("key", class)` and `("extra", model, class)`; and `UNSURE`."""

UNSURE: Final = "unsure"
"""Met where a value is written as its text alone, so that its way back must be checked each time."""


def unstorable(where: str, error: Exception) -> ConfigurationError:
    """Return the error for the field that `where` (str) names, whose value raised an `UnstorableError` or nests too
    deeply for Python (`RecursionError`)."""
    if isinstance(error, RecursionError):
        return ConfigurationError(f"{where} is nested too deeply to be kept")
    return ConfigurationError(f"{where} holds {error}: {REMEDY}")


_ITERABLES: Final[dict[type, str]] = {
    ReadOnlyList: "", list: "", tuple: "$tuple", ReadOnlySet: "$set", set: "$set", frozenset: "$frozenset"
}  # fmt: skip
ORDINARY: Final = frozenset({*LEAVES, *_ITERABLES, ReadOnlyDict, dict})
"""The types that are written by their type alone."""


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
    """Replace those of `values` (by place; their types are in `met`) in `nodes` that JSON does not have as they are."""
    for place, value in values:
        kind = type(value)
        # Nearly all values are of these types: they are looked at here, since a call would double the time.
        if kind is str:
            is_plain = value.isascii()
        elif kind is int:
            is_plain = -LONGEST_INT < value < LONGEST_INT
        elif kind is float:
            is_plain = value - value == 0.0
        else:
            is_plain = value is None or kind is bool
        if not is_plain:
            nodes[place] = to_node(value, met, depth)


def _dict(value: dict[Any, Any], met: Met, depth: int) -> Any:
    if {str}.issuperset(map(type, value)) and _is_plain_object(value):
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
    return not (len(keys) == 1 and keys[0].startswith(TAG)) and is_text("".join(keys))


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
            return {"$dict": [[write_str(key), item] for key, item in node.items()]}
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
    for base, write in BASES:
        if isinstance(value, base):
            return write(value)
    if kind in URL_NAMES:
        text = str(value)
        if kind(text) == value:
            return {"$url": [URL_NAMES[kind], text]}
        met.add(UNSURE)  # parsed with settings of its field, such as url_preserve_empty_path
        return text
    if isinstance(value, Secret):
        return to_node(value.get_secret_value(), met, depth)
    if kind.__module__.startswith("pydantic"):
        met.add(UNSURE)
        return write_str(str(value))
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
