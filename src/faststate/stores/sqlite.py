"""The SQLite store: states that survive restarts and power cuts, in one file that belongs to one process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..exceptions import ConfigurationError, MissingDependencyError, PersistenceError, VersionConflict
from ..scopes import Version
from .base import EXPIRED_KEPT, Stored, Write

__all__ = ["SQLiteStore"]

logger = logging.getLogger("faststate")

FORMAT: Final = 1
"""The format of the table, as the file's `user_version` says it."""

SCHEMA: Final = f"""
    CREATE TABLE faststate_states (key TEXT PRIMARY KEY, epoch TEXT NOT NULL, number INTEGER NOT NULL,
        data BLOB NOT NULL, expires REAL, grp TEXT) WITHOUT ROWID;
    CREATE INDEX faststate_states_grp ON faststate_states (grp) WHERE grp IS NOT NULL;
    CREATE INDEX faststate_states_expires ON faststate_states (expires) WHERE expires IS NOT NULL;
    PRAGMA user_version = {FORMAT};
"""

BUSY_TIMEOUT: Final = 5_000
"""Milliseconds to wait for another program that writes to the file; a shell's or a backup's locks last far less."""

BATCH: Final = 1_000
"""Requests in one transaction at most, so that in a flood the first does not wait for the last. At a hundred the cost
of the disk's flush is a small part already."""

PURGE_INTERVAL: Final = 60.0
"""Seconds between two looks for what expired long ago: far less than the `EXPIRED_KEPT` that it has lain there."""

PURGE_PORTION: Final = 500
"""Rows deleted in one transaction at most: some milliseconds, which is what a request may have to wait for it."""

Work = Callable[[Any, float], Any]
"""What a request does with the connection, at a time in seconds since the epoch. It checks before it changes."""

# Held while a connection is at work, and while the process forks: a child inherits none in the middle of something.
_forking = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forking.release)


