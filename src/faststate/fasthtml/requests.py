"""What is read of a request more than once: its headers."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

__all__ = ["headers_of"]

_HEADERS: Final = "faststate_headers"
"""Where a request's scope holds its headers as they came, and by name."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by their lower-case names; of those that came twice the first, as Starlette has it.

    Made once, unless a middleware has changed something since.
    """
    headers = tuple(scope["headers"])
    kept: tuple[tuple[tuple[bytes, bytes], ...], dict[bytes, bytes]] | None = scope.get(_HEADERS)
    if kept is not None and kept[0] == headers:
        return kept[1]
    by_name = dict(headers)
    if len(by_name) != len(headers):
        by_name = dict(reversed(headers))
    scope[_HEADERS] = headers, by_name
    return by_name
