"""Rows of measurements, and the table that they make: a line for each measurement, a column for each contender."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

__all__ = [
    "COLUMNS",
    "DIRECT",
    "FASTHTML",
    "FLOOR",
    "NCHAN",
    "PORTABLE",
    "QUEUE",
    "STARLETTE",
    "Row",
    "machine",
    "table",
]

FLOOR = "floor"
NCHAN = "nginx, nchan"
QUEUE = "ASGI, queues"
STARLETTE = "Starlette"
FASTHTML = "FastHTML"
PORTABLE = "FastState, portable"
DIRECT = "FastState"

COLUMNS = (FLOOR, NCHAN, QUEUE, STARLETTE, FASTHTML, PORTABLE, DIRECT)
"""The contenders, in the order of the table's columns."""

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "python-fasthtml", "pydantic", "datastar-py")

Numbers = Sequence[float]
"""A measurement of one contender, once per repetition; the first ones of all belong together, and so on."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `what` names the measurement, with its unit; `values` hold it by contender (a column), a number per repetition. A
    cell is the median, and in brackets the median of the ratios to `base`: to that column of the same row, or (a
    mapping) to other numbers. `aims` are the highest ratios allowed, by contender, and `limits` the highest values.
    """

    what: str
    values: Mapping[str, Numbers]
    base: str | Mapping[str, Numbers] | None = None
    aims: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def value(self, who: str) -> float:
        """Return the median of what was measured of `who`."""
        return statistics.median(self.values[who])

    def ratio(self, who: str) -> float | None:
        """Return the median, over the repetitions, of the ratios of `who` to the base; None if it has no base."""
        base = self.values.get(self.base) if isinstance(self.base, str) else (self.base or {}).get(who)
        its = self.values[who]
        if not base:
            return None
        if len(its) != len(base):
            return statistics.median(its) / statistics.median(base)
        return statistics.median(mine / other for mine, other in zip(its, base, strict=True))

    def misses(self, who: str) -> bool:
        """True if `who` is above its aim."""
        ratio = self.ratio(who)
        above = who in self.aims and ratio is not None and ratio > self.aims[who]
        return above or (who in self.limits and self.value(who) > self.limits[who])

    def cell(self, who: str) -> str:
        if not self.values.get(who):
            return ""
        ratio = self.ratio(who)
        text = _number(self.value(who)) + (f" ({ratio:.2f})" if ratio is not None else "")
        return f"**{text}**" if self.misses(who) else text

    def aim(self) -> str:
        """Return the aim in words; PORTABLE's own only if it differs."""
        texts = [
            f"{sign} {aims[who]:g}" + (" portable" if who == PORTABLE and DIRECT in aims else "")
            for aims, sign in ((self.aims, "ratio ≤"), (self.limits, "≤"))
            for who in (DIRECT, PORTABLE)
            if who in aims and not (who == PORTABLE and aims.get(DIRECT) == aims[who])
        ]
        return ", ".join(texts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Format the rows as a table in Markdown, with only the columns that have values."""
    rows = list(rows)
    shown = [who for who in columns if any(row.values.get(who) for row in rows)]
    lines = [["", *shown, "aim"], ["---"] * (len(shown) + 2)]
    lines += [[row.what, *map(row.cell, shown), row.aim()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Describe the machine in a line: cores, kernel, Python, and the packages that matter."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    kernel = platform.release().partition("-")[0]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores ({_processor()}), {platform.system()} {kernel}, "
        f"{platform.python_implementation()} {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
