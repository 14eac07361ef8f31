"""All that a fault test needs, up and running: a Redis, workers over it, and a crowd of tabs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from tests.chaos.load import Event
from tests.support.proxy import Proxy
from tests.support.redis_server import DURABLE, RedisServer

from .cluster import Cluster, Flaw, Worker, until
from .crowd import ALL_KINDS, Crowd, Kind

T = TypeVar("T")

Holding = asyncio.Task[None]


class Scale(NamedTuple):
    """How many of everything."""

    events: int = 3_000
    workers: int = 4
    clients: int = 64


SUITE = Scale()
"""What the suite runs."""

asked: Scale | None = None  # on the command line, of all tests alike


class Stage(NamedTuple):
    """The cluster under test. `proxies` stand between each worker and Redis if the test asked for them."""

    directory: Path
    redis: RedisServer
    cluster: Cluster
    crowd: Crowd
    proxies: list[Proxy]

    @property
    def rng(self) -> Random:
        return self.cluster.rng

    def report(self, what: str, begun: float) -> None:
        print(f"{what}: {time.monotonic() - begun:.2f} s, {self.crowd}")

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs it meanwhile."""
        return asyncio.create_task(coroutine, name="meanwhile")

    async def hold(self, worker: Worker, seconds: float = 3600, *, once: bool = True) -> tuple[Event, Holding]:
        """Let an event of `worker` wait while it holds the lock of Board; return the event and the task that sends it.

        It returns when the event has come so far. With `once` the task ends with the first request, else it goes on
        with any worker until the event is acknowledged.
        """
        tab = await self.crowd.outsider(worker)
        event = self.crowd.event(tab, "Board", "add_and_wait")

        async def send() -> None:
            again = await tab.send(event, once=once, seconds=seconds)
            self.crowd.book.acknowledge(event, again=again)

        task = self.start(send())
        await until(lambda: task.done() or (self.directory / f"waits-{event.number}").exists(), "an event that waits")
        assert not task.done(), task
        tab.browser.only = None
        return event, task

    @asynccontextmanager
    async def working(self, kinds: Sequence[Kind] = ALL_KINDS) -> AsyncIterator[Callable[[], None]]:
        """Let all tabs send events in the meantime, until the block ends or calls what it is given."""
        over = asyncio.Event()
        load = asyncio.create_task(self.crowd.work_while(lambda: not over.is_set(), kinds), name="load")
        try:
            yield over.set
            over.set()
            await load
        finally:
            if load.done() and not load.cancelled():
                load.result()  # the reason of what is raised here
            load.cancel()
            await asyncio.wait([load])

    async def acknowledged(self, more: int) -> None:
        """Waits until so many more events are acknowledged."""
        aim = self.crowd.book.acknowledged + self.crowd.scaled(more)
        await until(lambda: self.crowd.book.acknowledged >= aim, f"{aim} events", 60)


@asynccontextmanager
async def stage(
    directory: Path,
    seed: str,
    *,
    workers: int = SUITE.workers,
    tabs: int = SUITE.clients,
    lines: int = 0,
    durable: bool = False,
    proxied: bool = False,
    delay: float = 0,
    clocks: float | None = None,
    flaw: Flaw | None = None,
    env: dict[str, str] | None = None,
    unset: Sequence[str] = (),
) -> AsyncIterator[Stage]:
    """Everything is there, signed in and following.

    `proxied` has each worker reach Redis through a proxy of its own. With `clocks` each worker has a wall clock of its
    own, wrong by so many seconds. `env` is put into the workers' environment, and what is to be `unset` is left out.
    """
    events = 1.0
    if asked:
        workers, tabs, events = asked.workers, asked.clients, asked.events / SUITE.events
    redis = RedisServer(directory / "redis", repl_diskless_sync_delay="0", **(DURABLE if durable else {}))
    rng = Random(seed)
    async with AsyncExitStack() as stack:
        stack.callback(redis.stop)
        await asyncio.to_thread(redis.start)
        proxies = [await stack.enter_async_context(Proxy(redis.port, delay)) for _ in range(workers * proxied)]

        def store(number: int) -> str:
            port = proxies[number % len(proxies)].port if proxies else redis.port
            return f"redis://127.0.0.1:{port}/0?prefix=chaos"

        cluster = Cluster(directory, store, rng, flaw=flaw, clock=clocks, env=env, unset=unset)
        stack.callback(cluster.kill)
        try:
            await cluster.start(workers)
            async with Crowd(cluster, rng, tabs, lines=lines, events=events) as crowd:
                yield Stage(directory, redis, cluster, crowd, proxies)
        except BaseException:
            print(cluster.output()[-6_000:])
            raise
