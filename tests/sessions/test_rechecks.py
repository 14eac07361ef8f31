"""After each commit of a state with a rule of its own: who watches it is asked again, before anything is sent."""

import asyncio
import contextlib
import itertools
import re
from collections import Counter as Tally

import pytest
from fasthtml import common as fh
from hypothesis import given, settings
from hypothesis import strategies as st

from faststate import (
    Bound,
    ReactiveState,
    ServerOnly,
    SSEConnection,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    event,
    view,
)
from faststate.auth.tokens import ShownState, binding
from faststate.exceptions import AccessError, LockTimeoutError
from faststate.provider.context import RequestContext
from faststate.provider.payload import Call
from faststate.sessions import rechecks as module
from tests.support.live import Model
from tests.support.requests import request_of
from tests.support.states import set_fields
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")

PATIENCE = 10  # seconds for what should take milliseconds


readers_of: dict[str, frozenset[str]] = {}  # by a version's text: who may read that version


class Doc(ReactiveState):
    text: str = ""
    note: Bound[str] = ""
    members: ServerOnly[list[str]] = []

    @event
    async def write(self, text: str):
        self.text = text

    @event
    async def change(self, text: str, add: str = "", remove: str = ""):
        self.members = sorted({*self.members, *([add] if add else [])} - {remove})
        self.text = text
        readers_of[text] = frozenset(self.members)

    @view
    def body(self):
        return fh.Article(f"body of {self.text}")


class Board(ReactiveState):
    line: str = ""

    @event
    async def write(self, line: str):
        self.line = line


class Rule:
    """Members alone; an anonymous visitor is the member "guest". Knows whom it was asked about, and can be held up."""

    def __init__(self, kind):
        self.kind = kind
        self.asked = []
        self.broken = None
        self.hold = asyncio.Event()
        self.hold.set()
        self.stuck = {}  # by user and text: what a question waits for besides
        self.waiting = 0

    def of(self, user, doc, action):
        if self.broken is not None and action == "read":
            raise self.broken
        return (str(user.id) if user else "guest") in doc.members

    def sync(self, user, doc, action):
        self.asked.append((user and user.id, doc.text, action))
        return self.of(user, doc, action)

    async def later(self, user, doc, action):
        self.asked.append((user and user.id, doc.text, action))
        self.waiting += 1
        try:
            await self.hold.wait()
            if stuck := self.stuck.get((user and user.id, doc.text)):
                await stuck.wait()
        finally:
            self.waiting -= 1
        await asyncio.sleep(0)
        return self.of(user, doc, action)

    @property
    def callable(self):
        return self.sync if self.kind == "sync" else self.later


def created(identifier):
    return {"text": "v1", "members": ["ann", "bob"]}


class Site:
    """A provider with a Doc that a rule guards, whose members are ann and bob, and a Board that none guards."""

    def __init__(self, kind="sync", rule=None, **options):
        self.rule = rule or Rule(kind)
        self.provider = StateProvider(secret_key="for tests", **options)
        self.provider.register_state(
            Doc, StateConfig(scope=StateScope.RECORD, authorize=self.rule.callable, create=created)
        )
        self.provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))

    def key(self, record="1"):
        return f"record:Doc:{record}"

    async def make(self, *members, record="1"):
        async with self.provider.modify(Doc, record_id=record) as doc:
            doc.members = list(members)

    def context(self, name, roles=()):
        user = {} if name is None else {"auth": UserContext(name, roles=roles)}
        return RequestContext(self.provider, request_of({"session_id": f"session of {name}"}, **user))

    def token(self, name, shown):
        return self.provider.tokens.signer.sign(binding(f"session of {name}", name), shown)

    async def page(self, name, *shown):
        page = Tab(self, name, shown or DOC_AND_BOARD)
        page.position = "unknown.0"
        await page.open()
        return page

    async def pages(self, *names):
        """Open a page for each of these users, and read what it is told at first."""
        opened = [await self.page(name) for name in names]
        for page in opened:
            page.take()
        return opened

    async def members(self, *names):
        """Make a Doc of these members, open a page for each of them, and read what it is told at first."""
        await self.make(*names)
        return await self.pages(*names)

    async def change(self, text, add="", remove="", record="1"):
        async with self.provider.modify(Doc, record_id=record) as doc:
            await doc.change(text, add, remove)

    async def change_settled(self, text, **how):
        """Commit, and return when nothing is being asked about."""
        await self.change(text, **how)
        await self.settle()

    async def change_held(self, text, *, asked=1, **how):
        """Commit while the rule is held up; return when so many are being asked about."""
        self.rule.hold.clear()
        await self.change(text, **how)
        await eventually(lambda: self.rule.waiting >= asked, every=0)

    async def release(self):
        """Let the rule answer, and wait until nothing is being asked about."""
        self.rule.hold.set()
        await self.settle()

    async def settle(self):
        """Returns when nothing is being asked about."""
        async with asyncio.timeout(PATIENCE):
            while tasks := rechecking():
                await asyncio.wait(tasks)


