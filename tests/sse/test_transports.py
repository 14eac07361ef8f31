"""Transports: which writer a stream gets and where it is kept open, and what a writer promises to all other readers."""

import asyncio
import collections
import contextlib
import contextvars
import gc
import logging
import math
import re
import socket
import threading

import anyio
import pytest
from fasthtml import common as fh
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount

from faststate import (
    ConfigurationError,
    ReactiveState,
    SSEConnection,
    SSEManager,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.fasthtml import streams
from faststate.fasthtml.streams import StreamKeeper, StreamResponse, _Beginning
from faststate.sse import changes
from faststate.sse.transports import AsgiWriter, DirectWriter
from tests.support.client import BROWSER
from tests.support.live import Model, Recorder, assert_nothing_is_left, visiting
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")
LIMIT = 30  # seconds for what should take milliseconds, on a machine that has other things to do


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


class Board(ReactiveState):
    text: str = ""


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """Forget what has been logged once, so that each test sees it. No environment decides."""
    streams._say_once.cache_clear()
    monkeypatch.delenv("FASTSTATE_TRANSPORT", raising=False)


def make_app(middleware=(), **options):
    provider = StateProvider(**options)
    provider.register_state(Counter)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, middleware=list(middleware), pico=False, secret_key="for tests")

    @rt("/")
    def index(counter: Counter, board: Board):
        return fh.Titled("All", counter.signal.count, board.signal.text)

    return app, provider


# -- which writer, and where -------------------------------------------------------------------------------------------


class Around:
    """A middleware of the plainest kind. `inside` counts the requests for streams that have not come back to it."""

    inside = 0

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].endswith("/stream"):
            await self.app(scope, receive, send)
            return
        Around.inside += 1
        try:
            await self.app(scope, receive, self.wrapped(send))
        finally:
            Around.inside -= 1

    def wrapped(self, send):
        return send


class PassesOn(Around):
    """Sends each message as `altered` makes it of what came."""

    def wrapped(self, send):
        async def passing_on(message):
            await send(self.altered(message))

        return passing_on

    def altered(self, message):
        return message


class SetsAHeader(PassesOn):
    def altered(self, message):
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-own", b"1"))
        return message


class Copies(PassesOn):
    def altered(self, message):
        return dict(message)


class CopiesStarts(PassesOn):
    def altered(self, message):
        return dict(message) if message["type"] == "http.response.start" else message


class StampsBodies(PassesOn):
    def altered(self, message):
        if message["type"] == "http.response.body":
            return {**message, "body": b": stamp\n\n" + message["body"]}
        return message


class StampsBodiesInPlace(PassesOn):
    def altered(self, message):
        if message["type"] == "http.response.body":
            message["body"] = b": stamp\n\n" + message["body"]
        return message


class HoldsTheStartBack(Around):
    def wrapped(self, send):
        held = []

        async def holding(message):
            if message["type"] == "http.response.start":
                held.append(message)
                return
            while held:
                await send(held.pop())
            await send(message)

        return holding


class SendsOneMore(Around):
    def wrapped(self, send):
        async def sending(message):
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b": stamp\n\n", "more_body": True})

        return sending


async def passed_on(request, call_next):
    return await call_next(request)


BASE = Middleware(BaseHTTPMiddleware, dispatch=passed_on)
OUTERMOST = {
    "none": [],
    "pure": [Middleware(Around)],
    "one that passes on": [Middleware(PassesOn)],
    "one that sets a header": [Middleware(SetsAHeader)],
    "one that holds the start back": [Middleware(HoldsTheStartBack)],
    "TrustedHost": [Middleware(Around), Middleware(TrustedHostMiddleware, allowed_hosts=["*"])],
    "GZip, which lets streams alone": [Middleware(Around), Middleware(GZipMiddleware, minimum_size=1)],
    "many": [Middleware(PassesOn), Middleware(SetsAHeader), Middleware(HoldsTheStartBack)],
}
INSIDE = {
    "BaseHTTPMiddleware": [Middleware(Around), BASE],
    "one that copies messages": [Middleware(Copies)],
    "one that copies starts": [Middleware(CopiesStarts)],
    "one that stamps bodies": [Middleware(StampsBodies)],
    "one that stamps bodies in place": [Middleware(StampsBodiesInPlace)],
    "one that sends one more": [Middleware(SendsOneMore)],
    "BaseHTTPMiddleware within others": [Middleware(PassesOn), Middleware(GZipMiddleware), BASE],
}
HTTP = ["httptools", "h11"]


@contextlib.asynccontextmanager
async def site(middleware=(), *, http="httptools", loop="auto", writer=None, **options):
    app, provider = make_app(middleware, **options)
    async with visiting(app, provider, writer=writer, http=http, loop=loop, sent=16_384) as visited:
        yield visited


