"""Fixtures for the tests of crashes and restarts."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def seed() -> str:
    """FASTSTATE_SEED repeats a test's choices, though not what the machine does; a failing test prints it."""
    seed = os.environ.get("FASTSTATE_SEED") or os.urandom(4).hex()
    print(f"FASTSTATE_SEED={seed}")
    return seed
