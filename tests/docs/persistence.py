"""Checks of docs/persistence.md; tests/docs/README.md says how they are written."""

# == Persistence: snippet 1
import apsw
import asyncio
import contextlib
import logging
import os
import sys


@contextlib.contextmanager
def quiet():
    logging.getLogger("faststate").setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logging.getLogger("faststate").setLevel(logging.NOTSET)


def restarted(classes, store=None, **options):
    """Another process's provider and app, on the same store."""
    other = StateProvider(store=store, **options)
    for cls, config in classes.items():
        other.register_state(cls, config)
    return other, fast_app(state_provider=other)


def rows(path, query):  # by the SQLite that the store uses: two of them in one process do not see each other's locks
    with contextlib.closing(apsw.Connection(path)) as shell:
        return shell.execute(query).fetchall()


one = tab(app)
with one.client:
    one.get("/")
    one.send(Cart.add, sku="tea"), one.send(Cursor.down)
    assert "<li>1 tea</li>" in one.get("/") and ">1<" in one.get("/")
assert not os.path.exists("state.db-wal")
one = tab(app, cookies=one.client.cookies)
again, (app2, rt2) = restarted({Cart: None, Cursor: StateConfig(in_memory=True)}, "sqlite:///state.db")


@rt2("/")
def index2(cart: Cart, cursor: Cursor):
    return P(cart.listing(), P(cursor.signal.line))


one = tab(app2, cookies=one.client.cookies)
with one.client:
    page = one.get("/")
    assert "<li>1 tea</li>" in page and ">0<" in page
vars(sys.modules[__name__]).update(
    {  # for the checks below
        "apsw": apsw,
        "asyncio": asyncio,
        "contextlib": contextlib,
        "os": os,
        "sys": sys,
        "quiet": quiet,
        "restarted": restarted,
        "rows": rows,
        "tab_of_app": one,
        "again": again,
    }
)


# == Where a state is kept
class Kept(Cart): ...


class Lost(Cart): ...


auto, _ = restarted({Kept: StateConfig(auto_persist=True), Lost: None})


async def keep():
    for cls in (Kept, Lost):
        async with auto.modify(cls, session_id="s") as cart:
            cart.items["tea"] = 1
    await auto.stop()


asyncio.run(keep())
assert rows("faststate.db", "SELECT key FROM faststate_states") == [("session:Kept:s",)]
os.environ["FASTSTATE_STORE"] = "memory://"
try:
    from faststate.stores.memory import MemoryStore

    assert type(StateProvider(store="sqlite:///state.db").store) is MemoryStore
finally:
    del os.environ["FASTSTATE_STORE"]
from faststate import ConfigurationError

with pytest.raises(ConfigurationError, match="choose one"):
    StateConfig(in_memory=True, auto_persist=True)
assert StateProvider(store="sqlite:////tmp/state.db").store.path.as_posix() == "/tmp/state.db"

# == Where a state is kept
from faststate import ConfigurationError
from pydantic import BaseModel


class Animal(BaseModel):
    name: str = ""


class Dog(Animal):
    tricks: int = 0


class Zoo(ReactiveState):
    animals: list[Animal] = []
    _note: str = ""


zoo, _ = restarted({Zoo: None}, "sqlite:///zoo.db")


async def keep():
    async with zoo.modify(Zoo, session_id="s") as state:
        state.animals.append(Animal())
        state._note = "not kept"
    with pytest.raises(ConfigurationError, match="Zoo.animals would not come back"):
        async with zoo.modify(Zoo, session_id="s") as state:
            state.animals.append(Dog())
    await zoo.stop()


asyncio.run(keep())
((data,),) = rows("zoo.db", "SELECT data FROM faststate_states")
assert b'"animals":[{"name":""}]' in data and b"note" not in data

# == What is promised
one = tab(app, cookies=tab_of_app.client.cookies)
with one.client, quiet():
    one.get("/")
    with contextlib.closing(apsw.Connection("state.db")) as shell:
        for when in ("INSERT", "UPDATE"):
            shell.execute(
                f"CREATE TRIGGER no_{when} BEFORE {when} ON faststate_states BEGIN SELECT raise(ABORT, 'no'); END"
            )
        failed = one.send(Cart.add, sku="tea", status=503, headers={"faststate-nonce": "failing1"})
        assert "This could not be saved. Please try again." in failed.text
        assert "<li>1 tea</li>" in one.get("/")
        for when in ("INSERT", "UPDATE"):
            shell.execute(f"DROP TRIGGER no_{when}")
    twice = {"faststate-nonce": "abcdefgh12"}
    one.send(Cart.add, sku="tea", headers=twice)
one = tab(tab_of_app.client.app, cookies=one.client.cookies)
with one.client:
    one.get("/")
    one.send(Cart.add, sku="tea", headers=twice)
    assert "<li>2 tea</li>" in one.get("/") and again.stats().repeated == 1

# == One process: snippet 1
from faststate import PersistenceError
from faststate.stores.sqlite import SQLiteStore

(key,) = [key for (key,) in rows("state.db", "SELECT key FROM faststate_states")]
sid = key.removeprefix("session:Cart:")
empty(sid)
assert rows("state.db", "SELECT data FROM faststate_states")[0][0].endswith(b'"values":{"items":{}}}')
with tab_of_app.client:
    hurried = SQLiteStore("state.db", handover=0.1)

    async def refused():
        with pytest.raises(PersistenceError, match="belongs to another process.*Redis"):
            await hurried.open()

    asyncio.run(refused())
    assert os.path.exists("state.db-wal") and os.path.exists("state.db-owner")

