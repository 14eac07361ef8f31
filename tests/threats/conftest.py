"""Attackers and victims: httpx clients with cookies of their own, on a real server. One app per module of tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.client import BROWSER, Page, frames, patched_signals
from tests.support.processes import Server
from tests.threats.injection_server import assert_untroubled

APPS = Path(__file__).parent / "apps"


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's `APP`, a file below `apps/`, under uvicorn in a process of its own, for all tests of the module.

    `ENV` is added to its environment. What an attacker sends must be refused, not stumbled over: the module's last test
    fails when the server has logged a traceback, but for those that hold one of the texts in `EXPECTED`.
    """
    module, directory = request.module, tmp_path_factory.mktemp("server")
    env = getattr(module, "ENV", None)
    server = Server(APPS / module.APP, cwd=directory, log=directory / "server.log", env=env)
    server.start()
    yield server
    server.kill()
    assert_untroubled(server, *getattr(module, "EXPECTED", ()))


@pytest.fixture
def visit(server: Server) -> Iterator[Callable[..., httpx.Client]]:
    """Make a client of the server, with an empty cookie jar: a browser of its own. Closed after the test."""
    with ExitStack() as opened:

        def visit(**options: Any) -> httpx.Client:
            # Without certificates, which take longer to load than most tests to run; the server speaks plain HTTP.
            options = {"base_url": server.url, "timeout": 10, "trust_env": False, "verify": False, **options}
            return opened.enter_context(httpx.Client(**options))

        yield visit


class Stream(NamedTuple):
    """The answer to a request for a stream, up to where a live one begins to wait for changes."""

    status: int
    text: str
    live: bool
    headers: httpx.Headers

    @property
    def signals(self) -> dict[str, Any]:
        return patched_signals(self.text)

    @property
    def refused(self) -> bool:
        """True for the answers that deliver nothing: 204, a plain refusal, and the frame that reloads the page."""
        if self.live:
            return False
        reloads = self.status == 200 and delivers_nothing(self.text) and self.signals["_fs"]["go"] == "#reload"
        is_plain = self.status in (400, 403) and self.headers["content-type"].startswith("text/plain")
        return (self.status, self.text) == (204, "") or is_plain or reloads


def delivers_nothing(text: str) -> bool:
    """True for an answer that holds no state and no element: at most a message, and the word to reload."""
    signals = patched_signals(text)
    only_signals = all(kind == "datastar-patch-signals" for kind, _ in frames(text))
    return only_signals and set(signals) <= {"_fs"} and set(signals.get("_fs", ())) <= {"go", "err", "status"}


POSITION = re.compile(r"^id: ", re.MULTILINE)


def open_stream(
    client: httpx.Client,
    page: Page | str,
    tokens: Any = None,
    *,
    payload: Any = ...,
    headers: dict[str, str] | None = None,
) -> Stream:
    """Open the stream of `page` (or of the URL where the routes begin), read what it says at first, and leave it.

    `tokens` are sent instead of the page's own, `payload` instead of all that a page sends.
    """
    url = page if isinstance(page, str) else page.url
    if payload is ...:
        payload = {"w": page.tokens if tokens is None and isinstance(page, Page) else tokens, "n": ""}
    text = ""
    with client.stream(
        "POST", f"{url}stream", content=json.dumps(payload), headers={**BROWSER, **(headers or {})}
    ) as answer:
        for chunk in answer.iter_text():
            text += chunk
            if POSITION.search(text):  # stands behind all that waited
                return Stream(answer.status_code, text, True, answer.headers)
    return Stream(answer.status_code, text, False, answer.headers)


def post_event(
    client: httpx.Client, page: Page, path: str, body: Any, *, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Post `body`, which is not of the page's making, to `path` (`State/event`, with a query if need be)."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    sent = {**BROWSER, "content-type": "application/json", **(headers or {})}
    return client.post(f"{page.url}event/{path}", content=content, headers=sent)
