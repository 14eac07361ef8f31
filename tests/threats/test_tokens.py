"""Threat: page tokens that are forged, cut, replayed, too old, or of another app. They name what a page may follow."""

import hashlib
import json
import secrets
import string
import time
import zlib
from base64 import urlsafe_b64encode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import TimestampSigner, URLSafeSerializer, URLSafeTimedSerializer

from tests.support.client import Page, session_content, status
from tests.threats.conftest import delivers_nothing, open_stream, post_event

APP = "tokens.py"
KEY = "the main app's key"
SALT = "faststate.watch/_faststate"
WEEK = 7 * 86_400
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
INJURED = "an attacker's words"


def done(answer):
    """True when the event ran: 204, or what it changed, for a tab that has no stream to be told on."""
    return status(answer) in (200, 204)


def truth(client, doc_id="1", at=""):
    return client.get(f"{at}/truth/{doc_id}").json()


def write(client, page, tokens, doc_id="1", text=INJURED):
    """The event of the document `doc_id`, sent with these tokens."""
    return post_event(client, page, "Doc/write", {"a": {"text": text}, "i": doc_id, "w": tokens})


@pytest.fixture
def owner(visit):
    """A browser whose page shows a document that nobody else has the id of: (client, page, id, text)."""
    client, doc_id, text = visit(), secrets.token_hex(6), f"words {secrets.token_hex(6)}"
    page = Page(client, f"/doc/{doc_id}")
    assert done(write(client, page, page.tokens, doc_id, text))
    return client, page, doc_id, text


def assert_useless(client, page, tokens, doc_id, text, reader, *, plain=None):
    """Neither an event nor a stream comes of these tokens. With `plain`, forged or (False) merely out of date."""
    answer = write(client, page, tokens, doc_id)
    assert status(answer) == 403
    assert text not in answer.text
    assert delivers_nothing(answer.text)
    assert truth(reader, doc_id)["doc"] == text
    stream = open_stream(client, page, tokens)
    assert stream.refused
    assert text not in stream.text
    if plain is not None:
        assert answer.status_code == (403 if plain else 200)
        assert (stream.status == 403) is plain
        assert (answer.text == "") is plain


def test_the_pages_own_token_is_good_for_its_event_and_its_stream(owner):
    client, page, doc_id, text = owner
    assert page.tokens
    stream = open_stream(client, page)
    assert stream.live
    assert text in stream.text
    assert done(write(client, page, page.tokens, doc_id, "new"))
    assert truth(client, doc_id)["doc"] == "new"


# -- forged and cut ----------------------------------------------------------------------------------------------------


def test_a_token_cut_at_any_length_is_refused(owner):
    client, page, doc_id, text = owner
    (token,) = page.tokens
    for length in range(len(token)):
        assert_useless(client, page, [token[:length]], doc_id, text, client, plain=True)


def test_a_token_with_any_character_changed_is_refused(owner):
    client, page, doc_id, text = owner
    (token,) = page.tokens
    for place, found in enumerate(token):
        # The highest of its six bits: the lowest ones of a last character say nothing in base64.
        other = ALPHABET[ALPHABET.index(found) ^ 32] if found in ALPHABET else "A"
        changed = token[:place] + other + token[place + 1 :]
        assert_useless(client, page, [changed], doc_id, text, client, plain=True)


edits = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(["insert", "replace", "delete", "double"]),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=3) | st.sampled_from(list(".-_=")),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=edits)
def test_no_edit_of_a_token_leads_to_another_document(owner, edits):
    client, page, doc_id, _ = owner
    token = page.tokens[0]
    for place, kind, inserted in edits:
        place %= len(token) + 1
        head, tail = token[:place], token[place:]
        token = {
            "insert": head + inserted + tail,
            "replace": head + inserted + tail[1:],
            "delete": head + tail[1:],
            "double": head + head + tail,
        }[kind] or "."
    # Python's base64 reads past signs that are none of its own, so an edit may leave a token what it was.
    answer = write(client, page, [token], "another")
    assert (answer.status_code, answer.text) == (403, "")
    assert truth(client, "another")["doc"] == "blank"
    stream = open_stream(client, page, [token])
    assert stream.refused or set(stream.signals["Doc"]) == {doc_id}


