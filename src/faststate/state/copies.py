"""Snapshots and working copies of a state: how an instance is read, set, copied and encoded as either of them.

A committed snapshot is frozen and shared by all readers. A working copy is made of it for one transaction, and thaws a
field when that is first touched.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .._compat.pydantic import mark_base_init, put_extra, put_fields_set, put_private, put_values
from ..exceptions import EventError, NotStartedError, ReadOnlyStateError
from ..redaction import explain, redacted
from ..scopes import StateIdentifier
from ..validation.scalars import SCALARS, UnshowableError
from ..wire.values import to_wire
from .containers import REMEDY
from .events import Event
from .models import unlocked
from .schema import EVERYTHING_SHOWN, PLAIN, Schema
from .serving import ServingProvider, nobody_asking
from .values import Thaw, freeze, is_container
from .views import View

INITIAL: Final = "initial"
"""The epoch of a state that is as its class makes it begins with this: nobody has changed it, and all are one."""

_NONE: Final[Mapping[Any, Any]] = types.MappingProxyType({})


class SnapshotInfo:
    """The identity, version and caches of a committed snapshot. Lifetime: until the next commit and its last reader.

    A snapshot with hidden fields, as some viewers have it, knows the `full` one. The full one keeps these in `seen`, by
    what is hidden. `provider` is the provider that it came from; None if its registry has no provider.
    """

    __slots__ = (
        "commit", "encoded", "epoch", "frames", "full", "identifier", "namespace", "provider", "seen",
        "version", "views",
    )  # fmt: skip

    def __init__(
        self,
        identifier: StateIdentifier,
        version: int,
        commit: int,
        encoded: dict[str, Any],
        provider: ServingProvider | None,
        full: Any = None,
        *,
        epoch: str = INITIAL,
    ) -> None:
        self.full = full
        self.epoch = epoch
        # Most snapshots are never asked for these: one empty mapping for all is 192 bytes less for each.
        self.seen: Mapping[frozenset[str], Any] = _NONE
        self.views: Mapping[str, str] = _NONE
        self.frames: Mapping[frozenset[str], bytes] = _NONE
        self.identifier = identifier
        self.namespace = identifier.namespace
        self.version = version
        self.commit = commit
        self.encoded = encoded
        self.provider = provider


class WorkingInfo(Thaw):
    """The base and the thawed values of a working copy. Lifetime: one transaction, or one step of a generator."""

    __slots__ = ("base", "frozen", "schema", "validated")

    def __init__(self, base: StateModel, schema: Schema) -> None:
        super().__init__()
        self.base = base
        self.schema = schema
        self.frozen: dict[str, Any] = {}
        self.validated: dict[str, Any] = {}  # values that were validated when they were set

    def start(self) -> dict[str, Any]:
        """Return the values that the copy begins with; it thaws all others when they are asked for."""
        values = fields_of(self.base, self.schema)
        for name, value in values.items():
            if type(value) not in SCALARS and is_container(value):
                self.frozen[name] = value
        for name in self.frozen:
            del values[name]
        return values


def fields_of(state: BaseModel, schema: Schema) -> dict[str, Any]:
    """Return the field values of a snapshot, without what functools.cached_property may have stored beside them."""
    held: dict[str, Any] = state.__dict__
    return held.copy() if len(held) == len(schema.fields) else {name: held[name] for name in schema.fields}


class StateModel(BaseModel):
    """The values of a `ReactiveState`: how an instance is read, set and copied in each of its three lives."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,  # a value that does not fit may be one that nobody is to see
        ignored_types=(Event, View),
        ser_json_bytes="base64",
        ser_json_inf_nan="constants",
    )
    __slots__ = ("_fs",)
    __iter__ = None  # type: ignore[assignment]  # a pydantic model iterates over its fields, which FastHTML would render

    _full_class: ClassVar[type[Any] | None] = None  # of the class of snapshots with hidden fields
    _hidden_here: ClassVar[frozenset[str]] = EVERYTHING_SHOWN

    if TYPE_CHECKING:
        _fs: SnapshotInfo | WorkingInfo | None

    @classmethod
    def _fs_schema(cls) -> Schema:
        """Return the schema of the class, read when it is first needed: types may be declared after the class."""
        schema: Schema | None = cls.__dict__.get("_fs_schema_")
        if schema is None:
            cls.model_rebuild()
            schema = Schema(cls)
            type.__setattr__(cls, "_fs_schema_", schema)
        return schema

    if not TYPE_CHECKING:  # a declared __init__ would hide the fields from type checkers

        def __init__(self, /, **values: Any) -> None:
            if self._fs is not None:  # only `state.__init__(...)` comes here, which would set a snapshot's fields
                raise ReadOnlyStateError(f"this {type(self).__name__} exists already; {REMEDY}")
            super().__init__(**values)

        mark_base_init(__init__)

        def __setstate__(self, state: dict[Any, Any]) -> None:
            if self._fs is not None:
                raise ReadOnlyStateError(f"this {type(self).__name__} exists already; {REMEDY}")
            super().__setstate__(state)

        # A declared __getattr__ would hide misspelt fields from type checkers.
        def __getattr__(self, name: str) -> Any:
            if name == "_fs":
                return None
            info = self._fs
            if type(info) is WorkingInfo and name in info.frozen:
                value = info.thaw(info.frozen.pop(name))
                self.__dict__[name] = value
                return value
            return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        info = self._fs
        if type(info) is WorkingInfo and not name.startswith("_"):
            info.guard.check()
            info.frozen.pop(name, None)
            if name in info.schema.assignable:  # pydantic would set it the same way, after more checks
                self.__dict__[name] = value
                return
            super().__setattr__(name, value)
            info.validated[name] = freeze(self.__dict__[name])  # by a class with validate_assignment
            return
        if info is not None and not name.startswith("_"):
            raise ReadOnlyStateError(f"{type(self).__name__}.{name}: this state is a committed snapshot; {REMEDY}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._fs is not None and not name.startswith("_"):
            raise ReadOnlyStateError(f"{type(self).__name__}.{name}: a field of a state cannot be deleted")
        super().__delattr__(name)

    # -- from one life to another

    @classmethod
    def _holding(cls, values: dict[str, Any], private: Any) -> Self:
        """Make an instance with these field values and private attributes, which belongs to nobody yet."""
        return _made_of(cls, cls._fs_schema(), values, private)

    def _frozen_values(self) -> dict[str, Any]:
        """Freeze the field values. Raises `EventError` for one that cannot be kept or shown."""
        values = self.__dict__  # besides the fields it holds what functools.cached_property remembers
        frozen = {}
        for name in type(self).__pydantic_fields__:
            try:
                frozen[name] = freeze(values[name])
            except (ValidationError, UnshowableError) as error:
                refuse_value(type(self), error, name, values=values)
        return frozen

    def _frozen_copy(self) -> Self:
        """Make an instance with the values of this one, frozen, which is to become a committed snapshot."""
        return self._holding(self._frozen_values(), self.__pydantic_private__)

    def _commit(self, committed: SnapshotInfo) -> Self:
        """Make a committed snapshot of this instance, which holds frozen values and belongs to nobody yet."""
        _put_fs(self, committed)
        return self

    @property
    def _is_committed(self) -> bool:
        return type(self._fs) is SnapshotInfo

    @property
    def _committed(self) -> SnapshotInfo:
        """The info of a snapshot. Raises `NotStartedError` for any other instance."""
        info = self._fs
        if type(info) is not SnapshotInfo:
            raise NotStartedError(f"this {type(self).__name__} is not a snapshot that a provider gave")
        return info

    @property
    def _snapshot(self) -> SnapshotInfo | None:
        """The info of this snapshot, or of the one that this working copy was made of; None for any other instance."""
        info = self._fs
        if type(info) is WorkingInfo:
            info = info.base._fs
        return info if type(info) is SnapshotInfo else None

    def _working(self) -> Self:
        """Make a working copy of this committed snapshot; it thaws a container when that is first touched."""
        cls = type(self)
        info = WorkingInfo(self, cls._fs_schema())
        made = _made_of(cls, info.schema, info.start(), self.__pydantic_private__)
        _put_fs(made, info)
        return made

    def _rebase(self, base: StateModel) -> None:
        """Start this working copy again from `base`; changing a value that was read before raises."""
        self._close()
        info = WorkingInfo(base, type(base)._fs_schema())
        object.__setattr__(self, "__dict__", info.start())
        object.__setattr__(self, "_fs", info)

    def _close(self) -> None:
        """End a working copy: from now on, changing one of its values raises."""
        info = self._fs
        if type(info) is WorkingInfo:
            info.close()

    # -- for pydantic's own methods

    def _all_thawed(self) -> Self:
        """Thaw every field and return this instance: pydantic's methods look for the fields in `__dict__`."""
        info = self._fs
        if type(info) is WorkingInfo:
            for name in list(info.frozen):
                getattr(self, name)
        return self

    def _unlocked(self, names: AbstractSet[str], schema: Schema) -> Self:
        """Return an instance with builtin containers in place of a state's, for pydantic to serialise `names`."""
        held = self._all_thawed().__dict__
        wanted = schema.fields if not names.isdisjoint(schema.computed) else names
        locked = [name for name in wanted if name in held and type(held[name]) not in SCALARS]
        if not locked:
            return self
        made = _made_of(
            type(self), schema, {**held, **{name: unlocked(held[name]) for name in locked}}, self.__pydantic_private__
        )
        if self._fs is not None:
            _put_fs(made, self._fs)
        return made

    def _all_unlocked(self) -> Self:
        schema = type(self)._fs_schema()
        return self._unlocked(schema.names, schema) if self._fs is not None else self

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        if type(self)._full_class is not None:
            kwargs.setdefault("warnings", False)  # that a hidden field holds None and not what it is declared as
        return BaseModel.model_dump(self._all_unlocked(), **kwargs)

    def model_dump_json(self, **kwargs: Any) -> str:
        if type(self)._full_class is not None:
            kwargs.setdefault("warnings", False)
        return BaseModel.model_dump_json(self._all_unlocked(), **kwargs)

    def __copy__(self) -> Self:
        """Make a copy that belongs to no provider, and may be changed."""
        self._all_thawed()
        return self._holding(
            {name: copy.deepcopy(value) for name, value in self.__dict__.items()}, copy.copy(self.__pydantic_private__)
        )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StateModel):
            other._all_thawed()
        return BaseModel.__eq__(self._all_thawed(), other)

    __hash__ = None  # type: ignore[assignment]  # states are compared by value

    def __repr_args__(self) -> Any:
        # A repr ends up in logs and messages, which nobody checks for who may see them.
        schema = type(self)._fs_schema()
        for name, value in BaseModel.__repr_args__(self._all_thawed()):
            if name not in schema.hidden:
                yield name, _MASKED if name in schema.restricted and value is not None else value

    # -- on the wire

    @property
    def _provider(self) -> ServingProvider | None:
        """The provider that this state came from; None for an instance that your own code has made."""
        info = self._snapshot
        return info.provider if info is not None else None

    def _encode(
        self, names: AbstractSet[str], schema: Schema | None = None, provider: ServingProvider | None = None
    ) -> dict[str, Any]:
        """Encode the signals `names` for the wire. `schema` is the class's, where the caller has it at hand.

        `provider` is that of an instance that is not a snapshot yet.
        """
        if not names:
            return {}
        if names <= (schema or type(self)._fs_schema()).plain:
            held, plain = self.__dict__, {}  # where every scalar of a working copy is, too
            for name in names:
                value = held[name]
                if type(value) not in PLAIN:
                    break
                plain[name] = to_wire(value)
            else:
                return plain
        with nobody_asking(provider or self._provider):
            encoded = self.__pydantic_serializer__.to_python(
                self._unlocked(names, schema or type(self)._fs_schema()),
                mode="json",
                fallback=str,  # of what an Any may hold: paths, ranges, time zones
                include=set(names),
                by_alias=False,
                warnings=False,
            )
        return {name: to_wire(value) for name, value in encoded.items()}

    def _wire(self, provider: ServingProvider | None = None) -> dict[str, Any]:
        """Encode all signals for the wire."""
        info = self._fs
        if type(info) is SnapshotInfo:
            return info.encoded
        return self._encode(set(type(self)._fs_schema().signals), provider=provider)


