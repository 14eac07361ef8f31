"""Session cookies: a cookie that was found genuine a moment ago is not verified and read again with each click."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, Final, NamedTuple

from itsdangerous import BadSignature
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._compat.starlette import Session
from ..auth.tokens import LONGEST_KEPT, VerifiedTexts
from .requests import headers_of

COOKIES_KEPT: Final = 4_096
"""Number of cookies that are remembered as genuine; a new one replaces the one known for longest."""

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_MESSAGE: Final = "faststate_session_message"
_SESSION: Final = "faststate_session"
_VARY: Final = (b"vary", b"Cookie")


class _Read(NamedTuple):
    """The content of a genuine cookie: its JSON, and the same as a dict (0.1 µs, not 3.6) if no value can change."""

    text: bytes
    values: dict[str, Any] | None


class RememberingSessionMiddleware(SessionMiddleware):
    """Starlette's session middleware, which reads equal cookies once. Lifetime: the app.

    Only the very same bytes, found genuine with the app's own key, are recognised; their age counts each time, as
    itsdangerous counts it. Whether the session has ended is for others to check. Starlette itself reads all other
    cookies, and writes all cookies.
    """

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        super().__init__(app, *args, **options)
        self._writer = SessionMiddleware(_send_again, *args, **options)
        # By all cookies of a request.
        self._verified: VerifiedTexts[bytes, _Read] = VerifiedTexts(COOKIES_KEPT, self.max_age)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._session(scope) if scope["type"] == "http" else None
        if session is None:
            await super().__call__(scope, receive, send)
            return
        scope["session"] = session

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                now = scope["session"]  # an app may have put another one there
                if now is not session or now.modified:
                    await self._writer({**scope, _SESSION: now, _MESSAGE: message}, receive, send)
                    return
                if now.accessed:
                    headers = message.setdefault("headers", [])
                    if type(headers) is list and all(name != b"vary" for name, _ in headers):
                        message["headers"] = [*headers, _VARY]  # as below, in a tenth of the time
                    else:
                        MutableHeaders(scope=message).add_vary_header("Cookie")
            await send(message)

        await self.app(scope, receive, answer)

    def _session(self, scope: Scope) -> Any:
        """Return the session of a request with a genuine cookie; None if Starlette has to decide."""
        by_name = headers_of(scope)
        cookie = by_name.get(b"cookie")
        if cookie is None:
            return None
        if len(by_name) != len(scope["headers"]) and sum(name == b"cookie" for name, _ in scope["headers"]) > 1:
            return None
        read = self._verified.get(cookie)
        if read is None and (read := self._read(scope, cookie)) is None:
            return None
        return Session(json.loads(read.text) if read.values is None else read.values)

    def _read(self, scope: Scope, cookies: bytes) -> _Read | None:
        signed = HTTPConnection(scope).cookies.get(self.session_cookie)
        if signed is None or len(cookies) > LONGEST_KEPT:
            return None
        try:
            data, when = self.signer.unsign(signed.encode(), max_age=self.max_age, return_timestamp=True)
        except BadSignature:
            return None
        text = b64decode(data)
        values = json.loads(text)
        is_plain = isinstance(values, dict) and _PLAIN.issuperset(map(type, values.values()))
        read = _Read(text, values if is_plain else None)
        if scope["method"] == "POST":  # a visitor who clicks will click again; after a page and its stream most wait
            self._verified.keep(cookies, read, int(when.timestamp()))
        return read


async def _send_again(scope: Scope, receive: Receive, send: Send) -> None:
    """The app inside the middleware that writes cookies: its whole answer is the message that was held back."""
    scope["session"] = scope[_SESSION]
    await send(scope[_MESSAGE])
