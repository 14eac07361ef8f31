"""StateConfig: the rules of single states, their owners, and what is refused when it is said."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated
from uuid import UUID

import pytest
from fasthtml.common import Titled
from starlette.testclient import TestClient

from faststate import (
    AuthenticationError,
    AuthorizationError,
    Bound,
    ConfigurationError,
    ReactiveState,
    Record,
    ServerOnly,
    StateConfig,
    StateIdentifier,
    StateProvider,
    StateScope,
    UserContext,
    event,
    fast_app,
    view,
)
from tests.support.apps import user_of_header
from tests.support.client import BROWSER, Page, browser, message, patched_signals, status
from tests.support.states import provider_of, set_fields
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("in_tmp_path")


class Doc(ReactiveState):
    text: str = "written"
    members: ServerOnly[list[str]] = ["ann", "bob"]

    @event
    def write(self, text: str):
        self.text = text

    @event
    async def remove(self, who: str):
        self.members.remove(who)

    @event
    async def slowly(self):
        self.text = "one"
        yield None
        STEP.set()
        await GO.wait()
        yield None
        self.text = "two"


class Log(ReactiveState):
    lines: list[str] = []

    @event
    def add(self, doc: Annotated[Doc, Record("which")], which: str):
        self.lines.append(doc.text)

    @view
    def listing(self):
        return str(self.lines)


ASKED = []


class Site:
    """An app with documents under `authorize`, and users named by the header `x-user`."""

    def __init__(self, authorize, **options):
        ASKED.clear()
        self.provider = StateProvider(user_loader=user_of_header)
        self.provider.register_state(Doc, StateConfig(scope=StateScope.RECORD, authorize=authorize, **options))
        self.provider.register_state(Log, StateConfig(scope=StateScope.GLOBAL))
        self.app, rt = fast_app(state_provider=self.provider, secret_key="for tests")

        @rt("/doc/{doc_id}")
        def doc(doc: Doc):
            return Titled("Doc", doc.signal.text)

        @rt("/log")
        def log(log: Log):
            return Titled("Log", log.listing())

        @rt("/modify/{doc_id}")
        async def modify(req, doc_id: str):
            await set_fields(self.provider.modify(Doc, req), text="modified")
            return "done"

    def page(self, who=None, path="/doc/1"):
        return Page(TestClient(self.app, headers={"x-user": who} if who else {}), path)

    @property
    def doc(self):
        return self.provider.registry.peek("record:Doc:1")


def members_alone(user, state, action):
    ASKED.append((user and user.id, type(state).__name__, action))
    return user is not None and user.id in state.members


async def members_alone_later(user, state, action):
    await asyncio.sleep(0)
    return members_alone(user, state, action)


class Members:
    async def __call__(self, user, state, action):
        return await members_alone_later(user, state, action)


# -- authorize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorize", [members_alone, members_alone_later, Members()])
def test_authorize_decides_who_reads_changes_and_modifies_and_is_told_what_it_is_about(authorize):
    site = Site(authorize)
    page = site.page("ann")
    assert page.response.status_code == 200 and set(ASKED) == {("ann", "Doc", "read")}
    ASKED.clear()
    assert status(page.send("Doc", "write", instance_id="1", text="by ann")) == 200
    assert ASKED[0] == ("ann", "Doc", "write") and site.doc.text == "by ann"
    ASKED.clear()
    assert page.client.get("/modify/1").text == "done" and set(ASKED) == {("ann", "Doc", "modify")}
    ASKED.clear()
    log = site.page("ann", "/log")
    assert status(log.send("Log", "add", which="1")) == 200 and set(ASKED) == {("ann", "Doc", "Log.add")}
    assert site.provider.registry.peek("global:Log").lines == ["modified"]


@pytest.mark.parametrize("authorize", [members_alone, members_alone_later, Members()])
@pytest.mark.parametrize(("who", "expected"), [(None, 401), ("eve", 403)])
def test_whom_authorize_turns_away_gets_nothing_in_any_way(authorize, who, expected):
    site = Site(authorize)
    site.page("ann")
    client = TestClient(site.app, headers={"x-user": who} if who else {})
    response = client.get("/doc/1")
    assert response.status_code == expected and "written" not in response.text
    assert client.get("/modify/1").status_code == expected
    refused = Page(client, "/log").send("Log", "add", which="1")
    assert (refused.status_code, status(refused)) == (200, expected) and message(refused)
    assert site.doc.text == "written" and site.provider.registry.peek("global:Log").lines == []


def test_actions_are_decided_one_by_one():
    site = Site(lambda user, state, action: action in ("read", "write"))
    page = site.page()
    assert status(page.send("Doc", "write", instance_id="1", text="new")) == 200
    assert status(page.send("Doc", "remove", instance_id="1", who="ann")) == 401  # nobody is signed in
    assert status(site.page("ann").send("Doc", "remove", instance_id="1", who="ann")) == 403
    assert site.doc.members == ["ann", "bob"] and page.client.get("/modify/1").status_code == 401


@pytest.mark.parametrize("answer", [None, False, 0, "", [], {}])
@pytest.mark.parametrize("later", [False, True])
def test_what_is_not_true_is_no(answer, later):
    async def authorize(user, state, action):
        return answer

    site = Site(authorize if later else lambda *about: answer)
    assert site.page("ann").response.status_code == 403
    assert site.page().response.status_code == 401


@pytest.mark.parametrize(
    ("error", "expected"), [(AuthenticationError("who are you"), 401), (AuthorizationError("not you"), 403)]
)
def test_a_refusal_that_authorize_raises_is_the_answer(error, expected):
    def authorize(user, state, action):
        if action != "read" or user is None:
            raise error
        return True

    site = Site(authorize)
    response = site.page().response
    assert (response.status_code, response.text) == (expected, str(error))
    refused = site.page("ann").send("Doc", "write", instance_id="1", text="new")
    assert (refused.status_code, status(refused), message(refused)) == (200, expected, str(error))
    assert site.doc.text == "written"


class Broken(Exception):
    """An error of the app's own rule."""


