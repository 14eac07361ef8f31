"""Measure what a page costs in the browser: bytes, main-thread time, and the time to be live again.

A real Chromium shows a page of a real uvicorn. The bytes are those of a TCP proxy between them, HTTP's heads included.
`python -m benchmarks.client` prints the table; it needs Chromium, and the Datastar bundle where the browser tests look
for it. `--quick` measures with fewer tabs and a shorter idle time, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

TABS = 100
PER_CONTEXT = 5
"""Tabs of one browser context: over HTTP/1.1 a browser opens six connections to a host."""

IDLE = 60.0
PATCHES = 100
"""Commits a second while the main thread is measured, for `PATCHED` seconds."""
PATCHED = 5.0

DATASTAR = os.environ.get("FASTSTATE_DATASTAR_JS") or str(Path.home() / ".cache/faststate/datastar-1.0.2.js")

ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

APP = """
import asyncio
from fasthtml.common import *
from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view

class Counter(ReactiveState):
    n: int = 0

    @event
    def add(self):
        self.n += 1

    @view
    def shown(self):
        return P(f"{self.n} so far")

provider = StateProvider(secret_key="benchmark")
provider.register_state(Counter, StateConfig(scope=StateScope.GLOBAL))
app, rt = fast_app(state_provider=provider, secret_key="benchmark", pico=False, htmx=False, surreal=False)

@rt
def index(counter: Counter):
    return Titled("Counter", P(counter.signal.n, id="n"), counter.shown(),
                  Button("+1", counter.add.on("click"), id="add"))

@rt
async def run(a_second: int, seconds: float):
    for _ in range(int(a_second * seconds)):
        async with provider.modify(Counter) as counter:
            counter.n += 1
        await asyncio.sleep(1 / a_second)
    return "done"
"""


@contextmanager
def serving(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the app until the block ends."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "app.py").write_text(APP)
        env = {**os.environ, "FASTSTATE_DATASTAR_SRC": DATASTAR}
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
            cwd=directory,
            env=env,
        )
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


class Meter:
    """A proxy that counts the bytes that go up to a server and down from it. Lifetime: the process."""

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def taken(self) -> tuple[int, int]:
        """Return the bytes up and down since the last call."""
        found, self.up, self.down = (self.up, self.down), 0, 0
        return found

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far, selectors.DefaultSelector() as both:
            both.register(near, selectors.EVENT_READ, far)
            both.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in both.select():
                    source: Any = key.fileobj
                    try:
                        data = source.recv(65_536)
                        key.data.sendall(data)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is near:
                        self.up += len(data)
                    else:
                        self.down += len(data)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def until_live(page: Page) -> None:
    page.wait_for_selector("html[data-fs-link=live]", state="attached", timeout=60_000)


def quiet(meter: Meter) -> tuple[int, int]:
    """Return the bytes up and down, once half a second has passed without any."""
    up = down = 0
    while True:
        time.sleep(0.5)
        more = meter.taken()
        if more == (0, 0):
            return up, down
        up, down = up + more[0], down + more[1]


def bytes_of(browser: Browser, port: int, idle: float) -> Iterator[tuple[str, str]]:
    """Yield the bytes of a first page, a second one, a click, and an idle time."""
    meter = Meter(port)
    url = f"http://127.0.0.1:{meter.port}/"
    context = browser.new_context()
    page = context.new_page()
    for name in ("first page, with the program and Datastar", "the same page again"):
        page.goto(url)
        until_live(page)
        up, down = quiet(meter)
        yield name, f"{up:,} up, {down:,} down"
    html = page.request.get(f"http://127.0.0.1:{port}/").body()
    yield "HTML of the page", f"{len(html):,}"
    meter.taken()
    page.click("#add")
    up, down = quiet(meter)
    yield "a click, with the change that it shows", f"{up:,} up, {down:,} down"
    time.sleep(idle)
    up, down = meter.taken()
    yield f"{idle:g} idle seconds", f"{up:,} up, {down:,} down"
    context.close()


def main_thread(browser: Browser, port: int) -> Iterator[tuple[str, str]]:
    """Yield the share of its main thread that a page needs for `PATCHES` changes a second."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    until_live(page)
    session = context.new_cdp_session(page)
    session.send("Performance.enable")

    def used() -> dict[str, float]:
        return {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}

    before = used()
    page.request.get(f"http://127.0.0.1:{port}/run?a_second={PATCHES}&seconds={PATCHED}", timeout=60_000)
    after = used()
    for name, metric in (("all tasks", "TaskDuration"), ("scripts", "ScriptDuration")):
        milliseconds = 1_000 * (after[metric] - before[metric]) / (PATCHES * PATCHED)
        yield f"main thread, {name}, per commit of a signal and a view", f"{milliseconds:.2f} ms"
    context.close()


def restart(browser: Browser, port: int, tabs: int) -> Iterator[tuple[str, str]]:
    """Yield when the pages of a server that was killed are live again, in seconds after it listens again."""
    pages: list[Page] = []
    contexts = [browser.new_context() for _ in range(-(-tabs // PER_CONTEXT))]
    with serving(port) as server:
        for number in range(tabs):
            page = contexts[number // PER_CONTEXT].new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            pages.append(page)
        for page in pages:
            until_live(page)
            page.evaluate("""() => new MutationObserver(() => {
                if (document.documentElement.dataset.fsLink === "live") window.again = Date.now();
            }).observe(document.documentElement, {attributes: true})""")
        server.kill()
        server.wait()
    with serving(port):
        begun = time.time()
        found = []
        for page in pages:
            page.wait_for_function("() => window.again", timeout=60_000)
            found.append(page.evaluate("() => window.again") / 1_000 - begun)
    found.sort()
    yield f"{tabs} pages live again, first, median, last", f"{found[0]:.1f}, {median(found):.1f}, {found[-1]:.1f} s"
    for context in contexts:
        context.close()


def measured(tabs: int = TABS, idle: float = IDLE) -> list[tuple[str, str]]:
    """Return what was measured: names and values."""
    with sync_playwright() as playwright:
        executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=ARGS)
        port = free_port()
        with serving(port):
            rows = [*bytes_of(browser, port, idle), *main_thread(browser, port)]
        rows += restart(browser, free_port(), tabs)
        browser.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tabs, and a shorter idle time")
    quick = parser.parse_args().quick
    for name, value in measured(5, 5.0) if quick else measured():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
