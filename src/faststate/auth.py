"""Who is asking, and may they: the user, the context variables, and the one function that decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from .exceptions import AuthenticationError, AuthorizationError, NotStartedError
from .scopes import Id

__all__ = [
    "AccessRule",
    "UserContext",
    "authorize",
    "current_request",
    "current_user",
    "get_current_request",
    "get_current_user",
]

ADMIN = "admin"


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
    user: UserContext | None = await context.user()
    return user


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a caller must be: signed in, holding all `permissions`, having all `roles`, owning the state."""

    requires_auth: bool = False
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    owner_only: bool = False

    @property
    def restricts(self) -> bool:
        """True when the rule turns anybody away."""
        return bool(self.requires_auth or self.permissions or self.roles or self.owner_only)


OPEN = AccessRule()


def authorize(user: UserContext | None, rule: AccessRule, owner_id: Id | None = None) -> None:
    """Raises `AuthenticationError` (401) or `AuthorizationError` (403) unless `user` satisfies `rule`.

    `owner_id` is the id of the state's owner, or None where it has none, which `owner_only` takes for "nobody's".
    """
    if not rule.restricts:
        return
    if user is None:
        raise AuthenticationError("sign in to do this")
    if not user.has_permissions(rule.permissions):
        raise AuthorizationError("you do not have the permission to do this")
    if not user.has_roles(rule.roles):
        raise AuthorizationError("you do not have the role to do this")
    if rule.owner_only and (owner_id is None or str(owner_id) != str(user.id)):
        raise AuthorizationError("only the owner may do this")
