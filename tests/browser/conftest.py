"""Real tabs against a real server. These tests are plain functions: Playwright's sync API refuses a running loop."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, sync_playwright

from tests.support.browser import console_errors, wait_live
from tests.support.processes import Server

APPS = Path(__file__).parent / "apps"

DATASTAR_VERSION = "1.0.2"
DATASTAR_URL = f"https://cdn.jsdelivr.net/gh/starfederation/datastar@v{DATASTAR_VERSION}/bundles/datastar.js"
FOREIGN = re.compile(r"https?://(?!127\.0\.0\.1[:/]).*")
CHROMIUM_ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory, and run them last.

    While Playwright's sync API is started, its event loop counts as running in this thread, so that every async test
    between the first browser test and the end of the session would fail. Where several processes share the tests, each
    takes the files in this order (see the Makefile).
    """
    here = Path(__file__).parent
    browser = [item for item in items if here in item.path.parents]
    for item in browser:
        item.add_marker(pytest.mark.browser)
    items[:] = [item for item in items if here not in item.path.parents] + browser


@pytest.fixture(scope="session")
def datastar_js() -> Path:
    """The Datastar bundle as a local file: named by the environment, cached, or fetched once from the CDN."""
    if named := os.environ.get("FASTSTATE_DATASTAR_JS"):
        path = Path(named).resolve()
        if not path.is_file():
            pytest.fail(f"FASTSTATE_DATASTAR_JS names {named}, which is no file", pytrace=False)
        return path
    cached = Path.home() / ".cache" / "faststate" / f"datastar-{DATASTAR_VERSION}.js"
    if cached.is_file():
        return cached
    try:
        with urllib.request.urlopen(DATASTAR_URL, timeout=10) as response:
            bundle = response.read()
    except OSError as error:
        pytest.skip(
            f"NO BROWSER TEST RAN: the Datastar bundle is neither at {cached} nor to be had from {DATASTAR_URL} "
            f"({error}). Put datastar.js {DATASTAR_VERSION} there, or name a copy in FASTSTATE_DATASTAR_JS."
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_name(f"{cached.name}.{os.getpid()}")
    partial.write_bytes(bundle)
    partial.replace(cached)  # in one step: a parallel run sees the whole file or none
    return cached


@pytest.fixture(scope="session")
def chromium() -> Iterator[tuple[BrowserType, dict[str, Any]]]:
    """Chromium, and the options to launch it with: for tests that need one with other settings."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if shutil.which(executable) is None:
        message = f"no Chromium at {executable}: install it, or name another in CHROMIUM"
        if "CHROMIUM" in os.environ:
            pytest.fail(message, pytrace=False)
        pytest.skip(f"NO BROWSER TEST RAN: {message}")
    with sync_playwright() as playwright:
        yield (
            playwright.chromium,
            {"executable_path": shutil.which(executable), "headless": True, "args": CHROMIUM_ARGS},
        )


@pytest.fixture(scope="session")
def browser(chromium: tuple[BrowserType, dict[str, Any]]) -> Iterator[Browser]:
    """One headless Chromium for the whole run; tests are kept apart by their contexts."""
    kind, options = chromium
    with kind.launch(**options) as launched:
        yield launched


@pytest.fixture(scope="session")
def idle_contexts(browser: Browser) -> list[BrowserContext]:
    """Contexts that their tests have done with, empty again. With its first tab, which stays, one costs half a second
    to make: as much as many a test takes."""
    return []


@pytest.fixture
def new_context(browser: Browser, idle_contexts: list[BrowserContext]) -> Iterator[Callable[..., BrowserContext]]:
    """Make as many isolated browsers as a test has people: each has cookies of its own. Emptied after the test.

    One with options, or with `own=True` (for scripts and bindings, which stay), is made anew, and closed after the
    test.
    """
    lent: list[BrowserContext] = []
    owned: list[BrowserContext] = []

    def make(*, own: bool = False, **options: Any) -> BrowserContext:
        if own or options:
            owned.append(context := offline(browser.new_context(**options)))
            return context
        if idle_contexts:
            context = idle_contexts.pop()
        else:
            context = browser.new_context()
            context.new_page()
        lent.append(offline(context))
        return context

    yield make
    for context in owned:
        context.close()
    for context in lent:
        for page in context.pages[1:]:
            page.close()
        context.unroute_all()
        context.clear_cookies()
        idle_contexts.append(context)


@pytest.fixture
def context(new_context: Callable[..., BrowserContext]) -> BrowserContext:
    """One isolated browser: all its pages share a session, nothing is shared with another test."""
    return new_context()


def offline(context: BrowserContext) -> BrowserContext:
    """Have what pages ask of other hosts (styles, HTMX) answered empty: no test needs or waits for the internet."""
    context.route(FOREIGN, lambda route: route.fulfill(body=""))
    context.set_default_timeout(10_000)  # below the test's limit, so that the failure names what was awaited
    return context


@contextlib.contextmanager
def servers(datastar_js: Path, directory: Path) -> Iterator[Callable[..., Server]]:
    """Start apps as `serve_app` does, until the block ends."""
    started: list[Server] = []

    def start(
        target: Path | str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> Server:
        number = len(started)
        if cwd is None:
            cwd = directory / f"app{number}"
            cwd.mkdir()
        environment = {"FASTSTATE_DATASTAR_SRC": str(datastar_js), **(env or {})}
        server = Server(target, cwd=cwd, log=directory / f"server{number}.log", env=environment, **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def serve_app(datastar_js: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start an app in a process of its own: `serve_app(Path("app.py"))` or `serve_app("module:app", cwd=...)`.

    It runs in an empty directory unless `cwd` says otherwise; `env` adds to the environment, and the rest is said to
    `Server`. All are killed after the test, whatever has become of them.
    """
    with servers(datastar_js, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, datastar_js: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The module's `APP`, a file below `apps/`, started once for all its tests."""
    with servers(datastar_js, tmp_path_factory.mktemp("server")) as start:
        yield start(APPS / request.module.APP)


@pytest.fixture
def open_on(context: BrowserContext) -> Iterator[Callable[..., Page]]:
    """Open a page of a server in a new tab, and return once it is live: `open_on(server, "/path")`.

    Tabs are of one session unless `context` is another. A test fails when one of them had an error in its console that
    the pattern `forgive` is not found in.
    """
    found: list[tuple[list[str], str]] = []

    def open_on(
        server: Server, path: str = "/", context: BrowserContext = context, *, live: bool = True, forgive: str = ""
    ) -> Page:
        page = context.new_page()
        found.append((console_errors(page), forgive))
        page.goto(server.url + path)
        if live:
            wait_live(page)
        return page

    yield open_on
    assert [error for errors, forgive in found for error in errors if not (forgive and re.search(forgive, error))] == []


@pytest.fixture
def open_page(server: Server, open_on: Callable[..., Page]) -> Callable[..., Page]:
    """Open a page of the module's app, as `open_on` does: `open_page("/path")`."""
    return partial(open_on, server)
