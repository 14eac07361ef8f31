"""Ten thousand random requests: no failure of the server, nothing of another user's, and that user's states untouched.

Most go into the app itself, as a server would call it, with nothing between; some hundreds over HTTP. One who is signed
in, one with a session alone and one without ask; another user, with an open stream and a mark in all that is theirs, is
who must not notice.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.asgi import Exchange, http_scope
from tests.support.client import BROWSER, Page, browser, cookies_of, patched_signals
from tests.threats.conftest import APPS
from tests.threats.injection_server import client, frames_of, over_http, read_answer

APP = "injection_random.py"
CHUNKS, PER_CHUNK = 20, 500
MARKS = [b"FOREIGN-bob", b"FOREIGN%2Dbob", b"HIDDEN", b"RESTRICTED"]


class Sent(NamedTuple):
    """A request as a server takes it off the wire."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    who: str


class Received(NamedTuple):
    """A response as a server puts it on the wire."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def meant(self) -> int:
        """The status that is meant."""
        return int(dict(self.headers).get(b"faststate-status", self.status))


# -- requests ----------------------------------------------------------------------------------------------------------
# A drawn request names cookies, tokens and connections by role; what they are is known when it is sent.

STATES = [
    "Everyone", "Own", "Private", "Panel", "Doc", "Draft", "Line", "ReactiveState", "everyone", "Own ", "Ow\0n", "é",
]  # fmt: skip
EVENTS = {
    "Everyone": ["add", "rename", "sign"],
    "Own": ["put", "keep", "order", "go", "price"],
    "Private": ["write", "wipe"],
    "Panel": ["put"],
    "Doc": ["write"],
    "Slip": ["put", "put"],
    "Draft": ["put"],
}
NO_EVENTS = [
    "plain", "__init__", "__class__", "__ft__", "_commit", "_fs", "model_dump", "model_copy", "model_validate", "copy",
    "signal", "watch", "listing", "shown", "secret", "text", "note", "create",
    "add ", "ADD", "", ".", "..", "%", "é", "a" * 300,
]  # fmt: skip
IDS = ["left", "bob-slip", "bob-doc", "ann-doc", "x", "", "0", "../x", "left:Own", "\n", "é", "a" * 600, "__proto__"]
SCALARS = [
    None, True, False, 0, 1, -1, 2**53, 10**30, 1.5, -0.0, 1e308, 1e999, "", "x", "bob", "bob-doc", "ann-doc", "1",
    "1e9", "NaN", "\n", "é😀", "\u2028", "<b>", "__proto__", "a" * 500, [], {}, [[]], {"a": 1}, "FOREIGN", "true",
    "taken over",
]  # fmt: skip
NAMES = [
    "by", "text", "number", "table", "line", "flag", "sku", "doc", "note", "typed", "secret", "user_id", "id", "self",
    "state", "_fs", "__class__", "remark", "a.b", "", "x-y", "count",
]  # fmt: skip
NEAR = [
    "/_faststate", "/_faststate/", "/_faststate/datastar", "/_faststate/event", "/_faststate/event/Own", "/.sesskey",
    "/_faststate/event/Own/put/", "/_faststate/event//put", "/_faststate//stream", "/_FASTSTATE/stream", "/doc/",
    "/_faststate/stream/", "/_faststate/../private", "/_faststate/event/../stream", "//_faststate/stream", "/enter/bob",
    "/_faststate/event/Own%2Fput", "/_faststate/event/Own/put%00", "/_faststate/event/Own/put.css", "/enter/",
    "/%5ffaststate/stream", "/_faststate/event/Own/put;x=1",
]  # fmt: skip
PAGES = ["/", "/own", "/private", "/slip", "/maybe", "/draft", "/login", "/panel/{}", "/doc/{}", "/panel/{}", "/doc/{}"]
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"]
HEADERS = [
    ("datastar-request", ["true"] * 20 + ["", "false"]),
    ("sec-fetch-site", ["same-origin"] * 20 + ["cross-site", "none", "same-site", ""]),
    ("origin", ["http://testserver", "http://evil.example", "null", ""]),
    ("faststate-nonce", ["n" * 12, "m" * 12, "short", "x" * 65, "bad nonce", "é" * 9, ""]),
    ("faststate-connection", ["mine", "theirs", "theirs", "x", "", "é"]),
    ("last-event-id", ["0.0", "x", "9" * 40, "theirs", ".", ""]),
    ("content-type", ["application/json", "text/plain", "multipart/form-data; boundary=x", "é"]),
    ("content-type", ["application/x-www-form-urlencoded"]),
    ("content-length", ["0", "5", "99999999"]),
    ("content-encoding", ["gzip", "br"]),
    ("hx-request", ["true"]),
    ("accept", ["text/event-stream", "*/*"]),
    ("host", ["testserver", "evil.example", "é", ""]),
    ("x-forwarded-for", ["127.0.0.1"]),
    ("authorization", ["Bearer bob", "Basic Ym9iOmJvYg=="]),
    ("x-password", ["", "bob"]),
    ("x-http-method-override", ["POST"]),
    ("range", ["bytes=0-10"]),
]  # fmt: skip
TOKENS = ["mine"] * 6 + ["theirs", "other page", "cut", "flipped", "mixed", "grown", "empty", "none", "number", "list"]
QUERIES = [
    "_id=left", "_id=bob-slip", "text=x&by=2", "by=x", "%ff=%fe", "=", "&&", "text=%00", "user_id=bob", "a" * 2000,
    "session_id=x&auth=bob", "next=//evil",
]  # fmt: skip
COOKIES = ["own"] * 14 + ["cut", "flipped", "twice", "theirs cut", "theirs flipped", "none", "junk"]
PIECES = [b"", b"\0", b"\xff", b"{", b"}", b'"', b"\\", b",", b"1e999", b"\\ud800", b"9" * 5000]


class Choices:
    """Choices out of random bytes: one drawn value makes a whole request, which hypothesis would need a hundred for.

    Bytes that have run out are zeros, and a zero chooses what comes first.
    """

    def __init__(self, drawn: bytes) -> None:
        self._drawn = iter(drawn)

    def number(self, limit: int) -> int:
        """A number below `limit`."""
        return next(self._drawn, 0) % limit

    def pick(self, options: Sequence[Any]) -> Any:
        """One of `options`."""
        return options[self.number(len(options))]

    def one_in(self, odds: int) -> bool:
        """True once in `odds` times."""
        return self.number(odds) == odds - 1

    def some(self, most: int, make: Callable[[], Any]) -> list[Any]:
        """Up to `most` of what `make` makes."""
        return [make() for _ in range(self.number(most + 1))]

    def junk(self, depth: int = 2) -> Any:
        """Any JSON."""
        kind = self.number(8) if depth else 0
        if kind == 6:
            return self.some(3, lambda: self.junk(depth - 1))
        if kind == 7:
            return dict(self.some(3, lambda: (self.pick(["a", "w", "text", "x.y", ""]), self.junk(depth - 1))))
        return self.pick(SCALARS)

    def arguments(self) -> dict[str, Any]:
        """Arguments that fit some event, or none."""
        if self.one_in(3):
            return dict(self.some(3, lambda: (self.pick(NAMES), self.junk())))
        fitting = {
            "text": lambda: self.pick(["x", "é", "<b>", ""]),
            "by": lambda: self.pick([1, -1, 5]),
            "number": lambda: self.pick([None, 0, 9]),
            "sku": lambda: self.pick(IDS),
            "note": lambda: "taken over",
            "table": lambda: {self.pick(NAMES): self.pick(SCALARS)},
            "line": lambda: {"text": self.pick(["x", "<b>"]), "amount": self.pick([1, "2", 1e999, -0.0])},
        }
        return {name: fitting[name]() for name in self.some(2, lambda: self.pick(list(fitting)))}

    def of_event(self, event: str) -> dict[str, Any]:
        """The arguments that an event takes."""
        names = {
            "add": ["by"], "rename": ["text"], "put": ["text"], "keep": ["table"], "order": ["line"], "price": ["sku"],
            "write": ["note", "text"],
        }  # fmt: skip
        values = {
            "by": 1, "text": "taken over", "note": "taken over", "table": {"a": 1}, "line": {"text": "x"},
            "sku": self.pick(["bob-doc", "ann-doc", "bob-doc"]),
        }  # fmt: skip
        return {name: values[name] for name in names.get(event, [])[: 1 + self.number(2)]}

    def payload(self, event: str) -> Any:
        """A payload of about the right form."""
        made: dict[str, Any] = {"w": self.pick([["mine"], ["mine"], ["theirs"], None, ["mine", "other page"]])}
        if made["w"] is None:
            made["w"] = self.some(3, lambda: self.pick(TOKENS))
        if not self.one_in(3):
            made["a"] = self.arguments() if self.one_in(3) else self.of_event(event)
        parts = {
            "f": lambda: (
                self.junk() if self.one_in(3) else self.some(3, lambda: [self.pick(NAMES), self.pick(SCALARS)])
            ),
            "s": self.arguments,
            "b": lambda: {"typed": "taken over"} if self.one_in(2) else self.arguments(),
            "q": lambda: self.pick([1, 0, -1, True, "1", 1.5, 10**30]),
            "n": lambda: self.pick(["", "x", "0.0", "9" * 30]),
        }
        for part in self.some(2, lambda: self.pick(list(parts))):
            made[part] = parts[part]()
        if event in ("write", "put") or self.one_in(4):
            made["i"] = self.pick([None, "left", "bob-slip", "bob-slip", "bob-doc", "ann-doc", *IDS])
        if self.one_in(12):
            made[self.pick([*"afsbiqwxn", "__proto__", ""])] = self.junk()
        return made

    def target(self) -> tuple[str, str]:
        """A path, most of them of the library, and the event in it."""
        kind = self.pick(["event"] * 10 + ["stream"] * 3 + ["page"] * 3 + ["near"] * 2 + ["far"])
        if kind == "event":
            state = self.pick([*EVENTS] * 3 + STATES)
            event = self.pick(EVENTS.get(state, ["add"]) * 6 + NO_EVENTS)
            return f"/_faststate/event/{quote(state, safe='')}/{quote(event, safe='')}", event
        if kind == "stream":
            return "/_faststate/stream", ""
        if kind == "page":
            return self.pick(PAGES).format(quote(self.pick(IDS), safe="")), ""
        if kind == "near":
            return self.pick(NEAR), ""
        far = bytes(self.some(12, lambda: self.number(256)))
        return "/" + quote_from_bytes(far, safe="/.%"), ""

    def request(self) -> tuple[Any, ...]:
        """Draw a request, with its secrets by role: (method, path, query, headers, cookie, body, who)."""
        path, event = self.target()
        usual = "POST" if "/event/" in path or "enter" in path else "GET"
        method = self.pick(METHODS) if self.one_in(8) else usual
        headers = [] if self.one_in(20) else [("datastar-request", "true")]
        for name, values in self.some(2, lambda: self.pick(HEADERS)):
            headers.append((name, self.pick(values)))
        if self.one_in(3):
            headers.append(("faststate-connection", self.pick(["theirs", "theirs", "mine", "x"])))
        body: Any = self.payload(event)
        if self.one_in(10):
            body = self.pick([bytes(self.some(40, lambda: self.number(256))), self.junk(), []])
        elif self.one_in(8):
            body = (body, self.some(3, lambda: (self.number(256) / 256, self.pick(PIECES))))
        query: Any = ""
        if path.startswith("/_faststate/stream") or self.one_in(10):
            query = self.junk() if self.one_in(6) else self.payload("")
        elif self.one_in(6):
            query = self.pick(QUERIES)
        cookie = self.pick(COOKIES)
        return method, path, query, tuple(headers), cookie, body, self.pick(["ann", "ann", "guest", "nobody"])


requests = st.binary(min_size=80, max_size=80).map(lambda drawn: Choices(drawn).request())


def flipped(text: str, at: int) -> str:
    """`text` with one character changed for another of its kind."""
    if not text:
        return "x"
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


class Roles(NamedTuple):
    """The values that the names in drawn requests stand for."""

    cookies: dict[str, str]
    tokens: dict[str, list[str]]
    connection: str

    def token(self, role: Any, who: str) -> Any:
        mine = (self.tokens.get(who) or ["x"])[0]
        theirs = self.tokens["bob"][-2]  # of the slip, to which there is no other way
        _, *rest = mine.split(".")
        return {
            "mine": mine, "theirs": theirs, "other page": (self.tokens.get(who) or ["x"])[-1], "cut": mine[:-3],
            "flipped": flipped(mine, len(role) * 7), "mixed": ".".join([theirs.split(".")[0], *rest]),
            "grown": mine + "A",
            "empty": "", "none": None, "number": 1, "list": [mine],
        }[role]  # fmt: skip

    def cookie(self, role: str, who: str) -> str | None:
        own, theirs = self.cookies.get(who, ""), self.cookies["bob"]
        made = {
            "own": own, "cut": own[:-5], "flipped": flipped(own, 12), "twice": f"{own}; {own}", "none": None,
            "theirs cut": theirs[:-4], "theirs flipped": flipped(theirs, len(theirs) // 2),
            "junk": "session_=\x01;=;;a=é",
        }[role]  # fmt: skip
        return made or None

    def payload(self, drawn: Any, who: str) -> bytes:
        mutations = ()
        if isinstance(drawn, tuple):
            drawn, mutations = drawn
        if isinstance(drawn, bytes):
            return drawn
        if isinstance(drawn, dict) and isinstance(drawn.get("w"), list):
            known = [self.token(role, who) if isinstance(role, str) and role in TOKENS else role for role in drawn["w"]]
            if known == [self.token("mine", who)]:
                known = self.tokens.get(who, [])
            drawn = {**drawn, "w": known}
        made = json.dumps(drawn).encode()
        for place, piece in mutations:
            at = int(place * len(made))
            made = made[:at] + piece + made[at + 1 :]
        return made

    def fill(self, drawn: tuple[Any, ...]) -> Sent:
        """The request that was drawn, with what its names stand for."""
        method, path, query, headers, cookie, body, who = drawn
        sent = {"host": "testserver", **BROWSER}
        for name, value in headers:
            if name in ("faststate-connection", "last-event-id"):
                value = {"theirs": self.connection, "mine": "mine"}.get(value, value)
            sent[name] = value
        if not any(name == "datastar-request" for name, _ in headers):
            del sent["datastar-request"]
        session = self.cookie(cookie, who)
        if session is not None:
            sent["cookie"] = session
        if not isinstance(query, str):
            query = "datastar=" + quote(self.payload(query, who))
        return Sent(method, path, query, tuple(sent.items()), self.payload(body, who), who)


def verdict(sent: Sent, got: Received) -> None:
    """Check what holds for each answer, whatever was asked."""
    assert got.status < 500 and got.meant < 500, got
    whole = b"\n".join([*(name + b": " + value for name, value in got.headers), got.body])
    for mark in MARKS + ([] if sent.who == "ann" else [b"FOREIGN-"]):
        assert mark not in whole, (mark, whole)
    # A file's name has no letter behind it; a cookie's signature may begin with any two.
    assert b"Traceback" not in whole and b"<module>" not in whole and not re.search(rb"\.py(?![\w-])", whole)
    assert all(b"\r" not in part and b"\n" not in part and b"\0" not in part for pair in got.headers for part in pair)
    names = {name for name, _ in got.headers}
    if sent.path == "/_faststate/stream" or (b"content-type", b"text/event-stream") in got.headers:
        assert b"set-cookie" not in names or sent.path != "/_faststate/stream"
        if got.status == 200 and (b"content-type", b"text/event-stream") in got.headers:
            frames_of(got.body)
    if sent.path.startswith("/_faststate/event/") and dict(sent.headers).get("sec-fetch-site") == "cross-site":
        assert got.status in (403, 404, 405, 307)


# -- into the app itself -----------------------------------------------------------------------------------------------


async def ask(app: Any, sent: Sent) -> Received:
    """Calls the app as a server does. The client leaves as soon as it has the first piece of a stream."""
    path = unquote_to_bytes(sent.path).decode(errors="replace")
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.headers]
    scope = http_scope(
        sent.method, path, headers, query=sent.query.encode(), raw_path=sent.path.encode(), client=("192.0.2.1", 5)
    )
    body = iter([{"type": "http.request", "body": sent.body, "more_body": False}])
    answered = asyncio.Event()
    start: dict[str, Any] = {}
    pieces = []

    async def receive() -> Any:
        for message in body:
            return message
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            pieces.append(message.get("body", b""))
            answered.set()

    await app(scope, receive, send)
    return Received(start["status"], [(bytes(n), bytes(v)) for n, v in start["headers"]], b"".join(pieces))


class Victim:
    """Bob: signed in, with states of each scope and an open stream that nobody else may move."""

    def __init__(self, module: Any) -> None:
        self.module = module

    async def arrive(self) -> Roles:
        module = self.module
        cookies, tokens = {}, {}
        for who in ("bob", "ann", "guest"):
            async with browser(module.app) as visitor:
                if who != "guest":
                    answer = await visitor.post(f"/enter/{who}", headers={"x-password": module.PASSWORD})
                    assert answer.text == "yes"
                pages = [await Page.open(visitor, "/own")]
                if who != "guest":
                    pages += [await Page.open(visitor, path) for path in ("/private", f"/doc/{who}-doc", "/slip")]
                pages.append(await Page.open(visitor, "/"))
                tokens[who] = [token for page in pages for token in page.tokens]
                cookies[who] = cookies_of(visitor)
                if who == "bob":
                    assert b"FOREIGN-bob" in (await visitor.get("/private")).content
                    assert b"RESTRICTED" in (await visitor.get("/")).content
                    own, private, doc, slip, _ = pages
                    await own.send("Own", "put", text="FOREIGN-bob in a session")
                    await own.send("Panel", "put", instance_id="left", text="FOREIGN-bob in a component")
                    shown = {"w": [*own.tokens, *private.tokens, *doc.tokens, *slip.tokens], "n": ""}
                    await self.follow(cookies["bob"], json.dumps(shown).encode())
        self.versions = self.state()
        assert len(self.versions) == 5
        return Roles(cookies, tokens, self.connection)

    async def follow(self, cookie: str, body: bytes) -> None:
        headers = [(b"datastar-request", b"true"), (b"host", b"testserver"), (b"cookie", cookie.encode())]
        scope = http_scope("POST", "/_faststate/stream", headers, client=("192.0.2.2", 5))
        self.stream = Exchange(self.module.app, scope, body)
        await self.stream.until(lambda stream: b"\nid: " in stream.body)
        self.connection = patched_signals(self.stream.body)["_fs"]["c"]
        self.told = len(frames_of(self.stream.body))

    def state(self) -> dict[str, tuple[Any, ...]]:
        """All that is bob's: values and versions, by key."""
        found = {}
        registry = self.module.provider.registry
        for key in list(registry.live):
            state = registry.peek(key)
            values = state.model_dump()
            if "FOREIGN-bob" in json.dumps(values):
                found[key] = (state._committed.version, json.dumps(values))
        return found

    def untouched(self) -> None:
        """Nothing of bob's has changed, and his stream was told nothing."""
        assert self.state() == self.versions
        assert len(frames_of(self.stream.body)) == self.told
        assert not self.stream.ended and self.connection in self.module.provider.sse_manager.connections


