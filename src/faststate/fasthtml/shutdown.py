"""Shutdown: streams and events end when their server does, with or without a signal."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from starlette.types import Send

from .._compat.hypercorn import terminated_of
from .._compat.uvicorn import connections_of, handlers_connections, transports_of
from ..provider.provider import StateProvider
from ..sse.manager import LAST_WRITE

# -- with the server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ServerWatch:
    """Stands among uvicorn's connections, which it shuts down when it ends. Lifetime: the server, per provider.

    A server that reaches its `--limit-max-requests`, or runs in a thread, gets no signal, and would wait for the open
    streams for ever. Watches of one provider are equal: a set has one of them.
    """

    provider: StateProvider
    connections: set[Any] = field(compare=False)

    def shutdown(self) -> None:
        """Called by uvicorn when it begins to end; it waits until its set of connections is empty."""
        self.connections.discard(self)
        _drain(asyncio.get_running_loop(), self.provider, self.connections)


_watched_workers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[StateProvider, asyncio.Task[None]]] = (
    WeakKeyDictionary()
)


def drain_with_server(provider: StateProvider, protocol: Any, send: Send) -> None:
    """Drain a provider when the server ends whose `protocol` (uvicorn's) or `send` (hypercorn's) these are."""
    connections = connections_of(protocol)
    if connections is not None:
        connections.add(_ServerWatch(provider, connections))
    elif (terminated := terminated_of(send)) is not None:
        loop = asyncio.get_running_loop()
        watches = _watched_workers.setdefault(loop, {})
        if provider not in watches:
            watches[provider] = loop.create_task(_drain_when(terminated, provider), name="faststate-server-watch")


async def _drain_when(terminated: Any, provider: StateProvider) -> None:
    await terminated.wait()
    provider.drain()


# -- by a signal -------------------------------------------------------------------------------------------------------


_watched: WeakKeyDictionary[StateProvider, asyncio.AbstractEventLoop] = WeakKeyDictionary()
"""The providers that serve requests in the main thread, each with its loop. A signal must not keep one alive."""


class _Draining:
    """A signal handler that calls the `previous` one, and drains all providers. Lifetime: until it is replaced."""

    def __init__(self, previous: Callable[..., Any]) -> None:
        self._previous = previous

    def __call__(self, number: int, frame: Any) -> None:
        # The server comes first: after Ctrl-C a reloader sends SIGTERM, whose handler may interrupt this one. A server
        # that hears of SIGTERM before SIGINT takes the SIGINT for a second Ctrl-C, and skips its shutdown handlers.
        try:
            self._previous(number, frame)
        finally:
            for provider, loop in list(_watched.items()):
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_drain, loop, provider, handlers_connections(self._previous))


def drain_on_signal(provider: StateProvider) -> None:
    """Make SIGTERM and SIGINT end streams and events before the server waits for them, which it would do for ever.

    Servers wait for open connections before they run shutdown handlers. The server's own handler is called too, so
    everything else goes as it would. Without a handler (a script, a thread) there is nothing to chain to.
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
    """Abort connections that are closed and wait, for ever, until a frozen reader has taken what was written.

    Where uvicorn's connections are not found, its own `--timeout-graceful-shutdown` is the remedy.
    """
    for transport in transports_of(connections):
        if transport.is_closing():
            transport.abort()
