"""Transactions: working copies of some states, committed together or not at all; and events run inside them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from ..exceptions import EventConflictError, FastStateError, StateNotFoundError
from ..redaction import mark_hidden
from ..scheduling.running import RunningEvent
from ..scheduling.threads import Job, Place, places_here
from ..scheduling.waits import begin
from ..state.changes import Change, bind, change_of
from ..state.events import Event
from ..state.reactive import ReactiveState
from ..stores.base import Write
from .ends import StateEnd
from .entries import Entry, Nonce
from .locks import Holder, current_holder, identity_here
from .registry import StateRegistry

__all__ = ["Guard", "Holder", "Run", "Step", "Transaction", "current_holder", "run_event"]


class Guard(NamedTuple):
    """A rule that was asked about a state's snapshot `asked`; `ask` asks it about another one, and raises its "no"."""

    entry: Entry
    asked: ReactiveState
    ask: Callable[[ReactiveState], Awaitable[None]]


class Step(NamedTuple):
    """One committed step of an event: what it returned or yielded, as `Run.render` made it; or that it was a repeat.

    `closing` is the step of a generator behind its last `yield`.
    """

    result: Any
    repeated: bool = False
    closing: bool = False


class Run:
    """Who has an event run: what is asked of it meanwhile, and told. Lifetime: the event. By itself it asks nothing."""

    has_locks = False
    """Whether the event had its locks: what is outdated from then on, its own code has asked for."""

    def still_current(self) -> None:
        """Raises where the caller is not any more who it was; asked before each step and each commit."""

    def bound(self) -> Mapping[str, Any]:
        """The fields to set before the event runs, by name; asked with the locks held."""
        return {}

    def render(self, result: Any) -> Any:
        """What a step has returned or yielded, as `take` is to have it. What it raises leaves no trace of the step."""
        return result

    def wants_more(self) -> bool:
        """Tells whether a generator goes on behind a `yield`; asked with the locks held, before each further step."""
        return True

    def take(self, step: Step) -> Awaitable[None] | None:
        """Takes a committed step, and gives what is to be awaited for that, if anything.

        What it raises ends the event behind the step.
        """
        raise NotImplementedError


class _Part:
    """One state of a transaction: the one `given`, the one that is locked for it, and its working copy."""

    __slots__ = ("copy", "entry", "given")

    def __init__(self, given: Entry, entry: Entry) -> None:
        self.given = given
        self.entry = entry  # another one where the state was dropped and made anew meanwhile
        self.copy: ReactiveState | None = None


