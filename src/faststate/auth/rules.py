"""Who is asking, and may they: the user, the context variables, and the one function that decides."""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, overload

from starlette.requests import HTTPConnection

from ..exceptions import AuthenticationError, AuthorizationError, EventDefinitionError, NotStartedError
from ..scopes import Id

__all__ = [
    "MODIFY",
    "READ",
    "AccessRule",
    "Authorizer",
    "UserContext",
    "authorize",
    "current_request",
    "current_user",
    "get_current_request",
    "get_current_user",
    "requires_auth",
]

ADMIN: Final = "admin"
"""The role that holds every permission."""

READ: Final = "read"
"""The action of showing a state; the other ones are `MODIFY` and the names of events."""

MODIFY: Final = "modify"
"""The action of `provider.modify(cls, request)`."""


class UserContext:
    """A signed-in user. Lifetime: one request.

    `user_id` is the id (int, str or UUID) that USER states are keyed by. `roles` and `permissions` are sequences of
    str. The role "admin" holds every permission.
    """

    __slots__ = ("id", "permissions", "roles", "username")

    def __init__(
        self, user_id: Id, username: str = "", roles: Iterable[str] = (), permissions: Iterable[str] = ()
    ) -> None:
        self.id = user_id
        self.username = username
        self.roles = list(roles)
        self.permissions = list(permissions)

    @property
    def user_id(self) -> Id:
        """The same as `id`."""
        return self.id

    def has_permission(self, permission: str) -> bool:
        """True when the user holds `permission`, or is an admin."""
        return permission in self.permissions or ADMIN in self.roles

    def has_permissions(self, permissions: Sequence[str]) -> bool:
        """True when the user holds all of `permissions`."""
        return all(map(self.has_permission, permissions))

    def has_role(self, role: str) -> bool:
        """True when the user has `role`."""
        return role in self.roles

    def has_roles(self, roles: Sequence[str]) -> bool:
        """True when the user has all of `roles`."""
        return all(map(self.has_role, roles))

    def __repr__(self) -> str:
        return f"UserContext(user_id={self.id!r}, username={self.username!r})"


current_user: ContextVar[UserContext | None] = ContextVar("current_user", default=None)
"""The user of the request being served, where a state has been resolved or an event runs."""

current_request: ContextVar[HTTPConnection | None] = ContextVar("current_request", default=None)
"""The request (or websocket) being served."""


def get_current_request() -> HTTPConnection:
    """The request being served. Raises `NotStartedError` outside a request of an app with a provider."""
    request = current_request.get()
    if request is None:
        raise NotStartedError("no request is being served here, or its app has no StateProvider")
    return request


async def get_current_user(request: HTTPConnection) -> UserContext | None:
    """The user that `request`'s app recognises (see `StateProvider`), or None for an anonymous visitor.

    Raises `NotStartedError` when the app of the request has no provider.
    """
    context: Any = request.scope.get("faststate")
    if context is None:
        raise NotStartedError("the app of this request has no StateProvider: use faststate.fast_app or setup(app)")
    user: UserContext | None = await context.provider.context(request).user()
    return user


Authorizer = Callable[["UserContext | None", Any, str], "bool | Awaitable[bool]"]
"""A class's own rule for single states: from user, committed state and action to whether it may be. Sync or async."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a caller must be: signed in, holding all `permissions`, having all `roles`, owning the state, and whatever
    else `check` asks."""

    requires_auth: bool = False
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    owner_only: bool = False
    check: Authorizer | None = None
    restricts: bool = field(init=False, repr=False, compare=False)
    """True when the rule turns anybody away."""

    def __post_init__(self) -> None:
        for what in ("permissions", "roles"):
            given = getattr(self, what)
            if not isinstance(given, tuple) or not all(isinstance(name, str) and name for name in given):
                raise EventDefinitionError(f"{what} is a list of names, not {given!r}")
        asks = self.requires_auth or self.permissions or self.roles or self.owner_only or self.check is not None
        object.__setattr__(self, "restricts", bool(asks))

    def __or__(self, other: AccessRule) -> AccessRule:
        """The rule that asks all that both ask."""
        return AccessRule(
            self.requires_auth or other.requires_auth,
            tuple(dict.fromkeys(self.permissions + other.permissions)),
            tuple(dict.fromkeys(self.roles + other.roles)),
            self.owner_only or other.owner_only,
            self.check or other.check,
        )

    def as_auth_config(self) -> dict[str, Any]:
        """The rule as a dict: `required` (bool), `permissions` and `roles` (lists of str), `owner_only` (bool)."""
        return {
            "required": bool(self.requires_auth or self.permissions or self.roles or self.owner_only),
            "permissions": list(self.permissions),
            "roles": list(self.roles),
            "owner_only": self.owner_only,
        }

    @classmethod
    def from_auth_config(cls, config: dict[str, Any]) -> AccessRule:
        """The rule that `as_auth_config` wrote."""
        return cls(config["required"], tuple(config["permissions"]), tuple(config["roles"]), config["owner_only"])


