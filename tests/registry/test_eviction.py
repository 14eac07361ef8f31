"""Eviction when memory is full and there is no store: never of what another visitor has put into his cart."""

from __future__ import annotations

import math
import secrets

import pytest
from fasthtml.common import P
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from starlette.testclient import TestClient

from faststate import (
    ConfigurationError,
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.auth.users import current_request
from faststate.registry.entries import Entry
from faststate.registry.eviction import ABANDONED, ChangedStates, is_public
from faststate.scopes import StateIdentifier
from tests.support.client import Page, status
from tests.support.requests import request_of
from tests.support.waiting import Clock

pytestmark = pytest.mark.usefixtures("in_tmp_path")

HERE, AWAY, PUBLIC = "127.0.0.1", "10.0.0.9", "192.88.99.7"


class Cart(ReactiveState):
    items: list[str] = []

    @event
    def add(self, sku: str):
        self.items.append(sku)


class Draft(ReactiveState):
    """A state that its class never makes the same twice."""

    number: str = Field(default_factory=lambda: secrets.token_hex(8))
    text: str = ""

    @event
    def write(self):
        self.text += "."


class Paper(ReactiveState):
    """A record, of which any id in a URL makes one."""

    text: str = ""

    @event
    def write(self):
        self.text += "."


class Site:
    def __init__(self, **options):
        self.clock = Clock()
        self.provider = StateProvider(event_rate=math.inf, stream_rate=math.inf, clock=self.clock, **options)
        self.provider.register_state(Cart)
        self.provider.register_state(Draft)
        self.provider.register_state(Paper, StateConfig(scope=StateScope.RECORD, public=True))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests", pico=False)

        @rt("/")
        def index(cart: Cart):
            return P("[", ", ".join(cart.items), "]")

        @rt("/papers/{paper_id}")
        def paper(paper: Paper):
            return P(paper.signal.text)

        @rt("/draft")
        def draft(draft: Draft):
            return P(draft.number, draft.text)

    def visitor(self, address=HERE):
        return TestClient(self.app, client=(address, 5))

    def shopper(self, address=HERE, sku="tea"):
        """A visitor who has put something into the cart."""
        client = self.visitor(address)
        assert status(Page(client).send("Cart", "add", sku=sku)) < 300
        return client

    def flood(self, number, address=HERE, again=0):
        """One stranger's sessions, each with a changed state; it comes back to each so many times."""
        for _ in range(number):
            client = self.shopper(address, "x")
            for _ in range(again):
                client.get("/")

    def carts(self, clients):
        return sum("[tea]" in client.get("/").text for client in clients)


@pytest.fixture
def site():
    return Site(max_states=60)


def visited(clients):
    """Let each of them visit the site once more, and return them."""
    for client in clients:
        assert "[tea]" in client.get("/").text
    return clients


# -- what people keep --------------------------------------------------------------------------------------------------


def test_a_stranger_s_sessions_push_out_nobody_s_cart_though_all_share_an_address(site):
    shoppers = visited([site.shopper() for _ in range(10)])
    site.flood(120)
    assert site.carts(shoppers) == 10
    assert len(site.provider.registry) <= 60


@pytest.mark.parametrize("most", [25, 50, 130])
def test_however_few_states_memory_may_hold(most):
    site = Site(max_states=most)
    shoppers = visited([site.shopper() for _ in range(10)])
    site.flood(most)
    assert site.carts(shoppers) == 10


async def test_nor_where_the_server_sees_no_addresses_at_all(site):
    async def visit(session_id, sku=""):
        token = current_request.set(request_of({"session_id": session_id}, client=None))
        try:
            if sku:
                async with site.provider.modify(Cart, current_request.get()) as cart:
                    cart.items.append(sku)
            return (await site.provider.get_state(Cart, current_request.get())).items
        finally:
            current_request.reset(token)

    for number in range(10):
        await visit(f"shopper {number}", "tea")
    for number in range(150):
        await visit(f"stranger {number}", "x")
    assert [await visit(f"shopper {number}") for number in range(10)] == [["tea"]] * 10
    await site.provider.stop()


@pytest.mark.parametrize("again", [1, 3])
def test_neither_do_they_where_the_stranger_comes_back_to_each_of_them(site, again):
    shoppers = visited([site.shopper() for _ in range(10)])
    site.flood(100, again=again)
    assert site.carts(shoppers) == 10


def test_who_was_there_before_keeps_the_cart_even_if_nobody_came_back(site):
    shoppers = [site.shopper() for _ in range(10)]
    site.flood(120)
    assert site.carts(shoppers) == 10


@pytest.mark.parametrize("again", [0, 2])
def test_a_stranger_pushes_out_nothing_of_other_addresses_however_busy_and_early(site, again):
    site.flood(50, AWAY, again=again)
    shoppers = [site.shopper(f"10.1.0.{n}") for n in range(10)]
    site.flood(100, AWAY, again=again)
    shoppers += [site.shopper(f"10.1.1.{n}") for n in range(10)]
    site.flood(100, AWAY, again=again)
    assert site.carts(shoppers) == 20


def test_neither_do_records_that_a_stranger_makes_by_the_hundred():
    site = Site(max_states=60, max_states_per_address=50)
    shoppers = [site.shopper() for _ in range(30)]
    stranger = site.visitor(AWAY)
    for number in range(100):
        page = Page(stranger, f"/papers/{number}")
        assert status(page.send("Paper", "write", instance_id=str(number))) < 300
    assert site.carts(shoppers) == 30 and len(site.provider.registry) <= 60


def test_what_belongs_to_all_leaves_only_a_full_memory():
    site = Site(max_states_per_address=5)
    client = site.visitor(PUBLIC)
    for number in range(12):
        Page(client, f"/papers/{number}").send("Paper", "write", instance_id=str(number))
    site.flood(8, PUBLIC)
    keys = list(site.provider.registry.live)
    assert sum(key.startswith("record:") for key in keys) == 12 and sum(":Cart:" in key for key in keys) == 5


def test_an_address_has_so_many_changed_states_in_memory():
    site = Site(max_states_per_address=10)
    shopper = site.shopper("10.1.0.1")
    old = site.shopper(AWAY)
    visited([old])
    site.flood(50, AWAY)
    assert len(site.provider.registry) == 11 and site.carts([shopper, old]) == 2
    assert site.provider.stats().evicted == 41
    newest = site.shopper(AWAY)
    assert site.carts([newest]) == 1, "what was just changed is there"


def test_that_something_is_lost_is_logged_and_not_each_time(caplog):
    site = Site(max_states=10)
    site.flood(10)
    assert "leave memory" not in caplog.text
    site.flood(20)
    assert caplog.text.count("are lost, since there are more than max_states=10: give the provider a store") == 1
    site = Site(max_states_per_address=5)
    site.flood(10, AWAY)
    assert f"since {AWAY} has more than 5 of them" in caplog.text


def test_a_public_address_has_a_tenth_unless_it_is_said_and_a_private_one_may_be_a_proxy_s():
    site = Site(max_states=100)
    site.flood(30, PUBLIC)
    assert len(site.provider.registry) == 10
    site.flood(60, AWAY)
    assert len(site.provider.registry) == 70
    site.flood(30, "2001:4860:1::1"), site.flood(30, "2001:4860:1::2")
    assert len(site.provider.registry) == 80


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("10.0.0.1", False), ("127.0.0.1", False), ("172.17.0.1", False), ("::1", False),
        ("2001:4860::/64", True), ("fd00::/64", False), ("testclient", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, expected):
    assert is_public(address) is expected


@pytest.mark.parametrize("number", [0, -1])
def test_a_cap_that_lets_nothing_stay_is_refused(number):
    with pytest.raises(ConfigurationError, match="max_states_per_address"):
        StateProvider(max_states_per_address=number)


# -- what goes first ---------------------------------------------------------------------------------------------------


def test_untouched_states_go_before_changed_ones_even_those_that_their_class_makes_anew_each_time():
    site = Site(max_states=25)
    shoppers = [site.shopper() for _ in range(10)]
    for _ in range(30):
        site.visitor().get("/draft")
        site.visitor().get("/")
    assert len(site.provider.registry) == 25 and site.carts(shoppers) == 10


def test_where_nobody_fills_memory_within_an_hour_the_longest_unused_goes_and_newcomers_stay(site):
    """A site that is simply full: as it was before there were crowds."""
    first = [site.shopper() for _ in range(54)]
    visited(first)
    site.clock.now += ABANDONED + 1
    visited(first[30:])
    newcomers = []
    for _ in range(8):
        newcomers += [site.shopper() for _ in range(3)]
        visited(newcomers)
    assert site.carts(newcomers) == 24
    assert site.carts(first[30:]) == 24
    assert site.carts(first[:30]) < 30


def test_visitors_who_were_not_heard_of_again_are_left_behind_after_an_hour(site):
    site.flood(55)
    site.clock.now += ABANDONED + 1
    newcomers = [site.shopper() for _ in range(40)]
    assert site.carts(newcomers) == 40


async def test_what_a_page_watches_never_goes_and_does_not_come_last_when_the_tab_is_closed(site):
    shoppers = [site.shopper() for _ in range(5)]
    manager, registry = site.provider.sse_manager, site.provider.registry
    keys = [key for key in registry.live if ":Cart:" in key]
    tabs = []
    for key in keys:
        tabs.append(SSEConnection(session_id=key))
        manager.add_connection(tabs[-1], [key])
    site.flood(100, again=1)
    assert all(key in registry for key in keys)
    visited(shoppers)
    for tab in tabs:
        manager.remove_connection(tab.id)
    site.flood(100, again=1)
    assert site.carts(shoppers) == 5


def test_nothing_is_counted_that_comes_back_from_a_store():
    site = Site(max_states=20, store="memory://")
    shoppers = [site.shopper() for _ in range(10)]
    site.flood(30)
    assert site.carts(shoppers) == 10 and len(site.provider.registry.lifetimes.changed) == 0


def test_what_has_ended_is_counted_no_more():
    site = Site(max_states=200)
    site.flood(40)
    registry = site.provider.registry
    assert len(registry.lifetimes.changed) == len(registry) == 40 and registry.lifetimes.changed._crowds
    site.clock.now += 86_401
    registry.lifetimes.sweep()
    assert len(registry) == len(registry.lifetimes.changed) == 0
    assert not registry.lifetimes.changed._addresses and not registry.lifetimes.changed._crowds


# -- the books ---------------------------------------------------------------------------------------------------------


class Books:
    """Entries without states, and what is expected of them."""

    def __init__(self):
        self.clock = Clock()
        self.entries: dict[str, Entry] = {}
        self.changed = ChangedStates(self.entries.get, self.clock)
        self.inside: set[str] = set()

    def entry(self, number, address):
        identifier = StateIdentifier(StateScope.SESSION, "Cart", session_id=str(number))
        if identifier.key not in self.entries:
            entry = self.entries[identifier.key] = Entry(identifier, 60.0, Cart())
            entry.address = address
            entry.used = self.clock.now
        return self.entries[identifier.key]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "join", "again", "leave", "go", "open", "time"]),
        st.integers(0, 40),
        st.sampled_from(["a", "b", "c"]),
    ),
    max_size=150,
)


