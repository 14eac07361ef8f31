"""The server's side of docs/protocol.md, by the cases beside this file; tests/client/protocol.test.js is the page's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fasthtml.common import Div, P, Redirect
from starlette.testclient import TestClient

from faststate import (
    AuthorizationError,
    Bound,
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.client.modules import served_modules
from faststate.exceptions import FastStateError
from faststate.provider import payload
from faststate.wire import frames
from tests.support import ROOT
from tests.support.client import BROWSER, Page, message, patched_signals, session_content, status, word_of

HERE = Path(__file__).parent
TEXT = (ROOT / "docs/protocol.md").read_text()


def cases(file: str, part: str = "cases") -> Any:
    found = json.loads((HERE / f"{file}.json").read_text())[part]
    return pytest.mark.parametrize("case", found, ids=[case["name"] for case in found])


class Counter(ReactiveState):
    count: int = 0
    note: Bound[str] = ""

    @event
    def add(self, by: int = 1):
        self.count += by

    @event
    def say(self, text: str, by: int = 0):
        self.note = text

    @event
    def refuse(self):
        raise AuthorizationError("No, you may not.")

    @event
    def fail(self):
        raise ZeroDivisionError

    @event
    def leave(self):
        return Redirect("/elsewhere")


class Doc(ReactiveState):
    title: Bound[str] = ""

    @event
    def save(self):
        pass


def page_of(**options: Any) -> tuple[Page, StateProvider]:
    """A page that shows the counter and the document "left"."""
    provider = StateProvider(**options)
    provider.register_state(Counter)
    provider.register_state(Doc, StateConfig(scope=StateScope.COMPONENT))
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    async def index(request, counter: Counter):
        doc = await provider.get_state(Doc, request, component_id="left")
        return Div(P(counter.signal.count), P(doc.signal.title))

    return Page(TestClient(app, raise_server_exceptions=False)), provider


def filled(case: dict[str, Any], page: Page) -> dict[str, Any]:
    """The content and the headers of a case's request."""
    (token,) = page.tokens
    text = case["text"] if "text" in case else json.dumps(case.get("body"))
    text = text.replace('"$token"', json.dumps(token)).replace('"$position"', json.dumps(page.position))
    headers = {**BROWSER, "content-type": "application/json", "faststate-nonce": "0123456789abcdef"}
    headers |= case.get("headers", {})
    return {"content": text, "headers": {name: value for name, value in headers.items() if value is not None}}


@cases("frames")
def test_frames_are_written_byte_by_byte_as_the_page_reads_them(case):
    if "make" not in case:
        return  # of the format alone
    name, *arguments = case["make"]
    written = getattr(frames, name)(*(tuple(a) if isinstance(a, list) else a for a in arguments))
    assert written == case["text"].encode()


@cases("events", "sent")
def test_what_a_page_sends_has_the_form_that_the_server_takes(case):
    state, name = case["path"].split("/")
    call = payload.Call.parse(state, name, case["body"], (), "0123456789abcdef", "stream-1")
    assert call.tokens == ["$token"] and call.sequence == 1


@cases("events", "answers")
def test_each_payload_of_an_event_has_its_answer(case):
    page, _ = page_of()
    request = filled(case, page)
    method = case.get("method", "POST")
    if method != "POST":
        request.pop("content")
    response = page.client.request(method, f"{page.url}event/{case['path']}", **request)
    assert status(response) == case["status"], response.text
    assert case.get("message", "") in message(response)
    word = word_of(response)
    assert (word["values"] if word is not None else None) == case.get("word")
    told = patched_signals(response.text)
    assert case.get("signals", {}).items() <= told.get("_fs", {}).items()
    if case.get("plain"):
        assert response.status_code == case["status"] and not told
    elif case["status"] >= 400:
        assert response.status_code == 200 and told["_fs"]["status"] == case["status"] and message(response)
        assert response.headers["cache-control"] == "no-store"


SITUATIONS: dict[str | None, dict[str, Any]] = {
    None: {},
    "one stream": {"max_streams_per_session": 1},
    "one opened": {"stream_rate": 0.01, "stream_burst": 1},
    "draining": {},
}


@cases("streams")
def test_each_request_for_a_stream_has_its_answer(case):
    if (when := case.get("when")) is None:
        return  # a proxy's
    situation = when.get("option")
    page, provider = page_of(**SITUATIONS[situation])
    request = filled(when, page)
    manager = provider.sse_manager
    with page.client as client:
        if situation == "one stream":
            manager.add_connection(SSEConnection("other", session_id=session_content(client)["session_id"]), [])
        elif situation == "one opened":
            client.post(f"{page.url}stream", json={}, headers=BROWSER)
        elif situation == "draining":
            manager.drain()
        with client.stream("POST", f"{page.url}stream", **request) as response:
            assert response.status_code == case["status"]
            assert response.headers["cache-control"] == "no-store"
            for name, value in case.get("headers", {}).items():
                assert response.headers[name] == value
            if response.status_code == 200:
                assert response.headers["content-type"] == "text/event-stream"
                assert float(response.headers["faststate-heartbeat"]) == 15
                manager.drain()


# -- what the page says about it ---------------------------------------------------------------------------------------


def section(heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def first_cells(heading: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)`", section(heading), re.MULTILINE))


def test_the_document_names_each_part_of_an_event_s_payload_and_no_other():
    assert {cell for cell in first_cells("An event") if len(cell) == 1} == set(payload._PARTS)


def test_the_document_names_each_route():
    page, _ = page_of()
    routes = page.client.app.router.routes
    paths = {route.path for route in routes if (getattr(route, "name", None) or "").startswith("faststate-")}
    named = {re.sub(r"<(\w+)>", lambda m: "{" + m[1] + "}", path) for path in first_cells("URLs")}
    assert named == {path.removeprefix("/_faststate") for path in paths}


def test_the_document_names_each_signal_of_the_library():
    program = b"".join(served_modules().values()).decode()
    used = set(re.findall(r"root\._fs\.(\w+)", program))
    (merged,) = re.findall(r"mergePatch\(\{_fs: \{(.*?), w: \{\}\}\}, \{ifMissing: true\}\)", program)
    used |= set(re.findall(r"(\w+):", merged)) | {"u", "n", "w"}
    assert used == first_cells("Signals of the page")


def test_the_document_names_each_status_of_an_error():
    known = {error.status for error in subclasses(FastStateError)}
    rows = re.findall(r"^\| ((?:\d{3}(?:, )?)+) \|", section("The answer to an event"), re.MULTILINE)
    assert known <= {int(number) for row in rows for number in row.split(", ")}


def test_the_document_names_each_header_of_ours():
    python = "".join(file.read_text() for file in (ROOT / "src/faststate/fasthtml").glob("*.py"))
    program = b"".join(served_modules().values()).decode()
    used = set(re.findall(r'"(faststate-(?:nonce|connection|status|heartbeat))"', (python + program).lower()))
    assert len(used) == 4
    assert used <= {name.lower() for name in re.findall(r"`(FastState-\w+)", TEXT)}


def subclasses(cls: type[FastStateError]) -> set[type[FastStateError]]:
    return {cls} | {lower for below in cls.__subclasses__() for lower in subclasses(below)}
