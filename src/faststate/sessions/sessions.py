"""Signing in and out: new session ids, ended sessions, and what becomes of a session's states and streams."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import json
import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from ..auth.users import UserContext
from ..cluster.following import Following
from ..cluster.sharing import APP, ENDED, Sharing, pack
from ..exceptions import PersistenceError, StateNotFoundError, VersionConflict
from ..registry.entries import is_initial
from ..registry.locks import Holder, current_holder, identity_here
from ..registry.registry import Entry, StateRegistry
from ..registry.transaction import Transaction
from ..scopes import Id, StateIdentifier, StateScope, Version
from ..sse.connection import SSEConnection
from ..sse.manager import SSEManager
from ..state.reactive import Change, ReactiveState
from ..stores.backplane import Message
from ..stores.base import Stored, Write
from ..wire.frames import reload_frame, reopen_frame
from .caller import SESSION_ID, USER_ID, RequestContext
from .config import StateConfig
from .ended import NOBODYS_END, Ended, EndedSessions, read_note, write_note

__all__ = ["NOBODYS_END", "SESSION_MAX_AGE", "Sessions"]

logger = logging.getLogger("faststate")

SESSION_MAX_AGE: Final = 365 * 86_400.0
"""Seconds that an ended session is remembered where the app's session middleware does not say how old cookies get."""

SLACK: Final = 60.0
"""Seconds that an ended session is remembered beyond that: a cookie's age is counted in whole seconds of another clock,
and an answer that was under way may have been the last to sign it."""

TWICE: Final = 60.0
"""Seconds within which a second sign-in from the same old cookie (a double click) goes on where the first one led."""


SIGN_IN_TRIES: Final = 20
"""How often a sign-in begins anew, since somebody else was first, before it gives up."""

RELOADED_AFTER: Final = 5.0
"""Seconds after which pages load themselves again whose session has ended in another process: by then the answer has
come that brings them a new one."""

RIGHTS: Final = "rights"
"""Group, and first part of the key, of what a store of many processes keeps of changed rights. No scope has this name.
"""

RIGHTS_KEPT: Final = 3_600.0
"""Seconds that it does: a process that has heard nothing of the others for longer asks for all rights again."""

CHANGES_KEPT: Final = 10_000
"""Users whose last change of rights is remembered; only requests that are under way ask for it."""


_MARK: Final = Version("", 1)
"""The version of notes, which are written once."""


class _Merge(NamedTuple):
    """A guest's state, under `key`, whose user has one already."""

    key: str
    guest: Entry
    users: Entry
    config: StateConfig


