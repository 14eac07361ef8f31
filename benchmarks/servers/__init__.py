"""The contenders: each is a server in its own process on one core, and all look the same to the measuring process.

The process that started a server tells it what to do through a socket that only the two share. So a command costs each
server the same little, and not what its framework makes of a request.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import table
from ..load import PATIENCE, mark

__all__ = ["SERVERS", "Contender", "Server", "core", "cores", "cpu_of"]


@dataclass(frozen=True)
class Contender:
    """One server that is measured. `title` is its column, `module` (below this package) has its `App`.

    `pages` are the pages from which its streams are opened, by what they show (empty if a stream needs no page):
    "board", which all change and watch; "own", with a state of each session; "item", with one of many shared states.
    `environment` is set for its process.
    """

    title: str
    module: str
    pages: Mapping[str, str] = field(default_factory=dict)
    stream: str = "/stream"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_faststate(self) -> bool:
        return self.module == "faststate"


ROOT = Path(__file__).resolve().parents[2]
PAGES = {"board": "/", "own": "/own", "item": "/item/1"}

SERVERS = {
    "floor": Contender(table.FLOOR, "floor"),
    "nchan": Contender(table.NCHAN, "nchan"),
    "queue": Contender(table.QUEUE, "queues"),
    "starlette": Contender(table.STARLETTE, "streaming"),
    "fasthtml": Contender(table.FASTHTML, "fasthtml", {"board": "/"}),
    "portable": Contender(
        table.PORTABLE, "faststate", PAGES, "/_faststate/stream", {"FASTSTATE_TRANSPORT": "portable"}
    ),
    "faststate": Contender(table.DIRECT, "faststate", PAGES, "/_faststate/stream"),
}
"""All contenders, by their names on the command line."""


def cores() -> tuple[int, int]:
    """Return the cores (their numbers) of the server and of the load; the same one if there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def core(number: int) -> Iterator[None]:
    """Keep this process, and the processes that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_of(pid: int) -> float:
    """Return the CPU microseconds that a process has used so far, by the kernel's account of its threads."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            total += int((thread / "schedstat").read_bytes().split()[0])
    return total / 1_000


class Server:
    """A contender's process. Lifetime: a `with` block; whatever happens in it, nothing is left behind."""

    def __init__(self, contender: Contender, core_number: int) -> None:
        self.contender = contender
        self.address = ("127.0.0.1", 0)
        self.changes = 0
        self._core = core_number
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        self._control: socket.socket | None = None
        self._replies: Iterator[bytes] = iter(())

    @staticmethod
    def of(contender: Contender, core_number: int) -> Server:
        """Return the server of a contender, not started yet."""
        if contender.module == "nchan":
            from .nchan import NchanServer

            return NchanServer(contender, core_number)
        return Server(contender, core_number)

    def __enter__(self) -> Server:
        try:
            with core(self._core):
                self._start()
        except BaseException as error:
            self._note(error)
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._note(error)
        self._end()

    def _note(self, error: BaseException) -> None:
        error.add_note(f"The server ({self.contender.title}) has said:\n{self.output()}")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.servers", self.contender.module, str(theirs.fileno())],
                stdout=self._log,
                stderr=self._log,
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if not name.startswith("FASTSTATE_")}
                | dict(self.contender.environment),
            )
        ours.settimeout(PATIENCE)
        self._replies = iter(ours.makefile("rb"))
        self.address = ("127.0.0.1", self.reply()["port"])

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()
        self._log.close()

    def output(self) -> str:
        """Return what the process has printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip() or "nothing"

    # -- commands -------------------------------------------------------------------------------------------

    def tell(self, what: str, **arguments: Any) -> None:
        """Let the server begin a command: a method of its `App`. `reply` waits until it is done."""
        assert self._control is not None
        self._control.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")

    def reply(self) -> Any:
        """Wait for the end of the oldest command; return its result."""
        line = next(self._replies, b"")
        if not line:
            raise ConnectionError("the server has ended")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def change(self, target: str = "board", size: int = 0) -> tuple[Callable[[], None], str]:
        """Return the command for one change, and the mark that it sends; `size` (bytes) fills the value up."""
        self.changes += 1
        text = mark(self.changes)
        return lambda: self.tell("change", text=text.ljust(size, "."), target=target), text

    def burst(self, count: int, per_tick: int) -> tuple[Callable[[], None], str]:
        """Return the command for `count` changes, `per_tick` in one tick of the loop, and the mark of the last."""
        first = self.changes + 1
        self.changes += count
        return lambda: self.tell("burst", first=first, count=count, per_tick=per_tick), mark(self.changes)

    def collect(self) -> None:
        """Let the server give back what memory it can."""
        self.tell("collect")
        self.reply()

    # -- costs ---------------------------------------------------------------------------------------------

    def _processes(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid]

    def cpu(self) -> float:
        """Return the CPU microseconds that the server has used so far."""
        return sum(map(cpu_of, self._processes()))

    def quiet(self, within: float = PATIENCE) -> float:
        """Wait until the server is idle; return its CPU microseconds then."""
        deadline = time.monotonic() + within
        before = self.cpu()
        while True:
            time.sleep(0.02)
            now = self.cpu()
            if now - before < 200 or time.monotonic() > deadline:  # a heartbeat or two, in a fiftieth of a second
                return now
            before = now

    def memory(self) -> float:
        """Return the KB that the server has for itself, after it has given back what it can."""
        self.collect()
        self.quiet()
        total = 0
        for pid in self._processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean", "Private_Dirty")):
                    total += int(line.split()[1])
        return total
