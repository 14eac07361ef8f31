"""A bad network: a TCP proxy that delays, cuts off, swallows for a while, or leads elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from threading import Thread
from typing import Any, Self

CHUNK = 1 << 16
AHEAD = 4_096
"""Chunks under way in one direction: a delay delays, and is no bottleneck."""


class Proxy:
    """Forwards connections from a port of its own to `target`. Lifetime: an `async with` block.

    `delay` (seconds) is what each piece takes on its way. In a `blackhole` connections are taken, and bytes, and
    nothing comes out on the other side until it has ended: as in a real one, it all comes then, however late. A
    `target` (a port) that is changed is that of new connections. `silence` is a blackhole for those that are open.
    """

    def __init__(self, target: int, delay: float = 0) -> None:
        self.target = target
        self.delay = delay
        self.taken = 0
        self._through = asyncio.Event()
        self._through.set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=CHUNK)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    @property
    def blackhole(self) -> bool:
        return not self._through.is_set()

    @blackhole.setter
    def blackhole(self, swallows: bool) -> None:
        if swallows:
            self._through.clear()
        else:
            self._through.set()

    async def cut(self) -> None:
        """Ends all connections, on both sides."""
        connections = list(self._connections)
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def silence(self) -> None:
        """Let the open connections carry nothing more, without ending them; new ones work."""
        self._through.clear()
        self._through = asyncio.Event()
        self._through.set()

    async def switch(self, target: int) -> None:
        """Leads to another port from now on, and ends what leads to the former."""
        self.target = target
        await self.cut()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.taken += 1
        beyond: asyncio.StreamWriter | None = None
        through = self._through
        try:
            await through.wait()
            far_reader, beyond = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            ways = [
                asyncio.create_task(self._pass(reader, beyond, through)),
                asyncio.create_task(self._pass(far_reader, writer, through)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # a task of the server's: it has nobody to tell
        finally:
            self._connections.discard(task)
            for each in (writer, beyond):
                if each is not None:
                    each.transport.abort() if self._server_is_closed else each.close()

    @property
    def _server_is_closed(self) -> bool:
        return not self._server.is_serving()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, through: asyncio.Event) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)

        async def arrive() -> None:
            while True:
                due, piece = await pieces.get()
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                await through.wait()
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            piece = b"-"
            while piece:
                piece = await reader.read(CHUNK)
                await pieces.put((time.monotonic() + self.delay, piece))
            await arriving
        finally:
            arriving.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await arriving


@contextlib.contextmanager
def proxy_beside(target: int) -> Iterator[tuple[Proxy, Callable[[Awaitable[Any]], Any]]]:
    """Run a proxy in a thread of its own, for tests without a loop: the proxy, and what runs one of its methods."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, loop).result(10)

    proxy = Proxy(target)
    run(proxy.__aenter__())
    try:
        yield proxy, run
    finally:
        run(proxy.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
