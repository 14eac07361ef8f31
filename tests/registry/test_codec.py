"""Field values as bytes and back: exactly what they were, or refused before they are stored; no bytes do harm."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import io
import json
import struct
import zoneinfo
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Literal, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    PlainValidator,
    PrivateAttr,
    RootModel,
    ValidationError,
    computed_field,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from faststate import ReactiveState, ServerOnly
from faststate.exceptions import ConfigurationError, EventError
from faststate.registry.persistence import codec, encoding
from faststate.registry.persistence.codec import READERS, Codec, decode, from_tree, load, validate
from faststate.registry.persistence.encoding import dump, encode, to_tree
from faststate.state.values import freeze
from tests.support.values import (
    CONTAINERS,
    LINES,
    LOOKALIKES,
    SCALARS,
    TWICE,
    TYPED,
    UNSHOWABLE,
    VALUES,
    Colour,
    Level,
    Line,
    Open,
    Place,
    Point,
    Size,
    Spot,
    Word,
    as_id,
    canonical,
    state_of,
    type_name,
)


def kept(cls: type[ReactiveState], **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The frozen values of a new `cls`, before and after they were stored."""
    values = cls(**fields)._frozen_values()
    back = validate(cls, decode(dump(Codec(cls).to_tree(values))))
    assert isinstance(back, cls)
    return values, back._frozen_values()


def assert_kept(cls: type[ReactiveState], **fields: Any) -> None:
    """See that the values of a new `cls` come back as they were."""
    values, back = kept(cls, **fields)
    assert canonical(back) == canonical(values)


@pytest.mark.parametrize("value", [*SCALARS, *CONTAINERS, *LOOKALIKES], ids=type_name)
def test_a_value_in_an_any_field_comes_back_as_exactly_what_it_was(value):
    assert_kept(state_of(Any), x=value)


@pytest.mark.parametrize("value", UNSHOWABLE, ids=type_name)
def test_what_no_page_could_show_is_refused_before_it_is_stored(value):
    with pytest.raises(EventError, match=r"Thing\.x holds .*which no page can show") as caught:
        state_of(Any)(x=value)._frozen_values()
    assert caught.value.status == 400


@pytest.mark.parametrize("value", [*SCALARS, *CONTAINERS, *LOOKALIKES, *UNSHOWABLE], ids=type_name)
def test_a_tree_survives_every_writer_of_json(value):
    tree = to_tree({"x": value})
    text = json.dumps(tree, allow_nan=False)
    assert canonical(from_tree(json.loads(text))) == canonical({"x": value})
    assert canonical(decode(dump(to_tree({"x": value})))) == canonical({"x": value})


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=as_id)
def test_a_value_in_a_typed_field_comes_back_in_value_and_type(annotation, value):
    assert_kept(state_of(annotation), x=value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (5, "5"),
        ("a", '"a"'),
        ([1, {"a": None}], '[1,{"a":null}]'),
        (2**60, "1152921504606846976"),
        (datetime.date(2026, 1, 31), '{"$date":"2026-01-31"}'),
        (Line(text="a"), '{"text":"a","done":false,"tags":[]}'),
        (Spot(), '{"x":0,"path":[]}'),
        (Colour.RED, '"red"'),
        (Size.SMALL, '"s"'),
        (Word("a"), '"a"'),
        ({(1, 2)}, '{"$set":[{"$tuple":[1,2]}]}'),
    ],
    ids=as_id,
)
def test_stored_data_can_be_read_by_people_and_other_programs(value, written):
    assert encode({"x": freeze(value)}) == f'{{"x":{written}}}'.encode()


# -- any value ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(VALUES)
def test_every_value_comes_back_in_value_type_and_order(value):
    value = freeze(value)
    back = decode(encode({"x": value}))
    assert canonical(freeze(back["x"])) == canonical(value)


