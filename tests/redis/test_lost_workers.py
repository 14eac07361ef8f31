"""Workers that die or stand still in the middle of an event: their locks come free, and what they had done is kept."""

import signal
import time

import pytest

from .cluster import PATIENCE, until
from .stage import stage
from .web import CutOff


async def test_a_worker_killed_in_an_event_frees_its_lock_and_its_tabs_go_to_others(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, cluster = on.crowd, on.cluster
        await crowd.work(200)
        victim = cluster.serving[0]
        bereft = [tab for tab in crowd.tabs if tab.worker is victim]
        assert bereft
        cut, held = await on.hold(victim)
        cluster.serving.remove(victim)
        begun = time.monotonic()
        victim.kill()
        with pytest.raises(CutOff):
            await held
        await crowd.do(crowd.tabs[0], "Board", "add")
        print(f"the lock was free after {time.monotonic() - begun:.2f} s")
        await crowd.work(200)
        await crowd.settle()
        on.report("a killed worker", begun)
        seen = await crowd.look(crowd.tabs[0], cluster.serving[0])
        assert cut.number not in seen["Board"].found.numbers
        assert all(tab.is_open and tab.opened == 2 for tab in bereft)
        assert crowd.opened == len(crowd.tabs) + len(bereft)


async def test_a_worker_that_stood_still_for_longer_than_its_locks_does_not_undo_what_others_did(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, cluster = on.crowd, on.cluster
        await crowd.work(100)
        sleeper = cluster.serving[0]
        _, held = await on.hold(sleeper, 0.2, once=False)
        sleeper.send(signal.SIGSTOP)
        cluster.serving.remove(sleeper)
        begun = time.monotonic()
        await crowd.do(crowd.tabs[0], "Board", "add")
        print(f"the lock was free after {time.monotonic() - begun:.2f} s")
        await crowd.work(200)
        sleeper.send(signal.SIGCONT)
        awake = time.monotonic()
        await held
        cluster.serving.append(sleeper)
        await crowd.settle()
        print(f"the last of the tabs had it {crowd.patched_at - awake:.2f} s after it was awake again")
        await crowd.work(100)
        await crowd.settle()
        on.report("a worker that stood still", begun)


async def test_workers_killed_one_after_the_other_under_load_lose_nothing(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, cluster = on.crowd, on.cluster
        begun = time.monotonic()
        async with on.working():
            for _ in range(2):
                await on.acknowledged(60)
                victim = on.rng.choice(cluster.serving)
                new = cluster.make()
                await new.listening()
                victim.kill()
                cluster.serving[cluster.serving.index(victim)] = new
            await on.acknowledged(60)
        await crowd.settle()
        on.report("two killed workers", begun)
        await until(lambda: all(tab.is_open for tab in crowd.tabs), "all streams", PATIENCE)
