"""Calls of an app as a server makes them, on the test's own loop: for clients that go away, or send slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


def http_scope(method: str, path: str, headers: Headers = (), *, query: bytes = b"", **more: Any) -> dict[str, Any]:
    """Return the scope of a request to http://testserver; keywords replace or add entries."""
    if isinstance(headers, Mapping):
        headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query, "headers": list(headers),
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "state": {}, **more,
    }  # fmt: skip


class Exchange:
    """A request and what the app has answered so far. Lifetime: from its making, which starts it, to `close`.

    The client stays until `gone` is set.
    """

    def __init__(self, app: Any, scope: dict[str, Any], body: bytes = b"") -> None:
        self.scope, self.status, self.headers, self.body = scope, 0, [], b""
        self.gone = asyncio.Event()
        self._more = asyncio.Event()
        self._requests = [{"type": "http.request", "body": body, "more_body": False}]
        self.task = asyncio.create_task(self._run(app))

    async def _run(self, app: Any) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        finally:
            self._more.set()

    async def _receive(self) -> dict[str, Any]:
        if self._requests:
            return self._requests.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        self.body += message.get("body", b"")
        self._more.set()

    @property
    def ended(self) -> bool:
        """True if the app has returned."""
        return self.task.done()

    async def until(self, condition: Callable[[Any], Any], within: float = 10) -> None:
        """Wait until `condition(self)` holds."""
        async with asyncio.timeout(within):
            while not condition(self):
                self._more.clear()
                await self._more.wait()

    async def close(self) -> None:
        """Let the client go away, and wait until the app has returned."""
        self.gone.set()
        await asyncio.wait_for(self.task, 10)
