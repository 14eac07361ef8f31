"""Values that are ServerOnly, or not visible to all, are in no log, answer, message or exception, whatever fails.

Each case has a secret in a hidden place and makes something fail there. What is logged (with tracebacks), what is
answered and what is raised to server code must not hold it.
"""

import json
import logging
import traceback
from typing import Annotated, Any

import pytest
from fasthtml import common as fh
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator
from starlette.testclient import TestClient

from faststate import (
    ConfigurationError,
    EventError,
    PersistenceError,
    ReactiveState,
    ServerOnly,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    Visible,
    event,
    fast_app,
    view,
)
from faststate.records.functions import CallableRecords
from faststate.redaction import explain, is_hidden, loggable, redacted
from faststate.registry.persistence import StorePersistence, persistence_errors
from faststate.scopes import Version
from faststate.state.changes import change_of
from faststate.stores.base import Stored, Write
from faststate.stores.memory import MemoryStore
from tests.support.apps import app_showing
from tests.support.client import Page

SECRET = "sk-live-TOPSECRET"
LIMIT = 4_711_007  # a constraint of a hidden value gives it away, too


def assert_silent(text: str) -> None:
    for secret in ("TOPSECRET", str(LIMIT), str(LIMIT - 1)):
        assert secret not in text, text[max(text.find(secret) - 1_500, 0) : text.find(secret) + 200]


def not_secret(value: str) -> str:
    if "TOPSECRET" in value:
        raise ValueError(f"{value} is not allowed here")
    return value


Quoted = Annotated[str, AfterValidator(not_secret)]


class Inner(BaseModel):
    pin: ServerOnly[int] = Field(LIMIT + 1, gt=LIMIT)
    key: ServerOnly[Quoted] = "k"
    name: str = Field("", max_length=5)


HIDE = {"ServerOnly": lambda kind: ServerOnly[kind], "Visible": lambda kind: Annotated[kind, Visible("staff")]}


def make(hide: Any) -> type[ReactiveState]:
    class Vault(ReactiveState):
        token: hide(str) = "t"
        quoted: hide(Quoted) = "q"
        bounded: hide(int) = Field(LIMIT + 1, gt=LIMIT)
        held: hide(dict[str, int]) = {}
        inner: Inner = Inner()
        many: list[Inner] = []
        named: dict[str, Inner] = {}
        maybe: Inner | None = None
        shown: str = ""
        whole: int = 0

        @field_validator("shown")
        @classmethod
        def check_shown(cls, value, info):
            if value == "look":
                raise ValueError(f"not with {info.data.get('token')}")
            return value

        @model_validator(mode="after")
        def check_whole(self):
            if self.whole == 1:
                raise ValueError(f"the token {self.token} is used up")
            if self.whole == 2:
                raise AssertionError(f"{self.token!r}")
            if self.whole == 3:
                raise KeyError(self.token)
            return self

        @event
        def fail(self, failing: str):
            FAILURES[failing](self)

        @event
        async def fail_async(self, failing: str):
            FAILURES[failing](self)

        @event
        async def fail_generator(self, failing: str):
            yield
            FAILURES[failing](self)

        @view
        def card(self):
            if self.shown == "view":
                raise KeyError(self.token)
            return fh.P(self.shown)

    return Vault


def with_token(change):
    def do(vault):
        vault.token = SECRET
        change(vault)

    return do


def from_error(vault):
    try:
        int(SECRET)
    except ValueError as error:
        raise RuntimeError("the app's own, which quotes nothing") from error


def within(vault):
    try:
        Inner(key=SECRET)
    except ValidationError as error:
        raise RuntimeError("the app's own, which quotes nothing") from error


