"""Rows of a table: fastlite's, fastsql's, or of whatever else speaks the MiniDataAPI. No other module knows these."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..exceptions import ConfigurationError, PersistenceError, StateNotFoundError, VersionConflict
from .columns import UnfitError, is_about_values, to_column, to_json_column
from .sources import Row, RowChange

__all__ = ["TableRecords", "is_table"]

T = TypeVar("T")

BUSY_WAIT: Final = 5.0
"""Seconds that a save waits for the database while somebody else's transaction has it."""


class TableRecords:
    """The rows of one table, by its primary key, which is one column. Lifetime: the provider.

    `table` is `db.t.products` of fastlite (or fastsql) and exists already. Reads and writes happen in threads, through
    connections of their own, so that what the app writes at the same time is in no transaction of theirs; an SQL
    function that the app has registered on its own connection is unknown to them. All tables of one `db` are saved in
    one transaction. In memory (`:memory:`) there is but the app's connection, which is shared with care.

    `version` names an integer column that counts a row's changes: each save adds one, and only changes the row that
    still has the number that was loaded. True (the default) takes the column `version` where there is such a one,
    False none. Code that changes rows past the states must add one, too, or its changes are not noticed.

    What `table.xtra(...)` leaves out is not there. The filter that is set when a row is loaded or saved counts: one
    that each request sets anew is not a rule on who may have a state, which `StateConfig(authorize=...)` is.

    Another MiniDataAPI table (`table[pk]`, `update`, `delete` and `pks`) does as far as that goes: its rows have no
    versions, and one commit changes one of them.

    `name` is the table's; `columns` are its columns with their types as the database declares them, and `gives` the
    Python type of those whose values are all of one type, as far as these are known; `version_column` is the one that
    counts, or None.

    Raises `ConfigurationError` for a table that does not exist, whose primary key is not one column, or that lacks the
    column that `version` names.
    """

    def __init__(self, table: Any, *, version: str | bool = True) -> None:
        if not is_table(table):
            raise ConfigurationError(
                f"TableRecords is for a table as fastlite has it (db.t.products), not for {_named(table)}"
            )
        if not isinstance(version, str | bool) or version == "":
            raise ConfigurationError(
                f"version is the name of a column, True for 'version' where there is one, or False, not {version!r}"
            )
        self._rows = _rows_of(table, version)
        self.database: Any = self._rows.database if self._rows.database.has_transactions else None
        self.name: str = self._rows.name
        self.columns, self.gives, self.version_column = self._rows.columns, self._rows.gives, self._rows.counted

    async def load(self, record_id: str) -> Row | None:
        """The row, or None when there is none whose key reads `record_id`: "05" is not row 5."""
        row = await self._rows.database.read(self._rows.loading(record_id))
        # SQL finds row 5 by "05" and "5.0" too, and each spelling would be a state of its own.
        return row if row is not None and str(row.values[self._rows.key]) == record_id else None

    async def save(self, changes: Sequence[RowChange]) -> Sequence[int | None]:
        """Changes those columns in one statement a row, and all rows in one transaction; returns their new versions.

        Raises `ConfigurationError`, with nothing written, for a column that the table has not, for the primary key,
        the version, and what `xtra` holds fixed; `RowValueError`, with nothing written, for a value that its column
        cannot keep.
        """
        steps = []
        for change in changes:
            source = change.source
            if not isinstance(source, TableRecords) or source._rows.database is not self._rows.database:
                raise ConfigurationError(f"{_named(source)} is of another database: its rows are saved on their own")
            steps.append(source._rows.saving(change))
        return await self._rows.database.write(steps)

    async def delete(self, record_id: str) -> None:
        """Deletes the row whose key reads `record_id`, if there is one."""
        await self._rows.database.write([self._rows.deleting(record_id)])


def is_table(found: object) -> bool:
    """True for what can be given to `TableRecords`. Asks the class: `db.t` itself has every attribute there is."""
    return all(callable(getattr(type(found), name, None)) for name in ("__getitem__", "update", "delete"))


# -- what the kinds of tables have in common ---------------------------------------------------------------------------


class _Column(NamedTuple):
    """A column: its type as the database declares it, whether that is one of integers, and whether it takes NULL."""

    declared: str
    is_integer: bool = False
    takes_null: bool = True


