"""Visible: what viewers without the permission get instead of a value, in every way in which a state leaves."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
from functools import cached_property
from typing import Annotated

import pytest
from fasthtml import common as fh
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer, field_validator
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from faststate import (
    AsSignal,
    Bound,
    EventDefinitionError,
    EventError,
    ReactiveState,
    ReadOnlyStateError,
    ServerOnly,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
    view,
)
from faststate.auth.tokens import ShownState
from faststate.provider.context import RequestContext
from faststate.registry.registry import StateRegistry
from faststate.sse import snapshot_frame
from tests.support.asgi import Exchange, http_scope
from tests.support.client import BROWSER, Page, browser

pytestmark = pytest.mark.usefixtures("in_tmp_path")
SECRET, GRADE = "S3CRET", "GR4DE"  # what must not be found where it is hidden
HR, BOSS = Visible("hr"), Visible("boss")
ANN, BEN = UserContext("ann", permissions=["hr"]), UserContext("ben", permissions=["boss"])
BOTH = UserContext("both", permissions=["boss", "hr"])
ROOT, CAT = UserContext("root", roles=["admin"]), UserContext("cat")
RENDERED = []


class Place(BaseModel):
    street: str = SECRET


class Staff(ReactiveState):
    name: str = "ada"
    pay: Annotated[str, HR] = SECRET
    grade: Annotated[str, BOSS, Field(max_length=99)] = GRADE
    notes: Annotated[list[str], HR] = Field(default_factory=lambda: [SECRET])
    flags: Annotated[AsSignal[dict[str, str]], HR] = {"flag": SECRET}
    home: Annotated[Place, HR] = Field(default_factory=Place)
    _mark: int = 1

    @field_serializer("notes")
    def longer(self, notes):
        return [f"{note}!" for note in notes]  # knows lists alone

    @computed_field
    @property
    def length(self) -> int:
        return len(self.pay) + len(self.grade)

    @computed_field
    @cached_property
    def size(self) -> int:
        return len(self.pay)

    @computed_field
    @property
    def label(self) -> Annotated[str, HR]:
        return f"{SECRET} of {self.name}"

    @computed_field
    @cached_property
    def rank(self) -> Annotated[str, BOSS]:
        return f"{GRADE} of {self.name}"

    @computed_field
    @cached_property
    def lines(self) -> Annotated[list[str], HR]:
        return [SECRET]

    @view
    def card(self):
        RENDERED.append((self.pay, self.grade))
        return f"{self.name} {self.pay} {self.grade} {self.notes} {self.label} {self.rank} {self.lines} {self.length}"

    @view
    def frame(self):
        return fh.Div(self.card())  # a view in a view

    @event
    def rename(self, name: str):
        self.name = name

    @event
    def write(self, pay: str, grade: str):
        self.pay, self.grade = pay, grade
        self.notes.append(pay)
        self.flags[pay.lower()] = pay
        self.home.street = pay

    @event
    def show_view(self):
        self.name = "shown"
        return fh.Div(self.frame(), id="out")

    @event
    async def show_self(self):
        self.name = "shown"
        yield self

    @event
    def show_signals(self):
        self.name = "shown"
        return fh.Div(*(getattr(self.signal, name) for name in type(self)._fs_schema().signals), id="out")


class Plain(ReactiveState):
    name: str = ""


@pytest.fixture
async def staff():
    registry = StateRegistry()
    yield await registry.get_state(StateIdentifier(StateScope.SESSION, "Staff", session_id="a"), Staff)
    await registry.stop()


def hides(text, *markers):
    assert not [marker for marker in markers if marker in str(text)]


# -- a snapshot for a viewer without the permission --------------------------------------------------------------------


def test_what_may_not_be_seen_is_none_and_the_rest_is_the_same(staff):
    seen = staff._seen_by(BEN)
    assert (seen.pay, seen.notes, seen.flags, seen.home, seen.label, seen.lines) == (None,) * 6
    assert (seen.name, seen.grade, seen.rank, seen._mark) == ("ada", GRADE, f"{GRADE} of ada", 1)
    assert isinstance(seen, Staff) and type(seen).__name__ == "Staff"


def test_an_open_value_that_is_computed_from_a_hidden_one_is_right(staff):
    for user in (None, CAT, ANN, BEN, BOTH, ROOT):
        seen = staff._seen_by(user)
        assert (seen.length, seen.size) == (len(SECRET) + len(GRADE), len(SECRET))
        assert (seen._wire()["length"], seen.model_dump(exclude={"notes"})["size"]) == (11, 6)


def test_whoever_holds_all_permissions_is_given_the_snapshot_itself(staff):
    assert staff._seen_by(BOTH) is staff._seen_by(ROOT) is staff


@pytest.mark.parametrize(("user", "others"), [(None, CAT), (ANN, UserContext("x", permissions=["hr", "more"]))])
def test_viewers_with_the_same_permissions_share_one_snapshot(staff, user, others):
    assert staff._seen_by(user) is staff._seen_by(others) is not staff._seen_by(BEN)


def test_several_permissions_make_a_class_of_viewers_for_each_set_of_them(staff):
    users = [CAT, ANN, BEN, BOTH]
    assert len({id(staff._seen_by(user)) for user in users}) == 4
    assert [(s.pay, s.grade) for s in map(staff._seen_by, users)] == [
        (None, None), (SECRET, None), (None, GRADE), (SECRET, GRADE)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spill",
    [
        vars,
        lambda s: s.model_dump(exclude={"notes"}),
        lambda s: s.model_dump(mode="json", exclude={"notes"}, by_alias=True, round_trip=True),
        lambda s: s.model_dump_json(exclude={"notes"}),
        lambda s: s.__getstate__(),
        lambda s: {name: getattr(s, name) for name in [*Staff.model_fields, *Staff.model_computed_fields]},
        lambda s: [str(s.signal.__getattr__(name).__ft__()) for name in Staff._fs_schema().signals],
        lambda s: str(s.card()),
        lambda s: str(s.__ft__()),
        lambda s: pickle.dumps(s),
        lambda s: copy.copy(s).__dict__,
        lambda s: copy.deepcopy(s).__dict__,
        lambda s: s._wire(),
        fh.to_xml,
    ],
)
def test_no_way_to_look_at_a_snapshot_shows_what_it_hides(staff, spill):
    hides(spill(staff._seen_by(CAT)), SECRET, GRADE)
    hides(spill(staff._seen_by(ANN)), GRADE)
    assert SECRET in str(spill(staff)), "this way shows nothing at all"


@pytest.mark.parametrize("spill", [repr, str, lambda s: [*s.__repr_args__()], lambda s: [*s.__rich_repr__()]])
def test_no_repr_shows_what_is_not_visible_to_all_whoever_has_it(staff, spill):
    for seen in (staff, staff._seen_by(CAT), staff._seen_by(ANN), copy.deepcopy(staff)):
        text = str(spill(seen))
        hides(text, SECRET, GRADE)
        assert "ada" in text, "this way shows nothing at all"
    assert "pay" in str(spill(staff)) and "**" in str(spill(staff))


def test_a_hidden_field_is_none_in_repr_and_no_row_in_the_page(staff):
    assert repr(staff._seen_by(CAT)).startswith("Staff(name='ada', pay=None, grade=None, notes=None, flags=None,")
    assert "<dt>pay</dt>" in str(staff._seen_by(ANN).__ft__())
    assert "<dt>grade</dt>" not in str(staff._seen_by(ANN).__ft__())


def test_comparing_does_not_tell_a_hidden_value(staff):
    seen = staff._seen_by(CAT)
    assert seen == staff._seen_by(None) and seen != staff and seen != staff._seen_by(ANN)
    assert seen != Staff() and seen != Staff(pay="a guess")


def test_a_snapshot_with_hidden_fields_is_as_read_only_as_any(staff):
    with pytest.raises(ReadOnlyStateError):
        staff._seen_by(CAT).name = "bob"


def test_a_class_without_restricted_fields_has_one_snapshot_for_all():
    assert Place not in Staff.__mro__ and Plain._fs_schema().hidden_from(None) == frozenset()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, Staff.model_copy, lambda s: s.model_copy(deep=True)])
def test_a_copy_hides_what_the_snapshot_hid(staff, duplicate):
    made = duplicate(staff._seen_by(BEN))
    made.name = "bob"
    assert (made.pay, made.label, made.lines, made.notes) == (None, None, None, None)
    assert (made.name, made.grade, made.rank) == ("bob", GRADE, f"{GRADE} of bob")
    hides(vars(made), SECRET)


def test_a_snapshot_can_be_pickled_without_what_it_hides(staff):
    dumped = pickle.dumps(staff._seen_by(BEN))
    assert SECRET.encode() not in dumped
    made = pickle.loads(dumped)
    assert (made.pay, made.label, made.grade, made.name, made._mark) == (None, None, GRADE, "ada", 1)
    made.name = "bob"  # it belongs to nobody
    assert made.rank == f"{GRADE} of bob" and made != staff


def test_the_default_rendering_asks_no_serializer_for_what_is_hidden(staff):
    html = str(staff._seen_by(CAT).__ft__())
    hides(html, SECRET, GRADE, "notes", "pay", "lines", "label")
    assert "ada" in html and f"{SECRET}!" in str(staff.__ft__())


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def viewer_of(request):
    """The user that the header `x-user` names, such as "hr+boss", by permissions."""
    name = request.headers.get("x-user")
    return UserContext(name, roles=["admin"] if name == "root" else [], permissions=name.split("+")) if name else None


class Site:
    """An app with one Staff for all, and its visitors."""

    def __init__(self):
        self.provider = StateProvider(user_loader=viewer_of)
        self.provider.register_state(Staff, StateConfig(scope=StateScope.GLOBAL))
        self.provider.register_state(Form, StateConfig(scope=StateScope.GLOBAL))
        self.app, rt = fast_app(state_provider=self.provider, pico=False, secret_key="for tests")

        @rt("/")
        def index(staff: Staff):
            return fh.Titled(
                "Staff", staff, staff.frame(), *signals(staff), repr(staff), staff.model_dump_json(exclude={"notes"})
            )

        @rt("/form")
        def form(form: Form):
            return fh.Titled("Form", form.signal.text)

    @property
    def staff(self):
        return self.provider.registry.peek("global:Staff")


def signals(state):
    return [getattr(state.signal, name) for name in Staff._fs_schema().signals]


class Form(ReactiveState):
    text: Annotated[Bound[str], HR] = SECRET
    open: Bound[str] = ""
    maybe: Annotated[Bound[str | None], BOSS] = GRADE
    saved: int = 0

    @event
    def save(self):
        self.saved += 1


@pytest.fixture
def site():
    return Site()


def page_of(site, who=None, path="/"):
    client = TestClient(site.app, headers={"x-user": who} if who else {})
    return Page(client, path)


@pytest.mark.parametrize("name", ["show_view", "show_self", "show_signals"])
@pytest.mark.parametrize("who", [None, "cat", "hr", "boss", "hr+boss", "root"])
def test_what_an_event_shows_of_its_state_hides_what_its_user_may_not_see(site, who, name):
    response = page_of(site, who).send("Staff", name)
    assert response.status_code == 200 and "ada" not in response.text and "shown" in response.text
    has = {marker for marker in (SECRET, GRADE) if marker in response.text}
    assert has == ({SECRET} if "hr" in (who or "") else set()) | ({GRADE} if "boss" in (who or "") else set()) | (
        {SECRET, GRADE} if who == "root" else set()
    )


@pytest.mark.parametrize("who", [None, "cat", "hr", "boss", "hr+boss", "root"])
def test_the_page_seeds_an_empty_signal_for_what_is_hidden(site, who):
    page = page_of(site, who)
    seeded = page.signals["Staff"]
    may = {"hr", "boss"} if who == "root" else set((who or "").split("+"))
    assert (seeded["pay"], seeded["label"]) == ((SECRET, f"{SECRET} of ada") if "hr" in may else ("", ""))
    assert (seeded["grade"], seeded["rank"]) == ((GRADE, f"{GRADE} of ada") if "boss" in may else ("", ""))
    assert seeded["flags"] == ({"flag": SECRET} if "hr" in may else "") and seeded["length"] == 11
    hides(page.html, *({SECRET} if "hr" not in may else ()), *({GRADE} if "boss" not in may else ()))


def test_a_bound_field_is_not_set_by_who_may_not_see_it_and_the_event_still_runs(site):
    page = page_of(site, "cat", "/form")
    assert page.signals["Form"].items() >= {"text": "", "open": "", "maybe": "", "saved": 0}.items()
    response = page.send("Form", "save", bound={"text": "", "open": "mine", "maybe": ""})
    form = site.provider.registry.peek("global:Form")
    assert response.status_code == 200 and (form.text, form.open, form.maybe, form.saved) == (SECRET, "mine", GRADE, 1)
    page.send("Form", "save", bound={"text": "forged", "open": "mine", "maybe": "forged"})
    page.send("Form", "save", form=[("text", "forged")], signals={"maybe": "forged"})
    form = site.provider.registry.peek("global:Form")
    assert (form.text, form.maybe) == (SECRET, GRADE)


def test_a_bound_field_is_set_by_who_may_see_it(site):
    page_of(site, "hr", "/form").send("Form", "save", bound={"text": "by hr", "open": "", "maybe": ""})
    form = site.provider.registry.peek("global:Form")
    assert (form.text, form.maybe, form.saved) == ("by hr", GRADE, 1)
    page_of(site, "root", "/form").send("Form", "save", bound={"text": "by root", "open": "", "maybe": ""})
    form = site.provider.registry.peek("global:Form")
    assert (form.text, form.maybe, form.saved) == ("by root", None, 2)


class Stream(Exchange):
    """An open stream, read as it is written."""

    def __init__(self, site, page, headers, position, last_event_id=None):
        payload = {"w": page.tokens, "n": position}
        extra = {"last-event-id": last_event_id} if last_event_id else {}
        request = page.client.build_request(
            "POST", f"{page.url}stream", json=payload, headers=BROWSER | headers | extra
        )
        raw = [(name.lower(), value) for name, value in request.headers.raw]
        super().__init__(site.app, http_scope("POST", request.url.path, raw), request.content)
        self.site = site

    async def settled(self):
        """Returns when all that was committed so far has been written."""
        async with asyncio.timeout(5):
            while b"\nid: " not in self.body or self.waits():  # writing sets no event of ours
                assert not self.task.done(), self.body
                await asyncio.sleep(0)

    def waits(self):
        return any(
            connection.waits or any(topic.changes for topic in connection.topics)
            for connection in self.site.provider.sse_manager.connections.values()
        )


WHO = st.sampled_from([None, "cat", "hr", "boss", "hr+boss", "root"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
STEP = st.one_of(
    st.tuples(st.sampled_from(["modify", "event", "broadcast"]), TEXT, TEXT),
    st.tuples(st.sampled_from(["resume", "reopen", "again"]), st.just(""), st.just("")),
)


@given(who=WHO, steps=st.lists(STEP, min_size=1, max_size=5), start=st.tuples(TEXT, TEXT))
@settings(max_examples=40, deadline=None)
def test_no_byte_of_a_hidden_value_reaches_who_may_not_see_it(who, steps, start):
    asyncio.run(follow(who, steps, start))


async def follow(who, steps, start):
    site = Site()
    may = {"hr", "boss"} if who == "root" else set((who or "").split("+"))
    headers = {"x-user": who} if who else {}
    got, streams = "", []

    def open_stream(position, last_event_id=None):
        streams.append(Stream(site, page, headers, position, last_event_id))
        return streams[-1].settled()

    async with browser(site.app, headers=headers) as client, browser(site.app, headers={"x-user": "root"}) as other:
        await write(site, *start)
        page, root = await Page.open(client), await Page.open(other)
        await open_stream(page.position)
        for kind, pay, grade in steps:
            pay, grade = SECRET + pay, GRADE + grade
            if kind == "modify":
                await write(site, pay, grade)
            elif kind == "event":  # without a stream, so that its answer brings what changed
                got += (await page.send("Staff", "write", pay=pay, grade=grade)).text
                await root.send("Staff", "write", pay=grade.replace(GRADE, SECRET), grade=pay.replace(SECRET, GRADE))
            elif kind == "broadcast":
                site.provider.registry.broadcast_to_state("global:Staff", {"pay": pay, "grade": grade, "label": pay})
            elif kind == "again":
                got += (await client.get("/")).text
            else:
                position = streams[-1].body.rpartition(b"id: ")[2].decode().strip()
                await streams[-1].close()
                await write(site, f"{SECRET}meanwhile", f"{GRADE}meanwhile")
                await (open_stream("", position) if kind == "resume" else open_stream(position))
            await streams[-1].settled()
        for stream in streams:
            await stream.close()
            assert stream.status == 200
    await site.provider.stop()
    got += page.html + b"".join(stream.body for stream in streams).decode()
    assert (SECRET in got, GRADE in got) == ("hr" in may, "boss" in may)


async def write(site, pay, grade):
    async with site.provider.modify(Staff) as staff:
        staff.pay, staff.grade = SECRET + pay, GRADE + grade
        staff.notes.append(SECRET + pay)
        staff.flags = {f"of {pay}": SECRET + pay}


async def test_a_thousand_streams_of_two_classes_of_viewers_share_two_frames_and_two_renderings(site):
    manager, opened = site.provider.sse_manager, []
    site.provider.tokens.use_key("for tests")
    for number in range(1_000):
        who = ("hr", "boss")[number % 2]
        scope = {"type": "http", "session": {"session_id": f"s{number}"}, "headers": [(b"x-user", who.encode())]}
        context = RequestContext(site.provider, HTTPConnection(scope))
        token = site.provider.tokens.signer.sign(
            (await context.identity()).binding, [ShownState("Staff", None, ("card",))]
        )
        opened.append(await context.provider.page_streams.open(context, [token], None))
    for connection in opened:
        connection.drain()
    for _ in range(2):
        RENDERED.clear()
        async with site.provider.modify(Staff) as staff:
            staff.pay += "!"
            staff.grade += "!"
        now = site.staff
        changes = opened[0].topic("global:Staff").changes
        drained = [connection.drain() for connection in opened]
        assert len(changes._frames) == 2 and len(set(drained)) == 2
        assert set(drained) == set(changes._frames.values())
        for frames, shown, hidden in ((drained[::2], SECRET, GRADE), (drained[1::2], GRADE, SECRET)):
            assert all(shown.encode() in frame and hidden.encode() not in frame for frame in frames)
        await asyncio.sleep(0)  # the end of the turn, at which what was sent is settled
        assert sorted(RENDERED, key=str) == sorted([(now.pay, None), (None, now.grade)], key=str)
    for connection in opened:
        manager.remove_connection(connection.id)
    await site.provider.stop()


async def test_a_thousand_snapshots_of_two_classes_of_viewers_are_encoded_twice(site):
    full = await site.provider.registry.get_state(StateIdentifier(StateScope.GLOBAL, "Staff"), Staff)
    hidden = [Staff._fs_schema().hidden_from(user) for user in (ANN, BEN)]
    frames = {id(snapshot_frame(full._seen(hidden[n % 2]), frozenset({"card"}), keep=True)) for n in range(1_000)}
    assert len(frames) == 2
    await site.provider.stop()


# -- what is refused when the class is made ----------------------------------------------------------------------------


class Nested(BaseModel):
    pay: Annotated[int, HR] = 1


class NestedComputed(BaseModel):
    @computed_field
    @property
    def pay(self) -> Annotated[int, HR]:
        return 1


@dataclasses.dataclass
class Record:
    pay: Annotated[int, HR] = 1


class Shape(TypedDict):
    pay: Annotated[int, HR]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[int, Visible], "write Visible\\("),
        (Annotated[int, HR, Visible("boss")], "boss and hr: name one permission"),
        (Annotated[ServerOnly[int], HR], "nobody can see it: drop Visible"),
        (ServerOnly[Annotated[int, HR]], "nobody can see it: drop Visible"),
        (Annotated[int, HR] | None, "around the whole type"),
        (list[Annotated[int, HR]], "around the whole type"),
        (dict[str, list[Annotated[int, HR]]], "around the whole type"),
        (Record, "around the whole type"),
        (Shape, "around the whole type"),
        (Nested, "Nested.pay is marked Visible, which works on the fields of a state alone"),
        (list[Nested], "Nested.pay is marked Visible"),
        (Nested | None, "Nested.pay is marked Visible"),
        (NestedComputed, "NestedComputed.pay is marked Visible"),
        (list[NestedComputed], "NestedComputed.pay is marked Visible"),
    ],
)
@pytest.mark.parametrize("kind", ["field", "computed"])
def test_a_visible_that_would_hide_nothing_is_an_error_at_once(kind, annotation, message):
    if kind == "computed" and "nobody can see it" in message:
        pytest.skip("pydantic itself warns of what ServerOnly holds in a computed field's type")
    with pytest.raises(EventDefinitionError, match=message):
        if kind == "field":

            class Wrong(ReactiveState):
                value: annotation = None
        else:

            class WrongComputed(ReactiveState):
                @computed_field(return_type=annotation)
                @property
                def value(self):
                    return None


@pytest.mark.parametrize("permission", ["", None, 5, ["hr"], b"hr"])
def test_visible_takes_the_name_of_one_permission(permission):
    with pytest.raises(EventDefinitionError, match="name of a permission"):
        Visible(permission)


def test_only_fields_of_which_pydantic_asks_nothing_more_are_taken_as_they_are():
    class Plain(ReactiveState):
        number: int = 0
        flag: bool = False
        text: Seen = ""
        ratio: float = 0.0
        positive: Annotated[int, Field(gt=0)] = 1
        fixed: int = Field(0, frozen=True)
        maybe: int | None = None

    assert Plain._fs_schema().exact == {"number": int, "flag": bool, "text": str}

    class Stripped(Plain):
        model_config = ConfigDict(str_strip_whitespace=True)

    class Frozen(Plain):
        model_config = ConfigDict(frozen=True)

    class Checked(Plain):
        @field_validator("*")
        @classmethod
        def check(cls, value):
            return value

    assert [cls._fs_schema().exact for cls in (Stripped, Frozen, Checked)] == [{}, {}, {}]


Seen = Annotated[str, Visible("look")]


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [("number", 2, 2), ("number", "3", 3), ("number", True, 1), ("flag", 1, True), ("text", "é", "é")],
)
async def test_what_an_event_sets_is_validated_by_the_type_of_its_field(name, value, held):
    class Plain(ReactiveState):
        number: int = 0
        flag: bool = False
        text: str = ""

    provider = StateProvider()
    provider.register_state(Plain, StateConfig(scope=StateScope.GLOBAL))
    async with provider.modify(Plain) as plain:
        setattr(plain, name, value)
    found = getattr(provider.registry.peek("global:Plain"), name)
    assert found == held and type(found) is type(held)
    for wrong in ({"number": "x"}, {"flag": 2}, {"text": 1}):
        with pytest.raises(EventError):
            async with provider.modify(Plain) as plain:
                for field, given in wrong.items():
                    setattr(plain, field, given)
    await provider.stop()
