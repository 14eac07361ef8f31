"""The SQLite store: states survive restarts and power cuts, in one file that belongs to one process."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ..exceptions import ConfigurationError
from ..scopes import Version
from .base import StateStore, Stored, Write, check_version, expiry
from .sqlite_file import FileRequest, FileThread, close_file

T = TypeVar("T")


class SQLiteStore(StateStore):
    """States in the SQLite file `path`. Lifetime: from `open` to `close`; it can be opened again.

    The file belongs to one process at a time: from `open` to `close`, and otherwise as long as requests wait. The owner
    holds a lock on a second file, `<path>-owner`. The operating system frees it however the process ends, and other
    processes can still read the first file. `open` waits for up to `handover` seconds for an owner that is about to
    end, as the old process does in a restart. A child that is forked while the file is owned can never use it; before
    `open` and after `close` a process may fork.

    One thread works on the file, never the event loop. All requests that wait form one transaction, which is on the
    disk before any of them is answered. A request is carried out even if its caller is cancelled. `clock` returns
    seconds since the epoch. Raises `MissingDependencyError` if fastlite is not installed. `StateStore` documents the
    methods.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, handover: float = 5.0
    ) -> None:
        if os.fspath(path) == ":memory:":
            raise ConfigurationError("a SQLite store is a file: for states in memory use store='memory://'")
        self.path = Path(path).resolve()  # absolute, since the working directory may change
        self._new_thread = partial(FileThread, self.path, clock, handover)
        self._thread = self._make_thread()

    async def open(self) -> None:
        """Own the file until `close`. Raises `PersistenceError` if another process does, or if it cannot be used."""
        thread = self._own_thread()
        await self._ask(lambda connection, now: thread.keep(), writes=False)

    async def load(self, key: str) -> Stored | None:
        return (await self._ask(partial(_load, _BY_KEY, key), writes=False)).get(key)

    async def group(self, name: str) -> Mapping[str, Stored]:
        return await self._ask(partial(_load, _BY_GROUP, name), writes=False)

    async def save(self, write: Write) -> None:
        await self.save_many([write])

    async def save_many(self, writes: Sequence[Write]) -> None:
        await self._ask(partial(_save, tuple(writes)))

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        await self._ask(partial(_touch, dict(ttls)))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._ask(partial(_delete, tuple(keys)))

    async def close(self) -> None:
        """Finish earlier requests and give up the file. Closing a closed store does nothing."""
        await self._ask(close_file, writes=False)

    def _make_thread(self) -> FileThread:
        thread = self._new_thread()
        # The thread does not refer to the store, so a store that is dropped without `close` still gives up its file.
        weakref.finalize(self, thread.end).atexit = False
        return thread

    def _own_thread(self) -> FileThread:
        if self._thread.pid != os.getpid():
            self._thread = self._make_thread()  # this is a forked child, and no thread survives a fork
        return self._thread

    async def _ask(self, work: Callable[[Any, float], T], *, writes: bool = True) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._own_thread().ask(FileRequest(work, writes, future))
        return await future


# -- work on the table -------------------------------------------------------------------------------------------------

_LOAD: Final = """SELECT key, epoch, number, data, expires FROM faststate_states
    WHERE {} = ? AND (expires IS NULL OR expires > ?)"""
_BY_KEY, _BY_GROUP = _LOAD.format("key"), _LOAD.format("grp")
_VERSION: Final = "SELECT epoch, number, expires <= ? FROM faststate_states WHERE key = ?"
_SAVE: Final = """INSERT INTO faststate_states (key, epoch, number, data, expires, grp) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch, number = excluded.number, data = excluded.data,
    expires = excluded.expires, grp = excluded.grp"""
_TOUCH: Final = "UPDATE faststate_states SET expires = ? WHERE key = ?"
_DELETE: Final = "DELETE FROM faststate_states WHERE key = ?"


def _load(query: str, value: str, connection: Any, now: float) -> dict[str, Stored]:
    return {
        key: Stored(Version(epoch, number), data, None if expires is None else expires - now)
        for key, epoch, number, data, expires in connection.execute(query, (value, now))
    }


def _save(writes: Sequence[Write], connection: Any, now: float) -> None:
    for write in writes:
        row = next(iter(connection.execute(_VERSION, (now, write.key)).fetchall()), None)
        check_version(write, row and Version(*row[:2]), bool(row and row[2]))
    for write in writes:
        if write.data is None:
            connection.execute(_DELETE, (write.key,))
        else:
            values = write.key, *write.version, write.data, expiry(write.ttl, now), write.group
            connection.execute(_SAVE, values)


def _touch(ttls: Mapping[str, float | None], connection: Any, now: float) -> None:
    for key, ttl in ttls.items():
        connection.execute(_TOUCH, (expiry(ttl, now), key))


def _delete(keys: Sequence[str], connection: Any, now: float) -> None:
    for key in keys:
        connection.execute(_DELETE, (key,))
