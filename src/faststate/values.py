"""Values of state fields: frozen while committed and shared, guarded while an event works on them.

A committed value is shared by every reader, so nobody may change it. A working copy gets its own thawed containers, and
when it is committed, what did not change is the very object that was committed before: a comparison by identity then
tells which fields changed, and nothing unchanged is validated or encoded again.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, PydanticUserError, TypeAdapter

from .exceptions import ConfigurationError, ReadOnlyStateError

__all__ = ["SCALARS", "Guard", "StateDict", "StateList", "StateSet", "Thaw", "equal", "freeze", "is_container"]

REMEDY = "change it in an @event, with `await state.<event>.run(...)`, or in `async with provider.modify(...)`"


class Guard:
    """Says whether a container may be changed. One per working copy; `FROZEN` for everything that is committed."""

    __slots__ = ("live",)

    def __init__(self, live: bool) -> None:
        self.live = live

    def check(self) -> None:
        """Raises `ReadOnlyStateError` unless the container's transaction is still open."""
        if not self.live:
            raise ReadOnlyStateError(
                f"this value is a committed, shared one (or was read before a `yield` of its event): {REMEDY}"
            )


FROZEN = Guard(live=False)


def _guarded(method: Callable[..., Any]) -> Any:
    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._guard.check()
        return method(self, *args, **kwargs)

    return guarded


class StateList(list[Any]):
    """A list in a state: a real `list` that asks its guard before each change."""

    __slots__ = ("_guard",)
    _guard: Guard

    __setitem__ = _guarded(list.__setitem__)
    __delitem__ = _guarded(list.__delitem__)
    __iadd__ = _guarded(list.__iadd__)
    __imul__ = _guarded(list.__imul__)
    append = _guarded(list.append)
    clear = _guarded(list.clear)
    extend = _guarded(list.extend)
    insert = _guarded(list.insert)
    pop = _guarded(list.pop)
    remove = _guarded(list.remove)
    reverse = _guarded(list.reverse)
    sort = _guarded(list.sort)

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(item, memo) for item in self]

    def __reduce__(self) -> Any:
        return (list, (list(self),))


class StateDict(dict[Any, Any]):
    """A dict in a state: a real `dict` that asks its guard before each change."""

    __slots__ = ("_guard",)
    _guard: Guard

    __setitem__ = _guarded(dict.__setitem__)
    __delitem__ = _guarded(dict.__delitem__)
    __ior__ = _guarded(dict.__ior__)
    clear = _guarded(dict.clear)
    pop = _guarded(dict.pop)
    popitem = _guarded(dict.popitem)
    setdefault = _guarded(dict.setdefault)
    update = _guarded(dict.update)

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {copy.deepcopy(k, memo): copy.deepcopy(v, memo) for k, v in self.items()}

    def __reduce__(self) -> Any:
        return (dict, (dict(self),))


class StateSet(set[Any]):
    """A set in a state: a real `set` that asks its guard before each change."""

    __slots__ = ("_guard",)
    _guard: Guard

    __iand__ = _guarded(set.__iand__)
    __ior__ = _guarded(set.__ior__)
    __isub__ = _guarded(set.__isub__)
    __ixor__ = _guarded(set.__ixor__)
    add = _guarded(set.add)
    clear = _guarded(set.clear)
    difference_update = _guarded(set.difference_update)
    discard = _guarded(set.discard)
    intersection_update = _guarded(set.intersection_update)
    pop = _guarded(set.pop)
    remove = _guarded(set.remove)
    symmetric_difference_update = _guarded(set.symmetric_difference_update)
    update = _guarded(set.update)

    def __repr__(self) -> str:  # lists and dicts write themselves without their class's name
        return repr(set(self))

    def __copy__(self) -> set[Any]:
        return set(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> set[Any]:
        return {copy.deepcopy(item, memo) for item in self}

    def __reduce__(self) -> Any:
        return (set, (set(self),))


_GUARDED = frozenset({StateList, StateDict, StateSet})

SCALARS: Final = frozenset(
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
        uuid.UUID,
        range,
        type,
    }
)
_CONTAINERS = (list, dict, set, frozenset, tuple, BaseModel)


def is_container(value: object) -> bool:
    """True for values that need thawing before they may be changed."""
    if type(value) in SCALARS:
        return False
    return isinstance(value, _CONTAINERS) or dataclasses.is_dataclass(value)


