"""Values of state fields: how they are frozen when committed, and thawed while an event works on them.

When a working copy is committed, each part that did not change is the very object that was committed before. Identity
tells what changed, and nothing unchanged is validated or encoded again.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import fractions
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any, Final

from pydantic import BaseModel

from ..exceptions import ConfigurationError
from ..validation.kept_values import KeptValues
from ..validation.revalidation import Revalidation, revalidation_of
from ..validation.scalars import CHECKED, SCALARS, SHORT_INT, UnshowableError, all_same, check_showable, surely_same
from .comparison import SCALAR_BASES, equal, has_same_members, known_items
from .containers import FROZEN, ChangeGuard, ReadOnlyDict, ReadOnlyList, ReadOnlySet, StateDict, StateList, StateSet
from .models import ModelShape, guarded_class, guarded_shapes, is_frozen_class, twin_of, unlocked

MAX_DEPTH: Final = 100
"""Levels of lists, dicts and models in each other. pydantic writes and validates up to about 250 of them."""

_READ_ONLY: Final = frozenset({ReadOnlyList, ReadOnlyDict, ReadOnlySet})
_CONTAINERS = (list, dict, set, frozenset, tuple, BaseModel)


def is_container(value: object) -> bool:
    """True for values that need thawing before they may be changed."""
    if type(value) in SCALARS:
        return False
    return isinstance(value, _CONTAINERS) or dataclasses.is_dataclass(value)


def freeze(value: Any) -> Any:
    """Make a read-only twin of `value` (any field value), or return `value` itself when nothing in it can change.

    Raises `ConfigurationError` for types that cannot be made read-only, `UnshowableError` for text or numbers that no
    page could show, and pydantic's `ValidationError` for a nested model or dataclass whose fields hold other types than
    they declare.
    """
    kind = type(value)
    return value if kind in SCALARS and kind not in CHECKED else Thaw().refreeze(value)


class _WorkingGuard(ChangeGuard):
    """Permits changes of what one working copy thawed, until that closes. Lifetime: the working copy."""

    __slots__ = ("validated",)

    def __init__(self) -> None:
        self.live = True
        self.validated: dict[tuple[int, str], Any] | None = None
        """The values (frozen) set in models with validate_assignment, by the model's id and the field's name."""

    def note_validated(self, model: Any, name: str) -> None:
        self.validated = {**(self.validated or {}), (id(model), name): freeze(getattr(model, name))}


class Thaw:
    """The thawed values of one working copy, and what each came from. Lifetime: one transaction or generator step."""

    __slots__ = ("_depth", "_origins", "guard")

    def __init__(self) -> None:
        self.guard = _WorkingGuard()
        self._depth = 0
        self._origins: dict[int, tuple[Any, Any]] = {}  # id of a twin -> the twin (kept alive) and its frozen origin

    def close(self) -> None:
        """End the working copy: from now on, changing a value that this object thawed raises."""
        self.guard.live = False
        self.guard.validated = None
        self._origins.clear()

    def thaw(self, value: Any) -> Any:
        """Make a changeable twin of the frozen `value`; a scalar or frozenset is returned as it is."""
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
        elif (shape := guarded_shapes.get(kind)) is not None:
            twin = twin_of(value, shape, kind, self.thaw, self.guard)
        else:
            return value
        self._origins[id(twin)] = (twin, value)
        return twin

    def refreeze(self, value: Any) -> Any:
        """Freeze a working value: return its origin where nothing changed, else a new frozen twin.

        Raises the same errors as `freeze`.
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
        if (shape := guarded_shapes.get(kind)) is not None:
            if value._fs_guard is FROZEN:
                return value
            is_untouched = origin is not None and shape.is_model and shape.is_untouched(value, origin)
            return origin if is_untouched else self._refreeze_instance(value, shape, origin)
        if kind is list or kind is StateList:
            items = self._refreeze_all(value)
            return origin if origin is not None and all_same(items, origin) else ReadOnlyList.of(items)
        if kind is dict or kind is StateDict:
            for key in value:
                if type(key) is not str or not key.isascii():
                    _check_hashable(key)
            items = self._refreeze_all(value.values())
            # The order of keys is part of what views show.
            if origin is not None and all_same(items, [*origin.values()]) and all_same([*value], [*origin]):
                return origin
            return ReadOnlyDict.of(dict(zip(value, items, strict=True)))
        if kind is set or kind is StateSet:
            if origin is not None and has_same_members(value, origin):
                return origin
            for item in value:
                if type(item) is not str or not item.isascii():
                    _check_hashable(item)
            return ReadOnlySet.of(value)
        if isinstance(value, tuple):
            items = self._refreeze_all(value)
            if origin is not None and all_same(items, origin):
                return origin
            return value if all(map(is_, items, value)) else tuple.__new__(kind, items)
        if kind is frozenset or isinstance(value, pathlib.PurePath):
            _check_hashable(value)
            return value
        if isinstance(value, enum.Enum):
            return value
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            return self._refreeze_instance(value, guarded_shapes[guarded_class(kind)], None)
        if isinstance(value, SCALAR_BASES) or type(value).__module__.startswith(("pydantic", "zoneinfo")):
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

    def _refreeze_instance(self, value: Any, shape: ModelShape, origin: Any) -> Any:
        """Freeze a model or dataclass: validate the fields that changed, as `revalidation` says, and then the whole."""
        parts, validators, cls = shape.read(value), revalidation_of(shape.original), guarded_class(shape.original)
        if origin is None and validators is not None:
            parts |= validators.check({name: unlocked(each, models=False) for name, each in parts.items()})
        fresh = dict(zip(parts, self._refreeze_all(parts.values()), strict=True))
        if origin is None:
            return shape.make(cls, fresh, value, FROZEN)
        before = shape.read(origin)
        changed = [name for name, new in fresh.items() if name not in before or not surely_same(new, before[name])]
        if not changed and len(fresh) == len(before):
            return origin
        if validators is None:
            return shape.make(cls, fresh, value, FROZEN)
        valid = {name: valid for (place, name), valid in (self.guard.validated or {}).items() if place == id(value)}
        changed = [name for name in changed if not (name in valid and equal(fresh[name], valid[name]))]
        # An extra value that did not change is not validated again; all fields are there for the validators to see.
        seen = {name: new for name, new in fresh.items() if name in shape.names or name in changed}
        fresh |= revalidated(validators, seen, changed, before, valid)
        if validators.sees_whole:  # its own validators may change it, and what it holds
            inner = Thaw()
            seen = shape.read(validators.look_at_whole(inner.thaw(shape.make(cls, fresh, value, FROZEN))))
            fresh = dict(zip(seen, inner._refreeze_all(seen.values()), strict=True))
        return shape.make(cls, fresh, value, FROZEN)


