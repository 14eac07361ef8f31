"""The web framework that providers are installed into: it stands above them, and announces itself here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..exceptions import NotStartedError

__all__ = ["install", "integrate_with"]

Installer = Callable[[Any, Any], None]
F = TypeVar("F", bound=Installer)

_installers: list[Installer] = []


def integrate_with(installer: F) -> F:
    """Use `installer`, a function of a provider and an app, for `StateProvider.setup`; may decorate it."""
    _installers[:] = [installer]
    return installer


def install(provider: Any, app: Any) -> None:
    """Make `app` serve the states of `provider`. Raises `NotStartedError` if no integration has been imported."""
    if not _installers:
        raise NotStartedError("import faststate before setup: its FastHTML integration is not loaded")
    _installers[0](provider, app)
