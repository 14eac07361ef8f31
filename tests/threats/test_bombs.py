"""Too large, too deep, too many, compressed: refused in time and in little memory, and the server goes on."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import time
import zlib
from contextlib import contextmanager, suppress
from urllib.parse import quote

import pytest

from tests.support.client import BROWSER, Page, cookies_of, patched_signals, status
from tests.threats.injection_server import (
    client,
    event_request,
    frames_of,
    get,
    peak_memory,
    raw,
    read_answer,
    stream_request,
)

APP = "injection_bombs.py"
EXPECTED = ["ClientDisconnect"]  # of the stream requests whose bodies are read too far
MAX_PAYLOAD = 262_144  # of StateProvider
SECONDS = 3  # within which each answer comes; most take milliseconds
MEMORY = 128 * 2**20  # that all requests of a test may add: 60,000 validation errors of one payload take about 50 MB


@pytest.fixture(scope="module")
def server(server):
    with client(server) as browser:  # what the first requests load stays loaded
        Page(browser).send("Pile", "keep", table={"a": "x" * 200_000})
    return server


@pytest.fixture
def page(server):
    """A page of a new session; when the test is over the server has kept its time and its memory, and works."""
    with client(server) as browser:
        page = Page(browser)
        before = peak_memory(server, reset=True)
        before = peak_memory(server)
        yield page
        assert peak_memory(server) - before < MEMORY
        again = Page(browser)
        with in_time():
            answer = again.send("Pile", "add")
        assert patched_signals(answer.content)["Pile"]["count"] == again.signals["Pile"]["count"] + 1


@contextmanager
def in_time():
    """Fail unless the block ends in time."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SECONDS


def post(page, event, content, headers=None, state="Pile"):
    """Posts a body as it is; the answer has come in time."""
    sent = {**BROWSER, "content-type": "application/json", **(headers or {})}
    with in_time():
        return page.client.post(f"{page.url}event/{state}/{event}", content=content, headers=sent)


def body(page, **parts):
    """An event's payload with this page's tokens."""
    return packed({**parts, "w": page.tokens})


def packed(payload):
    """JSON in as few bytes as can be."""
    made = json.dumps(payload, separators=(",", ":")).encode()
    assert len(made) <= MAX_PAYLOAD, "it would be refused for its size alone"
    return made


def refused(answer):
    """True if it was a refusal of what was sent, and not a failure."""
    return 400 <= status(answer) < 500


# -- large -------------------------------------------------------------------------------------------------------------


def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(page):
    text = body(page, a={"names": ["x"]})
    assert status(post(page, "call", text + b" " * (MAX_PAYLOAD - len(text)))) == 200
    over = post(page, "call", text + b" " * (MAX_PAYLOAD - len(text) + 1))
    assert refused(over) and over.status_code == 200


def test_a_large_body_is_refused_by_its_declared_length_before_it_is_sent(server, page):
    for length in (MAX_PAYLOAD + 1, 10**9, 10**18):
        with in_time():
            answer = raw(server, event_request(page, "Pile", "add", b"", {"content-length": str(length)}))
        assert answer.status == 400 or answer.header("faststate-status") in ("400", "413")


@pytest.mark.parametrize("chunk", [1 << 10, 1 << 16, 1 << 20])
def test_a_body_without_a_length_is_cut_at_the_limit(server, page, chunk):
    head = event_request(page, "Pile", "add", b"", {"transfer-encoding": "chunked"})
    piece = b"%x\r\n" % chunk + b"[" * chunk + b"\r\n"
    sent = 0
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
        sock.sendall(head)
        with suppress(ConnectionError, TimeoutError):
            while sent < 40 * 2**20 and time.monotonic() - started < SECONDS:
                sock.sendall(piece)
                sent += chunk
        with suppress(ConnectionError):  # it may have closed while it was sent to
            answer = read_answer(sock)
            assert answer.header("faststate-status") in ("400", "413")
    assert sent > MAX_PAYLOAD


