"""Messages between processes, and who they are. Two stores in one process are to each other as two processes."""

import asyncio
import contextlib
import logging
import threading

import pytest

from faststate.exceptions import BackplaneError, PersistenceError, VersionConflict
from faststate.stores.backplane import Backplane, Message
from faststate.stores.base import Write
from faststate.stores.redis import RedisStore
from tests.support.redis_server import DURABLE, RedisServer
from tests.support.waiting import eventually

from .stand import Listener, first, version


async def listening(store: RedisStore, *topics: str) -> Listener:
    listener = Listener()
    await store.listen(listener)
    await store.subscribe(topics)
    return listener


def test_the_redis_store_is_a_backplane(new_store):
    assert isinstance(new_store(), Backplane)


async def test_what_is_published_is_received_by_all_who_subscribed_in_its_order(one, two):
    mine, theirs = await listening(one, "a", "b"), await listening(two, "b", "c")
    await one.save(first("key"))
    await one.publish([Message("a", b"1"), Message("b", b"2 \x00\xff"), Message("c", b"3"), Message("b", b"")])
    await eventually(lambda: len(theirs.told) == 3 and len(mine.told) == 3)
    assert mine.told == [(one.origin, "a", b"1", 1), (one.origin, "b", b"2 \x00\xff", 1), (one.origin, "b", b"", 1)]
    assert theirs.told == [(one.origin, "b", b"2 \x00\xff", 1), (one.origin, "c", b"3", 1), (one.origin, "b", b"", 1)]


async def test_topics_of_any_text_are_told_apart(one, two):
    topics = ["", " ", "a", "a b", "a\nb", "a*", "[a]", "é", "🙂", "session:Cart:%3A", "@all", "i" * 500]
    theirs = await listening(two, *topics)
    await one.publish([Message(topic, topic.encode()) for topic in topics])
    await eventually(lambda: len(theirs.told) == len(topics))
    assert [told[1] for told in theirs.told] == topics
    assert [told[2] for told in theirs.told] == [topic.encode() for topic in topics]


