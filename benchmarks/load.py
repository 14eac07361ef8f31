"""The load: thousands of open streams in one process, read by hand with epoll, so that nothing waits for the load.

It does not parse what arrives: a change is a mark in the bytes, and a stream has the change when its mark was seen
there. The load needs its own core, see `servers.core`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import unescape
from http.client import HTTPConnection
from typing import NamedTuple

__all__ = ["Crowd", "Page", "door", "mark", "open_files", "post", "undisturbed", "visit"]

MARK_SIZE = 10
PATIENCE = 60.0
"""Seconds that anything may take before the run fails."""

EDGE = select.EPOLLIN | select.EPOLLET
HELLO = b"\ndata: "
"""The text that the body of every stream begins with, at the latest."""

Address = tuple[str, int]


def mark(number: int) -> str:
    """Return the text that tells the change `number` from all others, wherever it stands in a frame."""
    return f"~{number:0{MARK_SIZE - 2}}~"


def open_files(wanted: int) -> int:
    """Raise the limit of open files as far as allowed; return how many of `wanted` streams there can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - 200)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep this process's cyclic collector out of the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Page(NamedTuple):
    """What a browser has after loading a page: its cookie, and the payload that opens the page's stream."""

    cookie: str
    payload: str

    def door(self, path: str) -> bytes:
        """Return the request that opens the page's stream."""
        return door(path, self.cookie, self.payload)


def door(path: str, cookie: str = "", payload: str = "") -> bytes:
    """Return the request (bytes) that opens a stream, as a browser with Datastar sends it: by POST with a payload."""
    method = f"POST {path} HTTP/1.1\r\ncontent-length: {len(payload)}" if payload else f"GET {path} HTTP/1.1"
    own = f"cookie: {cookie}\r\n" if cookie else ""
    head = f"{method}\r\nhost: bench\r\naccept: text/event-stream\r\ndatastar-request: true\r\n{own}\r\n"
    return (head + payload).encode()


def post(sockets: Sequence[socket.socket], requests: Sequence[bytes]) -> None:
    """Send one request on each of these connections, and wait until each was answered 204; they stay open."""
    for sock, request in zip(sockets, requests, strict=True):
        sock.sendall(request)
    deadline = time.monotonic() + PATIENCE
    for sock in sockets:
        answer = b""
        while b"\r\n\r\n" not in answer:
            with contextlib.suppress(BlockingIOError):  # it does not sleep: to wake it would be work of the server's
                piece = sock.recv(4_096, socket.MSG_DONTWAIT)
                if not piece:
                    raise ConnectionError(f"the server has closed a connection after {answer!r}")
                answer += piece
            if time.monotonic() > deadline:
                raise TimeoutError(f"a request was not answered; so far there is {answer!r}")
        if not answer.startswith(b"HTTP/1.1 204") or not answer.endswith(b"\r\n\r\n"):
            raise RuntimeError(f"a request was answered {answer[:500]!r}")


def visit(address: Address, path: str, count: int) -> list[Page]:
    """Load a page as `count` new browsers do; return their cookies and what they watch."""
    pages = []
    connection = HTTPConnection(*address, timeout=PATIENCE)
    with contextlib.closing(connection):
        for _ in range(count):
            connection.request("GET", path)
            response = connection.getresponse()
            text = unescape(response.read().decode())
            if response.status != 200:
                raise RuntimeError(f"GET {path} was answered {response.status}: {text[:500]}")
            cookie = response.headers.get("set-cookie", "").partition(";")[0]
            tokens = re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', text)
            position = re.search(r"""[,{]n:"([^"]*)\"""", text)
            payload = json.dumps({"w": tokens, "n": position[1] if position else ""}) if tokens else ""
            pages.append(Page(cookie, payload))
    return pages


class _Reading:
    """The text that is searched for, the streams without it yet, and where their bytes ended. Lifetime: one change."""

    def __init__(self, text: str, waiting: set[int]) -> None:
        self.wanted = text.encode()
        self.waiting = waiting
        self.tails: dict[int, bytes] = {}


