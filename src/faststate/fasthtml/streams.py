"""Streams: the response that begins one, who keeps it open, and its end when the process ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from sys import intern
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..provider.provider import StateProvider
from ..sse.connection import SSEConnection
from ..sse.manager import LAST_WRITE
from ..sse.transports import (
    AsgiWriter,
    DirectWriter,
    Probe,
    Transport,
    servers_arrival,
    servers_protocol,
    servers_transport,
)
from ..wire.frames import signals_frame

__all__ = ["SSE_HEADERS", "StreamKeeper", "StreamResponse", "drain_on_signal"]

logger = logging.getLogger("faststate")

SSE_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
}
NO_TOKENS: Final[Mapping[str, str | None]] = MappingProxyType({})
_BEGINNING: Final = "faststate_beginning"
"""Where a request's scope holds what the outermost layer of its app sees of a stream's beginning."""


class StreamKeeper:
    """The outermost layer of an app, which keeps streams open when their handler has returned. Lifetime: the app.

    So all that a request needed (its middleware's frames, FastHTML's request, the session) is gone while a stream is
    open: 11 KB a connection with its state, where a stream of FastHTML's takes 34 (`benchmarks/RESULTS.md`).
    """

    def __init__(self, app: ASGIApp, provider: StateProvider, owner: Any = None) -> None:
        self.app = app
        self.provider = provider
        self.owner = owner
        self._path = provider.prefix + "/stream"
        self._events = provider.prefix + "/event/"
        self._watched: ref[asyncio.AbstractEventLoop] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not scope["path"].endswith(self._path):
            if self._events in scope.get("path", ""):
                loop = asyncio.get_running_loop()
                if self._watched is None or self._watched() is not loop:  # whose events have to end with its server
                    self._watched = ref(loop)
                    _watch_server(self.provider, servers_protocol(send, receive), send)
            return self.app(scope, receive, send)
        return self._keep(scope, receive, send)

    async def _keep(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = await self._begin(scope, receive, send)
        if isinstance(writer, DirectWriter):
            # Here, since another coroutine's frame would take 230 bytes for each stream. One of `receive`'s would, too:
            # it is asked when it has something to tell.
            arrival = servers_arrival(send, receive)
            writer.begin()
            try:
                while True:
                    if arrival is not None:
                        await arrival.wait()
                    if (await receive())["type"] == "http.disconnect":
                        break
            except asyncio.CancelledError:
                if not writer.has_left():
                    raise
            finally:
                writer.end()
        elif writer is not None:
            await writer.hold(receive)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> AsgiWriter | DirectWriter | None:
        protocol = servers_protocol(send, receive)
        _watch_server(self.provider, protocol, send)
        transport = servers_transport(send, receive)
        beginning = _Beginning(scope, send, transport)
        try:
            # Both would stay as long as the stream: what is put into the scope, and into this task's context.
            copied = {**scope, _BEGINNING: beginning}
            await asyncio.ensure_future(self.app(copied, receive, beginning.send))
        except BaseException:
            if beginning.begun is not None:
                self.provider.sse_manager.remove_connection(beginning.begun.id)
            raise
        connection, cycle = beginning.begun, beginning.cycle
        if connection is None:
            return None
        if cycle is None or self.provider.transport != "auto":
            return _asgi_writer(self.provider, connection, send, transport)
        manager = self.provider.sse_manager
        writer = DirectWriter(manager, connection, send, self.provider.write_timeout, cycle)
        manager.attach(connection, writer)
        if _is_all_there_is(self.owner, protocol):
            _let_go_of_request(scope, protocol)
        return writer


def _is_all_there_is(owner: Any, protocol: Any) -> bool:
    """Whether uvicorn serves this very app: with another around it, somebody might still look at the request."""
    served = getattr(protocol, "app", None)
    if type(served).__module__.partition(".")[0] == "uvicorn":  # its own layer, for the headers of proxies
        served = getattr(served, "app", None)
    return served is not None and served is owner


_shared: dict[str, Any] = {}
"""What is the same for all requests to a server, and each comes with anew: ASGI's versions, the server's address."""


def _let_go_of_request(scope: Scope, protocol: Any) -> None:
    """Drops what uvicorn holds of a request that has been answered: tokens, cookies and headers take 2 KB and more.

    uvicorn itself reads none of it behind the beginning of the answer. What others may read, and many requests have
    alike, they have together from here on.
    """
    scope["query_string"] = scope["raw_path"] = b""
    scope["path"], scope["method"] = intern(scope["path"]), intern(scope["method"])
    if isinstance(asgi := scope.get("asgi"), dict):
        scope["asgi"] = _shared.setdefault(repr(asgi), asgi)
    if isinstance(server := scope.get("server"), tuple) and server == getattr(protocol, "server", None):
        scope["server"] = protocol.server = _shared.setdefault(repr(server), server)
    if isinstance(headers := scope["headers"], list):
        headers.clear()
    # Another request may have begun to arrive behind this one.
    if getattr(protocol, "scope", None) is scope and isinstance(getattr(protocol, "url", None), bytes):
        protocol.url = b""


class _Beginning:
    """What the outermost layer sees of a stream's first two messages. Lifetime: the request.

    `begun` is the connection whose stream is to be kept open there, `cycle` the server's object for its response.
    `transport` is the server's, wherever the stream is kept.
    """

    __slots__ = ("_left", "_outer", "_probe", "begun", "cycle", "transport")

    def __init__(self, scope: Scope, send: Send, transport: Transport | None) -> None:
        self._outer = send
        self.transport = transport
        self._left: list[Message] = []
        self._probe: Probe | None = Probe(scope, send)
        self.begun: SSEConnection | None = None
        self.cycle: Any = None

    async def send(self, message: Message) -> None:
        """ASGI's `send`, for all layers within."""
        probe = self._probe
        if probe is None:
            await self._outer(message)
            return
        if len(self._left) < 2:
            self._left.append(message)
        if message["type"] == "http.response.body":
            with probe.watching():
                await self._outer(message)
        else:
            await self._outer(message)

    def take_over(self, connection: SSEConnection, start: Message, opening: Message, body: bytes) -> bool:
        """Keeps the stream open from here on, its handler may return; False where that is not possible.

        It is where these very messages have left the app, the `opening` with this very `body`: no middleware has made
        others of them, or holds them back.
        """
        left, probe = self._left, self._probe
        self._left, self._probe = [], None  # what is sent from now on would be kept as long as the stream is open
        if probe is None or len(left) != 2 or left[0] is not start or left[1] is not opening:
            return False
        if opening["body"] is not body:
            return False
        self.begun, self.cycle = connection, probe.found(body)
        return True


