"""A value is validated once: what did not change is never converted again, in memory or by way of a store."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any

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
    Json,
    PrivateAttr,
    RootModel,
    SecretStr,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from faststate import EventError, ReactiveState, ServerOnly, StateConfig, StateProvider, StateScope
from faststate.state.comparison import known_items
from faststate.state.values import Thaw, freeze
from faststate.validation.revalidation import revalidation_of


def cents(euros: Any) -> int:
    return round(float(euros) * 100)


Cents = Annotated[int, BeforeValidator(cents)]
Doubled = Annotated[int, AfterValidator(lambda value: value * 2)]
Marked = Annotated[str, WrapValidator(lambda value, handler: handler(value) + "!")]


class Line(BaseModel):
    cents: Cents = 0
    qty: int = 1
    notes: list[Marked] = []


class Account(BaseModel):
    password: Annotated[str, Field(max_length=8)]
    logins: int = 0

    @field_validator("password")
    @classmethod
    def hashed(cls, value: str) -> str:
        return "#" * 12 + value[::-1]


class Checked(BaseModel):
    """A model whose validators see it whole, each time that it changes."""

    low: Doubled = 0
    high: int = 100
    total: int = 0

    @model_validator(mode="after")
    def add_up(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        self.total = self.low + self.high
        return self


class Assigned(BaseModel):
    model_config = ConfigDict(validate_assignment=True)
    value: Doubled = 0
    other: int = 0


class Root(RootModel[list[Doubled]]):
    pass


@dataclasses.dataclass
class Made:
    n: int
    made: int = 0
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.made += 1


@pydantic_dataclass
class Built:
    n: Doubled
    other: int = 0


class Shop(ReactiveState):
    price: Cents = 0
    clicks: int = 0
    prices: list[Cents] = []
    stock: dict[str, Doubled] = {}
    lines: list[Line] = []
    by_name: dict[str, Line] = {}
    account: ServerOnly[Account | None] = None
    checked: Checked = Checked()
    assigned: Assigned = Assigned()
    root: Root | None = None
    made: Made | None = None
    built: Built | None = None
    coded: Base64Bytes | None = None
    parsed: Json[list[int]] = []
    last: Annotated[list[Doubled], AfterValidator(lambda values: values[-3:])] = []


class WholeShop(Shop):
    """The same with validators of the whole state: pydantic would run those of every field at each commit."""

    seen: int = 0

    @model_validator(mode="after")
    def look(self):
        if self.clicks < 0:
            raise ValueError("clicks are counted upwards")
        self.seen = len(self.lines)
        return self

    @model_validator(mode="before")
    @classmethod
    def whole(cls, values: Any) -> Any:
        assert isinstance(values, dict)
        return values


def provider_of(cls: type[ReactiveState], store: str | None = None) -> StateProvider:
    provider = StateProvider(store=store)
    provider.register_state(cls, StateConfig(scope=StateScope.GLOBAL, in_memory=store is None))
    return provider


def fill(shop: Shop) -> None:
    shop.price = 2.5
    shop.prices = [1.5, 2]
    shop.stock = {"tea": 4}
    shop.lines = [Line(cents=2.5, notes=["a"])]
    shop.by_name["x"] = Line(cents=3)
    shop.account = Account(password="secret")
    shop.checked = Checked(low=5)
    shop.assigned = Assigned(value=3)
    shop.root = Root([1, 2])
    shop.made = Made(1)
    shop.built = Built(4)
    shop.coded = b"aGVsbG8="
    shop.parsed = "[1, 2]"
    shop.last = [1, 2, 3, 4]


FILLED = {
    "price": 250,
    "prices": [150, 200],
    "stock": {"tea": 8},
    "lines": [{"cents": 250, "qty": 1, "notes": ["a!"]}],
    "by_name": {"x": {"cents": 300, "qty": 1, "notes": []}},
    "checked": {"low": 10, "high": 100, "total": 110},
    "assigned": {"value": 6, "other": 0},
    "root": [2, 4],
    "made": {"n": 1, "made": 1, "tags": []},
    "built": {"n": 8, "other": 0},
    "parsed": [1, 2],
    "last": [4, 6, 8],
}


def contents(provider: StateProvider, cls: type[ReactiveState]) -> dict[str, Any]:
    state = provider.registry.peek(f"global:{cls.__name__}")
    assert state.account.password == "#" * 12 + "terces"
    assert state.coded == b"hello"
    return state.model_dump(exclude={"coded", "clicks", "seen"})


@pytest.mark.parametrize("cls", [Shop, WholeShop])
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
async def test_other_changes_convert_nothing_again(cls, stored, tmp_path):
    store = f"sqlite:///{tmp_path / 'state.db'}" if stored else None
    provider = provider_of(cls, store)
    await provider.start()
    async with provider.modify(cls) as shop:
        fill(shop)
    assert contents(provider, cls) == FILLED
    for _ in range(3):
        async with provider.modify(cls) as shop:
            shop.clicks += 1
        assert contents(provider, cls) == FILLED
    if stored:
        await provider.stop()
        provider = provider_of(cls, store)
        await provider.start()
        async with provider.modify(cls) as shop:
            shop.clicks += 1
        assert contents(provider, cls) == FILLED
    await provider.stop()


@pytest.mark.parametrize("cls", [Shop, WholeShop])
async def test_changes_beside_a_value_convert_it_no_more_and_themselves_once(cls):
    provider = provider_of(cls)
    async with provider.modify(cls) as shop:
        fill(shop)
    async with provider.modify(cls) as shop:
        shop.prices.append(3)
        shop.stock["milk"] = 1
        shop.lines[0].qty = 7
        shop.lines[0].notes.append("b")
        shop.lines.append(Line(cents=1))
        shop.by_name["x"].cents = 4
        shop.account.logins = 2
        shop.checked.high = 90
        shop.assigned.other = 5
        shop.root.root.append(3)
        shop.made.tags.append("t")
        shop.built.other = 9
        shop.parsed.append(3)
        shop.last.append(5)
    assert contents(provider, cls) == {
        "price": 250,
        "prices": [150, 200, 300],
        "stock": {"tea": 8, "milk": 2},
        "lines": [{"cents": 250, "qty": 7, "notes": ["a!", "b!"]}, {"cents": 100, "qty": 1, "notes": []}],
        "by_name": {"x": {"cents": 400, "qty": 1, "notes": []}},
        "checked": {"low": 10, "high": 90, "total": 100},
        "assigned": {"value": 6, "other": 5},
        "root": [2, 4, 6],
        "made": {"n": 1, "made": 1, "tags": ["t"]},
        "built": {"n": 8, "other": 9},
        "parsed": [1, 2, 3],
        "last": [6, 8, 10],
    }
    async with provider.modify(cls) as shop:
        shop.prices.reverse()
        shop.prices.pop()
        shop.assigned.value = 4
    state = provider.registry.peek(f"global:{cls.__name__}")
    assert (state.prices, state.assigned.value) == ([300, 200], 8)


async def test_what_is_changed_in_place_is_validated_all_the_same():
    provider = provider_of(WholeShop)
    wrong = {
        "item": lambda shop: shop.prices.append("much"),
        "value": lambda shop: shop.stock.__setitem__("tea", "much"),
        "field": lambda shop: setattr(shop.lines[0], "qty", "many"),
        "list in a model": lambda shop: shop.lines[0].notes.append(5),
        "new model": lambda shop: shop.lines.append(Line.model_construct(qty="many")),
        "dataclass": lambda shop: setattr(shop.made, "n", "one"),
        "new dataclass": lambda shop: setattr(shop, "made", Made("one")),
        "model validator": lambda shop: setattr(shop.checked, "high", 1),
        "state's validator": lambda shop: setattr(shop, "clicks", -1),
        "root": lambda shop: shop.root.root.append("x"),
    }
    async with provider.modify(WholeShop) as shop:
        fill(shop)
    before = provider.registry.peek("global:WholeShop")
    for change in wrong.values():
        with pytest.raises(EventError, match="WholeShop"):
            async with provider.modify(WholeShop) as shop:
                change(shop)
        assert provider.registry.peek("global:WholeShop") is before


async def test_a_nested_models_own_validators_run_when_it_changes_and_not_when_it_is_held():
    calls: list[int] = []

    class Noted(BaseModel):
        n: int = 0
        times: int = 0

        @model_validator(mode="after")
        def note(self):
            calls.append(self.n)
            self.times += 1
            return self

    class Holder(ReactiveState):
        one: Noted = Noted()
        many: list[Noted] = []
        maybe: dict[str, Noted | None] = {}

    provider = provider_of(Holder)
    async with provider.modify(Holder) as state:
        state.one, state.many, state.maybe = Noted(n=5), [Noted(n=6)], {"a": Noted(n=7), "b": None}
        calls.clear()
    assert calls == []
    async with provider.modify(Holder) as state:
        state.one.n = 8
    assert calls == [8]
    async with provider.modify(Holder) as state:
        state.many[0].n = 9
        state.many.append(Noted(n=1))
        calls.clear()
    assert calls == [9]
    state = provider.registry.peek("global:Holder")
    assert (state.one.times, state.many[0].times, state.maybe["a"].times) == (2, 2, 1)


async def test_a_model_validator_may_change_what_it_sees():
    class Sorted(ReactiveState):
        items: list[int] = []
        first: int | None = None
        n: int = 0

        @model_validator(mode="after")
        def order(self):
            self.items.sort()
            self.first = self.items[0] if self.items else None
            return self

    provider = provider_of(Sorted)
    async with provider.modify(Sorted) as state:
        state.items.extend([3, 1])
    async with provider.modify(Sorted) as state:
        state.n += 1
        state.items.append(2)
    state = provider.registry.peek("global:Sorted")
    assert (state.items, state.first, state.n) == ([1, 2, 3], 1, 1)


async def test_an_assignment_that_the_class_validates_itself_is_validated_once():
    class Strictly(ReactiveState):
        model_config = ConfigDict(validate_assignment=True)
        value: Doubled = 0
        values: list[Doubled] = []

    provider = provider_of(Strictly)
    async with provider.modify(Strictly) as state:
        state.value = 3
        state.values = [1, 2]
        assert (state.value, state.values) == (6, [2, 4])
    state = provider.registry.peek("global:Strictly")
    assert (state.value, state.values) == (6, [2, 4])


async def test_a_value_set_to_what_it_is_already_is_no_change():
    provider = provider_of(Shop)
    async with provider.modify(Shop) as shop:
        fill(shop)
    before = provider.registry.peek("global:Shop")
    async with provider.modify(Shop) as shop:
        shop.price = int("250")
        shop.prices = list(shop.prices)
        shop.lines[0].cents = int("250")
    assert provider.registry.peek("global:Shop") is before


class Money:
    """Whose methods stand in annotations: they are validators as any other."""

    @classmethod
    def to_cents(cls, value: int) -> int:
        return value * 100


class Typed(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Marked]
    n: int = 0


class Always(BaseModel):
    model_config = ConfigDict(revalidate_instances="always")
    text: Marked = ""


class Colour(enum.Enum):
    A = "a"
    B = "b"


class Everywhere(ReactiveState):
    """Validators in all places that a type has."""

    clicks: int = 0
    keys: dict[Marked, int] = {}
    nested: list[list[Doubled]] = []
    pairs: list[tuple[Marked, Doubled]] = []
    tuple_keys: dict[Annotated[tuple[str, int], AfterValidator(lambda pair: (pair[0] + "!", pair[1]))], int] = {}
    members: set[Doubled] = set()
    secrets: list[Annotated[SecretStr, AfterValidator(lambda s: SecretStr("#" + s.get_secret_value()))]] = []
    models: list[Annotated[Assigned, AfterValidator(lambda m: Assigned(value=m.value))]] = []
    lists: list[Annotated[list[int], AfterValidator(lambda values: [*values, 0])]] = []
    either: list[Doubled] | list[Marked] = []
    maybe: dict[str, Doubled | Marked | None] = {}
    methods: list[Annotated[int, AfterValidator(Money.to_cents)]] = []
    hexes: list[Annotated[bytes, BeforeValidator(bytes.fromhex)]] = []
    colours: list[Annotated[Colour, AfterValidator(lambda c: Colour.B if c is Colour.A else Colour.A)]] = []
    extra: Typed = Typed()
    always: list[Always] = []
    texts: list[Json] = []


NEW: dict[str, tuple[Any, Any]] = {
    "keys": ({"a": 1}, {"a!": 1}),
    "nested": ([[1, 2], [3]], [[2, 4], [6]]),
    "pairs": ([("a", 1)], [("a!", 2)]),
    "tuple_keys": ({("a", 1): 1}, {("a!", 1): 1}),
    "members": ({1, 3}, {2, 6}),
    "secrets": ([SecretStr("a")], [SecretStr("#a")]),
    "models": ([Assigned(value=1)], [Assigned.model_construct(value=4, other=0)]),
    "lists": ([[1]], [[1, 0]]),
    "either": (["a"], ["a!"]),
    "maybe": ({"a": 1, "b": "x", "c": None}, {"a": 2, "b": "x!", "c": None}),
    "methods": ([2], [200]),
    "hexes": (["ff"], [b"\xff"]),
    "colours": ([Colour.A], [Colour.B]),
    "extra": (Typed(more="a"), Typed.model_construct(n=0, more="a!")),
    "always": ([Always(text="a")], [Always.model_construct(text="a!")]),
    "texts": (["[1]"], [[1]]),
}
BESIDE: dict[str, tuple[Any, Any]] = {
    "keys": (lambda v: v.__setitem__("b", 2), {"a!": 1, "b!": 2}),
    "nested": (lambda v: (v[0].append(5), v.append([7])), [[2, 4, 10], [6], [14]]),
    "pairs": (lambda v: v.append(("b", 2)), [("a!", 2), ("b!", 4)]),
    "tuple_keys": (lambda v: v.__setitem__(("b", 2), 2), {("a!", 1): 1, ("b!", 2): 2}),
    "members": (lambda v: v.add(5), {2, 6, 10}),
    "secrets": (lambda v: v.append(SecretStr("b")), [SecretStr("#a"), SecretStr("#b")]),
    "models": (
        lambda v: v.append(Assigned(value=2)),
        [Assigned.model_construct(value=4, other=0), Assigned.model_construct(value=8, other=0)],
    ),
    "lists": (lambda v: v.append([2]), [[1, 0], [2, 0]]),
    "either": (lambda v: v.append("b"), ["a!", "b!"]),
    "maybe": (lambda v: v.__setitem__("d", 4), {"a": 2, "b": "x!", "c": None, "d": 8}),
    "methods": (lambda v: v.append(3), [200, 300]),
    "hexes": (lambda v: v.append("aa"), [b"\xff", b"\xaa"]),
    "colours": (lambda v: v.append(Colour.A), [Colour.B, Colour.B]),
    "extra": (lambda v: setattr(v, "n", 5), Typed.model_construct(n=5, more="a!")),
    "always": (
        lambda v: v.append(Always(text="b")),
        [Always.model_construct(text="a!"), Always.model_construct(text="b!")],
    ),
    "texts": (lambda v: v.append("[2]"), [[1], [2]]),
}


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
async def test_a_validator_anywhere_in_a_type_converts_each_value_once(name, stored, tmp_path):
    store = f"sqlite:///{tmp_path / 'state.db'}" if stored else None
    provider = provider_of(Everywhere, store)
    await provider.start()
    given, expected = NEW[name]
    change, beside = BESIDE[name]

    def now() -> Any:
        return getattr(provider.registry.peek("global:Everywhere"), name)

    async with provider.modify(Everywhere) as state:
        setattr(state, name, given)
    assert now() == expected
    async with provider.modify(Everywhere) as state:
        state.clicks += 1
    async with provider.modify(Everywhere) as state:
        change(getattr(state, name))
    assert now() == beside
    if stored:
        await provider.stop()
        provider = provider_of(Everywhere, store)
        await provider.start()
        async with provider.modify(Everywhere) as state:
            state.clicks += 1
        assert now() == beside
    await provider.stop()


async def test_an_untouched_item_stays_what_it_is_where_a_new_one_is_given_its_value():
    provider = provider_of(Shop)
    async with provider.modify(Shop) as shop:
        shop.stock = {"tea": 1, "gold": 50}
        shop.prices = [1, 500]
    async with provider.modify(Shop) as shop:
        shop.stock["tea"] = 100
        shop.prices[0] = 50000
    shop = provider.registry.peek("global:Shop")
    assert (shop.stock, shop.prices) == ({"tea": 200, "gold": 100}, [5000000, 50000])


async def test_validators_may_change_the_models_that_they_see():
    class Item(BaseModel):
        n: int = 0
        total: int = 0

    class Inner(BaseModel):
        items: list[Item] = []

        @model_validator(mode="after")
        def add_up(self):
            for item in self.items:
                item.total = item.n * 2
            return self

    class Holder(ReactiveState):
        items: list[Item] = []
        checked: list[Item] = []
        inner: Inner = Inner()

        @model_validator(mode="after")
        def add_up(self):
            for item in self.items:
                item.total = item.n * 2
            return self

        @field_validator("checked")
        @classmethod
        def look(cls, items):
            for item in items:
                item.total = item.n * 3
            return items

    provider = provider_of(Holder)
    async with provider.modify(Holder) as state:
        state.items.append(Item(n=1))
        state.checked.append(Item(n=1))
        state.inner = Inner(items=[Item(n=1)])
    async with provider.modify(Holder) as state:
        state.items[0].n = state.checked[0].n = state.inner.items[0].n = 5
    state = provider.registry.peek("global:Holder")
    assert (state.items[0].total, state.checked[0].total, state.inner.items[0].total) == (10, 15, 10)
    before = state
    async with provider.modify(Holder) as state:
        state.items.append(Item(n=2))
    assert provider.registry.peek("global:Holder").items[0] is before.items[0]


async def test_a_model_validator_that_reads_input_is_not_given_what_is_there_already():
    class Member(BaseModel):
        password_hash: str
        logins: int = 0

        @model_validator(mode="before")
        @classmethod
        def hashed(cls, values):
            return {"password_hash": "#" + values["password"], "logins": values.get("logins", 0)}

    class Holder(ReactiveState):
        member: Member | None = None
        cents: int = 0
        clicks: int = 0

        @model_validator(mode="before")
        @classmethod
        def convert(cls, values):
            return {**values, "cents": values.get("cents", 0) * 100}

    provider = provider_of(Holder)
    async with provider.modify(Holder) as state:
        state.member, state.cents = Member(password="x"), 5
    for _ in range(3):
        async with provider.modify(Holder) as state:
            state.member.logins += 1
            state.clicks += 1
    state = provider.registry.peek("global:Holder")
    assert (state.member.password_hash, state.member.logins, state.cents) == ("#x", 3, 5)


async def test_what_is_changed_after_it_was_assigned_is_validated_too():
    class Limited(BaseModel):
        model_config = ConfigDict(validate_assignment=True)
        tags: list[Annotated[str, Field(max_length=3), AfterValidator(str.upper)]] = []

    class Strictly(ReactiveState):
        model_config = ConfigDict(validate_assignment=True)
        tags: list[Annotated[str, Field(max_length=3), AfterValidator(str.upper)]] = []
        ended: Annotated[list[str], AfterValidator(lambda values: [*values, "end"])] = []
        limited: Limited = Limited()

    provider = provider_of(Strictly)
    for wrong in ("much too long", 5):
        for find in (lambda state: state, lambda state: state.limited):
            with pytest.raises(EventError, match="tags"):
                async with provider.modify(Strictly) as state:
                    find(state).tags = ["a"]
                    find(state).tags.append(wrong)
    async with provider.modify(Strictly) as state:
        state.tags = ["a"]
        state.tags.append("b")
        state.ended = ["a"]
        state.limited.tags = ["c"]
        state.limited.tags.append("d")
    state = provider.registry.peek("global:Strictly")
    assert (state.tags, state.ended, state.limited.tags) == (["A", "B"], ["a", "end"], ["C", "D"])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(-50, 50)),
            st.tuples(st.just("insert"), st.integers(-50, 50)),
            st.tuples(st.just("pop"), st.integers(0, 5)),
            st.tuples(st.just("reverse"), st.just(0)),
            st.tuples(st.just("keep"), st.integers(0, 5)),
            st.tuples(st.just("row"), st.integers(-50, 50)),
            st.tuples(st.just("qty"), st.integers(0, 9)),
            st.tuples(st.just("commit"), st.just(0)),
        ),
        max_size=25,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_changes_convert_each_new_value_once(changes):
    """Held against a plain list, in which each value is converted when it is put there.

    Values are given as even numbers and converted to odd ones, so that nobody can take one for the other.
    """
    Odd = Annotated[int, AfterValidator(lambda value: value * 2 + 1 if value % 2 == 0 else 1 / 0)]

    class Row(BaseModel):
        value: Odd
        qty: int = 0

    class Table(BaseModel):
        values: list[Odd] = []
        rows: list[Row] = []

    expected: list[int] = []
    rows: list[list[int]] = []
    committed = freeze(Table())
    thaw = Thaw()
    table = thaw.thaw(committed)
    for what, number in [*changes, ("commit", 0)]:
        even = number * 2
        if what == "append":
            table.values.append(even)
            expected.append(even * 2 + 1)
        elif what == "insert":
            table.values.insert(1, even)
            expected.insert(1, even * 2 + 1)
        elif what == "pop" and number < len(expected):
            table.values.pop(number)
            expected.pop(number)
        elif what == "reverse":
            table.values.reverse()
            expected.reverse()
        elif what == "keep":
            table.values = table.values[:number]
            expected = expected[:number]
        elif what == "row":
            table.rows.append(Row(value=even))
            rows.append([even * 2 + 1, 0])
        elif what == "qty" and rows:
            table.rows[number % len(rows)].qty += 1
            rows[number % len(rows)][1] += 1
        elif what == "commit":
            committed = thaw.refreeze(table)
            assert committed.values == expected
            assert [[row.value, row.qty] for row in committed.rows] == rows
            thaw = Thaw()
            table = thaw.thaw(committed)


# -- the validators by themselves --------------------------------------------------------------------------------------


class Private(BaseModel):
    value: Doubled = 0
    _seen: list[int] = PrivateAttr(default_factory=list)
    _made: int = PrivateAttr(0)

    def model_post_init(self, context: Any) -> None:
        self._made = self.value
        self.value += 1


def test_a_loaded_model_has_its_private_attributes_and_its_own_values():
    loaded = revalidation_of(Private).load({"value": 7})
    assert (loaded.value, loaded._seen, loaded._made) == (7, [], 7)


class Tree(BaseModel):
    value: Doubled = 0
    kids: list[Tree] = []
    by_name: dict[str, Tree | None] = {}


def test_a_class_that_holds_itself_is_loaded_and_changed_at_any_depth():
    loaded = revalidation_of(Tree).load({"value": 1, "kids": [{"value": 3, "by_name": {"a": {"value": 5}, "b": None}}]})
    assert loaded.kids[0].by_name["a"].value == 5 and type(loaded.kids[0]) is Tree
    thaw = Thaw()
    tree = thaw.thaw(freeze(loaded))
    tree.kids[0].by_name["a"].kids.append(Tree(value=2))
    tree.kids[0].value = 4
    committed = thaw.refreeze(tree)
    deep = committed.kids[0].by_name["a"]
    assert (committed.value, committed.kids[0].value, deep.value, deep.kids[0].value) == (1, 8, 5, 4)


def test_a_loaded_value_of_another_type_is_refused():
    for cls, values in ((Line, {"qty": "many"}), (Made, {"n": "x"}), (Tree, {"kids": [{"value": "x"}]}), (Root, ["x"])):
        with pytest.raises(ValidationError):
            revalidation_of(cls).load(values)


def test_a_constraint_is_asked_of_what_is_loaded_unless_a_validator_may_have_made_more_of_it():
    class Limited(BaseModel):
        plain: Annotated[int, Field(le=5)] = 0
        hashed: Annotated[str, Field(max_length=3), AfterValidator(lambda value: value * 5)] = ""
        items: list[Annotated[str, Field(max_length=3)]] = []

    assert revalidation_of(Limited).load({"hashed": "abcabcabc"}).hashed == "abcabcabc"
    for wrong in ({"plain": 6}, {"items": ["long"]}):
        with pytest.raises(ValidationError):
            revalidation_of(Limited).load(wrong)


def test_each_known_item_stands_for_one():
    known = known_items([100, 100, 100, True, "a"], freeze([100, 100, 100, True, "a"]), freeze([7, 100, "a", 100]))
    assert [known.take("i", value) for value in (100, 100, 100, True, "a")] == [True, True, False, False, True]
    assert not known.take("i", 100) and not known.take("v", "a") and not known.take("i", [1])
