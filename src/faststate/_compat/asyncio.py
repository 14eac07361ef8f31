"""Private names of asyncio."""

from __future__ import annotations

import asyncio
from typing import Any


def _do_nothing(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    pass


_has_both = hasattr(asyncio, "_enter_task") and hasattr(asyncio, "_leave_task")

enter_task = asyncio._enter_task if _has_both else _do_nothing
"""Run the code from here to `leave_task` as if the task ran it; the loop must be running no other task.

Without the private names this does nothing: `asyncio.current_task()` is None in that code, and `asyncio.timeout`
raises there."""

leave_task = asyncio._leave_task if _has_both else _do_nothing
"""End what `enter_task` began."""


def forget_task(task: asyncio.Task[Any]) -> None:
    """Let the event loop end without `task`, which may never end.

    `asyncio.run` would wait for it. Without the private names it does: such a process must be killed.
    """
    unregister = getattr(asyncio.tasks, "_unregister_task", None)
    if unregister is not None:
        unregister(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # or it is reported as destroyed while pending
