"""Who follows what, and how bytes reach them over Server-Sent Events.

This package knows states and frames. It knows no request, no registry and no provider. Begin with `manager.SSEManager`,
which knows who is connected, and `connection.SSEConnection`, one page's stream with its outbox.
"""

from .changes import snapshot_frame
from .connection import Done, SSEConnection
from .manager import LAST_WRITE, SSEManager, StateEventHandler
from .writing import Chunk, Writer

__all__ = [
    "LAST_WRITE",
    "Chunk",
    "Done",
    "SSEConnection",
    "SSEManager",
    "StateEventHandler",
    "Writer",
    "snapshot_frame",
]
