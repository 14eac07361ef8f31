"""Ways to break a promise, for tests of the tests: each spoils the process that calls it."""

from __future__ import annotations

import asyncio

from faststate import commits
from faststate.commits import Committer
from faststate.persistence import StorePersistence


def acknowledge_before_it_is_saved() -> None:
    """Saves in the background, each commit some milliseconds later."""
    save = Committer.save
    turn = asyncio.Lock()
    background = set()

    async def save_later(self, saves, also):
        async with turn:
            await asyncio.sleep(0.003)
            await save(self, saves, also)

    async def promise(self, saves, also):
        background.add(asyncio.create_task(save_later(self, saves, also)))
        return [each.version for each in saves]

    Committer.save = promise


def save_two_states_apart() -> None:
    """Saves the states of one event one after the other."""
    save_all = commits.save_all

    async def one_by_one(saves, also, store, seconds):
        versions = []
        for each in saves:
            versions += await save_all([each], (), store, seconds)
            await asyncio.sleep(0.01)
        await save_all((), also, store, seconds)
        return versions

    commits.save_all = one_by_one


def forget_nonces() -> None:
    """Saves states without the nonces of their last events."""
    encode = StorePersistence.encode

    def without(self, values, nonces):
        return encode(self, values, ())

    StorePersistence.encode = without
