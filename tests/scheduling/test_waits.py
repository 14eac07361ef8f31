"""Waiting with a limit: no timer where nothing is waited for, and the limit where something is."""

from __future__ import annotations

import asyncio

import pytest

from faststate.scheduling.waits import in_time


async def at_once(value):
    return value


async def later(value, steps):
    for _ in range(steps):
        await asyncio.sleep(0)
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, value)
    return await future


async def test_what_is_there_is_returned_without_a_timer(monkeypatch):
    monkeypatch.setattr("asyncio.timeout", None)
    assert await in_time(1, at_once("value")) == "value"


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_what_comes_in_time_is_returned(steps):
    assert await in_time(5, later("value", steps)) == "value"


async def test_what_comes_too_late_is_cancelled_and_cleans_up():
    cleaned = []

    async def never():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(TimeoutError):
        await in_time(0.01, never())
    assert cleaned == [True]


@pytest.mark.parametrize("steps", [0, 2])
async def test_an_error_goes_through_before_and_behind_a_wait(steps):
    async def fail():
        for _ in range(steps):
            await asyncio.sleep(0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await in_time(5, fail())


async def test_a_cancellation_from_outside_is_the_coroutines_own_to_see():
    seen, begun = [], asyncio.Event()

    async def wait():
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(in_time(5, wait()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_what_answers_a_cancellation_goes_on():
    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"

    task = asyncio.create_task(in_time(5, stubborn()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "saved"
