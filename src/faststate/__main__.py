"""`python -m faststate`, for where the installed command is not on the path."""

from __future__ import annotations

from .tools.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
