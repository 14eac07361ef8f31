"""Threat: ids of what belongs to others, wherever a request can carry one, and ids of a form that nobody expects."""

import json
import secrets
import unicodedata
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from itsdangerous import URLSafeTimedSerializer

from tests.support.client import BROWSER, Page, patched_signals, status
from tests.threats.conftest import delivers_nothing, open_stream, post_event

APP = "foreign_ids.py"
INJURED = "an attacker's words"


def everything(client):
    """All states of the server, by key."""
    return client.get("/everything").json()


def shown(page):
    """The (class, id) pairs that a page's tokens name; anybody can read them."""
    pairs = []
    for token in page.tokens:
        _, content = URLSafeTimedSerializer("any key").loads_unsafe(token)
        pairs += [(name, own) for name, own, _ in content[1]]
    return pairs


def person(client, name):
    """Somebody signed in, with a page for each kind of state, and words of their own in all of them."""
    client.get(f"/name/{name}")
    doc_id, panel_id, guarded_id = f"doc-{secrets.token_hex(4)}", f"panel-{secrets.token_hex(4)}", f"of-{name}"
    client.post("/make", json={"doc_id": doc_id, "owner": name})
    pages = {
        "Own": Page(client, "/"),
        "Diary": Page(client, "/diary"),
        "Panel": Page(client, f"/panel/{panel_id}"),
        "Sheet": Page(client, "/sheet"),
        "Doc": Page(client, f"/doc/{doc_id}"),
        "Guarded": Page(client, f"/guarded/{guarded_id}"),
    }
    ids = {cls: dict(shown(page))[cls] for cls, page in pages.items()}
    words = f"words of {name}"
    for cls, page in pages.items():
        assert status(page.send(cls, "write", instance_id=ids[cls], text=words)) == 200, cls
        assert words in client.get(page.response.url.path).text or cls == "Sheet"
    (session_key,) = (
        key for key, state in everything(client).items() if key.startswith("session:Own:") and words in state["text"]
    )
    return SimpleNamespace(
        client=client, name=name, pages=pages, ids=ids, words=words, session_id=session_key.split(":")[-1]
    )


@pytest.fixture
def victim(visit):
    return person(visit(), f"victim{secrets.token_hex(4)}")


@pytest.fixture
def attacker(visit):
    return person(visit(), f"attacker{secrets.token_hex(4)}")


def belongings(whole, somebody):
    """Return the content of somebody's states."""
    return {key: state for key, state in whole.items() if somebody.words in str(state) or somebody.name in key}


def assert_nothing_got_out(victim, *answers):
    for answer in answers:
        assert answer.status_code < 500
        assert victim.words not in answer.text


# -- ids in events -----------------------------------------------------------------------------------------------------

WITH_IDS = ("Panel", "Sheet", "Doc")


def in_both_places(client, page, cls, own, text=INJURED):
    """The answers to an event that names an id in its body, and to one that names it in its query."""
    sent = {"w": page.tokens, "a": {"text": text}}
    yield post_event(client, page, f"{cls}/write", {**sent, "i": own})
    yield post_event(client, page, f"{cls}/write?_id={quote(own)}", sent)


@pytest.mark.parametrize("cls", WITH_IDS)
def test_a_persons_own_id_works_in_both_places(attacker, cls):
    text = secrets.token_hex(4)
    for answer in in_both_places(attacker.client, attacker.pages[cls], cls, attacker.ids[cls], text):
        assert status(answer) == 200
        assert text in str(everything(attacker.client))


@pytest.mark.parametrize("cls", WITH_IDS)
@pytest.mark.parametrize("place", ["i", "_id"])
@pytest.mark.parametrize("tokens", ["own", "stolen", "both", "none"])
def test_an_event_with_anothers_id_is_refused_and_leaves_no_trace(victim, attacker, cls, place, tokens):
    page, foreign = attacker.pages[cls], victim.ids[cls]
    sent = {
        "own": [t for p in attacker.pages.values() for t in p.tokens],
        "stolen": victim.pages[cls].tokens,
        "both": attacker.pages[cls].tokens + victim.pages[cls].tokens,
        "none": [],
    }[tokens]
    before = everything(victim.client)
    body = {"w": sent, "a": {"text": INJURED}, **({"i": foreign} if place == "i" else {})}
    query = f"?_id={quote(foreign)}" if place == "_id" else ""
    answer = post_event(attacker.client, page, f"{cls}/write{query}", body)
    assert status(answer) == 403
    assert delivers_nothing(answer.text)
    assert_nothing_got_out(victim, answer)
    assert everything(victim.client) == before


