"""Many clients of many workers: each acknowledged event is there once, and all see the same."""

import os
import time
from pathlib import Path
from random import Random

import pytest

import faststate
from tests.support import ROOT
from tests.support.processes import Server
from tests.support.servers import uvicorn

from .cluster import Cluster, Worker
from .crowd import ALL_KINDS, MANY_KEYS, ONE_KEY, ROUND, Crowd, Kind
from .stage import SUITE, Stage, stage

SOURCES = Path(faststate.__file__).parents[1]

LOADS = {"one key": (ONE_KEY, 0.1), "many keys": (MANY_KEYS, 0.75), "all kinds": (ALL_KINDS, 0.15)}
"""What is done, and how much of it: what all tabs are told takes the longest."""


async def count_all(on: Stage, kinds: list[Kind], events: int) -> None:
    """Let so many events happen, and check that they have."""
    left = on.crowd.scaled(events)
    while left > 0:
        await on.crowd.work(events, kinds, at_most=left)
        await on.crowd.settle()
        left -= ROUND
        if left > 0:
            await on.crowd.clear()


@pytest.mark.long
async def test_no_event_of_many_clients_is_lost_or_done_twice_and_all_see_the_same(tmp_path, seed):
    async with stage(tmp_path, seed) as on:
        for name, (kinds, share) in LOADS.items():
            begun = time.monotonic()
            await count_all(on, kinds, round(SUITE.events * share))
            on.report(name, begun)
        assert not on.cluster.tracebacks()
        assert on.crowd.opened == len(on.crowd.tabs), "streams broke off, and nobody had cut them"
        assert not on.crowd.refusals
        assert not any(tab.overtaken for tab in on.crowd.tabs), "what events were answered was not in step with streams"


async def test_processes_that_keep_some_of_their_locks_do_not_wait_for_each_other(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        begun = time.monotonic()
        await on.crowd.work(400, [("Desk", "file"), ("Desk", "add"), ("Board", "add")])
        await on.crowd.settle()
        on.report("two keys", begun)
        assert not on.crowd.refusals, "a lock was waited for until its time was over"


async def test_the_workers_of_one_uvicorn_are_one_app(tmp_path, seed, new_redis):
    redis = new_redis()
    store = f"{redis.url}/0?prefix=chaos"
    server = Server(
        "tests.redis.app:app",
        cwd=tmp_path,
        log=tmp_path / "log",
        env={"FASTSTATE_STORE": store, "PYTHONPATH": os.pathsep.join((str(ROOT), str(SOURCES)))},
        command=uvicorn("--workers", "4", "--log-level", "warning"),
    )
    cluster = Cluster(tmp_path, store, Random(seed))
    try:
        server.start(40)
        cluster.serving.append(Worker(tmp_path, "uvicorn", store, port=server.port))
        async with Crowd(cluster, cluster.rng, 16) as crowd:
            await crowd.work(300)
            await crowd.settle()
            print(crowd)
            assert crowd.opened == len(crowd.tabs)
        assert server.stop() == 0
        assert "Traceback" not in server.output()
    finally:
        server.kill()