class Sessions:
    """The sessions of one app, as far as they begin, change hands and end. Lifetime: the provider.

    A session is a signed cookie, and an old copy of it stays genuine: so the ids of ended ones are remembered for
    `max_age` seconds, as long as a cookie is accepted. A store remembers them, and is asked once about each session
    that this process has not seen lately; memory has the last ones alone. Without a store memory has them, up to
    `ended.KEPT`. `config_named` gives registered classes by name; `clock` returns seconds.
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
        self._ended = EndedSessions(clock)
        self.changes = 0
        self._changed: OrderedDict[str, int] = OrderedDict()  # per user: the number of the last change of rights
        self._forgotten = 0
        self.following: Following | None = None
        self.has_events: Callable[[str], bool] = lambda session_id: False
        """Tells whether events of a session are under way, which are to end with it."""

    @property
    def _sharing(self) -> Sharing | None:
        return self._registry.committer.sharing

    def is_ended(self, session_id: str) -> bool:
        """Tells whether the session has ended, as far as is known here: for certain where it `is_settled`."""
        return self._ended.get(session_id) is not None

    def is_settled(self, session_id: str) -> bool:
        """Tells whether it is known here, without the store being asked, if the session has ended."""
        if self._registry.committer.store is None:
            return True
        return self._ended.is_alive(session_id) or self.is_ended(session_id)

    def begin(self, session_id: str) -> None:
        """Notes a session that begins just now: nobody need ask whether it has ended."""
        if self._registry.committer.store is not None:
            self._ended.note_alive(session_id)

    async def settle(self, session_id: str) -> None:
        """Asks the store whether a session has ended, where that is not known here. Raises `PersistenceError`."""
        if self.is_settled(session_id):
            return
        ended = await self._read_end(session_id)
        if self.is_settled(session_id):
            return  # told meanwhile, which is newer than what was read
        if ended is not None:
            self._learn_end(session_id, ended)
        else:
            self._ended.note_alive(session_id)

    def forget_old(self) -> None:
        """Forgets the ended sessions whose cookies are too old by now to be accepted."""
        self._ended.forget_old()

    async def _read_end(self, session_id: str) -> Ended | None:
        """Asks the store about a session's end. Raises `PersistenceError`."""
        store = self._registry.committer.store
        if store is None:
            return None
        async with self._registry.in_store_time("the end of a session could not be looked up"):
            note = await store.load(f"{ENDED}:{session_id}")
        return self._read_mark(session_id, note) if note is not None else None

    def _read_mark(self, session_id: str, mark: Stored) -> Ended:
        successor, user_id = read_note(session_id, mark.data)
        until = self._clock() + (math.inf if mark.ttl is None else mark.ttl)
        # A sign-in whose answer the browser never had may go on where it led; when it was, the end says.
        at = until - self.max_age - SLACK if until != math.inf else -math.inf
        return Ended(at, until, successor, user_id)

    # -- signing in and out ----------------------------------------------------------------------------------------

    async def login(self, context: RequestContext, user: UserContext) -> None:
        """Makes the session of a request `user`'s, under a new id; see `StateProvider.login`."""
        context.refuse_without_cookies()
        before = await context.user()
        session = context.session
        # The app's loader may not know the session's user any more; to the next one that is somebody else all the same.
        owner = before.id if before is not None else session.get(USER_ID)
        same_person = owner is None or str(owner) == str(user.id)
        new = secrets.token_urlsafe(16)
        goes_along = new if same_person else None
        holder = Holder(identity, None) if (identity := identity_here()) is not None else None
        for _ in range(SIGN_IN_TRIES):
            # The app's own code runs in it: when that fails nobody is signed in and nothing has changed. It is begun
            # anew where an event, another device of the user's or a second click on the same button were first.
            old = await self._continued(context, user)
            if old is None or await self._registry.committer.finish(self._change_hands(old, goes_along, user, holder)):
                break
        else:
            raise VersionConflict("this session keeps changing while it is signed in: try again")
        if not same_person:
            session.clear()  # what one user left in the cookie is not the next one's
        session[SESSION_ID] = new
        self.begin(new)
        session[USER_ID] = user.id if isinstance(user.id, str | int) else str(user.id)
        context.become(user)
        if old is not None:
            self._reload_pages(context, old)

    async def _continued(self, context: RequestContext, user: UserContext) -> str | None:
        """The session that a sign-in takes over: that of the cookie, or what it has become by the same sign-in."""
        own = context.session_id()
        # Where the cookie's session has ended, its own one began with this request.
        found = context.ended_session or own
        while found is not None:
            await self.settle(found)
            if (ended := self._ended.get(found)) is None:
                break
            if ended.successor is None or ended.user_id != str(user.id) or self._clock() - ended.at >= TWICE:
                return own if own is not None and not self.is_ended(own) else None
            found = ended.successor
        return found

    async def logout(self, context: RequestContext) -> None:
        """Ends the session of a request; see `StateProvider.logout`."""
        old = context.session_id()
        # A session that never was anybody's, and kept nothing, is as empty again after its end: not worth a note for as
        # long as its cookie lives, which anybody could have us write by the million.
        was_nobodys = not set(context.session) - {SESSION_ID} and not await self._is_somebodys(context)
        if context.session:  # else an answer to an old cookie would take away a newer one
            context.session.clear()
        context.become(None)
        if old is None or self.is_ended(old):
            return
        noted = self._note_end(old, lifetime=NOBODYS_END if was_nobodys else None)
        has_kept = self._drop_states(old) or self.has_events(old)
        self._reload_pages(context, old)
        # Behind all else: who signs out is out, even if the store fails and has them told so.
        has_kept = await self._end_in_store(old, noted, is_lasting=not was_nobodys) or has_kept
        # A sign-in that was under way may have noted the end as its own.
        if was_nobodys and not has_kept and self._ended.get(old) is noted:
            self._ended.forget(old)

    def _drop_states(self, session_id: str) -> bool:
        """Ends a session's states in memory; whether there was one that somebody had changed, or was about to."""
        has_kept = False
        for key in self._registry.keys_of_session(session_id):
            entry = self._registry.find(key)
            has_kept = has_kept or (entry is not None and bool(entry.users or not is_initial(entry.version)))
            self._registry.drop(key)
        return has_kept

    async def _end_in_store(self, session_id: str, noted: Ended, *, is_lasting: bool) -> bool:
        """Has the store forget an ended session's states; whether it had any: then its end is noted in any case."""
        committer = self._registry.committer
        store = committer.store
        if store is None:
            return False
        what = "the end of a session could not be stored"
        # Behind the commits that are just being saved.
        async with self._registry.in_store_time(what), committer.gates.closed(session_id):
            self._drop_states(session_id)
            stored, mark = await store.group(session_id), self._mark(session_id, noted)
            is_noted = bool(stored) or is_lasting
            if self._sharing is not None:
                await self._sharing.end(mark, stored=is_noted)
                # What others have committed meanwhile; behind the mark they cannot.
                stored = await store.group(session_id)
            elif is_noted:
                with contextlib.suppress(VersionConflict):  # it has been there
                    await store.save(mark)
            if is_noted and self._ended.get(session_id) is noted:
                self._ended.note(session_id, noted, is_stored=True)
            await store.delete(list(stored))
        return bool(stored)

    async def _is_somebodys(self, context: RequestContext) -> bool:
        try:
            return await context.user() is not None
        except Exception:
            return True  # who cannot be recognised just now can be signed out all the same

    def _note_end(
        self,
        session_id: str,
        successor: str | None = None,
        user_id: str | None = None,
        lifetime: float | None = None,
        *,
        is_stored: bool = False,
    ) -> Ended:
        noted = self._ends_now(successor, user_id, lifetime)
        self._ended.note(session_id, noted, is_stored=is_stored)
        for connection in self._manager.connections_of(session_id=session_id):
            self._manager.silence(connection)
        return noted

    def _ends_now(self, successor: str | None, user_id: str | None, lifetime: float | None = None) -> Ended:
        now = self._clock()
        return Ended(now, now + (self.max_age + SLACK if lifetime is None else lifetime), successor, user_id)

    def _reload_pages(self, context: RequestContext, session_id: str) -> None:
        pages = self._manager.connections_of(session_id=session_id)

        def reload() -> None:
            for connection in pages:
                self._manager.dismiss(connection, reload_frame())

            if self.following is not None:
                following, head = self.following, {"kind": "reload", "session": session_id}
                following.tell_soon(lambda: following.tell_app(head))

        # Behind the answer: a page that loads itself again before the new cookie is there would get another session,
        # and its cookie.
        context.after_answer(reload)

    def _mark(self, session_id: str, ended: Ended) -> Write:
        """What a store keeps of an ended session, as long as a cookie with its id is accepted."""
        ttl = None if ended.until == math.inf else ended.until - self._clock()
        return Write(f"{ENDED}:{session_id}", None, _MARK, write_note(ended), ttl, ENDED)

    # -- other processes -------------------------------------------------------------------------------------------

    def told(self, head: Mapping[str, Any]) -> None:
        """Another process has ended a session, or was told of changed rights."""
        if head["kind"] == "ended":
            session_id, mark = head["session"], Stored(_MARK, head["mark"].encode(), head["ttl"])
            self._learn_end(session_id, self._read_mark(session_id, mark))
        elif head["kind"] == "reload":
            self._dismiss(self._manager.connections_of(session_id=head["session"]), reload_frame())
        elif head["kind"] == "rights":
            self._change_rights(head["user"], head["how"])

    def _learn_end(self, session_id: str, ended: Ended) -> None:
        if self.is_ended(session_id):
            return
        # Of one that never was anybody's the store has nothing, as a rule.
        self._ended.note(session_id, ended, is_stored=ended.until - self._clock() > NOBODYS_END)
        pages = self._manager.connections_of(session_id=session_id)
        for connection in pages:
            self._manager.silence(connection)
        self._drop_states(session_id)
        if pages:  # the word that they are to load themselves again may be lost, with the process that has it to say
            asyncio.get_running_loop().call_later(RELOADED_AFTER, self._dismiss, pages, reload_frame())

    async def look_up(self, session_id: str) -> None:
        """Learns of the session's end where another process has noted it. Raises `PersistenceError`."""
        if (mark := await self._look_up(session_id)) is not None:
            self._learn_end(session_id, mark)

    async def catch_up(self, after: int, away: float) -> None:
        """Learns what other processes have told behind the commit `after`, when nothing was heard for `away` seconds.

        Raises `PersistenceError`.
        """
        if self._sharing is None:
            return
        store = self._sharing.store
        if after:
            for key, stored in (await store.group_since(ENDED, after)).items():
                session_id = key.removeprefix(f"{ENDED}:")
                self._learn_end(session_id, self._read_mark(session_id, stored))
                self._reload_ended(session_id)
        else:
            # How much was missed is not known, and the store may have the ends of a year: those who are here count.
            self._ended.forget_alive()
            for session_id in self._manager.of_session.names():
                await self.settle(session_id)
                if self.is_ended(session_id):
                    self._reload_ended(session_id)
        if away > RIGHTS_KEPT:
            self.changes += 1
            self._changed.clear()
            self._forgotten = self.changes
            self._dismiss(list(self._manager.connections.values()), reopen_frame())
            return
        for key, stored in (await store.group_since(RIGHTS, after)).items():
            try:
                user_id, how = json.loads(stored.data)
            except (ValueError, TypeError, RecursionError):
                logger.exception("the note of changed rights %s cannot be read; it is passed over", key)
                continue
            self._change_rights(user_id, how)

    def _reload_ended(self, session_id: str) -> None:
        # The word that its pages are to load themselves again may have been missed, too.
        self._dismiss(self._manager.connections_of(session_id=session_id), reload_frame())

    async def tell_rights(self, user_id: Id, how: Literal["disconnect", "refresh"]) -> None:
        """Tells the other processes of changed rights. Raises `PersistenceError`."""
        if self._sharing is not None:
            data = json.dumps([str(user_id), how]).encode()
            note = Write(f"{RIGHTS}:{secrets.token_hex(8)}", None, _MARK, data, RIGHTS_KEPT, RIGHTS)
            head = {"kind": "rights", "user": str(user_id), "how": how}
            await self._sharing.store.commit([note], [Message(APP, pack(head))])

    def _change_rights(self, user_id: str, how: str) -> None:
        if how == "disconnect":
            self.disconnect(user_id)
        else:
            self.refresh(user_id)

    # -- states ----------------------------------------------------------------------------------------------------

    async def _change_hands(self, old: str, new: str | None, user: UserContext, holder: Holder | None) -> bool:
        """Ends a session whose states become those of `new`, or of `user`; without `new` they end.

        The guest's states are brought into the user's own, moved in the store and the end is noted there in one change,
        and nobody commits to them meanwhile. `holder` is the event whose user signs in, and which waits for this task.
        False where something has changed before that, and nothing was done.
        """
        current_holder.set(holder)
        registry, committer = self._registry, self._registry.committer
        merges: list[_Merge] = []
        if new is not None:
            await self._bring_back(old, user)
            merges = list(self._to_merge(old, user))
        # An event of the guest's state that signs its user in holds that state's lock: nobody else changes it now.
        free = [merge.guest for merge in merges if holder is None or merge.guest.owner is not holder.identity]
        transaction = Transaction(registry, [*free, *(merge.users for merge in merges)])
        try:
            try:
                await transaction.begin()
            except StateNotFoundError:  # another sign-in has brought them over while this one waited
                return False
            for merge in merges:
                if registry.find(merge.key) is not merge.guest:
                    return False
                await _bring_in(merge, transaction.copy(merge.users))
            prepared = transaction.prepare()
            async with committer.gates.closed(old):
                now_to_merge = list(self._to_merge(old, user)) if new is not None else []
                if self.is_ended(old) or [m.guest for m in now_to_merge] != [m.guest for m in merges]:
                    return False
                if any(transaction.entry(m.users) is not m.users for m in now_to_merge):
                    return False
                moved = await self._save_move(old, new, user, merges, transaction, prepared)
                if moved is None:
                    return False
                for merge in merges:
                    registry.drop(merge.key, merged=True)
                for key in registry.keys_of_session(old):
                    self._hand_over(key, new, user, moved)
                self._note_end(old, new, str(user.id), is_stored=committer.store is not None)
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
        """Commits the merges and has the store keep the other states where `_hand_over` will put them.

        Which versions are stored then, by their new keys; None where the store knew better, which is known now too.
        """
        store = self._registry.committer.store
        if store is None:
            await transaction.commit(prepared)
            return {}
        merged = {merge.key for merge in merges}
        writes, moved = [self._mark(old, self._ends_now(new, str(user.id)))], {}
        async with self._registry.in_store_time("the states of a session that signs in could not be found"):
            stored = dict(await store.group(old))
        for key in self._registry.keys_of_session(old):
            entry = self._registry.find(key)
            if entry is None or entry.stored is None:
                continue
            is_truth = self._sharing is None and not entry.doubtful
            if is_truth and entry.persistence is not None:
                # Of what is in memory this is the truth; in the store it may have expired already.
                nonces = entry.recent_nonces(self._clock())
                data = entry.persistence.encode(entry.state._frozen_values(), nonces)
                stored[key] = Stored(entry.stored, data, None)
            elif key not in stored:
                self._registry.drop(key)
        for key, found in stored.items():
            writes.append(Write(key, found.version, found.version, None))
            target = self._target(StateIdentifier.parse(key), new, user)
            config = self._config_named(target.cls_name) if target is not None else None
            if key in merged or target is None or config is None or target.key in self._registry:
                continue
            ttl = self._registry.ttl_of(target, config.ttl)
            writes.append(Write(target.key, None, found.version, found.data, ttl, target.session_id))
            moved[target.key] = found.version
        try:
            await transaction.commit(prepared, also=writes)
        except VersionConflict:
            mark = await self._look_up(old)
            if mark is not None and self._sharing is not None:
                self._learn_end(old, mark)
            elif mark is not None and not self.is_ended(old):  # what this process has noted itself is newer
                self._ended.note(old, mark, is_stored=True)
            return None
        except PersistenceError:
            # It may have been done all the same.
            mark = await self._look_up(old)
            if mark is None or mark.successor != new or mark.user_id != str(user.id):
                raise
        return moved

    async def _look_up(self, session_id: str) -> Ended | None:
        """What the store knows of a session's end; without one, its states in memory may be others than are stored."""
        ended = await self._read_end(session_id)
        if ended is None and self._registry.committer.store is not None:
            for key in self._registry.keys_of_session(session_id):
                if (entry := self._registry.find(key)) is not None and entry.stored is not None:
                    entry.doubtful = True
        return ended

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

    def _hand_over(self, key: str, session_id: str | None, user: UserContext, moved: dict[str, Version]) -> None:
        identifier, entry = StateIdentifier.parse(key), self._registry.find(key)
        target = self._target(identifier, session_id, user)
        config = self._config_named(identifier.cls_name)
        if target is None or config is None or entry is None:
            self._registry.drop(key)
        elif target.key in self._registry:
            self._registry.drop(key, merged=True)  # an event that is about to begin must not seem to have happened
        else:
            self._registry.rename(key, target, config.ttl)
            # In a store of many processes it may be a newer version, which is seen by the one that is had here.
            if self._sharing is None or target.key not in moved:
                entry.stored = moved.get(target.key)

    async def _bring_back(self, session_id: str, user: UserContext) -> None:
        """Brings into memory the guest's states that would become the user's, and the user's own, kept or new."""
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
            guest, is_kept = registry.find(key), registry.persistence.get(config.state_cls) is not None
            if self._sharing is not None:
                await self._sharing.freshen([e for e in (guest, registry.find(target.key)) if e is not None])
                guest = registry.find(key)
            if guest is None and is_kept:
                guest = await registry.entry(identifier, config.state_cls, ttl=config.ttl, create=config.create)
            may_exist = is_kept or config.create is not None
            if guest is not None and (may_exist or guest.users or guest.state._committed.version > 1):
                with contextlib.suppress(StateNotFoundError):
                    await registry.entry(target, config.state_cls, ttl=config.ttl, create=config.create)

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
    if merge.config.merge is not None and not is_initial(merge.users.version):
        outcome = merge.config.merge(users, merge.guest.state)
        if inspect.isawaitable(outcome):
            await outcome
    elif is_initial(merge.users.version) or _is_untouched(merge.users, merge.config):
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
