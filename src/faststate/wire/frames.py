"""Frames that speak to the page itself: show a message, go elsewhere, reload, open the stream again."""

from __future__ import annotations

from typing import Final

from .values import signals_frame

__all__ = ["RELOAD", "REOPEN", "go_frame", "message_frame", "reload_frame", "reopen_frame"]

RELOAD: Final = "#reload"
"""Value of the signal `_fs.go` that makes the page reload itself."""

REOPEN: Final = "#reopen"
"""Value of the signal `_fs.go` that makes the page open its stream again, as a page that has seen nothing yet."""


def message_frame(message: str, status: int) -> bytes:
    """Return the frame (bytes) that shows `message` in the page's toast, and the HTTP `status` that it stands for."""
    return signals_frame({"_fs": {"err": message, "status": status}})


def go_frame(location: str) -> bytes:
    """Return the frame (bytes) that sends the browser to `location`, a URL."""
    return signals_frame({"_fs": {"go": location}})


def reload_frame() -> bytes:
    """Return the frame (bytes) that makes the page reload itself."""
    return go_frame(RELOAD)


def reopen_frame() -> bytes:
    """Return the frame (bytes) that makes the page open its stream again and receive all that it may see."""
    return signals_frame({"_fs": {"n": "", "go": REOPEN}})
