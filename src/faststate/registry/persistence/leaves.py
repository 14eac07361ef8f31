"""Leaves: how values without parts are written as JSON, each so that it comes back with the type that it had."""

from __future__ import annotations

import base64
import datetime
import decimal
import fractions
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final

from pydantic import SecretBytes, SecretStr, networks
from pydantic_core import MultiHostUrl, TzInfo, Url

from ...validation.scalars import IP_TYPES

LONGEST_INT: Final = 2**2048
"""Whole numbers from here on are written in hexadecimal. Python writes and reads no number of more digits than it is
set to, and it cannot be set to fewer than 640."""


class UnstorableError(Exception):
    """A value that cannot be stored. The message is the middle of a sentence. Lifetime: until its field is known."""


def is_text(value: str) -> bool:
    """True if JSON in UTF-8 can hold this str: it has no place for half a surrogate pair."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_str(value: str) -> Any:
    """Return a text as JSON has it."""
    return value if is_text(value) else {"$str": _base64(value.encode("utf-8", "surrogatepass"))}


def _int(value: int) -> Any:
    return value if -LONGEST_INT < value < LONGEST_INT else {"$int": f"{value:x}"}


def _float(value: float) -> Any:
    return value if value - value == 0.0 else {"$float": repr(value)}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _moment(value: datetime.datetime | datetime.time) -> Any:
    naive, zone = value.replace(tzinfo=None, fold=0).isoformat(), value.tzinfo
    if zone is None and not value.fold:
        return naive
    write: Any = LEAVES.get(type(zone))
    if write is None:
        kind = type(value).__name__
        raise UnstorableError(f"a {kind} with a {type(zone).__name__}, a time zone which cannot be kept")
    return [naive, write(zone), value.fold]


def _timezone(value: datetime.timezone) -> Any:
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]  # a name only where one was given
    return {"$timezone": [*_days(offset), *map(write_str, name)]}


def _days(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _zoneinfo(value: zoneinfo.ZoneInfo) -> Any:
    if value.key is None:
        raise UnstorableError("a ZoneInfo without a key, which cannot be kept")
    return {"$zoneinfo": value.key}


def _pattern(value: re.Pattern[Any]) -> Any:
    text = value.pattern
    return {"$pattern": [write_str(text) if isinstance(text, str) else {"$bytes": _base64(text)}, value.flags]}


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
URL_NAMES: Final[dict[Any, str]] = {found: name for name, found in URL_CLASSES.items()}

LEAVES: Final[dict[type, Callable[[Any], Any]]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: _int,
    float: _float,
    str: write_str,
    bytes: lambda value: {"$bytes": _base64(value)},
    complex: lambda value: {"$complex": [_float(value.real), _float(value.imag)]},
    datetime.datetime: lambda value: {"$datetime": _moment(value)},
    datetime.date: lambda value: {"$date": datetime.date.isoformat(value)},
    datetime.time: lambda value: {"$time": _moment(value)},
    datetime.timedelta: lambda value: {"$timedelta": _days(value)},
    datetime.timezone: _timezone,
    zoneinfo.ZoneInfo: _zoneinfo,
    TzInfo: lambda value: {"$tzinfo": round(value.utcoffset(None).total_seconds())},
    decimal.Decimal: lambda value: {"$decimal": decimal.Decimal.__str__(value)},
    uuid.UUID: lambda value: {"$uuid": uuid.UUID.__str__(value)},
    range: lambda value: {"$range": [_int(int(part)) for part in (value.start, value.stop, value.step)]},
    SecretStr: lambda value: {"$secret": write_str(value.get_secret_value())},
    SecretBytes: lambda value: {"$secretbytes": _base64(value.get_secret_value())},
    fractions.Fraction: lambda value: {"$fraction": [_int(value.numerator), _int(value.denominator)]},
    re.Pattern: _pattern,
    **dict.fromkeys(_PATH_NAMES, lambda value: {"$path": [_PATH_NAMES[type(value)], write_str(str(value))]}),
    **dict.fromkeys(IP_TYPES, lambda value: {"$ip": [type(value).__name__, str(value)]}),
}
"""How values of types without parts are written, by exact type."""

_TIMES: Final = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)
BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, lambda value: write_str(str.__str__(value))),
    (int, lambda value: _int(int.__int__(value))),
    (float, lambda value: _float(float.__float__(value))),
    *((base, LEAVES[base]) for base in (bytes, complex, decimal.Decimal, uuid.UUID, *_TIMES)),
    (pathlib.PurePath, lambda value: write_str(str(value))),
)
"""How values of subclasses are written, by the first base that fits: a datetime is also a date."""
