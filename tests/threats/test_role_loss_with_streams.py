"""Threat: somebody loses rights and goes on reading, since the page that shows what they had is still open."""

import asyncio
import json
import threading
from typing import Annotated

import pytest
from fasthtml import common as fh

from faststate import (
    ReactiveState,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
    view,
)
from tests.support.client import message, status
from tests.support.live import visiting
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Board(ReactiveState):
    line: str = ""

    @event
    def write(self, line: str):
        self.line = line


class Staff(ReactiveState):
    secret: str = "for staff"

    @event
    def write(self, secret: str):
        self.secret = secret

    @view
    def room(self):
        return fh.P(f"In the room: {self.secret}")


class Report(ReactiveState):
    title: str = "Report"
    profit: Annotated[int, Visible("money")] = 1000

    @event
    def earn(self, profit: int):
        self.profit = profit

    @view
    def table(self):
        return fh.P(f"Profit: {self.profit}")


class Doc(ReactiveState):
    owner_id: str = "ann"
    text: str = "first"
    members: ServerOnly[list[str]] = ["ann", "bob"]

    @event
    async def write(self, text: str):
        self.text = text

    @event
    async def remove(self, who: str):
        arrived.set()
        await go_on.wait()
        self.members = [name for name in self.members if name != who]
        self.text = f"without {who}"

    @event(owner_only=True)
    async def give(self, to: str):
        arrived.set()
        await go_on.wait()
        self.owner_id = to


class Slow(ReactiveState):
    """Its rule takes as long as a test wants."""

    line: str = ""


class Gate(threading.Event):
    """An event that is set in one thread and waited for on the loop of another."""

    async def wait(self):
        await eventually(self.is_set)


arrived, go_on, rule_asked, rule_may_answer, loader_asked, loader_may_answer = gates = [Gate() for _ in range(6)]


async def may_see_slow(user, state, action):
    rule_asked.set()
    await rule_may_answer.wait()
    return True


class People:
    """The app's own store of rights."""

    def __init__(self):
        self.roles = {"ann": ["staff"], "bob": ["staff"]}
        self.permissions = {"ann": ["money"], "bob": []}
        self.locked_out = set()

    def find(self, name):
        if name is None or name in self.locked_out:
            return None
        return UserContext(name, name, self.roles.get(name, []), self.permissions.get(name, []))


