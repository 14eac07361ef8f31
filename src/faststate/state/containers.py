"""The lists, dicts and sets of a state: read-only once committed, guarded while an event works on them.

Python's own C code changes a list, a dict or a set without the methods of its class: heapq does, and so does
`list.sort(x)`. A committed list or dict therefore keeps its items a second time, where C code does not find them: that
code changes a copy that only pydantic reads. A committed set is a frozenset whose `__class__` is `set`.

None of these classes makes instances of itself: `type(x)(...)`, which dataclasses.asdict() calls, gives a builtin
container. So do copies and pickles.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NoReturn

from ..exceptions import ReadOnlyStateError

REMEDY: Final = "change it in an @event, with `await state.<event>.run(...)`, or in `async with provider.modify(...)`"


class ChangeGuard:
    """Permits or refuses changes of a value. Lifetime: one working copy; `FROZEN` guards all that is committed."""

    __slots__ = ("live",)

    def __init__(self, live: bool) -> None:
        self.live = live

    def check(self) -> None:
        """Raise `ReadOnlyStateError` unless the value's transaction is still open."""
        if not self.live:
            _refuse_change()

    def note_validated(self, model: Any, name: str) -> None:
        """Remember that the class of `model` validated the value that was just set in its field `name`."""


FROZEN: Final = ChangeGuard(live=False)


def _refuse_change(*_: Any, **__: Any) -> NoReturn:
    raise ReadOnlyStateError(
        f"this value is a committed, shared one (or was read before a `yield` of its event): {REMEDY}"
    )


