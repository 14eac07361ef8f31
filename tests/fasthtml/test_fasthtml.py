"""The FastHTML integration: injection everywhere a handler may stand, the live element, events, and errors at start."""

import importlib.util
import inspect
import json
import re
import textwrap
from typing import Annotated, Optional

import pytest
from fasthtml import common as fh
from fasthtml.core import APIRouter, FtResponse
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import faststate
from faststate import (
    AuthenticationError,
    AuthorizationError,
    Component,
    ConfigurationError,
    Depends,
    ReactiveState,
    Record,
    StateConfig,
    StateNotRegisteredError,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    get_current_request,
    view,
)
from faststate.client.modules import entry_name
from tests.support.apps import handler_of
from tests.support.client import BROWSER, Page, patched_signals, stream_of

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Counter(ReactiveState):
    count: int = 7

    @event
    def add(self, by: int = 1):
        self.count += by

    @event
    def nothing(self):
        pass


class Side(Counter):
    pass


class Item(Counter):
    pass


class Mine(ReactiveState):
    count: int = 0


def make_app(**options):
    """An app that serves the four classes above, with its provider."""
    provider = StateProvider(datastar_src="/datastar.js")
    provider.register_state(Counter)
    provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
    provider.register_state(Item, StateConfig(scope=StateScope.RECORD))
    provider.register_state(Mine, StateConfig(scope=StateScope.USER))
    app, rt = fast_app(state_provider=provider, pico=False, secret_key="for tests", **options)
    return app, rt, provider


def show_counter(app, path="/"):
    """Add a page that shows the counter."""
    app.get(path)(handler_of(Counter, lambda counter: fh.Titled("Page", fh.P(counter.signal.count))))


def show_mine(app):
    """Add a page that its visitors have to sign in for."""
    app.get("/mine")(handler_of(Mine, lambda mine: "never"))


@pytest.fixture
def made():
    return make_app()


@pytest.fixture
def app(made):
    return made[0]


@pytest.fixture
def provider(made):
    return made[2]


def client_of(app, **options):
    return TestClient(app, follow_redirects=False, **options)


def live_elements(text):
    return len(re.findall(r"data-fs-live(?=[ >=])", text))


class Tab(Page):
    """A page without a stream, which merges what its events' answers patch; `own` are the library's own signals."""

    def __init__(self, client, path="/", **request):
        super().__init__(client, path, **request)
        assert self.response.status_code == 200, self.response.text
        self.own = {}

    def post(self, name, *, headers=None, **payload):
        """Posts an event with a payload that need not be well formed."""
        body = {"w": self.tokens, **payload}
        response = self.client.post(f"{self.url}event/{name}", json=body, headers={**BROWSER, **(headers or {})})
        patch = patched_signals(response.text)
        self.own |= patch.pop("_fs", {})
        for state, values in patch.items():
            self.signals.setdefault(state, {}).update(values)
        return response


# -- injection ---------------------------------------------------------------------------------------------------------


def define_forms(provider):
    def plain(counter: Counter):
        return f"count={counter.count}"

    def text(counter: "Counter"):
        return f"count={counter.count}"

    def optional(counter: Optional[Counter] = None):  # noqa: UP045  # the spelling under test
        return f"count={counter.count}"

    def union(counter: Counter | None):
        return f"count={counter.count}"

    def union_with_default(counter: Counter | None = None):
        return f"count={counter.count}"

    def depends(counter: Counter = Depends(provider.get_state)):
        return f"count={counter.count}"

    def optional_depends(counter: Counter | None = Depends(provider.get_state)):
        return f"count={counter.count}"

    def annotated(counter: Annotated[Side, Component("left")]):
        return f"count={counter.count}"

    def annotated_optional(counter: Annotated[Side, Component("left")] | None = None):
        return f"count={counter.count}"

    def s(s: Counter):
        return f"count={s.count}"

    def session(session: Counter):
        return f"count={session.count}"

    def req(req: Counter):
        return f"count={req.count}"

    def request(request: Counter = Depends(provider.get_state)):
        return f"count={request.count}"

    async def asynchronous(counter: Counter):
        return f"count={counter.count}"

    def beside_others(req, counter: Counter, session, q: str = "default", *, s: Counter):
        assert req.url.path and isinstance(session, dict) and q == "default" and s is counter
        return f"count={counter.count}"

    return [value for value in locals().values() if value is not provider]


FORMS = [form.__name__ for form in define_forms(StateProvider())]
EVIL = {"count": "99", "counter": "99", "s": "evil", "session": "evil", "req": "evil", "request": "evil"}


@pytest.fixture(params=FORMS)
def form(request, provider):
    return {f.__name__: f for f in define_forms(provider)}[request.param]


def test_each_form_of_parameter_gets_the_state_and_never_what_the_client_sent(app, form):
    app.route("/", methods=["GET", "POST"])(form)
    client = client_of(app, cookies={"counter": "99"}, headers={"counter": "99", "count": "99"})
    assert client.get("/").text == "count=7"
    assert client.get("/", params=EVIL).text == "count=7"
    assert client.post("/", json={**EVIL, "counter": {"count": 99}}).text == "count=7"
    assert client.post("/", data=EVIL).text == "count=7"
    assert client.post("/", params=EVIL, json={"values": EVIL}).text == "count=7"


