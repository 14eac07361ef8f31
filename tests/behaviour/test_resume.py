"""Resuming: whatever is dropped, repeated, overtaken, restarted or forgotten, each page ends with the server's state.

Seeded schedules over a real app, with streams on both transports of a server that this file plays. By hand:
`python -m tests.behaviour.test_resume 10000` (and the seed to begin with, if it is not 0).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from collections import Counter as Tally
from itertools import count
from pathlib import Path
from random import Random
from typing import Annotated

import pytest
from fasthtml import common as fh
from itsdangerous import TimestampSigner
from uvicorn.protocols.http.flow_control import FlowControl

from faststate import (
    AsSignal,
    Bound,
    Component,
    ReactiveState,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
    view,
)
from faststate.exceptions import AccessError
from faststate.sessions.config import Ids
from faststate.sse import Chunk, SSEConnection, fanout
from faststate.sse.transports import AsgiWriter, DirectWriter
from faststate.wire.frames import RELOAD, REOPEN
from tests.support.asgi import http_scope
from tests.support.client import BROWSER, elements_of, merge

pytestmark = pytest.mark.usefixtures("in_tmp_path")

RUNS = int(os.environ.get("FASTSTATE_RESUME_RUNS", "240"))
PARTS = 4
PATIENCE = 20  # seconds for a run that should take milliseconds
SECRET = "for tests"
PATHS = ("/", "/small", "/docs")
HIGH_WATER = 6_000  # bytes of a reader who has stopped, until the server notices; uvicorn's are 65,536


class Divergence(AssertionError):
    """A page shows, or was told, what it must not."""


# -- the app -----------------------------------------------------------------------------------------------------------
# Each version of a state has a number `n` of its own, which only grows, whatever becomes of the state meanwhile.


class Numbers:
    """Each number once, in order. Lifetime: a run."""

    def __init__(self) -> None:
        self.last = 0

    def __next__(self) -> int:
        self.last += 1
        return self.last


numbers = Numbers()


class World(ReactiveState):
    n: int = 0
    text: str = ""
    table: AsSignal[dict[str, int]] = {}
    nested: AsSignal[dict[str, list[int] | dict[str, int]]] = {}
    items: AsSignal[list[int]] = []
    lines: list[str] = []
    secret: Annotated[str, Visible("secrets")] = ""

    @view
    def listing(self):
        return fh.Ul(*map(fh.Li, self.lines))

    @view
    def summary(self):
        return fh.P(f"{self.text} - é\n{len(self.lines)}")


class Mine(ReactiveState):
    n: int = 0
    saves: int = 0
    note: Bound[str] = ""

    @event
    async def save(self):
        self.n, self.saves, self.note = next(numbers), self.saves + 1, self.note.strip()

    @event
    async def steps(self, often: int):
        for _ in range(often):
            self.n = next(numbers)
            yield fh.B(f"step {self.n}", id="steps")
            await asyncio.sleep(0)


class Side(ReactiveState):
    n: int = 0
    table: AsSignal[dict[str, int]] = {}

    @view
    def body(self):
        return fh.P(f"side {self.n}")


class Doc(ReactiveState):
    n: int = 0
    text: str = ""
    members: ServerOnly[list[str]] = []

    @view
    def body(self):
        return fh.P(f"body of {self.text}")


class Site:
    """One process of the app after the other, over one store or none. Lifetime: a run."""

    USERS = ("guest", "ann", "bob")

    def __init__(self, random: Random, store: Path | None) -> None:
        numbers.last = 0
        self.random = random
        self.store = store
        self.failed: list[Exception] = []
        self.banned: set[str] = set()
        self.told_of: set[str] = set()
        self.hidden: set[str] = set()
        self.stale_rights: set[str] = set()
        self.history: dict[str, dict[int, ReactiveState]] = {}
        self.commits: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.lives: Tally[str] = Tally()
        self.life_of: dict[tuple[str, int], int] = {}
        self.now = 0.0
        self.tasks: set[asyncio.Task] = set()
        self.open_cycles: set[Cycle] = set()
        self.begin()

    def begin(self) -> None:
        """A new process."""
        provider = self.provider = StateProvider(
            store=f"sqlite:///{self.store}" if self.store else None,
            secret_key=SECRET,
            load_user_by_id=lambda user_id: UserContext(
                user_id, permissions=["secrets"] if user_id not in self.hidden else []
            ),
            clock=lambda: self.now,
            event_rate=1e9,
        )
        provider.register_state(World, StateConfig(scope=StateScope.GLOBAL, create=lambda _: {"n": next(numbers)}))
        provider.register_state(Mine)
        provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
        provider.register_state(Doc, StateConfig(scope=StateScope.RECORD, authorize=self.rule, create=self.make_doc))
        app, rt = fast_app(state_provider=provider, default_hdrs=False, secret_key=SECRET)

        async def docs(req, *ids):
            shown = []
            for number in ids:
                with contextlib.suppress(AccessError):
                    doc = await provider.get_state(Doc, req, record_id=number)
                    shown += [doc.signal.text, doc.body()]
                await self.turns(2)
            return shown

        @rt("/")
        async def index(
            req, world: World, mine: Mine, left: Annotated[Side, Component("left")],
            right: Annotated[Side, Component("right")],
        ):  # fmt: skip
            await self.turns(3)
            return fh.Titled(
                "All", world.listing(), world.summary(), mine.signal.note, left.body(), right.watch(),
                *await docs(req, 1, 2),
            )  # fmt: skip

        @rt("/small")
        async def small(world: World, mine: Mine):
            return fh.Titled("Small", world.listing(), mine.watch())

        @rt("/docs")
        async def only_docs(req, world: World):
            return fh.Titled("Docs", world.watch(), *await docs(req, 2, 1))

        @rt("/fragment")
        async def fragment(req, right: Annotated[Side, Component("right")]):
            await self.turns(2)
            return fh.Div(right.body(), *await docs(req, 1), id="box")

        @rt("/login/{user}")
        async def login(req, user: str):
            await provider.login(req, UserContext(user))
            return "in"

        self.app = app
        original = provider.registry.committer.snapshot

        def snapshot(made, identifier, *args, **options):
            state = original(made, identifier, *args, **options)
            self.note(identifier.key, state)
            return state

        provider.registry.committer.snapshot = snapshot

    def note(self, key: str, state: ReactiveState) -> None:
        self.lives[key] += state.n == 0
        self.life_of[key, state.n] = self.lives[key]
        self.history.setdefault(key, {})[state.n] = state
        self.commits.setdefault((self.provider.registry.epoch, key), []).append((state._committed.commit, state.n))

    async def make_doc(self, identifier) -> dict:
        await self.turns(1)
        n = next(numbers)
        return {"n": n, "text": f"doc{identifier.record_id}v{n}.", "members": list(self.USERS)}

    async def rule(self, user, doc, action) -> bool:
        await self.turns(4)
        return self.may_see(str(user.id) if user else "guest", doc)

    def may_see(self, user: str, doc: Doc) -> bool:
        return user in doc.members and user not in self.banned

    async def turns(self, most: int) -> None:
        """Some turns of the loop, in which others go on."""
        for _ in range(self.random.randint(0, most)):
            await asyncio.sleep(0)

    def start(self, coroutine) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def end(self, *, crash: bool) -> None:
        """The process ends: all that its requests wait for with it."""
        if not crash:
            others = self.tasks - self.streams()  # a server waits for them first; here they come to nothing
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.provider.stop()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for cycle in list(self.open_cycles):
            cycle.lost()
        self.open_cycles.clear()
        if not crash and self.provider.lifecycle.is_started:  # by a stream's request that was under way
            await self.provider.stop()
        if crash:
            self.provider.rechecks = None
            for connection in list(self.provider.sse_manager.connections):
                self.provider.sse_manager.remove_connection(connection)
            await self.provider.registry.committer.commits_under_way()
            self.provider.registry.sweeper.end()
            if self.provider.store is not None:
                await self.provider.store.close()

    async def settle(self, condition) -> None:
        """Returns once `condition()` holds for some turns of the loop in a row."""
        quiet = 0
        while quiet < 4:
            quiet = quiet + 1 if condition() else 0
            # The SQLite store works in a thread: there is nothing here to be woken by.
            await asyncio.sleep(0 if not self.store or quiet else 0.0002)

    def at_rest(self) -> bool:
        fanout = self.provider.sse_manager.fanout
        return not (
            self.tasks - self.streams() or fanout._changed or fanout._alone or self.provider.rechecks._tasks
        )  # fmt: skip

    def streams(self) -> set[asyncio.Task]:
        return {task for task in self.tasks if task.get_name() == "stream"}


# -- the server and the network ----------------------------------------------------------------------------------------


class Transport:
    """asyncio's transport, whose peer takes what the test has it take."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self.buffer = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        if not self.cycle.is_sending:
            self.cycle.wrote(data)
        self.buffer += data
        if len(self.buffer) > HIGH_WATER:
            self.cycle.flow.pause_writing()

    def take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        if len(self.buffer) <= HIGH_WATER // 4 and not self.cycle.frozen:
            self.cycle.flow.resume_writing()
        return taken

    def abort(self) -> None:
        self.cycle.lost()

    def is_closing(self) -> bool:
        return self.closed


