"""The content of one page, and the elements that make it follow its states: seeded signals, watch token, stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastcore.xml import Safe

from ..auth.tokens import ShownState
from ..auth.users import UserContext
from ..registry.registry import StateRegistry
from ..scopes import StateScope
from ..state.reactive import ReactiveState
from ..state.views import attribute, quoted
from ..wire.values import attribute_json, nest
from .page_tokens import PageTokens

# Signals of the library, in `_fs`; the underscore keeps them out of what Datastar sends of its own accord.
#   u: URL that the library's routes begin with    c: id of the open stream      n: stream position at first paint
#   w: watch tokens                                err: message to show          ok: nonce of the last acknowledged form
#   q: number of the last event sent               status: HTTP status of the last refusal, else 0
#   go: URL to go to                               k(): a new nonce              o(p, n): options of an event's request
#   f(): open the stream, which follows what the page shows
#   v: version of the state that the last event which expected one has left or found
# The client does not retry requests, and they carry a nonce: an event happens once.
_OPTIONS: Final = (
    "(p,n)=>($_fs.err='',$_fs.status=0,{payload:{...p,"
    "s:p.s&&Object.fromEntries(p.s.filter(k=>k in $).map(k=>[k,$[k]])),"
    "w:Object.values($_fs.w),q:++$_fs.q},headers:{'FastState-Nonce':n||$_fs.k(),'FastState-Connection':$_fs.c},"
    "requestCancellation:'disabled',retryMaxCount:0})"
)
# crypto.randomUUID exists on secure origins only, and apps are tried out over plain HTTP.
_NONCE: Final = "()=>[...crypto.getRandomValues(new Uint8Array(12))].map(b=>b.toString(16).padStart(2,'0')).join('')"
# A page has one stream: the document knows how to end it, and the next one takes its place. It is opened by POST, since
# the tokens of many fragments are longer than a URL may be (8 KB in nginx). A hidden tab closes its stream. Fragments
# may come faster than streams can be opened, so at most four are opened in a second; the old stream goes on meanwhile.
_FOLLOW: Final = (
    "(o=>()=>document.fsStream?document.fsNext??=setTimeout(o,250):o())"
    "(()=>(document.fsNext=null,document.fsStream?.abort(),@post($_fs.u+'stream',{payload:{w:Object.values($_fs.w),n:$_fs.n},"
    "requestCancellation:document.fsStream=new AbortController(),openWhenHidden:false,"
    "retry:'always',retryMaxWait:5000,retryMaxCount:1000000000})))"
)
# At most one reload in ten seconds: a page that is told to reload each time (by a loader that knows the user on one
# path and not on another) must not do it forever. Where cookies are refused, sessionStorage raises.
# The stream is opened outside the effect, which would otherwise depend on all signals that the request reads.
_GO: Final = (
    "$_fs.go==='#reopen'?($_fs.go='',setTimeout(()=>$_fs.f())):"
    "$_fs.go&&($_fs.go!=='#reload'?location.assign($_fs.go)"
    ":(()=>{try{return Date.now()-(+sessionStorage.getItem('faststate-reload')||0)>10000"
    "&&(sessionStorage.setItem('faststate-reload',Date.now()),true)}catch{return false}})()?location.reload()"
    ":($_fs.err='This page is out of date. Please load it again.'),$_fs.go='')"
)
# A tab that is closed says so, for its TEMPORARY states; a tab that the browser may bring back as it was does not.
_LEAVE: Final = "evt.persisted||navigator.sendBeacon($_fs.u+'leave',JSON.stringify({w:Object.values($_fs.w)}))"
# If a stream is refused, the page says so and opens it again after a while: a proxy that refuses the body, or a limit,
# would give the same answer at once. The errors of a server that is being replaced (404, 405, 5xx) are soon over, and
# Datastar tries again within seconds. Several live elements hear of each answer; the first one handles it.
_REFUSED: Final = (
    "evt.detail.fs||(evt.detail.fs=1,evt.detail.type==='error'?"
    "/^4(?!0[458])/.test(evt.detail.argsRaw.status)&&((c,s)=>(document.fsRefused=$_fs.err="
    "s==='429'?'Too many pages are open, or were opened at once: this one does not show changes just now.'"
    ":'This page does not show changes: the server refused that ('+s+'). Please load it again.',"
    "setTimeout(()=>c.abort()),setTimeout(()=>document.fsStream===c&&$_fs.f(),s==='429'?15000:60000)"
    "))(document.fsStream,evt.detail.argsRaw.status)"
    ":evt.detail.type.startsWith('datastar')&&document.fsRefused"
    "&&($_fs.err===document.fsRefused&&($_fs.err=''),document.fsRefused=''))"
)
_FAILED: Final = (
    f"evt.detail.el.matches('[data-fs-live]')?{_REFUSED}:"
    "(evt.detail.type==='retries-failed'&&($_fs.err='The server could not be reached. Please look whether this was '"
    "+'done before you try again.'),"
    "evt.detail.type==='error'&&($_fs.err='The server refused this ('+evt.detail.argsRaw.status+').'))"
)
# The parts that are the same on every page are text, made when this module is loaded. As FT elements, made and rendered
# for each page, the live element and the seeded signals took 134 of a small page's 1,070 µs; this way they take 43.
_OWN: Final = quoted(f"c:'',err:'',status:0,ok:'',v:'',go:'',q:0,k:{_NONCE},o:{_OPTIONS},f:{_FOLLOW}")
_FOLLOWS: Final = " ".join(
    (attribute("data-effect", _GO), attribute("data-on:datastar-fetch", _FAILED), attribute("data-init", "$_fs.f()"))
)
_LEAVES: Final = " " + attribute("data-on:pagehide__window", _LEAVE)
# A style attribute would be forbidden by a strict Content-Security-Policy; styles that Datastar sets from an expression
# are allowed. `display` shows and hides the toast, since any `display` in the app's stylesheet overrides `hidden`.
_TOAST_STYLE: Final = (
    "{display:$_fs.err&&el===document.querySelector('.faststate-toast')?'':'none',position:'fixed',bottom:'1rem',"
    "left:'50%',transform:'translateX(-50%)',width:'max-content','max-width':'90vw',padding:'.75rem 1.25rem',"
    "'border-radius':'.5rem',background:'#7a1420',color:'#fff','box-shadow':'0 2px 12px rgba(0,0,0,.3)','z-index':9999,"
    "cursor:'pointer'}"
)
_TOAST: Final = (
    '<div class="faststate-toast" role="alert" hidden data-attr:hidden="false" '  # hidden until Datastar is there
    f"""data-text="$_fs.err" {attribute("data-style", _TOAST_STYLE)} data-on:click="$_fs.err=''"></div>"""
)


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

    def signals(self) -> dict[str, Any]:
        """Return the signals (nested dict of wire values) of all states that the page shows."""
        merged: dict[str, Any] = {}
        for state in self.states.values():
            committed = state._committed
            for name, values in nest(committed.namespace, committed.encoded).items():
                merged.setdefault(name, {}).update(values)
        return merged

    def live_element(self) -> LiveElement:
        """Return the element that makes the page follow what it shows; it is rendered last, so that it knows all."""
        self.live_added = True
        return LiveElement(self, with_signals=True)

    def watched(self) -> dict[str, str]:
        """Return the page's watch token, by its name in `_fs.w`."""
        return self._tokens.signed(self.bound_to, tuple(self.shown()))


