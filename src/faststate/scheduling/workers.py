"""Worker threads: daemons that run one function after the other, shared by sync events and sync user loaders."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from .loops import call_on

logger = logging.getLogger("faststate")

IDLE: Final = 10.0
"""Seconds after which a thread ends that has nothing to do."""


class Worker:
    """A thread that runs one function after the other. Lifetime: until it has been idle for `IDLE` seconds.

    It is a daemon: code of the app that hangs cannot be killed, and must not keep the process from ending. The threads
    of anyio or of an executor would be joined at the end.
    """

    def __init__(self) -> None:
        self.todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name="faststate-worker", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                function = self.todo.get(timeout=IDLE)
            except Empty:
                try:
                    _idle.remove(self)
                    return
                except ValueError:  # it was given a function at this very moment
                    continue
            function()
            del function  # it refers to the state or request of an app, and the next call may come much later
            _idle.append(self)


_idle: list[Worker] = []
"""The threads that wait for a function. A list needs no lock: each of its methods is atomic."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a forked process has none of its parent's threads


def call_in_worker(call: Callable[[], Any], answer: Callable[[Any, BaseException | None], None]) -> None:
    """Run `call` in a worker thread, with the caller's context variables. Never waits for a thread.

    `answer` is called on the running event loop, with the result and the error: one of them is None.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def work() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(call)
        except BaseException as raised:
            error = raised
        if not call_on(loop, answer, result, error):  # the process is ending, or the part of a script that had the loop
            logger.debug("a worker thread returned after its event loop was closed")

    try:
        worker = _idle.pop()
    except IndexError:
        worker = Worker()
    worker.todo.put(work)
