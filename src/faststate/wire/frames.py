"""Frames: SSE events (bytes) that patch a page's signals and elements. They take names and values, and know no state.

The event types and their lines are Datastar 1.0's: https://data-star.dev/reference/sse_events
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from datastar_py import ServerSentEventGenerator as SSE
from datastar_py.consts import ElementPatchMode

from .values import nest, patch_steps, to_json

VIEW_ATTRIBUTE: Final = "data-fs-view"
"""The attribute of a view's root element that holds the view's address: namespace and name, joined by dots."""

WORD: Final = "faststate-word"
"""Type of the event in an answer that says what the fields are that were sent."""

RELOAD: Final = "#reload"
"""Value of the signal `_fs.go` that makes the page reload itself."""

OUTDATED: Final = "#outdated"
"""Value of the signal `_fs.go` that makes a page from before a deploy reload itself, once."""

REOPEN: Final = "#reopen"
"""Value of the signal `_fs.go` that makes the page open its stream again, as a page that has seen nothing yet."""

# The text around the JSON, as datastar-py writes it. Our JSON is one line of ASCII.
_MERGE, _MERGED = SSE.patch_signals("{}").encode().split(b"{}")

_LINE_ENDS: Final = re.compile("\r\n|\r|\n")


def signals_frame(signals: Mapping[str, Any]) -> bytes:
    """Make the event that merges `signals`, a nested dict of wire values."""
    return b"".join((_MERGE, to_json(signals).encode(), _MERGED))


def patch_frame(
    path: tuple[str, ...], old: Mapping[str, Any], delta: Mapping[str, Any], new: Mapping[str, Any]
) -> bytes:
    """Make the events that bring the signals under `path` from `old` to `new`; `delta` is the difference."""
    return b"".join([signals_frame(nest(path, step)) for step in patch_steps(old, delta, new)])


def replacing_frame(path: tuple[str, ...], values: Mapping[str, Any]) -> bytes:
    """Make the events that bring the signals under `path` to `values`, whatever the page holds."""
    # Datastar merges dicts: a signal that holds one is cleared first, so that no removed key stays.
    stale = {name: "" for name, value in values.items() if isinstance(value, dict)}
    return b"".join([signals_frame(nest(path, step)) for step in (stale, values) if step])


def elements_frame(html: str, selector: str | None = None, mode: str | None = None) -> bytes:
    """Make the event that patches `html` in: by its id, or at `selector` in the way that `mode` says."""
    # Not by datastar-py, which splits at every line end that Python knows: Datastar joins the parts with \n.
    lines = [f"selector {selector}"] if selector else []
    lines += [f"mode {ElementPatchMode(mode).value}"] if mode else []
    lines += [f"elements {line}" for line in _LINE_ENDS.split(html)]
    event = "event: datastar-patch-elements\n" + "".join(f"data: {line}\n" for line in lines)
    return f"{event}\n".encode(errors="replace")


def view_frame(address: str, html: str) -> bytes:
    """Make the event that replaces the view at `address`, wherever it stands in the page."""
    return elements_frame(html, f'[{VIEW_ATTRIBUTE}="{address}"]')


def view_placeholder(address: str) -> str:
    """Return an empty, hidden element (HTML) in place of a view that may not be shown: a later patch finds it there."""
    return f'<span {VIEW_ATTRIBUTE}="{address}" hidden></span>'


def word_frame(path: tuple[str, ...], version: str, values: Mapping[str, Any]) -> bytes:
    """Make the event that says what the bound fields under `path` are in this `version` of their state.

    It is no patch: the page's program decides which of its inputs it corrects.
    """
    said = {"path": list(path), "version": version, "values": values}
    return f"event: {WORD}\ndata: {to_json(said)}\n\n".encode()


def vanish_frame(path: tuple[str, ...], signals: Iterable[str], views: Iterable[str]) -> bytes:
    """Make the events that empty these `signals` under `path` and these `views`."""
    empty = dict.fromkeys(signals, "")
    frame = signals_frame(nest(path, empty)) if empty else b""
    addresses = [".".join((*path, name)) for name in sorted(views)]
    return frame + b"".join([view_frame(address, view_placeholder(address)) for address in addresses])


# -- to the page itself ------------------------------------------------------------------------------------------------


def message_frame(message: str, status: int) -> bytes:
    """Return the frame (bytes) that shows `message` in the page's toast, and the HTTP `status` that it stands for."""
    return signals_frame({"_fs": {"err": message, "status": status}})


def done_frame(nonce: str, status: int, after: int | None = None) -> bytes:
    """Return the frame (bytes) that ends the answer to the event with this nonce, one of several.

    `after` is the number of seconds after which the page sends an event again that was not run.
    """
    told = {"k": nonce, "status": status, **({"after": after} if after is not None else {})}
    return f"event: faststate-done\ndata: {to_json(told)}\n\n".encode()


def go_frame(location: str) -> bytes:
    """Return the frame (bytes) that sends the browser to `location`, a URL."""
    return signals_frame({"_fs": {"go": location}})


def reload_frame() -> bytes:
    """Return the frame (bytes) that makes the page reload itself."""
    return go_frame(RELOAD)


def reopen_frame() -> bytes:
    """Return the frame (bytes) that makes the page open its stream again and receive all that it may see."""
    return signals_frame({"_fs": {"n": "", "go": REOPEN}})
