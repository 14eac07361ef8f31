"""Rewriting a class's core schema: into one that validates what changed, looks at types, or loads what was stored.

See `revalidation` for what each of the three is for.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Container, Iterable
from typing import Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainValidator, RootModel, WrapValidator
from typing_extensions import is_typeddict

from .._compat.pydantic import converts, model_validator_modes, put_extra, put_fields_set, put_private, put_values
from .annotations import fields_in
from .core_schemas import PARTS, Schema, around, function, rewrite, with_ref_of, without_ref
from .kept_values import in_choice, in_union, keep_field, keep_item

Mode = Literal["assign", "check", "load"]

ROLES: Final = {
    ("", "items_schema"): "i",
    ("", "keys_schema"): "k",
    ("", "values_schema"): "v",
    ("typed-dict", "fields"): "v",
    ("named-tuple", "fields"): "i",
    ("call", "arguments_schema"): "i",
}
"""The role of a container's part: an item, a key, or a value, by the container's type in a core schema ("" for any) and
the part's key there. The role of a value within its field is one letter for each container around it."""

_CONSTRAINTS: Final = frozenset(
    {
        "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places",
        "now_op", "tz_constraint", "microseconds_precision_not",
    }
)  # fmt: skip


class Rewriting:
    """Rewrites a class's core schema into that of one validator. Lifetime: until that is made.

    `converting` collects the fields of `Revalidation.converting_fields`. `_inside` counts the author's validators
    around the place that is looked at: what these return has the type that is declared within them, and need not keep
    to its constraints.
    """

    def __init__(self, mode: Mode, *, is_partial: bool = False) -> None:
        self._mode = mode
        self._is_partial = is_partial
        self._definitions: dict[str, Schema] = {}
        self._written: Container[Any] = ()
        """The validators in the annotations of the class that is looked at."""
        self._inside = 0
        self._role = ""
        self._is_converting = self._is_authored = False
        self.converting: set[str] = set()
        self.authored: set[str] = set()

    def of(self, cls: type[Any], schema: Schema) -> Any:
        """Rewrite the schema of a class whose instance is not there yet."""
        outside, self._written = self._written, _validators_in(cls)
        made = self._whole(schema)
        self._written = outside
        return made

    def _whole(self, schema: Schema) -> Any:
        """Rewrite the schema of the class that is looked at, or of one in its fields."""
        kind = schema["type"]
        if kind == "definitions":
            definitions = schema["definitions"]
            self._definitions = {found["ref"]: found for found in definitions if "ref" in found}
            own = schema["schema"]
            if own["type"] == "definition-ref":
                own = without_ref(self._definitions[own["schema_ref"]])  # it stays among the definitions
            return {**schema, "schema": self._whole(own), "definitions": rewrite(definitions, self._node)}
        if kind.startswith("function-"):  # a model validator
            return self._whole(schema["schema"])
        return self._instance(schema) if kind in ("model", "dataclass") else self._node(schema)

    def _instance(self, schema: Schema) -> Schema:
        """Rewrite the schema of a model or dataclass into one for the dict of its fields."""
        outside, self._inside = self._inside, 0
        is_partial, self._is_partial = self._is_partial, False  # those of nested models are all there
        fields = self._fields(schema["schema"], schema, is_partial)
        self._inside = outside
        if is_partial or self._mode != "load":
            return fields
        return function("wrap", functools.partial(_load_instance, schema["cls"], "post_init" in schema), fields)

    def _fields(self, schema: Schema, owner: Schema, is_partial: bool) -> Schema:
        kind = schema["type"]
        fields: Iterable[tuple[str, Schema]]
        if kind == "function-before" and "before" in model_validator_modes(owner["cls"]):
            # A model validator that reads input. A value that is there already is not input.
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
            made["extras_schema"] = self._node(schema["extras_schema"])
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
            inner = function("wrap", functools.partial(keep_field, name), inner)
        return {"type": "typed-dict-field", "schema": inner, "required": not is_partial and schema["type"] != "default"}

    def _node(self, schema: Schema) -> Schema:
        kind = schema["type"]
        if (cls := _class_of(schema)) is not None:
            # Instances pass as they are, and whatever else stands there is validated by their own class.
            if self._mode == "load":
                return with_ref_of(schema, self.of(cls, schema))
            revalidates = schema.get("config", {}).get("revalidate_instances", "never") != "never"
            if kind in ("model", "dataclass") and not revalidates:
                return schema
            self._is_converting = True  # pydantic would run the model validators of an instance that is there already
            return around("wrap", functools.partial(_pass_instance, cls), schema)
        if kind == "definition-ref" and self._definitions[schema["schema_ref"]]["type"] not in ("model", "dataclass"):
            self._is_converting = True  # its schema stands among the definitions, and may do so
        if kind == "json":  # what was validated is text no more
            inner = self._node(schema.get("schema", {"type": "any"}))
            if self._mode != "assign":
                return with_ref_of(schema, inner)
            self._is_converting = True
            return {"type": "union", "mode": "left_to_right", "choices": [{**schema, "schema": inner}, inner]}
        if kind.startswith("function-") and _is_authors(schema["function"]["function"], self._written):
            return self._authors(kind, schema)
        outside, made = self._role, {}
        before, self._is_converting = self._is_converting, False
        for key, value in schema.items():
            self._role = outside + ROLES.get((kind, key), ROLES.get(("", key), ""))
            made[key] = rewrite(value, self._node) if key in PARTS else value
        self._role = outside
        if self._mode == "assign" and self._is_converting and kind in ("union", "tagged-union"):
            # Each member looks at the same items.
            choices = rewrite(made["choices"], functools.partial(function, "wrap", in_choice))
            made = around("wrap", in_union, {**made, "choices": choices})
        self._is_converting = self._is_converting or before
        if self._mode == "load" and (self._inside or "now_op" in made):  # what was in the future may be past by now
            made = {key: value for key, value in made.items() if key not in _CONSTRAINTS}
        return made

    def _authors(self, kind: str, schema: Schema) -> Schema:
        """Rewrite a validator that the class's author wrote."""
        self._is_authored = True
        self._is_converting = self._is_converting or self._role != ""
        if self._mode == "assign":
            inner = {**schema, "schema": self._node(schema["schema"])} if "schema" in schema else schema
            return around("wrap", functools.partial(keep_item, self._role), inner)
        if kind == "function-before":  # what it returns was validated behind it
            return with_ref_of(schema, self._node(schema["schema"]))
        if kind == "function-plain" or self._mode == "check":
            return with_ref_of(schema, {"type": "any"})
        self._inside += 1
        inner = self._node(schema["schema"])
        self._inside -= 1
        return with_ref_of(schema, inner)


