"""The beginning and the end of a provider: its event loop, its store, its background work, its streams."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TypeGuard

from ..cluster.base import AppCluster
from ..cluster.processes import processes_found
from ..exceptions import NotStartedError
from ..registry.registry import StateRegistry
from ..registry.sync_calls import is_for_scripts
from ..sse.manager import SSEManager

logger = logging.getLogger("faststate")


class AppLoop:
    """The event loop of the app, on which calls from threads and scripts are made. Lifetime: the provider.

    Called, it returns the loop, or None before the app has run.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    def note(self) -> None:
        """Take the running loop for the app's, unless it is the one for scripts."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and not is_for_scripts(loop):
            self._loop = loop


class Lifecycle:
    """Starts and stops the parts of a provider. Lifetime: the provider, which may start and stop many times.

    `is_started` is True between `start` and `stop`.
    """

    def __init__(self, registry: StateRegistry, cluster: AppCluster, manager: SSEManager) -> None:
        self._registry = registry
        self._cluster = cluster
        self._manager = manager
        self.is_started = False
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the store; see `StateProvider.start`."""
        while _is_here(self._ending):
            await asyncio.shield(self._ending)
        if self.is_started:
            return
        starting = self._starting
        if not _is_here(starting):
            # In a context of its own: what runs as long as the provider must not hold the first request in memory.
            starting = self._starting = asyncio.get_running_loop().create_task(
                self._start(), name="faststate-start", context=contextvars.Context()
            )
            starting.add_done_callback(self._start_ended)
        await asyncio.wait([starting])  # a caller that goes away must not cancel it for the others
        if starting.cancelled():
            raise NotStartedError("the provider was stopped while it started")
        starting.result()

    def _start_ended(self, starting: asyncio.Task[None]) -> None:
        if self._starting is starting:
            self._starting = None
        if not starting.cancelled():
            starting.exception()  # so that asyncio does not report it if nobody waits any more

    async def _start(self) -> None:
        if not self._cluster.is_shared:
            self._warn_of_other_processes()
        if self._cluster.store is not None:
            await self._cluster.store.open()
            self._registry.forget_stored()  # others may have used the store since
        await self._cluster.start()
        self.is_started = True
        self._registry.start()

    def _warn_of_other_processes(self) -> None:
        found = processes_found()
        if found is None:
            return
        logger.warning(
            "%s runs %s of this app, and %s. Run one process, or have them share their states in Redis: "
            "StateProvider(store='redis://localhost:6379')",
            found.by,
            f"{found.number} processes" if found.number is not None else "several processes",
            "each has states of its own: a tab sees those of the process that it happens to reach"
            if self._cluster.store is None
            else f"its store, {type(self._cluster.store).__name__}, is for one process",
        )

    async def stop(self) -> None:
        """End all streams and the background work, and close the store; see `StateProvider.stop`."""
        while _is_here(self._ending):
            await asyncio.shield(self._ending)
        ending = self._ending = asyncio.get_running_loop().create_future()
        try:
            if _is_here(starting := self._starting):
                await asyncio.wait([starting], timeout=self._registry.store_timeout)
                starting.cancel()  # its store does not answer
                await asyncio.wait([starting])
            await asyncio.gather(self._manager.stop(), self._registry.running.stop())
            await self._registry.stop()
            self.is_started = False
            await self._cluster.stop()
            if self._cluster.store is not None:
                await self._cluster.store.close()
        finally:
            self._registry.running.reopen()
            self._ending = None
            ending.set_result(None)

    def drain(self) -> None:
        """End all streams and events, since the server ends; see `StateProvider.drain`."""
        self._manager.drain()
        self._registry.running.drain()


def _is_here(future: asyncio.Future[None] | None) -> TypeGuard[asyncio.Future[None]]:
    """True for a pending future of the running loop: another loop may have ended in the middle of it."""
    return future is not None and not future.done() and future.get_loop() is asyncio.get_running_loop()
