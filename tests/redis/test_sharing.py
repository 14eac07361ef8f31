"""One app in several processes: what one of them commits all others show, and nobody else commits meanwhile."""

import asyncio
import contextlib
import secrets

import pytest

from faststate.exceptions import LockTimeoutError
from faststate.stores.redis.scripts import BEAT
from tests.support.client import message, status
from tests.support.waiting import eventually

from .office import Board, Item, count_of, open_office, send, until_count


@pytest.fixture
async def office(redis_server):
    async with open_office(redis_server.url) as office:
        yield office


# -- what one commits, the others show ---------------------------------------------------------------------------------


async def test_an_event_in_one_process_is_shown_by_the_tabs_of_all(office):
    a, b, *tabs = await office.visit_all()
    for client, tab in ((a, tabs[1]), (b, tabs[0]), (a, tabs[0])):
        before = count_of(tabs[0], "Board")
        response = await send(client, tab, "Board/add")
        assert response.status_code == 204
        await until_count(tabs, "Board", before + 1)


@pytest.mark.parametrize("name", ["add", "add_in_a_thread", "add_twice"])
async def test_all_kinds_of_events(office, name):
    a, b, tab = await office.visit()
    for _ in range(3):
        assert (await send(b, tab, f"Board/{name}")).status_code == 204
        assert (await send(a, tab, f"Board/{name}")).status_code == 204
    await until_count([tab], "Board", 12 if name == "add_twice" else 6)


async def test_a_page_that_is_loaded_anew_shows_what_another_process_has_committed(office):
    a, b = await office.browser()
    tab = await office.tab(b, streaming=False)
    assert count_of(tab, "Board") == 0
    for count in range(1, 4):
        assert status(await send(a, tab, "Board/add")) in (200, 204)
        assert count_of(await office.tab(b, streaming=False), "Board") == count


async def test_views_and_signals_follow(office):
    _, b, tab = await office.visit()
    await send(b, tab, "Board/note", a={"text": "hello"})
    await tab.until(lambda: any("hello" in element for element in tab.elements))


async def test_an_event_over_two_states_is_shown_in_one_write(office):
    a, b, tab = await office.visit()
    sums, feed = set(), tab.feed

    def feed_and_add(block):
        feed(block)
        if block.startswith("id: "):  # the end of what was written at once
            sums.add(count_of(tab, "Board") + count_of(tab, "Wallet"))

    tab.feed = feed_and_add
    for place in range(20):
        await send((a, b)[place % 2], tab, "Board/move")
    await until_count([tab], "Wallet", -20)
    assert sums == {0}


async def test_a_state_of_a_session_of_a_user_and_of_an_id(office):
    a, b = await office.browser()
    assert (await a.get("/login/ann")).text == "in"
    for path, name in (("/profile", "Profile"), ("/item/7", "Item"), ("/", "Cart")):
        tab = await office.tab(a, path)
        ids = {"i": "7"} if name == "Item" else {}
        assert (await send(b, tab, f"{name}/add", **ids)).status_code == 204
        await until_count([tab], name, 1)
    other, _ = await office.browser()
    await other.get("/login/bob")
    assert count_of(await office.tab(other, "/profile", streaming=False), "Profile") == 0
    assert count_of(await office.tab(other, "/", streaming=False), "Cart") == 0


async def test_a_state_of_one_page_is_known_to_all_processes(office):
    _, b, tab = await office.visit("/draft")
    (own,) = (key.rpartition(":")[2] for key in office.sites[0].provider.registry.live if ":Draft:" in key)
    for count in (1, 2):
        response = await send(b, tab, "Draft/add", i=own)
        assert response.status_code == 204, response.text
        await until_count([tab], "Draft", count)


async def test_what_is_kept_in_memory_stays_in_its_process(office):
    a, b, tab = await office.visit("/local")
    assert (await send(a, tab, "Local/add")).status_code == 204
    await until_count([tab], "Local", 1)
    assert count_of(await office.tab(b, "/local", streaming=False), "Local") == 0


async def test_server_code_changes_a_state_for_all(office):
    *_, tab = await office.visit()
    provider = office.sites[1].provider

    def change():
        with provider.modify(Board) as board:
            board.count += 5

    await asyncio.to_thread(change)
    await until_count([tab], "Board", 5)


