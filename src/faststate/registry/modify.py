"""`provider.modify`: a transaction as a `with` block, on the event loop and outside it; and calls from sync code."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from ..state.reactive import ReactiveState
from .protocols import OutdatedError
from .registry import Entry, StateRegistry
from .transaction import Guard, Holder, Transaction, current_holder

__all__ = ["Loop", "Modify", "Settled", "call_from_anywhere", "loop_for_scripts"]

S = TypeVar("S", bound=ReactiveState)
T = TypeVar("T")

Loop = Callable[[], asyncio.AbstractEventLoop | None]
"""Gives the app's event loop, or None where none runs."""


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
        state = await self._begin()
        self._token = current_holder.set(Holder(self._owner, asyncio.current_task()))
        return state

    @property
    def _owner(self) -> object:
        return self._transaction.owner if self._transaction is not None else self

    async def _begin(self) -> S:
        try:
            entry, transaction = await self._begin_once()
        except OutdatedError:
            entry, transaction = await self._begin_once()
        self._transaction = transaction
        state: S = transaction.copy(entry)
        return state

    async def _begin_once(self) -> tuple[Entry, Transaction]:
        entry, guard = await self._find()
        transaction = Transaction(self._registry, [entry], [guard] if guard is not None else (), self._still_current)
        try:
            await transaction.begin()
        except BaseException:
            transaction.end()
            raise
        return entry, transaction

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._let_go()
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
            if not _is_import() or _loop_outside(self._app_loop) is asyncio.get_running_loop():
                raise RuntimeError("this code runs on the event loop: write `async with provider.modify(...)`")
        self._loop = _loop_outside(self._app_loop)
        outer = current_holder.get()
        state: S = self._call(self._begin(), Holder(outer.identity, None) if outer is not None else None)
        self._token = current_holder.set(Holder(self._owner, None))
        return state

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._let_go()
        self._call(self._finish(commit=kind is None), None)

    def _let_go(self) -> None:
        if self._token is not None:
            # A block may end in another context than it began in (a generator closed by the loop): the locks still
            # have to be given back.
            with contextlib.suppress(ValueError):
                current_holder.reset(self._token)

    def _call(self, coroutine: Any, holder: Holder | None) -> Any:
        loop = cast(asyncio.AbstractEventLoop, self._loop)
        context = contextvars.copy_context()
        context.run(current_holder.set, holder)

        async def inside() -> Any:
            return await asyncio.get_running_loop().create_task(coroutine, context=context)

        return asyncio.run_coroutine_threadsafe(inside(), loop).result()


class Settled(Generic[T]):
    """The result of what is done already; may be awaited, and need not be."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self.value
        yield


def call_from_anywhere(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """On an event loop the coroutine itself, to be awaited; in sync code (a thread, a script) runs it to its end."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        outer = current_holder.get()

        async def inside() -> T:
            # For the event whose thread waits here, and whose locks are held: this task of the loop is its own.
            current_holder.set(Holder(outer.identity, None) if outer is not None else None)
            return await coroutine

        return Settled(asyncio.run_coroutine_threadsafe(inside(), _loop_outside(loop)).result())
    return coroutine


def _loop_outside(loop: Loop) -> asyncio.AbstractEventLoop:
    found = loop()
    return found if found is not None and found.is_running() else loop_for_scripts()


def _is_import() -> bool:
    """Whether the code that runs on the event loop is a module's own: servers that reload import the app there, where
    nothing waits for the loop yet."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "run_forever":
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


_scripts_lock = threading.Lock()
_scripts_loop: asyncio.AbstractEventLoop | None = None


def loop_for_scripts() -> asyncio.AbstractEventLoop:
    """The loop on which plain `with` works where no app runs one. Lifetime: the process; one thread, for all providers.

    One loop, and not one per thread: asyncio's locks work within one loop alone.
    """
    global _scripts_loop
    with _scripts_lock:
        if _scripts_loop is None:
            _scripts_loop = asyncio.new_event_loop()
            threading.Thread(target=_scripts_loop.run_forever, name="faststate-scripts", daemon=True).start()
        return _scripts_loop


def is_for_scripts(loop: asyncio.AbstractEventLoop) -> bool:
    """True for the loop that `loop_for_scripts` gives."""
    return loop is _scripts_loop
