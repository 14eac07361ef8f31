"""Stores: one suite of promises that every backend keeps, and what the memory and SQLite stores promise beyond it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import fastlite
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faststate.exceptions import ConfigurationError, MissingDependencyError, PersistenceError, VersionConflict
from faststate.scopes import Version
from faststate.stores import sqlite_file
from faststate.stores.base import EXPIRED_KEPT, StateStore, Stored, Write
from faststate.stores.memory import MemoryStore
from faststate.stores.redis import RedisStore
from faststate.stores.sqlite import SQLiteStore
from faststate.stores.urls import store_from_url
from tests.support.redis_server import RedisServer
from tests.support.waiting import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Callable[[], StateStore]:
    """Makes stores of one backend: a unit that a further backend joins by one more parameter."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        url = f"{server.url}?prefix={os.urandom(4).hex()}"

    def new() -> StateStore:
        if request.param == "redis":
            return RedisStore(url, clock=clock)
        if request.param == "memory":
            return MemoryStore(clock)
        return SQLiteStore(tmp_path / "state.db", clock=clock)

    return new


@pytest.fixture
async def store(new_store: Callable[[], StateStore]) -> AsyncIterator[StateStore]:
    store = new_store()
    await store.open()
    yield store
    await store.close()


def version(number: int, epoch: str = "life") -> Version:
    return Version(epoch, number)


def first(key: str, data: bytes = b"data", ttl: float | None = None, group: str | None = None) -> Write:
    """The write that makes a state."""
    return Write(key, None, version(1), data, ttl, group)


async def run_in_thread(work: Callable[[], Any]) -> Any:
    """Runs a coroutine function in an event loop of another thread."""
    return await asyncio.to_thread(lambda: asyncio.run(work()))


# -- what every store promises -----------------------------------------------------------------------------------------


def test_every_store_keeps_the_protocol(new_store):
    assert isinstance(new_store(), StateStore)


async def test_nothing_is_stored_at_first(store):
    assert await store.load("key") is None
    assert await store.group("group") == {}


@pytest.mark.parametrize("data", [b"", b"\x00\xff'\n", bytes(range(256)) * 20_000], ids=["empty", "odd", "5 MB"])
async def test_what_was_saved_is_loaded(store, data):
    await store.save(first("key", data))
    assert await store.load("key") == Stored(version(1), data, None)


async def test_keys_and_groups_of_any_text_are_told_apart(store):
    keys = ["", "a", "A", "a ", "%", "a%", "_", "*", "session:Cart:x", "session:Cart:%3A", "é", "e\u0301", "名前", "🙂",
            "'; DROP TABLE x; --", "a\x00b", "a\nb", "i" * 512, "i" * 511 + "j"]  # fmt: skip
    for key in keys:
        await store.save(first(key, key.encode(), group=f"group {key}"))
    for key in keys:
        expected = Stored(version(1), key.encode(), None)
        assert await store.load(key) == expected
        assert await store.group(f"group {key}") == {key: expected}


async def test_a_save_replaces_the_version_that_it_expects(store):
    await store.save(first("key", b"old", ttl=10, group="old"))
    await store.save(Write("key", version(1), version(2, "next life"), b"new", None, "new"))
    expected = Stored(version(2, "next life"), b"new", None)
    assert await store.load("key") == expected
    assert await store.group("old") == {}
    assert await store.group("new") == {"key": expected}


@pytest.mark.parametrize("data", [b"mine", None], ids=["save", "deletion"])
@pytest.mark.parametrize("expected", [None, version(1), version(3), version(2, "other life")])
async def test_a_save_that_expects_another_version_changes_nothing(store, expected, data):
    await store.save(Write("key", None, version(2), b"theirs", 10, "group"))
    with pytest.raises(VersionConflict, match="key"):
        await store.save(Write("key", expected, version(3), data, None, "mine"))
    assert await store.load("key") == Stored(version(2), b"theirs", pytest.approx(10))
    assert set(await store.group("group")) == {"key"}
    assert await store.group("mine") == {}


@pytest.mark.parametrize("data", [b"data", None], ids=["save", "deletion"])
async def test_a_save_that_expects_what_is_not_there_makes_nothing(store, data):
    with pytest.raises(VersionConflict, match="key"):
        await store.save(Write("key", version(1), version(2), data))
    assert await store.load("key") is None


async def test_a_write_without_data_deletes_the_version_that_it_expects(store):
    await store.save(first("key", group="group"))
    await store.save(Write("key", version(1), version(2), None))
    assert await store.load("key") is None
    assert await store.group("group") == {}
    await store.save(Write("key", None, version(1), None))  # nothing is there, as it expects
    await store.save(first("key"))


