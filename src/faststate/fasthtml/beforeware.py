"""Running an app's Beforeware for the library's own routes, without FastHTML's machinery for pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

from fastcore.utils import listify
from fasthtml.core import Beforeware, noop_body
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from . import _compat

_Endpoint = Callable[[Request], Awaitable[Response]]


class _ReplayedRequest(Request):
    """A request whose body has been read, for a Beforeware to read it again. Lifetime: the request.

    FastHTML gives a Beforeware copies of what the app's pages begin and end with. Hardly any needs them for a request
    that is not for a page, so they are made when somebody asks.
    """

    def __init__(self, app: Any, scope: Scope, body: bytes) -> None:
        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        super().__init__(scope, replay)
        self._app = app
        self.injects: list[Any] = []
        self.max_part_size = app.max_part_size

    def __getattr__(self, name: str) -> Any:
        if name not in ("hdrs", "ftrs", "htmlkw", "bodykw"):
            raise AttributeError(name)
        copied = deepcopy(getattr(self._app, name))
        setattr(self, name, listify(copied) if name in ("hdrs", "ftrs") else copied)
        return getattr(self, name)


class GuardedEndpoint:
    """An endpoint of the library's own, which each Beforeware of the app may refuse. Lifetime: the app.

    `make` is FastHTML's method that makes an endpoint for pages.
    """

    def __init__(self, app: Any, make: Callable[..., _Endpoint], own: _Endpoint) -> None:
        self._app = app
        self._own = own
        self._page = make(own, noop_body)
        self._parameters: dict[Any, Any] = {}  # of Beforeware functions; FastHTML takes 35 µs to read one's

    @property
    def is_open(self) -> bool:
        """True if the app has no function that runs before or after its handlers."""
        return not self._app.before and not self._app.after

    async def answer(self, scope: Scope, body: bytes, **passed: Any) -> Response:
        """Return the answer of the endpoint, or of the first Beforeware that does not let the request through.

        `passed` goes to the endpoint in the request's state.
        """
        request = _ReplayedRequest(self._app, scope, body)
        for name, value in passed.items():
            setattr(request.state, name, value)
        if self._app.after or not _compat.can_fill:
            return await self._page(request)  # it runs all that there is, and takes 45 µs more
        return (self._app.before and await self._run_before(request)) or await self._own(request)

    async def _run_before(self, request: Request) -> Response | None:
        """Return the answer of the first Beforeware that has one; None if none has. As `FastHTML._endp` does."""
        answer = None
        for before in self._app.before:
            function, skip = (before.f, before.skip) if isinstance(before, Beforeware) else (before, ())
            if any(re.fullmatch(pattern, request.url.path) for pattern in skip):
                continue
            parameters = self._parameters.get(function)
            if parameters is None:
                parameters = self._parameters[function] = _compat.parameters_of(function)
            if answer := await _compat.call_filled(function, request, parameters):
                break
        return _compat.respond(request, answer, Response) if answer else None
