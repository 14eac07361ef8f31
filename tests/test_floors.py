"""The house: the order of its packages and of the files in each. Imports point down, and never in a circle.

Imports are read, not run, so one inside a function or below `if TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = "faststate"
SOURCE = ROOT / "src" / PACKAGE

# From the ground up: each package with its files, the lowest first. A file imports from files that stand before it,
# here or in a lower package. The `__init__` of a package is its door: it may import the whole package, and only higher
# packages come in by it. The files of a package inside a package are written like `redis/client`, its door like
# `redis`.
HOUSE: Mapping[str, Sequence[str]] = {
    "_compat": (
        "asyncio",
        "fastlite",
        "hypercorn",
        "itsdangerous",
        "json",
        "pydantic",
        "redis",
        "servers",
        "starlette",
        "uvicorn",
    ),
    "exceptions": (),
    "scopes": (),
    "redaction": (),
    "wire": ("values", "frames"),
    "client": ("modules",),
    "scheduling": ("queues", "loops", "waits", "workers", "threads", "running"),
    "auth": ("users", "rules", "limits", "tokens", "loaders"),
    "validation": (
        "annotations",
        "scalars",
        "core_schemas",
        "work",
        "bounds",
        "kept_values",
        "rewriting",
        "revalidation",
    ),
    "stores": (
        "backplane",
        "base",
        "memory",
        "sqlite_file",
        "sqlite",
        "redis/rules",
        "redis/scripts",
        "redis/address",
        "redis/process",
        "redis/connection",
        "redis/client",
        "redis/checkup",
        "redis/locking",
        "redis/subscriber",
        "redis/members",
        "redis/link",
        "redis/store",
        "redis",
        "urls",
    ),
    "records": ("sources", "columns", "functions", "base", "fastlite", "fastsql", "minidata", "table"),
    "state": (
        "parameters",
        "containers",
        "models",
        "comparison",
        "values",
        "serving",
        "views",
        "forms",
        "field_types",
        "arguments",
        "events",
        "markers",
        "schema",
        "copies",
        "changes",
        "reactive",
    ),
    "registry": (
        "persistence/differences",
        "persistence/leaves",
        "persistence/encoding",
        "persistence/codec",
        "persistence/failures",
        "persistence/class_checks",
        "persistence/row_save",
        "persistence/base",
        "persistence/stored",
        "persistence/rows",
        "persistence",
        "ends",
        "entries",
        "protocols",
        "locks",
        "sync_calls",
        "commits",
        "creating",
        "eviction",
        "usage",
        "lifetimes",
        "registry",
        "transaction",
        "run_event",
        "modify",
    ),
    "cluster": ("processes", "messages", "base", "committing", "following", "shared"),
    "sse": (
        "changes",
        "writing",
        "topics",
        "connection",
        "hooks",
        "fanout",
        "heartbeat",
        "manager",
        "transports",
    ),
    "sessions": ("config", "ended", "rights", "caller", "rechecks", "handover", "sessions"),
    "provider": (
        "options",
        "throttle",
        "page_tokens",
        "page",
        "lifecycle",
        "registrations",
        "stats",
        "initiator",
        "hooks",
        "parts",
        "context",
        "resolve",
        "payload",
        "page_streams",
        "page_event",
        "dispatch",
        "operations",
        "provider",
    ),
    "fasthtml": (
        "_compat",
        "requests",
        "script",
        "answers",
        "beforeware",
        "shutdown",
        "streams",
        "event_route",
        "batch_route",
        "stream_route",
        "routes",
        "caching",
        "injection",
        "cookies",
        "header_copies",
        "middleware",
        "setup",
    ),
    "tools": ("audit", "doctor", "report", "cli"),
}
WEB = "fasthtml"  # up to here, only this package knows the framework

# Imports that still point up. Each line that can go, goes; none is added.
AWAITED: frozenset[tuple[str, str]] = frozenset({})


def places(house: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The place of each file, counted from the ground, by its path below the package and without its suffix."""
    found: list[str] = []
    for package, files in house.items():
        found += [f"{package}/{file}" for file in files]
        found.append(package)
    return {name: place for place, name in enumerate(found)}


PLACES = places(HOUSE)


