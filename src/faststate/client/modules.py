"""The JavaScript modules of the page's program, each under a name that changes with its content."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

ENTRY: Final = "faststate"
"""The module that a page loads; it imports the others."""

USUAL: Final = "js"
MOUNTED: Final = "mjs"
"""The ends of the modules' file names: that of an app which is mounted below another, whose route of static files would
take what ends with ".js" for a file of its own."""

_FOLDER: Final = Path(__file__).parent

_IMPORT: Final = re.compile(r'(?<=from ")\./([a-z_]+)\.js(?=")')


@cache
def served_modules(end: str = USUAL) -> dict[str, bytes]:
    """Return the content (bytes) of each module by the file name that it is served under, with one of the two ends.

    A module's imports name the other modules as they are served, so a change of one changes the names of all that
    import it: what a browser has kept under a name is never out of date.
    """
    served: dict[str, bytes] = {}
    names: dict[str, str] = {}

    def name_of(module: str) -> str:
        if module not in names:
            source = (_FOLDER / f"{module}.js").read_text(encoding="utf-8")
            text = _IMPORT.sub(lambda found: f"./{name_of(found[1])}", source)
            if module == ENTRY:  # names all of them, so that a browser does not learn of them one after the other
                text += "".join(f'import "./{name}";\n' for name in served)
            content = text.encode()
            digest = hashlib.sha256(content).hexdigest()[:12]
            names[module] = f"client-{digest}.{end}" if module == ENTRY else f"client-{module}-{digest}.{end}"
            served[names[module]] = content
        return names[module]

    name_of(ENTRY)
    return served


_NAME: Final = re.compile(r"client-(?:([a-z_]+)-)?[0-9a-f]{12}\.(m?js)")


def todays_module(name: str) -> bytes | None:
    """Return the content (bytes) of the module that had this file name in another version; None if there is none.

    A page from before a deploy asks for the program as it was then. While the processes of an app are replaced one by
    one, pages and modules come from different ones: better a module of another version than none, since without one of
    them nothing runs.
    """
    if (asked := _NAME.fullmatch(name)) is None:
        return None
    for served, content in served_modules(asked[2]).items():
        found = _NAME.fullmatch(served)
        if found is not None and found[1] == asked[1]:
            return content
    return None


@cache
def entry_name(end: str = USUAL) -> str:
    """Return the file name, with one of the two ends, under which the module is served that a page loads."""
    return next(name for name in served_modules(end) if name.count("-") == 1)
