"""Measure an event's round trip: FastState, FastHTML, Starlette and bare ASGI, each reading one session and body.

All are called in this process through ASGI, without a network, so that the numbers are the server's CPU alone. They
take turns, and the medians are compared; `python -m benchmarks.events` prints the table. Each reads the same number
out of the same JSON and adds it to a count of the same session. The session is a signed cookie as Starlette writes it;
the last row has none. FastState does it as a transaction of a state, with a nonce, with the page's token, and with the
change queued for the page's own stream.

`over_http` measures the same over HTTP, from servers with a process and a core of their own
(`python -m benchmarks.events http`). There the change is also delivered to the page's stream; a further row compares
it with a FastHTML handler that does the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import socket
import statistics
import sys
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from html import unescape
from typing import Any, NamedTuple

import itsdangerous
from fasthtml import common as fh
from starlette.requests import Request
from starlette.routing import Route

from faststate import ReactiveState, StateProvider, event, fast_app
from faststate.sse import SSEConnection

from .delivery import Bench
from .load import PATIENCE, Crowd, Page, door, post, visit
from .servers import SERVERS, Contender, Server
from .table import DIRECT, FASTHTML, FLOOR, Row, table

ROUNDS = 15
CALLS = 100

SECRET = "benchmark"
MAX_AGE = 365 * 86_400
STREAM = "the-pages-own-stream"

# A browser's headers; the rows differ only in the URL, the cookie and the library's own headers.
HEADERS = {
    "host": "bench", "connection": "keep-alive", "content-type": "application/json", "datastar-request": "true",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "accept": "text/event-stream, text/html, application/json", "accept-language": "en-US,en;q=0.9",
    "accept-encoding": "gzip, deflate, br", "origin": "http://bench", "referer": "http://bench/",
    "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty",
}  # fmt: skip


class Cost(NamedTuple):
    """One way to serve an event: its CPU microseconds, and the ratios to FastHTML and to bare ASGI."""

    name: str
    microseconds: float
    of_fasthtml: float
    of_asgi: float


class Counter(ReactiveState):
    count: int = 0

    @event
    async def add(self, by: int = 1) -> None:
        self.count += by


counts: dict[str, int] = {}


def add(session_id: str, by: int) -> None:
    """Do the work of the handlers without a state."""
    counts[session_id] = counts.get(session_id, 0) + by


async def starlette_add(request: Request) -> fh.Response:
    add(request.session["id"], int((await request.json())["by"]))
    return fh.Response(status_code=204)


async def asgi_add(scope: Any, receive: Any, send: Any) -> None:
    """Do the same without a framework: read the body, verify the cookie if there is one, answer 204."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    session_id = "nobody"
    for name, value in scope["headers"]:
        if name == b"cookie":
            signed = value.partition(b"session_=")[2]
            session_id = json.loads(b64decode(asgi_signer.unsign(signed, max_age=MAX_AGE)))["id"]
    add(session_id, int(json.loads(body)["by"]))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


asgi_signer = itsdangerous.TimestampSigner(SECRET)


def make_plain() -> Any:
    """Create a FastHTML app with the same handler in FastHTML's way and as a Starlette route."""
    app, rt = fh.fast_app(secret_key=SECRET)

    @rt("/")
    async def page(sess):
        sess["id"] = "0123456789abcdef012345"
        return fh.Titled("Counter")

    @rt("/add", methods=["post"])
    async def fasthtml_add(sess, data: dict):
        add(sess["id"], int(data["by"]))
        return fh.Response(status_code=204)

    @rt("/write", methods=["post"])
    async def fasthtml_write(sess, data: dict):
        sess["count"] = sess.get("count", 0) + int(data["by"])
        return fh.Response(status_code=204)

    app.router.routes.insert(0, Route("/starlette", starlette_add, methods=["POST"]))
    return app


def make_live() -> tuple[Any, StateProvider]:
    """Create a FastState app with one page."""
    provider = StateProvider(event_rate=math.inf)
    provider.register_state(Counter)
    app, rt = fast_app(state_provider=provider, secret_key=SECRET)

    @rt("/")
    async def page(counter: Counter):
        return fh.Titled("Counter", fh.P(counter.signal.count), fh.Button("+1", counter.add.on("click", by=1)))

    return app, provider


