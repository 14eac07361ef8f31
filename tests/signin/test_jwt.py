"""Signing in with a signed JWT in a cookie, as examples/signin_jwt.py does."""

from __future__ import annotations

import os
import time
from urllib.parse import urlsplit

import jwt
import pytest

from tests.support.client import BROWSER, message, status
from tests.support.signin import (
    EXAMPLES,
    PREFIX,
    CookiePromises,
    Visitor,
    asked,
    assert_no_stream,
    assert_stranger,
    serve,
)

KEY = "a key of the tests that has the sixty-four bytes which HS512 asks for"
# The example, with a user table that is out of reach while a file called "down" lies beside it.
FRAGILE = """
from pathlib import Path
import signin_jwt
from signin_jwt import app

class Table(dict):
    def get(self, name):
        if Path("down").exists():
            raise ConnectionError("db.internal:5432 refused the connection")
        return super().get(name)

signin_jwt.USERS = Table(signin_jwt.USERS)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory, EXAMPLES / "signin_jwt.py", env={"JWT_KEY": KEY}) as server:
        yield server


def token(key: str | None = KEY, algorithm: str = "HS256", headers: dict | None = None, **changed: object) -> str:
    """A token as the example makes them, with some claims changed, or left out where they are None."""
    claims = {"sub": "ada", "jti": "of-the-tests", "iat": int(time.time()), "exp": int(time.time()) + 60} | changed
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def _cut(text: str) -> str:
    return text.rpartition(".")[0] + "."


class TestJwt(CookiePromises):
    cookie = "token"

    def test_a_genuine_token_is_all_it_takes(self, visit):
        visitor = visit(cookies={"token": token()})
        with visitor.follow(visitor.page()):
            pass

    @pytest.mark.parametrize(
        "bad",
        {
            "expired": lambda: token(exp=int(time.time()) - 1),
            "of another key": lambda: token("another key of the tests, with thirty-two bytes"),
            "alg none": lambda: token(None, "none"),
            "alg none, with a signature": lambda: token(None, "none") + token().rpartition(".")[2],
            "another algorithm": lambda: token(KEY, "HS512"),
            "signature cut": lambda: _cut(token()),
            "claims of another": lambda: ".".join(
                [token().split(".")[0], token(sub="bob").split(".")[1], token().split(".")[2]]
            ),
            "no expiry": lambda: token(exp=None),
            "no subject": lambda: token(sub=None),
            "no id": lambda: token(jti=None),
            "a subject whom nobody knows": lambda: token(sub="eve"),
            "not yet": lambda: token(nbf=int(time.time()) + 3600),
            "no token": lambda: "rubbish",
            "empty": lambda: "",
        }.items(),
        ids=lambda case: case[0],
    )
    def test_a_bad_token_is_a_strangers(self, visit, bad):
        page = visit(cookies={"token": token()}).page()
        stranger = visit(cookies={"token": bad[1]()})
        assert_stranger(stranger)
        assert stranger.http.post(f"{PREFIX}stream", json=asked(page), headers=BROWSER).status_code == 204

    def test_a_token_that_has_expired_since_the_page_was_loaded_ends_its_events(self, visit):
        visitor = visit(cookies={"token": token()})
        page = visitor.page()
        visitor.http.cookies.delete("token")
        visitor.http.cookies.set("token", token(exp=int(time.time()) - 1))
        assert_stranger(visitor)
        assert status(visitor.send("Note", "write", page, text="late")) in (401, 403)
        assert_no_stream(visitor, page)

    def test_a_wrong_password_signs_nobody_in(self, visit):
        visitor = visit()
        assert 'role="alert"' in visitor.http.post("/login", data={"name": "ada", "password": "tea"}).text
        assert_stranger(visitor)


@pytest.fixture
def fragile(tmp_path_factory):
    """A server whose user table can be put out of reach."""
    source = tmp_path_factory.mktemp("app") / "fragile.py"
    source.write_text(FRAGILE)
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    with serve(tmp_path_factory, source, env={"JWT_KEY": KEY, "PYTHONPATH": path}, errors=True) as server:
        yield server


def test_a_loader_that_fails_is_a_503_that_lets_nobody_in_and_tells_nothing(fragile):
    with Visitor(fragile.url, {"token": token()}) as visitor:
        page = visitor.page()
        (fragile.cwd / "down").touch()
        stream = visitor.http.post(f"{PREFIX}stream", json=asked(page), headers=BROWSER)
        for response in (visitor.http.get("/"), stream):
            assert response.status_code == 503
            assert "db.internal" not in response.text
        refused = visitor.send("Note", "write", page, text="lost")
        assert (refused.status_code, status(refused)) == (200, 503)
        assert message(refused) and "db.internal" not in refused.text
        (fragile.cwd / "down").unlink()
        assert visitor.note() == ""
        assert "db.internal" in fragile.output()  # the operator is told
        visitor.http.cookies.clear()
        assert urlsplit(visitor.http.get("/").headers["location"]).path == "/login"
