"""A line end in what a user typed adds no event, no id and no header: whatever reaches a frame or a response's head."""

from __future__ import annotations

import itertools
import json
import re
from unittest.mock import ANY
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faststate import ReactiveState, event
from faststate.exceptions import EventDefinitionError
from tests.support.client import BROWSER, Page, message, patched_signals, status, word_of
from tests.threats.injection_server import (
    Document,
    LiveStream,
    asked_with,
    client,
    count_events,
    event_request,
    frames_of,
    get,
    merged,
    over_http,
    parse_stream,
    raw,
    stream_request,
)

APP = "injection_lines.py"
EXPECTED = ["EventDefinitionError: a Redirect goes to a path or an http(s) URL"]

LINE_ENDS = [
    "\r", "\n", "\r\n", "\u2028", "\u2029", "\0", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\r\n\r\n", "\n\n",
]  # fmt: skip
FIELDS = [
    "data:", "data: ", "event: evil", "id: 9.9", "id:", "retry: 1", ": ", "signals ", "elements ", "selector body",
]  # fmt: skip
OTHER = ["\ufeff", "x", " ", "\\n", "\\", '"', "}", "{", "é", "😀", "set-cookie: a=b", "datastar-patch-elements"]
hostile = st.lists(st.sampled_from(LINE_ENDS + FIELDS + OTHER), max_size=8).map("".join)
WORST = (
    "x\r\n\r\nevent: evil\r\ndata: signals {}\r\nid: 9.9\r\rdata: y\n\nretry: 1\n"
    "\u2028event: evil\u2029\0\v\f\x85id: 7\n"
)

PLAIN_HEADERS = {"date", "server", "content-type", "content-length", "transfer-encoding", "connection"}
EVENT_HEADERS = PLAIN_HEADERS | {"cache-control", "x-accel-buffering", "faststate-status", "faststate-heartbeat"}


@pytest.fixture(scope="module")
def page(server):
    with client(server) as browser:
        yield Page(browser)


def lines_of_html(text):
    """Normalise the line ends of `text` as HTML does before it reads anything else."""
    return re.sub("\r\n|\r", "\n", text)


def test_the_parser_of_these_tests_sees_what_is_injected():
    body = b'event: a\ndata: signals {"a":"x\rid: 9.9\r\n\nevent: evil\ndata: y\n\nretry: 1\n\n'
    stream = parse_stream(body)
    assert stream.ids == ["9.9"] and stream.retries == ["1"] and [m.type for m in stream.messages] == ["a", "evil"]
    with pytest.raises(AssertionError, match=r"server wrote|set the retry"):
        frames_of(body)


@asked_with(hostile, WORST, runs=60)
def test_field_values_dict_keys_and_view_text_add_no_line_to_an_answer(page, text):
    answer = page.send("Words", "put_all", text=text)
    assert set(answer.headers) <= EVENT_HEADERS
    found = frames_of(answer.content)
    assert count_events(answer.content) == len(found)
    assert {frame.kind for frame in found} <= {"datastar-patch-signals", "datastar-patch-elements"}
    words = merged(found)["Words"]
    assert (words["text"], words["listed"], words["part"]) == (text, [text], {"label": text})
    assert words["table"] == {text.replace(".", "_2e_"): text}
    views = {frame.parts["selector"][0]: frame.html for frame in found if frame.kind == "datastar-patch-elements"}
    assert set(views) == {'[data-fs-view="Words.listing"]', '[data-fs-view="Words.plain"]'}
    for html in views.values():
        assert len(Document(html).elements) == 1


@pytest.fixture(scope="module")
def stream(server):
    with client(server) as browser:
        page = Page(browser)
        with LiveStream(page) as stream:
            stream.connection = stream.until(lambda s: "c" in s.get("_fs", {}))[0].signals["_fs"]["c"]
            stream.page = page
            yield stream


marks = itertools.count(1)


def put_mark(stream, event="put", text=""):
    """Put `text` and a number of its own into the state; return the frames up to the one with that number."""
    mark = next(marks)
    answer = stream.page.send("Words", event, text=text, number=mark, connection=stream.connection)
    assert (answer.status_code, answer.content) == (204, b"")
    found = stream.until(lambda s: s.get("Words", {}).get("number") == mark)
    assert count_events(stream.body) == len(frames_of(stream.body))
    return found


@asked_with(hostile, WORST, runs=50)
def test_field_values_dict_keys_and_view_text_add_no_line_to_a_stream(stream, text):
    assert merged(put_mark(stream, "put_all", text))["Words"].get("text", text) == text


