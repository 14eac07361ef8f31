"""The audit: what the states of an app expose, and to whom. It reads the provider, and runs no code of the app.

A report contains only names and types. Values of fields and defaults of arguments may be secrets, and are left out.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Union, get_args, get_origin

from .._compat.starlette import served_by
from ..auth.rules import AccessRule
from ..provider.provider import StateProvider
from ..registry.entries import DEFAULT_TTL
from ..scopes import StateScope
from ..sessions.config import OnLogin, StateConfig
from ..state.events import Event
from ..state.parameters import StateParameter
from ..state.reactive import ReactiveState

SHARED: Final = frozenset({StateScope.GLOBAL, StateScope.RECORD})
"""Scopes whose states belong to nobody. Without a rule, anybody who finds the app can send their events."""

OF_A_SESSION: Final = frozenset({StateScope.SESSION, StateScope.COMPONENT})
"""Scopes whose states a sign-in keeps, drops or gives to the user."""

USER_OF_THE_KEY: Final = "user of the key"
"""The owner of a state whose key names a user, and which has no field for an owner."""

Level = Literal["error", "warning"]
LEVELS: Final[dict[str, Level]] = {
    "unguarded": "error",
    "chosen-record": "warning",
    "no-owner": "warning",
    "shared-state": "warning",
    "unbounded-records": "warning",
    "unregistered": "warning",
}
"""The codes of all findings, and the level of each."""

Exposure = Literal["signal", "views", "server"]


@dataclass(frozen=True, slots=True)
class Guards:
    """An `AccessRule` with the name of its check in place of the check. Lifetime: the report."""

    requires_auth: bool = False
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    owner_only: bool = False
    authorize: str | None = None

    @property
    def restrict(self) -> bool:
        """True if they refuse anybody at all."""
        return self != Guards()


@dataclass(frozen=True, slots=True)
class FieldReport:
    """A field or computed value. `exposure` says where it can be seen: in a signal, in views, or on the server only.

    `permission` is the permission that its viewers need. If `bound`, clients may set it together with an event.
    """

    name: str
    exposure: Exposure
    bound: bool = False
    computed: bool = False
    permission: str | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an event, which the client sends. `type` is its annotation without constraints and defaults."""

    name: str
    type: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TakenState:
    """Another state that an event changes as well. `record` is the argument with the id of a record, or None."""

    name: str
    state: str
    record: str | None = None


@dataclass(frozen=True, slots=True)
class EventReport:
    """An event. `own` are its own guards; `guards` are these and those of its class, which is what counts."""

    name: str
    arguments: tuple[Argument, ...]
    states: tuple[TakenState, ...]
    own: Guards
    guards: Guards


