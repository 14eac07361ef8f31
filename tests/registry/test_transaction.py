"""Transactions: all of a change or nothing of it, one at a time per key, in threads, tasks, scripts and generators."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, model_validator

from faststate import (
    EventError,
    LockTimeoutError,
    ReactiveState,
    ReadOnlyStateError,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    event,
)
from faststate.provider.initiator import Initiator, initiator_of_commits
from faststate.registry.run_event import EventCaller, run_event
from faststate.scheduling.threads import EVENT_THREADS
from tests.support.states import provider_of, set_fields

LONG = 30.0  # a lock timeout that no test may come near: what ends sooner ended for another reason


class Boom(Exception):
    """An error of the test's own code."""


class Line(BaseModel):
    text: str = ""
    done: bool = False


class Ledger(ReactiveState):
    count: int = 0
    mirror: int = 0
    lines: list[Line] = [Line(text="first")]
    names: set[str] = {"a"}
    tree: dict[str, list[int]] = {"x": [1]}
    top: Line = Line(text="top")
    positive: Annotated[int, Field(ge=0)] = 0

    def spoil(self):
        """Change something of every kind."""
        self.count += 1
        self.lines[0].done = True
        self.lines.append(Line(text="second"))
        self.names.add("b")
        self.tree["x"].append(2)
        self.tree["y"] = []
        self.top.text = "changed"

    @event
    def add(self, by: int = 1):
        seen = self.count
        threading.Event().wait(0)  # lets other threads run in the middle
        self.count = seen + by

    @event
    async def add_async(self, by: int = 1):
        seen = self.count
        await asyncio.sleep(0)
        self.count = seen + by

    @event
    async def add_steps(self, by: int = 1):
        self.count += by
        yield
        self.mirror += by
        yield

    @event
    def fail(self):
        self.spoil()
        raise Boom

    @event
    async def fail_async(self):
        self.spoil()
        await asyncio.sleep(0)
        raise Boom

    @event
    async def fail_before_yield(self):
        self.spoil()
        raise Boom
        yield

    @event
    def go_negative(self):
        self.spoil()
        self.positive = -1


class Alpha(ReactiveState):
    left: int = 0
    right: Annotated[int, Field(le=100)] = 0

    @event
    def give(self, zulu: "Zulu", amount: int, then: str = ""):
        self.left += amount
        zulu.right += amount
        if then:
            raise Boom


class Zulu(ReactiveState):
    left: int = 0
    right: Annotated[int, Field(le=100)] = 0

    @model_validator(mode="after")
    def not_thirteen(self):
        if self.left == -13:
            raise ValueError("never minus thirteen")
        return self

    @event
    async def give(self, alpha: Alpha, amount: int):
        self.left += amount
        alpha.right += amount


class Third(ReactiveState):
    left: int = 0


CLASSES = (Ledger, Alpha, Zulu, Third)


def make_provider(**options: Any) -> StateProvider:
    made = StateProvider(**{"lock_timeout": LONG, **options})
    for cls in CLASSES:
        made.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
    return made


@pytest.fixture
def provider():
    return make_provider()


def key_of(cls):
    return StateIdentifier(StateScope.GLOBAL, cls.__name__).key


async def get(provider, cls=Ledger):
    """The committed state."""
    return (await entry_of(provider, cls)).state


async def entry_of(provider, cls=Ledger):
    return await provider.resolver.entry(StateIdentifier.parse(key_of(cls)), provider.registrations.config_of(cls))


def assert_free(provider, *classes):
    """No transaction holds any of the states, nor waits for one."""
    assert not provider.registry.locks.waiting
    for cls in classes:
        assert provider.registry.lifetimes.evict(key_of(cls)), f"{cls.__name__} is still held"


def gated():
    """A state class with an event that waits in its thread, what it sets before, and what it waits for."""
    inside, go_on = threading.Event(), threading.Event()

    class Gated(ReactiveState):
        before: int = 0
        after: int = 0

        @event
        def work(self):
            self.before += 1
            inside.set()
            assert go_on.wait(20)
            self.after += 1

        @event
        def add(self):
            self.before += 10

        @event
        def slow(self):
            time.sleep(0.1)
            self.before += 1

    return Gated, inside, go_on


# -- all or nothing ----------------------------------------------------------------------------------------------------


async def by_modify(provider):
    async with provider.modify(Ledger) as ledger:
        ledger.spoil()
        raise Boom


