"""Transactions: working copies of some states, committed together or not at all; and events run inside them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
from .state import Change, ReactiveState
from .stores import Write

__all__ = ["Guard", "Holder", "Step", "Transaction", "current_holder", "run_event"]


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
    """One committed step of an event: what it returned or yielded, as `render` made it; or that it was a repeat.

    `closing` is the step of a generator behind its last `yield`.
    """

    result: Any
    repeated: bool = False
    closing: bool = False


class Transaction:
    """Working copies of some states. Lifetime: one event, `run()` or `modify()`."""

    def __init__(
        self,
        registry: StateRegistry,
        entries: Iterable[Entry],
        guards: Sequence[Guard] = (),
        still_current: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._guards = guards
        self._still_current = still_current
        # By the key of the beginning: a sign-in may give a state another one while this runs.
        given = self._given = {entry.identifier.key: entry for entry in entries}
        self._entries = {key: registry.pin(given[key]) for key in (sorted(given) if len(given) > 1 else given)}
        self._copies: dict[str, ReactiveState] = {}
        self._locked: list[Entry] = []
        self.owner: object = None
        """Whose the locks are: this transaction's, or that of the one whose body it is in."""

    async def begin(self, look_for: Sequence[str] = ()) -> frozenset[str] | None:
        """Locks the states, in the order of their keys, and makes working copies of them.

        Where the store is one of many processes, gives those of the keys to `look_for` that it has; None where it was
        not asked.

        After an earlier step it rebases the same copies on what is committed by now. Guards are asked again where the
        state is another by now than the one they were asked about, and `still_current` whether the caller is still who
        it was. Raises `LockTimeoutError`, and what these raise.
        """
        self.owner = identity_here() or object()
        for entry in self._entries.values():
            await self._registry.locks.acquire(entry, self.owner)
            self._locked.append(entry)
        committer = self._registry.committer
        present = await committer.sharing.lock(self._locked, look_for) if committer.sharing is not None else None
        for entry in self._locked:
            is_stale = entry.persistence is not None and not committer.owned and committer.sharing is None
            if entry.doubtful or is_stale:
                await committer.reload(entry)  # what is in memory need not be what is stored
            if entry.removed is not None and not entry.is_over:
                raise StateNotFoundError(entry.removed)
        if self._guards and (
            changed := [guard for guard in self._guards if self.entry(guard.entry).state is not guard.asked]
        ):
            async with self._registry.locks.answer_in_time("a rule that was asked with the lock held"):
                for guard in changed:
                    await guard.ask(self.entry(guard.entry).state)
        self._still_current()
        copies = self._copies
        for key, entry in self._entries.items():
            if key in copies:
                copies[key]._rebase(entry.state)
            else:
                copies[key] = entry.state._working()
        return present

    def own(self, entry: Entry) -> tuple[Entry, Any]:
        """The entry that is locked for a state, and its working copy.

        The entry is another one where the state was dropped and made anew meanwhile.
        """
        for key, locked in self._entries.items():
            if locked is entry or self._given[key] is entry:
                return locked, self._copies.get(key)
        key = entry.identifier.key
        return self._entries[key], self._copies.get(key)

    def entry(self, entry: Entry) -> Entry:
        """The entry that is locked for a state."""
        return self.own(entry)[0]

    def copy(self, entry: Entry) -> Any:
        """The working copy of a state."""
        return self.own(entry)[1]

    def prepare(self) -> list[tuple[Entry, Change]]:
        """What there is to commit, validated. Raises `EventError` when new values do not validate."""
        prepared = []
        for key, copy in self._copies.items():
            if (change := copy._change()) is not None:
                prepared.append((self._entries[key], change))
        return prepared

    async def commit(
        self,
        prepared: list[tuple[Entry, Change]],
        *,
        nonce: Nonce | None = None,
        also: Sequence[Write] = (),
    ) -> None:
        """Saves and commits what `prepare` returned; as `Committer.commit`."""
        await self._registry.committer.commit(prepared, nonce=nonce, also=also, still_current=self._still_current)

    async def finish(
        self,
        result: Any,
        nonce: Nonce | None,
        render: Callable[[Any], Any],
        take: Callable[[Step], Awaitable[None]],
        *,
        closing: bool = False,
    ) -> None:
        """Commits one step of an event, which gave `result`, unlocks, and gives it to `take` as it was rendered."""
        rendered = render(result)
        self._still_current()  # it may have taken its time
        await self._registry.committer.commit(self.prepare(), nonce=nonce, still_current=self._still_current)
        self.unlock()
        await take(Step(rendered, closing=closing))

    def unlock(self) -> None:
        """Drops what was not committed and gives the locks back."""
        for copy in self._copies.values():
            copy._close()
        while self._locked:
            self._registry.release(self._locked.pop())

    def end(self) -> None:
        """Unlocks, and lets go of the states."""
        if self._locked:
            self.unlock()
        for entry in self._entries.values():
            entry.users -= 1
        self._entries = {}


