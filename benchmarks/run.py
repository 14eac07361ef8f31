"""What FastState costs over the same app in plain FastHTML: a page with one live state, and an event's round trip.

Both apps are called in this process through ASGI, without a network, so that the numbers are the server's CPU alone.
The two take turns, and the medians are compared. Run it with `make bench`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from html import unescape

from fasthtml import common as fh

from faststate import ReactiveState, StateProvider, event, fast_app
from faststate.sse import SSEConnection

ROUNDS = 15
CALLS = 100
WATCHERS = 1_000


class Counter(ReactiveState):
    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


provider = StateProvider(event_rate=math.inf)
provider.register_state(Counter)
live_app, live_rt = fast_app(state_provider=provider, secret_key="benchmark")
plain_app, plain_rt = fh.fast_app(secret_key="benchmark")


@live_rt("/")
async def live_page(counter: Counter):
    return fh.Titled("Counter", fh.P("Count: ", counter.signal.count), fh.Button("+1", counter.add.on("click", by=1)))


@plain_rt("/")
async def plain_page(sess):
    sess["count"] = sess.get("count", 0)
    return fh.Titled("Counter", fh.P("Count: ", fh.Span(sess["count"])), fh.Button("+1", hx_post="/add"))


@plain_rt("/add", methods=["post"])
async def plain_add(sess, data: dict):
    sess["count"] = sess.get("count", 0) + int(data["by"])
    return fh.Response(status_code=204)


async def call(app, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[dict[str, str], bytes]:
    """One request through ASGI: the response's headers (lower case) and body."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("bench", 80),
        "client": ("127.0.0.1", 1), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    sent: list[dict] = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
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


async def compare(title: str, ours: Callable[[], Awaitable[object]], theirs: Callable[[], Awaitable[object]]) -> None:
    pairs = [(await microseconds(ours), await microseconds(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"| {title} | {mine:.0f} | {other:.0f} | {mine / other:.2f} |")


async def main() -> None:
    host = {"host": "bench"}
    head, page = await call(live_app, "GET", "/", host)
    live = host | {"cookie": head["set-cookie"].partition(";")[0]}
    head, _ = await call(plain_app, "GET", "/", host)
    plain = host | {"cookie": head["set-cookie"].partition(";")[0]}
    tokens = re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', unescape(page.decode()))
    payload = json.dumps({"a": {"by": 1}, "w": tokens}).encode()
    json_head = {"content-type": "application/json", "datastar-request": "true"}
    number = iter(range(10**9))

    async def click():
        nonce = {"faststate-nonce": f"benchmark{next(number)}"}
        answer, _ = await call(live_app, "POST", "/_faststate/event/Counter/add", live | json_head | nonce, payload)
        assert "faststate-status" not in answer, answer

    async def plain_click():
        answer, _ = await call(plain_app, "POST", "/add", plain | json_head, b'{"by": 1}')
        assert answer["status"] == "204", answer

    print("| what | FastState, µs | plain FastHTML, µs | ratio |\n|---|---|---|---|")
    await compare("page with one live state", lambda: call(live_app, "GET", "/", live),
                  lambda: call(plain_app, "GET", "/", plain))  # fmt: skip
    await compare("event: cookie, arguments, transaction", click, plain_click)

    key = next(iter(provider.registry._entries))
    for number_of in range(WATCHERS):
        provider.sse_manager.add_connection(SSEConnection(f"c{number_of}"), [key])
    state = provider.registry.peek(key)
    assert state is not None

    async def fan_out():
        await state.add.run(by=1)
        for connection in provider.sse_manager.connections.values():
            connection.drain()

    each = statistics.median([await microseconds(fan_out) for _ in range(3)]) / WATCHERS
    print(f"\nOne change queued and drained for {WATCHERS} watchers, no network: {each:.2f} µs per watcher.")
    for connection_id in list(provider.sse_manager.connections):
        provider.sse_manager.remove_connection(connection_id)
    await provider.stop()


if __name__ == "__main__":
    asyncio.run(main())
