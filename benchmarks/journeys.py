"""Measure how far a request travels through the package: the files it touches, and how often it changes file.

Three requests of the README's counter are followed, each after a first one has filled the caches: a page, the page's
stream, and a click (the POST of an event, on a page that has a stream). A call of one of the package's functions counts
as a change of file if the package's function that is executing stands in another file, even with functions of other
packages in between. Run it with `python -m benchmarks.journeys`; `--calls` lists the changes, the most frequent
first.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import threading
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from types import FrameType
from typing import Any

from fasthtml import common as fh

import faststate
from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app

from .events import HEADERS, SECRET, call, cookie_of

PACKAGE = str(Path(faststate.__file__).parent) + "/"

Place = tuple[str, str]
"""A function: its file, relative to the package, and its name."""


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


class Journey:
    """The path of one request: the `files` it touched, and its `changes` of file, each from one function to another."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.changes: Tally[tuple[Place, Place]] = Tally()

    @property
    def number(self) -> int:
        """The number of changes of file."""
        return sum(self.changes.values())

    @property
    def packages(self) -> set[str]:
        """The packages touched."""
        return set(map(_package, self.files))

    @property
    def between_packages(self) -> int:
        """The number of changes to a file of another package."""
        return sum(n for (caller, called), n in self.changes.items() if _package(caller[0]) != _package(called[0]))

    def note(self, frame: FrameType, what: str, _: object) -> None:
        """Note a call; for `sys.setprofile`."""
        if what != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        own = _place(frame)
        self.files.add(own[0])
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is not None and (place := _place(caller))[0] != own[0]:
            self.changes[place, own] += 1


def _package(file: str) -> str:
    return file.partition("/")[0]


def _place(frame: FrameType) -> Place:
    return frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_code.co_qualname


@contextmanager
def followed() -> Iterator[Journey]:
    """Follow everything that runs until the block ends, in this thread and in those that begin meanwhile."""
    journey = Journey()
    threading.setprofile(journey.note)
    sys.setprofile(journey.note)
    try:
        yield journey
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def opened(app: Any, headers: dict[str, str], tokens: str) -> tuple[str, asyncio.Task[None], asyncio.Event]:
    """Open a stream; return its connection's id, the task that keeps it, and a function that ends it."""
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    left = asyncio.Event()
    bodies = [{"type": "http.request", "body": f'{{"w":[{tokens}],"n":""}}'.encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        found = re.search(rb'"c":"([^"]+)"', message.get("body", b""))
        if found is not None and not begun.done():
            begun.set_result(found[1].decode())

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/_faststate/stream", "raw_path": b"/_faststate/stream", "query_string": b"", "root_path": "",
        "server": ("bench", 80), "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    stream = asyncio.create_task(app(scope, receive, send))
    return await begun, stream, left


async def journeys() -> dict[str, Journey]:
    """Return the journeys of a click, a page and a stream."""
    provider = StateProvider()
    provider.register_state(Counter, StateConfig(scope=StateScope.SESSION))
    app, rt = fast_app(state_provider=provider, secret_key=SECRET)

    @rt("/")
    def index(counter: Counter):
        return fh.Titled(
            "Counter", fh.P("Count: ", counter.signal.count), fh.Button("+1", counter.add.on("click", by=1))
        )

    first = await call(app, "GET", "/", HEADERS)
    headers = HEADERS | cookie_of(first)
    with followed() as page:
        messages = await call(app, "GET", "/", headers)
    html = b"".join(message.get("body", b"") for message in messages).decode()
    tokens = ",".join(f'"{token}"' for token in re.findall(r'"p[0-9a-f]{8}":"([^"]+)"', unescape(html)))

    _, before, left = await opened(app, headers, tokens)
    left.set()
    await before
    with followed() as stream:
        connection_id, open_stream, left = await opened(app, headers, tokens)
    headers["faststate-connection"] = connection_id

    async def click(number: int) -> None:
        body = f'{{"a":{{"by":1}},"w":[{tokens}],"q":{number}}}'.encode()
        nonce = {"faststate-nonce": f"benchmark{number}"}
        sent = await call(app, "POST", "/_faststate/event/Counter/add", headers | nonce, body)
        assert sent[0]["status"] == 204, sent

    await click(1)
    with followed() as clicked:
        await click(2)
    left.set()
    await open_stream
    await provider.stop()
    return {"click": clicked, "page": page, "stream": stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="list the changes of file too")
    arguments = parser.parse_args()
    print(f"{'':8} {'files':>6} {'changes':>8} {'packages':>9} {'changes':>8}")
    for name, journey in asyncio.run(journeys()).items():
        print(
            f"{name:8} {len(journey.files):6} {journey.number:8} {len(journey.packages):9} {journey.between_packages:8}"
        )
        if arguments.calls:
            for ((from_file, caller), (to_file, called)), times in journey.changes.most_common():
                print(f"    {times:3}  {from_file} {caller} -> {to_file} {called}")


if __name__ == "__main__":
    main()
