"""Forms: what the fields of a form fill, and what a message says of those that came."""

import datetime
import html
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired

import fasthtml.common as fh
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.testclient import TestClient
from typing_extensions import TypeAliasType, TypedDict

from faststate import EventArgumentError, ReactiveState, event, fast_app
from tests.support.client import Page, status
from tests.support.states import provider_of
from tests.support.values import validated


class User(BaseModel):
    name: str
    age: int


class Prefs(BaseModel):
    news: bool
    tags: list[str]
    day: datetime.date | None = None
    count: int | None = 3
    hot: bool = True


class Aliased(BaseModel):
    street: str = Field(alias="theStreet")
    town: str = Field("", validation_alias=AliasChoices("town", "city"))


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    street: str = Field(alias="theStreet")


class Boxes(BaseModel):
    a: bool = False
    b: bool = False


@dataclass
class Address:
    street: str
    number: int | None = None
    flags: list[str] = field(default_factory=list)


@pydantic_dataclass
class Checked:
    size: Annotated[int, Field(gt=0)]
    note: str = ""


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Named(NamedTuple):
    x: int
    y: int = 0


Tags = TypeAliasType("Tags", list[str])
Flag = NewType("Flag", bool)


class Forms(ReactiveState):
    said: str = ""

    @event
    def save(self, user: User):
        self.said = f"{user.name}{user.age}"

    @event
    def maybe(self, user: User | None = None): ...

    @event
    def several(self, name: str, user: User, address: Address): ...

    @event
    def prefs(self, prefs: Prefs): ...

    @event
    def boxes(self, boxes: Boxes): ...

    @event
    def aliased(self, place: Aliased): ...

    @event
    def by_name(self, place: ByName): ...

    @event
    def checked(self, item: Checked): ...

    @event
    def typed(self, typed: Typed, named: Named): ...

    @event
    def groups(
        self,
        tags: list[str],
        ids: set[int],
        rest: tuple[int, ...],
        seq: Sequence[str],
        queue: deque[int],
        alias: Tags,
        more: list[str] = ["kept"],  # noqa: B006
    ): ...

    @event
    def pair(self, pair: tuple[int, int]): ...

    @event
    def tick(self, on: bool, marked: Annotated[bool, "a mark"], flag: Flag, kept: bool = True): ...

    @event
    def plain(self, text: str, due_date: str = ""): ...


def form(name, *pairs, **more):
    return validated(Forms._fs_schema().events[name].arguments, {}, form=list(pairs), is_form=True, **more)


def explicit(name, **values):
    return validated(Forms._fs_schema().events[name].arguments, values)


ANN = {"user": User(name="Ann", age=3)}


def test_a_forms_fields_fill_a_model_a_dataclass_a_typed_dict_and_a_named_tuple():
    assert form("save", ("name", "Ann"), ("age", "3")) == ANN
    assert form("maybe", ("name", "Ann"), ("age", "3")) == ANN
    assert form("checked", ("size", "2")) == {"item": Checked(2)}
    assert form("typed", ("a", "1"), ("x", "2"), ("y", "3")) == {"typed": {"a": 1}, "named": Named(2, 3)}


def test_a_url_and_explicit_arguments_fill_a_model_too():
    arguments = Forms._fs_schema().events["save"].arguments
    assert validated(arguments, {}, query=[("name", "Ann"), ("age", "3")]) == ANN
    assert validated(arguments, {"name": "Ann", "age": 3}) == ANN
    assert validated(arguments, {"age": 3}, form=[("name", "Ann"), ("age", "9")], is_form=True) == ANN
    assert "Forms/save?name=Ann&age=3" in Forms.save.to(name="Ann", age=3)
    assert "Ann" in Forms.save.post(name="Ann", age=3)


def test_what_has_the_arguments_own_name_is_the_argument():
    assert explicit("save", user={"name": "Ann", "age": 3}) == ANN
    assert explicit("save", user=ANN["user"]) == ANN
    arguments = Forms._fs_schema().events["save"].arguments
    assert validated(arguments, {}, signals={"user": {"name": "Ann", "age": 3}}) == ANN
    with pytest.raises(EventArgumentError, match="argument 'user': Input should be"):
        form("save", ("user", "x"))
    with pytest.raises(EventArgumentError, match="no argument 'age'"):
        form("save", ("user", "x"), ("age", "3"))


def test_each_argument_takes_its_fields_and_a_name_of_several_goes_to_each():
    assert form("several", ("name", "Ann"), ("age", "3"), ("street", "Elm"), ("number", "")) == {
        "name": "Ann",
        "user": User(name="Ann", age=3),
        "address": Address("Elm", None),
    }


def test_a_form_of_other_fields_does_not_fill_a_model_and_the_message_names_what_came():
    with pytest.raises(EventArgumentError) as caught:
        form("save", ("name", "s3cr3t"), ("agee", "s3cr3t"))
    assert str(caught.value) == (
        "Forms.save: the argument 'user' is missing; the form sent 'name', 'agee'; 'user' takes 'name', 'age'"
    )
    with pytest.raises(EventArgumentError, match=r"argument 'user' at age: Field required; the form sent 'name'$"):
        form("save", ("name", "Ann"))
    with pytest.raises(EventArgumentError, match="'user' is missing; the form sent nothing"):
        form("save")
    with pytest.raises(EventArgumentError, match=r"'text' is missing; the form sent 'txet'$"):
        form("plain", ("txet", "x"))
    with pytest.raises(EventArgumentError, match=r"'text' is missing; what came is 'due_date'$"):
        explicit("plain", due_date="x")
    with pytest.raises(EventArgumentError, match="no argument 'nme'"):
        form("maybe", ("nme", "Ann"))
    assert form("maybe") == {}


