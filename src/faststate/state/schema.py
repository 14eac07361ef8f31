"""The schema of a state class: what it exposes to pages and clients, read from the class once."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import hashlib
import inspect
import json
import re
import types
import uuid
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from .._compat.pydantic import (
    fills_fields,
    has_base_init,
    has_post_init,
    has_serializers,
    has_validators,
    model_validator_modes,
)
from ..auth.users import UserContext
from ..exceptions import EventDefinitionError
from ..validation.annotations import accepts_none, union_members
from ..validation.revalidation import revalidation_of
from ..validation.scalars import EXACT
from .events import VERSION_SIGNAL, Event
from .markers import Marker, Visible, markers_in, permission_in, refuse_buried_markers, refuse_lost_markers
from .views import View

PLAIN: Final = frozenset({str, int, bool, float, type(None)})
"""Types of values that are on the wire what they are in Python, but for what `to_wire` does."""

EVERYTHING_SHOWN: Final[frozenset[str]] = frozenset()
"""The fields that are hidden from a viewer who may see all of them."""

_EMPTY: Final = (list, dict, set, frozenset, tuple, str, bytes, int, float, bool)
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_SCALARS = (
    str, int, float, bool, type(None), decimal.Decimal, uuid.UUID, enum.Enum,
    datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip


def _is_scalar(annotation: Any) -> bool:
    return all(
        get_origin(member) is Literal
        or member is None
        or (isinstance(member, type) and get_origin(member) is None and issubclass(member, _SCALARS))
        for member in union_members(annotation)
    )


class Schema:
    """The fields, signals, events and views of one state class, and who may see them. Lifetime: the class."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.events: dict[str, Event[Any, Any]] = {}
        self.views: dict[str, View] = {}
        self._collect(cls)
        self.hidden: set[str] = set()
        """The fields that are `ServerOnly`, or excluded."""
        self.restricted: dict[str, str] = {}
        """The permission that `Visible` asks for, by field or computed value."""
        self.optional: set[str] = set()
        """The fields that accept None, and are not hidden."""
        signals: list[str] = []
        bound: list[str] = []
        refuse_lost_markers(cls)
        self._read_fields(cls, signals, bound)
        self.computed = self._read_computed(cls)
        """The computed values that are signals."""
        self.fields = tuple(cls.model_fields)
        self.names = set(self.fields)
        """The names of all fields: one set for all instances, since nothing that could still be set is missing."""
        is_plain = not (cls.model_config.get("validate_assignment") or cls.model_config.get("frozen"))
        self.assignable = frozenset(name for name, field in cls.model_fields.items() if is_plain and not field.frozen)
        """The fields that pydantic sets as they are, with nothing to check first. To know them saves 5 µs a set."""
        self.signals = (*signals, *self.computed)
        self.bound = tuple(bound)
        self._all_signals = frozenset(self.signals)
        self.plain = frozenset(name for name in self.signals if _is_plain(cls, name))
        """The signals whose values pydantic would serialise as they are, when they are of the types `PLAIN`.

        To know them saves 17 µs of a commit of one number.
        """
        self.shown = tuple(n for n in (*cls.model_fields, *cls.model_computed_fields) if n not in self.hidden)
        self.exact = {name: cls.model_fields[name].annotation for name in cls.model_fields if _is_exact(cls, name)}
        """Fields with a type whose very own values pydantic takes as they are. Not to validate one saves 13 µs."""
        self.checks_whole = bool(model_validator_modes(cls))
        validators = revalidation_of(cls)
        self.converting, self.authored = validators.converting_fields, validators.authored_fields
        self.sees_whole = validators.sees_whole
        self.versioned = bool(bound) or any(event.expect_version for event in self.events.values())
        """True if pages are sent the state's version: an event expects it, or it dates what is said of bound fields."""
        self.page_signals = (*self.signals, VERSION_SIGNAL) if self.versioned else self.signals
        """The signals of a state in a page, with its version if that is one."""
        self.required = _required(cls)
        """The fields without a default that no code of the class can fill: a new state has to be given them."""
        self.reproducible = not self.required and _is_reproducible(cls)
        """True if all new instances are the same: no code of the class takes part, but to make an empty collection."""

    @cached_property
    def fingerprint(self) -> str:
        """The digest (8 hex digits) of all that a page is written with: names of signals, events, arguments and views.

        A page from before a deploy finds out by it that it is older than the code that serves it.
        """
        events = {
            name: [sorted(event.arguments.names), event.expect_version] for name, event in sorted(self.events.items())
        }
        named = [sorted(self.signals), sorted(self.bound), events, sorted(self.views)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]

    def affected(self, changed: Iterable[str]) -> frozenset[str]:
        """Return the signals that may change with the fields `changed`."""
        signals = self._all_signals.intersection(changed)
        return signals.union(self.computed) if self.computed else signals

    def hidden_from(self, user: UserContext | None) -> frozenset[str]:
        """Return the fields and computed values that `user` may not see: by these, viewers fall into a few classes."""
        if not self.restricted:
            return EVERYTHING_SHOWN
        return frozenset(
            name for name, permission in self.restricted.items() if user is None or not user.has_permission(permission)
        )

    def _collect(self, cls: type[BaseModel]) -> None:
        """Find the events and views of the class and its bases.

        An event that overrides another one keeps its guards, and may add to them: a bare @event must not open what was
        closed, not even where a class in between has made a plain method or a field of it.
        """
        guarded: dict[str, Event[Any, Any]] = {}
        for klass in reversed(cls.__mro__):
            for name, value in vars(klass).items():
                self.events.pop(name, None)
                self.views.pop(name, None)
                if isinstance(value, Event):
                    if (overridden := guarded.get(name)) is not None:
                        rule = overridden.rule | value.rule
                        expects = value.expect_version or overridden.expect_version
                        if (rule, expects) != (value.rule, value.expect_version):
                            # A copy, since a mixin's event belongs to other classes too, which ask for none of this.
                            value = copy.copy(value)
                            value.rule, value.expect_version = rule, expects
                    self.events[name] = guarded[name] = value
                elif isinstance(value, View):
                    self.views[name] = value
        for name in cls.model_fields:  # pydantic takes them out of the class body: one may hide what its base had
            self.events.pop(name, None)
            self.views.pop(name, None)
        for name, event in self.events.items():
            if inspect.getattr_static(cls, name) is not event:
                setattr(cls, name, event)

    def _read_fields(self, cls: type[BaseModel], signals: list[str], bound: list[str]) -> None:
        for name, field in cls.model_fields.items():
            marks = markers_in(field.metadata)
            where = f"{cls.__name__}.{name}"
            refuse_buried_markers(where, field.annotation, set())
            if (permission := permission_in(where, field.metadata)) is not None:
                self.restricted[name] = permission
                if field.exclude:
                    raise EventDefinitionError(f"{where} is ServerOnly, so nobody can see it: drop Visible")
            if field.exclude:
                self.hidden.add(name)
                if marks & {Marker.BOUND, Marker.AS_SIGNAL}:
                    raise EventDefinitionError(f"{where} is ServerOnly, so it can be neither Bound nor AsSignal")
                continue
            if accepts_none(field.annotation):
                self.optional.add(name)
            if _is_scalar(field.annotation) or Marker.AS_SIGNAL in marks:
                signals.append(name)
                if not _FIELD_NAME.match(name):
                    raise EventDefinitionError(f"{where} cannot be a signal: use ASCII letters, digits and underscores")
            if Marker.BOUND in marks:
                if name not in signals:
                    raise EventDefinitionError(f"{where} is Bound, but not a scalar: an input can only set a scalar")
                if field.frozen or cls.model_config.get("frozen"):
                    raise EventDefinitionError(f"{where} is Bound and frozen: no input can set what never changes")
                bound.append(name)

    def _read_computed(self, cls: type[BaseModel]) -> list[str]:
        signals = []
        for name, info in cls.model_computed_fields.items():
            where = f"{cls.__name__}.{name}"
            metadata = getattr(info.return_type, "__metadata__", ())
            marks = markers_in(metadata)
            if Marker.SERVER_ONLY in marks:  # pydantic has no way to keep it out of dumps
                raise EventDefinitionError(f"{where} is ServerOnly: make it a plain property instead")
            refuse_buried_markers(where, get_args(info.return_type)[0] if metadata else info.return_type, set())
            if (permission := permission_in(where, metadata)) is not None:
                self.restricted[name] = permission
            if _is_scalar(info.return_type) or Marker.AS_SIGNAL in marks:
                signals.append(name)
        return signals