class _Shape(NamedTuple):
    """A table's columns, as far as they matter here: all by name, the primary key, the one with the version or None."""

    table: str
    columns: Mapping[str, _Column]
    key: str
    version: str | None

    @property
    def declared(self) -> dict[str, str]:
        return {name: column.declared for name, column in self.columns.items()}

    def refuse(self, change: RowChange, fixed: Mapping[str, Any]) -> None:
        """Raises `ConfigurationError` for columns that a state cannot change, `RowValueError` for an unwanted NULL."""
        for name, value in change.changed.items():
            if name not in self.columns:
                raise ConfigurationError(
                    f"the table {self.table!r} has no column {name!r}; its columns are {', '.join(self.columns)}"
                )
            if name == self.key:
                raise ConfigurationError(f"{name!r} is the primary key of {self.table!r}: a state cannot change it")
            if name == self.version:
                raise ConfigurationError(
                    f"{name!r} counts the changes of {self.table!r}: a state cannot change it "
                    "(TableRecords(table, version=False) if it is no such count)"
                )
            if name in fixed:
                raise ConfigurationError(f"xtra() of {self.table!r} says what {name!r} is: a state cannot change it")
            if value is None and not self.columns[name].takes_null:
                raise change.refusal("None", name)


def _shape(table: str, columns: Mapping[str, _Column], keys: Sequence[str], version: str | bool) -> _Shape:
    """The shape of a table with these columns. Raises `ConfigurationError` where it is unusable."""
    if not columns:
        raise ConfigurationError(f"there is no table {table!r}: create it before TableRecords is made of it")
    if len(keys) != 1:
        found = f"that of {table!r} is {', '.join(keys)}" if keys else f"{table!r} has none"
        raise ConfigurationError(f"a record's id is a primary key of one column, and {found}")
    key, counted = keys[0], version if isinstance(version, str) else None
    integers = {name for name, column in columns.items() if column.is_integer}
    if counted is not None and counted not in integers:
        raise ConfigurationError(
            f"version={counted!r} is no integer column of {table!r}, which has {', '.join(columns)}"
        )
    if counted == key:
        raise ConfigurationError(f"{key!r} is the primary key of {table!r}: it cannot count changes as well")
    if version is True and "version" in integers and key != "version":
        counted = "version"
    return _Shape(table, columns, key, counted)


class _Database(ABC):
    """Where tables have their rows. Lifetime: the sources that share it; its threads and connections go with it."""

    has_transactions = True

    @abstractmethod
    async def read(self, work: Callable[[Any], T]) -> T:
        """What `work` returns, which gets a connection, in a thread."""

    @abstractmethod
    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        """What the steps return, which get a connection, in a thread. All that they did is undone when one raises."""


class _Rows(ABC):
    """The rows of one table. Each method returns what is to be done in the thread; `xtra` is read before that."""

    database: _Database
    name: str
    key: str
    columns: Mapping[str, str] | None
    """Their declared types, as they are when the table is given; None where they cannot be known."""
    gives: Mapping[str, type]
    """The Python type of what each column gives that is not None, where it is always the same."""
    counted: str | None
    """The column with the version, or None."""

    @abstractmethod
    def loading(self, record_id: str) -> Callable[[Any], Row | None]: ...

    @abstractmethod
    def saving(self, change: RowChange) -> Callable[[Any], int | None]: ...

    @abstractmethod
    def deleting(self, record_id: str) -> Callable[[Any], None]: ...


def _rows_of(table: Any, version: str | bool) -> _Rows:
    database = getattr(table, "db", None)
    if type(getattr(database, "conn", None)).__module__.partition(".")[0] == "apsw":
        return _SQLiteRows(table, version)
    if hasattr(database, "engine") and hasattr(getattr(table, "table", None), "primary_key"):
        return _EngineRows(table, version)
    return _PlainRows(table, version)


def _shared(database: Any, make: Callable[[], Any]) -> Any:
    with _shared_lock:
        known = _shared_databases.get(database)
        found = known() if known is not None else None
        if found is None:
            found = make()
            _shared_databases[database] = weakref.ref(found)
        return found


