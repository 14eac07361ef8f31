"""Measure group commit in the SQLite store: saves per second that are safe on the disk, with it and without.

The file lies in the working directory, so that its disk is the one that is measured. The cases take turns, and the
medians are compared. Run it with `python -m benchmarks.stores`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from faststate.scopes import Version
from faststate.stores import sqlite
from faststate.stores.base import Write
from faststate.stores.memory import MemoryStore
from faststate.stores.sqlite import SQLiteStore

ROUNDS = 7
SAVES = 2_000
DATA = b"x" * 1_000

CASES = {
    "one task, each save awaited before the next": (1, 1),
    "200 tasks, each save in a transaction of its own": (200, 1),
    "10 tasks, grouped": (10, sqlite.BATCH),
    "200 tasks, grouped": (200, sqlite.BATCH),
}
"""By title: how many tasks save at once, and the most requests that one transaction takes."""


async def seconds(store: SQLiteStore | MemoryStore, tasks: int, keys: str) -> float:
    """Return how long `SAVES` saves take, shared out among the tasks, each to its own state."""

    async def save(key: str) -> None:
        old = None
        for number in range(1, SAVES // tasks + 1):
            new = Version("benchmark", number)
            await store.save(Write(key, old, new, DATA))
            old = new

    start = time.perf_counter()
    await asyncio.gather(*(save(f"{keys} {task}") for task in range(tasks)))
    return time.perf_counter() - start


async def main() -> None:
    grouped = sqlite.BATCH
    times: dict[str, list[float]] = {title: [] for title in CASES}
    with tempfile.TemporaryDirectory(dir=".", prefix="benchmark-") as directory:
        store = SQLiteStore(Path(directory) / "state.db")
        await store.open()
        for number in range(ROUNDS):
            for title, (tasks, batch) in CASES.items():
                sqlite.BATCH = batch
                times[title].append(await seconds(store, tasks, f"{title} {number}"))
        sqlite.BATCH = grouped
        await store.close()
    memory = [await seconds(MemoryStore(), 200, "memory") for _ in range(ROUNDS)]

    slowest = statistics.median(times["one task, each save awaited before the next"])
    print(f"| saves of {len(DATA):,} bytes | per second | ratio |\n|---|---|---|")
    for title, its in [*times.items(), ("200 tasks, memory store", memory)]:
        median = statistics.median(its)
        print(f"| {title} | {SAVES / median:,.0f} | {slowest / median:.1f} |")


if __name__ == "__main__":
    asyncio.run(main())
