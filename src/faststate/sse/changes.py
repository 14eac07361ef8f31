"""Changes: what commits have changed of one state, and the frames that tell pages so, made once for each audience.

An audience is what a connection shows of a state and may see of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from ..redaction import loggable
from ..state.reactive import ReactiveState
from ..state.schema import EVERYTHING_SHOWN
from ..wire.frames import patch_frame, replacing_frame, view_frame, view_placeholder
from ..wire.values import merge_patch, same

logger = logging.getLogger("faststate")


@dataclass(eq=False, slots=True)
class Audience:
    """The followers of one state who are sent the same bytes: the `views` they show, the fields `hidden` from them.

    Compared by identity: `audience_of` returns one object for all that are alike. Lifetime: the cache of `audience_of`,
    or the connections.
    """

    views: frozenset[str]
    hidden: frozenset[str]


@lru_cache(maxsize=1024)
def audience_of(views: frozenset[str] = frozenset(), hidden: frozenset[str] = EVERYTHING_SHOWN) -> Audience:
    """Return the audience of these views and hidden fields: one object for all connections that are alike."""
    return Audience(views, hidden)


class CommitLike(Protocol):
    """A commit, as the fan-out needs it: the state's key, the snapshots around it, and the signals that changed.

    `frame` is the encoded `delta` (bytes), if somebody has encoded it already.
    """

    key: str
    old: ReactiveState
    new: ReactiveState
    delta: dict[str, Any]
    frame: bytes | None


class Changes:
    """The difference that successive commits have made to one state, with its frames. Lifetime: until all are sent.

    `old` is the snapshot before the first of them, `new` the one after the last.
    """

    __slots__ = ("_delta", "_frames", "_whole", "new", "old")

    def __init__(
        self,
        old: ReactiveState,
        new: ReactiveState,
        delta: Mapping[str, Any] | None = None,
        whole: bytes | None = None,
    ) -> None:
        self.old = old
        self.new = new
        self._delta = delta
        self._whole = whole  # the frame of the whole delta, if it was encoded before
        self._frames: dict[Audience, bytes] = {}

    @property
    def delta(self) -> Mapping[str, Any]:
        """The signals that differ (name to wire value, dicts as merge patches)."""
        if self._delta is None:
            old, new = self.old._committed.encoded, self.new._committed.encoded
            self._delta = {
                name: merge_patch(old.get(name), value)
                for name, value in new.items()
                if name not in old or not same(old[name], value)
            }
        return self._delta

    def frame(self, audience: Audience, echo: Mapping[str, Any] | None = None) -> bytes:
        """Return the frames (bytes) for pages of this audience that show `old`; empty if they would show nothing new.

        `echo` holds the fields (name to wire value) that the page has set itself and need not be told.
        """
        frame = self._frames.get(audience) if not echo else None
        if frame is None:
            views, hidden = audience.views, audience.hidden
            if self._whole is not None and not hidden and not echo:
                frame = self._whole
            else:
                new, delta = self.new._committed, self.delta
                if hidden:
                    delta = {name: value for name, value in delta.items() if name not in hidden}
                if echo:
                    # The page set these itself: sending them back would overwrite what is being typed by now.
                    delta = {name: value for name, value in delta.items() if name not in echo or echo[name] != value}
                frame = patch_frame(new.namespace, self.old._committed.encoded, delta, new.encoded)
            if views:
                frame += _view_frames(self.new._seen(hidden), views, self.old._seen(hidden)._committed.views)
            if not echo:
                self._frames[audience] = frame
        return frame


def snapshot_frame(state: ReactiveState, views: frozenset[str], *, keep: bool = False) -> bytes:
    """Return the frames (bytes) that bring a page to `state`, whatever it shows.

    With `keep` they are kept for others: they are made once per commit and set of views. Most states have one page,
    which opens its stream once; keeping them would cost 300 bytes and more for each.
    """
    committed = state._committed
    frame = committed.frames.get(views)
    if frame is None:
        frame = replacing_frame(committed.namespace, committed.encoded) + _view_frames(state, views)
        if keep:
            committed.frames = {**committed.frames, views: frame}
    return frame


def _view_frames(state: ReactiveState, views: Iterable[str], before: Mapping[str, str] | None = None) -> bytes:
    """Return the frames (bytes) that bring these views up to date; without those that are as `before` (HTML by name).

    Without `before` it is not known what a page shows.
    """
    known, namespace = type(state)._fs_schema().views, state._committed.namespace
    frames = []
    for name in sorted(views):
        if name not in known:
            continue
        address = ".".join((*namespace, name))
        try:
            html = state._render(known[name])
        except Exception as error:
            failed = "the view %s failed; pages keep the one they show"
            # The error may quote a value that is hidden in `state`: the full snapshot has it.
            told = loggable(error, state._committed.full or state)
            logger.error(failed, known[name].function.__qualname__, exc_info=told)
            if before is not None or not state._hidden_here:
                continue
            html = view_placeholder(address)  # the page may show one from when its user could see more
        if before is None or before.get(name) != html:
            frames.append(view_frame(address, html))
    return b"".join(frames)