def test_what_follows_a_refused_body_is_not_kept(server, page):
    """The client goes on sending what it declared: the server may take it off the wire, and holds none of it."""
    length = 60 * 2**20
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
        request = event_request(page, "Pile", "add", b"", {"content-length": str(length), "connection": "keep-alive"})
        sock.sendall(request)
        assert read_answer(sock).header("faststate-status") in ("400", "413")
        with suppress(ConnectionError, TimeoutError):
            for _ in range(length // 2**20):
                sock.sendall(b"x" * 2**20)


@pytest.mark.parametrize("coding", [{"content-length": "62914560"}, {"transfer-encoding": "chunked"}], ids=str)
def test_a_body_of_a_streams_request_is_not_kept(server, page, coding):
    before = peak_memory(server)
    piece = b"x" * 2**20
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
        sock.sendall(stream_request(page, headers=coding))
        with suppress(ConnectionError, TimeoutError):
            for _ in range(59):
                sock.sendall(piece if "content-length" in coding else b"100000\r\n" + piece + b"\r\n")
        status(page.send("Pile", "add"))  # by then the server has taken it all off the wire
        assert peak_memory(server) - before < 16 * 2**20


def test_a_declared_length_that_is_too_short_smuggles_no_second_event(server, page):
    before = Page(page.client).signals["Pile"]["count"]
    first = body(page)
    second = event_request(page, "Pile", "add", body(page))
    # A request behind the body is one more request, with headers of its own, and is judged as any other.
    for tail in (b'{"a":{}}', b"x" * 100, second.replace(b"datastar-request", b"x-no-datastar")):
        request = event_request(page, "Pile", "add", first + tail, {"content-length": str(len(first))})
        answer = raw(server, request.replace(b"connection: close", b"connection: keep-alive"), until=b"\n\n")
        assert answer.status in (200, 400)  # uvicorn answers for both at once, when the second is no request
    assert Page(page.client).signals["Pile"]["count"] <= before + 3


def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_error_of_the_server(server, page):
    sent, logged = body(page), len(server.output())
    for declared, part in ((len(sent) + 100, sent), (len(sent), sent[:10]), (MAX_PAYLOAD, b"")):
        request = event_request(page, "Pile", "add", part, {"content-length": str(declared)})
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
            sock.sendall(request)
        assert Page(page.client).signals["Pile"]["count"] == 0
    assert "ClientDisconnect" not in server.output()[logged:]


@pytest.mark.parametrize(
    "lengths", [("5", "500"), ("-1",), ("+5",), ("0x10",), ("1e3",), ("\u0665",), ("5, 5",), ("9" * 400,)]
)
def test_a_length_that_is_none_runs_no_event(server, page, lengths):
    sent = body(page)
    request = event_request(page, "Pile", "add", sent)
    line = b"content-length: %d" % len(sent)
    assert line in request
    forged = b"\r\n".join(b"content-length: " + length.encode() for length in lengths)
    try:
        answer = raw(server, request.replace(line, forged), timeout=SECONDS)
    except ConnectionError:
        return
    assert answer.status == 400 or answer.header("faststate-status") in ("400", "413")
    assert Page(page.client).signals["Pile"]["count"] == 0


# -- compressed --------------------------------------------------------------------------------------------------------


def bomb(coding):
    """60 MB of JSON, compressed; for brotli, which Python has not, what gunzip takes for nothing."""
    text = b'{"a":{"names":["' + b"x" * (60 * 2**20) + b'"]}}'
    return {"gzip": gzip.compress, "deflate": zlib.compress, "br": lambda text: bytes.fromhex("8b0180") * 1000}[coding](
        text
    )


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "identity, gzip"])
def test_a_compressed_body_is_not_inflated(page, coding):
    compressed = bomb(coding.split(", ")[-1])
    if coding == "gzip, gzip":
        compressed = gzip.compress(compressed)
    assert len(compressed) < MAX_PAYLOAD
    for headers in ({"content-encoding": coding}, {"content-encoding": coding, "content-type": "application/gzip"}):
        answer = post(page, "call", compressed, headers)
        assert refused(answer)


# -- deep --------------------------------------------------------------------------------------------------------------


def nested(depth, opening="[", closing="]", inner="1"):
    return opening * depth + inner + closing * depth