@settings(max_examples=300)
@given(ACTIONS)
def test_each_state_is_counted_once_and_who_goes_is_one_of_its_address(actions):
    books = Books()
    changed = books.changed
    for action, number, address in actions:
        entry = books.entry(number, address)
        key = entry.identifier.key
        if action == "join" and key not in books.inside:
            assert changed.join(entry) is changed._addresses[entry.address]
            books.inside.add(key)
        elif action == "again" and key in books.inside:
            entry.used = books.clock.now
            changed.seen_again(entry)
        elif action == "leave":
            if key in books.inside:
                changed.leave(entry)
            books.inside.discard(key)
        elif action == "time":
            books.clock.now += 100 * number
        elif action == "open" and entry.address in changed._addresses:
            changed.open(changed._addresses[entry.address])
        elif action == "go" and (states := changed._addresses.get(entry.address)) is not None:
            going = changed.first_to_go(states, lambda other, key=key: other != key)
            mates = {k for k in books.inside if books.entries[k].address == states.address} - {key}
            assert going in mates if mates else going is None
            if going is not None:
                old = {k for k in mates if books.clock.now - books.entries[k].used > ABANDONED}
                if not books.entries[going].visits and going not in old:
                    assert not {k for k in old if not books.entries[k].visits}, "what lies unused goes first"
        assert len(changed) == len(books.inside)
        for states in changed._addresses.values():
            assert len(states) == sum(books.entries[k].address == states.address for k in books.inside) > 0
            assert states.sessions == len(states)
        assert set(changed._crowds) == {states for states in changed._addresses.values() if states.crowd is not None}
        for states in changed._crowds:
            crowd = states.crowd
            assert set(crowd.once) == set(crowd.once_used) and not set(crowd.once) & set(crowd.again_used)
            assert set(crowd.made) == set(crowd.once) | set(crowd.again_used)
            assert all(not books.entries[k].visits for k in crowd.once)
