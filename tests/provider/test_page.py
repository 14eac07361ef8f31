"""The parts of a page: signals seeded before their use, a token that names what it shows, a position to resume from."""

import json
import re
from typing import Annotated

import pytest
from fasthtml import common as fh
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from faststate import Bound, Component, ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view
from faststate.client.modules import entry_name
from faststate.provider.context import RequestContext
from faststate.provider.page import LiveElement, SeedElement
from tests.support.client import BROWSER, Page, elements_of, patched_signals
from tests.support.requests import request_of
from tests.support.states import set_fields

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Counter(ReactiveState):
    count: int = 0
    text: str = ""

    @event
    def add(self):
        self.count += 1


class Side(ReactiveState):
    count: int = 0

    @view
    def box(self):
        return fh.B(self.count)


class Total(ReactiveState):
    count: int = 0


@pytest.fixture
async def provider():
    made = StateProvider(secret_key="for tests")
    made.register_state(Counter)
    made.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
    made.register_state(Total, StateConfig(scope=StateScope.GLOBAL))
    yield made
    await made.stop()


def context_of(provider, session="abc", **scope):
    """The context of a request of `session`."""
    made = RequestContext(provider, request_of({"session_id": session}, **scope))
    made.connection.scope["faststate"] = made
    return made


async def show(context, cls, **ids):
    return await context.provider.get_state(cls, context.connection, **ids)


async def add_one(provider, cls, **ids):
    async with provider.modify(cls, **ids) as state:
        state.count += 1


@pytest.fixture
def context(provider):
    return context_of(provider)


# -- what it knows -----------------------------------------------------------------------------------------------------


async def test_signals_of_states_and_of_components_of_one_class_never_collide(context):
    await show(context, Counter)
    for name in ("left", "right"):
        await show(context, Side, component_id=name)
    assert context.page.signals() == {
        "Counter": {"count": 0, "text": ""},
        "Side": {"left": {"count": 0}, "right": {"count": 0}},
    }


async def test_the_token_says_exactly_what_is_shown_and_for_whom(context, provider):
    await show(context, Counter)
    side = await show(context, Side, component_id="left")
    context.page.show(side, "box")
    token = provider.tokens.signer.verify(*context.page.watched().values())
    assert token.shown == (("Counter", None, ()), ("Side", "left", ("box",)))
    other = await context_of(provider, "xyz").identity()
    assert token.binding == (await context.identity()).binding != other.binding
    assert not token.expired


async def test_the_same_fragment_has_the_same_name_for_its_token_and_another_one_another(provider):
    names = []
    for ids in ({"component_id": "left"}, {"component_id": "left"}, {"component_id": "right"}):
        context = context_of(provider)
        await show(context, Side, **ids)
        ((_, live),) = elements_of(str(LiveElement(context.page, with_signals=True)))
        names.append(next(iter(json.loads(live["data-signals"])["_fs"]["w"])))
    assert names[0] == names[1] != names[2]


async def test_the_position_is_now_when_nothing_changed_and_the_request_s_start_when_something_did(context, provider):
    await show(context, Counter)
    await add_one(provider, Total)
    epoch = provider.registry.epoch
    assert context.page.position() == f"{epoch}.{provider.registry.commits}"
    start = context.page._start
    await add_one(provider, Counter, session_id="abc")
    assert context.page.position() == f"{epoch}.{start}" and start < provider.registry.commits


async def test_refresh_takes_all_states_at_one_moment(context, provider):
    await show(context, Counter)
    await add_one(provider, Counter, session_id="abc")
    await add_one(provider, Total)
    await show(context, Total)
    context.page.refresh({})
    assert context.page.signals() == {"Counter": {"count": 1, "text": ""}, "Total": {"count": 1}}


@given(st.text())
def test_no_text_breaks_the_attribute_that_seeds_it(text):
    class Content:
        def signals(self):
            return {"A": {"text": text}}

    ((_, seed),) = elements_of(str(SeedElement(Content())))
    found = re.fullmatch(r"\{.*\}", seed["data-signals"])
    assert json.loads(found[0]) == {"A": {"text": text}}
    assert not set(found[0]) & set("@;`$/") and "\\\\" not in found[0]


# -- where it stands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def app():
    provider = StateProvider(datastar_src="/datastar.js")
    provider.register_state(Counter)
    provider.register_state(Side, StateConfig(scope=StateScope.COMPONENT))
    app, rt = fast_app(state_provider=provider, pico=False, secret_key="for tests")

    @rt("/")
    def index(counter: Counter, side: Annotated[Side, Component("left")]):
        return fh.Titled("Page", fh.P(counter.signal.count), side.box(), fh.Button("+", counter.add.on("click")))

    @rt("/right")
    def right(side: Annotated[Side, Component("right")]):
        return fh.Div(side.box())

    return app


@pytest.fixture
def text(app):
    """The HTML of the page."""
    return Page(TestClient(app)).html


