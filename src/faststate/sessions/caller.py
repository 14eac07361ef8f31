"""The caller of one request: its session, its user, and what that user was found to be allowed to read."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from starlette.requests import HTTPConnection

from ..auth.loaders import UserFinder
from ..auth.tokens import binding
from ..auth.users import UserContext
from ..exceptions import AuthorizationError, ConfigurationError, IdentifierError
from ..registry.entries import Entry
from ..state.reactive import ReactiveState
from .ended import EndedSessions
from .rights import Rights

SESSION_ID: Final = "session_id"
"""Key of the id of SESSION states in the session (a signed cookie)."""

USER_ID: Final = "user_id"
"""Key of the id of the user that `login` was called with, in the session."""

PERSONAL: Final = "faststate_personal"
"""Key of the `Personal` in a request's scope."""


class Personal:
    """Marks an answer that may show a state, so that no other visitor may get it. Lifetime: the request."""

    __slots__ = ("resolved",)

    def __init__(self) -> None:
        self.resolved = False


def is_cross_site(headers: Mapping[bytes, bytes]) -> bool:
    """True if the browser says that another site's page made the request with these `headers` (by lower-case name).

    Events, streams, beacons and the handshakes of websockets all ask here. Another subdomain or port of one host is
    another app. A request without these headers does not come from a browser, and only a browser sends a visitor's
    cookies to where another site's page points.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


class Identity(NamedTuple):
    """The user (None for nobody) and the session of a request, found once.

    A sign-in that happens meanwhile changes the `Caller`, not this value.
    """

    user: UserContext | None
    session_id: str | None

    def __repr__(self) -> str:
        """Show the beginning of the session's id: all of it would sign its reader in."""
        begun = f"{self.session_id[:6]}…" if self.session_id is not None else None
        return f"Identity(user={self.user!r}, session_id={begun!r})"

    @property
    def binding(self) -> str:
        """The digest (str) that ties tokens to this session and user."""
        return binding(self.session_id, self.user.id if self.user is not None else None)