async def test_the_time_to_live_counts_down_and_starts_anew_with_each_save(store, clock):
    await store.save(first("key", ttl=10, group="group"))
    clock.now += 4
    for found in (await store.load("key"), (await store.group("group"))["key"]):
        assert found.ttl == pytest.approx(6)
    await store.save(Write("key", version(1), version(2), b"data", 20))
    assert (await store.load("key")).ttl == pytest.approx(20)


async def test_what_has_expired_is_not_found(store, clock):
    await store.save(first("short", ttl=10, group="group"))
    await store.save(first("long", ttl=20, group="group"))
    clock.now += 10
    assert await store.load("short") is None
    assert set(await store.group("group")) == {"long"}


async def test_what_has_expired_gives_way_to_a_new_state(store, clock):
    await store.save(first("key", b"old", ttl=10, group="group"))
    clock.now += 11
    await store.save(Write("key", None, version(1, "next life"), b"new"))
    assert await store.load("key") == Stored(version(1, "next life"), b"new", None)
    assert await store.group("group") == {}


@pytest.mark.parametrize("data", [b"new", None], ids=["save", "deletion"])
async def test_whoever_still_holds_the_version_that_expired_may_write_for_an_hour(store, clock, data):
    await store.save(first("key", ttl=10))
    clock.now += 10 + EXPIRED_KEPT - 1
    for number in range(3):  # whatever cleans up has its chance
        await store.save(first(f"other {number}"))
    with pytest.raises(VersionConflict):
        await store.save(Write("key", version(7), version(8), data))
    await store.save(Write("key", version(1), version(2), data))
    assert await store.load("key") == (data and Stored(version(2), data, None))


async def test_touch_sets_when_each_key_expires_and_changes_nothing_else(store, clock):
    for key in ("sooner", "later", "never", "untouched"):
        await store.save(first(key, ttl=10, group="group"))
    await store.touch({"sooner": 5, "later": 30, "never": None, "missing": 10})
    clock.now += 9
    assert await store.group("group") == {
        "later": Stored(version(1), b"data", pytest.approx(21)),
        "never": Stored(version(1), b"data", None),
        "untouched": Stored(version(1), b"data", pytest.approx(1)),
    }
    await store.touch({"never": 1, "later": 1})
    clock.now += 2
    assert await store.group("group") == {}
    assert await store.load("missing") is None


async def test_touch_brings_back_what_is_expired_and_still_there(store, clock):
    await store.save(first("key", ttl=10))
    clock.now += 11
    await store.touch({"key": 5, "missing": 5})
    assert (await store.load("key")).ttl == 5 and await store.load("missing") is None
    clock.now += 6
    assert await store.load("key") is None


async def test_delete_asks_for_no_version(store, clock):
    for key in ("one", "two", "three", "expired"):
        await store.save(first(key, ttl=5 if key == "expired" else None, group="group"))
    clock.now += 5
    await store.delete(["one", "two", "expired", "missing"])
    assert set(await store.group("group")) == {"three"}
    with pytest.raises(VersionConflict):  # it is gone, not only expired
        await store.save(Write("expired", version(1), version(2), b"data"))


async def test_nothing_to_do_is_done(store):
    await store.save_many([])
    await store.touch({})
    await store.delete([])


async def test_save_many_makes_all_its_changes(store):
    await store.save(first("old"))
    await store.save(first("gone"))
    await store.save_many(
        [
            first("new", b"new", group="group"),
            Write("old", version(1), version(2), b"old", 10, "group"),
            Write("gone", version(1), version(2), None),
        ]
    )
    assert await store.group("group") == {
        "new": Stored(version(1), b"new", None),
        "old": Stored(version(2), b"old", pytest.approx(10)),
    }
    assert await store.load("gone") is None


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_save_many_makes_none_of_its_changes_when_one_finds_another_version(store, place):
    await store.save(first("old"))
    writes = [first("new"), Write("old", version(1), version(2), None)]
    writes.insert(place, Write("missing", version(1), version(2), b"data"))
    with pytest.raises(VersionConflict, match="missing"):
        await store.save_many(writes)
    assert await store.load("new") is None
    assert await store.load("old") == Stored(version(1), b"data", None)


async def test_of_many_that_expect_one_version_one_is_saved(store):
    async def save(number: int) -> int | None:
        try:
            await store.save(Write("key", None, version(1, str(number)), b"data"))
        except VersionConflict:
            return None
        return number

    (saved,) = [number for number in await asyncio.gather(*map(save, range(50))) if number is not None]
    assert (await store.load("key")).version == version(1, str(saved))


async def count_up(store: StateStore, times: int) -> None:
    """Adds 1 to what is stored, `times` times, each time trying until nobody else came between."""
    for _ in range(times):
        while True:
            found = await store.load("count")
            count, old = (0, None) if found is None else (int(found.data), found.version)
            with contextlib.suppress(VersionConflict):
                await store.save(Write("count", old, version(count + 1), b"%d" % (count + 1)))
                break


