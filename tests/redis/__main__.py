"""The fault tests at any size: `python -m tests.redis test_many_workers --events 100000 --workers 4 --clients 64`."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from importlib import import_module
from inspect import signature
from pathlib import Path

from . import stage

parser = argparse.ArgumentParser(prog="python -m tests.redis", description=__doc__)
parser.add_argument("module", help="its tests that take nothing but a directory and a seed are run")
parser.add_argument("--events", type=int, default=stage.SUITE.events, help="about so many; %(default)s as in the suite")
parser.add_argument("--workers", type=int, default=stage.SUITE.workers)
parser.add_argument("--clients", type=int, default=stage.SUITE.clients)
parser.add_argument("--times", type=int, default=1)
parser.add_argument("--only", default="", help="a part of the names of the tests that are run")
parser.add_argument("--seed", default=os.environ.get("FASTSTATE_SEED") or os.urandom(4).hex())
arguments = parser.parse_args()
stage.asked = stage.Scale(arguments.events, arguments.workers, arguments.clients)
for number in range(arguments.times):
    seed = arguments.seed if arguments.times == 1 else f"{arguments.seed}-{number}"
    for name, test in vars(import_module(f"tests.redis.{arguments.module}")).items():
        if (
            name.startswith("test_")
            and set(signature(test).parameters) == {"tmp_path", "seed"}
            and arguments.only in name
        ):
            print(f"FASTSTATE_SEED={seed} {name}", flush=True)
            with tempfile.TemporaryDirectory() as directory:
                asyncio.run(test(Path(directory), seed))
