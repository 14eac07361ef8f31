"""Arguments: what they cost to check, what could not be shown is refused, and defaults are copied."""

import asyncio
import contextvars
import json
import logging
import os
import random
import threading
import time
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    RootModel,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import from_json
from starlette.testclient import TestClient
from typing_extensions import TypeAliasType, TypedDict

from faststate import EventArgumentError, LockTimeoutError, ReactiveState, StateConfig, StateScope, event, fast_app
from faststate.state.arguments import LARGE, Arguments
from faststate.validation.bounds import Unfit, bounded, first_problem, runs_own_code
from faststate.validation.work import work_of
from tests.support.client import BROWSER
from tests.support.states import provider_of
from tests.support.values import Colour, validated

PAYLOAD = 262_144
MODULUS = 2**61 - 1
"""Ints that are multiples of it have one hash."""


def taking(annotation, **defaults):
    """The arguments of an event that takes one, `x`, of this type."""

    def taken(self, x): ...

    taken.__annotations__ = {"x": annotation}
    taken.__kwdefaults__ = defaults or None
    return Arguments(taken, {})


def check(annotation, value):
    return validated(taking(annotation), {"x": value})["x"]


def repeated(item):
    """JSON (str) of a list that repeats `item` as often as a payload has room for."""
    return "[" + ",".join([item] * ((PAYLOAD - 2) // (len(item) + 1))) + "]"


def fitting(made, brackets="[]"):
    """JSON (str) of as many of these parts as a payload has room for."""
    parts, size = [], 2
    for part in made:
        size += len(part) + 1
        if size > PAYLOAD:
            break
        parts.append(part)
    return brackets[0] + ",".join(parts) + brackets[1]


def keyed(item):
    """JSON (str) of an object that has `item` under as many keys as a payload has room for."""
    return fitting((f'"{index:x}":{item}' for index in range(PAYLOAD)), "{}")


Wide = create_model("Wide", **{f"f{i}": (int, ...) for i in range(20)})
Defaults = create_model("Defaults", **{f"f{i}": (list[int], []) for i in range(20)})
Many = [create_model(f"Many{i}", **{f"g{i}_{j}": (int, ...) for j in range(6)}) for i in range(10)]
OneOfMany = Many[0] | Many[1] | Many[2] | Many[3] | Many[4] | Many[5] | Many[6] | Many[7] | Many[8] | Many[9]


class And(BaseModel):
    kind: Literal["and"] = "and"
    left: "And | Or | Not | None" = None
    kids: "list[And | Or | Not]" = []


class Or(BaseModel):
    kind: Literal["or"] = "or"
    left: "And | Or | Not | None" = None
    kids: "list[And | Or | Not]" = []


class Not(BaseModel):
    left: "And | Or | Not | None" = None
    kids: "list[And | Or | Not]" = []
    must: int


class Node(BaseModel):
    kids: "list[Node]" = []
    by: "dict[str, Node]" = {}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int = 0


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    a: int = 0
    b: int = 0


class Point(NamedTuple):
    x: int
    y: int = 0


class Typed(TypedDict):
    f0: int
    f1: NotRequired[int]


@dataclass
class Data:
    f0: int
    f1: int
    f2: list[int] = field(default_factory=list)


Tree = TypeAliasType("Tree", "list[Tree] | dict[str, Tree] | set[int] | int | None")
LeftToRight = Annotated[Wide | Data | Typed, Field(union_mode="left_to_right")]
Tagged = Annotated[And | Or, Discriminator("kind")]

ITEMS = {
    "int": int, "Decimal": Decimal, "uuid": uuid.UUID, "Wide": Wide, "Defaults": Defaults, "OneOfMany": OneOfMany,
    "expression": And | Or | Not, "Node": Node, "Strict": Strict, "Frozen": Frozen, "Point": Point, "Typed": Typed,
    "Data": Data, "Tree": Tree, "left to right": LeftToRight, "tagged": Tagged, "complex": complex,
    "ints": tuple[int, ...], "scalars": int | float | Decimal | uuid.UUID, "json": Json[list[Wide]],
}  # fmt: skip
COLLECTIONS = {
    "list": lambda T: list[T], "tuple": lambda T: tuple[T, ...], "set": lambda T: set[T], "deque": lambda T: deque[T],
    "frozenset": lambda T: frozenset[T], "dict": lambda T: dict[str, T], "keys": lambda T: dict[T, int],
    "Mapping": lambda T: Mapping[str, T], "Sequence": lambda T: Sequence[T], "Iterable": lambda T: Iterable[T],
    "nested": lambda T: dict[str, list[T]], "Json": lambda T: Json[list[T]],
    "union": lambda T: list[T] | set[T] | dict[str, T],
}  # fmt: skip
SHAPES = {
    "empty objects": repeated("{}"), "ones": repeated("1"), "texts": repeated('"x"'), "empty lists": repeated("[]"),
    "pairs": repeated('[1,"x"]'), "keys": keyed("{}"), "keys of texts": keyed('"x"'), "keys of lists": keyed("[{}]"),
    "one hash": fitting(str(MODULUS * i) for i in range(PAYLOAD)),
    "one hash, text": fitting(f'"{MODULUS * i}"' for i in range(PAYLOAD)),
    "one hash, pairs": fitting(f"[{MODULUS * i},0]" for i in range(PAYLOAD)),
    "one hash, models": fitting(f'{{"a":{MODULUS * i}}}' for i in range(PAYLOAD)),
    "one hash, complex": fitting(f'"{-1000003 * i}+{i}j"' for i in range(PAYLOAD)),
    "one hash, keys": fitting((f'"{MODULUS * i}":1' for i in range(PAYLOAD)), "{}"),
    "deep": "[" + ",".join(['{"left":' * 25 + "{}" + "}" * 25] * 1_000) + "]",
    "deep lists": "[" + ",".join(["[" * 28 + "1.5" + "]" * 28] * 4_000) + "]",
    "wide": '{"kids":' + repeated("{}")[: PAYLOAD - 100].rpartition(",")[0] + "]}",
    "json": json.dumps(repeated("{}")[: PAYLOAD - 100].rpartition(",")[0] + "]"),
}  # fmt: skip


EACH = int(os.environ.get("FASTSTATE_PAYLOADS", "30"))
"""Payloads that are tried for each kind of collection; there are 360 of each."""


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_no_payload_costs_more_than_its_size_allows(collection):
    """Without bounds the worst take minutes. The limit is many times what each needs: the machine may be busy."""
    pairs = [(name, shape) for name in ITEMS for shape in SHAPES]
    for name, shape in random.Random(collection).sample(pairs, min(EACH, len(pairs))):
        arguments = taking(COLLECTIONS[collection](ITEMS[name]))
        assert len(SHAPES[shape]) <= PAYLOAD
        value = from_json(SHAPES[shape])
        began = time.process_time()  # also of worker threads
        try:
            validated(arguments, {"x": value})
        except EventArgumentError as error:
            assert len(str(error)) < 1_000
            assert error.__cause__ is None and error.__suppress_context__
        took = time.process_time() - began
        assert took < 1, f"{collection} of {name}, {shape}: {took:.2f} s"


SAME = [MODULUS * i for i in range(200)]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], SAME), (set[int], [str(i) for i in SAME]), (frozenset[Decimal], SAME),
        (dict[int, int], {str(i): 1 for i in SAME}),
        (Counter[int], {str(i): 1 for i in SAME}), (set[tuple[int, int]], [[i, 1] for i in SAME]),
        (set[Frozen], [{"a": i} for i in SAME]), (set[Point], [{"x": i} for i in SAME]), (set[Any], SAME),
        (set[complex], [f"{-1000003 * i}+{i}j" for i in range(200)]), (set[Fraction], [f"{i}/1" for i in SAME]),
        (set[uuid.UUID], [str(uuid.UUID(int=i)) for i in SAME]), (list[set[int]], [[1], SAME]),
        (Json[set[int]], str(SAME)),
    ],
    ids=range(14),
)  # fmt: skip
def test_many_keys_of_one_hash_are_refused(annotation, value):
    with pytest.raises(EventArgumentError, match="argument 'x' takes too much work"):
        check(annotation, value)


