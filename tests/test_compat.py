"""The private names of neighbours: that they are what is used, and what happens where one is missing.

A test of the first kind fails first when a neighbour changes. Its name says which module of `faststate/_compat` (or
`faststate/fasthtml/_compat.py`) has to follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import math
from abc import ABCMeta
from collections.abc import AsyncIterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastcore.xml import FT
from fasthtml import common as fh
from fasthtml import core
from fastlite import database
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.protocol.http_stream import HTTPStream
from itsdangerous import URLSafeTimedSerializer
from pydantic import (
    Base64Bytes,
    Base64Str,
    BaseModel,
    FilePath,
    SecretStr,
    TypeAdapter,
    field_serializer,
    field_validator,
    model_validator,
)
from redis.asyncio.connection import Connection
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient

from faststate import ConfigurationError, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
from faststate._compat import asyncio as compat_asyncio
from faststate._compat import hypercorn as compat_hypercorn
from faststate._compat import itsdangerous as compat_itsdangerous
from faststate._compat import json as compat_json
from faststate._compat import pydantic as compat_pydantic
from faststate._compat import redis as compat_redis
from faststate._compat import servers as compat_servers
from faststate._compat import starlette as compat_starlette
from faststate._compat import uvicorn as compat_uvicorn
from faststate._compat.fastlite import keeps_xtra, xtra_of
from faststate._compat.itsdangerous import TokenSerializer, unverified_payload
from faststate.fasthtml import _compat as compat_fasthtml
from faststate.records.table import TableRecords
from faststate.scheduling.waits import begin, resume
from faststate.validation.core_schemas import all_parts
from tests.support.client import Page
from tests.support.live import eventually, serving


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


def make(**options):
    provider = StateProvider()
    provider.register_state(Counter, StateConfig(scope=StateScope.SESSION))
    app, rt = fast_app(state_provider=provider, pico=False, secret_key="for tests", **options)

    @rt("/")
    def index(counter: Counter):
        return fh.P(counter.signal.count)

    return app


@pytest.fixture
def reloaded(monkeypatch):
    """Loads a module of `_compat` again, as it is without a name of its neighbour's; at the end as it was."""
    modules = []

    def without(module, owner, *names):
        for name in names:
            monkeypatch.delattr(owner, name)
        modules.append(module)
        return importlib.reload(module)

    yield without
    monkeypatch.undo()
    for module in modules:
        importlib.reload(module)


# -- asyncio -----------------------------------------------------------------------------------------------------------


async def test_asyncio_lets_code_run_as_a_task():
    task = asyncio.current_task()
    seen = []

    def run():
        compat_asyncio.enter_task(loop, task)
        try:
            seen.append(asyncio.current_task())
        finally:
            compat_asyncio.leave_task(loop, task)

    loop = asyncio.get_running_loop()
    loop.call_soon(run)
    await asyncio.sleep(0)
    assert seen == [task]


@pytest.mark.parametrize("name", ["_enter_task", "_leave_task"])
def test_without_one_of_the_names_of_asyncio_code_runs_as_no_task(reloaded, name):
    module = reloaded(compat_asyncio, asyncio, name)
    assert module.enter_task(None, None) is module.leave_task(None, None) is None


async def refuse_to_end() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


def test_an_event_loop_ends_without_a_task_that_was_forgotten() -> None:
    async def run() -> None:
        task = asyncio.create_task(refuse_to_end())
        await asyncio.sleep(0)
        compat_asyncio.forget_task(task)
        assert task not in asyncio.all_tasks()

    asyncio.run(run())  # which would never return


async def test_without_the_private_name_a_task_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("asyncio.tasks._unregister_task")
    task = asyncio.create_task(asyncio.sleep(3_600))
    compat_asyncio.forget_task(task)
    assert task in asyncio.all_tasks()
    task.cancel()


async def test_asyncio_takes_a_future_that_a_coroutine_begun_by_hand_waits_for():
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def wait():
        return await future

    begun = begin(wait())
    assert begun.waits_for is future
    loop.call_soon(future.set_result, 7)
    assert await resume(begun) == 7
    assert begin(no_wait()) == (None, None, 7), "nothing was waited for"


async def no_wait():
    return 7


# -- json --------------------------------------------------------------------------------------------------------------


