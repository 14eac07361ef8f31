"""States that are kept: over restarts, on failing stores, in older forms. On every store that there is."""

import asyncio
import json
import logging
import math
from typing import Any, ClassVar

import pytest
from fasthtml.common import Div
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from faststate import (
    AsSignal,
    ConfigurationError,
    EventDefinitionError,
    PersistenceError,
    ReactiveState,
    ServerOnly,
    SSEConnection,
    StateConfig,
    StateIdentifier,
    StateNotFoundError,
    StateProvider,
    StateScope,
    VersionConflict,
    event,
    fast_app,
)
from faststate.scopes import Version, signal_segment
from faststate.sessions.config import Ids
from faststate.stores.base import Write
from faststate.stores.memory import MemoryStore
from faststate.stores.sqlite import SQLiteStore
from tests.support.apps import sign_in_routes
from tests.support.client import Page, browser, message, patched_signals, status
from tests.support.requests import request_of
from tests.support.states import provider_of, set_fields
from tests.support.waiting import Clock

SECRET = "for tests"


class Disk:
    """A kind of store, and how a new process gets at what the old one has stored. Lifetime: the test."""

    def __init__(self, kind, directory, clock):
        self.kind, self.path, self.clock = kind, directory / "state.db", clock
        self.memory = MemoryStore(clock)

    def store(self):
        return SQLiteStore(self.path, clock=self.clock) if self.kind == "sqlite" else self.memory


@pytest.fixture
def clock():
    return Clock(1_000_000.0)


@pytest.fixture(params=["memory", "sqlite"])
def disk(request, tmp_path, clock):
    return Disk(request.param, tmp_path, clock)


class Item(BaseModel):
    name: str
    cost: ServerOnly[int] = 1


class Cart(ReactiveState):
    items: list[Item] = []
    tags: set[str] = set()
    total: int = 0
    secret: ServerOnly[str] = "none"
    _cache: int = 0

    @event
    def add(self, name: str, cost: int = 1):
        self.items.append(Item(name=name, cost=cost))
        self.tags.add(name)
        self.total += cost
        self.secret = f"paid {cost}"

    @event
    def look(self):
        pass

    @event
    async def steps(self):
        for number in range(3):
            self.total += 1
            yield
            if number == 1 and trouble:
                raise RuntimeError("the second step was the last")


class Stock(ReactiveState):
    left: int = 10

    @event
    def take(self, cart: Cart, name: str):
        self.left -= 1
        cart.items.append(Item(name=name))

    @event
    def fill(self, cart: Cart, name: str):
        cart.items.append(Item(name=name))


class Profile(ReactiveState):
    name: str = ""

    @event
    def rename(self, name: str):
        self.name = name


class Step(ReactiveState):
    done: int = 0

    @event
    def go(self):
        self.done += 1


class Note(ReactiveState):
    text: str = "empty"
    shown: AsSignal[dict[str, int]] = {}

    @event(expect_version=True)
    def write(self, text: str):
        self.text = text

    @event
    def touch(self):
        self.shown["n"] = self.shown.get("n", 0) + 1


