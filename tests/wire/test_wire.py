"""Values, minimal patches, attributes and frames arrive at Datastar as they were meant."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import json
import math
import uuid
from html import unescape

import pytest
from datastar_py.attributes import JSExpression
from fastcore.xml import Div, to_xml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from faststate._compat.json import compact_encoder
from faststate.wire.frames import elements_frame, signals_frame
from faststate.wire.values import (
    MAX_SAFE_INTEGER,
    attribute_json,
    depth_of,
    display,
    js,
    merge_patch,
    nest,
    patch_steps,
    same,
    to_wire,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Line(BaseModel):
    text: str = "a"
    due: datetime.date | None = None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HOSTILE_TEXT = st.lists(
    st.sampled_from(["@post(", "@", "$x", "${x}", ";", "\\", "'", '"', "`", "/", "</script>", "&quot;", "\n", "\u2028"])
    | TEXT,
    max_size=6,
).map("".join)
HOSTILE = ["@post('/x')", "a\\;b", "\\", "\\\\", '"', "\\u0040", "`${$x}`", "</script><b>", "$Counter.count", "//;/*"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE_TEXT
PYTHON = st.recursive(
    SCALARS | st.decimals() | st.dates() | st.uuids() | st.sampled_from([Colour.RED, Level.HIGH, Line()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=8,
)
WIRE_SCALARS = st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | HOSTILE_TEXT
KEYS = st.text("abc", min_size=1, max_size=2)
WIRE = st.recursive(
    WIRE_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def parts(value):
    """`value` and all that is in it."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for child in below for part in parts(child))]


@given(PYTHON)
def test_a_signal_is_never_null_and_always_json_that_javascript_can_hold(value):
    wire = to_wire(value)
    assert json.loads(json.dumps(wire, allow_nan=False)) == wire
    for part in parts(wire):
        assert isinstance(part, bool | int | float | str | list | dict)
        if type(part) is int:
            assert abs(part) <= MAX_SAFE_INTEGER


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, ""),
        (True, True),
        (2**53 - 1, 9007199254740991),
        (2**53, "9007199254740992"),
        (-(2**53), "-9007199254740992"),
        (10**30, "1" + "0" * 30),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (1.5, 1.5),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 1, 2, tzinfo=datetime.UTC), "2024-02-29T01:02:00Z"),
        (datetime.timedelta(minutes=1), "PT1M"),
        (Colour.RED, "red"),
        (Level.HIGH, 2),
        (b"\xff", "_w=="),
        ([None, 2**60], ["", str(2**60)]),
        ((1, {2}), [1, [2]]),
        ({1: None, "a": {"b": math.nan}}, {"1": "", "a": {"b": "NaN"}}),
        (Line(due=None), {"text": "a", "due": ""}),
        ({"__proto__": 1, "a": 2}, {"a": 2}),
    ],
)
def test_each_kind_of_value_arrives_usable(value, wire):
    assert json.dumps(to_wire(value)) == json.dumps(wire)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (-0.0, "0"), ("", ""), ("a", "a"),
        ([1, True, "a"], "1,true,a"), ([], ""), ([[1, 2], 3], "1,2,3"), ({}, "[object Object]"), (1e300, "1e+300"),
        (1e-7, "1e-7"), (1e16, "10000000000000000"), (0.1, "0.1"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (1.5e-5, "0.000015"), (123456789.125, "123456789.125"), (0.00001, "0.00001"), (1.25e-10, "1.25e-10"),
        (1e-6, "0.000001"), (1.2345678901234567e20, "123456789012345670000"), (-1.5e300, "-1.5e+300"),
    ],
)  # fmt: skip
def test_the_first_paint_writes_a_value_as_javascript_does(value, text):
    assert display(value) == text


class Datastar:
    """Datastar 1.0's signals: how it merges a patch into them (its functions `mergePatch` and `mergeInner`)."""

    def __init__(self, signals):
        self.root = copy.deepcopy(signals)

    def patch(self, signals):
        for name, item in signals.items():
            if item is None:
                self.root.pop(name, None)
            else:
                self._merge(item, name, self.root)
        return self.root

    def _merge(self, item, name, target):
        if not isinstance(item, dict):
            target[name] = copy.deepcopy(item)
            return
        if not isinstance(target.get(name), dict | list):
            target[name] = {}
        for key, below in item.items():
            if below is None and isinstance(target[name], dict):
                target[name].pop(key, None)
            elif isinstance(target[name], dict):
                self._merge(below, key, target[name])
            # else a property of an array, which is not to be seen in what the array holds


def turns_a_list_into_a_dict(old, new):
    """Datastar keeps the array and gives it properties: no single patch can do this."""
    if isinstance(old, list):
        return isinstance(new, dict)
    both = isinstance(old, dict) and isinstance(new, dict)
    return both and any(turns_a_list_into_a_dict(old[key], new[key]) for key in old.keys() & new.keys())


@given(WIRE, WIRE)
@example({"a": 1, "b": 2}, {"b": 2})
@example({"a": {"b": 1}}, {"a": {}})
@example({"a": 1}, {"a": True})
@example({"a": [1, 0]}, {"a": [True, False]})
@example({"a": {"b": 1}}, {"a": ""})
@example("", {})
def test_a_patch_makes_the_old_value_the_new_one(old, new):
    if turns_a_list_into_a_dict(old, new):
        return
    assert same(Datastar({"f": old}).patch({"f": merge_patch(old, new)}), {"f": new})


def test_a_list_that_becomes_a_dict_becomes_one_in_the_page():
    for old, new in [
        ({"f": [1]}, {"f": {"a": 1}}),
        ({"f": {"b": [1], "c": 2}, "g": 1}, {"f": {"b": {"a": 1}}, "g": 2}),
    ]:
        page = Datastar(old)
        delta = {name: merge_patch(old[name], new[name]) for name in new}
        for step in patch_steps(old, delta, new):
            page.patch(step)
        assert same(page.root, new)


