"""Rows of the user's own database, loaded and saved for RECORD states.

This package knows databases and their columns, and nothing of states. Begin with `sources.RecordSource`, the protocol
that a source fulfils; `choice.record_source` picks the source for what a developer passes as `records`.
"""

from .calls import CallableRecords
from .choice import record_source
from .sources import RecordSource, Row, RowChange, RowGuard
from .table import TableRecords

__all__ = ["CallableRecords", "RecordSource", "Row", "RowChange", "RowGuard", "TableRecords", "record_source"]
