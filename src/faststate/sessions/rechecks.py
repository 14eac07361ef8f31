"""Rechecks: after a commit, a user who watched the state may not be allowed to see it any more."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple, cast

from ..auth.rules import authorize
from ..auth.users import UserContext, current_request, current_user
from ..exceptions import AccessError
from ..redaction import loggable
from ..registry.entries import Commit
from ..sse.changes import snapshot_frame
from ..sse.connection import SSEConnection
from ..sse.manager import SSEManager
from ..state.reactive import ReactiveState
from .config import StateConfig

logger = logging.getLogger("faststate")

ASKED_AT_ONCE: Final = 50
"""Watching users whose rights are asked at the same time, so that a rule that queries a database leaves it some
connections."""

LATE: Final = 0.1
"""Seconds after which the other users no longer wait for the answer about one of them."""

Verdict = Literal["allowed", "denied", "failed"]


class _Waiting(NamedTuple):
    """Something to send: a `commit`, or (None) values that were only broadcast."""

    send: Callable[[], object]
    commit: Commit | None = None


@dataclass(slots=True, eq=False)
class _Question:
    """The question about one user, for all of that user's connections. Lifetime: until the answer."""

    user: UserContext | None
    connections: list[SSEConnection] = field(default_factory=list)
    task: asyncio.Task[Verdict] | None = None
    timer: asyncio.TimerHandle | None = None
    is_settled: bool = False


