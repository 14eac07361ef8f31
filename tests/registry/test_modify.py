"""`modify`: on the loop and outside it, under the rights of a request, and again under the lock."""

import asyncio
import threading

import pytest
from fasthtml import common as fh
from starlette.testclient import TestClient

from faststate import AuthorizationError, ReactiveState, StateConfig, StateScope, UserContext, fast_app
from faststate.registry.sync_calls import call_from_anywhere, loop_for_scripts
from faststate.scheduling.waits import Done
from tests.support.requests import request_of
from tests.support.states import provider_of, set_fields

pytestmark = pytest.mark.usefixtures("in_tmp_path")

USERS = {1: UserContext(1), 2: UserContext(2)}


class Doc(ReactiveState):
    members: list[int] = [1, 2]
    text: str = ""


def is_member(user, doc, action):
    return user is not None and user.id in doc.members


@pytest.fixture
def provider():
    return provider_of(Doc, StateConfig(scope=StateScope.GLOBAL, authorize=is_member), load_user_by_id=USERS.get)


@pytest.fixture
def app(provider):
    app, rt = fast_app(state_provider=provider, secret_key="for tests")

    @rt("/enter")
    async def enter(request, user: int):
        await provider.login(request, USERS[user])
        return fh.P("in")

    @rt("/write/{text}")
    async def write(request, text: str):
        await set_fields(provider.modify(Doc, request), text=text)
        return fh.P("written")

    @rt("/thread/{text}")
    def write_in_a_thread(request, text: str):
        with provider.modify(Doc, request) as doc:
            doc.text = text
        return fh.P("written")

    return app


def entered(app, user):
    client = TestClient(app)
    client.get("/enter", params={"user": user})
    return client


@pytest.mark.parametrize("path", ["/write", "/thread"])
def test_modify_with_a_request_has_its_user_s_rights(app, provider, path):
    assert entered(app, 1).get(f"{path}/mine").status_code == 200
    assert TestClient(app).get(f"{path}/theirs").status_code == 401
    with provider.modify(Doc) as doc:
        assert doc.text == "mine"
        doc.members.remove(2)
    assert entered(app, 2).get(f"{path}/theirs").status_code == 403


async def test_who_was_removed_while_he_waited_for_the_lock_changes_nothing(provider):
    request = request_of({"user_id": 2})
    locked, asked = asyncio.Event(), asyncio.Event()

    async def remove():
        async with provider.modify(Doc) as doc:
            locked.set()
            await asked.wait()
            doc.members.remove(2)

    async def write():
        await locked.wait()
        await set_fields(provider.modify(Doc, request), text="never")

    removing, writing = asyncio.ensure_future(remove()), asyncio.ensure_future(write())
    await locked.wait()
    entry = provider.registry.find("global:Doc")
    # Until the writer, who was a member when it was asked about him, waits for the lock.
    while entry.users < 2:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    asked.set()
    await removing
    with pytest.raises(AuthorizationError):
        await writing
    assert provider.registry.peek("global:Doc").text == ""
    assert entry.owner is None and entry.users == 0


async def test_on_a_loop_a_call_is_a_coroutine_to_be_awaited():
    async def answer():
        return asyncio.get_running_loop()

    call = call_from_anywhere(lambda: None, answer())
    assert asyncio.iscoroutine(call)
    assert await call is asyncio.get_running_loop()


async def test_in_a_thread_a_call_has_run_on_the_app_s_loop_when_it_returns():
    loop = asyncio.get_running_loop()

    async def where():
        return asyncio.get_running_loop()

    done = await asyncio.to_thread(lambda: call_from_anywhere(lambda: loop, where()))
    assert isinstance(done, Done) and done.value is loop
    assert await done is loop


def test_in_a_script_a_call_runs_on_a_loop_of_its_own_and_raises_what_it_raises():
    async def where():
        return asyncio.get_running_loop(), threading.current_thread().name

    async def fail():
        raise ZeroDivisionError

    loop, thread = call_from_anywhere(lambda: None, where()).value
    assert loop is loop_for_scripts() and thread == "faststate-scripts"
    with pytest.raises(ZeroDivisionError):
        call_from_anywhere(lambda: None, fail())
