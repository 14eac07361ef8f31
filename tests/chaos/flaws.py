"""Ways to break a promise, for tests of the tests: each spoils the process that calls it."""

from __future__ import annotations

import asyncio

from faststate.registry import commits, protocols
from faststate.registry.persistence import StorePersistence


def acknowledge_before_it_is_saved() -> None:
    """Saves in the background, each commit some milliseconds later."""
    write_all = commits.write_all
    turn = asyncio.Lock()
    background = set()

    async def save_later(writes, store, seconds):
        async with turn:
            await asyncio.sleep(0.003)
            await write_all(writes, store, seconds)

    async def promise(writes, store, seconds):
        background.add(asyncio.create_task(save_later(writes, store, seconds)))

    protocols.write_all = commits.write_all = promise


def save_two_states_apart() -> None:
    """Saves the states of one event one after the other."""
    write_all = commits.write_all

    async def one_by_one(writes, store, seconds):
        for each in writes:
            await write_all([each], store, seconds)
            await asyncio.sleep(0.01)

    protocols.write_all = commits.write_all = one_by_one


def forget_nonces() -> None:
    """Saves states without the nonces of their last events."""
    encode = StorePersistence.encode

    def without(self, values, nonces, typed=None):
        return encode(self, values, ())

    StorePersistence.encode = without
