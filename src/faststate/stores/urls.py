"""Make the store that a URL names."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..exceptions import ConfigurationError
from .base import StateStore


def store_from_url(url: str, clock: Callable[[], float] | None = None) -> StateStore:
    """Make the store that `url` (str) names.

    It is `sqlite:///state.db` (relative to the working directory), `sqlite:////var/lib/app/state.db`,
    `redis://host:6379/0?prefix=app` (also `rediss://`, `unix://` and `redis+sentinel://`, see `RedisStore`), or
    `memory://`. `clock` returns seconds since the epoch; None uses the machine's clock, or that of the Redis server.
    Raises `ConfigurationError` for any other URL, and `MissingDependencyError` if the store's driver is not installed.
    """
    kind, separator, rest = url.partition("://")
    if separator and kind == "memory" and not rest:
        from .memory import MemoryStore

        return MemoryStore(clock or time.time)
    if kind == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from .sqlite import SQLiteStore

        return SQLiteStore(rest[1:], clock=clock or time.time)
    if separator and kind in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"):
        from .redis import RedisStore

        return RedisStore(url, clock=clock)
    # Without the rest of the URL, which may contain a password.
    given = f"{kind}://..." if separator else "a text without a scheme"
    raise ConfigurationError(
        f"store must be like 'redis://host:6379/0', 'sqlite:///state.db' or 'memory://', not {given}"
    )
