"""The Redis store: what it keeps, and what happens when Redis fails, restarts or has lost something."""

import asyncio
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading

import pytest
import redis

from faststate.exceptions import (
    BackendError,
    ConfigurationError,
    LockLostError,
    MissingDependencyError,
    PersistenceError,
    VersionConflict,
)
from faststate.scopes import Version
from faststate.stores.base import EXPIRED_KEPT, Stored, Write
from faststate.stores.redis import RedisStore
from faststate.stores.urls import store_from_url
from tests.support import ROOT
from tests.support.processes import free_port
from tests.support.redis_server import DURABLE, require_redis
from tests.support.waiting import eventually

from .stand import Listener, first, version

# -- URLs --------------------------------------------------------------------------------------------------------------


async def test_a_url_names_a_redis_and_the_prefix_of_its_keys(redis_server):
    for number, prefix in enumerate(["", "?prefix=shop", "/3?prefix=a%20b&socket_keepalive=yes"]):
        store = store_from_url(redis_server.url + prefix)
        assert isinstance(store, RedisStore)
        await store.save(first(f"{number}"))
        await store.close()
    assert {key.partition(":")[0] for key in sorted(redis_server.keys())} == {"{faststate}", "{shop}"}
    with redis_server.client(db=3) as client:
        assert client.exists("{a b}:s:2")


async def test_a_unix_socket_may_be_named(new_redis, tmp_path):
    path = f"/tmp/faststate-{os.getpid()}.sock"
    new_redis(unixsocket=path)
    store = store_from_url(f"unix://{path}?prefix=shop")
    await store.save(first("key"))
    assert await store.load("key") is not None
    await store.close()


@pytest.mark.parametrize(
    "url",
    ["redis://user:topsecret/x@host/0", "redis://:topsecret@host:port/0", "redis://:topsecret@host?prefix=",
     "redis://:topsecret@host?prefix=a%7Db", "redis://:topsecret@host?socket_timeout=x"],
)  # fmt: skip
def test_a_url_that_cannot_be_read_is_a_mistake_that_tells_no_secrets(url):
    with pytest.raises(ConfigurationError) as caught:
        store_from_url(url)
    assert "topsecret" not in str(caught.value)
    assert (caught.value.__cause__ is None and caught.value.__suppress_context__) or caught.value.__context__ is None


def test_a_store_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingDependencyError, match=r"faststate\[redis\]"):
        store_from_url("redis://localhost")


async def test_apps_with_other_prefixes_know_nothing_of_each_other(new_store, redis_server):
    one, two = (new_store(url=f"{redis_server.url}?prefix={name}") for name in ("one", "two"))
    listener = Listener()
    await two.listen(listener)
    await two.subscribe(["key"])
    await one.save(first("key", group="group"))
    await one.lock({"key": None}, 5)
    await two.lock({"key": None}, 5)
    assert await two.load("key") is None and await two.group("group") == {}
    assert set(one.members) == {one.origin} and set(two.members) == {two.origin}


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_what_expires_leaves_redis_an_hour_later(new_store, redis_server):
    store = new_store()
    await store.save_many([first("key", ttl=10, group="group"), first("ever", group="forever")])
    for name in ("s:key", "g:group"):
        assert EXPIRED_KEPT < redis_server.do("TTL", "{faststate}:" + name) <= EXPIRED_KEPT + 10
    assert redis_server.do("TTL", "{faststate}:s:ever") == -1
    await store.touch({"key": 100})
    for name in ("s:key", "g:group"):
        assert EXPIRED_KEPT + 10 < redis_server.do("TTL", "{faststate}:" + name) <= EXPIRED_KEPT + 100
    await store.touch({"key": None})
    for name in ("s:key", "g:group"):
        assert redis_server.do("TTL", "{faststate}:" + name) == -1
    await store.touch({"key": 0.001, "ever": -10_000})
    await eventually(lambda: not redis_server.do("EXISTS", "{faststate}:s:ever"))
    assert await store.load("key") is None
    assert await store.group("forever") == {}
    assert not redis_server.do("EXISTS", "{faststate}:g:forever")  # it was met and cleaned


