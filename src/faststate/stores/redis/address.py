"""The address of Redis: what its URL says, for redis-py and for FastState."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ...exceptions import ConfigurationError, MissingDependencyError
from .rules import Argument, key_base

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection


class Address:
    """The address of Redis, read from its URL. Lifetime: the store.

    `shown` (str) is for messages: it has no password. `base` (str) begins all keys and channels. Raises
    `ConfigurationError` for a URL that cannot be read, and `MissingDependencyError` if redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from redis.asyncio import Sentinel
            from redis.asyncio.connection import Connection, parse_url
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise MissingDependencyError("a Redis store needs redis-py: pip install 'faststate[redis]'") from error
        self._new_sentinel: Callable[[], Any] | None = None
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            prefix = query.pop("prefix", "faststate")
            scheme, _, kind = parts.scheme.partition("+")
            sentinels: list[tuple[str, int]] = []
            path, netloc = parts.path, parts.netloc
            if kind == "sentinel":
                login, _, hosts = netloc.rpartition("@")
                for host in hosts.split(","):
                    name, colon, port = host.rpartition(":")
                    sentinels.append((name, int(port)) if colon else (host, 26379))
                self._service, _, database = path.strip("/").partition("/")
                path, netloc = f"/{database}", f"{login}@{self._service}" if login else self._service
            # redis-py reads the rest. Its types list the options that it knows today; a URL may have others.
            options: dict[str, Any] = {**parse_url(urlunsplit((scheme, netloc, path, urlencode(query), "")))}
        except ValueError:
            options, prefix = {}, ""
        if (not options and url.rstrip("/") not in ("redis:", "rediss:")) or not prefix or "}" in prefix:
            # Without the URL, and without redis-py's error: both may contain a password.
            raise ConfigurationError("the URL of Redis must be like 'redis://user:password@host:6379/0?prefix=shop'")
        self.base = key_base(prefix)
        self._make: Callable[..., AbstractConnection] = options.pop("connection_class", Connection)
        options.pop("max_connections", None)
        # redis-py must not send a command again by itself, as the first one may have been carried out. And the protocol
        # is the older one, in which a subscriber reads messages like any answer.
        options |= {
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "socket_timeout": None,
        }
        if sentinels:
            options.pop("host", None)
            asking = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
            make: Any = Sentinel  # it has no annotations
            self._new_sentinel = partial(make, sentinels, sentinel_kwargs=asking)
            self.shown = f"{self._service} of the sentinels {', '.join(f'{host}:{port}' for host, port in sentinels)}"
        elif "path" in options:
            self.shown = str(options["path"])
        else:
            self.shown = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self._options = options

    async def connection(self, connect_timeout: float) -> AbstractConnection:
        """Make a connection that is not connected yet. Sentinels, if there are any, are asked for the master first."""
        options = {**self._options, "socket_connect_timeout": connect_timeout}
        if self._new_sentinel is not None:
            sentinel = self._new_sentinel()
            try:
                options["host"], options["port"] = await sentinel.discover_master(self._service)
            finally:
                for each in sentinel.sentinels:
                    await each.connection_pool.disconnect()
        return self._make(**options)


class RedisOptions(NamedTuple):
    """The options of a `RedisStore`, which documents them. Lifetime: the store."""

    address: Address
    clock: Callable[[], float] | None
    connections: int
    connect_timeout: float
    answer_timeout: float
    beat: float
    silence: float

    def now(self) -> Argument:
        """Return the time as scripts know it: ms since the epoch, empty for the server's clock."""
        return "" if self.clock is None else round(self.clock() * 1_000)
