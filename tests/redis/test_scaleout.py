"""The benchmark of many processes runs, from the servers to the table; the numbers are none of a test's business."""

import math

import pytest

from benchmarks.delivery import Bench
from benchmarks.scaleout import BARE, COLUMNS, MEMORY, OTHER, SAME, Bed, Engine, Scale, event_and_delivery, throughput
from benchmarks.table import table

TINY = Scale(repeat=1, events=20, rounds=2)


@pytest.mark.long
@pytest.mark.usefixtures("shared_redis")  # which skips the test where there is no Redis
def test_what_many_processes_cost_is_measured():
    bench = Bench((), progress=False)
    with Engine() as engine, bench.load():
        bed = Bed(engine, bench)
        delivered, busy = list(event_and_delivery(bed, TINY)), list(throughput(bed, TINY, (2,)))
    assert {BARE, MEMORY, SAME, OTHER} == delivered[0].values.keys()
    for row in delivered + busy:
        assert all(math.isfinite(row.value(who)) and row.value(who) > 0 for who in row.values)
    assert table(delivered + busy, COLUMNS).count("\n") == len(delivered + busy) + 1
