"""Why a state is no more."""

from __future__ import annotations

from enum import Enum

__all__ = ["StateEnd"]


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
