"""Measure what sessions leave behind: 200,000 of them come and go, with states in memory and in a SQLite store.

A tenth are browsers, through ASGI: a page with two states, an event, a stream that is cut, and every tenth of them
signs in and out. The others are changed by `provider.modify`. The benchmark's own clock skips the hours after which
states expire. Each kind has its own process, which takes memory from the system's allocator instead of Python's:
Python's reuses free memory, but seldom gives it back. For Linux with glibc. Run it with `python -m benchmarks.soak`; a
number after it is the number of sessions.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sized
from functools import partial
from html import unescape
from pathlib import Path
from typing import NamedTuple

from fasthtml import common as fh
from starlette.requests import Request
from starlette.responses import Response

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, UserContext, event, fast_app
from faststate.sessions.config import Ids
from faststate.stores.base import EXPIRED_KEPT
from faststate.stores.sqlite import SQLiteStore

SESSIONS = 200_000
BROWSERS = 20_000
AT_ONCE = 200  # sessions served at one time: the size of a grouped commit
TTL = 600.0  # seconds that a state is kept
ARRIVALS = 50.0  # sessions per second of the clock
SWEEP_EVERY = 15.0  # seconds of the clock, as a server does
MAX_AGE = 3_600  # seconds that a cookie is valid, and that an ended session is remembered
BEGINNING = 1_000_000.0


class Cart(ReactiveState):
    """A session's state."""

    items: list[str] = []
    note: str = ""

    @event
    async def add(self, item: str) -> None:
        self.items.append(item)


class Tab(ReactiveState):
    """A page's state."""

    open: bool = True


