"""Differences between a value and the one that came back from a store or a row, in value or type, at any depth."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import TzInfo

from ...state.containers import ReadOnlyDict, ReadOnlyList, ReadOnlySet
from ...validation.scalars import exact_key

_EASY: Final = frozenset({str, int, bool, type(None)})
"""The types whose values are the same if they are equal."""

_BUILTIN: Final[dict[type, type]] = {ReadOnlyList: list, ReadOnlyDict: dict, ReadOnlySet: set}


def difference(new: Any, back: Any, ordered: bool = False) -> str | None:
    """Say how a frozen value differs from the one that came back; None if they are the same.

    A fixed UTC offset is the same in Python's class and in pydantic's. So is a dict in another order, unless they are
    to be `ordered`: some columns of JSON sort it. The text names types and no values.

    Measured with Python 3.11: 0.6 ms for a list of 1,000 models of three scalars, 0.3 µs for a number.
    """
    if new is back:
        return None
    kind, other = type_of(new), type_of(back)
    if kind is not other:
        return f"{kind.__name__} comes back as {other.__name__}"
    if kind in _EASY:
        return None if new == back else f"{kind.__name__} comes back as another one"
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(new, BaseModel):
        held, found = new.__dict__, back.__dict__
        for name in kind.__pydantic_fields__:
            value, other_value = held[name], found[name]
            if type(value) in _EASY and type(value) is type(other_value) and value == other_value:
                continue  # nearly all are such values, and a call for each would double the time
            if (problem := difference(value, other_value, ordered)) is not None:
                return problem
        return difference(new.__pydantic_extra__ or None, back.__pydantic_extra__ or None, ordered)
    if isinstance(new, list | tuple | dict | set | frozenset):
        if len(new) != len(back):
            return f"{kind.__name__} comes back with another length"
        if isinstance(new, dict):
            if ordered and list(new) != list(back) and new.keys() == back.keys():
                return f"{kind.__name__} comes back in another order"
            pairs = _dict_pairs(new, back)
        elif isinstance(new, list | tuple):
            pairs = zip(new, back, strict=True)
        else:
            pairs = _set_pairs(new, back)
    elif dataclasses.is_dataclass(new):
        pairs = [(getattr(new, field.name), getattr(back, field.name)) for field in dataclasses.fields(new)]
    else:
        return _scalar_difference(new, back, kind.__name__)
    for value, other_value in pairs:
        if (problem := difference(value, other_value, ordered)) is not None:
            return problem
    return None


def is_same_number(new: Any, back: Any) -> bool:
    """True if two decimals or floats are equal, with whatever number of digits."""
    kind = type(new)
    return kind is type(back) and (kind is decimal.Decimal or kind is float) and bool(new == back)


def type_of(value: Any) -> type[Any]:
    """Return the type that a user knows of a frozen value: `list` for a frozen list, their own class for a model."""
    kind = type(value)
    if kind in _EASY:
        return kind
    found: type[Any] = _BUILTIN.get(kind) or value.__class__  # by which a guarded model names the user's own class
    return found


def _scalar_difference(new: Any, back: Any, name: str) -> str | None:
    if isinstance(new, datetime.datetime | datetime.time):
        if new.fold != back.fold:
            return f"{name} comes back without its fold"
        if _zone(new) != _zone(back):
            return f"{name} comes back in another time zone, or without one"
        is_same = new.replace(tzinfo=None) == back.replace(tzinfo=None)
    else:
        is_same = exact_key(new)[1] == exact_key(back)[1]
        if not is_same and isinstance(new, decimal.Decimal) and new == back:
            return f"{name} comes back with another number of digits"
    return None if is_same else f"{name} comes back as another one"


def _zone(value: datetime.datetime | datetime.time) -> Any:
    zone = value.tzinfo
    if isinstance(zone, TzInfo):
        return datetime.timezone, value.utcoffset()
    if type(zone) is datetime.timezone:
        return (datetime.timezone, *zone.__getinitargs__())  # type: ignore[attr-defined]  # with a name, if it has one
    return type(zone), zone


def _dict_pairs(new: Mapping[Any, Any], back: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The keys and items of two dicts of one size, each with its counterpart."""
    known = {key: key for key in back}
    if new.keys() == known.keys():
        for key in new:
            yield key, known[key]
            yield new[key], back[key]
    else:  # some key has become another, or is unequal to itself
        for twins in zip(new.items(), back.items(), strict=True):
            yield from zip(*twins, strict=True)


def _set_pairs(new: Iterable[Any], back: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The members of two sets of one size, each with its equal; those without one (nan) in the order of their text."""
    others = {item: item for item in back}
    pairs = [(item, others.pop(item)) for item in new if item in others]
    paired = {id(item) for item, _ in pairs}
    left = sorted((item for item in new if id(item) not in paired), key=repr)
    return pairs + list(zip(left, sorted(others.values(), key=repr), strict=True))
