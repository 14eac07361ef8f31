"""The functions in which servers run a worker, where alone a worker finds how many of them there are.

Arguments of the command, variables, settings files and calls from code have all come together there. No server is
imported. Where one has renamed its function or a setting, no other processes are found, and nobody is warned of them;
`tests/cluster/test_processes.py` runs each of these servers, and fails then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple


class Workers(NamedTuple):
    """The workers of the server that runs this code: its name (str), and their number (int, None for several)."""

    server: str
    number: int | None


def workers_here() -> Workers | None:
    """Return the workers of the server that runs this code; None if no known server does.

    granian tells a worker only its own number, so for its first one the number is 1, which may be too few.
    """
    return next((found for frame in _frames() if (found := _of_server(frame)) is not None), None)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _of_server(frame: FrameType) -> Workers | None:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    function = frame.f_code.co_name
    if package == "uvicorn" and function == "subprocess_started":
        config = frame.f_locals.get("config")
        reloads = getattr(config, "should_reload", False)  # one worker then, whatever else is said
        return Workers("uvicorn", 1 if reloads else _count(config, "workers"))
    if package == "gunicorn" and function == "spawn_worker":  # above uvicorn in gunicorn's workers
        return Workers("gunicorn", _count(frame.f_locals.get("self"), "num_workers"))
    if package == "hypercorn" and function in ("asyncio_worker", "uvloop_worker", "trio_worker"):
        return Workers("hypercorn", _count(frame.f_locals.get("config"), "workers"))
    if package == "granian" and "worker_id" in frame.f_locals:  # counted from 1
        return Workers("granian", 1 if frame.f_locals["worker_id"] == 1 else None)
    return None


def _count(settings: Any, name: str) -> int:
    found = getattr(settings, name, 1)
    return found if isinstance(found, int) else 1
