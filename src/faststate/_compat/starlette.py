"""Names of Starlette that its documentation does not mention."""

from __future__ import annotations

from typing import Any

from starlette.middleware import sessions
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

Session: Any = getattr(sessions, "Session", None)
"""The class of a request's session: a dict that notes in `accessed` and `modified` what became of it."""


def knows_sessions() -> bool:
    """Tell whether this Starlette reads and writes session cookies in the way that is known here.

    Without it, Starlette's own middleware verifies and reads the cookie of each click again (19 µs).
    """
    own = SessionMiddleware(_nothing, "secret")
    has_all = all(hasattr(own, name) for name in ("signer", "session_cookie", "max_age"))
    return has_all and hasattr(Session, "accessed") and hasattr(Session, "modified")


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


def is_only_exceptions(app: ASGIApp, inner: ASGIApp) -> bool:
    """Tell whether `app` is Starlette's layer that handles exceptions, directly around `inner`.

    Where Starlette hides what is inside of it, events pass the app's router as all other requests do.
    """
    return isinstance(app, ExceptionMiddleware) and getattr(app, "app", None) is inner


def served_by(route: Any) -> Any:
    """Return the app or endpoint that a route serves, inside the mount's own middleware; None if it serves none.

    Where a mount hides that, its middleware is returned, which has the app in its attribute `app`.
    """
    return getattr(route, "_base_app", None) or getattr(route, "app", None)