async def by_plain_with(provider):
    def work():
        with provider.modify(Ledger) as ledger:
            ledger.spoil()
            raise Boom

    await asyncio.to_thread(work)


FAILURES = {
    "sync event": lambda p: run(p, "fail"),
    "async event": lambda p: run(p, "fail_async"),
    "generator": lambda p: run(p, "fail_before_yield"),
    "async with": by_modify,
    "plain with": by_plain_with,
}


async def run(provider, name, **arguments):
    return await getattr(await get(provider), name).run(**arguments)


@pytest.mark.parametrize("way", FAILURES)
async def test_an_exception_leaves_no_trace(provider, way):
    before = await get(provider)
    values, commits = before.model_dump(), provider.registry.commits
    with pytest.raises(Boom):
        await FAILURES[way](provider)
    assert await get(provider) is before
    assert before.model_dump() == values
    assert provider.registry.commits == commits
    assert_free(provider, Ledger)


async def test_a_value_that_does_not_validate_leaves_no_trace_and_is_named(provider):
    before = await get(provider)
    with pytest.raises(EventError, match=r"Ledger\.positive: .*greater than or equal to 0"):
        await before.go_negative.run()
    assert await get(provider) is before
    assert before == Ledger()
    assert_free(provider, Ledger)


async def test_a_model_validator_that_refuses_leaves_no_trace(provider):
    with pytest.raises(EventError, match="never minus thirteen"):
        await set_fields(provider.modify(Zulu), left=-13)
    assert (await get(provider, Zulu)).left == 0


async def test_a_transaction_that_changes_nothing_commits_nothing(provider):
    before = await get(provider)
    commits = provider.registry.commits
    async with provider.modify(Ledger) as ledger:
        ledger.count = ledger.count
        ledger.lines.append(Line())
        ledger.lines.pop()
    assert provider.registry.commits == commits
    assert (await get(provider)) is before


async def test_a_commit_shows_every_kind_of_change_and_counts_a_version(provider):
    before = await get(provider)
    async with provider.modify(Ledger) as ledger:
        ledger.spoil()
    after = await get(provider)
    expected = Ledger()
    expected.spoil()
    assert after == expected
    assert before == Ledger()
    assert after._committed.version == before._committed.version + 1


async def test_what_was_committed_cannot_be_changed_by_the_copy_that_was_kept(provider):
    async with provider.modify(Ledger) as ledger:
        lines = ledger.lines
    with pytest.raises(ReadOnlyStateError):
        lines.append(Line(text="late"))
    with pytest.raises(ReadOnlyStateError):
        ledger.count = 99
    assert (await get(provider)) == Ledger()


# -- nothing is lost ---------------------------------------------------------------------------------------------------


async def modify_once(provider):
    async with provider.modify(Ledger) as ledger:
        seen = ledger.count
        await asyncio.sleep(0)
        ledger.count = seen + 1


def plain_with_once(provider):
    with provider.modify(Ledger) as ledger:
        seen = ledger.count
        threading.Event().wait(0)
        ledger.count = seen + 1


WAYS = {
    "sync": lambda p: run(p, "add"),
    "async": lambda p: run(p, "add_async"),
    "generator": lambda p: run(p, "add_steps"),
    "modify": modify_once,
    "plain with": lambda p: asyncio.to_thread(plain_with_once, p),
}


@pytest.mark.parametrize("ways", [[way] for way in WAYS] + [list(WAYS)], ids=lambda ways: "+".join(ways))
async def test_a_thousand_at_once_lose_nothing(provider, ways):
    await get(provider)  # as in an app, where a request has told the provider its loop
    await asyncio.gather(*(WAYS[ways[i % len(ways)]](provider) for i in range(1000)))
    ledger = await get(provider)
    assert ledger.count == 1000
    assert ledger.mirror == sum(ways[i % len(ways)] == "generator" for i in range(1000))
    assert_free(provider, Ledger)


async def test_transactions_on_different_keys_do_not_wait_for_each_other(provider):
    async with asyncio.timeout(5), provider.modify(Alpha) as alpha:
        await run(provider, "add")
        alpha.left = 1
    assert (await get(provider)).count == 1


# -- readers -----------------------------------------------------------------------------------------------------------


async def test_readers_never_see_a_half_done_async_event(provider):
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def work():
        async with provider.modify(Ledger) as ledger:
            ledger.count = 1
            ledger.lines[0].text = "half"
            halfway.set()
            await go_on.wait()
            ledger.mirror = 1

    task = asyncio.create_task(work())
    await halfway.wait()
    assert (await get(provider)) == Ledger()
    go_on.set()
    await task
    after = await get(provider)
    assert (after.count, after.mirror, after.lines[0].text) == (1, 1, "half")