# By the app's own database object. The sources keep ours alive: fastlite keeps each of its own until the process ends.
_shared_databases: WeakKeyDictionary[Any, weakref.ref[Any]] = WeakKeyDictionary()
_shared_lock = threading.Lock()


def _written(change: RowChange, write: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Writes the changed values, by column, with `write`. Raises `RowValueError` where that raises `UnfitError`."""
    made = {}
    for name, value in change.changed.items():
        try:
            made[name] = write(name, value)
        except UnfitError as error:
            raise change.refusal(str(error), name) from None
    return made


@contextlib.contextmanager
def _refusing(change: RowChange) -> Iterator[None]:
    """Around a statement: turns what the database or its driver says of a value into a `RowValueError` without it."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "orig", None) or error
        if not (is_about_values(error) or isinstance(reason, TypeError | ValueError | ArithmeticError)):
            raise
        raise change.refusal(f"a new value ({type(reason).__name__})", *change.changed) from None


def _fixed(table: Any) -> dict[str, Any]:
    return dict(getattr(table, "xtra_id", None) or {})


def _gone(record_id: str) -> StateNotFoundError:
    return StateNotFoundError(f"there is no record {record_id!r} any more")


def _conflict(shape: _Shape, change: RowChange, found: object) -> PersistenceError:
    row = f"row {change.record_id!r} of {shape.table!r}"
    if change.version is None or found == change.version:
        return PersistenceError(f"{row} was not changed: a trigger of the table keeps it as it is")
    return VersionConflict(f"{row} has version {found}, and the change was made from {change.version}")


def _named(found: object) -> str:
    return found.__name__ if isinstance(found, type) else f"a {type(found).__name__}"


def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="faststate-records")


