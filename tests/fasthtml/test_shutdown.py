"""The end of a process: open streams end, the app's own shutdown handlers run, all of it in under five seconds."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
import weakref

import httpx
import pytest
import uvicorn
from fasthtml import common as fh
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, fast_app
from tests.support.client import Page, stream_of
from tests.support.live import assert_nothing_is_left, frozen_reader
from tests.support.processes import LIMIT, Process, in_time
from tests.support.waiting import PATIENCE, eventually, wait_until

APP = """
    import os
    from pathlib import Path
    from fasthtml.common import *
    from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app

    HERE = Path(__file__).parent

    class Board(ReactiveState):
        text: str = ""

        @event
        def grow(self):
            self.text = "x" * 8_000_000

    def ended():
        (HERE / f"ended-{os.getpid()}").touch()

    provider = StateProvider(heartbeat=0.2)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, on_shutdown=[ended], secret_key="for tests")

    @rt("/")
    def index(board: Board):
        return Titled("Board", board.signal.text)
"""


class Shop(Process):
    """The app above, from its start to its end."""

    def __init__(self, directory, arguments):
        super().__init__(directory, APP, arguments)

    def ended(self):
        """How many processes have run the app's shutdown handler."""
        return len(list(self.directory.glob("ended-*")))


@pytest.fixture
def start(tmp_path):
    started = []

    def run(arguments):
        process = Shop(tmp_path, arguments)
        started.append(process)
        process.until(process.serves, PATIENCE)
        return process

    yield run
    for each in started:
        each.kill()


@contextlib.contextmanager
def open_streams(url, count=1, path="/"):
    """`count` streams of the page under `path`, read up to their first bytes; gives what reads them to their end."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(count):
            client = stack.enter_context(httpx.Client(base_url=url, verify=False, timeout=PATIENCE))
            response = stack.enter_context(stream_of(Page(client, path)))
            assert response.status_code == 200
            lines = response.iter_lines()
            while not next(lines).startswith("id: "):
                pass
            readers.append(lines)
        yield readers


def read_to_the_end(readers):
    for lines in readers:
        with contextlib.suppress(httpx.TransportError):
            for _ in lines:
                pass


SERVERS = {
    "uvicorn": [],
    "uvicorn with h11": ["--http", "h11"],
    "--reload": ["--reload"],
    "--workers 2": ["--workers", "2"],
    "serve()": "",
    "serve(reload=False)": "reload=False",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("arguments", SERVERS.values(), ids=SERVERS.keys())
def test_open_streams_end_and_shutdown_handlers_run(start, arguments, number):
    server = start(arguments)
    workers = 2 if arguments == ["--workers", "2"] else 1
    with open_streams(server.url, 6) as readers, in_time():
        if number == signal.SIGINT:
            os.killpg(server.process.pid, number)  # what Ctrl-C in a terminal does
        else:
            server.process.send_signal(number)
        read_to_the_end(readers)
        server.process.wait(PATIENCE)
    assert server.ended() == workers, server.output()
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("arguments", [["--reload"], ""], ids=["--reload", "serve()"])
def test_a_changed_file_reloads_while_streams_are_open(start, arguments):
    server = start(arguments)
    with open_streams(server.url, 2) as readers:
        server.until(lambda: "Started reloader" in server.output(), PATIENCE)
        server.save(server.source.read_text().replace('Titled("Board"', 'Titled("Changed"'), PATIENCE)
        read_to_the_end(readers)
        server.until(lambda: server.ended() == 1, LIMIT)
    server.until(lambda: server.serves("Changed"), PATIENCE)
    with open_streams(server.url) as readers:
        server.process.send_signal(signal.SIGTERM)
        read_to_the_end(readers)
        server.process.wait(LIMIT)
    assert server.ended() == 2


def frozen(page):
    """Have a socket ask for the page's stream, and take nothing but the beginning of its first line."""
    sock = frozen_reader(page, position="")
    assert sock.recv(15) == b"HTTP/1.1 200 OK"
    return sock


@contextlib.contextmanager
def frozen_stream(server):
    """A stream with more to send than its reader takes, who takes nothing."""
    with httpx.Client(base_url=server.url, verify=False) as client, frozen(page := Page(client)):
        assert page.send("Board", "grow").status_code in (200, 204)  # 204 when it has grown before
        yield


@pytest.mark.parametrize(
    "arguments", [[], ["--timeout-graceful-shutdown", "2"]], ids=["by itself", "with a time limit"]
)
def test_a_reader_that_is_frozen_does_not_hold_up_the_end(start, arguments):
    server = start(arguments)
    with open_streams(server.url), frozen_stream(server), frozen_stream(server), frozen_stream(server):
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(2 * LIMIT)  # three seconds by design; without an end of their own it would be twenty
    assert server.ended() == 1


def test_a_reader_that_is_frozen_does_not_hold_up_the_end_of_the_portable_transport(start, monkeypatch):
    monkeypatch.setenv("FASTSTATE_TRANSPORT", "portable")
    test_a_reader_that_is_frozen_does_not_hold_up_the_end(start, [])


@pytest.mark.parametrize("arguments", [[], ["--http", "h11"], ["--loop", "asyncio"]], ids=" ".join)
def test_a_server_that_ends_by_its_count_of_requests_ends_its_streams(start, arguments):
    server = start(["--limit-max-requests", "8", *arguments])
    with open_streams(server.url, 2) as readers:
        server.until(lambda: not server.serves(), LIMIT)
        for lines in readers:
            list(lines)  # to the end that HTTP has for it: one that is cut off raises
        assert server.process.wait(LIMIT) == 0
    assert server.ended() == 1
    assert "Traceback" not in server.output()