def test_each_way_to_define_a_route_injects(app):
    router = APIRouter(prefix="/router")

    @app.route("/route")
    def by_route(counter: Counter):
        return f"count={counter.count}"

    @app.get("/get")
    def by_get(counter: Counter):
        return f"count={counter.count}"

    @router("/one")
    def by_router(s: Counter | None):
        return f"count={s.count}"

    @router.post("/two")
    def by_router_post(counter: Annotated[Side, Component("x")]):
        return f"count={counter.count}"

    @app.route("/group")
    class Group:
        def get(counter: Counter):
            return f"count={counter.count}"

        def post(session: Counter):
            return f"count={session.count}"

    router.to_app(app)
    client = client_of(app)
    for method, path in [
        ("GET", "/route"),
        ("GET", "/get"),
        ("GET", "/router/one"),
        ("POST", "/router/two"),
        ("GET", "/group"),
        ("POST", "/group"),
    ]:
        response = client.request(method, path, params=EVIL)
        assert (path, response.text) == (path, "count=7")


def test_the_rt_decorator_keeps_its_own_abilities(made):
    app, rt, _ = made

    @rt("/renamed")
    def renamed(counter: Counter, q: int = 3):
        return f"count={counter.count} q={q}"

    assert renamed.to(q=4) == "/renamed?q=4"
    assert client_of(app).get("/renamed?q=4&count=99").text == "count=7 q=4"


def test_routes_defined_before_setup_are_injected_and_live_too():
    app, _ = fh.fast_app(pico=False, secret_key="for tests")
    show_counter(app, "/early")
    provider = StateProvider()
    provider.register_state(Counter)
    provider.setup(app)
    show_counter(app, "/late")
    client = client_of(app)
    for path in ("/early", "/late"):
        tab = Tab(client, path, params=EVIL)
        assert tab.signals["Counter"] == {"count": 7} and live_elements(tab.html) == 1
        assert tab.post("Counter/nothing").status_code == 204


def test_a_second_setup_is_refused(app):
    with pytest.raises(ConfigurationError, match="already"):
        StateProvider().setup(app)


def test_before_functions_of_a_route_are_injected(app):
    seen = []

    def guard(s: Counter, side: Annotated[Side, Component("left")]):
        seen.append((s.count, side.count))

    app.route("/", before=guard)(lambda: "page")
    app.route("/list", before=[guard, guard])(lambda: "page")
    client = client_of(app)
    assert client.get("/", params=EVIL).text == client.get("/list").text == "page"
    assert seen == [(7, 7)] * 3


@pytest.mark.parametrize("when", ["at construction", "appended", "after a request", "a plain function"])
def test_beforeware_is_injected_and_keeps_its_skip_patterns(when):
    seen = []

    async def guard(s: Counter, counter: Counter | None):
        seen.append((s.count, counter.count))
        return "stopped" if s.count > 7 else None

    ware = guard if when == "a plain function" else fh.Beforeware(guard, skip=["/skipped"])
    app, rt, _ = make_app(before=ware if when == "at construction" else None)
    rt("/")(lambda: "page")
    rt("/skipped")(lambda: "skipped")
    client = client_of(app)
    if when == "after a request":
        assert client.get("/").text == "page"
    if when != "at construction":
        app.before.append(ware)
    assert client.get("/", params=EVIL).text == "page"
    assert client.get("/skipped").text == "skipped"
    assert seen == [(7, 7)] * (2 if when == "a plain function" else 1)


def test_one_beforeware_object_serves_two_apps_each_with_its_own_provider():
    seen = []
    ware = fh.Beforeware(lambda req, s: None)

    def guard(s: Counter):
        seen.append(s.count)

    ware.f = guard
    apps = [make_app(before=ware)[0] for _ in range(2)]
    for app in apps:
        app.get("/page")(lambda: "page")
    for app in apps:
        assert client_of(app).get("/page").text == "page"
    assert seen == [7, 7]


def test_after_functions_see_the_state(app):
    seen = []

    def after(resp, counter: Counter):
        seen.append(counter.count)

    app.after.append(after)
    app.get("/")(lambda: fh.Div("page"))
    assert "page" in client_of(app).get("/", params=EVIL).text
    assert seen == [7]


def test_general_dependencies_are_called_and_never_read_from_the_query(app):
    def answer():
        return 42

    async def path_of(request):
        return request.url.path

    @app.get("/")
    def page(number: int = Depends(answer), path: str = Depends(path_of), x=Depends(answer)):
        return f"{number} {path} {x}"

    assert client_of(app).get("/?number=9&path=evil&x=9").text == "42 / 42"


def test_depends_on_get_state_without_a_state_class_is_refused_at_definition(app, provider):
    with pytest.raises(ConfigurationError, match="counter"):

        @app.get("/")
        def page(counter=Depends(provider.get_state)):
            return ""


def test_a_record_is_named_by_its_path_parameter(app):
    @app.get("/item/{item_id}")
    def item(item: Item):
        return item._committed.identifier.key

    @app.get("/other/{a}/{b}")
    def other(item: Annotated[Item, Record("b")]):
        return item._committed.identifier.key

    @app.get("/only/{sku}")
    def only(item: Item):
        return item._committed.identifier.key

    client = client_of(app)
    assert client.get("/item/3?item_id=99&record_id=99").text == "record:Item:3"
    assert client.get("/other/1/2?b=99").text == "record:Item:2"
    assert client.get("/only/a%3Ab").text == "record:Item:a%3Ab"


