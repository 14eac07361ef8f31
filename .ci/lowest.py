"""Print a constraint, for pip's -c, for each lower bound in pyproject.toml: the lowest version that is declared."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
optional = project["optional-dependencies"]
needed = [*project["dependencies"], *optional["sqlite"], *optional["redis"]]
for requirement in [*needed, *optional["test"]]:
    if found := re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
    elif requirement in needed:
        sys.exit(f"{requirement!r} in pyproject.toml needs a lower bound, and nothing but that: 'name>=1.2'")
