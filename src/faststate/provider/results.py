"""The result of an event, as frames for its page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..exceptions import EventDefinitionError
from ..state.events import Event
from ..state.views import render_ft
from ..wire.frames import elements_frame, go_frame

__all__ = ["result_frames", "safe_location"]


def result_frames(event: Event[Any, Any], result: Any) -> bytes:
    """Return the frames (bytes) that show what an event returned or yielded.

    Raises `EventDefinitionError` for what cannot be shown.
    """
    if result is None:
        return b""
    location = getattr(result, "loc", None)
    if hasattr(result, "__response__") and isinstance(location, str):
        return go_frame(safe_location(location))
    parts = result if isinstance(result, tuple | list) else (result,)
    if not all(part is None or hasattr(part, "tag") or hasattr(part, "__ft__") for part in parts):
        raise EventDefinitionError(
            f"the event {event.name} returned {type(result).__name__}: return FT, a Redirect or None"
        )
    if event.selector is None:
        for part in parts:
            if hasattr(part, "tag") and not part.attrs.get("id"):
                raise EventDefinitionError(
                    f"the event {event.name} returned a <{part.tag}> without an id; give it one, or say where it goes: "
                    "@event(selector=…)"
                )
    html = "".join(map(render_ft, parts))
    return elements_frame(html, event.selector, event.mode)


def safe_location(location: str) -> str:
    """Return `location` if a browser may be sent there: a path or an http(s) URL. Raises `EventDefinitionError`."""
    try:
        parts = urlsplit(location.strip())
    except ValueError as error:
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL") from error
    if parts.scheme not in ("", "http", "https") or any(ord(c) < 32 for c in location):
        raise EventDefinitionError("a Redirect goes to a path or an http(s) URL")
    return location.strip()