def test_what_the_caller_may_not_have_is_none_for_an_optional_parameter_and_401_for_another(app, provider):
    @app.get("/optional")
    def optional(mine: Mine | None):
        return f"{mine}"

    show_mine(app)
    client = client_of(app)
    assert client.get("/optional").text == "None"
    response = client.get("/mine")
    assert response.status_code == 401 and "sign in" in response.text


def test_websocket_handlers_are_injected(app):
    seen = []

    @app.get("/")
    def page(counter: Counter):
        return "page"

    async def connected(s: Counter, send):
        await send(f"hello {s.count}")

    def left(counter: Counter | None):
        seen.append(counter.count)

    @app.ws("/ws", conn=connected, disconn=left)
    async def receive(msg: str, s: Counter, side: Annotated[Side, Component("left")], send):
        await send(f"{msg} {s.count} {side.count}")

    client = client_of(app)
    client.get("/")
    with client.websocket_connect("/ws?count=99&s=evil") as socket:
        assert socket.receive_text() == "hello 7"
        socket.send_text(json.dumps({"msg": "got", **EVIL}))
        assert socket.receive_text() == "got 7 7"
    assert seen == [7]


def test_a_websocket_sees_what_was_committed_since_it_opened(app):
    @app.ws("/ws")
    async def receive(counter: Counter, send):
        await send(f"count {counter.count}")

    show_counter(app)
    client = client_of(app)
    tab = Tab(client)
    with client.websocket_connect("/ws") as socket:
        socket.send_text("{}")
        assert socket.receive_text() == "count 7"
        assert tab.post("Counter/add", a={"by": 1}).status_code == 200
        socket.send_text("{}")
        assert socket.receive_text() == "count 8"


def test_a_websocket_that_may_not_have_a_state_is_closed(app, provider):
    @app.ws("/ws")
    async def receive(mine: Mine, send):
        await send("never")

    with client_of(app).websocket_connect("/ws") as socket:
        socket.send_text("{}")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1008


def test_a_websocket_starts_no_session(app, provider):
    @app.ws("/ws")
    async def receive(counter: Counter, send):
        await send("never")

    with client_of(app).websocket_connect("/ws") as socket:
        socket.send_text("{}")
        assert "open a page first" in socket.receive_text()
    assert provider.stats().states == 0


# -- postponed annotations ---------------------------------------------------------------------------------------------


