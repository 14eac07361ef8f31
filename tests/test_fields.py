"""Visible: what viewers without the permission get instead of a value, in every way in which a state leaves."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest
from pydantic import BaseModel, computed_field
from typing_extensions import TypedDict

from faststate import EventDefinitionError, ReactiveState, ServerOnly, Visible

# -- what is refused when the class is made ----------------------------------------------------------------------------

HR = Visible("hr")


class Nested(BaseModel):
    pay: Annotated[int, HR] = 1


class NestedComputed(BaseModel):
    @computed_field
    @property
    def pay(self) -> Annotated[int, HR]:
        return 1


@dataclasses.dataclass
class Record:
    pay: Annotated[int, HR] = 1


class Shape(TypedDict):
    pay: Annotated[int, HR]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[int, Visible], "write Visible\\("),
        (Annotated[int, HR, Visible("boss")], "boss and hr: name one permission"),
        (Annotated[ServerOnly[int], HR], "nobody can see it: drop Visible"),
        (ServerOnly[Annotated[int, HR]], "nobody can see it: drop Visible"),
        (Annotated[int, HR] | None, "around the whole type"),
        (list[Annotated[int, HR]], "around the whole type"),
        (dict[str, list[Annotated[int, HR]]], "around the whole type"),
        (Record, "around the whole type"),
        (Shape, "around the whole type"),
        (Nested, "Nested.pay is marked Visible, which works on the fields of a state alone"),
        (list[Nested], "Nested.pay is marked Visible"),
        (Nested | None, "Nested.pay is marked Visible"),
        (NestedComputed, "NestedComputed.pay is marked Visible"),
    ],
)
@pytest.mark.parametrize("kind", ["field", "computed"])
def test_a_visible_that_would_hide_nothing_is_an_error_at_once(kind, annotation, message):
    if kind == "computed" and "nobody can see it" in message:
        pytest.skip("pydantic itself warns of what ServerOnly holds in a computed field's type")
    with pytest.raises(EventDefinitionError, match=message):
        if kind == "field":

            class Wrong(ReactiveState):
                value: annotation = None
        else:

            class WrongComputed(ReactiveState):
                @computed_field(return_type=annotation)
                @property
                def value(self):
                    return None


@pytest.mark.parametrize("permission", ["", None, 5, ["hr"], b"hr"])
def test_visible_takes_the_name_of_one_permission(permission):
    with pytest.raises(EventDefinitionError, match="name of a permission"):
        Visible(permission)
