"""Models and dataclasses in a state's fields: each has a guarded subclass, whose instances refuse or permit a change.

A guarded instance answers to `__class__` as the user's own class does, so that `==`, `repr` and `isinstance` see that.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple

from pydantic import BaseModel

from .._compat.pydantic import subclassed
from ..exceptions import ConfigurationError
from ..validation.scalars import SCALARS, all_same
from .containers import DICTS, FROZEN, LISTS, SETS, ChangeGuard, ReadOnlyDict, StateDict, asking_guard


class ModelShape(NamedTuple):
    """The fields of a user's model or dataclass, known by its guarded class. Lifetime: the class."""

    original: type[Any]
    names: tuple[str, ...]
    is_model: bool
    validates_assignment: bool

    def read(self, value: Any) -> dict[str, Any]:
        """Read the fields of `value` by name, and after them the extra values of a model with `extra="allow"`."""
        if not self.is_model:
            return {name: getattr(value, name) for name in self.names}
        held, extra = value.__dict__, value.__pydantic_extra__
        fields = {name: held[name] for name in self.names}
        if not extra:
            return fields
        if not fields.keys().isdisjoint(extra):
            raise ConfigurationError(
                f"a {self.original.__name__} holds an extra value under the name of one of its own fields, which has "
                "another alias: the two cannot be told apart"
            )
        return {**fields, **extra}

    def is_untouched(self, value: Any, origin: Any) -> bool:
        """True if every field of a model holds the same object: 3 µs less than a full look at a model of scalars."""
        values, before = value.__dict__, origin.__dict__
        for name in self.names:
            if values[name] is not before[name]:
                return False
        new, old = value.__pydantic_extra__, origin.__pydantic_extra__
        return not (new or old) or (all_same([*new], [*old]) and all_same([*new.values()], [*old.values()]))

    def make(self, cls: type, parts: dict[str, Any], like: Any, guard: ChangeGuard | None = None) -> Any:
        """Make a `cls` (the original class or the guarded one) with the values `parts`, as `read` returns them.

        All else is taken from `like`. With a `guard` the instance is a guarded one.
        """
        made: Any = object.__new__(cls)
        put = object.__setattr__
        if self.is_model:
            extra = like.__pydantic_extra__
            if extra is not None:
                extra = {name: value for name, value in parts.items() if name not in self.names}
                parts = {name: parts[name] for name in self.names}
                if guard is not None:
                    extra = ReadOnlyDict.of(extra) if guard is FROZEN else StateDict.of(guard, extra)
            put(made, "__dict__", parts)
            put(made, "__pydantic_extra__", extra)
            for name in ("__pydantic_fields_set__", "__pydantic_private__"):
                kept = getattr(like, name)
                put(made, name, kept if kept is None else kept.copy())
        else:
            for name, value in parts.items():
                put(made, name, value)
        if guard is not None:
            put(made, "_fs_guard", guard)
        return made


guarded_shapes: dict[type, ModelShape] = {}
"""The shapes of all models and dataclasses that a state has held, by guarded class."""
_guarded_classes: dict[type, type] = {}  # by the original class


def guarded_class(cls: type) -> type:
    """Find or make the subclass of a nested model or dataclass whose instances ask a guard before each assignment."""
    found = _guarded_classes.get(cls)
    if found is not None:
        return found
    if getattr(cls, "__faststate__", False):
        raise ConfigurationError("a state cannot be held in a field of another state: refer to it by its id")

    def set_attribute(self: Any, name: str, value: Any) -> None:
        guard: ChangeGuard = self._fs_guard
        guard.check()
        base.__setattr__(self, name, value)
        if shape.validates_assignment:
            guard.note_validated(self, name)

    base: Any = cls
    members: dict[str, Any] = {
        "__slots__": ("_fs_guard",),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls),
        "__new__": lambda guarded, *args, **named: cls(*args, **named),  # `type(self)(...)` makes an ordinary one
        "__setattr__": set_attribute,
        "__copy__": lambda self: twin_of(self, shape, cls, copy.copy),
        "__deepcopy__": lambda self, memo=None: twin_of(self, shape, cls, lambda each: copy.deepcopy(each, memo)),
        "__reduce__": lambda self: copy.copy(self).__reduce__(),
        "__reduce_ex__": lambda self, protocol: copy.copy(self).__reduce_ex__(protocol),
    }
    for name in ("__init__", "__delattr__", "__setstate__"):  # called by their names; `cls(...)` makes an ordinary one
        if hasattr(base, name):
            members[name] = asking_guard(getattr(base, name))
    is_model = issubclass(cls, BaseModel)
    names = tuple(base.__pydantic_fields__) if is_model else tuple(field.name for field in dataclasses.fields(base))
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    shape: ModelShape = ModelShape(cls, names, is_model, bool(config.get("validate_assignment")))
    if is_model:  # pydantic writes what it was given, and warns of a tuple in the place of a list
        members["model_construct"] = classmethod(lambda guarded, *args, **named: base.model_construct(*args, **named))
        members["model_dump"] = lambda self, **options: base.model_dump(unlocked(self), **options)
        members["model_dump_json"] = lambda self, **options: base.model_dump_json(unlocked(self), **options)
    bases = (_Unannounced, cls)
    found = subclassed(cls, bases, members) if is_model else type(cls)(cls.__name__, bases, members)
    _guarded_classes[cls] = found
    guarded_shapes[found] = shape
    return found


class _Unannounced:
    """Stands before a user's class among the bases of its guarded one, so that no `__init_subclass__` runs for that."""

    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        pass


def twin_of(
    source: Any, shape: ModelShape, cls: type, convert: Callable[[Any], Any], guard: ChangeGuard | None = None
) -> Any:
    """Make a `cls` with the field values of `source` passed through `convert`."""
    parts = shape.read(source)
    for name, value in parts.items():
        if type(value) not in SCALARS:
            parts[name] = convert(value)
    return shape.make(cls, parts, source, guard)


def unlocked(value: Any, models: bool = True) -> Any:
    """Copy a value in builtin containers, for pydantic; with `models`, also in the user's own classes."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind in LISTS:
        return [item if type(item) in SCALARS else unlocked(item, models) for item in value]
    if kind in DICTS:
        return {key: item if type(item) in SCALARS else unlocked(item, models) for key, item in value.items()}
    if kind in SETS:
        return set(value)
    if models and (shape := guarded_shapes.get(kind)) is not None:
        return twin_of(value, shape, shape.original, unlocked)
    if isinstance(value, tuple):
        items = [unlocked(item, models) for item in value]
        return value if all(map(is_, items, value)) else tuple.__new__(kind, items)
    return value


def is_frozen_class(cls: type[Any]) -> bool:
    """True if the fields of a model or dataclass cannot be set."""
    if issubclass(cls, BaseModel):
        return bool(cls.model_config.get("frozen"))
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)