def _guarded_class(cls: type) -> type:
    """The subclass of a nested model or dataclass whose instances ask a guard before each assignment.

    It answers to `__class__` as the original does, so that `==`, `repr` and `isinstance` see the user's own class.
    """
    found = _guarded_classes.get(cls)
    if found is not None:
        return found
    if getattr(cls, "__faststate__", False):
        raise ConfigurationError("a state cannot be held in a field of another state: refer to it by its id")

    def set_attribute(self: Any, name: str, value: Any) -> None:
        self._fs_guard.check()
        base.__setattr__(self, name, value)

    def delete_attribute(self: Any, name: str) -> None:
        self._fs_guard.check()
        base.__delattr__(self, name)

    def shallow(self: Any) -> Any:
        return _twin(self, shape, cls, copy.copy)

    def deep(self: Any, memo: dict[int, Any] | None = None) -> Any:
        return _twin(self, shape, cls, lambda value: copy.deepcopy(value, memo))

    base: Any = cls
    members: dict[str, Any] = {
        "__slots__": ("_fs_guard",),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls),
        "__setattr__": set_attribute,
        "__delattr__": delete_attribute,
        "__copy__": shallow,
        "__deepcopy__": deep,
        "__reduce__": lambda self: copy.copy(self).__reduce__(),
        "__reduce_ex__": lambda self, protocol: copy.copy(self).__reduce_ex__(protocol),
    }
    is_model = issubclass(cls, BaseModel)
    names = tuple(base.__pydantic_fields__) if is_model else tuple(field.name for field in dataclasses.fields(base))
    shape = _Shape(cls, names, is_model)
    # Not through pydantic's metaclass: that would build a second validator for what is the same class to the user.
    found = ABCMeta.__new__(type(cls), cls.__name__, (cls,), members) if is_model else None
    found = found or type(cls)(cls.__name__, (cls,), members)
    _guarded_classes[cls] = found
    _shapes[found] = shape
    return found


