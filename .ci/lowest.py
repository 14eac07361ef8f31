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
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(,<[\w.]+)?", requirement)
    if found:
        print(f"{found[1]}=={found[2]}")
    if requirement in needed and not (found and found[3]):
        sys.exit(f"{requirement!r} in pyproject.toml needs a lower and an upper bound alone: 'name>=1.2,<2'")
