"""A page as a browser holds it, for tests over Starlette's TestClient or an async client of the app."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import httpx

BROWSER = {"datastar-request": "true", "sec-fetch-site": "same-origin"}


@asynccontextmanager
async def browser(app: Any, **options: Any):
    """An async client of `app` with cookies of its own, on the running loop: `async with browser(app) as client:`."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver", **options) as client:
        yield client


class Page:
    """What one tab got: `Page(test_client, "/")`, or `await Page.open(async_client, "/")`.

    `signals` holds what the page seeds (without `_fs`), `tokens` its watch tokens, `position` its stream id, `url` what
    the library's routes begin with, `attributes` a (tag, dict) pair per element.
    """

    def __init__(self, client: Any, path: str = "/", response: Any = None, **options: Any) -> None:
        self.client = client
        self.response = client.get(path, **options) if response is None else response
        self.html: str = self.response.text
        self.signals: dict[str, Any] = {}
        self.url = self.position = ""
        self.attributes = elements_of(self.html)
        for _, attributes in self.attributes:
            _merge(self.signals, json.loads(attributes.get("data-signals", "{}")))
            if own := attributes.get("data-signals__ifmissing"):
                self.url, self.position = (json.loads(re.search(rf"\b{n}:(\"[^\"]*\")", own)[1]) for n in "un")
        self.tokens: list[str] = list(self.signals.pop("_fs", {}).get("w", {}).values())

    @classmethod
    async def open(cls, client: Any, path: str = "/", **options: Any) -> Page:
        """As `Page(client, path)`, for an async client."""
        return cls(client, response=await client.get(path, **options))

    def send(
        self,
        state: str,
        event: str,
        *,
        instance_id: str | None = None,
        form: Sequence[tuple[str, Any]] | None = None,
        signals: Mapping[str, Any] | None = None,
        bound: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        nonce: str | None = None,
        connection: str | None = None,
        headers: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Any:
        """Posts an event as this page would; the response, or with an async client a coroutine for it.

        Without a `nonce` it gets one of its own, as each click does. `arguments` are those of `.on(...)`.
        """
        parts = {"a": arguments, "i": instance_id, "f": form, "s": signals, "b": bound}
        body = {name: part for name, part in parts.items() if part} | {"w": self.tokens}
        if form is not None:
            body["f"] = [list(pair) for pair in form]
        sent = {
            **BROWSER,
            "content-type": "application/json",
            "faststate-nonce": nonce or secrets.token_hex(12),
            "faststate-connection": connection or "",
            **(headers or {}),
        }
        return self.client.post(
            f"{self.url}event/{state}/{event}", content=json.dumps(body), params=query, headers=sent
        )


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def elements_of(html: str) -> list[tuple[str, dict[str, str]]]:
    """The elements of `html`, a (tag, attributes) pair each."""
    elements = _Elements()
    elements.feed(html)
    return elements.found


def _merge(into: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396), which is what Datastar does with signals."""
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            into[name] = _merge(into[name] if isinstance(into.get(name), dict) else {}, value)
        else:
            into[name] = value
    return into


def frames(body: bytes | str) -> list[tuple[str, dict[str, str]]]:
    """The Datastar events in an SSE body: (event, {part: text}), such as ("datastar-patch-signals", {"signals": …})."""
    text = body.decode() if isinstance(body, bytes) else body
    found = []
    for block in text.split("\n\n"):
        kind, parts = "", {}
        for line in block.split("\n"):
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                name, _, value = line.removeprefix("data: ").partition(" ")
                parts[name] = f"{parts[name]}\n{value}" if name in parts else value
        if kind:
            found.append((kind, parts))
    return found


def patched_signals(body: bytes | str) -> dict[str, Any]:
    """What the signals in an SSE body come to, merged in order."""
    merged: dict[str, Any] = {}
    for kind, parts in frames(body):
        if kind == "datastar-patch-signals":
            _merge(merged, json.loads(parts["signals"]))
    return merged


def status(response: Any) -> int:
    """The status meant: of `FastState-Status` where the answer is a 200 for Datastar's sake, else the plain one."""
    return int(response.headers.get("faststate-status", response.status_code))


def message(response: Any) -> str:
    """What the page would show of a refusal, or ''."""
    return patched_signals(response.text).get("_fs", {}).get("err", "")
