"""The file of a SQLite store, and the one thread that works on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..exceptions import MissingDependencyError, PersistenceError, VersionConflict
from ..scheduling.loops import call_on, settle
from .base import EXPIRED_KEPT, same_error

logger = logging.getLogger("faststate")

FORMAT: Final = 1
"""The format of the table, kept as the `user_version` of the file."""

SCHEMA: Final = f"""
    CREATE TABLE faststate_states (key TEXT PRIMARY KEY, epoch TEXT NOT NULL, number INTEGER NOT NULL,
        data BLOB NOT NULL, expires REAL, grp TEXT) WITHOUT ROWID;
    CREATE INDEX faststate_states_grp ON faststate_states (grp) WHERE grp IS NOT NULL;
    CREATE INDEX faststate_states_expires ON faststate_states (expires) WHERE expires IS NOT NULL;
    PRAGMA user_version = {FORMAT};
"""

BUSY_TIMEOUT: Final = 5_000
"""Milliseconds to wait for another program that writes to the file. A shell or a backup locks it for far less."""

BATCH: Final = 1_000
"""Most requests in one transaction, so that in a flood the first one does not wait for the last. With a hundred, the
flush to the disk is already a small part of the cost."""

PURGE_INTERVAL: Final = 60.0
"""Seconds between two searches for rows that expired long ago: far less than the `EXPIRED_KEPT` that they stay."""

PURGE_PORTION: Final = 500
"""Most rows deleted in one transaction: it takes some milliseconds, for which a request may have to wait."""

Work = Callable[[Any, float], Any]
"""The work of a request: takes the connection and the time (seconds since the epoch). It checks before it changes."""

_PURGE: Final = """DELETE FROM faststate_states WHERE key IN
    (SELECT key FROM faststate_states WHERE expires <= ? ORDER BY expires LIMIT ?)"""

# Held while a connection works, and while the process forks: so no child inherits a connection in mid-work.
_forking = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forking.release)


@dataclass(slots=True, eq=False)
class FileRequest:
    """One request to the thread. Lifetime: until it is answered."""

    work: Work
    writes: bool
    future: asyncio.Future[Any]
    result: Any = None
    error: PersistenceError | None = None


class FileThread:
    """The thread that works on a file, and the requests that wait for it. Lifetime: its store, in one process.

    The thread runs only while a request waits or the store is open. It opens the file, answers, and closes the file.
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
        self._changed = threading.Condition()  # guards the next three
        self._waiting: deque[FileRequest] = deque()
        self._running = False  # there is a thread that will look at `_waiting` again
        self._is_dropped = False  # the store is gone
        self._kept = False  # True between open and close; only the thread uses this and the next two
        self._file: tuple[int, int] | None = None  # identity of the open file
        self._purged = float("-inf")  # time of the last purge, by the clock

    # -- from any thread ---------------------------------------------------------------------------------------------

    def ask(self, request: FileRequest) -> None:
        """Queue a request. Never waits for the disk."""
        with self._changed:
            if not self._running:
                # A daemon: it must not keep a process from ending that has not closed the store.
                thread = threading.Thread(target=self._run, name=f"faststate {self._path.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise PersistenceError(f"cannot start a thread for {self._path}: {error}") from error
                self._running = True
            self._waiting.append(request)
            self._changed.notify()

    def end(self) -> None:
        """End the thread once it has answered all requests: the store is gone."""
        if self.pid == os.getpid():  # in a forked child there is no thread, and the lock may be held for ever
            with self._changed:
                self._is_dropped = True
                self._changed.notify()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keep the file open when no request waits any more."""
        self._kept = True

    def _run(self) -> None:
        while self._is_wanted():
            closing: list[FileRequest] = []
            try:
                with self._opened() as connection:
                    while self._answer_some(connection, closing):
                        self._purge(connection)
            except Exception as error:
                with self._changed:
                    refused = list(self._waiting)
                    self._waiting.clear()
                self._fail([request for request in refused if request.work is not close_file], error)
                closing += refused
            self._kept = False
            _deliver(closing)

    def _is_wanted(self) -> bool:
        """True if the file must be opened. Requests to close it are answered here, since it is closed."""
        closed: list[FileRequest] = []
        with self._changed:
            while self._waiting and self._waiting[0].work is close_file:
                closed.append(self._waiting.popleft())
            self._running = wanted = bool(self._waiting)
        _deliver(closed)
        return wanted

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """Own the file, and yield a connection to it.

        Only the thread refers to what is open. A forked child, which has no thread, therefore never closes what it has
        inherited, as SQLite demands. And SQLite in the child believes that the file is still owned, and refuses it.
        """
        if self._path.is_dir():
            raise PersistenceError(f"{self._path} is a directory: the store's path must name a file")
        if not self._path.parent.is_dir():
            raise PersistenceError(f"there is no directory {self._path.parent} to keep {self._path.name} in")
        # With Python's own SQLite, since fastlite would make this a WAL database as well. SQLite's lock ends with the
        # process, works on all systems, and its busy timeout is the time to wait.
        lock = sqlite3.connect(f"{self._path}-owner", timeout=self._handover, isolation_level=None)
        with contextlib.closing(lock):
            try:
                lock.execute("PRAGMA journal_mode = MEMORY")  # otherwise a journal file would lie beside it
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
                    # The last connection does this by itself when it closes, but there may be other readers.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _prepare(self, connection: Any) -> None:
        """Set the connection up, and create the table in a new file."""
        connection.set_busy_timeout(BUSY_TIMEOUT)
        if connection.readonly("main"):
            raise PersistenceError(f"{self._path} is read-only: the store has to write to it")
        connection.execute("PRAGMA synchronous = FULL")  # acknowledged changes survive a power cut
        connection.execute("PRAGMA fullfsync = ON")  # on macOS too, where a plain sync does not reach the disk
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

    def _answer_some(self, connection: Any, closing: list[FileRequest]) -> bool:
        """Answer the requests that wait; wait for one if there are none. Returns False if the file must be closed."""
        batch: list[FileRequest] = []
        with self._changed:
            while not self._waiting and self._kept and not self._is_dropped:
                self._changed.wait()
            while self._waiting and len(batch) < BATCH and not closing:
                request = self._waiting.popleft()
                (closing if request.work is close_file else batch).append(request)
        if batch:
            self._answer(connection, batch)
        return bool(batch) and not closing

    def _answer(self, connection: Any, batch: list[FileRequest]) -> None:
        try:
            self._transact(connection, batch)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, self._busy):
                self._fail(batch, error)
            else:
                # One of them may be too big, or the disk too full for all: try each by itself.
                for request in batch:
                    try:
                        self._transact(connection, [request])
                    except Exception as own:
                        self._fail([request], own)
        _deliver(batch)

    def _transact(self, connection: Any, requests: Sequence[FileRequest]) -> None:
        """Do all requests and flush them to the disk, or raise and do none of them."""
        now = self._clock()
        writes = any(request.writes for request in requests)
        if writes and _identity(self._path) != self._file:  # what SQLite writes to a deleted file is lost
            raise PersistenceError(
                f"{self._path} was moved, replaced or deleted while it was in use: nothing can be stored any more "
                "until the app is started again"
            )
        with _forking:
            try:
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                for request in requests:
                    request.error = None
                    try:
                        request.result = request.work(connection, now)
                    except VersionConflict as conflict:  # it has changed nothing yet, so the others are not affected
                        request.error = conflict
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _fail(self, requests: Iterable[FileRequest], error: Exception) -> None:
        failure = error
        if not isinstance(failure, PersistenceError):
            failure = PersistenceError(f"the SQLite store {self._path} failed: {error}")
            failure.__cause__ = error
        for request in requests:
            request.error = same_error(failure)

    def _purge(self, connection: Any) -> None:
        """Delete what expired long ago, in portions, so that requests get their turn in between."""
        now = self._clock()
        if 0 <= now - self._purged < PURGE_INTERVAL:  # after the clock was set back, too
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


def close_file(connection: Any, now: float) -> None:
    """Stands for a request to close the file. The thread closes it when it comes to this, and never calls it."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _deliver(requests: Iterable[FileRequest]) -> None:
    """Answer each request on its own event loop. Each loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[FileRequest]] = {}
    for request in requests:
        loops.setdefault(request.future.get_loop(), []).append(request)
    for loop, own in loops.items():
        call_on(loop, _settle, own)


def _settle(requests: Iterable[FileRequest]) -> None:
    for request in requests:
        if request.error is None:
            settle(request.future, request.result)
        elif not request.future.done():  # otherwise its caller was cancelled
            request.future.set_exception(request.error)
