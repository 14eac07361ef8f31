"""Validators whose cost is bounded: what a client sends is checked with no more work than its size allows.

Pydantic collects every error that a value has, tries every member of a union, and builds sets of members whose hashes
the client chose. So a payload of a quarter of a megabyte can cost seconds and gigabytes. `bounded` makes, from
pydantic's own schema of a type, a validator that accepts the same values and

- stops at the first wrong item of a collection;
- counts its work in units, and stops when they are used up (`TooMuchWork`);
- refuses sets and dicts with many keys that have one hash;
- refuses numbers that take seconds to be shown or compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from .._compat.pydantic import build_validator, is_fraction, rebuilds_models
from ..redaction import message_of, too_many
from .core_schemas import PARTS, Schema, all_parts, around, core_schema_of, parts_of, rewrite
from .work import (
    SIZED,
    TooMuchWork,
    check_complex,
    check_decimal,
    check_fraction,
    check_strict_json,
    note_key,
    read_json,
    spender,
    whole_spender,
)


class Unfit(Exception):
    """Raised through pydantic: the value of the field `name` does not fit, for the reasons in `error`."""

    def __init__(self, name: str, error: ValidationError) -> None:
        self.name = name
        self.error = error


def first_problem(error: ValidationError) -> tuple[str, tuple[int | str, ...], str]:
    """Read an error's first problem: type, place and message without a value; "many" is the type of too many."""
    if (message := too_many(error)) is not None:
        return "many", (), message
    problem = error.errors(include_url=False, include_input=False)[0]
    return problem["type"], problem["loc"], message_of(problem)


# -- what stands in a schema ------------------------------------------------------------------------------------------

_COLLECTIONS: Final = frozenset(
    {"list", "deque", "tuple", "set", "frozenset", "dict", "frozendict", "ordered-dict", "counter"}
)
_HASHED: Final = dict.fromkeys(("set", "frozenset"), "items_schema") | dict.fromkeys(
    ("dict", "frozendict", "ordered-dict", "counter"), "keys_schema"
)
_RECORDS: Final = frozenset({"model", "dataclass", "typed-dict", "named-tuple", "call"})
_FIELDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict", "named-tuple", "arguments", "arguments-v3"})
_OWN_HASH: Final = frozenset(
    {"str", "bytes", "bool", "none", "literal", "enum", "date", "time", "datetime", "timedelta", "url"}
)
"""Types whose values nobody can choose to have one hash: the hash is keyed, or the values are few."""

_BOUNDED: Final = _COLLECTIONS | _RECORDS | {"generator", "json", "decimal", "complex", "definition-ref"}
_UNITS: Final = {
    "int": 1, "str": 1, "bool": 1, "float": 1, "any": 1, "none": 1, "literal": 1, "is-instance": 1, "fraction": 150,
}  # fmt: skip
_UNITS_OF_OTHERS: Final = 6


def _fields_inside(schema: Schema) -> Schema:
    """Find the schema that has the fields of a model, a dataclass or the like."""
    while schema["type"] not in _FIELDS:
        inside = schema.get("schema", schema.get("arguments_schema"))
        if inside is None:
            break
        schema = inside
    return schema


def _is_recursive(schema: Schema) -> bool:
    return any(part["type"] == "definition-ref" for part in all_parts(schema))


# -- the rewriting of a schema -----------------------------------------------------------------------------------------