def module_from(path, source):
    file = path / "postponed.py"
    file.write_text("from __future__ import annotations\n" + textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(f"postponed_{path.name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


POSTPONED = """
    from typing import Annotated, Optional
    from fasthtml import common as fh
    from faststate import Component, Depends, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app

    class Top(ReactiveState):
        count: int = 7

        @event
        def add(self, by: int = 1):
            self.count += by

    class Part(ReactiveState):
        count: int = 7

    provider = StateProvider()
    provider.register_state(Top)
    provider.register_state(Part, StateConfig(scope=StateScope.COMPONENT))
    app, rt = fast_app(state_provider=provider, pico=False, secret_key="for tests")

    @rt("/plain")
    def plain(s: Top):
        return f"count={s.count}"

    @rt("/optional")
    def optional(top: Optional[Top] = None):
        return f"count={top.count}"

    @rt("/union")
    def union(top: Top | None):
        return f"count={top.count}"

    @rt("/depends")
    async def depends(req: fh.Request, top: Top = Depends(provider.get_state)):
        return f"count={top.count}"

    @rt("/annotated")
    def annotated(part: Annotated[Part, Component("left")]):
        return f"count={part.count}"

    def inner():
        class Local(ReactiveState):
            count: int = 7

            @event
            def add(self, by: int = 1):
                self.count += by

        class LocalPart(ReactiveState):
            count: int = 7

        provider.register_state(Local)
        provider.register_state(LocalPart, StateConfig(scope=StateScope.COMPONENT))

        @rt("/local")
        def local(s: Local, local: Local | None, again: Optional[Local] = None):
            assert s is local is again
            return f"count={local.count}"

        @rt("/local-live")
        def local_live(local: Local):
            return fh.Div(local.signal.count)

        @rt("/local-part")
        def local_part(part: Annotated[LocalPart, Component("left")]):
            return f"count={part.count}"

    inner()
"""


@pytest.mark.parametrize("path", ["/plain", "/optional", "/union", "/depends", "/annotated", "/local", "/local-part"])
def test_postponed_annotations_are_resolved_also_for_classes_in_functions(tmp_path, path):
    module = module_from(tmp_path, POSTPONED)
    assert client_of(module.app).get(path, params=EVIL | {"top": "evil", "part": "evil"}).text == "count=7"


def test_events_of_a_postponed_class_in_a_function_run(tmp_path):
    tab = Tab(client_of(module_from(tmp_path, POSTPONED).app), "/local-live")
    assert tab.post("Local/add", a={"by": 2}).status_code == 200
    assert tab.signals["Local"] == {"count": 9}


# -- apps --------------------------------------------------------------------------------------------------------------


def test_two_apps_with_two_providers_do_not_see_each_other():
    first, second = (make_app() for _ in range(2))
    tabs = []
    for app, _, _ in (first, second):
        show_counter(app)
        tabs.append(Tab(client_of(app)))
    assert tabs[0].post("Counter/add", a={"by": 1}).status_code == 200
    assert tabs[0].signals["Counter"] == {"count": 8}
    assert Page(tabs[1].client).signals["Counter"] == {"count": 7}
    assert first[2].stats().states == second[2].stats().states == 1


def test_a_mounted_app_with_its_own_provider_serves_its_own_states_under_its_prefix(app):
    child, _, _ = make_app()
    for each in (app, child):
        show_counter(each, "/page")
    app.mount("/child", child)
    client = client_of(app)
    parent_tab, child_tab = Tab(client, "/page"), Tab(client, "/child/page")
    assert parent_tab.url == "/_faststate/" and child_tab.url == "/child/_faststate/"
    assert child_tab.post("Counter/add", a={"by": 1}).status_code == 200
    assert child_tab.signals["Counter"] == {"count": 8}
    assert Page(client, "/child/page").signals["Counter"] == {"count": 8}
    assert Page(client, "/page").signals["Counter"] == {"count": 7}


def test_a_mounted_app_without_a_provider_uses_its_parent_s(app):
    child, _ = fh.fast_app(pico=False, secret_key="for tests")
    show_counter(child, "/page")
    app.mount("/child", child)
    client = client_of(app)
    tab = Tab(client, "/child/page", params=EVIL)
    assert tab.signals["Counter"] == {"count": 7} and live_elements(tab.html) == 1
    assert tab.url == "/_faststate/", "the parent has the routes"
    assert tab.post("Counter/add", a={"by": 1}).status_code == 200
    assert Page(client, "/child/page").signals["Counter"] == {"count": 8}


def test_a_refusal_in_a_mounted_app_without_a_provider_keeps_its_status(app, provider):
    child, _ = fh.fast_app(pico=False, secret_key="for tests")
    show_mine(child)
    app.mount("/child", child)
    response = client_of(app).get("/child/mine")
    assert response.status_code == 401 and "sign in" in response.text


def test_behind_a_root_path_the_page_names_urls_below_it(app):
    show_counter(app)
    tab = Tab(client_of(app, root_path="/deep/below"))
    assert tab.url == "/deep/below/_faststate/"
    assert tab.post("Counter/add", a={"by": 1}).status_code == 200


# -- the signature -----------------------------------------------------------------------------------------------------


def test_fast_app_has_fasthtml_s_parameters_in_their_order_with_their_defaults():
    ours, theirs = (inspect.signature(f).parameters for f in (fast_app, fh.fast_app))
    assert [(p.name, p.kind) for p in ours.values() if p.name != "state_provider"] == [
        (p.name, p.kind) for p in theirs.values()
    ]

    def default(parameter):
        value = parameter.default
        return value.__name__ if callable(value) else value

    assert {n: default(p) for n, p in ours.items() if n != "state_provider"} == {
        n: default(p) for n, p in theirs.items()
    }
    assert ours["state_provider"].kind is inspect.Parameter.KEYWORD_ONLY


def test_each_parameter_of_fast_app_reaches_fasthtml_s_own_of_that_name(monkeypatch):
    given = {
        name: object() for name, p in inspect.signature(fh.fast_app).parameters.items() if p.kind is not p.VAR_KEYWORD
    }
    names = ", ".join(f"{name}=None" for name in reversed(given))  # another order, as another version may have
    made = {}
    exec(f"def other_version({names}, **more): return locals()", made)
    monkeypatch.setattr(fh, "fast_app", made["other_version"])
    assert fast_app(*given.values(), table={"id": int}) == {**given, "more": {"table": {"id": int}}}


def test_fast_app_returns_what_fasthtml_s_returns(tmp_path):
    assert len(fast_app()) == len(fh.fast_app()) == 2
    provider = StateProvider()
    provider.register_state(Counter)
    made = fast_app("data.db", state_provider=provider, id=int, name=str, pk="id", pico=False)
    assert len(made) == 4 and (tmp_path / "data.db").exists()
    app, rt, items, Row = made
    items.insert(Row(name="kept"))

    @rt("/")
    def page(counter: Counter):
        return f"{items()[0].name} {counter.count}"

    assert client_of(app).get("/").text == "kept 7"
    items.db.conn.close()


def test_body_wrap_headers_and_footers_of_the_app_stay():
    app, _, _ = make_app(
        hdrs=[fh.Meta(name="mine")], ftrs=[fh.Footer("foot")], body_wrap=lambda c: fh.Main(c, id="wrapped")
    )
    show_counter(app)
    text = client_of(app).get("/").text
    assert 'name="mine"' in text and "<footer>foot" in text and 'id="wrapped"' in text and live_elements(text) == 1


# -- errors at start ---------------------------------------------------------------------------------------------------


def define_bad_routes():
    class Unknown(ReactiveState):
        count: int = 0

    def unregistered(state: Unknown):
        return ""

    def component_without_id(side: Side):
        return ""

    def record_not_in_path(item: Item):
        return ""

    def record_not_named_in_path(item: Annotated[Item, Record("sku")]):
        return ""

    return [
        ("/a", unregistered, StateNotRegisteredError, "Unknown"),
        ("/a", component_without_id, ConfigurationError, "'side'.*/a.*Component"),
        ("/a", record_not_in_path, ConfigurationError, "'item'.*/a.*path"),
        ("/a/{x}/{y}", record_not_in_path, ConfigurationError, "'item'.*path"),
        ("/a/{x}", record_not_named_in_path, ConfigurationError, "'item'.*path"),
    ]


@pytest.mark.parametrize(("path", "handler", "error", "message"), define_bad_routes())
def test_a_route_that_could_never_be_served_is_an_error_at_start(app, path, handler, error, message):
    app.get(path)(handler)
    with pytest.raises(error, match=message), TestClient(app):
        pass


def test_a_route_that_could_never_be_served_is_an_error_at_the_first_request_where_nothing_starts(app):
    app.get("/fine")(lambda: "fine")
    app.get("/bad")(define_bad_routes()[1][1])
    with pytest.raises(ConfigurationError, match="side"):
        client_of(app).get("/fine")


@pytest.mark.parametrize("given", ["at construction", "added"])
def test_an_app_s_own_handler_of_a_refusal_comes_before_the_library_s(given):
    def to_login(request, error):
        return fh.RedirectResponse("/login", status_code=303)

    handlers = {AuthenticationError: to_login}
    app, _, _ = make_app(exception_handlers=handlers if given == "at construction" else None)
    if given == "added":
        app.add_exception_handler(AuthenticationError, to_login)

    show_mine(app)
    response = client_of(app).get("/mine")
    assert (response.status_code, response.headers["location"]) == (303, "/login")


def test_an_app_that_was_stopped_and_starts_again_streams_again(app):
    show_counter(app)
    for _ in range(2):
        with client_of(app) as client, stream_of(Page(client)) as stream:
            assert stream.status_code == 200


def test_setup_takes_a_fasthtml_app_alone():
    with pytest.raises(ConfigurationError, match="FastHTML"):
        StateProvider().setup(object())


# -- the live element --------------------------------------------------------------------------------------------------


def generated(counter):
    yield fh.Title("T")
    yield fh.Div(counter.signal.count)


def document(counter):
    return fh.Html(fh.Head(fh.Title("T")), fh.Body(fh.Div(counter.signal.count)))


SHOWING = {
    "page": lambda counter: fh.Titled("Page", fh.P(counter.signal.count)),
    "ft": lambda counter: fh.Div(counter.signal.count),
    "tuple": lambda counter: (fh.Title("T"), fh.Div(counter.signal.count)),
    "nested list": lambda counter: [fh.Title("T"), [fh.Div(counter.signal.count), fh.P("x")]],
    "generator": generated,
    "html": document,
    "response of ft": lambda counter: FtResponse(fh.Div(counter.signal.count), status_code=200),
    "response of html": lambda counter: FtResponse(document(counter)),
    "with a header": lambda counter: (fh.Div(counter.signal.count), fh.HttpHeader("x-mine", "1")),
    "state": lambda counter: counter,
}


@pytest.mark.parametrize("headers", [{}, {"hx-request": "true"}], ids=["page", "fragment"])
@pytest.mark.parametrize("shape", SHOWING)
def test_whatever_ft_is_returned_is_live_once_and_its_events_work(app, shape, headers):
    app.get("/")(handler_of(Counter, SHOWING[shape]))
    tab = Tab(client_of(app), headers=headers)
    assert live_elements(tab.html) == 1
    assert tab.signals["Counter"] == {"count": 7}
    assert ("<title>" in tab.html) >= ("hx-request" not in headers)
    has_script = "/datastar.js" in tab.html
    assert has_script == (not headers or shape in ("html", "response of html"))
    assert tab.post("Counter/add", a={"by": 1}).status_code == 200
    assert tab.signals["Counter"] == {"count": 8}


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("plain text", "text/html"), (JSONResponse({"a": 1}), "application/json"), ({"a": 1}, "application/json"),
        (PlainTextResponse("text"), "text/plain"), (None, "text/html"), (5, "text/html"),
    ],
    ids=["str", "response", "dict", "plain", "none", "int"],
)  # fmt: skip
def test_what_is_no_ft_is_left_as_it_is(app, result, kind):
    app.get("/")(handler_of(Counter, lambda counter: result))
    response = client_of(app).get("/")
    assert response.status_code == 200 and response.headers["content-type"].startswith(kind)
    assert "data-fs" not in response.text and "_fs" not in response.text