async def test_readers_never_see_a_half_done_sync_event():
    cls, halfway, go_on = gated()
    provider = provider_of(cls, StateConfig(scope=StateScope.GLOBAL))
    task = asyncio.create_task((await get(provider, cls)).work.run())
    assert await asyncio.to_thread(halfway.wait, 20)
    seen = await get(provider, cls)
    go_on.set()
    await task
    later = await get(provider, cls)
    assert ((seen.before, seen.after), (later.before, later.after)) == ((0, 0), (1, 1))


async def test_whoever_is_told_of_a_commit_over_two_states_sees_both_sides(provider, monkeypatch):
    seen = []
    publish = provider.registry.followers.committed

    def committed(commit):
        seen.append((provider.registry.peek(key_of(Alpha)).left, provider.registry.peek(key_of(Zulu)).right))
        publish(commit)

    monkeypatch.setattr(provider.registry.followers, "committed", committed)
    await (await get(provider, Alpha)).give.run(amount=5)
    assert seen == [(5, 5), (5, 5)]


# -- two states --------------------------------------------------------------------------------------------------------


async def test_an_event_over_two_states_commits_both(provider):
    await (await get(provider, Alpha)).give.run(amount=5)
    assert (await get(provider, Alpha)).left == 5
    assert (await get(provider, Zulu)).right == 5


@pytest.mark.parametrize(
    ("cls", "arguments", "error"),
    [
        (Alpha, {"amount": 5, "then": "boom"}, Boom),
        (Alpha, {"amount": 101}, EventError),  # the second in key order does not validate
        (Zulu, {"amount": 101}, EventError),  # the first in key order does not
        (Zulu, {"amount": -13}, EventError),  # the event's own state does not, as a whole
    ],
)
async def test_an_event_over_two_states_that_fails_commits_neither(provider, cls, arguments, error):
    alpha, zulu = await get(provider, Alpha), await get(provider, Zulu)
    with pytest.raises(error):
        await (await get(provider, cls)).give.run(**arguments)
    assert await get(provider, Alpha) is alpha
    assert await get(provider, Zulu) is zulu
    assert_free(provider, Alpha, Zulu)


async def test_events_over_the_same_two_states_from_both_ends_do_not_deadlock(provider):
    alpha, zulu = await get(provider, Alpha), await get(provider, Zulu)
    async with asyncio.timeout(20):
        await asyncio.gather(*((alpha if i % 2 else zulu).give.run(amount=1) for i in range(100)))
    alpha, zulu = await get(provider, Alpha), await get(provider, Zulu)
    assert (alpha.left, alpha.right, zulu.left, zulu.right) == (50, 50, 50, 50)


# -- locks -------------------------------------------------------------------------------------------------------------


async def test_crossing_lock_orders_end_in_an_error_at_once_and_not_in_a_hang(provider):
    ring = [Alpha, Zulu, Third]
    held = asyncio.Barrier(3)

    async def cross(outer, inner):
        async with provider.modify(outer) as first:
            await held.wait()
            async with provider.modify(inner) as second:
                second.left += 1
            first.left += 1

    async with asyncio.timeout(10):
        results = await asyncio.gather(*(cross(ring[i], ring[(i + 1) % 3]) for i in range(3)), return_exceptions=True)
    errors = [result for result in results if result is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], LockTimeoutError)
    assert "would never end" in str(errors[0])
    assert sum([(await get(provider, cls)).left for cls in ring]) == 4
    assert_free(provider, *ring)


async def test_crossing_lock_orders_in_threads_end_in_an_error_at_once(provider):
    held = threading.Barrier(2)

    def cross(outer, inner):
        with provider.modify(outer) as first:
            held.wait(20)
            with provider.modify(inner):
                first.left = 1

    await get(provider, Alpha)
    async with asyncio.timeout(10):
        results = await asyncio.gather(
            asyncio.to_thread(cross, Alpha, Zulu), asyncio.to_thread(cross, Zulu, Alpha), return_exceptions=True
        )
    assert sorted(type(result).__name__ for result in results) == ["LockTimeoutError", "NoneType"]
    assert_free(provider, Alpha, Zulu)


