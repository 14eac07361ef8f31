"""Eviction: the order in which states leave a full memory that visitors have changed, and that memory alone has."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from .entries import Entry

CROWD: Final = 100
"""States beyond which an address is crowded, and gives way before all others do; fewer if memory may hold few."""

ABANDONED: Final = 3_600.0
"""Seconds without use after which a state counts as abandoned."""

NEWCOMERS: Final = 8
"""One in so many of a crowd's states may be of sessions that were not seen again; with more the crowd is a flood."""

LOOKED_AT: Final = 1_000
"""States of a crowd that are looked at before the search for one that may go is given up: as many as may be watched
from one address. It takes 0.3 ms if somebody watches all of them."""


class _Crowd:
    """The changed states of a crowded address, by their keys. Lifetime: while there are any.

    `made` has all of them, in the order of their first change. Those whose session was not seen again since then are
    in `once`, in the same order. `once_used` has these, and `again_used` all others, the longest unused first.
    """

    __slots__ = ("again_used", "made", "once", "once_used")

    def __init__(self) -> None:
        self.made: OrderedDict[str, None] = OrderedDict()
        self.once: OrderedDict[str, None] = OrderedDict()
        self.once_used: OrderedDict[str, None] = OrderedDict()
        self.again_used: OrderedDict[str, None] = OrderedDict()

    def add(self, key: str, *, is_again: bool) -> None:
        if key in self.made:
            return
        self.made[key] = None
        if is_again:
            self.again_used[key] = None
        else:
            self.once[key] = self.once_used[key] = None

    def seen_again(self, key: str) -> None:
        if key in self.again_used:
            self.again_used.move_to_end(key)
        elif key in self.once:
            del self.once[key], self.once_used[key]
            self.again_used[key] = None

    def discard(self, key: str) -> None:
        for keys in (self.made, self.once, self.once_used, self.again_used):
            keys.pop(key, None)


@dataclass(slots=True, eq=False)
class AddressStates:
    """The states first changed from one address, that memory alone has. Lifetime: while there are any.

    Most addresses have `few` of them; a `crowd` is kept in order. `sessions` counts those that belong to a session.
    """

    address: str
    few: tuple[str, ...] = ()
    crowd: _Crowd | None = None
    sessions: int = 0

    def __len__(self) -> int:
        return len(self.few) if self.crowd is None else len(self.crowd.made)


class ChangedStates:
    """Counts what visitors have changed and memory alone has. Lifetime: the registry.

    Sessions cost nothing, so one visitor can have as many as all others together; addresses do. When memory is full,
    the address with the most states gives way (if it has more than `crowd`), and an address that has too many gives way
    itself. `first_to_go` chooses within a crowd. `find` returns the entry under a key, `clock` seconds. A changed state
    takes about 250 bytes here.
    """

    def __init__(
        self, find: Callable[[str], Entry | None], clock: Callable[[], float], crowd: int | None = None
    ) -> None:
        self._crowd = CROWD if crowd is None else crowd
        self._find = find
        self._clock = clock
        self._addresses: dict[str, AddressStates] = {}
        self._crowds: dict[AddressStates, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._addresses.values()))

    def join(self, entry: Entry) -> AddressStates | None:
        """Count a changed state, once, to its address; returns the states of that address, None without one."""
        if not entry.address:
            return None
        key, states = entry.identifier.key, self._addresses.get(entry.address)
        if states is None:
            states = self._addresses[entry.address] = AddressStates(entry.address)
        entry.address = states.address  # one object for all of them
        if states.crowd is not None:
            states.crowd.add(key, is_again=entry.visits > 0)
            self._crowds[states] = self._crowds.pop(states)  # the last to grow comes last
        elif key not in states.few:
            states.few += (key,)
            if len(states.few) > self._crowd:
                self.open(states)
        states.sessions += entry.identifier.session_id is not None
        return states

    def open(self, states: AddressStates) -> _Crowd:
        """Return the crowd of an address, made of its few states if there is none yet."""
        if states.crowd is None:
            states.crowd = _Crowd()
            self._crowds[states] = None
            for key in states.few:
                entry = self._find(key)
                states.crowd.add(key, is_again=entry is not None and entry.visits > 0)
            states.few = ()
        return states.crowd

    def seen_again(self, entry: Entry) -> None:
        """Note that a request used a state after its first change. 0.2 us."""
        entry.visits += 1
        states = self._addresses.get(entry.address or "")
        if states is not None and states.crowd is not None:
            states.crowd.seen_again(entry.identifier.key)

    def leave(self, entry: Entry) -> None:
        """Forget a state that leaves memory."""
        states = self._addresses.get(entry.address or "")
        if states is None:
            return
        key = entry.identifier.key
        if states.crowd is None:
            states.few = tuple(other for other in states.few if other != key)
        else:
            states.crowd.discard(key)
        states.sessions -= entry.identifier.session_id is not None
        if not states:
            del self._addresses[states.address]
            self._crowds.pop(states, None)

    def crowded(self) -> AddressStates | None:
        """The address with the most states, of several the one that grew last; None if none is crowded."""
        return max(reversed(self._crowds), key=len, default=None)

    def first_to_go(self, states: AddressStates, may_go: Callable[[str], bool]) -> str | None:
        """Return the key of the state of a crowd that gives way first; None if none may go.

        Abandoned states go first, and states of sessions that were not seen again before all others. Of the rest the
        newest goes: whoever fills memory within an hour pushes out the latest states, which are their own, and not the
        cart of somebody who was there before.
        """
        crowd = self.open(states)
        is_flood = len(crowd.once) * NEWCOMERS > len(states)
        return (
            self._abandoned(crowd.once_used, may_go)
            or (_first(reversed(crowd.once), may_go) if is_flood else None)
            or self._abandoned(crowd.again_used, may_go)
            or _first(reversed(crowd.once), may_go)
            or _first(reversed(crowd.made), may_go)
        )

    def _abandoned(self, used: Iterable[str], may_go: Callable[[str], bool]) -> str | None:
        """The longest unused of some states, if it is abandoned."""
        key = _first(used, may_go)
        entry = self._find(key) if key is not None else None
        return key if entry is not None and self._clock() - entry.used > ABANDONED else None


def _first(keys: Iterable[str], may_go: Callable[[str], bool]) -> str | None:
    return next((key for key in islice(keys, LOOKED_AT) if may_go(key)), None)


@lru_cache(maxsize=4_096)
def is_public(address: str) -> bool:
    """True for a public address. A private one may be a proxy's, with all visitors behind it. 0.1 us; 6 us uncached."""
    try:
        return ipaddress.ip_address(address.partition("/")[0]).is_global
    except ValueError:
        return False
