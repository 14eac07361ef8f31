"""Events: what the decorator records and refuses, and how a client's words become typed arguments."""

import datetime
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import pytest
from datastar_py.consts import ElementPatchMode
from pydantic import BaseModel, Field

from faststate import (
    ConfigurationError,
    EventArgumentError,
    EventDefinitionError,
    ReactiveState,
    Record,
    StateConfig,
    StateProvider,
    StateScope,
    event,
    expr,
)
from tests.support.values import Colour, validated


class Point(BaseModel):
    x: int = 0
    y: int = 0


class Shop(ReactiveState):
    left: int = 0


class Thing(ReactiveState):
    """Events of every kind and signature."""

    count: int = 0

    @event
    def bare(self):
        """Says what it does."""

    @event()
    def empty_options(self): ...

    @event(requires_auth=True, permissions=["p"], roles=["r"], owner_only=True, selector="#list", mode="append")
    async def options(self): ...

    @event
    async def generator(self):
        yield

    @event
    def scalars(
        self,
        number: int,
        ratio: float = 0.5,
        done: bool = False,
        day: datetime.date | None = None,
        price: Decimal = Decimal(1),
        token: uuid.UUID | None = None,
        colour: Colour = Colour.RED,
        kind: Literal["a", "b"] = "a",
        positive: Annotated[int, Field(gt=0)] = 1,
    ): ...

    @event
    def text(self, text: str): ...

    @event
    def maybe(self, text: str | None, number: Optional[int] = 5): ...  # noqa: UP045  # the form that people write

    @event
    def many(self, tags: list[str] = [], ids: set[int] | None = None, pair: tuple[int, int] = (0, 0)): ...  # noqa: B006

    @event
    def boxes(self, agree: bool, more: bool = True, text: str = ""): ...

    @event
    def nested(self, point: Point, table: dict[str, list[int]] = {}): ...  # noqa: B006

    @event
    def keyword_only(self, *, by: int): ...

    @event
    def anything(self, value: Any = None): ...

    @event
    def with_states(self, shop: Shop, record: Annotated[Shop, Record("sku")], sku: str): ...


def arguments(name, **raw):
    """Return the arguments that the event `name` of Thing gets from a call."""
    return validated(Thing._fs_schema().events[name].arguments, **{"explicit": {}, **raw})


def form(name, *pairs):
    return arguments(name, form=list(pairs), is_form=True)


# -- the decorator -----------------------------------------------------------------------------------------------------


def test_the_kind_follows_from_the_function():
    kinds = {name: found.kind for name, found in Thing._fs_schema().events.items()}
    assert (kinds["bare"], kinds["empty_options"], kinds["options"], kinds["generator"]) == (
        "sync", "sync", "async", "generator",
    )  # fmt: skip


def test_the_options_are_recorded():
    found = Thing._fs_schema().events["options"]
    assert (found.selector, found.mode) == ("#list", "append")
    assert (found.rule.requires_auth, found.rule.permissions, found.rule.roles, found.rule.owner_only) == (
        True, ("p",), ("r",), True,
    )  # fmt: skip
    assert not Thing._fs_schema().events["bare"].rule.restricts


def test_the_decorator_keeps_name_and_docstring():
    found = Thing._fs_schema().events["bare"]
    assert (found.__name__, found.__doc__) == ("bare", "Says what it does.")


def test_events_are_inherited_overridden_and_removed_by_name():
    class Child(Thing):
        @event
        def bare(self, by: int): ...

        def text(self, text): ...

    events = Child._fs_schema().events
    assert list(events["bare"].arguments.types) == ["by"]
    assert "many" in events
    assert "text" not in events  # overridden by a plain method, it is no event any more


def test_an_event_calls_another_as_plain_python():
    class Pair(ReactiveState):
        count: int = 0

        @event
        def one(self, by: int = 1):
            self.count += by
            return self.count

        @event
        def two(self):
            return self.one(2) + self.one(by=3)

    pair = Pair()
    assert (pair.two(), pair.count) == (7, 5)


