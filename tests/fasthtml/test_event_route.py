"""The way to an event: past Starlette's router and FastHTML's page machinery, past nothing that an app put there."""

from __future__ import annotations

import json

import pytest
from fasthtml import common as fh
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from faststate import ReactiveState, event, get_current_request
from faststate.exceptions import EventArgumentError
from faststate.fasthtml.requests import headers_of, parse_json
from tests.support.apps import app_showing
from tests.support.client import BROWSER, Page, message, patched_signals, session_content, status


class Counter(ReactiveState):
    count: int = 0
    asked: str = ""

    @event
    def add(self, by: int = 1):
        self.count += by
        self.asked = str(get_current_request().url_for("faststate-stream").path)


@pytest.fixture(params=["own", "FastHTML's", "FastHTML's, since names are missing"])
def way(request, monkeypatch):
    """Each of the ways on which Beforeware may run for an event; gives further options of the app."""
    if request.param.endswith("missing"):
        monkeypatch.setattr("faststate.fasthtml._compat.can_fill", False)
    return {"after": [lambda resp: None]} if request.param == "FastHTML's" else {}


def opened(before=(), after=(), **client):
    """An app, its provider, and the page of a visitor."""
    app, provider = app_showing(Counter, pico=False, hdrs=[fh.Meta(name="mine")])
    app.before.extend(before)
    app.after.extend(after)
    return app, provider, Page(TestClient(app, **client))


def count(provider):
    (entry,) = provider.registry.live.values()
    return entry.state.count


def test_an_event_needs_no_router_and_knows_its_own_url():
    _, provider, page = opened()
    assert status(page.send("Counter", "add", by=2)) == 200 and count(provider) == 2
    (entry,) = provider.registry.live.values()
    assert entry.state.asked == "/_faststate/stream"
    for path in ("event/Counter", "event/Counter/add/more"):
        assert status(page.client.post(page.url + path, headers={"datastar-request": "true"})) == 404
    assert page.client.get(page.url + "event/Counter/add").status_code == 405


def test_beforeware_of_an_event_is_given_what_fasthtml_gives_it(way):
    seen = []

    async def first(req, sess, data: dict, hdrs, auth, counter: Counter):
        req.scope["auth"] = "ann"
        sess["seen"] = True
        own = [getattr(part, "attrs", {}).get("name") for part in hdrs].count("mine")
        hdrs.append(fh.Meta(name="mine"))  # of this request's copy alone
        seen.append((sorted(data), own, hdrs is req.hdrs, len(req.ftrs), req.bodykw, req.htmlkw, counter.count))

    def second(auth, req: Request):
        seen.append((auth, req.url.path))

    skipped = fh.Beforeware(lambda: pytest.fail("skipped"), skip=[r"/_faststate/event/.*", "/"])
    _, provider, page = opened([first, second, skipped], **way)
    for n in range(2):
        seen.clear()
        assert status(page.send("Counter", "add")) == 200
        assert seen == [(["w"], 1, True, 0, {}, {}, n), ("ann", "/_faststate/event/Counter/add")]
    assert count(provider) == 2
    assert session_content(page.client)["seen"] is True


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_beforeware_that_answers_an_event_stops_it(way, kind):
    ran = []

    def stop(sess):
        sess["stopped"] = True
        return fh.RedirectResponse("/login", 303) if "logged" not in sess else PlainTextResponse("no", 403)

    async def stop_async(sess):
        return stop(sess)

    app, provider, page = opened(**way)
    app.before += [stop_async if kind == "async" else stop, lambda: ran.append(True)]
    response = page.send("Counter", "add")
    assert status(response) == 303 and patched_signals(response.text)["_fs"]["go"] == "/login"
    assert session_content(page.client)["stopped"] is True
    app.before[0] = lambda: PlainTextResponse("no", 403)
    response = page.send("Counter", "add")
    assert status(response) == 403 and message(response) == "You may not do this."
    assert not ran and count(provider) == 0


def test_what_a_beforeware_of_an_event_raises_is_the_apps_own_to_answer(way):
    class Closed(Exception):
        pass

    def guard():
        raise Closed

    app, provider, page = opened(**way)
    app.add_exception_handler(Closed, lambda request, error: PlainTextResponse("closed", 418))
    app.middleware_stack = None  # built by the first request; the handler came later
    app.before.append(guard)
    assert page.send("Counter", "add").status_code == 418
    app.before[0] = lambda: (_ for _ in ()).throw(fh.HTTPException(409, "not now"))
    response = page.send("Counter", "add")
    assert (response.status_code, response.text) == (409, "not now")
    app.before[0] = lambda: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        page.send("Counter", "add")
    assert count(provider) == 0


