"""The library's own routes: events, streams, and the local copy of Datastar."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from functools import cached_property
from math import ceil
from typing import Any, Final

from fastcore.utils import listify
from fasthtml.core import HTTPException, noop_body
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ..auth.limits import network_of
from ..exceptions import (
    EventArgumentError,
    EventConflictError,
    EventTimeoutError,
    FastStateError,
    LimitError,
    LockTimeoutError,
    NotStartedError,
    PersistenceError,
    RowUnreadableError,
)
from ..provider.context import RequestContext
from ..provider.dispatch import (
    Call,
    Effect,
    ForgedTokens,
    StaleTokens,
    dispatch,
    leave_page,
    open_connection,
    safe_location,
    tokens_instead,
    tokens_of,
)
from ..provider.provider import StateProvider
from ..redaction import explained_by_title, told_of
from ..sessions.caller import is_cross_site
from ..sse.connection import SSEConnection
from ..wire.frames import go_frame, message_frame, reload_frame, signals_frame
from ..wire.values import depth_of
from .beforeware import run_before
from .requests import headers_of
from .script import datastar_url
from .shutdown import drain_on_signal
from .streams import SSE_HEADERS, StreamResponse

__all__ = ["BUSY", "UNREAD", "UNREADABLE", "EventResponse", "Routes"]

logger = logging.getLogger("faststate")

BUSY: Final = "The server is restarting. Please try again."
UNREAD: Final = "What this page shows cannot be had just now. Please try again later."
UNREADABLE: Final = "This record cannot be shown or changed: what is stored of it does not fit. Nothing was changed."
_CROWDED: Final = "The server is busy just now. Please try again."
_TOO_LONG: Final = "This took too long and was stopped. Please try again."
_UNSAVED: Final = "This could not be saved. Please try again."
_MESSAGES: Final[dict[type[FastStateError], str]] = {
    EventTimeoutError: _TOO_LONG,
    LockTimeoutError: _CROWDED,
    RowUnreadableError: UNREADABLE,
    PersistenceError: _UNSAVED,
}
"""Messages for pages, of errors whose own message is for the log."""
_FAILED: Final = "faststate_failed"
"""Where an event's error waits in the request's scope for the event's route."""
_OPENED: Final = "faststate_opened"
"""Where the connection that was opened for a stream's request waits in its scope until it is answered."""
_ASKED: Final = "faststate_asked"
"""Where the payload of a stream's request waits in its scope until the stream is opened."""
_BROKEN: Final = "Something went wrong on the server. Nothing was changed."


