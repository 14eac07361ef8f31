"""Transactions: working copies of some states, committed together or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..exceptions import FastStateError, StateNotFoundError
from ..redaction import mark_hidden
from ..state.changes import Change, change_of
from ..state.reactive import ReactiveState
from ..stores.base import Write
from .ends import StateEnd
from .entries import Entry, Nonce
from .locks import current_holder, identity_here
from .registry import StateRegistry


class Guard(NamedTuple):
    """A rule that was asked about the snapshot `asked` of a state; `ask` asks it about another, and raises its "no"."""

    entry: Entry
    asked: ReactiveState
    ask: Callable[[ReactiveState], Awaitable[None]]


@dataclass(slots=True, eq=False)
class StateCopy:
    """One state of a transaction: the entry that was `given`, the one that is locked for it, and its working copy."""

    given: Entry
    entry: Entry  # another one if the state was dropped and created again meanwhile
    copy: ReactiveState | None = None


class Transaction:
    """Working copies of some states. Lifetime: one event, `run()` or `modify()`."""

    __slots__ = (
        "_error", "_guards", "_inner", "_is_working", "_locked", "_members", "_registry", "_still_current", "owner",
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
        self._members = [StateCopy(entry, registry.pin(entry)) for entry in entries]
        self._locked = 0
        """How many members are locked, from the first on."""
        self._is_working = False
        """True while the copies may be changed: from `begin` until they are committed or dropped."""
        self._error: FastStateError | None = None
        """Why it was abandoned, if it was."""
        self._inner: list[Transaction] | None = None
        """The open transactions that began in its body, at any depth: the locks of all of them are its own."""
        self.owner: object = None
        """The owner of the locks: this transaction, or the one whose body it is in."""

    async def begin(self, nonce: Nonce | None = None, until: float | None = None) -> bool | None:
        """Lock the states, in the order of their shared keys, and make working copies of them.

        After an earlier step the same copies are rebased on what is committed by now. Guards are asked again if their
        state has changed since they were asked, and `still_current` whether the caller is still who it was. `until`
        (the loop's time) is when to give up, by default after the lock timeout. Returns whether the event's `nonce` is
        stored already, as `Cluster.lock` does. Raises `LockTimeoutError`, and what guards and `still_current` raise.
        """
        owner = self.owner
        if owner is None:
            _refuse_abandoned()
            owner = self.owner = identity_here() or self
            if owner is not self and isinstance(owner, Transaction):
                owner._inner = [*(owner._inner or ()), self]
        registry = self._registry
        locks, cluster = registry.locks, registry.cluster
        if len(self._members) > 1:  # each time: a sign-in may have renamed one since the last step
            self._members.sort(key=lambda member: member.entry.shared_key)
        for member in self._members:
            if not locks.take(member.entry, owner):
                await locks.acquire(member.entry, owner, until)
            self._locked += 1
        found = None
        if cluster.is_shared:  # not worth a list and a call for each event of one process
            found = await cluster.lock([member.entry for member in self._members], nonce)
        for member in self._members:
            entry = member.entry
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
        for member in self._members:
            if member.copy is not None:
                member.copy._rebase(member.entry.state)
            else:
                member.copy = member.entry.state._working()
        self._is_working = True
        return found

    def member(self, entry: Entry) -> StateCopy:
        """The member of this transaction for a state."""
        for member in self._members:
            if member.given is entry or member.entry is entry:
                return member
        key = entry.identifier.key  # of a state that was dropped and created again meanwhile
        return next(member for member in self._members if member.given.identifier.key == key)

    def entry(self, entry: Entry) -> Entry:
        """The entry that is locked for a state; another one if it was dropped and created again meanwhile."""
        return self.member(entry).entry

    def copy(self, entry: Entry) -> Any:
        """The working copy of a state."""
        return self.member(entry).copy

    def prepare(self) -> list[tuple[Entry, Change]]:
        """Return the changes to commit, validated; the copies must not be changed any more.

        Raises `EventError` when new values do not validate, and the error that the transaction was abandoned with.
        """
        if self._error is not None:
            raise self._error
        self._is_working = False  # what is about to be saved must not be abandoned
        prepared = []
        for member in self._members:
            if member.copy is not None and (change := change_of(member.copy)) is not None:
                prepared.append((member.entry, change))
        return prepared

    async def commit(
        self,
        prepared: list[tuple[Entry, Change]],
        also: Sequence[Write] = (),
    ) -> None:
        """Save and commit what `prepare` returned; as `Committer.commit`."""
        saving = self._registry.committer.commit(prepared, also=also, still_current=self._still_current)
        if saving is not None:
            await saving

    def abandon(self, error: FastStateError) -> None:
        """Roll back and unlock, while the code in this transaction's body still runs: it can change nothing any more.

        The same goes for transactions that were opened in its body. One that is being saved now goes on.
        """
        for transaction in reversed([self, *self._opened_inside()]):
            if transaction._is_working:
                transaction._error = error
                transaction.unlock()

    def encloses(self, other: Transaction) -> bool:
        """True if `other` was opened in this one's body, at any depth."""
        return other in self._opened_inside()

    def _opened_inside(self) -> list[Transaction]:
        outermost = self.owner
        if not isinstance(outermost, Transaction) or outermost._inner is None:
            return []
        inner = outermost._inner
        return inner if outermost is self else inner[inner.index(self) + 1 :]

    def hold_back(self, error: Exception) -> None:
        """Note with an error of the event's own code which values of its states no log may show."""
        held = [(type(each.entry.state), each.entry.state.__dict__) for each in self._members]
        held += [(type(each.entry.state), each.copy.__dict__) for each in self._members if each.copy is not None]
        mark_hidden(error, held)

    def unlock(self) -> None:
        """Drop what was not committed, and release the locks."""
        self._is_working = False
        for member in self._members:
            if member.copy is not None:
                member.copy._close()
        while self._locked:
            self._locked -= 1
            self._registry.release(self._members[self._locked].entry)

    def end(self) -> None:
        """Unlock, and let the states leave memory again."""
        if self._locked:
            self.unlock()
        if self.owner is not self and isinstance(self.owner, Transaction):
            self.owner._inner = [other for other in self.owner._inner or () if other is not self]
        self.owner = None  # or it would refer to itself, and wait for the cyclic collector
        for member in self._members:
            member.entry.users -= 1
        self._members = []


def _refuse_abandoned() -> None:
    """Raise if the event of this code was stopped: its thread may go on, and must change nothing any more."""
    holder = current_holder.get()
    error = holder.identity._error if holder is not None and isinstance(holder.identity, Transaction) else None
    if error is not None:
        raise type(error)(*error.args)
