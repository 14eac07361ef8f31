"""`provider.modify`: a transaction as a `with` block, on the event loop and outside it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

from ..state.reactive import ReactiveState
from .ends import retry_outdated
from .entries import Entry
from .locks import Holder, current_holder
from .registry import StateRegistry
from .sync_calls import Loop, is_import, loop_outside, run_on
from .transaction import Guard, Transaction

S = TypeVar("S", bound=ReactiveState)


class Modify(Generic[S]):
    """A transaction on one state: `async with` on the loop, plain `with` outside it. Lifetime: one block."""

    def __init__(
        self,
        registry: StateRegistry,
        loop: Loop,
        find: Callable[[], Awaitable[tuple[Entry, Guard | None]]],
        still_current: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._app_loop = loop
        self._find = find
        self._still_current = still_current
        self._transaction: Transaction | None = None
        self._token: contextvars.Token[Holder | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> S:
        state = await retry_outdated(self._begin)
        self._token = current_holder.set(Holder(self._owner, asyncio.current_task()))
        return state

    @property
    def _owner(self) -> object:
        return self._transaction.owner if self._transaction is not None else self

    async def _begin(self) -> S:
        entry, guard = await self._find()
        transaction = Transaction(self._registry, [entry], [guard] if guard is not None else (), self._still_current)
        try:
            await transaction.begin()
        except BaseException:
            transaction.end()
            raise
        self._transaction = transaction
        state: S = transaction.copy(entry)
        return state

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._reset_holder()
        await self._finish(commit=kind is None)

    async def _finish(self, commit: bool) -> None:
        transaction = self._transaction
        if transaction is None:
            return
        try:
            if commit:
                self._still_current()
                await transaction.commit(transaction.prepare())
        finally:
            transaction.end()

    def __enter__(self) -> S:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            if not is_import() or loop_outside(self._app_loop) is asyncio.get_running_loop():
                raise RuntimeError("this code runs on the event loop: write `async with provider.modify(...)`")
        self._loop = loop_outside(self._app_loop)
        state = run_on(self._loop, retry_outdated(self._begin))
        self._token = current_holder.set(Holder(self._owner, None))
        return state

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._reset_holder()
        run_on(self._loop or loop_outside(self._app_loop), self._finish(commit=kind is None))

    def _reset_holder(self) -> None:
        if self._token is not None:
            # A block may end in another context than it began in (a generator closed by the loop): its locks have to
            # be released all the same.
            with contextlib.suppress(ValueError):
                current_holder.reset(self._token)