def test_a_redirect_after_resolving_a_state_stays_a_redirect(app):
    app.get("/")(handler_of(Counter, lambda counter: fh.Redirect("/next")))
    response = client_of(app).get("/")
    assert (response.status_code, response.headers["location"]) == (303, "/next")


def test_watch_makes_text_live_and_in_debug_its_absence_is_an_error():
    app, rt, _ = make_app(debug=True)
    rt("/with")(handler_of(Counter, lambda counter: f"<p>{counter.count}</p>{counter.watch()}"))
    rt("/without")(handler_of(Counter, lambda counter: f"<p>{counter.count}</p>"))
    client = client_of(app)
    tab = Tab(client, "/with")
    assert live_elements(tab.html) == 1
    assert tab.post("Counter/add", a={"by": 1}).status_code == 200
    with pytest.raises(ConfigurationError, match=r"watch\(\)"):
        client.get("/without")


def test_watch_brings_the_program_along_to_a_page_but_not_to_a_fragment(app):
    app.get("/")(handler_of(Counter, lambda counter: f"<p>{counter.count}</p>{counter.watch()}"))
    client, script = client_of(app), f'src="/_faststate/{entry_name()}" data-datastar='
    assert script in client.get("/").text
    for header in ("hx-request", "datastar-request"):
        fragment = client.get("/", headers={header: "true"}).text
        assert live_elements(fragment) == 1 and "<script" not in fragment


