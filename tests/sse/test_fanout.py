"""Fan-out where several things happen at once: other threads and loops, ends while it writes, rules that ask others."""

import asyncio
import threading
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from faststate import (
    ReactiveState,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    current_request,
)
from faststate.sse.changes import audience_of
from faststate.sse.fanout import QUICK_FROM, UNCHECKED
from faststate.sse.topics import Topic
from faststate.sse.transports import AsgiWriter
from tests.support.apps import app_showing
from tests.support.live import Recorder
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Board(ReactiveState):
    text: str = ""


class Meter(ReactiveState):
    sent: int = 0
    alarms: int = 0


class Writer(Recorder):
    """One that does not keep up takes what is written `quick` alone."""

    unasked = 0

    @property
    def quick(self):
        return self.take

    def take(self, framed):
        if not self.takes:
            self.unasked += len(framed)
        self.bodies.append(framed.partition(b"\r\n")[2].removesuffix(b"\r\n"))


@pytest.fixture
async def provider():
    made = StateProvider(secret_key="for tests")
    for cls in (Board, Meter):
        made.register_state(cls, StateConfig(scope=StateScope.GLOBAL))
        async with made.modify(cls):
            pass
    yield made
    for connection_id in list(made.sse_manager.connections):
        made.sse_manager.remove_connection(connection_id)
    await made.stop()


def follow(provider, *keys, **about):
    connection = SSEConnection(**about)
    provider.sse_manager.add_connection(connection, keys)
    provider.sse_manager.attach(connection, Writer())
    return connection


async def write(provider, text, cls=Board):
    async with provider.modify(cls) as state:
        state.text = text
    await asyncio.sleep(0)  # the end of the loop's turn


@pytest.mark.parametrize("left", [QUICK_FROM, QUICK_FROM - 1, 1])
async def test_a_reader_who_takes_nothing_is_soon_asked_however_many_are_left(provider, left):
    connections = [follow(provider, "global:Board") for _ in range(2 * QUICK_FROM)]
    for text in ("a", "b"):
        await write(provider, text)
    for connection in connections[left:]:
        provider.sse_manager.remove_connection(connection.id)
    frozen = connections[0].writer
    frozen.takes = False
    for number in range(50):
        await write(provider, f"{number} " + "x" * 1_000)
    assert frozen.unasked <= UNCHECKED + 1_200


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.sampled_from(["a", "b"])), max_size=12))
def test_a_state_s_followers_are_those_who_have_joined_and_not_left(steps):
    topic, connections, expected = Topic("global:Board", lambda key: None), [SSEConnection() for _ in range(3)], {}
    for joins, number, view in steps:
        connection = connections[number]
        if joins:
            expected[connection] = audience_of(frozenset([view]))
            topic.join(connection, expected[connection])
        else:
            expected.pop(connection, None)
            topic.leave(connection)
        assert dict(topic.connections) == expected and len(topic.connections) == len(expected)
        assert [each in topic.connections for each in connections] == [each in expected for each in connections]


async def test_who_is_removed_by_being_written_to_is_kept_nothing_for(provider):
    connection = follow(provider, "global:Board")

    def write_and_end(chunk):
        provider.sse_manager.remove_connection(connection.id)
        return False

    connection.writer.write = write_and_end
    await write(provider, "gone")
    assert not connection.waits and not provider.sse_manager.is_watched("global:Board")


async def test_streams_that_other_threads_end_do_not_hold_up_the_loop_that_writes(provider):
    connections = [follow(provider, "global:Board") for _ in range(500)]
    await write(provider, "begun")
    assert provider.sse_manager.fanout.topics["global:Board"].quick

    def end_some():
        for connection in connections[:400]:
            assert provider.sse_manager.remove_connection(connection.id)

    thread = threading.Thread(target=end_some)
    thread.start()
    number = 0
    while thread.is_alive() or len(provider.sse_manager.connections) > 100:
        number += 1
        await write(provider, str(number))
    thread.join()
    await write(provider, "last")
    assert all(b'"text":"last"' in connection.writer.bodies[-1] for connection in connections[400:])


