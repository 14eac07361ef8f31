"""Rights and sessions that end while a request is under way: it must not arrive with what it had when it set out."""

import asyncio
from typing import Annotated

import pytest
from fasthtml import common as fh
from starlette.testclient import TestClient

from faststate import (
    Depends,
    EventDefinitionError,
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
    requires_auth,
)
from tests.support.apps import app_showing, sign_in_routes
from tests.support.client import BROWSER, Page, browser, message, session_content, status

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Gate:
    """A loader that can be stopped on its way."""

    def __init__(self, users):
        self.users = users
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = asyncio.Event()

    async def load(self, user_id):
        found = self.users.get(user_id)  # what the database said, before it takes its time to arrive
        if not self.open.is_set():
            self.waiting.set()
            await self.open.wait()
        return found


class Note(ReactiveState):
    text: str = ""
    pay: Annotated[str, Visible("pay")] = "s3cret"

    @event
    def write(self, text: str):
        self.text = text

    @event
    async def slowly(self, text: str):
        for step in range(3):
            self.text = f"{text}{step}"
            yield None
            await Note.turn.wait()


class Site:
    def __init__(self):
        self.gate = Gate({"ann": UserContext("ann", permissions=["pay"])})
        self.provider = StateProvider(load_user_by_id=self.gate.load)
        self.provider.register_state(Note, StateConfig(scope=StateScope.USER))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests")
        Note.turn = asyncio.Event()

        sign_in_routes(rt, self.provider)

        @rt("/")
        def index(note: Note):
            return fh.P(note.signal.text, note.signal.pay)

    @property
    def text(self):
        return self.provider.registry.peek("user:Note:userann").text

    async def held_up(self, request):
        """The request, when its user is just being loaded."""
        self.gate.open.clear()
        self.gate.waiting.clear()
        under_way = asyncio.ensure_future(request)
        await asyncio.wait_for(self.gate.waiting.wait(), 5)
        return under_way


@pytest.fixture
async def site():
    made = Site()
    yield made
    await made.provider.stop()


async def signed_in(site, client):
    await client.get("/in/ann")
    return await Page.open(client)


@pytest.mark.parametrize("change", ["logout", "refresh", "disconnect"])
async def test_an_event_whose_user_was_being_loaded_is_refused(site, change):
    async with browser(site.app) as client, browser(site.app) as other:
        page = await signed_in(site, client)
        other.cookies = client.cookies
        under_way = await site.held_up(page.send("Note", "write", text="late"))
        if change == "logout":
            site.gate.open.set()
            context = fh.Request({"type": "http", "headers": [], "session": session_content(client)})
            await site.provider.logout(context)
        elif change == "refresh":
            await site.provider.refresh_user("ann")
        else:
            await site.provider.disconnect_user("ann")
        site.gate.open.set()
        answer = await under_way
        assert status(answer) == 403 and site.text == ""
        if change != "logout":
            assert "rights have changed" in message(answer)
            assert status(await page.send("Note", "write", text="again")) == 200  # a request of its own


@pytest.mark.parametrize("change", ["logout", "refresh"])
async def test_a_generator_stops_at_its_next_step(site, change):
    async with browser(site.app) as client:
        page = await signed_in(site, client)
        under_way = asyncio.ensure_future(page.send("Note", "slowly", text="step "))
        while site.text != "step 0":  # noqa: ASYNC110  # a commit tells its watchers alone
            await asyncio.sleep(0)
        if change == "logout":
            await client.get("/out")
        else:
            await site.provider.refresh_user("ann")
        Note.turn.set()
        assert status(await under_way) == 403
        assert site.text == "step 0"


async def test_a_stream_whose_user_was_being_loaded_is_opened_anew(site):
    async with browser(site.app) as client:
        page = await signed_in(site, client)
        payload = {"w": page.tokens, "n": page.position}
        under_way = await site.held_up(client.post("/_faststate/stream", json=payload, headers=BROWSER))
        site.gate.users["ann"] = UserContext("ann")
        assert await site.provider.refresh_user("ann") == 0  # it is not there yet
        site.gate.open.set()
        answer = await asyncio.wait_for(under_way, 5)  # it ends by itself
        assert '"go":"#reopen"' in answer.text and "s3cret" not in answer.text
        assert not site.provider.sse_manager.connections


def test_an_ended_cookie_is_nobody_s_in_an_app_mounted_below_either():
    provider = StateProvider()
    provider.register_state(Note, StateConfig(scope=StateScope.USER))
    app, rt = fast_app(state_provider=provider, secret_key="shared")
    below = fh.FastHTML(secret_key="shared")

    sign_in_routes(rt, provider)

    @below.get("/note")
    def note(note: Note):
        return fh.P(note.text, "mine")

    app.mount("/below", below)
    client = TestClient(app)
    client.get("/in/ann")
    kept = dict(client.cookies)
    assert client.get("/below/note").status_code == 200
    client.get("/out")
    replayed = TestClient(app, cookies=kept).get("/below/note")
    assert replayed.status_code == 401 and "mine" not in replayed.text


