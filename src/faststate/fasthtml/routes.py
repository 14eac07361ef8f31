"""The library's own routes: events, streams, and the local copy of Datastar."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from fasthtml.core import HTTPException, noop_body
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from ..dispatch import (
    Call,
    ForgedTokens,
    StaleTokens,
    dispatch,
    leave_page,
    open_connection,
    safe_location,
    tokens_of,
)
from ..exceptions import EventArgumentError, EventConflictError, FastStateError, LimitError, PersistenceError
from ..page import message_frame, reload_frame
from ..provider import StateProvider
from ..sse import SSEConnection
from ..wire import signals_frame
from .script import datastar_url
from .streams import SSE_HEADERS, StreamResponse, drain_on_signal

__all__ = ["BUSY", "UNREAD", "EventResponse", "Routes"]

logger = logging.getLogger("faststate")

BUSY: Final = "The server is restarting. Please try again."
UNREAD: Final = "What this page shows cannot be had just now. Please try again later."
_UNSAVED: Final = "This could not be saved. Please try again."
_BROKEN: Final = "Something went wrong on the server. Nothing was changed."


class EventResponse(Response):
    """The answer to an event: 204, or SSE that says what happened; `FastState-Status` holds the status meant."""

    def __init__(self, frames: bytes = b"", status: int | None = None) -> None:
        headers = {"cache-control": "no-store"}
        if status is not None:
            headers["faststate-status"] = str(status)
        if frames:
            headers |= SSE_HEADERS
        super().__init__(frames or None, status_code=200 if frames else 204, headers=headers)


def _is_cross_site(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")  # another subdomain or port is another app
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class _TooSlow(Exception):
    """The body did not arrive in time."""


async def _read_body(request: Request, limit: int, seconds: float) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise EventArgumentError(f"the payload has {declared} bytes; the most is {limit}")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise EventArgumentError(f"the payload is larger than {limit} bytes")
    except TimeoutError:
        raise _TooSlow from None
    except ClientDisconnect:
        raise EventArgumentError("the payload ended too early") from None
    return bytes(body)


def _replayed(request: Request, body: bytes) -> Request:
    """The same request, of which the body has been read, for FastHTML to read it again."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, replay)


def _parse(body: bytes) -> Any:
    try:
        payload = json.loads(body or b"{}")
        # JSON can write half of a character (a lone surrogate), which no page could be sent.
        json.dumps(payload, ensure_ascii=False).encode()
        return payload
    except UnicodeEncodeError:
        raise EventArgumentError("the payload holds text that is not Unicode (a lone surrogate)") from None
    except RecursionError:
        raise EventArgumentError("the payload is nested too deep") from None
    except ValueError:
        raise EventArgumentError("the payload is not JSON") from None


