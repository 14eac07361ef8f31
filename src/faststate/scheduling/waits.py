"""Run coroutines step by step: a coroutine that never waits needs no task and no timer."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

T = TypeVar("T")


class Done(Generic[T]):
    """The result of a call that has finished already. It can be awaited, but does not have to be."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self.value
        yield

    def __int__(self) -> int:
        return int(cast(Any, self.value))

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, Done) else other)

    __hash__ = None  # type: ignore[assignment]  # equal to its value, hashed by nobody


class Begun(NamedTuple):
    """A coroutine that was begun: its `steps`, and the future that the first step `waits_for`. Lifetime: one call.

    Both are None if it did not have to wait; then its result is `value`.
    """

    steps: Any
    waits_for: Any
    value: Any = None


def begin(awaitable: Awaitable[Any]) -> Begun:
    """Run an awaitable up to the first place where it waits."""
    steps = awaitable.__await__()
    try:
        return Begun(steps, next(steps))
    except StopIteration as done:
        return Begun(None, None, done.value) if done.value is not None else _DONE


_DONE: Final = Begun(None, None)


@types.coroutine
def resume(
    begun: Begun,
    *,
    run: Callable[..., Any] | None = None,
    error: BaseException | None = None,
    leaves: Callable[[BaseException, Begun], bool] | None = None,
) -> Generator[Any, Any, Any]:
    """Continue a coroutine that was begun, once the future that it waits for is done, and return its result.

    With an `error`, that is raised inside the coroutine instead. `run` makes each step, like `Context.run`: a context
    variable that was set in a context must be reset in the same one. A cancellation is raised inside the coroutine,
    which may handle it; if `leaves` returns True for it and the rest, it is raised here at once.
    """
    steps, waits_for, _ = begun
    try:
        while True:
            if error is None:
                try:
                    yield waits_for
                except BaseException as reason:
                    if leaves is not None and leaves(reason, Begun(steps, waits_for)):
                        raise
                    error = reason
            elif hasattr(waits_for, "cancel"):
                waits_for.cancel()  # no task has waited for it yet and would have cancelled it
            if error is None:
                waits_for = next(steps) if run is None else run(next, steps)
            elif hasattr(steps, "throw"):
                thrown, error = error, None
                waits_for = steps.throw(thrown) if run is None else run(steps.throw, thrown)
            else:
                raise error
    except StopIteration as done:
        return done.value


class TooLate(TimeoutError):
    """Raised if something was not done in time. A `TimeoutError` that the awaited code raises itself is not one."""


async def in_time(seconds: float, awaitable: Awaitable[T], timers: set[asyncio.Timeout] | None = None) -> T:
    """Await something and return its result. If it takes longer than `seconds`, cancel it and raise `TooLate`.

    A timer is set only if it has to wait; the body of a request, for example, is mostly there already. The timer is in
    `timers` meanwhile, so that others can set it to an earlier time.
    """
    begun = begin(awaitable)
    if begun.steps is None:
        return begun.value  # type: ignore[no-any-return]  # the type is that of the awaitable
    try:
        async with asyncio.timeout(seconds) as timer:
            if timers is not None:
                timers.add(timer)
            rest: T = await resume(begun)
            return rest
    except TimeoutError as error:
        if timer.expired():
            raise TooLate from error
        raise
    finally:
        if timers is not None:
            timers.discard(timer)
