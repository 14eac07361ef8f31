"""ReactiveState: typed fields, markers, working copies and committed snapshots, signals and views."""

from __future__ import annotations

import copy
import inspect
import json
import types
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, TypeVar, cast, get_origin

from datastar_py.attributes import BindAttr
from datastar_py.attributes import attribute_generator as data
from fastcore.xml import Dd, Dl, Dt, Safe
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import HTTPConnection

from ..auth.users import UserContext, current_request, current_user
from ..exceptions import (
    EventArgumentError,
    EventDefinitionError,
    EventError,
    FastStateError,
    NotStartedError,
    ReadOnlyStateError,
)
from ..redaction import explained, hold_back, redacted, told_of
from ..scopes import StateIdentifier, Version
from ..validation.revalidation import Kept, revalidation_of
from ..validation.scalars import SCALARS, UnshowableError
from ..wire.values import display, merge_patch, same, to_wire
from .arguments import is_exact
from .comparison import equal, known_items
from .containers import REMEDY
from .events import Event
from .models import unlocked
from .schema import EVERYTHING_SHOWN, PLAIN, Schema
from .serving import ServingProvider, current_provider, provider_of
from .values import SHORT_INT, Thaw, freeze, is_container, plain
from .views import View, ViewFragment, attribute

__all__ = ["INITIAL", "Change", "Committed", "ReactiveState", "SignalRef", "current_page"]

INITIAL: Final = "initial"
"""What the epoch begins with of a state as its class makes it, which nobody has changed: all of these are one."""


class Page(Protocol):
    """What a state tells the page being made. Lifetime: one request."""

    def show(self, state: ReactiveState, view: str | None = None) -> None:
        """Note that the page shows `state`, and which of its views."""

    def live_element(self) -> Any:
        """The element that makes what was shown follow its states."""


current_page: ContextVar[Page | None] = ContextVar("current_page", default=None)


class _unseen:
    """In its block nobody is asking: what all viewers share must not depend on the one who happened to cause it.

    All of them are of one `provider`.
    """

    __slots__ = ("_provider", "_tokens")

    def __init__(self, provider: ServingProvider | None) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        self._tokens = (
            current_page.set(None), current_user.set(None), current_request.set(None),
            current_provider.set(self._provider),
        )  # fmt: skip

    def __exit__(self, *exc: object) -> None:
        current_page.reset(self._tokens[0])
        current_user.reset(self._tokens[1])
        current_request.reset(self._tokens[2])
        current_provider.reset(self._tokens[3])


_NONE: Final[Mapping[Any, Any]] = types.MappingProxyType({})

