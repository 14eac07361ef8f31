"""The markers of fields: `Bound`, `ServerOnly`, `AsSignal` and `Visible`, and how they are read."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from ..exceptions import EventDefinitionError

__all__ = ["AsSignal", "Bound", "Marker", "ServerOnly", "Visible", "markers_in", "permission_in"]

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


@dataclass(frozen=True, slots=True)
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