def test_after_functions_see_the_answer_to_an_event():
    seen = []
    _, _, page = opened(after=[lambda resp: seen.append(type(resp).__name__)])
    seen.clear()
    assert status(page.send("Counter", "add")) == 200 and seen == ["EventResponse"]


def test_a_route_that_the_app_put_in_front_comes_first():
    app, provider, page = opened()

    async def own(request):
        return PlainTextResponse(request.path_params["rest"])

    app.router.routes.insert(0, Route("/_faststate/event/{rest:path}", own, methods=["POST"]))
    assert page.send("Counter", "add").text == "Counter/add" and count(provider) == 0


def test_a_middleware_that_the_app_put_inside_sees_events():
    class Inside:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            seen.append(scope["path"])
            await self.app(scope, receive, send)

    seen = []
    app, provider = app_showing(Counter)
    app.user_middleware.append(Middleware(Inside))
    page = Page(TestClient(app))
    assert status(page.send("Counter", "add")) == 200 and count(provider) == 1
    assert seen == ["/", "/_faststate/event/Counter/add"]


def test_an_event_below_a_root_path_is_found():
    _, provider, page = opened(root_path="/below")
    assert page.url == "/below/_faststate/"
    assert status(page.send("Counter", "add")) == 200 and count(provider) == 1


@pytest.mark.parametrize("allowed", [True, False])
def test_beforeware_of_a_stream_and_of_a_beacon_runs_once_and_may_refuse(way, allowed):
    seen = []

    def first(req, hdrs, data: dict):
        seen.append((req.url.path, sorted(data), len(hdrs) > 0))
        return None if allowed or req.url.path == "/" else PlainTextResponse("no", 403)

    _, provider, page = opened([first], **way)
    object.__setattr__(
        provider.options, "max_streams_per_session", 0
    )  # so that a stream which was let through is told to try again
    seen.clear()
    asked = {"w": page.tokens, "n": ""}
    assert page.client.post(f"{page.url}stream", json=asked, headers=BROWSER).status_code == (429 if allowed else 204)
    beacon = json.dumps({"w": page.tokens})
    assert (
        page.client.post(f"{page.url}leave", content=beacon, headers={"content-type": "text/plain"}).status_code == 204
    )
    assert seen == [("/_faststate/stream", ["n", "w"], True), ("/_faststate/leave", [], True)]
    assert not provider.sse_manager.connections


BODIES = [
    b'{"a": {"by": 1}, "w": ["token"], "q": 12}', b'{"a": 1} \r\n', b'\t[1, 2.5, -0, 1e3, true, null, "\\u00e9"]', b"7",
    b'{"a": NaN, "b": -Infinity, "c": 1e999}', b'{"a": "\\ud83d\\ude00", "b": "\xc3\xa9"}', b'{"a": 1, "a": 2}',
    b'{"a": ' + b"9" * 4_300 + b"}", b'{"a": 0.1, "b": 123456789012345678901234567890}', b'{"a": "\\u0000\x7f"}',
    '{"a": "é"}'.encode("utf-16"), b'\xef\xbb\xbf{"a": 1}', b"[" * 300 + b"]" * 300,
]  # fmt: skip

BROKEN = [
    b'{"a": "\\ud800"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xff"}', b'{"a": 1}x', b"{'a': 1}", b'{"a": 1,}',
    b'{"a": 01}', b'{"a": 1.}', b'{"a": +1}', b'{"a": "\t"}', b'{"a": "\\x"}', b'{"a": 1}\0', b" ",
    b'{"a": ' + b"9" * 4_301 + b"}", b"[" * 100_000 + b"]" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_payload_is_what_pythons_own_parser_makes_of_it(body):
    assert repr(parse_json(body)) == repr(json.loads(body))


def test_no_payload_is_an_empty_one():
    assert parse_json(b"") == {}


@pytest.mark.parametrize("body", BROKEN)
def test_a_payload_that_python_does_not_take_is_refused(body):
    with pytest.raises(EventArgumentError):
        parse_json(body)


def test_the_first_of_two_headers_counts_and_what_a_middleware_changes_is_seen():
    scope = {"headers": [(b"origin", b"http://a"), (b"host", b"a"), (b"origin", b"http://b")]}
    assert headers_of(scope) == {b"origin": b"http://a", b"host": b"a"}
    assert headers_of(scope) is headers_of(scope)
    scope["headers"][0] = (b"origin", b"http://c")
    assert headers_of(scope)[b"origin"] == b"http://c"
