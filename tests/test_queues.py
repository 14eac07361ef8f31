"""Fair queues: everybody in turn, each one's own in order, and nobody is forgotten or served twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faststate.queues import FairQueue

WHO = st.sampled_from([None, "ann", "bob", "eve", "joe"])
STEPS = st.lists(st.one_of(st.tuples(st.just("push"), WHO), st.just(("pop", None)), st.tuples(st.just("remove"), WHO)))


@given(STEPS)
def test_all_are_served_once_each_ones_own_in_order_and_nobody_twice_before_another_who_waits(steps):
    queue: FairQueue[tuple[str | None, int]] = FairQueue()
    waiting: dict[str | None, list[int]] = {}
    passed_over: dict[str | None, set[str | None]] = {}  # of each who waits: who was served since it began to wait
    for number, (step, who) in enumerate(steps):
        if step == "push":
            if who not in waiting:
                passed_over[who] = set()
            waiting.setdefault(who, []).append(number)
            queue.push(who, (who, number))
        elif step == "remove":
            item = (who, waiting[who][-1]) if who in waiting else (who, -1)
            assert queue.remove(who, item) is (who in waiting)
            if who in waiting:
                waiting[who].pop()
        elif (item := queue.pop()) is not None:
            who, number = item
            assert waiting[who].pop(0) == number
            for other, served in passed_over.items():
                if other != who and other in waiting:
                    assert who not in served, f"{who!r} was served twice while {other!r} waited"
                    served.add(who)
            passed_over[who] = set()
        else:
            assert not waiting
        waiting = {who: numbers for who, numbers in waiting.items() if numbers}
        assert len(queue) == sum(map(len, waiting.values())) and bool(queue) is bool(waiting)
        assert sorted(number for _, number in queue) == sorted(n for numbers in waiting.values() for n in numbers)


def test_who_comes_anew_is_served_before_who_was_served_last():
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.push("flood", f"flood {number}")
    assert queue.pop() == "flood 0"
    queue.push("click", "click")
    assert [queue.pop() for _ in range(4)] == ["click", "flood 1", "flood 2", None]


def test_what_may_not_be_served_keeps_its_place_and_lets_others_pass():
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "b1"):
        queue.push(item[0], item)
    assert queue.pop(lambda item: item[0] != "a") == "b1"
    assert queue.pop(lambda item: item[0] != "a") is None
    assert [queue.pop(), queue.pop()] == ["a1", "a2"]