def content(token):
    """Return a token's content: anybody can read it, nobody else can write it."""
    return URLSafeTimedSerializer(KEY, salt=SALT).loads(token)


def binding(session_id, user=""):
    return urlsafe_b64encode(hashlib.sha256(f"{session_id}\0{user}".encode()).digest()[:12]).decode()


def session_of(client):
    return session_content(client)["session_id"]


class Dated(TimestampSigner):
    """Signs as of some seconds ago."""

    age = 0

    def get_timestamp(self):
        return int(time.time()) - self.age


def sign(said, *, key=KEY, salt=SALT, age=0, **options):
    signer = type("Signer", (Dated,), {"age": age})
    return URLSafeTimedSerializer(key, salt=salt, signer=signer, **options).dumps(said)


def test_the_forgers_own_tools_make_good_tokens_when_they_have_the_key(owner):
    """What the tests below refuse is refused for its key, salt or date, and for no fault in how it was made."""
    client, page, doc_id, text = owner
    said = content(page.tokens[0])
    assert said == [binding(session_of(client)), [["Doc", doc_id, []]]]
    assert text in open_stream(client, page, [sign(said)]).text
    assert done(write(client, page, [sign(said)], doc_id, "new"))


FORGED = {
    "another key": lambda said, token: sign(said, key="guessed"),
    "an empty key": lambda said, token: sign(said, key=""),
    "the word None as key": lambda said, token: sign(said, key="None"),
    "the key of the session's cookie": lambda said, token: sign(said, key="one session for all apps"),
    "the salt of itsdangerous": lambda said, token: sign(said, salt="itsdangerous"),
    "an empty salt": lambda said, token: sign(said, salt=""),
    "the key used plainly": lambda said, token: sign(said, signer_kwargs={"key_derivation": "none"}),
    "another digest": lambda said, token: sign(said, signer_kwargs={"digest_method": hashlib.sha512}),
    "no date": lambda said, token: URLSafeSerializer(KEY, salt=SALT).dumps(said),
    "no signature": lambda said, token: token.rpartition(".")[0],
    "an empty signature": lambda said, token: token.rpartition(".")[0] + ".",
    "the content alone": lambda said, token: encoded(said),
    "other content": lambda said, token: ".".join([encoded([*said, 1]), *token.split(".")[1:]]),
    "another date": lambda said, token: sign(said).split(".")[0] + ".aaaaaa." + token.split(".")[2],
    "a compressed bomb": lambda said, token: "." + b64(zlib.compress(bytes(50_000_000))) + "." + token.split(".", 1)[1],
    "a JWT without an algorithm": lambda said, token: f"{encoded({'alg': 'none'})}.{encoded(said)}.",
    "the content in clear": lambda said, token: json.dumps(said),
    "a key of a state": lambda said, token: f"record:Doc:{said[1][0][1]}",
    "the document's id": lambda said, token: said[1][0][1],
    "the token twice": lambda said, token: token + token,
    "the token and NUL": lambda said, token: token.replace(".", "\0.", 1),
}


def b64(raw):
    return urlsafe_b64encode(raw).decode().rstrip("=")


def encoded(said):
    return b64(json.dumps(said, separators=(",", ":")).encode())


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_token_is_refused(owner, kind):
    client, page, doc_id, text = owner
    forged = FORGED[kind](content(page.tokens[0]), page.tokens[0])
    assert forged != page.tokens[0]
    assert_useless(client, page, [forged], doc_id, text, client, plain=True)


