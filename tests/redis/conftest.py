"""Redis servers for the tests: one for the session, emptied for each test, and new ones for tests that end them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .server import RedisServer


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running server that holds nothing. It is every test's: no test may end it, or change how it is set up."""
    shared_redis.do("FLUSHALL")
    return shared_redis


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of the test's own, with options as `RedisServer` takes them; they end with the test."""
    servers: list[RedisServer] = []

    def start(**options: str) -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{len(servers)}", **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()
