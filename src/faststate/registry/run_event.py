"""Running one event: in a transaction, within its time, once for each nonce; a sync one in a worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Token
from functools import partial
from typing import Any, NamedTuple, cast

from ..exceptions import EventConflictError, EventError, FastStateError, LockTimeoutError
from ..scheduling.running import RunningEvent
from ..scheduling.threads import Job, Place, places_here
from ..scheduling.waits import begin
from ..state.changes import bind
from ..state.events import Event
from .ends import OutdatedError
from .entries import Entry, Nonce
from .locks import Holder, current_holder, identity_here
from .registry import StateRegistry
from .transaction import Guard, Transaction


class Step(NamedTuple):
    """A committed step of an event: its result, as `EventCaller.render` returned it, or that the event was `repeated`.

    `closing` is the step of a generator after its last `yield`.
    """

    result: Any
    repeated: bool = False
    closing: bool = False


class EventCaller:
    """Calls an event, and takes its committed steps. Lifetime: the event."""

    def still_current(self) -> None:
        """Raise if the caller is no longer who it was; called before each step and each commit."""

    def bound(self) -> Mapping[str, Any]:
        """The fields to set before the event runs, by name; called with the locks held."""
        return {}

    def render(self, result: Any) -> Any:
        """Turn what a step returned or yielded into what `take` gets. If this raises, the step leaves no trace."""
        return result

    def wants_more(self) -> bool:
        """True if a generator goes on after a `yield`; called with the locks held, before each further step."""
        return True

    def take(self, step: Step) -> Awaitable[None] | None:
        """Take a committed step, and return what to await for that, if anything.

        If this raises, the event ends after the step.
        """
        raise NotImplementedError


async def run_event(
    registry: StateRegistry,
    entry: Entry,
    event: Event[Any, Any],
    arguments: Mapping[str, Any],
    states: Mapping[str, Entry],
    caller: EventCaller,
    *,
    nonce: str | None = None,
    expected: str | None = None,
    guards: Sequence[Guard] = (),
    limit: float | None = None,
    age: float | None = None,
) -> None:
    """Run an event for `caller`, which takes each committed step: one, or one per `yield` of a generator.

    `states` are the further states that the event takes, by parameter; `guards` are asked again if their state changes
    before the event runs. An event whose `nonce` the state has seen is not run again, nor one that was sent first `age`
    seconds ago if the state may have forgotten its nonce since then: `EventError`. One that `expected` another
    version than the state's (as the signal has it) is not run: `EventConflictError`. Without a limit of its own it may
    take `limit` seconds from when it has its locks (None for no limit): `EventTimeoutError`. When the event raises, its
    step leaves no trace.
    """
    entries = [entry, *states.values()]
    thread = None
    has_locks = False
    try:
        if event.kind == "sync":
            thread = await EventThread.enter(registry, entries)
        transaction = Transaction(registry, entries, guards, caller.still_current)
        try:
            seen = Nonce.of(entry, nonce, states) if nonce is not None else None
            found = await transaction.begin(seen, thread.until if thread is not None else None)
            has_locks = True
            if registry.running.is_over:
                registry.running.check()
            own = transaction.member(entry)
            if own.entry is not entry:
                entry = own.entry
                seen = Nonce(entry, seen.digest) if seen is not None else None
            state = own.copy
            if seen is not None and (
                entry.has_seen(seen.digest)
                or (
                    registry.cluster.store is not None
                    and await registry.committer.has_stored(seen, states.values(), found)
                )
            ):
                if (taking := caller.take(Step(None, repeated=True))) is not None:
                    await taking
                return
            if seen is not None and age is not None and entry.may_have_forgotten(age, registry.clock()):
                raise EventError("It is not known whether this was done before. Please look, and do it again if not.")
            if expected is not None and expected != str(entry.version):
                raise EventConflictError(
                    f"{entry.identifier.cls_name} has changed meanwhile: please look at it again", str(entry.version)
                )
            if (bound := caller.bound()) and state is not None:
                bind(state, bound)
            if states:
                arguments = {**arguments, **{name: transaction.copy(other) for name, other in states.items()}}
            holder = Holder(transaction.owner, asyncio.current_task())
            if event.kind == "generator":
                with RunningEvent(
                    registry.running, _name(entry, event), event.limit(limit), transaction, transaction.abandon
                ) as running:
                    await _run_generator(
                        registry, event.function(state, **arguments), transaction, holder, seen, caller, running
                    )
                return
            token = current_holder.set(holder)  # the event's own code runs as the holder of the locks
            try:
                if thread is None:
                    begun = begin(event.function(state, **arguments))
                else:
                    begun = begin(thread.result_of(_name(entry, event), partial(event.function, state, **arguments)))
                if begun.steps is None:
                    result = begun.value  # like most events it has waited for nothing: there is nothing to limit
                else:
                    abandon = transaction.abandon if thread is None else partial(thread.abandon, transaction)
                    with RunningEvent(
                        registry.running, _name(entry, event), event.limit(limit), transaction, abandon
                    ) as running:
                        result = await running.result_of(begun)
            finally:
                _reset(token)
            if thread is not None:
                thread.close()
            await _finish_step(registry, transaction, result, seen, caller)
        except Exception as error:
            if has_locks and isinstance(error, OutdatedError):
                error.may_retry = False  # the event's own code looked up that state
            transaction.hold_back(error)
            raise
        finally:
            transaction.end()
    except LockTimeoutError as error:
        error.send_again = not has_locks
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody has cancelled this event: it waited for something that was. It fails as with any other error.
        raise RuntimeError(f"{_name(entry, event)} waited for what was cancelled") from error
    finally:
        if thread is not None:
            thread.close()


async def _finish_step(
    registry: StateRegistry,
    transaction: Transaction,
    result: Any,
    nonce: Nonce | None,
    caller: EventCaller,
    *,
    closing: bool = False,
) -> None:
    """Commit one step of an event that gave `result`, unlock, and let the caller take it."""
    rendered = caller.render(result)
    caller.still_current()  # it may have taken its time
    changes = transaction.prepare()
    saving = registry.committer.commit(changes, nonce=nonce, still_current=caller.still_current)
    if saving is not None:
        await saving
    transaction.unlock()
    if (taking := caller.take(Step(rendered, closing=closing))) is not None:
        await taking


def _name(entry: Entry, event: Event[Any, Any]) -> str:
    return f"{entry.identifier.cls_name}.{event.name}"


def _reset(token: Token[Holder | None]) -> None:
    try:
        current_holder.reset(token)
    except ValueError:  # an event that was stopped and goes on alone has another context by now
        current_holder.set(None)


async def _run_generator(
    registry: StateRegistry,
    generator: Any,
    transaction: Transaction,
    holder: Holder,
    nonce: Nonce | None,
    caller: EventCaller,
    running: RunningEvent,
) -> None:
    """Run an async generator: each `yield` ends a step, and so does its end."""
    last = False
    try:
        while True:
            token = current_holder.set(holder)
            result = None
            try:
                begun = begin(anext(generator))
                result = begun.value if begun.steps is None else await running.result_of(begun)
            except StopAsyncIteration:
                last = True
            finally:
                _reset(token)
            await _finish_step(registry, transaction, result, nonce, caller, closing=last)
            nonce = None
            if last:
                break
            await running.next_step(transaction.begin)
            if not caller.wants_more():
                break
    finally:
        transaction.unlock()
        await running.close(generator)


class EventThread:
    """The worker thread of a sync event: its turn at its states, then its place. Lifetime: the event.

    An event takes its place before its locks: a holder of locks must not wait for places that others keep while they
    wait for the locks. And it takes its turn at its states before its place: of the events that wait for one busy
    state, only one may keep a place from other states' events. An event in another one's body, which has locks already,
    waits for no turn.
    """

    __slots__ = ("_has_run", "_job", "_place", "_turns", "until")

    def __init__(self) -> None:
        self._turns = contextlib.ExitStack()
        self._place: Place | None = None
        self._job: Job | None = None
        self._has_run = False
        self.until = 0.0
        """When (the loop's time) it gives up waiting for its locks; its wait for a thread counts."""

    @classmethod
    async def enter(cls, registry: StateRegistry, entries: Sequence[Entry]) -> EventThread:
        """Wait for the turn, then for a place. Raises `LockTimeoutError`."""
        made, locks, now = cls(), registry.locks, asyncio.get_running_loop().time
        try:
            since = now()
            if identity_here() is None:
                since = await locks.take_turn(entries, made._turns, lambda: made._has_run)
            made.until = since + locks.timeout
            made._place = await places_here().take(locks.client(), made.until - now())
        except BaseException:
            made.close()
            raise
        return made

    async def result_of(self, name: str, call: Callable[[], Any]) -> Any:
        """Make the call in a worker thread, and return its result."""
        self._has_run = True
        self._job = Job(name, cast(Place, self._place), call)
        self._place = None  # the job's from here on, until its thread returns
        result = await self._job.result()
        # An async method under a decorator that hides it returns an awaitable.
        return await result if inspect.isawaitable(result) else result

    def abandon(self, transaction: Transaction, error: FastStateError) -> None:
        """Roll the event back, and let its thread go on alone: it keeps its place until it returns."""
        transaction.abandon(error)
        self._turns.close()
        if self._job is not None:
            self._job.leave()

    def close(self) -> None:
        """Give back the turn and the place, if the event still has them."""
        self._turns.close()
        if self._place is not None:
            self._place.release()
            self._place = None
