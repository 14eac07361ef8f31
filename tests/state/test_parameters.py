"""Parameters that ask for a state, in every form in which an annotation can say so."""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, ForwardRef, Optional, Union
from uuid import UUID

import pytest

from faststate import Component, Depends, ReactiveState, Record
from faststate.state.parameters import StateParameter, is_state_class, signature_of, state_parameter


class Counter(ReactiveState):
    count: int = 0


class Other(ReactiveState):
    n: int = 0


def lookup(name):
    return {"Counter": Counter}.get(name)


LEFT, SKU = Component("left"), Record("sku")
FORMS = [
    (Counter, {}),
    ("Counter", {}),
    ("'Counter'", {}),
    (ForwardRef("Counter"), {}),
    (Optional[Counter], {"optional": True}),  # noqa: UP045  # each spelling is a case
    (Counter | None, {"optional": True}),
    (None | Counter, {"optional": True}),
    (Union[Counter, None], {"optional": True}),  # noqa: UP007
    ("Counter | None", {"optional": True}),
    ("Counter|None", {"optional": True}),
    ("Optional[Counter]", {"optional": True}),
    (Optional["Counter"], {"optional": True}),
    (Annotated[Counter, LEFT], {"component": LEFT}),
    (Annotated["Counter", LEFT], {"component": LEFT}),
    (Annotated[Counter, SKU], {"record": SKU}),
    (Annotated[Counter, "a note", LEFT, 1], {"component": LEFT}),
    (Annotated[Counter | None, LEFT], {"component": LEFT, "optional": True}),
    (Annotated[Counter, LEFT] | None, {"component": LEFT, "optional": True}),
    (Optional[Annotated["Counter", SKU]], {"record": SKU, "optional": True}),  # noqa: UP045
    (Annotated[Annotated[Counter, LEFT], "outer"], {"component": LEFT}),
]


@pytest.mark.parametrize(("annotation", "expected"), FORMS, ids=[str(annotation) for annotation, _ in FORMS])
def test_each_form_asks_for_the_state(annotation, expected):
    assert state_parameter("x", annotation, lookup) == StateParameter("x", Counter, **expected)


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        str,
        "int",
        "Unknown",
        None,
        "None",
        inspect.Parameter.empty,
        list[Counter],
        dict[str, Counter],
        type[Counter],
        Counter | Other,
        Counter | int,
        Counter | int | None,
        Annotated[int, LEFT],
        Counter(),
        object,
        "",
        "Counter | int",
    ],
    ids=str,
)
def test_what_asks_for_no_state_is_left_alone(annotation):
    assert state_parameter("x", annotation, lookup) is None


def test_a_name_that_nobody_registered_asks_for_nothing():
    assert state_parameter("x", "Counter") is None


def test_only_state_classes_are_state_classes():
    assert is_state_class(Counter) and is_state_class(ReactiveState)
    assert not any(map(is_state_class, (Counter(), int, "Counter", None, Counter | None)))


def test_ids_of_markers_may_be_of_any_id_type():
    for own in ("left", 1, UUID(int=1)):
        assert state_parameter("x", Annotated[Counter, Component(own)]).component.component_id == own


def annotations(function, **names):
    return {name: p.annotation for name, p in signature_of(function, **names).parameters.items()}


def test_string_annotations_are_resolved_one_by_one():
    def handler(a: Counter, b: Nowhere, c: Annotated[Counter, Component("left")], d=1) -> Nothing:  # noqa: F821
        """This module's annotations are strings."""

    found = annotations(handler)
    assert found == {"a": Counter, "b": "Nowhere", "c": Annotated[Counter, LEFT], "d": inspect.Parameter.empty}
    assert signature_of(handler).return_annotation == "Nothing"


def test_a_class_of_the_enclosing_function_is_found_where_the_handler_uses_it():
    class Local(ReactiveState):
        n: int = 0

    def uses(a: Local):
        return Local

    def names_it(a: Local):
        return a

    assert annotations(uses) == {"a": Local}
    assert annotations(names_it, names={"Local": Local}) == {"a": Local}
    assert state_parameter("a", annotations(names_it)["a"], {"Local": Local}.get) == StateParameter("a", Local)


def test_wrapped_and_bound_functions_are_read_through():
    def handler(counter: Counter, depends: int = Depends(lookup)):
        return counter

    @functools.wraps(handler)
    def wrapper(*args, **kwargs):
        return handler(*args, **kwargs)

    class Routes:
        def get(self, counter: Counter):
            return counter

    assert annotations(wrapper) == {"counter": Counter, "depends": int}
    assert signature_of(wrapper).parameters["depends"].default == Depends(lookup)
    assert annotations(Routes().get) == {"counter": Counter}
    assert annotations(functools.partial(handler))["counter"] is Counter


def test_callable_objects_are_read_through():
    class Handler:
        def __call__(self, counter: Counter):
            return counter

    assert annotations(Handler())["counter"] is Counter