async def two_tabs_follow(visited):
    tabs = await visited.tabs(2)
    for number in (1, 2):
        assert (await tabs[0].post("Counter/add", a={"by": 1})).status_code == 204
        for tab in tabs:
            await tab.until(lambda tab=tab, number=number: tab.signals["Counter"]["count"] == number)
    return tabs


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("middleware", OUTERMOST.values(), ids=OUTERMOST.keys())
async def test_a_stream_whose_messages_leave_the_app_as_they_are_outlives_its_request(middleware, http, caplog):
    caplog.set_level(logging.INFO, "faststate")
    async with site(middleware, http=http, writer=DirectWriter) as visited:
        tabs = await two_tabs_follow(visited)
        await eventually(lambda: Around.inside == 0)
        assert len(visited.provider.sse_manager.connections) == 2
        await tabs[0].close()
        await eventually(lambda: len(visited.provider.sse_manager.connections) == 1)
    assert not [record for record in caplog.records if "stream" in record.message]


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("middleware", INSIDE.values(), ids=INSIDE.keys())
async def test_a_stream_whose_messages_a_middleware_makes_anew_stays_inside_it(middleware, http, caplog):
    async with site(middleware, http=http, writer=AsgiWriter) as visited:
        tabs = await two_tabs_follow(visited)
        assert Around.inside == 2
        await tabs[0].close()
        await eventually(lambda: len(visited.provider.sse_manager.connections) == Around.inside == 1)
    said = [record.message for record in caplog.records if "stay inside" in record.message]
    assert len(said) == 1, "once, for all streams"
    assert Around.inside == 0


@pytest.mark.parametrize("middleware", [StampsBodies, StampsBodiesInPlace])
async def test_a_middleware_that_alters_bodies_alters_all_of_them(middleware):
    # Without signs of life, which are stamped as well: the first may come at any time.
    async with site([Middleware(middleware)], heartbeat=100_000, stream_max_age=400_000) as visited:
        tabs = await two_tabs_follow(visited)
        assert tabs[0].beats == 3, "the opening and both changes carry the middleware's stamp"


async def test_a_stream_that_stays_inside_keeps_nothing_of_what_it_has_sent():
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, _Beginning)}  # in other tests' failures, say
    async with site([Middleware(Copies)]) as visited:
        tabs = await two_tabs_follow(visited)
        gc.collect()
        beginnings = [each for each in gc.get_objects() if isinstance(each, _Beginning) and id(each) not in before]
        assert not any(each._left or each._written for each in beginnings), "what was written would wait in it"
        assert len(tabs) == Around.inside == 2


@pytest.mark.parametrize("middleware", [[], [Middleware(Copies)]], ids=["outermost", "inside"])
async def test_portable_means_portable_and_says_nothing(middleware, caplog):
    caplog.set_level(logging.INFO, "faststate")
    async with site(middleware, writer=AsgiWriter, transport="portable") as visited:
        await two_tabs_follow(visited)
    assert not [record for record in caplog.records if "ASGI" in record.message]


async def test_the_environment_chooses_over_the_code(monkeypatch):
    monkeypatch.setenv("FASTSTATE_TRANSPORT", "portable")
    async with site(writer=AsgiWriter, transport="auto") as visited:
        await two_tabs_follow(visited)
    monkeypatch.setenv("FASTSTATE_TRANSPORT", "direct")
    with pytest.raises(ConfigurationError, match="'direct'"):
        StateProvider()


class RaisesLater(Around):
    """Lets the beginning of a stream pass, and then breaks."""

    async def __call__(self, scope, receive, send):
        sent = []

        async def counting(message):
            await send(message)
            sent.append(message)
            if len(sent) == 2 and message["type"] == "http.response.body" and scope["path"].endswith("/stream"):
                raise RuntimeError("broken on purpose")

        await self.app(scope, receive, counting)


class RaisesAtTheEnd(Around):
    """Lets the app answer, and then breaks."""

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
        if scope.get("path", "").endswith("/stream"):
            raise RuntimeError("broken on purpose")


@pytest.mark.parametrize("middleware", [RaisesLater, RaisesAtTheEnd])
async def test_a_middleware_that_breaks_a_response_that_has_begun_leaves_no_connection(middleware):
    async with site([Middleware(middleware)]) as visited:
        tab = await visited.tab(await visited.browser(), streaming=False)
        with contextlib.suppress(Exception):
            async with tab.request() as response:
                async for _ in response.aiter_bytes():
                    pass
        assert visited.provider.stats().connections_total == 1
        await eventually(lambda: not visited.provider.sse_manager.connections)


@pytest.mark.parametrize("outer", [[], [Middleware(PassesOn)], [Middleware(Copies)]], ids=["plain", "passes", "copies"])
async def test_an_app_mounted_in_another_streams_through_it_and_ends_with_its_server(outer):
    app, provider = make_app()

    @contextlib.asynccontextmanager
    async def lifespan(_):
        async with app.router.lifespan_context(app):
            yield

    whole = Starlette(routes=[Mount("/sub", app)], middleware=outer, lifespan=lifespan)
    whole.state.faststate = provider
    async with visiting(whole, provider, "/sub", writer=AsgiWriter) as visited:
        await two_tabs_follow(visited)


def connections_of(visited):
    return list(visited.provider.sse_manager.connections.values())


def scopes_of(visited):
    """Return the request scopes that uvicorn holds for open streams."""
    return [each.writer._send.__self__.scope for each in connections_of(visited)]