# -- what pydantic would do with a field's values ----------------------------------------------------------------------


def _has_own_core_schema(cls: type[BaseModel]) -> bool:
    own: Any = cls.__get_pydantic_core_schema__
    return own.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a classmethod


def _is_plain(cls: type[BaseModel], name: str) -> bool:
    if has_serializers(cls) or cls.model_config.get("json_encoders"):
        return False
    field = cls.model_fields.get(name)
    if _has_own_core_schema(cls) or field is None or getattr(field, "exclude_if", None) is not None:
        return False
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    # Not `union_members`, and no other marks than ours and plain constraints: there may be a serialiser in `Annotated`.
    kinds = get_args(field.annotation) if is_union else (field.annotation,)
    return all(isinstance(kind, type) and kind in PLAIN for kind in kinds) and all(
        isinstance(mark, Marker | Visible) or type(mark).__module__ == "annotated_types" for mark in field.metadata
    )


def _is_exact(cls: type[BaseModel], name: str) -> bool:
    config, field = cls.model_config, cls.model_fields[name]
    if (
        has_validators(cls)
        or _has_own_core_schema(cls)
        or config.get("frozen")
        or field.frozen
        or config.keys() - _CHECKS_NO_FIELDS
    ):
        return False
    is_known = any(field.annotation is kind for kind in EXACT)
    return is_known and all(isinstance(mark, Marker | Visible) for mark in field.metadata)


_CHECKS_NO_FIELDS: Final = frozenset(
    {
        "extra", "hide_input_in_errors", "ignored_types", "ser_json_bytes", "ser_json_inf_nan", "title",
        "arbitrary_types_allowed", "frozen",
    }
)  # fmt: skip
"""Settings of a model that ask nothing more of a field of the types `EXACT`; any other setting may."""


def _required(cls: type[BaseModel]) -> tuple[str, ...]:
    may_fill = fills_fields(cls) or _has_own_core_schema(cls)
    return () if may_fill else tuple(name for name, field in cls.model_fields.items() if field.is_required())


def _is_reproducible(cls: type[BaseModel]) -> bool:
    return (
        not has_post_init(cls)
        and has_base_init(cls)
        and not model_validator_modes(cls)
        and not cls.model_config.get("validate_default")
        and not any(
            (field.default_factory is not None and field.default_factory not in _EMPTY) or field.validate_default
            for field in cls.model_fields.values()
        )
    )
