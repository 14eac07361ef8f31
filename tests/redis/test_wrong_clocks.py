"""Wall clocks that jump by hours, the workers' and Redis' own: nobody goes by them."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from .cluster import Clock
from .stage import stage

HOUR = 3_600.0


async def test_the_clocks_of_workers_may_jump(tmp_path: Path, seed: str) -> None:
    # Cookies and tokens are dated, and refused by who finds that they come from the future: they were made before.
    async with stage(tmp_path, seed, tabs=24, clocks=-12 * HOUR) as on:
        crowd, begun = on.crowd, time.monotonic()
        async with on.working():
            for _ in range(8):
                await on.acknowledged(50)
                on.cluster.clock_of(on.rng.choice(on.cluster.serving)).wrong_by = on.rng.uniform(-11, 11) * HOUR
        await crowd.settle()
        on.report("jumping clocks", begun)
        assert crowd.opened == len(crowd.tabs) and not crowd.refusals and not crowd.unknown


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler to make a wrong clock for Redis with")
async def test_the_clock_of_redis_may_jump(tmp_path, seed, monkeypatch):
    library, file = tmp_path / "wrong_clock.so", tmp_path / "clock-of-redis"
    source = Path(__file__).with_name("wrong_clock.c")
    compiler = await asyncio.create_subprocess_exec("cc", "-O2", "-shared", "-fPIC", "-o", library, source)
    assert await compiler.wait() == 0
    clock = Clock(file)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("WRONG_CLOCK", str(file))
    async with stage(tmp_path, seed, tabs=24, unset=("LD_PRELOAD",)) as on:
        crowd, begun = on.crowd, time.monotonic()
        async with on.working():
            for hours in (5, -3, 9, 0):  # what is idle for a day expires, by this clock
                await on.acknowledged(50)
                clock.wrong_by = hours * HOUR
                assert abs(on.redis.do("TIME")[0] - time.time() - hours * HOUR) < 5
            await on.acknowledged(50)
        await crowd.settle()
        on.report("a Redis whose clock jumps", begun)
        assert crowd.opened == len(crowd.tabs) and not crowd.refusals and not crowd.unknown
