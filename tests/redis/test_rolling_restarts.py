"""A deployment: every worker ends and a new one has taken its place before. Nobody notices."""

from __future__ import annotations

import time
from pathlib import Path

from .stage import by_hand, stage


async def test_all_workers_are_replaced_under_load_and_no_event_fails(tmp_path: Path, seed: str) -> None:
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, begun, at_work = on.crowd, time.monotonic(), True
        old = list(on.cluster.serving)
        async with on.working(lambda: at_work):
            for worker in old:
                await on.acknowledged(40)
                await on.cluster.replace(worker)
            await on.acknowledged(40)
            at_work = False
        await crowd.settle()
        on.report("all workers replaced", begun)
        assert not crowd.refusals and not crowd.unknown
        assert all(tab.is_open and tab.worker not in old for tab in crowd.tabs)
        assert not on.cluster.tracebacks()


if __name__ == "__main__":
    by_hand(globals())
