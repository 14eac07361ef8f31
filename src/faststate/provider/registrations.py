"""The state classes that a provider has registered, with their configs and names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ..cluster.base import AppCluster
from ..exceptions import ConfigurationError, StateNotRegisteredError
from ..registry.persistence import RecordPersistence, StorePersistence
from ..registry.registry import StateRegistry
from ..sessions.config import StateConfig, check_taken
from ..state.field_types import refuse_field_types
from ..state.reactive import ReactiveState
from ..stores.urls import store_from_url

logger = logging.getLogger("faststate")

DEFAULT_STORE: Final = "sqlite:///faststate.db"
"""Where `auto_persist=True` keeps states when no store was named: beside FastHTML's `.sesskey`, where the app runs."""


class Registrations:
    """The state classes of one provider. Lifetime: the provider.

    `keeps_all` says that a store was named, which keeps every class that does not opt out.
    """

    def __init__(self, registry: StateRegistry, cluster: AppCluster, *, keeps_all: bool) -> None:
        self._registry = registry
        self._cluster = cluster
        self._keeps_all = keeps_all
        self._names: dict[str, type[ReactiveState]] = {}
        self.configs: dict[type[ReactiveState], StateConfig] = {}

    def add(self, state_cls: type[ReactiveState], config: StateConfig) -> None:
        """Register a class; see `StateProvider.register_state`."""
        if not (isinstance(state_cls, type) and issubclass(state_cls, ReactiveState)):
            raise ConfigurationError(f"{state_cls!r} is not a ReactiveState class")
        if state_cls in self.configs:
            raise ConfigurationError(f"{state_cls.__name__} is registered already")
        config = config.for_class(state_cls)
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
        self._keep(state_cls, config)
        self.configs[state_cls] = config
        self._names[name] = state_cls

    def _keep(self, state_cls: type[ReactiveState], config: StateConfig) -> None:
        """Set where the states of a class outlive the process, if anywhere."""
        cluster, persistence = self._cluster, self._registry.persistence
        if config.auto_persist and cluster.store is None:
            cluster.store = store_from_url(DEFAULT_STORE)
            for other in persistence.values():
                other.use_store(cluster.store)
        store, seconds = cluster.store, self._registry.store_timeout
        if config.records is not None:
            persistence[state_cls] = RecordPersistence(
                config.records, state_cls, seconds, config.to_state, config.to_row, store
            )
        elif store is not None and not config.in_memory and (self._keeps_all or config.auto_persist):
            persistence[state_cls] = StorePersistence(store, state_cls, seconds)

    def _check_taken(self, added: type[ReactiveState], config: StateConfig) -> None:
        """Check the events of the class to be `added`, and the events of others that take it, in whatever order they
        are registered. Raises `ConfigurationError`."""
        known = {**self.configs, added: config}
        for cls, own in known.items():
            for event in cls._fs_schema().events.values():
                for parameter in event.arguments.states:
                    taken = known.get(parameter.cls)
                    if taken is not None and (cls is added or parameter.cls is added):
                        check_taken(own, event.name, parameter, taken)

    def config_of(self, cls: type[ReactiveState]) -> StateConfig:
        """Return the class's config. Raises `StateNotRegisteredError` (also a `ValueError`)."""
        config = self.configs.get(getattr(cls, "_full_class", None) or cls)
        if config is None:
            name = cls.__name__ if isinstance(cls, type) else repr(cls)
            raise StateNotRegisteredError(f"State {name} not registered: call register_state({name}, …)")
        return config

    def class_named(self, name: str) -> type[ReactiveState] | None:
        """Return the class registered under `name`, or None."""
        return self._names.get(name)

    def config_named(self, name: str) -> StateConfig | None:
        """Return the config of the class registered under `name`, or None."""
        cls = self._names.get(name)
        return self.configs[cls] if cls is not None else None

    def are_current(self, fingerprints: Mapping[str, object]) -> bool:
        """True if these fingerprints of a page, by the names of its classes, are those of the code that serves it."""
        for name, fingerprint in fingerprints.items():
            cls = self._names.get(name)
            if cls is None or cls._fs_schema().fingerprint != fingerprint:
                return False
        return True

    def classes(self) -> Mapping[str, type[ReactiveState]]:
        """Return the registered classes by their names in Python."""
        return {cls.__name__: cls for cls in self.configs}
