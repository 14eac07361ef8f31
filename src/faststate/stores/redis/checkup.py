"""The check-up of a Redis: what `faststate doctor` reads, and how safe its settings keep states."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...exceptions import PersistenceError
from .address import Address
from .connection import disconnect
from .rules import parse_info

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

TIMEOUT: Final = 3.0
"""Seconds that connecting, and each answer, may take."""

ROUND_TRIPS: Final = 21
"""Pings that are timed."""

SETTINGS: Final = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
"""The settings of Redis that decide what survives."""


class Risk(NamedTuple):
    """A way to lose states. `is_serious` is False where at most the last second is lost."""

    is_serious: bool
    message: str


def persistence_risk(settings: Mapping[str, str]) -> Risk | None:
    """Return which acknowledged changes a crash of Redis loses; None if it loses none."""
    if settings.get("appendonly") != "yes":
        snapshots = settings.get("save", "")
        loses = f"all changes since the last snapshot (save {snapshots})" if snapshots else "all states"
        return Risk(
            True,
            f"appendonly is no: a crash or restart of Redis loses {loses}. Set appendonly yes, appendfsync always",
        )
    flushed = settings.get("appendfsync")
    if flushed == "always":
        return None
    loses = "a second" if flushed == "everysec" else "half a minute"
    return Risk(
        flushed != "everysec",
        f"appendfsync is {flushed}: a crash of its machine loses up to {loses} of acknowledged events. With always it "
        "loses none",
    )


def eviction_risk(maxmemory: str, policy: str) -> Risk | None:
    """Return what a Redis that has used up its `maxmemory` (bytes, 0 for no limit) does to states; None for nothing.

    Another product may answer "5.00GiB": the check-up shows that as it is, and does not fail.
    """
    if maxmemory == "0" or policy == "noeviction":
        return None
    limit = f"{int(maxmemory) / 2**20:,.1f} MB" if maxmemory.isdecimal() else maxmemory
    return Risk(True, f"maxmemory-policy is {policy}: beyond {limit} Redis drops states. Set it to noeviction")


async def read_settings(ask: Callable[..., Awaitable[Any]]) -> dict[str, str]:
    """Read the `SETTINGS`, with `ask`, which sends a command and returns its answer. Raises what `ask` raises."""
    found: dict[str, str] = {}
    for name in SETTINGS:
        answer = await ask("CONFIG", "GET", name)
        found |= {name: answer[1].decode()} if len(answer) > 1 else {}
    return found


class Checkup(NamedTuple):
    """The answers of a Redis about itself. `address` (str) is shown without its password.

    `info` is its answer to INFO; `settings` are those of `SETTINGS`, None if CONFIG is forbidden. `round_trip` is the
    median in seconds. `clock` is how many seconds its clock is ahead of this machine's.
    """

    address: str
    info: Mapping[str, str]
    settings: Mapping[str, str] | None
    round_trip: float
    clock: float


async def checkup(address: Address) -> Checkup:
    """Examine the Redis at `address`, over a connection of its own, without changing anything.

    Raises `PersistenceError` if it cannot be reached.
    """
    from redis.exceptions import RedisError, ResponseError

    connection: AbstractConnection | None = None

    async def ask(*command: str) -> Any:
        async with asyncio.timeout(TIMEOUT):
            await opened.send_command(*command)
            return await opened.read_response()

    try:
        async with asyncio.timeout(TIMEOUT):
            opened = connection = await address.connection(TIMEOUT)
            await opened.connect()  # type: ignore[no-untyped-call]  # it has no annotations
        info = parse_info(await ask("INFO"))
        settings: dict[str, str] | None
        try:
            settings = await read_settings(ask)
        except ResponseError:  # a provider of Redis may forbid it
            settings = None
        times = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            await ask("PING")
            times.append(time.perf_counter() - start)
        before = time.time()
        seconds, micros = await ask("TIME")
        clock = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
    except (OSError, RedisError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise PersistenceError(f"Redis at {address.shown} cannot be reached: {reason}") from error
    finally:
        if connection is not None:
            await disconnect(connection)
    return Checkup(address.shown, info, settings, statistics.median(times), clock)