def _values_in(value: Any) -> int:
    """Count the values in a default, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(_values_in, value.values()))
    return 1 + sum(map(_values_in, value)) if type(value) in SIZED else 1


class _Bounding:
    """Rewrites the schema of one type. Lifetime: the call of `bounded`."""

    def __init__(self, schema: Schema) -> None:
        self._definitions = {part["ref"]: part for part in all_parts(schema) if "ref" in part}
        self._is_only_way = True  # a value that does not fit the part at hand fits nothing else either

    def validator(self, schema: Schema, top: Schema) -> Callable[[Any], Any]:
        made = self._with_parts(top)
        made["fields"] = {
            name: {**field, "schema": around("wrap", _named(name), field["schema"])}
            for name, field in made["fields"].items()
        }
        if schema is not top:
            self._is_only_way = False  # any of the definitions may be a member of a union
            made = {"type": "definitions", "schema": made, "definitions": rewrite(schema["definitions"], self._rewrite)}
        return build_validator(made)

    def _rewrite(self, schema: Schema) -> Schema:
        kind = schema["type"]
        if kind == "json":
            return self._json(schema)
        before = self._is_only_way
        self._is_only_way = before and kind not in ("union", "function-wrap")
        made = self._with_parts(schema)
        self._is_only_way = before
        if kind == "generator":
            # Pydantic would check the items one by one, while the event's body takes them.
            made["type"] = kind = "list"
        if kind in _COLLECTIONS:
            made["fail_fast"] = True
            keys = _HASHED.get(kind)
            if keys is not None and not self._has_own_hash(made.get(keys, {"type": "any"})):
                made[keys] = around("after", note_key, made.get(keys, {"type": "any"}))
            least = self._least_of_item(schema) if self._is_only_way else 0
            return around("before", spender(6, self._weight_of_item(schema), least=least), made)
        if kind in _RECORDS:
            return self._record(schema, made)
        if kind == "union":
            made["choices"] = [
                new if isinstance(new, tuple) else (new, self._label(old))
                for old, new in zip(schema["choices"], made["choices"], strict=True)
            ]
            if "custom_error_type" not in made and _is_recursive(schema):
                # The errors of all members, at all levels of a recursive type, could be more than memory holds.
                made["custom_error_type"] = "no_member_fits"
                made["custom_error_message"] = f"Input fits none of {', '.join(label for _, label in made['choices'])}"
        elif kind == "decimal":
            return around("after", check_decimal, made)
        elif is_fraction(schema):
            return around("before", check_fraction, made)
        elif kind == "complex":
            return around("before", check_complex, made)
        return made

    def _with_parts(self, schema: Schema) -> Schema:
        return {name: rewrite(value, self._rewrite) if name in PARTS else value for name, value in schema.items()}

    def _json(self, schema: Schema) -> Schema:
        inner = schema.get("schema", {"type": "any"})
        if any(part.get("strict") or part.get("config", {}).get("strict") for part in all_parts(inner)):
            # Strict types take other values from JSON than from Python, so that pydantic has to read it itself.
            return around("before", check_strict_json, schema)
        made = around("before", read_json, self._rewrite(inner))
        return {**made, "ref": schema["ref"]} if "ref" in schema else made

    def _record(self, schema: Schema, made: Schema) -> Schema:
        inner = _fields_inside(schema)
        config = {**schema.get("config", {}), **inner.get("config", {})}
        extra = inner.get("extra_behavior", config.get("extra_fields_behavior"))
        most = None
        if extra == "forbid" or inner["type"] in ("named-tuple", "arguments"):
            most = 2 * len(parts_of(inner)) + 16  # a field may be known by its name and by aliases
        units = self._weight_of_record(schema)
        if schema.get("custom_init") or not rebuilds_models:
            # Its own `__init__` validates by the class's own schema, in which nothing is counted.
            # Each level of a recursive value can be read in as many ways as its largest union has members.
            unions = [len(part["choices"]) for part in all_parts(schema) if part["type"] == "union"]
            members = max(unions, default=1) if _is_recursive(schema) else 1
            return around("before", whole_spender(units, members), made)
        return around("before", spender(units, 2, most), made)

    def _weight(self, schema: Schema, inside: frozenset[str] = frozenset()) -> int:
        """Return the units of one attempt to validate a value, but for the values in collections and records."""
        kind = schema["type"]
        if kind == "definition-ref":
            ref = schema["schema_ref"]
            return 6 if ref in inside else self._weight(self._definitions[ref], inside | {ref})
        if kind in _COLLECTIONS or kind in _RECORDS or kind in ("generator", "json"):
            return 6
        parts = [self._weight(part, inside) for part in parts_of(schema)]
        if kind == "union":
            return 3 + sum(4 + part for part in parts)
        own = 0
        if kind == "default":
            default = schema.get("default")
            own = 10 if "default_factory" in schema else 0 if default.__hash__ else 25 + 10 * _values_in(default)
        elif kind.startswith("function-"):
            own = 10
        elif not parts:
            own = _UNITS.get(kind, _UNITS_OF_OTHERS)
        return own + sum(parts)

    def _weight_of_record(self, schema: Schema) -> int:
        """Return the work of a model or the like, without the values in its fields."""
        return 40 + sum(1 + self._weight(part) for part in parts_of(_fields_inside(schema)))

    def _weight_of_item(self, schema: Schema) -> int:
        """Return the most work of one item of this collection."""
        parts = [self._weight(part) for part in parts_of(schema)]
        return max(parts, default=1) if schema["type"] == "tuple" else 1 + sum(parts)

    def _least(self, schema: Schema, inside: frozenset[str] = frozenset()) -> int:
        """Return the fewest units that a valid value takes."""
        kind = schema["type"]
        if kind == "definition-ref":
            ref = schema["schema_ref"]
            return 1 if ref in inside else self._least(self._definitions[ref], inside | {ref})
        if kind in _RECORDS:
            return self._weight_of_record(schema)
        if kind in ("union", "tagged-union"):
            return min((self._least(part, inside) for part in parts_of(schema)), default=1)
        return 1

    def _least_of_item(self, schema: Schema) -> int:
        """Return the fewest units that a valid item of this collection takes."""
        least = [self._least(part) for part in parts_of(schema)]
        return min(least, default=1) if schema["type"] == "tuple" else sum(least)

    def _label(self, schema: Schema) -> str:
        """Name a union's member, for the place of an error."""
        if schema["type"] == "definition-ref":
            return self._label(self._definitions[schema["schema_ref"]])
        if "cls" in schema:
            return str(schema["cls"].__name__)
        return self._label(schema["schema"]) if isinstance(schema.get("schema"), dict) else str(schema["type"])

    def _has_own_hash(self, schema: Schema) -> bool:
        kind = schema["type"]
        if kind in ("union", "nullable", "default"):
            return all(map(self._has_own_hash, parts_of(schema)))
        return kind in _OWN_HASH


