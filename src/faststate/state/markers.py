"""The markers of fields: `Bound`, `ServerOnly`, `AsSignal` and `Visible`, and how they are read.

A marker that would hide nothing is reported when a class is made: inside a type, in a dataclass, lost by a subclass.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field
from typing_extensions import is_typeddict  # typing's own knows only typing's TypedDict before Python 3.13

from ..exceptions import EventDefinitionError
from ..validation.annotations import fields_in, hints_of

T = TypeVar("T")


class Marker(enum.Enum):
    """The markers without an argument. Pydantic excludes what `ServerOnly` hides."""

    BOUND = "Bound"
    SERVER_ONLY = "ServerOnly"
    AS_SIGNAL = "AsSignal"


Bound = Annotated[T, Marker.BOUND]
"""`Bound[T]`: a field that a two-way binding in the page sets, together with the next event on its state."""

ServerOnly = Annotated[T, Field(exclude=True, repr=False), Marker.SERVER_ONLY]
"""`ServerOnly[T]`: a field (also of a nested model) that never leaves the server, and is not in `repr`."""

AsSignal = Annotated[T, Marker.AS_SIGNAL]
"""`AsSignal[T]`: a collection or nested model that is sent as a signal; without it, collections show through views."""


@dataclasses.dataclass(frozen=True, slots=True)
class Visible:
    """Marks a field or computed value that only viewers with a permission receive: `Annotated[int, Visible("hr")]`.

    `permission` is a str, as in `UserContext.permissions`. For all other viewers the field is None in what handlers and
    views are given, and an empty signal in the page. Raises `EventDefinitionError` for anything but a name.
    """

    permission: str
    hides_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.permission, str) or not self.permission:
            raise EventDefinitionError(f"Visible takes the name of a permission, not {self.permission!r}")


def markers_in(metadata: Iterable[Any]) -> set[Marker]:
    """Find the markers among what stands beside a type in `Annotated`, but for `Visible`."""
    return {mark for mark in metadata if isinstance(mark, Marker)}


def permission_in(where: str, metadata: Any) -> str | None:
    """Find the permission that a `Visible` names there; None without one. Raises `EventDefinitionError` for several."""
    if Visible in metadata:
        raise EventDefinitionError(f"{where}: write Visible('the permission'), which names who may see it")
    found = {mark.permission for mark in metadata if isinstance(mark, Visible)}
    if len(found) > 1:
        raise EventDefinitionError(f"{where} is marked Visible for {' and '.join(sorted(found))}: name one permission")
    return found.pop() if found else None


# -- markers that would hide nothing -----------------------------------------------------------------------------------


def refuse_buried_markers(where: str, annotation: Any, seen: set[Any]) -> None:
    """Report a marker inside a field's type: `list[ServerOnly[int]]` would hide nothing.

    Raises `EventDefinitionError`. `seen` are the classes and names that were looked into before.
    """
    if hasattr(annotation, "__value__"):  # a `type` statement: pydantic does not see what it names
        if id(annotation) not in seen:  # it may name itself
            seen.add(id(annotation))
            refuse_buried_markers(where, annotation.__value__, seen)
        return
    shape = get_origin(annotation) or annotation
    fields = fields_in(shape)
    if fields is not None and shape not in seen:
        seen.add(shape)
        is_model = issubclass(shape, BaseModel)
        if is_model:
            refuse_lost_markers(shape)
            for name, info in shape.model_computed_fields.items():
                at, metadata = f"{shape.__name__}.{name}", getattr(info.return_type, "__metadata__", ())
                _refuse_visible(at, metadata)
                if Marker.SERVER_ONLY in markers_in(metadata):
                    raise EventDefinitionError(f"{at} is ServerOnly: make it a plain property instead")
        for name, field in fields.items():
            at = f"{shape.__name__}.{name}"
            if is_model:
                _refuse_visible(at, field.metadata)
            elif Marker.SERVER_ONLY in markers_in(field.metadata):
                kind = "TypedDict" if is_typeddict(shape) else "named tuple"
                kind = "dataclass" if dataclasses.is_dataclass(shape) else kind
                raise EventDefinitionError(f"{at} is ServerOnly, and a {kind} cannot keep that: use a BaseModel")
            refuse_buried_markers(at, field.annotation, seen)
    metadata = getattr(annotation, "__metadata__", ())
    if any(isinstance(mark, Visible) for mark in metadata):
        raise EventDefinitionError(f"{where}: write Annotated[..., Visible(...)] around the whole type of the field")
    if marks := markers_in(metadata):
        raise EventDefinitionError(f"{where}: write {marks.pop().value}[...] around the whole type of the field")
    for part in get_args(annotation):
        refuse_buried_markers(where, part, seen)


def _refuse_visible(where: str, metadata: Any) -> None:
    if any(isinstance(mark, Visible) for mark in metadata):
        raise EventDefinitionError(
            f"{where} is marked Visible, which works on the fields of a state alone: make it a field or a computed "
            "value of the state"
        )


def refuse_lost_markers(cls: type[BaseModel]) -> None:
    """Report a field that a base class hides, and that this class shows since it declares it again without the marker.

    The same goes for a marker that the field's own `Field(...)` undoes. Otherwise, declaring a field again to give it
    another default would publish it unnoticed. Raises `EventDefinitionError`.
    """
    for name, field in cls.model_fields.items():
        if Marker.SERVER_ONLY in markers_in(field.metadata) and (not field.exclude or field.repr):
            raise EventDefinitionError(
                f"{cls.__name__}.{name} is ServerOnly, and its Field shows it: drop "
                f"{'repr=True' if field.exclude else 'exclude=False'}"
            )
    own = _hiding(cls)
    for base in cls.__mro__[1:]:
        if base is object or base is BaseModel:
            continue
        declared = inspect.get_annotations(base).keys() | vars(base).keys()
        for name, hidden in _hiding(base).items():
            if hidden is None or name not in declared or name not in own or own[name] == hidden:
                continue
            if hidden != _SERVER_ONLY and own[name] is not None:  # another permission, or nobody at all: it is said
                continue
            mark = "ServerOnly[...]" if hidden == _SERVER_ONLY else f"Annotated[..., Visible({hidden!r})]"
            raise EventDefinitionError(
                f"{cls.__name__}.{name} shows what {base.__name__}.{name} hides: it is declared again without its "
                f"marker. Write {mark} here as well, or give the field another name"
            )


_SERVER_ONLY: Final = (Marker.SERVER_ONLY,)
"""Stands for `ServerOnly` where the name of a permission stands for `Visible`."""


def _hiding(cls: type) -> dict[str, Any]:
    """Read how a class hides each of its fields and computed values: None, a permission's name, or `_SERVER_ONLY`."""
    if not issubclass(cls, BaseModel):  # a mixin, whose annotations become fields of the models that use it
        own = inspect.get_annotations(cls)
        hints = hints_of(cls) if own else own
        marks = {name: getattr(hints.get(name, hint), "__metadata__", ()) for name, hint in own.items()}
        return {
            name: _hides(found, any(getattr(mark, "exclude", None) for mark in found)) for name, found in marks.items()
        }
    if not cls.__pydantic_complete__:
        cls.model_rebuild(raise_errors=False)  # its types were not all there when it was made
    found = {name: _hides(field.metadata, bool(field.exclude)) for name, field in cls.model_fields.items()}
    for name, info in cls.model_computed_fields.items():
        found[name] = _hides(getattr(info.return_type, "__metadata__", ()), False)
    return found


def _hides(metadata: Any, is_excluded: bool) -> Any:
    if is_excluded or Marker.SERVER_ONLY in markers_in(metadata):
        return _SERVER_ONLY
    return next((mark.permission for mark in metadata if isinstance(mark, Visible)), None)
