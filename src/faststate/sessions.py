"""Signing in and out: new session ids, ended sessions, and what becomes of a session's states and streams."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import json
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from .auth import UserContext
from .backplane import Message
from .config import StateConfig
from .context import SESSION_ID, USER_ID, RequestContext
from .entries import is_initial
from .exceptions import PersistenceError, StateNotFoundError, VersionConflict
from .following import Following
from .locks import Holder, current_holder, identity_here
from .page import reload_frame, reopen_frame
from .persistence import StorePersistence
from .registry import Entry, StateRegistry
from .scopes import Id, StateIdentifier, StateScope
from .sharing import APP, ENDED, Sharing, pack
from .sse import SSEConnection, SSEManager
from .state import Change, ReactiveState
from .stores import Stored, Version, Write
from .transaction import Transaction

__all__ = ["SESSION_MAX_AGE", "Sessions"]

SESSION_MAX_AGE: Final = 365 * 86_400.0
"""Seconds that an ended session is remembered where the app's session middleware does not say how old cookies get."""

SLACK: Final = 60.0
"""Seconds that an ended session is remembered beyond that: a cookie's age is counted in whole seconds of another clock,
and an answer that was under way may have been the last to sign it."""

TWICE: Final = 60.0
"""Seconds within which a second sign-in from the same old cookie (a double click) goes on where the first one led."""


SIGN_IN_TRIES: Final = 20
"""How often a sign-in begins anew, since somebody else was first, before it gives up."""

