"""Frames: the bytes that bring a page from one snapshot to another, made once and shared by all who need them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from starlette.types import Message

from ..redaction import told_of
from ..state.reactive import ReactiveState
from ..state.schema import EVERYTHING_SHOWN, Schema
from ..state.views import ATTRIBUTE
from ..wire.values import elements_frame, merge_patch, nest, patch_frame, same, signals_frame

__all__ = ["Audience", "Changes", "Chunk", "CommitLike", "audience_of", "snapshot_frame", "vanish_frame"]

logger = logging.getLogger("faststate")


class CommitLike(Protocol):
    """What the fan-out needs of a commit: the state's key, the snapshots around it, and the signals that changed.

    `frame` is what says so (bytes), where that was encoded already.
    """

    key: str
    old: ReactiveState
    new: ReactiveState
    delta: dict[str, Any]
    frame: bytes | None


class Audience:
    """What followers of one state have in common who are sent the same bytes: the `views` they show, what is `hidden`
    from them. Compared as an object, not by what is in it: `audience_of` has one for all that are alike."""

    __slots__ = ("hidden", "views")

    def __init__(self, views: frozenset[str], hidden: frozenset[str]) -> None:
        self.views = views
        self.hidden = hidden


@lru_cache(maxsize=1024)
def audience_of(views: frozenset[str] = frozenset(), hidden: frozenset[str] = EVERYTHING_SHOWN) -> Audience:
    """The audience of these views and hidden fields: one object for all connections that are alike."""
    return Audience(views, hidden)


class Chunk:
    """What is written to many connections: the `body` (bytes) of a `message` of ASGI's, and the same `framed`.

    That is one chunk of HTTP/1.1's chunked transfer coding (RFC 9112, 7.1).
    """

    __slots__ = ("body", "framed", "message")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.message: Message = {"type": "http.response.body", "body": body, "more_body": True}
        self.framed = b"%x\r\n%b\r\n" % (len(body), body)


class Changes:
    """What commits in a row have changed of one state, and the frames that say so. Lifetime: until all have been sent.

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
        self._whole = whole  # all that differs, as a frame, where it was encoded before
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
        """The frames (bytes) for pages of this audience that show `old`; empty where they would show nothing new.

        `echo` are the fields (name to wire value) which the page itself has set, and need not be told.
        """
        frame = self._frames.get(audience) if not echo else None
        if frame is None:
            views, hidden = audience.views, audience.hidden
            new = self.new._committed
            if self._whole is not None and not hidden and not echo:
                frame = self._whole
            else:
                delta: Mapping[str, Any] = self.delta
                if hidden:
                    delta = {name: value for name, value in delta.items() if name not in hidden}
                if echo:
                    # The page set these itself: sending them back would overwrite what is being typed by now.
                    delta = {name: value for name, value in delta.items() if name not in echo or echo[name] != value}
                frame = patch_frame(new.namespace, self.old._committed.encoded, delta, new.encoded)
            frame += self._view_frames(views, hidden) if views else b""
            if not echo:
                self._frames[audience] = frame
        return frame

    def _view_frames(self, views: frozenset[str], hidden: frozenset[str]) -> bytes:
        known = type(self.new)._fs_schema().views
        state = self.new._seen(hidden)
        before = self.old._seen(hidden)._committed.views
        frames = []
        for name in sorted(views):
            if name not in known:
                continue
            try:
                html = state._render(known[name])
            except Exception as error:
                failed = "the view %s failed; pages keep the one they show"
                logger.error(failed, known[name].function.__qualname__, exc_info=told_of(error, self.new))
                continue
            if before.get(name) != html:
                frames.append(_view_frame(state, name, html))
        return b"".join(frames)


def _view_frame(state: ReactiveState, name: str, html: str) -> bytes:
    return elements_frame(html, f'[{ATTRIBUTE}="{".".join((*state._committed.namespace, name))}"]')


def snapshot_frame(state: ReactiveState, views: frozenset[str], *, keep: bool = False) -> bytes:
    """The frames (bytes) that bring a page to `state`, whatever it shows.

    With `keep` others will want the same: they are made once per commit and set of views. Most states have one page,
    which opens its stream once, and would have 300 bytes kept for it and more.
    """
    committed = state._committed
    frame = committed.frames.get(views)
    if frame is None:
        path = committed.namespace
        # Datastar merges dicts: what such a signal holds is cleared first, so that removed keys are gone.
        stale = {name: "" for name, value in committed.encoded.items() if isinstance(value, dict)}
        frame = signals_frame(nest(path, stale)) if stale else b""
        if committed.encoded:
            frame += signals_frame(nest(path, committed.encoded))
        frame += _all_view_frames(state, views)
        if keep:
            committed.frames = {**committed.frames, views: frame}
    return frame


def _all_view_frames(state: ReactiveState, views: Iterable[str]) -> bytes:
    """Frames (bytes) that bring the named views of `state` up to date wherever they stand in the page."""
    known = type(state)._fs_schema().views
    frames = []
    for name in sorted(views):
        if name in known:
            try:
                html = state._render(known[name])
            except Exception as error:
                failed = "the view %s.%s failed; pages keep the one they show"
                logger.error(failed, type(state).__name__, name, exc_info=told_of(error, state))
                if not state._hidden_here:
                    continue
                # What such a page shows may be from when its user could see more.
                html = _placeholder(".".join((*state._committed.namespace, name)))
            frames.append(_view_frame(state, name, html))
    return b"".join(frames)


def vanish_frame(schema: Schema, namespace: tuple[str, ...], views: Iterable[str]) -> bytes:
    """The frames (bytes) after which a page shows nothing more of a state: empty signals, and nothing in its views."""
    frame = signals_frame(nest(namespace, dict.fromkeys(schema.signals, ""))) if schema.signals else b""
    for name in sorted(views):
        address = f"{'.'.join(namespace)}.{name}"
        frame += elements_frame(_placeholder(address), f'[{ATTRIBUTE}="{address}"]')
    return frame


def _placeholder(address: str) -> str:
    """What keeps the place of a view that may not be shown; it comes to life again with the right."""
    return f'<span {ATTRIBUTE}="{address}" hidden></span>'
