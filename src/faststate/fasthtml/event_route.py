"""The route of events: from a request to a dispatched event, and what became of it as an answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, TypeVar

from fasthtml.core import HTTPException
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope

from ..auth.limits import network_of
from ..exceptions import EventConflictError, EventTimeoutError, FastStateError, LimitError, NotStartedError
from ..provider.context import RequestContext
from ..provider.page_event import Effect, safe_location
from ..provider.page_tokens import ForgedTokens, StaleTokens
from ..provider.payload import Call
from ..provider.provider import StateProvider
from ..redaction import explain_by_title, loggable
from ..sessions.caller import is_cross_site
from ..sse.connection import SSEConnection
from ..wire.frames import go_frame, message_frame, reload_frame, signals_frame
from .answers import BROKEN, BUSY, EventResponse, refused_response
from .beforeware import GuardedEndpoint
from .requests import headers_of, parse_json, read_body

logger = logging.getLogger("faststate")

Sent = TypeVar("Sent")

_FAILED: Final = "faststate_failed"
"""Where an event's error waits in the request's scope for the event's route."""


@dataclass(eq=False, slots=True)
class _PageEffects:
    """The effects of an event for its page, sent down its `live` stream or kept for the answer. Lifetime: the event."""

    live: SSEConnection | None
    frames: bytes = b""
    version: str | None = None
    word: bytes = b""

    def take(self, effect: Effect) -> None:
        """Take the effect of a step."""
        if effect.word:
            self.word = effect.word
            return
        live, self.version = self.live, effect.version
        if not effect.frames:
            return
        if live is None or live.closed or live.silent:
            self.frames += effect.frames
        else:
            live.send_frame(effect.frames)


