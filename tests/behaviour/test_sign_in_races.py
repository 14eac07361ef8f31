"""Signing in and out beside everything else, with a store that takes its time: what was acknowledged is never lost.

The store lets others run a few times in each call, and what happens beside a sign-in begins one turn of the loop later
in each case; so every order of the two is tried.
"""

import asyncio
import contextlib

import pytest
from fasthtml.common import Div
from starlette.requests import Request

from faststate import (
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    event,
    fast_app,
    get_current_request,
)
from faststate.stores.memory import MemoryStore
from tests.support.apps import sign_in_routes
from tests.support.client import Page, browser, cookies_of, status
from tests.support.waiting import Clock

TURNS = 3
"""How often the store lets others run in each of its calls."""

BESIDE = range(0, 48)
"""Turns of the loop after which the other thing begins: from before a sign-in to behind it."""

AROUND = range(-24, 40)
"""The same, and as many turns before the sign-in begins where it is negative."""


class Slow(MemoryStore):
    """A store that lets others run before and after it has done something; `fails` says how its saves go wrong."""

    fails = ""
    event_turns = TURNS  # of what an event saves, which may take longer than what a sign-in does

    async def _wait(self, turns=TURNS):
        for _ in range(turns):
            await asyncio.sleep(0)

    async def _between(self, call):
        await self._wait()
        found = await call
        await self._wait()
        return found

    async def load(self, key):
        return await self._between(super().load(key))

    async def group(self, name):
        return await self._between(super().group(name))

    async def save(self, write):
        await self.save_many([write])

    async def save_many(self, writes):
        is_signing = any(write.key.startswith("ended:") for write in writes)
        await self._wait(TURNS if is_signing else self.event_turns)
        if self.fails == "before moving" and is_signing:
            raise OSError("the disk is full")
        await super().save_many(writes)
        await self._wait()
        if self.fails == "after" or (self.fails == "after moving" and is_signing):
            self.fails = ""
            raise OSError("the wire was cut")

    async def delete(self, keys):
        await self._between(super().delete(keys))


class Cart(ReactiveState):
    items: list[str] = []

    @event
    def add(self, name: str):
        self.items.append(name)

    @event
    async def add_on_loop(self, name: str):
        self.items.append(name)

    @event
    async def add_and_leave(self, name: str):
        self.items.append(name)
        await leave()

    @event
    def fill(self, list: "List", name: str):
        list.items.append(name)


class List(ReactiveState):
    items: list[str] = []


class Draft(ReactiveState):
    text: str = ""

    @event
    def fill(self, list: List, name: str):
        list.items.append(name)


class Product(ReactiveState):
    name: str = "tea"

    @event
    def discontinue_sync(self):
        self.name = "gone"
        providers[-1].delete(Product, record_id=5)

    @event
    async def discontinue_and_count(self, list: List):
        list.items.append("discontinued")
        await providers[-1].delete(Product, record_id=5)

    @event
    async def look_again(self):
        await asyncio.gather(providers[-1].refresh(Product, record_id=5))

    @event
    async def wait_and_discontinue(self):
        begun.set()
        await go_on.wait()
        await providers[-1].delete(Product, record_id=5)

    @event
    def rename(self, name: str):
        self.name = name

    @event
    async def discontinue(self):
        self.name = "gone"
        await providers[-1].delete(Product, record_id=5)


providers: list[StateProvider] = []
begun, go_on = asyncio.Event(), asyncio.Event()


async def leave():
    await providers[-1].logout(get_current_request())


def merge(users, guests):
    users.items.extend(guests.items)


class Site:
    def __init__(self, clock=None, **options):
        self.store = Slow(clock) if clock else Slow()
        self.provider = provider = StateProvider(store=self.store, **({"clock": clock} if clock else {}), **options)
        providers[:] = [provider]
        self.app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

        sign_in_routes(rt, provider)

        self.rt = rt

    @contextlib.asynccontextmanager
    async def visited(self, **item):
        """A browser with a page of the site, and one item in its cart if that is given; at the end the site stops."""
        async with browser(self.app) as client:
            page = await Page.open(client)
            if item:
                await page.send("Cart", "add", **item)
            yield client, page
        await self.provider.stop()

    def with_carts(self, config=None):
        provider = self.provider
        provider.register_state(Cart, config)
        provider.register_state(List)
        provider.register_state(Draft, StateConfig(in_memory=True))

        @self.rt("/")
        def index(cart: Cart, list: List, draft: Draft):
            return Div(f"[{' '.join([*cart.items, *list.items])}]")

        @self.rt("/modify")
        async def modify(request: Request, name: str):
            async with provider.modify(Cart, request) as cart:
                cart.items.append(name)
            return "added"

        return self


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