M = TypeVar("M", bound=StateModel)

_put_fs: Final = vars(StateModel)["_fs"].__set__


def _made_of(cls: type[M], schema: Schema, values: dict[str, Any], private: Any) -> M:
    """Make an instance with these values, past pydantic's own way to make one."""
    made = object.__new__(cls)
    put_values(made, values)
    put_fields_set(made, schema.names)
    put_extra(made, None)
    put_private(made, private)
    return made


class _Masked:
    """Stands in a repr for a value that is not visible to all."""

    def __repr__(self) -> str:
        return "**"


_MASKED: Final = _Masked()


def refuse_value(
    cls: type[BaseModel],
    error: ValidationError | UnshowableError,
    name: str | None = None,
    kind: type[EventError] = EventError,
    *,
    values: Any = None,
) -> NoReturn:
    """Raise the error that tells a client about new values; `name` is the field's, where `error` does not have it.

    Its cause is the redacted error, since the error itself shows more than a client or a log may see. `values` are
    those that it may quote.
    """
    at = (name,) if name is not None else ()
    if isinstance(error, ValidationError):
        place, message = explain(error, cls, at=at, values=values)[0]
        text = f"{'.'.join(map(str, (cls.__name__, *place)))}: {message}"
    else:
        text = f"{'.'.join((cls.__name__, *at))} {error}"
    raise kind(text) from redacted(error, cls, values, at)
