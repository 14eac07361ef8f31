"""The layers: each module imports only from floors below its own, or from its own floor.

Imports are read, not run, so one inside a function or below `if TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "faststate"
SOURCE = Path(__file__).resolve().parent.parent / "src" / PACKAGE

# By the first name below the package: a module that grows into a package of the same name keeps its floor.
FLOORS = {
    "exceptions": 0,
    "scopes": 1,
    "stores": 1,
    "backplane": 1,
    "records": 1,
    "auth": 2,
    "limits": 2,
    "processes": 2,
    "queues": 2,
    "waits": 2,
    "tokens": 2,
    "wire": 2,
    "scalars": 1,
    "redaction": 1,
    "revalidation": 2,
    "values": 3,
    "codec": 3,
    "parameters": 3,
    "forms": 3,
    "schemas": 3,
    "arguments": 3,
    "events": 3,
    "serving": 3,
    "views": 3,
    "fields": 4,
    "users": 3,
    "state": 4,
    "field_types": 4,
    "entries": 5,
    "threads": 5,
    "running": 5,
    "locks": 5,
    "sharing": 5,
    "commits": 5,
    "ended": 5,
    "eviction": 5,
    "registry": 5,
    "persistence": 5,
    "rows": 5,
    "transaction": 5,
    "sse": 5,
    "transports": 6,
    "config": 6,
    "context": 6,
    "modify": 6,
    "provider": 6,
    "rechecks": 6,
    "following": 6,
    "sessions": 6,
    "page": 6,
    "dispatch": 6,
    "fasthtml": 7,
    "testing": 8,
    "inspector": 8,
    "audit": 8,
    "doctor": 8,
    "cli": 8,
    "__main__": 8,
}
STRANGERS = frozenset({"registry", "sse"})  # on one floor, but wired by the provider: they never import each other
WEB_FLOOR = FLOORS["fasthtml"]  # up to here, only faststate.fasthtml itself knows the framework


def imported(tree: ast.AST, parts: list[str], *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports; `parts` is the module's own name, split."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package that the module lies in, and for a package's __init__ that is the package itself.
            up = node.level - 1 if is_package else node.level
            base = parts[: len(parts) - up] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def violations(source: str, path: str) -> list[str]:
    """What the module at `path`, relative to the package, breaks with `source` as its text. One line each."""
    parts = list(Path(path).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    if is_package:
        parts.pop()
    if not parts:
        return []  # the package's own __init__ collects the public names from all floors
    own = parts[0]
    floor = FLOORS.get(own)
    if floor is None:
        return [f"{path}: no floor is set for {own!r}: place it in FLOORS, in {Path(__file__).name}"]
    found: list[str] = []
    for line, name in imported(ast.parse(source), [PACKAGE, *parts], is_package=is_package):
        first, _, rest = name.partition(".")
        if first == "fasthtml" and floor <= WEB_FLOOR and own != "fasthtml":
            found.append(f"{path}:{line}: imports {name}: below floor {WEB_FLOOR + 1} only fasthtml.py may")
        if first != PACKAGE:
            continue
        other = rest.partition(".")[0]
        if other == own:
            continue
        if other not in FLOORS:
            found.append(f"{path}:{line}: imports {name}: name the module it comes from, which must be in FLOORS")
        elif FLOORS[other] > floor:
            found.append(f"{path}:{line}: on floor {floor}, imports {name} from floor {FLOORS[other]}")
        elif {own, other} == STRANGERS:
            found.append(f"{path}:{line}: imports {name}: registry and sse know each other through hooks alone")
    return found


def test_every_module_imports_from_its_own_floor_or_below() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 1, f"no modules found in {SOURCE}"
    found = [
        line
        for module in modules
        for line in violations(module.read_text(encoding="utf-8"), module.relative_to(SOURCE).as_posix())
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "line", "source"),
    [
        ("scopes.py", 1, "from faststate.auth import UserContext"),
        ("scopes.py", 1, "from .auth import UserContext"),
        ("scopes.py", 1, "from . import exceptions, auth"),
        ("scopes.py", 1, "import faststate.auth as a"),
        ("stores/redis.py", 1, "from ..registry import StateRegistry"),
        ("stores/__init__.py", 1, "from ..registry import StateRegistry"),
        ("stores/redis.py", 1, "from .. import registry"),
        ("state.py", 2, "def f():\n    from .provider import StateProvider"),
        ("state.py", 3, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .registry import StateRegistry"),
        ("state.py", 2, "try:\n    import faststate.cli\nexcept ImportError:\n    pass"),
        ("state.py", 1, "from faststate import ReactiveState"),
        ("state.py", 1, "import faststate"),
        ("state.py", 1, "from .nowhere import x"),
        ("provider.py", 1, "from fasthtml.common import Div"),
        ("provider.py", 1, "import fasthtml"),
        ("views.py", 2, "def f():\n    from fasthtml import core"),
        ("registry.py", 1, "from .sse import SSEManager"),
        ("sse.py", 1, "from faststate import registry"),
        ("sse/outbox.py", 1, "from ..registry import StateRegistry"),
    ],
)
def test_a_forbidden_import_is_reported_with_its_place(path: str, line: int, source: str) -> None:
    (message,) = violations(source, path)
    assert message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("exceptions.py", "import anyio\nfrom starlette.requests import Request"),
        ("scopes.py", "from .exceptions import IdentifierError"),
        ("stores/redis.py", "import redis.asyncio\nfrom . import memory\nfrom .memory import MemoryStore"),
        ("stores/__init__.py", "from .memory import MemoryStore\nfrom ..exceptions import BackendError"),
        ("events.py", "from . import views\nfrom .values import Marker"),
        ("views.py", "from fastcore.xml import to_xml"),
        ("registry.py", "from .transaction import Transaction"),
        ("provider.py", "from .registry import StateRegistry\nfrom .sse import SSEManager"),
        ("fasthtml.py", "from fasthtml.common import Div\nfrom .provider import StateProvider"),
        ("fasthtml/setup.py", "import fasthtml.core\nfrom ..provider import StateProvider"),
        ("inspector.py", "from fasthtml.common import Div\nfrom .fasthtml import setup"),
        ("__init__.py", "from .cli import main\nfrom .fasthtml import fast_app"),
    ],
)
def test_a_permitted_import_is_not_reported(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_a_module_without_a_floor_is_reported_with_the_remedy() -> None:
    for path in ("newcomer.py", "newcomer/__init__.py", "newcomer/part.py"):
        (message,) = violations("", path)
        assert "'newcomer'" in message and "place it in FLOORS" in message
