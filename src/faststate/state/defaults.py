"""Defaults of an event's arguments that a call could change, such as lists: each call gets a copy of its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from .parameters import is_state_class

__all__ = ["changeable_defaults", "copied", "is_changeable"]


def is_changeable(value: Any) -> bool:
    """True if a default has to be copied for each call: a list, a model or the like, or what holds one.

    States, functions and objects of other classes are not copied: they may be meant to be shared.
    """
    if isinstance(value, list | dict | set | deque | bytearray):
        return True
    if isinstance(value, tuple):
        return any(map(is_changeable, value))
    if isinstance(value, type) or is_state_class(type(value)):
        return False
    if isinstance(value, BaseModel):
        return not value.model_config.get("frozen") or any(map(is_changeable, value.__dict__.values()))
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        is_frozen = kind.__dataclass_params__.frozen
        return not is_frozen or any(is_changeable(getattr(value, f.name, None)) for f in dataclasses.fields(value))
    return False


def copied(value: Any) -> Any:
    """Copy a default, as deep as what `is_changeable` says of its parts."""
    if not is_changeable(value):
        return value
    if isinstance(value, tuple):
        items = map(copied, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    made = copy.copy(value)
    if isinstance(made, dict):
        for key, item in made.items():
            made[key] = copied(item)
    elif isinstance(made, list | deque):
        for index, item in enumerate(made):
            made[index] = copied(item)
    elif isinstance(made, BaseModel):
        made.__dict__.update({name: copied(item) for name, item in made.__dict__.items()})
    elif dataclasses.is_dataclass(made):
        for field in dataclasses.fields(made):
            object.__setattr__(made, field.name, copied(getattr(made, field.name)))
    return made


def changeable_defaults(function: Callable[..., Any]) -> tuple[tuple[int, str, Any], ...]:
    """Find the defaults of a method that have to be copied for each call: position behind `self`, name and value."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return tuple(
        (position if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else len(parameters), parameter.name, default)
        for position, parameter in enumerate(parameters)
        if (default := parameter.default) is not parameter.empty and is_changeable(default)
    )
