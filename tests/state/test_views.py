"""Views: rendered once per commit, marked so that patches find them, with all text escaped."""

from __future__ import annotations

import pytest
from fasthtml.common import Div, Li, NotStr, P, Safe, Span, Table, Tr, Ul, to_xml
from hypothesis import example, given
from hypothesis import strategies as st

from faststate import ReactiveState, StateIdentifier, StateScope, UserContext, current_request, current_user, view
from faststate.exceptions import EventDefinitionError
from faststate.state.copies import SnapshotInfo
from faststate.state.views import ViewFragment, attribute, quoted, render_ft
from tests.support.client import elements_of
from tests.support.snapshots import commit

BOX = '<slot data-fs-view="Page.shown">{}</slot>'


def page_of(content):
    """A state with a view that returns `content`."""

    class Page(ReactiveState):
        @view
        def shown(self):
            return content

    return Page()


def shown(content):
    """The HTML of a view that returns `content`."""
    return to_xml(commit(page_of(content)).shown(), indent=False)


class Widget:
    def __ft__(self):
        return Span("w")


class Markup:
    def __html__(self):
        return "<i>m</i>"


@pytest.mark.parametrize(
    ("content", "html"),
    [
        (P("x"), '<p data-fs-view="Page.shown">x</p>'),
        ([P("x")], '<p data-fs-view="Page.shown">x</p>'),
        ((None, P("x")), '<p data-fs-view="Page.shown">x</p>'),
        (Div(P("x"), id="a", cls="b"), '<div id="a" class="b" data-fs-view="Page.shown"><p>x</p></div>'),
        (None, BOX.format("")),
        ((), BOX.format("")),
        ("a < b & c", BOX.format("a &lt; b &amp; c")),
        (0, BOX.format("0")),
        ((P("a"), P("b")), BOX.format("<p>a</p><p>b</p>")),
        ([Li("a"), "<", Li("b")], BOX.format("<li>a</li>&lt;<li>b</li>")),
        ([[Li("a"), Li("b")]], BOX.format("<li>a</li><li>b</li>")),
        (Safe("<b>x</b>"), BOX.format("<b>x</b>")),
        (NotStr("<b>x</b>"), BOX.format("<b>x</b>")),
        (Widget(), BOX.format("<span>w</span>")),
        (Markup(), BOX.format("<i>m</i>")),
        (Ul(Li("<script>")), '<ul data-fs-view="Page.shown"><li>&lt;script&gt;</li></ul>'),
        (Table(Tr()), '<table data-fs-view="Page.shown"><tr></tr></table>'),
    ],
)
def test_a_view_has_one_root_that_says_which_view_it_is(content, html):
    assert shown(content) == html


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10))
def test_text_is_never_markup(text):
    html = shown([text])
    inner = html.removeprefix(BOX.split("{}", maxsplit=1)[0]).removesuffix("</slot>")
    assert not set(inner) & set("<>")
    assert "<" not in render_ft(text)


def test_a_view_does_not_change_the_elements_it_was_given():
    item = P("x")
    shown(item)
    assert to_xml(item, indent=False) == "<p>x</p>"


def test_a_view_says_which_of_several_states_it_shows():
    identifier = StateIdentifier(StateScope.COMPONENT, "Page", session_id="s", component_id='a."b')
    state = page_of(P("x"))._commit(SnapshotInfo(identifier, 1, 1, {}, None))
    assert to_xml(state.shown(), indent=False) == '<p data-fs-view="Page.a_2e__22_b.shown">x</p>'


def test_a_view_is_rendered_once_per_commit_and_by_whoever_asks_first():
    calls = []

    class Page(ReactiveState):
        n: int = 0

        @view
        def shown(self):
            calls.append((current_user.get(), current_request.get()))
            return P(self.n)

    token = current_user.set(UserContext(1))
    try:
        snapshot = commit(Page(n=1))
        assert str(snapshot.shown()) == str(snapshot.shown()) == '<p data-fs-view="Page.shown">1</p>'
        assert current_user.get().id == 1
    finally:
        current_user.reset(token)
    assert calls == [(None, None)]  # all viewers share the bytes, so no view can see who looks
    own = Page(n=1)
    own.shown()
    own.n = 2
    assert str(own.shown()) == '<p data-fs-view="Page.shown">2</p>'


def test_a_view_sees_what_its_event_has_changed_so_far():
    class Page(ReactiveState):
        names: list[str] = []

        @view
        def shown(self):
            return Ul(*map(Li, self.names))

    snapshot = commit(Page(names=["a"]))
    working = snapshot._working()
    working.names.append("b")
    assert "<li>b</li>" in str(working.shown()) and "<li>b</li>" not in str(snapshot.shown())


def test_the_context_is_restored_when_a_view_fails():
    class Page(ReactiveState):
        @view
        def broken(self):
            raise LookupError("no such thing")

    token = current_user.set(UserContext(1))
    try:
        with pytest.raises(LookupError):
            commit(Page()).broken()
        assert current_user.get().id == 1
    finally:
        current_user.reset(token)


def test_a_view_inside_a_page_is_markup_and_not_text():
    fragment = commit(page_of(P("x"))).shown()
    assert isinstance(fragment, ViewFragment)
    assert to_xml(Div(fragment), indent=False) == '<div><p data-fs-view="Page.shown">x</p></div>'
    assert render_ft(fragment) == str(fragment) == fragment.__html__()


def test_a_view_within_a_view_is_marked_too():
    class Page(ReactiveState):
        @view
        def inner(self):
            return P("x")

        @view
        def outer(self):
            return Div(self.inner())

    html = str(commit(Page()).outer())
    assert html == '<div data-fs-view="Page.outer"><p data-fs-view="Page.inner">x</p></div>'


def test_a_view_with_arguments_is_an_error_at_once():
    with pytest.raises(EventDefinitionError, match="takes arguments"):

        class Page(ReactiveState):
            @view
            def shown(self, limit):
                return P(limit)


def test_a_view_keeps_its_name_and_docstring():
    class Page(ReactiveState):
        @view
        def shown(self):
            """Shows it."""

    assert (Page.shown.__name__, Page.shown.__doc__, repr(Page.shown)) == ("shown", "Shows it.", "<view shown>")


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("""&<>"'`=""")
@example("'")
@example('"')
def test_an_attribute_written_as_text_is_the_one_that_an_element_has(value):
    html = f"<p {attribute('data-x', value)}></p>"
    assert html == to_xml(P(**{"data-x": value}), indent=False)
    ((_, attributes),) = elements_of(html)
    assert attributes == {"data-x": value}
    ((_, attributes),) = elements_of(f"<p data-x='{quoted(value)}' data-y></p>")
    assert attributes == {"data-x": value, "data-y": ""}
