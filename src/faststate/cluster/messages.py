"""The messages that the processes of one app send to each other, and their bytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from ..scopes import Version

logger = logging.getLogger("faststate")

APP: Final = "app"
"""The topic of messages that concern the whole app. No scope has this name."""

ENDED: Final = "ended"
"""Group, and first part of the key, of the notes of ended sessions in a store. No scope has this name."""

How = Literal["disconnect", "refresh"]
"""The effect of a change of rights on the user's pages: they reload, or they open their streams again."""

FORMAT: Final = 1
"""The version of all messages. Raise it when a message changes: during a deploy, processes of both versions run."""


class Typed(NamedTuple):
    """The values, by field, that a page (its connection's id) has typed into the state that its event changed."""

    page: str
    session_id: str | None
    values: Mapping[str, Any]


class StateChanged(NamedTuple):
    """A state in the store changed, from the version `before` (None for not stored yet).

    `together` are the keys of all states of the commit, where it changed several. `frame` brings a page from the old
    signals to the new, and `data` is what is stored now; both are empty where the state is too large to send.
    """

    before: Version | None
    version: Version
    together: tuple[str, ...] = ()
    typed: Typed | None = None
    frame: bytes = b""
    data: bytes = b""


class RowChanged(NamedTuple):
    """A row changed, and has to be loaded again; `version` is None where nobody knows it."""

    version: Version | None
    typed: Typed | None = None


class StateRemoved(NamedTuple):
    """A state was deleted."""


class Broadcast(NamedTuple):
    """Values, by field, to send to the followers of a state, but for those of one user."""

    values: Mapping[str, Any]
    but_user: str | None


class ShowState(NamedTuple):
    """A page (its connection's id) has to be sent the state as it is."""

    page: str | None
    session_id: str | None


class SessionEnded(NamedTuple):
    """A session ended: the `note` of it that a store keeps, for `ttl` more seconds (None for ever)."""

    session_id: str
    note: str
    ttl: float | None


class ReloadPages(NamedTuple):
    """The pages of a session have to load themselves again."""

    session_id: str


class RightsChanged(NamedTuple):
    """A user's rights changed."""

    user_id: str
    how: How


class ProcessStats(NamedTuple):
    """The counters of a process, by name, with its registry's epoch."""

    process: str
    stats: Mapping[str, Any]


StateMessage = StateChanged | RowChanged | StateRemoved | Broadcast | ShowState
AppMessage = SessionEnded | ReloadPages | RightsChanged

_KINDS: Final[Mapping[str, type[StateMessage | AppMessage]]] = {
    "changed": StateChanged,
    "row": RowChanged,
    "removed": StateRemoved,
    "broadcast": Broadcast,
    "show": ShowState,
    "ended": SessionEnded,
    "reload": ReloadPages,
    "rights": RightsChanged,
}
_NAMES: Final = {cls: name for name, cls in _KINDS.items()}
_BINARY: Final = ("frame", "data")
"""Fields that stand behind the head, as bytes."""

_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "before": lambda found: None if found is None else Version(*found),
    "version": lambda found: None if found is None else Version(*found),
    "together": tuple,
    "typed": lambda found: None if found is None else Typed(*found),
}
"""Functions that make the value of a field from its JSON."""


def encode(message: StateMessage | AppMessage) -> bytes:
    """Return a message's bytes: a head of JSON, a line break, and the parts that are bytes already."""
    fields = message._asdict()
    parts = [fields.pop(name) for name in _BINARY if name in fields]
    head = {"v": FORMAT, "kind": _NAMES[type(message)], **fields}
    if parts:
        head["sizes"] = [len(part) for part in parts]
    return b"\n".join((json.dumps(head).encode(), b"".join(parts)))


def decode(body: bytes) -> StateMessage | AppMessage | None:
    """Return the message with these bytes; None, with a line in the log, for one that this version does not know."""
    first, _, rest = body.partition(b"\n")
    try:
        head = json.loads(first)
        version, kind = head.pop("v", None), head.pop("kind", None)
        if version != FORMAT or kind not in _KINDS:
            logger.warning(
                "a message of kind %.40r, version %.40r is passed over: another version of the app has sent it",
                kind, version,
            )  # fmt: skip
            return None
        at = 0
        for name, size in zip(_BINARY, head.pop("sizes", ()), strict=False):
            head[name], at = rest[at : at + size], at + size
        for name in head.keys() & _READERS.keys():
            head[name] = _READERS[name](head[name])
        return _KINDS[kind](**head)
    except Exception as error:
        logger.warning("a message that cannot be read is passed over: %s", type(error).__name__)
        return None


def encode_stats(stats: ProcessStats) -> bytes:
    """Return a process's counters as bytes."""
    return json.dumps({"v": FORMAT, **stats._asdict()}).encode()


def decode_stats(body: bytes) -> ProcessStats | None:
    """Return a process's counters; None if another version of the app has written them."""
    try:
        found = json.loads(body)
        return ProcessStats(str(found["process"]), dict(found["stats"])) if found["v"] == FORMAT else None
    except Exception:
        return None
