"""The options of a provider, validated once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ..auth.loaders import LoadUserById, UserLoader
from ..exceptions import ConfigurationError
from ..state.events import is_time_limit
from ..stores.base import StateStore

DATASTAR_SRC: Final = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.2/bundles/datastar.js"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of one provider; their defaults are in its signature. Lifetime: the provider.

    - `user_loader`: a callable, sync or async, from request to `UserContext | None`. Without one, a `UserContext` in
      `scope["auth"]` or `scope["user"]` is taken, else an id in `scope["auth"]` or `session["user_id"]` goes to
      `load_user_by_id` (a callable, sync or async); without that, the id is a user with no roles. See `UserFinder`. A
      sync one runs in a thread. Either has `user_timeout` seconds to answer.
    - `store`: where states outlive the process: "sqlite:///state.db", "redis://host:6379/0" for many processes, or a
      `StateStore`. The environment variable `FASTSTATE_STORE` overrides it. Every class is kept there except those with
      `StateConfig(in_memory=True)`. Without a store, those with `auto_persist=True` are kept in `faststate.db`, and the
      others live in memory. `store_timeout` (seconds) is how long the store may take to answer, `max_states` how many
      states are held in memory.
    - `login_route`: URL path that a page is redirected to if it asks for a state that needs somebody signed in, with
      the page's own path as `?next=` (see `next_url`). Without it such a page is a 401.
    - `secret_key`: str, or a list of str (oldest first) to rotate; signs page tokens. By default the app's own.
    - `prefix`: URL path of the library's routes.
    - `datastar_src`: URL of Datastar 1.0's bundle, or the path of a local copy, which is then served. The environment
      variable `FASTSTATE_DATASTAR_SRC` overrides it.
    - `offline`: what a page says that has lost the server for some seconds: a text, True for our own, False for none.
    - `max_payload` (bytes) and `max_depth` (levels) bound what an event or a stream's request may carry, `body_timeout`
      (seconds) how long it may take to arrive.
    - `event_rate` (events per second) and `event_burst` (events at once) bound what one session may send,
      `address_event_rate` and `address_event_burst` what all sessions of one client address may send; by default ten
      times as much. `stream_rate`, `stream_burst`, `address_stream_rate` and `address_stream_burst` do the same for
      streams that are opened; by default all that may be open at a time can come back at once, and once more.
      `max_states_per_session` bounds how many states a session may keep. `max_states_per_address` bounds how many
      states changed by visitors from one address are held only in memory; by default a tenth of `max_states`, for
      public addresses. `max_streams_per_session` and `max_streams_per_address` bound the tabs that follow states at a
      time. A client beyond these bounds gets a 429; an address beyond its bound of states loses some from memory.
      Behind a proxy the server must be told the clients' addresses (uvicorn: `--forwarded-allow-ips`), or all of them
      count as one. An IPv6 network of 64 bits counts as one address.
    - `transport`: "auto" writes streams past ASGI where the server is uvicorn with HTTP/1.1, which costs least;
      "portable" never does. The environment variable `FASTSTATE_TRANSPORT` overrides it.
    - `event_timeout` (seconds; None for no limit) is how long an event may take that has no `@event(timeout=...)`, from
      when it has its locks. `max_events_per_session` bounds the events that one session (without one, one address) may
      have under way in a process at a time: beyond that there is a 429.
    - `lock_timeout` (how long an event waits for a lock or a worker thread), `heartbeat`, `write_timeout`,
      `token_max_age` and `stream_max_age` (after which a page opens its stream again, and its rights are asked again)
      are seconds; `clock` returns monotonic seconds.
    """

    store: str | StateStore | None = field(repr=False)  # its URL may hold a password
    user_loader: UserLoader | None
    load_user_by_id: LoadUserById | None
    user_timeout: float
    login_route: str | None
    secret_key: str | Sequence[str] | None = field(repr=False)
    prefix: str
    datastar_src: str
    offline: str | bool
    max_payload: int
    max_depth: int
    body_timeout: float
    event_rate: float
    event_burst: int
    address_event_rate: float | None
    address_event_burst: int | None
    stream_rate: float
    stream_burst: int | None
    address_stream_rate: float | None
    address_stream_burst: int | None
    max_states: int
    max_states_per_session: int
    max_states_per_address: int | None
    max_streams_per_session: int
    max_streams_per_address: int
    max_events_per_session: int
    event_timeout: float | None
    lock_timeout: float
    store_timeout: float
    heartbeat: float
    write_timeout: float
    transport: Literal["auto", "portable"]
    token_max_age: int
    stream_max_age: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        for name, variable in _VARIABLES.items():
            if found := os.environ.get(variable):
                object.__setattr__(self, name, found)
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", self.prefix):
            raise ConfigurationError(f"prefix must be a URL path like '/_faststate', not {self.prefix!r}")
        route = self.login_route
        if route is not None and (not route.startswith("/") or route.startswith("//")):
            raise ConfigurationError(f"login_route must be a URL path like '/login', not {route!r}")
        for name in ("user_timeout", "body_timeout", "store_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is in seconds, above 0, not {getattr(self, name)!r}")
        for name in ("max_states", "max_states_per_address"):
            if (most := getattr(self, name)) is not None and not most > 0:
                raise ConfigurationError(f"{name} is at least 1, not {most!r}")
        if not is_time_limit(self.event_timeout):
            raise ConfigurationError(
                f"event_timeout is in seconds, above 0, or None for no limit, not {self.event_timeout!r}"
            )
        if type(self.max_events_per_session) is not int or self.max_events_per_session < 1:
            raise ConfigurationError(f"max_events_per_session is at least 1, not {self.max_events_per_session!r}")
        if self.transport not in ("auto", "portable"):
            raise ConfigurationError(f"transport is 'auto' or 'portable', not {self.transport!r}")
        if self.store is not None and not isinstance(self.store, str | StateStore):
            raise ConfigurationError(f"store is a URL like 'sqlite:///state.db' or a StateStore, not {self.store!r}")


_VARIABLES: Final = {
    "store": "FASTSTATE_STORE",
    "datastar_src": "FASTSTATE_DATASTAR_SRC",
    "transport": "FASTSTATE_TRANSPORT",
}
"""Options that an environment variable overrides."""
