"""The registry: one state per key, made once, kept while it is used, dropped when it is idle."""

import asyncio
import math

import pytest
from pydantic import ValidationError

from faststate import (
    ConfigurationError,
    ReactiveState,
    StateConfig,
    StateIdentifier,
    StateNotFoundError,
    StateRegistry,
    StateScope,
)
from faststate.registry import lifetimes as lifetimes_module
from faststate.registry.entries import DEFAULT_TTL
from faststate.registry.protocols import Followers
from faststate.registry.transaction import Transaction
from tests.support.states import provider_of, set_fields
from tests.support.waiting import Clock, eventually


class Cart(ReactiveState):
    items: int = 0
    owner: str = ""


class Other(ReactiveState):
    items: int = 0


class Watching(Followers):
    """Hooks with a set of watched keys, and the commits they were told of."""

    def __init__(self):
        self.watched = set()
        self.told = []

    def is_watched(self, key):
        return key in self.watched

    def committed(self, commit):
        self.told.append(commit)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hooks():
    return Watching()


@pytest.fixture
async def registry(clock, hooks):
    made = StateRegistry(hooks, clock=clock)
    yield made
    await made.stop()


def cart_of(session_id="s"):
    return StateIdentifier(StateScope.SESSION, "Cart", session_id=session_id)


async def add_items(registry, entry, number):
    """Add to the items of a cart, in a transaction of its own."""
    transaction = Transaction(registry, [entry])
    await transaction.begin()
    transaction.copy(entry).items += number
    await transaction.commit(transaction.prepare())
    transaction.end()


# -- creation ----------------------------------------------------------------------------------------------------------


async def test_states_of_one_idle_time_share_what_says_so(registry):
    for session_id in ("s", "t"):
        await registry.get_state(cart_of(session_id), Cart)
    one, other = (registry.find(cart_of(session_id).key) for session_id in ("s", "t"))
    assert one.order == (DEFAULT_TTL[StateScope.SESSION], True) and one.order is other.order


async def test_a_thousand_first_readers_make_one_state_with_one_call(registry):
    calls, started, go = [], asyncio.Event(), asyncio.Event()

    async def create(identifier):
        calls.append(identifier)
        started.set()
        await go.wait()
        return {"items": 5}

    readers = [asyncio.create_task(registry.entry(cart_of(), Cart, create=create)) for _ in range(1000)]
    await started.wait()
    go.set()
    entries = await asyncio.gather(*readers)
    assert calls == [cart_of()]
    assert {id(entry) for entry in entries} == {id(entries[0])}
    assert entries[0].state.items == 5
    assert len(registry) == 1


async def test_a_thousand_first_readers_without_create_make_one_state(registry):
    states = await asyncio.gather(*(registry.get_state(cart_of(), Cart, items=i) for i in range(1000)))
    assert {id(state) for state in states} == {id(states[0])}


async def test_a_create_that_fails_fails_all_who_wait_and_is_tried_again_later(registry):
    calls = []

    async def create(identifier):
        calls.append(identifier)
        await asyncio.sleep(0)
        if len(calls) == 1:
            raise OSError("the database is away")
        return {"items": 1}

    async def read():
        return await registry.entry(cart_of(), Cart, create=create)

    results = await asyncio.gather(*(read() for _ in range(100)), return_exceptions=True)
    assert {type(result) for result in results} == {OSError}
    assert (len(calls), len(registry)) == (1, 0)
    assert (await read()).state.items == 1


async def test_a_create_that_says_none_means_there_is_no_such_state(registry):
    with pytest.raises(StateNotFoundError, match="Cart"):
        await registry.entry(cart_of(), Cart, create=lambda identifier: None)
    assert len(registry) == 0


async def test_a_reader_that_goes_away_does_not_take_the_state_from_the_others(registry):
    started, go = asyncio.Event(), asyncio.Event()

    async def create(identifier):
        started.set()
        await go.wait()
        return {"items": 5}

    first, second = (asyncio.create_task(registry.entry(cart_of(), Cart, create=create)) for _ in range(2))
    await started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert (await second).state.items == 5


async def test_arguments_are_the_first_values_and_nothing_later(registry):
    made = await registry.get_state(cart_of(), Cart, items=3)
    assert made.items == 3
    assert await registry.get_state(cart_of(), Cart, items=4) is made


async def test_arguments_win_over_what_create_gives(registry):
    entry = await registry.entry(
        cart_of(), Cart, create=lambda i: {"items": 1, "owner": i.session_id}, initial={"items": 2}
    )
    assert (entry.state.items, entry.state.owner) == (2, "s")


@pytest.mark.parametrize("arguments", [{"nothing": 1}, {"items": "many"}])
async def test_arguments_that_do_not_fit_are_an_error_and_make_nothing(registry, arguments):
    with pytest.raises(ValidationError, match=next(iter(arguments))):
        await registry.get_state(cart_of(), Cart, **arguments)
    assert len(registry) == 0


async def test_a_key_that_holds_another_class_is_an_error_that_names_both(registry):
    await registry.get_state(cart_of(), Cart)
    with pytest.raises(ConfigurationError, match=r"session:Cart:s is a Cart, not a Other"):
        await registry.get_state(cart_of(), Other)


