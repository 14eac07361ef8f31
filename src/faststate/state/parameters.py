"""Parameters that ask for a state: how a signature is read, and which state of a class a parameter means."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, Union, get_args, get_origin, get_type_hints

from ..exceptions import EventDefinitionError
from ..scopes import Id


@dataclass(frozen=True, slots=True)
class Component:
    """Names the component that a parameter means: `left: Annotated[Counter, Component("left")]`."""

    component_id: Id


@dataclass(frozen=True, slots=True)
class Record:
    """Names the argument (or path parameter) that holds a record's id: `Annotated[ProductState, Record("sku")]`.

    Without a name it is the id of the event's own state; in a route, the path parameter that is taken anyway. Raises
    `EventDefinitionError` for anything but a name.
    """

    argument: str | None = None

    def __post_init__(self) -> None:
        if self.argument is not None and not (isinstance(self.argument, str) and self.argument):
            raise EventDefinitionError(f"Record takes the name of an argument, not {self.argument!r}")


@dataclass(frozen=True, slots=True)
class Depends:
    """A parameter's default that names what fills it: a provider's `get_state`, or any callable taking the request."""

    dependency: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class StateParameter:
    """A parameter that asks for a state."""

    name: str
    cls: type[Any]
    component: Component | None = None
    record: Record | None = None
    optional: bool = False
    """True where None may stand for a state that the caller may not have."""


def is_state_class(annotation: object) -> bool:
    """True for a `ReactiveState` subclass (that class stands in a higher file)."""
    return isinstance(annotation, type) and bool(getattr(annotation, "__faststate__", False))


def mentions_state(annotation: object) -> bool:
    """True if a state class stands anywhere in `annotation`: `list[S]`, `S | T`."""
    return is_state_class(annotation) or any(map(mentions_state, get_args(annotation)))


def state_parameter(
    name: str, annotation: Any, lookup: Callable[[str], type | None] = lambda name: None
) -> StateParameter | None:
    """Read a parameter annotated `S`, `"S"`, `Optional[S]`, `S | None` or `Annotated[S, …]`; None for any other.

    `lookup` finds a registered class (or None) by the name in a string that Python could not resolve.
    """
    component: Component | None = None
    record: Record | None = None
    optional = False
    while True:
        origin = get_origin(annotation)
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        elif isinstance(annotation, str):
            text = annotation.strip("'\" ")
            for suffix in ("|None", "| None"):
                if text.endswith(suffix):
                    text, optional = text.removesuffix(suffix).strip(), True
            if text.startswith("Optional[") and text.endswith("]"):
                text, optional = text[9:-1], True
            annotation = lookup(text)
        elif origin is Annotated:
            annotation, *marks = get_args(annotation)
            component = next((m for m in marks if isinstance(m, Component)), component)
            record = next((m for m in marks if isinstance(m, Record)), record)
        elif origin is Union or origin is types.UnionType:
            members = [member for member in get_args(annotation) if member is not types.NoneType]
            if len(members) != 1:
                return None
            optional = optional or len(get_args(annotation)) > 1
            annotation = members[0]
        else:
            break
    if not is_state_class(annotation):
        return None
    return StateParameter(name, annotation, component, record, optional)


def signature_of(
    function: Callable[..., Any], names: Mapping[str, Any] | None = None, fallback: Mapping[str, Any] | None = None
) -> inspect.Signature:
    """Read a signature and resolve its annotations, where that is possible; `names` adds to the names of the module.

    `fallback` has names that neither knows: classes that were defined inside a function. An annotation that cannot be
    resolved stays a string, and does not keep the others from being resolved.
    """
    found = inspect.signature(function)
    unwrapped: Any = inspect.unwrap(function)
    while isinstance(unwrapped, functools.partial):
        unwrapped = inspect.unwrap(unwrapped.func)
    if not isinstance(unwrapped, type | types.FunctionType | types.MethodType):
        unwrapped = type(unwrapped).__call__  # an object that can be called
    if isinstance(unwrapped, types.MethodType):
        unwrapped = unwrapped.__func__
    namespace = {**(fallback or {}), **getattr(unwrapped, "__globals__", {}), **closure_of(unwrapped), **(names or {})}

    def resolve(annotation: Any) -> Any:
        try:
            if isinstance(annotation, str):
                annotation = eval(annotation, namespace)  # noqa: S307  # the app's own code, as inspect's eval_str has it
            if not get_args(annotation):
                return annotation
            # `Annotated["S", …]` and `list["S"]` hold strings inside. All modules that write the same text share one of
            # these objects. If globals and locals are the same dict, it remembers the class that it was first resolved
            # to: under `python app.py` uvicorn imports the module a second time, and its classes are others.
            holder = types.SimpleNamespace(__annotations__={"inside": annotation})
            return get_type_hints(holder, namespace, {}, include_extras=True)["inside"]
        except Exception:
            return annotation

    return found.replace(
        parameters=[p.replace(annotation=resolve(p.annotation)) for p in found.parameters.values()],
        return_annotation=resolve(found.return_annotation),
    )


def closure_of(function: Any) -> dict[str, Any]:
    """Read the variables that a function closes over, by name, but for those that are not set yet."""
    values = {}
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(function.__code__.co_freevars if cells else (), cells, strict=True):
        with contextlib.suppress(ValueError):  # a variable that is not set yet
            values[name] = cell.cell_contents
    return values
