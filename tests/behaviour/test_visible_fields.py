"""Fields that only some viewers receive, through every way out of the server."""

import asyncio
from functools import cached_property
from typing import Annotated

import pytest
from fasthtml import common as fh
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, computed_field
from starlette.testclient import TestClient

from faststate import (
    AsSignal,
    Bound,
    ReactiveState,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    event,
    view,
)
from faststate.registry.registry import StateRegistry
from faststate.sse import snapshot_frame
from tests.support.apps import app_showing, sign_in_routes
from tests.support.client import BROWSER, Page, patched_signals, status

pytestmark = pytest.mark.usefixtures("in_tmp_path")

SECRET = "s3cr3t-4711"  # what must not be found


class Staff(ReactiveState):
    name: str = "Ada"
    salary: Annotated[str, Visible("pay")] = SECRET
    notes: Annotated[list[str], Visible("hr")] = [SECRET]
    tags: Annotated[AsSignal[dict[str, str]], Visible("hr")] = {"k": SECRET}
    wish: Annotated[Bound[str], Visible("pay")] = SECRET
    said: Bound[str] = ""
    _private: int = 3

    @computed_field
    @property
    def yearly(self) -> Annotated[str, Visible("pay")]:
        return f"12 x {self.salary}"

    @computed_field
    @cached_property
    def cached(self) -> Annotated[str, Visible("pay")]:
        return f"kept {self.salary}"

    @computed_field
    @property
    def is_paid(self) -> bool:
        return len(self.salary) > 3

    @event
    def rename(self, name: str):
        self.name = name

    @event
    def pay(self, salary: str):
        self.salary = salary

    @event
    def note(self, text: str):
        self.notes.append(text)

    @view
    def card(self):
        return fh.Div(self.name, "|", self.salary, "|", self.notes, "|", self.yearly, "|", self.is_paid, "|", self)


USERS = {
    "1": UserContext("1", permissions=["pay", "hr"]),
    "2": UserContext("2"),
    "3": UserContext("3", roles=["admin"]),
}


@pytest.fixture
def world():
    def page(staff):
        salary, yearly, tags = staff.signal.salary, staff.signal.yearly, staff.signal.tags
        return fh.Titled("x", salary, yearly, tags, staff.card(), staff, fh.P(staff.salary, staff.notes, staff.cached))

    provider = StateProvider(load_user_by_id=USERS.get, event_rate=float("inf"))
    app, _ = app_showing(Staff, StateConfig(scope=StateScope.GLOBAL), provider=provider, show=page)
    sign_in_routes(app.route, provider)
    return provider, app


def entered(app, who):
    client = TestClient(app)
    if who:
        client.get(f"/in/{who}")
    return client


@pytest.mark.parametrize(("who", "sees"), [(1, True), (3, True), (2, False), (None, False)])
def test_in_page_answers_resumes_and_repeats(world, who, sees):
    _, app = world
    client = entered(app, who)
    page = Page(client)
    assert (SECRET in page.html) == sees and "Ada" in page.html
    assert page.signals["Staff"]["salary"] == (SECRET if sees else "")
    # The event's own answer, where the page has no stream.
    new = f"{SECRET}-new"
    answer = page.send("Staff", "pay", salary=new, nonce="n" * 12)
    assert status(answer) == 200 and (new in answer.text) == sees
    again = page.send("Staff", "pay", salary=new, nonce="n" * 12)  # a repeat is answered with all that is shown
    assert "Ada" in again.text and (new in again.text) == sees
    assert (SECRET in page.send("Staff", "rename", name="Bea").text) == sees


@pytest.mark.parametrize("seen", [None, "last", "unknown"])
@pytest.mark.parametrize(("who", "sees"), [(1, True), (2, False)])
def test_in_streams_from_whichever_position(world, who, sees, seen):
    provider, app = world
    with TestClient(app) as client:
        client.get(f"/in/{who}")
        page = Page(client)
        payload = {"w": page.tokens, "n": {None: page.position, "last": page.position, "unknown": "x.1"}[seen]}
        headers = BROWSER | ({"last-event-id": page.position} if seen == "last" else {})
        with client.stream("POST", "/_faststate/stream", json=payload, headers=headers) as stream:
            assert stream.status_code == 200
            told, chunks = "", stream.iter_text()
            while "Ada" not in told:
                told += next(chunks)
            assert (SECRET in told) == sees
            with provider.modify(Staff) as staff:
                staff.salary, staff.notes, staff.name = f"{SECRET}-2", [f"{SECRET}-3"], "Bea"
            while "Bea" not in told:
                told += next(chunks)
            provider.sse_manager.broadcast_to_state("global:Staff", {"salary": f"{SECRET}-4", "name": "Cem"})
            while "Cem" not in told:
                told += next(chunks)
            assert (SECRET in told) == sees
            assert (f"{SECRET}-4" in told) == sees
            shown = patched_signals(told)["Staff"]
            assert shown["salary"] == (f"{SECRET}-4" if sees else "")


def test_what_is_wrong_with_a_hidden_field_is_not_said():
    class Pay(ReactiveState):
        amount: Annotated[int, Visible("pay"), Field(le=4711)] = 0

        @event
        def set(self, to: int):
            self.amount = to

    app, _ = app_showing(Pay)
    answer = Page(TestClient(app)).send("Pay", "set", to=5_000)
    assert status(answer) == 400 and "4711" not in answer.text


MARK = st.text(st.characters(codec="ascii", categories=["Lu"]), min_size=6, max_size=9).map(lambda t: f"QQ{t}QQ")


@settings(max_examples=60, deadline=None)
@given(
    secrets=st.lists(MARK, min_size=3, max_size=3, unique=True),
    held=st.sets(st.sampled_from(["pay", "hr", "other"])),
)
def test_no_byte_of_a_hidden_value_is_in_anything_made_for_a_viewer(secrets, held):
    async def make():
        registry = StateRegistry()
        values = {"salary": secrets[0], "notes": [secrets[1]], "tags": {"k": secrets[2]}, "wish": secrets[0]}
        state = await registry.get_state(StateIdentifier(StateScope.GLOBAL, "Staff"), Staff, **values)
        await registry.stop()
        return state

    seen = asyncio.run(make())._seen_by(UserContext(9, permissions=held))
    told = (
        fh.to_xml(seen) + str(seen.card()) + snapshot_frame(seen, frozenset(["card", "__ft__"])).decode() + repr(seen)
    )
    assert (secrets[0] in told) == ("pay" in held)
    assert (secrets[1] in told) == (secrets[2] in told) == ("hr" in held)


async def test_a_view_that_fails_without_a_hidden_field_does_not_stay_as_it_was_with_it(caplog):
    class Pay(ReactiveState):
        amount: Annotated[int, Visible("pay")] = 4711

        @view
        def doubled(self):
            return fh.P(self.amount + 1)

    registry = StateRegistry()
    state = await registry.get_state(StateIdentifier(StateScope.GLOBAL, "Pay"), Pay)
    await registry.stop()
    frame = snapshot_frame(state._seen_by(None), frozenset(["doubled"])).decode()
    assert "hidden></span>" in frame and "4712" not in frame and "doubled failed" in caplog.text
    assert "4712" in snapshot_frame(state, frozenset(["doubled"])).decode()
