"""Fair queues: those who wait for a shared resource are served in turn, client by client."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar, cast

T = TypeVar("T")


class Client(NamedTuple):
    """The client for whom something waits: its session, or its address if it has none, and its address."""

    session: Hashable
    address: str | None


SERVER: Final = Client(None, None)
"""Stands for server code that does not run for a request."""


K = TypeVar("K")
V = TypeVar("V")


class _Rotation(OrderedDict[K, V]):
    """Those who wait, by name, in the order of their turns. Lifetime: its queue."""

    last: K | None = None
    """The name that was served last."""

    def enter(self, name: K, waiting: V) -> V:
        """Add a newcomer, and return it: behind all others, but before the one that was served last."""
        self[name] = waiting
        if self.last in self and self.last != name:
            self.move_to_end(cast(K, self.last))
        return waiting

    def served(self, name: K) -> None:
        """Move the one that was served behind all others, or remove it if nothing of it waits any more."""
        self.last = name
        if self[name]:
            self.move_to_end(name)
        else:
            del self[name]


class FairQueue(Generic[T]):
    """A queue of items that wait for clients. Lifetime: the resource that they wait for.

    `pop` serves the addresses in turn, at each address its sessions in turn, and the items of a session in the order in
    which they came. So a session with thousands of waiting events delays an event of another session by only one of
    them, and so does an address with thousands of sessions.
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
        addresses, (session, address) = self._addresses, client
        sessions = addresses.get(address) or addresses.enter(address, _Rotation())
        line = sessions.get(session) or sessions.enter(session, deque())
        line.append(item)

    def pop(self, may: Callable[[T], bool] | None = None) -> T | None:
        """Remove and return the next item; with `may`, the next one that it accepts. Returns None if there is none."""
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
        """Remove an item that waits no more. Returns False if it is not in the queue."""
        sessions = self._addresses.get(client.address) or _Rotation()
        line = sessions.get(client.session) or deque()
        if item not in line:
            return False
        line.remove(item)
        self._length -= 1
        if not line:
            del sessions[client.session]
        if not sessions:
            del self._addresses[client.address]
        return True
