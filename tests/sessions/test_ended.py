"""Ends of sessions: remembered by the store, looked up when they are needed, and bounded in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from fasthtml.common import Div

from faststate import PersistenceError, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
from faststate.scopes import Version
from faststate.sessions import ended as module
from faststate.sessions.ended import KnownEnds, SessionEnd, read_note, write_note
from faststate.stores.base import Write
from faststate.stores.memory import MemoryStore
from faststate.stores.sqlite import SQLiteStore
from tests.support.apps import sign_in_routes
from tests.support.client import BROWSER, Page, browser, status
from tests.support.waiting import Clock, eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")

DAMAGED = [
    b"null", b"5", b"", b"[]", b"[1, 2]", b'["one"]', b'{"a": 1, "b": 2}', b"\xff\xfe", b"[" * 100_000, b'"xy"',
    b'["s", {"$ref": 1}]',
]  # fmt: skip


class Cart(ReactiveState):
    items: list[str] = []

    @event
    def add(self, name: str):
        self.items.append(name)


class Profile(ReactiveState):
    name: str = ""


class Counting(MemoryStore):
    """A store that counts what is read of ended sessions, and can wait with that, or fail."""

    def __init__(self):
        super().__init__()
        self.looked_up, self.groups = 0, []
        self.gate: asyncio.Event | None = None
        self.waiting = 0
        self.fails = False

    async def load(self, key):
        found = await super().load(key)
        if key.startswith("ended:"):
            self.looked_up += 1
            if self.fails:
                raise PersistenceError("the disk is away")
            if self.gate is not None:
                self.waiting += 1
                await self.gate.wait()
        return found

    async def group(self, name):
        self.groups.append(name)
        return await super().group(name)


class Site:
    """An app on a store: a process, as far as the store can tell."""

    def __init__(self, store=None, **options):
        self.provider = provider = StateProvider(store=store, event_burst=10_000, **options)
        provider.register_state(Cart, StateConfig(on_login="to_user"))
        provider.register_state(Profile, StateConfig(scope=StateScope.USER))
        self.app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

        @rt("/")
        def index(cart: Cart):
            return Div(f"[{' '.join(cart.items)}]")

        @rt("/profile")
        def profile(profile: Profile):
            return Div("profile")

        sign_in_routes(rt, provider)


@pytest.fixture
def store():
    return Counting()


@asynccontextmanager
async def running(store=None, **options):
    site = Site(store, **options)
    await site.provider.start()
    try:
        yield site
    finally:
        await site.provider.stop()


async def in_and_out(site, user):
    """Sign somebody in and out, and return the cookies of the session that has ended."""
    async with browser(site.app) as client:
        await client.get(f"/in/{user}")
        cookies = dict(client.cookies)
        await client.get("/out")
    return cookies


async def ends_of(store, number):
    """Signs somebody in and out, so that the store has so many ends; the last session's cookies."""
    async with running(store) as site:
        return [await in_and_out(site, f"user{place}") for place in range(number)][-1]


async def profile_of(site, cookies):
    """Return the status of the profile's page for a browser with these cookies."""
    async with browser(site.app, cookies=cookies) as client:
        return (await client.get("/profile")).status_code


# -- what memory has ---------------------------------------------------------------------------------------------------


def test_ends_that_a_store_has_are_forgotten_the_least_recently_used_first(monkeypatch):
    monkeypatch.setattr(module, "RECENT", 3)
    ends = KnownEnds(Clock())
    for name in "abc":
        ends.add(name, SessionEnd(0, 9_999, None, None), is_stored=True)
    assert ends.get("a") is not None
    ends.add("d", SessionEnd(0, 9_999, None, None), is_stored=True)
    assert [name for name in "abcd" if ends.get(name)] == ["a", "c", "d"] and len(ends) == 3


def test_ends_that_no_store_has_are_kept_and_a_flood_of_nobodys_does_not_touch_them(monkeypatch, caplog):
    monkeypatch.setattr(module, "KEPT", 10)
    clock = Clock()
    ends = KnownEnds(clock)
    ends.add("hers", SessionEnd(0, 1_000_000, None, "ann"), is_stored=False)
    for robot in range(1_000):
        ends.add(f"robot {robot}", SessionEnd(0, clock.now + module.NOBODYS_END, None, None), is_stored=False)
    assert ends.get("hers") is not None and len(ends) == 11
    assert caplog.text.count("Give the provider a store") == 1
    clock.now += module.NOBODYS_END
    ends.forget_old()
    assert len(ends) == 1


