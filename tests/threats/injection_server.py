"""Helpers for the tests of injection: raw requests, and what browsers' parsers make of bytes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis.strategies import SearchStrategy

from tests.support.client import BROWSER, Page, cookies_of, merge
from tests.support.processes import Server

over_http = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False
)
"""For properties asked of a server: the same examples in each run, and nothing kept between runs."""


def asked_with(texts: SearchStrategy[str], *worst: str, runs: int) -> Callable[[Callable[..., Any]], Any]:
    """Ask a property of a server with the worst texts, and with `runs` random ones, which are its last argument."""

    def decorated(test: Callable[..., Any]) -> Any:
        for text in worst:
            test = example(text)(test)
        return settings(over_http, max_examples=runs)(given(texts)(test))

    return decorated


def client(server: Server, **options: Any) -> httpx.Client:
    """A browser's cookie jar and its requests."""
    return httpx.Client(base_url=server.url, verify=False, timeout=20, **options)


# -- bytes on the wire -------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One HTTP response as it lay on the wire: status, header lines (lower-case name, value) in order, raw body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def names(self) -> set[str]:
        """The names of the headers."""
        return {name for name, _ in self.headers}

    def header(self, name: str) -> str | None:
        """The value of the only header of that name, or None."""
        found = [value for known, value in self.headers if known == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None


def raw(server: Server, request: bytes, timeout: float = 20, until: bytes | None = None) -> Answer:
    """Sends `request` as it is, and reads what is answered until the server closes, the body is complete or holds
    `until`."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as sock:
        with contextlib.suppress(ConnectionError):  # it may refuse before all is sent
            sock.sendall(request)
        return read_answer(sock, until)


def read_answer(sock: socket.socket, until: bytes | None = None) -> Answer:
    """One response from a socket. Raises `ConnectionError` when the server closes without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            chunk = sock.recv(65536)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise ConnectionError(f"closed after {received!r}")
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name == "content-length"), None)
    while (length is None and not body.endswith(b"0\r\n\r\n")) or len(body) < (length or 0):
        if until is not None and until in body:
            break
        try:
            chunk = sock.recv(65536)
        except (ConnectionResetError, TimeoutError):
            break
        if not chunk:
            break
        body += chunk
    if ("transfer-encoding", "chunked") in headers:
        body = _unchunked(body)
    return Answer(int(status.split(" ")[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    """The chunks of a body that may have been cut off between two of them."""
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return whole


def event_request(
    page: Page, state: str, event: str, body: bytes, headers: dict[str, str | bytes] | None = None
) -> bytes:
    """The bytes of an event's request, with the session of `page`; `headers` replace those that a browser sends."""
    sent = {"connection": "close", "content-type": "application/json", **BROWSER, **(headers or {})}
    return post_request(page, f"event/{state}/{event}", body, sent)


def stream_request(page: Page, body: bytes = b"", headers: dict[str, str | bytes] | None = None) -> bytes:
    """The bytes of a request for a stream, with the session of `page`."""
    return post_request(page, "stream", body, {"datastar-request": "true", **(headers or {})})


def post_request(page: Page, path: str, body: bytes, headers: dict[str, str | bytes]) -> bytes:
    """The bytes of a POST to the library's route `path`; its length is declared unless it comes in chunks."""
    sent: dict[str, str | bytes] = {"host": "127.0.0.1", "cookie": cookies_of(page.client)}
    if "transfer-encoding" not in headers:
        sent["content-length"] = str(len(body))
    lines = [f"POST {page.url}{path} HTTP/1.1".encode()]
    for name, value in (sent | headers).items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(
    server: Server, path: str, *, host: str = "x", method: str = "GET", cookie: str = "", timeout: float = 20
) -> Answer:
    """Ask for a path as it is, on a connection of its own."""
    sent = f"host: {host}\r\nconnection: close\r\ncontent-length: 0" + (f"\r\ncookie: {cookie}" if cookie else "")
    return raw(server, f"{method} {path} HTTP/1.1\r\n{sent}\r\n\r\n".encode("latin-1"), timeout)


# -- a stream, as the specification reads it ---------------------------------------------------------------------------


class Message(NamedTuple):
    """One event as an EventSource would dispatch it, and the names of the fields that its block held, in order."""

    type: str
    data: str
    fields: tuple[str, ...]


class Stream(NamedTuple):
    """All that an EventSource would make of a body: events, the ids and retries set, the fields nobody knows."""

    messages: list[Message]
    ids: list[str]
    retries: list[str]
    unknown: list[str]


def parse_stream(body: bytes) -> Stream:
    """`body` by the rules of WHATWG HTML, 9.2.6 (lines end at CR, LF or CRLF, and nowhere else)."""
    text = body.decode("utf-8", errors="replace").removeprefix("\ufeff")
    found = Stream([], [], [], [])
    data: list[str] = []
    kind, fields = "", []
    lines = re.split("\r\n|\n|\r", text)
    for line in lines[:-1]:  # what follows the last line end is no line yet
        if not line:
            if data:
                found.messages.append(Message(kind or "message", "\n".join(data), tuple(fields)))
            data, kind, fields = [], "", []
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields.append(name)
        match name:
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "id":
                found.ids.append(value)
            case "retry":
                found.retries.append(value)
            case _:
                found.unknown.append(line)
    return found


KINDS = {"datastar-patch-signals", "datastar-patch-elements", "faststate-word"}
PARTS = {"datastar-patch-signals": {"signals"}, "datastar-patch-elements": {"selector", "mode", "elements"}}


class Frame(NamedTuple):
    """One Datastar event: its kind, and its parts, each a list of lines."""

    kind: str
    parts: dict[str, list[str]]

    @property
    def signals(self) -> dict[str, Any]:
        """The content of a patch of signals; an empty dict for one of elements."""
        found: dict[str, Any] = json.loads("\n".join(self.parts.get("signals", ["{}"])))
        return found

    @property
    def html(self) -> str:
        """The content of a patch of elements, as Datastar joins it."""
        return "\n".join(self.parts.get("elements", []))


def frames_of(body: bytes) -> list[Frame]:
    """The Datastar events of a body, after it was shown that there is nothing in it but what the library writes."""
    stream = parse_stream(body)
    assert not stream.unknown, f"lines that are no field: {stream.unknown}"
    assert not stream.retries, f"something set the retry time: {stream.retries}"
    for position in stream.ids:
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.[0-9]+", position), f"an id that no server wrote: {position!r}"
    found = []
    for message in stream.messages:
        assert message.type in KINDS, f"an event that no server wrote: {message}"
        assert message.fields == ("event", *("data",) * (len(message.fields) - 1)), f"added fields: {message}"
        if message.type == "faststate-word":
            assert set(json.loads(message.data)) == {"path", "version", "values"} and "\n" not in message.data
            found.append(Frame(message.type, {}))
            continue
        parts: dict[str, list[str]] = {}
        for line in message.data.split("\n"):
            name, _, value = line.partition(" ")
            assert name in PARTS[message.type], f"a part that no server wrote: {line!r}"
            parts.setdefault(name, []).append(value)
        for once in ("selector", "mode", "signals"):
            assert len(parts.get(once, ())) < 2, f"{once} is there twice: {message}"
        if message.type == "datastar-patch-signals":
            json.loads(parts["signals"][0])
        found.append(Frame(message.type, parts))
    return found


def count_events(body: bytes) -> int:
    """How many lines of a body begin an event, whatever it is."""
    return sum(line.startswith("event") for line in re.split("\r\n|\n|\r", body.decode("utf-8", errors="replace")))


def merged(frames: list[Frame]) -> dict[str, Any]:
    """Merge the signals of `frames`."""
    result: dict[str, Any] = {}
    for frame in frames:
        merge(result, frame.signals)
    return result


class LiveStream:
    """The open stream of a page, read as bytes: `with LiveStream(page) as stream:`."""

    def __init__(self, page: Page, headers: dict[str, str] | None = None) -> None:
        self._page = page
        self._headers = headers or {}
        self.body = b""

    def __enter__(self) -> LiveStream:
        payload = {"w": self._page.tokens, "n": self._page.position}
        self._context = self._page.client.stream(
            "POST", f"{self._page.url}stream", json=payload, headers={**BROWSER, **self._headers}
        )
        self.response = self._context.__enter__()
        self._chunks = self.response.iter_raw() if self.response.status_code == 200 else iter(())
        return self

    def __exit__(self, *exc: Any) -> None:
        self._context.__exit__(*exc)

    def until(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 10) -> list[Frame]:
        """Reads until the signals received from here on satisfy `wanted`; the frames received meanwhile."""
        start, deadline = len(self.body), time.monotonic() + seconds
        while True:
            # A chunk holds whole frames: the server writes them so, and what is cut shows as a missing one below.
            self.body += next(self._chunks)
            found = self.body[start:]
            if found.endswith(b"\n\n") and wanted(merged(frames_of(found))):
                return frames_of(found)
            assert time.monotonic() < deadline, f"it did not come: {found!r}"


# -- a page, as HTML's own rules read it -------------------------------------------------------------------------------


class Element(NamedTuple):
    """A start tag: its name and its attributes (decoded), in order."""

    tag: str
    attributes: tuple[tuple[str, str | None], ...]

    def get(self, name: str) -> str | None:
        """The value of an attribute, or None; that of an event without Datastar's modifiers in its name."""
        return {known.partition("__case")[0]: value for known, value in self.attributes}.get(name)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.shape: list[tuple[Any, ...]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, tuple(attrs)))
        self.shape.append(("<", tag, *(name for name, _ in attrs)))
        known = dict(attrs)
        self._open.append((tag, next((known[n] for n in ("id", "data-text", "data-fs-view") if n in known), None)))

    def handle_endtag(self, tag: str) -> None:
        self.shape.append(("</", tag))
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, own in self._open:
            if own is not None:
                self.texts[own] = self.texts.get(own, "") + data

    def handle_comment(self, data: str) -> None:
        self.shape.append(("<!--",))

    def handle_decl(self, decl: str) -> None:
        self.shape.append(("<!", decl.lower()))

    def handle_pi(self, data: str) -> None:
        self.shape.append(("<?",))

    def unknown_decl(self, data: str) -> None:
        self.shape.append(("<![",))


class Document:
    """Parsed HTML: its `elements`, its `shape` (tags and attribute names, no values), the `texts` of
    those elements that have an id, else by their signal or view."""

    def __init__(self, html: str) -> None:
        parser = _Parser()
        parser.feed(html)
        parser.close()
        self.elements = parser.elements
        self.shape = parser.shape
        self.texts = parser.texts

    def by_id(self, own: str) -> Element:
        """The element of that id."""
        (found,) = (e for e in self.elements if e.get("id") == own)
        return found


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_memory(server: Server, reset: bool = False) -> int:
    """The most memory (bytes) that the server's process held since the last reset."""
    process = Path(f"/proc/{server.process.pid}")
    found = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    if reset:
        (process / "clear_refs").write_text("5")
    return int(found[1]) * 1024


def assert_untroubled(server: Server, *expected: str) -> None:
    """Nothing that went through the server so far has left a traceback, but of the errors `expected`."""
    output = server.output()
    blocks = re.split(r"Traceback \(most recent call last\):|During task ", output)
    troubles = [block for block in blocks[1:] if not any(error in block for error in expected)]
    assert not troubles, troubles[0][:8000]
