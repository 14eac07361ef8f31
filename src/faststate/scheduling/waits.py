"""Coroutines that are begun by hand, at no cost where nothing has to be waited for, and gone on with in a task."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, NamedTuple, TypeVar

__all__ = ["Begun", "TooLate", "begin", "go_on", "in_time"]

T = TypeVar("T")


class Begun(NamedTuple):
    """What has been begun: its `steps`, and what the first of them `waits_for`; None twice where there was nothing to
    wait for, and its `value` is there."""

    steps: Any
    waits_for: Any
    value: Any = None


def begin(awaitable: Awaitable[Any]) -> Begun:
    """Runs something up to where it would wait."""
    steps = awaitable.__await__()
    try:
        return Begun(steps, next(steps))
    except StopIteration as done:
        return Begun(None, None, done.value) if done.value is not None else _DONE


_DONE: Final = Begun(None, None)


def _plainly(step: Callable[..., Any], *arguments: Any) -> Any:
    return step(*arguments)


@types.coroutine
def go_on(
    begun: Begun, *, run: Callable[..., Any] = _plainly, error: BaseException | None = None
) -> Generator[Any, Any, Any]:
    """Goes on with what has been begun, when what it waits for is done or with an `error`; returns what it returns.

    `run` makes each step, as `Context.run` does: what was set in a context is reset there, as tokens of context
    variables demand. A cancellation is thrown into it: that is its own to answer.
    """
    steps, waits_for, _ = begun
    try:
        while True:
            if error is None:
                try:
                    yield waits_for
                except BaseException as reason:
                    error = reason
            elif hasattr(waits_for, "cancel"):
                waits_for.cancel()  # nobody has waited for it yet, who would have been cancelled with it
            if error is None:
                waits_for = run(next, steps)
            elif hasattr(steps, "throw"):
                thrown, error = error, None
                waits_for = run(steps.throw, thrown)
            else:
                raise error
    except StopIteration as done:
        return done.value


class TooLate(TimeoutError):
    """Raised where what was awaited has not answered in time. A `TimeoutError` of its own is another matter."""


async def in_time(seconds: float, awaitable: Awaitable[T], timers: set[asyncio.Timeout] | None = None) -> T:
    """Returns what is awaited. Raises `TooLate`, and cancels it, when it waits for longer than `seconds`.

    It is begun without a timer, which is set where it has to wait: a request's body, say, is mostly there already.
    `timers` has the timer meanwhile, for who would set it to an earlier time.
    """
    begun = begin(awaitable)
    if begun.steps is None:
        return begun.value  # type: ignore[no-any-return]  # it is what is awaited
    try:
        async with asyncio.timeout(seconds) as timer:
            if timers is not None:
                timers.add(timer)
            rest: T = await go_on(begun)
            return rest
    except TimeoutError as error:
        if timer.expired():
            raise TooLate from error
        raise
    finally:
        if timers is not None:
            timers.discard(timer)
