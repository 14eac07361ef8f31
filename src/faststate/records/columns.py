"""Conversion between the values of a state's fields and the values of a row's columns."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from ..redaction import reached
from ..validation.annotations import union_members


class UnfitError(Exception):
    """Raised for a value that no column, or not this one, can keep. Lifetime: until the class and field are known.

    The message is the subject of a sentence ("a NUL character"), and never contains the value itself.
    """


# -- from a row --------------------------------------------------------------------------------------------------------


def columns_to_fields(values: Mapping[str, Any], cls: type[Any]) -> dict[str, Any]:
    """Return the columns that `cls` (a pydantic model) has fields for, ready for its validation.

    A text that the field does not accept but that is JSON is parsed. Lists, dicts and nested models are kept in a
    column like this, and so are the numbers of a Literal or an enum in a column of texts.
    """
    fields = cls.__pydantic_fields__
    return {
        name: _read(cls, name, value) if isinstance(value, str) else value
        for name, value in values.items()
        if name in fields
    }


def _read(cls: type[Any], name: str, text: str) -> Any:
    reader = _readers.setdefault(cls, {}).get(name)
    if reader is None:
        reader = _readers[cls][name] = ColumnReader(cls.__pydantic_fields__[name])
    return reader.read(text)


class ColumnReader:
    """Converts the texts of one column for the field of that name. Lifetime: the state class."""

    def __init__(self, field: Any) -> None:
        parts = set(union_members(field.annotation))
        moments = parts & _MOMENTS.keys()
        # Parsed by Python, a fixed offset is a `datetime.timezone`; pydantic would use a class of its own.
        self._moment = _MOMENTS[moments.pop()] if len(moments) == 1 and parts <= {*moments, type(None)} else None
        self._may_be_number = any(map(_has_other_values, parts))
        try:  # the type only: a validator of the app may accept any text
            self._adapter: TypeAdapter[Any] | None = TypeAdapter(field.annotation)
        except (PydanticUserError, NameError):  # a type that only the whole class can validate
            self._adapter = None

    def read(self, text: str) -> Any:
        if self._moment is not None:
            try:
                return self._moment(text)
            except ValueError:
                return text  # the validation of the class reports the error
        if self._adapter is None or not (self._may_be_number or text.lstrip()[:1] in ("[", "{")):
            return text
        try:
            self._adapter.validate_python(text)
        except ValidationError:
            try:
                return from_json(text)
            except ValueError:
                return text
        return text


_readers: WeakKeyDictionary[type[Any], dict[str, ColumnReader]] = WeakKeyDictionary()

_MOMENTS: Final[dict[Any, Callable[[str], Any]]] = {
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
}


def _has_other_values(annotation: Any) -> bool:
    """True for a Literal or an enum with a value that is not a text."""
    if get_origin(annotation) is Literal:
        return any(type(value) is not str for value in get_args(annotation))
    is_enum = isinstance(annotation, type) and issubclass(annotation, enum.Enum)
    return is_enum and any(not isinstance(member.value, str) for member in annotation)


# -- into a row --------------------------------------------------------------------------------------------------------


def to_column(value: Any, *, as_text: bool = False) -> Any:
    """Convert a field's value for SQLite: numbers, texts and bytes stay, an enum becomes its value, the rest is text.

    fastlite does the same, with two exceptions. Here a Decimal becomes text, so that a TEXT column keeps it exactly (in
    a FLOAT column SQLite makes it a number). And a number for a column of texts (`as_text`) becomes text here, because
    SQLite would write only 15 digits of a float, and no integer of more than 64 bits. Raises `UnfitError`.
    """
    if isinstance(value, enum.Enum):
        return to_column(value.value, as_text=as_text)
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return str(int(value)) if as_text else value
    if isinstance(value, int) and not as_text:
        if not -(2**63) <= value < 2**63:
            raise UnfitError("a whole number of more than 64 bits")
        return value
    if isinstance(value, float):
        return float.__repr__(value) if as_text else value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    plain = to_json_column(value)
    try:
        return _text(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))
    except ValueError:  # Python refuses to write a number of more than 4,300 digits
        raise UnfitError("a whole number of that many digits") from None


def to_json_column(value: Any) -> Any:
    """Convert a field's value for a column of JSON. Raises `UnfitError`."""
    try:
        return to_jsonable_python(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        detail = " that has no JSON"
        if isinstance(error, UnicodeDecodeError):
            detail = " with bytes that are not UTF-8"
        elif isinstance(error, UnicodeEncodeError):
            detail = " with half a surrogate pair"
        elif isinstance(error, PydanticSerializationError):
            detail = ""
        raise UnfitError(with_article(type(value).__name__) + detail) from None


def with_article(name: str) -> str:
    """Return a type's name with "a" or "an" before it."""
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnfitError("half a surrogate pair") from None
    return value


# -- errors of databases and drivers -----------------------------------------------------------------------------------

_SQLSTATES: Final = ("22", "23", "42804", "42846")
"""Prefixes of the SQL standard's error codes for unfit values: data exceptions, constraints, wrong types."""

_SQLITE_CODES: Final = frozenset({20, 275, 787, 1299, 1555, 2067, 2579, 3091})
"""SQLite's codes for the same: SQLITE_MISMATCH, and the constraints CHECK, FOREIGNKEY, NOTNULL, PRIMARYKEY, UNIQUE,
ROWID and DATATYPE (of strict tables). TRIGGER is left out: a trigger of the app may refuse for any reason."""


_CANNOT_BIND: Final = re.compile(r"\b(?:adapt type|binding parameter)\b")


def is_about_values(error: BaseException) -> bool:
    """True if a database or its driver refused a value, and did not just fail.

    Drivers are not imported for this: their error is called `DataError` (as PEP 249 demands), or has the error code of
    the SQL standard or of SQLite.
    """
    causes = reached([error], lambda each: [e for e in (getattr(each, "orig", None), each.__cause__) if e is not None])
    return any(map(_refuses_value, causes))


def _refuses_value(error: BaseException) -> bool:
    """True if this error itself, without its causes, is about a value."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "extendedresult", None)
    return (
        isinstance(error, UnicodeEncodeError | OverflowError)  # a driver raises these when it binds a value
        or any(cls.__name__ == "DataError" for cls in type(error).__mro__)
        or (isinstance(state, str) and state.startswith(_SQLSTATES))
        or code in _SQLITE_CODES
        # There is no code for a type that the driver does not know.
        or (type(error).__name__ in ("ProgrammingError", "InterfaceError") and bool(_CANNOT_BIND.search(str(error))))
        # SQLAlchemy could not convert the value for its column.
        or isinstance(getattr(error, "orig", None), TypeError | ValueError)
    )
