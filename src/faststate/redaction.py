"""Keeps values that are `ServerOnly`, or not visible to all, out of errors and logs.

A message of pydantic's shows the value that did not fit, a constraint tells what is compared with it, a validator of
the app says what it likes, and a database's driver shows what was to be written. All of it ends in logs, or in a page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .exceptions import FastStateError

__all__ = ["UNSAID", "explained", "explained_by_title", "hold_back", "is_hidden", "redacted", "told_of"]

UNSAID: Final = "the new values are not valid"
_LEFT_OUT: Final = "(its message is left out, since it may hold values)"
_OWN_WORDS: Final = (OSError, TimeoutError, sqlite3.Error)
"""Errors whose messages are about files, connections and names of columns, and hold no values."""

_OWN_DRIVERS: Final = frozenset({"apsw", "redis"})
"""Modules of drivers whose messages are so, too."""

MOST_PROBLEMS: Final = 5
"""Problems of a validation that are told of."""

_MOST_BUILT: Final = 100
"""Problems of a validation that are turned into Python's objects: more are only counted."""

_SHORT: Final = 4
"""Characters up to which a value counts as quoted only where it stands as a word of its own."""


class _Member(NamedTuple):
    """A field of a model, dataclass, typed dict or named tuple: its type, and whether it is hidden from anybody."""

    annotation: Any
    hidden: bool


def _hides(metadata: Iterable[Any]) -> bool:
    return any(getattr(mark, "hides_values", False) for mark in metadata)


@lru_cache(maxsize=4_096)
def _members(shape: type) -> Mapping[str, _Member]:
    if issubclass(shape, BaseModel):
        found: dict[str, _Member] = {}
        for name, field in shape.model_fields.items():
            member = _Member(field.annotation, bool(field.exclude) or _hides(field.metadata))
            aliases = (name, field.alias, field.validation_alias)
            found |= {alias: member for alias in aliases if isinstance(alias, str)}
        return found
    try:
        hints = get_type_hints(shape, include_extras=True)
    except Exception:  # of types that are local to a function: nothing is hidden by a dataclass itself
        hints = {}
    return {name: _Member(hint, _hides(getattr(hint, "__metadata__", ()))) for name, hint in hints.items()}


def _shapes(annotation: Any) -> Iterator[type]:
    """The classes with fields that a value of this type may be, or consist of."""
    if hasattr(annotation, "__value__"):  # a `type` statement
        annotation = annotation.__value__
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        is_record = dataclasses.is_dataclass(annotation) or hasattr(annotation, "_fields")
        if issubclass(annotation, BaseModel) or is_record or hasattr(annotation, "__required_keys__"):
            yield annotation
            return
    for part in get_args(annotation):
        yield from _shapes(part)


def is_hidden(annotation: Any, place: Iterable[Any]) -> bool:
    """Tells whether `place` (names and indices, as an error's `loc`) in such a value is hidden from anybody."""
    return _follow(list(_shapes(annotation)), place)[1]


def _follow(shapes: list[type], place: Iterable[Any]) -> tuple[list[type], bool]:
    """The classes that may lie at `place` of one of these, and whether a field on the way is hidden."""
    for part in place:
        found = [member for shape in shapes if (member := _members(shape).get(part)) is not None]
        if any(member.hidden for member in found):
            return [], True
        if found:
            shapes = [shape for member in found for shape in _shapes(member.annotation)]
    return shapes, False


def _reachable(shapes: Iterable[type]) -> set[type]:
    """These classes, and all that their fields may hold, at any depth."""
    seen: set[type] = set()
    waiting = list(shapes)
    while waiting:
        if (shape := waiting.pop()) not in seen:
            seen.add(shape)
            waiting += [within for member in _members(shape).values() for within in _shapes(member.annotation)]
    return seen


@lru_cache(maxsize=4_096)
def hides(cls: type) -> bool:
    """Tells whether a class hides anything from anybody, at any depth."""
    if any(member.hidden for shape in _reachable([cls]) for member in _members(shape).values()):
        return True
    return any(_hides(getattr(info.return_type, "__metadata__", ())) for info in _computed(cls))


