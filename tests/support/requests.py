"""Requests that no server has made."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request


def request_of(session: dict[str, Any] | None = None, path: dict[str, Any] | None = None, **scope: Any) -> Request:
    """Return a request with this session and these path parameters; other keywords go into its scope."""
    session = {"session_id": "s1"} if session is None else session
    return Request(
        {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "session": session,
         "path_params": path or {}, "client": ("127.0.0.1", 1), **scope}
    )  # fmt: skip
