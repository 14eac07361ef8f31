"""Dispatch: one event of one client, from its payload to its committed steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..auth.tokens import binding
from ..auth.users import UserContext
from ..exceptions import (
    EventArgumentError,
    EventConflictError,
    IdentifierError,
    StateNotFoundError,
    UnknownEventError,
)
from ..registry.ends import OutdatedError, retry_outdated
from ..registry.entries import Entry
from ..registry.run_event import run_event
from ..registry.transaction import Guard
from ..scopes import StateIdentifier, StateScope, namespace_of
from ..sessions.config import Ids
from ..sse.connection import SSEConnection
from ..state.arguments import Arguments
from ..state.events import VERSION_SIGNAL
from ..state.schema import Schema
from ..wire.frames import vanish_frame, word_frame
from .context import RequestContext
from .initiator import initiator_of_commits
from .page_event import Effect, PageEvent, SentEvent
from .page_streams import PageStreams
from .page_tokens import ForgedTokens, StaleTokens, Watched
from .parts import Parts
from .payload import Call
from .resolve import NO_IDS, Resolver, taken_ids


@dataclass(frozen=True, slots=True, eq=False)
class Dispatcher:
    """Runs the events that pages send. Lifetime: the provider."""

    parts: Parts
    resolver: Resolver
    page_streams: PageStreams

    def dispatch(
        self,
        context: RequestContext,
        call: Call,
        live: SSEConnection | None,
        take: Callable[[Effect], None],
        *,
        elsewhere: bool = False,
    ) -> Awaitable[None]:
        """Run the event, and after each committed step give `take` what its own page sees of it.

        With a `live` connection, or one that another process has (`elsewhere`), the states' changes go down its stream,
        and the effects hold only what the event itself returned or yielded; without one they hold snapshots of the
        changed states too. If another process has ended a state meanwhile, the event starts again, once.

        Raises `UnknownEventError`, `EventArgumentError`, `AccessError`s, `StaleTokens`, `ForgedTokens`,
        `LockTimeoutError`, and what the event raises; an `EventConflictError` after an effect with the state as it is.
        """
        return retry_outdated(partial(self._attempt, context, call, live, take, elsewhere))

    async def _attempt(
        self,
        context: RequestContext,
        call: Call,
        live: SSEConnection | None,
        take: Callable[[Effect], None],
        elsewhere: bool,
    ) -> None:
        config = self.parts.registrations.config_named(call.state)
        if config is None or config.state_cls is None:
            raise UnknownEventError(f"there is no state {call.state[:100]!r}")
        schema = config.state_cls._fs_schema()
        event = schema.events.get(call.event)
        if event is None:
            raise UnknownEventError(f"{call.state} has no event {call.event[:100]!r}")
        # Found once: nobody can sign in before the event itself runs.
        identity = await context.identity()
        sent = SentEvent(context, identity, call, config, config.state_cls, schema, event, live, elsewhere, take)
        watched = self.parts.tokens.watched(context, identity, call.tokens) if call.tokens else None
        if config.has_ids or call.instance_id is not None or (watched is None and call.tokens):
            watched = await self._proven(sent, watched)
        ids = Ids.of_instance(config.scope, call.instance_id) if config.has_ids else NO_IDS
        if config.scope is StateScope.TEMPORARY:
            await self.resolver.refuse_lost(identity, config.state_cls, call.instance_id, lookup="with lock")
        try:
            entry, guard = await self.resolver.allowed_entry(
                context, identity, event.name, config.state_cls, ids, rule=event.rule
            )
        except StateNotFoundError:
            self._show_vanished(sent, watched)
            raise
        try:
            takes = event.arguments
            accepted = self._accept(sent, takes)
            arguments = takes.with_defaults(accepted if isinstance(accepted, dict) else await accepted)
            others, guards = await self._others(sent, entry.identifier, arguments) if takes.states else ({}, [])
            if guard is not None:
                guards.append(guard)
            await self._run(sent, watched, entry, arguments, others, guards)
        finally:
            if call.bound:
                take(Effect(b"", repeated=False, word=await self._word(sent, watched, entry.identifier.key)))

    async def _proven(self, sent: SentEvent, watched: Watched | None) -> Watched | None:
        """Prove that the page shows the event's state; return what it shows, None if its stream says enough.

        `watched` is what its tokens show; None if it has none, or so many that they are not verified yet. Raises
        `ForgedTokens` for a state with an id that the page does not show.
        """
        call, tokens, is_followed = sent.call, self.parts.tokens, False
        if call.tokens and watched is None:
            # A page with many tokens has shown them all when it opened its stream: what that follows needs no proof.
            is_followed = self._is_followed(sent)
            if not is_followed:
                watched = await Watched.by_many(tokens, sent.context, sent.identity.binding, call.tokens)
        if sent.config.has_ids:
            if not is_followed and not (watched is not None and watched.views(call.state, call.instance_id)):
                raise ForgedTokens(f"no page of this session shows that {call.state}")
        elif call.instance_id is not None:
            raise EventArgumentError(f"{call.state} has no ids")
        return watched

    def _is_followed(self, sent: SentEvent) -> bool:
        """True if the page's stream is of this session and user, and follows the event's state, if that has an id."""
        live = sent.live
        if live is None or sent.identity.binding != binding(live.session_id, live.user_id):
            return False
        if not sent.config.has_ids:
            return True
        try:
            own = self.resolver.identify(sent.context, sent.identity, sent.cls, sent.call.instance_id)
        except IdentifierError:
            return False
        return live.topic(own.key) is not None

    def _show_vanished(self, sent: SentEvent, watched: Watched | None) -> None:
        """Take a state that is no more off the page, unless the page's stream has done so."""
        if sent.live is None and not sent.elsewhere:
            name, instance_id = sent.call.state, sent.call.instance_id
            views = {view for part in watched.views(name, instance_id) for view in part} if watched else set()
            frames = vanish_frame(namespace_of(name, instance_id), sent.schema.page_signals, views)
            sent.take(Effect(frames, repeated=False))

    def _accept(self, sent: SentEvent, takes: Arguments) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Validate the arguments that were sent for the event; as `Arguments.accept`. Raises `EventArgumentError`."""
        call, event = sent.call, sent.event
        if event.expect_version and not call.version:
            raise EventArgumentError(
                f"{call.state}.{event.name} expects the version that the page shows: send it with .on(...) or "
                ".post(...)"
            )
        signals = {**call.bound, **call.signals} if call.bound else call.signals
        wait = self.parts.registry.locks.timeout
        return takes.accept(call.explicit, call.form, call.query, signals, is_form=call.is_form, wait=wait)

    async def _others(
        self, sent: SentEvent, own: StateIdentifier, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, Entry], list[Guard]]:
        """Return the further states that an event takes, by parameter, and their guards."""
        found: dict[str, Entry] = {}
        guards: list[Guard] = []
        action = f"{sent.call.state}.{sent.event.name}"
        for parameter in sent.event.arguments.states:
            ids = taken_ids(parameter, own, arguments)
            found[parameter.name], guard = await self.resolver.allowed_entry(
                sent.context, sent.identity, action, parameter.cls, ids
            )
            if guard is not None:
                guards.append(guard)
        return found, guards

    async def _run(
        self,
        sent: SentEvent,
        watched: Watched | None,
        entry: Entry,
        arguments: dict[str, Any],
        others: Mapping[str, Entry],
        guards: list[Guard],
    ) -> None:
        context, identity, call, event = sent.context, sent.identity, sent.call, sent.event
        has_stream = sent.live is not None or sent.elsewhere
        bound = _bound_values(sent.schema, call, identity.user)
        page_event = PageEvent(self.parts, self.page_streams, sent, entry, bound, None if has_stream else watched)
        token = initiator_of_commits.set(page_event)
        try:
            await run_event(
                self.parts.registry,
                entry,
                event,
                arguments,
                others,
                page_event,
                nonce=f"{identity.session_id or context.session_id()}:{call.nonce}" if call.nonce else None,
                expected=call.version if event.expect_version else None,
                guards=guards,
                limit=self.parts.options.event_timeout,
                age=call.age / 1_000 if call.age else None,
            )
        except EventConflictError:
            await page_event.show_state()
            raise
        except OutdatedError as error:
            if error.may_retry and sent.config.scope is StateScope.TEMPORARY:
                raise StaleTokens from error
            raise
        finally:
            page_event.close()
            initiator_of_commits.reset(token)

    async def _word(self, sent: SentEvent, watched: Watched | None, key: str) -> bytes:
        """Return the frame (bytes) that says what the bound fields are that were sent; empty if that may not be said.

        It is said to pages that show the state, to users who may see it. Nothing is raised here: the event is over.
        """
        user, entry = sent.identity.user, self.parts.registry.find(key)
        if not _is_shown(sent, watched, key):
            return b""
        asked = [name for name in sent.schema.bound if name in sent.call.bound]
        if entry is None or not asked or self.parts.sessions.rights.changed(user, sent.context.since):
            return b""
        if entry.stored is None and entry.in_store and self.parts.cluster.is_shared:
            return b""  # refused before it was loaded
        state = entry.state
        if not await self.page_streams.may_see(user, state):
            return b""
        seen = state._seen_by(user)
        committed = seen._committed
        values = {name: committed.encoded[name] for name in asked if name not in seen._hidden_here}
        return word_frame(committed.namespace, str(committed.encoded[VERSION_SIGNAL]), values) if values else b""


def _is_shown(sent: SentEvent, watched: Watched | None, key: str) -> bool:
    """True if the page that sent an event shows its state, as its stream or its tokens say."""
    if sent.live is not None and sent.live.topic(key) is not None:
        return True
    try:
        return watched is not None and bool(watched.views(sent.call.state, sent.call.instance_id))
    except (StaleTokens, ForgedTokens):
        return False


def _bound_values(schema: Schema, call: Call, user: UserContext | None) -> dict[str, Any]:
    """Return the bound fields that a page may set, of those that it has sent.

    Raises `EventArgumentError`.
    """
    given = call.bound
    for name in given:
        if name not in schema.bound:
            raise EventArgumentError(f"{call.state} has no bound field {name[:100]!r}")
    hidden = schema.hidden_from(user)  # a page has an empty signal of these
    return {
        name: None if value == "" and name in schema.optional else value
        for name, value in given.items()
        if name not in hidden
    }