def asking_guard(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that changes a value, so that it asks the value's guard first."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._fs_guard.check()
        return method(self, *args, **kwargs)

    return guarded


_CHANGING: Final[dict[type, str]] = {
    list: "__setitem__ __delitem__ __iadd__ __imul__ append clear extend insert pop remove reverse sort",
    dict: "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update",
    set: (
        "__iand__ __ior__ __isub__ __ixor__ add clear difference_update discard intersection_update pop remove "
        "symmetric_difference_update update"
    ),
}
"""The methods that change a container, by its builtin type."""


class _Container:
    """A container of a state: its copies, its pickles and new instances of its class are builtin containers."""

    __slots__ = ()
    _builtin: ClassVar[type]
    copy: Callable[[], Any]

    def __new__(cls, *items: Any, **named: Any) -> Any:
        return cls._builtin(*items, **named)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (self._builtin, (self.copy(),))

    def __repr__(self) -> str:
        return repr(self.copy())


# -- committed containers ----------------------------------------------------------------------------------------------
# Each reads as its builtin does, and raises `ReadOnlyStateError` where that would change.


class _Kept(_Container):
    """The reading methods that a committed list and a committed dict share: both read the items that they keep."""

    __slots__ = ()
    _items: Any

    def __init__(self, *_: Any, **__: Any) -> None:
        """Change nothing: `x.__init__(...)` would fill a container that is there already."""

    def __getitem__(self, place: Any) -> Any:
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def __reversed__(self) -> Any:
        return reversed(self._items)

    def __contains__(self, item: Any) -> bool:
        return item in self._items

    __setattr__ = __delattr__ = _refuse_change


def _comparing(compare: Callable[[Any, Any], bool]) -> Any:
    def compared(self: ReadOnlyList, other: object) -> bool:
        return compare(self._items, tuple(other)) if isinstance(other, list) else NotImplemented

    return compared


class ReadOnlyList(_Kept, list[Any]):
    __slots__ = ("_items",)
    _builtin = list
    _items: tuple[Any, ...]

    @staticmethod
    def of(items: list[Any]) -> ReadOnlyList:
        """Make a committed list of these items."""
        made: ReadOnlyList = list.__new__(ReadOnlyList)
        list.extend(made, items)
        _put_items(made, tuple(items))
        return made

    def __getitem__(self, place: Any) -> Any:
        return list(self._items[place]) if type(place) is slice else self._items[place]

    __hash__ = None

    def __add__(self, other: Any) -> Any:
        return [*self._items, *other] if isinstance(other, list) else NotImplemented

    def __mul__(self, times: Any) -> Any:
        return [*self._items] * times

    __rmul__ = __mul__

    def copy(self) -> list[Any]:
        return [*self._items]

    def count(self, item: Any) -> int:
        return self._items.count(item)

    def index(self, item: Any, *between: Any) -> int:
        return self._items.index(item, *between)


for _name in ["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"]:
    setattr(ReadOnlyList, _name, _comparing(getattr(operator, _name)))
_put_items: Final = vars(ReadOnlyList)["_items"].__set__


class ReadOnlyDict(_Kept, dict[Any, Any]):
    __slots__ = ("_items",)
    _builtin = dict
    _items: dict[Any, Any]

    @staticmethod
    def of(items: dict[Any, Any]) -> ReadOnlyDict:
        """Make a committed dict of these items; it keeps `items` itself, which must not change any more."""
        made: ReadOnlyDict = dict.__new__(ReadOnlyDict)
        dict.update(made, items)
        _put_entries(made, items)
        return made

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
        return self._items.get(key, default)

    def keys(self) -> Any:
        return self._items.keys()

    def values(self) -> Any:
        return self._items.values()

    def items(self) -> Any:
        return self._items.items()

    def copy(self) -> dict[Any, Any]:
        return self._items.copy()

    fromkeys = dict.fromkeys


_put_entries: Final = vars(ReadOnlyDict)["_items"].__set__


class ReadOnlySet(_Container, frozenset[Any]):
    __slots__ = ()
    _builtin = set
    __hash__ = None  # type: ignore[assignment]  # as a set

    @staticmethod
    def of(items: Iterable[Any]) -> ReadOnlySet:
        """Make a committed set of these members."""
        return frozenset.__new__(ReadOnlySet, items)

    @property  # type: ignore[misc]  # mypy knows __class__ as a plain attribute
    def __class__(self) -> type:
        return set

    def copy(self) -> set[Any]:  # type: ignore[override]  # what a set gives
        return set(self)


def _giving_set(method: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(method)(lambda self, *others: method(set(self), *others))


for _name in ["__and__", "__or__", "__sub__", "__xor__", "difference", "intersection", "symmetric_difference", "union"]:
    setattr(ReadOnlySet, _name, _giving_set(getattr(set, _name)))

for _cls in (ReadOnlyList, ReadOnlyDict, ReadOnlySet):
    for _name in _CHANGING[_cls._builtin].split():
        setattr(_cls, _name, _refuse_change)


# -- containers of a working copy --------------------------------------------------------------------------------------
# Each is a real list, dict or set that asks its guard before each change.


def _maker(new: Any, fill: Any) -> Any:
    """Write `of(guard, items)`, which makes a container of these items that asks `guard`.

    One `of` for all three, which looked these functions up, would take a sixth longer to thaw a list of dicts.
    """

    def of(cls: type, guard: ChangeGuard, items: Any) -> Any:
        made = new(cls)
        fill(made, items)
        made._fs_guard = guard
        return made

    return classmethod(of)


class StateList(_Container, list[Any]):
    __slots__ = ("_fs_guard",)
    _builtin = list
    of = _maker(list.__new__, list.extend)


class StateDict(_Container, dict[Any, Any]):
    __slots__ = ("_fs_guard",)
    _builtin = dict
    of = _maker(dict.__new__, dict.update)


class StateSet(_Container, set[Any]):
    __slots__ = ("_fs_guard",)
    _builtin = set
    of = _maker(set.__new__, set.update)


for _cls in (StateList, StateDict, StateSet):
    for _name in _CHANGING[_cls._builtin].split():
        setattr(_cls, _name, asking_guard(getattr(_cls._builtin, _name)))

LISTS: Final = frozenset({ReadOnlyList, StateList, list})
DICTS: Final = frozenset({ReadOnlyDict, StateDict, dict})
SETS: Final = frozenset({ReadOnlySet, StateSet, set})
