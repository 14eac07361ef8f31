"""The provider: registering classes, finding the state that a request means, and server code that changes states."""

import asyncio
import contextvars
import inspect
from typing import Annotated

import pytest
from fasthtml.common import Titled
from pydantic import ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.testclient import TestClient

import faststate
from faststate import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    EventArgumentError,
    IdentifierError,
    LockTimeoutError,
    NotStartedError,
    PersistenceError,
    ReactiveState,
    ReadOnlyStateError,
    Record,
    StateConfig,
    StateNotFoundError,
    StateNotRegisteredError,
    StateProvider,
    StateRegistry,
    StateScope,
    UserContext,
    event,
    fast_app,
    get_current_user,
)
from faststate.sessions.caller import Identity
from faststate.stores.memory import MemoryStore
from tests.support.client import Page, patched_signals
from tests.support.requests import request_of
from tests.support.states import set_fields

ANN = UserContext("ann", roles=["editor"], permissions=["write"])


class Cart(ReactiveState):
    items: int = 0
    note: str = ""

    @event
    def add(self, by: int = 1):
        self.items += by

    @event
    async def add_async(self, by: int):
        self.items += by
        return f"{self.items} items"

    @event
    async def steps(self):
        for _ in range(3):
            self.items += 1
            yield self.items

    @event
    def total(self) -> int:
        return self.items

    @event(requires_auth=True)
    def guarded(self):
        self.items += 100


class Stock(ReactiveState):
    left: int = 10


class ProductState(ReactiveState):
    sku: str = ""
    left: int = 10

    @event
    def sell(self, stock: Stock, cart: Cart, other: Annotated["ProductState", Record("instead")], instead: str):
        self.left -= 1
        stock.left -= 1
        cart.items += 1
        other.left -= 5


class OrderLine(ReactiveState):
    amount: int = 1


def provider_of(cls=Cart, scope=StateScope.SESSION, *, provider=None, **config):
    provider = provider or StateProvider(secret_key="a key of the tests")
    provider.register_state(cls, StateConfig(scope=scope, **config))
    return provider


@pytest.fixture
def provider():
    return provider_of()


def key_of(state):
    return state._committed.identifier.key


# -- registering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [int, Cart(), "Cart", None])
def test_only_state_classes_are_registered(cls):
    with pytest.raises(ConfigurationError, match="not a ReactiveState class"):
        StateProvider().register_state(cls, StateConfig())


def test_a_class_is_registered_once(provider):
    with pytest.raises(ConfigurationError, match="Cart is registered already"):
        provider.register_state(Cart, StateConfig())


def test_two_classes_of_one_name_need_another_name_for_one():
    other = type("Cart", (ReactiveState,), {"__annotations__": {"n": int}, "n": 0})
    provider = provider_of()
    with pytest.raises(ConfigurationError, match=r"two state classes are called Cart.*name="):
        provider.register_state(other, StateConfig())
    provider.register_state(other, StateConfig(name="OtherCart"))
    assert provider.registrations.class_named("OtherCart") is other
    assert provider.registrations.class_named("Cart") is Cart


@pytest.mark.parametrize("name", ["with space", "a:b", "ü", "1st", "a.b"])
def test_a_name_that_cannot_be_in_a_key_is_refused(name):
    with pytest.raises(ConfigurationError, match="name="):
        provider_of(name=name)