async def test_a_group_of_many_is_read_in_portions(new_store, redis_server, monkeypatch):
    monkeypatch.setattr("faststate.stores.redis.link.PORTION", 7)
    store = new_store()
    for start in range(0, 100, 20):  # of one sequence number are more than a page has
        await store.save_many([first(f"{number}", b"%d" % number, group="g") for number in range(start, start + 20)])
    for number in range(100, 130):
        await store.save(first(f"{number}", b"%d" % number, group="g"))
    assert {key: int(found.data) for key, found in (await store.group("g")).items()} == {f"{n}": n for n in range(130)}
    assert set(await store.group_since("g", 4)) == {f"{number}" for number in range(80, 130)}
    assert set(await store.group_since("g", 34)) == {"129"}
    assert await store.group_since("g", 35) == {}
    assert (await store.sequences(["0", "99", "129", "none"])) == {"0": 1, "99": 5, "129": 35}
    assert len(await store.fresh({f"{number}": None for number in range(140)})) == 130
    await store.delete([f"{number}" for number in range(130)])
    assert {key.partition(":")[2] for key in sorted(redis_server.keys())} == {"run", "timeline", "seq"}


async def test_each_commit_that_changes_something_has_the_next_number(new_store):
    store = new_store()
    assert (await store.commit([first("a"), first("b")])).sequence == 1
    assert (await store.commit([])).sequence == 1
    assert (await store.commit([Write("c", None, version(1), None)])).sequence == 1
    assert (await store.commit([Write("a", version(1), version(2), None)])).sequence == 2
    with pytest.raises(VersionConflict):
        await store.commit([Write("b", version(2), version(3), b"")])
    await store.save(Write("b", version(1), version(2), b""))
    assert await store.sequences(["a", "b"]) == {"b": 3}


async def test_a_conflict_names_the_key_and_both_versions(new_store):
    store = new_store()
    await store.save(first("key"))
    with pytest.raises(VersionConflict, match=r"^the store holds key at life\.1, not at other life\.1$"):
        await store.save(Write("key", version(1, "other life"), version(2), b""))
    with pytest.raises(VersionConflict, match=r"^the store holds key at life\.1, not at None$"):
        await store.save(first("key"))


async def test_one_text_that_cannot_be_sent_harms_no_other(new_store):
    store = new_store()
    good, bad = store.save(first("good")), store.save(first("\ud800"))
    results = await asyncio.gather(good, bad, return_exceptions=True)
    assert results[0] is None and isinstance(results[1], UnicodeEncodeError)


async def test_scripts_that_redis_has_forgotten_are_sent_again(new_store, redis_server):
    store = new_store()
    await store.open()
    for number in range(3):
        redis_server.do("SCRIPT", "FLUSH")
        await asyncio.gather(*(store.save(first(f"{number}.{n}")) for n in range(10)))
    assert len(await store.fresh({f"{number}.{n}": None for number in range(3) for n in range(10)})) == 30


async def test_the_servers_clock_decides_what_has_expired(new_store):
    store = new_store()
    await store.save_many([first("past", ttl=-0.001), first("future", ttl=1_000)])
    assert await store.load("past") is None
    found = await store.load("future")
    assert found is not None and found.ttl is not None and 900 < found.ttl <= 1_000


# -- a Redis that was started anew -------------------------------------------------------------------------------------


def aged(epoch: str, timeline: str) -> str:
    return hashlib.sha1(f"{epoch}{timeline}".encode()).hexdigest()[:12]


async def test_what_a_restarted_redis_has_kept_has_another_epoch_for_everybody(new_redis, new_store):
    server = new_redis(**DURABLE)
    one, two = new_store(server), new_store(server)
    await one.open()
    await two.open()
    await one.save_many([first("key", b"kept", group="g"), first("written", group="g")])
    before = one.timeline
    server.restart()
    await eventually(lambda: one.timeline != before and two.timeline == one.timeline)
    old = aged("life", one.timeline)
    with pytest.raises(VersionConflict, match=rf"the store holds key at {old}\.1, not at life\.1"):
        await two.save(Write("key", version(1), version(2), b"old writer"))
    expected = Stored(version(1, old), b"kept", None)
    for store in (one, two):
        assert await store.load("key") == expected
        assert (await store.group("g"))["key"] == expected
        assert (await store.group_since("g", 0))["key"] == expected
        assert (await store.fresh({"key": version(1)})) == {"key": expected}
        assert (await store.fresh({"key": version(1, old)})) == {}
    locked = await one.lock({"key": version(1)}, 10)
    assert locked.news == {"key": expected}
    await one.commit([Write("key", version(1, old), version(2, old), b"new")], holds=locked.holds.values())
    assert await two.load("key") == Stored(version(2, old), b"new", None)
    await two.save(Write("key", version(2, old), version(3, old), b"newer"))
    assert await one.sequences(["key", "written"]) == {"key": 3, "written": 1}
    server.restart()
    await eventually(lambda: one.timeline != before and two.timeline == one.timeline)