@pytest.mark.parametrize("http", HTTP)
async def test_what_uvicorn_holds_of_a_stream_s_request_is_let_go(http):
    async with site(http=http, writer=DirectWriter) as visited:
        await two_tabs_follow(visited)
        for scope in scopes_of(visited):
            assert scope["headers"] == [] and scope["query_string"] == scope["raw_path"] == b"" and scope["state"] == {}
            assert scope["path"] == "/_faststate/stream" and scope["method"] == "POST"
        one, other = scopes_of(visited)
        for alike in ("path", "method", "asgi", "server"):
            assert one[alike] is other[alike]
        protocols = [each.writer._send.__self__.on_response.__self__ for each in connections_of(visited)]
        assert all(protocol.server is one["server"] for protocol in protocols)


def coroutines_of(task):
    """The names of those that wait for one another in a task, the innermost last."""
    names, coroutine = [], task.get_coro()
    while hasattr(coroutine, "cr_await"):
        names.append(coroutine.__qualname__)
        coroutine = coroutine.cr_await
    return names


@pytest.mark.parametrize("http", HTTP)
async def test_nothing_of_an_idle_stream_waits_in_receive(http):
    async with site(http=http, writer=DirectWriter) as visited:
        await two_tabs_follow(visited)
        for connection in connections_of(visited):
            assert coroutines_of(connection.writer._task)[-2:] == ["StreamKeeper._keep", "Event.wait"]


async def test_who_is_around_the_app_still_finds_the_request_when_its_stream_has_ended():
    app, provider = make_app()
    seen = []

    class AccessLog:
        def __init__(self):
            self.state = app.state

        async def __call__(self, scope, receive, send):
            await app(scope, receive, send)
            if scope["type"] == "http":
                seen.append((scope["path"], scope["method"], dict(scope["headers"])))

    async with visiting(AccessLog(), provider, writer=DirectWriter) as visited:
        for tab in await two_tabs_follow(visited):
            await tab.close()
        await eventually(lambda: sum(path.endswith("/stream") for path, _, _ in seen) == 2)
    for path, method, headers in seen:
        if path.endswith("/stream"):
            assert method == "POST" and headers[b"content-type"] == b"application/json"
            assert headers[b"datastar-request"] == b"true"


# -- HTTP, byte by byte ------------------------------------------------------------------------------------------------


class Wire:
    """A TCP connection to a served app: what is sent and received over it, byte by byte."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, tab, *, frozen=False):
        """A connection that speaks for a tab, with its cookies and its tokens; `frozen` is one that takes little."""
        sock = socket.socket()
        sock.setblocking(False)
        if frozen:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(sock, (tab.client.base_url.host, tab.client.base_url.port))
        wire = cls(*await asyncio.open_connection(sock=sock, limit=4096 if frozen else 1 << 20))
        wire.tab = tab
        try:
            yield wire
        finally:
            wire.writer.close()

    def ask(self, request=None, version="1.1", body=None, **headers):
        """Send a request of the tab's client, for its page unless another is given, without headers that are empty."""
        request = request or self.tab.client.build_request("GET", "/", headers=BROWSER)
        sent = {name: value for name, value in request.headers.items() if name != "connection"} | headers
        head = f"{request.method} {request.url.raw_path.decode()} HTTP/{version}\r\n"
        lines = [f"{name}: {value}\r\n" for name, value in sent.items() if value]
        self.writer.write((head + "".join(lines) + "\r\n").encode() + (request.content if body is None else body))

    @property
    def stream(self):
        """The request for the tab's stream."""
        payload = {"w": self.tab.tokens, "n": self.tab.position}
        return self.tab.client.build_request("POST", "/_faststate/stream", json=payload, headers=BROWSER)

    def ask_for_the_stream(self, version="1.1"):
        self.ask(self.stream, version)

    def ask_for_the_stream_in_pieces(self):
        """As `ask_for_the_stream`, with a body of unknown length."""
        pieces = (self.stream.content[:10], self.stream.content[10:], b"")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        self.ask(self.stream, body=body, **{"content-length": "", "transfer-encoding": "chunked"})

    async def opened(self, manager):
        """Read the beginning of the stream that was asked for; return its connection, the only one that there is."""
        assert (await self.head())[1][b"transfer-encoding"] == b"chunked"
        await self.until(b"id: ")
        await eventually(lambda: any(each.streaming for each in manager.connections.values()))
        (connection,) = manager.connections.values()
        return connection

    async def head(self):
        """The status and the headers (a dict of bytes) of the next response."""
        async with asyncio.timeout(LIMIT):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        named = (line.split(b": ", 1) for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, value in named}

    async def chunk(self):
        """The next chunk of the chunked transfer coding; b"" for the last."""
        async with asyncio.timeout(LIMIT):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def chunks(self):
        """The rest of a response."""
        whole = b""
        while data := await self.chunk():
            whole += data
        return whole

    async def until(self, text):
        """Reads chunks until one has `text`."""
        while text not in (data := await self.chunk()):
            assert data, "the stream has ended"

    async def page(self):
        """The next response, which has to be the page."""
        status, headers = await self.head()
        assert status == 200
        if b"content-length" in headers:
            body = await self.reader.readexactly(int(headers[b"content-length"]))
        else:
            body = await self.chunks()
        assert b"<title>All" in body