@dataclass(frozen=True, slots=True)
class StateReport:
    """A registered state class. `ttl` is in seconds, None for never.

    `name` is its name in keys and signals, `cls` the class with its module. `owner` is the name of a field,
    `USER_OF_THE_KEY` or None. `on_login` is None if a sign-in changes nothing.
    """

    name: str
    cls: str
    scope: StateScope
    ttl: float | None
    public: bool
    guards: Guards
    owner: str | None
    on_login: OnLogin | None
    fields: tuple[FieldReport, ...]
    events: tuple[EventReport, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that needs attention. `code` is stable. `event` is None if it is about the whole class."""

    level: Level
    code: str
    mount: str
    state: str
    event: str | None
    message: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The states of one provider. `mount` is the URL path of its app below the audited app, "/" for that app itself."""

    mount: str
    prefix: str
    states: tuple[StateReport, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """The number of errors: events that are shared, unguarded, and not declared public."""
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """The number of warnings."""
        return len(self.findings) - self.errors


# -- finding providers -------------------------------------------------------------------------------------------------


def providers_of(target: Any) -> list[tuple[str, StateProvider]]:
    """Find the providers of an app and of the apps mounted below it. Each is listed once, with its path.

    `target` is an ASGI app, possibly wrapped by middleware, or a `StateProvider`.
    """
    found: dict[int, tuple[str, StateProvider]] = {}
    for path, provider in _walk(target, "", set()):
        found.setdefault(id(provider), (path or "/", provider))
    return list(found.values())


def _walk(target: Any, path: str, seen: set[int]) -> Iterator[tuple[str, StateProvider]]:
    if target is None or id(target) in seen:
        return
    seen.add(id(target))
    if isinstance(target, StateProvider):
        yield path, target
        return
    provider = getattr(getattr(target, "state", None), "faststate", None)
    if isinstance(provider, StateProvider):
        yield path, provider
    routes = getattr(target, "routes", None)
    for route in routes if isinstance(routes, list | tuple) else ():
        yield from _walk(served_by(route), path + getattr(route, "path", ""), seen)
    yield from _walk(getattr(target, "app", None), path, seen)  # the app that a middleware wraps


# -- reporting ---------------------------------------------------------------------------------------------------------


def audit(provider: StateProvider, mount: str = "/") -> AuditReport:
    """Report what the states of `provider` expose. `mount` (a URL path) is only repeated in the report."""
    states: list[StateReport] = []
    findings: list[Finding] = []
    for cls, config in provider.state_configs.items():
        state = _state(provider, cls, config)
        states.append(state)
        for code, event, message in _findings(provider, cls, config, state):
            findings.append(Finding(LEVELS[code], code, mount, state.name, event, message))
    findings.sort(key=lambda finding: finding.level != "error")  # stable: as the classes were registered
    return AuditReport(mount, provider.options.prefix, tuple(states), tuple(findings))


def _state(provider: StateProvider, cls: type[ReactiveState], config: StateConfig) -> StateReport:
    ttl = DEFAULT_TTL[config.scope] if config.ttl is None else config.ttl
    return StateReport(
        name=config.state_name,
        cls=f"{cls.__module__}.{cls.__qualname__}",
        scope=config.scope,
        ttl=None if ttl is None or math.isinf(ttl) else ttl,
        public=config.public,
        guards=_guards(config.rule),
        owner=config.owner_field(cls) or (USER_OF_THE_KEY if config.has_owner(cls) else None),
        on_login=config.on_login if config.scope in OF_A_SESSION else None,
        fields=tuple(_fields(cls)),
        events=tuple(_event(provider, event, config.rule) for event in cls._fs_schema().events.values()),
    )


def _guards(rule: AccessRule) -> Guards:
    check = _callable_name(rule.check) if rule.check is not None else None
    return Guards(rule.requires_auth, rule.permissions, rule.roles, rule.owner_only, check)


def _callable_name(function: Any) -> str:
    while isinstance(function, functools.partial):  # its repr would show the arguments
        function = function.func
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{function.__module__}.{function.__qualname__}"


def _fields(cls: type[ReactiveState]) -> Iterator[FieldReport]:
    schema = cls._fs_schema()
    for name in (*cls.model_fields, *cls.model_computed_fields):
        exposure: Exposure = "server" if name in schema.hidden else "signal" if name in schema.signals else "views"
        is_computed = name in cls.model_computed_fields
        yield FieldReport(name, exposure, name in schema.bound, is_computed, schema.restricted.get(name))


def _event(provider: StateProvider, event: Event[Any, Any], class_rule: AccessRule) -> EventReport:
    arguments = event.arguments
    return EventReport(
        name=event.name,
        arguments=tuple(
            Argument(name, type_name(t), name in arguments.defaults) for name, t in arguments.types.items()
        ),
        states=tuple(_taken(provider, parameter) for parameter in arguments.states),
        own=_guards(event.rule),
        guards=_guards(class_rule | event.rule),
    )


def _taken(provider: StateProvider, parameter: StateParameter) -> TakenState:
    config = provider.state_configs.get(parameter.cls)
    name = config.state_name if config is not None else parameter.cls.__name__
    return TakenState(parameter.name, name, parameter.record.argument if parameter.record is not None else None)


def type_name(annotation: Any) -> str:
    """Write an annotation as in code, without modules. Everything beside the type in `Annotated` is left out.

    It may contain defaults and constraints, and so a secret.
    """
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, list):  # the arguments of a Callable
        return f"[{', '.join(map(type_name, annotation))}]"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"Literal[{', '.join(_literal(value) for value in args)}]"
    if origin is Union or origin is types.UnionType:
        return " | ".join(map(type_name, args))
    name = getattr(origin if origin is not None else annotation, "__name__", None)
    if not isinstance(name, str):
        return type(annotation).__name__
    return f"{name}[{', '.join(map(type_name, args))}]" if args else name


def _literal(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


# -- judging -----------------------------------------------------------------------------------------------------------


def _findings(
    provider: StateProvider, cls: type[ReactiveState], config: StateConfig, state: StateReport
) -> Iterator[tuple[str, str | None, str]]:
    is_made_for_any_id = config.create is None and config.records is None
    if state.scope is StateScope.RECORD and is_made_for_any_id and state.ttl is None:
        yield (
            "unbounded-records",
            None,
            "any id in a URL makes a state that stays in memory: give the class records or a create, which say which "
            "there are, or a ttl",
        )
    bound = [field.name for field in state.fields if field.bound]
    for event in state.events:
        if state.scope in SHARED and not event.guards.restrict and not state.public:
            also = f" (and set {_listed(bound)} with it)" if bound else ""
            yield (
                "unguarded",
                event.name,
                f"anyone may send it{also}, and all share the state: give the event or the class a rule, or say that "
                "it is meant with StateConfig(public=True)",
            )
        if event.own.owner_only and state.owner is None:
            yield (
                "no-owner",
                event.name,
                "owner_only denies everybody, as the state has no owner: give it a field user_id or owner_id, or name "
                "one with StateConfig(owner=...)",
            )
        for parameter in cls._fs_schema().events[event.name].arguments.states:
            yield from _findings_of_taken(provider, event, parameter)


def _findings_of_taken(
    provider: StateProvider, event: EventReport, parameter: StateParameter
) -> Iterator[tuple[str, str | None, str]]:
    config = provider.state_configs.get(parameter.cls)
    if config is None:
        yield (
            "unregistered",
            event.name,
            f"it fails when it is sent: it takes {parameter.cls.__name__}, which is not registered with this provider",
        )
        return
    name = config.state_name
    if config.rule.restricts or config.public:
        return
    if parameter.record is not None and parameter.record.argument is not None and config.scope is StateScope.RECORD:
        yield (
            "chosen-record",
            event.name,
            f"the client chooses which {name} it changes, by the argument {parameter.record.argument}, and {name} has "
            "no rule of its own: give it one, or check the id in the event",
        )
    elif config.scope in SHARED and not event.guards.restrict:
        yield (
            "shared-state",
            event.name,
            f"anyone may send it, and it may change {name}, which all share and which has no rule",
        )


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
