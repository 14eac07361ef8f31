"""Recognising users: from a request to its `UserContext`, in whichever way the app signs people in."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from .auth import UserContext
from .exceptions import BackendError, FastStateError

__all__ = ["LoadUserById", "UserLoader", "Users"]

logger = logging.getLogger("faststate")

UserLoader = Callable[[HTTPConnection], UserContext | Awaitable[UserContext | None] | None]
LoadUserById = Callable[[Any], UserContext | Awaitable[UserContext | None] | None]


class Users:
    """Recognises the users of one app. Lifetime: the provider.

    With a `user_loader` that alone is asked. Else, in this order: a `UserContext` in `scope["auth"]` or
    `scope["user"]`; the user that Starlette's own middleware left there, whose scopes become permissions, or its word
    that nobody is there; an id in `scope["auth"]`, then in `session["user_id"]`. Ids and Starlette's user names go to
    `load_user_by_id`; without it they are users with no roles.
    """

    def __init__(self, user_loader: UserLoader | None, load_user_by_id: LoadUserById | None) -> None:
        self.user_loader = user_loader
        self.load_user_by_id = load_user_by_id

    async def load(self, connection: HTTPConnection) -> UserContext | None:
        """The user of `connection`, or None for nobody.

        Raises `BackendError` (503) when the app's callable fails or returns something else, and lets through what it
        raises as its answer: an error of this library, or Starlette's `HTTPException`.
        """
        try:
            found = self._find(connection)
            if found is not None and not isinstance(found, UserContext) and inspect.isawaitable(found):
                found = await found
        except (FastStateError, HTTPException):
            raise
        except Exception as error:
            raise BackendError("the user of this request could not be loaded") from error
        if found is not None and not isinstance(found, UserContext):
            raise BackendError(f"the app's user loader returned {type(found).__name__}, not a UserContext or None")
        return found

    def sees_nobody(self, scope: Scope) -> bool:
        """True where no place is filled that a user is looked for in: most visitors of most apps."""
        if self.user_loader is not None or scope.get("auth") is not None or scope.get("user") is not None:
            return False
        session = scope.get("session")
        return not session or session.get("user_id") is None

    def _find(self, connection: HTTPConnection) -> Any:
        """The user or None, or what is to be awaited for that."""
        if self.sees_nobody(connection.scope):
            return None
        if self.user_loader is not None:
            return self.user_loader(connection)
        scope = connection.scope
        for place in ("auth", "user"):
            if isinstance(scope.get(place), UserContext):
                found: UserContext = scope[place]
                return found
        auth, user = scope.get("auth"), scope.get("user")
        permissions: list[str] = []
        user_id: Any = None
        if getattr(user, "is_authenticated", False) is True:  # Starlette's AuthenticationMiddleware
            user_id = getattr(user, "username", None) or getattr(user, "identity", None)
            permissions = list(getattr(auth, "scopes", ()))
            if not _is_id(user_id):
                return None
        elif hasattr(user, "is_authenticated"):
            return None  # that middleware's word counts: nobody is there, whatever the session remembers
        if not _is_id(user_id):
            user_id = auth if _is_id(auth) else (scope.get("session") or {}).get("user_id")  # FastHTML's convention
        if not _is_id(user_id):
            return None
        if self.load_user_by_id is not None:
            return self.load_user_by_id(user_id)
        return UserContext(user_id, str(user_id), permissions=permissions)


def _is_id(value: Any) -> bool:
    """Whether `value` can be a user's id. False is none: apps write it where nobody is signed in any more."""
    return isinstance(value, str | int | UUID) and not isinstance(value, bool) and value != ""
