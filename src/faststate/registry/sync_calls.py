"""Calls from sync code: from worker threads, from scripts, and from modules while they are imported."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..scheduling.waits import Done
from .locks import Holder, current_holder

T = TypeVar("T")

Loop = Callable[[], asyncio.AbstractEventLoop | None]
"""Returns the app's event loop, or None where none runs."""


def call_from_anywhere(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """On an event loop return the coroutine, to be awaited; in sync code run it to its end."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return Done(run_on(loop_outside(loop), coroutine))
    return coroutine


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop of another thread, as this code's own: it may use the locks that this holds."""
    outer = current_holder.get()

    async def inside() -> T:
        # The event whose locks these are waits in this thread, so the task of the loop is the event's own.
        current_holder.set(Holder(outer.identity, None) if outer is not None else None)
        return await coroutine

    return asyncio.run_coroutine_threadsafe(inside(), loop).result()


def loop_outside(loop: Loop) -> asyncio.AbstractEventLoop:
    """Return the event loop on which sync code makes its calls: the app's, or that of scripts where none runs."""
    found = loop()
    return found if found is not None and found.is_running() else loop_for_scripts()


def is_import() -> bool:
    """True if the code that runs on the event loop is a module's own.

    Servers that reload import the app there, where nothing waits for the loop yet.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "run_forever":
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


_scripts_lock = threading.Lock()
_scripts_loop: asyncio.AbstractEventLoop | None = None


def loop_for_scripts() -> asyncio.AbstractEventLoop:
    """Return the loop on which plain `with` works where no app runs one. Lifetime: the process.

    There is one loop in one thread for all providers, and not one per thread: asyncio's locks work within one loop.
    """
    global _scripts_loop
    with _scripts_lock:
        if _scripts_loop is None:
            _scripts_loop = asyncio.new_event_loop()
            threading.Thread(target=_scripts_loop.run_forever, name="faststate-scripts", daemon=True).start()
        return _scripts_loop


def is_for_scripts(loop: asyncio.AbstractEventLoop) -> bool:
    """True for the loop that `loop_for_scripts` returns."""
    return loop is _scripts_loop
