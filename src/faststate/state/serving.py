"""The provider of a state class (the request's, the rendered view's, or the only one), and the page being made."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from ..auth.users import current_request, current_user
from ..exceptions import ConfigurationError
from ..scopes import StateIdentifier


class ServingProvider(Protocol):
    """A provider, as the states and events of its classes know it. Lifetime: the app."""

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the name under which it registered `cls`; None if it did not."""

    def has_ids(self, cls: type[Any]) -> bool:
        """True if a page may show several states of `cls`, told apart by ids."""

    def url_of(self, path: str) -> str:
        """Return the URL path (str) of one of its routes, below its prefix and where its app is mounted."""

    async def run(self, identifier: StateIdentifier, cls: type[Any], event: Any, arguments: Mapping[str, Any]) -> Any:
        """Run an event from server code."""


current_provider: ContextVar[ServingProvider | None] = ContextVar("faststate_home", default=None)
"""The provider of the state that is being rendered: views are the same for everybody, and know no request."""

_providers: Final[WeakKeyDictionary[type[Any], WeakSet[ServingProvider]]] = WeakKeyDictionary()
"""All providers by class. They are held weakly: a provider is in use for as long as its app is, and no longer."""
_lock: Final = threading.Lock()  # apps are made in threads too, and a set must not grow while another one reads it


def note_provider(cls: type[Any], provider: ServingProvider) -> None:
    """Note that `provider` has registered `cls`."""
    with _lock:
        _providers.setdefault(cls, WeakSet()).add(provider)


def provider_of(cls: type[Any]) -> ServingProvider | None:
    """Find the provider with which `cls` is used here and now; None if no provider registered it.

    Raises `ConfigurationError` where several providers have it, know it by other names, scopes or URLs, and nothing
    says which one is meant.
    """
    request = current_request.get()
    context = request.scope.get("faststate") if request is not None else None
    for provider in (current_provider.get(), getattr(context, "provider", None)):
        if provider is not None and provider.name_of(cls) is not None:
            return provider
    for _ in range(2):
        with _lock:
            found = list(_providers.get(cls, ()))
        if len(found) < 2 or len({(each.name_of(cls), each.has_ids(cls), each.url_of("")) for each in found}) == 1:
            return found[0] if found else None
        # A provider that nobody uses any more is only freed by the garbage collector, since it holds circles of
        # references; a test suite makes one provider after the other for the same classes.
        count = len(found)
        del found
        gc.collect()
    raise ConfigurationError(
        f"{count} providers have registered {cls.__name__}, under other names, scopes or URLs, and no "
        f"request says which one is meant: write {cls.__name__}.<event> in a handler or a view, or take a "
        f"state of the right one: (await provider.get_state({cls.__name__}, request)).<event>"
    )


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
