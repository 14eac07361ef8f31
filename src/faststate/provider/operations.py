"""Operations of server code on states: modify, refresh, delete, run an event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..auth.rules import MODIFY
from ..cluster.base import AppCluster
from ..exceptions import LockTimeoutError, StateNotFoundError
from ..registry.calling import call_from_anywhere
from ..registry.ends import StateEnd
from ..registry.entries import Entry
from ..registry.locks import identity_here
from ..registry.modify import Modify
from ..registry.outdated import retry_outdated
from ..registry.registry import StateRegistry
from ..registry.run_event import EventCaller, Step, run_event
from ..registry.transaction import Guard
from ..scopes import StateIdentifier
from ..sessions.config import Ids
from ..state.events import Event
from ..state.reactive import ReactiveState
from .context import RequestContext
from .lifecycle import AppLoop
from .options import Options
from .registrations import Registrations
from .resolve import Resolver, taken_ids
from .stats import Counters

__all__ = ["Operations"]

S = TypeVar("S", bound=ReactiveState)


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """Changes states for server code. Lifetime: the provider."""

    registry: StateRegistry
    cluster: AppCluster
    registrations: Registrations
    resolver: Resolver
    loop: AppLoop
    counters: Counters
    options: Options

    def modify(self, cls: type[S], ids: Ids, context: Callable[[], RequestContext] | None) -> Modify[S]:
        """Return a transaction on a state; see `StateProvider.modify`. `context` returns the request's, if any."""
        config = self.registrations.config_of(cls)

        async def find() -> tuple[Entry, Guard | None]:
            if context is None:
                return await self.resolver.entry(config.identifier(ids), config, lookup="with lock"), None
            asking = context()
            return await self.resolver.allowed(asking, await asking.identity(), MODIFY, cls, ids)

        still_current = (lambda: context().refuse_outdated()) if context is not None else lambda: None
        return Modify(self.registry, self.loop, find, still_current)

    def refresh(self, cls: type[ReactiveState], ids: Ids) -> Awaitable[bool]:
        """Load a state again that other code has changed; see `StateProvider.refresh`."""
        config = self.registrations.config_of(cls)
        identifier, caller = config.identifier(ids), identity_here()

        async def refresh() -> bool:
            entry = await self.registry.known(identifier)
            if entry is None and self.cluster.is_shared and config.records is not None:
                try:  # others may have it, and are told by whoever has its lock
                    entry = await self.resolver.entry(identifier, config)
                except StateNotFoundError:
                    await self.cluster.deleted(identifier, self.registry.persistence.get(config.state_cls or cls))
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

        return call_from_anywhere(self.loop, refresh())

    def delete(self, cls: type[ReactiveState], ids: Ids) -> Awaitable[None]:
        """Delete a state for good; see `StateProvider.delete`."""
        config = self.registrations.config_of(cls)
        identifier, caller = config.identifier(ids), identity_here()
        persistence = self.registry.persistence.get(config.state_cls or cls)

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

        return call_from_anywhere(self.loop, retry_outdated(delete))

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Run an event for server code, and return its result, or those of a generator's steps."""
        run = _ServerEvent()
        await retry_outdated(lambda: self._run(identifier, cls, event, arguments, run))
        self.counters.events += 1
        return run.results if event.kind == "generator" else run.results[0]

    async def _run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
        run: _ServerEvent,
    ) -> None:
        config_of, find = self.registrations.config_of, self.resolver.entry
        entry = await find(identifier, config_of(cls), lookup="with lock")
        accepted = event.arguments.accept(arguments, wait=self.registry.locks.timeout)
        values = event.arguments.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
        others = {}
        for parameter in event.arguments.states:
            config = config_of(parameter.cls)
            other = config.identifier(taken_ids(parameter, identifier, values))
            others[parameter.name] = await find(other, config, lookup="with lock")
        await run_event(self.registry, entry, event, values, others, run, limit=self.options.event_timeout)


class _ServerEvent(EventCaller):
    """An event that server code runs; collects the `results` of its steps. Lifetime: the event."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def take(self, step: Step) -> None:
        if not step.closing:
            self.results.append(step.result)