def test_text_without_watch_is_served_when_not_in_debug(app):
    app.get("/")(handler_of(Counter, lambda counter: f"<p>{counter.count}</p>"))
    assert client_of(app).get("/").text == "<p>7</p>"


def test_a_page_that_is_live_by_watch_has_one_live_element(app):
    app.get("/")(handler_of(Counter, lambda counter: fh.Div(counter.signal.count, counter.watch())))
    assert live_elements(client_of(app).get("/").text) == 1


def test_pages_without_a_state_set_no_cookie_and_carry_no_live_element(app):
    app.get("/")(lambda: fh.Titled("Plain", fh.P("text")))
    response = client_of(app).get("/")
    assert "set-cookie" not in response.headers
    assert live_elements(response.text) == 0 and '<meta name="faststate"' not in response.text
    assert "set-cookie" not in client_of(app).get("/nowhere").headers


def test_hidden_fields_reach_no_page_whatever_is_returned(app, provider):
    class Secret(ReactiveState):
        shown: str = "shown"
        hidden: faststate.ServerOnly[str] = "top-secret"
        _private: str = "top-secret"

    provider.register_state(Secret)

    answers = {
        "/direct": lambda secret: secret,
        "/child": fh.Div,
        "/text": lambda secret: f"{secret!r} {secret}",
        "/list": lambda secret: [secret, fh.P("x")],
    }
    client = client_of(app)
    for path, answer in answers.items():
        app.get(path)(handler_of(Secret, answer))
        text = client.get(path).text
        assert "shown" in text and "top-secret" not in text, path


# -- events ------------------------------------------------------------------------------------------------------------


class Talker(ReactiveState):
    count: int = 0

    @event
    def by_id(self):
        self.count += 1
        return fh.Div("fresh", id="box")

    @event(selector="#list", mode="append")
    def by_selector(self):
        return fh.Li("item")

    @event
    def without_id(self):
        self.count += 1
        return fh.Div("lost")

    @event
    async def yielding(self):
        self.count += 1
        yield fh.Div("one", id="box")
        self.count += 1
        yield fh.Div("two", id="box")

    @event
    async def yielding_badly(self):
        self.count += 1
        yield fh.Div("one", id="box")
        self.count += 10
        yield fh.Div("lost")

    @event
    def returns_text(self):
        self.count += 1
        return "<b>text</b>"

    @event
    def go(self, to: str):
        self.count += 1
        return fh.Redirect(to)

    @event
    def http_error(self):
        self.count += 1
        raise fh.HTTPException(409, "Sold out.")

    @event
    def broken(self):
        self.count += 1
        raise ValueError("a secret detail")

    @event
    def refused(self):
        self.count += 1
        raise AuthorizationError("not for you")

    @event
    def set_name(self, name: str):
        self.count = len(name)

    @view
    def box(self):
        return fh.Div(f"count {self.count}", id="viewed")


@pytest.fixture
def tab(app, provider):
    provider.register_state(Talker)

    @app.get("/")
    def page(talker: Talker):
        return fh.Titled("Talk", talker.signal.count, fh.Div(id="box"), fh.Ul(id="list"), talker.box())

    return Tab(client_of(app))


def count_of(tab):
    return Page(tab.client).signals["Talker"]["count"]


def test_returned_ft_is_patched_by_its_id(tab):
    text = tab.post("Talker/by_id").text
    assert 'event: datastar-patch-elements\ndata: elements <div id="box">fresh</div>' in text
    assert tab.signals["Talker"] == {"count": 1}


def test_returned_ft_goes_where_the_event_says(tab):
    text = tab.post("Talker/by_selector").text
    assert "data: selector #list" in text and "data: mode append" in text and "data: elements <li>item</li>" in text


def test_each_yield_is_committed_and_patched(tab):
    text = tab.post("Talker/yielding").text
    assert text.index("one") < text.index("two") and count_of(tab) == 2


@pytest.mark.parametrize(("name", "left"), [("without_id", 0), ("returns_text", 0), ("yielding_badly", 1)])
def test_what_cannot_be_shown_is_an_error_that_rolls_its_step_back(tab, name, left, caplog):
    response = tab.post(f"Talker/{name}")
    assert response.status_code == 200 and response.headers["faststate-status"] == "500"
    assert tab.own["err"] and "lost" not in response.text
    assert count_of(tab) == left
    assert any(record.levelname == "ERROR" for record in caplog.records)


