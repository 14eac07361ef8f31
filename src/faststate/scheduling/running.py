"""Running events: how long each may take, and how they end early when their time is up or the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Protocol, cast

from .._compat.asyncio import forget_task
from ..exceptions import EventTimeoutError, FastStateError, NotStartedError
from .loops import call_on, settle
from .threads import places_here
from .waits import Begun, begin, in_time, resume

logger = logging.getLogger("faststate")

DRAIN_PATIENCE: Final = 2.5
"""Seconds that events have to end by themselves when the server stops. Those that still wait then are stopped."""

STEP_PATIENCE: Final = 1.5
"""Seconds that generators have to end by themselves when the server stops. Most end within moments, and a deploy is no
reason to refuse the rest of their steps. After that, they end at their next step."""

LAST_WORDS: Final = 1.0
"""Seconds that a stopped event has for its `finally` blocks before its client gets the error without waiting for them.
Its locks are free from the beginning."""

CLOSING: Final = 10.0
"""Seconds that a generator which ends between two steps has for its `finally` blocks. It holds no locks then."""


# What can be done to an event that must end now. Plain numbers, since each step sets and reads them several times.
_IDLE: Final = 0  # nothing: it commits, or does something short, and checks after that if it may go on
_WORKING: Final = 1  # roll it back and cancel it: its own code waits for something
_WAITING: Final = 2  # cancel the waiting: it waits for its locks, between two steps of a generator


class Enclosing(Protocol):
    """A transaction, which knows which others were opened in its body, at any depth. Lifetime: one event."""

    def encloses(self, other: Any) -> bool: ...


class RunningEvent:
    """An event that has its locks and waits for something. Lifetime: from its first wait to its end.

    `limit` is how many seconds it may take (None for no limit). `abandon` rolls it back and frees its locks, while its
    own code may still run. Use it as a context manager.
    """

    def __init__(
        self,
        events: RunningEvents,
        name: str,
        limit: float | None,
        transaction: Enclosing,
        abandon: Callable[[FastStateError], None],
    ) -> None:
        self.name = name
        self.error: FastStateError | None = None
        """The reason why it must end, or None."""
        self.is_left = False
        """True if its own code runs on alone, because it did not end when it was cancelled."""
        self._events = events
        self._limit = limit
        self._transaction = transaction
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._cancels = 0
        self._leaves = False
        self._phase: int = _IDLE
        self._timer = self._loop.call_later(limit, self._time_is_over) if limit is not None else None
        self._last_words: asyncio.TimerHandle | None = None

    def __enter__(self) -> RunningEvent:
        self._events.under_way.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.ended(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._last_words is not None:
            self._last_words.cancel()

    # -- ending it early -------------------------------------------------------------------------------------------

    def _time_is_over(self) -> None:
        if self.error is None:
            logger.error("%s was stopped: it took more than its %g s (event_timeout)", self.name, self._limit)
            self.cut(EventTimeoutError(f"{self.name} took more than {self._limit:g} s and was stopped"))

    def end_soon(self, error: FastStateError) -> None:
        """End the event if it waits for its next step. Otherwise it notices by itself before that step."""
        if self._phase == _WAITING:
            self.cut(error)

    def cut(self, error: FastStateError) -> None:
        """End the event now, with this error. The running step changes nothing; a save that has begun is kept."""
        if self.error is not None:
            return
        self.error = error
        if self._phase == _WORKING:
            self._abandon(error)
            self._limit_last_words()
        if self._phase != _IDLE:
            self._cancel()

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()

    def _limit_last_words(self) -> None:
        if self._last_words is None:
            self._last_words = self._loop.call_later(LAST_WORDS, self._leave)

    def _leave(self) -> None:
        if self._phase == _WORKING:
            self._leaves = True
            self._cancel()

    def leave_inner(self) -> None:
        """End the events that its own code has begun: from now on, that code runs in another task, if at all."""
        for other in [each for each in self._events.under_way if self._transaction.encloses(each._transaction)]:
            self._cancels += other._cancels  # they share the task: its cancellations are taken back when this one ends
            other.error, other._cancels = other.error or self.error, 0
            other.__exit__()

    def _check_between_steps(self) -> None:
        if self.error is not None:
            raise self.error
        if self._events.ends_steps:
            raise _ending()

    # -- its own code ----------------------------------------------------------------------------------------------

    async def result_of(self, begun: Begun) -> Any:
        """Run the event's own code, which was begun and waits for something, to its end, and return its result.

        Raises what the code raises. If the event must end, its error is raised, whatever the code did with the
        cancellation.
        """
        self._phase = _WORKING
        if self.error is not None:
            self._limit_last_words()
        try:
            value = await resume(begun, leaves=self._leaves_alone)
        except (Exception, asyncio.CancelledError) as error:
            if self.error is None:
                raise
            self._take_back_cancels()
            raise self.error from (None if isinstance(error, asyncio.CancelledError) else error)
        finally:
            self._phase = _IDLE
        if self.error is not None:
            self._take_back_cancels()
            raise self.error
        return value

    async def next_step(self, begin: Callable[[], Awaitable[object]]) -> None:
        """Begin the next step of a generator. It waits for its locks, and can be cancelled meanwhile.

        Raises the error that the event must end with, `NotStartedError` while the server stops, and what `begin` does.
        """
        self._check_between_steps()
        self._phase = _WAITING
        try:
            await asyncio.sleep(0)  # let others have their turn, even if nothing else makes this wait
            await begin()
        except asyncio.CancelledError:
            if self.error is None:
                raise
            self._take_back_cancels()
        finally:
            self._phase = _IDLE
        self._check_between_steps()

    async def close(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator, so that it runs its `finally` blocks, which may take up to `CLOSING` seconds."""
        if self.is_left:
            return
        closing = begin(generator.aclose())
        if closing.steps is None:
            return
        late = EventTimeoutError(f"{self.name} did not end within {CLOSING:g} s when nobody waited for it any more")
        timer = self._loop.call_later(CLOSING, self.cut, late)
        try:
            await self.result_of(closing)
        finally:
            timer.cancel()

    def _take_back_cancels(self) -> None:
        """Undo our own cancellations of the task. Raises `CancelledError` if somebody else has cancelled it too."""
        while self._cancels:
            self._cancels -= 1
            self._task.uncancel()
        if self._task.cancelling() > self._cancelling:
            raise asyncio.CancelledError

    def _leaves_alone(self, reason: BaseException, rest: Begun) -> bool:
        """Let the event's own code run alone from here, if it was cancelled since it did not end."""
        if not (self._leaves and isinstance(reason, asyncio.CancelledError)):
            return False
        self.is_left = True
        self.leave_inner()
        self._events.leave(self.name, rest)
        return True


