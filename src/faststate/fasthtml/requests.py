"""A request's headers, which are read more than once, and its body, read within its bounds and parsed as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from pydantic_core import from_json
from starlette.types import Receive, Scope

from ..exceptions import EventArgumentError
from ..provider.provider import StateProvider
from ..wire.values import depth_of

_HEADERS: Final = "faststate_headers"
"""Where a request's scope holds its headers as they came, and by name."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the request's headers by their lower-case names; of two with one name the first, as Starlette does.

    The dict is made once, unless a middleware has changed the headers since: asking again costs 0.5 µs instead of 2.
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


class BodyTooLarge(EventArgumentError):
    """A body has more bytes than `max_payload`."""

    status = 413


def read_body(provider: StateProvider, receive: Receive, headers: Mapping[bytes, bytes]) -> Awaitable[bytes]:
    """Read a request's body (bytes), within the provider's `max_payload` and `body_timeout`.

    Raises `BodyTooLarge`, `EventArgumentError` when the client leaves before the end, and `TimeoutError`.
    """
    return provider.registry.running.receive(
        _read(receive, headers, provider.options.max_payload), provider.options.body_timeout
    )


async def _read(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"the payload has {int(declared)} bytes; the most is {limit}")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EventArgumentError("the payload ended too early")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the payload is larger than {limit} bytes")
        if message.get("more_body", False):
            chunks.append(chunk)
        else:
            return b"".join((*chunks, chunk)) if chunks else chunk


def parse_json(body: bytes, max_depth: int | None = None) -> Any:
    """Parse the JSON in `body`, nested no deeper than `max_depth` levels. Raises `EventArgumentError`."""
    try:
        # A fifth of the cost of Python's own parser, which takes all that this one takes, and other encodings. So that
        # one comes second, and says what is wrong.
        payload = from_json(body, cache_strings=False)
    except ValueError:
        payload = _parse_unusual(body)
    # There are no more levels than brackets.
    if max_depth is not None and body.count(b"[") + body.count(b"{") > max_depth and depth_of(payload) > max_depth:
        raise EventArgumentError(f"the payload is nested more than {max_depth} levels deep")
    return payload


def _parse_unusual(body: bytes) -> Any:
    try:
        payload = json.loads(body or b"{}")
        # JSON can write half of a character (a lone surrogate), which no page could be sent.
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise EventArgumentError("the payload holds text that is not Unicode (a lone surrogate)") from None
    except RecursionError:
        raise EventArgumentError("the payload is nested too deep") from None
    except ValueError:
        raise EventArgumentError("the payload is not JSON") from None
    return payload
