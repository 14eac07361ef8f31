"""The program in the browser: the unit tests of its modules, which Node runs, and its types.

The Node of a system is taken, or else the one that Playwright brings along.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import playwright
import pytest

HERE = Path(__file__).parent
TYPESCRIPT = "typescript@5.9.3"


def node() -> str:
    bundled = Path(playwright.__file__).parent / "driver" / "node"
    found = shutil.which("node") or (str(bundled) if bundled.exists() else None)
    if found is None:
        pytest.skip("NO UNIT TEST OF THE PAGE'S PROGRAM RAN: there is no Node")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("module", sorted(HERE.glob("*.test.js")), ids=lambda path: path.name.partition(".")[0])
def test_a_module_keeps_its_promises(module):
    ran = run(node(), "--test", module.name)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_types_are_right():
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("the types of the page's program were not checked: there is no npx")
    if run(npx, "--yes", "--package", TYPESCRIPT, "tsc", "--version").returncode:
        pytest.skip(f"the types of the page's program were not checked: {TYPESCRIPT} is not to be had")
    ran = run(npx, "--yes", "--package", TYPESCRIPT, "tsc", "--noEmit", "-p", "tsconfig.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
