"""Locks between processes: requested, waited for, and given back whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from ...exceptions import LockTimeoutError, PersistenceError
from ...scopes import Version
from ..base import Hold, Locked
from .address import RedisOptions
from .client import RETURN_INTERVAL, RedisClient
from .process import ThisProcess
from .rules import Argument, make_fence, member_of, read_news, version_text
from .scripts import GIVE_BACK, LOCK

LOOK_AGAIN: Final = 0.5
"""Seconds after which a request asks for its lock again by itself: the notice of a handed-over lock can be lost."""

PORTION: Final = 500
"""Most locks that one script gives back."""

_numbers = itertools.count(1)  # shared by all stores of the process, so that no number is used twice


class RedisLocks:
    """The locks that this process requests and gives back. Lifetime: the client.

    `rejoin` makes this process a member again after it was taken for dead.
    """

    def __init__(
        self,
        client: RedisClient,
        options: RedisOptions,
        process: ThisProcess,
        *,
        rejoin: Callable[[str], Awaitable[None]],
    ) -> None:
        self._client = client
        self._options = options
        self._process = process
        self._rejoin = rejoin
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Event] = {}  # by fence
        self._back: dict[str, dict[tuple[str, str], None]] = {}  # holds to give back, by how they were used
        self._task: asyncio.Task[None] | None = None

    # -- requesting ----------------------------------------------------------------------------------------------------

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str]) -> Locked:
        """Lock all keys, in their order. As `SharedStore.lock`."""
        keys = sorted(known)
        pairs = [part for key in keys for part in (key, version_text(known[key]))]
        waits_for = ""
        try:
            async with asyncio.timeout(within):
                while True:
                    fence = make_fence(self._process.origin, next(_numbers))
                    woken = self._waiting[fence] = asyncio.Event()
                    used = "unknown"  # as long as Redis may still receive the request
                    try:
                        while True:
                            used = "unknown"
                            answer = await self._client.run(
                                LOCK, self._options.now(), fence, len(keys), *pairs, *look_for, again=True
                            )
                            used = "unused"
                            if answer[0] != b"wait":
                                break
                            waits_for = answer[1].decode()
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(LOOK_AGAIN):
                                    await woken.wait()
                            woken.clear()
                        if answer[0] == b"had":
                            return _locked(keys, fence, *answer[1:])
                    except BaseException:
                        self.give_back([(key, fence) for key in keys], used)
                        raise
                    finally:
                        del self._waiting[fence]
                    await self._rejoin(member_of(fence))
        except TimeoutError as error:
            if waits_for:
                raise LockTimeoutError(f"{waits_for} was locked by another process for {within:g} s") from error
            raise LockTimeoutError(f"Redis did not answer within {within:g} s who holds {', '.join(keys)}") from error

    def woken(self, fence: str) -> None:
        """Note that a lock was handed over to `fence`, which may know so already, or may have been given back."""
        event = self._waiting.get(fence)
        if event is not None:
            event.set()

    def look_again(self) -> None:
        """Wake all requests that wait: a process has ended, and its locks are free."""
        for event in self._waiting.values():
            event.set()

    # -- giving back ---------------------------------------------------------------------------------------------------

    def give_back(self, holds: Iterable[tuple[str, str]], used: str) -> None:
        """Give locks back, as soon as Redis can be reached. `used` says how they were used, as `GIVE_BACK` has it."""
        self._back.setdefault(used, {}).update(dict.fromkeys(holds))
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._give_back(), name="faststate redis give back")

    async def _give_back(self) -> None:
        while any(self._back.values()):
            used = next(used for used, holds in self._back.items() if holds)
            holds = self._back[used]
            portion = list(itertools.islice(holds, PORTION))
            pairs: list[Argument] = []
            for key, fence in portion:
                if member_of(fence) == self._process.origin:  # locks of a former origin are void
                    pairs += (key, fence)
            try:
                if pairs:
                    await self._client.run(GIVE_BACK, used, *pairs, again=True)
            except PersistenceError:
                await asyncio.sleep(RETURN_INTERVAL)
                continue
            for hold in portion:
                holds.pop(hold, None)

    async def settled(self, seconds: float) -> None:
        """Wait until all locks are given back, for so many seconds at most."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop giving locks back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _locked(keys: Sequence[str], fence: str, news: Iterable[Sequence[bytes]], *others: Iterable[bytes]) -> Locked:
    unclean, present, wanted = (frozenset(key.decode() for key in found) for found in others)
    return Locked({key: Hold(key, fence) for key in keys}, read_news(news), unclean, present, wanted)
