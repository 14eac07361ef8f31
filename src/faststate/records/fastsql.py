"""Tables of fastsql: any database that SQLAlchemy has a dialect for."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from ..exceptions import ConfigurationError
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
from .columns import UnfitError, to_column, to_json_column
from .sources import Row, RowChange

T = TypeVar("T")


class EngineDatabase(Database):
    """A database behind an engine of SQLAlchemy. Each call has its own connection of the engine's pool."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._threads = Threads(4)

    async def read(self, work: Callable[[Any], T]) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return await self._threads.run(run)

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        def run() -> list[T]:
            with self._engine.begin() as connection:
                return [step(connection) for step in steps]

        return await self._threads.run(run)


class FastsqlRows(TableRows):
    """The rows of a fastsql table. Its SQLAlchemy table builds the statements, and converts the values."""

    def __init__(self, table: Any, version: str | bool) -> None:
        engine = table.db.engine
        if engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
            raise ConfigurationError("each thread has its own SQLite database in memory with fastsql: use a file")
        self._table = table.table
        found = self._table.c if table.exists() else ()
        kinds = {column.name: _python_type(column) for column in found}
        columns = {
            column.name: Column(
                _declared(column, engine.dialect), kinds[column.name] is int, column.nullable is not False
            )
            for column in found
        }
        keys = [column.name for column in self._table.primary_key]
        self.described = TableColumns.of(self._table.name, columns, keys, version)
        self.gives = {name: kind for name, kind in kinds.items() if kind in _OF_ONE_TYPE}
        self._moments = {column.name for column in found if getattr(column.type, "timezone", False)}
        self._dialect = engine.dialect
        self.database = shared_database(table.db, lambda: EngineDatabase(engine))

    def _where(self, record_id: str, fixed: Mapping[str, Any]) -> list[Any] | None:
        """Return the conditions that select the row, or None for an id that no key of this type is spelt like."""
        column = self._table.c[self.described.key]
        key: Any = record_id
        kind = _python_type(column)
        if kind in (int, uuid.UUID):
            try:
                key = kind(record_id)
            except ValueError:
                return None
            if str(key) != record_id or (kind is int and not -(2**63) <= key < 2**63):
                return None
        return [column == key, *(self._table.c[name] == value for name, value in fixed.items())]

    def load(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> Row | None:
        where, counted = self._where(record_id, fixed), self.described.version
        row = where and connection.execute(self._table.select().where(*where)).mappings().first()
        if not row:
            return None
        return Row(self._in_utc(row), None if counted is None else int(row[counted] or 0))

    def _in_utc(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row whose moments are in UTC. The database keeps no time zone, and drivers add the session's."""
        converted = dict(row)
        for name in self._moments & converted.keys():
            if isinstance(value := converted[name], datetime.datetime) and value.tzinfo is not None:
                converted[name] = value.astimezone(datetime.UTC)
        return converted

    def save(self, connection: Any, change: RowChange, fixed: Mapping[str, Any]) -> int | None:
        described, columns, guard = self.described, self._table.c, change.guard
        described.check(change, fixed)
        values = to_columns(change, lambda name, value: _to_engine(columns[name], value, self._dialect.name))
        asked = [] if guard is None else [column for column in columns if guard.whole or column.name in values]
        where, counted = self._where(change.record_id, fixed), described.version
        if where is None:
            raise not_found(change.record_id)
        matching, number = list(where), change.version
        if counted is not None:
            count = columns[counted]
            look = self._table.select().with_only_columns(count).where(*where)
            if number is None:  # any version will do, but the row stays locked from here on
                number = connection.execute(look.with_for_update()).scalar()
            matching.append(count == number if number else (count == 0) | count.is_(None))
            values[counted] = (number or 0) + 1
        update = self._table.update().where(*matching).values(values)
        with refused_values(change):
            # Not in SQLite, whose older versions return 1 for a stored 1.0.
            if asked and self._dialect.update_returning and self._dialect.name != "sqlite":
                saved = connection.execute(update.returning(*asked)).mappings().first()
            else:
                is_changed = connection.execute(update).rowcount == 1
                look = self._table.select().with_only_columns(*asked).where(*where) if asked else None
                saved = is_changed and (look is None or connection.execute(look).mappings().first())
        if not saved:
            row = connection.execute(self._table.select().where(*where)).mappings().first()
            if row is None:
                raise not_found(change.record_id)
            raise described.conflict(change, None if counted is None else row[counted] or 0)
        if guard is not None:
            guard.check(self._in_utc(saved))
        return None if counted is None else int(values[counted])

    def delete(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> None:
        where = self._where(record_id, fixed)
        if where is None:
            return
        look = self._table.select().with_only_columns(self._table.c[self.described.key]).where(*where)
        key = connection.execute(look).scalar()
        if key is not None and str(key) == record_id:  # some databases find a text by another spelling
            connection.execute(self._table.delete().where(*where))


# -- types and values --------------------------------------------------------------------------------------------------


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
"""Python types of columns that return values of this type only. A column of texts can hold whatever can be text."""


def _declared(column: Any, dialect: Any) -> str:
    try:
        return str(column.type.compile(dialect=dialect))
    except Exception:  # SQLAlchemy knows the column, but not its type
        return "a type of its own"


def _to_engine(column: Any, value: Any, dialect: str) -> Any:
    """Convert a value for its column: fastsql keeps all but numbers and bytes as text. Raises `UnfitError`."""
    from sqlalchemy import JSON

    kind = _python_type(column)
    if isinstance(column.type, JSON):
        return to_json_column(value)
    if kind not in (str, int, float, bool, bytes):
        return value
    converted = to_column(value, as_text=kind is str)
    if kind is int and isinstance(converted, bool):
        return int(converted)
    if dialect == "postgresql":
        _check_for_postgres(column.type, converted)
    return converted


def _check_for_postgres(kind: Any, value: Any) -> None:
    """Raise `UnfitError` for a value that PostgreSQL refuses without naming the column."""
    from sqlalchemy import BigInteger, Integer, SmallInteger

    if isinstance(value, str):
        if "\0" in value:
            raise UnfitError("a NUL character")
        length = getattr(kind, "length", None)
        if length is not None and len(value) > length:
            raise UnfitError(f"a text of more than {length} characters")
    elif isinstance(value, int):
        is_small = isinstance(kind, Integer) and not isinstance(kind, BigInteger)
        bits = 16 if isinstance(kind, SmallInteger) else 32 if is_small else 64
        if not -(1 << bits - 1) <= value < 1 << bits - 1:
            raise UnfitError(f"a whole number of more than {bits} bits")
