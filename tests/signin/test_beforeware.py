"""Signing in with FastHTML's Beforeware, as examples/signin_beforeware.py does."""

from __future__ import annotations

import pytest

from tests.support.client import patched_signals, status
from tests.support.signin import EXAMPLES, SignInPromises, assert_stranger, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory, EXAMPLES / "signin_beforeware.py") as server:
        yield server


class TestBeforeware(SignInPromises):
    in_session = True

    @pytest.mark.parametrize(("name", "password"), [("ada", "castle"), ("ada", ""), ("nobody", "engine"), ("é", "é")])
    def test_a_wrong_password_signs_nobody_in(self, visit, name, password):
        visitor = visit()
        response = visitor.http.post("/login", data={"name": name, "password": password})
        assert 'role="alert"' in response.text
        assert_stranger(visitor)

    def test_the_beforewares_redirect_takes_the_page_of_an_event_to_the_sign_in(self, visit):
        refused = visit().send("Note", "write", text="evil")
        assert (refused.status_code, status(refused)) == (200, 303)
        assert patched_signals(refused.text) == {"_fs": {"go": "/login"}}
