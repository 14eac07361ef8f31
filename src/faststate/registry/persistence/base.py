"""Persistence: the states of one class as a store or a record source keeps them, and back again."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import decimal
import logging
import secrets
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, ClassVar, Final, NamedTuple, cast
from uuid import UUID

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ...exceptions import (
    ConfigurationError,
    FastStateError,
    PersistenceError,
    RowUnreadableError,
    RowValueError,
    StateNotFoundError,
    VersionConflict,
)
from ...records.columns import columns_to_fields, is_about_values
from ...records.sources import RecordSource, RowChange
from ...redaction import explained, redacted
from ...scopes import StateIdentifier, Version
from ...state.reactive import ReactiveState
from ...stores.base import SharedStore, StateStore, Stored, Write
from ...validation.kept import Kept
from ...validation.revalidation import revalidation_of
from .codec import Codec
from .decoding import from_tree, load, validate
from .differences import difference
from .encoding import dump
from .row_check import RowCheck, plain

__all__ = [
    "MARK_TTL",
    "NONCE_AGE",
    "Found",
    "Persistence",
    "RecordPersistence",
    "Save",
    "StorePersistence",
    "mark_key",
    "nonce_beside",
    "nonce_key",
    "reported",
    "save_rows",
    "write_all",
]

logger = logging.getLogger("faststate")

KEPT_ASIDE: Final = 90 * 86_400.0
"""Seconds that stored data which no longer fits its class is kept: time to see the report and write a `migrate`."""

ASIDE: Final = "aside"
"""Group, and first part of the key, of what is kept aside. No scope has this name."""

NONCE: Final = "nonce"
"""First part of the key of a nonce that is kept beside its state: a row has no place for it. No scope has this name."""

NONCE_AGE: Final = 300.0
"""Seconds that a nonce is kept in a store: a browser that found no server tries again when there is one."""

MARK: Final = "row"
"""First part of the key under which a store of many processes has a row's version. No scope has this name."""

MARK_TTL: Final = 7 * 86_400.0
"""Seconds that it is kept: who still has the row in memory then loads it again."""

MARK_TRIES: Final = 10
"""How often a row is loaded again that changes while it is loaded."""

COUNTED: Final = "row"
"""The epoch of rows that count their own version: they have one life."""


REMEDY: Final = "name the fields as the columns, or give to_state and to_row"


class Found(NamedTuple):
    """A state as it was loaded: a plain instance, its version, the nonces of its last events, seconds left to live.

    `mark` is what a store of many processes has of a row's version, `typed` as in `Shared`.
    """

    state: ReactiveState
    version: Version
    nonces: Sequence[str] = ()
    ttl: float | None = None
    mark: Version | None = None
    typed: Mapping[str, int] = {}


@dataclass(slots=True)
class Save:
    """One state's part of a commit that is to be saved. Lifetime: the commit.

    `stored` is the version that was saved or loaded last (None for never), `version` the new one; `values` are the new
    field values (`changed` are others than in `old`), `nonces` those of the last events, of which `nonce` is new.
    """

    persistence: Persistence
    identifier: StateIdentifier
    stored: Version | None
    version: Version
    old: ReactiveState
    values: Mapping[str, Any]
    changed: Sequence[str]
    nonces: Sequence[str]
    nonce: str | None
    ttl: float | None
    typed: Mapping[str, int] | None = None
    taken: dict[str, Any] = dataclass_field(default_factory=dict)
    """Numbers as their row gives them back, by field: with other decimal places than they were set."""


