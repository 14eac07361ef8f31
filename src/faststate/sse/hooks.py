"""The questions that streams ask, and the news that they tell, of what stands above them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..scopes import Id
from ..state.reactive import ReactiveState


class StreamHooks:
    """The provider's side of its streams. Lifetime: the manager. This one knows no states: a provider overrides it."""

    def latest(self, key: str) -> ReactiveState | None:
        """Return the committed snapshot of the state `key` that may be shown; None if there is none."""
        return None

    def position(self) -> str:
        """Return the SSE id (str) up to which a connection that keeps up has been told of commits."""
        return ""

    def postpone(self, key: str, send: Callable[[], object]) -> bool:
        """Call `send`, a broadcast, later if it is being asked who may still see the state; return True if so."""
        return False

    def is_undecided(self, key: str) -> bool:
        """Tell whether commits of a state wait to be published, which a new follower may have begun with."""
        return False

    def watched(self, key: str) -> None:
        """Take note of a state's first follower."""

    def unwatched(self, key: str) -> None:
        """Take note that a state's last follower has gone."""

    def spread(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        """Send values that are broadcast to a state's followers to those in other processes, but not to `but_user`."""