async def shown(client):
    return set((await client.get("/")).text.partition("[")[2].partition("]")[0].split())


@pytest.mark.parametrize("kept", ["keep", "to_user", "in memory"])
@pytest.mark.parametrize("has", ["nothing yet", "something", "something, and so has the user"])
@pytest.mark.parametrize("event_turns", [TURNS, 20])
async def test_what_is_added_beside_a_sign_in_is_there_afterwards_when_it_was_acknowledged(kept, has, event_turns):
    acknowledged = 0
    for number in AROUND:
        on_login = "keep" if kept == "keep" else "to_user"
        hook = merge if on_login == "to_user" else None
        site = Site().with_carts(StateConfig(on_login=on_login, merge=hook, in_memory=kept == "in memory"))
        site.store.event_turns = event_turns
        async with browser(site.app) as client, browser(site.app) as other:
            if "user" in has and on_login == "to_user":
                await other.get("/in/ann")
                await (await Page.open(other)).send("Cart", "add", name="hers")
            page = await Page.open(client)
            if has != "nothing yet":
                await page.send("Cart", "add", name="first")
            # A thread takes more turns of the loop the busier the machine is, and then few of its events come in time.
            event_name = "add" if number % 2 else "add_on_loop"
            waiting = turns(-number)
            if number < 0:
                adding = asyncio.create_task(page.send("Cart", event_name, name="beside"))
            await waiting
            signing = asyncio.create_task(client.get("/in/ann"))
            await turns(number)
            answer = await (adding if number < 0 else page.send("Cart", event_name, name="beside"))
            looking = asyncio.create_task(other.get("/"))  # which brings the user's own into memory
            assert (await signing).status_code == 200
            await looking
            found = await shown(client)
            assert "first" in found or has == "nothing yet"
            assert "hers" in found or "user" not in has or on_login == "keep"
            if status(answer) in (200, 204):
                acknowledged += 1
                assert "beside" in found, number
            assert status(await (await Page.open(client)).send("Cart", "add", name="later")) in (200, 204)
            assert "later" in await shown(client)
            site.provider.registry.forget_stored()  # as after a restart
            assert kept == "in memory" or await shown(client) == found | {"later"}
        await site.provider.stop()
    assert acknowledged > 5  # or nothing was shown


@pytest.mark.parametrize("path", ["/in/ann", "/out"])
async def test_a_handler_s_change_beside_a_sign_in_or_out_is_not_acknowledged_and_lost(path):
    for number in BESIDE:
        site = Site().with_carts()
        async with site.visited() as (client, _):
            moving = asyncio.create_task(client.get(path))
            await turns(number)
            cookies = dict(client.cookies)
            answer = await client.get("/modify?name=tea")
            await moving
            if path == "/out":
                async with browser(site.app, cookies=cookies) as old:
                    assert await shown(old) in (set(), {"tea"})
                    keys = [key for key in site.store._entries if key.startswith("session:")]
                    assert len(keys) <= 1
            elif answer.status_code == 200:
                assert "tea" in await shown(client), number
            else:
                assert answer.status_code == 403


async def test_a_sign_in_whose_outcome_is_unknown_is_found_out_and_loses_nothing():
    for fails in ("after", "after moving"):
        site = Site().with_carts()
        async with site.visited(name="tea") as (client, _):
            site.store.fails = fails
            assert (await client.get("/in/ann")).status_code == 200
            assert await shown(client) == {"tea"}
            assert status(await (await Page.open(client)).send("Cart", "add", name="rum")) in (200, 204)


async def test_a_sign_in_whose_request_is_cancelled_is_gone_on_with_by_the_next_one():
    for number in BESIDE:
        async with Site().with_carts().visited(name="tea") as (client, _):
            signing = asyncio.create_task(client.get("/in/ann"))
            await turns(number)
            signing.cancel()
            await asyncio.gather(signing, return_exceptions=True)
            await asyncio.wait_for(client.get("/in/ann"), 5)
            assert await shown(client) == {"tea"}, number