@settings(deadline=None)
@given(st.lists(LINES, max_size=4), VALUES)
def test_every_list_of_models_beside_anything_comes_back(lines, anything):
    assert_kept(Mixed, lines=lines, anything=anything)


class Mixed(ReactiveState):
    lines: list[Line] = []
    anything: Any = None


# -- models ------------------------------------------------------------------------------------------------------------


class Account(BaseModel):
    owner: str
    balance: ServerOnly[int] = 0
    log: list[Account] = Field(default=[], exclude=True)
    _seen: int = PrivateAttr(default=0)


class Bank(ReactiveState):
    accounts: dict[str, list[Account]] = {}
    pin: ServerOnly[str] = ""


def test_what_never_leaves_the_server_is_stored_at_any_depth():
    account = Account(owner="a", balance=1, log=[Account(owner="b", balance=2, log=[Account(owner="c", balance=3)])])
    values, back = kept(Bank, accounts={"x": [account]}, pin="1234")
    assert canonical(back) == canonical(values)
    assert back["pin"] == "1234"
    assert back["accounts"]["x"][0].log[0].log[0].balance == 3


def test_private_attributes_are_not_stored():
    account = Account(owner="a")
    account._seen = 5
    _, back = kept(Bank, accounts={"x": [account]})
    assert back["accounts"]["x"][0]._seen == 0


