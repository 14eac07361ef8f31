"""A real Redis server for tests: started, killed and started again on one port, and in one directory."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.processes import free_port

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Options of a Redis that has on its disk what it has acknowledged."""

__all__ = ["RedisServer", "require_redis"]


def require_redis() -> str:
    """Where `redis-server` is; skips the test, and says so, where there is none."""
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("redis-server is not installed: nothing of the Redis store is tested here")
    return path


class RedisServer:
    """One `redis-server` in a process of its own; from `start` to `stop`, on the same port throughout.

    `directory` is where it keeps its files, so that a restart finds them again. `options` are those of its command
    line, by name, as {"appendonly": "yes"}; by default nothing is kept.
    """

    def __init__(self, directory: Path, **options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.options = {"save": "", "appendonly": "no", **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Starts it, and waits until it answers and has loaded its data."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [require_redis(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        for name, value in self.options.items():
            command += [f"--{name.replace('_', '-')}", *(value.split(" ") if value else [""])]
        log = (self.directory / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()
        return self

    def wait(self, seconds: float = 20.0) -> None:
        """Returns when it answers to PING: it is up, and its data is loaded."""
        end = time.monotonic() + seconds
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.RedisError:
                if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def client(self, **options: Any) -> redis.Redis:
        """A plain client, to look at what is there; to be closed by who asked for it."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=10, single_connection_client=True, retry=once, **options)

    def do(self, *command: Any) -> Any:
        """The answer to one command, sent over a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def keys(self, pattern: str = "*") -> set[str]:
        """The keys that are there now."""
        return {key.decode(errors="replace") for key in self.do("KEYS", pattern)}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process where it is until the block ends: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a power cut would, but for what the operating system still writes to the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends it in an orderly way, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self, *, lose: bool = False) -> None:
        """Kills it and starts it anew; `lose` deletes what it had kept."""
        self.kill()
        if lose:
            for path in (self.directory / "appendonlydir", self.directory / "dump.rdb"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        self.start()

    @property
    def listening(self) -> bool:
        """True if anybody listens on its port."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
