"""What a state class exposes: the markers of fields, and the schema read from a class once."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import re
import types
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field
from typing_extensions import is_typeddict  # typing's own knows only typing's TypedDict before Python 3.13

from ..auth.users import UserContext
from ..exceptions import EventDefinitionError
from ..validation.revalidation import revalidation_of
from .arguments import EXACT
from .events import Event
from .forms import accepts_none
from .views import View

__all__ = ["AsSignal", "Bound", "Schema", "ServerOnly", "Visible"]

T = TypeVar("T")


class _Marker(enum.Enum):
    """Pydantic excludes what `ServerOnly` hides: errors look there, and at `Visible.hides_values`."""

    BOUND = "Bound"
    SERVER_ONLY = "ServerOnly"
    AS_SIGNAL = "AsSignal"


Bound = Annotated[T, _Marker.BOUND]
"""`Bound[T]`: a field that a two-way binding in the page sets, together with the next event on its state."""

ServerOnly = Annotated[T, Field(exclude=True, repr=False), _Marker.SERVER_ONLY]
"""`ServerOnly[T]`: a field (also of a nested model) that never leaves the server, and is not in `repr`."""

AsSignal = Annotated[T, _Marker.AS_SIGNAL]
"""`AsSignal[T]`: a collection or nested model that is sent as a signal; without it, collections show through views."""


@dataclass(frozen=True, slots=True)
class Visible:
    """Marks a field or computed value that only viewers with a permission receive: `Annotated[int, Visible("hr")]`.

    `permission` is a str, as in `UserContext.permissions`. For all other viewers the field is None in what handlers and
    views are given, and an empty signal in the page. Raises `EventDefinitionError` for anything but a name.
    """

    permission: str
    hides_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.permission, str) or not self.permission:
            raise EventDefinitionError(f"Visible takes the name of a permission, not {self.permission!r}")


PLAIN: Final = frozenset({str, int, bool, float, type(None)})
"""Types of values that are on the wire what they are in Python, but for what `to_wire` does."""


EVERYTHING_SHOWN: Final[frozenset[str]] = frozenset()
"""What is hidden from a viewer from whom nothing is."""


_EMPTY: Final = (list, dict, set, frozenset, tuple, str, bytes, int, float, bool)
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_SCALARS = (
    str, int, float, bool, type(None), decimal.Decimal, uuid.UUID, enum.Enum,
    datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip


def _is_scalar(annotation: Any) -> bool:
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):  # a `type` statement
            annotation = annotation.__value__
        else:
            break
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return all(map(_is_scalar, get_args(annotation)))
    if origin is Literal or annotation is None:
        return True
    return isinstance(annotation, type) and origin is None and issubclass(annotation, _SCALARS)


def _markers(metadata: Any) -> set[_Marker]:
    return {mark for mark in metadata if isinstance(mark, _Marker)}


def _permission(where: str, metadata: Any) -> str | None:
    if Visible in metadata:
        raise EventDefinitionError(f"{where}: write Visible('the permission'), which names who may see it")
    found = {mark.permission for mark in metadata if isinstance(mark, Visible)}
    if len(found) > 1:
        raise EventDefinitionError(f"{where} is marked Visible for {' and '.join(sorted(found))}: name one permission")
    return found.pop() if found else None


class Schema:
    """What one state class exposes. Lifetime: the class."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.events: dict[str, Event[Any, Any]] = {}
        self.views: dict[str, View] = {}
        # An event that overrides another one keeps its guards, and may add to them: a bare @event must not open what
        # was closed, not even where a class in between has made a plain method or a field of it.
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
                            # A copy, since a mixin's event is other classes' too, which ask for nothing of this kind.
                            value = value.own(rule=rule, expect_version=expects)
                    self.events[name] = guarded[name] = value
                elif isinstance(value, View):
                    self.views[name] = value
        for name in cls.model_fields:  # pydantic takes them out of the class body: one may hide what its base had
            self.events.pop(name, None)
            self.views.pop(name, None)
        for name, event in self.events.items():
            if inspect.getattr_static(cls, name) is not event:
                setattr(cls, name, event)
        signals: list[str] = []
        bound: list[str] = []
        self.hidden: set[str] = set()
        self.restricted: dict[str, str] = {}
        self.optional: set[str] = set()
        _refuse_lost_markers(cls)
        for name, field in cls.model_fields.items():
            marks = _markers(field.metadata)
            where = f"{cls.__name__}.{name}"
            _refuse_buried_markers(where, field.annotation, set())
            if (permission := _permission(where, field.metadata)) is not None:
                self.restricted[name] = permission
                if field.exclude:
                    raise EventDefinitionError(f"{where} is ServerOnly, so nobody can see it: drop Visible")
            if field.exclude:
                self.hidden.add(name)
                if marks & {_Marker.BOUND, _Marker.AS_SIGNAL}:
                    raise EventDefinitionError(f"{where} is ServerOnly, so it can be neither Bound nor AsSignal")
                continue
            if accepts_none(field.annotation):
                self.optional.add(name)
            if _is_scalar(field.annotation) or _Marker.AS_SIGNAL in marks:
                signals.append(name)
                if not _FIELD_NAME.match(name):
                    raise EventDefinitionError(f"{where} cannot be a signal: use ASCII letters, digits and underscores")
            if _Marker.BOUND in marks:
                if name not in signals:
                    raise EventDefinitionError(f"{where} is Bound, but no scalar: an input can only set a scalar")
                if field.frozen or cls.model_config.get("frozen"):
                    raise EventDefinitionError(f"{where} is Bound and frozen: no input can set what never changes")
                bound.append(name)
        self.computed: list[str] = []
        for name, info in cls.model_computed_fields.items():
            metadata = getattr(info.return_type, "__metadata__", ())
            marks = _markers(metadata)
            if _Marker.SERVER_ONLY in marks:  # pydantic has no way to keep it out of dumps
                raise EventDefinitionError(f"{cls.__name__}.{name} is ServerOnly: make it a plain property instead")
            where = f"{cls.__name__}.{name}"
            _refuse_buried_markers(where, get_args(info.return_type)[0] if metadata else info.return_type, set())
            if (permission := _permission(where, metadata)) is not None:
                self.restricted[name] = permission
            if _is_scalar(info.return_type) or _Marker.AS_SIGNAL in marks:
                signals.append(name)
                self.computed.append(name)
        self.fields = tuple(cls.model_fields)
        self.names = set(self.fields)
        """The names of all fields: one set for all instances, since nothing that could still be set is missing."""
        is_plain = not (cls.model_config.get("validate_assignment") or cls.model_config.get("frozen"))
        self.assignable = frozenset(name for name, field in cls.model_fields.items() if is_plain and not field.frozen)
        """The fields that pydantic sets as they are, with nothing to be asked before."""
        self.signals = tuple(signals)
        self.bound = tuple(bound)
        self._all_signals = frozenset(signals)
        self.plain = frozenset(name for name in signals if _is_plain(cls, name))
        """The signals whose values pydantic would serialise as they are, when they are of the types `PLAIN`."""
        self.shown = tuple(n for n in (*cls.model_fields, *cls.model_computed_fields) if n not in self.hidden)
        self.exact = {name: cls.model_fields[name].annotation for name in cls.model_fields if _is_exact(cls, name)}
        """By field: the type whose very own values pydantic takes as they are, so that nothing of them is checked."""
        self.checks_whole = bool(cls.__pydantic_decorators__.model_validators)
        validators = revalidation_of(cls)
        self.converting, self.authored = validators.converting_fields, validators.authored_fields
        self.sees_whole = validators.sees_whole
        self.versioned = any(event.expect_version for event in self.events.values())
        # Whether every new instance is the same: no code of the class has a word in it, but what makes an empty
        # collection.
        self.required = _required(cls)
        """The fields without a default that no code of the class can fill: a new state has to be given them."""
        self.reproducible = (
            not self.required
            and _has_no_post_init(cls)
            and getattr(cls.__init__, "__pydantic_base_init__", False)
            and not self.checks_whole
            and not cls.model_config.get("validate_default")
            and not any(
                (field.default_factory is not None and field.default_factory not in _EMPTY) or field.validate_default
                for field in cls.model_fields.values()
            )
        )

    def affected(self, changed: Iterable[str]) -> frozenset[str]:
        """The signals that may be others when the fields `changed` are."""
        signals = self._all_signals.intersection(changed)
        return signals.union(self.computed) if self.computed else signals

    def hidden_from(self, user: UserContext | None) -> frozenset[str]:
        """The fields and computed values that `user` may not see; with this, viewers fall into a few classes."""
        if not self.restricted:
            return EVERYTHING_SHOWN
        return frozenset(
            name for name, permission in self.restricted.items() if user is None or not user.has_permission(permission)
        )


