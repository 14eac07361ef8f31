"""Visible: what viewers without the permission get instead of a value, in every way in which a state leaves."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from functools import cached_property
from typing import Annotated

import pytest
from fasthtml import common as fh
from pydantic import BaseModel, Field, computed_field, field_serializer
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from faststate import (
    AsSignal,
    Bound,
    EventDefinitionError,
    ReactiveState,
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
from faststate.registry import StateRegistry
from tests.client import Page

pytestmark = pytest.mark.usefixtures("in_tmp_path")
SECRET, GRADE = "S3CRET", "GR4DE"  # what must not be found where it is hidden
HR, BOSS = Visible("hr"), Visible("boss")
ANN, BEN = UserContext("ann", permissions=["hr"]), UserContext("ben", permissions=["boss"])
BOTH, ROOT, CAT = (
    UserContext("both", permissions=["boss", "hr"]),
    UserContext("root", roles=["admin"]),
    UserContext("cat"),
)


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


@pytest.fixture
async def staff():
    registry = StateRegistry()
    yield await registry.get_state(StateIdentifier(StateScope.SESSION, "Staff", session_id="a"), Staff)
    await registry.stop()


def hides(text, *markers):
    assert not [marker for marker in markers if marker in str(text)]


# -- a snapshot for a viewer without the permission --------------------------------------------------------------------


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
