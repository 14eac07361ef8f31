"""Measure the cost of delivering a change to thousands of streams, beside the floor and beside apps written by hand.

Each server is a process of its own on one core, started again for each measurement; this process is the load, on the
other core. Servers take turns within a repetition. `python -m benchmarks.delivery --watchers 1000 --servers
floor,faststate` measures one size; `make bench` measures everything.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from signal import SIGTERM
from typing import NamedTuple

from .load import Crowd, Page, door, open_files, undisturbed, visit
from .servers import SERVERS, Contender, Server, core, cores
from .servers.nchan import module as nchan_module
from .table import DIRECT, FASTHTML, FLOOR, PORTABLE, Row, table

__all__ = ["Bench", "Scale", "available", "rows"]

Values = dict[str, list[float]]
"""Measurements by contender: a number per repetition."""

WARM = 3  # changes before the measured ones
KB = 1_024


class Scale(NamedTuple):
    """Numbers of streams, of changes, and of repetitions in a run."""

    repeat: int = 3
    small: int = 1_000
    large: int = 5_000
    many: int = 10_000
    updates: int = 30_000
    """Fewest delivered updates of one measurement: its changes are this divided by the watchers, and 20 at least."""
    burst: int = 200
    burst_per_tick: int = 10
    record_watchers: int = 100
    opened: int = 2_500
    """Streams that are opened and closed to measure that cost. Many, since the cyclic collector runs in full only once
    for so many new streams: among 400 there is one run or none, which is 300 µs for each."""
    reconnects: int = 2_000
    reconnects_per_second: float = 1_000
    frozen_share: float = 0.1
    large_state: int = 16_000
    """Bytes of the state that frozen readers do not take."""
    large_changes: int = 25

    def changes(self, watchers: int) -> int:
        return max(20, self.updates // watchers)

    def at(self, streams: int, repeat: int) -> Scale:
        """Return this scale with at most `streams` streams, and with `repeat` repetitions."""
        return self._replace(
            repeat=repeat,
            small=min(self.small, streams),
            large=min(self.large, streams),
            many=min(self.many, streams),
        )


class Delivery(NamedTuple):
    """The cost of some changes, made one after the other.

    `cpu` is the server's CPU in microseconds for each watcher that a change has reached, `last` are the milliseconds
    after which a change had reached the last watcher.
    """

    cpu: float
    last: list[float]


def available(names: Iterable[str]) -> list[str]:
    """Return the servers that can run on this machine; print which cannot."""
    names = list(names)
    if "nchan" in names and nchan_module() is None:
        print("nginx with nchan is left out: it is not installed (Debian: nginx, libnginx-mod-nchan).", file=sys.stderr)
        names.remove("nchan")
    return names


class Bench:
    """The servers of one run, and the pages that browsers have loaded from them. Lifetime: the run."""

    def __init__(self, names: Sequence[str] = tuple(SERVERS), *, progress: bool = True) -> None:
        self.contenders = [SERVERS[name] for name in available(names)]
        self.progress = progress
        self.failed: list[Exception] = []
        self._server_core, self.load_core = cores()
        self._pages: dict[str, dict[str, list[Page]]] = defaultdict(lambda: defaultdict(list))

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Make this process the load: on its own core, with as many open files as allowed."""
        open_files(0)
        in_charge = threading.current_thread() is threading.main_thread()
        before = signal.signal(SIGTERM, lambda *_: sys.exit(143)) if in_charge else None  # servers end with it
        try:
            with core(self.load_core):
                yield
        finally:
            if in_charge:
                signal.signal(SIGTERM, before)

    def only(self, *titles: str) -> list[Contender]:
        return [contender for contender in self.contenders if contender.title in titles]

    def say(self, text: str) -> None:
        if self.progress:
            print(f"  {text}", file=sys.stderr, flush=True)

    def visit(self, contenders: Iterable[Contender], **counts: int) -> None:
        """Load pages as new browsers do, until each contender has `counts` of each kind (by what it shows).

        Cookies and tokens are signed, and valid after a restart, so these browsers come to each server that is started.
        """
        for contender in contenders:
            known = self._pages[contender.module]
            missing = {
                shows: count - len(known[shows])
                for shows, count in counts.items()
                if shows in contender.pages and count > len(known[shows])
            }
            if missing:
                with Server.of(contender, self._server_core) as server:
                    for shows, count in missing.items():
                        known[shows] += visit(server.address, contender.pages[shows], count)

    def doors(self, contender: Contender, count: int, shows: str = "board") -> list[bytes]:
        """Return the requests that open `count` streams of the page named `shows`."""
        if not contender.pages:
            return [door(contender.stream)] * count
        return [page.door(contender.stream) for page in self._pages[contender.module][shows][:count]]

    @contextlib.contextmanager
    def life(self, contender: Contender) -> Iterator[tuple[Server, Crowd]]:
        """Start a server that has no visitors yet."""
        with Server.of(contender, self._server_core) as server, Crowd(server.address) as crowd, undisturbed():
            yield server, crowd

    def turns(self, contenders: Sequence[Contender], repeat: int, what: str) -> Iterator[Contender]:
        """Yield all contenders, `repeat` times, each time beginning with another one."""
        for repetition in range(repeat):
            begun = time.monotonic()
            first = repetition % max(1, len(contenders))
            yield from [*contenders[first:], *contenders[:first]]
            self.say(f"{what}: {repetition + 1} of {repeat}, {time.monotonic() - begun:.0f} s")


