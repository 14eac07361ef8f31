"""A Redis that goes away and comes back: streams stay open, events are refused, then all tabs show what is stored."""

import asyncio
import re

import pytest

from faststate.exceptions import PersistenceError
from tests.support.client import status
from tests.support.redis_server import DURABLE

from .office import count_of, make_app, open_office, send, until_count


async def test_events_are_refused_while_redis_is_away_and_streams_stay_open(new_redis):
    server = new_redis(**DURABLE)
    async with open_office(server.url) as office:
        a, b, *tabs = await office.visit_all()
        await send(a, tabs[0], "Board/add")
        await until_count(tabs, "Board", 1)
        server.kill()
        refused = await send(a, tabs[0], "Board/add")
        assert status(refused) == 503 and refused.status_code == 200, "a page shows what it is told"
        assert (await b.get("/wallet")).status_code == 503
        local = await office.tab(b, "/local")
        assert (await send(b, local, "Local/add")).status_code == 204, "what is this process's alone goes on"
        await until_count([local], "Local", 1)
        server.start()
        await eventually_taken(b, tabs[0], "Board/add")
        for tab in tabs:
            await until_count([tab], "Board", 2)
            assert not tab.response.is_closed


async def test_what_was_committed_while_a_process_was_cut_off_is_shown_when_it_is_back(new_redis):
    server = new_redis(**DURABLE)
    async with open_office(server.url) as office:
        _, b, *tabs = await office.visit_all()
        client = server.client()
        for count in range(1, 6):
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually_taken(b, tabs[0], "Board/add")
            await until_count(tabs, "Board", count)
        client.close()


async def test_a_redis_that_has_lost_everything_wins(new_redis):
    server = new_redis()
    async with open_office(server.url) as office:
        a, b, tab = await office.visit()
        for _ in range(5):
            await send(a, tab, "Board/add")
        await until_count([tab], "Board", 5)
        server.kill()
        server.start()
        await tab.ends()
        assert tab.signals["_fs"]["go"] == "#reload"
        for client in (a, b):  # each of the two processes connects again by itself
            await eventually_loaded(client, "/")
            assert count_of(await office.tab(client, streaming=False), "Board") == 0


async def test_a_redis_that_is_older_than_it_was_wins(new_redis):
    server = new_redis()
    async with open_office(server.url) as office:
        a, b, *tabs = await office.visit_all()
        await send(a, tabs[0], "Board/add")
        server.do("SAVE")
        for _ in range(3):
            await send(b, tabs[0], "Board/add")
        await until_count(tabs, "Board", 4)
        seen = tabs[0].signals["Board"]["_version"]
        server.kill()
        server.start()
        await until_count(tabs, "Board", 1)
        for _ in range(3):
            await eventually_taken(b, tabs[0], "Board/add")
        await until_count(tabs, "Board", 4)
        assert status(await send(b, tabs[0], "Board/sign", a={"text": "of another past"}, v=seen)) == 409


async def eventually_taken(client, tab, name):
    """Sends an event until it is taken, as a person would."""
    async with asyncio.timeout(10):
        while status(response := await send(client, tab, name)) == 503:  # noqa: ASYNC110  # nobody tells a client when
            await asyncio.sleep(0.02)
    assert status(response) == 204, response.text


async def eventually_loaded(client, path):
    """Loads a page until it is there, as a person would."""
    async with asyncio.timeout(10):
        while (await client.get(path)).status_code == 503:  # noqa: ASYNC110  # nobody tells a client when
            await asyncio.sleep(0.02)


async def test_an_app_that_finds_no_redis_says_so(new_redis):
    server = new_redis()
    server.kill()
    provider = make_app(server.url).state.faststate
    with pytest.raises(PersistenceError, match=re.escape("127.0.0.1")):
        await provider.start()
