"""Events: the methods of a state that a page may call. The decorator, what it records, and how a page writes them."""

from __future__ import annotations

import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, Generic, Literal, ParamSpec, TypeVar, cast, overload
from urllib.parse import urlencode

from datastar_py.attributes import JSExpression, OnAttr
from datastar_py.attributes import attribute_generator as data
from datastar_py.consts import ElementPatchMode

from ..auth.rules import AccessRule, rule_of
from ..exceptions import EventArgumentError, EventDefinitionError, ReadOnlyStateError
from ..wire.values import js, to_wire
from .arguments import Arguments, changeable_defaults, copied, unknown_argument
from .parameters import closure_of
from .serving import provider_of
from .views import Member

P = ParamSpec("P")
R = TypeVar("R")

expr = JSExpression
"""`expr("el.value")`: a JavaScript expression (str), evaluated in the browser when the event is sent."""

Kind = Literal["sync", "async", "generator"]

DEFAULT_PREFIX = "/_faststate"

BY_PROVIDER: Final = float("nan")
"""The `timeout` (this very object) of an event that has none of its own: the provider's `event_timeout` counts."""

VERSION_SIGNAL = "_version"
"""The signal that holds the version of a state that has bound fields, or an event that expects it.

No field begins with an underscore."""


class Event(Member, Generic[P, R]):
    """An event of a state class; made by `@event`. Lifetime: the class.

    Read from a state it is an `EventRef` to that state's event, read from the class one to whichever state the request
    implies.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        rule: AccessRule,
        selector: str | None,
        mode: str | None,
        local_names: Mapping[str, Any],
        expect_version: bool = False,
        timeout: float | None = BY_PROVIDER,
    ) -> None:
        super().__init__(function, function.__name__)
        self.expect_version = expect_version
        self.timeout = timeout
        self.rule = rule
        if (under := getattr(function, "_auth_config", None)) is not None:
            self.rule |= AccessRule.from_auth_config(under)
        elif _has_guard_inside(function):
            raise EventDefinitionError(
                f"{function.__qualname__} hides the @requires_auth of the function that it wraps: use functools.wraps, "
                "or put @requires_auth on top"
            )
        self.selector = selector
        self.mode = mode
        is_generator, is_async = inspect.isasyncgenfunction(function), inspect.iscoroutinefunction(function)
        self.kind: Kind = "generator" if is_generator else "async" if is_async else "sync"
        self._local_names = local_names
        self._bound: Arguments | None = None
        if inspect.isgeneratorfunction(function):
            raise EventDefinitionError(f"{function.__qualname__} is a plain generator: make it an `async def`")
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise EventDefinitionError(f"the event {function.__qualname__} needs the parameter `self`")
        for parameter in parameters[1:]:
            where = f"argument {parameter.name!r} of the event {function.__qualname__}"
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise EventDefinitionError(f"{where} must be a named argument: events take no *args, **kwargs or /")
            if parameter.annotation is parameter.empty:
                raise EventDefinitionError(f"{where} has no type: annotate it, clients' values are validated by it")

        self.changeable_defaults = changeable_defaults(function)
        """Defaults that each call gets a copy of: position behind `self`, name and value."""

    def limit(self, default: float | None) -> float | None:
        """Return the seconds that the event may take, where its provider says `default`; None for no limit."""
        return default if self.timeout is BY_PROVIDER else self.timeout

    @property
    def _auth_config(self) -> dict[str, Any]:
        return self.rule.as_auth_config()

    @_auth_config.setter
    def _auth_config(self, config: dict[str, Any]) -> None:  # by `requires_auth`, over `@event`
        if self._is_owned:
            raise EventDefinitionError(
                f"{self!r} belongs to a class already, whose guards would change: override the event and guard that"
            )
        self.rule |= AccessRule.from_auth_config(config)

    @property
    def arguments(self) -> Arguments:
        """The types of the arguments. Raises `EventDefinitionError` when an annotation cannot be resolved."""
        if self._bound is None:
            self._bound = Arguments(self.function, self._local_names)
            self._local_names = {}
        return self._bound

    def __get__(self, instance: Any, owner: type) -> EventRef[P, R]:
        return EventRef(self, owner, instance)

    def __repr__(self) -> str:
        return f"<event {self.function.__qualname__}>"


def _has_guard_inside(function: Any, depth: int = 5) -> bool:
    """True if `requires_auth` marked a function that this one closes over."""
    if hasattr(function, "_auth_config"):
        return True
    return depth > 0 and any(
        isinstance(inside, types.FunctionType) and _has_guard_inside(inside, depth - 1)
        for inside in closure_of(function).values()
    )


class EventRef(Generic[P, R]):
    """An event of one state, or of the state that a request implies: call it, or write it into a page."""

    __slots__ = ("_owner", "_state", "event")

    def __init__(self, event: Event[P, R], owner: type[Any], state: Any) -> None:
        self.event = event
        self._owner = owner
        self._state = state

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method, as `self.other_event()` does: inside the open transaction, and with no guard asked.

        Raises `ReadOnlyStateError` on a committed state.
        """
        for position, name, default in self.event.changeable_defaults:
            if name not in kwargs and len(args) <= position + (self._state is None):
                kwargs[name] = copied(default)
        if self._state is not None and self._state._is_committed:
            raise ReadOnlyStateError(
                f"{self.event.name}() would change a committed state: use `await state.{self.event.name}.run(...)`"
            )
        own = () if self._state is None else (self._state,)
        return cast(R, self.event.function(*own, *args, **kwargs))

    async def run(self, **arguments: Any) -> Any:
        """Run the event from server code as a transaction of its own, without asking guards; return its result.

        For an async generator, the list of what it yielded. Raises `NotStartedError` for a state that belongs to no
        provider, `EventArgumentError` for arguments that do not fit, `LockTimeoutError`, and whatever the event raises.
        """
        if self._state is None:
            raise TypeError(f"{self.event.name}.run() needs a state, not its class")
        return await self._state._run(self.event, arguments)

    def on(self, trigger: str, /, **arguments: Any) -> OnAttr:
        """Write the Datastar attribute that sends this event when the browser event `trigger` (str) happens.

        Arguments are JSON-like values or `expr(...)`; one left out comes from a form field or a signal of its name. A
        "submit" sends the form's fields, and resets the form when the event succeeded. The result takes datastar-py's
        modifiers: `.on("input").debounce("300ms")`. Raises as `to`.
        """
        return data.on(trigger, self._expression(arguments, form=trigger == "submit"))

    def post(self, **arguments: Any) -> str:
        """Write the bare Datastar expression (str) that sends this event, to be part of a longer one."""
        return self._expression(arguments, form=False)

    def to(self, **arguments: Any) -> str:
        """Write the URL path (str) that this event is posted to, arguments in its query string.

        It begins with the path at which the app is mounted: as the request being served says, or in a view, which is
        the same for all requests, as the first request said. A model's fields are given by name.

        Raises `EventArgumentError` for an argument that the event does not have, and for a model or dict, which no
        query string can hold; `ConfigurationError` on a class of several providers, if no request says which one is
        meant.
        """
        self._check_names(arguments)
        written = {name: to_wire(value) for name, value in arguments.items()}
        for name, value in written.items():
            if any(isinstance(part, list | dict) for part in (value if type(value) is list else (value,))):
                raise EventArgumentError(
                    f"{self.event.name}: a URL holds texts, numbers and lists of these, and so not the argument"
                    f" {name!r}, {type(arguments[name]).__name__}: give its fields by name, or send it with `.on` or"
                    " `.post`"
                )
        state, owner = self._state, self._owner._full_class or self._owner
        provider = (state._provider if state is not None else None) or provider_of(owner)
        name = state._namespace[0] if state is not None else owner._registered_name(provider)
        own = state._instance_id if state is not None else None
        pairs = {**({"_id": own} if own is not None else {}), **written}
        path = f"event/{name}/{self.event.name}"
        url = provider.url_of(path) if provider is not None else f"{DEFAULT_PREFIX}/{path}"
        return url + (f"?{urlencode(pairs, doseq=True)}" if pairs else "")

    def _check_names(self, arguments: Mapping[str, Any]) -> None:
        known = self.event.arguments
        for name in arguments:
            if name not in known.names:
                raise EventArgumentError(unknown_argument(self.event.name, name, known.types))

    def _expression(self, arguments: Mapping[str, Any], form: bool) -> str:
        """Write the Datastar expression that sends this event; `form` for the one of a form's submit."""
        self._check_names(arguments)
        state, owner = self._state, self._owner._full_class or self._owner
        if state is not None:
            namespace, own_id, version = state._namespace, state._instance_id, state._version
        else:
            provider = provider_of(owner)
            if provider is not None and provider.has_ids(owner):
                raise EventDefinitionError(
                    f"{owner.__name__}.{self.event.name} is an event of one of several states: write it with the one "
                    f"that is meant, state.{self.event.name}.on(...)"
                )
            namespace, own_id, version = (owner._registered_name(provider),), None, None
        path = ".".join(namespace)
        fields = []
        if arguments:
            fields.append(f"a:{js(arguments)}")
        if own_id is not None:
            fields.append(f"i:{js(own_id)}")
        if bound := owner._fs_schema().bound:
            fields.append(f"n:{js(path)},b:{js(bound)}")
        if self.event.expect_version:
            # A person fills a form with the version in mind that it was rendered with, not with one that came since.
            fields.append(f"v:{js(version) if form and version else f'${path}.{VERSION_SIGNAL}'}")
        if missing := [name for name in self.event.arguments.types if name not in arguments]:
            fields.append(f"s:{js(missing)}")
        action = "fsSubmit" if form else "fsSend"
        return f"@{action}({js(f'{namespace[0]}/{self.event.name}')},{{{','.join(fields)}}})"

    @property
    def _auth_config(self) -> dict[str, Any]:
        return self.event._auth_config

    def __repr__(self) -> str:
        return f"<{self._owner.__name__}.{self.event.name}>"