def test_json_has_an_encoder_in_c_which_writes_what_python_writes():
    value = {"a": [1, 2.5, None, True, "é\u2028"], "b": {"c": []}}
    assert json.encoder.c_make_encoder is not None
    assert compat_json.compact_encoder()(value) == json.dumps(value, separators=(",", ":"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        compat_json.compact_encoder()(math.nan)


# That frames are the same without it is in test_wire.py.


# -- uvicorn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_uvicorn_has_all_that_is_known_of_it(http, in_tmp_path):
    if http == "httptools":
        pytest.importorskip("httptools")
    app, found = make(), {}

    async def look(scope, receive, send):
        protocol = compat_uvicorn.protocol_of(send, receive)
        connections = compat_uvicorn.connections_of(protocol)
        found["own send"] = compat_uvicorn.is_own_send(send)
        found["cycle"] = compat_uvicorn.cycle_of(scope, send) is send.__self__
        found["transport"] = compat_uvicorn.transport_of(send, receive) is send.__self__.transport
        found["arrival"] = compat_uvicorn.arrival_of(send, receive) is not None
        found["connection"] = protocol in connections
        found["transports"] = send.__self__.transport in compat_uvicorn.transports_of(connections)
        found["address"] = protocol.server == scope["server"]
        found["served"] = compat_uvicorn.serves(protocol, outer)
        found["request"] = protocol.scope is scope and (http == "h11" or isinstance(protocol.url, bytes))
        await app(scope, receive, send)

    async def outer(scope, receive, send):
        await (look if scope["type"] == "http" else app)(scope, receive, send)

    outer.state = app.state
    with serving(outer, http=http) as url:
        assert httpx.get(url).status_code == 200
    assert found and all(found.values()), found


def test_uvicorn_s_server_has_its_connections_behind_its_signal_handler():
    server = uvicorn.Server(uvicorn.Config(lambda: None))
    assert compat_uvicorn.handlers_connections(server.handle_exit) is server.server_state.connections


def test_on_another_server_nothing_of_uvicorn_s_is_found():
    class Cycle:
        async def send(self, message):
            pass

        async def receive(self):
            pass

    cycle = Cycle()
    send, receive = cycle.send, cycle.receive
    assert not compat_uvicorn.is_own_send(send)
    assert compat_uvicorn.cycle_of({"http_version": "1.1"}, send) is None
    assert compat_uvicorn.transport_of(send, receive) is None
    assert compat_uvicorn.protocol_of(send, receive) is None
    assert compat_uvicorn.arrival_of(send, receive) is None
    assert compat_uvicorn.connections_of(None) is None
    assert compat_uvicorn.handlers_connections(print) == set()
    assert not compat_uvicorn.serves(None, None)


# -- hypercorn ---------------------------------------------------------------------------------------------------------


async def test_hypercorn_has_the_event_of_its_worker_behind_send():
    context = WorkerContext(None)
    assert list(inspect.signature(HTTPStream.__init__).parameters)[1:4] == ["app", "config", "context"]
    stream = HTTPStream(None, None, context, None, None, None, None, None, 1)
    assert compat_hypercorn.terminated_of(stream.app_send) is context.terminated


@pytest.mark.parametrize("context", [None, SimpleNamespace(), SimpleNamespace(terminated=SimpleNamespace(wait=print))])
def test_without_the_event_of_a_worker_there_is_none(context):
    class Stream:
        async def app_send(self, message):
            pass

    stream = Stream()
    stream.context = context
    assert compat_hypercorn.terminated_of(stream.app_send) is None


# -- the functions in which servers run a worker -----------------------------------------------------------------------
# That they are found in each server is in test_processes.py.


def test_where_no_server_s_function_runs_the_code_no_workers_are_found():
    assert compat_servers.workers_here() is None


# -- Starlette ---------------------------------------------------------------------------------------------------------


def test_starlette_s_session_notes_what_became_of_it():
    assert compat_starlette.knows_sessions()
    session = compat_starlette.Session({"a": 1})
    assert (session.accessed, session.modified) == (False, False)
    session["a"] = 2
    assert (session.accessed, session.modified) == (True, True)


def test_without_starlette_s_kind_of_session_starlette_reads_the_cookies(monkeypatch, in_tmp_path):
    monkeypatch.setattr(compat_starlette, "Session", None)
    app = make()
    assert [each.cls.__name__ for each in app.user_middleware] == ["SessionMiddleware", "FastStateMiddleware"]
    client = TestClient(app)
    assert Page(client).send("Counter", "add").headers.get("faststate-status") is None
    assert Page(client).signals["Counter"]["count"] == 1, "the cookie still names the session"


async def test_starlette_shows_what_its_exception_layer_is_around():
    async def inner(scope, receive, send):
        pass

    layer = ExceptionMiddleware(inner)
    assert compat_starlette.is_only_exceptions(layer, inner)
    del layer.app
    assert not compat_starlette.is_only_exceptions(layer, inner)


def test_starlette_s_mount_has_its_app_inside_of_its_middleware():
    app = fh.FastHTML()
    mount = Mount("/", app, middleware=[Middleware(GZipMiddleware)])
    assert compat_starlette.served_by(mount) is app
    del mount._base_app
    assert compat_starlette.served_by(mount).app is app


# -- fastcore ----------------------------------------------------------------------------------------------------------


def test_fastcore_s_elements_hold_what_is_known():
    assert compat_fasthtml.knows_elements()


def test_elements_that_hold_something_else_are_copied_by_deepcopy(monkeypatch, in_tmp_path):
    monkeypatch.setattr(compat_fasthtml, "_HELD", {"tag", "children"})
    app = make(hdrs=[fh.Meta(name="mine")])
    assert type(app.hdrs[0]) is FT
    assert 'name="mine"' in TestClient(app).get("/").text


# -- FastHTML ----------------------------------------------------------------------------------------------------------


def test_fasthtml_fills_the_parameters_of_a_function_in():
    assert compat_fasthtml.can_fill
    assert list(inspect.signature(core._params).parameters)[:1] == ["f"]
    assert list(inspect.signature(core._wrap_call).parameters) == ["f", "req", "params"]
    assert list(inspect.signature(core._resp).parameters)[:3] == ["req", "resp", "cls"]


@pytest.mark.parametrize("name", ["_params", "_wrap_call", "_resp"])
def test_without_one_of_these_names_nothing_is_filled_in(reloaded, name):
    # That Beforeware runs all the same is in test_event_route.py.
    assert not reloaded(compat_fasthtml, core, name).can_fill


@pytest.mark.parametrize("name", ["_endp", "max_part_size", "build_middleware_stack"])
def test_without_a_name_that_is_needed_setup_says_so(monkeypatch, name, in_tmp_path):
    app, _ = fh.fast_app(pico=False)
    monkeypatch.setattr(compat_fasthtml, "_NEEDED", (name + "_of_old", "hdrs"))
    with pytest.raises(ConfigurationError, match=f"not supported: it has no app.{name}_of_old$"):
        StateProvider().setup(app)


def test_without_the_method_for_websockets_setup_warns(monkeypatch, in_tmp_path, caplog):
    monkeypatch.delattr(fh.FastHTML, "_add_ws")
    make()
    assert "websocket handlers get no states" in caplog.text


# -- itsdangerous ------------------------------------------------------------------------------------------------------


def test_the_layout_of_a_token_is_known() -> None:
    for value in ([], ["a", [["Counter", None, []]]], ["ü\0", 1, None]):
        token = str(TokenSerializer("key").dumps(value))
        assert unverified_payload(token) == value == URLSafeTimedSerializer("key").loads(token)
    assert TokenSerializer is not URLSafeTimedSerializer


def test_a_long_payload_is_compressed_and_not_read_unverified() -> None:
    long = ["x" * 10_000]
    token = str(TokenSerializer("key").dumps(long))
    assert len(token) < 1_000 and unverified_payload(token) is None
    assert TokenSerializer("key").loads(token) == long


def test_another_layout_of_tokens_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Another(URLSafeTimedSerializer):
        def dump_payload(self, obj: Any) -> bytes:
            return b"x" + super().dump_payload(obj)

    assert not compat_itsdangerous._knows_layout(Another)
    monkeypatch.setattr(compat_itsdangerous, "_layout_is_known", False)
    assert unverified_payload(str(URLSafeTimedSerializer("key").dumps(["a"]))) is None


# -- pydantic ----------------------------------------------------------------------------------------------------------


class Plain(BaseModel):
    a: int = 0
    f: Fraction = Fraction(1)


class Private(Plain):
    _seen: int = 0


class Authored(Plain):
    @model_validator(mode="before")
    @classmethod
    def early(cls, data):
        return data

    @model_validator(mode="after")
    def late(self):
        return self

    @field_validator("a")
    @classmethod
    def check(cls, value):
        return value

    @field_serializer("a")
    def write(self, value):
        return value

    def model_post_init(self, context):
        pass


class OwnInit(Plain):
    def __init__(self, **values):
        super().__init__(**values)


class AuthoredAndPrivate(Authored):
    _seen: int = 0


def test_pydantic_says_what_the_author_of_a_class_has_written():
    assert compat_pydantic.model_validator_modes(Authored) == ["before", "after"]
    assert compat_pydantic.model_validator_modes(Plain) == compat_pydantic.model_validator_modes(int) == []
    assert compat_pydantic.validated_fields(Authored) == {"a"} and compat_pydantic.validated_fields(Plain) == set()
    for asked in (
        compat_pydantic.validates_whole,
        compat_pydantic.has_validators,
        compat_pydantic.has_serializers,
        compat_pydantic.fills_fields,
    ):
        assert (asked(Authored), asked(Plain)) == (True, False), asked
    assert compat_pydantic.fills_fields(OwnInit)


def test_pydantic_tells_its_own_methods_from_the_author_s():
    classes = (Plain, Private, Authored, AuthoredAndPrivate)
    assert [compat_pydantic.has_post_init(cls) for cls in classes] == [False, False, True, True]
    assert [compat_pydantic.has_base_init(cls) for cls in (Plain, Counter, OwnInit)] == [True, True, False]
    assert not Counter.__pydantic_custom_init__


@pytest.mark.parametrize(
    ("annotation", "converts"), [(Base64Str, True), (Base64Bytes, True), (FilePath, True), (SecretStr, False)]
)
def test_pydantic_s_own_functions_that_convert_are_known(annotation, converts):
    functions = [
        part["function"]["function"] for part in all_parts(TypeAdapter(annotation).core_schema) if "function" in part
    ]
    assert any(map(compat_pydantic.converts, functions)) is converts


def test_pydantic_s_schema_of_a_fraction_is_known():
    schema = TypeAdapter(Plain).core_schema
    assert [compat_pydantic.is_fraction(part) for part in all_parts(schema)].count(True) == 1
    assert compat_pydantic.build_validator(schema)({"a": "2"}) == Plain(a=2)


@pytest.mark.parametrize("is_abc", [True, False])
def test_a_subclass_of_a_pydantic_model_shares_its_validator(is_abc, monkeypatch):
    assert issubclass(type(BaseModel), ABCMeta)
    if not is_abc:
        monkeypatch.setattr(compat_pydantic, "ABCMeta", type("AnotherMeta", (type,), {}))
    made = compat_pydantic.subclassed(Plain, (Plain,), {"__slots__": (), "b": 1})
    assert made.__name__ == "Plain" and issubclass(made, Plain) and made.b == 1
    assert made.__pydantic_validator__ is Plain.__pydantic_validator__
    assert made.__pydantic_fields__ is Plain.__pydantic_fields__
    assert isinstance(object.__new__(made), Plain)


def test_pydantic_s_models_have_slots_that_can_be_set():
    made = object.__new__(Plain)
    for put, value in (
        (compat_pydantic.put_values, {"a": 3, "f": Fraction(2)}),
        (compat_pydantic.put_fields_set, {"a"}),
        (compat_pydantic.put_extra, None),
        (compat_pydantic.put_private, None),
    ):
        put(made, value)
    assert made == Plain(a=3, f=Fraction(2)) and made.model_fields_set == {"a"} and made.model_extra is None


def test_a_slot_that_pydantic_does_not_have_is_set_by_its_name():
    made = Plain()
    compat_pydantic._setter("__slot_of_another_version__")(made, 1)
    assert made.__dict__["__slot_of_another_version__"] == 1


# -- fastlite and fastsql ----------------------------------------------------------------------------------------------


def test_the_filter_of_a_table_is_found() -> None:
    table = database(":memory:").t.products
    table.create({"id": int, "owner": str}, pk="id")
    assert keeps_xtra(table) and xtra_of(table) == {}
    table.xtra(owner="ada")
    assert xtra_of(table) == {"owner": "ada"}


def test_a_table_whose_filter_is_kept_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = database(":memory:").t.products
    table.create({"id": int, "owner": str}, pk="id")
    monkeypatch.setattr(type(table), "xtra", lambda self, **columns: setattr(self, "_filter", columns))
    with pytest.raises(ConfigurationError, match=r"xtra\(\) sets is not found on a Table: .* this version of fastlite"):
        TableRecords(table)


# -- redis-py ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    """A connection of redis-py to a server that says OK to everything, and ends the connection when told QUIT."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"*"):
                writer.write(b"+OK\r\n")
            elif line == b"QUIT\r\n":
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    made = Connection(host="127.0.0.1", port=server.sockets[0].getsockname()[1], protocol=2)
    await made.connect()
    yield made
    await made.disconnect(nowait=True)
    server.close()
    await server.wait_closed()


async def test_a_connection_that_redis_has_closed_is_broken(connection: Connection) -> None:
    assert not compat_redis.is_broken(connection)
    await connection.send_command("QUIT")
    assert await connection.read_response() == b"OK"
    await eventually(lambda: compat_redis.is_broken(connection))


async def test_who_reads_from_an_aborted_connection_is_told(connection: Connection) -> None:
    reading = asyncio.create_task(connection.read_response())
    await asyncio.sleep(0)
    compat_redis.abort(connection)
    with pytest.raises(Exception, match=r"(?i)connection"):
        await asyncio.wait_for(reading, 5)
    assert compat_redis.is_broken(connection)


async def test_without_the_private_names_of_a_connection_the_public_way_is_taken() -> None:
    closed = asyncio.Event()

    async def disconnect(*, nowait: bool) -> None:
        closed.set()

    other = SimpleNamespace(disconnect=disconnect)
    assert not compat_redis.is_broken(other)
    compat_redis.abort(other)
    await asyncio.wait_for(closed.wait(), 5)