class EventResponse(Response):
    """The answer to an event: 204, or SSE that says what happened; `FastState-Status` holds the status meant."""

    def __init__(self, frames: bytes = b"", status: int | None = None) -> None:
        if status is None and not frames:
            # Nearly all events end so, and its one header is always the same.
            self.status_code, self.body, self.background = 204, b"", None
            self.raw_headers = [(b"cache-control", b"no-store")]
            return
        headers = {"cache-control": "no-store"}
        if status is not None:
            headers["faststate-status"] = str(status)
        if frames:
            headers |= SSE_HEADERS
        super().__init__(frames or None, status_code=200 if frames else 204, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # As Starlette's own does, which looks for a websocket before.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})
        if self.background is not None:
            await self.background()


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return value.decode("latin-1") if value is not None else None


class _TooLarge(EventArgumentError):
    """A body that has more bytes than `max_payload`."""


async def _read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _TooLarge(f"the payload has {int(declared)} bytes; the most is {limit}")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EventArgumentError("the payload ended too early")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _TooLarge(f"the payload is larger than {limit} bytes")
        if message.get("more_body", False):
            chunks.append(chunk)
        else:
            return b"".join((*chunks, chunk)) if chunks else chunk


class _Replayed(Request):
    """A request whose body has been read, for a Beforeware to read it again. Lifetime: the request.

    FastHTML gives a Beforeware copies of what the app's pages begin and end with, which what is no page hardly ever
    needs: they are made when somebody asks.
    """

    def __init__(self, app: Any, scope: Scope, body: bytes) -> None:
        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        super().__init__(scope, replay)
        self._app = app
        self.injects: list[Any] = []
        self.max_part_size = app.max_part_size

    @cached_property
    def hdrs(self) -> list[Any]:
        return list(listify(deepcopy(self._app.hdrs)))

    @cached_property
    def ftrs(self) -> list[Any]:
        return list(listify(deepcopy(self._app.ftrs)))

    @cached_property
    def htmlkw(self) -> Any:
        return deepcopy(self._app.htmlkw)

    @cached_property
    def bodykw(self) -> Any:
        return deepcopy(self._app.bodykw)


def _parse(body: bytes, max_depth: int | None = None) -> Any:
    """The JSON in `body`, nested no deeper than `max_depth` levels. Raises `EventArgumentError`."""
    try:
        # Of a fifth of the cost. It takes no more than Python's own does, which says what is wrong with the rest of it,
        # and takes other encodings.
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


class _NoStream(PlainTextResponse):
    """The library's own refusal of a stream."""


def _no_stream(request: Request, status: int, text: str) -> Response:
    return _NoStream(text, status) if request.method == "POST" else _NoStream(status_code=204)


class _Seen:
    """What an event's page is to see of it: in its answer, where the page has no `live` stream. Lifetime: the event."""

    __slots__ = ("_live", "frames", "version")

    def __init__(self, live: SSEConnection | None) -> None:
        self._live = live
        self.frames = b""
        self.version: str | None = None

    def take(self, effect: Effect) -> None:
        """Takes the effect of a step."""
        live, self.version = self._live, effect.version
        if not effect.frames:
            return
        if live is None or live.closed or live.silent:
            self.frames += effect.frames
        else:
            live.send_frame(effect.frames)


_Endpoint = Callable[[Request], Awaitable[Response]]


class Routes:
    """The endpoints of one app. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        self._app = app
        # FastHTML's own wrapper runs the app's Beforeware for the library's routes, as for any other.
        self._event = endpoint(self._dispatch, noop_body)
        self._stream = endpoint(self._open, noop_body)
        self._leave = endpoint(self._left, noop_body)
        prefix = provider.prefix
        self._event_path = re.compile(f"{re.escape(prefix)}/event/([^/]*)/([^/]*)")
        self._event_route = Route(
            f"{prefix}/event/{{state}}/{{event}}", self.event, methods=["POST"], name="faststate-event"
        )
        self._parameters: dict[Any, Any] = {}  # of the app's Beforeware functions, as FastHTML reads them
        app.router.routes[:0] = [
            self._event_route,
            Route(f"{prefix}/leave", self.leave, methods=["POST"], name="faststate-leave"),
            Route(f"{prefix}/stream", self.stream, methods=["POST", "GET"], name="faststate-stream"),
            Route(f"{prefix}/datastar", self.datastar, methods=["GET"], name="faststate-datastar"),
        ]

    async def answer_event(self, context: RequestContext, scope: Scope, receive: Receive) -> Response | None:
        """The answer to a request that is an event's, None for any other: what the app's router would have found.

        What this raises the event's route raises again, where the app's own exception handlers are.
        """
        router = self._app.router
        if scope["type"] != "http" or scope["method"] != "POST" or router.routes[0] is not self._event_route:
            return None
        found = self._named(scope)
        if found is None:
            return None
        scope.setdefault("router", router)
        scope["endpoint"] = self.event
        scope["path_params"] = {"state": found[1], "event": found[2]}
        try:
            return await self._answer(context, found[1], found[2], scope, receive)
        except Exception as error:
            scope[_FAILED] = error
            return None

    def _named(self, scope: Scope) -> re.Match[str] | None:
        """The names of the state and the event in a request's path, None where that is not an event's."""
        path, root = scope["path"], scope.get("root_path", "")
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        return self._event_path.fullmatch(path)

    def unavailable(self, scope: Scope, error: FastStateError) -> Response:
        """The answer to a request while the store cannot be had; of an event, one that the page shows."""
        if self._named(scope) is not None and b"datastar-request" in headers_of(scope):
            return self._refused(error)
        return PlainTextResponse(BUSY, 503, {"retry-after": "5"})

    async def event(self, request: Request) -> Response:
        """POST: runs an event. Attacks get a plain status; what a person may run into is shown in the page."""
        if (failed := request.scope.pop(_FAILED, None)) is not None:
            raise failed
        names = request.path_params
        context = self.provider.context(request)
        return await self._answer(context, names["state"], names["event"], request.scope, request.receive)

    async def _answer(
        self, context: RequestContext, state: str, event: str, scope: Scope, receive: Receive
    ) -> Response:
        headers = headers_of(scope)
        if b"datastar-request" not in headers or is_cross_site(headers):
            return PlainTextResponse("Events are sent by the app's own pages alone.", 403)
        provider, session_id = self.provider, context.session_id()
        if wait := provider.event_rates.take(session_id, context.address):
            refused = self._refused(LimitError("Too many actions at once. Please wait a moment."))
            refused.headers["retry-after"] = str(ceil(wait))
            return refused
        client = session_id or f"address {network_of(context.address)}"
        if not provider.begin_event(client):
            refused = self._refused(
                LimitError(f"{provider.max_events_per_session} actions are under way already. Please wait for them.")
            )
            refused.headers["retry-after"] = "1"
            return refused
        try:
            try:
                reading = _read_body(receive, headers, provider.max_payload)
                body = await provider.registry.running.receive(reading, provider.body_timeout)
                call = Call.parse(
                    state,
                    event,
                    _parse(body, provider.max_depth),
                    Request(scope).query_params.multi_items() if scope["query_string"] else (),
                    _text(headers, b"faststate-nonce"),
                    _text(headers, b"faststate-connection"),
                )
            except TimeoutError:
                return PlainTextResponse("The event took too long to arrive.", 408, {"connection": "close"})
            except StaleTokens:
                return EventResponse(reload_frame(), 403)
            except FastStateError as error:
                return self._refused(error)
            call.receive = receive

            if not self._app.before and not self._app.after:
                return await self._run(context, call, session_id)
            again = _Replayed(self._app, scope, body)
            again.state.faststate_call = call
            response = await self._let_through(again, self._event, self._dispatch)
            return response if isinstance(response, EventResponse) else self._before_answered(response)
        finally:
            provider.end_event(client)

    async def _let_through(self, request: _Replayed, page: _Endpoint, own: _Endpoint) -> Response:
        """What `own` answers to a request that all Beforeware lets through, or what the first answers that does not.

        `page` is the same endpoint in FastHTML's own machinery, which is made for pages: it runs all there is.
        """
        if self._app.after or run_before is None:
            return await page(request)
        return (self._app.before and await run_before(self._app, request, self._parameters)) or await own(request)

    def _before_answered(self, response: Response) -> Response:
        """A Beforeware's own answer, in a form that Datastar does not drop."""
        if 300 <= response.status_code < 400:
            try:
                location = safe_location(response.headers.get("location", "/"))
            except FastStateError as error:
                logger.error("a Beforeware redirects to where no browser may be sent: %s", error)
                return self._refused(error)
            frames = go_frame(location)
        else:
            text = "You may not do this." if response.status_code < 500 else _BROKEN
            frames = message_frame(text, response.status_code)
        self.provider.refused += 1
        answer = EventResponse(frames, response.status_code)
        for name, value in response.raw_headers:
            if name == b"set-cookie":
                answer.raw_headers.append((name, value))
        return answer

    def _refused(self, error: FastStateError, frames: bytes = b"") -> EventResponse:
        """Says in the page what was refused, behind the `frames` (bytes) of what was committed before."""
        self.provider.refused += 1
        if error.status < 500:
            message = str(error)
        else:
            message = next((text for kind, text in _MESSAGES.items() if isinstance(error, kind)), _BROKEN)
            message = BUSY if message is _BROKEN and error.status == 503 else message
        return EventResponse(frames + message_frame(message, error.status), error.status)

    async def _dispatch(self, request: Request) -> Response:
        call: Call = request.state.faststate_call
        context = self.provider.context(request)
        return await self._run(context, call, context.session_id())

    async def _run(self, context: RequestContext, call: Call, session_id: str | None) -> Response:
        """Runs an event that all Beforeware has let through."""
        live, elsewhere = None, False
        if call.connection_id is not None:
            live = self.provider.sse_manager.connections.get(call.connection_id)
            if live is not None and (live.closed or live.silent or live.session_id != session_id):
                live = None
            elsewhere = live is None and self.provider.cluster.is_elsewhere(call.connection_id)
        if call.tokens and session_id is None:
            # The session was cleared by another tab, which a reload settles; or cookies are off, which is then told.
            frames = reload_frame()
            if context.ended_session is None:
                frames += message_frame("This page needs cookies to work.", 403)
            return EventResponse(frames, 403)
        seen = _Seen(live)
        try:
            await dispatch(context, call, live, seen.take, elsewhere=elsewhere)
        except StaleTokens:
            self.provider.refused += 1
            return EventResponse(reload_frame(), 403)
        except ForgedTokens as error:
            self.provider.refused += 1
            response = EventResponse(status=403)
            response.status_code = 403
            logger.warning("refused an event of %s: %s", call.state, error)
            return response
        except FastStateError as error:
            if isinstance(error, EventConflictError):
                seen.frames += signals_frame({"_fs": {"v": error.version}})
            if isinstance(error, NotStartedError):
                logger.info("%s.%s was not run to its end: %s", call.state, call.event, error)
            elif error.status >= 500 and not isinstance(error, EventTimeoutError):  # which was logged when it ran out
                logger.error("%s.%s failed: %s", call.state, call.event, error, exc_info=error)
            return self._refused(error, seen.frames)
        except ValidationError as error:
            # A model that the event made of what it was given: its own words, without the value.
            place, message = explained_by_title(error)[0]
            named = ".".join(map(str, (error.title, *place)))
            self.provider.refused += 1
            return EventResponse(message_frame(f"{named[:200]}: {message[:300]}", 400), 400)
        except HTTPException as error:
            self.provider.refused += 1
            return EventResponse(message_frame(str(error.detail), error.status_code), error.status_code)
        except Exception as error:
            failed = "the event %s.%s failed; nothing was changed"
            logger.error(failed, call.state, call.event, exc_info=told_of(error))
            self.provider.refused += 1
            return EventResponse(message_frame(_BROKEN, 500), 500)
        if call.is_form and call.nonce is not None:
            # In one patch: the form's own expression goes on when it has been taken in.
            version = {"v": seen.version} if seen.version is not None else {}
            seen.frames += signals_frame({"_fs": {"ok": call.nonce, **version}})
        return EventResponse(seen.frames)

    async def leave(self, request: Request) -> Response:
        """POST: a page was left for good. A beacon, which can have no header of ours and whose answer nobody reads."""
        context = self.provider.context(request)
        headers = headers_of(request.scope)
        rates = self.provider.event_rates
        if not is_cross_site(headers) and not rates.take(context.session_id(), context.address):
            try:
                reading = _read_body(request.receive, headers, self.provider.max_payload)
                try:
                    body = await self.provider.registry.running.receive(reading, self.provider.body_timeout)
                except TimeoutError:
                    return PlainTextResponse("The beacon took too long to arrive.", 408, {"connection": "close"})
                again = _Replayed(self._app, request.scope, body)
                again.state.faststate_left = tokens_of(_parse(body))
                await self._let_through(again, self._leave, self._left)
            except (FastStateError, StaleTokens) as error:
                logger.info("a page was left, which changes nothing: %r", error)
        return Response(status_code=204)

    async def _left(self, request: Request) -> Response:
        await leave_page(self.provider.context(request), request.state.faststate_left)
        return Response(status_code=204)

    async def stream(self, request: Request) -> Response:
        """POST: the page's stream, whose tokens are in the body, which may be long; GET for pages of older versions.

        204 ends it for good, 503 has the page try again. A refusal (400, 403, 408, 413, 429) is shown by the page,
        which tries again later. A GET is refused by 204: the pages that send one show nothing, and would ask at once.
        """
        response: Response | None = None
        try:
            response = await self._stream_response(request)
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
            if hasattr(session, "modified"):  # Starlette's: a stream is no place for a cookie, and answers long after
                session.modified = False
        response.headers["cache-control"] = "no-store"
        return response

    async def _stream_response(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(status_code=204)
        if self.provider.sse_manager.draining:
            return PlainTextResponse(BUSY, 503, {"retry-after": "1"})
        headers, body = headers_of(request.scope), b""
        if b"datastar-request" not in headers or is_cross_site(headers):
            return _no_stream(request, 403, "Streams are opened by the app's own pages alone.")
        context = self.provider.context(request)
        if wait := self.provider.stream_rates.take(context.session_id(), context.address):
            self.provider.refused += 1
            text = "Too many streams were opened at once. The page tries again."
            return PlainTextResponse(text, 429, {"retry-after": str(ceil(wait))})
        try:
            if request.method == "POST":
                reading = _read_body(request.receive, headers, self.provider.max_payload)
                asked = body = await self.provider.registry.running.receive(reading, self.provider.body_timeout)
            else:
                asked = request.query_params.get("datastar", "").encode(errors="replace")
            payload = _parse(asked, self.provider.max_depth)
            if not isinstance(payload, dict):
                raise EventArgumentError("the payload must be an object")
        except TimeoutError:
            response = _no_stream(request, 408, "The request took too long to arrive.")
            response.headers["connection"] = "close"
            return response
        except EventArgumentError as error:
            return _no_stream(request, 413 if isinstance(error, _TooLarge) else 400, str(error))
        # Not into the request's state, which uvicorn keeps as long as the stream is open.
        request.scope[_ASKED] = payload
        # FastHTML reads the body of every request, however long and slow: this one has been read, within its bounds.
        response = await self._let_through(_Replayed(self._app, request.scope, body), self._stream, self._open)
        if isinstance(response, StreamResponse):
            drain_on_signal(self.provider)
            return response
        if (
            isinstance(response, EventResponse | _NoStream)
            or response.status_code == 429
            or response.status_code >= 500
        ):
            return response
        return Response(status_code=204)

    async def _open(self, request: Request) -> Response:
        context, payload = self.provider.context(request), request.scope.pop(_ASKED)
        if context.session_id() is None:
            # An ended session's page starts anew; where no cookie came back at all, a new page would fare no better.
            return EventResponse(reload_frame() if context.ended_session is not None else b"")
        try:
            tokens = tokens_of(payload)
            instead = await tokens_instead(context, tokens)
            seen = request.headers.get("last-event-id") or payload.get("n")
            is_first = "last-event-id" not in request.headers and payload.get("n") != ""
            opened = await open_connection(context, tokens, seen if isinstance(seen, str) else None, is_first=is_first)
        except StaleTokens:
            return EventResponse(reload_frame())
        except ForgedTokens as error:
            return _no_stream(request, 403, str(error))
        except EventArgumentError as error:
            return _no_stream(request, 400, str(error))
        except LimitError as error:
            return PlainTextResponse(str(error), 429, {"retry-after": "5"})
        if isinstance(opened, SSEConnection):
            request.scope[_OPENED] = opened  # and not into its state, which uvicorn has as long as the stream is open
            return StreamResponse(self.provider, opened, instead)
        return EventResponse(opened or b"")

    async def datastar(self, request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = self.provider.datastar_src
        if datastar_url(self.provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})
