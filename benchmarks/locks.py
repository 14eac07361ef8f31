"""Measure a lock and a commit over Redis, besides the two round trips that redis-py itself would make.

Each turn takes the lock of a state that nobody else wants, and commits 500 bytes and a message. The cases take turns,
and the medians are compared. Run it with `python -m benchmarks.locks redis://localhost:6379`: it writes to that Redis,
below the prefix `benchmark`.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import redis.asyncio

from faststate.scopes import Version
from faststate.stores.backplane import Message
from faststate.stores.base import Write
from faststate.stores.redis import RedisStore

ROUNDS = 7
TURNS = 2_000
DATA = b"x" * 500


async def seconds(turns: Callable[[str, int], Awaitable[None]], tasks: int, name: str) -> float:
    """Return how long `TURNS` turns take, shared out among the tasks."""
    start = time.perf_counter()
    await asyncio.gather(*(turns(f"{name} {task}", TURNS // tasks) for task in range(tasks)))
    return time.perf_counter() - start


async def main(url: str) -> None:
    store = RedisStore(f"{url}?prefix=benchmark")
    await store.open()
    client = redis.asyncio.Redis.from_url(url)
    script = await client.script_load("return {1, 2}")

    async def commits(key: str, turns: int) -> None:
        old = None
        for number in range(1, turns + 1):
            new = Version("benchmark", number)
            locked = await store.lock({key: old}, 5)
            write = Write(key, old, new, DATA, 60.0)
            await store.commit([write], [Message(key, DATA)], locked.holds.values())
            old = new
        await store.delete([key])

    async def bare(key: str, turns: int) -> None:
        for _ in range(turns):
            await client.evalsha(script, 1, key, "x")
            await client.evalsha(script, 1, key, DATA)

    cases = {f"{title}, {tasks} at once": (turns, tasks) for tasks in (1, 50)
             for title, turns in (("lock and commit", commits), ("two empty scripts by redis-py", bare))}  # fmt: skip
    times: dict[str, list[float]] = {title: [] for title in cases}
    for number in range(ROUNDS):
        for title, (turns, tasks) in cases.items():
            times[title].append(await seconds(turns, tasks, f"{title} {number}"))
    await client.aclose()
    await store.close()
    print("| turn | µs |\n|---|---|")
    for title, its in times.items():
        print(f"| {title} | {statistics.median(its) / TURNS * 1e6:,.0f} |")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
