"""Fair queues: who waits for something that all share is served in turn, client by client."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar, cast

__all__ = ["SERVER", "Client", "FairQueue"]

T = TypeVar("T")


class Client(NamedTuple):
    """On whose behalf something waits: the session, or the address where there is none; and the address."""

    session: Hashable
    address: str | None


SERVER: Final = Client(None, None)
"""Server code that runs for no request."""


K = TypeVar("K")
V = TypeVar("V")


class _Rotation(OrderedDict[K, V]):
    """Those who wait, by name, whose turn comes first standing first. Lifetime: the queue, or what it is a part of."""

    last: K | None = None
    """Returns who was served last."""

    def enter(self, name: K, waiting: V) -> None:
        """Add who has just come: behind all others, but before who was served just now."""
        self[name] = waiting
        if self.last in self and self.last != name:
            self.move_to_end(cast(K, self.last))

    def served(self, name: K) -> None:
        """Move who was served behind all others, or remove it where nothing of it waits any more."""
        self.last = name
        if self[name]:
            self.move_to_end(name)
        else:
            del self[name]


class FairQueue(Generic[T]):
    """A queue of what waits on behalf of clients. Lifetime: what it waits for.

    `pop` serves one item of each address in turn, for each of these one of each of its sessions in turn, and those of
    one session in the order in which they came. So a session with thousands of waiting events delays another one's by
    one of them, and so does an address with thousands of sessions.
    """

    __slots__ = ("_addresses", "_length")

    def __init__(self) -> None:
        self._addresses: _Rotation[str | None, _Rotation[Hashable, deque[T]]] = _Rotation()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for sessions in self._addresses.values():
            for line in sessions.values():
                yield from line

    def push(self, client: Client, item: T) -> None:
        """Add an item at the end of the client's line."""
        self._length += 1
        sessions = self._addresses.get(client.address)
        if sessions is None:
            sessions = _Rotation()
            sessions.enter(client.session, deque((item,)))
            self._addresses.enter(client.address, sessions)
        elif (line := sessions.get(client.session)) is not None:
            line.append(item)
        else:
            sessions.enter(client.session, deque((item,)))

    def pop(self, may: Callable[[T], bool] | None = None) -> T | None:
        """Remove and return the next item; with `may`, the next that it accepts. None when there is none."""
        for address, sessions in self._addresses.items():
            for session, line in sessions.items():
                if may is None or may(line[0]):
                    item = line.popleft()
                    self._length -= 1
                    sessions.served(session)
                    self._addresses.served(address)
                    return item
        return None

    def remove(self, client: Client, item: T) -> bool:
        """Remove an item that waits no more; False when it is not there."""
        sessions = self._addresses.get(client.address)
        line = sessions.get(client.session) if sessions is not None else None
        if sessions is None or line is None or item not in line:
            return False
        line.remove(item)
        self._length -= 1
        if not line:
            del sessions[client.session]
        if not sessions:
            del self._addresses[client.address]
        return True