class SQLiteStore:
    """States in the SQLite file `path`. Lifetime: from `open` to `close`, and it may be opened again.

    The file belongs to one process at a time, from `open` to `close`, and otherwise for as long as requests wait.
    The owner holds a lock on a second file, `<path>-owner`, which the operating system frees when the process ends in
    whatever way; the first file stays readable for other processes. `handover` is for how many seconds `open` waits for
    an owner that is about to end, as the old process is in a restart. A child that is forked off while the file is
    owned is refused it for good; before `open` and after `close` a process may fork.

    One thread works on the file, never the event loop. All requests that wait for it make one transaction, which is on
    the disk before any of them is answered. A request whose task is cancelled is done nevertheless. `clock` gives
    seconds since the epoch. Raises `MissingDependencyError` where fastlite is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, handover: float = 5.0
    ) -> None:
        if os.fspath(path) == ":memory:":
            raise ConfigurationError("a SQLite store is a file: for states in memory use store='memory://'")
        self.path = Path(path).resolve()  # now: the working directory may change
        self._new_worker = partial(_Worker, self.path, clock, handover)
        self._worker = self._hire()

    async def open(self) -> None:
        """Takes the file until `close`. Raises `PersistenceError` where it is another's, or cannot be used."""
        worker = self._present()
        await self._ask(lambda connection, now: worker.keep(), writes=False)

    async def load(self, key: str) -> Stored | None:
        """What is stored under `key`, or None."""
        found: dict[str, Stored] = await self._ask(partial(_load, _BY_KEY, key), writes=False)
        return found.get(key)

    async def group(self, name: str) -> Mapping[str, Stored]:
        """All that was written with the group `name`, by key."""
        found: dict[str, Stored] = await self._ask(partial(_load, _BY_GROUP, name), writes=False)
        return found

    async def save(self, write: Write) -> None:
        """Makes one change. Raises `VersionConflict` when the store holds another version than it expects."""
        await self.save_many([write])

    async def save_many(self, writes: Sequence[Write]) -> None:
        """Makes all changes or none of them. Raises as `save`."""
        await self._ask(partial(_save, tuple(writes)))

    async def touch(self, ttls: Mapping[str, float | None]) -> None:
        """Gives what is stored under the keys another time to live: seconds from now, None for ever."""
        await self._ask(partial(_touch, dict(ttls)))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes what is stored under `keys`, whatever its version."""
        await self._ask(partial(_delete, tuple(keys)))

    async def close(self) -> None:
        """Waits for what was asked before, and gives the file free; closing a closed store does nothing."""
        await self._ask(_close, writes=False)

    def _hire(self) -> _Worker:
        worker = self._new_worker()
        # A worker does not know its store: one that is dropped without `close` lets its file go all the same.
        weakref.finalize(self, worker.leave).atexit = False
        return worker

    def _present(self) -> _Worker:
        if self._worker.pid != os.getpid():
            self._worker = self._hire()  # this is a forked child, and no thread survives a fork
        return self._worker

    async def _ask(self, work: Work, *, writes: bool = True) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._present().ask(_Request(work, writes, future))
        return await future


class _Request:
    """One question to the thread. Lifetime: until it is answered."""

    __slots__ = ("error", "future", "result", "work", "writes")

    def __init__(self, work: Work, writes: bool, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.writes = writes
        self.future = future
        self.result: Any = None
        self.error: PersistenceError | None = None


class _Worker:
    """The thread that works on a file, and what waits for it. Lifetime: its store, in one process.

    There is a thread only while something waits or the store is open. It opens the file, answers, and closes it.
    """

    def __init__(self, path: Path, clock: Callable[[], float], handover: float) -> None:
        try:
            import apsw
            import fastlite
        except ImportError as error:
            raise MissingDependencyError("a SQLite store needs fastlite: pip install 'faststate[sqlite]'") from error
        self.pid = os.getpid()
        self._path = path
        self._clock = clock
        self._handover = handover
        self._database = fastlite.database
        self._busy: type[Exception] = apsw.BusyError
        self._changed = threading.Condition()  # for the next three
        self._waiting: deque[_Request] = deque()
        self._running = False  # there is a thread, which will look at `_waiting` again
        self._left = False
        self._kept = False  # between open and close; the thread's own, as are the next two
        self._file: tuple[int, int] | None = None  # which one is open
        self._purged = float("-inf")  # when, by the clock

    # -- from any thread ---------------------------------------------------------------------------------------------

    def ask(self, request: _Request) -> None:
        """Queues a request. Never waits for the disk."""
        with self._changed:
            if not self._running:
                # A daemon: a process that ends without closing the store must not wait for it.
                thread = threading.Thread(target=self._run, name=f"faststate {self._path.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise PersistenceError(f"cannot start a thread for {self._path}: {error}") from error
                self._running = True
            self._waiting.append(request)
            self._changed.notify()

    def leave(self) -> None:
        """Ends the thread when it has answered what waits: the store is gone."""
        if self.pid == os.getpid():  # in a forked child the lock may be held for ever, and there is no thread
            with self._changed:
                self._left = True
                self._changed.notify()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keeps the file when nothing waits any more."""
        self._kept = True

    def _run(self) -> None:
        while self._is_wanted():
            closing: list[_Request] = []
            try:
                with self._opened() as connection:
                    while self._answer_some(connection, closing):
                        self._purge(connection)
            except Exception as error:
                with self._changed:
                    refused = list(self._waiting)
                    self._waiting.clear()
                self._fail([request for request in refused if request.work is not _close], error)
                closing += refused
            self._kept = False
            _deliver(closing)

    def _is_wanted(self) -> bool:
        """Whether the file has to be opened. Answers the wishes to close it, as it is closed."""
        closed: list[_Request] = []
        with self._changed:
            while self._waiting and self._waiting[0].work is _close:
                closed.append(self._waiting.popleft())
            self._running = wanted = bool(self._waiting)
        _deliver(closed)
        return wanted

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """The connection, in the sole ownership of the file.

        Nothing but the thread holds what is open. So a forked child, which has no thread, never closes what it has
        inherited, as SQLite demands; and SQLite believes there that the file is still owned, and refuses it.
        """
        if self._path.is_dir():
            raise PersistenceError(f"{self._path} is a directory: the store's path must name a file")
        if not self._path.parent.is_dir():
            raise PersistenceError(f"there is no directory {self._path.parent} to keep {self._path.name} in")
        # By Python's own SQLite, as apsw would turn this one into a WAL database too. The lock frees itself with the
        # process, is there on all systems, and its busy timeout is the wait.
        lock = sqlite3.connect(f"{self._path}-owner", timeout=self._handover, isolation_level=None)
        with contextlib.closing(lock):
            try:
                lock.execute("PRAGMA journal_mode = MEMORY")  # or else a journal file would lie there
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                raise PersistenceError(
                    f"{self._path} belongs to another process, or to another provider of this one: a SQLite store is "
                    "for one process. Several processes, or machines, share their states in Redis: "
                    "StateProvider(store='redis://localhost:6379'), pip install 'faststate[redis]'"
                ) from error
            with _forking:
                connection = self._database(self._path).conn
            try:
                with _forking:
                    self._prepare(connection)
                self._file = _identity(self._path)
                yield connection
            finally:
                with _forking, contextlib.closing(connection), contextlib.suppress(Exception):
                    # The last connection to close would do so by itself; this is for when there are readers.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _prepare(self, connection: Any) -> None:
        """Sets the connection up, and makes the table in a new file."""
        connection.set_busy_timeout(BUSY_TIMEOUT)
        if connection.readonly("main"):
            raise PersistenceError(f"{self._path} is read-only: the store has to write to it")
        connection.execute("PRAGMA synchronous = FULL")  # what is answered survives a power cut
        connection.execute("PRAGMA fullfsync = ON")  # and on macOS, where a plain sync does not reach the disk
        connection.execute("BEGIN IMMEDIATE")
        ((version,),) = connection.execute("PRAGMA user_version")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if version > FORMAT:
            raise PersistenceError(
                f"{self._path} has format {version}, and this version of FastState knows {FORMAT}: "
                "a newer version, or another program, wrote it"
            )
        if "faststate_states" not in tables:
            if tables:
                raise PersistenceError(
                    f"{self._path} is another program's database: give the states a file of their own"
                )
            connection.execute(SCHEMA)
        connection.execute("COMMIT")

    def _answer_some(self, connection: Any, closing: list[_Request]) -> bool:
        """Answers what waits, as soon as something does. Returns False when the file is to be closed."""
        batch: list[_Request] = []
        with self._changed:
            while not self._waiting and self._kept and not self._left:
                self._changed.wait()
            while self._waiting and len(batch) < BATCH and not closing:
                request = self._waiting.popleft()
                (closing if request.work is _close else batch).append(request)
        if batch:
            self._answer(connection, batch)
        return bool(batch) and not closing

    def _answer(self, connection: Any, batch: list[_Request]) -> None:
        try:
            self._transact(connection, batch)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, self._busy):
                self._fail(batch, error)
            else:
                # One of them is too big, or more than the disk has room for: each is tried by itself.
                for request in batch:
                    try:
                        self._transact(connection, [request])
                    except Exception as own:
                        self._fail([request], own)
        _deliver(batch)

    def _transact(self, connection: Any, requests: Sequence[_Request]) -> None:
        """Does all of the requests and flushes them to the disk, or raises and has done none of them."""
        now = self._clock()
        writes = any(request.writes for request in requests)
        if writes:
            self._refuse_moved()
        with _forking:
            try:
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                for request in requests:
                    request.error = None
                    try:
                        request.result = request.work(connection, now)
                    except VersionConflict as conflict:  # nothing was changed yet, so the others need not care
                        request.error = conflict
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _refuse_moved(self) -> None:
        """Raises when the file is not the one that was opened: what SQLite writes to a deleted file is lost."""
        if _identity(self._path) != self._file:
            raise PersistenceError(
                f"{self._path} was moved, replaced or deleted while it was in use: nothing can be stored any more "
                "until the app is started again"
            )

    def _fail(self, requests: Iterable[_Request], error: Exception) -> None:
        for request in requests:
            if isinstance(error, PersistenceError):
                request.error, cause = PersistenceError(str(error)), error.__cause__
            else:
                request.error, cause = PersistenceError(f"the SQLite store {self._path} failed: {error}"), error
            request.error.__cause__ = cause

    def _purge(self, connection: Any) -> None:
        """Deletes what expired long ago, in portions, between which requests have their turn."""
        now = self._clock()
        if 0 <= now - self._purged < PURGE_INTERVAL:  # a clock that was set back must not stop it
            return
        try:
            while True:
                with _forking:
                    connection.execute(_PURGE, (now - EXPIRED_KEPT, PURGE_PORTION))
                if connection.changes() < PURGE_PORTION:
                    break
                if self._waiting:
                    return
        except Exception:
            logger.exception("the SQLite store %s could not delete what has expired", self._path)
        self._purged = now