async def test_values_that_are_broadcast_reach_the_tabs_of_all(office):
    *_, tab = await office.visit()
    office.sites[1].provider.sse_manager.broadcast_to_state("global:Board", {"count": 99})
    await until_count([tab], "Board", 99)
    assert office.state(0, "Board").count == 0


async def test_a_state_that_is_deleted_goes_from_all_pages(office):
    a, b, tab = await office.visit("/item/7")
    await send(a, tab, "Item/add", i="7")
    await until_count([tab], "Item", 1)
    await asyncio.to_thread(lambda: office.sites[1].provider.delete(Item, record_id="7"))
    await tab.until(lambda: tab.signals["_fs"].get("err"))
    again = await office.tab(b, "/item/7", streaming=False)
    assert count_of(again, "Item") == 0


async def test_an_event_that_fails_changes_nothing_and_frees_the_lock(office, redis_server):
    a, b, tab = await office.visit()
    assert status(await send(b, tab, "Board/fail")) == 500
    assert (await send(a, tab, "Board/add")).status_code == 204
    await until_count([tab], "Board", 1)
    await eventually(lambda: not [key for key in redis_server.keys("*:l:*") if ":l:" in key])


# -- nobody else meanwhile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "add_in_a_thread"])
async def test_none_of_many_events_at_once_is_lost_or_done_twice(office, name):
    a, b, tab, other = await office.visit_all()
    responses = await asyncio.gather(
        *(send(client, tab, f"Board/{name}", nonce=secrets.token_hex(8)) for client in (a, b) for _ in range(100))
    )
    assert {status(response) for response in responses} == {204}
    await until_count((tab, other), "Board", 200)


async def test_states_are_locked_in_one_order_by_all(office):
    a, b, tab = await office.visit("/item/1")
    two = await office.tab(a, "/item/2")
    responses = await asyncio.gather(
        *(send(client, tab, "Item/take", i="1", a={"sku": "2"}) for client in (a, b) for _ in range(20)),
        *(send(client, two, "Item/take", i="2", a={"sku": "1"}) for client in (a, b) for _ in range(20)),
    )
    assert {status(response) for response in responses} == {204}
    assert office.state(0, "Item", record_id="1") is not None
    for tab in (await office.tab(b, "/item/1", streaming=False), await office.tab(b, "/item/2", streaming=False)):
        assert count_of(tab, "Item") == 0


async def test_an_event_that_comes_again_in_another_process_is_not_run_again(office):
    a, b, tab = await office.visit()
    for name in ("Board/add", "Board/move", "Cart/add"):
        nonce = secrets.token_hex(8)
        for client in (a, b, b, a):
            assert (await send(client, tab, name, nonce=nonce)).status_code == 204
    await until_count([tab], "Cart", 1)
    assert (count_of(tab, "Board"), count_of(tab, "Wallet")) == (2, -1)


async def test_a_lock_that_another_process_keeps_is_waited_for_only_so_long(redis_server):
    async with open_office(redis_server.url, lock_timeout=1.5) as office:
        provider = office.sites[0].provider

        def keep():
            with provider.modify(Board) as board:
                board.count += 1
                with pytest.raises(LockTimeoutError, match="global:Board"), office.sites[1].provider.modify(Board):
                    pass

        await asyncio.to_thread(keep)
        a, _ = await office.browser()
        assert count_of(await office.tab(a, streaming=False), "Board") == 1


async def test_an_uncontended_event_takes_two_round_trips(office, redis_server):
    a, b, tab = await office.visit()
    await send(a, tab, "Board/add")
    await send(b, tab, "Board/add")
    await until_count([tab], "Board", 2)
    for client in (a, b):
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(redis_server.client())
            other.ping()  # it is connected, of which the monitor is to see nothing
            monitored = stack.enter_context(stack.enter_context(redis_server.client()).monitor())
            await send(client, tab, "Board/add")
            other.echo("the end")
            sent = []
            for command in monitored.listen():
                words = command["command"].split()
                if words[0] == "ECHO":
                    break
                is_life = words[1:2] == [BEAT.sha.decode()]
                if command["client_type"] != "lua" and not is_life:
                    sent.append(words[0])
        assert sent == ["EVALSHA", "EVALSHA"]


# -- versions ----------------------------------------------------------------------------------------------------------


