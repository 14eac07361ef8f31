"""What every test shares. Fixtures that only one kind of test needs live in that directory's own conftest."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository, for tests that read its sources, examples and documents."""
    return ROOT


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: FastHTML writes `.sesskey` where it runs, and SQLite files lie there too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
