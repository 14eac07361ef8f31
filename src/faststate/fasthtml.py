"""The FastHTML integration: `fast_app`, `setup`, injection, routes, streams, and errors as responses.

The private names of FastHTML that this rests on are the bound methods `app._endp` and `app._add_ws`, which every route
passes; they are replaced on the app, not on its class, and their absence is reported at setup.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import signal
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any, Final

from fastcore.xml import FT
from fasthtml import common as fh
from fasthtml.core import Beforeware, FtResponse, HttpHeader, is_full_page, noop_body
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import current_request, current_user
from .dispatch import (
    Call,
    ForgedTokens,
    StaleTokens,
    dispatch,
    message_frame,
    open_connection,
    reload_frame,
    safe_location,
    tokens_of,
)
from .exceptions import (
    AccessError,
    ConfigurationError,
    EventArgumentError,
    FastStateError,
    StateNotFoundError,
)
from .page import LiveElement, SeedElement, script_element
from .parameters import Depends, StateParameter, mentions_state, signature_of, state_parameter
from .provider import RequestContext, StateProvider
from .registry import Entry
from .scopes import StateScope
from .sse import LAST_WRITE, SSEConnection
from .state import current_page
from .wire import signals_frame

__all__ = ["EventResponse", "StreamResponse", "fast_app", "setup"]

logger = logging.getLogger("faststate")

_CONNECTION: Final = "faststate_connection"
_SSE_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
}
_BUSY: Final = "The server is restarting. Please try again."
_BROKEN: Final = "Something went wrong on the server. Nothing was changed."


# -- injection ---------------------------------------------------------------------------------------------------------


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if _is_async(function):
        return await function(*args, **kwargs)
    return await run_in_threadpool(function, *args, **kwargs)


class _Injection:
    """The parameters of one handler that FastState fills. Lifetime: the route."""

    def __init__(self, provider: StateProvider, function: Callable[..., Any]) -> None:
        self.provider = provider
        self.states: list[tuple[StateParameter, StateProvider]] = []
        self.dependencies: list[tuple[str, Callable[..., Any]]] = []
        self.signature = signature = signature_of(function, fallback=provider.class_names())
        kept: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            dependency = parameter.default.dependency if isinstance(parameter.default, Depends) else None
            wanted = state_parameter(parameter.name, parameter.annotation, provider.class_named)
            owner = getattr(dependency, "__self__", None)
            if wanted is not None:
                self.states.append((wanted, owner if isinstance(owner, StateProvider) else provider))
            elif isinstance(owner, StateProvider) and dependency is not None:
                raise ConfigurationError(
                    f"{parameter.name} of {function.__qualname__} depends on get_state: annotate it with a state class"
                )
            elif dependency is not None:
                self.dependencies.append((parameter.name, dependency))
            elif mentions_state(parameter.annotation):
                raise ConfigurationError(
                    f"{parameter.name} of {function.__qualname__} asks for states in a form that is not known: write "
                    "S, S | None or Annotated[S, Component(...)], one parameter for each state"
                )
            else:
                if isinstance(parameter.annotation, str):
                    inspect.signature(function, eval_str=True)  # raises NameError, as FastHTML does
                kept.append(parameter)
        at_end = next((i for i, p in enumerate(kept) if p.kind is p.VAR_KEYWORD), len(kept))
        kept.insert(at_end, inspect.Parameter(_CONNECTION, inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection))
        self.rest = signature.replace(parameters=kept)

    async def fill(self, connection: HTTPConnection) -> dict[str, Any]:
        """The values of the parameters, for one request."""
        filled: dict[str, Any] = {}
        entries: dict[str, Entry] = {}
        for wanted, provider in self.states:
            try:
                entries[wanted.name] = await _resolve(provider, wanted, connection)
            except (AccessError, StateNotFoundError):
                if not wanted.optional:
                    raise
                filled[wanted.name] = None
        for name, dependency in self.dependencies:
            wanted_by_it = (connection,) if inspect.signature(dependency).parameters else ()
            filled[name] = await _call(dependency, *wanted_by_it)
        # From here nothing is awaited: all states are taken at one moment, with no event half done between two of them.
        self.provider.context(connection).page.refresh()
        return {**filled, **{name: entry.state for name, entry in entries.items()}}


async def _resolve(provider: StateProvider, wanted: StateParameter, connection: HTTPConnection) -> Entry:
    record = None
    if wanted.record is not None:
        record = connection.path_params.get(wanted.record.argument)
    return await provider.resolve(
        wanted.cls,
        connection,
        component_id=wanted.component.component_id if wanted.component else None,
        record_id=record,
    )


def _inject(provider: StateProvider, function: Any, *, page: bool) -> Any:
    """`function` with its states filled in; with `page`, what it returns gets the live element."""
    if function is None or getattr(function, "__faststate__", None) is not None:
        return function
    injection = _Injection(provider, function)

    async def handler(**arguments: Any) -> Any:
        connection = arguments.pop(_CONNECTION)
        arguments |= await injection.fill(connection)
        result = await _call(function, **arguments)
        return _make_live(provider.context(connection), connection, result) if page else result

    update_wrapper(handler, function)
    handler.__signature__ = injection.rest  # type: ignore[attr-defined]  # what FastHTML reads
    handler.__faststate__ = injection  # type: ignore[attr-defined]  # for the check at start
    return handler


_MANY = (tuple, list, map, filter, range, types.GeneratorType)


def _make_live(context: RequestContext, request: Any, result: Any) -> Any:
    """`result` of a handler, with the elements that make its page follow the states that it shows."""
    page = context.page
    if not page.states or page.live_added:
        return result
    if isinstance(result, FtResponse):
        parts = result.content if isinstance(result.content, tuple) else (result.content,)
        if not is_full_page(request, parts):
            _extend_page(context, request)
        else:
            result.content = _with_live(context, request, parts)
        page.live_added = True
        return result
    if isinstance(result, str) and not hasattr(result, "__ft__"):
        if request.app.debug and result.lstrip().startswith("<"):
            raise ConfigurationError(
                "this handler returns HTML as text, so its states cannot be made live: add state.watch() to it, or "
                "return FT"
            )
        return result
    if not (isinstance(result, (*_MANY, FT, HttpHeader)) or hasattr(result, "__ft__")):
        return result
    page.live_added = True
    parts = tuple(result) if isinstance(result, _MANY) else (result,)
    flat = tuple(item for part in parts for item in (part if isinstance(part, _MANY) else (part,)))
    if is_full_page(request, flat):  # FastHTML's name for "not to be wrapped into a page"
        return _with_live(context, request, flat)
    _extend_page(context, request)
    return parts if isinstance(result, _MANY) else result


def _with_live(context: RequestContext, request: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    """`parts` of a fragment or a whole document, with its signals before all that reads them, and the live element."""
    seed = SeedElement(context.page)
    if not any(getattr(part, "tag", "") == "html" for part in parts):
        return (seed, *parts, LiveElement(context.page, with_signals=False))
    script = _script_source(context.provider, request)
    whole = (_with_seed(part, seed) if getattr(part, "tag", "") == "html" else part for part in parts)
    return (*whole, LiveElement(context.page, with_signals=False, script=script))


def _with_seed(html: FT, seed: SeedElement) -> FT:
    children = list(html.children)
    for i, child in enumerate(children):
        if getattr(child, "tag", "") == "head":
            children[i] = FT("head", (seed, *child.children), child.attrs)
            break
    else:
        children.insert(0, seed)
    return FT(html.tag, tuple(children), html.attrs)


def _extend_page(context: RequestContext, request: Any) -> None:
    request.hdrs.append(SeedElement(context.page))
    request.ftrs.append(LiveElement(context.page, with_signals=False))


def _add_late(context: RequestContext, request: Any) -> None:
    """For handlers defined before `setup`: head and footer are what is left, and serve whole pages alone."""
    if not context.page.live_added and hasattr(request, "ftrs"):
        context.page.live_added = True
        _extend_page(context, request)


# -- the middleware ----------------------------------------------------------------------------------------------------


class FastStateMiddleware:
    """Gives each request its context. The innermost middleware: the session is there already. Lifetime: the app."""

    def __init__(self, app: ASGIApp, provider: StateProvider, owner: Any) -> None:
        self.app = app
        self.provider = provider
        self.owner = owner
        self._checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._checked:
            _check_routes(self.provider, self.owner)
            self._checked = True
        _wrap_before(self.provider, self.owner)
        self.provider._loop = asyncio.get_running_loop()  # a plain `with modify` in a thread works on this one
        connection = HTTPConnection(scope)
        context = RequestContext(self.provider, connection)
        context.add_late = lambda request: _add_late(context, request)
        scope["faststate"] = context
        self.provider._loop = asyncio.get_running_loop()
        tokens = (current_request.set(connection), current_page.set(context.page), current_user.set(None))
        try:
            await self.app(scope, receive, send)
        finally:
            current_request.reset(tokens[0])
            current_page.reset(tokens[1])
            current_user.reset(tokens[2])


def _wrap_before(provider: StateProvider, app: Any) -> None:
    """Beforeware is read per request and may be added until the first: its functions are wrapped where they stand."""
    for i, before in enumerate(app.before):
        if isinstance(before, Beforeware):
            if getattr(before.f, "__faststate__", None) is None:
                # A new one: another app, with a provider of its own, may use the same object.
                app.before[i] = Beforeware(_inject(provider, before.f, page=False), before.skip)
        elif getattr(before, "__faststate__", None) is None:
            app.before[i] = _inject(provider, before, page=False)


def _check_routes(provider: StateProvider, app: Any) -> None:
    """Reports what no request could ever be served with. Raises `ConfigurationError`."""
    for route in app.router.routes:
        injection = getattr(getattr(route, "endpoint", None), "__faststate__", None)
        if injection is None:
            continue
        for wanted, owner in injection.states:
            config = owner.config_of(wanted.cls)
            where = f"the parameter {wanted.name!r} of the route {route.path}"
            if config.scope is StateScope.COMPONENT and wanted.component is None:
                raise ConfigurationError(f"{where} is a component state: annotate it Annotated[…, Component('id')]")
            if config.scope is StateScope.RECORD:
                names = list(route.param_convertors)
                asked = wanted.record.argument if wanted.record else None
                if (asked not in names) if asked else owner.record_parameter(wanted.cls, names) is None:
                    raise ConfigurationError(
                        f"{where} is a record state, and its id is not in the path: name the path parameter with "
                        "StateConfig(record_param=…) or Annotated[…, Record('name')]"
                    )


# -- responses ---------------------------------------------------------------------------------------------------------


class EventResponse(Response):
    """The answer to an event: 204, or SSE that says what happened; `FastState-Status` holds the status meant."""

    def __init__(self, frames: bytes = b"", status: int | None = None) -> None:
        headers = {"cache-control": "no-store"}
        if status is not None:
            headers["faststate-status"] = str(status)
        if frames:
            headers |= _SSE_HEADERS
        super().__init__(frames or None, status_code=200 if frames else 204, headers=headers)


class StreamResponse(Response):
    """A page's stream, until one side ends it. Lifetime: the connection."""

    def __init__(self, provider: StateProvider, connection: SSEConnection) -> None:
        self.provider = provider
        self.connection = connection
        super().__init__(None, status_code=200, headers=_SSE_HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager, connection = self.provider.sse_manager, self.connection

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            manager.remove_connection(connection.id)

        leaving = asyncio.create_task(leave(), name="faststate-leave")
        try:
            await self._write(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            waiting = signals_frame({"_fs": {"c": connection.id}}) + connection.drain()
            waiting += self._position()
            while not connection.closed:
                if waiting:
                    await self._write(send, {"type": "http.response.body", "body": waiting, "more_body": True})
                    connection.sent_bytes += len(waiting)
                    connection.last_ping = datetime.now(UTC)
                if await connection.wait(self.provider.heartbeat):
                    waiting = connection.drain()
                    waiting += self._position() if waiting else b""
                else:
                    waiting = b": \n\n"  # a comment: finds the dead, and keeps proxies from cutting a quiet stream
            if not leaving.done():
                await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            manager.cut += 1
            logger.info("a reader took nothing for %g s and was cut", self.provider.write_timeout)
        except OSError:
            pass  # gone while it was written to
        finally:
            manager.remove_connection(connection.id)
            leaving.cancel()

    async def _write(self, send: Send, message: Message) -> None:
        connection = self.connection
        try:
            limit = LAST_WRITE if connection.closed else self.provider.write_timeout
            async with asyncio.timeout(limit) as connection.write_limit:
                await send(message)
        finally:
            connection.write_limit = None

    def _position(self) -> bytes:
        # An event of its own behind all others: the client takes an id when it reads the line, so one that stood
        # before the data would be believed even when the data was cut off.
        return f"id: {self.provider.sse_manager.position()}\n\n".encode()


# -- the library's own routes ------------------------------------------------------------------------------------------


def _is_cross_site(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "cross-site"
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


async def _read_body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise EventArgumentError(f"the payload has {declared} bytes; the most is {limit}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise EventArgumentError(f"the payload is larger than {limit} bytes")
    return bytes(body)


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


class _Routes:
    """The endpoints of one app. Lifetime: the app."""

    def __init__(self, provider: StateProvider, app: Any, endpoint: Callable[..., Any]) -> None:
        self.provider = provider
        # FastHTML's own wrapper runs the app's Beforeware for the library's routes, as for any other.
        self._event = endpoint(self._dispatch, noop_body)
        self._stream = endpoint(self._open, noop_body)
        prefix = provider.prefix
        app.router.routes[:0] = [
            Route(f"{prefix}/event/{{state}}/{{event}}", self.event, methods=["POST"], name="faststate-event"),
            Route(f"{prefix}/stream", self.stream, methods=["GET"], name="faststate-stream"),
            Route(f"{prefix}/datastar", self.datastar, methods=["GET"], name="faststate-datastar"),
        ]

    async def event(self, request: Request) -> Response:
        """POST: runs an event. Attacks get a plain status; what a person may run into is shown in the page."""
        if "datastar-request" not in request.headers or _is_cross_site(request):
            return PlainTextResponse("Events are sent by the app's own pages alone.", 403)
        try:
            body = await _read_body(request, self.provider.max_payload)
            payload = _parse(body)
            call = Call.parse(
                request.path_params["state"],
                request.path_params["event"],
                payload,
                request.query_params.multi_items(),
                request.headers,
                self.provider.max_depth,
            )
        except StaleTokens:
            return EventResponse(reload_frame(), 403)
        except FastStateError as error:
            return self._refused(error)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        again = Request(request.scope, replay)
        again.state.faststate_call = call
        response = await self._event(again)
        if isinstance(response, EventResponse):
            return response
        return self._before_answered(response)

    def _before_answered(self, response: Response) -> Response:
        """A Beforeware's own answer, in a form that Datastar does not drop."""
        if 300 <= response.status_code < 400:
            location = response.headers.get("location", "/")
            frames = signals_frame({"_fs": {"go": safe_location(location)}})
        else:
            frames = message_frame("You may not do this." if response.status_code < 500 else _BROKEN)
        self.provider.refused += 1
        answer = EventResponse(frames, response.status_code)
        for name, value in response.raw_headers:
            if name == b"set-cookie":
                answer.raw_headers.append((name, value))
        return answer

    def _refused(self, error: FastStateError) -> EventResponse:
        self.provider.refused += 1
        message = str(error) if error.status < 500 else (_BUSY if error.status == 503 else _BROKEN)
        return EventResponse(message_frame(message), error.status)

    async def _dispatch(self, request: Request) -> Response:
        context = self.provider.context(request)
        call: Call = request.state.faststate_call
        manager = self.provider.sse_manager
        live = manager.connections.get(call.connection_id or "")
        if live is not None and (live.closed or live.session_id != context.session_id()):
            live = None
        if call.tokens and context.session_id() is None:
            # The session was cleared by another tab, which a reload settles; or cookies are off, which is then told.
            frames = reload_frame() + message_frame("This page needs cookies to work.")
            return EventResponse(frames, 403)
        frames = b""
        try:
            effects = dispatch(context, call, live)
            try:
                async for effect in effects:
                    if live is not None and not live.closed:
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
            if error.status >= 500:
                logger.error("%s.%s failed: %s", call.state, call.event, error, exc_info=error)
            return self._refused(error)
        except ValidationError as error:
            # A model that the event made of what it was given: its own words, without the value.
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, (error.title, *problem["loc"])))
            self.provider.refused += 1
            return EventResponse(message_frame(f"{place}: {problem['msg']}"), 400)
        except fh.HTTPException as error:
            self.provider.refused += 1
            return EventResponse(message_frame(str(error.detail)), error.status_code)
        except Exception:
            logger.exception("the event %s.%s failed; nothing was changed", call.state, call.event)
            self.provider.refused += 1
            return EventResponse(message_frame(_BROKEN), 500)
        if call.is_form and call.nonce is not None:
            frames += signals_frame({"_fs": {"ok": call.nonce}})
        return EventResponse(frames)

    async def stream(self, request: Request) -> Response:
        """GET: the page's stream. 204 ends it for good, 503 has the page try again."""
        if request.method == "HEAD":
            return Response(status_code=204)
        if self.provider.sse_manager.draining:
            return PlainTextResponse(_BUSY, 503, {"retry-after": "1"})
        if "datastar-request" not in request.headers or _is_cross_site(request):
            return Response(status_code=204)
        response = await self._stream(request)
        if isinstance(response, StreamResponse):
            _drain_on_signal(self.provider)
            return response
        if isinstance(response, EventResponse) or response.status_code >= 500:
            return response if isinstance(response, Response) else Response(status_code=204)
        return Response(status_code=204)

    async def _open(self, request: Request) -> Response:
        context = self.provider.context(request)
        if context.session_id() is None:
            return EventResponse()  # no cookie came back: nothing that the page shows can be told to it
        try:
            payload = _parse(request.query_params.get("datastar", "").encode(errors="replace"))
            if not isinstance(payload, dict):
                raise EventArgumentError("the payload must be an object")
            seen = request.headers.get("last-event-id") or payload.get("n")
            connection = await open_connection(context, tokens_of(payload), seen if isinstance(seen, str) else None)
        except StaleTokens:
            return EventResponse(reload_frame())
        except (ForgedTokens, EventArgumentError):
            return EventResponse()
        return EventResponse() if connection is None else StreamResponse(self.provider, connection)

    async def datastar(self, request: Request) -> Response:
        """GET: the local copy of Datastar, where `datastar_src` is a file."""
        source = self.provider.datastar_src
        if _datastar_url(self.provider) == source:
            return PlainTextResponse("Datastar is not served from here.", 404)
        return FileResponse(source, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})


def _script_source(provider: StateProvider, connection: HTTPConnection | None) -> str:
    """The URL of Datastar: as configured, or of our own route where a file is configured."""
    source = _datastar_url(provider)
    is_ours = source != provider.datastar_src and connection is not None
    return str(connection.scope.get("root_path", "")) + source if is_ours and connection is not None else source


def _datastar_url(provider: StateProvider) -> str:
    source = provider.datastar_src
    if "://" in source or not Path(source).is_file():
        return source
    return f"{provider.prefix}/datastar"


class _DatastarScript:
    """The script tag in every page's head. Lifetime: the app; it is copied per request by FastHTML."""

    def __init__(self, provider: StateProvider) -> None:
        self._provider = provider

    def __deepcopy__(self, memo: Any) -> _DatastarScript:
        return self

    def __ft__(self) -> FT:
        return script_element(_script_source(self._provider, current_request.get()))


# -- the end of a process ----------------------------------------------------------------------------------------------

_watched_signals: dict[StateProvider, bool] = {}


def _drain_on_signal(provider: StateProvider) -> None:
    """Has SIGTERM and SIGINT end the streams before the server waits for them, which it would do for ever.

    uvicorn waits for open connections before it runs shutdown handlers. The server's own handler is called afterwards,
    so everything else goes as it would. Without a handler (a script, a thread) there is nothing to chain to.
    """
    if _watched_signals.get(provider) or threading.current_thread() is not threading.main_thread():
        return
    _watched_signals[provider] = True
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if not callable(previous) or previous is signal.default_int_handler:
            continue

        def handle(number: int, frame: Any, previous: Callable[..., Any] = previous) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_drain, loop, provider, getattr(previous, "__self__", None))
            previous(number, frame)

        signal.signal(number, handle)


