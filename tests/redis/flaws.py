"""Engines that break a promise, for tests of the tests: each spoils the worker that calls it."""

from __future__ import annotations

from typing import Any


def do_not_fence() -> None:
    """Commits whoever asks for it, though the lock has become another's, and whatever the version is."""
    from faststate.stores.redis import scripts

    text = scripts.COMMIT.text.decode()
    for check in ("then return {'lost', ARGV[i]} end", "then return {'conflict', ARGV[i], found, ARGV[i + 1]} end"):
        assert check in text
        text = text.replace(check, "then local ignored = 1 end")
    spoilt = scripts.Script(text)
    scripts.COMMIT.text, scripts.COMMIT.sha = spoilt.text, spoilt.sha


def do_not_lock() -> None:
    """Grant every lock at once, and let commits not check them."""
    from faststate.cluster.committing import CommittingCluster
    from faststate.stores.base import Hold, Locked
    from faststate.stores.redis import RedisStore

    do_not_fence()

    async def lock(self: Any, known: Any, within: float, look_for: Any = ()) -> Any:
        return Locked({key: Hold(key, f"{self.origin}:0") for key in known}, await self.fresh(known))

    RedisStore.lock = lock  # type: ignore[method-assign]
    CommittingCluster.release = lambda self, entry: setattr(entry.shared or entry, "hold", None)  # type: ignore[method-assign]


def drop_messages() -> None:
    """Publishes the messages of two commits out of three."""
    from faststate.stores.redis import RedisStore

    commit, number = RedisStore.commit, 0

    async def lossy(self: Any, writes: Any, messages: Any = (), holds: Any = (), keep: Any = ()) -> Any:
        nonlocal number
        number += 1
        return await commit(self, writes, messages if number % 3 else (), holds, keep)

    RedisStore.commit = lossy  # type: ignore[method-assign]


def tell_the_new_before_the_old() -> None:
    """Apply messages in another order than they came in, and check no version."""
    from faststate.cluster.following import Following
    from faststate.registry import commits
    from faststate.scopes import Version

    apply_change = Following._apply_change
    waiting: list[Any] = []

    def swapped(self: Any, entry: Any, message: Any) -> None:
        waiting.append((self, entry, message))
        if len(waiting) == 2:
            for each in reversed(waiting):
                following, its, what = each
                version = what.version
                its.stored = Version(version.epoch, version.number - 1) if what.before is not None else None
                apply_change(following, its, what)
            waiting.clear()

    Following._apply_change = swapped  # type: ignore[method-assign]
    commits._is_behind = lambda version, stored: False


def never_look_again() -> None:
    """Assume that nothing was missed when the connection for messages was lost."""
    from faststate.cluster.following import Following

    async def nothing(self: Any, lost: int) -> None:
        for topic in self._topics.values():
            topic.current = True
        self._lost_at = None

    Following._catch_up = nothing  # type: ignore[method-assign]


def forget_nonces() -> None:
    """Does an event again that is sent again."""
    from faststate.registry.commits import Committer
    from faststate.registry.entries import Entry

    async def never(self: Any, *arguments: Any) -> bool:
        return False

    Committer.has_stored = never  # type: ignore[method-assign, assignment]
    Entry.has_seen = lambda self, digest: False  # type: ignore[method-assign]


def none() -> None:
    """It is Redis that keeps nothing."""
