"""Signing in and out: new session ids, and what happens to a session's cookie, states and pages."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from ..auth.users import UserContext
from ..cluster.base import AppCluster
from ..cluster.messages import AppMessage, RightsChanged, SessionEnded
from ..exceptions import VersionConflict
from ..registry.locks import Holder, identity_here
from ..registry.registry import StateRegistry
from ..sse.manager import SSEManager
from ..stores.base import Stored
from ..wire.frames import reload_frame
from .caller import SESSION_ID, USER_ID, Caller
from .config import StateConfig
from .ended import NOBODYS_END, NOTE_VERSION, EndedSessions
from .handover import Handover
from .rights import Rights

TWICE: Final = 60.0
"""Seconds within which a second sign-in from the same old cookie (a double click) continues where the first one led."""

SIGN_IN_TRIES: Final = 20
"""How often a sign-in starts again because somebody else was first, before it gives up."""


class Sessions:
    """Signs visitors of one app in and out. Lifetime: the provider.

    `ended` knows the sessions that are over, `rights` the users whose rights changed. `config_named` returns the config
    of a class by its registered name, or None. `has_events` tells whether events of a session (its id) are under way,
    which end with it. `clock` returns seconds.
    """

    def __init__(
        self,
        registry: StateRegistry,
        cluster: AppCluster,
        manager: SSEManager,
        config_named: Callable[[str], StateConfig | None],
        has_events: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._manager = manager
        self._has_events = has_events
        self._clock = clock
        self.ended = EndedSessions(registry, cluster, manager, clock)
        self.rights = Rights(cluster, manager)
        self._handover = Handover(registry, cluster, self.ended, config_named, clock)

    async def login(self, caller: Caller, user: UserContext) -> None:
        """Make a request's session `user`'s, under a new id; see `StateProvider.login`."""
        caller.refuse_without_cookies()
        before = await caller.user()
        session = caller.session
        # The app's loader may not know the session's user any more; the next user is somebody else all the same.
        owner = before.id if before is not None else session.get(USER_ID)
        same_person = owner is None or str(owner) == str(user.id)
        new = secrets.token_urlsafe(16)
        successor = new if same_person else None
        holder = Holder(identity, None) if (identity := identity_here()) is not None else None
        for _ in range(SIGN_IN_TRIES):
            # The app's own code runs in it: if that fails, nobody is signed in and nothing has changed. It starts again
            # where an event, another device of the user or a second click on the same button was first.
            old = await self._continued(caller, user)
            if old is None:
                break
            if await self._registry.committer.finish(self._handover.hand_over(old, successor, user, holder)):
                break
        else:
            raise VersionConflict("this session keeps changing while it is signed in: try again")
        if not same_person:
            session.clear()  # the next user must not get what the last one left in the cookie
        session[SESSION_ID] = new
        self.ended.begin(new)
        session[USER_ID] = user.id if isinstance(user.id, str | int) else str(user.id)
        caller.become(user)
        if old is not None:
            self._reload_pages(caller, old)

    async def _continued(self, caller: Caller, user: UserContext) -> str | None:
        """Return the session that a sign-in takes over: the cookie's, or its successor by the same sign-in."""
        own = caller.session_id()
        # If the cookie's session has ended, `own` began with this request.
        found = caller.ended_session or own
        while found is not None:
            await self.ended.settle(found)
            if (end := self.ended.known.get(found)) is None:
                break
            if end.successor is None or end.user_id != str(user.id) or self._clock() - end.at >= TWICE:
                return own if own is not None and not self.ended.is_ended(own) else None
            found = end.successor
        return found

    async def logout(self, caller: Caller) -> None:
        """End the session of a request; see `StateProvider.logout`."""
        old = caller.session_id()
        # A session that never had a user, and kept nothing, is as empty after its end as before. It is not worth a note
        # for as long as its cookie lives: anybody could make us write those by the million.
        was_nobodys = not set(caller.session) - {SESSION_ID} and not await _has_user(caller)
        if caller.session:  # else an answer to an old cookie would take away a newer one
            caller.session.clear()
        caller.become(None)
        if old is None or self.ended.is_ended(old):
            return
        end = self.ended.new_end(None, None, NOBODYS_END if was_nobodys else None)
        self.ended.record_end(old, end)
        has_kept = self.ended.drop_states(old) or self._has_events(old)
        self._reload_pages(caller, old)
        # Last of all: who signs out is out, even if the store fails and the answer says so.
        has_kept = await self.ended.end_in_store(old, end, is_lasting=not was_nobodys) or has_kept
        # A sign-in that was under way may have noted an end of its own.
        if was_nobodys and not has_kept and self.ended.known.get(old) is end:
            self.ended.known.forget(old)

    def _reload_pages(self, caller: Caller, session_id: str) -> None:
        pages = self._manager.connections_of(session_id=session_id)

        def reload() -> None:
            for connection in pages:
                self._manager.dismiss(connection, reload_frame())
            self._cluster.reload_pages(session_id)

        # After the answer: a page that reloads before the new cookie is there would get another session, and its
        # cookie.
        caller.after_answer(reload)

    # -- other processes -------------------------------------------------------------------------------------------

    def accept(self, message: AppMessage) -> None:
        """Accept another process's message about a session that ended there, or about changed rights."""
        if isinstance(message, RightsChanged):
            self.rights.change(message.user_id, message.how)
        elif isinstance(message, SessionEnded):
            self.ended.learn_note(message.session_id, Stored(NOTE_VERSION, message.note.encode(), message.ttl))
        else:
            self.ended.reload_pages(message.session_id)

    async def look_up(self, session_id: str) -> None:
        """Learn a session's end if another process has noted one. Raises `PersistenceError`."""
        if (end := await self.ended.look_up(session_id)) is not None:
            self.ended.learn(session_id, end)

    async def catch_up(self, after: int, away: float) -> None:
        """Learn what other processes noted after the store's commit `after`, after `away` seconds without messages.

        `after` is 0 when it is not known how much was missed. Raises `PersistenceError`.
        """
        if after:
            await self.ended.learn_since(after)
        else:
            await self.ended.settle_pages()
        await self.rights.learn_since(after, away)


async def _has_user(caller: Caller) -> bool:
    try:
        return await caller.user() is not None
    except Exception:
        return True  # a visitor who cannot be recognised now can be signed out all the same