class StreamResponse(Response):
    """A page's stream, until one side ends it. Lifetime: its beginning, where the outermost layer can keep it open.

    `tokens` are those that the page is to have from now on, by name (None for no more), where they are others.
    """

    def __init__(
        self, provider: StateProvider, connection: SSEConnection, tokens: Mapping[str, str | None] = NO_TOKENS
    ) -> None:
        self.provider = provider
        self.connection = connection
        self.tokens = tokens
        super().__init__(None, status_code=200, headers=SSE_HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager, connection = self.provider.sse_manager, self.connection
        try:
            async with asyncio.timeout(self.provider.write_timeout):
                start: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                own = {"c": connection.id, **({"w": self.tokens} if self.tokens else {})}
                body = signals_frame({"_fs": own}) + connection.drain()
                if not (connection.closed or connection.silent):
                    body += manager.fanout.position_line()  # else what there was to be told has been dropped meanwhile
                opening: Message = {"type": "http.response.body", "body": body, "more_body": True}
                await send(opening)
                manager.fanout.sent_bytes += len(body)
        except (OSError, TimeoutError) as error:
            logger.info("a stream could not be begun: %r", error)
            manager.remove_connection(connection.id)
            return
        except BaseException:
            manager.remove_connection(connection.id)
            raise
        beginning: _Beginning | None = scope.get(_BEGINNING)
        if beginning is None or not beginning.take_over(connection, start, opening, body):
            _say_once(logging.WARNING, "a middleware makes other messages of the app's answers: streams stay inside it")
            transport = beginning.transport if beginning is not None else None
            await _asgi_writer(self.provider, connection, send, transport).hold(receive)


def _asgi_writer(
    provider: StateProvider, connection: SSEConnection, send: Send, transport: Transport | None
) -> AsgiWriter:
    """What writes a stream that has begun, in this task and through ASGI alone."""
    if provider.transport == "auto":
        _say_once(logging.INFO, "streams go through ASGI's send: this server's HTTP/1.1 protocol is not known here")
    writer = AsgiWriter(provider.sse_manager, connection, send, provider.write_timeout, transport)
    provider.sse_manager.attach(connection, writer)
    return writer


_said: set[str] = set()


def _say_once(level: int, message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.log(level, message)


# -- the end of a process ----------------------------------------------------------------------------------------------


class _ServerWatch:
    """Stands among uvicorn's connections, all of which it shuts down when it ends. Lifetime: the server, per provider.

    A server that reaches its `--limit-max-requests`, or runs in a thread, gets no signal, and would wait for the open
    streams for ever. Watches of one provider are equal: a set has one of them.
    """

    __slots__ = ("_connections", "_provider")

    def __init__(self, provider: StateProvider, connections: set[Any]) -> None:
        self._provider = provider
        self._connections = connections

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ServerWatch) and other._provider is self._provider

    def __hash__(self) -> int:
        return hash((_ServerWatch, id(self._provider)))

    def shutdown(self) -> None:
        """Called by uvicorn when it begins to end; it waits until its set of connections is empty."""
        self._connections.discard(self)
        _drain(asyncio.get_running_loop(), self._provider, self._connections)


def _watch_server(provider: StateProvider, protocol: Any, send: Send) -> None:
    connections = getattr(getattr(protocol, "server_state", None), "connections", None)
    if isinstance(connections, set):
        connections.add(_ServerWatch(provider, connections))
        return
    # hypercorn's workers get no signal but this event; from Python 3.12 on they wait for open streams for ever.
    terminated = getattr(getattr(getattr(send, "__self__", None), "context", None), "terminated", None)
    if inspect.iscoroutinefunction(getattr(terminated, "wait", None)):
        loop = asyncio.get_running_loop()
        watches = _watched_workers.setdefault(loop, {})
        if provider not in watches:
            watches[provider] = loop.create_task(_drain_when(terminated, provider), name="faststate-server-watch")


_watched_workers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[StateProvider, asyncio.Task[None]]] = (
    WeakKeyDictionary()
)