# == Reading it, and backups
one = tab(app)
with one.client:
    one.get("/")
    one.send(Cart.add, sku="secret tea")
    with contextlib.closing(apsw.Connection("state.db")) as shell:
        shell.execute("VACUUM INTO 'copy.db'")
assert any(b"secret tea" in data for (data,) in rows("copy.db", "SELECT data FROM faststate_states"))

# == Deploys
# new
from faststate import ReactiveState, StateConfig, StateScope
from persistence_0 import asyncio, restarted


class Profile(ReactiveState):
    name: str = ""


before, _ = restarted({Profile: StateConfig(scope=StateScope.USER)}, "sqlite:///profiles.db")


async def keep():
    async with before.modify(Profile, user_id=7) as profile:
        profile.name = "Ada Lovelace"
    await before.stop()


asyncio.run(keep())

# == Deploys: snippet 1
# visit / 401
from persistence_0 import rows

one = tab(app)
with one.client:
    one.get("/enter")
    assert "Lovelace, Ada, light" in one.get("/")
assert rows("profiles.db", "SELECT key, number FROM faststate_states WHERE grp IS NULL") == [("user:Profile:user7", 2)]

# == Kept aside
import datetime
import re
from persistence_0 import apsw, asyncio, contextlib, quiet, restarted, rows, sys

look, bring_back, bring_back_sessions = re.findall(
    r'\$ sqlite3 (?:-readonly )?state\.db "(?:SELECT key, datetime|UPDATE).*?"', PAGE.read_text(), re.DOTALL
)
sql = lambda command: command.partition('"')[2][:-1]


class Strict(ReactiveState):
    name: int = 0


broken, _ = restarted({Strict: StateConfig(scope=StateScope.USER, name="Profile")}, "sqlite:///profiles.db")


async def change(provider, cls, **ids):
    async with provider.modify(cls, **ids) as state:
        state.name = 5
    await provider.stop()


with quiet():
    asyncio.run(change(broken, Strict, user_id=7))
assert broken.stats().kept_aside == 1
((key, until, data),) = rows("profiles.db", sql(look))
assert key.startswith("aside:user:Profile:user7:") and data.endswith('"values":{"name":"Ada Lovelace"}}')
days = (datetime.datetime.fromisoformat(until) - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)).days
assert days in (89, 90)
with contextlib.closing(apsw.Connection("profiles.db")) as shell, shell:
    shell.execute(sql(bring_back))
assert rows("profiles.db", "SELECT key, expires, grp FROM faststate_states WHERE key LIKE '%Profile%'") == [
    ("user:Profile:user7", None, None)
]
one = tab(app)
with one.client:
    one.get("/enter")
    assert "Lovelace, Ada, light" in one.get("/")

kept = rows("state.db", "SELECT key, grp FROM faststate_states ORDER BY key")


class Other(ReactiveState):
    first: int = 0
    items: int = 0


other, _ = restarted({Other: StateConfig(name="Cart")}, "sqlite:///state.db")


async def change_all():
    for _, sid in kept:
        async with other.modify(Other, session_id=sid) as state:
            state.first = 1
    await other.stop()


with quiet():
    asyncio.run(change_all())
assert other.stats().kept_aside == len(kept) > 1
with contextlib.closing(apsw.Connection("state.db")) as shell, shell:
    shell.execute(sql(bring_back_sessions))
    assert shell.changes() == len(kept)
assert rows("state.db", "SELECT key, grp FROM faststate_states ORDER BY key") == kept
assert all(86_000 < left < 86_401 for (left,) in rows("state.db", "SELECT expires - unixepoch() FROM faststate_states"))

# == Sessions
from persistence_0 import Cart, restarted, rows


def with_routes(store):
    provider, (app, route) = restarted({Cart: None}, store, load_user_by_id=lambda id: UserContext(id, "Ada"))

    @route("/")
    def index(cart: Cart):
        return P(cart.listing())

    @route("/enter")
    async def enter(request):
        await provider.login(request, UserContext(7, "Ada"))
        return P("in")

    @route("/leave")
    async def leave(request):
        await provider.logout(request)
        return P("out")

    return app


one = tab(with_routes("sqlite:///sessions.db"))
with one.client:
    one.get("/")
    one.send(Cart.add, sku="tea")
    one.get("/enter")
    assert "1 tea" in one.get("/")
    old = dict(one.client.cookies)
    assert len(rows("sessions.db", "SELECT key FROM faststate_states WHERE key LIKE 'session:%'")) == 1
    one.get("/leave")
assert rows("sessions.db", "SELECT key FROM faststate_states WHERE key LIKE 'session:%'") == []
two = tab(with_routes("sqlite:///sessions.db"), cookies=old)
with two.client:
    assert "1 tea" not in two.get("/")

# == A store of your own: snippet 1
from persistence_0 import Cart, asyncio, rows

assert isinstance(small, StateStore)
compressed.register_state(Cart)


async def keep(*expected):
    async with compressed.modify(Cart, session_id="s") as cart:
        assert list(cart.items) == list(expected)
        cart.items["tea" * 1000] = 1
    await compressed.stop()
    compressed.registry.live.clear()


asyncio.run(keep())
asyncio.run(keep("tea" * 1000))
((data,),) = rows("small.db", "SELECT data FROM faststate_states")
assert b"tea" not in data and b"tea" in zlib.decompress(data)