class Cycle:
    """uvicorn's object for one request and its response, without the header on the wire."""

    def __init__(self, site: Site, user: str, body: bytes = b"") -> None:
        self.site = site
        self.user = user
        self.provider = site.provider
        self.transport = Transport(self)
        self.flow = FlowControl(self.transport)
        self.frozen = self.disconnected = self.response_complete = False
        self.status, self.headers = 0, []
        self.is_stream = self.is_sending = False
        self._body: bytes | None = body
        site.open_cycles.add(self)
        self._gone = asyncio.Event()

    def wrote(self, data: bytes) -> None:
        """Nothing may be written of a record whose rule has said no for the one who is written to."""
        for number, n in set(re.findall(rb"doc(\d)v(\d+)\.", data)) if self.is_stream else ():
            doc = self.site.history[f"record:Doc:{number.decode()}"][int(n)]
            if self.user not in doc.members or self.user in self.site.told_of:
                self.site.failed.append(
                    Divergence(f"{self.user} was written version {int(n)} of record {int(number)}, and may not see it")
                )

    def freeze(self) -> None:
        self.frozen = True
        self.flow.pause_writing()

    def lost(self) -> None:
        """The server notices that the connection is no more."""
        self.site.open_cycles.discard(self)
        self.transport.closed = self.disconnected = True
        self._gone.set()
        self.flow.resume_writing()

    async def send(self, message) -> None:
        self.wrote(message.get("body", b""))  # from here on it is the server's, and cannot be taken back
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        self.is_sending = True
        self.transport.write((b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n"))
        self.is_sending = False
        if not more:
            self.site.open_cycles.discard(self)
            self.response_complete = True
            self._gone.set()

    async def receive(self):
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}


class Dechunked:
    """The content of the chunks that have come so far."""

    def __init__(self) -> None:
        self._waiting = b""
        self._left = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        found, self._waiting = b"", self._waiting + data
        while self._waiting and not self.ended:
            if self._left:
                part = self._waiting[: self._left]
                self._waiting, self._left = self._waiting[len(part) :], self._left - len(part)
                found += part[: len(part) - max(0, 2 - self._left)] if self._left < 2 else part
                continue
            size, end, rest = self._waiting.partition(b"\r\n")
            if not end:
                break
            self._left, self._waiting = int(size, 16) + 2, rest
            if self._left == 2:
                self.ended = True
        return found


# -- the pages ---------------------------------------------------------------------------------------------------------


class Browser:
    """A cookie that its tabs share, and who is signed in there. Lifetime: a run."""

    def __init__(self, site: Site, name: str, user: str) -> None:
        self.site = site
        session = {"session_id": name} | ({"user_id": user} if user != "guest" else {})
        self.cookie = TimestampSigner(SECRET).sign(b64encode(json.dumps(session).encode())).decode()

    @property
    def session(self) -> dict:
        return json.loads(b64decode(self.cookie.partition(".")[0] + "=="))

    @property
    def session_id(self) -> str:
        return self.session["session_id"]

    @property
    def user(self) -> str:
        return self.session.get("user_id", "guest")

    def request(self, method: str, path: str, *, query: str = "", body: bytes = b"", headers=None, portable=False):
        """A request that the app answers: its cycle, and the task that does."""
        cycle = Cycle(self.site, self.user, body)
        fields = {"host": "testserver", "cookie": f"session_={self.cookie}", **(headers or {})}
        scope = http_scope(method, path, fields, query=query.encode())

        async def send(message) -> None:
            await cycle.send(message)

        return cycle, self.site.start(self.site.app(scope, cycle.receive, send if portable else cycle.send))

    async def fetch(self, method: str, path: str, **options) -> tuple[Cycle, str]:
        cycle, task = self.request(method, path, **options)
        await task
        for name, value in cycle.headers:
            if name == b"set-cookie":
                self.cookie = value.decode().partition(";")[0].removeprefix("session_=")
        return cycle, Dechunked().feed(bytes(cycle.transport.buffer)).decode()


class Tab:
    """One page in a browser: what Datastar and the page's own script make of what comes. Lifetime: a run."""

    def __init__(self, browser: Browser, path: str, run: Run) -> None:
        self.browser = browser
        self.site = browser.site
        self.run = run
        self.path = path
        self.busy: asyncio.Task | None = None
        self.writing: asyncio.Task | None = None
        self.opened = self.answered = 0
        self.stream: Cycle | None = None
        self.blank()

    def blank(self) -> None:
        self.signals: dict = {}
        self.views: dict[str, str] = {}
        self.shown: list = []
        self.position = ""
        self.ids: list[str] = []
        self.typed: dict[int, str] = {}
        self.said = 0
        self.floor: dict[str, int] = {}
        self.must = ""
        self.events = 0
        self.came_back: set[str] = set()
        self.told = False

    # the page itself

    async def load(self) -> None:
        """Loads the page, as at first, and opens its stream."""
        self.close()
        while True:
            _, html = await self.browser.fetch("GET", self.path)
            if "data-signals__ifmissing" in html:
                break
        self.blank()
        self.session_id = self.browser.session_id
        self.take_in(html)
        own = re.search(r"data-signals__ifmissing='([^']*)'", html)[1]
        self.signals["_fs"] |= {"n": json.loads(re.search(r'\bn:("[^"]*")', own)[1]), "c": "", "go": ""}
        self.look(self.signals["_fs"]["n"])
        self.open("")

    def take_in(self, html: str) -> None:
        for _, attributes in elements_of(html):
            if "data-signals" in attributes:
                merge(self.signals, json.loads(attributes["data-signals"]))
        for tag, address, rest in re.findall(
            r'<(\w+)(?=[^>]* data-fs-view="([^"]*)")([^>]*>.*?</\1>)', html, re.DOTALL
        ):
            self.views[address] = f"<{tag}{rest}"
        verified = [self.site.provider.tokens.signer.verify(token) for token in self.signals["_fs"]["w"].values()]
        self.shown = [shown for token in verified for shown in token.shown]

    async def fetch_fragment(self) -> None:
        """Gets one more piece of page, whose own live element opens the stream anew for all there is."""
        _, html = await self.browser.fetch("GET", "/fragment", headers=BROWSER)
        if "data-fs-live" not in html or self.must == RELOAD:
            return
        # It was rendered when it was asked for, as all of a page is; the stream that it opens brings the rest.
        self.floor.clear()
        self.take_in(html)
        self.open("")

    # its stream

    def close(self, *, noticed: bool = True) -> None:
        if self.stream is not None:
            if noticed:
                self.stream.lost()
            else:
                self.run.unnoticed.append(self.stream)
            self.stream = None

    def ask(self, position: str) -> Cycle:
        payload = {"w": list(self.signals["_fs"]["w"].values()), "n": self.signals["_fs"]["n"]}
        headers = {**BROWSER} | ({"last-event-id": position} if position else {})
        cycle, task = self.browser.request(
            "POST", "/_faststate/stream", body=json.dumps(payload).encode(), headers=headers,
            portable=self.run.random.random() < 0.5,
        )  # fmt: skip
        task.set_name("stream")
        cycle.is_stream = True
        return cycle

    def open(self, position: str, *, noticed: bool = True) -> None:
        """Opens the stream at `position`, the last id that came on the one before; '' where another begins."""
        self.close(noticed=noticed)
        self.opened += 1
        self.told = False
        self.position = position
        self.stream = self.ask(position)
        self.chunks = Dechunked()
        self.line = b""
        self.block: list[str] = []

    def read(self, size: int) -> None:
        """Take `size` bytes off the network; apply the lines that are whole and the events that have ended."""
        stream = self.stream
        if stream is None:
            return
        self.line += self.chunks.feed(stream.transport.take(size))
        while b"\n" in self.line and self.stream is stream:
            line, _, self.line = self.line.partition(b"\n")
            self.take_line(line.decode())
        if self.must or self.stream is not stream:
            return
        if (self.chunks.ended or stream.transport.closed) and not stream.transport.buffer:
            self.run.tally["ended streams"] += 1
            self.open(self.position)  # Datastar tries again, for ever

    def take_line(self, line: str) -> None:
        if line:
            name, _, value = line.partition(": ")
            if name == "id":  # taken when it is read, whatever becomes of the event
                self.position = value
                self.ids.append(value)
                self.told = True
                self.look(value)
            else:
                self.block.append(line)
            return
        block, self.block = self.block, []
        self.take_event(block)

    def take_event(self, block: list[str]) -> None:
        data = [line.removeprefix("data: ") for line in block if line.startswith("data: ")]
        if "event: datastar-patch-signals" in block:
            patch = json.loads("\n".join(line.removeprefix("signals ") for line in data))
            self.run.tally["patches"] += 1
            merge(self.signals, patch)
            self.never_older()
        elif "event: datastar-patch-elements" in block:
            selector = next((line for line in data if line.startswith("selector ")), "")
            html = "\n".join(line.removeprefix("elements ") for line in data if line.startswith("elements "))
            if address := re.search(r'data-fs-view="([^"]*)"', selector):
                self.views[address[1]] = html
        go = self.signals.get("_fs", {}).get("go")
        if go in (RELOAD, REOPEN):
            self.signals["_fs"]["go"] = ""
            if go == RELOAD:
                self.must = RELOAD
                self.close()
            else:
                self.open("")

    # what must hold

    def key_of(self, shown) -> tuple[str, tuple[str, ...]]:
        config = self.site.provider.registrations.config_of(self.site.provider.registrations.class_named(shown.name))
        identifier = config.identifier(
            Ids(session_id=self.session_id, component_id=shown.instance_id, record_id=shown.instance_id)
        )
        return identifier.key, identifier.namespace

    def of(self, namespace) -> dict:
        found = self.signals
        for name in namespace:
            found = found.get(name, {})
        return found

    def is_made_anew(self, key: str, n: int, last: int) -> bool:
        return n == 0 and self.site.lives[key] > self.site.life_of[key, last]

    def never_older(self) -> None:
        """No state goes back to a version older than one that this page has shown."""
        for shown in self.shown:
            key, namespace = self.key_of(shown)
            n = self.of(namespace).get("n")
            if n in (None, ""):
                continue
            last = self.floor.get(key, 0)
            if n < last and not self.is_made_anew(key, n, last):
                raise Divergence(f"{key} went back from version {last} to {n}")
            self.floor[key] = n

    def look(self, position: str) -> None:
        """With an id, the page has all that the id promises: each state as it was at that commit, or later."""
        epoch, _, number = position.partition(".")
        for shown in self.shown:
            key, namespace = self.key_of(shown)
            signals = self.of(namespace)
            promised = [n for commit, n in self.site.commits.get((epoch, key), ()) if commit <= int(number)]
            if not promised or signals.get("n") in ("", None):
                continue
            if signals["n"] < promised[-1] and not self.is_made_anew(key, signals["n"], promised[-1]):
                raise Divergence(f"{position} promises version {promised[-1]} of {key}, which shows {signals['n']}")
            state = self.site.history[key][signals["n"]]
            different = {
                name for name, value in state._wire().items()
                if name != "note" and signals.get(name) != value and not (name == "secret" and signals[name] == "")
            }  # fmt: skip
            if different:
                raise Divergence(f"at {position} {key} is no version of itself: {different}, {signals}")

    def may_see_again(self) -> bool:
        """True if a record has vanished from here that the user may see by now."""
        for shown in self.shown:
            key, namespace = self.key_of(shown)
            doc = self.site.provider.registry.peek(key)
            has_vanished = isinstance(doc, Doc) and self.of(namespace).get("n") == ""
            if has_vanished and key not in self.came_back and self.site.may_see(self.browser.user, doc):
                self.came_back.add(key)
                return True
        return False

    def compare(self) -> None:
        """The page shows what the server has, as far as its user may see it."""
        provider = self.site.provider
        for shown in self.shown:
            key, namespace = self.key_of(shown)
            state = provider.registry.peek(key)
            if state is None:
                raise Divergence(f"{key} is watched, and not there")
            user = None if self.browser.user == "guest" else UserContext(self.browser.user)
            if user is not None and self.browser.user not in self.site.hidden:
                user.permissions.append("secrets")
            seen = state._seen_by(user)
            expected = seen._committed.encoded
            views = {f"{'.'.join(namespace)}.{name}": str(getattr(seen, name)()) for name in shown.views}
            if isinstance(state, Doc) and not self.site.may_see(self.browser.user, state):
                expected = dict.fromkeys(expected, "")
                views = {name: f'<span data-fs-view="{name}" hidden></span>' for name in views}
            found = {name: value for name, value in self.of(namespace).items() if name != "said"}
            if found != expected:
                raise Divergence(f"{key} is {expected}, and the page shows {found}")
            for name, html in views.items():
                if self.views.get(name) != html:
                    raise Divergence(f"the view {name} is {html!r}, and the page shows {self.views.get(name)!r}")


# -- the schedule ------------------------------------------------------------------------------------------------------


class Run:
    """One schedule from its seed: its steps are made beforehand, so that fewer of them can be tried."""

    def __init__(self, seed: int, *, store: Path | None = None) -> None:
        self.seed = seed
        self.store = store
        self.tally: Tally[str] = Tally()
        random = Random(seed)
        self.browsers = random.randint(1, 3)
        self.tabs_of = [random.randrange(self.browsers) for _ in range(random.randint(2, 4))]
        self.paths = [random.choice(PATHS) for _ in self.tabs_of]
        self.steps = [self.a_step(random) for _ in range(random.randint(8, 40))]

    KINDS = {
        "commit": 30, "burst": 5, "doc": 8, "read": 30, "read all": 6, "freeze": 4, "go on": 6, "drop": 9, "again": 4,
        "twice": 3, "event": 8, "save": 6, "frame": 4, "say": 3, "fragment": 3, "restart": 2, "expire": 5, "rights": 3,
        "quiet rights": 1, "login": 1, "notice": 3, "everybody": 2, "reload": 1,
    }  # fmt: skip

    def a_step(self, random: Random) -> tuple:
        kind = random.choices(list(self.KINDS), list(self.KINDS.values()))[0]
        return kind, random.randrange(1 << 30), random.randint(0, 3)

    async def go(self) -> None:
        self.random = Random(self.seed + 1)
        self.unnoticed: list[Cycle] = []
        self.site = site = Site(Random(self.seed + 2), self.store)
        users = Random(self.seed + 3).sample(Site.USERS, 3)
        self.sessions = [Browser(site, f"session-{i}", users[i]) for i in range(self.browsers)]
        self.tabs = [Tab(self.sessions[i], path, self) for i, path in zip(self.tabs_of, self.paths, strict=True)]
        try:
            async with asyncio.timeout(PATIENCE):
                for tab in self.tabs:
                    await tab.load()
                for kind, choice, turns in self.steps:
                    random = Random(choice)
                    self.tally["steps"] += 1
                    self.tally[kind] += 1
                    await getattr(self, "do_" + kind.replace(" ", "_"))(random, random.choice(self.tabs))
                    self.follow_orders()
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    self.check()
                await self.deliver_all()
                for tab in self.tabs:
                    tab.compare()
        except TimeoutError:
            waiting = {
                index: (tab.must, tab.busy, tab.writing, tab.told, tab.stream and len(tab.stream.transport.buffer))
                for index, tab in enumerate(self.tabs)
            }
            manager = site.provider.sse_manager
            raise Divergence(f"it does not come to rest: {waiting}, {manager.behind}, {site.tasks}") from None
        finally:
            with contextlib.suppress(Exception):
                await site.end(crash=True)

    def check(self) -> None:
        if self.site.failed:
            raise self.site.failed[0]

    def background(self, function, *args, **options) -> asyncio.Task:
        async def work() -> None:
            try:
                await function(*args, **options)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.site.failed.append(error)

        return self.site.start(work())

    def follow_orders(self) -> None:
        for tab in self.tabs:
            if tab.must == RELOAD and (tab.busy is None or tab.busy.done()):
                tab.must = ""
                self.tally["reloads"] += 1
                tab.busy = self.background(tab.load)

    async def deliver_all(self) -> None:
        """Everything that is under way arrives; who has lost the stream has it again."""
        site = self.site
        for tab in self.tabs:
            if tab.stream is None and not tab.must and (tab.busy is None or tab.busy.done()):
                tab.open(self.random.choice([tab.position, ""]))
            elif tab.browser.user in site.stale_rights and tab.stream is not None:
                # Nobody told of these rights: they count from the next stream on.
                tab.open(self.random.choice([tab.position, ""]))
        await self.do_notice(self.random, None)
        quiet = 0
        while quiet < 3:
            for tab in self.tabs:
                self.thaw(tab)
                tab.read(1 << 30)
            self.follow_orders()
            await site.settle(site.at_rest)
            self.check()
            delivered = not site.provider.sse_manager.behind
            for tab in self.tabs:
                if tab.stream is None or not tab.told or tab.stream.transport.buffer or tab.must:
                    delivered = False
                elif tab.may_see_again():
                    # What one has lost vanishes for as long as that stream is open.
                    tab.open(self.random.choice([tab.position, ""]))
                    delivered = False
            quiet = quiet + 1 if delivered else 0
            if not delivered:
                await asyncio.sleep(0)

    def thaw(self, tab: Tab) -> None:
        if tab.stream is not None and tab.stream.frozen:
            tab.stream.frozen = False
            tab.stream.flow.resume_writing()

    # what happens

    async def modify(self, cls, change, **ids) -> None:
        async with self.site.provider.modify(cls, **ids) as state:
            state.n = next(numbers)
            change(state)

    def a_state(self, random: Random):
        session = random.choice(self.sessions)
        ids = {"session_id": session.session_id}
        return random.choice(
            [(World, {}), (World, {}), (Mine, ids)]
            + [(Side, ids | {"component_id": name}) for name in ("left", "right")]
            + [(Doc, {"record_id": number}) for number in ("1", "2")]
        )

    def a_change(self, cls, random: Random):
        def change(state) -> None:
            for name in random.sample(sorted(cls.model_fields), 2):
                match name:
                    case "text" if cls is World:
                        state.text = random.choice(["", "a", "é ü"])
                    case "secret":
                        state.secret = random.choice(["x", "y"])
                    case "table":
                        state.table = {key: random.randint(0, 2) for key in random.sample("abc", random.randint(0, 3))}
                    case "nested":
                        state.nested = {
                            key: random.choice([[1], [1, 2], {}, {"x": 1}, {"y": 2, "x": 0}])
                            for key in random.sample("abc", random.randint(0, 3))
                        }
                    case "items":
                        state.items = [random.randint(0, 2) for _ in range(random.randint(0, 3))]
                    case "lines":
                        state.lines = random.choices(["x", "y\nz", "<&>", "w" * 900], k=random.randint(0, 4))
                    case _:
                        pass

        return change

    def commit(self, random: Random) -> None:
        cls, ids = self.a_state(random)
        if cls is Doc:
            self.doc(random, ids["record_id"])
        else:
            self.tally["commits"] += 1
            self.background(self.modify, cls, self.a_change(cls, random), **ids)

    def doc(self, random: Random, number: str) -> None:
        def change(doc) -> None:
            if random.random() < 0.5:
                doc.members = random.sample(Site.USERS, random.randint(1, 3))
            doc.text = f"doc{number}v{doc.n}."

        self.tally["commits"] += 1
        self.background(self.modify, Doc, change, record_id=number)

    async def do_commit(self, random, tab) -> None:
        self.commit(random)

    async def do_burst(self, random, tab) -> None:
        for _ in range(random.randint(2, 6)):
            self.commit(random)

    async def do_doc(self, random, tab) -> None:
        self.doc(random, random.choice("12"))

    async def do_read(self, random, tab) -> None:
        if tab.stream is not None and not tab.stream.frozen:
            tab.read(random.randint(0, len(tab.stream.transport.buffer) + 1))

    async def do_read_all(self, random, tab) -> None:
        for each in self.tabs:
            if each.stream is not None and not each.stream.frozen:
                each.read(1 << 30)

    async def do_freeze(self, random, tab) -> None:
        if tab.stream is not None:
            tab.stream.freeze()

    async def do_go_on(self, random, tab) -> None:
        for each in self.tabs:
            self.thaw(each)

    def is_free(self, tab: Tab) -> bool:
        is_writing = tab.writing is not None and not tab.writing.done()
        return not tab.must and not is_writing and (tab.busy is None or tab.busy.done())

    async def do_drop(self, random, tab) -> None:
        if tab.stream is None or not self.is_free(tab):
            return
        self.tally["drops"] += 1
        if random.random() < 0.6:
            tab.read(random.randint(0, len(tab.stream.transport.buffer)))
            if tab.stream is None or tab.must:
                return
        if random.random() < 0.5:
            tab.close(noticed=random.random() < 0.6)
        else:
            tab.open(tab.position, noticed=random.random() < 0.6)

    async def do_again(self, random, tab) -> None:
        """An old position once more: where a stream is begun anew, it is the one that the page itself had."""
        if self.is_free(tab):
            tab.open(random.choice(["", tab.signals["_fs"]["n"], *tab.ids]), noticed=random.random() < 0.5)

    async def do_twice(self, random, tab) -> None:
        """The request for a stream is overtaken by the one that takes its place."""
        if self.is_free(tab):
            late = tab.position
            tab.open(tab.position)
            for _ in range(random.randint(0, 6)):
                await asyncio.sleep(0)
            if "_fs" in tab.signals:
                self.unnoticed.append(tab.ask(late))

    async def do_notice(self, random, tab) -> None:
        for stream in self.unnoticed:
            stream.lost()
        self.unnoticed.clear()

    async def post(self, tab: Tab, name: str, arguments: dict, bound: dict, repeat: bool) -> None:
        tab.events += 1
        headers = {
            **BROWSER, "content-type": "application/json", "faststate-connection": tab.signals["_fs"]["c"],
            "faststate-nonce": f"nonce-{next(numbers)}",
        }  # fmt: skip
        payload = {"a": arguments, "w": list(tab.signals["_fs"]["w"].values()), "q": tab.events, "b": bound}
        opened, answered = tab.opened, tab.answered
        for _ in range(1 + repeat):
            cycle, frames = await tab.browser.fetch(
                "POST", f"/_faststate/event/Mine/{name}", body=json.dumps(payload).encode(), headers=headers
            )
            if cycle.status not in (200, 204) or any(name == b"faststate-status" for name, _ in cycle.headers):
                tab.must = RELOAD  # the server says no (its session has ended, say): what was typed stays until then
                tab.close()
                return
            # An answer brings states to a page without a stream. What has been overtaken is taken for lost.
            if tab.stream is None and (tab.opened, tab.answered) == (opened, answered):
                tab.answered = answered = answered + 1
                for block in frames.split("\n\n")[:-1]:
                    tab.take_event(block.split("\n"))

    async def do_event(self, random, tab) -> None:
        if self.is_free(tab) and any(s.name == "Mine" for s in tab.shown):
            self.tally["events"] += 1
            self.background(self.post, tab, "steps", {"often": random.randint(1, 3)}, {}, random.random() < 0.2)

    async def do_save(self, random, tab) -> None:
        """What is typed into a bound input goes with an event, which changes it a little or leaves it as it is."""
        mine, stream = tab.of(("Mine",)), tab.stream
        all_is_told = tab.told and stream is not None and not stream.transport.buffer
        if self.is_free(tab) and all_is_told and "note" in mine and not self.typing(tab):
            self.tally["saves"] += 1
            mine["note"] = random.choice(["typed", " typed", "x"]) + str(next(numbers))
            tab.writing = self.background(self.post, tab, "save", {}, {"note": mine["note"]}, random.random() < 0.2)

    def typing(self, tab: Tab) -> bool:
        """True if anybody types into the same state: what two type at once is theirs to settle."""
        return any(
            each.browser is tab.browser and each.writing is not None and not each.writing.done() for each in self.tabs
        )

    async def do_frame(self, random, tab) -> None:
        connection = self.site.provider.sse_manager.connections.get(tab.signals["_fs"]["c"])
        if connection is not None and not connection.closed:
            connection.send_frame(b"event: datastar-patch-elements\ndata: elements <i id=once>once</i>\n\n")

    async def do_say(self, random, tab) -> None:
        key = random.choice(["global:World", "record:Doc:1"])
        self.site.provider.sse_manager.broadcast_to_state(key, {"said": random.randint(0, 9)})

    async def do_fragment(self, random, tab) -> None:
        if self.is_free(tab) and tab.signals["_fs"]["w"]:
            self.tally["fragments"] += 1
            tab.busy = self.background(tab.fetch_fragment)

    async def do_restart(self, random, tab) -> None:
        self.tally["restarts"] += 1
        site = self.site
        crash = random.random() < 0.5
        if not crash:
            for cycle in site.open_cycles:
                cycle.frozen = False
                cycle.flow.pause_writing = lambda: None  # a reader who takes nothing holds a server up for two seconds
                cycle.flow.resume_writing()
        await site.end(crash=crash)
        for each in self.tabs:
            if any(task is not None and task.cancelled() for task in (each.busy, each.writing)):
                each.busy = each.writing = None
                each.must = RELOAD  # what it was loading never came: its user tries again
        self.unnoticed.clear()
        site.begin()

    async def do_expire(self, random, tab) -> None:
        self.tally["expired"] -= self.site.provider.registry.lifetimes.expired
        self.site.now += 1e9
        self.site.provider.registry.lifetimes.sweep()
        self.tally["expired"] += self.site.provider.registry.lifetimes.expired

    async def do_rights(self, random, tab) -> None:
        user = random.choice(Site.USERS[1:])
        random.choice([self.site.banned, self.site.hidden]).symmetric_difference_update({user})
        self.site.told_of = set(self.site.banned) - self.site.stale_rights
        self.site.stale_rights.discard(user)
        self.site.told_of = self.site.banned - self.site.stale_rights
        self.site.provider.sessions.rights.change(user, "refresh")

    async def do_quiet_rights(self, random, tab) -> None:
        user = random.choice(Site.USERS)
        self.site.banned ^= {user}
        self.site.stale_rights.add(user)
        self.site.told_of = self.site.banned - self.site.stale_rights

    async def do_login(self, random, tab) -> None:
        if all(self.is_free(each) for each in self.tabs if each.browser is tab.browser):
            user = random.choice(Site.USERS[1:])
            self.tally["logins"] += 1

            async def login() -> None:
                await tab.browser.fetch("GET", f"/login/{user}")
                for each in self.tabs:
                    if each.browser is tab.browser:
                        each.close()
                        each.must = RELOAD

            tab.busy = self.background(login)
            for each in self.tabs:
                if each.browser is tab.browser:
                    each.busy = tab.busy

    async def do_everybody(self, random, tab) -> None:
        for each in self.tabs:
            if self.is_free(each):
                each.open(each.position)

    async def do_reload(self, random, tab) -> None:
        if self.is_free(tab):
            tab.must = RELOAD
            tab.close()


# -- running it --------------------------------------------------------------------------------------------------------


def run(seed: int, steps: list[tuple] | None = None) -> Run:
    """One schedule; every second one over a store. Raises `Divergence`."""
    with tempfile.TemporaryDirectory() as directory:
        one = Run(seed, store=Path(directory) / "states.db" if seed % 2 else None)
        if steps is not None:
            one.steps = steps
        asyncio.run(one.go())
    return one


def fails(seed: int, steps: list[tuple]) -> bool:
    try:
        run(seed, steps)
    except Exception:
        return True
    return False


def fewest_steps(seed: int) -> list[tuple]:
    """Steps of a schedule that fails, of which none can be left out."""
    steps, place = Run(seed).steps, 0
    while place < len(steps):
        fewer = steps[:place] + steps[place + 1 :]
        if fails(seed, fewer):
            steps = fewer
        else:
            place += 1
    return steps


@pytest.mark.timeout(60 + RUNS)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_each_page_ends_with_the_server_s_state(part, caplog):
    caplog.set_level(logging.CRITICAL, "faststate")
    for seed in range(part, RUNS, PARTS):
        run(seed)


def one_too_high(fanout):
    epoch, _, number = fanout.hooks.position().partition(".")
    return f"id: {epoch}.{int(number) + 1}\n\n".encode()


class IdFirst(Chunk):
    """A chunk whose id stands before the data that it is for."""

    def __init__(self, body):
        data, mark, position = body.rpartition(b"id: ")
        super().__init__(mark + position + data)


def losing(write):
    """A `write` that forgets one chunk in eight."""
    written = count()
    return lambda writer, chunk: True if next(written) % 8 == 7 else write(writer, chunk)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (fanout.Fanout, "position_line", one_too_high),
        (fanout, "Chunk", IdFirst),
        (DirectWriter, "write", losing(DirectWriter.write)),
        (AsgiWriter, "write", losing(AsgiWriter.write)),
        (SSEConnection, "take_commits", lambda connection: None),
        (SSEConnection, "notify", lambda connection, key, changes, echo=None: None),
    ],
    ids=["position too high", "id before data", "lost by the direct writer", "lost by the portable writer",
         "fragment overtakes", "nothing waits"],
)  # fmt: skip
def test_these_schedules_find_a_delivery_that_is_broken(where, name, broken, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL, "faststate")
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(Divergence):
        for seed in range(100):
            run(seed)


def main(runs: int, first: int = 0) -> int:
    """Runs `runs` schedules, and says what they came to."""
    logging.getLogger("faststate").setLevel(logging.CRITICAL)
    os.chdir(tempfile.mkdtemp())
    tally: Tally[str] = Tally()
    diverged = []
    for seed in range(first, first + runs):
        try:
            tally += run(seed).tally
        except Exception as error:
            diverged.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
    names = (
        "steps", "commits", "events", "patches", "drops", "again", "twice", "restarts", "expired", "fragments",
        "logins", "reloads", "ended streams",
    )  # fmt: skip
    print(f"{runs} runs: {len(diverged)} diverged;", ", ".join(f"{tally[name]:,} {name}" for name in names))
    return 1 if diverged else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
