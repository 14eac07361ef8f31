"""The size of a payload: how many values it holds, and whether all of them could be shown."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any

from pydantic import BaseModel

from .scalars import SHORT_INT, check_showable

__all__ = ["look_through"]


def look_through(waiting: list[Any], most: float, seen: set[int] | None = None) -> bool:
    """Look at the `waiting` values, of any depth; False when there are `most` or more, and some may still be waiting.

    A text counts as one more for each 16 characters. Server code may send a circle: `seen` is for the ids of
    containers. Raises `UnshowableError` for what could not be encoded or shown.
    """
    size = 0
    while waiting:
        value = waiting.pop()
        kind = type(value)
        size += 1
        if kind is str:
            size += len(value) >> 4
            if not value.isascii():
                check_showable(value)
        elif kind is int:
            if not -SHORT_INT < value < SHORT_INT:
                check_showable(value)
        elif kind is not float and kind is not bool and value is not None:
            if seen is not None:
                if id(value) in seen:
                    continue
                seen.add(id(value))
            if kind is list:
                waiting += value
            elif kind is dict:
                waiting += value
                waiting += value.values()
            else:
                waiting += _parts_of(value)
        if size >= most:
            return False
    return True


def _parts_of(value: Any) -> Iterable[Any]:
    """The direct parts of a value that is not a plain scalar, list or dict."""
    if isinstance(value, str | int | Decimal | Fraction):
        check_showable(value)
    elif isinstance(value, list | tuple | deque | AbstractSet):
        return value
    elif isinstance(value, Mapping):
        return chain(value.keys(), value.values())
    elif isinstance(value, BaseModel):
        return (*value.__dict__.values(), value.__pydantic_extra__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()