def _is_plain(cls: type[BaseModel], name: str) -> bool:
    decorators = cls.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers or cls.model_config.get("json_encoders"):
        return False
    own_schema: Any = cls.__get_pydantic_core_schema__
    if own_schema.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__:  # type: ignore[attr-defined]  # a classmethod
        return False
    field = cls.model_fields.get(name)
    if field is None or getattr(field, "exclude_if", None) is not None:
        return False
    annotation = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    # Besides our own marks and plain constraints there may be a serialiser among the metadata.
    return all(isinstance(kind, type) and kind in PLAIN for kind in kinds) and all(
        isinstance(mark, _Marker | Visible) or type(mark).__module__ == "annotated_types" for mark in field.metadata
    )


def _is_exact(cls: type[BaseModel], name: str) -> bool:
    own, config, field = cls.__pydantic_decorators__, cls.model_config, cls.model_fields[name]
    if own.field_validators or own.validators or own.model_validators or own.root_validators:
        return False
    own_schema: Any = cls.__get_pydantic_core_schema__
    if own_schema.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__:  # type: ignore[attr-defined]  # a classmethod
        return False
    if config.get("frozen") or field.frozen or config.keys() - _CHECKS_NO_FIELDS:
        return False
    is_known = any(field.annotation is kind for kind in EXACT)
    return is_known and all(isinstance(mark, _Marker | Visible) for mark in field.metadata)