def broken(source):
    """A class whose one event is `source`."""
    lines = "\n    ".join(source.strip().split("\n"))
    exec(f"class Broken(ReactiveState):\n    n: int = 0\n    {lines}", {**globals()})


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("@event\ndef e(self, by): ...", "'by'.*has no type"),
        ("@event\ndef e(self, *args: int): ...", "'args'.*named"),
        ("@event\ndef e(self, **more: int): ...", "'more'.*named"),
        ("@event\ndef e(self, by: int, /): ...", "'by'.*named"),
        ("@event\ndef e(): ...", "self"),
        ("@event\ndef e(self):\n    yield", "async def"),
        ("@event(mode='sideways')\ndef e(self): ...", "'sideways' is not a mode.*outer"),
        ("@event(mode='append')\ndef e(self): ...", "needs a selector"),
        ("@event(selector=' ')\ndef e(self): ...", "selector"),
        ("@event(selector='#a\\ndata: x')\ndef e(self): ...", "selector"),
        ("@event\ndef signal(self): ...", "signal hides a name of ReactiveState"),
        ("@event\ndef model_dump(self): ...", "model_dump hides a name"),
        ("@event\ndef watch(self): ...", "watch hides a name"),
    ],
)
def test_an_event_that_cannot_work_is_an_error_when_the_class_is_made(source, named):
    with pytest.raises(EventDefinitionError, match=named) as caught:
        broken(source)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("mode", ["outer", "replace"])
def test_these_modes_need_no_selector(mode):
    assert event(mode=mode)(lambda self: None).mode == mode


def test_all_modes_of_datastar_are_taken():
    for mode in ElementPatchMode:
        assert event(mode=mode.value, selector="#x")(lambda self: None).mode == mode.value


@pytest.mark.parametrize("annotation", ["Nowhere", "list[Nowhere]", "Annotated[Nowhere, 1]", "Optional[Nowhere]"])
@pytest.mark.parametrize("quoted", ["'{}'", "list['{}']", "Annotated['{}', 1]"])
def test_a_type_that_nobody_knows_is_an_error_at_registration(annotation, quoted):
    namespace = {**globals()}
    exec(f"class Broken(ReactiveState):\n    @event\n    def e(self, x: {quoted.format(annotation)}): ...", namespace)
    with pytest.raises(EventDefinitionError, match=r"Broken\.e"):
        StateProvider().register_state(namespace["Broken"], StateConfig())


# -- annotations -------------------------------------------------------------------------------------------------------


def test_annotations_may_be_strings():
    class Strings(ReactiveState):
        @event
        def e(
            self, by: "int", point: "Point", shop: "Shop", sku: "str", record: 'Annotated["Shop", Record("sku")]'
        ): ...

    bound = Strings._fs_schema().events["e"].arguments
    assert (list(bound.types), [s.name for s in bound.states]) == (["by", "point", "sku"], ["shop", "record"])
    assert [s.cls for s in bound.states] == [Shop, Shop]


def test_strings_inside_annotations_are_resolved_too():
    class Inside(ReactiveState):
        @event
        def e(
            self, late: Annotated["Late", Record("sku")], many: list["LatePoint"], maybe: Optional["Late"], sku: str
        ): ...

    bound = Inside._fs_schema().events["e"].arguments
    assert [(s.name, s.cls, s.optional) for s in bound.states] == [("late", Late, False), ("maybe", Late, True)]
    found = validated(bound, {"many": [{"x": "1"}], "sku": "s"})
    assert found == {"many": [LatePoint(x=1)], "sku": "s"}


class Late(ReactiveState):
    n: int = 0


class LatePoint(Point):
    pass


def test_future_annotations_resolve_for_classes_of_a_module_and_of_a_function():
    source = """
from __future__ import annotations
from typing import Annotated, Optional
from faststate import ReactiveState, Record, event

class Early(ReactiveState):
    n: int = 0
    @event
    def e(self, late: Late, by: int, record: Annotated[Late, Record("by")], shown: Optional[int] = None): ...

class Late(ReactiveState):
    n: int = 0

def local():
    from decimal import Decimal as Money
    class Stock(ReactiveState):
        n: int = 0
    class Local(ReactiveState):
        @event
        def e(self, stock: Stock, price: Money, by: int = 1): ...
        @event()
        def with_options(self, stock: Stock): ...
    return Stock, Local
"""
    namespace = {"__name__": "future_module"}
    exec(source, namespace)
    bound = namespace["Early"]._fs_schema().events["e"].arguments
    assert ([s.cls for s in bound.states], list(bound.types)) == ([namespace["Late"]] * 2, ["by", "shown"])
    stock, local = namespace["local"]()
    bound = local._fs_schema().events["e"].arguments
    assert [s.cls for s in bound.states] == [stock]
    assert validated(bound, {"price": "1.50"}) == {"price": Decimal("1.50")}
    assert [s.cls for s in local._fs_schema().events["with_options"].arguments.states] == [stock]