DOC = ShownState("Doc", "1", ("body",))
DOC_AND_BOARD = (DOC, ShownState("Board", None, ()))


class Tab(Model):
    """A page and its connection, without a server between: `take` reads what a stream would write."""

    def __init__(self, site, name, shown):
        super().__init__()
        self.site, self.name, self.shown = site, name, shown
        self.received = b""
        self.connection = None

    async def open(self, *, is_first=True):
        site = self.site
        tokens = [site.token(self.name, self.shown)]
        self.connection = await site.provider.page_streams.open(
            site.context(self.name), tokens, self.position, is_first=is_first
        )

    @property
    def ended(self):
        return self.connection is None or isinstance(self.connection, bytes) or self.connection.closed

    def take(self):
        """Reads what waits, as the stream's response does; gives the bytes."""
        connection = self.connection
        frames = connection if isinstance(connection, bytes) else b""
        if isinstance(connection, SSEConnection):
            # A stream that has ended writes its last frame and nothing else.
            frames = connection.last_frame if connection.closed else connection.drain()
            if frames and not connection.closed:
                frames += f"id: {self.site.provider.sse_manager.hooks.position()}\n\n".encode()
        self.received += frames
        self.feed_bytes(frames)
        return frames

    def now(self):
        """Read what waits, and return the version that the page shows."""
        self.take()
        return self.text

    async def cut(self):
        """Loses the connection, and comes back with the position that it had."""
        if isinstance(self.connection, SSEConnection):
            self.site.provider.sse_manager.remove_connection(self.connection.id)
        await self.open(is_first=False)

    @property
    def text(self):
        return self.signals.get("Doc", {}).get("1", {}).get("text")

    @property
    def went(self):
        return self.signals.get("_fs", {}).get("go")


def rechecking():
    return [task for task in asyncio.all_tasks() if task.get_name() == "faststate-recheck"]


@contextlib.asynccontextmanager
async def opened(kind, **options):
    """A site, which at its end lets its rule answer and stops."""
    site = Site(kind, **options)
    yield site
    for stuck in site.rule.stuck.values():
        stuck.set()
    await site.release()
    await site.provider.stop()


@pytest.fixture(params=["sync", "async"])
async def site(request):
    async with opened(request.param) as site:
        yield site


@pytest.fixture
async def slow_site():
    """With an async rule, which can be held up."""
    async with opened("async") as site:
        yield site


# -- how often is asked ------------------------------------------------------------------------------------------------


async def test_each_watching_user_is_asked_exactly_once_per_commit(site):
    await site.make("ann", "bob", "cy", "guest")
    names = ["ann"] * 4 + ["bob"] * 3 + ["cy"] * 3 + [None] * 2
    tabs = await site.pages(*names)
    for text in ("v2", "v3"):
        site.rule.asked.clear()
        await site.change_settled(text)
        assert Tally(site.rule.asked) == Tally((name, text, "read") for name in ("ann", "bob", "cy", None))
        for tab in tabs:
            assert tab.now() == text


async def test_connections_of_one_user_with_other_rights_are_asked_about_apart(site):
    """Roles may differ between two requests of one user; the answer for one is none for the other."""
    await site.make("ann")
    tab = await site.page("ann")
    other = await site.provider.page_streams.open(
        site.context("ann", roles=["editor"]), [site.token("ann", DOC_AND_BOARD)], "unknown.0"
    )
    site.rule.asked.clear()
    await site.change_settled("v2")
    assert site.rule.asked == [("ann", "v2", "read")] * 2
    assert b"v2" in tab.take() and b"v2" in other.drain()


async def test_states_without_a_rule_pay_nothing(site):
    (tab,) = await site.members("ann")
    site.rule.asked.clear()
    await set_fields(site.provider.modify(Board), line="all")
    assert b"all" in tab.take(), "queued when the commit returns"
    assert rechecking() == [] and site.rule.asked == []


async def test_nobody_is_asked_about_a_state_that_nobody_watches(site):
    await site.make("ann")
    site.rule.asked.clear()
    await site.change("v2")
    assert rechecking() == [] and site.rule.asked == []


# -- the removed one ---------------------------------------------------------------------------------------------------


def has_vanished(tab):
    """True if the page shows nothing of the Doc any more, and has kept the place of its view."""
    places = [element for element in tab.elements if '"Doc.1.body"' in element]
    return (
        tab.signals["Doc"]["1"] == {"text": "", "note": "", "_version": ""}
        and 'data-fs-view="Doc.1.body" hidden></span>' in places[-1]
        and "body of" not in places[-1]
    )


