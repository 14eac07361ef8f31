"""Generator events end between two steps: when their client has gone or has signed out, or when the server ends."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from faststate import (
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    event,
)
from tests.support.apps import app_showing, sign_in_routes
from tests.support.asgi import Exchange, http_scope
from tests.support.client import BROWSER, Page, browser, cookies_of, session_content
from tests.support.waiting import eventually


class Ticker(ReactiveState):
    n: int = 0

    @event(timeout=None)
    async def tick(self):
        try:
            while True:
                self.n += 1
                yield
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    @event(timeout=None)
    async def cling(self):
        try:
            while True:
                self.n += 1
                yield
                await asyncio.sleep(0.001)
        finally:
            ended.set()
            await asyncio.Event().wait()


ended = asyncio.Event()


async def passed_on(request, call_next):
    return await call_next(request)


MIDDLEWARE = {"plain": [], "inside a middleware": [Middleware(BaseHTTPMiddleware, dispatch=passed_on)]}


class Site:
    def __init__(self, middleware=()):
        global ended
        ended = asyncio.Event()  # of this test's loop
        config = StateConfig(scope=StateScope.GLOBAL)
        self.app, self.provider = app_showing(Ticker, config, middleware=list(middleware))
        sign_in_routes(self.app.route, self.provider)

    @property
    def n(self):
        return self.provider.registry.peek("global:Ticker").n


class Click(Exchange):
    """An event whose client goes away when the test says so."""

    def __init__(self, site, page, connection="", name="tick"):
        headers = {
            **BROWSER,
            "host": "testserver",
            "cookie": cookies_of(page.client),
            "faststate-connection": connection,
        }
        body = json.dumps({"w": page.tokens}).encode()
        super().__init__(
            site.app, http_scope("POST", f"/_faststate/event/Ticker/{name}", headers | {"host": "testserver"}), body
        )


def session_of(client):
    return session_content(client)["session_id"]


async def steps(site, number=3):
    """Return when the generator has made that many steps more."""
    to = site.n + number
    await eventually(lambda: site.n >= to)


async def end_of(click):
    """Wait until the generator of the event has ended, and then its answer."""
    async with asyncio.timeout(10):
        await ended.wait()
        await click.task


@pytest.mark.parametrize("middleware", MIDDLEWARE.values(), ids=MIDDLEWARE)
async def test_a_generator_ends_when_its_client_has_gone_that_never_had_a_stream(middleware):
    site = Site(middleware)
    async with browser(site.app) as client:
        click = Click(site, await Page.open(client))
        await steps(site)
        click.gone.set()
        await end_of(click)
    assert not site.provider.throttle._under_way and not site.provider.registry.running.under_way


async def test_a_generator_that_does_not_end_when_it_is_closed_is_waited_for_no_more(monkeypatch):
    monkeypatch.setattr("faststate.scheduling.running.CLOSING", 0.05)
    site = Site()
    async with browser(site.app) as client:
        click = Click(site, await Page.open(client), name="cling")
        await steps(site)
        click.gone.set()
        async with asyncio.timeout(10):
            await ended.wait()
            async with site.provider.modify(Ticker) as ticker:  # it has no lock while it tidies up
                ticker.n += 1
            await click.task
    assert not site.provider.throttle._under_way and not site.provider.registry.running.under_way


def stream(site, session_id, **options):
    """A page's stream, open and following the state."""
    connection = SSEConnection(session_id=session_id, **options)
    entry = site.provider.registry.find("global:Ticker")
    site.provider.sse_manager.add_connection(connection, [entry.identifier.key], {}, {}, {})
    return connection


GRACE = 0.2  # seconds


@pytest.fixture
def moments(monkeypatch):
    """Make the grace for a client that has gone away end within moments."""
    monkeypatch.setattr("faststate.provider.page_event.AWAY", GRACE)


async def test_a_generator_goes_on_while_its_page_has_its_stream_and_ends_when_it_has_none(moments):
    site = Site()
    async with browser(site.app) as client:
        page = await Page.open(client)
        tab = stream(site, session_of(client))
        click = Click(site, page, tab.id)
        await steps(site)
        click.gone.set()
        await asyncio.sleep(2 * GRACE)
        await steps(site)
        site.provider.sse_manager.remove_connection(tab.id)
        await end_of(click)


