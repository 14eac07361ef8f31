"""uvicorn's objects behind ASGI's `send` and `receive`, which no part of ASGI promises.

uvicorn is not imported: its objects are known by what they have. On another server, or where uvicorn has renamed
something, each function here returns None or False. Streams then go through ASGI's `send` ("portable" in
`benchmarks/RESULTS.md`) and keep what uvicorn holds of their request, 2 KB and more; a server that ends without a
signal needs `--timeout-graceful-shutdown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from sys import intern
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send


class Transport(Protocol):
    """asyncio's `Transport`, as far as it is used here."""

    def write(self, data: bytes) -> None:
        """Write."""

    def abort(self) -> None:
        """End the connection, and drop what its reader has not taken."""

    def is_closing(self) -> bool:
        """Tell whether it has ended, or is about to."""


def _owner(call: Any) -> Any:
    """Return the object whose method `call` is; for uvicorn's, that is its request-response cycle."""
    return getattr(call, "__self__", None)


def _is_transport(found: Any) -> bool:
    return callable(getattr(found, "abort", None)) and callable(getattr(found, "is_closing", None))


def is_own_send(send: Send) -> bool:
    """Tell whether this is uvicorn's own `send`: it needs no task and no context, and changes no message."""
    cycle = _owner(send)
    is_own = str(getattr(send, "__module__", None)).partition(".")[0] == "uvicorn"  # not a Python function: may be None
    return is_own and hasattr(cycle, "flow") and hasattr(cycle, "on_response")


def cycle_of(scope: Scope, send: Send) -> Any:
    """Return uvicorn's cycle of an HTTP/1.1 request, whose `transport` may be written to, and `flow` asked; or None."""
    cycle = _owner(send)
    transport, flow = getattr(cycle, "transport", None), getattr(cycle, "flow", None)
    is_known = (
        scope.get("http_version") == "1.1"
        and callable(getattr(transport, "write", None))
        and _is_transport(transport)
        and isinstance(getattr(flow, "write_paused", None), bool)
    )
    return cycle if is_known else None


def transport_of(send: Send, receive: Receive) -> Transport | None:
    """Return the transport of the connection that these serve."""
    # A middleware wraps `send` more often than `receive`: either will do. So it is below.
    found = (getattr(_owner(call), "transport", None) for call in (send, receive))
    return next((transport for transport in found if _is_transport(transport)), None)


def protocol_of(send: Send, receive: Receive) -> Any:
    """Return uvicorn's protocol of the connection that these serve, which knows its server."""
    found = (_owner(getattr(_owner(call), "on_response", None)) for call in (send, receive))
    return next((protocol for protocol in found if protocol is not None), None)


def arrival_of(send: Send, receive: Receive) -> asyncio.Event | None:
    """Return the event that uvicorn sets when its `receive` has something to tell; None if `receive` is another's."""
    cycle = _owner(receive)
    arrival = getattr(cycle, "message_event", None)
    is_its_own = is_own_send(send) and cycle is _owner(send)
    return arrival if is_its_own and isinstance(arrival, asyncio.Event) else None


def connections_of(protocol: Any) -> set[Any] | None:
    """Return the open connections of a protocol's server, all of which uvicorn shuts down when it ends."""
    connections = getattr(getattr(protocol, "server_state", None), "connections", None)
    return connections if isinstance(connections, set) else None


def handlers_connections(handler: Any) -> set[Any]:
    """Return the open connections of the server whose signal handler this is; empty for any other handler."""
    connections = connections_of(_owner(handler))
    return connections if connections is not None else set()


def transports_of(connections: Any) -> Iterator[Transport]:
    """Yield the transports of these connections, which are uvicorn's protocols."""
    for protocol in list(connections):
        transport: Transport | None = getattr(protocol, "transport", None)
        if transport is not None and _is_transport(transport):
            yield transport


def serves(protocol: Any, app: Any) -> bool:
    """Tell whether uvicorn serves this very app: another around it might still look at the request."""
    served = getattr(protocol, "app", None)
    if type(served).__module__.partition(".")[0] == "uvicorn":  # its own layer, for the headers of proxies
        served = getattr(served, "app", None)
    return served is not None and served is app


_shared: dict[str, Any] = {}
"""Values that are equal for all requests to a server, each with its own copy: ASGI's versions, the server's address."""


def drop_request(scope: Scope, protocol: Any) -> None:
    """Drop what uvicorn holds of a request that has been answered: tokens, cookies and headers take 2 KB and more.

    uvicorn itself reads none of it after the beginning of the answer. What others may read is shared between requests,
    where many have the same.
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
