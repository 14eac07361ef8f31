"""The benchmarks run, from the servers to the table: small, since the numbers are none of a test's business."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import client, fairness, sharing
from benchmarks.delivery import Bench, Scale, deliver, delivered, unconcerned
from benchmarks.events import in_process, over_http
from benchmarks.journeys import journeys
from benchmarks.million import Costs
from benchmarks.servers import SERVERS
from benchmarks.table import DIRECT, FASTHTML, FLOOR, PORTABLE, Row, table
from tests.support.redis_server import require_redis

pytestmark = pytest.mark.long

TINY = Scale(repeat=1, small=20, large=20, many=20, updates=40, burst=20, record_watchers=5)


@pytest.mark.timeout(180)  # servers are started, maybe on a machine that has other things to do
def test_a_delivery_is_measured_from_the_servers_to_the_table():
    cores = os.sched_getaffinity(0)
    bench = Bench(("floor", "faststate"), progress=False)
    with bench.load():
        rows = [*delivered(bench, 20, TINY, bursts=True), *unconcerned(bench, TINY)]
    assert os.sched_getaffinity(0) == cores
    assert {DIRECT, FLOOR} <= rows[0].values.keys()
    for row in rows:
        assert all(math.isfinite(row.value(who)) for who in row.values)
    assert rows[0].value(DIRECT) > 0 < rows[0].value(FLOOR)
    assert table(rows).count("\n") == len(rows) + 1


@pytest.mark.timeout(180)
def test_an_event_is_measured_over_http_and_reaches_its_stream():
    *to_nobody, brought = rows = over_http(Bench(progress=False), repeat=1, events=40)
    assert brought.values.keys() == {DIRECT, FASTHTML}
    assert all(row.values.keys() == {DIRECT, FASTHTML, FLOOR} for row in to_nobody)
    for row in rows:
        assert all(row.value(who) > 0 for who in row.values)


async def test_an_event_is_measured_in_one_process():
    for row in await in_process(rounds=1):
        assert row.values.keys() == {DIRECT, FASTHTML, FLOOR}
        assert all(row.value(who) > 0 for who in row.values)


async def test_the_journeys_of_a_click_a_page_and_a_stream_are_followed():
    found = await journeys()
    assert found.keys() == {"click", "page", "stream"}
    for journey in found.values():
        assert 0 < len(journey.files) < journey.number


@pytest.mark.timeout(180)
def test_what_sharing_costs_is_measured():
    require_redis()
    found = sharing.measured(Bench(progress=False), repeat=1, events=64, changes=10, streams=4)
    assert all(math.isfinite(value) for value in found) and found.redis_event > 0 < found.message
    assert 0.3 < found.redis_state_kb < 3
    assert set(found._fields) <= {field.name for field in fields(Costs)}, "the plan knows them by these names"


@pytest.mark.timeout(180)
def test_a_visitors_latency_beside_a_flood_is_measured():
    found = fairness.measured(clicks=3, flood=10)
    assert len(found) == 4
    assert all(0 < latency.p50 <= latency.p99 <= latency.worst for latency in found.values())
    assert not any(latency.refused for latency in found.values())


@pytest.mark.timeout(180)
def test_what_a_page_costs_in_the_browser_is_measured():
    if not Path(client.DATASTAR).is_file() or shutil.which("chromium") is None:
        pytest.skip("there is no Chromium, or no copy of Datastar")
    found = dict(client.measured(tabs=3, idle=1.0))
    assert len(found) == 8
    assert int(found["HTML of the page"].replace(",", "")) < 2_000


def test_a_stream_that_never_has_what_changed_is_reported(monkeypatch):
    monkeypatch.setattr("benchmarks.load.PATIENCE", 0.2)
    bench = Bench(("floor",), progress=False)
    with bench.life(SERVERS["floor"]) as (server, crowd):
        crowd.open(bench.doors(SERVERS["floor"], 3))
        deliver(server, crowd, 1)
        trigger, _ = server.change()
        try:
            crowd.deliver(trigger, "~another~")
        except TimeoutError as error:
            assert "3 of 3" in str(error)
        else:
            raise AssertionError("it was not noticed")


def test_a_row_says_the_median_of_the_ratios_and_what_misses_its_aim():
    row = Row(
        "work: µs", {FLOOR: [1, 10, 2], DIRECT: [2, 11, 2], PORTABLE: [3, 30, 6]}, FLOOR, {DIRECT: 1.15, PORTABLE: 2}
    )
    assert (row.value(DIRECT), row.ratio(DIRECT), row.misses(DIRECT)) == (2, 1.1, False)
    assert row.misses(PORTABLE)
    line = table([row]).splitlines()[-1]
    assert line == "| work: µs | 2.00 (1.00) | **6.00 (3.00)** | 2.00 (1.10) | ratio ≤ 1.15, ratio ≤ 2 portable |"