@contextlib.asynccontextmanager
async def reported(what: str, seconds: float) -> AsyncIterator[None]:
    """Gives a store or the app's own code so many seconds, and makes every failure of it a `PersistenceError`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except FastStateError:
        raise
    except TimeoutError as error:
        raise PersistenceError(f"{what}: no answer within {seconds:g} s") from redacted(error)
    except ValidationError as error:  # of the app's own code
        raise PersistenceError(f"{what}: {_without_values(redacted(error))}") from None
    except Exception as error:  # of a driver, or of the app's own code: it may show what was to be stored
        raise PersistenceError(f"{what}: {type(error).__name__}") from redacted(error)


class Persistence(ABC):
    """How the states of one class outlive the process. Lifetime: the class's registration with a provider."""

    in_store: ClassVar[bool]
    """True if `store` holds the states themselves, with their versions, expiry and the nonces of their last events.
    Else they are rows elsewhere: they never expire, must exist before they are used, and keep no nonces."""

    timeout: float
    store: StateStore | None
    kept_aside: int = 0
    """Stored states that did not fit the class any more, and were moved to a key of their own."""

    @abstractmethod
    async def load(self, identifier: StateIdentifier) -> Found | None:
        """Load a state; None if there is none. Raises `PersistenceError`."""

    @abstractmethod
    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Found | None:
        """Load a state for which the store has `stored` under its shared key. Raises `PersistenceError`."""

    @abstractmethod
    async def delete(self, identifier: StateIdentifier) -> None:
        """Delete a state. Raises `PersistenceError`."""

    @abstractmethod
    def prepare(self, save: Save, *, shared: bool) -> tuple[Version | None, list[Write], RowChange | None]:
        """Return the version that `save` leaves behind, what it writes to the store, and the row that it changes."""

    @abstractmethod
    def shared_key(self, identifier: StateIdentifier) -> str:
        """Return the key under which a store of many processes has the state, or the version of its row."""

    def encode(self, values: Mapping[str, Any], nonces: Sequence[str], typed: Mapping[str, int] | None = None) -> bytes:
        """Return the bytes that the store keeps of a state's values: none of a row's."""
        return b""

    def decode(self, stored: Stored) -> Found | None:
        """Return the state whose bytes the store has; None for a row, of which it has none."""
        return None

    async def nonces_beside(self, identifier: StateIdentifier) -> list[str]:
        """Load the nonces that the first save of a state takes over. Raises `PersistenceError`."""
        return []

    @abstractmethod
    async def forget_version(self, identifier: StateIdentifier) -> None:
        """Delete the version that the store has of a deleted row. Raises `PersistenceError`."""

    def is_uncounted(self, stored: Version | None) -> bool:
        """True if nothing keeps a state of this version from being saved over a newer one: a row without a version."""
        return False