def test_a_small_payload_cannot_have_every_member_of_nested_unions_tried():
    deep: dict[str, Any] = {}
    for _ in range(28):  # 3 ** 28 ways to read it
        deep = {"left": deep}
    with pytest.raises(EventArgumentError, match="argument 'x' takes too much work"):
        check(And | Or | Not, deep)
    shallow = {"left": {"left": {"left": {"must": 1}}}}
    assert check(And | Or | Not, shallow) == TypeAdapter(And | Or | Not).validate_python(shallow)


@pytest.mark.parametrize(
    ("annotation", "value", "place"),
    [
        (list[Wide], [{}] * 50, "0.f0"),
        (dict[str, Wide], {"a": {}, "b": {}}, "a.f0"),
        (Mapping[str, list[Wide]], {"a": [{}, {}]}, "a.0.f0"),
        (Sequence[int], [1, "x", "y"], "1"),
        (deque[int], [1, "x", "y"], "1"),
        (Iterable[int], [1, "x", "y"], "1"),
        (OneOfMany, {}, "Many0.g0_0"),
        (list[Wide] | int, [1], "list.0"),
        (Json[list[Wide]], "[{}]", "0.f0"),
    ],
)
def test_an_error_says_where_it_is(annotation, value, place):
    with pytest.raises(EventArgumentError) as caught:
        check(annotation, value)
    assert f"argument 'x' at {place}: " in str(caught.value)