def rule_of(
    requires_auth: bool, permissions: Sequence[str] | None, roles: Sequence[str] | None, owner_only: bool = False
) -> AccessRule:
    """The rule that a decorator's arguments say. Raises `EventDefinitionError` for a str where a list belongs."""
    for what, given in (("permissions", permissions), ("roles", roles)):
        if isinstance(given, str):
            raise EventDefinitionError(f"{what} is a list of str, not a str")
        if given is not None and not isinstance(given, Iterable):
            raise EventDefinitionError(f"{what} is a list of names, not {given!r}")
    return AccessRule(bool(requires_auth), tuple(permissions or ()), tuple(roles or ()), bool(owner_only))


async def authorize(
    user: UserContext | None, rule: AccessRule, state: Any = None, action: str = READ, owner_id: Id | None = None
) -> None:
    """Raises `AuthenticationError` (401) or `AuthorizationError` (403) unless `user` may do `action` to `state`.

    `owner_id` is the id of the state's owner, or None where it has none, which `owner_only` takes for "nobody's".
    Whoever the rule's own check turns away gets a 401 when nobody is signed in; what the check raises goes through.
    """
    if not rule.restricts:
        return
    needs_user = rule.requires_auth or rule.permissions or rule.roles or rule.owner_only
    if needs_user and user is None:
        raise AuthenticationError("sign in to do this")
    if user is not None:
        if not user.has_permissions(rule.permissions):
            raise AuthorizationError("you do not have the permission to do this")
        if not user.has_roles(rule.roles):
            raise AuthorizationError("you do not have the role to do this")
        if rule.owner_only and (owner_id is None or str(owner_id) != str(user.id)):
            raise AuthorizationError("only the owner may do this")
    if rule.check is not None:
        allowed = rule.check(user, state, action)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        # `is True` would turn away numpy's and the like; a check that forgot its return says None, which is no.
        if not allowed:
            if user is None:
                raise AuthenticationError("sign in to do this")
            raise AuthorizationError("you may not do this")


F = TypeVar("F", bound=Callable[..., Any])


@overload
def requires_auth(function: F, /) -> F: ...
@overload
def requires_auth(
    function: None = None,
    /,
    *,
    permissions: Sequence[str] | None = ...,
    roles: Sequence[str] | None = ...,
    owner_only: bool = ...,
) -> Callable[[F], F]: ...
def requires_auth(
    function: Any = None,
    /,
    *,
    permissions: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    owner_only: bool = False,
) -> Any:
    """Says who may send an event; stands over `@event` or under it, and does what its arguments do.

    `permissions` and `roles` (lists of str) mean all of them; without any argument the caller must be signed in. What
    it recorded is the event's `_auth_config` (see `AccessRule.as_auth_config`). On anything else but an event it would
    guard nothing that a client can reach, so making a state class with such a method raises `EventDefinitionError`.
    """
    rule = rule_of(True, permissions, roles, owner_only)

    def decorate(target: Any) -> Any:
        known = getattr(target, "_auth_config", None)
        both = rule if known is None else rule | AccessRule.from_auth_config(known)
        try:
            # What else takes attributes is something made of a function: a registered route, for one.
            if not (isinstance(target, types.FunctionType) or hasattr(type(target), "_auth_config")):
                raise AttributeError
            target._auth_config = both.as_auth_config()
        except AttributeError:
            raise EventDefinitionError(
                f"@requires_auth guards an event, not {target!r}: put it over @event or under it"
            ) from None
        return target

    return decorate(function) if function is not None else decorate
