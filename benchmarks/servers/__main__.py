"""One server's process: `python -m benchmarks.servers <module> <descriptor of the control socket>`.

It ends with the process that holds the socket's other end.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
from typing import Any

import uvicorn

from .app import App


class Control(asyncio.Protocol):
    """Executes commands one after the other: each is a line of JSON, and gets one in answer. Lifetime: the process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._rest = b""
        self._told: asyncio.Queue[dict] = asyncio.Queue()
        self._transport: Any = None
        self._working: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._working = asyncio.create_task(self._work())

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._told.put_nowait(json.loads(line))

    def connection_lost(self, _: Exception | None) -> None:
        os._exit(0)  # nobody measures any more, and the shutdown would wait for the streams

    def answer(self, answer: object) -> None:
        self._transport.write(json.dumps(answer).encode() + b"\n")

    async def _work(self) -> None:
        while True:
            told = await self._told.get()
            try:
                self.answer(await getattr(self._app, told.pop("do"))(**told))
            except Exception as error:
                self.answer({"error": repr(error)})


class Server(uvicorn.Server):
    """uvicorn, which reports its address as soon as it listens. Lifetime: the process."""

    def __init__(self, config: uvicorn.Config, app: App, control: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        self._control = control

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            loop = asyncio.get_running_loop()
            _, control = await loop.create_unix_connection(lambda: Control(self._app), sock=self._control)
            control.answer({"port": sockets[0].getsockname()[1]})


def main(module: str, descriptor: int) -> None:
    app: App = importlib.import_module(f"benchmarks.servers.{module}").make()
    config = uvicorn.Config(
        app.asgi, interface="asgi3", loop="uvloop", http="httptools", ws="none", access_log=False,
        log_level="warning", backlog=2_048,
    )  # fmt: skip
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        Server(config, app, socket.socket(fileno=descriptor)).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
