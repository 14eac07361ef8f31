"""The provider: from a request to the states it may have. Wires the registry to the connections."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar, cast

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from .auth import AccessRule, UserContext, authorize, current_user
from .events import DEFAULT_PREFIX, Event, RawArguments
from .exceptions import (
    AuthenticationError,
    ConfigurationError,
    FastStateError,
    IdentifierError,
    NotStartedError,
    StateNotRegisteredError,
)
from .page import PageContent
from .registry import Commit, Create, Entry, RegistryHooks, StateRegistry
from .scopes import Id, StateIdentifier, StateScope
from .sse import SSEManager, StateEventHandler
from .state import ReactiveState
from .tokens import TOKEN_MAX_AGE, TokenSigner, binding
from .transaction import Holder, Transaction, current_holder, run_event

__all__ = ["SESSION_ID", "Origin", "RequestContext", "StateConfig", "StateProvider", "Stats", "origin_of_commits"]

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)

SESSION_ID: Final = "session_id"
"""Where the session (a signed cookie) holds the id that SESSION states are keyed by."""

DATASTAR_SRC: Final = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.2/bundles/datastar.js"

UserLoader = Callable[[HTTPConnection], UserContext | Awaitable[UserContext | None] | None]
LoadUserById = Callable[[Any], UserContext | Awaitable[UserContext | None] | None]


@dataclass
class StateConfig:
    """How a state class is kept and who may have it. Lifetime: the provider it is registered with.

    `scope` says who shares a state. `ttl` is the idle time in seconds after which it is dropped (None for the scope's
    own, `math.inf` for never). `name` names it in keys and signals (default: the class's name). `record_param` is the
    path parameter with a record's id. `create` makes the values of a state that does not exist yet: a callable, sync or
    async, from `StateIdentifier` to a dict, or to None for "there is none" (404). `requires_auth`, `permissions` and
    `roles` (all of them) say who may see and change it.

    Both `StateConfig(scope=...)` and the seed's `StateConfig(Cart, scope=...)` work.
    """

    state_cls: type[ReactiveState] | None = None
    scope: StateScope = StateScope.SESSION
    ttl: float | None = None
    auto_persist: bool = False
    requires_auth: bool = False
    permissions: Sequence[str] = ()
    roles: Sequence[str] = ()
    name: str | None = None
    record_param: str | None = None
    create: Create | None = None
    rule: AccessRule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.scope, StateScope):
            raise ConfigurationError(f"scope must be a StateScope, not {self.scope!r}")
        if self.ttl is not None and not self.ttl > 0:
            raise ConfigurationError(f"ttl is in seconds, above 0, not {self.ttl!r}")
        for what in ("permissions", "roles"):
            if isinstance(getattr(self, what), str):
                raise ConfigurationError(f"{what} is a list of str, not a str")
        self.rule = AccessRule(self.requires_auth, tuple(self.permissions), tuple(self.roles))


class Stats(NamedTuple):
    """Counters of one process. `events` ran and were committed, `refused` were answered with an error."""

    states: int
    connections: int
    subscriptions: int
    commits: int
    events: int
    refused: int
    repeated: int
    expired: int
    connections_total: int
    coalesced: int
    bytes_sent: int


class RequestContext:
    """What one request is: its session, its user, the states resolved for it. Lifetime: the request."""

    __slots__ = ("_user", "_user_known", "add_late", "connection", "page", "provider", "temporary_id")

    def __init__(self, provider: StateProvider, connection: HTTPConnection) -> None:
        self.provider = provider
        self.connection = connection
        self.page = PageContent(provider.registry, lambda: provider.signer)
        # Of the app that has the routes: an app mounted below it may share its states.
        self.page.url = connection.scope.get("root_path", "") + provider.prefix + "/"
        self.temporary_id: str | None = None
        self.add_late: Callable[[Any], None] | None = None
        self._user: UserContext | None = None
        self._user_known = False

    def session_id(self, *, make: bool = False) -> str | None:
        """The session's id (str), or None; with `make` a missing one is minted and stored in the session.

        Raises `ConfigurationError` without a session middleware, `IdentifierError` where a cookie cannot be set.
        """
        scope = self.connection.scope
        if "session" not in scope:
            raise ConfigurationError("states need sessions: the app has no SessionMiddleware (sess_cls)")
        session = scope["session"]
        found = session.get(SESSION_ID)
        if isinstance(found, str) and found:
            return found
        if not make:
            return None
        if scope["type"] != "http":
            raise IdentifierError("a websocket cannot start a session: open a page first")
        session[SESSION_ID] = made = secrets.token_urlsafe(16)
        return made

    async def user(self) -> UserContext | None:
        """The user of the request, or None; asked of the app's loader once."""
        if not self._user_known:
            self._user = await self.provider._load_user(self.connection)
            # A Beforeware may sign somebody in later in the same request: "nobody" is not remembered.
            self._user_known = self._user is not None
        return self._user

    async def binding(self, *, make: bool = False) -> str:
        """The digest (str) that ties tokens to this session and user."""
        user = await self.user()
        return binding(self.session_id(make=make), user.id if user else None)

    async def resolve_for_fasthtml(self, cls: type[ReactiveState], request: Any) -> ReactiveState:
        """A state for FastHTML's own injection, where no handler of ours adds the live element afterwards."""
        try:
            state = await self.provider.get_state(cls, self.connection)
        except FastStateError as error:
            is_ours = getattr(request.app.state, "faststate", None) is self.provider
            if is_ours or error.status >= 500 or request.scope["type"] != "http":
                raise
            # An app without a provider, mounted below one that has it, knows this kind of error alone.
            raise HTTPException(error.status, str(error)) from error
        if self.add_late is not None:
            self.add_late(request)
        return state


class _Modify(Generic[S]):
    """A transaction on one state: `async with` on the loop, plain `with` outside it. Lifetime: one block."""

    def __init__(self, provider: StateProvider, find: Callable[[], Awaitable[Entry]]) -> None:
        self._provider = provider
        self._find = find
        self._transaction: Transaction | None = None
        self._token: contextvars.Token[Holder | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> S:
        state = await self._begin()
        self._token = current_holder.set(Holder(self._owner, asyncio.current_task()))
        return state

    @property
    def _owner(self) -> object:
        return self._transaction.owner if self._transaction is not None else self

    async def _begin(self) -> S:
        entry = await self._find()
        transaction = Transaction(self._provider.registry, [entry])
        try:
            await transaction.begin()
        except BaseException:
            transaction.end()
            raise
        self._transaction = transaction
        state: S = transaction.copy(entry)
        return state

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._let_go()
        await self._finish(commit=kind is None)

    async def _finish(self, commit: bool) -> None:
        transaction = self._transaction
        if transaction is None:
            return
        try:
            if commit:
                transaction.commit(transaction.prepare())
        finally:
            transaction.end()

    def __enter__(self) -> S:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError("this code runs on the event loop: write `async with provider.modify(...)`")
        loop = self._provider._loop
        self._loop = loop if loop is not None and loop.is_running() else _loop_for_scripts()
        outer = current_holder.get()
        state: S = self._call(self._begin(), Holder(outer.identity, None) if outer is not None else None)
        self._token = current_holder.set(Holder(self._owner, None))
        return state

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._let_go()
        self._call(self._finish(commit=kind is None), None)

    def _let_go(self) -> None:
        if self._token is not None:
            # A block may end in another context than it began in (a generator closed by the loop): the locks still
            # have to be given back.
            with contextlib.suppress(ValueError):
                current_holder.reset(self._token)

    def _call(self, coroutine: Any, holder: Holder | None) -> Any:
        loop = cast(asyncio.AbstractEventLoop, self._loop)
        context = contextvars.copy_context()
        context.run(current_holder.set, holder)

        async def inside() -> Any:
            return await asyncio.get_running_loop().create_task(coroutine, context=context)

        return asyncio.run_coroutine_threadsafe(inside(), loop).result()


_scripts_lock = threading.Lock()
_scripts_loop: asyncio.AbstractEventLoop | None = None


def _loop_for_scripts() -> asyncio.AbstractEventLoop:
    """The loop on which plain `with` works where no app runs one. Lifetime: the process; one thread, for all providers.

    One loop, and not one per thread: asyncio's locks work within one loop alone.
    """
    global _scripts_loop
    with _scripts_lock:
        if _scripts_loop is None:
            _scripts_loop = asyncio.new_event_loop()
            threading.Thread(target=_scripts_loop.run_forever, name="faststate-scripts", daemon=True).start()
        return _scripts_loop


class _Hooks(RegistryHooks):
    """What a provider does when its registry changes. Lifetime: the provider."""

    def __init__(self, provider: StateProvider) -> None:
        self.provider = provider

    def committed(self, commit: Commit) -> None:
        origin = origin_of_commits.get()
        # A task that the event started inherits the context, and may commit when the event is long over.
        if origin is None or not origin.open:
            self.provider.sse_manager.publish(commit)
            return
        origin.commits.append(commit)
        is_own = commit.new._committed.identifier.key == origin.key
        self.provider.sse_manager.publish(commit, origin.connection_id, origin.echo if is_own else None)
        if is_own:
            origin.echo = {}  # what a later step sets is news to the page

    def is_watched(self, key: str) -> bool:
        return self.provider.sse_manager.is_watched(key)

    def swept(self) -> None:
        self.provider.sse_manager.cleanup_stale_connections()

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        return self.provider.sse_manager.broadcast_to_state(key, data)

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        return await self.provider.run(identifier, cls, event, arguments)


@dataclass(slots=True)
class Origin:
    """The page whose event is running: its connection, the event's state, the bound fields that the page has set."""

    connection_id: str | None
    key: str
    echo: Mapping[str, Any]
    open: bool = True
    commits: list[Commit] = field(default_factory=list)


origin_of_commits: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("faststate_origin", default=None)
"""Set while an event of a page runs."""


class StateProvider:
    """Gives requests the states they may have. Lifetime: the app; made once, beside it.

    - `user_loader`: a callable, sync or async, from request to `UserContext | None`. Without one, a `UserContext` in
      `scope["auth"]` or `scope["user"]` is taken, else an id in `scope["auth"]` or `session["user_id"]` goes to
      `load_user_by_id` (a callable, sync or async); without that, the id is a user with no roles.
    - `secret_key`: str, or a list of str (oldest first) to rotate; signs page tokens. By default the app's own.
    - `prefix`: URL path of the library's two routes.
    - `datastar_src`: URL of Datastar 1.0's bundle, or the path of a local copy, which is then served. The environment
      variable `FASTSTATE_DATASTAR_SRC` overrides it.
    - `max_payload` (bytes) and `max_depth` (levels) bound what an event may carry.
    - `lock_timeout`, `heartbeat`, `write_timeout` and `token_max_age` are seconds; `clock` returns monotonic seconds.
    """

    installer: ClassVar[Callable[[StateProvider, Any], None] | None] = None
    """Installs a provider into an app; the integration, a floor above, puts itself here when it is imported."""

    def __init__(
        self,
        *,
        user_loader: UserLoader | None = None,
        load_user_by_id: LoadUserById | None = None,
        secret_key: str | Sequence[str] | None = None,
        prefix: str = DEFAULT_PREFIX,
        datastar_src: str = DATASTAR_SRC,
        max_payload: int = 262_144,
        max_depth: int = 32,
        lock_timeout: float = 5.0,
        heartbeat: float = 15.0,
        write_timeout: float = 20.0,
        token_max_age: int = TOKEN_MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", prefix):
            raise ConfigurationError(f"prefix must be a URL path like '/_faststate', not {prefix!r}")
        self.user_loader = user_loader
        self.load_user_by_id = load_user_by_id
        self.prefix = prefix
        self.datastar_src = os.environ.get("FASTSTATE_DATASTAR_SRC") or datastar_src
        self.max_payload = max_payload
        self.max_depth = max_depth
        self.heartbeat = heartbeat
        self.write_timeout = write_timeout
        self.token_max_age = token_max_age
        self.state_configs: dict[type[ReactiveState], StateConfig] = {}
        self.registry = StateRegistry(_Hooks(self), clock=clock, lock_timeout=lock_timeout)
        self.sse_manager = SSEManager(self.registry.peek, lambda: f"{self.registry.epoch}.{self.registry.commits}")
        self.state_event_handler = StateEventHandler(self.sse_manager, self)
        self.events = self.refused = self.repeated = 0
        self._names: dict[str, type[ReactiveState]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._signer: TokenSigner | None = None
        if secret_key is not None:
            self.use_secret_key(secret_key)

    # -- registering -----------------------------------------------------------------------------------------------

    def register_state(self, state_cls: type[ReactiveState], config: StateConfig | None = None) -> None:
        """Registers a state class. `config` defaults to `StateConfig()`: one state per session.

        Raises `ConfigurationError` when the class is registered already, when another class has its name, or when an
        event's types cannot be resolved.
        """
        if not (isinstance(state_cls, type) and issubclass(state_cls, ReactiveState)):
            raise ConfigurationError(f"{state_cls!r} is no ReactiveState class")
        config = replace(config) if config is not None else StateConfig()
        if config.state_cls is not None and config.state_cls is not state_cls:
            raise ConfigurationError(f"the config is for {config.state_cls.__name__}, not for {state_cls.__name__}")
        config.state_cls = state_cls
        name = config.name or state_cls.__name__
        if state_cls in self.state_configs:
            raise ConfigurationError(f"{state_cls.__name__} is registered already")
        if name in self._names:
            raise ConfigurationError(f"two state classes are called {name}: give one a StateConfig(name=...)")
        if config.auto_persist:
            logger.warning("%s: auto_persist needs a store, which this version has not; it lives in memory", name)
        try:
            StateIdentifier(StateScope.GLOBAL, name)
        except IdentifierError as error:
            raise ConfigurationError(f"{error}; give {state_cls.__name__} a StateConfig(name=...)") from error
        for event in state_cls._fs_schema().events.values():
            event.arguments  # noqa: B018  # resolves the annotations, and raises where it cannot
        self.state_configs[state_cls] = config
        self._names[name] = state_cls
        state_cls._name = name
        state_cls._has_ids = config.scope in (StateScope.COMPONENT, StateScope.RECORD, StateScope.TEMPORARY)
        state_cls._prefix = self.prefix

    def state(self, scope: StateScope = StateScope.SESSION, **options: Any) -> Callable[[type[S]], type[S]]:
        """Registers the class it decorates: `@provider.state(scope=StateScope.USER, ttl=3600)`, as `StateConfig`."""

        def register(cls: type[S]) -> type[S]:
            self.register_state(cls, StateConfig(scope=scope, **options))
            return cls

        return register

    def config_of(self, cls: type[ReactiveState]) -> StateConfig:
        """The class's config. Raises `StateNotRegisteredError` (also a `ValueError`)."""
        config = self.state_configs.get(cls)
        if config is None:
            raise StateNotRegisteredError(
                f"State {cls.__name__} not registered: call register_state({cls.__name__}, …)"
            )
        return config

    def class_named(self, name: str) -> type[ReactiveState] | None:
        """The class registered under `name`, or None."""
        return self._names.get(name)

    def class_names(self) -> Mapping[str, type[ReactiveState]]:
        """The registered classes, by the names that Python knows them by."""
        return {cls.__name__: cls for cls in self.state_configs}

    def use_secret_key(self, secret_key: str | Sequence[str]) -> None:
        """Sets the key (or keys, oldest first) that page tokens are signed with."""
        keys = [secret_key] if isinstance(secret_key, str) else list(secret_key)
        if not keys or not all(isinstance(key, str) and key for key in keys):
            raise ConfigurationError("secret_key must be a str, or a list of them, none of them empty")
        self._signer = TokenSigner(keys, self.token_max_age)

    @property
    def signer(self) -> TokenSigner:
        """Signs and verifies page tokens. Raises `NotStartedError` before `setup`, unless a secret_key was given."""
        if self._signer is None:
            raise NotStartedError("the provider has no secret_key yet: use faststate.fast_app, or call setup(app)")
        return self._signer

    def setup(self, app: Any) -> None:
        """Makes a FastHTML app serve this provider's states; call it before the app's routes are defined.

        `faststate.fast_app(state_provider=...)` calls it. Raises `ConfigurationError` when the app has a provider.
        """
        install = type(self).installer
        if install is None:
            raise NotStartedError("import faststate before setup: its FastHTML integration is not loaded")
        install(self, app)

    # -- resolving -------------------------------------------------------------------------------------------------

    def context(self, connection: HTTPConnection) -> RequestContext:
        """The context of a request, made when the app's middleware has not."""
        found = connection.scope.get("faststate")
        if isinstance(found, RequestContext) and found.provider is self:
            return found
        context = RequestContext(self, connection)
        if found is None:
            connection.scope["faststate"] = context
        return context

    async def _load_user(self, connection: HTTPConnection) -> UserContext | None:
        if self.user_loader is not None:
            return cast("UserContext | None", await _settled(self.user_loader(connection)))
        scope = connection.scope
        for place in ("auth", "user"):
            if isinstance(scope.get(place), UserContext):
                found: UserContext = scope[place]
                return found
        auth = scope.get("auth")
        user_id = auth if isinstance(auth, str | int) and not isinstance(auth, bool) and auth != "" else None
        if user_id is None:
            user_id = (scope.get("session") or {}).get("user_id")
        if user_id is None or user_id == "":
            return None
        if self.load_user_by_id is not None:
            return cast("UserContext | None", await _settled(self.load_user_by_id(user_id)))
        return UserContext(user_id, str(user_id))

    async def get_state(
        self,
        state_cls: type[S],
        request: HTTPConnection,
        *,
        component_id: Id | None = None,
        record_id: Id | None = None,
        **kwargs: Any,
    ) -> S:
        """The committed snapshot of the state of this class that `request` means; pages made by it follow the state.

        `component_id` names one of several on a page (or a TEMPORARY state), `record_id` a record; without it a
        record's id comes from the path. What else is given are the initial values of a state that does not exist yet.

        Raises `StateNotRegisteredError`, `IdentifierError` for a missing id, `StateNotFoundError`,
        `AuthenticationError` (401) and `AuthorizationError` (403), pydantic's `ValidationError` for initial values that
        do not fit.
        """
        entry = await self.resolve(state_cls, request, component_id=component_id, record_id=record_id, initial=kwargs)
        return cast(S, entry.state)

    async def resolve(
        self,
        cls: type[ReactiveState],
        request: HTTPConnection,
        *,
        component_id: Id | None = None,
        record_id: Id | None = None,
        initial: Mapping[str, Any] | None = None,
        show: bool = True,
    ) -> Entry:
        """The entry of a state, authorised for the user of `request`; as `get_state`. `show` notes it for the page."""
        config = self.config_of(cls)
        context = self.context(request)
        user = await context.user()
        authorize(user, config.rule)
        if config.scope is StateScope.USER and user is None:
            raise AuthenticationError(f"{config.name or cls.__name__} belongs to a user: sign in")
        identifier = self._identify(cls, config, context, user, component_id, record_id)
        entry = await self._entry(identifier, config, initial)
        current_user.set(user)
        if show and request.scope["type"] == "http":
            context.page.show(entry.state)
            context.page.bound_to = await context.binding(make=True)
        return entry

    async def _entry(
        self, identifier: StateIdentifier, config: StateConfig, initial: Mapping[str, Any] | None = None
    ) -> Entry:
        loop = asyncio.get_running_loop()
        if loop is not _scripts_loop:
            self._loop = loop
        return await self.registry.entry(
            identifier, self._names[identifier.cls_name], ttl=config.ttl, create=config.create, initial=initial
        )

    def _identify(
        self,
        cls: type[ReactiveState],
        config: StateConfig,
        context: RequestContext,
        user: UserContext | None,
        component_id: Id | None,
        record_id: Id | None,
    ) -> StateIdentifier:
        name, scope = config.name or cls.__name__, config.scope
        if scope is StateScope.COMPONENT and component_id is None:
            raise IdentifierError(
                f"{name} is a component state; say which one: Annotated[{cls.__name__}, Component('left')], or "
                "get_state(…, component_id=…)"
            )
        if scope is StateScope.TEMPORARY and component_id is None:
            context.temporary_id = context.temporary_id or secrets.token_urlsafe(9)
            component_id = context.temporary_id
        if scope is StateScope.RECORD and record_id is None:
            record_id = self._record_id(cls, config, context.connection.path_params)
        needs_session = scope in (StateScope.SESSION, StateScope.COMPONENT, StateScope.TEMPORARY)
        return StateIdentifier(
            scope,
            name,
            user_id=user.id if user is not None else None,
            session_id=context.session_id(make=True) if needs_session else None,
            component_id=component_id,
            record_id=record_id,
        )

    def record_parameter(self, cls: type[ReactiveState], parameters: Iterable[str]) -> str | None:
        """Which of a route's path parameters (names) holds the id of a record of this class; None when none does."""
        config = self.config_of(cls)
        known = list(parameters)
        if config.record_param is not None:
            return config.record_param if config.record_param in known else None
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__.removesuffix("State") or cls.__name__).lower()
        for candidate in ("record_id", f"{snake}_id"):
            if candidate in known:
                return candidate
        return known[0] if len(known) == 1 else None

    def _record_id(self, cls: type[ReactiveState], config: StateConfig, path: Mapping[str, Any]) -> Id:
        found = self.record_parameter(cls, path)
        if found is None:
            raise IdentifierError(
                f"{config.name or cls.__name__} is a record state; its id is neither given nor in the path "
                f"(parameters: {', '.join(path) or 'none'}): name it with StateConfig(record_param=…) or "
                "get_state(…, record_id=…)"
            )
        value: Id = path[found]
        return value

    # -- changing --------------------------------------------------------------------------------------------------

    def modify(
        self,
        state_cls: type[S],
        request: HTTPConnection | None = None,
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> _Modify[S]:
        """A transaction: `async with provider.modify(Cart, request) as cart:` (plain `with` outside the event loop).

        With a request, the state that it means, under its user's rights; without one, the state of the given ids, with
        no rights asked. The block gets a working copy, committed when it ends; an exception leaves no trace. Raises
        what `get_state` raises, `LockTimeoutError`, and `EventError` when the new values do not validate.
        """
        config = self.config_of(state_cls)

        async def find() -> Entry:
            if request is not None:
                return await self.resolve(
                    state_cls, request, component_id=component_id, record_id=record_id, show=False
                )
            identifier = StateIdentifier(
                config.scope,
                config.name or state_cls.__name__,
                user_id=user_id,
                session_id=session_id,
                component_id=component_id,
                record_id=record_id,
            )
            return await self._entry(identifier, config)

        return _Modify(self, find)

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Runs an event from server code; `state.<event>.run(...)` calls it."""
        config = self.config_of(cls)
        entry = await self._entry(identifier, config)
        values = event.arguments.validate(RawArguments(explicit=arguments))
        values = {**event.arguments.defaults, **values}
        others = {}
        for parameter in event.arguments.states:
            other = self.config_of(parameter.cls)
            others[parameter.name] = await self._entry(
                StateIdentifier(
                    other.scope,
                    other.name or parameter.cls.__name__,
                    user_id=identifier.user_id,
                    session_id=identifier.session_id,
                    component_id=parameter.component.component_id if parameter.component else identifier.component_id,
                    record_id=values.get(parameter.record.argument) if parameter.record else identifier.record_id,
                ),
                other,
            )
        results = []
        async for step in run_event(self.registry, entry, event, values, others):
            if not step.closing:
                results.append(step.result)
        self.events += 1
        return results if event.kind == "generator" else results[0]

    # -- the end ---------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Ends all streams (within 5 s) and the background work. For servers that are not stopped by a signal."""
        self._stopped = True
        await self.sse_manager.stop()
        await self.registry.stop()

    def stats(self) -> Stats:
        """Counters of this process, at this moment."""
        manager = self.sse_manager
        live = manager.connections.values()
        return Stats(
            states=len(self.registry),
            connections=len(manager.connections),
            subscriptions=sum(map(len, manager.state_subscriptions.values())),
            commits=self.registry.commits,
            events=self.events,
            refused=self.refused,
            repeated=self.repeated,
            expired=self.registry.expired,
            connections_total=manager.total,
            coalesced=manager.coalesced + sum(c.coalesced for c in live),
            bytes_sent=manager.sent_bytes + sum(c.sent_bytes for c in live),
        )


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
