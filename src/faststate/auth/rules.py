"""Access rules: what a caller must be, and `authorize`, the one function that decides."""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, overload

from ..exceptions import AuthenticationError, AuthorizationError, EventDefinitionError
from ..scopes import Id
from .users import UserContext

READ: Final = "read"
"""The action of showing a state. The others are `MODIFY` and the names of events."""

MODIFY: Final = "modify"
"""The action of `provider.modify(cls, request)`."""


Authorizer = Callable[[UserContext | None, Any, str], bool | Awaitable[bool]]
"""A class's own rule for single states: takes user, committed state and action; true allows it. Sync or async."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The conditions that a caller must fulfil. Lifetime: the state class or the event that it protects.

    The caller is signed in, has all `permissions` and all `roles`, owns the state, and passes `check`.
    """

    requires_auth: bool = False
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    owner_only: bool = False
    check: Authorizer | None = None
    needs_user: bool = field(init=False, repr=False, compare=False)
    """True if the rule refuses everybody who is not signed in."""
    restricts: bool = field(init=False, repr=False, compare=False)
    """True if the rule refuses anybody at all."""

    def __post_init__(self) -> None:
        for what in ("permissions", "roles"):
            given = getattr(self, what)
            if not isinstance(given, tuple) or not all(isinstance(name, str) and name for name in given):
                raise EventDefinitionError(f"{what} is a list of names, not {given!r}")
        needs_user = bool(self.requires_auth or self.permissions or self.roles or self.owner_only)
        object.__setattr__(self, "needs_user", needs_user)
        object.__setattr__(self, "restricts", needs_user or self.check is not None)

    def __or__(self, other: AccessRule) -> AccessRule:
        """Return the rule that demands what both rules demand."""
        return AccessRule(
            self.requires_auth or other.requires_auth,
            tuple(dict.fromkeys(self.permissions + other.permissions)),
            tuple(dict.fromkeys(self.roles + other.roles)),
            self.owner_only or other.owner_only,
            self.check or other.check,
        )

    def as_auth_config(self) -> dict[str, Any]:
        """Return a dict: `required` (bool), `permissions` and `roles` (lists of str), `owner_only` (bool)."""
        return {
            "required": self.needs_user,
            "permissions": list(self.permissions),
            "roles": list(self.roles),
            "owner_only": self.owner_only,
        }

    @classmethod
    def from_auth_config(cls, config: dict[str, Any]) -> AccessRule:
        """Return the rule that `as_auth_config` wrote."""
        return cls(config["required"], tuple(config["permissions"]), tuple(config["roles"]), config["owner_only"])


def rule_of(
    requires_auth: bool, permissions: Sequence[str] | None, roles: Sequence[str] | None, owner_only: bool = False
) -> AccessRule:
    """Build a rule from a decorator's arguments. Raises `EventDefinitionError` for a str in place of a list."""
    for what, given in (("permissions", permissions), ("roles", roles)):
        if isinstance(given, str):
            raise EventDefinitionError(f"{what} is a list of str, not a str")
        if given is not None and not isinstance(given, Iterable):
            raise EventDefinitionError(f"{what} is a list of names, not {given!r}")
    return AccessRule(bool(requires_auth), tuple(permissions or ()), tuple(roles or ()), bool(owner_only))


async def authorize(
    user: UserContext | None, rule: AccessRule, state: Any = None, action: str = READ, owner_id: Id | None = None
) -> None:
    """Raise `AuthenticationError` (401) or `AuthorizationError` (403) unless `user` may do `action` to `state`.

    `owner_id` is the id of the state's owner, None if it has no owner; `owner_only` then refuses everybody. A refusal
    by the rule's own check is a 401 if nobody is signed in. Errors that the check raises are passed on.
    """
    if not rule.restricts:
        return
    if rule.needs_user and user is None:
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
        # Not `is True`: numpy's bool would be refused. A check without a return statement gives None, which refuses.
        if not allowed and user is None:
            raise AuthenticationError("sign in to do this")
        if not allowed:
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
    """Restrict who may send an event. Put it above or below `@event`; it works like the arguments of `@event`.

    The caller needs all of `permissions` and `roles` (lists of str); without arguments, being signed in is enough. The
    rule is recorded as the event's `_auth_config` (see `AccessRule.as_auth_config`). On a method that is not an event
    it would protect nothing, so a state class with such a method raises `EventDefinitionError`.
    """
    rule = rule_of(True, permissions, roles, owner_only)

    def decorate(target: Any) -> Any:
        known = getattr(target, "_auth_config", None)
        both = rule if known is None else rule | AccessRule.from_auth_config(known)
        try:
            # Other objects that take attributes were made from a function, like a registered route.
            if not (isinstance(target, types.FunctionType) or hasattr(type(target), "_auth_config")):
                raise AttributeError
            target._auth_config = both.as_auth_config()
        except AttributeError:
            raise EventDefinitionError(
                f"@requires_auth guards an event, not {target!r}: put it over @event or under it"
            ) from None
        return target

    return decorate(function) if function is not None else decorate