class Rechecks:
    """Asks the rule once for each watching user after a commit of a state with an `authorize` rule. Lifetime: the
    provider.

    Until there are all answers, nobody is sent that commit, nor a snapshot newer than the last one that was asked
    about; other states are not held up. A user whose answer is `LATE` is sent nothing of the state until it comes, and
    the other users go on: a rule that hangs for one user holds up only that user, and ends that user's streams after
    `timeout` seconds.

    `lost(connection, state)` is called for a page whose user may not see the state any more; `latest` returns the
    committed snapshot under a key, or None.
    """

    def __init__(
        self,
        manager: SSEManager,
        config_of: Callable[[type[ReactiveState]], StateConfig],
        lost: Callable[[SSEConnection, ReactiveState], None],
        latest: Callable[[str], ReactiveState | None],
        timeout: float,
    ) -> None:
        self._manager = manager
        self._config_of = config_of
        self._lost = lost
        self._latest = latest
        self._late: set[asyncio.Task[None]] = set()
        self._timeout = timeout
        self._waiting: dict[str, list[_Waiting]] = {}
        self._cleared: dict[str, ReactiveState] = {}
        self._decided: dict[str, int] = {}  # the number of the last commit before the first that is being asked about
        self._tasks: dict[str, asyncio.Task[None] | None] = {}  # None where one is about to begin
        self._lock = threading.Lock()  # a thread may commit on a loop of its own

    def cleared(self, key: str) -> ReactiveState | None:
        """Return the newest snapshot of a state that its watchers may see, while a newer one is being asked about."""
        return self._cleared.get(key)

    def is_asking(self, key: str) -> bool:
        """True while the rule is asked about watchers of a state, so that commits of it wait to be sent."""
        return key in self._tasks

    def decided(self, number: int) -> int:
        """Return the number of the last commit that streams were sent as far as they may; `number` is the newest."""
        return min(tuple(self._decided.values()), default=number) if self._decided else number

    def committed(self, commit: Commit, connection_id: str | None, echo: Mapping[str, Any] | None) -> None:
        """Send `commit` to those who may still see it, once the rule has answered."""
        key = commit.key
        if not self._manager.is_watched(key):
            return
        send = partial(self._manager.fanout.publish, commit, connection_id, echo)
        with self._lock:
            self._cleared.setdefault(key, commit.old)
            self._decided.setdefault(key, commit.number - 1)
            self._waiting.setdefault(key, []).append(_Waiting(send, commit))
            is_first = key not in self._tasks
            if is_first:
                self._tasks[key] = None
        if is_first:
            self._manager.fanout.on_loop(partial(self._begin, key))

    def _begin(self, key: str) -> None:
        self._tasks[key] = asyncio.get_running_loop().create_task(self._work_off(key), name="faststate-recheck")

    def postpone(self, key: str, send: Callable[[], object]) -> bool:
        """Call `send`, a broadcast, after the commits that are being asked about. Returns False, with no call, if there
        are none.

        Those who are about to lose the state must not get what was broadcast after the commit that takes it from them.
        """
        with self._lock:
            if key not in self._tasks:
                return False
            self._waiting.setdefault(key, []).append(_Waiting(send))
            return True

    async def _work_off(self, key: str) -> None:
        try:
            while batch := self._next(key):
                # First the values that were broadcast before the first of these commits.
                while batch and batch[0].commit is None:
                    _send(batch.pop(0))
                if not batch:
                    continue
                last = max(place for place, waiting in enumerate(batch) if waiting.commit is not None)
                newest = cast(Commit, batch[last].commit).new
                try:
                    await self._ask_about(key, newest)
                except Exception:
                    logger.exception("asking who may still see %s failed; all its streams are ended", key)
                    self._dismiss(self._manager.watchers(key))
                self._cleared[key] = newest
                self._decided[key] = newest._committed.commit
                for place, waiting in enumerate(batch):
                    # The rule was not asked about the versions between these commits: they are sent as one snapshot,
                    # which overwrites what was broadcast between them.
                    if waiting.commit is not None or place > last:
                        _send(waiting)
        except BaseException:
            with self._lock:
                self._forget(key)
            raise

    def _next(self, key: str) -> list[_Waiting] | None:
        with self._lock:
            batch = self._waiting.pop(key, None)
            if batch is None:
                self._forget(key)  # from here on a broadcast goes out at once
        return batch

    def _forget(self, key: str) -> None:
        for known in (self._cleared, self._decided, self._waiting, self._tasks):
            known.pop(key, None)

    async def _ask_about(self, key: str, state: ReactiveState) -> None:
        questions: dict[Any, _Question] = {}
        for connection in self._manager.active_watchers(key):  # a late user is asked about the newest separately
            question = questions.get(connection.rights)
            if question is None:
                question = questions[connection.rights] = _Question(connection.user)
            question.connections.append(connection)
        try:
            await self._ask_all(list(questions.values()), state)
        except BaseException:
            for question in questions.values():
                if question.task is not None:
                    question.task.cancel()
            raise
        for question in questions.values():
            task = cast(asyncio.Task[Verdict], question.task)
            if task.done():
                self._act_on(task.result(), question.connections, state)
            else:
                self._wait_for(key, question.user, question.connections, task, state)
        # Users who began to watch meanwhile were asked about this snapshot, or a newer one, and get nothing older.

    async def _ask_all(self, questions: list[_Question], state: ReactiveState) -> None:
        """Ask all questions, so many at once; return when each has been answered, or is late."""
        loop = asyncio.get_running_loop()
        places, all_settled, left = asyncio.Semaphore(ASKED_AT_ONCE), loop.create_future(), len(questions)

        def settle(question: _Question, _: object = None) -> None:
            nonlocal left
            if question.is_settled:
                return
            question.is_settled = True
            if question.timer is not None:
                question.timer.cancel()
            places.release()  # a question that hangs does not keep its place
            left -= 1
            if not left and not all_settled.done():
                all_settled.set_result(None)

        for question in questions:
            await places.acquire()
            question.task = self._ask(question.user, state)
            question.timer = loop.call_later(LATE, settle, question)
            question.task.add_done_callback(partial(settle, question))
        if questions:
            await all_settled

    def _ask(self, user: UserContext | None, state: ReactiveState) -> asyncio.Task[Verdict]:
        asking = self._verdict(self._config_of(type(state)), user, state)
        return asyncio.get_running_loop().create_task(asking, name="faststate-recheck")

    def _act_on(self, verdict: Verdict, connections: Iterable[SSEConnection], state: ReactiveState) -> None:
        here = [connection for connection in connections if not connection.closed]
        if verdict == "failed":
            self._dismiss(here)  # the pages come back, and the rule is asked then
        elif verdict == "denied":
            for connection in here:
                self._lost(connection, state)

    def _dismiss(self, connections: Iterable[SSEConnection]) -> None:
        for connection in connections:
            self._manager.dismiss(connection)

    # -- who is late -----------------------------------------------------------------------------------------------

    def ask_again(self, connection: SSEConnection, key: str) -> None:
        """Send a connection nothing more of a state until its user may see the newest snapshot, and ask about that."""
        state = self._latest(key)
        if state is not None:
            self._wait_for(key, connection.user, [connection], self._ask(connection.user, state), state)

    def _wait_for(
        self,
        key: str,
        user: UserContext | None,
        connections: list[SSEConnection],
        asking: asyncio.Task[Verdict],
        state: ReactiveState,
    ) -> None:
        for connection in connections:
            self._manager.hold(connection, key)

        async def follow() -> None:
            try:
                await self._follow(key, user, connections, asking, state)
            except Exception:
                logger.exception("asking on who may still see a state failed; the streams are ended")
                self._dismiss(connections)

        task = asyncio.get_running_loop().create_task(follow(), name="faststate-recheck")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _follow(
        self,
        key: str,
        user: UserContext | None,
        connections: list[SSEConnection],
        asking: asyncio.Task[Verdict],
        state: ReactiveState,
    ) -> None:
        """Wait for the answer about one user, and ask again until it is about the newest snapshot."""
        while True:
            verdict = await asking
            held = [c for c in connections if not c.closed and self._manager.is_held(c, key)]
            if verdict != "allowed" or not held:
                self._act_on(verdict, held, state)
                return
            newest = self._latest(key)
            if newest is None:
                self._dismiss(held)  # the pages come back, and find what there is by then
                return
            if newest is state:
                for connection in held:
                    self._manager.release(connection, newest)
                return
            for connection in held:  # commits come faster than the rule answers: at least this one may be shown
                audience = connection.audience(key)
                connection.send_frame(snapshot_frame(state._seen(audience.hidden), audience.views))
            asking, state = self._ask(user, newest), newest

    async def _verdict(self, config: StateConfig, user: UserContext | None, state: ReactiveState) -> Verdict:
        # This runs in the context of whoever made the commit; the rule must see the user that it is asked about, and no
        # request.
        current_user.set(user)
        current_request.set(None)
        try:
            async with asyncio.timeout(self._timeout):
                await authorize(user, config.rule, state, owner_id=config.owner_of(state))
        except AccessError:
            return "denied"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            logger.error("the rule of %s was cancelled; the stream is ended", config.state_name)
            return "failed"
        except Exception as error:
            failed = "the rule of %s failed; the stream is ended"
            logger.error(failed, config.state_name, exc_info=loggable(error, state))
            return "failed"
        return "allowed"


def _send(waiting: _Waiting) -> None:
    try:
        waiting.send()
    except Exception:
        logger.exception("what was to be sent to the followers of a state could not be")