def test_config_takes_the_seeds_form_and_the_short_one():
    provider = StateProvider()
    provider.register_state(Cart, StateConfig(Cart, StateScope.USER))
    provider.register_state(Stock, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(OrderLine)
    scopes = [config.scope for config in provider.state_configs.values()]
    assert scopes == [StateScope.USER, StateScope.GLOBAL, StateScope.SESSION]
    with pytest.raises(ConfigurationError, match="for Cart, not for ProductState"):
        provider.register_state(ProductState, StateConfig(Cart))


def test_one_config_serves_two_classes():
    config = StateConfig(scope=StateScope.GLOBAL, ttl=5)
    provider = StateProvider()
    provider.register_state(Cart, config)
    provider.register_state(Stock, config)
    assert [c.ttl for c in provider.state_configs.values()] == [5, 5]


def test_the_decorator_registers_and_returns_the_class():
    provider = StateProvider()

    @provider.state(scope=StateScope.USER, ttl=3600, requires_auth=True)
    class Mine(ReactiveState):
        n: int = 0

    config = provider.state_configs[Mine]
    assert (config.scope, config.ttl, config.requires_auth) == (StateScope.USER, 3600, True)


def test_the_decorator_needs_no_parentheses():
    provider = StateProvider()

    @provider.state
    class Mine(ReactiveState):
        n: int = 0

    @provider.state()
    class Other(ReactiveState):
        n: int = 0

    @provider.state(StateScope.GLOBAL)
    class Everybodys(ReactiveState):
        n: int = 0

    assert all(isinstance(cls, type) and issubclass(cls, ReactiveState) for cls in (Mine, Other, Everybodys))
    scopes = [config.scope for config in provider.state_configs.values()]
    assert scopes == [StateScope.SESSION, StateScope.SESSION, StateScope.GLOBAL]


@pytest.mark.parametrize("wrong", [int, lambda: None, Cart, "session"], ids=["class", "function", "twice", "text"])
def test_the_decorator_refuses_what_it_cannot_register(provider, wrong):
    with pytest.raises(ConfigurationError):
        provider.state(wrong)


async def test_a_class_that_is_not_registered_is_named(in_tmp_path):
    with pytest.raises(StateNotRegisteredError, match="State Cart not registered"):
        await StateProvider().get_state(Cart, request_of())
    with pytest.raises(ValueError, match="Cart"):
        StateProvider().modify(Cart)


@pytest.mark.parametrize("request_given", [None, "not a request", request_of({})])
async def test_whether_the_class_is_registered_is_looked_at_before_anything_else(request_given):
    provider = StateProvider()
    not_registered = pytest.raises(StateNotRegisteredError, match="State Cart not registered")
    with not_registered:
        await provider.get_state(Cart, request_given)
    with not_registered:
        provider.registrations.config_of(Cart)
    with not_registered:
        await provider.resolver.allowed_entry(request_given, None, "read", Cart)
    with not_registered:
        provider.modify(Cart, request_given)
    with not_registered:
        await provider.refresh(Cart)
    with not_registered:
        await provider.delete(Cart)
    with not_registered:
        provider.registrations.config_of(Cart).record_parameter(["cart_id"])


async def test_what_is_no_request_is_named():
    with pytest.raises(TypeError, match="with the request, not with None"):
        await provider_of().get_state(Cart, None)


@pytest.mark.parametrize("wanted", [int, "Cart", None, ReactiveState], ids=str)
async def test_what_is_no_class_of_states_is_named_as_not_registered(wanted):
    with pytest.raises(StateNotRegisteredError, match="not registered"):
        await StateProvider().get_state(wanted, None)


@pytest.mark.parametrize("options", [{"prefix": "no-slash"}, {"prefix": "/"}, {"secret_key": ""}, {"secret_key": []}])
def test_a_provider_that_cannot_work_is_refused_when_it_is_made(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        StateProvider(**options)


# -- which state a request means ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "ids", "key"),
    [
        (StateScope.GLOBAL, {}, "global:Cart"),
        (StateScope.SESSION, {}, "session:Cart:s1"),
        (StateScope.USER, {}, "user:Cart:userann"),
        (StateScope.COMPONENT, {"component_id": "left"}, "component:Cart:s1:component:left"),
        (StateScope.RECORD, {"record_id": 7}, "record:Cart:7"),
        (StateScope.TEMPORARY, {"component_id": "t"}, "temporary:Cart:s1:t"),
    ],
)
async def test_each_scope_finds_its_key(scope, ids, key):
    provider = provider_of(scope=scope)
    state = await provider.get_state(Cart, request_of(auth=ANN), **ids)
    assert key_of(state) == key
    assert await provider.get_state(Cart, request_of(auth=ANN), **ids) is state


async def test_a_session_without_an_id_gets_one_that_is_stored_and_used_again():
    provider, session = provider_of(), {}
    first = await provider.get_state(Cart, request_of(session))
    assert session["session_id"] in key_of(first)
    assert await provider.get_state(Cart, request_of(session)) is first
    assert await provider.get_state(Cart, request_of({})) is not first


async def test_a_component_without_an_id_is_an_error_that_says_how():
    with pytest.raises(IdentifierError, match=r"Component\('left'\)"):
        await provider_of(scope=StateScope.COMPONENT).get_state(Cart, request_of())


async def test_a_temporary_state_has_an_id_of_its_own_per_page():
    provider, request = provider_of(scope=StateScope.TEMPORARY), request_of()
    state = await provider.get_state(Cart, request)
    assert await provider.get_state(Cart, request) is state
    assert key_of(await provider.get_state(Cart, request_of())) != key_of(state)


async def test_an_app_without_sessions_is_named():
    scope = {"type": "http", "headers": [], "path_params": {}}
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        await provider_of().get_state(Cart, Request(scope))


async def test_keywords_are_the_first_values_of_a_new_state(provider):
    assert (await provider.get_state(Cart, request_of(), items=5, note="new")).items == 5
    assert (await provider.get_state(Cart, request_of(), items=6)).items == 5
    with pytest.raises(ValidationError, match="nothing"):
        await provider.get_state(Cart, request_of({"session_id": "s2"}), nothing=1)


@pytest.mark.parametrize(
    ("cls", "config", "path", "record_id"),
    [
        (ProductState, {"record_param": "sku"}, {"record_id": "a", "product_id": "b", "sku": "c"}, "c"),
        (ProductState, {}, {"product_id": "b", "record_id": "a"}, "a"),
        (ProductState, {}, {"shop": "x", "product_id": "b"}, "b"),
        (OrderLine, {}, {"shop": "x", "order_line_id": 4}, "4"),
        (ProductState, {}, {"whatever": "d"}, "d"),
    ],
)
async def test_the_record_id_comes_from_the_path_by_rule(cls, config, path, record_id):
    provider = provider_of(cls, StateScope.RECORD, **config)
    state = await provider.get_state(cls, request_of(path=path))
    assert state._committed.identifier.record_id == record_id


@pytest.mark.parametrize(
    ("config", "path"), [({}, {}), ({}, {"a": "1", "b": "2"}), ({"record_param": "sku"}, {"product_id": "1"})]
)
async def test_a_record_id_that_cannot_be_found_is_an_error_that_says_how(config, path):
    provider = provider_of(ProductState, StateScope.RECORD, **config)
    with pytest.raises(IdentifierError, match="record_param"):
        await provider.get_state(ProductState, request_of(path=path))


@pytest.mark.parametrize("create", [lambda i: None, lambda i: asyncio.sleep(0)], ids=["sync", "async"])
async def test_create_decides_which_records_exist(create):
    provider = provider_of(ProductState, StateScope.RECORD, create=create)
    with pytest.raises(StateNotFoundError, match="ProductState 9") as caught:
        await provider.get_state(ProductState, request_of(), record_id=9)
    assert caught.value.status == 404


async def test_create_is_told_which_record():
    provider = provider_of(ProductState, StateScope.RECORD, create=lambda i: {"sku": i.record_id})
    assert (await provider.get_state(ProductState, request_of(), record_id="tea")).sku == "tea"


async def test_what_is_given_is_read_only_and_says_how_to_write():
    state = await provider_of().get_state(Cart, request_of())
    with pytest.raises(ReadOnlyStateError, match="modify"):
        state.items = 5
    with pytest.raises(ReadOnlyStateError, match="run"):
        state.add()


# -- who may -----------------------------------------------------------------------------------------------------------


async def test_a_users_state_is_401_for_the_anonymous():
    with pytest.raises(AuthenticationError) as caught:
        await provider_of(scope=StateScope.USER).get_state(Cart, request_of())
    assert caught.value.status == 401


async def test_a_users_state_is_one_over_all_sessions_and_another_users_is_another():
    provider = provider_of(scope=StateScope.USER)
    one = await provider.get_state(Cart, request_of(auth="ann"))
    assert await provider.get_state(Cart, request_of({"session_id": "phone"}, auth=ANN)) is one
    assert await provider.get_state(Cart, request_of(auth="bob")) is not one


@pytest.mark.parametrize(
    ("config", "user", "error"),
    [
        ({"requires_auth": True}, None, AuthenticationError),
        ({"requires_auth": True}, UserContext("x"), None),
        ({"permissions": ["write"]}, None, AuthenticationError),
        ({"permissions": ["write"]}, UserContext("x"), AuthorizationError),
        ({"permissions": ["write"]}, ANN, None),
        ({"permissions": ["write", "print"]}, ANN, AuthorizationError),
        ({"permissions": ["write", "print"]}, UserContext("x", roles=["admin"]), None),
        ({"roles": ["editor"]}, ANN, None),
        ({"roles": ["editor", "author"]}, ANN, AuthorizationError),
        ({"roles": ["editor"]}, UserContext("x", roles=["admin"]), AuthorizationError),
    ],
)
async def test_the_configs_rule_decides_who_may_see_and_modify(config, user, error):
    provider, request = provider_of(**config), request_of(auth=user)

    async def modify():
        await set_fields(provider.modify(Cart, request), items=1)

    for ask in (lambda: provider.get_state(Cart, request), modify):
        if error is None:
            await ask()
        else:
            with pytest.raises(error):
                await ask()
            assert len(provider.registry) == 0


async def later(value):
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize(
    ("options", "scope", "user_id"),
    [
        ({"user_loader": lambda request: ANN}, {}, "ann"),
        ({"user_loader": lambda request: later(ANN)}, {}, "ann"),
        ({"user_loader": lambda request: None}, {"auth": "bob"}, None),  # the loader's word counts
        ({}, {"auth": ANN}, "ann"),
        ({}, {"user": ANN}, "ann"),
        ({}, {"auth": "bob"}, "bob"),
        ({}, {"auth": 7}, 7),
        ({}, {"session": {"session_id": "s", "user_id": 8}}, 8),
        ({}, {"auth": True}, None),
        ({}, {"auth": ""}, None),
        ({}, {"session": {"session_id": "s", "user_id": ""}}, None),
        ({}, {}, None),
        ({"load_user_by_id": lambda user_id: UserContext(user_id, "loaded")}, {"auth": 7}, 7),
        ({"load_user_by_id": lambda user_id: later(UserContext(user_id))}, {"auth": 7}, 7),
        ({"load_user_by_id": lambda user_id: None}, {"auth": "gone"}, None),
        ({"load_user_by_id": lambda user_id: None}, {"auth": ANN}, "ann"),
    ],
)
async def test_the_user_is_found_where_apps_put_it(options, scope, user_id):
    provider = provider_of(provider=StateProvider(secret_key="k", **options))
    request = request_of(**scope)
    await provider.get_state(Cart, request)
    user = await get_current_user(request)
    assert (user.id if user else None) == user_id


async def test_a_known_user_is_loaded_once_per_request():
    calls = []
    provider = provider_of(provider=StateProvider(secret_key="k", user_loader=lambda r: calls.append(r) or ANN))
    request = request_of()
    for _ in range(3):
        await provider.get_state(Cart, request)
    assert calls == [request]


async def test_the_current_user_of_an_app_without_a_provider_is_an_error():
    with pytest.raises(NotStartedError, match="fast_app"):
        await get_current_user(HTTPConnection({"type": "http", "headers": []}))


def test_refusals_of_a_page_are_401_403_and_404(in_tmp_path):
    provider = StateProvider()
    provider.register_state(Cart, StateConfig(scope=StateScope.USER))
    provider.register_state(Stock, StateConfig(permissions=["count"]))
    provider.register_state(ProductState, StateConfig(scope=StateScope.RECORD, create=lambda i: None))
    app, rt = fast_app(state_provider=provider, secret_key="k")

    @rt("/cart")
    def cart(cart: Cart):
        return "x"

    @rt("/stock")
    def stock(stock: Stock):
        return "x"

    @rt("/product/{product_id}")
    def product(product: ProductState):
        return "x"

    @rt("/in/{who}")
    def sign_in(who: str, session):
        session["user_id"] = who
        return "x"

    client = TestClient(app)
    assert [client.get(path).status_code for path in ("/cart", "/stock", "/product/1")] == [401, 401, 404]
    client.get("/in/ann")
    assert [client.get(path).status_code for path in ("/cart", "/stock", "/product/1")] == [200, 403, 404]


# -- changing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "ids", "key"),
    [
        (StateScope.GLOBAL, {}, "global:Cart"),
        (StateScope.SESSION, {"session_id": "s"}, "session:Cart:s"),
        (StateScope.USER, {"user_id": 5}, "user:Cart:user5"),
        (StateScope.COMPONENT, {"session_id": "s", "component_id": "c"}, "component:Cart:s:component:c"),
        (StateScope.RECORD, {"record_id": "r"}, "record:Cart:r"),
    ],
)
async def test_modify_takes_ids_instead_of_a_request(scope, ids, key):
    provider = provider_of(scope=scope, requires_auth=True)  # server code is asked for no rights
    await set_fields(provider.modify(Cart, **ids), items=4)
    assert provider.registry.peek(key).items == 4
    if ids:
        with pytest.raises(IdentifierError, match=next(iter(ids))):
            async with provider.modify(Cart):
                pass


