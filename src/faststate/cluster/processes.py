"""How many processes serve the app, as far as one of them can tell: each has its own states in memory."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

__all__ = ["Processes", "processes_asked_for", "processes_found"]


class Processes(NamedTuple):
    """Several processes that serve one app: their `number` (int, None for unknown), and the server `by` name (str)."""

    number: int | None
    by: str


FASTHTML: Final = "FastHTML's serve(procs=...)"

_VARIABLES: Final = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GRANIAN_WORKERS", "PROCS")
"""Read by uvicorn and gunicorn, uvicorn, granian, and FastHTML's `serve`."""

_ARGUMENT: Final = re.compile(r"(?:--workers(?:=|$)|-w=?)(?P<count>\d*)")


def processes_found() -> Processes | None:
    """Return the processes that serve the app beside this one; None if there are none, or none can be seen.

    Call it while the server runs the app, as in its startup. It does not see other machines, nor servers that were
    started one by one.
    """
    if "FH_PROCNUM" in os.environ:  # FastHTML numbers its processes, and does not tell them how many there are
        return Processes(_number(os.environ.get("PROCS")), FASTHTML)
    for module, function, frame in _callers():
        found = _of_server(module, function, frame)
        if found is not None:
            return found if found.number is None or found.number > 1 else None
    return None


def processes_asked_for(environ: Mapping[str, str]) -> Processes | None:
    """Return the processes that environment variables ask a server for that is yet to be started; None for one."""
    for variable in _VARIABLES:
        count = _number(environ.get(variable))
        if count is not None:
            return Processes(count, variable)
    try:
        arguments = shlex.split(environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError:
        arguments = []
    count = workers_argument(arguments)
    return Processes(count, "GUNICORN_CMD_ARGS") if count is not None and count > 1 else None


def workers_argument(arguments: Sequence[str]) -> int | None:
    """Return the number (int) of `--workers` or `-w` among a command's arguments; None if it is not there."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        match = _ARGUMENT.fullmatch(argument)
        if match is not None:
            count = match["count"] or following
            return int(count) if count.isdecimal() else None
    return None


def _number(text: str | None) -> int | None:
    """Return the number in a variable if it is more than one, else None."""
    return int(text) if text is not None and text.isdecimal() and int(text) > 1 else None


# A worker finds its server's settings only in the functions that run it. Arguments of the command, variables, settings
# files and calls from code have all come together there.


def _callers() -> Iterator[tuple[str, str, FrameType]]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_name, frame
        frame = frame.f_back


def _of_server(module: str, function: str, frame: FrameType) -> Processes | None:
    """Return the processes by the settings of the server whose function `frame` runs; None if it is not a server's."""
    package = module.partition(".")[0]
    if package == "uvicorn" and function == "subprocess_started":
        config = frame.f_locals.get("config")
        reloads = getattr(config, "should_reload", False)  # one worker then, whatever else is said
        return Processes(1 if reloads else _count(config, "workers"), "uvicorn")
    if package == "gunicorn" and function == "spawn_worker":  # above uvicorn in gunicorn's workers
        return Processes(_count(frame.f_locals.get("self"), "num_workers"), "gunicorn")
    if package == "hypercorn" and function in ("asyncio_worker", "uvloop_worker", "trio_worker"):
        return Processes(_count(frame.f_locals.get("config"), "workers"), "hypercorn")
    if package == "granian" and "worker_id" in frame.f_locals:  # counted from 1
        count = workers_argument(sys.argv[1:]) or _number(os.environ.get("GRANIAN_WORKERS"))
        is_first = frame.f_locals["worker_id"] == 1
        return Processes(count or (1 if is_first else None), "granian")
    return None


def _count(settings: Any, name: str) -> int:
    found = getattr(settings, name, 1)
    return found if isinstance(found, int) else 1
