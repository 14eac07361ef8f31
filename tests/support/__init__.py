"""Everything that several test modules share. `tests/README.md` says what is where."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""
