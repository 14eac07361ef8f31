"""A session's states at a sign-in: carried over to the new session, brought into the user's own, or ended."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from ..auth.users import UserContext
from ..cluster.base import AppCluster
from ..exceptions import PersistenceError, StateNotFoundError, VersionConflict
from ..registry.entries import Entry, finite, idle_time, is_initial
from ..registry.locks import Holder, current_holder
from ..registry.registry import StateRegistry
from ..registry.transaction import Transaction
from ..scopes import StateIdentifier, StateScope, Version
from ..state.changes import Change
from ..state.reactive import ReactiveState
from ..stores.base import Stored, Write
from .config import Ids, StateConfig
from .ended import EndedSessions


class _Merge(NamedTuple):
    """A guest's state, under `key`, whose user has one already."""

    key: str
    guest: Entry
    users: Entry
    config: StateConfig


@dataclass(frozen=True, slots=True, eq=False)
class Handover:
    """Hands the states of sessions over when somebody signs in. Lifetime: the provider.

    `config_named` returns the config of a class by its registered name, or None; `clock` returns seconds.
    """

    registry: StateRegistry
    cluster: AppCluster
    ended: EndedSessions
    config_named: Callable[[str], StateConfig | None]
    clock: Callable[[], float]

    async def hand_over(self, old: str, new: str | None, user: UserContext, holder: Holder | None) -> bool:
        """End a session whose states become those of `new`, or of `user`; without `new` they end.

        The guest's states are merged into the user's own and moved in the store, and the end is noted there, all in one
        change; nobody commits to them meanwhile. `holder` is the event whose user signs in, and which waits for this
        task. Returns False, with nothing done, if something changed before that.
        """
        current_holder.set(holder)
        registry, committer = self.registry, self.registry.committer
        merges: list[_Merge] = []
        if new is not None:
            await self._bring_back(old, user)
            merges = list(self._to_merge(old, user))
        # If an event of the guest's state signs its user in, that event holds the lock: nobody else changes it now.
        free = [merge.guest for merge in merges if holder is None or merge.guest.owner is not holder.identity]
        transaction = Transaction(registry, [*free, *(merge.users for merge in merges)])
        try:
            try:
                await transaction.begin()
            except StateNotFoundError:  # another sign-in took them over while this one waited
                return False
            for merge in merges:
                if registry.find(merge.key) is not merge.guest:
                    return False
                await _merge(merge, transaction.copy(merge.users))
            prepared = transaction.prepare()
            async with committer.gates.closed(old):
                now_to_merge = list(self._to_merge(old, user)) if new is not None else []
                if (
                    self.ended.is_ended(old)
                    or [m.guest for m in now_to_merge] != [m.guest for m in merges]
                    or any(transaction.entry(m.users) is not m.users for m in now_to_merge)
                ):
                    return False
                moved = await self._save_move(old, new, user, merges, transaction, prepared)
                if moved is None:
                    return False
                for merge in merges:
                    registry.drop(merge.key, merged=True)
                for key in registry.keys_of_session(old):
                    self._move(key, new, user, moved)
                self.ended.record_end(
                    old, self.ended.new_end(new, str(user.id)), is_stored=self.cluster.store is not None
                )
        finally:
            transaction.end()
        return True

    async def _save_move(
        self,
        old: str,
        new: str | None,
        user: UserContext,
        merges: list[_Merge],
        transaction: Transaction,
        prepared: list[tuple[Entry, Change]],
    ) -> dict[str, Version] | None:
        """Commit the merges, and move the other states in the store to where `_move` will put them.

        Returns the stored versions by their new keys; None if the store had other versions, which are known now.
        """
        store = self.cluster.store
        if store is None:
            await transaction.commit(prepared)
            return {}
        merged = {merge.key for merge in merges}
        writes, moved = [self.ended.write(old, self.ended.new_end(new, str(user.id)))], {}
        async with self.registry.in_store_time("the states of a session that signs in could not be found"):
            stored = dict(await store.group(old))
        for key in self.registry.keys_of_session(old):
            entry = self.registry.find(key)
            if entry is None or entry.stored is None:
                continue
            is_truth = not self.cluster.is_shared and not entry.doubtful
            if is_truth and entry.persistence is not None:
                # Memory has the truth of it; in the store it may have expired already.
                nonces = entry.recent_nonces(self.clock())
                data = entry.persistence.encode(entry.state._frozen_values(), nonces)
                stored[key] = Stored(entry.stored, data, None)
            elif key not in stored:
                self.registry.drop(key)
        for key, found in stored.items():
            writes.append(Write(key, found.version, found.version, None))
            move = self._target(StateIdentifier.parse(key), new, user)
            if key in merged or move is None or move[0].key in self.registry:
                continue
            target, config = move
            ttl = finite(idle_time(target, config.ttl))
            writes.append(Write(target.key, None, found.version, found.data, ttl, target.session_id))
            moved[target.key] = found.version
        try:
            await transaction.commit(prepared, also=writes)
        except VersionConflict:
            end = await self.ended.look_up(old)
            if end is not None and self.cluster.is_shared:
                self.ended.learn(old, end)
            elif end is not None and not self.ended.is_ended(old):  # what this process noted itself is newer
                self.ended.known.add(old, end, is_stored=True)
            return None
        except PersistenceError:
            # It may have been done all the same.
            end = await self.ended.look_up(old)
            if end is None or end.successor != new or end.user_id != str(user.id):
                raise
        return moved

    def _target(
        self, identifier: StateIdentifier, session_id: str | None, user: UserContext
    ) -> tuple[StateIdentifier, StateConfig] | None:
        """Return the identifier that a state of the old session moves to, and its config; None if it ends."""
        config = self.config_named(identifier.cls_name)
        if config is None or session_id is None or identifier.scope is StateScope.TEMPORARY:
            return None
        if config.on_login == "drop":
            return None
        user_id = user.id if config.on_login == "to_user" else None
        return config.identifier(Ids(user_id, session_id, identifier.component_id)), config

    def _move(self, key: str, session_id: str | None, user: UserContext, moved: dict[str, Version]) -> None:
        """Move a state in memory; `moved` holds the stored versions by their new keys."""
        move, entry = self._target(StateIdentifier.parse(key), session_id, user), self.registry.find(key)
        if move is None or entry is None:
            self.registry.drop(key)
            return
        target, config = move
        if target.key in self.registry:
            self.registry.drop(key, merged=True)  # an event that is about to begin must not seem to have happened
        else:
            self.registry.rename(key, target, config.ttl)
            # The moved version may be newer than that in memory; whoever locks the state next finds that out.
            if target.key not in moved:
                entry.stored = None

    async def _bring_back(self, session_id: str, user: UserContext) -> None:
        """Load the guest's states that would become the user's, and the user's own, stored or new."""
        registry, store = self.registry, self.cluster.store
        keys = dict.fromkeys(registry.keys_of_session(session_id))
        if store is not None:
            async with registry.in_store_time("the states of a session that signs in could not be found"):
                keys |= dict.fromkeys(await store.group(session_id))
        for key in keys:
            identifier = StateIdentifier.parse(key)
            move = self._target(identifier, session_id, user)
            if move is None:
                continue
            target, config = move
            if target.scope is not StateScope.USER or config.state_cls is None:
                continue
            guest, is_kept = registry.find(key), registry.persistence.get(config.state_cls) is not None
            await self.cluster.freshen([e for e in (guest, registry.find(target.key)) if e is not None])
            guest = registry.find(key)
            if guest is None and is_kept:
                guest = await registry.entry(identifier, config.state_cls, ttl=config.ttl, create=config.create)
            may_exist = is_kept or config.create is not None
            if guest is not None and (may_exist or guest.users or guest.state._committed.version > 1):
                with contextlib.suppress(StateNotFoundError):
                    await registry.entry(target, config.state_cls, ttl=config.ttl, create=config.create)

    def _to_merge(self, session_id: str, user: UserContext) -> Iterator[_Merge]:
        for key in self.registry.keys_of_session(session_id):
            move = self._target(StateIdentifier.parse(key), session_id, user)
            if move is None or move[0].scope is not StateScope.USER:
                continue
            guest, users = self.registry.find(key), self.registry.find(move[0].key)
            if guest is not None and users is not None and (guest.state._committed.version > 1 or guest.users):
                yield _Merge(key, guest, users, move[1])


async def _merge(merge: _Merge, users: ReactiveState) -> None:
    """Merge a guest's state into `users`, a working copy of the user's own."""
    if merge.config.merge is not None and not is_initial(merge.users.version):
        outcome = merge.config.merge(users, merge.guest.state)
        if inspect.isawaitable(outcome):
            await outcome
    elif is_initial(merge.users.version) or _is_untouched(merge.users, merge.config):
        loose = copy.deepcopy(merge.guest.state)  # with ordinary lists and dicts
        for name in type(loose).model_fields:
            setattr(users, name, getattr(loose, name))


def _is_untouched(entry: Entry, config: StateConfig) -> bool:
    """True if nobody ever put anything into a state; one that `create` made may hold what the app has stored."""
    if entry.state._committed.version > 1:
        return False
    if config.create is None:
        return True
    try:
        return type(entry.state).model_validate({}).model_dump() == entry.state.model_dump()
    except ValidationError:  # there are fields without a default: these values were stored
        return False
