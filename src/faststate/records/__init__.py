"""Rows of the user's own database, loaded and saved for RECORD states.

This package knows databases and their columns, and nothing of states. Begin with `sources.RecordSource`, the protocol
that every source implements. `table.record_source` makes a source from a developer's `records`: `table.TableRecords`,
which has one file for each kind of database, or `functions.CallableRecords` for functions.
"""

from .functions import CallableRecords
from .sources import RecordSource, Row, RowChange, RowGuard
from .table import TableRecords, record_source

__all__ = ["CallableRecords", "RecordSource", "Row", "RowChange", "RowGuard", "TableRecords", "record_source"]
