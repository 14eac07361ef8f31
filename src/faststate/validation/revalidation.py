"""Revalidation: what changed in a model or dataclass is validated, and nothing is converted twice.

pydantic validates a value when it is put into a model, and never again by itself. A state's values change in place, so
they are validated when they are committed. Running a class's own validator over all of its fields would run its
converting validators again, on what these have made already: a hashed password would be hashed once more. So for each
class three further validators are made from its pydantic core schema:

- `assign` validates the fields that changed, with all of their validators, and takes what they held before as it is;
- `check` looks at the types of a new instance, whose validators ran when its author made it;
- `load` makes an instance of what a store has kept, and runs none of the author's code but `model_post_init`.

The core schema is public: https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, get_args, get_type_hints, overload
from weakref import WeakKeyDictionary

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    PlainValidator,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    WrapValidator,
)
from pydantic_core import SchemaValidator
from typing_extensions import is_typeddict

from .scalars import SCALARS, exact_key, same_scalar

__all__ = ["Kept", "Revalidation", "revalidation_of"]

Schema = dict[str, Any]
Mode = Literal["assign", "check", "load"]


class KnownItems:
    """Which items of a changed field were there before. Lifetime: one validation.

    An item is known by its role (see `_ROLES`) and value, and has an answer for each time that it comes: of two equal
    ones, one may be new. `answers` has these for values without parts, `objects` the ids of lists, models and the like
    that did not change, by role.
    """

    __slots__ = ("_answers", "_objects", "_taken")

    def __init__(
        self, answers: Mapping[tuple[str, Any], Sequence[bool]], objects: Mapping[str, Container[int]]
    ) -> None:
        self._answers = answers
        self._objects = objects
        self._taken: dict[tuple[str, Any], int] = {}

    def take(self, role: str, value: Any) -> bool:
        """Tells whether `value`, which comes next among its equals, was there before."""
        if id(value) in self._objects.get(role, ()):
            return True
        try:
            answers = self._answers.get(key := (role, exact_key(value)))
        except TypeError:  # no hashable value, and none that was there
            return False
        if answers is None:
            return False
        place = self._taken[key] = self._taken.get(key, -1) + 1
        return place < len(answers) and answers[place]

    def place(self) -> dict[tuple[str, Any], int]:
        """How far its items have come."""
        return dict(self._taken)

    def go_to(self, place: dict[tuple[str, Any], int]) -> None:
        """Go back or forth to a place: the members of a union look at one value after the other."""
        self._taken = dict(place)


class Kept:
    """The values that one validation takes as they are. Lifetime: that validation.

    `fields` are values that were validated before, by name; a field that holds another value is validated. `items` are
    those of a changed field that were there before, by the field's name.
    """

    __slots__ = ("_items", "choices", "fields", "items")

    def __init__(self, fields: Mapping[str, Any], items: Mapping[str, KnownItems]) -> None:
        self.fields = fields
        self._items = items
        self.items = NOTHING_KNOWN
        """The items of the field that is just validated."""
        self.choices: list[dict[tuple[str, Any], int]] = []
        """How far the members of the unions that are just tried have come."""

    def enter_field(self, name: str) -> None:
        """Begin with a field that is validated."""
        self.items = self._items.get(name, NOTHING_KNOWN)

    def has_field(self, name: str, value: Any) -> bool:
        """Tells whether `value` is what the field held before."""
        if name not in self.fields:
            return False
        old = self.fields[name]
        return value is old or (type(value) is type(old) and type(value) in SCALARS and same_scalar(value, old))


NOTHING_KNOWN: Final = KnownItems({}, {})


class Revalidation:
    """The validators of one class beside its own. Lifetime: the class. Each is made when it is first needed."""

    def __init__(self, cls: type[Any], schema: Schema) -> None:
        self._cls = cls
        self._schema = schema

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all fields (and extras), by name, with their types looked at. Raises `ValidationError`."""
        found: dict[str, Any] = self._check.validate_python(values)
        return found

    def assign(self, values: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
        """The values of all fields (and extras), by name, validated but for those that are kept.

        Raises pydantic's `ValidationError`.
        """
        token = _kept_now.set(kept)
        try:
            found: dict[str, Any] = self._assign.validate_python(values)
            return found
        finally:
            _kept_now.reset(token)

    @functools.cached_property
    def sees_whole(self) -> bool:
        """Tells whether the class has model validators that see an instance whose fields are validated."""
        return _model_validators(self._schema) is not None

    def look_at_whole(self, instance: Any) -> Any:
        """Run the model validators (but for those that read input) on an instance; the instance that they return.

        Raises `ValidationError`, and whatever they raise.
        """
        return self._whole.validate_python(instance) if self.sees_whole else instance

    def load(self, values: Mapping[str, Any]) -> Any:
        """An instance with these values (all or some, by name), which it held before. Raises `ValidationError`."""
        return self._load.validate_python(values)

    def load_some(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As `load`, for some of the fields and no others, whose defaults are not made. Raises `ValidationError`."""
        found: dict[str, Any] = self._load_some.validate_python(values)
        return found

    @functools.cached_property
    def _check(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("check").of(self._cls, self._schema))

    @functools.cached_property
    def _assign(self) -> SchemaValidator:
        return SchemaValidator(self._assigning[0])

    @functools.cached_property
    def _assigning(self) -> tuple[Any, frozenset[str], frozenset[str]]:
        rewriting = _Rewriting("assign")
        return rewriting.of(self._cls, self._schema), frozenset(rewriting.converting), frozenset(rewriting.authored)

    @functools.cached_property
    def _whole(self) -> SchemaValidator:
        return SchemaValidator(_model_validators(self._schema) or {"type": "any"})

    @functools.cached_property
    def _load(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("load").of(self._cls, self._schema))

    @functools.cached_property
    def _load_some(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("load", is_partial=True).of(self._cls, self._schema))

    @property
    def converting_fields(self) -> frozenset[str]:
        """The fields in which code of the author's may convert parts of the value, such as a list's items."""
        return self._assigning[1]

    @property
    def authored_fields(self) -> frozenset[str]:
        """The fields that code of the author's looks at, and may change what it is given."""
        return self._assigning[2]


_known: WeakKeyDictionary[type, Revalidation | None] = WeakKeyDictionary()


@overload
def revalidation_of(cls: type[BaseModel]) -> Revalidation: ...
@overload
def revalidation_of(cls: type[Any]) -> Revalidation | None: ...
def revalidation_of(cls: type[Any]) -> Revalidation | None:
    """The validators of a model or dataclass; None for a dataclass of a type that pydantic does not know."""
    if cls not in _known:
        _known[cls] = _made_for(cls)
    return _known[cls]


def _made_for(cls: type[Any]) -> Revalidation | None:
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__:
            cls.model_rebuild()
        return Revalidation(cls, dict(cls.__pydantic_core_schema__))
    try:
        return Revalidation(cls, dict(TypeAdapter(cls).core_schema))
    except (PydanticUserError, NameError):  # of a type that pydantic does not know, or that is local to a function
        return None


# -- rewriting a core schema -------------------------------------------------------------------------------------------

_PARTS: Final = frozenset(
    {
        "schema", "items_schema", "keys_schema", "values_schema", "lax_schema", "strict_schema", "json_schema",
        "python_schema", "extras_schema", "extras_keys_schema", "arguments_schema", "var_args_schema",
        "var_kwargs_schema", "choices", "steps", "definitions", "fields",
    }
)  # fmt: skip
"""The keys of a core schema under which further ones stand."""

_CONSTRAINTS: Final = frozenset(
    {
        "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places",
        "now_op", "tz_constraint", "microseconds_precision_not",
    }
)  # fmt: skip


class _Rewriting:
    """Makes one validator's schema of a class's own. Lifetime: until it is made.

    `converting` collects the fields of `Revalidation.converting_fields`. `_inside` counts the author's validators
    around the place that is looked at: what these return has the type that is declared within them, and need not keep
    to its constraints.
    """

    def __init__(self, mode: Mode, *, is_partial: bool = False) -> None:
        self._mode = mode
        self._is_partial = is_partial
        self._definitions: dict[str, Schema] = {}
        self._inside = 0
        self._role = ""
        self._is_converting = self._is_authored = False
        self.converting: set[str] = set()
        self.authored: set[str] = set()

    def of(self, cls: type[Any], schema: Schema) -> Any:
        """The schema of the class itself, whose instance is not there yet."""
        token = _written.set(_Functions(cls))
        try:
            return self.whole(schema)
        finally:
            _written.reset(token)

    def whole(self, schema: Schema) -> Any:
        """As `of`, for the class that is looked at or one that stands in its fields."""
        kind = schema["type"]
        if kind == "definitions":
            definitions = schema["definitions"]
            self._definitions = {found["ref"]: found for found in definitions if "ref" in found}
            own = schema["schema"]
            if own["type"] == "definition-ref":
                own = self._definitions[own["schema_ref"]]
                own = {key: value for key, value in own.items() if key != "ref"}  # it stays among the definitions
            return {**schema, "schema": self.whole(own), "definitions": self._part(definitions)}
        if kind.startswith("function-"):  # a model validator
            return self.whole(schema["schema"])
        return self._instance(schema) if kind in ("model", "dataclass") else self._node(schema)

    def _instance(self, schema: Schema) -> Schema:
        """The schema of a model or dataclass, for the dict of its fields."""
        outside, self._inside = self._inside, 0
        is_partial, self._is_partial = self._is_partial, False  # those of nested models are all there
        fields = self._fields(schema["schema"], schema, is_partial)
        self._inside = outside
        if is_partial or self._mode != "load":
            return fields
        return _function("wrap", functools.partial(_load_instance, schema["cls"], "post_init" in schema), fields)

    def _fields(self, schema: Schema, owner: Schema, is_partial: bool) -> Schema:
        kind = schema["type"]
        fields: Iterable[tuple[str, Schema]]
        if kind == "function-before" and _reads_input(owner["cls"]):
            # A model validator that reads input. What is there already is none.
            return self._fields(schema["schema"], owner, is_partial)
        if owner["type"] == "model" and owner.get("root_model"):
            fields = [("root", {"schema": schema})]
        elif kind == "model-fields":
            fields = schema["fields"].items()
        else:
            fields = [(field["name"], field) for field in schema["fields"] if not field.get("init_only")]
        config = {**owner.get("config", {})}
        if self._mode == "load":
            config["strict"] = False  # an enum's member is kept as its value
        extra = schema.get("extra_behavior") or config.get("extra_fields_behavior", "ignore")
        made: Schema = {
            "type": "typed-dict",
            "fields": {name: self._field(name, field["schema"], is_partial) for name, field in fields},
            "extra_behavior": extra,
            "config": {key: value for key, value in config.items() if key != "extra_fields_behavior"},
        }
        if "extras_schema" in schema:
            made["extras_schema"] = self._part(schema["extras_schema"])
        return made

    def _field(self, name: str, schema: Schema, is_partial: bool) -> Schema:
        self._is_converting, self._is_authored, self._role = False, False, ""
        while is_partial and schema["type"] == "default":
            schema = schema["schema"]
        inner = self._node(schema)
        if self._is_converting:
            self.converting.add(name)
        if self._is_authored or self._is_converting:
            self.authored.add(name)
        if self._mode == "assign":
            inner = _function("wrap", functools.partial(_keep_field, name), inner)
        return {"type": "typed-dict-field", "schema": inner, "required": not is_partial and schema["type"] != "default"}

    def _node(self, schema: Schema) -> Schema:
        kind = schema["type"]
        if (cls := _class_of(schema)) is not None:
            # Instances pass as they are, and whatever else stands there is validated by their own class.
            if self._mode == "load":
                return {**_of_ref(schema), **_without_ref(self.of(cls, schema))}
            revalidates = schema.get("config", {}).get("revalidate_instances", "never") != "never"
            if kind in ("model", "dataclass") and not revalidates:
                return schema
            self._is_converting = True  # pydantic would run the model validators of an instance that is there already
            passing = _function("wrap", functools.partial(_pass_instance, cls), _without_ref(schema))
            return {**_of_ref(schema), **passing}
        if kind == "definition-ref" and self._definitions[schema["schema_ref"]]["type"] not in ("model", "dataclass"):
            self._is_converting = True  # its schema stands among the definitions, and may do so
        if kind == "json":  # what was validated is text no more
            inner = self._part(schema.get("schema", {"type": "any"}))
            if self._mode != "assign":
                return {**_of_ref(schema), **_without_ref(inner)}
            self._is_converting = True
            return {"type": "union", "mode": "left_to_right", "choices": [{**schema, "schema": inner}, inner]}
        if kind.startswith("function-") and _is_authors(schema["function"]["function"]):
            return self._authors(kind, schema)
        outside, made = self._role, {}
        before, self._is_converting = self._is_converting, False
        for key, value in schema.items():
            self._role = outside + _ROLES.get((kind, key), _ROLES.get(("", key), ""))
            made[key] = self._part(value) if key in _PARTS else value
        self._role = outside
        if self._mode == "assign" and self._is_converting and kind in ("union", "tagged-union"):
            made = _by_choice(made)
        self._is_converting = self._is_converting or before
        if self._mode == "load" and (self._inside or "now_op" in made):  # what was in the future may be past by now
            made = {key: value for key, value in made.items() if key not in _CONSTRAINTS}
        return made

    def _part(self, part: Any) -> Any:
        if type(part) is dict:
            if type(part.get("type")) is str:
                return self._node(part)
            return {name: self._part(value) for name, value in part.items()}
        if type(part) is list:
            return [self._part(each) for each in part]
        if type(part) is tuple:  # a member of a union, with its label
            return tuple(self._part(each) for each in part)
        return part

    def _authors(self, kind: str, schema: Schema) -> Schema:
        """A validator that the class's author wrote."""
        self._is_authored = True
        self._is_converting = self._is_converting or self._role != ""
        if self._mode == "assign":
            inner = {**schema, "schema": self._part(schema["schema"])} if "schema" in schema else schema
            return {
                **_of_ref(schema),
                **_function("wrap", functools.partial(_keep_item, self._role), _without_ref(inner)),
            }
        if kind == "function-before":  # what it returns was validated behind it
            return {**_of_ref(schema), **_without_ref(self._node(schema["schema"]))}
        if kind == "function-plain" or self._mode == "check":
            return {**_of_ref(schema), "type": "any"}
        self._inside += 1
        inner = self._node(schema["schema"])
        self._inside -= 1
        return {**_of_ref(schema), **_without_ref(inner)}


_ROLES: Final = {
    ("", "items_schema"): "i",
    ("", "keys_schema"): "k",
    ("", "values_schema"): "v",
    ("typed-dict", "fields"): "v",
    ("named-tuple", "fields"): "i",
    ("call", "arguments_schema"): "i",
}
"""The role of a container's part: an item, a key, or a value. It is found by the container's type in a core schema (""
for any) and the part's key there. The role of a value within its field is one letter for each container around it."""


def _model_validators(schema: Schema) -> Schema | None:
    """The model validators around a class's schema, for an instance; None where there are none."""
    if schema["type"] == "definitions":
        own = schema["schema"]
        if own["type"] == "definition-ref":
            own = next(found for found in schema["definitions"] if found.get("ref") == own["schema_ref"])
        return _model_validators(own)
    if not schema["type"].startswith("function-") or "schema" not in schema:
        return None
    return {**_without_ref(schema), "schema": _model_validators(schema["schema"]) or {"type": "any"}}


def _reads_input(cls: type[Any]) -> bool:
    decorators = getattr(cls, "__pydantic_decorators__", None)
    return decorators is not None and any(each.info.mode == "before" for each in decorators.model_validators.values())


def _by_choice(union: Schema) -> Schema:
    """A union each member of which looks at the same items."""
    choices = union["choices"]
    made: Any
    if isinstance(choices, dict):
        made = {tag: _function("wrap", _in_choice, each) for tag, each in choices.items()}
    else:
        made = [
            (_function("wrap", _in_choice, each[0]), each[1])
            if isinstance(each, tuple)
            else _function("wrap", _in_choice, each)
            for each in choices
        ]
    return {**_of_ref(union), **_function("wrap", _in_union, {**_without_ref(union), "choices": made})}


def _class_of(schema: Schema) -> type[Any] | None:
    """The model or dataclass whose schema this is, with its own model validators around it; None for any other."""
    wrapped = 0
    while schema["type"].startswith("function-") and "schema" in schema:
        wrapped, schema = wrapped + 1, schema["schema"]
    if schema["type"] not in ("model", "dataclass"):
        return None
    cls: type[Any] = schema["cls"]
    decorators = getattr(cls, "__pydantic_decorators__", None)
    own = decorators.model_validators.values() if decorators is not None else ()
    return cls if wrapped <= sum(each.info.mode != "before" for each in own) else None


def _of_ref(schema: Schema) -> Schema:
    return {"ref": schema["ref"]} if "ref" in schema else {}


def _without_ref(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "ref"}


def _function(kind: str, function: Callable[..., Any], schema: Schema) -> Schema:
    return {"type": f"function-{kind}", "function": {"type": "no-info", "function": function}, "schema": schema}


def _is_authors(function: Any) -> bool:
    """Tells whether a validator is code of a class's author, and not part of a type itself."""
    if function in _written.get():
        return True
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type | operator.attrgetter):
        return False  # `Sku`, which makes a Sku of a str; and the values of an enum with use_enum_values
    if (getattr(function, "__module__", None) or "").partition(".")[0] in _TYPE_MAKERS:
        # These decode what they are given, or look whether a file is there.
        return getattr(function, "__qualname__", "").startswith(("EncodedBytes.", "EncodedStr.", "PathType."))
    owner = getattr(function, "__self__", None)
    return not (isinstance(owner, type) and hasattr(owner, "__get_pydantic_core_schema__")) or issubclass(
        owner, BaseModel
    )


_written: ContextVar[Container[Any]] = ContextVar("faststate_written", default=())
"""The functions that stand in the annotations of the class that is looked at."""


class _Functions:
    """The functions of all validators in some annotations. Lifetime: until a class's schemas are made."""

    def __init__(self, cls: type[Any]) -> None:
        self._found: list[Any] = []
        self._seen: list[Any] = []
        self._add_class(cls)

    def __contains__(self, function: object) -> bool:
        return any(each is function or each == function for each in self._found)

    def _add_class(self, cls: type[Any]) -> None:
        if issubclass(cls, BaseModel):
            for field in cls.model_fields.values():
                self._add_marks(field.metadata)
                self._add(field.annotation)
            return
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError:  # types that are local to a function
            return
        for hint in hints.values():
            self._add(hint)

    def _add(self, annotation: Any) -> None:
        if any(each is annotation for each in self._seen):
            return
        self._seen.append(annotation)
        self._add_marks(getattr(annotation, "__metadata__", ()))
        for inner in (getattr(annotation, "__value__", None), getattr(annotation, "__supertype__", None)):
            if inner is not None:
                self._add(inner)
        for part in get_args(annotation):
            self._add(part)
        if isinstance(annotation, type) and (is_typeddict(annotation) or hasattr(annotation, "_fields")):
            self._add_class(annotation)

    def _add_marks(self, marks: Iterable[Any]) -> None:
        for mark in marks:
            if isinstance(mark, AfterValidator | BeforeValidator | PlainValidator | WrapValidator):
                self._found.append(mark.func)


_TYPE_MAKERS: Final = frozenset({"pydantic", "pydantic_extra_types", "pydantic_core"})


# -- what the schemas call ---------------------------------------------------------------------------------------------


# Not by pydantic's own context, which the author's validators are given.
_kept_now: ContextVar[Kept] = ContextVar("faststate_kept")


def _keep_field(name: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    kept = _kept_now.get()
    if kept.has_field(name, value):
        return value
    kept.enter_field(name)
    return handler(value)


def _keep_item(role: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if _kept_now.get().items.take(role, value) else handler(value)


def _in_union(value: Any, handler: Callable[[Any], Any]) -> Any:
    kept = _kept_now.get()
    kept.choices.append(kept.items.place())
    try:
        return handler(value)
    finally:
        kept.items.go_to(kept.choices.pop())


def _in_choice(value: Any, handler: Callable[[Any], Any]) -> Any:
    items, choices = _kept_now.get().items, _kept_now.get().choices
    before = items.place()
    try:
        result = handler(value)
        choices[-1] = items.place()  # where the union will have come, should this be its choice
        return result
    finally:
        items.go_to(before)


def _pass_instance(cls: type[Any], value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, cls) else handler(value)


def _load_instance(cls: type[Any], has_post_init: bool, value: Any, handler: Callable[[Any], Any]) -> Any:
    if isinstance(value, cls):
        return value
    values: dict[str, Any] = handler({"root": value} if issubclass(cls, RootModel) else value)
    made = object.__new__(cls)
    put = object.__setattr__
    if not issubclass(cls, BaseModel):
        for name, each in values.items():
            put(made, name, each)
        return made
    names = cls.__pydantic_fields__
    fields = {name: each for name, each in values.items() if name in names}
    extra = {name: each for name, each in values.items() if name not in names}
    put(made, "__dict__", dict(fields))
    put(made, "__pydantic_fields_set__", set(fields))
    put(made, "__pydantic_extra__", extra if cls.model_config.get("extra") == "allow" else None)
    put(made, "__pydantic_private__", None)
    if has_post_init:
        made.model_post_init(None)  # for its private attributes
        put(made, "__dict__", fields)  # which are as they were, whatever it makes of new ones
    return made