async def _in(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


# -- fastlite ----------------------------------------------------------------------------------------------------------


class _SQLite(_Database):
    """A SQLite database, by the connection (`apsw.Connection`) that the app itself uses.

    Threads may share a connection, but not a transaction of their own: whatever any of them writes between BEGIN and
    ROLLBACK is undone. The app writes through its connection from many threads, so we use others: one to write and one
    to read, each with its thread. (They have the database from its file name: one that is attached to the app's
    connection, or a temporary table, is not there for us.) SQLite lets one connection write at a time, so a write of
    the app may wait for a save of ours, as long as its busy timeout says: 100 ms with fastlite, and a save takes one.

    A database in memory has that one connection. There our transactions run while we have it to ourselves: apsw holds
    the connection's mutex while it calls a tracer, and a transaction in there neither lets another thread's statement
    in nor waits for one. It does not begin while a transaction of the app is open, which is seen under the mutex, too.
    Statements of other threads wait meanwhile, as they do for each other: apsw gives up after a third of a second
    with a ThreadingViolationError. That is the price of sharing, and one more reason to use a file where it matters.
    """

    def __init__(self, connection: Any) -> None:
        import apsw

        self._apsw = apsw
        self._own = bool(connection.filename)
        if self._own:
            name, vfs = connection.filename, connection.open_vfs
            # Neither a URI (the name is what the app's URI meant) nor a new file where the app's has gone.
            flags = connection.open_flags & ~(apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI)
            self._reader = _Lane(lambda: _opened(name, flags, vfs))
            self._writer = _Lane(lambda: _opened(name, flags, vfs))
        else:
            self._reader = self._writer = _Lane(lambda: connection)

    async def read(self, work: Callable[[Any], T]) -> T:
        return await self._reader.run(work if self._own else lambda connection: self._alone(connection, work))

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        def transaction(connection: Any) -> list[T]:
            if connection.in_transaction:
                raise self._apsw.BusyError("a transaction of the app is open on the database in memory")
            connection.execute("BEGIN IMMEDIATE")
            try:
                results = [step(connection) for step in steps]
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some failures have ended it already
                    connection.execute("ROLLBACK")
                raise
            return results

        return await self._writer.run(
            transaction if self._own else lambda connection: self._alone(connection, transaction)
        )

    def _alone(self, connection: Any, work: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + BUSY_WAIT
        while True:
            results: list[T] = []
            errors: list[BaseException] = []

            def tracer(*_: object, results: list[T] = results, errors: list[BaseException] = errors) -> bool:
                try:
                    results.append(work(connection))
                except BaseException as error:
                    errors.append(error)
                return True

            try:
                cursor = connection.cursor()
                cursor.exec_trace = tracer
                cursor.execute("SELECT 1 WHERE 0")
            except Exception as error:
                if not results and not errors:  # else the work has been done, and what it came to counts
                    errors.append(error)
            if results:
                return results[0]
            again = isinstance(errors[0], self._apsw.BusyError | self._apsw.ThreadingViolationError)
            if not again or time.monotonic() > deadline:
                raise errors[0]
            time.sleep(0.001)


def _opened(name: str, flags: int, vfs: str) -> Any:
    import apsw

    deadline = time.monotonic() + BUSY_WAIT
    while True:
        try:
            connection = apsw.Connection(name, flags=flags, vfs=vfs)
        except apsw.BusyError:  # fastlite has each new connection look after the file, which may be locked just now
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            connection.set_busy_timeout(int(BUSY_WAIT * 1000))
            return connection


class _Lane:
    """One connection, opened when it is first needed, and the one thread that uses it."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._pool = _pool(1)

    async def run(self, work: Callable[[Any], T]) -> T:
        def run() -> T:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)

        return await _in(self._pool, run)


class _SQLiteRows(_Rows):
    """A table of fastlite. Statements are written here: `table.update` is several, and knows nothing of versions."""

    def __init__(self, table: Any, version: str | bool) -> None:
        self._table = table
        self._version = version
        shape = self._look(table.db.conn)
        self.name, self.key, self.columns, self.counted = shape.table, shape.key, shape.declared, shape.version
        self.gives = self._strict_types(table.db.conn, shape)
        self._shape: _Shape | None = None  # until it was seen by our own connection, which has to find it as well
        self.database = _shared(table.db, lambda: _SQLite(table.db.conn))

    def _look(self, connection: Any) -> _Shape:
        columns = connection.execute(
            'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?)', (self._table.name,)
        ).fetchall()
        return _shape(
            self._table.name,
            {name: _Column(kind, "INT" in kind.upper(), not required) for name, kind, required, _ in columns},
            [name for name, *_, place in columns if place],
            self._version,
        )

    def _strict_types(self, connection: Any, shape: _Shape) -> dict[str, type]:
        try:
            found = connection.execute("SELECT strict FROM pragma_table_list(?)", (shape.table,)).fetchall()
        except Exception:  # SQLite before 3.37 has neither strict tables nor this list
            return {}
        strict = {"INT": int, "INTEGER": int, "REAL": float}
        kinds = {name: strict.get(column.declared.upper()) for name, column in shape.columns.items()}
        return {name: kind for name, kind in kinds.items() if kind is not None and any(row[0] for row in found)}

    def _known(self, connection: Any, columns: Mapping[str, Any] | None = None) -> _Shape:
        # Columns may be added while the app runs, so an unknown one is looked up before it is refused.
        if self._shape is None or any(name not in self._shape.columns for name in columns or ()):
            self._shape = self._look(connection)
        return self._shape

    def _where(self, shape: _Shape, record_id: str, fixed: Mapping[str, Any]) -> tuple[str, list[Any]]:
        key = _quoted(shape.key)
        # The first comparison finds the row, by the index; the second one insists on the spelling of its key.
        terms = [f"{key} = ?", f"CAST({key} AS TEXT) = ? COLLATE BINARY", *(f"{_quoted(name)} = ?" for name in fixed)]
        return " AND ".join(terms), [record_id, record_id, *map(to_column, fixed.values())]

    def loading(self, record_id: str) -> Callable[[Any], Row | None]:
        fixed = _fixed(self._table)

        def load(connection: Any) -> Row | None:
            shape = self._known(connection)
            where, arguments = self._where(shape, record_id, fixed)
            # Names are the schema's own and quoted, values are bound, here and below.
            cursor = connection.execute(f"SELECT * FROM {_quoted(shape.table)} WHERE {where}", arguments)  # noqa: S608
            rows = [
                {part[0]: value for part, value in zip(cursor.get_description(), row, strict=True)} for row in cursor
            ]
            if not rows:
                return None
            return Row(rows[0], None if shape.version is None else int(rows[0][shape.version] or 0))

        return load

    def saving(self, change: RowChange) -> Callable[[Any], int | None]:
        fixed = _fixed(self._table)

        def save(connection: Any) -> int | None:
            shape = self._known(connection, change.changed)
            shape.refuse(change, fixed)
            written = _written(
                change, lambda name, value: to_column(value, as_text=_keeps_texts(shape.columns[name].declared))
            )
            count = "NULL" if shape.version is None else f"COALESCE({_quoted(shape.version)}, 0)"
            sets = [f"{_quoted(name)} = ?" for name in written]
            arguments = list(written.values())
            where, named = self._where(shape, change.record_id, fixed)
            if shape.version is not None:
                sets.append(f"{_quoted(shape.version)} = {count} + 1")
            matching, found = where, [*arguments, *named]
            if shape.version is not None and change.version is not None:
                matching, found = f"{where} AND {count} = ?", [*found, change.version]
            table, guard = _quoted(shape.table), change.guard
            with _refusing(change):
                rows = connection.execute(
                    f"UPDATE {table} SET {', '.join(sets)} WHERE {matching} RETURNING {count}",  # noqa: S608
                    found,
                ).fetchall()
            if not rows:
                rows = connection.execute(f"SELECT {count} FROM {table} WHERE {where}", named).fetchall()  # noqa: S608
                raise _conflict(shape, change, rows[0][0]) if rows else _gone(change.record_id)
            version: int | None = rows[0][0]
            if guard is not None:
                # Not by RETURNING, which knows of no triggers, and in older SQLite gives 1 for the 1.0 that it has.
                asked = list(shape.columns if guard.whole else written)
                names = ", ".join(map(_quoted, asked))
                rows = connection.execute(f"SELECT {names} FROM {table} WHERE {where}", named).fetchall()  # noqa: S608
                if not rows:
                    raise _gone(change.record_id)
                guard.check(dict(zip(asked, rows[0], strict=True)))
            return version

        return save

    def deleting(self, record_id: str) -> Callable[[Any], None]:
        fixed = _fixed(self._table)

        def delete(connection: Any) -> None:
            shape = self._known(connection)
            where, arguments = self._where(shape, record_id, fixed)
            connection.execute(f"DELETE FROM {_quoted(shape.table)} WHERE {where}", arguments)  # noqa: S608

        return delete


def _keeps_texts(declared: str) -> bool:
    """Tells whether SQLite makes a text of each number in a column of this type: its "affinity" is TEXT."""
    kind = declared.upper()
    return "INT" not in kind and any(part in kind for part in ("CHAR", "CLOB", "TEXT"))


def _quoted(name: str) -> str:
    # In double quotes a column that does not exist would be a text to SQLite, not an error.
    return f"[{name}]" if "]" not in name else '"' + name.replace('"', '""') + '"'


# -- fastsql -----------------------------------------------------------------------------------------------------------


class _Engine(_Database):
    """A database behind an engine of SQLAlchemy, of whose pool each use has its own connection."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._pool = _pool(4)

    async def read(self, work: Callable[[Any], T]) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return await _in(self._pool, run)

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        def run() -> list[T]:
            with self._engine.begin() as connection:
                return [step(connection) for step in steps]

        return await _in(self._pool, run)


class _EngineRows(_Rows):
    """A table of fastsql. Statements are made by its SQLAlchemy table, which also knows what to do with the values."""

    def __init__(self, table: Any, version: str | bool) -> None:
        engine = table.db.engine
        if engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
            raise ConfigurationError("each thread has its own SQLite database in memory with fastsql: use a file")
        self._xtra = table
        self._table = table.table
        found = self._table.c if table.exists() else ()
        kinds = {column.name: _python_type(column) for column in found}
        columns = {
            column.name: _Column(
                _declared(column, engine.dialect), kinds[column.name] is int, column.nullable is not False
            )
            for column in found
        }
        self._shape = _shape(self._table.name, columns, [column.name for column in self._table.primary_key], version)
        self.name, self.key, self.counted = self._shape.table, self._shape.key, self._shape.version
        self.columns, self.gives = self._shape.declared, {n: kind for n, kind in kinds.items() if kind in _OF_ONE_TYPE}
        self._moments = {column.name for column in found if getattr(column.type, "timezone", False)}
        self._dialect = engine.dialect
        self.database = _shared(table.db, lambda: _Engine(engine))

    def _where(self, record_id: str) -> list[Any] | None:
        """Conditions that name the row, or None for an id that no key of this type is spelt as."""
        column = self._table.c[self.key]
        key: Any = record_id
        kind = _python_type(column)
        if kind in (int, uuid.UUID):
            try:
                key = kind(record_id)
            except ValueError:
                return None
            if str(key) != record_id or (kind is int and not -(2**63) <= key < 2**63):
                return None
        return [column == key, *(self._table.c[name] == value for name, value in _fixed(self._xtra).items())]

    def loading(self, record_id: str) -> Callable[[Any], Row | None]:
        where = self._where(record_id)

        def load(connection: Any) -> Row | None:
            if where is None:
                return None
            row = connection.execute(self._table.select().where(*where)).mappings().first()
            if row is None:
                return None
            return Row(self._in_utc(row), None if self._shape.version is None else int(row[self._shape.version] or 0))

        return load

    def _in_utc(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row, with the time zones of its moments: the database keeps none, and drivers give them the session's."""
        made = dict(row)
        for name in self._moments & made.keys():
            if isinstance(value := made[name], datetime.datetime) and value.tzinfo is not None:
                made[name] = value.astimezone(datetime.UTC)
        return made

    def saving(self, change: RowChange) -> Callable[[Any], int | None]:
        where, shape, columns, guard = self._where(change.record_id), self._shape, self._table.c, change.guard
        shape.refuse(change, _fixed(self._xtra))
        values = _written(change, lambda name, value: _to_engine(columns[name], value, self._dialect.name))
        asked = [] if guard is None else [column for column in columns if guard.whole or column.name in values]

        def save(connection: Any) -> int | None:
            if where is None:
                raise _gone(change.record_id)
            matching, counted = list(where), change.version
            if shape.version is not None:
                count = columns[shape.version]
                look = self._table.select().with_only_columns(count).where(*where)
                if counted is None:  # whatever it is by now, but the row stays locked from here on
                    counted = connection.execute(look.with_for_update()).scalar()
                matching.append(count == counted if counted else (count == 0) | count.is_(None))
                values[shape.version] = (counted or 0) + 1
            update = self._table.update().where(*matching).values(values)
            with _refusing(change):
                # Not in SQLite, which in older versions returns 1 for the 1.0 that it has.
                if asked and self._dialect.update_returning and self._dialect.name != "sqlite":
                    saved = connection.execute(update.returning(*asked)).mappings().first()
                else:
                    made = connection.execute(update).rowcount == 1
                    look = self._table.select().with_only_columns(*asked).where(*where) if asked else None
                    saved = made and (look is None or connection.execute(look).mappings().first())
            if not saved:
                row = connection.execute(self._table.select().where(*where)).mappings().first()
                if row is None:
                    raise _gone(change.record_id)
                raise _conflict(shape, change, None if shape.version is None else row[shape.version] or 0)
            if guard is not None:
                guard.check(self._in_utc(saved))
            return None if shape.version is None else int(values[shape.version])

        return save

    def deleting(self, record_id: str) -> Callable[[Any], None]:
        where = self._where(record_id)

        def delete(connection: Any) -> None:
            if where is None:
                return
            key = connection.execute(
                self._table.select().with_only_columns(self._table.c[self.key]).where(*where)
            ).scalar()
            if key is not None and str(key) == record_id:  # some databases find texts by another spelling
                connection.execute(self._table.delete().where(*where))

        return delete


def _python_type(column: Any) -> Any:
    try:
        return column.type.python_type
    except NotImplementedError:
        return None


_OF_ONE_TYPE: Final = frozenset(
    {
        bool, int, float, decimal.Decimal, datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
        uuid.UUID,
    }
)  # fmt: skip
"""Types of columns that give no value of another type. A column of texts can hold everything that has a text."""


def _declared(column: Any, dialect: Any) -> str:
    try:
        return str(column.type.compile(dialect=dialect))
    except Exception:  # SQLAlchemy knows the column, and not its type
        return "a type of its own"


def _to_engine(column: Any, value: Any, dialect: str) -> Any:
    """A value as its column's type takes it: fastsql keeps all but numbers and bytes as text. Raises `UnfitError`."""
    kind = _python_type(column)
    if type(column.type).__visit_name__ in ("JSON", "JSONB"):
        return to_json_column(value)
    if kind not in (str, int, float, bool, bytes):
        return value
    made = to_column(value, as_text=kind is str)
    if kind is int and isinstance(made, bool):
        return int(made)
    if dialect == "postgresql":
        _refuse_for_postgres(column.type, made)
    return made


def _refuse_for_postgres(kind: Any, value: Any) -> None:
    """Raises `UnfitError` for what PostgreSQL refuses without saying in which column."""
    if isinstance(value, str):
        if "\0" in value:
            raise UnfitError("a NUL character")
        length = getattr(kind, "length", None)
        if length is not None and len(value) > length:
            raise UnfitError(f"a text of more than {length} characters")
    elif isinstance(value, int):
        bits = _BITS.get(type(kind).__visit_name__, 64)
        if not -(1 << bits - 1) <= value < 1 << bits - 1:
            raise UnfitError(f"a whole number of more than {bits} bits")


_BITS: Final = {"integer": 32, "INTEGER": 32, "small_integer": 16, "SMALLINT": 16}
"""The bounds of PostgreSQL's columns of integers, by the name that SQLAlchemy has for their types."""


# -- other tables ------------------------------------------------------------------------------------------------------


class _Plain(_Database):
    """What is behind a table of which only the MiniDataAPI is known: one thread at a time, and no transaction."""

    has_transactions = False

    def __init__(self) -> None:
        self._pool = _pool(1)

    async def read(self, work: Callable[[Any], T]) -> T:
        return await _in(self._pool, lambda: work(None))

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        if len(steps) > 1:
            raise ConfigurationError("this table has no transactions: a commit can change one of its rows, not several")
        return await _in(self._pool, lambda: [step(None) for step in steps])


class _PlainRows(_Rows):
    """A table of which only the MiniDataAPI is known."""

    def __init__(self, table: Any, version: str | bool) -> None:
        self._table = table
        name = str(getattr(table, "name", type(table).__name__))
        keys = [str(getattr(key, "name", key)) for key in getattr(table, "pks", ())]
        if isinstance(version, str):
            raise ConfigurationError(f"{name!r} has update() alone, which cannot tell one version from another")
        self.name = name
        self.key = _shape(name, dict.fromkeys(keys or ["?"], _Column("")), keys, False).key
        self.columns = self.counted = None
        self.gives = {}
        self.database = _Plain()

    def _find(self, record_id: str) -> dict[str, Any] | None:
        # The table may take a text for an integer key, or only the integer.
        for key in (record_id, int(record_id)) if record_id.isdecimal() else (record_id,):
            try:
                row = self._table[key]
            except Exception as error:
                if isinstance(error, LookupError) or type(error).__name__ == "NotFoundError":
                    continue
                raise
            values = (
                dict(row)
                if isinstance(row, Mapping)
                else {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
                if dataclasses.is_dataclass(row)
                else dict(vars(row))
            )
            if str(values[self.key]) == record_id:
                return values
        return None

    def loading(self, record_id: str) -> Callable[[Any], Row | None]:
        def load(_: Any) -> Row | None:
            row = self._find(record_id)
            return None if row is None else Row(row)

        return load

    def saving(self, change: RowChange) -> Callable[[Any], int | None]:
        def save(_: Any) -> int | None:
            row = self._find(change.record_id)
            if row is None:
                raise _gone(change.record_id)
            columns = dict.fromkeys(row, _Column(""))
            _Shape(self.name, columns, self.key, None).refuse(change, _fixed(self._table))
            values = _written(change, lambda _, value: to_column(value))
            with _refusing(change):
                self._table.update({**values, self.key: row[self.key]})
            return None  # and what it has now is looked up behind the save: there is no transaction to undo it in

        return save

    def deleting(self, record_id: str) -> Callable[[Any], None]:
        def delete(_: Any) -> None:
            row = self._find(record_id)
            if row is not None:
                self._table.delete(row[self.key])

        return delete