@pytest.mark.parametrize("depth", [33, 500, 5_000, 100_000])
@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_a_nested_body_is_refused(page, depth, opening, closing):
    bomb = nested(depth, opening, closing)
    tokens = json.dumps(page.tokens)
    for text in (
        bomb,
        bomb[: len(bomb) // 2],  # never closed
        f'{{"a":{{"table":{{"x":{bomb}}}}},"w":{tokens}}}',
        f'{{"a":{{"names":{bomb}}},"w":{tokens}}}',
        f'{{"w":{bomb}}}',
        f'{{"f":[["names",{bomb}]],"w":{tokens}}}',
        f'{{"s":{{"name":{bomb}}},"b":{{"typed":{bomb}}},"w":{tokens}}}',
        f'{{"i":{bomb},"w":{tokens}}}',
        f'{{"q":{bomb},"w":{tokens}}}',
    ):
        assert refused(post(page, "keep" if "table" in text else "call", text[:MAX_PAYLOAD].encode()))


@pytest.mark.parametrize("depth", [500, 5_000, 20_000])
@pytest.mark.parametrize("place", ["{}", '{{"w":{}}}', '{{"w":[{}]}}', '{{"n":{}}}', '{{"x":{}}}'])
def test_a_nested_stream_payload_is_refused(server, page, depth, place):
    with in_time(), suppress(ConnectionError):  # a request line that is too long for the server
        answer = raw(server, stream_request(page, place.format(nested(depth)).encode(), {"connection": "close"}))
        assert answer.status in (204, 400, 414, 431)


# -- numbers -----------------------------------------------------------------------------------------------------------

NUMBERS = [
    "1e999", "-1e999", "1e-999", "NaN", "Infinity", "-Infinity", "9" * 4_300, "9" * 4_301, "9" * 200_000,
    "-" + "9" * 4_300, "0." + "9" * 100_000, "1" + "0" * 400, "1e400", "1E+9999999999999", "0.1e-9999999999",
    "9007199254740993", "-0", "-0.0", "1e308", "1e22", "5e-324", '"1e999"', '"NaN"', '"' + "9" * 5_000 + '"',
    '"1_000"', '"0x10"', '"\u0669"', '"1e1000000000"', "true", "null", '"Infinity"', '"-0"', '""',
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n[:20])
def test_no_number_is_too_much_for_the_server(page, number):
    tokens = json.dumps(page.tokens)
    for event, place in (
        ("count_to", '"a":{{"by":{}}}'),
        ("measure", '"a":{{"value":{}}}'),
        ("weigh", '"a":{{"value":{}}}'),
        ("take", '"a":{{"items":[{}]}}'),
        ("keep", '"a":{{"table":{{"x":{}}}}}'),
        ("add", '"q":{}'),
        ("count_to", '"f":[["by",{}]]'),
        ("count_to", '"s":{{"by":{}}}'),
        ("add", '"b":{{"typed":{}}}'),
        ("add", '"i":{}'),
    ):
        answer = post(page, event, f'{{{place.format(number)},"w":{tokens}}}'.encode())
        assert status(answer) in (200, 204) or refused(answer), (event, place, answer.text)
        for frame in frames_of(answer.content):  # each of them JSON as JavaScript reads it
            json.loads("".join(frame.parts.get("signals", "0")), parse_constant=pytest.fail)
        assert page.client.get("/").status_code == 200, (event, place)


def test_numbers_that_grow_too_long_to_be_written_are_refused_and_not_kept(page):
    tokens = json.dumps(page.tokens)
    largest = "9" * 4_300  # the most digits that Python reads or writes (sys.set_int_max_str_digits)
    for _ in range(12):
        answer = post(page, "plus", f'{{"a":{{"by":{largest}}},"w":{tokens}}}'.encode())
        assert status(answer) in (200, 204) or refused(answer), answer.text
    assert page.client.get("/").status_code == 200


# -- many --------------------------------------------------------------------------------------------------------------


def test_many_tokens_are_not_all_verified(page):
    token = page.tokens[0]
    for tokens in (
        [token] * 200, ["x"] * 60_000, [""] * 80_000, [None] * 50_000, [[]] * 80_000, [{}] * 80_000, [token] * 1_500,
        ["x" * 200_000], [token + "x" * 200_000], [token[:-1] + "A"] * 200, ["." * 200_000], ["a.b.c" * 40_000],
    ):  # fmt: skip
        answer = post(page, "add", packed({"w": tokens}))
        assert status(answer) in (200, 204) or refused(answer)


def test_many_tokens_on_a_stream_are_not_all_verified(server, page):
    for tokens in (["x"] * 5_000, ["." * 40_000], [None] * 5_000, [page.tokens[0][:-4] + "AAAA"] * 400):
        with in_time(), suppress(ConnectionError):
            answer = raw(server, stream_request(page, json.dumps({"w": tokens}).encode(), {"connection": "close"}))
            assert answer.status in (204, 400, 403, 414, 431)
            assert b'"c":' not in answer.body  # no stream was opened


def test_of_a_key_that_is_there_twice_one_counts(page):
    tokens = json.dumps(page.tokens)
    answer = post(page, "plus", f'{{"a":{{"by":1}},"a":{{"by":2,"by":3}},"w":[],"w":{tokens}}}'.encode())
    assert patched_signals(answer.content)["Pile"]["total"] == 3
    many = ",".join(f'"a":{{"by":{i}}}' for i in range(15_000))
    answer = post(page, "plus", f'{{{many},"w":{tokens}}}'.encode())
    assert patched_signals(answer.content)["Pile"]["total"] == 3 + 14_999


def test_many_parts_arguments_fields_and_errors_are_answered_in_time_and_in_short(page):
    wrong = ["x"] * 60_000
    for parts, event in (
        ({str(i): 1 for i in range(20_000)}, "add"),
        ({"a": {f"n{i}": 1 for i in range(20_000)}}, "add"),
        ({"b": {f"n{i}": 1 for i in range(20_000)}}, "add"),
        ({"s": {f"n{i}": 1 for i in range(20_000)}}, "add"),
        ({"f": [["names", "x"]] * 15_000}, "call"),
        ({"f": [[f"n{i}", "x"] for i in range(15_000)]}, "call"),
        ({"a": {"items": wrong}}, "take"),
        ({"a": {"items": list(range(40_000))}}, "take"),
        ({"a": {"names": [1] * 60_000}}, "call"),
        ({"a": {"table": {f"k{i}": {} for i in range(15_000)}}}, "keep"),
        ({"a": {"names": ["<" * 200_000]}}, "call"),
    ):
        answer = post(page, event, body(page, **parts))
        assert status(answer) in (200, 204) or refused(answer)
        if refused(answer):
            assert len(answer.content) < 2_000


def test_thousands_of_form_and_query_fields_are_answered_in_time(page):
    fields = "&".join(f"n{i}=x" for i in range(4_000))
    answer = post(page, "call?" + fields, body(page, a={"names": []}))
    assert refused(answer)
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert refused(post(page, "call", (fields * 4).encode(), {"content-type": kind}))
    part = b'--x\r\ncontent-disposition: form-data; name="names"\r\n\r\ny\r\n'
    assert refused(post(page, "call", part * 4_000 + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}))