class StorePersistence(Persistence):
    """Keeps the states of one class in a store, as JSON with the class's schema version and the last nonces.

    `kept_aside` counts what was found and did not fit the class any more. Raises `ConfigurationError` for a default
    that its own field does not take: such a state would not come back.
    """

    in_store = True
    store: StateStore

    def __init__(self, store: StateStore, cls: type[ReactiveState], timeout: float) -> None:
        self.store = store
        self.timeout = timeout
        self._cls = cls
        self._codec = Codec(cls)
        _refuse_unfit_defaults(cls)

    async def load(self, identifier: StateIdentifier) -> Found | None:
        """The stored state, or None; what no longer fits the class is put under a key of its own, for None."""
        key = identifier.key
        async with reported(f"{key} could not be loaded", self.timeout):
            return await self.find(identifier, await self.store.load(key))

    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Found | None:
        """What is stored as a state; None for what no longer fits, as `load`.

        What other processes may have stored stays where it is, for a `PersistenceError`.
        """
        if stored is None:
            return None
        try:
            return self.decode(stored)
        except Exception as error:
            if isinstance(self.store, SharedStore):
                # A process of another version of the class may have stored it just now, and go on with it.
                raise PersistenceError(
                    f"what is stored under {identifier.key} does not fit {self._cls.__name__} here, and is left where "
                    f"it is: {_without_values(error)}"
                ) from None
            await self._put_aside(identifier.key, stored.version, stored.data, error)
            return None

    def decode(self, stored: Stored) -> Found:
        """Reads what is stored as a state. Raises any error for what does not fit the class, without hidden values."""
        envelope = load(stored.data)
        typed = {str(page): int(number) for page, number in envelope.get("typed", {}).items()}
        nonces = [str(nonce) for nonce in envelope["nonces"]]
        return Found(self._restore(envelope), stored.version, nonces, stored.ttl, typed=typed)

    def _restore(self, envelope: Mapping[str, Any]) -> ReactiveState:
        cls = self._cls
        schema_version = int(envelope["schema"])
        values = from_tree(envelope["values"])
        if not isinstance(values, dict):
            raise ValueError("the stored values are no object")
        fields = cls.__pydantic_fields__
        is_shared = isinstance(self.store, SharedStore)  # and the newer version lives on beside this one
        if schema_version > cls.schema_version and (is_shared or not _migrates(cls)):
            raise ValueError("stored by a newer version of the class, and there is no migrate that knows it")
        given = dict(values)  # migrate may change what it is given
        try:
            if schema_version != cls.schema_version or values.keys() != fields.keys():
                migrated = cls.migrate(values, schema_version)
                values = {name: value for name, value in migrated.items() if name in fields}
            return _validated(cls, values)
        except Exception as error:
            raise redacted(error, cls, given) from None

    async def _put_aside(self, key: str, version: Version, data: bytes, error: Exception) -> None:
        # With something of its own at the end: what was put aside once may have been brought back, and fit no better.
        aside = f"{ASIDE}:{key}:{version.epoch}.{version.number}.{secrets.token_hex(3)}"
        await self.store.save_many(
            [
                Write(aside, None, version, data, KEPT_ASIDE, ASIDE),
                Write(key, version, version, None),
            ]
        )
        self.kept_aside += 1
        logger.error(
            "what is stored under %s does not fit %s any more, and is kept as %s: %s",
            key, self._cls.__name__, aside, _without_values(error),
        )  # fmt: skip

    async def nonces_beside(self, identifier: StateIdentifier) -> list[str]:
        """The nonces (digests) that were kept beside a state which was not stored itself. Raises `PersistenceError`."""
        group = _nonce_group(identifier)
        async with reported(f"the nonces of {identifier.key} could not be loaded", self.timeout):
            return [key.removeprefix(f"{group}:") for key in await self.store.group(group)]

    def encode(self, values: Mapping[str, Any], nonces: Sequence[str], typed: Mapping[str, int] | None = None) -> bytes:
        """What a store keeps (bytes) of a state. Raises `ConfigurationError` for values that would not come back."""
        envelope = {"schema": self._cls.schema_version, "nonces": list(nonces), "values": self._codec.to_tree(values)}
        return dump({**envelope, "typed": typed} if typed else envelope)

    def prepare(self, save: Save, *, shared: bool) -> tuple[Version | None, list[Write], None]:
        if not save.changed and (shared or save.stored is None):
            # As its class makes it, and stored with its first change: till then its nonces are kept beside it.
            # Other processes would not load what has no other version.
            return save.stored, _nonce_writes(save, shared=shared), None
        identifier, data = save.identifier, self.encode(save.values, save.nonces, save.typed)
        write = Write(identifier.key, save.stored, save.version, data, save.ttl, identifier.session_id)
        return save.version, [write], None

    def shared_key(self, identifier: StateIdentifier) -> str:
        return identifier.key

    async def delete(self, identifier: StateIdentifier) -> None:
        async with reported(f"{identifier.key} could not be deleted", self.timeout):
            await self.store.delete([identifier.key])

    async def forget_version(self, identifier: StateIdentifier) -> None:
        pass  # it went with the state