class EventRoute:
    """The endpoint of events. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, make_endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        self._guarded = GuardedEndpoint(app, make_endpoint, self._dispatch)
        self._app = app
        self._path = re.compile(f"{re.escape(provider.options.prefix)}/event/([^/]*)/([^/]*)")
        self._batch_path = f"{provider.options.prefix}/events"
        self.route = Route(
            f"{provider.options.prefix}/event/{{state}}/{{event}}",
            self.endpoint,
            methods=["POST"],
            name="faststate-event",
        )

    async def answer(self, context: RequestContext, scope: Scope, receive: Receive) -> Response | None:
        """Answer a request for an event, past the app's router (10 of 92 µs); return None for any other request.

        An error that this raises is raised again by the event's route, where the app's own exception handlers are.
        """
        router = self._app.router
        if scope["type"] != "http" or scope["method"] != "POST" or router.routes[0] is not self.route:
            return None
        found = self._named(scope)
        if found is None:
            return None
        scope.setdefault("router", router)
        scope["endpoint"] = self.endpoint
        scope["path_params"] = {"state": found[1], "event": found[2]}
        try:
            return await self._answer(context, found[1], found[2], scope, receive)
        except Exception as error:
            scope[_FAILED] = error
            return None

    def _named(self, scope: Scope) -> re.Match[str] | None:
        """Return the names of the state and the event in a request's path; None if it is not an event's."""
        return self._path.fullmatch(_path_below(scope))

    def unavailable(self, scope: Scope, error: FastStateError) -> Response:
        """Answer a request while the store is unavailable; an event's answer is shown by its page."""
        is_ours = self._named(scope) is not None or _path_below(scope) == self._batch_path
        if is_ours and b"datastar-request" in headers_of(scope):
            error.send_again = True
            return self.refuse(error)
        return PlainTextResponse(BUSY, 503, {"retry-after": "5"})

    async def endpoint(self, request: Request) -> Response:
        """POST: run an event. Attacks get a plain status; what a person may run into is shown in the page."""
        if (failed := request.scope.pop(_FAILED, None)) is not None:
            raise failed
        names = request.path_params
        context = self.provider.context(request)
        return await self._answer(context, names["state"], names["event"], request.scope, request.receive)

    # -- before it runs --------------------------------------------------------------------------------------------

    def _answer(
        self, context: RequestContext, state: str, event: str, scope: Scope, receive: Receive
    ) -> Awaitable[Response]:
        def parse(body: bytes, headers: Mapping[bytes, bytes]) -> Call:
            call = Call.parse(
                state,
                event,
                parse_json(body, self.provider.options.max_depth),
                Request(scope).query_params.multi_items() if scope["query_string"] else (),
                header_text(headers, b"faststate-nonce"),
                header_text(headers, b"faststate-connection"),
            )
            call.receive = receive
            return call

        return self.admit(context, scope, receive, parse, self.run)

    async def admit(
        self,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        parse: Callable[[bytes, Mapping[bytes, bytes]], Sent],
        run: Callable[[RequestContext, Sent, str | None], Awaitable[EventResponse]],
    ) -> Response:
        """Answer a request that brings events: `parse` what was sent, and `run` it if all Beforeware lets it through.

        It counts as one event, both of the rate and of those under way.
        """
        headers = headers_of(scope)
        if b"datastar-request" not in headers or is_cross_site(headers):
            return PlainTextResponse("Only the app's own pages may send events.", 403)
        provider, session_id = self.provider, context.session_id()
        if (refused := self.refused_by_rate(context, session_id)) is not None:
            return refused
        client = client_of(context, session_id)
        if (too_many := provider.throttle.begin_event(client)) is not None:
            return self.refuse_for(too_many, 1)
        try:
            try:
                body = await read_body(provider, receive, headers)
                sent = parse(body, headers)
            except TimeoutError:
                return PlainTextResponse("The event took too long to arrive.", 408, {"connection": "close"})
            except StaleTokens:
                return EventResponse(reload_frame(), 403)
            except FastStateError as error:
                return self.refuse(error)

            if self._guarded.is_open:
                return await run(context, sent, session_id)
            response = await self._guarded.answer(scope, body, faststate_sent=(run, sent))
            return response if isinstance(response, EventResponse) else self._before_answered(response)
        finally:
            provider.throttle.end_event(client)

    def _before_answered(self, response: Response) -> Response:
        """Return a Beforeware's own answer in a form that Datastar does not drop."""
        status = response.status_code
        if 300 <= status < 400:
            try:
                frames = go_frame(safe_location(response.headers.get("location", "/")))
            except FastStateError as error:
                logger.error("a Beforeware redirects to where no browser may be sent: %s", error)
                return self.refuse(error)
        else:
            frames = message_frame("You may not do this." if status < 500 else BROKEN, status)
        answer = self._refuse_with(frames, status)
        answer.raw_headers += [(name, value) for name, value in response.raw_headers if name == b"set-cookie"]
        return answer

    # -- refusals --------------------------------------------------------------------------------------------------

    def refuse(self, error: FastStateError, frames: bytes = b"") -> EventResponse:
        """Return the answer that shows an error in the page, behind the `frames` of what was committed before."""
        self.provider.counters.refused += 1
        return refused_response(error, frames)

    def refused_by_rate(self, context: RequestContext, session_id: str | None) -> EventResponse | None:
        """Return the refusal of one event more than the client's rate allows; None if it is allowed."""
        if wait := self.provider.throttle.event_rates.take(session_id, context.address):
            return self.refuse_for("Too many actions at once. Please wait a moment.", ceil(wait))
        return None

    def refuse_for(self, message: str, seconds: int) -> EventResponse:
        """Return the refusal (429) of a client that may try again in so many seconds."""
        refused = self.refuse(LimitError(message))
        refused.headers["retry-after"] = str(seconds)
        return refused

    def _refuse_with(self, frames: bytes, status: int) -> EventResponse:
        self.provider.counters.refused += 1
        return EventResponse(frames, status)

    # -- it runs ---------------------------------------------------------------------------------------------------

    async def _dispatch(self, request: Request) -> Response:
        context = self.provider.context(request)
        run, sent = request.state.faststate_sent
        response: Response = await run(context, sent, context.session_id())
        return response

    async def run(self, context: RequestContext, call: Call, session_id: str | None) -> EventResponse:
        """Run an event that all Beforeware has let through."""
        live, elsewhere = None, False
        if call.connection_id is not None:
            live = self.provider.sse_manager.connections.get(call.connection_id)
            if live is not None and (live.closed or live.silent or live.session_id != session_id):
                live = None
            elsewhere = live is None and self.provider.cluster.is_elsewhere(call.connection_id)
        if call.tokens and session_id is None:
            # The session was cleared by another tab, and a reload is enough; or cookies are off, and the page says so.
            frames = reload_frame()
            if context.ended_session is None:
                frames += message_frame("This page needs cookies to work.", 403)
            return EventResponse(frames, 403)
        effects = _PageEffects(live)
        try:
            await self.provider.dispatcher.dispatch(context, call, live, effects.take, elsewhere=elsewhere)
        except StaleTokens:
            return self._refuse_with(reload_frame(), 403)
        except ForgedTokens as error:
            response = self._refuse_with(b"", 403)
            response.status_code = 403
            logger.warning("refused an event of %s: %s", call.state, error)
            return response
        except FastStateError as error:
            if isinstance(error, EventConflictError):
                effects.frames += signals_frame({"_fs": {"v": error.version}})
            if isinstance(error, NotStartedError):
                logger.info("%s.%s was not run to its end: %s", call.state, call.event, error)
            elif error.status >= 500 and not isinstance(error, EventTimeoutError):  # logged when its time ran out
                logger.error("%s.%s failed: %s", call.state, call.event, error, exc_info=error)
            return self.refuse(error, effects.frames + effects.word)
        except ValidationError as error:
            # The event made a model of what it was given: the model's own words, without the value.
            place, message = explain_by_title(error)[0]
            named = ".".join(map(str, (error.title, *place)))
            return self._refuse_with(effects.word + message_frame(f"{named[:200]}: {message[:300]}", 400), 400)
        except HTTPException as error:
            said = message_frame(str(error.detail), error.status_code)
            return self._refuse_with(effects.word + said, error.status_code)
        except Exception as error:
            failed = "the event %s.%s failed; nothing was changed"
            logger.error(failed, call.state, call.event, exc_info=loggable(error))
            return self._refuse_with(effects.word + message_frame(BROKEN, 500), 500)
        effects.frames += effects.word
        if call.is_form and call.nonce is not None:
            # In one patch: the form's own expression goes on when it has taken this in.
            version = {"v": effects.version} if effects.version is not None else {}
            effects.frames += signals_frame({"_fs": {"ok": call.nonce, **version}})
        return EventResponse(effects.frames)


def client_of(context: RequestContext, session_id: str | None) -> str:
    """Return the name under which a client's events under way are counted: its session's, or its address's."""
    return session_id or f"address {network_of(context.address)}"


def header_text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """Return a header as text; None if it is missing."""
    value = headers.get(name)
    return value.decode("latin-1") if value is not None else None


def _path_below(scope: Scope) -> str:
    """Return a request's path below the one at which the app is mounted."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path[len(root) :] if root and path.startswith(root + "/") else path)
