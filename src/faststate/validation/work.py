"""The work of one validation, counted in units: the functions that pydantic calls while it validates a payload.

`bounds` puts these functions into the schema of a type. They stop a validation that has used up its units, refuse sets
and dicts with many keys of one hash, and refuse numbers that take seconds to be shown or compared.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticCustomError, PydanticKnownError, from_json

from ..wire.values import depth_of
from .scalars import MAX_DIGITS, SHORT_INT, check_showable

_MAX_JSON_DEPTH: Final = 32
"""Levels of nesting in a string that is read as JSON; as `StateProvider(max_depth=)` has it for the payload."""

_MAX_ALIKE: Final = 32
"""Different keys of one hash that are accepted. Sixteen floats may share one by chance, ints and UUIDs never do."""

_HASH_MODULUS: Final = 2**61 - 1  # sys.hash_info.modulus on 64 bits: smaller ints have hashes of their own

SIZED: Final = frozenset({list, tuple, dict, set, frozenset, deque, Counter})
"""The types of values that count by their length."""


class TooMuchWork(Exception):
    """Raised through pydantic (which collects a ValueError) when work is used up; its argument is the field's name."""


class _Work(threading.local):
    """The units of work that are left to the running validation. Lifetime: the thread."""

    left: int = 0
    seen: dict[int, Any] | None = None
    """A key of each hash, where keys could be chosen to have the same one."""
    alike: dict[int, list[Any]] | None = None


_work = _Work()


class work_of:
    """`with work_of(units):` bounds what is validated inside, in this thread. A unit is some 10 to 30 ns."""

    __slots__ = ("_before", "_units")

    def __init__(self, units: int) -> None:
        self._units = units

    def __enter__(self) -> None:
        self._before = (_work.left, _work.seen, _work.alike)  # a validator of the app's may have begun another one
        _work.left, _work.seen, _work.alike = self._units, None, None

    def __exit__(self, *_: object) -> None:
        _work.left, _work.seen, _work.alike = self._before


def _spend(units: int) -> None:
    """Take `units` of what is left, or raise `TooMuchWork`."""
    left = _work.left = _work.left - units
    if left < 0:
        raise TooMuchWork


def spender(units: int, units_of_item: int, most: int | None = None, least: int = 0) -> Callable[[Any], Any]:
    """Make a function that takes the work of validating a collection, or a record of `most` keys, before it begins.

    With items that take at `least` so many units each, a collection that cannot be finished is not begun: 60,000 empty
    objects for a list of models are refused in 1 ms instead of 92.
    """
    work, sized = _work, SIZED

    def spend(value: Any) -> Any:
        left = work.left - units
        if type(value) in sized:
            left -= units_of_item * len(value)
            if most is not None and len(value) > most:
                raise PydanticCustomError("too_many_fields", "Input has fields that are not known")
            if least * len(value) > left:
                work.left = -1
                raise TooMuchWork
        work.left = left
        if left < 0:
            raise TooMuchWork
        return value

    return spend


def whole_spender(units: int, members: int) -> Callable[[Any], Any]:
    """Make a `spender` for a record whose insides pydantic validates by another schema, in which nothing is counted.

    Each container inside may have many errors, and each level can be read in as many ways as a union has `members`.
    """

    def spend(value: Any) -> Any:
        if type(value) in SIZED:
            containers, depth = _containers_in(value)
            _spend(units + 20 * len(value) + 600 * (containers - 1) + members**depth)
        return value

    return spend


def _containers_in(value: Any) -> tuple[int, int]:
    """Count the plain containers in a tree, itself included, and their levels."""
    count, depth, level = 0, 0, [value]
    while level := [item for item in level if type(item) in SIZED]:
        count += len(level)
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return count, depth


def note_key(key: Any) -> Any:
    """Refuse too many different keys that have the same hash."""
    kind = type(key)
    if kind is str or (kind is int and -_HASH_MODULUS < key < _HASH_MODULUS):
        return key
    try:
        own = hash(key)
    except TypeError:
        return key  # pydantic says so itself
    seen = _work.seen
    if seen is None:
        seen, _work.alike = {}, {}
        _work.seen = seen
    first = seen.setdefault(own, key)
    if first is not key and first != key and _work.alike is not None:
        others = _work.alike.setdefault(own, [])
        if key not in others:
            if len(others) >= _MAX_ALIKE:
                raise TooMuchWork
            others.append(key)
    return key


def read_json(text: Any) -> Any:
    """Read a string that a field takes as JSON, counting its work."""
    if not isinstance(text, str | bytes | bytearray):
        raise PydanticKnownError("json_type")
    comma, bracket, brace = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    brackets = text.count(bracket) + text.count(brace)  # type: ignore[arg-type]  # of the same type as the text
    _spend(3 * (text.count(comma) + brackets))  # type: ignore[arg-type]
    try:
        value = from_json(text, cache_strings=False)
    except ValueError as error:
        raise PydanticKnownError("json_invalid", {"error": str(error)}) from None
    if brackets > _MAX_JSON_DEPTH and depth_of(value) > _MAX_JSON_DEPTH:
        raise PydanticCustomError("json_depth", f"JSON should be nested at most {_MAX_JSON_DEPTH} levels deep")
    return value


_MAX_STRICT_JSON: Final = 10_000
"""Characters of a string that is read as JSON for strict types: pydantic keeps it once for each error."""


def check_strict_json(text: Any) -> Any:
    """Refuse a long string that pydantic itself reads as JSON, for strict types."""
    if isinstance(text, str | bytes | bytearray) and len(text) > _MAX_STRICT_JSON:
        raise PydanticCustomError("json_size", f"JSON should have at most {_MAX_STRICT_JSON} characters")
    return text


def check_decimal(value: Any) -> Any:
    """Refuse a Decimal that would take seconds, or gigabytes, as `f"{price:.2f}"` or `int(price)`."""
    if isinstance(value, Decimal) and not -MAX_DIGITS < value.adjusted() < MAX_DIGITS:
        raise PydanticCustomError("decimal_size", f"Decimal input should have at most {MAX_DIGITS} digits")
    return value


def check_complex(value: Any) -> Any:
    """Make a float of a long int, at which pydantic panics before 2.13."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            raise PydanticCustomError(
                "complex_size", "Complex input should be a number that a float can hold"
            ) from None
    return value


def check_fraction(value: Any) -> Any:
    """Refuse text that has too many digits, or an exponent that makes so many."""
    if isinstance(value, str):
        exponent = value.lower().partition("e")[2].strip().lstrip("+-").lstrip("0")
        if len(value) > MAX_DIGITS or len(exponent) > 4 or (exponent.isdecimal() and int(exponent) > MAX_DIGITS):
            raise PydanticCustomError("fraction_size", f"Fraction input should have at most {MAX_DIGITS} digits")
    return value


# -- the size of a payload ---------------------------------------------------------------------------------------------


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
    """List the direct parts of a value that is not a plain scalar, list or dict."""
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