async def _drain_when(terminated: Any, provider: StateProvider) -> None:
    await terminated.wait()
    provider.drain()


_watched: WeakKeyDictionary[StateProvider, asyncio.AbstractEventLoop] = WeakKeyDictionary()
"""The providers that serve requests in the main thread, each with its loop. A signal must not keep one alive."""


class _Draining:
    """A signal handler that drains all providers, and then calls the `previous` one. Lifetime: until it is replaced."""

    def __init__(self, previous: Callable[..., Any]) -> None:
        self._previous = previous

    def __call__(self, number: int, frame: Any) -> None:
        state = getattr(getattr(self._previous, "__self__", None), "server_state", None)  # uvicorn's Server has it
        for provider, loop in list(_watched.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_drain, loop, provider, getattr(state, "connections", ()))
        self._previous(number, frame)


def drain_on_signal(provider: StateProvider) -> None:
    """Have SIGTERM and SIGINT end streams and events before the server waits for them, which it would do for ever.

    Servers wait for open connections before they run shutdown handlers. The server's own handler is called afterwards,
    so everything else goes as it would. Without a handler (a script, a thread) there is nothing to chain to.
    """
    loop = asyncio.get_running_loop()
    if _watched.get(provider) is loop or threading.current_thread() is not threading.main_thread():
        return
    _watched[provider] = loop
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if callable(previous) and previous is not signal.default_int_handler and not isinstance(previous, _Draining):
            signal.signal(number, _Draining(previous))


def _drain(loop: asyncio.AbstractEventLoop, provider: StateProvider, connections: Iterable[Any]) -> None:
    provider.drain()
    loop.call_later(LAST_WRITE + 1, _abort_frozen, connections)


def _abort_frozen(connections: Iterable[Any]) -> None:
    """Lets go of connections that are closed and wait, for ever, until a frozen reader has taken what was written.

    They are uvicorn's protocols, with their transports; where they are not to be found, its own
    `--timeout-graceful-shutdown` is the remedy.
    """
    for protocol in list(connections):
        transport = getattr(protocol, "transport", None)
        if transport is not None and transport.is_closing():
            transport.abort()