class LiveElement:
    """The element that makes a page live, an FT child at its end. Lifetime: one request.

    `with_signals` also seeds the states' signals, if there is no `SeedElement` in the head.
    """

    def __init__(self, page: PageContent, with_signals: bool, script: str | None = None) -> None:
        self._page = page
        self._with_signals = with_signals
        self._script = script

    def __html__(self) -> str:
        page = self._page
        own = f"{{_fs:{{u:{attribute_json(page.url)},n:{attribute_json(page.position())},"
        watched = {"_fs": {"w": page.watched()}}
        signals = attribute_json({**page.signals(), **watched} if self._with_signals else watched)
        is_temporary = any(s._committed.identifier.scope is StateScope.TEMPORARY for s in page.states.values())
        live = (
            f"<div data-fs-live data-signals__ifmissing='{quoted(own)}{_OWN}}}}}' data-signals='{quoted(signals)}' "
            f"{_FOLLOWS}{_LEAVES if is_temporary else ''}>{_TOAST}</div>"
        )
        return f"<div>{script_element(self._script)}{live}</div>" if self._script else live

    def __ft__(self) -> Safe:
        return Safe(self.__html__())

    __str__ = __html__


class SeedElement:
    """The element that seeds the signals of a page's states, before all that reads them. Lifetime: one request."""

    def __init__(self, page: PageContent) -> None:
        self._page = page

    def __html__(self) -> str:
        return f'<meta name="faststate" {attribute("data-signals", attribute_json(self._page.signals()))}>'

    def __ft__(self) -> Safe:
        return Safe(self.__html__())

    __str__ = __html__


def script_element(source: str) -> Safe:
    """Return the script element (markup) that loads Datastar."""
    return Safe(f'<script type="module" {attribute("src", source)}></script>')
