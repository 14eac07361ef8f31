"""Session cookies: what was read a moment ago is known again, nothing else is, and all is as Starlette has it."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from fasthtml import common as fh
from itsdangerous import TimestampSigner
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response

from faststate import StateProvider, fast_app
from faststate.fasthtml.cookies import RememberingSessionMiddleware

NOW = 1_700_000_000


@pytest.fixture
def clock(monkeypatch):
    times = {"now": NOW}
    monkeypatch.setattr("time.time", lambda: times["now"])
    return times


def signed(content, key="key"):
    return TimestampSigner(key).sign(b64encode(json.dumps(content).encode()))


def middleware(app, cls=RememberingSessionMiddleware, key="key", max_age=60):
    return cls(app, secret_key=key, session_cookie="session_", max_age=max_age)


async def ask(app, *cookies, then=lambda request: None, method="POST"):
    """Send these cookie headers; return the session that the app finds, and the headers of its answer."""
    found, sent = [], []

    async def handler(scope, receive, send):
        request = Request(scope)
        found.append(json.loads(json.dumps(scope["session"])))
        then(request)
        await Response("body", headers={"vary": "Accept"})(scope, receive, send)

    async def send(message):
        sent.append(message)

    app.app = handler
    scope = {"type": "http", "method": method, "path": "/", "headers": [(b"cookie", cookie) for cookie in cookies]}
    await app(scope, None, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return found[0], [pair for pair in sent[0]["headers"] if pair[0] in (b"vary", b"set-cookie")]


async def test_a_cookie_that_was_read_before_still_grows_old(clock):
    app = middleware(None)
    cookie = b"session_=" + signed({"n": 1})
    for clock["now"] in (NOW, NOW, NOW + 60):
        assert (await ask(app, cookie))[0] == {"n": 1}
    for clock["now"] in (NOW + 61, NOW + 61, NOW - 1):  # the last: a clock that was set back
        assert (await ask(app, cookie))[0] == {}
    for_ever = middleware(None, max_age=None)
    for clock["now"] in (NOW, NOW + 10**9):
        assert (await ask(for_ever, cookie))[0] == {"n": 1}


async def test_a_cookie_that_was_read_before_is_known_by_all_of_it_and_to_its_own_key_alone(clock):
    app, rotated = middleware(None), middleware(None, key="new key")
    cookie, other = signed({"n": 1}), signed({"n": 2})
    for _ in range(2):
        assert (await ask(app, b"session_=" + cookie))[0] == {"n": 1}
    cut = cookie.index(b".")
    for forged in (other[: other.index(b".")] + cookie[cut:], cookie[:-1], cookie + b"A", cookie.swapcase(), b""):
        assert (await ask(app, b"session_=" + forged))[0] == {}
    assert (await ask(app, b"session=" + cookie))[0] == {}
    assert (await ask(rotated, b"session_=" + cookie))[0] == {}
    assert (await ask(rotated, b"session_=" + signed({"n": 3}, "new key")))[0] == {"n": 3}


async def test_each_request_has_a_session_of_its_own(clock):
    def change(request):
        request.scope["session"]["n"] = 2
        request.scope["session"].get("list", []).append(1)

    for content in ({"n": 1}, {"n": 1, "list": []}):
        app, cookie = middleware(None), b"session_=" + signed(content)
        for _ in range(3):
            assert (await ask(app, cookie, then=change))[0] == content


CHANGES = {
    "nothing": lambda request: None,
    "looked at": lambda request: request.session,
    "changed": lambda request: request.session.update(n=2),
    "changed unseen": lambda request: dict.update(request.scope["session"], n=2),
    "emptied": lambda request: request.session.clear(),
    "replaced": lambda request: request.scope.update(session=type(request.session)(n=3)),
    "not to be written": lambda request: (request.session.update(n=2), setattr(request.session, "modified", False)),
}


@pytest.mark.parametrize("then", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("content", [{"n": 1}, {"n": [1]}, {}, None])
async def test_an_answer_is_the_one_that_starlette_gives(clock, content, then):
    cookies = [] if content is None else [b"other=1; session_=" + signed(content)]
    ours, theirs = middleware(None), middleware(None, SessionMiddleware)
    expected = await ask(theirs, *cookies, then=then)
    for _ in range(3):
        assert await ask(ours, *cookies, then=then) == expected


async def test_two_cookie_headers_are_read_as_starlette_reads_them(clock):
    one, two = b"session_=" + signed({"n": 1}), b"session_=" + signed({"n": 2})
    for pair in ((one, two), (two, one), (one, b"other=1"), (b"other=1", one)):
        expected = await ask(middleware(None, SessionMiddleware), *pair)
        app = middleware(None)
        for _ in range(2):
            assert await ask(app, *pair) == expected


async def test_a_cookie_that_comes_again_is_not_verified_again(clock, monkeypatch):
    app = middleware(None)
    cookie = b"session_=" + signed({"n": 1})
    await ask(app, cookie)
    monkeypatch.setattr(app, "signer", None)
    assert (await ask(app, cookie))[0] == {"n": 1}


async def test_cookies_are_remembered_within_bounds(clock, monkeypatch):
    monkeypatch.setattr("faststate.fasthtml.cookies.COOKIES_KEPT", 10)
    app = middleware(None)
    for n in [*range(50)] * 2:
        assert (await ask(app, b"session_=" + signed({"n": n})))[0] == {"n": n}
        assert (await ask(app, b"session_=x" + signed({"n": n})))[0] == {}
    assert len(app._verified._kept) == 10
    await ask(app, only := b"session_=" + signed({"n": "a page"}), method="GET")
    assert only not in app._verified._kept
    long = b"session_=" + signed({"n": "x" * 5_000})
    assert (await ask(app, long))[0] == {"n": "x" * 5_000} and long not in app._verified._kept


def test_an_app_has_it_in_place_of_starlettes_own_and_leaves_any_other():
    class Own(SessionMiddleware):
        pass

    app, _ = fast_app(state_provider=StateProvider(), secret_key="key")
    own = fh.FastHTML(secret_key="key", sess_cls=Own)
    StateProvider().setup(own)
    for made, cls in ((app, RememberingSessionMiddleware), (own, Own)):
        assert [m.cls for m in made.user_middleware if "session_cookie" in m.kwargs] == [cls]
