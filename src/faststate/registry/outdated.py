"""States in memory that turn out to be gone: the error, and the one retry after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..exceptions import StateNotFoundError

__all__ = ["OutdatedError", "retry_outdated"]

T = TypeVar("T")


class OutdatedError(StateNotFoundError):
    """A locked state turned out to be gone where it is kept. Its key may be free, or hold a later state: try again."""

    may_retry = True
    """False once an event's own code has run: it must not run again."""


async def retry_outdated(attempt: Callable[[], Awaitable[T]]) -> T:
    """Make an attempt, and one more if a state that was found in memory turns out to be gone."""
    try:
        return await attempt()
    except OutdatedError as error:
        if not error.may_retry:
            raise
    return await attempt()