async def test_a_rule_that_fails_behind_the_commit_is_no_refusal_of_it():
    failing = []

    def rule(user, board, action):
        if action == "read" and failing:
            raise ZeroDivisionError
        return True

    class Board(ReactiveState):
        text: str = ""

        @event
        def write(self, text: str):
            self.text = text
            failing.append(text)

    app, provider = app_showing(Board, StateConfig(scope=StateScope.GLOBAL, authorize=rule))
    async with browser(app) as client:
        answer = await (await Page.open(client)).send("Board", "write", text="kept")
        assert status(answer) in (200, 204) and "kept" not in answer.text  # written, and not shown
    assert provider.registry.peek("global:Board").text == "kept"


async def test_a_rule_that_hangs_holds_the_lock_no_longer_than_a_lock_may_be_held():
    hanging = asyncio.Event()

    async def rule(user, doc, action):
        if doc.members == [] and action == "modify":
            await hanging.wait()
        return True

    class Doc(ReactiveState):
        members: list[int] = [1]

    provider = StateProvider(lock_timeout=0.2)
    provider.register_state(Doc, StateConfig(scope=StateScope.GLOBAL, authorize=rule))
    request = fh.Request({"type": "http", "headers": [], "session": {}, "path_params": {}})
    async with provider.modify(Doc) as doc:
        late = asyncio.ensure_future(provider.modify(Doc, request).__aenter__())
        while provider.registry.find("global:Doc").users < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        doc.members.clear()
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        await late
    assert provider.registry.find("global:Doc").owner is None
    await provider.stop()


def test_who_overrides_an_event_keeps_its_guards():
    class Base(ReactiveState):
        @event(roles=["boss"])
        def wipe(self): ...

    class Sub(Base):
        @event
        def wipe(self): ...

    class More(Base):
        @event(owner_only=True)
        def wipe(self): ...

    rules = [cls._fs_schema().events["wipe"].rule for cls in (Base, Sub, More)]
    assert [rule.roles for rule in rules] == [("boss",)] * 3
    assert [rule.owner_only for rule in rules] == [False, False, True]


def test_a_guard_that_a_decorator_hides_is_an_error_and_a_name_that_it_leaves_is_not_the_event_s():
    def plain(function):
        def wrapper(self):
            return function(self)

        return wrapper

    with pytest.raises(EventDefinitionError, match=r"functools\.wraps"):

        class Bad(ReactiveState):
            @event
            @plain
            @requires_auth(roles=["boss"])
            def wipe(self): ...

    class Mixin:
        @requires_auth
        def helper(self): ...

    with pytest.raises(EventDefinitionError, match="guards nothing"):

        class Mixed(Mixin, ReactiveState):
            pass

    asked = []

    class Good(ReactiveState):
        @event
        @plain
        def wipe(self): ...

    def rule(user, state, action):
        asked.append(action)
        return action != "wipe"

    app, _ = app_showing(Good, StateConfig(authorize=rule))
    assert status(Page(TestClient(app)).send("Good", "wipe")) == 401
    assert asked == ["read", "wipe"]


def test_each_of_two_providers_asks_its_own_user_what_may_be_seen():
    class Doc(ReactiveState):
        pay: Annotated[str, Visible("pay")] = "987123"

    ours = StateProvider(user_loader=lambda request: UserContext(1, roles=["admin"]))
    theirs = StateProvider(user_loader=lambda request: UserContext(2), prefix="/_other", secret_key="other")
    theirs.register_state(Doc)
    app, rt = fast_app(state_provider=ours, secret_key="for tests")

    @rt("/")
    def index(doc: Doc = Depends(theirs.get_state)):
        return fh.P(str(doc.pay), fh.to_xml(doc.signal.pay))

    assert "987123" not in TestClient(app).get("/").text


def test_what_anybody_can_have_written_down_is_not_kept():
    app, provider = app_showing(Note)
    sign_in_routes(app.route, provider)
    for _ in range(20):
        client = TestClient(app)
        client.get("/")
        client.get("/out")
    assert len(provider.registry) == 0 and len(provider.sessions.ended.known) == 0


async def test_users_of_the_app_s_own_kind_are_each_asked_about():
    class Person(UserContext):
        """Knows more of a user than the library does."""

        def __init__(self, user_id, second_factor):
            super().__init__(user_id)
            self.second_factor = second_factor

    strong, weak = SSEConnection(user=Person(1, True)), SSEConnection(user=Person(1, False))
    assert strong.rights != weak.rights
    assert SSEConnection(user=UserContext(1)).rights == SSEConnection(user=UserContext("1")).rights