def _named(name: str) -> Callable[[Any, Callable[[Any], Any]], Any]:
    def named(value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            raise Unfit(name, error) from None
        except TooMuchWork:
            raise TooMuchWork(name) from None

    return named


def bounded(adapter: TypeAdapter[Any]) -> Callable[[Any], Any] | None:
    """Make the validator of `adapter`, a TypedDict, with bounds; None where all that it validates is cheap.

    Call it inside `work_of(units)`. It raises `TooMuchWork`, and `Unfit` for the first field that does not fit.
    """
    schema = core_schema_of(adapter)
    top = schema["schema"] if schema["type"] == "definitions" else schema
    parts = [part for field in parts_of(top) for part in all_parts(field["schema"])]
    if not any(part["type"] in _BOUNDED or is_fraction(part) for part in parts):
        return None
    return _Bounding(schema).validator(schema, top)


def runs_own_code(adapter: TypeAdapter[Any]) -> bool:
    """True if validation calls functions written in Python, such as the app's own validators."""
    return any(
        schema["type"].startswith("function-")
        or schema["type"] == "callable"
        or schema.get("default_factory")
        or schema.get("custom_init")
        or schema.get("post_init")
        or (schema["type"] == "tagged-union" and callable(schema["discriminator"]))
        for schema in all_parts(core_schema_of(adapter))
    )
