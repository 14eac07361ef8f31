"""A PostgreSQL for tests. `tests/conftest.py` offers the fixture to all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.processes import free_port

POSTGRES = "root@127.0.0.1:5432/test"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL: one that runs here, else one of our own, else the tests are skipped."""

    async def answers() -> None:
        await (await asyncpg.connect(f"postgresql://{POSTGRES}", timeout=5)).close()

    try:
        asyncio.run(answers())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        programs = shutil.which("initdb") or max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None)
        if programs is None:
            pytest.skip(f"POSTGRESQL IS NOT TESTED: none at {POSTGRES} ({error!r}), and none is installed to start one")
        with own_postgres(Path(programs).parent) as address:
            yield address
    else:
        yield POSTGRES


@contextlib.contextmanager
def own_postgres(programs: Path) -> Iterator[str]:
    directory, port = tempfile.mkdtemp(prefix="faststate-postgres-"), free_port()
    run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        user = pwd.getpwnam("nobody")
        os.chown(directory, user.pw_uid, user.pw_gid)
        run = functools.partial(run, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    data = f"{directory}/data"
    try:
        run([programs / "initdb", "-D", data, "-A", "trust", "-U", "root", "-E", "UTF8", "--no-sync"])
        options = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off"
        run([programs / "pg_ctl", "-D", data, "-o", options, "-l", f"{directory}/log", "-w", "start"])
        try:
            yield f"root@127.0.0.1:{port}/postgres"
        finally:
            run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(directory)
