"""Fair queues: who waits for something that all share is served in turn, client by client."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["SERVER", "Client", "FairQueue"]

T = TypeVar("T")


class Client(NamedTuple):
    """On whose behalf something waits: the session, or the address where there is none; and the address."""

    session: Hashable
    address: str | None


SERVER: Final = Client(None, None)
"""Server code that runs for no request."""


class FairQueue(Generic[T]):
    """Those who wait, each on behalf of somebody (`who`). Lifetime: what they wait for.

    `pop` serves one of each `who` in turn, and those of one `who` in the order in which they came. So a client with
    thousands of waiting events delays another client's event by one of them, and not by all.
    """

    __slots__ = ("_last", "_length", "_lines")

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()  # whose turn comes first stands first
        self._last: Hashable = None  # who was served last
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for line in self._lines.values():
            yield from line

    def push(self, who: Hashable, item: T) -> None:
        """Add an item at the end of `who`'s line."""
        self._length += 1
        if (line := self._lines.get(who)) is not None:
            line.append(item)
            return
        self._lines[who] = deque((item,))
        if self._last in self._lines and self._last != who:
            self._lines.move_to_end(self._last)  # who was served just now comes behind who has just come

    def pop(self, may: Callable[[T], bool] | None = None) -> T | None:
        """Remove and return the next item; with `may`, the next that it accepts. None when there is none."""
        for who, line in self._lines.items():
            if may is None or may(line[0]):
                item = line.popleft()
                self._shrink(who, line)
                if line:
                    self._lines.move_to_end(who)
                self._last = who
                return item
        return None

    def remove(self, who: Hashable, item: T) -> bool:
        """Remove an item that waits no more; False when it is not there."""
        line = self._lines.get(who)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._shrink(who, line)
        return True

    def _shrink(self, who: Hashable, line: deque[T]) -> None:
        self._length -= 1
        if not line:
            del self._lines[who]
