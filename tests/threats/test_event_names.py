"""Threat: URLs that name as an event, or as a state, what is none: methods, fields, all that Python objects have."""

import json
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest

from tests.support.client import BROWSER, Page, cookies_of, message, status
from tests.threats.conftest import delivers_nothing

APP = "event_names.py"

EVENTS = {"inherited", "pay", "pay_async"}
WORDS = """
    __init__ __new__ __class__ __call__ __dict__ __del__ __delattr__ __setattr__ __getattr__ __getattribute__
    __reduce__ __reduce_ex__ __setstate__ __getstate__ __subclasses__ __init_subclass__ __mro__ __bases__ __globals__
    __import__ __builtins__ __eq__ __hash__ __repr__ __iter__ __copy__ __deepcopy__ __ft__ __html__ __from_request__
    __response__ __pydantic_validator__ __pydantic_serializer__ __pydantic_private__ __pydantic_extra__
    __get_pydantic_core_schema__ _private _hidden __mangled _Gadget__mangled plain plain_async build tool on_add prop
    prop.setter limit check check_whole table double count title secret item items Inner Inner.pay item.discount note
    RAN provider os eval exec model_dump model_dump_json model_validate model_validate_json model_construct model_copy
    model_fields model_config model_post_init model_rebuild model_json_schema model_fields_set copy json dict
    construct parse_obj parse_raw parse_file from_orm schema schema_json update_forward_refs validate _fs _fs_schema
    _run _encode _commit _committed _is_committed _seen_by _full_class _name _has_ids _prefix _namespace _instance_id
    _registered_name _bound_fields signal watch run registry pay.run pay.function pay.__call__ pay.__func__ pay.event
    pay.rule pay.arguments pay.on pay.to function event self cls super None null undefined true false 0 -1 * ?
    constructor prototype __proto__ toString hasOwnProperty others_own became_method became_property became_constant
    became_mixed_in
"""
TEMPTING = WORDS.split()
INTERNALS = (
    "Traceback", "File \"", ".py", "pydantic", "faststate.", "BaseModel", "ReactiveState", "object at 0x", "<class",
    "<function", "<bound", "<event", "AttributeError", "KeyError", "TypeError", "ValidationError", "site-packages",
    "hush", "pay_async", "inherited", "others_own",
)  # fmt: skip


