"""Injection: handlers get the states that their parameters ask for, and their pages become live."""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, update_wrapper
from typing import Any, Final, Literal

from fastcore.xml import FT
from fasthtml.core import FtResponse, HttpHeader, is_full_page
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from ..auth.users import current_user
from ..exceptions import AccessError, ConfigurationError, StateNotFoundError
from ..provider.context import RequestContext
from ..provider.page import LiveElement, SeedElement
from ..provider.provider import StateProvider
from ..registry.entries import Entry
from ..sessions.config import Ids
from ..state.parameters import Depends, StateParameter, mentions_state, signature_of, state_parameter
from .script import page_script

_CONNECTION: Final = "faststate_connection"


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _awaitable(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return `function` as an async one; a plain function runs in a worker thread, as in FastHTML."""
    return function if _is_async(function) else partial(run_in_threadpool, function)


class _Injection:
    """The parameters of one handler that FastState fills. Lifetime: the route."""

    def __init__(self, provider: StateProvider, function: Callable[..., Any]) -> None:
        if hasattr(function, "_auth_config"):
            raise ConfigurationError(
                f"@requires_auth on {function.__qualname__} would guard nothing: it is for events. Ask for a state "
                "whose StateConfig has a rule, or use a Beforeware"
            )
        self.provider = provider
        self.states: list[tuple[StateParameter, StateProvider]] = []
        self.dependencies: list[tuple[str, Callable[..., Awaitable[Any]], bool]] = []
        """The names of parameters, each with the function that fills it, and True if that takes the request."""
        self.call = _awaitable(function)
        self.signature = signature = signature_of(function, fallback=provider.registrations.classes())
        kept: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            dependency = parameter.default.dependency if isinstance(parameter.default, Depends) else None
            wanted = state_parameter(parameter.name, parameter.annotation, provider.registrations.class_named)
            owner = getattr(dependency, "__self__", None)
            if wanted is not None:
                self.states.append((wanted, owner if isinstance(owner, StateProvider) else provider))
            elif isinstance(owner, StateProvider) and dependency is not None:
                raise ConfigurationError(
                    f"{parameter.name} of {function.__qualname__} depends on get_state: annotate it with a state class"
                )
            elif dependency is not None:
                wants_request = bool(inspect.signature(dependency).parameters)
                self.dependencies.append((parameter.name, _awaitable(dependency), wants_request))
            elif mentions_state(parameter.annotation):
                raise ConfigurationError(
                    f"{parameter.name} of {function.__qualname__} asks for states in a form that is not known: write "
                    "S, S | None or Annotated[S, Component(...)], one parameter for each state"
                )
            else:
                if isinstance(parameter.annotation, str):
                    inspect.signature(function, eval_str=True)  # raises NameError, as FastHTML does
                kept.append(parameter)
        at_end = next((i for i, p in enumerate(kept) if p.kind is p.VAR_KEYWORD), len(kept))
        kept.insert(at_end, inspect.Parameter(_CONNECTION, inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection))
        self.rest = signature.replace(parameters=kept)

    async def fill(self, context: RequestContext, connection: HTTPConnection) -> dict[str, Any]:
        """Return the values of the parameters, by name, for one request, whose `context` is that of the provider."""
        filled: dict[str, Any] = {}
        entries: dict[str, Entry] = {}
        contexts = {owner: context if owner is self.provider else owner.context(connection) for _, owner in self.states}
        for wanted, owner in self.states:
            argument = wanted.record.argument if wanted.record else None
            record = connection.path_params.get(argument) if argument is not None else None
            ids = Ids(component_id=wanted.component.component_id if wanted.component else None, record_id=record)
            try:
                entries[wanted.name] = await owner.resolver.shown_entry(contexts[owner], wanted.cls, ids)
            except (AccessError, StateNotFoundError):
                if not wanted.optional:
                    raise
                filled[wanted.name] = None
        if self.dependencies:
            context.remember_nobody(False)  # one of them may sign somebody in
        for name, dependency, wants_request in self.dependencies:
            filled[name] = await (dependency(connection) if wants_request else dependency())
        # Not loaded without need: a Beforeware may be about to say who it is.
        users = {owner: await own.user() if entries else None for owner, own in contexts.items()}
        for owner in contexts:
            own = [entries[wanted.name] for wanted, its in self.states if its is owner and wanted.name in entries]
            await owner.resolver.ask_again(contexts[owner], own)
        # Nothing is awaited from here on: all states are of one moment, with no event half done between two of them.
        context.page.refresh(context.asked)
        for wanted, owner in self.states:
            if wanted.name in entries:
                filled[wanted.name] = contexts[owner].readable(entries[wanted.name])._seen_by(users[owner])
        return filled


def inject(provider: StateProvider, function: Any, kind: Literal["page", "before", "socket", "end"]) -> Any:
    """Return `function` with its states filled in and the context variables set; a "page" also gets the live element.

    A "before" function runs before it is known who asks, unless it takes a state itself.
    """
    if function is None or getattr(function, "__faststate__", None) is not None:
        return function
    injection = _Injection(provider, function)

    is_apps_own = not str(getattr(function, "__module__", "")).startswith("fasthtml.")  # not static files

    async def handler(**arguments: Any) -> Any:
        connection = arguments.pop(_CONNECTION)
        context = provider.context(connection)
        if kind == "socket":
            context.forget_user()  # a websocket lives long, and rights change
        context.remember_nobody(kind != "before")
        try:
            if kind != "before" and is_apps_own:
                current_user.set(await context.user())
            arguments |= await injection.fill(context, connection)
        finally:
            context.remember_nobody(False)
        result = await injection.call(**arguments)
        return _make_live(context, connection, result) if kind == "page" else result

    update_wrapper(handler, function)
    handler.__signature__ = injection.rest  # type: ignore[attr-defined]  # what FastHTML reads
    handler.__faststate__ = injection  # type: ignore[attr-defined]  # for the check at start
    return handler


_MANY = (tuple, list, map, filter, range, types.GeneratorType)


def _make_live(context: RequestContext, request: Any, result: Any) -> Any:
    """Return a handler's `result` with the elements that make its page follow the states that it shows."""
    page = context.page
    if not page.states or page.live_added:
        return result
    if isinstance(result, FtResponse):
        parts = result.content if isinstance(result.content, tuple) else (result.content,)
        page.live_added = True
        if is_full_page(request, parts):
            result.content = _with_live(context, request, parts)
        else:
            _extend_page(context, request)
        return result
    if isinstance(result, str) and not hasattr(result, "__ft__"):
        if request.app.debug and result.lstrip().startswith("<"):
            raise ConfigurationError(
                "this handler returns HTML as text, so its states cannot be made live: add state.watch() to it, or "
                "return FT"
            )
        return result
    if not (isinstance(result, (*_MANY, FT, HttpHeader)) or hasattr(result, "__ft__")):
        return result
    page.live_added = True
    parts = tuple(result) if isinstance(result, _MANY) else (result,)
    flat = tuple(item for part in parts for item in (part if isinstance(part, _MANY) else (part,)))
    if is_full_page(request, flat):  # FastHTML's name for "not to be wrapped into a page"
        return _with_live(context, request, flat)
    _extend_page(context, request)
    return parts if isinstance(result, _MANY) else result


def _with_live(context: RequestContext, request: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    """Add the live element to the `parts` of a fragment or document, and its signals before all that reads them."""
    seed = SeedElement(context.page)
    if not any(getattr(part, "tag", "") == "html" for part in parts):
        return (seed, *parts, LiveElement(context.page, with_signals=False))
    script = page_script(context.provider, request)
    whole = (_with_seed(part, seed) if getattr(part, "tag", "") == "html" else part for part in parts)
    return (*whole, LiveElement(context.page, with_signals=False, script=script))


def _with_seed(html: FT, seed: SeedElement) -> FT:
    children = list(html.children)
    for i, child in enumerate(children):
        if getattr(child, "tag", "") == "head":
            children[i] = FT("head", (seed, *child.children), child.attrs)
            break
    else:
        children.insert(0, seed)
    return FT(html.tag, tuple(children), html.attrs)


def _extend_page(context: RequestContext, request: Any) -> None:
    request.hdrs.append(SeedElement(context.page))
    request.ftrs.append(LiveElement(context.page, with_signals=False))


class FastHTMLContext(RequestContext):
    """One request of a FastHTML app. Lifetime: the request."""

    __slots__ = ()

    def live_element(self) -> LiveElement:
        """As `PageContent.live_element`, with the page's script: whether its head has it is not known yet."""
        headers = self.connection.headers
        is_fragment = "hx-request" in headers or "datastar-request" in headers
        return self.page.live_element(None if is_fragment else page_script(self.provider, self.connection))

    def add_live_element(self, request: Any) -> None:
        """Make a page live whose handler was defined before `setup`: only a whole page, by its head and footer."""
        if not self.page.live_added and hasattr(request, "ftrs"):
            self.page.live_added = True
            _extend_page(self, request)
