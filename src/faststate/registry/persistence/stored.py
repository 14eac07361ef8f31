"""Stored states: each is kept whole in a store, as JSON."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from ...exceptions import PersistenceError
from ...redaction import redacted
from ...scopes import StateIdentifier, Version
from ...state.reactive import ReactiveState
from ...stores.base import StateStore, Stored, Write
from .base import Loaded, Persistence, Save, nonce_group, nonce_writes
from .class_checks import refuse_unfit_defaults
from .codec import Codec, from_tree, load, validate
from .encoding import dump
from .failures import described, persistence_errors

logger = logging.getLogger("faststate")

KEPT_ASIDE: Final = 90 * 86_400.0
"""Seconds that stored data which no longer fits its class is kept: time to see the report and write a `migrate`."""

ASIDE: Final = "aside"
"""Group, and first part of the key, of what is kept aside. No scope has this name."""


class StorePersistence(Persistence):
    """Keeps the states of one class in a store, as JSON with the class's schema version and the last nonces.

    Lifetime: the class's registration. Raises `ConfigurationError` for a default that its own field does not take: such
    a state would not come back.
    """

    in_store = True
    store: StateStore

    def __init__(self, store: StateStore, cls: type[ReactiveState], timeout: float) -> None:
        super().__init__(store, timeout)
        self._cls = cls
        self._codec = Codec(cls)
        refuse_unfit_defaults(cls)

    async def load(self, identifier: StateIdentifier) -> Loaded | None:
        """Load a state; None if there is none, or if it no longer fits the class and was moved to a key of its own."""
        key = identifier.key
        async with persistence_errors(f"{key} could not be loaded", self.timeout):
            return await self.find(identifier, await self.store.load(key))

    async def find(self, identifier: StateIdentifier, stored: Stored | None) -> Loaded | None:
        """Return the state that is `stored`, as `load`.

        In a store of many processes data that does not fit stays where it is, and raises a `PersistenceError`.
        """
        if stored is None:
            return None
        try:
            return self.decode(stored)
        except Exception as error:
            if self.is_shared:
                # A process of another version of the class may have stored it just now, and go on with it.
                raise PersistenceError(
                    f"what is stored under {identifier.key} does not fit {self._cls.__name__} here, and is left where "
                    f"it is: {described(error)}"
                ) from None
            await self._put_aside(identifier.key, stored.version, stored.data, error)
            return None

    def encode(
        self,
        values: Mapping[str, Any],
        nonces: Sequence[str],
        typed: Mapping[str, Mapping[str, int]] | None = None,
    ) -> bytes:
        envelope = {"schema": self._cls.schema_version, "nonces": list(nonces), "values": self._codec.to_tree(values)}
        return dump({**envelope, "typed": typed} if typed else envelope)

    def decode(self, stored: Stored) -> Loaded:
        """Return the state that is stored. Raises any error where it does not fit the class, without hidden values."""
        envelope = load(stored.data)
        typed = {
            str(page): {str(name): int(number) for name, number in fields.items()}
            for page, fields in envelope.get("typed", {}).items()
            if isinstance(fields, dict)
        }
        nonces = [str(nonce) for nonce in envelope["nonces"]]
        return Loaded(self._state_of(envelope), stored.version, nonces, stored.ttl, typed=typed)

    def _state_of(self, envelope: Mapping[str, Any]) -> ReactiveState:
        cls = self._cls
        schema_version = int(envelope["schema"])
        values = from_tree(envelope["values"])
        fields = cls.__pydantic_fields__
        # Where the store is shared, the newer version lives on beside this one.
        if schema_version > cls.schema_version and (self.is_shared or not _migrates(cls)):
            raise ValueError("stored by a newer version of the class, and there is no migrate that knows it")
        given = dict(values)  # migrate may change what it is given
        try:
            if schema_version != cls.schema_version or values.keys() != fields.keys():
                migrated = cls.migrate(values, schema_version)
                values = {name: value for name, value in migrated.items() if name in fields}
            return cast(ReactiveState, validate(cls, values))
        except Exception as error:
            raise redacted(error, cls, given) from None

    async def _put_aside(self, key: str, version: Version, data: bytes, error: Exception) -> None:
        # The random end keeps it apart from data that was put aside before, brought back, and did not fit again.
        aside = f"{ASIDE}:{key}:{version.epoch}.{version.number}.{secrets.token_hex(3)}"
        kept = Write(aside, None, version, data, KEPT_ASIDE, ASIDE)
        await self.store.save_many([kept, Write(key, version, version, None)])
        self.kept_aside += 1
        logger.error(
            "what is stored under %s does not fit %s any more, and is kept as %s: %s",
            key, self._cls.__name__, aside, described(error),
        )  # fmt: skip

    async def separate_nonces(self, identifier: StateIdentifier) -> list[str]:
        """Load the nonces (digests) that were kept apart while the state itself was not stored."""
        if self.is_shared:
            return []  # each is looked for by itself
        group = nonce_group(identifier)
        async with persistence_errors(f"the nonces of {identifier.key} could not be loaded", self.timeout):
            return [key.removeprefix(f"{group}:") for key in await self.store.group(group)]

    def prepare(self, save: Save) -> tuple[Version | None, list[Write], None]:
        if not save.changed and (self.is_shared or save.stored is None):
            # A state as its class makes it is stored with its first change. Until then its nonces are kept apart. Other
            # processes would not load a state whose version is the same.
            return save.stored, nonce_writes(save), None
        identifier, data = save.identifier, self.encode(save.values, save.nonces, save.typed)
        write = Write(identifier.key, save.stored, save.version, data, save.ttl, identifier.session_id)
        return save.version, [write], None

    def shared_key(self, identifier: StateIdentifier) -> str:
        return identifier.key

    async def delete(self, identifier: StateIdentifier) -> None:
        async with persistence_errors(f"{identifier.key} could not be deleted", self.timeout):
            await self.store.delete([identifier.key])


def _migrates(cls: type[ReactiveState]) -> bool:
    """True if the class, or one of its bases, defines a `migrate` of its own."""
    return next(klass for klass in cls.__mro__ if "migrate" in vars(klass)) is not ReactiveState
