"""User loaders: find the user of a request, in whichever way the app signs people in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import BuiltinMethodType, MappingProxyType
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..exceptions import BackendError, FastStateError
from ..scheduling.loops import settle
from ..scheduling.waits import TooLate, in_time
from ..scheduling.workers import call_in_worker
from .users import UserContext

UserLoader = Callable[[HTTPConnection], UserContext | Awaitable[UserContext | None] | None]
LoadUserById = Callable[[Any], UserContext | Awaitable[UserContext | None] | None]

LOADER_THREADS: Final = 40
"""Sync loaders that run at one time. Events and handlers do not share these places, and so never wait for a loader."""


class UserFinder:
    """The way from a request of one app to its user. Lifetime: the provider.

    A `user_loader` decides alone. Without one, the first of these that is there counts: a `UserContext` in
    `scope["auth"]` or `scope["user"]`; the user of Starlette's `AuthenticationMiddleware`, whose scopes become
    permissions, or its statement that nobody is signed in; an id in `scope["auth"]`; an id in `session["user_id"]`.
    Ids and Starlette's user names are passed to `load_user_by_id`; without it they are users without roles.

    Sync loaders run in a worker thread, with the context variables of the request, and async ones on the event loop.
    Each has `timeout` seconds to answer. Methods of dicts, as in `load_user_by_id=USERS.get`, are called on the loop: a
    thread would cost 50 us and more a request.
    """

    def __init__(
        self, user_loader: UserLoader | None, load_user_by_id: LoadUserById | None, timeout: float = 5.0
    ) -> None:
        self.user_loader = user_loader
        self.load_user_by_id = load_user_by_id
        self.timeout = timeout
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        # Looked up by each request: 0.1 us in place of 2.
        self._on_loop = {id(f): _stays_on_loop(f) for f in (user_loader, load_user_by_id) if f is not None}

    async def load(self, connection: HTTPConnection) -> UserContext | None:
        """Return the user of `connection`, or None if nobody is signed in.

        Raises `BackendError` (503) if the app's loader fails, returns something else or does not answer in time. An
        error of this library or Starlette's `HTTPException` counts as the loader's answer, and is passed on.
        """
        found, loader = self._find(connection)
        try:
            if loader is not None:
                found = await self._ask(loader, found)
        except (FastStateError, HTTPException):
            raise
        except TooLate as error:
            raise BackendError(f"the app's user loader did not answer within {self.timeout:g} s") from error
        except Exception as error:
            raise BackendError("the user of this request could not be loaded") from error
        if found is not None and not isinstance(found, UserContext):
            raise BackendError(f"the app's user loader returned {type(found).__name__}, not a UserContext or None")
        return found

    async def _ask(self, function: Callable[[Any], Any], argument: Any) -> Any:
        if self._on_loop.get(id(function), False):
            found = function(argument)
        else:
            found = await self._ask_in_thread(function, argument)
        if found is not None and not isinstance(found, UserContext) and inspect.isawaitable(found):
            found = await in_time(self.timeout, found)
        return found

    async def _ask_in_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        loop = asyncio.get_running_loop()
        places = self._places.get(loop)
        if places is None:
            places = self._places[loop] = asyncio.Semaphore(LOADER_THREADS)
        await in_time(self.timeout, places.acquire())
        done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        call_in_worker(partial(function, argument), lambda result, error: settle(done, (result, error)))
        # The place becomes free when the thread does, and not when the request gives up: otherwise each request to a
        # loader that hangs would leave another thread behind.
        done.add_done_callback(lambda _: places.release())
        found, error = await in_time(self.timeout, asyncio.shield(done))
        if error is not None:
            raise error
        return found

    def sees_nobody(self, scope: Scope) -> bool:
        """True if no place where a user could be is filled, as for most visitors of most apps."""
        if self.user_loader is not None or scope.get("auth") is not None or scope.get("user") is not None:
            return False
        session = scope.get("session")
        return not session or session.get("user_id") is None

    def _find(self, connection: HTTPConnection) -> tuple[Any, Callable[[Any], Any] | None]:
        """Return the user or None, with None; or the argument for the loader that finds the user, with the loader."""
        if self.sees_nobody(connection.scope):
            return None, None
        if self.user_loader is not None:
            return connection, self.user_loader
        scope = connection.scope
        for place in ("auth", "user"):
            if isinstance(scope.get(place), UserContext):
                return scope[place], None
        auth, user = scope.get("auth"), scope.get("user")
        permissions: list[str] = []
        user_id: Any = None
        if getattr(user, "is_authenticated", False) is True:  # Starlette's AuthenticationMiddleware
            user_id = getattr(user, "username", None) or getattr(user, "identity", None)
            permissions = list(getattr(auth, "scopes", ()))
            if not _is_id(user_id):
                return None, None
        elif hasattr(user, "is_authenticated"):
            return None, None  # the middleware says that nobody is signed in, which overrules the session
        if not _is_id(user_id):
            user_id = auth if _is_id(auth) else (scope.get("session") or {}).get("user_id")  # FastHTML's convention
        if not _is_id(user_id):
            return None, None
        if self.load_user_by_id is not None:
            return user_id, self.load_user_by_id
        return UserContext(user_id, str(user_id), permissions=permissions), None


def _stays_on_loop(function: Any) -> bool:
    """True if a loader is called on the event loop: it is async, or a lookup in a dict."""
    while isinstance(function, partial):
        function = function.func
    if any(map(inspect.iscoroutinefunction, (function, type(function).__call__))) or function is UserContext:
        return True
    return isinstance(function, BuiltinMethodType) and isinstance(function.__self__, dict | MappingProxyType)


def _is_id(value: Any) -> bool:
    """True if `value` can be a user's id. False is not one: some apps store it when a user signs out."""
    return isinstance(value, str | int | UUID) and not isinstance(value, bool) and value != ""
