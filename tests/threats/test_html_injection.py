"""Typed text adds no element and no attribute to a page, ends no expression, and is read back as it was."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from faststate.client.modules import served_modules
from tests.support.client import Page, message, status
from tests.threats.injection_server import Document, asked_with, client, frames_of, merged

APP = "injection_html.py"
EXPECTED = ["EventDefinitionError: a Redirect goes to a path or an http(s) URL"]

BREAKERS = [
    "<script>alert(1)</script>", "</script>", "</span>", "</p>", "</title>", "</textarea>", "<!--", "-->",
    "<![CDATA[", "]]>", "<img src=x onerror=alert(1)>", "<", ">", "<?php", "</", "&", "&quot;", "&#39;", "&lt;b&gt;",
    "&#x27;", "&amp;quot;", "&quot", "&apos;", '"', "'", "`", "\\", '\\"', "\\'", "\\u0022", "\\\\",
    '" onmouseover="alert(1)', "' onfocus='x", "';alert(1)//", "\");alert(1)//", "}});alert(1);({", "${alert(1)}",
    "$_fs.go='javascript:1'", "@post('/evil')", "@get(`/x`)", ";", "/", "//", "/*", "*/", "/x/g", "\n", "\r\n", "\r",
    "\t", "\0", "\u2028", "\u2029", "=", " ", "data-init=x", "javascript:alert(1)", "é", "😀", "\x85", "\ufeff", "a",
    "null", "__proto__", "constructor", ".", "-", "__html__", "\x7f",
]  # fmt: skip
hostile = st.lists(st.sampled_from(BREAKERS), max_size=6).map("".join)
WORST = "".join(BREAKERS)
ATTRIBUTES = '"\'> <img src=x onerror=alert(1)> &quot;&#39;\\"\\'


@pytest.fixture(scope="module")
def page(server):
    with client(server) as browser:
        yield Page(browser)


def put(page, text):
    """Put `text` into the state; return the frames of the answer."""
    answer = page.send("Said", "put", text=text)
    assert status(answer) in (200, 204), answer.text  # 204: it held that already
    return frames_of(answer.content)


def parsed(page, path):
    """The page at `path`, as it is parsed, and its text."""
    response = page.client.get(path)
    assert response.status_code == 200
    return Document(response.text), response.text


def seeded(document):
    """The signals of all `data-signals` in a page, as JSON reads them; each safe as an expression, too."""
    found = {}
    for element in document.elements:
        attribute = element.get("data-signals")
        if attribute is not None:
            # Datastar compiles the attribute: it reads these even inside of strings.
            assert not set(attribute) & set("@;/`$") and "\\\\" not in attribute, attribute
            assert attribute.isascii() and attribute.isprintable(), attribute
            found |= {k: v for k, v in json.loads(attribute).items() if k != "_fs"}
    return found


def arguments_in(expression):
    """The arguments in an event's expression, and the expression without them."""
    start = expression.index(",{a:") + len(",{a:")
    decoded, end = json.JSONDecoder().raw_decode(expression, start)
    literal = expression[start:end]
    assert not set(literal) & set("@;/`$") and "\\\\" not in literal, literal
    assert literal.isascii() and literal.isprintable(), literal
    return decoded, expression[:start] + expression[end:]


SAFE = "benign"


@pytest.fixture(scope="module")
def benign(server):
    """How each page is built when nobody is hostile."""
    with client(server) as browser:
        page = Page(browser)
        put(page, SAFE)
        yield {path: parsed(page, path)[0] for path in ("/", "/listing", "/fragment", "/document")} | {
            "put": put(page, SAFE + "2"),
            "show": frames_of(page.send("Said", "show", text=SAFE).content),
        }


@asked_with(hostile, WORST, ATTRIBUTES, "&quot;", "\\", runs=120)
def test_a_page_has_the_same_elements_and_attributes_whatever_its_states_hold(page, benign, text):
    put(page, text)
    for path in ("/", "/listing", "/fragment", "/document"):
        document, _ = parsed(page, path)
        assert document.shape == benign[path].shape, path
        # A key with a dot would nest, and one that reaches into JavaScript's own objects is left out.
        table = {} if text == "__proto__" else {text.replace(".", "_2e_"): text}
        assert seeded(document)["Said"] == {"text": text, "table": table, "listed": [text]}


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_first_paint_shows_a_signal_as_the_text_that_it_is(page, text):
    put(page, text)
    document, html = parsed(page, "/")
    assert document.texts.get("$Said.text", "") == text
    assert document.texts.get("$Said.listed", "") == text
    assert document.texts.get("Said.bare", "") == text
    assert "only here" not in html
    spans = [dict(e.attributes) for e in document.elements if e.tag == "span" and e.get("data-text") is not None]
    assert spans == [{"data-text": f"$Said.{name}"} for name in ("text", "table", "listed")]


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_views_keep_what_they_are_given_inside_of_one_text_or_attribute(page, benign, text):
    for frame, safe in zip(put(page, text), benign["put"], strict=True):
        assert (frame.kind, frame.parts.get("selector")) == (safe.kind, safe.parts.get("selector"))
        assert Document(frame.html).shape == Document(safe.html).shape
    document, _ = parsed(page, "/")
    root = next(e for e in document.elements if e.get("data-fs-view") == "Said.shown")
    image = next(e for e in document.elements if e.tag == "img")
    assert root.get("title") == image.get("alt") == text and image.get("src") == "/x?" + text


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_the_default_listing_shows_values_as_text_and_never_a_hidden_one(page, benign, text):
    put(page, text)
    document, html = parsed(page, "/listing")
    assert document.shape == benign["/listing"].shape
    # Once as a signal, and once for each collection that holds it; JSON writes line ends and quotes its own way.
    assert text in document.texts["listing"] and "only here" not in html


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_arguments_of_on_and_post_are_json_that_ends_where_it_should(page, benign, text):
    put(page, text)
    document, _ = parsed(page, "/")
    for own, attribute in (("again", "data-on:click"), ("post", "data-on-click")):
        found, around = arguments_in(document.by_id(own).get(attribute))
        assert found == {"text": text}
        assert around == arguments_in(benign["/"].by_id(own).get(attribute))[1]
    assert document.by_id("form").attributes == benign["/"].by_id("form").attributes
    link = urlsplit(document.by_id("link").get("action"))
    assert (link.scheme, link.netloc, link.path, link.fragment) == ("", "", "/_faststate/event/Said/put", "")
    assert parse_qs(link.query, keep_blank_values=True) == {"text": [text]}


