"""Apps do not mix: apps that share a class, classes that share a mixin, apps that are mounted."""

import gc
import re
import threading
import weakref

import fasthtml.common as fh
import pytest
from pydantic import computed_field
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from faststate import (
    ConfigurationError,
    EventDefinitionError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    requires_auth,
    view,
)
from faststate.state.serving import note_provider
from tests.support.client import Page, patched_signals, status
from tests.support.states import provider_of

KEY = "a key of the tests"


@pytest.fixture
def cls():
    """A class that no other test has registered anywhere."""

    class Shared(ReactiveState):
        n: int = 0

        @event
        def add(self):
            self.n += 1

        @view
        def form(self):
            return fh.Form(fh.P(self.add.to(), id="view"), fh.P(type(self).add.to(), id="view-class"), fh.B(self.n))

    return Shared


def app_of(cls, scope=StateScope.SESSION, *, name=None, **options):
    provider = provider_of(cls, StateConfig(scope=scope, name=name), secret_key=KEY, **options)
    app, rt = fast_app(state_provider=provider)
    ids = {"record_id": "tea"} if scope is StateScope.RECORD else {}

    @rt("/")
    async def index(request):
        state = await provider.get_state(cls, request, **ids)
        of_class = (cls.add.to(), cls.add.post()) if not ids else ()
        return fh.Titled("page", fh.P(state.add.to(), id="state"), *map(fh.Pre, of_class), state.signal.n, state.form())

    app.provider = provider
    return app


def text_of(page, own_id):
    return re.search(rf'id="{own_id}">([^<]*)<', page.html)[1]


def urls_of(page):
    """The URLs in a page of `app_of`: from the state, its class, and both in a view."""
    return [text_of(page, "state"), re.search("<pre>([^<@]*)<", page.html)[1], text_of(page, "view"),
            text_of(page, "view-class")]  # fmt: skip


def post(client, url):
    return client.post(url, json={}, headers={"datastar-request": "true", "sec-fetch-site": "same-origin"})


# -- two providers of one class ----------------------------------------------------------------------------------------


def test_two_apps_of_one_class_each_use_their_own_name_and_prefix(cls):
    apps = {"One": app_of(cls, name="One", prefix="/_a"), "Two": app_of(cls, name="Two", prefix="/_b")}
    for name, prefix in (("One", "/_a"), ("Two", "/_b"), ("One", "/_a")):
        page = Page(TestClient(apps[name]))
        assert urls_of(page) == [f"{prefix}/event/{name}/add"] * 4
        assert f'@fsSend("{name}\\u002fadd",' in re.search("<pre>(@[^<]*)<", page.html)[1]
        assert list(page.signals) == [name] and f'data-text="${name}.n"' in page.html
        for url in urls_of(page):
            assert status(post(page.client, url)) < 300
        assert Page(page.client).signals[name]["n"] == 4


def test_one_class_with_ids_in_one_app_and_without_in_the_other(cls):
    record, plain = app_of(cls, StateScope.RECORD), app_of(cls)
    for _ in range(2):
        page = Page(TestClient(record))
        assert text_of(page, "state") == "/_faststate/event/Shared/add?_id=tea"
        assert status(page.send("Shared", "add", instance_id="tea")) < 300
        page = Page(TestClient(plain))
        assert urls_of(page) == ["/_faststate/event/Shared/add"] * 4
        assert patched_signals(page.send("Shared", "add").text)["Shared"]["n"] == 1
        assert status(page.send("Shared", "add", instance_id="tea")) == 400

    @record.get("/class")
    def of_class():
        return fh.P(cls.add.post())

    with pytest.raises(EventDefinitionError, match="one of several states"):
        TestClient(record).get("/class")


def test_apps_that_are_served_at_one_time_in_threads_do_not_mix(cls):
    wrong = []

    def serve(number):
        app = app_of(cls, name=f"Name{number}", prefix=f"/_{number}")
        client = TestClient(app)
        for _ in range(20):
            urls = urls_of(Page(client))
            if set(urls) != {f"/_{number}/event/Name{number}/add"}:
                wrong.append((number, urls))

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_outside_a_request_the_only_provider_is_meant(cls):
    assert cls.add.to() == "/_faststate/event/Shared/add", "nobody has registered it"
    provider = StateProvider(prefix="/_own")
    provider.register_state(cls, StateConfig(name="Named"))
    assert cls.add.to() == "/_own/event/Named/add"
    assert str(cls().signal.n) == "$Named.n"
    twin = StateProvider(prefix="/_own")
    twin.register_state(cls, StateConfig(name="Named"))
    assert cls.add.to() == "/_own/event/Named/add", "both say the same"


