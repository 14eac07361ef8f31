"""`faststate doctor` looks at a real Redis, and says what of it may lose states or hold events up."""

import time

import pytest

from faststate import StateProvider, fast_app
from faststate.stores.redis.checkup import eviction_risk
from tests.support.doctor import alone, doctor, found  # noqa: F401
from tests.support.waiting import eventually


class AnyWith(str):
    """Equals every text that has this one in it."""

    def __eq__(self, other):
        return isinstance(other, str) and str(self) in other

    __hash__ = str.__hash__


async def of_redis(url):
    """Return what the doctor found out about a Redis, one finding for each subject."""
    checks = await found(StateProvider(store=url))
    assert all(len(of_one) == 1 for of_one in checks.values()), checks
    return {about: of_one[0] for about, of_one in checks.items()}


async def test_a_redis_that_keeps_what_is_acknowledged_is_well(new_redis):
    server = new_redis(appendonly="yes", appendfsync="always", maxmemory="100mb")
    keys = server.keys()
    checks = await of_redis(f"{server.url}?prefix=shop")
    for about in ("store", "round trip", "persistence", "memory", "replicas", "clock", "processes"):
        assert checks[about][0] == "ok", checks[about]
    assert checks["store"][1].endswith(f"at 127.0.0.1:{server.port}")
    assert "what is acknowledged is on the disk" in checks["persistence"][1]
    assert "of 100.0 MB in use, and noeviction" in checks["memory"][1]
    assert server.keys() == keys, "nothing is written"


@pytest.mark.parametrize(
    ("options", "level", "message"),
    [
        ({"appendonly": "no", "save": ""}, "problem", "loses all states. Set appendonly yes, appendfsync always"),
        ({"appendonly": "no", "save": "60 1"}, "problem", "since the last snapshot (save 60 1)"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "note", "loses up to a second of acknowledged events"),
        ({"appendonly": "yes", "appendfsync": "no"}, "problem", "up to half a minute"),
        ({"appendonly": "yes", "rename_command": 'CONFIG ""'}, "note", "appendonly is yes: see that appendfsync"),
        ({"appendonly": "no", "rename_command": 'CONFIG ""'}, "problem", "CONFIG is forbidden here"),
    ],
)
async def test_a_redis_that_may_lose_states_is_told_of(new_redis, options, level, message):
    assert (await of_redis(new_redis(**options).url))["persistence"] == (level, AnyWith(message))


@pytest.mark.parametrize(
    ("options", "level", "message"),
    [
        ({}, "ok", "without a maxmemory"),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "problem", "beyond 100.0 MB Redis drops states"),
        ({"maxmemory": "1mb"}, "problem", "when it is full, no event can be saved"),
    ],
)
async def test_a_redis_that_has_no_room_or_makes_room_is_told_of(new_redis, options, level, message):
    assert (await of_redis(new_redis(**options).url))["memory"] == (level, AnyWith(message))


def test_a_limit_of_memory_in_the_words_of_another_product_is_shown_as_it_is():
    risk = eviction_risk("5.00GiB", "allkeys-lru")
    assert risk is not None and "beyond 5.00GiB Redis drops states" in risk.message
    assert eviction_risk("5.00GiB", "noeviction") is None


async def test_replicas_are_counted_and_a_replica_is_no_place_for_states(new_redis):
    master = new_redis(repl_diskless_sync_delay="0")
    replica = new_redis(replicaof=f"127.0.0.1 {master.port}")
    await eventually(lambda: master.do("INFO", "replication").get("slave0", {}).get("state") == "online")
    assert (await of_redis(master.url))["replicas"] == ("ok", "1, which a failover could take")
    checks = await found(StateProvider(store=replica.url))
    assert ("problem", AnyWith("it is a replica")) in checks["store"]


async def test_a_redis_that_is_away_or_refuses_is_a_problem_and_no_password_is_shown(new_redis):
    server = new_redis()
    server.do("CONFIG", "SET", "requirepass", "hunter2")
    url = f"redis://:hunter3@127.0.0.1:{server.port}"
    checks = await of_redis(url)
    assert checks["store"] == ("problem", AnyWith(f"Redis at 127.0.0.1:{server.port} cannot be reached"))
    assert (await of_redis(url.replace("hunter3", "hunter2")))["store"][0] == "ok"
    server.kill()
    checks = await of_redis(url)
    assert checks["store"] == ("problem", AnyWith("cannot be reached")) and "hunter" not in str(checks)


async def test_an_old_or_slow_redis_and_another_clock_are_told_of(new_redis, monkeypatch):
    server = new_redis()
    monkeypatch.setattr("faststate.stores.redis.rules.OLDEST", (99, 0))
    monkeypatch.setattr("faststate.tools.doctor.SLOW", 0.0)
    now = time.time
    monkeypatch.setattr("faststate.stores.redis.checkup.time.time", lambda: now() + 90)
    checks = await of_redis(server.url)
    assert checks["store"] == ("problem", AnyWith("FastState needs"))
    assert checks["round trip"] == ("note", AnyWith("have Redis nearer"))
    assert checks["clock"][0] == "note" and checks["clock"][1].startswith(("90.0", "89.9"))


async def test_many_processes_with_redis_are_well_and_need_one_key(new_redis, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    provider = StateProvider(store=new_redis().url)
    app, _ = fast_app(state_provider=provider)
    checks = await found(provider, app)
    assert checks["processes"] == [("ok", "WEB_CONCURRENCY asks for 4, which share their states")]
    ((level, message),) = checks["secret"]
    assert level == "problem" and "give fast_app(secret_key=...) the same everywhere" in message


def test_the_command_looks_at_a_redis(in_tmp_path, new_redis):
    server = new_redis(appendonly="yes", appendfsync="always")
    done = doctor(in_tmp_path, env={"FASTSTATE_STORE": f"{server.url}?prefix=shop"})
    assert (done.returncode, done.stderr) == (0, "") and "No problems." in done.stdout
    server.kill()
    done = doctor(in_tmp_path, env={"FASTSTATE_STORE": server.url})
    assert done.returncode == 1 and "cannot be reached" in done.stdout
