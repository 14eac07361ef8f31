"""How many processes serve the app, as far as one of them can tell: each has its own states in memory."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from .._compat.servers import workers_here


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
    workers = workers_here()
    if workers is None:
        return None
    number = workers.number
    if workers.server == "granian":
        number = workers_argument(sys.argv[1:]) or _number(os.environ.get("GRANIAN_WORKERS")) or number
    return Processes(number, workers.server) if number is None or number > 1 else None


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
