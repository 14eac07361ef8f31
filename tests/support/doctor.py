"""`faststate doctor`, run on an app of the test's own, and what it finds about a provider."""

import os
import sys

import pytest

from faststate.tools.doctor import examine
from tests.support.forks import run_module

APP = """
from fasthtml.common import *
from faststate import *

provider = StateProvider(STORE)
app, rt = fast_app(state_provider=provider, secret_key="given")
"""


@pytest.fixture(autouse=True)
def alone(in_tmp_path, monkeypatch):
    for name in ("WEB_CONCURRENCY", "PROCS", "FASTSTATE_STORE", "FASTSTATE_DATASTAR_SRC"):
        monkeypatch.delenv(name, raising=False)


async def found(provider, target=None):
    """Examine a provider; return {about: [(level, message), ...]}."""
    checks = {}
    for level, about, message in await examine(target if target is not None else provider, provider):
        checks.setdefault(about, []).append((level, message))
    return checks


def doctor(directory, *arguments, source=APP, store="", env=None):
    (directory / "shop.py").write_text(source.replace("STORE", store))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})}
    return run_module("faststate", "doctor", "shop:app", *arguments, cwd=directory, env=environment)