def imported(tree: ast.AST, package: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, which lies in `package` (its name, split)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def target(name: str) -> str | None:
    """The file that the dotted `name` is imported from: the longest part of it that is one, None where none is."""
    parts = name.split(".")[1:]
    while parts:
        if "/".join(parts) in PLACES:
            return "/".join(parts)
        parts.pop()
    return None


def violations(source: str, path: str) -> list[tuple[str, str, str]]:
    """The rules that the file at `path`, relative to the package, breaks with `source` as its text.

    Each as a sentence that begins with the place, and the two files that it concerns.
    """
    own = path.removesuffix(".py").removesuffix("/__init__")
    if own in ("__init__", "__main__"):
        return []  # they collect the public names and start the command: all floors are theirs
    if own not in PLACES:
        return [(f"{path}: {own!r} has no place in the house: add it to HOUSE, in {Path(__file__).name}", own, "")]
    parts = [PACKAGE, *own.split("/")]
    package = parts if path.endswith("__init__.py") else parts[:-1]
    first = own.partition("/")[0]
    below_web = PLACES[first] <= PLACES[WEB] and first != WEB
    found: list[tuple[str, str, str]] = []
    for line, name in imported(ast.parse(source), package):
        root = name.partition(".")[0]
        if root == "fasthtml" and below_web:
            found.append(
                (f"{path}:{line}: imports {name}: only the package {WEB} may, and what stands above it", own, "")
            )
        if root != PACKAGE:
            continue
        other = target(name)
        if other is None:
            found.append(
                (f"{path}:{line}: imports {name}: name the file it comes from, which must be in HOUSE", own, "")
            )
        elif other == first and own != other:
            found.append((f"{path}:{line}: imports {name} by the door of its own package", own, other))
        elif PLACES[other] >= PLACES[own] and other != own:
            found.append((f"{path}:{line}: imports {name}, which stands higher", own, other))
    return found


def all_violations() -> list[tuple[str, str, str]]:
    """Return what all files of the package break, in the form of `violations`."""
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 1, f"no files found in {SOURCE}"
    return [
        broken
        for file in files
        for broken in violations(file.read_text(encoding="utf-8"), file.relative_to(SOURCE).as_posix())
    ]


def test_every_import_points_down() -> None:
    found = [message for message, own, other in all_violations() if (own, other) not in AWAITED]
    assert not found, "\n" + "\n".join(found)


def test_what_is_awaited_is_still_there() -> None:
    assert {(own, other) for _, own, other in all_violations()} >= AWAITED


def test_the_house_lists_only_what_exists() -> None:
    missing = [
        name
        for name in PLACES
        if not (SOURCE / f"{name}.py").is_file() and not (SOURCE / name / "__init__.py").is_file()
    ]
    assert not missing


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{file.relative_to(SOURCE)}:{node.lineno}")
    assert [found for found in places.values() if len(found) > 1] == []


def test_the_tests_of_each_package_are_in_a_directory_of_its_name() -> None:
    packages = [name for name, files in HOUSE.items() if files and not name.startswith("_")]
    assert not [name for name in packages if not list((ROOT / "tests" / name).glob("test_*.py"))]


@pytest.mark.parametrize("package", [name for name, files in HOUSE.items() if files])
def test_a_package_says_what_it_is_for_and_where_to_begin(package: str) -> None:
    said = ast.get_docstring(ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None
    assert "Begin with" in " ".join(said.split())


@pytest.mark.parametrize(
    ("path", "line", "source"),
    [
        ("scopes.py", 1, "from faststate.auth.rules import UserContext"),
        ("scopes.py", 1, "from .auth import UserContext"),
        ("scopes.py", 1, "from . import auth"),
        ("scopes.py", 1, "import faststate.auth.rules as a"),
        ("stores/redis/client.py", 1, "from ...registry import StateRegistry"),
        ("stores/__init__.py", 1, "from ..registry import StateRegistry"),
        ("stores/sqlite.py", 1, "from .redis.client import Client"),
        ("stores/sqlite.py", 1, "from .redis import RedisStore"),
        ("stores/memory.py", 1, "from . import StateStore"),
        ("state/reactive.py", 2, "def f():\n    from ..provider import StateProvider"),
        ("state/events.py", 1, "from .reactive import ReactiveState"),
        (
            "state/reactive.py",
            3,
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..registry import StateRegistry",
        ),
        ("state/reactive.py", 2, "try:\n    import faststate.tools.cli\nexcept ImportError:\n    pass"),
        ("state/reactive.py", 1, "from faststate import ReactiveState"),
        ("state/reactive.py", 1, "import faststate"),
        ("state/reactive.py", 1, "from .nowhere import x"),
        ("provider/provider.py", 1, "from fasthtml.common import Div"),
        ("provider/provider.py", 1, "import fasthtml"),
        ("state/views.py", 2, "def f():\n    from fasthtml import core"),
        ("registry/registry.py", 1, "from ..sse import SSEManager"),
        ("registry/registry.py", 1, "from faststate.registry import StateRegistry"),
    ],
)
def test_a_forbidden_import_is_reported_with_its_place(path: str, line: int, source: str) -> None:
    ((message, _, _),) = violations(source, path)
    assert message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("exceptions.py", "import anyio\nfrom starlette.requests import Request"),
        ("scopes.py", "from .exceptions import IdentifierError"),
        ("stores/redis/store.py", "import redis.asyncio\nfrom . import client\nfrom .client import Client"),
        ("stores/redis/store.py", "from .. import base\nfrom ...exceptions import BackendError"),
        ("stores/__init__.py", "from .memory import MemoryStore\nfrom ..exceptions import BackendError"),
        ("state/events.py", "from . import views\nfrom .values import Marker"),
        ("state/views.py", "from fastcore.xml import to_xml"),
        ("registry/modify.py", "from .transaction import Transaction"),
        ("provider/provider.py", "from ..registry import StateRegistry\nfrom ..sse import SSEManager"),
        ("fasthtml/routes.py", "from fasthtml.common import Div\nfrom ..provider import StateProvider"),
        (
            "fasthtml/__init__.py",
            "import fasthtml.core\nfrom ..provider import StateProvider\nfrom .routes import Routes",
        ),
        ("tools/audit.py", "from fasthtml.common import Div\nfrom ..fasthtml import setup"),
        ("__init__.py", "from .tools.cli import main\nfrom .fasthtml import fast_app"),
    ],
)
def test_a_permitted_import_is_not_reported(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_a_file_without_a_place_is_reported_with_the_remedy() -> None:
    for path, name in (
        ("newcomer.py", "newcomer"),
        ("newcomer/__init__.py", "newcomer"),
        ("state/new.py", "state/new"),
    ):
        ((message, _, _),) = violations("", path)
        assert repr(name) in message
        assert "add it to HOUSE" in message
