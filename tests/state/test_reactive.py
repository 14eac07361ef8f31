"""ReactiveState: its three lives, its markers, what it lets out, and what it commits."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import math
import pickle
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, NewType, Optional
from uuid import UUID

import pytest
import typing_extensions
from fastcore.xml import Li, P, Ul, to_xml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    PrivateAttr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)

from faststate import AsSignal, Bound, ReactiveState, ServerOnly, Visible, event, view
from faststate.exceptions import EventDefinitionError, EventError, NotStartedError, ReadOnlyStateError
from faststate.state.changes import change_of
from faststate.state.reactive import SignalRef
from tests.support.snapshots import apply, commit

SECRET = "s3cr3t-value"
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Todo(BaseModel):
    text: str
    done: bool = False
    note: ServerOnly[str] = SECRET


class Board(ReactiveState):
    """Every kind of field."""

    count: int = 0
    title: str = ""
    price: Decimal = Decimal("1.10")
    due: datetime.date | None = None
    owner: UUID = UUID(int=1)
    colour: Colour = Colour.RED
    mode: Literal["open", "closed"] = "open"
    user: UserId = UserId(7)
    legacy: Optional[int] = None  # noqa: UP045  # the older spelling is in many an app
    limited: Annotated[int, Field(ge=0)] = 0
    draft: Bound[str] = ""
    secret: ServerOnly[str] = SECRET
    secrets: ServerOnly[list[str]] = [SECRET]
    todos: list[Todo] = []
    tags: set[str] = set()
    scores: AsSignal[dict[str, int]] = {}
    numbers: list[int] = []
    first: Todo = Todo(text="first")
    _cache: list[int] = PrivateAttr(default_factory=list)

    @computed_field
    @property
    def double(self) -> int:
        return self.count * 2

    @property
    def hidden_double(self) -> int:
        return self.count * 1_000_003

    @computed_field
    @property
    def texts(self) -> list[str]:
        return [todo.text for todo in self.todos]

    @event
    def add(self, by: int = 1):
        self.count += by


SIGNALS = {
    "count", "title", "price", "due", "owner", "colour", "mode", "user", "legacy", "limited", "draft", "scores",
    "double",
}  # fmt: skip


def changed(snapshot, edit):
    """The change that `edit` makes to a working copy of `snapshot`."""
    working = snapshot._working()
    try:
        edit(working)
        return change_of(working)
    finally:
        working._close()


# -- three lives -------------------------------------------------------------------------------------------------------


def test_an_instance_of_your_own_is_an_ordinary_object():
    board = Board(count=1)
    board.add(by=2)
    board.todos.append(Todo(text="a"))
    board.todos[0].done = True
    board._cache.append(1)
    assert (board.count, board.double, board.texts, board.todos[0].done, board._cache) == (3, 6, ["a"], True, [1])
    with pytest.raises(NotStartedError):
        _ = board._committed


@pytest.mark.parametrize(
    "write",
    [
        lambda s: setattr(s, "count", 1),
        lambda s: s.numbers.append(1),
        lambda s: s.scores.update(a=2),
        lambda s: s.tags.add("b"),
        lambda s: setattr(s.first, "done", True),
        lambda s: setattr(s.todos[0], "text", "b"),
        lambda s: s.add(),
        lambda s: delattr(s, "count"),
        lambda s: setattr(s, "todos", []),
    ],
)
def test_a_snapshot_is_read_only_throughout(write):
    snapshot = commit(Board(todos=[Todo(text="a")], tags={"a"}, scores={"a": 1}))
    before = snapshot.model_dump_json()
    with pytest.raises(ReadOnlyStateError):
        write(snapshot)
    assert snapshot.model_dump_json() == before and snapshot.count == 0


def test_the_message_of_a_refused_write_names_the_field_and_the_remedy():
    with pytest.raises(ReadOnlyStateError, match=r"Board\.count: .*modify"):
        commit(Board()).count = 1
    with pytest.raises(ReadOnlyStateError, match=r"await state\.add\.run"):
        commit(Board()).add()


def test_a_working_copy_is_seen_by_nobody_until_it_is_committed():
    snapshot = commit(Board(numbers=[1]))
    working = snapshot._working()
    working.add(by=5)
    working.numbers.append(2)
    assert (working.count, working.double, working.numbers) == (5, 10, [1, 2])
    assert (snapshot.count, snapshot.double, snapshot.numbers) == (0, 0, [1])
    later = apply(snapshot, change_of(working))
    assert (later.count, later.double, later.numbers, later._committed.version) == (5, 10, [1, 2], 2)
    assert (snapshot.count, snapshot.numbers) == (0, [1])
    with pytest.raises(ReadOnlyStateError):
        later.numbers.append(3)


def test_a_closed_working_copy_changes_nothing_more():
    working = commit(Board(numbers=[1]))._working()
    numbers = working.numbers
    working._close()
    for write in (lambda: setattr(working, "count", 1), lambda: numbers.append(2), lambda: change_of(working)):
        with pytest.raises(ReadOnlyStateError):
            write()


def test_a_rebased_working_copy_sees_what_others_committed_and_keeps_nothing_stale():
    first = commit(Board(numbers=[1]))
    working = first._working()
    stale = working.numbers
    working.count = 99
    second = apply(first, changed(first, lambda s: s.numbers.append(2)))
    working._rebase(second)
    assert (working.numbers, working.count) == ([1, 2], 0)
    with pytest.raises(ReadOnlyStateError, match="yield"):
        stale.append(3)
    working.numbers.append(3)
    assert apply(second, change_of(working)).numbers == [1, 2, 3]


def test_private_attributes_are_plain_and_not_rolled_back():
    snapshot = commit(Board())
    snapshot._cache.append(1)
    working = snapshot._working()
    working._cache.append(2)
    assert change_of(working) is None
    assert snapshot._cache == [1, 2]


def test_what_a_cached_property_remembers_is_never_older_than_its_state():
    class Cached(ReactiveState):
        items: list[int] = []

        @cached_property
        def total(self):
            return sum(self.items)

    snapshot = commit(Cached(items=[1]))
    assert snapshot.total == 1
    working = snapshot._working()
    working.items.append(2)
    assert working.total == 3
    later = apply(snapshot, change_of(working))
    assert (later.total, snapshot.total) == (3, 1)
    assert set(later._committed.encoded) == set()


# -- changes -----------------------------------------------------------------------------------------------------------

EDITS = {
    "scalar": (lambda s: setattr(s, "count", 1), {"count"}, {"count": 1, "double": 2}),
    "list append": (lambda s: s.numbers.append(2), {"numbers"}, {}),
    "list item": (lambda s: s.numbers.__setitem__(0, 9), {"numbers"}, {}),
    "slice": (lambda s: s.numbers.__setitem__(slice(0, 0), [7, 8]), {"numbers"}, {}),
    "dict": (lambda s: s.scores.update(b=2), {"scores"}, {"scores": {"b": 2}}),
    "dict removal": (lambda s: s.scores.pop("a"), {"scores"}, {"scores": {"a": None}}),
    "set": (lambda s: s.tags.add("y"), {"tags"}, {}),
    "nested model": (lambda s: setattr(s.first, "done", True), {"first"}, {}),
    "model in a list": (lambda s: setattr(s.todos[0], "text", "b"), {"todos"}, {}),
    "assigned list": (lambda s: setattr(s, "numbers", [5]), {"numbers"}, {}),
    "assigned model": (lambda s: setattr(s, "first", Todo(text="z")), {"first"}, {}),
    "server only": (lambda s: setattr(s, "secret", "other"), {"secret"}, {}),
    "server only list": (lambda s: s.secrets.append("other"), {"secrets"}, {}),
    "to None and back": (lambda s: setattr(s, "due", datetime.date(2024, 1, 2)), {"due"}, {"due": "2024-01-02"}),
    "two at once": (lambda s: (setattr(s, "title", "t"), s.tags.clear()), {"title", "tags"}, {"title": "t"}),
    "nothing": (lambda s: None, None, None),
    "equal value": (lambda s: setattr(s, "count", 0), None, None),
    "equal list": (lambda s: setattr(s, "numbers", [1]), None, None),
    "equal model": (lambda s: setattr(s, "first", Todo(text="first")), None, None),
    "there and back": (lambda s: (s.numbers.append(2), s.numbers.pop()), None, None),
    "read alone": (lambda s: (s.numbers[0], list(s.todos), s.first.text, s.scores["a"]), None, None),
    "dumped alone": (lambda s: (s.model_dump(), repr(s), s == s), None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_change_is_found_wherever_it_is_and_holds_nothing_else(name):
    edit, fields, delta = EDITS[name]
    snapshot = commit(Board(numbers=[1], scores={"a": 1}, tags={"x"}, todos=[Todo(text="a")]))
    change = changed(snapshot, edit)
    if fields is None:
        assert change is None
        return
    assert (set(change.changed), change.delta) == (fields, delta)
    assert set(change.encoded) == SIGNALS
    later = apply(snapshot, change)
    assert later._wire() == commit(Board(**later.model_copy().__dict__))._wire()
    for field in Board.model_fields.keys() - fields:  # what did not change is shared, not copied
        assert getattr(later, field) is getattr(snapshot, field)


def test_a_cleared_value_is_sent_as_an_empty_string_and_never_as_null():
    snapshot = commit(Board(due=datetime.date(2024, 1, 2)))
    assert changed(snapshot, lambda s: setattr(s, "due", None)).delta == {"due": ""}


def test_a_computed_signal_is_sent_when_it_changed_and_only_then():
    snapshot = commit(Board(count=2))
    assert changed(snapshot, lambda s: setattr(s, "title", "x")).delta == {"title": "x"}
    assert changed(snapshot, lambda s: setattr(s, "count", 3)).delta == {"count": 3, "double": 6}


def test_a_true_that_was_a_one_is_sent():
    class Flags(ReactiveState):
        flags: AsSignal[dict[str, int | bool]] = {}
        flag: int | bool = 1

    snapshot = commit(Flags(flags={"a": 1}, flag=1))
    assert changed(snapshot, lambda s: s.flags.update(a=True)).delta == {"flags": {"a": True}}
    assert changed(snapshot, lambda s: setattr(s, "flag", True)).delta == {"flag": True}


def test_a_true_that_was_a_one_is_a_change_in_a_nested_model_too():
    class Cell(BaseModel):
        value: int | bool | dict[str, int] = 1

    class Sheet(ReactiveState):
        cells: AsSignal[list[Cell]] = [Cell()]

    snapshot = commit(Sheet())
    change = changed(snapshot, lambda s: setattr(s.cells[0], "value", True))
    assert change.delta == {"cells": [{"value": True}]} and change.values["cells"][0].value is True


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["count", "append", "pop", "score", "unscore", "tag", "done", "title"]), st.integers(0, 3)
        ),
        max_size=12,
    ),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_any_events_end_as_on_a_plain_instance_and_the_deltas_add_up(steps, per_event):
    def edit(state, name, n):
        match name:
            case "count":
                state.count = n
            case "append":
                state.todos.append(Todo(text=str(n)))
            case "pop" if state.todos:
                state.todos.pop()
            case "score":
                state.scores[str(n)] = n
            case "unscore":
                state.scores.pop(str(n), None)
            case "tag":
                state.tags ^= {str(n)}
            case "done" if state.todos:
                state.todos[0].done = not state.todos[0].done
            case "title":
                state.title = str(n)

    plain, snapshot = Board(), commit(Board())
    page = copy.deepcopy(snapshot._wire())
    for start in range(0, len(steps), per_event):
        batch = steps[start : start + per_event]
        for name, n in batch:
            edit(plain, name, n)
        change = changed(snapshot, lambda s, batch=batch: [edit(s, name, n) for name, n in batch])
        if change is not None:
            page |= {name: value for name, value in change.delta.items() if name != "scores"}
            for key, value in change.delta.get("scores", {}).items():
                page["scores"].pop(key, None) if value is None else page["scores"].update({key: value})
        snapshot = apply(snapshot, change)
    assert snapshot == plain and snapshot._wire() == page == plain._wire()


# -- validation at commit ----------------------------------------------------------------------------------------------


class Checked(ReactiveState):
    low: int = 0
    high: int = 10
    names: list[str] = []
    small: Annotated[int, Field(lt=100)] = 0

    @field_validator("names")
    @classmethod
    def _stripped(cls, names):
        return [name.strip() for name in names]

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


@pytest.mark.parametrize(
    ("make", "edit", "message"),
    [
        (Board, lambda s: s.numbers.append("x"), r"Board\.numbers\.0: .*valid integer"),
        (Board, lambda s: setattr(s, "count", "x"), r"Board\.count: .*valid integer"),
        (Board, lambda s: setattr(s, "limited", -1), r"Board\.limited: .*greater than or equal to 0"),
        (Board, lambda s: setattr(s, "colour", "green"), r"Board\.colour"),
        (Board, lambda s: setattr(s, "mode", "ajar"), r"Board\.mode"),
        (Board, lambda s: s.todos.append("x"), r"Board\.todos\.0"),
        (Board, lambda s: setattr(s.first, "text", 7), r"valid string"),
        (Board, lambda s: s.scores.update(a="x"), r"Board\.scores\.a"),
        (Checked, lambda s: setattr(s, "low", 11), r"Checked: .*low is above high"),
        (Checked, lambda s: setattr(s, "small", 100), r"Checked\.small: .*less than 100"),
    ],
)
def test_a_wrong_value_is_found_at_commit_and_named(make, edit, message):
    snapshot = commit(make())
    with pytest.raises(EventError, match=message) as caught:
        changed(snapshot, edit)
    assert caught.value.__cause__ is not None
    assert snapshot == make()


def test_an_error_at_commit_does_not_repeat_the_hidden_value():
    with pytest.raises(EventError) as caught:
        changed(commit(Board()), lambda s: s.secrets.append({"token": SECRET}))
    assert SECRET not in str(caught.value)


def test_a_model_validator_sees_all_changes_at_once():
    later = apply(
        commit(Checked()), changed(commit(Checked()), lambda s: (setattr(s, "low", 20), setattr(s, "high", 30)))
    )
    assert (later.low, later.high) == (20, 30)


def test_validators_may_correct_what_an_event_wrote():
    snapshot = commit(Checked())
    change = changed(snapshot, lambda s: s.names.append("  a "))
    assert apply(snapshot, change).names == ["a"]
    assert changed(commit(Board()), lambda s: s.numbers.append("2")).values["numbers"] == [2]


def test_a_validator_that_undoes_a_change_leaves_none():
    assert changed(commit(Checked(names=["a"])), lambda s: s.names.__setitem__(0, " a ")) is None


def test_a_field_that_is_no_number_is_no_endless_change():
    class Measured(ReactiveState):
        value: float = float("nan")
        n: int = 0

        @model_validator(mode="after")
        def _checked(self):
            return self

    change = changed(commit(Measured()), lambda s: setattr(s, "n", 1))
    assert change.changed == ["n"] and change.delta == {"n": 1}


def test_an_unchanged_field_is_not_validated_again():
    calls = []

    class Costly(ReactiveState):
        n: int = 0
        big: list[int] = []

        @field_validator("big")
        @classmethod
        def _look(cls, value):
            calls.append(value)
            return value

    snapshot = commit(Costly(big=[1]))
    calls.clear()
    changed(snapshot, lambda s: (setattr(s, "n", 1), len(s.big)))
    assert calls == []
    changed(snapshot, lambda s: s.big.append(2))
    assert calls == [[1, 2]]


# -- what gets out -----------------------------------------------------------------------------------------------------


def test_the_signals_are_the_scalars_and_what_is_marked():
    assert set(commit(Board())._wire()) == set(Board._fs_schema().signals) == SIGNALS
    wire = commit(Board(scores={"a": 2**60}, legacy=None))._wire()
    assert (wire["price"], wire["colour"], wire["legacy"], wire["scores"]) == ("1.10", "red", "", {"a": str(2**60)})
    assert (wire["owner"], wire["mode"], wire["user"]) == ("00000000-0000-0000-0000-000000000001", "open", 7)


def test_a_server_only_value_is_nowhere():
    board = Board(todos=[Todo(text="a")], scores={"a": 1}, count=1)
    hidden_computed = str(1_000_003)
    for state in (board, commit(board), commit(board)._working()):
        shown = [
            repr(state), str(state), f"{state}", repr(state.todos), repr(state.first), state.model_dump_json(),
            repr(state.model_dump()), repr(state.model_dump(mode="json", exclude_none=True)), repr(state._wire()),
            to_xml(state), to_xml(P(state)), to_xml(Li(state.first)),
        ]  # fmt: skip
        for text in shown:
            assert SECRET not in text
            assert hidden_computed not in text
    assert board.secret == commit(board).secret == SECRET  # on the server it is there


def test_a_server_only_field_of_a_nested_model_is_not_in_its_signal():
    class Holder(ReactiveState):
        todo: AsSignal[Todo] = Todo(text="a")
        todos: AsSignal[list[Todo]] = [Todo(text="b")]

    snapshot = commit(Holder())
    assert snapshot._wire() == {"todo": {"text": "a", "done": False}, "todos": [{"text": "b", "done": False}]}
    assert changed(snapshot, lambda s: setattr(s.todo, "note", "x")).delta == {}


def test_a_hidden_field_has_no_signal_and_the_error_says_which_there_are():
    for name in ("secret", "secrets", "todos", "_cache", "hidden_double", "nothing"):
        with pytest.raises(AttributeError, match=f"no signal '{name}'; its signals are count, title"):
            getattr(Board().signal, name)


def test_a_state_is_no_iterable_that_could_spill_its_fields():
    with pytest.raises(TypeError):
        iter(Board())


def test_a_signal_is_an_expression_and_a_live_element():
    snapshot = commit(Board(count=3, title="<b>&"))
    signal = snapshot.signal.count
    assert isinstance(signal, SignalRef) and signal == "$Board.count" and f"{signal} > 1" == "$Board.count > 1"
    assert to_xml(P("n: ", signal), indent=False) == '<p>n: <span data-text="$Board.count">3</span></p>'
    assert "&lt;b&gt;&amp;" in to_xml(snapshot.signal.title, indent=False)
    assert dict(snapshot.signal.draft.bind()) == {"data-fs-bind": "Board.draft"}
    assert to_xml(commit(Board(due=None)).signal.due, indent=False) == '<span data-text="$Board.due"></span>'


def test_the_default_rendering_lists_the_visible_fields():
    html = to_xml(commit(Board(count=3, todos=[Todo(text="<a>")], scores={"x": 1})), indent=False)
    for part in ('data-fs-view="Board.__ft__"', "<dt>count</dt>", '<span data-text="$Board.count">3'):
        assert part in html
    assert "<a>" not in html and "&lt;a&gt;" in html
    for name in ("secret", "secrets", "hidden_double", "_cache"):
        assert f"<dt>{name}</dt>" not in html


def test_a_class_that_defines_ft_is_a_view_of_itself():
    class Names(ReactiveState):
        names: list[str] = []

        def __ft__(self):
            return Ul(*map(Li, self.names))

    class Loud(Names):
        def __ft__(self):
            return P("!")

    assert to_xml(commit(Names(names=["<a>"])), indent=False) == (
        '<ul data-fs-view="Names.__ft__"><li>&lt;a&gt;</li></ul>'
    )
    assert to_xml(Loud(), indent=False) == '<p data-fs-view="Loud.__ft__">!</p>'


# -- classes -----------------------------------------------------------------------------------------------------------

RESERVED = [
    "signal",
    "watch",
    "model_dump",
    "_fs",
    "_wire",
    "_provider",
    "_show",
    "_working",
    "__iter__",
    "copy",
    "json",
]


@pytest.mark.parametrize("name", [name for name in RESERVED if not name.startswith("_")])
def test_a_field_that_hides_a_name_of_the_library_is_an_error_at_once(name):
    with pytest.raises(EventDefinitionError, match=rf"Bad\.{name} hides a name"):
        type("Bad", (ReactiveState,), {"__annotations__": {name: int}, name: 0, "__module__": __name__})


@pytest.mark.parametrize("make", [event, view], ids=["event", "view"])
@pytest.mark.parametrize("name", [name for name in RESERVED if not name.startswith("__")])
def test_an_event_or_view_that_hides_a_name_of_the_library_is_an_error_at_once(name, make):
    def method(self):
        return None

    method.__name__ = name
    with pytest.raises(EventDefinitionError, match=rf"Bad\.{name} hides a name"):
        type("Bad", (ReactiveState,), {name: make(method), "__module__": __name__})


@pytest.mark.parametrize("name", ["_fs", "_wire", "_provider", "_namespace", "_show", "_working", "_run"])
def test_a_private_that_hides_a_name_of_the_library_is_an_error_at_once(name):
    for members in ({"__annotations__": {name: int}, name: 0}, {name: lambda self: None}, {name: 1}):
        with pytest.raises(EventDefinitionError, match="hides a name"):
            type("Bad", (ReactiveState,), {**members, "__module__": __name__})


def test_a_model_made_by_a_function_is_checked_too():
    with pytest.raises(EventDefinitionError, match="hides a name"):
        create_model("Bad", __base__=ReactiveState, watch=(int, 0))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (list[ServerOnly[int]], "around the whole type"),
        (dict[str, AsSignal[int]], "around the whole type"),
        (ServerOnly[int] | None, "around the whole type"),
        (Bound[list[int]], "not a scalar"),
        (Bound[ServerOnly[int]], "neither Bound nor AsSignal"),
    ],
)
@pytest.mark.filterwarnings("ignore:The '(exclude|repr)' attribute")  # pydantic's own, before our error
def test_a_marker_that_would_do_nothing_is_an_error_at_once(annotation, message):
    with pytest.raises(EventDefinitionError, match=message):
        create_model("Bad", __base__=ReactiveState, field=(annotation, ...))


@pytest.mark.filterwarnings("ignore:The '(exclude|repr)' attribute")
def test_a_computed_field_cannot_be_server_only_for_a_plain_property_is():
    with pytest.raises(EventDefinitionError, match="plain property"):

        class Bad(ReactiveState):
            @computed_field
            @property
            def secret(self) -> ServerOnly[int]:
                return 1


@dataclasses.dataclass
class Account:
    name: str = ""
    password: ServerOnly[str] = SECRET


@pytest.mark.parametrize("annotation", [Account, list[Account], Account | None, AsSignal[dict[str, Account]]])
def test_a_dataclass_cannot_hide_a_field_so_it_is_an_error_at_once(annotation):
    with pytest.raises(EventDefinitionError, match=r"Account\.password is ServerOnly"):
        create_model("Bad", __base__=ReactiveState, field=(annotation, ...))


def test_a_field_whose_name_cannot_be_a_signal_is_an_error_at_once():
    with pytest.raises(EventDefinitionError, match="cannot be a signal"):
        create_model("Bad", __base__=ReactiveState, größe=(int, 0))


def test_extra_fields_are_an_error():
    with pytest.raises(EventDefinitionError, match="extra='allow'"):
        type("Bad", (ReactiveState,), {"model_config": {"extra": "allow"}, "__module__": __name__})
    with pytest.raises(ValueError, match="Extra inputs"):
        Board(is_admin=True)


def test_a_subclass_inherits_overrides_and_adds():
    class Base(ReactiveState):
        n: int = 0

        @event
        def step(self):
            self.n += 1

        @view
        def shown(self):
            return P(self.n)

        @view
        def other(self):
            return P("base")

    class Sub(Base):
        m: int = 5

        @event
        def step(self):
            Base.step.event.function(self)
            self.m += 1

        @view
        def other(self):
            return P("sub")

    snapshot = commit(Sub())
    later = apply(snapshot, changed(snapshot, lambda s: s.step()))
    assert (later.n, later.m) == (1, 6)
    assert set(Sub._fs_schema().events) == {"step"} and set(Sub._fs_schema().views) == {"__ft__", "shown", "other"}
    assert "sub" in to_xml(later.other()) and "base" in to_xml(Base().other())
    assert set(Base._fs_schema().signals) == {"n"} and set(Sub._fs_schema().signals) == {"n", "m"}


def test_an_event_that_a_subclass_takes_away_is_none_of_its_events():
    class Base(ReactiveState):
        @event
        def step(self):
            """Nothing."""

    class Sub(Base):
        def step(self):
            """Plain Python."""

    assert "step" in Base._fs_schema().events and "step" not in Sub._fs_schema().events


def test_a_class_that_names_itself_works():
    class Node(BaseModel):
        children: list[Node] = []

    Node.model_rebuild(_types_namespace={"Node": Node})

    class Tree(ReactiveState):
        root: Node = Node()

    snapshot = commit(Tree())
    later = apply(snapshot, changed(snapshot, lambda s: s.root.children.append(Node())))
    assert len(later.root.children) == 1 and snapshot.root.children == []


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", ["own", "snapshot", "working"])
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda s: s.model_copy(), lambda s: s.model_copy(deep=True)],
    ids=["copy", "deepcopy", "model_copy", "model_copy deep"],
)  # fmt: skip
def test_a_copy_belongs_to_nobody_and_may_be_changed(life, duplicate):
    own = Board(numbers=[1], todos=[Todo(text="a")])
    source = {"own": own, "snapshot": commit(own), "working": commit(own)._working()}[life]
    twin = duplicate(source)
    assert twin == source == own and type(twin) is Board
    twin.count = 7
    twin.numbers.append(2)
    twin.todos[0].done = True
    assert (twin.count, twin.numbers, source.count, source.numbers) == (7, [1, 2], 0, [1])
    assert not source.todos[0].done and twin != source
    assert commit(own).model_copy(update={"count": 9}).count == 9


def test_states_are_equal_by_value_in_whichever_life():
    own = Board(numbers=[1], todos=[Todo(text="a")])
    snapshot, working = commit(own), commit(own)._working()
    assert own == snapshot == working == own
    working.numbers.append(2)
    assert working != own and own != "Board" and Board() != Checked()
    with pytest.raises(TypeError):
        hash(own)


def test_a_snapshot_can_be_pickled():
    snapshot = commit(Board(numbers=[1], todos=[Todo(text="a")]))
    twin = pickle.loads(pickle.dumps(snapshot))
    assert twin == snapshot
    twin.numbers.append(2)
    assert snapshot.numbers == [1]


class Pins(typing_extensions.TypedDict):
    pins: list[ServerOnly[str]]


class NamedPin(NamedTuple):
    pin: ServerOnly[str]


class HoldsPin(typing_extensions.TypedDict):
    named: NamedPin


# pydantic warns of some of these mistakes too.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.UnsupportedFieldAttributeWarning")
def test_server_only_where_it_would_hide_nothing_is_refused():
    class ComputedPin(BaseModel):
        @computed_field
        @property
        def pin(self) -> ServerOnly[str]:
            return "1234"

    alias = typing_extensions.TypeAliasType("alias", ServerOnly[str])
    for kind in (Pins, HoldsPin, NamedPin, ComputedPin, alias):
        with pytest.raises(EventDefinitionError, match="ServerOnly"):
            create_model("Holder", __base__=ReactiveState, held=(kind, ...))


def twice(value):
    return value * 2


class Scalars(ReactiveState):
    whole: int = 1
    bounded: int = Field(default=2, ge=0)
    real: float = math.nan
    large: int = 2**60
    text: str = "a"
    maybe: int | None = None
    yes: bool = True
    hidden_by_name: Annotated[int, Visible("hr")] = 5
    typed: Bound[str] = ""
    either: Annotated[int, PlainSerializer(twice)] | None = 4
    doubled: Annotated[int, PlainSerializer(twice)] = 3
    price: Decimal = Decimal("1.50")
    rows: AsSignal[list[int]] = [1]


def test_plain_scalars_are_on_the_wire_what_pydantic_makes_of_them(monkeypatch):
    names = set(Scalars._fs_schema().signals)
    plain = {"whole", "bounded", "real", "large", "text", "maybe", "yes", "hidden_by_name", "typed"}
    assert Scalars._fs_schema().plain == plain
    state = Scalars()
    quick = state._encode(set(plain)) | state._encode(names - plain)
    monkeypatch.setattr(Scalars._fs_schema(), "plain", frozenset())
    assert state._encode(names) == quick
    assert quick["either"] == 8 and quick["doubled"] == 6 and quick["real"] == "NaN" and quick["maybe"] == ""


def test_a_class_that_serialises_in_its_own_way_has_no_plain_scalars():
    class Own(ReactiveState):
        count: int = 1

        @field_serializer("count")
        def one_more(self, value: int) -> int:
            return value + 1

    assert not Own._fs_schema().plain and Own()._encode({"count"}) == {"count": 2}
