"""Fair queues: everybody in turn, each one's own in order, and nobody is forgotten or served twice."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from faststate.scheduling.queues import SERVER, Client, FairQueue

CLIENTS = [SERVER, *(Client(session, address) for session in ("ann", "bob", "eve") for address in ("here", "there"))]
WHO = st.sampled_from(CLIENTS)
STEPS = st.lists(
    st.one_of(st.tuples(st.just("push"), WHO), st.just(("pop", None)), st.tuples(st.just("remove"), WHO)), max_size=60
)


def names(client):
    """Return the names a client counts by: its address among all, and its session among those of the address."""
    return [((), client.address), ((client.address,), client.session)]


@given(STEPS)
def test_all_are_served_once_each_ones_own_in_order_and_nobody_twice_before_another_who_waits(steps):
    queue: FairQueue[tuple[Client, int]] = FairQueue()
    waiting: dict[Client, list[int]] = defaultdict(list)
    served_since: dict = {}  # by who waits, in which group: whom of the group was served since it began to wait
    for number, (step, who) in enumerate(steps):
        if step == "push":
            for group, name in names(who):
                if not any((group, name) in names(client) for client in waiting):
                    served_since[group, name] = set()
            waiting[who].append(number)
            queue.push(who, (who, number))
        elif step == "remove":
            is_there = who in waiting
            assert queue.remove(who, (who, waiting[who][-1] if is_there else -1)) is is_there
            if is_there:
                waiting[who].pop()
        elif (item := queue.pop()) is not None:
            who, number = item
            assert waiting[who].pop(0) == number
            for group, name in names(who):
                others = {other for client in waiting if waiting[client] for other in names(client)}
                for in_group, other in others:
                    if in_group == group and other != name:
                        assert name not in served_since[group, other], f"{name!r} was served twice before {other!r}"
                        served_since[group, other].add(name)
                served_since[group, name] = set()
        else:
            assert not waiting
        for client in [client for client, numbers in waiting.items() if not numbers]:
            del waiting[client]
        assert len(queue) == sum(map(len, waiting.values())) and bool(queue) is bool(waiting)
        assert sorted(n for _, n in queue) == sorted(n for numbers in waiting.values() for n in numbers)
    assert [queue.pop() for _ in range(len(queue))].count(None) == 0
    assert not queue._addresses, "nothing is kept of those who waited"


def fill(*items):
    queue: FairQueue[str] = FairQueue()
    for client, item in items:
        queue.push(client, item)
    return queue


def test_who_comes_anew_is_served_before_who_was_served_last():
    for flood, click in [
        (Client("flood", "here"), Client("click", "here")),
        (Client("flood", "here"), Client("click", "there")),
    ]:
        queue = fill(*((flood, f"flood {number}") for number in range(3)))
        assert queue.pop() == "flood 0"
        queue.push(click, "click")
        assert [queue.pop() for _ in range(4)] == ["click", "flood 1", "flood 2", None]


def test_many_sessions_of_one_address_delay_another_address_as_one_session_does():
    queue = fill(*((Client(number, "here"), f"flood {number}") for number in range(100)))
    assert queue.pop() == "flood 0"
    queue.push(Client("click", "there"), "click")
    assert queue.pop() == "click"


def test_what_may_not_be_served_keeps_its_place_and_lets_others_pass():
    queue = fill((Client("a", "x"), "a1"), (Client("a", "x"), "a2"), (Client("b", "x"), "b1"), (SERVER, "c1"))
    assert queue.pop(lambda item: item[0] not in "ac") == "b1"
    assert queue.pop(lambda item: item[0] not in "ac") is None
    assert [queue.pop(), queue.pop(), queue.pop()] == ["c1", "a1", "a2"]
