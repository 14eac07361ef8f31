"""A server that is told to end does so within five seconds, whatever its events are doing; on every kind of server."""

from __future__ import annotations

import contextlib
import socket
import textwrap

import httpx
import pytest

from tests.support.processes import LIMIT, Server, in_time
from tests.support.servers import KINDS
from tests.support.waiting import PATIENCE, wait_until

APP = """
    import asyncio, time
    from fasthtml.common import *
    from faststate import ReactiveState, StateProvider, event, fast_app

    class Job(ReactiveState):
        n: int = 0

        @event(timeout=None)
        async def tick(self):
            while True:
                self.n += 1
                yield
                await asyncio.sleep(0.05)

        @event(timeout=None)
        async def tight(self):
            while True:
                self.n += 1
                yield

        @event(timeout=None)
        async def long_steps(self):
            while True:
                self.n += 1
                yield
                await asyncio.sleep(3600)

        @event(timeout=None)
        async def wait(self):
            await asyncio.Event().wait()

        @event(timeout=None)
        async def stubborn(self):
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

        @event(timeout=None)
        def block(self):
            time.sleep(3600)

        @event
        async def few(self):
            for _ in range(20):
                self.n += 1
                yield P(self.n, id="n")
                await asyncio.sleep(0.01)

        @event
        def soon(self):
            time.sleep(1)
            self.n += 1
            open("saved", "a").close()

    provider = StateProvider(max_events_per_session=1_000, event_burst=1_000)
    provider.register_state(Job)
    app, rt = fast_app(
        state_provider=provider, secret_key="for tests", on_shutdown=[lambda: open("ended", "a").close()],
    )

    @rt
    def index(job: Job):
        return P(job.signal.n)

    @rt
    async def under_way():
        return str(sum(provider.throttle._under_way.values()))
"""

EVENTS = ("tick", "tight", "long_steps", "wait", "stubborn", "block")


@contextlib.contextmanager
def started(tmp_path, kind):
    source = tmp_path / "shop.py"
    source.write_text(textwrap.dedent(APP))
    server = Server(source, cwd=tmp_path, log=tmp_path / "log", command=kind.command)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def post(server, path, *, size=2):
    """Sends a request of a session of its own; the socket on which nobody waits for the answer.

    Of a body with a `size` above 2 the rest never comes.
    """
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        client.get("/")
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    sent = socket.create_connection(("127.0.0.1", server.port))
    sent.sendall(
        f"POST /_faststate/{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Datastar-Request: true\r\nCookie: {cookies}\r\nContent-Length: {size}\r\n\r\n{{}}".encode()
    )
    return sent


def under_way(server):
    return int(httpx.get(f"{server.url}/under_way", timeout=PATIENCE).text)


KINDS_HERE = {name: kind for name, kind in KINDS.items() if not kind.tls}


CASES = [*((kind, "gone") for kind in KINDS_HERE), ("uvicorn", "there"), ("hypercorn", "there")]


@pytest.mark.parametrize(("kind", "clients"), CASES, ids=[" ".join(case) for case in CASES])
def test_endless_events_do_not_hold_up_the_end(tmp_path, kind, clients):
    with started(tmp_path, KINDS[kind]) as server, contextlib.ExitStack() as sockets:
        posted = [sockets.enter_context(post(server, f"event/Job/{name}")) for name in (*EVENTS, "tick", "block")]
        wait_until(lambda: under_way(server) == len(posted))
        if clients == "gone":
            sockets.close()
        with in_time():
            server.process.terminate()
            server.process.wait(PATIENCE)
    assert (tmp_path / "ended").exists(), server.output()
    assert "src/faststate" not in server.output(), server.output()  # hypercorn reports what it cancels itself
    assert "never retrieved" not in server.output() and "was destroyed" not in server.output()


# Granian waits for the rest of a body that was answered already, of any app, until its `--workers-kill-timeout`.
@pytest.mark.parametrize("kind", [name for name in KINDS_HERE if name != "granian"])
def test_requests_that_never_arrive_whole_do_not_hold_up_the_end(tmp_path, kind):
    with started(tmp_path, KINDS[kind]) as server, contextlib.ExitStack() as sockets:
        for path in ("stream", "leave", "event/Job/tick"):
            sockets.enter_context(post(server, path, size=100))
        wait_until(lambda: under_way(server) == 1)
        with in_time():
            server.process.terminate()
            server.process.wait(PATIENCE)
    assert (tmp_path / "ended").exists(), server.output()


def test_a_sync_event_that_returns_in_time_is_committed_and_answered(tmp_path):
    with started(tmp_path, KINDS["uvicorn"]) as server, post(server, "event/Job/soon") as sent:
        wait_until(lambda: under_way(server) == 1)
        server.process.terminate()
        server.process.wait(LIMIT)
        assert sent.recv(12) == b"HTTP/1.1 204" or b"200" in sent.recv(100)
    assert (tmp_path / "saved").exists()


def test_a_server_without_a_signal_ends_its_events(tmp_path):
    kind = type(KINDS["uvicorn"])(command=lambda *a: [*KINDS["uvicorn"].command(*a), "--limit-max-requests", "8"])
    with started(tmp_path, kind) as server, contextlib.ExitStack() as sockets:
        sockets.enter_context(post(server, "event/Job/tick"))
        sockets.enter_context(post(server, "event/Job/wait"))
        with contextlib.suppress(httpx.TransportError):
            for _ in range(8):
                httpx.get(server.url, timeout=PATIENCE)
        server.process.wait(PATIENCE)
    assert (tmp_path / "ended").exists(), server.output()


KEPT_ALIVE = ["uvicorn", "uvicorn with h11", "hypercorn", "granian"]


@pytest.mark.parametrize("kind", KEPT_ALIVE)
def test_requests_behind_a_generator_event_on_one_connection_are_answered(tmp_path, kind):
    """Somebody listens meanwhile for the end of the connection, and takes nothing from what comes on it."""
    with started(tmp_path, KINDS[kind]) as server, post(server, "event/Job/few") as sent:
        sent.settimeout(PATIENCE)
        if kind.startswith("uvicorn"):  # the others take no request that comes before the answer to the last one
            sent.sendall(b"GET /under_way HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = sent.makefile("rb")
        assert read_answer(answers)[0] == b"200"
        for number in range(3):
            if number or not kind.startswith("uvicorn"):
                sent.sendall(b"GET /under_way HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(answers) == (b"200", b"0")


def read_answer(answers):
    """The status and the body of the next answer on a connection."""
    status = answers.readline().split()[1]
    length, chunked = 0, False
    while (line := answers.readline().strip().lower()) != b"":
        name, _, value = line.partition(b": ")
        length = int(value) if name == b"content-length" else length
        chunked = chunked or line == b"transfer-encoding: chunked"
    if not chunked:
        return status, answers.read(length)
    body = b""
    while (size := int(answers.readline(), 16)) > 0:
        body += answers.read(size)
        answers.readline()
    answers.readline()
    return status, body
