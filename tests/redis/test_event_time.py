"""The time of an event is bounded among processes, too: what was stopped keeps no lock from another one."""

import asyncio
import contextlib
import threading

import pytest

from faststate import EventTimeoutError, ReactiveState, StateConfig, StateProvider, StateScope, event
from faststate.scheduling.threads import EVENT_THREADS, places_here
from tests.support.waiting import eventually

go_on = threading.Event()


class Ledger(ReactiveState):
    n: int = 0

    @event
    def add(self) -> None:
        self.n += 1

    @event(timeout=0.05)
    def block(self) -> None:
        self.n += 100
        go_on.wait(30)

    @event(timeout=0.05)
    async def wait(self) -> None:
        self.n += 100
        await asyncio.Event().wait()

    @event(timeout=0.05)
    async def stubborn(self) -> None:
        self.n += 100
        while not go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    @event(timeout=0.05)
    async def steps(self) -> None:
        self.n += 1
        yield
        self.n += 100
        await asyncio.Event().wait()


@pytest.mark.parametrize(("name", "kept"), [("block", 0), ("wait", 0), ("stubborn", 0), ("steps", 1)])
async def test_the_lock_of_an_event_that_was_stopped_is_free_for_other_processes(shared_redis, name, kept):
    go_on.clear()
    store = f"{shared_redis.url}?prefix=event-time-{name}"
    one, two = (StateProvider(store=store, secret_key="x", lock_timeout=30) for _ in range(2))
    for provider in (one, two):
        provider.register_state(Ledger, StateConfig(scope=StateScope.GLOBAL))
        await provider.start()
    try:
        for provider in (one, two):
            async with provider.modify(Ledger) as ledger:
                ledger.n += 1
        with pytest.raises(EventTimeoutError):
            await getattr(one.registry.peek("global:Ledger"), name).run()
        async with asyncio.timeout(10):
            await two.registry.peek("global:Ledger").add.run()
            await one.registry.peek("global:Ledger").add.run()
        assert one.registry.peek("global:Ledger").n == 4 + kept
    finally:
        go_on.set()
        await eventually(lambda: places_here()._free == EVENT_THREADS)
        await one.stop()
        await two.stop()
