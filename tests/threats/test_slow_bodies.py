"""A client that announces an event and then dawdles is cut off after `body_timeout`, and keeps nobody waiting."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.client import Page, patched_signals, status
from tests.threats.injection_server import client, event_request, peak_memory, raw, read_answer, stream_request

APP = "injection_bombs.py"
EXPECTED = ["ClientDisconnect"]  # what else is left of clients that leave: test_bombs.py
TIMEOUT = 1.5  # the app's body_timeout, in seconds: on a busy machine, too, a body that is not slow takes less
ENV = {"BODY_TIMEOUT": str(TIMEOUT)}
PATIENCE = 20.0  # a busy machine may take longer; without the time-out it would be for ever


@pytest.fixture
def page(server):
    with client(server) as browser:
        yield Page(browser)


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def payload(page):
    return b'{"a":{},"w":["' + page.tokens[0].encode() + b'"]}'


def announced(page, length=1000, sent=b"", **headers):
    """An event's headers, and as much of its body as `sent`."""
    return event_request(
        page, "Pile", "add", sent, {"content-length": str(length), "connection": "keep-alive", **headers}
    )


def chunked(page, **headers):
    """An event's headers for a body of unknown length."""
    headers = {"transfer-encoding": "chunked", "connection": "keep-alive", **headers}
    return event_request(page, "Pile", "add", b"", headers)


def trickle(sock, pieces, pause=0.02):
    """Sends a piece, waits a little for an answer, and so on until there is one; how many pieces were taken."""
    for count, piece in enumerate(pieces):
        if select.select([sock], [], [], pause)[0]:
            return count
        try:
            sock.sendall(piece)
        except ConnectionError:
            return count
    return len(pieces)


def count_of(page):
    return Page(page.client).signals["Pile"]["count"]


def assert_cut(sock, started):
    """The answer is a 408, after the time-out and not much later, and the connection is closed behind it."""
    answer = read_answer(sock)
    assert TIMEOUT * 0.9 < time.monotonic() - started < PATIENCE
    assert answer.status == 408 and answer.header("connection") == "close"
    assert "set-cookie" not in answer.names()
    with suppress(ConnectionResetError):  # it had been sent more by then
        assert sock.recv(1) == b""


@pytest.mark.parametrize("length", [1, 1000, 262_144])
def test_a_body_that_never_comes_is_answered_408_after_body_timeout(server, page, length):
    with connect(server) as sock:
        started = time.monotonic()
        sock.sendall(announced(page, length))
        assert_cut(sock, started)
    assert count_of(page) == 0


def test_a_body_that_comes_to_a_stop_is_answered_408(server, page):
    sent = payload(page)
    for head in (announced(page, len(sent), sent[:-1]), chunked(page) + b"%x\r\n" % len(sent) + sent + b"\r\n"):
        with connect(server) as sock:
            started = time.monotonic()
            sock.sendall(head)
            assert_cut(sock, started)
    assert count_of(page) == 0


def test_each_byte_in_time_is_not_the_whole_body_in_time(server, page):
    """The time is for the body as a whole: what a byte now and then would keep open for ever is cut as well."""
    sent = payload(page)
    spaced = sent + b" " * 1000
    for head, pieces in (
        (announced(page, len(spaced)), [spaced[i : i + 1] for i in range(len(spaced))]),
        (chunked(page), [b"1\r\n%c\r\n" % byte for byte in spaced]),
    ):
        with connect(server) as sock:
            started = time.monotonic()
            sock.sendall(head)
            taken = trickle(sock, pieces)
            assert 0 < taken < len(pieces)
            assert_cut(sock, started)
    assert count_of(page) == 0


def test_a_body_that_is_slow_but_in_time_is_served(server, page):
    sent = payload(page)
    with connect(server) as sock:
        sock.sendall(announced(page, len(sent)))
        size = len(sent) // 4 + 1
        assert trickle(sock, [sent[i : i + size] for i in range(0, len(sent), size)], pause=TIMEOUT / 30) == 4
        answer = read_answer(sock)
    assert answer.status == 200 and patched_signals(answer.body)["Pile"]["count"] == 1