def test_a_rule_that_fails_allows_nothing_and_shows_nothing_of_its_error(caplog):
    broken = []

    def authorize(user, state, action):
        if action in broken:
            raise Broken("a detail of the database")
        return True

    site = Site(authorize)
    page = site.page("ann")
    client = TestClient(site.app, headers={"x-user": "ann"}, raise_server_exceptions=False)
    broken.append("read")
    response = client.get("/doc/1")
    assert response.status_code == 500 and "written" not in response.text and "detail" not in response.text
    payload = {"w": page.tokens[:1], "n": ""}
    client.cookies = page.client.cookies
    stream = client.post("/_faststate/stream", json=payload, headers=BROWSER)
    assert stream.status_code == 500 and "written" not in stream.text and "detail" not in stream.text
    broken[:] = ["write"]
    refused = page.send("Doc", "write", instance_id="1", text="new")
    assert (refused.status_code, status(refused)) == (200, 500) and "detail" not in refused.text
    assert site.doc.text == "written" and "a detail of the database" in caplog.text


def test_an_event_that_is_committed_is_no_failure_when_its_page_cannot_be_told(caplog):
    def authorize(user, state, action):
        if state.text == "new":
            raise Broken
        return True

    site = Site(authorize)
    response = site.page("ann").send("Doc", "write", instance_id="1", text="new")
    assert status(response) == 204 and "new" not in response.text and site.doc.text == "new"
    assert "the rule of Doc failed" in caplog.text


async def test_a_member_who_is_removed_between_the_check_and_the_lock_is_refused():
    checked, go = asyncio.Event(), asyncio.Event()

    async def authorize(user, state, action):
        allowed = user.id in state.members
        if user.id == "bob" and action == "write" and allowed:
            checked.set()
            await go.wait()
        return allowed

    site = Site(authorize)
    async with browser(site.app, headers={"x-user": "bob"}) as bob, browser(site.app, headers={"x-user": "ann"}) as ann:
        his, hers = await Page.open(bob, "/doc/1"), await Page.open(ann, "/doc/1")
        writing = asyncio.create_task(his.send("Doc", "write", instance_id="1", text="by bob"))
        await checked.wait()
        assert status(await hers.send("Doc", "remove", instance_id="1", who="bob")) == 200
        go.set()
        assert status(await writing) == 403
    assert site.doc.text == "written"


async def test_a_member_who_is_removed_while_he_waits_for_the_lock_is_refused():
    site = Site(members_alone_later)
    async with browser(site.app, headers={"x-user": "bob"}) as bob:
        his = await Page.open(bob, "/doc/1")
        async with site.provider.modify(Doc, record_id=1) as doc:
            ASKED.clear()
            writing = [
                asyncio.create_task(his.send("Doc", "write", instance_id="1", text="by bob")),
                asyncio.create_task(bob.get("/modify/1")),
                asyncio.create_task((await Page.open(bob, "/log")).send("Log", "add", which="1")),
            ]
            await eventually(lambda: {action for _, _, action in ASKED} >= {"write", "modify", "Log.add"})
            doc.members.remove("bob")
        assert [status(response) for response in await asyncio.gather(*writing)] == [403, 403, 403]
    assert site.doc.text == "written" and site.provider.registry.peek("global:Log").lines == []


