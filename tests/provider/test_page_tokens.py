"""A page may watch any number of states: a thousand records, and a thousand fragments."""

from __future__ import annotations

import json
import uuid
import zlib
from contextlib import contextmanager

import pytest
from fasthtml import common as fh
from starlette.testclient import TestClient

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app, view
from faststate.auth.tokens import ShownState, TokenSigner, WatchToken
from faststate.provider.page_tokens import LONG, MERGED_FROM, merged_tokens
from tests.support.client import BROWSER, Page, frames, merge, message, patched_signals, status, stream_of

MANY = 1_000


class Row(ReactiveState):
    n: int = 0

    @event
    def add(self) -> None:
        self.n += 1

    @view
    def card(self):
        return fh.B(self.n)


class Mine(ReactiveState):
    n: int = 0

    @event
    def add(self, row: str) -> None:
        self.n += 1


def make(**options):
    provider = StateProvider(secret_key="k", **options)
    provider.register_state(Row, StateConfig(scope=StateScope.RECORD))
    provider.register_state(Mine)
    app, rt = fast_app(state_provider=provider, secret_key="k")

    @rt("/many/{n}")
    async def many(request, n: int):
        rows = [await provider.get_state(Row, request, record_id=uuid.UUID(int=i)) for i in range(n)]
        return fh.Ul(*[fh.Li(row.card()) for row in rows])

    @rt("/fragment/{i}")
    async def fragment(request, i: int):
        return fh.P((await provider.get_state(Row, request, record_id=uuid.UUID(int=i))).card())

    @rt("/mine")
    def mine(mine: Mine):
        return fh.P(mine.signal.n)

    return app, provider


def record(i):
    return str(uuid.UUID(int=i))


@contextmanager
def visitor(**options):
    app, provider = make(event_rate=1e9, event_burst=10**9, **options)
    with TestClient(app) as client:
        client.provider = provider
        yield client


@pytest.fixture
def client():
    with visitor() as client:
        yield client


def page_of_fragments(client, number):
    """A page that has fetched so many fragments, one after the other."""
    page = Page(client, "/mine")
    for i in range(number):
        page.tokens += Page(client, f"/fragment/{i}", headers={"hx-request": "true"}).tokens
    return page


class Stream:
    """A page's stream, read frame by frame: `seen` is what it has told of signals, `html` its elements."""

    def __init__(self, response):
        self.response = response
        self._lines = response.iter_lines()
        self.seen = {}
        self.html = ""

    def until(self, condition):
        block = []
        while not condition(self):
            if line := next(self._lines):
                block.append(line)
                continue
            for _, parts in frames("\n".join(block) + "\n\n"):
                merge(self.seen, json.loads(parts.get("signals", "{}")))
                self.html += parts.get("elements", "")
            block = []
        return self

    @property
    def connection(self):
        return self.seen["_fs"]["c"]


@contextmanager
def opened(page, **headers):
    """The page's stream. Its frames hold `null` for what vanishes, as Datastar takes it."""
    with stream_of(page, headers) as response:
        assert response.status_code == 200, response.status_code
        yield Stream(response).until(lambda stream: "_fs" in stream.seen)


# -- long lists --------------------------------------------------------------------------------------------------------


def test_a_page_of_a_thousand_records_follows_the_last_of_them(client):
    page = Page(client, f"/many/{MANY}")
    assert len(page.tokens) == 1 and len(page.tokens[0]) < 60_000
    with opened(page) as stream:
        assert len(client.provider.sse_manager.connections[stream.connection].topics) == MANY
        answer = page.send("Row", "add", instance_id=record(MANY - 1), connection=stream.connection)
        assert answer.status_code == 204
        stream.until(lambda stream: "<b" in stream.html)
        assert ">1</b>" in stream.html


def test_a_page_of_a_thousand_fragments_follows_all_of_them_and_then_sends_one_token(client):
    page = page_of_fragments(client, MANY)
    assert len(page.tokens) == MANY + 1
    with opened(page) as stream:
        assert len(client.provider.sse_manager.connections[stream.connection].topics) == MANY + 1
        for i in (0, MANY - 1):
            assert page.send("Row", "add", instance_id=record(i), connection=stream.connection).status_code == 204
        patch = stream.until(lambda stream: stream.html.count(">1</b>") == 2).seen["_fs"]["w"]
    (merged,) = patch.values()  # the frame says null for the names of all others, so that they are gone
    page.tokens = [merged]
    with opened(page) as stream:
        assert len(client.provider.sse_manager.connections[stream.connection].topics) == MANY + 1
        assert "w" not in stream.seen["_fs"]
    assert ">1</b>" in page.send("Row", "add", instance_id=record(6)).text