async def test_commits_of_two_loops_arrive_in_their_order_and_no_position_comes_too_early(provider):
    both = follow(provider, "global:Board", "global:Meter")

    thread = threading.Thread(target=lambda: asyncio.run(write(provider, "of the thread")))
    thread.start()
    thread.join()  # so that the loop has heard nothing of it yet
    number = provider.registry.commits
    async with provider.modify(Meter) as meter:
        meter.alarms = 1
    both.send_event({"Own": {"hint": 1}})
    provider.sse_manager.fanout.flush()
    seen = both.writer.model
    assert seen.signals["Own"] == {"hint": 1} and "Board" not in seen.signals
    assert int(seen.position.partition(".")[2]) < number
    await write(provider, "of the loop")
    await eventually(lambda: both.writer.model.signals.get("Board") == {"text": "of the loop"})
    model = both.writer.model
    assert model.signals["Meter"] == {"alarms": 1}
    assert model.position == f"{provider.registry.epoch}.{provider.registry.commits}"


async def test_a_commit_that_is_made_while_all_are_written_to_is_sent_with_the_next_flush(provider):
    dashboard = follow(provider, "global:Meter")
    page = SSEConnection()
    provider.sse_manager.add_connection(page, ["global:Board"])

    async def counting(message):
        if b'"Board"' in message["body"]:
            async with provider.modify(Meter) as meter:
                meter.sent += 1

    async def serve():
        writer = AsgiWriter(provider.sse_manager, page, counting, 10)
        provider.sse_manager.attach(page, writer)
        await writer.hold(asyncio.Queue().get)

    serving = asyncio.create_task(serve())
    await eventually(lambda: page.writer is not None)
    async with provider.modify(Board) as board, provider.modify(Meter) as meter:
        board.text, meter.alarms = "one", 1
    await eventually(lambda: dashboard.writer.model.signals.get("Meter") == {"alarms": 1, "sent": 1})
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_who_is_signed_out_while_a_rule_is_asked_ends_nobody_elses_stream():
    provider = StateProvider(secret_key="for tests")

    async def rule(user, state, action):
        await asyncio.sleep(0)
        if user.id == "mallory" and state.text == "new":
            provider.sse_manager.silence(streams["mallory"])
            return False
        return True

    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL, authorize=rule))
    async with provider.modify(Board) as board:
        board.text = "old"
    streams = {name: follow(provider, "global:Board", user=UserContext(name)) for name in ("ann", "bob", "mallory")}
    await write(provider, "new")
    await eventually(lambda: all(streams[name].writer.bodies for name in ("ann", "bob")))
    assert not streams["ann"].closed and not streams["bob"].closed and not streams["mallory"].writer.bodies
    for connection in streams.values():
        provider.sse_manager.remove_connection(connection.id)
    await provider.stop()


async def test_a_class_with_a_rule_that_a_thread_changes_on_a_loop_of_its_own_is_told(provider):
    class Guarded(Board):
        pass

    async def rule(user, state, action):
        await asyncio.sleep(0)
        return True

    provider.register_state(Guarded, StateConfig(scope=StateScope.GLOBAL, authorize=rule))
    async with provider.modify(Guarded):
        pass
    watching = follow(provider, "global:Guarded")

    await asyncio.to_thread(lambda: asyncio.run(write(provider, "told", Guarded)))
    await eventually(lambda: watching.writer.model.signals.get("Guarded") == {"text": "told"})


def test_a_rule_that_asks_another_provider_does_not_make_the_page_for_its_user():
    own = StateProvider(user_loader=lambda request: UserContext("guest"), secret_key="for tests")
    other = StateProvider(
        user_loader=lambda request: UserContext("machine", permissions=["pay"]), secret_key="other", prefix="/_other"
    )

    class Person(ReactiveState):
        pay: Annotated[str, Visible("pay")] = "4711"

    async def rule(user, state, action):
        return (await other.get_state(Board, current_request.get())).text == ""

    other.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, _ = app_showing(Person, StateConfig(scope=StateScope.GLOBAL, authorize=rule), provider=own)
    with TestClient(app) as client:
        page = client.get("/")
        assert page.status_code == 200 and "4711" not in page.text
