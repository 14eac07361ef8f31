"""The documentation as tests read it: the blocks of a page, and the checks of it below `tests/docs/`.

`tests/docs/README.md` says how checks are written.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from fasthtml.common import FastHTML
from starlette.testclient import TestClient

from tests.support import ROOT
from tests.support.client import Page

CHECKS = ROOT / "tests/docs"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_PIECE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$|^#+ (?P<heading>[^\n]+)$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^# == (?P<heading>.+?)(?:: snippet (?P<number>\d+))?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"\n# (new|elsewhere|visit)\b(.*)")


class Place(NamedTuple):
    """A place on a page: behind the Python snippet of that number below a heading, or (0) right behind the heading."""

    heading: str
    number: int = 0


class Block(NamedTuple):
    """A heading, whose language is "", or a fenced block. `line` is where it begins."""

    language: str
    text: str
    line: int
    place: Place


class Check(NamedTuple):
    """A section of a file of checks: what is done at one place of the page."""

    place: Place
    text: str
    line: int
    new: bool
    elsewhere: str
    visits: list[tuple[str, int]]


def blocks(page: Path) -> list[Block]:
    """Return the headings and fenced blocks of a page, in order."""
    source, found, place = page.read_text(), [], Place("")
    for match in _PIECE.finditer(source):
        language = (match["language"] or "").strip()
        if match["heading"]:
            place = Place(match["heading"])
        elif language == "python":
            place = place._replace(number=place.number + 1)
        found.append(Block(language, match["code"] or "", source.count("\n", 0, match.start()) + 1, place))
    return found


def checks(page: Path) -> list[Check]:
    """Return the sections of the page's file of checks, in order; none where it has no file."""
    file = CHECKS / f"{page.stem}.py"
    source, found = file.read_text() if file.exists() else "", []
    for match, after in itertools.pairwise([*_SECTION.finditer(source), None]):
        text = source[match.end() : after.start() if after else None]
        new, elsewhere, visits = False, "", []
        while directive := _DIRECTIVE.match(text):
            word, rest = directive[1], directive[2].strip()
            if word == "visit":
                path, _, status = rest.partition(" ")
                visits.append((path, int(status or 200)))
            elif word == "elsewhere":
                elsewhere = rest
            else:
                new = True
            text = text[directive.end() :]
        line = source.count("\n", 0, match.end()) + 1 + len(visits) + new + bool(elsewhere)
        place = Place(match["heading"], int(match["number"] or 0))
        found.append(Check(place, text, line, new, elsewhere, visits))
    return found


def snippets_elsewhere(page: Path) -> dict[Block, str]:
    """Return the Python snippets that other tests run, since they need more than every machine has, and by which."""
    marked = {check.place: check.elsewhere for check in checks(page) if check.elsewhere}
    found = {b: marked[b.place] for b in blocks(page) if b.language == "python" and b.place in marked}
    assert len(found) == len(marked), "`elsewhere` needs the place of a snippet"
    return found


class Tab:
    """A browser tab, as far as an app can tell: it keeps cookies and tokens, sends events and reads the stream."""

    def __init__(self, app: FastHTML, **client_options) -> None:
        self.client = TestClient(app, **client_options)
        self.tokens: list[str] = []
        self._nonces = itertools.count(10_000_000)

    def get(self, path: str, status: int = 200) -> str:
        page = Page(self.client, path, follow_redirects=False)
        found = page.response.status_code
        assert found == status, f"{path} answered {found}: {page.html[:500]}"
        self.tokens = page.tokens
        return page.html

    def send(self, event, *, form=None, bound=None, own_id=None, headers=None, status=None, **arguments):
        """Post an event; `status` is the one that it is refused with, None where it has to succeed."""
        body = {"a": arguments, "w": self.tokens, "i": own_id, "b": bound, "f": list(form.items()) if form else None}
        sent = {"datastar-request": "true", "faststate-nonce": str(next(self._nonces)), **(headers or {})}
        payload = {key: value for key, value in body.items() if value is not None}
        response = self.client.post(event.to().partition("?")[0], json=payload, headers=sent)
        said = response.headers.get("faststate-status")
        assert said == (str(status) if status else None), f"FastState-Status: {said}: {response.text}"
        return response

    def stream(self):
        payload = {"w": self.tokens}
        return self.client.stream("POST", "/_faststate/stream", json=payload, headers={"datastar-request": "true"})
