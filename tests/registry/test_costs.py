"""The cost of background work and counters grows with what has changed or expired, not with how much there is.

Operations of the interpreter are counted, not time: a busy machine changes nothing about them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest

from faststate import ReactiveState, SSEConnection, StateConfig, StateProvider, StateScope, event
from faststate.scopes import StateIdentifier
from faststate.stores.memory import MemoryStore
from tests.support.states import set_fields
from tests.support.waiting import Clock

FEW, MANY = 10, 10_000


class Board(ReactiveState):
    count: int = 0

    @event
    async def add(self):
        self.count += 1


class Writer:
    """A writer for a reader who keeps up."""

    ready, quick, lost = True, None, False

    def write(self, chunk) -> bool:
        return True

    def wake(self) -> None:
        pass

    def hurry(self, seconds) -> None:
        pass

    def leave(self) -> None:
        pass


def operations(call: Callable[[], object]) -> int:
    """How many operations of the interpreter a call takes."""
    count = 0

    def trace(frame, kind, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        count += kind == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # what others have left behind would be finalized in the middle, and counted
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


async def crowd(number: int, store=None, ttl: float = 3_600.0):
    """A provider with so many states, each watched by a page whose stream is being written."""
    clock = Clock()
    provider = StateProvider(store=store, clock=clock, max_streams_per_address=10**9)
    provider.register_state(Board, StateConfig(scope=StateScope.RECORD, ttl=ttl))
    for record in range(number):
        identifier = StateIdentifier(StateScope.RECORD, "Board", record_id=str(record))
        await provider.registry.entry(identifier, Board, ttl=ttl)
        connection = SSEConnection(session_id=f"s{record}", address="192.0.2.1")
        provider.sse_manager.add_connection(connection, [identifier.key])
        provider.sse_manager.attach(connection, Writer())
    return provider, clock


def leave(provider, number=None):
    """Let this many pages go, or all of them."""
    for connection in list(provider.sse_manager.connections)[:number]:
        provider.sse_manager.remove_connection(connection)


async def costs(work, **options) -> list[int]:
    """Measure some work with few and with many connections."""
    found = []
    for number in (FEW, MANY):
        provider, _ = await crowd(number, **options)
        work(provider)  # warm
        found.append(operations(lambda provider=provider: work(provider)))
        leave(provider)
        await provider.stop()
    return found


@pytest.mark.parametrize(
    "work",
    [
        lambda provider: provider.stats(),
        lambda provider: provider.registry.lifetimes.sweep(),
        lambda provider: provider.registry.followers.swept(),
        lambda provider: provider.sse_manager.cleanup_stale_connections(),
    ],
    ids=["stats", "sweep", "swept", "stale"],
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "stored"])
async def test_it_costs_the_same_however_many_watch(work, stored):
    few, many = await costs(work, store=MemoryStore() if stored else None)
    assert few == many


async def test_a_sweep_costs_what_has_expired():
    found = []
    for number in (FEW, MANY):
        provider, clock = await crowd(number)
        for record in range(5):
            identifier = StateIdentifier(StateScope.RECORD, "Board", record_id=f"idle {record}")
            await provider.registry.entry(identifier, Board, ttl=10)
        clock.now += 11
        dropped = []
        found.append(operations(lambda sweep=provider.registry.lifetimes.sweep, into=dropped: into.append(sweep())))
        assert dropped == [5] and len(provider.registry) == number
        leave(provider)
        await provider.stop()
    assert found[0] == found[1]


async def test_a_watched_state_never_ends_and_its_time_begins_when_the_last_page_has_gone():
    provider, clock = await crowd(3)
    for _ in range(5):
        clock.now += 3_601
        assert provider.registry.lifetimes.sweep() == 0
    leave(provider)
    clock.now += 3_599
    assert provider.registry.lifetimes.sweep() == 0
    clock.now += 1
    assert provider.registry.lifetimes.sweep() == 3 and len(provider.registry) == 0
    await provider.stop()


class Told(MemoryStore):
    """A store that notes the keys it is told of."""

    def __init__(self):
        super().__init__()
        self.touched = []

    async def touch(self, ttls):
        self.touched.extend(ttls)
        await super().touch(ttls)


async def test_the_store_is_told_of_what_is_watched_as_often_as_it_has_to_be():
    store = Told()
    touched = store.touched
    provider, clock = await crowd(3, store=store)
    for record in range(3):
        await set_fields(provider.modify(Board, record_id=str(record)), count=1)
    for _ in range(3_600 // 15):
        clock.now += 15
        provider.registry.lifetimes.sweep()
        await provider.registry.usage.tell_store()
    assert 3 * 18 <= len(touched) <= 3 * 21, "twenty times in its idle time"
    leave(provider, 2)
    touched.clear()
    clock.now += 400
    provider.registry.lifetimes.sweep()
    await provider.registry.usage.tell_store()
    clock.now += 400
    provider.registry.lifetimes.sweep()
    touched.clear()
    await provider.registry.usage.tell_store()
    assert touched == ["record:Board:2"], "who is not watched any more is not told of"
    leave(provider)
    assert not provider.registry.usage._watched or not any(provider.registry.usage._watched.values())
    await provider.stop()


async def test_a_watched_state_whose_idle_time_becomes_shorter_is_told_of_as_often_as_that_needs():
    store = Told()
    touched = store.touched
    provider, clock = await crowd(1, store=store, ttl=86_400)
    await set_fields(provider.modify(Board, record_id="0"), count=1)
    entry = provider.registry.find("record:Board:0")
    provider.registry.lifetimes.keep_for(entry, 60)
    await provider.registry.usage.tell_store()
    touched.clear()
    for _ in range(8):
        clock.now += 15
        provider.registry.lifetimes.sweep()
        await provider.registry.usage.tell_store()
    assert len(touched) >= 3
    leave(provider)
    await provider.stop()


async def test_the_counters_are_what_counting_gives():
    provider, _ = await crowd(20)
    manager = provider.sse_manager
    both = SSEConnection(session_id="both")
    manager.add_connection(both, ["record:Board:1", "record:Board:2", "record:Board:2"])

    def counted():
        return sum(len(topic.connections) for topic in manager.fanout.topics.values())

    assert manager.fanout.subscriptions == counted() == 22
    manager.unfollow(both, "record:Board:1")
    assert manager.fanout.subscriptions == counted() == 21
    both.notify("record:Board:2", None)
    both.notify("record:Board:2", None)
    assert manager.fanout.coalesced == 1
    manager.silence(both)
    assert manager.fanout.subscriptions == counted() == 20
    for connection in list(manager.connections):
        manager.remove_connection(connection)
        manager.remove_connection(connection)
    assert manager.fanout.subscriptions == counted() == 0 and provider.stats().coalesced == 1
    await provider.stop()
