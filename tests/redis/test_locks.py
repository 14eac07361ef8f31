"""Locks between processes. Two stores in one process are to each other as two processes."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faststate.exceptions import LockLostError, LockTimeoutError, PersistenceError, VersionConflict
from faststate.scopes import Version
from faststate.stores.backplane import Message
from faststate.stores.base import Hold, Locked, SharedStore, Stored, Write
from faststate.stores.redis import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from .stand import first, script, version


def left(server: RedisServer, *kinds: str) -> set[str]:
    """The keys that are left of locks, requests for them, and notes."""
    return {key for key in sorted(server.keys()) if key.split(":")[1] in (kinds or ("l", "w", "n"))}


async def none_left(server: RedisServer) -> None:
    await eventually(lambda: not left(server))


def waits(server: RedisServer, key: str, count: int = 1) -> Callable[[], bool]:
    return lambda: bool(server.do("LLEN", f"{{faststate}}:w:{key}") == count)


def test_the_redis_store_keeps_the_protocol(new_store):
    assert isinstance(new_store(), SharedStore)


async def test_a_lock_brings_what_is_stored_where_that_is_news(one):
    await one.save_many([first("same"), first("other", b"new"), first("looked for")])
    locked = await one.lock(
        {"same": version(1), "other": version(1, "former life"), "gone": version(3), "none": None},
        1,
        ["looked for", "missing"],
    )
    assert list(locked.holds) == ["gone", "none", "other", "same"]
    assert locked.news == {"other": Stored(version(1), b"new", None), "gone": None}
    assert locked.present == {"looked for"}
    assert not locked.unclean and not locked.wanted


async def test_what_has_expired_is_news_but_for_who_has_used_it(new_store):
    now = 1_800_000_000.0
    store = new_store(clock=lambda: now)
    await store.save(first("key", ttl=10))
    now += 11
    assert (await store.lock({"key": version(1)}, 1, ["key"])).news == {}
    assert await store.fresh({"key": version(1)}) == {}
    assert await store.fresh({"key": version(2)}) == {"key": None}
    assert await store.fresh({"key": None}) == {}
    await store.touch({"key": 10})
    assert await store.fresh({"key": None}) == {"key": Stored(version(1), b"data", 10)}


async def test_a_lock_and_a_commit_are_one_round_trip_each(new_store, redis_server):
    store = new_store(beat=1_000.0)
    await store.open()
    await store.commit([], holds=(await store.lock({"x": None}, 1)).holds.values())  # which loads the scripts
    with redis_server.client() as client, client.monitor() as monitor:
        locked = await store.lock({"a": None, "b": None}, 1, ["c"])
        await store.commit([first("a"), first("b")], [Message("a", b"changed")], locked.holds.values())
        redis_server.do("PING", "end")
        sent = []
        for seen in monitor.listen():
            if seen["command"] == "PING end":
                break
            if seen["client_type"] != "lua":
                sent.append(seen["command"].split()[0])
    assert [word for word in sent if word not in ("CLIENT", "HELLO")] == ["EVALSHA", "EVALSHA"]


async def test_a_lock_is_had_by_one_and_handed_over_in_the_order_of_asking(new_store, redis_server):
    stores = [new_store() for _ in range(5)]
    holds = (await stores[0].lock({"key": None}, 5)).holds
    order: list[int] = []

    async def take(number: int) -> None:
        locked = await stores[number].lock({"key": None}, 20)
        order.append(number)
        await stores[number].commit([], holds=locked.holds.values())

    tasks = []
    for number in range(1, 5):
        tasks.append(asyncio.create_task(take(number)))
        await eventually(waits(redis_server, "key", number))
    assert not order
    await stores[0].commit([], holds=holds.values())
    await asyncio.gather(*tasks)
    assert order == [1, 2, 3, 4]
    assert not left(redis_server)


async def test_a_hand_over_does_not_wait_for_the_next_look(one, two, redis_server, monkeypatch):
    monkeypatch.setattr("faststate.stores.redis.locking.LOOK_AGAIN", 1_000.0)
    holds = (await one.lock({"key": None}, 5)).holds
    waiting = asyncio.create_task(two.lock({"key": None}, 20))
    await eventually(waits(redis_server, "key"))
    one.unlock(holds.values())
    assert (await waiting).unclean == frozenset()


async def test_a_waiter_looks_again_when_the_word_was_lost(one, two, redis_server, monkeypatch):
    monkeypatch.setattr("faststate.stores.redis.locking.RedisLocks.woken", lambda self, fence: None)
    holds = (await one.lock({"key": None}, 5)).holds
    waiting = asyncio.create_task(two.lock({"key": None}, 20))
    await eventually(waits(redis_server, "key"))
    one.unlock(holds.values())
    await waiting


async def test_who_holds_what_another_wants_is_told(one, two, redis_server):
    locked = await one.lock({"a": None, "b": None}, 5)
    waiting = asyncio.create_task(two.lock({"b": None}, 20))
    await eventually(waits(redis_server, "b"))
    done = await one.commit([first("a"), first("b")], holds=locked.holds.values(), keep={"a", "b"})
    assert done.wanted == {"b"}
    done = await one.commit([], holds=locked.holds.values(), keep={"a"})  # b is given back
    assert done.wanted == frozenset()
    assert (await waiting).news == {"b": Stored(version(1), b"data", None)}
    await one.commit([Write("a", version(1), version(2), b"x")], holds=[locked.holds["a"]])
    with pytest.raises(LockLostError, match="the lock of b"):
        await one.commit([], holds=[locked.holds["b"]])


async def test_who_is_handed_a_lock_is_told_who_waits_behind(new_store, one, two, redis_server):
    third = new_store()
    holds = (await one.lock({"key": None}, 5)).holds
    second = asyncio.create_task(two.lock({"key": None}, 20))
    await eventually(waits(redis_server, "key", 1))
    last = asyncio.create_task(third.lock({"key": None}, 20))
    await eventually(waits(redis_server, "key", 2))
    one.unlock(holds.values())
    assert (await second).wanted == {"key"}
    two.unlock((await second).holds.values())
    assert (await last).wanted == frozenset()


async def test_a_commit_under_a_lost_lock_changes_nothing_and_tells_nobody(one, two):
    await one.save(first("b"))
    locked = await one.lock({"a": None, "b": version(1)}, 1)
    one.unlock([locked.holds["b"]])
    theirs = await two.lock({"b": version(1)}, 5)
    before = await one.sequences(["b"])
    with pytest.raises(LockLostError, match="another process holds the lock of b"):
        await one.commit(
            [first("a"), Write("b", version(1), version(2), b"lost")], [Message("t", b"lost")], locked.holds.values()
        )
    assert await one.load("a") is None
    assert await one.sequences(["b"]) == before
    await one.commit([first("a")], holds=[locked.holds["a"]])  # this one was kept
    await two.commit([], holds=theirs.holds.values())


async def test_a_lock_that_was_had_by_another_meanwhile_is_lost(one, two):
    locked = await one.lock({"key": None}, 1)
    one.unlock(locked.holds.values())
    theirs = await two.lock({"key": None}, 5)
    await two.commit([], holds=theirs.holds.values())
    again = await one.lock({"key": None}, 1)
    with pytest.raises(LockLostError):
        await one.commit([first("key")], holds=locked.holds.values())
    await one.commit([first("key")], holds=again.holds.values())


async def test_a_conflict_keeps_the_locks(one):
    locked = await one.lock({"key": None}, 1)
    with pytest.raises(VersionConflict, match=r"the store holds key at None, not at life\.3"):
        await one.commit([Write("key", version(3), version(4), b"x")], holds=locked.holds.values())
    await one.commit([first("key")], holds=locked.holds.values())


async def test_a_lock_that_cannot_be_had_in_time_is_named_and_nothing_is_locked(one, two, redis_server):
    holds = (await one.lock({"b": None}, 5)).holds
    with pytest.raises(LockTimeoutError, match=r"^b was locked by another process for 0\.2 s$"):
        await two.lock({"a": None, "b": None, "c": None}, 0.2)
    await eventually(lambda: left(redis_server) == {"{faststate}:l:b"})
    one.unlock(holds.values())
    await none_left(redis_server)


async def test_a_waiter_that_is_cancelled_leaves_nothing(one, two, redis_server):
    holds = (await one.lock({"b": None}, 5)).holds
    waiting = asyncio.create_task(two.lock({"a": None, "b": None}, 20))
    await eventually(waits(redis_server, "b"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(lambda: left(redis_server) == {"{faststate}:l:b"})
    one.unlock(holds.values())
    await none_left(redis_server)


async def test_waiters_that_are_cancelled_at_any_moment_leave_nothing(one, two, redis_server):
    for steps in range(60):
        stores = (one, two)
        tasks = [asyncio.create_task(stores[n % 2].lock({"a": None, "b": None}, 20)) for n in range(4)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for number, got in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(got, Locked):
                stores[number % 2].unlock(got.holds.values())
    await none_left(redis_server)


async def test_locks_of_many_keys_taken_crosswise_never_deadlock(one, two):
    async def work(store: RedisStore, keys: list[str]) -> None:
        for _ in range(20):
            locked = await store.lock(dict.fromkeys(keys), 20)
            await store.commit([], holds=locked.holds.values())

    await asyncio.gather(
        work(one, ["a", "b", "c"]), work(two, ["c", "b", "a"]), work(one, ["b", "a"]), work(two, ["c", "a"])
    )


async def test_no_change_of_many_holders_is_lost(one, two, redis_server):
    async def add(store: RedisStore) -> None:
        found: Stored | None = None
        for _ in range(20):
            locked = await store.lock({"key": found and found.version}, 20)
            found = locked.news.get("key", found)
            count = int(found.data) + 1 if found else 1
            new = version(count)
            write = Write("key", found and found.version, new, b"%d" % count)
            await store.commit([write], holds=locked.holds.values())
            found = Stored(new, write.data or b"", None)

    await asyncio.gather(*(add(store) for store in (one, two) for _ in range(3)))
    assert await one.load("key") == Stored(version(120), b"120", None)
    assert not left(redis_server)


async def test_an_unclean_unlock_is_told_until_somebody_has_committed(one, two):
    locked = await one.lock({"key": None, "other": None}, 1)
    one.unlock([locked.holds["key"]], unclean=True)
    one.unlock([locked.holds["other"]])
    theirs = await two.lock({"key": None, "other": None}, 5)
    assert theirs.unclean == {"key"}
    two.unlock(theirs.holds.values(), unclean=True)
    again = await one.lock({"key": None, "other": None}, 5)
    assert again.unclean == {"key", "other"}
    await one.commit([], holds=again.holds.values(), keep={"key"})
    one.unlock([again.holds["key"]])
    assert (await two.lock({"key": None, "other": None}, 5)).unclean == frozenset()


async def test_a_request_that_is_given_up_leaves_what_is_unclean_unclean(one, two, redis_server):
    locked = await one.lock({"a": None}, 1)
    one.unlock(locked.holds.values(), unclean=True)
    holds = (await one.lock({"b": None}, 1)).holds
    with pytest.raises(LockTimeoutError):
        await two.lock({"a": None, "b": None}, 0.2)
    one.unlock(holds.values())
    assert (await two.lock({"a": None, "b": None}, 5)).unclean == {"a"}


# -- death -------------------------------------------------------------------------------------------------------------

HOLDER = """
import asyncio, sys
from faststate.exceptions import PersistenceError
from faststate.scopes import Version
from faststate.stores import Write
from faststate.stores.redis import RedisStore

