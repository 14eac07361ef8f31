"""Watch tokens: what the server signed comes back as it was, and nothing else comes back at all."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer

from faststate.auth.tokens import TOKEN_MAX_AGE, ShownState, TokenSigner, WatchToken, binding

SIGNER = TokenSigner(["key"])
SHOWN = (ShownState("Counter", None, ()), ShownState("Product", "a:b/ü", ("__ft__", "stock")))
BOUND = binding("session", 7)
TOKEN = SIGNER.sign(BOUND, SHOWN)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    TEXT, st.lists(st.builds(ShownState, TEXT, st.none() | TEXT, st.lists(TEXT, max_size=3).map(tuple)), max_size=4)
)  # fmt: skip
@settings(deadline=None)
def test_what_was_signed_comes_back_as_it_was(bound_to, shown):
    token = SIGNER.sign(bound_to, shown)
    assert SIGNER.verify(token) == WatchToken(bound_to, tuple(shown), expired=False)
    assert token.isascii() and not set(token) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def test_a_long_token_is_compressed_and_comes_back_as_a_short_one_does():
    shown = tuple(ShownState("Product", str(number), ("stock",)) for number in range(200))
    token = SIGNER.sign(BOUND, shown)
    assert len(token) < 3_000 and SIGNER.verify(token) == WatchToken(BOUND, shown)


@given(st.integers(0, len(TOKEN) - 2), st.characters(codec="ascii"))
@settings(max_examples=400, deadline=None)
def test_a_token_with_any_one_character_changed_is_refused(position, character):
    forged = TOKEN[:position] + character + TOKEN[position + 1 :]
    if forged != TOKEN:
        assert SIGNER.verify(forged) is None


@pytest.mark.parametrize("bit", range(8))
def test_a_token_with_any_bit_flipped_is_refused(bit):
    for position in range(len(TOKEN)):
        flipped = bytearray(TOKEN.encode())
        flipped[position] ^= 1 << bit
        found = SIGNER.verify(flipped.decode("latin-1"))
        if position == len(TOKEN) - 1 and found is not None:
            # 20 bytes leave two bits of their last base64 character unused: the same signature in another spelling.
            assert found == WatchToken(BOUND, SHOWN)
        else:
            assert found is None


@pytest.mark.parametrize("length", range(len(TOKEN)))
def test_a_cut_token_is_refused(length):
    assert SIGNER.verify(TOKEN[:length]) is None and SIGNER.verify(TOKEN[length + 1 :]) is None


@pytest.mark.parametrize(
    "token",
    [None, 1, b"", TOKEN.encode(), [TOKEN], {}, "", ".", "..", "a.b.c", TOKEN + ".x", TOKEN + TOKEN, "\ud800", "é"],
)  # fmt: skip
def test_what_is_no_token_is_refused(token):
    assert SIGNER.verify(token) is None


def test_a_payload_without_its_signature_is_refused():
    payload = base64.urlsafe_b64encode(json.dumps([BOUND, [["Admin", None, []]]]).encode()).rstrip(b"=").decode()
    assert SIGNER.verify(payload + TOKEN[TOKEN.index(".") :]) is None
    assert SIGNER.verify(payload) is None


@pytest.mark.parametrize(
    "other",
    [
        TokenSigner(["another key"]).sign(BOUND, SHOWN),
        URLSafeTimedSerializer("key", salt="another salt").dumps([BOUND, []]),
        URLSafeSerializer("key", salt="faststate.watch").dumps([BOUND, []]),
    ],
    ids=["key", "salt", "undated"],
)
def test_a_token_signed_otherwise_is_refused(other):
    assert SIGNER.verify(other) is None


@pytest.mark.parametrize(
    "content", [None, 1, "text", [], ["a"], ["a", 1], ["a", ["b"]], ["a", [["b"]]], ["a", [[1, 2, 3]]]]
)
def test_a_signed_text_of_another_shape_is_refused(content):
    assert SIGNER.verify(URLSafeTimedSerializer("key", salt="faststate.watch").dumps(content)) is None


def test_keys_rotate():
    rotated, retired = TokenSigner(["key", "new key"]), TokenSigner(["new key"])
    assert rotated.verify(TOKEN) == WatchToken(BOUND, SHOWN)
    assert retired.verify(TOKEN) is None
    assert retired.verify(rotated.sign(BOUND, SHOWN)) == WatchToken(BOUND, SHOWN)
    assert SIGNER.verify(rotated.sign(BOUND, SHOWN)) is None


def test_an_expired_token_says_so_and_says_nothing_else(monkeypatch):
    signed_at = 1_700_000_000
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: signed_at)
    token = SIGNER.sign(BOUND, SHOWN)
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: signed_at + TOKEN_MAX_AGE)
    assert SIGNER.verify(token) == WatchToken(BOUND, SHOWN)
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: signed_at + TOKEN_MAX_AGE + 1)
    assert SIGNER.verify(token) == WatchToken("", (), expired=True)
    assert SIGNER.verify(token[:-1] + ("A" if token[-1] != "A" else "B")) is None  # forged and old is forged


@given(st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT | st.integers()), min_size=2, max_size=2, unique_by=str))
def test_sessions_and_users_are_bound_apart(pairs):
    (session, user), (other_session, other_user) = pairs
    alike = str(session) == str(other_session) and ("" if user is None else str(user)) == (
        "" if other_user is None else str(other_user)
    )
    if not alike and "\0" not in f"{session}{other_session}":
        assert binding(session, user) != binding(other_session, other_user)


def test_a_binding_gives_neither_session_nor_user_away():
    assert binding("session-id", "ada") == binding("session-id", "ada")
    assert "session" not in binding("session-id", "ada") and len(binding("s" * 99, "u" * 99)) == 16
    assert binding("s", None) != binding("s", 0) != binding("s", 1) and binding("s", 1) == binding("s", "1")


def test_a_token_that_was_verified_before_still_grows_old(monkeypatch):
    signer, signed_at = TokenSigner(["key"], max_age=60), 1_700_000_000
    clock = {"now": signed_at}
    monkeypatch.setattr("time.time", lambda: clock["now"])
    token = signer.sign(BOUND, SHOWN)
    for clock["now"] in (signed_at, signed_at, signed_at + 60):
        assert signer.verify(token) == WatchToken(BOUND, SHOWN)
    for clock["now"] in (signed_at + 61, signed_at + 61, signed_at - 1):  # the last: a clock that was set back
        assert signer.verify(token) == WatchToken("", (), expired=True)


def test_a_token_that_was_verified_before_is_known_by_all_of_it_and_to_its_own_keys_alone():
    signer, other = TokenSigner(["key"]), TokenSigner(["another key"])
    token = signer.sign(BOUND, SHOWN)
    assert signer.verify(token) == signer.verify(token) == WatchToken(BOUND, SHOWN)
    assert other.verify(token) is None
    for forged in (token + "A", token[:-2], token.swapcase(), token.replace(".", "..")):
        assert signer.verify(forged) is None
    assert signer.verify(token).binding == BOUND != binding("another session", 7)  # whose it is stays to be compared


def test_a_token_that_comes_again_is_not_computed_again(monkeypatch):
    signer = TokenSigner(["key"])
    token = signer.sign(BOUND, SHOWN)
    found = signer.verify(token)
    monkeypatch.setattr(signer, "_serializer", None)
    assert signer.verify(token) == found == WatchToken(BOUND, SHOWN)


def test_tokens_that_were_verified_are_remembered_within_bounds(monkeypatch):
    monkeypatch.setattr("faststate.auth.tokens.TOKENS_KEPT", 10)
    signer = TokenSigner(["key"])
    tokens = [signer.sign(BOUND, [ShownState("Product", str(n), ())]) for n in range(50)]
    for token in tokens * 2:
        assert signer.verify(token) is not None and signer.verify("x" + token) is None
    assert len(signer._verified._kept) == 10
    once = signer.sign(BOUND, [ShownState("Product", "a stream's", ())])
    assert signer.verify(once, again=False) is not None and once not in signer._verified._kept
    long = signer.sign(BOUND, [ShownState("Product", hashlib.sha256(b"%d" % n).hexdigest(), ()) for n in range(100)])
    for _ in range(2):
        assert len(signer.verify(long).shown) == 100 and long not in signer._verified._kept
