"""Threat: fields set by naming them in a query, a form, a body, a header, a cookie, a signal or an argument."""

import json
from urllib.parse import urlencode

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.client import Page, status
from tests.threats.conftest import open_stream, post_event

APP = "mass_assignment.py"

FIELDS = {
    "name": "Mallory",
    "age": 99,
    "salary": 9999,
    "user_id": "root",
    "is_admin": True,
    "credits": 1_000_000,
    "secret": "known",
    "tags": ["a", "b"],
    "labels": {"a": "b"},
    "address": {"city": "Paris", "verified": True},
    "_note": "changed",
    "level": 9,
}
DUNDERS = {
    "__class__": "Account",
    "__dict__": {"is_admin": True},
    "__init__": {"is_admin": True},
    "__setattr__": ["is_admin", True],
    "__proto__": {"is_admin": True},
    "constructor": {"prototype": {"is_admin": True}},
    "__pydantic_fields_set__": ["is_admin"],
    "__pydantic_private__": {"_note": "changed"},
    "__pydantic_extra__": {"is_admin": True},
    "model_fields": {},
    "model_config": {"extra": "allow"},
    "_fs": {"version": 99},
    "_committed": None,
    "_instance_id": "x",
    "_name": "Account",
    "self": {"is_admin": True},
    "cls": "Account",
    "state": {"is_admin": True},
    "version": 99,
    "faststate_connection": {"session": {"is_admin": True}},
    "request": {"session": {"user_id": "root"}},
    "session": {"user_id": "root", "session_id": "x"},
    "auth": "root",
    "scope": "global",
}
NESTED = {
    "profile": FIELDS,
    "settings": FIELDS,
    "Profile": FIELDS,
    "Settings": FIELDS,
    "profile.is_admin": True,
    "profile[is_admin]": True,
    "profile__is_admin": True,
    "Profile.is_admin": True,
    "address.verified": True,
    "address[verified]": True,
    "address__verified": True,
    "is-admin": True,
    "isAdmin": True,
    "IS_ADMIN": True,
    "is_admin[]": True,
    "datastar": {"Profile": FIELDS, "Settings": FIELDS, **FIELDS},
    "d": {"is_admin": True},
    "title": "a title",
}
EVERYTHING = {**FIELDS, **DUNDERS, **NESTED}


def flat(given):
    """As a form or a query has it: text alone."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def truth(client):
    return client.get("/truth").json()


@pytest.fixture(scope="module")
def untouched(server):
    """Return the content of a session's states that nobody has changed."""
    with httpx.Client(base_url=server.url, verify=False, trust_env=False) as client:
        fresh = truth(client)
    kept = fresh["profile"]
    assert (kept["salary"], kept["is_admin"], kept["level"], kept["secret"]) == (1000, False, 1, "hush")
    assert fresh["profile"] == fresh["settings"]
    return fresh


@pytest.fixture
def person(visit):
    """A browser, its page, and the truth as another tab of its session and another browser see it."""
    client = visit()
    page = Page(client, "/")

    def look():
        tab, other = visit(cookies=client.cookies), visit()
        seen, seen_elsewhere = truth(tab), truth(other)
        assert seen["settings"] == seen_elsewhere["settings"]
        return seen

    client.page, client.look = page, look
    return client


def send(client, event, body=None, query="", state="Profile"):
    return post_event(client, client.page, f"{state}/{event}{query}", {"w": client.page.tokens, **(body or {})})


# -- pages and ordinary routes -----------------------------------------------------------------------------------------


def requests(path):
    """All that a client can put beside the path of a request."""
    text = flat(EVERYTHING)
    boundary = {name: (None, value) for name, value in text.items()}
    headers = {f"{prefix}{name}": value for name, value in text.items() if name.isascii() for prefix in ("", "x-")}
    headers = {n.replace("_", "-"): v for n, v in headers.items() if n.replace("_", "").replace("-", "").isalnum()}
    yield "GET", {"params": text}
    yield "GET", {"params": urlencode({"is_admin": "true", "user_id": "root"})}
    yield "GET", {"params": [("is_admin", "false"), ("is_admin", "true"), ("profile", "x"), ("profile", "y")]}
    yield "GET", {"headers": headers}
    yield "GET", {"cookies": {name: value for name, value in flat(FIELDS).items() if name != "labels"}}
    yield "POST", {"data": text}
    yield "POST", {"files": boundary}
    yield "POST", {"json": EVERYTHING}
    yield "POST", {"json": {"profile": EVERYTHING, "settings": EVERYTHING, "data": EVERYTHING, "args": [EVERYTHING]}}
    yield "POST", {"json": [EVERYTHING]}
    yield "POST", {"json": EVERYTHING, "params": text}
    yield "PUT", {"json": EVERYTHING}