NOBODYS_END: Final = 600.0
"""Seconds that the end of a session is remembered which never was anybody's: until nothing of it is under way."""

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
        self.following: Following | None = None

    @property
    def _sharing(self) -> Sharing | None:
        return self._registry.committer.sharing

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
        for key, stored in (await store.group(ENDED)).items():
            self._ended.setdefault(key.removeprefix(f"{ENDED}:"), self._read_mark(stored))
        # The oldest first, as they are forgotten.
        self._ended = OrderedDict(sorted(self._ended.items(), key=lambda item: item[1].until))

    def _read_mark(self, mark: Stored) -> _Ended:
        try:
            successor, user_id = json.loads(mark.data)
        except ValueError:
            successor = user_id = None
        until = self._clock() + (math.inf if mark.ttl is None else mark.ttl)
        # A sign-in whose answer the browser never had may go on where it led; when it was, the end says.
        at = until - self.max_age - SLACK if until != math.inf else -math.inf
        return _Ended(at, until, successor, user_id)

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
            old = self._continued(context, user)
            if old is None or await self._registry.committer.finish(self._change_hands(old, goes_along, user, holder)):
                break
        else:
            raise VersionConflict("this session keeps changing while it is signed in: try again")
        if not same_person:
            session.clear()  # what one user left in the cookie is not the next one's
        session[SESSION_ID] = new
        session[USER_ID] = user.id if isinstance(user.id, str | int) else str(user.id)
        context.become(user)
        if old is not None:
            self._reload_pages(context, old)

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
        has_kept = self._drop_states(old)
        self._reload_pages(context, old)
        # Behind all else: who signs out is out, even if the store fails and has them told so.
        has_kept = await self._end_in_store(old, noted, is_lasting=not was_nobodys) or has_kept
        # A sign-in that was under way may have noted the end as its own.
        if was_nobodys and not has_kept and self._ended.get(old) is noted:
            del self._ended[old]

    def _drop_states(self, session_id: str) -> bool:
        """Ends a session's states in memory; whether there was one that somebody had changed, or was about to."""
        has_kept = False
        for key in self._registry.keys_of_session(session_id):
            entry = self._registry.find(key)
            has_kept = has_kept or (entry is not None and bool(entry.users or not is_initial(entry.version)))
            self._registry.drop(key)
        return has_kept

    async def _end_in_store(self, session_id: str, noted: _Ended, *, is_lasting: bool) -> bool:
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
            await store.delete(list(stored))
        return bool(stored)

    async def _is_somebodys(self, context: RequestContext) -> bool:
        try:
            return await context.user() is not None
        except Exception:
            return True  # who cannot be recognised just now can be signed out all the same

    def _note_end(
        self, session_id: str, successor: str | None = None, user_id: str | None = None, lifetime: float | None = None
    ) -> _Ended:
        noted = self._ended[session_id] = self._ends_now(successor, user_id, lifetime)
        if lifetime is not None:
            self._ended.move_to_end(session_id, last=False)  # the first to be forgotten
        for connection in self._manager.connections_of(session_id=session_id):
            self._manager.silence(connection)
        return noted

    def _ends_now(self, successor: str | None, user_id: str | None, lifetime: float | None = None) -> _Ended:
        now = self._clock()
        return _Ended(now, now + (self.max_age + SLACK if lifetime is None else lifetime), successor, user_id)

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

    def _mark(self, session_id: str, ended: _Ended) -> Write:
        """What a store keeps of an ended session, as long as a cookie with its id is accepted."""
        ttl = None if ended.until == math.inf else ended.until - self._clock()
        data = json.dumps([ended.successor, ended.user_id]).encode()
        return Write(f"{ENDED}:{session_id}", None, _MARK, data, ttl, ENDED)

    # -- other processes -------------------------------------------------------------------------------------------

    def told(self, head: Mapping[str, Any]) -> None:
        """Another process has ended a session, or was told of changed rights."""
        if head["kind"] == "ended":
            self._learn_end(head["session"], self._read_mark(Stored(_MARK, head["mark"].encode(), head["ttl"])))
        elif head["kind"] == "reload":
            self._dismiss(self._manager.connections_of(session_id=head["session"]), reload_frame())
        elif head["kind"] == "rights":
            self._change_rights(head["user"], head["how"])

    def _learn_end(self, session_id: str, ended: _Ended) -> None:
        if session_id in self._ended:
            return
        last = next(reversed(self._ended.values()), None)
        self._ended[session_id] = ended
        if last is not None and ended.until < last.until:
            self._ended.move_to_end(session_id, last=False)  # the first to be forgotten
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
        for key, stored in (await store.group_since(ENDED, after)).items():
            session_id = key.removeprefix(f"{ENDED}:")
            self._learn_end(session_id, self._read_mark(stored))
            # The word that their pages are to load themselves again may have been missed, too.
            self._dismiss(self._manager.connections_of(session_id=session_id), reload_frame())
        if away > RIGHTS_KEPT:
            self.changes += 1
            self._changed.clear()
            self._forgotten = self.changes
            self._dismiss(list(self._manager.connections.values()), reopen_frame())
            return
        for stored in (await store.group_since(RIGHTS, after)).values():
            user_id, how = json.loads(stored.data)
            self._change_rights(user_id, how)

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
                self._note_end(old, new, str(user.id))
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
            if is_truth and isinstance(entry.persistence, StorePersistence):
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
            elif mark is not None:
                self._ended.setdefault(old, mark)  # but what this process has noted itself is newer
            return None
        except PersistenceError:
            # It may have been done all the same.
            mark = await self._look_up(old)
            if mark is None or mark.successor != new or mark.user_id != str(user.id):
                raise
        return moved

    async def _look_up(self, session_id: str) -> _Ended | None:
        """What the store knows of a session's end; without one, its states in memory may be others than are stored."""
        store = self._registry.committer.store
        if store is None:
            return None
        async with self._registry.in_store_time("the end of a session could not be looked up"):
            mark = await store.load(f"{ENDED}:{session_id}")
        if mark is not None:
            return self._read_mark(mark)
        for key in self._registry.keys_of_session(session_id):
            if (entry := self._registry.find(key)) is not None and entry.stored is not None:
                entry.doubtful = True
        return None

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
