"""The documentation is true: every snippet runs, claims that can be checked are checked, every link leads somewhere.

The checks of a page stand beside this file; README.md says how they are written.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
from fasthtml.common import FastHTML
from starlette.routing import Route

import faststate
from faststate.registry.entries import DEFAULT_TTL
from tests.support.pages import CHECKS, PAGES, ROOT, Tab, blocks, checks, snippets_elsewhere

LANGUAGES = {"python", "console", "css", "text", "nginx", "ini"}


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
        assert "{" not in path, f"nothing visits {path}: add `# visit ...` to its checks"
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

    def run(text: str, file: Path, line: int, namespace: dict[str, object]) -> None:
        """Run `text`, which begins behind that line of the file, so that tracebacks show the file's own lines."""
        exec(compile("\n" * line + text, str(file), "exec", dont_inherit=True), namespace)

    module = begin()
    elsewhere = snippets_elsewhere(page)
    left = checks(page)
    for block in blocks(page):
        here = [check for check in left if check.place == block.place] if block.language in ("", "python") else []
        left = [check for check in left if check not in here]
        is_snippet = block.language == "python"
        if is_snippet and any(check.new for check in here):
            module = begin()
        if block in elsewhere:
            runner = (CHECKS / elsewhere[block]).read_text()
            assert f'snippets_elsewhere(ROOT / "docs/{page.name}")' in runner, "it does not run them"
        elif is_snippet:
            run(block.text, page, block.line, module.__dict__)
            for value in vars(module).values():
                if isinstance(value, FastHTML):
                    apps[id(value)] = value
        ran += is_snippet
        for check in here:
            if check.new and not is_snippet:
                module = begin()
            if check.visits:
                visits.setdefault(id(module.app), []).extend(check.visits)
            known = {"tab": Tab, "pytest": pytest, "PAGE": page}
            run(check.text, CHECKS / f"{page.stem}.py", check.line - 1, module.__dict__ | known)
    assert not left, f"the page has no such place: {left[0].place}"
    for app_id, app in apps.items():
        visit(app, visits.get(app_id, []))
    assert ran == len(re.findall(r"^\s*(?:```|~~~)\s*py", page.read_text(), re.MULTILINE | re.IGNORECASE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_the_page_escapes_the_tests(page):
    fences = [block.language for block in blocks(page) if block.language]
    assert set(fences) <= LANGUAGES, "a block needs one of the known languages"
    assert len(re.findall(r"^\s*(```|~~~)", page.read_text(), re.MULTILINE)) == 2 * len(fences)
    assert "<!--" not in page.read_text(), "checks stand in tests/docs, and nothing else is hidden"


def test_every_file_of_checks_has_its_page():
    assert {file.stem for file in CHECKS.glob("*.py") if not file.stem.startswith(("test_", "__"))} <= {
        page.stem for page in PAGES
    }


def test_every_page_of_the_documentation_is_listed_and_nonempty():
    listed = set(re.findall(r"\]\(([a-z]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert listed == {page.name for page in PAGES} - {"README.md", "index.md"}
    assert all(page.read_text().startswith("# ") for page in PAGES)


def test_the_architecture_page_names_only_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", page)) - {"tests/test_floors.py", "tests/test_compat.py"}
    assert len(named) > 30
    missing = {name for name in named if not (ROOT / "src/faststate" / name).is_file()}
    assert not missing


def test_the_architecture_page_shows_every_package_and_names_the_protocols_that_join_them() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    packages = {path.parent.name for path in (ROOT / "src/faststate").glob("*/__init__.py")}
    assert {name for name in packages if re.search(rf"^ .*\b{name}\b", page, re.MULTILINE)} == packages
    for names, file in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(\w+/\w+\.py)`", page, re.MULTILINE):
        source = (ROOT / "src/faststate" / file).read_text()
        for name in re.findall(r"\w+", names):
            assert f"class {name}" in source, (name, file)


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
    return "\n".join(page.read_text() for page in PAGES)


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