class Board(ReactiveState):
    text: str = ""


async def passed_on(request, call_next):
    return await call_next(request)


class Passing:
    """A middleware that wraps `send`, and alters nothing."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def passing_on(message):
            await send(message)

        await self.app(scope, receive, passing_on)


def plain(app):
    return app


def mounted(app):
    return Starlette(
        routes=[Mount("/sub", app)],
        middleware=[Middleware(Passing)],
        lifespan=lambda _: app.router.lifespan_context(app),
    )


@contextlib.contextmanager
def server_in_a_thread(middleware=(), within=plain, **options):
    """A server that gets no signal: itself, its URL, its thread, the provider, and a list that says that it ended."""
    ended = []
    provider = StateProvider(**options)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(
        state_provider=provider, middleware=list(middleware), on_shutdown=[lambda: ended.append(True)], secret_key="x"
    )

    @rt("/")
    def index(board: Board):
        return fh.Titled("Board", board.signal.text)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(within(app), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield server, url, thread, provider
    finally:
        server.force_exit = server.should_exit = True
        thread.join(LIMIT)
        listener.close()
    assert not thread.is_alive() and ended == [True]


BASE = Middleware(BaseHTTPMiddleware, dispatch=passed_on)


@pytest.mark.parametrize("within", [plain, mounted])
@pytest.mark.parametrize("middleware", [[], [BASE]], ids=["outermost", "inside a middleware"])
@pytest.mark.parametrize("transport", ["auto", "portable"])
def test_a_server_in_a_thread_that_is_told_to_end_ends_its_streams(in_tmp_path, middleware, within, transport):
    with server_in_a_thread(middleware, within, transport=transport) as (server, url, thread, provider):  # noqa: SIM117
        with open_streams(url, 3, "/sub/" if within is mounted else "/") as readers:
            assert provider.stats().connections == 3
            server.should_exit = True
            thread.join(LIMIT)
            assert not thread.is_alive(), "the server waits for its streams"
            for lines in readers:
                list(lines)
    assert_nothing_is_left(provider.sse_manager)


def test_a_server_that_ends_ends_the_streams_of_its_own_app_alone(in_tmp_path):
    first, second = server_in_a_thread(), server_in_a_thread()
    with first as (server, url, thread, provider), second as (_, other_url, _, other):  # noqa: SIM117
        with open_streams(url) as readers, open_streams(other_url) as others:
            server.should_exit = True
            thread.join(LIMIT)
            assert not thread.is_alive()
            read_to_the_end(readers)
            assert (provider.stats().connections, other.stats().connections) == (0, 1)
            asyncio.run_coroutine_threadsafe(other.stop(), other.loop()).result(LIMIT)
            read_to_the_end(others)


@pytest.mark.parametrize("middleware", [[], [BASE]], ids=["outermost", "inside a middleware"])
@pytest.mark.parametrize("transport", ["auto", "portable"])
def test_a_frozen_reader_is_cut_wherever_its_stream_is_kept(in_tmp_path, middleware, transport):
    times = {"write_timeout": 0.3, "heartbeat": 0.2}
    with server_in_a_thread(middleware, transport=transport, **times) as (server, url, _, provider):  # noqa: SIM117
        with httpx.Client(base_url=url) as client, frozen(Page(client)):
            wait_until(lambda: provider.stats().connections == 1)

            async def grow():
                async with provider.modify(Board) as board:
                    board.text = "x" * 8_000_000

            asyncio.run_coroutine_threadsafe(grow(), provider.loop()).result(LIMIT)
            wait_until(lambda: provider.stats().cut == 1)
            wait_until(lambda: provider.stats().connections == 0)
            wait_until(lambda: not server.server_state.tasks)  # nothing waits for it any more, ...
            assert len(server.server_state.connections) <= 2  # ... but for the page's connection and what ends streams


def test_stop_ends_the_streams_of_a_server_that_goes_on(in_tmp_path):
    with server_in_a_thread() as (_, url, _, provider), open_streams(url, 3) as readers:
        asyncio.run_coroutine_threadsafe(provider.stop(), provider.loop()).result(LIMIT)
        assert provider.stats().connections == 0
        read_to_the_end(readers)


async def test_a_signal_handler_keeps_no_provider_alive_and_is_there_once():
    """As in a test suite that makes one provider after the other, each of which serves a request."""
    from faststate.fasthtml import shutdown

    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        known = []
        for _ in range(5):
            provider = StateProvider()
            shutdown.drain_on_signal(provider)
            known.append(weakref.ref(provider))
        handler = signal.getsignal(signal.SIGTERM)
        assert isinstance(handler, shutdown._Draining) and not isinstance(handler._previous, shutdown._Draining)
        assert not provider.sse_manager.draining
        handler(signal.SIGTERM, None)
        await eventually(lambda: known[-1]().sse_manager.draining)
        assert heard == [signal.SIGTERM]
        del provider
        gc.collect()
        assert [each() for each in known] == [None] * 5
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_signal_that_interrupts_another_one_reaches_the_server_behind_it(monkeypatch):
    """As a reloader's SIGTERM does on Ctrl-C. To uvicorn, a SIGINT that comes second is a second Ctrl-C."""
    from faststate.fasthtml import shutdown

    heard, loop = [], asyncio.get_running_loop()
    call_soon = loop.call_soon_threadsafe
    interrupting = [signal.SIGTERM]

    def interrupted(*args, **kwargs):
        while interrupting:
            signal.raise_signal(interrupting.pop())
        return call_soon(*args, **kwargs)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in numbers}
    try:
        shutdown.drain_on_signal(provider := StateProvider())
        monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT, signal.SIGTERM]
        await eventually(lambda: provider.sse_manager.draining)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
