"""One process acts between two steps of another: in whatever order, all of them end with what is stored."""

import asyncio
import contextlib
import datetime
import json
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pydantic import computed_field

from faststate import ReactiveState, StateConfig, StateScope, UserContext, event
from faststate.cluster import committing
from faststate.cluster.committing import HANDED_ON
from faststate.exceptions import FastStateError, LockLostError, PersistenceError, StateNotFoundError
from faststate.provider.payload import Call
from faststate.registry import entries
from faststate.registry.ends import OutdatedError, StateEnd
from faststate.registry.entries import NONCES_IN_ANY_CASE
from faststate.registry.persistence import NONCE_AGE
from faststate.registry.transaction import Transaction
from faststate.sse import SSEConnection
from tests.support.requests import request_of
from tests.support.waiting import Clock, eventually

from .providers import (
    Board,
    Case,
    Mover,
    Product,
    Shop,
    Stall,
    Wallet,
    add,
    entry_of,
    heard,
    held,
    instead,
    make_provider,
    of_all,
    open_providers,
    run,
    sequence,
    served,
    settled,
    stored,
    taken_for_dead,
    watch,
)

pytestmark = pytest.mark.timeout(30)

KEY = "global:Board"


# -- an answer that comes late -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["first", "told", "looked up"])
async def test_a_commit_whose_answer_comes_late_is_not_put_over_what_others_have_committed_since(
    a, b, redis_server, before
):
    """Whether the others' commit was told whole, or is too large for that, or of a life that was not known yet."""
    page = await watch(a, Board)
    if before != "first":
        async with a.modify(Board) as board:
            board.text = "x" * (70_000 if before == "looked up" else 1)
    with held(a.store, "commit") as answer:
        task = asyncio.create_task(add(a, by=10))
        await answer.reached.wait()
        await add(b, by=100)
        if before == "told":  # else it is looked up, which ends when the answer has come
            await heard(redis_server, a)
        answer.go()
        await task
    await settled(redis_server, a)
    assert (await served(a, Board)).count == page.shows(Board) == 110
    assert (await stored(b, KEY))["count"] == 110
    assert a.cluster.following.is_current(KEY)


async def test_pages_are_not_told_to_be_further_than_this_processs_own_commits_are(a, b, redis_server):
    """The others tell of later commits before an own one is shown: a page that moves then is told both again."""
    await watch(a, Wallet)
    await add(a, Wallet)
    await settled(redis_server, a)
    before = a.cluster.following.sequence
    with held(a.store, "commit") as answer:
        task = asyncio.create_task(add(a))
        await answer.reached.wait()
        await add(b, Wallet)
        last = await heard(redis_server, a)
        assert a.cluster.following.sequence == before
        answer.go()
        await task
    await eventually(lambda: a.cluster.following.sequence >= last)


