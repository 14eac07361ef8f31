"""The deployment check-up: the store of an app, its secret, Datastar, and the number of processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from ..cluster.processes import processes_asked_for
from ..exceptions import PersistenceError
from ..provider.options import DATASTAR_SRC
from ..provider.provider import StateProvider
from ..stores.base import SharedStore, StateStore
from ..stores.memory import MemoryStore
from ..stores.redis import RedisStore
from ..stores.redis.checkup import Checkup, checkup, eviction_risk, persistence_risk
from ..stores.redis.rules import is_too_old
from ..stores.sqlite import SQLiteStore

Level = Literal["ok", "note", "problem"]

LITTLE: Final = 256 * 2**20
"""Free bytes on a disk below which a store is reported to be short of space."""

FEW_FILES: Final = 4_096
"""Open files below which a process is reported to be short of them. Each stream is one."""

SLOW: Final = 0.002
"""Seconds for a round trip to Redis above which there is a note: an event takes two."""

CLOCK: Final = 1.0
"""Seconds that two clocks may differ before there is a note."""


class Check(NamedTuple):
    """The result of one check: its `level`, what it is `about` (a word), and the `message`. Lifetime: one run."""

    level: Level
    about: str
    message: str


async def examine(target: Any, provider: StateProvider) -> list[Check]:
    """Check what `provider` runs on. `target` is the app that it was set up with, or the provider itself.

    Writes nothing to the store, and reads no state.
    """
    store = provider.store
    shared = isinstance(store, SharedStore)
    return [*await _store(store), _processes(shared, store), _secret(target, shared), _datastar(provider), *_files()]


# -- the store ---------------------------------------------------------------------------------------------------------


async def _store(store: StateStore | None) -> Iterable[Check]:
    if store is None or isinstance(store, MemoryStore):
        return [Check("note", "store", "states are in memory, and end with the process; store= names a place for them")]
    if isinstance(store, SQLiteStore):
        return _sqlite(store.path)
    if isinstance(store, RedisStore):
        try:
            return _redis(await checkup(store.address))
        except PersistenceError as error:
            return [Check("problem", "store", str(error))]
    return [Check("note", "store", f"a {type(store).__name__}: only its author knows what to check")]


def _sqlite(path: Path) -> Iterator[Check]:
    where = path if path.exists() else path.parent
    if not path.parent.is_dir():
        yield Check("problem", "store", f"there is no directory {path.parent} to keep {path.name} in")
        return
    # SQLite writes other files beside this one.
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
    """Check the first bytes of the file. Not with SQLite: its locks end if a process opens a file twice."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        return Check("problem", "store", f"{path} cannot be read: {error.strerror}")
    if not header:
        return Check("ok", "store", f"{path} is empty yet")
    if not header.startswith(b"SQLite format 3\x00"):
        return Check("problem", "store", f"{path} is not a SQLite file")
    if header[18] != 2:
        return Check("note", "store", f"{path} is not a WAL database yet: the app makes it one at its next start")
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


def _redis(found: Checkup) -> Iterator[Check]:
    info = found.info
    # Valkey reports a version of Redis as well.
    product = "Valkey" if "valkey_version" in info else "Redis"
    server = f"{product} {info.get(f'{product.lower()}_version', 'unknown')} at {found.address}"
    is_old = is_too_old(info)
    message = f"{server}: FastState needs 6.2 or newer" if is_old else server
    yield Check("problem" if is_old else "ok", "store", message)
    role = info.get("role", "master")
    if role != "master":
        yield Check("problem", "store", "it is a replica, which takes no writes: name its master, or its sentinels")
    is_slow = found.round_trip > SLOW
    message = f"{found.round_trip * 1_000:.2f} ms, and an event takes two{': have Redis nearer' if is_slow else ''}"
    yield Check("note" if is_slow else "ok", "round trip", message)
    yield from _redis_persistence(found)
    yield _redis_memory(found)
    replicas = int(info.get("connected_slaves", "0")) if role == "master" else 0
    yield Check("ok", "replicas", f"{replicas}, which a failover could take" if replicas else "none: if its machine is "
                "gone for good, so are the states since the last backup")  # fmt: skip
    off = f"{abs(found.clock):.2f} s {'ahead of' if found.clock > 0 else 'behind'}"
    message = f"{off} this machine's; it alone decides when states expire"
    yield Check("note" if abs(found.clock) > CLOCK else "ok", "clock", message)


