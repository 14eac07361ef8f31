"""Forms: convert the texts of a form's fields to what the annotations of an event take."""

from __future__ import annotations

import dataclasses
import types
from collections import deque
from collections.abc import Collection, Iterable, Mapping, MutableSequence, MutableSet, Sequence, Set
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict  # typing's own knows only typing's TypedDict before Python 3.13

from ..validation.annotations import accepts_none, union_members
from .parameters import is_state_class

_MANY: Final = frozenset(
    {list, set, frozenset, tuple, deque, Sequence, MutableSequence, Collection, Iterable, Set, MutableSet}
)


def _takes_many(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in _MANY


def _takes_none_of_many(annotation: Any) -> bool:
    """True for a collection that may be empty: `tuple[int, int]` may not."""
    arguments = get_args(annotation)
    fixed = (get_origin(annotation) or annotation) is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    return _takes_many(annotation) and not fixed


@dataclasses.dataclass(frozen=True, slots=True)
class FormField:
    """The way in which an argument, or a field of one, takes what a form sends. Lifetime: the event's class."""

    many: bool
    """It takes all values of its name, in a list."""
    optional: bool
    """An empty text is None."""
    box: bool
    """An empty text is False, as FastHTML's `CheckboxX` sends it for a box that is not ticked."""
    absent: Any = None
    """Its value where a form has nothing of its name: False, () for an empty list, or None for "missing"."""
    choices: Mapping[str, Any] | None = None
    """The values of a `Literal` that are not texts, by the text that stands for them in a form."""

    def read(self, values: list[Any]) -> Any:
        """Convert all values of one name."""
        return [self.read_choice(value) for value in values] if self.many else self.read_one(values[-1])

    def read_one(self, value: Any) -> Any:
        """Convert a single text."""
        if value == "" and (self.box or self.optional):
            return False if self.box else None
        return self.read_choice(value)

    def read_choice(self, value: Any) -> Any:
        """Find the value of a `Literal` that a text stands for; any other text is returned as it is."""
        return self.choices.get(value, value) if self.choices and isinstance(value, str) else value


def form_field(annotation: Any, required: bool) -> FormField:
    """Read the type of an argument or field; where it is not `required`, a missing one has its default."""
    members = union_members(annotation)
    box = members == (bool,)
    absent: Any = None
    if required:
        absent = False if box else () if any(map(_takes_none_of_many, members)) else None
    return FormField(any(map(_takes_many, members)), accepts_none(annotation), box, absent, _choices_of(members))


def _choices_of(members: Iterable[Any]) -> Mapping[str, Any] | None:
    """Find the values that are not texts in the `Literal`s among these types, or in a collection of them, by text."""
    found: dict[str, Any] = {}
    for member in members:
        if get_origin(member) is Literal:
            for value in get_args(member):
                if isinstance(value, str):
                    found.setdefault(value, value)
                elif isinstance(value, int):
                    found.setdefault(str(value), value)
        elif _takes_many(member):
            for inner in get_args(member):
                found |= _choices_of(union_members(inner)) or {}
    return found if any(not isinstance(value, str) for value in found.values()) else None


class FilledArgument(NamedTuple):
    """An argument that the fields of a form can fill: a model, dataclass, TypedDict or NamedTuple."""

    name: str
    required: bool
    fields: dict[str, FormField]
    """The fields, by the name that a form sends: their own, or an alias."""
    absent: tuple[tuple[frozenset[str], str, Any], ...]
    """Fields that a form may have nothing of: all their names, the one to use, and what they are then."""
    needs_some: bool
    """True if it is missing where a form has nothing of it: it has no default, and is not a box or collection."""

    def fill(self, given: dict[str, list[Any]], exact: dict[str, Any], is_form: bool) -> dict[str, Any] | None:
        """Collect its fields from the values of these names; None when they are not for this argument."""
        values = {name: field.read(given[name]) for name, field in self.fields.items() if name in given}
        values |= {name: exact[name] for name in self.fields if name in exact}
        if not values and not (is_form and self.required and not self.needs_some):
            return None
        if is_form:
            for names, name, value in self.absent:
                if names.isdisjoint(values):
                    values[name] = [] if value == () else value
        return values


def filled_argument(name: str, annotation: Any, required: bool) -> FilledArgument | None:
    """Read an argument as one that a form's fields fill; None where its type is not made of named fields."""
    members = [member for member in union_members(annotation) if member is not types.NoneType]
    found = _fields_of(members[0]) if len(members) == 1 else []
    if not found:
        return None
    fields: dict[str, FormField] = {}
    absent = []
    needs_some = False
    for names, inner, is_required in found:
        field = form_field(inner, is_required)
        fields |= dict.fromkeys(names, field)
        if field.absent is not None:
            absent.append((frozenset(names), names[0], field.absent))
        else:
            needs_some = needs_some or is_required
    return FilledArgument(name, required, fields, tuple(absent), needs_some)


def _fields_of(annotation: Any) -> list[tuple[list[str], Any, bool]]:
    """List the fields of a type: the names that each takes, its type, and True where it has no default."""
    cls: Any = get_origin(annotation) or annotation
    if not isinstance(cls, type) or is_state_class(cls) or issubclass(cls, RootModel):
        return []
    if issubclass(cls, BaseModel):
        model: Any = annotation if isinstance(annotation, type) else cls
        return _fields_of_model(model.model_fields, model.model_config)
    if hasattr(cls, "__pydantic_fields__"):  # pydantic's dataclass
        return _fields_of_model(cls.__pydantic_fields__, getattr(cls, "__pydantic_config__", {}))
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception:  # a name that only pydantic can resolve, which gets the values as they came
        hints = {}
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return [
            ([f.name], hints.get(f.name, Any), f.default is missing and f.default_factory is missing)
            for f in dataclasses.fields(cls)
            if f.init
        ]
    if is_typeddict(cls):
        required: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        return [([name], hint, name in required) for name, hint in hints.items()]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        defaults: dict[str, Any] = getattr(cls, "_field_defaults", {})
        return [([name], hints.get(name, Any), name not in defaults) for name in cls._fields]
    return []


def _fields_of_model(fields: dict[str, FieldInfo], config: Any) -> list[tuple[list[str], Any, bool]]:
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    by_alias = config.get("validate_by_alias", True)
    found = []
    for name, field in fields.items():
        if field.init is False:
            continue
        alias = field.validation_alias if field.validation_alias is not None else field.alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names = [choice for choice in choices if isinstance(choice, str)] if by_alias else []
        if by_name or alias is None or not by_alias:
            names.append(name)
        if names:
            found.append((names, field.annotation, field.is_required()))
    return found
