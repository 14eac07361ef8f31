"""Rows: each state of a class is a row of the app's own table. A commit saves its rows, then what the store has."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from pydantic import ValidationError

from ...exceptions import (
    ConfigurationError,
    FastStateError,
    PersistenceError,
    RowUnreadableError,
    RowValueError,
    VersionConflict,
)
from ...records.columns import columns_to_fields, is_about_values
from ...records.sources import RecordSource, RowChange
from ...redaction import redacted
from ...scopes import StateIdentifier, Version
from ...state.reactive import ReactiveState
from ...stores.base import StateStore, Stored, Write
from ...validation.kept_values import KeptValues
from ...validation.revalidation import revalidation_of
from .base import MARK_TTL, Loaded, Persistence, Save, mark_key, nonce_writes
from .class_checks import COLUMNS_REMEDY, refuse_missing_columns, refuse_unfit_columns
from .codec import validate
from .differences import difference
from .failures import described, persistence_errors
from .row_save import RowCheck, RowSave, plain

COUNTED: Final = "row"
"""The epoch of rows that count their own version: they have one life."""

MARK_TRIES: Final = 10
"""How often a row is loaded again that changes while it is loaded."""


class RecordPersistence(Persistence):
    """Keeps the states of one class in rows. Lifetime: the class's registration.

    `to_state` makes field values of a row (both dicts), `to_row` a row of a state; without them the class's fields are
    columns. A row has no place for nonces: they are kept in `store`, where there is one. Raises `ConfigurationError`
    for a class whose fields cannot be columns of the table.

    A commit is refused (`RowValueError`) where its row would not give back what was set, in value and type.
    """

    in_store = False

    def __init__(
        self,
        source: RecordSource,
        cls: type[ReactiveState],
        timeout: float,
        to_state: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        to_row: Callable[[Any], Mapping[str, Any]] | None = None,
        store: StateStore | None = None,
    ) -> None:
        super().__init__(store, timeout)
        self.source = source
        columns: Mapping[str, str] | None = getattr(source, "columns", None)
        self._columns: Mapping[str, str] = columns if isinstance(columns, Mapping) else {}
        if to_row is None:
            refuse_missing_columns(cls, columns, getattr(source, "version_column", None))
            refuse_unfit_columns(cls, getattr(source, "gives", {}), self._columns)
        self._cls = cls
        self._to_state = to_state
        self._to_row = to_row
        self._proven: set[tuple[str, Any]] = set()

    # -- loading ---------------------------------------------------------------------------------------------------

    async def load(self, identifier: StateIdentifier) -> Loaded | None:
        """As `Persistence.load`. Raises also `RowUnreadableError`, for a row that does not fit the class."""
        if self.store is None or not self.is_shared:
            return await self._load_row(identifier)
        key = mark_key(identifier)
        for _ in range(MARK_TRIES):
            # The mark is loaded first: a row that is saved meanwhile is then newer than its mark says, never older.
            async with persistence_errors(f"the version of {identifier.key} could not be loaded", self.timeout):
                marked = await self.store.load(key)
            loaded = await self._load_row(identifier)
            if loaded is None:
                return None
            if marked is not None:
                # All processes call one version of a row by the same name, even where the row itself counts none.
                version = loaded.version if loaded.version.epoch == COUNTED else marked.version
                return loaded._replace(version=version, mark=marked.version)
            async with persistence_errors(f"the version of {identifier.key} could not be stored", self.timeout):
                try:
                    await self.store.save(Write(key, None, loaded.version, b"", MARK_TTL))
                except VersionConflict:
                    continue
            return loaded._replace(mark=loaded.version)
        raise PersistenceError(f"{identifier.key} keeps changing while it is loaded")

    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Loaded | None:
        return await self.load(identifier)

    async def _load_row(self, identifier: StateIdentifier) -> Loaded | None:
        record_id = str(identifier.record_id)
        async with persistence_errors(f"the row of {identifier.key} could not be loaded", self.timeout):
            row = await self.source.load(record_id)
            if row is None:
                return None
            values = self._values_of(row.values)
            try:
                state = _state_of(self._cls, values)
            except ValidationError as error:
                table = getattr(self.source, "name", None)
                where = f"{record_id!r} in the table {table!r}" if isinstance(table, str) else f"{record_id!r}"
                raise RowUnreadableError(
                    f"the row of {identifier.key} ({where}) does not fit {self._cls.__name__}: "
                    f"{described(redacted(error, self._cls, values))}. No page, event or modify() can use it "
                    "until the row is mended in the database; call provider.refresh() then"
                ) from None  # pydantic's own error shows the values
            version = Version(secrets.token_hex(6), 1) if row.version is None else Version(COUNTED, row.version)
            return Loaded(state, version)

    def _values_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the field values of a row. Raises `ConfigurationError` if some are missing, and as `to_state`."""
        cls = self._cls
        row = {name: _from_driver(value) for name, value in row.items()}
        values = columns_to_fields(row, cls) if self._to_state is None else self._call_to_state(row)
        if missing := [n for n, f in cls.__pydantic_fields__.items() if n not in values and f.is_required()]:
            raise ConfigurationError(
                f"{cls.__name__}.{missing[0]} is no column of its row, which has {', '.join(row)}: {COLUMNS_REMEDY}"
            )
        return {name: value for name, value in values.items() if name in cls.__pydantic_fields__}

    def _call_to_state(self, row: dict[str, Any]) -> dict[str, Any]:
        made: Any = cast(Any, self._to_state)(row)
        if isinstance(made, ReactiveState):  # as the name says
            return {name: getattr(made, name) for name in type(made).__pydantic_fields__}
        if not isinstance(made, Mapping):
            raise ConfigurationError(f"to_state returns field values, a dict, not {type(made).__name__}")
        return dict(made)

    # -- saving ----------------------------------------------------------------------------------------------------

    def prepare(self, save: Save) -> tuple[Version | None, list[Write], RowSave | None]:
        cls, writes = self._cls, nonce_writes(save)
        before: Mapping[str, Any] = save.old.__dict__
        is_held: Callable[[str], bool] | None = None
        is_whole = self._to_row is not None or cls._fs_schema().checks_whole
        if self._to_row is None:
            changed = {name: plain(save.values[name]) for name in save.changed}
        else:
            before, after = self._to_row(save.old), self._call_to_row(save, save.values)
            changed = {name: plain(after[name]) for name in _changed_columns(before, after)}

            def is_held(name: str) -> bool:
                row = self._call_to_row(save, {**save.old.__dict__, name: save.values[name]})
                return bool(_changed_columns(before, row))

        if not changed:
            return save.stored, writes, None  # the row stays as it is, and so does its version

        def loaded(row: Mapping[str, Any]) -> Mapping[str, Any]:
            return _state_of(cls, self._values_of(row)).__dict__ if is_whole else self._changed_fields(save, row)

        check = RowCheck(cls, save.values, save.changed, loaded, self._columns, is_held, save.rounded, is_whole)
        version = save.stored.number if save.stored is not None and not self.is_uncounted(save.stored) else None
        change = RowChange(self.source, str(save.identifier.record_id), changed, version, check)
        return save.version, writes, RowSave(save.identifier.key, change, check, before, self._proven)

    def _call_to_row(self, save: Save, values: Mapping[str, Any]) -> Mapping[str, Any]:
        to_row = cast(Callable[[Any], Mapping[str, Any]], self._to_row)
        return to_row(self._cls._holding(dict(values), save.old.__pydantic_private__))

    def _changed_fields(self, save: Save, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changed fields, by name, as they are loaded from these columns. Raises `ValidationError`."""
        cls = self._cls
        values = columns_to_fields({name: _from_driver(row[name]) for name in save.changed if name in row}, cls)
        try:
            return revalidation_of(cls).load_some(values)
        except ValidationError as error:
            return revalidation_of(cls).load_some(_read_by_validators(cls, values, error, dict(save.values)))

    def shared_key(self, identifier: StateIdentifier) -> str:
        return mark_key(identifier)

    def is_uncounted(self, stored: Version | None) -> bool:
        return stored is None or stored.epoch != COUNTED

    async def delete(self, identifier: StateIdentifier) -> None:
        async with persistence_errors(f"the row of {identifier.key} could not be deleted", self.timeout):
            await self.source.delete(str(identifier.record_id))

    async def delete_mark(self, identifier: StateIdentifier) -> None:
        if self.store is not None:
            await self.store.delete([mark_key(identifier)])


def _changed_columns(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in after if name not in before or difference(after[name], before[name]) is not None]


def _from_driver(value: Any) -> Any:
    # asyncpg has a class of its own for a UUID.
    return UUID(int=value.int) if isinstance(value, UUID) and type(value) is not UUID else value


def _state_of(cls: type[ReactiveState], values: dict[str, Any]) -> ReactiveState:
    """Make a state of a row's values: as they are where their types fit, else through all validators of the class.

    A validator that converts made them what they are when they were set, and must not convert them again. One that
    reads what a column holds (a list from text with commas) is called, since a value that it reads does not fit as it
    is.
    """
    try:
        return cast(ReactiveState, validate(cls, values))
    except ValidationError as error:
        try:
            return cast(ReactiveState, validate(cls, _read_by_validators(cls, values, error, {})))
        except ValidationError:
            if not cls._fs_schema().checks_whole:
                raise
        # A validator of the whole state may make fields that are not columns.
        made: ReactiveState = cls.__pydantic_validator__.validate_python(values, by_alias=False, by_name=True)
        return made


def _read_by_validators(
    cls: type[ReactiveState], values: Mapping[str, Any], error: ValidationError, others: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `values` with those that did not fit (as `error` says) as their fields' own validators read them.

    `others` are further values that these may look at. Raises `ValidationError` if they do not fit either.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    unfit = {str(problem["loc"][0]) for problem in problems if problem["loc"]}
    given = {**others, **values}
    kept = KeptValues({name: value for name, value in given.items() if name not in unfit}, {})
    read = revalidation_of(cls).assign(given, kept)
    return {name: read[name] for name in values}


# -- the rows of a commit ----------------------------------------------------------------------------------------------


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
    for rows in databases.values():
        try:
            names = ", ".join(row.key for _, row in rows)
            async with persistence_errors(f"the rows of {names} could not be saved", seconds):
                numbers = await _save_together([row.change for _, row in rows])
            saved += [(row, number) for (_, row), number in zip(rows, numbers, strict=True)]
            for (place, row), number in zip(rows, numbers, strict=True):
                await row.verify(number, seconds)
                if number is not None:
                    versions[place] = Version(COUNTED, number)
        except RowValueError:
            for row, number in reversed(saved):
                await row.undo(number, seconds)
            raise
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
