"""The code of a class's author: which validators in a core schema are that, and which are part of a type itself."""

from __future__ import annotations

import functools
import operator
from collections.abc import Container, Iterable
from typing import Any, Final, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainValidator, WrapValidator
from typing_extensions import is_typeddict

from .._compat.pydantic import converts
from .annotations import fields_in

__all__ = ["is_authors", "validators_in"]

_TYPE_MAKERS: Final = frozenset({"pydantic", "pydantic_extra_types", "pydantic_core"})


def is_authors(function: Any, written: Container[Any]) -> bool:
    """True if a validator is code of a class's author, and not part of a type itself.

    `written` are the functions that stand in the class's annotations; see `validators_in`.
    """
    if function in written:
        return True
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type | operator.attrgetter):
        return False  # `Sku`, which makes a Sku of a str; and the values of an enum with use_enum_values
    if (getattr(function, "__module__", None) or "").partition(".")[0] in _TYPE_MAKERS:
        return converts(function)
    owner = getattr(function, "__self__", None)
    return not (isinstance(owner, type) and hasattr(owner, "__get_pydantic_core_schema__")) or issubclass(
        owner, BaseModel
    )


def validators_in(cls: type[Any]) -> list[Any]:
    """The functions of all validators in the annotations of a class, at any depth.

    Models and dataclasses inside it are not looked into: they are classes of their own.
    """
    found: list[Any] = []
    seen: list[Any] = []

    def add_class(cls: type[Any]) -> None:
        for field in (fields_in(cls) or {}).values():
            add_marks(field.metadata)
            add(field.annotation)

    def add(annotation: Any) -> None:
        if any(each is annotation for each in seen):
            return
        seen.append(annotation)
        add_marks(getattr(annotation, "__metadata__", ()))
        for inner in (getattr(annotation, "__value__", None), getattr(annotation, "__supertype__", None)):
            if inner is not None:
                add(inner)
        for part in get_args(annotation):
            add(part)
        if isinstance(annotation, type) and (is_typeddict(annotation) or hasattr(annotation, "_fields")):
            add_class(annotation)

    def add_marks(marks: Iterable[Any]) -> None:
        for mark in marks:
            if isinstance(mark, AfterValidator | BeforeValidator | PlainValidator | WrapValidator):
                found.append(mark.func)

    add_class(cls)
    return found