class Own(BaseModel):
    """Its `__init__` validates by the class's own schema."""

    lines: list[Wide] = []
    expression: And | Or | Not | None = None

    def __init__(self, **data):
        super().__init__(**data)


def test_a_model_with_an_init_of_its_own_is_bounded_too():
    line = {f"f{i}": i for i in range(20)}
    assert len(check(list[Own], [{"lines": [line, line]}] * 50)) == 50
    deep: dict[str, Any] = {}
    for _ in range(28):
        deep = {"left": deep}
    for value in ({"lines": [{}] * 80_000}, {"expression": deep}):
        with pytest.raises(EventArgumentError, match="argument 'x' takes too much work"):
            check(Own, value)


def test_an_error_is_small_whatever_was_sent():
    for annotation, value in (
        (dict[str, int], {"k" * 100_000: "x"}),
        (Strict, {f"more{i}": 1 for i in range(30_000)}),
        (Tagged, {"kind": "t" * 100_000}),
        (Point, {f"more{i}": 1 for i in range(30_000)}),
        (Annotated[str, AfterValidator(lambda text: int("x" + text))], "v" * 100_000),
    ):
        with pytest.raises(EventArgumentError) as caught:
            check(annotation, value)
        assert len(str(caught.value)) < 600
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_an_argument_of_unknown_name_is_told_at_once():
    with pytest.raises(EventArgumentError, match="no argument 'n0'"):
        validated(taking(int), {"x": 1, **{f"n{i}": 1 for i in range(30_000)}})


def test_only_few_problems_of_an_error_become_python_objects():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python(["x"] * 1_000)
    assert first_problem(caught.value) == ("many", (), "1000 of its values do not fit")
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python(["x"] * 3)
    assert first_problem(caught.value)[:2] == ("int_parsing", (0,))


# -- the bounds change nothing else ------------------------------------------------------------------------------------


class Cat(BaseModel):
    name: str
    lives: int = 9


class Dog(BaseModel):
    name: str
    age: int | None = None
    toys: set[str] = set()


class Kennel(RootModel[dict[str, list[Dog]]]):
    pass