def deliver(
    server: Server,
    crowd: Crowd,
    changes: int,
    watchers: Sequence[int] | None = None,
    *,
    target: str = "board",
    size: int = 0,
) -> Delivery:
    """Make changes one after the other, each when the one before has reached all `watchers`."""
    number = len(crowd) if watchers is None else len(watchers)
    last = []
    for _ in range(WARM):
        _change(server, crowd, watchers, target, size)
    before = server.quiet()
    for _ in range(changes):
        last.append(1e3 * _change(server, crowd, watchers, target, size))
    return Delivery((server.quiet() - before) / changes / number, last)


def _change(server: Server, crowd: Crowd, watchers: Sequence[int] | None, target: str, size: int) -> float:
    seconds = crowd.deliver(*server.change(target, size), watchers)
    server.reply()
    return seconds


def burst(server: Server, crowd: Crowd, count: int, per_tick: int, times: int = 1) -> float:
    """Return the CPU microseconds per watcher for each of `count` changes; check that all end on the last value."""
    before = server.quiet()
    for _ in range(times):
        crowd.deliver(*server.burst(count, per_tick))
        server.reply()
    return (server.quiet() - before) / times / count / len(crowd)


# -- measurements ------------------------------------------------------------------------------------------------------


def delivered(bench: Bench, watchers: int, scale: Scale, bursts: bool = False) -> Iterator[Row]:
    """Measure a change to one state that `watchers` streams follow: CPU, bursts, and when the last one has it."""
    cpu, p50, p99, at_once, in_ticks = (defaultdict[str, list[float]](list) for _ in range(5))
    pooled: Values = defaultdict(list)
    bench.visit(bench.contenders, board=watchers)
    for contender in bench.turns(bench.contenders, scale.repeat, f"delivered update, {watchers:,} watchers"):
        with bench.life(contender) as (server, crowd):
            crowd.open(bench.doors(contender, watchers))
            measured = deliver(server, crowd, scale.changes(watchers))
            who = contender.title
            cpu[who].append(measured.cpu)
            p50[who].append(statistics.median(measured.last))
            pooled[who] += measured.last
            if bursts and len(cpu[who]) <= 3:
                at_once[who].append(burst(server, crowd, scale.burst, scale.burst))
                in_ticks[who].append(burst(server, crowd, scale.burst, scale.burst_per_tick))
    floor = cpu.get(FLOOR, [])
    of_floor = dict.fromkeys(cpu, floor)
    yield Row(f"delivered update, {watchers:,} watchers: µs", cpu, FLOOR, {DIRECT: 1.15, PORTABLE: 1.6})
    if bursts:
        what, aims = f"µs per change and watcher (ratio to the floor's update), {watchers:,}", {DIRECT: 0.15}
        yield Row(f"burst of {scale.burst} in one go: {what}", at_once, of_floor, aims | {PORTABLE: 0.15})
        ticks = scale.burst // scale.burst_per_tick
        yield Row(f"burst of {scale.burst} over {ticks} ticks: {what}", in_ticks, of_floor, aims | {PORTABLE: 0.15})
    p99 = {who: [_percentile(values, 99)] for who, values in pooled.items()}
    yield Row(f"last of {watchers:,} watchers, p50: ms", p50, FLOOR)
    yield Row(f"last of {watchers:,} watchers, p99: ms", p99, FLOOR, {DIRECT: 1.3})


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def memory(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure the server's own memory for each idle stream, in KB; for FastState with one state per session."""
    each: Values = defaultdict(list)
    bench.visit(bench.only(FASTHTML), board=scale.large)
    bench.visit(bench.only(DIRECT, PORTABLE), own=scale.large)
    for contender in bench.turns(bench.contenders, min(scale.repeat, 3), "memory"):
        with bench.life(contender) as (server, crowd):
            shows = "own" if contender.is_faststate else "board"
            doors = bench.doors(contender, scale.large, shows)
            crowd.open(doors[:100])
            crowd.close()
            before = server.memory()
            crowd.open(doors)
            each[contender.title].append((server.memory() - before) / scale.large)
    yield Row("memory of an idle stream, with its session's state: KB", each, FLOOR, limits={DIRECT: 12, PORTABLE: 12})


def unconcerned(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure the cost of a change beside streams that do not watch what changes."""
    alone: Values = defaultdict(list)
    beside: Values = defaultdict(list)
    number = scale.record_watchers
    contenders = bench.only(DIRECT, PORTABLE)
    bench.visit(contenders, own=scale.large, item=number)
    for contender in bench.turns(contenders, min(scale.repeat, 3), "watchers beside others"):
        with bench.life(contender) as (server, crowd):
            others = bench.doors(contender, scale.large, "own")
            crowd.open(bench.doors(contender, number, "item"))
            watchers = crowd.newest(number)
            changes = scale.changes(number) // 4
            alone[contender.title].append(deliver(server, crowd, changes, watchers, target="item").cpu)
            crowd.open(others)
            beside[contender.title].append(deliver(server, crowd, changes, watchers, target="item").cpu)
    yield Row(f"delivered update, {number} watchers of one record: µs", alone)
    yield Row(
        f"the same beside {scale.large:,} streams of other states (ratio to without them): µs",
        beside,
        alone,
        {DIRECT: 1.15, PORTABLE: 1.15},
    )


def opening(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure the cost of opening and closing a stream, with nobody else connected and with many."""
    empty: Values = defaultdict(list)
    full: Values = defaultdict(list)
    contenders = bench.only(FLOOR, FASTHTML, PORTABLE, DIRECT)
    bench.visit(contenders, board=scale.large)
    for contender in bench.turns(contenders, min(scale.repeat, 3), "opening and closing"):
        with bench.life(contender) as (server, crowd):
            doors = bench.doors(contender, scale.large)
            some = doors[: scale.opened]
            _come_and_go(server, crowd, some[:50])
            empty[contender.title].append(_come_and_go(server, crowd, some))
            crowd.open(doors)
            full[contender.title].append(_come_and_go(server, crowd, some))
    yield Row("a stream opened and closed: µs", empty, FLOOR)
    yield Row(
        f"the same with {scale.large:,} open (ratio to without them): µs", full, empty, {DIRECT: 1.15, PORTABLE: 1.15}
    )


def _come_and_go(server: Server, crowd: Crowd, doors: Sequence[bytes], at_once: int = 50) -> float:
    before = server.quiet()
    for start in range(0, len(doors), at_once):
        batch = doors[start : start + at_once]
        crowd.open(batch, at_once=at_once)
        crowd.close(crowd.newest(len(batch)))
    return (server.quiet() - before) / len(doors)


def many(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure as many streams as one core has to serve."""
    number = open_files(scale.many)
    cpu: Values = defaultdict(list)
    last: Values = defaultdict(list)
    if number < scale.many:
        bench.say(f"{number:,} streams instead of {scale.many:,}: no more files may be open")
    contenders = bench.only(FLOOR, FASTHTML, PORTABLE, DIRECT)
    bench.visit(contenders, board=number)
    for contender in bench.turns(contenders, min(scale.repeat, 2), f"{number:,} streams"):
        with bench.life(contender) as (server, crowd):
            crowd.open(bench.doors(contender, number))
            measured = deliver(server, crowd, scale.changes(number))
            cpu[contender.title].append(measured.cpu)
            last[contender.title].append(statistics.median(measured.last))
    yield Row(f"delivered update, {number:,} watchers: µs", cpu, FLOOR)
    yield Row(f"last of {number:,} watchers, p50: ms", last, FLOOR)


def frozen(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure readers that take nothing: how long others wait then, and what the server keeps for the readers."""
    without: Values = defaultdict(list)
    among: Values = defaultdict(list)
    growth: Values = defaultdict(list)
    number = int(scale.large * scale.frozen_share)
    contenders = bench.only(FLOOR, FASTHTML, PORTABLE, DIRECT)
    bench.visit(contenders, board=scale.large)
    for contender in bench.turns(contenders, min(scale.repeat, 3), "frozen readers"):
        who = contender.title
        with bench.life(contender) as (server, crowd):
            doors = bench.doors(contender, scale.large)
            crowd.open(doors[number:])
            measured = deliver(server, crowd, scale.large_changes, size=scale.large_state)
            without[who].append(statistics.median(measured.last))
            crowd.open_frozen(doors[:number])
            before = server.memory()
            measured = deliver(server, crowd, scale.large_changes, size=scale.large_state)
            among[who].append(statistics.median(measured.last))
            growth[who].append((server.memory() - before) / KB)
    size = f"{scale.large_state // 1_000} KB"
    yield Row(f"last of {scale.large - number:,} watchers of a state of {size}, p50: ms", without, FLOOR)
    yield Row(
        f"the same with {number:,} more that never read (ratio to without them): ms",
        among,
        without,
        {DIRECT: 1.15, PORTABLE: 1.15},
    )
    yield Row(f"memory that {scale.large_changes} changes have then taken: MB", growth)


def reconnects(bench: Bench, scale: Scale) -> Iterator[Row]:
    """Measure browsers that come back to a server that was started again."""
    cpu: Values = defaultdict(list)
    waited: Values = defaultdict(list)
    contenders = bench.only(FLOOR, FASTHTML, PORTABLE, DIRECT)
    bench.visit(contenders, board=scale.reconnects)
    for contender in bench.turns(contenders, min(scale.repeat, 3), "reconnects"):
        with bench.life(contender) as (server, crowd):
            doors = bench.doors(contender, scale.reconnects)
            trigger, text = server.change()
            trigger()
            server.reply()
            before = server.quiet()
            seconds = crowd.open(doors, text.encode(), at_once=len(doors), rate=scale.reconnects_per_second)
            cpu[contender.title].append((server.quiet() - before) / len(doors))
            waited[contender.title].append(1e3 * _percentile(seconds, 99))
    rate = f"{scale.reconnects_per_second:,.0f} reconnects a second after a restart"
    yield Row(f"{rate}, each with a snapshot: µs", cpu, FASTHTML)
    yield Row(f"{rate}, snapshot's p99: ms", waited, FASTHTML)


def rows(scale: Scale, bench: Bench | None = None) -> Iterator[Row]:
    """Yield all rows about delivery. A failed measurement is printed and noted in `bench.failed`; the others go on."""
    bench = bench or Bench()
    measurements: list[Callable[[], Iterator[Row]]] = [
        lambda: itertools.islice(delivered(bench, scale.small, scale, bursts=True), 3),
        lambda: delivered(bench, scale.large, scale),
        lambda: memory(bench, scale),
        lambda: many(bench, scale),
        lambda: unconcerned(bench, scale),
        lambda: opening(bench, scale),
        lambda: frozen(bench, scale),
        lambda: reconnects(bench, scale),
    ]
    with bench.load():
        for measurement in measurements:
            try:
                yield from measurement()
            except Exception as error:
                bench.failed.append(error)
                traceback.print_exception(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1_000, help="streams that follow what changes")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions; the median is shown")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"of {', '.join(SERVERS)}")
    parser.add_argument("--only", choices=sorted(PARTS), help="run another measurement, with that many watchers")
    arguments = parser.parse_args()
    scale = Scale(repeat=arguments.repeat)._replace(
        small=arguments.watchers, large=arguments.watchers, many=arguments.watchers
    )
    bench = Bench(arguments.servers.split(","))
    with bench.load():
        if arguments.only:
            print(table(PARTS[arguments.only](bench, scale)))
        else:
            print(table(delivered(bench, arguments.watchers, scale, bursts=True)))


PARTS: dict[str, Callable[[Bench, Scale], Iterator[Row]]] = {
    part.__name__: part for part in (memory, unconcerned, opening, many, frozen, reconnects)
}

if __name__ == "__main__":
    main()
