"""One request as a provider sees it: its caller, and the page that it makes."""

from __future__ import annotations

from typing import Any, Protocol, Self

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..auth.loaders import UserFinder
from ..exceptions import FastStateError
from ..registry.registry import StateRegistry
from ..sessions.caller import Caller
from ..sessions.sessions import Sessions
from ..state.reactive import ReactiveState
from ..state.serving import ServingProvider
from .options import Options
from .page import LiveElement, PageContent
from .page_tokens import PageTokens


class RequestProvider(ServingProvider, Protocol):
    """A provider, as its requests know it. Lifetime: the app."""

    registry: StateRegistry
    sessions: Sessions
    users: UserFinder
    options: Options
    tokens: PageTokens

    async def get_state(self, state_cls: Any, request: HTTPConnection) -> Any:
        """Return the snapshot of the state of this class that `request` means."""


class AnsweredRequest:
    """Stands in the scope of a request that is over, in place of its context. Lifetime: the app.

    If a late task asks for the context, a new one is made. The context holds the scope: were it in there for good, each
    request would wait for the cyclic collector, and the next ones would be made of memory that no cache knows.
    """

    __slots__ = ("provider",)

    def __init__(self, provider: RequestProvider) -> None:
        self.provider = provider


class RequestContext(Caller):
    """One request: its session, its user, the states resolved for it, the page. Lifetime: the request."""

    __slots__ = ("_page", "_start", "provider", "root", "temporary_id")

    def __init__(self, provider: RequestProvider, connection: HTTPConnection) -> None:
        super().__init__(connection, provider.users, provider.sessions.ended, provider.sessions.rights)
        self.provider = provider
        self._page: PageContent | None = None
        self._start = provider.registry.committer.number
        # Kept, since an app mounted below may share its states and changes `root_path` in the scope.
        self.root: str = self._scope.get("root_path", "")
        self.temporary_id: str | None = None
        """The id of the page's TEMPORARY states that are not told apart by ids of their own."""

    def for_event(self) -> Self:
        """Return a context for one of several events that the request brings: it finds its user and rights anew.

        An event before it may have signed somebody in, or changed what the user may do.
        """
        scope = dict(self._scope)
        made = type(self)(self.provider, HTTPConnection(scope))
        scope["faststate"] = made
        return made

    def forget(self) -> None:
        """Leave the request's scope, when nothing of it is under way any more: see `AnsweredRequest`."""
        self._scope["faststate"] = AnsweredRequest(self.provider)

    @property
    def page(self) -> PageContent:
        """The content of the request's page; an event has none."""
        if self._page is None:
            provider = self.provider
            url = self.root + provider.options.prefix + "/"
            self._page = PageContent(provider.registry, provider.tokens, self._start, url)
        return self._page

    def show(self, state: ReactiveState, view: str | None = None) -> None:
        """As `PageContent.show`."""
        self.page.show(state, view)

    def live_element(self) -> LiveElement:
        """As `PageContent.live_element`."""
        return self.page.live_element()

    async def resolve_for_fasthtml(self, cls: type[ReactiveState], request: Any) -> ReactiveState:
        """Return a state for FastHTML's own injection, where no handler of ours adds the live element afterwards."""
        try:
            state: ReactiveState = await self.provider.get_state(cls, self.connection)
        except FastStateError as error:
            is_ours = getattr(request.app.state, "faststate", None) is self.provider
            if is_ours or error.status >= 500 or request.scope["type"] != "http":
                raise
            # An app without a provider, mounted below one that has it, knows only this kind of error.
            raise HTTPException(error.status, str(error)) from error
        self.add_live_element(request)
        return state

    def add_live_element(self, request: Any) -> None:
        """Make the page live, if no handler of ours will: the framework's integration overrides this."""


def context_of(provider: RequestProvider, connection: HTTPConnection) -> RequestContext:
    """Return the context of a request, and make it if the app's middleware has not.

    Raises `TypeError` for what is not a request.
    """
    try:
        found = connection.scope.get("faststate")
    except AttributeError:
        raise TypeError(f"a state is asked for with the request, not with {connection!r}") from None
    if isinstance(found, RequestContext) and found.provider is provider:
        return found
    if found is None or (isinstance(found, AnsweredRequest) and found.provider is provider):
        context = connection.scope["faststate"] = RequestContext(provider, connection)
        return context
    others: dict[RequestProvider, RequestContext] = connection.scope.setdefault("faststate_others", {})
    return others.get(provider) or others.setdefault(provider, RequestContext(provider, connection))