async def test_a_commit_that_was_made_and_not_answered_is_shown_by_the_process_that_made_it(a, b, redis_server):
    page = await watch(a, Board)
    await add(a)

    real = a.store.commit

    async def made_but_unanswered(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        raise PersistenceError("no answer within 1 s")

    async def busy(key: str) -> None:
        raise PersistenceError("no answer within 1 s")

    with (
        instead(a.store, "commit", made_but_unanswered),
        instead(a.store, "load", busy),
        pytest.raises(PersistenceError),
    ):
        await add(a)
    await settled(redis_server, a)
    await eventually(lambda: page.shows(Board) == 2)
    assert (await served(a, Board)).count == (await served(b, Board)).count == 2


# -- several states in one commit --------------------------------------------------------------------------------------


async def test_what_is_told_of_a_commit_is_shown_when_the_last_of_its_states_is_followed_no_more(a, b, redis_server):
    page, other = await watch(a, Mover), await watch(a, Wallet)
    take = a.cluster.following._accept

    def take_and_leave(key: str, told: Any) -> None:
        take(key, told)
        if key == "global:Mover":
            other.leave()

    with instead(a.cluster.following, "_accept", take_and_leave):
        await (await served(b, Mover)).move.run()
        await eventually(lambda: page.shows(Mover) == 1)
    await settled(redis_server, a)
    assert (await served(a, Mover)).count == 1
    last = sequence(redis_server)
    await eventually(lambda: a.cluster.following.sequence >= last)


async def test_pages_are_told_to_be_no_further_before_they_have_all_of_a_commit(a, b, redis_server):
    pages = [await watch(a, Mover), await watch(a, Wallet)]
    await settled(redis_server, a)
    before = a.cluster.following.sequence
    take, reached = a.cluster.following._accept, []

    def take_and_note(key: str, told: Any) -> None:
        reached.append(a.cluster.following.sequence)
        take(key, told)

    with instead(a.cluster.following, "_accept", take_and_note):
        await (await served(b, Mover)).move.run()
        await eventually(lambda: pages[0].shows(Mover) == 1 and pages[1].shows(Wallet) == -1)
    assert reached == [before, before]
    await eventually(lambda: a.cluster.following.sequence > before)


async def test_two_processes_that_want_the_same_two_states_do_not_wait_for_each_other(a, b, redis_server):
    """All take locks in the order of their keys, also those that were handed on from one local transaction."""

    async def move(provider) -> None:
        await (await served(provider, Mover)).move.run()

    await asyncio.gather(move(a), move(b))
    mover = a.registry.find("global:Mover")
    with held(b.store, "lock", before=True) as locking:
        async with a.modify(Wallet) as wallet:
            wallet.count += 1
            here = asyncio.create_task(move(a))
            await eventually(lambda: mover.owner is not None)  # its local lock is had, and Wallet's waited for
            there = asyncio.create_task(move(b))
            await locking.reached.wait()
            locking.go()
            await eventually(lambda: b.registry.find("global:Mover").owner is not None)
            await eventually(lambda: redis_server.keys("*:l:global:Mover"))  # it has Mover's lock among the processes
        await asyncio.gather(here, there)
    assert (await served(a, Mover)).count == 4


@pytest.mark.parametrize("by_its_own_event", [False, True])
async def test_who_waits_with_the_lock_of_a_state_that_is_no_more_does_not_wait_for_its_successor(a, by_its_own_event):
    """Another event has the new state's lock, handed on to it, and waits for what this one has."""
    await add(a, Mover)
    former = a.registry.find("global:Mover")

    async with a.modify(Wallet) as wallet:
        wallet.count += 1
        late = asyncio.create_task(run(a, Mover, "move", "late", wallet=Wallet))
        await eventually(lambda: former.owner is not None)  # its local lock is had, and Wallet's waited for
        a.registry.remove(former, StateEnd.DELETED_BY_ITS_EVENT if by_its_own_event else StateEnd.GONE)
        async with a.modify(Mover) as mover:
            mover.count += 1
            entry = a.registry.find("global:Mover")
            next_one = asyncio.create_task(run(a, Mover, "move", "next", wallet=Wallet))
            await eventually(lambda: entry.waiters)
        await eventually(lambda: len(a.registry.find("global:Wallet").waiting) == 2)
        assert entry.shared.hold is not None
    with pytest.raises(OutdatedError):
        await late
    assert await next_one == ["ran"]


async def test_a_state_is_deleted_though_it_has_gone_while_its_deletion_waited_for_its_lock(a):
    await add(a)
    entry = a.registry.find(KEY)

    async def delete() -> None:
        await a.delete(Board)

    with pytest.raises(StateNotFoundError):
        async with a.modify(Board) as board:
            board.count += 1
            deleting = asyncio.create_task(delete())
            await eventually(lambda: entry.waiters)
            a.registry.remove(entry, StateEnd.GONE)
    await deleting
    assert await a.store.load(KEY) is None
    assert a.registry.find(KEY) is None


class Nested(ReactiveState):
    """Whose event runs another's, from whose lock it is learned that there is no such state any more."""

    runs: ClassVar[int] = 0

    @event
    async def outer(self):
        type(self).runs += 1
        raise OutdatedError("another state than this one")


@pytest.mark.parametrize("by", ["a page", "server code"])
async def test_an_event_is_not_begun_again_for_a_state_that_its_own_code_has_asked_for(redis_server, by):
    Nested.runs = 0
    async with open_providers(redis_server, 1, {Nested: of_all}) as (provider,):
        if by == "server code":
            with pytest.raises(OutdatedError):
                await (await served(provider, Nested)).outer.run()
        else:
            context = provider.context(request_of({"session_id": "s"}))
            with pytest.raises(OutdatedError):
                await context.provider.dispatcher.dispatch(context, Call("Nested", "outer"), None, lambda effect: None)
    assert Nested.runs == 1


async def test_rows_and_other_states_are_locked_in_one_order_here_and_among_the_processes(redis_server, tmp_path):
    shop = Shop(tmp_path)
    states = {**shop.config(), Stall: lambda: StateConfig(scope=StateScope.RECORD)}
    async with open_providers(redis_server, states=states, lock_timeout=20.0) as (a, b):

        async def both(provider) -> Transaction:
            found = [await entry_of(provider, cls, record_id=1) for cls in (Product, Stall)]
            return Transaction(provider.registry, found)

        async def once(transaction: Transaction) -> None:
            await transaction.begin()
            transaction.end()

        here, there = await both(a), await both(b)
        async with a.modify(Product, record_id=1):
            waiting = [asyncio.create_task(once(here)), asyncio.create_task(once(there))]
            await eventually(lambda: len(a.registry.locks.waiting) == 1)
            await eventually(lambda: redis_server.keys("*:w:row:record:Product:1"))  # `there` has the other lock
            waiting.append(asyncio.create_task(add(a, Stall, record_id=1)))
            await eventually(lambda: len(a.registry.locks.waiting) == 2 or redis_server.keys("*:w:record:Stall:1"))
        await asyncio.gather(*waiting)


# -- locks that are handed on ------------------------------------------------------------------------------------------


def count_locks(provider) -> list[int]:
    """A list that grows with each lock that a process asks Redis for."""
    asked: list[int] = []
    real = provider.store.lock

    async def lock(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return await real(*args, **kwargs)

    provider.store.lock = lock
    return asked


async def test_local_transactions_that_wait_share_one_lock(a):
    await add(a)
    asked = count_locks(a)
    async with a.modify(Board):
        waiting = [asyncio.create_task(add(a)) for _ in range(HANDED_ON // 2)]
        await eventually(lambda: a.registry.find(KEY).waiters == len(waiting))
    await asyncio.gather(*waiting)
    assert len(asked) == 1
    assert (await stored(a, KEY))["count"] == 1 + len(waiting)


@pytest.mark.parametrize("changes", [True, False])
async def test_a_lock_that_another_process_waits_for_is_not_handed_on_for_ever(a, b, changes):
    """Though there is always a local transaction that waits, whether these change anything or not."""
    await add(a)
    done = False

    async def keep_busy() -> None:
        while not done:
            async with a.modify(Board) as board:
                board.text = str(len(board.text)) if changes else board.text
                await asyncio.sleep(0)

    busy = [asyncio.create_task(keep_busy()) for _ in range(2)]
    try:
        await eventually(lambda: a.registry.find(KEY).waiters)
        await add(b)
    finally:
        done = True
        await asyncio.gather(*busy)
    assert (await stored(b, KEY))["count"] == 2


async def test_a_lock_that_is_handed_to_a_transaction_which_is_cancelled_just_then_is_given_back(a, b, redis_server):
    entry = await entry_of(a, Board)
    real = a.registry.locks.release

    def release(released: Any) -> None:
        real(released)
        waiter.cancel()  # behind the hand-over, before the waiter runs

    async with a.modify(Board) as board:
        board.count += 1
        waiter = asyncio.create_task(add(a))
        await eventually(lambda: entry.waiters)
        a.registry.locks.release = release
    a.registry.locks.release = real
    await asyncio.gather(waiter, return_exceptions=True)
    try:
        assert entry.shared.hold is None
        await add(b)
    finally:
        a.cluster.give_up(entry)


async def test_a_state_that_leaves_memory_while_it_is_locked_does_not_wait_for_itself(a, b):
    await add(a)
    async with a.registry.locked([a.registry.find(KEY)]):
        a.registry.lifetimes.evict(KEY)
        other = asyncio.create_task(add(a))
        await asyncio.sleep(0)
    await other
    await add(b)
    assert (await stored(a, KEY))["count"] == 3


async def test_who_waits_for_a_state_that_is_renamed_by_a_sign_in_has_the_lock_of_its_new_name(a, b, redis_server):
    """An event of a guest's state signs its user in; what was locked by the old name is no lock of the new one."""
    session = {"session_id": "old"}
    await add(a, Case, session_id="old")
    entry = a.registry.find("session:Case:old")
    names = []

    async def late() -> None:
        async with a.modify(Case, session_id="old") as case:
            names.append((entry.shared.hold.key, entry.identifier.key))
            case.count += 10

    async with a.modify(Case, session_id="old") as case:
        case.count += 1
        waiting = asyncio.create_task(late())
        await eventually(lambda: entry.waiters)
        await a.login(request_of(session), UserContext("ann"))
    await waiting
    key = f"session:Case:{session['session_id']}"
    assert names == [(key, key)] and key != "session:Case:old"
    assert entry.shared.hold is None
    await add(b, Case, by=100, session_id=session["session_id"])
    assert (await stored(a, key))["count"] == 112
    await eventually(lambda: not redis_server.keys("*:l:*"))


async def test_a_process_that_was_taken_for_dead_does_not_commit(a, b, redis_server):
    await add(a)
    with pytest.raises(LockLostError):
        async with a.modify(Board) as board:
            taken_for_dead(redis_server, a)
            await add(b, by=100)
            board.count += 1
    assert (await served(a, Board)).count == (await stored(b, KEY))["count"] == 101


# -- states that are no more, or not yet -------------------------------------------------------------------------------


async def test_what_another_process_has_deleted_begins_anew_with_the_next_change(a, b):
    await add(a)
    for count in (1, 1):
        await b.delete(Board)
        await add(a)
        assert (await stored(b, KEY))["count"] == count
    state = await served(a, Board)
    await b.delete(Board)
    await state.add.run()
    assert (await stored(b, KEY))["count"] == 1
    await add(a, Wallet, by=5)
    await b.delete(Wallet)
    await (await served(a, Mover)).move.run()
    assert (await stored(b, "global:Wallet"))["count"] == -1


@pytest.mark.parametrize("how", ["is deleted", "leaves memory"])
async def test_what_is_told_of_a_state_while_it_is_loaded_is_not_lost(a, b, redis_server, how):
    """A stream is being opened, and its state is deleted meanwhile and made anew; or it is loaded again."""
    await add(b)
    entry = await entry_of(a, Board)
    with a.cluster.following.holding() as topics:
        await a.cluster.following.follow([entry], topics)
        if how == "is deleted":
            await b.delete(Board)
            await eventually(lambda: a.registry.find(KEY) is None)
            await add(b)
        else:
            assert a.registry.lifetimes.evict(KEY)
        await settled(redis_server, a)
        with held(a.store, "load") as load:
            loading = asyncio.create_task(entry_of(a, Board))
            await load.reached.wait()
            await add(b)
            await settled(redis_server, a)
            load.go()
            entry = await loading
        assert entry.state.count == 2 or not a.cluster.following.is_current(KEY)
        while not await a.cluster.following.follow([entry], topics):
            entry = await entry_of(a, Board)
        a.sse_manager.add_connection(SSEConnection(a.cluster.new_stream_id()), [KEY])
    assert (await served(a, Board)).count == entry.state.count == 2
    assert a.cluster.following.is_current(KEY)


async def test_a_state_that_two_transactions_want_is_up_to_date_when_the_first_finds_the_other_gone(a, b):
    """The news that came with the second state's lock are not passed over by the one to whom it is handed."""
    await add(a)
    await add(a, Wallet)
    board, wallet = a.registry.find(KEY), a.registry.find("global:Wallet")
    await b.delete(Board)
    await add(b, Wallet, by=100)

    async def both() -> None:
        transaction = Transaction(a.registry, [board, wallet])
        try:
            await transaction.begin()
        finally:
            transaction.end()

    with held(a.store, "lock", before=True) as lock:
        first = asyncio.create_task(both())
        await lock.reached.wait()
        second = asyncio.create_task(add(a, Wallet))
        await eventually(lambda: wallet.waiters)
        lock.go()
        await asyncio.gather(first, second, return_exceptions=True)
    assert second.exception() is None
    assert (await stored(b, "global:Wallet"))["count"] == 102


async def test_an_error_while_a_commit_is_taken_in_has_the_state_looked_up(redis_server):
    failing: list[int] = []

    class Gauge(ReactiveState):
        count: int = 0

        @computed_field
        @property
        def twice(self) -> int:
            if failing:
                failing.clear()
                raise RuntimeError("not now")
            return self.count * 2

    async with open_providers(redis_server, states={Gauge: of_all}) as (a, b):
        page = await watch(a, Gauge)
        await add(b, Gauge)
        await eventually(lambda: page.shows(Gauge) == 1)
        take = a.cluster.following._accept

        def take_and_fail(key: str, told: Any) -> None:
            failing.append(1)
            take(key, told)

        with instead(a.cluster.following, "_accept", take_and_fail):
            await add(b, Gauge)
            await eventually(lambda: page.shows(Gauge) == 2)
        await settled(redis_server, a)
        assert (await served(a, Gauge)).twice == 4 and a.cluster.following.is_current("global:Gauge")


async def test_a_process_that_has_not_used_a_state_for_long_does_not_end_it_for_the_others(redis_server):
    class Tray(ReactiveState):
        count: int = 0

    clock = Clock(0.0)
    states = {Tray: lambda: StateConfig(scope=StateScope.SESSION, ttl=1_000)}
    async with (
        open_providers(redis_server, 1, states, clock=clock) as (a,),
        open_providers(redis_server, 1, states) as (b,),
    ):
        await add(a, Tray, session_id="s")
        clock.now += 0.05
        await entry_of(a, Tray, session_id="s")  # looked at once more
        clock.now += 900
        await add(b, Tray, session_id="s")
        await a.registry.usage.tell_store()
        left = (await b.store.load("session:Tray:s")).ttl
        assert left > 900
        clock.now += 200
        assert a.registry.lifetimes.sweep() == 1
        await a.registry.usage.tell_store()
        assert (await b.store.load("session:Tray:s")).ttl > 900
        await add(b, Tray, session_id="s")
        await entry_of(a, Tray, session_id="s")
        clock.now += 900
        await a.stop()
        assert (await b.store.load("session:Tray:s")).ttl > 900
        assert (await stored(b, "session:Tray:s"))["count"] == 3


async def test_a_state_whose_page_was_left_is_given_less_time_by_the_process_that_hears_of_it(a, b):
    entry = await entry_of(a, Case, session_id="s")
    await add(a, Case, session_id="s")
    a.registry.lifetimes.keep_for(entry, 30)
    await a.registry.usage.tell_store()
    assert (await b.store.load("session:Case:s")).ttl <= 30
    a.registry.lifetimes.keep_for(entry, 1_000)
    await a.registry.usage.tell_store()
    assert (await b.store.load("session:Case:s")).ttl > 900
    await b.store.touch({"session:Case:s": 5_000})
    a.registry.lifetimes.touch(entry)
    a.registry.usage.note(entry)
    await a.registry.usage.tell_store()
    assert (await b.store.load("session:Case:s")).ttl > 4_000, "no process but that one has less time for it"


async def test_a_state_that_a_page_shows_in_one_process_is_idle_in_none(redis_server):
    class Seat(ReactiveState):
        count: int = 0

    clock, key = Clock(0.0), "session:Seat:s"
    states = {Seat: lambda: StateConfig(scope=StateScope.SESSION, ttl=1_000)}
    async with (
        open_providers(redis_server, 1, states, clock=clock) as (a,),
        open_providers(redis_server, 1, states) as (b,),
    ):
        await add(b, Seat, session_id="s")
        await watch(a, Seat, session_id="s")
        await b.store.touch({key: 10})  # as it has left when 990 seconds have passed
        clock.now += 990
        a.registry.lifetimes.sweep()
        await a.registry.usage.tell_store()
        assert (await b.store.load(key)).ttl > 900


# -- a connection that was lost ----------------------------------------------------------------------------------------


async def test_a_connection_that_was_lost_while_a_state_is_looked_up_has_it_looked_up_again(a):
    """It is not followed yet: of what was told while the connection was away nobody here knows."""
    entry = await entry_of(a, Board)
    with a.cluster.following.holding() as topics:
        with held(a.store, "fresh") as looked_up:
            following = asyncio.create_task(a.cluster.following.follow([entry], topics))
            await looked_up.reached.wait()
            a.cluster.following.lost()
            looked_up.go()
            assert not await following
        assert not a.cluster.following.is_current(KEY)
        a.cluster.following.found()
        assert await a.cluster.following.follow([entry], topics)


async def test_pages_are_told_to_be_no_further_while_a_connection_is_lost(a, b, redis_server):
    page = await watch(a, Board)
    await add(b)
    await settled(redis_server, a)
    a.cluster.following.lost()
    before = a.cluster.following.sequence
    with instead(a.cluster.following, "_accept", lambda key, message: None):  # as if it had been missed
        await add(b)
        last = await heard(redis_server, a)
    assert a.cluster.following.sequence == before < last
    with held(a.store, "fresh") as looked_up:
        a.cluster.following.found()
        await looked_up.reached.wait()
        await add(b, Wallet)
        last = await heard(redis_server, a)
        assert a.cluster.following.sequence == before
        looked_up.go()
    await eventually(lambda: a.cluster.following.sequence >= last)
    assert page.shows(Board) == 2


async def test_pages_are_told_to_be_no_further_while_a_state_is_looked_up(a, b, redis_server):
    async with a.modify(Board) as board:
        board.text = "x" * 70_000  # too much to be told
    page = await watch(a, Board)
    await settled(redis_server, a)
    before = a.cluster.following.sequence
    with held(a.store, "fresh") as looked_up:
        await add(b)
        await looked_up.reached.wait()
        await add(b, Wallet)
        last = await heard(redis_server, a)
        assert a.cluster.following.sequence == before
        looked_up.go()
    await eventually(lambda: a.cluster.following.sequence >= last)
    assert page.shows(Board) == 1


async def test_what_is_missed_while_a_state_is_looked_up_without_a_connection_is_looked_up_again(a, b, redis_server):
    """The look-up began before the connection was lost, and ends before it is back: it has not heard what came then."""
    async with a.modify(Board) as board:
        board.text = "x" * 70_000  # too much to be told
    page = await watch(a, Board)
    await settled(redis_server, a)
    with held(a.store, "fresh") as looked_up:
        await add(b)
        await looked_up.reached.wait()
        a.cluster.following.lost()
        looked_up.go()
        await eventually(lambda: not a.cluster.following._looking)
    with instead(a.cluster.following, "_accept", lambda key, message: None):  # what is published now is missed
        await add(b)
        await heard(redis_server, a)
    a.cluster.following.found()
    await eventually(lambda: page.shows(Board) == 2)


async def test_a_change_that_is_told_just_when_a_look_up_has_ended_is_looked_up(a):
    await watch(a, Board)
    following, looked, told = a.cluster.following, a.cluster.following._looked, []

    def tell_and_note_the_end(key: str, task: asyncio.Task[None]) -> None:
        if not told:
            told.append(key)
            following._look(key)
        looked(key, task)

    with instead(following, "_looked", tell_and_note_the_end):
        following._look(KEY)
        await eventually(lambda: told)
        await eventually(lambda: following.is_current(KEY))


async def test_a_provider_that_was_stopped_while_redis_was_away_begins_anew(a, b, redis_server):
    a.cluster.following.lost()
    await a.stop()
    await a.start()
    page = await watch(a, Board)
    await add(b)
    await eventually(lambda: page.shows(Board) == 1)
    last = sequence(redis_server)
    await eventually(lambda: a.cluster.following.sequence >= last)


async def test_a_process_that_stops_while_a_stream_is_being_opened_lets_it_go(a):
    entry = await entry_of(a, Board)
    with a.cluster.following.holding() as topics:
        await a.cluster.following.follow([entry], topics)
        await a.cluster.following.stop()
    assert not a.cluster.following.is_current(KEY)


async def test_positions_have_no_timeline_whose_numbers_they_are_not(new_redis):
    """Redis comes back without what it had, and counts from one again: until a process has caught up, a page that
    moves from there to another is told everything."""
    server = new_redis()
    async with open_providers(server) as (a, b):
        await watch(a, Board)
        for _ in range(20):
            await add(a)
        await settled(server, a)
        old = a.sse_manager.hooks.position()
        assert b.cluster.seen(old) == a.cluster.following.sequence >= 20
        with held(a.cluster.following._news, "caught_up", before=True) as catching_up:
            await asyncio.to_thread(server.restart)
            await catching_up.reached.wait()
            position = a.sse_manager.hooks.position()
            await eventually(lambda: b.store.timeline == a.store.timeline)
            await add(b, Wallet, by=5)
            wallet = await entry_of(b, Wallet)
            for seen in (b.cluster.seen(old), b.cluster.seen(position)):
                assert seen is None or not await b.page_streams._unchanged([wallet], seen)
            catching_up.go()
        await settled(server, a)
        assert b.cluster.seen(old) is None, "of another timeline"
        assert b.cluster.seen(a.sse_manager.hooks.position()) == a.cluster.following.sequence


async def test_a_position_says_no_more_than_what_was_decided(redis_server):
    """A rule is asked who may still see a commit: until it has answered, pages have been told nothing of it."""
    asked, answer = asyncio.Event(), asyncio.Event()
    answer.set()

    async def authorize(user, state, action) -> bool:
        asked.set()
        await answer.wait()
        return True

    states = {Board: lambda: StateConfig(scope=StateScope.GLOBAL, authorize=authorize), Wallet: of_all}
    async with open_providers(redis_server, states=states) as (a, b):
        page = await watch(a, Board, user=UserContext("ann"))
        await add(b)
        await eventually(lambda: page.shows(Board) == 1)
        await settled(redis_server, a)
        before = b.cluster.seen(a.sse_manager.hooks.position())
        asked.clear()
        answer.clear()
        await add(b)
        await asked.wait()
        await settled(redis_server, a)
        last = sequence(redis_server)
        assert a.cluster.following.sequence >= last > before
        assert b.cluster.seen(a.sse_manager.hooks.position()) == before and page.shows(Board) == 1
        answer.set()
        await eventually(lambda: page.shows(Board) == 2)
        await settled(redis_server, a)
        assert b.cluster.seen(a.sse_manager.hooks.position()) >= last


# -- rules that are asked about old copies -----------------------------------------------------------------------------


async def test_who_was_allowed_elsewhere_is_allowed_though_the_copy_here_is_older(redis_server):
    """A copy that nobody follows is not told: its "no" may be an old one."""

    class Desk(ReactiveState):
        allowed: list[str] = []
        count: int = 0

    def config() -> StateConfig:
        return StateConfig(scope=StateScope.GLOBAL, authorize=lambda user, state, action: user.id in state.allowed)

    async with open_providers(redis_server, states={Desk: config}) as (a, b):
        ann = request_of({"session_id": "s", "user_id": "ann"})
        assert (await served(b, Desk)).allowed == []
        with pytest.raises(FastStateError):
            async with b.modify(Desk, ann):
                pass
        async with a.modify(Desk) as desk:
            desk.allowed.append("ann")
        assert b.registry.peek("global:Desk").allowed == []
        async with b.modify(Desk, ann) as desk:
            desk.count += 1
        async with a.modify(Desk) as desk:
            desk.allowed.remove("ann")
        with pytest.raises(FastStateError):
            async with b.modify(Desk, ann) as desk:
                desk.count += 1
        assert (await stored(a, "global:Desk"))["count"] == 1


# -- two versions of a class -------------------------------------------------------------------------------------------


class Old(ReactiveState):
    schema_version = 2
    count: int = 0

    @classmethod
    def migrate(cls, values, version):
        if version == 1:
            values["count"] = int(values.pop("n"))
        return values


class New(ReactiveState):
    schema_version = 3
    amount: int = 0
    extra: str = ""

    @classmethod
    def migrate(cls, values, version):
        if version <= 2:
            values["amount"] = values.pop("count")
        return {"extra": "", **values}


class Narrow(ReactiveState):
    level: int = 0


class Wide(ReactiveState):
    level: str = "high"


def settings() -> StateConfig:
    return StateConfig(scope=StateScope.GLOBAL, name="Settings")


@contextlib.asynccontextmanager
async def two_versions(server, old, new):
    async with open_providers(server, 1, {old: settings}) as (a,), open_providers(server, 1, {new: settings}) as (b,):
        yield a, b


@pytest.mark.parametrize(("old", "new", "name", "value"), [(Old, New, "amount", 7), (Narrow, Wide, "level", "low")])
async def test_an_older_process_leaves_alone_what_a_newer_one_has_stored(redis_server, old, new, name, value):
    async with two_versions(redis_server, old, new) as (a, b):
        async with b.modify(new) as state:
            setattr(state, name, value)
        before = await b.store.load("global:Settings")
        for attempt in (served(a, old), a.modify(old).__aenter__()):
            with pytest.raises(FastStateError):
                await attempt
        assert await b.store.load("global:Settings") == before and a.stats().kept_aside == 0
        assert getattr(await served(b, new), name) == value


async def test_a_page_is_not_told_to_have_what_its_process_cannot_read(redis_server):
    async with two_versions(redis_server, Old, New) as (a, b):
        async with a.modify(Old) as state:
            state.count = 1
        await watch(a, Old)
        await settled(redis_server, a)
        async with b.modify(New) as state:
            state.amount = 2
        await heard(redis_server, a)
        seen = b.cluster.seen(a.sse_manager.hooks.position())
        assert not await b.page_streams._unchanged([await entry_of(b, New)], seen)


# -- events that come again --------------------------------------------------------------------------------------------


class Job(ReactiveState):
    done: int = 0
    mails: list[str] = []

    @event
    async def mail(self):
        pass

    @event
    async def work(self):
        yield
        self.done += 1


async def test_an_event_that_changed_nothing_is_not_run_again_by_another_process(redis_server):
    async with open_providers(redis_server, states={Job: of_all}) as (a, b):
        assert [await run(provider, Job, "mail", "1") for provider in (a, b, a)] == [
            ["ran"],
            ["repeated"],
            ["repeated"],
        ]


async def test_an_event_whose_first_step_changes_nothing_is_not_run_again_behind_it(redis_server):
    """The page's connection breaks behind the first step, and it tries again elsewhere."""
    async with open_providers(redis_server, states={Job: of_all}) as (a, b):
        again: list[str] = []

        async def between() -> None:
            again.extend(await run(b, Job, "work", "1"))

        assert await run(a, Job, "work", "1", between) == ["ran", "ran"]
        assert again == ["repeated"]
        assert (await served(a, Job)).done == 1


async def test_an_event_that_changed_another_state_alone_is_not_run_again_by_another_process(a, b):
    await entry_of(b, Mover)
    assert [await run(provider, Mover, "pay", "1", wallet=Wallet) for provider in (a, b)] == [["ran"], ["repeated"]]
    assert (await stored(a, "global:Wallet"))["count"] == -1


async def test_nonces_grow_old_in_all_processes(redis_server, monkeypatch):
    """What one takes in of another's is as old as it was there; so a state does not carry more and more of them."""
    clock = Clock()
    monkeypatch.setattr(entries, "time", SimpleNamespace(time=lambda: 1_700_000_000 + clock.now))
    async with open_providers(redis_server, clock=clock) as (a, b):

        async def kept() -> int:
            return len(json.loads((await a.store.load(KEY)).data)["nonces"])

        for place in range(NONCES_IN_ANY_CASE + 30):
            await run(a, Board, "add", f"early-{place}")
        assert await kept() == NONCES_IN_ANY_CASE + 30, "all of them may come again"
        clock.now += NONCE_AGE + 1
        await run(b, Board, "add", "late")
        assert await kept() <= NONCES_IN_ANY_CASE + 1
        for place in range(2 * NONCES_IN_ANY_CASE):
            clock.now += NONCE_AGE / 4
            await run((a, b)[place % 2], Board, "add", f"later-{place}")
            assert await kept() <= NONCES_IN_ANY_CASE + 1
        assert await run(b, Board, "add", f"later-{place}") == ["repeated"]


# -- what others are told besides --------------------------------------------------------------------------------------


async def test_a_broadcast_from_a_thread_reaches_the_pages_of_others(a, b):
    """Of a process that has no stream open yet."""
    page = await watch(a, Board)
    await asyncio.to_thread(lambda: b.sse_manager.broadcast_to_state(KEY, {"count": 9}))
    await eventually(lambda: page.shows(Board) == 9)
    await b.sse_manager.broadcast_to_state(KEY, {"count": 8})
    await eventually(lambda: page.shows(Board) == 8)


async def test_pages_follow_a_state_though_another_version_of_the_app_tells_of_its_change(a, b, caplog):
    """As during a deploy: a message that cannot be read may tell of anything, so the state is looked up."""
    page = await watch(a, Board)
    other = b'{"v": 99, "kind": "of another version"}\n'
    with instead(committing, "encode", lambda message: other):
        await add(b, by=4)
    await eventually(lambda: page.shows(Board) == 4)
    assert "another version of the app has sent it" in caplog.text


async def test_a_broadcast_has_any_value_that_a_field_may_have(a, b):
    pages = [await watch(a, Board), await watch(b, Board)]
    await b.sse_manager.broadcast_to_state(KEY, {"count": datetime.date(2026, 1, 1)})
    for page in pages:
        await eventually(lambda page=page: page.shows(Board) == "2026-01-01")


def test_a_provider_can_be_stopped_where_another_loop_has_just_broadcast(redis_server):
    """The other loop waits for the end, as a thread of a server does."""
    provider = make_provider(redis_server)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(provider.start(), loop).result(10)

        async def other() -> None:
            provider.sse_manager.broadcast_to_state(KEY, {"count": 1})
            await asyncio.sleep(0)
            asyncio.run_coroutine_threadsafe(provider.stop(), loop).result(10)

        asyncio.run(other())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def test_what_a_process_tells_while_it_stops_has_been_told_when_it_has_stopped(a):
    told, real = [], a.store.publish

    async def publish(messages) -> None:
        await real(messages)
        told.append(asyncio.get_running_loop())
        if len(told) == 1:
            a.cluster.reload_pages("told while the first one was sent")

    with instead(a.store, "publish", publish), held(a.cluster.following, "stop") as stopping:
        a.cluster.reload_pages("the first one")
        task = asyncio.create_task(a.stop())
        await stopping.reached.wait()
        a.cluster.reload_pages("told while it stops following")
        stopping.go()
        await task
        assert told == [asyncio.get_running_loop()] * 3
