"""Operations of server code: change states, run their events, sign users in and out, change their rights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from ..auth.rules import MODIFY
from ..auth.users import UserContext, current_request, current_user
from ..cluster.messages import How
from ..exceptions import LockTimeoutError, StateNotFoundError
from ..registry.ends import StateEnd, retry_outdated
from ..registry.entries import Entry
from ..registry.locks import identity_here
from ..registry.modify import Modify
from ..registry.run_event import EventCaller, Step, run_event
from ..registry.sync_calls import call_from_anywhere
from ..registry.transaction import Guard
from ..scheduling.waits import Done
from ..scopes import Id, StateIdentifier, StateScope
from ..sessions.config import Ids
from ..state.events import Event
from ..state.reactive import ReactiveState
from .context import RequestContext
from .parts import Parts
from .resolve import Resolver, taken_ids

S = TypeVar("S", bound=ReactiveState)


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """Does for server code, from the event loop and from threads, what pages do by events. Lifetime: the provider.

    `context` returns the context of a request.
    """

    parts: Parts
    resolver: Resolver
    context: Callable[[HTTPConnection], RequestContext]

    # -- states ----------------------------------------------------------------------------------------------------

    def modify(self, cls: type[S], ids: Ids, request: HTTPConnection | None) -> Modify[S]:
        """Return a transaction on a state; see `StateProvider.modify`."""
        config = self.parts.registrations.config_of(cls)

        async def find() -> tuple[Entry, Guard | None]:
            if request is None:
                return await self.resolver.entry(config.identifier(ids), config, lookup="with lock"), None
            asking = self.context(request)
            return await self.resolver.allowed_entry(asking, await asking.identity(), MODIFY, cls, ids)

        def still_current() -> None:
            if request is not None:
                self.context(request).refuse_outdated()

        return Modify(self.parts.registry, self.parts.loop, find, still_current)

    def refresh(self, cls: type[ReactiveState], ids: Ids) -> Awaitable[bool]:
        """Load a state again that other code has changed; see `StateProvider.refresh`."""
        registry, cluster = self.parts.registry, self.parts.cluster
        config = self.parts.registrations.config_of(cls)
        identifier, caller = config.identifier(ids), identity_here()

        async def refresh() -> bool:
            entry = await registry.known(identifier)
            if entry is None and cluster.is_shared and config.records is not None:
                try:  # others may have it, and are told by whoever has its lock
                    entry = await self.resolver.entry(identifier, config)
                except StateNotFoundError:
                    await cluster.deleted(identifier, registry.persistence.get(config.state_cls or cls))
            if entry is None:
                return False  # it will be loaded as it is when somebody asks for it
            if caller is not None and entry.owner is caller:
                raise LockTimeoutError(f"{identifier.key} is being changed by this event itself: refresh it afterwards")
            before = entry.state
            try:
                async with registry.locked([entry]):
                    await cluster.renew(entry)
                    is_another = await registry.committer.reload(entry)
                    return is_another or (cluster.is_shared and entry.state is not before)
            except StateNotFoundError:
                await cluster.deleted(identifier, entry.persistence)
                return True

        return call_from_anywhere(self.parts.loop, refresh())

    def delete(self, cls: type[ReactiveState], ids: Ids) -> Awaitable[None]:
        """Delete a state for good; see `StateProvider.delete`."""
        registry, cluster = self.parts.registry, self.parts.cluster
        config = self.parts.registrations.config_of(cls)
        identifier, caller = config.identifier(ids), identity_here()
        persistence = registry.persistence.get(config.state_cls or cls)

        async def delete() -> None:
            entry = await registry.known(identifier)
            if entry is not None:
                await cluster.freshen([entry])
                entry = await registry.known(identifier)
            is_own = entry is not None and caller is not None and entry.owner is caller
            async with registry.locked([entry] if entry is not None else [], caller):
                if persistence is not None:
                    await persistence.delete(identifier)
                    await cluster.deleted(identifier, persistence)
                # Somebody may have begun to load it before it was deleted.
                for found in (entry, await registry.known(identifier)):
                    if found is not None and found.end is None:
                        registry.remove(found, StateEnd.DELETED_BY_ITS_EVENT if is_own else StateEnd.DELETED)

        return call_from_anywhere(self.parts.loop, retry_outdated(delete))

    async def run(
        self,
        identifier: StateIdentifier,
        cls: type[ReactiveState],
        event: Event[Any, Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Run an event for server code, and return its result, or those of a generator's steps."""
        run, registry, config_of = _ServerEvent(), self.parts.registry, self.parts.registrations.config_of

        async def attempt() -> None:
            entry = await self.resolver.entry(identifier, config_of(cls), lookup="with lock")
            accepted = event.arguments.accept(arguments, wait=registry.locks.timeout)
            values = event.arguments.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
            others = {}
            for parameter in event.arguments.states:
                config = config_of(parameter.cls)
                other = config.identifier(taken_ids(parameter, identifier, values))
                others[parameter.name] = await self.resolver.entry(other, config, lookup="with lock")
            await run_event(registry, entry, event, values, others, run, limit=self.parts.options.event_timeout)

        await retry_outdated(attempt)
        self.parts.counters.events += 1
        return run.results if event.kind == "generator" else run.results[0]

    # -- users and their rights ------------------------------------------------------------------------------------

    def login(self, request: HTTPConnection, user: UserContext) -> Awaitable[None]:
        """Sign `user` in; see `StateProvider.login`."""
        if not isinstance(user, UserContext):
            raise TypeError(f"login() takes a UserContext, not {type(user).__name__}")
        context = self._own_context(request)
        StateIdentifier(StateScope.USER, "User", user_id=user.id)  # or all users without an id would be "None"
        return self._signed(self.parts.sessions.login(context, user), user)

    def logout(self, request: HTTPConnection) -> Awaitable[None]:
        """End the session; see `StateProvider.logout`."""
        return self._signed(self.parts.sessions.logout(self._own_context(request)), None)

    def _own_context(self, request: HTTPConnection) -> RequestContext:
        context = self.context(request)
        context.claim()
        return context

    def _signed(self, change: Coroutine[Any, Any, None], user: UserContext | None) -> Awaitable[None]:
        async def changed() -> None:
            await change
            current_user.set(user)

        done = call_from_anywhere(self.parts.loop, changed())
        if isinstance(done, Done):
            current_user.set(user)  # it was set on the loop, and this thread has a context of its own
        return done

    def change_rights(self, user_id: Id, how: How) -> Awaitable[int]:
        """Change a user's rights in all processes; returns the number (int) of streams in this one."""

        async def change() -> int:
            rights = self.parts.sessions.rights
            streams = rights.change(user_id, how)
            request = current_request.get()
            if request is not None:  # an event may change the rights of its own user, and goes on
                self.context(request).accept_own_change()
            await rights.tell_others(user_id, how)
            return streams

        return call_from_anywhere(self.parts.loop, change())


class _ServerEvent(EventCaller):
    """An event that server code runs; collects the `results` of its steps. Lifetime: the event."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def take(self, step: Step) -> None:
        if not step.closing:
            self.results.append(step.result)