FAILURES = {
    "a wrong type": lambda vault: setattr(vault, "token", {SECRET: 1}),
    "a wrong type within": lambda vault: setattr(vault, "held", {"a": SECRET}),
    "a wrong type as a key": lambda vault: setattr(vault, "held", {SECRET: "x"}),
    "a validator that quotes": lambda vault: setattr(vault, "quoted", SECRET),
    "a constraint": lambda vault: setattr(vault, "bounded", 1),
    "a constraint of a nested field": lambda vault: setattr(vault, "inner", {"pin": 1}),
    "a constraint of a nested field in place": lambda vault: setattr(vault.inner, "pin", 1),
    "a nested validator that quotes": lambda vault: setattr(vault, "inner", {"key": SECRET}),
    "a nested validator in place": lambda vault: setattr(vault.inner, "key", SECRET),
    "a nested value beside a visible one": lambda vault: setattr(vault, "inner", {"pin": LIMIT + 5, "name": SECRET}),
    "in a list": lambda vault: vault.many.append({"pin": 1}),
    "in a list, quoted": lambda vault: vault.many.append({"key": SECRET}),
    "in a dict": lambda vault: vault.named.update(a={"pin": 1}),
    "in a union": lambda vault: setattr(vault, "maybe", {"pin": 1, "key": SECRET}),
    "a model of another shape": lambda vault: setattr(vault, "inner", SECRET) if False else setattr(vault, "inner", 1),
    "a visible field's validator": with_token(lambda vault: setattr(vault, "shown", "look")),
    "a model's validator": with_token(lambda vault: setattr(vault, "whole", 1)),
    "an assertion of a model": with_token(lambda vault: setattr(vault, "whole", 2)),
    "a model's validator that breaks": with_token(lambda vault: setattr(vault, "whole", 3)),
    "python's own words": with_token(lambda vault: int(vault.token)),
    "a missing key": with_token(lambda vault: {}[vault.token]),
    "the app's model": lambda vault: Inner(pin=1),
    "the app's model, quoted": lambda vault: Inner(key=SECRET),
    "the app's model, of a wrong type": lambda vault: Inner(pin=SECRET),
    "a cause": with_token(from_error),
    "a cause of pydantic's": within,
    "an attribute that is none": with_token(lambda vault: getattr(vault, vault.token)),
    "a surrogate": lambda vault: setattr(vault, "token", SECRET + "\ud800"),
    "too deep": lambda vault: setattr(vault, "held", {SECRET: [[1]]}),
}


@pytest.fixture(params=HIDE)
def vault(request):
    return make(HIDE[request.param])


@pytest.fixture
async def provider(vault):
    provider = StateProvider(secret_key="k")
    provider.register_state(vault, StateConfig(scope=StateScope.GLOBAL))
    yield provider
    await provider.stop()