class RunningEvents:
    """The running events of a process that wait for something. Lifetime: the registry."""

    def __init__(self) -> None:
        self.under_way: set[RunningEvent] = set()
        self.draining: object | None = None
        """An object that identifies this draining while the server stops, else None."""
        self.ends_steps = False
        """True if generators must end at their next step."""
        self.is_over = False
        """True if the server stops and the time for events to end by themselves is up."""
        self._left: set[asyncio.Task[None]] = set()
        self._bodies: set[asyncio.Timeout] = set()
        self._emptied: asyncio.Future[None] | None = None

    def ended(self, running: RunningEvent) -> None:
        """Note that an event has ended."""
        self.under_way.discard(running)
        if self._emptied is not None and not self.under_way:
            call_on(self._emptied.get_loop(), settle, self._emptied)

    def check(self) -> None:
        """Raise `NotStartedError` if it is too late for an event to begin."""
        if self.is_over:
            error = NotStartedError("the server ends: it runs no events any more")
            error.send_again = True
            raise error

    async def receive(self, body: Awaitable[bytes], seconds: float) -> bytes:
        """Return the body of a request. Raises `TooLate` after `seconds`, or soon after the server began to stop."""
        if self.ends_steps:
            seconds = 0
        return await in_time(seconds, body, self._bodies)

    def drain(self) -> None:
        """Let the events end, because the server stops: generators at a step, all others when their time is up.

        Requests that are still being received have `STEP_PATIENCE` seconds to arrive.
        """
        if self.draining is None:
            self.draining = object()
            self._after(STEP_PATIENCE, self._end_steps)
            self._after(DRAIN_PATIENCE, self._cut_all)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        draining = self.draining  # it may be reopened, and even be draining again
        asyncio.get_running_loop().call_later(seconds, lambda: act() if self.draining is draining else None)

    def _end_steps(self) -> None:
        self.ends_steps = True
        for running in list(self.under_way):
            call_on(running._loop, running.end_soon, _ending())
        now = asyncio.get_running_loop().time()
        for timer in self._bodies:
            with contextlib.suppress(RuntimeError):  # its time has just run out
                timer.reschedule(now)

    def _cut_all(self) -> None:
        self.is_over = True
        places_here().refuse(_ending())
        for running in list(self.under_way):
            logger.warning("%s was stopped: the server ends", running.name)
            call_on(running._loop, running.cut, _ending())
        for task in self._left:
            forget_task(task)

    async def stop(self) -> None:
        """Drain, and wait until all events have ended or were stopped."""
        self.drain()
        if self.under_way:
            self._emptied = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait([self._emptied], timeout=DRAIN_PATIENCE + LAST_WORDS + 0.5)
            finally:
                self._emptied = None

    def reopen(self) -> None:
        """Run events again: the provider is used again after it was stopped."""
        self.draining, self.ends_steps, self.is_over = None, False, False

    def leave(self, name: str, rest: Begun) -> None:
        """Let the code of a stopped event run on alone, without locks, because it did not end."""
        logger.warning("%s goes on though it was cancelled; it has neither locks nor a state to change", name)

        async def run_on_alone() -> None:
            try:
                await resume(rest, error=asyncio.CancelledError())
            except Exception as error:
                logger.info(
                    "%s was stopped, and has failed later: %s", name, type(error).__name__
                )  # its message may quote a value

        task = asyncio.get_running_loop().create_task(run_on_alone(), name="faststate-left-event")
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        if self.is_over:
            forget_task(task)


def _ending() -> FastStateError:
    """Return the error for an event that ends because the server stops. Each event gets its own, with its traceback."""
    return NotStartedError("the server ends, and the event with it")
