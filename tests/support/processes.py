"""Apps that run as processes of their own, and the ports that they get."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from tests.support.forks import Fork
from tests.support.servers import Certificate, Command, serve_with_uvicorn

LIMIT = 5  # seconds from the signal to the end of a server: what the library promises


def _seconds_without_cores() -> float:
    """Return for how long, so far, something on this machine has waited for a core; 0 where nobody counts it."""
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Check that the block, which ends a server, takes less than LIMIT on a machine that has cores for it."""
    begun, without_cores = time.monotonic(), _seconds_without_cores()
    yield
    took, waited = time.monotonic() - begun, _seconds_without_cores() - without_cores
    assert took - waited < LIMIT, f"it took {took:.2f} s, in {waited:.2f} s of which there were too few cores"


def _own_ports() -> Iterator[int]:
    """Yield the ports that this test process may give out; no process beside it has the same ones.

    They lie below those that the system gives to connections, of which one could else take the port of a server that
    is about to start, or starts again.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first, begin = 10_000 + number * ports, random.SystemRandom().randrange(ports)  # another run may be on its way too
    return itertools.cycle([*range(first + begin, first + ports), *range(first, first + begin)])


_ports = _own_ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that nobody else is given for a long time."""
    for port in _ports:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle has no end")


class Server:
    """One app on a server in a process of its own; lives from `start()` to `stop()`, on the same port throughout.

    `target` is a Python source file, whose `app` is served, or "module:attribute", found from `cwd`. The working
    directory is where the app leaves its session key and its databases, so a restart finds them again. `command` says
    which server it is (see `tests.support.servers`), `certificate` makes it speak TLS. By default it is
    uvicorn, as its command starts it, without the time of its imports.
    """

    def __init__(
        self,
        target: Path | str,
        *,
        cwd: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
        command: Command | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        if isinstance(target, Path):
            self._target, app_dir = f"{target.stem}:app", target.resolve().parent
        else:
            self._target, app_dir = target, cwd
        self.cwd = cwd
        self.port = free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self.certificate = certificate
        self._command = command
        self._log = log
        # The store that a test uses is the test's word, never that of the machine it runs on.
        inherited = {name: value for name, value in os.environ.items() if name != "FASTSTATE_STORE"}
        self._env = {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(app_dir), self._env.get("PYTHONPATH")]))
        self._process: subprocess.Popen[bytes] | Fork | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | Fork:
        if self._process is None:
            raise RuntimeError(f"{self._target} was not started")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 20) -> None:
        """Start the process and return once it accepts connections."""
        if self.running:
            raise RuntimeError(f"{self._target} is running already, as process {self.process.pid}")
        if self._command is None:
            served = partial(serve_with_uvicorn, self._target, self.port)
            self._process = Fork(served, cwd=self.cwd, env=self._env, log=self._log)
        else:
            command = self._command(self._target, self.port, self.certificate)
            # A file and not a pipe: nobody reads while the test runs, and a full pipe would stop the server. A session
            # of its own makes what the server itself starts go down with it.
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, cwd=self.cwd, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        deadline = time.monotonic() + timeout
        while True:
            if (code := self._process.poll()) is not None:
                raise RuntimeError(f"{self._target} ended with {code} before it listened:\n{self.output()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(
                        f"{self._target} did not listen within {timeout:g} s:\n{self.output()}"
                    ) from None
                time.sleep(0.02)

    def stop(self, timeout: float = 10) -> int:
        """Ask the server to end, as a deployment does, and return its exit code; fail if it has to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError(
                    f"{self._target} did not end within {timeout:g} s of SIGTERM:\n{self.output()}"
                ) from None
        return self.process.returncode

    def kill(self) -> None:
        """End it at once, with all that it started: a crash, and what teardown does. Harmless when it is gone."""
        if isinstance(self._process, Fork):
            self._process.kill_all()
        elif self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # neither the server nor any child of it is left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def restart(self, *, crash: bool = False) -> None:
        """Stop (or, with `crash`, kill) and start again on the same port, so that open tabs find their way back."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def output(self) -> str:
        """Return everything the server has printed since its first start."""
        return self._log.read_text(errors="replace")


class Process:
    """An app in a file `shop.py`, run as its developer would, and what it prints. `url` is where it serves.

    `arguments` are a list for `uvicorn shop:app …`, or those of FastHTML's `serve(…)` (str) for `python shop.py`.
    Lifetime: from its making, which starts it, to `kill`.
    """

    def __init__(
        self,
        directory: Path,
        source: str,
        arguments: Sequence[str] | str,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.source = directory / "shop.py"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"log-{self.port}"
        text = textwrap.dedent(source)
        if isinstance(arguments, str):
            text += f"\nserve(port={self.port}, {arguments})\n"
            command = [sys.executable, "shop.py"]
        else:
            command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(self.port), *arguments]
        if not self.source.exists() or self.source.read_text() != text:  # another server may be watching it
            self.source.write_text(text)
        inherited = {name: value for name, value in os.environ.items() if name != "FASTSTATE_STORE"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={**inherited, **(env or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, condition: Callable[[], object], within: float) -> None:
        """Wait until `condition()` holds; fail with the process's output."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def save(self, text: str, within: float) -> None:
        """Write the app's file as an editor does; return once its reloader has seen it.

        A server may serve before its reloader watches files, on a busy machine: so it is saved again every 5 seconds.
        """
        before, saved = self.output().count("Reloading"), 0.0

        def is_seen() -> bool:
            nonlocal saved
            if time.monotonic() - saved > 5:
                self.source.write_text(text)
                saved = time.monotonic()
            return self.output().count("Reloading") > before

        self.until(is_seen, within)

    def serves(self, text: str = "", path: str = "/") -> bool:
        """True if it answers, with `text` in the page."""
        with contextlib.suppress(httpx.TransportError):
            response = httpx.get(self.url + path, timeout=2, verify=False)
            return response.status_code == 200 and text in response.text
        return False

    def output(self) -> str:
        """Return everything printed by it and by what it started."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, with everything it started. Harmless when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
