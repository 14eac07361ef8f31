"""Sessions that end in another process, however late that is heard: nothing more is told or changed in their name."""

import asyncio
import json

import pytest

from faststate import ReactiveState, StateConfig, StateScope, UserContext
from faststate.sessions import ended as module
from faststate.sessions.rights import RIGHTS_KEPT
from faststate.sse import SSEConnection
from tests.support.client import status
from tests.support.requests import request_of
from tests.support.waiting import Clock, eventually

from .office import open_office, send
from .providers import STATES, Case, add, entry_of, heard, instead, open_providers, settled

pytestmark = pytest.mark.timeout(30)


class Notes(ReactiveState):
    text: str = ""


NOTES = {**STATES, Notes: lambda: StateConfig(scope=StateScope.SESSION, in_memory=True)}


def stream(provider, session_id: str, *keys: str, user: UserContext | None = None) -> SSEConnection:
    """An open stream of a session."""
    connection = SSEConnection(provider.cluster.new_stream_id(), session_id=session_id, user=user)
    provider.sse_manager.add_connection(connection, keys)
    return connection


async def test_the_end_of_a_session_that_was_nobodys_is_forgotten_soon_by_all(redis_server):
    """Robots sign out by the million."""
    clock = Clock()
    async with open_providers(redis_server, clock=clock) as providers:
        a, b = providers
        await a.logout(request_of({"session_id": "somebody", "user_id": "ann"}))
        for place in range(20):
            await a.logout(request_of({"session_id": f"robot-{place}"}))
        await settled(redis_server, a, b)
        assert b.sessions.ended.is_ended("somebody") and b.sessions.ended.is_ended("robot-19")
        clock.now += module.NOBODYS_END + 1
        for provider in providers:
            provider.sessions.ended.known.forget_old()
            assert provider.sessions.ended.is_ended("somebody") and len(provider.sessions.ended.known) == 1


async def test_what_is_learned_in_a_sign_in_is_learned_wholly(redis_server, monkeypatch):
    """Another process has ended the session; its message comes behind the sign-in here that finds it out."""
    monkeypatch.setattr(module, "RELOADED_AFTER", 0.05)
    async with open_providers(redis_server, states=NOTES) as (a, b):
        await add(b, Case, session_id="old")
        async with b.modify(Notes, session_id="old") as notes:
            notes.text = "mine"
        old = stream(b, "old", "session:Case:old", "session:Notes:old")
        late: list = []

        async def never(topic, message) -> None:
            """The process that has it to say is killed before."""

        with instead(b.sessions, "accept", late.append), instead(a.cluster.announcer, "send", never):
            await a.login(request_of({"session_id": "old"}), UserContext("ann"))
            await b.login(request_of({"session_id": "old"}), UserContext("ann"))
            await settled(redis_server, b)
        for message in late:
            b.sessions.accept(message)
        assert late and b.sessions.ended.is_ended("old")
        assert old.silent or old.closed
        assert b.registry.keys_of_session("old") == []
        await eventually(lambda: old.closed)


async def test_pages_of_a_session_that_has_ended_load_themselves_again_though_nobody_tells_them(
    redis_server, monkeypatch
):
    monkeypatch.setattr(module, "RELOADED_AFTER", 0.05)
    async with open_providers(redis_server) as (a, b):
        old = stream(b, "old")

        async def never(topic, message) -> None:
            """The process that has it to say is killed before."""

        with instead(a.cluster.announcer, "send", never):
            await a.logout(request_of({"session_id": "old", "user_id": "ann"}))
            await eventually(lambda: old.silent)
            await eventually(lambda: old.closed)


