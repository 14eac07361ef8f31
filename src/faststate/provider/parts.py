"""The parts of a provider: made here, and handed to each other."""

from __future__ import annotations

from functools import partial
from typing import cast

from ..auth.loaders import UserFinder
from ..cluster.base import AppCluster, News
from ..cluster.shared import SharedCluster
from ..registry.registry import StateRegistry
from ..sessions.rechecks import Rechecks
from ..sessions.sessions import Sessions
from ..sse.manager import SSEManager
from ..state.serving import ServingProvider
from ..stores.base import SharedStore, StateStore
from ..stores.urls import store_from_url
from .hooks import ClusterNews, PageFollowers, ProviderStreamHooks, RequestClientFinder
from .initiator import current_initiator
from .lifecycle import AppLoop, Lifecycle
from .options import Options
from .page_tokens import PageTokens
from .registrations import Registrations
from .stats import Counters
from .throttle import Throttle


class Parts:
    """The parts of one provider, in the order in which they are made. Lifetime: the provider.

    `serving` is the provider, as the states and events of its classes know it.
    """

    def __init__(self, options: Options, serving: ServingProvider) -> None:
        self.options = options
        self.loop = AppLoop()
        self.counters = Counters()
        self.users = UserFinder(options.user_loader, options.load_user_by_id, options.user_timeout)
        self.throttle = Throttle(options)
        self.tokens = PageTokens(options, self.throttle)
        followers = PageFollowers(self)
        self.registry = StateRegistry(
            followers,
            RequestClientFinder(),
            partial(_join_cluster, options.store, ClusterNews(self)),
            serving=serving,
            clock=options.clock,
            lock_timeout=options.lock_timeout,
            store_timeout=options.store_timeout,
            max_states=options.max_states,
            max_states_per_session=options.max_states_per_session,
            max_states_per_address=options.max_states_per_address,
        )
        self.cluster = cast(AppCluster, self.registry.cluster)  # as `_join_cluster` has made it
        self.registrations = Registrations(self.registry, self.cluster, keeps_all=options.store is not None)
        self.sse_manager = SSEManager(
            ProviderStreamHooks(self), heartbeat=options.heartbeat, max_age=options.stream_max_age
        )
        self.rechecks = Rechecks(
            self.sse_manager,
            self.registrations.config_of,
            followers.take_from,
            self.registry.peek,
            options.lock_timeout,
        )
        self.sessions = Sessions(
            self.registry,
            self.cluster,
            self.sse_manager,
            self.registrations.config_named,
            self._has_other_events,
            options.clock,
        )
        self.lifecycle = Lifecycle(self.registry, self.cluster, self.sse_manager)

    def _has_other_events(self, session_id: str) -> bool:
        """True if events of a session are under way, apart from the one that asks."""
        own = current_initiator()
        return self.throttle.under_way(session_id) > (own is not None and own.session_id == session_id)


def _join_cluster(store: str | StateStore | None, news: News, registry: StateRegistry) -> AppCluster:
    """Decide whether the app is one process or many: only here."""
    opened = store_from_url(store) if isinstance(store, str) else store
    if isinstance(opened, SharedStore):
        return SharedCluster(opened, registry, news)
    return AppCluster(opened, registry.store_timeout)
