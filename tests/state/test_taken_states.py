"""States that an event takes along: which one it is must be known when the classes are registered."""

import itertools
from typing import Annotated

import fasthtml.common as fh
import pytest
from starlette.testclient import TestClient

from faststate import (
    Component,
    ConfigurationError,
    EventArgumentError,
    EventDefinitionError,
    ReactiveState,
    Record,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    fast_app,
)
from faststate.tools.audit import audit
from tests.support.client import Page, message, patched_signals, status
from tests.support.requests import request_of
from tests.support.states import provider_of

KEY = "a key of the tests"
SCOPES = list(StateScope)


class Taken(ReactiveState):
    n: int = 0


class Plain(ReactiveState):
    @event
    def take(self, other: Taken):
        other.n += 1


class ByRecord(ReactiveState):
    @event
    def take(self, other: Annotated[Taken, Record("which")], which: str | None = None):
        other.n += 1


class ByOwnId(ReactiveState):
    @event
    def take(self, other: Annotated[Taken, Record()]):
        other.n += 1


class Account(ReactiveState):
    balance: int = 100

    @event
    def pay(self, to: "Account"): ...


class ByComponent(ReactiveState):
    @event
    def take(self, other: Annotated[Taken, Component("left")]):
        other.n += 1


def works(own_class, own, taken):
    """True if it is known which state an event of a state of scope `own` means by one of scope `taken`."""
    with_ids = (StateScope.RECORD, StateScope.COMPONENT)
    match taken:
        case StateScope.RECORD:
            return own_class is ByRecord or (own_class is ByOwnId and own in with_ids)
        case StateScope.COMPONENT:
            return own_class is ByComponent or own is StateScope.COMPONENT
        case StateScope.TEMPORARY:
            return own_class is ByComponent or own is StateScope.TEMPORARY
    return True


CASES = list(itertools.product((Plain, ByRecord, ByOwnId, ByComponent), SCOPES, SCOPES))


def registered(own_class, own, taken, order=1):
    provider = StateProvider(secret_key=KEY)
    for cls, scope in [(own_class, own), (Taken, taken)][::order]:
        provider.register_state(cls, StateConfig(scope=scope))
    return provider


@pytest.mark.parametrize(
    ("own_class", "own", "taken"), CASES, ids=[f"{c.__name__}-{own.value}-{taken.value}" for c, own, taken in CASES]
)
def test_it_is_known_at_registration_which_state_is_taken(own_class, own, taken):
    for order in (1, -1):
        if works(own_class, own, taken):
            registered(own_class, own, taken, order)
        else:
            with pytest.raises(ConfigurationError, match=rf"{own_class.__name__}\.take takes Taken as 'other'"):
                registered(own_class, own, taken, order)


@pytest.mark.parametrize("order", [1, -1])
def test_a_class_that_is_refused_leaves_nothing_behind(order):
    provider = StateProvider(secret_key=KEY)
    first, second = [(Plain, StateScope.SESSION), (Taken, StateScope.RECORD)][::order]
    provider.register_state(first[0], StateConfig(scope=first[1]))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="takes Taken"):
            provider.register_state(second[0], StateConfig(scope=second[1]))
    assert list(provider.state_configs) == [first[0]]
    if second[0] is Taken:
        provider.register_state(Taken, StateConfig(scope=StateScope.USER))
    else:
        provider.register_state(ByRecord, StateConfig(name="Plain"))


@pytest.mark.parametrize(
    ("own_class", "own", "taken", "remedy"),
    [
        (Plain, StateScope.SESSION, StateScope.RECORD, r"other: Annotated\[Taken, Record\('the_argument'\)\]$"),
        (Plain, StateScope.RECORD, StateScope.RECORD, r"or write Record\(\) where it is the id of the event's own"),
        (ByOwnId, StateScope.USER, StateScope.RECORD, r"a user state has none; name the argument.*Record\('the_arg"),
        (Plain, StateScope.SESSION, StateScope.COMPONENT, r"other: Annotated\[Taken, Component\('the_id'\)\]"),
        (Plain, StateScope.GLOBAL, StateScope.TEMPORARY, "give Plain that scope, or Taken another one"),
    ],
)
def test_the_error_names_the_remedy(own_class, own, taken, remedy):
    with pytest.raises(ConfigurationError, match=remedy):
        registered(own_class, own, taken)


def test_a_class_that_takes_another_record_of_its_own_class_has_to_say_which():
    with pytest.raises(ConfigurationError, match="takes Account as 'to'"):
        StateProvider().register_state(Account, StateConfig(scope=StateScope.RECORD))


def test_the_argument_that_a_record_names_has_to_be_there():
    class Shop(ReactiveState):
        @event
        def take(self, other: Annotated[Taken, Record("sku")], number: int): ...

    for provider in (StateProvider(), StateProvider()):
        with pytest.raises(EventDefinitionError, match=r"the argument 'sku', and there is no such argument.*number"):
            provider.register_state(Shop)