class _Shape(NamedTuple):
    """What a guarded class guards. Lifetime: the class."""

    original: type[Any]
    names: tuple[str, ...]
    is_model: bool

    def read(self, value: Any) -> dict[str, Any]:
        """The fields of `value`, by name."""
        if self.is_model:
            held = value.__dict__
            return {name: held[name] for name in self.names}
        return {name: getattr(value, name) for name in self.names}

    def untouched(self, values: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
        """True when every field holds the same object: the quick way to see that a twin was never changed."""
        for name in self.names:  # noqa: SIM110  # twice as fast as all()
            if values[name] is not origin[name]:
                return False
        return True

    def make(self, cls: type, fields: Mapping[str, Any], like: Any, guard: Guard | None = None) -> Any:
        """A `cls` (the original class or the guarded one) with these fields, and all else as in `like`."""
        made: Any = object.__new__(cls)
        put = object.__setattr__
        if self.is_model:
            put(made, "__dict__", fields)
            for name in _PYDANTIC_STATE:
                kept = getattr(like, name)
                put(made, name, kept if kept is None else kept.copy())
        else:
            for name, value in fields.items():
                put(made, name, value)
        if guard is not None:
            put(made, "_fs_guard", guard)
        return made


_guarded_classes: dict[type, type] = {}
_shapes: dict[type, _Shape] = {}  # by guarded class

_PYDANTIC_STATE = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def _twin(source: Any, shape: _Shape, cls: type, convert: Callable[[Any], Any], guard: Guard | None = None) -> Any:
    """A new `cls` with `source`'s field values passed through `convert`."""
    fields = shape.read(source)
    for name, value in fields.items():
        if type(value) not in SCALARS:
            fields[name] = convert(value)
    return shape.make(cls, fields, source, guard)


def _unsupported(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"a state field holds a {type(value).__name__}, which cannot be kept unchangeable: use scalars, list, dict, "
        "set, frozenset, tuple, pydantic models or dataclasses"
    )


def freeze(value: Any) -> Any:
    """An unchangeable twin of `value` (any field value), or `value` itself when nothing in it can change.

    Raises `ConfigurationError` for types that cannot be made unchangeable.
    """
    return value if type(value) in SCALARS else Thaw().refreeze(value)


class Thaw:
    """The thawed values of one working copy. Lifetime: until its transaction (or generator step) ends.

    `thaw()` makes a changeable twin and remembers what it came from; `refreeze()` gives the original back wherever the
    twin was not changed, so that committing costs what was touched.
    """

    __slots__ = ("_origins", "guard")

    def __init__(self) -> None:
        self.guard = Guard(live=True)
        self._origins: dict[int, tuple[Any, Any]] = {}  # id of a twin -> the twin (kept alive) and its frozen origin

    def close(self) -> None:
        """From now on, changing a value that this object thawed raises."""
        self.guard.live = False
        self._origins.clear()

    def thaw(self, value: Any) -> Any:
        """A changeable twin of the frozen `value`; scalars and frozensets are their own."""
        kind = type(value)
        if kind in SCALARS:
            return value
        twin: Any
        if kind is StateList:
            twin = StateList(map(self.thaw, value))
            twin._guard = self.guard
        elif kind is StateDict:
            twin = StateDict({key: self.thaw(item) for key, item in value.items()})
            twin._guard = self.guard
        elif kind is StateSet:
            twin = StateSet(value)
            twin._guard = self.guard
        elif kind is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
            items = [self.thaw(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            twin = kind(*items) if hasattr(value, "_fields") else tuple(items)
        elif (shape := _shapes.get(kind)) is not None:
            twin = _twin(value, shape, kind, self.thaw, self.guard)
        else:
            return value
        self._origins[id(twin)] = (twin, value)
        return twin

    def refreeze(self, value: Any) -> Any:
        """The frozen form of a working value: its origin where nothing changed, else a new frozen twin."""
        kind = type(value)
        if kind in SCALARS:
            return value
        twin, origin = self._origins.get(id(value), (None, None))
        if twin is not value:
            origin = None
        # Guarded classes come first: on models, isinstance() and getattr() are the slow ones.
        if (shape := _shapes.get(kind)) is not None:
            if value._fs_guard is FROZEN:
                return value
            untouched = origin is not None and shape.is_model and shape.untouched(value.__dict__, origin.__dict__)
            return origin if untouched else self._refreeze_model(value, shape, origin)
        if kind in _GUARDED and value._guard is FROZEN:
            return value
        if kind is list or kind is StateList:
            items = self._refreeze_all(value)
            return origin if origin is not None and _all_same(items, origin) else _seal(StateList(items))
        if kind is dict or kind is StateDict:
            items = self._refreeze_all(value.values())
            # The order of keys is part of what views show.
            if origin is not None and list(origin) == list(value) and _all_same(items, list(origin.values())):
                return origin
            return _seal(StateDict(zip(value, items, strict=True)))
        if kind is set or kind is StateSet:
            if origin is not None and origin == value:
                return origin
            return _seal(StateSet(value))
        if isinstance(value, tuple):
            items = self._refreeze_all(value)
            if origin is not None and _all_same(items, origin):
                return origin
            if all(map(is_, items, value)):
                return value
            return kind(*items) if hasattr(value, "_fields") else tuple(items)
        if kind is frozenset or isinstance(value, enum.Enum | pathlib.PurePath):
            return value
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            return self._refreeze_model(value, _shapes[_guarded_class(kind)], None)
        if isinstance(value, tuple(SCALARS - {type})) or type(value).__module__.startswith(("pydantic", "zoneinfo")):
            return value  # subclasses of scalars, and pydantic's own value types (URLs, secrets): immutable
        raise _unsupported(value)

    def _refreeze_all(self, values: Iterable[Any]) -> list[Any]:
        return [value if type(value) in SCALARS else self.refreeze(value) for value in values]

    def _refreeze_model(self, value: Any, shape: _Shape, origin: Any) -> Any:
        fields = shape.read(value)
        fresh = dict(zip(fields, self._refreeze_all(fields.values()), strict=True))
        if origin is not None and _all_same(list(fresh.values()), list(shape.read(origin).values())):
            return origin
        frozen = _guarded_class(shape.original)
        if not shape.is_model:
            return self._validated_dataclass(shape.make(frozen, fresh, value, FROZEN), shape)
        # Assignments to a nested model are not validated by pydantic unless its author asked for it: do it now.
        validated = shape.original.__pydantic_validator__.validate_python(fresh, by_alias=False, by_name=True)
        twin = _twin(validated, shape, frozen, freeze, FROZEN)
        object.__setattr__(twin, "__pydantic_private__", copy.copy(value.__pydantic_private__))
        return twin

    def _validated_dataclass(self, value: Any, shape: _Shape) -> Any:
        """A frozen dataclass as its annotations want it: pydantic takes an instance as it is, whatever it holds."""
        adapter = _adapter_of(shape.original)
        if adapter is None:
            return value
        validated = adapter.validate_python(shape.read(value))
        return _twin(validated, shape, type(value), freeze, FROZEN)


_adapters: dict[type, TypeAdapter[Any] | None] = {}


def _adapter_of(cls: type) -> TypeAdapter[Any] | None:
    """What validates the fields of a dataclass; None where they are not all given when it is made."""
    if cls not in _adapters:
        usable = all(field.init for field in dataclasses.fields(cls))
        try:
            _adapters[cls] = TypeAdapter(cls) if usable else None
        except (PydanticUserError, NameError):  # of a type that pydantic does not know, or that is local to a function
            _adapters[cls] = None
    return _adapters[cls]


def _seal(container: Any) -> Any:
    container._guard = FROZEN
    return container


def equal(new: Any, old: Any) -> bool:
    """Equal in value and type, so that 1 and True, or keys in another order, count as a change."""
    if new is old:
        return True
    kind = type(new)
    if kind is not type(old):
        return False
    if kind in SCALARS:
        return bool(new == old)
    if isinstance(new, list | tuple):
        return len(new) == len(old) and all(map(equal, new, old))
    if isinstance(new, dict):
        return list(new) == list(old) and all(map(equal, new.values(), old.values()))
    if (shape := _shapes.get(kind)) is not None:
        return equal(shape.read(new), shape.read(old))
    return bool(new == old)


def _same(new: Any, old: Any) -> bool:
    """Equal for certain: the same object, or equal scalars of one type (1, 1.0 and True are three values)."""
    return new is old or (type(new) is type(old) and type(new) in SCALARS and bool(new == old))


def _all_same(new: Sequence[Any], old: Sequence[Any]) -> bool:
    return len(new) == len(old) and (all(map(is_, new, old)) or all(map(_same, new, old)))