async def test_a_redis_that_has_lost_all_refuses_old_writers_and_old_locks(new_redis, new_store):
    server = new_redis()
    store = new_store(server)
    listener = Listener()
    await store.listen(listener)
    await store.save(first("key"))
    locked = await store.lock({"key": version(1)}, 5)
    before = store.timeline
    server.restart()
    await eventually(lambda: listener.count("found") == 1)
    assert store.timeline != before
    with pytest.raises(LockLostError):
        await store.commit([], holds=locked.holds.values())
    with pytest.raises(VersionConflict):
        await store.save(Write("key", version(1), version(2), b"x"))
    assert (await store.lock({"key": version(1)}, 5)).news == {"key": None}


async def test_a_redis_that_was_set_back_frees_the_locks_of_that_time_and_refuses_newer_writers(new_redis, new_store):
    server = new_redis(**DURABLE)
    one, two = new_store(server), new_store(server)
    await one.save(first("key", b"old"))
    await one.lock({"key": version(1)}, 5)
    server.kill()
    shutil.copytree(server.directory / "appendonlydir", server.directory / "former")
    server.start()
    fresh = aged("life", ((await two.load("key")) and two.timeline) or "")
    locked = await two.lock({"key": None}, 10)
    assert locked.unclean == {"key"}  # its holder did not live on
    await two.commit([Write("key", version(1, fresh), version(2, fresh), b"new")], holds=locked.holds.values())
    before = two.timeline
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    shutil.copytree(server.directory / "former", server.directory / "appendonlydir")
    server.start()
    await eventually(lambda: two.timeline != before)
    with pytest.raises(VersionConflict):
        await two.save(Write("key", version(2, fresh), version(3, fresh), b"newer"))
    found = await two.load("key")
    assert found == Stored(version(1, aged("life", two.timeline)), b"old", None)
    locked = await two.lock({"key": found.version}, 10)  # which `one` had then, and knows nothing of
    assert locked.unclean == {"key"} and locked.news == {}
    await two.commit([Write("key", found.version, version(2), b"x")], holds=locked.holds.values())


async def test_a_restart_is_seen_without_the_run_id_by_numbers_that_went_back(new_redis, new_store):
    server = new_redis(rename_command="INFO ")
    store = new_store(server)
    await store.open()
    await store.save(first("key"))
    timeline = store.timeline
    server.do("CLIENT", "KILL", "TYPE", "normal")
    await store.load("key")  # over a new connection
    await store.save(first("other"))
    assert store.timeline == timeline
    server.do("SET", "{faststate}:seq", "1")  # as an older file of the same timeline has it
    server.do("CLIENT", "KILL", "TYPE", "normal")
    await eventually(lambda: store.timeline != timeline)


# -- a Redis that fails ------------------------------------------------------------------------------------------------


async def test_a_redis_that_is_not_there_is_named_at_once_and_found_when_it_comes(new_redis):
    server = new_redis()
    server.kill()
    store = RedisStore(server.url, beat=0.1)
    for refused in (store.open(), store.load("key"), store.save(first("key"))):
        with pytest.raises(PersistenceError, match=f"Redis at 127.0.0.1:{server.port} failed") as caught:
            await refused
        assert caught.value.__cause__ is not None
    await store.close()
    server.start()
    await store.open()
    await store.save(first("key"))
    server.kill()
    for _ in range(3):
        with pytest.raises(PersistenceError):
            await store.load("key")
    with pytest.raises(PersistenceError):
        await store.lock({"key": None}, 10)
    server.start()
    await eventually(lambda: store._link._client.away is None)
    assert await store.load("key") is None
    await store.close()