ANNOTATIONS = st.recursive(
    st.sampled_from([int, str, bool, float, Decimal, Colour, Cat, Dog, Kennel, Node, Data, Typed, Point, Any, Frozen]),
    lambda inner: st.one_of(
        inner.map(lambda T: list[T]),
        inner.map(lambda T: dict[str, T]),
        inner.map(lambda T: tuple[T, ...]),
        st.tuples(inner, inner).map(lambda two: tuple[two[0], two[1]]),
        inner.map(lambda T: deque[T]),
        inner.map(lambda T: Sequence[T]),
        inner.map(lambda T: T | None),
        st.tuples(inner, inner).map(lambda two: two[0] | two[1] if two[0] is not two[1] else two[0]),
        inner.map(lambda T: Json[T]),
        st.sampled_from([set[int], frozenset[str], dict[int, str], Counter[str], OrderedDict[str, int], set[Frozen]]),
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(["name", "age", "lives", "toys", "kids", "by", "f0", "f1", "f2", "x", "y", "a", "b", "1"])
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "red", "1", "1.5", "x", "[1]", '{"a":1}']),
        st.floats(allow_nan=False, width=16),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANNOTATIONS, st.lists(VALUES, min_size=1, max_size=8))
def test_what_is_accepted_and_what_it_becomes_is_as_pydantic_has_it(annotation, values):
    arguments = taking(annotation)
    for value in values:
        try:
            expected = arguments.adapter.validate_python({"x": value})["x"]
        except ValidationError:
            with pytest.raises(EventArgumentError):
                validated(arguments, {"x": value})
        else:
            found = validated(arguments, {"x": value})["x"]
            assert found == expected and type(found) is type(expected)