def test_parameters_that_are_states_are_no_arguments():
    bound = Thing._fs_schema().events["with_states"].arguments
    assert list(bound.types) == ["sku"]
    for name in ("shop", "record"):
        with pytest.raises(EventArgumentError, match=f"no argument '{name}'"):
            arguments("with_states", explicit={"sku": "a", name: {"left": 99}})


# -- values ------------------------------------------------------------------------------------------------------------


def test_values_become_what_the_annotations_say():
    token = uuid.uuid4()
    assert arguments(
        "scalars",
        explicit={
            "number": "3", "ratio": "1.5", "done": "on", "day": "2026-02-03", "price": "9.99", "token": str(token),
            "colour": "red", "kind": "b", "positive": 4,
        },
    ) == {
        "number": 3, "ratio": 1.5, "done": True, "day": datetime.date(2026, 2, 3), "price": Decimal("9.99"),
        "token": token, "colour": Colour.RED, "kind": "b", "positive": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "three"), ("number", 1.5), ("number", None), ("number", ""), ("ratio", "x"), ("done", "maybe"),
        ("day", "yesterday"), ("price", "cheap"), ("token", "x"), ("colour", "blue"), ("kind", "c"), ("positive", 0),
        ("number", {}), ("number", [1]),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_an_error_that_names_its_argument(name, value):
    with pytest.raises(EventArgumentError, match=rf"Thing\.scalars: argument '{name}'"):
        arguments("scalars", explicit={"number": 1, name: value})


def test_an_error_does_not_repeat_what_was_sent():
    with pytest.raises(EventArgumentError) as caught:
        arguments("scalars", explicit={"number": "<script>hidden</script>"})
    assert "hidden" not in str(caught.value)


def test_missing_and_unknown_arguments_are_named():
    with pytest.raises(EventArgumentError, match="the argument 'number' is missing"):
        arguments("scalars")
    with pytest.raises(EventArgumentError, match="no argument 'nothing'; it takes text"):
        arguments("text", explicit={"text": "a", "nothing": 1})
    with pytest.raises(EventArgumentError, match="it takes none"):
        arguments("bare", explicit={"x": 1})
    for hidden in ("self", "return", "count"):
        with pytest.raises(EventArgumentError, match=f"'{hidden}'"):
            arguments("text", explicit={"text": "a", hidden: 1})


def test_nested_values_are_validated_and_the_error_says_where():
    assert arguments("nested", explicit={"point": {"x": "1"}, "table": {"a": ["2"]}}) == {
        "point": Point(x=1),
        "table": {"a": [2]},
    }
    with pytest.raises(EventArgumentError, match=r"'point' at x"):
        arguments("nested", explicit={"point": {"x": "one"}})
    with pytest.raises(EventArgumentError, match=r"'table' at a\.1"):
        arguments("nested", explicit={"point": {}, "table": {"a": [1, "two"]}})


def test_keyword_only_and_any_arguments_work():
    assert arguments("keyword_only", explicit={"by": "2"}) == {"by": 2}
    assert arguments("anything", explicit={"value": [1, {"a": None}]}) == {"value": [1, {"a": None}]}


# -- sources -----------------------------------------------------------------------------------------------------------


def test_explicit_arguments_win_over_the_form_the_url_and_signals_in_this_order():
    sources = {
        "signals": {"text": "signal"},
        "query": [("text", "url")],
        "form": [("text", "form")],
        "explicit": {"text": "explicit"},
    }
    for expected in ("explicit", "form", "url", "signal"):
        assert arguments("text", **sources) == {"text": expected}
        sources.pop({"url": "query", "signal": "signals"}.get(expected, expected))


def test_signals_of_other_names_are_ignored():
    assert arguments("text", signals={"text": "mine", "Counter": {"count": 1}, "self": 2}) == {"text": "mine"}


def test_an_unknown_form_field_or_query_parameter_is_named():
    for source in ("form", "query"):
        with pytest.raises(EventArgumentError, match="'other'"):
            arguments("text", **{source: [("text", "a"), ("other", "b")]})