async def test_modify_with_a_request_is_the_state_that_the_request_means(provider):
    await set_fields(provider.modify(Cart, request_of()), items=4)
    assert (await provider.get_state(Cart, request_of())).items == 4
    assert (await provider.get_state(Cart, request_of({"session_id": "other"}))).items == 0


async def test_run_returns_what_the_event_returns_and_asks_no_guards(provider):
    cart = await provider.get_state(Cart, request_of())
    assert await cart.add.run(by=2) is None
    assert await cart.total.run() == 2
    assert await cart.add_async.run(by="3") == "5 items"
    assert await cart.steps.run() == [6, 7, 8]
    assert await cart.guarded.run() is None
    assert (await provider.get_state(Cart, request_of())).items == 108
    assert provider.stats().events == 5
    assert cart.items == 0  # a snapshot stays what it was


@pytest.mark.parametrize(
    ("arguments", "named"), [({"by": "x"}, "'by'"), ({"by": 1, "more": 1}, "'more'"), ({}, "'by'")]
)
async def test_run_with_arguments_that_do_not_fit_names_one(provider, arguments, named):
    cart = await provider.get_state(Cart, request_of())
    with pytest.raises(EventArgumentError, match=named):
        await cart.add_async.run(**arguments)
    assert (await provider.get_state(Cart, request_of())).items == 0


