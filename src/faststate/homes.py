"""Which provider a state class is used with: that of the request, of the view being rendered, or the only one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from .auth import current_request
from .exceptions import ConfigurationError
from .scopes import StateIdentifier

__all__ = ["Home", "current_home", "home_of", "settle"]


class Home(Protocol):
    """A provider, as the states and events of its classes know it. Lifetime: the app."""

    def name_of(self, cls: type[Any]) -> str | None:
        """The name under which it has registered `cls`; None where it has not."""

    def has_ids(self, cls: type[Any]) -> bool:
        """Whether a page may show several states of `cls`, told apart by ids."""

    def url_of(self, path: str) -> str:
        """The URL path (str) of one of its routes, below its prefix and where its app is mounted."""

    async def run(self, identifier: StateIdentifier, cls: type[Any], event: Any, arguments: Mapping[str, Any]) -> Any:
        """Run an event from server code."""


current_home: ContextVar[Home | None] = ContextVar("faststate_home", default=None)
"""The provider of the state that is being rendered: views are the same for everybody, and know no request."""

_homes: Final[WeakKeyDictionary[type[Any], WeakSet[Home]]] = WeakKeyDictionary()
"""All providers by class. They are held weakly: a provider is in use for as long as its app is, and no longer."""
_lock: Final = threading.Lock()  # apps are made in threads too, and a set must not grow while another one reads it


def settle(cls: type[Any], home: Home) -> None:
    """Note that `home` has registered `cls`."""
    with _lock:
        _homes.setdefault(cls, WeakSet()).add(home)


def home_of(cls: type[Any]) -> Home | None:
    """The provider with which `cls` is used here and now; None where no provider has registered it.

    Raises `ConfigurationError` where several providers have it, know it by other names, scopes or URLs, and nothing
    says which one is meant.
    """
    for home in (current_home.get(), _of_request()):
        if home is not None and home.name_of(cls) is not None:
            return home
    found = _known(cls)
    if len(found) > 1 and _differ(cls, found):
        # A provider that nobody uses any more is there until its circles of references are found; a test suite makes
        # one after the other of the same classes.
        del found
        gc.collect()
        found = _known(cls)
        if len(found) > 1 and _differ(cls, found):
            raise ConfigurationError(
                f"{len(found)} providers have registered {cls.__name__}, under other names, scopes or URLs, and no "
                f"request says which one is meant: write {cls.__name__}.<event> in a handler or a view, or take a "
                f"state of the right one: (await provider.get_state({cls.__name__}, request)).<event>"
            )
    return found[0] if found else None


def _of_request() -> Home | None:
    request = current_request.get()
    home: Home | None = getattr(request.scope.get("faststate"), "provider", None) if request is not None else None
    return home


def _known(cls: type[Any]) -> list[Home]:
    with _lock:
        return list(_homes.get(cls, ()))


def _differ(cls: type[Any], homes: list[Home]) -> bool:
    return len({(home.name_of(cls), home.has_ids(cls), home.url_of("")) for home in homes}) > 1