def test_a_session_cookie_is_no_token_and_a_token_is_no_session_cookie(owner, visit):
    client, page, doc_id, text = owner
    assert_useless(client, page, [client.cookies["session_"]], doc_id, text, client, plain=True)
    thief = visit(cookies={"session_": page.tokens[0]})
    assert_useless(thief, page, page.tokens, doc_id, text, client)


def test_one_bad_token_spoils_the_good_ones_beside_it(owner):
    client, page, doc_id, text = owner
    for bad in ("x", page.tokens[0][:-1], sign(content(page.tokens[0]), key="guessed")):
        assert_useless(client, page, [*page.tokens, bad], doc_id, text, client, plain=True)
        assert_useless(client, page, [bad, *page.tokens], doc_id, text, client, plain=True)


def test_parts_of_two_genuine_tokens_do_not_make_a_third(owner):
    client, page, doc_id, text = owner
    other = Page(client, "/doc/other")
    mine, others = page.tokens[0].split("."), other.tokens[0].split(".")
    for pick in range(1, 7):
        mixed = ".".join((others if pick >> i & 1 else mine)[i] for i in range(3))
        if mixed in (page.tokens[0], other.tokens[0]):
            continue  # both were signed within one second: only content or signature differ
        assert_useless(client, page, [mixed], doc_id, text, client, plain=True)


def test_bad_tokens_are_refused_for_states_that_need_none_too(visit):
    client = visit()
    page = Page(client, "/")
    assert done(page.send("Vault", "store", secret="mine"))
    stale = sign(content(page.tokens[0]), age=WEEK + 60)
    for token in ("x", page.tokens[0][:-1], stale):
        answer = post_event(client, page, "Vault/store", {"a": {"secret": INJURED}, "w": [token]})
        assert status(answer) == 403
        stream = open_stream(client, page, [token])
        assert stream.refused
        assert "mine" not in stream.text
    assert truth(client)["vault"] == "mine"


# -- replayed ----------------------------------------------------------------------------------------------------------


def test_a_token_is_useless_in_another_session(owner, visit):
    client, page, doc_id, text = owner
    thief = visit()
    own = Page(thief, "/doc/other")
    assert_useless(thief, page, page.tokens, doc_id, text, client, plain=False)
    assert_useless(thief, page, [*own.tokens, *page.tokens], doc_id, text, client, plain=False)


def test_a_token_is_useless_without_a_session(owner, visit):
    client, page, doc_id, text = owner
    assert_useless(visit(), page, page.tokens, doc_id, text, client)


def test_another_sessions_token_for_a_session_state_shows_and_changes_nothing(visit):
    client, thief = visit(), visit()
    page = Page(client, "/")
    page.send("Vault", "store", secret="the owner's")
    own = Page(thief, "/")
    own.send("Vault", "store", secret="the thief's")
    answer = post_event(thief, own, "Vault/store", {"a": {"secret": INJURED}, "w": page.tokens})
    assert status(answer) == 403
    assert open_stream(thief, own, page.tokens).refused
    assert (truth(client)["vault"], truth(thief)["vault"]) == ("the owner's", "the thief's")


@pytest.mark.parametrize(
    "change", [["/sign-in/bob"], ["/sign-out"], ["/sign-out", "/sign-in/bob"], ["/sign-in/ann%00"], ["/sign-in/Ann"]]
)
def test_a_token_of_one_user_is_useless_to_the_next_user_of_the_same_session(visit, change):
    client, reader, doc_id = visit(), visit(), secrets.token_hex(6)
    client.get("/sign-in/ann")
    page = Page(client, f"/doc/{doc_id}")
    assert done(write(client, page, page.tokens, doc_id, "by ann"))
    assert open_stream(client, page).live
    before = session_of(client)
    for path in change:
        client.get(path)
    assert session_of(client) == before  # this app does not rotate it, so that only the user differs
    assert_useless(client, page, page.tokens, doc_id, "by ann", reader, plain=False)


