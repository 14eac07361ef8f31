"""Fields without a default: who gives them a first value is known when the class is registered."""

import asyncio
from typing import Any

import fasthtml.common as fh
import pytest
from pydantic import Field, ValidationError, model_validator
from starlette.testclient import TestClient

from faststate import (
    ConfigurationError,
    ReactiveState,
    StateConfig,
    StateNotFoundError,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from tests.support.client import Page, status
from tests.support.requests import request_of
from tests.support.states import provider_of

KEY = "a key of the tests"


class Order(ReactiveState):
    number: int
    place: str = Field(min_length=1)
    note: str = ""

    @event
    def write(self, note: str):
        self.note = note


class Filled(ReactiveState):
    number: int

    @model_validator(mode="before")
    @classmethod
    def fill(cls, values: Any) -> Any:
        return {"number": 5, **values}


class Makes(ReactiveState):
    number: int

    def __init__(self, **values: Any) -> None:
        super().__init__(**{"number": 5, **values})


class Inherits(Order):
    number: int = 1
    place: str = "here"


@pytest.mark.parametrize("scope", StateScope)
def test_a_field_that_nothing_gives_a_value_is_an_error_at_registration(scope):
    provider = StateProvider(secret_key=KEY)
    with pytest.raises(ConfigurationError, match=r"Order\.number and Order\.place have no default") as raised:
        provider.register_state(Order, StateConfig(scope=scope))
    for remedy in ("a default", "StateConfig(create=...)", "StateConfig(initial_values=True)", "number=..."):
        assert remedy in str(raised.value)
    assert not provider.state_configs

    class One(ReactiveState):
        owner: str

    with pytest.raises(ConfigurationError, match=r"One\.owner has no default"):
        provider.register_state(One, StateConfig(scope=scope))
    with pytest.raises(ConfigurationError, match=r"One\.owner has no default"):
        provider.state(scope=scope)(One)


@pytest.mark.parametrize("store", [None, "sqlite:///states.db"])
def test_a_store_does_not_make_the_first_value(store, in_tmp_path):
    with pytest.raises(ConfigurationError, match="no default"):
        StateProvider(store=store).register_state(Order)


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (Order, {"create": lambda identifier: {"number": 1, "place": "x"}}),
        (Order, {"scope": StateScope.RECORD, "records": (lambda id: {"number": 1, "place": "x"}, lambda *_: None)}),
        (Order, {"initial_values": True}),
        (Filled, {}),
        (Makes, {}),
        (Inherits, {}),
    ],
    ids=["create", "records", "initial values", "a validator of the class", "an __init__", "a subclass with defaults"],
)
async def test_who_gives_the_first_values_is_known(cls, config):
    provider = provider_of(cls, StateConfig(**config), secret_key=KEY)
    initial = {"number": 1, "place": "x"} if config.get("initial_values") else {}
    ids = {"record_id": 1} if "records" in config else {}
    assert (await provider.get_state(cls, request_of(), **ids, **initial)).number in (1, 5)
    await provider.stop()


def test_records_hold_the_values_themselves():
    with pytest.raises(ConfigurationError, match="drop initial_values"):
        StateConfig(scope=StateScope.RECORD, records=(lambda id: None, lambda *_: None), initial_values=True)


@pytest.fixture(params=[None, "sqlite:///states.db"], ids=["memory", "sqlite"])
def provider(request, in_tmp_path):
    config = StateConfig(scope=StateScope.RECORD, initial_values=True)
    return provider_of(Order, config, secret_key=KEY, store=request.param)


def test_a_state_whose_values_nobody_has_given_yet_is_not_there(provider):
    app, rt = fast_app(state_provider=provider)

    @rt("/orders/{order_id}")
    def show(order: Order):
        return fh.P(order.signal.note)

    @rt("/new/{order_id}")
    async def new(request, order_id: str):
        return fh.P((await provider.get_state(Order, request, number=7, place="home")).signal.number)

    with TestClient(app) as client:
        assert client.get("/orders/a").status_code == 404
        made = Page(client, "/new/a")
        assert made.signals["Order"]["a"]["number"] == 7
        assert status(made.send("Order", "write", instance_id="a", note="hello")) < 300
        assert Page(client, "/orders/a").signals["Order"]["a"]["note"] == "hello"
        client.portal.call(lambda: provider.delete(Order, record_id="a"))
        assert status(made.send("Order", "write", instance_id="a", note="again")) == 404


async def test_values_that_do_not_fit_are_named(provider):
    for values, named in (({"number": 7}, "place"), ({"number": 7, "place": ""}, "place"), ({"place": "x"}, "number")):
        with pytest.raises(ValidationError, match=named):
            await provider.get_state(Order, request_of(), record_id="a", **values)
    with pytest.raises(StateNotFoundError, match="there is no Order a"):
        await provider.get_state(Order, request_of(), record_id="a")
    with pytest.raises(StateNotFoundError):
        async with provider.modify(Order, record_id="a"):
            pass
    await provider.stop()


async def test_a_create_that_forgets_a_field_is_told_so():
    provider = provider_of(Order, StateConfig(create=lambda identifier: {}), secret_key=KEY)
    with pytest.raises(ValidationError, match="number"):
        await provider.get_state(Order, request_of())
    await asyncio.sleep(0)
