"""Caps: events per second, streams and states per session, streams per address, and the time a body may take."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest
from fasthtml.common import Titled
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from faststate import (
    ConfigurationError,
    LimitError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.auth.limits import Rates, TokenBuckets, network_of
from faststate.auth.tokens import ShownState
from faststate.provider.context import RequestContext
from faststate.provider.resolve import FRESH_TTL
from faststate.sse import SSEConnection
from tests.support.asgi import http_scope
from tests.support.client import BROWSER, Page, message, patched_signals, status, stream_of
from tests.support.requests import request_of
from tests.support.waiting import Clock, eventually, wait_until

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def clock():
    return Clock()


# -- token buckets -----------------------------------------------------------------------------------------------------


def test_a_burst_is_let_through_and_then_the_rate(clock):
    buckets = TokenBuckets(2, 3, clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0] and buckets.take("a") == 0.5
    clock.now += 0.25
    assert buckets.take("a") == 0.25
    clock.now += 0.25
    assert buckets.take("a") == 0 and buckets.take("a") == 0.5
    clock.now += 100
    assert [buckets.take("a") == 0 for _ in range(4)] == [True, True, True, False]


def test_to_be_refused_costs_nothing(clock):
    buckets = TokenBuckets(1, 1, clock)
    buckets.take("a")
    for _ in range(50):
        assert buckets.take("a") > 0
    clock.now += 1
    assert buckets.take("a") == 0


def test_clients_have_a_bucket_each(clock):
    buckets = TokenBuckets(1, 1, clock)
    assert buckets.take("a") == 0 and buckets.take("b") == 0 and buckets.take("a") > 0 and buckets.take("b") > 0


@given(
    st.sampled_from([0.5, 1, 3, 50]),
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2)), max_size=80),
)
def test_in_no_window_there_is_more_than_a_burst_and_what_the_rate_gives(rate, burst, takes):
    clock = Clock()
    buckets = TokenBuckets(rate, burst, clock)
    allowed = {client: [] for client in "abc"}
    for client, pause in takes:
        clock.now += pause
        wait = buckets.take(client)
        assert 0 <= wait <= 1 / rate + 1e-9
        if wait == 0:
            allowed[client].append(clock.now)
    for times in allowed.values():
        for first, start in enumerate(times):
            for last, end in enumerate(times[first:], first):
                assert last - first + 1 <= burst + rate * (end - start) + 1e-6


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), min_size=1, max_size=60))
def test_whoever_waits_as_long_as_told_is_let_through(takes):
    clock = Clock()
    buckets = TokenBuckets(2, 2, clock)
    for client, pause in takes:
        clock.now += pause
        if wait := buckets.take(client):
            clock.now += wait + 1e-6
            assert buckets.take(client) == 0


def test_a_bucket_that_is_full_again_is_forgotten(clock):
    buckets = TokenBuckets(10, 20, clock)
    for client in range(100_000):
        buckets.take(str(client))
        clock.now += 0.001
    # One token is back after 0.1 s: that many clients came since.
    assert len(buckets) <= 102
    for _ in range(20):
        buckets.take("busy")
    clock.now += 1_000
    buckets.take("another")
    assert len(buckets) == 1


def test_one_busy_client_keeps_the_others_buckets_no_longer_than_a_burst_takes(clock):
    buckets = TokenBuckets(10, 20, clock)
    for _ in range(20):
        buckets.take("deep")
    for client in range(10_000):
        buckets.take(str(client))
        clock.now += 0.001
    assert len(buckets) <= 20 / 10 / 0.001 + 1


def test_millions_of_clients_in_one_burst_take_a_bounded_number_of_buckets(clock):
    buckets = TokenBuckets(0.001, 10, clock, most=1_000)
    buckets.take("first")
    for client in range(20_000):
        buckets.take(str(client))
        clock.now += 0.001
    assert len(buckets) == 1_000 and buckets._most <= 100_000
    assert [buckets.take("19999") == 0 for _ in range(10)] == [True] * 9 + [False], "who came last is known"


def test_without_a_limit_nothing_is_counted(clock):
    buckets = TokenBuckets(math.inf, 1, clock)
    assert not any(buckets.take("a") for _ in range(100)) and len(buckets) == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 5), (-1, 5), (float("nan"), 5), (5, 0), (5, 0.5), (5, float("nan"))])
def test_what_lets_nothing_through_is_refused(rate, burst):
    with pytest.raises(ConfigurationError, match="a rate is above 0 and a burst at least 1"):
        TokenBuckets(rate, burst, monotonic)
    with pytest.raises(ConfigurationError):
        StateProvider(event_rate=rate, event_burst=burst)


# -- sessions and addresses --------------------------------------------------------------------------------------------


def rates(clock, session=(10, 2), address=(10, 5)):
    return Rates("address_event_rate", TokenBuckets(*session, clock), TokenBuckets(*address, clock), clock)


def test_all_sessions_of_an_address_share_what_it_may_do(clock, caplog):
    limits = rates(clock)
    assert [limits.take(f"s{n}", "10.0.0.1") == 0 for n in range(7)] == [True] * 5 + [False] * 2
    assert limits.take("s0", "10.0.0.2") == 0
    assert caplog.text.count("10.0.0.1 does more than address_event_rate allows") == 1
    clock.now += 0.1
    assert limits.take("s6", "10.0.0.1") == 0 and limits.take("s9", "10.0.0.1") == pytest.approx(0.1)
    clock.now += 60
    for n in range(7):
        limits.take(f"t{n}", "10.0.0.1")
    assert caplog.text.count("does more than") == 2


def test_a_session_that_is_refused_uses_up_nothing_of_its_address(clock):
    limits = rates(clock)
    assert [limits.take("busy", "10.0.0.1") == 0 for _ in range(100)].count(True) == 2
    assert [limits.take(f"s{n}", "10.0.0.1") == 0 for n in range(4)] == [True] * 3 + [False]


def test_where_the_server_sees_no_address_sessions_alone_are_counted(clock):
    limits = rates(clock)
    assert all(limits.take(f"s{n}", "") == 0 for n in range(100)) and len(limits.addresses) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("testclient", "testclient", True),
        ("no:address:at:all", "no:address:at:all", True),
        ("no:address:at:all", "another:one", False),
    ],
)
def test_an_ipv6_client_is_counted_by_its_network(one, other, same):
    assert (network_of(one) == network_of(other)) is same


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_of_a_network_of_64_bits_count_as_one(address, host):
    if address.ipv4_mapped is None:
        sibling = type(address)(int(address) >> 64 << 64 | host)
        if sibling.ipv4_mapped is None:
            assert network_of(str(address)) == network_of(str(sibling)) == network_of(address.exploded)


# -- an app ------------------------------------------------------------------------------------------------------------


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self):
        self.count += 1


class Side(ReactiveState):
    count: int = 0


class Draft(ReactiveState):
    text: str = ""

    @event
    def write(self):
        self.text += "."


class Site:
    def __init__(self, **options):
        self.provider = StateProvider(secret_key="for tests", **options)
        self.provider.register_state(Counter)
        self.provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
        self.provider.register_state(Draft, StateConfig(scope=StateScope.TEMPORARY))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests")

        @rt("/")
        def index(counter: Counter):
            return Titled("Counter", counter.signal.count)

        @rt("/draft")
        def draft(draft: Draft):
            return Titled("Draft", draft.signal.text)

        @rt("/side/{side}")
        async def side(req, side: str):
            return Titled("Side", (await self.provider.get_state(Side, req, component_id=side)).signal.count)

    def client(self, **options):
        return TestClient(self.app, **options)

    def count(self):
        return sum(e.state.count for e in self.provider.registry.live.values() if isinstance(e.state, Counter))

    def context(self, session_id="abc"):
        session = {"session_id": session_id} if session_id else {}
        return RequestContext(self.provider, request_of(session, client=("10.0.0.1", 5)))

    def keys_of(self, session_id="abc"):
        return self.provider.registry.keys_of_session(session_id)


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_beyond_the_burst_are_429_that_the_page_shows_and_do_not_run(clock):
    site = Site(event_rate=0.5, event_burst=3, clock=clock)
    page = Page(site.client())
    assert [status(page.send("Counter", "add")) for _ in range(4)] == [200, 200, 200, 429]
    response = page.send("Counter", "add")
    assert response.status_code == 200 and response.headers["retry-after"] == "2"
    assert response.headers["cache-control"] == "no-store"
    assert patched_signals(response.text) == {"_fs": {"err": message(response), "status": 429}} and message(response)
    assert site.count() == 3 and site.provider.stats().refused == 2
    clock.now += 2
    assert status(page.send("Counter", "add")) == 200


def test_each_session_has_its_own_share_whatever_its_address(clock):
    site = Site(event_rate=1, event_burst=2, clock=clock)
    one, other = Page(site.client()), Page(site.client())
    assert [status(one.send("Counter", "add")) for _ in range(3)] == [200, 200, 429]
    assert [status(other.send("Counter", "add")) for _ in range(3)] == [200, 200, 429]
    again = Page(one.client)  # another tab of the session
    assert status(again.send("Counter", "add")) == 429


def test_sessions_are_free_and_an_address_is_not(clock):
    site = Site(event_rate=1, event_burst=5, address_event_rate=2, address_event_burst=4, clock=clock)

    def send(address):
        return Page(site.client(client=(address, 5))).send("Counter", "add")

    answers = [send("10.0.0.1") for _ in range(6)]
    assert [status(answer) for answer in answers] == [200] * 4 + [429] * 2
    assert answers[-1].headers["retry-after"] == "1" and message(answers[-1])
    assert status(send("10.0.0.2")) == 200 and site.count() == 5
    assert [status(send("2001:db8::1")) for _ in range(4)] + [status(send("2001:db8::2"))] == [200] * 4 + [429]
    clock.now += 1
    assert status(send("10.0.0.1")) == 200


def test_an_address_may_send_ten_times_what_a_session_may_unless_it_is_said(clock):
    usual = StateProvider().throttle.event_rates.addresses
    said = StateProvider(address_event_rate=7, address_event_burst=8)
    assert (usual.rate, usual.burst) == (500, 2_000)
    assert (said.throttle.event_rates.addresses.rate, said.throttle.event_rates.addresses.burst) == (7, 8)
    assert StateProvider(event_rate=math.inf).throttle.event_rates.addresses.rate == math.inf
    streams = StateProvider().throttle.stream_rates
    assert (streams.sessions.rate, streams.sessions.burst) == (10, 128)
    assert (streams.addresses.rate, streams.addresses.burst) == (100, 2_000)


@pytest.mark.parametrize("name", ["address_event", "stream", "address_stream"])
@pytest.mark.parametrize(("rate", "burst"), [(0, 5), (-1, 5), (float("nan"), 5), (5, 0)])
def test_every_rate_is_checked_when_the_provider_is_made(name, rate, burst):
    with pytest.raises(ConfigurationError, match="a rate is above 0"):
        StateProvider(**{f"{name}_rate": rate, f"{name}_burst": burst})


def test_without_a_cookie_the_address_is_what_counts(clock):
    site = Site(event_rate=1, event_burst=2, clock=clock)
    page = Page(site.client())

    def send(address):
        sent = {"content": b"{}", "headers": BROWSER | {"content-type": "application/json"}}
        return status(site.client(client=(address, 5)).post("/_faststate/event/Counter/add", **sent))

    assert [send("10.0.0.1") for _ in range(3)][-1] == 429 and 429 not in [send("10.0.0.2") for _ in range(2)]
    assert status(page.send("Counter", "add")) == 200  # who has a session is not concerned


def test_an_event_beyond_the_cap_is_refused_before_its_body_is_read(clock):
    site = Site(event_rate=1, event_burst=1, clock=clock, max_payload=10)
    client = Page(site.client()).client
    headers = BROWSER | {"content-type": "application/json"}
    answers = [client.post("/_faststate/event/Counter/add", content=b"x" * 99, headers=headers) for _ in range(2)]
    assert [status(answer) for answer in answers] == [413, 429]


def test_forged_events_of_other_sites_take_nothing_of_the_share(clock):
    site = Site(event_rate=1, event_burst=1, clock=clock)
    page = Page(site.client())
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    ):
        assert page.send("Counter", "add", headers=headers).status_code == 403
    assert status(page.send("Counter", "add")) == 200


# -- streams -----------------------------------------------------------------------------------------------------------


@contextmanager
def stream(page):
    with stream_of(page) as response:
        if response.status_code == 200:
            lines = response.iter_lines()  # kept: to let go of it would close the stream
            next(lines)
        yield response


def test_a_session_has_so_many_streams_and_one_that_closes_makes_room():
    site = Site(max_streams_per_session=2)
    with site.client() as client, ExitStack() as others:
        page = Page(client)
        first = ExitStack()
        assert first.enter_context(stream(page)).status_code == 200
        assert others.enter_context(stream(page)).status_code == 200
        with stream(page) as refused:
            assert refused.status_code == 429 and refused.headers["retry-after"]
            assert refused.headers["cache-control"] == "no-store" and "set-cookie" not in refused.headers
        client.cookies.clear()
        another = Page(client)
        with stream(another) as other:
            assert other.status_code == 200  # another session at the same address
        first.close()
        wait_until(lambda: site.provider.stats().connections == 1)
        client.cookies.clear()
        client.cookies.update(page.response.cookies)
        assert others.enter_context(stream(page)).status_code == 200


def test_an_address_has_so_many_streams_and_that_is_logged(caplog):
    site = Site(max_streams_per_address=2)
    with site.client(client=("10.0.0.1", 5)) as client, ExitStack() as others:
        first = ExitStack()
        assert first.enter_context(stream(Page(client))).status_code == 200
        client.cookies.clear()
        assert others.enter_context(stream(Page(client))).status_code == 200
        client.cookies.clear()
        page = Page(client)
        with stream(page) as refused:
            assert refused.status_code == 429
        assert "10.0.0.1 has 2 streams" in caplog.text and "max_streams_per_address" in caplog.text
        first.close()
        wait_until(lambda: site.provider.stats().connections == 1)
        assert others.enter_context(stream(page)).status_code == 200


def test_a_session_opens_streams_at_a_rate_and_a_refused_one_may_come_again(clock):
    site = Site(stream_rate=1, stream_burst=2, clock=clock)
    with site.client() as client:
        page = Page(client)
        for _ in range(2):
            with stream(page) as opened:
                assert opened.status_code == 200
        for _ in range(3):
            with stream(page) as refused:
                assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
                assert refused.headers["cache-control"] == "no-store" and "set-cookie" not in refused.headers
        assert site.provider.stats().refused == 3
        clock.now += 1
        with stream(page) as opened:
            assert opened.status_code == 200


def test_an_address_opens_streams_at_a_rate_whatever_its_sessions(clock):
    site = Site(stream_rate=1, address_stream_rate=1, address_stream_burst=3, clock=clock)

    def opened(client):
        client.cookies.clear()
        with stream(Page(client)) as response:
            return response.status_code

    with site.client(client=("10.0.0.1", 5)) as client:
        assert [opened(client) for _ in range(4)] == [200] * 3 + [429]
        clock.now += 1
        assert opened(client) == 200 and opened(client) == 429
        assert opened(site.client(client=("10.0.0.2", 5))) == 200


def test_what_is_no_stream_of_a_page_takes_nothing_of_the_share(clock):
    site = Site(stream_rate=1, stream_burst=1, clock=clock)
    with site.client() as client:
        page = Page(client)
        for headers in ({}, BROWSER | {"sec-fetch-site": "cross-site"}):
            assert client.post("/_faststate/stream", json={}, headers=headers).status_code == 403
        assert client.head("/_faststate/stream", headers=BROWSER).status_code == 405
        with stream(page) as opened:
            assert opened.status_code == 200


def test_after_a_deploy_a_thousand_tabs_of_one_address_come_back_at_once(clock):
    rates = StateProvider(clock=clock).throttle.stream_rates
    tabs = [f"session-{n % 250}" for n in range(1_000)]
    assert not any(rates.take(session_id, "192.0.2.1") for session_id in tabs + tabs)


async def test_streams_that_are_opened_at_the_same_time_count_each_other():
    gate = asyncio.Event()

    async def authorize(user, state, action):
        await gate.wait()
        return True

    class Slow(ReactiveState):
        count: int = 0

    site = Site(max_streams_per_session=2)
    site.provider.register_state(Slow, StateConfig(scope=StateScope.GLOBAL, authorize=authorize))
    contexts = [site.context() for _ in range(6)]
    token = site.provider.tokens.signer.sign((await contexts[0].identity()).binding, [ShownState("Slow", None, ())])
    opening = [
        asyncio.ensure_future(context.provider.page_streams.open(context, [token], None)) for context in contexts
    ]
    await eventually(lambda: "global:Slow" in site.provider.registry, every=0)  # until they are at the rule
    await asyncio.sleep(0)
    gate.set()
    opened = await asyncio.gather(*opening, return_exceptions=True)
    assert sorted(type(found).__name__ for found in opened) == ["LimitError"] * 4 + ["SSEConnection"] * 2
    for connection in opened:
        if isinstance(connection, SSEConnection):
            site.provider.sse_manager.remove_connection(connection.id)
    assert isinstance(await site.provider.page_streams.open(site.context(), [token], None), SSEConnection)
    await site.provider.stop()


# -- states ------------------------------------------------------------------------------------------------------------


async def test_beyond_the_cap_the_oldest_unwatched_temporary_state_gives_way():
    site = Site(max_states_per_session=3)
    provider, keys = site.provider, []
    for _ in range(3):
        context = site.context()
        await provider.get_state(Draft, context.connection)
        keys += [key for key in site.keys_of() if key not in keys]
    first = provider.registry.find(keys[0]).identifier
    bound_to = (await site.context().identity()).binding
    token = provider.tokens.signer.sign(bound_to, [ShownState("Draft", first.instance_id, ())])
    watching = await site.provider.page_streams.open(site.context(), [token], None)
    await provider.get_state(Draft, site.context().connection)
    assert keys[0] in provider.registry and keys[1] not in provider.registry and keys[2] in provider.registry
    await provider.get_state(Side, site.context().connection, component_id="a")
    assert keys[2] not in provider.registry and len(site.keys_of()) == 3
    provider.sse_manager.remove_connection(watching.id)
    await provider.get_state(Side, site.context().connection, component_id="b")
    assert keys[0] not in provider.registry and len(site.keys_of()) == 3
    await provider.stop()


async def test_where_nothing_can_give_way_a_new_state_is_refused_and_the_known_ones_stay():
    site = Site(max_states_per_session=2)
    for side in "ab":
        await site.provider.get_state(Side, site.context().connection, component_id=side)
    for _ in range(3):
        with pytest.raises(LimitError, match="at most 2 states") as caught:
            await site.provider.get_state(Side, site.context().connection, component_id=secrets.token_hex(4))
        assert caught.value.status == 429
    with pytest.raises(LimitError):
        await site.provider.get_state(Counter, site.context().connection)
    assert (await site.provider.get_state(Side, site.context().connection, component_id="a")).count == 0
    await site.provider.get_state(Side, site.context("another").connection, component_id="a")
    assert len(site.keys_of()) == 2 and len(site.keys_of("another")) == 1
    await site.provider.stop()


def test_a_page_with_one_state_too_many_is_429():
    site = Site(max_states_per_session=1)
    client = site.client()
    assert client.get("/side/a").status_code == 200
    response = client.get("/side/b")
    assert response.status_code == 429 and "at most 1 states" in response.text
    assert client.get("/side/a").status_code == 200 and len(site.provider.registry) == 1


@pytest.mark.parametrize("path", ["/", "/side/a", "/draft"])
def test_what_was_made_for_who_never_sends_a_cookie_goes_after_a_quarter_of_an_hour(path, clock):
    site = Site(clock=clock)
    for _ in range(50):
        assert site.client().get(path).status_code == 200
    assert FRESH_TTL == 900 and len(site.provider.registry) == 50
    clock.now += FRESH_TTL - 1
    assert site.provider.registry.lifetimes.sweep() == 0
    clock.now += 1
    assert site.provider.registry.lifetimes.sweep() == 50 and len(site.provider.registry) == 0


@pytest.mark.parametrize("path", ["/", "/side/a"])
def test_what_was_made_for_who_came_back_stays_as_long_as_its_scope_says(path, clock):
    site = Site(clock=clock)
    client = site.client()
    client.get(path)
    clock.now += FRESH_TTL - 1
    client.get(path)
    clock.now += 86_399
    assert site.provider.registry.lifetimes.sweep() == 0
    clock.now += 1
    assert site.provider.registry.lifetimes.sweep() == 1


def test_an_event_shows_as_well_that_the_cookie_came_back(clock):
    site = Site(clock=clock)
    page = Page(site.client())
    assert status(page.send("Counter", "add")) == 200
    clock.now += 86_399
    assert site.provider.registry.lifetimes.sweep() == 0 and site.count() == 1


@pytest.mark.parametrize(
    ("config", "later", "gone"),
    [(StateConfig(ttl=60), 60, 1), (StateConfig(scope=StateScope.GLOBAL), 10 * 86_400, 0)],
    ids=["a shorter time stays as it is", "states of no session stay"],
)
def test_a_quarter_of_an_hour_is_neither_longer_than_a_class_wants_nor_for_states_of_no_session(
    config, later, gone, clock
):
    class Own(ReactiveState):
        count: int = 0

    site = Site(clock=clock)
    site.provider.register_state(Own, config)

    @site.app.get("/own")
    def page(own: Own):
        return Titled("Own", own.signal.count)

    site.client().get("/own")
    clock.now += later
    assert site.provider.registry.lifetimes.sweep() == gone


# -- slow bodies -------------------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_arrive_in_time_is_408_and_the_connection_is_let_go():
    site = Site(body_timeout=0.05)
    headers = {**BROWSER, "content-type": "application/json", "host": "testserver"}
    scope = http_scope("POST", "/_faststate/event/Counter/add", headers)
    parts, answer = iter([b'{"a"', b":"]), []

    async def receive():
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        await asyncio.Event().wait()

    async def send(message):
        answer.append(message)

    async with asyncio.timeout(5):
        await site.app(scope, receive, send)
    assert answer[0]["status"] == 408 and (b"connection", b"close") in answer[0]["headers"]
    assert len(site.provider.registry) == 0
    await site.provider.stop()