# What a model has in slots is set through these: object.__setattr__ would look each up by its name, which is a third of
# what it takes to make one.
_put_values, _put_fields_set, _put_extra, _put_private = (
    vars(BaseModel)[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


class Committed:
    """What a committed snapshot knows of itself. Lifetime: until the state's next commit and its last reader.

    A snapshot as some viewers have it, with hidden fields, knows the `full` one; `seen` holds these by what is hidden.
    `provider` is the provider that it came from, None for one of a registry without a provider.
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
        full: ReactiveState | None = None,
        *,
        epoch: str = INITIAL,
    ) -> None:
        self.full = full
        self.epoch = epoch
        # Most snapshots are never asked for these: one empty mapping for all is 192 bytes less for each.
        self.seen: Mapping[frozenset[str], ReactiveState] = _NONE
        self.views: Mapping[str, str] = _NONE
        self.frames: Mapping[frozenset[str], bytes] = _NONE
        self.identifier = identifier
        self.namespace = identifier.namespace
        self.version = version
        self.commit = commit
        self.encoded = encoded
        self.provider = provider


class Working(Thaw):
    """What a working copy knows of itself. Lifetime: one transaction, or one step of a generator."""

    __slots__ = ("base", "frozen", "schema", "validated")

    def __init__(self, base: ReactiveState, schema: Schema) -> None:
        super().__init__()
        self.base = base
        self.schema = schema
        self.frozen: dict[str, Any] = {}
        self.validated: dict[str, Any] = {}  # values that were validated when they were set

    def start(self) -> dict[str, Any]:
        """The values that the copy begins with; all other ones it thaws when they are asked for."""
        values = _fields_of(self.base, self.schema)
        for name, value in values.items():
            if type(value) not in SCALARS and is_container(value):
                self.frozen[name] = value
        for name in self.frozen:
            del values[name]
        return values


def _fields_of(state: ReactiveState, schema: Schema) -> dict[str, Any]:
    """The field values of a snapshot; besides them it may hold what functools.cached_property remembers of these."""
    held: dict[str, Any] = state.__dict__
    return held.copy() if len(held) == len(schema.fields) else {name: held[name] for name in schema.fields}


class Change:
    """A checked change of one state that waits to be committed: its new values and what they are on the wire.

    `made` holds the values, and is what becomes the committed snapshot.
    """

    __slots__ = ("changed", "delta", "encoded", "made")

    def __init__(self, made: ReactiveState, changed: list[str], encoded: dict[str, Any], delta: dict[str, Any]) -> None:
        self.made = made
        self.changed = changed
        self.encoded = encoded
        self.delta = delta

    @property
    def values(self) -> dict[str, Any]:
        """The new values, frozen, by field."""
        return self.made.__dict__


class SignalRef(str):
    """A signal: as a string the expression `$Counter.count`, as an FT child a live `<span>` with the value in it."""

    __slots__ = ("_value",)
    _value: Any

    @classmethod
    def _of(cls, path: str, value: Any) -> SignalRef:
        made = cls("$" + path)
        made._value = value
        return made

    def bind(self) -> BindAttr:
        """The attribute that ties an input to this signal in both ways: `Input(state.signal.draft.bind())`."""
        return cast(BindAttr, data.bind(self[1:]))

    def __ft__(self) -> Safe:
        text = escape(display(self._value), quote=False)
        return Safe(f"<span {attribute('data-text', self)}>{text}</span>")


class _Signals:
    """`state.signal`: the state's visible fields as `SignalRef`s."""

    __slots__ = ("_state",)

    def __init__(self, state: ReactiveState) -> None:
        self._state = state

    def __getattr__(self, name: str) -> SignalRef:
        state = self._state
        schema = type(state)._fs_schema()
        if name not in schema.signals:
            raise AttributeError(
                f"{type(state).__name__} has no signal {name!r}; its signals are {', '.join(schema.signals) or 'none'}"
                " (collections show through a @view, or are marked AsSignal)"
            )
        return SignalRef._of(".".join((*state._namespace, name)), state._wire()[name])


def _plain(value: Any) -> str:
    """A serialised collection, to be read by a person."""
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(display, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else display(value)


class ReactiveState(BaseModel):
    """A typed piece of server state that pages follow. Subclass it, declare fields, events and views.

    Three lives of an instance: made by your own code it is an ordinary mutable object; injected into a handler it is a
    committed snapshot, read-only and shared by all readers; inside an event, `run()` or `modify()` it is a working copy
    whose changes are committed together, or not at all. Assigning to a snapshot raises `ReadOnlyStateError`.

    Making a subclass raises `EventDefinitionError` when a field, event or view takes a name of this class.
    """

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,  # a value that does not fit may be one that nobody is to see
        ignored_types=(Event, View),
        ser_json_bytes="base64",
        ser_json_inf_nan="constants",
    )
    __slots__ = ("_fs",)
    __faststate__: ClassVar[bool] = True
    schema_version: ClassVar[int] = 1
    """The version of the class's fields, which is stored with each state; see `migrate`."""
    __iter__ = None  # type: ignore[assignment]  # a pydantic model iterates over its fields, which FastHTML would render

    _full_class: ClassVar[type[ReactiveState] | None] = None  # of a class that partly hidden snapshots have
    _hidden_here: ClassVar[frozenset[str]] = EVERYTHING_SHOWN

    if TYPE_CHECKING:
        _fs: Committed | Working | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_full_class" in vars(cls):
            return
        for mixin in cls.__mro__:
            if not issubclass(mixin, BaseModel):  # whose events are the class's own
                for name, value in vars(mixin).items():
                    if not isinstance(value, Event):
                        _refuse_guard(f"{mixin.__name__}.{name}", value)
        annotations = inspect.get_annotations(cls)
        for klass in cls.__mro__:  # a mixin makes no class of ours, and is checked where it is used
            if klass is cls or not issubclass(klass, BaseModel):
                for name, value in list(vars(klass).items()):
                    if not isinstance(value, Event):
                        _refuse_guard(f"{klass.__name__}.{name}", value)
        _check_schema_version(cls)
        for name, value in list(vars(cls).items()):
            if name == "__ft__" and isinstance(value, types.FunctionType):
                setattr(cls, name, View(value, name))
            elif (name in _OWN_NAMES and name not in _OVERRIDABLE) or (
                isinstance(value, Event | View) and name in _RESERVED
            ):
                raise EventDefinitionError(f"{cls.__name__}.{name} hides a name of ReactiveState: call it otherwise")
        for name in (*annotations, *cls.__private_attributes__):  # where pydantic has moved what the class body had
            if name in _RESERVED and name not in _OVERRIDABLE and name != "model_config":
                raise EventDefinitionError(f"{cls.__name__}.{name} hides a name of ReactiveState: call it otherwise")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.model_config.get("extra") == "allow":
            raise EventDefinitionError(f"{cls.__name__}: a state's fields are declared; extra='allow' is not possible")
        if cls.__pydantic_complete__:
            cls._fs_schema()

    @classmethod
    def _fs_schema(cls) -> Schema:
        schema: Schema | None = cls.__dict__.get("_fs_schema_")
        if schema is None:
            cls.model_rebuild()
            schema = Schema(cls)
            type.__setattr__(cls, "_fs_schema_", schema)
        return schema

    @classmethod
    def _registered_name(cls, provider: ServingProvider | None) -> str:
        """The name of the class at a provider; its own where it is not registered there."""
        return (provider.name_of(cls) if provider is not None else None) or cls.__name__

    @classmethod
    def migrate(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """Field values (dict by name) for this class, from those that an older one has stored; override it.

        Called when a stored state has other fields than the class, or another `schema_version` (int). What it returns
        is validated: missing fields take their defaults, others than the class has are dropped. A state that does not
        validate, or whose `migrate` raises, is kept aside, and made anew.
        """
        return values

    if not TYPE_CHECKING:  # a declared __init__ would hide the fields from type checkers

        def __init__(self, /, **values: Any) -> None:
            if self._fs is not None:  # by who calls it by its name: it would set the fields of a snapshot
                raise ReadOnlyStateError(f"this {type(self).__name__} is there already; {REMEDY}")
            super().__init__(**values)

        __init__.__pydantic_base_init__ = True  # as BaseModel marks its own, which need not be called by pydantic

        def __setstate__(self, state: dict[Any, Any]) -> None:
            if self._fs is not None:
                raise ReadOnlyStateError(f"this {type(self).__name__} is there already; {REMEDY}")
            super().__setstate__(state)

    # -- the three lives -------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # a declared __getattr__ would hide misspelt fields from type checkers

        def __getattr__(self, name: str) -> Any:
            if name == "_fs":
                return None
            fs = self._fs
            if type(fs) is Working and name in fs.frozen:
                value = fs.thaw(fs.frozen.pop(name))
                self.__dict__[name] = value
                return value
            return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        fs = self._fs
        if type(fs) is Working and not name.startswith("_"):
            fs.guard.check()
            fs.frozen.pop(name, None)
            if name in fs.schema.assignable:  # as pydantic would, after a longer look
                self.__dict__[name] = value
                return
            super().__setattr__(name, value)
            fs.validated[name] = freeze(self.__dict__[name])  # by a class with validate_assignment
            return
        elif fs is not None and not name.startswith("_"):
            raise ReadOnlyStateError(f"{type(self).__name__}.{name}: this state is a committed snapshot; {REMEDY}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._fs is not None and not name.startswith("_"):
            raise ReadOnlyStateError(f"{type(self).__name__}.{name}: a field of a state cannot be deleted")
        super().__delattr__(name)

    @classmethod
    def _blank(cls, values: dict[str, Any], private: Any) -> Self:
        return _made_of(cls, cls._fs_schema(), values, private)

    def _frozen_values(self) -> dict[str, Any]:
        values = self.__dict__  # besides the fields it holds what functools.cached_property remembers
        frozen = {}
        for name in type(self).__pydantic_fields__:
            try:
                frozen[name] = freeze(values[name])
            except (ValidationError, UnshowableError) as error:
                raise _event_error(type(self), error, name, values=values) from redacted(
                    error, type(self), values, (name,)
                )
        return frozen

    def _working(self) -> Self:
        """A working copy of this committed snapshot; it thaws a container when it is first touched."""
        cls = type(self)
        fs = Working(self, cls._fs_schema())
        made = _made_of(cls, fs.schema, fs.start(), self.__pydantic_private__)
        _put_fs(made, fs)
        return made

    def _rebase(self, base: ReactiveState) -> None:
        """Starts this working copy anew from `base`; values read before raise when they are changed."""
        self._close()
        fs = Working(base, type(base)._fs_schema())
        object.__setattr__(self, "__dict__", fs.start())
        object.__setattr__(self, "_fs", fs)

    def _close(self) -> None:
        fs = self._fs
        if type(fs) is Working:
            fs.close()

    def _change(self) -> Change | None:
        """What this working copy would commit, validated; None when nothing changed.

        Raises `EventError` when the new values do not validate.
        """
        fs = self._fs
        if type(fs) is not Working:
            raise NotStartedError(f"this {type(self).__name__} is no working copy")
        base, cls = fs.base, type(self)
        fs.guard.check()
        old, changed = base.__dict__, []
        values = _fields_of(base, fs.schema)
        place: str | None = None
        failed: BaseException | None = None
        try:
            for name, value in self.__dict__.items():
                if name not in values or value is old[name]:
                    continue
                place = name
                kind = type(value)
                if (
                    kind is bool
                    or (kind is int and -SHORT_INT < value < SHORT_INT)
                    or (kind is str and value.isascii())
                ):
                    frozen = value  # as most are: it is frozen, and can be shown
                else:
                    frozen = fs.refreeze(value)
                if not equal(frozen, old[name]):
                    values[name] = frozen
                    changed.append(name)
            if not changed:
                return None
            place = None
            made, changed = cls._validated(fs, values, changed)
        except (ValidationError, UnshowableError) as error:
            at = (place,) if place is not None else ()
            cause = redacted(error, cls, (old, values), at)
            raise _event_error(cls, error, place, values=(old, values)) from cause
        except FastStateError:
            raise
        except RecursionError:
            raise EventError(f"{cls.__name__}: the new values are nested too deeply") from None
        except Exception as error:  # a validator is the app's own code, and says what it likes
            hold_back(error, [(cls, old), (cls, values)])
            failed = told_of(error)
        if failed is not None:  # not in the block above: it would have the error itself as its context
            raise failed
        return base._as_change(fs.schema, made, changed) if changed else None  # a validator may have put all back

    def _as_change(self, schema: Schema, made: ReactiveState, changed: list[str]) -> Change:
        """The change from this committed snapshot to the values of `made`; those of `changed` are others."""
        try:
            fresh = made._encode(schema.affected(changed), schema, self._committed.provider)
        except ValueError as error:  # Python writes no number of more than 4,300 digits
            raise EventError(f"{type(self).__name__}: a value is too long to be shown") from error
        known, delta = self._committed.encoded, {}
        for name, value in fresh.items():
            if name not in known:
                delta[name] = value
            elif not same(before := known[name], value):
                delta[name] = merge_patch(before, value) if type(value) is dict else value
        return Change(made, changed, {**known, **fresh}, delta)

    def _taken(self, change: Change, values: Mapping[str, Any]) -> Change:
        """A change of this committed snapshot with `values` in the place of those that it had."""
        change.made.__dict__.update(values)
        return self._as_change(type(self)._fs_schema(), change.made, change.changed)

    def _change_to(self, other: ReactiveState) -> Change | None:
        """What makes this committed snapshot have the field values of `other`; None when it has them."""
        old, fresh = self.__dict__, other._frozen_values()
        values = {name: old[name] if equal(value, old[name]) else value for name, value in fresh.items()}
        changed = [name for name, value in values.items() if value is not old[name]]
        made = self._blank(values, self.__pydantic_private__)
        return self._as_change(type(self)._fs_schema(), made, changed) if changed else None

    def _no_change(self) -> Change:
        """A change of this committed snapshot that leaves all values as they are."""
        return Change(self._loose(), [], self._committed.encoded, {})

    def _loose(self) -> Self:
        """What has the frozen values of this instance, and is to become a committed snapshot."""
        return self._blank(self._frozen_values(), self.__pydantic_private__)

    @classmethod
    def _validated(cls, fs: Working, values: dict[str, Any], changed: list[str]) -> tuple[Self, list[str]]:
        """Returns a holder of the copy's `values`, of which the `changed` ones are validated; and what is changed then.

        Each value is validated once: those that did not change, or that were validated when they were set, are taken
        as they are. Raises pydantic's `ValidationError`.
        """
        schema, old, private, valid = fs.schema, fs.base.__dict__, fs.base.__pydantic_private__, fs.validated
        raw = [
            name for name in changed
            if not is_exact(values[name], schema.exact.get(name))
            and not (name in valid and equal(values[name], valid[name]))
        ]  # fmt: skip
        if not raw and not schema.sees_whole:
            return cls._blank(values, private), changed
        if raw:
            cls._validate(fs, values, raw)
        if schema.sees_whole:
            changed = cls._look_at_whole(schema, values, changed, old, private)
        return cls._blank(values, private), [name for name in changed if values[name] is not old[name]]

    @classmethod
    def _validate(cls, fs: Working, values: dict[str, Any], raw: Sequence[str]) -> None:
        """Validate the fields `raw` of `values`, and put there what the validators make of them, frozen."""
        schema, old, valid, thaw = fs.schema, fs.base.__dict__, fs.validated, Thaw()
        # What code of the author's looks at, it may change: the models in it, too.
        given = {
            name: plain(thaw.thaw(values[name]) if name in schema.authored else values[name])
            for name in raw
        }  # fmt: skip
        if schema.checks_whole or not schema.converting.isdisjoint(raw):
            olds = {name: [old[name], *([valid[name]] if name in valid else [])] for name in raw}
            known = {name: known_items(given[name], values[name], *olds[name]) for name in raw}
            kept = Kept({name: value for name, value in values.items() if name not in given}, known)
            found = revalidation_of(cls).assign({**values, **given}, kept)
        else:
            made = cls._blank(dict(values), None)
            for name in raw:
                cls.__pydantic_validator__.validate_assignment(made, name, given[name])
            found = made.__dict__
        for name in raw:
            value = thaw.refreeze(found[name])
            values[name] = old[name] if equal(value, old[name]) else value

    @classmethod
    def _look_at_whole(
        cls, schema: Schema, values: dict[str, Any], changed: list[str], old: Mapping[str, Any], private: Any
    ) -> list[str]:
        """Run the class's model validators on `values`, which they may change; gives the names of all that changed."""
        seen = cls._blank(dict(values), private)._working()
        result: Any = revalidation_of(cls).look_at_whole(seen)
        fs = seen._fs
        if type(fs) is not Working:
            raise NotStartedError(f"a model validator of {cls.__name__} has committed it")
        for name, value in result.__dict__.items():
            if name in values and value is not values[name]:
                frozen = fs.refreeze(value)
                values[name] = old[name] if equal(frozen, old[name]) else frozen
        return [name for name in schema.fields if name in changed or values[name] is not old[name]]

    def _bind(self, given: Mapping[str, Any]) -> None:
        """Set `Bound` fields of this working copy to what a client sent, validated and converted.

        A field that is sent as the page was shown it is left alone: it was validated, and is not to be converted again.
        Raises `EventArgumentError`, naming the field, with nothing set.
        """
        fs, cls = self._fs, type(self)
        if type(fs) is not Working:
            raise NotStartedError(f"this {cls.__name__} is no working copy")
        shown = fs.base._wire()
        fresh = {name: value for name, value in given.items() if not _is_shown(shown[name], value)}
        if not fresh:
            return
        found, place, exact = fresh, None, fs.schema.exact
        try:
            if not all(is_exact(value, exact.get(name)) for name, value in fresh.items()):  # which takes 14 µs
                old = _fields_of(fs.base, fs.schema)
                kept = Kept({name: value for name, value in old.items() if name not in fresh}, {})
                found = revalidation_of(cls).assign({**old, **fresh}, kept)
            for place in fresh:
                fs.refreeze(found[place])
        except (ValidationError, UnshowableError) as error:
            cause = redacted(error, cls, (old, fresh), (place,) if place is not None else ())
            raise _event_error(cls, error, place, EventArgumentError, values=(old, fresh)) from cause
        for name in fresh:
            fs.frozen.pop(name, None)
            self.__dict__[name] = fs.validated[name] = found[name]

    @property
    def _is_committed(self) -> bool:
        return type(self._fs) is Committed

    def _commit(self, committed: Committed) -> Self:
        """Makes of this instance, which holds frozen values and belongs to nobody yet, a committed snapshot."""
        _put_fs(self, committed)
        return self

    @property
    def _committed(self) -> Committed:
        """What a snapshot knows of itself. Raises `NotStartedError` for any other instance."""
        fs = self._fs
        if type(fs) is not Committed:
            raise NotStartedError(f"this {type(self).__name__} is not a snapshot that a provider gave")
        return fs

    def _seen_by(self, user: UserContext | None) -> Self:
        """This snapshot as `user` may have it: itself, or one in which some fields are None."""
        return self._seen(type(self)._fs_schema().hidden_from(user))

    def _seen(self, hidden: frozenset[str]) -> Self:
        """This snapshot with the fields `hidden` being None; made once for all viewers from whom these are hidden."""
        if not hidden:
            return self
        committed = self._committed
        made = committed.seen.get(hidden)
        if made is None:
            made = self._partly(hidden, committed)
            committed.seen = {**committed.seen, hidden: made}
        return cast(Self, made)

    def _partly(self, hidden: frozenset[str], committed: Committed) -> ReactiveState:
        kept = self.__dict__  # besides the fields it may hold what a cached property made of them
        values = {name: None if name in hidden else kept[name] for name in type(self).__pydantic_fields__}
        made = type(self)._partly_hidden_class(hidden)._blank(values, self.__pydantic_private__)
        encoded = {name: "" if name in hidden else value for name, value in self._wire().items()}
        own = Committed(
            committed.identifier, committed.version, committed.commit, encoded, committed.provider, self,
            epoch=committed.epoch,
        )  # fmt: skip
        object.__setattr__(made, "_fs", own)
        return made

    def _shown_by_event(self) -> ReactiveState:
        """This working copy as the user may see it who sent the event: where it is shown, it goes to that user's page.

        Also where nothing is hidden from that user, since views are rendered as if nobody asked, and may show others.
        """
        fs = self._fs
        schema = type(self)._fs_schema()
        if type(fs) is not Working or not schema.restricted:
            return self
        return self._whole()._partly(schema.hidden_from(current_user.get()), fs.base._committed)

    @classmethod
    def _partly_hidden_class(cls, hidden: frozenset[str]) -> type[ReactiveState]:
        """A subclass for snapshots from which `hidden` are: what is computed is taken from the full one, or hidden too.

        One for each set of hidden fields, so that a copy, which has no full one, still hides them.
        """
        known: dict[frozenset[str], type[ReactiveState]] = cls.__dict__.get("_partly_hidden", {})
        made = known.get(hidden)
        if made is None:
            body: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
            body |= {"_full_class": cls, "_fs_schema_": cls._fs_schema(), "_hidden_here": hidden}
            body["__reduce__"] = _reduce_partly_hidden
            body |= {name: property(partial(_computed, name=name)) for name in cls.model_computed_fields}
            # Past pydantic's metaclass, which would build a model anew; this one is the same but for these properties.
            made = ABCMeta.__new__(type(cls), cls.__name__, (cls,), body)
            type.__setattr__(cls, "_partly_hidden", {**known, hidden: made})
        return made

    def _whole(self) -> Self:
        """Itself, with every field in `__dict__`, for pydantic's own methods."""
        fs = self._fs
        if type(fs) is Working:
            for name in list(fs.frozen):
                getattr(self, name)
        return self

    def _unlocked(self, names: AbstractSet[str], schema: Schema) -> Self:
        """Itself for pydantic to serialise `names`: with builtin containers where it would meet those of a state."""
        held = self._whole().__dict__
        wanted = schema.fields if not names.isdisjoint(schema.computed) else names
        locked = [name for name in wanted if name in held and type(held[name]) not in SCALARS]
        if not locked:
            return self
        made = _made_of(type(self), schema, {**held, **{name: unlocked(held[name]) for name in locked}}, None)
        _put_private(made, self.__pydantic_private__)
        if self._fs is not None:
            _put_fs(made, self._fs)
        return made

    # -- what pydantic's own methods see ---------------------------------------------------------------------------

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        if type(self)._full_class is not None:
            kwargs.setdefault("warnings", False)  # that a hidden field holds None and not what it is declared as
        return BaseModel.model_dump(self._all_unlocked(), **kwargs)

    def model_dump_json(self, **kwargs: Any) -> str:
        if type(self)._full_class is not None:
            kwargs.setdefault("warnings", False)
        return BaseModel.model_dump_json(self._all_unlocked(), **kwargs)

    def _all_unlocked(self) -> Self:
        if self._fs is None:
            return self
        schema = type(self)._fs_schema()
        return self._unlocked(schema.names, schema)

    def __copy__(self) -> Self:
        """A copy that belongs to no provider, and may be changed."""
        self._whole()
        return self._blank(
            {name: copy.deepcopy(value) for name, value in self.__dict__.items()}, copy.copy(self.__pydantic_private__)
        )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ReactiveState):
            other._whole()
        return BaseModel.__eq__(self._whole(), other)

    __hash__ = None  # type: ignore[assignment]  # states are compared by value

    def __repr_args__(self) -> Any:
        # A repr ends up in logs and messages, which nobody checks for who may see them.
        schema = type(self)._fs_schema()
        for name, value in BaseModel.__repr_args__(self._whole()):
            if name not in schema.hidden:
                yield name, _MASKED if name in schema.restricted and value is not None else value

    # -- what a page sees ------------------------------------------------------------------------------------------

    @property
    def _namespace(self) -> tuple[str, ...]:
        fs = self._fs
        if type(fs) is Working:
            return fs.base._namespace
        if type(fs) is Committed:
            return fs.namespace
        return (self._registered_name(provider_of(type(self)._full_class or type(self))),)

    @property
    def _provider(self) -> ServingProvider | None:
        """The provider that this state came from; None for an instance that your own code has made."""
        fs = self._fs
        if type(fs) is Working:
            return fs.base._provider
        return fs.provider if type(fs) is Committed else None

    @property
    def _version(self) -> str | None:
        """The version of this snapshot, as a page has it; None for what is no snapshot."""
        fs = self._fs
        return str(Version(fs.epoch, fs.version)) if type(fs) is Committed else None

    @property
    def _instance_id(self) -> str | None:
        fs = self._fs
        if type(fs) is Working:
            return fs.base._instance_id
        return fs.identifier.instance_id if type(fs) is Committed else None

    def _encode(
        self, names: AbstractSet[str], schema: Schema | None = None, provider: ServingProvider | None = None
    ) -> dict[str, Any]:
        """The wire values of the signals `names`. `schema` is the class's, for who has it at hand.

        `provider` is that of what is no snapshot yet.
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
        with _unseen(provider or self._provider):
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
        fs = self._fs
        return (
            fs.encoded
            if type(fs) is Committed
            else self._encode(set(type(self)._fs_schema().signals), provider=provider)
        )

    @property
    def signal(self) -> Any:
        """The state's signals: `state.signal.count` is a `SignalRef`."""
        return _Signals(self._shown_by_event())

    def _show(self, view: View) -> ViewFragment:
        page = current_page.get()
        if page is not None and self._is_committed:
            page.show(self, view.name)
        return ViewFragment(self._shown_by_event()._render(view))

    def _render(self, view: View) -> str:
        """The view's HTML, made once per commit. A view cannot see who looks: all share its bytes."""
        fs = self._fs
        cached = fs.views.get(view.name) if type(fs) is Committed else None
        if cached is not None:
            return cached
        with _unseen(self._provider):
            html = view.render(self, ".".join((*self._namespace, view.name)))
        if type(fs) is Committed:
            fs.views = {**fs.views, view.name: html}
        return html

    def __ft__(self) -> Any:
        schema = type(self)._fs_schema()
        hidden = self._hidden_here
        # Through the serializer, which leaves out what is ServerOnly at any depth; str() of a value would show it.
        hidden_free = self._encode({name for name in schema.shown if name not in hidden | schema._all_signals})
        rows: list[Any] = []
        for name in schema.shown:
            if name in hidden:
                continue
            rows += [
                Dt(name),
                Dd(self.signal.__getattr__(name) if name in schema.signals else _plain(hidden_free[name])),
            ]
        return Dl(*rows)

    def watch(self) -> Any:
        """The element (FT) that makes this page follow the states it shows; for responses that are no FT.

        FastState adds it by itself to pages and fragments. Raises `NotStartedError` outside a request.
        """
        page = current_page.get()
        if page is None or not self._is_committed:
            raise NotStartedError("watch() belongs into a handler, on a state that was injected there")
        page.show(self)
        return page.live_element()

    async def _run(self, event: Event[Any, Any], arguments: Mapping[str, Any]) -> Any:
        fs = self._fs
        if type(fs) is not Committed:
            raise NotStartedError(
                f"{event.name}.run() works on a state that a provider gave; inside an event call self.{event.name}()"
            )
        if fs.provider is None:
            raise NotStartedError(
                f"{event.name}.run() works on a state of a StateProvider; this one's registry has none"
            )
        return await fs.provider.run(fs.identifier, type(self)._full_class or type(self), event, arguments)

    @classmethod
    async def __from_request__(cls, req: HTTPConnection) -> Any:
        """FastHTML's hook for parameters of this type; never reads the query string."""
        context = req.scope.get("faststate")
        if context is None:
            raise NotStartedError(f"{cls.__name__} is a parameter, but its app has no StateProvider: call setup(app)")
        return await context.provider.context(req).resolve_for_fasthtml(cls, req)


M = TypeVar("M", bound=ReactiveState)


def _made_of(cls: type[M], schema: Schema, values: dict[str, Any], private: Any) -> M:
    """An instance with these values, past pydantic's own way to make one."""
    made = object.__new__(cls)
    _put_values(made, values)
    _put_fields_set(made, schema.names)
    _put_extra(made, None)
    _put_private(made, private)
    return made


class _Masked:
    """Stands in a repr for a value that is not visible to all."""

    def __repr__(self) -> str:
        return "**"


_MASKED: Final = _Masked()

_put_fs: Final = vars(ReactiveState)["_fs"].__set__


def _check_schema_version(cls: type[ReactiveState]) -> None:
    """Reports what would put every stored state of the class aside. Raises `EventDefinitionError`."""
    own = vars(cls)
    is_field = "schema_version" in inspect.get_annotations(cls) and not _is_class_var(
        inspect.get_annotations(cls)["schema_version"]
    )
    if is_field or ("schema_version" in own and type(own["schema_version"]) is not int):
        raise EventDefinitionError(
            f"{cls.__name__}: write schema_version: ClassVar[int] = 2, a whole number that grows"
        )
    migrate = own.get("migrate")
    if migrate is not None and (not isinstance(migrate, classmethod) or inspect.iscoroutinefunction(migrate.__func__)):
        raise EventDefinitionError(
            f"{cls.__name__}.migrate is a classmethod, and no async one: @classmethod def migrate(cls, values, version)"
        )


def _is_class_var(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else ""
    return annotation is ClassVar or get_origin(annotation) is ClassVar or "ClassVar" in text


def _refuse_guard(where: str, value: Any) -> None:
    """Reports a `@requires_auth` that guards nothing: what is no event cannot be reached by a client."""
    while value is not None:
        if "_auth_config" in getattr(value, "__dict__", {}):
            raise EventDefinitionError(f"@requires_auth on {where} guards nothing, since it is no event: add @event")
        inner = (getattr(value, name, None) for name in ("function", "wrapped", "fget", "__func__", "func"))
        value = next((found for found in inner if found is not None), None)


def _computed(state: ReactiveState, name: str) -> Any:
    """What a computed field of a snapshot with hidden fields is."""
    if name in state._hidden_here:
        return None
    fs = state._fs
    if type(fs) is Committed and fs.full is not None:
        return getattr(fs.full, name)
    try:
        return getattr(super(type(state), state), name)  # of a copy, which belongs to no provider
    except Exception:
        return None  # which has not got what it would be computed from


def _reduce_partly_hidden(state: ReactiveState) -> tuple[Any, ...]:
    """For pickle, which finds classes by their names, and these have none of their own."""
    return _partly_hidden, (type(state)._full_class, state._hidden_here, state.__dict__, state.__pydantic_private__)


def _partly_hidden(
    cls: type[ReactiveState], hidden: frozenset[str], values: dict[str, Any], private: Any
) -> ReactiveState:
    return cls._partly_hidden_class(hidden)._blank(values, private)


def _event_error(
    cls: type[ReactiveState],
    error: ValidationError | UnshowableError,
    name: str | None = None,
    kind: type[EventError] = EventError,
    *,
    values: Any = None,
) -> EventError:
    """Returns an error for the client about new values; `name` is the field's, where the error does not have it.

    It is raised from the `redacted` error, since the error itself shows more than a client or a log may see. `values`
    are those that it may quote.
    """
    if isinstance(error, ValidationError):
        place, message = explained(error, cls, at=(name,) if name is not None else (), values=values)[0]
        return kind(f"{'.'.join(map(str, (cls.__name__, *place)))}: {message}")
    return kind(f"{cls.__name__}{f'.{name}' if name is not None else ''} {error}")


def _is_shown(shown: Any, sent: Any) -> bool:
    """Tells whether a page sent a field as it was shown it; an input may have made text of a number."""
    return same(shown, "" if sent is None else sent) or str(shown) == str(sent)


_OVERRIDABLE: Final = frozenset({"migrate", "schema_version"})
_OWN_NAMES: Final = frozenset(name for name in vars(ReactiveState) if not name.startswith(("__", "model_"))) | {
    "_fs",
    "_fs_schema_",
    "_partly_hidden",
    "__iter__",
    "__faststate__",
    "__from_request__",
    "__slots__",
}
_RESERVED: Final = frozenset(dir(ReactiveState)) | _OWN_NAMES
type.__setattr__(ReactiveState, "__ft__", View(ReactiveState.__ft__, "__ft__"))  # the default view
