"""The end of a process: open streams end, the app's own shutdown handlers run, all of it in under five seconds."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from fasthtml import common as fh

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, fast_app

from .client import BROWSER, Page
from .helpers import Process

LIMIT = 5  # seconds from the signal to the end: what the library promises
PATIENCE = 20  # seconds for a process to start

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

    provider = StateProvider(write_timeout=0.3, heartbeat=0.2)
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


def stream_of(page):
    payload = {"w": page.tokens, "n": page.position}
    return page.client.stream("GET", f"{page.url}stream", params={"datastar": json.dumps(payload)}, headers=BROWSER)


@contextlib.contextmanager
def open_streams(url, count=1):
    """`count` streams, each read up to its first bytes; gives functions that read them to their end."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(count):
            client = stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))
            response = stack.enter_context(stream_of(Page(client)))
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
    with open_streams(server.url, 6) as readers:
        before = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(server.process.pid, number)  # what Ctrl-C in a terminal does
        else:
            server.process.send_signal(number)
        read_to_the_end(readers)
        server.process.wait(LIMIT)
    assert time.monotonic() - before < LIMIT
    assert server.ended() == workers, server.output()
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("arguments", [["--reload"], ""], ids=["--reload", "serve()"])
def test_a_changed_file_reloads_while_streams_are_open(start, arguments):
    server = start(arguments)
    with open_streams(server.url, 2) as readers:
        server.until(lambda: "Started reloader" in server.output(), PATIENCE)
        server.source.write_text(server.source.read_text().replace('Titled("Board"', 'Titled("Changed"'))
        read_to_the_end(readers)
        server.until(lambda: server.ended() == 1, LIMIT)
    server.until(lambda: server.serves("Changed"), PATIENCE)
    with open_streams(server.url) as readers:
        server.process.send_signal(signal.SIGTERM)
        read_to_the_end(readers)
        server.process.wait(LIMIT)
    assert server.ended() == 2


@contextlib.contextmanager
def frozen_stream(server):
    """A stream with more to send than its reader takes, who takes nothing."""
    with httpx.Client(base_url=server.url) as client, socket.socket() as frozen:
        page = Page(client)
        payload = {"datastar": json.dumps({"w": page.tokens, "n": ""})}
        request = client.build_request("GET", f"{page.url}stream", params=payload, headers=BROWSER)
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        frozen.connect(("127.0.0.1", server.port))
        head = f"GET {request.url.raw_path.decode()} HTTP/1.1\r\n"
        frozen.sendall((head + "".join(f"{k}: {v}\r\n" for k, v in request.headers.items()) + "\r\n").encode())
        assert frozen.recv(15) == b"HTTP/1.1 200 OK"
        assert page.send("Board", "grow").status_code == 200
        yield


@pytest.mark.parametrize(
    "arguments", [[], ["--timeout-graceful-shutdown", "2"]], ids=["by itself", "with a time limit"]
)
def test_a_reader_that_is_frozen_does_not_hold_up_the_end(start, arguments):
    server = start(arguments)
    with open_streams(server.url), frozen_stream(server):
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(LIMIT)
    assert server.ended() == 1


def test_a_server_that_ends_by_its_count_of_requests_ends_with_a_time_limit(start):
    server = start(["--limit-max-requests", "6", "--timeout-graceful-shutdown", "1"])
    with open_streams(server.url) as readers:
        server.until(lambda: not server.serves(), LIMIT)
        read_to_the_end(readers)
        server.process.wait(LIMIT)
    assert server.ended() == 1


class Board(ReactiveState):
    text: str = ""


def test_stop_ends_the_streams_of_a_server_that_gets_no_signal(in_tmp_path):
    ended = []
    provider = StateProvider()
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, on_shutdown=[lambda: ended.append(True)])

    @rt("/")
    def index(board: Board):
        return fh.Titled("Board", board.signal.text)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with open_streams(f"http://127.0.0.1:{listener.getsockname()[1]}", 3) as readers:
            asyncio.run_coroutine_threadsafe(provider.stop(), provider._loop).result(LIMIT)
            assert provider.stats().connections == 0
            read_to_the_end(readers)
            server.should_exit = True
            thread.join(LIMIT)
    finally:
        server.force_exit = server.should_exit = True
        thread.join(LIMIT)
        listener.close()
    assert not thread.is_alive() and ended == [True]
