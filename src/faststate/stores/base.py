"""The protocols that every store fulfils, and the values that go in and out of a store."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from ..scopes import Version
from .backplane import Backplane, Message

__all__ = [
    "EXPIRED_KEPT",
    "Committed",
    "Hold",
    "Locked",
    "SharedStore",
    "StateStore",
    "Stored",
    "Write",
]

EXPIRED_KEPT: Final = 3_600.0
"""Seconds that a store keeps what has expired, at least: a watched state is not idle, and its process tells the store
so now and then only. An hour is far more than the time between two such words, or than a restart takes."""


class Stored(NamedTuple):
    """What a store holds under a key. `ttl` is in seconds from now until it expires, None for never."""

    version: Version
    data: bytes
    ttl: float | None


class Write(NamedTuple):
    """One change of a store, made only when the store holds the version `expected` under `key`, None for nothing.

    `data` (bytes) replaces what is there, under `version`; None deletes it. `ttl` is in seconds from now until it
    expires, None for never. `group` (str) is what it can be found by besides its key, None for nothing.
    """

    key: str
    expected: Version | None
    version: Version
    data: bytes | None
    ttl: float | None = None
    group: str | None = None


@runtime_checkable
class StateStore(Protocol):
    """Keeps bytes under keys, with versions and expiry. Lifetime: from `open` to `close`, and it may be opened again.

    What is expired is not there for `load`, `group` and for writes that expect nothing. A write that expects its very
    version still finds it until the store has cleaned up, at the earliest `EXPIRED_KEPT` seconds later: who still
    holds a state in memory has used it.

    Each method raises `PersistenceError` when the store fails, with the driver's error as its cause. A save that raises
    anything but `VersionConflict` has an unknown outcome. Methods may be called from several event loops, and before
    `open`: the store is then opened for as long as they take.
    """

    async def open(self) -> None:
        """Gets ready, and stays so until `close`. Raises `PersistenceError` where it cannot, at once or soon."""

    async def load(self, key: str) -> Stored | None:
        """What is stored under `key`, or None."""

    async def group(self, name: str) -> Mapping[str, Stored]:
        """All that was written with the group `name`, by key."""

    async def save(self, write: Write) -> None:
        """Makes one change. Raises `VersionConflict` when the store holds another version than it expects."""

    async def save_many(self, writes: Sequence[Write]) -> None:
        """Makes all changes, each to a key of its own, or none of them. Raises as `save`."""

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        """Gives what is stored under the keys another time to live: seconds from now, None for ever.

        Keys that hold nothing are passed over. What is expired and still there comes back: who holds it has used it.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes what is stored under `keys`, whatever its version."""

    async def close(self) -> None:
        """Waits for what was asked before, and lets go of everything; closing a closed store does nothing."""


class Hold(NamedTuple):
    """A lock that this process has on `key`: with the `fence` (str) that no other holder ever had or will have."""

    key: str
    fence: str


class Locked(NamedTuple):
    """What came with locks: the `holds`, by key, and what the store knew of them.

    `news` are those keys whose stored version is another than the one that was known, with what is stored (None for
    nothing); the former holder of those in `unclean` has died, or was given up, with the lock in its hand. `present`
    are those of the keys that were looked for under which there is something. On `wanted` keys another process waits.
    """

    holds: Mapping[str, Hold]
    news: Mapping[str, Stored | None]
    unclean: frozenset[str] = frozenset()
    present: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()


class Committed(NamedTuple):
    """A commit that was made: its number among all processes' commits, and on which kept keys others wait."""

    sequence: int
    wanted: frozenset[str]


@runtime_checkable
class SharedStore(StateStore, Backplane, Protocol):
    """A store for many processes: it has their locks as well, and is their backplane.

    A lock is had by one process at a time, and ends with that process: when the others have had no sign of life of it
    for some seconds it is free, and what its former holder does under it is refused. No clock of any machine decides.
    """

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str] = ()) -> Locked:
        """Locks the keys of `known`, in their order as texts, and waits for those that others have.

        By key, `known` is the version that the caller has of what is stored there, None for nothing: what is another by
        now comes along. One round trip where nobody has the locks. Raises `LockTimeoutError`, naming the keys, when
        they cannot be had `within` so many seconds; nothing is locked then.
        """

    async def commit(
        self,
        writes: Sequence[Write],
        messages: Sequence[Message] = (),
        holds: Iterable[Hold] = (),
        keep: Container[str] = (),
    ) -> Committed:
        """Makes all changes, publishes the messages and gives the locks back but those of the keys to `keep`: or none
        of it, in one round trip.

        Raises `VersionConflict` as `save_many`, and `LockLostError` when one of the locks is another's by now, or was.
        """

    def unlock(self, holds: Iterable[Hold], *, unclean: bool = False) -> None:
        """Gives locks back, soon, and even where the engine is away just now: as soon as it is there again.

        `unclean` says that what they guard may have changed in a way that the store does not know.
        """

    async def extend(self, ttls: Mapping[str, float | None]) -> None:
        """As `touch`, and gives nothing less time than it has: other processes use it as well."""

    async def fresh(self, known: Mapping[str, Version | None]) -> Mapping[str, Stored | None]:
        """Of those keys whose stored version is another than the `known` one (None for nothing): what is stored."""

    async def sequences(self, keys: Sequence[str]) -> Mapping[str, int]:
        """By key, the number of the commit that changed it last; keys that hold nothing are left out."""

    async def group_since(self, name: str, after: int) -> Mapping[str, Stored]:
        """As `group`, without what was written with the commit number `after` or before."""
