"""The middleware that gives each request its context, and the checks that need all routes."""

from __future__ import annotations

import logging
from typing import Any

from fasthtml.core import Beforeware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from .._compat.starlette import is_only_exceptions
from ..auth.users import current_request, current_user
from ..exceptions import ConfigurationError, FastStateError
from ..provider.context import AnsweredRequest, RequestContext
from ..provider.provider import StateProvider
from ..scopes import StateScope
from ..sessions.caller import is_cross_site
from ..state.serving import current_page
from .event_route import EventRoute
from .injection import FastHTMLContext, inject
from .requests import headers_of
from .shutdown import drain_on_signal

logger = logging.getLogger("faststate")


class FastStateMiddleware:
    """The innermost middleware, inside the session's: it gives each request its context. Lifetime: the app."""

    def __init__(self, app: ASGIApp, provider: StateProvider, fasthtml_app: Any, events: EventRoute) -> None:
        self.app = app
        self.provider = provider
        self.fasthtml_app = fasthtml_app
        self._checked = False
        self._events = events
        self._answered = AnsweredRequest(provider)
        # Between here and the routes there is only Starlette's own layer, which an event need not pass.
        self._is_innermost = is_only_exceptions(app, fasthtml_app.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._checked:
            check_routes(self.provider, self.fasthtml_app)
            self._checked = True
            drain_on_signal(self.provider)  # the server's own handlers are there by now
        if self.fasthtml_app.before:
            _wrap_before(self.provider, self.fasthtml_app)
        self.provider.loop.note()  # a plain `with modify` in a thread works on this one
        connection = HTTPConnection(scope)
        try:
            if not self.provider.lifecycle.is_started:  # a mounted app, or a server without the lifespan protocol
                await self.provider.start()
            context = scope["faststate"] = FastHTMLContext(self.provider, connection)
            if context.is_unsure:
                await context.settle()
        except FastStateError as error:
            scope.pop("faststate", None)
            logger.error("the store is unavailable: %s", error, exc_info=error)
            busy = self._events.unavailable(scope, error) if scope["type"] == "http" else WebSocketClose(1011)
            await busy(scope, receive, send)
            return
        if self.provider.root_path is None:
            self.provider.root_path = context.root
        if scope["type"] == "http":
            context.await_answer()
        request, page, asker = current_request.set(connection), current_page.set(context), current_user.get()
        if asker is not None:
            current_user.set(None)
        try:
            response = await self._events.answer(context, scope, receive) if self._is_innermost else None
            if response is not None:
                context.keep_newer_cookie()
                await response(scope, receive, send)
            else:
                await self._pass_on(context, scope, receive, send)
        finally:
            current_request.reset(request)
            current_page.reset(page)
            if current_user.get() is not asker:
                current_user.set(asker)
            context.answered()
            scope["faststate"] = self._answered
            scope.pop("faststate_others", None)

    async def _pass_on(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.keep_newer_cookie()
            await send(message)

        await self.app(scope, receive, answer)


class SameOriginOnly:
    """Refuses a websocket that another site's page opens, before it is accepted. Lifetime: the route of a websocket.

    A handshake carries the visitor's cookies, from whatever page it is made, and no browser asks the server first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_cross_site(headers_of(scope)):
            logger.info("refused a websocket that another site's page has opened")
            await WebSocketClose(1008, "only the app's own pages may open websockets with states")(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _wrap_before(provider: StateProvider, app: Any) -> None:
    """Wrap the functions of Beforeware in place: the app reads its list with each request, and may extend it."""
    for i, before in enumerate(app.before):
        if isinstance(before, Beforeware):
            if getattr(before.f, "__faststate__", None) is None:
                # A new one: another app, with a provider of its own, may use the same object.
                app.before[i] = Beforeware(inject(provider, before.f, "before"), before.skip)
        elif getattr(before, "__faststate__", None) is None:
            app.before[i] = inject(provider, before, "before")


def check_routes(provider: StateProvider, app: Any) -> None:
    """Check that each route can be given its states. Raises `ConfigurationError`."""
    for route in app.router.routes:
        injection = getattr(getattr(route, "endpoint", None), "__faststate__", None)
        if injection is None:
            continue
        for wanted, owner in injection.states:
            config = owner.registrations.config_of(wanted.cls)
            where = f"the parameter {wanted.name!r} of the route {route.path}"
            if config.scope is StateScope.COMPONENT and wanted.component is None:
                raise ConfigurationError(f"{where} is a component state: annotate it Annotated[…, Component('id')]")
            if config.scope is StateScope.RECORD:
                names = list(route.param_convertors)
                asked = wanted.record.argument if wanted.record else None
                if (asked not in names) if asked else config.record_parameter(names) is None:
                    raise ConfigurationError(
                        f"{where} is a record state, and its id is not in the path: name the path parameter with "
                        "StateConfig(record_param=…) or Annotated[…, Record('name')]"
                    )