class Routes:
    """The endpoints of one app. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        # FastHTML's own wrapper runs the app's Beforeware for the library's routes, as for any other.
        self._event = endpoint(self._dispatch, noop_body)
        self._stream = endpoint(self._open, noop_body)
        self._leave = endpoint(self._left, noop_body)
        prefix = provider.prefix
        app.router.routes[:0] = [
            Route(f"{prefix}/event/{{state}}/{{event}}", self.event, methods=["POST"], name="faststate-event"),
            Route(f"{prefix}/leave", self.leave, methods=["POST"], name="faststate-leave"),
            Route(f"{prefix}/stream", self.stream, methods=["GET"], name="faststate-stream"),
            Route(f"{prefix}/datastar", self.datastar, methods=["GET"], name="faststate-datastar"),
        ]

    async def event(self, request: Request) -> Response:
        """POST: runs an event. Attacks get a plain status; what a person may run into is shown in the page."""
        if "datastar-request" not in request.headers or _is_cross_site(request):
            return PlainTextResponse("Events are sent by the app's own pages alone.", 403)
        context = self.provider.context(request)
        if wait := self.provider.event_buckets.take(context.session_id() or f"address {context.address}"):
            refused = self._refused(LimitError("Too many actions at once. Please wait a moment."))
            refused.headers["retry-after"] = str(ceil(wait))
            return refused
        try:
            body = await _read_body(request, self.provider.max_payload, self.provider.body_timeout)
            call = Call.parse(
                request.path_params["state"],
                request.path_params["event"],
                _parse(body),
                request.query_params.multi_items(),
                request.headers,
                self.provider.max_depth,
            )
        except _TooSlow:
            return PlainTextResponse("The event took too long to arrive.", 408, {"connection": "close"})
        except StaleTokens:
            return EventResponse(reload_frame(), 403)
        except FastStateError as error:
            return self._refused(error)

        again = _replayed(request, body)
        again.state.faststate_call = call
        response = await self._event(again)
        if isinstance(response, EventResponse):
            return response
        return self._before_answered(response)

    def _before_answered(self, response: Response) -> Response:
        """A Beforeware's own answer, in a form that Datastar does not drop."""
        if 300 <= response.status_code < 400:
            try:
                location = safe_location(response.headers.get("location", "/"))
            except FastStateError as error:
                logger.error("a Beforeware redirects to where no browser may be sent: %s", error)
                return self._refused(error)
            frames = signals_frame({"_fs": {"go": location}})
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
        message = str(error) if error.status < 500 else (BUSY if error.status == 503 else _BROKEN)
        message = _UNSAVED if isinstance(error, PersistenceError) else message
        return EventResponse(frames + message_frame(message, error.status), error.status)

    async def _dispatch(self, request: Request) -> Response:
        context = self.provider.context(request)
        call: Call = request.state.faststate_call
        manager = self.provider.sse_manager
        live = manager.connections.get(call.connection_id or "")
        if live is not None and (live.closed or live.silent or live.session_id != context.session_id()):
            live = None
        if call.tokens and context.session_id() is None:
            # The session was cleared by another tab, which a reload settles; or cookies are off, which is then told.
            frames = reload_frame()
            if context.ended_session is None:
                frames += message_frame("This page needs cookies to work.", 403)
            return EventResponse(frames, 403)
        frames, version = b"", None
        try:
            effects = dispatch(context, call, live)
            try:
                async for effect in effects:
                    version = effect.version
                    if live is not None and not (live.closed or live.silent):
                        if effect.frames:
                            live.send_frame(effect.frames)
                    else:
                        frames += effect.frames
            finally:
                await effects.aclose()  # type: ignore[attr-defined]  # dispatch is an async generator
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
                frames += signals_frame({"_fs": {"v": error.version}})
            if error.status >= 500:
                logger.error("%s.%s failed: %s", call.state, call.event, error, exc_info=error)
            return self._refused(error, frames)
        except ValidationError as error:
            # A model that the event made of what it was given: its own words, without the value.
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, (error.title, *problem["loc"])))
            self.provider.refused += 1
            return EventResponse(message_frame(f"{place}: {problem['msg']}", 400), 400)
        except HTTPException as error:
            self.provider.refused += 1
            return EventResponse(message_frame(str(error.detail), error.status_code), error.status_code)
        except Exception:
            logger.exception("the event %s.%s failed; nothing was changed", call.state, call.event)
            self.provider.refused += 1
            return EventResponse(message_frame(_BROKEN, 500), 500)
        if call.is_form and call.nonce is not None:
            # In one patch: the form's own expression goes on when it has been taken in.
            frames += signals_frame({"_fs": {"ok": call.nonce, **({"v": version} if version is not None else {})}})
        return EventResponse(frames)

    async def leave(self, request: Request) -> Response:
        """POST: a page was left for good. A beacon, which can have no header of ours and whose answer nobody reads."""
        context = self.provider.context(request)
        client = context.session_id() or f"address {context.address}"
        if not _is_cross_site(request) and not self.provider.event_buckets.take(client):
            try:
                body = await _read_body(request, self.provider.max_payload, self.provider.body_timeout)
                again = _replayed(request, body)
                again.state.faststate_left = tokens_of(_parse(body))
                await self._leave(again)
            except _TooSlow:
                return PlainTextResponse("The beacon took too long to arrive.", 408, {"connection": "close"})
            except (FastStateError, StaleTokens) as error:
                logger.info("a page was left, which changes nothing: %r", error)
        return Response(status_code=204)

    async def _left(self, request: Request) -> Response:
        await leave_page(self.provider.context(request), request.state.faststate_left)
        return Response(status_code=204)

    async def stream(self, request: Request) -> Response:
        """GET: the page's stream. 204 ends it for good, 429 and 503 have the page try again."""
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
            opened = getattr(request.state, "faststate_opened", None)
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
        if "datastar-request" not in request.headers or _is_cross_site(request):
            return Response(status_code=204)
        # FastHTML reads the body of every request, however long and slow: a stream's has none.
        response: Response = await self._stream(Request(request.scope, _no_body))
        if isinstance(response, StreamResponse):
            drain_on_signal(self.provider)
            return response
        if isinstance(response, EventResponse) or response.status_code == 429 or response.status_code >= 500:
            return response
        return Response(status_code=204)

    async def _open(self, request: Request) -> Response:
        context = self.provider.context(request)
        if context.session_id() is None:
            # An ended session's page starts anew; where no cookie came back at all, a new page would fare no better.
            return EventResponse(reload_frame() if context.ended_session is not None else b"")
        try:
            payload = _parse(request.query_params.get("datastar", "").encode(errors="replace"))
            if not isinstance(payload, dict):
                raise EventArgumentError("the payload must be an object")
            seen = request.headers.get("last-event-id") or payload.get("n")
            is_first = "last-event-id" not in request.headers and payload.get("n") != ""
            opened = await open_connection(
                context, tokens_of(payload), seen if isinstance(seen, str) else None, is_first=is_first
            )
        except StaleTokens:
            return EventResponse(reload_frame())
        except (ForgedTokens, EventArgumentError):
            return EventResponse()
        except LimitError as error:
            return PlainTextResponse(str(error), 429, {"retry-after": "5"})
        if isinstance(opened, SSEConnection):
            request.state.faststate_opened = opened
            return StreamResponse(self.provider, opened)
        return EventResponse(opened or b"")

    async def datastar(self, request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = self.provider.datastar_src
        if datastar_url(self.provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})