# -- the work on the table ---------------------------------------------------------------------------------------------

_BY_KEY: Final = """SELECT key, epoch, number, data, expires FROM faststate_states
    WHERE key = ? AND (expires IS NULL OR expires > ?)"""
_BY_GROUP: Final = """SELECT key, epoch, number, data, expires FROM faststate_states
    WHERE grp = ? AND (expires IS NULL OR expires > ?)"""
_VERSION: Final = "SELECT epoch, number, expires <= ? FROM faststate_states WHERE key = ?"
_SAVE: Final = """INSERT INTO faststate_states (key, epoch, number, data, expires, grp) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch, number = excluded.number, data = excluded.data,
    expires = excluded.expires, grp = excluded.grp"""
_TOUCH: Final = "UPDATE faststate_states SET expires = ? WHERE key = ?"
_DELETE: Final = "DELETE FROM faststate_states WHERE key = ?"
_PURGE: Final = """DELETE FROM faststate_states WHERE key IN
    (SELECT key FROM faststate_states WHERE expires <= ? ORDER BY expires LIMIT ?)"""


def _load(query: str, value: str, connection: Any, now: float) -> dict[str, Stored]:
    return {
        key: Stored(Version(epoch, number), data, None if expires is None else expires - now)
        for key, epoch, number, data, expires in connection.execute(query, (value, now))
    }