def make_app(way):
    people = People()

    async def load(name):
        if not loader_asked.is_set():  # the first request after a test has cleared it, and no other
            loader_asked.set()
            await loader_may_answer.wait()
        return people.find(name)

    options = {"load_user_by_id": load} if way == "load_user_by_id" else {}
    provider = StateProvider(**options)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(Staff, StateConfig(scope=StateScope.GLOBAL, roles=["staff"]))
    provider.register_state(Report, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(Slow, StateConfig(scope=StateScope.GLOBAL, authorize=may_see_slow))
    provider.register_state(
        Doc,
        StateConfig(
            scope=StateScope.RECORD, authorize=lambda user, doc, action: user is not None and user.id in doc.members
        ),
    )

    def who(request, session):
        user = request.scope["auth"] = people.find(session.get("user_id"))
        if user is None:
            session.pop("user_id", None)

    before = [fh.Beforeware(who)] if way == "beforeware" else None
    app, rt = fast_app(state_provider=provider, pico=False, secret_key="for tests", before=before)

    @rt("/")
    def index(board: Board, staff: Staff):
        return fh.Titled("All", board.signal.line, staff.signal.secret, staff.room())

    @rt("/staff")
    def staff_room(staff: Staff):
        return fh.Titled("Staff", staff.signal.secret, staff.room())

    @rt("/report")
    def report(report: Report):
        return fh.Titled("Report", report.signal.title, report.signal.profit, report.table())

    @rt("/doc/{doc_id}")
    def doc(doc: Doc, board: Board):
        return fh.Titled("Doc", doc.signal.text, board.signal.line)

    @rt("/slow")
    def slow(slow: Slow, staff: Staff):
        return fh.Titled("Slow", slow.signal.line, staff.signal.secret)

    @rt("/login/{user}")
    async def login(request, user: str):
        await provider.login(request, UserContext(user))
        return "in"

    @rt("/logout")
    async def logout(request):
        await provider.logout(request)
        return "out"

    @rt("/refresh/{user}")
    async def refresh(user: str):
        return str(await provider.refresh_user(user))

    @rt("/refresh_in_a_thread/{user}")
    def refresh_in_a_thread(user: str):
        return str(provider.refresh_user(user).value)

    @rt("/disconnect/{user}")
    async def disconnect(user: str):
        return str(await provider.disconnect_user(user))

    @rt("/set/{name}/{value}")
    async def put(name: str, value: str):
        """A change by the server itself."""
        cls, field = {"board": (Board, "line"), "staff": (Staff, "secret"), "profit": (Report, "profit")}[name]
        async with provider.modify(cls) as state:
            setattr(state, field, int(value) if name == "profit" else value)
        return "set"

    return app, provider, people


@pytest.fixture(params=["load_user_by_id", "beforeware"])
async def served(request):
    for gate in gates:
        gate.set()
    for gate in (arrived, rule_asked):
        gate.clear()
    app, provider, people = make_app(request.param)
    async with visiting(app, provider) as site:
        site.people = people
        site.server = await site.browser()  # nobody, who asks for what the server itself does
        yield site
    for gate in gates:
        gate.set()


async def tell(site, path):
    response = await site.server.get(path)
    assert response.status_code == 200, response.text
    return response.text


async def rest_of(tab):
    """Read a stream to its end into the model; return it as text."""
    async with asyncio.timeout(10):
        text = "\n".join([line async for line in tab.lines])
    for block in text.split("\n\n"):
        tab.feed(block)
    return text


async def opens_anew(tab):
    """Open the page again, as it does when it is told to."""
    tab.position = ""
    await tab.open()


async def end_and_open_anew(tab):
    await rest_of(tab)
    await opens_anew(tab)


async def answer_to_opening(tab, *, first=True):
    """The answer to a stream request that ends, with its status."""
    if not first:
        tab.position = ""
    async with tab.request() as response:
        body = (await response.aread()).decode()
        tab.feed_bytes(body.encode())
        return response.status_code, body


@pytest.mark.parametrize("path", ["/refresh/ann", "/refresh_in_a_thread/ann"])
async def test_a_role_that_is_taken_away_silences_the_stream_at_once_and_the_state_vanishes(served, path):
    tab = await served.tab(await served.browser("ann"))
    served.people.roles["ann"] = []
    assert await tell(served, path) == "1"
    await tell(served, "/set/staff/new")
    await tell(served, "/set/board/meanwhile")
    told = await rest_of(tab)
    assert tab.signals["_fs"]["go"] == "#reopen" and tab.signals["_fs"]["n"] == ""
    assert "new" not in told and "meanwhile" not in told, "nothing but the word to open it anew"
    await opens_anew(tab)
    assert tab.signals["Board"] == {"line": "meanwhile"}, "a page that opens anew is sent all that it may see"
    assert tab.signals["Staff"] == {"secret": ""}
    assert tab.elements[-1].endswith('elements <span data-fs-view="Staff.room" hidden></span>')
    await tell(served, "/set/staff/newer")
    await tell(served, "/set/board/later")
    await tab.until(lambda: tab.signals["Board"] == {"line": "later"})
    assert tab.signals["Staff"] == {"secret": ""}
    assert not any("new" in json.dumps(patch) for patch in tab.patched)


async def test_a_refresh_of_one_user_disturbs_no_other(served):
    bob, ann = await served.tab(await served.browser("bob")), await served.tab(await served.browser("ann"))
    served.people.roles["ann"] = []
    assert await tell(served, "/refresh/ann") == "1"
    await tell(served, "/set/staff/new")
    await bob.until(lambda: bob.signals["Staff"] == {"secret": "new"})
    assert "go" not in bob.signals["_fs"] and "new" not in await rest_of(ann)
    assert await tell(served, "/refresh/nobody") == "0"


async def test_all_streams_of_a_user_are_told_in_all_sessions(served):
    tabs = [await served.tab(await served.browser("ann")) for _ in range(2)]
    tabs.append(await served.tab(tabs[0].client))
    served.people.roles["ann"] = []
    assert await tell(served, "/refresh/ann") == "3"
    await tell(served, "/set/staff/new")
    for tab in tabs:
        assert "new" not in await rest_of(tab)


async def test_a_regained_role_brings_the_state_back(served):
    tab = await served.tab(await served.browser("ann"))
    served.people.roles["ann"] = []
    await tell(served, "/refresh/ann")
    await end_and_open_anew(tab)
    served.people.roles["ann"] = ["staff"]
    assert await tell(served, "/refresh/ann") == "1"
    await end_and_open_anew(tab)
    assert tab.signals["Staff"] == {"secret": "for staff"} and "In the room: for staff" in tab.elements[-1]


async def test_a_page_with_nothing_left_ends_for_good_when_it_is_new_and_reloads_when_it_had_a_stream(served):
    client = await served.browser("ann")
    new, old = await served.tab(client, "/staff", streaming=False), await served.tab(client, "/staff")
    served.people.roles["ann"] = []
    assert await answer_to_opening(new) == (204, "")
    await tell(served, "/refresh/ann")
    assert "for staff" not in await rest_of(old)
    code, body = await answer_to_opening(old, first=False)
    assert code == 200 and "for staff" not in body
    assert old.signals["Staff"] == {"secret": ""} and old.signals["_fs"]["go"] == "#reload"
    assert served.provider.stats().connections == 0


async def test_a_lost_role_is_noticed_without_a_refresh_when_a_stream_is_resumed(served):
    tab = await served.tab(await served.browser("ann"))
    left = tab.position
    await tab.close()
    served.people.roles["ann"] = []
    await tell(served, "/set/staff/new")
    await tab.open(last_event_id=left)
    assert tab.signals["Staff"] == {"secret": ""}
    assert not any("new" in json.dumps(patch) for patch in tab.patched)


async def test_events_of_a_lost_state_are_refused_at_once(served):
    tab = await served.tab(await served.browser("ann"))
    served.people.roles["ann"] = []
    answer = await tab.post("Staff/write", a={"secret": "mine"})
    assert status(answer) == 403 and "role" in message(answer)
    assert served.provider.registry.peek("global:Staff").secret == "for staff"


async def test_a_gained_permission_sends_the_field_and_a_lost_one_blanks_it(served):
    tab = await served.tab(await served.browser("bob"), "/report")
    assert "1000" not in tab.response.request.url.query.decode() and tab.signals["Report"]["profit"] == ""
    await tell(served, "/set/profit/2000")
    served.people.permissions["bob"] = ["money"]
    await tell(served, "/refresh/bob")
    assert "2000" not in await rest_of(tab)
    await opens_anew(tab)
    assert tab.signals["Report"] == {"title": "Report", "profit": 2000} and "Profit: 2000" in tab.elements[-1]
    await tell(served, "/set/profit/3000")
    await tab.until(lambda: tab.signals["Report"]["profit"] == 3000)
    served.people.permissions["bob"] = []
    await tell(served, "/refresh/bob")
    await end_and_open_anew(tab)
    assert tab.signals["Report"] == {"title": "Report", "profit": ""} and "Profit: None" in tab.elements[-1]
    await tell(served, "/set/profit/4000")
    served.people.permissions["bob"] = ["money"]
    await tell(served, "/refresh/bob")
    assert "4000" not in await rest_of(tab)


async def test_a_lost_permission_blanks_the_field_also_when_nothing_has_changed_since(served):
    tab = await served.tab(await served.browser("ann"), "/report")
    assert tab.signals["Report"]["profit"] == 1000
    left = tab.position
    await tab.close()
    served.people.permissions["ann"] = []
    await tab.open(last_event_id=left)
    assert tab.position == left and tab.signals["Report"]["profit"] == "" and "Profit: None" in tab.elements[-1]


async def test_disconnecting_ends_the_streams_and_the_pages_load_themselves_again(served):
    tab, other = await served.tab(await served.browser("ann")), await served.tab(await served.browser("bob"))
    served.people.locked_out.add("ann")
    assert await tell(served, "/disconnect/ann") == "1"
    await tell(served, "/set/staff/new")
    assert "new" not in await rest_of(tab) and tab.signals["_fs"]["go"] == "#reload"
    assert (await tab.client.get("/")).status_code == 401
    await other.until(lambda: other.signals["Staff"] == {"secret": "new"})
    async with tab.request() as response:  # what a page does that does not listen
        tab.feed_bytes(await response.aread())
    assert tab.signals["_fs"]["go"] == "#reload" and served.provider.stats().connections == 1


async def test_a_removed_member_sees_nothing_of_the_version_without_them(served):
    ann, bob = [await served.tab(await served.browser(name), "/doc/1") for name in ("ann", "bob")]
    assert status(await ann.post("Doc/remove", i="1", a={"who": "bob"})) == 204
    await ann.until(lambda: ann.signals["Doc"]["1"]["text"] == "without bob")
    await bob.until(lambda: bob.signals["Doc"]["1"]["text"] == "")
    await tell(served, "/set/board/later")
    await bob.until(lambda: bob.signals["Board"] == {"line": "later"})
    assert not any("without bob" in json.dumps(patch) for patch in bob.patched)
    assert status(await bob.post("Doc/write", i="1", a={"text": "still here"})) == 403
    assert (await bob.client.get("/doc/1")).status_code == 403


async def test_an_event_that_waits_for_the_lock_is_refused_when_its_member_is_removed_meanwhile(served):
    ann, bob = [await served.tab(await served.browser(name), "/doc/1") for name in ("ann", "bob")]
    go_on.clear()
    removing = asyncio.ensure_future(ann.post("Doc/remove", i="1", a={"who": "bob"}))
    await arrived.wait()
    waiting = asyncio.ensure_future(bob.post("Doc/write", i="1", a={"text": "still here"}))
    await eventually(lambda: served.provider.registry.locks.waiting)
    go_on.set()
    assert status(await removing) == 204 and status(await waiting) == 403
    assert served.provider.registry.peek("record:Doc:1").text == "without bob"


async def test_an_event_that_waits_for_the_lock_is_refused_when_another_owns_the_state_by_then(served):
    first, second = await served.tabs(2, "ann", path="/doc/1")
    go_on.clear()
    giving = asyncio.ensure_future(first.post("Doc/give", i="1", a={"to": "bob"}))
    await arrived.wait()
    again = asyncio.ensure_future(second.post("Doc/give", i="1", a={"to": "cy"}))
    await eventually(lambda: served.provider.registry.locks.waiting)
    go_on.set()
    assert status(await giving) == 204 and status(await again) == 403
    assert served.provider.registry.peek("record:Doc:1").owner_id == "bob"


async def opening_slowly(site, name):
    """A stream of `name`'s that is just being opened: a rule is being asked."""
    tab = await site.tab(await site.browser(name), "/slow", streaming=False)
    rule_asked.clear()
    rule_may_answer.clear()
    opening = asyncio.ensure_future(tab.open())
    await rule_asked.wait()
    return tab, opening


async def test_a_role_that_is_lost_while_a_stream_is_being_opened_counts_for_that_stream(served):
    tab, opening = await opening_slowly(served, "ann")
    served.people.roles["ann"] = []
    assert await tell(served, "/refresh/ann") == "1"
    rule_may_answer.set()
    await asyncio.gather(opening, return_exceptions=True)
    await tell(served, "/set/staff/new")
    assert "new" not in await rest_of(tab)
    assert tab.signals["_fs"]["go"] == "#reopen" and served.provider.stats().connections == 0


@pytest.mark.parametrize("how", ["logout", "disconnect"])
async def test_a_stream_that_is_being_opened_does_not_outlive_the_end_of_its_session(served, how):
    tab, opening = await opening_slowly(served, "ann")
    other = await served.browser()
    other.cookies.update(tab.client.cookies)  # another tab of that browser
    assert (await other.get("/logout" if how == "logout" else "/disconnect/ann")).status_code == 200
    rule_may_answer.set()
    await asyncio.gather(opening, return_exceptions=True)
    await tell(served, "/set/staff/new")
    assert "new" not in await rest_of(tab)
    assert tab.signals["_fs"]["go"] == "#reload" and served.provider.stats().connections == 0


@pytest.mark.parametrize("served", ["load_user_by_id"], indirect=True)
async def test_a_session_that_ends_while_its_user_is_being_loaded_gets_no_stream(served):
    tab = await served.tab(await served.browser("ann"), streaming=False)
    other = await served.browser()
    other.cookies.update(tab.client.cookies)
    loader_asked.clear()
    loader_may_answer.clear()
    opening = asyncio.ensure_future(answer_to_opening(tab))
    await loader_asked.wait()
    assert (await other.get("/logout")).text == "out"
    loader_may_answer.set()
    code, body = await opening
    assert code == 200 and "for staff" not in body and tab.signals["_fs"]["go"] == "#reload"
    assert served.provider.stats().connections == 0
