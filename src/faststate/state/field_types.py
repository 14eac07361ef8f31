"""Field types: which types a state's field may have, looked at when its class is registered.

A type can be kept only if FastState can freeze, compare, store and show its values; docs/state.md has the table.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import enum
import pathlib
import types
from collections.abc import Iterator
from typing import Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..exceptions import ConfigurationError
from ..validation.annotations import fields_in, stripped
from ..validation.scalars import SCALARS, UnshowableError
from .models import is_frozen_class
from .values import freeze

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
    """Raise `ConfigurationError` where a field of `cls` has a type, or a default, that no state can keep."""
    for name, field in cls.model_fields.items():
        where = f"{cls.__name__}.{name}"
        for kind, instead in _refused(field.annotation, []):
            raise ConfigurationError(f"{where} holds a {kind}, which a state cannot keep: use {instead}")
        if field.is_required() or field.default_factory is not None:
            continue
        try:
            # What does not fit its field is reported elsewhere, where that matters.
            with contextlib.suppress(ValidationError):
                freeze(field.default)
        except (ConfigurationError, UnshowableError) as error:
            raise ConfigurationError(f"the default of {where} cannot be kept: {error}") from None


def _refused(annotation: Any, seen: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the types in `annotation`, at any depth, that no state can keep, each with what to use in its place."""
    annotation = stripped(annotation)
    while isinstance(annotation, TypeVar):
        annotation = stripped(annotation.__bound__ or Any)
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if arguments:  # what a `type` statement names may name itself
        if any(each is annotation for each in seen):
            return
        seen.append(annotation)
    if kind is Literal or annotation in (Any, object, None, Ellipsis) or isinstance(annotation, str | ForwardRef):
        return
    if kind in (Union, types.UnionType):
        pass
    elif kind is collections.abc.Callable:
        yield "callable", "a method of the class, or a private attribute (`_name`), which is not kept"
        return
    elif isinstance(kind, type) and kind not in seen:
        fields = fields_in(kind) if not getattr(kind, "__faststate__", False) else None
        if fields is not None:
            seen.append(kind)
            for field in fields.values():
                yield from _refused(field.annotation, seen)
        elif not _is_kept(kind):
            yield kind.__name__, _instead_of(kind)
            return
    if kind in _KEYED and arguments:
        yield from _refused_keys(arguments[0], of_dict=kind not in _SETS)
    for argument in arguments:
        for each in argument if isinstance(argument, list) else (argument,):
            yield from _refused(each, seen)


def _refused_keys(annotation: Any, *, of_dict: bool) -> Iterator[tuple[str, str]]:
    """Yield types of keys, or of a set's members, that could be changed for all readers, or that no page can show."""
    annotation = stripped(annotation)
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