async def call(app: Any, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> list[Any]:
    """Send one request through ASGI; return the messages of its answer."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("bench", 80),
        "client": ("127.0.0.1", 1), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def cookie_of(sent: list[Any]) -> dict[str, str]:
    """Return the session cookie that an answer sets, as a request's header."""
    found = next(value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie")
    return {"cookie": found.partition(";")[0]}


Work = Callable[[], Awaitable[None]]


def plain_work(app: Any, path: str, headers: dict[str, str]) -> Work:
    async def work() -> None:
        sent = await call(app, "POST", path, HEADERS | headers, b'{"by": 1}')
        assert sent[0]["status"] == 204, sent

    return work


async def live_work(app: Any, provider: StateProvider, *, followed: bool) -> Work:
    """Prepare an event of a page.

    If `followed`, the page's stream is open; else the answer holds the change.
    """
    opened = await call(app, "GET", "/", HEADERS)
    cookie = cookie_of(opened)
    page = b"".join(message.get("body", b"") for message in opened).decode()
    tokens = re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', unescape(page))
    body = json.dumps({"a": {"by": 1}, "w": tokens, "q": 1}).encode()
    session_id = json.loads(b64decode(cookie["cookie"].partition("=")[2].split(".")[0] + "=="))["session_id"]
    connection = SSEConnection(STREAM, session_id=session_id)
    if followed:
        provider.sse_manager.add_connection(connection, [f"session:Counter:{session_id}"])
        cookie["faststate-connection"] = STREAM
    number = itertools.count()

    async def work() -> None:
        nonce = {"faststate-nonce": f"benchmark{next(number)}"}
        sent = await call(app, "POST", "/_faststate/event/Counter/add", HEADERS | cookie | nonce, body)
        assert sent[0]["status"] == (204 if followed else 200), sent
        connection.forget()  # delivery is not measured here

    return work


async def microseconds(work: Work) -> float:
    """Return the CPU microseconds of one call, averaged over `CALLS`."""
    start = time.process_time()
    for _ in range(CALLS):
        await work()
    return (time.process_time() - start) / CALLS * 1e6


FASTSTATE_EVENT = "FastState event"
FASTHTML_HANDLER = "FastHTML handler that reads session and body"
BARE_ASGI = "bare ASGI"


async def measure(rounds: int) -> dict[str, list[float]]:
    """Return the CPU microseconds of an event called in this process: by way of serving it, one for each round."""
    plain = make_plain()
    live, provider = make_live()
    cookie = cookie_of(await call(plain, "GET", "/", HEADERS))
    works = {
        FASTSTATE_EVENT: await live_work(live, provider, followed=True),
        "FastState event of a tab without a stream": await live_work(live, provider, followed=False),
        FASTHTML_HANDLER: plain_work(plain, "/add", cookie),
        "FastHTML handler that writes the session too": plain_work(plain, "/write", cookie),
        "Starlette route in a FastHTML app": plain_work(plain, "/starlette", cookie),
        BARE_ASGI: plain_work(asgi_add, "/", cookie),
        "bare ASGI without a session": plain_work(asgi_add, "/", {}),
    }
    measured: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            measured[name].append(await microseconds(work))
    await provider.stop()
    return measured


async def costs(rounds: int = ROUNDS) -> list[Cost]:
    """Return the medians of so many interleaved rounds."""
    measured = await measure(rounds)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    fasthtml, asgi = medians[FASTHTML_HANDLER], medians[BARE_ASGI]
    return [Cost(name, median, median / fasthtml, median / asgi) for name, median in medians.items()]


# -- over HTTP ---------------------------------------------------------------------------------------------------------

TABS = 8
"""Browsers, each with its own session and its own connection, which is kept open."""

EVENTS = 2_400
"""Events of one measurement, of all tabs together."""


def request(path: str, page: Page, own: dict[str, str], body: bytes) -> bytes:
    """Build a POST as a browser sends it."""
    headers = HEADERS | {"cookie": page.cookie} | own | {"content-length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def click(server: Server, crowd: Crowd, pages: list[Page], events: int = EVENTS, *, is_brought: bool = False) -> float:
    """Return the server's CPU microseconds for each of so many events; check that all of them were counted.

    FastState delivers each to the page's stream; FastHTML does so by hand if it `is_brought`.
    """
    is_live = server.contender.is_faststate
    ids = [""] * len(pages)
    if is_live:
        for n, page in enumerate(pages):
            ids[n] = crowd.enter(page.door(server.contender.stream))
    elif is_brought:
        crowd.open([door("/own", page.cookie) for page in pages])

    def requests(number: int) -> list[bytes]:
        if not is_live:
            return [request("/bring" if is_brought else "/add", page, {}, b'{"by": 1}') for page in pages]
        found = []
        for page, own in zip(pages, ids, strict=True):
            body = json.dumps({"a": {"by": 1}, "w": json.loads(page.payload)["w"], "q": number}).encode()
            headers = {"faststate-nonce": f"benchmark{number}", "faststate-connection": own}
            found.append(request("/_faststate/event/Counter/add", page, headers, body))
        return found

    rounds = events // len(pages)
    warm = max(1, rounds // 10)
    prepared = [requests(number) for number in range(warm + rounds + 1)]
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_connection(server.address, PATIENCE)) for _ in pages]

        def send(which: list[list[bytes]]) -> None:
            for each in which:
                post(sockets, each)
                crowd.read()

        send(prepared[:warm])
        before = server.quiet()
        send(prepared[warm:-1])
        taken = server.quiet() - before
        if is_live or is_brought:
            crowd.deliver(lambda: post(sockets, prepared[-1]), f'"count":{len(prepared)}')
        return taken / (rounds * len(pages))


def over_http(bench: Bench, repeat: int = 4, events: int = EVENTS) -> list[Row]:
    """Measure an event's round trip, by the kernel's account of the server, beside FastHTML and bare ASGI."""
    cpu: dict[str, list[float]] = defaultdict(list)
    brought: dict[str, list[float]] = defaultdict(list)
    pages = {FASTHTML: "/", DIRECT: "/counter"}
    contenders = [contender for contender in SERVERS.values() if contender.title in (FLOOR, *pages)]
    loaded: dict[str, list[Page]] = {}

    def load(contender: Contender) -> list[Page]:
        title = contender.title if contender.title in pages else FASTHTML  # bare ASGI has the cookie of FastHTML's page
        if title not in loaded:
            (maker,) = (other for other in contenders if other.title == title)
            with bench.life(maker) as (server, _):
                loaded[title] = [visit(server.address, pages[title], 1)[0] for _ in range(TABS)]
        return loaded[title]

    with bench.load():
        for contender in bench.turns(contenders, repeat, "events over HTTP"):
            browsers = load(contender)
            with bench.life(contender) as (server, crowd):
                cpu[contender.title].append(click(server, crowd, browsers, events))
            if contender.title == FASTHTML:
                with bench.life(contender) as (server, crowd):
                    brought[FASTHTML].append(click(server, crowd, browsers, events, is_brought=True))
    brought[DIRECT] = cpu[DIRECT]
    return [
        Row("event over HTTP, session cookie, validation, transaction: µs", cpu, FASTHTML, {DIRECT: 0.5}),
        Row("the same (ratio to bare ASGI): µs", cpu, FLOOR, {DIRECT: 4}),
        Row("the same, FastHTML's brought to the page's stream as well: µs", brought, FASTHTML, {}),
    ]


async def in_process(rounds: int = ROUNDS) -> list[Row]:
    """Measure an event without a network: only the app's own cost."""
    measured = await measure(rounds)
    cpu = {FLOOR: measured[BARE_ASGI], FASTHTML: measured[FASTHTML_HANDLER], DIRECT: measured[FASTSTATE_EVENT]}
    return [
        Row("event called in one process, session cookie, validation, transaction: µs", cpu, FASTHTML, {DIRECT: 0.5}),
        Row("the same (ratio to bare ASGI): µs", cpu, FLOOR, {DIRECT: 4}),
    ]


async def rows(repeat: int = 4) -> list[Row]:
    """Return the rows for `make bench`: an event called in this process, and its round trip over HTTP."""
    return [*await in_process(), *over_http(Bench(), repeat)]


async def main() -> None:
    if sys.argv[1:] == ["http"]:
        print(table(over_http(Bench())))
        return
    print("| event | server CPU, µs | of the FastHTML handler | of bare ASGI |\n|---|---|---|---|")
    for row in await costs():
        print(f"| {row.name} | {row.microseconds:.0f} | {row.of_fasthtml:.2f} | {row.of_asgi:.2f} |")


if __name__ == "__main__":
    asyncio.run(main())
