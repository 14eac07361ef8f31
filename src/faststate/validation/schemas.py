"""Validators whose cost is bounded: what a client sends is checked with no more work than its size allows.

Pydantic collects every error that a value has, tries every member of a union, and builds sets of members whose hashes
the client chose. A quarter of a megabyte can so cost seconds and gigabytes. `bounded` makes, from pydantic's own schema
of a type, a validator that accepts the same values and

- stops at the first wrong item of a collection;
- counts its work in units, and stops when they are used up (`TooMuchWork`);
- refuses sets and dicts with many keys that have one hash;
- refuses numbers that take seconds to be shown or compared.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError, SchemaValidator, from_json

from ..wire.values import depth_of
from .scalars import MAX_DIGITS

__all__ = ["TooMuchWork", "Unfit", "Validator", "bounded", "first_problem", "runs_own_code", "work_of"]

_MAX_JSON_DEPTH: Final = 32
"""Levels of nesting in a string that is read as JSON; as `StateProvider(max_depth=)` has it for the payload."""

_MAX_ALIKE: Final = 32
"""Different keys of one hash that are accepted. Sixteen floats may share one by chance, ints and UUIDs never do."""

_HASH_MODULUS: Final = 2**61 - 1  # sys.hash_info.modulus on 64 bits: smaller ints have hashes of their own
_SHOWN: Final = 100
"""Most errors that are turned into Python objects, in order to show one of them."""


class TooMuchWork(Exception):
    """Raised through pydantic when a validation has used up its work, with the field's name as argument.

    It is not a ValueError, which pydantic would collect.
    """


class Validator(Protocol):
    """Checks a value: returns what it is converted to, or raises `ValidationError`."""

    def __call__(self, value: Any, /) -> Any: ...


class _Work(threading.local):
    """Counts what is left of the running validation's work, in units. Lifetime: the thread."""

    left: int = 0
    seen: dict[int, Any] | None = None
    """A key of each hash, where keys could be chosen to have the same one."""
    alike: dict[int, list[Any]] | None = None


_work = _Work()


class work_of:
    """`with work_of(units):` bounds what is validated inside, in this thread. A unit is some 10 to 30 ns."""

    __slots__ = ("_before", "_units")

    def __init__(self, units: int) -> None:
        self._units = units

    def __enter__(self) -> None:
        self._before = (_work.left, _work.seen, _work.alike)  # a validator of the app's may have begun another one
        _work.left, _work.seen, _work.alike = self._units, None, None

    def __exit__(self, *_: object) -> None:
        _work.left, _work.seen, _work.alike = self._before


def first_problem(error: ValidationError) -> tuple[str, tuple[int | str, ...], str]:
    """The first problem of an error: its type, its place and pydantic's message without the value.

    An error with very many problems is not turned into Python objects: the type is "many" then.
    """
    count = error.error_count()
    if count > _SHOWN:
        return "many", (), f"{count} of its values do not fit"
    problem = error.errors(include_url=False, include_input=False, include_context=True)[0]
    message = problem["msg"]
    context = problem.get("ctx", {})
    if problem["type"] == "union_tag_invalid":  # pydantic's own words repeat the tag
        message = f"{context.get('discriminator')} should be one of {context.get('expected_tags')}"
    return problem["type"], problem["loc"], message


# -- what stands in the schema -----------------------------------------------------------------------------------------

_COLLECTIONS: Final = frozenset(
    {"list", "deque", "tuple", "set", "frozenset", "dict", "frozendict", "ordered-dict", "counter"}
)
_HASHED: Final = {
    "set": "items_schema",
    "frozenset": "items_schema",
    "dict": "keys_schema",
    "frozendict": "keys_schema",
    "ordered-dict": "keys_schema",
    "counter": "keys_schema",
}
_RECORDS: Final = frozenset({"model", "dataclass", "typed-dict", "named-tuple", "call"})
_FIELDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict", "named-tuple", "arguments", "arguments-v3"})
_OWN_HASH: Final = frozenset(
    {"str", "bytes", "bool", "none", "literal", "enum", "date", "time", "datetime", "timedelta", "url"}
)
"""Types of which nobody can choose many values with one hash: the hash is keyed, or the values are few."""