def _class_of(schema: Schema) -> type[Any] | None:
    """Find the model or dataclass whose schema this is, within its own model validators; None for any other."""
    wrapped = 0
    while schema["type"].startswith("function-") and "schema" in schema:
        wrapped, schema = wrapped + 1, schema["schema"]
    if schema["type"] not in ("model", "dataclass"):
        return None
    cls: type[Any] = schema["cls"]
    return cls if wrapped <= sum(mode != "before" for mode in model_validator_modes(cls)) else None


# -- the code of a class's author --------------------------------------------------------------------------------------

_TYPE_MAKERS: Final = frozenset({"pydantic", "pydantic_extra_types", "pydantic_core"})


def _is_authors(function: Any, written: Container[Any]) -> bool:
    """True if a validator is code of a class's author: `written` in its annotations, or else not part of a type."""
    if function in written:
        return True
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type | operator.attrgetter):
        return False  # `Sku`, which makes a Sku of a str; and the values of an enum with use_enum_values
    if (getattr(function, "__module__", None) or "").partition(".")[0] in _TYPE_MAKERS:
        return converts(function)
    owner = getattr(function, "__self__", None)
    return not (isinstance(owner, type) and hasattr(owner, "__get_pydantic_core_schema__")) or issubclass(
        owner, BaseModel
    )


def _validators_in(cls: type[Any]) -> list[Any]:
    """Collect the functions of all validators in a class's annotations, but for those of classes inside it."""
    found: list[Any] = []
    seen: list[Any] = []
    waiting: list[Any] = [cls]
    while waiting:
        each = waiting.pop()
        if any(each is other for other in seen):
            continue
        seen.append(each)
        if isinstance(each, AfterValidator | BeforeValidator | PlainValidator | WrapValidator):
            found.append(each.func)
        waiting += (*get_args(each), getattr(each, "__value__", None), getattr(each, "__supertype__", None))
        if each is cls or (isinstance(each, type) and (is_typeddict(each) or hasattr(each, "_fields"))):
            for field in (fields_in(each) or {}).values():
                waiting += (field.annotation, *field.metadata)
    return found


# -- what the schemas call ---------------------------------------------------------------------------------------------


def _pass_instance(cls: type[Any], value: Any, handler: Callable[[Any], Any]) -> Any:
    """Take an instance of the class as it is, and validate anything else."""
    return value if isinstance(value, cls) else handler(value)


def _load_instance(cls: type[Any], has_post_init: bool, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Make an instance of what a store has kept, and run no code of the author's but `model_post_init`."""
    if isinstance(value, cls):
        return value
    values: dict[str, Any] = handler({"root": value} if issubclass(cls, RootModel) else value)
    made = object.__new__(cls)
    if not issubclass(cls, BaseModel):
        for name, each in values.items():
            object.__setattr__(made, name, each)
        return made
    names = cls.__pydantic_fields__
    fields = {name: each for name, each in values.items() if name in names}
    extra = {name: each for name, each in values.items() if name not in names}
    put_values(made, dict(fields))
    put_fields_set(made, set(fields))
    put_extra(made, extra if cls.model_config.get("extra") == "allow" else None)
    put_private(made, None)
    if has_post_init:
        made.model_post_init(None)  # for its private attributes
        put_values(made, fields)  # which are as they were, whatever it makes of new ones
    return made