class RecordPersistence(Persistence):
    """Keeps the states of one class in rows. Lifetime: the class's registration.

    `to_state` makes field values of a row (both dicts), `to_row` a row of a state; without them the class's fields are
    columns. Nonces are kept in `store`, where there is one: a row has no place for them. Raises `ConfigurationError`
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
        self.source = source
        self.timeout = timeout
        self.store = store
        columns: Mapping[str, str] | None = getattr(source, "columns", None)
        self._columns: Mapping[str, str] = columns if isinstance(columns, Mapping) else {}
        if to_row is None:
            _refuse_other_columns(cls, columns, getattr(source, "version_column", None))
            _refuse_unfit_columns(cls, getattr(source, "gives", {}), self._columns)
        self._cls = cls
        self._to_state = to_state
        self._to_row = to_row
        self.proven: set[tuple[str, Any] | None] = set()
        """Counts what came back from rows that are loaded once more behind each save, and is not looked at again."""

    async def load(self, identifier: StateIdentifier) -> Found | None:
        """The row as a state, or None. Raises `PersistenceError` for a row that does not fit the class, too."""
        if not isinstance(self.store, SharedStore):
            return await self._load_row(identifier)
        key = mark_key(identifier)
        for _ in range(MARK_TRIES):
            # Before the row: one that is saved meanwhile is newer than what this says, and never older.
            async with reported(f"the version of {identifier.key} could not be loaded", self.timeout):
                marked = await self.store.load(key)
            found = await self._load_row(identifier)
            if found is None:
                return None
            counted = found.version.epoch == COUNTED
            if marked is not None:
                # All processes call one version of a row by one name, though it counts none itself.
                return found._replace(version=found.version if counted else marked.version, mark=marked.version)
            async with reported(f"the version of {identifier.key} could not be stored", self.timeout):
                try:
                    await self.store.save(Write(key, None, found.version, b"", MARK_TTL))
                except VersionConflict:
                    continue
            return found._replace(mark=found.version)
        raise PersistenceError(f"{identifier.key} keeps changing while it is loaded")

    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Found | None:
        return await self.load(identifier)

    async def _load_row(self, identifier: StateIdentifier) -> Found | None:
        record_id = str(identifier.record_id)
        async with reported(f"the row of {identifier.key} could not be loaded", self.timeout):
            row = await self.source.load(record_id)
            if row is None:
                return None
            values = self._values_of(row.values)
            try:
                state = _of_row(self._cls, values)
            except ValidationError as error:
                table = getattr(self.source, "name", None)
                where = f"{record_id!r} in the table {table!r}" if isinstance(table, str) else f"{record_id!r}"
                raise RowUnreadableError(
                    f"the row of {identifier.key} ({where}) does not fit {self._cls.__name__}: "
                    f"{_without_values(redacted(error, self._cls, values))}. No page, event or modify() can use it "
                    "until the row is mended in the database; call provider.refresh() then"
                ) from None  # pydantic's own error shows the values
            version = Version(secrets.token_hex(6), 1) if row.version is None else Version(COUNTED, row.version)
            return Found(state, version)

    def _values_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The field values of a row. Raises `ConfigurationError` where some are missing, and what `to_state` raises."""
        cls = self._cls
        row = {name: _of_driver(value) for name, value in row.items()}
        values = columns_to_fields(row, cls) if self._to_state is None else self._fields_of(row)
        if missing := [n for n, f in cls.__pydantic_fields__.items() if n not in values and f.is_required()]:
            raise ConfigurationError(
                f"{cls.__name__}.{missing[0]} is no column of its row, which has {', '.join(row)}: {REMEDY}"
            )
        return {name: value for name, value in values.items() if name in cls.__pydantic_fields__}

    def _fields_of(self, row: dict[str, Any]) -> dict[str, Any]:
        made: Any = cast(Any, self._to_state)(row)
        if isinstance(made, ReactiveState):  # as the name says
            return {name: getattr(made, name) for name in type(made).__pydantic_fields__}
        if not isinstance(made, Mapping):
            raise ConfigurationError(f"to_state returns field values, a dict, not {type(made).__name__}")
        return dict(made)

    def prepare(self, save: Save, *, shared: bool) -> tuple[Version | None, list[Write], RowChange | None]:
        change, writes = self.change(save), _nonce_writes(save, shared=shared)
        if not change.changed:
            return save.stored, writes, None  # no row is written, and counts no further
        return save.version, writes, change

    def shared_key(self, identifier: StateIdentifier) -> str:
        return mark_key(identifier)

    def is_uncounted(self, stored: Version | None) -> bool:
        return stored is None or stored.epoch != COUNTED

    def change(self, save: Save) -> RowChange:
        """What a commit changes of the row: those columns alone that are others than before."""
        is_held: Callable[[str], bool] | None = None
        is_whole = self._to_row is not None or self._cls._fs_schema().checks_whole
        if self._to_row is None:
            changed = {name: plain(save.values[name]) for name in save.changed}
        else:
            before, after = self._to_row(save.old), self._row_of(save, save.values)
            changed = {name: plain(after[name]) for name in _others(before, after)}

            def is_held(name: str) -> bool:
                return bool(_others(before, self._row_of(save, {**save.old.__dict__, name: save.values[name]})))

        def loaded(row: Mapping[str, Any]) -> Mapping[str, Any]:
            return _of_row(self._cls, self._values_of(row)).__dict__ if is_whole else self._fields_from(save, row)

        check = RowCheck(
            self._cls, save.values, save.changed, loaded, self._columns, is_held, save.taken, whole=is_whole
        )
        counted = save.stored is not None and save.stored.epoch == COUNTED
        version = save.stored.number if save.stored is not None and counted else None
        return RowChange(self.source, str(save.identifier.record_id), changed, version, check)

    def undoing(self, save: Save, change: RowChange, version: int | None) -> RowChange:
        """Returns the change that puts back the old values of `change`, whose row has this `version` now."""
        before = save.old.__dict__ if self._to_row is None else self._to_row(save.old)
        columns = {name: plain(before[name]) for name in change.changed if name in before}
        return RowChange(self.source, change.record_id, columns, version)

    def _row_of(self, save: Save, values: Mapping[str, Any]) -> Mapping[str, Any]:
        to_row = cast(Callable[[Any], Mapping[str, Any]], self._to_row)
        return to_row(self._cls._blank(dict(values), save.old.__pydantic_private__))

    def _fields_from(self, save: Save, row: Mapping[str, Any]) -> dict[str, Any]:
        """The changed fields, by name, as they would be loaded from these columns. Raises `ValidationError`."""
        cls = self._cls
        found = columns_to_fields({name: _of_driver(row[name]) for name in save.changed if name in row}, cls)
        try:
            return revalidation_of(cls).load_some(found)
        except ValidationError as error:
            return revalidation_of(cls).load_some(_read_by_validators(cls, found, error, dict(save.values)))

    async def delete(self, identifier: StateIdentifier) -> None:
        async with reported(f"the row of {identifier.key} could not be deleted", self.timeout):
            await self.source.delete(str(identifier.record_id))

    async def forget_version(self, identifier: StateIdentifier) -> None:
        if self.store is not None:
            await self.store.delete([mark_key(identifier)])


