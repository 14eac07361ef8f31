"""The app under uvicorn, which is to die hundreds of times."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from tests.support.forked_server import Flaw, ForkedServer


class FastServer(ForkedServer):
    """One app on one port and one directory, life after life. Lifetime: the test, which ends it with `kill`."""

    def __init__(self, directory: Path, flaw: Flaw | None = None) -> None:
        env = {name: value for name, value in os.environ.items() if name != "FASTSTATE_STORE"}
        super().__init__(directory, "app", partial(_serve, flaw), env=env)


def _serve(flaw: Flaw | None, port: int) -> None:
    if flaw is not None:
        flaw()
    import uvicorn

    uvicorn.run("tests.chaos.app:app", host="127.0.0.1", port=port, log_level="warning")