@pytest.fixture(params=["memory", "store"])
def site(request, vault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    provider = StateProvider(store=f"sqlite:///{tmp_path}/s.db" if request.param == "store" else None)
    config = StateConfig(scope=StateScope.GLOBAL, name="Vault")
    app, _ = app_showing(vault, config, provider=provider, show=lambda v: fh.P(v.card(), v), debug=True)
    rt = app.route

    @rt("/run")
    async def run(vault: vault, failing: str):
        await vault.fail.run(failing=failing)
        return "done"

    @rt("/modify")
    async def modify(request, failing: str):
        async with provider.modify(vault, request) as state:
            FAILURES[failing](state)
        return "done"

    @rt("/modify-sync")
    def modify_sync(request, failing: str):
        with provider.modify(vault, request) as state:
            FAILURES[failing](state)
        return "done"

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def logged(caplog) -> str:
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")
    return "\n".join(map(formatter.format, caplog.records))


@pytest.mark.parametrize("failing", FAILURES)
@pytest.mark.parametrize("way", ["fail", "fail_async", "fail_generator"])
def test_an_event_that_fails_shows_no_hidden_value(site, caplog, way, failing):
    with caplog.at_level(logging.DEBUG):
        answer = Page(site).send("Vault", way, failing=failing)
    assert int(answer.headers.get("faststate-status", answer.status_code)) >= 400, "nothing has failed"
    assert_silent(answer.text + logged(caplog))


# What the app's own code raises in a handler is the app's matter, and Starlette's to show.
THEIRS = {
    "python's own words", "a missing key", "the app's model", "a cause",
    "the app's model, quoted", "the app's model, of a wrong type", "a cause of pydantic's",
    "an attribute that is none",
}  # fmt: skip
OURS = [name for name in FAILURES if name not in THEIRS]


@pytest.mark.parametrize("failing", OURS)
@pytest.mark.parametrize("way", ["run", "modify", "modify-sync"])
def test_a_handler_that_changes_a_state_fails_without_a_hidden_value(site, caplog, way, failing):
    with caplog.at_level(logging.DEBUG):
        answer = site.get(f"/{way}", params={"failing": failing})
    assert answer.status_code >= 400
    assert_silent(answer.text + logged(caplog))  # the debug mode shows tracebacks


@pytest.mark.parametrize("failing", OURS)
async def test_what_is_raised_to_server_code_holds_no_hidden_value(vault, provider, failing):
    with pytest.raises(Exception) as raised:
        async with provider.modify(vault) as state:
            FAILURES[failing](state)
    assert_silent("".join(traceback.format_exception(raised.value)))
    assert_silent(repr(raised.value) + str(raised.value) + repr(raised.value.__cause__))


def answer_of_a_page_that_fails(vault, caplog, what, **config):
    """Have a `what` ("view" or "rule") of the page's state fail after an event; return the answer to the event."""
    config = StateConfig(scope=StateScope.GLOBAL, name="Vault", **config)
    app, _ = app_showing(vault, config, show=lambda vault: fh.P(vault.card()))
    FAILURES[f"its {what}"] = with_token(lambda state: setattr(state, "shown", what))
    try:
        with TestClient(app) as client, caplog.at_level(logging.DEBUG):
            return Page(client).send("Vault", "fail", failing=f"its {what}")
    finally:
        del FAILURES[f"its {what}"]


def test_a_view_that_fails_shows_no_hidden_value(vault, caplog):
    answer = answer_of_a_page_that_fails(vault, caplog, "view")
    assert "card failed" in logged(caplog) and "KeyError" in logged(caplog)
    assert_silent(answer.text + logged(caplog))


def test_a_rule_that_fails_shows_no_hidden_value(vault, caplog):
    def rule(user, state, action):
        if action == "read" and state.shown == "rule":
            raise RuntimeError(f"no rule for {state.token}")
        return True

    answer = answer_of_a_page_that_fails(vault, caplog, "rule", authorize=rule)
    assert "the rule of Vault failed" in logged(caplog)
    assert_silent(answer.text + logged(caplog))


# -- what is stored ----------------------------------------------------------------------------------------------------

STORED = {
    "a wrong type": {"token": {SECRET: 1}},
    "a text for a number": {"bounded": SECRET},
    "a text for a number within": {"held": {"a": SECRET}},
    "a key": {"held": {SECRET: "x"}},
    "a nested field": {"inner": {"pin": SECRET}},
    "a field in a list": {"many": [{"key": {SECRET: 1}}]},
    "a field in a dict": {"named": {"a": {"pin": SECRET}}},
    "a field in a union": {"maybe": {"pin": SECRET}},
    "what migrate says": {"migrated": SECRET},
}


def persistence(vault, store):
    class Vault(vault):
        @classmethod
        def migrate(cls, values, version):
            if "migrated" in values:
                raise KeyError(values["migrated"])
            return values

    return StorePersistence(store, Vault, 5.0)


@pytest.mark.parametrize("name", STORED)
async def test_what_is_stored_and_does_not_fit_shows_no_hidden_value(vault, caplog, name):
    store = MemoryStore()
    kept = persistence(vault, store)
    data = json.dumps({"schema": 1, "nonces": [], "values": STORED[name]}).encode()
    identifier = StateIdentifier(StateScope.GLOBAL, "Vault")
    await store.save(Write(identifier.key, None, Version("e", 1), data))
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(Exception) as raised:
            kept.decode(Stored(Version("e", 1), data, None))
        assert await kept.load(identifier) is None
    assert kept.kept_aside == 1 and "does not fit" in logged(caplog)
    assert_silent("".join(traceback.format_exception(raised.value)) + logged(caplog))


class Hashed(ReactiveState):
    password: ServerOnly[str] = ""

    @field_validator("password")
    @classmethod
    def hashed(cls, value):
        if value.startswith("hash:"):
            raise ValueError(f"hash {value} once")
        return "hash:" + value


class Breaks(ReactiveState):
    password: ServerOnly[Any] = ""

    @field_validator("password", mode="plain")
    @classmethod
    def hashed(cls, value):
        if isinstance(value, dict):
            raise RuntimeError(f"what is {value}")
        return value


QUOTING = f"Key (token)=({SECRET}) already exists [parameters: {SECRET}]"


async def test_a_driver_that_quotes_what_was_to_be_written_is_not_logged(caplog):
    class IntegrityError(Exception):
        """As SQLAlchemy's and psycopg's."""

        def __init__(self, text, params):
            super().__init__(text)
            self.params = params

    with pytest.raises(PersistenceError) as raised:
        async with persistence_errors("the row could not be saved", 5.0):
            raise IntegrityError(QUOTING, [SECRET])
    assert isinstance(raised.value.__cause__, IntegrityError) and "IntegrityError" in str(raised.value)
    logging.getLogger("faststate").error("%s", raised.value, exc_info=raised.value)
    assert_silent(logged(caplog))
    assert "already exists" not in logged(caplog) and "in test_a_driver" in logged(caplog)


async def test_a_sqlalchemy_error_is_not_logged_with_its_parameters(caplog):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("create table t (token text unique)"))
        insert = sqlalchemy.text("insert into t values (:token)")
        connection.execute(insert, {"token": SECRET})
        with pytest.raises(PersistenceError) as raised:
            async with persistence_errors("the row could not be saved", 5.0):
                connection.execute(insert, {"token": SECRET})
    logging.getLogger("faststate").error("%s", raised.value, exc_info=raised.value)
    assert_silent(logged(caplog))
    assert isinstance(raised.value.__cause__, sqlalchemy.exc.IntegrityError)


