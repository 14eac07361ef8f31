"""Kinds of values that a field may hold, for every test of something that keeps them: examples, and what makes any."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import re
import uuid
import zoneinfo
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    HttpUrl,
    PostgresDsn,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    create_model,
)
from pydantic_core import MultiHostUrl, TzInfo, Url
from typing_extensions import TypedDict

from faststate import ReactiveState
from faststate.state.arguments import Arguments

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TWICE = datetime.datetime(2026, 10, 25, 2, 30)  # an hour that Berlin has two times
UTC = datetime.UTC


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Size(enum.StrEnum):
    SMALL = "s"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Planet(enum.Enum):
    EARTH = (5.97, 6371)


class Line(BaseModel):
    text: str = ""
    done: bool = False
    tags: list[str] = []


class Point(NamedTuple):
    x: int
    y: list[int]


@dataclasses.dataclass
class Spot:
    x: int = 0
    path: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int = 0


@dataclasses.dataclass(frozen=True)
class Place:
    x: int = 0


class Fixed(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int = 0


class Word(str):
    """A str that is more than one."""


def state_of(annotation: Any) -> type[ReactiveState]:
    """A state class with one field, `x`."""
    made: type[ReactiveState] = create_model("Thing", __base__=ReactiveState, x=(annotation, ...))
    return made


def type_name(value: Any) -> str:
    return type(value).__name__


def as_id(value: Any) -> str:
    """A value as the name of a test has it: the same in every process, so without addresses and the order of sets."""
    text = f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, set) else repr(value)
    return re.sub(r" at 0x\w+", "", text)


def canonical(value: Any, *, ordered: bool = True) -> str:
    """A value as text that tells every other value and type from it; without `ordered`, not the order of its dicts."""
    kind, text = type(value).__name__, functools.partial(canonical, ordered=ordered)
    if kind == "int":
        return f"int:{value:x}"  # Python writes no decimal digits beyond some thousand
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).__pydantic_fields__}
        return f"{kind}({text(fields)}{text(value.__pydantic_extra__)})"
    if dataclasses.is_dataclass(value):
        return f"{kind}({text({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})})"
    if isinstance(value, dict):
        items = [f"{text(key)}:{text(item)}" for key, item in value.items()]
        return f"{{{','.join(items if ordered else sorted(items))}}}"
    if isinstance(value, set | frozenset):
        return f"{kind}({','.join(sorted(map(text, value)))})"
    if isinstance(value, list | tuple):
        return f"{kind}({','.join(map(text, value))})"
    if isinstance(value, SecretStr | SecretBytes | Secret):
        return f"{kind}:{text(value.get_secret_value())}"
    return f"{kind}:{value!r}"


SCALARS = [
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    -(2**64),
    2**2048,
    0.1,
    -0.0,
    5e-324,
    1e22,
    1.0,
    math.nan,
    math.inf,
    -math.inf,
    1 - 2j,
    complex(-0.0, math.nan),
    "",
    "é\0\u2028😀",
    b"\x00\xff",
    datetime.date(2026, 1, 31),
    datetime.datetime(2026, 1, 31, 12, 0, 0, 1),
    TWICE.replace(fold=1),
    TWICE.replace(fold=1, tzinfo=BERLIN),
    TWICE.replace(tzinfo=UTC),
    TWICE.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-3, microseconds=1), "odd")),
    TWICE.replace(tzinfo=TzInfo(-5400)),
    datetime.time(1, 2, 3, 4),
    datetime.time(1, fold=1, tzinfo=UTC),
    datetime.timedelta(-1, 2, 3),
    decimal.Decimal("1.10"),
    decimal.Decimal("-0E-7"),
    decimal.Decimal("NaN"),
    decimal.Decimal("sNaN12"),
    uuid.UUID(int=5),
    range(0, 10**30, 3),
    pathlib.Path("/tmp/a"),
    pathlib.PureWindowsPath("C:\\a"),
    BERLIN,
    TzInfo(3600),
    SecretStr("s\ud800"),
    SecretBytes(b"\xff"),
    HttpUrl("https://example.org/a?b=é"),
    AnyUrl("ftp://exämple.org"),
    PostgresDsn("postgresql://u:p@a:1,b:2/db"),
    Url("https://example.org"),
    MultiHostUrl("redis://a,b"),
]
CONTAINERS = [
    [],
    [1, 1.0, True, None, "1"],
    (),
    (1, [2, (3,)]),
    {},
    {"b": 1, "a": {"c": [None]}},
    {1: "a", None: "b", 1.5: "c", "1": "d", (1, "x"): "e", frozenset({1}): "f"},
    {math.nan: 1},
    set(),
    {1, "1", None, (2, 3)},
    frozenset({b"1", frozenset({2})}),
    [{1: {2: ({3},)}}],
]
UNSHOWABLE = [
    -(10**5000),
    "\ud83d",
    "\ud83d\ude00",  # two halves that are no whole: JSON's escapes would make one character of them
    pathlib.PurePosixPath("a/\udc80"),
    {"\ud800": 1},
    ["\ud800"],
    {("\ud800",)},
    frozenset({"\ud800"}),
]
"""What a codec could keep, and no page could show: a state refuses it."""
LOOKALIKES = [
    {"$date": "2026-01-31"},
    {"$date": 5},
    {"$dict": []},
    {"$dict": [["a", 1]]},
    {"$tuple": []},
    {"$": 1},
    {"$unknown": {"$set": [{"$": {}}]}},
    {"$a": 1, "$b": 2},
    {"$set": [1], "x": 1},
    ["$set", {"a": {"$set": [1]}}],
]

TYPED: list[tuple[Any, Any]] = [
    (int, 2**100),
    (float, 1.0),
    (float, math.nan),
    (bytes, b"\xff"),
    (complex, 1j),
    (datetime.date | str, datetime.date(2026, 1, 31)),
    (datetime.date | str, "2026-01-31"),
    (datetime.datetime | datetime.date, datetime.datetime(2026, 1, 31)),
    (decimal.Decimal | float, decimal.Decimal("1.5")),
    (decimal.Decimal | float, 1.5),
    (int | float | bool, 1.0),
    (int | float | bool, True),
    (str | bytes, b"a"),
    (uuid.UUID | str, uuid.UUID(int=1)),
    (uuid.UUID | str, str(uuid.UUID(int=1))),
    (pathlib.Path | str, pathlib.Path("a")),
    (SecretStr | str, SecretStr("a")),
    (HttpUrl | str, HttpUrl("https://example.org")),
    (HttpUrl | str, "https://example.org/"),
    (Secret[datetime.date], Secret[datetime.date](datetime.date(2026, 1, 31))),
    (ByteSize, ByteSize(5)),
    (zoneinfo.ZoneInfo, BERLIN),
    (datetime.datetime, "2026-01-31T12:00:00+02:00"),
    (Colour, Colour.RED),
    (Size, Size.SMALL),
    (Level, Level.LOW),
    (Rights, Rights.READ | Rights.WRITE),
    (Planet, Planet.EARTH),
    (Literal["a", 1], 1),
    (list[Colour], [Colour.RED, Colour.GREEN]),
    (set[Colour], {Colour.RED, Colour.GREEN}),
    (dict[Colour, Level], {Colour.GREEN: Level.LOW, Colour.RED: Level.LOW}),
    (dict[Size, int], {Size.SMALL: 1}),
    (dict[int, str], {2: "a", 1: "b"}),
    (dict[datetime.date | str, int], {datetime.date(2026, 1, 31): 1, "2026-01-31": 2}),
    (tuple[int, ...] | list[int], (1, 2)),
    (tuple[int, ...] | list[int], [1, 2]),
    (frozenset[int] | set[int], {1}),
    (Point, Point(1, [2])),
    (list[Line], [Line(text="é", tags=["a"]), Line(done=True)]),
    (Line | None, None),
    (dict[str, dict[str, Line]], {"a": {"b": Line()}}),
    (Spot, Spot(1, [2])),
    (tuple[Slotted, Line], (Slotted(3), Line())),
    (set[Place], {Place(1), Place(2)}),
    (frozenset[Fixed], frozenset({Fixed(x=1)})),
    (dict[Place, int], {Place(1): 1, Place(2): 2}),
    (dict[tuple[Fixed, int], Place], {(Fixed(x=1), 2): Place(3)}),
]
"""Types of a field, each with a value of it that a store brings back as it was."""

# -- any value ---------------------------------------------------------------------------------------------------------

# Without half of a character (a lone surrogate): no state takes it, as no page could show it.
TEXT = st.text(max_size=6) | st.sampled_from(["$", "$date", "$dict", "$str"])
ZONES = st.none() | st.timezones() | st.just(UTC) | st.integers(-86_399, 86_399).map(TzInfo)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda n: n << 2047),  # around the length from which they are written otherwise
    st.floats(),
    st.complex_numbers(),
    TEXT,
    st.binary(max_size=6),
    st.dates(),
    st.datetimes(timezones=ZONES, allow_imaginary=True),
    st.times(timezones=st.none() | st.just(UTC)),
    st.timedeltas(),
    st.decimals().filter(lambda d: not d.is_snan()),  # which has no hash
    st.uuids(),
    st.builds(range, st.integers(), st.integers(), st.integers(min_value=1)),
    TEXT.map(pathlib.PurePosixPath),
    st.builds(SecretStr, TEXT),
)
KEYS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=3).map(frozenset)
)
# Sets and dicts are made of lists, which need not be drawn again where two members are equal.
VALUES = st.recursive(
    KEYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(st.tuples(TEXT, inner), max_size=3).map(dict),
        st.lists(st.tuples(KEYS, inner), max_size=3).map(dict),
        st.lists(KEYS, max_size=3).map(set),
    ),
    max_leaves=12,
)

PLAIN = st.text(max_size=6)  # pydantic takes no half of a surrogate pair where it expects a str
LINES = st.builds(Line, text=PLAIN, done=st.booleans(), tags=st.lists(PLAIN, max_size=3))


TEXTS = PLAIN | st.sampled_from(
    ["", " a ", "a\0b", "5", "1e3", "nan", "null", "true", "[1]", '{"a": 1}', '"a"', "2026-01-31", "é" * 40, "x" * 300]
)
INTEGERS = st.integers() | st.sampled_from(
    [n + d for n in (2**15, 2**24, 2**31, 2**53, 2**63, 10**30) for d in (-1, 0, 1)]
)
NUMBERS = (
    st.decimals(allow_nan=False, allow_infinity=False)
    | st.decimals(min_value=-(10**6), max_value=10**6, places=2)
    | st.sampled_from(["1.10", "1.1", "0.1000000000000000055", "1E+400", "-0", "-0E-7", "19.90", "1e400"]).map(
        decimal.Decimal
    )
)
FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1.0, 0.1, 0.1 + 0.2, 1e300, 5e-324])
MOMENTS = st.datetimes(timezones=ZONES, allow_imaginary=True) | st.sampled_from(
    [
        TWICE,
        TWICE.replace(fold=1),
        TWICE.replace(tzinfo=BERLIN),
        TWICE.replace(tzinfo=UTC),
        TWICE.replace(tzinfo=TzInfo(0)),
    ]
)
TIMES = st.times(timezones=st.none() | st.just(UTC)) | st.sampled_from([datetime.time(1, fold=1), datetime.time(1)])
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=5,
)


class Open(BaseModel):
    """A model that keeps fields which it does not know."""

    model_config = ConfigDict(extra="allow")
    a: int = 0


class Names(RootModel[list[str]]):
    """A model that is a list."""


class Visit(BaseModel):
    """A model of types that JSON has not."""

    at: datetime.datetime
    cost: decimal.Decimal
    by: Level | str = ""
    tags: set[int] = set()


class Totals(TypedDict):
    """A dict of known keys."""

    n: int
    by: NotRequired[decimal.Decimal]


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    """A model of any type."""

    held: T


KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "bool": (bool, st.booleans()),
    "int": (int, INTEGERS),
    "float": (float, FLOATS),
    "complex": (complex, st.complex_numbers()),
    "str": (str, TEXTS),
    "bytes": (bytes, st.binary(max_size=6)),
    "Decimal": (decimal.Decimal, NUMBERS),
    "date": (datetime.date, st.dates()),
    "datetime": (datetime.datetime, MOMENTS),
    "time": (datetime.time, TIMES),
    "timedelta": (datetime.timedelta, st.timedeltas()),
    "UUID": (uuid.UUID, st.uuids()),
    "Path": (pathlib.Path, PLAIN.map(pathlib.Path)),
    "SecretStr": (SecretStr, TEXTS.map(SecretStr)),
    "SecretBytes": (SecretBytes, st.binary(max_size=6).map(SecretBytes)),
    "HttpUrl": (HttpUrl, st.sampled_from(["https://example.org", "https://example.org/a?b=é"]).map(HttpUrl)),
    "ByteSize": (ByteSize, st.integers(0, 2**70).map(ByteSize)),
    "enum of texts": (Colour, st.sampled_from(Colour)),
    "StrEnum": (Size, st.sampled_from(Size)),
    "IntEnum": (Level, st.sampled_from(Level)),
    "Flag": (Rights, st.sampled_from([Rights.READ, Rights.WRITE, Rights.READ | Rights.WRITE])),
    "enum of tuples": (Planet, st.sampled_from(Planet)),
    "Literal of both": (Literal["a", 1], st.sampled_from(["a", 1])),
    "Literal of a number and its text": (Literal["1", 1], st.sampled_from(["1", 1])),
    "Literal of a bool": (Literal[True, "b"], st.sampled_from([True, "b"])),
    "int or str": (int | str, INTEGERS | TEXTS),
    "int, float or bool": (int | float | bool, INTEGERS | FLOATS | st.booleans()),
    "date or str": (datetime.date | str, st.dates() | TEXTS),
    "datetime or date": (datetime.datetime | datetime.date, MOMENTS | st.dates()),
    "Decimal or float": (decimal.Decimal | float, NUMBERS | FLOATS),
    "UUID or str": (uuid.UUID | str, st.uuids() | st.uuids().map(str) | TEXTS),
    "str or bytes": (str | bytes, TEXTS | st.binary(max_size=6)),
    "str or list": (str | list[str], TEXTS | st.lists(TEXTS, max_size=3)),
    "Any": (Any, JSON_LIKE),
    "Any, anything": (Any, VALUES),
    "list of texts": (list[str], st.lists(TEXTS, max_size=3)),
    "list of numbers": (list[float], st.lists(FLOATS, max_size=3)),
    "list of integers": (list[int], st.lists(INTEGERS, max_size=3)),
    "list of moments": (list[datetime.datetime], st.lists(MOMENTS, max_size=3)),
    "list of Decimals": (list[decimal.Decimal], st.lists(NUMBERS, max_size=3)),
    "list of bytes": (list[bytes], st.lists(st.binary(max_size=6), max_size=3)),
    "list of enums": (list[Level], st.lists(st.sampled_from(Level), max_size=3)),
    "list of unions": (list[int | str], st.lists(INTEGERS | TEXTS, max_size=3)),
    "dict": (dict[str, int], st.dictionaries(TEXTS, INTEGERS, max_size=3)),
    "dict by integers": (dict[int, str], st.dictionaries(INTEGERS, TEXTS, max_size=3)),
    "dict by dates": (dict[datetime.date, int], st.dictionaries(st.dates(), INTEGERS, max_size=3)),
    "dict by anything": (dict[int | str, int], st.dictionaries(INTEGERS | TEXTS, INTEGERS, max_size=3)),
    "dict of anything": (dict[str, Any], st.dictionaries(TEXTS, JSON_LIKE, max_size=3)),
    "set": (set[int], st.sets(INTEGERS, max_size=3)),
    "frozenset": (frozenset[str], st.frozensets(TEXTS, max_size=3)),
    "set of pairs": (set[tuple[int, str]], st.sets(st.tuples(INTEGERS, TEXTS), max_size=3)),
    "tuple": (tuple[int, str], st.tuples(INTEGERS, TEXTS)),
    "tuple or list": (
        tuple[int, ...] | list[int],
        st.lists(INTEGERS, max_size=3) | st.lists(INTEGERS, max_size=3).map(tuple),
    ),
    "NamedTuple": (Point, st.builds(Point, INTEGERS, st.lists(INTEGERS, max_size=3))),
    "model": (Line, LINES),
    "list of models": (list[Line], st.lists(LINES, max_size=3)),
    "dict of models": (dict[str, Line], st.dictionaries(TEXTS, LINES, max_size=3)),
    "model of other types": (
        Visit,
        st.builds(Visit, at=MOMENTS, cost=NUMBERS, by=st.sampled_from(Level) | TEXTS, tags=st.sets(st.integers())),
    ),
    "model with extras": (
        Open,
        st.dictionaries(PLAIN, JSON_LIKE, max_size=2).map(lambda extra: Open(**{**extra, "a": 1})),
    ),
    "root model": (Names, st.lists(TEXTS, max_size=3).map(Names)),
    "dataclass": (Spot, st.builds(Spot, INTEGERS, st.lists(INTEGERS, max_size=3))),
    "TypedDict": (Totals, st.fixed_dictionaries({"n": INTEGERS}, optional={"by": NUMBERS})),
    "generic model": (Box[int | str], st.builds(Box[int | str], held=INTEGERS | TEXTS)),
    "frozen dataclass": (Place, st.builds(Place, INTEGERS)),
    "IPv4Address": (ipaddress.IPv4Address, st.ip_addresses(v=4)),
    "Fraction": (fractions.Fraction, st.fractions()),
    "pattern": (re.Pattern[str], st.sampled_from([re.compile("a+"), re.compile("a", re.IGNORECASE)])),
    "ZoneInfo": (zoneinfo.ZoneInfo, st.just(BERLIN)),
    "set of models": (frozenset[Fixed], st.frozensets(st.builds(Fixed, x=INTEGERS), max_size=3)),
}  # fmt: skip
"""Kinds of fields that a state may have: the field's type, and what makes values of it."""


def validated(arguments: Arguments, explicit: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the arguments that an event gets from a call; large ones are checked in a worker thread."""
    accepted = arguments.accept(explicit, **more)
    if isinstance(accepted, dict):
        return accepted

    async def finish() -> dict[str, Any]:
        return await accepted

    return asyncio.run(finish())