@pytest.mark.parametrize("wrong", ["", 5, Taken, ["sku"]], ids=str)
def test_a_record_takes_the_name_of_an_argument(wrong):
    with pytest.raises(EventDefinitionError, match="name of an argument"):
        Record(wrong)


# -- which state it is -------------------------------------------------------------------------------------------------


def site(provider, path="/"):
    app, rt = fast_app(state_provider=provider)
    return app, rt


@pytest.mark.parametrize("own", [StateScope.RECORD, StateScope.COMPONENT])
async def test_record_without_a_name_is_the_id_of_the_event_s_own_state(own):
    provider = registered(ByOwnId, own, StateScope.RECORD)
    app, rt = site(provider)
    ids = {"record_id": "tea"} if own is StateScope.RECORD else {"component_id": "tea"}

    @rt("/")
    async def index(request):
        own = await provider.get_state(ByOwnId, request, **ids)
        return fh.P((await provider.get_state(Taken, request, record_id="tea")).signal.n, own)

    page = Page(TestClient(app))
    answer = page.send("ByOwnId", "take", instance_id="tea")
    assert patched_signals(answer.text)["Taken"]["tea"]["n"] == 1
    assert list(provider.registry.live)[-1] == "record:Taken:tea"
    state = await provider.get_state(ByOwnId, request_of(), **ids)
    await state.take.run()
    assert provider.registry.peek("record:Taken:tea").n == 2


@pytest.mark.parametrize("scope", [StateScope.COMPONENT, StateScope.TEMPORARY])
def test_without_a_mark_it_is_the_one_with_the_id_of_the_event_s_own_state(scope):
    provider = registered(Plain, scope, scope)
    app, rt = site(provider)

    @rt("/")
    async def index(request):
        ids = {"component_id": "left"} if scope is StateScope.COMPONENT else {}
        own = await provider.get_state(Plain, request, **ids)
        taken = await provider.get_state(Taken, request, **ids)
        return fh.P(taken.signal.n, own, data_id=own._instance_id)

    page = Page(TestClient(app))
    own_id = next(attributes["data-id"] for _, attributes in page.attributes if "data-id" in attributes)
    answer = page.send("Plain", "take", instance_id=own_id)
    assert status(answer) == 200, message(answer)
    (taken,) = patched_signals(answer.text)["Taken"].values()
    assert taken == {"n": 1}
    assert len([key for key in provider.registry.live if ":Taken:" in key]) == 1


async def test_a_record_whose_id_is_left_empty_is_the_client_s_error():
    provider = registered(ByRecord, StateScope.SESSION, StateScope.RECORD)
    app, rt = site(provider)

    @rt("/")
    def index(own: ByRecord):
        return fh.P("page")

    page = Page(TestClient(app))
    for given in ({}, {"which": None}):
        answer = page.send("ByRecord", "take", **given)
        assert status(answer) == 400 and "'which' is the id of other" in message(answer)
    with pytest.raises(EventArgumentError, match="'which' is the id of other"):
        await (await provider.get_state(ByRecord, request_of())).take.run()
    assert status(page.send("ByRecord", "take", which="tea")) == 204
    assert provider.registry.peek("record:Taken:tea").n == 1


def test_record_without_a_name_in_a_route_is_the_path_parameter_that_is_taken_anyway():
    provider = provider_of(Taken, StateConfig(scope=StateScope.RECORD), secret_key=KEY)
    app, rt = site(provider)

    @rt("/one/{sku}")
    def one(taken: Annotated[Taken, Record()]):
        return fh.P(taken.signal.n)

    @rt("/two/{shop}/{taken_id}")
    def two(taken: Annotated[Taken, Record()], shop: str):
        return fh.P(taken.signal.n)

    client = TestClient(app)
    assert Page(client, "/one/tea").signals == {"Taken": {"tea": {"n": 0}}}
    assert Page(client, "/two/eu/milk").signals == {"Taken": {"milk": {"n": 0}}}


def test_record_without_a_name_in_a_route_without_its_id_is_an_error_at_start():
    provider = provider_of(Taken, StateConfig(scope=StateScope.RECORD), secret_key=KEY)
    app, rt = site(provider)

    @rt("/{a}/{b}")
    def page(taken: Annotated[Taken, Record()]): ...

    with pytest.raises(ConfigurationError, match="its id is not in the path"), TestClient(app):
        pass


def test_the_audit_tells_a_record_that_the_client_chooses_from_the_event_s_own():
    chosen = audit(registered(ByRecord, StateScope.RECORD, StateScope.RECORD))
    own = audit(registered(ByOwnId, StateScope.RECORD, StateScope.RECORD))
    assert "chosen-record" in {finding.code for finding in chosen.findings}
    assert "chosen-record" not in {finding.code for finding in own.findings}