def _drain(loop: asyncio.AbstractEventLoop, provider: StateProvider, server: Any) -> None:
    provider.sse_manager.drain()
    loop.call_later(LAST_WRITE + 1, _abort_frozen, server)


def _abort_frozen(server: Any) -> None:
    """Lets go of connections that are closed and wait, for ever, until a frozen reader has taken what was written.

    uvicorn keeps its protocols, with their transports, in `server_state.connections`; where they are not to be found,
    its own `--timeout-graceful-shutdown` is the remedy.
    """
    for protocol in list(getattr(getattr(server, "server_state", None), "connections", ())):
        transport = getattr(protocol, "transport", None)
        if transport is not None and transport.is_closing():
            transport.abort()


# -- setup -------------------------------------------------------------------------------------------------------------


def setup(provider: StateProvider, app: Any) -> None:
    """Makes `app` (a FastHTML) serve `provider`'s states; see `StateProvider.setup`."""
    if not isinstance(app, fh.FastHTML):
        raise ConfigurationError(f"setup() takes a FastHTML app, not {type(app).__name__}")
    if getattr(app.state, "faststate", None) is not None:
        raise ConfigurationError("this app has a StateProvider already")
    app.state.faststate = provider
    if provider._signer is None:
        provider.use_secret_key(str(app.secret_key))
    original = getattr(app, "_endp", None)
    if original is None:
        logger.warning("this FastHTML has no _endp: states are injected as plain parameters (`s: S`) alone")
    else:

        def endpoint(function: Any, body_wrap: Any, before: Any = None) -> Any:
            wrapped = _inject(provider, function, page=True)
            befores = before if isinstance(before, list | tuple) else [] if before is None else [before]
            made = original(wrapped, body_wrap, before=[_inject(provider, b, page=False) for b in befores])
            made.__faststate__ = wrapped.__faststate__
            return made

        app._endp = endpoint
    add_ws = getattr(app, "_add_ws", None)
    if add_ws is not None:

        def add_websocket(func: Any, path: str, conn: Any, disconn: Any, name: Any, middleware: Any) -> Any:
            handlers = [_inject(provider, f, page=False) for f in (func, conn, disconn)]
            add_ws(handlers[0], path, handlers[1], handlers[2], name, middleware)
            return func

        app._add_ws = add_websocket
    if original is None:
        raise ConfigurationError("this version of FastHTML is not supported: app._endp is missing")
    _Routes(provider, app, original)
    app.hdrs.append(_DatastarScript(provider))
    app.user_middleware.append(Middleware(FastStateMiddleware, provider=provider, owner=app))
    app.add_exception_handler(FastStateError, _error_response)

    async def started() -> None:
        provider._loop = asyncio.get_running_loop()
        _check_routes(provider, app)
        provider.sse_manager.draining = False  # an app that was stopped may start again, as in tests

    app.on_event("startup")(started)
    app.on_event("shutdown")(provider.stop)


