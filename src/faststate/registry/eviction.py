"""Eviction: which states leave a full memory first, of those that visitors have changed and memory alone has."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice
from typing import Final

from .entries import Entry

__all__ = ["CROWD", "AddressStates", "ChangedStates", "is_public"]

CROWD: Final = 100
"""States of one address beyond which it counts as crowded, and gives way before all others do; fewer where memory may
hold few."""

ABANDONED: Final = 3_600.0
"""Seconds after which a state that nobody has used counts as left behind."""

NEWCOMERS: Final = 8
"""One in so many of a crowd's states may be of sessions that were not heard of again; more are a flood of them."""

LOOKED_AT: Final = 1_000
"""States of a crowd that are looked at before it is given up to find one that may go: as many as may be watched from
one address. 0.3 ms, where somebody watches all of them."""


class _Crowd:
    """The changed states of one address, by their keys, where there are many. Lifetime: while there are any.

    `made` has all of them, in the order in which they were changed first. Those whose session was heard of again after
    that stand apart from those where it was the last word so far (`once`, in the same order); of both it is known which
    were used last.
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

    def heard_again(self, key: str) -> None:
        if key in self.again_used:
            self.again_used.move_to_end(key)
        elif key in self.once:
            del self.once[key], self.once_used[key]
            self.again_used[key] = None

    def discard(self, key: str) -> None:
        for keys in (self.made, self.once, self.once_used, self.again_used):
            keys.pop(key, None)


class AddressStates:
    """The states that were changed first from one address, and memory alone has. Lifetime: while there are any.

    Most addresses have `few` of them; a `crowd` is kept in order. Of all, `sessions` many belong to a session.
    """

    __slots__ = ("address", "crowd", "few", "sessions")

    def __init__(self, address: str) -> None:
        self.address = address
        self.few: tuple[str, ...] = ()
        self.crowd: _Crowd | None = None
        self.sessions = 0

    def __len__(self) -> int:
        return len(self.few) if self.crowd is None else len(self.crowd.made)


class ChangedStates:
    """Counts what visitors have changed and memory alone has. Lifetime: the registry.

    Sessions are free, so one visitor can have as many as all others together; addresses are not. Where memory is full,
    the address that has most gives way (of those that have more than `crowd`), and an address that has too many gives
    way itself. In a crowd, who goes first is said by `first_to_go`. `find` gives the entry under a key, `clock` returns
    seconds. A changed state costs about 250 bytes here.
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
        """Count a changed state, once, to its entry's address; returns the states of that, None without an address."""
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
        """The crowd of an address, made of its few states where there is none yet."""
        if states.crowd is None:
            states.crowd = _Crowd()
            self._crowds[states] = None
            for key in states.few:
                entry = self._find(key)
                states.crowd.add(key, is_again=entry is not None and entry.visits > 0)
            states.few = ()
        return states.crowd

    def heard_again(self, entry: Entry) -> None:
        """Notes that a request used a state after it was changed first. 0.2 us."""
        entry.visits += 1
        states = self._addresses.get(entry.address or "")
        if states is not None and states.crowd is not None:
            states.crowd.heard_again(entry.identifier.key)

    def leave(self, entry: Entry) -> None:
        """Takes a state out that leaves memory."""
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
        """The address that has most, of several the one that grew last; None where none is crowded."""
        return max(reversed(self._crowds), key=len, default=None)

    def first_to_go(self, states: AddressStates, may_go: Callable[[str], bool]) -> str | None:
        """The key of the state of a crowd that gives way first; None where none may go.

        Who was heard of again outranks who was not, and what lies unused for long goes before what does not. Of those
        that are left the newest goes: who fills memory within an hour pushes out what came last, which is his own, and
        not the cart of somebody who was there before.
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
        """The longest unused of some states, if nobody has used it for long."""
        key = _first(used, may_go)
        entry = self._find(key) if key is not None else None
        return key if entry is not None and self._clock() - entry.used > ABANDONED else None


def _first(keys: Iterable[str], may_go: Callable[[str], bool]) -> str | None:
    return next((key for key in islice(keys, LOOKED_AT) if may_go(key)), None)


@lru_cache(maxsize=4_096)
def is_public(address: str) -> bool:
    """Tells whether an address is public. A private one may be a proxy's, with all visitors behind it."""
    try:
        return ipaddress.ip_address(address.partition("/")[0]).is_global
    except ValueError:
        return False
