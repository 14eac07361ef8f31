"""`fast_app` and `setup`: give a FastHTML app its routes, middleware, injection and error responses.

Every route of an app passes one method of it, and every websocket another; both are replaced on the app, not on its
class (see `_compat`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from fasthtml import common as fh
from fasthtml.core import noop_body
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

from .._compat.starlette import knows_sessions
from ..exceptions import ConfigurationError, FastStateError
from ..provider.provider import StateProvider, integrate_with
from ..sessions.ended import SESSION_MAX_AGE
from . import _compat
from .answers import error_response
from .caching import PersonalAnswers
from .cookies import RememberingSessionMiddleware
from .header_copies import with_quick_copies
from .injection import inject
from .middleware import FastStateMiddleware, SameOriginOnly, check_routes
from .routes import add_routes
from .script import HeadScript
from .streams import StreamKeeper


@integrate_with
def setup(provider: StateProvider, app: Any) -> None:
    """Make `app` (a FastHTML) serve `provider`'s states; see `StateProvider.setup`."""
    if not isinstance(app, fh.FastHTML):
        raise ConfigurationError(f"setup() takes a FastHTML app, not {type(app).__name__}")
    if getattr(app.state, "faststate", None) is not None:
        raise ConfigurationError("this app has a StateProvider already")
    app.state.faststate = provider
    if not provider.tokens.has_key:
        provider.tokens.use_key(str(app.secret_key))
    original = _compat.endpoint_maker(app)
    _inject_states(provider, app, original)
    events = add_routes(provider, app, original)
    if _compat.knows_elements():
        app.hdrs[:] = map(with_quick_copies, app.hdrs)
        app.ftrs[:] = map(with_quick_copies, app.ftrs)
    app.hdrs.append(HeadScript(provider))
    for place, middleware in enumerate(app.user_middleware):
        if middleware.cls is SessionMiddleware and knows_sessions():
            app.user_middleware[place] = Middleware(RememberingSessionMiddleware, *middleware.args, **middleware.kwargs)
    app.user_middleware.append(Middleware(FastStateMiddleware, provider=provider, fasthtml_app=app, events=events))
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: StreamKeeper(PersonalAnswers(build(), provider), provider, app)
    app.add_exception_handler(FastStateError, partial(error_response, provider))
    provider.sessions.ended.max_age = _session_max_age(app)

    async def started() -> None:
        provider.loop.note()
        check_routes(provider, app)
        await provider.start()
        provider.sse_manager.draining = False  # an app that was stopped may start again, as in tests

    app.on_event("startup")(started)
    app.on_event("shutdown")(provider.stop)


def _inject_states(provider: StateProvider, app: Any, original: Callable[..., Any]) -> None:
    """Let all later routes and websockets of an app get states; `original` is FastHTML's maker of endpoints."""

    def endpoint(function: Any, body_wrap: Any, before: Any = None) -> Any:
        wrapped = inject(provider, function, "page")
        befores = before if isinstance(before, list | tuple) else [] if before is None else [before]
        made = original(wrapped, body_wrap, before=[inject(provider, b, "before") for b in befores])
        made.__faststate__ = wrapped.__faststate__  # for the check at start
        return made

    def websocket_adder(add: Callable[..., Any]) -> Callable[..., Any]:
        def add_websocket(func: Any, path: str, conn: Any, disconn: Any, name: Any, middleware: Any) -> Any:
            # The handler of the end has the user of the last message: by then servers may cancel whatever waits.
            handlers = [
                inject(provider, func, "socket"),
                inject(provider, conn, "socket"),
                inject(provider, disconn, "end"),
            ]
            if any(handler is not None and handler.__faststate__.states for handler in handlers):
                middleware = [Middleware(SameOriginOnly), *(middleware or ())]
            add(handlers[0], path, handlers[1], handlers[2], name, middleware)
            return func

        return add_websocket

    _compat.replace_endpoint_maker(app, endpoint)
    _compat.replace_websocket_adder(app, websocket_adder)


def _session_max_age(app: Any) -> float:
    """Return for how many seconds the app accepts a session cookie; infinite if it sets no limit."""
    for middleware in app.user_middleware:
        options = middleware.kwargs  # CORS has a max_age as well
        if "max_age" in options and "session_cookie" in options:
            return float(options["max_age"]) if options["max_age"] is not None else math.inf
    return SESSION_MAX_AGE


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
    """Call FastHTML's `fast_app` and set a provider up: `app, rt = fast_app(state_provider=provider)`.

    All other parameters, and the result, are FastHTML's. Without a provider this is FastHTML's own `fast_app`.
    """
    # By name, since FastHTML adds parameters in the middle of its list: 0.14.12 has one more than 0.14.11.
    # In a copy: from Python 3.12 on, a debugger that reads this frame would add names to what is being looped over.
    given = {name: value for name, value in dict(locals()).items() if name not in ("state_provider", "kwargs")}
    made = fh.fast_app(**given, **kwargs)
    if state_provider is not None:
        state_provider.setup(made[0])
    return made
