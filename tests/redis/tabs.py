"""Browsers and their tabs: each request goes to any worker, and a tab holds what its page would show by now."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from faststate.wire.frames import RELOAD, REOPEN
from tests.chaos.load import Broken, Event
from tests.support.client import BROWSER, Page, merge, message, status

from .cluster import PATIENCE, Cluster, Worker, until
from .web import CutOff, Network, Refused, Response

AWAY, GONE = 503, 404
RETRY = 0.02
"""Seconds until a tab tries again what was refused; a real one waits longer."""

HISTORY = 8
"""Patches of each state that are remembered, to say what came before a failure."""

_VIEW = re.compile(r'<p data-fs-view="([^"]+)">.*?</p>', re.DOTALL)


class Browser:
    """One set of cookies. Lifetime: the test.

    It is what `tests.client.Page` takes for a client: a path goes to whichever worker the balancer picks, or to `only`.
    """

    def __init__(self, cluster: Cluster, name: str, user: str) -> None:
        self.cluster = cluster
        self.name = name
        self.user = user
        self.only: Worker | None = None
        self.network = Network()
        self._failed: Worker | None = None

    async def get(self, path: str, *, worker: Worker | None = None) -> Response:
        """GET, from one worker after the other until one answers with anything but 503."""
        deadline = time.monotonic() + PATIENCE
        while True:
            chosen = worker or self.only or self.cluster.pick(self._failed)
            try:
                response = await self.network.request("GET", chosen.port, path)
            except ConnectionError:
                self._failed = chosen
                if time.monotonic() > deadline:
                    raise
            else:
                if response.status_code != AWAY or time.monotonic() > deadline:
                    return response
            await asyncio.sleep(RETRY)

    async def post(
        self, path: str, *, content: str, headers: Mapping[str, str], params: Mapping[str, str] | None = None
    ) -> Response:
        """POST, to one worker that takes connections. What becomes of the request afterwards is the caller's."""
        deadline = time.monotonic() + PATIENCE
        while True:
            chosen = self.only or self.cluster.pick(self._failed)
            try:
                return await self.network.request("POST", chosen.port, path, headers, content)
            except Refused:
                self._failed = chosen
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0)
            except CutOff:
                self._failed = chosen
                raise

    async def sign_in(self) -> None:
        assert (await self.get(f"/enter/{self.user}")).status_code == 200


