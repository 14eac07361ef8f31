"""A record source made of the app's own functions: one loads a row, one saves it, and one may delete it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..exceptions import ConfigurationError, StateNotFoundError
from .sources import Row, RowChange


class CallableRecords:
    """The rows that these functions load, save and delete. Lifetime: the provider.

    Each function may be async or sync; a sync one runs in a worker thread.

    - `load(record_id)` returns the row as a dict, or as a `Row` if rows have versions, or None if there is none. An id
      is text from a URL, and "05" is not the id of row 5: return None unless the row's id is spelt exactly like
      `record_id`, because each spelling would become a state of its own.
    - `save(record_id, changed)`, or `save(record_id, changed, version)` for rows with versions, changes these columns
      (a dict of plain values) in one transaction. It raises `StateNotFoundError` if the row is gone, and
      `VersionConflict` if the row has another version. It returns the new version (int); None stands for `version` + 1.
    - `delete(record_id)` deletes the row if there is one. Without it, rows cannot be deleted through states.

    The functions may use any database, so one commit changes one row. To change several rows in one commit, write a
    `RecordSource`.

    Raises `ConfigurationError` for functions that cannot be called like this.
    """

    database: Any = None

    def __init__(
        self,
        load: Callable[[str], Any],
        save: Callable[..., Any],
        delete: Callable[[str], Any] | None = None,
    ) -> None:
        self._load = AppFunction("load", load, {1: "load(record_id)"})
        self._save = AppFunction("save", save, {2: "save(record_id, changed)", 3: "save(record_id, changed, version)"})
        self._delete = None if delete is None else AppFunction("delete", delete, {1: "delete(record_id)"})

    async def load(self, record_id: str) -> Row | None:
        """Return the row, or None. Raises `ConfigurationError` for anything else, or a version unknown to `save`."""
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
        """Save one row. Raises `ConfigurationError` for several: functions cannot save all or none of them."""
        if len(changes) > 1 or any(change.source is not self for change in changes):
            raise ConfigurationError(
                "a commit changes one row that functions save: for several, write a RecordSource that saves all or none"
            )
        versions: list[int | None] = []
        for change in changes:
            version = () if change.version is None else (change.version,)
            saved = await self._save(change.record_id, dict(change.changed), *version)
            if isinstance(saved, bool) or not isinstance(saved, int | None):
                raise ConfigurationError(
                    f"save returns the new version or None, not {type(saved).__name__}: what was not saved is raised, "
                    "as StateNotFoundError or VersionConflict"
                )
            if change.version is None:
                versions.append(None)
            else:
                versions.append(change.version + 1 if saved is None else saved)
        return versions

    async def delete(self, record_id: str) -> None:
        """Delete the row. Raises `ConfigurationError` if no `delete` was given."""
        if self._delete is None:
            raise ConfigurationError("these records cannot be deleted: give a third function, delete(record_id)")
        with contextlib.suppress(StateNotFoundError):  # it is gone, as it should be
            await self._delete(record_id)


class AppFunction:
    """One of the app's functions, which is called without blocking the event loop. Lifetime: its source."""

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
        """The numbers of arguments that it can be called with."""
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
    except (TypeError, ValueError):  # some builtins have no signature
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
