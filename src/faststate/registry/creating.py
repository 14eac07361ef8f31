"""The first values of a state: as its class makes them, or as the app's `create` says."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ..exceptions import PersistenceError, StateNotFoundError
from ..redaction import redacted
from ..scheduling.waits import TooLate, in_time
from ..scopes import StateIdentifier
from ..state.reactive import ReactiveState

S = TypeVar("S", bound=ReactiveState)
T = TypeVar("T")

Create = Callable[[StateIdentifier], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""Makes the first values of a state; None where there is no such state."""


def create_by_class(identifier: StateIdentifier, cls: type[S], initial: Mapping[str, Any] | None) -> S:
    """Create a state. Raises `StateNotFoundError` if a field has no default, and nobody has given a value."""
    if not initial and cls._fs_schema().required:
        raise not_found(identifier)
    return _create(cls, initial or {})


async def create_state(
    identifier: StateIdentifier, cls: type[S], create: Create | None, initial: Mapping[str, Any], seconds: float
) -> S:
    """Create a state from what the app's `create` returns, if there is one, and the `initial` values.

    An async `create` has so many `seconds`, or `PersistenceError` is raised. Raises `StateNotFoundError` if it returns
    None, and pydantic's `ValidationError` for values that do not fit.
    """
    if create is None:
        return create_by_class(identifier, cls, initial)
    values = create(identifier)
    if inspect.isawaitable(values):
        try:
            values = await in_time(seconds, values)
        except TooLate as error:
            raise PersistenceError(f"create gave {identifier.key} no first values within {seconds:g} s") from error
    if values is None:
        raise not_found(identifier)
    return _create(cls, {**values, **initial})


def _create(cls: type[S], values: Mapping[str, Any]) -> S:
    try:
        return cls(**values)
    except ValidationError as error:
        failed = redacted(error, cls, values)
    raise failed  # not in the block above: it would have the error itself as its context


def not_found(identifier: StateIdentifier) -> StateNotFoundError:
    """The error for a state that does not exist."""
    return StateNotFoundError(f"there is no {identifier.cls_name} {identifier.instance_id or ''}".rstrip())
