"""Locks between processes: asked for, waited for, and given back whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ...exceptions import LockTimeoutError, PersistenceError
from ...scopes import Version
from ..base import Hold
from .client import RETURN_INTERVAL, Argument, Client
from .scripts import GIVE_BACK, LOCK
from .standing import Standing

__all__ = ["Had", "Locking", "token"]

logger = logging.getLogger("faststate")

LOOK_AGAIN: Final = 0.5
"""Seconds after which who waits for a lock looks again by itself: the word that it was handed over can be lost."""

PORTION: Final = 500
"""Locks given back by one script at most."""

Had = tuple[str, list[Any]]
"""The fence of some locks, and what came along with them."""

_numbers = itertools.count(1)  # of all stores of the process: none is drawn twice


def token(version: Version | None) -> str:
    """A version as scripts know it: nothing for None."""
    return "" if version is None else f"{version.number} {version.epoch}"


class Locking:
    """The locks that this process asks for and gives back. Lifetime: the client.

    `rejoin` makes this process a member again that was taken for dead, and `now` is the time as scripts take it.
    """

    def __init__(
        self, client: Client, standing: Standing, *, rejoin: Callable[[str], Any], now: Callable[[], Argument]
    ) -> None:
        self._client = client
        self._standing = standing
        self._rejoin = rejoin
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Event] = {}  # by fence
        self._back: dict[str, dict[str, str]] = {}  # what is to be given back: fences by key, by the way how
        self._task: asyncio.Task[None] | None = None

    # -- asking --------------------------------------------------------------------------------------------------------

    async def lock(self, known: Mapping[str, Version | None], within: float, look_for: Sequence[str]) -> Had:
        """Has the locks of all keys, in their order. Raises `LockTimeoutError`."""
        keys = sorted(known)
        pairs = [part for key in keys for part in (key, token(known[key]))]
        at = ""
        try:
            async with asyncio.timeout(within):
                while True:
                    fence = f"{self._standing.origin}:{next(_numbers)}"
                    woken = self._waiting[fence] = asyncio.Event()
                    how = "unknown"  # whether Redis has seen, or will see, what was asked
                    try:
                        while True:
                            how = "unknown"
                            answer = await self._client.run(
                                LOCK, self._now(), fence, len(keys), *pairs, *look_for, again=True
                            )
                            how = "unused"
                            if answer[0] != b"wait":
                                break
                            at = answer[1].decode()
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(LOOK_AGAIN):
                                    await woken.wait()
                            woken.clear()
                        if answer[0] == b"had":
                            return fence, answer[1:]
                    except BaseException:
                        self._put_back([(key, fence) for key in keys], how)
                        raise
                    finally:
                        del self._waiting[fence]
                    await self._rejoin(self._member(fence))
        except TimeoutError as error:
            if at:
                raise LockTimeoutError(f"{at} was locked by another process for {within:g} s") from error
            raise LockTimeoutError(f"Redis has not answered for {within:g} s who has {', '.join(keys)}") from error

    def woken(self, fence: str) -> None:
        """A lock was handed over to `fence`, which may know it already, or have been given back."""
        event = self._waiting.get(fence)
        if event is not None:
            event.set()

    def look_again(self) -> None:
        """Has all who wait look again: a process has died."""
        for event in self._waiting.values():
            event.set()

    # -- giving back ---------------------------------------------------------------------------------------------------

    def give_back(self, holds: Iterable[Hold], *, unclean: bool = False, used: bool = True) -> None:
        """Gives locks back, as soon as Redis is there."""
        self._put_back(holds, "unclean" if unclean else "clean" if used else "unused")

    def _put_back(self, holds: Iterable[tuple[str, str]], how: str) -> None:
        self._back.setdefault(how, {}).update({f"{fence} {key}": key for key, fence in holds})
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._give_back(), name="faststate redis give back")

    async def _give_back(self) -> None:
        while any(self._back.values()):
            how = next(how for how, holds in self._back.items() if holds)
            holds = self._back[how]
            portion = dict(itertools.islice(holds.items(), PORTION))
            pairs: list[Argument] = []
            for name, key in portion.items():
                fence = name.partition(" ")[0]
                if self._member(fence) == self._standing.origin:  # the locks of a former one are void
                    pairs += (key, fence)
            try:
                if pairs:
                    await self._client.run(GIVE_BACK, how, *pairs, again=True)
            except PersistenceError:
                await asyncio.sleep(RETURN_INTERVAL)
                continue
            for name in portion:
                holds.pop(name, None)

    async def settled(self, seconds: float) -> None:
        """Returns when all is given back, or Redis has been away for so long."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self._task)

    async def close(self) -> None:
        """Gives nothing back any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @staticmethod
    def _member(fence: str) -> str:
        return fence.partition(":")[0]