async def test_run_takes_the_further_states_of_an_event():
    provider = provider_of(ProductState, StateScope.RECORD)
    provider_of(Stock, StateScope.GLOBAL, provider=provider)
    provider_of(Cart, StateScope.GLOBAL, provider=provider)
    product = await provider.get_state(ProductState, request_of(), record_id="tea")
    await product.sell.run(instead="milk")
    peek = provider.registry.peek
    assert (peek("record:ProductState:tea").left, peek("record:ProductState:milk").left) == (9, 5)
    assert (peek("global:Stock").left, peek("global:Cart").items) == (9, 1)


async def test_run_of_an_instance_or_class_without_a_provider_is_an_error():
    with pytest.raises(NotStartedError):
        await Cart().add.run()
    with pytest.raises(TypeError, match="needs a state"):
        await Cart.add.run()
    cart = Cart()
    cart.add(by=2)  # an ordinary object
    assert cart.total() == cart.items == 2


async def test_a_lock_timeout_is_the_providers():
    provider = provider_of(scope=StateScope.GLOBAL, provider=StateProvider(lock_timeout=0.01))

    async def second():
        async with provider.modify(Cart):
            pass

    async with provider.modify(Cart):
        with pytest.raises(LockTimeoutError, match=r"global:Cart.*0\.01 s"):
            await asyncio.create_task(second())