def is_time_limit(value: Any) -> bool:
    """True if `value` can be a limit of time: seconds (finite, above 0), or None for no limit."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@overload
def event(function: Callable[Concatenate[Any, P], R], /) -> Event[P, R]: ...
@overload
def event(
    *,
    requires_auth: bool = ...,
    permissions: Sequence[str] | None = ...,
    roles: Sequence[str] | None = ...,
    owner_only: bool = ...,
    selector: str | None = ...,
    mode: str | None = ...,
    expect_version: bool = ...,
    timeout: float | None = ...,
) -> Callable[[Callable[Concatenate[Any, P], R]], Event[P, R]]: ...
def event(
    function: Callable[..., Any] | None = None,
    /,
    *,
    requires_auth: bool = False,
    permissions: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    owner_only: bool = False,
    selector: str | None = None,
    mode: str | None = None,
    expect_version: bool = False,
    timeout: float | None = BY_PROVIDER,
) -> Any:
    """Make a method of a `ReactiveState` an event: something a page may ask for, run as one transaction.

    The method may be sync (run in a worker thread), async, or an async generator (which commits at each `yield`). Each
    argument needs an annotation; pydantic validates what a client sends by it. An argument annotated with another state
    class is that state, locked and committed together with this one.

    `requires_auth`, `permissions` (all of), `roles` (all of) and `owner_only` say who may; denials are 401 or 403.
    `selector` (CSS) and `mode` (one of Datastar's: "outer", "inner", "append", …) say where FT that the event returns
    or yields goes; without them it replaces the element of the same id. With `expect_version` the page sends the
    version of the state that it shows (a form the one that it was rendered with), and an event on any other one is
    refused (`EventConflictError`, 409): the page is sent the state as it is, and its user decides again. Server code
    needs no version.

    `timeout` is how many seconds the event may take, from when it has its locks, all steps of a generator together
    (None for no limit). Without it the provider's `event_timeout` counts. An event that takes longer is stopped, and
    its step under way is rolled back (`EventTimeoutError`, 503).

    Raises `EventDefinitionError` for a signature, a mode or a timeout that cannot work.
    """

    def decorate(function: Callable[..., Any]) -> Event[Any, Any]:
        if mode is not None and mode not in {m.value for m in ElementPatchMode}:
            raise EventDefinitionError(
                f"{mode!r} is not a mode of Datastar: {', '.join(m.value for m in ElementPatchMode)}"
            )
        if selector is not None and ("\n" in selector or "\r" in selector or not selector.strip()):
            raise EventDefinitionError(f"{selector!r} is not a CSS selector")
        if mode not in (None, "outer", "replace") and selector is None:
            raise EventDefinitionError(f"mode {mode!r} needs a selector")
        if timeout is not BY_PROVIDER and not is_time_limit(timeout):
            raise EventDefinitionError(
                f"timeout is in seconds, above 0, or None for no limit, not {timeout!r} ({function.__qualname__})"
            )
        rule = rule_of(requires_auth, permissions, roles, owner_only)
        return Event(function, rule, selector, mode, local_names, expect_version, timeout)

    # Types that are local to a function can be named in annotations that are strings; the caller's caller has them.
    caller = sys._getframe(1).f_back
    local_names = dict(caller.f_locals) if caller is not None and caller.f_locals is not caller.f_globals else {}
    return decorate(function) if function is not None else decorate
