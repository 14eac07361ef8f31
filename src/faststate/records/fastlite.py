"""Tables of fastlite: SQLite through apsw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from .base import (
    Column,
    Database,
    TableColumns,
    TableRows,
    Threads,
    not_found,
    refused_values,
    shared_database,
    to_columns,
)  # fmt: skip
from .columns import to_column
from .sources import Row, RowChange

T = TypeVar("T")

BUSY_WAIT: Final = 5.0
"""Seconds that a save waits for the database while another transaction locks it."""


# -- the database ------------------------------------------------------------------------------------------------------


class SQLiteDatabase(Database):
    """A SQLite database, found by the connection (`apsw.Connection`) that the app uses. Lifetime: as `Database`.

    Threads may share a connection, but a transaction then covers the writes of all of them: a ROLLBACK undoes
    everything that any thread has written since BEGIN. The app writes through its connection from many threads, so this
    class opens two of its own, one to read and one to write, each with its own thread. They open the file by name, so
    a temporary table, or a database attached to the app's connection, is not visible to them. SQLite lets one
    connection write at a time, so a write of the app may have to wait for a save. fastlite's busy timeout is 100 ms,
    and a save takes about one.

    A database in memory has only the app's connection. There a transaction runs while it has the connection to itself:
    apsw holds the connection's mutex while it calls a tracer, so a transaction inside a tracer neither lets in nor
    waits for statements of other threads. It does not begin while a transaction of the app is open, which it can tell
    for sure because it holds the mutex. Statements of other threads wait meanwhile, as they do for each other; apsw
    raises a ThreadingViolationError after a third of a second. This is the price of sharing a connection, and another
    reason to use a file where it matters.
    """

    def __init__(self, connection: Any) -> None:
        import apsw

        self._apsw = apsw
        self._is_file = bool(connection.filename)
        if self._is_file:
            name, vfs = connection.filename, connection.open_vfs
            # The name is the result of the app's URI, so it is not a URI again; and do not create a file that is gone.
            flags = connection.open_flags & ~(apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI)
            self._reader = ConnectionThread(lambda: _open(name, flags, vfs))
            self._writer = ConnectionThread(lambda: _open(name, flags, vfs))
        else:
            self._reader = self._writer = ConnectionThread(lambda: connection)

    async def read(self, work: Callable[[Any], T]) -> T:
        return await self._reader.run(work if self._is_file else lambda connection: self._alone(connection, work))

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        def transaction(connection: Any) -> list[T]:
            if connection.in_transaction:
                raise self._apsw.BusyError("a transaction of the app is open on the database in memory")
            connection.execute("BEGIN IMMEDIATE")
            try:
                results = [step(connection) for step in steps]
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some errors have already ended it
                    connection.execute("ROLLBACK")
                raise
            return results

        return await self._writer.run(
            transaction if self._is_file else lambda connection: self._alone(connection, transaction)
        )

    def _alone(self, connection: Any, work: Callable[[Any], T]) -> T:
        """Call `work` while no other thread can use the connection, for up to `BUSY_WAIT` seconds."""
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
                if not results and not errors:  # otherwise the work was done, and its outcome counts
                    errors.append(error)
            if results:
                return results[0]
            again = isinstance(errors[0], self._apsw.BusyError | self._apsw.ThreadingViolationError)
            if not again or time.monotonic() > deadline:
                raise errors[0]
            time.sleep(0.001)


def _open(name: str, flags: int, vfs: str) -> Any:
    import apsw

    deadline = time.monotonic() + BUSY_WAIT
    while True:
        try:
            connection = apsw.Connection(name, flags=flags, vfs=vfs)
        except apsw.BusyError:  # fastlite makes each new connection read the file, which may be locked right now
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            connection.set_busy_timeout(int(BUSY_WAIT * 1000))
            return connection


class ConnectionThread:
    """One connection and the only thread that uses it. It is opened when first needed. Lifetime: its database."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._threads = Threads(1)

    async def run(self, work: Callable[[Any], T]) -> T:
        """Call `work` with the connection, in the thread, and return its result."""

        def run() -> T:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)

        return await self._threads.run(run)


# -- a table -----------------------------------------------------------------------------------------------------------


