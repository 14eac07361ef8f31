"""`fast_app` and `setup`: give a FastHTML app its routes, middleware, injection and error responses.

The private names of FastHTML that this rests on are the bound methods `app._endp` and `app._add_ws`, which every route
passes; they are replaced on the app, not on its class, and their absence is reported at setup.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from fasthtml import common as fh
from fasthtml.core import noop_body
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ..exceptions import (
    AuthenticationError,
    BackendError,
    ConfigurationError,
    FastStateError,
    PersistenceError,
    RowUnreadableError,
)
from ..provider.provider import StateProvider
from ..sessions.ended import SESSION_MAX_AGE
from ..wire.frames import go_frame
from .caching import PersonalAnswers
from .cookies import SessionMiddlewareThatRemembers, remembers_sessions
from .headers import with_quick_copies
from .injection import inject
from .middleware import FastStateMiddleware, SameOriginOnly, check_routes
from .routes import BUSY, UNREAD, UNREADABLE, EventResponse, Routes
from .script import DatastarScript
from .streams import StreamKeeper

__all__ = ["fast_app", "setup"]

logger = logging.getLogger("faststate")


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
            wrapped = inject(provider, function, "page")
            befores = before if isinstance(before, list | tuple) else [] if before is None else [before]
            made = original(wrapped, body_wrap, before=[inject(provider, b, "before") for b in befores])
            made.__faststate__ = wrapped.__faststate__
            return made

        app._endp = endpoint
    add_ws = getattr(app, "_add_ws", None)
    if add_ws is not None:

        def add_websocket(func: Any, path: str, conn: Any, disconn: Any, name: Any, middleware: Any) -> Any:
            # What ends a connection has the user of its last message: servers may cancel what waits by then.
            handlers = [
                inject(provider, func, "socket"),
                inject(provider, conn, "socket"),
                inject(provider, disconn, "end"),
            ]
            if any(handler is not None and handler.__faststate__.states for handler in handlers):
                middleware = [Middleware(SameOriginOnly), *(middleware or ())]
            add_ws(handlers[0], path, handlers[1], handlers[2], name, middleware)
            return func

        app._add_ws = add_websocket
    if original is None:
        raise ConfigurationError("this version of FastHTML is not supported: app._endp is missing")
    routes = Routes(provider, app, original)
    app.hdrs[:] = [*map(with_quick_copies, app.hdrs), DatastarScript(provider)]
    app.ftrs[:] = map(with_quick_copies, app.ftrs)
    for place, middleware in enumerate(app.user_middleware):
        if middleware.cls is SessionMiddleware and remembers_sessions():
            app.user_middleware[place] = Middleware(
                SessionMiddlewareThatRemembers, *middleware.args, **middleware.kwargs
            )
    app.user_middleware.append(Middleware(FastStateMiddleware, provider=provider, owner=app, routes=routes))
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: StreamKeeper(PersonalAnswers(build(), provider), provider, app)
    app.add_exception_handler(FastStateError, partial(_error_response, provider))
    provider.sessions.ended.max_age = _session_max_age(app)

    async def started() -> None:
        provider._loop = asyncio.get_running_loop()
        check_routes(provider, app)
        await provider.start()
        provider.sse_manager.draining = False  # an app that was stopped may start again, as in tests

    app.on_event("startup")(started)
    app.on_event("shutdown")(provider.stop)


StateProvider.installer = setup


def _session_max_age(app: Any) -> float:
    """Seconds that the app accepts a session cookie for; infinite where it does not say."""
    for middleware in app.user_middleware:
        options = middleware.kwargs  # CORS has a max_age as well
        if "max_age" in options and "session_cookie" in options:
            return float(options["max_age"]) if options["max_age"] is not None else math.inf
    return SESSION_MAX_AGE


async def _error_response(provider: StateProvider, connection: HTTPConnection, error: Exception) -> Any:
    status = getattr(error, "status", 500)
    if connection.scope["type"] == "websocket":
        if status >= 500:  # nobody else would say what closed it
            logger.error("a websocket was closed: %s", error, exc_info=error)
        await connection.close(1008 if status < 500 else 1011)  # type: ignore[attr-defined]  # a WebSocket has it
        return None
    if status >= 500 and status != 503:
        raise error
    if isinstance(error, BackendError):
        logger.error("%s", error, exc_info=error)
    if isinstance(error, AuthenticationError) and provider.login_route is not None:
        return _to_login(provider.login_route, connection)
    busy = UNREAD if isinstance(error, PersistenceError) else BUSY
    busy = UNREADABLE if isinstance(error, RowUnreadableError) else busy
    return PlainTextResponse(str(error) if status < 500 else busy, status)


def _to_login(route: str, connection: HTTPConnection) -> Response:
    """Sends a page's visitor to sign in, in the form that whoever made the request understands."""
    location = connection.scope.get("root_path", "") + route
    path, query = connection.scope["path"], connection.scope["query_string"].decode("latin-1")
    if path == location:
        return PlainTextResponse("The page to sign in asks for a state that needs somebody signed in.", 401)
    if "datastar-request" in connection.headers:
        return EventResponse(go_frame(location), 401)
    if "hx-request" in connection.headers:
        return Response(status_code=401, headers={"hx-redirect": location})
    if connection.scope["method"] in ("GET", "HEAD"):
        asked = quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
        location += "?" + urlencode({"next": asked})
    return RedirectResponse(location, 303)


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
    # By name, since FastHTML adds parameters in the middle of its list: 0.14.12 has one more than 0.14.11.
    made = fh.fast_app(
        db_file=db_file, render=render, hdrs=hdrs, ftrs=ftrs, tbls=tbls, before=before, middleware=middleware,
        live=live, debug=debug, title=title, routes=routes, exception_handlers=exception_handlers,
        on_startup=on_startup, on_shutdown=on_shutdown, lifespan=lifespan, default_hdrs=default_hdrs, pico=pico,
        surreal=surreal, htmx=htmx, htmx4=htmx4, exts=exts, canonical=canonical, secret_key=secret_key,
        key_fname=key_fname, session_cookie=session_cookie, max_age=max_age, sess_path=sess_path, same_site=same_site,
        sess_https_only=sess_https_only, sess_domain=sess_domain, htmlkw=htmlkw, bodykw=bodykw,
        reload_attempts=reload_attempts, reload_interval=reload_interval, static_path=static_path, body_wrap=body_wrap,
        nb_hdrs=nb_hdrs, **kwargs,
    )  # fmt: skip
    if state_provider is not None:
        state_provider.setup(made[0])
    return made
