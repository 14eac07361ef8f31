"""The library's own routes: events, streams, pages that are left, and the local copy of Datastar."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..client.modules import MOUNTED, served_modules, todays_module
from ..exceptions import FastStateError
from ..provider.page_tokens import StaleTokens
from ..provider.payload import tokens_of
from ..provider.provider import StateProvider
from ..sessions.caller import is_cross_site
from .batch_route import BatchRoute
from .beforeware import GuardedEndpoint
from .event_route import EventRoute
from .requests import headers_of, parse_json, read_body
from .script import datastar_url
from .stream_route import StreamRoute

logger = logging.getLogger("faststate")

KEPT_FOR_GOOD: Final = "public, max-age=31536000, immutable"
"""Cache-Control of what never changes under its name: a year, in seconds, is what caches take for ever (RFC 2616)."""


def _leave_route(provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> Route:
    async def leave(request: Request) -> Response:
        await provider.page_streams.leave(provider.context(request), request.state.faststate_left)
        return Response(status_code=204)

    guarded = GuardedEndpoint(app, make_endpoint, leave)

    async def endpoint(request: Request) -> Response:
        """POST: a page was left for good. It is a beacon: it has no header of ours, and nobody reads the answer."""
        context, headers = provider.context(request), headers_of(request.scope)
        if is_cross_site(headers) or provider.throttle.event_rates.take(context.session_id(), context.address):
            return Response(status_code=204)
        try:
            try:
                body = await read_body(provider, request.receive, headers)
            except TimeoutError:
                return PlainTextResponse("The beacon took too long to arrive.", 408, {"connection": "close"})
            await guarded.answer(request.scope, body, faststate_left=tokens_of(parse_json(body)))
        except (FastStateError, StaleTokens) as error:
            logger.info("a page was left, which changes nothing: %r", error)
        return Response(status_code=204)

    return Route(f"{provider.options.prefix}/leave", endpoint, methods=["POST"], name="faststate-leave")


def add_routes(provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> EventRoute:
    """Put the library's routes before those of `app`; return the one of events.

    `make_endpoint` is FastHTML's own: it runs the app's Beforeware for these routes, as for any other.
    """
    events = EventRoute(provider, app, make_endpoint)
    batches = BatchRoute(provider, events)
    streams = StreamRoute(provider, app, make_endpoint)

    async def datastar(request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = provider.options.datastar_src
        if datastar_url(provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})

    async def client(request: Request) -> Response:
        """GET: a module of the page's program. Its name has its hash, so it is kept for good."""
        name = f"client-{request.path_params['name']}"
        content, kept = served_modules().get(name) or served_modules(MOUNTED).get(name), KEPT_FOR_GOOD
        if content is None:
            content, kept = todays_module(name), "no-store"
        if content is None:
            return PlainTextResponse("There is no such module.", 404)
        return Response(content, media_type="text/javascript", headers={"cache-control": kept})

    client_path = f"{provider.options.prefix}/client-{{name}}"
    client_route = Route(client_path, client, methods=["GET"], name="faststate-client")
    datastar_route = Route(f"{provider.options.prefix}/datastar", datastar, methods=["GET"], name="faststate-datastar")
    leave = _leave_route(provider, app, make_endpoint)
    app.router.routes[:0] = [events.route, batches.route, leave, streams.route, client_route, datastar_route]
    return events
