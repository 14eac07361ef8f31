"""Base: the interface of both kinds of persistence, what goes in and out of them, and their keys in a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

from ...scopes import StateIdentifier, Version
from ...state.reactive import ReactiveState
from ...stores.base import SharedStore, StateStore, Stored, Write
from .row_save import RowSave

NONCE_AGE: Final = 300.0
"""Seconds that a nonce is kept in a store: a browser that found no server tries again when there is one."""

MARK_TTL: Final = 7 * 86_400.0
"""Seconds that a mark is kept. A process that still has the row in memory then loads it again."""


class Loaded(NamedTuple):
    """A state as it was loaded: a plain instance, its version, the nonces of its last events, seconds left to live.

    `mark` is the version that a store of many processes has of a row. `typed` holds, by page (its connection's id) and
    bound field, the number of the last event that set it.
    """

    state: ReactiveState
    version: Version
    nonces: Sequence[str] = ()
    ttl: float | None = None
    mark: Version | None = None
    typed: Mapping[str, Mapping[str, int]] = {}


@dataclass(slots=True)
class Save:
    """One state's part of a commit, as its persistence saves it. Lifetime: the commit.

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
    typed: Mapping[str, Mapping[str, int]] | None = None
    rounded: dict[str, Any] = field(default_factory=dict)
    """Numbers as their row gives them back, by field: with other decimal places than they were set."""


class Persistence(ABC):
    """How the states of one class outlive the process. Lifetime: the class's registration with a provider."""

    in_store: ClassVar[bool]
    """True if `store` holds the states themselves, with their versions, expiry and the nonces of their last events.
    Else they are rows elsewhere: they never expire, must exist before they are used, and keep no nonces."""

    store: StateStore | None
    """Where it keeps bytes. It holds the states themselves, or the nonces and marks of rows."""

    kept_aside: int = 0
    """Stored states that did not fit the class any more, and were moved to a key of their own."""

    def __init__(self, store: StateStore | None, timeout: float) -> None:
        self.timeout = timeout
        self.use_store(store)

    def use_store(self, store: StateStore | None) -> None:
        """Keep in this store, from now on, what is to be kept in one."""
        self.store = store
        self.is_shared = isinstance(store, SharedStore)  # 45 µs with Python 3.11, and asked with each load
        """True if other processes use the store as well."""

    @abstractmethod
    async def load(self, identifier: StateIdentifier) -> Loaded | None:
        """Load a state; None if there is none. Raises `PersistenceError`."""

    @abstractmethod
    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Loaded | None:
        """Load a state for which the store has `stored` under its shared key. Raises `PersistenceError`."""

    @abstractmethod
    async def delete(self, identifier: StateIdentifier) -> None:
        """Delete a state. Raises `PersistenceError`."""

    async def delete_mark(self, identifier: StateIdentifier) -> None:  # noqa: B027  # only rows have one
        """Delete the version that the store has of a deleted row. Raises `PersistenceError`."""

    @abstractmethod
    def prepare(self, save: Save) -> tuple[Version | None, list[Write], RowSave | None]:
        """Return the version that `save` leaves behind, what it writes to the store, and the row that it saves.

        Raises `ConfigurationError` for values that would not come back as they are.
        """

    @abstractmethod
    def shared_key(self, identifier: StateIdentifier) -> str:
        """Return the key under which a store of many processes has the state, or the mark of its row."""

    def encode(
        self,
        values: Mapping[str, Any],
        nonces: Sequence[str],
        typed: Mapping[str, Mapping[str, int]] | None = None,
    ) -> bytes:
        """Return the bytes that the store keeps of a state's values, none of a row's. Raises as `prepare`."""
        return b""

    def decode(self, stored: Stored) -> Loaded | None:
        """Return the state whose bytes the store has; None for a row, of which it has none."""
        return None

    async def separate_nonces(self, identifier: StateIdentifier) -> list[str]:
        """Load the nonces that the first save of a state takes over. Raises `PersistenceError`."""
        return []

    def is_uncounted(self, stored: Version | None) -> bool:
        """True if nothing keeps a state of this version from being saved over a newer one: a row without a version."""
        return False


def mark_key(identifier: StateIdentifier) -> str:
    """Return the key of a row's mark: its version, as a store of many processes has it. No scope is called "row"."""
    return f"row:{identifier.key}"


def nonce_group(identifier: StateIdentifier) -> str:
    """Return the group of the nonces that the first save of a state takes over. No scope is called "nonce"."""
    return f"nonce:{identifier.key}"


def nonce_key(identifier: StateIdentifier, nonce: str) -> str:
    """Return the key under which a nonce (its digest) is kept apart from its state."""
    return f"{nonce_group(identifier)}:{nonce}"


def separate_nonce(identifier: StateIdentifier, nonce: str, *, grouped: bool) -> Write:
    """Return the write that keeps a nonce (its digest) apart from its state.

    If it is `grouped`, the state finds it and takes it over with its first save. Else it is found by its key.
    """
    group = nonce_group(identifier) if grouped else None
    return Write(nonce_key(identifier, nonce), None, Version("", 1), b"", NONCE_AGE, group)


def nonce_writes(save: Save) -> list[Write]:
    """Return the writes that keep the new nonce of `save` apart from its state."""
    if save.nonce is None or save.persistence.store is None:
        return []
    return [separate_nonce(save.identifier, save.nonce, grouped=not save.persistence.is_shared)]
