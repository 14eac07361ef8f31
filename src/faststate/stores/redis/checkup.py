"""What `faststate doctor` asks a Redis, over a connection of its own, by which nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...exceptions import PersistenceError
from .client import Address

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Checkup", "checkup"]

TIMEOUT: Final = 3.0
"""Seconds that connecting, and each answer, may take."""

ROUND_TRIPS: Final = 21


class Checkup(NamedTuple):
    """What a Redis says of itself. `address` (str) is shown without its password.

    `info` is its answer to INFO, `settings` what CONFIG tells, None where it may not be asked. `round_trip` is the
    median in seconds, `clock` for how many seconds its clock is ahead of this machine's.
    """

    address: str
    info: Mapping[str, str]
    settings: Mapping[str, str] | None
    round_trip: float
    clock: float


async def checkup(address: Address) -> Checkup:
    """Asks the Redis at `address`. Raises `PersistenceError` where it cannot be had."""
    from redis.exceptions import RedisError, ResponseError

    connection: AbstractConnection | None = None

    async def ask(*command: str) -> Any:
        async with asyncio.timeout(TIMEOUT):
            await made.send_command(*command)
            return await made.read_response()

    try:
        async with asyncio.timeout(TIMEOUT):
            made = connection = await address.connection(TIMEOUT)
            await made.connect()  # type: ignore[no-untyped-call]
        lines = (await ask("INFO")).decode(errors="replace").splitlines()
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        found: dict[str, str] = {}
        settings: dict[str, str] | None = found
        for name in ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"):
            try:
                answer = await ask("CONFIG", "GET", name)
            except ResponseError:  # whoever rents it out does not let it be asked
                settings = None
                break
            found |= {name: answer[1].decode()} if len(answer) > 1 else {}
        times = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            await ask("PING")
            times.append(time.perf_counter() - start)
        before = time.time()
        seconds, micros = await ask("TIME")
        clock = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
    except (OSError, RedisError, TimeoutError) as error:
        said = str(error) or type(error).__name__
        raise PersistenceError(f"Redis at {address.shown} cannot be had: {said}") from error
    finally:
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.disconnect()
    return Checkup(address.shown, info, settings, statistics.median(times), clock)