def test_what_comes_after_the_408_runs_no_event(server, page):
    sent = payload(page)
    with connect(server) as sock:
        started = time.monotonic()
        sock.sendall(announced(page, len(sent)))
        assert read_answer(sock).status == 408 and time.monotonic() - started < PATIENCE
        with suppress(ConnectionError):
            sock.sendall(sent)
            sock.sendall(event_request(page, "Pile", "add", sent))
            while sock.recv(65536):
                pass
    assert count_of(page) == 0


@pytest.mark.parametrize("cookie", ["", "session_=x", "session_=x.y.z"])
def test_who_has_no_session_is_cut_as_well(server, page, cookie):
    with connect(server) as sock:
        started = time.monotonic()
        sock.sendall(announced(page, cookie=cookie))
        assert_cut(sock, started)


def test_who_is_refused_for_the_headers_is_not_waited_for(server, page):
    for headers in ({"sec-fetch-site": "cross-site"}, {"content-length": "262145"}):
        started = time.monotonic()
        with connect(server) as sock:
            sock.sendall(announced(page, **headers))
            assert read_answer(sock).status in (200, 403)
        assert time.monotonic() - started < TIMEOUT * 0.9


def open_files(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_a_hundred_slow_bodies_at_once_keep_nobody_waiting(server, page):
    before, memory = open_files(server), peak_memory(server)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(100)]
        started = time.monotonic()
        for i, sock in enumerate(socks):
            # Of no session: one session may have no more than a few events under way, and is told so at once.
            sock.sendall(announced(page, 100_000, b"{" * (i * 100), cookie="") if i % 2 else chunked(page, cookie=""))
        served = 0
        waiting = list(socks)
        while waiting and time.monotonic() - started < PATIENCE * 2:
            asked = time.monotonic()
            answer = page.send("Pile", "add")
            assert status(answer) == 200 and page.client.get("/").status_code == 200
            assert time.monotonic() - asked < TIMEOUT * 4
            served += 1
            for sock in waiting:
                if not select.select([sock], [], [], 0)[0]:
                    sock.sendall(b"1\r\n[\r\n")  # still at it
            waiting = [sock for sock in waiting if not select.select([sock], [], [], 0)[0]]
            time.sleep(0.05)  # or it would soon be more events than one session may send
        assert not waiting and served >= 3
        assert [read_answer(sock).status for sock in socks] == [408] * 100
        assert count_of(page) == served
    # The page's own connection stays; a socket that was closed here may take the server a moment.
    deadline = time.monotonic() + PATIENCE
    while open_files(server) > before + 2:
        assert time.monotonic() < deadline, "sockets of slow clients are still open"
        count_of(page)
    assert peak_memory(server) - memory < 64 * 2**20


def test_a_streams_request_is_not_waited_for_until_its_body_comes(server, page):
    with connect(server) as sock:
        sock.settimeout(TIMEOUT * 4)
        sock.sendall(stream_request(page, headers={"content-length": "1000"}))
        assert read_answer(sock, until=b"\n\n").status in (200, 204, 400, 408, 413)


def test_a_stream_is_no_body_and_stays_open(server, page):
    """The time-out is for what a client sends: what it is sent lasts as long as the page."""
    with connect(server) as sock:
        sock.sendall(stream_request(page, b'{"w":["' + page.tokens[0].encode() + b'"]}'))
        answer = read_answer(sock, until=b"\n\n\r\n")
        assert answer.status == 200
        assert raw(server, announced(page)).status == 408  # so more than body_timeout has passed
        page.send("Pile", "add")
        while b'"count":1' not in (received := sock.recv(65536)):
            assert received.endswith(b": \n\n\r\n"), "a sign of life may come before it, and nothing else"
