"""Several providers on one event loop over one Redis: what comes between two steps of one is the test's to choose."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from fastlite import database

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event
from faststate.registry.entries import Entry
from faststate.registry.run_event import EventCaller, Step, run_event
from faststate.sessions.config import Ids
from faststate.sse import SSEConnection
from faststate.stores.redis import RedisStore
from tests.support.live import Model
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

Configs = Mapping[type[ReactiveState], Callable[[], StateConfig]]


class Board(ReactiveState):
    count: int = 0
    text: str = ""

    @event
    async def add(self, by: int = 1):
        self.count += by


class Wallet(ReactiveState):
    count: int = 0


class Mover(ReactiveState):
    count: int = 0

    @event
    async def move(self, wallet: Wallet):
        self.count += 1
        wallet.count -= 1

    @event
    async def pay(self, wallet: Wallet):
        wallet.count -= 1


class Case(ReactiveState):
    """One for each session."""

    count: int = 0


class Stall(ReactiveState):
    """One for each id, in the store alone."""

    count: int = 0


class Product(ReactiveState):
    """One for each row of a table that counts no versions."""

    stock: int = 0
    banned: str = ""

    @event
    async def sell(self, by: int = 1):
        self.stock -= by


def of_all() -> StateConfig:
    return StateConfig(scope=StateScope.GLOBAL)


STATES: Configs = {
    Board: of_all,
    Wallet: of_all,
    Mover: of_all,
    Case: lambda: StateConfig(scope=StateScope.SESSION),
}


class Shop:
    """A table of products, each of which there are a thousand. Lifetime: the test; every provider opens it anew."""

    KEY = "record:Product:1"

    def __init__(self, directory: Any) -> None:
        self._path = directory / "shop.db"
        self.table = self._open()
        self.table.create({"product_id": int, "stock": int, "banned": str}, pk="product_id")
        self.table.insert({"product_id": 1, "stock": 1_000, "banned": ""})

    def _open(self) -> Any:
        return database(self._path).t.product

    def config(self, **options: Any) -> Configs:
        def make() -> StateConfig:
            return StateConfig(scope=StateScope.RECORD, records=self._open(), **options)

        return {**STATES, Product: make}

    @property
    def stock(self) -> int:
        return self.table[1]["stock"]

    @staticmethod
    async def sell(provider: StateProvider, by: int = 1) -> None:
        async with provider.modify(Product, record_id=1) as product:
            product.stock -= by

    @staticmethod
    def source(provider: StateProvider) -> Any:
        """Where a provider has its rows from."""
        return provider.registry.persistence[Product].source


def make_provider(server: RedisServer, states: Configs = STATES, **options: Any) -> StateProvider:
    """A provider as each process of an app makes one, with short times."""
    times = {"beat": 0.03, "silence": 5.0}
    provider = StateProvider(store=RedisStore(server.url, **times), secret_key="for tests", **options)
    for cls, config in states.items():
        provider.register_state(cls, config())
    return provider


@contextlib.asynccontextmanager
async def open_providers(
    server: RedisServer, count: int = 2, states: Configs = STATES, **options: Any
) -> AsyncIterator[list[StateProvider]]:
    """So many providers of one app, which are started; they are stopped with the block."""
    async with contextlib.AsyncExitStack() as stack:
        providers = []
        for _ in range(count):
            provider = make_provider(server, states, **options)
            stack.push_async_callback(provider.stop)
            await provider.start()
            providers.append(provider)
        yield providers


# -- what they have ----------------------------------------------------------------------------------------------------


async def entry_of(provider: StateProvider, cls: type[ReactiveState], **ids: Any) -> Entry:
    """A state as a page that is loaded now has it."""
    config = provider.registrations.config_of(cls)
    return await provider.resolver.entry(config.identifier(Ids(**ids)), config)


async def served(provider: StateProvider, cls: type[ReactiveState], **ids: Any) -> Any:
    """Return what a page that is loaded now shows."""
    return (await entry_of(provider, cls, **ids)).state


async def stored(provider: StateProvider, key: str) -> Mapping[str, Any]:
    """The values that Redis has of a state."""
    found = await provider.store.load(key)
    assert found is not None, f"{key} is not stored"
    return json.loads(found.data)["values"]


def sequence(server: RedisServer) -> int:
    """The number of the last commit of all."""
    return int(server.do("GET", "{faststate}:seq") or 0)


async def heard(server: RedisServer, provider: StateProvider) -> int:
    """Returns when a process has been told of all that was committed before; the number of the last commit."""
    last = sequence(server)
    await eventually(lambda: provider.cluster._observed >= last)
    return last


async def settled(server: RedisServer, *providers: StateProvider) -> None:
    """Returns when these have been told all that was committed before, and have looked up what they had to."""
    last = sequence(server)
    for _ in range(2):  # the first may have been sent before
        await asyncio.gather(*map(_next_word, providers))

    def is_settled(provider: StateProvider) -> bool:
        following = provider.cluster.following
        busy = following._looking or following._recovering or following._lost_at is not None
        return provider.cluster._observed >= last and not busy

    await eventually(lambda: all(map(is_settled, providers)))


async def _next_word(provider: StateProvider) -> None:
    """Returns when a provider is told again how far it was told; all that was published before has come by then."""
    following = provider.cluster.following
    real, heard = following.reached, asyncio.Event()

    def reached(sequence: int) -> None:
        real(sequence)
        heard.set()

    with instead(following, "reached", reached):
        await heard.wait()


# -- pages -------------------------------------------------------------------------------------------------------------


class Page(Model):
    """A page that follows a state, as far as it was told by its stream. Lifetime: the test."""

    def __init__(self, provider: StateProvider, connection: SSEConnection) -> None:
        super().__init__()
        self.provider = provider
        self.connection = connection

    def shows(self, cls: type[ReactiveState], name: str = "count") -> Any:
        """The value of a field that it was told last; None where it was told none."""
        self.feed_bytes(self.connection.drain())
        found: Any = self.signals.get(cls.__name__, {})
        while found and name not in found:
            (found,) = [value for value in found.values() if isinstance(value, dict)] or [{}]
        return found.get(name)

    def leave(self) -> None:
        self.provider.sse_manager.remove_connection(self.connection.id)


async def watch(provider: StateProvider, cls: type[ReactiveState], *, user: Any = None, **ids: Any) -> Page:
    """A page that follows a state, as its stream is opened."""
    connection = SSEConnection(provider.cluster.new_stream_id(), user=user, session_id=ids.get("session_id"))
    with provider.cluster.following.holding() as topics:
        while not await provider.cluster.following.follow([entry := await entry_of(provider, cls, **ids)], topics):
            pass
        provider.sse_manager.add_connection(connection, [entry.identifier.key])
    return Page(provider, connection)


# -- what they do ------------------------------------------------------------------------------------------------------


async def add(provider: StateProvider, cls: type[ReactiveState] = Board, by: int = 1, **ids: Any) -> None:
    """Adds to the count of a state."""
    async with provider.modify(cls, **ids) as state:
        state.count += by


async def run(
    provider: StateProvider,
    cls: type[ReactiveState],
    name: str,
    nonce: str,
    between: Callable[[], Awaitable[None]] | None = None,
    *,
    wallet: type[ReactiveState] | None = None,
    **ids: Any,
) -> list[str]:
    """Sends an event, and awaits `between()` behind its first step. What became of each step: "ran" or "repeated".

    `wallet` is the class of the other state that it takes.
    """
    steps: list[str] = []

    class Sent(EventCaller):
        def take(self, step: Step) -> Awaitable[None] | None:
            steps.append("repeated" if step.repeated else "ran")
            return between() if between is not None and len(steps) == 1 else None

    async def found(cls: type[ReactiveState], **ids: Any) -> Entry:
        config = provider.registrations.config_of(cls)
        return await provider.resolver.entry(config.identifier(Ids(**ids)), config, lookup="with lock")

    event = cls._fs_schema().events[name]
    arguments = event.arguments.defaults
    others = {"wallet": await found(wallet)} if wallet is not None else {}
    entry = await found(cls, **ids)
    await run_event(provider.registry, entry, event, arguments, others, Sent(), nonce=f"s:nonce-{nonce}")
    return steps


def taken_for_dead(server: RedisServer, provider: StateProvider) -> None:
    """Make the others take a process for dead, as they do when it was paused for long."""
    assert server.do("HDEL", "{faststate}:members", provider.store.origin) == 1


# -- interleavings -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def instead(of: Any, name: str, call: Any) -> Iterator[None]:
    """Replace an attribute of `of` until the block ends."""
    real = getattr(of, name)
    setattr(of, name, call)
    try:
        yield
    finally:
        setattr(of, name, real)


class Halt:
    """A call that has come to where it halts when `reached` is set, and goes on at `go`. Lifetime: `held`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.gone_on = asyncio.Event()

    def go(self) -> None:
        self.gone_on.set()


@contextlib.contextmanager
def held(of: Any, name: str, *, before: bool = False) -> Iterator[Halt]:
    """Halts the first call of a coroutine function behind what it does, or `before` that; others pass."""
    halt, real, is_first = Halt(), getattr(of, name), True

    async def slow(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_first
        if not is_first:
            return await real(*args, **kwargs)
        is_first = False
        done = None if before else await real(*args, **kwargs)
        halt.reached.set()
        await halt.gone_on.wait()
        return await real(*args, **kwargs) if before else done

    with instead(of, name, slow):
        try:
            yield halt
        finally:
            halt.go()
