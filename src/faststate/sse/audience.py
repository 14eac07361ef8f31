"""Audiences: what a connection shows of a state and may see of it, one object for all connections that are alike."""

from __future__ import annotations

from functools import lru_cache

from ..state.schema import EVERYTHING_SHOWN

__all__ = ["Audience", "audience_of"]


class Audience:
    """The followers of one state who are sent the same bytes: the `views` they show, the fields `hidden` from them.

    Compared by identity: `audience_of` returns one object for all that are alike. Lifetime: the cache of `audience_of`,
    or the connections.
    """

    __slots__ = ("hidden", "views")

    def __init__(self, views: frozenset[str], hidden: frozenset[str]) -> None:
        self.views = views
        self.hidden = hidden


@lru_cache(maxsize=1024)
def audience_of(views: frozenset[str] = frozenset(), hidden: frozenset[str] = EVERYTHING_SHOWN) -> Audience:
    """Return the audience of these views and hidden fields: one object for all connections that are alike."""
    return Audience(views, hidden)