async def test_a_connection_that_fails_says_why(caplog):
    with pytest.raises(PersistenceError) as raised:
        async with persistence_errors("the store is away", 5.0):
            raise ConnectionRefusedError(111, "Connection refused")
    assert "Connection refused" in str(raised.value.__cause__)


def test_a_row_that_does_not_fit_shows_no_hidden_value(vault, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"1": {"id": 1, "token": SECRET, "whole": 1}, "2": {"id": 2, "quoted": SECRET}, "3": {"id": 3, "bounded": 1}}

    def load(record_id):
        return rows.get(record_id)

    def save(record_id, values):
        raise RuntimeError(f"cannot write {values}")

    provider = StateProvider(secret_key="k")
    provider.register_state(
        vault,
        StateConfig(
            scope=StateScope.RECORD, name="Vault", records=CallableRecords(load, save),
            to_state=lambda row: {k: v for k, v in row.items() if k != "id"},
            to_row=lambda state: {"token": state.token},
        ),
    )  # fmt: skip
    app, rt = fast_app(state_provider=provider, secret_key="k", debug=True)

    @rt("/{vault_id}")
    def index(vault_id: str, vault: vault):
        return fh.P(vault.card())

    rows["4"] = {"id": 4}
    with TestClient(app, raise_server_exceptions=False) as client, caplog.at_level(logging.DEBUG):
        answers = [client.get(f"/{i}").text for i in (1, 2, 3)]
        page = Page(client, "/4")
        FAILURES["a row"] = with_token(lambda state: None)
        answers.append(page.send("Vault", "fail", instance_id="4", failing="a row").text)
        del FAILURES["a row"]
    assert "does not fit" in logged(caplog) and "could not be saved" in logged(caplog)
    assert_silent("".join(answers) + logged(caplog))


FIRST = {
    "a wrong type": {"token": {SECRET: 1}},
    "a validator that quotes": {"quoted": SECRET},
    "a constraint": {"bounded": 1},
    "a nested constraint": {"inner": {"pin": 1}},
    "a nested validator that quotes": {"many": [{"key": SECRET}]},
    "a visible field's validator": {"token": SECRET, "shown": "look"},
    "a model's validator": {"token": SECRET, "whole": 1},
}


@pytest.mark.parametrize("how", ["initial", "create"])
@pytest.mark.parametrize("name", FIRST)
def test_first_values_that_do_not_fit_show_no_hidden_value(vault, caplog, name, how):
    provider = StateProvider(secret_key="k")
    create = (lambda identifier: FIRST[name]) if how == "create" else None
    provider.register_state(vault, StateConfig(scope=StateScope.GLOBAL, name="Vault", create=create))
    app, rt = fast_app(state_provider=provider, secret_key="k", debug=True)

    @rt("/")
    async def index(request):
        await provider.get_state(vault, request, **(FIRST[name] if how == "initial" else {}))
        return "done"

    with TestClient(app) as client, caplog.at_level(logging.DEBUG):
        with pytest.raises(ValidationError) as raised:
            client.get("/")
        answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == 500
    assert_silent(answer.text + logged(caplog) + "".join(traceback.format_exception(raised.value)))


