"""Private names of redis-py's connections (`redis.asyncio.connection.AbstractConnection`)."""

from __future__ import annotations

import asyncio
from typing import Any


def is_broken(connection: Any) -> bool:
    """True if the other side has closed a connection: whatever is sent over it can never arrive.

    Without the private `_reader` this is False. A closed connection is then noticed when the next command is sent over
    it; that command fails with an unknown outcome, or is sent again if it may be.
    """
    try:
        reader = connection._reader
        return reader is None or bool(reader.at_eof()) or reader.exception() is not None
    except AttributeError:
        return False


def abort(connection: Any) -> None:
    """Close a connection at once, without waiting, so that whoever reads from it gets an error.

    Without the private `_writer` the connection is closed by a task, through the public `disconnect`.
    """
    try:
        connection._writer.transport.abort()
    except AttributeError:
        task = asyncio.get_running_loop().create_task(_disconnect(connection), name="faststate redis disconnect")
        _closing.add(task)
        task.add_done_callback(_closing.discard)


async def _disconnect(connection: Any) -> None:
    await connection.disconnect(nowait=True)


_closing: set[asyncio.Task[None]] = set()
