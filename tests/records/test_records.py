"""Record sources: one contract for tables and functions, and what each of them promises besides."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import json
import re
import threading
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import apsw
import fastlite
import fastsql
import pytest
import sqlalchemy as sa
from annotated_types import Len
from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import create_async_engine

from faststate.exceptions import (
    ConfigurationError,
    PersistenceError,
    RowValueError,
    StateNotFoundError,
    VersionConflict,
)
from faststate.records.columns import columns_to_fields
from faststate.records.functions import CallableRecords
from faststate.records.sources import RecordSource, Row, RowChange
from faststate.records.table import TableRecords, record_source


@dataclasses.dataclass
class Products:
    """A source of products, and what other code does to their rows."""

    source: RecordSource
    read: Callable[[int], Awaitable[dict[str, Any] | None]]
    write: Callable[..., Awaitable[None]]
    remove: Callable[[int], Awaitable[None]]
    add: Callable[[dict[str, Any]], Awaitable[None]]

    async def save(self, record_id: str, version: int | None, **changed: Any) -> int | None:
        (saved,) = await self.source.save([RowChange(self.source, record_id, changed, version)])
        return saved


TEA = {"id": 1, "name": "tea", "stock": 10, "version": 1}
CAKE = {"id": 2, "name": "cake", "stock": 3, "version": 1}


# -- the sources -------------------------------------------------------------------------------------------------------


def of_fastlite(path: Path | str) -> Products:
    db = fastlite.database(path)
    return of_table(db, lambda key: db.q("SELECT * FROM products WHERE id = ?", [key]))


def of_fastsql(path: Path) -> Products:
    db = fastsql.database(path)
    return of_table(db, lambda key: db.q("SELECT * FROM products WHERE id = :key", key=key))


def of_table(db: Any, find: Callable[[int], Any]) -> Products:
    """Products in a table of `db`; `find` reads the rows with an id past the source."""
    table = db.t.products.create(id=int, name=str, stock=int, version=int, pk="id")
    for row in (TEA, CAKE):
        table.insert(row)

    async def read(key: int) -> dict[str, Any] | None:
        return next(iter(find(key)), None)

    async def write(key: int, **columns: Any) -> None:
        table.update({"id": key, **columns})

    async def remove(key: int) -> None:
        table.delete(key)

    async def add(row: dict[str, Any]) -> None:
        table.insert(row)

    return Products(TableRecords(table), read, write, remove, add)


def of_functions() -> Products:
    rows = {row["id"]: dict(row) for row in (TEA, CAKE)}

    async def load(record_id: str) -> Row | None:
        row = next((row for key, row in rows.items() if str(key) == record_id), None)
        return None if row is None else Row(row, row["version"])

    def save(record_id: str, changed: dict[str, Any], version: int) -> int:
        row = rows.get(int(record_id))
        if row is None:
            raise StateNotFoundError(f"there is no product {record_id}")
        if row["version"] != version:
            raise VersionConflict(f"product {record_id} is another")
        row |= {**changed, "version": version + 1}
        return version + 1

    async def read(key: int) -> dict[str, Any] | None:
        return rows.get(key)

    async def write(key: int, **columns: Any) -> None:
        rows[key] |= columns

    async def remove(key: int) -> None:
        rows.pop(key, None)

    async def add(row: dict[str, Any]) -> None:
        rows[row["id"]] = dict(row)

    source = CallableRecords(load, save, lambda record_id: remove(int(record_id)))
    return Products(source, read, write, remove, add)


@contextlib.asynccontextmanager
async def of_postgres(address: str):
    """SQLAlchemy's asyncio engine as three functions, in a schema that is dropped afterwards."""
    schema = f"faststate_{uuid.uuid4().hex}"
    products = sa.Table(
        "products",
        sa.MetaData(schema=schema),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stock", sa.Integer, nullable=False),
        sa.Column("tags", JSONB),
        sa.Column("version", sa.Integer, nullable=False),
    )
    engine = create_async_engine(f"postgresql+asyncpg://{address}")

    def key_of(record_id: str) -> int | None:
        return int(record_id) if re.fullmatch(r"[1-9][0-9]{0,17}", record_id) else None

    async def load(record_id: str) -> Row | None:
        async with engine.connect() as connection:
            found = await connection.execute(products.select().where(products.c.id == key_of(record_id)))
            row = found.mappings().first()
        return None if row is None else Row(row, row["version"])

    async def save(record_id: str, changed: dict[str, Any], version: int) -> int:
        this = products.c.id == key_of(record_id)
        async with engine.begin() as connection:
            update = products.update().where(this, products.c.version == version)
            if (await connection.execute(update.values(**changed, version=version + 1))).rowcount:
                return version + 1
            there = (await connection.execute(sa.select(products.c.id).where(this))).first()
        raise VersionConflict(record_id) if there else StateNotFoundError(record_id)

    async def delete(record_id: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(products.delete().where(products.c.id == key_of(record_id)))

    async def read(key: int) -> dict[str, Any] | None:
        async with engine.connect() as connection:
            row = (await connection.execute(products.select().where(products.c.id == key))).mappings().first()
        return None if row is None else dict(row)

    async def write(key: int, **columns: Any) -> None:
        async with engine.begin() as connection:
            await connection.execute(products.update().where(products.c.id == key).values(**columns))

    async def add(row: dict[str, Any]) -> None:
        async with engine.begin() as connection:
            await connection.execute(products.insert(), row)

    try:
        async with engine.begin() as connection:
            await connection.execute(sa.schema.CreateSchema(schema))
            await connection.run_sync(products.metadata.create_all)
            await connection.execute(products.insert(), [TEA, CAKE])
        yield Products(CallableRecords(load, save, delete), read, write, lambda key: delete(str(key)), add)
    finally:
        async with engine.begin() as connection:
            await connection.execute(sa.schema.DropSchema(schema, cascade=True, if_exists=True))
        await engine.dispose()


@pytest.fixture(params=["fastlite file", "fastlite memory", "fastsql file", "functions", "functions on postgres"])
def kind(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    with_server = request.param == "functions on postgres"
    return request.param, request.getfixturevalue("postgres") if with_server else None


@pytest.fixture
async def products(kind, tmp_path):
    name, address = kind
    if name == "functions on postgres":
        async with of_postgres(address) as made:
            yield made
    elif name == "functions":
        yield of_functions()
    elif name == "fastsql file":
        yield of_fastsql(tmp_path / "shop.db")
    else:
        yield of_fastlite(":memory:" if name == "fastlite memory" else tmp_path / "shop.db")


# -- the contract, on each source --------------------------------------------------------------------------------------


async def test_a_row_is_found_by_its_id_with_its_version(products):
    row = await products.source.load("1")
    assert row.version == 1
    assert {name: row.values[name] for name in TEA} == TEA


@pytest.mark.parametrize("record_id", ["3", "0", "-1", "tea", "", "99999999999999999999", "9" * 400, "1; --", "None"])
async def test_an_id_that_no_row_has_is_not_there(products, record_id):
    assert await products.source.load(record_id) is None


@pytest.mark.parametrize("record_id", ["01", "1.0", "+1", " 1", "1 ", "1e0", "1_", "0x1", "\u0661", "1\n", "\uff11"])
async def test_another_spelling_of_an_id_is_not_a_second_state_of_its_row(products, record_id):
    assert await products.source.load(record_id) is None


async def test_a_save_changes_the_row_and_counts_it(products):
    assert await products.save("1", 1, stock=9) == 2
    assert await products.save("1", 2, stock=8, name="green tea") == 3
    assert await products.read(1) == (await products.source.load("1")).values
    row = await products.source.load("1")
    assert (row.values["stock"], row.values["name"], row.version) == (8, "green tea", 3)


async def test_a_save_leaves_the_columns_alone_that_did_not_change(products):
    await products.source.load("1")
    await products.write(1, name="white tea")
    await products.save("1", 1, stock=9)
    row = (await products.source.load("1")).values
    assert (row["name"], row["stock"]) == ("white tea", 9)


async def test_a_save_leaves_the_other_rows_alone(products):
    before = await products.read(2)
    await products.save("1", 1, stock=9)
    assert await products.read(2) == before


async def test_a_change_made_from_an_older_version_is_refused_and_changes_nothing(products):
    await products.write(1, stock=4, version=2)
    with pytest.raises(VersionConflict):
        await products.save("1", 1, stock=9, name="white tea")
    row = await products.source.load("1")
    assert (row.values["stock"], row.values["name"], row.version) == (4, "tea", 2)


async def test_of_many_saves_from_one_version_one_is_made(products):
    saves = [products.save("1", 1, stock=stock) for stock in range(100, 120)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    (made,) = [place for place, result in enumerate(results) if result == 2]
    assert all(isinstance(result, VersionConflict) for place, result in enumerate(results) if place != made)
    assert (await products.read(1))["stock"] == 100 + made


async def test_a_row_that_is_gone_cannot_be_saved_and_does_not_come_back(products):
    await products.remove(1)
    with pytest.raises(StateNotFoundError):
        await products.save("1", 1, stock=9)
    assert await products.read(1) is None and await products.source.load("1") is None


async def test_a_deleted_row_is_gone_and_can_be_deleted_again(products):
    await products.source.delete("1")
    assert await products.read(1) is None and await products.read(2) is not None
    await products.source.delete("1")


async def test_a_row_that_is_made_anew_is_found(products):
    await products.source.delete("1")
    assert await products.source.load("1") is None
    await products.add({**TEA, "name": "green tea"})
    assert (await products.source.load("1")).values["name"] == "green tea"


async def test_a_source_passes_through_record_source(products):
    assert record_source(products.source) is products.source


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "memory"])
def db(request, tmp_path):
    """A database of fastlite, in a file and in memory."""
    return fastlite.database(tmp_path / "app.db" if request.param == "file" else ":memory:")


class Tables(NamedTuple):
    products: Any
    orders: Any


def shop(db):
    """Two tables of one database: products, with versions, and orders, without."""
    products = db.t.products.create(id=int, name=str, stock=int, version=int, pk="id")
    orders = db.t.orders.create(id=str, product=str, amount=int, pk="id")
    for row in (TEA, CAKE):
        products.insert(row)
    orders.insert(id="a", product="tea", amount=0)
    return Tables(products, orders)


@pytest.fixture
def tables(db):
    """The tables of a shop: products and orders."""
    return shop(db)


@pytest.fixture
def source(tables):
    """The source of the shop's products."""
    return TableRecords(tables.products)


@pytest.fixture
def sources(tables):
    """The sources of the shop's products and orders."""
    return [TableRecords(table) for table in tables]


def change(source, record_id, version=None, **changed):
    return RowChange(source, record_id, changed, version)


async def save(source, record_id, version=None, **changed):
    (saved,) = await source.save([change(source, record_id, version, **changed)])
    return saved


async def test_a_save_is_one_statement_that_names_the_changed_columns_alone(db):
    products, _ = shop(db)
    db.t.log.create(what=str)
    for column in ("name", "stock", "version"):
        # UPDATE OF fires for each column that a statement names, also where its value stays the same.
        db.execute(
            f"CREATE TRIGGER log_{column} AFTER UPDATE OF {column} ON products "
            f"BEGIN INSERT INTO log VALUES ('{column}'); END"
        )
    source = TableRecords(products)
    await save(source, "1", 1, stock=9)
    assert sorted(row["what"] for row in db.t.log()) == ["stock", "version"]
    await save(source, "2", 1, stock=9, name="pie")
    assert sorted(row["what"] for row in db.t.log()) == ["name", "stock", "stock", "version", "version"]


async def test_rows_of_two_tables_are_saved_together(tables, sources):
    (products, orders), (first, second) = tables, sources
    assert first.database is second.database is not None
    saved = await first.save([change(first, "1", 1, stock=8), change(second, "a", amount=2)])
    assert list(saved) == [2, None]
    assert products[1]["stock"] == 8 and orders["a"]["amount"] == 2


@pytest.mark.parametrize("last", ["conflict", "gone", "constraint", "unknown column", "primary key"])
async def test_of_rows_that_cannot_all_be_saved_none_is(db, last):
    products, orders = shop(db)
    db.execute("CREATE UNIQUE INDEX names ON products(name)")
    first, second = TableRecords(products), TableRecords(orders)
    failing, error = {
        "conflict": (change(first, "2", 7, stock=0), VersionConflict),
        "gone": (change(first, "3", 1, stock=0), StateNotFoundError),
        "constraint": (change(first, "2", 1, name="tea"), RowValueError),
        "unknown column": (change(first, "2", 1, colour="red"), ConfigurationError),
        "primary key": (change(first, "2", 1, id=5), ConfigurationError),
    }[last]
    with pytest.raises(error):
        await first.save([change(second, "a", amount=2), change(first, "1", 1, stock=8), failing])
    assert products[1] == TEA
    assert products[2] == CAKE
    assert orders["a"]["amount"] == 0
    await first.save([change(second, "a", amount=2), change(first, "1", 1, stock=8)])
    assert products[1]["stock"] == 8 and orders["a"]["amount"] == 2


async def test_rows_of_two_databases_are_not_saved_as_if_they_were_of_one(tmp_path):
    here, there = (TableRecords(shop(fastlite.database(tmp_path / name))[0]) for name in ("a.db", "b.db"))
    assert here.database is not there.database
    with pytest.raises(ConfigurationError, match="another database"):
        await here.save([change(here, "1", 1, stock=0), change(there, "1", 1, stock=0)])
    assert (await here.load("1")).values["stock"] == 10


@pytest.mark.parametrize("column", ["id", "version"])
async def test_the_key_and_the_version_of_a_row_are_not_a_states_to_change(source, tables, column):
    with pytest.raises(ConfigurationError, match=f"'{column}'.*a state cannot change it"):
        await source.save([RowChange(source, "1", {"stock": 0, column: 9}, 1)])
    assert tables.products[1] == {"id": 1, "name": "tea", "stock": 10, "version": 1}


async def test_a_field_that_is_no_column_is_named(source):
    with pytest.raises(ConfigurationError, match=r"'products' has no column 'colour'.*id, name, stock, version"):
        await save(source, "1", 1, colour="red")


async def test_a_column_that_the_app_adds_while_it_runs_can_be_saved(source, tables):
    await source.load("1")
    tables.products.add_column("colour", str)
    await save(source, "1", 1, colour="red")
    assert (await source.load("1")).values["colour"] == "red"


async def test_a_table_without_a_version_column_is_saved_without_a_check(db):
    _, orders = shop(db)
    source = TableRecords(orders)
    assert (await source.load("a")).version is None
    assert await save(source, "a", amount=1) is None and await save(source, "a", amount=2) is None
    assert orders["a"]["amount"] == 2


async def test_version_false_makes_the_column_one_like_any_other(db):
    products, _ = shop(db)
    source = TableRecords(products, version=False)
    assert (await source.load("1")).version is None
    assert await save(source, "1", version=None, stock=1) is None
    await source.save([RowChange(source, "1", {"version": 40}, None)])
    assert products[1] == {"id": 1, "name": "tea", "stock": 1, "version": 40}


async def test_a_version_that_is_a_text_counts_nothing(db):
    packages = db.t.packages.create(id=int, version=str, pk="id")
    packages.insert(id=1, version="1.0.2")
    source = TableRecords(packages)
    assert (await source.load("1")).version is None
    await source.save([RowChange(source, "1", {"version": "1.0.3"}, None)])
    assert packages[1]["version"] == "1.0.3"


async def test_the_version_column_may_have_another_name(db):
    things = db.t.things.create(id=int, name=str, row_version=int, version=int, pk="id")
    things.insert(id=1, name="a", row_version=5, version=1)
    source = TableRecords(things, version="row_version")
    assert (await source.load("1")).version == 5
    assert await save(source, "1", 5, name="b") == 6
    with pytest.raises(VersionConflict):
        await save(source, "1", 5, name="c")
    assert things[1] == {"id": 1, "name": "b", "row_version": 6, "version": 1}


@pytest.mark.parametrize("kind", ["fastlite file", "fastlite memory", "fastsql file"])
async def test_a_row_whose_version_is_null_counts_from_nought(tmp_path, kind):
    package, place = kind.split()
    database = fastlite.database if package == "fastlite" else fastsql.database
    products = database(":memory:" if place == "memory" else tmp_path / "shop.db").t.products.create(
        id=int, stock=int, version=int, pk="id"
    )
    products.insert({"id": 3, "stock": 1})
    source = TableRecords(products)
    assert (await source.load("3")).version == 0
    assert await save(source, "3", 0, stock=2) == 1
    with pytest.raises(VersionConflict):
        await save(source, "3", 0, stock=3)


async def test_a_save_that_knows_no_version_is_counted_all_the_same(source):
    assert await save(source, "1", None, stock=2) == 2
    with pytest.raises(VersionConflict):
        await save(source, "1", 1, stock=3)


async def test_a_trigger_that_drops_the_update_is_not_taken_for_a_save(db):
    _, orders = shop(db)
    db.execute("CREATE TRIGGER frozen BEFORE UPDATE ON orders BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(PersistenceError, match="a trigger"):
        await save(TableRecords(orders), "a", amount=2)


@pytest.mark.parametrize(
    ("key", "others"),
    [("tea", ["Tea", "tea ", "te", "TEA"]), ("05", ["5", "5.0"]), ("ä/b:c d", ["a/b:c d"]), ("[", ["]"])],
)
async def test_a_text_key_is_found_by_its_very_spelling(db, key, others):
    db.execute("CREATE TABLE texts (id TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER)")
    db.t.texts.insert(id=key, n=1)
    source = TableRecords(db.t.texts)
    assert (await source.load(key)).values == {"id": key, "n": 1}
    for other in others:
        assert await source.load(other) is None
        with pytest.raises(StateNotFoundError):
            await save(source, other, n=2)
        await source.delete(other)
    await save(source, key, n=2)
    assert db.t.texts[key]["n"] == 2


async def test_names_that_need_quoting_are_quoted(db):
    db.execute('CREATE TABLE "my ""table"" [x]" ("the ""key""" INTEGER PRIMARY KEY, "a]b[" TEXT, "select" INTEGER)')
    db.execute('INSERT INTO "my ""table"" [x]" VALUES (1, \'a\', 2)')
    source = TableRecords(db.t['my "table" [x]'])
    await source.save([RowChange(source, "1", {"a]b[": "b", "select": 3}, None)])
    assert (await source.load("1")).values == {'the "key"': 1, "a]b[": "b", "select": 3}


async def test_what_xtra_leaves_out_is_not_there(db):
    todos = db.t.todos.create(id=int, owner=str, title=str, version=int, pk="id")
    todos.insert(id=1, owner="ann", title="a", version=1)
    todos.insert(id=2, owner="bob", title="b", version=1)
    todos.xtra(owner="ann")
    source = TableRecords(todos)
    assert (await source.load("1")).values["title"] == "a"
    assert await source.load("2") is None
    with pytest.raises(StateNotFoundError):
        await save(source, "2", 1, title="x")
    await source.delete("2")
    with pytest.raises(ConfigurationError, match="xtra"):
        await save(source, "1", 1, owner="bob")
    assert await save(source, "1", 1, title="c") == 2
    todos.xtra()
    assert [row["title"] for row in todos()] == ["c", "b"] and [row["owner"] for row in todos()] == ["ann", "bob"]


async def test_an_xtra_that_names_no_column_lets_nothing_through(db):
    todos = db.t.todos.create(id=int, owner=str, pk="id")
    todos.insert(id=1, owner="ann")
    todos.xtra(ownr="ownr")  # in double quotes SQLite would take the name for that very text
    with pytest.raises(apsw.SQLError, match="no such column: ownr"):
        await TableRecords(todos).load("1")


# -- values ------------------------------------------------------------------------------------------------------------


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str
    since: datetime.date


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Everything(BaseModel):
    flag: bool
    number: int
    ratio: float
    text: str
    data: bytes
    price: decimal.Decimal
    code: uuid.UUID
    day: datetime.date
    moment: datetime.datetime
    hour: datetime.time
    span: datetime.timedelta
    size: Size
    level: Level
    tags: list[str]
    short: Annotated[list[int], Len(max_length=3)]
    pairs: tuple[int, str]
    unique: set[int]
    by_number: dict[int, decimal.Decimal]
    address: Address
    points: list[Point]
    maybe: dict[str, Any] | None
    anything: Any


EVERYTHING = Everything(
    flag=True,
    number=-7,
    ratio=0.1,
    text="[draft] ünïcode",
    data=b"\x00\xff",
    price=decimal.Decimal("19.90"),
    code=uuid.UUID(int=7),
    day=datetime.date(2024, 2, 29),
    moment=datetime.datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=datetime.UTC),
    hour=datetime.time(23, 59),
    span=datetime.timedelta(days=1, seconds=5),
    size=Size.LARGE,
    level=Level.HIGH,
    tags=["ä", "b"],
    short=[1, 2],
    pairs=(1, "x"),
    unique={1, 2},
    by_number={1: decimal.Decimal("0.10")},
    address=Address(street="Elm", since=datetime.date(2020, 1, 1)),
    points=[Point(1, 2)],
    maybe={"a": [1, None]},
    anything="[1, 2]",
)


@pytest.fixture
def everything(db):
    """The source of a table with a row of nulls, in columns of texts where they are not numbers or bytes."""
    types = dict.fromkeys(Everything.model_fields, "TEXT") | {"flag": "INTEGER", "number": "INTEGER"}
    types |= {"level": "INTEGER", "ratio": "FLOAT", "data": "BLOB"}
    db.execute(f"CREATE TABLE things (id INTEGER PRIMARY KEY, {', '.join(f'[{k}] {v}' for k, v in types.items())})")
    db.execute("INSERT INTO things (id) VALUES (1)")
    return TableRecords(db.t.things)


async def test_every_kind_of_value_comes_back_as_it_was_saved(everything):
    await everything.save([RowChange(everything, "1", dict(EVERYTHING), None)])
    row = await everything.load("1")
    assert Everything.model_validate(columns_to_fields(row.values, Everything)) == EVERYTHING
    empty = await save(everything, "1", maybe=None)
    assert empty is None and (await everything.load("1")).values["maybe"] is None


async def test_values_are_written_as_fastlite_writes_them(everything, db):
    values = {
        "flag": True,
        "ratio": 2.5,
        "code": EVERYTHING.code,
        "day": EVERYTHING.day,
        "moment": EVERYTHING.moment,
        "hour": EVERYTHING.hour,
        "tags": EVERYTHING.tags,
        "maybe": {"ä": [1, True, None, 2.5], "b": {}},
    }
    db.t.things.insert(id=2, **values)
    await everything.save([RowChange(everything, "1", values, None)])
    assert {**(await everything.load("1")).values, "id": 2} == (await everything.load("2")).values


async def test_what_fastlite_wrote_fits_the_fields(everything, db):
    plain = {**dict(EVERYTHING), "unique": [1, 2], "by_number": {"1": 0.1}, "points": [{"x": 1, "y": 2}]}
    plain |= {"address": {"street": "Elm", "since": "2020-01-01"}, "size": "l", "span": "P1DT5S"}
    db.t.things.insert(id=2, **plain)
    found = Everything.model_validate(columns_to_fields((await everything.load("2")).values, Everything))
    assert found == EVERYTHING


async def test_a_decimal_in_a_column_of_numbers_is_a_number(db):
    prices = db.t.prices.create(id=int, price=decimal.Decimal, pk="id")
    prices.insert(id=1, price=decimal.Decimal("1.5"))
    source = TableRecords(prices)
    await save(source, "1", price=decimal.Decimal("19.90"))
    assert db.execute("SELECT price, typeof(price) FROM prices").fetchall() == [(19.9, "real")]


async def test_a_value_that_no_column_can_keep_is_named_and_nothing_is_written(everything):
    with pytest.raises(RowValueError, match="an object cannot be kept in the column anything"):
        await save(everything, "1", text="x", anything=object())
    assert (await everything.load("1")).values["text"] is None


def test_texts_are_parsed_only_where_the_field_does_not_take_them():
    class Fields(BaseModel):
        text: str
        either: str | list[str]
        many: list[str]
        none: list[str] | None
        broken: list[str]

    row = {"id": 1, "text": "[1]", "either": '["a"]', "many": ' ["a"]', "none": None, "broken": "[a, b"}
    assert columns_to_fields(row, Fields) == {
        "text": "[1]",
        "either": '["a"]',
        "many": ["a"],
        "none": None,
        "broken": "[a, b",
    }


# -- threads and transactions of the app -------------------------------------------------------------------------------


async def test_a_save_that_waits_for_the_database_does_not_hold_up_the_event_loop(source, db):
    await source.load("1")
    db.execute("BEGIN IMMEDIATE")
    saving = asyncio.create_task(save(source, "1", 1, stock=9))
    for _ in range(100):
        await asyncio.sleep(0)
        assert not saving.done()
    db.execute("COMMIT")
    assert await saving == 2


async def test_a_transaction_that_the_app_rolls_back_takes_no_save_with_it(source, tables, db):
    await source.load("1")
    db.execute("BEGIN IMMEDIATE")
    tables.products.insert(id=3, name="pie", stock=1)
    saving = asyncio.create_task(save(source, "1", 1, stock=9))
    for _ in range(100):
        await asyncio.sleep(0)
    db.execute("ROLLBACK")
    await saving
    assert {row["id"]: row["stock"] for row in tables.products()} == {1: 9, 2: 3}


async def test_a_source_may_be_first_used_while_the_app_has_a_transaction_open(tmp_path, monkeypatch):
    db = fastlite.database(tmp_path / "app.db")
    products, _ = shop(db)
    source, attempts = TableRecords(products), []

    def opening(connection: apsw.Connection) -> None:
        attempts.append(connection)
        if len(attempts) == 2:  # the first one has failed: fastlite has each new connection write to the file
            db.execute("COMMIT")

    monkeypatch.setattr(apsw, "connection_hooks", [opening, *apsw.connection_hooks])
    db.execute("BEGIN IMMEDIATE")
    assert await save(source, "1", 1, stock=9) == 2
    assert len(attempts) >= 2 and products[1]["stock"] == 9


async def test_a_transaction_that_the_app_never_ends_fails_the_save_in_the_end(source, tables, db, monkeypatch):
    monkeypatch.setattr("faststate.records.fastlite.BUSY_WAIT", 0.05)
    await source.load("1")
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.BusyError):
        await save(source, "1", 1, stock=9)
    db.execute("COMMIT")
    assert tables.products[1]["stock"] == 10
    assert await save(source, "1", 1, stock=9) == 2