def _computed(cls: type) -> Iterable[Any]:
    return cls.model_computed_fields.values() if issubclass(cls, BaseModel) else ()


def classes_called(title: str) -> list[type[BaseModel]]:
    """The models that pydantic's errors call by this `title`."""
    found: list[type[BaseModel]] = []
    seen: set[type] = set()
    waiting: list[type[BaseModel]] = [BaseModel]
    while waiting:
        cls = waiting.pop()
        if cls in seen:
            continue
        seen.add(cls)
        waiting += cls.__subclasses__()
        if title in (cls.__name__, cls.model_config.get("title")):
            found.append(cls)
    return found


# -- what is quoted ----------------------------------------------------------------------------------------------------


def _texts(value: Any, shapes: list[type], hidden: bool, found: set[str], depth: int = 0) -> None:
    """Adds to `found` what the hidden parts of `value` look like in a message."""
    if depth > 32 or len(found) > 10_000:
        return
    if isinstance(value, BaseModel):
        members = _members(type(value))
        held: Iterable[tuple[Any, Any]] = value.__dict__.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = _members(type(value))
        held = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        members = {name: member for shape in shapes for name, member in _members(shape).items()}
        held = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _texts(item, shapes, hidden, found, depth + 1)
        return
    else:
        if hidden and value is not None and not isinstance(value, bool):
            plain = value.get_secret_value() if isinstance(value, Secret | SecretStr | SecretBytes) else value
            found |= {text for text in (str(plain), repr(plain), repr(plain)[1:-1]) if text}
        return
    for name, item in held:
        member = members.get(name) if isinstance(name, str) else None
        is_hidden_here = hidden or (member is not None and member.hidden)
        if is_hidden_here and member is None:
            _texts(name, [], True, found, depth + 1)
        within = list(_shapes(member.annotation)) if member is not None else shapes
        _texts(item, within, is_hidden_here, found, depth + 1)


def _quotes(message: str, texts: Iterable[str]) -> bool:
    return any(
        text in message if len(text) > _SHORT else re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message)
        for text in texts
    )


# -- what is said ------------------------------------------------------------------------------------------------------


def explained(
    error: ValidationError, cls: type, *, at: tuple[Any, ...] = (), values: Any = None
) -> list[tuple[tuple[Any, ...], str]]:
    """The first problems of validating a `cls`: the place and the message of each, which give away nothing hidden.

    `at` is the field in which something was validated by itself, at whatever depth; `values` (a mapping or an instance)
    are those that validators may have looked at. The place is () and the message `UNSAID` for what cannot be told.
    """
    if (count := error.error_count()) > _MOST_BUILT:
        return [((), f"{count} of its values do not fit")]
    texts: set[str] = set()
    may_quote = hides(cls)
    if may_quote:
        _texts(values, [cls], False, texts)
    within, is_all_hidden = _follow([cls], at)
    roots = list(_reachable(within)) if at else [cls]
    told: list[tuple[tuple[Any, ...], str]] = []
    problems = error.errors(include_url=False, include_input=may_quote)
    for problem in problems[:MOST_PROBLEMS]:
        place = problem["loc"]
        if may_quote:
            _texts(problem["input"], _follow(roots, place)[0], False, texts)
            is_unsaid = is_all_hidden or any(_follow([root], place)[1] for root in roots)
            if is_unsaid or _quotes(problem["msg"], texts):
                told.append(((), UNSAID))
                continue
        message = problem["msg"]
        if problem["type"] == "union_tag_invalid":  # pydantic's own words repeat the tag
            message = "{discriminator} should be one of {expected_tags}".format_map(problem["ctx"])
        told.append(((*at, *place), message))
    return list(dict.fromkeys(told))


def explained_by_title(error: ValidationError) -> list[tuple[tuple[Any, ...], str]]:
    """As `explained`, for an error of a model that the app itself has made: of those of its name, one that hides."""
    classes = classes_called(error.title)
    return explained(error, next(filter(hides, classes), classes[0] if classes else BaseModel))


