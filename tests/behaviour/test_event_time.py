"""The time of an event is bounded, whatever it does with it: its locks are free and its step is rolled back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import anyio
import pytest
from fasthtml import common as fh

from faststate import (
    ConfigurationError,
    EventDefinitionError,
    EventTimeoutError,
    LockTimeoutError,
    PersistenceError,
    ReactiveState,
    ReadOnlyStateError,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.scheduling.threads import EVENT_THREADS, places_here
from faststate.stores.memory import MemoryStore
from tests.support.client import Page, browser, message, status
from tests.support.waiting import eventually

SHORT = 0.05  # a limit that every event below exceeds, since it waits for ever or for what comes only behind it
LONG = 30.0  # a limit that no test may come near


class World:
    """The gates that a test's events wait at, and the marks that they set. Lifetime: the test."""

    def __init__(self):
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.told = []


world = World()


@pytest.fixture(autouse=True)
def _anew():
    world.__init__()
    yield
    world.go_on.set()


class Other(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1

    @event(timeout=SHORT)
    async def hang(self):
        self.n += 1
        await asyncio.Event().wait()

    @event(timeout=LONG)
    async def swallow(self):
        self.n += 1
        while not world.go_on.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                world.told.append("cancelled")


class Clock(ReactiveState):
    n: int = 0
    log: list[str] = []

    @event
    def add(self):
        self.n += 1

    @event
    async def wait(self):
        self.n += 1
        self.log.append("half")
        await asyncio.Event().wait()

    @event
    def block(self):
        self.n += 1
        self.log.append("half")
        world.inside.set()
        world.go_on.wait(LONG)
        try:
            self.n += 10
        except ReadOnlyStateError as error:
            world.told.append(error)
            raise

    @event
    async def steps(self):
        self.n += 1
        yield
        self.n += 1
        self.log.append("half")
        await asyncio.Event().wait()

    @event
    async def many_steps(self):
        while True:
            self.n += 1
            yield
            await asyncio.sleep(0.001)

    @event
    async def tight(self):
        while True:
            self.n += 1
            yield

    @event
    async def stubborn(self):
        self.n += 1
        while not world.go_on.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                world.told.append(error)
            try:
                self.n += 10
            except ReadOnlyStateError as error:
                world.told.append(error)

    @event
    async def stubborn_steps(self):
        self.n += 1
        yield
        while not world.go_on.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                yield

    @event
    async def comes_back(self):
        self.n += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            world.told.append("cancelled")

    @event
    async def tidies_up(self):
        task = asyncio.current_task()
        try:
            await asyncio.Event().wait()
        finally:
            async with asyncio.timeout(LONG):
                await asyncio.sleep(0)
            world.told.append(asyncio.current_task() is task)

    @event(timeout=None)
    async def patient(self):
        await asyncio.sleep(SHORT * 3)
        self.n += 1

    @event(timeout=LONG)
    async def longer(self):
        await asyncio.sleep(SHORT * 3)
        self.n += 1

    @event(timeout=LONG)
    async def outer(self):
        self.n += 1
        try:
            await self.other().hang.run()
        except EventTimeoutError as error:
            world.told.append(error)

    @event
    async def outer_of_a_stubborn_one(self):
        self.n += 1
        await self.other().swallow.run()

    @event
    def modifies_another(self):
        with world.provider.modify(Other) as other:
            other.n += 1
            world.inside.set()
            world.go_on.wait(LONG)

    @staticmethod
    def other():
        return world.provider.registry.peek("global:Other")


async def provider_of(*classes, **options):
    """A provider with a global state of each of these classes."""
    provider = StateProvider(**options)
    for cls in classes:
        provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
        async with provider.modify(cls):
            pass
    return provider


@pytest.fixture
async def provider():
    made = world.provider = await provider_of(Clock, Other, event_timeout=SHORT, lock_timeout=LONG)
    async with made.modify(Clock) as clock, made.modify(Other) as other:
        clock.n = other.n = 100
    yield made
    world.go_on.set()
    await made.stop()


def the(provider, cls=Clock):
    return provider.registry.peek(f"global:{cls.__name__}")


def run(provider, name, cls=Clock):
    return getattr(the(provider, cls), name).run()


@pytest.mark.parametrize(
    ("name", "committed"),
    [("wait", 100), ("block", 100), ("steps", 101), ("stubborn", 100), ("stubborn_steps", 101), ("comes_back", 100)],
)
async def test_an_event_that_takes_too_long_is_rolled_back_and_its_lock_is_free_at_once(
    provider, caplog, name, committed
):
    with pytest.raises(EventTimeoutError, match=rf"Clock\.{name} took more than 0\.05 s") as caught:
        await run(provider, name)
    assert caught.value.status == 503
    assert (the(provider).n, the(provider).log) == (committed, [])
    assert not provider.registry.locks.waiting and provider.registry.find("global:Clock").owner is None
    async with asyncio.timeout(LONG / 2), provider.modify(Clock) as clock:
        clock.n += 5
    assert the(provider).n == committed + 5
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and f"Clock.{name}" in errors[0].getMessage()
    assert asyncio.current_task().cancelling() == 0
    assert not provider.registry.running.under_way


async def test_the_lock_is_free_while_what_was_stopped_still_tidies_up_or_goes_on(provider):
    stopped = asyncio.create_task(run(provider, "stubborn"))
    await eventually(lambda: world.told)
    assert not stopped.done(), "it has its time for last words"
    await run(provider, "add")
    assert the(provider).n == 101
    with pytest.raises(EventTimeoutError):
        await stopped
    await eventually(lambda: any(isinstance(told, ReadOnlyStateError) for told in world.told))
    assert the(provider).n == 101


async def test_what_tidies_up_does_so_in_its_own_task(provider):
    with pytest.raises(EventTimeoutError):
        await run(provider, "tidies_up")
    assert world.told == [True]


async def test_a_generator_has_one_limit_for_all_its_steps(provider):
    with pytest.raises(EventTimeoutError):
        await run(provider, "many_steps")
    assert the(provider).n > 101, "its committed steps stay"


async def test_a_generator_that_waits_for_nothing_lets_others_run_and_is_stopped(provider):
    ran = asyncio.create_task(run(provider, "add"))
    with pytest.raises(EventTimeoutError):
        await run(provider, "tight")
    assert ran.done()


@pytest.mark.parametrize("name", ["patient", "longer"])
async def test_an_event_may_have_another_limit_than_the_provider_or_none(provider, name):
    await run(provider, name)
    assert the(provider).n == 101


async def test_a_provider_may_have_no_limit():
    made = await provider_of(Clock, event_timeout=None)
    waiting = asyncio.create_task(run(made, "wait"))
    await eventually(lambda: made.registry.running.under_way)
    (running,) = made.registry.running.under_way
    assert running._timer is None
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_the_default_is_thirty_seconds():
    assert StateProvider().options.event_timeout == 30.0


NONSENSE = [0, -1, -1.5, float("nan"), float("inf"), True, "5", [1]]


@pytest.mark.parametrize("value", NONSENSE)
def test_a_limit_that_is_none_is_refused_where_it_is_written(value):
    with pytest.raises(ConfigurationError, match=r"event_timeout is in seconds, above 0, or None"):
        StateProvider(event_timeout=value)
    with pytest.raises(EventDefinitionError, match=r"timeout is in seconds, above 0, or None.*work"):

        class Wrong(ReactiveState):
            @event(timeout=value)
            def work(self): ...


@pytest.mark.parametrize("value", [0, -1, True, "5", None])
def test_a_number_of_events_that_is_none_is_refused(value):
    with pytest.raises(ConfigurationError, match="max_events_per_session"):
        StateProvider(max_events_per_session=value)


# -- threads -----------------------------------------------------------------------------------------------------------


async def test_a_thread_goes_on_without_its_state_and_keeps_its_place_until_it_returns(provider, caplog):
    with pytest.raises(EventTimeoutError):
        await run(provider, "block")
    assert places_here()._free == EVENT_THREADS - 1 and places_here().left_behind.total() == 1
    assert not world.told
    world.go_on.set()
    await eventually(lambda: places_here()._free == EVENT_THREADS)
    assert [type(told) for told in world.told] == [ReadOnlyStateError]
    assert not places_here().left_behind and the(provider).n == 100
    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


async def test_a_cancel_scope_around_a_sync_event_waits_for_its_thread_without_keeping_the_loop_busy(provider):
    object.__setattr__(provider.options, "event_timeout", LONG)
    asyncio.get_running_loop().call_later(0.5, world.go_on.set)
    began = time.thread_time()
    with anyio.move_on_after(0.01) as scope:
        await run(provider, "block")
    assert scope.cancelled_caught and world.go_on.is_set()
    assert time.thread_time() - began < 0.25, "it was cancelled anew in each turn of the loop"
    assert the(provider).n == 100 and not provider.registry.find("global:Clock").users


async def test_a_state_that_a_stopped_thread_modifies_is_free_too_and_unchanged(provider):
    with pytest.raises(EventTimeoutError):
        await run(provider, "modifies_another")
    await run(provider, "add", Other)
    world.go_on.set()
    await eventually(lambda: places_here()._free == EVENT_THREADS)
    assert the(provider, Other).n == 101
    assert not provider.registry.find("global:Other").users


# -- events in events --------------------------------------------------------------------------------------------------


async def test_an_event_in_an_event_has_its_own_limit(provider):
    await run(provider, "outer")
    assert [type(told) for told in world.told] == [EventTimeoutError]
    assert (the(provider).n, the(provider, Other).n) == (101, 100)


async def test_an_event_in_an_event_ends_with_the_outer_one(provider):
    with pytest.raises(EventTimeoutError, match="outer_of_a_stubborn_one"):
        await run(provider, "outer_of_a_stubborn_one")
    await run(provider, "add", Other)
    assert world.told and (the(provider).n, the(provider, Other).n) == (100, 101)
    world.go_on.set()
    assert not provider.registry.find("global:Clock").users


# -- cancelling and saving ---------------------------------------------------------------------------------------------


async def test_who_cancels_the_caller_is_heard_although_the_event_is_stopped_as_well(provider):
    stopped = asyncio.create_task(run(provider, "stubborn"))
    await eventually(lambda: world.told)
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped


class SlowStore(MemoryStore):
    """Saves when it is told to."""

    def __init__(self):
        super().__init__()
        self.saving, self.go_on = asyncio.Event(), asyncio.Event()
        self.is_slow = False

    async def save(self, write):
        await self.save_many([write])

    async def save_many(self, writes):
        if self.is_slow:
            self.saving.set()
            await self.go_on.wait()
        await super().save_many(writes)


@pytest.mark.parametrize(("name", "fails"), [("add_soon", False), ("add_and_go_on", True)])
async def test_a_save_that_has_begun_is_never_stopped(name, fails):
    class Kept(ReactiveState):
        n: int = 0

        @event
        async def add_soon(self):
            await asyncio.sleep(0)
            self.n += 1

        @event
        async def add_and_go_on(self):
            self.n += 1
            yield
            self.n += 1

    store = SlowStore()
    provider = await provider_of(Kept, event_timeout=SHORT, store=store)
    async with provider.modify(Kept) as kept:
        kept.n = 1
    store.is_slow = True
    running = asyncio.create_task(run(provider, name, Kept))
    await store.saving.wait()
    over = asyncio.get_running_loop().time() + SHORT * 2
    await eventually(lambda: asyncio.get_running_loop().time() > over)
    assert not running.done()
    store.is_slow = False
    store.go_on.set()
    if fails:
        with pytest.raises(EventTimeoutError):
            await running
    else:
        await running
    assert the(provider, Kept).n == 2
    await provider.stop()


# -- the page ----------------------------------------------------------------------------------------------------------


async def test_a_page_is_told_and_the_log_names_the_event_once(provider, caplog):
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    def index(clock: Clock):
        return fh.P(clock.signal.n)

    async with browser(app) as client:
        page = await Page.open(client)
        for name in ("wait", "block", "steps"):
            caplog.clear()
            answer = await page.send("Clock", name)
            assert status(answer) == 503
            assert message(answer) == "This took too long and was stopped. Please try again."
            (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert f"Clock.{name}" in record.getMessage()
        assert status(await page.send("Clock", "add")) == 200


async def test_an_event_that_waits_for_its_lock_does_not_spend_its_time(provider):
    """Its time begins with its locks; how long it may wait for these is the lock timeout."""
    async with provider.modify(Clock):
        waiting = asyncio.create_task(run(provider, "add"))
        over = asyncio.get_running_loop().time() + SHORT * 2
        await eventually(lambda: asyncio.get_running_loop().time() > over)
    await waiting
    assert the(provider).n == 101


def test_the_error_is_one_of_events_and_of_time():
    assert issubclass(EventTimeoutError, TimeoutError) and not issubclass(EventTimeoutError, LockTimeoutError)


# -- what an event does when it was stopped, or fails by a cancellation ------------------------------------------------


class Late(ReactiveState):
    n: int = 0

    @event(timeout=SHORT)
    def in_a_thread(self):
        world.inside.set()
        world.go_on.wait(LONG)
        try:
            with world.provider.modify(Other) as other:
                other.n += 1
        except Exception as error:
            world.told.append(error)
        finally:
            world.inside.clear()

    @event
    async def waits_for_what_was_cancelled(self):
        self.n += 1
        task = asyncio.ensure_future(asyncio.sleep(LONG))
        task.cancel()
        await task

    @event(timeout=SHORT)
    async def outer(self):
        await world.other.slow_to_end.run()

    @event(timeout=SHORT * 2)
    async def slow_to_end(self):
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(1.5)  # longer than an event has for its last words


async def test_a_thread_that_goes_on_behind_its_event_commits_nothing_any_more():
    provider = world.provider = await provider_of(Late, Other)
    with pytest.raises(EventTimeoutError):
        await run(provider, "in_a_thread", Late)
    world.go_on.set()
    await eventually(lambda: world.told)
    assert isinstance(world.told[0], EventTimeoutError)
    assert provider.registry.peek("global:Other").n == 0
    async with provider.modify(Other) as other:  # nobody else is kept from it
        other.n += 1


async def test_an_event_that_waits_for_what_was_cancelled_fails_and_is_not_cancelled_itself():
    provider = await provider_of(Late)
    with pytest.raises(RuntimeError, match=r"Late\.waits_for_what_was_cancelled waited for what was cancelled"):
        await run(provider, "waits_for_what_was_cancelled", Late)
    assert asyncio.current_task().cancelling() == 0
    assert provider.registry.peek("global:Late").n == 0


async def test_an_outer_and_an_inner_event_whose_time_is_over_are_one_timeout():
    provider = await provider_of(Late, Inner)
    world.other = the(provider, Inner)
    with pytest.raises(EventTimeoutError):
        await run(provider, "outer", Late)
    assert asyncio.current_task().cancelling() == 0


class Inner(Late):
    pass


async def test_a_create_that_hangs_has_the_time_of_a_store():
    async def create(identifier):
        await asyncio.sleep(LONG)

    provider = StateProvider(store_timeout=SHORT)
    provider.register_state(Other, StateConfig(scope=StateScope.GLOBAL, create=create))
    with pytest.raises(PersistenceError, match="create gave global:Other no first values within"):
        async with provider.modify(Other):
            pass