# -- headers and patterns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, 30_000, 60_000, 300_000])
@pytest.mark.parametrize(
    "name", ["faststate-nonce", "faststate-connection", "cookie", "content-type", "x-other", "origin"]
)
def test_a_huge_header_is_refused_or_of_no_effect(server, page, name, size):
    request = event_request(page, "Pile", "add", body(page), {name: "a" * size})
    with in_time(), suppress(ConnectionError):
        answer = raw(server, request, timeout=SECONDS)
        assert answer.status in (200, 204, 400, 403, 413, 431)


def test_thousands_of_headers_are_refused_or_of_no_effect(server, page):
    many = {f"x-{i}": "a" for i in range(3_000)}
    with suppress(ConnectionError):
        assert raw(server, event_request(page, "Pile", "add", body(page), many)).status in (200, 400, 431)
    for name in ("faststate-nonce", "sec-fetch-site", "datastar-request"):
        request = event_request(page, "Pile", "add", body(page))
        doubled = request.replace(b"\r\n\r\n", f"\r\n{name}: cross-site".encode() * 500 + b"\r\n\r\n", 1)
        with suppress(ConnectionError):
            assert raw(server, doubled).status in (200, 400, 403, 431)


BACKTRACKERS = [
    "a" * 50_000, "a" * 50_000 + "!", "-_" * 25_000 + "\n", "/" * 30_000, "/a" * 25_000, "((((" * 5_000, "%25" * 10_000,
    "a." * 20_000, ":" * 40_000, "\n" * 10_000, " " * 50_000, "=" * 50_000 + "\\", "_2e_" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BACKTRACKERS, ids=lambda t: repr(t[:6]))
def test_no_text_makes_a_pattern_backtrack(server, page, text):
    quoted = quote(text, safe="")[:60_000]
    posted = (
        ({"i": text}, "Item"),
        ({"a": {text: text}}, "Pile"),
        ({"a": {"table": {text: {text: text}}}}, "Pile"),
        ({"f": [[text, text]]}, "Pile"),
    )
    for parts, state in posted:
        answer = post(page, "keep" if state == "Pile" else "add", body(page, **parts), state=state)
        assert status(answer) == 200 or refused(answer)
    for path in (f"/item/{quoted}", f"{page.url}event/{quoted}/x", f"{page.url}event/Pile/{quoted}", f"/?x={quoted}"):
        with in_time(), suppress(ConnectionError):
            answer = get(server, path, cookie=cookies_of(page.client), timeout=SECONDS)
            assert answer.status in (200, 400, 404, 405, 414, 431), path[:80]
    headers = dict.fromkeys(("faststate-nonce", "faststate-connection", "last-event-id"), quoted)
    with suppress(ConnectionError):
        raw(server, event_request(page, "Pile", "add", body(page), headers), timeout=SECONDS)


def test_ten_bombs_at_once_keep_nobody_waiting(server, page):
    bombs = itertools.cycle([nested(100_000), nested(40_000, '{"a":', "}"), '{"w":[' + '"x",' * 60_000 + '"x"]}'])
    sockets = []
    try:
        for bomb in itertools.islice(bombs, 10):
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
            sockets.append(sock)
            sock.sendall(event_request(page, "Pile", "add", bomb[:MAX_PAYLOAD].encode()))
        with in_time():
            assert status(page.send("Pile", "add")) == 200
        for sock in sockets:
            assert read_answer(sock).status in (200, 403)
    finally:
        for sock in sockets:
            sock.close()