async def test_the_removed_member_gets_not_one_byte_of_the_new_version_and_what_was_shown_vanishes(site):
    ann, bob, again = [await site.page(name) for name in ("ann", "bob", "bob")]
    for tab in (ann, bob, again):
        assert tab.now() == "v1"
    await site.change("v2", remove="bob")
    assert (ann.take(), bob.take(), again.take()) == (b"", b"", b""), "nobody is sent it before all were asked"
    await site.settle()
    assert b"v2" in ann.take() and ann.text == "v2" and "body of v2" in ann.elements[-1]
    for tab in (bob, again):
        assert b"v2" not in tab.take() and has_vanished(tab)
        assert not tab.ended
    await site.change("v3")
    await set_fields(site.provider.modify(Board), line="to all")
    await site.settle()
    bob.take()
    assert bob.signals["Board"] == {"line": "to all"}, "the other state lives on"
    assert b"v2" not in bob.received and b"v3" not in bob.received
    assert site.provider.sse_manager.state_subscriptions[site.key()] == {ann.connection.id}


async def test_the_only_state_of_a_page_is_lost_and_the_page_reloads(site):
    ann, bob = await site.page("ann"), await site.page("bob", DOC)
    bob.take()
    await site.change_settled("v2", remove="bob")
    assert bob.ended
    bob.take()
    assert has_vanished(bob) and bob.went == "#reload" and b"v2" not in bob.received
    assert set(site.provider.sse_manager.connections) == {ann.connection.id}


async def test_what_waits_for_a_slow_reader_does_not_reach_one_who_was_removed(slow_site):
    ann, bob = await slow_site.page("ann"), await slow_site.page("bob")
    for text in ("v2", "v3"):  # coalesced: a snapshot is pending
        await slow_site.change_settled(text)
    assert slow_site.provider.stats().coalesced
    await slow_site.change_held("v4", remove="bob", asked=2)
    for tab in (ann, bob):
        assert b"v4" not in tab.take()
        assert tab.text == "v3", "undecided: what they were found to be allowed to see, and no more"
    await slow_site.release()
    assert b"v4" in ann.take() and b"v4" not in bob.take()
    assert has_vanished(bob)


async def test_a_fragment_of_an_event_s_own_carries_no_undecided_version(slow_site):
    bob = await slow_site.page("bob")
    await slow_site.change_held("v2", remove="bob")
    bob.connection.send_frame(b"event: datastar-patch-elements\ndata: elements <i>own</i>\n\n")
    assert b"own" in bob.take() and b"v2" not in bob.received
    await slow_site.release()
    assert b"v2" not in bob.take() and has_vanished(bob)


@pytest.mark.parametrize("by", ["registry", "manager", "handler"])
async def test_a_broadcast_behind_the_removal_does_not_reach_the_removed_one(site, by):
    ann, bob = await site.pages("ann", "bob")
    await site.change("v2", remove="bob")
    send = {
        "registry": site.provider.registry.broadcast_to_state,
        "manager": site.provider.sse_manager.broadcast_to_state,
        "handler": site.provider.state_event_handler.handle_state_change,
    }[by]
    send(site.key(), {"text": "broadcast"})
    assert b"broadcast" not in bob.take()
    await site.settle()
    assert b"broadcast" not in bob.take() and has_vanished(bob)
    assert ann.take() and ann.text == "broadcast", "behind the commit that it followed"
    assert send(site.key(), {"text": "again"}) == 1
    assert ann.take() and ann.text == "again"


async def test_a_broadcast_that_waits_goes_when_the_state_is_lost(site):
    bob = await site.page("bob")
    site.provider.sse_manager.broadcast_to_state("global:Board", {"line": "kept"})
    site.provider.sse_manager.broadcast_to_state(site.key(), {"note": "broadcast"})
    await site.change_settled("v2", remove="bob")
    bob.take()
    assert has_vanished(bob) and bob.signals["Board"] == {"line": "kept"}


async def test_a_resume_after_the_removal_shows_nothing(site):
    (bob,) = await site.pages("bob")
    site.provider.sse_manager.remove_connection(bob.connection.id)
    await site.change("v2", remove="bob")
    await bob.open(is_first=False)
    bob.take()
    assert b"v2" not in bob.received and has_vanished(bob)
    assert site.provider.sse_manager.watchers(site.key()) == []


async def test_one_who_is_added_again_sees_the_state_again_when_the_stream_comes_back(site):
    bob = await site.page("bob")
    await site.change_settled("v2", remove="bob")
    await site.change_settled("v3", add="bob")
    bob.take()
    assert has_vanished(bob)
    await bob.cut()
    assert bob.now() == "v3" and "body of v3" in bob.elements[-1] and b"v2" not in bob.received