def test_without_a_store_the_oldest_of_too_many_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    ends = KnownEnds(Clock())
    for name in "abcd":
        ends.add(name, SessionEnd(0, 1_000_000, None, None), is_stored=False)
    assert [name for name in "abcd" if ends.get(name)] == ["b", "c", "d"]


def test_who_lives_is_remembered_as_long_as_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(module, "ALIVE", 10)
    ends = KnownEnds(Clock())
    ends.note_alive("busy")
    for number in range(1_000):
        ends.note_alive(f"robot {number}")
        assert ends.is_alive("busy") and ends.is_alive(f"robot {number}")
        assert len(ends._alive) + len(ends._alive_before) <= 20
    assert not ends.is_alive("robot 1")


def test_who_has_ended_does_not_live_any_more():
    ends = KnownEnds(Clock())
    ends.note_alive("a")
    ends.add("a", SessionEnd(0, 9_999, None, None), is_stored=True)
    assert not ends.is_alive("a") and ends.get("a") is not None


def test_an_end_is_forgotten_when_its_cookies_are_too_old():
    clock = Clock()
    ends = KnownEnds(clock)
    for is_stored in (True, False):
        ends.add("a", SessionEnd(0, clock.now + 5, None, None), is_stored=is_stored)
        assert ends.get("a") is not None
        clock.now += 5
        assert ends.get("a") is None and len(ends) == 0


@pytest.mark.parametrize(
    "ended", [SessionEnd(1, 2, None, None), SessionEnd(1, 2, "next", "7"), SessionEnd(1, 2, "näxt", "ü")]
)
def test_a_note_is_read_as_it_was_written(ended):
    assert read_note("s", write_note(ended)) == (ended.successor, ended.user_id)