def revalidated(
    validators: Revalidation,
    values: dict[str, Any],
    changed: Sequence[str],
    before: Mapping[str, Any],
    valid: Mapping[str, Any],
) -> dict[str, Any]:
    """Validate the fields `changed` of frozen `values`; return what these hold then, frozen.

    `before` has what the fields held, `valid` what was validated when it was set. A field that ends as it was is the
    very object that it was. Raises pydantic's `ValidationError`.
    """
    thaw, given, known = Thaw(), {}, {}
    for name in changed:
        # Code of the author's may change what it is given: the models in it, too.
        value = thaw.thaw(values[name]) if name in validators.authored_fields else values[name]
        given[name] = unlocked(value, models=False)
        olds = [held[name] for held in (before, valid) if name in held]
        known[name] = known_items(given[name], values[name], *(olds or [None]))
    kept = KeptValues({name: value for name, value in values.items() if name not in given}, known)
    found = validators.assign({**values, **given}, kept)
    fresh = {}
    for name in changed:
        new = thaw.refreeze(found[name])
        fresh[name] = before[name] if name in before and equal(new, before[name]) else new
    return fresh


def _check_hashable(value: Any) -> None:
    """Raise `UnshowableError` for a key, or a member of a set, that holds text which no page could show.

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


def _unsupported(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"a state field holds a {type(value).__name__}, which cannot be kept unchangeable: use scalars, list, dict, "
        "set, frozenset, tuple, pydantic models or dataclasses"
    )