def elsewhere(own, foreign):
    """Requests that name `own` where it counts, or nothing, and `foreign` anywhere else: (query, body, headers)."""
    named = {"i": own}
    yield [], {**named, "a": {"i": foreign}}, {}
    for name in [
        "id",
        "_id",
        "instance_id",
        "component_id",
        "record_id",
        "doc_id",
        "session_id",
        "key",
        "self",
        "state",
    ]:
        yield [], {**named, "a": {name: foreign}}, {}
        yield [], {**named, "b": {name: foreign}}, {}
        yield [], {**named, "s": {name: foreign}}, {}
        yield [], {**named, "f": [[name, foreign]]}, {}
        yield [], {**named, name: foreign}, {}
        yield [(name, foreign)], named, {}
        yield [], named, {name: foreign, f"faststate-{name.replace('_', '-')}": foreign, f"x-{name}": foreign}
    yield [("_id", own), ("_id", foreign)], {}, {}
    yield [("_id", foreign), ("_id", own)], {}, {}
    yield [("_id", foreign)], {"i": None}, {}
    yield [("_ID", foreign)], named, {}
    yield [("_id[]", foreign)], named, {}
    yield [("%5Fid", foreign)], named, {}
    yield [], {"i": [foreign]}, {}
    yield [], {"i": {"id": foreign}}, {}
    yield [], {"i": [own, foreign]}, {}
    yield [], {"i": f"{own},{foreign}"}, {}
    yield [], {"i": own, "I": foreign}, {}


@pytest.mark.parametrize("cls", WITH_IDS)
def test_anothers_id_in_any_other_place_of_an_event_is_no_id(victim, attacker, cls):
    page, own, foreign = attacker.pages[cls], attacker.ids[cls], victim.ids[cls]
    before = belongings(everything(victim.client), victim)
    assert len(before) == 6
    ran = 0
    for query, body, headers in elsewhere(own, foreign):
        path = f"{cls}/write?" + "&".join(f"{name}={quote(value)}" for name, value in query)
        body = {**body, "w": page.tokens, "a": {"text": INJURED, **body.get("a", {})}}
        answer = post_event(attacker.client, page, path, body, headers=headers)
        assert status(answer) in (200, 400, 403), (query, body, headers)
        assert_nothing_got_out(victim, answer)
        ran += status(answer) == 200
    assert ran  # where the foreign id stands in a part that is not looked at, it is one's own state that changed
    after = everything(victim.client)
    assert belongings(after, victim) == before
    assert not any(foreign in key for key in after if key not in before)


def test_the_last_of_two_keys_in_the_body_counts_for_token_and_state_alike(victim, attacker):
    """JSON may say a thing twice: what was verified has to be what is used."""
    page, own, foreign = attacker.pages["Doc"], attacker.ids["Doc"], victim.ids["Doc"]
    before = everything(victim.client)
    tokens, rest = json.dumps(page.tokens), '"a":{"text":"x"}'
    answer = post_event(attacker.client, page, "Doc/write", f'{{"i":"{own}","w":{tokens},{rest},"i":"{foreign}"}}')
    assert status(answer) == 403
    assert everything(victim.client) == before


@pytest.mark.parametrize("cls", ["Own", "Diary", "Board"])
def test_states_without_ids_take_none(victim, attacker, cls):
    page = attacker.pages.get(cls, attacker.pages["Own"])
    keys = [key for key in everything(victim.client) if f":{cls}" in key]
    before = everything(victim.client)
    for foreign in (victim.session_id, victim.name, f"user{victim.name}", *keys, attacker.session_id, ""):
        for answer in in_both_places(attacker.client, page, cls, foreign):
            assert status(answer) == 400
            assert_nothing_got_out(victim, answer)
    assert everything(victim.client) == before


