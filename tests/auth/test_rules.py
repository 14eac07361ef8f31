"""Access rules: the one table that decides who may do what, and the user it decides on."""

from __future__ import annotations

import asyncio
import threading
from functools import cached_property
from uuid import UUID

import pytest
from fasthtml.common import Titled
from hypothesis import given
from hypothesis import strategies as st
from pydantic import computed_field, field_validator
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from faststate import (
    EventDefinitionError,
    ReactiveState,
    StateConfig,
    StateScope,
    UserContext,
    current_request,
    current_user,
    event,
    fast_app,
    get_current_request,
    get_current_user,
    requires_auth,
    view,
)
from faststate.auth.rules import AccessRule, authorize
from faststate.exceptions import AuthenticationError, AuthorizationError, NotStartedError
from tests.support.apps import user_of_header
from tests.support.client import Page, browser, stream_of
from tests.support.states import provider_of
from tests.support.waiting import eventually


def decide(user, rule, **about):
    """`authorize` to its end, for rules that wait for nothing."""
    asyncio.run(authorize(user, rule, **about))


ADA = UserContext(1, "ada", roles=["editor", "member"], permissions=["read", "write"])
ADMIN = UserContext(2, "root", roles=["admin"])
PLAIN = UserContext(UUID(int=3))
OK, DENIED, ANONYMOUS = None, AuthorizationError, AuthenticationError


@pytest.mark.parametrize(
    ("rule", "owner", "nobody", "plain", "ada", "admin"),
    [
        ({}, None, OK, OK, OK, OK),
        ({}, 99, OK, OK, OK, OK),
        ({"requires_auth": True}, None, ANONYMOUS, OK, OK, OK),
        ({"permissions": ("read",)}, None, ANONYMOUS, DENIED, OK, OK),
        ({"permissions": ("read", "write")}, None, ANONYMOUS, DENIED, OK, OK),
        ({"permissions": ("read", "delete")}, None, ANONYMOUS, DENIED, DENIED, OK),  # all of
        ({"roles": ("editor",)}, None, ANONYMOUS, DENIED, OK, DENIED),  # admin has every permission, not every role
        ({"roles": ("editor", "member")}, None, ANONYMOUS, DENIED, OK, DENIED),
        ({"roles": ("editor", "owner")}, None, ANONYMOUS, DENIED, DENIED, DENIED),  # all of
        ({"roles": ("admin",)}, None, ANONYMOUS, DENIED, DENIED, OK),
        ({"roles": ("editor",), "permissions": ("write",)}, None, ANONYMOUS, DENIED, OK, DENIED),
        ({"owner_only": True}, 1, ANONYMOUS, DENIED, OK, DENIED),
        ({"owner_only": True}, "1", ANONYMOUS, DENIED, OK, DENIED),
        ({"owner_only": True}, UUID(int=3), ANONYMOUS, OK, DENIED, DENIED),
        ({"owner_only": True}, str(UUID(int=3)), ANONYMOUS, OK, DENIED, DENIED),
        ({"owner_only": True}, None, ANONYMOUS, DENIED, DENIED, DENIED),  # nobody's is not everybody's
        ({"owner_only": True, "permissions": ("delete",)}, 1, ANONYMOUS, DENIED, DENIED, DENIED),
    ],
)
def test_each_rule_admits_whom_it_should(rule, owner, nobody, plain, ada, admin):
    for user, expected in ((None, nobody), (PLAIN, plain), (ADA, ada), (ADMIN, admin)):
        if expected is None:
            decide(user, AccessRule(**rule), owner_id=owner)
        else:
            with pytest.raises(expected) as caught:
                decide(user, AccessRule(**rule), owner_id=owner)
            assert caught.value.status == (401 if expected is ANONYMOUS else 403)


def test_a_user_without_an_id_does_not_own_what_nobody_owns():
    with pytest.raises(AuthorizationError):
        decide(UserContext(None), AccessRule(owner_only=True), owner_id=None)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "admin"]), max_size=4)


