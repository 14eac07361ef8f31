"""Fixtures for all tests. Those that only one kind of test needs are in the conftest of its directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastlite import Database

from tests.support import ROOT
from tests.support.postgres import postgres as postgres
from tests.support.redis_server import RedisServer, require_redis


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes share a `make test`: only as many as let tests keep their time limits.

    One more than there are cores: the tests wait for servers and browsers, and two processes use half of two cores.
    """
    return min((os.cpu_count() or 1) + 1, 4)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository, for tests that read its sources, examples and documents."""
    return ROOT


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server for all tests that only use it. Each uses a prefix of its own, or empties it first."""
    require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: FastHTML writes `.sesskey` where it runs, and SQLite files lie there too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test has opened with fastlite, which keeps each database for ever: files and all, until there are
    more of them open than the operating system's `select` can take."""
    opened: list[Any] = []
    real = Database.__init__

    def opening(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        by = sys._getframe(1)
        while by.f_globals["__name__"].partition(".")[0] in ("fastlite", "apswutils"):
            by = by.f_back or by
        if by.f_globals["__name__"].partition(".")[0] != "faststate":  # which closes its own
            opened.append(self.conn)

    monkeypatch.setattr(Database, "__init__", opening)
    yield
    for connection in opened:
        connection.close()
