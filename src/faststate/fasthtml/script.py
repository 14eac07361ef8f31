"""The script tag with which pages load Datastar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastcore.xml import Safe
from starlette.requests import HTTPConnection

from ..auth.users import current_request
from ..provider.context import RequestProvider
from ..provider.page import script_element


def script_source(provider: RequestProvider, connection: HTTPConnection | None) -> str:
    """Return the URL of Datastar for one page: as configured, or below its app's path for our own copy."""
    source = datastar_url(provider)
    if connection is None or source == provider.options.datastar_src:
        return source
    return str(connection.scope.get("root_path", "")) + source


def datastar_url(provider: RequestProvider) -> str:
    """Return the URL of Datastar: as configured, or our own route's path if a file is configured."""
    source = provider.options.datastar_src
    if "://" in source or not Path(source).is_file():
        return source
    return f"{provider.options.prefix}/datastar"


class DatastarScript:
    """The script tag in every page's head, which FastHTML copies for each request. Lifetime: the app."""

    def __init__(self, provider: RequestProvider) -> None:
        self._provider = provider

    def __deepcopy__(self, memo: Any) -> DatastarScript:
        return self

    def __ft__(self) -> Safe:
        return script_element(script_source(self._provider, current_request.get()))
