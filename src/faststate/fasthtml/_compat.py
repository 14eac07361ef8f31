"""Private names of FastHTML and the attributes of its elements, and what happens when one is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from fastcore.xml import FT
from fasthtml import core

from ..exceptions import ConfigurationError

logger = logging.getLogger("faststate")

parameters_of: Any = getattr(core, "_params", None)
"""Return the parameters of a function, as FastHTML reads them."""

call_filled: Any = getattr(core, "_wrap_call", None)
"""Call a function with its parameters filled in from a request."""

respond: Any = getattr(core, "_resp", None)
"""Make a response of what a function returned."""

can_fill = parameters_of is not None and call_filled is not None and respond is not None
"""False if one of these three is missing: Beforeware then runs through the app's own endpoints, which adds 45 µs to an
event's 135."""


_HELD: Final = {"tag", "children", "attrs", "void_", "listeners_"}


def knows_elements() -> bool:
    """Tell whether an element of fastcore holds what is known here, and nothing else.

    If not, FastHTML copies the headers of each page by `copy.deepcopy`: 109 of a small page's 1,000 µs instead of 20.
    """
    return bool(vars(FT("p", (), {})).keys() == _HELD)


_NEEDED: Final = (
    "_endp", "after", "before", "bodykw", "build_middleware_stack", "ftrs", "hdrs", "htmlkw", "max_part_size",
    "user_middleware",
)  # fmt: skip


def endpoint_maker(app: Any) -> Callable[..., Any]:
    """Return the method that makes an endpoint of a handler, which every HTTP route passes.

    Raises `ConfigurationError` without it, or if another name is missing that setup and the routes need.
    """
    missing = [f"app.{name}" for name in _NEEDED if not hasattr(app, name)]
    if missing:
        raise ConfigurationError(f"this version of FastHTML is not supported: it has no {', '.join(missing)}")
    made: Callable[..., Any] = app._endp
    return made


def replace_endpoint_maker(app: Any, make: Callable[..., Any]) -> None:
    """Let all later routes of this app, and not of its class, pass `make(function, body_wrap, before=None)`."""
    app._endp = make


def replace_websocket_adder(app: Any, replacement: Callable[..., Callable[..., Any]]) -> None:
    """Let all later websockets of this app pass what `replacement` makes of the method that adds one.

    Without that method websocket handlers are not given states, and a warning says so.
    """
    adder = getattr(app, "_add_ws", None)
    if adder is None:
        logger.warning("websocket handlers get no states: this version of FastHTML has no app._add_ws")
    else:
        app._add_ws = replacement(adder)
