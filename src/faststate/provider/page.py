"""The content of one page, and the elements that make it follow its states: seeded signals, watch token, stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastcore.xml import Safe

from ..auth.tokens import ShownState
from ..auth.users import UserContext
from ..registry.registry import StateRegistry
from ..scopes import StateScope
from ..state.reactive import ReactiveState
from ..state.views import attribute, quoted
from ..wire.values import attribute_json, nest
from .page_tokens import PageTokens

# Signals of the library, in `_fs`, that a page is given; `client/faststate.js` adds its own. The underscore keeps them
# out of what Datastar sends of its own accord.
#   u: URL that the library's routes begin with    n: stream position at first paint    w: watch tokens
#   d: fingerprints of the classes


class PageContent:
    """The states and views that one page shows. Lifetime: one request.

    `tokens` signs its token. `start` is the number of the last commit when the request came, `url` that of the
    library's routes.
    """

    __slots__ = (
        "_mixed", "_registry", "_start", "_tokens", "bound_to", "live_added", "states", "url", "viewer", "views",
    )  # fmt: skip

    def __init__(self, registry: StateRegistry, tokens: PageTokens, start: int, url: str) -> None:
        self._registry = registry
        self._tokens = tokens
        self._mixed = False
        self._start = start
        self.states: dict[str, ReactiveState] = {}
        self.views: dict[str, set[str]] = {}
        self.viewer: UserContext | None = None
        self.bound_to = ""
        self.url = url
        self.live_added = False

    def show(self, state: ReactiveState, view: str | None = None) -> None:
        """Note that the page shows `state`, and which of its views."""
        key = state._committed.identifier.key
        # If this is another snapshot than the known one, one of the two is old, and the page may show either.
        self._mixed = self._mixed or self.states.setdefault(key, state) is not state
        if view is not None:
            self.views.setdefault(key, set()).add(view)

    def refresh(self, asked: Mapping[str, ReactiveState]) -> None:
        """Take all states as they are at this moment, so that no page shows half of an event that changes two of them.

        For a state in `asked` (by key), this user may see that snapshot only, and it stays.
        """
        kept = {key: state._seen_by(self.viewer) for key, state in asked.items()}
        current = {key: kept.get(key) or self._latest(key) or state for key, state in self.states.items()}
        self._mixed = self._mixed or any(current[key] is not state for key, state in self.states.items())
        self.states = current

    def _latest(self, key: str) -> ReactiveState | None:
        state = self._registry.peek(key)
        return state._seen_by(self.viewer) if state is not None else None

    def position(self) -> str:
        """Return the stream id (str) after which the page must be told of changes."""
        current = not self._mixed and all(self._latest(key) is state for key, state in self.states.items())
        return f"{self._registry.epoch}.{self._registry.commits if current else self._start}"

    def shown(self) -> Iterator[ShownState]:
        """Return what the page shows, for its token."""
        for key, state in self.states.items():
            identifier = state._committed.identifier
            yield ShownState(identifier.cls_name, identifier.instance_id, tuple(sorted(self.views.get(key, ()))))

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each class that the page shows, by its name there."""
        classes = {state._committed.identifier.cls_name: type(state) for state in self.states.values()}
        return {name: (cls._full_class or cls)._fs_schema().fingerprint for name, cls in classes.items()}

    def signals(self) -> dict[str, Any]:
        """Return the signals (nested dict of wire values) of all states that the page shows."""
        merged: dict[str, Any] = {}
        for state in self.states.values():
            committed = state._committed
            for name, values in nest(committed.namespace, committed.encoded).items():
                merged.setdefault(name, {}).update(values)
        return merged

    def live_element(self, script: PageScript | None = None) -> LiveElement:
        """Return the element that makes the page follow what it shows; it is rendered last, so that it knows all.

        It brings the `script` along, for a page whose head does not.
        """
        self.live_added = True
        return LiveElement(self, with_signals=True, script=script)

    def watched(self) -> dict[str, str]:
        """Return the page's watch token, by its name in `_fs.w`."""
        return self._tokens.signed(self.bound_to, tuple(self.shown()))


class PageScript(NamedTuple):
    """The script with which a page is live: URLs (str) of the page's program and of Datastar.

    `offline` is what the page says when it has lost the server: None for the program's own words, "" for nothing.
    """

    client: str
    datastar: str
    offline: str | None = None

    def __html__(self) -> str:
        offline = f" {attribute('data-offline', self.offline)}" if self.offline is not None else ""
        client, datastar = attribute("src", self.client), attribute("data-datastar", self.datastar)
        return f'<script type="module" {client} {datastar}{offline}></script>'

    def __ft__(self) -> Safe:
        return Safe(self.__html__())


class LiveElement:
    """The element that makes a page live, an FT child at its end. Lifetime: one request.

    `with_signals` also seeds the states' signals, if there is no `SeedElement` in the head.
    """

    def __init__(self, page: PageContent, with_signals: bool, script: PageScript | None = None) -> None:
        self._page = page
        self._with_signals = with_signals
        self._script = script

    def __html__(self) -> str:
        page = self._page
        # The first live element of a page says where it stands: a fragment that comes later is newer than the page.
        own = f"{{_fs:{{u:{attribute_json(page.url)},n:{attribute_json(page.position())}}}}}"
        tokens = page.watched()
        watched = {"_fs": {"w": tokens, "d": page.fingerprints()}}
        # Its value changes with what the page shows, since Datastar looks again only at attributes that have changed.
        follows = attribute("data-fs-live", " ".join(tokens))
        signals = attribute_json({**page.signals(), **watched} if self._with_signals else watched)
        is_temporary = any(s._committed.identifier.scope is StateScope.TEMPORARY for s in page.states.values())
        live = (
            f"<div {follows}{' data-fs-leave' if is_temporary else ''} data-signals__ifmissing='{quoted(own)}' "
            f"data-signals='{quoted(signals)}' hidden></div>"
        )
        return f"<div>{self._script.__html__()}{live}</div>" if self._script else live

    def __ft__(self) -> Safe:
        return Safe(self.__html__())

    __str__ = __html__


class SeedElement:
    """The element that seeds the signals of a page's states, before all that reads them. Lifetime: one request."""

    def __init__(self, page: PageContent) -> None:
        self._page = page

    def __html__(self) -> str:
        return f'<meta name="faststate" data-fs-seed {attribute("data-signals", attribute_json(self._page.signals()))}>'

    def __ft__(self) -> Safe:
        return Safe(self.__html__())

    __str__ = __html__
