"""Several processes of one app, as far as the app knows: providers of their own on servers of their own, one Redis."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import httpx
from fasthtml import common as fh
from starlette.requests import Request

from faststate import (
    Bound,
    ReactiveState,
    Record,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
    get_current_request,
    view,
)
from faststate.sessions.config import Ids
from tests.support.client import BROWSER
from tests.support.live import Site, Tab, serving
from tests.support.waiting import PATIENCE


class Counter(ReactiveState):
    count: int = 0

    @event
    async def add(self, by: int = 1):
        self.count += by

    @event
    def add_in_a_thread(self, by: int = 1):
        self.count += by

    @event
    async def add_twice(self):
        self.count += 1
        yield
        self.count += 1

    @event
    async def enter(self, name: str):
        self.count += 1
        request = get_current_request()
        await request.app.state.faststate.login(request, UserContext(name))
        self.count += 1

    @event
    async def leave(self):
        self.count += 1
        request = get_current_request()
        await request.app.state.faststate.logout(request)

    @event
    async def fail(self):
        self.count += 1
        raise ValueError("it fails")


class Wallet(Counter):
    """One for all."""


class Board(Counter):
    """One for all."""

    notes: list[str] = []
    draft: Bound[str] = ""

    @event
    async def note(self, text: str):
        self.notes.append(text)

    @event
    async def move(self, counter: Wallet):
        self.count += 1
        counter.count -= 1

    @event(expect_version=True)
    async def sign(self, text: str):
        self.notes.append(text)

    @event
    async def keep(self):
        pass

    @view
    def listing(self):
        return fh.Ul(*(fh.Li(note) for note in self.notes), id="listing")


class Cart(Counter):
    """One for each session."""


class Profile(Counter):
    """One for each user."""


class Item(Counter):
    """One for each id."""

    @event
    async def take(self, other: Annotated[Item, Record("sku")], sku: str):
        self.count += 1
        other.count -= 1


class Draft(Counter):
    """One for each page."""


class Desk(Counter):
    """One for all, of which only those who are allowed see anything."""

    banned: list[str] = []
    secret: Annotated[str, Visible("secrets")] = "hush"

    @event
    async def ban(self, name: str):
        self.banned.append(name)


class Local(Counter):
    """One for each process."""


def make_app(url: str, **options):
    """The app as each process makes it."""

    def user_of(name: object) -> UserContext:
        return UserContext(str(name), permissions=["secrets"] if name == "boss" else [])

    provider = StateProvider(store=url, load_user_by_id=user_of, event_rate=math.inf, event_burst=10**6, **options)
    for cls, config in {
        Board: StateConfig(scope=StateScope.GLOBAL),
        Wallet: StateConfig(scope=StateScope.GLOBAL),
        Cart: StateConfig(scope=StateScope.SESSION, on_login="to_user"),
        Profile: StateConfig(scope=StateScope.USER),
        Item: StateConfig(scope=StateScope.RECORD),
        Draft: StateConfig(scope=StateScope.TEMPORARY),
        Desk: StateConfig(
            scope=StateScope.GLOBAL,
            authorize=lambda user, state, action: user is not None and user.id not in state.banned,
        ),
        Local: StateConfig(scope=StateScope.GLOBAL, in_memory=True),
    }.items():
        provider.register_state(cls, config)
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    async def index(board: Board, wallet: Wallet, cart: Cart):
        return fh.Titled(
            "Office",
            fh.P(board.signal.count),
            fh.Input(board.signal.draft.bind()),
            board.listing(),
            fh.P(wallet.signal.count),
            fh.P(cart.signal.count),
        )

    def page_of(cls):
        async def page(state):
            return fh.Titled("Office", fh.P(state.signal.count))

        page.__annotations__["state"] = cls  # written above, it would be the text "cls"
        return page

    for cls in (Wallet, Local, Draft, Profile, Desk):
        rt(f"/{cls.__name__.lower()}", name=cls.__name__)(page_of(cls))
    rt("/item/{item_id}")(page_of(Item))

    @rt("/login/{name}")
    async def login(request: Request, name: str):
        await provider.login(request, user_of(name))
        return fh.Response("in")

    @rt("/logout")
    async def logout(request: Request):
        await provider.logout(request)
        return fh.Response("out")

    @rt("/rights/{how}/{name}")
    async def rights(how: str, name: str):
        call = provider.disconnect_user if how == "disconnect" else provider.refresh_user
        return fh.Response(str(await call(name)))

    return app


class Office:
    """The running apps. Lifetime: `open_office`."""

    def __init__(self, sites: list[Site], stack: contextlib.AsyncExitStack) -> None:
        self.sites = sites
        self.stack = stack

    async def browser(self) -> list[httpx.AsyncClient]:
        """One browser: a client for each of the apps, with one and the same cookies."""
        clients = [
            await self.stack.enter_async_context(httpx.AsyncClient(base_url=site.url, verify=False, timeout=PATIENCE))
            for site in self.sites
        ]
        for client in clients[1:]:
            client._cookies = clients[0]._cookies
        return clients

    async def tab(self, client: httpx.AsyncClient, path: str = "/", *, streaming: bool = True) -> Tab:
        """A page of the app that the client is of, with its stream open."""
        site = next(site for site in self.sites if str(client.base_url).rstrip("/") == site.url)
        tab = Tab(site, client)
        await tab.load(path)
        if streaming:
            await tab.open()
        return tab

    async def visit(self, path: str = "/", *, streaming: bool = True) -> list[Any]:
        """A new browser with a tab of the first app: its client for each of the apps, and the tab."""
        clients = await self.browser()
        return [*clients, await self.tab(clients[0], path, streaming=streaming)]

    async def visit_all(self, path: str = "/") -> list[Any]:
        """A new browser with a tab of each of the apps: its client for each of them, and the tabs."""
        clients = await self.browser()
        return [*clients, *[await self.tab(client, path) for client in clients]]

    def state(self, place: int, name: str, **ids: str):
        """Return a state as an app has it in memory, or None."""
        provider = self.sites[place].provider
        cls = provider.registrations.class_named(name)
        return provider.registry.peek(provider.registrations.config_of(cls).identifier(Ids(**ids)).key)


@contextlib.asynccontextmanager
async def open_office(url: str, processes: int = 2, **options) -> AsyncIterator[Office]:
    """Serves so many apps that share the Redis at `url`."""
    with contextlib.ExitStack() as servers:
        apps = [make_app(url, **options) for _ in range(processes)]
        urls = [servers.enter_context(serving(app)) for app in apps]
        async with contextlib.AsyncExitStack() as stack:
            sites = [Site(url, app.state.faststate, stack) for app, url in zip(apps, urls, strict=True)]
            yield Office(sites, stack)


async def send(client: httpx.AsyncClient, tab: Tab, name: str, nonce: str | None = None, **payload) -> httpx.Response:
    """Sends an event of a tab to an app, which need not be the one that has its stream."""
    headers = {**BROWSER, "faststate-connection": tab.signals["_fs"]["c"], "content-type": "application/json"}
    if nonce is not None:
        headers["faststate-nonce"] = nonce
    content = json.dumps({"w": tab.tokens, **payload})
    return await client.post(f"/_faststate/event/{name}", content=content, headers=headers)


def count_of(tab: Tab, name: str) -> int:
    """The count that a tab shows, of its one state of this name."""
    found = tab.signals[name]
    while "count" not in found:
        (found,) = found.values()
    return found["count"]


async def until_count(tabs: Iterable[Tab], name: str, count: int) -> None:
    """Waits until each of the tabs shows this count of a state."""
    for tab in tabs:
        try:
            await tab.until(lambda tab=tab: count_of(tab, name) == count)
        except TimeoutError as error:
            error.add_note(f"the page shows {name} as {count_of(tab, name)}, and not as {count}")
            raise
