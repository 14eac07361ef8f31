"""The app's user loaders: where they run, how long they may take, and whom they hold up."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from types import MappingProxyType

import pytest
from fasthtml.common import P
from starlette.requests import Request
from starlette.testclient import TestClient

from faststate import (
    BackendError,
    ConfigurationError,
    Depends,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    get_current_request,
    get_current_user,
)
from faststate.auth import loaders as module
from faststate.scheduling import workers
from tests.support.client import Page, browser, status
from tests.support.requests import request_of
from tests.support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("in_tmp_path"), pytest.mark.timeout(60)]

ADA = UserContext("ada", "Ada")
tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="")


class Note(ReactiveState):
    text: str = ""

    @event
    def write(self, text: str):
        self.text = text


class Cart(ReactiveState):
    items: list[str] = []

    @event
    async def add(self, sku: str):
        self.items.append(sku)


class Site:
    def __init__(self, **options):
        self.provider = provider = StateProvider(**options)
        provider.register_state(Note, StateConfig(scope=StateScope.USER))
        provider.register_state(Cart)
        self.app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

        @rt("/")
        def index(cart: Cart):
            return P(", ".join(cart.items))

        @rt("/note")
        def note(note: Note):
            return P(note.signal.text)

        @rt("/enter")
        def enter(session, name: str = "ada"):
            session["user_id"] = name
            return P("entered")

        @rt("/login")
        def login(request: Request):  # sync: in a thread of FastHTML's
            provider.login(request, ADA)
            return P("hello")

        @rt("/plain")
        def plain():
            return P("nobody is asked")


def loader_of(kind, where):
    """A loader of a kind, which notes the threads it runs in."""

    def load(user_id):
        where.append(threading.current_thread())
        return ADA

    class Callable:
        def __call__(self, user_id):
            return load(user_id)

        def method(self, user_id):
            return load(user_id)

    return {
        "function": load,
        "method": Callable().method,
        "object": Callable(),
        "partial": functools.partial(lambda extra, user_id: load(user_id), 1),
        "lambda": lambda user_id: load(user_id),
    }[kind]


# -- where -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "method", "object", "partial", "lambda"])
async def test_what_is_sync_runs_off_the_event_loop(kind):
    where: list[threading.Thread] = []
    site = Site(load_user_by_id=loader_of(kind, where))
    async with browser(site.app) as client:
        await client.get("/enter")
        page = await Page.open(client, "/note")
        assert status(await page.send("Note", "write", text="x")) < 300
    assert len(where) >= 2 and threading.current_thread() not in where and all(thread.daemon for thread in where)


async def test_what_is_async_and_lookups_in_dicts_stay_on_the_loop(monkeypatch):
    in_threads = []
    monkeypatch.setattr(module, "call_in_worker", lambda call, answer: in_threads.append(call))
    here = threading.current_thread()
    where = []

    async def load(user_id):
        where.append(threading.current_thread())
        return ADA

    class Object:
        async def __call__(self, user_id):
            return await load(user_id)

    known = {"ada": ADA}
    for loader in (load, Object(), functools.partial(load), known.get, MappingProxyType(known).get, known.__getitem__):
        site = Site(load_user_by_id=loader)
        async with browser(site.app) as client:
            await client.get("/enter")
            assert (await client.get("/note")).status_code == 200
        assert not in_threads
    assert where and set(where) == {here}


async def test_a_function_that_returns_something_to_await_is_awaited_on_the_loop():
    where = []

    async def look_up(user_id):
        where.append(threading.current_thread())
        return ADA

    site = Site(load_user_by_id=lambda user_id: look_up(user_id))
    async with browser(site.app) as client:
        await client.get("/enter")
        assert (await client.get("/note")).status_code == 200
    assert set(where) == {threading.current_thread()}


async def test_a_sync_loader_knows_its_request_and_the_context_of_who_asks():
    seen = []

    def load(request):
        assert get_current_request() is not None
        seen.append((request.url.path, tenant.get()))
        tenant.set("its own")
        return ADA

    site = Site(user_loader=load)
    tenant.set("acme")
    async with browser(site.app) as client:
        assert (await client.get("/note")).status_code == 200
    assert ("/note", "acme") in seen and tenant.get() == "acme"


def test_a_sync_handler_that_signs_somebody_in_waits_for_no_thread_of_its_own():
    site = Site(load_user_by_id=lambda user_id: ADA)
    with TestClient(site.app) as client:
        for _ in range(3):
            assert client.get("/login").status_code == 200
            assert client.get("/note").status_code == 200


async def test_for_a_visitor_who_is_nobody_the_loader_is_called_once_before_the_handler_and_again_behind_it():
    calls, users = [], {}

    def load(request):
        calls.append(request.url.path)
        return users.get("now")

    site = Site(user_loader=load)

    @site.app.get("/becomes")
    async def becomes(request: Request, cart: Cart):
        assert calls == ["/becomes"] and await get_current_user(request) is None
        users["now"] = ADA  # as a handler does that signs somebody up
        return P(getattr(await get_current_user(request), "username", "nobody"))

    async with browser(site.app) as client:
        calls.clear()
        assert "Ada" in (await client.get("/becomes")).text
        users.clear()
        calls.clear()
        await client.get("/")
        assert calls == ["/"]


async def test_a_dependency_that_signs_somebody_in_is_noticed():
    users = {}
    site = Site(user_loader=lambda request: users.get("now"))

    def sign_in():
        users["now"] = ADA
        return "done"

    @site.app.get("/depends")
    async def depends(request: Request, cart: Cart, done: str = Depends(sign_in)):
        return P(getattr(await get_current_user(request), "username", "nobody"))

    async with browser(site.app) as client:
        assert "Ada" in (await client.get("/depends")).text


# -- how long ----------------------------------------------------------------------------------------------------------


async def test_a_sync_loader_that_takes_its_time_holds_up_nobody_else():
    asked, go_on = threading.Event(), threading.Event()

    def load(user_id):
        if user_id == "slow":
            asked.set()
            assert go_on.wait(30)
        return UserContext(user_id, user_id)

    site = Site(load_user_by_id=load)
    async with browser(site.app) as slow, browser(site.app) as client:
        await slow.get("/enter?name=slow")
        await client.get("/enter?name=ada")
        waiting = asyncio.create_task(slow.get("/note"))
        await eventually(asked.is_set)
        assert (await client.get("/note")).status_code == 200
        page = await Page.open(client)
        assert status(await page.send("Cart", "add", sku="tea")) < 300
        assert not waiting.done()
        go_on.set()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_loader_that_hangs_is_a_503_for_that_request_after_its_time(kind):
    ended, never = threading.Event(), asyncio.Event()

    def hang(user_id):
        if user_id == "ada":
            ended.wait(30)
        return UserContext(user_id, user_id)

    async def hang_async(user_id):
        if user_id == "ada":
            await never.wait()
        return UserContext(user_id, user_id)

    site = Site(load_user_by_id=hang if kind == "sync" else hang_async, user_timeout=0.05)
    try:
        async with browser(site.app) as client, browser(site.app) as bob:
            await bob.get("/enter?name=bob")
            page = await Page.open(client)
            await client.get("/enter")
            assert (await client.get("/note")).status_code == 503
            answer = await page.send("Cart", "add", sku="tea")
            assert status(answer) == 503 and "Please try again" in answer.text
            assert (await bob.get("/note")).status_code == 200
            assert "did not answer within 0.05 s" in str(await error_of(site))
    finally:
        ended.set()


async def error_of(site):
    with pytest.raises(BackendError) as caught:
        await site.provider.users.load(request_of({"user_id": "ada"}))
    return caught.value


async def test_hanging_loaders_leave_no_more_threads_than_there_are_places(monkeypatch):
    monkeypatch.setattr(module, "LOADER_THREADS", 3)
    ended = threading.Event()
    site = Site(load_user_by_id=lambda user_id: ended.wait(30) and ADA, user_timeout=0.02)
    before = threading.active_count()
    for _ in range(12):
        await error_of(site)
    assert threading.active_count() <= before + 3
    ended.set()
    await eventually(lambda: not any(p.locked() for p in site.provider.users._places.values()))
    assert await site.provider.users.load(request_of({"user_id": "ada"})) == ADA


async def test_what_a_sync_loader_raises_is_told_as_before():
    def fail(user_id):
        raise TimeoutError("db.internal")

    async with browser(Site(load_user_by_id=fail).app) as client:
        await client.get("/enter")
        assert (await client.get("/note")).status_code == 503
    error = await error_of(Site(load_user_by_id=fail))
    assert str(error) == "the user of this request could not be loaded" and isinstance(error.__cause__, TimeoutError)


async def test_a_thread_ends_when_nobody_needs_it(monkeypatch):
    monkeypatch.setattr(workers, "IDLE", 0.01)
    before = set(threading.enumerate())

    async def called(value):
        done = asyncio.get_running_loop().create_future()
        workers.call_in_worker(lambda: value, lambda result, error: done.set_result((error, result)))
        return await done

    for _ in range(20):
        found = await asyncio.gather(*(called(n) for n in range(8)))
        assert [result for _, result in found] == list(range(8))
    await eventually(lambda: not set(threading.enumerate()) - before)
    assert await called(7) == (None, 7)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_that_nobody_can_keep_is_refused(seconds):
    with pytest.raises(ConfigurationError, match="user_timeout"):
        StateProvider(user_timeout=seconds)