@asked_with(hostile, WORST, runs=30)
def test_what_an_event_returns_or_yields_adds_no_line(page, text):
    shown = frames_of(page.send("Words", "show", text=text).content)
    assert [frame.kind for frame in shown] == ["datastar-patch-elements"] and set(shown[0].parts) == {"elements"}
    (element,) = Document(shown[0].html).elements
    assert element.tag == "p" and element.get("title") == lines_of_html(text)
    there = frames_of(page.send("Words", "show_there", text=text).content)
    assert [set(frame.parts) for frame in there] == [{"selector", "mode", "elements"}]
    assert there[0].parts["selector"] == ["[title='\u2028\u2029\v\f\x85\0: event: evil']"]
    steps = page.send("Words", "steps", text=text)
    assert count_events(steps.content) == len(frames_of(steps.content))


@asked_with(hostile, WORST, runs=20)
def test_fragments_of_an_event_add_no_line_to_a_stream(stream, text):
    stream.page.send("Words", "steps", text=text, connection=stream.connection)
    stream.page.send("Words", "show_there", text=text, connection=stream.connection)
    put_mark(stream)


@asked_with(hostile, WORST, runs=30)
def test_values_that_are_only_broadcast_add_no_line(stream, text):
    assert stream.page.client.get("/told", params={"text": text}).text.startswith("told")
    told = put_mark(stream)
    assert any(frame.signals.get("Words", {}).get(text) == {"a": text} for frame in told) or "." in text


@asked_with(hostile, WORST, runs=40)
def test_what_an_answer_says_of_bound_fields_adds_no_line(page, text):
    answer = page.send("Words", "put", text="", bound={"typed": text})
    assert count_events(answer.content) == len(frames_of(answer.content))
    assert word_of(answer) == {"path": ["Words"], "version": ANY, "values": {"typed": text}}


@asked_with(hostile.filter(bool), WORST, "../..", runs=25)
def test_component_ids_and_record_ids_add_no_line(page, text):
    in_path = "a" + text.replace("/", "").replace(".", "")  # a segment, and none of FastHTML's static files
    for path, state, own in (
        ("/panel?name=" + quote(text, safe=""), "Panel", text),
        ("/doc/" + quote(in_path, safe=""), "Doc", in_path),
    ):
        shown = Page(page.client, path)
        assert shown.response.status_code == 200
        answer = shown.send(state, "put", instance_id=own, text="new")
        found = frames_of(answer.content)
        assert count_events(answer.content) == len(found) == 2
        ((segment, values),) = found[0].signals[state].items()
        assert re.fullmatch("[A-Za-z0-9_]+", segment) and values == {"text": "new"}
        assert found[1].parts["selector"] == [f'[data-fs-view="{state}.{segment}.shown"]']
        with LiveStream(shown) as stream:
            stream.until(lambda s: "c" in s.get("_fs", {}))


def refusals(page, text):
    """Answers that tell of what was sent, and so might repeat it."""
    named = quote(text, safe="")
    yield page.send("Words", "put", **{"text": "", text: 1})
    yield page.send("Words", "put", text="", bound={text: 1})
    yield page.send("Words", "put", text="", number=text)
    yield page.send("Words", "choose", counts={text: text})
    yield page.send("Words", "refuse", text=text)
    yield page.send("Words", "made_of", text=text)
    yield page.send("Words", named or "none", text=text)
    yield page.send(named or "None", "put", text=text)
    yield page.send("Words", "put", text=text, instance_id=text or "x")
    yield page.send("Panel", "put", text=text, instance_id=text or "x")
    yield page.send("Words", "put", query={text: text}, headers={"x-other": "1"})
    yield page.client.post(
        f"{page.url}event/Words/put",
        content=json.dumps({text: 1, "w": page.tokens}),
        headers=BROWSER,
    )


@asked_with(hostile, WORST, runs=25)
def test_messages_that_repeat_what_was_sent_add_no_line(page, text):
    told = 0
    for answer in refusals(page, text):
        assert set(answer.headers) <= EVENT_HEADERS
        found = frames_of(answer.content)
        assert count_events(answer.content) == len(found)
        assert all(frame.kind == "datastar-patch-signals" for frame in found)
        assert all(set(frame.signals) <= {"_fs", "Words"} for frame in found)
        told += status(answer) >= 400 and bool(message(answer))
    assert told >= 5


@asked_with(hostile, WORST, runs=40)
def test_a_redirect_of_an_event_adds_no_line_and_no_header(page, text):
    answer = page.send("Words", "go", to=text)
    assert set(answer.headers) <= EVENT_HEADERS
    found = frames_of(answer.content)
    assert len(found) == count_events(answer.content) == 1
    if status(answer) == 200:
        assert found[0].signals == {"_fs": {"go": ("/to?text=" + text).strip()}}
    else:
        assert any(ord(c) < 32 for c in text) and "go" not in found[0].signals["_fs"]


