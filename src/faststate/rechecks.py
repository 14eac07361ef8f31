"""Asking again: who watched a state before a commit may be somebody who must not see it any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from .auth import UserContext, authorize, current_request, current_user
from .config import StateConfig
from .exceptions import AccessError
from .registry import Commit
from .sse import SSEConnection, SSEManager
from .state import ReactiveState

__all__ = ["Rechecks"]

logger = logging.getLogger("faststate")

ASKED_AT_ONCE: Final = 50
"""Watching users that are asked about at the same time, so that a rule with a query does not take all connections."""

Verdict = Literal["allowed", "denied", "failed"]


class _Waiting(NamedTuple):
    commit: Commit
    connection_id: str | None
    echo: Mapping[str, Any] | None


class Rechecks:
    """Asks each watching user once after a commit of a state with an `authorize` rule. Lifetime: the provider.

    Until all have been asked nobody is sent that commit, nor a snapshot newer than the one that was asked about before;
    others' states go on. `lost(connection, key)` is told whose state has to vanish from the page.
    """

    def __init__(
        self,
        manager: SSEManager,
        config_of: Callable[[type[ReactiveState]], StateConfig],
        lost: Callable[[SSEConnection, ReactiveState], None],
        timeout: float,
    ) -> None:
        self._manager = manager
        self._config_of = config_of
        self._lost = lost
        self._timeout = timeout
        self._waiting: dict[str, list[_Waiting]] = {}
        self._cleared: dict[str, ReactiveState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def cleared(self, key: str) -> ReactiveState | None:
        """The newest snapshot of a state that its watchers may see, while a newer one is being asked about."""
        return self._cleared.get(key)

    def committed(self, commit: Commit, connection_id: str | None, echo: Mapping[str, Any] | None) -> None:
        """Sends `commit` to those who may still see it, when they have been asked about."""
        key = commit.new._committed.identifier.key
        if not self._manager.is_watched(key):
            return
        self._cleared.setdefault(key, commit.old)
        self._waiting.setdefault(key, []).append(_Waiting(commit, connection_id, echo))
        if key not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._work_off(key), name="faststate-recheck")
            self._tasks[key] = task

    async def settled(self, key: str) -> None:
        """Waits until what has been committed so far has been asked about."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task], timeout=self._timeout)

    async def _work_off(self, key: str) -> None:
        try:
            while batch := self._waiting.pop(key, None):
                newest = batch[-1].commit.new
                try:
                    await self._ask_about(key, newest)
                except Exception:
                    logger.exception("asking who may still see %s failed; all its streams are ended", key)
                    for connection in self._manager.watchers(key):
                        self._manager.dismiss(connection)
                self._cleared[key] = newest
                for commit, connection_id, echo in batch:
                    self._manager.publish(commit, connection_id, echo)
        finally:
            self._cleared.pop(key, None)
            self._waiting.pop(key, None)
            self._tasks.pop(key, None)

    async def _ask_about(self, key: str, state: ReactiveState) -> None:
        config = self._config_of(type(state))
        users: dict[Any, UserContext | None] = {}
        of: dict[Any, list[SSEConnection]] = {}
        for connection in self._manager.watchers(key):
            users.setdefault(connection.rights, connection.user)
            of.setdefault(connection.rights, []).append(connection)
        places = asyncio.Semaphore(ASKED_AT_ONCE)
        verdicts = await _all(self._verdict(config, user, state, places) for user in users.values())
        for rights, verdict in zip(users, verdicts, strict=True):
            for connection in of[rights]:
                if verdict == "denied":
                    self._lost(connection, state)
                elif verdict == "failed":
                    self._manager.dismiss(connection)  # it comes back, and is asked then
        # Who began to watch meanwhile was asked about this snapshot, or a newer one, when the stream was opened.

    async def _verdict(
        self, config: StateConfig, user: UserContext | None, state: ReactiveState, places: asyncio.Semaphore
    ) -> Verdict:
        # This runs as whoever made the commit; the rule is to see the one that it is asked about, who asks nothing now.
        current_user.set(user)
        current_request.set(None)
        try:
            async with places, asyncio.timeout(self._timeout):
                await authorize(user, config.rule, state, owner_id=config.owner_of(state))
        except AccessError:
            return "denied"
        except Exception:
            logger.exception("the rule of %s failed; the stream is ended", config.state_name)
            return "failed"
        return "allowed"


async def _all(awaitables: Iterable[Awaitable[Verdict]]) -> list[Verdict]:
    waiting = list(awaitables)
    return list(await asyncio.gather(*waiting)) if len(waiting) != 1 else [await waiting[0]]