async def run(site, name, event, live=None, **arguments):
    """An event of `name`'s page; gives what its answer carries (bytes)."""
    body = {"a": arguments, "i": "1", "w": [site.token(name, DOC_AND_BOARD)]}
    call = Call.parse("Doc", event, body, (), None, None)
    effects = []
    await site.provider.dispatcher.dispatch(site.context(name), call, live, effects.append)
    return b"".join(effect.frames for effect in effects)


async def test_the_answer_to_the_event_by_which_one_leaves_holds_nothing_of_the_new_version(site):
    ann = await site.page("ann")
    leaving = Tab(site, "bob", DOC_AND_BOARD)
    leaving.feed_bytes(await run(site, "bob", "change", text="v2", remove="bob"))
    assert has_vanished(leaving)
    await site.settle()
    assert ann.now() == "v2"
    staying = Tab(site, "ann", DOC_AND_BOARD)
    staying.feed_bytes(await run(site, "ann", "change", text="v3"))
    assert staying.text == "v3"
    with pytest.raises(AccessError):
        await run(site, "bob", "write", text="v4")


async def test_one_who_is_removed_and_added_again_while_a_rule_is_slow_sees_no_version_in_between(slow_site):
    (bob,) = await slow_site.pages("bob")
    await slow_site.change_held("v2")
    await slow_site.change("v3", remove="bob")
    await slow_site.change("v4", add="bob")
    await slow_site.release()
    assert b"v4" in bob.take() and b"v3" not in bob.received and bob.text == "v4"


async def test_a_broadcast_between_two_versions_is_not_sent_to_one_who_could_read_only_these(slow_site):
    bob = await slow_site.page("bob")
    await slow_site.change_held("v2")
    await slow_site.change("v3", remove="bob")
    slow_site.provider.sse_manager.broadcast_to_state(slow_site.key(), {"note": "without bob"})
    await slow_site.change("v4", add="bob")
    slow_site.provider.sse_manager.broadcast_to_state(slow_site.key(), {"note": "with bob"})
    await slow_site.release()
    assert b"without bob" not in bob.take() and b"v3" not in bob.received
    assert bob.signals["Doc"]["1"].items() >= {"text": "v4", "note": "with bob"}.items()


# -- order, many commits, slow rules -----------------------------------------------------------------------------------


async def test_versions_are_sent_in_their_order(site):
    await site.make("ann")
    ann = await site.page("ann")
    for number in range(2, 40):
        await site.change(f"v{number}")
        if number % 3:
            await site.settle()
        if number % 4:
            ann.take()
    await site.settle()
    ann.take()
    seen = [int(patch["Doc"]["1"]["text"][1:]) for patch in ann.patched if "Doc" in patch]
    assert seen == sorted(seen) and seen[-1] == 39


async def test_commits_all_the_time_starve_nobody_and_the_last_value_arrives(slow_site):
    (ann,) = await slow_site.members("ann")
    numbers = iter(range(2, 1000))

    async def one_answer():
        """Commits while the rule is asked, then lets it answer."""
        slow_site.rule.hold.clear()
        await slow_site.change(f"v{next(numbers)}")
        await eventually(lambda: slow_site.rule.waiting, every=0)
        await slow_site.change(f"v{next(numbers)}")
        slow_site.rule.hold.set()
        await eventually(lambda: slow_site.rule.waiting == 0, every=0)
        slow_site.rule.hold.clear()
        await eventually(lambda: slow_site.rule.waiting or not rechecking(), every=0)

    seen = set()
    for _ in range(5):
        await one_answer()
        seen.add(ann.now())
    assert len(seen) >= 4, "what was found to be allowed goes out although the next question is under way"
    slow_site.rule.asked.clear()
    for _ in range(100):
        last = f"v{next(numbers)}"
        await slow_site.change(last)
    await slow_site.release()
    assert ann.now() == last
    assert slow_site.rule.asked[-1] == ("ann", last, "read") and len(slow_site.rule.asked) <= 2, (
        "the newest is asked about"
    )


async def test_a_state_with_a_slow_rule_holds_up_no_other(slow_site):
    await slow_site.make("ann")
    await slow_site.make("ann", record="2")
    ann = await slow_site.page("ann", DOC, ShownState("Doc", "2", ()), ShownState("Board", None, ()))
    ann.take()
    await slow_site.change_held("v2")
    await set_fields(slow_site.provider.modify(Board), line="at once")
    assert b"at once" in ann.take() and ann.text == "v1"
    await slow_site.release()
    assert ann.now() == "v2"


