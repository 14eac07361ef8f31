"""Reading annotations: the type behind a name, the members of a union, the fields of a class."""

from __future__ import annotations

import dataclasses
import inspect
import types
from typing import Annotated, Any, NamedTuple, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict  # typing's own knows only typing's TypedDict before Python 3.13


class FieldType(NamedTuple):
    """The type of a field, and what stands beside it in `Annotated`."""

    annotation: Any
    metadata: tuple[Any, ...]


def stripped(annotation: Any) -> Any:
    """Strip an annotation of `Annotated`, `Required`, `NotRequired`, and of names that stand for another."""
    while True:
        if get_origin(annotation) in (Annotated, Required, NotRequired):
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__") and not isinstance(annotation, type):  # `type Tags = list[str]`
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        else:
            return annotation


def union_members(annotation: Any) -> tuple[Any, ...]:
    """List the members of a union, or the annotation alone, each as `stripped` returns it."""
    annotation = stripped(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in union_members(part))
    return (annotation,)


def accepts_none(annotation: Any) -> bool:
    """True for `Optional[T]` and `T | None`, also inside `Annotated`."""
    members = union_members(annotation)
    return len(members) > 1 and types.NoneType in members


def fields_in(kind: Any) -> dict[str, FieldType] | None:
    """Read the fields of a model, dataclass, TypedDict or named tuple, by name; None for anything else."""
    if not isinstance(kind, type):
        return None
    cls: Any = kind
    if issubclass(cls, BaseModel):
        return {name: FieldType(field.annotation, tuple(field.metadata)) for name, field in cls.model_fields.items()}
    is_dataclass = dataclasses.is_dataclass(cls)
    if not (is_dataclass or is_typeddict(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))):
        return None
    hints = hints_of(cls)
    names = [field.name for field in dataclasses.fields(cls)] if is_dataclass else hints
    return {name: FieldType(hints[name], getattr(hints[name], "__metadata__", ())) for name in names if name in hints}


def hints_of(cls: type) -> dict[str, Any]:
    """Read the annotations of a class and its bases, resolved where that is possible."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:  # types that are local to a function
        return inspect.get_annotations(cls)
