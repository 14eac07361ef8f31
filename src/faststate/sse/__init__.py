"""Streams: which page follows which state, and how bytes reach it over Server-Sent Events.

This package knows states and frames. It knows no request, no registry and no provider; `hooks.StreamHooks` is what it
asks of them. Begin with `manager.SSEManager`, which knows who is connected. `fanout.Fanout` writes a change to all who
follow its state, and `connection.SSEConnection` is one page's stream with its outbox.
"""

from ..scheduling.waits import Done
from .changes import snapshot_frame
from .connection import SSEConnection
from .hooks import StreamHooks
from .manager import LAST_WRITE, SSEManager, StateEventHandler
from .writing import Chunk, Writer

__all__ = [
    "LAST_WRITE",
    "Chunk",
    "Done",
    "SSEConnection",
    "SSEManager",
    "StateEventHandler",
    "StreamHooks",
    "Writer",
    "snapshot_frame",
]
