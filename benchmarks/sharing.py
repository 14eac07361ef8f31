"""Measure the cost of sharing states in Redis: CPU microseconds of a process, and of Redis, more than without.

Run it with `python -m benchmarks.sharing`; it needs `redis-server`, and starts one with `appendfsync everysec`, so that
the disk does not count. The servers are those of `make bench`. `benchmarks.million` plans with what it prints.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import redis

from .delivery import Bench
from .events import click
from .load import PATIENCE, visit
from .servers import SERVERS, Server

__all__ = ["Redis", "Sharing", "measured"]

BROWSERS = 32
"""Browsers that send their events at once. A state remembers the nonces of its events: each has few."""


class Redis:
    """A Redis server of our own. Lifetime: a `with` block."""

    def __enter__(self) -> Redis:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name,
             "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client = redis.Redis(port=self.port)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.client.ping()
                return self
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def cpu(self) -> float:
        """Return the CPU microseconds that it has used so far."""
        total = 0
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((thread / "schedstat").read_bytes().split()[0])
        return total / 1_000

    def state_kb(self) -> float:
        """Return the KB that it takes for a session's state, with all that belongs to it."""
        sizes = [self.client.memory_usage(key) for pattern in ("*:s:*Counter*", "*:g:*") for key in
                 sorted(self.client.keys(pattern))[:1]]  # fmt: skip
        return sum(sizes) / 1_024


class Sharing(NamedTuple):
    """Costs with the names of `million.Costs`."""

    shared_event: float
    redis_event: float
    message: float
    redis_message: float
    load: float
    redis_load: float
    redis_state_kb: float


def measured(bench: Bench, repeat: int = 3, events: int = 2_000, changes: int = 1_000, streams: int = 400) -> Sharing:
    """Return the medians of so many repetitions."""
    alone = SERVERS["faststate"]
    found: list[Sharing] = []

    @contextlib.contextmanager
    def quiet(engine: Redis) -> Iterator[list[float]]:
        """Yield a list whose one number is, after the block, the CPU that Redis used in it."""
        used = [engine.cpu()]
        yield used
        used[0] = engine.cpu() - used[0]

    with bench.load():
        for number in range(repeat):
            with Redis() as engine:
                shared = replace(alone, environment={"FASTSTATE_STORE": engine.url})
                cpu: dict[str, float] = {}
                of_redis: dict[str, float] = {}
                for name, contender in (("alone", alone), ("shared", shared)):
                    with bench.life(contender) as (server, crowd):
                        browsers = [visit(server.address, "/counter", 1)[0] for _ in range(BROWSERS)]
                        with quiet(engine) as used:
                            cpu[f"event {name}"] = click(server, crowd, browsers, events)
                        warm = max(1, events // BROWSERS // 10) * BROWSERS
                        of_redis[f"event {name}"] = used[0] / (events + warm)
                    with bench.life(contender) as (server, crowd):
                        doors = [page.door(contender.stream) for page in visit(server.address, "/own", streams)]
                        before = server.quiet()
                        with quiet(engine) as used:
                            crowd.open(doors)
                            cpu[f"open {name}"] = (server.quiet() - before) / streams
                        of_redis[f"open {name}"] = used[0] / streams
                with bench.life(shared) as (server, crowd):
                    engine.client.flushall()
                    click(server, crowd, visit(server.address, "/counter", 1), 1)
                    kb = engine.state_kb()
                with bench.life(shared) as (changing, _), bench.life(shared) as (watching, crowd):
                    with quiet(engine) as used:
                        _change(changing, changes)
                    without = used[0] / changes
                    crowd.open([page.door(shared.stream) for page in visit(watching.address, "/", 1)])
                    before = watching.quiet()
                    with quiet(engine) as used:
                        _change(changing, changes)
                        message = (watching.quiet() - before) / changes
                    redis_message = used[0] / changes - without
            found.append(Sharing(
                cpu["event shared"] - cpu["event alone"], of_redis["event shared"], message, max(0, redis_message),
                (cpu["open shared"] - cpu["open alone"]) / 2, of_redis["open shared"] / 2, kb,
            ))  # fmt: skip
            bench.say(f"sharing: {number + 1} of {repeat}")
    return Sharing(*map(statistics.median, zip(*found, strict=True)))


def _change(server: Server, times: int) -> None:
    """Change the state that all share, one time after the other."""
    for _ in range(times):
        begin, _text = server.change()
        begin()
        server.reply()


def main() -> None:
    for name, value in measured(Bench())._asdict().items():
        print(f"{name} = {value:.3g}")


if __name__ == "__main__":
    main()
