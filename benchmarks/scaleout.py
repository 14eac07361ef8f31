"""Measure the cost of many processes: FastState over Redis, beside one process and beside redis-py by hand.

`python -m benchmarks.scaleout` starts a redis-server and the processes itself, prints the table, and writes it to
`benchmarks/SCALEOUT.md`; with `--quick` it measures everything once, and writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import redis

from .delivery import Bench
from .events import request
from .load import PATIENCE, Crowd, Page, door, post, undisturbed, visit
from .servers import Contender, Server, cpu_of
from .table import Row, machine, table

RESULTS = Path(__file__).parent / "SCALEOUT.md"

BARE = "redis-py by hand"
MEMORY = "FastState, one process"
SAME = "Redis, same process"
OTHER = "Redis, other process"
WORKERS = {1: "1 process", 2: "2 processes", 4: "4 processes"}
COLUMNS = (BARE, MEMORY, SAME, OTHER, *WORKERS.values())

TABS = 8
"""Browsers whose events are measured together, each on a connection of its own."""

CLIENTS = 32
"""Connections that keep all processes busy."""

ELSEWHERE = {"faststate-connection": "000000000000.nobody0123456789"}
"""For events whose page has its stream in another process: they are answered 204, as nearly all are."""

READING = """\
# What many processes cost

Measured by `python -m benchmarks.scaleout` on {machine}, Redis {redis}.

{table}

## How to read it

- A cell is the median of the repetitions, in which all contenders take turns; in brackets is the ratio to what the line
  says, or to the first column. Compare ratios: they are of one run on one machine.
- *Event*: one browser sends one event after the other over HTTP and waits for each answer. *FastState, one process* has
  its states in memory only; the others have them in Redis, on the same machine, where lock and load are one round
  trip, and save, publish and unlock another. *CPU* is that of all processes of the app; that of Redis is in the line
  below.
- *Delivery*: an event is sent to one process, and a tab gets the change on its stream, from the same process or from
  another one. *redis-py by hand*: a POST that publishes its body, in one process, and a bare ASGI stream that writes
  what comes, in another: no state, no lock, no session, nothing stored.
- *Events a second*: {clients} connections at once, spread over the processes, each with its own state (*many keys*) or
  all with the same one (*one key*). The load, Redis and the processes share the machine's cores.