def test_the_names_of_all_tokens_but_the_new_one_are_taken_back():
    signer = TokenSigner(["k"])
    client = TestClient(make()[0])
    pages = [Page(client, f"/fragment/{i}") for i in range(3)]
    names = [next(iter(json.loads(a["data-signals"])["_fs"]["w"])) for p in pages for _, a in p.attributes if
             "data-fs-live" in a]  # fmt: skip
    provider_signer = client.app.state.faststate.tokens.signer
    tokens = [provider_signer.verify(page.tokens[0]) for page in pages]
    told = merged_tokens(signer, [*tokens, tokens[0]])
    assert [name for name, token in told.items() if token is None] == names
    (merged,) = [token for token in told.values() if token is not None]
    said = signer.verify(merged)
    assert said.binding == tokens[0].binding
    assert said.shown == tuple(ShownState("Row", record(i), ("card",)) for i in range(3))


def test_few_tokens_stay_as_they_are(client):
    page = page_of_fragments(client, MERGED_FROM - 1)
    with opened(page) as stream:
        assert page.send("Row", "add", instance_id=record(0), connection=stream.connection).status_code == 204
        stream.until(lambda stream: ">1</b>" in stream.html)
        assert "w" not in stream.seen["_fs"]


def test_an_event_of_a_page_without_a_stream_is_told_what_it_changed_among_a_thousand(client):
    page = page_of_fragments(client, MANY)
    answer = page.send("Row", "add", instance_id=record(MANY - 1))
    assert status(answer) == 200 and ">1</b>" in answer.text and answer.text.count("<b") == 1
    answer = page.send("Mine", "add", row="x")
    assert patched_signals(answer.text) == {"Mine": {"n": 1}} and "<b" not in answer.text


# -- what they cost ----------------------------------------------------------------------------------------------------


def test_an_event_of_a_page_with_a_stream_verifies_none_of_a_thousand_tokens(client):
    page, signer = page_of_fragments(client, MANY), client.provider.tokens.signer
    with opened(page) as stream:
        before = signer.work
        for i in (0, MANY - 1):
            assert page.send("Row", "add", instance_id=record(i), connection=stream.connection).status_code == 204
        assert page.send("Mine", "add", row="x", connection=stream.connection).status_code == 204
        assert signer.work == before


def test_an_event_of_a_page_without_a_stream_verifies_those_of_a_thousand_tokens_that_it_needs(client):
    page, signer = page_of_fragments(client, MANY), client.provider.tokens.signer
    one = Page(client, "/mine").tokens
    before = signer.work
    signer.verify(one[0])
    cost_of_one = signer.work - before
    for name, instance_id, needed in (("Row", record(500), 2), ("Row", record(0), 1), ("Mine", None, 0)):
        before = signer.work
        arguments = {"row": "x"} if name == "Mine" else {}
        assert status(page.send(name, "add", instance_id=instance_id, **arguments)) == 200
        assert round((signer.work - before) / cost_of_one) <= needed


def test_a_forged_token_among_many_is_found_where_it_is_of_use(client):
    page = page_of_fragments(client, 100)
    genuine = Page(client, "/fragment/700").tokens[0]
    payload, _, signature = genuine.partition(".")
    page.tokens += [f"{payload}.{signature[:-4]}AAAA"]
    assert page.send("Row", "add", instance_id=record(700)).status_code == 403
    assert status(page.send("Row", "add", instance_id=record(5))) == 200
    assert page.send("Row", "add", instance_id=record(701)).status_code == 403


def test_a_stale_page_with_many_tokens_is_loaded_again(client):
    page = page_of_fragments(client, 100)
    client.cookies.clear()
    other = Page(client, "/mine")
    other.tokens = page.tokens
    for name, instance_id, arguments in (("Row", record(5), {}), ("Mine", None, {"row": "x"})):
        answer = other.send(name, "add", instance_id=instance_id, **arguments)
        assert patched_signals(answer.text)["_fs"]["go"] == "#reload"


def test_a_repeated_event_of_a_page_without_a_stream_is_told_all_that_it_shows(client):
    page = page_of_fragments(client, 100)
    nonce = "n" * 16
    assert page.send("Row", "add", instance_id=record(5), nonce=nonce).text.count(">1</b>") == 1
    again = page.send("Row", "add", instance_id=record(5), nonce=nonce)
    assert again.text.count("<b") == 100 and again.text.count(">1</b>") == 1