class Named(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    first_name: str
    last_name: str = Field(default="", validation_alias="surname", serialization_alias="sn")


class Aliased(ReactiveState):
    model_config = ConfigDict(populate_by_name=False)
    count: int = Field(default=0, alias="theCount")
    names: list[Named] = []


def test_fields_with_aliases_are_stored_and_read_by_their_names():
    cls = Aliased
    values = cls(theCount=5, names=[{"FIRST_NAME": "a", "surname": "b"}])._frozen_values()
    data = dump(Codec(cls).to_tree(values))
    assert json.loads(data) == {"count": 5, "names": [{"first_name": "a", "last_name": "b"}]}
    assert canonical(validate(cls, decode(data))._frozen_values()) == canonical(values)


class Grown(ReactiveState):
    old: int = 0
    new: list[str] = Field(default_factory=lambda: ["made"])
    late: dict[str, int] = {}


def test_a_field_that_was_added_since_gets_its_default():
    back = validate(Grown, decode(b'{"old":3}'))
    assert back._frozen_values() == {"old": 3, "new": ["made"], "late": {}}


class Checked(BaseModel):
    low: int = 0
    high: int = 0
    words: list[str] = []

    @field_validator("words", mode="before")
    @classmethod
    def split(cls, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def from_pair(cls, value: Any) -> Any:
        return {"low": value[0], "high": value[1]} if isinstance(value, tuple) else value

    @model_validator(mode="after")
    def in_order(self) -> Checked:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self

    @computed_field
    @property
    def width(self) -> int:
        return self.high - self.low


class Ranges(ReactiveState):
    ranges: list[Checked] = []

    @model_validator(mode="after")
    def few(self) -> Ranges:
        if len(self.ranges) > 3:
            raise ValueError("too many")
        return self


def test_models_with_validators_and_computed_fields_come_back():
    values, back = kept(Ranges, ranges=[(1, 2), {"words": "a b"}])
    assert canonical(back) == canonical(values)
    assert "width" not in str(Codec(Ranges).to_tree(values))


def test_data_that_does_not_fit_the_class_any_more_raises_the_error_of_its_validation():
    with pytest.raises(ValidationError, match="valid integer"):
        validate(Ranges, decode(b'{"ranges":[{"low":"a","high":1}]}'))
    with pytest.raises(ValidationError, match=r"gone"):
        validate(Ranges, decode(b'{"gone":1}'))


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("annotation", "model"),
    [
        (Open, Open(a=1, when=datetime.date(2026, 1, 31), rows=[{"b": (1,)}])),
        (Anything, Anything(**{"$date": "2026-01-31"})),
        (Anything, Anything(**{"$dict": [], "x": {"$set": []}})),
    ],
)
def test_fields_that_a_model_allows_besides_its_own_are_stored(annotation, model):
    cls = state_of(annotation)
    back = validate(cls, decode(encode({"x": model})))
    assert canonical(back.x) == canonical(model)


def test_a_name_that_json_cannot_hold_is_stored_too():
    model = Open.model_construct(**{"\ud800": (1,), "b": "\ud800"})
    assert decode(encode({"x": model})) == {"x": {"a": 0, "\ud800": (1,), "b": "\ud800"}}


class Tags(RootModel[frozenset[str]]):
    model_config = ConfigDict(frozen=True)


def test_a_root_model_is_stored_as_its_root():
    values, back = kept(state_of(frozenset[Tags]), x=frozenset({Tags(frozenset({"a"}))}))
    assert canonical(back) == canonical(values)
    assert json.loads(encode(values)) == {"x": {"$frozenset": [{"$frozenset": ["a"]}]}}


class Remembering(ReactiveState):
    count: int = 2

    @cached_property
    def square(self) -> int:
        return self.count**2


def test_what_a_snapshot_remembers_besides_its_fields_is_not_stored():
    state = Remembering()
    assert state.square == 4
    assert Codec(Remembering).to_tree(state.__dict__) == {"count": 2}


def test_an_envelope_is_written_together_with_the_tree_and_read_at_once():
    values = Mixed(lines=[Line(text="a")], anything=(1, 2))._frozen_values()
    data = dump({"schema": 1, "nonces": ["n"], "values": Codec(Mixed).to_tree(values)})
    envelope = load(data)
    assert envelope["schema"] == 1 and envelope["nonces"] == ["n"]
    assert canonical(validate(Mixed, from_tree(envelope["values"]))._frozen_values()) == canonical(values)


def test_a_tree_can_be_changed_without_changing_the_values():
    values = Mixed(lines=[Line(tags=["a"])], anything={"a": [1]})._frozen_values()
    before = canonical(values)
    tree = Codec(Mixed).to_tree(values)
    tree["lines"][0]["tags"].append("b")
    tree["lines"][0]["text"] = "b"
    tree["anything"]["a"].append(2)
    assert canonical(values) == before


# -- what would not come back ------------------------------------------------------------------------------------------


class Animal(BaseModel):
    name: str = ""


class Dog(Animal):
    tricks: list[str] = []


class Cat(Animal):
    pass


class Pet(BaseModel):
    kind: Literal["pet"] = "pet"


class Beast(BaseModel):
    kind: Literal["beast"] = "beast"
    teeth: int = 0


class Zoo(ReactiveState):
    animals: list[Animal] = []
    guest: Animal = Animal()


def test_a_subclass_that_would_come_back_as_its_base_is_refused_with_field_class_and_remedy():
    values = Zoo(animals=[Animal(), Dog(name="d")])._frozen_values()
    with pytest.raises(ConfigurationError) as caught:
        Codec(Zoo).to_tree(values)
    for part in ("Zoo.animals", "Dog comes back as Animal", "discriminator", "StateConfig(in_memory=True)"):
        assert part in str(caught.value)


def test_a_subclass_is_refused_also_where_other_classes_were_stored_before():
    zoo, values = Codec(Zoo), Zoo(animals=[Animal(name="a")])._frozen_values()
    assert dump(zoo.to_tree(values)) == dump(zoo.to_tree(values))
    with pytest.raises(ConfigurationError, match=r"Zoo\.animals"):
        zoo.to_tree(Zoo(animals=[Animal(name="a"), Dog()])._frozen_values())
    with pytest.raises(ConfigurationError, match=r"Zoo\.guest"):
        zoo.to_tree(Zoo(guest=Dog())._frozen_values())
    with pytest.raises(ConfigurationError, match=r"Zoo\.guest"):  # a refusal is not forgotten
        zoo.to_tree(Zoo(guest=Dog())._frozen_values())
    zoo.to_tree(values)


def test_a_union_with_a_discriminator_brings_every_class_back():
    annotation = list[Annotated[Pet | Beast, Field(discriminator="kind")]]
    assert_kept(state_of(annotation), x=[Pet(), Beast(teeth=3), Pet()])


def test_classes_that_are_told_apart_alone_and_not_together_are_refused_together():
    cls = state_of(list[Animal] | list[Dog])
    codec_, animal, dog = Codec(cls), Animal(name="a"), Dog(name="d", tricks=["sit"])
    codec_.to_tree(cls(x=[animal])._frozen_values())
    codec_.to_tree(cls(x=[dog])._frozen_values())
    mixed = cls.model_construct(x=[animal, dog])._frozen_values()
    with pytest.raises(ConfigurationError, match=r"Thing\.x would not come back"):
        codec_.to_tree(mixed)


def test_a_class_is_checked_again_when_its_fields_hold_other_types():
    class Loose(BaseModel):
        x: int | str = 0

    class Strict(BaseModel):
        x: str = ""

    cls = state_of(Union[Strict, Loose])  # noqa: UP007  # made at run time
    codec_ = Codec(cls)
    codec_.to_tree(cls(x=Loose(x=5))._frozen_values())
    codec_.to_tree(cls(x=Strict(x="a"))._frozen_values())
    with pytest.raises(ConfigurationError, match="Loose comes back as Strict"):
        codec_.to_tree(cls(x=Loose(x="a"))._frozen_values())


@dataclasses.dataclass
class Timer:
    started: int = dataclasses.field(init=False, default=0)


class Hashed(BaseModel):
    password: Annotated[str, Field(max_length=5), AfterValidator(lambda v: v + "hash")]
    seen: int = 0

    @model_validator(mode="after")
    def note(self):
        self.seen += 1
        return self


@dataclasses.dataclass
class Started:
    n: int
    times: int = 0

    def __post_init__(self):
        self.times += 1


def doubled(value: int) -> int:
    return value * 2


def moody(value: Any) -> Any:
    if isinstance(value, dict):
        raise KeyError("mood")
    return value


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (Any, Colour.RED, "Colour comes back as str"),
        (Any, [Size.SMALL], "Size comes back as str"),
        (Any, {"a": Line()}, "Line comes back as dict"),
        (Any, {Place(1)}, "Place comes back as _Record"),
        (Any, Point(1, []), "Point comes back as tuple"),
        (Any, {Word("a"): 1}, "Word comes back as str"),
        (Any, frozenset({Size.SMALL}), "Size comes back as str"),
        (str | Size, Size.SMALL, "Size comes back as str"),
        (dict[Size | str, int], {Size.SMALL: 1}, "Size comes back as str"),
        (int | Level, Level.LOW, "Level comes back as int"),
        (Animal | Cat, Cat(), "Cat comes back as Animal"),
        (dict[str, Animal | None], {"a": None, "b": Dog()}, "Dog comes back as Animal"),
    ],
    ids=as_id,
)
def test_what_validation_would_not_bring_back_is_refused_with_the_reason(annotation, value, reason):
    cls = state_of(annotation)
    with pytest.raises(ConfigurationError, match=reason):
        Codec(cls).to_tree(cls(x=value)._frozen_values())


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Base64Bytes, b"aGVsbG8h"),
        (Base64Bytes, b"aGVs"),
        (Json[list[int]], "[3]"),
        (Annotated[int, AfterValidator(doubled)], 3),
        (Annotated[int, AfterValidator(doubled), Field(le=6)], 3),
        (Annotated[int, Field(le=3), AfterValidator(doubled)], 3),
        (Annotated[list[int], AfterValidator(lambda v: [*v, 1])], [3]),
        (list[Annotated[int, AfterValidator(doubled)]], [3]),
        (dict[str, Annotated[int, AfterValidator(doubled)]], {"a": 3}),
        (Annotated[set[int], AfterValidator(lambda v: v | {len(v)})], {3}),
        (Annotated[dict[str, int], AfterValidator(lambda v: {**v, str(len(v)): 1})], {}),
        (Annotated[Line, BeforeValidator(moody)], Line()),
        (Annotated[list[Line], AfterValidator(lambda v: v[-1:])], [Line(), Line()]),
        (Annotated[Any, PlainValidator(lambda v: v[:2])], "abc"),
        (Timer, Timer()),
        (Hashed, {"password": "x"}),
        (list[Hashed], [{"password": "x"}]),
        (dict[str, Hashed | None], {"a": {"password": "x"}}),
        (Started, {"n": 1}),
    ],
    ids=as_id,
)
def test_validators_that_convert_do_not_convert_again_when_a_state_is_loaded(annotation, value):
    cls = state_of(annotation)
    values = cls.model_validate({"x": value})._frozen_values()
    back = validate(cls, decode(dump(Codec(cls).to_tree(values))))._frozen_values()
    assert canonical(back) == canonical(values)


