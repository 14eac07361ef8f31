"""Several events in one request: each is what it would be alone, and they run in their order."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

import pytest
from fasthtml import common as fh
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from faststate import (
    BackendError,
    EventError,
    ReactiveState,
    StateProvider,
    UserContext,
    event,
    get_current_request,
    get_current_user,
)
from faststate.exceptions import NotStartedError
from faststate.fasthtml import batch_route
from faststate.registry import entries
from tests.support.apps import app_showing
from tests.support.client import (
    BROWSER,
    LivePage,
    Page,
    browser,
    frames,
    message,
    messages,
    outcomes,
    patched_signals,
    status,
)
from tests.support.waiting import eventually


class Log(ReactiveState):
    lines: list[str] = []
    count: int = 0

    @event
    def add(self, text: str):
        if not text:
            raise EventError("Please write something.")
        self.lines.append(text)
        self.count += 1

    @event
    async def steps(self):
        for text in ("first", "last"):
            self.lines.append(text)
            yield
            await asyncio.sleep(0)

    @event
    async def wait(self):
        while not released().is_set():
            yield
            await asyncio.sleep(0)
        self.lines.append("late")

    @event
    def path(self):
        self.lines.append(get_current_request().url.path)

    @event
    def finish(self):
        return fh.Redirect("/thanks")

    @event
    def fail(self):
        self.lines.append("lost")
        raise RuntimeError("a secret of the server")


_released: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}


def released() -> asyncio.Event:
    """The event that lets `wait` go on, on this loop."""
    return _released.setdefault(asyncio.get_running_loop(), asyncio.Event())


def opened(provider=None, before=(), **options):
    app, provider = app_showing(Log, provider=provider, pico=False, **options)
    app.before.extend(before)
    return app, provider, Page(TestClient(app))


def lines(provider):
    return [line for entry in provider.registry.live.values() for line in entry.state.lines]


def add(text, **parts):
    return {"s": "Log", "e": "add", "a": {"text": text}, **parts}


# -- what each of them is ----------------------------------------------------------------------------------------------


def test_events_of_a_batch_run_in_their_order_and_each_is_answered():
    _, provider, page = opened()
    answer = page.send_all(*[add(str(n)) for n in range(10)], {"s": "Log", "e": "steps"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store" and "faststate-status" not in answer.headers
    assert outcomes(answer) == [204] * 11
    assert lines(provider) == [*map(str, range(10)), "first", "last"]
    assert patched_signals(answer.text)["Log"]["count"] == 10
    assert provider.stats().events == 11


def test_a_refused_event_says_so_in_its_own_part_and_does_not_stop_the_others():
    _, provider, page = opened()
    events = [
        add("a"), add(""), {"s": "Log", "e": "fail"}, {"s": "Log", "e": "none"}, {"s": "None", "e": "add"},
        add(7), {"s": "Log", "e": "add"}, add("b", b={"count": 7}), add("c", i="1"), add("z"),
    ]  # fmt: skip
    answer = page.send_all(*events)
    assert outcomes(answer) == [204, 400, 500, 404, 404, 400, 400, 400, 400, 204]
    assert messages(answer)[:2] == ["", "Please write something."] and "secret" not in answer.text
    assert all(messages(answer)[1:-1])
    assert lines(provider) == ["a", "z"]
    assert provider.stats().refused == 8


def test_each_part_of_an_event_means_what_it_means_alone():
    _, provider, page = opened()
    answer = page.send_all(
        {"s": "Log", "e": "add", "f": [["text", "form"]]},
        {"s": "Log", "e": "add", "g": {"text": "signal"}},
        {"s": "Log", "e": "path", "q": 3, "v": None, "a": None},
        {"s": "Log", "e": "finish"},
    )
    assert outcomes(answer) == [204] * 4
    assert lines(provider) == ["form", "signal", "/_faststate/events"]
    signals = [json.loads(parts["signals"]) for kind, parts in frames(answer.text) if kind.endswith("signals")]
    assert {"_fs": {"ok": "nonce-00"}} in signals and {"_fs": {"go": "/thanks"}} in signals


async def test_with_a_stream_changes_go_down_the_stream_and_only_the_outcome_is_in_the_answer():
    app, _ = app_showing(Log)
    with TestClient(app) as client:
        page = LivePage(client)
        answer = page.send_all(add("a"), add("b"), connection=page.shown["_fs"]["c"])
        assert [line for line in answer.text.split("\n") if line] == [
            line for n in (0, 1) for line in ("event: faststate-done", f'data: {{"k":"nonce-{n:02}","status":204}}')
        ]
        page.read_until("Log", count=2)
        page.close()


def test_an_event_that_has_run_is_not_run_again_in_a_batch_and_neither_the_other_way_round():
    _, provider, page = opened()
    assert status(page.send("Log", "add", text="a", nonce="nonce-00")) == 200
    assert outcomes(page.send_all(add("a"), add("b"))) == [204, 204]
    assert outcomes(page.send_all(add("a"), add("b"))) == [204, 204]
    assert status(page.send("Log", "add", text="b", nonce="nonce-01")) == 200
    assert lines(provider) == ["a", "b"] and provider.stats().repeated == 4


def test_an_event_sent_again_that_the_state_may_have_forgotten_is_not_run(monkeypatch):
    monkeypatch.setattr(entries, "NONCES_KEPT", 3)
    now = [1_000.0]
    _, provider, page = opened(StateProvider(clock=lambda: now[0]))
    page.send_all(*[add(str(n)) for n in range(3)])
    now[0] += 10
    again = [add("new", k="nonce-new1", t=9_000), add("old", k="nonce-old1", t=11_000)]
    answer = page.send_all(*again)
    assert outcomes(answer) == [204, 400] and "not known whether" in messages(answer)[1]
    assert outcomes(page.send_all(add("3", k="nonce-new1", t=20_000), add("ages", k="nonce-age1", t=300_000))) == [
        204,
        400,
    ]
    single = page.client.post(
        f"{page.url}event/Log/add",
        json={"a": {"text": "old"}, "w": page.tokens, "t": 20_000},
        headers={**BROWSER, "faststate-nonce": "nonce-old1"},
    )
    assert status(single) == 400
    assert lines(provider) == ["0", "1", "2", "new"]


# -- who sends them ----------------------------------------------------------------------------------------------------


def test_beforeware_runs_once_for_a_batch_and_may_refuse_it():
    seen = []

    def guard(req: Request, sess):
        if req.url.path == "/_faststate/events":
            seen.append(req.url.path)
            sess["seen"] = True
            return PlainTextResponse("no", 403) if "x-stop" in req.headers else None

    _, provider, page = opened(before=[guard])
    assert outcomes(page.send_all(add("a"), add("b"))) == [204, 204]
    assert len(seen) == 1
    answer = page.send_all(add("c"), add("d"), headers={"x-stop": "1"})
    assert status(answer) == 403 and message(answer) == "You may not do this." and outcomes(answer) == []
    assert len(seen) == 2 and lines(provider) == ["a", "b"]


@pytest.mark.parametrize(
    "headers",
    [{"datastar-request": ""}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
    ids=lambda headers: next(iter(headers)) + "=" + next(iter(headers.values())),
)
def test_another_sites_batch_is_refused(headers):
    _, provider, page = opened()
    sent = {**BROWSER, **headers}
    sent = {name: value for name, value in sent.items() if value}
    answer = page.client.post(f"{page.url}events", json={"w": page.tokens, "e": [add("a", k="nonce-00")]}, headers=sent)
    assert answer.status_code == 403 and "sse" not in answer.headers.get("content-type", "")
    assert lines(provider) == []
    assert page.client.get(f"{page.url}events").status_code == 405


class Account(ReactiveState):
    noted: ClassVar[list[str]] = []

    @event
    async def sign_in(self, name: str):
        await Account.provider.login(get_current_request(), UserContext(name))

    @event
    async def sign_out(self):
        await Account.provider.logout(get_current_request())

    @event(requires_auth=True)
    async def note(self):
        self.noted.append((await get_current_user(get_current_request())).id)


def test_an_event_that_signs_in_or_out_counts_for_those_behind_it():
    provider = StateProvider(load_user_by_id=UserContext)
    Account.provider = provider
    app, provider = app_showing(Account, provider=provider)
    page = Page(TestClient(app))
    note, come, go = ({"s": "Account", "e": name} for name in ("note", "sign_in", "sign_out"))
    before = page.client.cookies["session_"]
    answer = page.send_all(note, {**come, "a": {"name": "ann"}}, note)
    assert outcomes(answer)[:2] == [401, 204] and outcomes(answer)[2] in (204, 403)
    assert page.client.cookies["session_"] != before
    page = Page(page.client)
    answer = page.send_all({**note, "k": "nonce-n1"}, {**go, "k": "nonce-n2"}, {**note, "k": "nonce-n3"})
    assert outcomes(answer)[:2] == [204, 204] and outcomes(answer)[2] in (401, 403)
    assert set(Account.noted) == {"ann"} and 1 <= len(Account.noted) <= 2


def test_forged_tokens_are_refused_for_each_event():
    _, provider, page = opened()
    page.tokens[:] = ["forged"]
    answer = page.send_all(add("a"), add("b"))
    assert outcomes(answer) == [403, 403] and lines(provider) == []


# -- how many, and how fast --------------------------------------------------------------------------------------------


def test_each_event_of_a_batch_counts_for_the_rate():
    _, provider, page = opened(StateProvider(event_rate=0.001, event_burst=5))
    answer = page.send_all(*[add(str(n)) for n in range(7)])
    assert outcomes(answer) == [204] * 5 + [429] * 2
    assert messages(answer)[-1] == "Too many actions at once. Please wait a moment."
    assert lines(provider) == list("01234")
    assert status(page.send("Log", "add", text="more")) == 429


def test_each_event_of_a_batch_counts_among_those_under_way():
    _, provider, page = opened(StateProvider(max_events_per_session=3))
    answer = page.send_all(*[add(str(n)) for n in range(5)])
    assert outcomes(answer) == [204] * 3 + [429] * 2
    assert messages(answer)[-1].startswith("3 actions are under way already")
    assert lines(provider) == list("012")
    assert outcomes(page.send_all(add("3", k="nonce-more"), {"s": 1, "e": 2}, add("4", k="nonce-44"))) == [
        204,
        400,
        204,
    ]
    assert not provider.throttle._under_way


async def test_a_slow_event_does_not_hold_up_those_behind_it_for_ever(monkeypatch):
    monkeypatch.setattr(batch_route, "HOLDS", 0.01)
    app, provider = app_showing(Log)
    async with browser(app) as client:
        page = await Page.open(client)
        sending = asyncio.ensure_future(page.send_all(add("a"), {"s": "Log", "e": "wait"}, add("b")))
        await eventually(lambda: lines(provider) == ["a", "b"])
        assert not sending.done()
        released().set()
        assert outcomes(await sending) == [204] * 3
        assert lines(provider) == ["a", "b", "late"]


async def test_a_batch_that_is_cancelled_cancels_what_runs_and_gives_its_places_back():
    app, provider = app_showing(Log)
    async with browser(app) as client:
        page = await Page.open(client)
        sending = asyncio.ensure_future(page.send_all(add("a"), {"s": "Log", "e": "wait"}, add("b")))
        await eventually(lambda: lines(provider) == ["a"] and provider.throttle._under_way)
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await eventually(lambda: not provider.throttle._under_way)
        assert lines(provider) == ["a"]


def test_an_event_that_could_not_be_run_is_to_be_sent_again(monkeypatch):
    _, provider, page = opened()
    with monkeypatch.context() as patched:
        error = NotStartedError("the server ends")
        error.send_again = True

        async def ends(*_, **__):
            raise error

        patched.setattr(type(provider.dispatcher), "dispatch", ends)
        answer = page.send_all(add("a"))
        assert '"status":503,"after":1' in answer.text
        single = page.send("Log", "add", text="a")
        assert status(single) == 503 and single.headers["retry-after"] == "1"
    assert outcomes(page.send_all(add("a"))) == [204]


# -- what nobody should send -------------------------------------------------------------------------------------------

GOOD = {"k": "nonce-good", "s": "Log", "e": "add", "a": {"text": "good"}}
DEEP: object = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], 400), ("text", 400), (7, 400), (None, 400), ({}, 400), ({"e": None}, 400), ({"e": {}}, 400),
        ({"e": []}, 400), ({"e": "GOOD"}, 400), ({"e": [GOOD], "x": 1}, 400), ({"e": [GOOD], "w": "token"}, 400),
        ({"e": [GOOD], "w": DEEP}, 400), ({"e": [GOOD], "__proto__": {}}, 400),
        ({"e": [GOOD, GOOD]}, 400), ({"e": [GOOD, 7]}, 400), ({"e": [GOOD, None]}, 400), ({"e": [GOOD, [GOOD]]}, 400),
        ({"e": [GOOD, {**GOOD, "k": None}]}, 400), ({"e": [GOOD, {**GOOD, "k": 7}]}, 400),
        ({"e": [GOOD, {**GOOD, "k": "short"}]}, 400), ({"e": [GOOD, {**GOOD, "k": "with\nline"}]}, 400),
        ({"e": [GOOD, {**GOOD, "k": "n" * 65}]}, 400), ({"e": [GOOD, {"s": "Log", "e": "add"}]}, 400),
        ({"e": [{**GOOD, "k": f"nonce-{n:02}"} for n in range(51)]}, 413),
        ({"e": [GOOD], "w": ["x" * 70_000]}, 413),
    ],
    ids=str,
)  # fmt: skip
def test_a_batch_without_the_form_of_one_is_refused_and_nothing_of_it_is_run(body, expected):
    _, provider, page = opened(StateProvider(max_payload=65_536))
    answer = page.client.post(f"{page.url}events", json=body, headers=BROWSER)
    assert (answer.status_code, status(answer)) == (200, expected) and message(answer)
    assert lines(provider) == [] and not provider.throttle._under_way
    assert outcomes(page.send_all({**GOOD})) == [204]


@pytest.mark.parametrize("body", [b"", b"{", b'{"e": ["\\ud800"]}', b"\xff", b"[" * 100_000, b'{"e":' * 50_000])
def test_a_batch_that_is_not_json_is_refused(body):
    _, provider, page = opened()
    answer = page.client.post(f"{page.url}events", content=body, headers=BROWSER)
    assert (answer.status_code, status(answer)) == (200, 400) and message(answer)
    assert lines(provider) == []


@pytest.mark.parametrize(
    "parts",
    [
        {"s": None}, {"s": 7}, {"s": {"text": "x"}}, {"e": None}, {"e": ["add"]}, {"a": []}, {"a": "x"}, {"b": []},
        {"f": {}}, {"f": [["text"]]}, {"f": [[1, 2]]}, {"g": []}, {"g": "x"}, {"i": 7}, {"q": "1"}, {"q": 1.5},
        {"q": True}, {"t": "1"}, {"t": 1e3}, {"v": 1}, {"w": []}, {"x": 1}, {"": 1}, {"a": {"text": DEEP}},
    ],
    ids=str,
)  # fmt: skip
def test_an_event_without_the_form_of_one_is_refused_and_the_others_run(parts):
    _, provider, page = opened()
    answer = page.send_all(add("a"), add("bad", **parts) if "a" not in parts else {**add(""), **parts}, add("b"))
    assert outcomes(answer) == [204, 400, 204] and messages(answer)[1]
    assert lines(provider) == ["a", "b"]


def test_an_event_as_deep_as_a_single_one_may_be_is_as_good_in_a_batch():
    value: object = "x"
    for _ in range(30):
        value = [value]
    _, provider, page = opened()
    answer = page.send_all(add("a"), {"s": "Log", "e": "add", "g": {"other": value, "text": "deep"}})
    assert outcomes(answer) == [204, 204] and lines(provider) == ["a", "deep"]


def test_numbers_of_any_size_are_no_reason_to_fail():
    _, provider, page = opened()
    sizes = [-1, 0, 10**20, -(10**300)]
    answer = page.send_all(*[add(str(n), q=n) for n in sizes], *[add(str(n), t=n) for n in sizes])
    assert len(outcomes(answer)) == 8 and set(outcomes(answer)) <= {204, 400}
    assert len(lines(provider)) == outcomes(answer).count(204)


def test_a_store_that_is_away_has_all_of_them_sent_again(monkeypatch):
    _, provider, page = opened()

    async def away(_):
        raise BackendError("away")

    with monkeypatch.context() as patched:
        patched.setattr(type(provider), "start", away)
        patched.setattr(provider.lifecycle, "is_started", False)
        answer = page.send_all(add("a"), add("b"))
    assert (status(answer), answer.headers["retry-after"]) == (503, "1") and outcomes(answer) == []
    assert outcomes(page.send_all(add("a"), add("b"))) == [204, 204]
