"""Several processes without a shared store are noticed, on every server that we say it runs on; one never is.

The servers are real ones, each started as its user would.
"""

import re
import sys
import textwrap

import httpx
import pytest

from faststate.cluster.processes import Processes, processes_asked_for, processes_found, workers_argument
from faststate.provider.provider import StateProvider
from tests.support.processes import Process, Server
from tests.support.servers import granian, gunicorn, hypercorn, uvicorn
from tests.support.waiting import wait_until

PATIENCE = 30  # seconds for a server to start, on a machine that has other things to do

APP = """
    from fasthtml.common import *
    from faststate import ReactiveState, StateProvider, fast_app

    class Counter(ReactiveState):
        count: int = 0

    provider = StateProvider()
    provider.register_state(Counter)
    app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

    @rt
    def index(counter: Counter):
        return P(counter.signal.count)
"""

BY_CODE = """
    import os
    import sys

    if __name__ == "__main__":
        port = int(os.environ["PORT_OF_TEST"])
        if "granian" in sys.argv:
            from granian import Granian
            Granian("shop:app", interface="asgi", port=port, workers=2).serve()
        else:
            import uvicorn
            uvicorn.run("shop:app", port=port, workers=2)
"""

WORKER = ("--worker-class", "uvicorn.workers.UvicornWorker")


def by_code(*arguments):
    return lambda target, port, certificate: [sys.executable, "shop.py", *arguments]


SEVERAL = {
    "uvicorn's argument": (uvicorn("--workers", "2"), {}, "uvicorn runs 2 processes"),
    "uvicorn's variable": (uvicorn(), {"WEB_CONCURRENCY": "2"}, "uvicorn runs 2 processes"),
    "uvicorn from code": (by_code(), {}, "uvicorn runs 2 processes"),
    "hypercorn": (hypercorn("--workers", "2"), {}, "hypercorn runs 2 processes"),
    "granian": (granian("--workers", "2"), {}, "granian runs 2 processes"),
    "granian's variable": (granian(), {"GRANIAN_WORKERS": "2"}, "granian runs 2 processes"),
    "granian from code": (by_code("granian"), {}, "granian runs several processes"),
    "gunicorn": (gunicorn("-w", "2", *WORKER), {}, "gunicorn runs 2 processes"),
    "gunicorn's variable": (gunicorn(*WORKER), {"WEB_CONCURRENCY": "2"}, "gunicorn runs 2 processes"),
    "gunicorn's own worker": (gunicorn("-w", "2", "--worker-class", "asgi"), {}, "gunicorn runs 2 processes"),
}

ONE = {
    "uvicorn": (uvicorn(), {}),
    "uvicorn with one worker, whatever the variable says": (uvicorn("--workers", "1"), {"WEB_CONCURRENCY": "2"}),
    "uvicorn that reloads": (uvicorn("--reload"), {}),
    "uvicorn that reloads, and ignores its workers": (uvicorn("--reload"), {"WEB_CONCURRENCY": "2"}),
    "hypercorn": (hypercorn(), {}),
    "hypercorn that reads no variable": (hypercorn(), {"WEB_CONCURRENCY": "2"}),
    "hypercorn in one process": (hypercorn("--workers", "0"), {}),
    "granian": (granian(), {}),
    "gunicorn": (gunicorn(*WORKER), {}),
    "gunicorn with one worker, whatever the variable says": (
        gunicorn("--workers", "1", *WORKER),
        {"WEB_CONCURRENCY": "2"},
    ),
}


@pytest.fixture
def start(tmp_path):
    """Have the app served by a command, with variables of the environment; ended with the test."""
    running = []

    def start(command, env, source=APP):
        path = tmp_path / "shop.py"
        path.write_text(textwrap.dedent(source))
        server = Server(path, cwd=tmp_path, log=tmp_path / "log", env=env, command=command)
        server._env["PORT_OF_TEST"] = str(server.port)
        running.append(server)
        server.start(PATIENCE)
        return server

    yield start
    for server in running:
        server.kill()


def warnings_of(text):
    return re.findall(r"[^\n]* of this app, and [^\n]*", text)


