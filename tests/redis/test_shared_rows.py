"""Rows of a database that all workers change: each change once, and a worker that dies behind the row's save."""

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence

import pytest

from faststate.records.sources import RowChange
from faststate.records.table import TableRecords

from .cluster import until
from .stage import stage
from .web import CutOff

ROWS = [("Line", "add"), ("Line", "add_in_a_thread"), ("Line", "add_in_two_steps")]


async def test_no_change_of_a_row_is_lost_or_made_twice(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, lines=4) as on:
        begun = time.monotonic()
        await on.crowd.work(500, ROWS)
        await on.crowd.settle()
        on.report("rows", begun)
        assert not on.crowd.refusals and on.crowd.opened == len(on.crowd.tabs)


def wait_behind_the_row() -> None:
    """Let a worker with a file `behind-the-row` in its directory wait for ever when it has saved a row."""
    save = TableRecords.save

    async def save_and_wait(self: TableRecords, changes: Sequence[RowChange]) -> Sequence[int | None]:
        versions = await save(self, changes)
        with contextlib.suppress(FileNotFoundError):
            os.rename("behind-the-row", "saved")
            await asyncio.sleep(3600)
        return versions

    TableRecords.save = save_and_wait


async def test_a_worker_killed_behind_a_rows_save_leaves_a_row_that_all_agree_on(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24, lines=4, flaw=wait_behind_the_row) as on:
        crowd, victim = on.crowd, on.cluster.serving[0]
        await crowd.work(100, ROWS)
        (tmp_path / "behind-the-row").touch()
        tab = await crowd.outsider(victim)
        event = crowd.event(tab, "Line", "add")
        sending = on.start(tab.send(event, once=True))
        await until(lambda: (tmp_path / "saved").exists(), "a saved row")
        on.cluster.serving.remove(victim)
        begun = time.monotonic()
        victim.kill()
        with pytest.raises(CutOff):
            await sending
        await crowd.do(crowd.tabs[0], "Line", "add")
        print(f"the lock was free after {time.monotonic() - begun:.2f} s")
        await crowd.work(100, ROWS)
        await crowd.settle()
        seen = await crowd.look(crowd.tabs[0], on.cluster.serving[0])
        assert event.number in seen["Line"].found.numbers
