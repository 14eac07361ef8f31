"""Fields and items that a validation takes as they are, since they were there before.

An item of a changed list is not to be converted twice: a hashed password would be hashed once more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from .scalars import exact_key, surely_same


class KnownItems:
    """The items of a changed field that were there before. Lifetime: one validation.

    An item is known by its role (see `rewriting.ROLES`) and value. It has an answer for each time that it comes: of two
    equal ones, one may be new. `answers` holds these for values without parts, and `objects` the ids of lists, models
    and the like that did not change, by role.
    """

    __slots__ = ("_answers", "_objects", "taken")

    def __init__(
        self, answers: Mapping[tuple[str, Any], Sequence[bool]], objects: Mapping[str, Container[int]]
    ) -> None:
        self._answers = answers
        self._objects = objects
        self.taken: dict[tuple[str, Any], int] = {}
        """How many of each item the validation has come to. The members of a union each begin at the same place."""

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
        number = self.taken[key] = self.taken.get(key, 0) + 1
        return number <= len(answers) and answers[number - 1]


NOTHING_KNOWN: Final = KnownItems({}, {})


@dataclass(slots=True, eq=False)
class KeptValues:
    """The values that one validation takes as they are. Lifetime: that validation.

    `fields` are values that were validated before, by name; a field that holds another value is validated. `known` are
    the items of changed fields that were there before, by the field's name.
    """

    fields: Mapping[str, Any]
    known: Mapping[str, KnownItems]
    items: KnownItems = NOTHING_KNOWN
    """The items of the field that is being validated."""
    choices: list[dict[tuple[str, Any], int]] = field(default_factory=list)
    """The `taken` that the members of each union reached that is being tried."""


# -- what the schemas call ---------------------------------------------------------------------------------------------

kept_now: ContextVar[KeptValues] = ContextVar("faststate_kept")
"""The values that the running validation keeps. Pydantic's own context belongs to the author's validators."""


def keep_field(name: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Take a field as it is where it holds what it held before, and validate it otherwise."""
    kept = kept_now.get()
    if name in kept.fields and surely_same(value, kept.fields[name]):
        return value
    kept.items = kept.known.get(name, NOTHING_KNOWN)
    return handler(value)


def keep_item(role: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    """Take an item as it is where it was there before, and validate it otherwise."""
    return value if kept_now.get().items.take(role, value) else handler(value)


def in_union(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a union: each of its members looks at the same items, and the one that fits says how many it took."""
    kept = kept_now.get()
    kept.choices.append(kept.items.taken.copy())
    try:
        return handler(value)
    finally:
        kept.items.taken = kept.choices.pop()


def in_choice(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a value by one member of a union."""
    kept = kept_now.get()
    items, before = kept.items, kept.items.taken.copy()
    try:
        result = handler(value)
        kept.choices[-1] = items.taken  # of the union, should this be its choice
        return result
    finally:
        items.taken = before
