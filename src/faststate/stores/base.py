"""The protocols that stores implement, and the values that go in and out of a store."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from ..exceptions import PersistenceError, VersionConflict
from ..scopes import Version
from .backplane import Backplane, Message

EXPIRED_KEPT: Final = 3_600.0
"""Least seconds for which a store keeps a state after it has expired. A state that is watched is not idle, but its
process calls `touch` only now and then. An hour is far longer than the time between two calls, or than a restart."""


class Stored(NamedTuple):
    """A state as a store returns it. `ttl` is the time in seconds until it expires, None for never."""

    version: Version
    data: bytes
    ttl: float | None


class Write(NamedTuple):
    """One change to a store. It is made only if the version stored under `key` is `expected` (None for nothing stored).

    `data` (bytes) and `version` replace what is stored; with data None, it is deleted. `ttl` is the time in seconds
    until the state expires, None for never. `group` (str) is a name by which it can be found besides its key, or None.
    """

    key: str
    expected: Version | None
    version: Version
    data: bytes | None
    ttl: float | None = None
    group: str | None = None


def version_conflict(key: str, found: Version | None, expected: Version | None) -> VersionConflict:
    """Return the error for a write that expects another version than the one that was found."""
    return VersionConflict(f"the store holds {key} at {found}, not at {expected}")


def same_error(error: PersistenceError) -> PersistenceError:
    """Return an error like this one: each place that raises it adds a traceback of its own."""
    own = PersistenceError(str(error))
    own.__cause__ = error.__cause__
    return own


def check_version(write: Write, found: Version | None, is_expired: bool) -> None:
    """Raise `VersionConflict` unless `write` expects the version that was found, or nothing where it is expired."""
    if is_expired and write.expected is None:
        found = None
    if found != write.expected:
        raise version_conflict(write.key, found, write.expected)


def expiry(ttl: float | None, now: float) -> float | None:
    """Return when a state expires that has `ttl` seconds left (None for ever), in seconds since the epoch."""
    return None if ttl is None else now + ttl


@runtime_checkable
class StateStore(Protocol):
    """A store of bytes under keys, with versions and expiry. Lifetime: from `open` to `close`; it can be opened again.

    An expired state does not exist for `load` and `group`, nor for a write that expects nothing. A write that expects
    its version still finds it, for at least `EXPIRED_KEPT` seconds: a process that holds the state in memory may have
    used it all the time.

    Each method raises `PersistenceError` if the store fails, with the driver's error as its cause. If a save raises
    anything but `VersionConflict`, it is unknown whether it was made. Methods may be called on several event loops. A
    call before `open` opens the store for as long as the call takes.
    """

    async def open(self) -> None:
        """Get ready, and stay so until `close`. Raises `PersistenceError`, without a long wait, if that fails."""

    async def load(self, key: str) -> Stored | None:
        """Return what is stored under `key`, or None."""

    async def group(self, name: str) -> Mapping[str, Stored]:
        """Return by key all states that were written with the group `name`."""

    async def save(self, write: Write) -> None:
        """Make one change. Raises `VersionConflict` if another version is stored than the write expects."""

    async def save_many(self, writes: Sequence[Write]) -> None:
        """Make all changes or none of them. Each has a key of its own. Raises the same errors as `save`."""

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        """Set other times to live, by key: seconds from now, None for ever.

        Keys that hold nothing are ignored. A state that has expired but is still kept comes back: it has been in use.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is stored under `keys`, whatever its version."""

    async def close(self) -> None:
        """Finish earlier calls and release all resources. Closing a closed store does nothing."""


class Hold(NamedTuple):
    """A lock on `key` that this process holds. No other holder ever has the same `fence` (str)."""

    key: str
    fence: str


class Locked(NamedTuple):
    """The result of locking: the `holds` by key, and what the store knows about the keys.

    `news` contains the keys whose stored version is not the known one, with what is stored (None for nothing). For the
    keys in `unclean`, the former holder died or was given up while it held the lock. `present` are the keys of
    `look_for` that hold something. Other processes wait for the `wanted` keys.
    """

    holds: Mapping[str, Hold]
    news: Mapping[str, Stored | None]
    unclean: frozenset[str] = frozenset()
    present: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()


class Committed(NamedTuple):
    """A commit that was made: its number among the commits of all processes, and the kept keys that others wait for."""

    sequence: int
    wanted: frozenset[str]


@runtime_checkable
class SharedStore(StateStore, Backplane, Protocol):
    """A store for many processes: it also keeps their locks, and is their backplane.

    One process at a time holds a lock. The lock ends with its process: if the others have seen no sign of life of it
    for some seconds, the lock is free, and changes that its former holder makes under it are refused. This does not
    depend on the clock of any machine.
    """

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str] = ()) -> Locked:
        """Lock the keys of `known` in sorted order, and wait for those that other processes hold.

        `known` maps each key to the version that the caller knows, None for nothing stored. If another version is
        stored by now, the result contains it. It takes one round trip if nobody holds the locks. Raises
        `LockTimeoutError`, which names the keys, if that takes longer than `within` seconds; nothing is locked then.
        """

    async def commit(
        self,
        writes: Sequence[Write],
        messages: Sequence[Message] = (),
        holds: Iterable[Hold] = (),
        keep: Container[str] = (),
    ) -> Committed:
        """Make all changes, publish the messages and give the locks back, except those on keys in `keep`.

        Either all of this is done or nothing, in one round trip. Raises `VersionConflict` like `save_many`, and
        `LockLostError` if another process holds one of the locks, or has held it meanwhile.
        """

    def unlock(self, holds: Iterable[Hold], *, unclean: bool = False) -> None:
        """Give locks back soon; if the engine cannot be reached, as soon as it can be.

        Set `unclean` if the protected states may have changed without the store's knowledge.
        """

    async def extend(self, ttls: Mapping[str, float | None]) -> None:
        """As `touch`, but shorten no time to live: other processes use the states as well."""

    async def fresh(self, known: Mapping[str, Version | None]) -> Mapping[str, Stored | None]:
        """Return by key what is stored (None for nothing), for keys whose stored version is not the `known` one."""

    async def sequences(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return by key the number of the last commit that changed it. Keys that hold nothing are left out."""

    async def group_since(self, name: str, after: int) -> Mapping[str, Stored]:
        """As `group`, but only states that were written by a later commit than number `after`."""