_OTHERS_WITH_BOUNDS: Final = frozenset({"generator", "json", "decimal", "complex", "definition-ref"})
_UNITS: Final = {
    "int": 1, "str": 1, "bool": 1, "float": 1, "any": 1, "none": 1, "literal": 1, "is-instance": 1, "fraction": 150,
}  # fmt: skip
_UNITS_OF_OTHERS: Final = 6
_CHILDREN: Final = (
    "schema", "items_schema", "keys_schema", "values_schema", "lax_schema", "strict_schema", "json_schema",
    "python_schema", "arguments_schema", "extras_schema", "extras_keys_schema", "var_args_schema", "var_kwargs_schema",
    "choices", "fields", "steps", "definitions",
)  # fmt: skip
"""Where a schema holds others that take part in validation; "serialization" does not."""

_SIZED: Final = frozenset({list, tuple, dict, set, frozenset, deque, Counter})


def _children(schema: Any) -> list[dict[str, Any]]:
    """The schemas directly inside `schema`, which may be a list or a mapping of them as well."""
    if isinstance(schema, dict):
        inside = [schema[name] for name in _CHILDREN if name in schema]
        if not isinstance(schema.get("type"), str):
            inside = list(schema.values())  # fields or choices by name
    else:
        inside = [item[0] if isinstance(item, tuple) else item for item in schema]
    found = []
    for child in inside:
        if isinstance(child, dict) and isinstance(child.get("type"), str):
            found.append(child)
        elif isinstance(child, dict | list):
            found += _children(child)
    return found


