"""`faststate doctor`: what an app runs on is looked at, with real files, and what is wrong with it said."""

import json
import sqlite3

import pytest

from faststate import StateProvider, fast_app
from faststate.stores.sqlite import SQLiteStore
from faststate.tools.cli import main
from tests.support.doctor import APP, alone, doctor, found  # noqa: F401  # alone is a fixture

# -- the command -------------------------------------------------------------------------------------------------------


def test_an_app_in_memory_is_well_and_told_what_memory_means(in_tmp_path):
    done = doctor(in_tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("shop:app\n  note     store       states are in memory, and end with the process")
    assert done.stdout.endswith("\nNo problems.\n")
    assert "secret_key is given" in done.stdout


def test_a_problem_has_the_command_exit_with_1_in_text_and_in_json(in_tmp_path):
    done = doctor(in_tmp_path, env={"WEB_CONCURRENCY": "4"})
    assert done.returncode == 1 and done.stdout.endswith("\n1 problem\n")
    assert "WEB_CONCURRENCY asks for 4, and each would have states of its own" in done.stdout
    done = doctor(in_tmp_path, "--json", env={"WEB_CONCURRENCY": "4"})
    document = json.loads(done.stdout)
    assert done.returncode == 1 == document["problems"]
    assert document["format"] == 1 and document["target"] == "shop:app"
    assert all(set(check) == {"mount", "level", "about", "message"} for check in document["checks"])
    assert [check["about"] for check in document["checks"] if check["level"] == "problem"] == ["processes"]


def test_what_cannot_be_looked_at_has_it_exit_with_2(in_tmp_path, capsys):
    assert main(["doctor", "nowhere_at_all:app"]) == 2
    assert capsys.readouterr().err.startswith("faststate doctor: error: there is no module 'nowhere_at_all'")
    assert main(["doctor", "json:loads"]) == 2
    assert main(["doctor"]) == 2


def test_the_app_is_not_started_and_its_store_not_made(in_tmp_path):
    done = doctor(in_tmp_path, "--json", store="store='sqlite:///state.db'")
    assert done.returncode == 0 and "state.db is not there yet" in done.stdout
    assert not (in_tmp_path / "state.db").exists()


# -- a SQLite file -----------------------------------------------------------------------------------------------------


async def test_a_file_that_is_in_use_is_well(in_tmp_path):
    owner = SQLiteStore("state.db")
    await owner.open()
    store = (await found(StateProvider(store="sqlite:///state.db")))["store"]
    await owner.close()
    assert [level for level, _ in store] == ["ok", "ok"]
    assert "a SQLite file with a write-ahead log" in store[0][1] and "in use by a running process" in store[1][1]
    ((level, message),) = (await found(StateProvider(store="sqlite:///state.db")))["store"]
    assert level == "ok" and "write-ahead log" in message


async def test_the_owner_goes_on_after_it_was_looked_at(in_tmp_path):
    owner = StateProvider(store="sqlite:///state.db")
    await owner.start()
    await found(owner)
    other = StateProvider(store=SQLiteStore("state.db", handover=0.1))
    with pytest.raises(Exception, match="belongs to another process"):
        await other.start()
    await owner.stop()


@pytest.mark.parametrize(
    ("content", "level", "message"),
    [
        (b"", "ok", "is empty yet"),
        (b"hello, world" * 20, "problem", "is not a SQLite file"),
    ],
)
async def test_a_file_is_judged_by_its_first_bytes(in_tmp_path, content, level, message):
    (in_tmp_path / "state.db").write_bytes(content)
    (check,) = (await found(StateProvider(store="sqlite:///state.db")))["store"]
    assert check[0] == level and message in check[1]


async def test_a_database_without_a_write_ahead_log_is_noted(in_tmp_path):
    connection = sqlite3.connect("state.db")
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    ((level, message),) = (await found(StateProvider(store="sqlite:///state.db")))["store"]
    assert level == "note" and "not a WAL database yet" in message


async def test_a_directory_that_is_not_there_or_not_writable_is_a_problem(in_tmp_path, monkeypatch):
    ((level, message),) = (await found(StateProvider(store="sqlite:///data/state.db")))["store"]
    assert level == "problem" and message.startswith("there is no directory")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    checks = (await found(StateProvider(store="sqlite:///state.db")))["store"]
    assert ("problem", f"{in_tmp_path} cannot be written to") in checks


async def test_a_disk_that_is_nearly_full_is_a_problem(in_tmp_path, monkeypatch):
    provider = StateProvider(store="sqlite:///state.db")
    assert (await found(provider))["disk"][0][0] == "ok"
    monkeypatch.setattr("faststate.tools.doctor.LITTLE", 2**62)
    assert (await found(provider))["disk"][0][0] == "problem"


# -- the rest ----------------------------------------------------------------------------------------------------------


async def test_a_key_that_fasthtml_made_is_noted(in_tmp_path):
    provider = StateProvider()
    app, _ = fast_app(state_provider=provider)
    ((level, message),) = (await found(provider, app))["secret"]
    assert level == "note" and str(in_tmp_path / ".sesskey") in message
    assert app.secret_key not in message
    assert (await found(provider))["secret"][0][1].startswith("not looked at")


async def test_a_key_that_is_given_is_well_behind_middleware_too(in_tmp_path):
    class Wrapped:
        def __init__(self, app):
            self.app = app

    provider = StateProvider()
    app, _ = fast_app(state_provider=provider, secret_key="given")
    assert (await found(provider, Wrapped(Wrapped(app))))["secret"] == [("ok", "secret_key is given")]


@pytest.mark.parametrize(
    ("source", "level", "message"),
    [
        (None, "note", "cdn.jsdelivr.net"),
        ("https://example.org/datastar.js", "ok", "browsers load it from https://example.org"),
        ("/static/datastar.js", "ok", "browsers load it from /static"),
        ("here.js", "ok", "served from"),
        ("nowhere.js", "problem", "there is no file nowhere.js"),
    ],
)
async def test_datastar_is_looked_for(in_tmp_path, source, level, message):
    (in_tmp_path / "here.js").touch()
    ((said, text),) = (await found(StateProvider(**({"datastar_src": source} if source else {}))))["datastar"]
    assert said == level and message in text


async def test_few_open_files_are_noted(monkeypatch):
    resource = pytest.importorskip("resource")
    for limit, level in ((1_024, "note"), (65_536, "ok"), (-1, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert (await found(StateProvider()))["files"][0][0] == level
