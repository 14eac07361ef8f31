"""Each server that runs ASGI apps runs ours: over real sockets, each in a process of its own.

A server's tests share its process; what they count they count from where they find it.
"""

import contextlib
import re
import socket
import textwrap
import time

import httpx
import pytest

from tests.support.client import BROWSER, LivePage, Page, patched_signals, stream_request
from tests.support.processes import Server
from tests.support.servers import KINDS, Certificate
from tests.support.waiting import wait_until

LIMIT = 5  # seconds from SIGTERM to the end: what the library promises
PATIENCE = 30  # seconds for an effect, on a busy machine: no heartbeat is as quick

APP = """
    import os
    from fasthtml.common import *
    from faststate import ReactiveState, StateConfig, StateProvider, StateScope, UserContext, event, fast_app

    class Counter(ReactiveState):
        count: int = 0

        @event
        def add(self, by: int = 1):
            self.count += by

    class Board(ReactiveState):
        count: int = 0
        text: str = ""

        @event
        async def add(self):
            self.count += 1

        @event
        async def fill(self, text: str):
            self.count += 1
            self.text = text * 100_000

    provider = StateProvider(heartbeat=60, write_timeout=60, body_timeout=60)
    provider.register_state(Counter)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(
        state_provider=provider, secret_key="for tests", sess_https_only="TLS" in os.environ, pico=False,
        on_shutdown=[lambda: open("ended", "a").close()],
    )

    @rt
    def index(counter: Counter, board: Board):
        return Titled("Counters", counter.signal.count, board.signal.count, board.signal.text)

    @rt
    async def enter(request):
        await provider.login(request, UserContext("ada"))
        return "in"

    @rt
    async def leave(request):
        await provider.logout(request)
        return "out"

    @rt
    def patience(write: float = 60, body: float = 60):  # short only for who is waited for to be out of time
        object.__setattr__(provider.options, "write_timeout", write)
        object.__setattr__(provider.options, "body_timeout", body)
        return "set"

    @rt
    def stats():
        return {**provider.stats()._asdict(), "cut": provider.sse_manager.cut}
"""


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def _server(kind, tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    source = directory / "shop.py"
    source.write_text(textwrap.dedent(APP))
    certificate = Certificate(directory) if kind.tls else None
    server = Server(
        source,
        cwd=directory,
        log=directory / "log",
        env={"TLS": "1"} if kind.tls else None,
        command=kind.command,
        certificate=certificate,
    )
    yield server
    server.kill()


@pytest.fixture
def server(_server):
    if not _server.running:
        _server.start()
    return _server


@pytest.fixture
def visit(server):
    """Make a client: a browser of its own, which speaks the newest that the server does."""
    with contextlib.ExitStack() as opened:

        def visit(**options):
            options["verify"] = server.certificate.trusted() if server.certificate else False
            transport = httpx.HTTPTransport(http2=True, **options)
            return opened.enter_context(httpx.Client(base_url=server.url, timeout=PATIENCE, transport=transport))

        yield visit


def expect_flaw(request, kind, name):
    """Expect the test to fail if the server has the flaw."""
    if name in kind.flaws:
        request.applymarker(pytest.mark.xfail(strict=True, reason=kind.flaws[name]))


def raw_connection(server):
    """A socket to the server, with TLS if it is to be, that has HTTP/1 spoken."""
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    if server.certificate:
        connection = server.certificate.trusted().wrap_socket(connection, server_hostname="127.0.0.1")
    return connection


def stats(client):
    return client.get("/stats").json()


@contextlib.contextmanager
def patience(client, **seconds):
    """The server has less patience until the block ends."""
    client.get("/patience", params=seconds)
    try:
        yield
    finally:
        client.get("/patience")


def test_a_page_is_served_by_the_protocol_of_the_server(kind, visit):
    page = Page(visit())
    assert page.response.status_code == 200
    assert page.response.http_version == kind.protocol
    assert page.signals["Counter"]["count"] == 0
    assert ("secure" in page.response.headers["set-cookie"].lower()) == kind.tls


def test_an_event_comes_down_the_stream_of_its_session_and_of_no_other(visit):
    tab, other = LivePage(visit()), LivePage(visit())
    assert tab.stream.headers["content-type"].startswith("text/event-stream")
    tab.click("Counter", "add", by=3)
    tab.read_until("Counter", count=3)
    count = other.signals["Board"]["count"] + 1
    other.click("Board", "add")
    other.read_until("Board", count=count)
    assert "Counter" not in other.shown


def test_what_is_global_comes_down_the_stream_of_another_session(visit):
    tab, other = LivePage(visit()), LivePage(visit())
    count = tab.signals["Board"]["count"]
    for step in (1, 2):
        tab.click("Board", "add")
        for each in (tab, other):
            each.read_until("Board", count=count + step)


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(kind, server, visit, request):
    expect_flaw(request, kind, "HTTP/1.0")
    page = Page(visit())
    opening = stream_request(page)
    head = f"POST {opening.url.raw_path.decode()} HTTP/1.0\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in opening.headers.items() if name != "connection")
    with raw_connection(server) as connection:
        connection.sendall(f"{head}\r\n".encode() + opening.content)
        answer = b""
        while b"id: " not in answer:
            answer += (more := connection.recv(65536))
            assert more, answer
        assert page.send("Counter", "add").status_code == 200  # with what it changed, as it names no stream
        while b'"count"' not in answer:
            answer += (more := connection.recv(65536))
            assert more, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200 ", head)
    assert b"transfer-encoding" not in head.lower()
    assert patched_signals(body)["Counter"]["count"] == 1
    assert [line for line in body.decode().split("\n") if not re.match(r"$|: |(event|data|id): ", line)] == []


def test_a_tab_that_goes_away_is_noticed(visit):
    watcher, tabs = visit(), [LivePage(visit()) for _ in range(2)]
    wait_until(lambda: stats(watcher)["connections"] == 2)
    for left in (1, 0):
        tabs.pop().client.close()
        wait_until(lambda left=left: stats(watcher)["connections"] == left)


@pytest.mark.parametrize("change", ["/enter", "/leave"])
def test_signing_in_or_out_ends_the_streams_of_before(visit, change):
    browser = visit()
    if change == "/leave":
        browser.get("/enter")
    tabs = (
        [LivePage(browser), LivePage(browser)]
        if browser.get("/stats").http_version == "HTTP/2"
        else [LivePage(browser)]
    )
    stranger = LivePage(visit())
    assert browser.get(change).status_code == 200
    for tab in tabs:
        tab.read_to_the_end()
        assert tab.shown["_fs"]["go"] == "#reload"
    count = stranger.signals["Board"]["count"] + 1
    stranger.click("Board", "add")
    stranger.read_until("Board", count=count)


def test_a_stream_that_is_not_to_be_is_answered_204(visit):
    page = Page(visit())
    assert page.client.post(f"{page.url}stream", json={}, headers=BROWSER).status_code == 204
    assert page.client.get(f"{page.url}stream", headers=BROWSER).status_code == 405


def test_an_event_that_takes_too_long_to_arrive_is_answered(visit):
    page, other = Page(visit()), visit()

    def dawdle():
        yield b'{"a":'
        time.sleep(2)  # ten times as long as the server waits, which may begin to do so late
        yield b"{}}"

    headers = {**BROWSER, "content-type": "application/json", "faststate-nonce": "0" * 24}
    with patience(other, body=0.2):
        answer = page.client.post(f"{page.url}event/Counter/add", content=dawdle(), headers=headers)
    assert answer.status_code == 408


def test_a_reader_that_takes_nothing_is_cut_and_holds_up_nobody(visit):
    writer, before = LivePage(visit()), stats(visit())["cut"]
    with patience(writer.client, write=0.5):  # for the stream that begins here alone
        frozen = LivePage(visit(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]))
    count = writer.signals["Board"]["count"]

    def has_cut():
        nonlocal count
        count += 1
        writer.click("Board", "fill", text=chr(ord("a") + count % 26) * 8)  # what it was is not sent again
        writer.read_until("Board", count=count)
        return stats(writer.client)["cut"] > before

    wait_until(has_cut)
    frozen.close()
    writer.click("Board", "fill", text="")


def test_sigterm_ends_open_streams_and_runs_the_app_s_shutdown_handlers(kind, server, visit, request):
    expect_flaw(request, kind, "end")
    tabs = [LivePage(visit()) for _ in range(3)]
    before, printed = time.monotonic(), len(server.output())
    server.process.terminate()
    for tab in tabs:
        tab.read_to_the_end()
        tab.client.close()  # as a browser does when it is told so: TLS and HTTP/2 have both sides agree on the end
    assert server.process.wait(LIMIT) == kind.code, server.output()
    assert time.monotonic() - before < LIMIT
    assert (server.cwd / "ended").exists()
    assert "Traceback" not in server.output()[printed:]