@contextlib.asynccontextmanager
async def wired(**options):
    """The manager of a site, a page of it, and a connection that speaks for that page."""
    async with site(**options) as visited:
        (tab,) = await visited.tabs(1, streaming=False)
        async with Wire.to(tab) as wire:
            yield visited.provider.sse_manager, tab, wire


@pytest.mark.parametrize("http", HTTP)
async def test_a_stream_whose_request_has_a_body_of_unknown_length_is_written_and_finds_its_end(http):
    async with wired(http=http, writer=DirectWriter) as (manager, tab, wire):
        wire.ask_for_the_stream_in_pieces()
        assert (await wire.head())[0] == 200
        await wire.until(b"id: ")
        for number in range(1, 4):
            await tab.post("Counter/add", a={"by": 1})
            await wire.until(b'"count":%d' % number)
        wire.writer.transport.abort()
        await eventually(lambda: not manager.connections)


async def test_an_end_that_a_layer_around_the_app_tells_of_alone_is_heard():
    app, provider = make_app()
    over = threading.Event()

    class TimeIsOver:
        state = app.state

        async def __call__(self, scope, receive, send):
            asked = 0

            async def receive_in_time():
                nonlocal asked
                asked += 1
                while asked > 1 and not over.is_set():  # noqa: ASYNC110  # which another thread's loop sets
                    await asyncio.sleep(0.01)
                return await receive() if asked == 1 else {"type": "http.disconnect"}

            await app(scope, receive_in_time if scope.get("path", "").endswith("/stream") else receive, send)

    async with visiting(TimeIsOver(), provider, writer=DirectWriter) as visited:
        await two_tabs_follow(visited)
        over.set()
        await eventually(lambda: not provider.sse_manager.connections)


WRITERS = [("auto", DirectWriter), ("portable", AsgiWriter)]
both_writers = pytest.mark.parametrize(("transport", "writer"), WRITERS, ids=["direct", "portable"])


@pytest.mark.parametrize("http", HTTP)
async def test_an_old_client_is_sent_what_the_server_makes_of_it_and_no_framing_of_ours(http, monkeypatch):
    framed = []
    monkeypatch.setattr(DirectWriter, "write", lambda self, chunk: framed.append(chunk) or True)
    async with wired(http=http) as (manager, tab, wire):
        wire.ask_for_the_stream(version="1.0")
        status, headers = await wire.head()
        assert status == 200
        (connection,) = manager.connections.values()
        await eventually(lambda: connection.streaming)
        assert type(connection.writer) is AsgiWriter
        await tab.post("Counter/add", a={"by": 5})
        if headers.get(b"transfer-encoding") == b"chunked":  # httptools' protocol does so for whoever asks
            await wire.until(b'"count":5')
        else:
            async with asyncio.timeout(LIMIT):
                body = await wire.reader.readuntil(b'"count":5}}\n\n')
            assert not re.search(rb"(?m)^[0-9a-f]+\r$", body), "no chunks where none are announced"
    assert not framed


@pytest.mark.parametrize("http", HTTP)
@both_writers
async def test_a_connection_whose_stream_was_ended_serves_the_next_request(transport, writer, http):
    async with wired(http=http, transport=transport) as (manager, tab, wire):
        for number in (1, 2):
            wire.ask_for_the_stream()
            connection = await wire.opened(manager)
            assert type(connection.writer) is writer
            await tab.post("Counter/add", a={"by": 1})
            await wire.until(b'"count":%d' % number)
            manager.fanout.on_loop(lambda each=connection: manager.dismiss(each, b": the last\n\n"))
            assert (await wire.chunks()).endswith(b": the last\n\n")
            await eventually(lambda: not manager.connections)
            wire.ask()
            await wire.page()


@pytest.mark.parametrize("http", HTTP)
@both_writers
async def test_a_request_behind_a_stream_on_its_connection_is_served_when_that_has_ended(transport, writer, http):
    async with wired(http=http, transport=transport) as (manager, tab, wire):
        wire.ask_for_the_stream()
        wire.ask()
        connection = await wire.opened(manager)
        assert type(connection.writer) is writer
        await tab.post("Counter/add", a={"by": 1})
        await wire.until(b'"count":1')
        manager.fanout.on_loop(lambda: manager.dismiss(connection, b": the last\n\n"))
        assert (await wire.chunks()).endswith(b": the last\n\n")
        await wire.page()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("http", HTTP)
@both_writers
async def test_a_client_that_leaves_with_a_request_behind_its_stream_is_found(transport, writer, http, loop):
    async with wired(http=http, loop=loop, transport=transport, heartbeat=0.25) as (manager, _, wire):
        wire.ask_for_the_stream()
        await wire.opened(manager)
        wire.ask()
        await wire.until(b": \n\n")
        wire.writer.transport.abort()
        await eventually(lambda: not manager.connections)


# -- a server driven by hand -------------------------------------------------------------------------------------------

KEY = "session:Counter:abc"
BOARD = "global:Board"


@pytest.fixture
async def provider():
    made = StateProvider(secret_key="for tests", write_timeout=600)
    made.register_state(Counter)
    made.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    async with made.modify(Counter, session_id="abc"), made.modify(Board):
        pass
    yield made
    async with asyncio.timeout(LIMIT):
        await made.stop()
    assert_nothing_is_left(made.sse_manager)


