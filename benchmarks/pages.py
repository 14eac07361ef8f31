"""Measure a live page beside the same page in plain FastHTML: with an async and a sync handler, and with a view.

The plain pages keep their values in the session, as an app without states would, and so sign a cookie each time. Both
apps are called in this process through ASGI, without a network, so that the numbers are the server's CPU alone. They
take turns, and the medians are compared. Run it with `python -m benchmarks.pages`.
"""

from __future__ import annotations

import asyncio
import time

from fasthtml import common as fh

from faststate import ReactiveState, StateProvider, event, fast_app, view

from .table import DIRECT, FASTHTML, Row, table

ROUNDS = 200
CALLS = 5


class Counter(ReactiveState):
    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


class Board(ReactiveState):
    title: str = "Board"
    done: int = 0
    items: list[str] = ["one", "two", "three"]

    @event
    async def finish(self, by: int = 1) -> None:
        self.done += by

    @view
    def listed(self):
        return fh.Ul(*map(fh.Li, self.items))


provider = StateProvider()
for cls in (Counter, Board):
    provider.register_state(cls)
live_app, live = fast_app(state_provider=provider, secret_key="benchmark")
plain_app, plain = fh.fast_app(secret_key="benchmark")


@live("/async")
async def live_async(counter: Counter):
    return fh.Titled("Counter", fh.P("Count: ", counter.signal.count), fh.Button("+1", counter.add.on("click", by=1)))


@plain("/async")
async def plain_async(sess):
    sess["count"] = sess.get("count", 0)
    return fh.Titled("Counter", fh.P("Count: ", fh.Span(sess["count"])), fh.Button("+1", hx_post="/add"))


@live("/sync")
def live_sync(counter: Counter):
    return fh.Titled("Counter", fh.P("Count: ", counter.signal.count), fh.Button("+1", counter.add.on("click", by=1)))


@plain("/sync")
def plain_sync(sess):
    sess["count"] = sess.get("count", 0)
    return fh.Titled("Counter", fh.P("Count: ", fh.Span(sess["count"])), fh.Button("+1", hx_post="/add"))


@live("/view")
async def live_view(board: Board):
    return fh.Titled(
        "Board",
        fh.H2(board.signal.title),
        fh.P("Done: ", board.signal.done),
        board.listed(),
        fh.Button("Done", board.finish.on("click", by=1)),
    )


@plain("/view")
async def plain_view(sess):
    sess["board"] = board = sess.get("board", {"title": "Board", "done": 0, "items": ["one", "two", "three"]})
    return fh.Titled(
        "Board",
        fh.H2(fh.Span(board["title"])),
        fh.P("Done: ", fh.Span(board["done"])),
        fh.Ul(*map(fh.Li, board["items"])),
        fh.Button("Done", hx_post="/finish"),
    )


CASES = {
    "/async": "page with one state, async handler",
    "/sync": "page with one state, sync handler",
    "/view": "page with two signals and a view",
}


async def get(app, path: str, cookie: str = "") -> tuple[str, str]:
    """Load a page as a browser does; return the cookie it sets, else the one sent, and its HTML."""
    sent: list[dict] = []
    headers = [(b"host", b"bench"), *([(b"cookie", cookie.encode())] if cookie else [])]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("bench", 80),
        "client": ("127.0.0.1", 1), "headers": headers,
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    found = dict(sent[0]["headers"]).get(b"set-cookie", cookie.encode())
    return found.decode().partition(";")[0], b"".join(m.get("body", b"") for m in sent[1:]).decode()


async def microseconds(app, path: str, cookie: str) -> float:
    """Return the CPU microseconds of one page, averaged over `CALLS`."""
    start = time.process_time()
    for _ in range(CALLS):
        await get(app, path, cookie)
    return (time.process_time() - start) / CALLS * 1e6


async def rows() -> list[Row]:
    """Return one row for each case."""
    found = []
    for path, title in CASES.items():
        cookies = [(await get(app, path))[0] for app in (live_app, plain_app)]
        pairs = [
            (await microseconds(live_app, path, cookies[0]), await microseconds(plain_app, path, cookies[1]))
            for _ in range(ROUNDS)
        ]
        ours, theirs = map(list, zip(*pairs, strict=True))
        found.append(Row(f"{title}: µs", {DIRECT: ours, FASTHTML: theirs}, FASTHTML, {DIRECT: 1.15}))
    await provider.stop()
    return found


if __name__ == "__main__":
    print(table(asyncio.run(rows())))
