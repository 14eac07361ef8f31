"""Mistakes in a state class, reported when it is made: a taken name, a guard that guards nothing, a bad `migrate`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from pydantic import BaseModel

from ..exceptions import EventDefinitionError
from .events import Event
from .views import View

__all__ = ["check_class"]

_OVERRIDABLE = frozenset({"migrate", "schema_version"})


def check_class(cls: type[BaseModel], own_names: AbstractSet[str], reserved: AbstractSet[str]) -> None:
    """Raise `EventDefinitionError` for what cannot work in a state class; make its own `__ft__` a view.

    `own_names` are the names that ReactiveState defines, `reserved` are these and the ones of a pydantic model.
    """
    for klass in cls.__mro__:
        # A mixin makes no state class of its own, and is checked wherever it is used. An event may be guarded.
        if klass is cls or not issubclass(klass, BaseModel):
            for name, value in list(vars(klass).items()):
                if not isinstance(value, Event):
                    _refuse_guard(f"{klass.__name__}.{name}", value)
    _check_schema_version(cls)
    for name, value in list(vars(cls).items()):
        if name == "__ft__" and isinstance(value, types.FunctionType):
            setattr(cls, name, View(value, name))
        elif (name in own_names and name not in _OVERRIDABLE) or (isinstance(value, Event | View) and name in reserved):
            raise _taken_name(cls, name)
    for name in (*inspect.get_annotations(cls), *cls.__private_attributes__):  # pydantic moved them from the class body
        if name in reserved and name not in _OVERRIDABLE and name != "model_config":
            raise _taken_name(cls, name)


def _taken_name(cls: type, name: str) -> EventDefinitionError:
    return EventDefinitionError(f"{cls.__name__}.{name} hides a name of ReactiveState: give it another name")


def _refuse_guard(where: str, value: Any) -> None:
    """Report a `@requires_auth` that guards nothing: only events can be reached by a client."""
    while value is not None:
        if "_auth_config" in getattr(value, "__dict__", {}):
            raise EventDefinitionError(f"@requires_auth on {where} guards nothing: it is not an event; add @event")
        inner = (getattr(value, name, None) for name in ("function", "wrapped", "fget", "__func__", "func"))
        value = next((found for found in inner if found is not None), None)


def _check_schema_version(cls: type) -> None:
    """Report a mistake for which every stored state of the class would be put aside."""
    own, declared = vars(cls), inspect.get_annotations(cls).get("schema_version", ClassVar)
    if "ClassVar" not in str(declared) or ("schema_version" in own and type(own["schema_version"]) is not int):
        raise EventDefinitionError(
            f"{cls.__name__}: write schema_version: ClassVar[int] = 2, a whole number that grows"
        )
    migrate = own.get("migrate")
    if migrate is not None and (not isinstance(migrate, classmethod) or inspect.iscoroutinefunction(migrate.__func__)):
        raise EventDefinitionError(
            f"{cls.__name__}.migrate must be a classmethod, not async: @classmethod def migrate(cls, values, version)"
        )
