"""The protocol of record sources: where the rows come from that RECORD states show and change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..exceptions import RowValueError


class Row(NamedTuple):
    """One loaded row: its values by column name, and its version (int), None if the table does not count versions."""

    values: Mapping[str, Any]
    version: int | None = None


class RowGuard(Protocol):
    """A check that a saved row will be loaded as the values that the state was given. Lifetime: one commit."""

    whole: bool
    """True if `check` needs all columns of the row, and not only the changed ones."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Compare the columns of `row` (as `load` returns them) with the new values. Raises `RowValueError`."""

    def refusal(self, reason: str, *columns: str) -> RowValueError:
        """Return the error for a value that `columns` cannot keep. `reason` (str) names it: "a NUL character"."""


class RowChange(NamedTuple):
    """The part of a commit that changes one row: its source, its id (str), and the new values of the changed columns.

    `version` is the version that was loaded. If it is not None, the row is changed only if it still has that version.
    If `guard` is not None, the source passes it the row as saved, while the save can still be undone.
    """

    source: RecordSource
    record_id: str
    changed: Mapping[str, Any]
    version: int | None
    guard: RowGuard | None = None

    def refusal(self, reason: str, *columns: str) -> RowValueError:
        """Return the error for a value that `columns` cannot keep. `reason` (str) names it without showing it."""
        if self.guard is not None:
            return self.guard.refusal(reason, *columns)
        return RowValueError(f"{reason} cannot be kept in the column {', '.join(columns)}")


@runtime_checkable
class RecordSource(Protocol):
    """A source of rows, which also saves changes to them. Lifetime: the provider. No method may block the event loop.

    An error that is not documented below reaches the client as a `PersistenceError` (503).
    """

    database: Any
    """The database that holds the rows. Rows of all sources with the same `database` (compared by identity) are saved
    together, by one call of `save` on one of them. None if the rows of this source are always saved on their own."""

    async def load(self, record_id: str) -> Row | None:
        """Return the row with this id, or None if there is none (a 404).

        Another spelling of an id is another id: if the row's id is "5", return None for "05".
        """

    async def save(self, changes: Sequence[RowChange]) -> Sequence[int | None]:
        """Save all changes in one transaction. Returns the new version of each row, None for rows without versions.

        Within the transaction, pass each row as saved to the `guard` of its change. If `check` raises, undo all
        changes. If a guard is not called, FastState loads the row after the save, and restores the old values if they
        are not what was set.

        Raises `StateNotFoundError` if a row is gone, `VersionConflict` if a row has another version than the one that
        was loaded, and `RowValueError` for a value that a column does not accept.
        """

    async def delete(self, record_id: str) -> None:
        """Delete the row. It is not an error if there is none."""