async def main():
    store = RedisStore(sys.argv[1], beat=0.1, silence=1.0)
    locked = await store.lock({"key": None}, 10)
    print("locked", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await store.commit([Write("key", None, Version("late", 1), b"late")], (), locked.holds.values())
    except PersistenceError as error:
        print(type(error).__name__, flush=True)
    else:
        print("committed", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    locked = await store.lock({"key": None}, 10)
    print("locked again", locked.news["key"].data, flush=True)
    await store.close()

asyncio.run(main())
"""


async def test_the_lock_of_a_process_that_was_killed_is_free_and_unclean(one, redis_server):
    with script(HOLDER, redis_server.url) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "locked\n"
        waiting = asyncio.create_task(one.lock({"key": None}, 30))
        await eventually(waits(redis_server, "key"))
        process.kill()
        assert (await waiting).unclean == {"key"}
        await eventually(lambda: set(one.members) == {one.origin})


async def test_a_process_that_was_stopped_is_refused_what_it_does_under_its_lock(one, redis_server):
    with script(HOLDER, redis_server.url) as process:
        assert process.stdout is not None and process.stdin is not None
        assert await asyncio.to_thread(process.stdout.readline) == "locked\n"
        process.send_signal(signal.SIGSTOP)
        locked = await one.lock({"key": None}, 30)
        assert locked.unclean == {"key"}
        await one.commit([first("key", b"mine")], holds=locked.holds.values())
        process.stdin.write("\n")
        process.stdin.flush()
        process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.stdout.readline) == "LockLostError\n"
        assert await one.load("key") == Stored(version(1), b"mine", None)
        process.stdin.write("\n")
        process.stdin.flush()  # it goes on, as another
        assert await asyncio.to_thread(process.stdout.readline) == "locked again b'mine'\n"
        assert process.wait(20) == 0


async def test_the_locks_of_a_process_that_closes_are_free(one, two):
    await one.lock({"key": None}, 1)
    waiting = asyncio.create_task(two.lock({"key": None}, 20))
    await one.close()
    assert (await waiting).unclean == {"key"}
    assert one.origin not in (await two.lock({"other": None}, 1)).holds["other"].fence


async def test_a_process_that_was_buried_joins_anew_and_its_locks_are_void(one, two, redis_server):
    former = one.origin
    locked = await one.lock({"key": None}, 1)
    redis_server.do("HDEL", "{faststate}:members", former)
    await eventually(lambda: one.origin != former and one.origin in two.members)
    with pytest.raises(LockLostError):
        await one.commit([first("key")], holds=locked.holds.values())
    one.unlock(locked.holds.values())  # which does nothing
    again = await one.lock({"key": None}, 5)
    assert again.unclean == {"key"}
    await one.commit([first("key")], holds=again.holds.values())


async def test_who_is_buried_while_it_waits_goes_on_waiting(one, two, redis_server):
    holds = (await one.lock({"b": None}, 1)).holds
    waiting = asyncio.create_task(two.lock({"a": None, "b": None}, 20))
    await eventually(waits(redis_server, "b"))
    redis_server.do("HDEL", "{faststate}:members", two.origin)
    await eventually(waits(redis_server, "b", 2))
    one.unlock(holds.values())
    theirs = await waiting
    assert theirs.holds["a"].fence.startswith(two.origin)
    await two.commit([], holds=theirs.holds.values())
    await none_left(redis_server)


async def test_a_dead_waiter_is_passed_over(one, two, redis_server):
    holds = (await one.lock({"key": None}, 1)).holds
    redis_server.do("RPUSH", "{faststate}:w:key", "nobody:1", "nobody:2")
    waiting = asyncio.create_task(two.lock({"key": None}, 20))
    await eventually(waits(redis_server, "key", 3))
    one.unlock(holds.values())
    two.unlock((await waiting).holds.values())
    await none_left(redis_server)


async def test_a_process_that_is_busy_buries_nobody(new_store):
    one, two = new_store(answer_timeout=20.0), new_store(answer_timeout=20.0)  # a beat may be on its way meanwhile
    await one.open()
    await two.open()
    await eventually(lambda: len(one.members) == 2 and len(two.members) == 2)
    origins = {one.origin, two.origin}
    time.sleep(2.5)  # noqa: ASYNC251 - neither beats for longer than the silence, and neither could have seen it
    locked = await one.lock({"key": None}, 1)
    await two.lock({"other": None}, 1)
    assert {one.origin, two.origin} == origins
    await one.commit([first("key")], holds=locked.holds.values())


# -- unknown outcomes --------------------------------------------------------------------------------------------------


async def test_a_lock_that_is_answered_too_late_is_given_back(new_store, redis_server):
    store = new_store(answer_timeout=2.0, connect_timeout=2.0, silence=60.0)
    await store.open()
    with redis_server.paused():
        with pytest.raises(PersistenceError):
            await store.lock({"key": None}, 10)
        with pytest.raises(PersistenceError):  # it is known to be away by now
            async with asyncio.timeout(1.5):
                await store.lock({"key": None}, 10)
    await eventually(lambda: any(key.startswith("{faststate}:c:") for key in sorted(redis_server.keys())))
    await none_left(redis_server)
    other = new_store()
    await other.lock({"key": None}, 5)


async def test_a_request_that_comes_after_it_was_given_up_takes_nothing(one, redis_server):
    from faststate.stores.redis.scripts import GIVE_BACK, LOCK

    fence = f"{one.origin}:0"
    redis_server.do("EVAL", GIVE_BACK.text, 1, "{faststate}:", "unknown", "key", fence)
    assert redis_server.do("EVAL", LOCK.text, 1, "{faststate}:", "", fence, 1, "key", "") == [b"given up"]
    assert not left(redis_server)
    assert 0 < redis_server.do("TTL", f"{{faststate}}:c:{fence}") <= 3600


async def test_locks_are_given_back_when_redis_is_there_again(new_store, redis_server):
    store = new_store(answer_timeout=2.0, connect_timeout=2.0, silence=60.0)
    locked = await store.lock({"key": None}, 10)
    with redis_server.paused():
        store.unlock(locked.holds.values())
        with pytest.raises(PersistenceError):
            await store.load("key")
    await none_left(redis_server)


async def test_many_locks_are_given_back_at_once(one, redis_server):
    locked = await one.lock({f"{number}": None for number in range(2_000)}, 5)
    one.unlock(locked.holds.values())
    await none_left(redis_server)


async def test_a_lock_from_another_loop_that_nobody_waits_for_any_more_is_given_back(one, redis_server):
    async def ask_and_go(steps: int) -> None:
        task = asyncio.create_task(one.lock({"key": None}, 5))
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0005 * steps)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            one.unlock((await task).holds.values())

    for steps in range(20):
        await asyncio.to_thread(asyncio.run, ask_and_go(steps))
    await none_left(redis_server)


# -- any sequence ------------------------------------------------------------------------------------------------------

KEYS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        KEYS,
        st.sampled_from(["commit", "commit", "keep", "unlock", "unclean", "cancel", "bury"]),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=12,
)


@given(actions=ACTIONS)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@pytest.mark.timeout(180)
def test_whatever_holders_do_no_change_is_lost_and_no_lock_is_left(redis_server, actions):
    prefix = os.urandom(4).hex()

    async def compare() -> None:
        stores = [RedisStore(f"{redis_server.url}?prefix={prefix}", beat=0.05, silence=20.0) for _ in range(3)]
        made: dict[str, int] = {}

        async def act(number: int, keys: list[str], what: str, steps: int) -> None:
            store = stores[number]
            locked: Any = None
            try:
                if what == "cancel":
                    task = asyncio.create_task(store.lock(dict.fromkeys(keys), 20))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        locked = await task
                        store.unlock(locked.holds.values())
                    return
                locked = await store.lock(dict.fromkeys(keys), 20)
                if what == "bury":
                    redis_server.do("HDEL", f"{{{prefix}}}:members", store.origin)
                found = {key: locked.news.get(key) for key in keys}
                writes = [change(key, stored) for key, stored in found.items()]
                if what in ("unlock", "unclean"):
                    store.unlock(locked.holds.values(), unclean=what == "unclean")
                    return
                keep = keys[:1] if what == "keep" else ()
                await store.commit(writes, (), locked.holds.values(), keep)
                for write in writes:
                    made[write.key] = made.get(write.key, 0) + 1
                if keep:
                    store.unlock([locked.holds[key] for key in keep])
            except LockLostError:  # it was buried, here or by an action beside it
                store.unlock(locked.holds.values())

        def change(key: str, stored: Stored | None) -> Write:
            number = stored.version.number + 1 if stored else 1
            return Write(key, stored and stored.version, Version("life", number), b"%d" % number)

        await asyncio.gather(*(act(*action) for action in actions))
        found = await stores[0].fresh(dict.fromkeys("abc"))
        assert {key: int(stored.data) for key, stored in found.items() if stored} == made
        # What a buried one held is taken by the next, and everything can be had.
        everything = await stores[1].lock(dict.fromkeys("abc"), 20)
        stores[1].unlock(everything.holds.values())
        await eventually(lambda: not [key for key in redis_server.keys(f"{{{prefix}}}:*") if key.split(":")[1] in "lw"])
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(compare())


async def test_the_fence_of_a_hold_is_never_had_again(one, two):
    seen: set[Hold] = set()
    for store in (one, two, one, two):
        locked = await store.lock({"key": None}, 5)
        assert seen.isdisjoint(locked.holds.values())
        seen |= set(locked.holds.values())
        await store.commit([], holds=locked.holds.values())