class Loose(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1


trouble = []


@pytest.fixture(autouse=True)
def no_trouble():
    trouble.clear()


class Site:
    """An app with all kinds of states on one store: a process, as far as the store can tell."""

    def __init__(self, store, clock, note=None, stock=None, **options):
        self.provider = provider = StateProvider(store=store, clock=clock, event_burst=100_000, **options)
        provider.register_state(Cart, StateConfig(on_login="to_user"))
        provider.register_state(Stock, stock or StateConfig(scope=StateScope.GLOBAL))
        provider.register_state(Profile, StateConfig(scope=StateScope.USER))
        provider.register_state(Step, StateConfig(scope=StateScope.TEMPORARY))
        provider.register_state(Note, note or StateConfig(scope=StateScope.RECORD))
        provider.register_state(Loose, StateConfig(in_memory=True))
        self.app, rt = fast_app(state_provider=provider, secret_key=SECRET, pico=False)

        @rt("/")
        def index(cart: Cart, stock: Stock, loose: Loose):
            return Div(
                f"[{' '.join(i.name for i in cart.items)}] {cart.total} {stock.left} {loose.n}", cart.signal.total
            )

        @rt("/step")
        def step(step: Step):
            return Div(step.signal.done)

        @rt("/notes/{note_id}")
        def show_note(note: Note):
            return Div(note.signal.text, note.write.on("click"))

        @rt("/profile")
        def profile(profile: Profile):
            return Div(f"name: {profile.name}")

        sign_in_routes(rt, provider)


@pytest.fixture
async def running(disk, clock):
    """Starts a site on the disk; the one before ends first, in good order, or as if its process had been killed."""
    sites = []

    async def start(*, kill=False, **options):
        for old in sites:
            if kill:
                await old.provider.store.close()  # the lock goes with a killed process; nothing else is done
            else:
                await old.provider.stop()
        sites.clear()
        site = Site(disk.store(), clock, **options)
        sites.append(site)
        await site.provider.start()
        for client in clients:
            client._transport.app = site.app
        return site

    start.clients = clients = []
    yield start
    for site in sites:
        await site.provider.stop()


@pytest.fixture
async def site(running):
    """The first site that is started on the disk."""
    return await running()


@pytest.fixture
def provider(site):
    return site.provider


@pytest.fixture
async def client(running, site):
    """A browser, which goes on with the site that is started next."""
    async with browser(site.app) as client:
        running.clients.append(client)
        yield client


@pytest.fixture
async def page(client):
    """The page at / of the browser `client`."""
    return await Page.open(client)


@pytest.fixture
async def deploy(disk, clock):
    """Starts a provider that knows one global class on the disk; the one before ends first."""
    started = []

    async def start(cls):
        while started:
            await started.pop().stop()
        started.append(provider_of(cls, StateConfig(scope=StateScope.GLOBAL), store=disk.store(), clock=clock))
        await started[0].start()
        return started[0]

    yield start
    while started:
        await started.pop().stop()


async def cart_page_of(site, user):
    """Sign in from a new browser, and return the page that shows the user's cart."""
    async with browser(site.app) as client:
        await client.get(f"/in/{user}")
        return (await client.get("/")).text


# -- over a restart ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_states_of_all_scopes_outlive_the_process(client, site, running, kill):
    await client.get("/in/ann")
    page = await Page.open(client)
    assert (await page.send("Cart", "add", name="tea", cost=3)).status_code == 200
    assert status(await page.send("Stock", "take", name="rum")) == 200
    assert status(await (await Page.open(client, "/profile")).send("Profile", "rename", name="Ann")) == 200
    note = await Page.open(client, "/notes/7")
    assert status(await note.send("Note", "touch", instance_id="7")) == 200
    site = await running(kill=kill)
    text = (await client.get("/")).text
    assert "[tea rum] 3 9 0" in text
    assert "name: Ann" in (await client.get("/profile")).text
    cart = site.provider.registry.peek("user:Cart:userann")
    assert [item.cost for item in cart.items] == [3, 1] and cart.secret == "paid 3" and cart.tags == {"tea"}
    assert site.provider.registry.peek("record:Note:7") is None
    assert (await Page.open(client, "/notes/7")).signals["Note"]["7"]["shown"] == {"n": 1}


def own_id(site):
    """The id of the one TEMPORARY state that there is."""
    [key] = [key for key in site.provider.registry.live if key.startswith("temporary:")]
    return StateIdentifier.parse(key).component_id


async def test_a_page_that_was_open_over_the_restart_goes_on_where_it_was(client, site, running):
    page, step = await Page.open(client), await Page.open(client, "/step")
    step_id = own_id(site)
    await page.send("Cart", "add", name="tea")
    await step.send("Step", "go", instance_id=step_id)
    await running(kill=True)
    assert patched_signals((await page.send("Cart", "add", name="rum")).text)["Cart"]["total"] == 2
    answer = await step.send("Step", "go", instance_id=step_id)
    assert patched_signals(answer.text)["Step"][signal_segment(step_id)]["done"] == 2


async def test_a_temporary_state_that_nobody_changed_is_gone_with_the_process_and_its_page_loads_anew(
    client, site, running
):
    step, step_id = await Page.open(client, "/step"), own_id(site)
    await running()
    answer = await step.send("Step", "go", instance_id=step_id)
    assert patched_signals(answer.text)["_fs"]["go"] == "#reload"


async def test_what_is_only_looked_at_leaves_nothing_in_the_store(site):
    for _ in range(20):
        async with browser(site.app) as client:
            page = await Page.open(client)
            assert status(await page.send("Cart", "look")) == 204
    assert site.provider.stats().saves == 0


async def test_a_state_that_its_class_would_not_make_again_is_stored_when_it_is_made(disk, clock):
    class Dice(ReactiveState):
        made: int = Field(default_factory=iter(range(1, 100)).__next__)

    class Made(ReactiveState):
        by: str = ""

    async def create(identifier):
        return {"by": f"the first for {identifier.user_id}"}

    def provider():
        found = StateProvider(store=disk.store(), clock=clock)
        found.register_state(Dice, StateConfig(scope=StateScope.GLOBAL))
        found.register_state(Made, StateConfig(scope=StateScope.USER, create=create))
        return found

    first = provider()
    async with first.modify(Dice) as dice, first.modify(Made, user_id=1) as made:
        assert (dice.made, made.by) == (1, "the first for 1")
    await first.stop()
    second = provider()
    async with second.modify(Dice) as dice, second.modify(Made, user_id=1) as made:
        assert (dice.made, made.by) == (1, "the first for 1")
    await second.stop()


async def test_a_class_that_stays_in_memory_is_not_stored(page, client, site):
    await page.send("Loose", "add")
    assert " 1</div>" in (await client.get("/")).text.replace("<span", "</div>")
    assert site.provider.stats().saves == 0


async def test_without_a_store_only_auto_persist_is_kept_in_a_file_where_the_app_runs(in_tmp_path):
    def provider():
        made = StateProvider()
        made.register_state(Stock, StateConfig(scope=StateScope.GLOBAL))
        made.register_state(Loose, StateConfig(scope=StateScope.GLOBAL, auto_persist=True))
        made.register_state(Profile, StateConfig(scope=StateScope.USER))
        return made

    first = provider()
    async with first.modify(Stock) as stock, first.modify(Loose) as loose, first.modify(Profile, user_id=1) as profile:
        stock.left, loose.n, profile.name = 1, 1, "Ann"
    await first.stop()
    assert (in_tmp_path / "faststate.db").is_file()
    second = provider()
    async with second.modify(Stock) as stock, second.modify(Loose) as loose, second.modify(Profile, user_id=1) as user:
        assert (stock.left, loose.n, user.name) == (10, 1, "")
    await second.stop()


async def test_without_auto_persist_no_file_is_made(in_tmp_path):
    provider = provider_of(Stock, StateConfig(scope=StateScope.GLOBAL))
    await set_fields(provider.modify(Stock), left=1)
    await provider.stop()
    assert list(in_tmp_path.iterdir()) == []


def test_the_environment_names_another_store(monkeypatch, in_tmp_path):
    monkeypatch.setenv("FASTSTATE_STORE", "sqlite:///deployed.db")
    assert StateProvider(store="memory://").store.path == (in_tmp_path / "deployed.db").resolve()
    assert StateProvider().store.path.name == "deployed.db"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"store": "mysql://x"}, "sqlite:///state.db"),
        ({"store": "redis://localhost?prefix="}, "redis://"),
        ({"store": 7}, "StateStore"),
        ({"store_timeout": 0}, "store_timeout"),
        ({"max_states": 0}, "max_states"),
    ],
)
def test_a_store_that_cannot_be_is_refused_when_the_provider_is_made(options, said):
    with pytest.raises(ConfigurationError, match=said):
        StateProvider(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"in_memory": True, "auto_persist": True}, "choose one"),
        ({"records": (lambda i: None, lambda i, c: None)}, "RECORD"),
        ({"to_state": dict}, "pair"),
        ({"to_state": dict, "to_row": dict}, "records="),
        (
            {"scope": StateScope.RECORD, "records": (lambda record_id: None, lambda r, c: None), "create": dict},
            "nothing to create",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(ConfigurationError, match=said):
        StateConfig(**options)


async def test_a_value_that_would_not_come_back_is_refused_and_nothing_is_stored(deploy):
    class Animal(BaseModel):
        name: str

    class Dog(Animal):
        tricks: int = 3

    class Zoo(ReactiveState):
        animals: list[Animal] = []

    provider = await deploy(Zoo)
    with pytest.raises(ConfigurationError, match=r"Zoo\.animals"):
        async with provider.modify(Zoo) as zoo:
            zoo.animals.append(Dog(name="Rex"))
    async with provider.modify(Zoo) as zoo:
        assert zoo.animals == []
        zoo.animals.append(Animal(name="Tom"))


# -- a store that fails ------------------------------------------------------------------------------------------------


class Flaky(MemoryStore):
    """A store that fails when it is told to: before it has saved, after it, or by never answering."""

    def __init__(self, clock):
        super().__init__(clock)
        self.fails = ""
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def load(self, key):
        if self.fails == "all":
            raise OSError("the disk is gone")
        return await super().load(key)

    async def save(self, write):
        await self.save_many([write])

    async def save_many(self, writes):
        self.asked.set()
        if self.fails in ("before", "all"):
            raise OSError("the disk is full")
        if self.fails == "hang":
            await asyncio.Event().wait()
        if self.fails == "wait":
            await self.go_on.wait()
        await super().save_many(writes)
        if self.fails == "after":
            raise OSError("the wire was cut")
        if self.fails == "hang after":
            await asyncio.Event().wait()


@pytest.fixture
async def flaky(clock, request):
    store = Flaky(clock)
    # Short only for the tests that wait for it to be over: on a busy machine any step may take as long.
    callspec = getattr(request.node, "callspec", None)
    hangs = callspec is not None and "hang" in str(callspec.params.get("fails"))
    site = Site(store, clock, store_timeout=0.2 if hangs else 60)
    yield site
    store.fails = ""
    await site.provider.stop()


@pytest.fixture
async def flaky_client(flaky):
    async with browser(flaky.app) as client:
        yield client


@pytest.fixture
async def flaky_page(flaky_client):
    return await Page.open(flaky_client)


@pytest.mark.parametrize("fails", ["before", "hang", "all"])
async def test_an_event_that_cannot_be_stored_is_a_503_and_nothing_is_changed(
    flaky_page, flaky_client, flaky, fails, caplog
):
    await flaky_page.send("Cart", "add", name="tea")
    flaky.provider.store.fails = fails
    answer = await flaky_page.send("Cart", "add", name="rum")
    assert status(answer) == 503 and message(answer) == "This could not be saved. Please try again."
    assert "rum" not in answer.text and "[tea]" in (await flaky_client.get("/")).text
    flaky.provider.store.fails = ""
    assert status(await flaky_page.send("Cart", "add", name="gin")) == 200
    assert "[tea gin]" in (await flaky_client.get("/")).text
    assert "could not be saved" in caplog.text


@pytest.mark.parametrize("fails", ["after", "hang after"])
async def test_what_was_stored_though_the_store_did_not_say_so_is_found_out(flaky_page, flaky_client, flaky, fails):
    await flaky_page.send("Cart", "add", name="tea")
    flaky.provider.store.fails = fails
    nonce = "a" * 12
    assert status(await flaky_page.send("Cart", "add", name="rum", nonce=nonce)) == 503
    flaky.provider.store.fails = ""
    assert "[tea rum]" in (await flaky_client.get("/")).text
    answer = await flaky_page.send("Cart", "add", name="rum", nonce=nonce)  # tried again, as the page was told
    assert status(answer) == 200 and flaky.provider.stats().repeated == 1
    assert "[tea rum]" in (await flaky_client.get("/")).text


async def test_a_first_save_that_failed_is_followed_by_one_that_does_not(flaky_page, flaky_client, flaky):
    flaky.provider.store.fails = "before"
    assert status(await flaky_page.send("Cart", "add", name="tea")) == 503
    flaky.provider.store.fails = ""
    assert status(await flaky_page.send("Cart", "add", name="rum")) == 200
    assert "[rum]" in (await flaky_client.get("/")).text


async def test_while_a_doubtful_state_cannot_be_loaded_it_is_not_changed(flaky_page, flaky_client, flaky):
    await flaky_page.send("Cart", "add", name="tea")
    flaky.provider.store.fails = "all"
    assert status(await flaky_page.send("Cart", "add", name="rum")) == 503
    assert status(await flaky_page.send("Cart", "look")) == 503
    assert "[tea]" in (await flaky_client.get("/")).text


async def test_a_page_whose_state_cannot_be_loaded_is_a_503(flaky_client, flaky, caplog):
    flaky.provider.store.fails = "all"
    answer = await flaky_client.get("/")
    assert answer.status_code == 503 and "disk" not in answer.text
    assert "could not be loaded" in caplog.text


async def test_two_states_of_one_event_are_stored_both_or_none(flaky_page, flaky_client, flaky):
    flaky.provider.store.fails = "before"
    assert status(await flaky_page.send("Stock", "take", name="rum")) == 503
    assert "[] 0 10 0" in (await flaky_client.get("/")).text
    flaky.provider.store.fails = ""
    assert status(await flaky_page.send("Stock", "take", name="rum")) == 200
    assert "[rum] 0 9 0" in (await flaky_client.get("/")).text


async def test_modify_raises_what_the_store_did_and_leaves_no_trace(flaky):
    provider = flaky.provider
    await set_fields(provider.modify(Stock), left=9)
    provider.store.fails = "before"
    with pytest.raises(PersistenceError) as caught:
        await set_fields(provider.modify(Stock), left=8)
    assert isinstance(caught.value.__cause__, OSError)
    assert provider.registry.peek("global:Stock").left == 9


async def test_nobody_is_told_of_a_change_before_it_is_stored(flaky):
    provider, store = flaky.provider, flaky.provider.store
    await set_fields(provider.modify(Stock), left=9)
    store.fails = "wait"
    store.asked.clear()

    task = asyncio.create_task(set_fields(provider.modify(Stock), left=8))
    await store.asked.wait()
    assert provider.registry.peek("global:Stock").left == 9
    store.go_on.set()
    await task
    assert provider.registry.peek("global:Stock").left == 8


async def test_a_cancelled_request_ends_the_commit_that_it_began(flaky):
    provider, store = flaky.provider, flaky.provider.store
    store.fails = "wait"

    task = asyncio.create_task(set_fields(provider.modify(Stock), left=8))
    await store.asked.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second time, while it waits
    store.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider.registry.peek("global:Stock").left == 8
    store.fails = ""
    async with provider.modify(Stock) as stock:  # the lock was given back, and the version is the stored one
        assert stock.left == 8
        stock.left = 7
    assert provider.registry.peek("global:Stock").left == 7


async def test_a_repeated_event_of_a_cancelled_request_is_not_applied_twice(flaky_page, flaky_client, flaky):
    store = flaky.provider.store
    store.fails = "wait"
    task = asyncio.create_task(flaky_page.send("Cart", "add", name="tea", nonce="b" * 12))
    await store.asked.wait()
    task.cancel()
    store.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.fails = ""
    await flaky_page.send("Cart", "add", name="tea", nonce="b" * 12)
    assert "[tea]" in (await flaky_client.get("/")).text


async def test_stopping_waits_for_commits_under_way(flaky):
    provider, store = flaky.provider, flaky.provider.store
    store.fails = "wait"

    task = asyncio.create_task(set_fields(provider.modify(Stock), left=8))
    await store.asked.wait()
    stopping = asyncio.create_task(provider.stop())
    store.go_on.set()
    await asyncio.gather(task, stopping)
    assert json.loads((await store.load("global:Stock")).data)["values"]["left"] == 8


async def test_an_app_whose_store_cannot_be_opened_answers_503_until_it_can(clock):
    class Closed(MemoryStore):
        shut = True

        async def open(self):
            if self.shut:
                raise PersistenceError("it belongs to another process")

    site = Site(Closed(clock), clock)
    async with browser(site.app) as client:
        assert (await client.get("/")).status_code == 503
        site.provider.store.shut = False
        assert (await client.get("/")).status_code == 200
    await site.provider.stop()


# -- versions ----------------------------------------------------------------------------------------------------------


async def overwrite(site, key, left, version=None):
    """Another writer, who has the store too, as with Redis: a new version of `key`, a Stock."""
    store = site.provider.store
    found = await store.load(key)
    data = json.loads(found.data)
    data["values"]["left"] = left
    version = version or Version(found.version.epoch, found.version.number + 1)
    await store.save(Write(key, found.version, version, json.dumps(data).encode()))


async def test_an_older_writer_never_overwrites_a_newer_one(provider, site):
    await set_fields(provider.modify(Stock), left=9)
    await overwrite(site, "global:Stock", 5)
    with pytest.raises(VersionConflict):
        await set_fields(provider.modify(Stock), left=8)
    async with provider.modify(Stock) as stock:  # which knows the newer one by now
        assert stock.left == 5
        stock.left -= 1
    assert provider.registry.peek("global:Stock")._committed.version == 4


async def test_a_conflict_tells_all_pages_of_the_newer_version(page, site):
    await page.send("Stock", "take", name="a")
    told = []
    site.provider.registry.followers.committed = lambda commit: told.append(commit.delta)
    await overwrite(site, "global:Stock", 5)
    assert status(await page.send("Stock", "take", name="b")) == 503
    assert told == [{"left": 5}]


async def test_a_state_that_was_made_anew_is_not_taken_for_its_former_self(provider, site):
    for left in (9, 8, 7):
        await set_fields(provider.modify(Stock), left=left)
    await overwrite(site, "global:Stock", 1, Version("another life", 4))
    with pytest.raises(VersionConflict):  # of the same number, and yet another one
        await set_fields(provider.modify(Stock), left=6)
    assert provider.registry.peek("global:Stock").left == 1


async def test_a_state_that_was_deleted_from_the_store_begins_anew(provider):
    await set_fields(provider.modify(Stock), left=9)
    await provider.store.delete(["global:Stock"])
    with pytest.raises(VersionConflict):
        await set_fields(provider.modify(Stock), left=8)
    async with provider.modify(Stock) as stock:
        assert stock.left == 10


async def test_a_script_that_does_not_own_the_store_works_on_what_is_stored_now(disk, clock):
    store = disk.store()
    one, two = (StateProvider(store=store, clock=clock) for _ in range(2))
    for provider in (one, two):
        provider.register_state(Stock, StateConfig(scope=StateScope.GLOBAL))
    for provider in (one, two, one, two):
        async with provider.modify(Stock) as stock:
            stock.left -= 1
    assert two.registry.peek("global:Stock").left == 6
    await one.stop()
    await two.stop()


def test_a_plain_with_outside_the_loop_stores_too(disk, clock):
    for left in (9, 8):
        provider = provider_of(Stock, StateConfig(scope=StateScope.GLOBAL), store=disk.store(), clock=clock)
        with provider.modify(Stock) as stock:
            stock.left -= 1
            assert stock.left == left


# -- events happen once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_of", ["Cart add", "Stock take", "Stock fill"])
async def test_an_event_whose_answer_was_lost_with_the_process_happens_once(page, client, site, running, event_of):
    state, name = event_of.split()
    nonce = "c" * 12
    await page.send(state, name, name="tea", nonce=nonce)
    site = await running(kill=True)
    assert status(await page.send(state, name, name="tea", nonce=nonce)) == 200
    assert site.provider.stats().repeated == 1
    assert "[tea]" in (await client.get("/")).text


async def test_a_generator_s_steps_are_stored_each_and_a_repeat_does_not_begin_it_again(page, client, site, running):
    trouble.append(True)
    assert status(await page.send("Cart", "steps", nonce="d" * 12)) == 500
    await running(kill=True)
    assert "[] 2 10" in (await client.get("/")).text
    await page.send("Cart", "steps", nonce="d" * 12)
    assert "[] 2 10" in (await client.get("/")).text


async def test_nonces_are_stored_for_some_minutes_alone(page, site, clock):
    for _ in range(50):
        await page.send("Cart", "add", name="x")
    [key] = site.provider.registry.keys_of_session(next(iter(site.provider.registry.live.by_session)))[:1]
    assert len(json.loads((await site.provider.store.load(key)).data)["nonces"]) == 50
    clock.now += 301
    await page.send("Cart", "add", name="x")
    assert len(json.loads((await site.provider.store.load(key)).data)["nonces"]) == 1


# -- classes that change -----------------------------------------------------------------------------------------------


def version_of(number, body, **extra):
    """A class Doc as it was, or is, in one deployment."""
    return type("Doc", (ReactiveState,), {"__module__": __name__, "__qualname__": "Doc", **body, **extra})


def doc(annotations, defaults=None, **members):
    return version_of(1, {"__annotations__": annotations, **(defaults or {}), **members})


async def test_new_fields_take_their_defaults_and_removed_ones_are_dropped(deploy):
    old = doc({"title": str, "gone": int}, {"title": "", "gone": 1})
    provider = await deploy(old)
    await set_fields(provider.modify(old), title="kept", gone=5)
    new = doc({"title": str, "pages": int}, {"title": "", "pages": 3})
    provider = await deploy(new)
    async with provider.modify(new) as state:
        assert (state.title, state.pages) == ("kept", 3)
        state.pages = 4
    assert provider.stats().kept_aside == 0


async def test_renamed_fields_go_through_migrate(deploy):
    old = doc({"title": str}, {"title": ""})
    provider = await deploy(old)
    await set_fields(provider.modify(old), title="kept")
    seen = []

    def migrate(cls, values, version):
        seen.append((values, version))
        values = dict(values)
        values["name"] = values.pop("title")
        return values

    new = doc({"name": str}, {"name": ""}, migrate=classmethod(migrate))
    provider = await deploy(new)
    async with provider.modify(new) as state:
        assert state.name == "kept"
    assert seen == [({"title": "kept"}, 1)]


async def test_a_new_schema_version_goes_through_migrate_though_the_fields_are_the_same(deploy):
    old = doc({"price": int}, {"price": 0})
    provider = await deploy(old)
    await set_fields(provider.modify(old), price=3)

    def migrate(cls, values, version):
        return {**values, "price": values["price"] * 100} if version < 2 else values

    new = doc(
        {"price": int, "schema_version": ClassVar[int]}, {"price": 0, "schema_version": 2}, migrate=classmethod(migrate)
    )
    for _ in range(2):  # the second time it is stored in the new version
        provider = await deploy(new)
        async with provider.modify(new) as state:
            assert state.price == 300
            state.price = 301
            state.price = 300
        async with provider.modify(new) as state:
            state.price += 1
        async with provider.modify(new) as state:
            state.price -= 1


def broken_migrate(cls, values, version):
    raise KeyError("title")


@pytest.mark.parametrize(
    "new",
    [
        doc({"title": int}, {"title": 1}),
        doc({"name": str}, {"name": "x"}, migrate=classmethod(broken_migrate)),
        doc({"name": str}, {"name": "x"}, migrate=classmethod(lambda cls, values, version: None)),
    ],
    ids=["does not validate", "migrate fails", "migrate gives nothing"],
)
async def test_what_does_not_fit_any_more_is_kept_aside_and_reported(deploy, new, caplog):
    old = doc({"title": str}, {"title": ""})
    provider = await deploy(old)
    await set_fields(provider.modify(old), title="a secret text")
    data = (await provider.store.load("global:Doc")).data
    with caplog.at_level(logging.ERROR):
        provider = await deploy(new)
        async with provider.modify(new) as state:
            assert state == new()  # begins anew
    assert provider.stats().kept_aside == 1
    assert "global:Doc" in caplog.text and "secret text" not in caplog.text
    [(key, aside)] = (await provider.store.group("aside")).items()
    assert key.startswith("aside:global:Doc:") and aside.data == data
    async with provider.modify(new) as state:
        setattr(state, next(iter(new.model_fields)), new.model_validate({}).model_dump().popitem()[1] * 2)
    assert len(await provider.store.group("aside")) == 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"[]", b"{}", b'{"schema":1,"nonces":[],"values":[]}', b"[" * 100_000])
