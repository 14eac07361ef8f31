"""Revalidation: what changed in a model or dataclass is validated, and nothing is converted twice.

pydantic validates a value when it is put into a model, and never again by itself. A state's values change in place, so
they are validated when they are committed. Running a class's own validator over all of its fields would run its
converting validators again, on what these have made already: a hashed password would be hashed once more. So for each
class three further validators are made from its pydantic core schema:

- `assign` validates the fields that changed, with all of their validators, and takes what they held before as it is;
- `check` looks at the types of a new instance, whose validators ran when its author made it;
- `load` makes an instance of what a store has kept, and runs none of the author's code but `model_post_init`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast, overload
from weakref import WeakKeyDictionary

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic_core import SchemaValidator

from .core_schemas import Schema, core_schema_of, without_ref
from .kept_values import KeptValues, kept_now
from .rewriting import Mode, Rewriting


class Revalidation:
    """The validators of one class beside its own. Lifetime: the class. Each is made when it is first needed.

    They raise `ValidationError`.
    """

    def __init__(self, cls: type[Any], schema: Schema) -> None:
        self._cls = cls
        self._schema = schema

    @functools.cached_property
    def check(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Check the types of the values of all fields (and extras), by name."""
        return self._validator("check")

    def assign(self, values: Mapping[str, Any], kept: KeptValues) -> dict[str, Any]:
        """Validate the values of all fields (and extras), by name, but for those that are kept."""
        token = kept_now.set(kept)
        try:
            return self._assign(values)
        finally:
            kept_now.reset(token)

    @functools.cached_property
    def load(self) -> Callable[[Mapping[str, Any]], Any]:
        """Make an instance with these values (all or some, by name), which it held before."""
        return self._validator("load")

    @functools.cached_property
    def load_some(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Load some of the fields, without the defaults of all others."""
        return self._validator("load", is_partial=True)

    @functools.cached_property
    def sees_whole(self) -> bool:
        """True if the class has model validators that see an instance whose fields are validated."""
        return _model_validators(self._schema) is not None

    @functools.cached_property
    def look_at_whole(self) -> Callable[[Any], Any]:
        """Run the model validators that see an instance on one, and return theirs. Raises what they raise."""
        return SchemaValidator(cast(Any, _model_validators(self._schema) or {"type": "any"})).validate_python

    def _validator(self, mode: Mode, *, is_partial: bool = False) -> Callable[[Any], Any]:
        return SchemaValidator(Rewriting(mode, is_partial=is_partial).of(self._cls, self._schema)).validate_python

    @functools.cached_property
    def _assign(self) -> Callable[[Any], dict[str, Any]]:
        return SchemaValidator(self._assigning[0]).validate_python

    @functools.cached_property
    def _assigning(self) -> tuple[Any, Rewriting]:
        rewriting = Rewriting("assign")
        return rewriting.of(self._cls, self._schema), rewriting

    @property
    def converting_fields(self) -> set[str]:
        """The fields in which code of the author's may convert parts of the value, such as a list's items."""
        return self._assigning[1].converting

    @property
    def authored_fields(self) -> set[str]:
        """The fields that code of the author's looks at, and may change what it is given."""
        return self._assigning[1].authored


_known: WeakKeyDictionary[type, Revalidation | None] = WeakKeyDictionary()


@overload
def revalidation_of(cls: type[BaseModel]) -> Revalidation: ...
@overload
def revalidation_of(cls: type[Any]) -> Revalidation | None: ...
def revalidation_of(cls: type[Any]) -> Revalidation | None:
    """Find the validators of a model or dataclass; None for a dataclass with a type that pydantic does not know."""
    if cls not in _known:
        _known[cls] = _made_for(cls)
    return _known[cls]


def _made_for(cls: type[Any]) -> Revalidation | None:
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__:
            cls.model_rebuild()
        return Revalidation(cls, dict(cls.__pydantic_core_schema__))
    try:
        return Revalidation(cls, core_schema_of(TypeAdapter(cls)))
    except (PydanticUserError, NameError):  # a type that pydantic does not know, or that is local to a function
        return None


def _model_validators(schema: Schema) -> Schema | None:
    """Make a schema of the model validators around a class's schema, for an instance; None where there are none."""
    if schema["type"] == "definitions":
        own = schema["schema"]
        if own["type"] == "definition-ref":
            own = next(found for found in schema["definitions"] if found.get("ref") == own["schema_ref"])
        return _model_validators(own)
    if not schema["type"].startswith("function-") or "schema" not in schema:
        return None
    return {**without_ref(schema), "schema": _model_validators(schema["schema"]) or {"type": "any"}}
