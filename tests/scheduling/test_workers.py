"""The worker threads of sync events and loaders."""

from __future__ import annotations

import subprocess
import sys


def test_the_library_is_imported_where_processes_cannot_fork() -> None:
    """As on Windows."""
    script = "import os; del os.fork, os.register_at_fork; import faststate"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