class Crowd:
    """Open streams of one server. Lifetime: a `with` block, which closes them."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 18)
        self._sockets: dict[int, socket.socket] = {}
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        self._frozen: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._sockets)

    def open(
        self, doors: Sequence[bytes], until: bytes = HELLO, *, at_once: int = 64, rate: float = math.inf
    ) -> list[float]:
        """Open a stream by each door; wait until each has received `until`; return the seconds that each has waited.

        At most `at_once` are being opened at a time, and at most `rate` begin a second. A stream that could not begin
        in time has waited all the same.
        """
        begun: dict[int, float] = {}
        heads: dict[int, bytes] = {}
        waited: list[float] = []
        start = time.perf_counter()
        for number, request in enumerate(doors):
            due = start + number / rate
            while len(begun) >= at_once or time.perf_counter() < due:
                self._greeted(begun, heads, until, waited, due)
            sock = self._connect(request)
            begun[sock.fileno()] = time.perf_counter() if rate == math.inf else due
            self._register(sock)
        while begun:
            self._greeted(begun, heads, until, waited)
        return waited

    def enter(self, request: bytes) -> str:
        """Open a stream of FastState's; return its connection's id (str) once it has sent it."""
        sock = self._connect(request)
        head = b""
        while (found := re.search(rb'"c":"([^"]+)"', head)) is None or HELLO not in head:
            piece = sock.recv(4_096)
            if not piece:
                raise RuntimeError(f"a stream was refused: {head[:500]!r}")
            head += piece
        self._register(sock)
        return found[1].decode()

    def open_frozen(self, doors: Sequence[bytes]) -> None:
        """Open streams that are never read from again after their first bytes."""
        for request in doors:
            sock = self._connect(request, is_small=True)
            head = b""
            while HELLO not in head:
                piece = sock.recv(4_096)
                if not piece:
                    raise RuntimeError(f"a stream was refused: {head[:500]!r}")
                head += piece
            self._frozen.append(sock)

    def deliver(self, trigger: Callable[[], object], text: str, watchers: Iterable[int] | None = None) -> float:
        """Let `trigger` change something, and wait until every watcher has received `text`; return the seconds it took.

        `watchers` are the streams (as `newest` names them) that have to receive it: by default all. Reading begins only
        when bytes have come to all of them, so that it is not measured; if `text` is not in these bytes, reading goes
        on until it is, and counts.
        """
        waiting = set(self._receive if watchers is None else watchers)
        untouched, touched = set(waiting), []
        poll, came = self._epoll.poll, untouched.discard
        reading = _Reading(text, waiting)
        deadline = time.monotonic() + PATIENCE
        start = time.perf_counter()
        trigger()
        while untouched:
            events = poll(0)  # it does not sleep: to wake it would be work of the server's
            for fd, _ in events:
                came(fd)
                touched.append(fd)
            if not events and time.monotonic() > deadline:
                raise TimeoutError(f"nothing has come to {len(untouched)} of {len(self)} streams")
        taken = time.perf_counter() - start
        self._read(reading, touched)
        while waiting:
            events = poll(1)
            self._read(reading, [fd for fd, _ in events])
            taken = time.perf_counter() - start
            if not events and time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} of {len(self)} streams have not received {text}")
        return taken

    def _read(self, reading: _Reading, touched: Iterable[int]) -> None:
        receive, buffer, room = self._receive, self._buffer, len(self._buffer)
        find, wanted, waiting, tails = buffer.find, reading.wanted, reading.waiting, reading.tails
        have, overlap = waiting.discard, len(reading.wanted) - 1
        for fd in touched:
            size = room
            while size == room:
                try:
                    size = receive[fd](buffer)
                except BlockingIOError:
                    break
                if not size:
                    raise ConnectionError(f"the server has ended a stream; {len(waiting)} waited for {wanted!r}")
                if find(wanted, 0, size) >= 0:
                    have(fd)
                elif fd in waiting:  # a large frame comes in pieces, and may be cut in the middle of the mark
                    seen = tails.pop(fd, b"") + buffer[: min(size, overlap)]
                    if wanted in seen:
                        have(fd)
                    else:
                        tails[fd] = bytes(buffer[size - overlap : size] if size >= overlap else seen[-overlap:])

    def read(self) -> None:
        """Read whatever has come to the streams by now."""
        self._read(_Reading("", set()), [fd for fd, _ in self._epoll.poll(0)])

    def newest(self, count: int) -> list[int]:
        """Return the names of the streams that were opened last."""
        return list(self._sockets)[-count:] if count else []

    def close(self, names: Iterable[int] | None = None) -> None:
        """Close the named streams, or all."""
        for fd in list(self._sockets if names is None else names):
            self._receive.pop(fd)
            self._sockets.pop(fd).close()
        if names is None:
            for sock in self._frozen:
                sock.close()
            self._frozen = []

    def _connect(self, request: bytes, is_small: bool = False) -> socket.socket:
        sock = socket.socket()
        try:
            sock.settimeout(PATIENCE)
            if is_small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                # Segments as on a real network: with those of the loopback, the kernel takes megabytes for the server.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_460)
            sock.connect(self.address)
            sock.sendall(request)
        except BaseException:
            sock.close()
            raise
        return sock

    def _register(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        fd = sock.fileno()
        self._sockets[fd] = sock
        self._receive[fd] = sock.recv_into
        self._epoll.register(fd, EDGE)

    def _greeted(
        self, begun: dict[int, float], heads: dict[int, bytes], until: bytes, waited: list[float], due: float = math.inf
    ) -> None:
        """Read what has come within a second, or until `due`, and note which streams have been greeted."""
        now = time.perf_counter()
        events = self._epoll.poll(max(0.0, min(1.0, due - now)))
        now = time.perf_counter()
        if not events and begun and now - min(begun.values()) > PATIENCE:
            raise TimeoutError(
                f"{len(begun)} streams were not greeted; the last head was {next(iter(heads.values()), b'')!r}"
            )
        for fd, _ in events:
            try:
                size = self._receive[fd](self._buffer)
            except BlockingIOError:
                continue
            head = heads.pop(fd, b"") + self._buffer[:size]
            if not size or (fd in begun and not b"HTTP/1.1 200".startswith(head[:12])):
                raise ConnectionError(f"a stream was refused: {head[:500]!r}")
            if fd in begun:
                if until in head:
                    waited.append(now - begun.pop(fd))
                else:
                    heads[fd] = head