@given(NAMES, NAMES, NAMES, NAMES, st.booleans(), st.sampled_from([None, 1, 2]))
def test_a_rule_admits_exactly_those_who_satisfy_all_of_it(roles, permissions, want_roles, want, owner_only, owner):
    user = UserContext(1, roles=roles, permissions=permissions)
    admits = (
        ("admin" in roles or set(want) <= set(permissions))
        and set(want_roles) <= set(roles)
        and (not owner_only or owner == 1)
    )
    rule = AccessRule(permissions=tuple(want), roles=tuple(want_roles), owner_only=owner_only)
    if admits:
        decide(user, rule, owner_id=owner)
    else:
        with pytest.raises(AuthorizationError):
            decide(user, rule, owner_id=owner)
    assert user.has_permissions(want) == all(map(user.has_permission, want))
    assert user.has_roles(want_roles) == all(map(user.has_role, want_roles))


@pytest.mark.parametrize(
    "rule", [{"requires_auth": True}, {"permissions": ("a",)}, {"roles": ("a",)}, {"owner_only": True}]
)
def test_a_rule_that_turns_anybody_away_says_so(rule):
    assert AccessRule(**rule).restricts and not AccessRule().restricts


def test_a_refusal_names_neither_permission_nor_owner():
    for rule in (
        AccessRule(permissions=("see-salaries",)),
        AccessRule(roles=("auditor",)),
        AccessRule(owner_only=True),
    ):
        with pytest.raises(AuthorizationError) as caught:
            decide(PLAIN, rule, owner_id="owner-77")
        assert not any(word in str(caught.value) for word in ("see-salaries", "auditor", "owner-77"))


def test_a_user_is_made_as_the_requirements_have_it():
    user = UserContext(user_id=7, username="ada", roles=["editor"], permissions=["read"])
    assert (user.id, user.user_id, user.username, user.roles, user.permissions) == (7, 7, "ada", ["editor"], ["read"])
    assert UserContext(7).roles == UserContext(7).permissions == []
    assert repr(user) == "UserContext(user_id=7, username='ada')"


def test_users_do_not_share_the_lists_they_were_made_of():
    roles = ["editor"]
    user = UserContext(1, roles=roles)
    roles.append("admin")
    assert not user.has_role("admin")


async def test_outside_a_request_the_error_says_what_is_missing():
    with pytest.raises(NotStartedError, match="StateProvider"):
        get_current_request()
    with pytest.raises(NotStartedError, match="StateProvider"):
        await get_current_user(HTTPConnection({"type": "http"}))


def test_the_request_being_served_is_the_one_in_its_context():
    request = HTTPConnection({"type": "http"})
    token = current_request.set(request)
    try:
        assert get_current_request() is request
    finally:
        current_request.reset(token)


# -- requires_auth -----------------------------------------------------------------------------------------------------


def made_with(**members):
    """A state class with these members."""
    return type("Made", (ReactiveState,), {"__module__": __name__, "__annotations__": {}, **members})


def plain(self):
    """A method."""


FULL = {"permissions": ["write"], "roles": ["editor"], "owner_only": True}


@pytest.mark.parametrize(
    ("decorate", "expected"),
    [
        (lambda f: requires_auth(event(f)), {}),
        (lambda f: event(requires_auth(f)), {}),
        (lambda f: requires_auth()(event(f)), {}),
        (lambda f: event(requires_auth()(f)), {}),
        (lambda f: event(requires_auth=True)(f), {}),
        (lambda f: requires_auth(**FULL)(event(f)), FULL),
        (lambda f: event(requires_auth(**FULL)(f)), FULL),
        (lambda f: event(**FULL)(f), FULL),
        (lambda f: requires_auth(permissions=["write"])(event(roles=["editor"], owner_only=True)(f)), FULL),
        (lambda f: event(permissions=["write"])(requires_auth(roles=["editor"], owner_only=True)(f)), FULL),
        (lambda f: requires_auth(roles=["editor"])(requires_auth(**FULL)(event(f))), FULL),
        (lambda f: requires_auth(event(requires_auth(**FULL)(f))), FULL),
        (lambda f: requires_auth(permissions=["a"])(event(permissions=["b"])(f)), {"permissions": ["b", "a"]}),
    ],
)
def test_requires_auth_over_and_under_event_says_what_its_arguments_would(decorate, expected):
    def act(self):
        """An event."""

    config = {"required": True, "permissions": [], "roles": [], "owner_only": False, **expected}
    made = made_with(act=decorate(act))
    assert made.act._auth_config == made().act._auth_config == config
    assert made._fs_schema().events["act"].rule.restricts


