"""The provider: from a request to the states it may have. Wires the registry to the connections."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeGuard, TypeVar, cast, overload

from starlette.requests import HTTPConnection

from ..auth.limits import Rates, TokenBuckets, network_of
from ..auth.loaders import LoadUserById, UserFinder, UserLoader
from ..auth.rules import MODIFY, READ, AccessRule, authorize
from ..auth.tokens import TOKEN_MAX_AGE, TokenSigner, binding
from ..auth.users import UserContext, current_request, current_user
from ..cluster.base import AppCluster
from ..cluster.local import LocalCluster
from ..cluster.messages import AppMessage, ProcessStats, Typed
from ..cluster.processes import processes_found
from ..cluster.shared import SharedCluster
from ..exceptions import (
    AccessError,
    AuthenticationError,
    ConfigurationError,
    EventArgumentError,
    IdentifierError,
    LockTimeoutError,
    NotStartedError,
    StateNotFoundError,
    StateNotRegisteredError,
)
from ..registry.ends import StateEnd
from ..registry.entries import Shared
from ..registry.locks import identity_here
from ..registry.modify import Modify, Settled, call_from_anywhere, is_for_scripts
from ..registry.persistence import RecordPersistence, StorePersistence
from ..registry.protocols import OutdatedError
from ..registry.registry import Commit, Entry, StateRegistry
from ..registry.transaction import Guard, Run, Step, run_event
from ..scheduling.queues import SERVER, Client
from ..scheduling.threads import left_behind, with_left
from ..scheduling.waits import TooLate, in_time
from ..scopes import Id, StateIdentifier, StateScope
from ..sessions.caller import SESSION_ID
from ..sessions.config import StateConfig, check_taken, session_identifier
from ..sessions.rechecks import Rechecks
from ..sessions.rights import How
from ..sessions.sessions import Sessions
from ..sse.connection import SSEConnection
from ..sse.hooks import StreamHooks
from ..sse.manager import SSEManager, StateEventHandler
from ..state.events import DEFAULT_PREFIX, Event, is_time_limit
from ..state.field_types import refuse_field_types
from ..state.parameters import StateParameter
from ..state.reactive import ReactiveState
from ..state.serving import note_provider
from ..stores.base import SharedStore, StateStore
from ..stores.urls import store_from_url
from ..wire.frames import message_frame, reload_frame, vanish_frame
from .context import Answered, RequestContext

__all__ = ["Origin", "StateProvider", "Stats", "origin_of_commits", "taken_ids"]

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)

DATASTAR_SRC: Final = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.2/bundles/datastar.js"

FRESH_TTL: Final = 900.0
"""Idle seconds of the states of a session whose cookie has not come back yet: robots and scripts never send it."""

SHARE_OF_ADDRESS: Final = 10
"""Times as much as one session that all sessions of a client address may do, unless an option says otherwise: an office
behind one address has many people, of whom few act at the same moment."""

NO_ADDRESS: Final = "unknown"
"""Stands for the addresses of all clients of a server that sees none, as on a Unix socket."""

MAX_NEXT: Final = 2_000
"""Longest path, in characters, that is taken back from `?next=`."""

GONE: Final = "This is not there any more."
"""What a page says of a record that was deleted while it was shown."""

READ_TRIES: Final = 3
"""How often a state that changes while its rule is asked is asked about again before what was allowed is shown."""

DEFAULT_STORE: Final = "sqlite:///faststate.db"
"""Where `auto_persist=True` keeps states when no store was named: beside FastHTML's `.sesskey`, where the app runs."""

OPEN: Final = AccessRule()

Lookup = Literal["now", "if new", "with lock"]
"""When a state is looked up in a store of many processes: in any case, only when it is not in memory, or not until it
is locked."""


class Stats(NamedTuple):
    """Counters of one process. `events` ran and were committed, `refused` were answered with an error.

    `evicted` states left memory since there were too many, `saves` went to the store or to rows, and what was found
    there and did not fit its class any more was `kept_aside`. Of the `connections`, `behind` have not taken what was
    written, the slowest for `lag` seconds, and `cut` were ended for it; `coalesced` changes were sent together with a
    later one, counted for each connection.
    """

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
    evicted: int
    saves: int
    kept_aside: int
    behind: int
    lag: float
    cut: int


class _Followers:
    """The pages that follow a provider's states. Lifetime: the provider."""

    def __init__(self, provider: StateProvider) -> None:
        self.provider = provider

    def committed(self, commit: Commit) -> None:
        origin, provider = origin_of_commits.get(), self.provider
        config = provider.state_configs.get(type(commit.new))
        checked = config is not None and config.authorize is not None
        publish = provider.rechecks.committed if checked else provider.sse_manager.fanout.publish
        # A task that the event started inherits the context, and may commit when the event is long over.
        if origin is None or not origin.open:
            publish(commit, None, None)
            return
        origin.commits.append(commit)
        is_own = commit.key == origin.key
        publish(commit, origin.connection_id, origin.echo if is_own else None)
        if is_own:
            origin.echo = {}  # what a later step sets is news to the page

    def removed(self, state: ReactiveState, reason: str) -> None:
        self.provider.tell_removed(state, reason)

    def is_watched(self, key: str) -> bool:
        return self.provider.sse_manager.is_watched(key)

    def swept(self) -> None:
        self.provider.sse_manager.cleanup_stale_connections()
        self.provider.sessions.ended.known.forget_old()

    def broadcast(self, key: str, data: Mapping[str, Any]) -> Awaitable[int]:
        return self.provider.sse_manager.broadcast_to_state(key, data)


class _Callers:
    """Tells whose request is being served. Lifetime: the provider."""

    def client(self) -> Client:
        return client_here()

    def address(self) -> str:
        request = current_request.get()
        if request is None:
            return ""
        return network_of(request.client.host) if request.client is not None else NO_ADDRESS