@pytest.mark.parametrize(
    "other",
    [{"config": StateConfig(name="Other")}, {"prefix": "/_other"}, {"config": StateConfig(scope=StateScope.COMPONENT)}],
)
def test_outside_a_request_several_providers_that_differ_are_an_error_that_says_what_to_do(cls, other):
    kept = [StateProvider(), StateProvider(prefix=other.get("prefix", "/_faststate"))]
    kept[0].register_state(cls)
    kept[1].register_state(cls, other.get("config"))
    for use in (cls.add.to, cls.add.post, lambda: cls.add.on("click"), lambda: cls().signal.n):
        with pytest.raises(ConfigurationError, match=r"2 providers have registered Shared.*get_state"):
            use()


def test_a_provider_that_nobody_holds_any_more_is_forgotten(cls):
    old = provider_of(cls, prefix="/_old")
    gone = weakref.ref(old)
    new = StateProvider(prefix="/_new")
    new.register_state(cls)
    del old
    assert cls.add.to() == "/_new/event/Shared/add"
    gc.collect()
    assert gone() is None


def test_what_is_noted_of_a_class_keeps_neither_it_nor_its_provider():
    class Mine:
        pass

    provider = StateProvider()
    note_provider(Mine, provider)
    gone = weakref.ref(Mine), weakref.ref(provider)
    del Mine, provider
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_subclass_is_not_registered_as_its_base_is(cls):
    provider = provider_of(cls, StateConfig(name="Named"), prefix="/_own")

    class Sub(cls):
        pass

    assert Sub.add.to() == "/_faststate/event/Sub/add"
    assert provider.name_of(Sub) is None


def test_a_computed_value_may_hold_the_url_of_an_event():
    class Linked(ReactiveState):
        n: int = 0

        @event
        def add(self):
            self.n += 1

        @computed_field
        @property
        def link(self) -> str:
            return f"{type(self).add.to()}#{self.n}"

    kept = []
    for name in ("One", "Two"):
        provider = provider_of(Linked, StateConfig(name=name), secret_key=KEY)
        app, rt = fast_app(state_provider=provider)

        @rt("/")
        def index(linked: Linked):
            return linked.signal.link

        kept.append((name, Page(TestClient(app))))
    for name, page in kept:
        changed = patched_signals(page.send(name, "add").text)[name]
        assert changed["link"] == f"/_faststate/event/{name}/add#1"


# -- apps that are mounted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wrap"),
    [
        ("/sub", lambda app: Starlette(routes=[Mount("/sub", app)])),
        ("/a/b", lambda app: Starlette(routes=[Mount("/a", routes=[Mount("/b", app)])])),
        ("", lambda app: app),
    ],
    ids=["mounted", "mounted twice over", "not mounted"],
)
def test_urls_begin_where_the_app_is_mounted(cls, path, wrap):
    client = TestClient(wrap(app_of(cls, prefix="/_fs")))
    page = Page(client, f"{path}/")
    assert urls_of(page) == [f"{path}/_fs/event/Shared/add"] * 4
    for url in urls_of(page):
        assert status(post(client, url)) < 300
    page = Page(client, f"{path}/")
    assert page.signals["Shared"]["n"] == 4, "a view that was rendered again by its events"
    assert urls_of(page) == [f"{path}/_fs/event/Shared/add"] * 4


def test_a_server_with_a_root_path_has_it_in_its_urls(cls):
    page = Page(TestClient(app_of(cls), root_path="/behind"))
    assert urls_of(page) == ["/behind/_faststate/event/Shared/add"] * 4


def test_two_mounted_apps_of_one_class_do_not_mix(cls):
    routes = [Mount(f"/{name}", app_of(cls, name=name.title())) for name in ("one", "two")]
    client = TestClient(Starlette(routes=routes))
    for name in ("one", "two", "one"):
        assert urls_of(Page(client, f"/{name}/")) == [f"/{name}/_faststate/event/{name.title()}/add"] * 4


def test_an_app_that_is_mounted_at_two_places_serves_both(cls):
    app = app_of(cls)
    client = TestClient(Starlette(routes=[Mount("/one", app), Mount("/two", app)]))
    for place in ("one", "two"):
        state, of_class, *in_view = urls_of(Page(client, f"/{place}/"))
        assert state == of_class == f"/{place}/_faststate/event/Shared/add"
        # All who look at a state share the bytes of its view, which say where the first request found the app.
        assert in_view == ["/one/_faststate/event/Shared/add"] * 2
        for url in (state, *in_view):
            assert status(post(client, url)) < 300
    assert Page(client, "/one/").signals["Shared"]["n"] == 6