def test_a_redirect_sends_the_browser_there(tab):
    tab.post("Talker/go", a={"to": "/next?x=1"})
    assert tab.own["go"] == "/next?x=1" and count_of(tab) == 1


def test_an_http_exception_is_shown_with_its_status_and_rolls_back(tab):
    response = tab.post("Talker/http_error")
    assert (response.status_code, response.headers["faststate-status"]) == (200, "409")
    assert tab.own["err"] == "Sold out." and count_of(tab) == 0


def test_an_unexpected_exception_shows_nothing_of_itself_and_rolls_back(tab, caplog):
    response = tab.post("Talker/broken")
    assert (response.status_code, response.headers["faststate-status"]) == (200, "500")
    assert "secret" not in response.text and "Traceback" not in response.text and tab.own["err"]
    assert count_of(tab) == 0
    assert "a secret detail" in caplog.text


def test_a_refusal_by_the_event_itself_is_shown(tab):
    response = tab.post("Talker/refused")
    assert response.headers["faststate-status"] == "403" and tab.own["err"] == "not for you"
    assert count_of(tab) == 0


def test_an_event_may_change_the_session_and_the_cookie_says_so(app, provider):
    class Greeter(ReactiveState):
        count: int = 0

        @event
        def remember(self, name: str):
            get_current_request().session["name"] = name

    provider.register_state(Greeter)

    @app.get("/greet")
    def greet(greeter: Greeter, session):
        return fh.Div(session.get("name", "nobody"))

    greeting = Tab(client_of(app), "/greet")
    assert "nobody" in greeting.html
    assert greeting.post("Greeter/remember", a={"name": "Ann"}).status_code == 204
    assert "Ann" in greeting.client.get("/greet").text


def test_a_form_that_succeeded_is_acknowledged_by_its_nonce_and_one_that_failed_is_not(tab):
    tab.post("Talker/set_name", f=[["name", "four"]], headers={"faststate-nonce": "nonce-one"})
    assert tab.own["ok"] == "nonce-one" and count_of(tab) == 4
    response = tab.post("Talker/set_name", f=[["name", "x"], ["other", "x"]], headers={"faststate-nonce": "nonce-two"})
    assert response.headers["faststate-status"] == "400" and "other" in tab.own["err"]
    assert tab.own["ok"] == "nonce-one"


def test_a_repeated_form_is_acknowledged_again_and_runs_once(tab, provider):
    for _ in range(3):
        tab.own.pop("ok", None)
        tab.post("Talker/set_name", f=[["name", "four"]], headers={"faststate-nonce": "nonce-one"})
        assert tab.own["ok"] == "nonce-one"
    assert provider.stats().events == 1 and provider.stats().repeated == 2


