"""Values in rows: each value of each kind comes back as it was, or its commit is refused and changes nothing."""

import asyncio
import contextlib
import datetime
import decimal
import json
import os
import re
import secrets
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import fastlite
import fastsql
import pytest
import sqlalchemy as sa
from fasthtml.common import Div, to_xml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator, create_model
from sqlalchemy.ext.asyncio import create_async_engine

from faststate import (
    ConfigurationError,
    EventError,
    ReactiveState,
    Record,
    RowUnreadableError,
    RowValueError,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.records.sources import Row, RowChange
from faststate.sessions.config import Ids
from tests.support.client import BROWSER, Page, browser, status
from tests.support.states import provider_of, set_fields
from tests.support.values import KINDS, canonical


def property_of(examples: int) -> settings:
    return settings(
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def state_for(annotation: Any) -> type[ReactiveState]:
    """A state class with a field `x`, which is None until it is set."""
    made: type[ReactiveState] = create_model("Thing", __base__=ReactiveState, x=(annotation | None, None))
    return made


def same(value: Any, *, ordered: bool = True) -> str:
    """A value as text that tells all others from it. Whose class has a fixed offset of time is no matter."""
    text = canonical(value, ordered=ordered)
    return re.sub(
        r"TzInfo\((-?\d+)\)", lambda found: repr(datetime.timezone(datetime.timedelta(seconds=int(found[1])))), text
    )


@dataclass
class Rows:
    """Where rows are, each with the id 1 and in a table of its own, whose column `x` is of one of the types `columns`.

    `config` gives what `StateConfig` takes for such a table, anew as after a restart; `raw` reads the row past it.
    """

    columns: tuple[str, ...]
    config: Callable[[str], dict[str, Any]]
    raw: Callable[[str], Any]


def rows_in(db: Any, columns: tuple[str, ...], raw: Callable[[str], Any], **config: Any) -> Rows:
    """The rows in the tables t0, t1, ... of a database, one for each type of column."""
    return Rows(columns, lambda column: {"records": db.t[f"t{columns.index(column)}"], **config}, raw)


async def loaded(cls: type[ReactiveState], config: dict[str, Any]) -> Any:
    """Return `x` as a new process has it and can show it."""
    provider = provider_of(cls, StateConfig(scope=StateScope.RECORD, **config))
    entry = await provider.registry.entry(provider.registrations.config_of(cls).identifier(Ids(record_id=1)), cls)
    assert to_xml(entry.state).startswith("<dl ")
    await provider.stop()
    return entry.state.x


async def set_to(cls: type[ReactiveState], config: dict[str, Any], value: Any) -> tuple[Any, str | None]:
    """Set `x` in a commit; return what it is behind it, and the message of the refusal, if there was one."""
    provider, refused = StateProvider(), None
    provider.register_state(cls, StateConfig(scope=StateScope.RECORD, **config))
    try:
        await set_fields(provider.modify(cls, record_id=1), x=value)
    except EventError as error:
        assert error.status == 400
        refused = str(error)
        assert refused.startswith("Thing")
    made = provider.registry.peek("record:Thing:1").x
    await provider.stop()
    return made, refused


async def prove(cls: type[ReactiveState], rows: Rows, column: str, value: Any) -> bool:
    """Sets a value, and asserts that it is there after a restart, or that nothing has changed. True if it is there."""
    ordered = column != "JSONB"  # which sorts the keys of its objects
    try:
        before = await loaded(cls, rows.config(column))
    except ConfigurationError as error:
        assert "Thing.x cannot be kept in the column x (" in str(error)
        return False
    raw = rows.raw(column)
    made, refused = await set_to(cls, rows.config(column), value)
    after = await loaded(cls, rows.config(column))
    assert same(after, ordered=ordered) == same(made, ordered=ordered)
    if refused is not None:
        assert same(after) == same(before) and rows.raw(column) == raw, refused
    return refused is None


def prove_all(kind: str, rows: Rows, loop: asyncio.Runner, examples: int) -> None:
    annotation, values = KINDS[kind]
    cls = state_for(annotation)

    @property_of(examples)
    @given(values, st.sampled_from(rows.columns))
    def run(value: Any, column: str) -> None:
        loop.run(prove(cls, rows, column, value))

    run()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where databases lie: in memory, where the system has such a place, since each commit waits for the disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all examples of a test, which engines are bound to."""
    with asyncio.Runner() as runner:
        yield runner


# -- tables ------------------------------------------------------------------------------------------------------------

SQLITE_COLUMNS = ("TEXT", "FLOAT", "INTEGER", "NUMERIC", "BLOB", "VARCHAR(5)")


def create_in_sqlite(path: Any, columns: tuple[str, ...]) -> Callable[[str], Any]:
    """Makes a table t0, t1, ... for each type of column; gives what reads the row of one."""
    connection = sqlite3.connect(path, isolation_level=None)
    for number, column in enumerate(columns):
        connection.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, x {column}, version INTEGER)")
        connection.execute(f"INSERT INTO t{number} VALUES (1, NULL, 1)")
    return lambda column: repr(connection.execute(f"SELECT * FROM t{columns.index(column)}").fetchall())


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_a_table_of_fastlite_comes_back_or_is_refused(kind, directory, loop):
    raw = create_in_sqlite(directory / "rows.db", SQLITE_COLUMNS)
    db = fastlite.database(directory / "rows.db")
    prove_all(kind, rows_in(db, SQLITE_COLUMNS, raw), loop, 20)


STRICT_COLUMNS = ("TEXT", "REAL", "INTEGER", "BLOB", "ANY")


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_a_strict_table_of_sqlite_comes_back_or_is_refused(kind, loop):
    db = fastlite.database(":memory:")
    for number, column in enumerate(STRICT_COLUMNS):
        db.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, x {column}, version INTEGER) STRICT")
        db.execute(f"INSERT INTO t{number} VALUES (1, NULL, 1)")

    def raw(column: str) -> str:
        return repr(db.execute(f"SELECT * FROM t{STRICT_COLUMNS.index(column)}").fetchall())

    prove_all(kind, rows_in(db, STRICT_COLUMNS, raw), loop, 8)


ALCHEMY_COLUMNS = ("TEXT", "FLOAT", "INTEGER", "NUMERIC(10, 2)", "BOOLEAN", "DATE", "DATETIME", "TIME", "BLOB", "JSON")


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_a_table_of_fastsql_comes_back_or_is_refused(kind, directory, loop):
    raw = create_in_sqlite(directory / "rows.db", ALCHEMY_COLUMNS)
    db = fastsql.database(directory / "rows.db")
    prove_all(kind, rows_in(db, ALCHEMY_COLUMNS, raw), loop, 8)
    db.close()
    db.engine.dispose()


POSTGRES_COLUMNS = (
    "TEXT", "VARCHAR(5)", "SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "NUMERIC(10, 2)", "REAL", "DOUBLE PRECISION",
    "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIME", "INTERVAL", "UUID", "BYTEA", "JSONB", "JSON", "TEXT[]",
)  # fmt: skip


@dataclass
class Postgres:
    """A schema of PostgreSQL with a table t0, t1, ... for each type of column."""

    address: str
    schema: str
    engine: Any
    metadata: sa.MetaData

    def table(self, column: str) -> str:
        return f"{self.schema}.t{POSTGRES_COLUMNS.index(column)}"

    def raw(self, column: str) -> str:
        with self.engine.begin() as connection:
            return repr(connection.execute(sa.text(f"SELECT * FROM {self.table(column)}")).fetchall())

    def reflected(self, column: str) -> sa.Table:
        schema, name = self.table(column).split(".")
        return sa.Table(name, self.metadata, schema=schema, autoload_with=self.engine)


@pytest.fixture(scope="module")
def server(postgres: str) -> Iterator[Postgres]:  # the fixture
    pytest.importorskip("psycopg", reason="FASTSQL ON POSTGRESQL IS NOT TESTED: pip install 'psycopg[binary]'")
    schema = f"faststate_{secrets.token_hex(6)}"
    engine = sa.create_engine(f"postgresql+psycopg://{postgres}")
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
        for number, column in enumerate(POSTGRES_COLUMNS):
            table = f"{schema}.t{number}"
            connection.execute(sa.text(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, x {column}, version INTEGER)"))
            connection.execute(sa.text(f"INSERT INTO {table} VALUES (1, NULL, 1)"))
    yield Postgres(postgres, schema, engine, sa.MetaData())
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def clean_server(server: Postgres) -> Postgres:
    with server.engine.begin() as connection:
        for column in POSTGRES_COLUMNS:
            connection.execute(sa.text(f"UPDATE {server.table(column)} SET x = NULL, version = 1"))
    return server


@pytest.fixture(scope="module")
def fastsql_on_postgres(server: Postgres) -> Iterator[Any]:
    db = fastsql.database(f"postgresql+psycopg://{server.address}?options=-csearch_path%3D{server.schema}")
    yield db
    db.close()
    db.engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_postgresql_comes_back_or_is_refused(kind, clean_server, fastsql_on_postgres, loop):
    prove_all(kind, rows_in(fastsql_on_postgres, POSTGRES_COLUMNS, clean_server.raw), loop, 12)


# -- functions and other sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_asyncio_functions_keep_in_postgresql_comes_back_or_is_refused(kind, clean_server, loop):
    """With SQLAlchemy and asyncpg, as docs/records.md shows it."""
    engine = create_async_engine(f"postgresql+asyncpg://{clean_server.address}")

    def config(column: str) -> dict[str, Any]:
        table = clean_server.reflected(column)

        async def load(record_id: str) -> Row | None:
            async with engine.connect() as connection:
                row = (await connection.execute(table.select().where(table.c.id == int(record_id)))).mappings().first()
            return row and Row(row, row["version"])

        async def save(record_id: str, changed: dict[str, Any], version: int) -> int:
            this = (table.c.id == int(record_id), table.c.version == version)
            async with engine.begin() as connection:
                done = await connection.execute(table.update().where(*this).values(**changed, version=version + 1))
            assert done.rowcount == 1
            return version + 1

        return {"records": (load, save)}

    def raw(column: str) -> str:  # a value that is put back counts as a change, too
        return re.sub(r", \d+\)\]$", "", clean_server.raw(column))

    try:
        prove_all(kind, Rows(POSTGRES_COLUMNS, config, raw), loop, 8)
    finally:
        loop.run(engine.dispose())


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_functions_keep_in_sqlite_comes_back_or_is_refused(kind, directory, loop):
    raw = create_in_sqlite(directory / "rows.db", SQLITE_COLUMNS)

    def config(column: str) -> dict[str, Any]:
        table = f"t{SQLITE_COLUMNS.index(column)}"

        def load(record_id: str) -> dict[str, Any]:
            with contextlib.closing(sqlite3.connect(directory / "rows.db")) as db:
                return dict(zip(("id", "x"), db.execute(f"SELECT id, x FROM {table}").fetchone(), strict=True))

        def save(record_id: str, changed: dict[str, Any]) -> None:
            with contextlib.closing(sqlite3.connect(directory / "rows.db")) as db, db:
                value = changed["x"]
                if isinstance(value, list | dict):
                    try:
                        value = json.dumps(value, default=str)
                    except TypeError:
                        raise sqlite3.DataError("no JSON") from None
                db.execute(f"UPDATE {table} SET x = ?", [value])

        return {"records": (load, save)}

    prove_all(kind, Rows(SQLITE_COLUMNS, config, raw), loop, 8)


class Texts:
    """A `RecordSource` that keeps all as the text that it is shown as, and knows nothing of guards."""

    database: Any = None

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}

    async def load(self, record_id: str) -> Row | None:
        return Row({"x": self.row.get("x")})

    async def save(self, changes: list[RowChange]) -> list[int | None]:
        for change in changes:
            self.row.update({name: value and str(value) for name, value in change.changed.items()})
        return [None for _ in changes]

    async def delete(self, record_id: str) -> None:
        self.row = {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_a_source_of_the_apps_own_comes_back_or_is_refused(kind, loop):
    source = Texts()
    annotation, values = KINDS[kind]
    cls = state_for(annotation)

    @property_of(6)
    @given(values)
    def run(value: Any) -> None:
        source.row.pop("x", None)
        loop.run(prove(cls, Rows(("TEXT",), lambda _: {"records": source}, lambda _: None), "TEXT", value))

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_between_to_state_and_to_row_comes_back_or_is_refused(kind, directory, loop):
    raw = create_in_sqlite(directory / "rows.db", SQLITE_COLUMNS)
    db = fastlite.database(directory / "rows.db")

    between = {"to_state": lambda row: {"x": row["x"]}, "to_row": lambda state: {"x": state.x}}
    prove_all(kind, rows_in(db, SQLITE_COLUMNS, raw, **between), loop, 8)


# -- what pages and people see -----------------------------------------------------------------------------------------


class Item(ReactiveState):
    price: float = 0.0
    stock: int = 0
    note: str = ""
    meta: Any = ""
    pin: ServerOnly[float] = 0.0

    @event
    def set_price(self, price: float):
        self.price = price

    @event
    def set_stock(self, stock: int):
        self.stock = stock

    @event
    def set_note(self, note: str):
        self.note = note

    @event
    def set_meta(self, meta: Any):
        self.meta = meta

    @event
    def set_pin(self, pin: float):
        self.pin = pin


def serve(records: Any) -> Any:
    """A new process's app with a page for each item."""
    provider = provider_of(Item, StateConfig(scope=StateScope.RECORD, records=records, public=True))
    app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

    @rt("/items/{item_id}")
    def show(item: Item):
        return Div(item.signal.price, " ", item.signal.stock, " ", item.signal.note, " ", repr(item.meta))

    return app


def items_in_sqlite(directory: Path) -> Any:
    table = fastlite.database(directory / "items.db").t.items
    if not table.exists():
        table.create(id=int, price=float, stock=int, note=str, meta=str, pin=float, version=int, pk="id")
        table.insert(id=1, price=2.5, stock=3, note="as it was", meta="", pin=1.0, version=1)
    return table


async def sent(app: Any, name: str, body: str) -> tuple[int, str]:
    """The status and text of an event whose arguments are the JSON `body`, from a page of item 1."""
    async with browser(app) as client:
        page = await Page.open(client, "/items/1")
        answer = await client.post(
            f"{page.url}event/Item/{name}",
            content=f'{{"w": {json.dumps(page.tokens)}, "i": "1", "a": {body}}}',
            headers={**BROWSER, "content-type": "application/json", "faststate-nonce": secrets.token_hex(12)},
        )
        assert (await client.get("/items/1")).status_code == 200
    return status(answer), answer.text


@pytest.mark.parametrize(
    ("name", "body", "where"),
    [
        ("set_price", '{"price": NaN}', "Item.price: NaN cannot be kept in the column price (FLOAT)"),
        ("set_stock", '{"stock": 1000000000000000000000000000000}', "Item.stock: a whole number of more than 64 bits"),
        ("set_note", '{"note": "\\ud800"}', "not Unicode"),
        ("set_meta", '{"meta": {"a": [1]}}', "Item.meta: a dict cannot be kept in the column meta (TEXT)"),
        ("set_pin", '{"pin": NaN}', "Item.pin: the new value cannot be kept in the column pin (FLOAT)"),
    ],
)
async def test_an_event_with_a_value_that_the_row_cannot_keep_is_a_400_in_the_page(name, body, where, directory):
    table = items_in_sqlite(directory)
    before = table[1]
    code, text = await sent(serve(table), name, body)
    assert code == 400 and where in text
    assert table[1] == before
    async with browser(serve(items_in_sqlite(directory))) as client:  # a new process
        answer = await client.get("/items/1")
        assert answer.status_code == 200 and "as it was" in answer.text


@pytest.mark.parametrize(
    ("name", "body", "shown"),
    [
        ("set_price", '{"price": 1e999}', "Infinity"),
        ("set_note", '{"note": "a\\u0000b"}', "a"),
        ("set_stock", '{"stock": 9223372036854775807}', "9223372036854775807"),
    ],
)
async def test_an_odd_value_that_the_row_can_keep_is_there_after_a_restart(name, body, shown, directory):
    table = items_in_sqlite(directory)
    code, _ = await sent(serve(table), name, body)
    assert code == 200
    async with browser(serve(items_in_sqlite(directory))) as client:
        answer = await client.get("/items/1")
        assert answer.status_code == 200 and shown in answer.text


@pytest.mark.parametrize(
    ("name", "body", "where"),
    [
        ("set_stock", '{"stock": 2147483648}', "Item.stock: a whole number of more than 32 bits cannot be kept"),
        ("set_note", '{"note": "a\\u0000b"}', "Item.note: a NUL character cannot be kept in the column note"),
        ("set_note", '{"note": "far too long"}', "Item.note: a text of more than 10 characters cannot be kept"),
        ("set_price", '{"price": 0.123456789}', "Item.price: a float cannot be kept in the column price (REAL)"),
        (
            "set_note",
            '{"note": "another"}',
            "Item.note: a new value (UniqueViolation) cannot be kept in the column note",
        ),
    ],
)
async def test_postgresql_refuses_with_the_field_and_changes_nothing(name, body, where, server):
    with server.engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {server.schema}.items"))
        connection.execute(
            sa.text(
                f"CREATE TABLE {server.schema}.items (id INTEGER PRIMARY KEY, price REAL, stock INTEGER, "
                "note VARCHAR(10) UNIQUE, meta JSONB, pin REAL, version INTEGER)"
            )
        )
        connection.execute(sa.text(f"INSERT INTO {server.schema}.items VALUES (1, 2.5, 3, 'as it was', '\"\"', 1, 1)"))
        connection.execute(sa.text(f"INSERT INTO {server.schema}.items (id, note) VALUES (2, 'another')"))
    db = fastsql.database(f"postgresql+psycopg://{server.address}?options=-csearch_path%3D{server.schema}")
    app = serve(db.t.items)
    code, text = await sent(app, name, body)
    assert code == 400 and where in text
    code, _ = await sent(app, "set_meta", '{"meta": {"a": [1, null, "x"]}}')
    assert code == 200
    async with browser(serve(db.t.items)) as client:
        answer = await client.get("/items/1")
        assert answer.status_code == 200 and "as it was" in answer.text and "[1, None" in answer.text
    db.close()
    db.engine.dispose()


async def test_a_row_that_is_bad_already_is_told_without_its_values_and_heals_when_it_is_mended(directory, caplog):
    table = items_in_sqlite(directory)
    table.insert(id=2, price=1.0, stock=1, note="fine", meta="", pin=1.0, version=1)
    table.db.q("UPDATE items SET stock = 'a secret' WHERE id = 1")
    app = serve(table)
    provider = app.state.faststate
    async with browser(app) as client:
        answer = await client.get("/items/1")
        said = "This record cannot be shown or changed: its stored data does not fit. Nothing was changed."
        assert (answer.status_code, answer.text) == (503, said)
        for part in ("record:Item:1", "'1' in the table 'items'", "stock", "until the row is mended"):
            assert part in caplog.text
        assert "a secret" not in caplog.text
        assert (await client.get("/items/2")).status_code == 200
        with pytest.raises(RowUnreadableError, match=r"No page, event or modify\(\) can use it"):
            await set_fields(provider.modify(Item, record_id=1), stock=1)
        table.db.q("UPDATE items SET price = 1, stock = 2 WHERE id = 1")
        await provider.refresh(Item, record_id=1)
        assert (await client.get("/items/1")).status_code == 200
        page = await Page.open(client, "/items/1")
        assert status(await page.send("Item", "set_stock", instance_id="1", stock=5)) == 200
    assert table[1]["stock"] == 5


async def test_a_row_that_goes_bad_while_it_is_in_memory_heals_by_a_refresh(directory):
    table = items_in_sqlite(directory)
    app = serve(table)
    provider = app.state.faststate
    async with browser(app) as client:
        page = await Page.open(client, "/items/1")
        table.db.q("UPDATE items SET price = NULL, version = version + 1 WHERE id = 1")
        with pytest.raises(RowUnreadableError):
            await provider.refresh(Item, record_id=1)
        answer = await page.send("Item", "set_stock", instance_id="1", stock=5)
        assert status(answer) == 503 and table[1]["stock"] == 3
        table.db.q("UPDATE items SET price = 1, version = version + 1 WHERE id = 1")
        assert await provider.refresh(Item, record_id=1) is True
        assert status(await page.send("Item", "set_stock", instance_id="1", stock=5)) == 200
    assert table[1]["stock"] == 5


# -- the class's own validators ----------------------------------------------------------------------------------------


def to_cents(value: Any) -> int:
    return round(float(value) * 100)


class Priced(ReactiveState):
    cents: Annotated[int, BeforeValidator(to_cents)] = 0
    tags: Annotated[list[str], BeforeValidator(lambda v: v.split(",") if isinstance(v, str) else v)] = []
    n: int = 0


async def test_a_converting_validator_does_not_convert_what_its_row_holds(directory):
    table = fastlite.database(directory / "priced.db").t.priced
    table.create(id=int, cents=int, tags=str, n=int, pk="id")
    table.insert(id=1, cents=250, tags="a,b", n=0)

    def made() -> StateProvider:
        return provider_of(Priced, StateConfig(scope=StateScope.RECORD, records=table))

    provider = made()
    async with provider.modify(Priced, record_id=1) as priced:
        assert (priced.cents, priced.tags) == (250, ["a", "b"])  # as it is, and read, since it was no list
        priced.cents = 3
    assert table[1]["cents"] == 300
    async with made().modify(Priced, record_id=1) as priced:
        assert priced.cents == 300
        priced.tags = ["c"]
    assert table[1]["tags"] == '["c"]'
    async with made().modify(Priced, record_id=1) as priced:
        assert (priced.cents, priced.tags) == (300, ["c"])


# -- what is told when a class is registered, and other refusals -------------------------------------------------------


def register(cls: type[ReactiveState], records: Any, **more: Any) -> StateProvider:
    return provider_of(cls, StateConfig(scope=StateScope.RECORD, records=records, **more))


def test_a_field_that_its_column_can_never_keep_is_reported_at_registration(directory):
    db = fastlite.database(directory / "strict.db")
    db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, x INTEGER, y TEXT) STRICT")

    class Wrong(ReactiveState):
        x: list[str] | None = None

    class Right(ReactiveState):
        x: int | str | None = None
        y: list[str] = []

    with pytest.raises(ConfigurationError, match=r"Wrong\.x cannot be kept in the column x \(INTEGER\), which"):
        register(Wrong, db.t.things)
    register(Right, db.t.things)


def test_a_field_whose_own_validator_reads_its_column_is_not_reported(directory):
    db = fastlite.database(directory / "strict.db")
    db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, x INTEGER) STRICT")

    class Read(ReactiveState):
        x: Annotated[str, BeforeValidator(str)] = ""

    register(Read, db.t.things)


