"""The library's own routes: events, streams, pages that are left, and the local copy of Datastar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..provider.provider import StateProvider
from .events import EventRoute
from .leaving import LeaveRoute
from .opening import StreamRoute
from .script import datastar_url

__all__ = ["add_routes"]


def add_routes(provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> EventRoute:
    """Put the library's routes before those of `app`; return the one of events.

    `make_endpoint` is FastHTML's own: it runs the app's Beforeware for these routes, as for any other.
    """
    events = EventRoute(provider, app, make_endpoint)
    leave, streams = LeaveRoute(provider, app, make_endpoint), StreamRoute(provider, app, make_endpoint)

    async def datastar(request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = provider.options.datastar_src
        if datastar_url(provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})

    datastar_route = Route(f"{provider.options.prefix}/datastar", datastar, methods=["GET"], name="faststate-datastar")
    app.router.routes[:0] = [events.route, leave.route, streams.route, datastar_route]
    return events
