"""Server-Sent Events: connections and their outboxes, the fan-out, and the frames themselves."""

from .connection import Done, SSEConnection, Writer
from .frames import Chunk, snapshot_frame, vanish_frame
from .manager import LAST_WRITE, SSEManager, StateEventHandler

__all__ = [
    "LAST_WRITE",
    "Chunk",
    "Done",
    "SSEConnection",
    "SSEManager",
    "StateEventHandler",
    "Writer",
    "snapshot_frame",
    "vanish_frame",
]
