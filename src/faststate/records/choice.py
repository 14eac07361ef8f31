"""Make a record source of what a developer passes as `records`: a table, functions or a source of their own."""

from __future__ import annotations

from ..exceptions import ConfigurationError
from .calls import CallableRecords
from .sources import RecordSource
from .table import TableRecords, is_table

__all__ = ["record_source"]


def record_source(source: object) -> RecordSource:
    """The `RecordSource` that `source` is or makes: a table (`db.t.products`), or a tuple `(load, save)` or
    `(load, save, delete)` of functions.

    Raises `ConfigurationError` for anything else.
    """
    # The class is asked: `db.t`, which is no table, has every attribute that one could look for.
    methods = ("load", "save", "delete")
    if all(callable(getattr(type(source), name, None)) for name in methods) and isinstance(source, RecordSource):
        return source
    if is_table(source):
        return TableRecords(source)
    if isinstance(source, tuple) and len(source) in (2, 3):
        return CallableRecords(*source)
    found = f"a tuple of {len(source)}" if isinstance(source, tuple) else repr(source)
    raise ConfigurationError(
        "records is a table (db.t.products), a tuple of functions (load, save) or (load, save, delete), or a "
        f"RecordSource; it cannot be {found}"
    )
