"""How one state class is kept, and who may have it: `StateConfig`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from ..auth.rules import AccessRule, Authorizer, rule_of
from ..exceptions import ConfigurationError, EventDefinitionError, IdentifierError
from ..records.table import record_source
from ..registry.creating import Create
from ..scopes import Id, StateIdentifier, StateScope
from ..state.parameters import StateParameter
from ..state.reactive import ReactiveState

OnLogin = Literal["keep", "drop", "to_user"]
Merge = Callable[[Any, Any], Awaitable[None] | None]
"""Merges a guest's state into the user's own: called with the user's (to be changed) and the guest's. Sync or async."""

_OWNER_FIELDS: Final = ("user_id", "owner_id")


class Ids(NamedTuple):
    """The ids that say which state of a class is meant; those that its scope has no use for are ignored."""

    user_id: Id | None = None
    session_id: Id | None = None
    component_id: Id | None = None
    record_id: Id | None = None

    @classmethod
    def of_instance(cls, scope: StateScope, instance_id: Id | None) -> Ids:
        """Return the id that tells the states of one class on a page apart, as a component's or a record's."""
        return cls(record_id=instance_id) if scope is StateScope.RECORD else cls(component_id=instance_id)


@dataclass
class StateConfig:
    """Says how a state class is kept, and who may have it. Lifetime: the provider it is registered with.

    - `scope` says who shares a state. `ttl` is the idle time in seconds after which it is dropped (None for the scope's
      own, `math.inf` for never). `name` names it in keys and signals (default: the class's name). `record_param` is the
      path parameter with a record's id. `create` makes the values of a state that does not exist yet: a callable, sync
      or async, from `StateIdentifier` to a dict, or to None for "there is none" (404). `initial_values=True` says that
      your handlers give the fields that have no default, `get_state(..., field=value)`; until then there is no such
      state (404).
    - `requires_auth`, `permissions` and `roles` (all of them) say who may see and change it. `authorize` decides on
      single states: a callable, sync or async, from user (or None), committed state and action (str: "read", "modify",
      an event's name, or `State.event` for another state's event that takes this one along) to bool. `owner` names the
      field with the owner's id (default: `user_id`, `owner_id`, else the user of a USER key).
    - `in_memory` keeps the class out of the provider's store; `auto_persist` has it stored where none was named, in
      `faststate.db`. `records` is where the row of a RECORD state is: a fastlite table (or any of the MiniDataAPI), a
      pair of callables (load, save), or a `RecordSource`; `to_state` (from a row, a dict, to field values) and `to_row`
      (from a state to columns) stand between them where the fields are not the columns.
    - `on_login` says what happens to a SESSION or COMPONENT state when its session signs in: "keep" keeps it, "drop"
      ends it, "to_user" (SESSION only) makes it the user's: once signed in, the class is one state per user. `merge` is
      called if both exist, with the user's state and the guest's; without it the user's own stays, unless nobody has
      changed it yet.
    - `public=True` says that everybody may change a shared state on purpose; `faststate audit` reports it otherwise.

    Both `StateConfig(scope=...)` and the seed's `StateConfig(Cart, scope=...)` work. Raises `ConfigurationError` for
    options that contradict each other.
    """

    state_cls: type[ReactiveState] | None = None
    scope: StateScope = StateScope.SESSION
    ttl: float | None = None
    auto_persist: bool = False
    requires_auth: bool = False
    permissions: Sequence[str] = ()
    roles: Sequence[str] = ()
    name: str | None = None
    record_param: str | None = None
    create: Create | None = None
    in_memory: bool = False
    records: Any = None
    to_state: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    to_row: Callable[[Any], Mapping[str, Any]] | None = None
    authorize: Authorizer | None = None
    owner: str | None = None
    on_login: OnLogin = "keep"
    merge: Merge | None = None
    public: bool = False
    initial_values: bool = False
    rule: AccessRule = field(init=False, repr=False)
    """The whole rule for the state: all that is asked of a user."""
    gate: AccessRule = field(init=False, repr=False)
    """The part of the rule that can be asked before there is a state: all but `authorize`."""
    state_name: str = field(init=False, repr=False)
    """The name (str) of the class in keys, signals and URLs."""
    has_ids: bool = field(init=False, repr=False)
    """True if a page may show several states of the class, told apart by ids."""

    def __post_init__(self) -> None:
        if not isinstance(self.scope, StateScope):
            raise ConfigurationError(f"scope must be a StateScope, not {self.scope!r}")
        self.state_name = self.name or (self.state_cls.__name__ if self.state_cls is not None else "")
        self.has_ids = self.scope in (StateScope.COMPONENT, StateScope.RECORD, StateScope.TEMPORARY)
        if self.ttl is not None and (
            isinstance(self.ttl, bool) or not isinstance(self.ttl, int | float) or not self.ttl > 0
        ):
            raise ConfigurationError(f"ttl is in seconds, above 0, not {self.ttl!r}")
        try:
            self.gate = rule_of(self.requires_auth, self.permissions, self.roles)
        except EventDefinitionError as error:
            raise ConfigurationError(str(error)) from None
        if self.authorize is not None and not callable(self.authorize):
            raise ConfigurationError(f"authorize must be a callable (user, state, action), not {self.authorize!r}")
        if inspect.isgeneratorfunction(self.authorize) or inspect.isasyncgenfunction(self.authorize):
            raise ConfigurationError("authorize returns whether it may be; what it yields would be taken for a yes")
        self.rule = replace(self.gate, check=self.authorize)
        if self.on_login not in ("keep", "drop", "to_user"):
            raise ConfigurationError(f"on_login is 'keep', 'drop' or 'to_user', not {self.on_login!r}")
        if self.on_login == "to_user" and self.scope is not StateScope.SESSION:
            raise ConfigurationError(f"on_login='to_user' is for SESSION states, not for {self.scope.value} ones")
        if self.on_login == "drop" and self.scope not in (StateScope.SESSION, StateScope.COMPONENT):
            raise ConfigurationError(f"on_login is for states of a session; {self.scope.value} states are not changed")
        if self.merge is not None and self.on_login != "to_user":
            raise ConfigurationError("merge decides between a guest's and a user's state: it needs on_login='to_user'")

        if self.in_memory and self.auto_persist:
            raise ConfigurationError("auto_persist keeps a state in the store, and in_memory out of it: choose one")
        if self.records is not None:
            if self.scope is not StateScope.RECORD:
                raise ConfigurationError(f"records are for RECORD states, not for {self.scope.value} ones")
            if self.create is not None:
                raise ConfigurationError("records say which states there are, so there is nothing to create")
            if self.initial_values:
                raise ConfigurationError("records hold the values of all states: drop initial_values")
            if self.in_memory or self.auto_persist:
                raise ConfigurationError("records are where the state is kept: drop auto_persist and in_memory")
            self.records = record_source(self.records)
        if (self.to_state is None) is not (self.to_row is None):
            raise ConfigurationError("to_state and to_row are a pair: give both or none")
        for between in (self.to_state, self.to_row):
            if between is not None and (not callable(between) or inspect.iscoroutinefunction(between)):
                raise ConfigurationError(f"to_state and to_row are plain functions, not {between!r}")
        if self.to_row is not None and self.records is None:
            raise ConfigurationError("to_state and to_row stand between a state and its row: they need records=...")

    def for_class(self, cls: type[ReactiveState]) -> StateConfig:
        """Return a copy of this config for `cls`. Raises `ConfigurationError` if the two do not fit."""
        if self.state_cls is not None and self.state_cls is not cls:
            raise ConfigurationError(f"the config is for {self.state_cls.__name__}, not for {cls.__name__}")
        if self.owner is not None and self.owner not in cls.model_fields:
            raise ConfigurationError(f"owner={self.owner!r} is not a field of {cls.__name__}")
        if (owner := self.owner_field(cls)) is not None and owner in cls._fs_schema().bound:
            raise ConfigurationError(f"{cls.__name__}.{owner} says who the owner is: it cannot be Bound to an input")
        required = cls._fs_schema().required
        if required and self.create is None and self.records is None and not self.initial_values:
            raise ConfigurationError(
                f"{' and '.join(f'{cls.__name__}.{name}' for name in required)} "
                f"{'has' if len(required) == 1 else 'have'} no default, and nothing says what a new {cls.__name__} "
                "holds there: give a default, or StateConfig(create=...) with a function that makes the first values, "
                f"or StateConfig(initial_values=True) where your handlers give them, get_state(..., {required[0]}=...)"
            )
        made = replace(self, state_cls=cls, name=self.name or cls.__name__)
        try:
            StateIdentifier(StateScope.GLOBAL, made.state_name)
        except IdentifierError as error:
            raise ConfigurationError(f"{error}; give {cls.__name__} a StateConfig(name=...)") from error
        return made

    def identifier(self, ids: Ids) -> StateIdentifier:
        """Return the identifier of the state that the ids mean. Raises `IdentifierError` if one is missing."""
        scope = self.scope
        if self.on_login == "to_user" and ids.user_id is not None:
            scope = StateScope.USER
        try:
            return _identifier(scope, self.state_name, *ids)
        except TypeError:  # an id of a type that is not hashable, which the identifier refuses
            return _identifier.__wrapped__(scope, self.state_name, *ids)

    def record_parameter(self, parameters: Iterable[str]) -> str | None:
        """Return which of a route's path parameters (names) holds the id of the class's records; None if none does."""
        known = list(parameters)
        if self.record_param is not None:
            return self.record_param if self.record_param in known else None
        name = self.state_cls.__name__ if self.state_cls is not None else self.state_name
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("State") or name).lower()
        for candidate in ("record_id", f"{snake}_id"):
            if candidate in known:
                return candidate
        return known[0] if len(known) == 1 else None

    def owner_field(self, cls: type[ReactiveState]) -> str | None:
        """Return the name of the field that holds the id of a state's owner, or None."""
        candidates = (self.owner,) if self.owner is not None else _OWNER_FIELDS
        return next((name for name in candidates if name in cls.model_fields), None)

    def has_owner(self, cls: type[ReactiveState]) -> bool:
        """True if states of the class can have an owner."""
        return self.owner_field(cls) is not None or self.scope is StateScope.USER or self.on_login == "to_user"

    def owner_of(self, state: ReactiveState) -> Any:
        """Return the id of a committed state's owner: its owner field, else the user of its key; None for nobody."""
        name = self.owner_field(type(state))
        found = getattr(state, name) if name is not None else None
        return found if found is not None else state._committed.identifier.user_id


def check_taken(own: StateConfig, event: str, parameter: StateParameter, taken: StateConfig) -> None:
    """Raise `ConfigurationError` if an event takes another state, and nothing says which one of its class.

    `own` is the config of the event's own state, `taken` that of the state that its parameter asks for.
    """
    where = f"{own.state_name}.{event} takes {taken.state_name} as {parameter.name!r}"
    name = parameter.cls.__name__
    if taken.scope is StateScope.RECORD:
        has_own_id = own.scope in (StateScope.RECORD, StateScope.COMPONENT)
        if parameter.record is None:
            own_id = ", or write Record() where it is the id of the event's own state" if has_own_id else ""
            raise ConfigurationError(
                f"{where}, which is a record, and does not say which one: name the argument that holds its id, "
                f"{parameter.name}: Annotated[{name}, Record('the_argument')]{own_id}"
            )
        if parameter.record.argument is None and not has_own_id:
            raise ConfigurationError(
                f"{where}: Record() means the id of the event's own state, and a {own.scope.value} state has none; "
                "name the argument that holds the record's id, Record('the_argument')"
            )
    elif taken.scope is StateScope.COMPONENT and parameter.component is None and own.scope is not StateScope.COMPONENT:
        raise ConfigurationError(
            f"{where}, which is a component, and does not say which one: "
            f"{parameter.name}: Annotated[{name}, Component('the_id')]"
        )
    elif taken.scope is StateScope.TEMPORARY and parameter.component is None and own.scope is not StateScope.TEMPORARY:
        raise ConfigurationError(
            f"{where}, which is a page's own, and only events of a TEMPORARY state know their page: give "
            f"{own.state_name} that scope, or {taken.state_name} another one"
        )


@lru_cache(maxsize=1_024, typed=True)  # typed, since True equals 1 and is not an id
def _identifier(
    scope: StateScope,
    name: str,
    user_id: Id | None,
    session_id: Id | None,
    component_id: Id | None,
    record_id: Id | None,
) -> StateIdentifier:
    """Return an identifier, made once: it cannot be changed, and takes 10 µs to build."""
    return StateIdentifier(
        scope, name, user_id=user_id, session_id=session_id, component_id=component_id, record_id=record_id
    )