def _any(schema: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> bool:
    return holds(schema) or any(_any(child, holds) for child in _children(schema))


def _fields_inside(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the fields of a model, a dataclass or the like."""
    while schema["type"] not in _FIELDS:
        inside = schema.get("schema", schema.get("arguments_schema"))
        if inside is None:
            break
        schema = inside
    return schema


def _is_own_code(schema: dict[str, Any]) -> bool:
    kind = schema["type"]
    return (
        kind.startswith("function-")
        or kind == "callable"
        or bool(schema.get("default_factory") or schema.get("custom_init") or schema.get("post_init"))
        or (kind == "tagged-union" and callable(schema["discriminator"]))
    )


def runs_own_code(adapter: TypeAdapter[Any]) -> bool:
    """Tells whether validation calls functions written in Python, such as the app's own validators."""
    return _any(_schema_of(adapter), _is_own_code)


def _schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    schema: Any = adapter.core_schema
    return schema  # type: ignore[no-any-return]  # a union of TypedDicts, which is read as a plain dict here


def _is_fraction(schema: dict[str, Any]) -> bool:
    if schema["type"] == "function-plain":  # before pydantic 2.14
        return getattr(schema["function"]["function"], "__name__", "") == "fraction_validator"
    return bool(schema["type"] == "fraction")


def _needs_bounds(schema: dict[str, Any]) -> bool:
    kind = schema["type"]
    return kind in _COLLECTIONS or kind in _RECORDS or kind in _OTHERS_WITH_BOUNDS or _is_fraction(schema)


def bounded(adapter: TypeAdapter[Any]) -> Validator | None:
    """The validator of `adapter`, a TypedDict, with bounds; None where all that it validates is cheap.

    Call it inside `work_of(units)`. It raises `TooMuchWork`, and `Unfit` for the first field that does not fit.
    """
    schema = _schema_of(adapter)
    top = schema["schema"] if schema["type"] == "definitions" else schema
    if not any(_any(field["schema"], _needs_bounds) for field in _children(top)):
        return None
    return _Bounding(schema).validator(schema, top)


class Unfit(Exception):
    """Raised through pydantic: the value of the field `name` does not fit, for the reasons in `error`."""

    def __init__(self, name: str, error: ValidationError) -> None:
        self.name = name
        self.error = error


# -- the rewriting of a schema -----------------------------------------------------------------------------------------


def _can_rebuild() -> bool:
    """Tells whether pydantic builds the insides of a model from the given schema, and not from the model's own."""
    try:
        SchemaValidator({"type": "any"}, None, _use_prebuilt=False)
    except TypeError:  # before pydantic 2.13
        return False
    return True


_CAN_REBUILD: Final = _can_rebuild()


def _build(schema: dict[str, Any]) -> Validator:
    make: Any = SchemaValidator
    made = make(schema, None, _use_prebuilt=False) if _CAN_REBUILD else make(schema)
    validate: Validator = made.validate_python
    return validate


def _wrap(how: str, function: Callable[..., Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with `function` before it, after it or around it (`how`)."""
    outer = {"type": f"function-{how}", "function": {"type": "no-info", "function": function}}
    if "ref" in schema:
        outer["ref"] = schema["ref"]
        schema = {name: value for name, value in schema.items() if name != "ref"}
    return {**outer, "schema": schema}


class _Bounding:
    """Rewrites the schema of one type. Lifetime: the call of `bounded`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions: dict[str, dict[str, Any]] = {}
        self._weighing: set[str] = set()
        self._is_only_way = True
        """Tells whether what is being rewritten has to fit: another member of a union may fit as well."""
        _any(schema, self._define)

    def _define(self, schema: dict[str, Any]) -> bool:
        if "ref" in schema:
            self._definitions[schema["ref"]] = schema
        return False

    def validator(self, schema: dict[str, Any], top: dict[str, Any]) -> Validator:
        made = self._with_children(top)
        made["fields"] = {
            name: {**field, "schema": _wrap("wrap", _named(name), field["schema"])}
            for name, field in made["fields"].items()
        }
        if schema is not top:
            self._is_only_way = False  # any of them may be a member of a union
            made = {"type": "definitions", "schema": made, "definitions": self._inside(schema["definitions"])}
        return _build(made)

    def _rewrite(self, schema: dict[str, Any]) -> dict[str, Any]:
        kind = schema["type"]
        if kind == "json":
            return self._json(schema)
        before = self._is_only_way
        self._is_only_way = before and kind not in ("union", "function-wrap")
        made = self._with_children(schema)
        self._is_only_way = before
        if kind == "generator":
            # Pydantic would check the items one by one, while the event's body takes them.
            made["type"] = kind = "list"
        if kind in _COLLECTIONS:
            made["fail_fast"] = True
            keys = _HASHED.get(kind)
            if keys is not None and not self._has_own_hash(made.get(keys, {"type": "any"})):
                made[keys] = _wrap("after", _note_key, made.get(keys, {"type": "any"}))
            least = self._least_of_item(schema) if self._is_only_way else 0
            return _wrap("before", _spender(6, self._weight_of_item(schema), least=least), made)
        if kind in _RECORDS:
            return self._record(schema, made)
        if kind == "union":
            made["choices"] = [
                new if isinstance(new, tuple) else (new, self._label(old))
                for old, new in zip(schema["choices"], made["choices"], strict=True)
            ]
            if "custom_error_type" not in made and _any(schema, lambda s: s["type"] == "definition-ref"):
                # The errors of all members, at all levels of a recursive type, could be more than memory holds.
                made["custom_error_type"] = "no_member_fits"
                made["custom_error_message"] = f"Input fits none of {', '.join(label for _, label in made['choices'])}"
        elif kind == "decimal":
            return _wrap("after", _check_decimal, made)
        elif _is_fraction(schema):
            return _wrap("before", _check_fraction, made)
        elif kind == "complex":
            return _wrap("before", _check_complex, made)
        return made

    def _with_children(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {name: self._inside(value) if name in _CHILDREN else value for name, value in schema.items()}

    def _inside(self, value: Any) -> Any:
        """As `_children`: what is directly inside, rewritten."""
        if isinstance(value, dict):
            if isinstance(value.get("type"), str):
                return self._rewrite(value)
            return {name: self._inside(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._inside(item) for item in value]
        return (self._inside(value[0]), *value[1:]) if isinstance(value, tuple) else value

    def _json(self, schema: dict[str, Any]) -> dict[str, Any]:
        inner = schema.get("schema", {"type": "any"})
        if _any(inner, lambda s: bool(s.get("strict") or s.get("config", {}).get("strict"))):
            # Strict types take other values from JSON than from Python, so that pydantic has to read it itself.
            return _wrap("before", _check_strict_json, schema)
        made = _wrap("before", _read_json, self._rewrite(inner))
        return {**made, "ref": schema["ref"]} if "ref" in schema else made

    def _record(self, schema: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
        inner = _fields_inside(schema)
        config = {**schema.get("config", {}), **inner.get("config", {})}
        extra = inner.get("extra_behavior", config.get("extra_fields_behavior"))
        most = None
        if extra == "forbid" or inner["type"] in ("named-tuple", "arguments"):
            most = 2 * len(_children(inner)) + 16  # a field may be known by its name and by aliases
        units = self._weight_of_record(schema)
        if schema.get("custom_init") or not _CAN_REBUILD:
            # Its own `__init__` validates by the class's own schema, in which nothing is counted.
            return _wrap("before", _whole_spender(units, self._most_members(schema)), made)
        return _wrap("before", _spender(units, 2, most), made)

    def _most_members(self, schema: dict[str, Any]) -> int:
        """Members of the largest union of a recursive type: so many ways there are to read each level of a value."""
        found = [1]
        is_recursive = _any(schema, lambda s: s["type"] == "definition-ref")

        def count(inside: dict[str, Any]) -> bool:
            if inside["type"] == "union":
                found.append(len(inside["choices"]))
            return False

        if is_recursive:
            _any(schema, count)
        return max(found)

    # How much work one attempt to validate a value takes; what collections and records hold is counted when they come.

    def _weight(self, schema: dict[str, Any]) -> int:
        kind = schema["type"]
        if kind == "definition-ref":
            return self._weight_of_definition(schema["schema_ref"])
        if kind in _COLLECTIONS or kind in _RECORDS or kind in ("generator", "json"):
            return 6
        children = _children(schema)
        if kind == "union":
            return 3 + sum(4 + self._weight(child) for child in children)
        own = 0
        if kind == "default":
            default = schema.get("default")
            own = 10 if "default_factory" in schema else 0 if default.__hash__ else 25 + 10 * _values_in(default)
        elif kind.startswith("function-"):
            own = 10
        elif not children:
            own = _UNITS.get(kind, _UNITS_OF_OTHERS)
        return own + sum(map(self._weight, children))

    def _weight_of_definition(self, ref: str) -> int:
        if ref in self._weighing:
            return 6
        self._weighing.add(ref)
        try:
            return self._weight(self._definitions[ref])
        finally:
            self._weighing.discard(ref)

    def _weight_of_record(self, schema: dict[str, Any]) -> int:
        return 40 + sum(1 + self._weight(child) for child in _children(_fields_inside(schema)))

    def _least(self, schema: dict[str, Any]) -> int:
        """The least that a valid value takes, with what is counted when the value comes."""
        kind = schema["type"]
        if kind == "definition-ref":
            return self._least(self._definitions[schema["schema_ref"]]) if not self._weighing else 1
        if kind in _RECORDS:
            return self._weight_of_record(schema)
        if kind in ("union", "tagged-union"):
            self._weighing.add("")  # members may be recursive
            try:
                return min(map(self._least, _children(schema)), default=1)
            finally:
                self._weighing.discard("")
        return 1

    def _least_of_item(self, schema: dict[str, Any]) -> int:
        if schema["type"] == "tuple":
            return min(map(self._least, _children(schema)), default=1)
        return sum(map(self._least, _children(schema)))

    def _weight_of_item(self, schema: dict[str, Any]) -> int:
        children = _children(schema)
        if schema["type"] == "tuple":
            return max(map(self._weight, children), default=1)
        return 1 + sum(map(self._weight, children))

    def _label(self, schema: dict[str, Any]) -> str:
        """Names a union's member in the place of an error."""
        if schema["type"] == "definition-ref":
            return self._label(self._definitions[schema["schema_ref"]])
        if "cls" in schema:
            return str(schema["cls"].__name__)
        return self._label(schema["schema"]) if isinstance(schema.get("schema"), dict) else str(schema["type"])

    def _has_own_hash(self, schema: dict[str, Any]) -> bool:
        kind = schema["type"]
        if kind in ("union", "nullable", "default"):
            return all(map(self._has_own_hash, _children(schema)))
        return kind in _OWN_HASH


# -- what is called by pydantic ----------------------------------------------------------------------------------------


def _named(name: str) -> Callable[[Any, Callable[[Any], Any]], Any]:
    def named(value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            raise Unfit(name, error) from None
        except TooMuchWork:
            raise TooMuchWork(name) from None

    return named


def _spend(units: int) -> None:
    left = _work.left = _work.left - units
    if left < 0:
        raise TooMuchWork


def _spender(units: int, units_of_item: int, most: int | None = None, least: int = 0) -> Callable[[Any], Any]:
    """Takes the work of validating a collection or a record, before that begins. `most` keys can be in it.

    With items that take at `least` so many units each, a collection that cannot be finished is not begun.
    """
    work, sized = _work, _SIZED

    def spend(value: Any) -> Any:
        left = work.left - units
        if type(value) in sized:
            left -= units_of_item * len(value)
            if most is not None and len(value) > most:
                raise PydanticCustomError("too_many_fields", "Input has fields that are not known")
            if least * len(value) > left:
                work.left = -1
                raise TooMuchWork
        work.left = left
        if left < 0:
            raise TooMuchWork
        return value

    return spend


def _whole_spender(units: int, members: int) -> Callable[[Any], Any]:
    """As `_spender`, for a record whose insides pydantic validates by another schema, in which nothing is counted.

    Each of the containers inside may have many errors, and each level be read in as many ways as a union has `members`.
    """

    def spend(value: Any) -> Any:
        if type(value) in _SIZED:
            containers, depth = _containers_in(value)
            _spend(units + 20 * len(value) + 600 * (containers - 1) + members**depth)
        return value

    return spend


def _containers_in(value: Any) -> tuple[int, int]:
    """The number of plain containers in a tree, itself included, and of their levels."""
    count, depth, level = 0, 0, [value]
    while level := [item for item in level if type(item) in _SIZED]:
        count += len(level)
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return count, depth


def _values_in(value: Any) -> int:
    """The number of values in a default, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(_values_in, value.values()))
    return 1 + sum(map(_values_in, value)) if type(value) in _SIZED else 1


def _note_key(key: Any) -> Any:
    """Refuses one key too many of those that are different and have the same hash."""
    kind = type(key)
    if kind is str or (kind is int and -_HASH_MODULUS < key < _HASH_MODULUS):
        return key
    try:
        own = hash(key)
    except TypeError:
        return key  # pydantic says so itself
    seen = _work.seen
    if seen is None:
        seen, _work.alike = {}, {}
        _work.seen = seen
    first = seen.setdefault(own, key)
    if first is not key and first != key and _work.alike is not None:
        others = _work.alike.setdefault(own, [])
        if key not in others:
            if len(others) >= _MAX_ALIKE:
                raise TooMuchWork
            others.append(key)
    return key


def _read_json(text: Any) -> Any:
    if not isinstance(text, str | bytes | bytearray):
        raise PydanticKnownError("json_type")
    comma, bracket, brace = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    brackets = text.count(bracket) + text.count(brace)  # type: ignore[arg-type]  # of the same type as the text
    _spend(3 * (text.count(comma) + brackets))  # type: ignore[arg-type]
    try:
        value = from_json(text, cache_strings=False)
    except ValueError as error:
        raise PydanticKnownError("json_invalid", {"error": str(error)}) from None
    if brackets > _MAX_JSON_DEPTH and depth_of(value) > _MAX_JSON_DEPTH:
        raise PydanticCustomError("json_depth", f"JSON should be nested at most {_MAX_JSON_DEPTH} levels deep")
    return value


_MAX_STRICT_JSON: Final = 10_000
"""Characters of a string that is read as JSON for strict types: pydantic keeps it once for each error."""


def _check_strict_json(text: Any) -> Any:
    if isinstance(text, str | bytes | bytearray) and len(text) > _MAX_STRICT_JSON:
        raise PydanticCustomError("json_size", f"JSON should have at most {_MAX_STRICT_JSON} characters")
    return text


def _check_decimal(value: Any) -> Any:
    """Refuses a Decimal that would take seconds, or gigabytes, as `f"{price:.2f}"` or `int(price)`."""
    if isinstance(value, Decimal) and not -MAX_DIGITS < value.adjusted() < MAX_DIGITS:
        raise PydanticCustomError("decimal_size", f"Decimal input should have at most {MAX_DIGITS} digits")
    return value


def _check_complex(value: Any) -> Any:
    """Makes a float of a long int, at which pydantic panics before 2.13."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            raise PydanticCustomError(
                "complex_size", "Complex input should be a number that a float can hold"
            ) from None
    return value


def _check_fraction(value: Any) -> Any:
    """Refuses text that has too many digits, or an exponent that makes so many."""
    if isinstance(value, str):
        exponent = value.lower().partition("e")[2].strip().lstrip("+-").lstrip("0")
        if len(value) > MAX_DIGITS or len(exponent) > 4 or (exponent.isdecimal() and int(exponent) > MAX_DIGITS):
            raise PydanticCustomError("fraction_size", f"Fraction input should have at most {MAX_DIGITS} digits")
    return value
