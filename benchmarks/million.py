"""Calculate what a load takes, up to a million open streams: processes, memory, cores and messages.

Run it with `python -m benchmarks.million`. It multiplies what `make bench` has measured of one process (read from
`benchmarks/RESULTS.md`) by what people do in a load. No machine has served a million streams: the result says what to
expect, and where the first limit is.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import ceil
from pathlib import Path

__all__ = ["LOADS", "Costs", "Load", "Need", "needed", "read", "served_again", "table"]

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Costs:
    """The cost of one thing in one process, or in Redis. µs are of CPU. `ROWS` says which of them stand in RESULTS.md.

    `event` is without Redis. With it an event costs `shared_event` more in its process and `redis_event` in Redis, for
    the lock and the commit. Each process that watches the state receives a message: `message` there, and
    `redis_message` in Redis. Asking Redis for a state costs `load` and `redis_load`. Each second each process sends a
    heartbeat, and hears of every other one: `redis_beat` for each pair.
    """

    stream_kb: float = 12.2
    update: float = 8.89
    event: float = 216
    page: float = 883
    reconnect: float = 630

    # By `python -m benchmarks.sharing`, on the machine of RESULTS.md with Redis 7.0; `redis_beat` was measured by hand.
    shared_event: float = 350
    message: float = 200
    load: float = 100
    redis_event: float = 100
    redis_message: float = 15
    redis_load: float = 40
    redis_beat: float = 1.2

    process_mb: float = 60
    redis_state_kb: float = 0.8
    streams_per_process: int = 10_000
    """The number that was measured in one process. More are possible; a restart then takes longer."""
    heartbeat: float = 15
    max_age: float = 3_600
    """Seconds after which a page opens its stream again."""
    busy: float = 0.5
    """The part of a core, and of Redis, that is planned for; the rest is for peaks."""


ROWS: Mapping[str, str] = {
    "stream_kb": "memory of an idle stream",
    "update": "delivered update, 10,000 watchers",
    "event": "event over HTTP",
    "page": "page with two signals and a view",
    "reconnect": "1,000 reconnects a second after a restart, each with a snapshot: µs",
}
"""The beginning of the line of RESULTS.md that has each cost."""


def read(results: Path = RESULTS) -> tuple[Costs, frozenset[str]]:
    """Read FastState's costs from RESULTS.md, with the defaults above for the rest; return them and the names read."""
    found: dict[str, float] = {}
    lines = [line.strip().strip("|").split(" | ") for line in results.read_text().splitlines() if line.startswith("|")]
    for name, begin in ROWS.items():
        for title, *cells in lines:
            number = re.match(r"\**([\d.,]+)", cells[-2].strip())  # only the aim follows
            if title.strip().startswith(begin) and number:
                found[name] = float(number[1].replace(",", ""))
                break
    return replace(Costs(), **found), frozenset(found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Load:
    """What people do. `events` and `pages` are per second and open stream; an event is seen by `watchers` streams.

    `broadcasts` are changes per second of what all streams watch. `states` are those in Redis for each stream, besides:
    its page asks for them, and so does each stream that is opened.
    """

    name: str
    streams: int
    events: float
    watchers: float = 1
    broadcasts: float = 0
    pages: float = 1 / 60
    states: float = 1


LOADS = (
    Load("a shop: 10,000 carts, and stock that 5 look at", 10_000, 1 / 30, 5, states=2),
    Load("a quiz: 100,000 answer one question in 20 s", 100_000, 1 / 20, 1, 0.05, 1 / 600),
    Load("a million on one score, a change a second", 1_000_000, 0, 1, 1, 1 / 600, 0),
    Load("a million, each an event in 5 minutes of their own", 1_000_000, 1 / 300, 1.5, 0, 1 / 600),
    Load("a million in rooms of 50, a message in 10 minutes", 1_000_000, 1 / 600, 50, 0, 1 / 600),
)


@dataclass(frozen=True)
class Need:
    """The needs of a load: `cores` that are busy, of as many as there are `processes`; numbers per second."""

    processes: int
    cores: float
    gigabytes: float
    events: float
    deliveries: float
    redis_calls: float
    redis_messages: float
    redis_cores: float
    redis_gigabytes: float


def reached(watchers: float, processes: int) -> float:
    """Return how many of the processes (float) have one of the watchers, if a balancer spreads them at random."""
    return float(processes * (1 - (1 - 1 / processes) ** watchers))


def reached_by_chance(watchers: int, processes: int, tries: int = 2_000, seed: int = 1) -> float:
    """Return the same as `reached`, by simulating it."""
    chance = random.Random(seed)
    return sum(len({chance.randrange(processes) for _ in range(watchers)}) for _ in range(tries)) / tries


def needed(load: Load, costs: Costs) -> Need:
    """Return what `load` needs, with at most `costs.busy` of each core at work. One process needs no Redis."""
    changes = load.streams * load.events + load.broadcasts
    deliveries = load.streams * load.events * load.watchers + load.broadcasts * load.streams
    alive = load.streams / costs.heartbeat  # heartbeats, which cost a write each
    pages = load.streams * load.pages
    opened = load.streams / costs.max_age + pages  # each page opens a stream
    processes = ceil(load.streams / costs.streams_per_process)
    while True:
        messages = calls = loads = 0.0
        if processes > 1:
            messages = load.streams * load.events * reached(load.watchers, processes) + load.broadcasts * processes
            loads = load.states * (pages + 2 * opened)  # any process may render a page; a stream subscribes and reads
            calls = 2 * changes + loads
        work = (
            changes * (costs.event + (costs.shared_event if processes > 1 else 0))
            + (deliveries + alive) * costs.update
            + pages * costs.page
            + opened * costs.reconnect
            + messages * costs.message
            + loads * costs.load
        )
        if work / 1e6 <= costs.busy * processes:
            break
        processes = max(processes + 1, ceil(work / 1e6 / costs.busy))
    at_redis = (
        changes * costs.redis_event
        + messages * costs.redis_message
        + loads * costs.redis_load
        + processes**2 * costs.redis_beat
    )
    several = processes > 1
    return Need(
        processes=processes,
        cores=work / 1e6,
        gigabytes=load.streams * costs.stream_kb / 1e6 + processes * costs.process_mb / 1e3,
        events=changes,
        deliveries=deliveries,
        redis_calls=calls,
        redis_messages=messages,
        redis_cores=at_redis / 1e6 if several else 0.0,
        redis_gigabytes=load.streams * load.states * costs.redis_state_kb / 1e6 if several else 0.0,
    )


RETRIES = (1.0, 2.0, 4.0, 5.0)
"""Seconds that a page waits before it tries to open its stream again; the last one repeats."""


def served_again(load: Load, processes: int, down: float, costs: Costs) -> float:
    """Return the seconds from the loss of all streams until the last page has its own again.

    All processes are gone for `down` seconds, and they and Redis work on nothing else afterwards. All pages try at the
    same moments.
    """
    calls = 2 * load.states if processes > 1 else 0
    work = max((costs.reconnect + calls * costs.load) / processes, calls * costs.redis_load) / 1e6
    tries, number = RETRIES[0], 1
    while tries < down:  # all are refused, and come back
        tries += RETRIES[min(number, len(RETRIES) - 1)]
        number += 1
    return tries + load.streams * work


HEADINGS = (
    "load", "events/s", "updates/s", "processes", "cores at work", "GB", "Redis calls/s", "messages/s",
    "Redis: cores", "Redis: GB", "all served again, after 3 s away",
)  # fmt: skip


def table(loads: Iterable[Load], costs: Costs) -> str:
    """Format the needs of the loads as a table in Markdown. Bold is more than one Redis can do."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    for load in loads:
        need = needed(load, costs)
        cores = f"{need.redis_cores:.2f}"
        numbers = (need.events, need.deliveries, need.processes, need.cores, need.gigabytes, need.redis_calls,
                   need.redis_messages)  # fmt: skip
        lines.append((
            load.name,
            *(f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}" for number in numbers),
            f"**{cores}**" if need.redis_cores > costs.busy else cores,
            f"{need.redis_gigabytes:.1f}",
            f"{served_again(load, need.processes, 3, costs):.0f} s",
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    costs, measured = read()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(costs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=getattr(costs, field.name))
    costs = Costs(**vars(parser.parse_args()))
    print(table(LOADS, costs))
    for field in fields(costs):
        source = "benchmarks/RESULTS.md" if field.name in measured else "benchmarks/million.py"
        print(f"{field.name} = {getattr(costs, field.name):g} ({source})")


if __name__ == "__main__":
    main()