PATHS = ("/", "/seed", "/early", "/save", "/asked", "/item/admin/true", "/truth")


@pytest.mark.parametrize("path", PATHS)
def test_no_request_to_a_route_that_injects_a_state_sets_its_fields(person, untouched, path):
    served = 0
    for method, options in requests(path):
        cookies = options.pop("cookies", {})
        options.setdefault("headers", {})
        if cookies:
            options["headers"]["cookie"] = "; ".join(
                [f"session_={person.cookies['session_']}", *(f"{n}={v}" for n, v in cookies.items())]
            )
        answer = person.request(method, path, **options)
        assert answer.status_code in (200, 400, 404, 405), (method, options)
        assert "Traceback" not in answer.text
        served += answer.status_code == 200
        assert person.look() == untouched, (method, options)
    assert served >= 4


@pytest.mark.parametrize("path", PATHS)
def test_no_request_chooses_the_first_values_of_a_state_that_it_creates(visit, untouched, path):
    """The request that begins a session makes its states: from their defaults, and from nothing in the request."""
    for method, options in requests(path):
        client = visit(cookies=options.pop("cookies", {}))
        answer = client.request(method, path, **options)
        if answer.status_code == 200:
            assert "session_" in answer.cookies
        assert truth(client) == untouched, (method, options)


def test_no_page_shows_what_its_query_claims(person):
    answer = person.get("/", params=flat(FIELDS))
    page = Page(person, response=answer)
    assert page.signals["Profile"]["name"] == "Ann"
    assert page.signals["Profile"]["is_admin"] is False
    assert "Mallory" not in page.html.partition("<body")[2]


def test_what_a_websocket_says_sets_no_field(person, server, untouched):
    headers = {"Cookie": f"session_={person.cookies['session_']}"}
    url = server.url.replace("http", "ws") + "/ws?is_admin=true&credits=5"
    with connect(url, additional_headers=headers, proxy=None) as socket:
        for said in (EVERYTHING, {"profile": EVERYTHING}, {**flat(FIELDS), "title": "x"}, {"is_admin": True}):
            socket.send(json.dumps(said))
            assert socket.recv(timeout=5) == "False Ann 0"
    assert person.look() == untouched


# -- events ------------------------------------------------------------------------------------------------------------


def test_an_event_sets_what_it_sets_and_no_more(person, untouched):
    assert status(send(person, "rename", {"a": {"first": "Bea"}})) == 200
    assert person.look()["profile"] == {**untouched["profile"], "name": "Bea"}


@pytest.mark.parametrize(("event", "own"), [("rename", {"first": "Bea"}), ("nothing", {})])
def test_an_argument_that_the_event_has_not_is_refused_however_it_comes(person, untouched, event, own):
    for name, value in EVERYTHING.items():
        text = flat(EVERYTHING)[name]
        for body, query in (
            ({"a": {**own, name: value}}, ""),
            ({"a": own, "f": [[name, text]]}, ""),
            ({"f": [*map(list, own.items()), [name, text]]}, ""),
            ({"a": own}, "?" + urlencode({name: text})),
            ({"a": own, name: value}, ""),
        ):
            answer = send(person, event, body, query)
            assert status(answer) == 400, (body, query)
            assert "Traceback" not in answer.text
    assert person.look() == untouched


def test_a_signal_is_at_most_an_argument(person, untouched):
    """A page sends what signals it has; those that the event does not ask for are nothing to it."""
    for name, value in EVERYTHING.items():
        for signals in ({name: value}, {"Profile": {name: value}, "profile": {name: 1}}):
            assert status(send(person, "nothing", {"s": signals})) == 204, name
            if name not in FIELDS:
                assert status(send(person, "ask", {"s": signals})) == 204, name
    assert person.look() == untouched


def test_arguments_with_the_names_of_fields_are_arguments(person, untouched):
    claimed = {"is_admin": True, "credits": 1000, "secret": "known"}
    for body in ({"a": claimed}, {"s": claimed}, {"f": [list(pair) for pair in flat(claimed).items()]}):
        assert status(send(person, "ask", body)) in (200, 204)
    assert status(send(person, "ask", {}, "?is_admin=true&credits=5")) == 204
    assert person.look() == untouched


def test_a_model_as_an_argument_brings_no_more_than_the_event_takes_from_it(person, untouched):
    to = {"city": "Paris", "verified": True, "is_admin": True, "__class__": "x"}
    assert status(send(person, "move", {"a": {"to": to}})) in (200, 204)
    assert person.look()["profile"] == {**untouched["profile"], "address": {"city": "Paris", "verified": False}}