@pytest.mark.parametrize(
    ("path", "payload", "status", "named"),
    [
        ("Talker/nothing_such", {}, 404, "nothing_such"),
        ("Nobody/by_id", {}, 404, "Nobody"),
        ("Talker/set_name", {}, 400, "name"),
        ("Talker/set_name", {"a": {"name": 5}}, 400, "name"),
        ("Talker/set_name", {"a": {"name": "x", "more": 1}}, 400, "more"),
        ("Talker/set_name", {"a": [1]}, 400, "'a'"),
        ("Talker/set_name", {"zz": 1}, 400, "zz"),
        ("Talker/by_id", {"b": {"count": 99}}, 400, "count"),
        ("Talker/set_name", {"a": {"name": "x"}, "i": "forged"}, 400, "ids"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_a_message_that_names_it(tab, path, payload, status, named):
    response = tab.post(path, **payload)
    assert (response.status_code, response.headers["faststate-status"]) == (200, str(status))
    assert named in tab.own["err"] and count_of(tab) == 0


@pytest.mark.parametrize(
    "body", [b"not json", b"[" * 100_000, b"[1]", b'"x"', b"\xff\xfe", b"{" + b" " * 300_000 + b"}"]
)
def test_a_body_that_is_no_payload_is_refused(tab, body):
    response = tab.client.post("/_faststate/event/Talker/by_id", content=body, headers=BROWSER)
    refused = "413" if len(body) > 262_144 else "400"
    assert (response.status_code, response.headers["faststate-status"]) == (200, refused)
    assert count_of(tab) == 0


def test_a_forged_token_is_refused_plainly_and_a_component_needs_one(app, tab):
    @app.get("/side")
    def side(left: Annotated[Side, Component("left")]):
        return fh.Div(left.signal.count)

    sides = Tab(tab.client, "/side")
    token = sides.tokens[0]
    for tokens, own in [
        ([], "left"),
        ([token[:-2] + "xx"], "left"),
        ([token], "right"),
        (["x"], "left"),
        ([5], "left"),
    ]:
        response = sides.post("Side/add", i=own, w=tokens)
        assert response.status_code == 403 and not response.content
    assert sides.post("Side/add", i="left").status_code == 200
    assert sides.signals["Side"] == {"left": {"count": 8}}


def test_a_token_of_another_session_has_the_page_reload_and_changes_nothing(app, tab):
    thief = client_of(app)
    thief.get("/")
    response = thief.post("/_faststate/event/Talker/by_id", json={"w": tab.tokens}, headers=BROWSER)
    assert response.headers["faststate-status"] == "403" and patched_signals(response.text)["_fs"]["go"] == "#reload"
    assert count_of(tab) == 0


def test_an_event_without_a_cookie_says_that_cookies_are_needed(app, tab):
    response = client_of(app).post("/_faststate/event/Talker/by_id", json={"w": tab.tokens}, headers=BROWSER)
    assert response.headers["faststate-status"] == "403" and "cookies" in patched_signals(response.text)["_fs"]["err"]


# -- the seed's section 3.2 --------------------------------------------------------------------------------------------

SEED = '''
from fasthtml.common import *
from faststate import *


class UserProfileState(ReactiveState):
    nickname: str = ""

    @event
    def rename(self, to: str):
        self.nickname = to


class GlobalSettingsState(ReactiveState):
    motto: str = "hello"


class CartState(ReactiveState):
    lines: int = 0

    @event
    def put(self):
        self.lines += 1


class ProductState(ReactiveState):
    stock: int = 10


def render_page(cart, settings):
    return Titled("Shop", P(settings.signal.motto), P(cart.signal.lines))


def render_profile(profile):
    return Titled("Profile", P(profile.signal.nickname))


def render_product(product):
    return Titled("Product", P(product.signal.stock))


def load_user_by_id(user_id):
    return UserContext(user_id, "u", roles=["admin"] if user_id == 1 else [])


from faststate import StateProvider, StateConfig, StateScope

# Create state provider
state_provider = StateProvider(load_user_by_id=load_user_by_id)

# Register state configurations
state_provider.register_state(
    UserProfileState,
    StateConfig(scope=StateScope.USER, auto_persist=True, requires_auth=True)
)

state_provider.register_state(
    GlobalSettingsState,
    StateConfig(scope=StateScope.GLOBAL, requires_auth=True, permissions=['admin'])
)

state_provider.register_state(
    CartState,
    StateConfig(scope=StateScope.SESSION, ttl=3600)  # 1 hour TTL
)

state_provider.register_state(
    ProductState,
    StateConfig(scope=StateScope.RECORD)  # Tied to product records
)

# Add to FastHTML app
app, rt = fast_app(
    static_path="assets",
    state_provider=state_provider,  # Inject state provider
    # ... other config
)

# Enhanced route decorators
@rt('/')
async def index(request: Request,
               cart: CartState = Depends(state_provider.get_state),
               settings: GlobalSettingsState = Depends(state_provider.get_state)):
    """States automatically injected based on registration"""
    return render_page(cart, settings)

@rt('/profile')
async def profile(request: Request,
                 profile: UserProfileState = Depends(state_provider.get_state)):
    """User profile state - requires authentication"""
    return render_profile(profile)

@rt('/product/{product_id}')
async def product_detail(request: Request, product_id: int,
                        product: ProductState = Depends(state_provider.get_state)):
    """Product state tied to specific record"""
    return render_product(product)


@rt('/login/{user_id}')
def login(session, user_id: int):
    session["user_id"] = user_id
    return "in"
'''


def seed_client(app, user=None):
    client = client_of(app)
    if user is not None:
        assert client.get(f"/login/{user}").text == "in"
    return client


def test_the_seed_s_section_3_2_runs_as_it_is_written():
    app = {}
    exec(SEED, app)
    app = app["app"]
    anonymous, admin, again, other = (seed_client(app, user) for user in (None, 1, 1, 2))
    assert anonymous.get("/").status_code == anonymous.get("/profile").status_code == 401
    assert other.get("/").status_code == 403
    shop = Tab(admin, "/?lines=99&motto=evil")
    assert shop.signals["CartState"] == {"lines": 0} and shop.signals["GlobalSettingsState"] == {"motto": "hello"}
    assert shop.post("CartState/put").status_code == 200 and shop.signals["CartState"] == {"lines": 1}
    assert Page(again).signals["CartState"] == {"lines": 0}, "a cart is the session's, not the user's"
    profile = Tab(admin, "/profile")
    assert profile.post("UserProfileState/rename", a={"to": "Ann"}).status_code == 200
    assert Page(again, "/profile").signals["UserProfileState"] == {"nickname": "Ann"}
    assert Page(other, "/profile").signals["UserProfileState"] == {"nickname": ""}
    for client in (anonymous, admin):
        assert Page(client, "/product/3?stock=99&product_id=4").signals["ProductState"] == {"3": {"stock": 10}}


def test_a_user_may_be_a_user_context_in_the_scope():
    def guard(req):
        req.scope["auth"] = UserContext(req.headers["x-user"])

    app, rt, _ = make_app(before=guard)

    @rt("/")
    def page(mine: Mine):
        return mine._committed.identifier.key

    assert client_of(app).get("/", headers={"x-user": "a:b"}).text == "user:Mine:usera%3Ab"


def test_a_parameter_that_asks_for_states_in_an_unknown_form_is_refused():
    provider = StateProvider(secret_key="test")

    @provider.state()
    class One(ReactiveState): ...

    @provider.state()
    class Two(ReactiveState): ...

    _, rt = fast_app(state_provider=provider, secret_key="test")
    for form in (list[One], One | Two, One | Two | None, dict[str, One]):

        def page(states): ...

        page.__annotations__["states"] = form
        with pytest.raises(ConfigurationError, match=r"asks for states"):
            rt("/")(page)