# -- several providers, and the end ------------------------------------------------------------------------------------


def make_app(start):
    provider = provider_of(scope=StateScope.GLOBAL, provider=StateProvider())
    app, rt = fast_app(state_provider=provider, secret_key=f"key {start}")

    @rt("/")
    def index(cart: Cart):
        return Titled("Cart", cart.signal.items)

    return provider, TestClient(app)


def test_two_providers_in_one_process_do_not_see_each_other(in_tmp_path):
    (one, first), (two, second) = make_app(1), make_app(2)
    page, other = Page(first), Page(second)
    for _ in range(3):
        assert patched_signals(page.send("Cart", "add").text)["Cart"]["items"] > 0
    assert (Page(first).signals["Cart"]["items"], Page(second).signals["Cart"]["items"]) == (3, 0)
    assert (one.stats().events, two.stats().events) == (3, 0)
    other.tokens = page.tokens
    assert other.send("Cart", "add").status_code == 403  # signed by the other app
    assert two.registry.peek("global:Cart").items == 0


def test_stats_count_what_happened(in_tmp_path):
    provider, client = make_app(1)
    assert set(provider.stats()) == {0}
    page = Page(client)
    page.send("Cart", "add", nonce="the-same-click")
    page.send("Cart", "add", nonce="the-same-click")
    page.send("Cart", "add", by="x")
    page.send("Cart", "nothing")
    stats = provider.stats()
    assert (stats.states, stats.commits, stats.events, stats.repeated, stats.refused) == (1, 2, 1, 1, 2)
    assert (stats.connections, stats.subscriptions, stats.connections_total) == (0, 0, 0)


