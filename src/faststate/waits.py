"""Waiting with a limit, at no cost where nothing has to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["in_time"]

T = TypeVar("T")


class _Rest:
    """What is left of a coroutine that has begun, and waits for `first`."""

    __slots__ = ("_coroutine", "_first")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._first
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # a cancellation, above all: it is the coroutine's own to answer
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
        except StopIteration as done:
            return done.value


async def in_time(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns. Raises `TimeoutError`, and cancels it, when it waits for longer than `seconds`.

    It is begun without a timer, which is set where it has to wait: a request's body, say, is mostly there already.
    """
    try:
        first = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    async with asyncio.timeout(seconds):
        rest: T = await _Rest(coroutine, first)
    return rest
