"""Running an app's Beforeware for what is no page: through FastHTML's own injection, without its page machinery."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fasthtml import core
from fasthtml.core import Beforeware
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["run_before"]

# Private names of FastHTML's: the parameters of a function, a call with them filled in, and a response of its result.
_parameters: Any = getattr(core, "_params", None)
_call: Any = getattr(core, "_wrap_call", None)
_respond: Any = getattr(core, "_resp", None)


async def _run_before(app: Any, request: Request, known: dict[Any, Any]) -> Response | None:
    """What the first of the app's Beforeware functions answers that has an answer, or None; as `FastHTML._endp`.

    `known` holds the parameters of those that have run before.
    """
    answer = None
    for before in app.before:
        function, skip = (before.f, before.skip) if isinstance(before, Beforeware) else (before, ())
        if any(re.fullmatch(pattern, request.url.path) for pattern in skip):
            continue
        parameters = known.get(function)
        if parameters is None:
            parameters = known[function] = _parameters(function)
        if answer := await _call(function, request, parameters):
            break
    return _respond(request, answer, Response) if answer else None


run_before: Callable[[Any, Request, dict[Any, Any]], Awaitable[Response | None]] | None = (
    _run_before if _parameters and _call and _respond else None
)
"""None where this FastHTML lacks one of these names."""