def insisting(write: Callable[[], Any]) -> None:
    """Try again while the connection is busy, as threads that share one have to."""
    while True:
        try:
            write()
        except (apsw.ThreadingViolationError, apsw.BusyError):
            continue
        return


@pytest.mark.parametrize("fails", [True, False])
async def test_what_a_thread_of_the_app_writes_in_the_middle_of_a_save_stays(tables, sources, fails):
    (products, orders), (first, second) = tables, sources
    middle, written = threading.Event(), threading.Event()

    class Meanwhile(datetime.date):
        def isoformat(self) -> str:  # asked for in the transaction, between two statements
            middle.set()
            written.wait(0.1)  # the write may be done by then, or have to wait for the transaction: both are well
            return super().isoformat()

    def write() -> None:
        middle.wait()
        insisting(lambda: products.insert(id=3, name="pie", stock=1))
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    changes = [
        change(second, "a", amount=1),
        change(second, "a", product=Meanwhile(2024, 2, 29)),
        change(first, "1", 7 if fails else 1, stock=0),
    ]
    with pytest.raises(VersionConflict) if fails else contextlib.nullcontext():
        await first.save(changes)
    await asyncio.to_thread(thread.join)
    assert products[3]["name"] == "pie"
    assert (orders["a"]["amount"], products[1]["stock"]) == ((0, 10) if fails else (1, 0))


