"""Scalars: the immutable single values that a field may hold, and when two of them are the same value.

Python's `==` takes values for equal that differ: 1 and True, 0.0 and -0.0, Decimal("1.0") and Decimal("1.00"), one
instant in two time zones. To a person who sets one in place of the other, each is a change.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import ipaddress
import re
import uuid
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Final

IP_TYPES: Final = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)

SCALARS: Final[frozenset[type]] = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        decimal.Decimal,
        fractions.Fraction,
        uuid.UUID,
        range,
        re.Pattern,
        type,
        *IP_TYPES,
    }
)
"""The types whose values can never change, by exact type."""

MAX_DIGITS: Final = 4_200
"""Digits of the longest Decimal, before and behind its point: `f"{Decimal('1e999999999'):.2f}"` takes 18 s and 2 GB."""

_LONGEST_INT: Final = 14_000
"""Bits of the longest int that can be shown: `str()` refuses more than 4,300 digits (CPython, sys.int_info)."""


CHECKED: Final = frozenset({str, int, decimal.Decimal, fractions.Fraction})
"""The types of scalars some values of which no page could show; see `check_showable`."""


class UnshowableError(ValueError):
    """A value that no page could show. The message continues a sentence that begins with the place of the value."""


def check_showable(value: Any) -> None:
    """Raise `UnshowableError` for text and numbers, also of subclasses, that no page could show."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UnshowableError("holds half of a character (a lone surrogate), which no page can show") from None
    elif isinstance(value, int):
        if value.bit_length() > _LONGEST_INT:
            raise UnshowableError("holds a whole number of more than 4,200 digits, which no page can show")
    elif isinstance(value, decimal.Decimal):
        _, digits, exponent = value.as_tuple()
        if isinstance(exponent, int) and len(digits) + abs(exponent) > MAX_DIGITS:
            raise UnshowableError("holds a decimal number of more than 4,200 digits, which no page can show")
    elif isinstance(value, fractions.Fraction):
        check_showable(value.numerator)
        check_showable(value.denominator)


def _zone_key(value: datetime.datetime | datetime.time) -> Any:
    # Two zones of one offset are equal to each other, and named differently: repr() tells them apart.
    return value.replace(tzinfo=None, fold=0), value.fold, repr(value.tzinfo)


# The details that tell values of one type apart although they are equal (or equal although they are unequal: NaN).
_EXACT: Final[dict[type, Callable[[Any], Any]]] = {
    float: float.hex,
    complex: lambda value: (value.real.hex(), value.imag.hex()),
    decimal.Decimal: lambda value: value.as_tuple(),
    datetime.datetime: _zone_key,
    datetime.time: _zone_key,
    range: lambda value: (value.start, value.stop, value.step),
}


def exact_key(value: Any) -> Any:
    """Return a key that two scalars share if they are the same value, and only then: their type, and every detail.

    For subclasses of these types as well; any other hashable value stands for itself. It is hashable.
    """
    kind = type(value)
    exact = _EXACT.get(kind)
    if exact is None and kind not in SCALARS:
        exact = next((each for base, each in _EXACT.items() if isinstance(value, base)), None)
    return kind, value if exact is None else exact(value)


def same_scalar(new: Any, old: Any) -> bool:
    """True if two values of one type are the same value; see `exact_key`."""
    if new is old:
        return True
    kind = type(new)
    if kind is str or kind is int or kind is bool:
        return bool(new == old)
    return bool(exact_key(new) == exact_key(old))


EXACT: Final = (int, bool, str)
"""Types whose very own values pydantic takes as they are, where nothing more is asked of them; see `is_exact`."""

SHORT_INT: Final = 2**63
"""Whole numbers below it, of either sign, can be shown: their length need not be checked."""


def is_exact(value: Any, kind: Any) -> bool:
    """True if `value` is valid as it is for the type `kind`: one of `EXACT`, or None for "not known".

    False for a value that has to be looked at: text that may hold half of a character, a very long number.
    """
    if type(value) is not kind:
        return False
    return bool(value.isascii() if kind is str else kind is bool or -SHORT_INT < value < SHORT_INT)


def surely_same(new: Any, old: Any) -> bool:
    """True if both are one object, or two scalars of one type and value. Lists and the like are not looked into."""
    if new is old:
        return True
    kind = type(new)
    return kind is type(old) and kind in SCALARS and same_scalar(new, old)


def all_same(new: Sequence[Any], old: Sequence[Any]) -> bool:
    """True if two sequences have the same items in the same order, each as in `surely_same`."""
    return len(new) == len(old) and (all(map(is_, new, old)) or all(map(surely_same, new, old)))