class Transaction:
    """Working copies of some states. Lifetime: one event, `run()` or `modify()`."""

    __slots__ = (
        "_error", "_guards", "_inner", "_is_working", "_locked", "_parts", "_registry", "_still_current", "owner",
    )  # fmt: skip

    def __init__(
        self,
        registry: StateRegistry,
        entries: Sequence[Entry],
        guards: Sequence[Guard] = (),
        still_current: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._guards = guards
        self._still_current = still_current
        if len(entries) > 1:
            entries = list({entry.shared_key: entry for entry in entries}.values())
        self._parts = [_Part(entry, registry.pin(entry)) for entry in entries]
        self._locked = 0
        """How many of them are locked, from the first on."""
        self._is_working = False
        """Tells whether the copies may be changed: from `begin` until they are committed or dropped."""
        self._error: FastStateError | None = None
        """Why it was abandoned, if it was."""
        self._inner: list[Transaction] | None = None
        """Those that were opened in its body, at any depth, and are open: the locks of all of them are its own."""
        self.owner: object = None
        """Whose the locks are: this transaction's, or that of the one whose body it is in."""

    async def begin(self, nonce: Nonce | None = None, until: float | None = None) -> bool | None:
        """Locks the states, in the order of their shared keys, and makes working copies of them.

        Where the store is one of many processes, tells whether it has the event's `nonce` beside its state; None where
        it was not asked.

        After an earlier step it rebases the same copies on what is committed by now. Guards are asked again where the
        state is another by now than the one they were asked about, and `still_current` whether the caller is still who
        it was. `until` (the loop's time) is when to give up, by default after the lock timeout. Raises
        `LockTimeoutError`, and what these raise.
        """
        owner = self.owner
        if owner is None:
            _refuse_abandoned()
            owner = self.owner = identity_here() or self
            if owner is not self and isinstance(owner, Transaction):
                owner._inner = [*(owner._inner or ()), self]
        registry = self._registry
        locks, cluster = registry.locks, registry.cluster
        if len(self._parts) > 1:  # each time: a sign-in may have renamed one since the last step
            self._parts.sort(key=lambda part: part.entry.shared_key)
        for part in self._parts:
            if not locks.take(part.entry, owner):
                await locks.acquire(part.entry, owner, until)
            self._locked += 1
        found = None
        if cluster.is_shared:  # not worth a list and a call for each event of one process
            found = await cluster.lock([part.entry for part in self._parts], nonce)
        for part in self._parts:
            entry = part.entry
            if entry.doubtful or not cluster.trusts_memory:
                await registry.committer.reload(entry)  # what is in memory need not be what is stored
            if entry.end is not None and entry.end is not StateEnd.SESSION_OVER:
                raise StateNotFoundError(entry.end_message)
        if self._guards and (
            changed := [guard for guard in self._guards if self.entry(guard.entry).state is not guard.asked]
        ):
            async with locks.answer_in_time("a rule that was asked with the lock held"):
                for guard in changed:
                    await guard.ask(self.entry(guard.entry).state)
        self._still_current()
        for part in self._parts:
            if part.copy is not None:
                part.copy._rebase(part.entry.state)
            else:
                part.copy = part.entry.state._working()
        self._is_working = True
        return found

    def _part(self, entry: Entry) -> _Part:
        for part in self._parts:
            if part.given is entry or part.entry is entry:
                return part
        key = entry.identifier.key  # of one that was dropped, and made anew meanwhile
        return next(part for part in self._parts if part.given.identifier.key == key)

    def entry(self, entry: Entry) -> Entry:
        """The entry that is locked for a state; another one where it was dropped and made anew meanwhile."""
        return self._part(entry).entry

    def copy(self, entry: Entry) -> Any:
        """The working copy of a state."""
        return self._part(entry).copy

    def prepare(self) -> list[tuple[Entry, Change]]:
        """Returns what there is to commit, validated; the copies are not to be changed any more.

        Raises `EventError` when new values do not validate, and what the transaction was abandoned with.
        """
        if self._error is not None:
            raise self._error
        self._is_working = False  # what is about to be saved must not be abandoned
        prepared = []
        for part in self._parts:
            if part.copy is not None and (change := change_of(part.copy)) is not None:
                prepared.append((part.entry, change))
        return prepared

    async def commit(
        self,
        prepared: list[tuple[Entry, Change]],
        *,
        nonce: Nonce | None = None,
        also: Sequence[Write] = (),
    ) -> None:
        """Saves and commits what `prepare` returned; as `Committer.commit`."""
        saving = self._registry.committer.commit(prepared, nonce=nonce, also=also, still_current=self._still_current)
        if saving is not None:
            await saving

    async def finish(self, result: Any, nonce: Nonce | None, run: Run, *, closing: bool = False) -> None:
        """Commits one step of an event, which gave `result`, unlocks, and has `run` take it."""
        rendered = run.render(result)
        self._still_current()  # it may have taken its time
        saving = self._registry.committer.commit(self.prepare(), nonce=nonce, still_current=self._still_current)
        if saving is not None:
            await saving
        self.unlock()
        if (taking := run.take(Step(rendered, closing=closing))) is not None:
            await taking

    def abandon(self, error: FastStateError) -> None:
        """Roll back and unlock, while the code in this transaction's body still runs: it can change nothing any more.

        So do the transactions that were opened in its body. One that is just being saved goes on.
        """
        for transaction in reversed([self, *self._opened_inside()]):
            if transaction._is_working:
                transaction._error = error
                transaction.unlock()

    def encloses(self, other: Transaction) -> bool:
        """Tells whether `other` was opened in this one's body, at any depth."""
        return other in self._opened_inside()

    def _opened_inside(self) -> list[Transaction]:
        outermost = self.owner
        if not isinstance(outermost, Transaction) or outermost._inner is None:
            return []
        inner = outermost._inner
        return inner if outermost is self else inner[inner.index(self) + 1 :]

    def hold_back(self, error: Exception) -> None:
        """Notes with an error of the event's own code what of its states no log may show."""
        held = [(type(part.entry.state), part.entry.state.__dict__) for part in self._parts]
        held += [(type(part.entry.state), part.copy.__dict__) for part in self._parts if part.copy is not None]
        mark_hidden(error, held)

    def unlock(self) -> None:
        """Drops what was not committed and gives the locks back."""
        self._is_working = False
        for part in self._parts:
            if part.copy is not None:
                part.copy._close()
        while self._locked:
            self._locked -= 1
            self._registry.release(self._parts[self._locked].entry)

    def end(self) -> None:
        """Unlocks, and lets go of the states."""
        if self._locked:
            self.unlock()
        if self.owner is not self and isinstance(self.owner, Transaction):
            self.owner._inner = [other for other in self.owner._inner or () if other is not self]
        self.owner = None  # or it would refer to itself, and wait for the cyclic collector
        for part in self._parts:
            part.entry.users -= 1
        self._parts = []


async def run_event(
    registry: StateRegistry,
    entry: Entry,
    event: Event[Any, Any],
    arguments: Mapping[str, Any],
    states: Mapping[str, Entry],
    run: Run,
    *,
    nonce: str | None = None,
    expected: str | None = None,
    guards: Sequence[Guard] = (),
    limit: float | None = None,
) -> None:
    """Runs an event for `run`, which takes its steps, each of them committed: one, or one per `yield` of a generator.

    `states` are the further states that the event takes, by parameter; `guards` are asked again where a state changed
    before it runs. An event whose `nonce` the state has seen is not run again, one that `expected` another version than
    the state's (as the signal has it) not at all: `EventConflictError`. Without a limit of its own it may take `limit`
    seconds from when it has its locks (None for no limit): `EventTimeoutError`. What the event raises leaves no trace
    of the step.
    """
    try:
        await _run_event(
            registry, entry, event, arguments, states, run,
            nonce=nonce, expected=expected, guards=guards, limit=limit,
        )  # fmt: skip
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody has cancelled this: the event has waited for something that was. It fails as with any other error.
        raise RuntimeError(f"{_name(entry, event)} waited for what was cancelled") from error


async def _run_event(
    registry: StateRegistry,
    entry: Entry,
    event: Event[Any, Any],
    arguments: Mapping[str, Any],
    states: Mapping[str, Entry],
    run: Run,
    *,
    nonce: str | None,
    expected: str | None,
    guards: Sequence[Guard],
    limit: float | None,
) -> None:
    """As `run_event`, where the event itself may raise that it was cancelled."""
    entries = [entry, *states.values()]
    thread = await _Thread.enter(registry, entries) if event.kind == "sync" else None
    try:
        transaction = Transaction(registry, entries, guards, run.still_current)
        try:
            seen = Nonce.of(entry, nonce, states) if nonce is not None else None
            found = await transaction.begin(seen, thread.until if thread is not None else None)
            run.has_locks = True
            if registry.running.is_over:
                registry.running.check()
            own = transaction._part(entry)
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
                if (taking := run.take(Step(None, repeated=True))) is not None:
                    await taking
                return
            if expected is not None and expected != str(entry.version):
                raise EventConflictError(
                    f"{entry.identifier.cls_name} has changed meanwhile: please look at it again", str(entry.version)
                )
            if (bound := run.bound()) and state is not None:
                bind(state, bound)
            if states:
                arguments = {**arguments, **{name: transaction.copy(other) for name, other in states.items()}}
            holder = Holder(transaction.owner, asyncio.current_task())
            if event.kind == "generator":
                with RunningEvent(
                    registry.running, _name(entry, event), event.limit(limit), transaction, transaction.abandon
                ) as running:
                    await _run_generator(event.function(state, **arguments), transaction, holder, seen, run, running)
                return
            token = current_holder.set(holder)  # its own code runs as the locks' holder
            try:
                if thread is None:
                    begun = begin(event.function(state, **arguments))
                else:
                    begun = begin(thread.result_of(_name(entry, event), partial(event.function, state, **arguments)))
                if begun.steps is None:
                    result = begun.value  # as most events, it has waited for nothing: there is nothing to limit
                else:
                    abandon = transaction.abandon if thread is None else partial(thread.abandon, transaction)
                    with RunningEvent(
                        registry.running, _name(entry, event), event.limit(limit), transaction, abandon
                    ) as running:
                        result = await running.result_of(begun)
            finally:
                try:
                    current_holder.reset(token)
                except ValueError:
                    _reset_elsewhere()
            if thread is not None:
                thread.close()
            await transaction.finish(result, seen, run)
        except Exception as error:
            transaction.hold_back(error)
            raise
        finally:
            transaction.end()
    finally:
        if thread is not None:
            thread.close()


def _refuse_abandoned() -> None:
    """Raises where an event asks that was stopped: its code may go on in a thread, and must change nothing any more."""
    holder = current_holder.get()
    error = holder.identity._error if holder is not None and isinstance(holder.identity, Transaction) else None
    if error is not None:
        raise type(error)(*error.args)


def _name(entry: Entry, event: Event[Any, Any]) -> str:
    return f"{entry.identifier.cls_name}.{event.name}"


def _reset_elsewhere() -> None:
    """An event that was stopped, and goes on alone, has another context by now than the one in which it began."""
    current_holder.set(None)


class _Thread:
    """The turn at its states, and the place, of a sync event in a worker thread. Lifetime: the event.

    A place comes before the locks: who holds one must not wait for what others keep while they wait for the lock. And a
    turn at its states comes before the place: of those that wait for one busy state, one alone may keep a place from
    other states' events. An event inside another one's body, which has locks already, waits for no turn.
    """

    __slots__ = ("_has_run", "_job", "_place", "_turns", "until")

    def __init__(self) -> None:
        self._turns = contextlib.ExitStack()
        self._place: Place | None = None
        self._job: Job | None = None
        self._has_run = False
        self.until = 0.0
        """Until when (the loop's time) it may wait for its locks: what it has waited for its thread counts."""

    @classmethod
    async def enter(cls, registry: StateRegistry, entries: Sequence[Entry]) -> _Thread:
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
        """Makes the call in a worker thread, and returns its result."""
        self._has_run = True
        self._job = Job(name, cast(Place, self._place), call)
        self._place = None  # from here on the job's, until its thread returns
        result = await self._job.result()
        # An async method under a decorator that hides it gives something to be awaited.
        return await result if inspect.isawaitable(result) else result

    def abandon(self, transaction: Transaction, error: FastStateError) -> None:
        """Roll the event back and let its thread go on alone, which keeps its place until it returns."""
        transaction.abandon(error)
        self._turns.close()
        if self._job is not None:
            self._job.leave()

    def close(self) -> None:
        """Give back what the event has no need of any more."""
        self._turns.close()
        if self._place is not None:
            self._place.release()
            self._place = None


async def _run_generator(
    generator: Any,
    transaction: Transaction,
    holder: Holder,
    nonce: Nonce | None,
    run: Run,
    running: RunningEvent,
) -> None:
    """Runs an async generator: each `yield` ends a step, and so does its end."""
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
                try:
                    current_holder.reset(token)
                except ValueError:
                    _reset_elsewhere()
            await transaction.finish(result, nonce, run, closing=last)
            nonce = None
            if last:
                break
            await running.next_step(transaction.begin)
            if not run.wants_more():
                break
    finally:
        transaction.unlock()
        await running.close(generator)