async def test_a_sign_in_beside_a_sign_out_ends():
    for number in BESIDE:
        async with Site().with_carts().visited(name="tea") as (client, _):
            headers = {"cookie": cookies_of(client)}
            going = asyncio.create_task(client.get("/out", headers=headers))
            await turns(number)
            coming = await asyncio.wait_for(client.get("/in/ann", headers=headers), 5)
            assert coming.status_code == 200 and (await going).status_code == 200


async def test_a_state_that_has_expired_and_was_not_swept_yet_does_not_hinder_a_sign_in():
    clock = Clock(1_000_000.0)
    site = Site(clock).with_carts(StateConfig(ttl=100))
    async with site.visited(name="tea") as (client, _):
        clock.now += 101
        assert (await asyncio.wait_for(client.get("/in/ann"), 5)).status_code == 200
        await site.store.delete(list(site.store._entries))
        assert (await asyncio.wait_for(client.get("/in/eve"), 5)).status_code == 200


async def test_a_sign_in_while_memory_is_full_of_what_is_watched_moves_all_states():
    site = Site(max_states=3).with_carts()
    provider = site.provider
    provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
    for number in range(4):
        key = StateIdentifier(StateScope.RECORD, "Product", record_id=number)
        await provider.registry.entry(key, Product)
        provider.sse_manager.add_connection(SSEConnection(), [key.key])
    async with site.visited(name="tea") as (client, page):
        await page.send("Cart", "fill", name="rum")
        [session] = {key.split(":")[2] for key in site.store._entries if key.startswith("session:")}
        followed = [f"session:Cart:{session}", f"session:List:{session}"]
        connection = SSEConnection(session_id=session)
        provider.sse_manager.add_connection(connection, followed)
        await Page.open(client)
        provider.sse_manager.remove_connection(connection.id)
        assert (await client.get("/in/ann")).status_code == 200
        assert await shown(client) == {"tea", "rum"}


@pytest.mark.parametrize("is_stored", [False, True])
async def test_an_event_that_changes_its_state_and_signs_out_leaves_nothing_to_an_old_cookie(is_stored):
    site = Site().with_carts()
    async with browser(site.app) as client:
        page = await Page.open(client)
        if is_stored:
            await page.send("Cart", "add", name="tea")
        await client.get("/")
        cookies = dict(client.cookies)
        assert status(await page.send("Cart", "add_and_leave", name="rum")) in (200, 204)
    async with browser(site.app, cookies=cookies) as old:
        assert await shown(old) == set()
    assert not [key for key in site.store._entries if key.startswith("session:")]
    await site.provider.stop()


async def test_a_tab_beside_a_sign_out_does_not_bring_a_guest_s_states_back():
    for number in BESIDE:
        site = Site().with_carts()
        async with site.visited(name="tea") as (client, _):
            site.provider.registry.forget_stored()
            cookies = dict(client.cookies)
            async with browser(site.app, cookies=cookies) as tab:
                looking = asyncio.create_task(tab.get("/"))
                await turns(number)
                await client.get("/out")
                await looking
            async with browser(site.app, cookies=cookies) as old:
                assert await shown(old) == set(), number


@pytest.mark.parametrize("state", ["Cart", "Draft"])
async def test_a_repeat_of_an_event_that_changed_another_state_alone_is_noticed_over_a_restart(state):
    site = Site().with_carts()
    async with browser(site.app) as client:
        page = await Page.open(client)
        await page.send(state, "fill", name="tea", nonce="n" * 12)
        restarted = Site().with_carts()
        restarted.store.__dict__.update(site.store.__dict__)  # the same disk
        client._transport.app = restarted.app
        await page.send("Cart", "add", name="rum")  # which stores the event's own state first
        await page.send(state, "fill", name="tea", nonce="n" * 12)
        text = (await client.get("/")).text
    assert text.count("tea") == 1 and "rum" in text
    await restarted.provider.stop()


