"""Streams: what a page may follow, how its stream is opened, what is taken from it, and what ends when it is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..auth.limits import network_of
from ..auth.rules import READ, authorize
from ..auth.tokens import ShownState
from ..auth.users import UserContext
from ..exceptions import AccessError, IdentifierError, StateNotFoundError
from ..redaction import loggable
from ..registry.entries import Entry
from ..scopes import StateScope, namespace_of
from ..sessions.caller import Identity
from ..sessions.config import Ids
from ..sse.changes import snapshot_frame
from ..sse.connection import SSEConnection
from ..state.reactive import ReactiveState
from ..wire.frames import message_frame, reload_frame, reopen_frame, vanish_frame
from .context import RequestContext
from .hooks import GONE
from .page_tokens import MERGED_FROM, ForgedTokens, StaleTokens, Watched, states_shown
from .parts import Parts
from .resolve import Resolver

logger = logging.getLogger("faststate")

LEFT_TTL: Final = 30.0
"""Idle seconds of TEMPORARY states whose page was left for good. A tab that is only hidden says nothing."""


class FollowedStates(NamedTuple):
    """The `states` that a page shows, by key, each with its views there.

    `vanish` are frames that take away what the user may not see, `gone` those that take away records which have ended,
    and say so. Of the states that are `unchanged` (by key, the snapshots) another process has told the page all.
    """

    states: dict[str, tuple[Entry, set[str]]]
    vanish: bytes
    gone: bytes
    unchanged: Mapping[str, ReactiveState] = {}


@dataclass(frozen=True, slots=True, eq=False)
class PageStreams:
    """Opens the streams of pages, for what their users may see. Lifetime: the provider."""

    parts: Parts
    resolver: Resolver

    async def open(
        self, context: RequestContext, tokens: Sequence[Any], position: str | None, *, is_first: bool = True
    ) -> SSEConnection | bytes | None:
        """Return a registered connection for what the tokens show and the user may see; None if that is nothing.

        `position` is the stream id that the page has seen: states that changed since are waiting in the outbox. A page
        that had a stream before (not `is_first`) and may see nothing now gets frames (bytes) that say so. Raises
        `StaleTokens`, `ForgedTokens` and `LimitError`.
        """
        parts, manager = self.parts, self.parts.sse_manager
        shown = states_shown(await parts.tokens.verify(context, tokens, again=len(tokens) > MERGED_FROM))
        parts.throttle.refuse_too_many_streams(manager, context.session_id(), context.address)
        identity = await context.identity()
        if identity.session_id is not None and parts.sessions.ended.is_ended(identity.session_id):
            raise StaleTokens  # it ended while the user was being loaded
        parts.throttle.refuse_too_many_streams(manager, identity.session_id, context.address)  # many may wait there
        connection = SSEConnection(
            parts.cluster.new_stream_id(),
            user=identity.user,
            session_id=identity.session_id,
            address=network_of(context.address),
        )
        manager.announce(connection)  # rights that change while they are asked about end it, like any other
        with parts.cluster.holding() as topics:
            try:
                # After this nothing is awaited: this connection hears of what is committed from now on.
                found = await self._followed_by_now(context, identity, shown, topics, parts.cluster.seen(position))
            except BaseException:
                manager.remove_connection(connection.id)
                raise
            return self._opened(context, connection, found, position, is_first=is_first)

    def _opened(
        self,
        context: RequestContext,
        connection: SSEConnection,
        found: FollowedStates,
        position: str | None,
        is_first: bool,
    ) -> SSEConnection | bytes | None:
        """Return what `open` returns, once it is known what is `found` for the page to follow."""
        manager, config_of = self.parts.sse_manager, self.parts.registrations.config_of
        followed, vanish, gone, _ = found
        if self.parts.sessions.rights.changed(connection.user, context.since):
            manager.dismiss(connection, reopen_frame())  # while the user was being loaded
        if connection.closed or connection.silent:
            return connection
        if not followed and not gone:
            manager.remove_connection(connection.id)
            return vanish + reload_frame() if vanish and not is_first else None
        hidden = {
            key: type(entry.state)._fs_schema().hidden_from(connection.user) for key, (entry, _) in followed.items()
        }
        begins = {key: context.asked[key] for key in followed if key in context.asked}
        views = {key: views for key, (_, views) in followed.items()}
        manager.add_connection(connection, followed, views, hidden, begins)
        seen = self._seen_here(position)
        for key, (entry, _) in followed.items():
            # A page does not say what it could see, so an old position is not enough once rights have changed: a state
            # that the user lost meanwhile has vanished from the page, but the page still has a position.
            restricted = type(entry.state)._fs_schema().restricted
            may_have_vanished = not is_first and config_of(type(entry.state)).rule.restricts
            is_news = entry.state._committed.commit > seen and found.unchanged.get(key) is not entry.state
            if is_news or restricted or may_have_vanished:
                connection.notify(key, None)
            asked = context.asked.get(key)
            if asked is not None and asked is not entry.state:
                # Commits come faster than its rule answers: what is allowed is shown now, the rest once it is known.
                self.parts.rechecks.ask_again(connection, key)
                audience = connection.audience(key)
                connection.send_frame(snapshot_frame(asked._seen(audience.hidden), audience.views))
        if vanish or gone:
            connection.send_frame(vanish + gone)
        return connection

    def _seen_here(self, position: str | None) -> int:
        """Return the number of this process's last commit that a page with this position has seen; -1 for none."""
        epoch, number = [*(position or "").split("."), ""][:2]
        is_own = epoch == self.parts.registry.epoch and number.isdecimal() and len(number) < 20
        return int(number) if is_own else -1

    async def _followed_by_now(
        self,
        context: RequestContext,
        identity: Identity,
        shown: Sequence[ShownState],
        topics: dict[str, None],
        seen: int | None,
    ) -> FollowedStates:
        """As `followed`; when it returns, nothing has changed since the user was found to be allowed to see it.

        This process hears of all changes from then on, as long as the `topics` are held. Up to the commit `seen`
        another process has told the page of all that it follows.
        """
        with self.parts.registry.lifetimes.holding() as held:
            while True:
                found = await self.followed(context, identity, shown)
                entries = [entry for entry, _ in found.states.values()]
                held.update(entry.identifier.key for entry in entries)
                if any(self.parts.registry.find(entry.identifier.key) is not entry for entry in entries):
                    await asyncio.sleep(0)  # let the task that loaded it deal with its end first
                    continue  # deleted, or evicted, while the others were asked about
                if not await self.parts.cluster.follow(entries, topics):
                    continue  # another process has changed it
                unchanged = await self._unchanged(entries, seen) if seen is not None else {}
                try:
                    await self.resolver.ask_again(context, entries)
                except AccessError:
                    continue  # lost while the others were asked about
                if not any(entry.end is not None for entry in entries):
                    return found._replace(unchanged=unchanged)

    async def followed(
        self, context: RequestContext, identity: Identity, shown: Sequence[ShownState]
    ) -> FollowedStates:
        """Return what a page shows, as far as `identity` may see it.

        Raises `StaleTokens` for a TEMPORARY state that has ended: only a new page can take its place.
        """
        followed: dict[str, tuple[Entry, set[str]]] = {}
        vanish = gone = b""
        for name, instance_id, views in shown:
            cls = self.parts.registrations.class_named(name)
            if cls is None:
                continue
            scope = self.parts.registrations.config_of(cls).scope
            if scope is StateScope.TEMPORARY:
                await self.resolver.refuse_lost(identity, cls, instance_id)
            try:
                entry, _ = await self.resolver.allowed_entry(
                    context, identity, READ, cls, Ids.of_instance(scope, instance_id)
                )
            except AccessError:
                vanish += vanish_frame(namespace_of(name, instance_id), cls._fs_schema().page_signals, views)
                continue
            except StateNotFoundError:
                gone += vanish_frame(namespace_of(name, instance_id), cls._fs_schema().page_signals, views)
                gone += message_frame(GONE, 404)
                continue
            except IdentifierError:
                continue
            followed.setdefault(entry.identifier.key, (entry, set()))[1].update(views)
        return FollowedStates(followed, vanish, gone)

    async def _unchanged(self, entries: Sequence[Entry], seen: int) -> dict[str, ReactiveState]:
        """Return those states, by key, that no process has changed after the commit `seen`."""
        states = {entry.identifier.key: entry.state for entry in entries}
        last = await self.parts.cluster.last_changes(entries)
        return {key: states[key] for key, sequence in last.items() if sequence <= seen}

    async def leave(self, context: RequestContext, tokens: Sequence[Any]) -> None:
        """End the TEMPORARY states soon that the tokens show: their page was left for good.

        Not at once: a page that comes back from the browser's cache, and opens its stream, finds them as they were.
        Raises as `PageTokens.verify`.
        """
        if not (verified := await self.parts.tokens.verify(context, tokens)):
            return
        identity = await context.identity()
        for name, instance_id, _ in states_shown(verified):
            cls = self.parts.registrations.class_named(name)
            if cls is None or self.parts.registrations.config_of(cls).scope is not StateScope.TEMPORARY:
                continue
            identifier = self.resolver.temporary(identity, cls, instance_id)
            if (entry := self.parts.registry.find(identifier.key)) is not None:
                self.parts.registry.lifetimes.keep_for(entry, min(LEFT_TTL, entry.ttl))
            else:
                await self.parts.cluster.end_soon(identifier.key, LEFT_TTL)

    # -- pages without a stream ------------------------------------------------------------------------------------

    def changed_on_page(
        self, context: RequestContext, identity: Identity, watched: Watched, states: Sequence[ReactiveState]
    ) -> dict[str, tuple[Entry, set[str]]]:
        """Return those of the changed `states` that a page shows, by key, with their views there.

        Only these are looked up: a page may show a thousand states, too many to find again at every click.
        """
        found: dict[str, tuple[Entry, set[str]]] = {}
        for state in states:
            identifier = state._committed.identifier
            entry = self.parts.registry.find(identifier.key)
            if entry is None:
                continue
            try:
                views = watched.views(identifier.cls_name, identifier.instance_id)
                own = self.resolver.identify(context, identity, type(state), identifier.instance_id)
            except (StaleTokens, ForgedTokens):  # the tokens are another session's, so the state is not shown
                continue
            except IdentifierError:  # the user has signed out, so the state is nobody's here
                continue
            if views and own.key == identifier.key:  # and not another session's or user's
                found[identifier.key] = entry, {view for part in views for view in part}
        return found

    async def snapshots(self, user: UserContext | None, shown: Mapping[str, tuple[Entry, set[str]]]) -> bytes:
        """Return frames with these states (by key) as they are now; one that was lost vanishes.

        The event has been committed, so nothing is raised here: if a rule fails, the page is told nothing.
        """
        frames = {}
        for key, (entry, views) in shown.items():
            state = entry.state
            may_see = await self.may_see(user, state)
            if may_see:
                frames[key] = snapshot_frame(state._seen_by(user), frozenset(views))
            elif may_see is not None:
                frames[key] = vanish_frame(state._committed.namespace, type(state)._fs_schema().page_signals, views)
        return b"".join(frames.values())

    async def may_see(self, user: UserContext | None, state: ReactiveState) -> bool | None:
        """True if `user` may see a state, by its class's rule; None if the rule failed, which is logged.

        An event has been committed, so it must not look failed; the page keeps what it shows.
        """
        config = self.parts.registrations.config_of(type(state))
        if not config.rule.restricts:
            return True
        try:
            async with asyncio.timeout(self.parts.registry.locks.timeout):
                await authorize(user, config.rule, state, READ)
        except AccessError:
            return False
        except Exception as error:
            failed = "the rule of %s failed; the page is not told what changed"
            logger.error(failed, config.state_name, exc_info=loggable(error, state))
            return None
        return True
