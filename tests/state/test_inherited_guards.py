"""Subclasses hide and guard what their base hides and guards, whatever stands between."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, Field, computed_field

from faststate import AsSignal, Bound, EventDefinitionError, ReactiveState, ServerOnly, Visible, event


class Guarded(ReactiveState):
    n: int = 0

    @event(roles=["staff"])
    def wipe(self) -> None:
        self.n = 0


class GuardedMixin:
    @event(roles=["staff"])
    def wipe(self) -> None: ...


class Plain:
    def wipe(self) -> None: ...


class AsMethod(Guarded):
    def wipe(self) -> None: ...  # closed: no event any more


class AsValue(Guarded):
    wipe: ClassVar[None] = None  # closed, too


class AsProperty(Guarded):
    @property
    def wipe(self) -> int:  # closed, too
        return 1


class Between(Plain, Guarded):  # the mixin closes the event
    pass


class Twice(AsMethod):
    def wipe(self) -> None: ...


class FromMixin(GuardedMixin, ReactiveState):
    def wipe(self) -> None: ...  # closed


@pytest.mark.parametrize("base", [Guarded, AsMethod, AsValue, AsProperty, Between, Twice, FromMixin])
def test_an_event_keeps_its_guard_whatever_plain_overriding_stands_between(base: Any) -> None:
    class Again(base):
        @event
        def wipe(self) -> None: ...

    class Adds(base):
        @event(permissions=["wipe"])
        def wipe(self) -> None: ...

    assert Again._fs_schema().events["wipe"].rule.roles == ("staff",)
    assert Adds._fs_schema().events["wipe"].rule.roles == ("staff",)
    assert Adds._fs_schema().events["wipe"].rule.permissions == ("wipe",)


def test_an_event_that_expects_a_version_keeps_that_through_a_plain_method() -> None:
    class Versioned(ReactiveState):
        @event(expect_version=True)
        def save(self) -> None: ...

    class Closed(Versioned):
        def save(self) -> None: ...  # closed

    class Open(Closed):
        @event
        def save(self) -> None: ...

    assert Open._fs_schema().events["save"].expect_version


# -- fields ------------------------------------------------------------------------------------------------------------


class Hidden(ReactiveState):
    key: ServerOnly[str] = "k"


class Restricted(ReactiveState):
    key: Annotated[str, Visible("hr")] = "k"


class Excluded(ReactiveState):
    key: str = Field("k", exclude=True)


class HiddenModel(BaseModel):
    key: ServerOnly[str] = "k"


class HidingMixin:
    key: ServerOnly[str] = "k"


class RestrictingMixin:
    key: Annotated[str, Visible("hr")] = "k"


class ComputedRestricted(ReactiveState):
    @computed_field
    @property
    def key(self) -> Annotated[int, Visible("hr")]:
        return 1


class Shown(ReactiveState):
    key: str = "shown"


def _redeclared(base: type) -> type:
    class Again(base):
        key: str = "another default"

    return Again


def _redeclared_far_below(base: type) -> type:
    class Middle(base):
        other: int = 0

    class Again(Middle):
        key: str = "another default"

    return Again


def _taken_from_another_base(base: type) -> type:
    class Again(Shown, base):
        pass

    return Again


def _computed_instead(base: type) -> type:
    class Again(base):
        @computed_field
        @property
        def key(self) -> str:
            return "computed"

    return Again


def _in_a_state(base: type) -> type:
    class Again(base, ReactiveState):
        key: str = "another default"

    return Again


def _nested(base: type) -> type:
    class Again(base):
        key: str = "another default"

    class Holder(ReactiveState):
        one: Again = Again()
        many: list[Again] = []

    return Holder


CASES = [
    (Hidden, _redeclared), (Hidden, _redeclared_far_below), (Hidden, _taken_from_another_base),
    (Excluded, _redeclared), (Restricted, _redeclared), (Restricted, _redeclared_far_below),
    (Restricted, _taken_from_another_base), (ComputedRestricted, _computed_instead),
    (HidingMixin, _in_a_state), (RestrictingMixin, _in_a_state), (HiddenModel, _nested), (HiddenModel, _in_a_state),
]  # fmt: skip


@pytest.mark.parametrize(("base", "make"), CASES, ids=[f"{b.__name__}{m.__name__}" for b, m in CASES])
@pytest.mark.filterwarnings("ignore:Field name")  # pydantic's own, where a field hides a name of a mixin
def test_a_field_that_is_declared_again_without_its_marker_is_an_error(base: type, make: Any) -> None:
    with pytest.raises(EventDefinitionError, match=rf"\.key shows what {base.__name__}\.key hides: .*marker"):
        make(base)


def test_the_error_names_class_field_base_and_remedy() -> None:
    with pytest.raises(EventDefinitionError) as raised:

        class Doc(Hidden):
            key: str = "x"

    assert str(raised.value) == (
        "Doc.key shows what Hidden.key hides: it is declared again without its marker. Write ServerOnly[...] here as "
        "well, or give the field another name"
    )


@pytest.mark.filterwarnings("ignore:Field name")
def test_a_field_may_be_declared_again_with_its_marker_or_hidden_more() -> None:
    class Same(Hidden):
        key: ServerOnly[str] = "another default"

    class StillExcluded(Excluded):
        key: str = Field("another default", exclude=True)

    class Others(Restricted):
        key: Annotated[str, Visible("finance")] = "x"

    class NoLonger(Restricted):
        key: ServerOnly[str] = "x"

    class Less(ReactiveState):
        draft: Bound[str] = ""
        rows: AsSignal[list[int]] = []

    class LessStill(Less):
        draft: str = ""  # no client sets it any more, which takes away and opens nothing
        rows: list[int] = []

    class FirstHides(Hidden, Shown):
        pass

    for cls in (Same, StillExcluded, NoLonger, FirstHides):
        assert cls._fs_schema().hidden == {"key"}
        assert "key" not in cls._fs_schema().signals
    assert Others._fs_schema().restricted == {"key": "finance"}
    assert (LessStill._fs_schema().bound, LessStill._fs_schema().signals) == ((), ("draft",))


@pytest.mark.parametrize("shown", [{"exclude": False}, {"repr": True}], ids=str)
def test_a_field_cannot_be_marked_and_shown_at_once(shown: dict[str, bool]) -> None:
    with pytest.raises(EventDefinitionError, match=r"key is ServerOnly, and its Field shows it: drop (repr|exclude)="):

        class Doc(ReactiveState):
            key: ServerOnly[str] = Field("k", **shown)


def test_a_nested_models_field_cannot_be_marked_and_shown_at_once() -> None:
    class Doc(BaseModel):
        key: ServerOnly[str] = Field("k", exclude=False)

    with pytest.raises(EventDefinitionError, match=r"Doc\.key is ServerOnly, and its Field shows it"):

        class Holder(ReactiveState):
            doc: Doc = Doc()