class Prober:
    """A browser with a page, and what the server has run and holds."""

    def __init__(self, client):
        self.client = client
        self.page = Page(client, "/")
        client.get("/listen")
        self.before = self.truth()

    def truth(self):
        return self.client.get("/truth").json()

    def send(self, state, event, body=None):
        return self.post(f"/_faststate/event/{quote(state, safe='')}/{quote(event, safe='')}", body)

    def post(self, path, body=None):
        """A post to this very path: httpx, as browsers do, would tidy it up first."""
        at = urlsplit(str(self.client.base_url))
        connection = HTTPConnection(at.hostname, at.port, timeout=10)
        headers = {**BROWSER, "content-type": "application/json", "cookie": cookies_of(self.client)}
        try:
            connection.request("POST", path, json.dumps({"w": self.page.tokens, **(body or {})}), headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return SimpleNamespace(status_code=answer.status, text=answer.read().decode(), headers=found)
        finally:
            connection.close()

    def assert_nothing_ran(self):
        assert self.truth() == self.before


@pytest.fixture
def prober(visit):
    return Prober(visit())


def assert_says_nothing(answer, *said):
    """No word of what the server is made of, but for those that the request has said itself."""
    assert answer.status_code < 500
    assert status(answer) < 500
    if "faststate-status" in answer.headers:
        assert delivers_nothing(answer.text)
    text = answer.text
    for word in sorted(filter(None, said), key=len, reverse=True):
        text = text.replace(word, "")
    assert [internal for internal in INTERNALS if internal in text] == []


def test_the_events_of_the_class_and_those_that_it_inherits_are_run(prober):
    """What the tests below see refused is refused for its name."""
    for name in sorted(EVENTS):
        assert status(prober.send("Gadget", name)) == 200
    assert status(prober.send("Shop", "inherited")) == 200
    assert status(prober.send("Other", "others_own")) == 200
    after = prober.truth()
    assert after["Gadget"]["count"] == 3
    assert after["Renamed"]["count"] == after["Other"]["count"] - prober.before["Other"]["count"] == 1
    assert after["ran"] == []


BODIES = [
    {},
    {"a": {"amount": 5}},
    {"a": {"value": 5, "obj": {"count": 5}, "update": {"count": 5}}},
    {"f": [["count", "5"]]},
]


@pytest.mark.parametrize("body", BODIES, ids=json.dumps)
def test_no_name_that_the_class_has_is_an_event_unless_it_is_declared_one(prober, body):
    names = prober.client.get("/names").json()
    assert {"__init__", "model_dump", "copy", "_private", "plain", "count", "table", "double", "run"} <= {*names}
    for name in {*names} - EVENTS:
        answer = prober.send("Gadget", name, body)
        assert (answer.status_code, status(answer)) == (200, 404), name
        assert_says_nothing(answer, name)
    prober.assert_nothing_ran()


@pytest.mark.parametrize("state", ["Gadget", "Shop", "Other"])
def test_tempting_names_are_no_events(prober, state):
    own = {"Gadget": EVENTS, "Shop": {"inherited"}, "Other": {"others_own"}}[state]
    # The base class of Shop has as events what Gadget has made something else.
    own |= {name for name in TEMPTING if name.startswith("became_")} if state == "Shop" else set()
    for name in {*TEMPTING} - own:
        for body in BODIES[:3]:
            answer = prober.send(state, name, body)
            assert (answer.status_code, status(answer)) == (200, 404), name
            assert_says_nothing(answer, name)
            assert message(answer) == f"{state} has no event {name!r}"
    prober.assert_nothing_ran()


def test_an_event_that_a_subclass_has_made_something_else_is_none(prober):
    for name in ("became_method", "became_property", "became_constant", "became_mixed_in"):
        assert status(prober.send("Gadget", name)) == 404
    assert status(prober.send("Shadowed", "became_method")) == 404, "a field"
    prober.assert_nothing_ran()


VARIANTS = [
    "PAY", "Pay", "pay ", " pay", "pay\n", "pay\t", "pay\0", "\0pay", "pay\u200b", "\ufeffpay", "p\u0430y", "\uff50ay",
    "pay;x", "pay,plain", "pay:plain", "pay#x", "pay?x=1", "pay()", "pay&plain", "pay|plain", "pay=1", "pay%00",
    "pay%2e", ".pay", "pay.", "..", ".", "...", "../pay", "pay/..", "pay\\..", "~pay", "@pay", "$pay", "-pay", "+pay",
    "pay~", "{pay}", "<script>alert(1)</script>", "pay'--", "{{7*7}}", "%s%n", "${x}", "\r\nset-cookie: a=b",
    "\n\ndata: x", "\u2028", "\U0001f4a5", "x" * 5000, "pay" * 1000,
]  # fmt: skip


def test_a_name_that_is_nearly_that_of_an_event_is_none(prober):
    """Names are compared as they are: Python itself would read some of these as the same identifier."""
    for name in VARIANTS:
        answer = prober.send("Gadget", name)
        assert status(answer) in (404, 405), name
        assert_says_nothing(answer, name)
        assert "set-cookie" not in answer.headers
        assert len(answer.text) < 1000
    prober.assert_nothing_ran()


PATHS = [
    "Gadget/..%2fpay", "Gadget/%2e%2e/pay", "Gadget/../pay", "Gadget/./plain", "Gadget//pay", "//Gadget/pay",
    "Gadget/", "Gadget", "", "Gadget/pay/plain", "Gadget/plain/pay", "Gadget%2f%2e%2e%2fplain", "Gadget/pay%2fplain",
    "Gadget/pay%5cx", "Gadget/%252e%252e%252fpay", "Gadget/%00", "Gadget/pay%00", "Gadget/%ff", "Gadget/%c0%af",
    "Gadget/%ed%a0%80", "Gadget/%0d%0aset-cookie:%20a=b", "Gadget/%", "Gadget/%zz", "Gadget/pay%", "Gadget.pay",
    "Gadget:pay", "Gadget\\pay", "Gadget/pay;x=1", "../event/Gadget/plain", "..%2f..%2ftruth",
    "%2e%2e/%2e%2e/etc/passwd", "Gadget/pay.css", "Gadget/plain.html", "Gadget/__init__.py", "*/*", "*/pay",
    "Gadget/*",
]  # fmt: skip


def test_encoded_slashes_and_dots_lead_nowhere(prober):
    for path in PATHS:
        answer = prober.post(f"/_faststate/event/{path}")
        # A redirect is the router's, from a slash too many; nothing has run, and a browser would ask again.
        assert status(answer) in (307, 400, 404, 405), path
        assert_says_nothing(answer, *path.split("/"))
        assert "set-cookie" not in answer.headers
    prober.assert_nothing_ran()


CLASSES = """
    ReactiveState BaseModel object type str Unregistered Renamed Mixin Item Inner Gadget.Inner Gadget.Gadget gadget
    GADGET event_names.Gadget faststate.state.ReactiveState __main__ __builtins__ builtins os sys StateProvider
    provider registry StateConfig UserContext Event app _fs __class__ __init__ __proto__ constructor None null *
    global:Gadget session:Gadget:x global:Other Gadget:x Gadget%3Ax G\u0430dget \uff27adget Gadget\0 .. . ../Gadget
    {0.__class__}
"""
STATES = [*CLASSES.split(), "Gadget ", " Gadget", "Gadget\n", "x" * 5000]


def test_a_class_that_is_not_registered_is_no_state(prober):
    for state in STATES:
        for name in ("pay", "inherited", "others_own", "__init__", "model_dump"):
            answer = prober.send(state, name)
            assert status(answer) in (404, 405), (state, name)
            assert_says_nothing(answer, state, name)
            assert len(answer.text) < 1000
    prober.assert_nothing_ran()


def test_a_refusal_does_not_tell_which_names_the_class_has(prober):
    """The words are the same for a method, a field, a hidden one, and for nothing at all."""
    answers = {
        answer.text.replace(name, "…")
        for name in ("plain", "secret", "_private", "__init__", "model_dump", "nothing_at_all")
        for answer in [prober.send("Gadget", name)]
    }
    assert len(answers) == 1
    prober.assert_nothing_ran()


def test_a_name_is_refused_before_anything_that_comes_with_it_is_looked_at(prober):
    for body in (
        {"b": {"title": "changed"}},
        {"a": {"self": 1}, "f": [["x", "y"]], "s": {"count": 5}},
        {"i": "x"},
        {"w": ["forged"]},
        {"a": {"amount": "x" * 1000}},
    ):
        assert status(prober.send("Gadget", "plain", body)) == 404
    prober.assert_nothing_ran()