class Local(datetime.tzinfo):
    """A time zone of the app's own."""

    def utcoffset(self, when: Any) -> datetime.timedelta:
        return datetime.timedelta(0)


class Mark(enum.Enum):
    NONE = object()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (int, "holds the class int"),
        (Line, "holds the class Line"),
        (Mark.NONE, "holds a object"),
        ([datetime.datetime(2026, 1, 31, tzinfo=Local())], "holds a datetime with a Local"),
        (datetime.time(1, tzinfo=Local()), "holds a time with a Local"),
    ],
    ids=as_id,
)
def test_what_cannot_be_kept_is_refused_with_field_and_type(value, reason):
    cls = state_of(Any)
    values = cls(x=value)._frozen_values()
    with pytest.raises(ConfigurationError, match=rf"Thing\.x {reason}"):
        dump(Codec(cls).to_tree(values))
    with pytest.raises(ConfigurationError, match=rf"the field 'x' {reason}"):
        encode(values)


def test_a_zone_without_a_key_is_refused():
    header = struct.pack(">4s16x6l", b"TZif", 0, 0, 0, 0, 1, 4)
    nameless = zoneinfo.ZoneInfo.from_file(io.BytesIO(header + struct.pack(">lbb4s", 0, 0, 0, b"UTC")))
    with pytest.raises(ConfigurationError, match="'x' holds a ZoneInfo without a key"):
        encode({"x": TWICE.replace(tzinfo=nameless)})


