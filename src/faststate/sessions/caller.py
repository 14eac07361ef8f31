"""What one request is: its session, its user, and what its page shows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..auth.tokens import binding
from ..auth.users import UserContext
from ..exceptions import AuthorizationError, ConfigurationError, FastStateError, IdentifierError
from ..provider.page import LiveElement, PageContent
from ..registry.registry import Entry
from ..state.reactive import ReactiveState

if TYPE_CHECKING:
    from ..provider.provider import StateProvider

__all__ = ["PERSONAL", "SESSION_ID", "USER_ID", "Answered", "Personal", "RequestContext", "is_cross_site"]

SESSION_ID: Final = "session_id"
"""Where the session (a signed cookie) holds the id that SESSION states are keyed by."""

USER_ID: Final = "user_id"
"""Where the session holds the id of the user that `login` was called with."""


PERSONAL: Final = "faststate_personal"
"""Where a request's scope holds its `Personal`."""


class Personal:
    """Marks an answer that may show a state, so that no other visitor may get it. Lifetime: the request."""

    __slots__ = ("resolved",)

    def __init__(self) -> None:
        self.resolved = False


def is_cross_site(headers: Mapping[bytes, bytes]) -> bool:
    """Tells whether another site's page made a request with these `headers` (by lower-case name), as the browser says.

    Events, streams, beacons and the handshakes of websockets all ask here. Another subdomain or port of one host is
    another app. A request without these headers does not come from a browser, and a browser alone sends a visitor's
    cookies to where another site's page points.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


class Answered:
    """What stands in the scope of a request that is over, for its context: a late task's question makes a new one.

    The context holds the scope. Were it in there for good, each request would wait for the cyclic collector, and the
    next ones be made of memory that no cache knows. Lifetime: the app.
    """

    __slots__ = ("provider",)

    def __init__(self, provider: StateProvider) -> None:
        self.provider = provider


class RequestContext:
    """What one request is: its session, its user, the states resolved for it. Lifetime: the request."""

    __slots__ = (
        "_after", "_became", "_nobody_stays", "_page", "_scope", "_session", "_start", "_user_known", "add_late",
        "asked", "connection", "ended_session", "fresh_session", "is_foreign", "is_unsure", "known_user", "provider",
        "root", "since", "temporary_id", "will_answer",
    )  # fmt: skip

    def __init__(self, provider: StateProvider, connection: HTTPConnection) -> None:
        self.provider = provider
        self.connection = connection
        self._scope = connection.scope
        self._page: PageContent | None = None
        self._start = provider.registry.committer.number
        # Of the app that has the routes: an app mounted below it may share its states, and changes it.
        self.root: str = self._scope.get("root_path", "")
        self.temporary_id: str | None = None
        self.add_late: Callable[[RequestContext, Any], None] | None = None
        self.fresh_session = False
        """True when the session began with this request: nobody has shown yet that cookies come back."""
        self.ended_session: str | None = None
        """The id of the session that the cookie names, when it was ended on the server."""
        self.is_unsure = False
        """True when it is not known here whether the cookie's session has ended: `settle` asks the store."""
        self.will_answer = False
        """True where the app's middleware sees the response, and calls `answered` behind it."""
        self.asked: dict[str, ReactiveState] = {}
        """The snapshots, by key, that this request's user was found to be allowed to read."""
        self._after: list[Callable[[], None]] | None = None
        self.known_user: UserContext | None = None
        self._user_known = self._became = self._nobody_stays = False
        self.since = provider.sessions.changes
        """How many changes of rights had been told of when this request's user was not loaded yet."""
        self.is_foreign = self._scope["type"] == "websocket" and is_cross_site(dict(self._scope["headers"]))
        """True for a websocket that another site's page has opened, with the cookies of whoever looks at that page."""
        self._session: Any = None
        self.refuse_revoked()

    @property
    def page(self) -> PageContent:
        """What the request's page shows; an event has none, and needs nothing of it."""
        if self._page is None:
            provider = self.provider
            url = self.root + provider.prefix + "/"
            self._page = PageContent(provider.registry, lambda: provider.signer, self._start, url)
        return self._page

    def show(self, state: ReactiveState, view: str | None = None) -> None:
        """As `PageContent.show`."""
        self.page.show(state, view)

    def live_element(self) -> LiveElement:
        """As `PageContent.live_element`."""
        return self.page.live_element()

    def refuse_revoked(self) -> None:
        """Empties the session when it was ended on the server: an old cookie signs nobody in."""
        session = self._session = self._scope.get("session")
        if not session:
            return
        found, sessions = session.get(SESSION_ID), self.provider.sessions
        self.is_unsure = isinstance(found, str) and not sessions.is_settled(found)
        if isinstance(found, str) and sessions.is_ended(found):
            # Unnoticed by the session middleware, which would delete the cookie: this request may have been under way
            # while another one signed in, and its answer must not take that one's new cookie away.
            self.ended_session = found
            if isinstance(session, dict):
                dict.clear(session)
            else:
                session.clear()

    async def settle(self) -> None:
        """Asks the store whether the session has ended, where that is not known here. Raises `PersistenceError`.

        The app's middleware does so before anybody else has the request: a read of the store for a session that this
        process has not seen lately, and nothing for all others.
        """
        found = (self._scope.get("session") or {}).get(SESSION_ID)
        if isinstance(found, str):
            await self.provider.sessions.settle(found)
        self.refuse_revoked()
        self.is_unsure = False

    def _follow_session(self) -> None:
        """An app mounted below, with a session middleware of its own, puts another session there of the same cookie."""
        self.refuse_revoked()
        if not self._became:
            self.known_user, self._user_known = None, False

    def keep_newer_cookie(self) -> None:
        """Has the answer set no cookie when the session has ended since the request came: it would be the ended one's,
        and replace that of whoever has signed in meanwhile."""
        session = self._scope.get("session")
        if not session or not hasattr(session, "modified"):
            return
        found = session.get(SESSION_ID)
        if isinstance(found, str) and self.provider.sessions.is_ended(found):
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
        """The session's id (str), or None; with `make` a missing one is minted and stored in the session.

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
        return self.new_session_id()

    def new_session_id(self) -> str:
        """Gives the session another id (str)."""
        self.session[SESSION_ID] = made = secrets.token_urlsafe(16)
        self.provider.sessions.begin(made)
        return made

    def mark_personal(self) -> None:
        """Note that the answer depends on who asks: a state is resolved for it, or refused."""
        personal: Personal | None = self._scope.get(PERSONAL)
        if personal is not None:
            personal.resolved = True

    def refuse_foreign(self) -> None:
        """Raises `AuthorizationError` for a websocket that another site's page has opened."""
        if self.is_foreign:
            raise AuthorizationError("a websocket that another site's page has opened is given no states")

    def refuse_without_cookies(self) -> None:
        """Raises `IdentifierError` where the answer can carry no cookie."""
        if self._scope["type"] != "http":
            raise IdentifierError("a websocket cannot start a session: open a page first")

    async def user(self) -> UserContext | None:
        """The user of the request, or None; asked of the app's loader once. Raises `BackendError` when that fails."""
        if not self.knows_user():
            if self.is_unsure:
                await self.settle()
                if self.knows_user():
                    return self.known_user
            self.known_user = await self.provider.users.load(self.connection)
            # A Beforeware may sign somebody in later in the same request: "nobody" is not remembered.
            self._user_known = self.known_user is not None or self._nobody_stays
        return self.known_user

    def remember_nobody(self, remember: bool) -> None:
        """Says whether "nobody" is remembered from here on, as long as none of the app's own code signs somebody in.

        A handler's states are resolved so: for a visitor whom the loader does not know it would be called three times.
        """
        self._nobody_stays = remember
        if not remember and self.known_user is None and not self._became:
            self._user_known = False

    def knows_user(self) -> bool:
        """Whether `known_user` is the user of the request, or None for nobody, without anybody having to be asked."""
        scope = self._scope
        if scope.get("session") is not self._session:
            self._follow_session()
        if self.is_unsure:
            return False
        if self._user_known:
            return True
        if not self.provider.users.sees_nobody(scope):
            return False
        self.known_user = None
        return True

    def readable(self, entry: Entry) -> ReactiveState:
        """The snapshot of a state that may be shown: the newest, or the one that the class's own rule let through."""
        return self.asked.get(entry.identifier.key, entry.state)

    def become(self, user: UserContext | None) -> None:
        """From here on the request is `user`'s."""
        self.known_user, self._user_known, self._became = user, True, True
        self.since = self.provider.sessions.changes
        self.asked.clear()

    def refuse_outdated(self) -> None:
        """Raises `AuthorizationError` when the session has ended since the request came, or the rights changed."""
        session_id = self.session_id() if "session" in self._scope else None
        ended = session_id is not None and self.provider.is_revoked(session_id)
        if ended or self.provider.sessions.rights_changed(self.known_user, self.since):
            raise AuthorizationError("you were signed in or out, or your rights have changed just now: try again")

    def forget_user(self) -> None:
        """Has the user be loaded again, as the next message of a websocket needs it."""
        self.known_user, self._user_known, self._became = None, False, False
        self.since = self.provider.sessions.changes
        self.asked.clear()
        self.refuse_revoked()

    @property
    def address(self) -> str:
        """The client's address (str), as the server sees it; empty where it sees none (a Unix socket)."""
        client = self._scope.get("client")  # Starlette would make an object of it
        return str(client[0]) if client else ""

    async def binding(self) -> str:
        """The digest (str) that ties tokens to this session and user."""
        user = await self.user()
        return binding(self.session_id(), user.id if user else None)

    def after_answer(self, call: Callable[[], None]) -> None:
        """Calls `call` when the response has been sent, or now where nobody would tell."""
        if self.will_answer:
            self._after = [*(self._after or ()), call]
        else:
            call()

    def answered(self) -> None:
        """The response has been sent."""
        while self._after:
            call, *self._after = self._after
            call()

    async def resolve_for_fasthtml(self, cls: type[ReactiveState], request: Any) -> ReactiveState:
        """A state for FastHTML's own injection, where no handler of ours adds the live element afterwards."""
        try:
            state: ReactiveState = await self.provider.get_state(cls, self.connection)
        except FastStateError as error:
            is_ours = getattr(request.app.state, "faststate", None) is self.provider
            if is_ours or error.status >= 500 or request.scope["type"] != "http":
                raise
            # An app without a provider, mounted below one that has it, knows this kind of error alone.
            raise HTTPException(error.status, str(error)) from error
        if self.add_late is not None:
            self.add_late(self, request)
        return state