class _StreamHooks(StreamHooks):
    """What a provider answers its streams, and does with what they tell. Lifetime: the provider."""

    def __init__(self, provider: StateProvider) -> None:
        self.provider = provider

    def latest(self, key: str) -> ReactiveState | None:
        return self.provider.rechecks.cleared(key) or self.provider.registry.peek(key)

    def position(self) -> str:
        registry = self.provider.registry
        number = self.provider.sse_manager.fanout.handed_over(self.provider.rechecks.decided(registry.commits))
        return f"{registry.epoch}.{number}{self.provider.cluster.position(settled=number == registry.commits)}"

    def postpone(self, key: str, send: Callable[[], object]) -> bool:
        return self.provider.rechecks.postpone(key, send)

    def is_undecided(self, key: str) -> bool:
        return self.provider.rechecks.is_asking(key)

    def watched(self, key: str) -> None:
        self.provider.registry.lifetimes.watched(key)

    def unwatched(self, key: str) -> None:
        self.provider.registry.lifetimes.unwatched(key)

    def spread(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        self.provider.cluster.broadcast(key, values, but_user)


@dataclass(slots=True)
class Origin:
    """The page whose event is running: its connection, the event's state, the bound fields that the page has set."""

    connection_id: str | None
    key: str
    echo: Mapping[str, Any]
    session_id: str | None = None
    elsewhere: bool = False
    """Whether another process has the page's stream."""
    open: bool = True
    commits: list[Commit] = field(default_factory=list)

    def acting(self) -> str | None:
        """The session (its id) in whose name it commits: another one than the page's when it signs its user in."""
        return self.session_id


class _OwnRun(Run):
    """An event that server code has run, whose steps' `results` it collects. Lifetime: the event."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def take(self, step: Step) -> None:
        if not step.closing:
            self.results.append(step.result)


origin_of_commits: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("faststate_origin", default=None)
"""Set while an event of a page runs."""


def taken_ids(parameter: StateParameter, own: StateIdentifier, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The ids, by what they are of, of a state that an event takes along, from its arguments and its own state's ids.

    Raises `EventArgumentError` where the argument that should hold a record's id is None.
    """
    ids: dict[str, Any] = {
        "component_id": parameter.component.component_id if parameter.component is not None else own.component_id
    }
    if (record := parameter.record) is not None:
        ids["record_id"] = own.instance_id if record.argument is None else arguments.get(record.argument)
        if ids["record_id"] is None:
            raise EventArgumentError(
                f"the argument {record.argument!r} is the id of {parameter.name}: it cannot be empty"
            )
    return ids


def _opened(store: str | StateStore) -> StateStore:
    if not isinstance(store, str | StateStore):
        raise ConfigurationError(f"store is a URL like 'sqlite:///state.db' or a StateStore, not {store!r}")
    return store_from_url(store) if isinstance(store, str) else store


def _is_here(future: asyncio.Future[None] | None) -> TypeGuard[asyncio.Future[None]]:
    """Tells whether there is one of the running event loop: another loop may have ended in the middle of it."""
    return future is not None and not future.done() and future.get_loop() is asyncio.get_running_loop()


def client_here() -> Client:
    """On whose behalf the code here runs: the request's, also in what the request has begun; else the server's own."""
    request = current_request.get()
    if request is None:
        return SERVER
    session, address = request.scope.get("session"), request.client.host if request.client is not None else ""
    session_id = session.get(SESSION_ID) if session else None
    network = network_of(address)
    return Client(session_id or f"address {network}", network or None)  # a Unix socket has none


class _News:
    """What a provider does with what other processes tell. Lifetime: the provider."""

    def __init__(self, provider: StateProvider) -> None:
        self.provider = provider

    def acting(self) -> str | None:
        origin = origin_of_commits.get()
        return origin.acting() if origin is not None and origin.open else None

    def typed_here(self, key: str) -> Typed | None:
        origin = origin_of_commits.get()
        if origin is None or not origin.open or not origin.elsewhere or origin.key != key or not origin.echo:
            return None
        return Typed(origin.connection_id or "", origin.session_id, origin.echo)

    def broadcast(self, key: str, values: Mapping[str, Any], but_user: Id | None) -> None:
        self.provider.sse_manager.broadcast_here(key, values, but_user)

    @contextlib.contextmanager
    def caused_by(self, key: str, typed: Typed | None) -> Iterator[None]:
        page = self.provider.sse_manager.connections.get(typed.page) if typed is not None else None
        if typed is None or page is None or page.session_id != typed.session_id:
            yield
            return
        token = origin_of_commits.set(Origin(page.id, key, typed.values))
        try:
            yield
        finally:
            origin_of_commits.reset(token)

    def show(self, key: str, page: str | None, session_id: str | None) -> None:
        connection = self.provider.sse_manager.connections.get(page or "")
        if connection is not None and connection.session_id == session_id and connection.topic(key) is not None:
            connection.notify(key, None)

    def told(self, message: AppMessage) -> None:
        self.provider.sessions.told(message)

    async def caught_up(self, after: int, away: float) -> None:
        await self.provider.sessions.catch_up(after, away)

    async def look_up_session(self, session_id: str) -> None:
        await self.provider.sessions.look_up(session_id)

    def stats(self) -> ProcessStats:
        return ProcessStats(self.provider.registry.epoch, self.provider.stats()._asdict())


class StateProvider:
    """Gives requests the states they may have. Lifetime: the app; made once, beside it.

    - `user_loader`: a callable, sync or async, from request to `UserContext | None`. Without one, a `UserContext` in
      `scope["auth"]` or `scope["user"]` is taken, else an id in `scope["auth"]` or `session["user_id"]` goes to
      `load_user_by_id` (a callable, sync or async); without that, the id is a user with no roles. See `UserFinder`. A
      sync one runs in a thread. Either has `user_timeout` seconds to answer.
    - `store`: where states outlive the process: "sqlite:///state.db", "redis://host:6379/0" for many processes, or a
      `StateStore`. The environment variable `FASTSTATE_STORE` overrides it. Every class is kept there but those with
      `StateConfig(in_memory=True)`; without a store, those with `auto_persist=True` are kept in `faststate.db`, and the
      others live in memory. `store_timeout` (seconds) is how long it may take to answer, `max_states` how many states
      are held in memory.
    - `login_route`: URL path that a page is redirected to when it asks for a state that needs somebody signed in, with
      the page's own path as `?next=` (see `next_url`); without it such a page is a 401.
    - `secret_key`: str, or a list of str (oldest first) to rotate; signs page tokens. By default the app's own.
    - `prefix`: URL path of the library's two routes.
    - `datastar_src`: URL of Datastar 1.0's bundle, or the path of a local copy, which is then served. The environment
      variable `FASTSTATE_DATASTAR_SRC` overrides it.
    - `max_payload` (bytes) and `max_depth` (levels) bound what an event or a stream's request may carry, `body_timeout`
      (seconds) how long it may take to arrive.
    - `event_rate` (events per second) and `event_burst` (events at once) bound what one session may send,
      `address_event_rate` and `address_event_burst` what all sessions of one client address may; by default ten times
      as much. `stream_rate`, `stream_burst`, `address_stream_rate` and `address_stream_burst` say the same of streams
      that are opened; by default all that may be open at a time can come back at once, and once more.
      `max_states_per_session` bounds what a session may keep, `max_states_per_address` what visitors from one address
      have changed and memory alone has; by default a tenth of `max_states`, for public addresses.
      `max_streams_per_session` and `max_streams_per_address` bound the tabs that follow states at a time. Beyond that
      there is a 429; of an address's states some leave memory. Behind a proxy the server has to be told the clients'
      addresses (uvicorn: `--forwarded-allow-ips`), or all of them count as one. Of IPv6 a network of 64 bits counts as
      one address.
    - `transport`: "auto" writes streams past ASGI where the server is uvicorn with HTTP/1.1, which costs least;
      "portable" never does. The environment variable `FASTSTATE_TRANSPORT` overrides it.
    - `event_timeout` (seconds; None for no limit) is how long an event may take that has no `@event(timeout=...)`, from
      when it has its locks. `max_events_per_session` bounds the events that one session (without one, one address) may
      have under way in a process at a time: beyond that there is a 429.
    - `lock_timeout` (how long an event waits for a lock or a worker thread), `heartbeat`, `write_timeout`,
      `token_max_age` and `stream_max_age` (after which a page opens its stream anew and is asked for its rights) are
      seconds; `clock` returns monotonic seconds.
    """

    installer: ClassVar[Callable[[StateProvider, Any], None] | None] = None
    """Installs a provider into an app; the integration, a floor above, puts itself here when it is imported."""

    def __init__(
        self,
        *,
        store: str | StateStore | None = None,
        user_loader: UserLoader | None = None,
        load_user_by_id: LoadUserById | None = None,
        user_timeout: float = 5.0,
        login_route: str | None = None,
        secret_key: str | Sequence[str] | None = None,
        prefix: str = DEFAULT_PREFIX,
        datastar_src: str = DATASTAR_SRC,
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
        store_timeout: float = 10.0,
        heartbeat: float = 15.0,
        write_timeout: float = 20.0,
        transport: Literal["auto", "portable"] = "auto",
        token_max_age: int = TOKEN_MAX_AGE,
        stream_max_age: float = 3_600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", prefix):
            raise ConfigurationError(f"prefix must be a URL path like '/_faststate', not {prefix!r}")
        if login_route is not None and (not login_route.startswith("/") or login_route.startswith("//")):
            raise ConfigurationError(f"login_route must be a URL path like '/login', not {login_route!r}")
        if not user_timeout > 0:
            raise ConfigurationError(f"user_timeout is in seconds, above 0, not {user_timeout!r}")
        self.users = UserFinder(user_loader, load_user_by_id, user_timeout)
        self.login_route = login_route
        self.prefix = prefix
        self.root_path: str | None = None
        """Where the app is mounted (a URL path, empty for nowhere), as its first request said; None before that."""
        self.datastar_src = os.environ.get("FASTSTATE_DATASTAR_SRC") or datastar_src
        self.max_payload = max_payload
        self.max_depth = max_depth
        if not body_timeout > 0:
            raise ConfigurationError(f"body_timeout is in seconds, above 0, not {body_timeout!r}")
        self.body_timeout = body_timeout
        self.max_streams_per_session = max_streams_per_session
        self.max_streams_per_address = max_streams_per_address
        self.event_rates = Rates(
            "address_event_rate",
            TokenBuckets(event_rate, event_burst, clock),
            TokenBuckets(
                SHARE_OF_ADDRESS * event_rate if address_event_rate is None else address_event_rate,
                SHARE_OF_ADDRESS * event_burst if address_event_burst is None else address_event_burst,
                clock,
            ),
            clock,
        )
        self.stream_rates = Rates(
            "address_stream_rate",
            TokenBuckets(stream_rate, 2 * max_streams_per_session if stream_burst is None else stream_burst, clock),
            TokenBuckets(
                SHARE_OF_ADDRESS * stream_rate if address_stream_rate is None else address_stream_rate,
                2 * max_streams_per_address if address_stream_burst is None else address_stream_burst,
                clock,
            ),
            clock,
        )
        if not is_time_limit(event_timeout):
            raise ConfigurationError(
                f"event_timeout is in seconds, above 0, or None for no limit, not {event_timeout!r}"
            )
        self.event_timeout = event_timeout
        if type(max_events_per_session) is not int or max_events_per_session < 1:
            raise ConfigurationError(f"max_events_per_session is at least 1, not {max_events_per_session!r}")
        self.max_events_per_session = max_events_per_session
        self._under_way: dict[str, int] = {}
        self.write_timeout = write_timeout
        self.transport = os.environ.get("FASTSTATE_TRANSPORT") or transport
        if self.transport not in ("auto", "portable"):
            raise ConfigurationError(f"transport is 'auto' or 'portable', not {self.transport!r}")
        self.token_max_age = token_max_age
        self.stream_max_age = stream_max_age
        self.state_configs: dict[type[ReactiveState], StateConfig] = {}
        if not store_timeout > 0 or not max_states > 0:
            raise ConfigurationError("store_timeout is in seconds, above 0, and max_states at least 1")
        if max_states_per_address is not None and not max_states_per_address > 0:
            raise ConfigurationError(f"max_states_per_address is at least 1, not {max_states_per_address!r}")
        named = os.environ.get("FASTSTATE_STORE") or store
        self._keeps_all = named is not None
        self.cluster: AppCluster
        self.registry = StateRegistry(
            _Followers(self),
            _Callers(),
            partial(self._join_cluster, _opened(named) if named is not None else None),
            serving=self,
            clock=clock,
            lock_timeout=lock_timeout,
            store_timeout=store_timeout,
            max_states=max_states,
            max_states_per_session=max_states_per_session,
            max_states_per_address=max_states_per_address,
        )
        self.sse_manager = SSEManager(_StreamHooks(self), heartbeat=heartbeat, max_age=stream_max_age)
        self.rechecks = Rechecks(self.sse_manager, self.config_of, self.take_away, self.registry.peek, lock_timeout)
        self.sessions = Sessions(
            self.registry, self.cluster, self.sse_manager, self._config_named, self._has_other_events, clock
        )
        self.state_event_handler = StateEventHandler(self.sse_manager, self)
        self.events = self.refused = self.repeated = 0
        self._names: dict[str, type[ReactiveState]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = False
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._signer: TokenSigner | None = None
        if secret_key is not None:
            self.use_secret_key(secret_key)

    def _join_cluster(self, store: StateStore | None, registry: StateRegistry) -> AppCluster:
        """Decide whether the app is one process or many: only here."""
        if isinstance(store, SharedStore):
            self.cluster = SharedCluster(store, registry, _News(self))
        else:
            self.cluster = LocalCluster(store, registry.store_timeout)
        return self.cluster

    @property
    def store(self) -> StateStore | None:
        """Where states outlive the process, None for nowhere."""
        return self.cluster.store

    # -- registering -----------------------------------------------------------------------------------------------

    def register_state(self, state_cls: type[ReactiveState], config: StateConfig | None = None) -> None:
        """Registers a state class. `config` defaults to `StateConfig()`: one state per session.

        Raises `ConfigurationError` when the class is registered already, when another class has its name, or when an
        event's types cannot be resolved.
        """
        if not (isinstance(state_cls, type) and issubclass(state_cls, ReactiveState)):
            raise ConfigurationError(f"{state_cls!r} is no ReactiveState class")
        if state_cls in self.state_configs:
            raise ConfigurationError(f"{state_cls.__name__} is registered already")
        config = (config or StateConfig()).for_class(state_cls)
        name = config.state_name
        if name in self._names:
            raise ConfigurationError(f"two state classes are called {name}: give one a StateConfig(name=...)")
        refuse_field_types(state_cls)
        for event in state_cls._fs_schema().events.values():
            event.arguments  # noqa: B018  # resolves the annotations, and raises where it cannot
            if event.rule.owner_only and not config.has_owner(state_cls):
                logger.warning(
                    "%s.%s is owner_only, and no %s has an owner: nobody may send it. Give the class a field user_id "
                    "or owner_id, or name one with StateConfig(owner=...)",
                    name, event.name, name,
                )  # fmt: skip
        self._check_taken(state_cls, config)
        if config.auto_persist and self.store is None:
            self.cluster.store = store_from_url(DEFAULT_STORE)
            for persistence in self.registry.persistence.values():
                persistence.use_store(self.store)
        seconds = self.registry.committer.store_timeout
        if config.records is not None:
            self.registry.persistence[state_cls] = RecordPersistence(
                config.records, state_cls, seconds, config.to_state, config.to_row, self.store
            )
        elif self.store is not None and not config.in_memory and (self._keeps_all or config.auto_persist):
            self.registry.persistence[state_cls] = StorePersistence(self.store, state_cls, seconds)
        self.state_configs[state_cls] = config
        self._names[name] = state_cls
        note_provider(state_cls, self)

    def _check_taken(self, added: type[ReactiveState], config: StateConfig) -> None:
        """Checks the events that the class to be `added` has, and those that take it along: the order of registering
        does not matter. Raises `ConfigurationError`."""
        known = {**self.state_configs, added: config}
        for cls, own in known.items():
            for event in cls._fs_schema().events.values():
                for parameter in event.arguments.states:
                    taken = known.get(parameter.cls)
                    if taken is not None and (cls is added or parameter.cls is added):
                        check_taken(own, event.name, parameter, taken)

    @overload
    def state(self, state_cls: type[S], /) -> type[S]: ...
    @overload
    def state(self, scope: StateScope = ..., **options: Any) -> Callable[[type[S]], type[S]]: ...
    def state(self, scope: Any = StateScope.SESSION, **options: Any) -> Any:
        """Registers the class it decorates: `@provider.state`, or with what `StateConfig` takes
        `@provider.state(scope=StateScope.USER, ttl=3600)`.

        Raises what `register_state` and `StateConfig` raise.
        """

        def register(cls: type[S]) -> type[S]:
            self.register_state(cls, config)
            return cls

        if isinstance(scope, type) and not options:  # without parentheses: this is the class
            config = StateConfig()
            return register(scope)
        config = StateConfig(scope=scope, **options)
        return register

    def config_of(self, cls: type[ReactiveState]) -> StateConfig:
        """The class's config. Raises `StateNotRegisteredError` (also a `ValueError`)."""
        config = self.state_configs.get(getattr(cls, "_full_class", None) or cls)
        if config is None:
            name = cls.__name__ if isinstance(cls, type) else repr(cls)
            raise StateNotRegisteredError(f"State {name} not registered: call register_state({name}, …)")
        return config

    def class_named(self, name: str) -> type[ReactiveState] | None:
        """The class registered under `name`, or None."""
        return self._names.get(name)

    def name_of(self, cls: type[ReactiveState]) -> str | None:
        """The name (str) under which a class is registered here; None where it is not."""
        config = self.state_configs.get(cls)
        return config.state_name if config is not None else None

    def has_ids(self, cls: type[ReactiveState]) -> bool:
        """Tells whether a page may show several states of a class that is registered here, told apart by ids."""
        return self.state_configs[cls].has_ids

    def url_of(self, path: str) -> str:
        """The URL path (str) of one of the library's routes: where the request being served found the app.

        Outside a request, and in a view, it is where the app's first request found it.
        """
        request = current_request.get()
        context = request.scope.get("faststate") if request is not None else None
        root = self.root_path or ""
        if isinstance(context, RequestContext) and context.provider is self:
            root = context.root
        return f"{root}{self.prefix}/{path}"

    def _config_named(self, name: str) -> StateConfig | None:
        cls = self._names.get(name)
        return self.state_configs[cls] if cls is not None else None

    def class_names(self) -> Mapping[str, type[ReactiveState]]:
        """The registered classes, by the names that Python knows them by."""
        return {cls.__name__: cls for cls in self.state_configs}

    def use_secret_key(self, secret_key: str | Sequence[str]) -> None:
        """Sets the key (or keys, oldest first) that page tokens are signed with."""
        keys = [secret_key] if isinstance(secret_key, str) else list(secret_key)
        if not keys or not all(isinstance(key, str) and key for key in keys):
            raise ConfigurationError("secret_key must be a str, or a list of them, none of them empty")
        self._signer = TokenSigner(keys, self.token_max_age, self.prefix)

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
        """The context of a request, made when the app's middleware has not. Raises `TypeError` for what is not one."""
        try:
            found = connection.scope.get("faststate")
        except AttributeError:
            raise TypeError(f"a state is asked for with the request, not with {connection!r}") from None
        if isinstance(found, RequestContext) and found.provider is self:
            return found
        if found is None or (isinstance(found, Answered) and found.provider is self):
            context = connection.scope["faststate"] = RequestContext(self, connection)
            return context
        others: dict[StateProvider, RequestContext] = connection.scope.setdefault("faststate_others", {})
        return others.get(self) or others.setdefault(self, RequestContext(self, connection))

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

        Raises `StateNotRegisteredError`, `TypeError` without a request, `IdentifierError` for a missing id,
        `StateNotFoundError`, `AuthenticationError` (401) and `AuthorizationError` (403), pydantic's `ValidationError`
        for initial values that do not fit.
        """
        entry = await self.resolve(state_cls, request, component_id=component_id, record_id=record_id, initial=kwargs)
        context = self.context(request)
        return cast(S, context.readable(entry)._seen_by(await context.user()))

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
        """The entry of a state that the user of `request` may read; as `get_state`. `show` notes it for the page."""
        self.config_of(cls)  # before the request is looked at: a class that is not registered is the first mistake
        context = self.context(request)
        entry, _ = await self.resolve_for(
            READ, cls, request, component_id=component_id, record_id=record_id, initial=initial
        )
        if show and request.scope["type"] == "http":
            user = context.page.viewer = current_user.get()  # for whom it was just resolved
            context.page.show(context.readable(entry)._seen_by(user))
            context.page.bound_to = binding(context.session_id(make=True), user.id if user else None)
        return entry

    async def resolve_for(
        self,
        action: str,
        cls: type[ReactiveState],
        request: HTTPConnection,
        *,
        rule: AccessRule = OPEN,
        component_id: Id | None = None,
        record_id: Id | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> tuple[Entry, Guard | None]:
        """The entry of a state to which the user of `request` may do `action`, by the class's rule and `rule`.

        The guard asks again, where the answer depends on the state, which may be another one when its lock is had.
        Raises as `get_state`.
        """
        self.config_of(cls)
        context = self.context(request)
        return await self.resolve_as(
            await context.user(), context, action, cls,
            rule=rule, component_id=component_id, record_id=record_id, initial=initial,
        )  # fmt: skip

    async def resolve_as(
        self,
        user: UserContext | None,
        context: RequestContext,
        action: str,
        cls: type[ReactiveState],
        *,
        rule: AccessRule = OPEN,
        component_id: Id | None = None,
        record_id: Id | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> tuple[Entry, Guard | None]:
        """As `resolve_for`, for the request's `user`, who has been loaded."""
        config = self.config_of(cls)
        context.refuse_foreign()
        context.mark_personal()
        if current_user.get() is not user:
            current_user.set(user)
        if config.gate.restricts or rule.restricts:  # before a state is made for nothing
            await authorize(user, config.gate | replace(rule, owner_only=False))
        if config.scope is StateScope.USER and user is None:
            raise AuthenticationError(f"{config.state_name} belongs to a user: sign in")
        identifier = self._identify(cls, config, context, user, component_id, record_id)
        whole = config.rule | rule if rule.restricts else config.rule
        is_guarded = whole.check is not None or whole.owner_only
        # What an event or `modify` changes comes with its lock as it is stored: it need not be looked up before.
        lookup: Lookup = "now" if action == READ else "if new" if is_guarded else "with lock"
        entry = self.registry.find(identifier.key) if lookup == "with lock" and not context.fresh_session else None
        if entry is None or type(entry.state) is not config.state_cls:
            entry = await self._entry(identifier, config, initial, fresh=context.fresh_session, lookup=lookup)
        elif identifier.session_id is not None:
            self.registry.lifetimes.keep_for(entry, config.ttl)  # its use counts when its lock is given back
        if not whole.restricts:
            return entry, None
        guard = Guard(entry, entry.state, lambda state: self._ask(user, config, whole, state, action))
        if action == READ and context.asked.get(identifier.key) is entry.state:
            return entry, guard
        try:
            await guard.ask(guard.asked)
        except AccessError:
            if lookup != "if new" or (entry := await self._entry(identifier, config)).state is guard.asked:
                raise
            guard = Guard(entry, entry.state, guard.ask)  # what was asked about was older than what is stored
            await guard.ask(guard.asked)
        if action == READ and config.authorize is not None:
            context.asked[identifier.key] = guard.asked
        return entry, guard if is_guarded else None

    async def _ask(
        self, user: UserContext | None, config: StateConfig, rule: AccessRule, state: ReactiveState, action: str
    ) -> None:
        asking = authorize(user, rule, state, action, config.owner_of(state) if rule.owner_only else None)
        seconds = self.registry.locks.timeout
        try:
            await in_time(seconds, asking)
        except TooLate as error:
            raise LockTimeoutError(f"the rule of {config.state_name} took more than {seconds:g} s") from error
        current_user.set(user)  # the rule may have asked another provider, which knows this request's user by another

    async def still_readable(self, context: RequestContext, entries: Iterable[Entry]) -> None:
        """Asks again about those states that have changed since the request's user was found to be allowed to read.

        When it returns, nothing has been awaited since the last of them was asked about. Where commits come faster than
        the rule answers, `context.asked` has the last snapshot that may be shown, and the state is newer already.
        Raises `AccessError`, and `LockTimeoutError` where the rule does not answer.
        """
        checked = [entry for entry in entries if self.config_of(type(entry.state)).authorize is not None]
        for _ in range(READ_TRIES):
            changed = [e for e in checked if context.asked.get(e.identifier.key) is not e.state]
            if not changed:
                return
            await self._ask_to_read(context, changed)

    async def _ask_to_read(self, context: RequestContext, entries: Iterable[Entry]) -> None:
        for entry in entries:
            state, config = entry.state, self.config_of(type(entry.state))
            await self._ask(await context.user(), config, config.rule, state, READ)
            context.asked[entry.identifier.key] = state

    async def _entry(
        self,
        identifier: StateIdentifier,
        config: StateConfig,
        initial: Mapping[str, Any] | None = None,
        *,
        fresh: bool = False,
        lookup: Lookup = "now",
    ) -> Entry:
        loop = asyncio.get_running_loop()
        if loop is not self._loop and not is_for_scripts(loop):
            self._loop = loop
        ttl = config.ttl
        if fresh and identifier.session_id is not None:
            ttl = min(FRESH_TTL, FRESH_TTL if ttl is None else ttl)
        cls, registry = self._names[identifier.cls_name], self.registry
        entry = registry.in_memory(identifier, cls)
        if entry is None and lookup == "with lock" and config.create is None and not initial and self.cluster.is_shared:
            entry = registry.unseen(identifier, cls, ttl)
        elif entry is not None and lookup == "now":
            entry = await self._up_to_date(entry)
        if entry is None:
            entry = await registry.entry(identifier, cls, ttl=ttl, create=config.create, initial=initial)
        if identifier.session_id is not None:
            registry.lifetimes.keep_for(entry, ttl)
        return entry

    async def _up_to_date(self, entry: Entry) -> Entry | None:
        """A state in memory with what other processes have changed of it; None when it is no more."""
        if entry.persistence is not None and not self.cluster.is_current(entry.identifier.key):
            await self.cluster.freshen([entry])
        return entry if entry.end is None else None

    async def is_kept(self, identifier: StateIdentifier, *, lookup: Lookup = "now") -> bool:
        """Whether there is a state of this identifier, in memory or where its class is kept; none is made."""
        entry = self.registry.find(identifier.key)
        if entry is not None and (lookup != "now" or await self._up_to_date(entry) is not None):
            return True
        persistence = self.registry.persistence.get(self._names[identifier.cls_name])
        return persistence is not None and await persistence.load(identifier) is not None

    def identify(
        self, cls: type[ReactiveState], context: RequestContext, user: UserContext | None, instance_id: str | None
    ) -> StateIdentifier:
        """The identifier of the state that a page of this session and `user` calls by `instance_id`.

        Raises `IdentifierError` where there can be none.
        """
        config = self.config_of(cls)
        ids = {"record_id" if config.scope is StateScope.RECORD else "component_id": instance_id}
        return self._identify(cls, config, context, user, ids.get("component_id"), ids.get("record_id"))

    def _identify(
        self,
        cls: type[ReactiveState],
        config: StateConfig,
        context: RequestContext,
        user: UserContext | None,
        component_id: Id | None,
        record_id: Id | None,
    ) -> StateIdentifier:
        scope = config.scope
        is_users = config.on_login == "to_user" and user is not None
        if scope is StateScope.SESSION and not is_users:
            return session_identifier(config.state_name, cast(str, context.session_id(make=True)))
        if scope is StateScope.COMPONENT and component_id is None:
            raise IdentifierError(
                f"{config.state_name} is a component state; say which one: Annotated[{cls.__name__}, "
                "Component('left')], or get_state(…, component_id=…)"
            )
        if scope is StateScope.TEMPORARY and component_id is None:
            context.temporary_id = context.temporary_id or secrets.token_urlsafe(9)
            component_id = context.temporary_id
        if scope is StateScope.RECORD and record_id is None:
            record_id = self._record_id(cls, config, context.connection.path_params)
        needs_session = scope in (StateScope.COMPONENT, StateScope.TEMPORARY)
        return config.identifier(
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
                f"{config.state_name} is a record state; its id is neither given nor in the path "
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
    ) -> Modify[S]:
        """A transaction: `async with provider.modify(Cart, request) as cart:` (plain `with` outside the event loop).

        With a request, the state that it means, under its user's rights (the action "modify"); without one, the state
        of the given ids, with no rights asked. The block gets a working copy, committed when it ends; an exception
        leaves no trace. Raises what `get_state` raises, `LockTimeoutError`, and `EventError` when the new values do not
        validate.
        """
        config = self.config_of(state_cls)

        async def find() -> tuple[Entry, Guard | None]:
            if request is not None:
                return await self.resolve_for(
                    MODIFY, state_cls, request, component_id=component_id, record_id=record_id
                )
            identifier = config.identifier(
                user_id=user_id, session_id=session_id, component_id=component_id, record_id=record_id
            )
            return await self._entry(identifier, config, lookup="with lock"), None

        still_current = (lambda: self.context(request).refuse_outdated()) if request is not None else lambda: None
        return Modify(self.registry, lambda: self._loop, find, still_current)

    def refresh(
        self,
        state_cls: type[ReactiveState],
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> Awaitable[bool]:
        """Loads a state again that other code has changed where it is kept; gives True when it was another.

        `await provider.refresh(ProductState, record_id=5)`; in sync code a plain call. All pages follow; where the row
        is no more, they are told so. Raises `PersistenceError`, `LockTimeoutError`, and what `get_state` raises for
        ids and unregistered classes.
        """
        config = self.config_of(state_cls)
        identifier = config.identifier(
            user_id=user_id, session_id=session_id, component_id=component_id, record_id=record_id
        )

        caller = identity_here()

        async def refresh() -> bool:
            entry = await self.registry.known(identifier)
            if entry is None and self.cluster.is_shared and config.records is not None:
                try:  # others may have it, and are told by who has its lock
                    entry = await self._entry(identifier, config)
                except StateNotFoundError:
                    await self.cluster.deleted(identifier, self.registry.persistence.get(config.state_cls or state_cls))
            if entry is None:
                return False  # it will be loaded as it is when somebody asks for it
            if caller is not None and entry.owner is caller:
                raise LockTimeoutError(f"{identifier.key} is being changed by this event itself: refresh it afterwards")
            before = entry.state
            try:
                async with self.registry.locked([entry]):
                    await self.cluster.renew(entry)
                    is_another = await self.registry.committer.reload(entry)
                    return is_another or (self.cluster.is_shared and entry.state is not before)
            except StateNotFoundError:
                await self.cluster.deleted(identifier, entry.persistence)
                return True

        return call_from_anywhere(lambda: self._loop, refresh())

    def delete(
        self,
        state_cls: type[ReactiveState],
        *,
        user_id: Id | None = None,
        session_id: Id | None = None,
        component_id: Id | None = None,
        record_id: Id | None = None,
    ) -> Awaitable[None]:
        """Deletes a state for good, with what is stored of it or with its row; there being none is no error.

        `await provider.delete(Profile, user_id=7)`; in sync code a plain call. Pages that show it are told so, and no
        rights are asked. Raises as `refresh`.
        """
        config = self.config_of(state_cls)
        identifier = config.identifier(
            user_id=user_id, session_id=session_id, component_id=component_id, record_id=record_id
        )
        persistence = self.registry.persistence.get(config.state_cls or state_cls)

        caller = identity_here()

        async def delete() -> None:
            entry = await self.registry.known(identifier)
            if entry is not None:
                await self.cluster.freshen([entry])
                entry = await self.registry.known(identifier)
            is_own = entry is not None and caller is not None and entry.owner is caller
            async with self.registry.locked([entry] if entry is not None else [], caller):
                if persistence is not None:
                    await persistence.delete(identifier)
                    await self.cluster.deleted(identifier, persistence)
                # Somebody may have begun to load it before it was deleted.
                for found in (entry, await self.registry.known(identifier)):
                    if found is not None and found.end is None:
                        self.registry.remove(found, StateEnd.DELETED_BY_ITS_EVENT if is_own else StateEnd.DELETED)

        return call_from_anywhere(lambda: self._loop, delete())

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Runs an event from server code; `state.<event>.run(...)` calls it."""
        run = _OwnRun()
        try:
            await self._run(identifier, cls, event, arguments, run)
        except OutdatedError:
            if run.has_locks:
                raise
            await self._run(identifier, cls, event, arguments, run)
        self.events += 1
        return run.results if event.kind == "generator" else run.results[0]

    async def _run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
        run: _OwnRun,
    ) -> None:
        """As `run`, once."""
        config = self.config_of(cls)
        entry = await self._entry(identifier, config, lookup="with lock")
        accepted = event.arguments.accept(arguments, wait=self.registry.locks.timeout)
        values = event.arguments.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
        others = {}
        for parameter in event.arguments.states:
            other = self.config_of(parameter.cls)
            ids = taken_ids(parameter, identifier, values)
            others[parameter.name] = await self._entry(
                other.identifier(user_id=identifier.user_id, session_id=identifier.session_id, **ids),
                other,
                lookup="with lock",
            )
        await run_event(self.registry, entry, event, values, others, run, limit=self.event_timeout)

    # -- users and their rights ------------------------------------------------------------------------------------

    def login(self, request: HTTPConnection, user: UserContext) -> Awaitable[None]:
        """Signs `user` in: `await provider.login(request, user)`; in a sync handler a plain call.

        The session gets a new id and the user's id (as `session["user_id"]`), so whoever knew the old one has nothing;
        an old copy of the cookie is nobody's. SESSION states go along as `StateConfig(on_login=...)` says; where
        another user was signed in they end, and so does all that was in the cookie. Other tabs load themselves again.

        Raises `TypeError` for what is no `UserContext`, `ConfigurationError` without sessions, `IdentifierError` from a
        websocket and for a user without a proper id, and what a merge hook raises; nobody is signed in then.
        """
        if not isinstance(user, UserContext):
            raise TypeError(f"login() takes a UserContext, not {type(user).__name__}")
        context = self.context(request)
        context.refuse_foreign()
        context.mark_personal()
        StateIdentifier(StateScope.USER, "User", user_id=user.id)  # or all users without an id would be "None"

        async def login() -> None:
            await self.sessions.login(context, user)

        return self._signed(login, user)

    def logout(self, request: HTTPConnection) -> Awaitable[None]:
        """Ends the session: `await provider.logout(request)`; in a sync handler a plain call.

        The cookie is emptied and its id ended on the server, so an old copy of it is nobody's. The session's states
        end, its streams fall silent at once, and its pages load themselves again. Raises `ConfigurationError` without
        sessions.
        """
        context = self.context(request)
        context.refuse_foreign()
        context.mark_personal()
        return self._signed(lambda: self.sessions.logout(context), None)

    def _signed(self, change: Callable[[], Any], user: UserContext | None) -> Awaitable[None]:
        async def changed() -> None:
            await change()
            current_user.set(user)

        done = call_from_anywhere(lambda: self._loop, changed())
        if isinstance(done, Settled):
            current_user.set(user)  # it was set on the loop, and this thread has a context of its own
        return done

    def disconnect_user(self, user_id: Id) -> Awaitable[int]:
        """Ends all streams of a user, whose pages load themselves again; gives how many (int) in this process.

        To be awaited; in sync code a plain call. Sessions stay: whether the user may come back is for the app's loader
        to say.
        """

        return call_from_anywhere(lambda: self._loop, self._change_rights(user_id, "disconnect"))

    def refresh_user(self, user_id: Id) -> Awaitable[int]:
        """Has all rights of a user be asked again, since they changed; gives the number (int) of streams in this
        process.

        To be awaited; in sync code a plain call. The streams fall silent at once and are opened anew, where the app's
        loader is asked; a state that the user may no longer see vanishes from the page.
        """

        return call_from_anywhere(lambda: self._loop, self._change_rights(user_id, "refresh"))

    def begin_event(self, client: str) -> bool:
        """Count one more event of a client (its session's id, or its address); False when it has too many already.

        Threads that go on with an event which was stopped count, too.
        """
        under_way = self._under_way.get(client, 0)
        if (under_way + left_behind(client) if with_left else under_way) >= self.max_events_per_session:
            return False
        self._under_way[client] = under_way + 1
        return True

    def _has_other_events(self, session_id: str) -> bool:
        """Tells whether events of a session are under way, besides the one that asks."""
        origin = origin_of_commits.get()
        is_own = origin is not None and origin.open and origin.session_id == session_id
        return self._under_way.get(session_id, 0) > is_own

    def end_event(self, client: str) -> None:
        """Count one event of a client less."""
        if (under_way := self._under_way.pop(client) - 1) > 0:
            self._under_way[client] = under_way

    async def _change_rights(self, user_id: Id, how: How) -> int:
        """Change a user's rights in all processes; an event may change those of its own user, and goes on."""
        streams = self.sessions.rights.change(user_id, how)
        request = current_request.get()
        if request is not None:
            self.context(request).accept_own_change()
        await self.sessions.rights.tell_others(user_id, how)
        return streams

    def is_revoked(self, session_id: str) -> bool:
        """Tells whether the session with this id was ended by `login` or `logout`, as far as this process knows.

        Of the session that a request came with it knows for certain; any other id may not have been looked up yet.
        """
        return self.sessions.ended.is_ended(session_id)

    def next_url(self, request: HTTPConnection, default: str = "/") -> str:
        """Where to go after signing in: the page (path and query, str) that sent the visitor to `login_route`.

        Only a path on this site is taken from the URL, everything else is `default`: a link to a login page must not
        lead to somebody else's site.
        """
        found = request.query_params.get("next", "")
        is_path = re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", found) is not None
        return found if is_path and len(found) <= MAX_NEXT else default

    def take_away(self, connection: SSEConnection, state: ReactiveState) -> None:
        """Has a state vanish from a page, and never be told to it again."""
        if connection.topic(state._committed.identifier.key) is None:
            return  # silenced, or told that the state is no more, while its user was being asked about
        frame = self._unfollow(connection, state)
        if connection.topics:
            connection.send_frame(frame)
        else:
            self.sse_manager.dismiss(connection, frame + reload_frame())

    def tell_removed(self, state: ReactiveState, reason: str) -> None:
        """Has a state vanish from all pages that show it; of a record that was there they say so, others load anew."""
        identifier = state._committed.identifier
        for connection in self.sse_manager.watchers(identifier.key):
            if connection.closed:
                continue
            frame = self._unfollow(connection, state)
            if identifier.scope is StateScope.RECORD:
                connection.send_frame(frame + message_frame(GONE, 404))
            else:
                self.sse_manager.dismiss(connection, frame + reload_frame())

    def _unfollow(self, connection: SSEConnection, state: ReactiveState) -> bytes:
        """Has a page be told nothing more of a state that it follows; the frames (bytes) that take it off the page."""
        committed = state._committed
        key = committed.identifier.key
        frame = vanish_frame(committed.namespace, type(state)._fs_schema().signals, connection.audience(key).views)
        self.sse_manager.unfollow(connection, key)
        return frame

    def shared_part(self, key: str) -> Shared | None:
        """What other processes have to do with the state under `key`, which is locked; None where it is not stored."""
        entry = self.registry.find(key)
        is_shared = entry is not None and entry.in_store and self.cluster.is_shared
        return entry.own_shared() if entry is not None and is_shared else None

    # -- the beginning and the end ---------------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """True between `start` and `stop`."""
        return self._started

    async def start(self) -> None:
        """Opens the store, which belongs to this process from now on; the app's start and its first request call it.

        Calls at the same time have one start together, and its error where it fails; the next call tries again.

        Code that uses the provider without it, a script, has the store for as long as each call takes. Raises
        `PersistenceError` when the store cannot be had, `NotStartedError` when `stop` gives up waiting for it.
        """
        while _is_here(self._ending):
            await asyncio.shield(self._ending)
        if self._started:
            return
        starting = self._starting
        if not _is_here(starting):
            # In a context of its own: what runs as long as the provider must not keep the request that came first.
            starting = self._starting = asyncio.get_running_loop().create_task(
                self._start(), name="faststate-start", context=contextvars.Context()
            )
            starting.add_done_callback(self._start_ended)
        await asyncio.wait([starting])  # one caller that goes away does not take the start from the others
        if starting.cancelled():
            raise NotStartedError("the provider was stopped while it started")
        starting.result()

    def _start_ended(self, starting: asyncio.Task[None]) -> None:
        if self._starting is starting:
            self._starting = None
        if not starting.cancelled():
            starting.exception()  # asked for, so that asyncio does not report it where nobody waits any more

    async def _start(self) -> None:
        if not isinstance(self.store, SharedStore):
            self._warn_of_other_processes()
        if self.store is not None:
            await self.store.open()
            self.registry.forget_stored()  # as it was before somebody else may have had the store
        await self.cluster.start()
        self._started = True
        self.registry.start()

    def _warn_of_other_processes(self) -> None:
        found = processes_found()
        if found is None:
            return
        logger.warning(
            "%s runs %s of this app, and %s. Run one process, or have them share their states in Redis: "
            "StateProvider(store='redis://localhost:6379')",
            found.by,
            f"{found.number} processes" if found.number is not None else "several processes",
            "each has states of its own: a tab sees those of the process that it happens to reach"
            if self.store is None
            else f"its store, {type(self.store).__name__}, is for one process",
        )

    async def stop(self) -> None:
        """Ends all streams (within 5 s) and the background work, and closes the store.

        For servers that are not stopped by a signal. The provider may be started again. Events under way end as they
        do when the server ends (`drain`), and a start that is under way is waited for.
        """
        while _is_here(self._ending):
            await asyncio.shield(self._ending)
        ending = self._ending = asyncio.get_running_loop().create_future()
        try:
            if _is_here(starting := self._starting):
                await asyncio.wait([starting], timeout=self.registry.committer.store_timeout)
                starting.cancel()  # whose store does not answer
                await asyncio.wait([starting])
            await asyncio.gather(self.sse_manager.stop(), self.registry.running.stop())
            await self.registry.stop()
            self._started = False
            await self.cluster.stop()
            if self.store is not None:
                await self.store.close()
        finally:
            self.registry.running.reopen()
            self._ending = None
            ending.set_result(None)

    def drain(self) -> None:
        """End all streams and events, since the server ends; call it on the event loop.

        Generator events end at their next step, other events may go on for 2.5 s. What waits then is stopped, and its
        step rolled back.
        """
        self.sse_manager.drain()
        self.registry.running.drain()

    def stats(self, *, everywhere: bool = False) -> Stats:
        """Counters of this process, at this moment; or, `everywhere`, the sums over all processes that share its store.

        What the others tell is up to two seconds old; `lag` is the longest of all.
        """
        if everywhere:
            told = [[found.get(name, 0) for name in Stats._fields] for found in self.cluster.others()]
            sums = Stats(*map(sum, zip(self.stats(), *told, strict=True)))
            return sums._replace(lag=max([self.stats().lag, *(each[Stats._fields.index("lag")] for each in told)]))
        manager = self.sse_manager
        return Stats(
            states=len(self.registry),
            connections=len(manager.connections),
            subscriptions=manager.fanout.subscriptions,
            commits=self.registry.commits,
            events=self.events,
            refused=self.refused,
            repeated=self.repeated,
            expired=self.registry.lifetimes.expired,
            connections_total=manager.total,
            coalesced=manager.fanout.coalesced,
            bytes_sent=manager.fanout.sent_bytes,
            evicted=self.registry.lifetimes.evicted,
            saves=self.registry.committer.saves,
            kept_aside=sum(persistence.kept_aside for persistence in self.registry.persistence.values()),
            behind=len(manager.behind),
            lag=manager.lag,
            cut=manager.cut,
        )
