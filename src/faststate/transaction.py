"""Transactions: working copies of some states, committed together or not at all; and events run inside them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, to_thread

from .entries import Entry, Nonce, digest_of
from .events import Event
from .exceptions import EventConflictError, StateNotFoundError
from .locks import Holder, current_holder, identity_here
from .persistence import nonce_key
from .registry import StateRegistry
from .sharing import OutdatedError
from .state import Change, ReactiveState
from .stores import Write

__all__ = ["Guard", "Holder", "Run", "Step", "Transaction", "current_holder", "run_event"]


EVENT_THREADS: Final = 100
"""Sync events, and so worker threads, at one time; idle threads end by themselves."""

_places_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _places() -> asyncio.Semaphore:
    return _places_by_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(EVENT_THREADS))


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

    __slots__ = ("_guards", "_locked", "_parts", "_registry", "_still_current", "owner")

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
        self.owner: object = None
        """Whose the locks are: this transaction's, or that of the one whose body it is in."""

    async def begin(self, look_for: Sequence[str] = ()) -> frozenset[str] | None:
        """Locks the states, in the order of their shared keys, and makes working copies of them.

        Where the store is one of many processes, gives those of the keys to `look_for` that it has; None where it was
        not asked.

        After an earlier step it rebases the same copies on what is committed by now. Guards are asked again where the
        state is another by now than the one they were asked about, and `still_current` whether the caller is still who
        it was. Raises `LockTimeoutError`, and what these raise.
        """
        owner = self.owner = identity_here() or object()
        locks, committer = self._registry.locks, self._registry.committer
        if len(self._parts) > 1:  # each time: a sign-in may have renamed one since the last step
            self._parts.sort(key=lambda part: part.entry.shared_key)
        for part in self._parts:
            if not locks.take(part.entry, owner):
                await locks.acquire(part.entry, owner)
            self._locked += 1
        present = None
        if committer.sharing is not None:
            for part in self._parts:
                # Its successor has locks of its own here, and may have been handed the one that would be waited for.
                if part.entry.removed is not None and not part.entry.is_over:
                    raise OutdatedError(part.entry.removed)
            present = await committer.sharing.lock([part.entry for part in self._parts], look_for)
        for part in self._parts:
            entry = part.entry
            is_stale = entry.persistence is not None and not committer.owned and committer.sharing is None
            if entry.doubtful or is_stale:
                await committer.reload(entry)  # what is in memory need not be what is stored
            if entry.removed is not None and not entry.is_over:
                raise StateNotFoundError(entry.removed)
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
        return present

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
        """What there is to commit, validated. Raises `EventError` when new values do not validate."""
        prepared = []
        for part in self._parts:
            if part.copy is not None and (change := part.copy._change()) is not None:
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

    def unlock(self) -> None:
        """Drops what was not committed and gives the locks back."""
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
) -> None:
    """Runs an event for `run`, which takes its steps, each of them committed: one, or one per `yield` of a generator.

    `states` are the further states that the event takes, by parameter; `guards` are asked again where a state changed
    before it runs. An event whose `nonce` the state has seen is not run again, one that `expected` another version than
    the state's (as the signal has it) not at all: `EventConflictError`. What the event raises leaves no trace of the
    step.
    """
    entries = [entry, *states.values()]
    thread = await _enter_thread(registry, entries) if event.kind == "sync" else None
    try:
        transaction = Transaction(registry, entries, guards, run.still_current)
        try:
            committer = registry.committer
            look_for: Sequence[str] = ()
            if nonce is not None and committer.sharing is not None:
                look_for = [nonce_key(entry.identifier, digest_of(nonce))]
            present = await transaction.begin(look_for)
            run.has_locks = True
            own = transaction._part(entry)
            entry, state = own.entry, own.copy
            seen = Nonce.of(entry, nonce, states) if nonce is not None else None
            if seen is not None and (
                entry.has_seen(seen.digest)
                or (committer.store is not None and await committer.has_stored(seen, states.values(), present))
            ):
                if (taking := run.take(Step(None, repeated=True))) is not None:
                    await taking
                return
            if expected is not None and expected != str(entry.version):
                raise EventConflictError(
                    f"{entry.identifier.cls_name} has changed meanwhile: please look at it again", str(entry.version)
                )
            if (bound := run.bound()) and state is not None:
                state._bind(bound)
            if states:
                arguments = {**arguments, **{name: transaction.copy(other) for name, other in states.items()}}
            holder = Holder(transaction.owner, asyncio.current_task())
            if event.kind == "generator":
                await _run_generator(event.function(state, **arguments), transaction, holder, seen, run)
                return
            token = current_holder.set(holder)  # its own code runs as the locks' holder
            try:
                called = event.function(state, **arguments) if thread is None else _in_thread(event, state, arguments)
                result = await called
            finally:
                current_holder.reset(token)
            if thread is not None:
                thread.close()
            await transaction.finish(result, seen, run)
        finally:
            transaction.end()
    finally:
        if thread is not None:
            thread.close()


async def _enter_thread(registry: StateRegistry, entries: Sequence[Entry]) -> contextlib.ExitStack:
    """Takes what a sync event needs to have a thread; it is given back when the result is closed.

    A place comes before the locks: who holds one must not wait for what others keep while they wait for the lock. And a
    turn at its states comes before the place: of those that wait for one busy state, one alone may keep a place from
    other states' events. An event inside another one's body, which has locks already, waits for no turn.
    """
    with contextlib.ExitStack() as taken:
        if identity_here() is None:
            await registry.locks.take_turn(entries, taken)
        places = _places()
        await places.acquire()
        taken.callback(places.release)
        return taken.pop_all()


async def _in_thread(event: Event[Any, Any], state: Any, arguments: Mapping[str, Any]) -> Any:
    """What a sync event returns."""
    # Not of the handlers' threads: those that wait for a lock would take the one its holder needs to go on.
    result = await to_thread.run_sync(partial(event.function, state, **arguments), limiter=CapacityLimiter(1))
    # An async method under a decorator that hides it gives something to be awaited.
    return await result if inspect.isawaitable(result) else result


async def _run_generator(
    generator: Any,
    transaction: Transaction,
    holder: Holder,
    nonce: Nonce | None,
    run: Run,
) -> None:
    """Runs an async generator: each `yield` ends a step, and so does its end."""
    last = False
    try:
        while not last:
            token = current_holder.set(holder)
            result = None
            try:
                result = await anext(generator)
            except StopAsyncIteration:
                last = True
            finally:
                current_holder.reset(token)
            await transaction.finish(result, nonce, run, closing=last)
            nonce = None
            if not last:
                await transaction.begin()
    finally:
        await generator.aclose()