async def count_to(provider, number):
    async with provider.modify(Counter, session_id="abc") as counter:
        counter.count = number


class ByHand:
    """A stream whose server is the test, on any transport but uvicorn's.

    `bodies` is what it was given, `wrap` what a middleware makes of its `send`. While `free` is cleared it takes
    nothing, and `waiting` are the bodies that are waited with; `error` is raised in place of taking something.
    """

    def __init__(self, provider, wrap=lambda send: send, keys=(KEY,)):
        self.provider = provider
        self.connection = SSEConnection(session_id="abc", user_id=7, address="10.0.0.1")
        self.bodies, self.waiting, self.error = [], [], None
        self.free, self.gone = asyncio.Event(), asyncio.Event()
        self.free.set()

        async def app(scope, receive, send):
            provider.sse_manager.add_connection(self.connection, keys)
            await StreamResponse(provider, self.connection)(scope, receive, send)

        scope = {"type": "http", "path": "/_faststate/stream", "http_version": "2"}
        self.task = asyncio.create_task(StreamKeeper(app, provider)(scope, self.receive, wrap(self.send)))

    async def send(self, message):
        if not self.free.is_set():
            self.waiting.append(message.get("body"))
            await self.free.wait()
            self.waiting.pop()
        if self.error is not None:
            raise self.error
        if message.get("body"):
            self.bodies.append(message["body"])

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def opened(self):
        await eventually(lambda: self.connection.streaming, every=0)
        assert type(self.connection.writer) is AsgiWriter
        return self

    @property
    def signals(self):
        """The signals that its page shows by now."""
        model = Model()
        model.feed_bytes(b"".join(self.bodies))
        return model.signals

    async def shows(self, count):
        """Wait until its page shows this count."""
        await eventually(lambda: self.signals.get("Counter") == {"count": count}, every=0)

    async def leaves(self):
        self.gone.set()
        async with asyncio.timeout(LIMIT):
            await self.task


async def test_while_its_reader_keeps_up_a_stream_is_written_without_its_task(provider):
    tasks = []

    def wrap(send):
        async def noting(message):
            tasks.append(asyncio.current_task())
            await send(message)

        return noting

    stream = await ByHand(provider, wrap).opened()
    tasks.clear()
    waits_for = stream.task._fut_waiter
    for number in range(1, 4):
        await count_to(provider, number)
        await stream.shows(number)
    assert tasks == [stream.task] * 3, "each `send` runs as if in the stream's own task"
    assert stream.task._fut_waiter is waits_for is not None, "which was not woken"
    await stream.leaves()


LABEL = contextvars.ContextVar("label", default="none")


async def test_a_send_that_waits_goes_on_in_the_stream_s_task_with_its_context(provider):
    seen = []

    def wrap(send):
        async def noting(message):
            seen.append((asyncio.current_task(), LABEL.get()))
            token = LABEL.set("inner")
            try:
                await send(message)
            finally:
                seen.append((asyncio.current_task(), LABEL.get()))
                LABEL.reset(token)

        return noting

    LABEL.set("the request's")
    stream = await ByHand(provider, wrap).opened()
    seen.clear()  # the beginning was its handler's
    LABEL.set("the committer's")
    for number in (1, 2):
        stream.free.clear()
        await count_to(provider, number)
        await eventually(lambda: stream.waiting, every=0)
        stream.free.set()
        await stream.shows(number)
        await eventually(lambda: not stream.waiting and stream.connection.writer.ready, every=0)
    await stream.leaves()
    assert {task for task, _ in seen} == {stream.task}
    assert {label for _, label in seen[::2]} == {"the request's"} and {label for _, label in seen[1::2]} == {"inner"}


def asyncio_s(seconds):
    return asyncio.timeout(seconds)


@contextlib.asynccontextmanager
async def anyio_s(seconds):
    with anyio.fail_after(seconds):
        yield


@pytest.mark.parametrize("seconds", [0, 0.02])
@pytest.mark.parametrize("limit", [asyncio_s, anyio_s])
async def test_a_time_limit_in_a_middleware_s_send_ends_that_send_and_not_the_stream(provider, limit, seconds):
    dropped = []

    def wrap(send):
        async def limited(message):
            try:
                async with limit(seconds if message.get("body") and dropping else LIMIT):
                    await send(message)
            except TimeoutError:
                dropped.append(message["body"])

        return limited

    dropping = False
    stream, other = await ByHand(provider, wrap).opened(), await ByHand(provider).opened()
    stream.free.clear()
    dropping = True
    await count_to(provider, 1)
    await eventually(lambda: dropped, every=0)
    assert b'"count":1' in dropped[0]
    dropping = False
    stream.free.set()
    await count_to(provider, 2)
    for each in (stream, other):
        await each.shows(2)
    await stream.leaves()
    await other.leaves()


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
@pytest.mark.parametrize("error", [RuntimeError, OSError, asyncio.CancelledError, StopAsyncIteration])
async def test_a_send_that_raises_ends_its_own_stream_and_no_other(provider, error, waits):
    before, broken, after = [await ByHand(provider).opened() for _ in range(3)]
    if waits:
        broken.free.clear()
    broken.error = error("broken on purpose")
    await count_to(provider, 1)
    if waits:
        await eventually(lambda: broken.waiting, every=0)
        broken.free.set()
    await eventually(broken.task.done, every=0)
    if error is asyncio.CancelledError:
        assert broken.task.cancelled()
    elif error is not OSError:  # which says that the reader has gone
        assert type(broken.task.exception()) is error, "its server is told"
    assert broken.connection.id not in provider.sse_manager.connections
    await count_to(provider, 2)
    for stream in (before, after):
        await stream.shows(2)
        assert len(stream.bodies) == 3
        await stream.leaves()
    assert provider.stats().cut == 0