async def test_different_keys_are_different_states(registry):
    one, two = await registry.get_state(cart_of("a"), Cart), await registry.get_state(cart_of("b"), Cart)
    assert one is not two
    assert registry.peek(cart_of("a").key) is one
    assert registry.peek(cart_of("c").key) is None
    assert cart_of("b").key in registry and cart_of("c").key not in registry


# -- idle time ---------------------------------------------------------------------------------------------------------


async def test_a_state_is_dropped_when_it_was_idle_for_its_ttl_and_not_before(registry, clock):
    await registry.entry(cart_of(), Cart, ttl=60)
    clock.now += 59.9
    assert registry.lifetimes.sweep() == 0
    clock.now += 0.1
    assert registry.lifetimes.sweep() == 1
    assert (len(registry), registry.lifetimes.expired, registry.lifetimes.sweep()) == (0, 1, 0)


async def test_using_a_state_begins_its_idle_time_anew_and_only_its_own(registry, clock):
    await registry.entry(cart_of("used"), Cart, ttl=60)
    await registry.entry(cart_of("left"), Cart, ttl=60)
    clock.now += 50
    await registry.get_state(cart_of("used"), Cart)
    registry.peek(cart_of("left").key)  # a look is no use
    clock.now += 50
    assert registry.lifetimes.sweep() == 1
    assert cart_of("used").key in registry
    clock.now += 10
    assert registry.lifetimes.sweep() == 1


async def test_states_of_many_ttls_each_keep_their_own(registry, clock):
    for seconds in (10, 30, 20, math.inf):
        await registry.entry(cart_of(f"t{seconds}"), Cart, ttl=seconds)
    for dropped_at in (10, 20, 30):
        clock.now = 1000 + dropped_at
        assert registry.lifetimes.sweep() == 1
        assert cart_of(f"t{dropped_at}").key not in registry
    clock.now = 1e12
    assert (registry.lifetimes.sweep(), len(registry)) == (0, 1)


@pytest.mark.parametrize("scope", StateScope)
async def test_without_a_ttl_it_is_that_of_the_scope(registry, clock, scope):
    identifier = StateIdentifier(scope, "Cart", user_id="u", session_id="s", component_id="c", record_id="r")
    await registry.entry(identifier, Cart)
    clock.now += (DEFAULT_TTL[scope] or 1e9) - 1
    assert registry.lifetimes.sweep() == 0
    clock.now += 2
    assert registry.lifetimes.sweep() == (DEFAULT_TTL[scope] is not None)


async def test_a_watched_state_is_spared_and_its_idle_time_begins_when_nobody_looks(registry, clock, hooks):
    await registry.entry(cart_of(), Cart, ttl=60)
    hooks.watched.add(cart_of().key)
    for _ in range(3):
        clock.now += 1000
        assert registry.lifetimes.sweep() == 0
    hooks.watched.clear()
    clock.now += 59
    assert registry.lifetimes.sweep() == 0
    clock.now += 1
    assert registry.lifetimes.sweep() == 1


async def test_a_watched_state_does_not_keep_the_others(registry, clock, hooks):
    hooks.watched.add(cart_of("a").key)
    for session in "abc":
        await registry.entry(cart_of(session), Cart, ttl=60)
    clock.now += 60
    assert registry.lifetimes.sweep() == 2
    assert len(registry) == 1


async def test_a_state_in_a_transaction_is_neither_swept_nor_evicted(registry, clock):
    entry = await registry.entry(cart_of(), Cart, ttl=60)
    transaction = Transaction(registry, [entry])
    await transaction.begin()
    clock.now += 1000
    assert (registry.lifetimes.sweep(), registry.lifetimes.evict(cart_of().key)) == (0, False)
    transaction.end()
    clock.now += 60
    assert registry.lifetimes.sweep() == 1


async def test_evicting_drops_a_state_once(registry):
    await registry.entry(cart_of(), Cart, ttl=60)
    assert [registry.lifetimes.evict(cart_of().key) for _ in range(2)] == [True, False]
    assert (len(registry), registry.lifetimes.sweep()) == (0, 0)
    assert (await registry.get_state(cart_of(), Cart)).items == 0


async def test_a_change_to_a_state_that_was_evicted_meanwhile_is_not_lost(registry):
    entry = await registry.entry(cart_of(), Cart)
    registry.lifetimes.evict(cart_of().key)
    await add_items(registry, entry, 7)
    assert registry.peek(cart_of().key).items == 7


async def test_a_change_goes_to_the_state_that_took_the_place_of_an_evicted_one(registry):
    old = await registry.entry(cart_of(), Cart, initial={"items": 1})
    registry.lifetimes.evict(cart_of().key)
    await registry.entry(cart_of(), Cart, initial={"items": 100})
    await add_items(registry, old, 1)
    assert registry.peek(cart_of().key).items == 101


async def test_a_swept_state_begins_again_with_its_defaults_and_a_later_commit_number(registry, clock):
    first = await registry.get_state(cart_of(), Cart, items=9)
    clock.now += DEFAULT_TTL[StateScope.SESSION]
    registry.lifetimes.sweep()
    again = await registry.get_state(cart_of(), Cart)
    assert again.items == 0
    assert again._committed.commit > first._committed.commit