async def test_none_in_a_column_that_takes_no_null_is_refused(directory):
    db = fastlite.database(directory / "notes.db")
    db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL, n INTEGER CHECK (n < 10))")
    db.t.notes.insert(id=1, text="a", n=1)

    class Note(ReactiveState):
        text: str | None = None
        n: int = 0

    provider = register(Note, db.t.notes)
    with pytest.raises(RowValueError, match=r"Note\.text: None cannot be kept in the column text \(TEXT\)"):
        await set_fields(provider.modify(Note, record_id=1), text=None)
    with pytest.raises(RowValueError, match=r"Note\.n: a new value .* cannot be kept in the column n"):
        await set_fields(provider.modify(Note, record_id=1), n=10)
    assert db.t.notes[1] == {"id": 1, "text": "a", "n": 1}


@pytest.mark.parametrize(
    "constraint",
    [
        "CREATE UNIQUE INDEX names ON notes (text)",
        "CREATE TABLE owners (name TEXT PRIMARY KEY); INSERT INTO owners VALUES ('a'), ('c')",
    ],
    ids=["unique", "foreign key"],
)
async def test_a_value_that_breaks_a_constraint_is_refused(directory, constraint):
    db = fastlite.database(directory / "notes.db")
    reference = "REFERENCES owners (name)" if "owners" in constraint else ""
    db.execute(f"CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT {reference})")
    for statement in constraint.split("; "):
        db.execute(statement)
    db.execute("PRAGMA foreign_keys = ON")
    db.t.notes.insert(id=1, text="a")
    if "UNIQUE" in constraint:
        db.t.notes.insert(id=2, text="b")

    class Note(ReactiveState):
        text: str = ""

    provider = register(Note, db.t.notes)
    with pytest.raises(RowValueError, match=r"Note\.text: a new value .* cannot be kept in the column text") as caught:
        await set_fields(provider.modify(Note, record_id=1), text="b")
    assert caught.value.status == 400 and "'b'" not in str(caught.value)
    await set_fields(provider.modify(Note, record_id=1), text="c")
    assert db.t.notes[1]["text"] == "c"


