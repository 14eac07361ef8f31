"""Users and their rights: sign-in, sign-out, and changes that open pages must hear of."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

from starlette.requests import HTTPConnection

from ..auth.users import UserContext, current_request, current_user
from ..registry.calling import call_from_anywhere
from ..scheduling.waits import Done
from ..scopes import Id, StateIdentifier, StateScope
from ..sessions.rights import How
from .context import RequestContext, RequestProvider, context_of
from .lifecycle import AppLoop

__all__ = ["Accounts"]


class Accounts:
    """Signs users in and out, from the event loop and from sync code. Lifetime: the provider."""

    def __init__(self, provider: RequestProvider, loop: AppLoop) -> None:
        self._provider = provider
        self._loop = loop

    def login(self, request: HTTPConnection, user: UserContext) -> Awaitable[None]:
        """Sign `user` in; see `StateProvider.login`."""
        if not isinstance(user, UserContext):
            raise TypeError(f"login() takes a UserContext, not {type(user).__name__}")
        context = self._own_context(request)
        StateIdentifier(StateScope.USER, "User", user_id=user.id)  # or all users without an id would be "None"
        return self._signed(self._provider.sessions.login(context, user), user)

    def logout(self, request: HTTPConnection) -> Awaitable[None]:
        """End the session; see `StateProvider.logout`."""
        return self._signed(self._provider.sessions.logout(self._own_context(request)), None)

    def _own_context(self, request: HTTPConnection) -> RequestContext:
        context = context_of(self._provider, request)
        context.claim()
        return context

    def _signed(self, change: Coroutine[Any, Any, None], user: UserContext | None) -> Awaitable[None]:
        async def changed() -> None:
            await change
            current_user.set(user)

        done = call_from_anywhere(self._loop, changed())
        if isinstance(done, Done):
            current_user.set(user)  # it was set on the loop, and this thread has a context of its own
        return done

    def change_rights(self, user_id: Id, how: How) -> Awaitable[int]:
        """Change a user's rights in all processes; returns the number (int) of streams in this one."""
        return call_from_anywhere(self._loop, self._change_rights(user_id, how))

    async def _change_rights(self, user_id: Id, how: How) -> int:
        rights = self._provider.sessions.rights
        streams = rights.change(user_id, how)
        request = current_request.get()
        if request is not None:  # an event may change the rights of its own user, and goes on
            context_of(self._provider, request).accept_own_change()
        await rights.tell_others(user_id, how)
        return streams
