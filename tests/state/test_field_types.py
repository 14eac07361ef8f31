"""Which types a field may have: each row of the table in docs/state.md is tried, in memory and over a restart."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import fractions
import ipaddress
import pathlib
import re
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, TypeVar, Union

import pytest
from pydantic import BaseModel, ByteSize, ConfigDict, Field, HttpUrl, Json, RootModel, Secret, SecretStr, create_model
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from faststate import (
    AsSignal,
    ConfigurationError,
    ReactiveState,
    ReadOnlyStateError,
    StateConfig,
    StateProvider,
    StateScope,
)
from tests.support import ROOT
from tests.support.states import provider_of
from tests.support.values import Box, Colour, Level, Place, Point, Rights, Slotted, Spot

TABLE = ROOT / "docs" / "state.md"
T = TypeVar("T")


class Model(BaseModel):
    n: int = 0
    tags: list[str] = []


class Frozen(Model):
    model_config = ConfigDict(frozen=True)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int = 0


class Numbers(RootModel[list[int]]):
    pass


class Anything(RootModel[dict[str, Any]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Tree(BaseModel):
    kids: list[Tree] = []


@dataclasses.dataclass
class GenericData(Generic[T]):
    content: T


class Table(TypedDict):
    n: int
    rows: NotRequired[list[str]]


class Sku(str):
    """A str of the app's own, which pydantic is told how to make."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


UserId = NewType("UserId", int)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

# By the heading of their row: annotations, each with a value of it.
KEPT: dict[str, list[tuple[Any, Any]]] = {
    "str, bytes, bool, None": [
        (str, "ä"), (bytes, b"\xff"), (bool, True), (None, None), (str | None, None), (UserId, 5), (Sku, Sku("a")),
        (Hashable, "a"),
    ],
    "int, float, complex, Decimal, Fraction": [
        (int, 2**70), (float, -0.0), (float, float("inf")), (complex, complex(0.0, -0.0)),
        (decimal.Decimal, decimal.Decimal("1.00")), (decimal.Decimal, decimal.Decimal("1E+400")),
        (fractions.Fraction, fractions.Fraction(1, 3)), (ByteSize, ByteSize(5)),
    ],
    "date, datetime, time, timedelta, ZoneInfo": [
        (datetime.date, datetime.date(2026, 1, 31)), (datetime.timedelta, datetime.timedelta(1, 2, 3)),
        (datetime.datetime, datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
        (datetime.time, datetime.time(1, 2, fold=1)), (zoneinfo.ZoneInfo, BERLIN),
    ],
    "UUID, IP addresses and networks, Path, re.Pattern": [
        (uuid.UUID, uuid.UUID(int=5)), (ipaddress.IPv4Address, ipaddress.IPv4Address("1.2.3.4")),
        (ipaddress.IPv6Address, ipaddress.IPv6Address("::1")),
        (ipaddress.IPv4Network, ipaddress.IPv4Network("10.0.0.0/8")),
        (ipaddress.IPv6Network, ipaddress.IPv6Network("::/64")),
        (ipaddress.IPv4Interface, ipaddress.IPv4Interface("1.2.3.4/24")),
        (ipaddress.IPv6Interface, ipaddress.IPv6Interface("::1/64")),
        (pathlib.Path, pathlib.Path("/a/b")), (re.Pattern[str], re.compile("a+", re.IGNORECASE)),
        (re.Pattern[bytes], re.compile(b"a+", re.DOTALL)),
    ],
    "Enum, IntEnum, StrEnum, Flag, Literal": [
        (Colour, Colour.RED), (Level, Level.LOW), (Rights, Rights.READ | Rights.WRITE), (Literal["a", 1], 1),
    ],
    "list, tuple, set, frozenset, dict": [
        (list[int], [1]), (list, [1, "a"]), (tuple[int, ...], (1, 2)), (tuple[int, str], (1, "a")), (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})), (dict[str, int], {"a": 1}), (dict[int, list[str]], {1: ["a"]}),
        (list[set[int]], [{1}]), (set[Place], {Place(1)}), (dict[Place, int], {Place(1): 1}),
    ],
    "Sequence, Mapping, Set and their Mutable ones": [
        (Sequence[int], [1]), (Sequence[int], (1,)), (Mapping[str, int], {"a": 1}),
        (MutableMapping[str, int], {"a": 1}),
        (AbstractSet[int], frozenset({1})), (MutableSequence[int], [1]), (MutableSet[int], {1}),
    ],
    "TypedDict, NamedTuple": [(Table, {"n": 1, "rows": ["a"]}), (Point, Point(1, [2])), (list[Point], [Point(1, [2])])],
    "BaseModel, also frozen, generic, with extra fields; RootModel": [
        (Model, Model(n=1, tags=["a"])), (Frozen, Frozen(n=1, tags=["a"])), (Open, Open(n=1, more=[1, {"a": (2,)}])),
        (Numbers, Numbers([1])), (Anything, Anything({"a": [1]})), (Anything, Anything({"root": 1})),
        (Box[int], Box[int](held=1)), (Box[list[int]], Box[list[int]](held=[1])), (Tree, Tree(kids=[Tree()])),
        (Cat | Dog, Dog()), (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
        (dict[str, Model], {"a": Model()}), (tuple[list[int], Model], ([1], Model())),
    ],
    "dataclasses, also frozen, with slots, generic": [
        (Spot, Spot(1, [2])), (Place, Place(1)), (Slotted, Slotted(1)), (list[Spot], [Spot()]),
        (GenericData[int], GenericData(1)),
    ],
    "pydantic's own types (URLs, secrets, `Json`)": [
        (HttpUrl, HttpUrl("https://example.org/")), (SecretStr, SecretStr("x")), (Secret[int], Secret[int](5)),
        (Json[list[int]], "[1]"),
    ],
    "Any, object": [(Any, {"a": [1, (2, {3})]}), (object, [1]), (list[Any], [1, "a", None])],
}  # fmt: skip
REFUSED: dict[str, list[Any]] = {
    "deque": [collections.deque[int], list[collections.deque[int]], collections.deque | None],
    "defaultdict, Counter, OrderedDict, ChainMap": [
        collections.defaultdict[str, int], collections.Counter[str], collections.OrderedDict[str, int],
    ],
    "Iterable, Iterator, Generator": [Iterable[int], typing.Iterator[int]],
    "Callable, classes (`type[X]`)": [Callable[[], int], type[int], dict[str, Callable[[int], int]]],
    "another state": [],
    "any other class": [],
}  # fmt: skip