async def test_a_cut_while_a_version_is_undecided_does_not_lose_it(slow_site):
    """What was sent meanwhile carries a position, and the page comes back with it."""
    (ann,) = await slow_site.pages("ann")
    await slow_site.change_held("v2")
    await set_fields(slow_site.provider.modify(Board), line="meanwhile")
    ann.take()
    assert ann.signals["Board"] == {"line": "meanwhile"} and ann.text == "v1"
    slow_site.rule.hold.set()
    await ann.cut()
    ann.take()
    await slow_site.settle()
    assert ann.now() == "v2"


# -- streams that open meanwhile ---------------------------------------------------------------------------------------


async def test_a_stream_that_opens_while_others_are_asked_about_gets_the_newest(slow_site):
    (ann,) = await slow_site.pages("ann")
    await slow_site.change_held("v2")
    opening = asyncio.ensure_future(slow_site.page("bob"))
    await eventually(lambda: slow_site.rule.waiting == 2, every=0)
    slow_site.rule.hold.set()
    bob = await opening
    await slow_site.settle()
    for tab in (ann, bob):
        assert tab.now() == "v2"
    await slow_site.change_settled("v3")
    assert bob.take() and bob.text == "v3"


async def test_a_stream_of_one_who_is_just_being_removed_opens_without_the_state(slow_site):
    ann = await slow_site.page("ann")
    slow_site.rule.hold.clear()
    opening = asyncio.ensure_future(slow_site.page("bob"))
    await eventually(lambda: slow_site.rule.waiting, every=0)
    await slow_site.change("v2", remove="bob")
    slow_site.rule.hold.set()
    bob = await opening
    await slow_site.settle()
    assert b"v2" not in bob.take() and has_vanished(bob)
    assert b"v2" in ann.take()


async def test_a_stream_that_opens_behind_a_version_that_was_not_its_user_s_is_not_sent_it(slow_site):
    """Others are still asked about that version; the one who opens was asked about the next one."""
    both = DOC, ShownState("Doc", "2", ())
    await slow_site.page("ann", *both)
    slow_site.rule.stuck = {("ann", text): asyncio.Event() for text in ("w2", "v2", "v3")} | {
        ("bob", "w2"): asyncio.Event()
    }
    await slow_site.change("w2", record="2")
    opening = asyncio.ensure_future(slow_site.page("bob", *both))
    await eventually(lambda: ("bob", "w2", "read") in slow_site.rule.asked, every=0)
    await slow_site.change("v2", remove="bob")
    await eventually(lambda: ("ann", "v2", "read") in slow_site.rule.asked, every=0)
    await slow_site.change("v3", add="bob")
    slow_site.rule.stuck["ann", "w2"].set(), slow_site.rule.stuck["bob", "w2"].set()
    bob = await opening
    bob.take()
    slow_site.rule.stuck["ann", "v2"].set()
    await eventually(lambda: ("ann", "v3", "read") in slow_site.rule.asked, every=0)
    assert b"v2" not in bob.take()
    slow_site.rule.stuck["ann", "v3"].set()
    await slow_site.settle()
    assert b"v2" not in bob.take() and bob.text == "v3"


@contextlib.asynccontextmanager
async def changed_all_the_time(site):
    """Commit one version after the other, until the end of the block."""

    async def busy():
        for number in itertools.count(2):
            await site.change(f"v{number}")
            await asyncio.sleep(0)

    working = asyncio.ensure_future(busy())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    await site.settle()


async def test_a_stream_opens_although_commits_come_faster_than_the_rule_answers(slow_site):

    async with changed_all_the_time(slow_site):
        bob = await asyncio.wait_for(slow_site.page("bob"), 1)
    assert bob.now().startswith("v")


async def test_a_tab_that_closes_while_its_user_is_asked_about_disturbs_nobody(slow_site, caplog):
    (ann,), bob = await slow_site.pages("ann"), await slow_site.page("bob")
    await slow_site.change_held("v2", remove="bob", asked=2)
    slow_site.provider.sse_manager.remove_connection(bob.connection.id)
    await slow_site.release()
    assert not ann.ended and ann.take() and ann.text == "v2"
    assert "failed" not in caplog.text


# -- who is late -------------------------------------------------------------------------------------------------------


def stick(site, user, *texts):
    """Let the rule hang when it is asked about this user and these versions."""
    site.rule.stuck |= {(user, text): asyncio.Event() for text in texts}


async def shows(tab, text):
    """Waits until a page shows a version."""
    await eventually(lambda: tab.now() == text, every=0.001)


async def bob_is_late(site, **how):
    """Commit v2: the page of ann shows it, and the rule hangs when it is asked about bob. Return both pages."""
    ann, bob = await site.pages("ann", "bob")
    stick(site, "bob", "v2")
    await site.change("v2", **how)
    await shows(ann, "v2")
    return ann, bob


@pytest.fixture
async def late_site(monkeypatch):
    """With a rule that has longer than the test, and in which who does not answer at once is late."""
    monkeypatch.setattr(module, "LATE", 0.01)
    async with opened("async", lock_timeout=60) as site:
        await site.make("ann", "bob", "cy")
        yield site