@pytest.fixture
async def products():
    site = Site()
    site.provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
    site.provider.register_state(List, StateConfig(scope=StateScope.GLOBAL))

    @site.rt("/products/{product_id}")
    def product(product: Product, list: List):
        return Div(product.signal.name, f"[{' '.join(list.items)}]")

    yield site
    await site.provider.stop()


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("name", ["discontinue", "discontinue_sync", "discontinue_and_count"])
async def test_an_event_may_delete_its_own_record(products, name, is_stored):
    async with browser(products.app) as client:
        page = await Page.open(client, "/products/5")
        if is_stored:
            assert status(await page.send("Product", "rename", instance_id="5", name="rum")) in (200, 204)
        async with asyncio.timeout(3):  # less than a lock may take
            assert status(await page.send("Product", name, instance_id="5")) in (200, 204)
        assert not [key for key in products.store._entries if key.startswith("record:")]
        page = await Page.open(client, "/products/5")
        assert page.signals["Product"]["5"]["name"] == "tea"  # anew
        assert ("[discontinued]" in page.html) is name.endswith("count")


async def test_others_who_wait_for_a_record_that_its_own_event_deletes_are_told_so(products):
    begun.clear(), go_on.clear()
    async with browser(products.app) as client, browser(products.app) as other:
        page, waiting = await Page.open(client, "/products/5"), await Page.open(other, "/products/5")
        deleting = asyncio.create_task(page.send("Product", "wait_and_discontinue", instance_id="5"))
        await begun.wait()
        renaming = asyncio.create_task(waiting.send("Product", "rename", instance_id="5", name="rum"))
        while not products.provider.registry.locks.waiting:  # noqa: ASYNC110  # until it waits for the lock
            await asyncio.sleep(0)
        go_on.set()
        assert status(await deleting) in (200, 204) and status(await renaming) == 404


async def test_an_event_cannot_have_its_own_state_loaded_anew_and_need_not_wait_to_be_told(products):
    async with browser(products.app) as client:
        page = await Page.open(client, "/products/5")
        async with asyncio.timeout(3):
            assert status(await page.send("Product", "look_again", instance_id="5")) == 503


async def test_a_sign_out_beside_a_sign_in_whose_save_fails_or_not_holds():
    for number in BESIDE:
        for fails in ("", "before moving"):
            site = Site().with_carts()
            async with site.visited(name="tea") as (client, _):
                cookies = dict(client.cookies)
                site.store.fails = fails
                async with browser(site.app, cookies=cookies) as one, browser(site.app, cookies=cookies) as two:
                    coming = asyncio.create_task(one.get("/in/ann"))
                    await turns(number)
                    await two.get("/out")
                    await coming
                site.store.fails = ""
                async with browser(site.app, cookies=cookies) as old:
                    assert await shown(old) == set(), (number, fails)


async def test_a_plain_with_never_waits_for_the_loop_that_it_runs_on(monkeypatch):
    site = Site().with_carts()
    monkeypatch.setattr("faststate.registry.modify.is_import", lambda: True)  # as another loop's frames may look
    await site.provider.start()
    async with site.provider.modify(Cart, session_id="s"):
        pass
    with pytest.raises(RuntimeError, match="async with"), site.provider.modify(Cart, session_id="s"):
        pass
    await site.provider.stop()


async def test_a_session_s_loaded_states_make_room_for_each_other():
    site = Site(max_states_per_session=5)
    site.provider.register_state(Product, StateConfig(scope=StateScope.TEMPORARY))
    for number in range(30):
        async with site.provider.modify(Product, session_id="s", component_id=number) as product:
            product.name = "x"
    for number in range(30):
        async with site.provider.modify(Product, session_id="s", component_id=number):
            pass
    assert len(site.provider.registry.keys_of_session("s")) <= 5
    await site.provider.registry.usage.tell_store()
    assert len(await site.store.group("s")) <= 10
    await site.provider.stop()


async def test_pages_whose_connection_is_closing_do_not_keep_others_from_being_told():
    site = Site()
    site.provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
    async with site.provider.modify(Product, record_id=5) as product:
        product.name = "x"
    connections = [SSEConnection() for _ in range(3)]
    for connection in connections:
        site.provider.sse_manager.add_connection(connection, ["record:Product:5"])
    connections[0].stream = connections[1].stream = None
    await site.provider.delete(Product, record_id=5)
    assert b"not there any more" in connections[2].drain()
    await site.provider.stop()