class FastliteRows(TableRows):
    """The rows of a fastlite table. Lifetime: as `TableRows`.

    The SQL is written here: `table.update` runs several statements, and does not know versions.
    """

    def __init__(self, table: Any, version: str | bool) -> None:
        self._table = table
        self._version = version
        self.described = self._describe(table.db.conn)
        self.gives = self._strict_types(table.db.conn)
        self._found: TableColumns | None = None  # as seen by our own connection, which must find the table as well
        self.database = shared_database(table.db, lambda: SQLiteDatabase(table.db.conn))

    def _describe(self, connection: Any) -> TableColumns:
        columns = connection.execute(
            'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?)', (self._table.name,)
        ).fetchall()
        return TableColumns.of(
            self._table.name,
            {name: Column(kind, "INT" in kind.upper(), not required) for name, kind, required, _ in columns},
            [name for name, *_, place in columns if place],
            self._version,
        )

    def _strict_types(self, connection: Any) -> dict[str, type]:
        try:
            found = connection.execute("SELECT strict FROM pragma_table_list(?)", (self.described.table,)).fetchall()
        except Exception:  # before version 3.37, SQLite has neither strict tables nor this list
            return {}
        strict = {"INT": int, "INTEGER": int, "REAL": float} if any(row[0] for row in found) else {}
        kinds = {name: column.declared.upper() for name, column in self.described.columns.items()}
        return {name: strict[kind] for name, kind in kinds.items() if kind in strict}

    def _described_now(self, connection: Any, columns: Mapping[str, Any] | None = None) -> TableColumns:
        # Columns may be added while the app runs, so look again before an unknown one is refused.
        if self._found is None or any(name not in self._found.columns for name in columns or ()):
            self._found = self._describe(connection)
        return self._found

    def _where(self, described: TableColumns, record_id: str, fixed: Mapping[str, Any]) -> tuple[str, list[Any]]:
        key = _quoted(described.key)
        # The first comparison finds the row by the index; the second insists on the spelling of its key.
        terms = [f"{key} = ?", f"CAST({key} AS TEXT) = ? COLLATE BINARY", *(f"{_quoted(name)} = ?" for name in fixed)]
        return " AND ".join(terms), [record_id, record_id, *map(to_column, fixed.values())]

    def load(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> Row | None:
        described = self._described_now(connection)
        where, arguments = self._where(described, record_id, fixed)
        # Here and below, names come from the schema and are quoted, and values are bound.
        cursor = connection.execute(f"SELECT * FROM {_quoted(described.table)} WHERE {where}", arguments)  # noqa: S608
        rows = [{part[0]: value for part, value in zip(cursor.get_description(), row, strict=True)} for row in cursor]
        if not rows:
            return None
        return Row(rows[0], None if described.version is None else int(rows[0][described.version] or 0))

    def save(self, connection: Any, change: RowChange, fixed: Mapping[str, Any]) -> int | None:
        described = self._described_now(connection, change.changed)
        described.check(change, fixed)
        values = to_columns(
            change, lambda name, value: to_column(value, as_text=_keeps_texts(described.columns[name].declared))
        )
        count = "NULL" if described.version is None else f"COALESCE({_quoted(described.version)}, 0)"
        sets = [f"{_quoted(name)} = ?" for name in values]
        where, row_arguments = self._where(described, change.record_id, fixed)
        matching, arguments = where, [*values.values(), *row_arguments]
        if described.version is not None:
            sets.append(f"{_quoted(described.version)} = {count} + 1")
            if change.version is not None:
                matching, arguments = f"{where} AND {count} = ?", [*arguments, change.version]
        table, guard = _quoted(described.table), change.guard
        with refused_values(change):
            rows = connection.execute(
                f"UPDATE {table} SET {', '.join(sets)} WHERE {matching} RETURNING {count}",  # noqa: S608
                arguments,
            ).fetchall()
        if not rows:
            rows = connection.execute(f"SELECT {count} FROM {table} WHERE {where}", row_arguments).fetchall()  # noqa: S608
            raise described.conflict(change, rows[0][0]) if rows else not_found(change.record_id)
        version: int | None = rows[0][0]
        if guard is not None:
            # Not by RETURNING: it ignores triggers, and older versions of SQLite return 1 for a stored 1.0.
            asked = list(described.columns if guard.whole else values)
            names = ", ".join(map(_quoted, asked))
            rows = connection.execute(f"SELECT {names} FROM {table} WHERE {where}", row_arguments).fetchall()  # noqa: S608
            if not rows:
                raise not_found(change.record_id)
            guard.check(dict(zip(asked, rows[0], strict=True)))
        return version

    def delete(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> None:
        described = self._described_now(connection)
        where, arguments = self._where(described, record_id, fixed)
        connection.execute(f"DELETE FROM {_quoted(described.table)} WHERE {where}", arguments)  # noqa: S608


def _keeps_texts(declared: str) -> bool:
    """True if SQLite stores each number in a column of this type as text: the column's "affinity" is TEXT."""
    kind = declared.upper()
    return "INT" not in kind and any(part in kind for part in ("CHAR", "CLOB", "TEXT"))


def _quoted(name: str) -> str:
    # In double quotes, SQLite would read the name of a missing column as a text, and raise no error.
    return f"[{name}]" if "]" not in name else '"' + name.replace('"', '""') + '"'