class Memory(NamedTuple):
    """Memory at one moment: states, and blocks that Python's own allocator has given out, if it is used.

    `resident` is the process's resident set, in bytes.
    """

    states: int
    blocks: int
    resident: int

    @classmethod
    def now(cls, provider: StateProvider, *, collected: bool = True) -> Memory:
        """Return the present memory; if `collected`, after collecting garbage and giving free memory back."""
        if collected:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(len(provider.registry), sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE"))


class Soak:
    """An app whose sessions come and go by the benchmark's own clock. Lifetime: from `start` to `stop`.

    With `path` its states are kept in a SQLite file. `peak` is the memory when there were the most states.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.now = BEGINNING
        self.provider = StateProvider(
            store=SQLiteStore(path, clock=lambda: self.now) if path is not None else None, clock=lambda: self.now
        )
        self.provider.register_state(Cart, StateConfig(ttl=TTL))
        self.provider.register_state(Tab, StateConfig(scope=StateScope.TEMPORARY, ttl=TTL))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="soak", max_age=MAX_AGE)
        self.peak = Memory(0, 0, 0)
        self._numbers = itertools.count()
        self._swept = self.now

        @rt("/")
        async def index(cart: Cart, tab: Tab):
            return fh.Titled("Cart", fh.P(cart.signal.note), fh.P(tab.signal.open))

        @rt("/in/{name}")
        async def sign_in(request: Request, name: str):
            await self.provider.login(request, UserContext(name))
            return Response()

        @rt("/out")
        async def sign_out(request: Request):
            await self.provider.logout(request)
            return Response()

    async def start(self) -> None:
        """Open the store, and let each kind of session come and go once, so that everything is warm."""
        await self.provider.start()
        await self.visits(2 * AT_ONCE, self.modify)
        await self.visits(2 * AT_ONCE, self.browse)
        await self.quiet()

    async def stop(self) -> None:
        """Close the store."""
        await self.provider.stop()

    async def visits(self, number: int, visit: Callable[[int], object]) -> None:
        """Serve so many new sessions as fast as possible, while the clock says that they come one by one."""
        for first in range(0, number, AT_ONCE):
            many = min(AT_ONCE, number - first)
            await asyncio.gather(*(visit(next(self._numbers)) for _ in range(many)))  # type: ignore[arg-type]
            self.now += many / ARRIVALS
            if self.now - self._swept >= SWEEP_EVERY:
                self.peak = max(self.peak, Memory.now(self.provider, collected=False))
                await self.sweep()

    async def sweep(self) -> None:
        """Do what a server does every few seconds."""
        self._swept = self.now
        registry = self.provider.registry
        registry.lifetimes.sweep()
        registry.followers.swept()
        await registry.usage.tell_store()

    async def quiet(self) -> None:
        """Skip the hours until the last state has expired, and the store has deleted it."""
        for _ in range(4):
            self.now += max(TTL, MAX_AGE, EXPIRED_KEPT)
            for rates in (self.provider.throttle.event_rates, self.provider.throttle.stream_rates):
                rates.take("somebody", "192.0.2.1")  # a new visitor triggers the check of the others' buckets
            await self.sweep()
        await asyncio.sleep(0)  # the loop drops the unused timers of locks

    async def modify(self, number: int) -> None:
        """Serve a session that server code changes."""
        async with self.provider.modify(Cart, session_id=f"session-{number}") as cart:
            cart.items.append("apple")

    async def make(self, number: int) -> None:
        """Serve a session whose state is created, and no more."""
        identifier = self.provider.registrations.config_of(Cart).identifier(Ids(session_id=f"session-{number}"))
        await self.provider.registry.entry(identifier, Cart, ttl=TTL, initial={"note": "hello"})

    async def browse(self, number: int) -> None:
        """Serve a browser: its page, an event, its stream; every tenth signs in and out."""
        client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        request = partial(self.request, client=client)
        headers, page = await request("GET", "/")
        browser = {"cookie": _cookie(headers)}
        text = unescape(page.decode())
        tokens = re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', text)
        position = re.findall(r'n:"([0-9a-f.]+)"', text)
        browser |= {"datastar-request": "true"}
        body = json.dumps({"a": {"item": "apple"}, "w": tokens}).encode()
        nonce = {"faststate-nonce": f"soak{number:08}", "content-type": "application/json"}
        headers, _ = await request("POST", "/_faststate/event/Cart/add", browser | nonce, body)
        assert "faststate-status" not in headers, headers
        body = json.dumps({"w": tokens, "n": position[0]}).encode()
        headers, frames = await request("POST", "/_faststate/stream", browser, body)
        assert headers["status"] == "200" and b"datastar" in frames, (headers, frames)
        if number % 10 == 0:
            headers, _ = await request("GET", f"/in/user{number}", browser)
            await request("GET", "/out", {"cookie": _cookie(headers)})

    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        query: str = "",
        client: str = "127.0.0.1",
    ) -> tuple[dict[str, str], bytes]:
        """Send one request through ASGI; return the headers with the status, and the body; cut a stream early."""
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "server": ("soak", 80), "client": (client, 1),
            "headers": [(k.encode(), v.encode()) for k, v in {"host": "soak", **(headers or {})}.items()],
        }  # fmt: skip
        sent: list[dict] = []
        answered = asyncio.Event()
        asked = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive():
            if (message := next(asked, None)) is not None:
                return message
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if message["type"] == "http.response.body":
                answered.set()

        await self.app(scope, receive, send)
        head = {k.decode(): v.decode() for k, v in sent[0]["headers"]} | {"status": str(sent[0]["status"])}
        return head, b"".join(m.get("body", b"") for m in sent[1:])

    def sizes(self) -> dict[str, int]:
        """Return the size of every container in the provider's parts, by its name: only those that are not empty."""
        provider = self.provider
        parts = [
            provider, provider.registry, provider.registry.locks, provider.registry.committer, provider.sessions,
            provider.sessions.ended.known, provider.sessions.rights, provider.registrations, provider.throttle,
            provider.sse_manager, provider.sse_manager.fanout, provider.sse_manager.heartbeat, provider.rechecks,
            provider.throttle.event_rates.sessions, provider.throttle.event_rates.addresses,
            provider.throttle.stream_rates.sessions, provider.throttle.stream_rates.addresses,
        ]  # fmt: skip
        return {
            f"{type(part).__name__}.{name}": len(value)
            for part in parts
            for name, value in vars(part).items()
            if isinstance(value, Sized) and not isinstance(value, str | StateProvider) and len(value)
        }


def _cookie(headers: dict[str, str]) -> str:
    return headers["set-cookie"].partition(";")[0]


def _mebibytes(path: Path) -> float:
    return path.stat().st_size / 2**20


async def soak(path: Path | None, sessions: int) -> None:
    """Print the memory before, at the peak and after for one kind of store."""
    soak = Soak(path)
    await soak.start()
    sizes, before, begun = soak.sizes(), Memory.now(soak.provider), time.perf_counter()
    browsers = sessions * BROWSERS // SESSIONS
    await soak.visits(browsers, soak.browse)
    await soak.visits(sessions - browsers, soak.modify)
    title = "memory only"
    if path is not None:
        title = f"SQLite, whose file has {_mebibytes(path):.0f} MiB"
    await soak.quiet()
    after = Memory.now(soak.provider)
    for moment, memory in (("before", before), ("peak", soak.peak), ("after", after)):
        print(f"| {title} | {moment} | {memory.states:,} | {memory.resident / 2**20:.1f} |", flush=True)
    title = f"{sessions:,} sessions, {browsers:,} of them browsers, in {time.perf_counter() - begun:.0f} s"
    left = {name: size for name, size in soak.sizes().items() if size != sizes.get(name)}
    print(f"| {title} | left over | {left or 'nothing'} | |", flush=True)
    await soak.stop()


def main() -> None:
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS
    if len(sys.argv) < 3:
        print("| store | moment | states in memory | resident, MiB |\n|---|---|---|---|", flush=True)
        for kind in ("memory", "sqlite"):
            command = [sys.executable, "-m", "benchmarks.soak", str(sessions), kind]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONMALLOC": "malloc"})
        return
    with tempfile.TemporaryDirectory(dir=".", prefix="benchmark-") as directory:
        asyncio.run(soak(Path(directory) / "state.db" if sys.argv[2] == "sqlite" else None, sessions))


if __name__ == "__main__":
    main()
