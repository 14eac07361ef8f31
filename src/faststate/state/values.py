"""Values of state fields: read-only while committed and shared, guarded while an event works on them.

Every reader shares a committed value, so nobody may change it. A working copy has thawed containers of its own. When it
is committed, each part that did not change is the very object that was committed before. A comparison by identity
then tells what changed, and nothing unchanged is validated or encoded again.
"""

from __future__ import annotations

import copy
import dataclasses
import decimal
import enum
import fractions
import functools
import pathlib
import re
from abc import ABCMeta
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import Any, Final, NamedTuple, NoReturn

from pydantic import BaseModel

from ..exceptions import ConfigurationError, ReadOnlyStateError
from ..validation.revalidation import Kept, KnownItems, Revalidation, revalidation_of
from ..validation.scalars import CHECKED, SCALARS, UnshowableError, check_showable, exact_key, same_scalar

__all__ = [
    "SCALARS",
    "SHORT_INT",
    "Guard",
    "ReadOnlyDict",
    "ReadOnlyList",
    "ReadOnlySet",
    "StateDict",
    "StateList",
    "StateSet",
    "Thaw",
    "equal",
    "freeze",
    "is_container",
    "is_frozen_class",
    "known_items",
    "plain",
    "unlocked",
]

REMEDY = "change it in an @event, with `await state.<event>.run(...)`, or in `async with provider.modify(...)`"


class Guard:
    """Says whether a container may be changed. One per working copy; `FROZEN` for everything that is committed."""

    __slots__ = ("live", "validated")

    def __init__(self, live: bool) -> None:
        self.live = live
        self.validated: dict[tuple[int, str], Any] | None = None
        """The values (frozen) set in models with validate_assignment, by the model's id and the field's name."""

    def check(self) -> None:
        """Raises `ReadOnlyStateError` unless the container's transaction is still open."""
        if not self.live:
            _refuse_change()


FROZEN = Guard(live=False)


def _refuse_change(*_: Any, **__: Any) -> NoReturn:
    raise ReadOnlyStateError(
        f"this value is a committed, shared one (or was read before a `yield` of its event): {REMEDY}"
    )


# -- committed containers ----------------------------------------------------------------------------------------------
#
# Python's own C code changes a list, a dict or a set past the methods of its class: heapq does, and `list.sort(x)`. So
# a committed list or dict keeps its items a second time, where such code does not find them: what it changes is a copy
# that pydantic reads, and Python code does not. A committed set is a frozenset, which says `set` when it is asked for
# its `__class__`. None of these classes makes instances of itself: `type(x)(...)`, as dataclasses.asdict() calls it,
# gives a builtin container.


class ReadOnlyList(list[Any]):
    """A committed list. It reads as a list does, and raises `ReadOnlyStateError` where a list would change."""

    __slots__ = ("_items",)
    _items: tuple[Any, ...]

    def __new__(cls, items: Iterable[Any] = ()) -> Any:
        return list(items)

    @staticmethod
    def of(items: list[Any]) -> ReadOnlyList:
        """A committed list of these items."""
        made: ReadOnlyList = list.__new__(ReadOnlyList)
        list.extend(made, items)
        _put_items(made, tuple(items))
        return made

    def __init__(self, items: Iterable[Any] = ()) -> None:
        """Changes nothing: `x.__init__(...)` would fill a list that is there already."""

    def __getitem__(self, place: Any) -> Any:
        return list(self._items[place]) if type(place) is slice else self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def __reversed__(self) -> Any:
        return reversed(self._items)

    def __contains__(self, item: Any) -> bool:
        return item in self._items

    def __eq__(self, other: object) -> bool:
        return self._items == tuple(other) if isinstance(other, list) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return self._items != tuple(other) if isinstance(other, list) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self._items < tuple(other) if isinstance(other, list) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return self._items <= tuple(other) if isinstance(other, list) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return self._items > tuple(other) if isinstance(other, list) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return self._items >= tuple(other) if isinstance(other, list) else NotImplemented

    __hash__ = None

    def __add__(self, other: Any) -> Any:
        return [*self._items, *other] if isinstance(other, list) else NotImplemented

    def __mul__(self, times: Any) -> Any:
        return [*self._items] * times

    __rmul__ = __mul__

    def copy(self) -> list[Any]:
        """A plain list of the same items."""
        return [*self._items]

    def count(self, item: Any) -> int:
        """As a list's."""
        return self._items.count(item)

    def index(self, item: Any, *between: Any) -> int:
        """As a list's."""
        return self._items.index(item, *between)

    def __repr__(self) -> str:
        return repr([*self._items])

    def __copy__(self) -> list[Any]:
        return [*self._items]

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(item, memo) for item in self._items]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (list, ([*self._items],))

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_change
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse_change