async def test_broken_bytes_are_kept_aside_too(deploy, disk, data):
    store = disk.store()
    await store.save(Write("global:Stock", None, Version("e", 3), data))
    await store.close()
    provider = await deploy(Stock)
    async with provider.modify(Stock) as stock:
        assert stock.left == 10
        stock.left = 9
    assert provider.stats().kept_aside == 1
    assert [found.data for found in (await provider.store.group("aside")).values()] == [data]


def test_a_state_may_override_migrate_and_schema_version_and_nothing_else():
    class Fine(ReactiveState):
        schema_version: ClassVar[int] = 4

        @classmethod
        def migrate(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
            return values

    assert Fine.schema_version == 4


# -- expected versions -------------------------------------------------------------------------------------------------


async def test_an_event_that_expects_the_version_shown_is_refused_when_the_state_has_changed(client):
    page = await Page.open(client, "/notes/7")
    seen = page.signals["Note"]["7"]["_version"]
    first = await send_version(page, seen, text="mine")
    assert status(first) == 200
    own = patched_signals(first.text)["Note"]["7"]
    assert own["text"] == "mine" and own["_version"] != seen
    second = await send_version(page, seen, text="yours")
    assert status(second) == 409 and "changed meanwhile" in message(second)
    fresh = patched_signals(second.text)["Note"]["7"]
    assert fresh["text"] == "mine" and fresh["_version"] == own["_version"]
    assert status(await send_version(page, fresh["_version"], text="now")) == 200


def send_version(page, version, **arguments):
    body = {"a": arguments, "i": "7", "v": version, "w": page.tokens}
    headers = {"datastar-request": "true", "content-type": "application/json", "faststate-nonce": f"{len(sent):012}"}
    sent.append(1)
    return page.client.post(f"{page.url}event/Note/write", content=json.dumps(body), headers=headers)


sent: list[int] = []


@pytest.mark.parametrize("version", [None, "", 7, ["x"], "x" * 10_000])
async def test_no_version_and_a_false_one_are_refused(client, version):
    page = await Page.open(client, "/notes/7")
    assert status(await send_version(page, version, text="x")) in (400, 409)
    assert "empty" in (await client.get("/notes/7")).text


async def test_the_version_shown_holds_over_a_restart_and_not_over_another_life(client, site, running):
    page = await Page.open(client, "/notes/7")
    await page.send("Note", "touch", instance_id="7")
    seen = (await Page.open(client, "/notes/7")).signals["Note"]["7"]["_version"]
    site = await running(kill=True)
    assert status(await send_version(page, seen, text="a")) == 200
    seen = (await Page.open(client, "/notes/7")).signals["Note"]["7"]["_version"]
    await site.provider.delete(Note, record_id="7")
    assert status(await send_version(page, seen, text="b")) == 409


async def test_server_code_is_not_asked_for_a_version(site):
    request = request_of({}, {"note_id": "1"})
    note = await site.provider.get_state(Note, request, record_id="1")
    await note.write.run(text="a")
    await note.write.run(text="b")
    assert site.provider.registry.peek("record:Note:1").text == "b"


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_an_ended_session_is_ended_for_the_next_process_too(client, site, running):
    await client.get("/in/ann")
    page = await Page.open(client)
    await page.send("Cart", "add", name="tea")
    old = dict(client.cookies)
    await client.get("/out")
    site = await running(kill=True)
    async with browser(site.app, cookies=old) as client:
        assert "[tea]" not in (await client.get("/")).text
        assert (await client.get("/profile")).status_code == 401


async def test_a_guest_s_stored_states_go_along_at_sign_in_though_they_are_not_in_memory(page, client, site, running):
    await page.send("Cart", "add", name="tea")
    site = await running()
    await client.get("/in/ann")
    assert "[tea]" in (await client.get("/")).text
    site = await running(kill=True)
    assert "[tea]" in await cart_page_of(site, "ann")


async def test_a_stored_state_of_the_user_stays_the_user_s_when_a_guest_with_another_signs_in(client, site, running):
    await client.get("/in/ann")
    await (await Page.open(client)).send("Cart", "add", name="hers")
    site = await running()
    async with browser(site.app) as client:
        await (await Page.open(client)).send("Cart", "add", name="guests")
        assert "[guests]" in (await client.get("/")).text
        await client.get("/in/ann")
        assert "[hers]" in (await client.get("/")).text
    site = await running(kill=True)
    assert "[hers]" in await cart_page_of(site, "ann")


async def test_a_guest_who_has_only_looked_finds_the_user_s_stored_state_after_signing_in(client, site, running):
    await client.get("/in/ann")
    await (await Page.open(client)).send("Cart", "add", name="hers")
    site = await running()
    async with browser(site.app) as client:
        assert "[]" in (await client.get("/")).text
        await client.get("/in/ann")
        assert "[hers]" in (await client.get("/")).text


async def test_signing_out_takes_the_session_s_states_out_of_the_store(client, site, running):
    await (await Page.open(client)).send("Cart", "add", name="tea")
    [session_id] = site.provider.registry.live.by_session
    assert await site.provider.store.group(session_id)
    site = await running()  # they are not in memory now
    await client.get("/out")
    assert not await site.provider.store.group(session_id)


async def test_a_sign_in_that_cannot_be_stored_signs_nobody_in(flaky_client, flaky):
    await (await Page.open(flaky_client)).send("Cart", "add", name="tea")
    before = dict(flaky_client.cookies)
    flaky.provider.store.fails = "before"
    assert (await flaky_client.get("/in/ann")).status_code == 503
    assert dict(flaky_client.cookies) == before
    flaky.provider.store.fails = ""
    assert "[tea]" in (await flaky_client.get("/")).text and (await flaky_client.get("/profile")).status_code == 401
    assert (await flaky_client.get("/in/ann")).status_code == 200
    assert "[tea]" in (await flaky_client.get("/")).text


async def test_a_sign_out_that_cannot_be_stored_signs_out_all_the_same_and_says_so(flaky_client, flaky):
    await flaky_client.get("/in/ann")
    old = dict(flaky_client.cookies)
    flaky.provider.store.fails = "all"
    assert (await flaky_client.get("/out")).status_code == 503
    flaky.provider.store.fails = ""
    assert (await flaky_client.get("/profile")).status_code == 401
    async with browser(flaky.app, cookies=old) as returning:
        assert (await returning.get("/profile")).status_code == 401


async def test_events_beside_a_sign_in_are_all_in_what_the_session_becomes(page, client, site, running):
    await page.send("Cart", "add", name="x")
    adding = [asyncio.create_task(page.send("Cart", "add", name=f"n{number}")) for number in range(30)]
    await asyncio.sleep(0)
    signing = asyncio.create_task(client.get("/in/ann"))
    answers = await asyncio.gather(*adding)
    assert (await signing).status_code == 200
    done = {f"n{number}" for number, answer in enumerate(answers) if status(answer) == 200}
    site = await running(kill=True)
    text = await cart_page_of(site, "ann")
    found = set(text.partition("[")[2].partition("]")[0].split())
    assert done <= found - {"x"} and "x" in found


async def test_max_age_of_cookies_says_how_long_an_ended_session_is_stored(client, site, running, clock):
    site.provider.sessions.ended.max_age = 100
    await client.get("/in/ann")
    await site.provider.store.delete(list(await site.provider.store.group("ended")))
    await client.get("/out")
    assert len(await site.provider.store.group("ended")) == 1
    clock.now += 161
    site = await running()
    assert len(await site.provider.store.group("ended")) == 0
    assert not len(site.provider.sessions.ended.known)


# -- lifetimes ---------------------------------------------------------------------------------------------------------


async def test_a_stored_state_expires_after_its_idle_time_in_memory_and_in_the_store(client, site, clock):
    await (await Page.open(client)).send("Cart", "add", name="tea")
    clock.now += 86_399
    site.provider.registry.lifetimes.sweep()
    assert "[tea]" in (await client.get("/")).text
    clock.now += 86_401
    site.provider.registry.lifetimes.sweep()
    assert not site.provider.registry.live.by_session
    assert "[]" in (await client.get("/")).text


async def test_a_look_keeps_a_stored_state_over_a_restart(client, site, running, clock):
    await (await Page.open(client)).send("Cart", "add", name="tea")
    clock.now += 80_000
    assert "[tea]" in (await client.get("/")).text
    await running()
    clock.now += 80_000
    assert "[tea]" in (await client.get("/")).text
    await running()
    clock.now += 86_401
    assert "[]" in (await client.get("/")).text


async def test_after_a_crash_a_state_that_was_looked_at_lives_on_but_for_a_twentieth(client, site, running, clock):
    await (await Page.open(client)).send("Cart", "add", name="tea")
    clock.now += 80_000
    await client.get("/")
    await site.provider.registry.usage.tell_store()  # as the sweeper does, every few seconds
    site = await running(kill=True)
    clock.now += 86_400 * 0.95
    assert "[tea]" in (await client.get("/")).text


async def test_states_leave_memory_when_there_are_too_many_and_come_back_from_the_store(running):
    site = await running(max_states=20)
    provider = site.provider
    for number in range(100):
        await set_fields(provider.modify(Note, record_id=number), text=f"note {number}")
    assert len(provider.registry) <= 20 and provider.stats().evicted >= 80
    for number in range(100):
        async with provider.modify(Note, record_id=number) as note:
            assert note.text == f"note {number}"


async def test_a_state_that_somebody_watches_is_never_evicted(running):
    site = await running(max_states=5)
    provider = site.provider
    await set_fields(provider.modify(Stock), left=1)
    watched = "global:Stock"
    provider.registry.followers.is_watched = lambda key: key == watched
    for number in range(200):
        await set_fields(provider.modify(Note, record_id=number), text="x")
    assert watched in provider.registry and len(provider.registry) <= 5


async def test_what_only_memory_holds_leaves_last_and_not_while_it_is_watched(clock):
    provider = StateProvider(store=MemoryStore(clock), clock=clock, max_states=10)
    provider.register_state(Loose, StateConfig(scope=StateScope.RECORD, in_memory=True))
    provider.register_state(Note, StateConfig(scope=StateScope.RECORD))
    for number in range(8):
        await set_fields(provider.modify(Loose, record_id=number), n=1)
        clock.now += 1
    for number in range(50):
        await set_fields(provider.modify(Note, record_id=number), text="x")
    assert all(f"record:Loose:{number}" in provider.registry for number in range(8))
    provider.registry.followers.is_watched = lambda key: key in {f"record:Loose:{number}" for number in range(4)}
    for number in range(8, 40):
        await set_fields(provider.modify(Loose, record_id=number), n=1)
    assert len(provider.registry) == 10
    assert all(f"record:Loose:{number}" in provider.registry for number in range(4))
    assert provider.registry.peek("record:Loose:39").n == 1


async def test_more_watched_states_than_there_may_be_are_all_kept_and_reported(clock, caplog):
    provider = provider_of(Note, StateConfig(scope=StateScope.RECORD), clock=clock, max_states=10)
    provider.registry.followers.is_watched = lambda key: True
    for number in range(200):
        await set_fields(provider.modify(Note, record_id=number), text="x")
    assert len(provider.registry) == 200
    assert caplog.text.count("more than max_states=10") == 1


async def test_an_entry_that_was_evicted_and_changed_meanwhile_is_loaded_again_before_it_is_used(site):
    provider, registry = site.provider, site.provider.registry
    await set_fields(provider.modify(Stock), left=9)
    block = provider.modify(Stock)
    entry, _ = await block._find()
    assert registry.lifetimes.evict("global:Stock")
    await set_fields(provider.modify(Stock), left=5)
    assert registry.lifetimes.evict("global:Stock")
    block._find = lambda: found(entry)
    async with block as stock:
        assert stock.left == 5
        stock.left = 4
    assert registry.peek("global:Stock").left == 4


async def found(entry):
    return entry, None


async def test_a_delete_takes_a_state_out_of_memory_and_store(provider):
    await set_fields(provider.modify(Profile, user_id=7), name="Ann")
    await provider.delete(Profile, user_id=7)
    assert await provider.store.load("user:Profile:user7") is None and "user:Profile:user7" not in provider.registry
    await provider.delete(Profile, user_id=7)
    async with provider.modify(Profile, user_id=7) as profile:
        assert profile.name == ""


async def test_a_change_under_way_to_a_state_that_is_deleted_fails_and_brings_nothing_back(provider):
    await set_fields(provider.modify(Profile, user_id=7), name="Ann")
    entry = provider.registry.find("user:Profile:user7")
    await provider.delete(Profile, user_id=7)
    from faststate.registry.transaction import Transaction

    transaction = Transaction(provider.registry, [entry])
    with pytest.raises(StateNotFoundError, match="deleted"):
        await transaction.begin()
    transaction.end()
    assert await provider.store.load("user:Profile:user7") is None


async def test_refresh_tells_of_what_was_changed_in_the_store(provider, site):
    await set_fields(provider.modify(Stock), left=9)
    await overwrite(site, "global:Stock", 3)
    assert await provider.refresh(Stock) is True
    assert provider.registry.peek("global:Stock").left == 3
    assert await provider.refresh(Stock) is False
    assert await provider.refresh(Profile, user_id=3) is False


async def test_a_thousand_first_readers_load_once(provider, site, running):
    await set_fields(provider.modify(Stock), left=9)
    site = await running()
    loads = []
    real = site.provider.store.load

    async def load(key):
        loads.append(key)
        return await real(key)

    site.provider.store.load = load
    identifier = StateIdentifier(StateScope.GLOBAL, "Stock")
    config = site.provider.registrations.config_of(Stock)
    entries = await asyncio.gather(*(site.provider.resolver.entry(identifier, config) for _ in range(1000)))
    assert len(set(map(id, entries))) == 1 and entries[0].state.left == 9 and loads == ["global:Stock"]


async def test_the_same_data_may_be_put_aside_twice(deploy, disk):
    for _ in range(2):  # brought back by hand, and no better
        store = disk.store()
        await store.save(Write("global:Stock", None, Version("e", 3), b"broken"))
        await store.close()
        provider = await deploy(Stock)
        async with provider.modify(Stock) as stock:
            assert stock.left == 10
        await provider.stop()
    assert len(await disk.store().group("aside")) == 2


# -- in use, and so not idle -------------------------------------------------------------------------------------------


async def watch(site, key):
    """A page's stream that follows `key`, as far as the provider can tell."""
    connection = SSEConnection()
    site.provider.sse_manager.add_connection(connection, [key])
    return connection


async def test_a_state_that_is_watched_for_longer_than_its_idle_time_is_kept_in_the_store_too(running, clock):
    site = await running(stock=StateConfig(scope=StateScope.GLOBAL, ttl=600))
    await set_fields(site.provider.modify(Stock), left=3)
    await watch(site, "global:Stock")
    for _ in range(200):
        clock.now += 30
        site.provider.registry.lifetimes.sweep()
        await site.provider.registry.usage.tell_store()
        assert (await site.provider.store.load("global:Stock")).ttl > 500
    site = await running(kill=True, stock=StateConfig(scope=StateScope.GLOBAL, ttl=600))
    async with site.provider.modify(Stock) as stock:
        assert stock.left == 3


async def test_idle_time_begins_when_the_last_watcher_has_gone(running, clock):
    site = await running(stock=StateConfig(scope=StateScope.GLOBAL, ttl=600))
    await set_fields(site.provider.modify(Stock), left=3)
    one, two = await watch(site, "global:Stock"), await watch(site, "global:Stock")
    clock.now += 5_000
    site.provider.sse_manager.remove_connection(one.id)
    clock.now += 5_000
    site.provider.sse_manager.unfollow(two, "global:Stock")
    clock.now += 599
    site.provider.registry.lifetimes.sweep()
    assert "global:Stock" in site.provider.registry
    clock.now += 2
    site.provider.registry.lifetimes.sweep()
    assert "global:Stock" not in site.provider.registry


async def test_a_look_at_a_state_that_was_loaded_late_in_its_stored_life_extends_it(client, site, running, clock):
    await (await Page.open(client)).send("Cart", "add", name="tea")
    clock.now += 86_000
    site = await running(kill=True)
    assert "[tea]" in (await client.get("/")).text
    await site.provider.registry.usage.tell_store()
    clock.now += 600
    site = await running(kill=True)
    assert "[tea]" in (await client.get("/")).text


@pytest.mark.parametrize("ttl", [math.inf, 3_000_000.0])
async def test_a_class_that_is_kept_for_longer_since_the_last_deploy_is(running, clock, ttl):
    site = await running(stock=StateConfig(scope=StateScope.GLOBAL, ttl=1_000))
    await set_fields(site.provider.modify(Stock), left=3)
    site = await running(stock=StateConfig(scope=StateScope.GLOBAL, ttl=ttl))
    async with site.provider.modify(Stock) as stock:
        assert stock.left == 3
    await site.provider.registry.usage.tell_store()
    clock.now += 100_000
    site = await running(kill=True, stock=StateConfig(scope=StateScope.GLOBAL, ttl=ttl))
    async with site.provider.modify(Stock) as stock:
        assert stock.left == 3


async def test_what_left_memory_is_not_found_expired_since_the_store_was_not_told_yet(running, clock):
    site = await running(max_states=1, stock=StateConfig(scope=StateScope.GLOBAL, ttl=1_000))
    provider = site.provider
    await set_fields(provider.modify(Stock), left=3)
    clock.now += 999
    async with provider.modify(Stock) as stock:  # a look
        assert stock.left == 3
    assert provider.registry.lifetimes.evict("global:Stock")
    clock.now += 500
    async with provider.modify(Stock) as stock:
        assert stock.left == 3


# -- as the class makes it ---------------------------------------------------------------------------------------------


def deals(n):
    """A class whose instances differ though its fields have plain defaults, in one of several ways."""

    class Before(ReactiveState):
        card: int = 0

        @model_validator(mode="before")
        @classmethod
        def deal(cls, values):
            return {"card": next(n), **values}

    class Init(ReactiveState):
        card: int = 0

        def __init__(self, **values):
            super().__init__(**{"card": next(n), **values})

    class Post(ReactiveState):
        card: int = 0

        def model_post_init(self, context):
            self.card = self.card or next(n)

    class Default(ReactiveState):
        model_config = ConfigDict(validate_default=True)
        card: int = 0

        @field_validator("card")
        @classmethod
        def deal(cls, value):
            return value or next(n)

    return [Before, Init, Post, Default]


@pytest.mark.parametrize("which", range(4))
async def test_a_state_that_its_class_s_own_code_makes_is_stored_when_it_is_made(deploy, which):
    numbers = iter(range(1, 1000))
    cls = deals(numbers)[which]
    provider = await deploy(cls)
    async with provider.modify(cls) as state:
        card = state.card
    provider = await deploy(cls)
    async with provider.modify(cls) as state:
        assert state.card == card


async def test_a_default_that_a_deploy_has_changed_is_another_version(deploy):
    versions = []
    for price in (10, 10, 99):
        cls = doc({"price": int}, {"price": price})
        provider = await deploy(cls)
        async with provider.modify(cls) as state:
            assert state.price == price
        versions.append(provider.registry.find("global:Doc").version)
    assert versions[0] == versions[1] != versions[2]


async def test_an_event_that_changes_only_another_state_does_not_store_its_own(page, site):
    await page.send("Stock", "fill", name="tea")
    assert await site.provider.store.load("global:Stock") is None


def test_a_default_that_does_not_fit_its_field_is_reported_at_registration(clock):
    class Form(ReactiveState):
        email: str = Field("", min_length=3)

    with pytest.raises(ConfigurationError, match=r"Form\.email does not fit"):
        StateProvider(store=MemoryStore(clock)).register_state(Form)
    StateProvider(store=MemoryStore(clock)).register_state(Form, StateConfig(in_memory=True))


async def test_data_of_a_newer_class_is_kept_aside_and_not_overwritten(deploy):
    new = doc({"first": str, "schema_version": ClassVar[int]}, {"first": "", "schema_version": 2})
    provider = await deploy(new)
    await set_fields(provider.modify(new), first="Ada")
    old = doc({"name": str}, {"name": ""})
    provider = await deploy(old)
    await set_fields(provider.modify(old), name="x")
    assert provider.stats().kept_aside == 1
    [aside] = (await provider.store.group("aside")).values()
    assert b"Ada" in aside.data


def plain_migrate(cls, values, version): ...


async def coroutine_migrate(cls, values, version): ...


@pytest.mark.parametrize(
    "members",
    [
        {"schema_version": "2025-11"},
        {"schema_version": 1.5},
        {"schema_version": True},
        {"__annotations__": {"schema_version": int}, "schema_version": 2},
        {"migrate": plain_migrate},
        {"migrate": classmethod(coroutine_migrate)},
    ],
    ids=["text", "float", "bool", "field", "no classmethod", "async"],
)
def test_what_would_put_every_state_aside_is_an_error_when_the_class_is_made(members):
    with pytest.raises(EventDefinitionError, match=r"schema_version|migrate"):
        doc({}, **members) if "__annotations__" not in members else version_of(1, members)


async def test_frozen_fields_do_not_hinder_loading_again(deploy):
    class Item(ReactiveState):
        id: int = Field(1, frozen=True)
        n: int = 0

    provider = await deploy(Item)
    await set_fields(provider.modify(Item), n=1)
    store = provider.store
    found = await store.load("global:Item")
    data = found.data.replace(b'"n":1', b'"n":5').replace(b'"id":1', b'"id":7')
    await store.save(Write("global:Item", found.version, Version(found.version.epoch, 3), data))
    assert await provider.refresh(Item) is True
    assert (provider.registry.peek("global:Item").id, provider.registry.peek("global:Item").n) == (7, 5)


async def test_a_sign_in_whose_answer_was_lost_with_the_process_is_gone_on_with(page, client, site, running):
    await page.send("Cart", "add", name="tea")
    before = dict(client.cookies)
    await client.get("/in/ann")
    site = await running(kill=True)
    async with browser(site.app, cookies=before) as client:  # the browser never had the new cookie
        await client.get("/in/ann")
        assert "[tea]" in (await client.get("/")).text
    async with browser(site.app, cookies=before) as client:
        await client.get("/in/eve")
        assert "[tea]" not in (await client.get("/")).text


async def test_a_delete_beside_a_load_leaves_nothing(provider, site, running):
    await set_fields(provider.modify(Profile, user_id=7), name="Ann")
    site = await running()
    provider, store = site.provider, site.provider.store
    config = provider.registrations.config_of(Profile)
    identifier, real, begun = config.identifier(Ids(user_id=7)), store.load, asyncio.Event()

    async def load(key):
        begun.set()
        return await real(key)

    async def delete(keys):
        loading.append(asyncio.create_task(provider.resolver.entry(identifier, config)))
        await begun.wait()
        await real_delete(keys)

    loading, real_delete = [], store.delete
    store.load, store.delete = load, delete
    await provider.delete(Profile, user_id=7)
    await asyncio.gather(*loading)
    found = provider.registry.peek(identifier.key)
    assert found is None or found.name == ""
    del store.load, store.delete


def test_the_sweeper_moves_to_the_app_s_loop_and_ends_with_it(clock):
    provider = provider_of(Stock, StateConfig(scope=StateScope.GLOBAL), store=MemoryStore(clock), clock=clock)
    with provider.modify(Stock) as stock:  # a script's, in a thread of the library's own
        stock.left = 1
    scripts = provider.registry.sweeper.task.get_loop()

    async def app():
        await provider.start()
        assert provider.registry.sweeper.task.get_loop() is asyncio.get_running_loop() is not scripts
        await provider.stop()
        assert provider.registry.sweeper.task is None

    asyncio.run(app())