async def run_event(
    registry: StateRegistry,
    entry: Entry,
    event: Event[Any, Any],
    arguments: Mapping[str, Any],
    states: Mapping[str, Entry],
    take: Callable[[Step], Awaitable[None]],
    *,
    bound: Callable[[], Mapping[str, Any]] | None = None,
    nonce: str | None = None,
    expected: str | None = None,
    guards: Sequence[Guard] = (),
    still_current: Callable[[], None] = lambda: None,
    render: Callable[[Any], Any] = lambda result: result,
) -> None:
    """Runs an event and gives its steps to `take`, each of them committed: one, or one per `yield` of a generator.

    `states` are the further states that the event takes, by parameter; `bound` gives the fields to set before it runs,
    and is called with the locks held; `guards` are asked again where a state changed before that, and
    `still_current` before each step and each commit. An event whose
    `nonce` the state has seen is not run again, one that `expected` another version than the state's (as the signal has
    it) not at all: `EventConflictError`. What `render` or the event raises leaves no trace of the step; what `take`
    raises ends the event behind it.
    """
    entries = [entry, *states.values()]
    thread = await _enter_thread(registry, entries) if event.kind == "sync" else None
    try:
        transaction = Transaction(registry, entries, guards, still_current)
        try:
            committer = registry.committer
            look_for = (
                () if nonce is None or committer.sharing is None else (nonce_key(entry.identifier, digest_of(nonce)),)
            )
            present = await transaction.begin(look_for)
            entry = transaction.entry(entry)
            own = Nonce.of(entry, nonce, states) if nonce is not None else None
            if own is not None and (
                entry.has_seen(own.digest)
                or (committer.store is not None and await committer.has_stored(own, states.values(), present))
            ):
                await take(Step(None, repeated=True))
                return
            if expected is not None and expected != str(entry.version):
                raise EventConflictError(
                    f"{entry.identifier.cls_name} has changed meanwhile: please look at it again", str(entry.version)
                )
            if bound is not None:
                for name, value in bound().items():
                    setattr(state, name, value)
            if states:
                arguments = {**arguments, **{name: transaction.copy(other) for name, other in states.items()}}
            holder = Holder(transaction.owner, asyncio.current_task())
            if event.kind == "generator":
                await _run_generator(event.function(state, **arguments), transaction, holder, own, render, take)
                return
            result = await _call(event, state, arguments, holder)
            if thread is not None:
                thread.close()
            await transaction.finish(result, own, render, take)
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


async def _call(event: Event[Any, Any], state: ReactiveState, arguments: Mapping[str, Any], holder: Holder) -> Any:
    """What the event returns; its own code runs as the locks' holder."""
    token = current_holder.set(holder)
    try:
        if event.kind == "async":
            return await event.function(state, **arguments)
        # Not of the handlers' threads: those that wait for a lock would take the one its holder needs to go on.
        result = await to_thread.run_sync(partial(event.function, state, **arguments), limiter=CapacityLimiter(1))
        # An async method under a decorator that hides it gives something to be awaited.
        return await result if inspect.isawaitable(result) else result
    finally:
        current_holder.reset(token)


async def _run_generator(
    generator: Any,
    transaction: Transaction,
    holder: Holder,
    nonce: Nonce | None,
    render: Callable[[Any], Any],
    take: Callable[[Step], Awaitable[None]],
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
            await transaction.finish(result, nonce, render, take, closing=last)
            nonce = None
            if not last:
                await transaction.begin()
    finally:
        await generator.aclose()
