"""The event loop that an app runs on, for code outside it."""

from __future__ import annotations

import asyncio

from ..registry.calling import is_for_scripts

__all__ = ["AppLoop"]


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