async def test_what_a_page_has_seen_is_one_version_for_all_processes(office):
    _, b, tab = await office.visit()
    seen = tab.signals["Board"]["_version"]
    await send(b, tab, "Board/add")
    await until_count([tab], "Board", 1)
    refused = await send(b, tab, "Board/sign", a={"text": "late"}, v=seen)
    assert status(refused) == 409
    taken = await send(b, tab, "Board/sign", a={"text": "in time"}, v=tab.signals["Board"]["_version"])
    assert status(taken) in (200, 204), message(taken)
    await tab.until(lambda: any("in time" in element for element in tab.elements))
    assert not any("late" in element for element in tab.elements)


# -- a stream that changes its process ---------------------------------------------------------------------------------


async def test_a_tab_that_changes_its_process_is_told_what_it_has_missed_and_nothing_else(office):
    a, b, tab = await office.visit()
    await send(a, tab, "Board/add")
    await send(b, tab, "Wallet/add")
    await until_count([tab], "Wallet", 1)
    following = office.sites[0].provider.cluster.following
    sequence = following.sequence
    await eventually(lambda: following.sequence > sequence or following.sequence >= 2)
    await send(a, tab, "Board/add")
    await until_count([tab], "Board", 2)
    moved = await office.tab(b, streaming=False)
    moved.signals["_fs"] = {"c": ""}
    before = tab.position
    await tab.close()
    await send(b, moved, "Cart/add")
    await moved.open(last_event_id=before)
    assert moved.signals["Cart"]["count"] == 1
    patched = {name for patch in moved.patched for name in patch} - {"_fs"}
    assert "Cart" in patched and "Wallet" not in patched


# -- what a page types -------------------------------------------------------------------------------------------------


async def test_what_a_page_types_is_not_sent_back_to_it_by_another_process(office):
    _, b, tab, other = await office.visit_all()
    assert (await send(b, tab, "Board/keep", b={"draft": "hel"}, q=1)).status_code == 200
    await other.until(lambda: other.signals["Board"]["draft"] == "hel")
    await send(b, tab, "Board/add")
    await until_count([tab], "Board", 1)
    assert not any("draft" in patch.get("Board", {}) for patch in tab.patched[1:])


async def test_what_was_typed_before_does_not_come_back_by_a_slower_process(office):
    a, b, tab, other = await office.visit_all()
    await send(a, tab, "Board/keep", b={"draft": "hello"}, q=2)
    await send(b, tab, "Board/keep", b={"draft": "hel"}, q=1)
    await send(b, tab, "Board/add")
    await until_count([other], "Board", 1)
    assert other.signals["Board"]["draft"] == "hello" == office.state(1, "Board").draft


async def test_nobody_can_pass_for_another_page(office):
    """An event that names somebody else's connection does not keep its own typing from it."""
    *_, tab = await office.visit()
    _, stranger = await office.browser()
    own = await office.tab(stranger)
    own.signals["_fs"]["c"] = tab.signals["_fs"]["c"]
    await send(stranger, own, "Board/keep", b={"draft": "seen by all"}, q=1)
    await tab.until(lambda: tab.signals["Board"]["draft"] == "seen by all")


async def test_a_page_can_have_nothing_be_kept_with_a_state_by_its_name(office, redis_server):
    """The name of a connection is a header that anybody may send, as long as it likes."""
    a, b, tab = await office.visit(streaming=False)
    for place in range(40):
        tab.signals["_fs"] = {"c": f"x.{place:02}" + "y" * 5_000}
        assert status(await send(a, tab, "Board/keep", b={"draft": str(place)}, q=1)) in (200, 204)
    for place in range(40):
        tab.signals["_fs"] = {"c": f"{place:012x}.{'y' * 16}"}
        assert status(await send(a, tab, "Board/keep", b={"draft": str(place)}, q=1)) in (200, 204)
    assert status(await send(b, tab, "Board/add")) in (200, 204)
    assert redis_server.do("HSTRLEN", "{faststate}:s:global:Board", "d") < 10_000


# -- all of them -------------------------------------------------------------------------------------------------------