class Steps:
    """Awaited as a coroutine is, by an iterator that has nothing else."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return iter(self)

    def __iter__(self):
        steps = self.coroutine.__await__()
        return filter(lambda step: True, steps)


@pytest.mark.parametrize("kind", [asyncio.ensure_future, Steps], ids=["a future", "an iterator"])
async def test_a_send_need_not_be_a_coroutine(provider, kind):
    stream = await ByHand(provider, lambda send: lambda message: kind(send(message))).opened()
    for number in (1, 2):
        stream.free.clear()
        await count_to(provider, number)
        await eventually(lambda: stream.waiting, every=0)
        stream.free.set()
        await stream.shows(number)
    await stream.leaves()


async def test_who_is_behind_is_sent_the_newest_alone_and_counted(provider):
    stream = await ByHand(provider).opened()
    stream.free.clear()
    for number in range(1, 51):
        await count_to(provider, number)
        await eventually(lambda: not provider.sse_manager.fanout._changed, every=0)  # each has been flushed
    assert len(stream.waiting) == 1, "nothing more is begun"
    stats = provider.stats()
    assert (stats.behind, stats.cut) == (1, 0) and 0 < stats.lag < LIMIT
    stream.free.set()
    await stream.shows(50)
    await eventually(lambda: provider.stats().behind == 0, every=0)
    assert len(stream.bodies) == 3, "the opening, what was begun with, and one for all the others"
    assert provider.stats().coalesced == 48 and provider.stats().lag == 0
    assert provider.stats().bytes_sent == sum(map(len, stream.bodies))
    await stream.leaves()


async def test_who_leaves_while_behind_is_not_counted_as_cut_and_leaves_nothing(provider):
    streams = [await ByHand(provider, keys=(KEY, BOARD)).opened() for _ in range(3)]
    for stream in streams:
        stream.free.clear()
    for number in range(1, 4):
        await count_to(provider, number)
        await eventually(lambda: not provider.sse_manager.fanout._changed, every=0)
    assert all(stream.waiting for stream in streams) and provider.stats().behind == 3
    streams[0].connection.send_event({"x": 1})
    for stream in streams:
        await stream.leaves()
    assert provider.stats().cut == 0
    assert_nothing_is_left(provider.sse_manager)


@pytest.mark.parametrize("kind", ["dismissed", "removed", "stopped"])
async def test_a_stream_that_is_ended_while_it_begins_leaves_nothing(provider, kind):
    manager = provider.sse_manager
    stream = ByHand(provider)
    stream.free.clear()
    await eventually(lambda: stream.waiting, every=0)
    if kind == "dismissed":
        manager.dismiss(stream.connection, b": the last\n\n")
    elif kind == "removed":
        manager.remove_connection(stream.connection.id)
    else:
        stopping = asyncio.create_task(manager.stop())
    stream.free.set()
    await eventually(stream.task.done, every=0)
    if kind == "stopped":
        async with asyncio.timeout(LIMIT):
            await stopping
    assert stream.task.exception() is None
    if kind == "dismissed":
        assert b"".join(stream.bodies).endswith(b": the last\n\n")
    assert provider.stats().behind == 0
    assert_nothing_is_left(manager)


async def test_a_send_that_ends_another_stream_does_not_disturb_the_rest(provider):
    streams = []

    def wrap(send):
        async def ending(message):
            await send(message)
            if b'"count":1' in message.get("body", b""):
                provider.sse_manager.remove_connection(streams[3].connection.id)

        return ending

    for number in range(5):
        streams.append(await ByHand(provider, wrap if number == 1 else lambda send: send).opened())
    await count_to(provider, 1)
    await eventually(streams[3].task.done, every=0)
    for number in (0, 1, 2, 4):
        await streams[number].shows(1)
        await streams[number].leaves()


# -- one flush for all -------------------------------------------------------------------------------------------------


class Counting(Recorder):
    """Notes how often it was asked for anything, and in which of its manager's beats it was written to."""

    def __init__(self, manager):
        super().__init__()
        self.manager, self.touches, self.beats = manager, 0, []

    @property
    def ready(self):
        return self.touched(super().ready)

    def write(self, chunk):
        self.beats.append(self.manager.heartbeat.beating)
        return self.touched(super().write(chunk))

    def touched(self, result=None):
        self.touches += 1
        return result

    wake = hurry = leave = touched


def follower(manager, keys, **about):
    """A connection that follows `keys`, with a recorder for a writer."""
    connection = SSEConnection(**about)
    manager.add_connection(connection, keys)
    manager.attach(connection, Counting(manager))
    return connection


