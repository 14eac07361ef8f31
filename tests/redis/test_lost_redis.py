"""A Redis that dies under load: with its disk, without it, and with a replica in its place."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from tests.support.client import status
from tests.support.redis_server import RedisServer

from .cluster import until
from .stage import stage
from .tabs import Tab

SOON = 1.0
"""Seconds after which every tab has what is there, from when Redis answers again."""


def all_were_refused(tabs: Sequence[Tab], before: Sequence[int]) -> bool:
    """True if each tab was refused an event since so many refusals."""
    return all(tab.refusals > number for tab, number in zip(tabs, before, strict=True))


async def test_redis_that_is_killed_and_comes_back_has_all_that_was_acknowledged(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, durable=True) as on:
        crowd, begun = on.crowd, time.monotonic()
        async with on.working() as stop_working:
            for life in range(3):
                await on.acknowledged(100)
                refused = [tab.refusals for tab in crowd.tabs]
                on.redis.kill()
                await until(partial(all_were_refused, crowd.tabs, refused), "a refusal for each tab")
                if life == 2:
                    tab = crowd.tabs[0]
                    answer = await tab.page.send("Board", "add", number=10**6, connection=tab.signals["_fs"]["c"])
                    assert (answer.status_code, status(answer)) == (200, 503)
                    stop_working()  # but for what has begun: that is repeated until it is done
                await asyncio.to_thread(on.redis.start)
                back = time.monotonic()
        await crowd.settle()
        on.report("Redis killed three times", begun)
        print(f"the last tab had the last of it {crowd.patched_at - back:.2f} s after Redis was back")
        assert crowd.opened == len(crowd.tabs), "streams broke off"
        assert crowd.patched_at - back < SOON


async def test_tabs_come_to_what_there_is_when_redis_has_lost_everything(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, begun = on.crowd, time.monotonic()
        await crowd.work(200)
        await crowd.settle()
        on.redis.kill()
        await asyncio.to_thread(on.redis.start)
        back = time.monotonic()
        crowd.forget()
        on.cluster.serving.append(newcomer := on.cluster.make())  # which knows nothing but what the store has
        await newcomer.listening()
        await crowd.settle(book=False)
        print(f"the last tab had it {crowd.patched_at - back:.2f} s after Redis was back")
        crowd.forget()
        await crowd.work(200)
        await crowd.settle()
        on.report("Redis without a memory", begun)


async def test_a_replica_takes_the_place_of_redis(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, proxied=True) as on, AsyncExitStack() as stack:
        crowd, begun = on.crowd, time.monotonic()
        replica = RedisServer(tmp_path / "replica", replicaof=f"127.0.0.1 {on.redis.port}")
        stack.callback(replica.stop)
        await asyncio.to_thread(replica.start)
        await crowd.work(200)  # all states are stored
        with on.redis.client() as client:  # one that has written: the others' WAIT asks for no more than a link
            client.set("in step", 1)
            await until(lambda: client.wait(1, 100), "a replica in step")
        for tab in crowd.tabs:
            tab.may_lose_states = True
        async with on.working():
            await on.acknowledged(100)
            on.redis.kill()
            replica.do("REPLICAOF", "NO", "ONE")
            for proxy in on.proxies:
                await proxy.switch(replica.port)
            await on.acknowledged(100)
        await crowd.settle(book=False)  # what had not reached the replica is lost: Redis replicates behind its answers
        on.report("failed over", begun)
        await crowd.clear()
        await crowd.settle(book=False)
        crowd.forget()
        await crowd.work(200)
        await crowd.settle()
        on.report("after it", begun)
        assert crowd.opened == len(crowd.tabs), "streams broke off"