@given(st.dictionaries(KEYS, WIRE, max_size=5))
def test_nothing_is_sent_where_nothing_changed(value):
    assert merge_patch(value, copy.deepcopy(value)) == {}


@given(st.dictionaries(KEYS, WIRE, max_size=5), KEYS, WIRE)
def test_a_patch_holds_what_changed_and_nothing_else(old, key, item):
    new = {**old, key: item}
    patch = merge_patch(old, new)
    assert set(patch) == (set() if key in old and same(old[key], item) else {key})


def test_a_removed_key_is_sent_as_null_and_an_unchanged_neighbour_is_not():
    assert merge_patch({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 2}, "b": 3}) == {"a": {"x": None}}


@given(WIRE)
def test_the_same_value_is_the_same(value):
    assert same(value, copy.deepcopy(value))
    assert not same(value, [value]) and not same([value], [])


def test_one_and_true_are_two_values_to_javascript():
    assert not same(1, True) and not same({"a": [0]}, {"a": [False]}) and same(1, 1.0)


@given(WIRE)
@example(HOSTILE)
@example({text: text for text in HOSTILE})
def test_no_string_breaks_an_attribute(value):
    text = attribute_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("@;/`$\n\r\u2028\u2029") and text.isascii()
    assert "\\\\" not in text  # no backslash but one that starts an escape: `\";` and `\\;` cannot be told apart
    html = to_xml(Div(**{"data-signals": text}), indent=False)
    quote = html[len("<div data-signals=")]
    raw = html.removeprefix(f"<div data-signals={quote}").removesuffix(f"{quote}></div>")
    assert quote not in raw and unescape(raw) == text


@given(WIRE)
def test_javascript_source_of_a_value_is_the_value(value):
    assert json.loads(js(value)) == value


def test_javascript_source_of_what_is_no_json():
    assert js(None) == "null" and js([None, {"a": None}]) == '[null,{"a":null}]'
    assert js(JSExpression("el.value")) == "(el.value)"
    assert js({"a": JSExpression("evt.detail, 1")}) == '{"a":(evt.detail, 1)}'
    assert js(datetime.date(2024, 1, 2)) == '"2024-01-02"'
    assert js(2**60) == f'"{2**60}"'


def read_event(frame: bytes):
    """The type of an SSE frame and its data lines, as a browser splits them."""
    assert frame.endswith(b"\n\n")
    lines = [line for line in frame.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    names = [line.partition(": ")[0] for line in lines]
    assert set(names) <= {"event", "data"} and names.count("event") == 1
    return lines[0].removeprefix("event: "), [line.partition(": ")[2] for line in lines[1:]]


@given(st.dictionaries(KEYS, WIRE, max_size=3))
def test_a_frame_of_signals_says_what_they_are(signals):
    kind, data = read_event(signals_frame(signals))
    assert kind == "datastar-patch-signals"
    assert json.loads("\n".join(line.removeprefix("signals ") for line in data)) == signals


EXOTIC = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text("ab <&\n" + EXOTIC, max_size=20))
@example(f"a{EXOTIC}b")
def test_a_frame_of_elements_keeps_every_character(text):
    """CR and CRLF are line feeds to an HTML parser anyway."""
    kind, data = read_event(elements_frame(f'<p id="p">{text}</p>'))
    assert kind == "datastar-patch-elements"
    html = "\n".join(line.removeprefix("elements ") for line in data)
    assert html == f'<p id="p">{text}</p>'.replace("\r\n", "\n").replace("\r", "\n")


def test_a_lone_surrogate_cannot_stop_a_frame():
    assert b"a?b" in elements_frame("<p>a\ud800b</p>")


def test_a_frame_of_elements_says_where_and_how():
    kind, data = read_event(elements_frame("<p>x</p>", selector="#list", mode="append"))
    assert kind == "datastar-patch-elements"
    assert sorted(data) == ["elements <p>x</p>", "mode append", "selector #list"]


@given(WIRE)
def test_depth_counts_the_levels_of_nesting(value):
    def slowly(part):
        below = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if below is None else 1 + max(map(slowly, below), default=0)

    assert depth_of(value) == slowly(value)
    assert depth_of([value]) == depth_of({"a": value}) == depth_of(value) + 1


def test_depth_of_what_is_deeper_than_the_stack_is_found():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert depth_of(deep) == 100_001
    while deep:  # taken apart here, since freeing it at once recurses
        deep = deep.pop()


@given(st.lists(KEYS, min_size=1, max_size=4), WIRE)
def test_nesting_puts_a_leaf_under_its_path(path, leaf):
    found = nest(tuple(path), leaf)
    for segment in path:
        assert list(found) == [segment]
        found = found[segment]
    assert found == leaf


@given(st.dictionaries(KEYS, WIRE, max_size=4))
def test_a_frame_holds_the_json_that_python_writes(signals):
    written = json.dumps(signals, separators=(",", ":"))
    assert signals_frame(signals) == f"event: datastar-patch-signals\ndata: signals {written}\n\n".encode()


def test_without_the_encoder_in_c_frames_are_the_same(monkeypatch):
    signals = {"Counter": {"count": 1, "text": "é\u2028", "more": [1.5, {"a": False}]}}
    quick = compact_encoder()(signals)
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert compact_encoder()(signals) == quick == json.dumps(signals, separators=(",", ":"))


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_is_no_wire_value_is_no_frame(value):
    with pytest.raises((ValueError, TypeError)):
        signals_frame({"Counter": {"count": value}})