async def test_nothing_that_threads_of_the_app_write_meanwhile_is_lost_or_rolled_back(tables, sources, db):
    """Three threads write through the app's `db` while saves succeed and fail, over two tables."""
    (products, orders), (first, second) = tables, sources
    written, failures = db.t.written.create(id=int, n=int, pk="id"), []

    def work(thread: int) -> None:
        try:
            for n in range(150):
                key = thread * 1000 + n
                insisting(functools.partial(db.execute, "INSERT OR IGNORE INTO written VALUES (?, -1)", (key,)))
                insisting(functools.partial(db.execute, "UPDATE written SET n = ? WHERE id = ?", (n, key)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    version = count = 0
    while any(thread.is_alive() for thread in threads) or count < 50:
        count += 1
        changes = [change(second, "a", amount=count), change(first, "1", count, stock=count)]
        _, version = await first.save(changes)
        with pytest.raises(VersionConflict):
            await first.save([change(second, "a", amount=-1), change(first, "1", version - 1, stock=-1)])
        assert (await second.load("a")).values["amount"] == count
    for thread in threads:
        thread.join()
    assert failures == []
    assert {row["id"]: row["n"] for row in written()} == {t * 1000 + n: n for t in range(3) for n in range(150)}
    assert version == count + 1
    assert (products[1]["version"], products[1]["stock"], orders["a"]["amount"]) == (version, count, count)


async def test_what_the_app_writes_is_read_at_once(source, tables):
    for stock in range(50):
        tables.products.update(id=1, stock=stock)
        assert (await source.load("1")).values["stock"] == stock


def test_a_source_serves_several_event_loops(source):
    for version in range(1, 6):
        assert asyncio.run(save(source, "1", version, stock=version)) == version + 1


async def test_threads_and_connections_end_with_the_last_source_of_their_database(db):
    products, orders = shop(db)
    before = set(threading.enumerate())
    first, second = TableRecords(products), TableRecords(orders)
    await first.load("1")
    await first.save([change(first, "1", 1, stock=9), change(second, "a", amount=1)])
    del first
    gc.collect()
    started = set(threading.enumerate()) - before
    assert started and all(thread.is_alive() for thread in started)
    assert (await second.load("a")).values["amount"] == 1
    del second
    gc.collect()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


# -- fastsql -----------------------------------------------------------------------------------------------------------


async def test_rows_of_fastsql_are_saved_all_or_none(tmp_path):
    db = fastsql.database(tmp_path / "shop.db")
    products = db.t.products.create(id=int, name=str, stock=int, version=int, pk="id")
    orders = db.t.orders.create(id=str, lines=str, amount=float, pk="id")
    products.insert(TEA)
    orders.insert({"id": "a", "lines": "[]", "amount": 0.0})
    first, second = TableRecords(products), TableRecords(orders)
    assert first.database is second.database is not None
    with pytest.raises(VersionConflict):
        await first.save([change(second, "a", amount=2.5), change(first, "1", 7, stock=0)])
    assert (await second.load("a")).values == {"id": "a", "lines": "[]", "amount": 0.0}
    saved = await first.save([change(second, "a", amount=2.5, lines=["tea"]), change(first, "1", None, stock=0)])
    assert list(saved) == [None, 2]
    assert (await second.load("a")).values == {"id": "a", "lines": '["tea"]', "amount": 2.5}
    with pytest.raises(ConfigurationError, match="primary key"):
        await save(first, "1", 2, id=4)
    products.xtra(name="cake")
    assert await first.load("1") is None
    with pytest.raises(StateNotFoundError):
        await save(first, "1", 2, stock=4)


async def test_a_text_key_of_fastsql_is_found_by_its_very_spelling(tmp_path):
    db = fastsql.database(tmp_path / "shop.db")
    db.q("CREATE TABLE teas (id TEXT PRIMARY KEY COLLATE NOCASE, stock INTEGER)")
    teas = db["teas"]
    teas.insert({"id": "green", "stock": 1})
    source = TableRecords(teas)
    assert await source.load("Green") is None and (await source.load("green")).values["stock"] == 1
    await source.delete("Green")
    assert await source.load("green") is not None
    await source.delete("green")
    assert await source.load("green") is None


def test_a_fastsql_database_in_memory_is_refused_because_threads_do_not_see_it():
    with pytest.raises(ConfigurationError, match="use a file"):
        TableRecords(fastsql.database(":memory:").t.products.create(id=int, pk="id"))


# -- other MiniDataAPI tables ------------------------------------------------------------------------------------------


class NotFoundError(Exception):
    """The error of a MiniDataAPI table for a row that is not there."""


class PlainTable:
    """The least that a MiniDataAPI table can be."""

    pks = ("id",)

    def __init__(self, *rows):
        self.rows = {row["id"]: dict(row) for row in rows}

    def __getitem__(self, key):
        if key not in self.rows:
            raise NotFoundError
        return dict(self.rows[key])

    def update(self, record):
        self.rows[record["id"]] |= record

    def delete(self, key):
        self[key]
        del self.rows[key]


async def test_any_minidataapi_table_is_loaded_saved_and_deleted():
    table = PlainTable(TEA, CAKE)
    source = TableRecords(table)
    assert source.database is None
    assert await source.load("1") == Row(TEA) and await source.load("01") is None and await source.load("x") is None
    assert await save(source, "1", stock=5, name="white tea") is None
    assert table[1] == {**TEA, "stock": 5, "name": "white tea"}
    with pytest.raises(ConfigurationError, match="several"):
        await source.save([change(source, "1", stock=0), change(source, "2", stock=0)])
    with pytest.raises(ConfigurationError, match="primary key"):
        await save(source, "1", id=7)
    with pytest.raises(ConfigurationError, match="no column 'colour'"):
        await save(source, "1", colour="red")
    assert table[1]["stock"] == 5
    await source.delete("1")
    await source.delete("1")
    with pytest.raises(StateNotFoundError):
        await save(source, "1", stock=5)
    assert list(table.rows) == [2]


def test_a_minidataapi_table_cannot_promise_versions():
    with pytest.raises(ConfigurationError, match="version"):
        TableRecords(PlainTable(), version="version")


# -- functions ---------------------------------------------------------------------------------------------------------


async def test_sync_functions_run_in_a_worker_thread():
    threads = []

    def load(record_id):
        threads.append(threading.current_thread())
        return {"id": record_id}

    def save(record_id, changed):
        threads.append(threading.current_thread())

    source = record_source((load, save))
    assert isinstance(source, CallableRecords) and source.database is None
    assert await source.load("a") == Row({"id": "a"})
    assert list(await source.save([RowChange(source, "a", {"x": 1}, None)])) == [None]
    assert threading.main_thread() not in threads and len(threads) == 2


async def test_async_methods_partials_callable_objects_and_lambdas_are_functions():
    calls = []

    class Shop:
        async def load(self, prefix, record_id):
            return {"id": prefix + record_id}

        async def __call__(self, record_id, changed, version=None):
            calls.append((record_id, changed, version, threading.current_thread() is threading.main_thread()))

        async def delete(self, record_id):
            calls.append(record_id)

    shop = Shop()
    source = CallableRecords(functools.partial(shop.load, "x"), shop, lambda record_id: shop.delete(record_id))
    assert await source.load("a") == Row({"id": "xa"})
    await source.save([RowChange(source, "a", {"n": [1]}, None)])
    await source.save([RowChange(source, "a", {"n": [1]}, 4)])
    await source.delete("a")
    assert calls == [("a", {"n": [1]}, None, True), ("a", {"n": [1]}, 4, True), "a"]


@pytest.mark.parametrize(("returned", "version"), [(None, 5), (5, 5), (1_700_000_000, 1_700_000_000)])
async def test_the_new_version_is_what_save_returns_or_one_more(returned, version):
    source = CallableRecords(lambda record_id: Row({}, 4), lambda record_id, changed, version: returned)
    assert list(await source.save([RowChange(source, "a", {"n": 1}, 4)])) == [version]


@pytest.mark.parametrize("returned", [False, True, "saved", {"n": 1}])
async def test_a_save_that_reports_by_a_value_is_told_to_raise(returned):
    source = CallableRecords(lambda record_id: {}, lambda record_id, changed: returned)
    with pytest.raises(ConfigurationError, match="StateNotFoundError or VersionConflict"):
        await source.save([RowChange(source, "a", {"n": 1}, None)])


@pytest.mark.parametrize("returned", [7, "row", [("n", 1)], Row([("n", 1)]), Row({}, "1"), Row({}, True)])
async def test_a_load_that_returns_no_row_is_told_so(returned):
    source = CallableRecords(lambda record_id: returned, lambda record_id, changed, version=None: None)
    with pytest.raises(ConfigurationError, match=r"a dict, a Row or None|a row's version"):
        await source.load("a")


async def test_versions_are_loaded_and_saved_or_neither():
    counted, uncounted = (lambda record_id: Row({}, 1)), (lambda record_id: {})
    with pytest.raises(ConfigurationError, match="save must take one"):
        await CallableRecords(counted, lambda record_id, changed: None).load("a")
    with pytest.raises(ConfigurationError, match="load must return Row"):
        await CallableRecords(uncounted, lambda record_id, changed, version: None).load("a")


async def test_several_rows_by_functions_are_refused_before_the_first_is_saved():
    saved = []
    source = CallableRecords(lambda record_id: {}, lambda record_id, changed: saved.append(record_id))
    with pytest.raises(ConfigurationError, match="all or none"):
        await source.save([change(source, "a", n=1), change(source, "b", n=1)])
    assert saved == []


async def test_records_without_a_delete_function_cannot_be_deleted():
    with pytest.raises(ConfigurationError, match="third function"):
        await CallableRecords(lambda record_id: {}, lambda record_id, changed: None).delete("a")


async def test_a_delete_that_finds_nothing_is_no_error():
    def delete(record_id):
        raise StateNotFoundError("gone")

    await CallableRecords(lambda record_id: {}, lambda record_id, changed: None, delete).delete("a")


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((lambda: None, lambda r, c: None), r"load must be callable as load\(record_id\), not load\(\)"),
        ((lambda r, x: None, lambda r, c: None), "load must be callable"),
        ((lambda r: None, lambda r: None), r"save\(record_id, changed\) or save\(record_id, changed, version\), not"),
        ((lambda r: None, lambda r, c, v, x: None), "save must be callable"),
        ((lambda r: None, lambda r, c, *, version: None), "save must be callable"),
        ((lambda r: None, lambda r, c: None, lambda: None), r"delete must be callable as delete\(record_id\)"),
        (("load", lambda r, c: None), "load must be a function"),
        ((lambda r: None, None), "save must be a function"),
        ((lambda r: (yield r), lambda r, c: None), "load must return"),
    ],
)
def test_functions_that_cannot_be_called_so_are_refused_when_the_source_is_made(functions, message):
    with pytest.raises(ConfigurationError, match=message):
        record_source(functions)