def test_an_app_mounted_below_another_one_uses_its_own_provider(cls):
    outer, inner = app_of(cls, name="Outer"), app_of(cls, name="Inner", prefix="/_in")
    outer.mount("/inner", inner)
    client = TestClient(outer)
    assert urls_of(Page(client, "/inner/")) == ["/inner/_in/event/Inner/add"] * 4
    assert urls_of(Page(client)) == ["/_faststate/event/Outer/add"] * 4


def test_routes_of_one_router_may_serve_two_apps(cls):
    router = fh.APIRouter()

    @router("/routed")
    def routed(state: cls):
        return fh.P(state.add.to(), id="state"), fh.P(cls.add.to(), id="class")

    apps = [app_of(cls, name=name) for name in ("One", "Two")]
    for app in apps:
        router.to_app(app)
    for app, name in zip(apps, ("One", "Two"), strict=True):
        page = Page(TestClient(app), "/routed")
        assert {text_of(page, "state"), text_of(page, "class")} == {f"/_faststate/event/{name}/add"}


# -- classes that share a mixin ----------------------------------------------------------------------------------------


class Adds:
    @event
    def add(self):
        self.n += 1

    @event
    def reset(self):
        self.n = 0


class Guarded(ReactiveState):
    n: int = 0

    @event(requires_auth=True, expect_version=True)
    def add(self): ...


class Closed(Adds, Guarded):
    """Its `add` is the mixin's, with the guard of the one that it overrides."""


class Open(Adds, ReactiveState):
    n: int = 0


class ByRole(Adds, ReactiveState):
    n: int = 0

    @event(roles=["staff"])
    def add(self): ...


class StillByRole(ByRole):
    pass


def test_a_guard_of_one_class_is_not_the_others_that_share_its_mixin():
    rules = {cls: cls._fs_schema().events["add"].rule for cls in (Closed, Open, ByRole, StillByRole)}
    assert rules[Closed].requires_auth and not rules[Closed].roles
    assert not rules[Open].restricts
    assert rules[ByRole].roles == rules[StillByRole].roles == ("staff",)
    assert not vars(Adds)["add"].rule.restricts
    for cls in rules:
        assert cls.add.event is cls._fs_schema().events["add"]
        assert cls.reset.event is vars(Adds)["reset"], "what is the same for all may be one"
    assert "v:" in Closed().add.post() and "v:" not in Open().add.post()


def test_the_events_of_classes_that_share_a_mixin_are_guarded_each_by_its_own_rule():
    staff = UserContext(1, "Ada", roles=["staff"])
    provider = StateProvider(secret_key=KEY, load_user_by_id={1: staff}.get)
    for cls in (Open, ByRole, StillByRole):
        provider.register_state(cls)
    app, rt = fast_app(state_provider=provider)

    @rt("/")
    def index(a: Open, b: ByRole, c: StillByRole):
        return fh.P("page")

    @rt("/login")
    def login(session):
        session["user_id"] = 1
        return "hello"

    page = Page(TestClient(app))
    assert [status(page.send(name, "add")) for name in ("Open", "ByRole", "StillByRole")] == [200, 401, 401]
    page.client.get("/login")
    page = Page(page.client)
    assert [status(page.send(name, "add")) for name in ("Open", "ByRole", "StillByRole")] == [200, 204, 204]


def test_one_event_in_two_classes_keeps_each_name():
    @event
    def change(self, by: int = 1):
        self.n += by

    @view
    def show(self):
        return fh.P(self.n)

    class First(ReactiveState):
        n: int = 0
        plus = change
        number = show

    class Second(ReactiveState):
        n: int = 0
        more = change
        figure = show
        again = change

    assert First.plus.to(by=2) == "/_faststate/event/First/plus?by=2"
    assert Second.more.to() == "/_faststate/event/Second/more"
    assert Second.again.to() == "/_faststate/event/Second/again"
    assert list(First._fs_schema().events) == ["plus"] and list(Second._fs_schema().events) == ["more", "again"]
    assert (str(First(n=1).number()), str(Second(n=2).figure())) == (
        '<p data-fs-view="First.number">1</p>',
        '<p data-fs-view="Second.figure">2</p>',
    )


def test_an_event_that_belongs_to_a_class_is_not_guarded_from_elsewhere():
    with pytest.raises(EventDefinitionError, match="belongs to a class already"):
        requires_auth(vars(Adds)["add"])
    assert not Open.add.event.rule.restricts
