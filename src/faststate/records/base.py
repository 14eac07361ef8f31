"""The parts that all kinds of databases share: interfaces for databases and tables, and rules for changing a row."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..exceptions import ConfigurationError, PersistenceError, StateNotFoundError, VersionConflict
from .columns import UnfitError, is_about_values
from .sources import Row, RowChange

T = TypeVar("T")


# -- columns -----------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column: its type as the database declares it, whether it holds integers, and whether it accepts NULL."""

    declared: str
    is_integer: bool = False
    takes_null: bool = True


class TableColumns(NamedTuple):
    """The columns of a table by name, its primary key, and the column that counts versions (None without one)."""

    table: str
    columns: Mapping[str, Column]
    key: str
    version: str | None

    @classmethod
    def of(cls, table: str, columns: Mapping[str, Column], keys: Sequence[str], version: str | bool) -> TableColumns:
        """Describe a table with these columns and primary keys. Raises `ConfigurationError` if it cannot be used."""
        if not columns:
            raise ConfigurationError(f"there is no table {table!r}: create it before you pass it to TableRecords")
        if len(keys) != 1:
            found = f"that of {table!r} is {', '.join(keys)}" if keys else f"{table!r} has none"
            raise ConfigurationError(f"a record's id is a primary key of one column, and {found}")
        key, counted = keys[0], version if isinstance(version, str) else None
        integers = {name for name, column in columns.items() if column.is_integer}
        if counted is not None and counted not in integers:
            raise ConfigurationError(
                f"version={counted!r} is not an integer column of {table!r}, which has {', '.join(columns)}"
            )
        if counted == key:
            raise ConfigurationError(f"{key!r} is the primary key of {table!r}: it cannot count changes as well")
        if version is True and "version" in integers and key != "version":
            counted = "version"
        return cls(table, columns, key, counted)

    def check(self, change: RowChange, fixed: Mapping[str, Any]) -> None:
        """Check that a state may change these columns; `fixed` are those that `xtra()` sets.

        Raises `ConfigurationError` for a column that no state can change, `RowValueError` for a NULL in a column that
        does not accept one.
        """
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
                    "(TableRecords(table, version=False) if the column counts something else)"
                )
            if name in fixed:
                raise ConfigurationError(f"xtra() of {self.table!r} sets {name!r}: a state cannot change it")
            if value is None and not self.columns[name].takes_null:
                raise change.refusal("None", name)

    def conflict(self, change: RowChange, found: object) -> PersistenceError:
        """Return the error for a row that was not changed; `found` is the version that it has now."""
        row = f"row {change.record_id!r} of {self.table!r}"
        if change.version is None or found == change.version:
            return PersistenceError(f"{row} was not changed: a trigger of the table keeps it as it is")
        return VersionConflict(f"{row} has version {found}, and the change was made from {change.version}")


# -- databases and tables ----------------------------------------------------------------------------------------------


class Database(ABC):
    """The database of one or more tables. Lifetime: the sources that share it; its threads and connections end with it.

    Without transactions (`has_transactions` is False), one commit can change only one row.
    """

    has_transactions = True

    @abstractmethod
    async def read(self, work: Callable[[Any], T]) -> T:
        """Call `work` with a connection, in a thread, and return its result."""

    @abstractmethod
    async def write(self, steps: Sequence[Callable[[Any], T]]) -> list[T]:
        """Call all steps with a connection, in a thread, in one transaction: if one raises, all are undone."""


class TableRows(ABC):
    """The rows of one table. Lifetime: its source.

    The methods are called in the database's thread. `fixed` maps the columns that `xtra()` has set to their values.
    """

    database: Database
    described: TableColumns
    """The columns as they were when the table was passed in; without any if they cannot be known."""
    gives: Mapping[str, type] = MappingProxyType({})
    """For each column whose values, if not None, always have the same Python type: that type."""

    @abstractmethod
    def load(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> Row | None: ...

    @abstractmethod
    def save(self, connection: Any, change: RowChange, fixed: Mapping[str, Any]) -> int | None: ...

    @abstractmethod
    def delete(self, connection: Any, record_id: str, fixed: Mapping[str, Any]) -> None: ...


def shared_database(app_database: Any, make: Callable[[], Database]) -> Database:
    """Return the `Database` of the app's own database object; `make` it if no other table has done so."""
    with _shared_lock:
        known = _shared_databases.get(app_database)
        found = known() if known is not None else None
        if found is None:
            found = make()
            _shared_databases[app_database] = weakref.ref(found)
        return found


# Weak on both sides: the sources keep our database alive, while fastlite keeps each of its own until the process ends.
_shared_databases: WeakKeyDictionary[Any, weakref.ref[Database]] = WeakKeyDictionary()
_shared_lock = threading.Lock()


class Threads:
    """At most this many threads for the work on a database. They start when first needed. Lifetime: the database."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="faststate-records")

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in one of the threads and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


# -- changing a row ----------------------------------------------------------------------------------------------------


def to_columns(change: RowChange, convert: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Convert the changed values, by column. Raises `RowValueError` where `convert` raises `UnfitError`."""
    converted = {}
    for name, value in change.changed.items():
        try:
            converted[name] = convert(name, value)
        except UnfitError as error:
            raise change.refusal(str(error), name) from None
    return converted


@contextlib.contextmanager
def refused_values(change: RowChange) -> Iterator[None]:
    """Turn an error of the database or its driver about a value into a `RowValueError` that does not show the value."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "orig", None) or error
        if not (is_about_values(error) or isinstance(reason, TypeError | ValueError | ArithmeticError)):
            raise
        raise change.refusal(f"a new value ({type(reason).__name__})", *change.changed) from None


def not_found(record_id: str) -> StateNotFoundError:
    """Return the error for a row that is gone."""
    return StateNotFoundError(f"there is no record {record_id!r} any more")
