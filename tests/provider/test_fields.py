"""Bound fields of events: what an answer says of them, to whom, and which of two events that set one is the later."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Annotated, Any

import httpx
import pytest
from fasthtml.common import Div, P
from pydantic import Field, StringConstraints
from starlette.testclient import TestClient

from faststate import (
    Bound,
    Component,
    EventError,
    ReactiveState,
    StateConfig,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    fast_app,
)
from tests.support.apps import user_of_header
from tests.support.client import LivePage, Page, message, patched_signals, status, word_of
from tests.support.live import serving


class Doc(ReactiveState):
    title: Bound[Annotated[str, StringConstraints(strip_whitespace=True, max_length=20)]] = ""
    pages: Bound[Annotated[int, Field(ge=0)]] = 1
    secret: Annotated[Bound[str], Visible("staff")] = "hush"
    saves: int = 0

    @event
    def save(self):
        self.saves += 1

    @event
    def refuse(self):
        raise EventError("Not now.")

    @event
    def take(self, title: str):
        self.saves += len(title)

    @event
    async def steps(self):
        self.title = f"{self.title}!"
        yield
        self.title = f"{self.title}!"


class Panel(Doc):
    pass


class Guarded(Doc):
    pass


def make_app(**options: Any) -> tuple[Any, StateProvider]:
    provider = StateProvider(user_loader=user_of_header, **options)
    provider.register_state(Doc, StateConfig(scope=StateScope.GLOBAL))
    provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
    provider.register_state(
        Guarded,
        StateConfig(
            scope=StateScope.GLOBAL, authorize=lambda user, state, action: action != "read" or user is not None
        ),
    )
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    def index(doc: Doc, left: Annotated[Panel, Component("le.ft")]):
        return Div(P(doc.signal.title), P(left.signal.title))

    @rt("/guarded")
    def guarded(guarded: Guarded):
        return P(guarded.signal.title)

    @rt("/nothing")
    def nothing():
        return P("nothing")

    return app, provider


@pytest.fixture
def client() -> TestClient:
    return TestClient(make_app()[0])


def test_an_answer_says_what_the_fields_are_that_were_sent_and_no_others(client):
    page = Page(client)
    said = word_of(page.send("Doc", "save", bound={"title": " a "}))
    assert said is not None and (said["path"], said["values"]) == (["Doc"], {"title": "a"})
    assert said["version"] == Page(client).signals["Doc"]["_version"] != page.signals["Doc"]["_version"]
    assert word_of(page.send("Doc", "save")) is None
    said = word_of(page.send("Doc", "save", bound={"title": "b", "pages": "7"}))
    assert said is not None and said["values"] == {"title": "b", "pages": 7}


def test_a_component_is_named_by_the_path_of_its_signals(client):
    said = word_of(Page(client).send("Panel", "save", instance_id="le.ft", bound={"pages": 2}))
    assert said is not None and (said["path"], said["values"]) == (["Panel", "le_2e_ft"], {"pages": 2})


@pytest.mark.parametrize(
    ("name", "bound", "expected"),
    [
        ("save", {"title": "x" * 21}, {"title": "kept"}),
        ("save", {"pages": ""}, {"pages": 1}),
        ("refuse", {"title": "new", "pages": 9}, {"title": "kept", "pages": 1}),
        ("take", {"pages": 9}, {"pages": 1}),  # without its argument
    ],
)
def test_a_refusal_says_what_the_fields_still_are(client, name, bound, expected):
    page = Page(client)
    page.send("Doc", "save", bound={"title": "kept"})
    refused = page.send("Doc", name, bound=bound)
    said = word_of(refused)
    assert (status(refused), message(refused) != "") == (400, True)
    assert said is not None and said["values"] == expected


def test_a_generator_says_what_they_are_when_it_is_done(client):
    said = word_of(Page(client).send("Doc", "steps", bound={"title": "a"}))
    assert said is not None and said["values"] == {"title": "a!!"}


def test_an_event_that_is_delivered_again_is_told_so_again(client):
    page = Page(client)
    for _ in range(2):
        said = word_of(page.send("Doc", "save", bound={"title": "a"}, nonce="the-same-click"))
        assert said is not None and said["values"] == {"title": "a"}


def test_an_argument_may_have_the_name_of_a_bound_field(client):
    page = Page(client)
    assert status(page.send("Doc", "take", signals={"title": "four"})) == 200
    assert Page(client).signals["Doc"]["saves"] == 4


def test_what_somebody_may_not_see_is_not_said(client):
    page = Page(client)
    answer = page.send("Doc", "save", bound={"secret": "mine", "title": "a"})
    said = word_of(answer)
    assert said is not None and said["values"] == {"title": "a"} and "hush" not in answer.text
    assert word_of(page.send("Doc", "save", bound={"secret": "mine"})) is None


@pytest.mark.parametrize("name", ["save", "refuse"])
def test_who_may_change_but_not_read_a_state_is_told_nothing_of_it(client, name):
    shown = Page(client, "/guarded", headers={"x-user": "ann"})
    assert shown.response.status_code == 200
    shown.send("Guarded", "save", bound={"title": "private"}, headers={"x-user": "ann"})
    answer = Page(client, "/nothing").send("Guarded", name, bound={"title": "x" * 5})
    assert word_of(answer) is None and "private" not in answer.text


def test_a_page_that_does_not_show_the_state_is_told_nothing_of_it(client):
    Page(client).send("Doc", "save", bound={"title": "kept"})
    answer = Page(client, "/nothing").send("Doc", "refuse", bound={"title": "x"})
    assert word_of(answer) is None and "kept" not in answer.text


def test_a_user_whose_rights_were_taken_meanwhile_is_told_nothing():
    class Board(ReactiveState):
        text: Bound[str] = ""

        @event
        async def leave(self):
            elsewhere = provider.disconnect_user("ann")  # by another request
            await asyncio.create_task(elsewhere, context=contextvars.Context())

    provider = StateProvider(user_loader=user_of_header)
    provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    def index(board: Board):
        return P(board.signal.text)

    as_ann = {"x-user": UserContext("ann").id}
    client = TestClient(app, headers=as_ann)
    refused = Page(client).send("Board", "leave", bound={"text": "a"})
    assert (status(refused), word_of(refused)) == (403, None)


@pytest.mark.parametrize(
    "bound", [{"saves": 5}, {"__proto__": 1}, {"_version": "x.1"}, {"title": {"a": 1}}, {"title": ["a"] * 1000}]
)
def test_absurd_fields_are_refused_and_set_nothing(client, bound):
    page = Page(client)
    refused = page.send("Doc", "save", bound=bound)
    assert status(refused) == 400
    assert {name: Page(client).signals["Doc"][name] for name in ("title", "saves")} == {"title": "", "saves": 0}


def test_a_later_event_s_field_is_not_set_back_by_an_earlier_one_whose_other_fields_count():
    app, provider = make_app()
    with serving(app) as url, httpx.Client(base_url=url) as client:
        page = LivePage(client)
        connection = page.shown["_fs"]["c"]

        def send(number: int, **bound: Any) -> dict[str, Any]:
            said = word_of(page.send("Doc", "save", bound=bound, connection=connection, sequence=number))
            assert said is not None
            values: dict[str, Any] = said["values"]
            return values

        assert send(2, title="ab") == {"title": "ab"}
        assert send(1, title="a", pages=5) == {"title": "ab", "pages": 5}
        assert send(3, pages=6) == {"pages": 6}
        assert send(2, title="abc", pages=9) == {"title": "abc", "pages": 6}  # it was sent again
        page.read_until("Doc", saves=4)
        doc: Any = provider.registry.peek("global:Doc")
        assert (doc.saves, doc.title, doc.pages) == (4, "abc", 6)
        page.close()


@pytest.mark.parametrize("number", [-(10**30), 0, 2**70, True, "3", [1], 1.5])
def test_absurd_numbers_of_events_do_no_harm(client, number):
    answer = Page(client).send("Doc", "save", bound={"title": "a"}, sequence=number)
    assert status(answer) in (200, 400)
    assert patched_signals(answer.text)
