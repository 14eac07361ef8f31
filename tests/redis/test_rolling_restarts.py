"""A deployment: every worker ends and a new one has taken its place before. Nobody notices."""

import time

from .stage import stage


async def test_all_workers_are_replaced_under_load_and_no_event_fails(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, begun = on.crowd, time.monotonic()
        old = list(on.cluster.serving)
        async with on.working():
            for worker in old:
                await on.acknowledged(40)
                await on.cluster.replace(worker)
            await on.acknowledged(40)
        await crowd.settle()
        on.report("all workers replaced", begun)
        assert not crowd.refusals and not crowd.unknown
        assert all(tab.is_open and tab.worker not in old for tab in crowd.tabs)
        assert not on.cluster.tracebacks()
