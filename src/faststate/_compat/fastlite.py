"""The attribute in which fastlite and fastsql keep the filter of a table that `xtra()` has set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def xtra_of(table: Any) -> dict[str, Any]:
    """Return the columns that `xtra()` of the table has set, with their values."""
    return dict(getattr(table, "xtra_id", None) or {})


def keeps_xtra(table: Any) -> bool:
    """True if `xtra_of` finds what `xtra()` sets.

    If it does not, the filter of a table would be ignored, and everybody could load rows that it hides. So a table is
    refused when it is passed to `TableRecords`.
    """
    probe = SimpleNamespace()
    try:
        type(table).xtra(probe, column=1)
    except Exception:
        return False
    return xtra_of(probe) == {"column": 1}