async def test_what_cannot_open_the_store_leaves_it_closed(new_redis):
    server = new_redis()
    server.kill()
    store = RedisStore(server.url)
    for refused in (store.lock({"key": None}, 5), store.listen(Listener()), store.subscribe(["t"]), store.open()):
        with pytest.raises(BackendError):
            await refused
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("faststate")] == []
    server.start()
    async with asyncio.timeout(10):
        assert (await store.lock({"key": None}, 5)).news == {}
    await store.close()


async def test_a_redis_that_answers_nothing_is_away_until_it_does(new_store, redis_server):
    store = new_store(answer_timeout=2.0, connect_timeout=2.0, silence=60.0)
    await store.open()
    with redis_server.paused():
        with pytest.raises(PersistenceError):
            await store.save(first("key"))
        for _ in range(100):
            with pytest.raises(PersistenceError):
                async with asyncio.timeout(1.5):
                    await store.save(first("key"))
    await eventually(lambda: store._link._client.away is None)
    assert await store.load("key") is None or await store.sequences(["key"])


async def test_a_write_whose_connection_breaks_is_not_repeated(new_store, redis_server):
    store = new_store(beat=1_000.0, connections=1)
    await store.open()
    link = store._link
    assert link is not None
    sent = 0
    (connection,) = link._client._live
    original = connection.read_response

    async def lose_the_answer(*args: object, **options: object) -> object:
        nonlocal sent
        sent += 1
        await original()
        raise ConnectionResetError("the answer was lost")

    connection.read_response = lose_the_answer
    with pytest.raises(PersistenceError, match="the answer was lost"):
        await store.save(first("key"))
    assert sent == 1
    assert await store.sequences(["key"]) == {"key": 1}  # it was done, and once


async def test_a_read_whose_connection_breaks_is_repeated(new_store):
    store = new_store(beat=1_000.0, connections=1)
    await store.open()
    await store.save(first("key"))
    link = store._link
    assert link is not None
    (connection,) = link._client._live

    async def break_down(*args: object, **options: object) -> object:
        raise ConnectionResetError("broken")

    connection.read_response = break_down
    assert await store.load("key") is not None


