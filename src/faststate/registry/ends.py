"""Why a state is no more; the error for one that memory still had, and the one retry after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from ..exceptions import StateNotFoundError

T = TypeVar("T")


class StateEnd(Enum):
    """Why a state is no more, with its `message` for people.

    Commits to it are refused with that message; where `drops_commits` is True they are dropped without a word.
    """

    DELETED = "it was deleted", False
    DELETED_BY_ITS_EVENT = "it was deleted", True
    """Deleted by the event that holds its lock; that event's own changes of it are dropped."""
    GONE = "it is not there any more", False
    """It is kept no more where it was loaded from."""
    MERGED = "this state has become another one, since its user signed in: try again", False
    SESSION_OVER = "its session is over", True

    def __init__(self, message: str, drops_commits: bool) -> None:
        self.message = message
        self.drops_commits = drops_commits


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
