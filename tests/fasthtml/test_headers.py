"""Headers whose copies cost little: elements as any other, and each request has its own."""

from __future__ import annotations

from copy import deepcopy

import pytest
from fastcore.xml import FT
from fasthtml import common as fh
from starlette.testclient import TestClient

from faststate import StateProvider, fast_app
from faststate.fasthtml.header_copies import with_quick_copies

pytestmark = pytest.mark.usefixtures("in_tmp_path")

HEADERS = [
    fh.Meta(charset="utf-8"),
    fh.Script(src="/a.js", defer=True),
    fh.Style("p { color: red }"),
    (fh.Link(rel="stylesheet", href="/a.css"), [fh.Title("in a list")]),
    fh.Noscript(fh.Div(fh.P("deep"), id="outer")),
    fh.Div(data=["a", "list"]),
]


@pytest.mark.parametrize("header", HEADERS)
def test_it_and_its_copies_are_what_the_header_was(header):
    quick = with_quick_copies(header)
    assert quick == header
    for made in (quick, deepcopy(quick), deepcopy(deepcopy(quick))):
        assert fh.to_xml(made) == fh.to_xml(header)


def test_a_copy_shares_nothing_that_can_be_changed():
    inner = fh.P("deep")
    quick = with_quick_copies(fh.Div(inner, data_x=(many := ["a"])))
    quick.attrs["list"] = many
    copied = deepcopy(quick)
    copied.attrs["id"] = "other"
    copied.attrs["list"].append("b")
    copied.children[0].attrs["id"] = "other"
    copied.on(print)
    assert "id" not in quick.attrs and many == ["a"] and "id" not in inner.attrs and not quick.listeners_


def test_what_else_stands_among_the_headers_is_left_as_it_is():
    class Special(FT):
        pass

    for header in ("text", fh.NotStr("<b>"), Special("b", (), {}), None):
        assert with_quick_copies(header) is header


def test_a_request_that_changes_its_headers_changes_no_others():
    app, rt = fast_app(
        state_provider=StateProvider(), secret_key="for tests", hdrs=[fh.Meta(name="own", content="1")],
        ftrs=[fh.Div("foot", id="foot")],
    )  # fmt: skip

    @rt("/change")
    def change(req):
        for header in (h for h in (*req.hdrs, *req.ftrs) if isinstance(h, FT)):
            header.attrs["content"] = "changed"
            header.children = ("changed",)
        return fh.P("x")

    @rt("/keep")
    def keep():
        return fh.P("x")

    client = TestClient(app)
    before = client.get("/keep").text
    assert client.get("/change").text.count('content="changed"') > 2
    assert client.get("/keep").text == before and '<meta name="own" content="1">' in before and ">foot</div>" in before