def test_a_bound_field_does_not_reach_anothers_state(victim, attacker):
    before = everything(victim.client)
    for cls in WITH_IDS:
        page = attacker.pages[cls]
        body = {"w": page.tokens, "i": victim.ids[cls], "b": {"draft": INJURED}}
        assert status(post_event(attacker.client, page, f"{cls}/keep", body)) == 403
    assert everything(victim.client) == before


def test_a_record_of_another_class_does_not_come_with_ones_own_id(victim, attacker):
    """A token names class and id together."""
    page, before = attacker.pages["Doc"], everything(victim.client)
    for cls in ("Panel", "Sheet", "Guarded"):
        body = {"w": page.tokens, "i": attacker.ids["Doc"], "a": {"text": INJURED}}
        answer = post_event(attacker.client, page, f"{cls}/write", body)
        assert (answer.status_code, answer.text) == (403, "")
    assert everything(victim.client) == before


def test_a_record_named_by_an_argument_is_asked_for_under_its_own_rule(victim, attacker):
    page, text = attacker.pages["Doc"], f"copied by {attacker.name}"
    attacker.pages["Guarded"].send("Guarded", "write", instance_id=attacker.ids["Guarded"], text=text)
    before = everything(victim.client)

    def copy_from(somebody):
        body = {"w": page.tokens, "i": attacker.ids["Doc"], "a": {"source": somebody.ids["Guarded"]}}
        return post_event(attacker.client, page, "Doc/copy_from", body)

    assert status(copy_from(attacker)) == 200
    assert everything(attacker.client)[f"record:Doc:{quote(attacker.ids['Doc'])}"]["text"] == text
    foreign = copy_from(victim)
    assert status(foreign) == 403
    assert delivers_nothing(foreign.text)
    assert_nothing_got_out(victim, foreign)
    assert belongings(everything(victim.client), victim) == belongings(before, victim)


# -- ids in pages and streams ------------------------------------------------------------------------------------------


def test_a_page_that_its_handler_refuses_hands_out_no_token(victim, attacker):
    for path in (f"/doc/{victim.ids['Doc']}", f"/guarded/{victim.ids['Guarded']}"):
        page = Page(attacker.client, path)
        assert page.response.status_code == 403
        assert_nothing_got_out(victim, page.response)
        assert "_fs" not in page.html
        assert page.tokens == []


def test_ids_in_a_pages_query_headers_and_cookies_name_nobody(victim, attacker, visit):
    foreign = {
        "session_id": victim.session_id,
        "user_id": victim.name,
        "name": victim.name,
        "component_id": victim.ids["Panel"],
        "record_id": victim.ids["Doc"],
        "doc_id": victim.ids["Doc"],
        "_id": victim.ids["Sheet"],
        "id": victim.ids["Doc"],
    }
    headers = {name.replace("_", "-"): value for name, value in foreign.items()} | {"x-user": victim.name}
    for client in (attacker.client, visit(), visit(cookies=foreign)):
        for path in ("/", "/diary", "/left", "/sheet", f"/doc/{attacker.ids['Doc']}", "/panel/mine"):
            assert_nothing_got_out(
                victim,
                client.get(path, params=foreign),
                client.get(path, headers=headers),
                client.post(path, data=foreign),
                client.post(path, json=foreign),
            )
    assert victim.words in str(everything(victim.client))


def test_one_component_id_is_another_component_in_another_session(victim, attacker):
    """Both pages show a panel of one id; ids of components need not be secret."""
    mine, theirs = Page(attacker.client, "/left"), Page(victim.client, "/left")
    assert shown(mine) == shown(theirs) == [("Panel", "left")]
    assert status(theirs.send("Panel", "write", instance_id="left", text=victim.words)) == 200
    assert status(mine.send("Panel", "write", instance_id="left", text=INJURED)) == 200
    assert victim.words in victim.client.get("/left").text
    assert victim.words not in attacker.client.get("/left").text
    stream = open_stream(attacker.client, mine)
    assert INJURED in json.dumps(stream.signals)
    assert victim.words not in stream.text


def test_anothers_component_id_in_the_path_is_a_new_component_of_ones_own(victim, attacker):
    page = Page(attacker.client, f"/panel/{victim.ids['Panel']}")
    assert_nothing_got_out(victim, page.response)
    assert "blank" in page.html
    stream = open_stream(attacker.client, page)
    assert victim.words not in stream.text