def test_a_token_made_before_signing_in_is_useless_afterwards(owner, visit):
    client, page, doc_id, text = owner
    client.get("/sign-in/ann")
    assert_useless(client, page, page.tokens, doc_id, text, visit(), plain=False)


def test_a_diarys_token_shows_the_next_user_nothing_of_the_diary(visit):
    client, text = visit(), f"dear diary {secrets.token_hex(4)}"
    client.get("/sign-in/ann")
    page = Page(client, "/diary")
    assert done(page.send("Diary", "write", text=text))
    assert text in open_stream(client, page).text
    client.get("/sign-in/bob")
    assert status(page.send("Diary", "write", text=INJURED)) == 403
    stream = open_stream(client, page)
    assert stream.refused
    assert text not in stream.text
    bobs = Page(client, "/diary")
    assert "blank" in bobs.html
    client.get("/sign-in/ann")
    assert text in client.get("/diary").text


def test_the_user_of_a_token_cannot_be_forged_by_where_the_session_ends(visit):
    """Session and user are digested together; what moves from one to the other must not give the same digest."""
    client, doc_id = visit(), "moved"
    client.get("/sign-in/ann")
    page = Page(client, f"/doc/{doc_id}")
    said, session_id = content(page.tokens[0]), session_of(client)
    assert said[0] == binding(session_id, "ann")
    for wrong in (binding(session_id), binding(session_id + "ann"), binding("", session_id + "ann"), "", None):
        token = sign([wrong, said[1]])
        assert status(write(client, page, [token], doc_id)) == 403
        assert open_stream(client, page, [token]).refused
    assert truth(client, doc_id)["doc"] == "blank"


# -- out of date -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [WEEK + 60, 2 * WEEK, 50 * 365 * 86_400, -3600])
def test_a_token_that_is_too_old_or_of_the_future_has_the_page_load_itself_again(owner, age):
    client, page, doc_id, text = owner
    token = sign(content(page.tokens[0]), age=age)
    assert_useless(client, page, [token], doc_id, text, client, plain=False)
    assert_useless(client, page, [*page.tokens, token], doc_id, text, client, plain=False)


def test_a_token_is_good_until_its_age_is_reached(owner):
    client, page, doc_id, text = owner
    token = sign(content(page.tokens[0]), age=WEEK - 60)
    assert text in open_stream(client, page, [token]).text
    assert done(write(client, page, [token], doc_id, "new"))


def test_a_forged_token_that_says_to_be_old_is_forged(owner):
    """The signature is looked at before the date: a forger learns nothing from the answer."""
    client, page, doc_id, text = owner
    token = sign(content(page.tokens[0]), key="guessed", age=2 * WEEK)
    assert_useless(client, page, [token], doc_id, text, client, plain=True)


# -- keys that rotate --------------------------------------------------------------------------------------------------


def shown_at(client, at):
    """A page of the app at the path `at`, with a document that says so."""
    doc_id = secrets.token_hex(6)
    return Page(client, f"{at}/doc/{doc_id}"), doc_id


def accepts(client, at, page, doc_id):
    """Does the app at `at` take this page's tokens? Event and stream have to agree."""
    here = Page(client, f"{at}/")
    text = secrets.token_hex(6)
    answer = write(client, here, page.tokens, doc_id, text)
    stream = open_stream(client, here, page.tokens)
    taken = done(answer)
    assert stream.live is taken
    assert (truth(client, doc_id, at)["doc"] == text) is taken
    assert (text in stream.text) is taken
    assert taken or (answer.status_code == 403 and stream.refused)
    return taken


def test_a_new_key_does_not_end_the_old_keys_tokens_until_the_old_key_is_removed(visit):
    client = visit()
    takes = {
        signed: [at for at in ("/old", "/both", "/new") if accepts(client, at, *shown_at(client, signed))]
        for signed in ("/old", "/both", "/new")
    }
    assert takes == {"/old": ["/old", "/both"], "/both": ["/both", "/new"], "/new": ["/both", "/new"]}