@pytest.mark.parametrize("cls", [Hashed, Breaks])
def test_what_does_not_come_back_from_a_store_shows_no_hidden_value(cls, caplog, tmp_path):
    provider = StateProvider(secret_key="k", store=f"sqlite:///{tmp_path}/s.db")
    provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, secret_key="k", debug=True)

    @rt("/")
    async def index(request):
        async with provider.modify(cls, request) as state:
            state.password = SECRET if cls is Hashed else {SECRET: {1, 2}}
        async with provider.modify(cls, request) as state:
            state.password = SECRET + "2"
        return "done"

    with TestClient(app, raise_server_exceptions=False) as client, caplog.at_level(logging.DEBUG):
        answer = client.get("/")
    assert_silent(answer.text + logged(caplog))


# -- reprs, and what is said of the rest -------------------------------------------------------------------------------


async def test_no_repr_of_a_state_holds_a_hidden_value(vault, provider):
    async with provider.modify(vault) as state:
        state.token = SECRET
        state.inner.key = "k2"
        texts = [repr(state), str(state), f"{state}", repr(state.inner), repr([state])]
    async with provider.modify(vault) as state:
        texts += [repr(state), str(state)]
    entry = provider.registry.peek("global:Vault")
    texts += [repr(entry), str(entry), repr(entry._working()), repr(change_of(entry._working()))]
    texts += [repr(vault(token=SECRET)), repr(vault(token=SECRET).model_copy())]
    for text in texts:
        assert_silent(text)


@pytest.mark.filterwarnings("ignore")
def test_pydantics_own_errors_show_no_input(vault):
    for wrong in ({"token": {SECRET: 1}}, {"held": {"a": SECRET}}, {"inner": {"pin": SECRET}}, {"many": SECRET}):
        with pytest.raises(ValidationError) as raised:
            vault(**wrong)
        assert SECRET not in str(raised.value)


class Plain(ReactiveState):
    n: int = Field(0, ge=0)

    @model_validator(mode="after")
    def check(self):
        if self.n == 13:
            raise ValueError(f"{self.n} is unlucky")
        return self


def test_errors_of_a_class_that_hides_nothing_go_on_saying_what_is_wrong():
    with pytest.raises(ValidationError) as raised:
        Plain(n=-1)
    assert explain(raised.value, Plain) == [(("n",), "Input should be greater than or equal to 0")]
    with pytest.raises(ValidationError) as raised:
        Plain(n=13)
    assert explain(raised.value, Plain) == [((), "Value error, 13 is unlucky")]
    assert "13 is unlucky" in str(redacted(raised.value, Plain))
    error = RuntimeError("a word of the app")
    assert str(redacted(error, Plain)) == "a word of the app" and isinstance(redacted(error, Plain), RuntimeError)
    assert loggable(error) is error


def test_a_visible_field_beside_hidden_ones_goes_on_saying_what_is_wrong(vault):
    with pytest.raises(ValidationError) as raised:
        vault(inner={"name": "too long a name"})
    assert explain(raised.value, vault) == [(("inner", "name"), "String should have at most 5 characters")]


@pytest.mark.parametrize(
    ("place", "hidden"),
    [
        (("token",), True), (("inner", "pin"), True), (("inner", "name"), False), (("many", 0, "key"), True),
        (("many", 0), False), (("named", "a", "key"), True), (("named", "a", "name"), False),
        (("maybe", "Inner", "pin"), True), (("shown",), False), ((), False), (("nothing",), False),
    ],
)  # fmt: skip
def test_a_place_is_hidden_where_a_field_on_the_way_is(vault, place, hidden):
    assert is_hidden(vault, place) is hidden


def test_the_chain_of_an_error_is_told_without_what_is_hidden(vault):
    state = vault(token=SECRET)
    try:
        try:
            int(state.token)
        except ValueError:
            raise KeyError("the app's own words") from None
    except KeyError as error:
        hidden = error
    told = loggable(hidden, state)
    text = "".join(traceback.format_exception(told))
    assert_silent(text + repr(told.__context__))
    assert "the app's own words" in text and isinstance(told, KeyError)


def test_configuration_and_event_errors_are_what_they_were():
    error = EventError("meant for people")
    assert redacted(error) is error and loggable(error) is error
    assert isinstance(redacted(ConfigurationError("x")), ConfigurationError)
