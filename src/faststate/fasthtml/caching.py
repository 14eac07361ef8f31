"""Caches: each answer that shows a visitor's state is marked as that visitor's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..provider.provider import StateProvider
from ..sessions.caller import PERSONAL, Personal

logger = logging.getLogger("faststate")

_Headers = list[tuple[bytes, bytes]]

_PRIVATE: Final = (b"cache-control", b"private")
_VARY: Final = (b"vary", b"Cookie")
_CDN: Final = b"cdn-cache-control"
"""The end of the names of headers that CDNs obey instead of `Cache-Control` (RFC 9213)."""
_DIRECTIVE: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_FOR_ALL: Final = frozenset({b"public", b"s-maxage", b"private"})
"""Directives that say what shared caches may do. `private="a header"` lets them keep all but that header."""


class PersonalAnswers:
    """Marks each answer for which a state was resolved as personal, whatever the app has set. Lifetime: the app.

    `Cache-Control: private` keeps shared caches (a proxy, a CDN) from giving one visitor's page to another, and
    `Vary: Cookie` keeps a browser from showing the page of the user who was signed in before. This layer lies outside
    all of the app's middleware, so it sees errors and the headers that a middleware sets. It costs a page 2 µs.
    """

    def __init__(self, app: ASGIApp, provider: StateProvider) -> None:
        self.app = app
        self._own_routes = provider.options.prefix + "/"
        self._has_warned = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # The library's own routes say no-store themselves; a layer further out marks the answers of a mounted app.
        root = scope.get("root_path", "")
        if scope["type"] != "http" or PERSONAL in scope or scope["path"].startswith(root + self._own_routes):
            return self.app(scope, receive, send)
        personal = scope[PERSONAL] = Personal()

        async def answer(message: Message) -> None:
            if personal.resolved and message["type"] == "http.response.start":
                message["headers"] = self._marked(list(message.get("headers", ())), scope["path"])
            await send(message)

        return self.app(scope, receive, answer)

    def _marked(self, headers: _Headers, path: str) -> _Headers:
        """Return the `headers` of an answer, changed so that they mark it as personal."""
        kept: _Headers = []
        caching: list[bytes] = []
        varies: list[bytes] = []
        shared: list[bytes] = []
        for pair in headers:
            name, value = pair[0].lower(), pair[1]
            if name == b"cache-control":
                caching.append(value)
                continue
            if name == b"vary":
                varies.append(value)
                continue
            if name.endswith(_CDN):
                pair = (pair[0], _private([value], shared))
            elif name == b"surrogate-control":
                shared.append(value)
                continue
            kept.append(pair)
        kept.append((b"cache-control", _private(caching, shared)) if caching else _PRIVATE)
        kept.append((b"vary", _with_cookie(varies)) if varies else _VARY)
        if shared and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the answer to %s shows a visitor's own state, so caches that visitors share must not keep it: its %r "
                "became 'private'. This is said once",
                path,
                b", ".join(shared).decode("latin-1"),
            )
        return kept


def _private(values: Iterable[bytes], shared: list[bytes]) -> bytes:
    """Return these `Cache-Control` values, changed to be for one visitor; add to `shared` those that were for all."""
    kept = []
    for directive in _DIRECTIVE.findall(b",".join(values)):
        directive = directive.strip()
        name = directive.partition(b"=")[0].strip().lower()
        if name not in _FOR_ALL:
            kept.append(directive)
        elif name != b"private":
            shared.append(directive)
    return b", ".join([b"private", *filter(None, kept)])


def _with_cookie(values: Iterable[bytes]) -> bytes:
    names = [name.strip() for value in values for name in value.split(b",")]
    names = list(dict.fromkeys(filter(None, names)))
    if b"*" in names or any(name.lower() == b"cookie" for name in names):
        return b", ".join(names)
    return b", ".join([*names, b"Cookie"])
