"""The documentation is true: every snippet runs, claims that can be checked are checked, every link leads somewhere.

All `python` blocks of a page run in order in one namespace, `<!-- new -->` begins another. What a reader need not see
stands in comments of the page, and runs where it stands:

    <!-- check ... -->      Python, with `tab(app)` for a browser tab on an app: asserts what the text claims
    <!-- visit /path 401 -->  a GET with the status that the page promises; a route without parameters is visited anyway
    <!-- elsewhere test_x.py -->  the next block needs more than every machine has, and that file of tests runs it
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
import sys
import types
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from fasthtml.common import FastHTML
from starlette.routing import Route
from starlette.testclient import TestClient

import faststate
from faststate.registry.registry import DEFAULT_TTL

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "console", "text", "nginx", "ini"}

_PIECE = re.compile(
    r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$|^<!-- (?P<word>\w+)(?P<rest>.*?)-->$", re.MULTILINE | re.DOTALL
)


class Piece(NamedTuple):
    """A fenced block or a directive of a page."""

    kind: str
    text: str
    line: int


def pieces(page: Path) -> list[Piece]:
    source = page.read_text()
    found = []
    for match in _PIECE.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        kind = match["word"] or "```" + match["language"].strip()
        found.append(Piece(kind, match["code"] if match["word"] is None else match["rest"], line))
    return found


def snippets_elsewhere(page: Path) -> dict[Piece, str]:
    """The Python blocks that other tests run, since they need more than every machine has; and which file does."""
    found = pieces(page)
    marked = {after: before.text.strip() for before, after in itertools.pairwise(found) if before.kind == "elsewhere"}
    assert all(piece.kind == "```python" for piece in marked)
    return marked


# -- a browser tab, as far as an app can tell -----------------------------------------------------------------------


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.live: list[dict[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        if "data-fs-live" in dict(attrs):
            self.live.append(dict(attrs))


class Tab:
    """Gets pages, keeps their cookies and tokens, sends events and reads the stream as the page would."""

    def __init__(self, app: FastHTML, **client_options) -> None:
        self.client = TestClient(app, **client_options)
        self.tokens: list[str] = []
        self._nonces = itertools.count(10_000_000)

    def get(self, path: str, status: int = 200) -> str:
        response = self.client.get(path, follow_redirects=False)
        assert response.status_code == status, f"{path} answered {response.status_code}: {response.text[:500]}"
        parser = _Attributes()
        parser.feed(response.text)
        self.tokens = [
            token for live in parser.live for token in json.loads(live["data-signals"] or "")["_fs"]["w"].values()
        ]
        return response.text

    def send(self, event, *, form=None, bound=None, own_id=None, headers=None, status=None, **arguments):
        """Posts an event; `status` is the one that it is refused with, None where it has to succeed."""
        body = {"a": arguments, "w": self.tokens, "i": own_id, "b": bound, "f": list(form.items()) if form else None}
        sent = {"datastar-request": "true", "faststate-nonce": str(next(self._nonces)), **(headers or {})}
        payload = {key: value for key, value in body.items() if value is not None}
        response = self.client.post(event.to().partition("?")[0], json=payload, headers=sent)
        said = response.headers.get("faststate-status")
        assert said == (str(status) if status else None), f"FastState-Status: {said}: {response.text}"
        return response

    def stream(self):
        query = {"datastar": json.dumps({"w": self.tokens})}
        return self.client.stream("GET", "/_faststate/stream", params=query, headers={"datastar-request": "true"})


def own_routes(app: FastHTML) -> set[str]:
    """Paths of the app's own GET routes: neither FastState's nor the one for static files."""
    return {
        route.path
        for route in app.router.routes
        if isinstance(route, Route)
        and "GET" in (route.methods or ())
        and not (route.name or "").startswith("faststate-")
        and not route.path.startswith("/{fname:path}")
    }


def visit(app: FastHTML, asked: list[tuple[str, int]]) -> None:
    """Gets what the page asks for and every route without parameters; a route that nobody asked for is an error."""
    seen = set()
    for path, status in asked:
        Tab(app).get(path, status)
        for route in app.router.routes:
            if isinstance(route, Route) and route.path_regex.match(path.partition("?")[0]):
                seen.add(route.path)
                break
    for path in own_routes(app) - seen:
        assert "{" not in path, f"nothing visits {path}: add <!-- visit ... -->"
        Tab(app).get(path)


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_of_the_page_runs_and_does_what_the_page_says(page, in_tmp_path, monkeypatch):
    for name in ("FASTSTATE_DATASTAR_SRC", "FASTSTATE_STORE"):  # pages describe the defaults
        monkeypatch.delenv(name, raising=False)
    names = itertools.count()
    apps: dict[int, FastHTML] = {}
    visits: dict[int, list[tuple[str, int]]] = {}
    ran = 0

    def begin() -> types.ModuleType:
        fresh = types.ModuleType(f"{page.stem}_{next(names)}")
        monkeypatch.setitem(sys.modules, fresh.__name__, fresh)
        return fresh

    module = begin()
    elsewhere = snippets_elsewhere(page)
    for piece in pieces(page):
        kind, text, line = piece
        if piece in elsewhere:
            runner = (ROOT / "tests" / elsewhere[piece]).read_text()
            assert f'snippets_elsewhere(ROOT / "docs/{page.name}")' in runner, "it does not run them"
            ran += 1
        elif kind == "new":
            module = begin()
        elif kind == "visit":
            path, _, status = text.strip().partition(" ")
            visits.setdefault(id(module.app), []).append((path, int(status or 200)))
        elif kind in ("```python", "check"):
            ran += kind == "```python"
            above = "\n" * (line - (kind == "check"))  # so that tracebacks show the page's own lines
            code = compile(above + text, str(page), "exec", dont_inherit=True)
            if kind == "check":
                exec(code, module.__dict__ | {"tab": Tab, "pytest": pytest})
            else:
                exec(code, module.__dict__)
                for value in vars(module).values():
                    if isinstance(value, FastHTML):
                        apps[id(value)] = value
    for app_id, app in apps.items():
        visit(app, visits.get(app_id, []))
    assert ran == len(re.findall(r"^\s*(?:```|~~~)\s*py", page.read_text(), re.MULTILINE | re.IGNORECASE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_the_page_escapes_the_tests(page):
    found = pieces(page)
    fences = [piece.kind.removeprefix("```") for piece in found if piece.kind.startswith("```")]
    assert set(fences) <= LANGUAGES, "a block needs one of the known languages"
    assert len(re.findall(r"^\s*(```|~~~)", page.read_text(), re.MULTILINE)) == 2 * len(fences)
    directives = [piece.kind for piece in found if not piece.kind.startswith("```")]
    assert set(directives) <= {"new", "check", "visit", "elsewhere"}
    assert page.read_text().count("<!--") == len(directives)


def test_every_page_of_the_documentation_is_listed_and_nonempty():
    listed = set(re.findall(r"\]\(([a-z]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert listed == {page.name for page in PAGES} - {"README.md", "index.md"}
    assert all(page.read_text().startswith("# ") for page in PAGES)


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_relative_link_of_the_page_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(file), f"{page.name} links to {target}"


def _prose() -> str:
    return "\n".join(re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL) for page in PAGES)


@pytest.mark.parametrize("name", faststate.__all__)
def test_every_public_name_is_documented(name):
    assert re.search(rf"\b{name}\b", _prose())


def _rows(page: str, heading: str, width: int) -> dict[str, list[str]]:
    """The rows of a table, found by its first column's heading, that begin with a name in backticks; by that name."""
    rows = {}
    table = (ROOT / page).read_text().partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if len(cells) == width and (match := re.fullmatch(r"`(\w+)`", cells[0])):
            rows[match[1]] = cells[1:]
    return rows


