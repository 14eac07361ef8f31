"""The context of a request: its session, which may have ended, its user, and what is done behind its answer."""

import pytest
from fasthtml import common as fh
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from faststate import ConfigurationError, IdentifierError, ReactiveState, StateProvider, UserContext, fast_app
from faststate.provider.context import RequestContext
from faststate.sessions.caller import SESSION_ID
from tests.support.states import provider_of

pytestmark = pytest.mark.usefixtures("in_tmp_path")


def context(provider=None, **scope):
    provider = provider or StateProvider(secret_key="for tests")
    scope = {"type": "http", "headers": [], "path_params": {}, "root_path": "", "session": {}, **scope}
    return RequestContext(provider, HTTPConnection(scope))


def test_a_session_id_is_made_once_and_only_when_it_is_asked_for():
    made = context()
    assert made.session_id() is None and not made.fresh_session
    first = made.session_id(make=True)
    assert made.session_id(make=True) == made.session_id() == first == made.session[SESSION_ID]
    assert made.fresh_session and len(first) >= 20


@pytest.mark.parametrize("kept", [None, "", 7, ["x"], {"a": 1}])
def test_what_is_no_session_id_in_a_session_is_none(kept):
    assert context(session={SESSION_ID: kept}).session_id() is None


def test_no_session_can_begin_where_no_cookie_can_be_set():
    with pytest.raises(IdentifierError):
        context(type="websocket").session_id(make=True)
    bare = context()
    del bare.connection.scope["session"]
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        bare.session_id()


def test_the_client_s_address_is_the_server_s_word():
    assert context(client=("10.0.0.7", 5)).address == "10.0.0.7"
    assert context(client=None).address == ""
    forwarded = context(client=("10.0.0.7", 5), headers=[(b"x-forwarded-for", b"1.2.3.4")])
    assert forwarded.address == "10.0.0.7"


async def test_nobody_is_asked_about_again_and_somebody_is_remembered():
    asked = []

    def load(connection):
        asked.append(connection)
        return UserContext(1) if len(asked) > 1 else None

    made = context(StateProvider(user_loader=load, secret_key="for tests"))
    assert await made.user() is None  # a Beforeware may sign somebody in yet
    assert (await made.user()).id == (await made.user()).id == 1
    assert len(asked) == 2
    made.forget_user()
    await made.user()
    assert len(asked) == 3
    made.become(None)
    assert await made.user() is None and len(asked) == 3


def test_what_is_put_off_is_done_behind_the_answer_or_at_once_where_nobody_would_tell():
    done = []
    lone = context()
    lone.after_answer(lambda: done.append("at once"))
    assert done == ["at once"]
    served = context()
    served.await_answer()
    served.after_answer(lambda: done.append("later"))
    assert done == ["at once"]
    served.answered()
    served.answered()
    assert done == ["at once", "later"]


def test_an_ended_session_is_empty_and_its_answer_takes_no_cookie_away():
    class Note(ReactiveState):
        text: str = ""

    provider = provider_of(Note)
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/seen")
    def seen(session):
        return fh.P(",".join(sorted(session)))

    @rt("/enter")
    async def enter(request, session):
        await provider.login(request, UserContext(1))
        return fh.P("in")

    @rt("/leave")
    async def leave(request):
        await provider.logout(request)
        return fh.P("out")

    @rt("/noted")
    def noted(note: Note):
        return fh.P(note)

    client = TestClient(app)
    client.get("/enter")
    kept = dict(client.cookies)
    assert "session_id,user_id" in client.get("/seen").text
    client.get("/leave")
    old = TestClient(app, cookies=kept)
    answer = old.get("/seen")
    assert "session_id" not in answer.text and "user_id" not in answer.text
    # Another request may have signed in meanwhile: its cookie would be lost with this answer's.
    assert "set-cookie" not in answer.headers
    assert "set-cookie" in old.get("/noted").headers  # what needs a session begins another one