@pytest.mark.parametrize(("command", "env", "said"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_processes_without_a_shared_store_are_warned_of_with_the_remedy(start, command, env, said):
    server = start(command, env, APP + BY_CODE)
    wait_until(lambda: warnings_of(server.output()))
    assert all(warning.startswith(said) for warning in warnings_of(server.output()))
    assert "each has states of its own" in server.output()
    assert "StateProvider(store='redis://localhost:6379')" in server.output()
    assert "Traceback" not in server.output()


@pytest.mark.parametrize(("command", "env"), ONE.values(), ids=ONE.keys())
def test_one_process_is_not_warned_of(start, command, env):
    server = start(command, env)

    def serves():
        try:
            return httpx.get(server.url, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(serves)
    assert warnings_of(server.output()) == []


def test_the_processes_of_fasthtmls_serve_are_warned_of(tmp_path):
    process = Process(tmp_path, APP, "procs=2, reload=False")
    try:
        process.until(lambda: len(warnings_of(process.output())) >= 2, PATIENCE)
        assert {w.partition(" of this")[0] for w in warnings_of(process.output())} == {
            "FastHTML's serve(procs=...) runs several processes"
        }
    finally:
        process.kill()


def test_fasthtmls_serve_in_one_process_that_reloads_is_not_warned_of(tmp_path):
    process = Process(tmp_path, APP, "reload=True")
    try:
        process.until(process.serves, PATIENCE)
        assert warnings_of(process.output()) == []
    finally:
        process.kill()


def test_the_process_that_is_refused_a_sqlite_file_says_why_and_what_to_do(start, tmp_path):
    source = APP.replace("StateProvider()", 'StateProvider(store=SQLiteStore("state.db", handover=0.2))')
    source = source.replace("import *", "import *\n    from faststate.stores.sqlite import SQLiteStore")
    server = start(uvicorn("--workers", "2"), {}, source)
    wait_until(lambda: "failed to start" in server.output() or server.process.poll() is not None)
    wait_until(lambda: "belongs to another process" in server.output())
    assert "pip install 'faststate[redis]'" in server.output()
    assert "its store, SQLiteStore, is for one process" in server.output()


@pytest.mark.parametrize("arguments", [["--workers", "2"], None], ids=["uvicorn", "FastHTML's serve"])
def test_nothing_is_said_where_a_store_is_shared(tmp_path, shared_redis, arguments):
    env = {"FASTSTATE_STORE": f"{shared_redis.url}?prefix=processes"}
    process = Process(tmp_path, APP, arguments or "procs=2, reload=False", env=env)
    try:
        process.until(lambda: process.output().count("Application startup complete") == 2, PATIENCE)
        process.until(process.serves, PATIENCE)
        assert warnings_of(process.output()) == []
    finally:
        process.kill()


def test_no_server_is_one_process(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")  # is for servers that read it
    monkeypatch.delenv("FH_PROCNUM", raising=False)
    assert processes_found() is None


async def test_it_is_said_once_at_the_start(monkeypatch, caplog):
    monkeypatch.setenv("FH_PROCNUM", "1")
    monkeypatch.setenv("PROCS", "3")
    provider = StateProvider()
    for _ in range(2):
        await provider.start()
    await provider.stop()
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "faststate")
    assert record.getMessage().startswith("FastHTML's serve(procs=...) runs 3 processes of this app, and each has")


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"WEB_CONCURRENCY": "1", "PROCS": "1"}, None),
        ({"WEB_CONCURRENCY": "many"}, None),
        ({"WEB_CONCURRENCY": "4"}, Processes(4, "WEB_CONCURRENCY")),
        ({"PROCS": "2"}, Processes(2, "PROCS")),
        ({"GRANIAN_WORKERS": "3"}, Processes(3, "GRANIAN_WORKERS")),
        ({"UVICORN_WORKERS": "3"}, Processes(3, "UVICORN_WORKERS")),
        ({"GUNICORN_CMD_ARGS": "--bind=127.0.0.1 --workers=3"}, Processes(3, "GUNICORN_CMD_ARGS")),
        ({"GUNICORN_CMD_ARGS": "-w 1"}, None),
        ({"GUNICORN_CMD_ARGS": "--name 'shop"}, None),
    ],
)
def test_the_environment_asks_for_processes(environ, found):
    assert processes_asked_for(environ) == found


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["shop:app"], None),
        (["--workers", "2"], 2),
        (["--workers=12", "shop:app"], 12),
        (["-w", "3"], 3),
        (["-w3"], 3),
        (["--workers"], None),
        (["--workers", "$N"], None),
        (["--worker-class", "2", "-workers", "3"], None),
    ],
)
def test_a_command_says_its_workers(arguments, count):
    assert workers_argument(arguments) == count
