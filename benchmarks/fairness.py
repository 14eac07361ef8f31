"""Measure how long a visitor's click takes on a shared state while another session sends all that it may.

A real uvicorn serves over HTTP, with the provider's default limits. The other session has `FLOOD` connections, each of
which sends an event as soon as the one before was answered, or may be tried again. An event locks the state for 20 ms,
so the 50 events a second of one session use all its time. The visitor clicks ten times a second, and the time to each
answer is measured. Run it with `python -m benchmarks.fairness`; `--quick` clicks less often.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

FLOOD = 200
CLICKS = 100
PAUSE = 0.1
"""Seconds between two clicks."""

PATIENCE = 30.0

APP = """
import asyncio, time
from fasthtml.common import *
from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app

class Board(ReactiveState):
    n: int = 0

    @event
    def add(self):
        time.sleep(.02); self.n += 1

    @event
    async def add_async(self):
        await asyncio.sleep(.02); self.n += 1

provider = StateProvider()
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider, secret_key="benchmark")

@rt
def index(board: Board):
    return P(board.signal.n)

@rt
def begin(session):
    session["session_id"] = session.get("session_id") or unqid()
    return P("hello")
"""


class Latency(NamedTuple):
    """Milliseconds from a click to its answer, and how many clicks were refused."""

    p50: float
    p99: float
    worst: float
    refused: int

    @classmethod
    def of(cls, seconds: list[float], refused: int) -> Latency:
        return cls(
            median(seconds) * 1e3, quantiles(seconds, n=100, method="inclusive")[98] * 1e3, max(seconds) * 1e3, refused
        )


class Client:
    """A keep-alive connection of one session. Lifetime: a measurement."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port = port
        self._cookie = cookie
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, event: str) -> tuple[int, float]:
        """Send an event; return its status, and the seconds after which it may be tried again."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"POST /_faststate/event/Board/{event} HTTP/1.1\r\nhost: bench\r\ndatastar-request: true\r\n"
            f"cookie: {self._cookie}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        meant, retry = re.search(r"faststate-status: (\d+)", head), re.search(r"retry-after: (\d+)", head)
        return int(meant[1]) if meant else int(head.split()[1]), float(retry[1]) if retry else 0.2

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def cookie_of(port: int) -> str:
    """Return the cookie of a new session."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /begin HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    return re.search(r"set-cookie: ([^;]+)", answer, re.IGNORECASE)[1]  # type: ignore[index]  # each session has one


async def measure(port: int, event: str, clicks: int, flood: int) -> Latency:
    """Measure the latency of a visitor's clicks beside a flood of that many connections."""
    flooding = await cookie_of(port)
    crowd = [Client(port, flooding) for _ in range(flood)]

    async def send_all_it_may(client: Client) -> None:
        while True:
            status, wait = await client.send(event)
            if status == 429:
                await asyncio.sleep(wait)

    tasks = [asyncio.create_task(send_all_it_may(client)) for client in crowd]
    visitor = Client(port, await cookie_of(port))
    seconds, refused = [], 0
    try:
        await visitor.send(event)
        for _ in range(clicks):
            began = time.perf_counter()
            status, _ = await visitor.send(event)
            seconds.append(time.perf_counter() - began)
            refused += status >= 400
            await asyncio.sleep(PAUSE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (*crowd, visitor):
            client.close()
    return Latency.of(seconds, refused)


def measured(clicks: int, flood: int = FLOOD) -> dict[str, Latency]:
    """Measure all cases, each on its own server."""
    found = {}
    for title, event, crowd in (
        ("async event, nobody else", "add_async", 0),
        ("async event, beside a session that sends all it may", "add_async", flood),
        ("sync event, nobody else", "add", 0),
        ("sync event, beside a session that sends all it may", "add", flood),
    ):
        with tempfile.TemporaryDirectory() as directory, socket.socket() as listener:
            (Path(directory) / "shop.py").write_text(APP)
            listener.bind(("127.0.0.1", 0))
            listener.listen(512)
            port = listener.getsockname()[1]
            arguments = ["shop:app", "--app-dir", directory, "--fd", str(listener.fileno()), "--log-level", "error"]
            server = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", *arguments], pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL
            )
            try:
                found[title] = asyncio.run(asyncio.wait_for(measure(port, event, clicks, crowd), PATIENCE + 6 * clicks))
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(PATIENCE)
    return found


def main() -> None:
    print("| a click on a state that all share | p50, ms | p99, ms | longest, ms | refused |\n|---|---|---|---|---|")
    for title, latency in measured(20 if "--quick" in sys.argv else CLICKS).items():
        print(f"| {title} | {latency.p50:.0f} | {latency.p99:.0f} | {latency.worst:.0f} | {latency.refused} |")


if __name__ == "__main__":
    main()