@pytest.mark.parametrize("note", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_note_is_reported_and_says_nothing(note, caplog):
    assert read_note("secret-session-id", note) == (None, None)
    assert "cannot be read" in caplog.text and "secret-session-id" not in caplog.text


# -- a store -----------------------------------------------------------------------------------------------------------


async def test_a_start_reads_no_ends_and_they_count_all_the_same(store):
    cookies = await ends_of(store, 20)
    store.groups.clear()
    async with running(store) as site:
        assert store.groups == [] and len(site.provider.sessions.ended.known) == 0
        assert await profile_of(site, cookies) == 401
        assert len(site.provider.sessions.ended.known) == 1


async def test_a_session_is_looked_up_once_after_a_restart_and_a_new_one_never(store):
    async with running(store) as site, browser(site.app) as client:
        page = await Page.open(client)
        for _ in range(5):
            assert status(await page.send("Cart", "add", name="tea")) < 300
            await client.get("/")
        await client.get("/in/ann")
        await client.get("/profile")
        assert store.looked_up <= 1  # before the sign-in, which asks whether somebody was first
        cookies = dict(client.cookies)
    store.looked_up = 0
    async with running(store) as site, browser(site.app, cookies=cookies) as client:
        for _ in range(5):
            page = await Page.open(client)
            assert status(await page.send("Cart", "add", name="tea")) < 300
        assert (await client.get("/profile")).status_code == 200
        assert store.looked_up == 1


async def test_a_session_that_ends_while_it_is_looked_up_has_ended(store):
    async with running(store) as site, browser(site.app) as client:
        await client.get("/in/ann")
        cookies = dict(client.cookies)
    async with running(store) as site, browser(site.app, cookies=cookies) as client:
        store.gate = asyncio.Event()
        looking = asyncio.create_task(client.get("/profile"))
        await eventually(lambda: store.waiting)
        gate, store.gate = store.gate, None
        async with browser(site.app, cookies=cookies) as other:
            assert (await other.get("/out")).status_code == 200
        gate.set()
        assert (await looking).status_code == 401
        assert await profile_of(site, cookies) == 401


async def test_where_the_store_cannot_be_asked_nobody_is_signed_in_and_no_cookie_is_lost(store):
    async with running(store) as site, browser(site.app) as client:
        await client.get("/in/ann")
        cookies = dict(client.cookies)
    async with running(store) as site, browser(site.app, cookies=cookies) as client:
        store.fails = True
        response = await client.get("/profile")
        assert response.status_code == 503 and "set-cookie" not in response.headers
        answer = await client.post("/_faststate/event/Cart/add", json={"a": {"name": "tea"}}, headers=BROWSER)
        assert (answer.status_code, status(answer)) == (200, 503) and "Please try again" in answer.text
        stream = await client.post("/_faststate/stream", json={}, headers=BROWSER)
        assert stream.status_code == 503 and stream.headers["retry-after"]
        store.fails = False
        assert (await client.get("/profile")).status_code == 200


async def test_an_old_end_is_looked_up_again_when_memory_has_forgotten_it(store, monkeypatch):
    monkeypatch.setattr(module, "RECENT", 2)
    async with running(store) as site:
        old = [await in_and_out(site, f"user{place}") for place in range(6)]
        assert len(site.provider.sessions.ended.known) <= 2
        for cookies in old:
            assert await profile_of(site, cookies) == 401
        assert len(site.provider.sessions.ended.known) <= 2


async def test_an_end_that_could_not_be_stored_stays_in_memory(monkeypatch):
    monkeypatch.setattr(module, "RECENT", 2)

    class Failing(Counting):
        full = False

        async def save(self, write):
            if self.full:
                raise PersistenceError("the disk is full")
            await super().save(write)

    store = Failing()
    async with running(store) as site:
        async with browser(site.app) as client:
            await client.get("/in/ann")
            cookies = dict(client.cookies)
            store.full = True
            assert (await client.get("/out")).status_code == 503
            store.full = False
        for place in range(5):
            await in_and_out(site, f"user{place}")
        assert await profile_of(site, cookies) == 401


async def test_a_second_sign_in_goes_on_where_the_first_one_led_over_a_restart(store):
    async with running(store) as site, browser(site.app) as client:
        await (await Page.open(client)).send("Cart", "add", name="tea")
        guest = dict(client.cookies)
        await client.get("/in/ann")
    async with running(store) as site, browser(site.app, cookies=guest) as client:
        await client.get("/in/ann")
        assert "[tea]" in (await client.get("/")).text


@pytest.mark.parametrize("note", DAMAGED, ids=range(len(DAMAGED)))
async def test_one_damaged_note_keeps_nobody_from_starting_and_its_session_stays_ended(note, caplog):
    store = SQLiteStore("state.db")
    cookies = await ends_of(store, 2)
    marks = await store.group("ended")
    assert len(marks) >= 2
    for key in marks:
        await store.delete([key])
        await store.save(Write(key, None, Version("", 1), note, None, "ended"))
    async with running(store) as site:
        async with browser(site.app) as other:
            assert (await other.get("/")).status_code == 200
        async with browser(site.app, cookies=cookies) as client:
            assert (await client.get("/profile")).status_code == 401
            assert "cannot be read" in caplog.text
            assert (await client.get("/in/ann")).status_code == 200
            assert (await client.get("/profile")).status_code == 200


async def test_what_is_remembered_costs_no_memory_at_all_until_it_is_asked_for(store):
    await store.save_many(
        [Write(f"ended:s{n}", None, Version("", 1), b'["next", "1"]', 1e6, "ended") for n in range(5_000)]
    )
    async with running(store) as site:
        assert len(site.provider.sessions.ended.known) == 0 and "ended" not in store.groups
        await site.provider.sessions.ended.settle("s4999")
        assert site.provider.sessions.ended.is_ended("s4999") and len(site.provider.sessions.ended.known) == 1


def test_who_was_not_heard_of_for_long_is_not_remembered_as_living():
    clock = Clock()
    ends = KnownEnds(clock)
    ends.note_alive("a")
    for _ in range(2):
        assert ends.is_alive("a")
        clock.now += module.ALIVE_FOR
        ends.forget_old()
    assert ends.is_alive("a")
    for _ in range(2):
        clock.now += module.ALIVE_FOR
        ends.forget_old()
    assert not ends.is_alive("a") and not ends._alive | ends._alive_before
