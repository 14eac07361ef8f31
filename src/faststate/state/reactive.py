"""`ReactiveState`, which users subclass: what pages and viewers see of it, and the way to its provider."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any, ClassVar, Final, Self, cast

from datastar_py.attributes import BindAttr
from fastcore.xml import Dd, Dl, Dt, Safe
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from .._compat.pydantic import subclassed
from ..auth.users import UserContext, current_user
from ..exceptions import EventDefinitionError, NotStartedError
from ..scopes import Version
from ..wire.values import display
from .copies import SnapshotInfo, StateModel, WorkingInfo
from .events import Event
from .serving import ServingProvider, current_page, nobody_asking, provider_of
from .views import Member, View, ViewFragment, attribute


class ReactiveState(StateModel):
    """A typed piece of server state that pages follow. Subclass it, declare fields, events and views.

    Three lives of an instance: made by your own code it is an ordinary mutable object; injected into a handler it is a
    committed snapshot, read-only and shared by all readers; inside an event, `run()` or `modify()` it is a working copy
    whose changes are committed together, or not at all. Assigning to a snapshot raises `ReadOnlyStateError`.

    Making a subclass raises `EventDefinitionError` when a field, event or view takes a name of this class.
    """

    __slots__ = ()
    __faststate__: ClassVar[bool] = True
    schema_version: ClassVar[int] = 1
    """The version of the class's fields, which is stored with each state; see `migrate`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_full_class" not in vars(cls):
            _check_class(cls)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.model_config.get("extra") == "allow":
            raise EventDefinitionError(f"{cls.__name__}: a state's fields are declared; extra='allow' is not possible")
        if cls.__pydantic_complete__:
            cls._fs_schema()

    @classmethod
    def migrate(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """Make field values (dict by name) for this class of those that an older one has stored; override it.

        Called when a stored state has other fields than the class, or another `schema_version` (int). What it returns
        is validated: missing fields take their defaults, fields that the class does not have are dropped. A state that
        does not validate, or whose `migrate` raises, is kept aside, and created again.
        """
        return values

    # -- what some viewers may not see

    def _seen_by(self, user: UserContext | None) -> Self:
        """Return this snapshot as `user` may have it: itself, or one in which some fields are None."""
        return self._seen(type(self)._fs_schema().hidden_from(user))

    def _seen(self, hidden: frozenset[str]) -> Self:
        """Return this snapshot with the fields `hidden` being None, made once for all viewers who may not see these."""
        if not hidden:
            return self
        committed = self._committed
        made = committed.seen.get(hidden)
        if made is None:
            made = _partly_hidden(self, hidden, committed)
            committed.seen = {**committed.seen, hidden: made}
        return cast(Self, made)

    def _shown_by_event(self) -> ReactiveState:
        """Return this working copy as the sender of the event may see it: the page that it is shown in is the sender's.

        It is another one even if nothing is hidden from the sender: views are rendered as if nobody asked.
        """
        info = self._fs
        schema = type(self)._fs_schema()
        if type(info) is not WorkingInfo or not schema.restricted:
            return self
        hidden = schema.hidden_from(current_user.get())
        return cast(ReactiveState, _partly_hidden(self._all_thawed(), hidden, info.base._committed))

    # -- what a page sees

    @classmethod
    def _registered_name(cls, provider: ServingProvider | None) -> str:
        """Return the name of the class at a provider; its own where it is not registered there."""
        return (provider.name_of(cls) if provider is not None else None) or cls.__name__

    @property
    def _namespace(self) -> tuple[str, ...]:
        """The path of the state's signals: its name, and the id of one of several."""
        info = self._snapshot
        if info is not None:
            return info.namespace
        return (self._registered_name(provider_of(type(self)._full_class or type(self))),)

    @property
    def _version(self) -> str | None:
        """The version of this snapshot, as a page has it; None for any other instance."""
        info = self._fs
        return str(Version(info.epoch, info.version)) if type(info) is SnapshotInfo else None

    @property
    def _instance_id(self) -> str | None:
        """The id that tells this state from others of its class in a page; None for the only one."""
        info = self._snapshot
        return info.identifier.instance_id if info is not None else None

    @property
    def signal(self) -> Any:
        """The state's signals: `state.signal.count` is a `SignalRef`."""
        return Signals(self._shown_by_event())

    def _show(self, view: View) -> ViewFragment:
        """Render a view into the page that is being made."""
        page = current_page.get()
        if page is not None and self._is_committed:
            page.show(self, view.name)
        return ViewFragment(self._shown_by_event()._render(view))

    def _render(self, view: View) -> str:
        """Render a view once per commit. It cannot see who looks: all viewers share its HTML."""
        info = self._fs
        cached = info.views.get(view.name) if type(info) is SnapshotInfo else None
        if cached is not None:
            return cached
        with nobody_asking(self._provider):
            html = view.render(self, ".".join((*self._namespace, view.name)))
        if type(info) is SnapshotInfo:
            info.views = {**info.views, view.name: html}
        return html

    def __ft__(self) -> Any:
        schema = type(self)._fs_schema()
        names = [name for name in schema.shown if name not in self._hidden_here]
        # Through the serializer, which leaves out what is ServerOnly at any depth; str() of a value would show it.
        texts = self._encode(set(names).difference(schema.signals))
        signals = self.signal
        rows: list[Any] = []
        for name in names:
            rows += [Dt(name), Dd(getattr(signals, name) if name in schema.signals else _as_text(texts[name]))]
        return Dl(*rows)

    def watch(self) -> Any:
        """Return the element (FT) that makes this page follow the states it shows; for responses that are no FT.

        FastState adds it by itself to pages and fragments. Raises `NotStartedError` outside a request.
        """
        page = current_page.get()
        if page is None or not self._is_committed:
            raise NotStartedError("call watch() in a handler, on a state that was injected there")
        page.show(self)
        return page.live_element()

    # -- from a request, and back to the provider

    async def _run(self, event: Event[Any, Any], arguments: Mapping[str, Any]) -> Any:
        """Run an event from server code."""
        info = self._fs
        if type(info) is not SnapshotInfo:
            raise NotStartedError(
                f"{event.name}.run() works on a state that a provider gave; inside an event call self.{event.name}()"
            )
        if info.provider is None:
            raise NotStartedError(
                f"{event.name}.run() works on a state of a StateProvider; this one's registry has none"
            )
        return await info.provider.run(info.identifier, type(self)._full_class or type(self), event, arguments)

    @classmethod
    async def __from_request__(cls, req: HTTPConnection) -> Any:
        """Resolve a parameter of this type for FastHTML, without reading the query string."""
        context = req.scope.get("faststate")
        if context is None:
            raise NotStartedError(f"{cls.__name__} is a parameter, but its app has no StateProvider: call setup(app)")
        return await context.provider.context(req).resolve_for_fasthtml(cls, req)


# -- signals -----------------------------------------------------------------------------------------------------------


class SignalRef(str):
    """A signal: as a string the expression `$Counter.count`, as an FT child a live `<span>` with the value in it."""

    __slots__ = ("_value",)
    _value: Any

    def bind(self) -> BindAttr:
        """Write the attribute that ties an input to this signal in both ways: `Input(state.signal.draft.bind())`.

        It is an attribute of FastState's own: Datastar's `data-bind` would read some numbers wrong, and overwrite what
        is being typed.
        """
        return BindAttr("fs-bind", value=self[1:])

    def __ft__(self) -> Safe:
        text = escape(display(self._value), quote=False)
        return Safe(f"<span {attribute('data-text', self)}>{text}</span>")


class Signals:
    """`state.signal`: the state's visible fields as `SignalRef`s. Lifetime: one look-up."""

    __slots__ = ("_state",)

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> SignalRef:
        state = self._state
        schema = type(state)._fs_schema()
        if name not in schema.signals:
            raise AttributeError(
                f"{type(state).__name__} has no signal {name!r}; its signals are {', '.join(schema.signals) or 'none'}"
                " (collections show through a @view, or are marked AsSignal)"
            )
        made = SignalRef("$" + ".".join((*state._namespace, name)))
        made._value = state._wire()[name]
        return made


# -- snapshots with hidden fields --------------------------------------------------------------------------------------


def _partly_hidden(state: ReactiveState, hidden: frozenset[str], committed: SnapshotInfo) -> Any:
    """Make a snapshot like `state` with the fields `hidden` being None; `committed` is the info of the full one."""
    kept = state.__dict__  # besides the fields it may hold what a cached property made of them
    values = {name: None if name in hidden else kept[name] for name in type(state).__pydantic_fields__}
    made = _class_without(type(state), hidden)._holding(values, state.__pydantic_private__)
    encoded = {name: "" if name in hidden else value for name, value in state._wire().items()}
    return made._commit(
        SnapshotInfo(
            committed.identifier, committed.version, committed.commit, encoded, committed.provider, state,
            epoch=committed.epoch,
        )
    )  # fmt: skip


def _class_without(cls: type[ReactiveState], hidden: frozenset[str]) -> type[ReactiveState]:
    """Find the subclass for snapshots without `hidden`: it reads computed values from the full one, or hides them too.

    There is one for each set of hidden fields, so that a copy, which has no full one, still hides them.
    """
    known: dict[frozenset[str], type[ReactiveState]] = cls.__dict__.get("_partly_hidden", {})
    made = known.get(hidden)
    if made is None:
        body: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        body |= {"_full_class": cls, "_fs_schema_": cls._fs_schema(), "_hidden_here": hidden}
        body["__reduce__"] = _reduce
        body |= {name: property(partial(_computed, name=name)) for name in cls.model_computed_fields}
        made = subclassed(cls, (cls,), body)
        type.__setattr__(cls, "_partly_hidden", {**known, hidden: made})
    return made


def _computed(state: ReactiveState, name: str) -> Any:
    """Read a computed field in a snapshot with hidden fields."""
    if name in state._hidden_here:
        return None
    info = state._fs
    if type(info) is SnapshotInfo and info.full is not None:
        return getattr(info.full, name)
    try:
        return getattr(super(type(state), state), name)  # of a copy, which belongs to no provider
    except Exception:
        return None  # it lacks the values that this is computed from


def _reduce(state: ReactiveState) -> tuple[Any, ...]:
    """Say how to unpickle a snapshot: pickle finds classes by their names, and these have none of their own."""
    return _restore, (type(state)._full_class, state._hidden_here, state.__dict__, state.__pydantic_private__)


def _restore(cls: type[ReactiveState], hidden: frozenset[str], values: dict[str, Any], private: Any) -> ReactiveState:
    return _class_without(cls, hidden)._holding(values, private)


def _as_text(value: Any) -> str:
    """Write a serialised collection for people."""
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(display, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else display(value)


# -- mistakes in a class, reported when it is made ---------------------------------------------------------------------

_OWN_NAMES: Final = frozenset(
    name for cls in (StateModel, ReactiveState) for name in vars(cls) if not name.startswith(("__", "model_"))
) | {"_fs", "_fs_schema_", "_partly_hidden", "__iter__", "__faststate__", "__from_request__", "__slots__"}
_RESERVED: Final = frozenset(dir(ReactiveState)) | _OWN_NAMES
_OVERRIDABLE: Final = frozenset({"migrate", "schema_version"})


def _check_class(cls: type[ReactiveState]) -> None:
    """Raise `EventDefinitionError` for what cannot work in a state class; make its own `__ft__` a view."""
    for klass in cls.__mro__:
        # A mixin makes no state class of its own, and is checked wherever it is used. An event may be guarded.
        if klass is cls or not issubclass(klass, BaseModel):
            for name, value in list(vars(klass).items()):
                if not isinstance(value, Event):
                    _refuse_guard(f"{klass.__name__}.{name}", value)
    _check_schema_version(cls)
    for name, value in list(vars(cls).items()):
        if name == "__ft__" and isinstance(value, types.FunctionType):
            setattr(cls, name, View(value, name))
        elif (name in _OWN_NAMES and name not in _OVERRIDABLE) or (isinstance(value, Member) and name in _RESERVED):
            raise _taken_name(cls, name)
    for name in (*inspect.get_annotations(cls), *cls.__private_attributes__):  # pydantic moved them from the class body
        if name in _RESERVED and name not in _OVERRIDABLE and name != "model_config":
            raise _taken_name(cls, name)


def _taken_name(cls: type, name: str) -> EventDefinitionError:
    return EventDefinitionError(f"{cls.__name__}.{name} hides a name of ReactiveState: give it another name")


def _refuse_guard(where: str, value: Any) -> None:
    """Report a `@requires_auth` that guards nothing: only events can be reached by a client."""
    while value is not None:
        if "_auth_config" in getattr(value, "__dict__", {}):
            raise EventDefinitionError(f"@requires_auth on {where} guards nothing: it is not an event; add @event")
        inner = (getattr(value, name, None) for name in ("function", "wrapped", "fget", "__func__", "func"))
        value = next((found for found in inner if found is not None), None)


def _check_schema_version(cls: type) -> None:
    """Report a mistake for which every stored state of the class would be put aside."""
    own, declared = vars(cls), inspect.get_annotations(cls).get("schema_version", ClassVar)
    if "ClassVar" not in str(declared) or ("schema_version" in own and type(own["schema_version"]) is not int):
        raise EventDefinitionError(
            f"{cls.__name__}: write schema_version: ClassVar[int] = 2, a whole number that grows"
        )
    migrate = own.get("migrate")
    if migrate is not None and (not isinstance(migrate, classmethod) or inspect.iscoroutinefunction(migrate.__func__)):
        raise EventDefinitionError(
            f"{cls.__name__}.migrate must be a classmethod, not async: @classmethod def migrate(cls, values, version)"
        )


type.__setattr__(ReactiveState, "__ft__", View(ReactiveState.__ft__, "__ft__"))  # the default view