async def test_modify_on_the_state_that_one_holds_errors_at_once(provider):
    async with asyncio.timeout(5):
        with pytest.raises(LockTimeoutError, match="this transaction holds it already") as caught:
            async with provider.modify(Ledger), provider.modify(Ledger):
                pass
        assert key_of(Ledger) in str(caught.value)
        with pytest.raises(LockTimeoutError, match="this transaction holds it already"):
            async with provider.modify(Ledger):
                await run(provider, "add")
    assert (await get(provider)).count == 0
    assert_free(provider, Ledger)


@pytest.mark.parametrize("name", ["nested", "nested_async", "nested_steps"])
async def test_modify_inside_an_event_on_its_own_state_errors_at_once(name):
    class Nest(ReactiveState):
        count: int = 0

        @event
        def nested(self):
            with provider.modify(Nest) as again:
                again.count += 1

        @event
        async def nested_async(self):
            async with provider.modify(Nest) as again:
                again.count += 1

        @event
        async def nested_steps(self):
            async with provider.modify(Nest) as again:
                again.count += 1
            yield

    provider = provider_of(Nest, StateConfig(scope=StateScope.GLOBAL), lock_timeout=LONG)
    async with asyncio.timeout(5):
        with pytest.raises(LockTimeoutError, match="holds it already"):
            await getattr(await get(provider, Nest), name).run()
    assert (await get(provider, Nest)).count == 0
    assert_free(provider, Nest)


async def test_a_lock_that_cannot_be_had_times_out_with_its_key_named():
    provider = make_provider(lock_timeout=0.01)
    holding, done = asyncio.Event(), asyncio.Event()

    async def hold():
        async with provider.modify(Ledger) as ledger:
            holding.set()
            await done.wait()
            ledger.count = 7

    task = asyncio.create_task(hold())
    await holding.wait()
    with pytest.raises(LockTimeoutError, match=key_of(Ledger)):
        await run(provider, "add")
    with pytest.raises(LockTimeoutError, match=key_of(Ledger)):
        async with provider.modify(Ledger):
            pass
    done.set()
    await task
    assert (await get(provider)).count == 7
    assert_free(provider, Ledger)


async def test_a_task_started_inside_an_event_is_not_taken_for_the_holder(provider):
    """It inherits the event's context, but may wait for its lock: it is served after the event."""
    async with asyncio.timeout(5):
        async with provider.modify(Ledger) as ledger:
            later = asyncio.create_task(run(provider, "add"))
            await asyncio.sleep(0)
            ledger.count = 10
        await later
    assert (await get(provider)).count == 11


async def test_an_event_may_modify_another_state_inside(provider):
    async with provider.modify(Alpha) as alpha:
        alpha.left = 1
        await set_fields(provider.modify(Third), left=2)
        assert (await get(provider, Third)).left == 2  # the inner one is a transaction of its own
    assert (await get(provider, Alpha)).left == 1


# -- plain with --------------------------------------------------------------------------------------------------------


def test_plain_with_works_in_a_script_without_a_loop(provider):
    for _ in range(3):
        with provider.modify(Ledger) as ledger:
            ledger.count += 1
    with pytest.raises(Boom), provider.modify(Ledger) as ledger:
        ledger.spoil()
        raise Boom
    expected = Ledger(count=3)
    assert provider.registry.peek(key_of(Ledger)) == expected
    assert_free(provider, Ledger)


def test_plain_with_nests_in_a_script_and_refuses_the_same_state_twice(provider):
    with provider.modify(Alpha) as alpha, provider.modify(Zulu) as zulu:
        alpha.left, zulu.left = 1, 2
    assert (provider.registry.peek(key_of(Alpha)).left, provider.registry.peek(key_of(Zulu)).left) == (1, 2)
    with pytest.raises(LockTimeoutError, match="holds it already"), provider.modify(Alpha), provider.modify(Alpha):
        pass
    assert_free(provider, Alpha, Zulu)


def test_plain_with_in_the_threads_of_a_script_loses_nothing(provider):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: plain_with_once(provider), range(200)))
    assert provider.registry.peek(key_of(Ledger)).count == 200


async def test_plain_with_on_the_loop_names_the_remedy(provider):
    with pytest.raises(RuntimeError, match="async with"), provider.modify(Ledger):
        pass


async def test_plain_with_on_another_state_works_inside_a_sync_event(provider):
    class Outer(ReactiveState):
        done: int = 0

        @event
        def work(self):
            with provider.modify(Third) as third:
                third.left += 1
            self.done += 1

    provider.register_state(Outer, StateConfig(scope=StateScope.GLOBAL))
    outer = await get(provider, Outer)
    async with asyncio.timeout(20):
        await asyncio.gather(*(outer.work.run() for _ in range(100)))
    assert (await get(provider, Outer)).done == (await get(provider, Third)).left == 100