async def test_a_rule_that_hangs_for_one_watcher_delays_that_one_alone(late_site):
    ann, bob = await late_site.pages("ann", "bob")
    stick(late_site, "bob", "v2")
    for text in ("v2", "v3", "v4"):
        await late_site.change(text)
        await shows(ann, text)
    assert bob.take() == b"" and bob.text == "v1" and not bob.ended
    assert not late_site.provider.rechecks.is_asking(late_site.key())
    late_site.rule.stuck["bob", "v2"].set()
    await shows(bob, "v4")
    await late_site.settle()
    await late_site.change("v5")
    await shows(bob, "v5")
    await shows(ann, "v5")


async def test_one_who_is_late_and_turned_away_loses_the_state(late_site):
    _, bob = await bob_is_late(late_site, remove="bob")
    assert bob.take() == b""
    late_site.rule.stuck["bob", "v2"].set()
    await late_site.settle()
    assert b"v2" not in bob.take() and has_vanished(bob)


async def test_one_who_was_allowed_late_and_is_not_any_more_sees_only_what_was_allowed(late_site):
    ann, bob = await late_site.pages("ann", "bob")
    stick(late_site, "bob", "v2")
    await late_site.change("v2")
    await late_site.change("v3", remove="bob")
    await shows(ann, "v3")
    late_site.rule.stuck["bob", "v2"].set()
    await late_site.settle()
    assert b"v3" not in bob.take() and has_vanished(bob)


async def test_one_who_never_answers_has_the_stream_ended_and_the_others_keep_theirs(monkeypatch):
    monkeypatch.setattr(module, "LATE", 0.01)
    site = Site("async", lock_timeout=0.5)
    ann, bob = await bob_is_late(site)
    await site.settle()
    assert bob.ended and bob.take() == b"" and not ann.ended
    await site.provider.stop()


async def test_one_who_is_late_is_told_no_broadcast_and_other_states_go_on(late_site):
    ann, bob = await bob_is_late(late_site)
    late_site.provider.sse_manager.broadcast_to_state(late_site.key(), {"note": "for members"})
    await set_fields(late_site.provider.modify(Board), line="for all")
    assert b"for members" in ann.take()
    told = bob.take()
    assert b"for members" not in told and b"for all" in told


async def test_more_watchers_that_hang_than_are_asked_at_once_hold_up_nobody(late_site, monkeypatch):
    monkeypatch.setattr(module, "ASKED_AT_ONCE", 3)
    names = [f"user{n}" for n in range(10)]
    await late_site.make("ann", *names)
    tabs = [await late_site.page(name) for name in names]
    ann = await late_site.page("ann")
    for name in names:
        stick(late_site, name, "v2")
    await late_site.change("v2")
    await shows(ann, "v2")
    for name in names:
        late_site.rule.stuck[name, "v2"].set()
    for tab in tabs:
        await shows(tab, "v2")


async def test_what_waits_for_a_late_reader_and_overflows_holds_nothing_undecided(late_site):
    _, bob = await bob_is_late(late_site)
    for _ in range(300):
        bob.connection.send_frame(b"event: datastar-patch-signals\ndata: signals {}\n\n")
    assert bob.connection.dropped and b"v2" not in bob.take()


async def test_who_is_late_and_closes_the_tab_leaves_nothing(late_site):
    _, bob = await bob_is_late(late_site)
    late_site.provider.sse_manager.remove_connection(bob.connection.id)
    late_site.rule.stuck["bob", "v2"].set()
    await late_site.settle()
    assert not late_site.provider.rechecks._late
    assert all(topic.held is None for topic in late_site.provider.sse_manager.fanout.topics.values())


async def test_a_stream_whose_rule_hangs_opens_late_or_never_and_locks_nothing():
    site = Site("async", lock_timeout=0.2)
    (ann,) = await site.pages("ann")
    stick(site, "bob", *(f"v{n}" for n in range(1, 9)))
    opening = asyncio.ensure_future(site.page("bob"))
    await eventually(lambda: site.rule.waiting, every=0)
    for number in range(2, 9):
        await site.change(f"v{number}")
        await shows(ann, f"v{number}")
    with pytest.raises(LockTimeoutError, match="the rule of Doc took more than") as caught:
        await opening
    assert caught.value.status == 503 and len(site.provider.sse_manager.connections) == 1
    await site.settle()
    await site.provider.stop()


async def test_a_stream_that_opens_behind_commits_that_are_faster_than_its_rule_takes_no_lock(late_site):
    real, locked = late_site.provider.registry.locked, []

    def noting(entries, owner=None):
        locked.append(entries)
        return real(entries, owner)

    late_site.provider.registry.locked = noting
    ann = await late_site.page("ann")

    async with changed_all_the_time(late_site):
        bob = await asyncio.wait_for(late_site.page("bob"), PATIENCE)
        first = bob.now()
        assert first.startswith("v") and not locked
        await eventually(lambda: bob.now() != first, every=0.001)
    assert ann.now() == bob.now()