def test_large_collections_without_tricks_are_accepted():
    assert len(check(set[int], list(range(40_000)))) == 40_000
    assert len(check(dict[int, str], {str(i): "" for i in range(25_000)})) == 25_000
    tokens = [str(uuid.UUID(int=i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for i in range(6_500)]
    assert len(check(set[uuid.UUID], tokens)) == 6_500
    assert len(check(set[float], [i / 7 for i in range(20_000)])) == 20_000
    assert len(check(set[tuple[int, int]], [[i, -i] for i in range(15_000)])) == 15_000
    assert len(check(list[Frozen], [{"a": i} for i in range(20_000)])) == 20_000
    assert len(check(frozenset[int], [2**70 + i for i in range(10_000)])) == 10_000
    assert len(check(list[set[int]], [[0, MODULUS]] * 20_000)) == 20_000
    assert len(check(list[Wide] | list[int], [1] * 100_000)) == 100_000
    assert len(check(list[list[Wide] | list[int]], [[1] * 100_000])[0]) == 100_000
    assert check(set[int], [MODULUS * i for i in range(20)]) == {MODULUS * i for i in range(20)}


def test_an_iterable_is_checked_before_the_event_has_it():
    assert check(Iterable[int], ["1", 2]) == [1, 2]
    with pytest.raises(EventArgumentError, match="'x' at 1"):
        check(Iterable[int], [1, "x"])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Decimal, "1E1000000"), (Decimal, "1E-999999"), (Decimal, "9" * 5_000), (list[Decimal], ["1", "1E999999"]),
        (Fraction, "1e100000000"), (Fraction, "1" * 5_000), (Fraction, "1E+0009999999"),
        (int, 10**5_000), (int, "9" * 5_000), (Any, 10**5_000), (Any, [Decimal("1E999999")]),
        (dict[Any, Any], {10**5_000: 1}),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_number_that_would_take_seconds_to_show_is_refused(annotation, value):
    with pytest.raises(EventArgumentError, match="'x'"):
        check(annotation, value)


def test_ordinary_numbers_are_accepted():
    assert check(Decimal, "1E+30") == Decimal("1E+30")
    assert check(Decimal, "0.000001") == Decimal("0.000001")
    assert check(Fraction, "1/3") == Fraction(1, 3)
    assert check(Fraction, "1e3") == 1_000
    assert check(int, 10**4_000) == 10**4_000


def test_json_in_a_text_is_bounded_as_the_payload_is():
    assert check(Json[list[int]], "[1, 2]") == [1, 2]
    assert check(Json, '{"a": [1]}') == {"a": [1]}
    for text, said in (("[" * 40 + "]" * 40, "nested"), ("[", "JSON"), (5, "JSON")):
        with pytest.raises(EventArgumentError, match=said):
            check(Json[Any], text)

    class Exact(BaseModel):
        model_config = ConfigDict(strict=True)
        id: uuid.UUID

    token = uuid.uuid4()
    assert check(Json[Exact], f'{{"id": "{token}"}}').id == token  # strict types take it from JSON alone
    with pytest.raises(EventArgumentError, match="at most 10000 characters"):
        check(Json[list[Exact]], repeated("{}"))


# -- facts about pydantic ----------------------------------------------------------------------------------------------


def test_pydantic_stops_at_the_first_wrong_item_where_it_is_told_to():
    for annotation, value in (
        (list[int], ["x"] * 9), (set[int], ["x", "y"]), (frozenset[int], ["x", "y"]), (tuple[int, ...], ["x"] * 9),
        (deque[int], ["x"] * 9), (dict[int, int], {"x": "x", "y": "y"}), (OrderedDict[int, int], {"x": "x", "y": "y"}),
        (Counter[int], {"x": 1, "y": 2}), (defaultdict[int, int], {"x": 1, "y": 2}),
    ):  # fmt: skip
        validate = bounded(TypeAdapter(TypedDict("T", {"x": annotation})))
        with pytest.raises(Unfit) as caught, work_of(10_000):
            validate({"x": value})
        assert caught.value.error.error_count() <= 2  # of one entry: its key and its value


def test_it_is_known_whether_validators_run_python_code():
    assert not runs_own_code(TypeAdapter(dict[str, list[Node]]))
    assert runs_own_code(TypeAdapter(dict[str, list[Annotated[int, BeforeValidator(int)]]]))


# -- where they are checked --------------------------------------------------------------------------------------------

where: contextvars.ContextVar[str] = contextvars.ContextVar("where")


def test_long_checks_leave_the_loop_with_the_context_and_short_ones_stay():
    seen = []

    def noted(value):
        seen.append((threading.get_ident(), where.get()))
        return value

    arguments = taking(list[Annotated[int, AfterValidator(noted)]])

    async def run(count):
        seen.clear()
        where.set("here")
        accepted = arguments.accept({"x": list(range(count))})
        assert isinstance(accepted, dict) == (count < LARGE)
        accepted = accepted if isinstance(accepted, dict) else await accepted
        assert accepted == {"x": list(range(count))}
        assert {context for _, context in seen} == {"here"}
        return {thread for thread, _ in seen}

    async def both():
        assert await run(10) == {threading.get_ident()}
        assert await run(LARGE + 10) != {threading.get_ident()}
        with pytest.raises(EventArgumentError, match="'x' at 0"):
            await arguments.accept({"x": ["x"] * 10_000})

    asyncio.run(both())


def test_a_check_that_finds_no_free_thread_is_given_up():
    go = threading.Event()
    arguments = taking(list[Annotated[int, AfterValidator(lambda value: go.wait(30) and value)]])
    many = {"x": [1] * LARGE}

    async def run():
        busy = [asyncio.ensure_future(arguments.accept(many)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(LockTimeoutError, match="no thread was free"):
            await arguments.accept(many, wait=0.05)
        go.set()
        assert await asyncio.gather(*busy) == [many] * 4
        assert await arguments.accept(many) == many

    asyncio.run(run())


def test_a_long_text_for_a_validator_in_python_leaves_the_loop():
    arguments = taking(Annotated[str, AfterValidator(str.upper)])

    async def run():
        assert arguments.accept({"x": "é"}) == {"x": "É"}
        assert await arguments.accept({"x": "é" * 100_000}) == {"x": "É" * 100_000}

    asyncio.run(run())


# -- text that cannot be encoded ---------------------------------------------------------------------------------------

HALF = "\ud800"


@pytest.mark.parametrize(
    "value",
    [
        HALF, [HALF], {"a": HALF}, {HALF: 1}, [{"a": [HALF]}], (1, HALF), {HALF}, deque([HALF]), Cat(name=HALF),
        Data(HALF, 1), Point(HALF), [Cat(name="a"), Cat(name=HALF)], OrderedDict({"a": {HALF: []}}),
    ],
    ids=range(13),
)  # fmt: skip
def test_half_of_a_character_is_refused_at_any_depth(value):
    with pytest.raises(EventArgumentError, match=r"argument 'x' holds half of a character") as caught:
        check(Any, value)
    assert HALF not in str(caught.value)
    for filler in ([0] * 10, [0] * LARGE):
        accepted = taking(Any)
        with pytest.raises(EventArgumentError, match="argument 'x'"):
            asyncio.run(finish(accepted.accept({"x": [value, *filler]})))
        with pytest.raises(EventArgumentError, match="argument 'x'"):
            asyncio.run(finish(accepted.accept({"x": [*filler, value]})))


async def finish(accepted):
    return accepted if isinstance(accepted, dict) else await accepted


def test_a_circle_does_not_hold_anybody_up():
    circle: list[Any] = []
    circle.append(circle)
    assert asyncio.run(finish(taking(Any).accept({"x": circle})))["x"] is circle


TEXTS = st.text(st.characters(exclude_categories=()), max_size=5)


@settings(max_examples=400, deadline=None)
@given(st.recursive(TEXTS, lambda i: st.lists(i, max_size=3) | st.dictionaries(TEXTS, i, max_size=3), max_leaves=6))
def test_what_is_accepted_can_be_encoded(value):
    arguments = taking(Any)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(EventArgumentError):
            asyncio.run(finish(arguments.accept({"x": value})))
    else:
        assert arguments.accept({"x": value}) == {"x": value}


class Room(ReactiveState):
    last: str = ""
    lines: list[str] = []
    things: dict[str, Any] = {}

    @event
    def say(self, text: str):
        self.last = text
        self.lines.append(text)

    @event
    def put(self, things: dict[str, Any]):
        self.things = things

    @event
    def lots(self, lines: list[Wide]):
        self.last = str(len(lines))


def room():
    provider = provider_of(Room, StateConfig(scope=StateScope.GLOBAL, public=True))
    app, rt = fast_app(state_provider=provider, secret_key="x")

    @rt("/")
    def index(room: Room):
        return room.signal.last

    @rt("/api")
    async def api(text: str, room: Room):
        await room.say.run(text=text)
        return "ok"

    @app.ws("/ws")
    async def ws(text: str, room: Room, send):
        try:
            await room.put.run(things={text: 1})
        except EventArgumentError as error:
            await send(str(error))

    return provider, app


def send(client, name, status, **body):
    answer = client.post(
        f"/_faststate/event/Room/{name}",
        content=json.dumps(body),
        headers={**BROWSER, "content-type": "application/json"},
    )
    assert answer.headers.get("faststate-status") == status, answer.text
    return answer.text


def test_half_of_a_character_comes_in_by_no_way():
    _, app = room()
    with TestClient(app, raise_server_exceptions=False) as client:
        for body in ({"a": {"text": HALF}}, {"a": {}, "f": [["text", HALF]]}, {"s": {"text": HALF}}):
            send(client, "say", "400", **body)
        send(client, "put", "400", a={"things": {"a": [{HALF: 1}]}})
        answer = client.post("/_faststate/event/Room/say?text=%ED%A0%80", content="{}", headers=BROWSER)
        assert answer.status_code in (200, 204)
        answer = client.post("/api", content='{"text": "\\ud800"}', headers={"content-type": "application/json"})
        assert answer.status_code == 400
        with client.websocket_connect("/ws", headers={"origin": "http://testserver"}) as socket:
            socket.send_text('{"text": "\\ud800"}')
            assert "argument 'things'" in socket.receive_text()
        assert client.get("/").status_code == 200


def test_a_bad_payload_is_refused_by_its_event_without_its_values(caplog):
    _, app = room()
    with TestClient(app) as client, caplog.at_level(logging.DEBUG):
        client.get("/")
        text = send(client, "lots", "400", a={"lines": [{"secret": "s3cr3t"}] + [{}] * 20_000})
        assert "lines" in text and "0.f0" in text.replace("\\u002e", ".")
        send(client, "lots", None, a={"lines": [{f"f{i}": i for i in range(20)}] * 400})
    assert "s3cr3t" not in caplog.text and len(caplog.text) < 5_000


# -- defaults ----------------------------------------------------------------------------------------------------------


class Other(ReactiveState):
    n: int = 0


SHARED_STATE = Other()
FROZEN = Frozen()


class Box:
    """Something of the app's own, that is meant to be shared."""


BOX = Box()


class Defaulted(ReactiveState):
    seen: list[Any] = []

    @event
    def tags(self, tags: list[str] = [], more: dict[str, list[int]] = {"a": [1]}, *, last: set[int] = set()):  # noqa: B006
        tags.append("x")
        more["a"].append(2)
        last.add(1)
        return len(tags), len(more["a"]), len(last)

    @event
    def models(self, cat: Cat = Cat(name="a"), data: Data = Data(1, 2), pair: tuple[list[int], int] = ([], 1)):  # noqa: B008
        cat.lives -= 1
        data.f2.append(1)
        pair[0].append(1)
        return cat.lives, len(data.f2), len(pair[0])

    @event
    def twice(self):
        return [self.tags(), self.tags(), self.tags(["a"]), self.tags(more={"a": []}), self.models(), self.models()]

    @event
    def same(
        self, text: str = "a", frozen: Frozen = FROZEN, box: Any = BOX, state: Any = SHARED_STATE, call: Any = len
    ):
        return [box is BOX, state is SHARED_STATE, call is len]


def test_a_default_is_copied_for_each_call():
    fresh = (1, 2, 1)
    state = Defaulted()
    for _ in range(2):
        assert state.tags() == fresh
        assert state.models() == (8, 1, 1)
        assert Defaulted.tags(state) == fresh
        assert state.twice() == [fresh, fresh, (2, 2, 1), (1, 1, 1), (8, 1, 1), (8, 1, 1)]
    given = ["mine"]
    state.tags(given)
    assert given == ["mine", "x"]


def test_a_default_is_copied_for_pages_and_server_code_too():
    provider = provider_of(Defaulted, StateConfig(scope=StateScope.GLOBAL, public=True))
    app, rt = fast_app(state_provider=provider, secret_key="x")
    found = []

    @rt("/")
    async def index(state: Defaulted):
        for name in ("tags", "tags", "models", "models", "twice", "same"):
            found.append(await getattr(state, name).run())
        return "ok"

    with TestClient(app) as client:
        client.get("/")
    fresh, model = (1, 2, 1), (8, 1, 1)
    assert found[:4] == [fresh, fresh, model, model]
    assert found[4] == [fresh, fresh, (2, 2, 1), (1, 1, 1), model, model]
    assert found[5] == [True, True, True]
    arguments = Defaulted._fs_schema().events["tags"].arguments
    assert arguments.with_defaults({})["tags"] is not arguments.with_defaults({})["tags"]
    mine: list[str] = []
    assert arguments.with_defaults({"tags": mine})["tags"] is mine


def test_immutable_defaults_cost_nothing():
    assert Defaulted.same.event.changeable_defaults == ()
    assert [name for _, name, _ in Defaulted.tags.event.changeable_defaults] == ["tags", "more", "last"]


def test_a_list_of_models_that_cannot_be_finished_is_not_begun():
    """60,000 empty objects took 92 ms of a worker thread before they were refused."""
    begun = []

    class Line(BaseModel):
        sku: str
        count: int = 1

        @model_validator(mode="before")
        @classmethod
        def note(cls, data):
            begun.append(data)
            return data

    with pytest.raises(EventArgumentError, match="argument 'x' takes too much work"):
        check(list[Line], [{}] * 60_000)
    assert begun == []
