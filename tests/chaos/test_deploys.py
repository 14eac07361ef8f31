"""Restarts on purpose: one process hands the store over to the next, and an open page goes on where it was."""

import asyncio
import contextlib
import signal
import sqlite3
import time
from random import Random

import httpx
import pytest

from tests.support import ROOT
from tests.support.client import Page, status, stream_of
from tests.support.processes import LIMIT, Process
from tests.support.waiting import PATIENCE

from .load import Load

APP = """
    from fasthtml.common import *
    from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
    from faststate.stores.sqlite import SQLiteStore

    class Cart(ReactiveState):
        count: int = 0

        @event
        def add(self):
            self.count += 1

    class Board(Cart):
        imports: int = 0

    provider = StateProvider(STORE)
    provider.register_state(Cart)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL, auto_persist=True))
    app, rt = fast_app(state_provider=provider, secret_key="for tests", live=LIVE)

    @rt("/")
    def index(cart: Cart, board: Board):
        return Titled("Shop", cart.signal.count, board.signal.count, board.signal.imports)
"""

SEED = """
    with provider.modify(Board) as board:
        board.imports += 1
        if not board.count:
            board.count = 100
"""

IMPATIENT = 'store=SQLiteStore("state.db", handover=1)'  # a second instead of five until a file is another's

ONLY_LOCAL = 'host="127.0.0.1"'


def app(store='store="sqlite:///state.db"', live=False, seed=""):
    return APP.replace("STORE", store).replace("LIVE", str(live)) + seed


class Deployed(Process):
    """A process, and when it was told to end."""

    told_to_end = None

    @property
    def is_dead(self):
        return self.told_to_end is not None

    def terminate(self):
        self.told_to_end = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def reload(self):
        """Changes the source, and waits until what is changed is served."""
        self.until(lambda: "Started reloader" in self.output(), PATIENCE)
        self.save(self.source.read_text().replace('"Shop"', '"Changed"'), PATIENCE)
        self.until(lambda: self.serves("Changed"), PATIENCE)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(arguments, source, *, path="/", **options):
        """A process that serves `path`; None to have it returned at once."""
        process = Deployed(tmp_path, source, arguments, **options)
        started.append(process)
        if path is not None:
            process.until(lambda: process.serves(path=path) or "Traceback" in process.output(), PATIENCE)
            assert process.serves(path=path), process.output()
        return process

    yield run
    for each in started:
        each.kill()


@contextlib.contextmanager
def visit(server):
    """A browser with the page open."""
    with httpx.Client(base_url=server.url, verify=False, timeout=PATIENCE) as client:
        yield Page(client)


def add(page, *states):
    for state in states:
        response = page.send(state, "add")
        assert status(response) in (200, 204), response.text


def counts(page):
    """Load the page again in the same browser; return the counts that it shows."""
    signals = Page(page.client).signals
    return signals["Cart"]["count"], signals["Board"]["count"]


def told(page):
    """Open the page's stream again; return the first thing it is told."""
    with stream_of(page) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        return "\n".join(iter(lambda: next(lines), "")) + "\n".join(iter(lambda: next(lines), ""))


SERVERS = {"uvicorn": [], "--reload": ["--reload"], "serve()": ONLY_LOCAL, "serve(reload=False)": "reload=False"}
RELOADERS = {name: SERVERS[name] for name in ("--reload", "serve()")}


@pytest.mark.parametrize("arguments", [SERVERS["uvicorn"], SERVERS["serve()"]], ids=["uvicorn", "serve()"])
async def test_sigterm_under_load_loses_nothing_and_the_next_process_has_it(start, seed, arguments):
    source = "from fasthtml.common import serve\nfrom tests.chaos.app import app"
    rng, options = Random(seed), {"path": "/enter/eve", "env": {"PYTHONPATH": str(ROOT)}}
    server = start(arguments, source, **options)
    async with Load(server, rng) as load:
        await load.arrive()
        asyncio.get_running_loop().call_later(rng.uniform(0.3, 0.6), server.terminate)
        await load.work(to_the_last=True)
        assert server.process.wait(LIMIT) in (0, -signal.SIGTERM)
        assert time.monotonic() - server.told_to_end < LIMIT
        next_one = start(arguments, source, port=server.port, **options)
        await load.settle()
    print(f"{load.book.acknowledged} acknowledged, {load.cut} cut off, of which {load.stored} were stored")
    assert load.book.acknowledged > 20
    assert load.stored == 0, "what was done was not answered, though there was time"
    assert "Traceback" not in server.output() + next_one.output()


