"""Bound fields: what a client sends is validated and converted before the event's body sees it, or refused."""

from __future__ import annotations

import datetime
import decimal
import enum
from typing import Annotated, Any, Literal

import pytest
from fasthtml.common import P
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from starlette.testclient import TestClient

from faststate import (
    Bound,
    EventDefinitionError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    Visible,
    event,
    fast_app,
)
from tests.support.client import Page, message, status
from tests.support.states import provider_of


class Plan(enum.Enum):
    FREE = "free"
    TRIAL = "trial"


def in_cents(euros: Any) -> int:
    return round(float(euros) * 100)


class Shop(ReactiveState):
    title: Bound[Annotated[str, Field(max_length=20)]] = ""
    qty: Bound[Annotated[int, Field(ge=1, le=10)]] = 1
    plan: Bound[Literal["free", "trial"]] = "free"
    kind: Bound[Plan] = Plan.FREE
    price: Bound[decimal.Decimal] = decimal.Decimal("1.0")
    cents: Bound[Annotated[int, BeforeValidator(in_cents)]] = 0
    day: Bound[datetime.date | None] = None
    ratio: Bound[Annotated[float, Field(allow_inf_nan=False)]] = 0.5
    ready: Bound[bool] = False
    anything: Bound[str | int] = ""
    secret: Annotated[Bound[Annotated[int, Field(le=5)]], Visible("staff")] = 0
    seen: list[str] = []

    @event
    def look(self):
        self.seen.append(
            repr((self.title, self.qty, self.plan, self.kind, self.price, self.cents, self.day, self.ready))
        )

    @event
    async def steps(self):
        self.seen.append(repr(self.qty))
        yield
        self.seen.append(repr(self.qty))


class Whole(Shop):
    """The same with a validator of the whole state."""

    least: int = 1

    @model_validator(mode="after")
    def enough(self):
        if self.qty < self.least:
            raise ValueError("too few")
        return self


def served(cls: type[Shop]) -> tuple[StateProvider, Page]:
    provider = provider_of(cls, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, secret_key="x")

    def index(shop):
        return P(shop.signal.title)

    index.__annotations__["shop"] = cls
    rt("/")(index)
    return provider, Page(TestClient(app))


def the(provider: StateProvider, cls: type[Shop]) -> Any:
    return provider.registry.peek(f"global:{cls.__name__}")


REFUSED = {
    "too long": {"title": "x" * 21},
    "half a character": {"title": "\ud83d"},
    "no text": {"title": ["a"]},
    "too small": {"qty": -7},
    "too large": {"qty": "99"},
    "no number": {"qty": "many"},
    "emptied": {"qty": ""},
    "a list": {"qty": [1]},
    "an object": {"qty": {"a": 1}},
    "null": {"qty": None},
    "not among them": {"plan": "gold"},
    "no member": {"kind": "gold"},
    "no decimal": {"price": "much"},
    "a decimal of two billion digits": {"price": "1e999999999"},
    "no date": {"day": "tomorrow"},
    "no ratio": {"ratio": "NaN"},
    "no bool": {"ready": "perhaps"},
    "one of two": {"title": "fine", "qty": 11},
}


@pytest.mark.parametrize("cls", [Shop, Whole])
@pytest.mark.parametrize("event_name", ["look", "steps"])
@pytest.mark.parametrize("bound", REFUSED.values(), ids=REFUSED)
def test_a_value_that_its_field_refuses_is_a_400_that_names_it_and_nothing_runs(cls, event_name, bound):
    provider, page = served(cls)
    before = the(provider, cls)
    refused = page.send(cls.__name__, event_name, bound=bound)
    assert status(refused) == 400
    if "half" not in str(bound) and "\ud83d" not in bound.values():  # that one is no JSON to begin with
        assert f"{cls.__name__}.{list(bound)[-1]}" in message(refused)
    assert the(provider, cls) is before
    assert page.client.get("/").status_code == 200


@pytest.mark.parametrize("cls", [Shop, Whole])
def test_an_event_sees_each_value_as_its_field_has_it(cls):
    provider, page = served(cls)
    sent = {"title": "tea", "qty": "9", "plan": "trial", "kind": "trial", "price": "2.50", "cents": "2.5",
            "day": "2026-01-31", "ready": "true"}  # fmt: skip
    assert status(page.send(cls.__name__, "look", bound=sent)) in (200, 204)
    expected = ("tea", 9, "trial", Plan.TRIAL, decimal.Decimal("2.50"), 250, datetime.date(2026, 1, 31), True)
    assert the(provider, cls).seen == [repr(expected)]
    assert (the(provider, cls).cents, the(provider, cls).qty) == (250, 9)


@pytest.mark.parametrize("cls", [Shop, Whole])
def test_a_field_that_comes_back_as_the_page_was_shown_it_is_not_converted_again(cls):
    """A page sends all bound fields with each event, whether its user has touched them or not."""
    provider, page = served(cls)
    page.send(cls.__name__, "look", bound={"cents": "2.5"})
    for _ in range(3):
        shown = Page(page.client)
        bound = {name: shown.signals[cls.__name__][name] for name in ("title", "qty", "cents", "day", "price", "ready")}
        assert status(shown.send(cls.__name__, "look", bound=bound)) in (200, 204)
    assert the(provider, cls).cents == 250 and the(provider, cls).day is None
    assert the(provider, cls).price.as_tuple() == decimal.Decimal("1.0").as_tuple()


def test_a_bound_field_of_a_generator_is_set_once():
    provider, page = served(Shop)
    assert status(page.send("Shop", "steps", bound={"qty": "3"})) in (200, 204)
    assert the(provider, Shop).seen == ["3", "3"]


def test_a_field_that_the_client_may_not_see_is_neither_set_nor_told_of():
    provider, page = served(Shop)
    answer = page.send("Shop", "look", bound={"secret": 99})
    assert status(answer) in (200, 204) and the(provider, Shop).secret == 0


def test_a_whole_states_validator_sees_bound_fields_when_the_event_is_committed():
    provider, page = served(Whole)

    class Strict(Whole):
        least: int = 5

    provider.register_state(Strict, StateConfig(scope=StateScope.GLOBAL))
    refused = page.send("Strict", "look", bound={"qty": 3})
    assert status(refused) == 400 and "too few" in message(refused)


def test_the_text_of_a_validator_reaches_the_page():
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("take an even number")
        return value

    class Even(Shop):
        number: Bound[Annotated[int, AfterValidator(even)]] = 0

    _, page = served(Even)
    refused = page.send("Even", "look", bound={"number": 3})
    assert status(refused) == 400 and "take an even number" in message(refused)


def test_a_bound_field_that_is_frozen_is_refused_when_the_class_is_made():
    with pytest.raises(EventDefinitionError, match="Bound and frozen"):

        class One(ReactiveState):
            title: Bound[str] = Field("", frozen=True)

    with pytest.raises(EventDefinitionError, match="Bound and frozen"):

        class Two(ReactiveState):
            model_config = ConfigDict(frozen=True)
            title: Bound[str] = ""
