"""Saving: a commit's rows first, together for each database, then its writes to the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...exceptions import FastStateError, RowValueError
from ...records.columns import is_about_values
from ...records.sources import RowChange
from ...scopes import Version
from ...stores.base import StateStore, Write
from .base import Save
from .failures import persistence_errors
from .row_save import RowSave
from .rows import COUNTED

__all__ = ["save_rows", "write_all"]


async def save_rows(
    saves: Iterable[Save], also: Sequence[Write], seconds: float
) -> tuple[list[Version | None], list[Write]]:
    """Save the rows of what a commit changed; return the versions that are stored then, and what to write to the store.

    The versions are in the order of `saves`, None for a state that is not stored. All rows of one database are saved
    together or not at all; each database has so many `seconds`. `also` are further writes to the store. Raises
    `VersionConflict`, `StateNotFoundError` for a row that is gone, `RowValueError`, `PersistenceError`.
    """
    writes = list(also)
    versions: list[Version | None] = []
    databases: dict[int, list[tuple[int, RowSave]]] = {}
    for place, save in enumerate(saves):
        version, own, row = save.persistence.prepare(save)
        versions.append(version)
        writes += own
        if row is not None:
            source = row.change.source
            database = id(source.database if source.database is not None else source)
            databases.setdefault(database, []).append((place, row))
    saved: list[tuple[RowSave, int | None]] = []
    for places_and_rows in databases.values():
        rows = [row for _, row in places_and_rows]
        try:
            names = ", ".join(row.key for row in rows)
            async with persistence_errors(f"the rows of {names} could not be saved", seconds):
                numbers = await _save_together([row.change for row in rows])
            saved += zip(rows, numbers, strict=True)
            for row, number in zip(rows, numbers, strict=True):
                await row.verify(number, seconds)
        except RowValueError:
            for row, number in reversed(saved):
                await row.undo(number, seconds)
            raise
        for (place, _), number in zip(places_and_rows, numbers, strict=True):
            if number is not None:
                versions[place] = Version(COUNTED, number)
    return versions, writes


async def _save_together(changes: Sequence[RowChange]) -> Sequence[int | None]:
    """Save rows of one database. Raises `RowValueError` for a value that a column does not take."""
    try:
        return await changes[0].source.save(changes)
    except FastStateError:
        raise
    except Exception as error:
        if len(changes) > 1 or not is_about_values(error):
            raise
        (change,) = changes  # the driver's own message may show the values
        raise change.refusal(f"a new value ({type(error).__name__})", *change.changed) from None


async def write_all(writes: Sequence[Write], store: StateStore, seconds: float) -> None:
    """Make all writes to the store, or none, within so many `seconds`. Raises as the store does."""
    async with persistence_errors(f"{', '.join(write.key for write in writes)} could not be saved", seconds):
        await (store.save(writes[0]) if len(writes) == 1 else store.save_many(writes))