StateProvider.installer = setup


async def _error_response(connection: HTTPConnection, error: Exception) -> Any:
    status = getattr(error, "status", 500)
    if connection.scope["type"] == "websocket":
        await connection.close(1008 if status < 500 else 1011)  # type: ignore[attr-defined]  # a WebSocket has it
        return None
    if status >= 500 and status != 503:
        raise error
    return PlainTextResponse(str(error) if status < 500 else _BUSY, status)


def fast_app(
    db_file: str | None = None,
    render: Callable[..., Any] | None = None,
    hdrs: Iterable[Any] | None = None,
    ftrs: Iterable[Any] | None = None,
    tbls: dict[str, Any] | None = None,
    before: Any = None,
    middleware: Iterable[Any] | None = None,
    live: bool = False,
    debug: bool = False,
    title: str = "FastHTML page",
    routes: Iterable[Any] | None = None,
    exception_handlers: dict[Any, Any] | None = None,
    on_startup: Any = None,
    on_shutdown: Any = None,
    lifespan: Any = None,
    default_hdrs: bool = True,
    pico: bool | None = None,
    surreal: bool | None = True,
    htmx: bool | None = True,
    htmx4: bool | None = False,
    exts: list[str] | str | None = None,
    canonical: bool = True,
    secret_key: str | None = None,
    key_fname: str = ".sesskey",
    session_cookie: str = "session_",
    max_age: int = 365 * 24 * 3600,
    sess_path: str = "/",
    same_site: str = "lax",
    sess_https_only: bool = False,
    sess_domain: str | None = None,
    htmlkw: dict[str, Any] | None = None,
    bodykw: dict[str, Any] | None = None,
    reload_attempts: int | None = 1,
    reload_interval: int | None = 1000,
    static_path: str = ".",
    body_wrap: Callable[..., Any] = noop_body,
    nb_hdrs: bool = False,
    *,
    state_provider: StateProvider | None = None,
    **kwargs: Any,
) -> Any:
    """FastHTML's `fast_app`, with `state_provider=`: `app, rt = fast_app(state_provider=provider)`.

    All other parameters, and what is returned, are FastHTML's. Without a provider it is FastHTML's own `fast_app`.
    """
    made = fh.fast_app(
        db_file, render, hdrs, ftrs, tbls, before, middleware, live, debug, title, routes, exception_handlers,
        on_startup, on_shutdown, lifespan, default_hdrs, pico, surreal, htmx, htmx4, exts, canonical, secret_key,
        key_fname, session_cookie, max_age, sess_path, same_site, sess_https_only, sess_domain, htmlkw, bodykw,
        reload_attempts, reload_interval, static_path, body_wrap, nb_hdrs, **kwargs,
    )  # fmt: skip
    if state_provider is not None:
        state_provider.setup(made[0])
    return made