def test_signals_are_seeded_in_the_head_before_any_expression_reads_them(text):
    head, body = text.split("</head>")
    assert head.count('<meta name="faststate"') == 1 and "$Counter" not in head
    assert text.index("data-signals=") < text.index("$Counter.count")
    assert body.rindex("data-fs-live") > body.rindex("$Counter.count")


def test_a_page_loads_its_program_once_and_opens_one_stream(text):
    assert text.count(f'src="/_faststate/{entry_name()}" data-datastar="/datastar.js"') == 1
    assert text.count('type="module"') == text.count("data-fs-live") == 1


def test_a_page_carries_little_of_ours_beside_its_signals_and_token(text):
    ours = re.findall(r'<script type="module".*?</script>|<meta name="faststate".*?>|<div data-fs-live.*?></div>', text)
    bare = [re.sub(r"""data-signals=("[^"]*"|'[^']*')""", "", part) for part in ours]
    assert len(bare) == 3 and sum(map(len, bare)) <= 700


def test_a_page_paints_its_values_without_a_script(text):
    assert '<span data-text="$Counter.count">0</span>' in text
    assert '<b data-fs-view="Side.left.box">0</b>' in text


def test_a_fragment_brings_its_own_token_and_opens_the_stream_of_all(app):
    client = TestClient(app)
    page, fragment = Page(client), Page(client, "/right", headers={"hx-request": "true"})
    assert "<html" not in fragment.html and len(fragment.tokens) == 1 and fragment.tokens != page.tokens
    assert fragment.signals == {"Side": {"right": {"count": 0}}}
    assert [tag for tag, attributes in fragment.attributes if "data-fs-live" in attributes] == ["div"]


def test_views_are_the_same_bytes_for_all_viewers_and_only_the_library_s_signals_differ(app):
    pages = [Page(TestClient(app)) for _ in range(2)]
    assert pages[0].tokens != pages[1].tokens
    ours = re.compile(r"""data-signals(__ifmissing)?=("[^"]*"|'[^']*')""")
    assert ours.sub("", pages[0].html) == ours.sub("", pages[1].html)


def test_neither_the_session_s_id_nor_a_key_is_in_the_page(app):
    seen = []

    @app.get("/seen")
    def seen_by(session, counter: Counter):
        seen.append(session["session_id"])
        return fh.Div(counter.signal.count, counter.add.to())

    text = Page(TestClient(app), "/seen").html
    assert len(seen[0]) >= 16 and seen[0] not in text and "session:" not in text


async def test_a_state_that_changed_while_the_page_was_made_is_sent_again(provider, context):
    await provider.get_state(Total, context.connection)  # what a Beforeware may have rendered already
    before = provider.registry.commits
    await set_fields(provider.modify(Total), count=1)
    context.page.refresh({})  # what the handler is given
    assert int(context.page.position().partition(".")[2]) < before + 1 == provider.registry.commits


# -- pages that are older than the code --------------------------------------------------------------------------------


def variants():
    """Return what a class may be like after a deploy: the name of each change, and the class."""

    class Same(ReactiveState):
        count: int = 0

        @event
        def add(self, by: int = 1): ...

        @view
        def box(self): ...

    class Field(Same):
        more: int = 0

    class BoundField(Same):
        count: Bound[int] = 0

    class Event(Same):
        @event
        def drop(self): ...

    class Argument(Same):
        @event
        def add(self, by: int = 1, twice: bool = False): ...

    class View(Same):
        @view
        def table(self): ...

    class Code(Same):
        count: int = 7
        _private: int = 0

        @event
        def add(self, by: int = 2):
            self.count += by

    changed = {cls.__name__: cls for cls in (Field, BoundField, Event, Argument, View)}
    return Same, changed, Code


def test_the_fingerprint_changes_with_each_name_that_a_page_uses_and_with_nothing_else():
    same, changed, code = variants()
    prints = {name: cls._fs_schema().fingerprint for name, cls in changed.items()}
    assert len({*prints.values(), same._fs_schema().fingerprint}) == len(prints) + 1
    assert code._fs_schema().fingerprint == same._fs_schema().fingerprint


@pytest.mark.parametrize(
    "fingerprints", [{"Counter": "00000000"}, {"Gone": "00000000"}, {"Counter": None}, {"Counter": []}]
)
def test_a_page_that_is_older_than_the_code_is_told_so(app, fingerprints):
    page = Page(TestClient(app))
    answer = open_stream(page, d=fingerprints)
    assert patched_signals(answer.text) == {"_fs": {"go": "#outdated"}}


@pytest.mark.parametrize("fingerprints", ["x", [], 1, True])
def test_fingerprints_that_are_no_object_are_refused(app, fingerprints):
    assert open_stream(Page(TestClient(app)), d=fingerprints).status_code == 400


def open_stream(page, **payload):
    return page.client.post(f"{page.url}stream", json={"w": page.tokens, **payload}, headers=BROWSER)
