"""Users and requests: who is signed in, and which user and request the running code serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final

from starlette.requests import HTTPConnection

from ..exceptions import NotStartedError
from ..scopes import Id

ADMIN: Final = "admin"
"""The role that has every permission."""


class UserContext:
    """A signed-in user. Lifetime: one request.

    `user_id` is the id (int, str or UUID) that the keys of USER states contain. `roles` and `permissions` are sequences
    of str. The role "admin" has every permission.
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
        """True if the user has `permission` or is an admin."""
        return permission in self.permissions or ADMIN in self.roles

    def has_permissions(self, permissions: Sequence[str]) -> bool:
        """True if the user has all of `permissions`."""
        return all(map(self.has_permission, permissions))

    def has_role(self, role: str) -> bool:
        """True if the user has `role`."""
        return role in self.roles

    def has_roles(self, roles: Sequence[str]) -> bool:
        """True if the user has all of `roles`."""
        return all(map(self.has_role, roles))

    def __repr__(self) -> str:
        return f"UserContext(user_id={self.id!r}, username={self.username!r})"


current_user: ContextVar[UserContext | None] = ContextVar("current_user", default=None)
"""The user of the current request. It is set once a state has been resolved, and while an event runs."""

current_request: ContextVar[HTTPConnection | None] = ContextVar("current_request", default=None)
"""The request (or websocket) that is being served."""


def get_current_request() -> HTTPConnection:
    """Return the request that is being served.

    Raises `NotStartedError` outside a request, and in an app without a provider.
    """
    request = current_request.get()
    if request is None:
        raise NotStartedError("no request is being served here, or its app has no StateProvider")
    return request


async def get_current_user(request: HTTPConnection) -> UserContext | None:
    """Return the user that the app of `request` recognises (see `StateProvider`), or None for an anonymous visitor.

    Raises `NotStartedError` if the app of the request has no provider.
    """
    context: Any = request.scope.get("faststate")
    if context is None:
        raise NotStartedError("the app of this request has no StateProvider: use faststate.fast_app or setup(app)")
    user: UserContext | None = await context.provider.context(request).user()
    return user