# -- what makes a source -----------------------------------------------------------------------------------------------


def test_a_table_makes_a_source(db):
    products, _ = shop(db)
    assert isinstance(record_source(products), TableRecords)
    assert record_source(db["products"]).database is record_source(db.t.orders).database


@pytest.mark.parametrize(
    "made",
    [
        lambda db: db,
        lambda db: db.t,
        lambda db: db.v.cheap,
        lambda db: "products",
        lambda db: None,
        lambda db: {"load": 1},
        lambda db: TableRecords,
        lambda db: lambda record_id: None,
        lambda db: (),
        lambda db: (lambda record_id: None,),
        lambda db: (lambda record_id: None,) * 4,
        lambda db: [lambda record_id: None, lambda record_id, changed: None],
    ],
)
def test_what_makes_no_source_is_refused_with_what_would(db, made):
    shop(db)
    db.create_view("cheap", "SELECT * FROM products")
    with pytest.raises(ConfigurationError, match=r"records is a table .*, a tuple of functions"):
        record_source(made(db))


def test_a_table_that_does_not_exist_is_refused_and_named(db):
    with pytest.raises(ConfigurationError, match="no table 'productz': create it before"):
        TableRecords(db.t.productz)


async def test_a_table_that_only_the_connection_of_the_app_knows_is_reported(tmp_path):
    db = fastlite.database(tmp_path / "app.db")
    db.execute("CREATE TEMP TABLE hidden (id INTEGER PRIMARY KEY)")
    source = TableRecords(db.t.hidden)
    with pytest.raises(ConfigurationError, match="no table 'hidden'"):
        await source.load("1")


