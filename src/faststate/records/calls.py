"""Rows by the app's own functions: what loads a row, what saves it, and perhaps what deletes it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..exceptions import ConfigurationError, StateNotFoundError
from .sources import Row, RowChange

__all__ = ["CallableRecords"]


class CallableRecords:
    """The rows that these functions load, save and delete. Lifetime: the provider.

    Each may be async or sync; a sync one runs in a worker thread.

    - `load(record_id)` returns the row, a dict or a `Row` with the row's version, or None when there is none. An id is
      text out of a URL. "05" is not the id of row 5: return None unless the row's id reads exactly as `record_id`,
      because each spelling would be a state of its own.
    - `save(record_id, changed)`, for rows with a version `save(record_id, changed, version)`, changes those columns
      (a dict of plain values), in one transaction. It raises `StateNotFoundError` when the row is gone, and
      `VersionConflict` when it has another version than that. It returns the new version (int); None means one more.
    - `delete(record_id)` deletes the row if there is one. Without it, rows cannot be deleted through states.

    Nothing is known of what the functions do, so one commit changes one row. For commits over several rows, write a
    `RecordSource`.

    Raises `ConfigurationError` for functions that cannot be called so.
    """

    database: Any = None

    def __init__(
        self,
        load: Callable[[str], Any],
        save: Callable[..., Any],
        delete: Callable[[str], Any] | None = None,
    ) -> None:
        self._load = _Function("load", load, {1: "load(record_id)"})
        self._save = _Function("save", save, {2: "save(record_id, changed)", 3: "save(record_id, changed, version)"})
        self._delete = None if delete is None else _Function("delete", delete, {1: "delete(record_id)"})

    async def load(self, record_id: str) -> Row | None:
        """The row, or None. Raises `ConfigurationError` for what is no row, or one whose version `save` cannot take."""
        found = await self._load(record_id)
        if found is None:
            return None
        row = found if isinstance(found, Row) else Row(found)
        if not isinstance(row.values, Mapping):
            raise ConfigurationError(f"load returns a dict, a Row or None, not a {type(row.values).__name__}")
        if row.version is not None and (not isinstance(row.version, int) or isinstance(row.version, bool)):
            raise ConfigurationError(f"a row's version is an int or None, not a {type(row.version).__name__}")
        if (2 if row.version is None else 3) not in self._save.counts:
            raise ConfigurationError(
                "save takes a version, so load must return Row(values, version)"
                if row.version is None
                else "load returned a row with a version, so save must take one: save(record_id, changed, version)"
            )
        return Row(dict(row.values), row.version)

    async def save(self, changes: Sequence[RowChange]) -> Sequence[int | None]:
        """Saves one row. Raises `ConfigurationError`, with nothing saved, for several: all or none is not to be had."""
        if len(changes) > 1 or any(change.source is not self for change in changes):
            raise ConfigurationError(
                "a commit changes one row that functions save: for several, write a RecordSource that saves all or none"
            )
        versions: list[int | None] = []
        for change in changes:
            changed = dict(change.changed)
            if change.version is None:
                saved = await self._save(change.record_id, changed)
            else:
                saved = await self._save(change.record_id, changed, change.version)
            if isinstance(saved, bool) or not isinstance(saved, int | None):
                raise ConfigurationError(
                    f"save returns the new version or None, not {type(saved).__name__}: what was not saved is raised, "
                    "as StateNotFoundError or VersionConflict"
                )
            counted = change.version if change.version is None else change.version + 1
            versions.append(counted if saved is None or change.version is None else saved)
        return versions

    async def delete(self, record_id: str) -> None:
        """Deletes the row. Raises `ConfigurationError` where no `delete` was given."""
        if self._delete is None:
            raise ConfigurationError("these records cannot be deleted: give a third function, delete(record_id)")
        with contextlib.suppress(StateNotFoundError):  # that it is gone is what was wanted
            await self._delete(record_id)


class _Function:
    """One of the app's functions, called without blocking the event loop. Lifetime: its source."""

    def __init__(self, name: str, function: Callable[..., Any], forms: Mapping[int, str]) -> None:
        expected = " or ".join(forms.values())
        if not callable(function):
            raise ConfigurationError(f"{name} must be a function {expected}, not {function!r}")
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        for candidate in (function, called):
            if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
                raise ConfigurationError(f"{name} must return, as {expected}; it yields")
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
        self.counts = {count for count in forms if _takes(function, count)}
        """How many arguments it can be called with."""
        if not self.counts:
            raise ConfigurationError(f"{name} must be callable as {expected}, not {name}{inspect.signature(function)}")

    async def __call__(self, *arguments: Any) -> Any:
        if self._is_async:
            return await self._function(*arguments)
        result = await asyncio.to_thread(self._function, *arguments)
        return await result if inspect.isawaitable(result) else result  # `lambda id: fetch(db, id)` is a sync function


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
