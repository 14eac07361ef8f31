"""Rows that several processes change, in the order that goes wrong most easily: the row is right, and all show it."""

import asyncio
import contextlib
from typing import Any

import pytest

from faststate import StateConfig, StateScope, UserContext
from faststate.exceptions import AccessError, LockLostError, PersistenceError
from faststate.sse import SSEConnection
from tests.support.requests import request_of
from tests.support.waiting import eventually

from .providers import (
    Board,
    Halt,
    Product,
    Shop,
    add,
    heard,
    held,
    instead,
    open_providers,
    run,
    served,
    settled,
    taken_for_dead,
    watch,
)

pytestmark = pytest.mark.timeout(30)

sell = Shop.sell


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


@pytest.fixture
def states(shop):
    return shop.config()


async def row(provider) -> Any:
    """The row as a page shows it that is loaded now."""
    return await served(provider, Product, record_id=1)


def raising(error: Exception) -> Any:
    async def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@contextlib.contextmanager
def away_behind_a_save(shop, provider):
    """Redis gives a process no more answers, to what concerns locks and commits, when it has saved a row."""
    source, error = shop.source(provider), PersistenceError("Redis did not answer")
    save = source.save
    with contextlib.ExitStack() as stack:

        async def save_and_lose(changes: Any) -> Any:
            done = await save(changes)
            for name in ("commit", "lock"):
                stack.enter_context(instead(provider.store, name, raising(error)))
            return done

        stack.enter_context(instead(source, "save", save_and_lose))
        yield


@contextlib.contextmanager
def held_behind_a_save(shop, provider):
    """Halts a process before it reads the answer to the commit that tells the others of a row which it has saved."""
    source, store, answer = shop.source(provider), provider.store, Halt()
    save, commit = source.save, store.commit

    async def save_first(changes: Any) -> Any:
        done = await save(changes)
        store.commit = commit_and_wait
        return done

    async def commit_and_wait(*args: Any, **kwargs: Any) -> Any:
        store.commit = commit
        done = await commit(*args, **kwargs)
        answer.reached.set()
        await answer.gone_on.wait()
        return done

    with instead(source, "save", save_first):
        yield answer


# -- rows that cannot be loaded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_no_sale_is_lost_where_the_row_could_not_be_loaded_with_its_lock(a, b, shop, how):
    """What the lock has told of another process's change is not forgotten with the load that was to bring it."""
    await sell(a)
    await sell(b)
    source = shop.source(a)
    if how == "fails":
        with instead(source, "load", raising(OSError("the database is busy"))), pytest.raises(PersistenceError):
            await sell(a)
    else:
        with held(source, "load", before=True) as load:
            selling = asyncio.create_task(sell(a))
            await load.reached.wait()
            selling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await selling
    assert (await row(a)).stock == 998
    await sell(a)
    assert shop.stock == 997


async def test_one_row_that_cannot_be_loaded_keeps_no_other_state_from_catching_up(a, b, shop, redis_server):
    await sell(a)
    await watch(a, Product, record_id=1)
    page = await watch(a, Board)
    await add(b)
    await eventually(lambda: page.shows(Board) == 1)
    asked: list[int] = []
    caught_up = a.cluster.following._news.caught_up

    async def catch_up(after: int, gone: float) -> None:
        asked.append(after)
        await caught_up(after, gone)

    news = a.cluster.following._news
    with instead(news, "caught_up", catch_up), instead(shop.source(a), "load", raising(OSError("down"))):
        a.cluster.following.lost()
        with instead(a.cluster.following, "_accept", lambda key, message: None):  # what is published now is missed
            await sell(b)
            await add(b)
            await b.disconnect_user("ann")
            await heard(redis_server, a)
        a.cluster.following.found()
        await eventually(lambda: page.shows(Board) == 2)
        await eventually(lambda: a.cluster.following.is_current("global:Board"))
        # Rights that were changed once end what is open once, however long the row cannot be loaded.
        stream = SSEConnection(a.cluster.new_stream_id(), user=UserContext("ann"), session_id="s")
        a.sse_manager.add_connection(stream, [])
        await add(b)
        await eventually(lambda: page.shows(Board) == 3)
        assert len(asked) == 1 and not stream.closed
    await eventually(lambda: a.cluster.following.is_current(shop.KEY))
    assert (await row(a)).stock == shop.stock == 998