def test_an_expr_is_the_developers_own_and_stays_in_its_attribute(page):
    put(page, ATTRIBUTES)
    late = parsed(page, "/")[0].by_id("late")
    assert 'a:{"text":(el.dataset.text + \'<b>\' + "\'")}' in late.get("data-on:click")
    assert late.get("data-text") == ATTRIBUTES
    assert {name for name, _ in late.attributes} == {"data-on:click__case.kebab", "data-text", "id", "name"}


@asked_with(hostile.filter(bool), WORST, ATTRIBUTES, runs=40)
def test_a_component_id_is_a_string_in_an_expression_and_a_plain_word_in_a_path(page, text):
    safe, _ = parsed(page, "/panel?name=a")
    document, _ = parsed(page, "/panel?name=" + quote(text, safe=""))
    assert document.shape == safe.shape
    expression = document.by_id("put").get("data-on:click")
    found, around = arguments_in(expression)
    own, end = json.JSONDecoder().raw_decode(around, around.index(",i:") + 3)
    assert (found, own) == ({"text": text}, text)
    assert not set(around[around.index(",i:") + 3 : end]) & set("@;/`$")
    ((segment, values),) = seeded(document)["Panel"].items()
    assert re.fullmatch("[A-Za-z0-9_]+", segment) and segment != "__proto__" and values == {"text": ""}
    (view,) = (e.get("data-fs-view") for e in document.elements if e.get("data-fs-view"))
    assert view == f"Panel.{segment}.shown"


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_fragments_that_events_return_have_the_same_elements(page, benign, text):
    (frame,) = frames_of(page.send("Said", "show", text=text).content)
    (safe,) = benign["show"]
    document = Document(frame.html)
    assert document.shape == Document(safe.html).shape
    if "\r" not in text:  # a stream tells its lines apart by it, and HTML would make it \n too
        link = next(e for e in document.elements if e.tag == "a")
        assert (link.get("title"), link.get("data-note")) == (text, text)


@asked_with(hostile, WORST, ATTRIBUTES, runs=60)
def test_messages_reach_the_page_as_a_signal_and_never_as_markup(page, text):
    in_path = "x" + quote(text.replace("/", ""), safe="")
    for answer in (
        page.send("Said", "refuse", text=text),
        page.send("Said", "choose", counts={text: "x"}),
        page.send("Said", "put", **{"text": "", text: 1}),
        page.send("Said", in_path),
        page.send(in_path, "put"),
        page.send("Said", "put", text="", bound={text: 1}),
    ):
        assert status(answer) in (400, 404, 409) or text == "text"
        found = frames_of(answer.content)
        assert {frame.kind for frame in found} == {"datastar-patch-signals"}
    assert message(page.send("Said", "refuse", text=text)) == text


def test_the_toast_writes_a_message_as_text(page):
    _, html = parsed(page, "/")
    program = b"".join(served_modules().values())
    assert b".textContent = message" in program
    for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
        assert markup not in html and markup.encode() not in program


SCRIPTS = [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "javascript:alert(1)//http://x",
    "\x01javascript:x", "java\tscript:alert(1)", "java\nscript:alert(1)", "\tjavascript:alert(1)",
    "javascript\t:alert(1)", "\xa0javascript:x", "data:text/html,<script>alert(1)</script>",
    "DATA:text/html;base64,PHNjcmlwdD4=", "vbscript:msgbox(1)", "blob:http://x/y", "filesystem:http://x/y",
    "file:///etc/passwd", "about:blank", "view-source:http://x", "feed:javascript:x", "javascript://x/%0aalert(1)",
    "javascript:\u2028alert(1)", "\u3000javascript:x", "\x85javascript:x", "\x1fjavascript:x",
]  # fmt: skip


@pytest.mark.parametrize("to", SCRIPTS)
def test_an_event_redirects_to_no_script(page, to):
    answer = page.send("Said", "go", to=to)
    told = merged(frames_of(answer.content))
    assert status(answer) == 500 and set(told["_fs"]) == {"err", "status"} and "alert" not in answer.text


@asked_with(hostile, ATTRIBUTES, runs=60)
def test_where_an_event_redirects_to_is_a_signal_of_one_string(page, text):
    assume(not any(ord(c) < 32 for c in text))
    answer = page.send("Said", "go", to="/x" + text)
    assert merged(frames_of(answer.content)) == {"_fs": {"go": ("/x" + text).strip()}}


def test_the_pages_own_code_is_no_part_of_what_is_typed(page):
    """Of a page full of hostile text, no attribute that is compiled holds any of it but as JSON."""
    put(page, WORST)
    document, html = parsed(page, "/")
    for element in document.elements:
        for name, value in element.attributes:
            if name.startswith(("on", "style")) or name in ("src", "href"):
                assert "alert" not in (value or "") or element.tag == "img", (element.tag, name)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.S)
    assert not any("alert(1)" in unescape(script) for script in scripts)