class Right(ReactiveState):
    x: float = 0.0


class Left(ReactiveState):
    x: float = 0.0

    @event
    def both(self, other: Annotated[Right, Record("id")], id: str, value: float):
        self.x = other.x = value


async def test_of_rows_in_two_databases_none_is_changed_when_one_cannot_keep_its_value(directory):
    left, right = (fastlite.database(directory / f"{name}.db").t.rows for name in ("left", "right"))
    left.create(id=int, x=str, pk="id")
    right.create(id=int, x=float, pk="id")
    left.insert(id=1, x="1.5")
    right.insert(id=1, x=1.5)
    provider = StateProvider()
    for cls, table in ((Left, left), (Right, right)):
        provider.register_state(cls, StateConfig(scope=StateScope.RECORD, records=table))
    entry = await provider.registry.entry(provider.registrations.config_of(Left).identifier(Ids(record_id=1)), Left)
    await entry.state.both.run(id="1", value=2.5)
    with pytest.raises(RowValueError, match=r"Right\.x: NaN"):  # which the text on the left does keep
        await entry.state.both.run(id="1", value=float("nan"))
    assert (left[1]["x"], right[1]["x"]) == ("2.5", 2.5)
    await provider.stop()


async def test_what_to_row_loses_is_refused_and_what_it_leaves_out_is_not(directory):
    class Money(ReactiveState):
        euros: float = 0.0
        open: bool = False

    table = items_in_sqlite(directory)
    provider = register(
        Money,
        table,
        to_state=lambda row: {"euros": row["stock"] / 100},
        to_row=lambda money: {"stock": round(money.euros * 100)},
    )
    await set_fields(provider.modify(Money, record_id=1), euros=2.5, open=True)
    assert table[1]["stock"] == 250
    with pytest.raises(RowValueError, match=r"Money\.euros: a float cannot be kept in its row \(by to_row"):
        await set_fields(provider.modify(Money, record_id=1), euros=0.123)
    assert table[1]["stock"] == 250