def test_the_table_of_errors_names_all_errors_with_their_status():
    rows = _rows("docs/errors.md", "Error", 3)
    errors = {
        name: getattr(faststate, name)
        for name in faststate.__all__
        if isinstance(getattr(faststate, name), type) and issubclass(getattr(faststate, name), Exception)
    }
    assert {name: int(row[0]) for name, row in rows.items()} == {name: e.status for name, e in errors.items()}


def _default(text: str) -> object:
    return eval(text.strip("`"), {"StateScope": faststate.StateScope})


def test_the_table_of_provider_options_names_all_with_their_defaults():
    rows = _rows("README.md", "Option", 3)
    options = {n: p.default for n, p in inspect.signature(faststate.StateProvider).parameters.items()}
    assert rows.keys() == options.keys()
    for name in options.keys() - {"datastar_src", "clock"}:
        assert _default(rows[name][0]) == options[name], name
    assert str(options["datastar_src"]).split("@v")[1].split("/")[0] in rows["datastar_src"][0]
    assert rows["clock"][0] == f"`time.{options['clock'].__name__}`"


def test_the_table_of_state_options_names_all_with_their_defaults():
    rows = _rows("docs/scopes.md", "`StateConfig(...)`", 3)
    options = {f.name: f.default for f in fields(faststate.StateConfig) if f.init and f.name != "state_cls"}
    assert {name: _default(row[0]) for name, row in rows.items()} == options


def test_the_table_of_lifetimes_names_all_scopes_with_their_defaults():
    rows = _rows("docs/lifetimes.md", "Scope", 3)
    assert {name: _default(row[0]) for name, row in rows.items()} == {s.name: ttl for s, ttl in DEFAULT_TTL.items()}


def test_the_changelog_begins_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[?Unreleased\]?", text, re.MULTILINE)
    assert "keepachangelog.com" in text
