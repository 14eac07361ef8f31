"""Tables that offer the MiniDataAPI and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..exceptions import ConfigurationError
from .base import Column, Database, TableColumns, TableRows, Threads, not_found, refused_values, to_columns
from .columns import to_column
from .sources import Row, RowChange

T = TypeVar("T")


class MiniDataDatabase(Database):
    """An unknown database behind a MiniDataAPI table: one thread at a time, and no transactions."""

    has_transactions = False

    def __init__(self) -> None:
        self._threads = Threads(1)

    async def read(self, work: Callable[[Any], T]) -> T:
        return await self._threads.run(lambda: work(None))

    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        if len(steps) > 1:
            raise ConfigurationError("this table has no transactions: a commit can change one of its rows, not several")
        return await self._threads.run(lambda: [step(None) for step in steps])


class MiniDataRows(TableRows):
    """The rows of a table that is used through `table[pk]`, `update` and `delete` alone."""

    def __init__(self, table: Any, version: str | bool) -> None:
        self._table = table
        name = str(getattr(table, "name", type(table).__name__))
        keys = [str(getattr(key, "name", key)) for key in getattr(table, "pks", ())]
        if isinstance(version, str):
            raise ConfigurationError(f"{name!r} has update() alone, which cannot tell one version from another")
        self.described = TableColumns.of(name, {"?": Column("")}, keys, False)._replace(columns={})
        self.database = MiniDataDatabase()

    def load(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> Row | None:
        # The table may accept a text for an integer key, or only the integer.
        for key in (record_id, int(record_id)) if record_id.isdecimal() else (record_id,):
            try:
                row = self._table[key]
            except Exception as error:
                if isinstance(error, LookupError) or type(error).__name__ == "NotFoundError":
                    continue
                raise
            if dataclasses.is_dataclass(row):
                values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
            else:
                values = dict(row if isinstance(row, Mapping) else vars(row))
            if str(values[self.described.key]) == record_id:
                return Row(values)
        return None

    def save(self, connection: Any, change: RowChange, fixed: Mapping[str, Any]) -> int | None:
        row = self.load(connection, change.record_id, fixed)
        if row is None:
            raise not_found(change.record_id)
        described = self.described._replace(columns=dict.fromkeys(row.values, Column("")))
        described.check(change, fixed)
        values = to_columns(change, lambda _, value: to_column(value))
        with refused_values(change):
            self._table.update({**values, described.key: row.values[described.key]})
        return None  # the guard is not called: without a transaction, nothing could be undone

    def delete(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> None:
        row = self.load(connection, record_id, fixed)
        if row is not None:
            self._table.delete(row.values[self.described.key])