"""


class Scale(NamedTuple):
    """Numbers of repetitions, events and rounds in a run."""

    repeat: int = 5
    events: int = 400
    rounds: int = 100


Values = dict[str, list[float]]


class Engine:
    """A redis-server that keeps nothing. Lifetime: a `with` block."""

    def __enter__(self) -> Engine:
        path = shutil.which("redis-server")
        if path is None:
            sys.exit("redis-server is not installed (Debian: redis-server)")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory()
        command = [path, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory.name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.version = str(self._do("INFO", "server")["redis_version"])
                return self
            except redis.RedisError:
                if time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def _do(self, *command: str) -> dict[str, object]:
        with redis.Redis(port=self.port, single_connection_client=True) as client:
            answer: dict[str, object] = client.execute_command(*command)
            return answer

    def empty(self) -> None:
        """Delete everything, before processes are started."""
        with redis.Redis(port=self.port, single_connection_client=True) as client:
            client.flushall()

    def cpu(self) -> float:
        """Return the CPU microseconds used so far."""
        return cpu_of(self._process.pid)


def contender(environment: dict[str, str], module: str = "faststate") -> Contender:
    stream = "/_faststate/stream" if module == "faststate" else "/stream"
    return Contender(module, module, {}, stream, environment)


class Bed:
    """The Redis engine, and which contenders take turns on which core. Lifetime: the run."""

    def __init__(self, engine: Engine, bench: Bench) -> None:
        self.engine = engine
        self.bench = bench
        self._cores = sorted({bench._server_core, bench.load_core})

    @contextlib.contextmanager
    def processes(self, who: str, count: int, *, spread: bool = False) -> Iterator[list[Server]]:
        """Start so many processes of one contender, on one core, or `spread`."""
        self.engine.empty()
        own = {BARE: {"BENCHMARK_REDIS": self.engine.url}, MEMORY: {}}
        environment = own.get(who, {"FASTSTATE_STORE": f"{self.engine.url}?prefix=bench"})
        made = contender(environment, "bare" if who == BARE else "faststate")
        with ExitStack() as stack:
            cores = self._cores if spread else self._cores[:1]
            yield [stack.enter_context(Server.of(made, cores[number % len(cores)])) for number in range(count)]

    def cpu(self, servers: Sequence[Server]) -> float:
        return sum(server.quiet() for server in servers)


def click(page: Page, state: str, nonce: str, own: dict[str, str]) -> bytes:
    """Build an event as a page sends it."""
    body = json.dumps({"a": {"by": 1}, "w": json.loads(page.payload)["w"]}).encode()
    return request(f"/_faststate/event/{state}/add", page, {"faststate-nonce": nonce, **own}, body)


def event_and_delivery(bed: Bed, scale: Scale) -> Iterator[Row]:
    """Measure one event after the other, and when its page has it."""
    answer, arrival, late, cpu, redis_cpu = (defaultdict[str, list[float]](list) for _ in range(5))
    for repetition in range(scale.repeat):
        for who in _turned((BARE, MEMORY, SAME, OTHER), repetition):
            with bed.processes(who, 2 if who in (BARE, OTHER) else 1) as servers, undisturbed():
                answers, arrivals, used, engine = _one_after_the_other(bed, who, servers, scale.events)
            answer[who].append(1e3 * statistics.median(answers))
            arrival[who].append(1e3 * statistics.median(arrivals))
            late[who].append(1e3 * sorted(arrivals)[len(arrivals) * 99 // 100])
            cpu[who].append(used)
            if who != MEMORY:
                redis_cpu[who].append(engine)
        bed.bench.say(f"events and their delivery: {repetition + 1} of {scale.repeat}")
    yield Row("event, until it is answered, p50: ms (ratio to one process)", answer, _base(answer, MEMORY))
    yield Row("event, until a tab has it, p50: ms (ratio to one process)", arrival, _base(arrival, MEMORY))
    yield Row("event, until a tab has it, p50: ms (ratio to redis-py by hand)", arrival, BARE)
    yield Row("event, until a tab has it, p99: ms (ratio to redis-py by hand)", late, BARE)
    yield Row("event and delivery: CPU of the app, µs (ratio to one process)", cpu, _base(cpu, MEMORY))
    yield Row("event and delivery: CPU of Redis, µs", redis_cpu)


def _base(values: Values, who: str) -> Values:
    return dict.fromkeys(values, values[who])


def _turned(who: Sequence[str], repetition: int) -> list[str]:
    first = repetition % len(who)
    return [*who[first:], *who[:first]]


def _one_after_the_other(
    bed: Bed, who: str, servers: Sequence[Server], events: int
) -> tuple[list[float], list[float], float, float]:
    """Return the seconds until each event was answered, and until a tab had it; and the CPU µs per event of the app and
    of Redis.
    """
    sending, showing = servers[0], servers[-1]
    warm = events // 10
    answers, arrivals = [], []
    with Crowd(showing.address) as crowd, socket.create_connection(sending.address, PATIENCE) as sock:
        if who == BARE:
            crowd.open([door("/stream")])
            requests = [_publish(number) for number in range(events + warm)]
            marks = [f"~{number}~" for number in range(events + warm)]
        else:
            (page,) = visit(showing.address, "/counter", 1)
            own = {"faststate-connection": crowd.enter(page.door(showing.contender.stream))}
            requests = [click(page, "Counter", f"scaleout{number}", own) for number in range(events + warm)]
            marks = [f'"count":{number + 1}}}' for number in range(events + warm)]
        used = engine = 0.0
        for number, (each, mark) in enumerate(zip(requests, marks, strict=True)):
            if number == warm:
                used, engine = bed.cpu(servers), bed.engine.cpu()
            begun = time.perf_counter()
            arrived = crowd.deliver(lambda each=each: sock.sendall(each), mark)  # type: ignore[misc]
            _answered(sock)
            if number >= warm:
                arrivals.append(arrived)
                answers.append(time.perf_counter() - begun)
        used, engine = bed.cpu(servers) - used, bed.engine.cpu() - engine
    return answers, arrivals, used / events, engine / events


def _publish(number: int) -> bytes:
    body = f"~{number}~".encode()
    return b"POST /say HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _answered(sock: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4_096)
    if not answer.startswith(b"HTTP/1.1 204"):
        raise RuntimeError(f"an event was answered {answer[:500]!r}")


def throughput(bed: Bed, scale: Scale, counts: Sequence[int] = tuple(WORKERS)) -> Iterator[Row]:
    """Measure as many events as so many processes can do."""
    for what, state, path in (("many keys", "Counter", "/counter"), ("one key", "Total", "/total")):
        each: Values = defaultdict(list)
        for repetition in range(scale.repeat):
            for number in counts:
                with bed.processes(OTHER, number, spread=True) as servers, undisturbed():
                    each[WORKERS[number]].append(_busy(servers, state, path, scale.rounds))
            bed.bench.say(f"events a second, {what}: {repetition + 1} of {scale.repeat}")
        yield Row(f"events a second, {what} (ratio to one process over Redis)", each, WORKERS[1])


def _busy(servers: Sequence[Server], state: str, path: str, rounds: int) -> float:
    pages = visit(servers[0].address, path, CLIENTS)
    warm = max(1, rounds // 10)
    prepared = [
        [click(page, state, f"busy{number}x{turn}x", ELSEWHERE) for number, page in enumerate(pages)]
        for turn in range(warm + rounds)
    ]
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_connection(servers[number % len(servers)].address, PATIENCE))
            for number in range(CLIENTS)
        ]
        for each in prepared[:warm]:
            post(sockets, each)
        begun = time.perf_counter()
        for each in prepared[warm:]:
            post(sockets, each)
        return rounds * CLIENTS / (time.perf_counter() - begun)


def rows(bed: Bed, scale: Scale) -> Iterator[Row]:
    """Yield all rows, as soon as they are measured."""
    yield from event_and_delivery(bed, scale)
    yield from throughput(bed, scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less, and only once; writes no SCALEOUT.md")
    arguments = parser.parse_args()
    scale = Scale(1, 100, 20) if arguments.quick else Scale()
    bench = Bench(())
    with Engine() as engine, bench.load():
        measured = table(rows(Bed(engine, bench), scale), COLUMNS)
        print(measured)
        if not arguments.quick:
            text = READING.format(machine=machine(), redis=engine.version, table=measured, clients=CLIENTS)
            RESULTS.write_text(text)


if __name__ == "__main__":
    main()
