"""The checks find an engine that breaks a promise: each of these must fail them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from tests.chaos.load import Broken

from . import flaws
from .crowd import Kind
from .stage import Stage, stage

Trouble = Callable[[Stage], Awaitable[None]]
"""What is done on the stage, with the flaw there."""

SHARED: list[Kind] = [("Board", "add"), ("Item", "add"), ("Notes", "add")]
ANY = "has lost what was acknowledged| to worker-| shows |went back"
"""What is seen first of tabs, workers and the book that do not agree."""

SOON = 1.5
"""Seconds in which tabs that are not spoilt agree."""


async def work(on: Stage) -> None:
    await on.crowd.work(200, SHARED)
    await on.crowd.settle(SOON)


async def stand_still(on: Stage) -> None:
    sleeper = on.cluster.serving[0]
    _, held = await on.hold(sleeper, 0.2, once=False)
    sleeper.send(signal.SIGSTOP)
    on.cluster.serving.remove(sleeper)
    for _ in range(3):
        await on.crowd.do(on.crowd.tabs[0], "Board", "add")
    sleeper.send(signal.SIGCONT)
    await held
    on.cluster.serving.append(sleeper)
    await on.crowd.settle(SOON)


async def lose_messages(on: Stage) -> None:
    """Cut the connections of one worker while others work."""
    async with on.working(SHARED):
        for _ in range(8):
            await on.acknowledged(20)
            await on.proxies[0].cut()
    await on.crowd.settle(SOON)


async def kill_redis(on: Stage) -> None:
    await on.crowd.work(60, SHARED)
    on.redis.kill()
    await asyncio.to_thread(on.redis.start)
    on.crowd.book.restarted()
    await on.crowd.settle(SOON)


@pytest.mark.parametrize(
    ("flaw", "trouble", "finding"),
    [
        (flaws.do_not_lock, work, ANY),
        (flaws.do_not_fence, stand_still, "has lost what was acknowledged"),
        (flaws.drop_messages, work, ANY),
        (flaws.tell_the_new_before_the_old, work, ANY),
        (flaws.never_look_again, lose_messages, ANY),
        (flaws.forget_nonces, work, "has twice"),
        (flaws.none, kill_redis, "has lost what was acknowledged"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_the_checks_find_a_broken_engine(tmp_path, seed, flaw, trouble, finding):
    with pytest.raises(Broken, match=finding):
        async with stage(tmp_path, seed, workers=3, tabs=24, flaw=flaw, proxied=trouble is lose_messages) as on:
            await trouble(on)