# -- rules that fail ---------------------------------------------------------------------------------------------------


async def test_a_rule_that_raises_sends_nobody_anything_and_ends_the_streams(site, caplog):
    tabs = await site.pages("ann", "bob", "bob")
    site.rule.broken = RuntimeError("the database is gone")
    await site.change_settled("v2")
    for tab in tabs:
        assert tab.ended and tab.take() == b"", "no reload: the stream comes back of its own"
    assert site.provider.sse_manager.connections == {} and "the database is gone" in caplog.text
    with pytest.raises(RuntimeError):
        await tabs[0].open(is_first=False)
    assert site.provider.sse_manager.connections == {}
    site.rule.broken = None
    await tabs[0].open(is_first=False)
    assert tabs[0].take() and tabs[0].text == "v2"


async def test_a_rule_that_fails_for_one_user_ends_that_user_s_streams_alone(caplog):
    class Picky(Rule):
        def of(self, user, doc, action):
            if user.id == "bob" and doc.text == "v2":
                raise KeyError("bob")
            return True

    site = Site(rule=Picky("sync"))
    await site.make()
    ann, bob = await site.page("ann"), await site.page("bob")
    await site.change_settled("v2")
    assert ann.take() and ann.text == "v2" and not ann.ended
    assert bob.ended and b"v2" not in bob.take()
    assert "the rule of Doc failed" in caplog.text
    await site.provider.stop()


async def test_a_rule_that_hangs_sends_nobody_anything_and_ends_the_streams(caplog):
    site = Site("async")
    ann, bob = await site.pages("ann", "bob")
    site.rule.hold.clear()
    site.provider.rechecks._timeout = 0.05  # from here on, since it is waited for
    await site.change_settled("v2")
    for tab in (ann, bob):
        assert tab.ended and tab.take() == b""
    site.rule.hold.set()
    await ann.open(is_first=False)
    assert ann.take() and ann.text == "v2"
    await site.provider.stop()


async def test_an_access_error_of_the_rule_s_own_is_a_no(site):
    (ann,) = await site.members("ann")
    site.rule.broken = AccessError("never")
    await site.change_settled("v2")
    assert b"v2" not in ann.take() and has_vanished(ann) and not ann.ended


# -- bound fields ------------------------------------------------------------------------------------------------------


async def test_what_was_typed_is_not_sent_back_to_where_it_was_typed(site):
    await site.make("ann")
    typing, other = await site.pages("ann", "ann")
    body = {"a": {"text": "v2"}, "b": {"note": "typed"}, "i": "1", "w": [site.token("ann", DOC_AND_BOARD)], "q": 1}
    call = Call.parse("Doc", "write", body, (), None, None)
    effects = []
    await site.provider.dispatcher.dispatch(site.context("ann"), call, typing.connection, effects.append)
    assert [(effect.frames, effect.word != b"") for effect in effects] == [(b"", False), (b"", True)]
    await site.settle()
    assert b"typed" in other.take() and b"typed" not in typing.take()
    assert typing.text == other.text == "v2"


# -- a property --------------------------------------------------------------------------------------------------------

NAME = st.sampled_from(["ann", "bob", "cy", "guest"])
RECORD = st.sampled_from("12")
PAGE = st.integers(0, 9)
STEP = st.one_of(
    st.tuples(st.just("change"), RECORD, NAME, NAME),
    st.tuples(st.just("event"), PAGE, RECORD, NAME, NAME),
    st.tuples(st.just("broadcast"), RECORD),
    st.tuples(st.just("board")),
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("take"), PAGE),
    st.tuples(st.just("open"), st.sampled_from(["ann", "bob", "cy", None])),
    st.tuples(st.just("cut"), PAGE),
)
BOTH = (DOC, ShownState("Doc", "2", ("body",)), ShownState("Board", None, ()))


class Ticking(Rule):
    """An async rule that takes as many turns of the loop as it is told, question by question."""

    def __init__(self, kind, turns):
        super().__init__(kind)
        self.turns = list(turns)

    async def later(self, user, doc, action):
        allowed = self.of(user, doc, action)
        turns = self.turns.pop() if self.turns else 0
        for _ in range(turns):
            await asyncio.sleep(0)
        return allowed