def _save(writes: Sequence[Write], connection: Any, now: float) -> None:
    for write in writes:
        found = None
        for epoch, number, expired in connection.execute(_VERSION, (now, write.key)):
            found = None if expired and write.expected is None else Version(epoch, number)
        if found != write.expected:
            raise VersionConflict(f"the store holds {write.key} at {found}, not at {write.expected}")
    for write in writes:
        if write.data is None:
            connection.execute(_DELETE, (write.key,))
        else:
            expires = None if write.ttl is None else now + write.ttl
            connection.execute(_SAVE, (write.key, *write.version, write.data, expires, write.group))


def _touch(ttls: Mapping[str, float | None], connection: Any, now: float) -> None:
    for key, ttl in ttls.items():
        connection.execute(_TOUCH, (None if ttl is None else now + ttl, key))


def _close(connection: Any, now: float) -> None:
    """The wish to close the file: done by the thread when it meets this, and not as a piece of work."""


def _delete(keys: Sequence[str], connection: Any, now: float) -> None:
    for key in keys:
        connection.execute(_DELETE, (key,))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _deliver(requests: Iterable[_Request]) -> None:
    """Answers requests, each in its own loop: a loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
    for request in requests:
        loops.setdefault(request.future.get_loop(), []).append(request)
    for loop, its in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle, its)


def _settle(requests: Iterable[_Request]) -> None:
    for request in requests:
        if request.future.done():  # its task was cancelled
            continue
        if request.error is None:
            request.future.set_result(request.result)
        else:
            request.future.set_exception(request.error)