@pytest.fixture(scope="module")
def app():
    """The app in this process, its loop, and bob in it."""
    spec = importlib.util.spec_from_file_location("injection_random", APPS / APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with asyncio.Runner() as runner:
        victim = Victim(module)
        roles = runner.run(victim.arrive())
        yield runner, module.app, victim, roles
        victim.stream.gone.set()

        async def end() -> None:
            await victim.stream.task
            await module.provider.stop()

        runner.run(end())


class Errors(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture
def errors():
    handler = Errors()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


seen: dict[int, int] = {}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_requests_neither_break_the_server_nor_reach_another_user(app, errors, chunk):
    runner, asgi, victim, roles = app

    @seed(chunk)
    @settings(
        max_examples=PER_CHUNK, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(requests)
    def check(drawn: Any) -> None:
        sent = roles.fill(drawn)
        got = runner.run(ask(asgi, sent))
        verdict(sent, got)
        assert not errors.found, errors.found
        seen[got.meant] = seen.get(got.meant, 0) + 1

    check()
    victim.untouched()


def test_the_random_requests_were_no_mere_noise(app):
    """Enough of them got through the first checks to be worth something, and each kind of refusal was met."""
    if sum(seen.values()) < CHUNKS * PER_CHUNK * 0.9:
        pytest.skip("the chunks ran elsewhere, or not all of them")
    taken = seen.get(200, 0) + seen.get(204, 0)
    assert taken > sum(seen.values()) * 0.1, seen
    assert all(seen.get(status, 0) > 20 for status in (400, 401, 403, 404, 405)), seen


def test_the_marks_are_seen_by_whom_they_belong_to(app):
    """A search for marks that finds none must be one that would."""
    runner, asgi, _, roles = app
    for path, mark in (("/private", b"FOREIGN-bob"), ("/doc/bob-doc", b"FOREIGN-bob"), ("/", b"RESTRICTED")):
        headers = (("host", "testserver"), ("cookie", roles.cookies["bob"]))
        sent = Sent("GET", path, "", headers, b"", "ann")
        got = runner.run(ask(asgi, sent))
        assert mark in got.body
        with pytest.raises(AssertionError):
            verdict(sent, got)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def over_the_wire(server: Any, sent: Sent) -> Received | None:
    """The answer, or None where the server itself refuses to read on."""
    lines = [f"{sent.method} {sent.path}{'?' + sent.query if sent.query else ''} HTTP/1.1".encode()]
    lines += [name.encode("latin-1") + b": " + value.encode("latin-1") for name, value in sent.headers]
    if not any(name == "content-length" for name, _ in sent.headers):
        lines.append(b"content-length: %d" % len(sent.body))
    lines.append(b"connection: close")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=1) as sock,
        suppress(ConnectionError, TimeoutError),
    ):
        sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + sent.body)
        sock.shutdown(socket.SHUT_WR)
        answer = read_answer(sock, until=b"\n\n")
        return Received(answer.status, [(n.encode(), v.encode("latin-1")) for n, v in answer.headers], answer.body)
    return None