def _refuse_unfit_defaults(cls: type[ReactiveState]) -> None:
    """Reports at registration a default that would be refused when it is loaded: pydantic takes defaults as given."""
    defaults = {
        name: copy.deepcopy(field.default)
        for name, field in cls.__pydantic_fields__.items()
        if field.default_factory is None and not field.is_required() and not field.validate_default
    }
    if cls.model_config.get("validate_default"):
        return  # then pydantic does not take them as given
    try:
        revalidation_of(cls).load_some(defaults)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message = explained(error, cls, values=defaults)[0][1]
        raise ConfigurationError(
            f"the default of {cls.__name__}.{problem['loc'][0]} does not fit the field: it could be stored, and not be "
            f"loaded again ({message}). Change it, or use StateConfig(in_memory=True)"
        ) from None


def _others(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The columns of `after` that are others than `before`, in value or type."""
    return [name for name in after if name not in before or difference(after[name], before[name]) is not None]


def _refuse_unfit_columns(cls: type[ReactiveState], gives: Mapping[str, type], columns: Mapping[str, str]) -> None:
    """Reports a field that takes nothing of what its column gives, a text in a column of numbers for example."""
    decorators = cls.__pydantic_decorators__
    if decorators.model_validators or decorators.root_validators:
        return  # which may make of the row what they like
    validated = {name for each in decorators.field_validators.values() for name in each.info.fields}
    for name, field in cls.__pydantic_fields__.items():
        own_code = "*" in validated or name in validated or any(hasattr(mark, "func") for mark in field.metadata)
        if name not in gives or own_code:
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, field.annotation))
        except (PydanticUserError, NameError):  # a type that only its class knows what to do with
            continue
        if not any(_takes(adapter, sample) for sample in _SAMPLES.get(gives[name], ())):
            raise ConfigurationError(
                f"{cls.__name__}.{name} cannot be kept in the column {name} ({columns.get(name)}), which gives "
                f"{gives[name].__name__}: give the column another type (a text keeps most), or give to_state and to_row"
            )


_SAMPLES: Final[dict[type, tuple[Any, ...]]] = {
    bool: (True,),
    int: (1,),
    float: (1.0,),
    decimal.Decimal: (decimal.Decimal(1),),
    datetime.date: (datetime.date(2000, 1, 1),),
    datetime.datetime: (datetime.datetime(2000, 1, 1), datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)),
    datetime.time: (datetime.time(0), datetime.time(0, tzinfo=datetime.UTC)),
    datetime.timedelta: (datetime.timedelta(0),),
    uuid.UUID: (uuid.UUID(int=0),),
}


def _takes(adapter: TypeAdapter[Any], sample: Any) -> bool:
    """Tells whether a type takes values such as `sample`, if perhaps not this one."""
    try:
        adapter.validate_python(sample)
    except ValidationError as error:
        return not all(problem["type"].endswith(("_type", "_parsing")) for problem in error.errors())
    return True


def _refuse_other_columns(cls: type[ReactiveState], columns: Iterable[str] | None, counted: str | None) -> None:
    for name in cls.__pydantic_fields__:
        if columns is not None and name not in columns:
            raise ConfigurationError(
                f"{cls.__name__}.{name} is no column of the table, which has {', '.join(columns)}: {REMEDY}"
            )
        if name == counted:
            raise ConfigurationError(
                f"{cls.__name__}.{name} is the column that counts the row's versions, which no event can set: leave "
                "it out of the class"
            )


async def save_rows(
    saves: Iterable[Save], also: Sequence[Write], seconds: float, *, shared: bool
) -> tuple[list[Version | None], list[Write]]:
    """Saves the rows of what a commit changed, and gives what is to be written to the store behind them.

    Gives also which versions are stored then, in the order of `saves`. All rows of one database are saved together or
    not at all; each database has so many `seconds`. `also` are further changes of the store, which is `shared` with
    other processes or not. Raises `VersionConflict`, `StateNotFoundError` for a row that is gone, `PersistenceError`.
    """
    saves = list(saves)
    writes = list(also)
    rows: dict[int, list[tuple[int, RowChange]]] = {}
    versions: list[Version | None] = []
    for place, save in enumerate(saves):
        version, own, change = save.persistence.prepare(save, shared=shared)
        versions.append(version)
        writes += own
        if change is not None:
            database = change.source.database
            together = id(database if database is not None else change.source)
            rows.setdefault(together, []).append((place, change))
    done: list[tuple[Save, RowChange, int | None]] = []
    for group in rows.values():
        names = ", ".join(saves[place].identifier.key for place, _ in group)
        try:
            async with reported(f"the rows of {names} could not be saved", seconds):
                counted = await _save_group([change for _, change in group])
            made = [(saves[place], change, number) for (place, change), number in zip(group, counted, strict=True)]
            done += made
            for save, change, number in made:
                await _look_again(save, change, number, seconds)
        except RowValueError:
            for save, change, number in reversed(done):
                await _put_back(save, change, number, seconds)
            raise
        for (place, _), number in zip(group, counted, strict=True):
            if number is not None:
                versions[place] = Version(COUNTED, number)
    return versions, writes


async def _save_group(changes: Sequence[RowChange]) -> Sequence[int | None]:
    """Saves rows of one database; what is refused there since a value does not fit is a `RowValueError`."""
    try:
        return await changes[0].source.save(changes)
    except FastStateError:
        raise
    except Exception as error:
        if len(changes) > 1 or not is_about_values(error):
            raise
        (change,) = changes  # the driver's own message may show the values
        raise change.refusal(f"a new value ({type(error).__name__})", *change.changed) from None


async def _look_again(save: Save, change: RowChange, version: int | None, seconds: float) -> None:
    """Asks the guard of a row that was saved by what does not ask it while that can be undone. Raises as the guard."""
    check, persistence = cast(RowCheck, change.guard), cast(RecordPersistence, save.persistence)
    if check.asked:
        return
    kinds = {_small(name, value) for name, value in change.changed.items()}
    if kinds <= persistence.proven:
        return
    async with reported(f"the row of {save.identifier.key} could not be loaded", seconds):
        row = await change.source.load(change.record_id)
        # Where it is gone, or another version by now, somebody else has changed it since: there is nothing to compare.
        if row is not None and row.version == version:
            check.check(row.values)
            persistence.proven |= kinds - {None}


def _small(column: str, value: Any) -> tuple[str, Any] | None:
    """Returns what a small number shares with all that come back from a column if it does; None for other values.

    Small is what the narrowest column of numbers holds exactly: 24 bits, as a float of 32 bits does.
    """
    if value is None or type(value) is bool:
        return column, value
    is_small = type(value) is int and value.bit_length() <= 24
    return (column, (value.bit_length(), value < 0)) if is_small else None


async def _put_back(save: Save, change: RowChange, version: int | None, seconds: float) -> None:
    """Undoes the change of a row whose commit is refused."""
    persistence = cast(RecordPersistence, save.persistence)
    async with reported(f"the row of {save.identifier.key} could not be put back as it was", seconds):
        with contextlib.suppress(StateNotFoundError):
            await change.source.save([persistence.undoing(save, change, version)])


async def write_all(writes: Sequence[Write], store: StateStore, seconds: float) -> None:
    """Makes all changes of the store, or none, within so many `seconds`. Raises as the store does."""
    async with reported(f"{', '.join(write.key for write in writes)} could not be saved", seconds):
        await (store.save(writes[0]) if len(writes) == 1 else store.save_many(writes))


def mark_key(identifier: StateIdentifier) -> str:
    """Where a store of many processes has a row's version."""
    return f"{MARK}:{identifier.key}"


def _nonce_group(identifier: StateIdentifier) -> str:
    return f"{NONCE}:{identifier.key}"


def nonce_key(identifier: StateIdentifier, nonce: str) -> str:
    """Where a nonce (its digest) is kept beside its state."""
    return f"{_nonce_group(identifier)}:{nonce}"


def nonce_beside(identifier: StateIdentifier, nonce: str, *, grouped: bool) -> Write:
    """The change of the store that keeps a nonce (its digest) beside its state.

    `grouped` has it be found by the state, which takes it over with its first save; else it is looked for by itself.
    """
    group = _nonce_group(identifier) if grouped else None
    return Write(nonce_key(identifier, nonce), None, Version("", 1), b"", NONCE_AGE, group)


def _nonce_writes(save: Save, *, shared: bool) -> list[Write]:
    if save.nonce is None or save.persistence.store is None:
        return []
    return [nonce_beside(save.identifier, save.nonce, grouped=not shared)]


def _migrates(cls: type[ReactiveState]) -> bool:
    """Whether the class, or one that it is made of, has a `migrate` of its own."""
    return next(klass for klass in cls.__mro__ if "migrate" in vars(klass)) is not ReactiveState


def _validated(cls: type[ReactiveState], values: dict[str, Any]) -> ReactiveState:
    return cast(ReactiveState, validate(cls, values))


def _of_driver(value: Any) -> Any:
    """A value as Python has it, where a driver has a class of its own for it: asyncpg's UUID."""
    return UUID(int=value.int) if isinstance(value, UUID) and type(value) is not UUID else value


def _of_row(cls: type[ReactiveState], values: dict[str, Any]) -> ReactiveState:
    """A state of a row's values: as they are where their types fit, else through all validators of the class.

    A validator that converts made them what they are when they were set, and must not convert them again. One that
    reads what a column holds (a list from text with commas) is asked, since such a value does not fit as it is.
    """
    try:
        return _validated(cls, values)
    except ValidationError as error:
        try:
            return _validated(cls, _read_by_validators(cls, values, error, {}))
        except ValidationError:
            if not cls._fs_schema().checks_whole:
                raise
        # A validator of the whole state may make fields that are no columns.
        made: ReactiveState = cls.__pydantic_validator__.validate_python(values, by_alias=False, by_name=True)
        return made


def _read_by_validators(
    cls: type[ReactiveState], values: Mapping[str, Any], error: ValidationError, beside: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` with those that did not fit (as `error` says) as their fields' own validators make them.

    `beside` are the values that these may look at. Raises `ValidationError` where they do not fit either.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    unfit = {str(problem["loc"][0]) for problem in problems if problem["loc"]}
    given = {**beside, **values}
    kept = Kept({name: value for name, value in given.items() if name not in unfit}, {})
    found = revalidation_of(cls).assign(given, kept)
    return {name: found[name] for name in values}


def _without_values(error: BaseException) -> str:
    """Describes a `redacted` error for the log."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'state'}: {p['msg']}" for p in problems[:5])
    return type(error).__name__
