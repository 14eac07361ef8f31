"""Answers: an event's, a refusal that the page shows, and errors as responses."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ..exceptions import (
    AuthenticationError,
    BackendError,
    EventTimeoutError,
    FastStateError,
    LockTimeoutError,
    PersistenceError,
    RowUnreadableError,
)
from ..provider.provider import StateProvider
from ..wire.frames import go_frame, message_frame

logger = logging.getLogger("faststate")

SSE_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
}
BUSY: Final = "The server is restarting. Please try again."
BROKEN: Final = "Something went wrong on the server. Nothing was changed."
_UNREAD: Final = "This page cannot be shown just now. Please try again later."
_UNREADABLE: Final = "This record cannot be shown or changed: its stored data does not fit. Nothing was changed."
_MESSAGES: Final[dict[type[FastStateError], str]] = {
    EventTimeoutError: "This took too long and was stopped. Please try again.",
    LockTimeoutError: "The server is busy just now. Please try again.",
    RowUnreadableError: _UNREADABLE,
    PersistenceError: "This could not be saved. Please try again.",
}
"""Messages for pages, in place of those errors whose own message is for the log."""


AGAIN: Final = 1
"""Seconds after which a page sends an event again that was not run."""

_NOT_KEPT: Final = (b"cache-control", b"no-store")

_OF_FRAMES: Final = [(name.lower().encode(), value.encode()) for name, value in SSE_HEADERS.items()]


class EventResponse(Response):
    """The answer to an event: 204, or SSE that says what happened; `FastState-Status` holds the status meant.

    `after` is given if the event was not run: the page sends it again after so many seconds.
    """

    def __init__(self, frames: bytes = b"", status: int | None = None, after: int | None = None) -> None:
        # Set here, since Starlette's constructor takes 4.7 µs, and an event ends with one of two lists of headers.
        self.status_code, self.body, self.background = 200 if frames else 204, frames, None
        self.raw_headers = [*_OF_FRAMES, (b"content-length", b"%d" % len(frames))] if frames else [_NOT_KEPT]
        self.meant, self.after = status or 204, after
        if status is not None:
            self.raw_headers.append((b"faststate-status", b"%d" % status))
        if after is not None:
            self.raw_headers.append((b"retry-after", b"%d" % after))


def refused_response(error: FastStateError, frames: bytes = b"") -> EventResponse:
    """Say in the page what was refused, behind the `frames` (bytes) of what was committed before."""
    if error.status < 500:
        message = str(error)
    else:
        fallback = BUSY if error.status == 503 else BROKEN
        message = next((text for kind, text in _MESSAGES.items() if isinstance(error, kind)), fallback)
    after = AGAIN if error.send_again else None
    return EventResponse(frames + message_frame(message, error.status), error.status, after)


async def error_response(provider: StateProvider, connection: HTTPConnection, error: Exception) -> Any:
    """Answer the error of a page's handler, or close its websocket. Errors of the server itself (500) are raised."""
    status = getattr(error, "status", 500)
    if connection.scope["type"] == "websocket":
        if status >= 500:  # nobody else would say what closed it
            logger.error("a websocket was closed: %s", error, exc_info=error)
        await connection.close(1008 if status < 500 else 1011)  # type: ignore[attr-defined]  # a WebSocket has it
        return None
    if status >= 500 and status != 503:
        raise error
    if isinstance(error, BackendError):
        logger.error("%s", error, exc_info=error)
    if isinstance(error, AuthenticationError) and provider.options.login_route is not None:
        return _to_login(provider.options.login_route, connection)
    busy = _UNREAD if isinstance(error, PersistenceError) else BUSY
    busy = _UNREADABLE if isinstance(error, RowUnreadableError) else busy
    return PlainTextResponse(str(error) if status < 500 else busy, status)


def _to_login(route: str, connection: HTTPConnection) -> Response:
    """Send a page's visitor to sign in, in the form that the sender of the request understands."""
    location = connection.scope.get("root_path", "") + route
    path, query = connection.scope["path"], connection.scope["query_string"].decode("latin-1")
    if path == location:
        return PlainTextResponse("The page to sign in asks for a state that needs somebody signed in.", 401)
    if "datastar-request" in connection.headers:
        return EventResponse(go_frame(location), 401)
    if "hx-request" in connection.headers:
        return Response(status_code=401, headers={"hx-redirect": location})
    if connection.scope["method"] in ("GET", "HEAD"):
        asked = quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
        location += "?" + urlencode({"next": asked})
    return RedirectResponse(location, 303)
