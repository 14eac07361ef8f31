"""Keep values that are `ServerOnly`, or not visible to everybody, out of errors and logs.

pydantic's messages show the value that did not fit, a constraint shows what it compares with, a validator of the app
may say anything, and a database driver shows what it was to write. All of this ends in logs or on a page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .exceptions import FastStateError

T = TypeVar("T")

NOT_SHOWN: Final = "the new values are not valid"
_MESSAGE_LEFT_OUT: Final = "(its message is left out, since it may hold values)"
_PLAIN_ERRORS: Final = (OSError, sqlite3.Error)
"""Errors whose messages are about files, connections and columns, and contain no values."""

_PLAIN_DRIVERS: Final = frozenset({"apsw", "redis"})
"""Modules of drivers whose messages are like that, too."""

MOST_PROBLEMS: Final = 5
"""Most problems of one validation that are reported."""

_MOST_BUILT: Final = 100
"""Most problems of one validation that are built as Python objects. If there are more, they are only counted."""

_SHORT: Final = 4
"""Length up to which a value counts as quoted only if it stands as a word of its own."""


class HidableField(NamedTuple):
    """A field of a model, dataclass, typed dict or named tuple. `hidden` is True if anybody may not see it."""

    annotation: Any
    hidden: bool


def _hides(metadata: Iterable[Any]) -> bool:
    return any(getattr(mark, "hides_values", False) for mark in metadata)


@lru_cache(maxsize=4_096)
def _members(shape: type) -> Mapping[str, HidableField]:
    if issubclass(shape, BaseModel):
        found: dict[str, HidableField] = {}
        for name, field in shape.model_fields.items():
            member = HidableField(field.annotation, bool(field.exclude) or _hides(field.metadata))
            aliases = (name, field.alias, field.validation_alias)
            found |= {alias: member for alias in aliases if isinstance(alias, str)}
        return found
    try:
        hints = get_type_hints(shape, include_extras=True)
    except Exception:  # types that are local to a function; a dataclass itself hides nothing
        hints = {}
    return {name: HidableField(hint, _hides(getattr(hint, "__metadata__", ()))) for name, hint in hints.items()}


def _shapes(annotation: Any) -> Iterator[type]:
    """Yield the classes with fields that a value of this type may be, or may contain."""
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
    """True if `place` (names and indices, like an error's `loc`) in a value of this type is hidden from anybody."""
    return _follow(list(_shapes(annotation)), place)[1]


def _follow(shapes: list[type], place: Iterable[Any]) -> tuple[list[type], bool]:
    """Return the classes that may lie at `place` in one of these, and True if a field on the way is hidden."""
    for part in place:
        found = [member for shape in shapes if (member := _members(shape).get(part)) is not None]
        if any(member.hidden for member in found):
            return [], True
        if found:
            shapes = [shape for member in found for shape in _shapes(member.annotation)]
    return shapes, False


def reached(start: Iterable[T], following: Callable[[T], Iterable[T]]) -> list[T]:
    """Return these and all that follow from them, at any distance, each once."""
    found: dict[int, T] = {}
    waiting = list(start)
    while waiting:
        if id(each := waiting.pop()) not in found:
            found[id(each)] = each
            waiting += following(each)
    return list(found.values())


def _within(shape: type) -> list[type]:
    return [within for member in _members(shape).values() for within in _shapes(member.annotation)]


@lru_cache(maxsize=4_096)
def hides(cls: type) -> bool:
    """True if a class hides anything from anybody, at any depth."""
    if any(member.hidden for shape in reached([cls], _within) for member in _members(shape).values()):
        return True
    computed = cls.model_computed_fields.values() if issubclass(cls, BaseModel) else ()
    return any(_hides(getattr(info.return_type, "__metadata__", ())) for info in computed)


# -- quoted values -----------------------------------------------------------------------------------------------------


def _hidden_texts(value: Any, shapes: list[type], hidden: bool, found: set[str], depth: int = 0) -> None:
    """Add to `found` how the hidden parts of `value` would look in a message."""
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
            _hidden_texts(item, shapes, hidden, found, depth + 1)
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
            _hidden_texts(name, [], True, found, depth + 1)
        within = list(_shapes(member.annotation)) if member is not None else shapes
        _hidden_texts(item, within, is_hidden_here, found, depth + 1)


def _quotes(message: str, texts: Iterable[str]) -> bool:
    return any(
        text in message if len(text) > _SHORT else re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message)
        for text in texts
    )


# -- messages ----------------------------------------------------------------------------------------------------------


def too_many(error: ValidationError) -> str | None:
    """Return the message for an error with so many problems that they are only counted; None for any other."""
    return f"{count} of its values do not fit" if (count := error.error_count()) > _MOST_BUILT else None


def message_of(problem: Mapping[str, Any]) -> str:
    """Return pydantic's message for one problem of an error, without the value."""
    if problem["type"] == "union_tag_invalid":  # pydantic's own message repeats the tag
        return "{discriminator} should be one of {expected_tags}".format_map(problem["ctx"])
    return str(problem["msg"])


