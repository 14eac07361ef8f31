"""Fields and items that a validation takes as they are, since they were there before.

An item of a changed list is not to be converted twice: a hashed password would be hashed once more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from .scalars import exact_key, surely_same

__all__ = ["Kept", "KnownItems", "in_choice", "in_union", "keep_field", "keep_item", "kept_now"]


class KnownItems:
    """The items of a changed field that were there before. Lifetime: one validation.

    An item is known by its role (see `rewriting.ROLES`) and value. It has an answer for each time that it comes: of two
    equal ones, one may be new. `answers` holds these for values without parts, and `objects` the ids of lists, models
    and the like that did not change, by role.
    """

    __slots__ = ("_answers", "_objects", "_taken")

    def __init__(
        self, answers: Mapping[tuple[str, Any], Sequence[bool]], objects: Mapping[str, Container[int]]
    ) -> None:
        self._answers = answers
        self._objects = objects
        self._taken: dict[tuple[str, Any], int] = {}

    def take(self, role: str, value: Any) -> bool:
        """Say whether `value`, which comes next among its equals, was there before."""
        if id(value) in self._objects.get(role, ()):
            return True
        try:
            answers = self._answers.get(key := (role, exact_key(value)))
        except TypeError:  # no hashable value, and none that was there
            return False
        if answers is None:
            return False
        place = self._taken[key] = self._taken.get(key, -1) + 1
        return place < len(answers) and answers[place]

    def place(self) -> dict[tuple[str, Any], int]:
        """The place that the validation has reached among these items."""
        return dict(self._taken)

    def go_to(self, place: dict[tuple[str, Any], int]) -> None:
        """Go back or forth to a place: the members of a union look at one value after the other."""
        self._taken = dict(place)


class Kept:
    """The values that one validation takes as they are. Lifetime: that validation.

    `fields` are values that were validated before, by name; a field that holds another value is validated. `items` are
    those of a changed field that were there before, by the field's name.
    """

    __slots__ = ("_items", "choices", "fields", "items")

    def __init__(self, fields: Mapping[str, Any], items: Mapping[str, KnownItems]) -> None:
        self.fields = fields
        self._items = items
        self.items = NOTHING_KNOWN
        """The items of the field that is being validated."""
        self.choices: list[dict[tuple[str, Any], int]] = []
        """The place reached by the members of each union that is being tried."""

    def enter_field(self, name: str) -> None:
        """Begin with a field that is validated."""
        self.items = self._items.get(name, NOTHING_KNOWN)

    def has_field(self, name: str, value: Any) -> bool:
        """True if `value` is what the field held before."""
        return name in self.fields and surely_same(value, self.fields[name])


NOTHING_KNOWN: Final = KnownItems({}, {})


# -- what the schemas call ---------------------------------------------------------------------------------------------

kept_now: ContextVar[Kept] = ContextVar("faststate_kept")
"""The values that the running validation keeps. Pydantic's own context belongs to the author's validators."""


def keep_field(name: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Take a field as it is where it holds what it held before, and validate it otherwise."""
    kept = kept_now.get()
    if kept.has_field(name, value):
        return value
    kept.enter_field(name)
    return handler(value)


def keep_item(role: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Take an item as it is where it was there before, and validate it otherwise."""
    return value if kept_now.get().items.take(role, value) else handler(value)


def in_union(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a union: each of its members looks at the same items, and the one that fits says how many it took."""
    kept = kept_now.get()
    kept.choices.append(kept.items.place())
    try:
        return handler(value)
    finally:
        kept.items.go_to(kept.choices.pop())


def in_choice(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a value by one member of a union."""
    items, choices = kept_now.get().items, kept_now.get().choices
    before = items.place()
    try:
        result = handler(value)
        choices[-1] = items.place()  # where the union will have come, should this be its choice
        return result
    finally:
        items.go_to(before)
