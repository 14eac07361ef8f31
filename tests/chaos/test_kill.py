"""A server that is killed at any moment: what it acknowledged is there, once, and what it did not can be sent again."""

import os
import time
from random import Random

import pytest

from . import flaws
from .load import Book, Broken, Event, Found, Storm, Visitor
from .server import FastServer

KILLS = int(os.environ.get("FASTSTATE_KILLS", "100"))
FEW_KILLS = 25  # for each run of the tests
SLOWEST = 1.5  # seconds per kill that a machine may need; two idle cores need a tenth of it

ENOUGH_TO_FIND_A_FLAW = 60  # kills; few of them do


@pytest.fixture
def make_server(tmp_path):
    made = []

    def make(flaw=None):
        made.append(FastServer(tmp_path, flaw))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.mark.timeout(60 + KILLS * SLOWEST)
@pytest.mark.parametrize("kills", [FEW_KILLS, pytest.param(KILLS, marks=pytest.mark.long)])
async def test_a_killed_server_has_all_it_acknowledged_and_nothing_twice(make_server, seed, kills):
    server, begun = make_server(), time.monotonic()
    async with Storm(server, Random(seed)) as storm:
        await storm.rage(kills)
    print(
        f"{storm.kills} kills in {time.monotonic() - begun:.1f} s: {storm.book.acknowledged} events acknowledged, "
        f"{storm.cut} cut off, of which {storm.stored} were stored"
    )
    assert "Traceback" not in server.output()
    # Or else the kills have hit nothing, and have proved nothing: there must be many of both.
    assert storm.stored >= kills // 10, "the kills seldom hit between commit and answer"
    assert storm.cut - storm.stored >= kills // 2, "the kills seldom hit before the commit"


@pytest.mark.timeout(60 + ENOUGH_TO_FIND_A_FLAW * SLOWEST)
@pytest.mark.parametrize(
    ("flaw", "finding"),
    [
        (flaws.acknowledge_before_it_is_saved, "has lost what was acknowledged"),
        (flaws.save_two_states_apart, "was done by half"),
        (flaws.forget_nonces, "has twice"),
    ],
)
async def test_the_checker_finds_a_server_that_breaks_its_promise(make_server, seed, flaw, finding):
    async with Storm(make_server(flaw), Random(seed)) as storm:
        with pytest.raises(Broken, match=finding):
            await storm.rage(ENOUGH_TO_FIND_A_FLAW)
    print(f"found at kill {storm.kills}")


def a_book():
    """A book whose one event, number 1 in Board, is answered; what was found then; and a second event, not answered."""
    book, visitor = Book(), Visitor("http://nowhere", "ann", "ada")
    found = {name: Found([], "initial", 1) for name in ("Board", "Credit", "Debit")}
    book.events += [first := Event(visitor, "Board", "add", 1), Event(visitor, "Debit", "move", 2)]
    book.acknowledge(first)
    return book, found


@pytest.mark.parametrize(
    ("then", "finding"),
    [
        ({"Board": Found([], "e", 2)}, "lost what was acknowledged: .1"),
        ({"Board": Found([1, 1], "e", 3)}, "twice: .1"),
        ({"Board": Found([1, 2], "e", 3)}, "never sent: .2"),
        ({"Board": Found([1], "e", 1)}, "at version 1, after at least 2"),
        ({"Board": Found([1], "e", 2), "Debit": Found([2], "e", 2)}, "by half"),
    ],
)
def test_the_book_finds_what_may_not_be(then, finding):
    book, found = a_book()
    with pytest.raises(Broken, match=finding):
        book.check(found | then)


def test_the_book_finds_versions_that_go_back_and_states_that_begin_anew():
    book, found = a_book()
    both = {"Credit": Found([2], "e", 2), "Debit": Found([2], "e", 2)}
    for allowed in ({}, both):
        book.check(found | {"Board": Found([1], "e", 2)} | allowed)
    for board, finding in (Found([1], "e", 1), "at version 1"), (Found([1], "f", 2), "new life"):
        with pytest.raises(Broken, match=finding):
            book.check(found | {"Board": board} | both)
    with pytest.raises(Broken, match="at version 1"):
        book.check(found | {"Board": Found([1], "e", 2), "Credit": Found([], "e", 1), "Debit": Found([], "e", 1)})
