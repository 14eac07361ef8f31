"""No session holds up another one: at a state's lock, at its turn, at the worker threads, or by how much it sends."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from fasthtml import common as fh

from faststate import LockTimeoutError, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
from faststate.scheduling.queues import SERVER, Client
from faststate.scheduling.threads import Places, places_here
from tests.support.client import BROWSER, Page, browser, message
from tests.support.client import status as exact_status
from tests.support.waiting import eventually

go_on = threading.Event()


def status(response):
    """The status meant, 200 for all that went well."""
    found = exact_status(response)
    return 200 if found == 204 else found


class Board(ReactiveState):
    log: list[str] = []

    @event
    def write(self, text: str):
        self.log.append(text)

    @event
    async def write_async(self, text: str):
        await asyncio.sleep(0)
        self.log.append(text)

    @event
    async def write_steps(self, text: str):
        self.log.append(text)
        yield
        self.log.append(text)


class Desk(ReactiveState):
    n: int = 0

    @event
    def block(self):
        go_on.wait(20)
        self.n += 1

    @event(timeout=0.05)
    def block_too_long(self):
        go_on.wait(20)

    @event
    def add(self):
        self.n += 1


class Site:
    def __init__(self, **options):
        self.provider = StateProvider(**{"lock_timeout": 30.0, "event_burst": 10_000, **options})
        self.provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
        self.provider.register_state(Desk)
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests")

        @rt("/")
        def index(board: Board, desk: Desk):
            return fh.P(len(board.log), desk.signal.n)

    @property
    def board(self):
        return self.provider.registry.peek("global:Board")


@pytest.fixture(autouse=True)
def _end_threads():
    go_on.clear()
    yield
    go_on.set()


async def waiting_for_the_board(site, number):
    entry = site.provider.registry.find("global:Board")
    turns = site.provider.registry.locks._turns

    def waiting():
        queued = sum(len(turn.waiting) for of_loop in turns.values() for turn in of_loop.values())
        return len(entry.waiting or ()) + queued == number

    await eventually(waiting)


@pytest.mark.parametrize("name", ["write", "write_async", "write_steps"])
@pytest.mark.parametrize("flood_by", ["a session", "the server"])
async def test_a_click_waits_for_one_event_of_a_flood_and_not_for_all(name, flood_by):
    site = Site()
    async with browser(site.app) as flooding, browser(site.app) as clicking:
        flood, visitor = await Page.open(flooding), await Page.open(clicking)
        board = site.board
        async with site.provider.modify(Board):
            sent = [
                asyncio.create_task(
                    flood.send("Board", name, text=f"flood {n}")
                    if flood_by == "a session"
                    else getattr(board, name).run(text=f"flood {n}")
                )
                for n in range(40)
            ]
            # One sync event has the turn and waits for the lock; the others wait for the turn.
            await waiting_for_the_board(site, 40)
            click = asyncio.create_task(visitor.send("Board", name, text="click"))
            await waiting_for_the_board(site, 41)
        assert status(await click) == 200
        at = site.board.log.index("click")
        await asyncio.gather(*sent)
    assert at <= 2
    numbers = list(dict.fromkeys(text for text in site.board.log if text != "click"))
    assert numbers == [f"flood {n}" for n in range(40)], "those of one session keep their order"


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_places(monkeypatch):
    monkeypatch.setattr("faststate.scheduling.threads.EVENT_THREADS", 4)
    monkeypatch.setattr("faststate.scheduling.threads.ADDRESS_THREADS", 3)
    return Places()


def client(name, address="here"):
    return Client(name, address)


async def waits(places, who):
    """A task that waits for a place, once it does."""
    before = len(places._waiting)
    task = asyncio.create_task(places.take(who, 30))
    await eventually(lambda: len(places._waiting) == before + 1)
    return task


async def test_places_go_to_the_sessions_in_turn(few_places):
    held = [await few_places.take(SERVER, 1) for _ in range(4)]
    flood = [await waits(few_places, client("flood")) for _ in range(3)]
    click = await waits(few_places, client("click"))
    held.pop().release()
    assert await flood[0]
    held.pop().release()
    assert await click
    assert not flood[1].done()
    for task in flood[1:]:
        task.cancel()
    await asyncio.wait(flood[1:])
    assert not few_places._waiting and few_places._free == 0


async def test_the_sessions_of_one_address_never_have_all_places(few_places):
    held = [await few_places.take(client(n), 1) for n in range(3)]
    fourth = await waits(few_places, client(4))
    other = await few_places.take(client("other", "there"), 1)
    other.release()
    assert not fourth.done(), "the last place is for other addresses"
    held.pop().release()
    (await fourth).release()
    for place in held:
        place.release()
    assert few_places._free == 4 and not few_places._of_address


async def test_a_place_that_is_given_to_who_is_just_cancelled_goes_to_the_next(few_places):
    held = [await few_places.take(SERVER, 1) for _ in range(4)]
    cancelled, next_one = await waits(few_places, client("a")), await waits(few_places, client("b"))
    held.pop().release()
    cancelled.cancel()  # behind it, in the same turn of the loop
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await next_one


async def test_who_gets_no_place_within_the_lock_timeout_is_told_that_threads_are_busy(few_places):
    for _ in range(4):
        await few_places.take(SERVER, 1)
    with pytest.raises(LockTimeoutError, match="threads are busy") as caught:
        await few_places.take(client("a"), 0.01)
    assert caught.value.status == 503 and not few_places._waiting


async def test_a_page_whose_event_gets_no_thread_in_time_is_told_that_the_server_is_busy(monkeypatch):
    monkeypatch.setattr("faststate.scheduling.threads.EVENT_THREADS", 3)
    monkeypatch.setattr("faststate.scheduling.threads.ADDRESS_THREADS", 3)
    site = Site(lock_timeout=0.2)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await Page.open(await stack.enter_async_context(browser(site.app))) for _ in range(4)]
        blocked = [asyncio.create_task(page.send("Desk", "block")) for page in clients[:3]]
        await eventually(lambda: places_here()._free == 0)
        refused = await clients[3].send("Desk", "add")
        assert status(refused) == 503 and "busy" in message(refused)
        go_on.set()
        assert {status(await task) for task in blocked} == {200}
        assert status(await clients[3].send("Desk", "add")) == 200


async def test_many_who_wait_for_the_turn_at_one_state_give_up_in_time_where_no_thread_is_free(monkeypatch):
    monkeypatch.setattr("faststate.scheduling.threads.EVENT_THREADS", 1)
    site = Site(lock_timeout=0.3)
    async with browser(site.app) as first, browser(site.app) as second:
        page, other = await Page.open(first), await Page.open(second)
        blocked = asyncio.create_task(page.send("Desk", "block"))
        await eventually(lambda: places_here()._free == 0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(*(other.send("Board", "write", text=str(n)) for n in range(20)))
        took = loop.time() - began
        assert {status(answer) for answer in answers} == {503}
        # One after the other they would take 20 times as long.
        assert took < 10 * 0.3
        go_on.set()
        assert status(await blocked) == 200
        assert status(await other.send("Board", "write", text="late")) == 200
    assert not any(site.provider.registry.locks._turns.values())


# -- how much one session may have under way ---------------------------------------------------------------------------


async def test_a_session_has_a_bounded_number_of_events_under_way():
    site = Site(max_events_per_session=3)
    async with browser(site.app) as one, browser(site.app) as two:
        page, other = await Page.open(one), await Page.open(two)
        async with site.provider.modify(Board):
            waiting = [asyncio.create_task(page.send("Board", "write_async", text="mine")) for _ in range(3)]
            await waiting_for_the_board(site, 3)
            refused = await page.send("Board", "write_async", text="one too many")
            assert status(refused) == 429 and "3 actions are under way already" in message(refused)
            assert refused.headers["retry-after"] == "1"
            accepted = asyncio.create_task(other.send("Board", "write_async", text="theirs"))
            await waiting_for_the_board(site, 4)
        assert {status(answer) for answer in await asyncio.gather(*waiting, accepted)} == {200}
        assert status(await page.send("Board", "write_async", text="again")) == 200
    assert not site.provider.throttle._under_way


async def test_who_has_no_session_counts_by_address():
    site = Site(max_events_per_session=1)
    async with browser(site.app) as visitor, browser(site.app) as bare:
        await Page.open(visitor)

        def post():
            return bare.post("/_faststate/event/Board/write_async", content='{"a":{"text":"x"}}', headers=BROWSER)

        async with site.provider.modify(Board):
            first = asyncio.create_task(post())
            await waiting_for_the_board(site, 1)
            assert status(await post()) == 429
        assert status(await first) == 200


async def test_a_thread_that_goes_on_behind_its_event_counts_as_under_way():
    site = Site(max_events_per_session=1)
    async with browser(site.app) as one, browser(site.app) as two:
        page, other = await Page.open(one), await Page.open(two)
        assert status(await page.send("Desk", "block_too_long")) == 503
        assert status(await page.send("Desk", "add")) == 429
        assert status(await other.send("Desk", "add")) == 200
        go_on.set()
        await eventually(lambda: not places_here().left_behind)
        assert status(await page.send("Desk", "add")) == 200


async def test_events_that_are_refused_or_fail_are_not_counted_for_ever():
    site = Site(max_events_per_session=1)
    async with browser(site.app) as one:
        page = await Page.open(one)
        for _ in range(3):
            assert status(await page.send("Desk", "nothing")) == 404
            assert status(await page.client.post("/_faststate/event/Desk/add", content="{", headers=BROWSER)) == 400
        assert status(await page.send("Desk", "add")) == 200
    assert not site.provider.throttle._under_way