async def test_a_message_says_with_which_commit_it_came(one, two):
    theirs = await listening(two, "t")
    numbers = [(await one.commit([first(f"{n}")], [Message("t", b"%d" % n)])).sequence for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    await one.publish([Message("t", b"no commit")])
    await one.commit([Write("none", None, version(1), None)], [Message("t", b"no change")])
    await eventually(lambda: len(theirs.told) == 7)
    assert [told[3] for told in theirs.told] == [1, 2, 3, 4, 5, 5, 5]
    await eventually(lambda: 5 in theirs.reach)


async def test_a_commit_that_is_refused_publishes_nothing(one, two):
    theirs = await listening(two, "t")
    with pytest.raises(VersionConflict):
        await one.commit([Write("key", version(3), version(4), b"x")], [Message("t", b"refused")])
    await one.publish([Message("t", b"end")])
    await eventually(lambda: theirs.bodies == [b"end"])


async def test_the_messages_of_a_commit_come_together(one, two):
    theirs = await listening(two, "a", "b")

    async def publish(store: RedisStore, name: bytes) -> None:
        for _ in range(30):
            await store.commit([], [Message("a", name), Message("b", name), Message("a", name)])

    await asyncio.gather(publish(one, b"1"), publish(two, b"2"), publish(one, b"3"))
    await eventually(lambda: len(theirs.told) == 270)
    for start in range(0, 270, 3):
        assert len({told[2] for told in theirs.told[start : start + 3]}) == 1


async def test_what_was_published_is_received_before_it_is_reached(one, two):
    received: list[int] = []
    wrong: list[tuple[int, int]] = []

    class Watcher(Listener):
        def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
            received.append(sequence)

        def reached(self, sequence: int) -> None:
            if sequence and sequence not in received:
                wrong.append((sequence, len(received)))
            self.reach.append(sequence)

    watcher = Watcher()
    await two.listen(watcher)
    await two.subscribe(["t"])
    number = 0
    while len(watcher.reach) < 8:
        number += 1
        await one.commit([first(f"{number}")], [Message("t", b"")])
    assert not wrong
    assert watcher.reach == sorted(watcher.reach)


async def test_nothing_is_received_of_a_topic_that_was_left(one, two):
    theirs = await listening(two, "a", "b")
    two.unsubscribe(["a", "never subscribed to"])
    await one.publish([Message("a", b"left"), Message("b", b"end")])
    await eventually(lambda: theirs.bodies == [b"end"])


async def test_a_topic_may_be_left_and_taken_up_again_at_once(one, two, redis_server):
    theirs = await listening(two, "t")
    for number in range(50):
        two.unsubscribe(["t"])
        if number % 2:
            await asyncio.sleep(0)
        await two.subscribe(["t"])
        await one.publish([Message("t", b"%d" % number)])
        await eventually(lambda number=number: theirs.bodies[-1:] == [b"%d" % number])
    assert len(theirs.bodies) == 50
    subscribing = asyncio.create_task(two.subscribe(["new"]))
    await asyncio.sleep(0)
    two.unsubscribe(["new"])
    await subscribing  # it is overtaken, and does not wait
    two.unsubscribe(["t"])
    channels = "{faststate}:c:*"
    await eventually(lambda: redis_server.do("PUBSUB", "CHANNELS", channels) == [])


async def test_many_topics_are_subscribed_to_in_few_commands(two, redis_server):
    topics = [f"topic {number}" for number in range(5_000)]
    with redis_server.client() as client:
        before = client.info("commandstats").get("cmdstat_subscribe", {"calls": 0})["calls"]
        await asyncio.gather(*(two.subscribe(topics[start : start + 10]) for start in range(0, 5_000, 10)))
        after = client.info("commandstats")["cmdstat_subscribe"]["calls"]
        assert len(redis_server.do("PUBSUB", "CHANNELS", "{faststate}:c:*")) == 5_000
    assert after - before <= 30


async def test_what_a_receiver_raises_is_logged_and_does_no_harm(one, two, caplog):
    class Broken(Listener):
        def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
            super().received(origin, topic, body, sequence)
            raise ValueError("broken receiver")

    broken = Broken()
    await two.listen(broken)
    await two.subscribe(["t"])
    await one.publish([Message("t", b"1"), Message("t", b"2")])
    await eventually(lambda: broken.bodies == [b"1", b"2"])
    assert "broken receiver" in caplog.text


# -- lost connections --------------------------------------------------------------------------------------------------


def clients(server: RedisServer, kind: str) -> list[str]:
    """The ids of the connections of stores: "pubsub" or "normal" ones."""
    with server.client() as client:
        own = str(client.client_id())
        return [its["id"] for its in client.client_list(_type=kind) if its["id"] != own]


def kill(server: RedisServer, kind: str) -> None:
    for number in clients(server, kind):
        server.do("CLIENT", "KILL", "ID", number)


async def test_a_lost_connection_is_told_and_all_is_subscribed_to_again(one, two, redis_server):
    theirs = await listening(two, *(f"{number}" for number in range(2_000)))
    for times in range(1, 4):
        kill(redis_server, "pubsub")
        await eventually(lambda times=times: theirs.count("found") == times)
        await one.publish([Message("0", b"%d" % times), Message("1999", b"%d" % times)])
        await eventually(lambda times=times: theirs.bodies[-2:] == [b"%d" % times] * 2)
    assert [told[0] for told in theirs.told if len(told) == 1] == ["lost", "found"] * 3
    assert two.origin in one.members or await eventually(lambda: two.origin in one.members)


async def test_what_is_subscribed_to_while_the_connection_is_lost_is_acknowledged_when_it_is_back(
    one, two, redis_server
):
    theirs = await listening(two, "old")
    kill(redis_server, "pubsub")
    await two.subscribe(["new"])
    await one.publish([Message("new", b"x"), Message("old", b"y")])
    await eventually(lambda: theirs.bodies == [b"x", b"y"])


async def test_a_connection_over_which_nothing_comes_is_made_anew(one, two, redis_server, monkeypatch):
    theirs = await listening(two, "t")
    subscriber = two._link._subscriber
    reader = subscriber._connection._reader
    reader._transport.pause_reading()
    await eventually(lambda: theirs.count("found") == 1)
    await one.publish([Message("t", b"x")])
    await eventually(lambda: theirs.bodies == [b"x"])


async def test_a_redis_that_is_away_is_told_and_found_again(new_redis):
    server = new_redis(**DURABLE)
    store = RedisStore(server.url, beat=0.1, connect_timeout=5.0, answer_timeout=5.0)
    listener = await listening(store, "t")
    origin, timeline = store.origin, store.timeline
    server.kill()
    await eventually(lambda: listener.count("lost") == 1)
    with pytest.raises(BackplaneError, match=f"127.0.0.1:{server.port}") as caught:
        await store.publish([Message("t", b"x")])
    assert isinstance(caught.value.__cause__, Exception)
    with pytest.raises(BackplaneError):
        await store.subscribe(["other"])
    server.start()
    await eventually(lambda: listener.count("found") == 1)
    assert store.timeline != timeline and store.origin != origin
    await store.subscribe(["other"])
    await store.publish([Message("t", b"x"), Message("other", b"y")])
    await eventually(lambda: listener.bodies == [b"x", b"y"])
    assert store.origin in store.members and origin not in store.members
    await store.close()
    assert listener.told[:2] == [("lost",), ("found",)]


async def test_a_topic_whose_subscription_failed_is_not_subscribed_to(new_store, redis_server):
    store = new_store(answer_timeout=2.0, beat=1_000.0)
    await listening(store, "t")
    with redis_server.paused(), pytest.raises(BackplaneError, match="acknowledged"):
        await store.subscribe(["late", "t"])
    await eventually(lambda: redis_server.do("PUBSUB", "CHANNELS", "{faststate}:c:*") == [b"{faststate}:c:t"])


# -- members -----------------------------------------------------------------------------------------------------------


async def test_members_know_each_other_and_what_each_tells(one, two):
    one.tell(b"one \x00\xff")
    two.tell(b"")
    for store in (one, two):
        await eventually(lambda store=store: dict(store.members) == {one.origin: b"one \x00\xff", two.origin: b""})
    one.tell(b"other")
    await eventually(lambda: two.members[one.origin] == b"other")
    await one.close()
    await eventually(lambda: set(two.members) == {two.origin})


async def test_a_buried_process_is_told_that_it_may_have_missed_something(one, two, redis_server):
    theirs = await listening(two, "t")
    former = two.origin
    redis_server.do("HDEL", "{faststate}:members", former)
    await eventually(lambda: theirs.count("found") == 1)
    assert theirs.told == [("lost",), ("found",)]
    assert two.origin != former
    await one.publish([Message("t", b"x")])
    await eventually(lambda: theirs.bodies == [b"x"])
    before = len(theirs.reach)
    await eventually(lambda: len(theirs.reach) > before)
    channels = {f"{{faststate}}:@{origin}".encode() for origin in (one.origin, two.origin)}
    await eventually(
        lambda: set(redis_server.do("PUBSUB", "CHANNELS", "{faststate}:@*")) == {*channels, b"{faststate}:@all"}
    )


async def test_all_that_was_kept_may_be_deleted_under_the_store(one, two, redis_server):
    theirs = await listening(two, "t")
    await one.save(first("key"))
    timeline = one.timeline
    redis_server.do("FLUSHALL")
    assert await one.load("key") is None
    await one.save(first("key"))
    assert one.timeline != timeline
    await eventually(lambda: theirs.count("found") >= 1 and two.timeline == one.timeline)
    await eventually(lambda: set(one.members) == {one.origin, two.origin} == set(two.members))


# -- loops -------------------------------------------------------------------------------------------------------------


async def test_a_receiver_is_told_on_the_loop_that_it_listens_on(one):
    done = threading.Event()
    seen: list[tuple[int, bytes]] = []

    class Here(Listener):
        def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
            seen.append((threading.get_ident(), body))
            done.set()

    async def listen() -> int:
        await one.listen(Here())
        await one.subscribe(["t"])
        await one.publish([Message("t", b"x")])
        await eventually(done.is_set)
        return threading.get_ident()

    thread = await asyncio.to_thread(asyncio.run, listen())
    assert seen == [(thread, b"x")]


def test_a_store_whose_loop_has_ended_goes_on_on_another(redis_server):
    store = RedisStore(redis_server.url, beat=0.1)
    origins = []

    async def use(number: int) -> None:
        await store.open()
        await store.subscribe(["kept"])
        await store.save(first(f"{number}"))
        locked = await store.lock({"key": None}, 10)
        await store.commit([], holds=locked.holds.values())
        origins.append(store.origin)

    for number in range(3):
        asyncio.run(use(number))  # and nothing closes it

    async def end() -> None:
        listener = Listener()
        await store.listen(listener)
        await store.publish([Message("kept", b"x")])  # what was subscribed to still is
        await eventually(lambda: listener.bodies == [b"x"])
        await store.close()

    asyncio.run(end())
    assert len(set(origins)) == 3


async def test_a_store_that_is_not_up_yet_is_opened_by_listening(new_store):
    store = new_store()
    listener = await listening(store, "t")
    await store.publish([Message("t", b"x")])
    await eventually(lambda: listener.bodies == [b"x"])
    await store.close()
    await store.open()
    await store.publish([Message("t", b"y")])
    await eventually(lambda: listener.bodies == [b"x", b"y"])


async def test_connections_that_are_killed_under_load_lose_no_acknowledged_message(one, two, redis_server):
    acknowledged: set[bytes] = set()
    stop = asyncio.Event()
    theirs = await listening(two, "t")

    async def publish(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = b"%d.%d" % (name, number)
            with contextlib.suppress(PersistenceError):  # its outcome is unknown
                await one.commit([first(body.decode())], [Message("t", body)])
                acknowledged.add(body)

    tasks = [asyncio.create_task(publish(name)) for name in range(8)]
    for _ in range(10):
        before = len(acknowledged)
        await eventually(lambda before=before: len(acknowledged) > before + 50)
        kill(redis_server, "normal")
    stop.set()
    await asyncio.gather(*tasks)
    assert set(theirs.bodies) >= acknowledged or theirs.count("lost")
    found = await one.sequences([body.decode() for body in acknowledged])
    assert len(found) == len(acknowledged)


async def test_the_way_to_redis_is_not_logged_with_its_secrets(redis_server, caplog):
    caplog.set_level(logging.DEBUG, "faststate")
    store = RedisStore(f"redis://somebody:topsecret@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(PersistenceError) as caught:
        await store.open()
    with pytest.raises(BackplaneError) as backplane:
        await store.publish([Message("t", b"x")])
    await store.close()
    assert "topsecret" not in f"{caught.value!r} {backplane.value!r} {caplog.text}"