@pytest.mark.parametrize(
    ("create", "message"),
    [
        ("CREATE TABLE t (a INTEGER, b INTEGER, PRIMARY KEY (a, b))", "one column, and that of 't' is a, b"),
        ("CREATE TABLE t (a INTEGER)", "one column, and 't' has none"),
    ],
)
def test_a_table_whose_key_is_not_one_column_is_refused(db, create, message):
    db.execute(create)
    with pytest.raises(ConfigurationError, match=message):
        TableRecords(db.t.t)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("count", "version='count' is not an integer column of 'products', which has id, name, stock, version"),
        ("name", "version='name' is not an integer column"),
        ("id", "'id' is the primary key"),
        (None, "version is the name of a column, True"),
        ("", "version is the name of a column, True"),
        (3, "version is the name of a column, True"),
    ],
)
def test_a_version_column_that_cannot_count_is_refused(db, version, message):
    products, _ = shop(db)
    with pytest.raises(ConfigurationError, match=message):
        TableRecords(products, version=version)


def test_what_is_no_table_is_refused(db):
    with pytest.raises(ConfigurationError, match=r"db\.t\.products.*not for a Database"):
        TableRecords(db)


def test_json_in_rows_is_what_json_says():
    assert columns_to_fields({"tags": json.dumps(["a"])}, Everything) == {"tags": ["a"]}
