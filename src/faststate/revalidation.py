"""Revalidation: what changed in a model or dataclass is validated, and nothing is converted twice.

pydantic validates a value when it is put into a model, and never again by itself. A state's values change in place, so
they are validated when they are committed. Running a class's own validator over all of its fields would run its
converting validators again, on what these have made already: a hashed password would be hashed once more. So for each
class three further validators are made from its pydantic core schema:

- `assign` validates the fields that changed, with all of their validators, and takes the other ones as they are;
- `check` looks at the types of a new instance, whose validators ran when its author made it;
- `load` makes an instance of what a store has kept, and runs none of the author's code but `model_post_init`.

The core schema is public: https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, overload
from weakref import WeakKeyDictionary

from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter
from pydantic_core import SchemaValidator

from .scalars import SCALARS, exact_key, same_scalar

__all__ = ["Kept", "Revalidation", "revalidation_of"]

Schema = dict[str, Any]
Mode = Literal["assign", "check", "load"]


class Kept:
    """What one validation takes as it is. Lifetime: that validation.

    `fields` are values that were validated before, by name; a field that holds another value is validated. `items` are
    the scalars that a changed field's containers held before, by the field's name: as many of each as there were are
    taken as they are. `make` makes the instance that the class's own model validators are given.
    """

    __slots__ = ("_items", "_items_left", "fields", "make")

    def __init__(
        self, fields: Mapping[str, Any], items: Mapping[str, Iterable[Any]], make: Callable[[dict[str, Any]], Any]
    ) -> None:
        self.fields = fields
        self.make = make
        self._items = items
        self._items_left: Counter[Any] = Counter()

    def enter_field(self, name: str) -> None:
        """Begin with a field that is validated."""
        self._items_left = Counter(map(exact_key, self._items.get(name, ())))

    def has_field(self, name: str, value: Any) -> bool:
        """Whether `value` is what the field held before."""
        if name not in self.fields:
            return False
        old = self.fields[name]
        return value is old or (type(value) is type(old) and type(value) in SCALARS and same_scalar(value, old))

    def take_item(self, value: Any) -> bool:
        """Whether `value` was in the container before; it then counts as one of those that were."""
        if type(value) not in SCALARS:
            return False
        key = exact_key(value)
        if not self._items_left[key]:
            return False
        self._items_left[key] -= 1
        return True


class Revalidation:
    """The validators of one class beside its own. Lifetime: the class. Each is made when it is first needed."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all fields (and extras), by name, with their types looked at. Raises `ValidationError`."""
        found: dict[str, Any] = self._check.validate_python(values)
        return found

    def assign(self, values: Mapping[str, Any], kept: Kept) -> Any:
        """What `kept.make` made of the values, validated but for those that are kept; then model validators ran.

        `values` are those of all fields (and extras), by name. Raises pydantic's `ValidationError`.
        """
        token = _kept_now.set(kept)
        try:
            return self._assign.validate_python(values)
        finally:
            _kept_now.reset(token)

    def assign_fields(self, values: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
        """As `assign`, without the model validators: the validated values by name."""
        token = _kept_now.set(kept)
        try:
            found: dict[str, Any] = self._fields.validate_python(values)
            return found
        finally:
            _kept_now.reset(token)

    def load(self, values: Mapping[str, Any]) -> Any:
        """An instance with these values (all or some, by name), which it held before. Raises `ValidationError`."""
        return self._load.validate_python(values)

    def load_some(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As `load`, for some of the fields and no others, whose defaults are not made. Raises `ValidationError`."""
        found: dict[str, Any] = self._load_some.validate_python(values)
        return found

    @functools.cached_property
    def _check(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("check").whole(self._schema))

    @functools.cached_property
    def _assign(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("assign").whole(self._schema))

    @functools.cached_property
    def _fields(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("assign", with_model_validators=False).whole(self._schema))

    @functools.cached_property
    def _load(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("load").whole(self._schema))

    @functools.cached_property
    def _load_some(self) -> SchemaValidator:
        return SchemaValidator(_Rewriting("load", is_partial=True).whole(self._schema))

    @functools.cached_property
    def converting_fields(self) -> frozenset[str]:
        """The fields in which code of the author's may convert parts of the value, such as a list's items."""
        found = _Rewriting("assign")
        found.whole(self._schema)
        return frozenset(found.converting)


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
        return Revalidation(dict(cls.__pydantic_core_schema__))
    try:
        return Revalidation(dict(TypeAdapter(cls).core_schema))
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

    def __init__(self, mode: Mode, *, with_model_validators: bool = True, is_partial: bool = False) -> None:
        self._mode = mode
        self._runs_model_validators = mode == "assign" and with_model_validators
        self._makes = mode == "load" or self._runs_model_validators
        self._is_partial = is_partial
        self._definitions: dict[str, Schema] = {}
        self._inside = 0
        self._within_container = False
        self._is_converting = False
        self.converting: set[str] = set()

    def whole(self, schema: Schema) -> Any:
        """The schema of the class itself, whose instance is not there yet."""
        kind = schema["type"]
        if kind == "definitions":
            definitions = schema["definitions"]
            self._definitions = {found["ref"]: found for found in definitions if "ref" in found}
            own = schema["schema"]
            if own["type"] == "definition-ref":
                own = self._definitions[own["schema_ref"]]
                own = {key: value for key, value in own.items() if key != "ref"}  # it stays among the definitions
            return {**schema, "schema": self.whole(own), "definitions": self._part(definitions)}
        if kind.startswith("function-"):
            inner = self.whole(schema["schema"])
            return {**_without_ref(schema), "schema": inner} if self._runs_model_validators else inner
        return self._instance(schema) if kind in ("model", "dataclass") else self._node(schema)

    def _instance(self, schema: Schema) -> Schema:
        """The schema of a model or dataclass, for the dict of its fields."""
        outside, self._inside = self._inside, 0
        is_partial, self._is_partial = self._is_partial, False  # those of nested models are all there
        fields = self._fields(schema["schema"], schema, is_partial)
        self._inside = outside
        if is_partial or not self._makes:
            return fields
        if self._mode == "assign":
            return _function("after", _make, fields)
        return _function("wrap", functools.partial(_load_instance, schema["cls"], "post_init" in schema), fields)

    def _fields(self, schema: Schema, owner: Schema, is_partial: bool) -> Schema:
        kind = schema["type"]
        fields: Iterable[tuple[str, Schema]]
        if owner["type"] == "model" and owner.get("root_model"):
            fields = [("root", {"schema": schema})]
        elif kind.startswith("function-"):  # a model validator that is asked before the fields are
            inner = self._fields(schema["schema"], owner, is_partial)
            return {**_without_ref(schema), "schema": inner} if self._runs_model_validators else inner
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
        self._is_converting = self._within_container = False
        while is_partial and schema["type"] == "default":
            schema = schema["schema"]
        inner = self._node(schema)
        if self._is_converting:
            self.converting.add(name)
        if self._mode == "assign":
            inner = _function("wrap", functools.partial(_keep_field, name), inner)
        return {"type": "typed-dict-field", "schema": inner, "required": not is_partial and schema["type"] != "default"}

    def _node(self, schema: Schema) -> Schema:
        kind = schema["type"]
        if (cls := _class_of(schema)) is not None:
            # Instances pass as they are, and whatever else stands there is validated by their own class.
            if self._mode == "load":
                return {**_of_ref(schema), **_without_ref(self.whole(schema))}
            if kind in ("model", "dataclass"):
                return schema
            self._is_converting = True  # pydantic would run the model validators of an instance that is there already
            passing = _function("wrap", functools.partial(_pass_instance, cls), _without_ref(schema))
            return {**_of_ref(schema), **passing}
        if kind == "definition-ref" and self._definitions[schema["schema_ref"]]["type"] not in ("model", "dataclass"):
            self._is_converting = True  # its schema stands among the definitions, and may do so
        if kind == "json" and "schema" in schema:  # what was validated is text no more
            inner = self._part(schema["schema"])
            if self._mode != "assign":
                return {**_of_ref(schema), **_without_ref(inner)}
            self._is_converting = True
            return {"type": "union", "mode": "left_to_right", "choices": [{**schema, "schema": inner}, inner]}
        if kind.startswith("function-") and _is_authors(schema["function"]["function"]):
            return self._authors(kind, schema)
        is_container = kind in _CONTAINERS
        outside, self._within_container = self._within_container, self._within_container or is_container
        made = {key: self._part(value) if key in _PARTS else value for key, value in schema.items()}
        self._within_container = outside
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
        self._is_converting = self._is_converting or self._within_container
        if self._mode == "assign":
            inner = {**schema, "schema": self._part(schema["schema"])} if "schema" in schema else schema
            return {**_of_ref(schema), **_function("wrap", _keep_item, _without_ref(inner))}
        if kind == "function-before":  # what it returns was validated behind it
            return {**_of_ref(schema), **_without_ref(self._node(schema["schema"]))}
        if kind == "function-plain" or self._mode == "check":
            return {**_of_ref(schema), "type": "any"}
        self._inside += 1
        inner = self._node(schema["schema"])
        self._inside -= 1
        return {**_of_ref(schema), **_without_ref(inner)}


_CONTAINERS: Final = frozenset(
    {"list", "tuple", "set", "frozenset", "dict", "typed-dict", "named-tuple", "call", "json", "generator", "deque"}
)


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
    """Whether a validator is code of a class's author, and no part of a type itself."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return False  # `Sku`, which makes a Sku of a str
    if (getattr(function, "__module__", None) or "").partition(".")[0] in _TYPE_MAKERS:
        # These decode what they are given, or look whether a file is there.
        return getattr(function, "__qualname__", "").startswith(("EncodedBytes.", "EncodedStr.", "PathType."))
    owner = getattr(function, "__self__", None)
    is_types_own = isinstance(owner, type) and not issubclass(owner, BaseModel) and not dataclasses.is_dataclass(owner)
    return not is_types_own


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


def _keep_item(value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if _kept_now.get().take_item(value) else handler(value)


def _make(values: dict[str, Any]) -> Any:
    return _kept_now.get().make(values)


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
