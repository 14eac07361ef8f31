"""The route of streams: from a request to an open connection, or to a refusal that its page shows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..exceptions import EventArgumentError, FastStateError, LimitError
from ..provider.page_tokens import ForgedTokens, StaleTokens
from ..provider.payload import fingerprints_of, tokens_of
from ..provider.provider import StateProvider
from ..sessions.caller import is_cross_site
from ..sse.connection import SSEConnection
from ..wire.frames import OUTDATED, go_frame, reload_frame
from .answers import BUSY, EventResponse
from .beforeware import GuardedEndpoint
from .requests import headers_of, parse_json, read_body
from .shutdown import drain_on_signal
from .streams import StreamResponse

logger = logging.getLogger("faststate")

# In the request's scope, and not in its state, which uvicorn keeps as long as the stream is open:
_OPENED: Final = "faststate_opened"
"""Where the connection that was opened for a request waits until the request is answered."""
_ASKED: Final = "faststate_asked"
"""Where a request's payload waits until the stream is opened."""


class _NoStream(PlainTextResponse):
    """The library's own refusal of a stream."""


class StreamRoute:
    """The endpoint of streams. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        self._guarded = GuardedEndpoint(app, make_endpoint, self._open)
        self.route = Route(
            f"{provider.options.prefix}/stream", self.endpoint, methods=["POST"], name="faststate-stream"
        )

    async def endpoint(self, request: Request) -> Response:
        """POST: open the page's stream; its tokens are in the body, which may be long.

        204 ends it for good, 503 makes the page try again. A refusal (400, 403, 408, 413, 429) is shown by the page,
        which tries again later.
        """
        response: Response | None = None
        try:
            response = await self._answer(request)
        except FastStateError as error:  # of the app's user loader, or of a Beforeware
            if error.status < 500:
                response = Response(status_code=204)
            elif error.status == 503:
                logger.error("a stream could not be opened: %s", error, exc_info=error)
                response = PlainTextResponse(BUSY, 503, {"retry-after": "5"})
            else:
                raise
        finally:
            opened = request.scope.pop(_OPENED, None)
            if opened is not None and not isinstance(response, StreamResponse):
                self.provider.sse_manager.remove_connection(opened.id)  # nobody will ever write to it
            session: Any = request.scope.get("session")
            if hasattr(session, "modified"):  # Starlette's. A stream is no place for a cookie: it answers long after
                session.modified = False
        response.headers["cache-control"] = "no-store"
        return response

    async def _answer(self, request: Request) -> Response:
        if self.provider.sse_manager.draining:
            return PlainTextResponse(BUSY, 503, {"retry-after": "1"})
        headers = headers_of(request.scope)
        if b"datastar-request" not in headers or is_cross_site(headers):
            return _NoStream("Only the app's own pages may open streams.", 403)
        context = self.provider.context(request)
        if wait := self.provider.throttle.stream_rates.take(context.session_id(), context.address):
            self.provider.counters.refused += 1
            text = "Too many streams were opened at once. The page tries again."
            return PlainTextResponse(text, 429, {"retry-after": str(ceil(wait))})
        try:
            body = await read_body(self.provider, request.receive, headers)
            payload = parse_json(body, self.provider.options.max_depth)
            if not isinstance(payload, dict):
                raise EventArgumentError("the payload must be an object")
        except TimeoutError:
            return _NoStream("The request took too long to arrive.", 408, {"connection": "close"})
        except EventArgumentError as error:
            return _NoStream(str(error), error.status)
        request.scope[_ASKED] = payload
        # FastHTML reads the body of every request, however long and slow: this one has been read, within its bounds.
        response = await self._guarded.answer(request.scope, body)
        if isinstance(response, StreamResponse):
            drain_on_signal(self.provider)
            return response
        is_ours = isinstance(response, EventResponse | _NoStream)
        if is_ours or response.status_code == 429 or response.status_code >= 500:
            return response
        return Response(status_code=204)

    async def _open(self, request: Request) -> Response:
        context, payload = self.provider.context(request), request.scope.pop(_ASKED)
        if context.session_id() is None:
            # A page of an ended session reloads. If no cookie came back at all, a new page would fare no better.
            return EventResponse(reload_frame() if context.ended_session is not None else b"")
        try:
            if not self.provider.registrations.are_current(fingerprints_of(payload)):
                return EventResponse(go_frame(OUTDATED))
            tokens = tokens_of(payload)
            instead = await self.provider.tokens.merge(context, tokens)
            seen = request.headers.get("last-event-id") or payload.get("n")
            is_first = "last-event-id" not in request.headers and payload.get("n") != ""
            opened = await self.provider.page_streams.open(
                context, tokens, seen if isinstance(seen, str) else None, is_first=is_first
            )
        except StaleTokens:
            return EventResponse(reload_frame())
        except ForgedTokens as error:
            return _NoStream(str(error), 403)
        except EventArgumentError as error:
            return _NoStream(str(error), 400)
        except LimitError as error:
            return PlainTextResponse(str(error), 429, {"retry-after": "5"})
        if isinstance(opened, SSEConnection):
            request.scope[_OPENED] = opened
            return StreamResponse(self.provider, opened, instead)
        return EventResponse(opened or b"")
