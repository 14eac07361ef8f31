"""The arguments of an event: what a client sent, gathered, checked at a bounded cost, and converted to their types."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Any, Final, NamedTuple, NotRequired, Required

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from ..exceptions import EventArgumentError, EventDefinitionError, LockTimeoutError
from ..redaction import is_hidden
from ..validation.bounds import Unfit, bounded, first_problem, runs_own_code
from ..validation.scalars import EXACT, UnshowableError, is_exact
from ..validation.work import TooMuchWork, look_through, work_of
from .forms import FilledArgument, FormField, filled_argument, form_field
from .models import is_frozen_class
from .parameters import StateParameter, is_state_class, signature_of, state_parameter

LARGE: Final = 2_000
"""Values, or 16 characters each, from which on arguments are checked in a worker thread."""

_SMALL_WORK: Final = 200_000
"""Units of work for arguments that are not `LARGE`: at most some 5 ms of the loop."""

_LARGE_WORK: Final = 3_000_000
"""Units of work for all that a payload of 262,144 bytes can hold: at most some 60 ms, of a worker thread."""

_MAX_THREADS: Final = 4
"""Checks that run in worker threads at a time: the loop waits for the interpreter behind each of them."""

_threads: Final[RunVar[asyncio.Semaphore]] = RunVar("faststate_argument_threads")


class _Received(NamedTuple):
    """The input for the arguments of one call, as a message tells of it: names, and never a value."""

    explicit: Mapping[str, Any]
    form: Sequence[tuple[str, Any]]
    query: Sequence[tuple[str, Any]]
    is_form: bool

    def __str__(self) -> str:
        names = dict.fromkeys(chain(self.explicit, (name for name, _ in self.form), (name for name, _ in self.query)))
        if self.is_form or self.form:
            return f"; the form sent {_listed(names)}"
        return f"; what came is {_listed(names)}" if names else ""


class Arguments:
    """The typed arguments of one event, which validate what a client sent. Lifetime: the class."""

    def __init__(self, function: Callable[..., Any], local_names: Mapping[str, Any]) -> None:
        self.where = function.__qualname__
        self.states: list[StateParameter] = []
        self.defaults: dict[str, Any] = {}
        self.types: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        self._filled: list[FilledArgument] = []
        parameters = list(signature_of(function, local_names).parameters.values())[1:]
        for parameter in parameters:
            name, annotation = parameter.name, parameter.annotation
            if isinstance(annotation, str):
                raise EventDefinitionError(
                    f"the type {annotation!r} of argument {name!r} of {self.where} is unknown there"
                )
            state = state_parameter(name, annotation)
            if state is not None:
                self.states.append(state)
                continue
            optional = parameter.default is not parameter.empty
            if optional:
                self.defaults[name] = parameter.default
            self.types[name] = annotation
            fields[name] = (NotRequired if optional else Required)[annotation]
        for state in self.states:
            argument = state.record.argument if state.record is not None else None
            if argument is not None and argument not in self.types:
                raise EventDefinitionError(
                    f"{self.where}: {state.name} is the record whose id is the argument {argument!r}, and there is no "
                    f"such argument; it takes {', '.join(self.types) or 'none'}"
                )
        make: Any = TypedDict  # type checkers know it as a class statement alone
        model = make(f"{function.__name__}_arguments", fields)
        model.__pydantic_config__ = ConfigDict(extra="forbid")
        self.adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(model)
        if not self.adapter.pydantic_complete:
            raise EventDefinitionError(f"the arguments of {self.where} have a type that is unknown there: {self.types}")
        self._exact = {name: kind for name, kind in self.types.items() if any(kind is own for own in EXACT)}
        self._required = self.types.keys() - self.defaults.keys()
        self._changeable = [name for name, default in self.defaults.items() if is_changeable(default)]
        self._form_fields: dict[str, FormField] = {}
        for name, annotation in self.types.items():
            self._form_fields[name] = form_field(annotation, name in self._required)
            filled = filled_argument(name, annotation, name in self._required)
            if filled is not None:
                self._filled.append(filled)
        self._absent = [(name, field.absent) for name, field in self._form_fields.items() if field.absent is not None]
        self._fields = frozenset(name for filled in self._filled for name in filled.fields)
        self.names: Final = self.types.keys() | self._fields
        """Names that a client can give: of arguments, and of the fields of those that are models."""
        self._validate: Callable[[Any], dict[str, Any]] = self.adapter.validator.validate_python
        self._bounded = bounded(self.adapter)
        self._may_be_long = self._bounded is not None or runs_own_code(self.adapter)

    # -- sources

    def accept(
        self,
        explicit: Mapping[str, Any],
        form: Sequence[tuple[str, Any]] = (),
        query: Sequence[tuple[str, Any]] = (),
        signals: Mapping[str, Any] | None = None,
        *,
        is_form: bool = False,
        wait: float = 5.0,
    ) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Validate the arguments of one call, by name. Raises `EventArgumentError`, naming one.

        Each parameter is one source of arguments. Explicit arguments win over form fields, these over the URL's, and
        these over signals. A large payload is checked in a worker thread, and the result has to be awaited: that
        raises `LockTimeoutError` if no thread is free for `wait` seconds.
        """
        values = self._gather(explicit, form, query, signals, is_form)
        exact = self._exact
        for name, value in values.items():
            if not is_exact(value, exact.get(name)):
                break
        else:
            return values
        if not values.keys() <= self.types.keys():
            name = next(name for name in values if name not in self.types)
            raise EventArgumentError(unknown_argument(self.where, name, self.types))
        waiting = list(values.values())
        try:
            is_small = look_through(waiting, LARGE)
        except UnshowableError as problem:
            raise self._unshowable(values, problem) from None
        received = _Received(explicit, form, query, is_form)
        if is_small or not self._may_be_long:
            return self._check(values, waiting, _SMALL_WORK if is_small else _LARGE_WORK, received)
        return self._check_in_thread(values, waiting, received, wait)

    def with_defaults(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Add the defaults of the arguments that are missing; lists and the like are copied."""
        if not self.defaults:
            return arguments
        found = {**self.defaults, **arguments}
        for name in self._changeable:
            if name not in arguments:
                found[name] = copied(self.defaults[name])
        return found

    def _gather(
        self,
        explicit: Mapping[str, Any],
        form: Sequence[tuple[str, Any]],
        query: Sequence[tuple[str, Any]],
        signals: Mapping[str, Any] | None,
        is_form: bool,
    ) -> dict[str, Any]:
        """Find one value for each argument. Raises `EventArgumentError` if a required one is missing."""
        values: dict[str, Any] = {}
        texts: dict[str, list[Any]] = {}
        if query:
            texts = self._by_name(query)
        if form:
            texts |= self._by_name(form)
        for name, given in texts.items():
            field = self._form_fields.get(name)
            if field is not None:
                values[name] = field.read(given)
            elif name not in self._fields:
                values[name] = given[-1]
        if self._fields:
            self._fill(values, texts, explicit, is_form)
        else:
            values |= explicit
        if signals:
            form_fields = self._form_fields
            for name, value in signals.items():
                if name in form_fields and name not in values:
                    values[name] = form_fields[name].read_one(value)
        if is_form and self._absent:
            for name, absent in self._absent:
                if name not in values:
                    values[name] = [] if absent == () else absent
        if not self._required <= values.keys():
            raise EventArgumentError(self._missing(values, str(_Received(explicit, form, query, is_form))))
        return values

    def _by_name(self, pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
        """Collect all values by the argument or the field that their name means."""
        found: dict[str, list[Any]] = {}
        for name, value in pairs:
            if name not in self.names:
                bare = name.removesuffix("[]")
                name = bare if bare in self.names else bare.replace("-", "_")
            found.setdefault(name, []).append(value)
        return found

    def _fill(
        self, values: dict[str, Any], texts: dict[str, list[Any]], explicit: Mapping[str, Any], is_form: bool
    ) -> None:
        """Add the explicit arguments, and fill models from the values that have the names of their fields."""
        exact = {name: value for name, value in explicit.items() if name in self._fields}
        values |= {name: value for name, value in explicit.items() if name in self.types or name not in exact}
        loose = (texts.keys() & self._fields) | exact.keys()
        if not is_form and not loose:
            return
        if values.keys() <= self.types.keys():  # with a name that nobody knows, it is another form
            for filled in self._filled:
                if filled.name not in values and (made := filled.fill(texts, exact, is_form)) is not None:
                    values[filled.name] = made
                    loose -= filled.fields.keys()
        for name in sorted(loose - self.types.keys()):
            values[name] = exact[name] if name in exact else texts[name][-1]  # the message says that it is unknown

    # -- checks

    async def _check_in_thread(
        self, values: dict[str, Any], waiting: list[Any], received: _Received, wait: float
    ) -> dict[str, Any]:
        try:
            places = _threads.get()
        except LookupError:
            places = asyncio.Semaphore(_MAX_THREADS)
            _threads.set(places)
        try:
            async with asyncio.timeout(wait):
                await places.acquire()
        except TimeoutError as error:
            raise LockTimeoutError(f"{self.where}: no thread was free for {wait:g} s to check the arguments") from error
        try:
            # A limiter of its own: the threads of the app's handlers may all be taken.
            return await to_thread.run_sync(
                self._check, values, waiting, _LARGE_WORK, received, limiter=CapacityLimiter(1)
            )
        finally:
            places.release()

    def _check(self, values: dict[str, Any], waiting: list[Any], work: int, received: _Received) -> dict[str, Any]:
        """Validate and convert the `values`. Those `waiting` come last: they take longer than most refusals."""
        try:
            if self._bounded is None:
                checked = self._validate(values)
            else:
                with work_of(work):
                    checked = self._bounded(values)
            if waiting:
                look_through(waiting, inf, set())
            return checked
        except UnshowableError as problem:
            refused = self._unshowable(values, problem)
        except Unfit as unfit:
            refused = EventArgumentError(self._explain(unfit.name, unfit.error, received))
        except ValidationError as error:
            refused = EventArgumentError(self._explain(None, error, received))
        except TooMuchWork as error:
            refused = EventArgumentError(f"{self.where}: argument {error.args[0]!r} takes too much work to check")
        except RecursionError:
            refused = EventArgumentError(f"{self.where}: the arguments are nested too deep")
        # Not from pydantic's error, which holds the values: a log of this error would show them.
        raise refused from None

    def _unshowable(self, values: dict[str, Any], problem: UnshowableError) -> EventArgumentError:
        for name, value in values.items():
            try:
                look_through([value], inf, set())
            except UnshowableError:
                return EventArgumentError(f"{self.where}: argument {name!r} {problem}")
        return EventArgumentError(f"{self.where}: an argument {problem}")

    # -- messages

    def _missing(self, values: dict[str, Any], received: str) -> str:
        name = next(name for name in self.types if name in self._required and name not in values)
        fields = next((filled.fields for filled in self._filled if filled.name == name), None)
        takes = f"; {name!r} takes {_listed(fields)}" if fields and received else ""
        return f"{self.where}: the argument {name!r} is missing{received}{takes}"

    def _explain(self, name: str | None, error: ValidationError, received: _Received) -> str:
        kind, place, message = first_problem(error)
        if name is None and place:
            name, place = str(place[0]), place[1:]
        if is_hidden(self.types.get(name or ""), place):
            return f"{self.where}: argument {name!r} is not valid"  # a constraint may be no client's business
        at = ".".join(str(part)[:40] for part in place[:20])
        told = str(received) if kind == "missing" and len(place) == 1 else ""
        return f"{self.where}: argument {name or '?'!r}{f' at {at}' if at else ''}: {message[:300]}{told}"


def _listed(names: Iterable[str], most: int = 10) -> str:
    """List at most `most` names, shortened."""
    found = list(names)
    told = ", ".join(repr(name[:40]) for name in found[:most])
    return f"{told} and {len(found) - most} more" if len(found) > most else told or "nothing"


def unknown_argument(where: str, name: str, known: Iterable[str]) -> str:
    """Word the message about an argument that an event does not have."""
    return f"{where}: there is no argument {name[:100]!r}; it takes {', '.join(known) or 'none'}"


# -- defaults that a call could change, such as lists: each call gets a copy of its own --------------------------------


def is_changeable(value: Any) -> bool:
    """True if a default has to be copied for each call: a list, a model or the like, or what holds one.

    States, functions and objects of other classes are not copied: they may be meant to be shared.
    """
    if isinstance(value, list | dict | set | deque | bytearray):
        return True
    if isinstance(value, tuple):
        return any(map(is_changeable, value))
    if isinstance(value, type) or is_state_class(type(value)):
        return False
    if not (is_model := isinstance(value, BaseModel)) and not dataclasses.is_dataclass(value):
        return False
    parts = value.__dict__.values() if is_model else (getattr(value, f.name, None) for f in dataclasses.fields(value))
    return not is_frozen_class(type(value)) or any(map(is_changeable, parts))


def copied(value: Any) -> Any:
    """Copy a default, as deep as what `is_changeable` says of its parts."""
    if not is_changeable(value):
        return value
    if isinstance(value, tuple):
        items = map(copied, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    made = copy.copy(value)
    if isinstance(made, dict):
        for key, item in made.items():
            made[key] = copied(item)
    elif isinstance(made, list | deque):
        for index, item in enumerate(made):
            made[index] = copied(item)
    elif isinstance(made, BaseModel):
        made.__dict__.update({name: copied(item) for name, item in made.__dict__.items()})
    elif dataclasses.is_dataclass(made):
        for field in dataclasses.fields(made):
            object.__setattr__(made, field.name, copied(getattr(made, field.name)))
    return made


def changeable_defaults(function: Callable[..., Any]) -> tuple[tuple[int, str, Any], ...]:
    """Find the defaults of a method that have to be copied for each call: position behind `self`, name and value."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return tuple(
        (position if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else len(parameters), parameter.name, default)
        for position, parameter in enumerate(parameters)
        if (default := parameter.default) is not parameter.empty and is_changeable(default)
    )
