"""From a request and a class to a state: which one is meant, may its user have it, and its entry in the registry."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from ..auth.rules import READ, AccessRule, authorize
from ..auth.tokens import binding
from ..auth.users import UserContext, current_user
from ..cluster.base import AppCluster
from ..exceptions import (
    AccessError,
    AuthenticationError,
    EventArgumentError,
    IdentifierError,
    LockTimeoutError,
)
from ..registry.entries import Entry
from ..registry.registry import StateRegistry
from ..registry.transaction import Guard
from ..scheduling.waits import TooLate, in_time
from ..scopes import Id, StateIdentifier, StateScope
from ..sessions.caller import Identity
from ..sessions.config import Ids, StateConfig
from ..state.parameters import StateParameter
from ..state.reactive import ReactiveState
from .context import RequestContext
from .lifecycle import AppLoop
from .page_tokens import StaleTokens
from .registrations import Registrations

FRESH_TTL: Final = 900.0
"""Idle seconds of the states of a session whose cookie has not come back yet: robots and scripts never send it."""

READ_TRIES: Final = 3
"""How often the rule of a state is asked again that changes meanwhile, before the allowed snapshot is shown."""

OF_SESSIONS: Final = (StateScope.SESSION, StateScope.COMPONENT, StateScope.TEMPORARY)

OPEN: Final = AccessRule()

NO_IDS: Final = Ids()

Lookup = Literal["now", "if new", "with lock"]
"""When a state is looked up in a store of many processes: in any case, only if it is not in memory, or not until it is
locked."""


@dataclass(frozen=True, slots=True, eq=False)
class Resolver:
    """Finds the states that requests mean, for those who may have them. Lifetime: the provider."""

    registry: StateRegistry
    cluster: AppCluster
    registrations: Registrations
    loop: AppLoop

    # -- for a request ---------------------------------------------------------------------------------------------

    async def shown_entry(
        self,
        context: RequestContext,
        cls: type[ReactiveState],
        ids: Ids = NO_IDS,
        initial: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Return the entry of a state that the request's user may read, and note that the page shows it.

        `initial` holds the values of a state that does not exist yet. Raises as `StateProvider.get_state`.
        """
        identity = await context.identity()
        entry, _ = await self.allowed_entry(context, identity, READ, cls, ids, initial=initial)
        if context.connection.scope["type"] == "http":
            page, user = context.page, identity.user
            page.viewer = user
            page.show(context.readable(entry)._seen_by(user))
            page.bound_to = binding(context.session_id(make=True), user.id if user else None)
        return entry

    async def allowed_entry(
        self,
        context: RequestContext,
        identity: Identity,
        action: str,
        cls: type[ReactiveState],
        ids: Ids = NO_IDS,
        *,
        rule: AccessRule = OPEN,
        initial: Mapping[str, Any] | None = None,
    ) -> tuple[Entry, Guard | None]:
        """Return the entry of a state to which `identity` may do `action`, by the class's rule and `rule`.

        If the answer depends on the state, there is a guard, which asks again once the state is locked, if it is
        another one by then. Raises as `StateProvider.get_state`.
        """
        config, user = self.registrations.config_of(cls), identity.user
        context.claim()
        if current_user.get() is not user:
            current_user.set(user)
        if config.gate.restricts or rule.restricts:  # before a state is made for nothing
            await authorize(user, config.gate | replace(rule, owner_only=False))
        if config.scope is StateScope.USER and user is None:
            raise AuthenticationError(f"{config.state_name} belongs to a user: sign in")
        identifier = self._identify(config, context, identity, ids)
        whole = config.rule | rule if rule.restricts else config.rule
        is_guarded = whole.check is not None or whole.owner_only
        # What an event or `modify` changes comes with its lock as it is stored: it need not be looked up before.
        lookup: Lookup = "now" if action == READ else "if new" if is_guarded else "with lock"
        entry = self.registry.find(identifier.key) if lookup == "with lock" and not context.fresh_session else None
        if entry is None or type(entry.state) is not config.state_cls:
            entry = await self.entry(identifier, config, initial, fresh=context.fresh_session, lookup=lookup)
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
            if lookup != "if new" or (entry := await self.entry(identifier, config)).state is guard.asked:
                raise
            guard = Guard(entry, entry.state, guard.ask)  # the stored state is newer than the one it was asked about
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
        current_user.set(user)  # the rule may have asked another provider, for which this request has another user

    async def ask_again(self, context: RequestContext, entries: Iterable[Entry]) -> None:
        """Ask again about those states that have changed since the request's user was allowed to read them.

        When it returns, nothing has been awaited since the last of them was asked about. If commits come faster than
        the rule answers, `context.asked` has the last snapshot that may be shown, and the state is newer already.
        Raises `AccessError`, and `LockTimeoutError` if the rule does not answer.
        """
        config_of = self.registrations.config_of
        checked = [entry for entry in entries if config_of(type(entry.state)).authorize is not None]
        for _ in range(READ_TRIES):
            changed = [e for e in checked if context.asked.get(e.identifier.key) is not e.state]
            if not changed:
                return
            for entry in changed:
                state, config = entry.state, config_of(type(entry.state))
                await self._ask(await context.user(), config, config.rule, state, READ)
                context.asked[entry.identifier.key] = state

    # -- which state is meant --------------------------------------------------------------------------------------

    def identify(
        self, context: RequestContext, identity: Identity, cls: type[ReactiveState], instance_id: str | None
    ) -> StateIdentifier:
        """Return the identifier of the state that a page of `identity` knows by `instance_id`.

        Raises `IdentifierError` if there can be none.
        """
        config = self.registrations.config_of(cls)
        return self._identify(config, context, identity, Ids.of_instance(config.scope, instance_id))

    def _identify(self, config: StateConfig, context: RequestContext, identity: Identity, ids: Ids) -> StateIdentifier:
        scope, user = config.scope, identity.user
        component_id, record_id = ids.component_id, ids.record_id
        if scope is StateScope.COMPONENT and component_id is None:
            cls = cast(type[ReactiveState], config.state_cls)
            raise IdentifierError(
                f"{config.state_name} is a component state; say which one: Annotated[{cls.__name__}, "
                "Component('left')], or get_state(…, component_id=…)"
            )
        if scope is StateScope.TEMPORARY and component_id is None:
            context.temporary_id = context.temporary_id or secrets.token_urlsafe(9)
            component_id = context.temporary_id
        if scope is StateScope.RECORD and record_id is None:
            record_id = _record_id(config, context.connection.path_params)
        session_id = None  # for all others too, so that they share one cached identifier
        if scope in OF_SESSIONS and not (config.on_login == "to_user" and user is not None):
            session_id = identity.session_id or context.session_id(make=True)
        return config.identifier(Ids(user.id if user is not None else None, session_id, component_id, record_id))

    # -- entries ---------------------------------------------------------------------------------------------------

    async def entry(
        self,
        identifier: StateIdentifier,
        config: StateConfig,
        initial: Mapping[str, Any] | None = None,
        *,
        fresh: bool = False,
        lookup: Lookup = "now",
    ) -> Entry:
        """Return the entry of a state, loaded or made if there is none; nobody's rights are asked.

        A `fresh` session's states are kept for a short time only. Raises as `StateRegistry.entry`.
        """
        self.loop.note()
        ttl, cls = config.ttl, cast(type[ReactiveState], config.state_cls)
        if fresh and identifier.session_id is not None:
            ttl = min(FRESH_TTL, FRESH_TTL if ttl is None else ttl)
        registry = self.registry
        entry = registry.in_memory(identifier, cls)
        if entry is None:
            is_later = lookup == "with lock" and self.cluster.is_shared
            if is_later and config.create is None and not initial:
                entry = registry.unseen(identifier, cls, ttl)
        elif lookup == "now":
            entry = await self._up_to_date(entry)
        if entry is None:
            entry = await registry.entry(identifier, cls, ttl=ttl, create=config.create, initial=initial)
        if identifier.session_id is not None:
            registry.lifetimes.keep_for(entry, ttl)
        return entry

    async def _up_to_date(self, entry: Entry) -> Entry | None:
        """Return a state in memory with what other processes have changed of it; None if it has ended."""
        if entry.persistence is not None and not self.cluster.is_current(entry.identifier.key):
            await self.cluster.freshen([entry])
        return entry if entry.end is None else None

    async def refuse_lost(
        self, identity: Identity, cls: type[ReactiveState], instance_id: str | None, lookup: Lookup = "now"
    ) -> None:
        """Raise `StaleTokens` if a page's TEMPORARY state has ended: only a new page can take its place."""
        identifier = self.temporary(identity, cls, instance_id)
        entry = self.registry.find(identifier.key)
        if entry is not None and (lookup != "now" or await self._up_to_date(entry) is not None):
            return
        persistence = self.registry.persistence.get(cls)
        if persistence is None or await persistence.load(identifier) is None:
            raise StaleTokens

    def temporary(self, identity: Identity, cls: type[ReactiveState], instance_id: str | None) -> StateIdentifier:
        """Return the identifier of a page's TEMPORARY state."""
        name = self.registrations.config_of(cls).state_name
        return StateIdentifier(StateScope.TEMPORARY, name, session_id=identity.session_id, component_id=instance_id)


def _record_id(config: StateConfig, path: Mapping[str, Any]) -> Id:
    found = config.record_parameter(path)
    if found is None:
        raise IdentifierError(
            f"{config.state_name} is a record state; its id is neither given nor in the path "
            f"(parameters: {', '.join(path) or 'none'}): name it with StateConfig(record_param=…) or "
            "get_state(…, record_id=…)"
        )
    value: Id = path[found]
    return value


def taken_ids(parameter: StateParameter, own: StateIdentifier, arguments: Mapping[str, Any]) -> Ids:
    """Return the ids of a state that an event takes along, from its arguments and the identifier of its own state.

    Raises `EventArgumentError` if the argument that holds a record's id is None.
    """
    component_id = parameter.component.component_id if parameter.component is not None else own.component_id
    record_id: Id | None = None
    if (record := parameter.record) is not None:
        record_id = own.instance_id if record.argument is None else arguments.get(record.argument)
        if record_id is None:
            raise EventArgumentError(
                f"the argument {record.argument!r} is the id of {parameter.name}: it cannot be empty"
            )
    return Ids(own.user_id, own.session_id, component_id, record_id)