async def test_idle_connections_that_were_closed_are_made_anew_before_they_are_used(new_store, redis_server):
    store = new_store(beat=1_000.0)
    await store.open()
    for number in range(10):
        redis_server.do("CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(0.02)  # which is how long the news may take to get here
        await asyncio.gather(*(store.save(first(f"{number}.{n}")) for n in range(5)))


async def test_a_replica_takes_no_writes_and_is_left_when_it_is_promoted(new_redis, new_store):
    main = new_redis()
    server = new_redis()
    store = new_store(server)
    await store.open()
    await store.save(first("key"))
    timeline = store.timeline
    server.do("REPLICAOF", "127.0.0.1", main.port)
    with pytest.raises(BackendError):
        await store.save(first("other"))
    with pytest.raises(PersistenceError):
        await store.load("key")
    with pytest.raises(PersistenceError):
        await RedisStore(server.url).open()
    server.do("REPLICAOF", "NO", "ONE")
    await eventually(lambda: store._link._client.away is None)
    await store.load("key")
    assert store.timeline != timeline or server.do("EXISTS", "{faststate}:s:key")


async def follow(replica, main):
    """Make a server the replica of another one; return when it is in step."""
    replica.do("REPLICAOF", "127.0.0.1", main.port)
    await eventually(lambda: replica.do("INFO", "replication")["master_link_status"] == "up")


def wait_for_replica(main):
    """Return when the replica has all that was written before."""
    with main.client() as client:
        client.set("mark", 1)  # the wait is for what this connection wrote, and so for all before it
        assert client.wait(1, 10_000) == 1


async def test_a_failover_goes_on_under_another_timeline(new_redis, new_store):
    main, replica = new_redis(repl_diskless_sync_delay="0"), new_redis()
    await follow(replica, main)
    store = new_store(main)
    await store.save(first("key", b"kept"))
    before = store.timeline
    wait_for_replica(main)
    main.kill()
    replica.do("REPLICAOF", "NO", "ONE")
    promoted = new_store(replica)
    found = await promoted.load("key")
    assert promoted.timeline != before
    assert found == Stored(version(1, aged("life", promoted.timeline)), b"kept", None)


async def test_a_redis_without_room_changes_nothing_at_all(new_redis, new_store):
    server = new_redis(maxmemory_policy="noeviction")
    store = new_store(server)
    await store.save_many([first("a", group="g"), first("b", group="g")])
    locked = await store.lock({"a": version(1), "b": version(1)}, 5)
    server.do("CONFIG", "SET", "maxmemory", "1mb")
    before = server.keys()
    with pytest.raises(PersistenceError, match="memory"):
        await store.commit(
            [Write("a", version(1), version(2), None), Write("b", version(1), version(2), b"x")],
            holds=locked.holds.values(),
        )
    with pytest.raises(PersistenceError, match="memory"):
        await store.lock({"c": None}, 5)
    assert {"{faststate}:s:a", "{faststate}:l:a"} <= before & server.keys()
    server.do("CONFIG", "SET", "maxmemory", "0")
    await store.commit([Write("a", version(1), version(2), None)], holds=locked.holds.values())
    await eventually(lambda: not [key for key in sorted(server.keys()) if ":l:" in key])


async def test_a_redis_that_takes_no_more_connections_is_used_over_those_that_there_are(new_redis, new_store):
    server = new_redis()
    store = new_store(server, beat=1_000.0)
    await store.open()
    server.do("CONFIG", "SET", "maxclients", "3")  # the store's two, and the test's
    await asyncio.gather(*(store.save(first(f"{number}", b"x" * 100_000)) for number in range(300)))
    assert len(await store.fresh({f"{number}": None for number in range(300)})) == 300


async def test_a_redis_that_is_too_old_is_refused(new_store, monkeypatch):
    monkeypatch.setattr("faststate.stores.redis.rules.OLDEST", (99, 0))
    store = new_store()
    with pytest.raises(PersistenceError, match=r"version 7\S*: FastState needs 6\.2 or newer"):
        await store.open()


async def test_what_may_lose_states_is_said_once(new_redis, new_store, caplog):
    server = new_redis(appendonly="yes", appendfsync="everysec", maxmemory="1gb", maxmemory_policy="allkeys-lru")
    store = new_store(server)
    await store.open()
    await store.close()
    await store.open()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "maxmemory-policy is allkeys-lru" in record.message
    assert "appendfsync is everysec" in record.message and "loses up to a second" in record.message
    assert len(await store.durability()) == 2
    server.do("CONFIG", "SET", "appendfsync", "always")
    server.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert await store.durability() == []
    server.do("CONFIG", "SET", "appendonly", "no")
    assert [text.split(":")[0] for text in await store.durability()] == ["appendonly is no"]
    server.do("ACL", "SETUSER", "default", "-config")
    assert await store.durability() == []


# -- loops, threads, processes -----------------------------------------------------------------------------------------


async def test_what_waits_together_is_sent_together(new_store, redis_server):
    store = new_store(beat=1_000.0)
    await store.open()
    with redis_server.client() as client:
        before = client.info("clients")["connected_clients"]
        await asyncio.gather(*(store.save(first(f"{number}")) for number in range(1_000)))
        assert client.info("clients")["connected_clients"] <= before + 3
    assert len(await store.fresh({f"{number}": None for number in range(1_000)})) == 1_000


def test_nothing_is_left_open_by_a_store_that_was_not_opened(redis_server):
    done = subprocess.run(
        [
            sys.executable,
            *("-X", "dev", "-W", "error", "-c"),
            """
import asyncio, gc, sys
from faststate.scopes import Version
from faststate.stores import Write
from faststate.stores.redis import RedisStore

store = RedisStore(sys.argv[1])

def run(coroutine):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        assert not asyncio.all_tasks(loop)
        loop.close()

async def save(key):
    await asyncio.gather(*(store.save(Write(f"{key}{n}", None, Version("e", 1), b"x")) for n in range(20)))

run(save("a"))
run(save("b"))
asyncio.run(store.open())  # which ends without a close
gc.collect()
print("done")
""",
            redis_server.url,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    assert [line for line in done.stderr.splitlines() if "may lose states" not in line] == []


async def test_many_threads_share_the_connections_of_one_loop(new_store, redis_server):
    store = new_store(beat=1_000.0)
    await store.open()
    threads = 8

    async def use(name: int) -> None:
        for number in range(10):
            locked = await store.lock({"shared": None}, 30)
            await store.commit([first(f"{name}.{number}")], holds=locked.holds.values())

    before = len(redis_server.do("CLIENT", "LIST").splitlines())
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, use(name)) for name in range(threads)))
    assert len(redis_server.do("CLIENT", "LIST").splitlines()) <= before + 3
    assert await store.sequences(["7.9"]) != {}
    assert (await store.commit([])).sequence == threads * 10