def redacted(
    error: BaseException, cls: type | None = None, values: Any = None, at: tuple[Any, ...] = ()
) -> BaseException:
    """Returns what replaces `error` as the cause of another one: of the same type, without values in its message.

    `cls` is the class whose `values` it is about, and `at` the field, where these are known: errors about a class that
    hides nothing keep their messages, but for the values that pydantic adds to its own. The traceback stays, what led
    to it does not.
    """
    if isinstance(error, FastStateError):
        return error
    if isinstance(error, ValidationError):
        return _valid_twin(
            error, explained(error, cls, at=at, values=values) if cls is not None else explained_by_title(error)
        )
    is_plain = isinstance(error, _OWN_WORDS) or type(error).__module__.partition(".")[0] in _OWN_DRIVERS
    keeps = is_plain or (cls is not None and not hides(cls))
    return _twin(error, str(error) if keeps else _LEFT_OUT)


def _valid_twin(error: ValidationError, told: Iterable[tuple[tuple[Any, ...], str]]) -> BaseException:
    lines = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{message}", {"message": m}), loc=place, input=None)
        for place, m in told
    ]
    made = ValidationError.from_exception_data(error.title, lines, hide_input=True)
    return made.with_traceback(error.__traceback__)


def _twin(error: BaseException, text: str) -> BaseException:
    """An error of the same type, as far as `isinstance` and tracebacks can tell, that says `text` and holds no more."""
    kind = type(error)
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__str__": lambda self: text,
        "__repr__": lambda self: f"{kind.__name__}({text!r})",
    }
    twin: BaseException
    try:
        made: Any = type(kind.__name__, (kind,), members)
        twin = made.__new__(made)
    except TypeError:  # a final class, or one that cannot be made without its arguments
        twin = type(kind.__name__, (Exception,), members)()
    return twin.with_traceback(error.__traceback__)


# -- what the app's own code raises ------------------------------------------------------------------------------------


def hold_back(error: BaseException, states: Iterable[tuple[type, Any]]) -> None:
    """Notes with an error that code of the app has raised what of these states it must not tell: see `told_of`.

    A state is its class and its values (a mapping). `int(self.token)` quotes the token, and so does `KeyError`.
    """
    if isinstance(error, FastStateError):
        return  # whose words are meant for people
    texts: set[str] = set()
    for cls, values in states:
        if hides(cls):
            _texts(values, [cls], False, texts)
    if texts:
        with contextlib.suppress(AttributeError):  # an error with slots
            error.__faststate_hidden__ = frozenset(texts)  # type: ignore[attr-defined]  # it is anybody's class


def told_of(error: BaseException, *states: BaseModel) -> BaseException:
    """Returns what to log of an error raised by the app, and of all that led to it: nothing that is hidden.

    Where a message quotes a hidden value of these states, or of those that `hold_back` was told of, or is pydantic's
    own, a twin without it stands in its place. All else is as it was.
    """
    hold_back(error, [(type(state), state.__dict__) for state in states])
    chain = list(_chain(error))
    texts = frozenset().union(*(getattr(each, "__faststate_hidden__", frozenset()) for each in chain))
    if not any(isinstance(each, ValidationError) or _quotes(str(each), texts) for each in chain):
        return error
    twins: dict[int, BaseException] = {}
    for each in chain:
        if isinstance(each, ValidationError):
            twins[id(each)] = _valid_twin(each, explained_by_title(each))
        else:
            text = str(each)
            twins[id(each)] = _twin(each, _LEFT_OUT if _quotes(text, texts) else text)
    for each in chain:
        twin = twins[id(each)]
        twin.__cause__ = twins[id(each.__cause__)] if each.__cause__ is not None else None
        twin.__context__ = twins[id(each.__context__)] if each.__context__ is not None else None
        twin.__suppress_context__ = each.__suppress_context__
    return twins[id(error)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            waiting += [each.__cause__, each.__context__]
            yield each