def _redis_persistence(found: Checkup) -> Iterator[Check]:
    """Check what a crash of Redis would lose."""
    if found.settings is None:
        is_kept = found.info.get("aof_enabled") == "1"
        message = "CONFIG is forbidden here. INFO says that appendonly is " + ("yes" if is_kept else "no")
        message += ": see that appendfsync is always" if is_kept else ": a restart loses what no snapshot has"
        yield Check("note" if is_kept else "problem", "persistence", message)
    elif (risk := persistence_risk(found.settings)) is not None:
        yield Check("problem" if risk.is_serious else "note", "persistence", risk.message)
    else:
        yield Check("ok", "persistence", "appendonly yes, appendfsync always: what is acknowledged is on the disk")
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if found.info.get(name, "ok") != "ok":
            yield Check("problem", "persistence", f"its last write of the {what} has failed: see Redis's log")


def _redis_memory(found: Checkup) -> Check:
    used, limit = (int(found.info.get(name, "0")) for name in ("used_memory", "maxmemory"))
    if not limit:
        return Check("ok", "memory", f"{_mb(used)} in use, without a maxmemory")
    if (risk := eviction_risk(str(limit), found.info.get("maxmemory_policy", "noeviction"))) is not None:
        return Check("problem", "memory", risk.message)
    if used > 0.8 * limit:
        message = f"{_mb(used)} of {_mb(limit)} in use: when it is full, no event can be saved any more"
        return Check("problem", "memory", message)
    return Check("ok", "memory", f"{_mb(used)} of {_mb(limit)} in use, and noeviction")


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


# -- the rest ----------------------------------------------------------------------------------------------------------


def _processes(shared: bool, store: StateStore | None) -> Check:
    found = processes_asked_for(os.environ)
    if found is None:
        return Check("ok", "processes", "no variable of this environment asks for more than one")
    request = f"{found.by} asks for {found.number}"
    if shared:
        return Check("ok", "processes", f"{request}, which share their states")
    what = "each would have states of its own" if store is None else f"a {type(store).__name__} is for one process"
    return Check("problem", "processes", f"{request}, and {what}: store='redis://...' has them share one")


def _secret(target: Any, shared: bool) -> Check:
    key = None
    for _ in range(100):  # middleware around the app
        key = getattr(target, "secret_key", None)
        target = getattr(target, "app", None)
        if key is not None or target is None:
            break
    if not isinstance(key, str):
        return Check("note", "secret", "not looked at: no FastHTML app was named")
    kept = Path(".sesskey")
    with contextlib.suppress(OSError):
        if kept.read_text() == key:
            advice = "keep it with the app, or all sessions end"
            if shared:
                advice = (
                    "hosts, containers and directories that do not share that file do not know each other's sessions; "
                    "give fast_app(secret_key=...) the same everywhere"
                )
            message = f"secret_key was made by FastHTML and lies in {kept.resolve()}: {advice}"
            return Check("problem" if shared else "note", "secret", message)
    return Check("ok", "secret", "secret_key is given")


def _datastar(provider: StateProvider) -> Check:
    source = provider.options.datastar_src
    if source == DATASTAR_SRC:
        message = "browsers load it from a CDN, cdn.jsdelivr.net; datastar_src= names a copy of your own"
        return Check("note", "datastar", message)
    if "://" not in source and Path(source).is_file():
        return Check("ok", "datastar", f"served from {Path(source).resolve()}")
    if "://" in source or source.startswith("/"):
        return Check("ok", "datastar", f"browsers load it from {source}")
    return Check("problem", "datastar", f"there is no file {source}, to serve it from")


def _files() -> Iterator[Check]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = f"a process started here may have {f'{allowed:,}' if allowed >= 0 else 'any number of'} files open"
    is_few = 0 <= allowed < FEW_FILES
    yield Check("note" if is_few else "ok", "files", message + (", and each stream is one" if is_few else ""))
