"""Limits per client: the buckets themselves, and each cap over HTTP."""

import json
import math
from typing import Annotated

import pytest
from fasthtml import common as fh
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from faststate import (
    Component,
    ConfigurationError,
    LimitError,
    ReactiveState,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.limits import TokenBuckets
from faststate.registry import StateRegistry

from .client import BROWSER, Page, message, status

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@given(
    rate=st.floats(0.5, 50),
    burst=st.integers(1, 20),
    waits=st.lists(st.floats(0, 3), max_size=60),
)
def test_in_no_window_is_more_allowed_than_the_burst_and_what_came_in_since(rate, burst, waits):
    clock = Clock()
    buckets = TokenBuckets(rate, burst, clock)
    allowed = []
    for wait in waits:
        clock.now += wait
        if not buckets.take("client"):
            allowed.append(clock.now)
    for i, begin in enumerate(allowed):
        for j in range(i, len(allowed)):
            assert j - i + 1 <= burst + (allowed[j] - begin) * rate + 1e-6


def test_whoever_waits_as_long_as_told_is_let_through():
    clock = Clock()
    buckets = TokenBuckets(4, 2, clock)
    assert not buckets.take("a") and not buckets.take("a")
    wait = buckets.take("a")
    assert wait == pytest.approx(0.25)
    assert not buckets.take("b")  # another client has a bucket of its own
    clock.now += wait
    assert not buckets.take("a") and buckets.take("a")


def test_buckets_that_are_full_again_are_forgotten():
    clock = Clock()
    buckets = TokenBuckets(1, 5, clock)
    for i in range(1_000):
        buckets.take(str(i))
    clock.now += 10
    for _ in range(3):
        buckets.take("last")
    assert len(buckets) == 1


def test_an_infinite_rate_is_no_limit_and_nothing_else_lets_all_through():
    buckets = TokenBuckets(math.inf, 1, Clock())
    assert not any(buckets.take("a") for _ in range(1_000)) and len(buckets) == 0
    for rate, burst in ((0, 5), (-1, 5), (math.nan, 5), (1, 0), (1, math.nan)):
        with pytest.raises(ConfigurationError):
            TokenBuckets(rate, burst, Clock())


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self):
        self.count += 1


class Note(ReactiveState):
    text: str = ""


class Box(ReactiveState):
    n: int = 0


def make(**options):
    clock = Clock()
    provider = StateProvider(clock=clock, **options)
    provider.register_state(Counter)
    provider.register_state(Note, StateConfig(scope=StateScope.TEMPORARY))
    provider.register_state(Box, StateConfig(scope=StateScope.COMPONENT))
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    def index(counter: Counter):
        return fh.P(counter.signal.count)

    @rt("/note")
    def note(note: Note):
        return fh.P(note.signal.text)

    @rt("/boxes")
    def boxes(a: Annotated[Box, Component("a")], b: Annotated[Box, Component("b")]):
        return fh.P(a.signal.n, b.signal.n)

    return app, provider, clock


def test_events_beyond_the_rate_are_refused_where_the_person_sees_it():
    app, provider, clock = make(event_rate=2, event_burst=3)
    one, two = Page(TestClient(app)), Page(TestClient(app))
    assert [status(one.send("Counter", "add")) for _ in range(4)] == [200, 200, 200, 429]
    refused = one.send("Counter", "add")
    assert (refused.status_code, status(refused), refused.headers["retry-after"]) == (200, 429, "1")
    assert "wait" in message(refused)
    assert status(two.send("Counter", "add")) == 200  # another session
    clock.now += 0.5
    assert status(one.send("Counter", "add")) == 200
    (key,) = (k for k in provider.registry._entries if provider.registry.peek(k).count == 4)
    assert key


def test_without_a_cookie_the_address_is_counted():
    app, _, _ = make(event_rate=2, event_burst=3)
    answers = []
    for _ in range(5):
        client = TestClient(app)  # a new one each time: no cookie comes back
        answers.append(client.post("/_faststate/event/Counter/add", json={}, headers=BROWSER))
    assert [status(a) for a in answers].count(429) == 2


@pytest.mark.parametrize("option", ["max_streams_per_session", "max_streams_per_address"])
def test_streams_beyond_the_cap_are_a_429_until_another_ends(option):
    app, provider, _ = make(**{option: 2})
    with TestClient(app) as client:
        page = Page(client)
        query = {"datastar": json.dumps({"w": page.tokens})}

        def stream():
            return client.stream("GET", "/_faststate/stream", params=query, headers=BROWSER)

        with stream() as first:
            assert first.status_code == 200
            with stream() as second:
                assert second.status_code == 200
                with stream() as third:
                    assert (third.status_code, third.headers["retry-after"]) == (429, "5")
                    assert "set-cookie" not in third.headers
        manager = provider.sse_manager
        assert not (manager.connections or manager.of_session or manager.of_address or manager.of_user)
        with stream() as again:
            assert again.status_code == 200


def test_the_oldest_temporary_state_gives_way_and_others_are_a_429():
    app, provider, _ = make(max_states_per_session=3)
    client = TestClient(app)
    for _ in range(5):
        assert client.get("/note").status_code == 200
    assert len(provider.registry) == 3
    assert client.get("/boxes").status_code == 200
    assert client.get("/").status_code == 200
    assert {key.partition(":")[0] for key in provider.registry._entries} == {"session", "component"}
    assert client.get("/note").status_code == 429
    assert TestClient(app).get("/note").status_code == 200  # another session


async def test_a_registry_says_how_many_states_a_session_may_have():
    registry = StateRegistry(max_states_per_session=1)
    of = {"session_id": "s"}
    await registry.get_state(StateIdentifier(StateScope.COMPONENT, "Box", component_id="a", **of), Box)
    with pytest.raises(LimitError, match="at most 1"):
        await registry.get_state(StateIdentifier(StateScope.COMPONENT, "Box", component_id="b", **of), Box)
    await registry.get_state(StateIdentifier(StateScope.GLOBAL, "Box"), Box)  # belongs to no session
    registry.drop("component:Box:s:component:a")
    await registry.get_state(StateIdentifier(StateScope.COMPONENT, "Box", component_id="b", **of), Box)
    registry.drop("component:Box:s:component:b")
    assert registry._sessions == {}
    await registry.stop()


def test_states_of_a_session_whose_cookie_never_comes_back_go_early():
    app, provider, clock = make()
    TestClient(app).get("/")
    back = TestClient(app)
    back.get("/")
    back.get("/")
    assert len(provider.registry) == 2
    clock.now += 901
    assert provider.registry.sweep() == 1
    clock.now += 80_000
    assert provider.registry.sweep() == 0
    clock.now += 10_000
    assert provider.registry.sweep() == 1