class Tab:
    """One page and its stream, which it opens again wherever it was broken off. Lifetime: from `load` to `close`.

    `signals` and `views` (markup, by address) are what the page holds; `opened` counts its streams, `refusals` the
    answers 503 to its events, `reloads` how often it was told to load itself again. `worker` has its stream, if any.
    `went_back` says which states went back to a former version, by their stream or from their page to their stream, and
    `overtaken` where an event's answer and the stream were out of step.
    `patched_at` is when (`time.monotonic`) it was last told anything.
    """

    def __init__(self, browser: Browser, item: str = "0", line: str = "0") -> None:
        self.browser = browser
        self.item = item
        self.line = line
        self.signals: dict[str, Any] = {}
        self.views: dict[str, str] = {}
        self.opened = self.refusals = self.reloads = self.patches = 0
        self.worker: Worker | None = None
        self.avoids: Worker | None = None
        self.patched_at = 0.0
        self.silent = self.may_lose_states = False
        self.went_back: list[str] = []
        self.overtaken: list[str] = []
        self._newest: dict[tuple[str, ...], tuple[str, int]] = {}  # life and count of each state
        self._streamed: dict[tuple[str, ...], tuple[str, int]] = {}  # the same, without what events were answered
        self._history: dict[tuple[str, ...], deque[str]] = {}
        self._following: asyncio.Task[None] | None = None
        self._position: str | None = None

    @property
    def found_path(self) -> str:
        """Where the server says what there is of all that this tab shows."""
        return f"/found/{self.item}/{self.line}"

    def name_of(self, state: str) -> str:
        """Which of the states of a class this tab's is."""
        names = {
            "Journal": f"Journal of {self.browser.name}",
            "Notes": f"Notes of {self.browser.user}",
            "Item": f"Item {self.item}",
            "Line": f"Line {self.line}",
        }
        return names.get(state, state)

    async def load(self) -> None:
        """Loads the page, as a new one."""
        self.page = await Page.open(self.browser, f"/shop/{self.item}/{self.line}")
        if self.page.response.status_code == 401:
            self.silent = True  # nobody is signed in any more: it is another page
            return
        assert self.page.response.status_code == 200, self.page.response.text
        self.signals = {**self.page.signals, "_fs": {"c": "", "go": "", "n": self.page.position}}
        self.views = {found[1]: found[0] for found in _VIEW.finditer(self.page.html)}
        self._position = None
        self._newest.clear()
        self._streamed.clear()
        self._paths = [tuple(filter(None, (name, self.page_id(name)))) for name in self.page.signals]
        self._compare(self.signals)

    def page_id(self, name: str) -> str:
        """The id that a state of this name has on the page, or ''."""
        return {"Item": self.item, "Line": self.line}.get(name, "")

    async def open(self) -> None:
        """Follows the page's states from now on; returns when the stream is open."""
        self._following = asyncio.create_task(self._follow(), name=f"tab of {self.browser.name}")
        await until(lambda: self.is_open or self._following is None or self._following.done(), "an open stream")
        self.raise_what_failed()

    @property
    def is_open(self) -> bool:
        return self.worker is not None and bool(self.signals["_fs"]["c"])

    def raise_what_failed(self) -> None:
        """Raises what has ended the stream's reader, if anything has."""
        if self._following is not None and self._following.done() and not self._following.cancelled():
            self._following.result()

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    # -- the stream ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        failed: Worker | None = None
        while True:
            worker = self.browser.only or self.browser.cluster.pick(failed or self.avoids)
            failed = worker
            try:
                await self._stream(worker)
            except ConnectionError:
                await asyncio.sleep(0.001)
            finally:
                self.worker = None
            go = self.signals["_fs"].get("go")
            if go == RELOAD:
                self.reloads += 1
                await self.load()
                if self.silent:
                    return
            elif go == REOPEN:
                self.signals["_fs"]["go"], self._position = "", None
            elif self.silent:
                return

    async def _stream(self, worker: Worker) -> None:
        """One stream, to its end."""
        payload = json.dumps({"w": self.page.tokens, "n": self.signals["_fs"]["n"]}).encode()
        headers = dict(BROWSER)
        if self._position is not None:
            headers["last-event-id"] = self._position
        path = f"{self.page.url}stream"
        async with self.browser.network.stream(worker.port, path, headers, payload) as (response, pieces):
            if response.status_code == 204:
                self.silent = True
                return
            if response.status_code != 200:
                await asyncio.sleep(RETRY)
                return
            self.opened += 1
            self.signals["_fs"]["c"] = ""
            self.worker = worker
            rest = b""
            async for piece in pieces:
                *blocks, rest = (rest + piece).split(b"\n\n")
                for block in blocks:
                    self._take(block.decode())
                if self.signals["_fs"]["go"]:
                    return

    def _take(self, block: str, *, streamed: bool = True) -> None:
        """Apply one whole SSE block."""
        kind, parts = "", dict[str, str]()
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name == "data":
                part, _, text = value.partition(" ")
                parts[part] = f"{parts[part]}\n{text}" if part in parts else text
            elif name == "event":
                kind = value
            elif name == "id" and streamed:
                self._position = value
        if kind == "datastar-patch-signals":
            self.patches += 1
            self.patched_at = time.monotonic()
            patch = json.loads(parts["signals"])
            merge(self.signals, patch)
            self._compare(patch, streamed=streamed)
        elif kind == "datastar-patch-elements":
            found = _VIEW.match(parts["elements"])
            if found is not None:
                assert found[1] in parts["selector"], block
                self.views[found[1]] = found[0]
            else:
                self.views = {name: html for name, html in self.views.items() if name not in parts["selector"]}

    def _compare(self, patch: Mapping[str, Any], *, streamed: bool = True) -> None:
        """Notes where a state that the patch is of went back to what it was before."""
        for path in self._paths:
            told: Any = patch
            for segment in path:
                told = told.get(segment) or {}
            life, count = self.at(path).get("life"), told.get("count")
            if not life or not isinstance(count, int):
                continue
            source = (
                self.worker.name if streamed and self.worker is not None else "its page" if streamed else "an answer"
            )
            self._history.setdefault(path, deque(maxlen=HISTORY)).append(f"{count} by {source}")
            for known, went_back in ((self._streamed, self.went_back), (self._newest, self.overtaken)):
                before = known.get(path)
                if before is not None and before[0] == life and count < before[1]:
                    if streamed or known is self._newest:
                        went_back.append(f"{'.'.join(path)} from {before[1]} to {count}")
                    break
            self._newest[path] = life, count
            if streamed:
                self._streamed[path] = life, count

    def history(self, path: Sequence[str]) -> str:
        """Describe the last patches of a state, and where they came from."""
        return ", ".join(self._history.get(tuple(path), ()))

    def at(self, path: Sequence[str]) -> dict[str, Any]:
        """The signals of one state."""
        value = self.signals
        for segment in path:
            value = value.get(segment, {})
        return value

    # -- events --------------------------------------------------------------------------------------------------------

    async def send(self, event: Event, *, once: bool = False, **arguments: Any) -> bool:
        """Sends an event until it is acknowledged; whether it had to be sent again, since nobody knew of its outcome.

        Raises `Broken` where it is refused, with `once` for the first 503 too, and `CutOff` for the
        first request that was cut off; and `TimeoutError` when it cannot be had.
        """
        state, again, deadline = event.state, False, time.monotonic() + PATIENCE
        while True:
            try:
                response = await self.page.send(
                    state,
                    event.name,
                    nonce=event.nonce,
                    instance_id=self.page_id(state) or None,
                    connection=self.signals["_fs"]["c"],
                    number=event.number,
                    **arguments,
                )
            except CutOff:
                again = True
                if once:
                    raise
            else:
                self._take_answer(response)
                code = status(response)
                if code in (200, 204):
                    return again
                if code == GONE and self.may_lose_states:
                    code = AWAY  # it was lost, and is made anew
                if code != AWAY or once:
                    raise Broken(f"{state}.{event.name} was refused with {code}: {message(response) or response.text}")
                self.refusals += 1
                again = True
                await asyncio.sleep(RETRY)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{state}.{event.name} was not acknowledged within {PATIENCE:g} s")

    def _take_answer(self, response: Response) -> None:
        """Apply an event's answer as a page does: its patches count like those of the stream."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            *blocks, _ = response.text.split("\n\n")
            for block in blocks:
                self._take(block, streamed=False)
