"""Record sources for tables: fastlite's, fastsql's, or others with the MiniDataAPI; and the choice of a source."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from .._compat.fastlite import keeps_xtra, xtra_of
from ..exceptions import ConfigurationError
from .base import TableRows
from .fastlite import FastliteRows
from .fastsql import FastsqlRows
from .functions import CallableRecords
from .minidata import MiniDataRows
from .sources import RecordSource, Row, RowChange


class TableRecords:
    """The rows of one table, found by its primary key, which is a single column. Lifetime: the provider.

    `table` is an existing table of fastlite or fastsql, like `db.t.products`. Rows are read and written in threads,
    through connections of their own, so they share no transaction with what the app writes at the same time. A SQL
    function that the app registered on its own connection is unknown to these connections. Changes to several tables of
    one `db` are saved in one transaction. A database in memory (`:memory:`) has only the app's connection, which is
    shared with care.

    `version` names an integer column that counts the changes of a row. Each save adds one, and changes the row only if
    it still has the number that was loaded. True (the default) uses the column `version` if there is one, False uses
    none. Code that changes rows without a state must add one as well; otherwise its changes go unnoticed.

    Rows that `table.xtra(...)` filters out are treated as missing. The filter that is set at the time of a load or save
    counts. A filter that each request sets again is not an access rule; use `StateConfig(authorize=...)` for that.

    Another table with the MiniDataAPI (`table[pk]`, `update`, `delete` and `pks`) works too, without versions, and one
    commit can change only one of its rows.

    `columns` maps columns to their declared types, `gives` maps a column to a Python type if all its values have that
    type, as far as these are known. `version_column` is the column that counts versions, or None.

    Raises `ConfigurationError` if the table does not exist, if its primary key is not a single column, or if it lacks
    the column that `version` names.
    """

    def __init__(self, table: Any, *, version: str | bool = True) -> None:
        if not _can(table, *_TABLE):
            raise ConfigurationError(
                f"TableRecords is for a table, like db.t.products of fastlite, not for {_named(table)}"
            )
        if not isinstance(version, str | bool) or version == "":
            raise ConfigurationError(
                f"version is the name of a column, True for 'version' where there is one, or False, not {version!r}"
            )
        self._table = table
        self._rows = _rows_of(table, version)
        self.database: Any = self._rows.database if self._rows.database.has_transactions else None
        self.name, columns, self._key, self.version_column = self._rows.described
        self.columns = {name: column.declared for name, column in columns.items()} or None
        self.gives = self._rows.gives

    async def load(self, record_id: str) -> Row | None:
        """Return the row whose key is spelt `record_id`, or None. "05" is not row 5."""
        load = partial(self._rows.load, record_id=record_id, fixed=xtra_of(self._table))
        row = await self._rows.database.read(load)
        # SQL finds row 5 by "05" and "5.0" as well, and each spelling would become a state of its own.
        return row if row is not None and str(row.values[self._key]) == record_id else None

    async def save(self, changes: Sequence[RowChange]) -> Sequence[int | None]:
        """Save each row in one statement, and all rows in one transaction. Returns their new versions.

        Raises, with nothing saved, `RowValueError` for a value that its column cannot keep, and `ConfigurationError`
        for a column that the table does not have, the primary key, the version, and columns that `xtra` sets.
        """
        steps = []
        for change in changes:
            source = change.source
            if not isinstance(source, TableRecords) or source._rows.database is not self._rows.database:
                raise ConfigurationError(f"{_named(source)} is of another database: its rows are saved on their own")
            steps.append(partial(source._rows.save, change=change, fixed=xtra_of(source._table)))
        return await self._rows.database.write(steps)

    async def delete(self, record_id: str) -> None:
        """Delete the row whose key is spelt `record_id`, if there is one."""
        delete = partial(self._rows.delete, record_id=record_id, fixed=xtra_of(self._table))
        await self._rows.database.write([delete])


def record_source(source: object) -> RecordSource:
    """Return `source` if it is a `RecordSource`, or make one from a table (`db.t.products`) or a tuple of functions.

    The tuple is `(load, save)` or `(load, save, delete)`. Raises `ConfigurationError` for anything else.
    """
    if _can(source, "load", "save", "delete") and isinstance(source, RecordSource):
        return source
    if _can(source, *_TABLE):
        return TableRecords(source)
    if isinstance(source, tuple) and len(source) in (2, 3):
        return CallableRecords(*source)
    found = f"a tuple of {len(source)}" if isinstance(source, tuple) else repr(source)
    raise ConfigurationError(
        "records is a table (db.t.products), a tuple of functions (load, save) or (load, save, delete), or a "
        f"RecordSource; it cannot be {found}"
    )


_TABLE: Final = ("__getitem__", "update", "delete")
"""The methods of all tables that `TableRecords` accepts."""


def _can(found: object, *methods: str) -> bool:
    """True if the class has these methods. `db.t`, which is not a table, itself has an attribute of any name."""
    return all(callable(getattr(type(found), name, None)) for name in methods)


def _rows_of(table: Any, version: str | bool) -> TableRows:
    database = getattr(table, "db", None)
    kind: type[FastliteRows] | type[FastsqlRows]
    if type(getattr(database, "conn", None)).__module__.partition(".")[0] == "apsw":
        kind = FastliteRows
    elif hasattr(database, "engine") and hasattr(getattr(table, "table", None), "primary_key"):
        kind = FastsqlRows
    else:
        return MiniDataRows(table, version)
    if not keeps_xtra(table):
        raise ConfigurationError(
            f"the filter that xtra() sets is not found on {_named(table)}: FastState does not know this version of "
            f"{'fastlite' if kind is FastliteRows else 'fastsql'}"
        )
    return kind(table, version)


def _named(found: object) -> str:
    return found.__name__ if isinstance(found, type) else f"a {type(found).__name__}"
