"""The page that is being made, as states know it, and rendering without a request, user or page."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from ..auth.users import current_request, current_user
from .serving import ServingProvider, current_provider

__all__ = ["Page", "current_page", "nobody_asking"]


class Page(Protocol):
    """Hears which states a page shows. Lifetime: one request."""

    def show(self, state: Any, view: str | None = None) -> None:
        """Note that the page shows `state` (a committed snapshot), and which of its views."""

    def live_element(self) -> Any:
        """Return the element that makes what was shown follow its states."""


current_page: ContextVar[Page | None] = ContextVar("current_page", default=None)


class nobody_asking:
    """`with nobody_asking(provider):` hides the request, its user and its page from the code inside.

    What all viewers share must not depend on the one who happened to cause it. `provider` is that of the state.
    """

    __slots__ = ("_provider", "_tokens")

    def __init__(self, provider: ServingProvider | None) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        self._tokens = (
            current_page.set(None), current_user.set(None), current_request.set(None),
            current_provider.set(self._provider),
        )  # fmt: skip

    def __exit__(self, *exc: object) -> None:
        current_page.reset(self._tokens[0])
        current_user.reset(self._tokens[1])
        current_request.reset(self._tokens[2])
        current_provider.reset(self._tokens[3])
