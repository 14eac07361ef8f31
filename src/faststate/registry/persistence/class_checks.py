"""Class checks: refuse a class at registration whose states could not be loaded again."""

from __future__ import annotations

import copy
import datetime
import decimal
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ..._compat.pydantic import validated_fields, validates_whole
from ...exceptions import ConfigurationError
from ...redaction import explain
from ...state.reactive import ReactiveState
from ...validation.revalidation import revalidation_of

COLUMNS_REMEDY: Final = "name the fields as the columns, or give to_state and to_row"


def refuse_unfit_defaults(cls: type[ReactiveState]) -> None:
    """Raise `ConfigurationError` for a default, which pydantic takes as given, that its own field would not load."""
    if cls.model_config.get("validate_default"):
        return
    defaults = {
        name: copy.deepcopy(field.default)
        for name, field in cls.__pydantic_fields__.items()
        if field.default_factory is None and not field.is_required() and not field.validate_default
    }
    try:
        revalidation_of(cls).load_some(defaults)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message = explain(error, cls, values=defaults)[0][1]
        raise ConfigurationError(
            f"the default of {cls.__name__}.{problem['loc'][0]} does not fit the field: it could be stored, and not be "
            f"loaded again ({message}). Change it, or use StateConfig(in_memory=True)"
        ) from None


def refuse_missing_columns(cls: type[ReactiveState], columns: Iterable[str] | None, version_column: str | None) -> None:
    """Raise `ConfigurationError` for a field that is none of the table's columns (None where they are not known), or
    the one that counts the row's versions."""
    for name in cls.__pydantic_fields__:
        if columns is not None and name not in columns:
            raise ConfigurationError(
                f"{cls.__name__}.{name} is no column of the table, which has {', '.join(columns)}: {COLUMNS_REMEDY}"
            )
        if name == version_column:
            raise ConfigurationError(
                f"{cls.__name__}.{name} is the column that counts the row's versions, which no event can set: leave "
                "it out of the class"
            )


def refuse_unfit_columns(cls: type[ReactiveState], gives: Mapping[str, type], columns: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` for a field that takes nothing of what its column `gives`: a number, none of a text's.

    `gives` are the types of the columns' values, `columns` the columns' own types (str), both by name.
    """
    if validates_whole(cls):
        return  # its validators may make of the row what they like
    validated = validated_fields(cls)
    for name, field in cls.__pydantic_fields__.items():
        own_code = "*" in validated or name in validated or any(hasattr(mark, "func") for mark in field.metadata)
        if name not in gives or own_code:
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, field.annotation))
        except (PydanticUserError, NameError):  # a type that only its class knows what to do with
            continue
        if not any(_takes(adapter, sample) for sample in _SAMPLES.get(gives[name], ())):
            raise ConfigurationError(
                f"{cls.__name__}.{name} cannot be kept in the column {name} ({columns.get(name)}), which gives "
                f"{gives[name].__name__}: give the column another type (a text keeps most), or give to_state and to_row"
            )


_SAMPLES: Final[dict[type, tuple[Any, ...]]] = {
    bool: (True,),
    int: (1,),
    float: (1.0,),
    decimal.Decimal: (decimal.Decimal(1),),
    datetime.date: (datetime.date(2000, 1, 1),),
    datetime.datetime: (datetime.datetime(2000, 1, 1), datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)),
    datetime.time: (datetime.time(0), datetime.time(0, tzinfo=datetime.UTC)),
    datetime.timedelta: (datetime.timedelta(0),),
    uuid.UUID: (uuid.UUID(int=0),),
}


def _takes(adapter: TypeAdapter[Any], sample: Any) -> bool:
    """True if a type takes values of the sample's type, if perhaps not this one."""
    try:
        adapter.validate_python(sample)
    except ValidationError as error:
        return not all(problem["type"].endswith(("_type", "_parsing")) for problem in error.errors())
    return True