def test_fields_that_repeat_become_lists_sets_and_tuples():
    assert form("many", ("tags", "a"), ("tags", "b"), ("ids", "1"), ("ids", "2"), ("pair", "1"), ("pair", "2")) == {
        "tags": ["a", "b"],
        "ids": {1, 2},
        "pair": (1, 2),
    }
    assert form("many", ("tags", "alone")) == {"tags": ["alone"]}
    assert form("many") == {}
    assert form("text", ("text", "first"), ("text", "last")) == {"text": "last"}


def test_a_box_that_is_not_ticked_is_false_and_a_default_stays_a_default():
    assert form("boxes", ("agree", "on")) == {"agree": True}
    assert form("boxes", ("text", "x")) == {"agree": False, "text": "x"}
    with pytest.raises(EventArgumentError, match="'agree' is missing"):  # no form, so nothing was left unticked
        arguments("boxes")


def test_an_empty_field_is_none_where_none_is_possible_and_text_elsewhere():
    assert form("maybe", ("text", ""), ("number", "")) == {"text": None, "number": None}
    assert form("text", ("text", "")) == {"text": ""}
    assert arguments("maybe", signals={"text": "", "number": ""}) == {"text": None, "number": None}
    with pytest.raises(EventArgumentError, match="'number'"):
        form("scalars", ("number", ""))


def test_a_hyphen_in_a_field_name_is_an_underscore():
    assert arguments("with_states", query=[("sku", "a")]) == {"sku": "a"}

    class Hyphen(ReactiveState):
        @event
        def e(self, due_date: str): ...

    bound = Hyphen._fs_schema().events["e"].arguments
    assert validated(bound, {}, form=[("due-date", "x")], is_form=True) == {"due_date": "x"}


# -- what is written into a page ---------------------------------------------------------------------------------------


def test_an_unknown_argument_is_an_error_where_it_is_written():
    for write in (lambda **a: Thing.text.on("click", **a), Thing.text.post, Thing.text.to):
        with pytest.raises(EventArgumentError, match=r"'txet'.*text"):
            write(txet="a")


def test_the_url_of_an_event_names_class_event_and_arguments():
    assert Thing.text.to() == "/_faststate/event/Thing/text"
    assert Thing.text.to(text="a b&c") == "/_faststate/event/Thing/text?text=a+b%26c"
    assert Thing.many.to(tags=["a", "b"]) == "/_faststate/event/Thing/many?tags=a&tags=b"


@pytest.mark.parametrize("unfit", [{"a": 1}, [["a"]], [{"a": 1}], Point(x=1)], ids=repr)
def test_what_no_query_string_can_hold_is_an_error_where_the_url_is_written(unfit):
    with pytest.raises(EventArgumentError, match="so not the argument 'tags'"):
        Thing.many.to(tags=unfit)


def test_an_expression_is_written_as_it_is_and_a_value_as_json():
    written = Thing.scalars.post(number=expr("el.value"), kind="a'b\"c")
    assert "(el.value)" in written
    assert "a'b\\\"c" in written
    assert "@post(" not in Thing.text.post(text="@post('/x')")


def test_arguments_that_are_left_out_are_asked_of_the_signals():
    assert 's:["text"]' in Thing.text.post()
    assert 's:["text"]' not in Thing.text.post(text="given")
    assert 's:["ratio",' in Thing.scalars.post(number=1)


def test_an_event_of_one_of_several_states_needs_that_state():
    provider = StateProvider()

    @provider.state(scope=StateScope.RECORD)
    class Product(ReactiveState):
        @event
        def buy(self): ...

    with pytest.raises(EventDefinitionError, match=r"state\.buy\.on"):
        Product.buy.on("click")


def test_arguments_of_the_very_type_are_taken_and_all_others_validated():
    assert arguments("scalars", explicit={"number": 2, "done": True})["number"] == 2
    assert arguments("scalars", explicit={"number": "2", "done": "true"})["done"] is True
    assert type(arguments("scalars", explicit={"number": True, "done": 0})["number"]) is int
    for wrong in ({"number": "x"}, {"number": 1.5}, {"number": 1, "more": 1}, {}):
        with pytest.raises(EventArgumentError):
            arguments("scalars", explicit=wrong)
    assert arguments("text", explicit={"text": "é"}) == {"text": "é"}
