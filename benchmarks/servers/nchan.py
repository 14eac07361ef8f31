"""nginx with nchan, the publish and subscribe server in C: one worker, EventSource subscribers, changes by POST."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ..load import PATIENCE, mark
from . import Server

MODULES = (
    "/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/local/lib/nginx/modules/ngx_nchan_module.so",
)  # fmt: skip
"""Where Debian, Fedora and others put it."""

CONFIG = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 15000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    client_body_buffer_size 64k;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location /stream {{
            nchan_subscriber eventsource;
            nchan_channel_id board;
            nchan_subscriber_first_message oldest;
        }}
        location /publish {{
            nchan_publisher;
            nchan_channel_id board;
            nchan_message_buffer_length 1;
            nchan_message_timeout 1h;
        }}
    }}
}}
"""


def module() -> str | None:
    """Return the path of nchan, or None if it, or nginx, is not installed."""
    return next((path for path in MODULES if Path(path).exists()), None) if shutil.which("nginx") else None


class NchanServer(Server):
    """nginx as a plain process, with its files in its own directory. Lifetime: a `with` block."""

    def _start(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="benchmark-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = free.getsockname()
        path = Path(self._directory.name)
        path.chmod(0o755)  # the worker may be another user
        (path / "nginx.conf").write_text(CONFIG.format(module=module(), directory=path, port=self.address[1]))
        self._process = subprocess.Popen(
            ["nginx", "-c", str(path / "nginx.conf"), "-p", str(path), "-e", str(path / "error.log")],
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_end_with_parent,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._control = socket.create_connection(self.address, timeout=PATIENCE)
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx does not start: {self.output()}") from None
                time.sleep(0.02)
        self._answers = self._control.makefile("rb")
        self._asked = 0
        self.tell("change", text="")
        self.reply()

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            workers = self._processes()[1:]
            self._process.terminate()  # the master ends its worker at once
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                subprocess.run(["kill", "-9", *map(str, workers)], check=False)
        super()._end()
        if hasattr(self, "_directory"):
            self._directory.cleanup()

    def tell(self, what: str, **arguments: Any) -> None:
        assert self._control is not None
        if what == "change":
            texts = [arguments["text"]]
        elif what == "burst":
            texts = [mark(arguments["first"] + n) for n in range(arguments["count"])]
        else:
            return
        self._asked = len(texts)
        self._control.sendall(b"".join(map(_request, texts)))

    def reply(self) -> Any:
        for _ in range(self._asked):
            status = self._answers.readline()
            if b" 20" not in status:
                raise RuntimeError(f"nchan has answered {status!r}")
            length = 0
            while (line := self._answers.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self._answers.read(length)
        self._asked = 0

    def _processes(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: ends with the measuring process, however that ends


def _request(text: str) -> bytes:
    body = f'signals {{"Board":{{"text":"{text}"}}}}'.encode()
    return (
        b"POST /publish HTTP/1.1\r\nhost: bench\r\nx-eventsource-event: datastar-patch-signals\r\n"
        b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    )
