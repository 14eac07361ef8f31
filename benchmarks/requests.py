"""What a page with one live state and an event cost beside the same app in plain FastHTML.

Both apps are called in this process through ASGI, without a network, so that the numbers are the server's CPU alone.
The two take turns.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any

from fasthtml import common as fh

from faststate import ReactiveState, StateProvider, event, fast_app

from .table import DIRECT, FASTHTML, Row

__all__ = ["call", "compare", "microseconds", "rows"]

CALLS = 100


class Counter(ReactiveState):
    """What both apps count."""

    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


async def call(app: Any, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[dict, bytes]:
    """One request through ASGI: the response's headers (lower case) and body."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("bench", 80),
        "client": ("127.0.0.1", 1), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    head = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return head | {"status": str(sent[0]["status"])}, b"".join(m.get("body", b"") for m in sent[1:])


async def microseconds(work: Callable[[], Awaitable[object]]) -> float:
    """CPU microseconds of one call, averaged over `CALLS`."""
    start = time.process_time()
    for _ in range(CALLS):
        await work()
    return (time.process_time() - start) / CALLS * 1e6


async def compare(repeat: int, works: dict[str, Callable[[], Awaitable[object]]]) -> dict[str, list[float]]:
    """CPU microseconds of each of `works`, by who: `repeat` times, in turns."""
    taken: dict[str, list[float]] = {who: [] for who in works}
    for work in works.values():
        await work()
    for _ in range(repeat):
        for who, work in works.items():
            taken[who].append(await microseconds(work))
    return taken


async def rows(repeat: int = 15) -> list[Row]:
    """A page, and an event's round trip: CPU microseconds, beside plain FastHTML."""
    provider = StateProvider(event_rate=math.inf)
    provider.register_state(Counter)
    live_app, live_rt = fast_app(state_provider=provider, secret_key="benchmark")
    plain_app, plain_rt = fh.fast_app(secret_key="benchmark")

    @live_rt("/")
    async def live_page(counter: Counter):
        button = fh.Button("+1", counter.add.on("click", by=1))
        return fh.Titled("Counter", fh.P("Count: ", counter.signal.count), button)

    @plain_rt("/")
    async def plain_page(sess):
        sess["count"] = sess.get("count", 0)
        return fh.Titled("Counter", fh.P("Count: ", fh.Span(sess["count"])), fh.Button("+1", hx_post="/add"))

    @plain_rt("/add", methods=["post"])
    async def plain_add(sess, data: dict):
        sess["count"] = sess.get("count", 0) + int(data["by"])
        return fh.Response(status_code=204)

    host = {"host": "bench"}
    head, page = await call(live_app, "GET", "/", host)
    live = host | {"cookie": head["set-cookie"].partition(";")[0]}
    head, _ = await call(plain_app, "GET", "/", host)
    plain = host | {"cookie": head["set-cookie"].partition(";")[0]}
    tokens = re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', unescape(page.decode()))
    payload = json.dumps({"a": {"by": 1}, "w": tokens}).encode()
    json_head = {"content-type": "application/json", "datastar-request": "true"}
    number = iter(range(10**9))

    async def click() -> None:
        nonce = {"faststate-nonce": f"benchmark{next(number)}"}
        answer, _ = await call(live_app, "POST", "/_faststate/event/Counter/add", live | json_head | nonce, payload)
        assert "faststate-status" not in answer, answer

    async def plain_click() -> None:
        answer, _ = await call(plain_app, "POST", "/add", plain | json_head, b'{"by": 1}')
        assert answer["status"] == "204", answer

    pages = {DIRECT: lambda: call(live_app, "GET", "/", live), FASTHTML: lambda: call(plain_app, "GET", "/", plain)}
    try:
        return [
            Row("page with one live state: µs", await compare(repeat, pages), FASTHTML, {DIRECT: 1.15}),
            Row("event with session, arguments, transaction: µs",
                await compare(repeat, {DIRECT: click, FASTHTML: plain_click}), FASTHTML, {DIRECT: 0.5}),
        ]  # fmt: skip
    finally:
        await provider.stop()
