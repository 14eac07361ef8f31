"""Reading and rewriting pydantic's core schemas: plain dicts that say how a type is validated.

They are public: https://docs.pydantic.dev/latest/api/pydantic_core_schema/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic import TypeAdapter

Schema = dict[str, Any]
"""One core schema. Its "type" says which keys it has."""

PARTS: Final = frozenset(
    {
        "schema", "items_schema", "keys_schema", "values_schema", "lax_schema", "strict_schema", "json_schema",
        "python_schema", "extras_schema", "extras_keys_schema", "arguments_schema", "var_args_schema",
        "var_kwargs_schema", "choices", "steps", "definitions", "fields",
    }
)  # fmt: skip
"""The keys under which a schema holds others that take part in validation; "serialization" does not."""


def core_schema_of(adapter: TypeAdapter[Any]) -> Schema:
    """Return the core schema of a type as a plain dict."""
    schema: Any = adapter.core_schema
    return schema  # type: ignore[no-any-return]  # a union of TypedDicts, which is read as a plain dict here


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def parts_of(schema: Any) -> list[Schema]:
    """List the schemas directly inside `schema`, which may be a list or a mapping of them as well."""
    if _is_schema(schema):
        inside = [schema[name] for name in schema if name in PARTS]
    elif isinstance(schema, dict):
        inside = list(schema.values())  # fields or choices by name
    else:
        inside = [item[0] if isinstance(item, tuple) else item for item in schema]  # a union's member has a label
    found = []
    for part in inside:
        if _is_schema(part):
            found.append(part)
        elif isinstance(part, dict | list):
            found += parts_of(part)
    return found


def all_parts(schema: Schema) -> Iterator[Schema]:
    """Yield this schema and all that are inside it, at any depth."""
    yield schema
    for part in parts_of(schema):
        yield from all_parts(part)


def rewrite(part: Any, change: Callable[[Schema], Any]) -> Any:
    """Replace each schema directly inside `part`, which stands under one of the keys `PARTS`, by `change` of it."""
    if isinstance(part, dict):
        return change(part) if _is_schema(part) else {name: rewrite(item, change) for name, item in part.items()}
    if isinstance(part, list):
        return [rewrite(item, change) for item in part]
    return (rewrite(part[0], change), *part[1:]) if isinstance(part, tuple) else part


def function(how: str, call: Callable[..., Any], schema: Schema) -> Schema:
    """Make a schema that calls `call` before `schema`, after it or around it ("before", "after" or "wrap")."""
    return {"type": f"function-{how}", "function": {"type": "no-info", "function": call}, "schema": schema}


def around(how: str, call: Callable[..., Any], schema: Schema) -> Schema:
    """Like `function`, but references to `schema` refer to the outcome."""
    return with_ref_of(schema, function(how, call, without_ref(schema)))


def with_ref_of(schema: Schema, other: Schema) -> Schema:
    """Give `other` the name by which references know `schema`."""
    return {**other, "ref": schema["ref"]} if "ref" in schema else without_ref(other)


def without_ref(schema: Schema) -> Schema:
    """Drop the name by which references know `schema`."""
    return {key: value for key, value in schema.items() if key != "ref"} if "ref" in schema else schema
