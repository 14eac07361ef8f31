"""The plan for a million: its arithmetic, by hand and by chance, and that it reads what was measured."""

import pytest

from benchmarks.million import (
    HEADINGS,
    LOADS,
    Costs,
    Load,
    needed,
    reached,
    reached_by_chance,
    read,
    served_again,
    table,
)

pytestmark = pytest.mark.long

PLAIN = Costs(
    stream_kb=10, update=10, event=200, page=1_000, reconnect=500, shared_event=100, message=50, load=100,
    redis_event=40, redis_message=4, redis_load=10, redis_beat=2, process_mb=100, redis_state_kb=1,
    streams_per_process=1_000, heartbeat=10, max_age=1_000, busy=0.5,
)  # fmt: skip


@pytest.mark.parametrize(("watchers", "processes"), [(1, 1), (1, 8), (5, 1), (5, 8), (50, 8), (50, 100)])
def test_as_many_processes_are_told_as_have_a_watcher(watchers, processes):
    assert reached(watchers, processes) == pytest.approx(reached_by_chance(watchers, processes), rel=0.02)


def test_one_process_needs_no_redis():
    need = needed(Load("", 1_000, 1 / 100, 2, 0.5, 1 / 100), PLAIN)
    # 10 events and half a broadcast, 20 + 500 updates, 100 signs of life, 10 pages, 11 streams opened
    assert need.cores == pytest.approx((10.5 * 200 + 620 * 10 + 10 * 1_000 + 11 * 500) / 1e6)
    assert (need.processes, need.events, need.deliveries) == (1, 10.5, 520)
    assert need.gigabytes == pytest.approx(1_000 * 10e-6 + 0.1)
    assert (need.redis_calls, need.redis_messages, need.redis_cores, need.redis_gigabytes) == (0, 0, 0, 0)


def test_several_processes_pay_for_redis_and_tell_each_other():
    need = needed(Load("", 4_000, 1 / 100, 1, 0, 0, states=3), PLAIN)
    # 40 events, each seen by one stream in one process; 400 signs of life; 4 streams opened
    assert need.processes == 4
    assert (need.redis_calls, need.redis_messages) == (2 * 40 + 3 * 2 * 4, 40)
    assert need.cores == pytest.approx((40 * 300 + 440 * 10 + 4 * 500 + 40 * 50 + 24 * 100) / 1e6)
    assert need.redis_cores == pytest.approx((40 * 40 + 40 * 4 + 24 * 10 + 4 * 4 * 2) / 1e6)
    assert need.redis_gigabytes == pytest.approx(4_000 * 3e-6)
    assert need.gigabytes == pytest.approx(4_000 * 10e-6 + 4 * 0.1)


def test_a_broadcast_reaches_every_process_once():
    need = needed(Load("", 4_000, 0, 1, 2, 0), PLAIN)
    assert (need.redis_messages, need.deliveries) == (2 * need.processes, 8_000)


def test_there_are_as_many_processes_as_the_work_needs():
    need = needed(Load("", 2_000, 2, 5), PLAIN)
    assert need.processes > 2
    assert need.cores <= PLAIN.busy * need.processes
    fewer = needed(Load("", 2_000, 2, 5), Costs(**{**vars(PLAIN), "busy": 1.0}))
    assert fewer.processes < need.processes


def test_streams_are_served_again_when_their_pages_have_waited_and_their_turn_comes():
    # Pages try after 1, 3, 7, 12, 17... seconds; a stream is 500 µs, and with Redis two questions of 100 more
    load = Load("", 1_000, 0)
    assert served_again(load, 1, 0, PLAIN) == pytest.approx(1 + 0.5)
    assert served_again(load, 1, 1, PLAIN) == pytest.approx(1 + 0.5)
    assert served_again(load, 2, 2, PLAIN) == pytest.approx(3 + 0.35)
    assert served_again(load, 1, 13, PLAIN) == pytest.approx(17 + 0.5)
    # with very many processes it is Redis that all wait for: 20 µs of it for each
    assert served_again(load, 1_000, 0, PLAIN) == pytest.approx(1 + 0.02)
    assert served_again(Load("", 1_000, 0, states=0), 1_000, 0, PLAIN) == pytest.approx(1 + 0.0005)


def test_what_was_measured_is_read(tmp_path):
    results = tmp_path / "RESULTS.md"
    results.write_text(
        "|  | floor | FastState | aim |\n| --- | --- | --- | --- |\n"
        "| delivered update, 10,000 watchers: µs | 1.00 (1.00) | **7.50 (1.02)** | ratio ≤ 1 |\n"
        "| event over HTTP, session cookie: µs | 84.1 (0.25) | 1,216 (0.63) |  |\n"
    )
    costs, names = read(results)
    assert (costs.update, costs.event, costs.page) == (7.5, 1_216, Costs().page)
    assert names == {"update", "event"}


def test_the_results_that_lie_there_have_all_that_is_to_be_read_in_them():
    costs, names = read()
    assert names == {"stream_kb", "update", "event", "page", "reconnect"}
    for name in names:
        assert getattr(Costs(), name) / 3 < getattr(costs, name) < getattr(Costs(), name) * 3


def test_the_table_has_a_line_for_each_load_and_marks_what_one_redis_cannot_do():
    lines = table(LOADS, read()[0]).splitlines()
    assert len(lines) == 2 + len(LOADS) and {line.count("|") for line in lines} == {len(HEADINGS) + 1}
    too_much = table([Load("", 1_000_000, 1)], PLAIN)
    assert "| **" in too_much