@pytest.fixture
async def followers(provider):
    """Makes followers, who are gone when the test is."""
    made = []

    def make(*keys, count=1):
        new = [follower(provider.sse_manager, keys) for _ in range(count)]
        made.extend(new)
        return new if count > 1 else new[0]

    yield make
    for connection in made:
        provider.sse_manager.remove_connection(connection.id)


def shown(connection):
    return connection.writer.model


async def shows(connection, name, value):
    """Wait until the page of a connection shows this value of a signal."""
    await eventually(lambda: shown(connection).signals.get(name) == value, every=0)


async def test_many_commits_in_one_turn_are_one_write_for_each_watcher(provider, followers):
    watching = followers(KEY, count=20)
    for number in range(1, 201):
        task = count_to(provider, number)
        with pytest.raises(StopIteration):
            task.send(None)  # to its end, within this turn of the loop
    assert not any(connection.writer.bodies for connection in watching)
    await eventually(lambda: all(connection.writer.bodies for connection in watching), every=0)
    for connection in watching:
        (body,) = connection.writer.bodies
        assert shown(connection).signals == {"Counter": {"count": 200}} and body.count(b"id: ") == 1
    assert body is watching[0].writer.bodies[0], "the same bytes"
    assert provider.stats().coalesced == 199 * len(watching)


async def test_what_one_event_changes_arrives_in_one_write_with_the_position_behind_it(provider, followers):
    class Left(ReactiveState):
        count: int = 0

    class Right(ReactiveState):
        count: int = 0

        @event
        def take(self, left: Left):
            left.count -= 1
            self.count += 1

    for cls in (Left, Right):
        provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
        async with provider.modify(cls):
            pass
    both, one = followers("global:Left", "global:Right"), followers("global:Right")
    await provider.registry.peek("global:Right").take.run()
    await eventually(lambda: both.writer.bodies and one.writer.bodies, every=0)
    (body,) = both.writer.bodies
    assert shown(both).signals == {"Left": {"count": -1}, "Right": {"count": 1}}
    assert body.endswith(f"id: {provider.sse_manager.hooks.position()}\n\n".encode()) and body.count(b"id: ") == 1
    assert shown(one).signals == {"Right": {"count": 1}} and len(one.writer.bodies) == 1


async def test_a_change_costs_those_who_do_not_watch_it_nothing(provider, followers):
    others = followers(BOARD, count=500)
    watching = followers(KEY)
    touches = [connection.writer.touches for connection in others]
    for number in range(1, 4):
        await count_to(provider, number)
        await eventually(lambda number=number: len(watching.writer.bodies) == number, every=0)
    assert [connection.writer.touches for connection in others] == touches
    assert watching.writer.touches == 3, "and those who do one write each"


