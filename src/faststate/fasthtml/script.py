"""The script tag by which pages load their program, and Datastar with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastcore.xml import Safe
from starlette.requests import HTTPConnection

from ..auth.users import current_request
from ..client.modules import MOUNTED, USUAL, entry_name
from ..provider.context import RequestProvider
from ..provider.page import PageScript


def page_script(provider: RequestProvider, connection: HTTPConnection | None) -> PageScript:
    """Return the script of one page; what is served by our own routes is below its app's path."""
    options = provider.options
    root = str(connection.scope.get("root_path", "")) if connection is not None else ""
    datastar = datastar_url(provider)
    if datastar != options.datastar_src:
        datastar = root + datastar
    entry = entry_name(MOUNTED if root else USUAL)
    return PageScript(f"{root}{options.prefix}/{entry}", datastar, _offline_text(options.offline))


def datastar_url(provider: RequestProvider) -> str:
    """Return the URL of Datastar: as configured, or our own route's path if a file is configured."""
    source = provider.options.datastar_src
    if "://" in source or not Path(source).is_file():
        return source
    return f"{provider.options.prefix}/datastar"


def _offline_text(offline: str | bool) -> str | None:
    if isinstance(offline, str):
        return offline
    return None if offline else ""


class HeadScript:
    """The script tag in every page's head, which FastHTML copies for each request. Lifetime: the app."""

    def __init__(self, provider: RequestProvider) -> None:
        self._provider = provider

    def __deepcopy__(self, memo: Any) -> HeadScript:
        return self

    def __ft__(self) -> Safe:
        return page_script(self._provider, current_request.get()).__ft__()