async def test_no_change_of_many_tasks_is_lost(store):
    await asyncio.gather(*(count_up(store, 5) for _ in range(10)))
    assert await store.load("count") == Stored(version(50), b"50", None)


async def test_a_store_serves_several_event_loops(store):
    await asyncio.gather(count_up(store, 20), *(run_in_thread(lambda: count_up(store, 20)) for _ in range(3)))
    assert await store.load("count") == Stored(version(80), b"80", None)


async def test_a_task_that_is_cancelled_while_it_waits_harms_nobody(store):
    tasks = [asyncio.create_task(store.save(first(f"key {number}"))) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for number in (0, 3):
        assert await store.load(f"key {number}") is not None
    for number in (1, 2):  # the outcome of these is unknown; whatever it was, one can go on from it
        found = await store.load(f"key {number}")
        await store.save(Write(f"key {number}", found and found.version, version(2), b"data"))


async def test_a_closed_store_may_be_opened_again(store):
    await store.save(first("before"))
    await store.close()
    await store.close()
    await store.open()
    await store.open()
    assert await store.load("before") is not None
    await store.save(first("after"))


async def test_a_store_that_is_not_open_serves_all_the_same(new_store):
    store = new_store()
    await store.close()
    await asyncio.gather(store.save(first("one", group="group")), store.save_many([first("two", group="group")]))
    await store.touch({"one": 10})
    await store.delete(["two"])
    assert await store.load("one") == Stored(version(1), b"data", pytest.approx(10))
    await store.open()
    await store.close()
    assert set(await store.group("group")) == {"one"}
    await store.close()


async def test_closing_waits_for_what_was_asked_before(new_store):
    store = new_store()
    await store.open()
    saves = [asyncio.create_task(store.save(first(f"key {number}", group="group"))) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.sleep(0)  # the answers are in the loop's queue, from before that of the closing
    assert all(save.done() for save in saves)
    assert len(await store.group("group")) == 20
    await store.close()


class Model:
    """A store's expected content: a plain dict that is searched."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[str, tuple[Version, bytes, float | None, str | None]] = {}

    def live(self) -> dict[str, Stored]:
        now = self.clock.now
        return {
            key: Stored(row[0], row[1], None if row[2] is None else pytest.approx(row[2] - now))
            for key, row in self.rows.items()
            if row[2] is None or row[2] > now
        }

    def save_many(self, writes: list[Write]) -> bool:
        live = self.live()
        for write in writes:
            held = self.rows.get(write.key) if write.expected is not None or write.key in live else None
            if write.expected != (held and held[0]):
                return False
        for write in writes:
            self.rows.pop(write.key, None)
            if write.data is not None:
                self.rows[write.key] = (write.version, write.data, self.expiry(write.ttl), write.group)
        return True

    def touch(self, ttls: dict[str, float | None]) -> None:
        for key in ttls.keys() & self.rows.keys():
            self.rows[key] = (*self.rows[key][:2], self.expiry(ttls[key]), self.rows[key][3])

    def expiry(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.clock.now + ttl


NAMES = ["a", "b", "c%", "é"]
KEYS = st.sampled_from(NAMES)
GROUPS = st.sampled_from([None, "g", "h"])
TTLS = st.sampled_from([None, 5.0, 20.0, 60.0])
# `expected` as an offset: 0 is the version that is really there, whether it has expired or not; None expects nothing.
WRITES = st.tuples(KEYS, st.sampled_from([0, 0, 0, None, 1]), st.sampled_from([b"x", b"", None]), TTLS, GROUPS)
STEPS = st.one_of(
    st.tuples(st.just("save"), st.lists(WRITES, min_size=1, max_size=3, unique_by=lambda write: write[0])),
    st.tuples(st.just("touch"), st.dictionaries(KEYS, TTLS)),
    st.tuples(st.just("delete"), st.lists(KEYS, max_size=2)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 5.0, 50.0])),  # all together less than EXPIRED_KEPT
    st.tuples(st.just("reopen"), st.none()),
)


@given(steps=st.lists(STEPS, max_size=25))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_store_does_what_a_dict_would_do(new_store, clock, steps):
    async def compare() -> None:
        store, model, numbers = new_store(), Model(clock), itertools.count(1)
        await store.open()
        await store.delete(NAMES)  # what the former example left
        for step, value in steps:
            if step == "save":
                writes = []
                for key, offset, data, ttl, group in value:
                    held = model.rows[key][0] if key in model.rows else None
                    if offset is None:
                        held = None
                    elif offset:
                        held = version((held.number if held else 0) + 1)
                    writes.append(Write(key, held, version(next(numbers) * 10), data, ttl, group))
                saved = True
                try:
                    await (store.save(writes[0]) if len(writes) == 1 else store.save_many(writes))
                except VersionConflict:
                    saved = False
                assert saved == model.save_many(writes)
            elif step == "touch":
                await store.touch(value)
                model.touch(value)
            elif step == "delete":
                await store.delete(value)
                for key in value:
                    model.rows.pop(key, None)
            elif step == "wait":
                clock.now += value
            else:
                await store.close()
                await store.open()
            live = model.live()
            for key in NAMES:
                assert await store.load(key) == live.get(key)
            for group in ("g", "h"):
                assert await store.group(group) == {k: s for k, s in live.items() if model.rows[k][3] == group}
        await store.close()

    asyncio.run(compare())


# -- stores by their URL -----------------------------------------------------------------------------------------------


async def test_a_url_names_a_store(in_tmp_path):
    assert isinstance(store_from_url("memory://"), MemoryStore)
    for url, path in [
        ("sqlite:///state.db", in_tmp_path / "state.db"),
        ("sqlite:///./odd name%20.db", in_tmp_path / "odd name%20.db"),
        (f"sqlite:///{in_tmp_path}/absolute.db", in_tmp_path / "absolute.db"),
    ]:
        store = store_from_url(url)
        assert isinstance(store, SQLiteStore)
        assert store.path == path
        await store.save(first("key"))
        assert path.exists()
        await store.close()


@pytest.mark.parametrize("url", ["memory://", "sqlite:///state.db"])
async def test_a_store_from_a_url_goes_by_the_clock_that_it_is_given(url, in_tmp_path, clock):
    store = store_from_url(url, clock)
    await store.save(first("key", ttl=10))
    assert await store.load("key") is not None
    clock.now += 10
    assert await store.load("key") is None
    await store.close()


@pytest.mark.parametrize("url", ["memory://", "sqlite:///state.db"])
async def test_a_store_from_a_url_goes_by_the_time_of_day_otherwise(url, in_tmp_path):
    store = store_from_url(url)
    before = time.time()
    await store.save(first("past", ttl=-0.001))
    await store.save(first("future", ttl=1_000))
    assert await store.load("past") is None
    found = await store.load("future")
    assert 1_000 - (time.time() - before) <= found.ttl <= 1_000
    await store.close()


@pytest.mark.parametrize(
    "url",
    ["", "memory", "memory:", "memory://x", "sqlite", "sqlite://", "sqlite:///", "sqlite://state.db", "state.db",
     "postgres://host/database", "SQLite:///state.db"],
)  # fmt: skip
def test_any_other_url_is_a_mistake_that_is_reported_at_once(url):
    with pytest.raises(ConfigurationError):
        store_from_url(url)


def test_a_store_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastlite", None)
    with pytest.raises(MissingDependencyError, match=r"faststate\[sqlite\]"):
        store_from_url("sqlite:///state.db")


def test_a_sqlite_store_in_memory_is_a_mistake():
    with pytest.raises(ConfigurationError, match="memory://"):
        store_from_url("sqlite:///:memory:")


# -- the memory store --------------------------------------------------------------------------------------------------


async def test_the_memory_store_forgets_what_expired_an_hour_ago(clock):
    store = MemoryStore(clock)
    for number in range(500):
        await store.save(first(f"key {number}", ttl=10, group=f"group {number}"))
    await store.save(first("touched", ttl=10))
    await store.touch({"touched": 20})
    clock.now += 10 + EXPIRED_KEPT
    for number in range(10):  # each write clears a part
        await store.save(first(f"later {number}"))
    assert len(store) == 11
    assert not store._groups
    with pytest.raises(VersionConflict):
        await store.save(Write("key 0", version(1), version(2), b"data"))
    await store.save(Write("touched", version(1), version(2), b"data"))


async def test_a_state_that_is_touched_for_ever_takes_no_more_memory(clock):
    store = MemoryStore(clock)
    await store.save(first("key", ttl=10))
    for _ in range(1_000):
        clock.now += 1
        await store.touch({"key": 10})
    assert len(store._due) < 200
    assert await store.load("key") is not None


# -- the SQLite store --------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[apsw.Connection]:
    """The connections that SQLite stores make from now on."""
    made: list[apsw.Connection] = []
    database = fastlite.database

    def recorded(path: Path) -> Any:
        db = database(path)
        made.append(db.conn)
        return db

    monkeypatch.setattr(fastlite, "database", recorded)
    return made


class Watched:
    """An open SQLite store whose thread is idle, with the first word of each statement that it executes."""

    def __init__(self, store: SQLiteStore, connection: apsw.Connection) -> None:
        self.store = store
        self.connection = connection
        self.statements: list[str] = []
        self.before: Callable[[str], object] = lambda word: None
        connection.exec_trace = self._record

    def _record(self, cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        word = statement.split()[0]
        self.statements.append(word)
        self.before(word)
        return True

    async def at_once(self, *questions: Any) -> list[Any]:
        """Lets all questions wait for the thread together; returns the answers, exceptions among them."""
        taken = threading.Event()
        self.before = lambda word: taken.set()
        with locked(self.store.path):
            decoy = asyncio.create_task(self.store.delete(["decoy"]))
            assert await asyncio.to_thread(taken.wait, 10)  # the thread waits for the file, with this alone
            self.statements.clear()
            tasks = [asyncio.create_task(question) for question in questions]
            await asyncio.sleep(0)
        await decoy
        return await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SQLiteStore]:
    """A store that is open until the end of the block."""
    store = SQLiteStore(path, **options)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def watched(path: Path, clock: Clock, connections: list[apsw.Connection]) -> AsyncIterator[Watched]:
    async with opened(path, clock=clock) as store:
        await store.load("key")  # which is answered after the first look for what has expired
        yield Watched(store, connections[0])


@pytest.fixture
def file_store(watched: Watched) -> SQLiteStore:
    return watched.store


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program writes to the file: who wants to write has to wait."""
    other = apsw.Connection(str(path))
    other.set_busy_timeout(10_000)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def rows(path: Path) -> int:
    """How many rows the file has, expired or not."""
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    ((count,),) = reader.execute("SELECT count(*) FROM faststate_states")
    reader.close()
    return count


async def test_states_survive_closing_and_another_store_finds_them(path, clock):
    async with opened(path, clock=clock) as store:
        await store.save(first("key", b"data", 10, "group"))
    other = SQLiteStore(str(path), clock=clock)
    clock.now += 4
    assert await other.group("group") == {"key": Stored(version(1), b"data", pytest.approx(6))}
    await other.close()


async def test_an_answered_save_is_on_the_disk(watched):
    assert watched.connection.pragma("journal_mode") == "wal"
    assert watched.connection.pragma("synchronous") == 2  # FULL


async def test_what_waits_together_shares_a_transaction(watched, path):
    answers = await watched.at_once(*(watched.store.save(first(f"key {number}")) for number in range(100)))
    assert answers == [None] * 100
    assert watched.statements.count("COMMIT") == 2  # one is the decoy's
    assert rows(path) == 100


async def test_a_transaction_has_its_limits(watched, path, monkeypatch):
    monkeypatch.setattr(sqlite_file, "BATCH", 10)
    await watched.at_once(*(watched.store.save(first(f"key {number}")) for number in range(95)))
    assert watched.statements.count("COMMIT") == 1 + 10
    assert rows(path) == 95


async def test_what_is_asked_later_sees_what_was_saved_before(watched):
    store = watched.store
    answers = await watched.at_once(
        store.load("key"),
        store.save(first("key", b"one")),
        store.load("key"),
        store.save(Write("key", version(1), version(2), b"two")),
        store.save(Write("key", version(1), version(2), b"three")),
        store.load("key"),
    )
    conflict = answers.pop(4)
    assert isinstance(conflict, VersionConflict)
    assert answers == [None, None, Stored(version(1), b"one", None), None, Stored(version(2), b"two", None)]


async def test_a_request_that_cannot_be_done_fails_alone(watched, path):
    store = watched.store
    watched.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 10_000)
    answers = await watched.at_once(
        store.save(first("before")),
        store.save_many([first("with it"), first("big", b"x" * 20_000)]),
        store.save(first("\ud800", b"not even text")),
        store.save(first("after")),
        store.save(first("after")),
    )
    assert answers[0] is answers[3] is None
    assert [type(answer) for answer in answers[1:3]] == [PersistenceError, PersistenceError]
    assert isinstance(answers[1].__cause__, apsw.TooBigError)
    assert isinstance(answers[2].__cause__, UnicodeEncodeError)
    assert isinstance(answers[4], VersionConflict)
    assert await store.load("with it") is None
    assert rows(path) == 2


async def test_who_lost_to_a_request_that_failed_in_the_end_has_not_lost(watched):
    refusals = iter([True, True])  # the commit of both, and that of the first alone

    def refuse() -> bool:
        return "SELECT" in watched.statements and next(refusals, False)  # the decoy asks for no version

    watched.connection.set_commit_hook(refuse)
    failed, saved = await watched.at_once(
        watched.store.save(first("key", b"one")), watched.store.save(first("key", b"two"))
    )
    assert isinstance(failed, PersistenceError)
    assert not isinstance(failed, VersionConflict)
    assert saved is None
    assert await watched.store.load("key") == Stored(version(1), b"two", None)


async def test_a_full_disk_fails_what_does_not_fit_and_the_store_goes_on(watched, path):
    store, connection = watched.store, watched.connection
    connection.pragma("max_page_count", connection.pragma("page_count") + 20)
    big = first("big", b"x" * 1_000_000)
    answers = await watched.at_once(store.save(first("one")), store.save(big), store.save(first("two")))
    assert answers[0] is answers[2] is None
    assert isinstance(answers[1], PersistenceError)
    assert isinstance(answers[1].__cause__, apsw.FullError)
    assert str(path) in str(answers[1])
    assert await store.load("big") is None
    connection.pragma("max_page_count", 1_000_000)
    await store.save(big)
    assert rows(path) == 3


async def test_a_file_that_another_program_keeps_locked_is_an_error_and_not_a_hang(watched, path):
    await watched.store.save(first("key"))
    watched.connection.set_busy_timeout(0)
    with locked(path):
        watched.statements.clear()
        answers = await asyncio.gather(*(watched.store.delete(["key"]) for _ in range(5)), return_exceptions=True)
        assert [type(answer.__cause__) for answer in answers] == [apsw.BusyError] * 5
        assert len(watched.statements) <= 2  # they wait for the file together, and not one after the other
        assert await watched.store.load("key") is not None  # reading goes on
    await watched.store.delete(["key"])


async def test_the_loop_goes_on_while_the_file_is_waited_for(file_store, path):
    with locked(path):
        saving = asyncio.create_task(file_store.save(first("key")))
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert not saving.done()
    await saving


async def test_a_request_is_done_though_its_task_was_cancelled(file_store, path):
    with locked(path):
        saving = asyncio.create_task(file_store.save(first("key")))
        await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    assert await file_store.load("key") is not None


async def test_a_loop_that_is_closed_before_its_answer_comes_harms_nobody(file_store, path):
    async def leave() -> None:
        saving = asyncio.create_task(file_store.save(first("theirs")))
        await asyncio.sleep(0)
        assert not saving.done()

    with locked(path):
        await run_in_thread(leave)
        ours = asyncio.create_task(file_store.save(first("ours")))
        await asyncio.sleep(0)
    await ours
    assert await file_store.load("theirs") is not None


@pytest.mark.parametrize("portion", [2, 500])
async def test_rows_that_expired_an_hour_ago_are_deleted_in_portions(file_store, path, clock, monkeypatch, portion):
    monkeypatch.setattr(sqlite_file, "PURGE_PORTION", portion)
    for number in range(7):
        await file_store.save(first(f"key {number}", ttl=10))
    await file_store.save(first("for ever"))
    await file_store.save(first("not yet", ttl=11))
    clock.now += 9 + EXPIRED_KEPT
    for _ in range(10):
        assert await file_store.load("key 0") is None
    assert rows(path) == 9
    clock.now += sqlite_file.PURGE_INTERVAL - 1  # an hour has passed, but the last look was less than a minute ago
    for _ in range(10):
        assert await file_store.load("key 0") is None
    assert rows(path) == 9
    clock.now += 1
    for _ in range(10):  # what is asked goes first, so that each may clear one portion only
        assert await file_store.load("key 0") is None
    assert rows(path) == 1


async def test_who_asks_does_not_wait_for_all_that_has_expired_to_be_deleted(watched, clock, monkeypatch):
    monkeypatch.setattr(sqlite_file, "PURGE_PORTION", 1)
    for number in range(5):
        await watched.store.save(first(f"key {number}", ttl=10))
    asked, later = threading.Event(), clock.now + 10 + EXPIRED_KEPT

    def before(word: str) -> None:
        if word == "COMMIT":
            clock.now = later
        elif word == "DELETE":
            assert asked.wait(10)

    watched.before = before
    watched.statements.clear()
    await watched.store.load("key 0")
    loading = asyncio.create_task(watched.store.load("key 0"))
    await asyncio.sleep(0)
    asked.set()
    await loading
    assert watched.statements[:7] == ["BEGIN", "SELECT", "COMMIT", "DELETE", "BEGIN", "SELECT", "COMMIT"]


async def test_a_failing_cleanup_is_logged_and_fails_nobody(watched, path, clock, caplog):
    await watched.store.save(first("key", ttl=10))

    def refuse(operation: int, *_: Any) -> int:
        return apsw.SQLITE_DENY if operation == apsw.SQLITE_DELETE else apsw.SQLITE_OK

    watched.connection.authorizer = refuse
    clock.now += 20 + EXPIRED_KEPT
    assert await watched.store.load("key") is None
    assert await watched.store.load("key") is None
    assert [record.name for record in caplog.records if record.name != "apsw"] == ["faststate"]
    assert str(path) in caplog.text


# -- who owns the file -------------------------------------------------------------------------------------------------

OWNER = """
import asyncio, sys
from faststate.stores.sqlite import SQLiteStore

async def own():
    store = SQLiteStore(sys.argv[1], handover=0)
    await store.open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(own())
"""


def script(source: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script on the file in another process."""
    return subprocess.run([sys.executable, "-c", source, str(path)], capture_output=True, text=True, timeout=50)


def assert_rows_of(source: str, path: Path, number: int) -> None:
    """Run a script on the file in another process, and see that it succeeds and leaves this many rows."""
    done = script(source, path)
    assert done.returncode == 0, done.stderr
    assert rows(path) == number


@contextlib.contextmanager
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the file open, until it is killed."""
    command = [sys.executable, "-c", OWNER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_second_store_in_the_process_is_refused_and_told_of_redis(path):
    store, second = SQLiteStore(path), SQLiteStore(path, handover=0)
    await store.open()
    for refused in (second.open(), second.load("key"), second.save(first("key"))):
        with pytest.raises(PersistenceError, match=r"state\.db belongs to another process.*Redis.*redis://") as caught:
            await refused
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    await second.close()
    assert await store.load("key") is None
    await store.close()
    await second.save(first("key"))
    await second.close()


async def test_two_paths_to_one_file_are_one_store(path):
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with opened(path):
        with pytest.raises(PersistenceError, match="belongs to"):
            await SQLiteStore(link, handover=0).open()


def test_a_second_process_is_refused_and_told_of_redis(path):
    with owner(path):
        with pytest.raises(PersistenceError, match=r"belongs to another process.*Redis"):
            asyncio.run(SQLiteStore(path, handover=0).open())
        late = script(OWNER, path)
        assert late.returncode
        assert "belongs to another process" in late.stderr


def test_the_file_is_free_when_its_owner_was_killed(path):
    async def use() -> None:
        async with opened(path, handover=0) as store:
            await store.save(first("key"))

    with owner(path) as process:
        process.kill()
        process.wait()
        asyncio.run(use())


async def test_opening_waits_for_an_owner_that_is_about_to_end(path):
    store, successor = SQLiteStore(path), SQLiteStore(path, handover=50)
    await store.open()
    opening = asyncio.create_task(successor.open())
    for _ in range(1_000):  # the loop goes on meanwhile
        await asyncio.sleep(0)
    assert not opening.done()
    await store.save(first("key"))
    await store.close()
    await opening
    assert await successor.load("key") is not None
    await successor.close()


async def test_a_store_that_is_not_open_leaves_the_file_to_others(path):
    store, other = SQLiteStore(path), SQLiteStore(path)
    await store.save(first("key"))
    await other.open()
    assert await other.load("key") is not None
    await other.close()
    await store.open()
    await store.close()
    await store.load("key")
    await other.open()
    await other.close()


async def test_a_store_that_is_opened_while_it_closes_is_open(path):
    store = SQLiteStore(path)
    await store.open()
    await asyncio.gather(store.save(first("key")), store.close(), store.open(), store.load("key"))
    with pytest.raises(PersistenceError, match="belongs to"):
        await SQLiteStore(path, handover=0).open()
    await store.close()


async def test_a_store_that_is_dropped_leaves_the_file_to_others(path):
    store = SQLiteStore(path)
    await store.open()
    del store
    gc.collect()
    other = SQLiteStore(path)
    await other.open()
    await other.close()


async def test_closing_leaves_no_thread_and_no_journal(path):
    before = threading.enumerate()  # one of a store that was dropped may be about to end
    async with opened(path) as store:
        await store.save(first("key"))
        (thread,) = [each for each in threading.enumerate() if each.name == "faststate state.db" and each not in before]
        assert {file.name for file in path.parent.glob("state.db-owner*")} == {"state.db-owner"}
    await asyncio.to_thread(thread.join)
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db", "state.db-owner"]


def test_other_programs_can_read_while_the_file_is_owned(path):
    reading = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT key, number, data FROM faststate_states").fetchall())
"""

    async def own() -> subprocess.CompletedProcess[str]:
        async with opened(path) as store:
            await store.save(first("key"))
            done = await asyncio.to_thread(script, reading, path)
            await store.save(Write("key", version(1), version(2), b"data"))
        return done

    done = asyncio.run(own())
    assert done.stdout == "[('key', 1, b'data')]\n", done.stderr


def test_a_process_that_ends_without_closing_is_not_held_up_and_loses_nothing(path):
    assert_rows_of(
        """
import asyncio, sys
from faststate.stores import Version, Write
from faststate.stores.sqlite import SQLiteStore

async def main():
    await store.open()
    await store.save(Write("key", None, Version("life", 1), b"data"))

store = SQLiteStore(sys.argv[1])
asyncio.run(main())
""",
        path,
        1,
    )


def test_what_was_answered_before_a_kill_is_found_after_it(path):
    source = """
import asyncio, sys
from faststate.stores import Version, Write
from faststate.stores.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    old, number = None, 0
    while True:
        number += 1
        new = Version("life", number)
        await store.save_many([Write(key, old, new, b"x" * 5_000) for key in ("one", "two")])
        old = new
        print(number, flush=True)

asyncio.run(main())
"""
    command = [sys.executable, "-c", source, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        answered = [int(process.stdout.readline()) for _ in range(200)]
        process.kill()
        answered += [int(line) for line in process.stdout.read().split("\n")[:-1]]

    async def numbers() -> set[int]:
        store = SQLiteStore(path)
        found = [await store.load(key) for key in ("one", "two")]
        await store.close()
        return {stored.version.number for stored in found if stored is not None}

    (number,) = asyncio.run(numbers())
    assert answered[-1] <= number <= answered[-1] + 1


FORK = """
import asyncio, os, sys, traceback
from faststate.exceptions import PersistenceError
from faststate.stores import Version, Write
from faststate.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1], handover=0)

def run(coroutine):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()

async def save(key):
    await store.save(Write(key, None, Version("life", 1), b"data"))

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@forks
def test_a_store_that_was_used_before_a_fork_serves_both_processes(path):
    assert_rows_of(
        FORK
        + """
def child():
    run(save("child"))
    run(store.close())

run(save("before"))
run(store.close())
in_child(child)
run(save("after"))
""",
        path,
        3,
    )


@forks
def test_a_store_that_is_open_while_the_process_forks_stays_the_parents(path):
    assert_rows_of(
        FORK
        + """
def child():
    for used in (store, SQLiteStore(sys.argv[1], handover=0)):
        try:
            run(used.load("before"))
        except PersistenceError as error:
            assert "belongs to another process" in str(error)
        else:
            raise AssertionError("the child has the file too")

run(store.open())
run(save("before"))
in_child(child)
run(save("after"))
run(store.close())
in_child(lambda: run(save("of a child that was born later")))
""",
        path,
        3,
    )


# -- files that cannot be used -----------------------------------------------------------------------------------------


def make_database(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


async def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to look like one to SQLite. " * 50)
    make_database(tmp_path / "newer.db", "PRAGMA user_version = 99")
    make_database(tmp_path / "other.db", "CREATE TABLE orders (id)")
    for name, reason in [
        (".", "is a directory"),
        ("missing/state.db", "there is no directory"),
        ("text/state.db", "there is no directory"),
        ("text", "not a database"),
        ("newer.db", "format 99, and this version of FastState knows 1"),
        ("other.db", "another program's database"),
    ]:
        store = SQLiteStore(tmp_path / name, handover=0)
        for refused in (store.open(), store.load("key")):
            with pytest.raises(PersistenceError, match=reason) as caught:
                await refused
            assert str(store.path) in str(caught.value) or str(store.path.parent) in str(caught.value)
        await store.close()
    assert not (tmp_path / "missing").exists()


async def test_a_file_that_can_only_be_read_is_refused(path, monkeypatch):
    store = SQLiteStore(path)
    await store.save(first("key"))
    await store.close()
    database = fastlite.database
    monkeypatch.setattr(fastlite, "database", lambda path: database(path, wal=False, flags=apsw.SQLITE_OPEN_READONLY))
    with pytest.raises(PersistenceError, match=r"state\.db is read-only"):
        await SQLiteStore(path).open()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_or_file_without_write_permission_is_refused(tmp_path):
    path = tmp_path / "closed" / "state.db"
    path.parent.mkdir()
    store = SQLiteStore(path)
    await store.save(first("key"))
    await store.close()
    path.chmod(0o444)
    with pytest.raises(PersistenceError, match=r"state\.db is read-only"):
        await store.open()
    path.parent.chmod(0o555)
    for file in (path, path.with_name("new.db")):
        with pytest.raises(PersistenceError, match=file.name):
            await SQLiteStore(file).open()
    path.parent.chmod(0o755)


async def test_a_file_that_was_mended_is_opened(tmp_path):
    store = SQLiteStore(tmp_path / "missing" / "state.db")
    with pytest.raises(PersistenceError):
        await store.open()
    store.path.parent.mkdir()
    await store.open()
    await store.save(first("key"))
    await store.close()


async def test_all_that_wait_for_a_file_that_cannot_be_opened_are_told(tmp_path):
    store = SQLiteStore(tmp_path / "missing" / "state.db")
    *failed, closed = await asyncio.gather(
        store.open(), store.load("key"), store.save(first("key")), store.close(), return_exceptions=True
    )
    assert closed is None
    assert [type(error) for error in failed] == [PersistenceError] * 3
    assert len({id(error) for error in failed}) == 3  # each its own, as each gets a traceback of its own


async def test_a_machine_without_a_thread_to_spare_is_an_error_and_not_a_hang(path, monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = SQLiteStore(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(PersistenceError, match="thread"):
            await store.load("key")
    assert await store.load("key") is None
    await store.close()


async def test_nothing_is_acknowledged_when_the_file_was_deleted_or_replaced(tmp_path):
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await store.save(first("one"))
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(PersistenceError, match="moved, replaced or deleted"):
            await store.save(first("two"))
        path.write_bytes(kept)  # another file, though it looks the same
        with pytest.raises(PersistenceError, match="moved, replaced or deleted"):
            await store.save(first("two"))