_CHECKS_NO_FIELDS: Final = frozenset(
    {
        "extra",
        "hide_input_in_errors",
        "ignored_types",
        "ser_json_bytes",
        "ser_json_inf_nan",
        "title",
        "arbitrary_types_allowed",
        "frozen",
    }
)
"""Settings of a model that ask nothing more of a field of the types `EXACT`; of all others nothing is assumed."""


def _required(cls: type[BaseModel]) -> tuple[str, ...]:
    decorators, own_schema = cls.__pydantic_decorators__, cls.__get_pydantic_core_schema__
    may_fill = (
        cls.__pydantic_custom_init__  # an __init__ of its own
        or any(validator.info.mode != "after" for validator in decorators.model_validators.values())
        or decorators.root_validators
        or own_schema.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # classmethods
    )
    return () if may_fill else tuple(name for name, field in cls.model_fields.items() if field.is_required())


def _has_no_post_init(cls: type[BaseModel]) -> bool:
    # For private attributes pydantic puts a function of its own there; it wraps the class's, under another name.
    own = cls.model_post_init
    return own is BaseModel.model_post_init or getattr(own, "__name__", "") == "init_private_attributes"


def _refuse_buried_markers(where: str, annotation: Any, seen: set[Any]) -> None:
    """ServerOnly works on a field, not inside its type: `list[ServerOnly[int]]` would hide nothing."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        _refuse_lost_markers(annotation)
        for name, field in annotation.model_fields.items():
            _refuse_visible(f"{annotation.__name__}.{name}", field.metadata)
            _refuse_buried_markers(f"{annotation.__name__}.{name}", field.annotation, seen)
        for name, info in annotation.model_computed_fields.items():
            _refuse_visible(f"{annotation.__name__}.{name}", getattr(info.return_type, "__metadata__", ()))
            if _Marker.SERVER_ONLY in _markers(getattr(info.return_type, "__metadata__", ())):
                raise EventDefinitionError(
                    f"{annotation.__name__}.{name} is ServerOnly: make it a plain property instead"
                )
        return
    if hasattr(annotation, "__value__"):  # a `type` statement: what it names is out of pydantic's sight
        if id(annotation) in seen:  # it may name itself
            return
        seen.add(id(annotation))
        _refuse_buried_markers(where, annotation.__value__, seen)
        return
    shape = get_origin(annotation) or annotation
    has_fields = dataclasses.is_dataclass(shape) or is_typeddict(shape) or hasattr(shape, "_fields")
    if isinstance(shape, type) and has_fields and shape not in seen:
        seen.add(shape)
        for name, hint in _hints(shape).items():
            if _Marker.SERVER_ONLY in _markers(getattr(hint, "__metadata__", ())):
                raise EventDefinitionError(
                    f"{shape.__name__}.{name} is ServerOnly, and a {_kind(shape)} cannot keep that: use a BaseModel"
                )
            _refuse_buried_markers(f"{shape.__name__}.{name}", hint, seen)
    metadata = getattr(annotation, "__metadata__", ())
    marks = _markers(metadata)
    if any(isinstance(mark, Visible) for mark in metadata):
        raise EventDefinitionError(f"{where}: write Annotated[..., Visible(...)] around the whole type of the field")
    if marks:
        raise EventDefinitionError(f"{where}: write {marks.pop().value}[...] around the whole type of the field")
    for part in get_args(annotation):
        _refuse_buried_markers(where, part, seen)


def _refuse_lost_markers(cls: type[BaseModel]) -> None:
    """Report a field that a base class hides, and that this class shows since it declares it again without the marker.

    The same goes for a marker that the field's own `Field(...)` undoes. Whoever redeclares a field to give it another
    default would publish it without a word. Raises `EventDefinitionError`.
    """
    for name, field in cls.model_fields.items():
        if _Marker.SERVER_ONLY in _markers(field.metadata) and (not field.exclude or field.repr):
            raise EventDefinitionError(
                f"{cls.__name__}.{name} is ServerOnly, and its Field shows it: drop "
                f"{'repr=True' if field.exclude else 'exclude=False'}"
            )
    own = _hiding(cls)
    for base in cls.__mro__[1:]:
        if base is object or base is BaseModel:
            continue
        declared = inspect.get_annotations(base).keys() | vars(base).keys()
        for name, hidden in _hiding(base).items():
            if hidden is None or name not in declared or name not in own or own[name] == hidden:
                continue
            if hidden != _SERVER_ONLY and own[name] is not None:  # another permission, or nobody at all: it is said
                continue
            mark = "ServerOnly[...]" if hidden == _SERVER_ONLY else f"Annotated[..., Visible({hidden!r})]"
            raise EventDefinitionError(
                f"{cls.__name__}.{name} shows what {base.__name__}.{name} hides: it is declared again without its "
                f"marker. Write {mark} here as well, or give the field another name"
            )


_SERVER_ONLY: Final = (_Marker.SERVER_ONLY,)
"""Stands for `ServerOnly` where the name of a permission stands for `Visible`."""


def _hiding(cls: type) -> dict[str, Any]:
    """How a class hides each of its fields and computed values: None, the name of a permission, or `_SERVER_ONLY`."""
    if not issubclass(cls, BaseModel):  # a mixin, whose annotations become fields of the models that use it
        own = inspect.get_annotations(cls)
        hints = _hints(cls) if own else own
        marks = {name: getattr(hints.get(name, hint), "__metadata__", ()) for name, hint in own.items()}
        return {
            name: _hides(found, any(getattr(mark, "exclude", None) for mark in found)) for name, found in marks.items()
        }
    if not cls.__pydantic_complete__:
        cls.model_rebuild(raise_errors=False)  # its types were not all there when it was made
    found = {name: _hides(field.metadata, bool(field.exclude)) for name, field in cls.model_fields.items()}
    for name, info in cls.model_computed_fields.items():
        found[name] = _hides(getattr(info.return_type, "__metadata__", ()), False)
    return found


def _hides(metadata: Any, is_excluded: bool) -> Any:
    if is_excluded or _Marker.SERVER_ONLY in _markers(metadata):
        return _SERVER_ONLY
    return next((mark.permission for mark in metadata if isinstance(mark, Visible)), None)


def _refuse_visible(where: str, metadata: Any) -> None:
    if any(isinstance(mark, Visible) for mark in metadata):
        raise EventDefinitionError(
            f"{where} is marked Visible, which works on the fields of a state alone: make it a field or a computed "
            "value of the state"
        )


def _kind(cls: type) -> str:
    return "dataclass" if dataclasses.is_dataclass(cls) else "TypedDict" if is_typeddict(cls) else "named tuple"


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:  # types that are local to a function
        return inspect.get_annotations(cls)
