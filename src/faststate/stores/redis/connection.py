"""One connection to Redis: how it is opened and greeted, and how a command is encoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...exceptions import PersistenceError
from .address import Address
from .process import ThisProcess
from .rules import Argument, is_too_old, new_id, parse_info
from .scripts import HELLO

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection


async def connect(address: Address, process: ThisProcess, seconds: float) -> AbstractConnection:
    """Open a connection and send the greeting, which learns the current timeline.

    Raises `TimeoutError` after so many seconds, redis-py's errors, and `PersistenceError` if Redis is too old.
    """
    connection: AbstractConnection | None = None
    try:
        async with asyncio.timeout(seconds):
            connection = await address.connection(seconds)
            await connection.connect()  # type: ignore[no-untyped-call]  # it has no annotations
            await _greet(connection, address, process)
    except BaseException:
        if connection is not None:
            await disconnect(connection)
        raise
    return connection


async def _greet(connection: AbstractConnection, address: Address, process: ThisProcess) -> None:
    from redis.exceptions import NoScriptError, ResponseError

    try:
        info = parse_info(await _exchange(connection, (b"INFO", b"server")))
    except ResponseError:  # INFO may be forbidden
        info = {}
    if is_too_old(info):
        version = info["redis_version"]
        raise PersistenceError(f"Redis at {address.shown} is version {version}: FastState needs 6.2 or newer")
    arguments: tuple[Argument, ...] = (
        1, address.base, info.get("run_id", ""), new_id(), process.timeline, process.sequence,
    )  # fmt: skip
    try:
        answer = await _exchange(connection, (b"EVALSHA", HELLO.sha, *arguments))
    except NoScriptError:
        answer = await _exchange(connection, (b"EVAL", HELLO.text, *arguments))
    process.saw(answer[0].decode(), int(answer[1]))


def pack(command: Sequence[Argument]) -> bytes:
    """Encode a command as Redis reads it."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _exchange(connection: AbstractConnection, command: Sequence[Argument]) -> Any:
    await connection.send_packed_command(pack(command), check_health=False)
    return await connection.read_response()


async def disconnect(connection: AbstractConnection) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)