def test_a_stream_follows_what_its_tokens_name_and_nothing_that_is_asked_for_beside_them(victim, attacker):
    page = attacker.pages["Doc"]
    asked = [*everything(victim.client), *victim.ids.values(), victim.session_id, victim.name]
    for part in ("i", "_id", "id", "ids", "keys", "states", "topics", "s", "b", "a", "doc_id", "session_id", "user_id"):
        for value in (asked, victim.ids["Doc"], {"Doc": victim.ids["Doc"]}):
            stream = open_stream(attacker.client, page, payload={"w": page.tokens, "n": "", part: value})
            assert victim.words not in stream.text
            assert stream.refused or set(stream.signals) == {"_fs", "Doc"}
    for seen in (victim.ids["Doc"], *asked[:3], "0.0", "-1", "." * 50, "é".encode().hex(), "%0a"):
        stream = open_stream(attacker.client, page, headers={"last-event-id": seen})
        assert stream.live
        assert attacker.words in stream.text
        assert victim.words not in stream.text


def test_anothers_tokens_open_no_stream(victim, attacker):
    for page in victim.pages.values():
        assert victim.words in open_stream(victim.client, page).text
        stream = open_stream(attacker.client, page)
        assert stream.refused
        assert victim.words not in stream.text


# -- ids that travel beside the state ----------------------------------------------------------------------------------


def test_an_event_that_names_anothers_stream_is_not_answered_there(victim, attacker):
    page = victim.pages["Own"]
    payload = {"w": page.tokens, "n": ""}
    with victim.client.stream("POST", f"{page.url}stream", json=payload, headers=BROWSER) as stream:
        received, chunks = "", stream.iter_text()
        while "\nid: " not in received:
            received += next(chunks)
        connection = patched_signals(received)["_fs"]["c"]
        assert connection
        answer = attacker.pages["Own"].send("Own", "write", connection=connection, text=INJURED)
        assert status(answer) == 200
        assert INJURED in json.dumps(patched_signals(answer.text))  # its own page has no stream, and is answered here
        assert 'id="written"' in answer.text
        # What comes behind it says that nothing came before.
        assert status(page.send("Own", "write", connection=connection, text="the last word")) == 204
        while "the last word" not in received:
            received += next(chunks)
    assert INJURED not in received


def test_anothers_nonce_does_not_make_an_event_a_repetition(victim, attacker):
    nonce = secrets.token_hex(12)
    before = everything(victim.client)["global:Board"]["text"]
    first = attacker.pages["Own"].send("Board", "write", nonce=nonce, text=f"first {nonce}")
    second = victim.pages["Own"].send("Board", "write", nonce=nonce, text=f"second {nonce}")
    assert status(first) == status(second) == 200
    assert everything(victim.client)["global:Board"]["text"] == f"second {nonce}" != before
    again = victim.pages["Own"].send("Board", "write", nonce=nonce, text="a third")
    assert status(again) == 200
    assert everything(victim.client)["global:Board"]["text"] == f"second {nonce}"


# -- ids of odd form ---------------------------------------------------------------------------------------------------

ODD = {
    "empty": "",
    "blank": " ",
    "NUL": "\0",
    "long": "x" * 10_000,
    "colon": "left:component:left",
    "encoded colon": "left%3Acomponent%3Aleft",
    "prototype": "__proto__",
    "constructor": "constructor.prototype",
    "none": "None",
    "null": "null",
    "undefined": "undefined",
    "wildcard": "*",
    "percent": "%",
    "path": "../../etc/passwd",
    "umlaut": "é",
    "emoji": "\U0001f4a5",
    "right to left": "\u202egnp",
    "line ends": "a\r\n\r\ndata: x\u2028",
    "number": "1e3",
    "quote": "'\"`${x}",
    "markup": "</script><b>",
    "dunder": "__class__",
    "braces": "{0.__class__}",
}


@pytest.mark.parametrize("cls", WITH_IDS)
def test_an_odd_id_that_no_page_shows_is_refused_and_makes_nothing(attacker, cls):
    page, own = attacker.pages[cls], attacker.ids[cls]
    before = everything(attacker.client)
    for kind, odd in ODD.items():
        for foreign in {odd, odd + own, own + odd} - {own}:
            for answer in in_both_places(attacker.client, page, cls, foreign):
                assert (answer.status_code, answer.text) == (403, ""), kind
    assert everything(attacker.client) == before


