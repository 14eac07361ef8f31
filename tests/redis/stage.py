"""All that a fault test needs, up and running: a Redis, workers over it, and a crowd of tabs."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from .cluster import Cluster, Flaw
from .crowd import Crowd
from .proxy import Proxy
from .server import RedisServer

__all__ = ["DURABLE", "Scale", "Stage", "by_hand", "stage"]

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Options of a Redis that has on its disk what it has acknowledged."""


class Scale(NamedTuple):
    """How many of everything."""

    events: int = 3_000
    workers: int = 4
    clients: int = 64


class Stage(NamedTuple):
    """What is on it. `proxies` stand between each worker and Redis, where it was asked for them."""

    directory: Path
    redis: RedisServer
    cluster: Cluster
    crowd: Crowd
    proxies: list[Proxy]

    @property
    def rng(self) -> Random:
        return self.cluster.rng

    async def report(self, what: str, begun: float) -> None:
        print(f"{what}: {time.monotonic() - begun:.2f} s, {self.crowd}")


@asynccontextmanager
async def stage(
    directory: Path,
    seed: str,
    *,
    workers: int = 4,
    tabs: int = 64,
    lines: int = 0,
    durable: bool = False,
    proxied: bool = False,
    delay: float = 0,
    clocks: float | None = None,
    flaw: Flaw | None = None,
    env: dict[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """Everything is there, signed in and following; the workers have printed no traceback in the end.

    `proxied` has each worker reach Redis through a proxy of its own. With `clocks` each worker has a wall clock of its
    own, wrong by so many seconds.
    """
    redis = RedisServer(directory / "redis", **(DURABLE if durable else {}))
    rng = Random(seed)
    async with AsyncExitStack() as stack:
        stack.callback(redis.stop)
        await asyncio.to_thread(redis.start)
        proxies = [await stack.enter_async_context(Proxy(redis.port, delay)) for _ in range(workers * proxied)]

        def store(number: int) -> str:
            port = proxies[number % len(proxies)].port if proxies else redis.port
            if os.environ.get("STAND_IN"):
                return os.environ["STAND_IN"]
            return f"redis://127.0.0.1:{port}/0?prefix=chaos"

        cluster = Cluster(directory, store, rng, flaw=flaw, clock=clocks, env=env)
        stack.callback(cluster.kill)
        try:
            await cluster.start(workers)
            async with Crowd(cluster, rng, tabs, lines=lines) as crowd:
                yield Stage(directory, redis, cluster, crowd, proxies)
        except BaseException:
            print(cluster.output()[-6_000:])
            raise


def by_hand(run: Callable[[Path, str, Scale], Awaitable[None]], doc: str | None) -> None:
    """The command line of a fault test: `run` at the size that is asked for."""
    parser = argparse.ArgumentParser(description=doc)
    for name, number in Scale()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--seed", default=os.environ.get("FASTSTATE_SEED") or os.urandom(4).hex())
    arguments = parser.parse_args()
    print(f"FASTSTATE_SEED={arguments.seed}")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(
            run(Path(directory), arguments.seed, Scale(arguments.events, arguments.workers, arguments.clients))  # type: ignore[arg-type]
        )