async def test_small_numbers_are_looked_up_once_behind_a_save_of_functions():
    row, loads = {"x": 0, "y": ""}, []

    class Counter(ReactiveState):
        x: int = 0
        y: str = ""

    async def load(record_id: str) -> dict[str, Any]:
        loads.append(record_id)
        return dict(row)

    async def save(record_id: str, changed: dict[str, Any]) -> None:
        row.update(changed)

    provider = register(Counter, (load, save))
    await provider.start()
    for number in range(64, 128):
        await set_fields(provider.modify(Counter, record_id=1), x=number)
    assert len(loads) == 2  # the first time, and one of seven bits
    for number in range(3):
        await set_fields(provider.modify(Counter, record_id=1), y=f"{number}")
    assert len(loads) == 5
    await provider.stop()


class Goods(ReactiveState):
    price: decimal.Decimal = decimal.Decimal(0)
    ratio: float = 0.0

    @event
    def put(self, price: decimal.Decimal):
        self.price = price


@pytest.mark.parametrize("price", ["19.99", "9.50", "10", "10.00", "0.10", "100", "7.250"])
async def test_an_ordinary_price_is_kept_in_a_column_of_numbers_as_the_row_gives_it_back(price, directory):
    def made():
        table = fastlite.database(directory / "goods.db").t.goods
        if not table.exists():
            table.create(id=int, price=float, ratio=float, pk="id")
            table.insert(id=1, price=1.0, ratio=0.5)
        return provider_of(Goods, StateConfig(scope=StateScope.RECORD, records=table))

    provider = made()
    await provider.start()
    async with provider.modify(Goods, record_id=1) as goods:
        goods.price, goods.ratio = decimal.Decimal(price), -0.0
    kept = provider.registry.peek("record:Goods:1")
    assert kept.price == decimal.Decimal(price)
    assert kept._committed.encoded["price"] == str(kept.price)
    async with provider.modify(Goods, record_id=1) as goods:
        goods.price += decimal.Decimal("0.25")
    changed = provider.registry.peek("record:Goods:1")
    await provider.stop()
    again = made()
    await again.start()
    async with again.modify(Goods, record_id=1) as goods:
        assert repr((goods.price, goods.ratio)) == repr((changed.price, changed.ratio))
        assert goods.price == decimal.Decimal(price) + decimal.Decimal("0.25")
    await again.stop()


class DriverUUID(uuid.UUID):
    """As asyncpg has one."""

    __slots__ = ()


async def test_a_uuid_of_a_drivers_own_class_is_a_uuid():
    row: dict[str, Any] = {"v": None}

    async def load(record_id):
        return {"v": row["v"] and DriverUUID(str(row["v"]))}

    async def save(record_id, changed):
        row.update(changed)

    class Tagged(ReactiveState):
        v: uuid.UUID | None = None

    provider = provider_of(Tagged, StateConfig(scope=StateScope.RECORD, records=(load, save)))
    value = uuid.uuid4()
    await set_fields(provider.modify(Tagged, record_id=1), v=value)
    await provider.refresh(Tagged, record_id=1)
    kept = provider.registry.peek("record:Tagged:1").v
    assert kept == value and type(kept) is uuid.UUID
