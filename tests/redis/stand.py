"""Plain helpers for tests of the Redis store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faststate.scopes import Version
from faststate.stores.base import Write
from tests.support import ROOT


def version(number: int, epoch: str = "life") -> Version:
    return Version(epoch, number)


def first(key: str, data: bytes = b"data", ttl: float | None = None, group: str | None = None) -> Write:
    """The write that makes a state."""
    return Write(key, None, version(1), data, ttl, group)


class Listener:
    """A receiver that notes what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.reach: list[int] = []

    def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
        self.told.append((origin, topic, body, sequence))

    def reached(self, sequence: int) -> None:
        self.reach.append(sequence)

    def lost(self) -> None:
        self.told.append(("lost",))

    def found(self) -> None:
        self.told.append(("found",))

    @property
    def bodies(self) -> list[bytes]:
        return [what[2] for what in self.told if len(what) == 4]

    def count(self, word: str) -> int:
        return self.told.count((word,))


@contextmanager
def script(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own that runs `source`; killed at last."""
    command = [sys.executable, "-W", "error", "-c", source, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