async def test_a_call_is_told_when_the_link_loop_ends(new_store, redis_server):
    store = new_store(answer_timeout=60.0, beat=1_000.0)
    ready, end = threading.Event(), threading.Event()

    async def home() -> None:
        await store.open()
        ready.set()
        await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(home(),))
    thread.start()
    await asyncio.to_thread(ready.wait)
    try:
        with redis_server.paused():
            asking = asyncio.create_task(store.save(first("key")))
            await asyncio.sleep(0.1)
            end.set()
            with pytest.raises(PersistenceError, match="unknown"):
                await asking
    finally:
        await asyncio.to_thread(thread.join)
    await store.load("key")  # it goes on here


FORK = """
import asyncio, os, sys, traceback
from faststate.scopes import Version
from faststate.stores import Write
from faststate.stores.redis import RedisStore

store = RedisStore(sys.argv[1], beat=0.1)

async def save(key):
    locked = await store.lock({key: None}, 10)
    await store.commit([Write(key, None, Version("e", 1), b"x")], (), locked.holds.values())
    return store.origin

async def use(*keys):
    for key in keys:
        origin = await save(key)
    return origin

async def end(key):
    origin = await save(key)
    await store.close()
    return origin

loop = asyncio.new_event_loop()
mine = loop.run_until_complete(use("before"))
pid = os.fork()
if not pid:
    try:
        assert asyncio.run(end("child")) != mine
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert loop.run_until_complete(use(*(f"beside {number}" for number in range(20)))) == mine
assert os.waitpid(pid, 0)[1] == 0
assert loop.run_until_complete(end("after")) == mine
loop.close()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_a_process_of_its_own(redis_server):
    done = subprocess.run(
        [sys.executable, "-c", FORK, redis_server.url], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    assert {"{faststate}:s:child", "{faststate}:s:after"} <= redis_server.keys()


async def test_closing_twice_and_at_once_is_closing_once(new_store, redis_server):
    store = new_store()
    await store.open()
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(store.open(), store.load("key"), store.close(), store.load("key"))
    await store.close()
    await eventually(lambda: len(redis_server.do("CLIENT", "LIST").splitlines()) == 1)
    assert redis_server.do("EXISTS", "{faststate}:members") == 0


async def test_versions_of_any_epoch_are_kept(new_store):
    store = new_store()
    for number, epoch in enumerate(["", " ", "a b", "é\n", "x" * 100]):
        await store.save(Write(f"{number}", None, Version(epoch, 12), b""))
        assert await store.load(f"{number}") == Stored(Version(epoch, 12), b"", None)
        await store.save(Write(f"{number}", Version(epoch, 12), Version(epoch, 13), b"x"))


async def test_sentinels_name_the_main_server_and_the_next_one(new_redis, new_store, tmp_path):
    main, replica = new_redis(repl_diskless_sync_delay="0"), new_redis()
    await follow(replica, main)
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {main.port} 1\n")
    command = [require_redis(), str(config), "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: ASYNC220 - it starts in no time
        try:
            sentinel = redis.Redis(port=port)
            await eventually(lambda: _replicas(sentinel) == 1)
            store = new_store(url=f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/shop/0?prefix=app")
            await store.save(first("key", b"kept"))
            await store.open()
            assert main.do("EXISTS", "{app}:s:key")
            wait_for_replica(main)
            await eventually(lambda: _fail_over(sentinel), within=40)
            link = store._link
            assert link is not None
            before = store.timeline
            await eventually(lambda: store.timeline != before and link._client.away is None, within=40)
            assert await store.load("key") == Stored(version(1, aged("life", store.timeline)), b"kept", None)
            await store.save(first("other"))
            assert replica.do("EXISTS", "{app}:s:other")
            await store.close()
            sentinel.close()
        finally:
            process.kill()


def _replicas(sentinel: redis.Redis) -> int:
    try:
        return int(sentinel.sentinel_master("shop")["num-slaves"])
    except redis.ConnectionError:
        return 0


def _fail_over(sentinel: redis.Redis) -> bool:
    try:
        sentinel.execute_command("SENTINEL FAILOVER shop")
    except redis.ResponseError:  # it does not know the replica well enough yet
        return False
    return True
