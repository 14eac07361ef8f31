"""Field types: which types a state's field may have, looked at when its class is registered.

A committed value is shared by all readers, compared, stored and shown. A type can be kept only where FastState knows
how to do each of these; docs/state.md has the table. For any other type, registering the class raises an error that
names the field and what to use in its place.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import enum
import inspect
import pathlib
import types
from collections.abc import Iterator
from typing import Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict  # typing's own knows only typing's TypedDict before Python 3.13

from ..exceptions import ConfigurationError
from ..validation.scalars import SCALARS, UnshowableError
from .models import is_frozen_class
from .values import freeze

__all__ = ["refuse_field_types"]

_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})
_ABSTRACT: Final = frozenset(
    {
        collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Mapping,
        collections.abc.MutableMapping, collections.abc.Set, collections.abc.MutableSet, collections.abc.Hashable,
    }
)  # fmt: skip
"""Abstract types for which pydantic makes a builtin container, or takes the one that it is given."""

_IMMUTABLE: Final = (*(SCALARS - {type, type(None), bool, range}), enum.Enum, pathlib.PurePath)

_INSTEAD: Final[dict[type, str]] = {
    collections.deque: "a list; `self.items = self.items[-100:]` keeps the last 100",
    collections.defaultdict: "a dict, with setdefault()",
    collections.Counter: "a dict[str, int]",
    collections.OrderedDict: "a dict, which keeps its order",
    collections.ChainMap: "a dict",
    bytearray: "bytes",
    memoryview: "bytes",
    type: "the class's name, as a str",
}


def refuse_field_types(cls: type[BaseModel]) -> None:
    """Raises `ConfigurationError` where a field of `cls` has a type, or a default, that no state can keep."""
    for name, field in cls.model_fields.items():
        where = f"{cls.__name__}.{name}"
        for kind, instead in _refused(field.annotation, set()):
            raise ConfigurationError(f"{where} holds a {kind}, which a state cannot keep: use {instead}")
        if field.is_required() or field.default_factory is not None:
            continue
        try:
            # What does not fit its field is reported elsewhere, where that matters.
            with contextlib.suppress(ValidationError):
                freeze(field.default)
        except (ConfigurationError, UnshowableError) as error:
            raise ConfigurationError(f"the default of {where} cannot be kept: {error}") from None


def _refused(annotation: Any, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """The types in `annotation`, at any depth, that no state can keep, each with what to use in its place."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        elif hasattr(annotation, "__value__"):  # a `type` statement, which may name itself
            if id(annotation) in seen:
                return
            seen.add(id(annotation))
            annotation = annotation.__value__
        else:
            break
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if kind is Literal or annotation in (Any, object, None, Ellipsis) or isinstance(annotation, str | ForwardRef):
        return
    if kind in (Union, types.UnionType):
        pass
    elif kind is collections.abc.Callable:
        yield "callable", "a method of the class, or a private attribute (`_name`), which is not kept"
        return
    elif isinstance(kind, type) and kind not in seen:
        members = _members_of(kind)
        if members is not None:
            seen.add(kind)
            for member in members:
                yield from _refused(member, seen)
        elif not _is_kept(kind):
            yield kind.__name__, _instead_of(kind)
            return
    if kind in _KEYED and arguments:
        yield from _refused_keys(arguments[0], of_dict=kind not in _SETS)
    for argument in arguments:
        for each in argument if isinstance(argument, list) else (argument,):
            yield from _refused(each, seen)


def _refused_keys(annotation: Any, *, of_dict: bool) -> Iterator[tuple[str, str]]:
    """The types of keys, or of a set's members, that could be changed for all readers, or that no page can show."""
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    kind = get_origin(annotation) or annotation
    if kind in (Union, types.UnionType, tuple):
        for each in get_args(annotation):
            yield from _refused_keys(each, of_dict=of_dict)
    elif kind is frozenset and of_dict:
        yield "frozenset as a key", "a tuple"
    elif (
        isinstance(kind, type)
        and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))
        and not is_frozen_class(kind)
    ):
        yield f"{kind.__name__} as a key or in a set", "a frozen class there"


_SETS: Final = frozenset({set, frozenset, collections.abc.Set, collections.abc.MutableSet})
_KEYED: Final = _SETS | {dict, collections.abc.Mapping, collections.abc.MutableMapping}


def _members_of(kind: type) -> list[Any] | None:
    """The types of the fields of a model, dataclass, TypedDict or named tuple; None for any other class."""
    if getattr(kind, "__faststate__", False):
        return None
    if issubclass(kind, BaseModel):
        return [field.annotation for field in kind.model_fields.values()]
    if not (
        dataclasses.is_dataclass(kind) or is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    ):
        return None
    try:
        hints = get_type_hints(kind)
    except NameError:  # types that are local to a function
        hints = inspect.get_annotations(kind)
    names = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else hints.keys()
    return [hint for name, hint in hints.items() if name in names]


def _is_kept(kind: type) -> bool:
    if kind in _CONTAINERS or kind in _ABSTRACT or kind is types.NoneType:
        return True
    if kind.__module__.partition(".")[0] in ("pydantic", "pydantic_core", "pydantic_extra_types", "zoneinfo"):
        return True
    return issubclass(kind, _IMMUTABLE)


def _instead_of(kind: type) -> str:
    if getattr(kind, "__faststate__", False):
        return "its id, and take the other state as a parameter of the event"
    for base in kind.__mro__:
        if base in _INSTEAD:
            return _INSTEAD[base]
    if issubclass(kind, list | dict | set | tuple | frozenset):
        return "the builtin container"
    if issubclass(kind, collections.abc.Iterable):
        return "a list"
    return "a pydantic model, a dataclass, or a private attribute (`_name`), which is not kept"