class Play:
    """Random steps over two documents and several pages. Each version and broadcast bears a marker of its own."""

    def __init__(self, rule):
        self.site = Site(rule=rule)
        self.tabs = []
        self.sending = []
        self.number = 0

    def marker(self):
        self.number += 1
        return f"m{self.number:05}m"

    def doc(self, record):
        return self.site.provider.registry.peek(self.site.key(record))

    async def change(self, record, add, remove):
        await self.site.change(self.marker(), add, "" if remove == add else remove, record)

    async def send(self, tab, record, add, remove):
        site = self.site
        arguments = {"text": self.marker(), "add": add, "remove": "" if remove == add else remove}
        live = tab.connection if isinstance(tab.connection, SSEConnection) and not tab.ended else None
        tokens = [site.token(tab.name, BOTH)]
        call = Call.parse("Doc", "change", {"a": arguments, "i": record, "w": tokens}, (), None, None)
        with contextlib.suppress(AccessError):
            await site.provider.dispatcher.dispatch(
                site.context(tab.name), call, live, lambda effect: self.check(tab, effect.frames)
            )

    def check(self, tab, frames):
        """That `frames` hold nothing of a version that the tab's user might not read."""
        for marker in re.findall(r"m\d{5}m", frames.decode()):
            readers = readers_of.get(marker)  # None: the Board's, which everybody may read
            assert readers is None or (tab.name or "guest") in readers, (tab.name, marker, readers)

    async def open(self, tab, **how):
        await tab.open(**how)
        self.check(tab, tab.take())

    def page(self, index):
        settled = [tab for tab in self.tabs if tab.opening.done()]
        return settled[index % len(settled)] if settled else None

    async def step(self, kind, *given):
        site = self.site
        if kind == "change":
            await self.change(*given)
        elif kind == "event" and (tab := self.page(given[0])) is not None:
            self.sending.append(asyncio.ensure_future(self.send(tab, *given[1:])))
        elif kind == "broadcast":
            marker = self.marker()
            readers_of[marker] = frozenset(self.doc(given[0]).members)
            site.provider.sse_manager.broadcast_to_state(site.key(given[0]), {"note": marker})
        elif kind == "board":
            async with site.provider.modify(Board) as board:
                board.line = self.marker()
        elif kind == "tick":
            for _ in range(given[0]):
                await asyncio.sleep(0)
        elif kind == "open":
            tab = Tab(site, given[0], BOTH)
            tab.position = "unknown.0"
            tab.opening = asyncio.ensure_future(self.open(tab))
            self.tabs.append(tab)
        elif kind in ("take", "cut") and (tab := self.page(given[0])) is not None:
            if kind == "take":
                self.check(tab, tab.take())
            else:
                if isinstance(tab.connection, SSEConnection):
                    site.provider.sse_manager.remove_connection(tab.connection.id)
                tab.opening = asyncio.ensure_future(self.open(tab, is_first=False))

    async def finish(self):
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.sending, *(tab.opening for tab in self.tabs))
        await self.site.settle()
        for tab in self.tabs:
            self.check(tab, tab.take())
            if tab.ended:
                continue
            for record in "12":
                doc = self.doc(record)
                shown = tab.signals.get("Doc", {}).get(record, {}).get("text", "")
                views = [element for element in tab.elements if f'"Doc.{record}.body"' in element]
                if tab.connection in self.site.provider.sse_manager.watchers(self.site.key(record)):
                    assert (tab.name or "guest") in doc.members
                    assert shown == doc.text, "who may see it ends on the last version"
                    assert f"body of {doc.text}" in views[-1]
                else:
                    assert shown == "", "what was lost is not shown any more"
                    assert not views or "hidden></span>" in views[-1]


async def play(rule, steps):
    readers_of.clear()
    game = Play(rule)
    try:
        for record in "12":
            await game.change(record, "ann", "")
            await game.change(record, "bob", "")
        for name in ("ann", "bob", "cy"):
            await game.step("open", name)
        await asyncio.gather(*(tab.opening for tab in game.tabs))
        for step in steps:
            await game.step(*step)
        await game.finish()
    finally:
        await game.site.settle()
        await game.site.provider.stop()


@given(st.lists(STEP, max_size=30))
@settings(max_examples=150, deadline=None)
def test_nobody_ever_gets_a_version_that_was_not_theirs_to_read_by_a_sync_rule(steps):
    asyncio.run(play(Rule("sync"), steps))


@given(st.lists(STEP, max_size=30), st.lists(st.integers(0, 6), max_size=40))
@settings(max_examples=300, deadline=None)
def test_nobody_ever_gets_a_version_that_was_not_theirs_to_read_by_an_async_rule(steps, turns):
    asyncio.run(play(Ticking("async", turns), steps))


@given(st.lists(STEP, max_size=30), st.lists(st.integers(0, 6), max_size=40))
@settings(max_examples=300, deadline=None)
def test_nor_do_they_where_everybody_is_late(steps, turns):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "LATE", 0)
        asyncio.run(play(Ticking("async", turns), steps))
