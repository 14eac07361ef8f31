"""Connections, outboxes and streams: called directly, by a model client with random cuts, and over a real server."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from fasthtml import common as fh
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from faststate import (
    AsSignal,
    Bound,
    ConnectionClosedError,
    IdentifierError,
    ReactiveState,
    SSEConnection,
    SSEManager,
    StateConfig,
    StateEventHandler,
    StateProvider,
    StateScope,
    event,
    fast_app,
    view,
)
from faststate.auth.tokens import ShownState, binding
from faststate.fasthtml.streams import StreamResponse
from faststate.provider.context import RequestContext
from faststate.sse.connection import MAX_MESSAGES
from faststate.sse.transports import AsgiWriter, DirectWriter
from tests.support.asgi import Exchange, http_scope
from tests.support.client import BROWSER
from tests.support.live import Model, Recorder, Tab, frozen_reader, visiting
from tests.support.requests import request_of
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Counter(ReactiveState):
    count: int = 0

    @event
    def add(self, by: int = 1):
        self.count += by


class Board(ReactiveState):
    text: str = ""
    lines: list[str] = []

    @event
    def write(self, text: str):
        self.text = text
        self.lines.append(text)

    @event
    def grow(self):
        self.text = "x" * 8_000_000

    @event
    def show(self):
        self.text = "before"
        return fh.Div("fragment", id="box")

    @view
    def listing(self):
        return fh.Ul(*map(fh.Li, self.lines))


class Mine(ReactiveState):
    note: str = ""

    @event
    def write(self, note: str):
        self.note = note


class Draft(ReactiveState):
    text: Bound[str] = ""
    other: Bound[str] = ""
    saves: int = 0

    @event
    def save(self):
        self.saves += 1
        self.other = self.other.strip()


# -- called directly, as the seed does ---------------------------------------------------------------------------------


KEY = "session:Counter:abc"


@pytest.fixture
def manager():
    return SSEManager()


def connect(manager, name="one", keys=(KEY,), user_id=None):
    connection = SSEConnection(name, object(), user_id)
    manager.add_connection(connection, list(keys))
    return connection


def received(connection):
    model = Model()
    model.feed_bytes(connection.drain())
    return model


def test_a_connection_has_the_seed_s_attributes():
    stream, before = object(), datetime.now(UTC)
    connection = SSEConnection("one", stream, user_id=5)
    assert (connection.id, connection.stream, connection.user_id) == ("one", stream, 5)
    assert before <= connection.connected_at <= datetime.now(UTC) and connection.last_ping == connection.connected_at
    assert connection.subscribed_states == set()


def test_adding_and_removing_keeps_both_indexes(manager):
    one, two = connect(manager, "one", [KEY, "global:Board"]), connect(manager, "two", [KEY])
    assert manager.connections == {"one": one, "two": two}
    assert manager.state_subscriptions == {KEY: {"one", "two"}, "global:Board": {"one"}}
    assert one.subscribed_states == {KEY, "global:Board"}
    assert manager.remove_connection("one") is True and manager.remove_connection("one") is False
    assert one.closed and one.stream is None
    assert manager.state_subscriptions == {KEY: {"two"}}
    manager.remove_connection("two")
    assert manager.connections == manager.state_subscriptions == {}


def test_broadcast_reaches_the_followers_of_the_key_alone(manager):
    one, other = connect(manager), connect(manager, "other", ["session:Counter:xyz"])
    assert manager.broadcast_to_state(KEY, {"count": 5}) == 1
    assert received(one).signals == {"Counter": {"count": 5}} and other.drain() == b""


async def test_broadcast_may_be_awaited(manager):
    one = connect(manager)
    assert await manager.broadcast_to_state(KEY, {"count": 5}) == 1
    assert received(one).signals == {"Counter": {"count": 5}}
    assert await manager.broadcast_to_state("global:Nobody", {"count": 5}) == 0


@pytest.mark.parametrize("excluded", [7, "7"])
def test_broadcast_excludes_a_user_also_by_the_falsy_id_0(manager, excluded):
    seven, zero, nobody = (connect(manager, str(user), user_id=user) for user in (7, 0, None))
    assert manager.broadcast_to_state(KEY, {"count": 1}, exclude_user=excluded) == 2
    assert seven.drain() == b"" and zero.drain() and nobody.drain()
    assert manager.broadcast_to_state(KEY, {"count": 1}, exclude_user=0) == 2
    assert zero.drain() == b"" and seven.drain() and nobody.drain()


def test_broadcast_of_components_goes_to_the_component_s_own_namespace(manager):
    key = "component:Side:abc:component:left"
    one = connect(manager, keys=[key])
    manager.broadcast_to_state(key, {"count": 1})
    assert received(one).signals == {"Side": {"left": {"count": 1}}}


def test_broadcast_finds_and_removes_connections_that_have_ended(manager):
    dead, live = connect(manager, "dead"), connect(manager, "live")
    dead.stream = None
    assert manager.broadcast_to_state(KEY, {"count": 1}) == 1
    assert set(manager.connections) == {"live"} and manager.state_subscriptions == {KEY: {"live"}}
    assert live.drain()


@pytest.mark.parametrize("key", ["", "nonsense", "session:Counter", "session:Counter:a:b", "galaxy:Counter"])
def test_a_text_that_is_no_key_is_refused(manager, key):
    with pytest.raises(IdentifierError):
        manager.broadcast_to_state(key, {"count": 1})
    with pytest.raises(IdentifierError):
        StateEventHandler(manager, None).handle_state_change(key, {"count": 1})


KEYS = [KEY, "global:Counter", "user:Counter:user5", "record:Counter:3", "temporary:Counter:s:t"]


@pytest.mark.parametrize("key", [*KEYS, "component:Counter:s:component:c"])
async def test_a_state_change_is_routed_to_those_who_share_the_state(manager, key):
    sharing, apart = connect(manager, "a", [key], user_id=5), connect(manager, "b", ["session:Counter:other"])
    handler = StateEventHandler(manager, None)
    assert handler.sse_manager is manager and handler.state_provider is None
    assert handler.handle_state_change(key, {"count": 3}, user_id=5) == 1
    assert await handler.handle_state_change(key, {"count": 4}) == 1
    assert b'"count":4' in sharing.drain() and apart.drain() == b""


def test_signals_for_one_connection_are_merged_while_they_wait():
    connection = SSEConnection("one", object())
    connection.send_event({"A": {"x": 1, "y": 1}})
    connection.send_event({"A": {"x": 2}, "B": {"when": datetime(2026, 1, 2, tzinfo=UTC), "none": None}})
    model = received(connection)
    assert len(model.patched) == 1
    assert model.signals == {"A": {"x": 2, "y": 1}, "B": {"when": "2026-01-02T00:00:00Z", "none": ""}}


async def test_send_event_may_be_awaited_and_a_closed_connection_refuses():
    connection = SSEConnection("one", object())
    assert await connection.send_event({"A": {"x": 1}}) == 1
    connection.close()
    for send in (lambda: connection.send_event({"A": {}}), lambda: connection.send_frame(b"x")):
        with pytest.raises(ConnectionClosedError):
            send()


async def test_stale_connections_are_removed_and_live_ones_stay(manager):
    stale, fresh, ended = (connect(manager, name) for name in ("stale", "fresh", "ended"))
    stale.last_ping = datetime.now(UTC) - timedelta(minutes=6)
    fresh.last_ping = datetime.now(UTC) - timedelta(minutes=4)
    ended.stream = None
    assert await manager.cleanup_stale_connections() == 2
    assert set(manager.connections) == {"fresh"} and stale.closed
    assert manager.cleanup_stale_connections(older_than=60) == 1
    assert manager.connections == manager.state_subscriptions == {}


# -- the outbox --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def provider():
    made = StateProvider(secret_key="for tests")
    made.register_state(Counter)
    made.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    made.register_state(Mine, StateConfig(scope=StateScope.USER))
    made.register_state(Draft)
    yield made
    await made.stop()


async def follow(provider, name="one", views=("listing",)):
    """A connection that follows the Counter of session abc and the Board."""
    async with provider.modify(Counter, session_id="abc"), provider.modify(Board):
        pass
    connection = SSEConnection(name, object())
    provider.sse_manager.add_connection(connection, [KEY, "global:Board"], {"global:Board": views})
    return connection


async def open_stream(provider, shown, position=None):
    """Open a stream of session abc for a page that shows these states; return its connection."""
    context = RequestContext(provider, request_of({"session_id": "abc"}))
    token = provider.tokens.signer.sign(binding("abc", None), shown)
    return await provider.page_streams.open(context, [token], position)


async def count_to(provider, number):
    async with provider.modify(Counter, session_id="abc") as counter:
        counter.count = number


async def test_one_commit_is_sent_as_its_delta_and_its_bytes_are_shared(provider):
    one, two = await follow(provider, "one"), await follow(provider, "two")
    async with provider.modify(Board) as board:
        board.text = "new"
    frames = one.drain()
    assert received(two).signals == {"Board": {"text": "new"}} and b"lines" not in frames
    assert one.drain() == two.drain() == b""


async def test_the_registry_s_broadcast_reaches_the_same_connections(provider):
    one = await follow(provider)
    assert await provider.registry.broadcast_to_state(KEY, {"count": 5}) == 1
    assert received(one).signals == {"Counter": {"count": 5}}
    provider.registry.broadcast_to_state(KEY, {"count": 6})
    assert received(one).signals == {"Counter": {"count": 6}}
    assert provider.registry.peek(KEY).count == 0, "sent, not kept"


async def test_what_a_slow_reader_has_missed_is_one_snapshot_per_state(provider):
    slow = await follow(provider)
    for number in range(1, 101):
        await count_to(provider, number)
        async with provider.modify(Board) as board:
            board.lines.append(f"line {number}")
    slow.take_commits()
    assert len(slow._outbox.states) == 2, "the outbox is bounded by the states that are followed"
    assert provider.stats().coalesced == 198
    model = received(slow)
    assert model.signals["Counter"] == {"count": 100}
    assert len(model.elements) == 1 and model.elements[0].count("<li>") == 100


async def test_a_snapshot_s_bytes_are_kept_where_several_pages_show_the_state_and_for_one_alone_not(provider):
    sent = []
    for name in ("one", "two", "three"):
        connection = await follow(provider, name)
        connection.notify("global:Board", None)
        sent.append(connection.drain())
        assert len(provider.registry.peek("global:Board")._committed.frames) == (len(sent) > 1)
    assert sent[0] == sent[1] == sent[2] and sent[1] is sent[2]


async def test_a_fragment_never_overtakes_what_was_committed_before_it(provider):
    one = await follow(provider)
    await count_to(provider, 1)
    one.send_frame(b"event: datastar-patch-elements\ndata: elements <b>one</b>\n\n")
    await count_to(provider, 2)
    one.send_frame(b"event: datastar-patch-elements\ndata: elements <b>two</b>\n\n")
    text = one.drain().decode()
    places = [text.index(part) for part in ('"count":1', "one</b>", '"count":2', "two</b>")]
    assert places == sorted(places)


async def test_a_commit_wins_over_values_that_were_broadcast_before_it(provider):
    one = await follow(provider)
    provider.sse_manager.broadcast_to_state(KEY, {"count": 50})
    await count_to(provider, 1)
    assert received(one).signals == {"Counter": {"count": 1}}
    await count_to(provider, 2)
    provider.sse_manager.broadcast_to_state(KEY, {"count": 50})
    assert received(one).signals == {"Counter": {"count": 50}}
    for number in range(3, 3 * MAX_MESSAGES):
        provider.sse_manager.broadcast_to_state(KEY, {"count": 50})
        await count_to(provider, number)
    assert len(one._outbox.messages) <= MAX_MESSAGES
    assert received(one).signals["Counter"] == {"count": number}


async def test_messages_are_bounded_counted_and_made_up_for_by_snapshots(provider):
    one = await follow(provider)
    await count_to(provider, 5)
    for number in range(MAX_MESSAGES + 1):
        one.send_frame(f"event: datastar-patch-elements\ndata: elements {number}\n\n".encode())
    assert one.dropped >= MAX_MESSAGES
    model = received(one)
    assert model.signals["Counter"] == {"count": 5} and "text" in model.signals["Board"]
    assert len([e for e in model.elements if "listing" not in e]) <= MAX_MESSAGES


async def test_a_commit_that_changes_nothing_sends_nothing(provider):
    one = await follow(provider)
    await count_to(provider, 0)
    assert one.drain() == b""


async def test_a_commit_costs_nothing_for_those_who_follow_other_keys(provider):
    others = [SSEConnection(f"c{i}", object()) for i in range(50)]
    for i, connection in enumerate(others):
        provider.sse_manager.add_connection(connection, [f"session:Counter:other{i}"])
    one = await follow(provider)
    await count_to(provider, 1)
    assert one.drain() and not any(connection.drain() for connection in others)


async def test_a_view_that_fails_leaves_the_pages_as_they_are(provider, caplog):
    class Fragile(ReactiveState):
        size: int = 1

        @view
        def inverse(self):
            return fh.B(1 / self.size)

    provider.register_state(Fragile, StateConfig(scope=StateScope.GLOBAL))
    async with provider.modify(Fragile):
        pass
    connection = SSEConnection("one", object())
    provider.sse_manager.add_connection(connection, ["global:Fragile"], {"global:Fragile": ["inverse"]})
    async with provider.modify(Fragile) as state:
        state.size = 0
    model = received(connection)
    assert model.signals == {"Fragile": {"size": 0}} and model.elements == []
    assert "inverse" in caplog.text


@pytest.mark.parametrize("ended", [lambda manager, one: manager.remove_connection(one.id), SSEManager.silence])
async def test_a_stream_that_was_ended_before_it_began_promises_nothing(provider, ended):
    one = await follow(provider)
    one.notify(KEY, None)
    ended(provider.sse_manager, one)
    answer = Exchange(StreamResponse(provider, one), http_scope("POST", "/_faststate/stream"))
    await answer.close()
    assert b"id: " not in answer.body, "what waited was dropped, so that its id must not be told"


async def test_nothing_stays_of_a_stream_that_was_ended_before_it_was_first_written_to(provider):
    manager, ended = provider.sse_manager, asyncio.Event()
    one = await follow(provider)
    manager.remove_connection(one.id)
    written = []

    async def send(message):
        written.append(message)
        ended.set()

    async def receive():
        await ended.wait()
        return {"type": "http.disconnect"}

    writer = AsgiWriter(manager, one, send, PATIENCE)
    manager.attach(one, writer)
    async with asyncio.timeout(PATIENCE):
        await writer.hold(receive)
    assert provider.stats().behind == 0 and provider.stats().lag == 0
    assert not any(manager.heartbeat.slots) and manager.heartbeat.timer is None, "no sign of life is ever due to it"


async def test_an_id_stands_behind_all_that_it_promises_to_who_began_between_two_commits(provider):
    manager = provider.sse_manager
    await follow(provider)
    manager.fanout._scheduled = asyncio.get_running_loop()  # one turn of the loop, which ends with the flush below
    await count_to(provider, 1)
    two = SSEConnection("two")
    manager.add_connection(two, [KEY, "global:Board"])
    two.writer = Recorder()
    await count_to(provider, 2)
    async with provider.modify(Board) as board:
        board.text = "new"
    manager.fanout.flush()
    manager.remove_connection("two")
    told = b"".join(two.writer.bodies)
    assert told.index(b'"count":2') < told.index(b"id: ") and told.index(b'"text":"new"') < told.index(b"id: ")


async def test_a_state_that_leaves_memory_while_others_are_asked_about_is_there_when_the_stream_opens(provider):
    class Guarded(ReactiveState):
        pass

    evicted = []

    def rule(user, state, action):
        evicted.append(provider.registry.lifetimes.evict("global:Board"))
        return True

    provider.register_state(Guarded, StateConfig(scope=StateScope.GLOBAL, authorize=rule))
    connection = await open_stream(provider, [ShownState("Board", None, ()), ShownState("Guarded", None, ())])
    assert evicted[0] is True
    board = provider.registry.peek("global:Board")
    assert received(connection).signals["Board"] == board._wire()


# -- a model client ----------------------------------------------------------------------------------------------------


class Wide(ReactiveState):
    number: int = 0
    text: str = ""
    maybe: int | None = None
    table: AsSignal[dict[str, int]] = {}
    nested: AsSignal[dict[str, dict[str, int]]] = {}
    items: AsSignal[list[int]] = []
    shown: list[str] = []

    @view
    def listing(self):
        return fh.Ul(*map(fh.Li, self.shown))


class Wider(Wide):
    pass


NAMES = st.sampled_from("abc")
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(-3, 3),
        "text": st.text(max_size=3),
        "maybe": st.none() | st.integers(0, 2),
        "table": st.dictionaries(NAMES, st.integers(0, 2)),
        "nested": st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(0, 2))),
        "items": st.lists(st.integers(0, 2), max_size=3),
        "shown": st.lists(st.sampled_from(["x", "y\nz", "<&>"]), max_size=3),
    },
)
COMMIT = st.tuples(st.just("commit"), st.sampled_from([Wide, Wider]), CHANGES)
READ = st.tuples(st.just("read"))
CUT = st.tuples(st.just("cut"), st.floats(0, 1))
FRAGMENT = st.tuples(st.just("fragment"))
STEPS = st.lists(COMMIT | COMMIT | COMMIT | READ | CUT | FRAGMENT, max_size=25)


def shown_html(model, cls):
    """The latest listing of `cls` that was patched in, as text, or None."""
    for element in reversed(model.elements):
        if f'"{cls.__name__}.listing"' in element:
            return "\n".join(
                line.removeprefix("elements ") for line in element.splitlines() if line.startswith("elements ")
            )
    return None


async def follow_with_cuts(steps, start):
    provider = StateProvider(secret_key="for tests")
    provider.register_state(Wide)
    provider.register_state(Wider, StateConfig(scope=StateScope.GLOBAL))
    shown = [ShownState("Wide", None, ("listing",)), ShownState("Wider", None, ("listing",))]
    ids = {Wide: {"session_id": "abc"}, Wider: {}}
    model = Model()
    model.position = start
    connection = await open_stream(provider, shown, model.position)

    def arriving():
        frames = connection.drain()
        return frames + f"id: {provider.sse_manager.hooks.position()}\n\n".encode()

    try:
        for step in steps:
            if step[0] == "commit":
                async with provider.modify(step[1], **ids[step[1]]) as state:
                    for name, value in step[2].items():
                        setattr(state, name, value)
            elif step[0] == "read":
                model.feed_bytes(arriving())
            elif step[0] == "fragment":
                connection.send_frame(b"event: datastar-patch-elements\ndata: elements <i>once</i>\n\n")
            else:
                frames = arriving()
                model.feed_bytes(frames[: int(step[1] * len(frames))])
                provider.sse_manager.remove_connection(connection.id)
                connection = await open_stream(provider, shown, model.position)
        model.feed_bytes(arriving())
        for cls in (Wide, Wider):
            async with provider.modify(cls, **ids[cls]) as state:
                expected = state._wire()
                assert model.signals[cls.__name__] == expected
                assert shown_html(model, cls) == str(state.listing())
    finally:
        await provider.stop()


@given(STEPS, st.sampled_from([None, "unknown.5", "nonsense", "."]))
@settings(max_examples=150, deadline=None)
def test_whatever_is_cut_and_when_the_page_ends_with_the_server_s_state(steps, start):
    asyncio.run(follow_with_cuts(steps, start))


# -- over a real server ------------------------------------------------------------------------------------------------


def make_app(middleware=(), **options):
    provider = StateProvider(**options)
    provider.register_state(Counter)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(Mine, StateConfig(scope=StateScope.USER))
    provider.register_state(Draft)
    app, rt = fast_app(state_provider=provider, middleware=middleware, pico=False, secret_key="for tests")

    @rt("/")
    def index(counter: Counter, board: Board, draft: Draft):
        return fh.Titled("All", counter.signal.count, board.listing(), fh.Div(id="box"), draft.signal.saves)

    @rt("/mine")
    def mine(mine: Mine):
        return fh.Titled("Mine", mine.signal.note)

    @rt("/login/{user}")
    def login(session, user: str):
        session["user_id"] = user
        return "in"

    return app, provider


TRANSPORTS = [("auto", "httptools", DirectWriter), ("portable", "httptools", AsgiWriter), ("auto", "h11", DirectWriter)]


@pytest.fixture(params=TRANSPORTS, ids=lambda it: f"{it[0]} over {it[1]}")
def transport(request, monkeypatch):
    """How the streams' bytes are written, by which of uvicorn's protocols, and the writer that this has to give."""
    monkeypatch.delenv("FASTSTATE_TRANSPORT", raising=False)
    return request.param


@pytest.fixture
async def served(request, transport):
    name, http, writer = transport
    app, provider = make_app(transport=name, **getattr(request, "param", {}))
    async with visiting(app, provider, writer=writer, http=http) as site:
        yield site


async def test_a_fresh_stream_says_its_id_and_nothing_that_the_page_knows(served):
    tab = await served.tab(await served.browser())
    assert tab.patched == [{"_fs": {"c": tab.signals["_fs"]["c"]}}] and tab.elements == []
    assert tab.signals["_fs"]["c"] in served.provider.sse_manager.connections
    assert tab.response.headers["content-type"].startswith("text/event-stream")
    assert tab.response.headers["cache-control"] == "no-store"


async def test_two_tabs_of_one_session_see_one_count(served):
    first, second = await served.tabs(2)
    assert (await first.post("Counter/add", a={"by": 3})).status_code == 204
    for tab in (first, second):
        await tab.shows("Counter", {"count": 3})


async def test_many_clicks_at_once_all_count_and_no_patch_overtakes_another(served):
    first, second = await served.tabs(2)
    answers = await asyncio.gather(*(tab.post("Counter/add", a={"by": 1}) for tab in [first, second] * 50))
    assert {answer.status_code for answer in answers} == {204}
    for tab in (first, second):
        await tab.shows("Counter", {"count": 100})
        counts = [patch["Counter"]["count"] for patch in tab.patched if "Counter" in patch]
        assert counts == sorted(counts)


async def test_a_stream_with_the_tokens_of_two_fragments_follows_both(served):
    client = await served.browser("ann")
    tab, mine = await served.tab(client, streaming=False), await served.tab(client, "/mine", streaming=False)
    tab.tokens += mine.tokens
    await tab.open()
    await tab.post("Mine/write", a={"note": "hers"})
    await tab.post("Counter/add", a={"by": 1})
    await tab.until(lambda: tab.signals.get("Mine") == {"note": "hers"} and tab.signals["Counter"] == {"count": 1})


async def test_a_change_between_page_and_stream_is_not_missed(served):
    tab, other = await served.tabs(2, streaming=False)
    await other.post("Counter/add", a={"by": 3})
    await tab.open()
    assert tab.signals["Counter"] == {"count": 3}
    assert not any("Board" in patch for patch in tab.patched), "what did not change is not sent"


async def test_two_sessions_are_apart_and_a_global_state_is_everybody_s(served):
    ann, bob = await served.tab(await served.browser()), await served.tab(await served.browser())
    await ann.post("Counter/add", a={"by": 3})
    await ann.post("Board/write", a={"text": "to all"})
    for tab in (ann, bob):
        await tab.until(lambda tab=tab: tab.signals["Board"]["text"] == "to all" and tab.elements)
        assert "<li>to all</li>" in tab.elements[-1]
    assert ann.signals["Counter"] == {"count": 3} and bob.signals["Counter"] == {"count": 0}
    assert not any("Counter" in patch for patch in bob.patched)


async def test_a_user_state_follows_the_user_over_sessions_and_nobody_else(served):
    ann, again, bob = [await served.tab(await served.browser(user), "/mine") for user in ("ann", "ann", "bob")]
    await ann.post("Mine/write", a={"note": "hers"})
    await again.until(lambda: again.signals["Mine"]["note"] == "hers")
    await bob.post("Mine/write", a={"note": "his"})
    await bob.until(lambda: bob.signals["Mine"]["note"] == "his")
    assert not any("hers" in json.dumps(patch) for patch in bob.patched)


async def test_a_fragment_that_an_event_returns_comes_down_the_stream_after_its_commit(served):
    tab = await served.tab(await served.browser())
    response = await tab.post("Board/show")
    assert response.status_code == 204 and not response.content
    await tab.until(lambda: tab.elements)
    assert tab.signals["Board"]["text"] == "before" and "fragment" in tab.elements[-1]


async def test_a_page_without_a_stream_gets_the_patches_in_the_event_s_own_answer(served):
    client = await served.browser()
    tab, other = await served.tab(client, streaming=False), await served.tab(client)
    for connection in ("", "unknown"):
        tab.signals["_fs"]["c"] = connection
        response = await tab.post("Counter/add", a={"by": 1})
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        tab.feed_bytes(response.content)
    assert tab.signals["Counter"] == {"count": 2}
    await other.shows("Counter", {"count": 2})


async def test_a_connection_of_another_session_is_not_taken_for_one_s_own(served):
    ann, bob = await served.tab(await served.browser()), await served.tab(await served.browser())
    bob.signals["_fs"]["c"] = ann.signals["_fs"]["c"]
    response = await bob.post("Board/show")
    assert response.status_code == 200 and b"fragment" in response.content
    await ann.post("Counter/add", a={"by": 1})
    await ann.shows("Counter", {"count": 1})
    assert not any("fragment" in element for element in ann.elements)


async def test_resuming_where_it_left_off_gets_only_what_changed(served):
    client = await served.browser()
    tab, writer = await served.tab(client), await served.tab(client, streaming=False)
    left = tab.position
    await tab.close()
    await writer.post("Board/write", a={"text": "one"})
    await writer.post("Board/write", a={"text": "two"})
    await tab.open(last_event_id=left)
    assert [patch for patch in tab.patched if "_fs" not in patch] == [{"Board": {"text": "two"}}]
    assert len(tab.elements) == 1 and tab.elements[0].count("<li>") == 2
    assert tab.position.partition(".")[0] == left.partition(".")[0]


async def test_resuming_without_a_change_gets_nothing(served):
    tab = await served.tab(await served.browser())
    left = tab.position
    await tab.close()
    await tab.open(last_event_id=left)
    assert [set(patch) for patch in tab.patched] == [{"_fs"}] and tab.elements == [] and tab.position == left


@pytest.mark.parametrize("position", ["0123456789ab.3", "x", "", ".", "1.2.3", "é.1", "a." + "9" * 400])
async def test_resuming_from_an_unknown_position_gets_snapshots(served, position):
    tab = await served.tab(await served.browser(), streaming=False)
    tab.position = position
    headers = {"last-event-id": position} if position.isascii() and position else {}
    await tab.open(headers=headers)
    seen = {name for patch in tab.patched for name in patch}
    assert seen == {"_fs", "Counter", "Board", "Draft"}
    assert len(tab.elements) == 1 and "Board.listing" in tab.elements[0]


async def test_head_opens_no_stream(served):
    tab = await served.tab(await served.browser(), streaming=False)
    response = await tab.client.head("/_faststate/stream", headers=BROWSER)
    assert response.status_code == 405
    assert served.provider.stats().connections_total == 0


@pytest.mark.parametrize("served", [{"heartbeat": 0.05}], indirect=True)
async def test_a_quiet_stream_beats(served):
    tab = await served.tab(await served.browser())
    connection = served.provider.sse_manager.connections[tab.signals["_fs"]["c"]]
    opened, left = connection.last_ping, tab.position
    await tab.until(lambda: tab.beats >= 3)
    assert connection.last_ping > opened and tab.position == left
    await tab.post("Counter/add", a={"by": 1})
    await tab.shows("Counter", {"count": 1})


async def test_a_disconnect_is_found_and_nothing_of_it_stays(served):
    tabs = await served.tabs(3)
    manager = served.provider.sse_manager
    assert len(manager.connections) == 3
    for tab in tabs:
        await tab.close()
    await eventually(lambda: not manager.connections and not manager.state_subscriptions)


async def test_forged_tokens_open_no_stream(served):
    tab = await served.tab(await served.browser(), streaming=False)
    (token,) = tab.tokens
    refusals = {403: ([token[:-3] + "xyz"], ["x"], [5], [None], [token, "x"]), 400: ("x", {"a": 1}), 204: ([],)}
    for expected, lists in refusals.items():
        for tokens in lists:
            async with tab.request(tokens=tokens) as response:
                assert response.status_code == expected, tokens
    assert served.provider.stats().connections_total == 0


@pytest.mark.parametrize("payload", ["", "not json", "[]", "5", "null", '"x"', "[" * 5000, '{"w":'])
async def test_a_stream_request_without_a_payload_is_refused(served, payload):
    (tab,) = await served.tabs(1, streaming=False)
    response = await tab.client.post("/_faststate/stream", content=payload, headers=BROWSER)
    assert response.status_code == (400 if payload else 204)


@pytest.mark.parametrize("headers", [{}, {"datastar-request": "true", "sec-fetch-site": "cross-site"}])
async def test_a_stream_for_another_site_is_not_opened(served, headers):
    tab = await served.tab(await served.browser(), streaming=False)
    payload = {"w": tab.tokens, "n": ""}
    response = await tab.client.post("/_faststate/stream", json=payload, headers=headers)
    assert response.status_code == 403 and served.provider.stats().connections_total == 0


async def test_a_page_of_another_session_is_told_to_reload(served):
    tab = await served.tab(await served.browser(), streaming=False)
    thief = Tab(served, await served.browser())
    await thief.load("/")
    async with thief.request(tokens=tab.tokens) as response:
        thief.feed_bytes(await response.aread())
    assert thief.signals["_fs"]["go"] == "#reload" and served.provider.stats().connections_total == 0


async def test_a_visitor_without_a_cookie_gets_no_stream(served):
    tab = await served.tab(await served.browser(), streaming=False)
    tab.client = await served.browser()
    async with tab.request() as response:
        assert response.status_code == 204


async def test_what_a_two_way_binding_has_set_is_not_sent_back_to_where_it_was_typed(served):
    typing, other = await served.tabs(2)
    await typing.post("Draft/save", b={"text": "typed", "other": " spaces "})
    for tab in (typing, other):
        await tab.until(lambda tab=tab: tab.signals["Draft"]["saves"] == 1)
    version = other.signals["Draft"]["_version"]
    assert other.signals["Draft"] == {"text": "typed", "other": "spaces", "saves": 1, "_version": version}
    (echo,) = [patch["Draft"] for patch in typing.patched if "Draft" in patch]
    assert echo == {"other": "spaces", "saves": 1, "_version": version}, (
        "what the server changed comes back, what was typed does not"
    )


async def passed_on(request, call_next):
    return await call_next(request)


@pytest.mark.parametrize(
    "middleware",
    [
        fh.Middleware(BaseHTTPMiddleware, dispatch=passed_on),
        fh.Middleware(GZipMiddleware, minimum_size=0),
        fh.Middleware(TrustedHostMiddleware, allowed_hosts=["*"]),
    ],
    ids=lambda m: m.cls.__name__,
)
async def test_streams_and_events_pass_common_middleware_and_a_disconnect_is_found(middleware):
    async with visiting(*make_app(middleware=[middleware])) as site:
        tab, other = await site.tabs(2)
        assert (await tab.post("Counter/add", a={"by": 3})).status_code == 204
        for each in (tab, other):
            await each.shows("Counter", {"count": 3})
        await tab.close()
        await eventually(lambda: len(site.provider.sse_manager.connections) == 1)


async def test_a_stream_that_is_stopped_ends_and_comes_back_to_503(served):
    tab = await served.tab(await served.browser())
    done = asyncio.run_coroutine_threadsafe(served.provider.stop(), served.provider.loop())
    await tab.ends()
    await asyncio.wrap_future(done)
    async with tab.request() as response:
        assert response.status_code == 503 and response.headers["retry-after"]


# The other reader, too, has to take 8 MB in that time, on a busy machine.
@pytest.mark.parametrize("served", [{"write_timeout": 2, "heartbeat": 0.1}], indirect=True)
async def test_a_frozen_reader_is_cut_and_holds_up_nobody_and_not_the_shutdown(served):
    (tab,) = await served.tabs(1)
    manager = served.provider.sse_manager
    with contextlib.closing(frozen_reader(tab)):
        await eventually(lambda: len(manager.connections) == 2)
        await tab.post("Board/grow")
        await tab.until(lambda: len(tab.signals["Board"]["text"]) == 8_000_000)
        await eventually(lambda: manager.cut == 1 and len(manager.connections) == 1)
        await tab.post("Counter/add", a={"by": 1})
        await tab.shows("Counter", {"count": 1})
