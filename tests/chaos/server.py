"""The app under uvicorn in a process that is made in milliseconds, since it is to die hundreds of times."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.forks import processes
from tests.support.processes import free_port

PATIENCE = 20  # seconds for a process to start

Flaw = Callable[[], None]
"""What spoils the server: called in its process, before the app is made."""


class FastServer:
    """One app on one port and one directory, life after life. Lifetime: the test, which ends it with `kill`."""

    def __init__(self, directory: Path, flaw: Flaw | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._log = directory / "log"
        self._flaw = flaw
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Begins a life; the server listens soon, see `listening`."""
        self._process = processes.Process(
            target=_serve, args=(self._directory, self._log, self.port, self._flaw), daemon=True
        )
        self._process.start()

    async def listening(self) -> bool:
        """Waits until the server takes connections; False when it was killed before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if self._process is None:
                    return False
                assert self._process.is_alive() and time.monotonic() < deadline, self.output()
                await asyncio.sleep(0.002)
            else:
                writer.close()
                return True

    def kill(self) -> None:
        """Ends a life with SIGKILL. Harmless when there is none."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    @property
    def is_dead(self) -> bool:
        """True if it was killed and not started since."""
        return self._process is None

    def output(self) -> str:
        """Everything the server has printed in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _serve(directory: Path, log: Path, port: int, flaw: Flaw | None) -> None:
    os.environ.pop("FASTSTATE_STORE", None)
    os.chdir(directory)  # where the store lies
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    if flaw is not None:
        flaw()
    import uvicorn

    uvicorn.run("tests.chaos.app:app", host="127.0.0.1", port=port, log_level="warning")