async def test_ends_and_changed_rights_that_were_missed_are_learned_when_the_connection_is_there_again(redis_server):
    async with open_providers(redis_server) as (a, b):
        await entry_of(b, Case, session_id="gone")
        gone, other = stream(b, "gone"), stream(b, "other", user=UserContext("bob"))
        ann = stream(b, "ann's", user=UserContext("ann"))
        since = b.sessions.rights.changes
        with instead(b.cluster.following._news, "accept", lambda message: None):
            b.cluster.following.lost()
            await a.logout(request_of({"session_id": "gone", "user_id": "ann"}))
            await a.disconnect_user("ann")
            await heard(redis_server, b)
        assert not b.sessions.ended.is_ended("gone") and not ann.closed
        b.cluster.following.found()
        await settled(redis_server, b)
        assert b.sessions.ended.is_ended("gone") and gone.closed and ann.closed and not other.closed
        assert b.registry.keys_of_session("gone") == []
        assert b.sessions.rights.changed(UserContext("ann"), since)


async def test_where_it_is_not_known_what_was_missed_the_sessions_that_are_here_are_looked_up(redis_server):
    """The ends of a year are not read for that."""
    async with open_providers(redis_server) as (a, b):
        gone, other = stream(b, "gone"), stream(b, "other")
        for session_id in ("gone", "other"):
            await b.sessions.ended.settle(session_id)
        with instead(b.cluster.following._news, "accept", lambda message: None):
            b.cluster.following.lost()
            for session_id in ("gone", "elsewhere"):
                await a.logout(request_of({"session_id": session_id, "user_id": "ann"}))
            await heard(redis_server, b)
        b.cluster.following.timeline = "another"
        b.cluster.following.found()
        await eventually(lambda: gone.closed)
        await settled(redis_server, b)
        assert b.sessions.ended.is_ended("gone") and not other.closed and len(b.sessions.ended.known) == 1
        await b.sessions.ended.settle("elsewhere")
        assert b.sessions.ended.is_ended("elsewhere")


async def test_who_has_heard_nothing_for_long_asks_for_all_rights_again(redis_server):
    """Redis keeps changes of rights for so long and no longer."""
    async with open_providers(redis_server) as (_, b):
        bob, since = stream(b, "s", user=UserContext("bob")), b.sessions.rights.changes
        b.cluster.following.lost()
        b.cluster.following._lost_at -= RIGHTS_KEPT + 1
        b.cluster.following.found()
        await eventually(lambda: bob.closed)
        assert b.sessions.rights.changed(UserContext("bob"), since)


async def test_an_event_of_a_session_that_another_process_has_ended_changes_nothing_of_anybodys(redis_server):
    """A state of a user, or of all, knows nothing of sessions: the one that acts is looked at as well."""
    async with open_office(redis_server.url) as office:
        a, b = await office.browser()
        await a.get("/login/ann")
        tab, board = await office.tab(a, "/profile"), await office.tab(a)
        old = dict(a.cookies)
        with instead(office.sites[0].provider.sessions, "accept", lambda message: None):  # not heard yet
            await b.get("/logout")
            a.cookies.update(old)
            assert status(await send(a, tab, "Profile/add")) in (401, 403, 503)
            assert status(await send(a, board, "Board/add")) in (401, 403, 503)
            assert (await a.get("/profile")).status_code == 401, "it is known now"
        stored = [json.loads(value) for key in ("user:Profile:ann", "global:Board") if (value := of(redis_server, key))]
        assert not any(found["values"]["count"] for found in stored)


def of(server, key: str) -> bytes | None:
    """Return a state as Redis has it."""
    return server.do("HGET", f"{{faststate}}:s:{key}", "d")


async def test_two_sign_ins_of_one_session_in_two_processes_keep_what_it_had(redis_server):
    """A double click that two workers answer: both go on where the first one led."""
    async with open_providers(redis_server) as (a, b):
        await add(a, Case, by=3, session_id="old")
        requests = [request_of({"session_id": "old"}) for _ in range(2)]
        await asyncio.gather(*(p.login(r, UserContext("ann")) for p, r in zip((a, b), requests, strict=True)))
        kept = []
        for each in requests:
            found = await a.store.load(f"session:Case:{each.session['session_id']}")
            kept.append(json.loads(found.data)["values"]["count"] if found is not None else None)
        assert 3 in kept
        assert await a.store.load("session:Case:old") is None
