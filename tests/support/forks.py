"""Python processes that are made in milliseconds: forks of one that has imported all that servers need."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "anyio._backends._asyncio", "apsw", "faststate", "faststate.stores.sqlite", "fasthtml.common", "fastlite",
        "httptools", "httpx", "pytest", "starlette.testclient", "tests.support.forked_server", "uvicorn",
        "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto", "uvloop",
    ]
)  # fmt: skip


class Fork:
    """A process that runs `target`, with as much of `subprocess.Popen` as our tests use. Lifetime: the process's.

    It stands alone: a session, a directory and an environment of its own, and what it prints goes to `log`.
    """

    def __init__(self, target: Callable[[], None], *, cwd: Path, env: Mapping[str, str], log: Path) -> None:
        self._process = processes.Process(target=_run, args=(target, cwd, dict(env), log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Ends it at once, with all that it started. Harmless when it is gone."""
        self._process.kill()  # it may not have a group of its own yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def run_module(
    module: str, *arguments: str, cwd: Path, env: Mapping[str, str], timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments…` in `cwd` with the environment `env`."""
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory) / "out", Path(directory) / "err"
        fork = Fork(partial(_run_module, module, arguments, out), cwd=cwd, env=env, log=err)
        try:
            code = fork.wait(timeout)
        finally:
            fork.kill_all()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def _run(target: Callable[[], None], cwd: Path, env: dict[str, str], log: Path) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.chdir(cwd)
    _print_to(log, sys.stdout, sys.stderr)
    target()


def _run_module(module: str, arguments: Sequence[str], out: Path) -> None:
    _print_to(out, sys.stdout)
    sys.path.insert(0, os.getcwd())
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _print_to(file: Path, *streams: Any) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in streams:
        os.dup2(descriptor, stream.fileno())
        stream.reconfigure(line_buffering=True)
