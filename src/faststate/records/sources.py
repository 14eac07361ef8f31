"""Record sources: where the rows are that RECORD states show and change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..exceptions import RowValueError

__all__ = ["RecordSource", "Row", "RowChange", "RowGuard"]


class Row(NamedTuple):
    """One row as it was loaded: its columns, by name, and its version where the table counts one (int), else None."""

    values: Mapping[str, Any]
    version: int | None = None


class RowGuard(Protocol):
    """Makes sure that a row, once it is saved, is loaded as the state that was set. Lifetime: one commit."""

    whole: bool
    """True if `check` is to be given all columns of the row, and not only those that the commit changes."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Compares the columns of `row` (a dict, as `load` gives them) with what was set. Raises `RowValueError`."""

    def refusal(self, reason: str, *columns: str) -> RowValueError:
        """The error for a value that `columns` cannot keep. `reason` (str) names the value, as in "a NUL character"."""


class RowChange(NamedTuple):
    """What one commit changes of a row: the source and id (str) it was loaded by, the columns that are others now.

    `version` is the one that was loaded; with it the row is changed only if it still has that version. `guard` is to be
    asked about the row as it is saved, while that can still be undone; None where nobody asks.
    """

    source: RecordSource
    record_id: str
    changed: Mapping[str, Any]
    version: int | None
    guard: RowGuard | None = None

    def refusal(self, reason: str, *columns: str) -> RowValueError:
        """The error for a value that one of `columns` cannot keep; `reason` (str) names it, and does not show it."""
        if self.guard is not None:
            return self.guard.refusal(reason, *columns)
        return RowValueError(f"{reason} cannot be kept in the column {', '.join(columns)}")


@runtime_checkable
class RecordSource(Protocol):
    """Loads rows and saves what changed of them. Lifetime: the provider. Nothing in it may block the event loop.

    Errors other than those named become a `PersistenceError` (503) to the client.
    """

    database: Any
    """What the source's rows are changed together with: the rows of all sources that have the same `database` (by
    identity) are saved by one call of one of them. None for the source alone."""

    async def load(self, record_id: str) -> Row | None:
        """The row with this id, or None when there is none (404). An id that is spelt otherwise is not there."""

    async def save(self, changes: Sequence[RowChange]) -> Sequence[int | None]:
        """Changes these columns of these rows, all or none; returns the rows' new versions, None without one.

        Gives the `guard` of each change the row as it is then, within the transaction: what `check` raises undoes all
        changes. Where a guard was not asked, FastState loads the row again behind the save, and puts the old values
        back if it is not what was set.

        Raises `StateNotFoundError` when a row is gone, `VersionConflict` when one has another version by now,
        `RowValueError` for a value that a column does not take.
        """

    async def delete(self, record_id: str) -> None:
        """Deletes the row; there being none is no error."""
