"""The parts of a provider: made here, and handed to each other."""

from __future__ import annotations

from functools import partial

from ..auth.loaders import UserFinder
from ..cluster.base import AppCluster
from ..cluster.local import LocalCluster
from ..cluster.shared import SharedCluster
from ..registry.registry import StateRegistry
from ..sessions.rechecks import Rechecks
from ..sessions.sessions import Sessions
from ..sse.manager import SSEManager
from ..state.serving import ServingProvider
from ..stores.base import SharedStore, StateStore
from ..stores.urls import store_from_url
from .dispatch import Dispatcher
from .follow import Follower, Removal
from .hooks import ClusterNews, PageFollowers, ProviderStreamHooks
from .lifecycle import AppLoop, Lifecycle
from .operations import Operations
from .options import Options
from .origin import CurrentCallers
from .page_event import EventParts
from .page_tokens import PageTokens
from .registrations import Registrations
from .resolve import Resolver
from .stats import Counters
from .throttle import Throttle

__all__ = ["Parts"]


class Parts:
    """The parts of one provider, in the order in which they are made. Lifetime: the provider.

    `serving` is the provider, as the states and events of its classes know it.
    """

    cluster: AppCluster

    def __init__(self, options: Options, serving: ServingProvider) -> None:
        self.options = options
        self.loop = AppLoop()
        self.counters = Counters()
        self.users = UserFinder(options.user_loader, options.load_user_by_id, options.user_timeout)
        self.throttle = Throttle(options)
        self.tokens = PageTokens(options, self.throttle)
        self.registry = StateRegistry(
            PageFollowers(self),
            CurrentCallers(),
            partial(self._join_cluster, options.store),
            serving=serving,
            clock=options.clock,
            lock_timeout=options.lock_timeout,
            store_timeout=options.store_timeout,
            max_states=options.max_states,
            max_states_per_session=options.max_states_per_session,
            max_states_per_address=options.max_states_per_address,
        )
        self.registrations = Registrations(self.registry, self.cluster, keeps_all=options.store is not None)
        self.sse_manager = SSEManager(
            ProviderStreamHooks(self), heartbeat=options.heartbeat, max_age=options.stream_max_age
        )
        self.removal = Removal(self.sse_manager)
        self.rechecks = Rechecks(
            self.sse_manager,
            self.registrations.config_of,
            self.removal.take_from,
            self.registry.peek,
            options.lock_timeout,
        )
        self.sessions = Sessions(
            self.registry,
            self.cluster,
            self.sse_manager,
            self.registrations.config_named,
            self.throttle.has_other_events,
            options.clock,
        )
        self.resolver = Resolver(self.registry, self.cluster, self.registrations, self.loop)
        self.follower = Follower(
            self.registry,
            self.cluster,
            self.sse_manager,
            self.sessions,
            self.rechecks,
            self.registrations,
            self.resolver,
            self.tokens,
            self.throttle,
        )
        event_parts = EventParts(
            self.registry,
            self.cluster,
            self.sse_manager,
            self.sessions,
            self.registrations,
            self.resolver,
            self.follower,
            self.counters,
        )
        self.dispatcher = Dispatcher(event_parts, self.tokens, options)
        self.operations = Operations(
            self.registry, self.cluster, self.registrations, self.resolver, self.loop, self.counters, options
        )
        self.lifecycle = Lifecycle(self.registry, self.cluster, self.sse_manager)

    def _join_cluster(self, store: str | StateStore | None, registry: StateRegistry) -> AppCluster:
        """Decide whether the app is one process or many: only here."""
        opened = store_from_url(store) if isinstance(store, str) else store
        if isinstance(opened, SharedStore):
            self.cluster = SharedCluster(opened, registry, ClusterNews(self))
        else:
            self.cluster = LocalCluster(opened, registry.store_timeout)
        return self.cluster
