"""Run everything that `make bench` measures, in one table: printed, and written to `benchmarks/RESULTS.md`.

`--quick` measures everything once and with fewer streams: enough to see that it runs, not to believe the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import delivery, events, pages
from .servers import SERVERS
from .table import Row, machine, table

RESULTS = Path(__file__).parent / "RESULTS.md"

OTHERS = (pages, events)
"""Modules that measure requests: each has `async def rows()`."""

READING = """\
# What FastState costs

Measured by `make bench` on {machine}.

{table}

## How to read it

- Each line is one measurement, each column one contender. A cell is the median of the repetitions, in which all
  contenders take turns; in brackets is the ratio to the floor, or to what the line says. Compare ratios, between
  machines and over time: they are of one run on one machine. Bold misses its aim.
- *µs* are CPU microseconds of the server's process, by the kernel's account: the cost of a change, from the moment at
  which the server is told to make it, divided by the streams that have received it. *Last* is the time after which a
  change has reached the last of the streams. *KB* is memory that the process has for itself, after a collection, for
  each stream. Each server has one core, and the load, a process of its own, another.
- *floor*: a bare ASGI app on uvicorn that writes one ready object of bytes to each stream's transport. *nginx, nchan*:
  the same in C, if it is installed (Debian: `nginx`, `libnginx-mod-nchan`). *ASGI, queues*: bare ASGI with a queue
  for each stream. *Starlette*: its StreamingResponse. *FastHTML*: its EventStream, with the session's cookie, written
  by hand: a frame is encoded once. *FastState, portable*: through ASGI's `send` only, as on any server; *FastState*:
  its default on uvicorn. All run on the same uvicorn, with uvloop and httptools.
- In a burst the contenders without coalescing send every value, as they are written; the others send the newest. All
  streams are checked to end on the last value.
- *Event*: POSTs of eight browsers on connections that are kept open, to servers as above: CPU of the server for each.
  FastState also delivers the change to the browser's stream. *FastHTML* and *floor*, bare ASGI, are a handler that
  verifies the same cookie, reads the same number out of the body, and adds it up; where the line says so, FastHTML also
  puts the sum into a queue of its session's stream.
- Pages are called in one process through ASGI, without a network; FastHTML is the same page without FastState. So are
  events, where the line says so: that is the app's share of an event, without the share of uvicorn, its loop and the
  kernel.
"""


def scale(quick: bool) -> delivery.Scale:
    """Return the numbers of streams, of changes and of repetitions."""
    if not quick:
        return delivery.Scale()
    return delivery.Scale().at(1_000, 1)._replace(small=200, many=2_000, updates=20_000, opened=100, reconnects=500)


def rows(bench: delivery.Bench, quick: bool) -> Iterator[Row]:
    """Yield all rows, those of each module as soon as they are measured."""
    yield from delivery.rows(scale(quick), bench)
    for module in OTHERS:
        yield from asyncio.run(module.rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure once, with fewer streams; writes no RESULTS.md")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"of {', '.join(SERVERS)}; writes no RESULTS.md")
    arguments = parser.parse_args()
    names = arguments.servers.split(",")
    begun = time.monotonic()
    bench = delivery.Bench(names)
    measured = table(rows(bench, arguments.quick))
    print(measured)
    print(f"Measured in {time.monotonic() - begun:.0f} s.", file=sys.stderr)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} of the measurements have failed, see above.")
    if not arguments.quick and names == list(SERVERS):
        RESULTS.write_text(READING.format(machine=machine(), table=measured))


if __name__ == "__main__":
    main()
