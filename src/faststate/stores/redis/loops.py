"""Work on another event loop than the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from ...exceptions import PersistenceError
from ...scheduling.loops import call_on

__all__ = ["run_on"]

T = TypeVar("T")

LOOK_AFTER: Final = 1.0
"""Seconds after which a caller that waits checks whether the other loop still runs."""


async def run_on(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Run `work` on `loop`, which may be another one, and return its result.

    If the caller is cancelled, the work is too; if it has finished nevertheless, `undo` is called with its result.
    Raises `PersistenceError` if the loop ends before the work does.
    """
    if loop is asyncio.get_running_loop():
        return await work
    outcome: Future[T] = Future()

    async def do() -> None:
        try:
            result = await work
        except asyncio.CancelledError as error:
            _fail(outcome, PersistenceError("the event loop of the Redis store has ended: the outcome is unknown"))
            raise error
        except BaseException as error:
            _fail(outcome, error)
        else:
            if outcome.set_running_or_notify_cancel():
                outcome.set_result(result)
            elif undo is not None:
                undo(result)

    def begin() -> None:
        task = loop.create_task(do(), name="faststate redis call")
        # Cancel it only once it has begun, however soon: then it leaves what it has entered.
        outcome.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if outcome.cancelled() else None)

    if not call_on(loop, begin):
        work.close()
        raise PersistenceError("the event loop of the Redis store has just ended")
    waiting = asyncio.wrap_future(outcome)
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK_AFTER))[0]:
            if not loop.is_running():
                raise PersistenceError("the event loop of the Redis store has ended: the outcome is unknown")
    except BaseException:
        if not outcome.cancel() and undo is not None and outcome.exception() is None:
            undo(outcome.result())
        raise
    return waiting.result()


def _fail(outcome: Future[Any], error: BaseException) -> None:
    if outcome.set_running_or_notify_cancel():
        outcome.set_exception(error)
