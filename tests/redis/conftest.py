"""Redis servers and stores for the tests: a server for the session, emptied for each test, and new ones to be ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faststate import StateProvider
from faststate.stores.redis import RedisStore
from tests.chaos.conftest import seed as seed
from tests.support.redis_server import RedisServer

from .providers import STATES, Configs, open_providers


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running server that holds nothing. It is every test's: no test may end it, or change how it is set up."""
    shared_redis.do("FLUSHALL")
    return shared_redis


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers of the test's own, with options as `RedisServer` takes them; they end with the test."""
    servers: list[RedisServer] = []

    def start(**options: str) -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{len(servers)}", **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def new_store(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., RedisStore]]:
    """Make stores that are closed with the test, on a server (the session's by default), with short times."""
    stores: list[RedisStore] = []

    def make(server: RedisServer | None = None, **options: Any) -> RedisStore:
        if server is None:
            server = request.getfixturevalue("redis_server")
        times = {"beat": 0.1, "silence": 1.0, "connect_timeout": 1.0, "answer_timeout": 2.0}
        store = RedisStore(options.pop("url", server.url), **{**times, **options})
        stores.append(store)
        return store

    # The server is emptied before the first store, and runs when the stores are closed.
    yield make
    await asyncio.gather(*(store.close() for store in stores))


@pytest.fixture
async def one(new_store: Callable[..., RedisStore]) -> RedisStore:
    """A store that is open."""
    store = new_store()
    await store.open()
    return store


@pytest.fixture
async def two(new_store: Callable[..., RedisStore]) -> RedisStore:
    """Another one that is open, as a process beside the first has it."""
    store = new_store()
    await store.open()
    return store


@pytest.fixture
def states() -> Configs:
    """The states of `a` and `b`; a module may have others."""
    return STATES


@pytest.fixture
async def _pair(redis_server: RedisServer, states: Configs) -> AsyncIterator[list[StateProvider]]:
    async with open_providers(redis_server, states=states, lock_timeout=20.0) as providers:
        yield providers


@pytest.fixture
def a(_pair: list[StateProvider]) -> StateProvider:
    """The provider of one process; `b` is that of another one."""
    return _pair[0]


@pytest.fixture
def b(_pair: list[StateProvider]) -> StateProvider:
    """The provider of another process than that of `a`."""
    return _pair[1]
