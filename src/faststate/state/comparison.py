"""Comparison of frozen values: which two are the same, and which items of a changed field were there before."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from operator import is_
from typing import Any, Final

from pydantic import BaseModel

from ..validation.kept_values import KnownItems
from ..validation.scalars import SCALARS, exact_key, same_scalar
from .models import guarded_shapes

SCALAR_BASES: Final = tuple(SCALARS - {type, type(None), bool, range, re.Pattern})
"""The scalar types that can have subclasses, whose values are scalars as well."""


def equal(new: Any, old: Any) -> bool:
    """True if two frozen values are the same, in value and type, at any depth; see `scalars.same_scalar`."""
    if new is old:
        return True
    kind = type(new)
    if kind is not type(old):
        return False
    if kind is int or kind is str:
        return bool(new == old)
    if kind in SCALARS:
        return same_scalar(new, old)
    if isinstance(new, list | tuple):
        return len(new) == len(old) and all(map(equal, new, old))
    if isinstance(new, dict):
        keys = len(new) == len(old) and (all(map(is_, new, old)) or all(map(equal, new, old)))
        return keys and all(map(equal, new.values(), old.values()))
    if isinstance(new, frozenset):
        return has_same_members(new, old)
    if (shape := guarded_shapes.get(kind)) is not None:
        return equal(shape.read(new), shape.read(old))
    if isinstance(new, SCALAR_BASES):
        return bool(exact_key(new) == exact_key(old))
    if isinstance(new, BaseModel):  # as a key, or in a set, where it is the user's own
        return equal(new.__dict__, old.__dict__) and equal(new.__pydantic_extra__, old.__pydantic_extra__)
    if dataclasses.is_dataclass(new):
        return all(equal(getattr(new, field.name), getattr(old, field.name)) for field in dataclasses.fields(new))
    return bool(new == old)


def has_same_members(new: Any, old: Any) -> bool:
    """True if two sets have the same members, each the same as in `equal`."""
    if len(new) != len(old):
        return False
    others = {item: item for item in old}
    return all(item in others and equal(item, others[item]) for item in new)


def known_items(given: Any, new: Any, *olds: Any) -> KnownItems:
    """Find which items of a changed field were there before, for the validators that are `given` its value.

    `new` is the value frozen, `olds` are the values that the field held. An item counts as there before where it stands
    in its old place or under its old key. Of all others, as many of each value count as have left their old place.
    """
    found = _ItemComparison()
    for old in olds:
        found.add_old("", old)
    found.add_new("", given, new, olds[0])
    return found.known()


class _ItemComparison:
    """Compares the items of a changed field with those that it held before, by role. Lifetime: one comparison."""

    def __init__(self) -> None:
        self._left: Counter[tuple[str, Any]] = Counter()
        self._old_objects: dict[str, set[int]] = {}
        self._comes: dict[tuple[str, Any], list[bool]] = {}
        self._objects: dict[str, set[int]] = {}

    def add_old(self, role: str, old: Any) -> None:
        """Note a value that the field held, with all that is in it; a letter more tells the role of a part."""
        if (key := _key_of(old)) is not None:
            self._left[role, key] += 1
        else:
            self._old_objects.setdefault(role, set()).add(id(old))
        if isinstance(old, dict):
            for key, item in old.items():
                self.add_old(role + "k", key)
                self.add_old(role + "v", item)
        elif isinstance(old, list | tuple | set | frozenset):
            for item in old:
                self.add_old(role + "i", item)

    def add_new(self, role: str, given: Any, new: Any, old: Any) -> None:
        """Note a value that the field holds now; `old` is what stood in its place, or something else."""
        if (key := _key_of(new)) is not None:
            is_in_place = _key_of(old) == key
            self._comes.setdefault((role, key), []).append(is_in_place)
            self._left[role, key] -= is_in_place
        elif id(new) in self._old_objects.get(role, ()) or equal(new, old):
            self._objects.setdefault(role, set()).add(id(given))
        if isinstance(new, dict):
            places = old if isinstance(old, dict) else {}
            for key, value in new.items():
                is_known = key in places
                self.add_new(role + "k", key, key, key if is_known else None)
                self.add_new(role + "v", given[key], value, places.get(key))
        elif isinstance(new, list | tuple):
            before = old if isinstance(old, list | tuple) else ()
            for place, value in enumerate(new):
                self.add_new(role + "i", given[place], value, before[place] if place < len(before) else None)
        elif isinstance(new, set | frozenset):
            members = old if isinstance(old, set | frozenset) else ()
            for value in given:  # in the order in which it is validated
                self.add_new(role + "i", value, value, value if value in members else None)

    def known(self) -> KnownItems:
        """Answer for all items that were noted whether they were there before."""
        answers = {}
        for key, comes in self._comes.items():
            left = self._left[key]
            answers[key] = [is_in_place or (left := left - 1) >= 0 for is_in_place in comes]
        return KnownItems(answers, self._objects)


def _key_of(value: Any) -> Any:
    """Return a key for a value without parts; None for lists, models and the like."""
    if isinstance(value, list | dict | tuple | set | BaseModel) or dataclasses.is_dataclass(value):
        return None
    try:
        key = exact_key(value)
        hash(key)
    except TypeError:
        return None
    return key