class Size2D(TypedDict):
    width: int
    height: int


def test_a_dict_that_would_come_back_in_another_order_is_refused():
    cls = state_of(Size2D)
    Codec(cls).to_tree({"x": freeze({"width": 1, "height": 2})})
    with pytest.raises(ConfigurationError, match=r"Thing\.x would not come back as it is \(dict comes back in another"):
        Codec(cls).to_tree({"x": freeze({"height": 2, "width": 1})})


def test_a_dataclass_that_was_given_what_its_field_does_not_take_is_refused():
    cls = state_of(Spot)
    codec_ = Codec(cls)
    codec_.to_tree(cls(x=Spot(1))._frozen_values())
    wrong = {"x": Spot("one")}  # freezing it would have told
    with pytest.raises(ConfigurationError, match=r"Thing\.x\.x could be stored, but not be read again"):
        codec_.to_tree(wrong)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each check of a value that a codec makes."""
    made: list[Any] = []

    def counting(cls: type[BaseModel], values: Any) -> BaseModel:
        made.append(values)
        return validate(cls, values)

    monkeypatch.setattr(codec, "validate", counting)
    return made


def test_a_field_is_checked_once_for_what_it_holds(checks):
    mixed = Codec(Mixed)
    for number in range(50):
        lines = [Line(text=str(number), done=number % 2 == 0) for _ in range(number)]
        mixed.to_tree(Mixed(lines=lines, anything=number)._frozen_values())
    assert len(checks) == 2  # the first without lines
    for anything in ("a", 5, ["a"], ["b", "c"], {"a": 1.5}, {"b": 2.5, "c": 0.5}, "b"):
        mixed.to_tree(Mixed(anything=anything)._frozen_values())
    assert len(checks) == 5


def test_optional_fields_are_checked_by_themselves_and_not_in_all_combinations(checks):
    wide = create_model("Wide", **{f"f{n}": (int | None, None) for n in range(8)})
    cls = state_of(wide)
    codec_ = Codec(cls)
    for number in range(256):
        given = {f"f{bit}": 1 for bit in range(8) if number >> bit & 1}
        codec_.to_tree(cls(x=wide(**given))._frozen_values())
    assert len(checks) <= 9


def test_a_codec_that_has_met_too_much_starts_anew_and_still_refuses(checks, monkeypatch):
    monkeypatch.setattr(codec, "MAX_REMEMBERED", 20)
    cls = state_of(Any)
    codec_ = Codec(cls)
    for value in [*SCALARS, *CONTAINERS] * 2:
        codec_.to_tree(cls(x=value)._frozen_values())
        assert len(codec_._proven["x"]) <= 20
    with pytest.raises(ConfigurationError):
        codec_.to_tree(cls(x=Colour.RED)._frozen_values())


class KeepsPaths(BaseModel):
    model_config = ConfigDict(url_preserve_empty_path=True)
    url: HttpUrl


@pytest.mark.skipif(
    KeepsPaths(url="https://example.org").url == HttpUrl("https://example.org/"),
    reason="for pydantic before 2.14.2 a URL is the same with an empty path and without one",
)
def test_a_url_that_its_field_parses_in_its_own_way_is_checked_each_time(checks):
    cls = state_of(KeepsPaths)
    codec_ = Codec(cls)
    for _ in range(3):
        values = cls(x={"url": "https://example.org"})._frozen_values()
        back = validate(cls, decode(dump(codec_.to_tree(values))))
        assert str(back.x.url) == "https://example.org"
    assert len(checks) == 3


# -- bytes from elsewhere ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Path", "Url", "a/.."]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.builds(lambda tag, payload: {tag: payload}, st.sampled_from([*READERS, "$x"]), inner),
    ),
    max_leaves=15,
)


def read(data: bytes) -> None:
    """Decodes `data`, which is either refused in the one way there is, or gives values that can be looked at."""
    try:
        values = decode(data)
    except ValueError:
        return
    assert type(values) is dict and all(type(name) is str for name in values)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_raise_a_value_error_or_are_read(data):
    read(data)


@settings(deadline=None)
@given(VALUES, st.data())
def test_broken_data_raises_a_value_error_or_is_read(value, data):
    stored = bytearray(encode({"x": value}))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(stored)))
        end = data.draw(st.integers(start, min(len(stored), start + 8)))
        stored[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b"{", b"]", b'"$', b"$set", b"9" * 99]))
    read(bytes(stored))
    read(bytes(stored[: data.draw(st.integers(0, len(stored)))]))


@settings(deadline=None)
@given(JSON)
def test_tags_with_anything_in_them_raise_a_value_error_or_are_read(tree):
    read(json.dumps({"x": tree}).encode())
    read(json.dumps(tree).encode())
    with contextlib.suppress(ValueError):
        from_tree({"x": tree})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b'{"x":1',
        b'{"x":1}{}',
        b"\xff\xfe",
        b'{"x":NaN}',
        b'{"x":' + b"9" * 5000 + b"}",
        b'{"x":{"$os.system":"true"}}',
        b'{"x":{"$date":"no date"}}',
        b'{"x":{"$date":{"$date":"2026-01-31"}}}',
        b'{"x":{"$set":[[]]}}',
        b'{"x":{"$set":[{"$set":[]}]}}',
        b'{"x":{"$dict":[[[],1]]}}',
        b'{"x":{"$dict":[[1]]}}',
        b'{"x":{"$dict":{"a":1}}}',
        b'{"x":{"$decimal":"x"}}',
        b'{"x":{"$timedelta":[1e9,0,0]}}',
        b'{"x":{"$timedelta":[99999999999999,0,0]}}',
        b'{"x":{"$timezone":[9,0,0]}}',
        b'{"x":{"$tzinfo":99999999999999999999}}',
        b'{"x":{"$zoneinfo":"../../etc/passwd"}}',
        b'{"x":{"$zoneinfo":"/etc/passwd"}}',
        b'{"x":{"$zoneinfo":"Europe"}}',
        b'{"x":{"$zoneinfo":""}}',
        b'{"x":{"$path":["PosixPathOrSo","a"]}}',
        b'{"x":{"$url":["HttpUrl","no url"]}}',
        b'{"x":{"$url":["__class__","https://example.org"]}}',
        b'{"x":{"$range":[0,1,0]}}',
        b'{"x":{"$bytes":"%"}}',
        b'{"x":{"$int":"x"}}',
        b'{"x":{"$datetime":["2026-01-31T00:00:00","UTC",0]}}',
        b'{"x":{"$datetime":["2026-01-31T00:00:00",null,7]}}',
        b'{"x":{"$complex":["1","2"]}}',
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"x":' + b'{"$tuple":[' * 5000 + b"]}" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_data_that_no_codec_wrote_raises_a_value_error(data):
    with pytest.raises(ValueError) as caught:
        decode(data)
    assert not isinstance(caught.value, ValidationError)


def test_a_tree_from_a_reader_without_a_limit_raises_a_value_error_when_it_is_too_deep():
    tree: Any = []
    for _ in range(5000):
        tree = [tree]
    with pytest.raises(ValueError, match="nested too deeply"):
        from_tree({"x": tree})


def test_data_cannot_name_a_class():
    hostile = {"__class__": "os.system", "py/object": "os.system", "__reduce__": ["os.system", "true"]}
    assert decode(dump({"x": hostile})) == {"x": hostile}


class Node(BaseModel):
    next: Node | None = None


NESTS: dict[str, Callable[[Any], Any]] = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "dict": lambda inner: {"a": inner},
    "lookalike": lambda inner: {"$a": inner},
    "pairs": lambda inner: {1: inner},
    "frozenset": lambda inner: frozenset({inner}),
    "key": lambda inner: {(inner if isinstance(inner, tuple) else (1,),): inner},
    "model": lambda inner: Node.model_construct(next=inner),
    "extra": lambda inner: Anything.model_construct(**{"$a": inner}),
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_what_is_nested_as_deeply_as_may_be_can_be_read_within_an_envelope(nest):
    value: Any = TWICE.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    data, depth = b"", 0
    with pytest.raises(ConfigurationError, match=r"the field 'x' holds values nested in each other"):
        while True:
            data = dump({"around": [to_tree({"x": value})]})
            value, depth = nest(value), depth + 1
            assert depth < 1000
    assert depth > 40
    (tree,) = load(data)["around"]
    assert from_tree(tree)
    (tree,) = json.loads(data)["around"]
    assert from_tree(tree)


def test_what_is_nested_more_deeply_than_python_goes_is_refused(monkeypatch):
    monkeypatch.setattr(encoding, "MAX_DEPTH", 100_000)
    value: Any = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ConfigurationError, match="the field 'x' is nested too deeply"):
        to_tree({"x": value})
    with pytest.raises(ConfigurationError, match=r"Thing\.x is nested too deeply"):
        Codec(state_of(Any)).to_tree({"x": value})