@asked_with(hostile, WORST, runs=40)
def test_a_redirect_of_a_beforeware_adds_no_line_and_no_header(server, page, text):
    query = "?x-bounce=" + quote(text, safe="")
    plain = get(server, f"/to{query}")
    assert plain.status == 303 and plain.names() <= PLAIN_HEADERS | {"location"}
    assert plain.header("location").startswith("/to?text=") and plain.header("location").isprintable()
    assert plain.body == b""
    answer = page.client.post(
        f"{page.url}event/Words/put{query}",
        content=json.dumps({"a": {"text": text}, "w": page.tokens}),
        headers=BROWSER,
    )
    assert set(answer.headers) <= EVENT_HEADERS and status(answer) == 303
    (frame,) = frames_of(answer.content)
    assert count_events(answer.content) == 1
    assert frame.signals["_fs"]["go"].isprintable()


# A server refuses CR, LF and NUL in a header's value; what else is no letter passes.
in_headers = st.text(
    st.sampled_from([c for c in map(chr, range(1, 256)) if c not in "\r\n"]), max_size=70
) | st.sampled_from(["id: 9.9", "data: x", "event: evil", "a" * 7, "a" * 65, "abcdefgh\x0b", "abcdefgh\x85"])


@settings(over_http, max_examples=60)
@given(in_headers, in_headers, in_headers)
@example("\x0bevent: evil\x0c", "\x85id: 9.9", "\x0b")
@example("abcdefgh", "abcdefgh", "abcdefgh")
def test_nonce_connection_and_last_event_id_add_nothing(server, page, nonce, connection, seen):
    headers = {
        "faststate-nonce": nonce.encode("latin-1"),
        "faststate-connection": connection.encode("latin-1"),
        "last-event-id": seen.encode("latin-1"),
    }
    body = json.dumps({"a": {"text": "x"}, "f": [], "w": page.tokens}).encode()
    answer = raw(server, event_request(page, "Words", "put", body, headers))
    if answer.header("cache-control") is None:  # the server itself refused that header
        assert answer.status == 400
        return
    assert answer.names() <= EVENT_HEADERS and answer.status == 200
    found = frames_of(answer.body)
    assert count_events(answer.body) == len(found)
    acknowledged = merged(found).get("_fs", {}).get("ok")
    trimmed = nonce.strip(" \t")
    assert acknowledged == (trimmed if re.fullmatch(r"[A-Za-z0-9_-]{8,64}", trimmed) else None)


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n"])
@pytest.mark.parametrize("name", ["faststate-nonce", "faststate-connection", "last-event-id"])
def test_a_line_end_in_a_header_gets_no_further_than_the_server(server, page, name, end):
    body = json.dumps({"a": {"text": "x"}, "f": [], "w": page.tokens}).encode()
    injected = b"abcdefgh" + end + b"x-evil: 1" + end + b"id: 9.9"
    try:
        answer = raw(server, event_request(page, "Words", "put", body, {name: injected}), timeout=5)
    except ConnectionError:
        return  # closed without a word
    assert answer.names() <= EVENT_HEADERS and answer.header("x-evil") is None
    if answer.status == 200:
        assert count_events(answer.body) == len(frames_of(answer.body))


@asked_with(in_headers, "\x0b1.9", "9" * 60, runs=20)
def test_a_streams_position_is_never_what_the_client_said(server, page, seen):
    body = json.dumps({"w": page.tokens, "n": seen}).encode()
    request = stream_request(page, body, {"last-event-id": seen})
    answer = raw(server, request, until=b"\n\n\r\n")  # chunks end so
    if answer.status == 400:
        return
    assert answer.status == 200
    assert answer.names() <= EVENT_HEADERS
    assert count_events(answer.body) == len(frames_of(answer.body)) >= 1
    positions = parse_stream(answer.body).ids
    assert positions and all(p.partition(".")[0] == page.position.partition(".")[0] for p in positions)


@asked_with(hostile, WORST, runs=40)
def test_the_path_of_an_event_adds_no_line_to_the_log(server, page, text):
    before = len(server.output())
    for path in (f"event/Words/{quote(text, safe='')}", f"event/{quote(text, safe='')}/put", "event/Words/put"):
        page.client.post(
            page.url + path + "?" + quote(text),
            content=json.dumps({"a": {}, "i": text or None, "w": [text]}),
            headers=BROWSER,
        )
    for line in server.output()[before:].splitlines():
        assert line.startswith(("INFO: ", "WARNING: ", "refused an event of Words: ")), line


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_selector_with_a_line_end_is_refused_when_the_class_is_made(end):
    with pytest.raises(EventDefinitionError, match="is not a CSS selector"):

        class Selecting(ReactiveState):
            @event(selector=f"#a{end}event: evil", mode="inner")
            def show(self):
                return None


def test_the_session_of_a_page_survives_it_all(page):
    assert patched_signals(page.send("Words", "put", text="well").content)["Words"]["text"] == "well"
