"""Sessions that come and go leave nothing behind: not in memory, not in the store. The benchmark's soak, cut short."""

from __future__ import annotations

import contextlib
import time

import apsw
import pytest

from benchmarks.soak import ARRIVALS, TTL, Memory, Soak

ALIVE = (TTL + 60) * ARRIVALS  # sessions at a time: those of the last minutes
LEFT = 700  # blocks that Python's own caches may have grown by: of one state in a hundred there would be twice as many


@pytest.fixture
async def soaks(in_tmp_path):
    """Makes a soak that is stopped at the end of the test."""
    made = []

    async def make(path=None):
        made.append(Soak(path))
        await made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.stop()


def assert_it_is_as_before(soak, sizes, before):
    assert soak.sizes() == sizes
    after = Memory.now(soak.provider)
    assert (after.states, before.states) == (0, 0)
    assert after.blocks - before.blocks < LEFT


@pytest.mark.timeout(120)
async def test_50_000_sessions_come_and_go_and_memory_is_what_it_was(soaks):
    soak = await soaks()
    sizes, before = soak.sizes(), Memory.now(soak.provider)
    for kind, number in ((soak.browse, 300), (soak.modify, 4_700), (soak.make, 45_000)):
        await soak.visits(number, kind)
    assert soak.provider.stats().expired > 50_000 - ALIVE
    assert ALIVE / 2 < soak.peak.states < ALIVE
    assert soak.peak.blocks - before.blocks > 100 * LEFT
    await soak.quiet()
    assert_it_is_as_before(soak, sizes, before)


@pytest.mark.timeout(120)
async def test_8_000_stored_sessions_come_and_go_and_neither_memory_nor_the_file_keeps_them(soaks, tmp_path):
    path = tmp_path / "state.db"
    soak = await soaks(path)
    sizes, before = soak.sizes(), Memory.now(soak.provider)
    filled = []
    for _ in range(2):
        await soak.visits(100, soak.browse)
        await soak.visits(3_900, soak.modify)
        assert rows(path) > 3_900
        filled.append(pages(path))
        await soak.quiet()
        await emptied(soak, path)
    assert_it_is_as_before(soak, sizes, before)
    assert filled[1] < 1.5 * filled[0], filled  # the second four thousand are where the first were


def rows(path):
    return ask(path, "SELECT count(*) FROM faststate_states")


def pages(path):
    """The file's size in pages, with those that are only in its log yet."""
    return ask(path, "PRAGMA page_count")


def ask(path, query):
    # By the very SQLite that the store uses: a second one in this process, as Python's own, would break its locks.
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(query).fetchone()[0]


async def emptied(soak, path):
    """Waits until the store has deleted what expired long ago, which it does when it is asked something."""
    deadline = time.monotonic() + 20
    while rows(path):
        assert time.monotonic() < deadline
        await soak.provider.store.load("anything")