def test_a_stream_of_another_page_proves_nothing_of_what_it_does_not_follow(client):
    page, other = page_of_fragments(client, 100), Page(client, "/fragment/500")
    assert sum(map(len, page.tokens)) > LONG
    with opened(other) as stream:
        assert page.send("Row", "add", instance_id=record(3), connection=stream.connection).status_code == 204
        assert page.send("Row", "add", instance_id=record(777), connection=stream.connection).status_code == 403
        page.tokens = ["x" * LONG, "y"]
        assert page.send("Row", "add", instance_id=record(3), connection=stream.connection).status_code == 403


def test_a_stream_of_another_session_proves_nothing(client):
    page = page_of_fragments(client, 100)
    with opened(page) as stream, visitor() as thief:
        strange = Page(client, "/fragment/1")
        cookies = dict(client.cookies)
        client.cookies.clear()
        own = Page(client, "/fragment/700")
        own.tokens = page.tokens
        assert status(own.send("Row", "add", instance_id=record(3), connection=stream.connection)) == 403
        client.cookies.update(cookies)
        del strange, thief


def test_verifying_much_anew_is_charged_to_its_session():
    app, _ = make(event_rate=0.001, event_burst=20, clock=lambda: 0.0)
    with TestClient(app) as client:
        page = Page(client, f"/many/{MANY}")
        page.tokens *= 8  # nearly as much as max_payload lets through
        assert status(page.send("Row", "add", instance_id=record(0))) == 200
        refused = page.send("Row", "add", instance_id=record(0))
        assert (status(refused), message(refused)) == (429, "Too many actions at once. Please wait a moment.")
        client.cookies.clear()
        other = Page(client, "/fragment/3")
        assert [status(other.send("Row", "add", instance_id=record(3))) for _ in range(3)] == [200, 200, 200]


# -- how a stream is asked for -----------------------------------------------------------------------------------------


def ask(client, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/_faststate/stream", content=content, headers=BROWSER | headers)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"content-length": "999999999"}, 413),
    ],
    ids=str,
)
def test_a_stream_that_may_not_be_asked_for_is_refused(client, headers, expected):
    page = Page(client, "/fragment/1")
    answer = ask(client, {"w": page.tokens, "n": page.position}, **headers)
    assert (answer.status_code, answer.headers["cache-control"]) == (expected, "no-store")
    assert "event-stream" not in answer.headers["content-type"]
    assert client.provider.stats().connections == 0


def test_a_stream_without_datastars_header_is_refused(client):
    page = Page(client, "/fragment/1")
    assert client.post("/_faststate/stream", json={"w": page.tokens}).status_code == 403


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff\xfe", 400),
        ({"w": "text"}, 400),
        ({"w": {"a": 1}}, 400),
        (b'{"w":' + b"[" * 50 + b"]" * 50 + b"}", 400),
        ({"w": ["forged"]}, 403),
        ({"w": [1]}, 403),
        ({"w": [None]}, 403),
        ({"w": ["x" * 300_000]}, 413),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_list_is_refused_by_its_kind(client, body, expected):
    Page(client, "/fragment/1")
    assert ask(client, body).status_code == expected


def test_a_body_of_unknown_length_is_cut_at_the_same_bound(client):
    Page(client, "/fragment/1")
    answer = client.post(
        "/_faststate/stream", content=iter([b'{"w":["', b"x" * 200_000, b"x" * 200_000, b'"]}']), headers=BROWSER
    )
    assert answer.status_code == 413


def test_a_client_beyond_its_streams_is_told_so():
    with visitor(max_streams_per_session=1) as client:
        page = Page(client, "/fragment/1")
        with opened(page) as stream:
            assert ask(client, {"w": page.tokens, "n": page.position}).status_code == 429
            assert stream.connection


def test_nobody_can_choose_a_record_id_whose_token_replaces_another_states():
    """These two have one CRC-32, which takes 0.2 s to find."""
    cart, aimed = (ShownState("Cart", None, ()),), (ShownState("P", "lHnMjhKIH", ()),)
    assert zlib.crc32(repr(cart).encode()) == zlib.crc32(repr(aimed).encode())
    signer = TokenSigner(["key"])
    names = merged_tokens(signer, [WatchToken("bound", cart), WatchToken("bound", aimed)])
    assert len(names) == 3  # both are replaced, each by its own name, and the one for all of it is new