# -- rows that are read while others change them -----------------------------------------------------------------------


async def test_a_row_that_is_known_to_have_changed_is_read_as_it_is_now(a, b, shop):
    """While it is loaded for those who follow it."""
    await watch(b, Product, record_id=1)
    with held(shop.source(b), "load", before=True) as load:
        async with a.modify(Product, record_id=1) as product:
            product.banned = "ann"
        await load.reached.wait()
        assert (await row(b)).banned == "ann"


async def test_who_was_banned_reads_nothing_more_in_a_process_that_is_about_to_load_the_ban(redis_server, shop):
    def authorize(user, state, action) -> bool:
        return user is not None and user.id not in state.banned

    async with open_providers(redis_server, states=shop.config(authorize=authorize)) as (a, b):
        ann = {"session_id": "s", "user_id": "ann"}
        await watch(b, Product, record_id=1, user=UserContext("boss"))
        assert await b.get_state(Product, request_of(dict(ann)), record_id=1)
        with held(shop.source(b), "load", before=True) as load:
            async with a.modify(Product, record_id=1) as product:
                product.banned = "ann"
            await load.reached.wait()
            with pytest.raises(AccessError):
                await b.get_state(Product, request_of(dict(ann)), record_id=1)
            with pytest.raises(AccessError):
                async with b.modify(Product, request_of(dict(ann)), record_id=1):
                    pass


async def test_an_older_row_that_was_loaded_slowly_is_not_put_over_a_newer_one(a, b, shop, redis_server):
    await sell(a)
    page = await watch(a, Product, record_id=1)
    with held(shop.source(a), "load") as load:
        await sell(b)
        await load.reached.wait()
        with instead(shop.source(a), "load", type(shop.source(a)).load.__get__(shop.source(a))):
            await sell(a)
        load.go()
        await settled(redis_server, a)
    assert (await row(a)).stock == page.shows(Product, "stock") == shop.stock == 997
    assert a.cluster.following.is_current(shop.KEY)


async def test_a_row_that_changes_while_a_process_catches_up_is_not_taken_for_current(a, b, shop, redis_server):
    page = await watch(b, Product, record_id=1)
    await sell(a)
    await eventually(lambda: page.shows(Product, "stock") == 999)
    source = shop.source(b)
    b.cluster.following.lost()
    with instead(b.cluster.following, "_accept", lambda key, message: None):  # what is published now is missed
        await sell(a)
        await heard(redis_server, b)
    with held(source, "load") as first:
        b.cluster.following.found()
        await first.reached.wait()
        with held(source, "load", before=True) as later:
            await sell(a)  # of which it is told
            await later.reached.wait()
            first.go()
            await eventually(lambda: b.cluster.following._lost_at is None)
            assert not b.cluster.following.is_current(shop.KEY)
            assert (await row(b)).stock == shop.stock == 997
            later.go()
            await settled(redis_server, b)
    assert (await row(b)).stock == page.shows(Product, "stock") == shop.stock == 997
    assert b.cluster.following.is_current(shop.KEY)


@pytest.mark.parametrize("how", ["changed", "refreshed"])
async def test_a_row_that_changes_while_the_answer_to_a_commit_is_on_its_way_is_loaded_again(
    a, b, shop, redis_server, how
):
    page = await watch(a, Product, record_id=1)
    await sell(a)
    with held_behind_a_save(shop, a) as answer:
        selling = asyncio.create_task(sell(a))
        await answer.reached.wait()
        loads, load = [], shop.source(a).load

        async def count_loads(record_id: str) -> Any:
            loads.append(record_id)
            return await load(record_id)

        with instead(shop.source(a), "load", count_loads):
            if how == "changed":
                await sell(b)
            else:  # behind a change by other code, as if it were a new one
                shop.table.update({"product_id": 1, "stock": 997})
                await b.refresh(Product, record_id=1)
            await heard(redis_server, a)
            # What was loaded first has been passed over by now, or (as it must not) has been taken in.
            await eventually(lambda: len(loads) > 2 or page.shows(Product, "stock") == 997)
        answer.go()
        await selling
    await settled(redis_server, a)
    assert (await row(a)).stock == page.shows(Product, "stock") == shop.stock == 997
    assert a.cluster.following.is_current(shop.KEY)


# -- rows whose changes nobody was told of -----------------------------------------------------------------------------


