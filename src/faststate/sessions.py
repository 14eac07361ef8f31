"""Signing in and out: new session ids, ended sessions, and what becomes of a session's states and streams."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from pydantic import ValidationError

from .auth import UserContext
from .config import StateConfig
from .context import SESSION_ID, USER_ID, RequestContext
from .exceptions import StateNotFoundError, VersionConflict
from .page import reload_frame, reopen_frame
from .registry import Entry, StateRegistry
from .scopes import Id, StateIdentifier, StateScope
from .sse import SSEConnection, SSEManager
from .state import ReactiveState
from .stores import Version, Write
from .transaction import Transaction, current_holder

__all__ = ["SESSION_MAX_AGE", "Sessions"]

SESSION_MAX_AGE: Final = 365 * 86_400.0
"""Seconds that an ended session is remembered where the app's session middleware does not say how old cookies get."""

SLACK: Final = 60.0
"""Seconds that an ended session is remembered beyond that: a cookie's age is counted in whole seconds of another clock,
and an answer that was under way may have been the last to sign it."""

TWICE: Final = 60.0
"""Seconds within which a second sign-in from the same old cookie (a double click) goes on where the first one led."""


ENDED: Final = "ended"
"""Group, and first part of the key, of what a store keeps of ended sessions. No scope has this name."""

CHANGES_KEPT: Final = 10_000
"""Users whose last change of rights is remembered; only requests that are under way ask for it."""


class _Ended(NamedTuple):
    """An ended session: when, until when that has to be known, and which session and user it went over to."""

    at: float
    until: float
    successor: str | None
    user_id: str | None


class _Merge(NamedTuple):
    """A guest's state, under `key`, whose user has one already."""

    key: str
    guest: Entry
    users: Entry
    config: StateConfig