@given(st.lists(st.tuples(st.text(max_size=200), st.just("s3cr3t")), max_size=40))
def test_the_names_in_a_message_are_bounded_and_values_are_in_none(pairs):
    with pytest.raises(EventArgumentError) as caught:
        form("save", *[("!" + name, value) for name, value in pairs])
    assert len(str(caught.value)) < 3_000 and "s3cr3t" not in str(caught.value)


def test_boxes_and_empty_fields_of_a_model_are_what_they_are():
    found = form("prefs", ("news", "on"), ("tags", "a"), ("tags", "b"), ("day", ""), ("count", ""))["prefs"]
    assert found == Prefs(news=True, tags=["a", "b"], day=None, count=None)
    assert form("prefs", ("day", "2026-02-03"))["prefs"] == Prefs(news=False, tags=[], day=datetime.date(2026, 2, 3))
    assert form("prefs")["prefs"] == Prefs(news=False, tags=[])  # all is unticked or has a default
    assert form("prefs", ("news", ""), ("hot", ""))["prefs"] == Prefs(news=False, tags=[], hot=False)  # CheckboxX
    assert form("prefs", ("news", ""), ("news", "1"))["prefs"].news is True
    assert form("boxes")["boxes"] == Boxes()
    with pytest.raises(EventArgumentError, match="missing"):
        explicit("boxes")


def test_aliases_are_the_names_that_a_form_sends():
    assert form("aliased", ("theStreet", "Elm"), ("city", "Ulm"))["place"].town == "Ulm"
    with pytest.raises(EventArgumentError, match="'place' is missing"):
        form("aliased", ("street", "Elm"))
    for name in ("street", "theStreet"):
        assert form("by_name", (name, "Elm"))["place"].street == "Elm"


def test_a_group_without_a_ticked_box_is_empty_and_a_default_stays():
    nothing = {"tags": [], "ids": set(), "rest": (), "seq": [], "queue": deque(), "alias": []}
    assert form("groups") == nothing
    assert form("groups", ("tags", "one"), ("ids", "1"), ("alias", "x"), ("more", "y")) == {
        **nothing,
        "tags": ["one"],
        "ids": {1},
        "alias": ["x"],
        "more": ["y"],
    }
    with pytest.raises(EventArgumentError, match="'tags' is missing"):  # no form, so nothing was left unticked
        explicit("groups")
    with pytest.raises(EventArgumentError, match="'pair' is missing"):
        form("pair")


def test_names_with_brackets_and_hyphens_are_the_arguments():
    assert form("groups", ("tags[]", "a"), ("tags[]", "b"))["tags"] == ["a", "b"]
    assert form("plain", ("text", "x"), ("due-date", "y")) == {"text": "x", "due_date": "y"}
    assert form("prefs", ("tags[]", "a"))["prefs"].tags == ["a"]


@pytest.mark.parametrize(("sent", "value"), [("on", True), ("1", True), ("true", True), ("", False), ("0", False)])
def test_a_box_arrives_as_what_it_is(sent, value):
    found = form("tick", *[(name, sent) for name in ("on", "marked", "flag", "kept")])
    assert found == dict.fromkeys(("on", "marked", "flag", "kept"), value)
    assert form("tick") == dict.fromkeys(("on", "marked", "flag"), False)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.builds(Address, TEXT, st.none() | st.integers(), st.lists(TEXT, max_size=3)), st.permutations(range(3)))
def test_a_form_gives_back_what_was_written_into_it(address, order):
    fields = [
        [("street", address.street)],
        [("number", "" if address.number is None else str(address.number))],
        [("flags", flag) for flag in address.flags],
    ]
    pairs = [pair for index in order for pair in fields[index]]
    found = form("several", ("name", "a"), ("age", "1"), *pairs)["address"]
    assert found == address


def test_a_page_sends_a_form_that_fills_a_model():
    provider = provider_of(Forms)
    app, rt = fast_app(state_provider=provider, secret_key="x")

    @rt("/")
    def index(forms: Forms) -> Any:
        return forms.signal.said

    with TestClient(app) as client:
        page = Page(client)
        page.send("Forms", "save", form=[("name", "Ann"), ("age", "3")])
        assert "Ann3" in client.get("/").text
        answer = page.send("Forms", "save", form=[("name", "Ann"), ("agee", "3")])
        assert answer.headers["faststate-status"] == "400" and "the form sent" in answer.text


class Chosen(BaseModel):
    size: Literal[1, 2]


class Choosing(ReactiveState):
    said: str = ""

    @event
    def choose(self, plan: Literal["a", 1, 2, True], more: list[Literal[1, 2, "x"]], chosen: Chosen):
        self.said = repr((plan, more, chosen.size))


def test_a_select_of_numbers_gives_numbers():
    provider = provider_of(Choosing)
    app, rt = fast_app(state_provider=provider, secret_key="x")

    @rt("/")
    def index(choosing: Choosing):
        return fh.P(choosing.signal.said), choosing

    page = Page(TestClient(app))
    for plan, more, size in (("2", ["1", "x"], "1"), ("a", [], "2"), ("True", ["2"], "2")):
        form = [("plan", plan), *[("more", each) for each in more], ("size", size)]
        assert page.send("Choosing", "choose", form=form).status_code in (200, 204)
        expected = (
            {"2": 2, "a": "a", "True": True}[plan],
            [int(each) if each.isdigit() else each for each in more],
            int(size),
        )
        assert html.unescape(page.client.get("/").text).find(repr(expected)) >= 0
    assert status(page.send("Choosing", "choose", form=[("plan", "3"), ("size", "1")])) == 400
    assert Choosing.choose.to(plan=2).endswith("?plan=2")