async def test_the_numbers_of_all_processes_are_added_up(office):
    a, b = await office.browser()
    tabs = [await office.tab(client) for client in (a, a, b)]
    await send(b, tabs[0], "Board/add")
    for site in office.sites:
        await eventually(lambda site=site: site.provider.stats(everywhere=True).connections == 3)
        assert site.provider.stats().connections in (1, 2)
        await eventually(lambda site=site: site.provider.stats(everywhere=True).events == 1)


# -- users and sessions ------------------------------------------------------------------------------------------------


async def test_a_session_that_ends_in_one_process_has_ended_in_all(office):
    a, b = await office.browser()
    await a.get("/login/ann")
    tab = await office.tab(b, "/profile")
    old = dict(a.cookies)
    assert (await a.get("/logout")).text == "out"
    await tab.ends()
    assert "go" in tab.signals["_fs"]
    stale_a, stale_b = await office.browser()
    for client in (stale_a, stale_b):
        client.cookies.update(old)
        assert (await client.get("/profile")).status_code == 401


async def test_a_guests_cart_comes_along_when_another_process_signs_in(office):
    a, b, tab = await office.visit()
    await send(a, tab, "Cart/add")
    await send(b, tab, "Cart/add")
    await until_count([tab], "Cart", 2)
    assert (await b.get("/login/ann")).text == "in"
    await tab.ends()
    for client in (a, b):
        assert count_of(await office.tab(client, streaming=False), "Cart") == 2


async def test_an_event_may_sign_its_own_user_in_and_out(office):
    """It commits in the name of the session that it has begun, or of none, and not of the one that it has ended."""
    a, b, tab = await office.visit()
    await send(a, tab, "Cart/add")
    entered = await send(b, tab, "Board/enter", a={"name": "ann"})
    assert status(entered) in (200, 204), message(entered)
    await tab.ends()
    for client in (a, b):
        again = await office.tab(client, streaming=False)
        assert (count_of(again, "Board"), count_of(again, "Cart")) == (2, 1)
    left = await send(b, again, "Board/leave")
    assert status(left) in (200, 204), message(left)
    for client in (a, b):
        gone = await office.tab(client, streaming=False)
        assert (count_of(gone, "Board"), count_of(gone, "Cart")) == (3, 0)


async def test_no_event_is_committed_to_a_session_that_another_process_has_ended(office):
    """Even before the news of its end have come: the store knows."""
    a, b, tab = await office.visit()
    await send(a, tab, "Cart/add")
    await until_count([tab], "Cart", 1)
    sessions = office.sites[0].provider.sessions
    deaf = sessions.accept
    sessions.accept = lambda message: None
    old = dict(a.cookies)
    await b.get("/logout")
    a.cookies.update(old)
    response = await send(a, tab, "Cart/add")
    assert status(response) in (403, 503), response.text
    sessions.accept = deaf


@pytest.mark.parametrize("how", ["disconnect", "refresh"])
async def test_changed_rights_reach_the_streams_of_all_processes(office, how):
    a, b = await office.browser()
    await a.get("/login/ann")
    tab = await office.tab(b, "/profile")
    bob, _ = await office.browser()
    await bob.get("/login/bob")
    other = await office.tab(bob, "/profile")
    await a.get(f"/rights/{how}/ann")
    await tab.ends()
    assert not other.response.is_closed


async def test_who_loses_a_state_in_one_process_loses_it_in_all(office):
    a, b = await office.browser()
    await a.get("/login/ann")
    tab = await office.tab(a, "/desk")
    boss, boss_elsewhere = await office.browser()
    await boss.get("/login/boss")
    own = await office.tab(boss_elsewhere, "/desk")
    assert own.signals["Desk"].get("secret") == "hush" and not tab.signals["Desk"].get("secret")
    await send(boss_elsewhere, own, "Desk/add")
    await until_count([tab], "Desk", 1)
    assert status(await send(boss_elsewhere, own, "Desk/ban", a={"name": "ann"})) == 204
    await tab.ends()
    assert status(await send(a, tab, "Desk/add")) == 403
    assert (await b.get("/desk")).status_code == 403


async def test_a_large_state_is_loaded_by_those_who_follow_it(office):
    _, b, tab = await office.visit()
    for place in range(3):
        await send(b, tab, "Board/note", a={"text": str(place) * 40_000})
    await tab.until(lambda: any("2" * 40_000 in element for element in tab.elements))
    await eventually(lambda: len(office.state(0, "Board").notes) == 3)
