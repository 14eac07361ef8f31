"""What an app runs on, looked at: its store, its secret, Datastar, and how many processes are asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from .processes import processes_asked_for
from .provider import DATASTAR_SRC, StateProvider
from .stores import SharedStore, StateStore
from .stores.memory import MemoryStore
from .stores.sqlite import SQLiteStore

__all__ = ["Check", "examine"]

Level = Literal["ok", "note", "problem"]

LITTLE: Final = 256 * 2**20
"""Bytes free on a disk below which a store is told to be short of room."""

FEW_FILES: Final = 4_096
"""Open files below which a process is told to be short of them: each stream is one."""

OLDEST_REDIS: Final = (6, 2)

SLOW: Final = 2.0
"""Milliseconds for a round trip to Redis above which it is worth a note: an event takes two."""


class Check(NamedTuple):
    """One thing that was looked at: the `level` of what was found, what it is `about` (a word), and the `message`."""

    level: Level
    about: str
    message: str


async def examine(target: Any, provider: StateProvider) -> list[Check]:
    """Looks at what `provider` runs on; `target` is the app that it was set up with, or the provider itself.

    Nothing is written to the store, and no state is read.
    """
    store = provider.store
    shared = isinstance(store, SharedStore)
    checks = [check async for check in _store(store)]
    checks += _processes(shared, store)
    checks += _secret(target, shared)
    checks += _datastar(provider)
    checks += _files()
    return checks


# -- the store ---------------------------------------------------------------------------------------------------------


async def _store(store: StateStore | None) -> AsyncIterator[Check]:
    if store is None or isinstance(store, MemoryStore):
        yield Check("note", "store", "states are in memory, and end with the process; store= names a place for them")
    elif isinstance(store, SQLiteStore):
        for check in _sqlite(store.path):
            yield check
    else:
        yield Check("note", "store", f"a {type(store).__name__}, of which only its author knows what to look at")


def _sqlite(path: Path) -> Iterator[Check]:
    where = path if path.exists() else path.parent
    if not path.parent.is_dir():
        yield Check("problem", "store", f"there is no directory {path.parent} to keep {path.name} in")
        return
    # SQLite writes files beside the one that it is asked for.
    refused = [place for place in {where, path.parent} if not os.access(place, os.W_OK)]
    if refused:
        yield Check("problem", "store", f"{' and '.join(map(str, sorted(refused)))} cannot be written to")
    if path.exists():
        yield _header(path)
        if _is_owned(path):
            yield Check("ok", "store", f"{path} is in use by a running process, as it is while the app runs")
    else:
        yield Check("ok", "store", f"{path} is not there yet: the app makes it at its start")
    free = shutil.disk_usage(where).free
    message = f"{free / 2**30:.1f} GB are free on the disk of {path.parent}"
    yield Check("problem" if free < LITTLE else "ok", "disk", message)


def _header(path: Path) -> Check:
    """What the file's first bytes say. They are read as bytes: SQLite's locks end where one process opens it twice."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        return Check("problem", "store", f"{path} cannot be read: {error.strerror}")
    if not header:
        return Check("ok", "store", f"{path} is empty yet")
    if not header.startswith(b"SQLite format 3\x00"):
        return Check("problem", "store", f"{path} is no SQLite file")
    if header[18] != 2:
        return Check("note", "store", f"{path} is no WAL database yet: the app makes it one at its next start")
    return Check("ok", "store", f"{path} is a SQLite file with a write-ahead log, {path.stat().st_size / 2**20:.1f} MB")


def _is_owned(path: Path) -> bool:
    owner = Path(f"{path}-owner")
    if not owner.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"{owner.as_uri()}?mode=ro", uri=True, timeout=0)) as lock:
        try:
            lock.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return False


# -- the rest ----------------------------------------------------------------------------------------------------------


def _processes(shared: bool, store: StateStore | None) -> Iterator[Check]:
    found = processes_asked_for(os.environ)
    if found is None:
        yield Check("ok", "processes", "no variable of this environment asks for more than one")
        return
    said = f"{found.by} asks for {found.number}"
    if shared:
        yield Check("ok", "processes", f"{said}, which share their states")
    else:
        what = "each would have states of its own" if store is None else f"a {type(store).__name__} is for one process"
        yield Check("problem", "processes", f"{said}, and {what}: store='redis://...' has them share one")


def _secret(target: Any, shared: bool) -> Iterator[Check]:
    key = None
    for _ in range(100):  # middleware around the app
        key = getattr(target, "secret_key", None)
        target = getattr(target, "app", None)
        if key is not None or target is None:
            break
    if not isinstance(key, str):
        yield Check("note", "secret", "not looked at: no FastHTML app was named")
        return
    kept = Path(".sesskey")
    with contextlib.suppress(OSError):
        if kept.read_text() == key:
            yield Check(
                "problem" if shared else "note",
                "secret",
                f"secret_key was made by FastHTML and lies in {kept.resolve()}: "
                + (
                    "hosts, containers and directories that do not share that file do not know each other's sessions; "
                    "give fast_app(secret_key=...) the same everywhere"
                    if shared
                    else "keep it with the app, or all sessions end"
                ),
            )
            return
    yield Check("ok", "secret", "secret_key is given")


def _datastar(provider: StateProvider) -> Iterator[Check]:
    source = provider.datastar_src
    if source == DATASTAR_SRC:
        yield Check(
            "note", "datastar", "browsers load it from a CDN, cdn.jsdelivr.net; datastar_src= names a copy of your own"
        )
    elif "://" not in source and Path(source).is_file():
        yield Check("ok", "datastar", f"served from {Path(source).resolve()}")
    elif "://" in source or source.startswith("/"):
        yield Check("ok", "datastar", f"browsers load it from {source}")
    else:
        yield Check("problem", "datastar", f"there is no file {source}, from which it is to be served")


def _files() -> Iterator[Check]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < FEW_FILES:
        yield Check("note", "files", f"a process started here may have {allowed:,} files open, and each stream is one")
    else:
        yield Check("ok", "files", "a process started here may have as many files open as it likes"
                    if allowed < 0 else f"a process started here may have {allowed:,} files open")  # fmt: skip
