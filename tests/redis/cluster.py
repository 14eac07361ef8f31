"""Processes of one app, each on a port of its own, and who sends requests to any of them: no client stays with one."""

from __future__ import annotations

import asyncio
import datetime
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Self

from tests.support.forked_server import Flaw, ForkedServer

PATIENCE = 20.0
"""Seconds for anything that should take milliseconds."""


async def until(condition: Callable[[], object], what: str, within: float = PATIENCE) -> float:
    """Waits until `condition()` holds; the seconds that it took. Raises `TimeoutError`, naming `what`."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > within:
            raise TimeoutError(f"not within {within:g} s: {what}")
        await asyncio.sleep(0.002)  # what is waited for is another process's, which sets no event of ours
    return time.monotonic() - begun


class Clock:
    """The seconds by which a worker's wall clock is wrong; may be set at any time. Lifetime: its file's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    @property
    def wrong_by(self) -> float:
        seconds: float = struct.unpack("d", self._memory[:8])[0]
        return seconds

    @wrong_by.setter
    def wrong_by(self, seconds: float) -> None:
        self._memory[:8] = struct.pack("d", seconds)

    def be_the_clock(self) -> None:
        """Make this process use it: in `time.time`, and in `datetime.now` for code that imports it from now on."""
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + self.wrong_by
        time.time_ns = lambda: real_ns() + int(self.wrong_by * 1e9)
        datetime.datetime = _Wrong  # type: ignore[misc]


class _Wrong(datetime.datetime):
    """The time of day by a clock that `time.time` goes by."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(time.time(), tz)


def serve(clock: Path | None, flaw: Flaw | None, port: int) -> None:
    """Serves the app in this process until a signal comes."""
    if clock is not None:
        Clock(clock).be_the_clock()
    if flaw is not None:
        flaw()
    import uvicorn

    uvicorn.run("tests.redis.app:app", host="127.0.0.1", port=port, log_level="warning")


class Worker(ForkedServer):
    """One process of the app, on a port of its own. Lifetime: from `start` to its end, and it may start again."""

    def __init__(
        self,
        directory: Path,
        name: str,
        store: str,
        *,
        clock: Path | None = None,
        flaw: Flaw | None = None,
        env: Mapping[str, str] | None = None,
        unset: Container[str] = (),
        port: int | None = None,
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        env = {**inherited, **(env or {}), "FASTSTATE_STORE": store}
        super().__init__(directory, name, partial(serve, clock, flaw), env=env, port=port)

    def send(self, number: signal.Signals) -> None:
        self.fork.send_signal(number)

    async def ended(self, within: float = PATIENCE) -> int:
        """Waits for its end; its exit code."""
        await until(lambda: self.fork.poll() is not None, f"the end of {self.name}", within)
        code = self.fork.returncode
        assert code is not None
        return code


class Cluster:
    """Workers over one store, and the balancer before them, which knows those that are `serving`. Lifetime: the test.

    `store` is a URL, or makes one for each worker from its number. With a `clock` each has one of its own, wrong by so
    many seconds, see `clock_of`.
    """

    def __init__(
        self,
        directory: Path,
        store: str | Callable[[int], str],
        rng: Random,
        *,
        flaw: Flaw | None = None,
        clock: float | None = None,
        env: Mapping[str, str] | None = None,
        unset: Container[str] = (),
    ) -> None:
        self.directory = directory
        self.serving: list[Worker] = []
        self.all: list[Worker] = []
        self.rng = rng
        self._store = store
        self._flaw = flaw
        self._clock = clock
        self._env = env
        self._unset = unset

    async def start(self, workers: int) -> None:
        """Starts so many more, and has them serve."""
        made = [self.make() for _ in range(workers)]
        for worker in made:
            await worker.listening()
        self.serving += made

    def make(self) -> Worker:
        """One more, which starts now and does not serve yet."""
        number = len(self.all)
        store = self._store if isinstance(self._store, str) else self._store(number)
        clock = None
        if self._clock is not None:
            clock = self.directory / f"clock-{number}"
            Clock(clock).wrong_by = self._clock
        worker = Worker(
            self.directory, f"worker-{number}", store, clock=clock, flaw=self._flaw, env=self._env, unset=self._unset
        )
        self.all.append(worker)
        worker.start()
        return worker

    def clock_of(self, worker: Worker) -> Clock:
        """The clock of one that was made with a clock of its own."""
        return Clock(self.directory / f"clock-{self.all.index(worker)}")

    def pick(self, but: Worker | None = None) -> Worker:
        """Whoever the next request goes to: any of those that serve, another one than `but` where there is one."""
        others = [worker for worker in self.serving if worker is not but]
        return self.rng.choice(others or self.serving)

    async def replace(self, worker: Worker) -> Worker:
        """As a deployment does it: a new one serves, then the old one is told to end."""
        new = self.make()
        await new.listening()
        self.serving[self.serving.index(worker)] = new
        worker.send(signal.SIGTERM)
        await worker.ended()
        return new

    def output(self) -> str:
        """Everything that all of them have printed."""
        return "\n".join(f"-- {worker.name}\n{text}" for worker in self.all if (text := worker.output()))

    def tracebacks(self) -> str:
        """The workers' output from the first traceback on; empty if there is none."""
        text = self.output()
        return text[text.index("Traceback") - 500 :] if "Traceback" in text else ""

    def kill(self) -> None:
        """Ends all. Harmless when they are gone."""
        for worker in self.all:
            worker.kill()