# -- generators --------------------------------------------------------------------------------------------------------


class Job(ReactiveState):
    step: int = 0
    other: int = 0
    log: list[str] = []

    @event
    async def work(self):
        self.step = 1
        self.log.append("one")
        yield "a"
        self.step = 2
        self.log.append("two")
        yield "b"
        self.step = 3

    @event
    async def keeps_a_list(self):
        log = self.log
        log.append("one")
        yield
        log.append("two")

    @event
    async def fails_later(self):
        self.step = 1
        yield
        self.step = 2
        raise Boom


@pytest.fixture
def jobs():
    return provider_of(Job, StateConfig(scope=StateScope.GLOBAL), lock_timeout=LONG)


async def steps_of(provider, name):
    """The steps of an event one by one: it goes on when the next one is asked for, and is left when none is."""
    entry, event = await entry_of(provider, Job), Job._fs_schema().events[name]
    steps, go_on = asyncio.Queue(), asyncio.Queue()

    class Steps(EventCaller):
        async def take(self, step):
            steps.put_nowait(step)
            await go_on.get()

    task = asyncio.create_task(run_event(provider.registry, entry, event, {}, {}, Steps()))
    task.add_done_callback(lambda task: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield step
            go_on.put_nowait(None)
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_generator_commits_at_each_yield_and_frees_the_lock_between(jobs):
    steps = steps_of(jobs, "work")
    assert (await anext(steps)).result == "a"
    assert ((await get(jobs, Job)).step, (await get(jobs, Job)).log) == (1, ["one"])
    async with asyncio.timeout(5), jobs.modify(Job) as job:  # the lock is free
        job.other = 10
        job.log.append("between")
    assert (await anext(steps)).result == "b"
    job = await get(jobs, Job)
    assert (job.step, job.other, job.log) == (2, 10, ["one", "between", "two"])  # rebased
    assert [step.closing async for step in steps] == [True]
    assert (await get(jobs, Job)).step == 3  # what follows the last yield is committed too
    assert_free(jobs, Job)


async def test_run_returns_what_a_generator_yielded(jobs):
    assert await (await get(jobs, Job)).work.run() == ["a", "b"]


async def test_a_container_held_across_a_yield_is_stale_and_changing_it_raises(jobs):
    with pytest.raises(ReadOnlyStateError):
        await (await get(jobs, Job)).keeps_a_list.run()
    assert (await get(jobs, Job)).log == ["one"]
    assert_free(jobs, Job)


async def test_a_generator_that_fails_later_keeps_the_steps_it_committed(jobs):
    with pytest.raises(Boom):
        await (await get(jobs, Job)).fails_later.run()
    assert (await get(jobs, Job)).step == 1
    assert_free(jobs, Job)


async def test_a_generator_that_is_left_between_steps_holds_nothing(jobs):
    steps = steps_of(jobs, "work")
    await anext(steps)
    await steps.aclose()
    assert (await get(jobs, Job)).step == 1
    assert_free(jobs, Job)


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_cancelling_an_event_in_the_middle_leaves_no_trace_and_frees_the_lock():
    inside = asyncio.Event()

    class Long(ReactiveState):
        count: int = 0
        log: list[str] = []

        @event
        async def work(self):
            self.count = 1
            self.log.append("half")
            inside.set()
            await asyncio.Event().wait()

        @event
        async def steps(self):
            self.count = 1
            self.log.append("half")
            inside.set()
            await asyncio.Event().wait()
            yield

    provider = provider_of(Long, StateConfig(scope=StateScope.GLOBAL), lock_timeout=LONG)

    async def modify():
        async with provider.modify(Long) as long:
            await Long.work(long)

    for start in (lambda s: s.work.run(), lambda s: s.steps.run(), lambda s: modify()):
        inside.clear()
        before = await get(provider, Long)
        task = asyncio.create_task(start(before))
        await inside.wait()
        waiting = asyncio.create_task(before.work.run())  # cancelled while it waits for the lock
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        task.cancel()
        results = await asyncio.gather(task, waiting, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert await get(provider, Long) is before
        assert_free(provider, Long)


async def test_cancelling_a_sync_event_leaves_no_trace_and_keeps_the_lock_until_its_thread_is_done():
    cls, inside, go_on = gated()
    provider = provider_of(cls, StateConfig(scope=StateScope.GLOBAL), lock_timeout=LONG)
    state = await get(provider, cls)
    task = asyncio.create_task(state.work.run())
    assert await asyncio.to_thread(inside.wait, 20)
    task.cancel()
    after = asyncio.create_task(state.add.run())
    await asyncio.sleep(0)
    assert not provider.registry.lifetimes.evict(key_of(cls))
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await after
    after = await get(provider, cls)
    assert (after.before, after.after) == (10, 0)
    assert_free(provider, cls)


async def test_many_sync_events_on_one_state_do_not_starve_each_other(provider):
    await asyncio.gather(*(run(provider, "add") for _ in range(500)))  # more than there are places
    assert (await get(provider)).count == 500
    await provider.stop()


async def test_sync_events_that_wait_for_one_busy_state_do_not_keep_other_states_waiting(provider):
    cls, inside, go_on = gated()
    provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
    busy = await get(provider, cls)
    waiting = [asyncio.create_task(busy.work.run()) for _ in range(EVENT_THREADS * 4)]
    assert await asyncio.to_thread(inside.wait, 20)
    async with asyncio.timeout(10):
        await asyncio.gather(*(run(provider, "add") for _ in range(10)))
    assert (await get(provider)).count == 10 and (await get(provider, cls)).before == 0
    for task in waiting[1::2]:
        task.cancel()
    go_on.set()
    await asyncio.wait(waiting)
    assert (await get(provider, cls)).before == EVENT_THREADS * 2
    assert not any(provider.registry.locks._turns.values())  # nothing is left of those that waited
    assert_free(provider, cls)
    await provider.stop()


async def test_a_sync_event_that_waits_for_its_turn_gives_up_when_one_other_keeps_it_for_too_long():
    cls, inside, go_on = gated()
    provider = provider_of(cls, StateConfig(scope=StateScope.GLOBAL), lock_timeout=0.2)
    stuck = await get(provider, cls)
    first = asyncio.create_task(stuck.work.run())
    assert await asyncio.to_thread(inside.wait, 20)
    with pytest.raises(LockTimeoutError, match="global:Gated"):
        await stuck.work.run()
    go_on.set()
    await first
    # Many who wait long, since they are many, are not kept waiting by one. All of them take longer than one may wait,
    # and each a small part of that, however busy the machine is.
    provider.registry.locks.timeout = 1.5
    await asyncio.gather(*(stuck.slow.run() for _ in range(20)))
    assert (await get(provider, cls)).before == 21
    assert not any(provider.registry.locks._turns.values())
    await provider.stop()


def test_a_lock_that_was_waited_for_on_one_loop_works_on_the_next(provider):
    async def busy():
        await asyncio.gather(*(run(provider, "add_async") for _ in range(10)))
        await provider.registry.stop()

    for _ in range(2):
        asyncio.run(busy())
    assert provider.registry.peek(key_of(Ledger)).count == 20


async def test_sync_events_take_a_bounded_number_of_threads():
    running, most, guard, full, go = 0, 0, threading.Lock(), threading.Event(), threading.Event()

    class Page(ReactiveState):
        @event
        def work(self):
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
                if running == EVENT_THREADS:
                    full.set()
            go.wait(20)
            with guard:
                running -= 1

    provider = provider_of(Page, StateConfig(scope=StateScope.RECORD))
    ids = [StateIdentifier(StateScope.RECORD, "Page", record_id=n) for n in range(EVENT_THREADS * 2)]
    states = [await provider.registry.get_state(identifier, Page) for identifier in ids]
    tasks = [asyncio.create_task(state.work.run()) for state in states]
    assert await asyncio.to_thread(full.wait, 20)
    go.set()
    await asyncio.gather(*tasks)
    assert most == EVENT_THREADS
    await provider.stop()


async def test_what_an_event_left_behind_commits_is_not_taken_for_the_events_own(provider):
    initiator = Initiator("a page", "global:Ledger", {"count": 1})
    token = initiator_of_commits.set(initiator)
    try:
        await set_fields(provider.modify(Ledger), count=1)
        assert [commit.delta["count"] for commit in initiator.commits] == [1]
        initiator.open = False  # the event is over; a task that it started has inherited its context
        await set_fields(provider.modify(Ledger), count=2)
        assert len(initiator.commits) == 1
    finally:
        initiator_of_commits.reset(token)
        await provider.stop()
