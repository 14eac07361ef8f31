"""Recognising users: from a request to its `UserContext`, in whichever way the app signs people in."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from types import BuiltinMethodType, MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..exceptions import BackendError, FastStateError
from ..scheduling.waits import TooLate, in_time
from .rules import UserContext

__all__ = ["LoadUserById", "UserLoader", "Users"]

logger = logging.getLogger("faststate")

UserLoader = Callable[[HTTPConnection], UserContext | Awaitable[UserContext | None] | None]
LoadUserById = Callable[[Any], UserContext | Awaitable[UserContext | None] | None]


LOADER_THREADS: Final = 40
"""Calls of sync loaders at one time. They have threads of their own: events and handlers do not wait for them."""

IDLE_THREAD: Final = 10.0
"""Seconds after which such a thread ends that nobody has given anything to do."""


class _Asked(NamedTuple):
    """Returns what is to be called, and with what, to know the user."""

    function: Callable[[Any], Any]
    argument: Any


class _Work(NamedTuple):
    """A call for a thread, and where its result goes."""

    context: contextvars.Context
    call: Callable[[], Any]
    done: asyncio.Future[tuple[BaseException | None, Any]]


class _Threads:
    """Threads for sync loaders, as many as are needed at one time. Lifetime: the provider.

    They are daemons: a loader that hangs must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._started = 0
        self._free = 0  # threads that wait for work, less the work that waits for them
        self._lock = threading.Lock()

    def run(self, call: Callable[[], Any]) -> asyncio.Future[tuple[BaseException | None, Any]]:
        """Calls `call` in a thread, with the caller's context variables; returns its error, or None, and its result."""
        done: asyncio.Future[tuple[BaseException | None, Any]] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.put(_Work(contextvars.copy_context(), call, done))
            self._free -= 1
            is_needed = self._free < 0
            self._free += is_needed
            self._started += is_needed
        if is_needed:
            threading.Thread(target=self._work, name="faststate-user-loader", daemon=True).start()
        return done

    def _work(self) -> None:
        while True:
            try:
                work = self._waiting.get(timeout=IDLE_THREAD)
            except queue.Empty:
                with self._lock:
                    if not self._waiting.empty():
                        continue
                    self._free -= 1
                return
            error, result = None, None
            try:
                result = work.context.run(work.call)
            except BaseException as raised:
                error = raised
            with self._lock:
                self._free += 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                work.done.get_loop().call_soon_threadsafe(_settle, work.done, (error, result))
            del work, error, result  # until there is more to do, nothing of a request stays here


def _settle(done: asyncio.Future[Any], result: Any) -> None:
    if not done.done():
        done.set_result(result)


class Users:
    """Recognises the users of one app. Lifetime: the provider.

    With a `user_loader` that alone is asked. Else, in this order: a `UserContext` in `scope["auth"]` or
    `scope["user"]`; the user that Starlette's own middleware left there, whose scopes become permissions, or its word
    that nobody is there; an id in `scope["auth"]`, then in `session["user_id"]`. Ids and Starlette's user names go to
    `load_user_by_id`; without it they are users with no roles.

    What is sync runs in a thread, with the context variables of the request, and what is async on the event loop; each
    has `timeout` seconds to answer. Methods of dicts, as in `load_user_by_id=USERS.get`, stay on the loop: a thread
    would cost 50 us and more a request.
    """

    def __init__(
        self, user_loader: UserLoader | None, load_user_by_id: LoadUserById | None, timeout: float = 5.0
    ) -> None:
        self.user_loader = user_loader
        self.load_user_by_id = load_user_by_id
        self.timeout = timeout
        self._threads = _Threads()
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._on_loop = {id(f): _stays_on_loop(f) for f in (user_loader, load_user_by_id) if f is not None}

    async def load(self, connection: HTTPConnection) -> UserContext | None:
        """The user of `connection`, or None for nobody.

        Raises `BackendError` (503) when the app's callable fails, returns something else or does not answer in time,
        and lets through what it raises as its answer: an error of this library, or Starlette's `HTTPException`.
        """
        found = self._find(connection)
        try:
            if isinstance(found, _Asked):
                found = await self._ask(*found)
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
        done = self._threads.run(partial(function, argument))
        # The place is given back when the thread is free again, and not when nobody waits for it any more: else each
        # request to a loader that hangs would leave another thread behind.
        done.add_done_callback(lambda _: places.release())
        error, found = await in_time(self.timeout, asyncio.shield(done))
        if error is not None:
            raise error
        return found

    def sees_nobody(self, scope: Scope) -> bool:
        """True where no place is filled that a user is looked for in: most visitors of most apps."""
        if self.user_loader is not None or scope.get("auth") is not None or scope.get("user") is not None:
            return False
        session = scope.get("session")
        return not session or session.get("user_id") is None

    def _find(self, connection: HTTPConnection) -> Any:
        """The user or None, or what is to be asked for that."""
        if self.sees_nobody(connection.scope):
            return None
        if self.user_loader is not None:
            return _Asked(self.user_loader, connection)
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
            return _Asked(self.load_user_by_id, user_id)
        return UserContext(user_id, str(user_id), permissions=permissions)


def _stays_on_loop(function: Any) -> bool:
    """Tells whether a loader is called on the event loop: it is async, or a lookup in a dict."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return True
    if function is UserContext:
        return True
    return isinstance(function, BuiltinMethodType) and isinstance(function.__self__, dict | MappingProxyType)


def _is_id(value: Any) -> bool:
    """Whether `value` can be a user's id. False is none: apps write it where nobody is signed in any more."""
    return isinstance(value, str | int | UUID) and not isinstance(value, bool) and value != ""
