"""When two scalars are the same value, and which of them a page can show."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import math
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststate import EventError, ReactiveState, StateConfig, StateScope
from faststate.state.comparison import equal
from faststate.state.values import freeze
from faststate.validation.scalars import UnshowableError, check_showable, exact_key, same_scalar
from tests.support.states import provider_of, set_fields

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
TWICE = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)  # this hour comes twice, when summer time ends


class Level(enum.IntEnum):
    ONE = 1


class Money(decimal.Decimal):
    """A Decimal of the app's own."""


EQUAL_BUT_NOT_THE_SAME = [
    (NOON, NOON.astimezone(BERLIN)),
    (NOON, NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(0), "GMT"))),
    (TWICE, TWICE.replace(fold=1)),
    (datetime.time(2, fold=0), datetime.time(2, fold=1)),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    (Money("1.0"), Money("1.00")),
    (0.0, -0.0),
    (complex(0.0, 0.0), complex(0.0, -0.0)),
    (1, True),
    (1, 1.0),
    (1, Level.ONE),
    (range(0), range(1, 1)),
    (fractions.Fraction(1), 1),
]


@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: [[{"b": v}]]]
)
@pytest.mark.parametrize(("old", "new"), EQUAL_BUT_NOT_THE_SAME)
def test_an_equal_value_that_is_another_is_a_change(old, new, wrap):
    assert old == new or old is TWICE
    assert not equal(freeze(wrap(new)), freeze(wrap(old)))
    assert equal(freeze(wrap(new)), freeze(wrap(new)))


@pytest.mark.parametrize(("old", "new"), [(o, n) for o, n in EQUAL_BUT_NOT_THE_SAME if hash(o) == hash(n) and o == n])
def test_an_equal_member_or_key_that_is_another_is_a_change(old, new):
    for make in (lambda v: {v}, lambda v: frozenset({v}), lambda v: {v: 1}, lambda v: {(1, v)}):
        assert not equal(freeze(make(new)), freeze(make(old)))
        assert equal(freeze(make(new)), freeze(make(new)))


@pytest.mark.parametrize(("old", "new"), EQUAL_BUT_NOT_THE_SAME)
async def test_setting_it_in_a_state_is_committed(old, new):
    class Holder(ReactiveState):
        value: object = None
        values: list[object] = []
        table: dict[str, object] = {}

    provider = provider_of(Holder, StateConfig(scope=StateScope.GLOBAL))
    await set_fields(provider.modify(Holder), value=old, values=[old], table={"a": old})
    before = provider.registry.peek("global:Holder")
    for name in ("value", "values", "table"):
        async with provider.modify(Holder) as state:
            setattr(state, name, {"value": new, "values": [new], "table": {"a": new}}[name])
        after = provider.registry.peek("global:Holder")
        assert after is not before
        before = after
    assert repr((after.value, after.values, after.table)) == repr((new, [new], {"a": new}))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.decimals(),
    st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True), st.dates(), st.timedeltas(),
    st.times(timezones=st.none() | st.timezones()), st.uuids(), st.fractions(), st.ip_addresses(),
)  # fmt: skip


@given(SCALARS, SCALARS)
def test_the_same_value_has_the_same_key_and_is_written_alike(one, two):
    assert same_scalar(one, one) and exact_key(one) == exact_key(one)
    hash(exact_key(one))
    if type(one) is type(two):
        assert same_scalar(one, two) == (exact_key(one) == exact_key(two))
        if same_scalar(one, two):
            assert repr(one) == repr(two)


def test_a_number_that_is_none_stays_what_it_is():
    assert same_scalar(math.nan, math.nan) and same_scalar(float("nan"), float("nan"))
    assert same_scalar(decimal.Decimal("NaN"), decimal.Decimal("NaN"))
    assert equal(freeze([float("nan")]), freeze([float("nan")]))


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "\ud83d\ude00", 10**4300, -(10**5000)], ids=range(5))
def test_what_no_page_can_show_is_told_from_what_one_can(value):
    with pytest.raises(UnshowableError):
        check_showable(value)


@given(st.text() | st.integers() | st.booleans())
def test_all_else_can_be_shown(value):
    check_showable(value)
    str(value).encode()


UNSHOWABLE_CHANGES = {
    "field": lambda s: setattr(s, "text", "\ud800"),
    "any": lambda s: setattr(s, "anything", "\ud800"),
    "item": lambda s: s.items.append("\ud800"),
    "key": lambda s: s.table.__setitem__("\ud800", 1),
    "deep": lambda s: setattr(s, "anything", [{"a": ("\ud800",)}]),
    "member": lambda s: setattr(s, "anything", {("a", "\ud800")}),
    "number": lambda s: setattr(s, "anything", [10**5000]),
    "decimal": lambda s: setattr(s, "anything", [decimal.Decimal("1e999999999")]),
    "fraction": lambda s: setattr(s, "anything", {"a": fractions.Fraction(1, 10**5000)}),
    "decimal as a key": lambda s: setattr(s, "anything", {decimal.Decimal("1e-99999"): 1}),
}


@pytest.mark.parametrize("change", UNSHOWABLE_CHANGES.values(), ids=UNSHOWABLE_CHANGES)
async def test_a_state_refuses_what_no_page_could_show_and_stays_as_it_was(change):
    class Room(ReactiveState):
        text: str = ""
        items: list[str] = []
        table: dict[str, int] = {}
        anything: object = None

    provider = provider_of(Room, StateConfig(scope=StateScope.GLOBAL))
    with pytest.raises(EventError, match=r"^Room\.(text|items|table|anything)") as caught:
        async with provider.modify(Room) as state:
            change(state)
    assert caught.value.status == 400
    assert provider.registry.peek("global:Room").model_dump() == Room().model_dump()
