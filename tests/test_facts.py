"""Facts about FastHTML, Starlette and datastar-py that the code relies on: these tests say which one has changed."""

import inspect
from copy import deepcopy

import pytest
from datastar_py import ServerSentEventGenerator
from datastar_py.attributes import attribute_generator as data
from fasthtml import common as fh
from fasthtml.core import APIRouter, FtResponse, HttpHeader, is_full_page, noop_body
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient


@pytest.fixture
def app(in_tmp_path):
    return fh.fast_app(pico=False)[0]


def test_every_http_route_passes_the_instance_s_endp(app):
    passed, original = [], app._endp

    def endpoint(function, body_wrap, before=None):
        passed.append(function.__name__)
        return original(function, body_wrap, before=before)

    app._endp = endpoint
    router = APIRouter()

    @app.route("/a")
    def by_route():
        return "a"

    @app.get("/b")
    def by_get():
        return "b"

    @router.post("/c")
    def by_router():
        return "c"

    @app.route("/d")
    class Group:
        def get(self=None):
            return "d"

    router.to_app(app)
    assert passed == ["by_route", "by_get", "get", "by_router"]
    assert list(inspect.signature(original).parameters) == ["f", "body_wrap", "before"]


def test_every_websocket_route_passes_the_instance_s_add_ws(app):
    passed, original = [], app._add_ws

    def add(func, path, conn, disconn, name, middleware):
        passed.append((path, func.__name__))
        return original(func, path, conn, disconn, name, middleware)

    app._add_ws = add
    router = APIRouter()

    @app.ws("/a")
    def by_app(msg: str):
        return msg

    @router.ws("/b")
    def by_router(msg: str):
        return msg

    router.to_app(app)
    assert passed == [("/a", "by_app"), ("/b", "by_router")]
    assert list(inspect.signature(original).parameters) == ["func", "path", "conn", "disconn", "name", "middleware"]


def test_before_is_read_per_request(app):
    app.get("/")(lambda: "page")
    client = TestClient(app)
    assert client.get("/").text == "page"
    app.before.append(lambda: "guard")
    assert client.get("/").text == "guard"
    assert not app.before.clear() and client.get("/").text == "page"


def test_headers_and_footers_belong_to_the_request_and_are_rendered_after_the_handler(app):
    class Late:
        text = "before the handler"

        def __deepcopy__(self, memo):
            return self

        def __ft__(self):
            return fh.P(self.text)

    late = Late()
    app.hdrs.append(fh.Meta(name="appended"))

    @app.get("/")
    def page(req):
        assert req.hdrs is not app.hdrs and req.ftrs is not app.ftrs
        req.hdrs.append(fh.Meta(name="once"))
        req.ftrs.append(late)
        late.text = "after the handler"
        return fh.Div("body")

    first = TestClient(app).get("/").text
    assert first.count('name="once"') == first.count("after the handler") == first.count('name="appended"') == 1
    assert TestClient(app).get("/").text.count('name="once"') == 1
    assert deepcopy(app.hdrs) is not app.hdrs


def test_an_annotated_class_without_a_hook_is_filled_from_the_query_string(app):
    class Profile:
        def __init__(self, is_admin: bool = False):
            self.is_admin = is_admin

        is_admin: bool = False

    @app.get("/")
    def page(p: Profile):
        return str(p.is_admin)

    assert TestClient(app).get("/?is_admin=true").text == "True", "the branch that no state class may fall into"


def test_from_request_is_a_hook_whose_own_parameters_are_injected(app):
    class Hooked:
        @classmethod
        async def __from_request__(cls, req):
            made = cls()
            made.path = req.url.path
            return made

    @app.get("/hooked")
    def page(p: Hooked):
        return p.path

    assert TestClient(app).get("/hooked?path=evil").text == "/hooked"


def test_a_parameter_named_as_a_prefix_of_session_gets_the_session_whatever_its_class(app):
    class Hooked:
        field: int = 0

        @classmethod
        def __from_request__(cls):
            return cls()

    @app.get("/")
    def page(s: Hooked, other: Hooked):
        return f"{type(s).__name__} {type(other).__name__}"

    assert TestClient(app).get("/").text == "Session Hooked"


def test_a_parameter_annotated_httpconnection_gets_the_request(app):
    @app.get("/")
    def page(*, given: HTTPConnection):
        return type(given).__name__

    assert TestClient(app).get("/").text == "Request"


def test_user_middleware_that_is_appended_runs_inside_the_session_middleware(app):
    seen = []

    class Probe:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["type"] == "http":
                seen.append("session" in scope)
            await self.app(scope, receive, send)

    app.user_middleware.append(fh.Middleware(Probe))
    app.get("/")(lambda: "page")
    TestClient(app).get("/")
    assert seen == [True]


def test_full_page_means_not_to_be_wrapped(app):
    @app.get("/")
    def page(req):
        return repr([bool(is_full_page(req, parts)) for parts in (fh.Html(fh.Body()), (fh.Div("part"),))])

    client = TestClient(app)
    assert client.get("/").text == "[True, False]"
    assert client.get("/", headers={"hx-request": "true"}).text == "[True, True]"


def test_private_helpers_have_the_shape_that_is_used():
    assert {"content"} <= set(inspect.signature(FtResponse).parameters)
    assert inspect.isclass(HttpHeader) and callable(noop_body)
    assert fh.Beforeware(print, ["/x"]).skip == ["/x"] and fh.Beforeware(print).f is print
    assert fh.Redirect("/x").loc == "/x" and hasattr(fh.Redirect("/x"), "__response__")


def test_startup_handlers_added_later_run_and_so_do_those_of_the_constructor(in_tmp_path):
    ran = []
    app, _ = fh.fast_app(on_startup=[lambda: ran.append("given")])
    app.on_event("startup")(lambda: ran.append("added"))
    with TestClient(app):
        assert sorted(ran) == ["added", "given"]


def test_a_patch_of_signals_is_one_event_that_ends_with_an_empty_line():
    frame = ServerSentEventGenerator.patch_signals('{"a":1}')
    assert str(frame) == 'event: datastar-patch-signals\ndata: signals {"a":1}\n\n'


def test_attributes_are_datastar_1_0_s_and_take_modifiers():
    button = fh.to_xml(fh.Button(data.on("click", "x()").debounce("300ms")))
    assert button.startswith("<button data-on:click") and '__debounce.300ms="x()"' in button
    assert 'data-bind="A.b"' in fh.to_xml(fh.Input(data.bind("A.b")))
