"""Sessions that come and go leave nothing behind: not in memory, not in the store. The benchmark's soak, cut short."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import time
from functools import partial

import apsw
import pytest

from benchmarks.soak import ARRIVALS, TTL, Memory, Soak
from faststate.auth.tokens import VerifiedTexts
from tests.support.forks import Fork

pytestmark = pytest.mark.long

TIME = 120  # seconds for a test
ALIVE = (TTL + 60) * ARRIVALS  # sessions at a time: those of the last minutes
LEFT = 500  # blocks that Python itself may have grown by: of one state in a hundred there would be twice as many


@pytest.fixture
def alone(tmp_path):
    """Runs a function in a process of its own, whose memory no other test has had a part in."""

    def run(check, *arguments):
        fork = Fork(partial(_run, check, *arguments), cwd=tmp_path, env=os.environ, log=tmp_path / "log")
        try:
            assert fork.wait(TIME - 10) == 0, (tmp_path / "log").read_text()
        finally:
            fork.kill_all()

    return run


def _run(check, *arguments):
    asyncio.run(check(*arguments))


@contextlib.asynccontextmanager
async def soaking(path=None):
    """A soak that has started, and is stopped."""
    soak = Soak(path)
    await soak.start()
    yield soak
    await soak.stop()


async def without_caches(soak):
    """The memory of this moment, without what is kept of the last results, tokens and cookies: their number is bounded,
    and so few sessions do not reach it."""
    for each in gc.get_objects():
        if isinstance(each, functools._lru_cache_wrapper) and str(each.__module__).startswith("faststate"):
            assert each.cache_info().maxsize is not None, each
            each.cache_clear()
        elif isinstance(each, VerifiedTexts):
            each._kept.clear()
    if soak.provider.store is not None:
        await soak.provider.store.load("anything")  # its thread holds on to its last requests
    for _ in range(1_000):  # the loop holds on to timers that were not needed, until they are more than half of all
        asyncio.get_running_loop().call_later(3_600, print).cancel()
    await asyncio.sleep(0)
    gc.collect()  # what only a first collection makes garbage of goes with a second
    return Memory.now(soak.provider)


async def assert_it_is_as_before(soak, sizes, before):
    assert soak.sizes() == sizes, (soak.sizes(), sizes)
    deadline = time.monotonic() + 10
    while abs((after := await without_caches(soak)).blocks - before.blocks) >= LEFT and time.monotonic() < deadline:
        pass  # what other threads have just let go of may be counted yet
    assert (after.states, before.states) == (0, 0)
    assert abs(after.blocks - before.blocks) < LEFT, (before, after)


@pytest.mark.timeout(TIME)
def test_50_000_sessions_come_and_go_and_memory_is_what_it_was(alone):
    alone(come_and_go)


async def come_and_go():
    async with soaking() as soak:
        sizes, before = soak.sizes(), await without_caches(soak)
        for kind, number in ((soak.browse, 300), (soak.modify, 4_700), (soak.make, 45_000)):
            await soak.visits(number, kind)
        assert soak.provider.stats().expired > 50_000 - ALIVE
        assert ALIVE / 2 < soak.peak.states < ALIVE, soak.peak
        assert soak.peak.blocks - before.blocks > 100 * LEFT, (before, soak.peak)
        await soak.quiet()
        await assert_it_is_as_before(soak, sizes, before)


@pytest.mark.timeout(TIME)
def test_8_000_stored_sessions_come_and_go_and_neither_memory_nor_the_file_keeps_them(alone, tmp_path):
    alone(come_and_go_stored, tmp_path / "state.db")


async def come_and_go_stored(path):
    async with soaking(path) as soak:
        sizes, before = soak.sizes(), await without_caches(soak)
        filled = []
        for _ in range(2):
            await soak.visits(100, soak.browse)
            await soak.visits(3_900, soak.modify)
            assert rows(path) > 3_900
            filled.append(pages(path))
            await soak.quiet()
            await emptied(soak, path)
        await assert_it_is_as_before(soak, sizes, before)
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