def test_a_dict_as_an_argument_stays_a_dict(person, untouched):
    labels = {"__class__": "x", "is_admin": "true", "__proto__": "y", "constructor": "z"}
    assert status(send(person, "label", {"a": {"labels": labels}})) in (200, 204)
    assert person.look()["profile"] == {**untouched["profile"], "labels": labels}
    for wrong in ({"a": {"b": "c"}}, {"a": 1}, ["a"], "a", None):
        assert status(send(person, "label", {"a": {"labels": wrong}})) == 400
    assert person.look()["profile"] == {**untouched["profile"], "labels": labels}


@pytest.mark.parametrize(
    "account", [{"limit": 9**9}, {"paid": -5, "limit": 9**9}, "root", 1, None, [], {"user_id": "root"}]
)
def test_a_state_that_an_event_takes_along_is_the_servers_and_not_what_is_sent(person, untouched, account):
    for body, query in (
        ({"a": {"amount": 1, "account": account}}, ""),
        ({"a": {"amount": 1}, "f": [["account", json.dumps(account)]]}, ""),
        ({"a": {"amount": 1}}, "?" + urlencode({"account": json.dumps(account)})),
    ):
        assert status(send(person, "pay", body, query)) == 400
    assert person.look() == untouched
    assert status(send(person, "pay", {"a": {"amount": 1}, "s": {"account": account}})) == 204
    assert person.look() == {**untouched, "account": {"paid": 1, "limit": 100}}


# -- bound fields ------------------------------------------------------------------------------------------------------

BOUND = ("name", "age", "salary")


def test_a_bound_field_is_set_with_the_next_event(person, untouched):
    assert status(send(person, "nothing", {"b": {"name": "Bea", "age": 31}})) in (200, 204)
    assert person.look()["profile"] == {**untouched["profile"], "name": "Bea", "age": 31}


@pytest.mark.parametrize("state", ["Profile", "Settings"])
def test_a_field_that_is_not_bound_cannot_be_set_by_a_binding(person, untouched, state):
    for name in EVERYTHING.keys() - set(BOUND):
        for bound in ({name: EVERYTHING[name]}, {"name": "Bea", name: EVERYTHING[name]}, {name: None}, {name: ""}):
            answer = send(person, "nothing", {"b": bound}, state=state)
            assert status(answer) == 400, bound
            assert "hush" not in answer.text
    assert person.look() == untouched


def test_a_bound_field_that_its_viewer_may_not_see_is_not_theirs_to_set(person, untouched):
    assert "salary" not in json.dumps(person.page.signals) or person.page.signals["Profile"]["salary"] == ""
    assert status(send(person, "nothing", {"b": {"name": "Bea", "salary": 9999}})) in (200, 204)
    assert person.look()["profile"] == {**untouched["profile"], "name": "Bea"}


@pytest.mark.parametrize(
    "bound",
    [
        {"age": "old"}, {"age": {"is_admin": True}}, {"age": None}, {"age": [1]}, {"age": 1e400}, {"name": None},
        {"name": {"is_admin": True}}, {"name": ["Bea"]}, {"name": 5}, {"name": "Bea", "age": "old"},
    ],
    ids=str,
)  # fmt: skip
def test_a_bound_value_of_a_wrong_type_changes_nothing(person, untouched, bound):
    assert status(send(person, "nothing", {"b": bound})) == 400
    assert person.look() == untouched


@pytest.mark.parametrize("bound", [[], ["name", "Bea"], [["name", "Bea"]], "name=Bea", 1, True])
def test_bindings_that_are_no_object_are_refused(person, untouched, bound):
    assert status(send(person, "nothing", {"b": bound})) == 400
    assert person.look() == untouched


def test_a_binding_does_not_outlive_the_refusal_of_its_event(person, untouched):
    for event, meant in (("reserved", 401), ("fail", 409), ("rename", 400), ("promote", 404), ("model_copy", 404)):
        assert status(send(person, event, {"b": {"name": "Bea", "age": 31}})) == meant
    assert status(send(person, "nothing", {"b": {"name": "Bea"}, "i": "x"})) == 400
    assert status(send(person, "nothing", {"b": {"name": "Bea"}, "w": ["forged"]})) == 403
    assert person.look() == untouched


# -- the stream --------------------------------------------------------------------------------------------------------


def test_the_signals_that_come_with_a_stream_are_not_taken_over(person, untouched):
    payload = {"w": person.page.tokens, "n": "", **EVERYTHING, "b": FIELDS, "s": FIELDS, "a": FIELDS, "d": {}}
    stream = open_stream(person, person.page, payload=payload)
    assert stream.live
    assert stream.signals["Profile"]["name"] == "Ann"
    assert stream.signals["Profile"]["is_admin"] is False
    for hidden in ("hush", "secret", "private", "_note"):
        assert hidden not in stream.text
    assert person.look() == untouched