def test_an_id_that_is_no_text_is_refused(attacker):
    page, before = attacker.pages["Doc"], everything(attacker.client)
    for odd in (1, 0, -1, 1.5, True, False, [], {}, ["x"], {"x": 1}, [[]]):
        answer = post_event(attacker.client, page, "Doc/write", {"w": page.tokens, "i": odd, "a": {"text": INJURED}})
        assert status(answer) == 400, odd
    assert everything(attacker.client) == before


def test_half_a_character_as_an_id_is_refused(attacker):
    page, before = attacker.pages["Doc"], everything(attacker.client)
    for raw in ('"\\ud800"', '"\\udfff\\ud800"', '"doc-\\ud83d"', '"\\u0000"', '"\\'):
        body = f'{{"w":{json.dumps(page.tokens)},"a":{{"text":"x"}},"i":{raw}}}'
        answer = post_event(attacker.client, page, "Doc/write", body)
        assert status(answer) in (400, 403), raw
        assert delivers_nothing(answer.text)
    for encoded in ("%ED%A0%80", "%FF", "%C0%AF", "%00", "%F4%90%80%80"):
        answer = post_event(attacker.client, page, f"Doc/write?_id={encoded}", {"w": page.tokens, "a": {"text": "x"}})
        assert (answer.status_code, answer.text) == (403, ""), encoded
    assert everything(attacker.client) == before


ALIKE = [
    "a", "A", "a ", " a", "a\0", "a/", "a//", "a:b", "a%3Ab", "a%253Ab", "a_3a_b", "a.b", "a-b", "a_b", "ab", "1", "01",
    "+1", "1.0", "\uff11", unicodedata.normalize("NFC", "e\u0301"), "e\u0301", "None", "null", "__proto__",
    "component", "x:component:y", "\U0001f4a5", "\u2028", "*", "%", "%25", "%C3%A9", "%20a", "..%2f", "'\"<>&",
]  # fmt: skip


@pytest.mark.parametrize("place", ["panel", "doc"])
def test_ids_that_look_alike_are_different_states(visit, place):
    """No two ids lead to one key, and no id to a key of another kind."""
    client, cls, mark = visit(), place.capitalize(), secrets.token_hex(4)
    pages = {}
    for odd in ALIKE:
        own = odd if place == "panel" else mark + odd  # documents are everybody's, and stay
        page = pages[own] = Page(client, f"/{place}/{quote(own, safe='')}")
        assert shown(page) == [(cls, own)]
        assert "blank" in page.html
        assert "__proto__" not in page.signals.get(cls, {})
        assert status(page.send(cls, "write", instance_id=own, text=f"{mark} {own!r}")) == 200
    for own, page in pages.items():
        stream = open_stream(client, page)
        assert next(iter(stream.signals[cls].values()))["text"] == f"{mark} {own!r}"
    whole = everything(client)
    assert sum(mark in state["text"] for state in whole.values()) == len(ALIKE)


@pytest.mark.parametrize("place", ["panel", "doc"])
@pytest.mark.parametrize("odd", ["", "x" * 513, "x" * 10_000])
def test_a_page_with_an_id_that_cannot_be_is_a_plain_refusal(attacker, place, odd):
    before = everything(attacker.client)
    page = Page(attacker.client, f"/{place}/{odd}")
    assert page.response.status_code in (400, 404)
    assert page.tokens == []
    assert everything(attacker.client) == before


def test_an_id_that_is_another_key_reaches_only_a_state_of_its_own(victim, attacker):
    """Panels take any id: one that reads like the end of another's key is still the attacker's own."""
    before = belongings(everything(victim.client), victim)
    for own in {odd for key in before for odd in (key, key.split(":", 2)[-1], f"x:{key}", f"../{victim.session_id}")}:
        page = Page(attacker.client, f"/panel/{quote(own, safe='')}")
        assert_nothing_got_out(victim, page.response)
        assert "blank" in page.html
        assert status(page.send("Panel", "write", instance_id=own, text=INJURED)) == 200
    after = everything(victim.client)
    assert {key: after[key] for key in before} == before