def explain(
    error: ValidationError, cls: type, *, at: tuple[Any, ...] = (), values: Any = None
) -> list[tuple[tuple[Any, ...], str]]:
    """Return the first problems of validating a `cls`, as place and message, without anything that is hidden.

    `at` is the field if only a part of the class was validated, at any depth in that field. `values` (a mapping or an
    instance) are those that validators may have read. A problem that cannot be shown has the place () and the message
    `NOT_SHOWN`.
    """
    if (message := too_many(error)) is not None:
        return [((), message)]
    texts: set[str] = set()
    may_quote = hides(cls)
    if may_quote:
        _hidden_texts(values, [cls], False, texts)
    within, is_all_hidden = _follow([cls], at)
    roots = reached(within, _within) if at else [cls]
    shown: list[tuple[tuple[Any, ...], str]] = []
    problems = error.errors(include_url=False, include_input=may_quote)
    for problem in problems[:MOST_PROBLEMS]:
        place = problem["loc"]
        if may_quote:
            _hidden_texts(problem["input"], _follow(roots, place)[0], False, texts)
            is_secret = is_all_hidden or any(_follow([root], place)[1] for root in roots)
            if is_secret or _quotes(problem["msg"], texts):
                shown.append(((), NOT_SHOWN))
                continue
        shown.append(((*at, *place), message_of(problem)))
    return list(dict.fromkeys(shown))


def explain_by_title(error: ValidationError) -> list[tuple[tuple[Any, ...], str]]:
    """As `explain`, for an error of the app's own code: among the models of that name, one that hides something."""
    models: list[type[BaseModel]] = reached([BaseModel], type.__subclasses__)
    classes = [cls for cls in models if error.title in (cls.__name__, cls.model_config.get("title"))]
    return explain(error, next(filter(hides, classes), classes[0] if classes else BaseModel))


def redacted(
    error: BaseException, cls: type | None = None, values: Any = None, at: tuple[Any, ...] = ()
) -> BaseException:
    """Return a copy of `error`, for use as a cause, of the same type but without values in its message.

    `cls`, `values` and `at` say which class, values and field it is about, if known. An error about a class that hides
    nothing keeps its message, except for the values that pydantic adds. The traceback is kept; causes are not.
    """
    if isinstance(error, FastStateError):
        return error
    if isinstance(error, ValidationError):
        shown = explain(error, cls, at=at, values=values) if cls is not None else explain_by_title(error)
        lines: list[InitErrorDetails] = [
            {"type": PydanticCustomError("value_error", "{message}", {"message": text}), "loc": place, "input": None}
            for place, text in shown
        ]
        made = ValidationError.from_exception_data(error.title, lines, hide_input=True)
        return made.with_traceback(error.__traceback__)
    is_plain = isinstance(error, _PLAIN_ERRORS) or type(error).__module__.partition(".")[0] in _PLAIN_DRIVERS
    keeps = is_plain or (cls is not None and not hides(cls))
    return _twin(error, str(error) if keeps else _MESSAGE_LEFT_OUT)


def _twin(error: BaseException, text: str) -> BaseException:
    """Make an error of the same type, as far as `isinstance` and tracebacks can tell, that contains only `text`."""
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
    except TypeError:  # a final class, or one that needs its arguments
        twin = type(kind.__name__, (Exception,), members)()
    return twin.with_traceback(error.__traceback__)


# -- errors of the app's own code --------------------------------------------------------------------------------------


def mark_hidden(error: BaseException, states: Iterable[tuple[type, Any]]) -> None:
    """Record, on an error of the app's code, which hidden values of these states it must not show: see `loggable`.

    A state is given as its class and its values (a mapping). `int(self.token)` quotes the token in its error, and so
    does a `KeyError`.
    """
    if isinstance(error, FastStateError):
        return  # its message is written for people
    texts: set[str] = set()
    for cls, values in states:
        if hides(cls):
            _hidden_texts(values, [cls], False, texts)
    if texts:
        with contextlib.suppress(AttributeError):  # an error with slots
            error.__faststate_hidden__ = frozenset(texts)  # type: ignore[attr-defined]  # any class of error


def loggable(error: BaseException, *states: BaseModel) -> BaseException:
    """Return an error of the app's code, with its causes, in a form that can be logged.

    Each error whose message quotes a hidden value, of these states or of those passed to `mark_hidden`, is replaced by
    one without the message, and so is each `ValidationError`. All others stay as they are.
    """
    mark_hidden(error, [(type(state), state.__dict__) for state in states])
    chain = reached([error], lambda each: [e for e in (each.__cause__, each.__context__) if e is not None])
    texts = frozenset().union(*(getattr(each, "__faststate_hidden__", frozenset()) for each in chain))
    if not any(isinstance(each, ValidationError) or _quotes(str(each), texts) for each in chain):
        return error
    twins: dict[int, BaseException] = {}
    for each in chain:
        text = _MESSAGE_LEFT_OUT if _quotes(str(each), texts) else str(each)
        twins[id(each)] = redacted(each) if isinstance(each, ValidationError) else _twin(each, text)
    for each in chain:
        twin = twins[id(each)]
        twin.__cause__ = twins[id(each.__cause__)] if each.__cause__ is not None else None
        twin.__context__ = twins[id(each.__context__)] if each.__context__ is not None else None
        twin.__suppress_context__ = each.__suppress_context__
    return twins[id(error)]