@pytest.mark.timeout(120)
def test_random_requests_over_http_neither_break_the_server_nor_reach_another_user(server):
    cookies, tokens = {}, {}
    with client(server) as bob:
        for who in ("bob", "ann", "guest"):
            visitor = bob if who == "bob" else client(server)
            if who != "guest":
                assert visitor.post(f"/enter/{who}", headers={"x-password": "only the test knows it"}).text == "yes"
            paths = ["/own", "/"] if who == "guest" else ["/own", "/private", f"/doc/{who}-doc", "/slip", "/"]
            tokens[who] = [token for path in paths for token in Page(visitor, path).tokens]
            cookies[who] = cookies_of(visitor)
            if who != "bob":
                visitor.close()

        def shown():
            """What bob's pages show, without positions and tokens."""
            texts = [bob.get(path).text for path in ("/own", "/private", "/doc/bob-doc", "/slip")]
            return [re.sub(r"[0-9a-f]{12}\.[0-9]+|[\w-]+\.[\w-]+\.[\w-]+", "", text) for text in texts]

        before = shown()
        roles = Roles(cookies, tokens, "x")
        answered = [0]

        @seed(1)
        @settings(over_http, max_examples=300, phases=[Phase.generate])
        @given(requests)
        def check(drawn: Any) -> None:
            sent = roles.fill(drawn)
            got = over_the_wire(server, sent)
            if got is not None:
                answered[0] += 1
                verdict(sent, got)

        check()
        assert answered[0] > 200
        assert shown() == before and "FOREIGN-bob" in "".join(before)
