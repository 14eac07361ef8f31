"""Row saves: the change of one row that a commit makes, the check of what it gives back, and the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ...exceptions import StateNotFoundError
from ...records.sources import RowChange
from .failures import persistence_errors
from .row_check import RowCheck, plain

__all__ = ["RowSave"]


class RowSave:
    """One row's part of a commit. Lifetime: the commit.

    `change` is given to the row's source. `check` is its guard; where the source does not ask it within its own
    transaction, `verify` does so after the save. `before` are the old values by column, for `undo`. `proven` holds what
    the row's table was seen to give back, and is shared by all saves of the class. `key` names the state in errors.
    """

    __slots__ = ("_before", "_check", "_proven", "change", "key")

    def __init__(
        self, key: str, change: RowChange, check: RowCheck, before: Mapping[str, Any], proven: set[tuple[str, Any]]
    ) -> None:
        self.change = change
        self.key = key
        self._check = check
        self._before = before
        self._proven = proven

    async def verify(self, version: int | None, seconds: float) -> None:
        """Load the row again and check it, unless its source has done so. Raises as `RowCheck.check`.

        `version` is the one that the row has since it was saved.
        """
        if self._check.asked:
            return
        kinds = {_kind(name, value) for name, value in self.change.changed.items()}
        if kinds <= self._proven:
            return
        async with persistence_errors(f"the row of {self.key} could not be loaded", seconds):
            row = await self.change.source.load(self.change.record_id)
            # If it is gone or has another version by now, somebody else has changed it: there is nothing to compare.
            if row is not None and row.version == version:
                self._check.check(row.values)
                self._proven.update(kind for kind in kinds if kind is not None)

    async def undo(self, version: int | None, seconds: float) -> None:
        """Put the old values back into the row, which has this `version` now."""
        change = self.change
        columns = {name: plain(self._before[name]) for name in change.changed if name in self._before}
        async with persistence_errors(f"the row of {self.key} could not be put back as it was", seconds):
            with contextlib.suppress(StateNotFoundError):
                await change.source.save([RowChange(change.source, change.record_id, columns, version)])


def _kind(column: str, value: Any) -> tuple[str, Any] | None:
    """Return what a small number has in common with all others that its column gives back if it gives back this one.

    Small is what the narrowest column of numbers holds exactly: 24 bits, as a float of 32 bits does. None for all other
    values, which prove nothing about others.
    """
    if value is None or type(value) is bool:
        return column, value
    is_small = type(value) is int and value.bit_length() <= 24
    return (column, (value.bit_length(), value < 0)) if is_small else None