def rows_of(heading: str) -> set[str]:
    """The first cells of the table behind a heading."""
    text = TABLE.read_text().partition(heading)[2]
    lines = text.partition("|---|")[2].splitlines()[1:]
    table = lines[: next(place for place, line in enumerate(lines) if not line.startswith("|"))]
    return {line.split(" | ")[0].removeprefix("| ").strip() for line in table}


def test_each_row_of_the_tables_is_tried():
    assert rows_of("## Types of fields") == KEPT.keys()
    assert rows_of("These are refused") == REFUSED.keys()


def contents(value: Any) -> str:
    return repr(value) if not isinstance(value, Secret | SecretStr) else repr(value.get_secret_value())


CASES = [pytest.param(*case, id=f"{row}-{place}") for row, cases in KEPT.items() for place, case in enumerate(cases)]


@pytest.mark.filterwarnings(
    "ignore:Pydantic serializer warnings"
)  # of a pattern in bytes, which pydantic takes for str
@pytest.mark.parametrize(("annotation", "value"), CASES)
async def test_a_type_of_the_table_is_kept_frozen_compared_stored_and_shown(annotation, value, tmp_path):
    def registered() -> tuple[StateProvider, type[ReactiveState]]:
        optional = Union[annotation, None]  # noqa: UP007  # `|` is not for all of them
        fields: dict[str, Any] = {"x": (optional, None), "shown": (AsSignal[optional], None)}
        cls = create_model("Holder", __base__=ReactiveState, **fields)
        provider = provider_of(cls, StateConfig(scope=StateScope.GLOBAL), store=f"sqlite:///{tmp_path / 'state.db'}")
        return provider, cls

    provider, cls = registered()
    await provider.start()
    async with provider.modify(cls) as state:
        state.x = state.shown = value
    kept = provider.registry.peek("global:Holder")
    if not isinstance(value, str) or annotation is str:
        assert contents(kept.x) == contents(value)
    async with provider.modify(cls) as state:
        state.x = state.x
        assert contents(state.x) == contents(kept.x)  # thawed
    assert provider.registry.peek("global:Holder") is kept
    kept.model_dump_json()
    str(kept.__ft__())
    if isinstance(kept.x, list | dict | set):
        with pytest.raises(ReadOnlyStateError):
            kept.x.clear()
    await provider.stop()
    provider, cls = registered()
    await provider.start()
    async with provider.modify(cls) as state:
        assert contents(state.x) == contents(kept.x)
    again = provider.registry.peek("global:Holder")
    assert contents(again.x) == contents(kept.x) and type(again.x) is type(kept.x)
    await provider.stop()


class Handle:
    """Something that a state cannot know how to keep."""


class Other(ReactiveState):
    n: int = 0


@dataclasses.dataclass(unsafe_hash=True)
class HashedData:
    n: int = 0


@dataclasses.dataclass
class WithQueue:
    queue: collections.deque[int] = dataclasses.field(default_factory=collections.deque)


class WithTable(BaseModel):
    table: collections.defaultdict[str, int] = collections.defaultdict(int)


@pytest.mark.parametrize(
    ("annotation", "instead"),
    [(each, "use ") for cases in REFUSED.values() for each in cases]
    + [
        (collections.deque[int], r"Holder\.x holds a deque, .* use a list"),
        (collections.Counter[str], r"use a dict\[str, int\]"),
        (Other, "Other, .* use its id"),
        (list[Other], "use its id"),
        (Handle, "Handle, .* a pydantic model, a dataclass"),
        (WithQueue, r"Holder\.x holds a deque"),
        (list[WithTable], r"Holder\.x holds a defaultdict"),
        (Annotated[list[int | collections.deque[int]], Field(max_length=3)], "deque"),
        (set[HashedData], "HashedData as a key or in a set, .* use a frozen class"),
        (dict[HashedData, int], "HashedData as a key or in a set"),
        (dict[str, frozenset[tuple[int, HashedData]]], "HashedData as a key or in a set"),
        (dict[frozenset[int], int], "frozenset as a key, .* use a tuple"),
    ],
)
def test_a_type_that_cannot_be_kept_is_refused_at_registration(annotation, instead):
    cls = create_model("Holder", __base__=ArbitraryBase, x=(Union[annotation, None], None))  # noqa: UP007  # `|` is not for all of them
    with pytest.raises(ConfigurationError, match=instead):
        StateProvider().register_state(cls)


class ArbitraryBase(ReactiveState):
    model_config = ConfigDict(arbitrary_types_allowed=True)


@pytest.mark.parametrize("default", [collections.deque([1]), [bytearray(b"a")], {"a": Handle()}, "\ud800"])
def test_a_default_that_cannot_be_kept_is_refused_at_registration(default):
    cls = create_model("Holder", __base__=ReactiveState, x=(Any, default))
    with pytest.raises(ConfigurationError, match=r"the default of Holder\.x cannot be kept"):
        StateProvider().register_state(cls)