async def test_a_process_that_was_taken_for_dead_does_not_save_a_row(a, b, shop, redis_server):
    with pytest.raises(LockLostError):
        async with a.modify(Product, record_id=1) as product:
            taken_for_dead(redis_server, a)
            await sell(b, 500)
            product.stock -= 1
    assert shop.stock == 500
    await sell(a)
    assert shop.stock == 499


async def test_a_row_that_was_saved_without_the_others_being_told_is_shown_when_redis_is_there_again(
    a, b, shop, redis_server
):
    await sell(a)
    pages = [await watch(provider, Product, record_id=1) for provider in (a, b)]
    with away_behind_a_save(shop, a), pytest.raises(PersistenceError):
        await sell(a)
    for page in pages:
        await eventually(lambda page=page: page.shows(Product, "stock") == 998)
    await settled(redis_server, a, b)
    assert shop.stock == (await row(a)).stock == (await row(b)).stock == 998


async def test_who_gets_the_lock_behind_a_failed_commit_loads_the_row_again(a, b, shop):
    """Whose commit has failed may be able to say no more than that, when it gives the lock back."""
    await sell(a)
    await sell(b)
    with away_behind_a_save(shop, a):
        with pytest.raises(PersistenceError):
            await sell(a)
        await sell(b)
        assert shop.stock == 996


async def test_all_load_a_row_again_when_one_gets_the_lock_of_who_has_died_with_it(a, b, shop):
    """Though that one changes nothing, and the others have only been told that the process is dead."""
    await sell(a)
    page = await watch(a, Product, record_id=1)
    locked = await b.store.lock({"row:record:Product:1": None}, 5)
    shop.table.update({"product_id": 1, "stock": 500})
    b.store.unlock(locked.holds.values(), unclean=True)
    async with b.modify(Product, record_id=1):
        pass
    await eventually(lambda: page.shows(Product, "stock") == 500)


async def test_a_row_whose_commit_has_failed_here_is_loaded_with_its_lock(a, shop, redis_server):
    """Even when Redis has lost the note that it was left unclean."""
    await sell(a)
    page = await watch(a, Product, record_id=1)
    with away_behind_a_save(shop, a):
        with instead(shop.source(a), "load", raising(OSError("down"))), pytest.raises(PersistenceError):
            await sell(a)
        assert a.registry.find(shop.KEY).doubtful
        note = "{faststate}:n:row:record:Product:1"
        await eventually(lambda: note in redis_server.keys("*"))
        redis_server.do("DEL", note)
    await eventually(lambda: page.shows(Product, "stock") == 998)
    await sell(a)
    assert shop.stock == 997


async def test_refresh_tells_the_others_of_a_row_that_is_not_in_memory_here(a, b, shop):
    page = await watch(a, Product, record_id=1)
    shop.table.update({"product_id": 1, "stock": 3})
    await b.refresh(Product, record_id=1)
    await eventually(lambda: page.shows(Product, "stock") == 3)


async def test_refresh_of_a_state_that_memory_alone_has_does_nothing(redis_server):
    alone = {Board: lambda: StateConfig(scope=StateScope.GLOBAL, in_memory=True)}
    async with open_providers(redis_server, 1, alone) as (a,):
        async with a.modify(Board) as board:
            board.count = 1
        for _ in range(3):
            assert await a.refresh(Board) is False
        assert await a.store.load("global:Board") is None
        async with a.modify(Board) as board:
            assert board.count == 1


# -- what Redis keeps beside -------------------------------------------------------------------------------------------


async def test_what_redis_keeps_of_nonces_and_rights_goes_when_they_have_expired(redis_server, shop):
    async with open_providers(redis_server, 1, shop.config()) as (a,):

        async def once(turn: int) -> set[str]:
            for place in range(5):
                await run(a, Product, "sell", f"{turn}-{place}", record_id=1)
            await a.disconnect_user("ann")
            for pattern in ("*:s:nonce:*", "*:s:rights:*"):  # what their expiry does, later
                keys = redis_server.keys(pattern)
                assert keys
                redis_server.do("DEL", *keys)
            await a.sessions.catch_up(0, 1)
            return redis_server.keys("*:g:nonce*") | redis_server.keys("*:g:rights*")

        names = [await once(turn) for turn in range(3)]
        for name in names[-1]:
            assert redis_server.do("ZCARD", name) <= 1
