"""Bytes that outlive the process, and the messages between processes.

This package knows bytes, versions and drivers, and nothing of states. Begin with `base.StateStore`, the protocol that
every store implements, and `base.SharedStore`, the one for many processes.
"""

from ..scopes import Version
from .backplane import Backplane, Message
from .base import (
    EXPIRED_KEPT,
    Committed,
    Hold,
    Locked,
    SharedStore,
    StateStore,
    Stored,
    Write,
)
from .urls import store_from_url

__all__ = [
    "EXPIRED_KEPT",
    "Backplane",
    "Committed",
    "Hold",
    "Locked",
    "Message",
    "SharedStore",
    "StateStore",
    "Stored",
    "Version",
    "Write",
    "store_from_url",
]