# -- the sweeper -------------------------------------------------------------------------------------------------------


def sweepers():
    return [task for task in asyncio.all_tasks() if task.get_name() == "faststate-sweeper"]


async def test_one_sweeper_serves_all_states_and_stop_ends_it(registry):
    for session in "abc":
        await registry.get_state(cart_of(session), Cart)
    (sweeper,) = sweepers()
    await registry.stop()
    assert sweeper.done()
    assert len(registry) == 3


def test_the_sweeper_starts_again_on_the_next_loop():
    registry = StateRegistry()

    async def use(session):
        await registry.get_state(cart_of(session), Cart)
        return len(sweepers())

    assert [asyncio.run(use(session)) for session in "abc"] == [1, 1, 1]


def test_a_script_needs_no_sweeper():
    registry = StateRegistry()
    making = registry.get_state(cart_of(), Cart)
    with pytest.raises(StopIteration) as done:
        making.send(None)  # there is no loop here at all
    assert isinstance(done.value.value, Cart)


async def test_the_sweeper_survives_a_sweep_that_fails(clock, monkeypatch, caplog):
    swept = asyncio.Event()
    monkeypatch.setattr(lifetimes_module, "SWEEP_INTERVAL", 0)

    class Failing(Followers):
        calls = 0

        def is_watched(self, key):
            self.calls += 1
            if self.calls == 1:
                raise OSError("once")
            swept.set()
            return False

    registry = StateRegistry(Failing(), clock=clock)
    await registry.entry(cart_of(), Cart, ttl=1)
    clock.now += 1
    async with asyncio.timeout(5):
        await swept.wait()
    assert "the sweep of idle states failed" in caplog.text
    await registry.stop()
    assert len(registry) == 0


# -- commits -----------------------------------------------------------------------------------------------------------


async def test_each_commit_is_numbered_and_told_once(registry, hooks):
    entry = await registry.entry(cart_of(), Cart)
    before = registry.commits
    for _ in range(2):
        await add_items(registry, entry, 1)
    assert [(c.number - before, c.changed, c.delta, c.old.items, c.new.items) for c in hooks.told] == [
        (1, ["items"], {"items": 1}, 0, 1),
        (2, ["items"], {"items": 2}, 1, 2),
    ]
    assert [c.new._committed.version for c in hooks.told] == [2, 3]


async def test_two_registries_have_names_of_their_own():
    assert StateRegistry().epoch != StateRegistry().epoch


async def test_a_provider_hands_its_clock_and_ttls_to_the_registry(clock):
    provider = provider_of(Cart, StateConfig(ttl=5), clock=clock)
    await set_fields(provider.modify(Cart, session_id="s"), items=1)
    clock.now += 4
    assert provider.registry.lifetimes.sweep() == 0
    clock.now += 1
    assert (provider.registry.lifetimes.sweep(), provider.stats().expired, provider.stats().states) == (1, 1, 0)
    await provider.stop()


async def test_a_lock_goes_to_those_who_wait_in_the_order_of_coming_and_not_to_who_has_left(registry):
    entry, locks = await registry.entry(cart_of(), Cart), registry.locks
    assert locks.take(entry, "first") and not locks.take(entry, "late")
    waiting = {name: asyncio.create_task(locks.acquire(entry, name)) for name in ("second", "third", "fourth")}
    await asyncio.sleep(0)
    assert entry.waiters == 3
    waiting["second"].cancel()
    assert entry.waiters == 2
    locks.release(entry)
    await waiting["third"]
    assert entry.owner == "third" and entry.waiters == 1 and not locks.take(entry, "late")
    locks.release(entry)
    await waiting["fourth"]
    locks.release(entry)
    assert entry.owner is None and not entry.waiting and not locks.waiting


async def test_who_is_given_a_lock_and_cancelled_in_the_same_moment_gives_it_on(registry):
    entry, locks = await registry.entry(cart_of(), Cart), registry.locks
    locks.take(entry, "first")
    second, third = (asyncio.create_task(locks.acquire(entry, name)) for name in ("second", "third"))
    await asyncio.sleep(0)
    locks.release(entry)
    second.cancel()
    await asyncio.wait([second])
    await third
    assert second.cancelled() and entry.owner == "third" and not locks.waiting


async def test_a_lock_is_given_to_who_waits_on_another_loop(registry):
    entry, locks = await registry.entry(cart_of(), Cart), registry.locks
    locks.take(entry, "here")

    there = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(locks.acquire(entry, "there"))))
    await eventually(lambda: entry.waiters)
    locks.release(entry)
    await there
    assert entry.owner == "there"


async def test_what_is_in_memory_alone_is_committed_without_a_wait(registry):
    entry = await registry.entry(cart_of(), Cart)
    transaction = Transaction(registry, [entry])
    await transaction.begin()
    transaction.copy(entry).items = 7
    assert registry.committer.commit(transaction.prepare()) is None
    assert entry.state.items == 7
    transaction.end()