class Sessions:
    """The sessions of one app, as far as they begin, change hands and end. Lifetime: the provider.

    A session is a signed cookie, and an old copy of it stays genuine: so the ids of ended ones are remembered for
    `max_age` seconds, as long as a cookie is accepted, at about 200 bytes each; where there is a store, it remembers
    them over a restart. `config_named` gives registered classes by name; `clock` returns seconds.
    """

    def __init__(
        self,
        registry: StateRegistry,
        manager: SSEManager,
        config_named: Callable[[str], StateConfig | None],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._manager = manager
        self._config_named = config_named
        self._clock = clock
        self.max_age: float = SESSION_MAX_AGE
        self._ended: OrderedDict[str, _Ended] = OrderedDict()  # the oldest first
        self.changes = 0
        self._changed: OrderedDict[str, int] = OrderedDict()  # per user: the number of the last change of rights
        self._forgotten = 0

    def is_ended(self, session_id: str) -> bool:
        """Whether the session has ended here."""
        return session_id in self._ended

    def forget_old(self) -> None:
        """Forgets the ended sessions whose cookies are too old by now to be accepted."""
        now = self._clock()
        while self._ended and next(iter(self._ended.values())).until <= now:
            self._ended.popitem(last=False)

    async def load_ended(self) -> None:
        """Learns from the store which sessions have ended before this process began. Raises `PersistenceError`."""
        store = self._registry.committer.store
        if store is None:
            return
        now = self._clock()
        for key, stored in (await store.group(ENDED)).items():
            session_id = key.removeprefix(f"{ENDED}:")
            if session_id not in self._ended:
                until = now + (math.inf if stored.ttl is None else stored.ttl)
                try:
                    successor, user_id = json.loads(stored.data)
                except ValueError:
                    successor = user_id = None
                # A sign-in whose answer the browser never had may go on where it led; when it was, the end says.
                at = until - self.max_age - SLACK if until != math.inf else -math.inf
                self._ended[session_id] = _Ended(at, until, successor, user_id)
        # The oldest first, as they are forgotten.
        self._ended = OrderedDict(sorted(self._ended.items(), key=lambda item: item[1].until))

    # -- signing in and out ----------------------------------------------------------------------------------------

    async def login(self, context: RequestContext, user: UserContext) -> None:
        """Makes the session of a request `user`'s, under a new id; see `StateProvider.login`."""
        context.refuse_without_cookies()
        before = await context.user()
        session = context.session
        # The app's loader may not know the session's user any more; to the next one that is somebody else all the same.
        owner = before.id if before is not None else session.get(USER_ID)
        same_person = owner is None or str(owner) == str(user.id)
        # First, since it runs the app's own code: when that fails nobody is signed in and nothing has changed.
        new = secrets.token_urlsafe(16)
        while (old := self._continued(context, user)) is not None:
            # While it waited, another device of the user's may have begun a state that a guest's one would become, or
            # a second click on the same button have been the first to sign in.
            if same_person and await self._merge(old, user):
                continue
            if await self._move_stored(old, new if same_person else None, user):
                break
        if not same_person:
            session.clear()  # what one user left in the cookie is not the next one's
        session[SESSION_ID] = new
        session[USER_ID] = user.id if isinstance(user.id, str | int) else str(user.id)
        context.become(user)
        if old is None:
            return
        for key in self._registry.keys_of_session(old):
            self._hand_over(key, new if same_person else None, user)
        self._end(context, old, successor=new, user_id=str(user.id))

    def _continued(self, context: RequestContext, user: UserContext) -> str | None:
        """The session that a sign-in takes over: that of the cookie, or what it has become by the same sign-in."""
        own = context.session_id()
        # Where the cookie's session has ended, its own one began with this request.
        found = context.ended_session or own
        while (ended := self._ended.get(found or "")) is not None:
            if ended.successor is None or ended.user_id != str(user.id) or self._clock() - ended.at >= TWICE:
                return own if own not in self._ended else None
            found = ended.successor
        return found

    async def logout(self, context: RequestContext) -> None:
        """Ends the session of a request; see `StateProvider.logout`."""
        old, store = context.session_id(), self._registry.committer.store
        # A session that never was anybody's, and kept nothing, is as empty again after its end: not worth a note for as
        # long as its cookie lives, which anybody could have us write by the million.
        was_empty = not set(context.session) - {SESSION_ID} and not await self._is_somebodys(context)
        if context.session:  # else an answer to an old cookie would take away a newer one
            context.session.clear()
        context.become(None)
        if old is None:
            return
        keys = self._registry.keys_of_session(old)
        for key in keys:
            self._registry.drop(key)
        self._end(context, old)
        if was_empty:
            del self._ended[old]
        if store is not None:
            # Behind all else: who signs out is out, even if the store fails and has them told so.
            async with self._registry.in_store_time("the end of a session could not be stored"):
                if not was_empty:
                    with contextlib.suppress(VersionConflict):  # it has been there
                        await store.save(self._mark(old))
                await store.delete([*keys, *await store.group(old)])

    async def _is_somebodys(self, context: RequestContext) -> bool:
        try:
            return await context.user() is not None
        except Exception:
            return True  # who cannot be recognised just now can be signed out all the same

    def _end(
        self, context: RequestContext, session_id: str, successor: str | None = None, user_id: str | None = None
    ) -> None:
        now = self._clock()
        self._ended[session_id] = _Ended(now, now + self.max_age + SLACK, successor, user_id)
        pages = self._manager.connections_of(session_id=session_id)
        for connection in pages:
            self._manager.silence(connection)

        def reload() -> None:
            for connection in pages:
                self._manager.dismiss(connection, reload_frame())

        # Behind the answer: a page that loads itself again before the new cookie is there would get another session,
        # and its cookie.
        context.after_answer(reload)

    def _mark(self, session_id: str, successor: str | None = None, user_id: str | None = None) -> Write:
        """What a store keeps of an ended session, as long as a cookie with its id is accepted."""
        ttl = None if self.max_age == math.inf else self.max_age + SLACK
        data = json.dumps([successor, user_id]).encode()
        return Write(f"{ENDED}:{session_id}", None, Version("", 1), data, ttl, ENDED)

    # -- states ----------------------------------------------------------------------------------------------------

    async def _move_stored(self, old: str, new: str | None, user: UserContext) -> bool:
        """Has the store keep the states of an ending session where `_hand_over` will put them, and that it has ended.

        False where an event or another sign-in was first, and nothing was done. When it returns True, nothing has been
        awaited since the store was changed, and no state of the session is stored under its old key any more.
        """
        registry, store = self._registry, self._registry.committer.store
        if store is None:
            return True
        first = [self._mark(old, new, str(user.id))]
        async with registry.in_store_time("the states of a session that signs in could not be moved"):
            while True:
                stored = await store.group(old)
                writes = first
                for key, found in stored.items():
                    writes = [*writes, Write(key, found.version, found.version, None)]
                    target = self._target(StateIdentifier.parse(key), new, user)
                    config = self._config_named(target.cls_name) if target is not None else None
                    if target is None or config is None or target.key in registry:
                        continue
                    ttl = registry.ttl_of(target, config.ttl)
                    writes.append(Write(target.key, None, found.version, found.data, ttl, target.session_id))
                try:
                    await store.save_many(writes)
                except VersionConflict:
                    await registry.committer.commits_under_way()
                    if first:
                        return False
                    continue
                first = []
                entries = map(registry.find, registry.keys_of_session(old))
                if all(e is None or e.stored is None or e.identifier.key in stored for e in entries):
                    return True
                # An event has been committed meanwhile, to a state that was not stored before.

    def _target(self, identifier: StateIdentifier, session_id: str | None, user: UserContext) -> StateIdentifier | None:
        """What a state of the old session becomes, or None when it ends."""
        config = self._config_named(identifier.cls_name)
        if config is None or session_id is None or identifier.scope is StateScope.TEMPORARY:
            return None
        if config.on_login == "drop":
            return None
        return config.identifier(
            user_id=user.id if config.on_login == "to_user" else None,
            session_id=session_id,
            component_id=identifier.component_id,
        )

    def _hand_over(self, key: str, session_id: str | None, user: UserContext) -> None:
        identifier = StateIdentifier.parse(key)
        target = self._target(identifier, session_id, user)
        config = self._config_named(identifier.cls_name)
        if target is None or config is None:
            self._registry.drop(key)
        elif target.key in self._registry:
            self._registry.drop(key, merged=True)  # an event that is about to begin must not seem to have happened
            self._registry.distrust(target.key)  # it may have come there while the guest's was being stored
        else:
            self._registry.rename(key, target, config.ttl)

    async def _merge(self, session_id: str, user: UserContext) -> bool:
        """Brings the guest's states into those that the user has already, all of them or none; False without any."""
        await self._bring_back(session_id, user)
        merges = list(self._to_merge(session_id, user))
        if not merges:
            return False
        holder = current_holder.get()
        # An event of the guest's state that signs its user in holds that state's lock: nobody else changes it now.
        free = [merge.guest for merge in merges if holder is None or merge.guest.owner is not holder.identity]
        transaction = Transaction(self._registry, [*free, *(merge.users for merge in merges)])
        try:
            await transaction.begin()
            if self._are_gone(merges):
                return True
            for merge in merges:
                await _bring_in(merge, transaction.copy(merge.users))
            if self._are_gone(merges):
                return True
            with contextlib.suppress(VersionConflict):  # then another sign-in was first
                await transaction.commit(transaction.prepare(), replaced=[merge.guest for merge in merges])
                self._drop_merged(merges)
        finally:
            transaction.end()
        return True

    def _drop_merged(self, merges: Iterable[_Merge]) -> None:
        # Before the locks are given back: what waits for the guest's state finds it gone, and nothing is lost.
        for merge in merges:
            self._registry.drop(merge.key, merged=True)

    async def _bring_back(self, session_id: str, user: UserContext) -> None:
        """Brings into memory the user's states that are kept elsewhere, where a guest's would take their place."""
        registry, store = self._registry, self._registry.committer.store
        keys = dict.fromkeys(registry.keys_of_session(session_id))
        if store is not None:
            async with registry.in_store_time("the states of a session that signs in could not be found"):
                keys |= dict.fromkeys(await store.group(session_id))
        for key in keys:
            identifier = StateIdentifier.parse(key)
            target = self._target(identifier, session_id, user)
            config = self._config_named(target.cls_name) if target is not None else None
            if target is None or config is None or config.state_cls is None or target.scope is not StateScope.USER:
                continue
            persistence = registry.persistence.get(config.state_cls)
            for wanted in (identifier, target):
                if wanted.key in registry or (wanted is identifier and persistence is None):
                    continue
                is_kept = persistence is not None and await persistence.load(wanted) is not None
                if is_kept or (wanted is target and config.create is not None):
                    with contextlib.suppress(StateNotFoundError):
                        await registry.entry(wanted, config.state_cls, ttl=config.ttl, create=config.create)

    def _are_gone(self, merges: list[_Merge]) -> bool:
        """Whether some of the guest's states went over or ended while this sign-in waited: they are merged once."""
        return any(self._registry.find(merge.key) is not merge.guest for merge in merges)

    def _to_merge(self, session_id: str, user: UserContext) -> Iterator[_Merge]:
        for key in self._registry.keys_of_session(session_id):
            target = self._target(StateIdentifier.parse(key), session_id, user)
            config = self._config_named(target.cls_name) if target is not None else None
            if target is None or config is None or target.scope is not StateScope.USER:
                continue
            guest, users = self._registry.find(key), self._registry.find(target.key)
            if guest is not None and users is not None and (guest.state._committed.version > 1 or guest.users):
                yield _Merge(key, guest, users, config)

    def rights_changed(self, user: UserContext | None, since: int) -> bool:
        """Whether `refresh` or `disconnect` was called for `user` after there had been `since` such calls."""
        return user is not None and self._changed.get(str(user.id), self._forgotten) > since

    def _note_change(self, user_id: Id) -> None:
        self.changes += 1
        self._changed[str(user_id)] = self.changes
        self._changed.move_to_end(str(user_id))
        if len(self._changed) > CHANGES_KEPT:
            self._forgotten = self._changed.popitem(last=False)[1]

    # -- rights that changed ---------------------------------------------------------------------------------------

    def disconnect(self, user_id: Id) -> int:
        """Ends a user's streams and has the pages load themselves again; returns how many (int)."""
        self._note_change(user_id)
        return self._dismiss(self._manager.connections_of(user_id=user_id), reload_frame())

    def refresh(self, user_id: Id) -> int:
        """Has a user's pages open their streams anew, and be asked for their rights; returns how many (int)."""
        self._note_change(user_id)
        return self._dismiss(self._manager.connections_of(user_id=user_id), reopen_frame())

    def _dismiss(self, connections: list[SSEConnection], frame: bytes) -> int:
        for connection in connections:
            self._manager.dismiss(connection, frame)
        return len(connections)


async def _bring_in(merge: _Merge, users: ReactiveState) -> None:
    if merge.config.merge is not None:
        outcome = merge.config.merge(users, merge.guest.state)
        if inspect.isawaitable(outcome):
            await outcome
    elif _is_untouched(merge.users, merge.config):
        loose = copy.deepcopy(merge.guest.state)  # with ordinary lists and dicts
        for name in type(loose).model_fields:
            setattr(users, name, getattr(loose, name))


def _is_untouched(entry: Entry, config: StateConfig) -> bool:
    """Whether nobody has ever put anything into a state; one that `create` made may hold what the app has stored."""
    if entry.state._committed.version > 1:
        return False
    if config.create is None:
        return True
    try:
        return type(entry.state).model_validate({}).model_dump() == entry.state.model_dump()
    except ValidationError:  # there are fields without a default: these values were stored
        return False
