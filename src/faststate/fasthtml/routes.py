"""The library's own routes: events, streams, pages that are left, and the local copy of Datastar."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..exceptions import FastStateError
from ..provider.calls import tokens_of
from ..provider.page_tokens import StaleTokens
from ..provider.provider import StateProvider
from ..sessions.caller import is_cross_site
from .beforeware import GuardedEndpoint
from .events import EventRoute
from .opening import StreamRoute
from .requests import headers_of, parse_json, read_body
from .script import datastar_url

__all__ = ["add_routes"]

logger = logging.getLogger("faststate")


class _LeaveRoute:
    """The endpoint of pages that are left. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        self._guarded = GuardedEndpoint(app, make_endpoint, self._leave)
        self.route = Route(f"{provider.options.prefix}/leave", self.endpoint, methods=["POST"], name="faststate-leave")

    async def endpoint(self, request: Request) -> Response:
        """POST: a page was left for good. It is a beacon: it has no header of ours, and nobody reads the answer."""
        context = self.provider.context(request)
        headers = headers_of(request.scope)
        if not is_cross_site(headers) and not self.provider.throttle.event_rates.take(
            context.session_id(), context.address
        ):
            try:
                try:
                    body = await read_body(self.provider, request.receive, headers)
                except TimeoutError:
                    return PlainTextResponse("The beacon took too long to arrive.", 408, {"connection": "close"})
                await self._guarded.answer(request.scope, body, faststate_left=tokens_of(parse_json(body)))
            except (FastStateError, StaleTokens) as error:
                logger.info("a page was left, which changes nothing: %r", error)
        return Response(status_code=204)

    async def _leave(self, request: Request) -> Response:
        await self.provider.follower.leave(self.provider.context(request), request.state.faststate_left)
        return Response(status_code=204)


def add_routes(provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> EventRoute:
    """Put the library's routes before those of `app`; return the one of events.

    `make_endpoint` is FastHTML's own: it runs the app's Beforeware for these routes, as for any other.
    """
    events = EventRoute(provider, app, make_endpoint)
    leave, streams = _LeaveRoute(provider, app, make_endpoint), StreamRoute(provider, app, make_endpoint)

    async def datastar(request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = provider.options.datastar_src
        if datastar_url(provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})

    datastar_route = Route(f"{provider.options.prefix}/datastar", datastar, methods=["GET"], name="faststate-datastar")
    app.router.routes[:0] = [events.route, leave.route, streams.route, datastar_route]
    return events