def test_an_event_without_a_guard_says_that_none_is_required():
    def act(self):
        """An event."""

    config = {"required": False, "permissions": [], "roles": [], "owner_only": False}
    assert made_with(act=event(act)).act._auth_config == config


def test_a_guard_keeps_its_own_lists():
    permissions = ["write"]
    made = made_with(act=requires_auth(permissions=permissions)(event(lambda self: None)))
    permissions.clear()
    assert made.act._auth_config["permissions"] == ["write"]


class Service:
    @requires_auth
    def method(self):
        """Reached by nobody."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: made_with(act=requires_auth(plain)),
        lambda: made_with(act=requires_auth(permissions=["a"])(lambda self: 1)),
        lambda: made_with(act=view(requires_auth(lambda self: "x"))),
        lambda: made_with(act=requires_auth(view(lambda self: "x"))),
        lambda: made_with(__ft__=requires_auth(lambda self: "x")),
        lambda: made_with(act=property(requires_auth(lambda self: 1))),
        lambda: made_with(act=requires_auth(property(lambda self: 1))),
        lambda: made_with(act=cached_property(requires_auth(plain))),
        lambda: made_with(act=computed_field(return_type=int)(property(requires_auth(lambda self: 1)))),
        lambda: made_with(act=staticmethod(requires_auth(lambda: 1))),
        lambda: made_with(act=requires_auth(staticmethod(lambda: 1))),
        lambda: made_with(act=classmethod(requires_auth(lambda cls: 1))),
        lambda: made_with(act=requires_auth(classmethod(lambda cls: 1))),
        lambda: made_with(act=field_validator("x", check_fields=False)(requires_auth(lambda cls, x: x))),
        lambda: requires_auth(made_with()),
        lambda: requires_auth(5),
        lambda: requires_auth(permissions="write"),
        lambda: requires_auth(roles="editor"),
        lambda: requires_auth(permissions=5),
        lambda: event(roles=[""])(plain),
        lambda: type("Made", (Service, ReactiveState), {"__module__": __name__}),
        lambda: requires_auth(fast_app()[0].get("/x")(lambda: "x")),
        lambda: requires_auth(fast_app()[1]("/x")(lambda: "x")),
    ],
)
@pytest.mark.usefixtures("in_tmp_path")
def test_a_guard_that_would_guard_nothing_is_an_error_at_once(make):
    with pytest.raises(EventDefinitionError):
        made_with(act=make())


def test_a_mixin_that_is_no_state_may_bring_guarded_events():
    class Closable:
        @requires_auth(roles=["editor"])
        @event
        def close(self):
            """An event."""

    made = type("Made", (Closable, ReactiveState), {"__module__": __name__})
    assert made.close._auth_config["roles"] == ["editor"]


# -- the context variables ---------------------------------------------------------------------------------------------

SEEN = []


def note(place):
    """Remembers whose request is being served here."""
    user, request = current_user.get(), current_request.get()
    SEEN.append((place, user and user.id, request and request.headers.get("x-user")))


def may(user, state, action):
    note(f"{action} by {user and user.id}")
    return True


class Doc(ReactiveState):
    text: str = ""

    @event
    def sync_event(self):
        note("sync event")
        self.text += "."

    @event
    async def async_event(self):
        note("async event")

    @event
    async def steps(self):
        note("step 1")
        yield None
        note("step 2")


@pytest.fixture
def app(in_tmp_path):
    SEEN.clear()
    provider = provider_of(Doc, StateConfig(scope=StateScope.GLOBAL, authorize=may), user_loader=user_of_header)

    def before_sync(request):
        note("before, sync")

    async def before_async(request):
        note(f"before, async, {getattr(await get_current_user(request), 'id', None)}")

    app, rt = fast_app(state_provider=provider, secret_key="for tests", before=[before_sync, before_async])

    @rt("/sync")
    def sync():
        note("sync")
        return "x"

    @rt("/async")
    async def asynchronous():
        note("async")
        assert (await get_current_user(get_current_request())) is current_user.get()
        return "x"

    @rt("/doc")
    def doc(doc: Doc):
        return Titled("Doc", doc.signal.text)

    async def connected(send):
        note("ws, connected")
        await send("in")

    def left():
        note("ws, left")

    @app.ws("/ws", conn=connected, disconn=left)
    async def ws(send):
        note("ws, async")
        await send("x")

    @app.ws("/ws-sync")
    def ws_sync():
        note("ws, sync")
        return "x"

    @rt("/meet/{how}")
    async def meet(how: str):
        await MEETING.wait()
        note(how)
        return "x"

    @rt("/meet-in-threads")
    def meet_in_threads():
        BARRIER.wait(5)
        note("thread")
        return "x"

    return app


BEFORE = [("before, sync", None, "ann"), ("before, async, ann", None, "ann")]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_sees_its_user_and_request_and_a_beforeware_its_request(app, kind):
    client = TestClient(app)
    client.get(f"/{kind}", headers={"x-user": "ann"})
    assert [*BEFORE, (kind, "ann", "ann")] == SEEN
    SEEN.clear()
    client.get(f"/{kind}")
    assert SEEN[-1] == (kind, None, None)


@pytest.mark.parametrize(
    ("name", "places"),
    [("sync_event", ["sync event"]), ("async_event", ["async event"]), ("steps", ["step 1", "step 2"])],
)
def test_an_event_sees_its_user_and_request(app, name, places):
    client = TestClient(app, headers={"x-user": "ann"})
    page = Page(client, "/doc")
    SEEN.clear()
    assert page.send("Doc", name).status_code in (200, 204)
    asked = (f"{name} by ann", "ann", "ann")
    assert SEEN[:3] == [*BEFORE, asked]
    assert [seen for seen in SEEN if "event" in seen[0] or "step" in seen[0]][-len(places) :] == [
        (place, "ann", "ann") for place in places
    ]


def test_the_opening_of_a_stream_sees_its_user_and_a_recheck_the_one_that_is_asked_about(app):
    with TestClient(app) as client:
        page = Page(client, "/doc", headers={"x-user": "bob"})
        SEEN.clear()
        with stream_of(page, {"x-user": "bob"}) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            assert SEEN[-1] == ("read by bob", "bob", "bob")
            SEEN.clear()
            page.tokens = []
            page.send("Doc", "sync_event", headers={"x-user": "ann"})
            assert any("text" in line for line in lines)
            assert ("read by bob", "bob", None) in SEEN
            assert ("read by bob", "ann", "ann") not in SEEN


def test_websockets_see_their_user_and_request(app):
    client = TestClient(app, headers={"x-user": "ann"})
    with client.websocket_connect("/ws") as socket:
        assert socket.receive_text() == "in"
        socket.send_text("{}")
        assert socket.receive_text() == "x"
    with client.websocket_connect("/ws-sync") as socket:
        socket.send_text("{}")
        assert socket.receive_text() == "x"
    assert [(f"ws, {place}", "ann", "ann") for place in ("connected", "async", "left", "sync")] == SEEN


async def test_requests_at_the_same_time_do_not_see_each_others_user(app):
    global MEETING, BARRIER
    MEETING, BARRIER = asyncio.Event(), threading.Barrier(2)
    async with browser(app) as client:
        waiting = [
            asyncio.create_task(client.get(f"/meet/{who}", headers={"x-user": who})) for who in ("ann", "bob", "cat")
        ]
        await eventually(lambda: len(SEEN) >= 6)  # all three are past their Beforeware
        MEETING.set()
        await asyncio.gather(*waiting)
        assert sorted(SEEN[-3:]) == [(who, who, who) for who in ("ann", "bob", "cat")]
        await asyncio.gather(*(client.get("/meet-in-threads", headers={"x-user": who}) for who in ("ann", "bob")))
    assert sorted(SEEN[-2:]) == [("thread", "ann", "ann"), ("thread", "bob", "bob")]
    assert current_user.get() is None and current_request.get() is None