class Caller:
    """The session and the user of one request. Lifetime: the request.

    `users` recognises the user, `ended` knows the sessions that are over, `rights` the users whose rights changed.
    """

    __slots__ = (
        "_after", "_became", "_ended", "_nobody_stays", "_rights", "_scope", "_session", "_user_known", "_users",
        "asked", "connection", "ended_session", "fresh_session", "is_foreign", "is_unsure", "known_user", "since",
    )  # fmt: skip

    def __init__(self, connection: HTTPConnection, users: UserFinder, ended: EndedSessions, rights: Rights) -> None:
        self.connection = connection
        self._scope = connection.scope
        self._users = users
        self._ended = ended
        self._rights = rights
        self.fresh_session = False
        """True if the session began with this request: nobody has shown yet that cookies come back."""
        self.ended_session: str | None = None
        """The id of the session that the cookie names, if it was ended on the server."""
        self.is_unsure = False
        """True if it is not known here whether the cookie's session has ended: `settle` asks the store."""
        self.asked: dict[str, ReactiveState] = {}
        """The snapshots, by key, that this request's user was found to be allowed to read."""
        self._after: tuple[Callable[[], None], ...] | None = None
        self.known_user: UserContext | None = None
        self._user_known = self._became = self._nobody_stays = False
        self.since = rights.changes
        """How many changes of rights had been counted when this request's user was not loaded yet."""
        self.is_foreign = self._scope["type"] == "websocket" and is_cross_site(dict(self._scope["headers"]))
        """True for a websocket that another site's page has opened, with its visitor's cookies."""
        self._session: Any = None
        self.refuse_revoked()

    # -- the session -----------------------------------------------------------------------------------------------

    def refuse_revoked(self) -> None:
        """Empty the session if it was ended on the server: an old cookie signs nobody in."""
        session = self._session = self._scope.get("session")
        if not session:
            return
        found = session.get(SESSION_ID)
        is_ended = self._ended.knows(found) if isinstance(found, str) else False
        self.is_unsure = is_ended is None
        if is_ended:
            # The session middleware must not notice, or it would delete the cookie: this request may have been under
            # way while another one signed in, and its answer must not take that one's new cookie away.
            self.ended_session = found
            if isinstance(session, dict):
                dict.clear(session)
            else:
                session.clear()

    async def settle(self) -> None:
        """Ask the store whether the session has ended, if that is not known here. Raises `PersistenceError`.

        The app's middleware does so before anybody else gets the request. It reads the store for a session that this
        process has not seen lately, and does nothing for all others.
        """
        found = (self._scope.get("session") or {}).get(SESSION_ID)
        if isinstance(found, str):
            await self._ended.settle(found)
        self.refuse_revoked()
        self.is_unsure = False

    def _follow_session(self) -> None:
        """Accept the session that another middleware put into the scope, as that of an app mounted below may do."""
        self.refuse_revoked()
        if not self._became:
            self.known_user, self._user_known = None, False

    def keep_newer_cookie(self) -> None:
        """Set no cookie in the answer if the session has ended since the request came.

        It would be the ended session's, and replace the cookie of whoever has signed in meanwhile.
        """
        session = self._scope.get("session")
        if not session or not hasattr(session, "modified"):
            return
        found = session.get(SESSION_ID)
        if isinstance(found, str) and self._ended.is_ended(found):
            session.modified = False

    @property
    def session(self) -> Any:
        """The session (a dict). Raises `ConfigurationError` without a session middleware."""
        found = self._scope.get("session")
        if found is None:
            raise ConfigurationError("states need sessions: the app has no SessionMiddleware (sess_cls)")
        if found is not self._session:
            self._follow_session()
        return found

    def session_id(self, *, make: bool = False) -> str | None:
        """Return the session's id (str), or None; with `make` a missing one is made and put into the session.

        Raises `ConfigurationError` without a session middleware, `IdentifierError` where a cookie cannot be set.
        """
        session = self._scope.get("session")
        if session is None or session is not self._session:
            session = self.session
        found = session.get(SESSION_ID)
        if found and isinstance(found, str):
            return found
        if not make:
            return None
        self.refuse_without_cookies()
        self.fresh_session = True
        made = secrets.token_urlsafe(16)
        self.session[SESSION_ID] = made
        self._ended.begin(made)
        return made

    def refuse_without_cookies(self) -> None:
        """Raise `IdentifierError` where the answer cannot carry a cookie."""
        if self._scope["type"] != "http":
            raise IdentifierError("a websocket cannot start a session: open a page first")

    # -- the user --------------------------------------------------------------------------------------------------

    async def user(self) -> UserContext | None:
        """Return the request's user, or None; asks the app's loader once. Raises `BackendError` if that fails."""
        if not self.knows_user():
            if self.is_unsure:
                await self.settle()
                if self.knows_user():
                    return self.known_user
            self.known_user = await self._users.load(self.connection)
            # A Beforeware may sign somebody in later in the same request: "nobody" is not remembered.
            self._user_known = self.known_user is not None or self._nobody_stays
        return self.known_user

    def remember_nobody(self, remember: bool) -> None:
        """Remember "nobody" from here on, or not: it holds while none of the app's own code signs somebody in.

        A handler's states are resolved that way: for a visitor without a user, the loader would be called three times.
        """
        self._nobody_stays = remember
        if not remember and self.known_user is None and not self._became:
            self._user_known = False

    def knows_user(self) -> bool:
        """True if `known_user` is the user of the request, or None for nobody, without anybody having to be asked."""
        scope = self._scope
        if scope.get("session") is not self._session:
            self._follow_session()
        if self.is_unsure:
            return False
        if self._user_known:
            return True
        if not self._users.sees_nobody(scope):
            return False
        self.known_user = None
        return True

    def become(self, user: UserContext | None) -> None:
        """Make the request `user`'s from here on."""
        self.known_user, self._user_known, self._became = user, True, True
        self.accept_own_change()
        self.asked.clear()

    def accept_own_change(self) -> None:
        """Do not treat this request as outdated by changes of rights so far: it made the last one itself."""
        self.since = self._rights.changes

    def forget_user(self) -> None:
        """Load the user again when needed, as for the next message of a websocket."""
        self.known_user, self._user_known, self._became = None, False, False
        self.since = self._rights.changes
        self.asked.clear()
        self.refuse_revoked()

    def refuse_outdated(self) -> None:
        """Raise `AuthorizationError` if the session has ended since the request came, or the rights changed."""
        session_id = self.session_id() if "session" in self._scope else None
        ended = session_id is not None and self._ended.is_ended(session_id)
        if ended or self._rights.changed(self.known_user, self.since):
            raise AuthorizationError("you were signed in or out, or your rights have changed just now: try again")

    def readable(self, entry: Entry) -> ReactiveState:
        """Return the snapshot of a state that may be shown: the newest, or the one that its rule let through."""
        return self.asked.get(entry.identifier.key, entry.state)

    async def identity(self) -> Identity:
        """Return who asks, at this moment. Raises `BackendError` if the app's loader fails."""
        user = self.known_user if self.knows_user() else await self.user()
        return Identity(user, self.session_id() if self._scope.get("session") is not None else None)

    # -- the answer ------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The client's address (str), as the server sees it; empty where it sees none (a Unix socket)."""
        client = self._scope.get("client")  # Starlette would make an object of it
        return str(client[0]) if client else ""

    def claim(self) -> None:
        """Note that the answer depends on who asks, since a state is resolved for it, or refused.

        Raises `AuthorizationError` for a websocket that another site's page has opened.
        """
        if self.is_foreign:
            raise AuthorizationError("a websocket that another site's page has opened is given no states")
        personal: Personal | None = self._scope.get(PERSONAL)
        if personal is not None:
            personal.resolved = True

    def after_answer(self, call: Callable[[], None]) -> None:
        """Call `call` when the response has been sent; now, if nobody would tell when."""
        if self._after is not None:
            self._after = (*self._after, call)
        else:
            call()

    def await_answer(self) -> None:
        """Let `after_answer` wait for `answered`, which the app's middleware calls behind the response."""
        self._after = ()

    def answered(self) -> None:
        """Make the calls that waited until the response was sent."""
        while self._after:
            call, self._after = self._after[0], self._after[1:]
            call()
