"""Dispatch: one event of one client, from its payload to its committed steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..auth.tokens import binding
from ..exceptions import (
    EventArgumentError,
    EventConflictError,
    IdentifierError,
    StateNotFoundError,
    UnknownEventError,
)
from ..registry.entries import Entry
from ..registry.outdated import OutdatedError, retry_outdated
from ..registry.run_event import run_event
from ..registry.transaction import Guard
from ..scopes import StateIdentifier, StateScope, namespace_of
from ..sessions.caller import Identity
from ..sessions.config import Ids
from ..sse.connection import SSEConnection
from ..state.events import Event
from ..state.reactive import ReactiveState
from ..wire.frames import vanish_frame
from .calls import Call
from .context import RequestContext
from .options import Options
from .origin import origin_of_commits
from .page_event import Effect, EventParts, PageEvent
from .page_tokens import ForgedTokens, PageTokens, StaleTokens, Watched
from .resolve import NO_IDS, taken_ids

__all__ = ["Dispatcher"]


@dataclass(frozen=True, slots=True, eq=False)
class Dispatcher:
    """Runs the events that pages send. Lifetime: the provider."""

    parts: EventParts
    tokens: PageTokens
    options: Options

    async def dispatch(
        self,
        context: RequestContext,
        call: Call,
        live: SSEConnection | None,
        take: Callable[[Effect], None],
        *,
        elsewhere: bool = False,
    ) -> None:
        """Run the event, and after each committed step give `take` what its own page sees of it.

        With a `live` connection, or one that another process has (`elsewhere`), the states' changes go down its stream,
        and the effects hold only what the event itself returned or yielded; without one they hold snapshots of the
        changed states too. If another process has ended a state meanwhile, the event starts again, once.

        Raises `UnknownEventError`, `EventArgumentError`, `AccessError`s, `StaleTokens`, `ForgedTokens`,
        `LockTimeoutError`, and what the event raises; an `EventConflictError` after an effect with the state as it is.
        """
        await retry_outdated(lambda: self._attempt(context, call, live, take, elsewhere))

    async def _attempt(
        self,
        context: RequestContext,
        call: Call,
        live: SSEConnection | None,
        take: Callable[[Effect], None],
        elsewhere: bool,
    ) -> None:
        registry, resolver = self.parts.registry, self.parts.resolver
        config = self.parts.registrations.config_named(call.state)
        if config is None or config.state_cls is None:
            raise UnknownEventError(f"there is no state {call.state[:100]!r}")
        cls = config.state_cls
        schema = cls._fs_schema()
        event = schema.events.get(call.event)
        if event is None:
            raise UnknownEventError(f"{call.state} has no event {call.event[:100]!r}")
        has_stream = live is not None or elsewhere
        # Found once: nobody can sign in before the event itself runs.
        identity = context.known_identity() or await context.identity()
        watched: Watched | None = None
        is_followed = False
        if call.tokens and (watched := self.tokens.shown(context, identity, call.tokens)) is None:
            # A page with many tokens has shown them all when it opened its stream: what that follows needs no proof.
            is_followed = live is not None and self._follows(live, context, identity, call, cls)
            if not is_followed:
                watched = await Watched.by_many(self.tokens, context, identity.binding, call.tokens)
        ids = NO_IDS
        if config.has_ids:
            if not is_followed and not (watched is not None and watched.views(call.state, call.instance_id)):
                raise ForgedTokens(f"no page of this session shows that {call.state}")
            ids = Ids.of_instance(config.scope, call.instance_id)
        elif call.instance_id is not None:
            raise EventArgumentError(f"{call.state} has no ids")
        if config.scope is StateScope.TEMPORARY:
            await resolver.refuse_lost(identity, cls, call.instance_id, lookup="with lock")
        try:
            entry, guard = await resolver.allowed(context, identity, event.name, cls, ids, rule=event.rule)
        except StateNotFoundError:
            if not has_stream:  # else its stream has told the page
                parts = watched.views(call.state, call.instance_id) if watched is not None else ()
                views = {view for part in parts for view in part}
                namespace = namespace_of(call.state, call.instance_id)
                take(Effect(vanish_frame(namespace, schema.signals, views), repeated=False))
            raise
        if event.expect_version and not call.version:
            raise EventArgumentError(
                f"{call.state}.{event.name} expects the version that the page shows: send it with .on(...) or "
                ".post(...)"
            )
        expected_arguments = event.arguments
        signals = {**call.bound, **call.signals} if call.bound else call.signals
        accepted = expected_arguments.accept(
            call.explicit, call.form, call.query, signals, is_form=call.is_form, wait=registry.locks.timeout
        )
        arguments = expected_arguments.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
        others: Mapping[str, Entry] = {}
        guards: list[Guard] = []
        if expected_arguments.states:
            action = f"{call.state}.{event.name}"
            others, guards = await self._others(context, identity, action, event, entry.identifier, arguments)
        if guard is not None:
            guards.append(guard)
        bound = _bound_values(cls, call.bound, schema.hidden_from(identity.user)) if call.bound else {}
        page_event = PageEvent(
            self.parts, context, identity, call, event, entry, bound if schema.bound else None,
            live, elsewhere, None if has_stream else watched, take,
        )  # fmt: skip
        token = origin_of_commits.set(page_event)
        try:
            await run_event(
                registry,
                entry,
                event,
                arguments,
                others,
                page_event,
                nonce=f"{identity.session_id or context.session_id()}:{call.nonce}" if call.nonce else None,
                expected=call.version if event.expect_version else None,
                guards=guards,
                limit=self.options.event_timeout,
            )
        except EventConflictError:
            await page_event.show_state()
            raise
        except OutdatedError as error:
            if error.may_retry and config.scope is StateScope.TEMPORARY:
                raise StaleTokens from error
            raise
        finally:
            page_event.close()
            origin_of_commits.reset(token)

    def _follows(
        self, live: SSEConnection, context: RequestContext, identity: Identity, call: Call, cls: type[ReactiveState]
    ) -> bool:
        """True if the stream is of this session and user, and follows the event's state, if that has an id."""
        if identity.binding != binding(live.session_id, live.user_id):
            return False
        if not self.parts.registrations.configs[cls].has_ids:
            return True
        try:
            own = self.parts.resolver.identify(context, identity, cls, call.instance_id)
        except IdentifierError:
            return False
        return live.topic(own.key) is not None

    async def _others(
        self,
        context: RequestContext,
        identity: Identity,
        action: str,
        event: Event[Any, Any],
        own: StateIdentifier,
        arguments: Mapping[str, Any],
    ) -> tuple[dict[str, Entry], list[Guard]]:
        """Return the further states that an event takes, by parameter, and their guards."""
        found: dict[str, Entry] = {}
        guards: list[Guard] = []
        for parameter in event.arguments.states:
            ids = taken_ids(parameter, own, arguments)
            found[parameter.name], guard = await self.parts.resolver.allowed(
                context, identity, action, parameter.cls, ids
            )
            if guard is not None:
                guards.append(guard)
        return found, guards


def _bound_values(cls: type[ReactiveState], given: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, Any]:
    """Return the bound fields that a page may set, of those that it has sent. Raises `EventArgumentError`."""
    schema = cls._fs_schema()
    for name in given:
        if name not in schema.bound:
            raise EventArgumentError(f"{cls.__name__} has no bound field {name[:100]!r}")
    # A page sends all bound fields, even those of which it was given only an empty signal.
    return {
        name: None if value == "" and name in schema.optional else value
        for name, value in given.items()
        if name not in hidden
    }