async def test_a_generator_goes_on_for_a_page_that_comes_back_with_another_stream(moments):
    site = Site()
    async with browser(site.app) as client:
        page = await Page.open(client)
        session_id = session_of(client)
        tab = stream(site, session_id)
        click = Click(site, page, tab.id)
        await steps(site)
        click.gone.set()
        site.provider.sse_manager.remove_connection(tab.id)
        again = stream(site, session_id)
        await asyncio.sleep(2 * GRACE)
        await steps(site)
        site.provider.sse_manager.remove_connection(again.id)
        await end_of(click)


async def test_a_stream_of_another_session_or_of_an_earlier_tab_keeps_no_generator_alive(moments):
    site = Site()
    async with browser(site.app) as client, browser(site.app) as others:
        page = await Page.open(client)
        await Page.open(others)
        earlier = stream(site, session_of(client))
        tab = stream(site, session_of(client))
        stream(site, session_of(others))
        click = Click(site, page, tab.id)
        await steps(site)
        click.gone.set()
        site.provider.sse_manager.remove_connection(tab.id)
        await end_of(click)
        assert not earlier.closed


async def test_a_generator_whose_client_waits_goes_on_without_a_stream(moments):
    site = Site()
    async with browser(site.app) as client:
        click = Click(site, await Page.open(client), "no-such-stream")
        await asyncio.sleep(2 * GRACE)
        await steps(site)
        click.gone.set()
        await end_of(click)


async def test_a_generator_ends_at_its_next_step_when_its_session_has_ended():
    site = Site()
    async with browser(site.app) as client:
        page = await Page.open(client)
        tab = stream(site, session_of(client))
        click = Click(site, page, tab.id)
        await steps(site)
        await client.get("/out")
        await end_of(click)


async def test_the_answer_to_a_client_that_waits_is_sent_and_its_connection_is_listened_to_no_more():
    class Few(ReactiveState):
        n: int = 0

        @event
        async def work(self):
            for _ in range(3):
                self.n += 1
                yield
                await asyncio.sleep(0)

    app, _ = app_showing(Few, StateConfig(scope=StateScope.GLOBAL))
    async with browser(app) as client:
        page = await Page.open(client)
        assert (await page.send("Few", "work")).status_code in (200, 204)
    await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "faststate-presence"])


# -- the server ends ---------------------------------------------------------------------------------------------------


async def test_draining_ends_generators_between_steps_and_what_waits_inside_a_step_in_time(monkeypatch):
    monkeypatch.setattr("faststate.scheduling.running.DRAIN_PATIENCE", 0.1)
    inside = asyncio.Event()

    class Work(ReactiveState):
        n: int = 0

        @event(timeout=None)
        async def tick(self):
            while True:
                self.n += 1
                yield
                await asyncio.sleep(0.001)

        @event(timeout=None)
        async def wait(self):
            self.n += 1
            inside.set()
            await asyncio.Event().wait()

    provider = StateProvider()
    for cls in (Work, Ticker):
        provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
    async with provider.modify(Work), provider.modify(Ticker) as ticker:
        ticker.n = 0
    work, ticker = provider.registry.peek("global:Work"), provider.registry.peek("global:Ticker")
    ticking, waiting = asyncio.create_task(ticker.tick.run()), asyncio.create_task(work.wait.run())
    await inside.wait()
    provider.drain()
    provider.drain()  # a second signal
    results = await asyncio.wait_for(asyncio.gather(ticking, waiting, return_exceptions=True), 10)
    assert [getattr(result, "status", None) for result in results] == [503, 503]
    assert provider.registry.peek("global:Work").n == 0
    with pytest.raises(Exception, match="runs no events any more"):
        await work.wait.run()
    await provider.stop()
    again = asyncio.create_task(provider.registry.peek("global:Ticker").tick.run())
    before = provider.registry.peek("global:Ticker").n
    await eventually(lambda: provider.registry.peek("global:Ticker").n > before)
    again.cancel()
    await asyncio.wait([again])


async def test_stop_waits_for_the_events_under_way():
    provider = StateProvider()
    provider.register_state(Ticker, StateConfig(scope=StateScope.GLOBAL))
    async with provider.modify(Ticker) as ticker:
        ticker.n = 1
    ticking = asyncio.create_task(provider.registry.peek("global:Ticker").tick.run())
    await eventually(lambda: provider.registry.running.under_way)
    await provider.stop()
    assert not provider.registry.running.under_way
    await asyncio.wait([ticking])
    assert ticking.exception() is not None