_put_items: Final = vars(ReadOnlyList)["_items"].__set__


class ReadOnlySet(frozenset[Any]):
    """A committed set. It reads as a set does, and raises `ReadOnlyStateError` where a set would change."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # as a set

    def __new__(cls, items: Iterable[Any] = ()) -> Any:
        return set(items)

    @staticmethod
    def of(items: Iterable[Any]) -> ReadOnlySet:
        """A committed set of these members."""
        return frozenset.__new__(ReadOnlySet, items)

    @property  # type: ignore[misc]  # mypy knows __class__ as a plain attribute
    def __class__(self) -> type:
        return set

    def __and__(self, other: Any) -> Any:
        return set(self) & other

    def __or__(self, other: Any) -> Any:
        return set(self) | other

    def __sub__(self, other: Any) -> Any:
        return set(self) - other

    def __xor__(self, other: Any) -> Any:
        return set(self) ^ other

    def copy(self) -> set[Any]:  # type: ignore[override]  # what a set gives
        """A plain set of the same members."""
        return set(self)

    def difference(self, *others: Iterable[Any]) -> set[Any]:  # type: ignore[override]
        """As a set's."""
        return set(self).difference(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:  # type: ignore[override]
        """As a set's."""
        return set(self).intersection(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:  # type: ignore[override]
        """As a set's."""
        return set(self).symmetric_difference(other)

    def union(self, *others: Iterable[Any]) -> set[Any]:  # type: ignore[override]
        """As a set's."""
        return set(self).union(*others)

    def __repr__(self) -> str:
        return repr(set(self))

    def __copy__(self) -> set[Any]:
        return set(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> set[Any]:
        return {copy.deepcopy(item, memo) for item in self}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (set, (set(self),))

    __iand__ = __ior__ = __isub__ = __ixor__ = _refuse_change
    add = clear = discard = pop = remove = update = _refuse_change
    difference_update = intersection_update = symmetric_difference_update = _refuse_change


class ReadOnlyDict(dict[Any, Any]):
    """A committed dict. It reads as a dict does, and raises `ReadOnlyStateError` where a dict would change."""

    __slots__ = ("_items",)
    _items: dict[Any, Any]

    def __new__(cls, items: Any = (), **named: Any) -> Any:
        return dict(items, **named)

    @staticmethod
    def of(items: dict[Any, Any]) -> ReadOnlyDict:
        """A committed dict of these items; `items` is its own from here on."""
        made: ReadOnlyDict = dict.__new__(ReadOnlyDict)
        dict.update(made, items)
        _put_entries(made, items)
        return made

    def __init__(self, items: Any = (), **named: Any) -> None:
        """Changes nothing: `x.__init__(...)` would add to a dict that is there already."""

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._items

    def __iter__(self) -> Any:
        return iter(self._items)

    def __reversed__(self) -> Any:
        return reversed(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if type(other) is ReadOnlyDict else other)

    def __ne__(self, other: object) -> bool:
        return self._items != (other._items if type(other) is ReadOnlyDict else other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return {**self._items, **other} if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return {**other, **self._items} if isinstance(other, dict) else NotImplemented

    def get(self, key: Any, default: Any = None) -> Any:
        """As a dict's."""
        return self._items.get(key, default)

    def keys(self) -> Any:
        """As a dict's."""
        return self._items.keys()

    def values(self) -> Any:
        """As a dict's."""
        return self._items.values()

    def items(self) -> Any:
        """As a dict's."""
        return self._items.items()

    def copy(self) -> dict[Any, Any]:
        """A plain dict of the same items."""
        return self._items.copy()

    fromkeys = dict.fromkeys

    def __repr__(self) -> str:
        return repr(self._items)

    def __copy__(self) -> dict[Any, Any]:
        return self._items.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {copy.deepcopy(k, memo): copy.deepcopy(v, memo) for k, v in self._items.items()}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (dict, (self._items.copy(),))

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = __ior__ = _refuse_change
    clear = pop = popitem = setdefault = update = _refuse_change


_put_entries: Final = vars(ReadOnlyDict)["_items"].__set__


# -- containers of a working copy --------------------------------------------------------------------------------------
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

    def __new__(cls, *items: Any) -> Any:
        return list(*items)

    @staticmethod
    def of(guard: Guard, items: Any) -> StateList:
        """A working container that asks `guard`."""
        made: StateList = list.__new__(StateList)
        list.extend(made, items)
        made._guard = guard
        return made

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

    def __new__(cls, *items: Any, **named: Any) -> Any:
        return dict(*items, **named)

    @staticmethod
    def of(guard: Guard, items: Any) -> StateDict:
        """A working container that asks `guard`."""
        made: StateDict = dict.__new__(StateDict)
        dict.update(made, items)
        made._guard = guard
        return made

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

    def __new__(cls, *items: Any) -> Any:
        return set(*items)

    @staticmethod
    def of(guard: Guard, items: Any) -> StateSet:
        """A working container that asks `guard`."""
        made: StateSet = set.__new__(StateSet)
        set.update(made, items)
        made._guard = guard
        return made

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


_READ_ONLY: Final = frozenset({ReadOnlyList, ReadOnlyDict, ReadOnlySet})
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
        guard: Guard = self._fs_guard
        guard.check()
        base.__setattr__(self, name, value)
        if shape.validates_assignment:
            guard.validated = {**(guard.validated or {}), (id(self), name): freeze(getattr(self, name))}

    def delete_attribute(self: Any, name: str) -> None:
        self._fs_guard.check()
        base.__delattr__(self, name)

    def initialise(self: Any, *args: Any, **named: Any) -> None:
        self._fs_guard.check()  # only who calls it by its name comes here
        base.__init__(self, *args, **named)

    def restore(self: Any, state: Any) -> None:
        self._fs_guard.check()
        base.__setstate__(self, state)

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
        "__new__": lambda guarded, *args, **named: cls(*args, **named),  # `type(self)(...)` makes an ordinary one
        "__init__": initialise,
        "__setattr__": set_attribute,
        "__delattr__": delete_attribute,
        "__copy__": shallow,
        "__deepcopy__": deep,
        "__setstate__": restore,
        "__reduce__": lambda self: copy.copy(self).__reduce__(),
        "__reduce_ex__": lambda self, protocol: copy.copy(self).__reduce_ex__(protocol),
    }
    is_model = issubclass(cls, BaseModel)
    names = tuple(base.__pydantic_fields__) if is_model else tuple(field.name for field in dataclasses.fields(base))
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    shape = _Shape(cls, names, is_model, bool(config.get("validate_assignment")))
    if is_model:  # pydantic writes what it was given, and warns of a tuple in the place of a list
        members["model_construct"] = classmethod(lambda guarded, *args, **named: base.model_construct(*args, **named))
        members["model_dump"] = lambda self, **options: base.model_dump(unlocked(self), **options)
        members["model_dump_json"] = lambda self, **options: base.model_dump_json(unlocked(self), **options)
    # Not through pydantic's metaclass: that would build a second validator for what is the same class to the user.
    bases = (_Unannounced, cls)
    found = ABCMeta.__new__(type(cls), cls.__name__, bases, members) if is_model else None
    found = found or type(cls)(cls.__name__, bases, members)
    _guarded_classes[cls] = found
    _shapes[found] = shape
    return found


class _Unannounced:
    """Stands before a user's class in its guarded one, so that its `__init_subclass__` does not hear of that."""

    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        pass


class _Shape(NamedTuple):
    """What a guarded class guards. Lifetime: the class."""

    original: type[Any]
    names: tuple[str, ...]
    is_model: bool
    validates_assignment: bool

    def read(self, value: Any) -> dict[str, Any]:
        """The fields of `value` by name, and behind them what a model with `extra="allow"` holds besides."""
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
        """True when every field of a model holds the same object: the quick way to see that it was never changed."""
        values, before = value.__dict__, origin.__dict__
        for name in self.names:
            if values[name] is not before[name]:
                return False
        new, old = value.__pydantic_extra__, origin.__pydantic_extra__
        return not (new or old) or (_all_same([*new], [*old]) and _all_same([*new.values()], [*old.values()]))

    def make(self, cls: type, parts: dict[str, Any], like: Any, guard: Guard | None = None) -> Any:
        """A `cls` (the original class or the guarded one) of what `read` gave, and all else as in `like`."""
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


_guarded_classes: dict[type, type] = {}
_shapes: dict[type, _Shape] = {}  # by guarded class


def _twin(source: Any, shape: _Shape, cls: type, convert: Callable[[Any], Any], guard: Guard | None = None) -> Any:
    """A new `cls` with `source`'s field values passed through `convert`."""
    parts = shape.read(source)
    for name, value in parts.items():
        if type(value) not in SCALARS:
            parts[name] = convert(value)
    return shape.make(cls, parts, source, guard)


def _unsupported(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"a state field holds a {type(value).__name__}, which cannot be kept unchangeable: use scalars, list, dict, "
        "set, frozenset, tuple, pydantic models or dataclasses"
    )


def freeze(value: Any) -> Any:
    """A read-only twin of `value` (any field value), or `value` itself when nothing in it can change.

    Raises `ConfigurationError` for types that cannot be made read-only, `UnshowableError` for text or numbers that no
    page could show, and pydantic's `ValidationError` for a nested model or dataclass whose fields hold other types than
    they declare.
    """
    kind = type(value)
    return value if kind in SCALARS and kind not in CHECKED else Thaw().refreeze(value)


def plain(value: Any) -> Any:
    """`value` with builtin containers in place of those of a state, for validators; models stay as they are."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind in _LISTS:
        return [item if type(item) in SCALARS else plain(item) for item in value]
    if kind in _DICTS:
        return {key: item if type(item) in SCALARS else plain(item) for key, item in value.items()}
    if kind in _SETS:
        return set(value)
    if isinstance(value, tuple):
        items = [plain(item) for item in value]
        return value if all(map(is_, items, value)) else tuple.__new__(kind, items)
    return value


def unlocked(value: Any) -> Any:
    """A copy of a frozen value in builtin containers and the user's own classes, for pydantic to serialise."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is ReadOnlyList or kind is StateList:
        return [item if type(item) in SCALARS else unlocked(item) for item in value]
    if kind is ReadOnlyDict or kind is StateDict:
        return {key: item if type(item) in SCALARS else unlocked(item) for key, item in value.items()}
    if kind is ReadOnlySet or kind is StateSet:
        return set(value)
    if (shape := _shapes.get(kind)) is not None:
        return _twin(value, shape, shape.original, unlocked)
    if isinstance(value, tuple):
        items = [unlocked(item) for item in value]
        return value if all(map(is_, items, value)) else tuple.__new__(kind, items)
    return value


_LISTS: Final = frozenset({ReadOnlyList, StateList, list})
_DICTS: Final = frozenset({ReadOnlyDict, StateDict, dict})
_SETS: Final = frozenset({ReadOnlySet, StateSet, set})


def known_items(given: Any, new: Any, *olds: Any) -> KnownItems:
    """Which items of a changed field were there before, for the validators that are `given` its value.

    `new` is the value frozen, `olds` are what the field held. An item counts as there before where it stands in its old
    place or under its old key; of the other ones, as many of each value as stand no more where they were.
    """
    found = _Compared()
    for old in olds:
        found.add_old("", old)
    found.add_new("", given, new, olds[0])
    return found.known()


class _Compared:
    """The items of a changed field beside those that it held before, by role. Lifetime: until that is known."""

    def __init__(self) -> None:
        self._left: Counter[tuple[str, Any]] = Counter()
        self._old_objects: dict[str, set[int]] = {}
        self._comes: dict[tuple[str, Any], list[bool]] = {}
        self._objects: dict[str, set[int]] = {}

    def add_old(self, role: str, old: Any) -> None:
        """Note a value that the field held, with all that is in it."""
        if (key := _key_of(old)) is not None:
            self._left[role, key] += 1
        else:
            self._old_objects.setdefault(role, set()).add(id(old))
        for inner, part in _parts_of(old):
            self.add_old(role + inner, part)

    def add_new(self, role: str, given: Any, new: Any, old: Any) -> None:
        """Note a value that the field holds now; `old` is what stood in its place, or something else."""
        if (key := _key_of(new)) is not None:
            is_in_place = _key_of(old) == key
            self._comes.setdefault((role, key), []).append(is_in_place)
            self._left[role, key] -= is_in_place
        elif id(new) in self._old_objects.get(role, ()) or equal(new, old):
            self._objects.setdefault(role, set()).add(id(given))
        if isinstance(new, dict):
            places = old if isinstance(old, dict) else {}
            for key, value in new.items():
                is_known = key in places
                self.add_new(role + "k", key, key, key if is_known else None)
                self.add_new(role + "v", given[key], value, places.get(key))
        elif isinstance(new, list | tuple):
            before = old if isinstance(old, list | tuple) else ()
            for place, value in enumerate(new):
                self.add_new(role + "i", given[place], value, before[place] if place < len(before) else None)
        elif isinstance(new, set | frozenset):
            for value in given:  # in the order in which it is validated
                self.add_new(
                    role + "i", value, value, value if isinstance(old, set | frozenset) and value in old else None
                )

    def known(self) -> KnownItems:
        answers = {}
        for key, comes in self._comes.items():
            left = self._left[key]
            answers[key] = [is_in_place or (left := left - 1) >= 0 for is_in_place in comes]
        return KnownItems(answers, self._objects)


def _key_of(value: Any) -> Any:
    """Returns what stands for a value without parts; None for lists, models and the like."""
    if isinstance(value, list | dict | tuple | set | BaseModel) or dataclasses.is_dataclass(value):
        return None
    try:
        key = exact_key(value)
        hash(key)
    except TypeError:
        return None
    return key


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield "k", key
            yield "v", item
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield "i", item


class Thaw:
    """The thawed values of one working copy. Lifetime: until its transaction (or generator step) ends.

    `thaw()` makes a changeable twin and remembers what it came from; `refreeze()` gives the original back wherever the
    twin was not changed, so that committing costs what was touched.
    """

    __slots__ = ("_depth", "_origins", "guard")

    def __init__(self) -> None:
        self.guard = Guard(live=True)
        self._depth = 0
        self._origins: dict[int, tuple[Any, Any]] = {}  # id of a twin -> the twin (kept alive) and its frozen origin

    def close(self) -> None:
        """From now on, changing a value that this object thawed raises."""
        self.guard.live = False
        self.guard.validated = None
        self._origins.clear()

    def thaw(self, value: Any) -> Any:
        """A changeable twin of the frozen `value`; scalars and frozensets are their own."""
        kind = type(value)
        if kind in SCALARS:
            return value
        twin: Any
        if kind is ReadOnlyList:
            twin = StateList.of(self.guard, map(self.thaw, value))
        elif kind is ReadOnlyDict:
            twin = StateDict.of(self.guard, {key: self.thaw(item) for key, item in value.items()})
        elif kind is ReadOnlySet:
            twin = StateSet.of(self.guard, value)
        elif isinstance(value, tuple):
            items = [self.thaw(item) for item in value]
            if all(map(is_, items, value)):
                return value
            twin = tuple.__new__(kind, items)
        elif (shape := _shapes.get(kind)) is not None:
            twin = _twin(value, shape, kind, self.thaw, self.guard)
        else:
            return value
        self._origins[id(twin)] = (twin, value)
        return twin

    def refreeze(self, value: Any) -> Any:
        """The frozen form of a working value: its origin where nothing changed, else a new frozen twin.

        Raises as `freeze`.
        """
        kind = type(value)
        if kind in SCALARS:
            if kind in CHECKED:
                check_showable(value)
            return value
        if kind in _READ_ONLY:
            return value
        twin, origin = self._origins.get(id(value), (None, None))
        if twin is not value:
            origin = None
        # Guarded classes come first: on models, isinstance() and getattr() are the slow ones.
        if (shape := _shapes.get(kind)) is not None:
            if value._fs_guard is FROZEN:
                return value
            is_untouched = origin is not None and shape.is_model and shape.is_untouched(value, origin)
            return origin if is_untouched else self._refreeze_instance(value, shape, origin)
        if kind is list or kind is StateList:
            items = self._refreeze_all(value)
            return origin if origin is not None and _all_same(items, origin) else ReadOnlyList.of(items)
        if kind is dict or kind is StateDict:
            for key in value:
                if type(key) is not str or not key.isascii():
                    _check_hashable(key)
            items = self._refreeze_all(value.values())
            # The order of keys is part of what views show.
            if origin is not None and _all_same(items, [*origin.values()]) and _all_same([*value], [*origin]):
                return origin
            return ReadOnlyDict.of(dict(zip(value, items, strict=True)))
        if kind is set or kind is StateSet:
            if origin is not None and _has_same_members(value, origin):
                return origin
            for item in value:
                if type(item) is not str or not item.isascii():
                    _check_hashable(item)
            return ReadOnlySet.of(value)
        if isinstance(value, tuple):
            items = self._refreeze_all(value)
            if origin is not None and _all_same(items, origin):
                return origin
            return value if all(map(is_, items, value)) else tuple.__new__(kind, items)
        if kind is frozenset or isinstance(value, pathlib.PurePath):
            _check_hashable(value)
            return value
        if isinstance(value, enum.Enum):
            return value
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            return self._refreeze_instance(value, _shapes[_guarded_class(kind)], None)
        if isinstance(value, _SCALAR_BASES) or type(value).__module__.startswith(("pydantic", "zoneinfo")):
            _check_hashable(value)
            return value  # subclasses of scalars, and pydantic's own value types (URLs, secrets): immutable
        raise _unsupported(value)

    def _refreeze_all(self, values: Iterable[Any]) -> list[Any]:
        self._depth += 1
        if self._depth > MAX_DEPTH:  # also where a list holds itself
            raise UnshowableError(f"is nested in more than {MAX_DEPTH} levels, which no page can show")
        # Nearly all items are such text and numbers: a call for each would take three times as long.
        frozen = [
            value
            if ((kind := type(value)) is str and value.isascii())
            or (kind is int and -SHORT_INT < value < SHORT_INT)
            or (kind in SCALARS and kind not in CHECKED)
            else self.refreeze(value)
            for value in values
        ]
        self._depth -= 1
        return frozen

    def _refreeze_instance(self, value: Any, shape: _Shape, origin: Any) -> Any:
        """The frozen form of a model or dataclass; see `revalidation` for what is validated of it."""
        parts, validators = shape.read(value), revalidation_of(shape.original)
        if origin is None:
            if validators is not None:
                parts |= validators.check({name: plain(each) for name, each in parts.items()})
            fresh = dict(zip(parts, self._refreeze_all(parts.values()), strict=True))
            return shape.make(_guarded_class(shape.original), fresh, value, FROZEN)
        fresh = dict(zip(parts, self._refreeze_all(parts.values()), strict=True))
        before = shape.read(origin)
        kept = {name: old for name, old in before.items() if name in fresh and _same(fresh[name], old)}
        if len(kept) == len(fresh) == len(before):
            return origin
        if validators is not None:
            fresh = self._validated(value, shape, validators, fresh, before, kept)
        return shape.make(_guarded_class(shape.original), fresh, value, FROZEN)

    def _validated(
        self,
        value: Any,
        shape: _Shape,
        validators: Revalidation,
        fresh: dict[str, Any],
        before: dict[str, Any],
        kept: dict[str, Any],
    ) -> dict[str, Any]:
        """The fields of a changed model or dataclass, validated where they changed; of these, `kept` did not."""
        valid = {name: valid for (place, name), valid in (self.guard.validated or {}).items() if place == id(value)}
        kept = kept | {name: new for name, new in fresh.items() if name in valid and equal(new, valid[name])}
        inner = Thaw()
        given, known = {}, {}
        for name, new in fresh.items():
            if name in kept:
                given[name] = new
            else:
                given[name] = plain(inner.thaw(new) if name in validators.authored_fields else new)
                olds = [found[name] for found in (before, valid) if name in found]
                known[name] = known_items(given[name], new, *(olds or [None]))
        extras = {name: new for name, new in fresh.items() if name in kept and name not in shape.names}
        found = validators.assign(
            {name: each for name, each in given.items() if name not in extras},
            Kept({name: given[name] for name in kept}, known),
        )
        fresh = {
            name: before[name] if name in before and equal(new, before[name]) else new
            for name, new in ((name, inner.refreeze(each)) for name, each in {**found, **extras}.items())
        }
        if not validators.sees_whole:
            return fresh
        # Its own validators may change it, and what it holds.
        inner = Thaw()
        twin = inner.thaw(shape.make(_guarded_class(shape.original), fresh, value, FROZEN))
        seen = shape.read(validators.look_at_whole(twin))
        return dict(zip(seen, inner._refreeze_all(seen.values()), strict=True))


SHORT_INT: Final = 2**63
"""Whole numbers below it, of either sign, can be shown without a look at their length."""
MAX_DEPTH: Final = 100
"""Levels of lists, dicts and models in each other. pydantic writes and validates up to about 250 of them."""
_SCALAR_BASES: Final = tuple(SCALARS - {type, type(None), bool, range, re.Pattern})


def _check_hashable(value: Any) -> None:
    """Raises `UnshowableError` where a key, or a member of a set, holds text that no page could show.

    Raises `ConfigurationError` for a model or dataclass there that may be changed: all readers share it as it is.
    """
    if isinstance(value, pathlib.PurePath):
        value = str(value)
    if isinstance(value, str | int | decimal.Decimal | fractions.Fraction):
        check_showable(value)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            _check_hashable(item)
    elif isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        if not is_frozen_class(type(value)):
            raise ConfigurationError(
                f"a state field holds a {type(value).__name__} as a key or in a set, where it could be changed for all "
                "readers: make the class frozen"
            )
        names = value.__pydantic_fields__ if isinstance(value, BaseModel) else value.__dataclass_fields__
        for part in [getattr(value, name) for name in names]:
            if isinstance(part, list | dict | set):
                raise _unsupported(part)
            _check_hashable(part)


def is_frozen_class(cls: type[Any]) -> bool:
    """Tells whether the fields of a model or dataclass cannot be set."""
    if issubclass(cls, BaseModel):
        return bool(cls.model_config.get("frozen"))
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def equal(new: Any, old: Any) -> bool:
    """Tells whether two frozen values are the same, in value and type, at any depth; see `scalars.same_scalar`."""
    if new is old:
        return True
    kind = type(new)
    if kind is not type(old):
        return False
    if kind is int or kind is str:
        return bool(new == old)
    if kind in SCALARS:
        return same_scalar(new, old)
    if isinstance(new, list | tuple):
        return len(new) == len(old) and all(map(equal, new, old))
    if isinstance(new, dict):
        keys = len(new) == len(old) and (all(map(is_, new, old)) or all(map(equal, new, old)))
        return keys and all(map(equal, new.values(), old.values()))
    if isinstance(new, frozenset):
        return _has_same_members(new, old)
    if (shape := _shapes.get(kind)) is not None:
        return equal(shape.read(new), shape.read(old))
    if isinstance(new, _SCALAR_BASES):
        return bool(exact_key(new) == exact_key(old))
    if isinstance(new, BaseModel):  # as a key, or in a set, where it is the user's own
        return equal(new.__dict__, old.__dict__) and equal(new.__pydantic_extra__, old.__pydantic_extra__)
    if dataclasses.is_dataclass(new):
        return all(equal(getattr(new, field.name), getattr(old, field.name)) for field in dataclasses.fields(new))
    return bool(new == old)


def _has_same_members(new: Any, old: Any) -> bool:
    if len(new) != len(old):
        return False
    others = {item: item for item in old}
    return all(item in others and equal(item, others[item]) for item in new)


def _same(new: Any, old: Any) -> bool:
    """Same for certain: one object, or two scalars of one type and value."""
    if new is old:
        return True
    kind = type(new)
    return kind is type(old) and kind in SCALARS and same_scalar(new, old)


def _all_same(new: Sequence[Any], old: Sequence[Any]) -> bool:
    return len(new) == len(old) and (all(map(is_, new, old)) or all(map(_same, new, old)))