async def test_stop_ends_the_background_work_and_streams_and_may_be_called_twice():
    provider = provider_of(scope=StateScope.GLOBAL, provider=StateProvider())
    await provider.get_state(Cart, request_of())
    connection = faststate.SSEConnection("c")
    provider.sse_manager.add_connection(connection, ["global:Cart"])
    assert provider.stats().connections == 1
    for _ in range(2):
        await provider.stop()
        assert connection.closed
        assert provider.stats().connections == 0
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("faststate")] == []


def test_the_parts_of_a_provider_are_there_under_their_names(provider):
    assert isinstance(provider.registry, StateRegistry)
    assert isinstance(provider.sse_manager, faststate.SSEManager)
    assert inspect.iscoroutinefunction(provider.get_state)
    with pytest.raises(NotStartedError, match="secret_key"):
        StateProvider().tokens.signer  # noqa: B018  # the property raises
    with pytest.raises(ConfigurationError, match="FastHTML"):
        provider.setup(object())


# -- the beginning and the end -----------------------------------------------------------------------------------------


class Gate(MemoryStore):
    """A store that opens when it is told to, or fails as often as it is told to; and counts."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.failures = failures
        self.opened = self.closed = 0
        self.opening, self.go_on = asyncio.Event(), asyncio.Event()

    async def open(self) -> None:
        self.opened += 1
        self.opening.set()
        await self.go_on.wait()
        if self.failures:
            self.failures -= 1
            raise PersistenceError("not just now")
        await super().open()

    async def close(self) -> None:
        self.closed += 1
        await super().close()


async def test_first_requests_that_race_have_one_start_together():
    store = Gate()
    provider = StateProvider(store=store)
    starts = [asyncio.create_task(provider.start()) for _ in range(10)]
    await store.opening.wait()
    starts[0].cancel()  # whose request was given up: the others are served all the same
    store.go_on.set()
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [None] * 9
    assert store.opened == 1 and provider.lifecycle.is_started
    await provider.start()
    assert store.opened == 1
    await provider.stop()


async def test_a_start_that_fails_fails_for_all_who_wait_and_the_next_one_tries_again():
    store = Gate(failures=1)
    store.go_on.set()
    provider = StateProvider(store=store)
    results = await asyncio.gather(*(provider.start() for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [PersistenceError] * 5
    assert store.opened == 1 and not provider.lifecycle.is_started
    await provider.start()
    assert store.opened == 2 and provider.lifecycle.is_started
    await provider.stop()


async def test_a_stop_waits_for_the_start_that_is_under_way_and_a_start_for_the_stop():
    store = Gate()
    provider = StateProvider(store=store)
    starting = asyncio.create_task(provider.start())
    await store.opening.wait()
    stopping = asyncio.create_task(provider.stop())
    await asyncio.sleep(0)
    again = asyncio.create_task(provider.start())
    store.go_on.set()
    await asyncio.gather(starting, stopping, again)
    assert (store.opened, store.closed) == (2, 1)
    assert provider.lifecycle.is_started
    await provider.stop()


async def test_a_stop_gives_a_start_up_whose_store_does_not_answer():
    store = Gate()
    provider = StateProvider(store=store, store_timeout=0.05)
    starting = asyncio.create_task(provider.start())
    await store.opening.wait()
    async with asyncio.timeout(10):
        await provider.stop()
    assert not provider.lifecycle.is_started
    with pytest.raises(NotStartedError, match="stopped while it started"):
        await starting


async def test_the_store_is_not_opened_in_the_context_of_the_request_that_came_first():
    """What runs as long as the provider would keep that request, with all that it holds."""
    marker = contextvars.ContextVar("marker", default=None)
    seen = []

    class Looking(MemoryStore):
        async def open(self) -> None:
            seen.append(marker.get())

    marker.set("the first request")
    provider = StateProvider(store=Looking())
    await provider.start()
    assert seen == [None]
    await provider.stop()


def test_no_repr_of_a_provider_or_its_options_shows_a_secret():
    provider = StateProvider(secret_key="hush-hush", store="redis://:hush-hush@localhost:1/0")
    assert "hush" not in repr(provider.options) + repr(provider) + repr(vars(provider))


def test_the_repr_of_an_identity_shows_only_the_beginning_of_its_session():
    assert repr(Identity(None, "0123456789abcdef")) == "Identity(user=None, session_id='012345…')"
