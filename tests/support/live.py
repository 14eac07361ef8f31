"""An app that is really served, and the pages that follow it: for tests of what goes over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading

import httpx
import uvicorn

from tests.support.client import BROWSER, Page, merge
from tests.support.waiting import PATIENCE, eventually


class Model:
    """A page's knowledge: signals, elements in the order in which they came, and its position in the stream."""

    def __init__(self):
        self.signals = {}
        self.elements = []
        self.position = None
        self.beats = 0
        self.patched = []

    def feed(self, block):
        """Apply one whole SSE block, without its empty line."""
        fields = [line.partition(": ")[::2] for line in block.splitlines()]
        data = [value for name, value in fields if name == "data"]
        for name, value in fields:
            if name == "id":
                self.position = value
            elif name == "event" and value == "datastar-patch-signals":
                patch = json.loads("\n".join(line.removeprefix("signals ") for line in data))
                self.patched.append(patch)
                merge(self.signals, patch)
            elif name == "event":
                self.elements.append("\n".join(data))
        self.beats += not any(name in ("id", "event") for name, _ in fields)

    def feed_bytes(self, frames):
        """Apply the bytes that arrived. Like a browser, ignore a block that was cut off."""
        *whole, _ = frames.decode(errors="replace").split("\n\n")
        for block in whole:
            self.feed(block)


class Recorder:
    """A writer without a stream: it keeps what is written while it `takes` anything. `model` is what its page knows."""

    lost = False

    def __init__(self):
        self.bodies, self.takes = [], True

    @property
    def ready(self):
        return self.takes

    def write(self, chunk):
        if self.takes:
            self.bodies.append(chunk.body)
        return self.takes

    def wake(self):
        pass

    def hurry(self, seconds):
        pass

    def leave(self):
        pass

    @property
    def model(self):
        model = Model()
        model.feed_bytes(b"".join(self.bodies))
        return model


def assert_nothing_is_left(manager):
    """Assert that nothing is kept of any stream: in no index, no list of pending writes, no timer."""
    left = {
        name: value
        for name in ("connections", "behind", "topics", "_changed", "_alone")
        if (value := getattr(manager if hasattr(manager, name) else manager.fanout, name))
    }
    assert not left
    assert not any(index.names() for index in (manager.of_user, manager.of_session, manager.of_address))
    assert not any(manager.heartbeat.slots) and manager.heartbeat.timer is None, "signs of life go to nobody"
    assert manager.lag == 0 and manager.fanout.subscriptions == 0


@contextlib.contextmanager
def serving(app, *, sent=None, **config):
    """Serve `app` by uvicorn in a thread of this process, on a port of its own. No signal ends it.

    `sent` is how many bytes its kernel takes that a reader has not; else it is some megabytes.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    if sent is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sent)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", **config))
    thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        ended = not thread.is_alive()
        server.force_exit = True
        thread.join(PATIENCE)
        listener.close()
        assert ended, "the server did not end"
    assert_nothing_is_left(app.state.faststate.sse_manager)


class Site:
    """The served app, and the browsers that visit it. `writer` is the kind that its streams must have (None: any)."""

    def __init__(self, url, provider, stack, writer=None):
        self.url = url
        self.provider = provider
        self.stack = stack
        self.writer = writer

    async def browser(self, user=None):
        client = await self.stack.enter_async_context(
            httpx.AsyncClient(base_url=self.url, verify=False, timeout=PATIENCE)
        )
        if user is not None:
            assert (await client.get(f"/login/{user}")).text == "in"
        return client

    async def tabs(self, number, user=None, **tab):
        """Open that many tabs in one new browser."""
        client = await self.browser(user)
        return [await self.tab(client, **tab) for _ in range(number)]

    async def tab(self, client, path="/", *, streaming=True):
        tab = Tab(self, client)
        await tab.load(path)
        if streaming:
            await tab.open()
        return tab


@contextlib.asynccontextmanager
async def visiting(app, provider, path="", *, writer=None, **serving_options):
    """Serve `app`, and make a `Site` of what lies below `path` there."""
    with serving(app, **serving_options) as url:
        async with contextlib.AsyncExitStack() as stack:
            yield Site(url + path, provider, stack, writer)


class Tab(Model):
    """A loaded page, its stream, and what it has been told."""

    def __init__(self, site, client):
        super().__init__()
        self.site = site
        self.client = client
        self.response = None

    async def load(self, path):
        page = await Page.open(self.client, path)
        self.tokens, self.position = page.tokens, page.position
        self.signals = {**page.signals, "_fs": {"c": ""}}

    def request(self, *, last_event_id=None, headers=None, tokens=None):
        payload = {"w": self.tokens if tokens is None else tokens, "n": self.position}
        sent = {**BROWSER, **(headers or {})}
        if last_event_id is not None:
            sent["last-event-id"] = last_event_id
        return self.client.stream("POST", "/_faststate/stream", json=payload, headers=sent)

    async def open(self, **request):
        """Open the stream and read up to its first position."""
        self.closing = contextlib.AsyncExitStack()
        self.response = await self.closing.enter_async_context(self.request(**request))
        assert self.response.status_code == 200
        self.site.stack.push_async_exit(self.closing)
        self.lines = self.response.aiter_lines()
        self.patched, self.elements, self.position = [], [], None
        await self.until(lambda: self.position is not None)
        await eventually(lambda: self.connection is None or self.connection.streaming)
        if self.site.writer is not None and self.connection is not None:
            assert type(self.connection.writer) is self.site.writer, "another transport than the one under test"

    @property
    def connection(self):
        """The server's side of its stream."""
        return self.site.provider.sse_manager.connections.get(self.signals["_fs"]["c"])

    async def until(self, condition):
        """Read the stream until `condition()` holds."""
        block = []
        async with asyncio.timeout(PATIENCE):
            while not condition():
                line = await anext(self.lines)
                if line:
                    block.append(line)
                elif block:
                    self.feed("\n".join(block))
                    block = []

    async def ends(self):
        """Read the stream to its end."""
        async with asyncio.timeout(PATIENCE):
            lines = [line async for line in self.lines]
        self.feed_bytes("\n".join([*lines, ""]).encode())

    async def close(self):
        await self.closing.aclose()

    async def shows(self, name, values):
        """Read the stream until the page shows these values of a state."""
        await self.until(lambda: self.signals.get(name) == values)

    async def post(self, name, **payload):
        headers = {**BROWSER, "faststate-connection": self.signals["_fs"]["c"]}
        return await self.client.post(f"/_faststate/event/{name}", json={"w": self.tokens, **payload}, headers=headers)


def frozen_reader(tab, position=None):
    """Ask for the stream of a tab or a page, and never read: return the socket."""
    position = tab.position if position is None else position
    request = tab.client.build_request(
        "POST", "/_faststate/stream", json={"w": tab.tokens, "n": position}, headers=BROWSER
    )
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((request.url.host, request.url.port))
    head = f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items()) + "\r\n"
    sock.sendall(head.encode() + request.content)
    return sock
