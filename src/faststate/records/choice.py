"""Make a record source from a developer's `records`: a table, functions, or a source of their own."""

from __future__ import annotations

from ..exceptions import ConfigurationError
from .calls import CallableRecords
from .sources import RecordSource
from .table import TableRecords, is_table

__all__ = ["record_source"]


def record_source(source: object) -> RecordSource:
    """Return `source` if it is a `RecordSource`, or make one from a table (`db.t.products`) or a tuple of functions.

    The tuple is `(load, save)` or `(load, save, delete)`. Raises `ConfigurationError` for anything else.
    """
    # Look at the class: `db.t`, which is not a table, has an attribute of any name.
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