# -- other apps --------------------------------------------------------------------------------------------------------


def test_a_token_of_an_app_with_another_key_is_refused_in_the_same_session(visit):
    client = visit()
    for signed, at in (("/old", ""), ("", "/old"), ("/new", "")):
        assert not accepts(client, at, *shown_at(client, signed))


@pytest.mark.parametrize(("signed", "at"), [("/twin", ""), ("", "/twin")])
def test_a_token_of_an_app_with_another_prefix_is_refused_in_the_same_session(visit, signed, at):
    client = visit()
    assert not accepts(client, at, *shown_at(client, signed))


# -- of the wrong type -------------------------------------------------------------------------------------------------

WRONG_LISTS = ["TOKEN", {"p1": "TOKEN"}, 1, -1.5, True, False, "", {}]
WRONG_ENTRIES = [
    [None], [1], [True], [["TOKEN"]], [{"w": "TOKEN"}], [""], ["TOKEN", None], ["TOKEN", []], [[[]]], [1e300],
]  # fmt: skip


def with_token(value, token):
    return json.loads(json.dumps(value).replace("TOKEN", token))


@pytest.mark.parametrize("wrong", WRONG_LISTS + WRONG_ENTRIES, ids=json.dumps)
def test_tokens_of_a_wrong_json_type_are_refused(owner, wrong):
    client, page, doc_id, text = owner
    tokens = with_token(wrong, page.tokens[0])
    answer = write(client, page, tokens, doc_id)
    assert status(answer) == (400 if wrong in WRONG_LISTS else 403)
    stream = open_stream(client, page, payload={"w": tokens, "n": ""})
    assert (stream.status, stream.refused) == (status(answer), True) and text not in stream.text
    assert truth(client, doc_id)["doc"] == text


@pytest.mark.parametrize(
    "payload", ["TOKEN", ["TOKEN"], [], {}, None, 1, True, {"w": None}, {"w": []}, {"W": ["TOKEN"]}]
)
def test_a_stream_without_a_list_of_tokens_delivers_nothing(owner, payload):
    client, page, _, _ = owner
    raw = json.dumps(with_token(payload, page.tokens[0]))
    stream = open_stream(client, page, payload=json.loads(raw))
    assert stream.status == (204 if isinstance(payload, dict) else 400) and stream.refused


@pytest.mark.parametrize("tokens", [None, []])
def test_a_document_cannot_be_changed_without_a_token(owner, tokens):
    client, page, doc_id, text = owner
    answer = write(client, page, tokens, doc_id)
    assert (answer.status_code, answer.text) == (403, "")
    assert truth(client, doc_id)["doc"] == text


def test_any_number_of_forged_tokens_is_refused(owner):
    client, page, doc_id, text = owner
    (token,) = page.tokens
    first = "A" if token[0] != "A" else "B"
    for forged in (["forged" * 9] * 1_000, [token[:-4] + "AAAA"] * 500, [f".{token}"] * 500, [first + token[1:]] * 500):
        answer = write(client, page, forged, doc_id)
        assert (answer.status_code, answer.text) == (403, "")
        stream = client.post(f"{page.url}stream", json={"w": forged, "n": ""}, headers={"datastar-request": "true"})
        assert stream.status_code == 403 and text not in stream.text
    assert truth(client, doc_id)["doc"] == text


@pytest.mark.parametrize("nested", [4000, 200])
def test_deeply_nested_tokens_are_refused(owner, nested):
    client, page, doc_id, text = owner
    raw = f'{{"i":"{doc_id}","a":{{"text":"x"}},"w":{"[" * nested}{"]" * nested}}}'
    answer = post_event(client, page, "Doc/write", raw)
    assert status(answer) == 400
    answer = client.post(f"{page.url}stream", content=raw, headers={"datastar-request": "true"})
    assert answer.status_code == 400 and text not in answer.text
    assert truth(client, doc_id)["doc"] == text