async def test_a_member_who_is_removed_between_two_steps_of_a_generator_takes_no_second_step():
    global STEP, GO
    STEP, GO = asyncio.Event(), asyncio.Event()
    site = Site(members_alone)
    async with browser(site.app, headers={"x-user": "bob"}) as bob:
        his = await Page.open(bob, "/doc/1")
        running = asyncio.create_task(his.send("Doc", "slowly", instance_id="1"))
        # Between two steps the lock is free for a moment: whoever waits for it comes first.
        await STEP.wait()
        removing = asyncio.create_task(remove(site, "bob"))
        await eventually(lambda: site.provider.registry.locks.waiting)
        GO.set()
        assert status(await running) == 403
        await removing
    assert site.doc.text == "one" and site.doc.members == ["ann"]


async def remove(site, who):
    async with site.provider.modify(Doc, record_id=1) as doc:
        doc.members.remove(who)


def test_the_state_is_shown_to_authorize_whole_and_read_only():
    def authorize(user, state, action):
        state.text = "changed by the rule"
        return True

    client = TestClient(Site(authorize).app, raise_server_exceptions=False)
    assert client.get("/doc/1").status_code == 500  # ReadOnlyStateError


# -- owners ------------------------------------------------------------------------------------------------------------


def owned(name="Owned", **fields):
    @event(owner_only=True)
    def act(self):
        self.count += 1

    annotations = {"count": int} | {field: value[0] for field, value in fields.items()}
    body = {"count": 0, "act": act} | {field: value[1] for field, value in fields.items()}
    return type(name, (ReactiveState,), {"__module__": __name__, "__annotations__": annotations, **body})


def act(config, cls, who, **first):
    """Send the event `act` of the one state as `who`; return the answer."""
    provider = provider_of(cls, config, user_loader=lambda r: UserContext(who) if who is not None else None)
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/")
    async def index(req):
        state = await provider.get_state(cls, req, **first)
        return Titled("x", state.signal.count)

    response = Page(TestClient(app)).send(cls.__name__, "act")
    return status(response)


UID = UUID(int=5)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"user_id": (str, "ann")}, {}),
        ({"owner_id": (str, "ann")}, {}),
        ({"user_id": (str, "ann"), "owner_id": (str, "eve")}, {}),
        ({"author": (str, "ann")}, {"owner": "author"}),
        ({"author": (str, "ann"), "user_id": (str, "eve")}, {"owner": "author"}),
        ({"author": (ServerOnly[str], "ann")}, {"owner": "author"}),
    ],
)
def test_the_owner_is_the_field_that_says_so(fields, options):
    config, cls = StateConfig(scope=StateScope.GLOBAL, **options), owned(**fields)
    assert act(config, cls, "ann") == 200 and act(config, cls, "eve") == 403 and act(config, cls, None) == 401


@pytest.mark.parametrize("owner", [5, "5"])
@pytest.mark.parametrize("who", [5, "5"])
def test_an_owner_is_known_by_a_number_as_by_its_text(owner, who):
    assert act(StateConfig(scope=StateScope.GLOBAL), owned(user_id=(type(owner), owner)), who) == 200


def test_an_owner_may_be_a_uuid():
    config, cls = StateConfig(scope=StateScope.GLOBAL), owned(user_id=(UUID, UID))
    assert act(config, cls, UID) == act(config, cls, str(UID)) == 200 and act(config, cls, UUID(int=6)) == 403


def test_a_users_state_is_owned_by_the_user_of_its_key_unless_a_field_says_otherwise():
    config = StateConfig(scope=StateScope.USER)
    assert act(config, owned(), "ann") == 200
    assert act(config, owned(user_id=(str | None, None)), "ann") == 200
    assert act(config, owned(user_id=(str | None, "eve")), "ann") == 403


def test_an_owner_field_that_names_nobody_is_nobodys():
    config, cls = StateConfig(scope=StateScope.GLOBAL), owned(user_id=(str | None, None))
    assert act(config, cls, "ann") == 403 and act(config, cls, "None") == 403


