"""Between workers and Redis: what is slow, what breaks off, and what arrives when nobody counts on it any more."""

import time

from .cluster import until
from .crowd import MANY_KEYS, ONE_KEY
from .stage import stage


async def test_a_slow_network_is_slow_and_nothing_else(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, proxied=True, delay=0.02) as on:  # 40 ms there and back
        begun = time.monotonic()
        await on.crowd.work(250, MANY_KEYS)
        on.report("many keys", begun)
        begun = time.monotonic()
        await on.crowd.work(24, ONE_KEY)
        on.report("one key", begun)
        await on.crowd.work(60)
        await on.crowd.settle()
        on.report("all kinds", begun)
        assert not on.crowd.refusals


async def test_connections_that_break_off_lose_nothing(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, proxied=True) as on:
        crowd, begun = on.crowd, time.monotonic()
        async with on.working():
            for _ in range(12):
                await on.acknowledged(25)
                await on.rng.choice(on.proxies).cut()
        await crowd.settle()
        on.report("twelve times cut off", begun)
        assert crowd.opened == len(crowd.tabs), "streams broke off"


async def test_a_worker_that_is_cut_off_from_redis_does_not_undo_what_others_did(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, proxied=True) as on:
        crowd, cluster = on.crowd, on.cluster
        await crowd.work(100)
        lonely, proxy = cluster.serving[0], on.proxies[0]
        lonely_tabs = [tab for tab in crowd.tabs if tab.worker is lonely]
        _, held = await on.hold(lonely, 0.2, once=False)
        proxy.blackhole = True
        cluster.serving.remove(lonely)
        begun = time.monotonic()
        await crowd.do(crowd.tabs[0], "Board", "add")
        print(f"the lock was free after {time.monotonic() - begun:.2f} s")
        await crowd.work(200)
        others = [tab for tab in crowd.tabs if tab not in lonely_tabs]
        count = max(tab.signals["Board"]["count"] for tab in others)
        await until(lambda: all(tab.signals["Board"]["count"] >= count for tab in others), "the others have it")
        proxy.blackhole = False
        back = time.monotonic()
        await held
        cluster.serving.append(lonely)
        await crowd.settle()
        print(f"the last of the tabs had it {crowd.patched_at - back:.2f} s after the network was back")
        await crowd.work(100)
        await crowd.settle()
        on.report("a worker that was alone", begun)
        assert crowd.opened == len(crowd.tabs), "streams broke off"