class Untouchable:
    """A value of another state: whoever looks at it fails."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was asked for")


async def test_opening_and_closing_a_stream_touches_nothing_but_its_own_states(provider):
    manager = provider.sse_manager
    untouchable = {f"session:Counter:{number}": Untouchable() for number in range(100)}
    manager.fanout.topics.update(untouchable)
    try:
        connection = follower(manager, [KEY, BOARD])
        assert connection.subscribed_states == {KEY, BOARD}
        manager.remove_connection(connection.id)
    finally:
        for key in untouchable:
            del manager.fanout.topics[key]
    assert_nothing_is_left(manager)


@pytest.mark.parametrize("alone", [False, True], ids=["written to all", "written to each alone"])
async def test_a_state_that_cannot_be_written_does_not_hurt_the_others(provider, followers, monkeypatch, caplog, alone):
    real = changes.Changes.frame

    def frame(self, *args):
        if isinstance(self.new, Board):
            raise RuntimeError("broken on purpose")
        return real(self, *args)

    monkeypatch.setattr(changes.Changes, "frame", frame)
    boards, counters = followers(BOARD, count=2), followers(KEY, count=2)

    async def change(number):
        async with provider.modify(Board) as board, provider.modify(Counter, session_id="abc") as counter:
            board.text, counter.count = str(number), number

    await change(1)
    if alone:
        for connection in (*boards, *counters):
            connection.send_event({"sent": 1})
    for connection in counters:
        await shows(connection, "Counter", {"count": 1})
    for connection in (*boards, *counters) if alone else ():
        await shows(connection, "sent", 1)
    assert "broken on purpose" in caplog.text
    monkeypatch.undo()
    await change(2)
    for connection in boards:
        await shows(connection, "Board", {"text": "2"})


async def test_what_other_threads_send_arrives_in_their_order(provider, followers):
    manager, one = provider.sse_manager, followers(KEY, BOARD)

    def work():
        for number in range(1, 301):
            manager.broadcast_to_state(KEY, {"count": number})
            one.send_frame(b"event: datastar-patch-elements\ndata: elements <b>%d</b>\n\n" % number)
            one.send_event({"sent": number})

    await asyncio.to_thread(work)
    await shows(one, "sent", 300)
    found = [int(found) for found in re.findall(rb'"count":(\d+)', b"".join(one.writer.bodies))]
    # What was dropped is made up for by the state as it is, whose count is 0.
    counts = [count for count in found if count or not one.dropped]
    assert counts == sorted(counts) and counts[-1] == 300
    fragments = [int(found) for found in re.findall(rb"<b>(\d+)", b"".join(one.writer.bodies))]
    assert fragments == list(range(1, 301)) or one.dropped, "each once, and in order"
    assert fragments == sorted(fragments)


async def test_commits_of_other_threads_arrive_and_the_last_one_last(provider, followers):
    one = followers(KEY)
    provider.loop.note()

    def work():
        for number in range(1, 51):
            asyncio.run_coroutine_threadsafe(count_to(provider, number), provider.loop()).result(LIMIT)

    await asyncio.to_thread(work)
    await shows(one, "Counter", {"count": 50})
    counts = [patch["Counter"]["count"] for patch in shown(one).patched]
    assert counts == sorted(counts)


async def test_signs_of_life_are_spread_over_the_period_and_end_with_the_last_stream():
    manager = SSEManager(heartbeat=1.0)
    opened = [follower(manager, [KEY]) for _ in range(1_000)]
    await eventually(lambda: all(connection.writer.bodies for connection in opened), every=0)
    share = math.ceil(1_000 / (1.0 / manager.heartbeat.tick))
    assert share <= 250
    first = collections.Counter(connection.writer.beats[0] for connection in opened)
    assert max(first.values()) <= share, "no tick has more than its share"
    assert manager.heartbeat.timer is not None
    for connection in opened:
        assert set(connection.writer.bodies) == {b": \n\n"}
        manager.remove_connection(connection.id)
    assert_nothing_is_left(manager)


@both_writers
@pytest.mark.parametrize("how", ["drain", "dismiss", "close"])
async def test_another_thread_may_end_streams(transport, writer, how):
    async with site(transport=transport, writer=writer) as visited:
        tab, manager = await visited.tab(await visited.browser()), visited.provider.sse_manager
        ends = {
            "drain": manager.drain,  # this test's thread is not the server's
            "dismiss": lambda: manager.dismiss(tab.connection, b": the last\n\n"),
            "close": lambda: tab.connection.close(),
        }
        ends[how]()
        await tab.ends()
        await eventually(lambda: not manager.connections)
        assert visited.provider.stats().cut == 0


@both_writers
async def test_a_stream_ends_with_its_age_and_its_page_opens_another(transport, writer):
    async with site(transport=transport, writer=writer, stream_max_age=0.5) as visited:
        tab = await visited.tab(await visited.browser())
        await tab.ends()
        assert tab.signals["_fs"]["n"] == "" and tab.signals["_fs"]["go"], "it was told to"
        await eventually(lambda: not visited.provider.sse_manager.connections)
        assert visited.provider.stats().cut == 0
        # Or the next one might be over before its event has arrived.
        visited.provider.sse_manager.heartbeat.max_age = 3_600.0
        await tab.open()
        await tab.post("Counter/add", a={"by": 1})
        await tab.until(lambda: tab.signals["Counter"]["count"] == 1)


# -- many readers, some of them frozen ---------------------------------------------------------------------------------


@both_writers
async def test_frozen_readers_cost_bounded_memory_and_nobody_else_anything(transport, writer):
    count, frozen, size, last = 300, 30, 50_000, 40
    # Far longer than all of this takes on any machine: were it over before all was written and looked at, the frozen
    # readers would be gone by then, and a slow one with them. When it is over is said below.
    patience = 600.0
    async with site(transport=transport, write_timeout=patience, max_streams_per_session=count) as visited:
        provider, manager = visited.provider, visited.provider.sse_manager
        tab = await visited.tab(await visited.browser(), streaming=False)
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire.to(tab, frozen=n < frozen)) for n in range(count)]
            for wire in wires:
                wire.ask_for_the_stream()
            for wire in wires:
                await wire.head()
            await eventually(lambda: sum(each.streaming for each in manager.connections.values()) == count)
            assert all(type(each.writer) is writer for each in manager.connections.values())
            for wire in wires[:frozen]:
                wire.writer.transport.pause_reading()
            reading = [asyncio.create_task(wire.until(b"%d." % last)) for wire in wires[frozen:]]

            kept = []

            def look():
                for each in list(manager.connections.values()):
                    box = each._outbox
                    kept.append(each.writer._transport.get_write_buffer_size())
                    assert box is None or (not box.messages and set(box.states) <= {BOARD})

            async def burst():
                for number in range(1, last + 1):
                    async with provider.modify(Board) as board:
                        board.text = f"{number}." + "x" * size
                    await asyncio.sleep(0)
                    look()

            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(burst(), provider.loop()))
            assert max(kept) < 65_536 + 2 * (size + 1_000), "asyncio's limit, and one frame"
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*reading)
            # A reader may have read the last of it before its server's task has heard that it was taken.
            await eventually(lambda: provider.stats().behind == frozen)
            stats = provider.stats()
            assert stats.lag > 0 and stats.coalesced >= (last - 10) * frozen
            assert stats.connections == count
            assert manager.cut == 0
            behind = list(manager.behind)

            async def let_time_run_out():
                for each in behind:
                    assert 0 < each.writer._limit.when() - provider.loop().time() <= patience
                    each.writer.hurry(0)

            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(let_time_run_out(), provider.loop()))
            await eventually(lambda: manager.cut == frozen)
            await eventually(lambda: len(manager.connections) == count - frozen and not manager.behind)
            assert provider.stats().lag == 0
