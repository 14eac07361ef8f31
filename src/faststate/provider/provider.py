"""`StateProvider`, the face of the library: it has the parts made, and forwards to them."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast, overload

from starlette.requests import HTTPConnection

from ..auth.loaders import LoadUserById, UserLoader
from ..auth.tokens import TOKEN_MAX_AGE
from ..auth.users import UserContext, current_request
from ..exceptions import NotStartedError
from ..registry.modify import Modify
from ..scopes import Id, StateIdentifier, StateScope
from ..sessions.config import Ids, StateConfig
from ..sse.manager import StateEventHandler
from ..state.events import DEFAULT_PREFIX, Event
from ..state.reactive import ReactiveState
from ..state.serving import note_provider
from ..stores.base import StateStore
from .context import RequestContext, context_of
from .dispatch import Dispatcher
from .operations import Operations
from .options import DATASTAR_SRC, Options
from .page_streams import PageStreams
from .parts import Parts
from .resolve import Resolver
from .stats import Stats, stats_everywhere, stats_of

S = TypeVar("S", bound=ReactiveState)
F = TypeVar("F", bound=Callable[["StateProvider", Any], None])

MAX_NEXT: Final = 2_000  # characters of a path that is taken back from `?next=`

_installers: Final[list[Callable[[StateProvider, Any], None]]] = []


def integrate_with(installer: F) -> F:
    """Make `StateProvider.setup` call `installer`: the web framework, which stands above, announces itself here."""
    _installers[:] = [installer]
    return installer


class StateProvider(Parts):
    """The face of the library: it gives requests the states they may have. Lifetime: the app.

    `registry` holds the states, `sse_manager` the streams, `sessions` who is signed in; `Options` explains `options`.
    """

    def __init__(
        self,
        *,
        user_loader: UserLoader | None = None,
        load_user_by_id: LoadUserById | None = None,
        user_timeout: float = 5.0,
        login_route: str | None = None,
        secret_key: str | Sequence[str] | None = None,
        store: str | StateStore | None = None,
        store_timeout: float = 10.0,
        prefix: str = DEFAULT_PREFIX,
        datastar_src: str = DATASTAR_SRC,
        offline: str | bool = True,
        max_payload: int = 262_144,
        max_depth: int = 32,
        body_timeout: float = 20.0,
        event_rate: float = 50.0,
        event_burst: int = 200,
        address_event_rate: float | None = None,
        address_event_burst: int | None = None,
        stream_rate: float = 10.0,
        stream_burst: int | None = None,
        address_stream_rate: float | None = None,
        address_stream_burst: int | None = None,
        max_states: int = 100_000,
        max_states_per_session: int = 1_000,
        max_states_per_address: int | None = None,
        max_streams_per_session: int = 64,
        max_streams_per_address: int = 1_000,
        max_events_per_session: int = 100,
        event_timeout: float | None = 30.0,
        lock_timeout: float = 5.0,
        heartbeat: float = 15.0,
        write_timeout: float = 20.0,
        transport: Literal["auto", "portable"] = "auto",
        token_max_age: int = TOKEN_MAX_AGE,
        stream_max_age: float = 3_600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A copy: from Python 3.12 on, a debugger that reads this frame would add names to what is being looped over.
        given = {name: value for name, value in dict(locals()).items() if name in Options.__slots__}
        super().__init__(Options(**given), self)
        self.state_configs = self.registrations.configs
        self.resolver = Resolver(self.registry, self.cluster, self.registrations, self.loop)
        self.page_streams = PageStreams(self, self.resolver)
        self.dispatcher = Dispatcher(self, self.resolver, self.page_streams)
        self.operations = Operations(self, self.resolver, self.context)
        self.state_event_handler = StateEventHandler(self.sse_manager, self)
        self.root_path: str | None = None
        """Where the app is mounted (a URL path, empty for nowhere), as its first request said; None before that."""

    @property
    def store(self) -> StateStore | None:
        """Where states outlive the process, None for nowhere."""
        return self.cluster.store

    def setup(self, app: Any) -> None:
        """Make a FastHTML app serve this provider's states; call it before the app's routes are defined.

        `faststate.fast_app(state_provider=...)` calls it. Raises `ConfigurationError` if the app has a provider, and
        `NotStartedError` if no integration has been imported.
        """
        if not _installers:
            raise NotStartedError("import faststate before setup: its FastHTML integration is not loaded")
        _installers[0](self, app)

    # -- state classes ---------------------------------------------------------------------------------------------

    def register_state(self, state_cls: type[ReactiveState], config: StateConfig | None = None) -> None:
        """Register a state class. `config` defaults to `StateConfig()`: one state per session.

        Raises `ConfigurationError` if the class is registered already, if another class has its name, or if an event's
        types cannot be resolved.
        """
        self.registrations.add(state_cls, config or StateConfig())
        note_provider(state_cls, self)

    @overload
    def state(self, state_cls: type[S], /) -> type[S]: ...
    @overload
    def state(self, scope: StateScope = ..., **options: Any) -> Callable[[type[S]], type[S]]: ...
    def state(self, scope: Any = StateScope.SESSION, **options: Any) -> Any:
        """Register the class it decorates: `@provider.state`, or `@provider.state(scope=StateScope.USER, ttl=3600)`
        with what `StateConfig` takes.

        Raises what `register_state` and `StateConfig` raise.
        """

        is_bare = isinstance(scope, type) and not options  # without parentheses: this is the class
        config = StateConfig() if is_bare else StateConfig(scope=scope, **options)

        def register(cls: type[S]) -> type[S]:
            self.register_state(cls, config)
            return cls

        return register(scope) if is_bare else register

    def name_of(self, cls: type[ReactiveState]) -> str | None:
        """Return the name (str) under which a class is registered here; None if it is not."""
        return config.state_name if (config := self.state_configs.get(cls)) is not None else None

    def has_ids(self, cls: type[ReactiveState]) -> bool:
        """True if a page may show several states of a class registered here, told apart by ids."""
        return self.state_configs[cls].has_ids

    # -- requests --------------------------------------------------------------------------------------------------

    def context(self, connection: HTTPConnection) -> RequestContext:
        """Return the context of a request. Raises `TypeError` for what is not a request."""
        return context_of(self, connection)

    def url_of(self, path: str) -> str:
        """Return the URL path (str) of one of the library's routes, where the current request found the app.

        Outside a request, and in a view, it is where the app's first request found it.
        """
        request = current_request.get()
        found = request.scope.get("faststate") if request is not None else None
        root = found.root if isinstance(found, RequestContext) and found.provider is self else self.root_path
        return f"{root or ''}{self.options.prefix}/{path}"

    async def get_state(
        self,
        state_cls: type[S],
        request: HTTPConnection,
        *,
        component_id: Id | None = None,
        record_id: Id | None = None,
        **kwargs: Any,
    ) -> S:
        """Return the committed snapshot of the state of this class that `request` means; its pages follow the state.

        `component_id` names one of several on a page (or a TEMPORARY state), `record_id` a record; without it a
        record's id comes from the path. All other arguments are the initial values of a state that does not exist yet.

        Raises `StateNotRegisteredError`, `TypeError` without a request, `IdentifierError` for a missing id,
        `StateNotFoundError`, `AuthenticationError` (401) and `AuthorizationError` (403), pydantic's `ValidationError`
        for initial values that do not fit.
        """
        self.registrations.config_of(state_cls)  # a class that is not registered is the first mistake
        context, ids = self.context(request), Ids(component_id=component_id, record_id=record_id)
        entry = await self.resolver.shown_entry(context, state_cls, ids, kwargs)
        return cast(S, context.readable(entry)._seen_by(await context.user()))

    # -- server code -----------------------------------------------------------------------------------------------

    def modify(
        self,
        state_cls: type[S],
        request: HTTPConnection | None = None,
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> Modify[S]:
        """Return a transaction: `async with provider.modify(Cart, request) as cart:` (plain `with` outside the event
        loop).

        With a request, it is on the state that the request means, under its user's rights (the action "modify");
        without one, on the state of the given ids, and nobody's rights are asked. The block gets a working copy, which
        is committed when it ends; an exception leaves no trace. Raises what `get_state` raises, `LockTimeoutError`, and
        `EventError` if the new values do not validate.
        """
        return self.operations.modify(state_cls, Ids(user_id, session_id, component_id, record_id), request)

    def refresh(
        self,
        state_cls: type[ReactiveState],
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> Awaitable[bool]:
        """Load a state again that other code has changed where it is kept; returns True if it was another.

        `await provider.refresh(ProductState, record_id=5)`; in sync code a plain call. All pages follow; if the row is
        gone, they are told so. Raises `PersistenceError`, `LockTimeoutError`, and what `get_state` raises for ids and
        unregistered classes.
        """
        return self.operations.refresh(state_cls, Ids(user_id, session_id, component_id, record_id))

    def delete(
        self,
        state_cls: type[ReactiveState],
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> Awaitable[None]:
        """Delete a state for good, with what is stored of it or with its row. It is not an error if there is none.

        `await provider.delete(Profile, user_id=7)`; in sync code a plain call. Pages that show it are told so, and no
        rights are asked. Raises as `refresh`.
        """
        return self.operations.delete(state_cls, Ids(user_id, session_id, component_id, record_id))

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Run an event from server code; `state.<event>.run(...)` calls it."""
        return await self.operations.run(identifier, cls, event, arguments)

    # -- users and their rights ------------------------------------------------------------------------------------

    def login(self, request: HTTPConnection, user: UserContext) -> Awaitable[None]:
        """Sign `user` in: `await provider.login(request, user)`; in a sync handler a plain call.

        The session gets a new id and the user's id (as `session["user_id"]`), so the old id, and an old copy of the
        cookie, are worth nothing. SESSION states go along as `StateConfig(on_login=...)` says. If another user was
        signed in, they end, and the cookie is emptied. Other tabs reload.

        Raises `TypeError` for what is not a `UserContext`, `ConfigurationError` without sessions, `IdentifierError`
        from a websocket and for a user without a proper id, and what a merge hook raises; nobody is signed in then.
        """
        return self.operations.login(request, user)

    def logout(self, request: HTTPConnection) -> Awaitable[None]:
        """End the session: `await provider.logout(request)`; in a sync handler a plain call.

        The cookie is emptied and its id ended on the server, so an old copy of it is worth nothing. The session's
        states end, its streams fall silent at once, and its pages reload. Raises `ConfigurationError` without sessions.
        """
        return self.operations.logout(request)

    def disconnect_user(self, user_id: Id) -> Awaitable[int]:
        """End all streams of a user, whose pages reload; returns how many (int) in this process.

        To be awaited; in sync code a plain call. Sessions stay: the app's loader decides if the user may come back.
        """
        return self.operations.change_rights(user_id, "disconnect")

    def refresh_user(self, user_id: Id) -> Awaitable[int]:
        """Ask for all rights of a user again, since they changed; returns the number (int) of streams in this process.

        To be awaited; in sync code a plain call. The streams fall silent at once and are opened again, and the app's
        loader is asked; a state that the user may no longer see vanishes from the page.
        """
        return self.operations.change_rights(user_id, "refresh")

    def next_url(self, request: HTTPConnection, default: str = "/") -> str:
        """Return where to go after signing in: the page (path and query, str) that sent the visitor to `login_route`.

        Only a path on this site is taken from the URL, everything else is `default`: a link to a login page must not
        lead to somebody else's site.
        """
        found = request.query_params.get("next", "")
        is_path = len(found) <= MAX_NEXT and re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", found)
        return found if is_path else default

    # -- the beginning and the end ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, which belongs to this process from now on; the app's start and its first request call it.

        Calls at the same time share one start, and its error if it fails; the next call tries again. A script that
        does not call it has the store for as long as each of its calls takes. Raises `PersistenceError` if the store
        cannot be opened, `NotStartedError` if `stop` gives up waiting for it.
        """
        await self.lifecycle.start()

    async def stop(self) -> None:
        """End all streams (within 5 s) and the background work, and close the store.

        For servers that are not stopped by a signal. The provider may be started again. Events under way end as they
        do when the server ends (`drain`), and a start that is under way is waited for.
        """
        await self.lifecycle.stop()

    def drain(self) -> None:
        """End all streams and events, since the server ends; call it on the event loop.

        Generator events end at their next step, other events may go on for 2.5 s. Those that wait then are stopped, and
        their step is rolled back.
        """
        self.lifecycle.drain()

    def stats(self, *, everywhere: bool = False) -> Stats:
        """Return the counters of this process at this moment; or, `everywhere`, the sums over all processes.

        The numbers of other processes are up to two seconds old; `lag` is the longest of all.
        """
        own = stats_of(self.registry, self.sse_manager, self.counters)
        return stats_everywhere(own, self.cluster) if everywhere else own