@pytest.mark.parametrize("scope", [StateScope.GLOBAL, StateScope.SESSION])
def test_owner_only_without_an_owner_is_told_at_setup_and_denies(scope, caplog):
    assert act(StateConfig(scope=scope), owned(), "ann") == 403
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING and "owner_only" in r.getMessage()]
    assert "Owned.act" in record.getMessage() and "StateConfig(owner=...)" in record.getMessage()


def test_a_state_that_becomes_the_users_at_sign_in_has_an_owner_then(caplog):
    config = StateConfig(on_login="to_user")
    assert act(config, owned(), "ann") == 200 and act(config, owned(), None) == 401
    assert "owner_only" not in caplog.text


@pytest.mark.parametrize(
    ("fields", "options", "named"),
    [
        ({}, {"owner": "author"}, "owner='author' is not a field of Owned"),
        ({"user_id": (Bound[str], "ann")}, {}, "Owned.user_id says who the owner is: it cannot be Bound"),
        ({"author": (Bound[str], "ann")}, {"owner": "author"}, "Owned.author says who the owner is"),
    ],
)
def test_an_owner_that_cannot_be_is_refused_when_the_class_is_registered(fields, options, named):
    with pytest.raises(ConfigurationError, match=named):
        StateProvider().register_state(owned(**fields), StateConfig(scope=StateScope.GLOBAL, **options))


# -- what is refused when it is said -----------------------------------------------------------------------------------


def yields(user, state, action):
    yield False


async def yields_later(user, state, action):
    yield False


@pytest.mark.parametrize("authorize", [yields, yields_later])
def test_a_rule_that_yields_is_refused_since_what_it_makes_is_always_true(authorize):
    with pytest.raises(ConfigurationError, match="yields"):
        StateConfig(authorize=authorize)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scope": "session"}, "scope must be a StateScope, not 'session'"),
        ({"ttl": 0}, "ttl is in seconds, above 0, not 0"),
        ({"ttl": -1}, "ttl is in seconds"),
        ({"ttl": -1.5}, "ttl is in seconds"),
        ({"ttl": "60"}, "ttl is in seconds"),
        ({"ttl": True}, "ttl is in seconds"),
        ({"ttl": float("nan")}, "ttl is in seconds"),
        ({"permissions": "write"}, "permissions is a list of str, not a str"),
        ({"roles": "editor"}, "roles is a list of str, not a str"),
        ({"permissions": 5}, "permissions is a list of names, not 5"),
        ({"roles": [""]}, "roles is a list of names"),
        ({"roles": [5]}, "roles is a list of names"),
        ({"authorize": "members"}, "authorize must be a callable \\(user, state, action\\), not 'members'"),
        ({"on_login": "merge"}, "on_login is 'keep', 'drop' or 'to_user', not 'merge'"),
        ({"scope": StateScope.GLOBAL, "on_login": "to_user"}, "on_login='to_user' is for SESSION states, not for glob"),
        ({"scope": StateScope.COMPONENT, "on_login": "to_user"}, "not for component ones"),
        ({"scope": StateScope.USER, "on_login": "drop"}, "user states are not changed"),
        ({"merge": lambda mine, guests: None}, "it needs on_login='to_user'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options, named):
    with pytest.raises(ConfigurationError, match=named):
        StateConfig(**options)


@pytest.mark.parametrize("scope", list(StateScope))
def test_public_changes_nothing_about_who_may(scope):
    config = StateConfig(scope=scope, public=True, roles=["editor"])
    assert config.public and not StateConfig(scope=scope).public
    assert config.rule.roles == ("editor",) and config.for_class(owned()).public


def test_a_rule_of_the_class_is_asked_along_with_that_of_its_event():
    site = Site(lambda user, state, action: user is not None and user.id != "eve", requires_auth=True)
    assert site.page().response.status_code == 401 and site.page("eve").response.status_code == 403
    assert site.page("ann").response.status_code == 200


def test_what_can_be_asked_before_there_is_a_state_makes_none_for_who_is_turned_away():
    site = Site(members_alone, roles=["editor"])
    assert site.page("ann").response.status_code == 403 and site.doc is None and ASKED == []


def test_a_page_without_a_stream_that_lost_its_state_by_its_own_event_sees_it_vanish():
    site = Site(members_alone)
    response = site.page("ann").send("Doc", "remove", instance_id="1", who="ann")
    assert response.status_code == 200 and patched_signals(response.text)["Doc"] == {"1": {"text": ""}}
    assert StateIdentifier.parse("record:Doc:1").key in site.provider.registry