def test_a_second_process_on_the_same_file_is_refused_and_the_first_goes_on(start):
    first = start([], app(IMPATIENT))
    with visit(first) as page:
        add(page, "Cart", "Board")
        second = start([], app(IMPATIENT), path=None)
        assert second.process.wait(PATIENCE) > 0
        assert "Redis" in second.output() and str(first.directory / "state.db") in second.output()
        add(page, "Cart", "Board")
        assert counts(page) == (2, 2)


def test_workers_cannot_share_a_file(start):
    workers = start(["--workers", "2"], app(IMPATIENT), path=None)
    workers.process.wait(PATIENCE)
    assert "Redis" in workers.output() and "failed to start" in workers.output()


def test_a_killed_process_leaves_the_store_to_the_next_which_may_have_waited_for_it(start):
    first = start([], app())
    with visit(first) as page:
        add(page, "Cart", "Board")
        waiting = start([], app(), path=None)
        waiting.until(lambda: "Waiting for application startup" in waiting.output(), PATIENCE)
        first.kill()
        waiting.until(waiting.serves, PATIENCE)
        waiting.kill()
        start([], app(), port=first.port)
        add(page, "Cart", "Board")
        assert counts(page) == (2, 2)


@pytest.mark.parametrize("live", [False, True], ids=["", "live=True"])
@pytest.mark.parametrize("arguments", RELOADERS.values(), ids=RELOADERS.keys())
def test_a_reload_hands_the_store_over_and_an_open_page_goes_on(start, arguments, live):
    server = start(arguments, app(live=live))
    with visit(server) as page, stream_of(page) as stream:
        assert ("/live-reload" in page.html) is live
        add(page, "Cart", "Board", "Cart")
        server.reload()
        with contextlib.suppress(httpx.TransportError):
            stream.read()  # the stream of the old process has ended
        assert '"count":2' in told(page)
        add(page, "Cart", "Board")
        assert counts(page) == (3, 2)
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("arguments", SERVERS.values(), ids=SERVERS)
def test_an_app_may_write_states_when_it_is_imported(start, arguments):
    server = start(arguments, app(seed=SEED))
    with visit(server) as page:
        imports = page.signals["Board"]["imports"]
        assert imports == (3 if arguments == ONLY_LOCAL else 2 if arguments == "reload=False" else 1)
        add(page, "Cart", "Board")
        if arguments in RELOADERS.values():
            server.reload()
            assert Page(page.client).signals["Board"]["imports"] > imports
            add(page, "Cart", "Board")
            assert counts(page) == (2, 102)
        else:
            assert counts(page) == (1, 101)
    assert "Traceback" not in server.output()


def stored_keys(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with contextlib.closing(connection):
        return {key for (key,) in connection.execute("SELECT key FROM faststate_states")}


def test_what_is_to_be_persisted_is_kept_beside_the_app_when_no_store_is_named(start, tmp_path):
    first = start([], app(store=""))
    with visit(first) as page:
        add(page, "Cart", "Board")
        assert stored_keys(tmp_path / "faststate.db") == {"global:Board"}
        first.terminate()
        first.process.wait(LIMIT)
        start([], app(store=""), port=first.port)
        assert counts(page) == (0, 1)


def test_the_environment_says_at_deploy_where_states_are_kept(start, tmp_path):
    first = start([], app(), env={"FASTSTATE_STORE": "sqlite:///elsewhere.db"})
    with visit(first) as page:
        add(page, "Cart", "Board")
        first.terminate()
        first.process.wait(LIMIT)
        assert len(stored_keys(tmp_path / "elsewhere.db")) == 2
        assert not (tmp_path / "state.db").exists()
        start([], app(), port=first.port, env={"FASTSTATE_STORE": "sqlite:///elsewhere.db"})
        assert counts(page) == (1, 1)


def test_two_processes_with_files_of_their_own_run_side_by_side(start):
    with visit(start([], app())) as one, visit(start([], app(), env={"FASTSTATE_STORE": "sqlite:///b.db"})) as other:
        add(one, "Board")
        assert (counts(one)[1], counts(other)[1]) == (1, 0)
