"""A server in a process that is made in milliseconds, for tests that end many of them in many ways."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.support.forks import Fork
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE

Flaw = Callable[[], None]
"""What spoils a server: called in its process, before the app is made."""


class ForkedServer:
    """An app on one port and one directory. Lifetime: the test; it may start again after its end.

    `serve` is called with the port in the new process, and serves until a signal comes.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        serve: Callable[[int], None],
        *,
        env: Mapping[str, str] = os.environ,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._log = directory / f"log-{name}"
        self._env = env
        self._serve = serve
        self._fork: Fork | None = None

    def start(self) -> None:
        """Begins; it listens soon, see `listening`."""
        self._fork = Fork(partial(self._serve, self.port), cwd=self._directory, env=self._env, log=self._log)

    @property
    def fork(self) -> Fork:
        assert self._fork is not None, f"{self.name} was not started, or was killed"
        return self._fork

    @property
    def is_dead(self) -> bool:
        """True if it was killed and not started since."""
        return self._fork is None

    async def listening(self) -> bool:
        """Waits until it takes connections; False when it was killed before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if self._fork is None:
                    return False
                assert self._fork.poll() is None and time.monotonic() < deadline, self.output()
                await asyncio.sleep(0.002)
            else:
                writer.close()
                return True

    def kill(self) -> None:
        """Ends it with SIGKILL. Harmless when it is gone."""
        if self._fork is not None:
            self._fork.kill_all()
            self._fork = None

    def output(self) -> str:
        """Everything it has printed in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
